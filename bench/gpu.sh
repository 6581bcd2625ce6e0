#!/bin/bash
# On a machine with an NVIDIA GPU: builds there, proves every kernel on the device, measures it beside the card's own limits
# and beside peers, and writes one report. Goes on after a failure; each stage has a time limit.
#
# usage: bench/gpu.sh [--out DIR] [--build DIR] [--pack DIR] [--resume FILE] [--stages A,B,...] [--limit S] [--nano-vllm DIR]
#        bench/gpu.sh --rehearse --build DIR [--out DIR]
#   --out DIR       for report.md, report.json, decode.svg, results.jsonl, log.txt, logs.tgz ($OUT, else build-gpu)
#   --build DIR     where to build                                                      (build-gpu/build)
#   --pack DIR      libraries that the machine may lack, made by tools/gpu-pack         (build-gpu/pack, if it is there)
#   --resume FILE   a results.jsonl: stages that ended well in it are not repeated
#   --stages LIST   only these (build and report always)
#   --limit S       seconds for everything                                              (570)
#   --nano-vllm DIR a checkout of nano-vllm with a flash_attn module beside it, measured too
#   --rehearse      everything at tiny sizes on the emulated module of an existing build; its times mean nothing
set -u -o pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
all_stages=(probe build conformance op_tests model_tests sanitizer limits ops engine_small engine_large variants serve peers)
declare -A stage_limit=([probe]=30 [build]=180 [conformance]=40 [op_tests]=100 [model_tests]=100 [sanitizer]=60 [limits]=45
    [ops]=60 [engine_small]=90 [engine_large]=160 [variants]=100 [serve]=75 [peers]=110)

say() { echo "== $(date +%T) $*"; }
# A record of the stage: KIND KEY=VALUE...; numbers stay numbers.
note() { "$PY" "$here/gpu/report.py" note "$@" >>"$RAW"; }
failed() { note failed what="$1" why="$(tail -1 "$2" 2>/dev/null | cut -c1-300)"; } # WHAT LOG
have() { command -v "$1" >/dev/null; }

# ---- stages; each runs in a shell of its own ----

stage_probe() {
    local smi=none query=name,driver_version,memory.total,clocks.sm,clocks.mem,clocks.max.sm,power.limit,compute_cap
    if [ "$REHEARSE" = 1 ]; then
        note machine card=emulated date="$(date -I)" cores="$(nproc)"
        return 0
    fi
    have nvidia-smi || { echo "no nvidia-smi: is there a GPU?"; return 1; }
    nvidia-smi
    smi=$(nvidia-smi --query-gpu=$query --format=csv,noheader | head -1)
    IFS=, read -r name driver memory sm mem max_sm power cc <<<"$smi"
    note machine card="$name" driver="$driver" memory="$memory" sm_clock="$sm" memory_clock="$mem" max_sm_clock="$max_sm" \
        power_limit="$power" capability="$cc" date="$(date -I)" cores="$(nproc)" kernel="$(uname -r)" \
        nvcc="$(nvcc --version 2>&1 | grep -o 'release [0-9.]*')" gcc="$(gcc -dumpfullversion 2>&1)" \
        torch="$("$PY" -c 'import torch; print(torch.__version__)' 2>&1 | tail -1)" \
        transformers="$("$PY" -c 'import transformers; print(transformers.__version__)' 2>&1 | tail -1)"
}

# The card's own architecture; those with instructions of their own have a letter.
arch() {
    local cc
    cc=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -d ' .')
    case $cc in 90 | 100) echo "${cc}a" ;; *) echo "$cc" ;; esac
}

