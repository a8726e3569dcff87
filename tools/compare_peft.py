"""Compares colloquy with transformers and PEFT on adapters of every shape, both ways, on tiny random models.

    cargo build --release && python tools/compare_peft.py [--colloquy target/release/colloquy]

PEFT writes adapters (each form of target_modules, exclude_modules, layers_to_transform, rank_pattern and alpha_pattern, rslora, files in
f32, f16 and bf16); `colloquy score` scores with all of them in one batch and `colloquy merge` merges them; `colloquy train` writes
adapters that PEFT loads. Log-probabilities and merged weights are compared, and features that are not supported must be refused by name.
A family that colloquy cannot load is skipped with a line. Prints a table; exit code 1 on any difference.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import torch
import transformers
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

warnings.simplefilter("ignore")
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
ROOT = Path(__file__).resolve().parent.parent
VOCAB = 128
BOUND = 2e-4
SIZES = dict(vocab_size=VOCAB, hidden_size=64, intermediate_size=96, num_hidden_layers=4, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=128, initializer_range=0.2, pad_token_id=0, bos_token_id=1,
             eos_token_id=2)
FAMILIES = {
    "llama": transformers.LlamaConfig(**SIZES),
    "llama, biases, tied": transformers.LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True,
                                                    tie_word_embeddings=True),
    "mistral": transformers.MistralConfig(**SIZES, sliding_window=9),
    "qwen2": transformers.Qwen2Config(**SIZES),
    "qwen3": transformers.Qwen3Config(**SIZES, head_dim=24),
    "phi3": transformers.Phi3Config(**SIZES),
}

# What differs from r = 4, lora_alpha = 8, target_modules = "all-linear"; the type of the file; families if not all.
SPLIT = ["llama", "llama, biases, tied", "mistral", "qwen2", "qwen3"]
CASES = {
    "all-linear": ({}, torch.float32),
    "f16 file": ({}, torch.float16),
    "bf16 file": ({}, torch.bfloat16),
    "rslora": ({"r": 6, "use_rslora": True}, torch.float32),
    "pattern": ({"target_modules": r".*\.(o|down)_proj"}, torch.float32),
    "look-ahead": ({"target_modules": r"(?!.*lm_head)(?!.*\.2\.).*proj"}, torch.float32),
    "exclude list": ({"exclude_modules": ["down_proj"]}, torch.float32),
    "exclude pattern": ({"exclude_modules": r".*\.[13]\..*"}, torch.float32),
    "layers": ({"target_modules": ["o_proj", "down_proj"], "layers_to_transform": [0, 3]}, torch.float32),
    "one layer": ({"target_modules": ["o_proj"], "layers_to_transform": 2, "layers_pattern": "layers"}, torch.float32),
    "rank pattern": ({"rank_pattern": {"o_proj": 7, r"layers\.[12]\.mlp\..*": 2}}, torch.float32),
    "rank and alpha": ({"rank_pattern": {"down_proj": 16}, "alpha_pattern": {r".*\.0\..*": 3, "down_proj": 20}},
                       torch.float32),
    "rslora, patterns": ({"use_rslora": True, "rank_pattern": {"o_proj": 3}, "alpha_pattern": {"o_proj": 5}},
                         torch.float16),
    "suffixes": ({"target_modules": ["q_proj", "v_proj"]}, torch.float32, SPLIT),
    "longer suffixes": ({"target_modules": ["self_attn.k_proj", "mlp.up_proj", "c_attn"]}, torch.float32, SPLIT),
    "whole names": ({"target_modules": ["model.layers.1.self_attn.q_proj", "model.layers.2.mlp.gate_proj"]},
                    torch.bfloat16, SPLIT),
    "fused modules": ({"target_modules": ["qkv_proj", "gate_up_proj"]}, torch.float32, ["phi3"]),
}

# What PEFT writes and colloquy refuses, and the field it has to name.
REFUSED = {
    "use_dora": {"use_dora": True},
    "lora_bias": {"lora_bias": True},
    "bias": {"bias": "all"},
    "modules_to_save": {"modules_to_save": ["lm_head"]},
    "target_modules": {"target_modules": ["o_proj", "lm_head"]},
    "trainable_token_indices": {"trainable_token_indices": [3, 4]},
    "layer_replication": {"layer_replication": [[0, 3], [2, 4]]},
    "init_lora_weights": {"init_lora_weights": "olora"},
    "alora_invocation_tokens": {"alora_invocation_tokens": [5, 6]},
}
SEQUENCES = [[(i * i + 5 * i * k + k) % VOCAB for i in range(n)] for k, n in ((1, 40), (2, 17), (3, 64))]
TRAINED = {"t0": "new:rank=3,alpha=9", "t1": "new:rank=16,alpha=5,rslora=true,targets=o_proj+down_proj"}


class Table:
    """Rows of name and difference; what is beyond its bound is counted."""

    def __init__(self):
        self.failures = 0

    def row(self, model, what, found, good):
        self.failures += not good
        print(f"{model:<20} {what:<52} {found:<32} {'ok' if good else 'DIFFERS'}", flush=True)

    def number(self, model, what, off):
        self.row(model, what, f"{off:.1e} (allowed {BOUND:.0e})", off <= BOUND)


class Program:
    """colloquy in a folder."""

    def __init__(self, path, folder):
        self.path, self.folder = path, folder

    def __call__(self, *args):
        return subprocess.run([self.path, *map(str, args)], cwd=self.folder, capture_output=True, text=True)

    def must(self, *args):
        done = self(*args)
        if done.returncode:
            sys.exit(f"colloquy {' '.join(map(str, args))}\n{done.stderr}")
        return done

    def score(self, model, adapters):
        """Log-probabilities of every sequence under every adapter, all in one batch; None is the base."""
        records = [{"adapter": name, "tokens": s} for name in adapters for s in SEQUENCES]
        (self.folder / "in.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
        named = [a for name, path in adapters.items() if name for a in ("--adapter", f"{name}={path}")]
        done = self("score", "--model", model, *named, "--input", "in.jsonl", "--output", "-", "--device", "cpu")
        if done.returncode:
            return None, done.stderr.strip()
        scores = [torch.tensor(json.loads(line)["logprobs"][1:]) for line in done.stdout.splitlines()]
        return dict(zip(adapters, zip(*[iter(scores)] * len(SEQUENCES)))), ""


@torch.inference_mode()
def reference(model):
    found = []
    for tokens in SEQUENCES:
        logprobs = model(torch.tensor([tokens])).logits[0, :-1].float().log_softmax(-1)
        found.append(logprobs.gather(1, torch.tensor(tokens[1:])[:, None])[:, 0])
    return found


def load(folder, adapter=None, dtype=torch.float32):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager")
    return (PeftModel.from_pretrained(model, adapter) if adapter else model).eval()


def farthest(a, b):
    return max((x - y).abs().max().item() for x, y in zip(a, b))


def write_adapter(base, folder, config, dtype=torch.float32):
    """An adapter of random numbers, written by PEFT, its tensors in `dtype`."""
    model = get_peft_model(load(base), config)
    torch.manual_seed(sum(map(ord, folder.name)))
    for name, parameter in model.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.12)
    model.save_pretrained(folder)
    path = folder / "adapter_model.safetensors"
    save_file({n: t.to(dtype).contiguous() for n, t in load_file(path).items()}, path, metadata={"format": "pt"})


def config_of(change):
    return LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **change})


def check_family(family, config, program, table):
    base = program.folder / family.replace(", ", "-")
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(base)
    scores, error = program.score(base, {None: ""})
    if scores is None:
        _, of_field, why = error.splitlines()[-1].partition("field architectures: ")
        if not of_field:
            sys.exit(f"{family}: {error}")
        print(f"{family:<20} skipped: {why}")
        return False
    table.number(family, "base", farthest(scores[None], reference(load(base))))

    adapters = {}
    for case, (change, dtype, *where) in CASES.items():
        if not where or family in where[0]:
            folder = base.parent / f"{base.name}-adapters" / case.replace(", ", "-").replace(" ", "-")
            write_adapter(base, folder, config_of(change), dtype)
            adapters[case] = folder
    names = {case: folder.name for case, folder in adapters.items()}
    scores, error = program.score(base, {None: "", **{names[c]: f for c, f in adapters.items()}})
    if scores is None:
        sys.exit(f"{family}: {error}")
    plain = scores[None]
    for case, folder in adapters.items():
        expected = reference(load(base, folder))
        assert farthest(expected, plain) > 0.05, f"{case} changes nothing"
        table.number(family, f"PEFT's adapter: {case}", farthest(scores[names[case]], expected))
        merged = program.folder / "merged"
        program.must("merge", "--model", base, "--adapter", f"{names[case]}={folder}", "--output", merged, "--force")
        table.number(family, f"merged, read by transformers: {case}", farthest(reference(load(merged)), expected))
    check_merged_types(family, base, adapters["rank and alpha"], program, table)
    check_trained(family, base, adapters["rank pattern"], program, table)
    return True


def check_merged_types(family, base, adapter, program, table):
    """Weights in 16 bits beside PEFT's own merge, rounded."""
    expected = load(base, adapter).merge_and_unload().state_dict()
    for name, dtype in {"bf16": torch.bfloat16, "f16": torch.float16}.items():
        merged = program.folder / name
        program.must("merge", "--model", base, "--adapter", f"x={adapter}", "--output", merged, "--dtype", name, "--force")
        found = AutoModelForCausalLM.from_pretrained(merged)
        same = found.dtype == dtype and found.config.dtype == dtype
        differ = total = 0
        for key, value in found.state_dict().items():
            rounded = expected[key].to(dtype)
            # PEFT's sums are in f32, so a number in a thousand or so may lie on the other side of a tie.
            differ += (rounded != value).sum().item()
            total += value.numel()
            same &= torch.allclose(value.float(), rounded.float(), rtol=2 * torch.finfo(dtype).eps, atol=1e-7)
        table.row(family, f"merged as {name}, beside PEFT's merge", f"{differ} of {total} off by a last bit",
                  same and differ * 1000 <= total)


