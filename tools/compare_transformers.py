"""Compares greedy continuations of `colloquy generate` with transformers in float32, token by token.

Each generated token must be the most probable one after the tokens before it. A token that is not, but whose logit is within
--tie of the largest, is a near tie: it is reported, and the comparison goes on along colloquy's continuation. A stop must be
at an end-of-sequence token. Exit code 1 if anything differs.

    colloquy generate --model DIR --input prompts.jsonl --output out.jsonl      (temperature 0 in every record)
    python tools/compare_transformers.py DIR prompts.jsonl out.jsonl
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def records(path):
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def prompt_tokens(record, tokenizer):
    """Token ids of a prompt record: tokens, text, prompt or messages."""
    if record.get("adapter") is not None:
        sys.exit(f"record {record.get('id')}: compares the base model only, but has an adapter")
    if "tokens" in record:
        return record["tokens"]
    for field in ("text", "prompt"):
        if field in record:
            return tokenizer(record[field], add_special_tokens=False).input_ids
    text = tokenizer.apply_chat_template(record["messages"], add_generation_prompt=True, tokenize=False)
    return tokenizer(text, add_special_tokens=False).input_ids


@torch.inference_mode()
def compare(model, prompt, output, ends, tie):
    """(real differences, near ties, largest log-probability difference) of one continuation."""
    tokens = output["tokens"]
    logits = model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1:]
    logprobs = logits.log_softmax(-1)
    differences, ties, worst = [], [], 0.0
    expected = list(tokens)
    if output["finish_reason"] == "stop" and not (tokens and tokens[-1] in ends):
        expected.append(None)
    for at, token in enumerate(expected):
        best, top = logits[at].max(-1)
        if token is None:
            token = max(ends, key=lambda end: logits[at, end].item())
        elif output.get("logprobs"):
            worst = max(worst, abs(output["logprobs"][at] - logprobs[at, token].item()))
        gap = (best - logits[at, token]).item()
        if top.item() != token:
            (ties if gap < tie else differences).append(
                f"token {at}: colloquy {token}, transformers {top.item()}, gap {gap:.2e}")
    return differences, ties, worst


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="model folder")
    parser.add_argument("prompts", type=Path, help="JSONL given to colloquy generate")
    parser.add_argument("outputs", type=Path, help="JSONL that it wrote")
    parser.add_argument("--tie", type=float, default=1e-4, help="logit gap below which a difference is a tie (1e-4)")
    arguments = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32).eval()
    ends = model.generation_config.eos_token_id or model.config.eos_token_id
    ends = set(ends if isinstance(ends, list) else [ends])
    prompts, outputs = records(arguments.prompts), records(arguments.outputs)
    by_id = {json.dumps(record.get("id", i)): record for i, record in enumerate(prompts)}
    real = near = count = 0
    worst = 0.0
    for i, output in enumerate(outputs):
        name = json.dumps(i if output.get("id") is None else output["id"])
        prompt = prompt_tokens(by_id[name], tokenizer)
        differences, ties, off = compare(model, prompt, output, ends, arguments.tie)
        real, near, count = real + len(differences), near + len(ties), count + len(output["tokens"])
        worst = max(worst, off)
        for kind, lines in (("differs", differences), ("near tie", ties)):
            for line in lines:
                print(f"{name}: {kind}: {line}")
    missing = len(by_id) - len({json.dumps(i if o.get("id") is None else o["id"]) for i, o in enumerate(outputs)})
    print(f"{len(outputs)} continuations, {count} tokens: {real} differences, {near} near ties, {missing} missing; "
          f"log-probabilities within {worst:.2e}")
    sys.exit(1 if real or missing or not outputs else 0)


if __name__ == "__main__":
    main()
