"""Writes tests/data/peft_targets.json: which modules PEFT adapts, and with what rank and scale, for adapter configurations of every form.

    python tools/peft_targets.py > tests/data/peft_targets.json

tests/model/peft_targets.rs holds `colloquy` to it. Needs torch, transformers and PEFT; the models are shapes without weights.
"""

import json
import sys
import warnings

import peft
import torch
import transformers
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer

SIZES = dict(vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=12, num_attention_heads=2,
             num_key_value_heads=1, pad_token_id=0, bos_token_id=1, eos_token_id=2)
MODELS = {
    "llama": transformers.LlamaConfig(**SIZES),
    "qwen2": transformers.Qwen2Config(**SIZES),
    "phi3": transformers.Phi3Config(**SIZES),
}

# What differs from r = 8, lora_alpha = 16, target_modules = ["q_proj", "v_proj"]; and the models, where it is not llama.
CASES = [
    ("list of suffixes", {}, ["llama", "qwen2"]),
    ("suffix of two components", {"target_modules": ["self_attn.q_proj", "mlp.down_proj"]}),
    ("whole names", {"target_modules": ["model.layers.1.self_attn.q_proj", "model.layers.11.mlp.up_proj"]}),
    ("a component that ends alike is another", {"target_modules": ["proj", "up_proj", "p_proj"]}),
    ("names of no module are passed over", {"target_modules": ["q_proj", "c_attn", "query_key_value"]}),
    ("only names of no module", {"target_modules": ["c_attn"]}),
    ("empty list", {"target_modules": []}),
    ("all-linear", {"target_modules": "all-linear"}, ["llama", "qwen2", "phi3"]),
    ("all-linear in capitals", {"target_modules": "ALL-Linear"}),
    ("pattern", {"target_modules": r".*\.(q|v)_proj"}),
    ("pattern of some layers", {"target_modules": r"model\.layers\.(0|1[01])\..*(up|down)_proj"}),
    ("pattern that matches an end only", {"target_modules": r"q_proj"}),
    ("negative look-ahead", {"target_modules": r"(?!.*lm_head).*proj"}),
    ("look-behind", {"target_modules": r".*(?<!gate)(?<!up)_proj"}),
    ("back-reference", {"target_modules": r"model\.layers\.(\d)\1\..*proj"}),
    ("named back-reference", {"target_modules": r"model\.layers\.(?P<n>\d)(?P=n)\..*proj"}),
    ("anchors of Python's own", {"target_modules": r"\Amodel\..*q_proj\Z"}),
    ("repetition without a lower bound", {"target_modules": r"model\.layers\.1{,2}\..*q_proj"}),
    ("possessive repetition", {"target_modules": r"model\.layers\.1++\.[a-z_.]*q_proj"}),
    ("conditional", {"target_modules": r"(model\.)?(?(1).*q_proj|.*k_proj)"}),
    ("flag", {"target_modules": r"(?i).*Q_PROJ"}),
    ("alternatives at the top", {"target_modules": r".*q_proj|.*k_proj"}),
    ("pattern of the head", {"target_modules": r"(.*q_proj|lm_head)"}),
    ("head in a list", {"target_modules": ["q_proj", "lm_head"]}),
    ("embeddings in a list", {"target_modules": ["q_proj", "embed_tokens"]}),
    ("head excluded again", {"target_modules": ["q_proj", "lm_head"], "exclude_modules": ["lm_head"]}),
    ("fused modules", {"target_modules": ["qkv_proj", "gate_up_proj"]}, ["phi3"]),
    ("fused modules by pattern", {"target_modules": r".*\.(qkv|o)_proj"}, ["phi3"]),
    ("exclude list", {"target_modules": "all-linear", "exclude_modules": ["down_proj", "self_attn.o_proj"]}),
    ("exclude whole name", {"exclude_modules": ["model.layers.3.self_attn.q_proj"]}),
    ("exclude pattern", {"exclude_modules": r".*\.layers\.[0-9]\..*"}),
    ("exclude pattern matches whole names only", {"exclude_modules": r"layers\.3"}),
    ("exclude wins", {"target_modules": ["model.layers.3.self_attn.q_proj", "v_proj"], "exclude_modules": ["q_proj"]}),
    ("everything excluded", {"exclude_modules": ["q_proj", "v_proj"]}),
    ("exclude empty list", {"exclude_modules": []}),
    ("exclude empty string", {"exclude_modules": ""}),
    ("one layer", {"layers_to_transform": 1}),
    ("layer 0", {"layers_to_transform": 0}),
    ("some layers", {"layers_to_transform": [1, 10, 11, 40]}),
    ("no layer that exists", {"layers_to_transform": [40]}),
    ("empty list of layers", {"layers_to_transform": []}),
    ("layers do not bind whole names",
     {"layers_to_transform": [2], "target_modules": ["v_proj", "model.layers.5.self_attn.q_proj"]}),
    ("layers and head", {"layers_to_transform": [2], "target_modules": ["v_proj", "lm_head"]}),
    ("layers_pattern", {"layers_to_transform": [2], "layers_pattern": "layers"}),
    ("layers_pattern list", {"layers_to_transform": [2], "layers_pattern": ["h", "blocks", "layers"]}),
    ("layers_pattern of nothing here", {"layers_to_transform": [2], "layers_pattern": ["h"]}),
    ("layers_pattern with alternatives", {"layers_to_transform": [2], "layers_pattern": "h|layers"}),
    ("layers_pattern is a pattern", {"layers_to_transform": [2, 3], "layers_pattern": "la.ers"}),
    ("layers_pattern whole component", {"layers_to_transform": [2], "layers_pattern": "ayers"}),
    ("layers_pattern empty string", {"layers_to_transform": [2], "layers_pattern": ""}),
    ("layers_pattern empty list", {"layers_to_transform": [2], "layers_pattern": []}),
    ("layers_pattern without layers", {"layers_pattern": "layers"}),
    ("layers beside a pattern", {"target_modules": ".*q_proj", "layers_to_transform": [2]}),
    ("layers beside all-linear", {"target_modules": "all-linear", "layers_to_transform": [2]}),
    ("layers_pattern beside a pattern", {"target_modules": ".*q_proj", "layers_pattern": "layers"}),
    ("layers and exclude", {"layers_to_transform": [1, 2], "exclude_modules": r".*\.1\.self_attn\.q_proj"}),
    ("rank pattern by suffix", {"rank_pattern": {"q_proj": 2}}),
    ("alpha pattern by suffix", {"alpha_pattern": {"q_proj": 3}}),
    ("rank and alpha patterns", {"rank_pattern": {"q_proj": 2, "v_proj": 5}, "alpha_pattern": {"v_proj": 7}}),
    ("rank pattern by whole name", {"rank_pattern": {"model.layers.1.self_attn.q_proj": 2}}),
    ("rank pattern is a pattern", {"rank_pattern": {r"layers\.1[01]\.self_attn\.(q|v)_proj": 2}}),
    ("the first rank pattern counts", {"rank_pattern": {r".*\.1\..*": 2, "q_proj": 3, ".*": 5}}),
    ("rank pattern from a component on", {"rank_pattern": {"_proj": 2, "attn.q_proj": 3, "^v_proj": 4}}),
    ("rank pattern matches to the end", {"rank_pattern": {"q_pro": 2, "self_attn": 3, r"model\.layers\.1": 4}}),
    ("rank pattern with alternatives", {"rank_pattern": {"q_proj|v_proj": 3}}),
    ("rank pattern with a back-reference", {"rank_pattern": {r"layers\.(\d)\3\..*": 3}}),
    ("rank pattern with look-ahead", {"rank_pattern": {r"(?!.*\.3\.).*q_proj": 3}}),
    ("fused rank pattern", {"target_modules": "all-linear", "rank_pattern": {"qkv_proj": 3}}, ["phi3"]),
    ("rslora", {"use_rslora": True}),
    ("rslora with patterns", {"use_rslora": True, "rank_pattern": {"q_proj": 3}, "alpha_pattern": {r".*1\..*": 5}}),
    ("alpha no whole number", {"lora_alpha": 2.5}),
    ("rank 0", {"r": 0}),
    ("rank 0 by pattern", {"rank_pattern": {"q_proj": 0}}),
    ("broken pattern", {"target_modules": r".*(q_proj"}),
    ("pattern that closes what it did not open", {"target_modules": r".*q_proj)|(?:.*"}),
    ("broken exclude pattern", {"exclude_modules": r"*"}),
    ("broken rank pattern", {"rank_pattern": {"(": 3}}),
]


