"""The symptoms of notebook 04's capstone: what a mistake makes of PPO's instruments."""

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from week6.checks.bench_04 import Record
from week6.checks.capstone import Symptom
from week6.checks.replay_04 import critic_is_right, replayed, trained_by
from week6.checks.steps_04 import (
    EXPLAINED,
    advantages,
    deviation,
    explained,
    shaped,
    written,
)
from week6.checks.symptoms_04_advantages import OF_THE_ADVANTAGES
from week6.checks.symptoms_04_answers import OF_THE_ANSWERS
from week6.checks.symptoms_04_gradients import OF_THE_GRADIENTS, OF_THE_STEPS
from week6.checks.symptoms_04_rewards import OF_THE_REWARDS
from week6.log_probs import masked_whiten


def _same(tables: Sequence[Tensor]) -> bool:
    return all(torch.equal(table, tables[0]) for table in tables)


def _visited(record: Record) -> Tensor:
    """The prefixes that a token of the first batch has."""
    y, _, _, mask = record.batch(0)
    return torch.zeros(len(record.language.reference), dtype=torch.bool).index_fill(
        0, record.language.rows[y][mask], True
    )


@functools.lru_cache(maxsize=4)
def _is_ready(record: Record) -> bool:
    """Whether all that goes into the update is right."""
    return deviation(record, written(record)) < 5 and shaped(record) == "" and advantages(record) == ""


def _of_the_update(seen: Callable[[Record], bool]) -> Callable[[Record], bool]:
    """A symptom of the update, asked only where all that goes into it is right."""
    return lambda record: _is_ready(record) and seen(record)


def _of_the_critic(seen: Callable[[Record], bool]) -> Callable[[Record], bool]:
    """A symptom of the critic's steps, asked only where its values are wrong in the end and its targets right."""
    return _of_the_update(lambda record: explained(record) < EXPLAINED and seen(record))


_UPDATES = (
    (
        "another optimizer",
        tuple({"make": make} for make in (torch.optim.SGD, torch.optim.RMSprop, torch.optim.Adagrad)),
        "The first update is that of another optimizer than Adam, for which the learning rate is made.",
    ),
    (
        "another learning rate",
        tuple({"rate": rate} for rate in (1e-4, 1e-3, 3e-3, 0.01, 0.02, 0.03, 0.05, 0.2, 0.3, 0.5, 1.0)),
        "The first update is the right one at another learning rate: 0.1 is asked for.",
    ),
    (
        "another number of steps",
        tuple({"epochs": epochs} for epochs in (2, 3, 4, 5, 6, 7, 9, 10, 16)),
        "The first update is the right one with another number of steps on the batch: `epochs` are asked for.",
    ),
    (
        "a new optimizer in every step",
        ({"forgets": True},),
        "The first update is what comes out if each step has a new optimizer: Adam has a memory. Make it once.",
    ),
    (
        "another start of the policy",
        ({"zeros": True},),
        "The first update started from a policy to which all tokens are alike, not from the reference.",
    ),
)
_CRITICS = (
    (
        "a critic of the next reward",
        ({"target": lambda record: record.steps[0]["rewards"]},),
        "The critic predicts the reward of the next token. Its target is the return, all that comes from there on "
        "(24).",
    ),
    (
        "a critic of advantages",
        ({"target": lambda record: record.steps[0]["advantages"]},),
        "The critic is trained on advantages. Its targets are the returns (24), in reward units.",
    ),
    (
        "a critic of something else",
        (
            {"target": lambda record: 0 * record.steps[0]["returns"]},
            {"target": lambda record: record.steps[0]["returns"][record.batch(0)[3]].mean().expand(128, 3)},
            {"target": lambda record: record.steps[0]["returns"][:, :1].expand(128, 3)},
            {"target": lambda record: record.scores[record.steps[0]["answers"]][:, None].expand(128, 3)},
            {"target": lambda record: -record.steps[0]["returns"]},
            {"target": lambda record: masked_whiten(record.steps[0]["returns"], record.batch(0)[3])},
        ),
        "The critic is trained on other numbers than the returns of the tokens: a mean, the first of each answer, the "
        "score. Each value has the return of its own token as its target (24).",
    ),
    (
        "a critic that runs away",
        ({"loss": lambda values, target: -(values - target).square()},),
        "The values go away from the returns: the sign of the value loss is turned.",
    ),
    (
        "other rows of the critic",
        (
            {"rows": lambda record: record.language.tokens[record.steps[0]["answers"]]},
            {"rows": lambda record: record.language.rows[record.steps[0]["answers"]].roll(1, 1)},
            {"rows": lambda record: record.language.rows[record.steps[0]["answers"]].roll(-1, 1)},
        ),
        "The critic is trained at other rows than those of the tokens' own prefixes, `language.rows[y]`.",
    ),
    (
        "padding in the value loss",
        ({"masked": False},),
        "Padding is in the value loss: it pulls the row of the empty prefix to 0. Give it the mask.",
    ),
    (
        "another learning rate of the critic",
        tuple({"rate": rate} for rate in (1e-4, 1e-3, 3e-3, 0.01, 0.02, 0.03, 0.05, 0.2, 0.3, 0.5, 1.0)),
        "The critic's first steps are the right ones at another learning rate: 0.1 is asked for.",
    ),
)

SYMPTOMS: tuple[Symptom, ...] = (
    Symptom(
        "a list that was overwritten",
        lambda record: _same(record["policy"]) and not torch.equal(record["policy"][0], record.language.reference),
        "All iterations show one and the same policy, the last: yield copies, .detach().clone(), since the "
        "optimizer goes on writing into the tensor itself.",
    ),
    *OF_THE_ANSWERS,
    *OF_THE_REWARDS,
    *OF_THE_ADVANTAGES,
    Symptom(
        "a policy that stands still",
        _of_the_update(lambda record: _same(record.policies) and len(record.policies) > 1),
        "The policy has not moved at all: does the optimizer hold it, does a gradient reach it? The new "
        "log-probabilities must be computed with gradient, at each step anew.",
    ),
    *(Symptom(one.name, _of_the_update(one.seen), one.message) for one in OF_THE_GRADIENTS),
    *(Symptom(name, _of_the_update(replayed(ways)), message) for name, ways, message in _UPDATES),
    *(Symptom(one.name, _of_the_update(one.seen), one.message) for one in OF_THE_STEPS),
    Symptom(
        "a critic that stands still",
        _of_the_update(lambda record: bool(record["values"][-1].abs().max() < 1e-6) or _same(record["values"])),
        "The critic has not learned: its table is what it was. Is it in the optimizer, and the value loss in the sum?",
    ),
    *(Symptom(name, _of_the_critic(trained_by(ways)), message) for name, ways, message in _CRITICS),
    Symptom(
        "rows that nothing was at",
        _of_the_critic(lambda record: bool((record.steps[0]["values"][~_visited(record)].abs() > 1e-6).any())),
        "After the first batch the critic says something else than 0 of prefixes that no token of it has: it is "
        "trained at other rows than `language.rows[y]`, where the mask is True.",
    ),
    Symptom(
        "a critic that learns the wrong thing",
        _of_the_critic(lambda record: not critic_is_right(record)),
        "The critic's table after the first batch is not what eight steps towards the returns make of zeros: it is its "
        "targets, its rows, its mask or its optimizer.",
    ),
    Symptom(
        "a critic that is right at first",
        _of_the_critic(critic_is_right),
        "The critic's table after the first batch is right, and later it is not that of the values: what happens to it "
        "between the batches, or what of the first one is used again?",
    ),
)