def check_trained(family, base, start, program, table):
    """Adapters that colloquy trains, one of them on from PEFT's, loaded by PEFT."""
    data = [{"tokens": s} for s in SEQUENCES]
    (program.folder / "data.jsonl").write_text("".join(json.dumps(r) + "\n" for r in data))
    sources = {**TRAINED, "t2": start}
    args = [a for n, s in sources.items() for a in ("--adapter", f"{n}={s}", "--data", f"{n}=data.jsonl")]
    program.must("train", "--model", base, *args, "--output", "trained", "--force", "--max-steps", 4, "--learning-rate",
                 "2e-2", "--device", "cpu")
    folders = {name: program.folder / "trained" / name for name in sources}
    scores, error = program.score(base, {None: "", **folders})
    if scores is None:
        sys.exit(f"{family}: {error}")
    for name, folder in folders.items():
        expected = reference(load(base, folder))
        assert farthest(expected, scores[None]) > 0.05, f"{name} has learnt nothing"
        source = sources[name] if isinstance(sources[name], str) else "on from PEFT's"
        table.number(family, f"trained here: {source[:28]}", farthest(scores[name], expected))


def check_refused(program, table):
    base = program.folder / "llama"
    cases = {field: config_of(change) for field, change in REFUSED.items()}
    cases["peft_type"] = IA3Config(target_modules=["o_proj"], feedforward_modules=[], task_type="CAUSAL_LM")
    for field, config in cases.items():
        folder = program.folder / "refused" / field
        write_adapter(base, folder, config)
        scores, error = program.score(base, {"x": folder})
        line = next((line for line in error.splitlines() if line.startswith("error: ")), "no error")
        good = scores is None and f"adapter_config.json, field {field}: found" in line and "expected" in line
        table.row("llama", f"refused: {field}", "" if good else line, good)


