"""Mistakes that look alike in every exercise: a flipped sign, a mean that is missing, an argument that is ignored.

They are tried where no catalogued misconception fits, and they say what the pattern is, not which idea is wrong.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, islice, permutations
from typing import Any

import torch
from torch import Tensor

from week6.checks.compare import difference
from week6.checks.describing import is_plain
from week6.checks.sandbox import Outcome, fresh

Pair = tuple[Tensor, Tensor]
"""What came and what was expected, in double precision."""


def of_values(got: Sequence[Any], want: Sequence[Any], rtol: float, atol: float) -> str:
    """A pattern that relates all results to the expected ones in the same way, in words, or "".

    Where an answer overflows, it says nothing of a pattern: such results are left out.
    """
    pairs = [
        pair for g, w in zip(got, want, strict=True) for pair in _tensor_pairs(g, w) if bool(pair[0].isfinite().all())
    ]
    if not pairs or all(_equal(g, w, rtol, atol) for g, w in pairs):
        return ""
    for text, transform in _TRANSFORMS:
        if all(_equal(g, transform(w), rtol, atol) for g, w in pairs):
            return text
    for text, reduce in _REDUCTIONS:
        if all(g.ndim > w.ndim for g, w in pairs) and any(g.numel() > w.numel() for g, w in pairs):
            if all(_equal(reduce(g), w, rtol, atol) for g, w in pairs):
                return text
    for text, reduce in _TOO_FEW:
        if all(g.ndim < w.ndim for g, w in pairs) and any(g.numel() < w.numel() for g, w in pairs):
            if all(_equal(g, reduce(w), rtol, atol) for g, w in pairs):
                return text
    if all(g.shape == w.shape for g, w in pairs):
        return _constant(pairs, rtol, atol)
    return ""


def of_the_computer(got: Sequence[Any], want: Sequence[Any], rtol: float, atol: float) -> str:
    """Whether results are wrong only where numbers are too large or too small for a computer, in words, or "".

    At least half of all elements must be right: else little is known about the formula.
    """
    pairs = [pair for g, w in zip(got, want, strict=True) for pair in _tensor_pairs(g, w, all_of_them=True)]
    if not pairs or any(g.shape != w.shape for g, w in pairs):
        return ""
    g, w = (torch.cat([pair[k].flatten() for pair in pairs]) for k in (0, 1))
    wrong = ~torch.isclose(g, w, rtol=rtol, atol=atol, equal_nan=True)
    if not bool(wrong.any()) or float(wrong.double().mean()) > 0.5:
        return ""
    if not bool((wrong & ~g.isnan() & ~(g.isinf() & w.isfinite())).any()):
        return (
            "Right wherever it is a number, but for some inputs it is nan or inf: an exp that overflows, the log of a "
            "0, or one of inf − inf, 0 · inf, 0 / 0."
        )
    if bool((w.isinf() & g.isfinite())[wrong].all()):
        return (
            "Right except where the result is infinite: there yours stays finite. Is a logarithm cut off, or saved "
            "by a small number?"
        )
    return ""


def of_parts(got: Sequence[Any], want: Sequence[Any], rtol: float, atol: float) -> str:
    """Of results that are tuples or lists: which of their values are right, and what the one that is not shares."""
    n = len(want[0]) if type(want[0]) in (tuple, list) else 0
    if n < 2 or any(type(x) not in (tuple, list) or len(x) != n for x in (*got, *want)):
        return ""
    columns = [([g[i] for g in got], [w[i] for w in want]) for i in range(n)]
    agree = [
        [all(_agree(g, w, rtol, atol) for g, w in zip(mine, theirs, strict=True)) for _, theirs in columns]
        for mine, _ in columns
    ]
    if n <= 4 and any(all(agree[i][order[i]] for i in range(n)) for order in permutations(range(n))):
        return "The values are right, but in another order."
    right = [i for i in range(n) if agree[i][i]]
    if not right:
        return ""
    names = " and ".join(f"value {i + 1}" for i in right)
    wrong = [columns[i] for i in range(n) if i not in right]
    pattern = of_values(*wrong[0], rtol, atol) if len(wrong) == 1 else ""
    found = f"Of your {n} values, {names} {'is' if len(right) == 1 else 'are'} right."
    return f"{found} Of the other: {pattern[:1].lower()}{pattern[1:]}" if pattern else found


def of_inputs(
    names: Sequence[str],
    cases: Sequence[tuple[Any, ...]],
    got: Sequence[Any],
    want: Sequence[Any],
    rtol: float,
    atol: float,
) -> str:
    """A pattern that relates results and inputs, in words, or "": a size as factor, only padding wrong."""
    pairs = [(_number_or_tensor(g), _number_or_tensor(w)) for g, w in zip(got, want, strict=True)]
    if any(g is None or w is None or g.shape != w.shape for g, w in pairs):
        return ""
    whole = [(g, w) for g, w in pairs if g is not None and w is not None]
    for j, name in enumerate(names):
        arguments = [case[j] if j < len(case) and isinstance(case[j], Tensor) else None for case in cases]
        for axis in (-1, 0):
            sizes = [float(a.shape[axis]) if a is not None and a.ndim else 0.0 for a in arguments]
            if min(sizes) < 1 or len(set(sizes)) < 2:
                continue
            where = f"the size of the {'last' if axis else 'first'} axis of `{name}`"
            if all(_equal(g, n * w, rtol, atol) for (g, w), n in zip(whole, sizes, strict=True)):
                return f"Every value is the expected one times {where}: is it a sum where a mean is asked for?"
            if all(_equal(g, w / n, rtol, atol) for (g, w), n in zip(whole, sizes, strict=True)):
                return f"Every value is the expected one divided by {where}: is it a mean where a sum is asked for?"
        masks = [a if a is not None and bool(((a == 0) | (a == 1)).all()) else None for a in arguments]
        if any(m is None or m.shape != w.shape for m, (_, w) in zip(masks, whole, strict=True)):
            continue
        wrong = [~torch.isclose(g, w, rtol=rtol, atol=atol, equal_nan=True) for g, w in whole]
        at_ones = sum(int((x & (m != 0)).sum()) for x, m in zip(wrong, masks, strict=True) if m is not None)
        at_zeros = sum(int((x & (m == 0)).sum()) for x, m in zip(wrong, masks, strict=True) if m is not None)
        if at_zeros and not at_ones:
            return f"Your result is right wherever `{name}` is 1; it differs only where `{name}` is 0."
    return ""


def of_arguments(
    answer: Callable[[Sequence[Any]], Outcome],
    reference: Callable[..., Any],
    cases: Sequence[tuple[Any, ...]],
    got: Sequence[Any],
    rtol: float,
    atol: float,
) -> str:
    """Whether the answer swaps two arguments of the reference or ignores one of them, in words, or "".

    `got` are the answer's values on the cases; `answer` runs it on other arguments.
    """
    names = argument_names(reference, max(map(len, cases)))
    for i, j in combinations(range(min(map(len, cases))), 2):
        if not all(_same_kind(case[i], case[j]) for case in cases):
            continue
        swapped = [(*c[:i], c[j], *c[i + 1 : j], c[i], *c[j + 1 :]) for c in cases]
        results = [_value(reference, case) for case in swapped]
        if all(_agree(g, r, rtol, atol) for g, r in zip(got, results, strict=True)):
            return f"Your function gives the right result for `{names[i]}` and `{names[j]}` swapped."
    usual = [_value(reference, case) for case in cases]
    for j, name in enumerate(names):
        if _ignores(answer, reference, j, list(zip(cases, got, usual, strict=True)), rtol, atol):
            if not _matters_elsewhere(answer, j, cases[:3]):
                return f"Your result does not depend on `{name}`: it stays the same whatever `{name}` is."
    return ""


def _matters_elsewhere(answer: Callable[[Sequence[Any]], Outcome], j: int, cases: Sequence[tuple[Any, ...]]) -> bool:
    """Whether argument j changes the result after all, once another number among the arguments is another one.

    One bound of a clip says nothing as long as the other one decides.
    """
    for case in cases:
        for k in range(len(case)):
            if k == j or type(case[k]) not in (int, float):
                continue
            for context in _altered(case, k):
                there = (*case[:k], context, *case[k + 1 :])
                usual = answer(there)
                if usual.error is not None or j >= len(case):
                    continue
                for other in islice(_altered(there, j), 6):
                    outcome = answer((*there[:j], other, *there[j + 1 :]))
                    if outcome.error is not None or not _agree(outcome.value, usual.value, 0.0, 0.0):
                        return True
    return False


def _ignores(
    answer: Callable[[Sequence[Any]], Outcome],
    reference: Callable[..., Any],
    j: int,
    results: Sequence[tuple[tuple[Any, ...], Any, Any]],
    rtol: float,
    atol: float,
) -> bool:
    """Whether no change of argument j changes the answer's result, of at least three that change the reference's.

    Results that are rounded, compared or picked may stay the same after a small change, so the changes are large and
    of several kinds. An answer that fails on a changed argument depends on it.
    """
    tried = 0
    for case, mine, usual in results:
        if any(bool(pair[0].isnan().any()) for pair in _tensor_pairs(mine, mine, all_of_them=True)):
            continue  # a result that is nan stays nan
        for other in _altered(case, j) if j < len(case) else ():
            changed = (*case[:j], other, *case[j + 1 :])
            want = _value(reference, changed)
            if want is _FAILED or _agree(usual, want, rtol, atol):
                continue
            outcome = answer(changed)
            if outcome.error is not None or not _agree(outcome.value, mine, 0.0, 0.0):
                return False
            tried += 1
    return tried >= 3


def argument_names(function: Callable[..., Any], n: int) -> list[str]:
    """Names of the first n positional parameters, "argument 3" where there is none."""
    try:
        names = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        names = []
    return [names[i] if i < len(names) else f"argument {i + 1}" for i in range(n)]


_FAILED = object()

_TRANSFORMS: list[tuple[str, Callable[[Tensor], Tensor]]] = [
    ("Every value has the opposite sign: look for a minus that is missing, or one too many.", torch.neg),
    ("You returned the logarithm of what is asked.", torch.log),
    ("You returned the exponential of what is asked: a logarithm is wanted.", torch.exp),
    ("You returned 1 minus what is asked.", lambda w: 1 - w),
    ("You returned the reciprocal, 1 divided by what is asked.", lambda w: 1 / w),
    ("The values are right, but in reverse order along the last axis.", lambda w: w.flip(-1) if w.ndim else w),
    ("The values are right, but transposed.", lambda w: w.transpose(-1, -2) if w.ndim > 1 else w),
]
_REDUCTIONS: list[tuple[str, Callable[[Tensor], Tensor]]] = [
    ("You return one value for each element; their mean is asked for.", torch.mean),
    ("You return one value for each element; their sum is asked for.", torch.sum),
    ("You return one value for each position; their sum over the last axis is asked for.", lambda g: g.sum(-1)),
    ("You return one value for each position; their mean over the last axis is asked for.", lambda g: g.mean(-1)),
]
_TOO_FEW: list[tuple[str, Callable[[Tensor], Tensor]]] = [
    ("You return the sum over everything; one value for each row is asked for.", torch.sum),
    ("You return the mean over everything; one value for each row is asked for.", torch.mean),
    ("You return the sum over the last axis; one value for each position is asked for.", lambda w: w.sum(-1)),
    ("You return the mean over the last axis; one value for each position is asked for.", lambda w: w.mean(-1)),
]


def _constant(pairs: Sequence[Pair], rtol: float, atol: float) -> str:
    """One factor or one offset between all values that came and all that were expected."""
    g, w = (torch.cat([pair[k].flatten() for pair in pairs]) for k in (0, 1))
    largest = int(w.abs().argmax())
    factor, offset = float(g[largest] / w[largest]), float(g[largest] - w[largest])
    if len(g) >= 3 and factor != 0 and _equal(g, factor * w, rtol, atol):
        return f"Every value is {factor:.4g} times the expected one."
    if len(g) >= 3 and _equal(g, w + offset, rtol, atol):
        return f"Every value is the expected one {'plus' if offset > 0 else 'minus'} {abs(offset):.4g}."
    return ""


def _tensor_pairs(got: Any, want: Any, *, all_of_them: bool = False) -> Iterator[Pair]:
    """The floating-point tensors and numbers in two results of the same structure: all, or those that differ."""
    if type(want) in (tuple, list):
        if type(got) is type(want) and len(got) == len(want):
            for g, w in zip(got, want, strict=True):
                if all_of_them or difference(g, w) is not None:
                    yield from _tensor_pairs(g, w, all_of_them=all_of_them)
    elif type(got) in (Tensor, torch.nn.Parameter, float, int) and type(want) in (Tensor, float):
        g, w = (x.detach() if isinstance(x, Tensor) else torch.as_tensor(x) for x in (got, want))
        if w.is_floating_point() and not g.is_complex() and is_plain(g):
            yield g.double().cpu(), w.double().cpu()


def _equal(g: Tensor, w: Tensor, rtol: float, atol: float) -> bool:
    return g.shape == w.shape and torch.allclose(g, w, rtol=rtol, atol=atol, equal_nan=True)


def _agree(got: Any, want: Any, rtol: float, atol: float) -> bool:
    return want is not _FAILED and difference(got, want, rtol, atol, equal_nan=True) is None


def _value(function: Callable[..., Any], case: Sequence[Any]) -> Any:
    try:
        return function(*(fresh(argument) for argument in case))
    except Exception:  # an altered argument may be outside the domain of the reference
        return _FAILED


def _same_kind(one: Any, other: Any) -> bool:
    """Whether one argument may stand in the place of the other: tensors of one shape, or values of one type."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and one.dtype == other.dtype
    return type(one) is type(other)