# Libraries of the pack, if the machine lacks one; found by the programs through their own run path, so that nothing else
# (Python, the driver's tools) meets them.
use_pack() {
    [ -d "$PACK" ] || return 0
    [ -x "$(command -v pkg-config)" ] || { [ -x "$PACK/bin/pkg-config" ] && export PKG_CONFIG="$PACK/bin/pkg-config"; }
    "${PKG_CONFIG:-pkg-config}" --exists libmicrohttpd libcjson libpcre2-8 libutf8proc check && return 0
    export PKG_CONFIG_PATH="$PACK/lib/pkgconfig"
    link_args=("-Dc_link_args=['-Wl,--disable-new-dtags,-rpath,$PACK/lib']") # LDFLAGS would reach nvcc too, which knows no -Wl
    echo "using the libraries in $PACK"
}
meson_() {
    if have meson; then meson "$@"; else "$PY" "$PACK/meson/meson.py" "$@"; fi
}

stage_build() {
    local targets bad=0 f cc link_args=()
    if [ "$REHEARSE" = 1 ]; then
        for f in inferd bench/gpu_ops tests/cuda/inferd_cuda.so tests/cuda/test_cuda_step tests/golden/test_golden \
            tests/equiv/test_equiv tests/cuemu/conformance/conformance_emulated tests/cuemu/conformance/limits_emulated; do
            [ -e "$BUILD/$f" ] || { echo "$BUILD/$f is not there"; return 1; }
        done
        return 0
    fi
    use_pack
    [ -f "$BUILD/build.ninja" ] || meson_ setup "$BUILD" "$root" -Dbuildtype=release -Dcuda=enabled -Dcuemu=disabled -Dmpi=disabled \
        -Dtests=enabled -Dwerror=false -Dgpuarch="$(arch)" -Dcudatoolkit="$(dirname "$(dirname "$(command -v nvcc)")")" "${link_args[@]}" || return 1
    targets=$(ninja -C "$BUILD" -t targets all | sed -n 's/^\(tests\/cuda\/test_cuda_[a-z_]*\):.*/\1/p')
    cc=$(arch)
    for f in conformance limits; do
        nvcc -std=c++17 -O2 -gencode=arch=compute_"$cc",code=sm_"$cc" -I"$root/kernels/cuda" "$CONFORMANCE/$f.cu" -o "$BUILD/gpu_$f" &
    done
    ninja -C "$BUILD" inferd inferd_cuda.so bench/gpu_ops || bad=1
    # Apart: a test that does not compile must not cost the measurements.
    # shellcheck disable=SC2086
    ninja -C "$BUILD" -k 0 tests/golden/test_golden tests/equiv/test_equiv $targets || bad=1
    wait
    [ -x "$BUILD/gpu_conformance" ] && [ -x "$BUILD/gpu_limits" ] && return $bad
}

stage_conformance() { "$CONFORMANCE_BIN" check "$CONFORMANCE/twins.txt" | tee -a "$RAW"; return "${PIPESTATUS[0]}"; }

# A test program (Check) with its time limit: in one process, where a context is made once; if that dies, or a bad kernel spoils
# its device, again with a process for each test, so that it hides no other. The .tap files grow test by test.
check_program() { # NAME LIMIT COMMAND...
    local name=$1 limit=$2 log="$WORK/$1.txt" rc start=$SECONDS
    shift 2
    CK_FORK=no CK_TAP_LOG_FILE_NAME="$WORK/$name.tap" timeout --foreground -k 5 "$limit" "$@" >"$log" 2>&1
    rc=$?
    if [ "$REHEARSE" = 0 ] && { [ $rc -ge 124 ] || { [ $rc -ne 0 ] && grep -q 'cuda: ' "$log"; }; }; then
        echo "-- $name in one process: exit $rc"
        grep -E ':[FE]:' "$log" | head -20
        tail -2 "$WORK/$name.tap"
        cp "$log" "$WORK/$name.together.txt"
        CK_FORK=yes CK_TAP_LOG_FILE_NAME="$WORK/$name.apart.tap" timeout --foreground -k 5 "$limit" "$@" >"$log" 2>&1
        rc=$?
    fi
    echo "-- $name: exit $rc"
    tail -25 "$log"
    "$PY" "$here/gpu/report.py" test "$name" $rc $((SECONDS - start)) "$log" >>"$RAW"
    return $rc
}
wait_all() { # of the background jobs; the number that failed
    local bad=0 p
    for p in $(jobs -p); do wait "$p" || bad=$((bad + 1)); done
    return $bad
}

