"""Optimizer steps on weights of both signs, as PyTorch makes them, for tests/data/weighted_loss.json.

    python tools/weighted_loss.py > tests/data/weighted_loss.json

Needs torch, transformers and peft. Model, adapters and tokens are those of tests/fixtures/llama. The loss is Σ w·nll / Z, for each
normalizer; everything is computed in f64. Kept are losses and gradient norms of three AdamW steps, and what each adapter makes of the
log-probabilities of a sequence before and after them.
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from peft import PeftModel
from safetensors import safe_open

FOLDER = Path(__file__).resolve().parent.parent / "tests/fixtures/llama"
# Adapter and the sequences it trains on.
ADAPTERS = {"a": [0, 1, 2], "b": [2, 3]}
# The weights of each sequence repeat these; their sum is above 0 for both adapters.
CYCLES = [[0.0, 1.5, -0.75, 2.0], [1.0, -1.0, 0.5], [-2.0, -0.25, 0.0, 3.0, 1.0], [-1.0, 0.125, 2.0]]
NORMALIZERS = ["weights", "tokens", "sequences", 7.5]
STEPS = 3
OPTIMIZER = dict(lr=0.01, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1)


def nlls(model, tokens):
    """Minus the log-probability of each token but the first."""
    logprobs = model(tokens[None]).logits[0].log_softmax(-1)
    return -logprobs[:-1].gather(1, tokens[1:, None])[:, 0]


def divisor(normalizer, weights):
    """Z. The first token is never predicted."""
    if normalizer == "weights":
        return sum(w[1:].sum() for w in weights)
    if normalizer == "tokens":
        return sum((w[1:] != 0).sum() for w in weights)
    if normalizer == "sequences":
        return len(weights)
    return normalizer


def train(adapter, normalizer, sequences, weights):
    base = transformers.AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float64)
    model = PeftModel.from_pretrained(base, FOLDER / "adapters" / adapter, is_trainable=True).double().train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, **OPTIMIZER)
    own = ADAPTERS[adapter]
    scored = sequences[own[0]]
    logprobs = lambda: (-nlls(model, scored)).detach().tolist()
    record = {"adapter": adapter, "normalizer": str(normalizer), "sequences": own, "before": logprobs()}
    record |= {"loss": [], "grad_norm": []}
    for _ in range(STEPS):
        optimizer.zero_grad()
        total = sum((weights[i][1:] * nlls(model, sequences[i])).sum() for i in own)
        loss = total / divisor(normalizer, [weights[i] for i in own])
        loss.backward()
        record["grad_norm"].append(torch.nn.utils.clip_grad_norm_(trained, 1.0).item())
        record["loss"].append(loss.item())
        optimizer.step()
    record["after"] = logprobs()
    return record


def main():
    with safe_open(FOLDER / "reference.safetensors", "pt") as reference:
        sequences = [reference.get_tensor(f"input.{i}.ids").flatten() for i in range(len(CYCLES))]
    weights = [torch.tensor((cycle * len(s))[: len(s)], dtype=torch.float64) for cycle, s in zip(CYCLES, sequences)]
    runs = [train(adapter, n, sequences, weights) for n in NORMALIZERS for adapter in ADAPTERS]
    rounded = [{k: [float(f"{x:.9g}") for x in v] if isinstance(v[0], float) else v for k, v in r.items()} for r in runs]
    data = [json.dumps({"tokens": s.tolist(), "weights": w.tolist()}) for s, w in zip(sequences, weights)]
    print('{"torch": "%s",\n"sequences": [\n%s\n],' % (torch.__version__, ",\n".join(data)))
    print('"runs": [\n%s\n]}' % ",\n".join(map(json.dumps, rounded)))


if __name__ == "__main__":
    sys.exit(main())
