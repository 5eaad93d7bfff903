"""Questions of notebook 04, policy gradients and PPO's clip."""

import itertools

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from week6.checks.capstone_04 import Language as Language
from week6.checks.capstone_04 import capstone as capstone
from week6.checks.capstone_04 import random_language as random_language
from week6.checks.cases import ragged_mask, random_mask, whole
from week6.checks.engine import Misconception, Prediction, Question
from week6.log_probs import masked_mean, masked_whiten
from week6.ppo import gae


def reward_to_go(rewards: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], gamma: float = 1.0) -> Float[Tensor, "B T"]:
    """What each token can still influence: its own reward and all later ones, in reward units; 0 at padding.

    G_t = r_t + γ G_{t+1},    G after the last real token = 0       (mask: 1 on real tokens, padding on the right)
    """
    rewards = torch.where(mask.bool(), rewards, 0)
    to_go = torch.zeros_like(rewards[:, 0])
    backwards = []
    for t in reversed(range(rewards.shape[1])):
        to_go = rewards[:, t] + gamma * to_go
        backwards.append(to_go)
    return torch.stack(backwards[::-1], dim=1)


def clipped_loss(
    log_probs: Float[Tensor, "B T"],
    old_log_probs: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    clip: float = 0.2,
) -> Float[Tensor, ""]:
    """PPO's clipped surrogate as a loss to minimise, averaged over the real tokens (Schulman et al. 2017, eq. 7).

    mean of max(−Â ρ, −Â clip(ρ, 1 − ε, 1 + ε)),    ρ = π(y_t) / π_old(y_t)

    `week6.clipped_policy_loss` is the same loss, with instruments beside it.
    """
    ratio = torch.exp(log_probs - old_log_probs)
    unclipped = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip, 1 + clip)
    return masked_mean(torch.maximum(unclipped, clipped), mask)


# --- 1 · reward-to-go -----------------------------------------------------------------------------------------------


