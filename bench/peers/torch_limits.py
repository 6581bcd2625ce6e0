#!/usr/bin/env python3
"""What the libraries behind PyTorch reach on this card: products of random matrices, and a copy. A JSON object a line."""
import json, statistics, sys, time, torch

cuda = torch.cuda.is_available()
device = "cuda" if cuda else "cpu"
n = 64 if "--tiny" in sys.argv else 8192


def seconds(f, tries=10):
    wait = torch.cuda.synchronize if cuda else lambda: None
    times = []
    for i in range(3 + tries):
        wait()
        start = time.perf_counter()
        f()
        wait()
        times.append(time.perf_counter() - start)
    return statistics.median(times[3:])


def say(name, value, unit):
    print(json.dumps({"kind": "limit", "name": name, "value": value, "unit": unit}), flush=True)


a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
say("matmul bf16 (PyTorch)", 2 * n**3 / seconds(lambda: a @ b), "FLOP/s")
big = torch.empty(n * n * 16, device=device, dtype=torch.bfloat16).normal_()
other = torch.empty_like(big)
say("copy, by PyTorch (read + written)", 2 * big.numel() * 2 / seconds(lambda: other.copy_(big)), "B/s")
if cuda and torch.cuda.get_device_capability() >= (8, 9):
    one = torch.ones((), device=device)
    x, w = a.to(torch.float8_e4m3fn), b.to(torch.float8_e4m3fn).t()
    say("matmul fp8 (PyTorch)", 2 * n**3 / seconds(lambda: torch._scaled_mm(x, w, scale_a=one, scale_b=one, out_dtype=torch.bfloat16)), "FLOP/s")
