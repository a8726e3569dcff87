"""Makes the tokenizer: whole words, single digits, and single bytes for everything else.

It is a byte-level BPE without merges: the pattern cuts the text into words (with the space before them), digits, `, `-like
punctuation and single characters; a piece in the vocabulary is one token, any other is spelled in bytes. So every text has
tokens, and decoding gives back exactly that text.
"""

import argparse
import json
import random
import re
from collections import Counter
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

import dialogues

SPECIAL = ("<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
PATTERN = r"\d| ?[A-Za-z]+|[.,:;!?] |[^\dA-Za-z]"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def pieces_of(source, count):
    """The pieces of more than one character in `count` conversations, most frequent first."""
    seen = Counter()
    for _ in range(count):
        for _, text, _ in source.draw():
            seen.update(piece for piece in re.findall(PATTERN, text) if len(piece) > 1)
    return [piece for piece, _ in sorted(seen.items(), key=lambda item: (-item[1], item[0]))]


def build(size):
    """A tokenizer with `size` entries, filled up with reserved special tokens."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    words = pieces_of(dialogues.Source(random.Random(0), [30]), 3000)
    names = list(SPECIAL) + sorted(byte_level.alphabet()) + [piece.replace(" ", "\u0120") for piece in words]
    reserved = [f"<|reserved_{i}|>" for i in range(size - len(names))]
    vocabulary = {name: i for i, name in enumerate(names + reserved)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"), byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in (*SPECIAL, *reserved)])
    return tokenizer


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="model folder to write tokenizer.json and tokenizer_config.json into")
    parser.add_argument("--size", type=int, default=352, help="vocabulary size (default 352)")
    parser.add_argument("--context", type=int, default=1024, help="longest sequence the model takes (default 1024)")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    tokenizer = build(arguments.size)
    assert tokenizer.get_vocab_size() == arguments.size, tokenizer.get_vocab_size()
    tokenizer.save(str(arguments.output / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": False,
        "bos_token": None,
        "eos_token": "<|end|>",
        "pad_token": "<|pad|>",
        "unk_token": None,
        "clean_up_tokenization_spaces": False,
        "model_max_length": arguments.context,
        "chat_template": CHAT_TEMPLATE,
    }
    (arguments.output / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


if __name__ == "__main__":
    main()
