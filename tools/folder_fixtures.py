"""Log-probabilities of shrunk model folders as transformers reads them, for tests/data/folders.json.

    python tools/folder_fixtures.py > tests/data/folders.json

Needs transformers and torch. Each folder has what some program or person left in one: fields that are absent or given twice, ends that are
tied by config.json and not by the weights. Weights are the formula of tools/family_fixtures.py, by the tensor's name or the one in `stored`.
"""

import json
import pathlib
import sys
import tempfile

import safetensors.torch
import torch
import transformers
from family_fixtures import LONG, SHORT, mix, weights

SIZES = {"vocab_size": 128, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2,
         "num_key_value_heads": 1, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
LLAMA = {**SIZES, "architectures": ["LlamaForCausalLM"], "model_type": "llama", "max_position_embeddings": 256, "rms_norm_eps": 1e-5,
         "rope_theta": 10000.0, "tie_word_embeddings": False}
QWEN3 = {**SIZES, "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "head_dim": 32, "max_position_embeddings": 256,
         "rms_norm_eps": 1e-6, "tie_word_embeddings": False}
TIED = {**LLAMA, "tie_word_embeddings": True}
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def family(model_type, architecture, **fields):
    """A config.json with sizes alone."""
    return {**SIZES, "architectures": [architecture], "model_type": model_type, **fields}


# (name, config.json, tensors stored otherwise than by their own name's formula or not at all, tokens of the sequence to score)
FOLDERS = [
    # What each family takes for absent fields. The epsilon of the norms and the base of the frequencies show in every number.
    ("llama-absent", family("llama", "LlamaForCausalLM"), {}, 60),
    ("mistral-absent", family("mistral", "MistralForCausalLM"), {}, 60),
    ("qwen2-absent", family("qwen2", "Qwen2ForCausalLM"), {}, 60),
    ("qwen3-absent", family("qwen3", "Qwen3ForCausalLM"), {}, 60),
    ("phi3-absent", family("phi3", "Phi3ForCausalLM"), {}, 60),
    # The family is model_type's.
    ("fsdp", {**LLAMA, "architectures": ["FSDPLlamaForCausalLM"]}, {}, 40),
    ("no-architectures", {k: v for k, v in QWEN3.items() if k != "architectures"}, {}, 40),
    # Rotary parameters in two places.
    ("scaling-beside-parameters", {**QWEN3, "rope_theta": 1e6, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5},
                                   "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}}, {}, 90),
    ("scaling-with-theta", {**QWEN3, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5},
                            "rope_scaling": {"type": "linear", "factor": 2.0, "rope_theta": 1e6}}, {}, 90),
    ("empty-scaling", {**QWEN3, "rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 5e5}, "rope_scaling": {}}, {}, 90),
    ("theta-outside-parameters", {**QWEN3, "rope_theta": 5e5, "rope_parameters": {"rope_type": "linear", "factor": 3.0}}, {}, 90),
    ("theta-twice", {**QWEN3, "rope_theta": 1e4, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, {}, 90),
    ("types-twice", {**QWEN3, "rope_theta": 5e5, "rope_scaling": {"type": "dynamic", "rope_type": "linear", "factor": 3.0}}, {}, 90),
    ("original-outside", {**LLAMA, "original_max_position_embeddings": 32,
                          "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                           "original_max_position_embeddings": 128}}, {}, 90),
    ("yarn-null-factor", {**LLAMA, "rope_scaling": {"rope_type": "yarn", "factor": None, "original_max_position_embeddings": 64}}, {}, 90),
    ("yarn-null-truncate", {**LLAMA, "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64,
                                                      "truncate": None}}, {}, 90),
    # 4096 is what the family has for original_max_position_embeddings.
    ("phi3-longrope-absent", family("phi3", "Phi3ForCausalLM", hidden_size=192, max_position_embeddings=8192,
                                    rope_scaling={"type": "longrope", "long_factor": LONG, "short_factor": SHORT}), {}, 90),
    # Mistral's layer types make it Ministral.
    ("mistral-layer-types", family("mistral", "MistralForCausalLM", sliding_window=8, head_dim=32, rms_norm_eps=1e-5,
                                   layer_types=["full_attention", "sliding_attention"]), {}, 60),
    ("qwen2-layer-types", family("qwen2", "Qwen2ForCausalLM", sliding_window=8, use_sliding_window=True, max_window_layers=0,
                                 layer_types=["sliding_attention", "full_attention"]), {}, 60),
    ("swish", {**LLAMA, "hidden_act": "swish"}, {}, 40),
    # Ends that config.json ties.
    ("tied", TIED, {}, 40),
    ("tied-stored-twice", TIED, {HEAD: EMBEDDING}, 40),
    ("tied-other-head", TIED, {HEAD: HEAD}, 40),
    ("tied-only-head", TIED, {HEAD: HEAD, EMBEDDING: None}, 40),
]

# Log-probabilities are kept of so many tokens at the end.
KEPT = 16


def tensors(config, stored):
    """The tensors of a folder: those of the model that transformers makes of its fields, and those of `stored`."""
    fields = dict(config)
    kind = transformers.AutoConfig.for_model(fields.pop("model_type"), **fields)
    model = transformers.AutoModelForCausalLM.from_config(kind, dtype=torch.float32)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    sources = {name: name for name in shapes}
    for name, source in stored.items():
        sources[name] = source
        shapes.setdefault(name, shapes[EMBEDDING])
    return {n: torch.from_numpy(weights(source, shapes[n]).copy()) for n, source in sources.items() if source}


def main():
    records = []
    for name, config, stored, length in FOLDERS:
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            (folder / "config.json").write_text(json.dumps(config))
            safetensors.torch.save_file(tensors(config, stored), folder / "model.safetensors", metadata={"format": "pt"})
            read = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
        ids = [3 + int(i) % 120 for i in mix(torch.arange(7000, 7000 + length).numpy()) >> 40]
        with torch.no_grad():
            logits = read(torch.tensor([ids])).logits[0].double()
        logprobs = logits.log_softmax(-1)[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
        kept = [round(x, 7) for x in logprobs[-KEPT:].tolist()]
        print(name, kept[-3:], file=sys.stderr)
        records.append({"name": name, "config": config, "stored": stored, "tokens": ids, "logprobs": kept})
    print("[\n" + ",\n".join(json.dumps(r) for r in records) + "\n]")


if __name__ == "__main__":
    main()
