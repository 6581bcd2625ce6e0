"""Writes dtype_vectors.h: blocks of every quantised type with random codes, and what gguf-py dequantises them to."""
import numpy as np
from gguf import GGMLQuantizationType as T, GGML_QUANT_SIZES
from gguf.quants import dequantize, quantize

rng = np.random.default_rng(7)
# byte offsets of the f16 fields (scale, min), so that they can be set to sane values
HALVES = {"Q8_0": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q2_K": [80, 82], "Q3_K": [108],
          "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}
print("/* Made by make_dtype_vectors.py: random blocks, and their values according to gguf-py. */")
print("#pragma once\n#include \"dtype.h\"\n")
rows = []
for name, halves in HALVES.items():
    t = T[name]
    block, size = GGML_QUANT_SIZES[t]
    n = 2 if block == 32 else 1
    raw = rng.integers(0, 256, (n, size), dtype=np.uint8)
    for at in halves:
        raw[:, at:at + 2] = rng.uniform(-0.1, 0.1, n).astype(np.float16).view(np.uint8).reshape(n, 2)
    values = dequantize(raw.reshape(1, -1), t).astype(np.float32).ravel()
    lo = name.lower()
    print(f"static const unsigned char {lo}_bytes[] = {{" + ",".join(str(b) for b in raw.ravel()) + "};")
    print(f"static const float {lo}_values[] = {{" + ",".join(float(v).hex() for v in values) + "};\n")
    rows.append(f"{{DT_{name}, {lo}_bytes, {lo}_values, {n * block}}}")
# and the other way round: quantisation of normal values, with ties and extremes
x = rng.normal(0, 1, 64).astype(np.float32)
x[3], x[40] = 0, -x[40]
print("static const float quant_in[64] = {" + ",".join(float(v).hex() for v in x) + "};")
for name in ("Q8_0", "Q4_0"):
    b = quantize(x.reshape(1, -1), T[name]).view(np.uint8).ravel()
    print(f"static const unsigned char {name.lower()}_quant[] = {{" + ",".join(str(v) for v in b) + "};")
print("\nstatic const struct {\n    enum dtype type;\n    const unsigned char *bytes;\n    const float *values;\n    int n;\n} dtype_vectors[] = {" + ", ".join(rows) + "};")