def _altered(case: Sequence[Any], j: int) -> Iterator[Any]:
    """Other values for argument j, of the same kind and far from the one in the case; none for a text or a model."""
    argument = case[j]
    if type(argument) is float or type(argument) is int:
        yield from (10 * argument + 1, -argument - 1, type(argument)(0.1 * argument), argument + 1, 1000 * argument + 7)
        if type(argument) is int:  # it may be one of the tokens
            whole = [other for other in case if isinstance(other, Tensor) and other.dtype == torch.int64]
            yield from (
                token for tokens in whole for token in sorted(set(tokens.flatten().tolist()))[:20] if token != argument
            )
    if not isinstance(argument, Tensor):
        return
    yield from (
        other for i, other in enumerate(case) if i != j and isinstance(other, Tensor) and _same_kind(argument, other)
    )
    noise = torch.rand(argument.shape, generator=torch.Generator().manual_seed(0))
    if argument.dtype == torch.bool or bool(((argument == 0) | (argument == 1)).all()):
        chosen = (noise < 0.5, noise < 0.1, noise >= 0, noise < 0, argument == 0)
        yield from (other.to(argument.dtype) for other in chosen)
        return
    if argument.ndim:
        yield from (argument.flip(-1), argument.flip(0), argument.roll(1, -1), argument.roll(1, 0))
    if argument.is_floating_point():
        spread = (20 * (noise - 0.5)).to(argument.dtype)
        yield from (0.01 * argument, 100 * argument, -argument, argument + spread, spread, argument.sort(-1).values)
    else:
        yield from (argument + 1, argument // 2, 10 * argument)


def _number_or_tensor(value: Any) -> Tensor | None:
    """A single tensor or number in double precision; None for anything else."""
    pairs = list(_tensor_pairs(value, value))
    return pairs[0][0] if len(pairs) == 1 and isinstance(value, Tensor | float) else None
