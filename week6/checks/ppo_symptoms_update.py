"""What a wrong step of PPO shows in the update: weights that another update would have ended at."""

import torch

from week6.checks.capstone import Symptom
from week6.checks.ppo_capstone import (
    ends_at,
    vector,
)
from week6.checks.ppo_problem import ONE_STEP, problem

OF_THE_UPDATE: tuple[Symptom, ...] = (
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
        lambda r: ends_at(r, old_follows=True),
        "The clip fraction is 0 in every pass: your ratio is always 1, since π_old is computed anew. It is the policy "
        "that gave the answers, with the log-probabilities that `sample` noted, in all passes.",
    ),
    Symptom(
        "upwards",
        lambda r: any(ends_at(r, policy_coef=-1.0, value_coef=v) for v in (ONE_STEP.value_coef, -ONE_STEP.value_coef)),
        "The score falls from the first step on: the weights go *up* the loss. `clipped_policy_loss` has the minus "
        "already; it is minimised.",
    ),
    Symptom(
        "critic not trained",
        lambda r: ends_at(r, value_coef=0.0),
        "The explained variance stays at 0: the value head does not move. The loss (7) has a second part.",
    ),
    Symptom(
        "only the critic",
        lambda r: ends_at(r, policy_coef=0.0),
        "The critic learns and the policy does not: the clipped policy loss is not in what you descend.",
    ),
    Symptom(
        "one pass",
        lambda r: ends_at(r, epochs=1) or (r.gradient_steps or 99) < ONE_STEP.epochs * ONE_STEP.minibatches,
        "Too few gradient steps: each step of PPO takes `config.epochs` passes over its answers, each in "
        "`config.minibatches` parts.",
    ),
    Symptom(
        "gradients add up",
        lambda r: ends_at(r, gradients_add_up=True),
        "The gradient of each pass is added to those before: set it to zero before every backward pass, or let "
        "`descend` do it.",
    ),
    *(
        Symptom(
            name,
            lambda r, ways=ways: any(ends_at(r, **(way(r) if callable(way) else way)) for way in ways),  # type: ignore[misc]
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
    ),  # fmt: skip,
    Symptom(
        "clip",
        lambda r: ends_at(r, clip=1e6) or ends_at(r, clip=0.2),
        "The clip fraction is not that of `config.clip`: hand it on to both losses.",
    ),
    Symptom(
        "update at another temperature",
        lambda r: ends_at(r, temperature=1.0),
        "The ratio at the first pass of the update is not 1: the actor is asked at temperature 1 there. Give it "
        "`config.temperature`, as in sampling.",
    ),
    Symptom(
        "coefficient of the value loss",
        lambda r: any(ends_at(r, value_coef=v) for v in (0.1, 0.5, 1.0, ONE_STEP.value_coef / 2)),
        "Policy and critic are mixed otherwise than in (7): multiply the value loss by `config.value_coef`, once; its "
        "½ is inside `clipped_value_loss`.",
    ),
    Symptom(
        "too many steps",
        lambda r: (r.gradient_steps or 0) > ONE_STEP.epochs * ONE_STEP.minibatches,
        "The optimizer takes more steps than `config.epochs` · `config.minibatches`: each minibatch is one step, down "
        "one loss, that of the policy and that of the critic together.",
    ),
)