stage_op_tests() {
    local exe n=0
    for exe in "$BUILD"/tests/cuda/test_cuda_*; do
        [ -f "$exe" ] && [ -x "$exe" ] || continue
        [ "$REHEARSE" = 1 ] && [ "$(basename "$exe")" != test_cuda_step ] && continue
        [ "$REHEARSE" = 1 ] && export CK_RUN_CASE=none
        check_program "$(basename "$exe")" 50 "$exe" &
        n=$((n + 1))
    done
    wait_all && [ $n -gt 0 ]
}

stage_model_tests() {
    export TEST_DEVICE=cuda
    [ "$REHEARSE" = 1 ] && export CK_RUN_CASE=none
    check_program golden 55 "$BUILD/tests/golden/test_golden" &
    check_program equivalence 55 "$BUILD/tests/equiv/test_equiv" &
    wait_all
}

sanitizer() {
    local dir
    for dir in "" /usr/local/cuda/bin/ /usr/local/cuda/compute-sanitizer/; do have "${dir}compute-sanitizer" && echo "${dir}compute-sanitizer" && return; done
    return 1
}
sanitize() { # TOOL NAME COMMAND...
    local tool=$1 name=$2 log="$WORK/$1-$2.txt" rc
    shift 2
    if [ "$REHEARSE" = 1 ]; then
        "$@" >"$log" 2>&1 && echo "========= ERROR SUMMARY: 0 errors (not checked: a rehearsal)" >>"$log"
    else
        CK_FORK=no timeout --foreground -k 5 50 "$SANITIZER" --tool "$tool" --print-limit 10 --error-exitcode 9 "$@" >"$log" 2>&1
    fi
    rc=$?
    echo "-- $tool $name: exit $rc"
    grep '^=========' "$log" | tail -30
    note sanitizer tool="$tool" name="$name" exit=$rc summary="$(grep -E '(ERROR|RACECHECK) SUMMARY|not supported' "$log" | tail -1 | sed 's/^=* *//')"
    return $rc
}
stage_sanitizer() {
    SANITIZER=$([ "$REHEARSE" = 1 ] || sanitizer) || [ "$REHEARSE" = 1 ] || { echo "no compute-sanitizer"; return 1; }
    for tool in memcheck racecheck; do
        sanitize $tool conformance "$CONFORMANCE_BIN" check "$CONFORMANCE/twins.txt" &
        sanitize $tool ops "$BUILD/bench/gpu_ops" --tiny &
        [ "$REHEARSE" = 1 ] || sanitize $tool test_cuda_step "$BUILD/tests/cuda/test_cuda_step" &
    done
    wait_all
}

stage_limits() {
    local bad=0
    "$LIMITS_BIN" "$LIMIT_MIB" | tee -a "$RAW" || bad=1
    peer torch_limits.py ${TINY:+"$TINY"} || bad=1
    return $bad
}

stage_ops() {
    "$BUILD/bench/gpu_ops" ${TINY:+"$TINY"} --limit 45 >>"$RAW"
}

