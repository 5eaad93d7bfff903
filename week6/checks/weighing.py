"""How the tokens of a loss are weighed, as a gradient shows it: alike, along a line, or otherwise."""

import torch
from jaxtyping import Float
from torch import Tensor

SAME = 0.01
"""A share of the size below which what is left over is nothing."""


def line(y: Float[Tensor, " N"], *xs: Float[Tensor, " N"]) -> Float[Tensor, " K"] | None:
    """The slopes and the offset of y as a line in the xs, or None where it is none."""
    table = torch.stack([*xs, torch.ones_like(y)], 1)
    found = torch.linalg.lstsq(table, y[:, None], driver="gelsd").solution
    return found[:, 0] if float((table @ found - y[:, None]).norm()) < SAME * float(y.norm()) else None


def alike(x: Tensor) -> bool:
    """Whether all numbers but nan are the same; False where there are none."""
    known = x[~x.isnan()]
    return len(known) > 0 and float(known.max() - known.min()) <= SAME * float(known.abs().max())


def cosine(x: Tensor, y: Tensor) -> float:
    """The cosine between two tables."""
    return float(torch.nn.functional.cosine_similarity(x.flatten(), y.flatten(), dim=0))
