"""Inputs on which the questions of more than one notebook are tried."""

import torch
from jaxtyping import Bool
from torch import Tensor


def ragged_mask(g: torch.Generator, rows: int, width: int) -> Bool[Tensor, "rows width"]:
    """A mask of random lengths from 1 to width; the first row is full, the second is not where width is above 1."""
    lengths = torch.randint(1, width + 1, (rows,), generator=g)
    lengths[0] = width
    lengths[1:2] = max(1, width - 2)
    return torch.arange(width) < lengths.unsqueeze(1)


def whole(g: torch.Generator, low: int, high: int) -> int:
    """A whole number from low to high, both included: a size that an answer cannot know."""
    return int(torch.randint(low, high + 1, (), generator=g))


def random_mask(g: torch.Generator, rows: int, width: int) -> Bool[Tensor, "rows width"]:
    """A mask of random lengths from 1 to width − 1, so that no row is full."""
    lengths = torch.randint(1, width, (rows,), generator=g)
    return torch.arange(width) < lengths.unsqueeze(1)