# One configuration of the engine: MODEL BATCH INPUT OUTPUT VARIANT [OPTIONS...]; time of a decode step, and to the first token.
latency() {
    local model=$1 batch=$2 input=$3 output=$4 variant=$5 json="$WORK/latency.json" iters=3 warm=1
    shift 5
    [ "$batch" -gt 16 ] && iters=2 warm=0
    [ "$REHEARSE" = 1 ] && iters=1 warm=0
    rm -f "$json"
    echo "-- $model batch $batch input $input output $output $variant"
    timeout --foreground -k 5 75 "$BUILD/inferd" bench latency "$WORK/models/$model" --device cuda --load-format dummy --gpu-memory-utilization 0.9 \
        --max-num-batched-tokens "$TOKENS" --batch-size "$batch" --input-len "$input" --output-len "$output" \
        --num-iters $iters --num-iters-warmup $warm --output-json "$json" --log-level warn "$@" >"$WORK/latency.txt" 2>&1 ||
        { cat "$WORK/latency.txt" && failed "$model, batch $batch, input $input, $variant" "$WORK/latency.txt"; return 1; }
    grep Median "$WORK/latency.txt"
    "$PY" "$here/gpu/report.py" latency "$json" model="$model" batch="$batch" input="$input" output="$output" variant="$variant" options="$*" >>"$RAW"
}
engine() { # MODEL PREFILLS
    local bad=0 b n
    for b in $BATCHES; do latency "$1" "$b" $CONTEXT $ANSWER default || bad=1; done
    for n in $2; do latency "$1" 1 "$n" 1 default || bad=1; done
    return $bad
}
stage_engine_small() { engine "$SMALL" "$PREFILLS"; }
stage_engine_large() { engine "$LARGE" "$FEW_PREFILLS"; } # each start reads 16 GB

stage_variants() {
    local bad=0 m b=16
    [ "$REHEARSE" = 1 ] && b=2
    latency "$SMALL" $b $CONTEXT $ANSWER deterministic --deterministic || bad=1
    latency "$SMALL" $b $CONTEXT $ANSWER "steps not ahead" --no-async-scheduling || bad=1
    latency "$SMALL" $b $CONTEXT $ANSWER "attention plain" --attention-backend plain || bad=1
    latency "$SMALL" $b $CONTEXT $ANSWER "norm plain" --norm-backend plain || bad=1
    latency "$SMALL" 1 "$CHUNK" 1 deterministic --deterministic || bad=1
    latency "$SMALL" 1 "$CHUNK" 1 fp8 --quantization fp8 --kv-cache-dtype fp8 || bad=1
    for m in "$SMALL" "$LARGE"; do
        for b in $FEW; do latency "$m" "$b" $CONTEXT $ANSWER fp8 --quantization fp8 --kv-cache-dtype fp8 || bad=1; done
    done
    return $bad
}

free_port() { "$PY" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
await() { # PORT PID: until /health answers
    local tries=300
    while [ $((tries -= 1)) -gt 0 ]; do
        "$PY" -c "import urllib.request as u; u.urlopen('http://127.0.0.1:$1/health', timeout=2)" 2>/dev/null && return 0
        kill -0 "$2" 2>/dev/null || return 1
        sleep 0.2
    done
    return 1
}
load() { # PORT VARIANT RATE PROMPTS
    local json="load-$3.json"
    rm -f "$WORK/$json"
    timeout --foreground -k 5 30 "$BUILD/inferd" bench serve --port "$1" --num-prompts "$4" --request-rate "$3" --random-input-len $SERVE_IN \
        --random-output-len $SERVE_OUT --num-warmups 2 --seed 1 --disable-tqdm --metric-percentiles 50,99 --save-result --result-dir "$WORK" --result-filename "$json" >"$WORK/load.txt" 2>&1 ||
        { tail -5 "$WORK/load.txt"; failed "serve, $2, $3 requests/s" "$WORK/load.txt"; return 1; }
    "$PY" "$here/gpu/report.py" serve "$WORK/$json" model="$SMALL" variant="$2" rate="$3" >>"$RAW"
}
prompts() { # for a rate: what arrives in some five seconds
    case $REHEARSE$1 in 1*) echo 3 ;; 0inf) echo 400 ;; *) echo $(($1 * 5 + 16)) ;; esac
}
serve() { # VARIANT RATES [OPTIONS...]
    local variant=$1 rates=$2 port pid bad=0 rate
    shift 2
    port=$(free_port)
    "$BUILD/inferd" serve "$WORK/models/$SMALL" --device cuda --load-format dummy --gpu-memory-utilization 0.9 --port "$port" \
        --max-num-seqs 256 --max-queue 4096 --max-num-batched-tokens "$TOKENS" --max-model-len "$SERVE_MAX" --log-level warn "$@" &
    pid=$!
    if await "$port" $pid; then
        for rate in $rates; do load "$port" "$variant" "$rate" "$(prompts "$rate")" || bad=1; done
    else
        echo "the server did not come up"
        bad=1
    fi
    kill $pid
    wait $pid
    return $bad
}
stage_serve() {
    local bad=0
    serve default "$RATES" || bad=1
    serve "attention plain" "$SWAP_RATE" --attention-backend plain || bad=1
    serve "norm plain" "$SWAP_RATE" --norm-backend plain || bad=1
    return $bad
}

