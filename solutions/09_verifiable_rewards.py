# %% [markdown]
# # 09 · Rewards that can be checked
#
# Some answers need no judge of taste. Whether a sum is right, a program passes its tests, a list is in order: a few
# lines of code can say so. Then the reward model goes, and with it the pairs, the annotators and the value head. What is
# left is the policy gradient of notebook 04, a group of answers to each prompt, and a checker. This notebook takes the
# methods of that kind apart, RLOO and GRPO, and trains with them.

# %% [markdown]
# ## What you will be able to do
#
# - Estimate pass@1 and pass@k without bias, with intervals.
# - Prove that the leave-one-out baseline is unbiased, and check it over all groups.
# - Say what GRPO's division by the standard deviation and by the length do to the gradient, and what DAPO and Dr. GRPO
#   change.
# - Draw the exact frontier of success against KL from nothing but the reference's pass rates.
# - Write the whole training loop, and recognise a policy that has learned the checker in place of the task.
#
# **You need:** notebooks 03 and 04. Notebook 08 ends where people judge the answers; this one starts where nobody has
# to. It uses nothing of 08, and a model of its own. **Time:** {minutes} minutes of work; the cells run in two to four minutes on a laptop CPU.
# The models are too small to gain from a GPU.

# %% tags=["folded"]
# @title Imports
import itertools
import math
from collections.abc import Iterator
from dataclasses import replace

import matplotlib.pyplot as plt
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from week6 import (
    SFTConfig,
    decode,
    encode_demonstrations,
    encode_prompts,
    kl_divergence,
    make_optimizer,
    optimal_policy,
    response_log_probs,
    sample,
    small_world,
    train_sft,
)
from week6.checks import nb09 as check
from week6.group import GRPOConfig, group_policy_loss, grpo_advantages, train_grpo
from week6.pictures import comparison, verifiable
from week6.pictures.figures import roadmap
from week6.pictures.plots import STYLE
from week6.run.evaluation import estimate
from week6.run.models import frozen_copy
from week6.tasks import sorting as puzzle

plt.rcParams.update(STYLE)
_ = torch.manual_seed(0)
torch.set_num_threads(1)  # the models are small: a second thread would only wait for the first

# %%
_ = roadmap(9)
plt.show()

# %% [markdown]
# *Roadmap: the stops of the course. You are at stop 09, where a checker stands in the place of preferences and reward
# model.*
#
# | symbol | meaning | unit |
# |---|---|---|
# | $\pi$, $\pi_\mathrm{ref}$, $\pi^*$ | policy, reference (the SFT model), best policy at price $\beta$ | |
# | $r$ | verdict of the checker: 1 for a right answer, else 0 | reward units |
# | $p(x)$ | pass rate: the probability that one answer to prompt $x$ is right | |
# | $n$, $c$ | answers sampled to a prompt, and how many of them are right | |
# | $K$, $\hat A_i$ | answers to one prompt in training (a *group*), advantage of answer $i$ | reward units |
# | $\lvert y \rvert$ | tokens of an answer, its end token included | tokens |
# | $\rho_t$, $\varepsilon_\mathrm{low}$, $\varepsilon_\mathrm{high}$ | ratio $\pi(y_t)/\pi_\mathrm{old}(y_t)$; the two ends of the clip | |
#
# ## 1 · A reward that nobody has to learn
#
# The puzzle: put the letters of the prompt in order.

# %% tags=["nbval-check-output"]
task = puzzle.sorting()
train_prompts, heldout = list(task.prompts["prompt"]), list(task.heldout_prompts["prompt"])
longer = puzzle.longer_problems()
shown_prompts, shown_answers = list(task.demonstrations["prompt"]), list(task.demonstrations["completion"])
good = [puzzle.is_right(prompt, answer) for prompt, answer in zip(shown_prompts, shown_answers, strict=True)]
for prompt, answer, is_good in list(zip(shown_prompts, shown_answers, good, strict=True))[:6]:
    print(f"{prompt:14} → {answer.strip():12} {'right' if is_good else 'WRONG'}")
print(f"\n{len(good):,} demonstrations, {sum(good) / len(good):.0%} of them right")
assert abs(sum(good) / len(good) - 0.5) < 0.05
print("training and held-out problems:", puzzle.LENGTHS, "letters; longer ones:", puzzle.LONGER)
assert not {"".join(sorted(p)) for p in train_prompts} & {"".join(sorted(p)) for p in heldout}
print(f"{len(train_prompts)} prompts for training, {len(heldout)} held out: no held-out answer occurs in training.")

# %% [markdown]
# Three things are like the large tasks of this kind, mathematics and programming:
#
# - A **verifier** says whether an answer is right. Ours is one line: `answer.split() == sorted(letters)`. Training on such
#   verdicts is called **RLVR**, reinforcement learning with verifiable rewards (Lambert et al. 2024).
# - There are demonstrations, but not all of them are good. About half of ours hold one slip, on purpose: two neighbours
#   swapped, a letter left out, doubled or replaced.
# - Checking needs no demonstration. So a problem that nobody has solved can be trained on as well.
#
# First, SFT on the 4,000 demonstrations. The policy is a GPT-2 of the chatbot's width and depth. It has no position
# embeddings: which letters the prompt holds matters, and not where they stand. (In a
# comparison of decoders, those without them also carried over best to longer inputs: Kazemnejad et al. 2023.)

# %% tags=["nbval-ignore-output"]
tokenizer = task.tokenizer
demonstrations = encode_demonstrations(
    tokenizer, list(task.demonstrations["prompt"]), list(task.demonstrations["completion"])
)
sft = puzzle.new_policy(seed=0)
imitation = SFTConfig(steps=300, batch_size=64, learning_rate=5e-3)
optimizer = make_optimizer(sft, imitation.learning_rate)
for _ in tqdm(train_sft(sft, optimizer, demonstrations, imitation, seed=0), total=imitation.steps, desc="SFT"):
    pass
reference = frozen_copy(sft)


# %% tags=["folded"]
# @title n answers to each prompt, and what the checker says of them
def answer(policy, prompts: list[str], n: int, checker=puzzle.is_right, seed: int = 1):
    """Verdicts of n answers to each of M prompts, shape (M, n); one k1 of the KL to the reference each; the texts."""
    asked = [prompt for prompt in prompts for _ in range(n)]
    tokens, mask = encode_prompts(tokenizer, asked)
    rollout = sample(policy, tokens, mask, task.max_new_tokens, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        ref = response_log_probs(reference, tokens, mask, rollout.responses, rollout.response_mask)
    texts = decode(tokenizer, rollout.responses, rollout.response_mask)
    verdicts = puzzle.verified(checker)(asked, texts) * rollout.finished  # an answer that does not end is wrong
    return verdicts.view(-1, n), (rollout.log_probs - ref).sum(-1).view(-1, n), texts


def reward_by(checker):
    """The checker as a reward of sampled answers, for training."""

    def reward(rollout) -> Float[Tensor, " B"]:
        asked = decode(tokenizer, rollout.prompts, rollout.prompt_mask)
        return puzzle.verified(checker)(asked, decode(tokenizer, rollout.responses, rollout.response_mask))

    return reward


# %% [markdown]
# ## 2 · How often is it right? pass@1 and pass@k
#
# To a prompt with pass rate $p$, one answer is right with probability $p$: **pass@1**. With $k$ tries, all of them fail with
# probability $(1-p)^k$, so that at least one is right with probability
#
# $$\mathrm{pass@}k = 1 - (1 - p)^k. \tag{1}$$
#
# We do not know $p$; we have $n$ answers, $c$ of them right. It is tempting to put $c/n$ in place of $p$. But (1) is
# concave in $p$, so that by Jensen's inequality the result is too low on average. Instead, ask how many of all sets
# of $k$ of the $n$ answers hold no right one: those that come from the $n-c$ wrong ones alone. So (Chen et al. 2021)
#
# $$\widehat{\mathrm{pass@}k} = 1 - \binom{n-c}{k} \Big/ \binom{n}{k}. \tag{2}$$
#
# Each set of $k$ answers holds $k$ independent tries, and contains a right one with probability (1). A mean over all sets has the same
# expectation, which is why (2) is **unbiased**.
#
# ### Exercise 9.1 · pass@k
# *difficulty 2/5 · importance 4/5 · 8 minutes*
#
# Write (2). `correct` has shape `(M,)`: $c$ of each of M problems, all with the same `n`; return one number a problem.
# `math.comb(a, b)` is $\binom{a}{b}$, and 0 where $b > a$.


# %% tags=["exercise"]
def pass_at(correct: Int[Tensor, " M"], n: int, k: int) -> Float[Tensor, " M"]:
    """P(at least one of k answers is right), from n answers of which `correct` were right."""
    # BEGIN SOLUTION
    sets = math.comb(n, k)
    return torch.tensor([1 - math.comb(n - c, k) / sets for c in correct.tolist()])
    # END SOLUTION


# %% tags=["nbval-check-output"]
check.q1(pass_at)

# %% tags=["student-only"]
# check.q1.hint()
# check.q1.solution()

# %% tags=["nbval-check-output"]
pass_at_k = check.q1.or_ours(pass_at)

# %% tags=["nbval-check-output"]
n, k, p = 8, 4, 0.2
counts = torch.arange(n + 1)  # how many of 8 may be right
chance = torch.tensor([math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)], dtype=torch.float64)
truth = 1 - (1 - p) ** k  # (1)
unbiased = float((chance * pass_at_k(counts, n, k)).sum())  # expectation of (2)
plugged_in = float((chance * (1 - (1 - counts / n) ** k)).sum())
assert math.isclose(unbiased, truth, abs_tol=1e-6) and plugged_in < truth - 0.02
print(
    f"Checked: with p = {p}, pass@{k} is {truth:.3f}. Formula (2) gives {unbiased:.3f} on average, c/n in (1) {plugged_in:.3f}."
)

