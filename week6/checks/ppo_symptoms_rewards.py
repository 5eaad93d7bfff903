"""What a wrong step of PPO shows before the critic: sampling, scores, the reference, rewards."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from week6.checks.capstone import Symptom
from week6.checks.ppo_capstone import (
    NUMBERS,
    Record,
    judge_part,
    of_tokens,
    part_is,
    sampled,
    surprise,
    updated_rightly,
)
from week6.checks.ppo_problem import EOS, ONE_STEP, Truth, problem, truth
from week6.log_probs import response_forward
from week6.sequences import Rollout


def _noted(record: Record, log_probs: Tensor) -> bool:
    """Whether the answers came with these log-probabilities, which are not the policy's."""
    y = record.answers
    return sampled(record) != "" and float((y.log_probs - log_probs)[y.response_mask].abs().max()) < NUMBERS


def _wrong_only_at(r: Record, where: Callable[[Rollout], Tensor]) -> bool:
    """Whether the rewards are right but at some tokens."""
    y = r.answers
    return (
        of_tokens("rewards")(r) != "" and judge_part(r, "rewards", r.truth.rewards, y.response_mask & ~where(y)) == ""
    )


def _is_last(y: Rollout) -> Tensor:
    return torch.arange(y.responses.shape[1]) == y.response_mask.sum(1, keepdim=True) - 1


def _charged_in_proportion(r: Record) -> bool:
    y, t = r.answers, r.truth
    before_last = y.response_mask & ~_is_last(y)
    ratios = (t.log_probs - t.ref_log_probs)[before_last]
    charges = r.parts["rewards"][before_last]
    price = float((charges * ratios).sum() / (ratios**2).sum())
    wrong = abs(price + ONE_STEP.beta) > NUMBERS
    return wrong and float((charges - price * ratios).abs().max()) < NUMBERS


def _sums_are_right(r: Record) -> bool:
    off = torch.where(r.answers.response_mask, r.parts["rewards"] - r.truth.rewards, 0.0)
    return of_tokens("rewards")(r) != "" and float(off.sum(1).abs().max()) < NUMBERS


def _at_first_eos(y: Rollout) -> Tensor:
    """The mask at the first EOS of each finished answer."""
    is_eos = (y.responses == EOS).long()
    return y.response_mask[(is_eos == 1) & (is_eos.cumsum(1) == 1)]


def _at_last(y: Rollout, earned: Tensor, late: int = 0) -> Tensor:
    columns = torch.arange(y.responses.shape[1])
    return torch.where(columns == y.response_mask.sum(1, keepdim=True) - 1 + late, earned.unsqueeze(1), 0.0)


def _leash(t: Truth, y: Rollout) -> Tensor:
    return torch.where(y.response_mask, -ONE_STEP.beta * (t.log_probs - t.ref_log_probs), 0.0)


def _at_temperature_1(record: Record) -> Truth:
    return truth(problem(record.seed), record.answers, temperature=1.0)


def _greedy(r: Record) -> bool:
    """Whether equal prompts have equal answers and each token is the likeliest."""
    y, policy = r.answers, problem(r.seed).moved.policy
    with torch.no_grad():
        logits = response_forward(policy, y.prompts, y.prompt_mask, y.responses, y.response_mask).logits
    return bool((logits.argmax(-1) == y.responses)[y.response_mask].float().mean() > 0.99)


def _scores_are(r: Record, rule: Callable[[Tensor], Tensor]) -> bool:
    """Whether the scores, with the penalties or without, went through a rule."""
    plain = problem(r.seed).proxy(r.answers)
    wrong = judge_part(r, "scores", plain) and judge_part(r, "scores", r.truth.scores)
    return bool(wrong) and any(judge_part(r, "scores", rule(x)) == "" for x in (plain, r.truth.scores))


def _earned(t: Truth, y: Rollout, rule: Callable[[Tensor], Tensor]) -> Tensor:
    """What the answers earn, where a rule changes the scores of the finished ones."""
    return torch.where(y.finished, rule(t.scores), t.scores)


