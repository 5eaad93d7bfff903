"""Questions of notebook 03, the RLHF objective: reward on a leash."""

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from week6 import objective, ppo
from week6.checks.capstone_03 import capstone as capstone
from week6.checks.cases import random_mask, whole
from week6.checks.engine import Misconception, Prediction, Question

Case = tuple[Tensor, Tensor, float]
Product = Callable[[Tensor, Tensor], Tensor]


def _log_policies(g: torch.Generator, *shape: int, spread: float = 1.5) -> Tensor:
    """log-probabilities of random distributions over the last axis, from logits of this spread."""
    return (spread * torch.randn(*shape, generator=g, dtype=torch.float64)).log_softmax(-1)


def _never_first(log_p: Tensor) -> Tensor:
    """The same distributions, except that the first answer has probability 0."""
    never = torch.full_like(log_p[..., :1], -torch.inf)
    return torch.cat([never, log_p[..., 1:]], dim=-1).log_softmax(-1)


def _as_policy(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function of log-probabilities, with a gradient only along changes that keep their probabilities' sum.

    The policy is trained, and its probabilities sum to 1; an answer may use that, as equations (9) and (27) do. Where
    a probability is zero no gradient is asked for, since log p has none that is finite there.
    """

    @functools.wraps(function)
    def of_policy(log_p: Tensor, *others: Any) -> Any:
        if log_p.requires_grad:
            zeros = any(isinstance(x, Tensor) and bool(x.isinf().any()) for x in (log_p, *others))
            log_p = log_p.detach() if zeros else log_p.log_softmax(-1)  # the values are what they were
        return function(log_p, *others)

    return of_policy


def _by_hand(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p ‖ q) with the zeros taken care of, for the misconceptions that get only something else wrong."""
    return torch.where(log_p.exp() > 0, log_p.exp() * (log_p - log_q), 0.0).sum(-1)


# --- 3.1 · KL -------------------------------------------------------------------------------------------------------


def _two_distributions(g: torch.Generator) -> list[tuple[Tensor, Tensor]]:
    def drawn(*shape: int) -> tuple[Tensor, Tensor]:
        return _log_policies(g, *shape), _log_policies(g, *shape)

    p, q = drawn(4)
    return [
        drawn(3),
        drawn(2, 4),
        (_never_first(p), q),
        (p, _never_first(q)),  # infinite
        drawn(2, 3, 5),
        drawn(1, whole(g, 2, 6)),
        drawn(whole(g, 2, 5), whole(g, 6, 9)),
        (_log_policies(g, 3, 4), _log_policies(g, 3, 4, spread=100.0)),
    ]


def _with_and_without_zeros(
    name: str, kl: Callable[[Tensor, Tensor, Product], Tensor], message: str
) -> list[Misconception]:
    """A wrong KL in three versions: zeros of its weights taken care of, 0 · inf left as nan, all that is infinite "
    "dropped."""

    def careful(weight: Tensor, x: Tensor) -> Tensor:
        return torch.where(weight == 0, 0.0, weight * x)

    def finite(weight: Tensor, x: Tensor) -> Tensor:
        return torch.where(torch.isfinite(weight * x), weight * x, 0.0)

    nan = " And where p(y) = 0 there is a nan: 0 · (−inf). Choose with torch.where."
    dropped = " And infinite terms are dropped: where q(y) = 0 < p(y), the KL is infinite."
    return [
        Misconception(name, lambda p, q: kl(p, q, careful), message),
        Misconception(f"{name}, nan at zeros", lambda p, q: kl(p, q, torch.mul), message + nan),
        Misconception(f"{name}, infinity dropped", lambda p, q: kl(p, q, finite), message + dropped),
    ]


def _weights_held(log_p: Tensor, log_q: Tensor) -> Tensor:
    return torch.where(log_p.exp() > 0, log_p.exp().detach() * (log_p - log_q), 0.0).sum(-1)


q1 = Question(
    title="3.1 KL divergence",
    name="kl",
    reference=objective.kl_divergence,
    cases=_two_distributions,
    through=_as_policy,
    grad_args=(0,),
    hints=(
        "Read (1) as an average. Which of the two distributions are its answers drawn from, and what is averaged "
        "over them?",
        "A KL is an expectation under p: Σ p(y) · (log p(y) − log q(y)). The inputs are logarithms already, so "
        "only the weight p(y) must be got back from its logarithm. Where p(y) = 0 the product is 0 · (−inf), a "
        "nan, and counts as 0.",
        "Get p by exp. Multiply it with the difference of the two inputs. Put 0 where p is 0, and leave all other"
        " terms as they are, the infinite ones too. Sum over the last axis.",
        "p = log_p.exp()\nterms = torch.where(p > 0, ..., 0.0)\nreturn terms.sum(...)",
    ),
    misconceptions=(
        *_with_and_without_zeros(
            "swapped",
            lambda p, q, mul: mul(q.exp(), q - p).sum(-1),
            "You computed KL(q ‖ p). In (1) the weights and the first logarithm belong to the first argument: the "
            "answers come from p.",
        ),
        *_with_and_without_zeros(
            "wrong weights",
            lambda p, q, mul: mul(q.exp(), p - q).sum(-1),
            "You average the log-ratio with the probabilities of q. In (1) the expectation is under p, the first "
            "argument.",
        ),
        *_with_and_without_zeros(
            "sign",
            lambda p, q, mul: -mul(p.exp(), p - q).sum(-1),
            "Your sign is flipped: (1) has log p − log q. By (3) a KL is never negative, and yours always is.",
        ),
        Misconception(
            "unweighted sum",
            lambda p, q: (p - q).sum(-1),
            "You add up the log-ratios without the weights p(y). (1) is an expectation: likely answers count more.",
        ),
        Misconception(
            "unweighted mean",
            lambda p, q: (p - q).mean(-1),
            "You average the log-ratios with equal weights. The expectation in (1) is under p: weight each answer by "
            "p(y).",
        ),
        Misconception(
            "logarithm as weight",
            lambda p, q: (p * (p - q)).sum(-1),
            "You weight by log p(y). The weight in (1) is the probability itself: log_p.exp().",
        ),
        Misconception(
            "zero times infinity",
            lambda p, q: (p.exp() * (p - q)).sum(-1),
            "Right except where p(y) = 0: there log p = −inf, and 0 · (−inf) is nan. By the convention below (1) such "
            "an answer counts as 0: choose with torch.where.",
        ),
        Misconception(
            "infinity dropped",
            lambda p, q: torch.where(torch.isfinite(p - q), p.exp() * (p - q), 0.0).sum(-1),
            "You count every term with an infinite logarithm as 0. That is right where p(y) = 0. Where q(y) = 0 < "
            "p(y), the KL is infinite: p gives an answer that q never gives.",
        ),
        Misconception(
            "infinity made finite",
            lambda p, q: (p.exp() * (p - q)).nan_to_num(0.0).sum(-1),
            "`nan_to_num` also replaces inf by a large finite number. Where q(y) = 0 < p(y), the KL is infinite; only "
            "where p(y) = 0 a term counts as 0.",
        ),
        *_with_and_without_zeros(
            "mean over answers",
            lambda p, q, mul: mul(p.exp(), p - q).mean(-1),
            "You took the mean over the N answers. The weights p(y) in (1) already make an average: sum, do not divide "
            "by N.",
        ),
        *_with_and_without_zeros(
            "sum over rows",
            lambda p, q, mul: mul(p.exp(), p - q).sum(),
            "You summed over everything. Each row is a distribution of its own: sum over the last axis only, .sum(-1).",
        ),
        *_with_and_without_zeros(
            "mean of the rows",
            lambda p, q, mul: mul(p.exp(), p - q).sum(-1).mean(),
            "You averaged over the rows. Each row is a distribution of its own and has a KL of its own: return one "
            "number for each.",
        ),
        *_with_and_without_zeros(
            "sum over the first axis",
            lambda p, q, mul: mul(p.exp(), p - q).sum(0),
            "You sum over the first axis, which holds different distributions. The answers lie along the last: "
            ".sum(-1).",
        ),
        Misconception(
            "batchmean of the library",
            lambda p, q: F.kl_div(q, p.exp(), reduction="batchmean"),
            "`batchmean` adds up everything and divides by the length of the first axis. One number for each row is "
            "asked "
            'for: reduction="none", then .sum(-1).',
        ),
        Misconception(
            "mean of the library",
            lambda p, q: F.kl_div(q, p.exp(), reduction="sum") / p.numel(),
            "The library's mean divides by the number of elements. (1) is a weighted sum, one for each row: "
            'reduction="none", then .sum(-1).',
        ),
        *_with_and_without_zeros(
            "bits",
            lambda p, q, mul: mul(p.exp(), p - q).sum(-1) / math.log(2),
            "That is the KL in bits (logarithms to base 2). (1) has natural logarithms: nats.",
        ),
        Misconception(
            "logarithms taken for probabilities",
            lambda p, q: (p * (p / q).log()).nansum(-1),
            "You take the inputs for probabilities. They are logarithms already: the weight is log_p.exp(), and the "
            "log of the quotient is log_p − log_q.",
        ),
        Misconception(
            "logarithm of a logarithm",
            lambda p, q: (p.exp() * (p / q).log()).nansum(-1),
            "You take the logarithm of log p / log q. The log of the quotient p/q is the difference log_p − log_q.",
        ),
        Misconception(
            "ratio without its logarithm",
            lambda p, q: (p.exp() * (p - q).exp()).sum(-1),
            "You average the ratio p/q. (1) has its logarithm: log_p − log_q, without exp.",
        ),
        Misconception(
            "difference of probabilities",
            lambda p, q: (p.exp() * (p.exp() - q.exp())).sum(-1),
            "You subtract probabilities. (1) subtracts their logarithms, which are the inputs as they come.",
        ),
        *_with_and_without_zeros(
            "negative terms cut",
            lambda p, q, mul: mul(p.exp(), p - q).clamp(min=0).sum(-1),
            "You cut single terms at 0. They may be negative; only the whole sum is not, see (3).",
        ),
        *_with_and_without_zeros(
            "symmetric",
            lambda p, q, mul: mul(p.exp(), p - q).sum(-1) + mul(q.exp(), q - p).sum(-1),
            "You add KL(q ‖ p). (1) is one direction only, the answers come from p. KL is not symmetric.",
        ),
        *_with_and_without_zeros(
            "symmetric mean",
            lambda p, q, mul: (mul(p.exp(), p - q).sum(-1) + mul(q.exp(), q - p).sum(-1)) / 2,
            "You average both directions. (1) is one direction only, the answers come from p. KL is not symmetric.",
        ),
        *_with_and_without_zeros(
            "squared",
            lambda p, q, mul: mul(p.exp(), (p - q) ** 2).sum(-1),
            "You square the log-ratio. (1) is the mean of the log-ratio itself.",
        ),
        Misconception(
            "entropy only",
            lambda p, q: _by_hand(p, torch.zeros_like(q)),
            "You left out q: Σ p log p is minus the entropy of p. (1) subtracts log q(y) in the brackets.",
        ),
        Misconception(
            "cross entropy",
            lambda p, q: -(p.exp() * q).sum(-1),
            "That is the cross-entropy, −Σ p log q. (1) has the term Σ p log p as well: KL is cross-entropy minus the "
            "entropy of p.",
        ),
        *_with_and_without_zeros(
            "absolute value",
            lambda p, q, mul: mul(p.exp(), (p - q).abs()).sum(-1),
            "You took absolute values. Single terms of (1) may be negative; only the whole sum is not, see (3).",
        ),
        *_with_and_without_zeros(
            "not summed",
            lambda p, q, mul: mul(p.exp(), p - q),
            "You return the terms of (1), one for each answer. Add them up over the last axis: .sum(-1).",
        ),
        Misconception(
            "axis kept",
            lambda p, q: _by_hand(p, q).unsqueeze(-1),
            "You keep the summed axis (`keepdim`). One number for each row is asked for, without that axis.",
        ),
        Misconception(
            "weights detached",
            _weights_held,
            "The value is right, but you detached the weights p(y). The policy is trained through them too: its "
            "gradient must flow through p and through log p.",
        ),
        Misconception(
            "all detached",
            lambda p, q: _by_hand(p, q).detach(),
            "The value is right, but no gradient reaches `log_p`, so nothing could be trained through it: no "
            "`.detach()`, `.item()`, `.data`, NumPy or `torch.no_grad()`.",
        ),
        Misconception(
            "Jensen and Shannon's",
            lambda p, q: sum(
                torch.where(x.exp() > 0, x.exp() * (x - ((p.exp() + q.exp()) / 2).log()), 0.0).sum(-1) / 2
                for x in (p, q)
            ),
            "That is the divergence of Jensen and Shannon, from the middle of the two. (1) compares p with q itself.",
        ),
        *(
            Misconception(
                f"saved by {small:g}",
                lambda p, q, e=small: (p.exp() * ((p.exp() + e).log() - (q.exp() + e).log())).sum(-1),
                f"You save the logarithm with a small number, {small:g}. Then a large KL comes out too small, and "
                "where q(y) = 0 < p(y) it is finite. Keep the log-probabilities that you have.",
            )
            for small in (1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-12)
        ),
        *(
            Misconception(
                f"cut off at −{low}",
                lambda p, q, low=low: (p.exp() * (p.clamp(min=-low) - q.clamp(min=-low))).sum(-1),
                f"You cut the logarithms off at −{low}. That takes care of p(y) = 0; but where q(y) = 0 < p(y) the KL "
                "is infinite, and yours is not.",
            )
            for low in (20, 30, 50, 100, 1000)
        ),
    ),
)

# --- 3.2 · the objective --------------------------------------------------------------------------------------------


def _objective_cases(g: torch.Generator) -> list[tuple[Tensor, Tensor, Tensor, float]]:
    def drawn(beta: float, *shape: int) -> tuple[Tensor, Tensor, Tensor, float]:
        rewards = 2 * torch.randn(*shape, generator=g, dtype=torch.float64)
        return _log_policies(g, *shape), _log_policies(g, *shape), rewards, beta

    policy, reference, rewards, beta = drawn(0.1, 4)
    return [
        drawn(0.5, 3),
        drawn(2.0, 2, 4),
        (_never_first(policy), reference, rewards, beta),
        (*drawn(0.3, 3, 3)[:2], -3 - torch.rand(3, 3, generator=g, dtype=torch.float64), 0.3),  # all rewards negative
        drawn(1.5, 1, whole(g, 2, 6)),
        drawn(0.7, whole(g, 2, 5), whole(g, 6, 9)),
    ]


q2 = Question(
    title="3.2 The objective",
    name="objective",
    reference=objective.rlhf_objective,
    cases=_objective_cases,
    through=_as_policy,
    grad_args=(0,),
    hints=(
        "(4) has two parts. Which of them have you written already, and which distribution weights the other?",
        "E_π[r] is the sum Σ π(y) r(y), and from it β · KL(π ‖ π_ref) is taken away: π comes first in the KL.",
        "Get π from log_probs by exp. Weight the rewards with it and sum over the last axis. Subtract β times "
        "kl_divergence of log_probs and ref_log_probs. Nothing is detached.",
        "expected_reward = (... * rewards).sum(-1)\nreturn expected_reward - beta * kl_divergence(...)",
    ),
    misconceptions=(
        Misconception(
            "KL rewarded",
            lambda p, ref, r, beta: (p.exp() * r).sum(-1) + beta * _by_hand(p, ref),
            "You add the KL, so distance is rewarded. In (4) it is a penalty: minus β KL.",
        ),
        Misconception(
            "a loss",
            lambda p, ref, r, beta: beta * _by_hand(p, ref) - (p.exp() * r).sum(-1),
            "You returned −J, the loss. (4) is the objective itself, which is maximised: reward with plus, KL with "
            "minus.",
        ),
        Misconception(
            "KL the other way round",
            lambda p, ref, r, beta: (p.exp() * r).sum(-1) - beta * _by_hand(ref, p),
            "Your KL is KL(π_ref ‖ π). The leash in (4) is KL(π ‖ π_ref): the policy is the first argument.",
        ),
        Misconception(
            "beta forgotten",
            lambda p, ref, r, beta: (p.exp() * r).sum(-1) - _by_hand(p, ref),
            "Where is β? In (4) it is the price that turns nats into reward units.",
        ),
        Misconception(
            "beta on the reward",
            lambda p, ref, r, beta: beta * (p.exp() * r).sum(-1) - _by_hand(p, ref),
            "You multiply the reward by β. In (4) β stands before the KL: a larger β is a shorter leash.",
        ),
        Misconception(
            "beta on both",
            lambda p, ref, r, beta: beta * ((p.exp() * r).sum(-1) - _by_hand(p, ref)),
            "You multiply the whole difference by β. In (4) it belongs to the KL only.",
        ),
        Misconception(
            "beta as a mixing weight",
            lambda p, ref, r, beta: (1 - beta) * (p.exp() * r).sum(-1) - beta * _by_hand(p, ref),
            "You mix the two parts with weights 1 − β and β. In (4) the reward has weight 1 whatever β is: β is a "
            "price, in reward units per nat, and not a share.",
        ),
        Misconception(
            "divided by beta",
            lambda p, ref, r, beta: (p.exp() * r).sum(-1) - _by_hand(p, ref) / beta,
            "You divide the KL by β. In (4) β multiplies it; the division by β comes later, in (6), and there under r.",
        ),
        Misconception(
            "mean reward",
            lambda p, ref, r, beta: r.mean(-1) - beta * _by_hand(p, ref),
            "You average the rewards with equal weights, so the policy does not matter to them. E_π[r] weights "
            "each answer "
            "by π(y).",
        ),
        Misconception(
            "summed reward",
            lambda p, ref, r, beta: r.sum(-1) - beta * _by_hand(p, ref),
            "You add up the rewards without weights. E_π[r] weights each answer by π(y) = log_probs.exp().",
        ),
        Misconception(
            "expectation under the reference",
            lambda p, ref, r, beta: (ref.exp() * r).sum(-1) - beta * _by_hand(p, ref),
            "You take the expected reward under π_ref. In (4) it is that of the policy: weights log_probs.exp().",
        ),
        Misconception(
            "no leash",
            lambda p, ref, r, beta: (p.exp() * r).sum(-1),
            "That is the expected reward alone, as in section 2. The second part of (4), −β KL, is missing.",
        ),
        Misconception(
            "all rows added",
            lambda p, ref, r, beta: ((p.exp() * r).sum(-1) - beta * _by_hand(p, ref)).sum(),
            "You added up the rows. Each row is a problem of its own with its own J: sum over the last axis only.",
        ),
        Misconception(
            "mean of the rows",
            lambda p, ref, r, beta: ((p.exp() * r).sum(-1) - beta * _by_hand(p, ref)).mean(),
            "You averaged over the rows. Each row is a problem of its own with its own J: one number for each.",
        ),
        Misconception(
            "rewards weighted with logarithms",
            lambda p, ref, r, beta: (p * r).nan_to_num(0.0, neginf=0.0, posinf=0.0).sum(-1) - beta * _by_hand(p, ref),
            "You weight the rewards with log-probabilities. E_π[r] has the probabilities: log_probs.exp() (and no nan "
            "to hide then).",
        ),
        Misconception(
            "rewards weighted with logarithms, as it stands",
            lambda p, ref, r, beta: (p * r).sum(-1) - beta * _by_hand(p, ref),
            "You weight the rewards with log-probabilities. E_π[r] has the probabilities: log_probs.exp().",
        ),
        Misconception(
            "rewards not summed",
            lambda p, ref, r, beta: p.exp() * r - beta * _by_hand(p, ref).unsqueeze(-1),
            "E_π[r] is a sum over the answers: your first part still has one number for each answer. Add .sum(-1).",
        ),
        Misconception(
            "J of each answer",
            lambda p, ref, r, beta: p.exp() * r - beta * torch.where(p.exp() > 0, p.exp() * (p - ref), 0.0),
            "You return the terms of (4), one for each answer. J is their sum over the last axis: .sum(-1).",
        ),
        Misconception(
            "nan at zeros",
            lambda p, ref, r, beta: (p.exp() * (r - beta * (p - ref))).sum(-1),
            "Right except where π(y) = 0: there 0 · (−inf) is nan. Use `kl_divergence`, which takes care of it.",
        ),
        Misconception(
            "square root of the KL",
            lambda p, ref, r, beta: (p.exp() * r).sum(-1) - beta * _by_hand(p, ref).sqrt(),
            "You take the square root of the KL. (4) has the KL itself; its root is only the axis of some plots.",
        ),
        Misconception(
            "KL squared",
            lambda p, ref, r, beta: (p.exp() * r).sum(-1) - beta * _by_hand(p, ref) ** 2,
            "You square the KL. (4) has the KL itself, times β.",
        ),
        Misconception(
            "KL averaged over answers",
            lambda p, ref, r, beta: (p.exp() * r).sum(-1) - beta * _by_hand(p, ref) / p.shape[-1],
            "Your KL is divided by the number of answers. The weights π(y) already make an average: no division by N.",
        ),
        Misconception(
            "everything averaged over answers",
            lambda p, ref, r, beta: (p.exp() * r).mean(-1) - beta * _by_hand(p, ref),
            "Your expected reward is divided by the number of answers (`mean`). The weights π(y) already make an "
            "average: sum.",
        ),
        Misconception(
            "KL detached",
            lambda p, ref, r, beta: (p.exp() * r).sum(-1) - beta * _by_hand(p, ref).detach(),
            "The value is right, but the KL is detached from the policy: a policy trained on it would feel no leash.",
        ),
        Misconception(
            "reward detached",
            lambda p, ref, r, beta: (p.exp().detach() * r).sum(-1) - beta * _by_hand(p, ref),
            "The value is right, but the expected reward is detached from the policy: training would see the leash "
            "alone.",
        ),
        Misconception(
            "all detached",
            lambda p, ref, r, beta: ((p.exp() * r).sum(-1) - beta * _by_hand(p, ref)).detach(),
            "The value is right, but no gradient reaches `log_probs`, so nothing could be trained on it: no "
            "`.detach()`, `.item()`, `.data`, NumPy or `torch.no_grad()`.",
        ),
        Misconception(
            "entropy for KL",
            lambda p, ref, r, beta: (p.exp() * r).sum(-1) - beta * _by_hand(p, torch.zeros_like(p)),
            "Your penalty does not know the reference: Σ π log π is minus the entropy. The leash in (4) needs log "
            "π − log π_ref.",
        ),
        Misconception(
            "the best reward",
            lambda p, ref, r, beta: r.amax(-1) - beta * _by_hand(p, ref),
            "You take the highest reward, whatever the policy says. E_π[r] weights each answer by π(y).",
        ),
    ),
)

# --- 3.3 · the optimal policy ---------------------------------------------------------------------------------------


def _optimum_cases(g: torch.Generator) -> list[Case]:
    def drawn(beta: float, *shape: int, scale: float = 1.0) -> Case:
        return _log_policies(g, *shape), scale * torch.randn(*shape, generator=g, dtype=torch.float64), beta

    reference, rewards, _ = drawn(0.3, 4)
    large = torch.tensor([[1000.0, 999.9, -1000.0], [-1000.0, -1000.1, -999.9]]).double()
    return [
        drawn(0.5, 3),
        drawn(2.0, 2, 4),
        (_never_first(reference), rewards + 1, 0.3),
        (_log_policies(g, 2, 3), large, 0.1),
        drawn(1.0, 3, 3, scale=150.0),
        drawn(0.7, 1, whole(g, 2, 6)),
        drawn(0.05, whole(g, 2, 5), whole(g, 6, 9)),
    ]


def _optimum(weighted: Tensor) -> tuple[Tensor, Tensor]:
    log_z = weighted.logsumexp(-1)
    return weighted - log_z.unsqueeze(-1), log_z


def _by_sum(weights: Tensor, weighted: Tensor) -> tuple[Tensor, Tensor]:
    """log Z from a sum of weights that were taken out of the logarithm."""
    log_z = weights.sum(-1).log()
    return weighted - log_z.unsqueeze(-1), log_z


def _above_top(weighted: Tensor) -> Tensor:
    return (weighted - weighted.amax(-1, keepdim=True)).logsumexp(-1)


def _shifted(weighted: Tensor, by: float) -> tuple[Tensor, Tensor]:
    log_z = weighted.logsumexp(-1) + by
    return weighted - log_z.unsqueeze(-1), log_z


def _unstable_optimum(ref: Tensor, rewards: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    z = (ref.exp() * (rewards / beta).exp()).sum(-1)
    return (ref.exp() * (rewards / beta).exp() / z.unsqueeze(-1)).log(), z.log()


q3 = Question(
    title="3.3 The optimal policy",
    name="optimum",
    reference=objective.optimal_policy,
    cases=_optimum_cases,
    hints=(
        "What becomes of (7) when you take its logarithm? And which function of PyTorch takes the logarithm of a "
        "sum of exponentials without ever forming them?",
        "log π* = log π_ref + r/β − log Z, and log Z is the logarithm of Σ e^(log π_ref + r/β). That is "
        "torch.logsumexp, which takes the largest exponent out first, so that nothing overflows.",
        "Add r/β to log π_ref: that is the logarithm of each term of Z. Its logsumexp over the last axis is log "
        "Z, one number for each row. Subtract it from each entry of its row, and return both.",
        "weighted = ref_log_probs + ...\n"
        "log_z = torch.logsumexp(weighted, dim=-1)\n"
        "return weighted - log_z[...], log_z",
    ),
    misconceptions=(
        Misconception(
            "beta multiplies",
            lambda ref, r, beta: _optimum(ref + r * beta),
            "You multiply the reward by β. (7) has r/β: a small β is a long leash, and the reward then counts more.",
        ),
        Misconception(
            "beta forgotten",
            lambda ref, r, beta: _optimum(ref + r),
            "β is missing. In step 2 of the derivation the reward is divided by β.",
        ),
        Misconception(
            "reference forgotten",
            lambda ref, r, beta: _optimum(r / beta),
            "That is a softmax of r/β: the reference is missing. (7) reweights π_ref; it does not replace it.",
        ),
        Misconception(
            "sign",
            lambda ref, r, beta: _optimum(ref - r / beta),
            "Your policy prefers bad answers: the exponent in (7) is +r/β. Follow the sign from (6) to (8).",
        ),
        Misconception(
            "not normalised",
            lambda ref, r, beta: (ref + r / beta, (ref + r / beta).logsumexp(-1)),
            "log Z is right, but your log π* does not sum to 1: subtract log Z from it, as (8) says.",
        ),
        Misconception(
            "Z for log Z",
            lambda ref, r, beta: (_optimum(ref + r / beta)[0], _optimum(ref + r / beta)[1].exp()),
            "π* is right. The second value should be log Z, and you return Z: (9) needs the logarithm.",
        ),
        Misconception(
            "log Z without the reference",
            lambda ref, r, beta: (_optimum(ref + r / beta)[0], (r / beta).logsumexp(-1)),
            "π* is right, but your log Z leaves π_ref out. In (7), Z = Σ π_ref e^{r/β}: an expectation under the "
            "reference.",
        ),
        Misconception(
            "Z without the reference",
            lambda ref, r, beta: (
                ref + r / beta - (r / beta).logsumexp(-1, keepdim=True),
                (r / beta).logsumexp(-1),
            ),
            "Your Z sums e^{r/β} alone, so that π* does not sum to 1. In (7) each term has its weight: "
            "Z = Σ π_ref e^{r/β}.",
        ),
        Misconception(
            "probabilities for logarithms",
            lambda ref, r, beta: (_optimum(ref + r / beta)[0].exp(), _optimum(ref + r / beta)[1]),
            "You return π* where log π* is wanted: leave out the last exp.",
        ),
        Misconception(
            "overflow",
            _unstable_optimum,
            "Right on paper, (7), but e^{r/β} overflows for large rewards (and e^{−10000} vanishes). Stay with "
            "logarithms: "
            "add log π_ref and r/β, then torch.logsumexp.",
        ),
        Misconception(
            "overflow of the weights",
            lambda ref, r, beta: _by_sum((ref + r / beta).exp(), ref + r / beta),
            "Right on paper, but you take exp of log π_ref + r/β first, and that overflows for large rewards: "
            "torch.logsumexp adds up without leaving the logarithms.",
        ),
        Misconception(
            "logarithm of a softmax",
            lambda ref, r, beta: ((ref + r / beta).softmax(-1).log(), (ref + r / beta).logsumexp(-1)),
            "Your π* is rounded to 0 for improbable answers, and its logarithm is then −inf. Stay with logarithms: "
            "log_softmax, or subtract log Z.",
        ),
        Misconception(
            "maximum not added back",
            lambda ref, r, beta: (_optimum(ref + r / beta)[0], _above_top(ref + r / beta)),
            "π* is right. To avoid the overflow you subtract the largest exponent; add it to log Z again at the end.",
        ),
        Misconception(
            "axis of Z kept",
            lambda ref, r, beta: (_optimum(ref + r / beta)[0], _optimum(ref + r / beta)[1].unsqueeze(-1)),
            "Both values are right, but log Z keeps an axis of length 1 (`keepdim`). Its shape is to be (...), so "
            "squeeze it before you return it.",
        ),
        Misconception(
            "results swapped",
            lambda ref, r, beta: _optimum(ref + r / beta)[::-1],
            "Both values are right, in the wrong order: return (log π*, log Z).",
        ),
        Misconception(
            "only the policy",
            lambda ref, r, beta: _optimum(ref + r / beta)[0],
            "You return log π* alone. The pair (log π*, log Z) is asked for.",
        ),
        Misconception(
            "normalised over the first axis",
            lambda ref, r, beta: ((ref + r / beta).log_softmax(0), (ref + r / beta).logsumexp(0)),
            "You normalise over the first axis, which holds different problems. The answers lie along the last: "
            "dim=-1.",
        ),
        Misconception(
            "probability of the reference added",
            lambda ref, r, beta: _optimum(ref.exp() + r / beta),
            "You add π_ref to r/β. In the logarithm of (7) it is log π_ref, which is the input as it comes.",
        ),
        Misconception(
            "both as numbers, not logarithms",
            lambda ref, r, beta: tuple(x.exp() for x in _optimum(ref + r / beta)),
            "You return π* and Z. Their logarithms are asked for: (log π*, log Z).",
        ),
        Misconception(
            "mean for sum",
            lambda ref, r, beta: _shifted(ref + r / beta, -math.log(ref.shape[-1])),
            "Your Z is a mean over the answers. In (7) it is a sum: the weights π_ref already make an average.",
        ),
        Misconception(
            "log Z with its sign turned",
            lambda ref, r, beta: (_optimum(ref + r / beta)[0], -_optimum(ref + r / beta)[1]),
            "π* is right. Your log Z has the wrong sign: it is the logarithm of the sum itself.",
        ),
        Misconception(
            "log Z added",
            lambda ref, r, beta: (
                ref + r / beta + _optimum(ref + r / beta)[1].unsqueeze(-1),
                _optimum(ref + r / beta)[1],
            ),
            "log Z is right, but you add it to the exponent. (7) divides by Z, so subtract log Z.",
        ),
        Misconception(
            "one Z for all rows",
            lambda ref, r, beta: (
                ref + r / beta - (ref + r / beta).flatten().logsumexp(0),
                (ref + r / beta).flatten().logsumexp(0),
            ),
            "You use one Z for all rows. Each row (each prompt) has its own Z: logsumexp over the last axis only.",
        ),
        Misconception(
            "sum of logarithms",
            lambda ref, r, beta: (
                ref + r / beta - (ref + r / beta).sum(-1, keepdim=True),
                (ref + r / beta).sum(-1),
            ),
            "You add up the logarithms. Z in (7) is a sum of probabilities times weights: take exp first, add, "
            "then log, "
            "which is torch.logsumexp.",
        ),
        Misconception(
            "maximum only",
            lambda ref, r, beta: (
                ref + r / beta - (ref + r / beta).amax(-1, keepdim=True),
                (ref + r / beta).amax(-1),
            ),
            "You divide by the largest term instead of by the sum: then π* does not sum to 1. Z in (7) is the sum.",
        ),
        Misconception(
            "beta scales everything",
            lambda ref, r, beta: _optimum((ref + r) / beta),
            "You divide log π_ref by β too. In (6) only the reward is divided by β; the reference keeps its power 1.",
        ),
        Misconception(
            "beta times log Z",
            lambda ref, r, beta: (_optimum(ref + r / beta)[0], beta * _optimum(ref + r / beta)[1]),
            "π* is right. Your second value is J(π*) = β log Z, equation (10); asked for is log Z.",
        ),
    ),
)

# --- 3.4 · rewards for tokens ---------------------------------------------------------------------------------------


def _token_cases(g: torch.Generator) -> list[tuple[Tensor, Tensor, Tensor, Tensor, float]]:
    def log_probs(*shape: int) -> Tensor:
        return -3 * torch.rand(shape, generator=g)

    def drawn(beta: float, lengths: list[int], width: int) -> tuple[Tensor, Tensor, Tensor, Tensor, float]:
        shape = (len(lengths), width)
        mask = torch.arange(width) < torch.tensor(lengths)[:, None]
        return torch.randn(shape[0], generator=g), log_probs(*shape), log_probs(*shape), mask, beta

    scores, garbage, _, mask, _ = drawn(2.0, [2, 3, 1], 4)
    garbage = garbage.masked_fill(~mask, -torch.inf)
    rows, width = whole(g, 2, 5), whole(g, 5, 9)
    lengths = random_mask(g, rows, width).sum(1).tolist()
    return [
        drawn(0.5, [2, 3], 3),
        drawn(0.1, [1, 3, 2, 2], 5),
        (scores, garbage, garbage * 0.5, mask, 2.0),
        drawn(0.3, [4], 4),
        drawn(0.7, lengths, width),
        (-1 - torch.rand(3, generator=g), *drawn(0.2, [3, 1, 4], 4)[1:]),  # all scores negative
    ]


def _at_last(scores: Tensor, mask: Tensor, shift: int = 0) -> Tensor:
    """(B, T): each row's score at its last real token, `shift` columns later; nothing where that is outside."""
    is_place = torch.arange(mask.shape[1]) == (mask.sum(-1) - 1 + shift)[:, None]
    return is_place * scores[:, None]


def _penalty(p: Tensor, ref: Tensor, mask: Tensor, beta: float) -> Tensor:
    return torch.where(mask, -beta * (p - ref), 0.0)


def _scores_by_column(s: Tensor, p: Tensor, ref: Tensor, mask: Tensor, beta: float) -> Tensor:
    rewards = _penalty(p, ref, mask, beta)
    rewards[:, mask.sum(-1) - 1] += s
    return rewards


def _score_in_last_column(s: Tensor, p: Tensor, ref: Tensor, mask: Tensor, beta: float) -> Tensor:
    rewards = _penalty(p, ref, mask, beta)
    return torch.cat([rewards[:, :-1], rewards[:, -1:] + s[:, None]], dim=1)


q4 = Question(
    title="3.4 Rewards for tokens",
    name="token_rewards",
    reference=ppo.shape_rewards,
    cases=_token_cases,
    hints=(
        "Which tokens pay for the KL, and which single token of a row is paid the score? How do you find its "
        "index from the mask?",
        "All real tokens get −β d_t. The score is added at the last real one, whose index is the number of real "
        "tokens minus 1. Garbage at padding must be replaced, not multiplied by 0: inf · 0 is a nan.",
        "Make the penalty with torch.where: −β (log_probs − ref_log_probs) where the mask is True, else 0. Count "
        "the mask in each row and subtract 1. Compare torch.arange(T) with that, as a column: a (B, T) table with"
        " one True in each row. Add the table times the scores as a column.",
        "rewards = torch.where(mask, ..., 0.0)\n"
        "last = mask.sum(-1) - 1\n"
        "is_last = torch.arange(mask.shape[1]) == ...\n"
        "return rewards + is_last * scores[:, None]",
    ),
    misconceptions=(
        Misconception(
            "KL rewarded",
            lambda s, p, ref, m, beta: -_penalty(p, ref, m, beta) + _at_last(s, m),
            "Your tokens are paid for moving away from the reference. (21) has −β d_t, and d_t is log π − log π_ref.",
        ),
        Misconception(
            "score on every token",
            lambda s, p, ref, m, beta: _penalty(p, ref, m, beta) + m * s[:, None],
            "You give the score to every token, so long answers collect it many times. In (21) only the last token "
            "gets it.",
        ),
        Misconception(
            "score in the last column",
            _score_in_last_column,
            "You put the score into the last column, which is padding in short rows. The last *real* token of a row "
            "has index mask.sum(-1) − 1.",
        ),
        Misconception(
            "score in the last column of full rows",
            lambda s, p, ref, m, beta: (
                _penalty(p, ref, m, beta) + (torch.arange(m.shape[1]) == m.shape[1] - 1) * (s[:, None] * m)
            ),
            "Only rows without padding get their score: you put it into the last column, and the mask removes it "
            "elsewhere. The last *real* token of a row has index mask.sum(-1) − 1.",
        ),
        Misconception(
            "length of the first row",
            lambda s, p, ref, m, beta: (
                _penalty(p, ref, m, beta) + (torch.arange(m.shape[1]) == m[0].sum() - 1) * s[:, None]
            ),
            "You use the length of the first row for all. Each row has its own last real token, index mask.sum(-1) − "
            "1.",
        ),
        Misconception(
            "length of the longest row",
            lambda s, p, ref, m, beta: (
                _penalty(p, ref, m, beta) + (torch.arange(m.shape[1]) == m.sum(-1).max() - 1) * s[:, None]
            ),
            "You use the length of the longest row for all. Each row has its own last real token, index mask.sum(-1) − "
            "1.",
        ),
        Misconception(
            "columns without rows",
            _scores_by_column,
            "`rewards[:, last]` chooses these columns in *every* row. Name the row of each column as well: "
            "rewards[torch.arange(B), last].",
        ),
        Misconception(
            "score one late",
            lambda s, p, ref, m, beta: _penalty(p, ref, m, beta) + _at_last(s, m, 1),
            "Your score stands one place late, after the last real token: the index is mask.sum(-1) − 1, as "
            "counting begins at 0.",
        ),
        Misconception(
            "score one late, kept inside",
            lambda s, p, ref, m, beta: (
                _penalty(p, ref, m, beta)
                + (torch.arange(m.shape[1]) == m.sum(-1).clamp(max=m.shape[1] - 1)[:, None]) * s[:, None]
            ),
            "Your score stands one place late where there is room: the index is mask.sum(-1) − 1, as counting begins "
            "at 0.",
        ),
        Misconception(
            "score divided by the length",
            lambda s, p, ref, m, beta: _penalty(p, ref, m, beta) + _at_last(s / m.sum(-1), m),
            "You divide the score by the length of the answer. In (21) the last token gets r(y) as it is.",
        ),
        Misconception(
            "score subtracted",
            lambda s, p, ref, m, beta: _penalty(p, ref, m, beta) - _at_last(s, m),
            "You subtract the score. In (21) it is added: a good answer has a positive score.",
        ),
        Misconception(
            "no score",
            lambda s, p, ref, m, beta: _penalty(p, ref, m, beta),
            "The score is missing: (21) adds r(y) at the last real token.",
        ),
        Misconception(
            "no penalty",
            lambda s, p, ref, m, beta: _at_last(s, m),
            "The penalty is missing: in (21) every real token gets −β d_t.",
        ),
        Misconception(
            "penalty divided by beta",
            lambda s, p, ref, m, beta: _penalty(p, ref, m, 1 / beta) + _at_last(s, m),
            "You divide by β. In (21) it multiplies the log-ratio: it is the price of a nat.",
        ),
        Misconception(
            "k2 for the log-ratio",
            lambda s, p, ref, m, beta: torch.where(m, -beta * (p - ref) ** 2 / 2, 0.0) + _at_last(s, m),
            "You charge d_t²/2. (21) charges the log-ratio d_t itself; only then is the sum in (22) the KL.",
        ),
        Misconception(
            "k3 for the log-ratio",
            lambda s, p, ref, m, beta: torch.where(m, -beta * ((ref - p).exp() - 1 + p - ref), 0.0) + _at_last(s, m),
            "You charge e^{−d_t} − 1 + d_t (k3 of section 9). (21) charges the log-ratio d_t itself.",
        ),
        Misconception(
            "probabilities for logarithms",
            lambda s, p, ref, m, beta: torch.where(m, -beta * (p.exp() - ref.exp()), 0.0) + _at_last(s, m),
            "You subtract probabilities. d_t in (19) is the difference of the log-probabilities, which are the inputs.",
        ),
        Misconception(
            "penalty without the reference",
            lambda s, p, ref, m, beta: torch.where(m, -beta * p, 0.0) + _at_last(s, m),
            "Your penalty does not know the reference. d_t in (19) is log π − log π_ref.",
        ),
        Misconception(
            "later log-ratios added",
            lambda s, p, ref, m, beta: _penalty(p, ref, m, beta).flip(1).cumsum(1).flip(1) + _at_last(s, m),
            "You add up the penalties of later tokens. That is the reward-to-go of notebook 04; in (21) each token "
            "pays its own d_t.",
        ),
        Misconception(
            "earlier log-ratios added",
            lambda s, p, ref, m, beta: torch.where(m, _penalty(p, ref, m, beta).cumsum(1), 0.0) + _at_last(s, m),
            "You add up the penalties so far. In (21) each token pays its own d_t; the sum (19) comes later.",
        ),
        Misconception(
            "penalty averaged",
            lambda s, p, ref, m, beta: _penalty(p, ref, m, beta) / m.sum(-1, keepdim=True) + _at_last(s, m),
            "You divide the penalties by the length of the answer. (21) does not: the KL of an answer is a sum over "
            "tokens.",
        ),
        Misconception(
            "summed",
            lambda s, p, ref, m, beta: (_penalty(p, ref, m, beta) + _at_last(s, m)).sum(-1),
            "You add up the rewards of each answer. Return one for each token, of shape (B, T); the sum is (22).",
        ),
        Misconception(
            "score one early",
            lambda s, p, ref, m, beta: _penalty(p, ref, m, beta) + _at_last(s, m, -1),
            "Your score stands one place early. In (21) it belongs to the last real token, index mask.sum(-1) − 1.",
        ),
        Misconception(
            "score at the start",
            lambda s, p, ref, m, beta: torch.cat(
                [_penalty(p, ref, m, beta)[:, :1] + s[:, None], _penalty(p, ref, m, beta)[:, 1:]], dim=1
            ),
            "You gave the score to the first token. The answer is judged when it is complete: at its last real token.",
        ),
        Misconception(
            "score replaces the penalty",
            lambda s, p, ref, m, beta: torch.where(
                torch.arange(m.shape[1]) == m.sum(-1)[:, None] - 1, s[:, None], _penalty(p, ref, m, beta)
            ),
            "At the last token you put the score in place of the penalty. (21) adds it: that token pays for its KL "
            "too.",
        ),
        Misconception(
            "beta forgotten",
            lambda s, p, ref, m, beta: _penalty(p, ref, m, 1.0) + _at_last(s, m),
            "β is missing before the log-ratio in (21): without it, nats are taken for reward units.",
        ),
        Misconception(
            "beta on the score",
            lambda s, p, ref, m, beta: _penalty(p, ref, m, beta) + beta * _at_last(s, m),
            "You multiply the score by β as well. In (21) β belongs to the log-ratio only.",
        ),
        Misconception(
            "padding multiplied away",
            lambda s, p, ref, m, beta: -beta * (p - ref) * m + _at_last(s, m),
            "Multiplying by the mask does not remove inf or nan at padding: 0 · inf is nan. Choose with torch.where.",
        ),
        Misconception(
            "padding paid",
            lambda s, p, ref, m, beta: -beta * (p - ref) + _at_last(s, m),
            "Padding gets a reward. Those tokens do not exist: put 0 where the mask is False.",
        ),
        Misconception(
            "clamped",
            lambda s, p, ref, m, beta: -_penalty(p, ref, m, beta).neg().clamp_min(0) + _at_last(s, m),
            "You clamp the log-ratio at 0. A single d_t may be negative; without these values the mean in (22) is "
            "no longer "
            "the KL.",
        ),
        Misconception(
            "absolute value",
            lambda s, p, ref, m, beta: -_penalty(p, ref, m, beta).abs() + _at_last(s, m),
            "You take the absolute log-ratio. A single d_t may be negative, and must stay so: only then is the "
            "mean in (22) "
            "the KL.",
        ),
        Misconception(
            "ratio for its logarithm",
            lambda s, p, ref, m, beta: torch.where(m, -beta * (p - ref).exp(), 0.0) + _at_last(s, m),
            "You use the ratio π/π_ref. d_t in (19) is its logarithm: the difference of the log-probabilities, "
            "without exp.",
        ),
        Misconception(
            "whole KL on every token",
            lambda s, p, ref, m, beta: (
                torch.where(m, _penalty(p, ref, m, beta).sum(-1, keepdim=True), 0.0) + _at_last(s, m)
            ),
            "Each token pays for the KL of the whole answer. In (21) each pays its own d_t; the sum (19) comes later.",
        ),
        Misconception(
            "whole KL at the end",
            lambda s, p, ref, m, beta: _at_last(s + _penalty(p, ref, m, beta).sum(-1), m),
            "You charge the whole KL at the last token. The sum is right, but (21) charges each token where it is "
            "written: "
            "so PPO knows which token was expensive.",
        ),
    ),
)

# --- 3.5 · estimators -----------------------------------------------------------------------------------------------


def _sampled_log_probs(g: torch.Generator) -> list[tuple[Tensor, Tensor]]:
    def log_probs(*shape: int) -> Tensor:
        return -3 * torch.rand(shape, generator=g, dtype=torch.float64)

    def drawn(*shape: int) -> tuple[Tensor, Tensor]:
        return log_probs(*shape), log_probs(*shape)

    far = (log_probs(3) - 6, log_probs(3))
    return [drawn(3), drawn(2, 3), drawn(), far, drawn(1), drawn(whole(g, 2, 5), whole(g, 2, 5)), drawn(2, 1, 3)]


def _three(d: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return d, d**2 / 2, (-d).exp() - 1 + d


def _with(index: int, value: Tensor, d: Tensor) -> tuple[Tensor, ...]:
    """The three estimators of log-ratio d, with one of them replaced."""
    right = _three(d)
    return (*right[:index], value, *right[index + 1 :])


q5 = Question(
    title="3.5 Three estimators",
    name="estimators",
    reference=objective.kl_estimators,
    cases=_sampled_log_probs,
    grad_args=(0,),
    hints=(
        "All three are functions of one number for each sample. Which one, and with which sign?",
        "With d = log π − log π_ref, u = π_ref/π is e^(−d). So k1 = −log u = d, and k3 = u − 1 − log u is a "
        "function of d as well.",
        "Compute d. k1 is d itself, k2 is half its square, and k3 is e^(−d) minus 1 plus d. Return the three as a"
        " tuple, neither summed nor averaged nor detached.",
        "d = ...\nreturn d, 0.5 * d**2, torch.exp(...) - 1 + d",
    ),
    misconceptions=(
        Misconception(
            "all upside down",
            lambda p, ref: _three(ref - p),
            "Your log-ratio is reference over policy. In (23), k1 = −log u = log π − log π_ref.",
        ),
        Misconception(
            "k1 sign",
            lambda p, ref: _with(0, ref - p, p - ref),
            "k1 has the wrong sign. With u = π_ref/π it is −log u, so log π − log π_ref: check (23).",
        ),
        Misconception(
            "k3 upside down",
            lambda p, ref: _with(2, (p - ref).exp() - 1 - (p - ref), p - ref),
            "Your k3 takes u upside down. In (24) u is reference over policy, e^{−d}. With π/π_ref, (25) fails: "
            "the mean of "
            "u − 1 under π is no longer 0.",
        ),
        Misconception(
            "k3 half upside down",
            lambda p, ref: _with(2, (p - ref).exp() - 1 + (p - ref), p - ref),
            "In your k3 the exponent has the wrong sign: u = π_ref/π = e^{−d}, see (23) and (24).",
        ),
        Misconception(
            "k3 last sign",
            lambda p, ref: _with(2, (ref - p).exp() - 1 - (p - ref), p - ref),
            "The last term of your k3 has the wrong sign: −log u = +d. Look at (24) again; k3 must never be negative.",
        ),
        Misconception(
            "control variate only",
            lambda p, ref: _with(2, (ref - p).exp() - 1, p - ref),
            "Your k3 is only u − 1, whose mean is 0 by (25). Add k1 to it: u − 1 − log u.",
        ),
        Misconception(
            "k3 without minus one",
            lambda p, ref: _with(2, (ref - p).exp() + (p - ref), p - ref),
            "The −1 is missing in your k3. Without it the mean of the added term is 1 and not 0, see (25).",
        ),
        Misconception(
            "k2 without the half",
            lambda p, ref: _with(1, (p - ref) ** 2, p - ref),
            "k2 lacks the factor ½: for small d it must agree with k3, whose series begins with d²/2.",
        ),
        Misconception(
            "k2 not squared",
            lambda p, ref: _with(1, (p - ref) / 2, p - ref),
            "Your k2 is d/2. (24) has the square: ½ d².",
        ),
        Misconception(
            "k2 of u − 1",
            lambda p, ref: _with(1, ((ref - p).exp() - 1) ** 2 / 2, p - ref),
            "Your k2 is ½ (u − 1)². (24) has the logarithm: ½ (log u)² = ½ d².",
        ),
        Misconception(
            "k2 and k3 exchanged",
            lambda p, ref: (_three(p - ref)[0], *_three(p - ref)[:0:-1]),
            "k2 and k3 are right but exchanged: return (k1, k2, k3).",
        ),
        Misconception(
            "order turned round",
            lambda p, ref: _three(p - ref)[::-1],
            "All three are right, in the wrong order: return (k1, k2, k3).",
        ),
        Misconception(
            "k1 in bits",
            lambda p, ref: _with(0, (p - ref) / math.log(2), p - ref),
            "Your k1 is in bits (base 2). All logarithms here are natural, so (23) needs no factor.",
        ),
        Misconception(
            "all in bits",
            lambda p, ref: _three((p - ref) / math.log(2)),
            "Your log-ratio is in bits (base 2). All logarithms here are natural: d = log π − log π_ref as it comes.",
        ),
        Misconception(
            "quotient of logarithms",
            lambda p, ref: _three(-(ref / p).log()),
            "You divide log-probabilities. u in (23) is a ratio of probabilities: log u = log π_ref − log π.",
        ),
        Misconception(
            "ratio for k1",
            lambda p, ref: _with(0, (p - ref).exp(), p - ref),
            "Your k1 is the ratio. (23) has its logarithm: the difference of the log-probabilities.",
        ),
        Misconception(
            "k3 with its sign turned",
            lambda p, ref: _with(2, 1 - (ref - p).exp() - (p - ref), p - ref),
            "Your k3 has the wrong sign as a whole: u − 1 − log u is never negative, by (2).",
        ),
        Misconception(
            "k3 of order two",
            lambda p, ref: _with(2, (p - ref) ** 2 / 2, p - ref),
            "Your k3 is k2. They agree only for small d: (24) has k3 = u − 1 − log u.",
        ),
        Misconception(
            "k3 is k1",
            lambda p, ref: _with(2, p - ref, p - ref),
            "Your k3 is k1. Both have the KL as their mean, but (24) has k3 = u − 1 − log u.",
        ),
        Misconception(
            "k3 clamped",
            lambda p, ref: _with(2, (p - ref).clamp_min(0), p - ref),
            "Your k3 is k1, cut at 0. (24) has k3 = u − 1 − log u, which is never negative by itself.",
        ),
        Misconception(
            "two only",
            lambda p, ref: _three(p - ref)[:2],
            "You return two values. Three are asked for: (k1, k2, k3).",
        ),
        Misconception(
            "summed",
            lambda p, ref: tuple(k.sum() for k in _three(p - ref)),
            "You added up the samples. Return one value for each sample, in the shape of the input.",
        ),
        Misconception(
            "detached",
            lambda p, ref: _three((p - ref).detach()),
            "The values are right, but no gradient reaches `log_probs`, so none could be used as a loss: no "
            "`.detach()`, `.item()`, `.data`, NumPy or `torch.no_grad()`.",
        ),
        Misconception(
            "k2 of d halved",
            lambda p, ref: _with(1, ((p - ref) / 2) ** 2, p - ref),
            "In your k2 the half is inside the square. (24) has ½ d².",
        ),
        Misconception(
            "ratio for its logarithm",
            lambda p, ref: _three(p.exp() - ref.exp()),
            "Your d is a difference of probabilities. In (19) it is the difference of log-probabilities.",
        ),
        Misconception(
            "weighted",
            lambda p, ref: tuple(p.exp() * k for k in _three(p - ref)),
            "You multiply by π(y). Samples from π carry that weight already: likely answers simply occur more often.",
        ),
        Misconception(
            "clamped",
            lambda p, ref: _with(0, (p - ref).clamp_min(0), p - ref),
            "You clamp k1 at 0. A single k1 may be negative; clamped, its mean is no longer the KL.",
        ),
        Misconception(
            "absolute value",
            lambda p, ref: _with(0, (p - ref).abs(), p - ref),
            "You take the absolute value of k1. Its negative values are needed: without them the mean is too large.",
        ),
        Misconception(
            "averaged",
            lambda p, ref: tuple(k.mean() for k in _three(p - ref)),
            "You averaged. Return one value a sample, in the shape of the input: the average and its spread come "
            "later.",
        ),
    ),
)

# --- 3.6 · which gradient? ------------------------------------------------------------------------------------------


def _letters(k1: str, k2: str, k3: str) -> dict[str, str]:
    return {"k1": k1, "k2": k2, "k3": k3}


_WHY = {
    "k1": "∇k1 = ∇ log π, and its mean is in (26).",
    "k2": "∇k2 = d ∇ log π: compare its mean with (27).",
    "k3": "∇k3 = (1 − u) ∇ log π: the 1 averages out by (26), and for −u ∇ log π see (28).",
}
_MEANS = {
    "A": "has mean zero",
    "B": "has the mean ∇KL(π ‖ π_ref)",
    "C": "has the mean ∇KL(π_ref ‖ π)",
}


def _entry_by_entry(right: dict[str, str], named: tuple[Misconception, ...]) -> tuple[Misconception, ...]:
    """The named misconceptions, and for each other choice of letters what is wrong with each of its letters."""
    told = [wrong.answer for wrong in named]
    choices = [dict(zip(right, letters, strict=True)) for letters in itertools.product("ABC", repeat=3)]
    others = []
    for choice in choices:
        if choice == right or choice in told:
            continue
        wrong = [k for k in right if choice[k] != right[k]]
        claims = ", ".join(f"∇{k} {_MEANS[choice[k]]}" for k in wrong)
        text = f"You say that {claims}. That is not so. {' '.join(_WHY[k] for k in wrong)}"
        others.append(Misconception("".join(choice.values()), choice, text))
    return (*named, *others)


q6 = Question(
    title="3.6 Which gradient?",
    value=_letters("A", "B", "C"),
    hints=(
        "What is ∇d, when the reference is frozen? Then use the chain rule on each of the three.",
        "∇k1 = ∇d = ∇ log π, whose mean is in (26). And ∇ ½d² = d ∇d: which of (27) and (28) is its mean?",
        "∇k3 = (1 − e^(−d)) ∇ log π. The first part has mean zero by (26). For the second, e^(−d) = u: compare "
        "with (28).",
    ),
    misconceptions=_entry_by_entry(
        _letters("A", "B", "C"),
        (
            Misconception(
                "same value, same gradient",
                _letters("B", "B", "B"),
                "You gave B to all three: the gradient of the KL. But autograd computes E[∇k], not ∇E[k], since the "
                "samples "
                "depend on θ too. Differentiate each k by itself.",
            ),
            Misconception(
                "unbiased value, right gradient",
                _letters("B", "A", "B"),
                "You gave the right gradient to the estimators without bias. Value and gradient are different "
                "questions: for k1, "
                "E[∇k1] = E[∇ log π], and (26) says what that is.",
            ),
            Misconception(
                "k1 is the KL",
                _letters("B", "B", "C"),
                "k2 and k3 are right. For k1: its mean is the KL, but the mean of its gradient is E[∇ log π]. See "
                "(26).",
            ),
            Misconception(
                "k1 swapped with k3",
                _letters("C", "B", "A"),
                "k2 is right. ∇k1 = ∇ log π has mean zero by (26); ∇k3 = (1 − u) ∇ log π leaves the term −E[u ∇ log "
                "π]: see (28).",
            ),
            Misconception(
                "k2 swapped with k3",
                _letters("A", "C", "B"),
                "k1 is right. k2's gradient is d ∇ log π: compare with (27). k3's is (1 − u) ∇ log π: compare with "
                "(28).",
            ),
            Misconception(
                "k3 is unbiased",
                _letters("A", "B", "B"),
                "k1 and k2 are right. k3 has the right value, but ∇k3 = (1 − e^{−d}) ∇ log π. Its mean is −E[u ∇ log "
                "π], which is "
                "(28) and not (27).",
            ),
            Misconception(
                "k3 has none",
                _letters("A", "B", "A"),
                "k1 and k2 are right. In ∇k3 = (1 − u) ∇ log π only the 1 averages out by (26); −u ∇ log π stays: see "
                "(28).",
            ),
            Misconception(
                "biased value, no gradient",
                _letters("A", "A", "C"),
                "k1 and k3 are right. k2 has a biased value, yet its gradient is d ∇ log π: look at (27).",
            ),
            Misconception(
                "k2 the other way",
                _letters("A", "C", "C"),
                "k1 and k3 are right. For k2 the chain rule gives d ∇ log π, with d and not u: that is (27).",
            ),
            Misconception(
                "only k1 works",
                _letters("B", "A", "C"),
                "k3 is right. k1's value is the log-ratio, but ∇k1 = ∇ log π, whose mean is in (26). And ∇k2 = d ∇ log "
                "π is not zero: "
                "see (27).",
            ),
        ),
    ),
)

# --- predictions ----------------------------------------------------------------------------------------------------

p1 = Prediction(
    "After 30 steps of reward and nothing else, what does the policy write?",
    (
        "many different polite sentences.",
        "what the reference liked best, only a little more often.",
        "nearly always the same sentence, and people do not like it.",
    ),
    answer=2,
    meanings=(
        "That would need a reason to keep several answers. E_π[r] has none: moving probability to the "
        "best-scored answer always raises it.",
        "That would need something that ties the policy to the reference. In this objective nothing does.",
        "The largest E_π[r] is the largest single r, and the reward model's largest r is a mistake.",
    ),
)
p2 = Prediction(
    "Which one-hump policy has the smallest KL(π ‖ π_ref) to a reference with two humps?",
    ("a wide one over both humps.", "a narrow one on one of the humps.", "a narrow one in the middle."),
    answer=1,
    meanings=(
        "It puts probability into the gap, where log π_ref is very low, and pays for that. It is the best choice for "
        "the other order, KL(π_ref ‖ π).",
        "Saying what the reference never says costs most. Leaving out the other hump costs only about log(1/0.55) = "
        "0.6 nats.",
        "All of it would lie in the gap, where log π − log π_ref is largest: the worst of the three.",
    ),
)
p3 = Prediction(
    "Which policy do 60 steps of gradient ascent on J reach?",
    ("the hack again.", "one that still writes many sentences, close to π*.", "the reference."),
    answer=1,
    meanings=(
        "That is the maximum of E_π[r]. J has another one: at β = 0.2 the hack pays more in KL than it earns.",
        "J has its only maximum at π*, and by (11) a gap in J is a distance to π*.",
        "Then the leash would have to be endlessly short. At β = 0.2 a nat costs 0.2 reward units, and many sentences "
        "earn more.",
    ),
)
p4 = Prediction(
    "As β → 0, what happens to “! ! ! ! !” (π_ref = 0.02, r = 2) and to the poem (π_ref = 0, r = 3)?",
    ("the poem goes to 1.", "both stay small.", "“! ! ! ! !” goes to 1, the poem stays at 0."),
    answer=2,
    meanings=(
        "(7) multiplies π_ref by e^{r/β}: zero times any weight is zero.",
        "By (12), an advantage in reward multiplies the odds by e^{advantage/β}: a factor without limit, against which "
        "a small π_ref does not help.",
        "The best answer that the reference can give takes everything.",
    ),
)
p5 = Prediction(
    "Where will best-of-16 lie in the (KL, reward) plane?",
    ("just below the frontier.", "far below the frontier.", "above the frontier."),
    answer=0,
    meanings=(
        "Nothing lies above, by (13); and favouring answers by their rank is nearly as good a way to spend nats as "
        "e^{r/β}.",
        "Then choosing by rank would waste nats. It moves probability to high rewards only, as π* does.",
        "(13) holds for every policy, and best-of-n is one: equation (16) gives its probabilities.",
    ),
)
p6 = Prediction(
    "Where is k3 less noisy than k1?",
    ("everywhere.", "nowhere.", "close to the reference; far away it is the noisier one."),
    answer=2,
    meanings=(
        "A control variate helps while it cancels the noise. Far away u − 1 is large for rare answers, and adds noise.",
        "Near the reference u − 1 is close to −d, so it cancels nearly all of k1: what is left is d²/2.",
        "Near the reference k3 ≈ d²/2 is tiny while k1 = d is not; far away u − 1 no longer cancels the noise of k1.",
    ),
)
p7 = Prediction(
    "What does the exact KL do when k1 is the loss?",
    ("it does not come down.", "it falls like the others.", "it becomes negative."),
    answer=0,
    meanings=(
        "The expected gradient of k1 is zero, by (26): what is left is noise.",
        "Then the mean of ∇k1 would have to be ∇KL. It is E[∇ log π] = 0: autograd does not see that the samples move.",
        "A single k1 may be negative. The KL itself never is, by (3).",
    ),
)
