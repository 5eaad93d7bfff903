"""What a wrong training by DPO shows in its weights and in the metrics that it yields."""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F

from week6.checks.capstone import Symptom
from week6.checks.dpo_capstone import (
    N_PAIRS,
    NUMBERS,
    ONE_BATCH,
    Record,
    asked_once,
    ends_at,
    loss_of,
    near,
    reported,
    second_metrics,
    trained,
    vector,
)
from week6.checks.dpo_problem import chatbot_pairs
from week6.dpo import pair_log_probs


def _margin(record: Record) -> float:
    return float(record.metrics[-1]["margin"])


def _gradients(record: Record) -> Iterator[bool]:
    """For each weight of the policy, whether it has a gradient other than 0."""
    return (bool(w.grad.any()) for w in record.after.parameters() if w.grad is not None)


def _true_margin(record: Record) -> float:
    """The margin that the trained policy really has on the pairs, in nats."""
    pairs = chatbot_pairs(record.seed)
    with torch.no_grad():
        after, before = (pair_log_probs(model.eval(), pairs) for model in (record.after, record.before))
    return float(((after[0] - before[0]) - (after[1] - before[1])).mean())


def _second(record: Record) -> dict[str, float]:
    """The metrics of the second step."""
    return {name: float(value) for name, value in record.metrics[1].items()}


def _way(record: Record) -> float:
    return float((record.weights() - vector(record.before)).norm())


