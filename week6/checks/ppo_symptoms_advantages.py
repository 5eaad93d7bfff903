"""What a wrong step of PPO shows in values, advantages, returns and their whitening."""

import torch
from torch import Tensor

from week6.checks.capstone import Symptom
from week6.checks.ppo_capstone import (
    Record,
    ends_at,
    part_is,
)
from week6.checks.ppo_problem import ONE_STEP
from week6.log_probs import masked_whiten
from week6.ppo import PolicyWithValue, gae
from week6.sequences import Rollout


def _row_means(r: Record) -> Tensor:
    mask = r.answers.response_mask
    return torch.where(mask, r.parts["whitened"], 0.0).sum(1) / mask.sum(1)


@torch.no_grad()
def _values(actor: PolicyWithValue, y: Rollout) -> Tensor:
    values: Tensor = actor(y, ONE_STEP.temperature)[1]
    return values


def _to_go(rewards: Tensor) -> Tensor:
    return rewards.flip(1).cumsum(1).flip(1)


OF_THE_ADVANTAGES: tuple[Symptom, ...] = (
    Symptom(
        "no critic",
        lambda r: not r.parts["values"].masked_select(r.answers.response_mask).any(),
        "The explained variance is 0: your values are 0 everywhere, so GAE has no baseline. The actor gives them as "
        "the second of its two results.",
    ),
    Symptom(
        "values after the update",
        lambda r: part_is(r, "values", lambda t, y: _values(r.after, y)),
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
        Symptom(name, lambda r, rules=rules: any(part_is(r, "advantages", rule) for rule in rules), message)  # type: ignore[misc]
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
    ),  # fmt: skip,
    Symptom(
        "values of another token",
        lambda r: any(part_is(r, "values", lambda t, y, k=k: t.values.roll(k, 1)) for k in (-1, 1)),  # type: ignore[misc]
        "Your values are shifted by a token: V at token t is asked *before* the token is chosen, and stands in its "
        "column.",
    ),
    Symptom(
        "γ and λ",
        lambda r: part_is(r, "advantages", lambda t, y: gae(t.rewards, t.values, y.response_mask)[0]),
        "Your advantages are those of γ = 1 and λ = 0.95, whatever the settings say: hand on `config.gamma` and "
        "`config.lam`.",
    ),
    Symptom(
        "returns from whitened advantages",
        lambda r: part_is(r, "returns", lambda t, y: t.whitened + torch.where(y.response_mask, t.values, 0.0)),
        "Your returns are whitened advantages plus values. The critic must predict reward units: take the returns that "
        "`gae` gives, made before the whitening.",
    ),
    Symptom(
        "returns are something else",
        lambda r: any(
            part_is(r, "returns", rule)
            for rule in (lambda t, y: t.advantages, lambda t, y: t.rewards, lambda t, y: _to_go(t.rewards))
        ),
        "Your returns are advantages, rewards or plain sums. The critic's target is the return of GAE: advantage "
        "plus value.",
    ),
    Symptom(
        "whitened otherwise",
        lambda r: any(
            part_is(r, "whitened", rule)
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
        lambda r: part_is(r, "whitened", lambda t, y: t.advantages) or ends_at(r, advantages=r.truth.advantages),
        "The update goes by advantages that are not whitened: their mean is not 0 and their spread not 1, so the size "
        "of the steps depends on the scale of the reward. Line 6.",
    ),
    Symptom(
        "whitened over padding",
        lambda r: part_is(r, "whitened", lambda t, y: masked_whiten(t.advantages, torch.ones_like(y.response_mask))),
        "Mean and variance of your advantages include the padding: over the real tokens the mean is not 0. Whiten "
        "with the mask.",
    ),
    Symptom(
        "each answer whitened by itself",
        lambda r: float(_row_means(r).abs().max()) < 1e-2,
        "In your advantages every answer has mean 0: a good answer is then no better than a bad one. Mean and variance "
        "are those of all real tokens of the batch.",
    ),
)
