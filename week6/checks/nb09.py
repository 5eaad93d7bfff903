"""Questions of notebook 09, rewards that can be checked."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from week6 import group
from week6.checks.capstone import Capstone, Malformed, Step, Symptom, parts
from week6.checks.cases import ragged_mask, whole
from week6.checks.comparison_09 import q6 as q6
from week6.checks.engine import Misconception, Prediction, Question
from week6.objective import kl_divergence, optimal_policy, rlhf_objective

# --- 9.1 · pass@k ---------------------------------------------------------------------------------------------------


def pass_at_k(correct: Int[Tensor, " M"], n: int, k: int) -> Float[Tensor, " M"]:
    """1 − C(n − c, k)/C(n, k) of each problem, c of whose n answers are right."""
    total = math.comb(n, k)
    return torch.tensor([1 - math.comb(n - c, k) / total for c in correct.tolist()])


def _counts(g: torch.Generator) -> list[tuple[Tensor, int, int]]:
    """Counts from none to all, k from 1 to n, among them few wrong answers: fewer than k."""
    drawn = []
    for _ in range(4):
        n = whole(g, 4, 20)
        drawn.append((torch.randint(0, n + 1, (whole(g, 3, 7),), generator=g), n, whole(g, 2, n - 1)))
    return [(torch.arange(7), 6, 3), (torch.arange(7), 6, 1), (torch.tensor([0, 1, 16]), 16, 16), *drawn]


def _by_ratio(share: Callable[[int, int, int], float]) -> Callable[[Tensor, int, int], Tensor]:
    return lambda correct, n, k: torch.tensor([share(c, n, k) for c in correct.tolist()])


q1 = Question(
    title="9.1 pass@k",
    name="pass_at",
    reference=pass_at_k,
    cases=_counts,
    hints=(
        "When does a set of k of your n answers hold no right one? How many such sets are there?",
        "All k must come from the n − c wrong answers: C(n − c, k) of the C(n, k) sets, each equally likely. pass@k is "
        "the share of the others, (2).",
        "For each c: count the sets of k wrong answers with math.comb, which is 0 where there are fewer than k; divide "
        "by the number of all sets; subtract from 1. Collect the numbers in a tensor.",
        "shares = [1 - math.comb(..., k) / math.comb(n, k) for c in correct.tolist()]\nreturn torch.tensor(shares)",
    ),
    misconceptions=(
        Misconception(
            "plugged in",
            lambda correct, n, k: 1 - (1 - correct / n) ** k,
            "You put the share c/n into (1). That is biased: too low for k > 1, as if the same answer could be drawn "
            "twice. (2) draws k different ones of the n.",
        ),
        Misconception(
            "all k right",
            _by_ratio(lambda c, n, k: math.comb(c, k) / math.comb(n, k)),
            "That is the chance that *all* k are right. pass@k asks for at least one.",
        ),
        Misconception(
            "not one minus",
            _by_ratio(lambda c, n, k: math.comb(n - c, k) / math.comb(n, k)),
            "That is the chance that none of the k is right. pass@k is one minus it.",
        ),
        Misconception(
            "one minus all right",
            _by_ratio(lambda c, n, k: 1 - math.comb(c, k) / math.comb(n, k)),
            "You ask whether not all k are right. The failure of (2) is that all k are *wrong*: n − c in place of c.",
        ),
        Misconception(
            "the share",
            lambda correct, n, k: correct / n,
            "Your result is c/n, whatever k is: that is pass@1.",
        ),
        Misconception(
            "k times the share",
            lambda correct, n, k: (k * correct / n).clamp(max=1.0),
            "You multiply the share by k. Two of the k may both be right, and would be counted twice.",
        ),
        Misconception(
            "seen right at all",
            lambda correct, n, k: (correct > 0).float(),
            "You ask whether any of the n answers is right: that is pass@n. Only k of them are drawn.",
        ),
        Misconception(
            "averaged",
            lambda correct, n, k: pass_at_k(correct, n, k).mean(),
            "You averaged over the problems. Return one number a problem: the mean and its interval come later.",
        ),
        Misconception(
            "upside down",
            _by_ratio(lambda c, n, k: 1 - math.comb(n, k) / math.comb(n - c, k) if n - c >= k else 1.0),
            "Your quotient is upside down: the sets without a right answer, of n − c, stand above all sets, of n.",
        ),
    ),
)

# --- 9.2 · leave one out --------------------------------------------------------------------------------------------


def _groups(g: torch.Generator) -> list[tuple[Tensor]]:
    """Groups of sizes by hand and at random; in one, all answers are equally good."""
    drawn = [tuple(torch.randint(2, 9, (2,), generator=g).tolist()) for _ in range(3)]
    cases = [(3 * torch.randn(b, k, generator=g) + 1,) for b, k in ((3, 4), (1, 5), (4, 2), (2, 8), *drawn)]
    return [*cases, (torch.full((2, 3), 1.5),)]


def _baseline(of_others: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Reward minus `of_others` (B, K) → (B,) of the other answers."""

    def advantages(rewards: Tensor) -> Tensor:
        columns = range(rewards.shape[1])
        others = [of_others(torch.cat([rewards[:, :i], rewards[:, i + 1 :]], dim=1)) for i in columns]
        return rewards - torch.stack(others, dim=1)

    return advantages


def _of_those_before(rewards: Tensor) -> Tensor:
    before = rewards.cumsum(1) - rewards
    return rewards - before / torch.arange(rewards.shape[1]).clamp(min=1)


