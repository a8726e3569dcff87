"""Writes a checkpoint of train.py as a Hugging Face model folder (bfloat16), beside its tokenizer."""

import argparse
from pathlib import Path

import network
from train import Text


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="checkpoint of train.py")
    parser.add_argument("output", type=Path, help="model folder, which has the tokenizer")
    arguments = parser.parse_args()
    text = Text(arguments.output)
    network.save(network.from_checkpoint(arguments.checkpoint), arguments.output, text.pad, text.end)


if __name__ == "__main__":
    main()
