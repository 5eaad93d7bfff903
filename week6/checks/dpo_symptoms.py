"""What the instruments of a wrong DPO training show, and which idea is likely wrong."""

import math
from collections.abc import Iterator
from typing import Any

import torch

from week6.checks.capstone import Symptom
from week6.checks.dpo_capstone import (
    N_PAIRS,
    NUMBERS,
    ONE_BATCH,
    WEIGHTS,
    Record,
    asked_once,
    chatbot_pairs,
    off,
    reported,
    second_metrics,
    starts,
    trained,
    vector,
)
from week6.dpo import pair_log_probs


def _loss(record: Record, step: int) -> float:
    return float(record.metrics[step]["loss"])


def _margin(record: Record) -> float:
    return float(record.metrics[-1]["margin"])


def _ends_at(record: Record, **wrong: Any) -> bool:
    """Whether the weights are those of a training with a certain mistake, and not those of the right one."""
    return bool(trained(record)) and not record.reference_moved and off(record, **wrong) < WEIGHTS


def _gradients(record: Record) -> Iterator[bool]:
    """For each weight of the policy, whether it has a gradient other than 0."""
    return (bool(w.grad.any()) for w in record.after.parameters() if w.grad is not None)


def _true_margin(record: Record) -> float:
    """The margin that the trained policy really has on the pairs, in nats."""
    pairs = chatbot_pairs(record.seed)
    with torch.no_grad():
        after, before = (pair_log_probs(model.eval(), pairs) for model in (record.after, record.before))
    return float(((after[0] - before[0]) - (after[1] - before[1])).mean())


SYMPTOMS = (
    Symptom(
        "the reference is trained",
        lambda r: r.reference_moved,
        "The reference moves along with the policy. It is frozen: only `policy` is trained.",
    ),
    Symptom(
        "dropout",
        lambda r: r.after.training and bool(starts(r) or trained(r)),
        "The policy is still in training mode: dropout makes it disagree with a reference that has the same weights. "
        "Is `policy.eval()` called first?",
    ),
    Symptom(
        "no reference",
        lambda r: _ends_at(r, anchor=0.0),
        "The loss does not start at log 2: the reference is missing in the margin of what you train on. h in (9) is a "
        "difference of *log-ratios*.",
    ),
    Symptom(
        "metrics after the update",
        lambda r: bool(reported(r)) and abs(_loss(r, 0) - second_metrics(r.seed)["loss"]) < NUMBERS,
        "Your metrics are taken after the update: those of the first step are what the second should show. Take them "
        "from the numbers that the loss was made of.",
    ),
    Symptom(
        "not log 2 at the start",
        lambda r: bool(starts(r)),
        "Policy and reference have the same weights at the start, so the margin of every pair must be 0 and the mean "
        "of −log σ(0) is log 2. Has each answer its own reference, from its own row? Is it the mean of the losses (9)?",
    ),
    Symptom(
        "nothing moves",
        lambda r: torch.equal(vector(r.after), vector(r.before)) and any(_gradients(r)),
        "The loss stays as it is: there are gradients, but no weight of the policy changes. Is there a step of the "
        "optimizer after each loss?",
    ),
    Symptom(
        "the reference is the policy",
        lambda r: len(r.metrics) > 1 and abs(_loss(r, 1) - math.log(2)) < 1e-6,
        "The loss stays at log 2 = 0.6931: the margin is 0 at every step. What you take for the reference is the "
        "policy itself, asked anew (see “Asked every year”).",
    ),
    Symptom(
        "upwards",
        lambda r: _ends_at(r, sign=-1.0),
        "The margin falls from the first step on: chosen answers get less likely, rejected ones more. Either the loss "
        "climbs, or chosen and rejected are swapped.",
    ),
    Symptom(
        "means",
        lambda r: _ends_at(r, mean=True),
        "The log-probabilities are means over the tokens: a long answer counts less in each token. (6) is a sum.",
    ),
    Symptom(
        "β",
        lambda r: any(_ends_at(r, beta=beta) for beta in (0.1, 0.5, 1.0, 1 / ONE_BATCH.beta)),
        "The weights of the gradient do not fit the β of the settings: `config.beta` multiplies h inside the sigmoid.",
    ),
    Symptom(
        "chosen only",
        lambda r: _ends_at(r, pull=(1.0, 0.0)),
        "Only the chosen answers are trained: the rejected ones have no share in the gradient. Both have one in (14).",
    ),
    Symptom(
        "rejected only",
        lambda r: _ends_at(r, pull=(0.0, 1.0)),
        "Only the rejected answers are trained: the chosen ones have no share in the gradient. Both have one in (14).",
    ),
    Symptom(
        "margins fall",
        lambda r: bool(trained(r)) and _true_margin(r) < 0,
        "Measured on the trained policy, the margin of the pairs has fallen below 0: it prefers the rejected answers. "
        "Look at the signs, and at which answer comes first.",
    ),
    Symptom(
        "too small a step",
        lambda r: bool(trained(r)) and float((vector(r.after) - vector(r.before)).norm()) < 0.7 * _way(r),
        "The policy goes less far than it should: is there one gradient step for every one of `config.steps`, each on "
        "the mean of the losses?",
    ),
    Symptom(
        "too large a step",
        lambda r: bool(trained(r)) and float((vector(r.after) - vector(r.before)).norm()) > 1.4 * _way(r),
        "The policy goes too far: one gradient step for each of `config.steps`, with the optimizer that came in, and "
        "gradients set to zero before each.",
    ),
    Symptom(
        "rewards without β",
        lambda r: bool(reported(r)) and abs(ONE_BATCH.beta * _margin(r) - second_metrics(r.seed)["margin"]) < NUMBERS,
        "Your margin is h, in nats: an implicit reward is β times the log-ratio, (4).",
    ),
    Symptom(
        "the reference asked again and again",
        lambda r: r.rows[0] > 2.1 * N_PAIRS,
        "The time goes to the reference: it is asked at every step, though it never changes. Ask it once about all "
        "pairs, before the loop, and pick the rows of each batch from that.",
    ),
    Symptom(
        "always the same pairs",
        lambda r: r.log_pi is not None and bool(asked_once(r)),
        "The policy sees the same few pairs in every step and learns their noise by heart: draw another minibatch in "
        "each step.",
    ),
)


def _way(record: Record) -> float:
    return float((record.weights() - vector(record.before)).norm())
