"""Rotary frequencies as transformers computes them, for tests/data/rope.json.

    python tools/rope_tables.py > tests/data/rope.json

Needs transformers. Each record: the fields of a config.json that matter, the length of a sequence, and what
`ROPE_INIT_FUNCTIONS` (or the model's own default) gives for it: the frequencies in f32 and the factor of cosines and sines.
"""

import json

import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

CONFIGS = {
    "llama": transformers.LlamaConfig,
    "mistral": transformers.MistralConfig,
    "qwen2": transformers.Qwen2Config,
    "qwen3": transformers.Qwen3Config,
    "phi3": transformers.Phi3Config,
}

LONG = [1.0 + 0.37 * i for i in range(48)]
SHORT = [1.0 + 0.021 * i for i in range(48)]

# (family, fields, lengths)
CASES = [
    ("llama", {"rope_theta": 10000.0}, [64]),
    ("llama", {"rope_theta": 500000.0, "head_dim": 128, "max_position_embeddings": 131072,
               "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                "original_max_position_embeddings": 8192}}, [64]),
    ("llama", {"rope_theta": 500000.0, "head_dim": 64, "max_position_embeddings": 131072,
               "rope_scaling": {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                "original_max_position_embeddings": 8192}}, [64]),
    ("llama", {"rope_theta": 10000.0, "max_position_embeddings": 4096,
               "rope_scaling": {"type": "linear", "factor": 4.0}}, [64]),
    ("llama", {"rope_theta": 10000.0, "head_dim": 128, "max_position_embeddings": 2048,
               "rope_scaling": {"type": "dynamic", "factor": 2.0}}, [64, 2048, 2049, 3000, 4096]),
    ("qwen2", {"rope_theta": 1000000.0, "hidden_size": 512, "num_attention_heads": 8, "max_position_embeddings": 32768,
               "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}}, [64]),
    ("qwen3", {"rope_theta": 1000000.0, "head_dim": 128, "max_position_embeddings": 40960,
               "rope_scaling": {"rope_type": "yarn", "factor": 2.5, "original_max_position_embeddings": 16384,
                                "beta_fast": 24.0, "beta_slow": 2.0, "truncate": False}}, [64]),
    ("llama", {"rope_theta": 10000.0, "head_dim": 64, "max_position_embeddings": 65536,
               "rope_scaling": {"rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 4096,
                                "mscale": 0.707, "mscale_all_dim": 1.2}}, [64]),
    ("llama", {"rope_theta": 10000.0, "head_dim": 64, "max_position_embeddings": 65536,
               "rope_scaling": {"rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 4096,
                                "attention_factor": 1.5}}, [64]),
    ("phi3", {"rope_theta": 10000.0, "hidden_size": 384, "num_attention_heads": 4, "max_position_embeddings": 131072,
              "original_max_position_embeddings": 4096,
              "rope_scaling": {"type": "longrope", "short_factor": SHORT, "long_factor": LONG}}, [64, 4096, 4097]),
    ("phi3", {"rope_theta": 10000.0, "hidden_size": 512, "num_attention_heads": 4, "max_position_embeddings": 131072,
              "original_max_position_embeddings": 4096, "partial_rotary_factor": 0.75,
              "rope_scaling": {"type": "longrope", "short_factor": SHORT, "long_factor": LONG}}, [64, 5000]),
    ("phi3", {"rope_theta": 10000.0, "hidden_size": 384, "num_attention_heads": 4, "max_position_embeddings": 4096,
              "original_max_position_embeddings": 4096}, [64]),
    ("llama", {"rope_theta": 10000.0, "head_dim": 96, "max_position_embeddings": 32768,
               "rope_scaling": {"rope_type": "longrope", "factor": 8.0, "original_max_position_embeddings": 4096,
                                "short_factor": SHORT, "long_factor": LONG}}, [64, 4097]),
]


def main():
    records = []
    for family, fields, lengths in CASES:
        shape = {"vocab_size": 256, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1,
                 "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 512,
                 "rms_norm_eps": 1e-5, "hidden_act": "silu", "model_type": family, **fields}
        if "num_attention_heads" in fields:
            shape["num_key_value_heads"] = fields["num_attention_heads"]
        # transformers changes the dictionaries that it is given; a token it does not know is none of our concern.
        config = CONFIGS[family](**json.loads(json.dumps(shape)), pad_token_id=0)
        kind = config.rope_parameters["rope_type"]
        for length in lengths:
            if kind == "default":
                theta = config.rope_parameters["rope_theta"]
                head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
                import torch
                frequencies, factor = 1.0 / (theta ** (torch.arange(0, head, 2, dtype=torch.float) / head)), 1.0
            else:
                frequencies, factor = ROPE_INIT_FUNCTIONS[kind](config, "cpu", seq_len=length)
            records.append({"config": shape, "length": length, "frequencies": frequencies.tolist(), "factor": factor})
    print("[\n" + ",\n".join(json.dumps(r) for r in records) + "\n]")


main()
