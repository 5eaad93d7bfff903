"""What a wrong training by DPO shows at its start: who is trained, and the first loss."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from week6.checks.capstone import Symptom
from week6.checks.dpo_capstone import (
    NUMBERS,
    ONE_BATCH,
    Record,
    ends_at,
    loss_of,
    near,
    reported,
    second_metrics,
    starts,
    trained,
)
from week6.checks.dpo_problem import chatbot_pairs
from week6.dpo import reference_log_probs
from week6.machine.optim import minibatch


def _first_loss_is(*rules: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Record], bool]:
    """Whether the first loss is wrong, and what a rule makes of the reference's log-probabilities of the chosen and of
    the rejected answers."""

    def seen(record: Record) -> bool:
        pairs = chatbot_pairs(record.seed).rows(
            minibatch(len(chatbot_pairs(record.seed)), ONE_BATCH.batch_size, 0, record.seed)
        )
        chosen, rejected = reference_log_probs(record.before, pairs)
        return bool(starts(record)) and any(near(loss_of(record, 0), float(rule(chosen, rejected))) for rule in rules)

    return seen


OF_THE_START: tuple[Symptom, ...] = (
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
        lambda r: ends_at(r, anchor=0.0),
        "The loss does not start at log 2: the reference is missing in the margin of what you train on. h in (9) is a "
        "difference of *log-ratios*.",
    ),
    Symptom(
        "metrics after the update",
        lambda r: bool(reported(r)) and abs(loss_of(r, 0) - second_metrics(r.seed)["loss"]) < NUMBERS,
        "Your metrics are taken after the update: those of the first step are what the second should show. Take them "
        "from the numbers that the loss was made of.",
    ),
    *(
        Symptom(name, _first_loss_is(*rules), message)
        for name, rules, message in (
            (
                "an unbalanced margin",
                (
                    lambda w, y: -F.logsigmoid(ONE_BATCH.beta * (y - w)).mean(),
                    lambda w, y: -F.logsigmoid(ONE_BATCH.beta * (w - y)).mean(),
                ),
                "The loss does not start at log 2: what is left in h are the log-probabilities of the two answers. "
                "Each of the four, of the policy and of the reference, stands in (9) once, so that they cancel at "
                "the start.",
            ),
            (
                "references crossed",
                (
                    lambda w, y: -F.logsigmoid(2 * ONE_BATCH.beta * (w - y)).mean(),
                    lambda w, y: -F.logsigmoid(2 * ONE_BATCH.beta * (y - w)).mean(),
                ),
                "The loss does not start at log 2: each answer is compared with the reference of the *other* one of "
                "its pair.",
            ),
            (
                "a sum of losses",
                (lambda w, y: len(w) * torch.tensor(math.log(2)),),
                "The first loss is log 2 times the number of pairs: it is a sum over the pairs, where (9) is a mean.",
            ),
            (
                "no logarithm",
                (lambda w, y: torch.tensor(-0.5), lambda w, y: torch.tensor(0.5)),
                "The first loss is one half: that is σ(0) without its logarithm. (9) is −log σ.",
            ),
            (
                "minus missing",
                (lambda w, y: torch.tensor(-math.log(2)),),
                "The first loss is −log 2: the minus of (9) is missing, and the policy climbs where it should go down.",
            ),
            (
                "a loss of another kind",
                (
                    lambda w, y: torch.tensor(1.0),
                    lambda w, y: torch.tensor(0.0),
                    lambda w, y: torch.tensor(0.25),
                    lambda w, y: torch.tensor(1 / (2 * ONE_BATCH.beta)) ** 2,
                ),
                "The first loss is what a hinge, a square or the bare margin gives at a margin of 0, not log 2: (9) "
                "is −log σ.",
            ),
            (
                "each answer for itself",
                (lambda w, y: torch.tensor(2 * math.log(2)),),
                "The first loss is 2 log 2: each answer has a loss of its own. In (9) the two stand in one margin.",
            ),
        )
    ),
    Symptom(
        "not log 2 at the start",
        lambda r: bool(starts(r)),
        "Policy and reference have the same weights at the start, so the margin of every pair must be 0 and the mean "
        "of −log σ(0) is log 2. Has each answer its own reference, from its own row? Is it the mean of the losses (9)?",
    ),
)