q2 = Question(
    title="9.2 Leave one out",
    name="leave_one_out",
    reference=group.rloo_advantages,
    cases=_groups,
    hints=(
        "Which of the K rewards in its row may the baseline of answer i look at, and which one not?",
        "The sum of the other K − 1 rewards is the sum of the row minus the own one: no loop is needed. The baseline "
        "in (4) is that sum over K − 1.",
        "Three steps: the sum of each row, kept as a column so that it can be subtracted from; minus the rewards "
        "themselves, over K − 1: a baseline for each answer; the rewards minus these.",
        "k = rewards.shape[1]\nothers = (rewards.sum(1, keepdim=True) - ...) / ...\nreturn rewards - others",
    ),
    misconceptions=(
        Misconception(
            "mean of all",
            lambda rewards: rewards - rewards.mean(1, keepdim=True),
            "You subtract the mean of all K, your own answer included. That is (6), shorter by the factor (K − 1)/K. "
            "(4) leaves the own answer out.",
        ),
        Misconception(
            "divided by K",
            lambda rewards: rewards - (rewards.sum(1, keepdim=True) - rewards) / rewards.shape[1],
            "You sum the others and divide by K. There are only K − 1 others.",
        ),
        Misconception(
            "normalised",
            group.grpo_advantages,
            "You divide by the standard deviation of the group: that is GRPO, (7). (4) only subtracts.",
        ),
        Misconception(
            "normalised without ε",
            lambda rewards: (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-8),
            "You subtract the mean of all K and divide by the standard deviation of the group, as GRPO does in (7). "
            "(4) only "
            "subtracts, and leaves the own answer out.",
        ),
        Misconception(
            "the baseline alone",
            lambda rewards: (rewards.sum(1, keepdim=True) - rewards) / (rewards.shape[1] - 1),
            "You return the baseline, the mean of the others. The advantage is the reward minus it.",
        ),
        Misconception(
            "sign",
            lambda rewards: (rewards.sum(1, keepdim=True) - rewards) / (rewards.shape[1] - 1) - rewards,
            "Your sign is flipped: an answer that is better than the others has a positive advantage.",
        ),
        Misconception(
            "median of the others",
            _baseline(lambda others: others.median(1).values),
            "You subtract the median of the others. (4) has their mean.",
        ),
        Misconception(
            "best of the others only",
            _baseline(lambda others: others.max(1).values),
            "You subtract the best of the others. The baseline in (4) is their mean.",
        ),
        Misconception(
            "worst of the others",
            _baseline(lambda others: others.min(1).values),
            "You subtract the worst of the others. The baseline in (4) is their mean.",
        ),
        Misconception(
            "those before",
            _of_those_before,
            "You subtract the mean of the answers *before* this one. The others in (4) are all K − 1, before and "
            "after.",
        ),
        Misconception(
            "the next one",
            lambda rewards: rewards - rewards.roll(-1, 1),
            "You subtract one other answer only. (4) takes the mean of all K − 1 others.",
        ),
        Misconception(
            "leave one prompt out",
            lambda rewards: rewards - (rewards.sum(0, keepdim=True) - rewards) / (len(rewards) - 1),
            "You leave out one *prompt* and average over the others (dim 0). The others in (4) are the answers to "
            "the same "
            "prompt: dim 1.",
        ),
        Misconception(
            "divided by the standard deviation",
            lambda rewards: (
                (rewards - (rewards.sum(1, keepdim=True) - rewards) / (rewards.shape[1] - 1))
                / (rewards.std(1, keepdim=True) + 1e-8)
            ),
            "Leaving one out is right, but you also divide by the standard deviation. (4) only subtracts.",
        ),
        Misconception(
            "K + 1",
            lambda rewards: rewards - (rewards.sum(1, keepdim=True) - rewards) / (rewards.shape[1] + 1),
            "You divide by K + 1. There are K − 1 others.",
        ),
        Misconception(
            "across prompts",
            lambda rewards: rewards - rewards.mean(0, keepdim=True),
            "You average over the prompts (dim 0). The baseline of an answer comes from the other answers to the "
            "*same* prompt: dim 1.",
        ),
        Misconception(
            "whole batch",
            lambda rewards: rewards - (rewards.sum() - rewards) / (rewards.numel() - 1),
            "You leave one out of the whole batch. Prompts differ in difficulty: the others in (4) are those of the "
            "same row.",
        ),
        Misconception(
            "mean of the batch",
            lambda rewards: rewards - rewards.mean(),
            "You subtract the mean of the whole batch. (4) has a baseline for each answer: the others of its row.",
        ),
        Misconception(
            "sum of the others",
            lambda rewards: rewards - (rewards.sum(1, keepdim=True) - rewards),
            "You subtract the *sum* of the others. (4) has their mean: divide by K − 1.",
        ),
        Misconception(
            "the wrong factor",
            lambda rewards: (rewards - rewards.mean(1, keepdim=True)) * (rewards.shape[1] - 1) / rewards.shape[1],
            "Your factor is upside down: r − mean of all is (K − 1)/K times the advantage, so multiply by K/(K − 1).",
        ),
        Misconception(
            "best of the others",
            lambda rewards: rewards - rewards.max(1, keepdim=True).values,
            "You subtract the highest reward of the group. The baseline in (4) is the mean of the others.",
        ),
    ),
)

# --- 9.3 · the loss --------------------------------------------------------------------------------------------------


def token_loss(
    log_probs: Float[Tensor, "B T"],
    old_log_probs: Float[Tensor, "B T"],
    advantages: Float[Tensor, " B"],
    mask: Bool[Tensor, "B T"],
    clip_low: float,
    clip_high: float,
) -> Float[Tensor, ""]:
    """The clipped surrogate of every token, averaged over all tokens of the batch."""
    ratio = (log_probs - old_log_probs).exp()
    advantage = advantages.unsqueeze(1)
    surrogate = torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1 - clip_low, 1 + clip_high))
    return torch.where(mask, surrogate, 0.0).sum() / mask.sum()


def _batches(g: torch.Generator) -> list[tuple[Any, ...]]:
    """Answers of several lengths, ratios on all sides of both ends, numbers at padding that would count."""
    cases: list[tuple[Any, ...]] = []
    for low, high in ((0.2, 0.28), (0.1, 0.5), (0.3, 0.2), (0.2, 0.28)):
        rows, width = whole(g, 3, 6), whole(g, 3, 6)
        old = -2 * torch.rand(rows, width, generator=g, dtype=torch.float64)
        new = old + 0.5 * torch.randn(rows, width, generator=g, dtype=torch.float64)
        advantages = torch.randn(rows, generator=g, dtype=torch.float64)
        cases.append((new, old, advantages, ragged_mask(g, rows, width), low, high))
    return cases


def _loss(
    ratio: Callable[[Tensor], Tensor] = torch.exp,
    choose: Callable[[Tensor, Tensor], Tensor] = torch.maximum,
    ends: Callable[[float, float], tuple[float, float]] = lambda low, high: (1 - low, 1 + high),
    mean: Callable[[Tensor, Tensor], Tensor] = lambda s, mask: torch.where(mask, s, 0.0).sum() / mask.sum(),
    sign: float = -1.0,
) -> Callable[..., Tensor]:
    """The loss with one part done otherwise."""

    def loss(
        log_probs: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, clip_low: float, clip_high: float
    ) -> Tensor:
        rho, a = ratio(log_probs - old), sign * advantages.unsqueeze(1)
        return mean(choose(a * rho, a * rho.clamp(*ends(clip_low, clip_high))), mask)

    return loss


def _of_answers(s: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, s, 0.0).sum(1)