# %% [markdown]
# How good is the SFT model? 16 answers to each of 64 held-out problems, and to each of 64 longer ones. The standard errors
# are those of independent *problems*: answers to one problem are alike (notebook 07, section 4).


# %% tags=["folded"]
# @title A table of pass rates
def pass_rates(policies: dict, n: int = 16, seed: int = 1) -> pd.DataFrame:
    """pass@1 and pass@16 on held-out and on longer problems, "mean ± 2 standard errors"."""
    rows = {}
    for name, policy in policies.items():
        row = {}
        for kind, prompts in (("held out", heldout), ("longer", longer)):
            correct = answer(policy, prompts, n, seed=seed)[0].sum(1).long()
            for k in (1, n):
                mean, error, *_ = estimate(pass_at_k(correct, n, k)[:, None])
                row[f"{kind}, pass@{k}"] = (mean, error)
        rows[name] = row
    return pd.DataFrame(rows).T


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """Means with two standard errors, to read."""
    return table.map(lambda cell: f"{cell[0]:.2f} ± {2 * cell[1]:.2f}")


# %% tags=["nbval-ignore-output"]
rates = pass_rates({"SFT": reference})
shown(rates)

# %% tags=["nbval-check-output", "folded"]
# @title Checked: what SFT has learned
first, many = (rates[f"held out, pass@{k}"]["SFT"][0] for k in (1, 16))
assert 0.2 < first < 0.5 < 0.9 < many and rates["longer, pass@1"]["SFT"][0] < first
print("Checked: the SFT model solves a held-out problem at the first try in 20 to 50 % of cases, and more than 90 %")
print("of the problems at one of 16 tries. On longer problems it is worse.")

# %% [markdown]
# The SFT model *can* do it: among 16 tries there is nearly always a right one. But half of what it imitates holds a slip,
# and most of its own answers are wrong. No demonstration says which answers were the good ones. The checker does.

# %% [markdown]
# ## 3 · The others are the baseline
#
# Notebook 04: $\nabla\, \mathbb{E}_\pi[r] = \mathbb{E}_\pi[\,(r(y) - b)\, \nabla \log \pi(y)\,]$ for every baseline $b$ that
# does **not depend on the answer** it is subtracted from. PPO learns one, with a value head. There is a cheaper way to
# know how good answers to this prompt *usually* are: sample $K$ of them, a *group*, and let them be each other's
# baseline. The estimate of the gradient is then
#
# $$g = \frac1K \sum_{i=1}^K \hat A_i\, \nabla \log \pi(y_i), \tag{3}$$
#
# with, for answer $i$, the mean of the *others* as the baseline (**RLOO**, REINFORCE leave-one-out: Kool et al. 2019, Ahmadian et
# al. 2024):
#
# $$\hat A_i = r_i - \frac{1}{K-1} \sum_{j \ne i} r_j. \tag{4}$$
#
# The others are independent of $y_i$. So for each $i$ the expectation over the others comes first. It turns the baseline into
# the constant $\mathbb{E}[r]$, and the rest is notebook 04:
#
# $$\mathbb{E}[g] = \frac1K \sum_i \mathbb{E}\big[ (r_i - \mathbb{E}[r])\, \nabla \log \pi(y_i) \big]
# = \nabla\, \mathbb{E}_\pi[r]. \tag{5}$$
#
# What if you subtract the mean $\bar r$ of **all** $K$, your own answer included? Then
# $r_i - \bar r = \frac{K-1}{K} \hat A_i$: the same direction, a little shorter,
#
# $$\mathbb{E}\Big[ \frac1K \sum_i (r_i - \bar r)\, \nabla \log \pi(y_i) \Big]
# = \frac{K-1}{K}\, \nabla\, \mathbb{E}_\pi[r]. \tag{6}$$
#
# ### Exercise 9.2 · Leave one out
# *difficulty 2/5 · importance 4/5 · 8 minutes*
#
# Equation (4) for `rewards` of shape `(B, K)`: prompt, answer. Without a loop over the answers, if you can.


