"""The symptoms of notebook 10's capstone, first half: what mistakes make of the slopes at the reference."""

from collections.abc import Callable

import torch
from torch import Tensor

from week6.checks.bench_10 import STEPS, Record, Trial
from week6.checks.capstone import Symptom
from week6.checks.counterfactual import Slip, alike, slips
from week6.checks.judging import at


def _pairs(trial: Trial) -> Tensor:
    pi = trial.log_ref.exp()
    return 2 * pi[:, None] * pi * trial.preference


def _by_logits(trial: Trial, pairs: Tensor, start: Tensor, normalised: bool) -> Tensor:
    ref, theta = trial.log_ref, start.clone().requires_grad_()
    log_pi = theta.log_softmax(-1) if normalised else theta
    loss = (pairs * trial.pair_loss(log_pi[:, None], log_pi, ref[:, None], ref)).sum()
    (gradient,) = torch.autograd.grad(loss, theta)
    return gradient


def _starts(
    record: Record,
    *,
    pairs: Callable[[Trial], Tensor] = _pairs,
    start: Callable[[Tensor], Tensor] = lambda log_ref: log_ref,
    normalised: bool = True,
    scaled: Callable[[Tensor, Tensor], Tensor] = lambda gradient, pi: gradient / pi,
) -> bool:
    """Whether the slopes at the start are these, of every loss."""
    return all(
        alike(
            trial.found.get("slopes", torch.zeros(0)),
            scaled(_by_logits(trial, pairs(trial), start(trial.log_ref), normalised), trial.log_ref.exp()),
            1e-6,
        )
        for trial in record.values()
    )


_OF_PAIRS = (
    Slip(
        "who wins is turned round",
        (lambda t: _pairs(t).T,),
        "Your slopes are those for the opposite preferences: `preference[a, b]` says how often a is the *chosen* one, "
        "and the loss takes the chosen answer first.",
    ),
    Slip(
        "preferences forgotten",
        (
            lambda t: t.log_ref.exp()[:, None] * t.log_ref.exp(),
            lambda t: 2 * t.log_ref.exp()[:, None] * t.log_ref.exp(),
        ),
        "Each pair counts the same in both orders. In (1) the loss of (a, b) has the weight p(a ≻ b).",
    ),
    Slip(
        "the two orders",
        (lambda t: _pairs(t) / 2, lambda t: _pairs(t).triu(), lambda t: _pairs(t).tril(), lambda t: 2 * _pairs(t)),
        "Your slopes are wrong by the number of orders of a pair: (1) is twice the sum over all a and b.",
    ),
    Slip(
        "pairs not from the reference",
        (
            lambda t: 2 * t.preference,
            lambda t: t.preference,
            lambda t: 2 * t.preference / len(t.log_ref) ** 2,
            lambda t: t.preference / len(t.log_ref) ** 2,
            lambda t: 2 * t.log_ref.exp()[:, None] * t.preference,
            lambda t: 2 * t.log_ref.exp() * t.preference,
        ),
        "Your pairs are not those of (1): both answers are drawn from π_ref, so a pair has the weight "
        "π_ref(a) π_ref(b).",
    ),
    Slip(
        "a mean over the table",
        (lambda t: _pairs(t) / len(t.log_ref) ** 2, lambda t: _pairs(t) / len(t.log_ref)),
        "You take a mean over the entries of the table. The weights in (1) are probabilities already: it is a sum.",
    ),
    Slip(
        "an answer against itself left out",
        (lambda t: _pairs(t).fill_diagonal_(0.0),),
        "Pairs of an answer with itself are missing. They can be drawn: (1) is a sum over *all* a and b.",
    ),
)
_SCALED = (
    Slip(
        "not divided by π_ref",
        (lambda g, pi: g,),
        "Those are the plain gradients. A slope, as it is defined here, is the gradient by a logit divided by π_ref of "
        "its answer: else a rare answer seems to be at rest wherever it is.",
    ),
    Slip(
        "multiplied by π_ref",
        (lambda g, pi: g * pi, lambda g, pi: g / pi.sqrt(), lambda g, pi: g / pi.square(), lambda g, pi: g / pi.log()),
        "You scale the gradient by another power of π_ref. It is divided by the probability π_ref(y).",
    ),
    Slip(
        "sign of the slopes",
        (lambda g, pi: -g / pi,),
        "Your slopes have the opposite sign. The slope is the gradient of the loss; the minus belongs to the step.",
    ),
    Slip(
        "slopes of length one",
        (lambda g, pi: (g / pi) / (g / pi).norm(), lambda g, pi: (g / pi).abs(), lambda g, pi: g / g.norm()),
        "You return the direction, or the sizes, of the slopes. Asked are the slopes themselves: near a minimum they "
        "must become small.",
    ),
)
_START = (
    Slip(
        "start at equal probabilities",
        (torch.zeros_like, torch.ones_like),
        "Your first slopes are those of the uniform policy. The descent starts at π_ref: logits = log π_ref.",
    ),
)
_BY = (
    Slip(
        "logits not normalised",
        (False,),
        "You differentiate by log π as if each could move alone. The N numbers are logits: log π is their "
        "log_softmax, and the gradient goes through it.",
    ),
)


def _in_proportion(of: Callable[[Trial], Tensor]) -> Callable[[Record], bool]:
    """Whether the slopes of each loss are these times a number."""

    def seen(record: Record) -> bool:
        pairs = [(trial.part("slopes", len(trial.log_ref)), of(trial)) for trial in record.values()]
        return all(alike(came / came.norm(), want / want.norm(), 1e-6) for came, want in pairs)

    return seen


OF_THE_SLOPES = tuple(
    Symptom(symptom.name, at(STEPS, STEPS[0].title, symptom.seen), symptom.message)
    for symptom in (
        *slips(_starts, pairs=_OF_PAIRS, scaled=_SCALED, start=_START, normalised=_BY),
        Symptom(
            "slopes times a number",
            _in_proportion(lambda trial: trial.slopes(trial.log_ref)),
            "Your slopes are the right ones times a number: is there a mean in the place of a sum?",
        ),
        Symptom(
            "one number for all answers",
            _in_proportion(lambda trial: trial.gradient(trial.log_ref)),
            "Your slopes are the plain gradient times one number. Each answer is divided by its own π_ref.",
        ),
    )
)
