"""What the instruments of a wrong step of PPO show, and which idea is likely wrong."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from week6.checks.capstone import Symptom
from week6.checks.ppo_capstone import (
    NUMBERS,
    WEIGHTS,
    Record,
    judge_part,
    of_tokens,
    off,
    sampled,
    surprise,
    updated_rightly,
    vector,
)
from week6.checks.ppo_problem import EOS, ONE_STEP, Truth, problem, truth
from week6.log_probs import masked_whiten, response_forward
from week6.ppo import PolicyWithValue, gae
from week6.sequences import Rollout


def _is(record: Record, name: str, wrong: Callable[[Truth, Rollout], Tensor]) -> bool:
    """Whether a part is what a certain mistake makes of it, and not what is right."""
    y, t = record.answers, record.truth
    if of_tokens(name)(record) == "":
        return False
    return judge_part(record, name, wrong(t, y), y.response_mask) == ""


def _ends_at(record: Record, **wrong: Any) -> bool:
    """Whether the weights are those of an update with a certain mistake."""
    return _updated_wrongly(record) and off(record, **wrong) < WEIGHTS


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


def _row_means(r: Record) -> Tensor:
    mask = r.answers.response_mask
    return torch.where(mask, r.parts["whitened"], 0.0).sum(1) / mask.sum(1)


def _updated_wrongly(r: Record) -> bool:
    return updated_rightly(r) not in (None, "")


@torch.no_grad()
def _gain(r: Record, actor: PolicyWithValue) -> float:
    """By how much the log-probabilities moved along the advantages."""
    log_probs, _ = actor.eval()(r.answers, ONE_STEP.temperature)
    return float((r.truth.whitened * (log_probs - r.truth.log_probs))[r.answers.response_mask].mean())


@torch.no_grad()
def _error(r: Record, actor: PolicyWithValue) -> float:
    """Mean squared distance of the values from the returns."""
    _, values = actor.eval()(r.answers, ONE_STEP.temperature)
    return float(((values - r.truth.returns) ** 2)[r.answers.response_mask].mean())


@torch.no_grad()
def _reach(r: Record, actor: PolicyWithValue) -> float:
    """Share of the tokens that end outside the clip range."""
    log_probs, _ = actor.eval()(r.answers, ONE_STEP.temperature)
    ratio = (log_probs - r.truth.log_probs).exp()[r.answers.response_mask]
    return float(((ratio - 1).abs() > ONE_STEP.clip).float().mean())


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


@torch.no_grad()
def _values(actor: PolicyWithValue, y: Rollout) -> Tensor:
    values: Tensor = actor(y, ONE_STEP.temperature)[1]
    return values


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


def _to_go(rewards: Tensor) -> Tensor:
    return rewards.flip(1).cumsum(1).flip(1)


SYMPTOMS = (
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
        lambda r: _is(r, "ref_log_probs", lambda t, y: _at_temperature_1(r).ref_log_probs),
        "The KL at step 0 would not be 0: the policy is taken at `config.temperature`, the reference at temperature 1. "
        "The leash must compare the same distributions, see (1).",
    ),
    Symptom(
        "policy for reference",
        lambda r: _is(r, "ref_log_probs", lambda t, y: t.log_probs),
        "The KL is 0 for ever: what you call the reference's log-probabilities are the policy's own, so there is no "
        "leash.",
    ),
    Symptom(
        "sign of the KL",
        lambda r: _is(r, "rewards", lambda t, y: t.rewards - 2 * _leash(t, y)),
        "The KL would run away (exhibit B of the museum): your leash pays for distance. In (5) it is −β (log π − log "
        "π_ref): the policy's log-probabilities come first.",
    ),
    Symptom(
        "no leash",
        lambda r: _is(r, "rewards", lambda t, y: _at_last(y, t.scores)),
        "The KL costs nothing: the tokens' rewards hold the score alone. Line 4 adds −β times each token's log-ratio.",
    ),
    Symptom(
        "score one slot late",
        lambda r: _is(r, "rewards", lambda t, y: _leash(t, y) + _at_last(y, t.scores, 1)),
        "Nothing will be learned of the score: it stands one slot behind the last token, where nobody is rewarded "
        "(section 5, the exhibit for practice). The last token has index mask.sum(1) − 1.",
    ),
    Symptom(
        "score in the last column",
        lambda r: _is(
            r, "rewards", lambda t, y: _leash(t, y) + F.pad(t.scores.unsqueeze(1), (y.responses.shape[1] - 1, 0))
        ),
        "Only the longest answers earn their score: it stands in the last column of the batch, which is padding for "
        "all others. The last token of an answer has index mask.sum(1) − 1.",
    ),
    *(
        Symptom(name, lambda r, rules=rules: any(_is(r, "rewards", rule) for rule in rules), message)  # type: ignore[misc]
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
    ),  # fmt: skip
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
    Symptom(
        "no critic",
        lambda r: not r.parts["values"].masked_select(r.answers.response_mask).any(),
        "The explained variance is 0: your values are 0 everywhere, so GAE has no baseline. The actor gives them as "
        "the second of its two results.",
    ),
    Symptom(
        "values after the update",
        lambda r: _is(r, "values", lambda t, y: _values(r.after, y)),
        "Your values are those of the actor *after* the update. The advantages judge the policy that gave the answers: "
        "ask $V$ before any weight moves.",
    ),
    Symptom(
        "gradient through the targets",
        lambda r: any(isinstance(x, Tensor) and x.requires_grad for x in r.parts.values()),
        "The advantages carry a gradient. They are data: reference and values are asked under `torch.no_grad()`. "
        "Else the loss can also be lowered by moving the target.",
    ),
    *(
        Symptom(name, lambda r, rules=rules: any(_is(r, "advantages", rule) for rule in rules), message)  # type: ignore[misc]
        for name, rules, message in (
            (
                "returns for advantages",
                (
                    lambda t, y: t.returns,
                    lambda t, y: t.rewards,
                    lambda t, y: _to_go(t.rewards),
                ),
                "Your advantages are returns or rewards. `gae` gives two tables: the advantages first, then the "
                "returns.",
            ),
            (
                "one of γ and λ",
                tuple(
                    lambda t, y, g=g, lam=lam: gae(t.rewards, t.values, y.response_mask, g, lam)[0]
                    for g in (ONE_STEP.gamma, 1.0, ONE_STEP.lam, 0.99)
                    for lam in (ONE_STEP.lam, 1.0, 0.95, 0.0, ONE_STEP.gamma)
                    if (g, lam) not in ((ONE_STEP.gamma, ONE_STEP.lam), (1.0, 0.95))
                ),
                "Your advantages are those of another γ or λ: hand on `config.gamma` and `config.lam`, in this order.",
            ),
            (
                "no values in GAE",
                (lambda t, y: gae(t.rewards, 0 * t.values, y.response_mask, ONE_STEP.gamma, ONE_STEP.lam)[0],),
                "Your advantages are those of a critic that says 0 everywhere: GAE gets no values.",
            ),
            (
                "padding in GAE",
                (
                    lambda t, y: gae(
                        t.rewards, t.values, torch.ones_like(y.response_mask), ONE_STEP.gamma, ONE_STEP.lam
                    )[0],
                ),
                "Padding enters your advantages: `gae` needs the mask of the answers.",
            ),
        )
    ),  # fmt: skip
    Symptom(
        "values of another token",
        lambda r: any(_is(r, "values", lambda t, y, k=k: t.values.roll(k, 1)) for k in (-1, 1)),  # type: ignore[misc]
        "Your values are shifted by a token: V at token t is asked *before* the token is chosen, and stands in its "
        "column.",
    ),
    Symptom(
        "γ and λ",
        lambda r: _is(r, "advantages", lambda t, y: gae(t.rewards, t.values, y.response_mask)[0]),
        "Your advantages are those of γ = 1 and λ = 0.95, whatever the settings say: hand on `config.gamma` and "
        "`config.lam`.",
    ),
    Symptom(
        "returns from whitened advantages",
        lambda r: _is(r, "returns", lambda t, y: t.whitened + torch.where(y.response_mask, t.values, 0.0)),
        "Your returns are whitened advantages plus values. The critic must predict reward units: take the returns that "
        "`gae` gives, made before the whitening.",
    ),
    Symptom(
        "returns are something else",
        lambda r: any(
            _is(r, "returns", rule)
            for rule in (lambda t, y: t.advantages, lambda t, y: t.rewards, lambda t, y: _to_go(t.rewards))
        ),
        "Your returns are advantages, rewards or plain sums. The critic's target is the return of GAE: advantage "
        "plus value.",
    ),
    Symptom(
        "whitened otherwise",
        lambda r: any(
            _is(r, "whitened", rule)
            for rule in (
                lambda t, y: t.whitened.clamp(-1, 1),
                lambda t, y: -t.whitened,
                lambda t, y: t.whitened.sign(),
                lambda t, y: t.advantages - t.advantages[y.response_mask].mean(),
                lambda t, y: t.advantages / t.advantages[y.response_mask].std(),
                lambda t, y: (
                    (t.advantages - t.advantages[y.response_mask].mean()) / t.advantages[y.response_mask].var()
                ),
                lambda t, y: t.whitened + t.advantages[y.response_mask].mean(),
                lambda t, y: masked_whiten(t.returns, y.response_mask),
                lambda t, y: masked_whiten(t.rewards, y.response_mask),
            )
        ),
        "Your whitened advantages are cut off, turned round, whitened by half, or made of something else than the "
        "advantages: mean 0 and variance 1, no more and no less.",
    ),
    Symptom(
        "not whitened",
        lambda r: _is(r, "whitened", lambda t, y: t.advantages) or _ends_at(r, advantages=r.truth.advantages),
        "The update goes by advantages that are not whitened: their mean is not 0 and their spread not 1, so the size "
        "of the steps depends on the scale of the reward. Line 6.",
    ),
    Symptom(
        "whitened over padding",
        lambda r: _is(r, "whitened", lambda t, y: masked_whiten(t.advantages, torch.ones_like(y.response_mask))),
        "Mean and variance of your advantages include the padding: over the real tokens the mean is not 0. Whiten "
        "with the mask.",
    ),
    Symptom(
        "each answer whitened by itself",
        lambda r: float(_row_means(r).abs().max()) < 1e-2,
        "In your advantages every answer has mean 0: a good answer is then no better than a bad one. Mean and variance "
        "are those of all real tokens of the batch.",
    ),
    Symptom(
        "the reference is trained",
        lambda r: r.reference_moved,
        "The KL stays near 0 for a bad reason: the reference moves along. Its weights are frozen; only the actor is "
        "trained.",
    ),
    Symptom(
        "nothing moves",
        lambda r: "whitened" in r.parts and torch.equal(vector(r.after), vector(problem(r.seed).moved)),
        "The run stands still: the step returns, but no weight of the actor has changed. Is there a gradient step on "
        "`actor`, with the optimizer that came in?",
    ),
    Symptom(
        "old policy follows",
        lambda r: _ends_at(r, old_follows=True),
        "The clip fraction is 0 in every pass: your ratio is always 1, since π_old is computed anew. It is the policy "
        "that gave the answers, with the log-probabilities that `sample` noted, in all passes.",
    ),
    Symptom(
        "upwards",
        lambda r: any(_ends_at(r, policy_coef=-1.0, value_coef=v) for v in (ONE_STEP.value_coef, -ONE_STEP.value_coef)),
        "The score falls from the first step on: the weights go *up* the loss. `clipped_policy_loss` has the minus "
        "already; it is minimised.",
    ),
    Symptom(
        "critic not trained",
        lambda r: _ends_at(r, value_coef=0.0),
        "The explained variance stays at 0: the value head does not move. The loss (7) has a second part.",
    ),
    Symptom(
        "only the critic",
        lambda r: _ends_at(r, policy_coef=0.0),
        "The critic learns and the policy does not: the clipped policy loss is not in what you descend.",
    ),
    Symptom(
        "one pass",
        lambda r: _ends_at(r, epochs=1) or (r.gradient_steps or 99) < ONE_STEP.epochs * ONE_STEP.minibatches,
        "Too few gradient steps: each step of PPO takes `config.epochs` passes over its answers, each in "
        "`config.minibatches` parts.",
    ),
    Symptom(
        "good tokens get less likely",
        lambda r: _updated_wrongly(r) and _gain(r, r.after) < 0,
        "The score falls: after your step the tokens with positive advantages are *less* likely than before, on the "
        "whole. Look at the signs, and at which policy is on top in the ratio (3).",
    ),
    Symptom(
        "the critic gets no better",
        lambda r: _updated_wrongly(r) and _error(r, r.after) > 0.5 * (_error(r, r.ours) + _error(r, r.before)),
        "The explained variance does not rise as it should: after your step the values are hardly nearer to the "
        "returns. The critic's targets are the returns of `gae`, as they are.",
    ),
    Symptom(
        "gradients add up",
        lambda r: _ends_at(r, gradients_add_up=True),
        "The gradient of each pass is added to those before: set it to zero before every backward pass, or let "
        "`descend` do it.",
    ),
    *(
        Symptom(
            name,
            lambda r, ways=ways: any(_ends_at(r, **(way(r) if callable(way) else way)) for way in ways),  # type: ignore[misc]
            message,
        )
        for name, ways, message in (
            (
                "a penalty in the loss as well",
                tuple(
                    lambda r, f=f, by=by: {"extra": lambda p, mask: f * by(p - r.truth.ref_log_probs, mask)}
                    for f in (ONE_STEP.beta, 0.1, 1.0)
                    for by in (lambda d, m: (d * m).sum(1).mean(), lambda d, m: d[m].mean())
                ),
                "The weights are those of a loss with a second leash in it. (7) has none: the KL is in the rewards.",
            ),
            (
                "an entropy bonus",
                tuple({"extra": lambda p, mask, f=f: f * p[mask].mean()} for f in (0.01, 0.1)),
                "The weights are those of a loss with one more term. (7) has two.",
            ),
            (
                "another learning rate",
                tuple({"rate": f} for f in (0.01, 0.1, 0.5, 2.0, 10.0)),
                "The weights are those of another learning rate: the optimizer that came in has the right one.",
            ),
            (
                "a sum over tokens",
                (
                    lambda r: {"policy_coef": float(r.answers.response_mask.sum())},
                    lambda r: {"policy_coef": float(r.answers.response_mask.sum(1).float().mean())},
                    lambda r: {"policy_coef": float(r.answers.response_mask.float().mean())},
                    lambda r: {"policy_coef": float(r.answers.response_mask.sum()), "value_coef": 1e-9},
                ),
                "The policy's loss is divided by another number than that of the real tokens, so that it weighs too "
                "much or too little beside the critic's: (7) divides both by n.",
            ),
            (
                "the critic's targets",
                (
                    lambda r: {"returns": r.truth.rewards},
                    lambda r: {"returns": r.truth.advantages},
                    lambda r: {"returns": r.truth.whitened},
                    lambda r: {"returns": r.truth.values},
                ),
                "The critic is trained on rewards, advantages or its own values. Its targets are the returns of `gae`.",
            ),
            (
                "other advantages in the loss",
                (
                    lambda r: {"advantages": r.truth.returns},
                    lambda r: {"advantages": r.truth.rewards},
                    lambda r: {"advantages": torch.ones_like(r.truth.whitened)},
                    lambda r: {"advantages": r.truth.whitened.abs()},
                ),
                "The policy's loss is not made of the whitened advantages, but of returns, rewards, or their size "
                "alone.",
            ),
        )
    ),  # fmt: skip
    Symptom(
        "clip",
        lambda r: _ends_at(r, clip=1e6) or _ends_at(r, clip=0.2),
        "The clip fraction is not that of `config.clip`: hand it on to both losses.",
    ),
    Symptom(
        "update at another temperature",
        lambda r: _ends_at(r, temperature=1.0),
        "The ratio at the first pass of the update is not 1: the actor is asked at temperature 1 there. Give it "
        "`config.temperature`, as in sampling.",
    ),
    Symptom(
        "coefficient of the value loss",
        lambda r: any(_ends_at(r, value_coef=v) for v in (0.1, 0.5, 1.0, ONE_STEP.value_coef / 2)),
        "Policy and critic are mixed otherwise than in (7): multiply the value loss by `config.value_coef`, once; its "
        "½ is inside `clipped_value_loss`.",
    ),
    Symptom(
        "too many steps",
        lambda r: (r.gradient_steps or 0) > ONE_STEP.epochs * ONE_STEP.minibatches,
        "The optimizer takes more steps than `config.epochs` · `config.minibatches`: each minibatch is one step, down "
        "one loss, that of the policy and that of the critic together.",
    ),
    Symptom(
        "too far",
        lambda r: _updated_wrongly(r) and _reach(r, r.after) > 1.5 * _reach(r, r.ours),
        "The clip fraction is too high: the step goes farther from the old policy than the clip allows. The gradient "
        "must vanish where ρ is outside 1 ± `config.clip` in the direction of the advantage.",
    ),
)
