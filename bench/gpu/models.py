#!/usr/bin/env python3
"""Folders of models without weights, for --load-format dummy: the shapes of Qwen3-0.6B and Qwen3-8B, and a tiny one.

usage: models.py TOKENIZER_FOLDER OUT
The tokenizer is a small one: benchmarks send token ids or count what the server counts, so its words do not matter."""
import json, os, shutil, sys

source, out = sys.argv[1:3]
COMMON = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "attention_bias": False, "attention_dropout": 0.0,
          "bos_token_id": None, "eos_token_id": 1018, "pad_token_id": None, "hidden_act": "silu", "initializer_range": 0.02,
          "max_position_embeddings": 40960, "rms_norm_eps": 1e-6, "rope_theta": 1000000, "sliding_window": None,
          "use_cache": True, "use_sliding_window": False, "dtype": "bfloat16", "torch_dtype": "bfloat16"}


def model(name, hidden, inter, layers, heads, kv_heads, dim, vocab, tied):
    folder = os.path.join(out, name)
    os.makedirs(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(os.path.join(source, file), folder)
    config = COMMON | {"hidden_size": hidden, "intermediate_size": inter, "num_hidden_layers": layers, "max_window_layers": layers,
                       "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": dim, "vocab_size": vocab,
                       "tie_word_embeddings": tied}
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(config, f, indent=1)


model("Qwen3-0.6B", 1024, 3072, 28, 16, 8, 128, 151936, True)
model("Qwen3-8B", 4096, 12288, 36, 32, 8, 128, 151936, False)
model("tiny", 64, 96, 2, 4, 2, 32, 1024, True)