q3 = Question(
    title="9.3 The loss of a group",
    name="loss_of_tokens",
    reference=token_loss,
    cases=_batches,
    grad_args=(0,),
    hints=(
        "It is PPO's clipped loss of notebook 04. What is new: one advantage for all tokens of an answer, two ends of "
        "the clip, and what is averaged over.",
        "The ratio is exp(log π − log π_old) of each token. The loss of a token is the larger one of −Â ρ and "
        "−Â clip(ρ, 1 − ε_low, 1 + ε_high), (12). The mean is over the tokens of all answers together.",
        "Steps: the ratio; the advantages as a column, so that each goes along its row; both surrogates and their "
        "maximum; 0 where the mask is False; the sum of all, over the number of real tokens in the batch.",
        "ratio = (log_probs - old_log_probs).exp()\n"
        "a = advantages.unsqueeze(1)\n"
        "surrogate = torch.maximum(-a * ratio, -a * ratio.clamp(..., ...))\n"
        "return torch.where(mask, surrogate, 0.0).sum() / ...",
    ),
    misconceptions=(
        Misconception(
            "mean of answers",
            _loss(mean=lambda s, mask: (_of_answers(s, mask) / mask.sum(1)).mean()),
            "You average within each answer first: that is GRPO's mean, the first of (10). Asked is the token mean: "
            "one sum over all tokens of the batch, over their number.",
        ),
        Misconception(
            "sum of answers",
            _loss(mean=lambda s, mask: _of_answers(s, mask).mean()),
            "You sum within each answer and average over the answers: the third of (10). Asked is the token mean: "
            "divide by the number of tokens.",
        ),
        Misconception(
            "padding averaged",
            _loss(mean=lambda s, mask: torch.where(mask, s, 0.0).mean()),
            "Padding adds nothing to your sum, but it is counted where you divide: divide by mask.sum().",
        ),
        Misconception(
            "padding counted",
            _loss(mean=lambda s, mask: s.mean()),
            "You average over padding too. Only tokens where the mask is True are part of an answer.",
        ),
        Misconception(
            "summed",
            _loss(mean=lambda s, mask: torch.where(mask, s, 0.0).sum()),
            "You return the sum over all tokens. Divide by their number.",
        ),
        Misconception(
            "minimum",
            _loss(choose=torch.minimum),
            "You take the smaller of the two losses: the optimistic choice. As in PPO the loss is the larger one.",
        ),
        Misconception(
            "sign",
            _loss(sign=1.0, choose=torch.minimum),
            "Your sign is flipped: this is what should grow. A loss falls, so −Â stands in it.",
        ),
        Misconception(
            "no clip",
            _loss(choose=lambda free, clipped: free),
            "The clip is missing: a token whose ratio went far enough must have no gradient.",
        ),
        Misconception(
            "clipped alone",
            _loss(choose=lambda free, clipped: clipped),
            "You use the clipped ratio alone. Then a step in the wrong direction has no gradient to come back: take "
            "the larger one of both losses.",
        ),
        Misconception(
            "one ε",
            _loss(ends=lambda low, high: (1 - low, 1 + low)),
            "Both ends of your clip use ε_low. The upper one is 1 + ε_high.",
        ),
        Misconception(
            "high for both",
            _loss(ends=lambda low, high: (1 - high, 1 + high)),
            "Both ends of your clip use ε_high. The lower one is 1 − ε_low.",
        ),
        Misconception(
            "ends swapped",
            _loss(ends=lambda low, high: (1 - high, 1 + low)),
            "The two ε are swapped: the lower end is 1 − ε_low, the upper one 1 + ε_high.",
        ),
        Misconception(
            "no exp",
            _loss(ratio=lambda d: d),
            "You use log π − log π_old as the ratio. The ratio of the probabilities is its exponential.",
        ),
        Misconception(
            "upside down",
            _loss(ratio=lambda d: (-d).exp()),
            "Your ratio is π_old/π. The new policy stands above: exp(log π − log π_old).",
        ),
        Misconception(
            "log-ratio clipped",
            lambda new, old, a, mask, low, high: (
                torch.where(
                    mask,
                    torch.maximum(
                        -a.unsqueeze(1) * (new - old).exp(), -a.unsqueeze(1) * (new - old).clamp(-low, high).exp()
                    ),
                    0.0,
                ).sum()
                / mask.sum()
            ),
            "You clip the log-ratio to −ε_low … ε_high. The band of (12) is for the ratio itself: exp(0.28) is 1.32, "
            "not 1.28.",
        ),
        Misconception(
            "ε as the ends",
            _loss(ends=lambda low, high: (low, high)),
            "Your ratio is held between ε_low and ε_high themselves. The ends are 1 − ε_low and 1 + ε_high.",
        ),
    ),
)

# --- 9.4 · the best success -----------------------------------------------------------------------------------------


def best_success(p: Float[Tensor, " M"], beta: float) -> tuple[Float[Tensor, " M"], Float[Tensor, " M"]]:
    """Pass rate of π* of each prompt, and its KL to the reference in nats."""
    weighted = p * math.exp(1 / beta)
    best = weighted / (1 - p + weighted)
    kl = best * (best / p).log() + (1 - best) * ((1 - best) / (1 - p)).log()
    return best, kl


def _pass_rates(g: torch.Generator) -> list[tuple[Tensor, float]]:
    """Pass rates between 0 and 1, prices between long and short leashes."""
    by_hand = (torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64), 1.0)
    sizes = [(whole(g, 2, 6), 0.3 + 2 * float(torch.rand(1, generator=g))) for _ in range(4)]
    return [by_hand, *((0.05 + 0.9 * torch.rand(n, generator=g, dtype=torch.float64), beta) for n, beta in sizes)]


def _coin(q: Tensor, p: Tensor) -> Tensor:
    return q * (q / p).log() + (1 - q) * ((1 - q) / (1 - p)).log()


def _with(factor: Callable[[float], float]) -> Callable[[Tensor, float], tuple[Tensor, Tensor]]:
    """The answer with another factor in place of exp(1/β)."""

    def answer(p: Tensor, beta: float) -> tuple[Tensor, Tensor]:
        best = p * factor(beta) / (1 - p + p * factor(beta))
        return best, _coin(best, p)

    return answer


def _and_kl(kl: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, float], tuple[Tensor, Tensor]]:
    """The right pass rate with another KL."""

    def answer(p: Tensor, beta: float) -> tuple[Tensor, Tensor]:
        best, _ = best_success(p, beta)
        return best, kl(best, p)

    return answer