OF_THE_UPDATE: tuple[Symptom, ...] = (
    Symptom(
        "nothing moves",
        lambda r: torch.equal(vector(r.after), vector(r.before)) and any(_gradients(r)),
        "The loss stays as it is: there are gradients, but no weight of the policy changes. Is there a step of the "
        "optimizer after each loss?",
    ),
    Symptom(
        "the reference is the policy",
        lambda r: len(r.metrics) > 1 and abs(loss_of(r, 1) - math.log(2)) < 1e-6,
        "The loss stays at log 2 = 0.6931: the margin is 0 at every step. What you take for the reference is the "
        "policy itself, asked anew (see “Asked every year”).",
    ),
    Symptom(
        "upwards",
        lambda r: ends_at(r, sign=-1.0),
        "The margin falls from the first step on: chosen answers get less likely, rejected ones more. Either the loss "
        "climbs, or chosen and rejected are swapped.",
    ),
    Symptom(
        "means",
        lambda r: ends_at(r, mean=True),
        "The log-probabilities are means over the tokens: a long answer counts less in each token. (6) is a sum.",
    ),
    Symptom(
        "β",
        lambda r: any(
            ends_at(r, beta=beta)
            for beta in (
                0.1,
                0.5,
                1.0,
                1 / ONE_BATCH.beta**2,
                ONE_BATCH.beta / 2,
                2 * ONE_BATCH.beta / 10,
                10 * ONE_BATCH.beta,
            )
        ),
        "The pairs are weighted as they would be with another β: `config.beta` multiplies h once, inside the "
        "sigmoid, and the loss of each pair is −log σ of that.",
    ),
    Symptom(
        "chosen only",
        lambda r: ends_at(r, pull=(1.0, 0.0)),
        "Only the chosen answers are trained: the rejected ones have no share in the gradient. Both have one in (14).",
    ),
    Symptom(
        "rejected only",
        lambda r: ends_at(r, pull=(0.0, 1.0)),
        "Only the rejected answers are trained: the chosen ones have no share in the gradient. Both have one in (14).",
    ),
    *(
        Symptom(name, lambda r, ways=ways: any(ends_at(r, **way) for way in ways), message)  # type: ignore[misc]
        for name, ways, message in (
            (
                "another learning rate",
                tuple({"rate": f} for f in (0.01, 0.1, 0.5, 2.0, 10.0)),
                "The weights are those of another learning rate: the optimizer that came in has the right one.",
            ),
            (
                "gradients add up",
                ({"gradients_add_up": True},),
                "The gradient of each step is added to those before: set it to zero before every backward pass, or let "
                "`descend` do it.",
            ),
            (
                "several steps a batch",
                tuple({"again": n} for n in (2, 3, 4)),
                "Each minibatch gets several gradient steps. DPO takes one for each of `config.steps`.",
            ),
            (
                "too few steps",
                ({"steps": 1},),
                "The weights are those after one gradient step: `config.steps` are asked for.",
            ),
            (
                "another loss of the margin",
                (
                    {"of_margin": lambda m: -m},
                    {"of_margin": lambda m: -torch.sigmoid(m)},
                    {"of_margin": lambda m: (m - 0.5).square()},
                    {"of_margin": lambda m: (m - 1).square()},
                    {"of_margin": lambda m: F.relu(1 - m)},
                    *(
                        {"of_margin": lambda m, e=e: -(1 - e) * F.logsigmoid(m) - e * F.logsigmoid(-m)}
                        for e in (0.05, 0.1, 0.2, 0.3)
                    ),
                ),
                "The weights are those of another loss of the margin, such as IPO's square, a hinge or cDPO. (9) is "
                "−log σ.",
            ),
        )
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
    *(
        Symptom(
            name,
            lambda r, rule=rule: bool(reported(r)) and rule(_second(r), second_metrics(r.seed)),  # type: ignore[misc]
            message,
        )
        for name, rule, message in (
            (
                "chosen and rejected swapped",
                lambda came, right: (
                    near(came["chosen_reward"], right["rejected_reward"])
                    and near(came["rejected_reward"], right["chosen_reward"])
                ),
                "Your `chosen_reward` is that of the rejected answers, and the other way round.",
            ),
            (
                "accuracy turned round",
                lambda came, right: near(came["accuracy"], 1 - right["accuracy"]) and right["accuracy"] != 0.5,
                "Your accuracy is the share of pairs with a margin below 0. A pair counts if the chosen answer has the "
                "higher implicit reward.",
            ),
            (
                "accuracy in per cent or as a number",
                lambda came, right: (
                    near(came["accuracy"] / right["accuracy"], 100)
                    or near(came["accuracy"], right["accuracy"] * ONE_BATCH.batch_size)
                ),
                "Your accuracy is a number of pairs, or per cent. Asked is a share, between 0 and 1.",
            ),
            (
                "margin turned round",
                lambda came, right: near(came["margin"], -right["margin"]),
                "Your margin is rejected minus chosen. It is r̂ of the chosen answer minus r̂ of the rejected one.",
            ),
            (
                "sums reported",
                lambda came, right: any(
                    near(came[n], right[n] * ONE_BATCH.batch_size)
                    for n in ("margin", "chosen_reward", "rejected_reward")
                ),
                "A metric of yours is a sum over the pairs. Asked are means.",
            ),
            (
                "stale metrics",
                lambda came, right: near(came["loss"], math.log(2)) and near(came["margin"], 0.0),
                "The metrics of the second step are those of the first: they are not taken anew, from the numbers of "
                "the step.",
            ),
            (
                "a metric of zero",
                lambda came, right: any(
                    came[n] == 0.0 != right[n] for n in ("margin", "chosen_reward", "rejected_reward")
                ),
                "A metric of yours is 0 after the policy has moved: is it computed from the policy's "
                "log-probabilities of this step?",
            ),
            (
                "margin that does not fit",
                lambda came, right: not near(came["margin"], came["chosen_reward"] - came["rejected_reward"]),
                "Your mean margin is not the difference of your mean rewards: each reward needs the policy's *and* the "
                "reference's log-probability of the same answer.",
            ),
        )
    ),
    Symptom(
        "rewards without β",
        lambda r: bool(reported(r)) and abs(ONE_BATCH.beta * _margin(r) - second_metrics(r.seed)["margin"]) < NUMBERS,
        "Your margin is h, in nats: an implicit reward is β times the log-ratio, (4).",
    ),
    *(
        Symptom(
            f"the {wrong} reward alone",
            lambda r, wrong=wrong, right=right: (  # type: ignore[misc]
                bool(reported(r))
                and near(_second(r)[f"{right}_reward"], second_metrics(r.seed)[f"{right}_reward"])
                and not near(_second(r)[f"{wrong}_reward"], second_metrics(r.seed)[f"{wrong}_reward"])
            ),
            f"Your `{right}_reward` is right, your `{wrong}_reward` is not: it is β times the log-ratio of the {wrong} "
            "answers, each to its own reference.",
        )
        for wrong, right in (("chosen", "rejected"), ("rejected", "chosen"))
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