# %% tags=["exercise"]
def leave_one_out(rewards: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
    """RLOO advantages: each reward minus the mean of the other K − 1 of its row."""
    # BEGIN SOLUTION
    k = rewards.shape[1]
    return (rewards - rewards.mean(1, keepdim=True)) * k / (k - 1)
    # END SOLUTION


# %% tags=["nbval-check-output"]
check.q2(leave_one_out)

# %% tags=["student-only"]
# check.q2.hint()
# check.q2.solution()

# %% tags=["nbval-check-output"]
rloo_advantages = check.q2.or_ours(leave_one_out)

# %% [markdown]
# We check (5) and (6) exactly. Five possible answers, groups of $K = 3$: that makes $5^3 = 125$ groups. We list all of
# them, so the expectations are sums.

# %% tags=["nbval-check-output"]
generator = torch.Generator().manual_seed(0)
logits = torch.randn(5, generator=generator, dtype=torch.float64, requires_grad=True)  # shape (5,): θ
toy_rewards = torch.tensor([0.0, 0.1, 0.2, 1.0, 3.0], dtype=torch.float64)  # shape (5,)
K = 3
groups = torch.tensor(list(itertools.product(range(5), repeat=K)))  # shape (125, K): which answer the i-th one is
chance = logits.log_softmax(-1).detach()[groups].sum(1).exp()  # shape (125,): probability of the group
torch.testing.assert_close(chance.sum(), torch.tensor(1.0).double())


def expected_gradient(advantages: Float[Tensor, "125 K"]) -> Float[Tensor, " 5"]:
    """E[1/K Σ_i Â_i ∇ log π(y_i)] over all groups."""
    log_pi = logits.log_softmax(-1)[groups]  # shape (125, K)
    (result,) = torch.autograd.grad((chance * (advantages * log_pi).mean(1)).sum(), logits)
    return result


in_groups = toy_rewards[groups]  # shape (125, K): rewards
(true_gradient,) = torch.autograd.grad((logits.softmax(-1) * toy_rewards).sum(), logits)
unbiased = expected_gradient(rloo_advantages(in_groups.float()))  # (5), the advantages in fp32 like everywhere
torch.testing.assert_close(unbiased, true_gradient, rtol=1e-5, atol=1e-6)
all_mean = in_groups - in_groups.mean(1, keepdim=True)
torch.testing.assert_close(expected_gradient(all_mean), (K - 1) / K * true_gradient)  # (6)
print("Checked exactly over all 125 groups: (5) leave-one-out is unbiased, (6) the mean of all gives (K − 1)/K of it.")

# %% [markdown]
# ## 4 · Divided by the spread
#
# **GRPO** (Shao et al. 2024) subtracts the mean of all *and divides by the standard deviation of the group*:
#
# $$\hat A_i = \frac{r_i - \bar r}{\mathrm{std}(r_1 \dots r_K) + \epsilon}. \tag{7}$$
#
# The std has $K - 1$ in its denominator here, and $\epsilon = 10^{-4}$.
#
# **Predict.** With a 0/1 reward, which prompts gain weight by the division, compared with RLOO?
#
# - a) those whose answers are about half right: there is most to learn
# - b) the very hard and the very easy ones
# - c) none: it is one factor for all, which Adam takes out

# %% tags=["nbval-check-output"]
check.p1("b")  # SOLUTION

# %% [markdown]
# Unlike that of (6) it is no constant factor, and we can compute it. Let $c$ of the $K$ answers be right. A right one has the advantage $(1 - c/K)/s_c$, a wrong one
# $-(c/K)/s_c$, with $s_c = \sqrt{c(K-c)/(K(K-1))}$. Write $g_+$ for the mean of $\nabla \log \pi(y)$ over right answers and
# $g_-$ for that over wrong ones. Given $c$, the expectation of (3) is
# $\frac{c(K-c)}{K^2 s_c}(g_+ - g_-)$. And the gradient of the pass rate is
# $\nabla p = p\, g_+ = p(1-p)(g_+ - g_-)$, since $p\, g_+ + (1-p)\, g_- = 0$. Together:
#
# $$\mathbb{E}[g_\mathrm{GRPO}] = w_K(p)\, \nabla p, \qquad
# w_K(p) = \frac{1}{p(1-p)} \sum_{c=1}^{K-1} \binom{K}{c} p^c (1-p)^{K-c}\, \frac{c(K-c)}{K^2\, s_c}. \tag{8}$$
#
# With one prompt that is a longer or shorter step in the right direction. With many prompts it is another direction:
# each prompt's $\nabla p$ counts $w_K(p)$ times. For large $K$ the share $c/K$ goes to $p$, and $w \to 1/\sqrt{p(1-p)}$,
# which is the derivative of $2 \arcsin \sqrt p$. So GRPO without its KL climbs
#
# $$\mathbb{E}_x\big[\, 2 \arcsin \sqrt{p(x)}\, \big] \qquad \text{and not} \qquad \mathbb{E}_x[\, p(x)\, ], \tag{9}$$
#
# up to the finite $K$ (Davis and Recht 2025 derive such objectives for several methods).

# %% tags=["nbval-check-output"]
K = 4


def weight(p: Float[Tensor, " P"], K: int) -> Float[Tensor, " P"]:
    """w_K(p) of (8)."""
    total = torch.zeros_like(p)
    for c in range(1, K):
        spread = math.sqrt(c * (K - c) / (K * (K - 1)))
        total += float(math.comb(K, c)) * p**c * (1 - p) ** (K - c) * c * (K - c) / (K**2 * spread)
    return total / (p * (1 - p))


right = torch.tensor([0.0, 0.0, 1.0, 0.0, 1.0], dtype=torch.float64)  # shape (5,): which answers are right
groups = torch.tensor(list(itertools.product(range(5), repeat=K)))  # shape (625, K)
print("pass rate   weight in RLOO   in GRPO, K = 4   K = 64   1/√(p(1 − p))")
for shift in (-4.0, -2.0, 0.0, 2.0):
    logits = (torch.tensor([0.3, -0.2, 0.0, 0.5, -0.6]).double() + shift * right).requires_grad_()
    chance = logits.log_softmax(-1).detach()[groups].sum(1).exp()
    p = (logits.softmax(-1) * right).sum()
    (of_p,) = torch.autograd.grad(p, logits, retain_graph=True)  # ∇p
    p = p.detach()[None]
    expected = expected_gradient(grpo_advantages(right[groups], eps=0.0))
    torch.testing.assert_close(expected, weight(p, K) * of_p)  # (8)
    torch.testing.assert_close(expected_gradient(rloo_advantages(right[groups].float())), of_p, rtol=1e-5, atol=1e-7)
    limit = float(1 / (p * (1 - p)).sqrt())
    print(f"{p.item():9.3f} {1.0:16.2f} {weight(p, K).item():16.2f} {weight(p, 64).item():8.2f} {limit:16.2f}")
p = torch.linspace(0.05, 0.95, 91, dtype=torch.float64, requires_grad=True)
(slope,) = torch.autograd.grad((2 * p.sqrt().arcsin()).sum(), p)
torch.testing.assert_close(slope, 1 / (p * (1 - p)).sqrt())  # (9)
p = p.detach()
assert ((weight(p, 512) * (p * (1 - p)).sqrt() - 1).abs() < 0.03).all() and weight(p, 8).argmin() == 45
print("Checked: (8) over all 625 groups for four pass rates, (9), and that w has its lowest value at p = ½.")

# %%
curves = {"RLOO": torch.ones_like(p), "GRPO, K = 8": weight(p, 8), "GRPO, K = 64": weight(p, 64)}
verifiable.weights_of_prompts(p, curves)

# %% [markdown]
# *Figure 1. The weight of a prompt against its pass rate. RLOO's is 1 everywhere. GRPO's is lowest in the middle and
# rises to both ends, the more the larger the group.*

# %% tags=["nbval-check-output"]
check.p1.outcome()

# %% [markdown]
# Hard prompts gain, which may be what you want. Nearly solved ones gain just as much, which is hardly what you want.
# Liu et al. (2025) leave the division out (**Dr. GRPO**). With a reward of any scale there is one more effect: all rewards times
# ten leave (7) as it is. So where a leash stands beside (7) in the loss, as in GRPO itself (section 7), β is no longer a price in
# reward units per nat.
#
# One thing is the same in all these methods: in a group whose answers are all right or all wrong the checker gives no gradient.

# %% tags=["nbval-check-output"]
for same in (torch.zeros(1, 8), torch.ones(1, 8)):
    assert rloo_advantages(same).abs().max() < 1e-6 and not grpo_advantages(same).any()
mixed = torch.tensor([[0.0, 1.0, 0.0, 0.0]], dtype=torch.float64)
torch.testing.assert_close(grpo_advantages(10 * mixed, eps=0.0), grpo_advantages(mixed, eps=0.0))
print("share of groups with a gradient, 1 − p^K − (1 − p)^K, for K = 8:")
print(", ".join(f"p = {q:g}: {1 - q**8 - (1 - q) ** 8:.2f}" for q in (0.01, 0.1, 0.5, 0.9, 0.99)))

# %% [markdown]
# That is why DAPO (Yu et al. 2025) samples until a batch is full of mixed groups, and why a task must be neither too hard nor
# too easy for the policy that begins: what never happens cannot be reinforced.

# %% [markdown]
# ## 5 · What is a mean over tokens?
#
# In code the loss is a sum over tokens, $s_{it} = -\hat A_i \log \pi(y_{it})$ at the first step, and all tokens of an answer share its
# advantage. Three means are in use:
#
# $$\underbrace{\frac1B \sum_i \frac{1}{|y_i|} \sum_t s_{it}}_{\text{GRPO}} \qquad
# \underbrace{\frac{\sum_i \sum_t s_{it}}{\sum_i |y_i|}}_{\text{DAPO}} \qquad
# \underbrace{\frac1B \sum_i \sum_t s_{it}}_{\text{RLOO, Dr. GRPO}} \tag{10}$$
#
# Only the third is (3): $\log \pi(y) = \sum_t \log \pi(y_t)$ is a sum, without division. The second differs from it by a factor that is the
# same for all tokens of a batch. The first divides each answer by **its own** length. With leave-one-out advantages its
# expectation is
#
# $$\mathbb{E}\Big[ \frac{\hat A_i}{|y_i|}\, \nabla \log \pi(y_i) \Big]
# = \mathbb{E}\Big[ \frac{r(y) - \mathbb{E}[r]}{|y|}\, \nabla \log \pi(y) \Big], \tag{11}$$
#
# the policy gradient of *another reward*: $(r - \mathbb{E}[r])/|y|$, with $\mathbb{E}[r]$ held fixed. A right answer earns
# $(1-p)/|y|$: the shorter the better. A wrong one earns $-p/|y|$: **the longer the better**. We check it in a language
# with answers of several lengths: the strings of the letters a and b with at most two letters, each followed by an end.

# %% tags=["nbval-check-output"]
strings = ["", "a", "b", "aa", "ab", "ba", "bb"]
length = torch.tensor([float(min(len(s) + 1, 3)) for s in strings], dtype=torch.float64)  # |y|, the end included
right = torch.tensor([float(s == "a") for s in strings], dtype=torch.float64)  # r(y)


def string_log_probs(theta: Float[Tensor, "3 3"]) -> Float[Tensor, " 7"]:
    """log π of the seven strings; θ holds the logits of a, b and end after nothing, after a and after b."""
    after = theta.log_softmax(-1)  # rows: what stands before; columns: a, b, end
    two = [after[0, i] + after[1 + i, j] for i in (0, 1) for j in (0, 1)]  # after two letters the end is certain
    return torch.stack([after[0, 2], after[0, 0] + after[1, 2], after[0, 1] + after[2, 2], *two])


theta = torch.randn(3, 3, generator=generator, dtype=torch.float64, requires_grad=True)
groups = torch.tensor(list(itertools.product(range(7), repeat=3)))  # shape (343, 3)
log_pi = string_log_probs(theta)
torch.testing.assert_close(log_pi.exp().sum(), torch.tensor(1.0).double())
chance = log_pi.detach()[groups].sum(1).exp()  # shape (343,)
advantages = rloo_advantages(right[groups].float()).double()  # shape (343, 3)


def gradient(of: Tensor) -> Float[Tensor, "3 3"]:
    """By θ."""
    return torch.autograd.grad(of, theta, retain_graph=True)[0]


by_sum = gradient((chance * (advantages * log_pi[groups]).mean(1)).sum())
torch.testing.assert_close(by_sum, gradient((log_pi.exp() * right).sum()), rtol=1e-5, atol=1e-6)  # the third mean: (5)
by_length = gradient((chance * (advantages * log_pi[groups] / length[groups]).mean(1)).sum())
p_now = (log_pi.exp() * right).sum().item()
other_reward = (right - p_now) / length  # shape (7,)
torch.testing.assert_close(by_length, gradient((log_pi.exp() * other_reward).sum()), rtol=1e-5, atol=1e-6)  # (11)
angle = math.degrees(math.acos(float(torch.cosine_similarity(by_length.flatten(), by_sum.flatten(), dim=0))))
assert angle > 3
print("Checked over all 343 groups: the plain sum is ∇E[r]; with 1/|y| it is the gradient of (r − E[r])/|y|, (11).")
print(f"The two stand at an angle of {angle:.0f}° here.")

# %% [markdown]
# Does the policy get longer by it? Follow both exact gradients from the same start, at which the right answer has a probability of
# one ninth, and look at the length of the *wrong* answers:

# %% tags=["nbval-check-output"]
even = string_log_probs(torch.zeros(3, 3, dtype=torch.float64)).exp()
torch.testing.assert_close((even * right).sum(), torch.tensor(1 / 9).double())
paths = {}
for name, divided in (("divided by |y|", True), ("plain sum", False)):
    theta = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    paths[name] = []
    for _ in range(31):
        log_pi = string_log_probs(theta)
        wrong = log_pi.exp() * (1 - right)
        paths[name].append(((wrong * length).sum() / wrong.sum()).item())
        earned = right - (log_pi.exp() * right).sum().item()
        step = gradient((log_pi.exp() * (earned / length if divided else earned)).sum())
        theta = (theta + 2.0 * step / step.norm() * 0.05).detach().requires_grad_()
assert paths["divided by |y|"][-1] > paths["plain sum"][-1] + 0.02
print(", ".join(f"{name}: {path[0]:.2f} → {path[-1]:.2f} tokens" for name, path in paths.items()))

# %%
verifiable.lengths(range(31), paths)

# %% [markdown]
# *Figure 2. Mean length of a wrong answer along steps of one length. Both lines begin together and rise; the one of the gradient
# divided by $|y|$ ends higher.*
#
# Liu et al. (2025) report the difference of language models: under GRPO wrong answers keep growing, without the division much less.

# %% [markdown]
# ## 6 · The clip, with two ends
#
# As in PPO, several steps are taken on one batch, and a clip holds the ratio $\rho_t = \pi(y_t)/\pi_\mathrm{old}(y_t)$:
#
# $$s_{it} = \max\big( -\hat A_i\, \rho_{it},\; -\hat A_i\, \mathrm{clip}(\rho_{it},\, 1 - \varepsilon_\mathrm{low},\, 1 +
# \varepsilon_\mathrm{high}) \big). \tag{12}$$
#
# PPO and GRPO have one $\varepsilon$ for both ends. But the two ends do different work. Above, the clip limits how far a token may *rise*, and a
# limit on the ratio is tightest for tokens that are improbable. DAPO (Yu et al. 2025) raises the upper end alone, to 0.28 beside
# 0.2: **clip-higher**, so that rare tokens that turned out well can grow.

# %% tags=["nbval-check-output"]
for old in (0.01, 0.9):
    for high in (0.2, 0.28):
        highest = min(old * (1 + high), 1.0)
        print(f"π_old = {old:4}: with ε_high = {high:4} the clip stops it at {highest:.4f}")
one, mask = torch.ones(1).double(), torch.ones(1, 1, dtype=torch.bool)
for ratio, high, moves in ((1.25, 0.2, False), (1.25, 0.28, True), (0.75, 0.28, True)):
    new = torch.tensor([[math.log(0.01 * ratio)]], dtype=torch.float64, requires_grad=True)
    loss, _ = group_policy_loss(new, torch.full_like(new, math.log(0.01)), one, mask, clip_low=0.2, clip_high=high)
    (pull,) = torch.autograd.grad(loss, new)
    assert bool(pull.abs() > 0) == moves
print("Checked: a good token at 1.25 times its old probability is stopped by 0.2 and still rises with 0.28.")

# %% [markdown]
# ### Exercise 9.3 · The loss of a group
# *difficulty 3/5 · importance 5/5 · 12 minutes*
#
# Write (12) with DAPO's mean, the second of (10): one sum over all tokens of the batch, over their number. `log_probs` and
# `old_log_probs` have shape `(B, T)`, in nats, `advantages` shape `(B,)`: one an answer. `mask` is `True` on the tokens of the answers.
# What stands at padding must not count. The gradient must reach `log_probs`.


# %% tags=["exercise"]
def loss_of_tokens(
    log_probs: Float[Tensor, "B T"],
    old_log_probs: Float[Tensor, "B T"],
    advantages: Float[Tensor, " B"],
    mask: Bool[Tensor, "B T"],
    clip_low: float,
    clip_high: float,
) -> Float[Tensor, ""]:
    """The clipped surrogate of every token, averaged over all tokens of the batch."""
    # BEGIN SOLUTION
    ratio = (log_probs - old_log_probs).exp()
    advantage = advantages.unsqueeze(1)
    surrogate = torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1 - clip_low, 1 + clip_high))
    return torch.where(mask, surrogate, 0.0).sum() / mask.sum()
    # END SOLUTION


