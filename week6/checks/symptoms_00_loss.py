"""The symptoms of a wrong loss in notebook 00's capstone."""

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from week6.checks.bench_00 import END, LOOKED_AT, Imitation, of_tokens
from week6.checks.capstone import Symptom
from week6.checks.counterfactual import Slip, slips


@dataclass(frozen=True)
class Batch:
    """The tokens of a step that have a forecast, (B, L − 1) each; `first` is the mask of the data's first rows."""

    ids: Tensor
    log_probs: Tensor
    mask: Tensor
    real: Tensor
    first: Tensor


def batch_of(record: Imitation, step: int) -> Batch:
    """The tokens of a step."""
    rows = record.parts[step]["rows"]
    mask = record.is_answer[rows][:, 1:]
    real = mask.long().flip(-1).cummax(-1).values.flip(-1).bool()  # up to the end of the answer
    log_probs = of_tokens(record.at(step), record.ids[rows])
    return Batch(record.ids[rows][:, 1:], log_probs, mask, real, record.is_answer[: len(rows)][:, 1:])


@functools.lru_cache(maxsize=4)
def _batches(record: Imitation) -> list[Batch]:
    return [batch_of(record, step) for step in range(len(record.parts[:LOOKED_AT]))]


def _mean(x: Tensor, counted: Tensor, real: Tensor) -> Tensor:
    return (x * counted).sum() / counted.sum()


def _loss_is(
    record: Imitation,
    *,
    tokens: Callable[[Batch], Tensor] = lambda b: b.mask,
    figure: Callable[[Tensor], Tensor] = torch.neg,
    mean: Callable[[Tensor, Tensor, Tensor], Tensor] = _mean,
    told: Callable[[Tensor], Tensor] = lambda values: values,
) -> bool:
    """Whether the losses of the first steps are wrong, and these.

    tokens  batch -> what counts, (B, L − 1)
    figure  log π of each token, (B, L − 1) -> what is averaged
    mean    (figures, what counts, what is no padding), (B, L − 1) each -> one number
    told    the numbers of all steps so far -> what is yielded
    """
    batches = _batches(record)
    came = torch.stack([part["loss"].flatten()[0] for part in record.parts[:LOOKED_AT]])
    right = torch.stack([_mean(-b.log_probs, b.mask, b.real) for b in batches])
    if (came - right).abs().max() <= 1e-3:
        return False
    want = told(torch.stack([mean(figure(b.log_probs), tokens(b), b.real) for b in batches]))
    return torch.allclose(came, want, rtol=1e-3, atol=1e-5)


def _before(x: Tensor) -> Tensor:
    """Each place's neighbour on the left."""
    return torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)


def _behind(x: Tensor) -> Tensor:
    """Each place's neighbour on the right."""
    return torch.cat([x[:, 1:], torch.zeros_like(x[:, :1])], 1)


KINDS: dict[str, tuple[str, Callable[[Batch], Tensor]]] = {
    "prompt": ("the words of the prompts", lambda b: b.real & ~b.mask & ~_behind(b.mask)),
    "mark": ("the mark before the answers", lambda b: b.real & ~b.mask & _behind(b.mask)),
    "first": ("the first token of the answers", lambda b: b.mask & ~_before(b.mask)),
    "inside": ("the tokens inside the answers", lambda b: b.mask & _before(b.mask) & _behind(b.mask)),
    "end": ("the end of the answers", lambda b: b.mask & _before(b.mask) & ~_behind(b.mask)),
    "next": ("the first place of the padding", lambda b: ~b.real & _before(b.real)),
    "padding": ("the rest of the padding", lambda b: ~b.real & ~_before(b.real)),
}
"""Kinds of tokens, with what they are called and where they are: every token is of one kind."""
ANSWER = ("first", "inside", "end")
"""Those that count."""


def _all_of(kinds: Sequence[str]) -> Callable[[Batch], Tensor]:
    return lambda b: torch.stack([KINDS[kind][1](b) for kind in kinds]).any(0)


def _said(kinds: Sequence[str]) -> str:
    *most, last = (KINDS[kind][0] for kind in kinds)
    return f"{', '.join(most)} and {last}" if most else last


def _other_kinds() -> Iterator[Slip]:
    """A mask for every other choice of kinds, the likelier ones first: those that differ in fewer kinds."""
    choices = [some for n in range(1, len(KINDS) + 1) for some in itertools.combinations(KINDS, n) if some != ANSWER]
    for choice in sorted(choices, key=lambda choice: len({*choice} ^ {*ANSWER})):
        added = [kind for kind in choice if kind not in ANSWER]
        missing = [kind for kind in ANSWER if kind not in choice]
        said = (
            (f"Your loss counts {_said(added)} too. " if added else "")
            + (f"Your loss leaves out {_said(missing)}. " if missing else "")
            + "(2) counts the tokens of the answers, where `is_answer` is True: all, the end too, and no others."
        )
        if choice == ("inside", "end", "next"):
            said += (
                " Your mask is one column off: the log-probability of token k + 1 stands in column k, so its mask is "
                "`is_answer[:, 1:]`."
            )
        yield Slip(" ".join([f"+{k}" for k in added] + [f"−{k}" for k in missing]), (_all_of(choice),), said)