q4 = Question(
    title="9.4 The best success at a price",
    name="best_at_price",
    reference=best_success,
    cases=_pass_rates,
    hints=(
        "Sum π* = π_ref e^{r/β}/Z over all right answers, and over all wrong ones. What does r equal in each sum?",
        "All right answers together have weight p e^{1/β}, all wrong ones (1 − p) e^0. p* is the first over the sum of "
        "both, (14); the KL is that of two coins, (15).",
        "Steps: the weight of the right answers; p* from it; then two terms, heads and tails: p* log(p*/p) and "
        "(1 − p*) log((1 − p*)/(1 − p)). Return both numbers.",
        "weighted = p * math.exp(...)\n"
        "best = weighted / (1 - p + weighted)\n"
        "kl = best * (best / p).log() + ...\n"
        "return best, kl",
    ),
    misconceptions=(
        Misconception(
            "β for 1/β",
            _with(math.exp),
            "You wrote e^β. The exponent in π* is r/β: a small β makes it large.",
        ),
        Misconception(
            "not divided by Z",
            lambda p, beta: (p * math.exp(1 / beta), _coin(best_success(p, beta)[0], p)),
            "Your p* is not divided by Z: it may exceed 1. Z is 1 − p + p e^{1/β}.",
        ),
        Misconception(
            "wrong answers left out",
            _with(lambda beta: math.exp(1 / beta) - 1),
            "Right answers have the factor e^{1/β}, wrong ones the factor e^0 = 1. You subtracted 1 from the first.",
        ),
        Misconception(
            "punished wrong answers",
            _with(lambda beta: math.exp(2 / beta)),
            "You gave wrong answers the reward −1. It is 0 here, so the factors are e^{1/β} and 1.",
        ),
        Misconception(
            "sign of the price",
            _with(lambda beta: math.exp(-1 / beta)),
            "Your p* is below p: right answers must gain, e^{+1/β}.",
        ),
        Misconception(
            "heads only",
            _and_kl(lambda q, p: q * (q / p).log()),
            "Your KL has the right answers only. The wrong ones have a term too: (1 − p*) log((1 − p*)/(1 − p)).",
        ),
        Misconception(
            "the other KL",
            _and_kl(lambda q, p: _coin(p, q)),
            "That is KL(π_ref ‖ π*). The answers come from π*: p* stands in front of the logarithms.",
        ),
        Misconception(
            "KL without the second log ratio",
            _and_kl(lambda q, p: (q / p).log()),
            "You return log(p*/p), the log-ratio of a right answer. The KL is its mean over answers from π*, wrong "
            "ones included.",
        ),
        Misconception(
            "in bits",
            _and_kl(lambda q, p: _coin(q, p) / math.log(2)),
            "Your KL is in bits. This course counts in nats: the natural logarithm.",
        ),
        Misconception(
            "times β",
            lambda p, beta: (best_success(p, beta)[0], beta * best_success(p, beta)[1]),
            "You multiplied the KL by β: that is what it costs. Asked is the KL itself, in nats.",
        ),
    ),
)

# --- 9.5 · capstone: policy gradients in groups ---------------------------------------------------------------------

BETA, K, ITERATIONS, PASSES, RATE, CLIP = 0.5, 16, 150, 2, 0.05, 0.2
Row = dict[str, Tensor]


def train_in_groups(
    log_ref: Float[Tensor, "X N"],
    rewards: Float[Tensor, "X N"],
    beta: float,
    k: int,
    iterations: int,
    passes: int,
    rate: float,
    clip: float,
    generator: torch.Generator,
) -> Iterator[Row]:
    """After each iteration: the policy that answered, its answers, their shaped rewards, advantages, the new policy."""
    logits = log_ref.clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=rate)
    for _ in range(iterations):
        old = logits.detach().log_softmax(-1)
        answers = torch.multinomial(old.exp(), k, replacement=True, generator=generator)
        log_ratio = (old - log_ref).gather(1, answers)
        shaped = rewards.gather(1, answers) - beta * log_ratio
        advantages = (shaped - shaped.mean(1, keepdim=True)) * k / (k - 1)
        for _ in range(passes):
            log_probs = logits.log_softmax(-1)
            ratio = (log_probs - old).gather(1, answers).exp()
            surrogate = torch.minimum(advantages * ratio, advantages * ratio.clamp(1 - clip, 1 + clip))
            optimizer.zero_grad()
            torch.autograd.backward(-surrogate.mean())
            optimizer.step()
        new = logits.detach().log_softmax(-1)
        yield {"old": old, "answers": answers, "shaped": shaped, "advantages": advantages, "new": new}


NAMES = ("old", "answers", "shaped", "advantages", "new")


