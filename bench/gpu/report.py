#!/usr/bin/env python3
"""Collects what the stages of bench/gpu.sh found and writes the report.

usage: report.py note KIND KEY=VALUE...               a record, to standard output
       report.py test NAME EXIT SECONDS LOG           ... of a Check program's log
       report.py latency JSON KEY=VALUE...            ... of `inferd bench latency`
       report.py serve JSON KEY=VALUE...              ... of `inferd bench serve`
       report.py merge RESULTS STAGE STATUS SECONDS RAW   puts a stage's records in place of those it had before
       report.py write RESULTS FOLDER --models FOLDER [--rehearsal]   report.md, report.json, decode.svg"""
import json, os, re, statistics, sys

# Shares of the floor to reach (weights and KV at the card's own bandwidth, products at its own matmul rate).
DECODE_TARGET = {"Qwen3-0.6B": {1: 0.62, 16: 0.75, 64: 0.83, 256: 0.86}, "Qwen3-8B": {1: 0.88, 16: 0.86, 64: 0.85, 256: 0.84}}
PREFILL_TARGET = {"Qwen3-0.6B": 0.50, "Qwen3-8B": 0.70}
FP8_TARGET, ATTENTION_TARGET, ATTENTION_FROM, INSIDE_TARGET = 0.80, 0.85, 64e6, 0.95
COMMANDS = """    bench/gpu.sh

which, for one cell of the tables, is (all of it in log.txt, every figure in results.jsonl):

    gpu_ops --op linear                              # also attn, add_norm, qkv_prep, sample; INFERD_MODULES names the module's folder
    inferd bench latency MODEL --device cuda --load-format dummy --gpu-memory-utilization 0.9 --max-num-batched-tokens 8192 \\
        --batch-size 16 --input-len 1024 --output-len 96 [--quantization fp8 --kv-cache-dtype fp8 | --deterministic | ...]
    inferd bench latency MODEL ... --batch-size 1 --input-len 2048 --output-len 1
    inferd serve MODEL --device cuda --load-format dummy ...
    inferd bench serve --request-rate 16 --random-input-len 1024 --random-output-len 128 ...
    bench/peers/torch_loop.py MODEL --context 1024 --batches "1 16 64 256" --prefill 2048
    bench/peers/transformers_cb.py MODEL --input 1024 --output 96 --batches "1 64"
"""
SECTIONS = ["Stages", "Machine", "Twins", "Tests on the device", "Sanitizer", "Limits of the card", "Ops", "Decode", "Prefill",
            "Variants", "Over HTTP", "Peers", "Targets", "How it was made"]


def number(text):
    try:
        return int(text)
    except ValueError:
        try:
            return float(text)
        except ValueError:
            return text.strip()


def pairs(args):
    return {k: number(v) for k, v in (a.split("=", 1) for a in args)}


def put(kind, **fields):
    print(json.dumps({"kind": kind, **fields}))


def test(name, code, seconds, log):
    text = open(log, errors="replace").read()
    found = re.findall(r"(\d+)%: Checks: (\d+), Failures: (\d+), Errors: (\d+)", text)
    checks, failures, errors = map(int, found[-1][1:]) if found else (0, 0, 0)
    bad = [line[:300] for line in text.splitlines() if re.search(r":[FE]:", line)]
    put("test", name=name, exit=int(code), seconds=int(seconds), checks=checks, failures=failures, errors=errors, bad=bad[:20],
        end="" if found else text[-300:])


def latency(path, args):
    r = json.load(open(path))
    keep = {k: r[k] for k in ("avg_latency", "median_ttft", "median_step", "ttfts", "steps")}
    put("latency", **pairs(args), **keep)


def serve(path, args):
    r = json.load(open(path))
    names = ["completed", "failed", "request_throughput", "output_throughput", "total_token_throughput", "median_ttft_ms", "p99_ttft_ms",
             "median_tpot_ms", "p99_tpot_ms", "median_itl_ms", "p99_itl_ms"]
    put("serve", **pairs(args), **{k: r.get(k) for k in names})


def merge(results, stage, status, seconds, raw):
    lines = [json.loads(l) for l in open(results) if l.strip()] if os.path.exists(results) else []
    lines = [r for r in lines if r.get("stage") != stage and not (r["kind"] == "stage" and r["name"] == stage)]
    lines.append({"kind": "stage", "name": stage, "status": status, "seconds": int(seconds)})
    for l in open(raw, errors="replace"):
        try:
            lines.append(json.loads(l) | {"stage": stage})
        except (ValueError, TypeError):
            pass  # a line that a stopped program did not finish
    with open(results + ".new", "w") as f:
        f.writelines(json.dumps(r) + "\n" for r in lines)
    os.replace(results + ".new", results)


# ---- floors ----