peer() { # SCRIPT [ARGS...]
    local script=$1 rc
    shift
    "$PY" -c 'import torch' 2>/dev/null || { note failed what="$script" why="no PyTorch here"; [ "$REHEARSE" = 1 ]; return; }
    timeout --foreground -k 5 40 "$PY" "$here/peers/$script" "$@" 2>"$WORK/peer.txt" | tee -a "$RAW"
    rc=$?
    tail -5 "$WORK/peer.txt"
    [ $rc = 0 ] || failed "$script, $(basename "$1")" "$WORK/peer.txt"
    return $rc
}
stage_peers() {
    local bad=0 m
    for m in "$SMALL" "$LARGE"; do
        peer torch_loop.py "$WORK/models/$m" --context $CONTEXT --batches "$BATCHES" --prefill "$CHUNK" || bad=1
    done
    for m in "$SMALL" "$LARGE"; do
        peer transformers_cb.py "$WORK/models/$m" --input $CONTEXT --output $ANSWER --batches "$FEW" || bad=1
        [ -z "$NANO" ] || peer nano_vllm.py "$NANO" "$WORK/models/$m" --input $CONTEXT --output $ANSWER --batches "$BATCHES" || bad=1
    done
    return $bad
}

# ---- the run ----

sizes() {
    if [ "$REHEARSE" = 1 ]; then
        SMALL=tiny LARGE=tiny BATCHES="1 3" FEW=2 PREFILLS=24 FEW_PREFILLS=24 CHUNK=24 CONTEXT=20 ANSWER=8 TOKENS=64
        RATES="20 inf" SWAP_RATE=20 SERVE_IN=12 SERVE_OUT=4 SERVE_MAX=64 TINY=--tiny LIMIT_MIB=1
        MODULES="$BUILD/tests/cuda" CONFORMANCE_BIN="$BUILD/tests/cuemu/conformance/conformance_emulated"
        LIMITS_BIN="$BUILD/tests/cuemu/conformance/limits_emulated"
    else
        SMALL=Qwen3-0.6B LARGE=Qwen3-8B BATCHES="1 16 64 256" FEW="1 64" PREFILLS="512 2048 4096 8192" FEW_PREFILLS="2048 8192" CHUNK=2048 CONTEXT=1024
        ANSWER=96 TOKENS=8192 RATES="4 16 64 inf" SWAP_RATE=16 SERVE_IN=1024 SERVE_OUT=128 SERVE_MAX=4096 TINY="" LIMIT_MIB=2048
        MODULES="$BUILD" CONFORMANCE_BIN="$BUILD/gpu_conformance" LIMITS_BIN="$BUILD/gpu_limits"
    fi
    CONFORMANCE="$root/tests/cuemu/conformance"
    export SMALL LARGE BATCHES FEW PREFILLS FEW_PREFILLS CHUNK CONTEXT ANSWER TOKENS RATES SWAP_RATE SERVE_IN SERVE_OUT SERVE_MAX TINY LIMIT_MIB CONFORMANCE CONFORMANCE_BIN LIMITS_BIN
    export INFERD_MODULES="$MODULES"
}

