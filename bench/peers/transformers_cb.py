#!/usr/bin/env python3
"""Peer: transformers' continuous batching (generate_batch) over the model's shape, bf16, random weights, greedy, no early end.

usage: transformers_cb.py MODEL_FOLDER --input N --output N --batches "1 64"
Prints a JSON object a line: the decode step, all requests arriving together, as inferd's own is measured: the first half of
the answer of the request whose first token came last.
Attention is what the library picks for paged caches: without the flash-attn package that is PyTorch's."""
import argparse, json, os, time, torch
from transformers import AutoConfig, AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig

ap = argparse.ArgumentParser(usage=__doc__)
ap.add_argument("model"); ap.add_argument("--input", type=int); ap.add_argument("--output", type=int); ap.add_argument("--batches")
a = ap.parse_args()
cuda = torch.cuda.is_available()
config = AutoConfig.from_pretrained(a.model)
torch.set_default_device("cuda" if cuda else "cpu")
model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa").eval()
torch.set_default_device("cpu")


# On a card the library sizes its cache by itself; without one it would take most of the main memory.
settings = {} if cuda else {"continuous_batching_config": ContinuousBatchingConfig(num_blocks=16)}


def run(batch, n_out):
    """Token times of each request; caches and graphs are made before the first."""
    prompts = torch.randint(config.vocab_size - 1, (batch, a.input)).tolist()
    g = GenerationConfig(max_new_tokens=n_out, do_sample=False, eos_token_id=-1, pad_token_id=0)
    out = model.generate_batch(inputs=prompts, generation_config=g, record_timestamps=True, **settings)
    short = [o for o in out.values() if len(o.generated_tokens) < n_out]
    if len(out) != batch or short:
        raise SystemExit(f"{len(out)} of {batch} answers, {len(short)} too short")
    return [o.timestamps for o in out.values()]


for b in map(int, a.batches.split()):
    last = max(run(b, a.output), key=lambda t: t[0])  # whose first token came last: from there on all decode
    half = len(last) // 2
    print(json.dumps({"kind": "peer", "peer": "transformers, continuous batching", "model": os.path.basename(a.model), "what": "decode", "batch": b,
                      "seconds": (last[half] - last[0]) / half, "note": "attention: " + str(model.config._attn_implementation)}), flush=True)
