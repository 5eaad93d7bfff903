"""The symptoms of notebook 10's capstone: what mistakes make of the descent, and of its end."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from week6.checks.bench_10 import STEPS, TOLERANCE, Record, Trial, resting, spread
from week6.checks.capstone import Symptom
from week6.checks.counterfactual import Slip, alike, slips
from week6.checks.judging import at
from week6.checks.symptoms_10_slopes import OF_THE_SLOPES
from week6.objective import kl_divergence

_, PLACE, VERDICT, PATH, LOST = (step.title for step in STEPS)

# --- the place of rest ------------------------------------------------------------------------------------------------


def _ends(trials: list[Trial], holds: Callable[[Trial], bool]) -> bool:
    return all("log_pi" in trial.found and holds(trial) for trial in trials)


def _not_finite(record: Record) -> bool:
    ends = (torch.as_tensor(trial.found["log_pi"]) for trial in resting(record))
    return not all(bool(torch.isfinite(end).all()) for end in ends)


def _steepest(trial: Trial) -> float:
    return trial.slopes(trial.end.log_softmax(-1)).abs().max().item()


def _risen(trial: Trial) -> bool:
    return bool(trial.expected(trial.end.log_softmax(-1)) > trial.expected(trial.log_ref) + 1e-6)


def _wandering(asked: Tensor) -> bool:
    """Whether these, if there is one for each answer, are no log-probabilities."""
    return asked.numel() in asked.shape and abs(asked.flatten().logsumexp(0).item()) > 1e-3


def _rounds(record: Record) -> list[int]:
    """How often the loss was asked for, of each that has a minimum."""
    return [len(trial.asked) for trial in resting(record)]


def _at_most(record: Record) -> bool:
    """Whether three or more are unfinished, all of them after the same largest number of rounds. In a submission's own
    process rounds are not seen."""
    unfinished = [len(trial.asked) for trial in resting(record) if _steepest(trial) > TOLERANCE]
    return len(unfinished) >= 3 and set(unfinished) == {max(_rounds(record))} != {0}


def _stopped_by(
    record: Record, *, size: Callable[[Tensor, Tensor], Tensor] = lambda slope, pi: slope.abs().max()
) -> bool:
    """Whether all stopped with this size within the tolerance, though some slope is steeper."""
    sizes = [float(size(trial.slopes(trial.end), trial.log_ref.exp())) for trial in resting(record)]
    return max(sizes) <= TOLERANCE and max(map(_steepest, resting(record))) > TOLERANCE


_SIZE = (
    Slip(
        "the plain gradient decides",
        (lambda s, pi: (s * pi).abs().max(), lambda s, pi: (s * pi).norm(), lambda s, pi: (s * pi).abs().mean()),
        "You stop as soon as the plain gradient is small. Where π_ref is small it is small from the start: the "
        "gradient divided by π_ref decides.",
    ),
    Slip(
        "slopes with their sign",
        (
            lambda s, pi: s.max(),
            lambda s, pi: -s.min(),
            lambda s, pi: s.sum().abs(),
        ),
        "You compare slopes with the tolerance as they are, signs included, so that negative ones do not count. Take "
        "their sizes first: abs().",
    ),
    Slip(
        "a mean of the slopes",
        (
            lambda s, pi: s.abs().mean(),
            lambda s, pi: s.square().mean().sqrt(),
            lambda s, pi: (pi * s.abs()).sum(),
            lambda s, pi: (pi * s.square()).sum().sqrt(),
            lambda s, pi: s.square().sum(),
            lambda s, pi: s.square().max(),
            lambda s, pi: s.square().mean(),
            lambda s, pi: (pi * s.square()).sum(),
            lambda s, pi: s.abs().median(),
            lambda s, pi: s.abs().min(),
            lambda s, pi: s.abs()[0],
            lambda s, pi: s.abs()[-1],
        ),
        "You stop by a mean, by squares or by one of the slopes. The *steepest* of them must be within the tolerance.",
    ),
)

# --- does it rest, the path, the loss ---------------------------------------------------------------------------------


def _restless(record: Record) -> list[Trial]:
    return [trial for trial in record.values() if not trial.rests]


def _last_is(record: Record, rule: Callable[[Tensor, Tensor], Tensor]) -> bool:
    """Whether the last KL is a wrong function of log π and log π_ref, at every end."""
    return all(
        len(trial.kls) > 0 and alike(trial.kls[-1], rule(trial.end, trial.log_ref), 1e-6) for trial in record.values()
    )


def _ends_earlier(trial: Trial) -> bool:
    """Whether the last KL is that of a policy at which the loss was asked for."""
    n = len(trial.log_ref)
    policies = [asked.flatten() for asked in trial.asked if asked.numel() == n]
    kls = [(p.exp() * (p - trial.log_ref)).sum().item() for p in policies]
    return len(trial.kls) > 0 and any(abs(kl - trial.kls[-1].item()) < 1e-6 for kl in kls)


OTHER_KLS = (
    lambda p, q: (q.exp() * (q - p)).sum(),
    lambda p, q: (p.exp() * (p - q)).sum() / math.log(2),
    lambda p, q: -(p.exp() * (p - q)).sum(),
    lambda p, q: (p - q).mean(),
    lambda p, q: (p - q).sum(),
    lambda p, q: (p - q).abs().max(),
    lambda p, q: torch.tensor(spread(p - q)),
    lambda p, q: (q.exp() * (p - q)).sum(),
    lambda p, q: -(p.exp() * p).sum(),
    lambda p, q: ((p - q) ** 2 / 2 * p.exp()).sum(),
)


def _lost_is(record: Record, rule: Callable[[Trial], float]) -> bool:
    return all(
        "lost" in trial.found and abs(trial.part("lost").item() - rule(trial)) < 1e-3 for trial in resting(record)
    )


def _earned(trial: Trial, log_pi: Tensor) -> float:
    return (log_pi.exp() * trial.reward).sum().item()


OTHER_LOSSES = (
    lambda t: -t.lost,
    lambda t: t.reward.max().item() - _earned(t, t.end),
    lambda t: _earned(t, t.end) - _earned(t, t.log_ref),
    lambda t: _earned(t, t.end),
    lambda t: kl_divergence(t.end, t.star[0]).item(),
    lambda t: kl_divergence(t.star[0], t.end).item(),
    lambda t: t.star[1] * kl_divergence(t.star[0], t.end).item(),
    lambda t: t.star[1],
)

SYMPTOMS = (
    *OF_THE_SLOPES,
    Symptom(
        "probabilities",
        lambda record: _ends(list(record.values()), lambda t: bool((torch.as_tensor(t.found["log_pi"]) >= 0).all())),
        "“log_pi” holds probabilities. Their logarithms are asked for.",
    ),
    Symptom(
        "spread of log π",
        lambda r: (
            not r["IPO, small β"].found["rests"]
            and spread(r["IPO, small β"].end - r["IPO, small β"].log_ref)
            < r["IPO, small β"].limit
            < spread(r["IPO, small β"].end)
            and bool(r["DPO"].found["rests"])
        ),
        "You measure how far the log-probabilities are apart. The limit is for the log-*ratios*, log π/π_ref: a "
        "reference may be steep itself.",
    ),
    Symptom(
        "not a number",
        at(STEPS, PLACE, _not_finite),
        "There is a nan or an infinity in your `log_pi`: the steps are too long for one of the losses, and what "
        "overshoots grows. How steep a loss bends differs by a factor of a thousand: try a step, and shorten it where "
        "it goes too far.",
    ),
    Symptom(
        "logits returned",
        at(
            STEPS,
            PLACE,
            lambda r: (
                _ends(resting(r), lambda t: _steepest(t) <= 2 * TOLERANCE)
                and any(abs(t.end.logsumexp(0).item()) > 1e-6 for t in resting(r))
            ),
        ),
        "Your logits are right, but “log_pi” does not hold log-probabilities: log_softmax is missing at the end.",
    ),
    Symptom(
        "nothing moves",
        at(STEPS, PLACE, lambda r: _ends(resting(r), lambda t: alike(t.end.log_softmax(-1), t.log_ref, 1e-6))),
        "All your policies end at π_ref: nothing moves. Does the step change the logits, and does the loop run?",
    ),
    Symptom(
        "uphill",
        at(STEPS, PLACE, lambda r: any(_risen(trial) for trial in resting(r))),
        "A loss is higher at your end than at the start: you go uphill, or you overshoot and let it pass.",
    ),
    Symptom(
        "logits wander",
        at(
            STEPS,
            PLACE,
            lambda r: any(_wandering(asked) for trial in resting(r) for asked in trial.asked),
        ),
        "After the first steps you hand numbers to the loss that are no log-probabilities. Take log_softmax of the "
        "logits each time.",
    ),
    Symptom(
        "a fixed number of steps",
        at(STEPS, PLACE, lambda r: len(set(_rounds(r))) == 1 and max(_rounds(r)) > 1),
        "You took the same number of steps for every loss: that is no stopping rule. Go on until the steepest slope is "
        "within the tolerance.",
    ),
    Symptom(
        "a largest number of steps",
        at(STEPS, PLACE, _at_most),
        "Where you took most steps you had not arrived: a limit on the number of steps is no reason to be content.",
    ),
    *(
        Symptom(symptom.name, at(STEPS, PLACE, symptom.seen), symptom.message)
        for symptom in slips(_stopped_by, size=_SIZE)
    ),
    Symptom(
        "stopped too early",
        at(STEPS, PLACE, lambda r: any(_steepest(t) > TOLERANCE for t in resting(r))),
        "You stop where a slope is still steeper than the tolerance: what you compare with it becomes small sooner, as "
        "the length of a step or the fall of the loss does.",
    ),
    Symptom(
        "the other way round",
        at(STEPS, VERDICT, lambda r: all(bool(t.found["rests"]) != t.rests for t in r.values())),
        "All your verdicts are turned round: `rests` is True where the descent came to rest.",
    ),
    Symptom(
        "a small slope is no minimum",
        at(
            STEPS,
            VERDICT,
            lambda r: all(bool(t.found["rests"]) and spread(t.end - t.log_ref) > t.limit for t in _restless(r)),
        ),
        "You say that a policy rests whose log-ratios are farther apart than `limit`. On the way to infinity slopes "
        "become small, too: look at the largest and the smallest log-ratio in every step, before you go on.",
    ),
    Symptom(
        "decided too soon",
        at(STEPS, VERDICT, lambda r: any(spread(t.end - t.log_ref) <= t.limit for t in _restless(r))),
        "You give a loss up while its log-ratios are less than `limit` apart. Only then is it said to run away: not at "
        "a number of steps, nor at a KL, which stays below −log π_ref of the best answer.",
    ),
    Symptom(
        "the start is missing",
        at(STEPS, PATH, lambda r: all(len(t.kls) > 0 and t.kls[0] > 1e-6 for t in r.values())),
        "Your `kls` begin after the first step. At the start the KL is 0: it is the first of them.",
    ),
    Symptom(
        "another distance",
        at(STEPS, PATH, lambda r: any(_last_is(r, rule) for rule in OTHER_KLS)),
        "What stands in `kls` is another figure of log π/π_ref. Asked is KL(π ‖ π_ref), its mean under π, in nats.",
    ),
    Symptom(
        "the end is missing",
        at(STEPS, PATH, lambda r: all(_ends_earlier(trial) for trial in r.values())),
        "The last of your `kls` is not that of the policy you return: append it after each step, not before.",
    ),
    Symptom(
        "lost against something else",
        at(STEPS, LOST, lambda r: any(_lost_is(r, rule) for rule in OTHER_LOSSES)),
        "`lost` is another figure: the sign turned, a distance in nats, or the distance to another policy than π* of "
        "the same KL. By (2) it is E[r] of that π* minus E[r] of yours.",
    ),
    Symptom(
        "bisection",
        at(STEPS, LOST, lambda r: any("lost" in t.found for t in resting(r))),
        "The policy that you compare with is not π* of the same KL: does the search for β' take the right half (the KL "
        "of π* *falls* as β' grows), is its interval wide enough, does it stop too early?",
    ),
)
