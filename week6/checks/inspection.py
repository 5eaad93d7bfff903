"""What can be told from an answer, and from a call, without knowing the exercise."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from week6.checks.compare import difference
from week6.checks.describing import TENSORS, is_plain, type_in_words
from week6.checks.patterns import argument_names
from week6.checks.sandbox import own_line

STUB = "your code here"
"""The message of the NotImplementedError in a stub."""

Case = tuple[Any, ...]
"""The arguments of one call."""


def not_a_function(answer: Any) -> str:
    """Why the answer cannot be called as an ordinary function, or ""."""
    if issubclass(type(answer), type):
        return "Expected a function, got a class: write `def` instead of `class`, with `return` at its end."
    if not callable(answer):
        return (
            f"Expected the function itself, got {type_in_words(answer)}: pass its name, without brackets and arguments."
        )
    if inspect.iscoroutinefunction(answer) or inspect.isgeneratorfunction(answer) or inspect.isasyncgenfunction(answer):
        return "Expected a plain function: `def`, not `async def`, and `return`, not `yield`."
    return ""


def wrong_arguments(answer: Callable[..., Any], reference: Callable[..., Any], cases: Sequence[Case]) -> str:
    """How the answer's parameters differ from those that it is called with, or ""."""
    try:
        signature = inspect.signature(answer)
    except Exception:  # built-in functions have none
        return ""
    for case in cases:
        try:
            signature.bind(*case)
        except TypeError:
            names = argument_names(reference, len(case))
            own = ", ".join(signature.parameters) or "none"
            return f"Your function takes the arguments ({own}); it is called with {len(case)}: ({', '.join(names)})."
    return ""


def is_stub(error: BaseException | None) -> bool:
    """Whether the error is the one that a stub raises; torch raises NotImplementedError too, with another text."""
    return type(error) is NotImplementedError and error.args in ((), (STUB,))


def no_result(value: Any) -> str:
    """What to say to a function that returns nothing, or ""."""
    if value is None:
        return "Your function returns None: is a `return` missing at its end?"
    if value is ...:
        return "Your function returns the ... of the stub: put the result in its place."
    return ""


def in_words(error: BaseException, function: Any = None) -> str:
    """The error in one line, with the line of `function` (the student's own) that it passed through last."""
    try:
        text = str(error).strip().split("\n")[0].rstrip(".")[:300]
    except BaseException:  # the error's class is the student's own
        text = ""
    if type(error) is RecursionError:
        text = "the function calls itself without an end"
    elif type(error) is SystemExit:
        text = "leave out `exit()` and `quit()`, and use `return`"
    name: str = type.__getattribute__(type(error), "__name__")
    where = own_line(error, function)
    return name + (f": {text}" if text else "") + (f", at {where}" if where else "")


_MANY = 100_000
"""Elements of a result of a wrong shape that are still looked through."""
_ONE_NUMBER = (
    "`math` functions, `float()`, `.item()` and the entries of `torch.tensor([…])` are single numbers. For every "
    "element at once there are the functions of torch (`torch.exp`, …), and `torch.stack` for a list of tensors."
)
_SEVERAL_VALUES = (
    "Something that you calculate with is a tuple or list, several values in one: take them apart first, `a, b = …`, "
    "or pick one, `[0]`."
)
_MEANINGS = {
    "only one element tensors can be converted": _ONE_NUMBER,
    "only length-1 arrays can be converted": _ONE_NUMBER,
    "only 0-dimensional arrays can be converted": _ONE_NUMBER,
    "Boolean value of Tensor with more than one": "`if`, `and`, `or`, `not`, and Python's `max` and `min`, ask for one "
    "True or False, and a tensor holds many. Element by element: `torch.where`, `&`, `|`, `~`, `torch.maximum`.",
    "could not infer output dtype": "Whole numbers, True and False have no mean here: `.float()` first.",
    "sequence by non-int": _SEVERAL_VALUES,
    "'tuple' and": _SEVERAL_VALUES,
    "and 'tuple'": _SEVERAL_VALUES,
    "'tuple' object has no attribute": _SEVERAL_VALUES,
    "Can't call numpy() on Tensor that requires grad": "NumPy knows no gradients, and one is needed here: stay with "
    "torch.",
    "modified by an inplace operation": "A tensor that the gradient still needs was changed in place: make a new one "
    "(no `+=`, no `x[i] = …`, no `_` at the end of a name).",
    "must match the size of tensor": "Two shapes do not fit together, element by element.",
    "used as indices must be": "An index must be whole numbers or True and False: `.long()`, or `.bool()`.",
}
"""What an error of torch means, by a part of its text."""


def meaning(error: BaseException) -> str:
    """The mistake behind an error that beginners often meet, or ""."""
    if type(error) not in (RuntimeError, TypeError, ValueError, IndexError, AttributeError):
        return ""
    text = str(error)
    return next((words for part, words in _MEANINGS.items() if part in text), "")


def has_nan_or_inf(value: Any, want: Any) -> bool:
    """Whether a result in the form of `want` is nan, or infinite where the expected one is not."""
    for got, expected in _pairs(value, want):
        if type(got) in TENSORS and is_plain(got) and (got.shape == expected.shape or got.numel() <= _MANY):
            finite = torch.isfinite(expected) if got.shape == expected.shape else torch.isfinite(expected).all()
            if bool((~torch.isfinite(got) & (torch.isnan(got) | finite)).any()):
                return True
    return False


def changed_argument(case: Case, arguments: Case) -> int:
    """Number (from 1) of the first argument that a call has changed in place, or 0."""
    for i, (before, after) in enumerate(zip(case, arguments, strict=True), 1):
        if difference(_contents(after), _contents(before), equal_nan=True) is not None:
            return i
    return 0


def _contents(argument: Any) -> list[Any]:
    """The tensors, numbers and strings in an argument, in a fixed order."""
    if isinstance(argument, Tensor | int | float | str):
        return [argument]
    if isinstance(argument, nn.Module):
        return list(argument.state_dict().values())
    if is_dataclass(argument):
        return [item for f in fields(argument) for item in _contents(getattr(argument, f.name))]
    if isinstance(argument, dict):
        argument = list(argument.values())
    return [item for part in argument for item in _contents(part)] if isinstance(argument, list | tuple) else []


def gradients(value: Any, inputs: list[Tensor], like: Any) -> tuple[Tensor | None, ...]:
    """Gradients of a weighted sum of those parts of a result that have one in `like`, a result of the same structure.

    The weights are random, so that errors cannot cancel in the sum.
    """
    generator = torch.Generator().manual_seed(0)
    terms = []
    for result, want in _pairs(value, like):
        weights = torch.rand(want.shape, generator=generator).to(result) + 0.5
        if want.requires_grad and result.requires_grad:
            terms.append((result * weights).sum().double())
    if not terms:
        return tuple(None for _ in inputs)
    return torch.autograd.grad(torch.stack(terms).sum(), inputs, allow_unused=True)


def _pairs(value: Any, like: Any) -> Iterator[tuple[Any, Tensor]]:
    """The floating-point tensors of `like` with their counterparts in `value`, as far as it has them."""
    if type(like) in TENSORS:
        if like.is_floating_point():
            yield value, like
    elif type(like) is dict:
        if type(value) is dict and value.keys() == like.keys():
            for key in like:
                yield from _pairs(value[key], like[key])
    elif issubclass(type(like), tuple) and type(value) in (tuple, list) and len(value) == len(like):
        for part, other in zip(value, like, strict=True):
            yield from _pairs(part, other)
