"""The symptoms of notebook 03's capstone before the search: what a mistake does to the limit."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from week6.checks.bench_03 import TOLERANCE, UNITS, Record
from week6.checks.capstone import Symptom


def near(x: float, y: float) -> bool:
    """Whether two numbers of nats are the same, large ones up to a share."""
    return abs(x - y) < TOLERANCE * max(1.0, abs(y))


def _limit_of_one(record: Record) -> bool:
    """Whether the limit is that of a single best answer, where a prompt has two."""
    trial = record["middle"]
    reachable = trial.rewards.masked_fill(trial.ref_log_probs == -torch.inf, -torch.inf)
    last = reachable.shape[-1] - 1 - reachable.flip(-1).argmax(-1, keepdim=True)
    ones = (trial.ref_log_probs.gather(-1, place) for place in (reachable.argmax(-1, keepdim=True), last))
    return trial.limit is not None and any(near(trial.limit, -one.mean().item()) for one in ones)


def _limit_in_a_unit(record: Record) -> bool:
    """Whether the limit changes with the unit of the rewards."""
    limits = [trial.limit for trial in (record["middle"], *(record[kind] for kind in UNITS))]
    return None not in limits and not near(max(limits), min(limits))  # type: ignore[type-var, arg-type]


def _limit_is(record: Record, rule: Callable[[Tensor, Tensor], Tensor]) -> bool:
    """Whether the limit is a wrong function of log π_ref and r."""
    trial = record["middle"]
    if trial.limit is None or near(trial.limit, trial.ours["limit"]):
        return False
    return near(trial.limit, rule(trial.ref_log_probs, trial.rewards).item())


def _of_best(ref: Tensor, r: Tensor) -> Tensor:
    """−log of the probability of the best answers that can be reached, (B,)."""
    reachable = r.masked_fill(ref == -torch.inf, -torch.inf)
    return -ref.masked_fill(reachable != reachable.amax(-1, keepdim=True), -torch.inf).logsumexp(-1)


OTHER_LIMITS = (
    lambda ref, r: torch.tensor(math.log(ref.shape[-1])),
    lambda ref, r: -(ref.exp() * ref).nan_to_num(0.0).sum(-1).mean(),
    lambda ref, r: _of_best(ref, r).max(),
    lambda ref, r: _of_best(ref, r).min(),
    lambda ref, r: _of_best(ref, r).median(),
    lambda ref, r: (-_of_best(ref, r)).exp().mean(),
    lambda ref, r: -(-_of_best(ref, r)).exp().mean().log(),
    lambda ref, r: -_of_best(ref, r).mean(),
    lambda ref, r: _of_best(ref, r)[0],
)  # fmt: skip

OF_THE_LIMIT = (
    Symptom(
        "an answer that is out of reach",
        lambda record: record["middle"].limit == math.inf,
        "The limit is infinite: for some prompt nothing is left to go to. Has the best answer π_ref = 0? No β lets the "
        "policy give it. Each prompt has best answers of its own, among those that the reference can give.",
    ),
    Symptom(
        "ties forgotten",
        _limit_of_one,
        "The limit is that of one best answer a prompt. Where two are equally good, π* goes to both: add up their "
        "probabilities before you take the logarithm.",
    ),
    Symptom(
        "a limit in a unit",
        _limit_in_a_unit,
        "The limit changes with the unit of the rewards. It is a number of nats: what is best stays best in any unit. "
        "The KL at some small β is near the limit only where β is small beside the rewards.",
    ),
    Symptom(
        "another limit",
        lambda record: any(_limit_is(record, rule) for rule in OTHER_LIMITS),
        "The limit is another figure than the mean KL of π* for β → 0, such as log N, an entropy, or that of one "
        "prompt. There π* is π_ref, restricted to the best answers: its KL is −log of their probability.",
    ),
)
