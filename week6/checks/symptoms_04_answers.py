"""The symptoms of notebook 04's capstone in how answers are drawn."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from week6.checks.bench_04 import BETA, Record
from week6.checks.capstone import Symptom
from week6.checks.counterfactual import Slip, alike, slips
from week6.checks.steps_04 import deviation, shaped, written

CLEARLY = 10.0
"""Nats by which another way to draw must be likelier than the right one."""

Drawn = Callable[[Record, int], Float[Tensor, " N"]]
"""The log-probabilities of all answers in an iteration."""


def _log_likelihood(record: Record, drawn: Drawn) -> float:
    return sum(float(drawn(record, i).log_softmax(0)[y].sum()) for i, y in enumerate(record["answers"]))


def _policy(record: Record, i: int) -> Float[Tensor, " N"]:
    return record.language.log_probs(record.before(i)).sum(1)


def _reference(record: Record, i: int) -> Float[Tensor, " N"]:
    return record.language.log_probs(record.language.reference).sum(1)


def _from_zeros(record: Record, i: int) -> Float[Tensor, " N"]:
    table = torch.zeros_like(record.language.reference) if i == 0 else record.before(i)
    return record.language.log_probs(table).sum(1)


def _policy_after(record: Record, i: int) -> Float[Tensor, " N"]:
    """Where the first policy that came is still the reference. An update makes the batch likelier by itself."""
    begins_late = alike(record.before(1), record.language.reference)
    return _policy(record, i + 1 if begins_late else i)


def _tokens(record: Record, i: int) -> Float[Tensor, "N T"]:
    return record.language.log_probs(record.before(i))


def _drawn_are(record: Record, *, drawn: Drawn = _policy) -> bool:
    """Whether the answers look drawn like this: far likelier than by the policy, and as by no other way below."""
    if not record.has("answers", "policy") or (not _drawn_wrongly(record) and shaped(record) == ""):
        return False
    likelihood = _log_likelihood(record, drawn)
    if likelihood < _log_likelihood(record, _policy) + CLEARLY or deviation(record, lambda i: drawn(record, i)) > 5:
        return False
    return likelihood == max(_log_likelihood(record, other) for slip in _DRAWN for other in slip.values)


_DRAWN = (
    Slip(
        "samples of the reference",
        (_reference,),
        "All batches come from the reference. PPO is on-policy: each batch is drawn from the policy as it is by then.",
    ),
    Slip(
        "samples half of the reference",
        (lambda record, i: torch.logaddexp(_policy(record, i), _reference(record, i)),),
        "A part of each batch comes from the reference. PPO is on-policy: all of it is drawn from the policy as it is "
        "by then.",
    ),
    Slip(
        "uniform answers",
        (lambda record, i: torch.zeros_like(record.scores),),
        "All answers come equally often, whatever the policy says. Draw them with the probabilities of the policy: "
        "exp of the sum of their tokens' log-probabilities.",
    ),
    Slip(
        "samples one iteration old",
        (lambda record, i: _policy(record, max(i - 1, 0)), lambda record, i: _policy(record, max(i - 2, 0))),
        "Each batch comes from the policy as it was an iteration earlier. Draw after the update, from the policy as "
        "it is by then.",
    ),
    Slip(
        "the policy of before",
        (_policy_after,),
        "The policy that you yield is the one that the batch was drawn from. Yield a copy of it as it is *after* the "
        "steps on the batch.",
    ),
    Slip(
        "another start",
        (_from_zeros,),
        "The first batch does not come from the reference but from a policy to which all tokens are alike: the policy "
        "starts as a copy of `language.reference`.",
    ),
    Slip(
        "other probabilities",
        (
            lambda record, i: _policy(record, i) / record.language.mask.sum(1),
            lambda record, i: _policy(record, i) * 2,
            lambda record, i: _policy(record, i) / 2,
            lambda record, i: (_tokens(record, i).exp() * record.language.mask).sum(1).log(),
            lambda record, i: _tokens(record, i).exp().sum(1).log(),
            lambda record, i: _tokens(record, i)[:, 0],
            lambda record, i: _policy(record, i) + record.scores,
            lambda record, i: _policy(record, i) + record.scores / BETA,
        ),
        "Your answers are drawn with other probabilities than the policy's. An answer's is the product of its tokens': "
        "exp of the *sum* of their log-probabilities, no mean, no sum of probabilities, no power of it.",
    ),
)


def _slope(record: Record) -> float:
    """By how much the log of how often an answer came, over how often it should, grows with its log-probability; in
    standard errors, from the pooled counts of all iterations."""
    came, expected, score = torch.zeros(3, len(record.scores)).double()
    for i, y in enumerate(record["answers"]):
        p = _policy(record, i).softmax(0)
        came += torch.bincount(y, minlength=len(p)).double()
        expected += len(y) * p
        score += len(y) * p * _policy(record, i)
    height = score / expected
    height = height - (expected * height).sum() / expected.sum()
    return float(((came - came.sum() * expected / expected.sum()) * height).sum() / (expected * height**2).sum().sqrt())


def _drawn_wrongly(record: Record) -> bool:
    return record.has("answers", "policy") and deviation(record, lambda i: _policy(record, i)) > 5


OF_THE_ANSWERS: tuple[Symptom, ...] = (
    Symptom(
        "no chance",
        lambda record: (
            bool((record["answers"][0] == written(record)(0).argmax()).all())
            and all(len(y.unique()) < 3 for y in record["answers"][:3])
        ),
        "The likeliest answer was taken each time. (4) is an expectation over what the policy writes: draw at random.",
    ),
    Symptom(
        "one answer in a batch",
        lambda record: all(len(y.unique()) == 1 for y in record["answers"][:3]),
        "All answers of a batch are one and the same. (4) is an expectation over what the policy writes: draw each of "
        "the 128 by itself.",
    ),
    Symptom(
        "one batch for ever",
        lambda record: (
            all(torch.equal(y, record["answers"][0]) for y in record["answers"])
            and len(record["answers"][0].unique()) > 1
        ),
        "All iterations see the same answers. Draw a fresh batch in each, and give `generator` to torch.multinomial, "
        "not a new generator with the same seed.",
    ),
    *slips(_drawn_are, drawn=_DRAWN),
    Symptom(
        "likely answers too often",
        lambda record: _drawn_wrongly(record) and _slope(record) > 5,
        "Answers that the policy finds likely come even more often than it says. Draw with its own probabilities, "
        "exp of the sum of the tokens' log-probabilities: no power of them, no lower temperature.",
    ),
    Symptom(
        "likely answers too rarely",
        lambda record: _drawn_wrongly(record) and _slope(record) < -5,
        "Answers that the policy finds likely come less often than it says. Draw each of the 128 with its own "
        "probabilities, and keep repeats: a likely answer is drawn often.",
    ),
)
