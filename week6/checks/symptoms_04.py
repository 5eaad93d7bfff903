"""The symptoms of notebook 04's capstone: what a mistake makes of PPO's instruments."""

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from week6.checks.bench_04 import ITERATIONS, Record
from week6.checks.capstone import Symptom
from week6.checks.replay_04 import first_policy, replayed, trained_by
from week6.checks.steps_04 import (
    CLIMB,
    EXPLAINED,
    GAP,
    HELD,
    PRESSED_HELD,
    advantages,
    deviation,
    explained,
    far,
    gained,
    late_gap,
    pressed,
    shaped,
    written,
)
from week6.checks.symptoms_04_advantages import OF_THE_ADVANTAGES
from week6.checks.symptoms_04_answers import OF_THE_ANSWERS
from week6.checks.symptoms_04_rewards import OF_THE_REWARDS
from week6.log_probs import masked_whiten
from week6.objective import kl_divergence


def _same(tables: Sequence[Tensor]) -> bool:
    return all(torch.equal(table, tables[0]) for table in tables)


def _direction(record: Record, first: int, last: int) -> float:
    """The median of log ρ in the direction of the advantage: how far a typical token went the right way."""
    return float(torch.cat([record.moved(i) for i in range(first, last)]).median())


def _along(record: Record) -> float:
    """The cosine between the first update and the right one."""
    start = record.language.reference
    came, right = ((table - start).flatten() for table in (record.policies[1], first_policy(record)))
    return float(torch.nn.functional.cosine_similarity(came, right, dim=0))


def _first_values(record: Record) -> float:
    """How much the critic went towards its targets in the first iteration, from zero: negative if away from them."""
    step, (_, _, _, mask) = record.steps[0], record.batch(0)
    return float((step["values"][record.language.rows[step["answers"]]] * step["returns"] * mask).sum())


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


def _by_answer(gain: Tensor, mask: Tensor) -> Tensor:
    return ((gain * mask).sum(1) / mask.sum(1)).mean()