# %% tags=["nbval-check-output"]
check.q3(loss_of_tokens)

# %% tags=["student-only"]
# check.q3.hint()
# check.q3.solution()

# %% tags=["nbval-check-output"]
token_loss = check.q3.or_ours(loss_of_tokens)

# %% tags=["nbval-check-output"]
new, old = (torch.randn(4, 5, generator=generator, dtype=torch.float64) / 3 - 2 for _ in range(2))
advantages = torch.randn(4, generator=generator, dtype=torch.float64)
mask = torch.arange(5) < torch.tensor([[5], [2], [3], [1]])
ours, _ = group_policy_loss(new, old, advantages, mask, 0.2, 0.28, mean="token")
torch.testing.assert_close(token_loss(new, old, advantages, mask, 0.2, 0.28).double(), ours)
lengths = mask.sum(1)
parts = [
    group_policy_loss(new[i : i + 1], old[i : i + 1], advantages[i : i + 1], mask[i : i + 1], 0.2, 0.28)[0]
    for i in range(4)
]
by_answer, _ = group_policy_loss(new, old, advantages, mask, 0.2, 0.28, mean="answer")
torch.testing.assert_close(by_answer, sum(parts) / 4)  # the first of (10)
torch.testing.assert_close(ours, sum(part * m for part, m in zip(parts, lengths, strict=True)) / lengths.sum())
print("Checked: your loss is that of the course; the two means of (10) weigh the same four answers differently.")

# %% [markdown]
# ## 7 · Where the KL stands
#
# The objective of notebook 03 has a leash: $\mathbb{E}[r] - \beta\, \mathrm{KL}(\pi \parallel \pi_\mathrm{ref})$. There are two places for it.
# RLOO takes it off the **reward** of each answer, as PPO does: $r - \beta \log(\pi/\pi_\mathrm{ref})$, and (4) to (6) hold for that
# reward (that it depends on the weights itself adds nothing on average: notebook 04, section 10). GRPO as published puts an estimate of it into the **loss**, for each token:
#
# $$L = \frac1B \sum_i \frac{1}{|y_i|} \sum_t \big( s_{it} + \beta\, k_3(y_{it}) \big), \qquad
# k_3 = \frac{\pi_\mathrm{ref}}{\pi} - 1 - \log \frac{\pi_\mathrm{ref}}{\pi}. \tag{13}$$
#
# As an *estimate* $k_3$ is unbiased and never negative. As a *loss* it is another thing: at on-policy samples the expected gradient of a
# token's $k_3$ is that of $\mathrm{KL}(\pi_\mathrm{ref} \parallel \pi)$ of this token, the other direction (notebook 03, section 9).
#
# **Predict.** Four runs in the exact world of notebook 03, 1296 sentences, $\beta = 0.5$, groups of 8: the KL in the reward or as $k_3$ in the
# loss, each with the division by the std and without. Where do RLOO (reward, without) and GRPO (loss, with) end?
#
# - a) both near $\pi^*_\beta$
# - b) neither climbs: without a critic the noise is too large
# - c) RLOO near $\pi^*_\beta$; GRPO climbs too, but to another place

# %% tags=["nbval-check-output"]
check.p2("c")  # SOLUTION

# %% tags=["nbval-ignore-output"]
world, BETA = small_world(), 0.5
assert world.rewards.numel() == 1296  # sentences
origin = world.new_policy(seed=0)
common = GRPOConfig(steps=40, prompts=24, answers=8, learning_rate=4e-3, beta=BETA, max_new_tokens=world.length)
settings = {
    "RLOO": replace(common, advantages="rloo", kl="reward", mean="sum"),
    "RLOO over the std": replace(common, advantages="grpo", kl="reward", mean="sum"),
    "GRPO without the std": replace(common, advantages="rloo"),
    "GRPO": common,
}
tracks = {}
for name, config in settings.items():
    policy = frozen_copy(origin).requires_grad_()
    optimizer = make_optimizer(policy, config.learning_rate, eps=1e-5)
    tracks[name] = [world.report(policy, origin, BETA)]
    loop = train_grpo(policy, origin, world.score, *world.prompts(common.prompts), optimizer, config, seed=0)
    for step, (row, _) in tqdm(enumerate(loop), total=config.steps, desc=name):
        assert row["first_ratio_deviation"] < 1e-3  # one step a batch: all ratios are 1, the clip does nothing
        if step % 4 == 3:
            tracks[name].append(world.report(policy, origin, BETA))