@dataclass(frozen=True)
class _Training:
    """What one training did: its parts, stacked over the iterations, and the problem that it was let loose on."""

    log_ref: Tensor
    rewards: Tensor
    part: Mapping[str, Tensor]
    """As far as they were delivered, each (I, X, N) or (I, X, K)."""
    iterations: int

    def objective(self, log_p: Tensor) -> Tensor:
        """J of policies (..., X, N), averaged over the prompts."""
        shape = log_p.shape
        ref, rewards = self.log_ref.expand(shape), self.rewards.expand(shape)
        return rlhf_objective(log_p, ref, rewards, BETA).mean(-1)

    @property
    def start(self) -> float:
        return float(self.objective(self.log_ref))

    @property
    def best(self) -> float:
        return float(self.objective(optimal_policy(self.log_ref, self.rewards, BETA)[0]))

    @property
    def gaps(self) -> Tensor:
        """KL(π ‖ π*) after each iteration, in nats, averaged over the prompts."""
        new = self.part["new"]
        star = optimal_policy(self.log_ref, self.rewards, BETA)[0]
        return kl_divergence(new, star.expand(new.shape)).mean(-1)

    @property
    def gap(self) -> float:
        """Its mean over the last third."""
        return float(self.gaps[-(self.iterations // 3) :].mean())

    def picked(self, table: Tensor) -> Tensor:
        """The entries (I, X, K) of a table (X, N) or (I, X, N) that belong to the answers."""
        answers = self.part["answers"]
        return table.expand(*answers.shape[:2], -1).gather(-1, answers)

    @property
    def raw(self) -> Tensor:
        """The rewards of the answers."""
        return self.picked(self.rewards)

    @property
    def log_ratio(self) -> Tensor:
        return self.picked(self.part["old"]) - self.picked(self.log_ref)

    def surprise(self, log_p: Tensor) -> float:
        """By how many standard errors −log p of the answers is away from the entropy, were they drawn from p."""
        log_p = log_p.expand(*self.part["answers"].shape[:2], -1)
        mean = (log_p.exp() * log_p).sum(-1)
        variance = (log_p.exp() * (log_p - mean.unsqueeze(-1)) ** 2).sum(-1)
        n = self.part["answers"].shape[-1]
        return float(((self.picked(log_p) - mean.unsqueeze(-1)).sum()) / (n * variance.sum()).sqrt())

    def is_shaped_by(self, shaped: Tensor) -> bool:
        return _shaping(self) not in (None, "") and _close(self.part["shaped"], shaped)

    def has_advantages(self, advantages: Callable[[Tensor], Tensor]) -> bool:
        return _leave_one_out(self) not in (None, "") and _close(
            self.part["advantages"], advantages(self.part["shaped"])
        )


def _close(got: Tensor, wanted: Tensor) -> bool:
    return got.shape == wanted.shape and torch.allclose(got, wanted, rtol=1e-3, atol=1e-4)


def _puzzle(seed: int) -> tuple[Tensor, Tensor]:
    """Three prompts of six answers, one to three of them right, none of them likely at first."""
    g = torch.Generator().manual_seed(9_000 + seed)
    log_ref = torch.randn(3, 6, generator=g, dtype=torch.float64).log_softmax(-1)
    rewards = torch.zeros(3, 6, dtype=torch.float64)
    for x in range(3):
        rewards[x, torch.randperm(6, generator=g)[: int(torch.randint(1, 4, (1,), generator=g))]] = 1.0
    return log_ref, rewards


def _on_a_puzzle(answer: Callable[..., Any], seed: int) -> _Training:
    log_ref, rewards = _puzzle(seed)
    arguments = (log_ref.clone(), rewards.clone(), BETA, K, ITERATIONS, PASSES, RATE, CLIP)
    result = answer(*arguments, torch.Generator().manual_seed(seed))
    rows = []
    for row in () if result is None else result:
        rows.append(parts(row, *NAMES))
        if len(rows) > ITERATIONS:
            raise Malformed(f"Your loop yields more than {ITERATIONS} times; once an iteration is expected.")
    if rows and len(rows) < ITERATIONS:
        raise Malformed(f"Your loop yields {len(rows)} times; {ITERATIONS} times, once an iteration, is expected.")
    shapes = {"old": (3, 6), "new": (3, 6)}
    part: dict[str, Tensor] = {}
    for name in NAMES:
        if rows and all(name in row for row in rows):
            values = [torch.as_tensor(row[name]).detach() for row in rows]
            shape = shapes.get(name, (3, K))
            if tuple(values[0].shape) != shape:
                raise Malformed(f"The part {name} has shape {tuple(values[0].shape)}; expected is {shape}.")
            part[name] = torch.stack(values).long() if name == "answers" else torch.stack(values).double()
    return _Training(log_ref, rewards, part, ITERATIONS)


def _begins(run: _Training) -> str | None:
    if "old" not in run.part:
        return None
    old = run.part["old"]
    if not torch.allclose(old.exp().sum(-1), torch.ones(old.shape[:2], dtype=torch.float64), atol=1e-3):
        return "exp of `old` does not sum to 1 over the answers; log-probabilities are expected"
    off = float((old[0] - run.log_ref).abs().max())
    return "" if off < 1e-4 else f"the first policy is up to {off:.2f} nats away from log π_ref; 0 is expected"


def _answers(run: _Training) -> str | None:
    if "answers" not in run.part:
        return None
    answers = run.part["answers"]
    if not ((answers >= 0) & (answers < 6)).all():
        return f"the answers are {int(answers.min())} to {int(answers.max())}; numbers from 0 to 5 are expected"
    off = run.surprise(run.part["old"])
    if abs(off) > 5:  # five standard errors: chance does that once in a million runs
        return f"the answers do not look like samples of `old`: {off:+.0f} standard errors off in their mean log π"
    return ""


def _shaping(run: _Training) -> str | None:
    if "shaped" not in run.part:
        return None
    off = float((run.part["shaped"] - run.raw + BETA * run.log_ratio).abs().max())
    return "" if off < 1e-3 else f"r − β log(π/π_ref) of some answer is missed by {off:.2f}"


def _leave_one_out(run: _Training) -> str | None:
    if "advantages" not in run.part:
        return None
    wanted = _rloo(run.part["shaped"])
    off = float((run.part["advantages"] - wanted).abs().max())
    return "" if off < 1e-3 else f"an advantage is missed by {off:.2f}; leave-one-out within each row is expected"


def _climbs(run: _Training) -> str | None:
    if "new" not in run.part:
        return None
    reached = float(run.objective(run.part["new"])[-30:].mean())
    half = (run.start + run.best) / 2
    return (
        ""
        if reached > half
        else (
            f"J goes from {run.start:.3f} to {reached:.3f}; the optimum has {run.best:.3f}, more than half of the way "
            "is expected"
        )
    )


TOLERANCE = 0.02
"""Nats. At π* all shaped rewards of a prompt are equal, so that the noise of the gradient vanishes there: the reference
ends within 0.0001 on each of twenty seeds. The room is for other optimizers."""


def _arrives(run: _Training) -> str | None:
    if run.gap < TOLERANCE:
        return ""
    return f"KL(π ‖ π*) over the last third is {run.gap:.3f} nats; less than {TOLERANCE} is expected"


def _rloo(shaped: Tensor) -> Tensor:
    k = shaped.shape[-1]
    return (shaped - shaped.mean(-1, keepdim=True)) * k / (k - 1)


def _moves(run: _Training) -> float:
    """How far an iteration moves a log-probability at most, in nats."""
    return float((run.part["new"] - run.part["old"]).abs().max())


def _price(run: _Training) -> float | None:
    """Another price c at which the shaped rewards are r − c log(π/π_ref), or None."""
    charge, log_ratio = (run.raw - run.part["shaped"]).flatten(), run.log_ratio.flatten()
    price = float(charge @ log_ratio / (log_ratio @ log_ratio))
    return price if _close(charge, price * log_ratio) else None


def _spread(r: Tensor, correction: int) -> Tensor:
    return r.flatten(-2).std(-1, correction=correction)[..., None, None]


def _come_from(run: _Training, p: Tensor) -> bool:
    """Whether the answers of all iterations come about as often as p (X, N) says: chi squared over the counts."""
    one_hot = F.one_hot(run.part["answers"], p.shape[1]).double()
    counts, n = one_hot.sum((0, 2)), one_hot.shape[0] * one_hot.shape[2]
    return float(((counts - n * p).square() / (n * p)).sum()) < 3 * p.numel()


def _repeats(run: _Training) -> bool:
    """Whether nearly all late answers are those of the iteration before, place by place."""
    late = run.part["answers"][-30:]
    return float((late[1:] == late[:-1]).double().mean()) > 0.97


def _of_the_verdict(run: _Training) -> bool:
    """Whether the shaped rewards, without the right price, are one number for r = 0 and one for r = 1."""
    rest = run.part["shaped"] + BETA * run.log_ratio
    return all(float(rest[run.raw == r].std()) < 1e-3 for r in (0, 1))


def _subtracted(run: _Training) -> Tensor:
    return run.part["shaped"] - run.part["advantages"]


def _same_in_a_row(x: Tensor) -> bool:
    return _close(x, x[..., :1].expand_as(x))


def _first_update_is(*ways: dict[str, Any]) -> Callable[[_Training], bool]:
    """Whether the first iteration is not the right one, and is what comes out in one of these ways."""

    def seen(run: _Training) -> bool:
        came = run.part["new"][0]
        if _leave_one_out(run) != "" or _close(came, _first_update(run)):
            return False
        return any(_close(came, _first_update(run, **way)) for way in ways)

    return seen


def _first_update(
    run: _Training,
    gain: Callable[[Tensor], Tensor] | str = lambda a: a,
    better: Callable[[Tensor, Tensor], Tensor] = torch.minimum,
    sign: float = 1.0,
    passes: int = PASSES,
    rate: float = RATE,
    make: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
) -> Tensor:
    """The policy after the first iteration on the answers of the run, with one thing otherwise."""
    answers, old = run.part["answers"][0], run.log_ref
    shown = {"shaped": run.part["shaped"], "raw": run.raw}
    a = shown[gain][0] if isinstance(gain, str) else gain(run.part["advantages"][0])
    logits = run.log_ref.clone().requires_grad_()
    optimizer = make([logits], lr=rate)
    for _ in range(passes):
        ratio = (logits.log_softmax(-1) - old).gather(1, answers).exp()
        optimizer.zero_grad()
        torch.autograd.backward(-sign * better(a * ratio, a * ratio.clamp(1 - CLIP, 1 + CLIP)).mean())
        optimizer.step()
    return logits.detach().log_softmax(-1)


capstone = Capstone(
    title="9.5 Capstone: policy gradients in groups, whole",
    name="train_by_groups",
    reference=train_in_groups,
    run=_on_a_puzzle,
    time_limit=30.0,
    steps=(
        Step("the policy that answers, which begins at the reference", _begins),
        Step("K answers to each prompt, sampled from it", _answers),
        Step("the KL in the reward", _shaping),
        Step("leave-one-out advantages", _leave_one_out),
        Step("updates that climb", _climbs),
        Step("the end beside the optimum", _arrives),
    ),
    symptoms=(
        Symptom(
            "uniform start",
            lambda run: _begins(run) != "" and float(run.part["old"][0].std()) < 1e-6,
            "Your first policy gives all answers the same probability: begin at the reference's log-probabilities, "
            "not at zeros.",
        ),
        Symptom(
            "the same answer K times",
            lambda run: bool((run.part["answers"] == run.part["answers"][..., :1]).all()),
            "All K answers to a prompt are the same: sample each, do not take the likeliest. Without differences "
            "within the group there is no gradient.",
        ),
        Symptom(
            "answers of the reference",
            lambda run: abs(run.surprise(run.part["old"])) > 5 and _come_from(run, run.log_ref.exp()),
            "Your answers look like samples of the reference, in every iteration: the policy that is trained must "
            "answer, fresh each time.",
        ),
        Symptom(
            "the same random numbers",
            lambda run: abs(run.surprise(run.part["old"])) > 5 and _repeats(run),
            "Iteration after iteration has the same answers: the random numbers begin anew each time. Give "
            "torch.multinomial the `generator` that came in.",
        ),
        Symptom(
            "uniform answers",
            lambda run: abs(run.surprise(run.part["old"])) > 5 and _come_from(run, torch.full_like(run.log_ref, 1 / 6)),
            "All answers come equally often, whatever the policy says: sample them with the probabilities of `old`.",
        ),
        Symptom(
            "answers too unlikely",
            lambda run: run.surprise(run.part["old"]) < -5,
            "Your answers are less likely than samples of `old` are: are they drawn from exp of `old`, and not from "
            "a softer or an earlier policy?",
        ),
        Symptom(
            "answers too likely",
            lambda run: run.surprise(run.part["old"]) > 5,
            "Your answers are likelier than samples of `old` are: rare answers hardly come, so nothing is learned of "
            "them. Draw from exp of `old`, as it is.",
        ),
        Symptom(
            "nothing moves",
            lambda run: _moves(run) < 1e-6,
            "The policy is the same after every iteration. Is the gradient cut off (detach, no_grad, a ratio of old "
            "to old), or the optimizer's step missing?",
        ),
        Symptom(
            "forgets",
            lambda run: bool(torch.allclose(run.part["old"], run.log_ref.expand_as(run.part["old"]), atol=1e-6)),
            "Every iteration begins at the reference again: make the logits and the optimizer once, before the loop.",
        ),
        Symptom(
            "no KL",
            lambda run: run.is_shaped_by(run.raw),
            "Your shaped rewards are the rewards themselves: the price β log(π/π_ref) is missing. Then the optimum is "
            "another one, with no wrong answer at all.",
        ),
        Symptom(
            "sign of the KL",
            lambda run: run.is_shaped_by(run.raw + BETA * run.log_ratio),
            "The sign of your KL is turned: an answer that is more likely than under the reference must *lose* reward.",
        ),
        Symptom(
            "no β",
            lambda run: run.is_shaped_by(run.raw - run.log_ratio),
            "Your KL stands in the reward without its price β.",
        ),
        Symptom(
            "another estimator",
            lambda run: any(
                run.is_shaped_by(run.raw - BETA * k)
                for k in (
                    (-run.log_ratio).exp() - 1 + run.log_ratio,
                    run.log_ratio.exp() - 1 - run.log_ratio,
                    run.log_ratio.square() / 2,
                    run.log_ratio.square(),
                    run.log_ratio.abs(),
                    run.log_ratio.clamp(min=0),
                )
            ),
            "Your price is charged on another figure than the log-ratio, such as k2, k3 or its size. In the reward "
            "it is log(π/π_ref) itself, with its sign: only then is the optimum π*.",
        ),
        Symptom(
            "ratios charged",
            lambda run: any(
                run.is_shaped_by(run.raw - BETA * k)
                for k in (run.log_ratio.exp(), run.log_ratio.exp() - 1, (-run.log_ratio).exp())
            ),
            "Your price is charged on a ratio of probabilities. It is the logarithm of the ratio that costs β a nat.",
        ),
        Symptom(
            "another price",
            lambda run: _shaping(run) != "" and _price(run) is not None,
            "Your shaped rewards are r − c log(π/π_ref) with another price c than β.",
        ),
        Symptom(
            "the KL alone",
            lambda run: any(run.is_shaped_by(c * run.log_ratio) for c in (BETA, -BETA, 1.0, -1.0)),
            "Your shaped rewards hold the KL alone: the verdict r is missing.",
        ),
        Symptom(
            "log-probabilities in place of their ratio",
            lambda run: any(
                run.is_shaped_by(run.raw - BETA * x)
                for x in (run.picked(run.part["old"]), run.picked(run.log_ref), -run.picked(run.log_ref))
            ),
            "Your price is charged on one log-probability. The KL is the *difference* of two: of the policy that "
            "answered and of the reference.",
        ),
        Symptom(
            "the verdict changed",
            lambda run: _shaping(run) not in (None, "") and _of_the_verdict(run),
            "The KL in your shaped rewards is right, and the verdict r in them is not what came in: shifted, scaled or "
            "turned round.",
        ),
        Symptom(
            "the price otherwise",
            lambda run: _shaping(run) not in (None, ""),
            "What your shaped rewards take off the verdict is not β times the log-ratio of the same answer, old "
            "policy to reference.",
        ),
        Symptom(
            "mean of all",
            lambda run: run.has_advantages(lambda r: r - r.mean(-1, keepdim=True)),
            "You subtract the mean of all K, the own answer included: that is (6), shorter by (K − 1)/K. Leave the own "
            "one out.",
        ),
        Symptom(
            "divided by the spread",
            lambda run: any(
                run.has_advantages(
                    lambda r, e=e, c=c: (r - r.mean(-1, keepdim=True)) / (r.std(-1, keepdim=True, correction=c) + e)
                )
                for e in (0.0, 1e-8, 1e-6, 1e-4)
                for c in (0, 1)
            ),
            "Your advantages are divided by the standard deviation of the group: that is GRPO. Asked is leave-one-out.",
        ),
        Symptom(
            "another middle",
            lambda run: any(
                run.has_advantages(rule)
                for rule in (
                    lambda r: r - r.median(-1, keepdim=True).values,
                    lambda r: r - r.max(-1, keepdim=True).values,
                    lambda r: r - r.min(-1, keepdim=True).values,
                    lambda r: r - (r.max(-1, keepdim=True).values + r.min(-1, keepdim=True).values) / 2,
                )
            ),
            "Your baseline is the median or an extreme of the group. Asked is the mean of the others.",
        ),
        Symptom(
            "the sum of the others",
            lambda run: any(
                run.has_advantages(rule)
                for rule in (
                    lambda r: r - (r.sum(-1, keepdim=True) - r) / r.shape[-1],
                    lambda r: r - (r.sum(-1, keepdim=True) - r),
                    lambda r: r - r.sum(-1, keepdim=True) / (r.shape[-1] - 1),
                )
            ),
            "Your baseline divides the others' sum by another number than theirs: there are K − 1 of them.",
        ),
        Symptom(
            "scaled by the group",
            lambda run: any(
                run.has_advantages(rule)
                for rule in (
                    *(
                        lambda r, e=e: (r - r.mean(-1, keepdim=True)) / (r.var(-1, keepdim=True) + e)
                        for e in (0.0, 1e-8, 1e-6, 1e-4)
                    ),
                    *(lambda r, e=e: _rloo(r) / (r.std(-1, keepdim=True) + e) for e in (0.0, 1e-8, 1e-6, 1e-4)),
                    lambda r: (r - r.mean(-1, keepdim=True)) / r.mean(-1, keepdim=True),
                    lambda r: (r - r.mean(-1, keepdim=True)).sign(),
                    lambda r: r.softmax(-1),
                )
            ),  # fmt: skip
            "Your advantages are divided by something that differs from group to group, such as the variance. Then a "
            "prompt's weight depends on its pass rate (section 5). Asked is the plain difference.",
        ),
        Symptom(
            "whitened over the batch",
            lambda run: any(
                run.has_advantages(lambda r, c=c, e=e: (r - r.mean((-2, -1), keepdim=True)) / (_spread(r, c) + e))
                for c in (0, 1)
                for e in (0.0, 1e-8, 1e-6, 1e-4)
            ),
            "Your advantages are whitened over all prompts at once. The others of an answer are those to the *same* "
            "prompt, and nothing is divided.",
        ),
        Symptom(
            "signs cut off",
            lambda run: (
                run.has_advantages(lambda r: _rloo(r).clamp(min=0))
                or run.has_advantages(lambda r: _rloo(r).abs())
                or run.has_advantages(lambda r: _rloo(r).clamp(-1, 1))
            ),
            "Your advantages are cut off or lose their sign. Who is worse than the others needs a negative one.",
        ),
        Symptom(
            "another single answer",
            lambda run: any(run.has_advantages(lambda r, k=k: r - r.roll(k, -1)) for k in range(1, K)),
            "Your baseline is the reward of one other answer. Asked is the mean of all the others: it has less noise.",
        ),
        Symptom(
            "of the bare rewards",
            lambda run: run.has_advantages(lambda shaped: _rloo(run.raw)),
            "Your advantages are made of the verdicts alone: the KL in the shaped rewards never reaches the gradient.",
        ),
        Symptom(
            "across prompts",
            lambda run: (
                run.has_advantages(lambda r: r - r.mean(-2, keepdim=True))
                or run.has_advantages(lambda r: r - r.mean((-2, -1), keepdim=True))
            ),
            "Your baseline averages over prompts. The others of an answer are those to the *same* prompt, its row.",
        ),
        Symptom(
            "no baseline",
            lambda run: run.has_advantages(lambda r: r),
            "Your advantages are the shaped rewards themselves: no baseline is subtracted.",
        ),
        Symptom(
            "sign of the advantage",
            lambda run: run.has_advantages(lambda r: -_rloo(r)),
            "The sign of your advantages is turned: who is better than the others has a positive one.",
        ),
        Symptom(
            "another baseline for the row",
            lambda run: _leave_one_out(run) not in (None, "") and _same_in_a_row(_subtracted(run)),
            "All answers to a prompt have the same number subtracted. In leave-one-out each has its own: the mean of "
            "the *others*.",
        ),
        Symptom(
            "advantages by another rule",
            lambda run: _leave_one_out(run) not in (None, ""),
            "Your advantages are not the shaped reward of an answer minus the mean of the other K − 1 in its row, in "
            "reward units.",
        ),
        Symptom(
            "`new` is not what answers next",
            lambda run: not _close(run.part["new"][:-1], run.part["old"][1:]),
            "What you call `new` is not the policy that answers in the next iteration. It is the log-softmax of the "
            "logits after the last pass.",
        ),
        *(
            Symptom(name, _first_update_is(*ways), message)
            for name, ways, message in (
                (
                    "another learning rate",
                    tuple({"rate": RATE * c} for c in (1e-3, 1e-2, 0.1, 0.2, 0.5, 2.0, 5.0, 10.0, 20.0, 100.0)),
                    "The first update is the right one with another learning rate than `rate`.",
                ),
                (
                    "another number of passes",
                    tuple({"passes": passes} for passes in (1, 3, 4, 5, 8, 10)),
                    "The first update is the right one with another number of passes than `passes`.",
                ),
                (
                    "maximum for minimum",
                    ({"better": torch.maximum},),
                    "The first update is what comes out of the *better* of the two gains. (12) takes the worse one, "
                    "else the clip never holds.",
                ),
                (
                    "the loss upside down",
                    ({"sign": -1.0}, {"sign": -1.0, "better": torch.maximum}),
                    "The first update is the right one, turned round: an optimizer goes down, so the loss is minus the "
                    "surrogate.",
                ),
                (
                    "signs of the advantages lost",
                    ({"gain": torch.abs}, {"gain": torch.ones_like}, {"gain": torch.relu}),
                    "The first update is what comes out if bad answers count as good ones, or not at all: the sign "
                    "of the advantage is lost on the way to the loss.",
                ),
                (
                    "plain gradient steps",
                    ({"make": torch.optim.SGD},),
                    "The first update is a plain gradient step, without Adam: with `rate` it is far too short.",
                ),
                (
                    "rewards in the loss",
                    ({"gain": "shaped"}, {"gain": "raw"}),
                    "The first update is that of the rewards themselves: the advantages are not used in the loss.",
                ),
            )
        ),
        Symptom(
            "downhill",
            lambda run: float(run.objective(run.part["new"])[-1]) < run.start - 0.02,
            "J falls from the first iteration on: the sign of the loss is turned. An optimizer goes down, so the loss "
            "is minus the surrogate.",
        ),
        Symptom(
            "another first update",
            lambda run: (
                (_climbs(run) not in (None, "") or _arrives(run) != "")
                and not _close(run.part["new"][0], _first_update(run))
            ),
            "The parts are right up to the advantages, and already the first update is not what (12) makes of them: "
            "the mean over all answers of the worse of the two gains, downhill on its negative.",
        ),
    ),
    shows=lambda records: (
        f"over {len(records)} problems, J(π*) − J(π_ref) is {_mean(r.best - r.start for r in records):.2f} reward "
        f"units, and your policies end {_mean(r.gap for r in records):.3f} nats away from π*."
    ),
    hints=(
        "Which policy answers, which one is trained, and when do the two become the same again?",
        "One iteration: freeze the policy (old), sample K answers to each prompt from it, shape their rewards to "
        "r − β log(π_old/π_ref), subtract the mean of the others, and take some steps on (12). The gradient runs "
        "through log π of the policy that is trained, and through nothing else.",
        "Before the loop: logits, a copy of log_ref with a gradient, and Adam. In it: old = their log-softmax, "
        "detached; answers by torch.multinomial with the generator; log-ratio and reward by gather; shaped; "
        "advantages. Then `passes` times: log-softmax again, the ratio to old at the answers, the clipped surrogate, "
        "zero_grad, backward of minus its mean, step. Yield the five parts.",
        "logits = log_ref.clone().requires_grad_()\n"
        "optimizer = torch.optim.Adam([logits], lr=rate)\n"
        "for _ in range(iterations):\n"
        "    old = logits.detach().log_softmax(-1)\n"
        "    answers = torch.multinomial(old.exp(), k, replacement=True, generator=generator)\n"
        "    shaped = rewards.gather(1, answers) - beta * ...\n"
        "    advantages = ...\n"
        "    for _ in range(passes):\n"
        "        ratio = (logits.log_softmax(-1) - old).gather(1, answers).exp()\n"
        "        surrogate = torch.minimum(advantages * ratio, ...)\n"
        "        ...\n"
        "    new = logits.detach().log_softmax(-1)\n"
        '    yield {"old": old, "answers": answers, "shaped": shaped, "advantages": advantages, "new": new}',
    ),
)


def _mean(values: Iterator[float] | Sequence[float]) -> float:
    found = list(values)
    return sum(found) / len(found)


# --- predictions ----------------------------------------------------------------------------------------------------

p1 = Prediction(
    "GRPO divides by the standard deviation of the group. Which prompts gain weight?",
    (
        "those whose answers are about half right: there is most to learn.",
        "the very hard and the very easy ones.",
        "none: it is one factor for all, which Adam takes out.",
    ),
    answer=1,
    meanings=(
        "They have the largest gradient without the division, p(1 − p) at p = ½. The division takes weight from them.",
        "The spread of 0/1 rewards is √(p(1 − p)): smallest where nearly all answers agree, and it stands below.",
        "It would have meant the same spread in every group. But it depends on the prompt's pass rate.",
    ),
)
p2 = Prediction(
    "Where do RLOO and GRPO end in the exact world, at β = 0.5?",
    (
        "both near π*.",
        "neither climbs: without a critic the noise is too large.",
        "RLOO near π*; GRPO climbs too, but to another place.",
    ),
    answer=2,
    meanings=(
        "It would have meant that the place of the KL does not matter. But the gradient of k3 is another one than that "
        "of the KL (notebook 03, section 9).",
        "It would have meant that the mean of seven other answers is a bad baseline. It is a good one: they answer the "
        "same prompt.",
        "RLOO's gradient is that of the objective, (5); k3 in GRPO's loss holds the policy by another leash.",
    ),
)
p3 = Prediction(
    "GRPO raises pass@1. What happens to pass@16?",
    (
        "it rises about as many points as pass@1.",
        "it falls clearly: the policy gives up answers.",
        "hardly anything: it was nearly 1 before.",
    ),
    answer=2,
    meanings=(
        "It would have meant problems that 16 tries of the SFT model do not solve. There are few.",
        "It would have meant problems that the SFT model solves now and then and the trained policy never.",
        "With 16 tries the SFT model solves nearly every problem. GRPO brings the first try closer to that.",
    ),
)
p4 = Prediction(
    "GRPO against the sloppy checker: which share of the answers is really right in the end?",
    (
        "nearly none.",
        "about as many as with the right checker: most answers in order are right.",
        "about as many as before training.",
    ),
    answer=0,
    meanings=(
        "Short answers of any letters are in order more surely than right ones, and nothing else is asked.",
        "It would have meant that what is in order is mostly right. Of the SFT model's answers in order more than half "
        "are wrong, and training moves to others still.",
        "It would have meant that the hack replaces wrong answers only. It replaces right ones too.",
    ),
)
