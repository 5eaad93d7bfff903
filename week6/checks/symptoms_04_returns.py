"""The symptoms of notebook 04's capstone in the targets of the critic, and what advantages are made of."""

from collections.abc import Callable

from torch import Tensor

from week6.checks.bench_04 import Record
from week6.checks.capstone import Symptom
from week6.checks.counterfactual import Slip, slips
from week6.checks.steps_04 import advantages, differs
from week6.log_probs import masked_whiten
from week6.ppo import gae

FIRST = 5
"""Iterations that are looked at: in the first the critic is 0 and the leash is slack."""


def old_values(record: Record, i: int) -> Tensor:
    """What the critic said before the steps on the batch."""
    values = record.old_values(i)
    assert values is not None
    return values


def values_after(record: Record, i: int) -> Tensor:
    """What the critic says after the steps on the batch."""
    return record.steps[i]["values"][record.language.rows[record.steps[i]["answers"]]]


def gae_of(rewards: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """The advantages alone."""
    return gae(rewards, values, mask)[0]


def to_go(x: Tensor) -> Tensor:
    """Sums from each token on."""
    return x.flip(1).cumsum(1).flip(1)


def total(x: Tensor, mask: Tensor) -> Tensor:
    """The sum of each answer, at all of its tokens."""
    return (x * mask).sum(1, keepdim=True).expand_as(x) * mask


def raw(record: Record, i: int) -> Tensor:
    """The advantages of an iteration before they are whitened."""
    return gae_of(record.shaped(i), old_values(record, i), record.batch(i)[3])


def white(record: Record, i: int) -> Tensor:
    """The advantages of an iteration."""
    return masked_whiten(raw(record, i), record.batch(i)[3])


def _returns_are(record: Record, *, target: Callable[[Record, int], Tensor]) -> bool:
    """Whether the returns of the first iterations are these, and not right."""
    if not advantages(record):
        return False
    right = all(
        not differs(record.steps[i]["returns"], raw(record, i) + old_values(record, i), record.batch(i)[3], 0.02, "")
        for i in range(FIRST)
    )
    return not right and all(
        not differs(record.steps[i]["returns"], target(record, i), record.batch(i)[3], 0.01, "") for i in range(FIRST)
    )


_TARGET = (
    Slip(
        "targets are advantages",
        (raw, white),
        "The targets of the critic are the advantages. A value is what is still to come: advantage plus old value "
        "(24).",
    ),
    Slip(
        "targets are rewards",
        (lambda record, i: record.shaped(i),),
        "The targets of the critic are the rewards of the single tokens. They are returns, all that comes from there "
        "on (24).",
    ),
    Slip(
        "whitened targets",
        (
            lambda record, i: white(record, i) + old_values(record, i),
            lambda record, i: masked_whiten(raw(record, i) + old_values(record, i), record.batch(i)[3]),
        ),
        "The targets of the critic are whitened, or made of whitened advantages. (24) takes them before they are "
        "whitened: a value is in reward units.",
    ),
    Slip(
        "reward-to-go as target",
        (lambda record, i: to_go(record.shaped(i)),),
        "The targets of the critic are rewards-to-go. (24) makes them of the same λ as the advantages: advantage plus "
        "old value.",
    ),
    Slip(
        "one target an answer",
        (
            lambda record, i: total(record.shaped(i), record.batch(i)[3]),
            lambda record, i: record.scores[record.steps[i]["answers"]][:, None].expand_as(record.shaped(i)),
        ),
        "The tokens of an answer share one target, all that the answer earned. A value is what comes from a token on "
        "(24).",
    ),
    Slip(
        "targets of another critic",
        (
            lambda record, i: raw(record, i) + values_after(record, i),
            lambda record, i: raw(record, i) - old_values(record, i),
            lambda record, i: raw(record, i) + 2 * old_values(record, i),
        ),
        "The values in the targets of the critic are others than in the advantages, or are taken away: advantage plus "
        "*old* value (24).",
    ),
    Slip(
        "targets without the leash",
        (
            lambda record, i: (
                gae_of(record.shaped(i, 0.0), old_values(record, i), record.batch(i)[3]) + old_values(record, i)
            ),
            lambda record, i: to_go(record.shaped(i, 0.0)),
        ),
        "The targets of the critic are made of the score alone. What is paid for the log-ratio belongs into them: the "
        "rewards as they are.",
    ),
)

OF_THE_RETURNS: tuple[Symptom, ...] = slips(_returns_are, target=_TARGET)