ends = {name: track[-1] for name, track in tracks.items()}
pd.DataFrame(ends.values(), index=ends).round(3)  # gap = KL(π ‖ π*) in nats

# %%
with torch.no_grad():
    log_ref = world.log_probs(origin).double().log_softmax(-1)
stars = {price: optimal_policy(log_ref, world.rewards, price)[0] for price in torch.logspace(1, -1, 60).tolist()}
curve = [(float(kl_divergence(star, log_ref)), float((star.exp() * world.rewards).sum())) for star in stars.values()]
best = world.report(optimal_policy(log_ref, world.rewards, BETA)[0], log_ref, BETA)
points = {name: [(at.kl, at.reward) for at in track] for name, track in tracks.items()}
curve = [point for point in curve if point[0] < 2.5]
comparison.paths_to_optimum(curve, points, (best.kl, best.reward), "Four runs without a critic")

# %% [markdown]
# *Figure 3. Reward against KL; all four paths begin at the reference on the left and climb. The two with the KL in the reward end beside the
# star, on the frontier. The two with $k_3$ in the loss end elsewhere.*

# %% tags=["nbval-check-output", "folded"]
# @title Checked: where the four runs end
begin = tracks["RLOO"][0]
assert all(end.reward > begin.reward + 0.5 for end in ends.values())
near, far = [ends["RLOO"], ends["RLOO over the std"]], [ends["GRPO without the std"], ends["GRPO"]]
assert max(end.gap for end in near) < 0.12 and min(end.gap for end in far) > 2 * max(end.gap for end in near)
assert abs(near[0].gap - near[1].gap) < 0.1 and abs(far[0].gap - far[1].gap) < 0.15
print("Checked: all four gain more than half a reward unit. The two with the KL in the reward end within 0.12 nats of")
print("the optimum; those with k3 in the loss end more than twice as far from it, with the std or without.")

# %% tags=["nbval-check-output"]
check.p2.outcome()

# %% [markdown]
# **What happened?** Two things were changed, and the place of the KL decides. With the std or without, the gaps
# are alike here. (By section 4 the std changes how much each *prompt* counts, and this world has one prompt.) None of this makes GRPO bad: DeepSeekMath was trained with it (Shao et al. 2024). But the β of one method means
# nothing in another. And where the checker cannot be fooled, DAPO and Dr. GRPO leave the KL out: $\beta = 0$.

# %% [markdown]
# ## 8 · GRPO on the puzzle
#
# Now the SFT model. 60 steps, each with 8 answers to each of 24 training prompts. Three seeds, with token-level mean, clip-higher and no KL, as in DAPO.
#
# **Predict.** pass@1 will rise. What happens to pass@16?
#
# - a) it rises about as many points as pass@1
# - b) it falls clearly: the policy gives up answers
# - c) hardly anything: it was nearly 1 before

# %% tags=["nbval-check-output"]
check.p3("c")  # SOLUTION

# %% tags=["nbval-ignore-output"]
prompts, prompt_mask = encode_prompts(tokenizer, train_prompts)
dapo = GRPOConfig(
    steps=60, prompts=24, answers=8, learning_rate=1e-3, mean="token", clip_high=0.28, beta=0.0, max_new_tokens=9
)


def trained(name: str, config: GRPOConfig, checker=puzzle.is_right, seed: int = 0, start=reference):
    """A copy of `start` after training on the checker, and the metrics of every step."""
    policy = frozen_copy(start).requires_grad_()
    policy.transformer.wpe.weight.requires_grad_(False)  # no positions
    optimizer = make_optimizer(policy, config.learning_rate, eps=1e-5)
    loop = train_grpo(policy, reference, reward_by(checker), prompts, prompt_mask, optimizer, config, seed)
    rows = [row for row, _ in tqdm(loop, total=config.steps, desc=name)]
    return policy, pd.DataFrame(rows)


runs = {"GRPO, seed 0": trained("seed 0", dapo)}

# %% tags=["nbval-ignore-output"]
runs |= {f"GRPO, seed {seed}": trained(f"seed {seed}", dapo, seed=seed) for seed in (1, 2)}

# %% tags=["nbval-ignore-output"]
rates = pass_rates({"SFT": reference} | {name: policy for name, (policy, _) in runs.items()})
shown(rates)

# %%
panels = {
    "reward": ("Right answers to training prompts", "share"),
    "mixed": ("Groups with a gradient", "share"),
    "entropy": ("Entropy", "nats per token"),
    "kl": ("Distance from SFT", "nats per answer"),
}
verifiable.training({name: metrics for name, (_, metrics) in runs.items()}, panels)

# %% [markdown]
# *Figure 4. Three seeds. The share of right answers rises steeply and flattens; the share of groups with a gradient falls, since more and more groups are
# all right; the entropy falls; the KL to the SFT model rises to less than a nat and a half.*

# %% tags=["nbval-check-output", "folded"]
# @title Checked: what the checker has taught
before, after = rates.loc["SFT"], rates.drop("SFT")
for kind in ("held out", "longer"):
    gains = [cell[0] - before[f"{kind}, pass@1"][0] for cell in after[f"{kind}, pass@1"]]
    assert min(gains) > 0.3
    assert all(cell[0] - 4 * cell[1] > before[f"{kind}, pass@1"][0] for cell in after[f"{kind}, pass@1"])
assert all(cell[0] > before["longer, pass@16"][0] + 0.05 for cell in after["longer, pass@16"])
assert all(cell[0] > 0.75 for cell in after["held out, pass@1"])
assert all(abs(cell[0] - before["held out, pass@16"][0]) < 0.08 for cell in after["held out, pass@16"])
for _, metrics in runs.values():
    assert metrics["mixed"][-10:].mean() < metrics["mixed"][:3].mean() - 0.2
    assert metrics["entropy"][-10:].mean() < metrics["entropy"][:3].mean() and metrics["kl"][-10:].mean() < 1.5
print("Checked, for each of three seeds: pass@1 rises by more than 30 points on held-out problems and on longer ones,")
print(
    "to above 75 % on held-out ones; pass@16 there changes by less than 8 points, and on longer ones it rises by more"
)
print("than 5. Fewer groups have a gradient.")

# %% tags=["nbval-check-output"]
check.p3.outcome()

# %% [markdown]
# **What happened?** On problems of the trained lengths GRPO moved probability from wrong answers to right ones, which the SFT model gave
# now and then already: pass@1 comes up towards pass@16. Yue et al. (2025) compare large models in this way. With one try the trained
# ones are ahead, with very many tries the models they started from, and so they ask whether RL adds any ability at all. It can only
# weigh what was sampled: an answer that never comes up in training is never rewarded.
#
# The longer problems are the other half. No demonstration and no training prompt has seven letters or more, and the gain carries over.
# There pass@16 rises as well: some problems that the SFT model fails in 16 tries are solved now, and nobody trained on them.

# %% [markdown]
# ## 9 · The frontier of success
#
# With a 0/1 reward the optimum of notebook 03 is known for every prompt, whatever the language model. $\pi^* = \pi_\mathrm{ref}\, e^{r/\beta}/Z$
# multiplies each right answer by $e^{1/\beta}$ and each wrong one by 1. Summed over all right answers:
#
# $$p^* = \frac{p\, e^{1/\beta}}{1 - p + p\, e^{1/\beta}}. \tag{14}$$
#
# And the log-ratio $\log(\pi^*/\pi_\mathrm{ref})$ takes two values only: $\log(p^*/p)$ on right answers, $\log\frac{1-p^*}{1-p}$ on wrong
# ones. So the KL is one between two coins:
#
# $$\mathrm{KL}(\pi^* \parallel \pi_\mathrm{ref}) = p^* \log \frac{p^*}{p} + (1 - p^*) \log \frac{1 - p^*}{1 - p}. \tag{15}$$
#
# Two numbers that we could never sum over all answers follow from the pass rate alone. In the limit $\beta \to 0$ the policy is always
# right, at a price of $\log(1/p)$ nats: that is all that "training on a checker" must cost. Where $p = 0$, $p^* = 0$ at every β.
#
# ### Exercise 9.4 · The best success at a price
# *difficulty 2/5 · importance 4/5 · 8 minutes*
#
# Write (14) and (15). `p` has shape `(M,)`: the reference's pass rate on each of M prompts, above 0 and below 1. Return both, shape `(M,)` each.


# %% tags=["exercise"]
def best_at_price(p: Float[Tensor, " M"], beta: float) -> tuple[Float[Tensor, " M"], Float[Tensor, " M"]]:
    """Pass rate of π* of each prompt, and its KL to the reference in nats."""
    # BEGIN SOLUTION
    weighted = p * math.exp(1 / beta)
    best = weighted / (1 - p + weighted)
    return best, best * (best / p).log() + (1 - best) * ((1 - best) / (1 - p)).log()
    # END SOLUTION


