"""Argument checks shared by the package: each error names the argument, what came, what was expected."""

import inspect
import math
import types
from collections.abc import Callable, Sequence
from functools import wraps
from numbers import Integral, Real
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")
Check = Callable[[str, Any], None]


class UnusableError(ValueError):
    """Numbers that nothing can be learned from: NaN, infinite, or all the same. What a run is given leads to them, no
    defect of the code."""


def arguments(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, which first raises ValueError for an argument that is not what its signature says.

    Tensors must have the kind of numbers and the number of axes that are written there, other values the type. It
    costs microseconds and never waits for a GPU; sizes and values are for the function itself to check.
    """
    signature = inspect.signature(function)
    checks = {name: check for name, p in signature.parameters.items() if (check := _check_of(p.annotation))}

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError:
            return function(*args, **kwargs)  # Python's own complaint names the function
        for name, value in given.items():
            if name in checks:
                checks[name](name, value)
        return function(*args, **kwargs)

    return checked


def _check_of(annotation: Any) -> Check | None:
    """What to do with an argument of this type; nothing for types that say nothing or that the function checks."""
    union = get_origin(annotation) in (Union, types.UnionType)
    kinds = [_kind(kind) for kind in (get_args(annotation) if union else (annotation,))]
    if None in kinds:
        return None
    known = [kind for kind in kinds if kind is not None]

    def check(name: str, value: Any) -> None:
        if not any(accepts(value) for accepts, _ in known):
            if isinstance(value, Tensor):
                kind = "sparse, nested or meta " * _has_no_values(value)
                shape = "of rows of its own" if value.is_nested else tuple(value.shape)
                came = f"a {kind}tensor of {str(value.dtype).removeprefix('torch.')} and shape {shape}"
            else:
                came = f"{type(value).__name__} {value!r:.60}"
            raise ValueError(f"{name}: got {came}, expected {' or '.join(words for _, words in known)}")

    return check


def _kind(kind: Any) -> tuple[Callable[[Any], bool], str] | None:
    """Whether a value is of this type, and the type in words."""
    if hasattr(kind, "dim_str") and hasattr(kind, "dtypes"):  # of jaxtyping
        return _tensors(kind)
    if kind is float:
        return _is_number, "a number"
    if kind is int:
        return _is_whole, "a whole number"
    origin: Any = get_origin(kind) or kind
    if origin is Sequence:
        return lambda value: isinstance(value, Sequence) and not isinstance(value, str | bytes), "a list"
    if origin is Callable:
        return callable, "a function"
    if not isinstance(origin, type) or origin is Literal or kind is inspect.Parameter.empty:
        return None
    return lambda value: isinstance(value, origin), "None" if kind is types.NoneType else f"a {origin.__name__}"


def _tensors(kind: Any) -> tuple[Callable[[Any], bool], str]:
    axes, variadic = len(kind.dims), kind.index_variadic is not None
    dtypes = {getattr(torch, name) for name in kind.dtypes if isinstance(getattr(torch, name, None), torch.dtype)}
    name = kind.__name__.split("[")[0]
    if name == "Bool":  # a mask may be of any numbers; that they are 0 and 1 is for the function to check
        dtypes |= {torch.uint8, torch.int32, torch.int64, torch.float32, torch.float64, torch.bfloat16, torch.float16}
    numbers = {"Float": "floating-point numbers", "Int": "whole numbers", "Bool": "booleans"}[name]
    shape = ", ".join(kind.dim_str.replace("*", "…").split()) + "," * (axes == 1 and not variadic)

    def accepts(value: Any) -> bool:
        if not isinstance(value, Tensor) or value.dtype not in dtypes or _has_no_values(value):
            return False
        return value.ndim >= axes - 1 if variadic else value.ndim == axes

    return accepts, f"a tensor of {numbers} of shape ({shape})"


def _has_no_values(tensor: Tensor) -> bool:
    """Whether it is no plain array of numbers."""
    return tensor.is_nested or tensor.is_meta or tensor.layout != torch.strided


def _is_number(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.ndim == 0 and value.dtype != torch.bool and not value.is_complex()
    return _is_whole(value) if isinstance(value, Integral) else isinstance(value, Real)


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and abs(int(value)) < 2**63


def number(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is a number, whether finite or not."""
    if not _is_number(value):
        raise ValueError(f"{name}: got {value!r:.60}, expected a number")


def positive(name: str, value: float) -> None:
    """Raise ValueError unless `value` is a finite number above zero."""
    if not (_is_number(value) and math.isfinite(value) and value > 0):
        raise ValueError(f"{name}: got {value!r}, expected a finite number > 0")


def count(name: str, value: float) -> None:
    """Raise unless `value` is a finite number ≥ 0."""
    if not (_is_number(value) and math.isfinite(value) and value >= 0):
        raise ValueError(f"{name}: got {value!r}, expected a finite number ≥ 0")


def whole(name: str, value: int, least: int = 1) -> None:
    """Raise ValueError unless `value` is a whole number ≥ `least`."""
    if not (_is_whole(value) and value >= least):
        raise ValueError(f"{name}: got {value!r}, expected a whole number ≥ {least}")


def same_shape(**tensors: Tensor) -> None:
    """Raise ValueError unless all named tensors have the shape of the first."""
    (first, reference), *rest = tensors.items()
    for name, tensor in rest:
        if tensor.shape != reference.shape:
            raise ValueError(
                f"{name}: got shape {tuple(tensor.shape)}, expected {tuple(reference.shape)} as {first} has"
            )
        if tensor.device != reference.device:
            raise ValueError(f"{name}: got a tensor on {tensor.device}, expected {reference.device}, where {first} is")


def has_dims(name: str, tensor: Tensor, dims: int, axes: str) -> None:
    """Raise ValueError unless `tensor` has `dims` axes; `axes` says in words which."""
    if tensor.ndim != dims:
        raise ValueError(f"{name}: got shape {tuple(tensor.shape)}, expected {dims} axes {axes}")


def no_nan(**tensors: Tensor) -> None:
    """Raise ValueError if one of the named tensors holds a NaN."""
    for name, tensor in tensors.items():
        if torch.isnan(tensor).any():
            raise UnusableError(f"{name}: got {int(torch.isnan(tensor).sum())} NaN values, expected numbers")


def finite(result: Tensor, **inputs: Any) -> None:
    """Raise ValueError if `result`, a sum or product of all `inputs`, holds a NaN or an infinity, and say whose it is.

    To look at the result waits once for a GPU, however many inputs there are.
    """
    if torch.isfinite(result).all():
        return
    for name, value in inputs.items():
        tensor = torch.as_tensor(value)
        no_nan(**{name: tensor})
        if not torch.isfinite(tensor).all():
            infinite = int((~tensor.isfinite()).sum())
            raise UnusableError(f"{name}: got {infinite} infinite values, expected finite numbers")
    raise UnusableError(
        f"{' and '.join(inputs)}: got numbers so large that the result overflows, expected smaller ones"
    )


def language_model(name: str, model: Any) -> None:
    """Raise ValueError unless `model` has a trunk of a known width, as the language models of transformers do."""
    if not hasattr(model, "base_model") or not hasattr(getattr(model, "config", None), "hidden_size"):
        raise ValueError(f"{name}: got a {type(model).__name__}, expected a language model of transformers")


def filled(**tensors: Tensor) -> None:
    """Raise ValueError for a tensor without elements."""
    for name, tensor in tensors.items():
        if tensor.numel() == 0:
            raise ValueError(f"{name}: got an empty tensor of shape {tuple(tensor.shape)}, expected at least one row")


def some(**batches: Any) -> None:
    """Raise ValueError for a batch without rows."""
    for name, batch in batches.items():
        if len(batch) == 0:
            raise ValueError(f"{name}: got a batch without rows, expected at least one")


def texts(**lists: Sequence[str]) -> None:
    """Raise ValueError unless these are lists of texts, equally long and not empty."""
    (first, reference), *_ = lists.items()
    for name, values in lists.items():
        if len(values) != len(reference) or not len(values):
            expected = "one or more" if values is reference else f"{len(reference)}, one for each of {first}"
            raise ValueError(f"{name}: got {len(values)} texts, expected {expected}")
        for i, value in enumerate(values):
            if not isinstance(value, str):
                raise ValueError(f"{name}: row {i + 1} is {value!r:.60}, expected text")
            try:
                value.encode()
            except UnicodeEncodeError:
                raise ValueError(f"{name}: row {i + 1} holds half of a character, expected text") from None


def average(mean: Tensor, x: Tensor, mask: Tensor) -> None:
    """Raise ValueError unless `mean`, of numbers `x` over the counts `mask`, is finite: one look for both faults."""
    if torch.isfinite(mean).all():
        return
    if (mask == 0).any():
        raise ValueError("mask: got no 1 to average over, expected at least one (in every row)")
    finite(mean, x=x)


def zeros_and_ones(name: str, mask: Tensor) -> None:
    """Raise ValueError unless `mask` holds only 0 and 1."""
    if mask.dtype != torch.bool and not ((mask == 0) | (mask == 1)).all():
        raise ValueError(f"{name}: got values other than 0 and 1, expected a mask")


def mask_rows(name: str, mask: Tensor) -> None:
    """Raise ValueError unless `mask` holds only 0 and 1 and every row has a 1."""
    zeros_and_ones(name, mask)
    empty = (mask != 0).sum(-1) == 0
    if empty.any():
        raise ValueError(f"{name}: got an empty row (index {_first(empty)}), expected at least one 1 in every row")
    if mask.shape[-1:] == (0,):
        raise ValueError(f"{name}: got no column (shape {tuple(mask.shape)}), expected at least one")


def of_tokens(**log_probs: Tensor) -> None:
    """Raise ValueError for log-probabilities of tokens that are NaN, infinite, or above 0 by more than rounding.

    No probability of a vocabulary is above 1. One look at each tensor.
    """
    for name, values in log_probs.items():
        if not (torch.isfinite(values) & (values <= 1e-3)).all():
            finite(values, **{name: values})
            raise ValueError(
                f"{name}: got values up to {float(values.max()):.4g}, expected logarithms of probabilities, ≤ 0"
            )


def log_probabilities(name: str, log_probs: Tensor, dim: int = -1, atol: float = 1e-3) -> None:
    """Raise ValueError unless `log_probs` are distributions along `dim`: Σ exp = 1 within `atol` (fp32 rounding)."""
    axis("dim", dim, log_probs)
    total = log_probs.exp().sum(dim)
    if ((total - 1).abs() <= atol).all():  # False for a NaN
        return
    no_nan(**{name: log_probs})
    wrong = total[(total - 1).abs() > atol]
    raise ValueError(f"{name}: got probabilities that sum to {float(wrong.flatten()[0]):.4g}, expected 1 in every row")


def axis(name: str, dim: int, tensor: Tensor) -> None:
    """Raise ValueError unless `dim` is an axis of `tensor`."""
    if not -tensor.ndim <= dim < tensor.ndim:
        raise ValueError(f"{name}: got {dim}, expected an axis of a tensor of shape {tuple(tensor.shape)}")


def broadcast(**values: Tensor | float) -> None:
    """Raise ValueError unless the shapes of these tensors or numbers go together."""
    shapes = {name: tuple(torch.as_tensor(value).shape) for name, value in values.items()}
    try:
        torch.broadcast_shapes(*shapes.values())  # type: ignore[no-untyped-call]
    except RuntimeError:
        (first, reference), *rest = shapes.items()
        for name, shape in rest:
            raise ValueError(f"{name}: got shape {shape}, expected {reference} as {first} has") from None


def one_of(name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    """Raise ValueError unless `value` is one of `allowed`."""
    if value not in allowed:
        raise ValueError(f"{name}: got {value!r}, expected one of {', '.join(map(repr, allowed))}")


def _first(flags: Tensor) -> Any:
    index = flags.nonzero()[0].tolist()
    return index[0] if len(index) == 1 else tuple(index)
