#!/usr/bin/env python3
"""Peer: nano-vllm, from a checkout that the caller has, with a flash_attn module in it or beside it; bf16, CUDA graphs.

usage: nano_vllm.py CHECKOUT MODEL_FOLDER --input N --output N --batches "1 16"
nano-vllm reads weights from files: random ones are written beside the model's config first. Prints a JSON object a line: the
decode step as (time of N tokens - time of N/4) / (3N/4)."""
import argparse, json, os, sys, time, torch

ap = argparse.ArgumentParser(usage=__doc__)
ap.add_argument("checkout"); ap.add_argument("model"); ap.add_argument("--input", type=int); ap.add_argument("--output", type=int); ap.add_argument("--batches")
a = ap.parse_args()
sys.path[:0] = [a.checkout, os.path.dirname(os.path.abspath(a.checkout))]


def write_weights():
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM
    torch.set_default_device("cuda")
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(a.model), dtype=torch.bfloat16)
    torch.set_default_device("cpu")
    tied = model.config.tie_word_embeddings
    save_file({k: v.cpu().contiguous() for k, v in model.state_dict().items() if not (tied and k == "lm_head.weight")}, os.path.join(a.model, "model.safetensors"))
    del model
    torch.cuda.empty_cache()


if not os.path.exists(os.path.join(a.model, "model.safetensors")):
    write_weights()
from nanovllm import LLM, SamplingParams
most = max(map(int, a.batches.split()))
llm = LLM(a.model, enforce_eager=False, max_model_len=a.input + a.output + 8, max_num_seqs=most)


def seconds(batch, n_out):
    prompts = torch.randint(1000, (batch, a.input)).tolist()
    start = time.perf_counter()
    llm.generate(prompts, SamplingParams(temperature=1.0, ignore_eos=True, max_tokens=n_out), use_tqdm=False)
    return time.perf_counter() - start


seconds(1, 4)
for b in map(int, a.batches.split()):
    few = max(a.output // 4, 1)
    step = (seconds(b, a.output) - seconds(b, few)) / (a.output - few)
    print(json.dumps({"kind": "peer", "peer": "nano-vllm", "model": os.path.basename(a.model), "what": "decode", "batch": b, "seconds": step}), flush=True)