def check_embedded(program, table):
    """The embedded model: text through its tokenizer, trained here, merged here, read by transformers."""
    source = ROOT / "assets" / "model"
    (program.folder / "text.jsonl").write_text(json.dumps({"text": "3+4*5 is 23. The answer is 23."}) + "\n")
    program.must("train", "--model", "embedded", "--adapter", "e=new:rank=4", "--data", "e=text.jsonl", "--output", "of-embedded",
                 "--force", "--max-steps", 3, "--learning-rate", "1e-2", "--device", "cpu")
    adapter = program.folder / "of-embedded" / "e"
    scores, error = program.score("embedded", {"e": adapter})
    if scores is None:
        sys.exit(f"embedded: {error}")
    expected = reference(load(source, adapter))
    table.number("embedded", "trained here", farthest(scores["e"], expected))
    merged = program.folder / "merged-embedded"
    program.must("merge", "--model", "embedded", "--adapter", f"e={adapter}", "--output", merged, "--dtype", "f32", "--force")
    table.number("embedded", "merged, read by transformers", farthest(reference(load(merged)), expected))
    words = "12+7 is 19"
    tokens = [transformers.AutoTokenizer.from_pretrained(f)(words)["input_ids"] for f in (source, merged)]
    table.row("embedded", "merged, its tokenizer", str(tokens[1])[:30], tokens[0] == tokens[1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--colloquy", type=Path, default=ROOT / "target" / "release" / "colloquy", help="the program")
    arguments = parser.parse_args()
    table = Table()
    with tempfile.TemporaryDirectory() as folder:
        program = Program(arguments.colloquy.resolve(), Path(folder))
        loaded = [family for family, config in FAMILIES.items() if check_family(family, config, program, table)]
        check_refused(program, table)
        check_embedded(program, table)
    print(f"{', '.join(loaded)}: " + ("no difference" if table.failures == 0 else f"{table.failures} DIFFERENCES"))
    sys.exit(1 if table.failures else 0)


if __name__ == "__main__":
    main()