run_stage() { # NAME: with what is left of the time
    local name=$1 left=$((END - SECONDS)) limit=${stage_limit[$1]} status=ok start=$SECONDS rc
    [ $limit -gt $left ] && limit=$left
    export RAW="$WORK/raw.jsonl"
    : >"$RAW"
    if [ $limit -lt 5 ]; then
        status="no time" start=$SECONDS
    else
        say "$name (at most $limit s)"
        timeout -k 5 $limit bash "$0" --one "$name"
        rc=$?
        case $rc in 0) ;; 124 | 137) status="time limit" ;; *) status=failed ;; esac
        say "$name: $status, $((SECONDS - start)) s"
    fi
    "$PY" "$here/gpu/report.py" merge "$RESULTS" "$name" "$status" $((SECONDS - start)) "$RAW"
}

# Where CUDA's libraries came with Python's packages alone, the loader and nvcc do not know of them.
find_cuda_libraries() {
    local lib
    lib=$("$PY" -c 'import glob, site
print(":".join(sorted({p.rsplit("/", 1)[0] for d in site.getsitepackages() for p in glob.glob(d + "/nvidia/*/lib/lib*.so*")})))' 2>/dev/null)
    [ -n "$lib" ] || return 0
    export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$lib"
    have nvcc && [ ! -e "$(dirname "$(dirname "$(command -v nvcc)")")/include/cublasLt.h" ] || return 0
    for lib in ${lib//:/ }; do
        [ -e "${lib%/lib}/include/cublasLt.h" ] && export NVCC_APPEND_FLAGS="-I${lib%/lib}/include"
    done
    return 0
}

write_report() {
    "$PY" "$here/gpu/report.py" write "$RESULTS" "$OUT_DIR" --models "$WORK/models" ${TINY:+--rehearsal}
}

main() {
    local resume="" only="" name limit=570
    REHEARSE=0 OUT_DIR=${OUT:-build-gpu} BUILD="" PACK="" NANO=""
    while [ $# -gt 0 ]; do
        case $1 in
        --rehearse) REHEARSE=1 ;;
        --out) OUT_DIR=$2 && shift ;;
        --build) BUILD=$2 && shift ;;
        --pack) PACK=$2 && shift ;;
        --resume) resume=$2 && shift ;;
        --stages) only=,$2, && shift ;;
        --limit) limit=$2 && shift ;;
        --nano-vllm) NANO=$2 && shift ;;
        *) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" && exit 2 ;;
        esac
        shift
    done
    PATH="$PATH:/usr/local/cuda/bin"
    PY=${PYTHON:-python3}
    mkdir -p "$OUT_DIR" build-gpu
    OUT_DIR=$(cd "$OUT_DIR" && pwd)
    WORK=$([ $REHEARSE = 1 ] && mktemp -d || echo "$PWD/build-gpu/work")
    BUILD=$(realpath -m "${BUILD:-build-gpu/build}") PACK=$(realpath -m "${PACK:-build-gpu/pack}")
    RESULTS="$OUT_DIR/results.jsonl"
    mkdir -p "$WORK"
    [ -z "$resume" ] || cp "$resume" "$RESULTS"
    [ -n "$resume" ] || : >"$RESULTS"
    find_cuda_libraries
    export REHEARSE OUT_DIR BUILD PACK NANO PY WORK RESULTS PATH
    END=$limit
    sizes
    [ -d "$WORK/models" ] || "$PY" "$here/gpu/models.py" "$root/tests/golden/data/qwen3" "$WORK/models" || exit 1
    for name in "${all_stages[@]}"; do
        [ -z "$only" ] || [ "$name" = build ] || [[ $only == *,$name,* ]] || continue
        [ "$name" != build ] && grep -q "\"kind\": \"stage\", \"name\": \"$name\", \"status\": \"ok\"" "$RESULTS" && continue
        run_stage "$name"
        write_report >/dev/null # so that there is one whatever happens next
    done 2>&1 | tee "$OUT_DIR/log.txt"
    write_report
    tar czf "$OUT_DIR/logs.tgz" -C "$WORK" --exclude=models . # what the stages' programs said
    [ $REHEARSE = 0 ] || rm -rf "$WORK"
    ! grep '"kind": "stage"' "$RESULTS" | grep -qv '"status": "ok"'
}

if [ "${1:-}" = --one ]; then
    "stage_$2"
else
    main "$@"
fi
