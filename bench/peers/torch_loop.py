#!/usr/bin/env python3
"""Peer: a plain PyTorch loop over Qwen3's shape, bf16, random weights, static KV cache, the decode step as one CUDA graph.

usage: torch_loop.py MODEL_FOLDER --context N --batches "1 16" --prefill N
Prints a JSON object a line. In its favour: the context has one fixed length, so that PyTorch's fast attention runs without a
mask; tokens stay on the card, nobody stops, streams or schedules; the next token is the arg-max."""
import argparse, json, os, statistics, time, torch
import torch.nn.functional as F

ap = argparse.ArgumentParser(usage=__doc__)
ap.add_argument("model"); ap.add_argument("--context", type=int); ap.add_argument("--batches"); ap.add_argument("--prefill", type=int)
a = ap.parse_args()
c = json.load(open(os.path.join(a.model, "config.json")))
cuda = torch.cuda.is_available()
device, dtype = "cuda" if cuda else "cpu", torch.bfloat16
H, KV, D, d, inter, L, V = (c[k] for k in ("num_attention_heads", "num_key_value_heads", "head_dim", "hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size"))
torch.set_grad_enabled(False)
rand = lambda *shape: torch.empty(*shape, device=device, dtype=dtype).normal_(std=0.02)
layers = [dict(qkv=rand((H + 2 * KV) * D, d), o=rand(d, H * D), up=rand(2 * inter, d), down=rand(d, inter)) for _ in range(L)]
embed = rand(V, d)
head = embed if c["tie_word_embeddings"] else rand(V, d)
ones = {n: torch.ones(n, device=device, dtype=dtype) for n in {d, D}}
inverse = 1.0 / c["rope_theta"] ** (torch.arange(0, D, 2, device=device) / D)


def rotate(x, position):  # x [B][heads][n][D]
    angle = position[:, None] * inverse
    cos, sin = angle.cos().to(dtype), angle.sin().to(dtype)
    a_, b_ = x.chunk(2, -1)
    return torch.cat((a_ * cos - b_ * sin, b_ * cos + a_ * sin), -1)


def norm(x):
    return F.rms_norm(x, (x.shape[-1],), ones[x.shape[-1]], c["rms_norm_eps"])


def step(ids, cache, position, length):
    """ids [B][n] at `position` [n] -> the next ids [B][1]; attends to the first `length` places of the cache."""
    B, n = ids.shape
    x = F.embedding(ids, embed)
    for w, (ck, cv) in zip(layers, cache):
        q, k, v = F.linear(norm(x), w["qkv"]).view(B, n, H + 2 * KV, D).transpose(1, 2).split((H, KV, KV), 1)
        q, k = rotate(norm(q), position), rotate(norm(k), position)
        ck.index_copy_(2, position, k)
        cv.index_copy_(2, position, v)
        y = F.scaled_dot_product_attention(q, ck[:, :, :length], cv[:, :, :length], is_causal=n > 1, enable_gqa=True)
        x = x + F.linear(y.transpose(1, 2).reshape(B, n, H * D), w["o"])
        gate, up = F.linear(norm(x), w["up"]).chunk(2, -1)
        x = x + F.linear(F.silu(gate) * up, w["down"])
    return F.linear(norm(x[:, -1:]), head).argmax(-1)


def wait():
    if cuda:
        torch.cuda.synchronize()


def seconds(f, tries):
    times = []
    for _ in range(tries + 2):
        wait()
        start = time.perf_counter()
        f()
        wait()
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


def say(what, value, **more):
    print(json.dumps({"kind": "peer", "peer": "PyTorch loop" + (", CUDA graph" if what == "decode" else ""), "model": os.path.basename(a.model), "what": what, "seconds": value} | more), flush=True)


def new_cache(batch, length):
    return [(rand(batch, KV, length, D), rand(batch, KV, length, D)) for _ in range(L)]


def decode(batch):
    length = a.context + 1
    cache, ids = new_cache(batch, length), torch.zeros(batch, 1, device=device, dtype=torch.long)
    position = torch.tensor([a.context], device=device)
    run = lambda: ids.copy_(step(ids, cache, position, length))
    if cuda:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
        run = graph.replay
    return seconds(run, 30)


def prefill(n):
    cache, ids = new_cache(1, n), torch.randint(V, (1, n), device=device)
    position = torch.arange(n, device=device)
    return seconds(lambda: step(ids, cache, position, n), 5)


for b in map(int, a.batches.split()):
    try:
        say("decode", decode(b), batch=b, note=f"context fixed at {a.context + 1}")
    except torch.OutOfMemoryError:
        print(f"batch {b}: out of memory")
    if cuda:
        torch.cuda.empty_cache()
say("prefill", prefill(a.prefill), n=a.prefill)