class Card:
    def __init__(self, records):
        limits = {r["name"]: r["value"] for r in records if r["kind"] == "limit"}
        self.limits = limits
        self.read = max((v for k, v in limits.items() if k.startswith(("copy", "read"))), default=None)
        self.flops = max((v for k, v in limits.items() if k.startswith("matmul bf16")), default=None)
        self.flops_from = "measured through PyTorch"
        if not self.flops:
            own = [r["flops"] / r["us"] * 1e6 for r in records if r["kind"] == "op" and r["type"] == "BF16" and r["flops"] and r["op"].startswith("linear")]
            self.flops, self.flops_from = max(own, default=None), "PyTorch's is missing: the best of inferd's own products"


class Model:
    def __init__(self, folder):
        c = json.load(open(os.path.join(folder, "config.json")))
        d, dim, q, kv = c["hidden_size"], c["head_dim"], c["num_attention_heads"], c["num_key_value_heads"]
        self.layers, self.heads, self.dim = c["num_hidden_layers"], q, dim
        self.body = self.layers * (d * dim * (q + 2 * kv) + q * dim * d + 3 * d * c["intermediate_size"])
        self.head = c["vocab_size"] * d
        self.kv = 2 * self.layers * kv * dim  # values of a token

    def decode(self, card, batch, context, fp8):  # seconds at least
        weights, size = self.body + self.head, 1 if fp8 else 2
        return max(weights * size / card.read, 2 * weights * batch / card.flops) + batch * context * self.kv * size / card.read

    def prefill(self, card, n):
        return (2 * (self.body * n + self.head) + 2 * self.layers * self.heads * self.dim * n * n) / card.flops


# ---- the report ----