_TOKENS = (
    *_other_kinds(),
    Slip(
        "mask shifted too far",
        (
            lambda b: _behind(b.mask),
            lambda b: _behind(_behind(b.mask)),
            lambda b: _before(_before(b.mask)),
            lambda b: b.mask & _behind(_behind(b.mask)),
            lambda b: b.mask & _before(_before(b.mask)),
        ),
        "Your mask is some columns off. Of the tokens and of the mask the same columns are taken: `[:, 1:]` of both.",
    ),
    Slip(
        "mask of other rows",
        (lambda b: b.first, lambda b: b.mask[:1].expand_as(b.mask)),
        "The mask in your loss is not that of the batch: each row has a mask of its own, `is_answer[rows]`.",
    ),
    Slip(
        "one word left out",
        tuple(lambda b, word=word: b.mask & (b.ids != word) for word in range(END)),
        "One word of the vocabulary never counts in your loss, such as the one whose number stands for “ignore”. "
        "Every token of an answer counts: whether it does is for `is_answer` to say, not for its number.",
    ),
)
_FIGURE = (
    Slip(
        "minus missing",
        (lambda p: p,),
        "The minus of (2) is missing: a step down this loss makes the demonstrations *less* probable.",
    ),
    Slip(
        "probabilities averaged",
        (lambda p: -p.exp(), lambda p: 1 - p.exp(), lambda p: p.exp(), lambda p: p.exp().square()),
        "You average probabilities. (2) is the mean of their logarithms.",
    ),
    Slip(
        "not the logarithms",
        (torch.square, lambda p: -p / math.log(2), lambda p: -p * p.exp(), lambda p: p.exp().sub(1).square()),
        "Your loss is another figure of the right tokens: squares, entropies, or bits. (2) is the mean of −log π, in "
        "nats.",
    ),
)
_MEAN = (
    Slip(
        "sum",
        (lambda x, m, real: (x * m).sum(),),
        "Your loss is a sum over the tokens. (2) divides by their number, Σ m, so that it does not depend on the "
        "batch.",
    ),
    Slip(
        "divided by the columns",
        (lambda x, m, real: (x * m).mean(),),
        "You divide by the number of all columns, padding and prompts too. (2) divides by Σ m, the tokens counted.",
    ),
    Slip(
        "divided by the rows",
        (lambda x, m, real: (x * m).sum(1).mean(),),
        "You divide by the number of answers. (2) divides by Σ m, the number of answer tokens.",
    ),
    Slip(
        "mean of means",
        (
            lambda x, m, real: ((x * m).sum(1) / m.sum(1).clamp(min=1)).mean(),
            lambda x, m, real: ((x * m).sum(1) / m.sum(1).clamp(min=1)).sum(),
        ),
        "You take the mean of each answer first, and then go over the answers: a token of a short answer counts more. "
        "In (2) every token counts alike.",
    ),
    Slip(
        "mean of columns",
        (
            lambda x, m, real: ((x * m).sum(0) / m.sum(0).clamp(min=1))[m.any(0)].mean(),
            lambda x, m, real: ((x * m).sum(0) / m.sum(0).clamp(min=1)).mean(),
        ),
        "You take the mean of each column first: the late columns, where few answers are left, count as much as the "
        "others. In (2) every token counts alike.",
    ),
    Slip(
        "another divisor",
        (
            lambda x, m, real: (x * m).sum() / m.sum(1).max(),
            lambda x, m, real: (x * m).sum() / real.sum(),
            lambda x, m, real: (x * m).sum() / (real.sum() + len(real)),
            lambda x, m, real: (x * m).sum() / (m.numel() + len(m)),
            lambda x, m, real: (x * m).sum() / m.shape[1],
            lambda x, m, real: (x * m).sum() / (m.sum() - len(m)),
            lambda x, m, real: (x * m).sum() / (m.sum() + len(m)),
        ),
        "Your loss has the right sum above and another number below than Σ m, the tokens that count.",
    ),
    Slip(
        "divided twice",
        (
            lambda x, m, real: (x * m).mean() / m.sum(),
            lambda x, m, real: _mean(x, m, real) / m.sum(),
            lambda x, m, real: _mean(x, m, real) / len(m),
            lambda x, m, real: (x * m).sum(1).mean() / m.shape[1] / len(m),
        ),
        "You divide twice, by Σ m and by another number: a mean is a sum that has been divided already.",
    ),
    Slip(
        "one row",
        (lambda x, m, real: _mean(x[-1], m[-1], real), lambda x, m, real: _mean(x[0], m[0], real)),
        "Your loss is that of one row of the batch. (2) is over all of them.",
    ),
    Slip(
        "no mean",
        (
            lambda x, m, real: x[m].median(),
            lambda x, m, real: x[m].max(),
            lambda x, m, real: x[m].min(),
            lambda x, m, real: _mean(x, m, real).exp(),
            lambda x, m, real: _mean(x, m, real).square(),
            lambda x, m, real: _mean(x, m, real).log(),
        ),
        "Your loss is another figure of the right tokens than their mean: their median, the worst of them, the "
        "perplexity, a square.",
    ),
    Slip(
        "logarithm of a mean",
        (lambda x, m, real: -(_mean((-x).exp(), m, real)).log(),),
        "You take the logarithm of a mean of probabilities. (2) is the mean of their logarithms.",
    ),
)
_TOLD = (
    Slip(
        "the losses of other steps",
        (
            lambda values: values.cumsum(0) / torch.arange(1, len(values) + 1),
            lambda values: values.cumsum(0),
            lambda values: torch.stack([values[0], *values[:-1]]),
            lambda values: values[:1].expand_as(values),
            lambda values: values.cummin(0).values,
        ),
        "The first loss is right; what you yield later is made of the losses of several steps. Each step has its own.",
    ),
)


OF_THE_LOSS: tuple[Symptom, ...] = (
    *slips(_loss_is, mean=_MEAN, figure=_FIGURE, told=_TOLD),
    *slips(_loss_is, tokens=_TOKENS),
)
