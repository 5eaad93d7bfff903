"""Counterfactuals: what a part of an answer would be, had one certain mistake been made.

A part that is wrong, and equals number for number what a mistake makes of it, names that mistake. What equals none of
them names nothing, so that no diagnosis is a guess.
"""

from typing import Any

import torch

from week6.checks.judging import plain

NUMBERS = 1e-4
"""How far two numbers may be apart, as a share of their size: two ways to compute one in float32 differ by less."""


def alike(came: Any, other: Any, tolerance: float = NUMBERS) -> bool:
    """Whether two tables have the same shape and agree at every place."""
    a, b = (torch.as_tensor(plain(x)).detach().double() for x in (came, other))
    return a.shape == b.shape and torch.allclose(a, b, rtol=tolerance, atol=tolerance)
