"""The symptoms of notebook 04's capstone in what the tokens earn."""

from collections.abc import Callable

import torch
from jaxtyping import Bool
from torch import Tensor

from week6.checks.bench_04 import BETA, Record
from week6.checks.capstone import Symptom
from week6.checks.counterfactual import Slip, alike, slips
from week6.checks.steps_04 import differs, shaped


def last_real(mask: Bool[Tensor, "B T"]) -> Bool[Tensor, "B T"]:
    """Where the last real token stands."""
    return torch.arange(mask.shape[1]) == mask.sum(1, keepdim=True) - 1


def _rewards_are(
    record: Record,
    *,
    place: Callable[[Tensor], Tensor] = last_real,
    score: Callable[[Tensor], Tensor] = lambda scores: scores,
    leash: Callable[[Tensor, Tensor, Tensor], Tensor] = lambda old, ref, mask: -BETA * (old - ref),
    whole: float = 1.0,
) -> bool:
    """Whether the rewards of the first five iterations are wrong, and these.

    place  mask -> the share of the score that each token is paid
    score  the scores of the batch -> what is paid of them
    leash  (log π_old, log π_ref, mask) -> what each token is paid for its log-ratio
    whole  a factor on all of it
    """
    if not shaped(record):
        return False
    for i in range(5):
        y, old, ref, mask = record.batch(i)
        want = whole * (place(mask) * score(record.scores[y])[:, None] + leash(old, ref, mask))
        if differs(record.steps[i]["rewards"], want, mask, 1e-3, ""):
            return False
    return True


def _summed(old: Tensor, ref: Tensor, mask: Tensor) -> Tensor:
    return -BETA * ((old - ref) * mask).sum(1, keepdim=True)


_PLACE = (
    Slip(
        "the score at every token",
        (lambda mask: mask,),
        "Every token gets the score. In (34) it is paid once, with the last real token: else long answers are paid "
        "more.",
    ),
    Slip(
        "the score in the last column",
        (lambda mask: torch.arange(mask.shape[1]) == mask.shape[1] - 1,),
        "The score stands in the last column. Answers that end earlier never hear of it: it belongs to the last real "
        "token of each row.",
    ),
    Slip("no score", (lambda mask: 0 * mask,), "The rewards hold the leash alone. Where is the score of the answer?"),
    Slip(
        "the score at the first token",
        (lambda mask: torch.arange(mask.shape[1]) == 0,),
        "The score stands at the first token. In (34) it is paid with the last one, when the answer is complete.",
    ),
    Slip(
        "the score one token off",
        (
            lambda mask: last_real(mask).roll(-1, dims=1),
            lambda mask: last_real(mask).roll(1, dims=1),
            lambda mask: torch.arange(mask.shape[1]) == (mask.sum(1, keepdim=True) - 2).clamp(min=0),
        ),
        "The score stands one column beside the last real token. With n tokens the last one has the number n − 1.",
    ),
    Slip(
        "a share of the score",
        (
            lambda mask: mask / mask.sum(1, keepdim=True),
            lambda mask: last_real(mask) / mask.sum(1, keepdim=True),
            lambda mask: mask / mask.shape[1],
        ),
        "The score is divided by the number of tokens, so that long answers are paid less. (34) pays it whole.",
    ),
)
_SCORE = (
    Slip(
        "the score less a mean",
        (lambda s: s - s.mean(), lambda s: s - s.max(), lambda s: s - s.min()),
        "A mean over the batch, or its best or worst, is taken from the scores. (34) pays the score itself; what was "
        "to be expected is for the critic to say.",
    ),
    Slip(
        "the score standardised",
        (lambda s: (s - s.mean()) / s.std(), lambda s: s / s.std(), lambda s: (s - s.mean()) / s.std(correction=0)),
        "The scores are divided by their spread over the batch. (34) pays the score itself; advantages are whitened, "
        "later.",
    ),
    Slip(
        "another score",
        (
            lambda s: s / BETA,
            lambda s: BETA * s,
            torch.sigmoid,
            lambda s: s.clamp(-1, 1),
            torch.tanh,
            torch.exp,
            torch.neg,
            torch.sign,
            lambda s: s.clamp(min=0),
            lambda s: s - BETA,
        ),
        "The score is paid in another form: multiplied or divided by β, squashed, cut off or turned. (34) pays it as "
        "it is.",
    ),
)
_LEASH = (
    Slip(
        "the KL rewarded",
        (lambda old, ref, mask: BETA * (old - ref),),
        "The tokens are paid for leaving the reference: the KL will run away. The sign of −β d_t in (34) is turned.",
    ),
    Slip(
        "no leash",
        (lambda old, ref, mask: torch.zeros_like(old),),
        "The rewards hold the score alone; there is no leash in them, though the policy moves. Is β missing, or is the "
        "reference the present policy instead of the one at the start?",
    ),
    Slip(
        "the leash as a sum",
        (
            lambda old, ref, mask: last_real(mask) * _summed(old, ref, mask),
            lambda old, ref, mask: _summed(old, ref, mask).expand_as(old),
            lambda old, ref, mask: _summed(old, ref, mask).expand_as(old) / mask.sum(1, keepdim=True),
        ),
        "The whole KL of an answer is charged, at its last token or at each. In (34) each token pays for its own "
        "log-ratio.",
    ),
    Slip(
        "the leash as a mean",
        (lambda old, ref, mask: -BETA * ((old - ref)[mask].mean() * torch.ones_like(old)),),
        "Every token pays the mean of the batch. In (34) each token pays for its own log-ratio.",
    ),
    Slip(
        "another estimate of the KL",
        (
            lambda old, ref, mask: -BETA * (old - ref).abs(),
            lambda old, ref, mask: -BETA * (old - ref).square(),
            lambda old, ref, mask: -BETA * (old - ref).square() / 2,
            lambda old, ref, mask: -BETA * ((ref - old).exp() - 1 - (ref - old)),
            lambda old, ref, mask: -BETA * (old - ref).clamp(min=0),
        ),
        "Your tokens pay for the size or the square of the log-ratio, or for another estimate of the KL. In (34) they "
        "pay −β d_t for d_t itself, with its sign: a token that has become rarer than in the reference is paid back.",
    ),
    Slip(
        "no log-ratio",
        (
            lambda old, ref, mask: -BETA * (old.exp() - ref.exp()),
            lambda old, ref, mask: -BETA * (old - ref).exp(),
            lambda old, ref, mask: -BETA * old,
            lambda old, ref, mask: BETA * ref,
            lambda old, ref, mask: -BETA * old.exp() * (old - ref),
        ),
        "Your tokens pay for something else than the log-ratio d_t = log π_old − log π_ref: for a difference or a "
        "ratio of probabilities, or for one of the two alone.",
    ),
    Slip(
        "the leash one token off",
        (
            lambda old, ref, mask: -BETA * ((old - ref) * mask).roll(1, dims=1),
            lambda old, ref, mask: -BETA * ((old - ref) * mask).roll(-1, dims=1),
        ),
        "Each token pays for the log-ratio of the one beside it. In (34) it pays for its own.",
    ),
)
_WHOLE = (
    Slip(
        "all of it times a number",
        (1 / BETA, BETA, -1.0),
        "Score and leash are right but for a factor that is common to both, such as 1/β or −1. In (34) the score is "
        "paid as it is, and β is the price of the log-ratio.",
    ),
)