# %% tags=["nbval-check-output"]
check.q4(best_at_price)

# %% tags=["student-only"]
# check.q4.hint()
# check.q4.solution()

# %% tags=["nbval-check-output"]
best_success = check.q4.or_ours(best_at_price)

# %% tags=["nbval-check-output"]
log_ref = torch.randn(3, 40, generator=generator, dtype=torch.float64).log_softmax(-1)  # three prompts, 40 answers
verdict = (torch.rand(3, 40, generator=generator) < 0.3).double()
for price in (0.2, 0.5, 2.0):
    log_star, _ = optimal_policy(log_ref, verdict, price)
    success, nats = best_success((log_ref.exp() * verdict).sum(-1), price)
    torch.testing.assert_close(success.double(), (log_star.exp() * verdict).sum(-1))  # (14)
    torch.testing.assert_close(nats.double(), kl_divergence(log_star, log_ref))  # (15)
almost, nats = best_success(torch.tensor([0.25], dtype=torch.float64), 0.08)
assert almost > 0.999 and math.isclose(nats.item(), math.log(4), rel_tol=1e-3)
print("Checked (14) and (15) against the optimum over all 40 answers; and log(1/p) nats at p = 1/4.")

# %% [markdown]
# Now the SFT model. Its pass rate on each held-out problem is estimated from 64 answers, so that the curve is an estimate, too. (Where none or all
# of the 64 are right, we count half an answer: a share of 0 or 1 does not mean that the pass rate is 0 or 1.) Beside the curve, three runs with RLOO
# and the KL in the reward, at β = 1, 0.5 and 0.2, and the three runs of section 8.

# %% tags=["nbval-ignore-output"]
rloo = replace(dapo, advantages="rloo", kl="reward", mean="sum", clip_high=0.2)
leashed = {f"RLOO, β = {price:g}": trained(f"β = {price:g}", replace(rloo, beta=price))[0] for price in (1.0, 0.5, 0.2)}

# %% tags=["nbval-ignore-output"]
policies = leashed | {name: policy for name, (policy, _) in runs.items()}
measured = {}
for name, policy in {"SFT": reference, **policies}.items():
    verdicts, k1, _ = answer(policy, heldout, n=64 if name == "SFT" else 16, seed=2)
    measured[name] = (estimate(k1).mean, *estimate(verdicts)[:2])
    if name == "SFT":
        p_ref = verdicts.double().mean(1).clamp(1 / 128, 127 / 128)  # shape (64,): of each held-out problem
curve = [
    tuple(float(x.mean()) for x in reversed(best_success(p_ref, price))) for price in torch.logspace(2, -1, 80).tolist()
]
verifiable.success_frontier(curve, {name: measured[name] for name in policies}, measured["SFT"])

# %% [markdown]
# *Figure 5. Success on held-out problems against KL. The curve rises from the SFT model's success and reaches 1 between one and one and a half nats. The runs
# lie a little below it: those with a larger β on the left, those without a leash on the right.*

# %% tags=["nbval-ignore-output", "folded"]
# @title Checked: nothing above the frontier, and a smaller β goes further
kls, heights = (torch.tensor(column, dtype=torch.float64) for column in zip(*curve, strict=True))
assert (kls.diff() > 0).all() and (heights.diff() > 0).all() and 1 < kls[-1] < 1.5 and heights[-1] > 0.99


def frontier(kl: float) -> float:
    """The best success at this KL, read off the curve."""
    i = int(torch.searchsorted(kls, kl).clamp(1, len(kls) - 1))
    share = (kl - kls[i - 1]) / (kls[i] - kls[i - 1])
    return float(heights[i - 1] + share.clamp(0, 1) * (heights[i] - heights[i - 1]))


for name in policies:
    kl, success, error = measured[name]
    print(f"{name:14} KL {kl:.2f} nats, success {success:.2f} ± {2 * error:.2f}, at best {frontier(kl):.2f}")
    assert success < frontier(kl) + 3 * error, name
by_price = [measured[name] for name in leashed]
assert all(a[0] < b[0] and a[1] < b[1] for a, b in itertools.pairwise(by_price))
print("Checked: no run lies above the frontier (by more than three standard errors, since all of this is sampled);")
print("with a smaller β both KL and success are larger.")

# %% [markdown]
# The distance from it can be read off, in the same units as in notebook 07. Two likely reasons for what is left: one network for all prompts cannot
# give each prompt just its $\pi^*$, and 60 steps are few.

# %% [markdown]
# ## 10 · A checker written in a hurry
#
# "The letters are in order" sounds like the same task. It is how one would test a sorting routine in a hurry:
# `answer.split() == sorted(answer.split())`. The SFT model's answers get past this checker about two and a half times as often as past the right one. We train on it.
#
# **Predict.** After training on the sloppy checker, which share of the answers is really right?
#
# - a) nearly none
# - b) about as many as with the right checker: most answers in order are right
# - c) about as many as before training

# %% tags=["nbval-check-output"]
check.p4("a")  # SOLUTION

# %% tags=["nbval-ignore-output"]
hacked, on_sloppy = trained("sloppy checker", dapo, checker=puzzle.in_order)
verdicts = {}
for name, policy in {
    "SFT": reference,
    "trained on the sloppy one": hacked,
    "trained on the right one": runs["GRPO, seed 0"][0],
}.items():
    shares = [
        float(answer(policy, heldout, 8, checker, seed=3)[0].mean()) for checker in (puzzle.in_order, puzzle.is_right)
    ]
    verdicts[name] = dict(zip(("in order", "right"), shares, strict=True))
verdicts = pd.DataFrame(verdicts).T
for prompt, text in zip(heldout[:5], answer(hacked, heldout[:5], 1)[2], strict=True):
    print(f"{prompt:14} → {text}")
verifiable.bars(verdicts, "What two checkers say of three policies")

# %% [markdown]
# *Figure 6. For each of three policies, two bars: the share of answers in order, and the share of right ones. For the policy trained on the sloppy checker the first
# is near 1 and the second near 0.*

# %% tags=["nbval-check-output", "folded"]
# @title Checked: the hack
sloppy, right_one = verdicts.loc["trained on the sloppy one"], verdicts.loc["trained on the right one"]
assert sloppy["in order"] > 0.95 and sloppy["right"] < 0.2 < verdicts["right"]["SFT"]
assert 2 < verdicts["in order"]["SFT"] / verdicts["right"]["SFT"] < 3.3
assert right_one["right"] > 0.75 and on_sloppy["length"][-5:].mean() < on_sloppy["length"][:5].mean() - 0.5
by_tens = on_sloppy["reward"].groupby(on_sloppy.index // 10).mean()  # of ten steps each
assert by_tens.diff()[1:].min() > -0.02 and by_tens.iloc[-1] > by_tens.iloc[0] + 0.05
print("Checked: trained on the sloppy checker, more than 95 % of the answers are in order and fewer than 20 % right;")
print("they have become shorter, while the reward rose. Trained on the right checker, more than 75 % are right.")

# %% tags=["nbval-check-output"]
check.p4.outcome()

# %% [markdown]
# **What happened?** Fewer letters are in order more easily, and any letters will do. The reward rose and never fell back: from its curve alone nobody would know. This is
# notebook 05's over-optimisation again, without any learned reward model: the gap between what was checked and what was meant.
#
# **The repair** is to check what was meant. Two properties make a sorted list: it is in order, *and* it holds the same letters. The right checker asks for both. Can it
# also bring the hacked policy back? It can reinforce what the policy still says:

# %% tags=["nbval-ignore-output"]
repaired, on_right = trained("repair", replace(dapo, steps=40), start=hacked)
back = {
    name: float(answer(policy, heldout, 8, seed=4)[0].mean())
    for name, policy in (("hacked", hacked), ("after the repair", repaired))
}
print(", ".join(f"{name}: {share:.2f} right" for name, share in back.items()))
print(f"groups with a gradient in the first five steps: {on_right['mixed'][:5].mean():.2f}")

# %% tags=["nbval-check-output", "folded"]
# @title Checked: the repair
assert back["after the repair"] > back["hacked"] + 0.05
print("Checked: 40 steps on the right checker bring more than 5 points back.")

# %% [markdown]
# Here the hacked policy still says something right now and then, and that is enough to begin with. The nearer $p$ comes to 0, the longer the way back, and by (14) there is none from $p = 0$.
# Three habits follow, as advice. Read answers, not only rewards. Measure with a checker that training never sees. Stop early, or keep a leash: (15) says how few nats the honest way costs.

# %% [markdown]
# ## 11 · The whole loop
#
# ### Exercise 9.5 · Capstone: policy gradients in groups, whole
# *difficulty 4/5 · importance 5/5 · 40 minutes*
#
# Write the training loop, not one formula. The world is small enough to know its optimum: `log_ref` of shape `(X, N)` is $\log \pi_\mathrm{ref}$ of N answers to each of X prompts,
# `rewards` of the same shape their verdicts, 0 or 1. The policy is a table of logits, trained by Adam. After each iteration, `yield` a dict with five parts:
#
# | part | shape | what it is |
# |---|---|---|
# | `old` | (X, N) | log-probabilities of the policy that answered in this iteration |
# | `answers` | (X, K) | numbers of its answers to each prompt |
# | `shaped` | (X, K) | their rewards with the KL in them, $r - \beta \log(\pi_\mathrm{old}/\pi_\mathrm{ref})$ |
# | `advantages` | (X, K) | leave-one-out, (4), of the shaped rewards |
# | `new` | (X, N) | log-probabilities after the updates of this iteration |
#
# Leave out the parts that you have not written: the steps are checked in this order, and you may run the check at any time. (With two
# passes the ratios stay near 1, so that the clip hardly acts; exercise 9.3 has looked at yours.) What counts in the end is how far your policy is from $\pi^*$: over the last third of
# the iterations, less than 0.02 nats on average.


# %% tags=["exercise"]
def train_by_groups(
    log_ref: Float[Tensor, "X N"],
    rewards: Float[Tensor, "X N"],
    beta: float,
    k: int,
    iterations: int,
    passes: int,
    rate: float,
    clip: float,
    generator: torch.Generator,
) -> Iterator[dict[str, Tensor]]:
    """Yields after each iteration: old (X, N), answers (X, K), shaped (X, K), advantages (X, K), new (X, N)."""
    # 1. Logits that begin at log_ref and have a gradient; Adam with learning rate `rate`.
    # In each of `iterations` iterations:
    # 2. Freeze the policy (old), and sample k answers to each prompt from it, with `generator`.
    # 3. Look up their rewards, and take off the price of their log-ratio to the reference.
    # 4. Leave-one-out advantages.
    # 5. `passes` times: the mean of the clipped surrogate (12) of these answers, clip on both ends; its gradient, a step.
    # 6. Yield the five parts.
    # BEGIN SOLUTION
    logits = log_ref.clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=rate)
    for _ in range(iterations):
        old = logits.detach().log_softmax(-1)
        answers = torch.multinomial(old.exp(), k, replacement=True, generator=generator)
        shaped = rewards.gather(1, answers) - beta * (old - log_ref).gather(1, answers)
        advantages = (shaped - shaped.mean(1, keepdim=True)) * k / (k - 1)
        for _ in range(passes):
            ratio = (logits.log_softmax(-1) - old).gather(1, answers).exp()
            surrogate = torch.minimum(advantages * ratio, advantages * ratio.clamp(1 - clip, 1 + clip))
            optimizer.zero_grad()
            (-surrogate.mean()).backward()
            optimizer.step()
        new = logits.detach().log_softmax(-1)
        yield {"old": old, "answers": answers, "shaped": shaped, "advantages": advantages, "new": new}
    # END SOLUTION


