"""Log-probabilities of shrunk models of every family, as transformers computes them, for tests/data/families.json.

    python tools/family_fixtures.py > tests/data/families.json

Needs transformers and torch. A model has the field values of its published config.json but for sizes: few layers, heads and tokens. Weights
are a formula of the tensor's name and the element's number (`weights` below, and in tests/model/families.rs), so that no weights are kept.
"""

import json
import sys

import numpy as np
import torch
import transformers

# Of microsoft/Phi-3.5-mini-instruct.
LONG = [
    1.0800000429153442, 1.1100000143051147, 1.1399999856948853, 1.340000033378601, 1.5899999141693115, 1.600000023841858,
    1.6200000047683716, 2.620000123977661, 3.2300000190734863, 3.2300000190734863, 4.789999961853027, 7.400000095367432,
    7.700000286102295, 9.09000015258789, 12.199999809265137, 17.670000076293945, 24.46000099182129, 28.57000160217285,
    30.420001983642578, 30.840002059936523, 32.590003967285156, 32.93000411987305, 42.320003509521484, 44.96000289916992,
    50.340003967285156, 50.45000457763672, 57.55000305175781, 57.93000411987305, 58.21000289916992, 60.1400032043457,
    62.61000442504883, 62.62000274658203, 62.71000289916992, 63.1400032043457, 63.1400032043457, 63.77000427246094,
    63.93000411987305, 63.96000289916992, 63.970001220703125, 64.02999877929688, 64.06999969482422, 64.08000183105469,
    64.12000274658203, 64.41000366210938, 64.4800033569336, 64.51000213623047, 64.52999877929688, 64.83999633789062,
]
SHORT = [
    1.0, 1.0199999809265137, 1.0299999713897705, 1.0299999713897705, 1.0499999523162842, 1.0499999523162842,
    1.0499999523162842, 1.0499999523162842, 1.0499999523162842, 1.0699999332427979, 1.0999999046325684, 1.1099998950958252,
    1.1599998474121094, 1.1599998474121094, 1.1699998378753662, 1.2899998426437378, 1.339999794960022, 1.679999828338623,
    1.7899998426437378, 1.8199998140335083, 1.8499997854232788, 1.8799997568130493, 1.9099997282028198, 1.9399996995925903,
    1.9899996519088745, 2.0199997425079346, 2.0199997425079346, 2.0199997425079346, 2.0199997425079346, 2.0199997425079346,
    2.0199997425079346, 2.0299997329711914, 2.0299997329711914, 2.0299997329711914, 2.0299997329711914, 2.0299997329711914,
    2.0299997329711914, 2.0299997329711914, 2.0299997329711914, 2.0299997329711914, 2.0799996852874756, 2.0899996757507324,
    2.189999580383301, 2.2199995517730713, 2.5899994373321533, 2.729999542236328, 2.749999523162842, 2.8399994373321533,
]

COMMON = {"hidden_act": "silu", "vocab_size": 128, "num_hidden_layers": 2, "attention_dropout": 0.0, "use_cache": True,
          "bos_token_id": 1, "eos_token_id": 2}

