#!/usr/bin/env python3
"""The unchanged server on the CUDA back end, over HTTP: the same answers alone and together, clients that leave, SIGTERM,
and what it says where there is no module or no device. The module is the emulated one unless someone has a GPU.

usage: serve_cuda.py INFERD MODULES MODEL"""
import concurrent.futures, http.client, json, os, signal, socket, subprocess, sys, tempfile, time

INFERD, MODULES, MODEL = sys.argv[1:4]
ASKED = [
    {"prompt": [1, 2, 3, 4], "temperature": 0},
    {"prompt": [700, 5, 9], "temperature": 0, "logprobs": 3},
    {"prompt": list(range(20, 60)), "temperature": 0.8, "top_p": 0.9, "seed": 7},
    {"prompt": [11], "temperature": 1.2, "top_k": 20, "seed": 8, "presence_penalty": 1, "logprobs": 0},
    {"prompt": [5] * 30, "temperature": 1, "min_p": 0.05, "seed": 9, "logit_bias": {"17": 5}},
]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    def __init__(self, *args, modules=MODULES, **env):
        self.port = free_port()
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [INFERD, "serve", MODEL, "--port", str(self.port), "--max-model-len", "128", "--num-kv-blocks", "128",
             "--max-num-seqs", "8", *args], env=dict(os.environ, INFERD_MODULES=modules, **env), stderr=self.log, stdout=self.log)

    def text(self):
        self.log.seek(0)
        return self.log.read().decode(errors="replace")

    def wait_ready(self, seconds=120):
        end = time.time() + seconds
        while time.time() < end and self.process.poll() is None:
            try:
                if self.get("/health")[0] == 200:
                    return self
            except OSError:
                pass
            time.sleep(0.05)
        self.process.kill()
        raise AssertionError("not ready: " + self.text())

    def get(self, path):
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        c.request("GET", path)
        r = c.getresponse()
        return r.status, r.read().decode()

    def complete(self, asked):
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        c.request("POST", "/v1/completions", json.dumps({"max_tokens": 12, "ignore_eos": True, **asked}),
                  {"Content-Type": "application/json"})
        r = c.getresponse()
        answer = json.loads(r.read())
        assert r.status == 200, answer
        choice = answer["choices"][0]
        return choice["text"], choice["logprobs"]

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(60)
        assert code == 0, (code, self.text())
        return self.text()


def test_answers():
    s = Server("--device", "cuda", "--deterministic", "--no-async-scheduling").wait_ready()
    alone = [s.complete(a) for a in ASKED]
    assert len({text for text, _ in alone}) == len(ASKED), alone
    s.end()
    s = Server("--device", "cuda", "--deterministic", CUEMU_LAZY="1").wait_ready()  # one step ahead, and as late as can be
    assert [s.complete(a) for a in ASKED] == alone, "steps ahead made a difference"
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        together = list(pool.map(s.complete, ASKED + ASKED))
    assert together == alone + alone, "neighbours made a difference"
    # a client that leaves in mid-stream gives its blocks back
    c = socket.create_connection(("127.0.0.1", s.port))
    body = json.dumps({"prompt": [1, 2], "max_tokens": 100, "stream": True, "ignore_eos": True})
    c.sendall(f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
    assert b"200 OK" in c.recv(4096)
    c.close()
    end = time.time() + 30
    while "vllm:num_requests_running" in (m := s.get("/metrics")[1]) and time.time() < end:
        if all(line.endswith(" 0") for line in m.splitlines() if line.startswith("vllm:num_requests_running")):
            break
        time.sleep(0.1)
    assert s.complete(ASKED[0]) == alone[0]
    assert "cuda" in s.end()


def test_ranks():
    """A device for each rank: the tokens of one."""
    greedy = [{**a, "temperature": 0} for a in ASKED[:3]]
    texts = []
    for ranks in ("1", "2", "4"):
        s = Server("--device", "cuda", "--deterministic", "--tensor-parallel-size", ranks, CUEMU_DEVICES="4").wait_ready()
        texts.append([s.complete(a)[0] for a in greedy])
        s.end()
    assert texts[0] == texts[1] == texts[2], texts
    s = Server("--device", "cuda", "--tensor-parallel-size", "4", CUEMU_DEVICES="2")
    assert s.process.wait(60) == 1 and "no device 2, only 2" in s.text() or "no device 3, only 2" in s.text(), s.text()


def test_fallback():
    with tempfile.TemporaryDirectory() as empty:
        s = Server("--device", "cuda", modules=empty)
        assert s.process.wait(20) == 1
        assert s.text().count("\n") == 1 and "inferd_cuda.so" in s.text(), s.text()
        Server(modules=empty).wait_ready().end()
    s = Server("--device", "cuda", CUEMU_DEVICES="0")
    assert s.process.wait(20) == 1 and "no CUDA device" in s.text(), s.text()
    assert "using the CPU" in Server(CUEMU_DEVICES="0").wait_ready().end()
    s = Server("--device", "cuda", "--kv-cache-dtype", "float32")
    assert s.process.wait(60) == 1 and "KV cache type" in s.text(), s.text()


if __name__ == "__main__":
    for name, test in list(globals().items()):
        if name.startswith("test_"):
            start = time.time()
            test()
            print(f"{name}: ok, {time.time() - start:.1f} s", flush=True)
