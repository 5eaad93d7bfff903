"""Argument checks shared by the package: each error names the argument, what came, what was expected."""

import math
from typing import Any

import torch
from torch import Tensor


def positive(name: str, value: float) -> None:
    """Raise ValueError unless `value` is a finite number above zero."""
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name}: got {value!r}, expected a finite number > 0")


def count(name: str, value: float) -> None:
    """Raise unless `value` is a finite number ≥ 0."""
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name}: got {value!r}, expected a finite number ≥ 0")


def same_shape(**tensors: Tensor) -> None:
    """Raise ValueError unless all named tensors have the shape of the first."""
    (first, reference), *rest = tensors.items()
    for name, tensor in rest:
        if tensor.shape != reference.shape:
            raise ValueError(
                f"{name}: got shape {tuple(tensor.shape)}, expected {tuple(reference.shape)} as {first} has"
            )


def has_dims(name: str, tensor: Tensor, dims: int, axes: str) -> None:
    """Raise ValueError unless `tensor` has `dims` axes; `axes` says in words which."""
    if tensor.ndim != dims:
        raise ValueError(f"{name}: got shape {tuple(tensor.shape)}, expected {dims} axes {axes}")


def no_nan(**tensors: Tensor) -> None:
    """Raise ValueError if one of the named tensors holds a NaN."""
    for name, tensor in tensors.items():
        if torch.isnan(tensor).any():
            raise ValueError(f"{name}: got {int(torch.isnan(tensor).sum())} NaN values, expected numbers")


def mask_rows(name: str, mask: Tensor) -> None:
    """Raise ValueError unless `mask` holds only 0 and 1 and every row has a 1."""
    if not ((mask == 0) | (mask == 1)).all():
        raise ValueError(f"{name}: got values other than 0 and 1, expected a mask")
    empty = (mask != 0).sum(-1) == 0
    if empty.any():
        raise ValueError(f"{name}: got an empty row (index {_first(empty)}), expected at least one 1 in every row")


def log_probabilities(name: str, log_probs: Tensor, atol: float = 1e-3) -> None:
    """Raise ValueError unless each row of `log_probs` is a distribution: Σ exp = 1 within `atol` (fp32 rounding)."""
    no_nan(**{name: log_probs})
    total = log_probs.exp().sum(-1)
    wrong = (total - 1).abs() > atol
    if wrong.any():
        raise ValueError(
            f"{name}: got probabilities that sum to {float(total[wrong].flatten()[0]):.4g}, expected 1 in every row"
        )


def one_of(name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    """Raise ValueError unless `value` is one of `allowed`."""
    if value not in allowed:
        raise ValueError(f"{name}: got {value!r}, expected one of {', '.join(map(repr, allowed))}")


def _first(flags: Tensor) -> Any:
    index = flags.nonzero()[0].tolist()
    return index[0] if len(index) == 1 else tuple(index)