def model_of(config):
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(config)


def adapted(model, config):
    """Each adapted module with rank and scale, or the kind of error that PEFT raises."""
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wrapped = get_peft_model(model, LoraConfig(**config))
        found = {}
        for name, module in wrapped.base_model.model.named_modules():
            if isinstance(module, LoraLayer):
                found[name] = [module.r["default"], module.scaling["default"]]
        return found
    except Exception as error:  # PEFT raises ValueError, KeyError, re.error, ...
        return type(error).__name__


def main():
    models = {}
    for name, config in MODELS.items():
        head = "lm_head"
        linears = [(n, m) for n, m in model_of(config).named_modules() if isinstance(m, torch.nn.Linear) and n != head]
        models[name] = [[n, m.in_features, m.out_features] for n, m in linears]
    cases = []
    for title, change, *where in CASES:
        config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 8, "lora_alpha": 16,
                  "target_modules": ["q_proj", "v_proj"], **change}
        for name in where[0] if where else ["llama"]:
            expected = adapted(model_of(MODELS[name]), {k: v for k, v in config.items() if k != "peft_type"})
            cases.append({"name": title, "model": name, "config": config, "expected": expected})
    print(json.dumps({"peft": peft.__version__, "transformers": transformers.__version__})[:-1] + ',\n"models": {')
    print(",\n".join(f"{json.dumps(n)}: {json.dumps(m)}" for n, m in models.items()) + '\n},\n"cases": [')
    print(",\n".join(json.dumps(case) for case in cases) + "\n]}")
    refused = sum(isinstance(c["expected"], str) for c in cases)
    print(f"{len(cases)} cases, {refused} of them refused by PEFT", file=sys.stderr)


if __name__ == "__main__":
    main()