def _price(record: Record) -> float | None:
    """Another price than β, 0 and −β at which every token pays for its log-ratio, or None."""
    found = []
    for i in range(1, 5):
        y, old, ref, mask = record.batch(i)
        charge = (last_real(mask) * record.scores[y][:, None] - record.steps[i]["rewards"])[mask]
        log_ratio = (old - ref)[mask]
        price = float(charge @ log_ratio / (log_ratio @ log_ratio))
        if not alike(charge, price * log_ratio, 1e-3):
            return None
        found.append(price)
    known = min(abs(found[0] - price) for price in (BETA, 0.0, -BETA)) < 1e-3
    return found[0] if max(found) - min(found) < 1e-3 and not known else None


def _places(record: Record) -> tuple[bool, bool, bool]:
    """Whether rewards are wrong in the first iteration, where the policy is the reference; later, at last tokens; and
    later at others."""
    first = last = others = False
    for i in range(len(record.steps)):
        off = (record.steps[i]["rewards"] - record.shaped(i)).abs() > 1e-3
        mask = record.batch(i)[3]
        first = first or i == 0 and bool(off[mask].any())
        last = last or i > 0 and bool((off & last_real(mask)).any())
        others = others or i > 0 and bool((off & mask & ~last_real(mask)).any())
    return first, last, others


def _on_a_line(record: Record) -> bool:
    """Whether the rewards of each of the first iterations are a line in the right ones, and not these."""
    for i in range(3):
        mask = record.batch(i)[3]
        came, want = record.steps[i]["rewards"][mask], record.shaped(i)[mask]
        slope = ((came - came.mean()) @ (want - want.mean())) / (want - want.mean()).square().sum()
        if abs(float(slope)) < 1e-3 or not alike(came - came.mean(), slope * (want - want.mean()), 1e-3):
            return False
    return True


def _paid_at_the_start(record: Record) -> bool:
    """Whether tokens other than the last have rewards in the first iteration."""
    mask = record.batch(0)[3]
    return bool((record.steps[0]["rewards"].abs()[mask & ~last_real(mask)] > 1e-3).any())


OF_THE_REWARDS: tuple[Symptom, ...] = (
    Symptom(
        "another price",
        lambda record: _price(record) is not None,
        "Each token pays in proportion to its log-ratio, but not at the price `beta`.",
    ),
    *slips(_rewards_are, leash=_LEASH, place=_PLACE, score=_SCORE, whole=_WHOLE),
    Symptom(
        "something in the leash",
        lambda record: shaped(record) not in (None, "") and _places(record) == (False, True, True),
        "In the first iteration, where the policy is still the reference, your rewards are right; later they are wrong "
        "at all tokens. So the score is paid rightly, and the leash is not: it is −β times log π_old − log π_ref of "
        "the token that was drawn.",
    ),
    Symptom(
        "something in the score",
        lambda record: shaped(record) not in (None, "") and not _places(record)[2],
        "Your rewards are right but for the last token of each answer. So the leash is right, and the score is not: "
        "it is paid whole, the score of this very answer, `language.scores[y]`.",
    ),
    Symptom(
        "rewards shifted and scaled",
        lambda record: shaped(record) not in (None, "") and _on_a_line(record),
        "All rewards of a batch are the right ones, shifted or scaled: something is added to every token, or they are "
        "whitened. They stay as (34) makes them; advantages are whitened, later.",
    ),
    Symptom(
        "a leash at the start",
        lambda record: shaped(record) not in (None, "") and _paid_at_the_start(record),
        "In the first iteration the policy is the reference, so that no token but the last of an answer is paid or "
        "charged anything; yours are. Are log π_old and log π_ref of the same tokens, each of the policy it should be "
        "of? Is a score paid before the end of its answer?",
    ),
)