def _rewards(g: torch.Generator) -> list[tuple[object, ...]]:
    def batch(rows: int, width: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        return torch.randn(rows, width, generator=g, dtype=dtype), ragged_mask(g, rows, width)

    rows, width = whole(g, 2, 5), whole(g, 5, 9)
    return [
        batch(2, 3),
        (*batch(4, 6), 1.0),
        (*batch(3, 5), 0.9),
        (*batch(1, 4), 0.5),
        (*batch(3, 2, torch.float64), 0.9),
        batch(2, 1),
        (-1 - torch.rand(rows, width, generator=g), random_mask(g, rows, width), 0.7),  # all negative, no row full
    ]


def _total(rewards: Tensor, mask: Tensor, gamma: float = 1.0) -> Tensor:
    return (rewards * mask).sum(1, keepdim=True) * mask


def _next(x: Tensor) -> Tensor:
    return torch.cat([x[:, 1:], torch.zeros_like(x[:, :1])], dim=1)


def _discounted_from_the_end(rewards: Tensor, mask: Tensor, gamma: float = 1.0) -> Tensor:
    weights = gamma ** torch.arange(rewards.shape[1] - 1, -1, -1)
    return (rewards * mask * weights).flip(1).cumsum(1).flip(1) * mask


def _discounted_from_the_start(rewards: Tensor, mask: Tensor, gamma: float = 1.0) -> Tensor:
    weights = gamma ** torch.arange(rewards.shape[1])
    return (rewards * mask * weights).flip(1).cumsum(1).flip(1)


def _average_to_go(rewards: Tensor, mask: Tensor, gamma: float = 1.0) -> Tensor:
    left = mask.float().flip(1).cumsum(1).flip(1).clamp_min(1)
    return reward_to_go(rewards, mask, gamma) / left


q1 = Question(
    title="4.1 Reward-to-go",
    name="my_reward_to_go",
    reference=reward_to_go,
    cases=_rewards,
    hints=(
        "Start at the last token. There, G is the reward itself. How do you get G of the token before it from G "
        "of the one after it?",
        "G_t = r_t + γ G_{t+1}: one pass from the end to the start, which carries one number for each answer. "
        "Rewards at padding must be 0 before anything is added, since they would leak into the tokens before "
        "them.",
        "Set the rewards at padding to 0. Let a vector of zeros, one for each answer, hold what comes later. From"
        " the last column to the first: what comes later is the reward of this column plus γ times itself. Write "
        "it into the column.",
        "rewards = rewards * mask\n"
        "to_go, later = torch.zeros_like(rewards), torch.zeros_like(rewards[:, 0])\n"
        "for t in reversed(range(rewards.shape[1])):\n"
        "    later = ...\n"
        "    to_go[:, t] = later\n"
        "return to_go",
    ),
    misconceptions=(
        Misconception(
            "the whole return for every token",
            _total,
            "Every token gets the whole return. By equation (13), a token has no influence on rewards that were paid "
            "before it: sum from t to the end only.",
        ),
        Misconception(
            "past instead of future",
            lambda r, m, gamma=1.0: reward_to_go((r * m).flip(1), torch.ones_like(m), gamma).flip(1) * m,
            "You summed the rewards up to t, the past. Equation (13) removes just those; keep the rewards from t on.",
        ),
        Misconception(
            "running sum",
            lambda r, m, gamma=1.0: (r * m).cumsum(1),
            "This is a running sum: it collects the past, and γ is not in it. Equation (13) removes just the past; sum "
            "from t to the end, with the weights of (15).",
        ),
        Misconception(
            "running sum over real tokens",
            lambda r, m, gamma=1.0: (r * m).cumsum(1) * m,
            "This is a running sum from the front: it collects the past, and γ is not in it. Equation (13) removes "
            "just the past; sum from t to the end, with the weights of (15).",
        ),
        Misconception(
            "reward of the token alone",
            lambda r, m, gamma=1.0: r * m,
            "You return the rewards as they are. G_t in (14) also collects what comes after t.",
        ),
        Misconception(
            "one step ahead only",
            lambda r, m, gamma=1.0: (r * m + gamma * _next(r * m)) * m,
            "You add the next reward only. In (15) γ multiplies G of the next token, with all rewards after it.",
        ),
        Misconception(
            "discount counted from the end",
            _discounted_from_the_end,
            "You discount by γ^(T−1−s), from the last column. In equation (15) the exponent is s − t, the distance "
            "from the token that is judged.",
        ),
        Misconception(
            "discount turned round",
            lambda r, m, gamma=1.0: reward_to_go(r, m, 1 / gamma if gamma else 1.0),
            "You divide by γ. In (15) later rewards count less: multiply by γ.",
        ),
        Misconception(
            "discount squared",
            lambda r, m, gamma=1.0: reward_to_go(r, m, gamma**2),
            "Later rewards are discounted twice for each step: in (15) γ is applied once for each token.",
        ),
        Misconception(
            "mean of the rest, γ forgotten",
            lambda r, m, gamma=1.0: _average_to_go(r, m),
            "You average the rewards that are left, without γ. (15) is their discounted sum.",
        ),
        Misconception(
            "sign turned",
            lambda r, m, gamma=1.0: -reward_to_go(r, m, gamma),
            "Your result has the wrong sign: G_t is the sum of the rewards themselves, not of their negatives.",
        ),
        Misconception(
            "own reward left out",
            lambda r, m, gamma=1.0: reward_to_go(r, m, gamma) - r * m,
            "The token's own reward r_t is missing. The token does influence it: in equation (14) the sum starts at s "
            "= t, not at t + 1.",
        ),
        Misconception(
            "own reward left out, and one discount less",
            lambda r, m, gamma=1.0: torch.cat([reward_to_go(r, m, gamma)[:, 1:], 0 * r[:, :1]], dim=1),
            "Your result is shifted by one token: at t you give G of t + 1. In equation (14) the sum starts at s = t.",
        ),
        Misconception(
            "discount counted from the start of the answer",
            _discounted_from_the_start,
            "You discount by γ^s, from the start of the answer. In equation (15) the exponent is s − t, the distance "
            "from the token that is judged.",
        ),
        Misconception(
            "padding counted",
            lambda r, m, gamma=1.0: reward_to_go(r, torch.ones_like(m), gamma),
            "Rewards at padding are counted. They belong to no token: set them to 0 with the mask before you sum.",
        ),
        Misconception(
            "mask applied only at the end",
            lambda r, m, gamma=1.0: reward_to_go(r, torch.ones_like(m), gamma) * m,
            "The padding is 0 in your result, but its rewards have already leaked into the real tokens before it. "
            "Apply the mask before the sum, not after it.",
        ),
        Misconception(
            "γ forgotten",
            lambda r, m, gamma=1.0: reward_to_go(r, m, 1.0),
            "γ has no effect in your function. In the recursion (15) it multiplies G of the next token.",
        ),
        Misconception(
            "γ on the own reward too",
            lambda r, m, gamma=1.0: gamma * reward_to_go(r, m, gamma),
            "You discount the token's own reward as well. In (15) γ multiplies only what comes later: r_t + γ G_{t+1}.",
        ),
        Misconception(
            "mean instead of sum",
            _average_to_go,
            "You average the rewards that are left. The objective is their sum (equation 12): an average would pay a "
            "token by how few tokens follow it.",
        ),
        Misconception(
            "summed over the batch, real tokens",
            lambda r, m, gamma=1.0: (r * m).flip(0).cumsum(0).flip(0) * m,
            "You summed from the last row up to the first, over different answers of the batch. Time runs along axis "
            "1.",
        ),
        Misconception(
            "mask of the first row",
            lambda r, m, gamma=1.0: reward_to_go(r, m[:1].expand_as(m), gamma),
            "You use the mask of the first row for all. Each answer has its own length.",
        ),
        Misconception(
            "one number for each answer",
            lambda r, m, gamma=1.0: (r * m).sum(1),
            "You return one number for each answer. G has one for each token: shape (B, T).",
        ),
        Misconception(
            "whitened",
            lambda r, m, gamma=1.0: masked_whiten(reward_to_go(r, m, gamma), m),
            "You shift and scale the result. (15) is in reward units; whitening comes in section 9, and for "
            "advantages.",
        ),
        Misconception(
            "summed over the batch",
            lambda r, m, gamma=1.0: (r * m).flip(0).cumsum(0).flip(0),
            "You summed along axis 0, over different answers of the batch. Time runs along axis 1.",
        ),
        Misconception(
            "running sum with weights",
            lambda r, m, gamma=1.0: (r * m * gamma ** torch.arange(r.shape[1])).cumsum(1) * m,
            "This is a discounted sum from the front: it collects the past. Equation (13) removes just the past; sum "
            "from t to the end.",
        ),
        Misconception(
            "the whole discounted return for every token",
            lambda r, m, gamma=1.0: reward_to_go(r, m, gamma)[:, :1] * m,
            "Every token gets the discounted return of the whole answer. By equation (13), a token has no influence on "
            "rewards that were paid before it: sum from t to the end only, with the exponent s − t.",
        ),
        Misconception(
            "first column left out",
            lambda r, m, gamma=1.0: torch.cat([0 * r[:, :1], reward_to_go(r, m, gamma)[:, 1:]], dim=1),
            "Your first column is 0: does the loop end one column too early? It goes down to t = 0.",
        ),
    ),
)

# --- 2 · GAE --------------------------------------------------------------------------------------------------------


def _trajectories(g: torch.Generator) -> list[tuple[object, ...]]:
    def batch(rows: int, width: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
        return (
            torch.randn(rows, width, generator=g, dtype=dtype),
            torch.randn(rows, width, generator=g, dtype=dtype),
            ragged_mask(g, rows, width),
        )

    rows, width = whole(g, 2, 5), whole(g, 5, 9)
    return [
        (*batch(2, 4), 0.9, 0.8),
        (*batch(4, 6), 1.0, 0.95),
        (*batch(3, 5), 0.5, 1.0),
        (*batch(3, 5), 0.9, 0.0),
        batch(2, 5, torch.float64),
        batch(2, 1),
        (*batch(rows, width)[:2], random_mask(g, rows, width), 0.8, 0.6),  # no row full
        (-1 - torch.rand(2, 3, generator=g), *batch(2, 3)[1:], 0.7, 0.5),  # all rewards negative
    ]


Estimate = tuple[Tensor, Tensor]


def _gae_by(
    rewards: Tensor,
    values: Tensor,
    mask: Tensor,
    *,
    decay: float,
    value_gamma: float,
    sign: float = 1.0,
    next_values: Tensor | None = None,
) -> Estimate:
    """GAE with its parts exposed, so that each can be got wrong: `decay` for γλ, `value_gamma` for the γ in δ."""
    rewards, values = rewards * mask, values * mask
    if next_values is None:
        next_values = torch.cat([values[:, 1:], 0 * values[:, :1]], dim=1)
    deltas = rewards + value_gamma * next_values - sign * values
    advantages = reward_to_go(deltas, mask, decay)
    return advantages, (advantages + values) * mask


def _forwards(r: Tensor, v: Tensor, m: Tensor, gamma: float = 1.0, lam: float = 0.95) -> Estimate:
    deltas, _ = gae(r, v, m, gamma, 0.0)
    advantages = reward_to_go(deltas.flip(1), torch.ones_like(m), gamma * lam).flip(1) * m
    return advantages, advantages + v * m


def _value_at_padding(r: Tensor, v: Tensor, m: Tensor, gamma: float = 1.0, lam: float = 0.95) -> Estimate:
    next_values = torch.cat([v[:, 1:], 0 * v[:, :1]], dim=1)
    return _gae_by(r, v, m, decay=gamma * lam, value_gamma=gamma, next_values=next_values)


def _masked_at_the_end(r: Tensor, v: Tensor, m: Tensor, gamma: float = 1.0, lam: float = 0.95) -> Estimate:
    advantages, returns = gae(r, v, torch.ones_like(m), gamma, lam)
    return advantages * m, returns * m


def _last_value_carried_on(r: Tensor, v: Tensor, m: Tensor, gamma: float = 1.0, lam: float = 0.95) -> Estimate:
    next_values = torch.cat([v[:, 1:] * m[:, 1:], v[:, -1:] * m[:, -1:]], dim=1)
    return _gae_by(r, v, m, decay=gamma * lam, value_gamma=gamma, next_values=next_values)


def _bootstrap_from_the_end(r: Tensor, v: Tensor, m: Tensor, gamma: float = 1.0, lam: float = 0.95) -> Estimate:
    last = m.sum(1, keepdim=True) - 1
    is_last = torch.arange(m.shape[1]) == last
    next_values = torch.where(is_last, v, _next(v * m))
    return _gae_by(r, v, m, decay=gamma * lam, value_gamma=gamma, next_values=next_values)


def _same_value_twice(r: Tensor, v: Tensor, m: Tensor, gamma: float = 1.0, lam: float = 0.95) -> Estimate:
    return _gae_by(r, v, m, decay=gamma * lam, value_gamma=gamma, next_values=v * m)


def _whitened_returns(r: Tensor, v: Tensor, m: Tensor, gamma: float = 1.0, lam: float = 0.95) -> Estimate:
    advantages, _ = gae(r, v, m, gamma, lam)
    return advantages, masked_whiten(advantages, m) + v * m


q2 = Question(
    title="4.2 Generalized advantage estimation",
    name="my_gae",
    reference=gae,
    cases=_trajectories,
    hints=(
        "Two things are carried from token t + 1 to token t. Which two, and what are they after the last real token?",
        "(22) is reward-to-go with δ for r and γλ for γ. And δ_t needs the value of the next token (18). Both are"
        " 0 after the last real token, so nothing may flow out of the padding.",
        "Mask rewards and values first. From the last column to the first: δ is the reward plus γ times the next "
        "value minus the value; the advantage is δ plus γλ times the next advantage, 0 at padding; then this "
        "column's value is the next value. The targets are advantages plus values.",
        "for t in reversed(range(rewards.shape[1])):\n"
        "    delta = rewards[:, t] + gamma * next_value - ...\n"
        "    next_advantage = (...) * mask[:, t]\n"
        "    next_value = values[:, t]\n"
        "    advantages[:, t] = next_advantage",
    ),
    misconceptions=(
        Misconception(
            "time runs forwards",
            _forwards,
            "You carry the advantage from past to future. In (22) Â_t is made of the TD errors of t and of *later* "
            "tokens: loop backwards.",
        ),
        Misconception(
            "λ forgotten",
            lambda r, v, m, gamma=1.0, lam=0.95: gae(r, v, m, gamma, 1.0),
            "λ has no effect: you computed reward-to-go minus value, the end λ = 1 of (23). In (22) the next advantage "
            "is multiplied by γλ.",
        ),
        Misconception(
            "only the TD error",
            lambda r, v, m, gamma=1.0, lam=0.95: gae(r, v, m, gamma, 0.0),
            "You return the TD error δ_t, the end λ = 0 of (23). Add γλ times the next advantage, as (22) does.",
        ),
        Misconception(
            "γ missing from γλ",
            lambda r, v, m, gamma=1.0, lam=0.95: _gae_by(r, v, m, decay=lam, value_gamma=gamma),
            "The next advantage is multiplied by λ alone. In (22) it is γλ: a TD error one token later is discounted "
            "too.",
        ),
        Misconception(
            "γ missing from the TD error",
            lambda r, v, m, gamma=1.0, lam=0.95: _gae_by(r, v, m, decay=gamma * lam, value_gamma=1.0),
            "γ is missing from the TD error. In (18) δ_t = r_t + γ V_{t+1} − V_t: what comes after t is discounted.",
        ),
        Misconception(
            "value added instead of subtracted",
            lambda r, v, m, gamma=1.0, lam=0.95: _gae_by(r, v, m, decay=gamma * lam, value_gamma=gamma, sign=-1.0),
            "You add V_t. An advantage says how much better it went than expected, so in (18) V_t is subtracted.",
        ),
        Misconception(
            "no next value",
            lambda r, v, m, gamma=1.0, lam=0.95: _gae_by(r, v, m, decay=gamma * lam, value_gamma=0.0),
            "The value of the next token is missing: your TD error is r_t − V_t. In (18), γ V_{t+1} stands for all "
            "rewards that are still to come.",
        ),
        Misconception(
            "the same value twice",
            _same_value_twice,
            "Your next value is V_t itself. Update `next_value` after you have used it, not before: (18) needs V of t "
            "+ 1.",
        ),
        Misconception(
            "values at padding count as the future",
            _value_at_padding,
            "After the last real token you go on with the value found at padding. The answer is over there: V after "
            "its end is 0 (step 2 of section 5).",
        ),
        Misconception(
            "mask applied only at the end",
            _masked_at_the_end,
            "The padding is 0 in your results, but what stands there has already flowed into the last real tokens. "
            "Mask rewards and values before the loop, and the advantage inside it.",
        ),
        Misconception(
            "last value carried on",
            _last_value_carried_on,
            "After the last column you go on with the last value itself. The answer is over there: in (17) V after the "
            "end is 0.",
        ),
        Misconception(
            "value of the last token goes on",
            _bootstrap_from_the_end,
            "After the last real token of each answer you go on with its own value. The answer is over there: in (17) "
            "V after the end is 0.",
        ),
        Misconception(
            "advantage turned round",
            lambda r, v, m, gamma=1.0, lam=0.95: (-gae(r, v, m, gamma, lam)[0], gae(r, v, m, gamma, lam)[1]),
            "Your advantages have the wrong sign: (18) is what came, r_t + γ V_{t+1}, minus what was expected, V_t.",
        ),
        Misconception(
            "advantage turned round, and added to V",
            lambda r, v, m, gamma=1.0, lam=0.95: (-gae(r, v, m, gamma, lam)[0], v * m - gae(r, v, m, gamma, lam)[0]),
            "Your advantages have the wrong sign, and so the returns are wrong too: (18) is r_t + γ V_{t+1} − V_t.",
        ),
        Misconception(
            "results swapped",
            lambda r, v, m, gamma=1.0, lam=0.95: gae(r, v, m, gamma, lam)[::-1],
            "Both results are right, in the wrong order: return (advantages, returns).",
        ),
        Misconception(
            "advantages only",
            lambda r, v, m, gamma=1.0, lam=0.95: gae(r, v, m, gamma, lam)[0],
            "You return the advantages alone. The pair (advantages, returns) is asked for.",
        ),
        Misconception(
            "returns from rewards",
            lambda r, v, m, gamma=1.0, lam=0.95: (gae(r, v, m, gamma, lam)[0], gae(r, v, m, gamma, lam)[0] + r * m),
            "The advantages are right. To make the returns you add the rewards; (24) adds the values: R_t = Â_t + V_t.",
        ),
        Misconception(
            "returns with the value subtracted",
            lambda r, v, m, gamma=1.0, lam=0.95: (gae(r, v, m, gamma, lam)[0], gae(r, v, m, gamma, lam)[0] - v * m),
            "The advantages are right. In (24) the value is added, not subtracted: R_t = Â_t + V_t.",
        ),
        Misconception(
            "returns are one-step targets",
            lambda r, v, m, gamma=1.0, lam=0.95: (gae(r, v, m, gamma, lam)[0], gae(r, v, m, gamma, 0.0)[1]),
            "The advantages are right. Your returns are r_t + γ V_{t+1}, which is (24) only for λ = 0.",
        ),
        Misconception(
            "γ missing everywhere",
            lambda r, v, m, gamma=1.0, lam=0.95: gae(r, v, m, 1.0, lam),
            "γ has no effect in your function. It stands in (18) and in (22).",
        ),
        Misconception(
            "γ and λ exchanged",
            lambda r, v, m, gamma=1.0, lam=0.95: _gae_by(r, v, m, decay=gamma * lam, value_gamma=lam),
            "In the TD error you have λ in place of γ: (18) is r_t + γ V_{t+1} − V_t.",
        ),
        Misconception(
            "γλ in the TD error",
            lambda r, v, m, gamma=1.0, lam=0.95: _gae_by(r, v, m, decay=gamma * lam, value_gamma=gamma * lam),
            "The TD error has γ alone, (18); γλ multiplies the next advantage, (22).",
        ),
        Misconception(
            "γ missing from γλ, no decay",
            lambda r, v, m, gamma=1.0, lam=0.95: _gae_by(r, v, m, decay=gamma, value_gamma=1.0),
            "γ stands in the wrong place: (18) has γ V_{t+1}, and (22) has γλ before the next advantage.",
        ),
        Misconception(
            "weights of the mixture left unscaled",
            lambda r, v, m, gamma=1.0, lam=0.95: tuple((1 - lam) * x for x in gae(r, v, m, gamma, lam)),
            "You multiply by 1 − λ. The weights of (20) contain it, but in the sum (21) it has cancelled.",
        ),
        Misconception(
            "advantages whitened",
            lambda r, v, m, gamma=1.0, lam=0.95: (
                masked_whiten(gae(r, v, m, gamma, lam)[0], m),
                gae(r, v, m, gamma, lam)[1],
            ),
            "The returns are right, and the advantages are shifted and scaled. (22) is in reward units; whitening "
            "comes in section 9.",
        ),
        Misconception(
            "no value at all",
            lambda r, v, m, gamma=1.0, lam=0.95: (reward_to_go(r, m, gamma),) * 2,
            "You return reward-to-go. The advantage compares it with the value: (18) and (22) contain V.",
        ),
        Misconception(
            "returns without the value",
            lambda r, v, m, gamma=1.0, lam=0.95: (gae(r, v, m, gamma, lam)[0],) * 2,
            "The advantages are right. The returns are the targets of the value function: R_t = Â_t + V_t, equation "
            "(24).",
        ),
        Misconception(
            "returns are reward-to-go",
            lambda r, v, m, gamma=1.0, lam=0.95: (gae(r, v, m, gamma, lam)[0], reward_to_go(r, m, gamma)),
            "The advantages are right, but as returns you give reward-to-go. That is R_t = Â_t + V_t of (24) only for "
            "λ = 1.",
        ),
        Misconception(
            "returns from whitened advantages",
            _whitened_returns,
            "You whitened the advantages before adding V. The returns in (24) are in reward units: make them first.",
        ),
        Misconception(
            "returns at padding",
            lambda r, v, m, gamma=1.0, lam=0.95: (gae(r, v, m, gamma, lam)[0], gae(r, v, m, gamma, lam)[0] + v),
            "At padding your returns hold the values found there. Both results must be 0 at padding: mask the values "
            "first.",
        ),
        Misconception(
            "V_t forgotten",
            lambda r, v, m, gamma=1.0, lam=0.95: _gae_by(r, v, m, decay=gamma * lam, value_gamma=gamma, sign=0.0),
            "V_t is missing from the TD error. (18) is what came minus what was expected: r_t + γ V_{t+1} − V_t.",
        ),
        Misconception(
            "returns alone",
            lambda r, v, m, gamma=1.0, lam=0.95: gae(r, v, m, gamma, lam)[1],
            "You return R only. Two results are asked for: the advantages, then R.",
        ),
    ),
)

# --- 3 · clipped loss -----------------------------------------------------------------------------------------------


def _updates(g: torch.Generator) -> list[tuple[object, ...]]:
    """Ratios from about 0.3 to 3, so that all six regions occur; the padding holds ordinary numbers."""

    def batch(rows: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        old = -3 * torch.rand(rows, width, generator=g) - 0.1
        new = old + 0.6 * torch.randn(rows, width, generator=g)
        return new, old, torch.randn(rows, width, generator=g), ragged_mask(g, rows, width)

    written = [batch(2, 4), (*batch(4, 6), 0.2), (*batch(3, 8), 0.1), (*batch(1, 7), 0.5)]
    new, old, advantages, mask = batch(whole(g, 2, 5), whole(g, 5, 9))
    return [
        *written,
        (new, old, advantages, random_mask(g, *new.shape), 0.3),  # no row full
        (new, old, -advantages.abs() - 0.1, mask, 0.2),  # all advantages negative
        (new, old, advantages.abs() + 0.1, mask),  # all positive
    ]


def _surrogates(new: Tensor, old: Tensor, advantages: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    ratio = (new - old).exp()
    return -advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip)


def _of_rows(new: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, clip: float = 0.2) -> Tensor:
    return masked_mean(torch.maximum(*_surrogates(new, old, advantages, clip)), mask, dim=1).mean()


def _answer_ratio(new: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, clip: float = 0.2) -> Tensor:
    log_ratio = ((new - old) * mask).sum(1, keepdim=True).expand_as(new)
    return masked_mean(torch.maximum(*_surrogates(log_ratio, 0 * old, advantages, clip)), mask)


q3 = Question(
    title="4.3 The clipped loss",
    name="my_clipped_loss",
    reference=clipped_loss,
    cases=_updates,
    grad_args=(0,),
    hints=(
        "Log-probabilities come in, a ratio is needed: which function turns a difference of logarithms into a "
        "ratio? And which of two gains does (29) take?",
        "The gain is the smaller of ρÂ and clip(ρ)Â, so a step too far never pays. The loss is its negative, "
        "averaged over the real tokens.",
        "The ratio is exp of new minus old log-probabilities. Clamp it to 1 − ε and 1 + ε, multiply both with the"
        " advantages, take the smaller product for each token. Sum with the mask, divide by the sum of the mask, "
        "and turn the sign.",
        "ratio = (log_probs - old_log_probs).exp()\n"
        "gain = torch.minimum(ratio * advantages, ...)\n"
        "return -(gain * mask).sum() / ...",
    ),
    misconceptions=(
        Misconception(
            "the better of the two",
            lambda n, o, a, m, clip=0.2: masked_mean(torch.minimum(*_surrogates(n, o, a, clip)), m),
            "You took the minimum of the two losses, the optimistic one. (29) takes the minimum of two *gains*. With "
            "the minus sign of a loss this becomes the maximum. With yours, a step too far is rewarded most.",
        ),
        Misconception(
            "gain instead of loss",
            lambda n, o, a, m, clip=0.2: -clipped_loss(n, o, a, m, clip),
            "The sign is flipped: this is the surrogate (29), a gain. An optimizer minimises, so return its negative "
            "(30).",
        ),
        Misconception(
            "clipped only",
            lambda n, o, a, m, clip=0.2: masked_mean(_surrogates(n, o, a, clip)[1], m),
            "You always use the clipped ratio. Then a token that moved far in the wrong direction gets no gradient and "
            "can never come back. (29) compares with the unclipped term and takes the worse one.",
        ),
        Misconception(
            "not clipped",
            lambda n, o, a, m, clip=0.2: masked_mean(_surrogates(n, o, a, clip)[0], m),
            "Nothing is clipped: this is the plain surrogate (26). (29) takes the worse of it and the term with the "
            "ratio held within 1 ± ε.",
        ),
        Misconception(
            "ratio upside down",
            lambda n, o, a, m, clip=0.2: clipped_loss(o, n, a, m, clip),
            "Your ratio is π_old/π_θ. In (25) the new policy stands on top: the samples came from the old one, and the "
            "ratio re-weights them to the new one.",
        ),
        Misconception(
            "difference instead of ratio",
            lambda n, o, a, m, clip=0.2: masked_mean(
                torch.maximum(-a * (n - o), -a * (n - o).clamp(1 - clip, 1 + clip)), m
            ),
            "You used log π_θ − log π_old itself as the ratio. In (25) ρ is its exponential, and is 1 where nothing "
            "changed.",
        ),
        Misconception(
            "difference of probabilities",
            lambda n, o, a, m, clip=0.2: masked_mean(
                torch.maximum(-a * (n.exp() - o.exp()), -a * (n.exp() - o.exp()).clamp(1 - clip, 1 + clip)), m
            ),
            "You subtracted the probabilities. (25) is their quotient: 1, not 0, where nothing changed.",
        ),
        Misconception(
            "quotient of logarithms",
            lambda n, o, a, m, clip=0.2: masked_mean(
                torch.maximum(-a * (n / o), -a * (n / o).clamp(1 - clip, 1 + clip)), m
            ),
            "You divided log-probabilities. The ratio of probabilities (25) is the exponential of their *difference*.",
        ),
        Misconception(
            "clip around 0",
            lambda n, o, a, m, clip=0.2: masked_mean(
                torch.maximum(-a * (n - o).exp(), -a * (n - o).exp().clamp(-clip, clip)), m
            ),
            "You clip the ratio to [−ε, ε]. A ratio of 1 means no change, so the band in (28) is 1 − ε to 1 + ε.",
        ),
        Misconception(
            "clip only from above",
            lambda n, o, a, m, clip=0.2: masked_mean(
                torch.maximum(-a * (n - o).exp(), -a * (n - o).exp().clamp(max=1 + clip)), m
            ),
            "You clip only from above. For a negative advantage the ratio must be held at 1 − ε too.",
        ),
        Misconception(
            "clip only from below",
            lambda n, o, a, m, clip=0.2: masked_mean(
                torch.maximum(-a * (n - o).exp(), -a * (n - o).exp().clamp(min=1 - clip)), m
            ),
            "You clip only from below. For a positive advantage the ratio must be held at 1 + ε too.",
        ),
        Misconception(
            "band of quotients",
            lambda n, o, a, m, clip=0.2: masked_mean(
                torch.maximum(-a * (n - o).exp(), -a * (n - o).exp().clamp(1 / (1 + clip), 1 + clip)), m
            ),
            "Your band is 1/(1 + ε) to 1 + ε. In (28) it is 1 − ε to 1 + ε.",
        ),
        Misconception(
            "logarithm clipped in its own band",
            lambda n, o, a, m, clip=0.2: masked_mean(
                torch.maximum(-a * (n - o).exp(), -a * (n - o).clamp(1 - clip, 1 + clip).exp()), m
            ),
            "You clip the log-ratio to 1 ± ε, and take exp afterwards. The band in (28) is for the ratio itself.",
        ),
        Misconception(
            "clip fixed",
            lambda n, o, a, m, clip=0.2: clipped_loss(n, o, a, m, 0.2),
            "`clip` has no effect: you always use 0.2. The band in (28) is 1 − ε to 1 + ε with ε = clip.",
        ),
        Misconception(
            "minimum chosen by the clip",
            lambda n, o, a, m, clip=0.2: masked_mean(
                torch.where(((n - o).exp() - 1).abs() > clip, 0.0, -a * (n - o).exp()), m
            ),
            "You drop every token outside the band. (29) keeps the worse of the two terms there.",
        ),
        Misconception(
            "advantages whitened",
            lambda n, o, a, m, clip=0.2: clipped_loss(n, o, masked_whiten(a, m), m, clip),
            "You shift and scale the advantages inside the loss. (30) takes them as they come; whitening is section 9.",
        ),
        Misconception(
            "advantages whitened with n − 1",
            lambda n, o, a, m, clip=0.2: clipped_loss(n, o, (a - a[m].mean()) / a[m].std() * m, m, clip),
            "You shift and scale the advantages inside the loss (and with `.std()`). (30) takes them as they come.",
        ),
        Misconception(
            "absolute advantages",
            lambda n, o, a, m, clip=0.2: clipped_loss(n, o, a.abs(), m, clip),
            "You lose the sign of the advantages. A bad token, Â < 0, must become less likely.",
        ),
        Misconception(
            "not averaged",
            lambda n, o, a, m, clip=0.2: torch.maximum(*_surrogates(n, o, a, clip)) * m,
            "You return one loss for each token. (30) is one number: sum with the mask, divided by mask.sum().",
        ),
        Misconception(
            "not averaged, padding in it",
            lambda n, o, a, m, clip=0.2: torch.maximum(*_surrogates(n, o, a, clip)),
            "You return one loss for each position, padding included. (30) is one number, the mean over real tokens.",
        ),
        Misconception(
            "one loss for each answer",
            lambda n, o, a, m, clip=0.2: masked_mean(torch.maximum(*_surrogates(n, o, a, clip)), m, dim=1),
            "You return one loss for each answer. (30) is one number for the batch, the mean over all real tokens.",
        ),
        Misconception(
            "mask of the first row",
            lambda n, o, a, m, clip=0.2: clipped_loss(n, o, a, m[:1].expand_as(m), clip),
            "You use the mask of the first row for all. Each answer has its own length.",
        ),
        Misconception(
            "divided by the number of answers",
            lambda n, o, a, m, clip=0.2: (torch.maximum(*_surrogates(n, o, a, clip)) * m).sum() / m.shape[0],
            "You divide by the number of answers. (30) divides by the number of real tokens, mask.sum().",
        ),
        Misconception(
            "all detached",
            lambda n, o, a, m, clip=0.2: clipped_loss(n.detach(), o, a, m, clip),
            "The value is right, but no gradient reaches `log_probs`, so nothing could be trained on it: no "
            "`.detach()`, `.item()`, `.data`, NumPy or `torch.no_grad()`.",
        ),
        Misconception(
            "logarithm clipped",
            lambda n, o, a, m, clip=0.2: masked_mean(
                torch.maximum(-a * (n - o).exp(), -a * (n - o).clamp(-clip, clip).exp()), m
            ),
            "You clip the log-ratio to ±ε. The band in (28) is for the ratio itself: exp(0.2) is 1.221, not 1.2.",
        ),
        Misconception(
            "advantage clipped with the ratio",
            lambda n, o, a, m, clip=0.2: masked_mean(
                torch.maximum(-a * (n - o).exp(), -(a * (n - o).exp()).clamp(1 - clip, 1 + clip)), m
            ),
            "You clip the product Â ρ. In (28) only the ratio is clipped; the advantage may have any size and sign.",
        ),
        Misconception(
            "padding averaged",
            lambda n, o, a, m, clip=0.2: torch.maximum(*_surrogates(n, o, a, clip)).mean(),
            "The mean runs over padding too. In (30) average over real tokens: use the mask, and divide by its sum.",
        ),
        Misconception(
            "padding counted in the number of tokens",
            lambda n, o, a, m, clip=0.2: (torch.maximum(*_surrogates(n, o, a, clip)) * m).mean(),
            "You set padding to 0 but divide by the number of all positions. In (30) divide by the number of real "
            "tokens, mask.sum().",
        ),
        Misconception(
            "sum instead of mean",
            lambda n, o, a, m, clip=0.2: (torch.maximum(*_surrogates(n, o, a, clip)) * m).sum(),
            "You sum over the tokens. (30) is their mean: otherwise the step would grow with the size of the batch.",
        ),
        Misconception(
            "mean of means",
            _of_rows,
            "You averaged each answer first and then the answers. In (30) every real token has the same weight; yours "
            "gives the tokens of short answers more.",
        ),
        Misconception(
            "ratio of the whole answer",
            _answer_ratio,
            "You used one ratio for the whole answer (the product over its tokens). (25) is a ratio for each token.",
        ),
    ),
)

# --- 4 · regions without gradient -----------------------------------------------------------------------------------

_TABLE = "Take one region at a time: which of the two terms in (29) is the smaller, and does it depend on ρ there?"
_REGIONS = {
    1: "region 1 (a good token, too unlikely): the unclipped term is the smaller one and keeps its gradient",
    2: "region 2 (a good token, inside the band): both terms are equal and have the ordinary gradient",
    3: "region 3 (a good token, likely enough): the clipped term is the smaller one, and it is a constant",
    4: "region 4 (a bad token, unlikely enough): the clipped term is the smaller one, and it is a constant",
    5: "region 5 (a bad token, inside the band): both terms are equal and have the ordinary gradient",
    6: "region 6 (a bad token, too likely): the unclipped term is the smaller one and keeps its gradient",
}


def _region_by_region(right: set[int], named: tuple[Misconception, ...]) -> tuple[Misconception, ...]:
    """The named misconceptions, and for each other set what is wrong with the first region that it gets wrong."""
    told = [wrong.answer for wrong in named]
    others = []
    for size in range(len(_REGIONS) + 1):
        for chosen in map(set, itertools.combinations(_REGIONS, size)):
            if chosen == right or chosen in told:
                continue
            region = min(chosen ^ right)
            listed = ", ".join(map(str, sorted(chosen)))
            text = f"You named {listed}. Look at {_REGIONS[region]}. {_TABLE}"
            others.append(Misconception(listed, chosen, text))
    return (*named, *others)


q4 = Question(
    title="4.4 Where is the gradient zero?",
    name="my_regions",
    value={3, 4},
    hints=(
        "The gradient is zero where the clipped term is *chosen* and the clip is *active*. Being outside the band is "
        "not enough.",
        "Take Â = 1 and ρ = 0.5, so the two terms are 0.5 and 0.8. Which one does the minimum choose? Now do the same "
        "for ρ = 1.5, and both again for Â = −1.",
    ),
    misconceptions=_region_by_region(
        {3, 4},
        (
            Misconception(
                "everything outside the band",
                {1, 3, 4, 6},
                "You named all regions outside the band. The minimum in (29) does not always choose the clipped term: "
                "in regions 1 and 6 the policy moved the *wrong* way, the unclipped term is smaller, and it keeps its "
                "gradient.",
            ),
            Misconception(
                "the two that must come back",
                {1, 6},
                "You named the two regions where the policy moved the wrong way. There the unclipped term is the "
                "smaller one in (29), and its gradient brings the policy back. Look at the other two outside the band.",
            ),
            Misconception(
                "large ratios",
                {3, 6},
                "You named the large ratios. The sign of Â matters: in region 6 the token is bad and its probability "
                "grew; the minimum in (29) chooses the unclipped term.",
            ),
            Misconception(
                "small ratios",
                {1, 4},
                "You named the small ratios. The sign of Â matters: in region 1 the token is good and its probability "
                "fell; the minimum in (29) chooses the unclipped term.",
            ),
            Misconception(
                "inside the band",
                {2, 5},
                "You named the regions inside the band. There the clip changes nothing, both terms of (29) are equal, "
                "and the gradient is the ordinary one.",
            ),
            Misconception(
                "only positive advantages",
                {3},
                f"Region 3 is right, and one is missing: a bad token has a region of the same kind. {_TABLE}",
            ),
            Misconception(
                "only negative advantages",
                {4},
                f"Region 4 is right, and one is missing: a good token has a region of the same kind. {_TABLE}",
            ),
            Misconception(
                "all positive advantages",
                {1, 2, 3},
                f"You named every region with Â > 0. Only one of these has no gradient. {_TABLE}",
            ),
            Misconception(
                "all negative advantages",
                {4, 5, 6},
                f"You named every region with Â < 0. Only one of these has no gradient. {_TABLE}",
            ),
            Misconception(
                "small ratios and good tokens",
                {1, 2, 3, 4},
                f"Regions 3 and 4 are right, but 1 and 2 do not belong there. {_TABLE}",
            ),
            Misconception(
                "none",
                set(),
                "You say that the gradient never vanishes. Where the clipped term is chosen and the clip is active, it "
                "is a constant: Â(1 + ε) does not depend on θ.",
            ),
        ),
    ),
)

# --- 5 · masked whitening -------------------------------------------------------------------------------------------


def _to_whiten(g: torch.Generator) -> list[tuple[object, ...]]:
    def batch(rows: int, width: int, scale: float, shift: float) -> tuple[Tensor, Tensor]:
        return scale * torch.randn(rows, width, generator=g) + shift, ragged_mask(g, rows, width)

    equal = torch.full((2, 3), 2.0)
    rows, width = whole(g, 2, 5), whole(g, 5, 9)
    return [
        batch(2, 4, 3.0, 1.0),
        (*batch(4, 6, 0.5, -2.0), True),
        (*batch(3, 5, 2.0, 4.0), False),
        (*batch(1, 4, 1.0, -3.0), False),
        (50 * torch.randn(rows, width, generator=g) - 7, random_mask(g, rows, width)),  # no row full
        (equal, torch.tensor([[True, True, True], [True, False, False]])),
    ]


def _with(x: Tensor, mask: Tensor, shift_mean: bool, mean: Tensor, variance: Tensor) -> Tensor:
    white = (x - mean) * torch.rsqrt(variance + 1e-8)
    return (white if shift_mean else white + mean) * mask


def _moments(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    mean = masked_mean(x, mask)
    return mean, masked_mean((x - mean) ** 2, mask)


def _everything(x: Tensor, mask: Tensor, shift_mean: bool = True) -> Tensor:
    return _with(x, mask, shift_mean, x.mean(), x.var(correction=0))


def _zeros_at_padding(x: Tensor, mask: Tensor, shift_mean: bool = True) -> Tensor:
    return _with(x, mask, shift_mean, (x * mask).mean(), (x * mask).var(correction=0))


def _unbiased(x: Tensor, mask: Tensor, shift_mean: bool = True) -> Tensor:
    mean, variance = _moments(x, mask)
    return _with(x, mask, shift_mean, mean, variance * mask.sum() / (mask.sum() - 1))


def _by_row(x: Tensor, mask: Tensor, shift_mean: bool = True) -> Tensor:
    mean = masked_mean(x, mask, dim=1).unsqueeze(1)
    variance = masked_mean((x - mean) ** 2, mask, dim=1).unsqueeze(1)
    return _with(x, mask, shift_mean, mean, variance)


def _by_column(x: Tensor, mask: Tensor, shift_mean: bool = True) -> Tensor:
    count = mask.sum(0).clamp(min=1)
    mean = (x * mask).sum(0) / count
    return _with(x, mask, shift_mean, mean, ((x - mean) ** 2 * mask).sum(0) / count)


def _all_positions(x: Tensor, mask: Tensor, shift_mean: bool = True) -> Tensor:
    mean = (x * mask).mean()
    return _with(x, mask, shift_mean, mean, ((x - mean) ** 2 * mask).mean())


def _with_root(x: Tensor, mask: Tensor, shift_mean: bool = True) -> Tensor:
    mean, variance = _moments(x, mask)
    white = (x - mean) / variance.sqrt()
    return torch.where(mask, white if shift_mean else white + mean, 0.0)


def _by_variance(x: Tensor, mask: Tensor, shift_mean: bool = True) -> Tensor:
    mean, variance = _moments(x, mask)
    white = (x - mean) / (variance + 1e-8)
    return (white if shift_mean else white + mean) * mask


def _padding_left(x: Tensor, mask: Tensor, shift_mean: bool = True) -> Tensor:
    mean, variance = _moments(x, mask)
    return _with(x, torch.ones_like(mask), shift_mean, mean, variance)


def _mean_scaled_too(x: Tensor, mask: Tensor, shift_mean: bool = True) -> Tensor:
    mean, variance = _moments(x, mask)
    return (x - mean if shift_mean else x) * torch.rsqrt(variance + 1e-8) * mask


def _not_centred(x: Tensor, mask: Tensor, shift_mean: bool = True) -> Tensor:
    mean, variance = _moments(x, mask)
    return _with(x, mask, shift_mean, mean, variance + mean**2)


def _scale_only(x: Tensor, mask: Tensor, shift_mean: bool = True) -> Tensor:
    mean, _ = _moments(x, mask)
    return (x - mean if shift_mean else x) * mask


def _padding_in_variance(x: Tensor, mask: Tensor, shift_mean: bool = True) -> Tensor:
    mean, _ = _moments(x, mask)
    return _with(x, mask, shift_mean, mean, (((x - mean) * mask) ** 2).mean())


q5 = Question(
    title="4.5 Masked whitening",
    name="my_whiten",
    reference=masked_whiten,
    cases=_to_whiten,
    hints=(
        "Which entries count for mean and variance, and over how much of the batch are they taken?",
        "Both are masked means over all real tokens of the batch: one of x, one of (x − mean)². Then every entry "
        "is centred and divided by the root of the variance plus 1e-8.",
        "masked_mean of x is the mean. masked_mean of the squared distance from it is the variance. Subtract, "
        "divide by the root, put the mean back if shift_mean is False, and set padding to 0 at last.",
        "mean = masked_mean(x, mask)\n"
        "variance = masked_mean(..., mask)\n"
        "white = (x - mean) / torch.sqrt(variance + 1e-8)\n"
        "if not shift_mean:\n"
        "    white = ...\n"
        "return white * mask",
    ),
    misconceptions=(
        Misconception(
            "mask ignored",
            _everything,
            "Mean and variance include padding, whose numbers mean nothing. In (31) both run over real tokens only.",
        ),
        Misconception(
            "zeros at padding counted",
            _zeros_at_padding,
            "You set padding to 0 and then averaged over all positions. A zero still counts as a number: divide by "
            "mask.sum(), as (31) does.",
        ),
        Misconception(
            "padding counted in the variance",
            _padding_in_variance,
            "The mean is right; in the variance you divide by the number of all positions. In (31) it is again a "
            "masked mean.",
        ),
        Misconception(
            "n − 1",
            _unbiased,
            "You divide by n − 1, the unbiased variance and PyTorch's default. (31) is a mean: divide by n.",
        ),
        Misconception(
            "x.std() and nothing else",
            lambda x, m, shift_mean=True: (x - x[m].mean()) / x[m].std() * m,
            "Three things: `.std()` divides by n − 1 where (31) divides by n; shift_mean has no effect; and without "
            "the 10⁻⁸, equal values give 0/0.",
        ),
        Misconception(
            "all positions counted in both",
            _all_positions,
            "You divide both sums by the number of all positions. In (31) n is the number of real tokens, mask.sum().",
        ),
        Misconception(
            "without the small number",
            lambda x, m, shift_mean=True: _with_root(x, m, shift_mean),
            "Right except where all values are equal: there the variance is 0, and 0/0 is nan. (31) adds 10⁻⁸ under "
            "the root.",
        ),
        Misconception(
            "real tokens only",
            lambda x, m, shift_mean=True: masked_whiten(x, m, shift_mean)[m],
            "You return the real tokens in a row. The shape must stay (B, T), with 0 at padding.",
        ),
        Misconception(
            "scaled to 0 … 1",
            lambda x, m, shift_mean=True: (x - x[m].min()) / (x[m].max() - x[m].min() + 1e-8) * m,
            "You scale to the range 0 to 1. (31) brings the mean to 0 and the variance to 1.",
        ),
        Misconception(
            "mean and variance exchanged",
            lambda x, m, shift_mean=True: _with(x, m, shift_mean, _moments(x, m)[1], _moments(x, m)[0].abs()),
            "You subtract the variance and divide by the mean. (31) subtracts the mean and divides by the root of the "
            "variance.",
        ),
        Misconception(
            "centred the wrong way",
            lambda x, m, shift_mean=True: -masked_whiten(x, m) if shift_mean else masked_whiten(x, m, False),
            "Your result has the wrong sign where the mean is shifted: (31) is x − mean, not mean − x.",
        ),
        Misconception(
            "mask of the first row",
            lambda x, m, shift_mean=True: masked_whiten(x, m[:1].expand_as(m), shift_mean),
            "You use the mask of the first row for all. Each answer has its own length.",
        ),
        Misconception(
            "each column by itself",
            _by_column,
            "You took mean and variance of each column. (31) takes them over all real tokens of the batch.",
        ),
        Misconception(
            "mean absolute deviation",
            lambda x, m, shift_mean=True: _with(
                x, m, shift_mean, _moments(x, m)[0], masked_mean((x - _moments(x, m)[0]).abs(), m) ** 2
            ),
            "You divide by the mean absolute deviation. (31) has the root of the mean *square*.",
        ),
        Misconception(
            "each answer by itself",
            _by_row,
            "You whitened each answer by itself. Then a good and a bad answer look alike: what separates them is the "
            "difference between rows. (31) takes mean and variance over the whole batch.",
        ),
        Misconception(
            "divided by the variance",
            _by_variance,
            "You divided by the variance. To get variance 1, divide by its square root: scaling x by c scales the "
            "variance by c².",
        ),
        Misconception(
            "mean square instead of variance",
            _not_centred,
            "You took the mean of x², not of (x − mean)². The variance in (31) is measured from the mean.",
        ),
        Misconception(
            "only shifted",
            _scale_only,
            "You only subtract the mean. (31) also divides by the standard deviation, so that the step does not depend "
            "on the unit of the reward.",
        ),
        Misconception(
            "always shifted",
            lambda x, m, shift_mean=True: masked_whiten(x, m),
            "shift_mean has no effect. Where it is False, the mean is put back after scaling, last line of (31).",
        ),
        Misconception(
            "never shifted",
            lambda x, m, shift_mean=True: masked_whiten(x, m, False),
            "You always put the mean back. Do that only where shift_mean is False; advantages are centred.",
        ),
        Misconception(
            "switch the wrong way round",
            lambda x, m, shift_mean=True: masked_whiten(x, m, not shift_mean),
            "The switch works the wrong way round: shift_mean=True must give mean 0, shift_mean=False must keep the "
            "mean.",
        ),
        Misconception(
            "mean scaled too",
            _mean_scaled_too,
            "Where shift_mean is False you divide x itself, so the mean is scaled with it. In (31) x is centred and "
            "scaled, and then the old mean is put back.",
        ),
        Misconception(
            "padding not set to 0",
            _padding_left,
            "The real tokens are right, but padding is not 0. Whatever stands there must not enter a later sum.",
        ),
    ),
)

# --- predictions ----------------------------------------------------------------------------------------------------

p1 = Prediction(
    "We add 10 to all rewards. What happens to the policy-gradient estimate from one answer?",
    (
        "nothing: all answers gained the same.",
        "its mean grows, its variance stays.",
        "its mean stays, its variance grows.",
        "both grow.",
    ),
    answer=2,
    meanings=(
        "What was added is 10 ∇log π(y). It differs from answer to answer, so single estimates do change.",
        "What was added has mean zero, by (9), so the mean cannot grow.",
        "A constant times ∇log π has mean zero, but it is not zero for each answer.",
        "The variance does. The mean would need E[∇log π] ≠ 0, against (9).",
    ),
)
p2 = Prediction(
    "Which of these three weights gives the estimate the least variance?",
    (
        "the TD error with the exact value, δ.",
        "the whole return minus its mean, r(y) − J.",
        "reward-to-go minus the exact value, G − V.",
    ),
    answer=0,
    meanings=(
        "It has neither the luck of earlier tokens in it nor that of later ones.",
        "It is the noisiest of the three: each token is also weighted with what was paid before it.",
        "The past is gone, but the luck of all later tokens is still in G.",
    ),
)
p3 = Prediction(
    "The value function is only half right. Which λ gives the smallest error of the gradient, with 64 answers a step?",
    ("0.", "between ½ and 1.", "1."),
    answer=1,
    meanings=(
        "λ = 0 trusts the wrong V fully: little noise, and the largest bias. It is best for an exact V.",
        "λ = 0 trusts the wrong V, λ = 1 pays with noise; in between both are moderate.",
        "λ = 1 has no bias, and all the noise of later tokens. It is best where V is useless or answers are many.",
    ),
)
p4 = Prediction(
    "We climb the surrogate (26) of one batch for 60 steps, without a clip. What does the true objective J do?",
    ("it rises all the way, more slowly.", "it rises, then falls below its start.", "it rises, stops and stays."),
    answer=1,
    meanings=(
        "Then the surrogate would tell the truth far away too. Its mean reward does rise; the KL, which it does not "
        "contain, rises faster.",
        "The batch knows nothing of the KL of policies far from the one that made it.",
        "Something would have to stop the steps. That is what the clip does, in the right panel.",
    ),
)
p5 = Prediction(
    "Three methods sample the same number of answers. After 10 batches, which one is farthest from the optimum?",
    (
        "four steps for each batch, not clipped.",
        "PPO: four steps for each batch, clipped.",
        "plain policy gradient: one gradient step for each batch.",
    ),
    answer=0,
    meanings=(
        "Four free steps on one batch leave the region in which the batch can be trusted.",
        "Then the clip would cost more than the extra steps bring. PPO is the nearest of the three here.",
        "It makes a quarter of the steps, but each of them on fresh answers: it lies in between.",
    ),
)
