#!/usr/bin/env python3
"""Many clients, few blocks: streams from a server whose KV pool holds a quarter of what they ask for, leaves at random,
and demands that every finished answer equals, byte for byte, the one the same request got alone.

usage: soak.py INFERD MODEL [--clients 64] [--seconds 120] [--blocks 0] [--server-args ...]

Passes when: no error, every finished answer right, every cut answer a prefix of the right one, and afterwards all blocks
free, nothing running, file descriptors and threads as before, resident memory flat. Standard library only; loopback only.
"""
import argparse, asyncio, json, os, random, re, signal, socket, subprocess, sys, time

ap = argparse.ArgumentParser()
ap.add_argument("inferd"); ap.add_argument("model")
ap.add_argument("--clients", type=int, default=64)
ap.add_argument("--seconds", type=float, default=120)
ap.add_argument("--blocks", type=int, default=0, help="KV blocks (0: a quarter of the demand)")
ap.add_argument("--groups", type=int, default=6, help="KV groups of the model, for the demand (Gemma 3 270M has 6)")
ap.add_argument("--prompts", type=int, default=24)
ap.add_argument("--seed", type=int, default=1)
ap.add_argument("--cancel", type=float, default=0.25, help="share of requests that are left in the middle")
ap.add_argument("--server-args", nargs=argparse.REMAINDER, default=[])
a = ap.parse_args()
rnd = random.Random(a.seed)

WORDS = "time river stone market garden letter window engine harbour winter music bridge paper mountain silver question".split()
PREFIXES = [" ".join(rnd.choice(WORDS) for _ in range(n)) for n in (40, 90, 160)]

def make_request(i):
    prompt = rnd.choice(PREFIXES) + ". " + " ".join(rnd.choice(WORDS) for _ in range(rnd.randint(3, 40))) + f" {i}:"
    body = {"prompt": prompt, "max_tokens": rnd.randint(16, 64), "ignore_eos": True, "stream": True}
    body.update({"temperature": 0} if i % 2 else {"temperature": 0.9, "top_p": 0.95, "seed": i})
    return body

def proc(pid, what):
    if what == "fds":
        return len(os.listdir(f"/proc/{pid}/fd"))
    status = open(f"/proc/{pid}/status").read()
    return int(re.search(rf"^{ {'rss': 'VmRSS', 'threads': 'Threads'}[what] }:\s*(\d+)".replace(" ", ""), status, re.M).group(1))