# (name, what is published, lengths of the sequences to score)
MODELS = [
    ("llama-2-7b", {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 256, "intermediate_size": 96,
                    "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 4096, "rms_norm_eps": 1e-05,
                    "rope_scaling": None, "pretraining_tp": 1, "tie_word_embeddings": False}, [40]),
    ("llama-3.2-1b", {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 256, "head_dim": 64,
                      "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 1, "attention_bias": False,
                      "mlp_bias": False, "max_position_embeddings": 131072, "rms_norm_eps": 1e-05, "rope_theta": 500000.0,
                      "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                                       "original_max_position_embeddings": 8192, "rope_type": "llama3"},
                      "tie_word_embeddings": True}, [40, 700]),
    ("mistral-7b-v0.1", {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "hidden_size": 256,
                         "intermediate_size": 96, "num_attention_heads": 2, "num_key_value_heads": 1,
                         "max_position_embeddings": 32768, "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "sliding_window": 4096,
                         "tie_word_embeddings": False}, [40, 4200]),
    ("qwen2.5-7b-yarn", {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 256, "intermediate_size": 96,
                         "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 32768,
                         "max_window_layers": 28, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "sliding_window": 131072,
                         "use_sliding_window": False, "tie_word_embeddings": False,
                         "rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 32768, "type": "yarn"}}, [40, 700]),
    ("qwen3-0.6b", {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "attention_bias": False, "head_dim": 128,
                    "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 2, "num_key_value_heads": 1,
                    "max_position_embeddings": 40960, "max_window_layers": 28, "rms_norm_eps": 1e-06, "rope_scaling": None,
                    "rope_theta": 1000000, "sliding_window": None, "use_sliding_window": False, "tie_word_embeddings": True},
     [40, 700]),
    ("phi-3.5-mini", {"architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "hidden_size": 192, "intermediate_size": 96,
                      "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 131072,
                      "original_max_position_embeddings": 4096, "rms_norm_eps": 1e-05, "resid_pdrop": 0.0, "embd_pdrop": 0.0,
                      "rope_theta": 10000.0, "rope_scaling": {"long_factor": LONG, "short_factor": SHORT, "type": "longrope"},
                      "sliding_window": 262144, "tie_word_embeddings": False, "attention_bias": False}, [40, 4200]),
    # Part of a head is rotated, as in Phi-4-mini; windows in some layers; frequencies by length.
    ("phi-partial", {"architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "hidden_size": 256, "intermediate_size": 96,
                     "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 1024,
                     "original_max_position_embeddings": 64, "partial_rotary_factor": 0.75, "rms_norm_eps": 1e-05,
                     "rope_scaling": {"long_factor": LONG, "short_factor": SHORT, "type": "longrope"}, "sliding_window": 30,
                     "rope_theta": 10000.0, "tie_word_embeddings": True}, [40, 64, 65, 200]),
    ("qwen2-windows", {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 64, "intermediate_size": 96,
                       "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 1024, "num_hidden_layers": 3,
                       "max_window_layers": 2, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "sliding_window": 20,
                       "use_sliding_window": True, "tie_word_embeddings": False}, [40, 100]),
    ("llama-dynamic", {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 96,
                       "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64, "rms_norm_eps": 1e-05,
                       "rope_theta": 10000.0, "rope_scaling": {"type": "dynamic", "factor": 4.0}, "attention_bias": True,
                       "mlp_bias": True, "tie_word_embeddings": False}, [40, 64, 65, 130, 256]),
]

# Log-probabilities are kept of so many tokens at the end.
KEPT = 32
MASK = (1 << 64) - 1


def mix(z):
    """SplitMix64's finaliser, of an array."""
    z = z.astype(np.uint64)
    with np.errstate(over="ignore"):
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def unit(name, count):
    """`count` numbers in -1 .. 1, by FNV-1a of the name."""
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = ((seed ^ byte) * 0x100000001B3) & MASK
    with np.errstate(over="ignore"):
        bits = mix(np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40)
    return (bits.astype(np.float32) / np.float32(1 << 23) - np.float32(1.0)).astype(np.float32)


def weights(name, shape):
    """A matrix about as large as training makes it, a norm around 1, a bias around 0."""
    u = unit(name, int(np.prod(shape)))
    if len(shape) == 2:
        return (u * np.float32(2.0 / np.sqrt(np.float32(shape[1])))).reshape(shape)
    if name.endswith(".bias"):
        return u * np.float32(0.3)
    return np.float32(1.0) + u * np.float32(0.3)


def main():
    records = []
    for name, fields, lengths in MODELS:
        config = {**COMMON, **fields}
        given = json.loads(json.dumps(config))
        kind = transformers.AutoConfig.for_model(given.pop("model_type"), **given, pad_token_id=0)
        model = transformers.AutoModelForCausalLM.from_config(kind, attn_implementation="eager", dtype=torch.float32).eval()
        with torch.no_grad():
            for tensor, parameter in model.named_parameters():
                parameter.copy_(torch.from_numpy(weights(tensor, tuple(parameter.shape)).copy()))
        sequences = []
        for length in lengths:
            ids = [3 + int(i) % 120 for i in mix(np.arange(1000 * length, 1001 * length, dtype=np.uint64)) >> np.uint64(40)]
            with torch.no_grad():
                logits = model(torch.tensor([ids])).logits[0].double()
            logprobs = logits.log_softmax(-1)[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
            sequences.append({"tokens": ids, "logprobs": [round(x, 7) for x in logprobs[-KEPT:].tolist()]})
        print(name, [s["logprobs"][-3:] for s in sequences], file=sys.stderr)
        records.append({"name": name, "config": config, "sequences": sequences})
    print("[\n" + ",\n".join(json.dumps(r) for r in records) + "\n]")


if __name__ == "__main__":
    main()