OF_THE_REWARDS: tuple[Symptom, ...] = (
    Symptom(
        "dropout",
        lambda r: r.after.policy.training and (sampled(r) != "" or updated_rightly(r) not in (None, "")),
        "The ratio at the first pass is not 1, and the actor is in training mode: dropout draws another mask in every "
        "pass (section 2, detail four). Is `actor.eval()` called before anything is sampled?",
    ),
    Symptom(
        "another length",
        lambda r: bool(
            (r.answers.response_mask.sum(1)[(r.answers.responses != EOS).all(1)] != ONE_STEP.max_new_tokens).any()
        ),
        "Answers are cut off at another length than `config.max_new_tokens`, or go on behind it: hand it to `sample`.",
    ),
    Symptom(
        "temperature of sampling",
        lambda r: _noted(r, _at_temperature_1(r).log_probs),
        "The ratio at the first pass is not 1: the answers were sampled at temperature 1, and the setting is another "
        "one. Does `sample` get `config.temperature`?",
    ),
    Symptom(
        "sampled from the reference",
        lambda r: _noted(r, r.truth.ref_log_probs),
        "The ratio at the first pass is not 1, and the log-probabilities are those of the reference: it gave the "
        "answers. PPO learns from the policy's own: `actor.policy`.",
    ),
    Symptom(
        "sampled too cool",
        lambda r: bool(sampled(r)) and surprise(r) < -5 and not _greedy(r),
        "The answers are likelier than samples at `config.temperature`: they were drawn at a lower one, or from the "
        "likeliest tokens only. What is scored must be what was sampled from.",
    ),
    Symptom(
        "sampled too hot",
        lambda r: bool(sampled(r)) and surprise(r) > 5,
        "The answers are less likely than samples at `config.temperature`: they were drawn at a higher one. What is "
        "scored must be what was sampled from.",
    ),
    Symptom(
        "no samples",
        lambda r: surprise(r) < -5,
        "The entropy at step 0 is far too low: the likeliest tokens were taken, and unlikely ones never. Then nothing "
        "is explored (exhibit C of the museum). Every token must be a draw from the policy.",
    ),
    Symptom(
        "EOS hidden",
        lambda r: float(_at_first_eos(r.answers).float().mean()) < 0.5,
        "Every finished answer is one token too short: the mask hides the EOS, since pad and EOS are one token here "
        "(section 2, detail three). The mask that `sample` gives is right.",
    ),
    Symptom(
        "scores standardised",
        lambda r: (
            _scores_are(r, lambda x: (x - x.mean()) / x.std())
            or _scores_are(r, lambda x: (x - x.mean()) / (x.std(correction=0) + 1e-8))
            or _scores_are(r, lambda x: x - x.mean())
        ),
        "Your scores are standardised over the batch. Line 2 takes them as `reward` gives them; what is whitened are "
        "the advantages, line 6.",
    ),
    Symptom(
        "scores by length",
        lambda r: (
            _scores_are(r, lambda x: x / r.answers.response_mask.sum(1))
            or _scores_are(r, lambda x: x * r.answers.response_mask.sum(1))
        ),
        "Your scores are divided or multiplied by the lengths of the answers. Line 2 takes them as `reward` gives "
        "them.",
    ),
    Symptom(
        "reference at another temperature",
        lambda r: part_is(r, "ref_log_probs", lambda t, y: _at_temperature_1(r).ref_log_probs),
        "The KL at step 0 would not be 0: the policy is taken at `config.temperature`, the reference at temperature 1. "
        "The leash must compare the same distributions, see (1).",
    ),
    Symptom(
        "policy for reference",
        lambda r: part_is(r, "ref_log_probs", lambda t, y: t.log_probs),
        "The KL is 0 for ever: what you call the reference's log-probabilities are the policy's own, so there is no "
        "leash.",
    ),
    Symptom(
        "sign of the KL",
        lambda r: part_is(r, "rewards", lambda t, y: t.rewards - 2 * _leash(t, y)),
        "The KL would run away (exhibit B of the museum): your leash pays for distance. In (5) it is −β (log π − log "
        "π_ref): the policy's log-probabilities come first.",
    ),
    Symptom(
        "no leash",
        lambda r: part_is(r, "rewards", lambda t, y: _at_last(y, t.scores)),
        "The KL costs nothing: the tokens' rewards hold the score alone. Line 4 adds −β times each token's log-ratio.",
    ),
    Symptom(
        "score one slot late",
        lambda r: part_is(r, "rewards", lambda t, y: _leash(t, y) + _at_last(y, t.scores, 1)),
        "Nothing will be learned of the score: it stands one slot behind the last token, where nobody is rewarded "
        "(section 5, the exhibit for practice). The last token has index mask.sum(1) − 1.",
    ),
    Symptom(
        "score in the last column",
        lambda r: part_is(
            r, "rewards", lambda t, y: _leash(t, y) + F.pad(t.scores.unsqueeze(1), (y.responses.shape[1] - 1, 0))
        ),
        "Only the longest answers earn their score: it stands in the last column of the batch, which is padding for "
        "all others. The last token of an answer has index mask.sum(1) − 1.",
    ),
    *(
        Symptom(name, lambda r, rules=rules: any(part_is(r, "rewards", rule) for rule in rules), message)  # type: ignore[misc]
        for name, rules, message in (
            (
                "score by length",
                (
                    lambda t, y: _leash(t, y) + _at_last(y, t.scores / y.response_mask.sum(1)),
                    lambda t, y: _leash(t, y) + _at_last(y, _earned(t, y, lambda s: s / y.response_mask.sum(1))),
                ),
                "The score is divided by the length of the answer. (5) pays it whole, at the last token.",
            ),
            (
                "score at every token",
                (lambda t, y: _leash(t, y) + torch.where(y.response_mask, t.scores.unsqueeze(1), 0.0),),
                "Every token is paid the whole score, so long answers earn it many times. (5) pays it once, at the "
                "last token.",
            ),
            (
                "score at the first token",
                (lambda t, y: _leash(t, y) + F.pad(t.scores.unsqueeze(1), (0, y.responses.shape[1] - 1)),),
                "The score stands at the first token. It is earned with the last one, when the answer is complete.",
            ),
            (
                "no score",
                (lambda t, y: _leash(t, y),),
                "The rewards hold the leash alone, so the SFT model is their optimum. Line 4 adds what the answer "
                "earned.",
            ),
            (
                "another estimator",
                tuple(
                    lambda t, y, k=k: (
                        torch.where(y.response_mask, -ONE_STEP.beta * k(t.log_probs - t.ref_log_probs), 0.0)
                        + _at_last(y, t.scores)
                    )
                    for k in (
                        lambda d: d.clamp(min=0),
                        lambda d: d.clamp(max=0),
                        torch.abs,
                        lambda d: d.square() / 2,
                        torch.square,
                        lambda d: (-d).exp() - 1 + d,
                        lambda d: d.exp() - 1,
                        torch.exp,
                        lambda d: d.exp() - 1 - d,
                    )
                ),
                "The leash is charged on another figure than the log-ratio: its size, one side of it, k2, k3 or the "
                "ratio. In (5) it is log π − log π_ref itself, whose sum has the KL as its mean.",
            ),
        )
    ),  # fmt: skip,
    Symptom(
        "unfinished answers",
        lambda r: _wrong_only_at(r, lambda y: ~y.finished.unsqueeze(1) & _is_last(y)),
        "Unfinished answers are paid wrongly, all others rightly. By (4) they earn `config.unfinished_penalty` in "
        "place of the score; `answers.finished` says which ones they are.",
    ),
    Symptom(
        "shares of the tokens",
        lambda r: _sums_are_right(r),
        "The rewards of an answer add up to what (6) says, but they do not stand at the tokens that caused them: each "
        "token pays for its own log-ratio, and the last one gets what the answer earned.",
    ),
    Symptom(
        "price of KL",
        lambda r: _charged_in_proportion(r),
        "Each token pays in proportion to its log-ratio, but not at the price of `config.beta` reward units per nat.",
    ),
)