# %% tags=["nbval-check-output"]
check.capstone(train_by_groups)

# %% tags=["student-only"]
# check.capstone.hint()
# check.capstone.solution()

# %% tags=["nbval-check-output"]
by_groups = check.capstone.or_ours(train_by_groups)

# %% [markdown]
# One thing in the result may surprise you: the noise of sampling should keep the policy at some distance from $\pi^*$, and it does not. Why?

# %% tags=["nbval-check-output"]
log_ref = torch.randn(2, 6, generator=generator, dtype=torch.float64).log_softmax(-1)
verdict = torch.tensor([[0, 1, 0, 0, 1, 0], [1, 0, 0, 0, 0, 0]]).double()
log_star, log_z = optimal_policy(log_ref, verdict, 0.5)
at_the_optimum = verdict - 0.5 * (log_star - log_ref)  # the shaped rewards of all answers
torch.testing.assert_close(at_the_optimum, (0.5 * log_z)[:, None].expand_as(at_the_optimum))
*_, last = by_groups(log_ref, verdict, 0.5, 16, 150, 2, 0.05, 0.2, torch.Generator().manual_seed(0))
gap = float(kl_divergence(last["new"].double(), log_star).mean())
assert gap < check.TOLERANCE == 0.02
print("Checked: at π* the shaped reward of every answer is β log Z: all advantages are 0, and so is the noise.")

# %% [markdown]
# ## 12 · An open experiment: many small groups, or a few large ones?
#
# Is a method that solves 52 % of the problems better than one that solves 50 %? With other problems, other seeds and other answers both would have come out
# otherwise.
#
# ### Exercise 9.6 · Which of two methods is better?
# *difficulty 3/5 · importance 5/5 · 15 minutes*
#
# `first` and `second` hold the runs of two methods, one for each seed of the training: verdicts, 0 or 1, of shape `(M, n)`, $n$ answers to each of the same M problems.
# Return $d$, the success of the first minus that of the second, and the ends of its interval, $d - z s$ and $d + z s$. Two variances add up to $s^2$:
#
# - over **problems**. Both methods meet the same ones, and answers to one problem are alike. So there are M tries: the differences by problem, all its runs and answers together.
# - over **seeds**. Those of one method have nothing to do with those of the other. So each method adds a variance, whose tries are its runs, all their problems together.
#
# The variance of a mean of N tries is that of the tries, with N − 1 in it, over N. One method may have more runs or more answers than the other.


# %% tags=["exercise"]
def compare(
    first: list[Float[Tensor, "M _"]], second: list[Float[Tensor, "M _"]], z: float
) -> tuple[float, float, float]:
    """Success of the first method minus that of the second, and the lower and the upper end of its interval."""
    # 1. The pass rates of each method, a row a run: (S, M).
    # 2. The differences by problem: their mean, and its variance.
    # 3. The variance over the seeds of each method; the interval.
    # BEGIN SOLUTION
    rates = [torch.stack([run.mean(1) for run in runs]) for runs in (first, second)]  # shape (S, M) each
    by_problem = rates[0].mean(0) - rates[1].mean(0)  # shape (M,)
    difference = float(by_problem.mean())
    variance = float(by_problem.var()) / len(by_problem)
    for of_method in rates:
        of_runs = of_method.mean(1)  # shape (S,)
        variance += float(of_runs.var()) / len(of_runs)
    half = z * math.sqrt(variance)
    return difference, difference - half, difference + half
    # END SOLUTION


# %% tags=["nbval-check-output"]
check.q6(compare)

# %% tags=["student-only"]
# check.q6.hint()
# check.q6.solution()

# %% tags=["nbval-check-output"]
difference_with_interval = check.q6.or_ours(compare)

# %% tags=["nbval-check-output", "folded"]
# @title Checked: how often the interval of two equal methods contains 0
draw, held = torch.Generator().manual_seed(0), []
for _ in range(200):
    ease = 2 * torch.randn(64, 1, generator=draw)  # log-odds of the problems
    chances = [torch.sigmoid(ease + 0.2 * torch.randn(1, generator=draw)) for _ in range(6)]  # of six runs
    answers = [torch.bernoulli(chance.expand(-1, 8), generator=draw) for chance in chances]
    _, low, high = difference_with_interval(answers[:3], answers[3:], 2.776)
    held.append(low <= 0 <= high)
assert sum(held) / 200 > 0.93
print("Checked: of 200 comparisons of a method with itself, more than 93 % have 0 in their interval.")

# %% [markdown]
# **The experiment.** In section 8 a step had 24 prompts with 8 answers each: 192 answers. The same 192 can be 2 answers to each of 96 prompts, or 96 answers to each of 2.
# `runs_of(size)` makes three runs, with the seeds 0, 1 and 2: 15 such steps from the SFT model with groups of that size (`trained` and `dapo`, section 8). It returns their verdicts
# on 8 answers to each held-out problem (`answer`, with seed 3), and the share of the groups that had a gradient (column `mixed` of the metrics). A run takes a few seconds.
#
# **Your turn.** One knob: groups of 2, 8, 32 and 96 answers. Say first what you expect, from section 4. At this price, which size learns most? Is it
# the one whose groups all have a gradient? Which differences are more than chance? The text does not tell.


