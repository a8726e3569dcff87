"""Arithmetic questions `a+b*c+d-e*f` and their split by hash.

The split of a question depends on its text alone, so every program that applies the rule of `split_of` agrees on it.
"""

import hashlib
from dataclasses import dataclass

SPLITS = (("pretrain", 70), ("train", 80), ("dev", 90), ("test", 100))


@dataclass(frozen=True)
class Question:
    """The six operands of one expression."""

    a: int
    b: int
    c: int
    d: int
    e: int
    f: int

    @property
    def text(self):
        return f"{self.a}+{self.b}*{self.c}+{self.d}-{self.e}*{self.f}"

    @property
    def answer(self):
        return self.a + self.b * self.c + self.d - self.e * self.f


def split_of(expression):
    """Name of the split: the first 8 bytes of SHA-256 of the ASCII text, big-endian, modulo 100;
    0-69 pretrain, 70-79 train, 80-89 dev, 90-99 test."""
    residue = int.from_bytes(hashlib.sha256(expression.encode("ascii")).digest()[:8], "big") % 100
    return next(name for name, end in SPLITS if residue < end)


def draw(rng, operands, split):
    """A question with operands 0..operands-1 from the named split, uniform over that split."""
    while True:
        question = Question(*(rng.randrange(operands) for _ in range(6)))
        if split_of(question.text) == split:
            return question