_UPDATES = (
    (
        "advantages left out",
        (
            {"advantages": torch.ones_like},
            {"advantages": lambda a: a.sign()},
            {"advantages": torch.abs},
            {"advantages": lambda a: a.clamp(min=0)},
            {"advantages": torch.square},
        ),
        "The first update is what comes out if the size or the sign of the advantages is left out of the gain.",
    ),
    (
        "other weights than the advantages",
        ({"weighed_by": "returns"}, {"weighed_by": "rewards"}, {"weighed_by": "returns", "advantages": torch.neg}),
        "The first update is what comes out if the ratios are weighed by returns or rewards. The gain (27) is ρ times "
        "the advantage.",
    ),
    (
        "another optimizer",
        tuple({"make": make} for make in (torch.optim.SGD, torch.optim.RMSprop, torch.optim.Adagrad))
        + ({"make": torch.optim.SGD, "gain": lambda rho, a, clip: rho * a},),
        "The first update is that of another optimizer than Adam, for which the learning rate is made.",
    ),
    (
        "another learning rate",
        tuple({"rate": rate} for rate in (1e-4, 1e-3, 3e-3, 0.01, 0.02, 0.03, 0.05, 0.2, 0.3, 0.5, 1.0)),
        "The first update is the right one at another learning rate: 0.1 is asked for.",
    ),
    (
        "another ε",
        tuple({"clip": clip} for clip in (0.02, 0.05, 0.1, 0.15, 0.25, 0.3, 0.4)),
        "The first update is the right one with another ε: is `clip` handed on to the loss?",
    ),
    (
        "another number of steps",
        tuple({"epochs": epochs} for epochs in (2, 3, 4, 5, 6, 7, 9, 10, 16)),
        "The first update is the right one with another number of steps on the batch: `epochs` are asked for.",
    ),
    (
        "no ratio",
        (
            {"ratio": lambda new, old: 1 + new - old},
            {"ratio": lambda new, old: new - old},
            {"gain": lambda rho, a, clip: rho.log() * a},
        ),
        "The first update is what comes out of log ρ in the place of ρ; or of a ratio that is 1 at every step, since "
        "the old log-probabilities are taken anew each time, so that nothing is clipped. ρ is exp(log π − log π_old), "
        "and π_old stays what it was when the batch was drawn.",
    ),
    (
        "the ratio upside down",
        ({"ratio": lambda new, old: (old - new).exp()},),
        "The first update is what comes out of 1/ρ: the new probability stands above, the old one below.",
    ),
    (
        "another ratio",
        (
            {"ratio": lambda new, old: new / old},
            {"ratio": lambda new, old: old / new},
            {"ratio": lambda new, old: 1 + new.exp() - old.exp()},
            {"ratio": lambda new, old: new.exp() - old.exp()},
            {"ratio": lambda new, old: new.exp()},
            {"ratio": lambda new, old: (2 * (new - old)).exp()},
            {"ratio": lambda new, old: ((new - old) / 2).exp()},
        ),
        "The first update is what comes out of something else in the place of ρ: a quotient of *logarithms*, a "
        "difference of probabilities, a power. The ratio of two probabilities is exp(log π − log π_old).",
    ),
    (
        "ratio of whole answers",
        ({"ratio": lambda new, old: (new - old).sum(1, keepdim=True).exp().expand_as(new)},),
        "The first update is what comes out if each answer has one ratio. Here every token has its own.",
    ),
    (
        "another clip",
        (
            {"gain": lambda rho, a, clip: torch.minimum(rho * a, rho.clamp(max=1 + clip) * a)},
            {"gain": lambda rho, a, clip: torch.minimum(rho * a, rho.clamp(min=1 - clip) * a)},
            {"gain": lambda rho, a, clip: torch.minimum(rho * a, rho.clamp(-clip, clip) * a)},
            {"gain": lambda rho, a, clip: torch.minimum(rho * a, rho.clamp(clip, 1 + clip) * a)},
            {"gain": lambda rho, a, clip: torch.minimum(rho * a, (rho * a).clamp(1 - clip, 1 + clip))},
            {"gain": lambda rho, a, clip: rho.clamp(1 - clip, 1 + clip) * a},
            {"gain": lambda rho, a, clip: torch.minimum(rho, rho.clamp(1 - clip, 1 + clip)) * a},
            {"gain": lambda rho, a, clip: torch.maximum(rho * a, rho.clamp(1 - clip, 1 + clip) * a)},
            {"gain": lambda rho, a, clip: (rho * a).clamp(-clip, clip)},
        ),
        "The first update is what comes out of another clip. It holds ρ between 1 − ε and 1 + ε, on both sides, and "
        "the *worse* of the gains with and without it counts: minimum(ρ A, clip(ρ) A).",
    ),
    (
        "another mean",
        ({"mean": _by_answer}, {"mean": lambda gain, mask: (gain * mask).sum(1).max()}),
        "The first update is what comes out if each answer has its own mean first: (27) is over all tokens of the "
        "batch.",
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
    Symptom(
        "a policy that stands still",
        lambda record: _same(record.policies) and len(record.policies) > 1,
        "The policy has not moved at all: does the optimizer hold it, does a gradient reach it? The new "
        "log-probabilities must be computed with gradient, at each step anew.",
    ),
    *OF_THE_ANSWERS,
    *OF_THE_REWARDS,
    *OF_THE_ADVANTAGES,
    *(Symptom(name, _of_the_update(replayed(ways)), message) for name, ways, message in _UPDATES),
    Symptom(
        "uphill and downhill",
        _of_the_update(lambda record: _direction(record, 0, 3) < -0.02),
        "Good tokens became less likely and bad ones more: the sign of the policy loss is turned. An optimizer goes "
        "downhill; the loss is minus the gain.",
    ),
    Symptom(
        "ratio to the reference",
        _of_the_update(
            lambda record: (
                max(record.kls[10:])
                < 0.4 * float(kl_divergence(record.exact(record.policies[0])[2], record.exact(record.policies[0])[0]))
                and _direction(record, 0, 1) > 0.1
                and abs(_direction(record, 10, ITERATIONS)) < 0.1
            )
        ),
        "The first update is right; then the policy is stuck near the reference. So the ratio of the first pass is "
        "no longer 1: it must compare with the policy that sampled the batch, not with the reference.",
    ),
    Symptom(
        "neither up nor down",
        _of_the_update(lambda record: abs(_along(record)) < 0.3 and not torch.equal(*record.policies[:2])),
        "Your first update goes neither the way of the advantages nor against it. Does each token meet its own "
        "advantage and its own old log-probability, in the same order?",
    ),
    Symptom(
        "a critic that runs away",
        _of_the_update(lambda record: explained(record) < -1 and _first_values(record) < 0),
        "The values went away from the returns in the first update already: is the sign of the value loss turned?",
    ),
    Symptom(
        "few steps",
        _of_the_update(
            lambda record: 0 < gained(record) < CLIMB and _direction(record, 0, 3) > 0.02 and far(record) < 0.005
        ),
        "The way is right, but each batch moves the policy a little only: is it used for one step instead of eight?",
    ),
    Symptom(
        "gradients that pile up",
        _of_the_update(
            lambda record: (
                _direction(record, 5, ITERATIONS) < 0.05 and explained(record) < -1 and late_gap(record) > GAP
            )
        ),
        "The first updates go the right way, later ones any way, and policy and critic swing ever wider. Are the "
        "gradients of earlier steps still there? Set them to zero before each backward().",
    ),
    Symptom(
        "no clip",
        _of_the_update(lambda record: far(record) > HELD or pressed(record) > PRESSED_HELD),
        "The updates are too large: many tokens became more than twice as likely as under the policy that wrote "
        "them. Nothing holds the ratio: is ε used, is the *worse* gain taken, are the old log-probabilities those "
        "from before the first step?",
    ),
    Symptom(
        "a critic that stands still",
        _of_the_update(lambda record: bool(record["values"][-1].abs().max() < 1e-6) or _same(record["values"])),
        "The critic has not learned: its table is what it was. Is it in the optimizer, and the value loss in the sum?",
    ),
    *(Symptom(name, _of_the_critic(trained_by(ways)), message) for name, ways, message in _CRITICS),
    Symptom(
        "a critic of rewards",
        _of_the_update(lambda record: explained(record, later=False) > max(0.3, explained(record))),
        "The critic knows the reward of the next token better than all that is still to come. Its target is the "
        "return (24).",
    ),
    Symptom(
        "a critic that learns the wrong thing",
        _of_the_update(lambda record: explained(record) < EXPLAINED),
        "The critic's table does not become the value: is it trained on (24), returns, at the rows of the tokens' "
        "own prefixes?",
    ),
)
