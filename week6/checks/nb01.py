"""Questions of notebook 01, Bradley–Terry: from comparisons to rewards."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from week6 import preferences
from week6.checks.bench_01 import TOP_GAP as TOP_GAP
from week6.checks.capstone_01 import capstone as capstone
from week6.checks.cases import whole
from week6.checks.engine import Misconception, Prediction, Question


def likelihood_gradient(wins: Float[Tensor, "K K"], rewards: Float[Tensor, " K"]) -> Float[Tensor, " K"]:
    """Gradient of the log-likelihood of a table of comparisons; `wins[i, j]` counts i beating j.

    ∂ℓ/∂r_i = Σ_j [ c_ij − n_ij σ(r_i − r_j) ]      with n_ij = c_ij + c_ji the number of times the pair was compared

    The actual wins of i minus the wins that the rewards expect (Zermelo 1929; Ford 1957).
    """
    compared = wins + wins.T
    expected = compared * torch.sigmoid(rewards[:, None] - rewards[None, :])
    return (wins - expected).sum(dim=1)


def fit_strengths(wins: Float[Tensor, "K K"], steps: int = 500) -> Float[Tensor, " K"]:
    """Rewards that maximise the likelihood of the table `wins`, by gradient ascent from zero.

    The step is one over the largest curvature that can occur, so that no step overshoots. The gradient sums to 0
    over the answers, therefore the rewards do too. Assumes that a finite maximum exists.
    """
    step_size = 2 / (wins + wins.T).sum(dim=1).max()
    rewards = torch.zeros(len(wins))
    for _ in range(steps):
        rewards = rewards + step_size * likelihood_gradient(wins, rewards)
    return rewards


# --- 1 · preference probability -------------------------------------------------------------------------------------


def _two_rewards(g: torch.Generator) -> list[tuple[Tensor, Tensor]]:
    return [
        tuple(2 * torch.randn(2, whole(g, 4, 9), generator=g)),
        tuple(4 * torch.randn(2, whole(g, 2, 4), whole(g, 5, 7), generator=g)),
        (2 * torch.randn((), generator=g), torch.randn((), generator=g)),
        (torch.tensor([1000.0, -1000.0, 1001.0]), torch.tensor([0.5, 3.0, 1000.0])),
    ]


def _over_global_maximum(a: Tensor, b: Tensor) -> Tensor:
    top = torch.maximum(a.max(), b.max())
    return (a - top).exp() / ((a - top).exp() + (b - top).exp())


q1 = Question(
    title="1.1 Preference probability",
    reference=preferences.preference_probability,
    cases=_two_rewards,
    hints=(
        "Equation (3) has three forms. Which of them never computes the exponential of a reward?",
        "Only the difference matters: p = σ(r_a − r_b). exp(1000) overflows, and σ(1000) is simply 1.",
        "Take the difference, a minus b, and put it into PyTorch's logistic function. It works entry by entry, so the "
        "shape takes care of itself.",
        "difference = ...\nreturn torch.sigmoid(difference)",
    ),
    misconceptions=(
        Misconception(
            "swapped",
            lambda a, b: torch.sigmoid(b - a),
            "You computed the probability that b wins. Look at step 1 of the derivation: a wins when "
            "r_a + g_a is the larger, so r_a enters with the plus sign.",
        ),
        Misconception(
            "rewards as weights",
            lambda a, b: a / (a + b),
            "You divided the rewards themselves. Rewards live on the log scale and may be negative: step 5 has the "
            "ratio of exp(r), not of r.",
        ),
        Misconception(
            "overflow",
            lambda a, b: a.exp() / (a.exp() + b.exp()),
            "Right on paper (step 5), but exp(1000) is inf in floating point and inf / inf is nan. "
            "Use the form that needs only the difference of the two rewards.",
        ),
        Misconception(
            "no noise",
            lambda a, b: (a > b).float(),
            "Your annotator never errs: the better answer wins every time. The noise g of step 1 is what turns a "
            "comparison into a probability between 0 and 1.",
        ),
        Misconception(
            "odds",
            lambda a, b: (a - b).exp(),
            "exp(r_a − r_b) are the odds, p / (1 − p). The probability is odds / (1 + odds).",
        ),
        Misconception(
            "log-probability",
            lambda a, b: F.logsigmoid(a - b),
            "You returned log p. This exercise asks for the probability itself; the log comes with the loss, in 1.3.",
        ),
        Misconception(
            "normal noise",
            lambda a, b: torch.special.ndtr((a - b) / math.sqrt(2)),
            "You used bell-shaped noise (Thurstone's model, 1927). Step 2 takes Gumbel noise, and the integral then "
            "ends in the logistic function, not in the normal one.",
        ),
        Misconception(
            "each reward alone",
            lambda a, b: torch.sigmoid(a) / (torch.sigmoid(a) + torch.sigmoid(b)),
            "You squashed each reward on its own. Then adding 1 to both rewards changes the result; by step 5 only the "
            "difference may matter, so subtract first and squash once.",
        ),
        Misconception(
            "softmax over the pairs",
            lambda a, b: torch.stack([a, b]).softmax(-1)[0],
            "Your softmax runs along the pairs, so that all of them share one probability mass. In step 5 only the two "
            "answers of one pair compete: each pair has a sum of its own.",
        ),
        Misconception(
            "softmax over the first axis",
            lambda a, b: torch.stack([a, b], -1).softmax(0)[..., 0],
            "Your softmax runs along the first axis, that is over different pairs. In step 5 the sum is over a and b, "
            "the two answers of one pair: that is the axis on which you stacked them.",
        ),
        Misconception(
            "overflow of the odds",
            lambda a, b: (a - b).exp() / (1 + (a - b).exp()),
            "Right on paper (odds / (1 + odds)), but exp(1000) is inf in floating point and inf / inf is nan. There "
            "is a "
            "function for σ that does not overflow.",
        ),
        Misconception(
            "normal noise of one",
            lambda a, b: torch.special.ndtr(a - b),
            "You used the bell curve. Step 2 takes Gumbel noise, and the integral then ends in the logistic function, "
            "not in the normal one.",
        ),
        Misconception(
            "twice too steep",
            lambda a, b: torch.sigmoid(2 * (a - b)),
            "Your curve is twice too steep: that is σ(2(r_a − r_b)), or (1 + tanh(r_a − r_b)) / 2. One unit of reward "
            "multiplies the odds by e, not by e².",
        ),
        Misconception(
            "half as steep",
            lambda a, b: torch.sigmoid((a - b) / 2),
            "Your curve is half as steep as (3): the difference of the rewards enters as it is, not divided by 2.",
        ),
        Misconception(
            "Elo points",
            lambda a, b: 1 / (1 + 10 ** ((b - a) / 400)),
            "That is Elo's formula, with base 10 and 400 points. Rewards are natural log-odds: (3) has e, and divides "
            "by "
            "nothing.",
        ),
        Misconception(
            "base 2",
            lambda a, b: torch.sigmoid((a - b) * math.log(2)),
            "You used powers of 2. One unit of reward multiplies the odds by e: (3) has exp.",
        ),
        Misconception(
            "base 10",
            lambda a, b: torch.sigmoid((a - b) * math.log(10)),
            "You used powers of 10. One unit of reward multiplies the odds by e: (3) has exp.",
        ),
        Misconception(
            "mean over the pairs",
            lambda a, b: torch.sigmoid(a - b).mean(),
            "You averaged over the pairs. Each pair has a probability of its own: the result has the shape of the "
            "inputs.",
        ),
        Misconception(
            "only a",
            lambda a, b: torch.sigmoid(a),
            "You used the reward of a alone. What counts in (3) is how far it lies above the reward of b.",
        ),
        Misconception(
            "only b",
            lambda a, b: torch.sigmoid(b),
            "You used the reward of b alone. What counts in (3) is how far the reward of a lies above it.",
        ),
        Misconception(
            "sum in place of the difference",
            lambda a, b: torch.sigmoid(a + b),
            "You added the rewards. By (4) the same constant on both may change nothing: (3) has their difference.",
        ),
        Misconception(
            "size of the difference",
            lambda a, b: torch.sigmoid((a - b).abs()),
            "You took the size of the difference: the probability of the better answer, not of a. It must be below ½ "
            "where a is the worse one.",
        ),
        Misconception(
            "quotient",
            lambda a, b: torch.sigmoid(a / b),
            "You divided the rewards. (3) subtracts them: it is the exponentials that are divided.",
        ),
        Misconception(
            "two independent verdicts",
            lambda a, b: torch.sigmoid(a) * torch.sigmoid(-b),
            "You multiplied 'a is good' by 'b is bad'. The person makes one choice between the two: σ of one "
            "difference.",
        ),
        Misconception(
            "difference of two probabilities",
            lambda a, b: torch.sigmoid(a) - torch.sigmoid(b),
            "You subtracted after σ. Subtract the rewards first, then apply σ once: otherwise the result may be "
            "negative.",
        ),
        Misconception(
            "the difference itself",
            lambda a, b: a - b,
            "That is the log-odds, r_a − r_b. The probability is σ of it.",
        ),
        Misconception(
            "one maximum for all pairs",
            lambda a, b: _over_global_maximum(a, b),
            "You subtracted one maximum for all pairs before exp. For pairs far below it both exponentials are 0, and "
            "0 / 0 "
            "is nan. Subtract within each pair, or use σ of the difference.",
        ),
        *(
            Misconception(
                f"difference cut off at {limit:g}",
                lambda a, b, limit=limit: torch.sigmoid((a - b).clamp(-limit, limit)),
                f"You cut the difference off at ±{limit:g}. Then a pair that is further apart gets the wrong "
                f"probability. "
                "torch.sigmoid needs no such limit.",
            )
            for limit in (1.0, 2.0, 3.0, 5.0)
        ),
        Misconception(
            "softmax over the differences",
            lambda a, b: (a - b).softmax(-1),
            "You let the pairs compete with each other: a softmax over the last axis. Each pair has a probability of "
            "its own, σ of its difference.",
        ),
    ),
)

# --- 2 · rankings ---------------------------------------------------------------------------------------------------


def _rankings(g: torch.Generator) -> list[tuple[Tensor]]:
    return [
        (2 * torch.randn(whole(g, 4, 6), generator=g),),
        (torch.randn(3, 2, generator=g),),
        (3 * torch.randn(2, whole(g, 3, 4), whole(g, 5, 7), generator=g),),
        (torch.tensor([[1000.0, 1.0, -1000.0], [-1000.0, 2.0, 1000.0]]),),
    ]


def _sum_of_log_odds_of_pairs(rewards: Tensor) -> Tensor:
    difference = F.logsigmoid(rewards[..., :, None] - rewards[..., None, :])
    return torch.triu(difference, 1).sum((-2, -1))


def _without_the_chosen(rewards: Tensor) -> Tensor:
    places = range(rewards.shape[-1] - 1)
    return torch.stack([rewards[..., k] - rewards[..., k + 1 :].logsumexp(-1) for k in places], -1).sum(-1)


q2 = Question(
    title="1.2 Log-probability of a ranking",
    reference=preferences.plackett_luce_log_prob,
    cases=_rankings,
    hints=(
        "Who can still be chosen for place k, when the places before it are taken?",
        "Every place is a softmax choice among those who are left: log p = Σ_k [ r_k − log Σ_{j ≥ k} exp(r_j) ], "
        "equation (8).",
        "Go through the places k. Those left are rewards[..., k:]. Subtract the log of the sum of their exponentials, "
        "by `logsumexp` so that 1000 does not overflow, from the reward in place k; add up over k.",
        "total = torch.zeros(rewards.shape[:-1], dtype=rewards.dtype)\n"
        "for k in range(rewards.shape[-1]):\n"
        "    left = rewards[..., k:]\n"
        "    total = total + rewards[..., k] - ...\n"
        "return total",
    ),
    misconceptions=(
        Misconception(
            "nobody leaves",
            lambda r: r.log_softmax(-1).sum(-1),
            "Every place of yours competes with all K candidates. The candidates already placed have left: the sum in "
            "the denominator of equation (8) starts at j = k.",
        ),
        Misconception(
            "from the wrong end",
            lambda r: (r - r.logcumsumexp(-1)).sum(-1),
            "This is the ranking read from its end: your denominators hold the candidates up to place k, not those "
            "still left. `rewards` is listed best first and the sum of equation (8) runs over j ≥ k: accumulate from "
            "the right.",
        ),
        Misconception(
            "the chosen is not a candidate",
            _without_the_chosen,
            "The candidate that wins place k must be among those it competes with: the sum of equation (8) runs over "
            "j ≥ k, not j > k. (Your log-probability can even be positive.)",
        ),
        Misconception(
            "first place only",
            lambda r: r.log_softmax(-1)[..., 0],
            "This is the probability of the winner alone, equation (6). A ranking multiplies such a factor for every "
            "place.",
        ),
        Misconception(
            "probability",
            lambda r: preferences.plackett_luce_log_prob(r).exp(),
            "You returned the probability; the exercise asks for its logarithm.",
        ),
        Misconception(
            "negative",
            lambda r: -preferences.plackett_luce_log_prob(r),
            "The sign is that of a loss. A log-probability is never positive: return the sum itself.",
        ),
        Misconception(
            "mean over places",
            lambda r: preferences.plackett_luce_log_prob(r) / r.shape[-1],
            "You averaged over the places. The factors of equation (8) are multiplied, so their logarithms are summed.",
        ),
        Misconception(
            "neighbours only",
            lambda r: F.logsigmoid(r[..., :-1] - r[..., 1:]).sum(-1),
            "You multiplied Bradley–Terry over neighbours in the ranking. The winner of place k is compared with "
            "everyone who is left, not only with the next one (equation 8).",
        ),
        Misconception(
            "all pairs",
            _sum_of_log_odds_of_pairs,
            "You multiplied Bradley–Terry over all pairs, as if the pairs were independent. InstructGPT trains that "
            "way, but over all rankings these products do not sum to 1; equation (8) has one factor per place.",
        ),
        Misconception(
            "overflow",
            lambda r: (r - r.exp().flip(-1).cumsum(-1).flip(-1).log()).sum(-1),
            "Right on paper, but exp(1000) is inf. Stay on the log scale: logsumexp or logcumsumexp.",
        ),
        Misconception(
            "underflow",
            lambda r: _minus_maximum(r),
            "You subtracted the largest reward of all before exp. For the last places, far below it, exp rounds to 0 "
            "and "
            "log 0 is −inf. Each place needs a logsumexp of its own over those who are left.",
        ),
        Misconception(
            "along the first axis",
            lambda r: preferences.plackett_luce_log_prob(r.movedim(0, -1)),
            "You work along the first axis. A batch has its rankings along the last one: index with [..., k], sum with "
            "dim=-1.",
        ),
        Misconception(
            "sorted first",
            lambda r: preferences.plackett_luce_log_prob(r.sort(-1, descending=True).values),
            "You sorted the rewards. They come in the order of the ranking that was observed, best place first, and "
            "it need "
            "not be the likeliest one: take them as they are.",
        ),
        Misconception(
            "base 2",
            lambda r: preferences.plackett_luce_log_prob(r) / math.log(2),
            "You used the logarithm to base 2. The unit is the nat: the natural logarithm.",
        ),
        Misconception(
            "base 10",
            lambda r: preferences.plackett_luce_log_prob(r) / math.log(10),
            "You used the logarithm to base 10. The unit is the nat: the natural logarithm.",
        ),
        Misconception(
            "places not summed",
            lambda r: r - r.flip(-1).logcumsumexp(-1).flip(-1),
            "You return one value for each place. The logarithm of the product (8) is their sum over the last axis.",
        ),
        Misconception(
            "batch summed too",
            lambda r: preferences.plackett_luce_log_prob(r).sum(),
            "You summed over the batch as well. Each ranking has a log-probability of its own: sum over the last axis "
            "only.",
        ),
        Misconception(
            "batch averaged",
            lambda r: preferences.plackett_luce_log_prob(r).mean(),
            "You averaged over the batch. Each ranking has a log-probability of its own: sum over the last axis only.",
        ),
        Misconception(
            "sum of probabilities",
            lambda r: (r - r.flip(-1).logcumsumexp(-1).flip(-1)).exp().sum(-1),
            "You added the probabilities of the places. They are multiplied in (8): add their logarithms.",
        ),
        Misconception(
            "sum without the logarithm",
            lambda r: (r - r.exp().flip(-1).cumsum(-1).flip(-1)).sum(-1),
            "The logarithm of the sum is missing: (8) has r_k − log Σ exp(r_j).",
        ),
        Misconception(
            "last place against all",
            lambda r: r.log_softmax(-1)[..., -1],
            "This looks at the last answer of the list only. A ranking multiplies a factor for every place.",
        ),
        Misconception(
            "first place left out",
            lambda r: (r - r.flip(-1).logcumsumexp(-1).flip(-1))[..., 1:].sum(-1),
            "The factor of the first place is missing: (8) runs over all places from k = 1, `rewards[..., 0]`.",
        ),
    ),
)


def _minus_maximum(rewards: Tensor) -> Tensor:
    below = rewards - rewards.max(-1, keepdim=True).values
    return (below - below.exp().flip(-1).cumsum(-1).flip(-1).log()).sum(-1)


# --- 3 · the pairwise loss ------------------------------------------------------------------------------------------


def _pairs(g: torch.Generator) -> list[tuple[Tensor | float, ...]]:
    return [
        tuple(2 * torch.randn(2, whole(g, 5, 9), generator=g)),
        (*torch.randn(2, whole(g, 4, 8), generator=g), 0.7),
        (*torch.randn(2, n := whole(g, 3, 6), generator=g), torch.rand(n, generator=g)),
        (torch.randn(1, generator=g), torch.randn(1, generator=g)),
        (30 * torch.randn(n, generator=g), 30 * torch.randn(n, generator=g)),
        (torch.tensor([1e4, -1e4, 2.0]), torch.tensor([0.0, 0.0, 1.0])),
    ]


def _saved_by(epsilon: float) -> Misconception:
    """σ kept away from 0 by a small number, whether it is added or a lower limit."""
    return Misconception(
        f"saved by {epsilon:g}",
        lambda w, l, m=0.0: -torch.log(torch.sigmoid(w - l - m) + epsilon).mean(),  # noqa: E741
        f"You save the logarithm with a small number, {epsilon:g}. Then no pair costs more than "
        f"{-math.log(epsilon):.1f} nats, and one that is very wrong has no gradient. Compute log σ in one step (see "
        "the table above the exercise): it needs no such number.",
    )


q3 = Question(
    title="1.3 The pairwise loss",
    reference=preferences.bradley_terry_loss,
    cases=_pairs,
    hints=(
        "In the table above the loss was infinite at Δ = −110. Which of the two functions, log or σ, spoilt it?",
        "The loss of a pair is −log σ(r_w − r_l − m). σ of a large negative number rounds to 0, so log and σ must be "
        "computed in one step: log σ(z) = −log(1 + exp(−z)), which PyTorch has as one function of its own.",
        "Subtract the rejected reward and the margin from the chosen one, one number a pair; take log σ of it with "
        "`torch.nn.functional`, the mean over the pairs, and the minus.",
        "z = chosen - rejected - ...\nreturn -F.logsigmoid(...).mean()",
    ),
    misconceptions=(
        Misconception(
            "swapped",
            lambda w, l, m=0.0: -F.logsigmoid(l - w - m).mean(),  # noqa: E741
            "Your loss falls when the rejected answer gets the higher reward. Equation (9) has Δ = r_w − r_l: chosen "
            "minus rejected.",
        ),
        Misconception(
            "overflow",
            lambda w, l, m=0.0: -torch.sigmoid(w - l - m).log().mean(),  # noqa: E741
            "Right on paper, but σ(−10000) rounds to 0 and log 0 is −inf. Compute log σ in one step (see the table "
            "above the exercise).",
        ),
        Misconception(
            "sum",
            lambda w, l, m=0.0: -F.logsigmoid(w - l - m).sum(),  # noqa: E741
            "You summed over the pairs. Equation (9) has the mean; with a sum the learning rate would depend on the "
            "batch size.",
        ),
        Misconception(
            "no minus",
            lambda w, l, m=0.0: F.logsigmoid(w - l - m).mean(),  # noqa: E741
            "This is the log-likelihood, which should grow. A loss is its negative.",
        ),
        Misconception(
            "no log",
            lambda w, l, m=0.0: -torch.sigmoid(w - l - m).mean(),  # noqa: E741
            "The logarithm is missing. −σ(Δ) is not the log loss; its gradient dies on the pairs that are most wrong.",
        ),
        Misconception(
            "error rate",
            lambda w, l, m=0.0: torch.sigmoid(-(w - l - m)).mean(),  # noqa: E741
            "1 − σ(Δ) is the probability of being wrong, not −log σ(Δ). Equation (9) comes from the logarithm of the "
            "likelihood.",
        ),
        Misconception(
            "log of the mean",
            lambda w, l, m=0.0: -torch.sigmoid(w - l - m).mean().log(),  # noqa: E741
            "You took the mean first and the log after. The likelihood is a product over pairs, so the log goes to "
            "every pair and the mean comes last.",
        ),
        Misconception(
            "mean difference",
            lambda w, l, m=0.0: -F.logsigmoid((w - l - m).mean()),  # noqa: E741
            "You averaged the differences before the loss, as if all pairs were one. The loss belongs to each pair; "
            "the mean comes last.",
        ),
        Misconception(
            "margin added",
            lambda w, l, m=0.0: -F.logsigmoid(w - l + m).mean(),  # noqa: E741
            "Your margin helps the winner. It is meant to ask for more: the winner has to lead by m, so m is "
            "subtracted.",
        ),
        Misconception(
            "margin forgotten",
            lambda w, l, m=0.0: -F.logsigmoid(w - l).mean(),  # noqa: E741
            "The margin is not used: z = r_w − r_l − m.",
        ),
        Misconception(
            "margin on the log-probability",
            lambda w, l, m=0.0: -(F.logsigmoid(w - l) - m).mean(),  # noqa: E741
            "You subtracted the margin after log σ. There it only adds a constant to the loss, and the gradient does "
            "not know it. It belongs inside: log σ(r_w − r_l − m).",
        ),
        Misconception(
            "margin off the loss",
            lambda w, l, m=0.0: (-F.logsigmoid(w - l) - m).mean(),  # noqa: E741
            "You subtracted the margin from the loss, a constant without a gradient. The winner has to lead by m: the "
            "margin stands inside σ, r_w − r_l − m.",
        ),
        *(_saved_by(epsilon) for epsilon in (1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-12)),
        Misconception(
            "good and bad alone",
            lambda w, l, m=0.0: -(F.logsigmoid(w - m) + F.logsigmoid(-l)).mean(),  # noqa: E741
            "You classify each answer as good or bad on its own. The annotator only compared the two; by shift "
            "invariance (equation 4) the loss must depend on r_w − r_l alone.",
        ),
        Misconception(
            "hinge",
            lambda w, l, m=0.0: F.relu(1 - (w - l - m)).mean(),  # noqa: E741
            "This is a hinge loss, with a slope of 1 or 0. It ranks, but it is not −log of a probability, so the "
            "rewards it finds have no "
            "scale in log-odds.",
        ),
        Misconception(
            "squared error",
            lambda w, l, m=0.0: torch.sigmoid(-(w - l - m)).square().mean(),  # noqa: E741
            "This is the squared error (1 − p)². Maximum likelihood gives −log p, which is convex in Δ; the square is "
            "not.",
        ),
        Misconception(
            "hinge at the margin",
            lambda w, l, m=0.0: F.relu(m - (w - l)).mean(),  # noqa: E741
            "This is a hinge loss: 0 as soon as the winner leads by the margin. (9) is −log σ, the logarithm of a "
            "probability, and never quite 0.",
        ),
        Misconception(
            "the linear part",
            lambda w, l, m=0.0: -(w - l - m).mean(),  # noqa: E741
            "You maximise the difference itself, which has no end. −log σ makes a pair pull less, the better it is "
            "ranked.",
        ),
        Misconception(
            "binary cross-entropy with label 0",
            lambda w, l, m=0.0: -F.logsigmoid(-(w - l - m)).mean(),  # noqa: E741
            "That is −log σ(−z), for instance a binary cross-entropy with targets 0. The winner won: the target is 1, "
            "and "
            "(9) has σ(r_w − r_l − m).",
        ),
        Misconception(
            "base 2",
            lambda w, l, m=0.0: -F.logsigmoid(w - l - m).mean() / math.log(2),  # noqa: E741
            "You used the logarithm to base 2. The unit is the nat: the natural logarithm.",
        ),
        Misconception(
            "half",
            lambda w, l, m=0.0: -F.logsigmoid(w - l - m).mean() / 2,  # noqa: E741
            "Your loss is half of (9): divide by the number of pairs, not by the number of answers.",
        ),
        Misconception(
            "every winner against every loser",
            lambda w, l, m=0.0: -F.logsigmoid(w[:, None] - l[None, :] - m).mean(),  # noqa: E741
            "You compare every winner with every loser. Only pairs were judged: chosen[i] against rejected[i].",
        ),
        Misconception(
            "one value for each pair",
            lambda w, l, m=0.0: -F.logsigmoid(w - l - m),  # noqa: E741
            "You return one value for each pair. (9) is their mean.",
        ),
        Misconception(
            "margin with the loser alone",
            lambda w, l, m=0.0: -F.logsigmoid(w - l * m).mean(),  # noqa: E741
            "You multiply the loser's reward by the margin. It is subtracted: z = r_w − r_l − m.",
        ),
        Misconception(
            "margin as a scale",
            lambda w, l, m=0.0: -F.logsigmoid(m * (w - l)).mean(),  # noqa: E741
            "You multiply the difference by the margin. It is subtracted: z = r_w − r_l − m.",
        ),
        Misconception(
            "ratio of rewards",
            lambda w, l, m=0.0: -(w / (w + l)).log().mean(),  # noqa: E741
            "You took the rewards themselves for weights. Weights are exp(r): the probability is σ(r_w − r_l).",
        ),
        *(
            Misconception(
                f"difference cut off at {limit:g}",
                lambda w, l, m=0.0, limit=limit: -F.logsigmoid((w - l - m).clamp(-limit, limit)).mean(),  # noqa: E741
                f"You cut the difference off at ±{limit:g}. A pair that is more wrong than that has no gradient, and "
                f"would "
                "never be learned. F.logsigmoid needs no such limit.",
            )
            for limit in (10.0, 20.0, 30.0, 50.0, 80.0, 88.0, 100.0)
        ),
        Misconception(
            "median",
            lambda w, l, m=0.0: -F.logsigmoid(w - l - m).median(),  # noqa: E741
            "You took the median over the pairs. (9) is the mean.",
        ),
    ),
    grad_args=(0, 1),
)

# --- 4 · the gradient of the likelihood -----------------------------------------------------------------------------


def _table(rewards: Tensor, comparisons: Tensor, g: torch.Generator) -> Tensor:
    """Simulated wins; one more win in each direction of every compared pair keeps the maximum finite."""
    compared = torch.triu(comparisons, 1)
    won = torch.binomial(compared, torch.sigmoid(rewards[:, None] - rewards[None, :]), generator=g)
    wins = won + (compared - won).T
    return wins + ((compared + compared.T) > 0).float()


def _random_table(k: int, g: torch.Generator) -> Tensor:
    return _table(torch.randn(k, generator=g), torch.randint(5, 30, (k, k), generator=g).float(), g)


def _chain(k: int, g: torch.Generator) -> Tensor:
    """k answers of which only neighbours were ever compared."""
    return _table(torch.randn(k, generator=g), torch.diag(torch.full((k - 1,), 20.0), 1), g)


def _tables_and_rewards(g: torch.Generator) -> list[tuple[Tensor, Tensor]]:
    return [
        (_random_table(3, g), torch.zeros(3)),
        (_random_table(2, g), torch.randn(2, generator=g)),
        (_random_table(k := whole(g, 4, 7), g), 2 * torch.randn(k, generator=g)),
        (_chain(k := whole(g, 4, 6), g), torch.randn(k, generator=g)),
    ]


q4 = Question(
    title="1.4 Gradient of the log-likelihood",
    reference=likelihood_gradient,
    cases=_tables_and_rewards,
    hints=(
        "How many wins has answer i, and how many do the rewards expect it to have?",
        "∂ℓ/∂r_i = Σ_j [ c_ij − n_ij σ(r_i − r_j) ] with n_ij = c_ij + c_ji: a win of i over j and one of j over i are "
        "both comparisons of that pair.",
        "Three tables of shape (K, K): the comparisons n, the wins and their transpose added; the differences "
        "r_i − r_j, by `rewards[:, None]` and `rewards[None, :]`; the expected wins n σ(difference). Subtract these "
        "from the wins, and sum over the opponents, the second axis.",
        "compared = wins + ...\n"
        "expected = compared * torch.sigmoid(rewards[:, None] - ...)\n"
        "return (wins - expected).sum(dim=1)",
    ),
    misconceptions=(
        Misconception(
            "downhill",
            lambda c, r: -likelihood_gradient(c, r),
            "The sign is opposite. Either you returned the gradient of the loss −ℓ, or you summed over i (dim 0) in "
            "place of the opponents j (dim 1); equation (13) sums row i.",
        ),
        Misconception(
            "wins only",
            lambda c, r: (c * torch.sigmoid(r[None, :] - r[:, None])).sum(1),
            "You differentiated only the comparisons that i won. r_i stands with a minus sign in those it lost, and "
            "those pull it down (step 2 of the derivation).",
        ),
        Misconception(
            "expected from wins",
            lambda c, r: ((c + c.T) - c * torch.sigmoid(r[:, None] - r[None, :])).sum(1),
            "The two tables changed places: actual wins are c_ij, and the expectation uses the number of comparisons "
            "n_ij.",
        ),
        Misconception(
            "losses",
            lambda c, r: likelihood_gradient(c.T, r),
            "You counted the losses of i as its wins: wins[i, j] is how often i beat j, so the wins of i are row i.",
        ),
        Misconception(
            "difference reversed",
            lambda c, r: (c - (c + c.T) * torch.sigmoid(r[None, :] - r[:, None])).sum(1),
            "Your expectation gives i the wins of j: in equation (13) it is σ(r_i − r_j), row minus column.",
        ),
        Misconception(
            "mean over opponents",
            lambda c, r: likelihood_gradient(c, r) / len(r),
            "You averaged over the opponents. The log-likelihood is a sum over all comparisons, so its gradient is a "
            "sum too.",
        ),
        Misconception(
            "pairs counted twice",
            lambda c, r: 2 * likelihood_gradient(c, r),
            "Twice too large: each comparison entered two times, once as (i, j) and once as (j, i). In equation (11) "
            "c_ij counts only the wins of i, so every comparison appears once.",
        ),
        Misconception(
            "rewards ignored",
            lambda c, r: (c - (c + c.T) / 2).sum(1),
            "Your expectation is a coin flip for every pair, whatever the rewards. Use σ(r_i − r_j).",
        ),
        Misconception(
            "difference of the wins as comparisons",
            lambda c, r: (c - (c - c.T) * torch.sigmoid(r[:, None] - r[None, :])).sum(1),
            "Your number of comparisons is c_ij − c_ji. A pair was compared in both directions: n_ij = c_ij + c_ji.",
        ),
        Misconception(
            "table not summed",
            lambda c, r: c - (c + c.T) * torch.sigmoid(r[:, None] - r[None, :]),
            "You return the (K, K) table of c_ij − n_ij σ(r_i − r_j). (13) sums each row over the opponents j.",
        ),
        Misconception(
            "sixty comparisons",
            lambda c, r: (c - 60 * (1 - torch.eye(len(r))) * torch.sigmoid(r[:, None] - r[None, :])).sum(1),
            "You assume 60 comparisons of each pair, as in this notebook's table. Take n_ij = c_ij + c_ji from `wins`.",
        ),
        Misconception(
            "mean over all comparisons",
            lambda c, r: likelihood_gradient(c, r) / c.sum(),
            "You divided by the number of comparisons. ℓ in (11) is a sum over all comparisons, so its gradient is "
            "too.",
        ),
        Misconception(
            "plus",
            lambda c, r: (c + (c + c.T) * torch.sigmoid(r[:, None] - r[None, :])).sum(1),
            "You added the expected wins. (13) subtracts them: actual minus expected.",
        ),
        Misconception(
            "expected alone",
            lambda c, r: ((c + c.T) * torch.sigmoid(r[:, None] - r[None, :])).sum(1),
            "Those are the wins that the rewards expect. (13) is the actual wins minus these.",
        ),
        Misconception(
            "wins alone",
            lambda c, r: c.sum(1),
            "Those are the actual wins. (13) subtracts the wins that the rewards expect.",
        ),
        Misconception(
            "one comparison of each pair",
            lambda c, r: (c - torch.sigmoid(r[:, None] - r[None, :])).sum(1),
            "You expect one comparison of each pair. The pair was compared n_ij = c_ij + c_ji times: multiply.",
        ),
        Misconception(
            "wins minus losses",
            lambda c, r: (c - c.T).sum(1),
            "You take wins minus losses, whoever the opponent was. (13) takes wins minus expected wins: to beat a "
            "strong "
            "opponent counts more.",
        ),
        Misconception(
            "half of the comparisons",
            lambda c, r: (c - (c + c.T) / 2 * torch.sigmoid(r[:, None] - r[None, :])).sum(1),
            "You halved the number of comparisons. wins + wins.T holds each pair's n_ij twice, at (i, j) and at (j, "
            "i), but "
            "row i meets it once.",
        ),
        Misconception(
            "reward of the answer alone",
            lambda c, r: (c - (c + c.T) * torch.sigmoid(r)[:, None]).sum(1),
            "Your expectation uses r_i alone. Whom i met matters: σ(r_i − r_j).",
        ),
        Misconception(
            "losing side only",
            lambda c, r: -(c.T * torch.sigmoid(r[:, None] - r[None, :])).sum(1),
            "You differentiated only the comparisons that i lost. Those it won pull r_i up (step 1 of the derivation).",
        ),
        Misconception(
            "slope of the probability",
            lambda c, r: (
                c - (c + c.T) * torch.sigmoid(r[:, None] - r[None, :]) * torch.sigmoid(r[None, :] - r[:, None])
            ).sum(1),
            "You multiplied by σ(Δ) σ(−Δ), the slope of σ. (13) has σ(r_i − r_j) itself.",
        ),
    ),
)

# --- 5 · fitting ----------------------------------------------------------------------------------------------------


def _tables(g: torch.Generator) -> list[tuple[Tensor]]:
    """Small and large ones; in the last all compare with all, so that a step far too long overshoots."""
    return [
        (_random_table(2, g),),
        (_random_table(whole(g, 3, 5), g),),
        (_chain(4, g),),
        (_table(0.4 * torch.randn(k := whole(g, 6, 8), generator=g), torch.full((k, k), 60.0), g),),
    ]


def _centred(x: Tensor) -> Tensor:
    return x - x.mean()


def _mean_log_odds(wins: Tensor) -> Tensor:
    met = (wins + wins.T) > 0
    return torch.where(met, wins.log() - wins.T.log(), 0.0).sum(1) / met.sum(1)


def _log_likelihood(wins: Tensor, rewards: Tensor) -> float:
    return float((wins * F.logsigmoid(rewards[:, None] - rewards[None, :])).sum())


def _not_at_the_top(failing: Sequence[tuple[Any, ...]]) -> str:
    """What is known of rewards that are not at the top, whichever way led there."""
    wins, rewards = failing[0]
    if not isinstance(rewards, Tensor) or rewards.shape != wins.shape[:1] or not bool(rewards.isfinite().all()):
        return ""
    wins, rewards = wins.double(), rewards.detach().double()
    slope = float(likelihood_gradient(wins, rewards).abs().max())
    if slope < 0.02:
        shift = float(rewards.sum())
        return f"The differences are right, but your rewards sum to {shift:.3g}, not to 0." if abs(shift) > 0.01 else ""
    if _log_likelihood(wins, rewards) < _log_likelihood(wins, torch.zeros_like(rewards)):
        return (
            "Your rewards explain the table worse than the zeros that you started from: you climb down, or your steps "
            "are so long that they overshoot (2 / n_max never does, n_max being the largest sum over a row of n_ij)."
        )
    return (
        f"You are not at the top: the largest entry of the gradient (13) at your rewards is {slope:.2g}, not 0. Take "
        "more steps or longer ones, if they are many (2 / n_max is safe); shorter ones, if they overshoot."
    )


q5 = Question(
    title="1.5 Fit the rewards",
    reference=fit_strengths,
    cases=_tables,
    diagnose=_not_at_the_top,
    hints=(
        "In which direction does the likelihood rise, and how far may you go before that changes?",
        "Uphill is along the gradient: r ← r + η ∇ℓ(r). With η = 2 / n_max no step overshoots, n_max being the largest "
        "number of comparisons of any answer. A fixed 0.01 can be too small or too large.",
        "Compute the step size from the table: sum wins + wins.T over the opponents, take the largest; 2 divided by "
        "it. Start at zeros; add step size times `gradient_of(wins, rewards)`, some thousand times. The sum stays 0 by "
        "itself. (torch.optim.LBFGS on the loss works, too: any method counts.)",
        "step_size = 2 / ...\n"
        "rewards = torch.zeros(len(wins))\n"
        "for _ in range(2000):\n"
        "    rewards = rewards + ...\n"
        "return rewards",
    ),
    misconceptions=(
        Misconception(
            "win rate",
            lambda c: _centred(c.sum(1) / (c + c.T).sum(1)),
            "This is the win rate. It ignores whom an answer met: to beat a strong opponent must count for more. "
            "Look for the rewards at which equation (13) is 0.",
        ),
        Misconception(
            "log-odds of the win rate",
            lambda c: _centred((c.sum(1) / c.sum(0)).log()),
            "This is the log-odds of winning against whoever came. Only with every opponent at reward 0 would it be "
            "the reward; solve equation (13), where the opponents' rewards enter.",
        ),
        Misconception(
            "reversed",
            lambda c: preferences.fit_bradley_terry(c.T),
            "The order is upside down: you fitted the table of losses, or climbed down the likelihood. wins[i, j] is "
            "how often i beat j.",
        ),
        Misconception(
            "first answer at zero",
            lambda c: preferences.fit_bradley_terry(c) - preferences.fit_bradley_terry(c)[0],
            "The differences are right, the shift is not: you fixed the first reward at 0. The exercise asks for "
            "rewards that sum to 0.",
        ),
        Misconception(
            "weights",
            lambda c: preferences.fit_bradley_terry(c).softmax(0),
            "These are the weights exp(r) / Σ exp(r). The reward is their logarithm (step 5 of section 1), centred.",
        ),
        Misconception(
            "weights without the logarithm",
            lambda c: preferences.fit_bradley_terry(c).exp(),
            "These are the weights ω = exp(r) of Zermelo's method. The rewards are their logarithms: r = log ω, then "
            "centred.",
        ),
        Misconception(
            "weights, centred",
            lambda c: _centred(preferences.fit_bradley_terry(c).exp()),
            "You centred the weights ω = exp(r). Take the logarithm first: the rewards are log ω, and those must sum "
            "to 0.",
        ),
        Misconception(
            "weights that sum to 1, centred",
            lambda c: _centred(preferences.fit_bradley_terry(c).softmax(0)),
            "You centred the shares exp(r) / Σ exp(r). A difference of rewards is a log-odds: take the logarithm "
            "before you centre.",
        ),
        Misconception(
            "Elo points",
            lambda c: preferences.fit_bradley_terry(c) * 400 / math.log(10),
            "These are Elo points, 174 for one unit of reward. Use natural logarithms: one unit multiplies the odds "
            "by e.",
        ),
        Misconception(
            "half scale",
            lambda c: preferences.fit_bradley_terry(c) / 2,
            "Every difference is half as large as it should be. Does your model use σ(2(r_i − r_j)), or is each "
            "comparison of yours counted on both sides in the expectation alone?",
        ),
        Misconception(
            "one step",
            lambda c: 2 / (c + c.T).sum(1).max() * likelihood_gradient(c, torch.zeros(len(c))),
            "You took a single step of gradient ascent. Repeat until equation (13) is 0: is the `return` inside the "
            "loop?",
        ),
        Misconception(
            "last answer at zero",
            lambda c: preferences.fit_bradley_terry(c) - preferences.fit_bradley_terry(c)[-1],
            "The differences are right, the shift is not: you fixed the last reward at 0. The exercise asks for "
            "rewards "
            "that sum to 0.",
        ),
        Misconception(
            "lowest at zero",
            lambda c: preferences.fit_bradley_terry(c) - preferences.fit_bradley_terry(c).min(),
            "The differences are right, the shift is not: your lowest reward is 0. The exercise asks for rewards that "
            "sum "
            "to 0.",
        ),
        Misconception(
            "highest at zero",
            lambda c: preferences.fit_bradley_terry(c) - preferences.fit_bradley_terry(c).max(),
            "The differences are right, the shift is not: your highest reward is 0. The exercise asks for rewards "
            "that sum "
            "to 0.",
        ),
        Misconception(
            "standardised",
            lambda c: preferences.fit_bradley_terry(c) / preferences.fit_bradley_terry(c).std(),
            "You divided by the standard deviation. The scale is no convention: one unit multiplies the odds by e.",
        ),
        Misconception(
            "standardised, correction 0",
            lambda c: preferences.fit_bradley_terry(c) / preferences.fit_bradley_terry(c).std(correction=0),
            "You divided by the standard deviation. The scale says something: one unit of reward multiplies the odds "
            "by e.",
        ),
        *(
            Misconception(
                f"penalised with {l2:g}",
                lambda c, l2=l2: preferences.fit_bradley_terry(c, l2=l2),
                f"You fitted with a penalty, l2 = {l2:g}. Every reward is drawn towards 0. Here the likelihood alone "
                f"is asked "
                "for.",
            )
            for l2 in (0.1, 0.5, 1.0)
        ),
        Misconception(
            "wins minus losses",
            lambda c: _centred((c - c.T).sum(1)),
            "That is wins minus losses. Look for the rewards at which equation (13) is 0.",
        ),
        Misconception(
            "wins",
            lambda c: _centred(c.sum(1)),
            "That is the number of wins, centred. Look for the rewards at which equation (13) is 0.",
        ),
        Misconception(
            "win rate, not centred",
            lambda c: c.sum(1) / (c + c.T).sum(1),
            "This is the win rate. It ignores whom an answer met, and it does not sum to 0. Look for the rewards at "
            "which "
            "equation (13) is 0.",
        ),
        Misconception(
            "mean log-odds of the pairs",
            lambda c: _mean_log_odds(c),
            "You averaged the log-odds of the single pairs. Pairs that met more often say more, and pairs that never "
            "met say "
            "nothing: solve equation (13).",
        ),
        Misconception(
            "Elo points, natural logarithm",
            lambda c: preferences.fit_bradley_terry(c) * 400,
            "Your rewards are 400 times too large. One unit of reward multiplies the odds by e.",
        ),
        Misconception(
            "double scale",
            lambda c: 2 * preferences.fit_bradley_terry(c),
            "Every difference is twice as large as it should be. Does your model use σ((r_i − r_j) / 2)?",
        ),
        Misconception(
            "base 2",
            lambda c: preferences.fit_bradley_terry(c) / math.log(2),
            "You used logarithms to base 2. One unit of reward multiplies the odds by e: the natural logarithm.",
        ),
        Misconception(
            "the gradient",
            lambda c: likelihood_gradient(c, torch.zeros(len(c))),
            "That is the gradient (13) at zeros. Follow it uphill, step by step, until it is 0.",
        ),
        Misconception(
            "nothing",
            lambda c: torch.zeros(len(c)),
            "All your rewards are 0, where the climb starts. Does the loop change `rewards`, and is the result what "
            "you "
            "return?",
        ),
    ),
    rtol=2e-3,
    atol=2e-3,
)

# --- 6 · when there is no finite maximum ----------------------------------------------------------------------------

TABLES: dict[str, Float[Tensor, "K K"]] = {
    "A": torch.tensor([[0.0, 3, 0], [0, 0, 2], [1, 0, 0]]),
    "B": torch.tensor([[0.0, 4, 2], [0, 0, 3], [0, 1, 0]]),
    "C": torch.tensor([[0.0, 3, 0, 0], [2, 0, 0, 0], [0, 0, 0, 1], [0, 0, 4, 0]]),
    "D": torch.tensor([[0.0, 3, 1, 2], [2, 0, 2, 1], [0, 0, 0, 1], [0, 0, 4, 0]]),
    "E": torch.tensor([[0.0, 5, 0, 0], [2, 0, 3, 0], [0, 1, 0, 4], [0, 0, 2, 0]]),
}
"""Five tables of comparisons for question 1.6; `TABLES[name][i, j]` counts i beating j."""

_WHY = {
    "A": "in A the arrows 0 → 1 → 2 → 0 close a circle, so every answer can be reached from every other",
    "B": "in B answer 0 never lost, so its reward grows without end",
    "C": "in C the groups {0, 1} and {2, 3} never met, so any gap between them fits",
    "D": "in D the group {0, 1} never lost to {2, 3}, so the gap between them grows without end",
    "E": "in E wins in both directions link 0 with 1, 1 with 2 and 2 with 3, so every answer can be reached from "
    "every other",
}


def _other_sets(taken: tuple[Misconception, ...]) -> tuple[Misconception, ...]:
    """For each set of tables that is wrong and not among those taken: which tables it gets wrong, and why."""
    others = []
    for bits in range(2 ** len(TABLES)):
        named = {name for i, name in enumerate(TABLES) if bits >> i & 1}
        if named == {"A", "E"} or any(named == wrong.answer for wrong in taken):
            continue
        errors = "; ".join(reason for name, reason in _WHY.items() if (name in named) != (name in "AE"))
        others.append(Misconception("tables " + "".join(sorted(named)), named, f"Look again: {errors}."))
    return tuple(others)


_SETS = (
    Misconception(
        "both directions needed in each pair",
        {"E"},
        "Table A has no pair with wins in both directions, but the arrows 0 → 1 → 2 → 0 close a circle: every "
        "answer can be reached from every other, and that is all that Ford's condition asks.",
    ),
    Misconception(
        "nobody unbeaten is enough",
        {"A", "D", "E"},
        "In table D each answer has lost at least once, but the group {0, 1} never lost to the group {2, 3}. "
        "Ford's condition is about groups: the gap between the groups grows without end.",
    ),
    Misconception(
        "connected is not needed",
        {"A", "C", "E"},
        "In table C the groups {0, 1} and {2, 3} never met. Any gap between them fits equally well, so there is "
        "no one maximum.",
    ),
    Misconception(
        "only single answers",
        {"A", "C", "D", "E"},
        "You looked for a single unbeaten answer. Groups matter too: in table C two groups never met, and in "
        "table D one group never lost to the other.",
    ),
    Misconception(
        "every pair must meet",
        {"A"},
        "In table E answers 0 and 3 never met, but both are linked through 1 and 2, with wins in both directions "
        "on the way. That is enough.",
    ),
    Misconception(
        "the others",
        {"B", "C", "D"},
        "You named the tables without one finite best fit. The question asks for those that have one.",
    ),
    Misconception(
        "every table",
        {"A", "B", "C", "D", "E"},
        "Not every table has one. In B answer 0 never lost; in C two groups never met; in D the group {0, 1} never "
        "lost "
        "to {2, 3}.",
    ),
    Misconception(
        "none", set(), "Some have one: look for tables in which the arrows lead from every answer to every other."
    ),
    Misconception(
        "connected is enough",
        {"A", "B", "D", "E"},
        "All these tables are connected, but the direction of the wins counts as well: in B answer 0 never lost, "
        "in D the group {0, 1} never lost to {2, 3}. Their rewards run away to infinity.",
    ),
)

q6 = Question(
    title="1.6 Which tables have one finite best fit?",
    name="finite",
    value={"A", "E"},
    hints=(
        "Draw an arrow from i to j for every win of i over j. Ford's condition: along the arrows you can get from "
        "every answer to every other.",
        "Look for a group of answers that no arrow from outside enters, or that no arrow leaves. The group can be one "
        "answer, or two.",
    ),
    misconceptions=_SETS + _other_sets(_SETS),
)

# --- predictions ----------------------------------------------------------------------------------------------------

p1 = Prediction(
    "The noise s doubles and the rewards stay. What happens to the curve of p(a ≻ b) against r_a − r_b?",
    ("It becomes flatter and still passes through ½ at 0.", "It shifts to the right.", "It becomes steeper."),
    answer=0,
    meanings=(
        "p = σ(Δ/s): the log-odds Δ/s are halved everywhere, and at Δ = 0 they are 0 for every s.",
        "Then two equally good answers would not have even chances any more. The noise of both is alike and favours "
        "neither.",
        "That is what less noise does: careful people decide even small differences in the same way.",
    ),
)
p2 = Prediction(
    "Four times as many comparisons. What happens to the error of the fitted rewards?",
    ("It stays.", "It falls to a quarter.", "It halves."),
    answer=2,
    meanings=(
        "That would be an error that more data cannot mend, for instance of a model that does not fit.",
        "The variance does: it is proportional to 1/n. The error is its square root.",
        "The error is a standard error: I in (16) grows as n, so the variance falls as 1/n and the error as 1/√n.",
    ),
)
p3 = Prediction(
    "All fitted rewards are doubled. What happens on new comparisons?",
    (
        "Nothing changes, since only differences matter.",
        "The order of the answers stays, and the loss gets worse.",
        "Order and loss both get worse.",
    ),
    answer=1,
    meanings=(
        "A common shift changes nothing. Doubling is no shift: the differences double too, and with them the log-odds.",
        "Doubled differences rank as before, and every probability moves away from ½: the model is now too sure.",
        "The order depends on the sign of each difference only, and doubling keeps the signs.",
    ),
)
p4 = Prediction(
    "One answer won 12 of 12 comparisons. What does gradient ascent do with its reward?",
    ("It stops where p = 12/12.", "It grows at a constant rate.", "It grows for ever, more and more slowly."),
    answer=2,
    meanings=(
        "No finite gap has p = 1: σ only comes near it.",
        "The slope 12 σ(−Δ) would have to stay the same. It falls as the gap grows.",
        "The likelihood gains from every larger gap, but its slope 12 σ(−Δ) dies away.",
    ),
)
p5 = Prediction(
    "Two comparisons per pair. With which penalty are the fitted rewards closest to the true ones?",
    ("A moderate one.", "The weakest, which changes the data least.", "The strongest, which is safest."),
    answer=0,
    meanings=(
        "Two comparisons per pair say little, and then a belief helps, as long as it is not stronger than the facts.",
        "That would be best with very many comparisons. With two, whoever won both gets a reward far too high.",
        "That presses all rewards to zero, whatever the comparisons say.",
    ),
)
p6 = Prediction(
    "A beats B, B beats C and C beats A, each in 80 % of the comparisons. Which rewards does the fit find?",
    ("A highest, C lowest.", "All three equal.", "No finite rewards."),
    answer=1,
    meanings=(
        "Then C would be expected to lose against A; it won 80 of 100. No order of the three fits all pairs.",
        "Each answer has as many wins as losses, so equal rewards already solve equation (13).",
        "That happens where some group never lost. Here every answer lost to another one.",
    ),
)