# %% tags=["exercise"]
def runs_of(size: int) -> tuple[list[Float[Tensor, "M 8"]], list[float]]:
    """Verdicts on held-out problems after each of three runs, and the share of their groups with a gradient."""
    # BEGIN SOLUTION
    verdicts, mixed = [], []
    for seed in range(3):
        config = replace(dapo, steps=15, prompts=192 // size, answers=size)
        policy, metrics = trained(f"groups of {size}, seed {seed}", config, seed=seed)
        verdicts.append(answer(policy, heldout, 8, seed=3)[0])
        mixed.append(float(metrics["mixed"].mean()))
    return verdicts, mixed
    # END SOLUTION


# %% tags=["folded"]
# @title show_table(table), from {size: runs_of(size), …}
def show_table(table: dict[int, tuple[list[Float[Tensor, "M 8"]], list[float]]]) -> None:
    """For each size: means over the seeds and half of their range, and the success beyond that of the last size."""
    *_, last = table
    print(f"answers a group   success       groups with a gradient   beyond groups of {last}")
    print(f"none (SFT)        {float(answer(reference, heldout, 8, seed=3)[0].mean()):.2f}")
    for size, (verdicts, mixed) in table.items():
        rows = [float(run.mean()) for run in verdicts], mixed
        cells = [f"{sum(c) / len(c):.2f} ± {(max(c) - min(c)) / 2:.2f}" for c in rows]
        d, low, high = difference_with_interval(verdicts, table[last][0], 2.776)  # Student's t, two times three runs
        beyond = f"{d:+.2f}, from {low:+.2f} to {high:+.2f}" if size != last else ""
        print(f"{size:<15}   {cells[0]}   {cells[1]:<22}   {beyond}")


# %% tags=["student-only"]
# table = {size: runs_of(size) for size in (2, 8, 32, 96)}
# show_table(table)

# %% tags=["solution-only", "nbval-ignore-output"]
table = {size: runs_of(size) for size in (2, 8, 32, 96)}
show_table(table)

# %% [markdown] tags=["solution-only"]
# **What we measured.** From 2 to 32 answers a group the size hardly matters, although with 2 about half of the groups have no gradient. With 96 every group has one, and these runs learn
# least: the intervals of its differences from 2 and from 8 lie above 0. So the share of groups with a gradient is the wrong thing to look at when the price is fixed: a wasted group of 2 has cost two answers only, and
# there are 96 of them. *Why* large groups are worse the table does not say. Our guess: a step on 2 prompts goes where these two want to go, and more answers to the same two do not change that. How would
# you test it? (Without pairing the problems nobody could see any of this: their errors would be more than twice as large.)

# %% tags=["solution-only", "nbval-ignore-output"]
success = {size: sum(float(run.mean()) for run in verdicts) / 3 for size, (verdicts, _) in table.items()}
small, large = [success[n] for n in (2, 8, 32)], success[96]
assert max(small) - min(small) < 0.07 and min(small) > large + 0.01
assert all(difference_with_interval(table[n][0], table[96][0], 2.776)[1] > 0 for n in (2, 8))
assert large > float(answer(reference, heldout, 8, seed=3)[0].mean()) + 0.04
assert 0.4 < sum(table[2][1]) / 3 < 0.6 and sum(table[96][1]) / 3 > 0.95
rates = [torch.stack(table[n][0]).mean((0, 2)) for n in (2, 96)]  # shape (64,) each: of the problems
assert float((rates[0].var() + rates[1].var()).sqrt()) > 2 * float((rates[0] - rates[1]).std())
print("Checked: sizes from 2 to 32 end within 7 points of each other, and 96 below all of them; below 2 and 8 by more")
print("than chance. With 2 between 40 and 60 % of the groups have a gradient, with 96 more than 95 %.")

# %% [markdown]
# ## 13 · What we showed
#
# - A checker replaces pairs, annotators and reward model. What it checks is what you get.
# - pass@k from $n$ answers is a share of sets, (2); the plug-in estimate is too low.
# - Leave-one-out is unbiased. Dividing by the std weighs prompts by $w_K(p)$, most at both ends; dividing by the length rewards short right answers and long wrong ones.
# - $k_3$ in the loss is another leash than the KL in the reward. RLOO's optimum is $\pi^*$; GRPO's is not.
# - The puzzle: with GRPO far more answers were right at the first try than after SFT, on longer problems too. pass@16 on
#   held-out problems hardly moved: it was nearly 1 before.
# - The frontier of success needs only pass rates, (14) and (15). No run was above it.
# - A sloppy checker was satisfied by nearly all answers, and hardly any of them was right.
#
# ### Three questions to think about
#
# 1. Your checker has an error: it accepts 2 % of all wrong answers at random. What does (14) say about the policy that is best for it? And if the 2 % are always the same answers?
# 2. A problem has $p = 0.001$. How many answers must you sample until one is right, on average? What do RLOO and GRPO learn from a group of 8 meanwhile?
# 3. Somebody reports pass@1 at temperature 1 and pass@64 at temperature 0.7 of the same model. What is wrong with comparing them?

# %% [markdown] tags=["solution-only"]
# **Answers.**
#
# 1. At random: the reward of a wrong answer is 0.02 on average, of a right one 1; (14) with the difference 0.98 in place of 1 hardly changes. Always the same: these wrong answers are "right" to the checker,
#    and π* raises them by the same factor $e^{1/\beta}$ as the right ones. What matters is how likely they are under the reference, and optimisation will find them.
# 2. A thousand. A group of 8 has a right answer with probability 0.8 %; all others have no gradient. With the KL in the reward, RLOO's advantages differ all the same, but only by the leash.
# 3. Temperature changes the policy, and so $p$. Each of the two numbers belongs to another distribution (notebook 08). A lower temperature mostly raises pass@1 and takes variety from pass@k.

# %% tags=["solution-only", "nbval-check-output"]
noisy = torch.where(verdict > 0, 1.0, 0.02).double()  # question 1: the expected reward
log_noisy, _ = optimal_policy(log_ref, noisy, 0.5)
p_now = (log_ref.exp() * verdict).sum(-1)
torch.testing.assert_close((log_noisy.exp() * verdict).sum(-1), torch.sigmoid(torch.logit(p_now) + 0.98 / 0.5))
tries = torch.distributions.Geometric(torch.tensor(0.001)).sample((100_000,)) + 1  # question 2
assert abs(tries.mean() / 1000 - 1) < 0.02 and abs((1 - 0.999**8) - 0.008) < 1e-4
print("Checked (questions 1 and 2): the noisy checker costs 2 % of the factor's exponent; a thousand tries on average.")

# %% [markdown]
# ### Asked every year
#
# **"Why not just keep the right answers and do SFT on them?"** You can: it is rejection sampling, or expert iteration. One round of it on infinitely many samples gives
# $\pi_\mathrm{ref}$ restricted to right answers, which is the limit β → 0 of (14). What it leaves out are the wrong answers: nothing is pushed down but by the softmax, and a prompt counts by its $p$.

# %% tags=["nbval-check-output"]
kept = (log_ref + verdict.log()).log_softmax(-1)  # the reference, right answers only
log_star, _ = optimal_policy(log_ref, verdict, 0.01)
torch.testing.assert_close(kept.exp(), log_star.exp(), atol=1e-6, rtol=1e-4)
print("Checked: SFT on all right answers has the same target as π* with β → 0.")

# %% [markdown]
# **"Does it need a reference at all?"** Not for the gradient. The reference is in the leash, and in the start. Without a leash, (5) has no unique optimum: every policy
# with only right answers is one, and which of them you get is a matter of the path. For a puzzle with one right answer that is no loss.
#
# **"How large must K be?"** A group with a gradient needs a right and a wrong answer. On a problem with pass rate $p$ that happens with probability $1 - p^K - (1-p)^K$
# (what a larger group costs elsewhere is the question of section 12):

# %% tags=["nbval-check-output"]
for size in (2, 4, 8, 16, 64):
    print(f"K = {size:2}: " + ", ".join(f"p = {q:g} → {1 - q**size - (1 - q) ** size:.2f}" for q in (0.02, 0.1, 0.5)))
assert 1 - 0.98**64 > 0.7 > 0.2 > 1 - 0.98**8

# %% [markdown]
# ### Where it goes from here
#
# The two halves of the course meet in practice: preferences for what only people can judge (01 to 08), checkers for what can be checked. Both end in the same objective, reward minus β · KL, and on the same frontier.
# Notebook 10 goes back to preferences: it asks of six losses which policy each of them is looking for.
#
# ### References
#
# - Kool, van Hoof & Welling (2019), *Buy 4 REINFORCE samples, get a baseline for free!*
# - Chen et al. (2021), *Evaluating large language models trained on code*, arXiv 2107.03374. pass@k.
# - Kazemnejad et al. (2023), *The impact of positional encoding on length generalization in transformers*, arXiv 2305.19466.
# - Ahmadian et al. (2024), *Back to basics: revisiting REINFORCE style optimization for learning from human feedback in LLMs*, arXiv 2402.14740. RLOO.
# - Shao et al. (2024), *DeepSeekMath: pushing the limits of mathematical reasoning in open language models*, arXiv 2402.03300. GRPO.
# - Lambert et al. (2024), *Tülu 3: pushing frontiers in open language model post-training*, arXiv 2411.15124. RLVR.
# - Yu et al. (2025), *DAPO: an open-source LLM reinforcement learning system at scale*, arXiv 2503.14476. Clip-higher, token-level loss, dynamic sampling.
# - Liu et al. (2025), *Understanding R1-Zero-like training: a critical perspective*, arXiv 2503.20783. Dr. GRPO.
# - Yue et al. (2025), *Does reinforcement learning really incentivize reasoning capacity in LLMs beyond the base model?*, arXiv 2504.13837.
# - Davis & Recht (2025), *What is the objective of reasoning with reinforcement learning?*, arXiv 2510.13651.