async def http(port, method, path, body=None):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    data = json.dumps(body).encode() if body is not None else b""
    writer.write(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
    await writer.drain()
    head = await reader.readuntil(b"\r\n\r\n")
    return int(head.split()[1]), head, reader, writer

async def get(port, path):
    status, head, reader, writer = await http(port, "GET", path)
    data = await reader.read()
    writer.close()
    return status, data.decode()

async def metric(port, name):
    text = (await get(port, "/metrics"))[1]
    return float(re.search(rf"^{name}\{{[^}}]*\}} (\S+)", text, re.M).group(1))

class Wrong(Exception):
    pass

async def stream(port, body, leave_after=None):
    """The text of a streamed completion; leaves after so many chunks. Returns (text, finished)."""
    status, head, reader, writer = await http(port, "POST", "/v1/completions", body)
    text, n, finish, done = "", 0, None, False
    try:
        if status != 200:
            raise Wrong(f"status {status}: {(await reader.read())[:300]}")
        while True:
            line = await asyncio.wait_for(reader.readline(), 120)
            if not line:
                break
            if not line.startswith(b"data: "):
                continue
            if line == b"data: [DONE]\n":
                done = True
                break
            chunk = json.loads(line[6:])
            if "error" in chunk:
                raise Wrong(f"error event {chunk}")
            for c in chunk["choices"]:
                text += c["text"]
                finish = c["finish_reason"] or finish
            n += 1
            if leave_after is not None and n >= leave_after:
                return text, False
        if not done or finish != "length":
            raise Wrong(f"stream ended without [DONE] or with finish {finish}")
        return text, True
    finally:
        if leave_after is not None and rnd.random() < 0.5:  # half of those who leave do it with a reset
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        writer.close()

async def client(port, requests, want, until, stats):
    while time.monotonic() < until:
        i = rnd.randrange(len(requests))
        leave = rnd.randint(1, 20) if rnd.random() < a.cancel else None
        text, finished = await stream(port, requests[i], leave)
        if finished and text != want[i] or not finished and not want[i].startswith(text):
            raise Wrong(f"request {i}: got {text[:200]!r}, alone it was {want[i][:200]!r}")
        stats["finished" if finished else "left"] += 1

async def wait_ready(port, server):
    for _ in range(600):
        if server.poll() is not None:
            raise Wrong(f"the server ended with {server.returncode}")
        try:
            if (await get(port, "/readyz"))[0] == 200:
                return
        except OSError:
            pass
        await asyncio.sleep(0.1)
    raise Wrong("the server did not become ready")

async def wait_idle(port):
    for _ in range(100):
        if await metric(port, "vllm:num_requests_running") == 0 and await metric(port, "vllm:num_requests_waiting") == 0:
            return
        await asyncio.sleep(0.05)
    raise Wrong("requests are still running 5 s after the last client left")

async def main():
    requests = [make_request(i) for i in range(a.prompts)]
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    # A request needs about 5 characters a token; each of its blocks holds 16 tokens. Prefixes are shared, so the
    # real demand is smaller than this sum: an eighth of it leaves about a quarter of what is needed.
    demand = a.clients * sum((len(r["prompt"]) // 5 + r["max_tokens"]) // 16 + 1 for r in requests) // len(requests)
    args = [a.inferd, "serve", a.model, "--port", str(port), "--max-num-seqs", str(a.clients), "--log-level", "warn"]
    probe = subprocess.Popen(args + a.server_args)
    try:
        await wait_ready(port, probe)
        want = [(await stream(port, r))[0] for r in requests]
    finally:
        probe.send_signal(signal.SIGTERM)
        probe.wait(30)
    print(f"{len(set(want))} distinct answers of {len(want)}", flush=True)
    if len(set(want)) < len(want) * 0.9:
        raise Wrong("the answers are too alike to prove anything")
    blocks = a.blocks or demand * a.groups // 8
    args += ["--num-kv-blocks", str(blocks)]
    server = subprocess.Popen(args + a.server_args)
    try:
        await wait_ready(port, server)
        for r in requests[:4]:
            await stream(port, r)
        await wait_idle(port)
        await asyncio.sleep(1)  # the server closes the connections of the warm-up after their clients do
        stats, start = {"finished": 0, "left": 0}, time.monotonic()
        base = {k: proc(server.pid, k) for k in ("fds", "threads")}
        rss = []
        tasks = [asyncio.create_task(client(port, requests, want, start + a.seconds, stats)) for _ in range(a.clients)]
        while any(not t.done() for t in tasks):
            await asyncio.wait(tasks, timeout=max(1, a.seconds / 12), return_when=asyncio.FIRST_EXCEPTION)
            if any(t.done() and t.exception() for t in tasks):
                break
            rss.append(proc(server.pid, "rss"))
            print(f"{time.monotonic() - start:6.1f} s  finished {stats['finished']}  left {stats['left']}  RSS {rss[-1] // 1024} MiB", flush=True)
        for t in tasks:
            if t.done() and t.exception():
                raise t.exception()
        await wait_idle(port)
        await asyncio.sleep(1)
        free, total = await metric(port, "inferd:kv_blocks_free"), await metric(port, "inferd:kv_blocks_total")
        preempted = await metric(port, "vllm:num_preemptions_total")
        for _ in range(50):  # the server may still be closing the connections of those who left
            after = {k: proc(server.pid, k) for k in ("fds", "threads")}
            if all(after[k] <= base[k] for k in base): break
            await asyncio.sleep(0.1)
        grown = rss[-1] - rss[len(rss) // 2]
        print(f"{stats['finished']} answers right, {stats['left']} left early, {preempted:.0f} preemptions; blocks free {free:.0f} of {total:.0f}; "
              f"fds {base['fds']} -> {after['fds']}, threads {base['threads']} -> {after['threads']}, RSS grew {grown} KiB in the second half")
        if free != total: raise Wrong("blocks leaked")
        if any(after[k] > base[k] for k in base): raise Wrong("file descriptors or threads leaked")
        if grown > 4096: raise Wrong("memory grew")
        if a.seconds >= 30 and preempted == 0: raise Wrong("the pool was never short: nothing was proven")
        server.send_signal(signal.SIGTERM)
        if server.wait(40) != 0: raise Wrong(f"exit code {server.returncode}")
    finally:
        if server.poll() is None:
            server.kill()
            server.wait()

try:
    asyncio.run(main())
except Wrong as e:
    print(f"FAILED: {e}")
    sys.exit(1)
print("passed")
