"""What the work is: the shape of a model, and the lengths of the rows."""

import gzip
import json
import random
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

SEED = 0


@dataclass(frozen=True)
class Shape:
    """Of a GPT-2, or, with `inner`, of a Llama with `key_value_heads`."""

    layers: int
    heads: int
    width: int
    vocabulary: int
    inner: int = 0
    key_value_heads: int = 0


SHAPES = {
    "embedded": Shape(2, 4, 64, 265),
    "gpt2": Shape(12, 12, 768, 50_257),
    "smollm2": Shape(30, 9, 576, 49_152, inner=1536, key_value_heads=3),
}
"""The course's own model, GPT-2-small, SmolLM2-135M."""


@dataclass(frozen=True)
class Case:
    """One piece of work: a model, rows of so many tokens (prompt, answer, other answer), `batch` of them a step."""

    shape: Shape
    lengths: Sequence[Sequence[int]]
    batch: int
    steps: int = 1
    learning_rate: float = 2e-6
    """At which the loss falls, but not to nothing, in some ten steps of a GPT-2-small."""
    ends: int = 1
    """How many tokens of the vocabulary end an answer; 0: none, and every answer is as long as it may be."""

    @classmethod
    def read(cls, words: dict[str, Any]) -> Self:
        """From what `asdict` made of it."""
        return cls(**words | {"shape": Shape(**words["shape"])})

    def write(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    def lasting(self, steps: int) -> Self:
        """The same for so many steps."""
        return replace(self, steps=steps)


def equal_rows(rows: int, *lengths: int) -> list[list[int]]:
    """Rows that are all alike."""
    return [list(lengths) for _ in range(rows)]


def ragged_prompts(rows: int, longest: int, answer: int) -> list[list[int]]:
    """Prompts of half the longest to the longest, evenly, in an order of chance."""
    order = random.Random(SEED).sample(range(rows), rows)
    return [[longest - i * (longest // 2) // max(1, rows - 1), answer] for i in order]


def conversation_lengths(path: Path, rows: int, most: tuple[int, int] = (200, 96)) -> list[list[int]]:
    """Lengths of prompt and both answers in a file of conversations, JSON lines with `chosen` and `rejected`.

    In words and punctuation marks, which stand for tokens; the first rows within `most`. Nothing else is kept.
    ValueError for a file of another kind, or with fewer rows.
    """
    found = []
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            heads, answers = zip(
                *(row[name].rsplit("\n\nAssistant:", 1) for name in ("chosen", "rejected")), strict=True
            )
            counted = [len(re.findall(r"\w+|[^\w\s]", text)) for text in (heads[0] + "\n\nAssistant:", *answers)]
            if heads[0] == heads[1] and counted[0] <= most[0] and 0 < min(counted[1:]) <= max(counted[1:]) <= most[1]:
                found.append(counted)
            if len(found) == rows:
                return found
    raise ValueError(f"{path.name}: got {len(found)} rows of at most {most} tokens, expected {rows}")
