"""Compares log-probabilities of `colloquy score` with an adapter against PEFT loading that adapter, in float32.

    colloquy score --model DIR --adapter NAME=ADAPTER_DIR --input in.jsonl --output scores.jsonl
    python tools/check_peft.py DIR ADAPTER_DIR scores.jsonl [--name NAME]

Records of other adapters are skipped (with --name). Exit code 1 if a log-probability differs by more than --tolerance.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM


@torch.inference_mode()
def reference(model, tokens):
    """Log-probability of each token but the first."""
    logprobs = model(torch.tensor([tokens])).logits[0, :-1].log_softmax(-1)
    return logprobs.gather(1, torch.tensor(tokens[1:])[:, None])[:, 0]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="model folder")
    parser.add_argument("adapter", type=Path, help="PEFT adapter folder")
    parser.add_argument("scores", type=Path, help="JSONL that colloquy score wrote")
    parser.add_argument("--name", help="only records whose \"adapter\" is this")
    parser.add_argument("--tolerance", type=float, default=2e-4, help="largest difference allowed (2e-4)")
    arguments = parser.parse_args()
    base = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, arguments.adapter).eval()
    records = [json.loads(line) for line in arguments.scores.read_text().splitlines() if line.strip()]
    records = [r for r in records if arguments.name is None or r.get("adapter") == arguments.name]
    if not records:
        sys.exit("no record to compare")
    worst, failures = 0.0, 0
    for number, record in enumerate(records):
        scored = torch.tensor(record["logprobs"][1:], dtype=torch.float32)
        off = (scored - reference(model, record["tokens"])).abs().max().item()
        worst = max(worst, off)
        if not off <= arguments.tolerance:
            failures += 1
            print(f"record {record.get('id', number)}: differs by {off:.2e}")
    print(f"{len(records)} records: log-probabilities within {worst:.2e} (allowed {arguments.tolerance:.0e})")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