def table(head, rows):
    if not rows:
        return "Nothing was measured.\n"
    cell = lambda v: "" if v is None else f"{v:.3g}" if isinstance(v, float) and abs(v) < 100 else f"{v:.0f}" if isinstance(v, float) else str(v).replace("|", "/")
    return "\n".join(["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)] + ["| " + " | ".join(map(cell, r)) + " |" for r in rows]) + "\n"


def share(floor, seconds):
    return floor / seconds if floor and seconds else None


def decode_rows(records, card, models, variants):
    rows, ops = [], [r for r in records if r["kind"] == "op"]
    for r in records:
        if r["kind"] == "latency" and r["output"] > 1 and variants(r["variant"]) and r["median_step"] > 0:
            # In the first half of the answer, in which the step is timed, the context is this on average.
            context = r["input"] + r["output"] / 4
            floor = models[r["model"]].decode(card, r["batch"], context, r["variant"] == "fp8") if card.read and card.flops else None
            spread = (max(r["steps"]) - min(r["steps"])) / r["median_step"]
            inside = inside_ops(ops, r["model"], models[r["model"]].layers, r["batch"], context) if r["variant"] == "default" else None
            rows.append({"model": r["model"], "batch": r["batch"], "variant": r["variant"], "ops": share(inside, r["median_step"]), "step": r["median_step"], "floor": floor,
                         "share": share(floor, r["median_step"]), "tokens_s": r["batch"] / r["median_step"], "spread": spread})
    return rows


def prefill_rows(records, card, models, variants):
    rows = []
    for r in records:
        if r["kind"] == "latency" and r["batch"] == 1 and variants(r["variant"]):
            floor = models[r["model"]].prefill(card, r["input"]) if card.flops else None
            rows.append({"model": r["model"], "n": r["input"], "variant": r["variant"], "seconds": r["median_ttft"], "floor": floor,
                         "share": share(floor, r["median_ttft"]), "tokens_s": r["input"] / r["median_ttft"] if r["median_ttft"] else None})
    return rows


def op_rows(records, card):
    rows = []
    for r in records:
        if r["kind"] == "op":
            floor = max(r["bytes"] / card.read, r["flops"] / card.flops) if card.read and card.flops else None
            rows.append(r | {"rate": r["bytes"] / r["us"] * 1e-3, "tflops": r["flops"] / r["us"] * 1e-6 or None,
                             "share": share(floor, r["us"] * 1e-6), "spread": (r["us_max"] - r["us_min"]) / r["us"]})
    return rows


def inside_ops(ops, model, layers, batch, context):
    """Seconds that the ops of a decode step take one by one; None if one was not timed at this batch."""
    at = [r for r in ops if r["model"] == model and r["rows"] == batch and r["type"] in ("BF16", "F32", "greedy")]
    keys = lambda r: int(r["shape"].split(" x ")[1].split()[0])
    near = min((r for r in at if r["op"] == "attn decode"), key=lambda r: abs(keys(r) - context), default=None)
    us = {r["op"]: r["us"] for r in at if r["op"] != "attn decode"} | ({"attn decode": near["us"]} if near else {})
    layer, once = ["add_norm", "linear qkv", "qkv_prep", "attn decode", "linear o", "add_norm", "linear_glu", "linear down"], ["add_norm", "linear head", "sample"]
    if any(op not in us for op in layer + once):
        return None
    return 1e-6 * (layers * sum(us[op] for op in layer) + sum(us[op] for op in once))


def verdicts(decode, prefill, fp8, ops):
    """What was to be reached, what was, and whether; None: not measured."""
    out = []
    add = lambda what, target, got: out.append((what, target, got, None if got is None else got >= target))
    pick = lambda rows, **want: next((r["share"] for r in rows if all(r[k] == v for k, v in want.items())), None)
    for model, targets in DECODE_TARGET.items():
        for batch, target in targets.items():
            add(f"decode, {model}, batch {batch}", target, pick(decode, model=model, batch=batch))
    for model, target in PREFILL_TARGET.items():
        add(f"prefill 2048, {model}", target, pick(prefill, model=model, n=2048))
    for model in DECODE_TARGET:
        for batch in (1, 64):
            add(f"FP8 weights and KV, decode, {model}, batch {batch}", FP8_TARGET, pick(fp8, model=model, batch=batch))
    add("a decode step's time inside its ops, the least of all batches", INSIDE_TARGET, min((r["ops"] for r in decode if r["ops"]), default=None))
    large = [r["share"] for r in ops if r["op"] == "attn decode" and r["bytes"] >= ATTENTION_FROM and r["share"]]
    add("attention decode from 64 MB of KV, the slowest case", ATTENTION_TARGET, min(large, default=None))
    return out


def peer_rows(records, decode, prefill):
    rows = []
    for r in (r for r in records if r["kind"] == "peer"):
        own = [d for d in (decode if r["what"] == "decode" else prefill) if d["model"] == r["model"] and (d.get("batch") == r.get("batch") if r["what"] == "decode" else d["n"] == r["n"])]
        seconds = own[0]["step" if r["what"] == "decode" else "seconds"] if own else None
        at = f"batch {r['batch']}" if r["what"] == "decode" else f"{r['n']} tokens"
        rows.append([r["peer"], r["model"], f"{r['what']}, {at}", r["seconds"] * 1e3, seconds and seconds * 1e3, seconds and r["seconds"] / seconds, r.get("note", "")])
    return rows


def plot(rows, path):
    """Time of a decode step beside its floor."""
    rows = [r for r in rows if r["floor"]]
    svg = [f'<svg xmlns="http://www.w3.org/2000/svg" width="760" height="{50 + 34 * len(rows)}" font-family="sans-serif" font-size="12">'
           '<rect width="100%" height="100%" fill="white"/><text x="12" y="22" font-size="15">Floor as a share of the decode step</text>']
    for i, r in enumerate(rows):
        y, share_ = 42 + 34 * i, min(r["share"], 1.0)
        svg.append(f'<text x="12" y="{y + 14}">{r["model"]}, batch {r["batch"]}, {r["variant"]}</text><rect x="260" y="{y}" width="380" height="20" fill="#e5e7eb"/>'
                   f'<rect x="260" y="{y}" width="{380 * share_:.0f}" height="20" fill="#2563eb"/>'
                   f'<text x="648" y="{y + 14}">{100 * r["share"]:.0f} %, {r["step"] * 1e3:.2f} ms</text>')
    with open(path, "w") as f:
        f.write("\n".join(svg + ["</svg>"]) + "\n")


def yes(ok):
    return "not measured" if ok is None else "yes" if ok else "no"


def write(results, folder, model_folder, rehearsal):
    records = [json.loads(l) for l in open(results) if l.strip()]
    of = lambda kind: [r for r in records if r["kind"] == kind]
    machine, card = (of("machine") or [{}])[-1], Card(records)
    models = {m: Model(os.path.join(model_folder, m)) for m in sorted(os.listdir(model_folder))} if os.path.isdir(model_folder) else {}
    plain, fp8 = lambda v: v == "default", lambda v: v == "fp8"
    decode, prefill = decode_rows(records, card, models, plain), prefill_rows(records, card, models, plain)
    varied, varied_prefill = (f(records, card, models, lambda v: v != "default") for f in (decode_rows, prefill_rows))
    ops = op_rows(records, card)
    targets = verdicts(decode, prefill, decode_rows(records, card, models, fp8), ops)
    step = lambda rows: [[r["model"], r["variant"], r["batch"], r["step"] * 1e3, r["floor"] and r["floor"] * 1e3, r["share"], DECODE_TARGET.get(r["model"], {}).get(r["batch"]) if r["variant"] == "default" else None, r["ops"], r["tokens_s"], r["spread"]] for r in rows]
    step_head = ["model", "variant", "batch", "step, ms", "floor, ms", "of the floor", "target", "inside ops", "tokens/s", "spread"]
    fill = lambda rows: [[r["model"], r["variant"], r["n"], r["seconds"] * 1e3, r["floor"] and r["floor"] * 1e3, r["share"], PREFILL_TARGET.get(r["model"]) if r["n"] == 2048 and r["variant"] == "default" else None, r["tokens_s"]] for r in rows]
    fill_head = ["model", "variant", "tokens", "ms", "floor, ms", "of the floor", "target", "tokens/s"]
    text = {
        "Stages": table(["stage", "status", "seconds"], [[r["name"], r["status"], r["seconds"]] for r in of("stage")]) +
                  "".join(f"\n- {r['stage']}: {r['what']} failed: {r.get('why', '')}" for r in of("failed")) + ("\n" if of("failed") else ""),
        "Machine": table(["", ""], [[k, v] for k, v in machine.items() if k not in ("kind", "stage")]),
        "Twins": table(["wrapper", "status", ""], [[r["name"], r["status"], r["detail"]] for r in of("conformance")]),
        "Tests on the device": table(["program", "exit", "checks", "failures", "errors", "seconds"], [[r[k] for k in ("name", "exit", "checks", "failures", "errors", "seconds")] for r in of("test")]) +
                               "".join(f"\n    {line}" for r in of("test") for line in r["bad"] + ([r["end"]] if r["exit"] and r["end"] else [])) + "\n",
        "Sanitizer": table(["tool", "program", "exit", ""], [[r["tool"], r["name"], r["exit"], r["summary"]] for r in of("sanitizer")]),
        "Limits of the card": table(["", "value", "unit"], [[r["name"], f"{r['value']:.4g}", r["unit"]] for r in of("limit")]) +
                              f"\nFloors take the largest bandwidth above and the bf16 matmul rate ({card.flops_from}).\n",
        "Ops": table(["op", "model", "type", "shape", "rows", "us", "GB/s", "TFLOP/s", "of the limit", "spread"],
                     [[r["op"], r["model"], r["type"], r["shape"], r["rows"], r["us"], r["rate"], r["tflops"], r["share"], r["spread"]] for r in ops]),
        "Decode": table(step_head, step(decode)) + "\nThe step of all requests together, from the engine's client; the floor reads weights and KV once. Inside ops: what its ops took one by one, as a share of it.\n\n![Decode](decode.svg)\n",
        "Prefill": table(fill_head, fill(prefill)) + "\nTo the first token of one request; the floor is its products at the matmul rate.\n",
        "Variants": table(step_head, step(varied)) + "\n" + table(fill_head, fill(varied_prefill)),
        "Over HTTP": table(["model", "variant", "requests/s asked", "completed", "requests/s", "tokens/s", "TTFT median, ms", "p99", "TPOT median, ms", "p99", "ITL median, ms", "p99"],
                           [[r[k] for k in ("model", "variant", "rate", "completed", "request_throughput", "output_throughput", "median_ttft_ms", "p99_ttft_ms", "median_tpot_ms", "p99_tpot_ms", "median_itl_ms", "p99_itl_ms")] for r in of("serve")]),
        "Peers": table(["peer", "model", "what", "peer, ms", "inferd, ms", "inferd is faster by", ""], peer_rows(records, decode, prefill)),
        "Targets": table(["what", "target", "reached", "met"], [[w, t, g, yes(ok)] for w, t, g, ok in targets]),
        "How it was made": COMMANDS,
    }
    title = f"# inferd on {machine.get('card', 'an unknown card').strip()}, {machine.get('date', 'no date')}\n\n"
    if rehearsal:
        title += "A rehearsal on the emulated module at tiny sizes: no time here means anything.\n\n"
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "report.md"), "w") as f:
        f.write(title + "\n".join(f"## {s}\n\n{text[s]}" for s in SECTIONS))
    with open(os.path.join(folder, "report.json"), "w") as f:
        json.dump({"machine": machine, "rehearsal": rehearsal, "limits": card.limits, "decode": decode + varied, "prefill": prefill + varied_prefill, "ops": ops,
                   "targets": [{"what": w, "target": t, "reached": g, "met": ok} for w, t, g, ok in targets], "records": records}, f, indent=1)
    plot(decode + varied, os.path.join(folder, "decode.svg"))
    print(text["Stages"] + "\n" + text["Decode"] + "\n" + text["Targets"])


def main(a):
    if a[0] == "note":
        put(a[1], **pairs(a[2:]))
    elif a[0] == "test":
        test(*a[1:5])
    elif a[0] == "latency":
        latency(a[1], a[2:])
    elif a[0] == "serve":
        serve(a[1], a[2:])
    elif a[0] == "merge":
        merge(*a[1:6])
    elif a[0] == "write":
        write(a[1], a[2], a[a.index("--models") + 1], "--rehearsal" in a)
    else:
        sys.exit(__doc__)


main(sys.argv[1:] or [""])
