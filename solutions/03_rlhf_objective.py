# %% [markdown]
# # 03 · The RLHF objective: reward on a leash
#
# We have a reward model. So let us train the chatbot to get as much reward as possible, and nothing else? Section 2
# does exactly that. Then we add a **leash**: a penalty on the distance between the new policy and the old one. With the
# leash the problem has an exact solution, and it fits on one line.

# %% [markdown]
# ## What you will be able to do
#
# - Say what the KL divergence measures, and what changes when you swap its two arguments.
# - Derive the best possible policy of RLHF, $\pi^*(y) = \pi_\mathrm{ref}(y)\, e^{r(y)/\beta} / Z$, line by line.
# - Draw the reward–KL frontier, prove that nothing lies above it, and place best-of-n on the same picture.
# - Turn the KL into a reward for every token, as PPO needs it.
# - Estimate the KL from samples in three ways, and say which of the three may be used as a loss.
#
# **You need:** softmax, derivatives, gradient descent, and the idea of a reward model (notebooks 01 and 02).
# **Time:** {minutes} minutes of work; the cells run in under a minute on a laptop CPU. A GPU does not help here: we
# list *all* answers of a tiny language, so that every expectation is a finite sum and not an estimate. Short of time?
# Notebook 04 does not need "Best-of-n" (section 7) and "One token or the whole answer?" (section 9).

# %% tags=["folded"]
# @title Set-up: imports, plot style, seed
import copy
import math

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from week6 import best_of_n_kl_bound, best_of_n_policy, bradley_terry_loss, response_log_probs, small_world
from week6.checks import nb03 as check
from week6.classroom.widgets import slider
from week6.pictures import objective as pictures
from week6.pictures.figures import roadmap
from week6.pictures.plots import STYLE

plt.rcParams.update(STYLE)
_ = torch.manual_seed(0)
torch.set_num_threads(1)  # all tensors here are small: a second thread would only wait for the first

# %%
_ = roadmap(3)
plt.show()

# %% [markdown]
# *Figure 1. Roadmap: the stops of the course. You are at stop 03, where the reward model and the SFT model (the reference)
# come together in one objective.*
#
# | symbol | meaning | unit |
# |---|---|---|
# | $x$, $y$ | prompt, answer; $y_t$ is token $t$ of the answer | |
# | $\pi(y)$ | policy: the probability that the language model gives answer $y$ (short for $\pi(y \mid x)$) | |
# | $\pi_\mathrm{ref}$ | reference policy: the model before RLHF (the SFT model), frozen | |
# | $r(y)$ | reward of the answer; $r_\phi$ when a reward model gives it | reward units |
# | $\mathbb{E}_\pi[f]$ | expected value of $f(y)$ when $y$ is drawn from $\pi$: $\sum_y \pi(y) f(y)$ | |
# | $\beta$ | price of one nat of KL | reward units per nat |
# | $Z$ | the number that makes $\pi^*$ sum to 1 (partition function) | |
#
# Logarithms are natural, so KL and entropy come in **nats** (1 nat = 1/ln 2 bits).
#
# In the code, `Float[Tensor, "*B N"]` names a shape: real numbers, the last axis has $N$ entries, and there may be any
# number of axes (`*B`) before it. `"B T"` has exactly two axes.

# %% [markdown]
# ## 1 · A language small enough to list
#
# Six words, sentences of exactly four words: $6^4 = 1296$ possible answers. We can list them all. The policy is a
# real GPT-2 (two layers, random weights), so it has preferences of its own among them. The prompt is always the same.

# %%
world = small_world()
reference = world.new_policy(seed=8)
N, T = world.sequences.shape  # axes: sentence, token
print(f"words: {world.vocab}")
print(f"world.sequences: shape (N, T) = {(N, T)}, token ids")

with torch.no_grad():
    log_ref = world.log_probs(reference).double().log_softmax(-1)  # shape (N,): log π_ref(y) for every sentence y
assert log_ref.shape == (N,)
torch.testing.assert_close(log_ref.exp().sum(), torch.tensor(1.0, dtype=torch.float64))
print(f"log_ref: shape (N,) = {tuple(log_ref.shape)}, the probabilities sum to {log_ref.exp().sum():.4f}")

# %% [markdown]
# People like polite sentences. Here "people" are a rule, the **gold** reward: +1 if the first word is *please*, +1.5 if
# *thank you* occurs, −1.5 if *go away* occurs, −0.5 for each word that repeats the word before it. No training run below
# ever sees the rule; we use it to judge.
#
# What training sees is a **reward model** $r_\phi$ (notebook 02). Ours is deliberately simple. It counts words:
#
# $$r_\phi(y) = \sum_{v} \phi_v \cdot (\text{how often word } v \text{ occurs in } y).$$
#
# We fit the six numbers $\phi_v$ to 2,000 simulated comparisons with the Bradley–Terry loss (notebook 01): two sentences
# from the reference, and a label drawn with the Bradley–Terry probability of their gold rewards. Then we shift the score
# so that its mean under $\pi_\mathrm{ref}$ is 0: only differences matter.

# %% tags=["folded", "nbval-ignore-output"]
# @title The word-count reward model, fitted as in notebook 01
gold = world.rewards  # shape (N,), reward units; for judging only
for i, words in enumerate(map(world.words, world.sequences)):
    text = " ".join(words)
    rule = 1.0 * (words[0] == "please") + 1.5 * ("thank you" in text) - 1.5 * ("go away" in text)
    assert gold[i] == rule - 0.5 * sum(a == b for a, b in zip(words, words[1:], strict=False))
counts = F.one_hot(world.sequences, len(world.vocab)).sum(1).double()  # shape (N, V): how often each word occurs


def fitted(features: Float[Tensor, "N K"], comparisons: int, seed: int) -> tuple[Float[Tensor, " K"], float]:
    """The weights φ of a score that is linear in the features, fitted to simulated comparisons; and the last loss."""
    pairs = world.sample_pairs(reference, comparisons, torch.Generator().manual_seed(seed))
    chosen, rejected = features[world.index(pairs.chosen)], features[world.index(pairs.rejected)]
    phi = torch.zeros(features.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([phi], lr=0.02)
    for _ in range(300):
        optimizer.zero_grad()
        loss = bradley_terry_loss(chosen @ phi, rejected @ phi)
        loss.backward()
        optimizer.step()
    return phi.detach(), loss.item()


phi, loss = fitted(counts, 2000, seed=0)  # shape (V,), nats
reward = counts @ phi  # shape (N,): r_φ(y) for every sentence
reward = reward - (log_ref.exp() * reward).sum()
assert loss < math.log(2), "the reward model is better than guessing"
print("reward model, points for each word:")
points = dict(zip(world.vocab, phi.tolist(), strict=True))
for word, value in points.items():
    print(f"   {word:7s}{value:+.2f}")
assert min(points["please"], points["you"]) > 0 > max(points["go"], points["away"])
print(f"Bradley–Terry loss {loss:.3f} nats (guessing: {math.log(2):.3f})")

# %% [markdown]
# Reasonable! *please* and *you* are good, *go* and *away* are bad. And its loss is below that of guessing.


# %% tags=["folded"]
# @title favourites(log_pi): print the likeliest sentences of a policy
def favourites(log_pi: Tensor, k: int = 4) -> None:
    """Print the k likeliest sentences of a policy given by log π, shape (N,)."""
    for i in log_pi.topk(k).indices:
        sentence = " ".join(world.words(world.sequences[i]))
        print(f"   {log_pi[i].exp():6.1%}   {sentence:28s} r_φ {reward[i]:+.2f}   gold {gold[i]:+.1f}")


# %% tags=["nbval-ignore-output"]
def expected(log_pi: Float[Tensor, "*B N"], values: Float[Tensor, " N"]) -> Float[Tensor, "*B"]:
    """E_π[values], the sum over all N sentences."""
    return (log_pi.exp() * values).sum(-1)


print("The reference likes best:")
favourites(log_ref)
print(f"On average r_φ is {expected(log_ref, reward):+.2f}, gold is {expected(log_ref, gold):+.2f}.")
assert abs(expected(log_ref, reward)) < 1e-9 and expected(log_ref, gold) < 0

# %% [markdown]
# ## 2 · Without the leash
#
# We maximise $\mathbb{E}_\pi[r_\phi]$ by gradient ascent, and nothing else. The policy starts as a copy of the
# reference. There is no sampling here: we sum over all 1296 sentences, so what you will see is not noise. It is what
# we asked for.
#
# **Predict.** After 30 steps, what does the policy write?
#
# - a) many different polite sentences, such as "please thank you help"
# - b) what the reference liked best, only a little more often
# - c) nearly always the same sentence, and people do not like it

# %% tags=["nbval-check-output"]
check.p1("c")  # SOLUTION


# %% tags=["nbval-ignore-output"]
def climb(objective, steps: int) -> tuple[torch.nn.Module, Float[Tensor, "steps N"]]:
    """Gradient ascent on objective(log π), from the reference. Returns the policy and log π at every step."""
    policy = copy.deepcopy(reference)
    adam = torch.optim.Adam(policy.parameters(), lr=2e-3)
    path = []
    for _ in range(steps + 1):
        log_now = world.log_probs(policy).double().log_softmax(-1)  # shape (N,), with gradient
        path.append(log_now.detach())
        adam.zero_grad()
        (-objective(log_now)).backward()
        adam.step()
    return policy, torch.stack(path)


_, unleashed = climb(lambda log_pi: expected(log_pi, reward), steps=30)

entropy = -(unleashed.exp() * unleashed).sum(-1)  # shape (steps,), nats
pictures.unleashed_training(expected(unleashed, reward), expected(unleashed, gold), entropy)

# %% tags=["nbval-ignore-output"]
print("After 30 steps:")
favourites(unleashed[-1])
likeliest = unleashed[-1].argmax()
assert entropy[-1] < 1  # nats
assert unleashed[-1][likeliest].exp() > 0.8 and reward[likeliest] == reward.max() and gold[likeliest] < 0

# %% [markdown]
# *Figure 2. Left, the reward model's score climbs to the very end, while the gold reward jumps up in the first few
# steps and then falls back; right, the entropy falls to below 1 nat.*

# %% tags=["nbval-check-output"]
check.p1.outcome()

# %% [markdown]
# **What happened?** The policy says *please please please please*. Why that? The reward model adds up points for words.
# Whatever the points are, its maximum is the best word four times over. People find it silly. More comparisons would
# not help: the next cell fits the six numbers to the exact preference of *every* pair of sentences, and the favourite
# is the same. The model cannot express the taste for order and against repetition; it is **misspecified**. Nor is the
# sentence rare under the reference.
#
# A score that is right in most places and wrong in some, and a search that finds the place: this is called **reward
# hacking** or **over-optimisation**. Three things went wrong at once:
#
# 1. **The reward model is wrong somewhere, and maximising looks for that place.** Here it is wrong by its form. A large
#    network can be wrong by its data as well, where no comparison was made (Gao et al. 2022 measure how proxy and gold
#    part as the distance grows).
# 2. **The maximum of $\mathbb{E}_\pi[r]$ is a single answer.** An average is never larger than its largest term. So a
#    policy that puts everything on $\arg\max_y r(y)$ is a best one. A chatbot with one answer is useless.
# 3. **Nothing in the objective knows the old model:** neither its grammar, nor its knowledge, nor its variety.

# %% tags=["nbval-check-output"]
gold_path = expected(unleashed, gold)
assert expected(unleashed, reward).max() <= reward.max()
assert gold_path.max() > gold_path[0] + 0.3 and gold_path[-1] < gold_path.max() - 0.3
assert unleashed[-1].argmax() == reward.argmax() and gold[reward.argmax()] < 0
print("Checked: no policy on the path beats the largest reward; gold first rises, then falls;")
print("the favourite sentence at the end is the maximum of r_φ, and its gold reward is negative.")

# %% tags=["folded", "nbval-check-output"]
# @title The same six numbers, fitted to the exact preferences of all 1,296² pairs
preferred = torch.sigmoid(gold[:, None] - gold)  # shape (N, N): p(first ≻ second), Bradley–Terry
kinds, kind = counts.unique(dim=0, return_inverse=True)  # sentences with the same words have the same score
cells = (kind[:, None].expand(N, N), kind.expand(N, N))
wins = torch.zeros(len(kinds), len(kinds), dtype=torch.float64).index_put(cells, preferred, accumulate=True)
best_phi = torch.zeros(len(world.vocab), dtype=torch.float64, requires_grad=True)
newton = torch.optim.LBFGS([best_phi], max_iter=100, line_search_fn="strong_wolfe")


def exact_loss() -> Tensor:
    """The Bradley–Terry loss with the exact preferences as labels, in nats a pair."""
    newton.zero_grad()
    scores = kinds @ best_phi
    loss = -(wins * F.logsigmoid(scores[:, None] - scores)).sum() / N**2
    loss.backward()
    return loss


_ = newton.step(exact_loss)
favourite = (counts @ best_phi.detach()).argmax()
assert best_phi.grad.abs().max() < 1e-5
assert favourite == likeliest and gold[favourite] == -0.5 and gold.max() == 2.5
assert 0.5 / N < log_ref[favourite].exp() < 2 / N
print(
    f"Its favourite: {' '.join(world.words(world.sequences[favourite]))}, gold {gold[favourite]:+.1f} (the best: +2.5)."
)
print("Checked: the reference gives this sentence about as often as a uniform choice would, within a factor of two.")

# %% [markdown]
# ## 3 · KL: how far is one policy from another?
#
# To hold the policy near the reference we need a distance. The **Kullback–Leibler divergence** of $p$ from $q$ is
#
# $$\mathrm{KL}(p \parallel q) = \mathbb{E}_p\left[\log \frac{p(y)}{q(y)}\right]
# = \sum_y p(y)\big(\log p(y) - \log q(y)\big). \tag{1}$$
#
# In words: draw answers from $p$. How much more likely are they under $p$ than under $q$, on the log scale and on
# average? The order matters: the *first* argument is the one the answers come from. Where $q(y) = 0 < p(y)$, the KL is
# infinite.
#
# ### Exercise 3.1 · KL divergence
# *difficulty 1/5 · importance 5/5 · 6 minutes*
#
# Write equation (1). The inputs are log-probabilities, because that is what a language model gives. An answer with
# $p(y) = 0$ has $\log p(y) = -\infty$ and counts as **zero** (since $p \log p \to 0$ for $p \to 0$). An answer with
# $q(y) = 0 < p(y)$ makes the KL **infinite**. There can be several distributions at once, one in each row: sum over the
# last axis only. We will train the policy through this function, so its gradient by `log_p` must be right too; it is
# tested where no probability is zero.


# %% tags=["exercise"]
def kl(log_p: Float[Tensor, "*B N"], log_q: Float[Tensor, "*B N"]) -> Float[Tensor, "*B"]:
    """KL(p ‖ q) in nats, from log-probabilities over N answers (last axis). Answers with p = 0 count as 0."""
    # BEGIN SOLUTION
    p = log_p.exp()
    return torch.where(p > 0, p * (log_p - log_q), 0.0).sum(-1)
    # END SOLUTION


# %% tags=["nbval-check-output"]
check.q1(kl)

# %% tags=["student-only"]
# check.q1.hint()
# check.q1.solution()

# %% tags=["nbval-check-output"]
kl_divergence = check.q1.or_ours(kl)

# %% [markdown]
# ### Never negative
#
# Why can KL serve as a distance? Because it is never below zero, and zero only for $p = q$. The proof needs one
# inequality: the line $u - 1$ touches $\log u$ at $u = 1$ and lies above it everywhere else:
#
# $$\log u \le u - 1. \tag{2}$$
#
# Put $u = q(y)/p(y)$ into it, and average over $p$. The sums run over the answers with $p(y) > 0$; the others count as
# zero:
#
# $$-\mathrm{KL}(p \parallel q) = \sum_{p(y) > 0} p(y) \log\frac{q(y)}{p(y)}
# \;\le\; \sum_{p(y) > 0} p(y) \left(\frac{q(y)}{p(y)} - 1\right)
# = \sum_{p(y) > 0} q(y) \; - 1 \;\le\; 0. \tag{3}$$
#
# The last step is an inequality because $q$ may have some of its probability where $p$ has none. Equality in (2) holds
# at $u = 1$ only. So equality in (3) needs $q(y) = p(y)$ wherever $p(y) > 0$; then $q$ has nothing left for the other
# answers, and $q = p$.

# %% tags=["nbval-check-output"]
generator = torch.Generator().manual_seed(1)


def random_policies(*shape: int) -> Tensor:
    """Log-probabilities of random distributions; the last axis is the answer."""
    return (2 * torch.randn(*shape, generator=generator, dtype=torch.float64)).log_softmax(-1)


u = torch.linspace(0.01, 5, 500, dtype=torch.float64)
assert torch.all(u.log() <= u - 1)  # (2)

log_p, log_q = random_policies(1000, 6), random_policies(1000, 6)  # shape (1000, 6): 1000 pairs of distributions
log_p[500:, :2] = -torch.inf  # half of the p never give the first two answers
log_p = log_p.log_softmax(-1)
p, q = log_p.exp(), log_q.exp()
can = p > 0  # shape (1000, 6)
middle = torch.where(can, p * (q / p - 1), 0.0).sum(-1)
assert torch.all(-kl_divergence(log_p, log_q) <= middle + 1e-12)  # (3), the first inequality
torch.testing.assert_close(middle, (q * can).sum(-1) - 1)  # (3), the equal sign
assert torch.all(middle <= 1e-12) and torch.all(middle[500:] < -1e-5)  # (3), the last inequality
assert torch.all(kl_divergence(log_p, log_q) > 0)
assert torch.all(kl_divergence(log_q[500:], log_p[500:]) == torch.inf)  # q gives answers that p never gives
assert torch.all(kl_divergence(log_q, log_q).abs() < 1e-12)
a, b = kl_divergence(log_p[0], log_q[0]), kl_divergence(log_q[0], log_p[0])
assert abs(a - b) > 0.1
print("Checked (2) on a grid and (3) on 1000 random pairs, half of them with zeros: KL > 0 where they differ,")
print("KL = 0 for p = q, and KL = inf where the first gives an answer that the second never gives.")
print(f"It is not symmetric. One pair: KL(p ‖ q) = {a:.3f}, KL(q ‖ p) = {b:.3f} nats.")

# %% [markdown]
# ### Forward and reverse
#
# So which order for the leash, $\mathrm{KL}(\pi \parallel \pi_\mathrm{ref})$ or
# $\mathrm{KL}(\pi_\mathrm{ref} \parallel \pi)$? Where $\pi$ is fitted to $\pi_\mathrm{ref}$, the first is called the
# **reverse** KL and the second the **forward** KL. They punish different sins. Look at (1) and ask where a term gets
# huge:
#
# - $\mathrm{KL}(\pi \parallel \pi_\mathrm{ref})$ is huge where $\pi$ says something that $\pi_\mathrm{ref}$ **never**
#   says. Leaving things out is cheap.
# - $\mathrm{KL}(\pi_\mathrm{ref} \parallel \pi)$ is huge where $\pi$ **never** says something that $\pi_\mathrm{ref}$
#   does say. Inventing things is cheap.
#
# **Predict.** The reference below has two humps. We fit a policy that can make only *one* hump (a bell curve on 60
# answers). Which one-hump policy has the smallest $\mathrm{KL}(\pi \parallel \pi_\mathrm{ref})$?
#
# - a) a wide one that covers both humps
# - b) a narrow one on one of the two humps
# - c) a narrow one in the middle, between the humps

# %% tags=["nbval-check-output"]
check.p2("b")  # SOLUTION

# %% tags=["folded"]
# @title Bell curves over 60 answers, and a reference with two humps
place = torch.arange(60, dtype=torch.float64)  # 60 answers in a row, shape (60,)


def hump(centre: Tensor, width: Tensor) -> Tensor:
    """log-probabilities of a bell curve over the 60 answers."""
    return (-0.5 * ((place - centre) / width) ** 2).log_softmax(-1)


humps = torch.stack([hump(torch.tensor(16.0), torch.tensor(3.5)), hump(torch.tensor(44.0), torch.tensor(4.5))])
two_humps = torch.logsumexp(humps + torch.tensor([[0.55], [0.45]], dtype=torch.float64).log(), dim=0)  # shape (60,)

# %%
grid = torch.cartesian_prod(torch.arange(5.0, 55.0, 0.5), torch.arange(2.0, 25.0, 0.5)).double()
candidates = hump(grid[:, :1], grid[:, 1:])  # shape (candidates, 60): one bell curve a row
target = two_humps.expand_as(candidates)
seeking = candidates[kl_divergence(candidates, target).argmin()]
covering = candidates[kl_divergence(target, candidates).argmin()]

pictures.two_directions_of_kl(two_humps.exp(), seeking.exp(), covering.exp())

# %% tags=["nbval-check-output"]
check.p2.outcome()
between = 30  # the answer in the middle, which the reference hardly ever gives
print(f"probability of answer {between}: reference {two_humps[between].exp():.4f}, ", end="")
print(f"one-hump fits {seeking[between].exp():.4f} and {covering[between].exp():.4f}")
assert seeking[between] < two_humps[between] and covering[between].exp() > 5 * two_humps[between].exp()
assert 20 < covering.argmax() < 40  # in the gap
assert seeking.argmax() == 16 and seeking[30:].exp().sum() < 0.001  # one hump, and nothing of the other
assert covering[10:22].exp().sum() > 0.1 and covering[38:50].exp().sum() > 0.1  # something of both

# %% [markdown]
# *Figure 3. A grey reference with two humps; the solid curve sits on the left hump, the dashed one is wide and has its
# top in the gap between the humps.*
#
# **What happened?** The reverse $\mathrm{KL}(\pi \parallel \pi_\mathrm{ref})$ chose one hump: it gives up nearly half of the answers,
# but says next to nothing that the reference would not say. It is called *mode-seeking*. The other order covers both
# humps (*mass-covering*) and pays with answers in the gap: answers the reference hardly ever gives.
#
# For a chatbot the gap is text that the old model would hardly write, and that the reward model was hardly tested on. So
# RLHF uses $\mathrm{KL}(\pi \parallel \pi_\mathrm{ref})$ (Ziegler et al. 2019). There is a practical reason
# too: by (1) its samples come from $\pi$, and those are the answers that training draws anyway.

# %% [markdown]
# ## 4 · The objective
#
# RLHF maximises reward minus the price of the distance:
#
# $$J(\pi) = \mathbb{E}_\pi[r(y)] - \beta\, \mathrm{KL}(\pi \parallel \pi_\mathrm{ref}). \tag{4}$$
#
# Units: $r$ in reward units, KL in nats, so $\beta$ is a **price** in reward units per nat. A large $\beta$ is a
# short leash.
#
# With real prompts $J$ is averaged over $x$ as well. But the policy can answer each prompt in its own way, so each
# prompt is a problem of its own. We look at one prompt and leave $x$ out. In code, several prompts are simply several
# rows.
#
# ### Exercise 3.2 · The objective
# *difficulty 2/5 · importance 5/5 · 6 minutes*
#
# Write equation (4), one number for each row. `kl_divergence` from above is there to be used. All three tensors have
# shape `(..., N)`. The policy is trained on the result: the gradient by `log_probs` must flow through both parts. (The
# reference and the rewards are fixed numbers; nothing is asked of their gradients.)


# %% tags=["exercise"]
def objective(
    log_probs: Float[Tensor, "*B N"], ref_log_probs: Float[Tensor, "*B N"], rewards: Float[Tensor, "*B N"], beta: float
) -> Float[Tensor, "*B"]:
    """J(π) = E_π[r] − β KL(π ‖ π_ref), in reward units."""
    # BEGIN SOLUTION
    expected_reward = (log_probs.exp() * rewards).sum(-1)
    return expected_reward - beta * kl_divergence(log_probs, ref_log_probs)
    # END SOLUTION


# %% tags=["nbval-check-output"]
check.q2(objective)

# %% tags=["student-only"]
# check.q2.hint()
# check.q2.solution()

# %% tags=["nbval-check-output"]
rlhf_objective = check.q2.or_ours(objective)

# %% [markdown]
# For the algebra that follows we use a toy with $N = 6$ answers to one prompt. One of them has
# $\pi_\mathrm{ref} = 0$: the reference *cannot* say it, although it would have the highest reward.

# %%
answers = ["bake it .", "mix , rise , bake .", "ask google .", "happy to help ! …", "! ! ! ! !", "a perfect poem"]
toy_ref = torch.tensor([0.40, 0.30, 0.20, 0.08, 0.02, 0.00], dtype=torch.float64).log()  # shape (N,) = (6,)
toy_reward = torch.tensor([0.0, 0.8, -1.0, 1.2, 2.0, 3.0], dtype=torch.float64)  # shape (6,)
for answer, log_prob, r in zip(answers, toy_ref.tolist(), toy_reward.tolist(), strict=True):
    print(f"{answer:24s} π_ref {math.exp(log_prob):.2f}   r {r:+.1f}")

# %% [markdown]
# ## 5 · The best policy, line by line
#
# Which $\pi$ makes $J$ largest? No gradient is needed. We rewrite $J$ until the answer can be read off.
#
# **Step 1.** Write both parts of (4) as one sum over answers:
#
# $$J(\pi) = \sum_y \pi(y) \left[ r(y) - \beta \log\frac{\pi(y)}{\pi_\mathrm{ref}(y)} \right]. \tag{5}$$
#
# **Step 2.** Take the factor $-\beta$ out; the reward is then divided by $-\beta$:
#
# $$J(\pi) = -\beta \sum_y \pi(y) \left[ \log \pi(y) - \log \pi_\mathrm{ref}(y) - \frac{r(y)}{\beta} \right]. \tag{6}$$

# %% tags=["nbval-check-output"]
beta = 0.5
log_pi = random_policies(1000, 5)  # shape (1000, 5): 1000 policies over the five answers that the reference can give
pi = log_pi.exp()
toy_ref_rows, toy_reward_rows = toy_ref[:5].expand(1000, 5), toy_reward[:5].expand(1000, 5)
J = rlhf_objective(log_pi, toy_ref_rows, toy_reward_rows, beta)  # shape (1000,): one J for each policy

step_1 = (pi * (toy_reward_rows - beta * (log_pi - toy_ref_rows))).sum(-1)
step_2 = -beta * (pi * (log_pi - toy_ref_rows - toy_reward_rows / beta)).sum(-1)
torch.testing.assert_close(step_1, J)
torch.testing.assert_close(step_2, J)
print("Checked (5) and (6): equal to J for 1000 random policies.")

# %% [markdown]
# (We left out the poem: a policy that gives it has an infinite KL, so $J = -\infty$. It comes back in section 6.)
#
# **Step 3.** Since $r/\beta = \log e^{r/\beta}$, the last two terms are one logarithm, with a minus sign:
# $-\log\big(\pi_\mathrm{ref}(y)\, e^{r(y)/\beta}\big)$. The thing in brackets is positive, but it does not sum to 1.
# So we divide it by its sum $Z$, and get a distribution. We call it $\pi^*$:
#
# $$Z = \sum_y \pi_\mathrm{ref}(y)\, e^{r(y)/\beta}, \qquad
# \pi^*(y) = \frac{\pi_\mathrm{ref}(y)\, e^{r(y)/\beta}}{Z}. \tag{7}$$
#
# Solved for the logarithm:
#
# $$\log \pi_\mathrm{ref}(y) + \frac{r(y)}{\beta} = \log \pi^*(y) + \log Z. \tag{8}$$
#
# **Step 4.** Put (8) into (6). $\log Z$ does not depend on $y$ and $\sum_y \pi(y) = 1$, so it comes out of the sum:
#
# $$J(\pi) = -\beta \sum_y \pi(y) \big[ \log \pi(y) - \log \pi^*(y) - \log Z \big]
# = \beta \log Z - \beta\, \mathrm{KL}(\pi \parallel \pi^*). \tag{9}$$

# %% tags=["nbval-check-output"]
Z = (toy_ref_rows.exp() * (toy_reward_rows / beta).exp()).sum(-1, keepdim=True)  # shape (1000, 1)
pi_star = toy_ref_rows.exp() * (toy_reward_rows / beta).exp() / Z  # (7)
torch.testing.assert_close(pi_star.sum(-1), torch.ones(1000, dtype=torch.float64))
torch.testing.assert_close(toy_ref_rows + toy_reward_rows / beta, pi_star.log() + Z.log())  # (8)
step_4 = beta * Z.squeeze(-1).log() - beta * kl_divergence(log_pi, pi_star.log())
torch.testing.assert_close(step_4, J)  # (9)
print("Checked (7), (8), (9): π* sums to 1, and β log Z − β KL(π ‖ π*) equals J for 1000 random policies.")

# %% [markdown]
# **Step 5.** Look at (9). $\beta \log Z$ does not depend on $\pi$ at all. And
# $\mathrm{KL}(\pi \parallel \pi^*) \ge 0$, with zero only at $\pi = \pi^*$, by (3). So the maximum is at
# $\pi = \pi^*$, it is the only one, and its height is
#
# $$J(\pi^*) = \beta \log Z. \tag{10}$$
#
# And the distance to the optimum, in nats, is what is missing in $J$:
#
# $$\mathrm{KL}(\pi \parallel \pi^*) = \frac{J(\pi^*) - J(\pi)}{\beta}. \tag{11}$$
#
# That is all. The best policy for $J$ is **the reference, reweighted by $e^{r/\beta}$**.

# %% tags=["nbval-check-output"]
J_star = rlhf_objective(pi_star.log(), toy_ref_rows, toy_reward_rows, beta)
torch.testing.assert_close(J_star, beta * Z.squeeze(-1).log())  # (10)
assert torch.all(J < J_star)  # 1000 random policies
torch.testing.assert_close(kl_divergence(log_pi, pi_star.log()), (J_star - J) / beta)  # (11)
nearby = (pi_star.log() + 0.01 * torch.randn(1000, 5, generator=generator, dtype=torch.float64)).log_softmax(-1)
assert torch.all(rlhf_objective(nearby, toy_ref_rows, toy_reward_rows, beta) < J_star)  # 1000 close neighbours
print("Checked (10) and (11); none of 1000 random policies and 1000 close neighbours of π* reaches J(π*).")

# %% [markdown]
# ### Exercise 3.3 · The optimal policy
# *difficulty 3/5 · importance 5/5 · 10 minutes*
#
# Write (7), in logarithms, one problem in each row. Return the pair $(\log \pi^*, \log Z)$ with shapes `(..., N)` and
# `(...)`. Rewards of 1000 with $\beta = 0.1$ must not overflow: $e^{10000}$ is `inf`. An answer with
# $\pi_\mathrm{ref} = 0$ keeps $\pi^* = 0$.


# %% tags=["exercise"]
def optimum(
    ref_log_probs: Float[Tensor, "*B N"], rewards: Float[Tensor, "*B N"], beta: float
) -> tuple[Float[Tensor, "*B N"], Float[Tensor, "*B"]]:
    """The maximiser of J: log π*(y) = log π_ref(y) + r(y)/β − log Z. Returns (log π*, log Z)."""
    # BEGIN SOLUTION
    weighted = ref_log_probs + rewards / beta
    log_z = torch.logsumexp(weighted, dim=-1)
    return weighted - log_z.unsqueeze(-1), log_z
    # END SOLUTION


# %% tags=["nbval-check-output"]
check.q3(optimum)

# %% tags=["student-only"]
# check.q3.hint()
# check.q3.solution()

# %% tags=["nbval-check-output"]
optimal_policy = check.q3.or_ours(optimum)

# %% [markdown]
# ### And a neural network?
#
# The formula lists all answers. A real language has too many. We take the GPT-2 and the reward model of section 1, add
# the leash with $\beta = 0.2$, and climb $J$ by gradient ascent, as in section 2.
#
# **Predict.** After 60 steps of gradient ascent on $J$, which policy do we have?
#
# - a) the hack again, *please please please please* nearly always: the leash only slows it down
# - b) a policy that still writes many different sentences, close to $\pi^*$ of formula (7)
# - c) the reference: the leash allows no movement

# %% tags=["nbval-check-output"]
check.p3("b")  # SOLUTION

# %% tags=["nbval-ignore-output"]
beta_world = 0.2
policy, leashed = climb(lambda log_pi: rlhf_objective(log_pi, log_ref, reward, beta_world), steps=60)
log_star, log_z = optimal_policy(log_ref, reward, beta_world)  # shapes (N,) and ()

J_path = rlhf_objective(leashed, log_ref.expand_as(leashed), reward.expand_as(leashed), beta_world)  # (steps,)
gap = kl_divergence(leashed, log_star.expand_as(leashed))  # (steps,), nats
torch.testing.assert_close(gap, (beta_world * log_z - J_path) / beta_world)  # (11), at every step

pictures.training_with_leash(J_path, (beta_world * log_z).item(), gap)

# %% tags=["nbval-ignore-output"]
print("The trained GPT-2:")
favourites(leashed[-1])
print("The formula:")
favourites(log_star)
for name, log_end in (("reference", log_ref), ("without leash", unleashed[-1]), ("with leash", leashed[-1])):
    r, g, entropy = expected(log_end, reward), expected(log_end, gold), -(log_end.exp() * log_end).sum()
    print(f"{name:14s} r_φ {r:+.2f}   gold {g:+.2f}   entropy {entropy:.1f} nats")

# %% tags=["nbval-check-output"]
check.p3.outcome()
assert round(gap[0].item(), 1) == 2.4 and gap[-1] < 0.01
assert expected(leashed[-1], gold) > max(expected(log_ref, gold), expected(unleashed[-1], gold)) + 0.3
assert (leashed[-1].exp() - log_star.exp()).abs().max() < 0.01  # less than a percentage point
assert leashed[-1].argmax() == likeliest and leashed[-1].exp().max() < 0.15 < 0.8 < unleashed[-1].exp().max()
assert -(leashed[-1].exp() * leashed[-1]).sum() > -0.5 * (log_ref.exp() * log_ref).sum()  # more than half the entropy
print("Checked: equation (11) at every step, and the trained GPT-2 ends within 0.01 nats of π*.")
print("Checked: every probability agrees with π* to within a percentage point, and most of the entropy is left.")

# %% [markdown]
# *Figure 4. Left, J rises steeply and then rests on the dotted line β log Z; right, on a log scale, the KL to the
# optimum falls from 2.4 nats to less than 0.01.*
#
# **What happened?** The network landed on the formula: the tables of favourites agree to within a percentage point. It
# kept most of its entropy, and its gold reward is higher than before. The hack is still the favourite, but far
# from certain. Nobody told the network the formula. It is simply where the top of $J$ is.

# %% [markdown]
# ## 6 · What β does
#
# **Predict.** The fifth toy answer, "! ! ! ! !", has $\pi_\mathrm{ref} = 0.02$ and the second-best reward, 2.0. "a
# perfect poem" has $\pi_\mathrm{ref} = 0$ and the best, 3.0. What happens to their probability under $\pi^*$ as
# $\beta \to 0$?
#
# - a) the poem goes to 1, for its reward is highest
# - b) both stay small: their $\pi_\mathrm{ref}$ is small
# - c) "! ! ! ! !" goes to 1, the poem stays at 0

# %% tags=["nbval-check-output"]
check.p4("c")  # SOLUTION

# %% [markdown]
# Compare two answers $a$ and $b$ under $\pi^*$. In the ratio, $Z$ cancels:
#
# $$\log\frac{\pi^*(a)}{\pi^*(b)}
# = \log\frac{\pi_\mathrm{ref}(a)}{\pi_\mathrm{ref}(b)} + \frac{r(a) - r(b)}{\beta}. \tag{12}$$
#
# So each reward unit of advantage multiplies the odds by $e^{1/\beta}$. From (12) we read both ends:
#
# - $\beta \to \infty$: the last term vanishes, $\pi^* \to \pi_\mathrm{ref}$. The leash is so short that nothing
#   moves.
# - $\beta \to 0$: any advantage wins by an unlimited factor. Only the answers of highest reward remain, **among those
#   the reference can give**. Equal rewards share in proportion to $\pi_\mathrm{ref}$.


# %%
def plot_optimum(beta: float):
    """Bars of π_ref and π* over the six toy answers."""
    log_best, _ = optimal_policy(toy_ref, toy_reward, beta)
    return pictures.optimum_at(beta, answers, toy_reward, toy_ref.exp(), log_best.exp())


# %% tags=["nbval-ignore-output"]
slider(plot_optimum, "β", [0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 5.0, 20.0], start=1.0)

# %% [markdown]
# *Move the slider: every value of β draws the picture anew. The next cell shows it for one β, and then for all of
# them.*

# %%
plot_optimum(1.0)

# %%
betas = torch.logspace(2, -2, 200, dtype=torch.float64)  # shape (200,), from a short leash to a long one
toy_path = torch.stack([optimal_policy(toy_ref, toy_reward, b)[0].exp() for b in betas.tolist()])  # (200, 6)
pictures.optimum_against_beta(betas, answers, toy_reward, toy_path)

# %% [markdown]
# *Figure 5, the bars: the reference and π\* at β = 1. The three answers with a reward above β log Z (0.44) have grown,
# the other reachable ones have shrunk.*
#
# *Figure 6, the curves: at the left they stand at the reference's probabilities; as
# β falls to the right, answers rise and fall until "! ! ! ! !" alone is left at 1; the poem stays at 0 throughout.*

# %% tags=["nbval-check-output"]
check.p4.outcome()

# %% [markdown]
# **What happened?** Good answers have their time: "mix , rise , bake ." is on top near $\beta = 1$, before an answer with
# a higher score and a smaller $\pi_\mathrm{ref}$ takes over. If the high score of "! ! ! ! !" is a mistake of the reward
# model, a moderate $\beta$ protects you from it. And **the leash allows nothing that the reference never does**: the poem
# stays at 0.

# %% tags=["nbval-check-output"]
for b in (0.3, 1.0, 4.0):
    log_best, _ = optimal_policy(toy_ref, toy_reward, b)
    odds = log_best[:5, None] - log_best[None, :5]  # shape (5, 5): row a, column b
    ref_odds = toy_ref[:5, None] - toy_ref[None, :5]
    torch.testing.assert_close(odds, ref_odds + (toy_reward[:5, None] - toy_reward[None, :5]) / b)  # (12)

at_one, log_z_one = optimal_policy(toy_ref, toy_reward, 1.0)
grown = at_one[:5] > toy_ref[:5]
assert torch.equal(grown, toy_reward[:5] > log_z_one) and grown.sum() == 3 and abs(log_z_one - 0.44) < 0.005
assert at_one.argmax() == 1 and optimal_policy(toy_ref, toy_reward, 0.1)[0].argmax() == 4
assert torch.all(toy_path[:, 5] == 0)
short, long = optimal_policy(toy_ref, toy_reward, 1e4)[0].exp(), optimal_policy(toy_ref, toy_reward, 1e-2)[0].exp()
torch.testing.assert_close(short, toy_ref.exp(), rtol=0, atol=1e-3)
torch.testing.assert_close(long, torch.tensor([0, 0, 0, 0, 1.0, 0]).double(), rtol=0, atol=1e-6)
ties = optimal_policy(torch.tensor([0.6, 0.3, 0.1]).log(), torch.tensor([1.0, 1.0, 0.0]), 1e-2)[0].exp()
torch.testing.assert_close(ties, torch.tensor([2 / 3, 1 / 3, 0.0]))
print("Checked: (12) for all pairs; β = 10,000 gives the reference; β = 0.01 gives the best reachable answer;")
print("two equally good answers share 2 : 1, as under the reference; at β = 1 just the answers with r > β log Z grow.")

# %% [markdown]
# ## 7 · The frontier
#
# Every $\beta$ gives one best policy. Write $R(\beta) = \mathbb{E}_{\pi^*}[r]$ for its reward and
# $D(\beta) = \mathrm{KL}(\pi^* \parallel \pi_\mathrm{ref})$ for its distance. As $\beta$ runs from $\infty$ to 0, the
# point $(D, R)$ draws a curve: the **reward–KL frontier**.
#
# **Nothing lies above it.** Take any policy $\pi$ whatsoever, and any $\beta$. Because $J(\pi) \le J(\pi^*)$,
#
# $$\mathbb{E}_\pi[r] \;=\; J(\pi) + \beta\,\mathrm{KL}(\pi \parallel \pi_\mathrm{ref})
# \;\le\; \beta \log Z(\beta) + \beta\,\mathrm{KL}(\pi \parallel \pi_\mathrm{ref}). \tag{13}$$
#
# On the right stands a straight line in the (KL, reward) plane, with slope $\beta$. It holds for *every* $\beta$, so
# $\pi$ lies below *all* these lines. And each line touches the frontier, at $\pi = \pi^*$: there (13) is an equality.
# The lines are tangents, so **the slope of the frontier is the price $\beta$ itself**:
#
# $$\frac{dR}{dD} = \frac{dR/d\beta}{dD/d\beta} = \beta. \tag{14}$$
#
# (14) in detail: differentiate $\beta \log Z(\beta)$ with respect to $\beta$, by the product rule. Inside $Z$,
# $\frac{d}{d\beta} e^{r/\beta} = -\frac{r}{\beta^2} e^{r/\beta}$. So
#
# $$\frac{d}{d\beta}\, \beta \log Z = \log Z - \frac{R}{\beta} = -D, \tag{15}$$
#
# where the last step is $\beta \log Z = R - \beta D$, which is (10). The other way round, differentiate $R - \beta D$
# directly: it gives $R' - D - \beta D'$. Both are the same, so $R' = \beta D'$, which is (14). (This needs $D' \ne 0$: if
# all rewards that the reference can get are equal, the frontier is a single point.)

# %% tags=["nbval-check-output"]
betas = torch.logspace(1, -1.7, 150, dtype=torch.float64)  # shape (150,), from 10 down to 0.02
solved = [optimal_policy(log_ref, reward, b) for b in betas.tolist()]
frontier = torch.stack([log_best for log_best, _ in solved])  # shape (150, N)
log_zs = torch.stack([log_z for _, log_z in solved])  # shape (150,)


def distance(log_pi: Float[Tensor, "*B N"]) -> Float[Tensor, "*B"]:
    """KL(π ‖ π_ref) in nats, in the world of section 1."""
    return kl_divergence(log_pi, log_ref.expand_as(log_pi))


R, D = expected(frontier, reward), distance(frontier)
torch.testing.assert_close(betas * log_zs, R - betas * D)  # (10) along the frontier

h = 1e-4  # derivatives as differences, at β (1 ± h)
up, down = ([optimal_policy(log_ref, reward, b) for b in (betas * s).tolist()] for s in (1 + h, 1 - h))
up_pi, down_pi = (torch.stack([log_best for log_best, _ in side]) for side in (up, down))
dR, dD = expected(up_pi, reward) - expected(down_pi, reward), distance(up_pi) - distance(down_pi)
torch.testing.assert_close(dR / dD, betas, rtol=1e-4, atol=0)  # (14); the error of such a difference is of order h²
up_J, down_J = (torch.stack([z for _, z in side]) * betas * s for side, s in ((up, 1 + h), (down, 1 - h)))
torch.testing.assert_close((up_J - down_J) / (2 * h * betas), -D, rtol=1e-4, atol=1e-6)  # (15)
assert torch.all(D.diff() > 0) and torch.all(R.diff() > 0)
print("Checked (10), (14), (15) at 150 values of β: the slope of the frontier is β; KL and reward rise as β falls.")

# %% [markdown]
# ### Best-of-n: no training at all
#
# A rival that needs no training: draw $n$ answers from the reference, keep the one with the highest reward. It is a
# policy too. What is its probability for each answer? Let $F(r)$ be the probability that one draw has reward at most
# $r$, and $F(r^-)$ the probability that it has reward less than $r$. All $n$ draws are at most $r$ with probability
# $F(r)^n$, so
#
# $$\Pr(\text{the best of } n \text{ has reward } r) = F(r)^n - F(r^-)^n. \tag{16}$$
#
# How far does it go from the reference? If all rewards differ and no answer has a large probability, then $s = F(r)$
# is nearly uniform on $[0, 1]$ under the reference, and the best of $n$ has density $\frac{d}{ds} s^n = n s^{n-1}$.
# So
#
# $$\mathrm{KL} = \int_0^1 n s^{n-1} \log\left(n s^{n-1}\right) ds = \log n + (n-1)\int_0^1 n s^{n-1} \log s \; ds
# = \log n - \frac{n-1}{n}. \tag{17}$$
#
# The last integral is $-\frac1n$ (by parts). In general (17) is an **upper bound** (Beirami et al. 2024): ties
# and large single probabilities only lower the KL. Note how slowly it grows: best-of-1000 is at most 5.9 nats away.

# %% tags=["nbval-check-output"]
ns = [1, 2, 4, 8, 16, 64, 256, 1024, 16_384]
best_of_n = torch.stack([best_of_n_policy(log_ref, reward, n) for n in ns])  # shape (9, N), exact

draws = torch.multinomial(log_ref.exp(), 4 * 50_000, replacement=True, generator=generator).view(50_000, 4)
r_level = reward[reward.argsort()[-200]]  # a reward that some answers have exactly
below, up_to = log_ref.exp()[reward < r_level - 1e-9].sum(), log_ref.exp()[reward <= r_level + 1e-9].sum()
share = ((reward[draws].max(-1).values - r_level).abs() < 1e-9).double().mean()
exact = up_to**4 - below**4  # (16)
assert abs(share - exact) < 4 * (exact * (1 - exact) / 50_000) ** 0.5
print(f"(16) for n = 4 and one reward level: {exact:.4f}, 50,000 simulations agree within 4 standard errors")

s = (torch.arange(1_000_000, dtype=torch.float64) + 0.5) / 1_000_000
for n in ns:
    density = n * s ** (n - 1)
    integral = torch.special.xlogy(density, density).mean()  # x log x, with 0 log 0 = 0
    torch.testing.assert_close(integral, torch.tensor(math.log(n) - (n - 1) / n).double(), rtol=1e-3, atol=1e-6)  # (17)
    assert math.isclose(best_of_n_kl_bound(n), math.log(n) - (n - 1) / n)
print("(17): the integral agrees with log n − (n−1)/n")

print("\n    n   exact KL   bound (nats)")
for n, exact in zip(ns, distance(best_of_n).tolist(), strict=True):
    print(f"{n:5d}   {exact:8.3f}   {best_of_n_kl_bound(n):8.3f}")
    assert exact <= best_of_n_kl_bound(n) + 1e-9
best_answers = reward > reward.max() - 1e-9
limit = -log_ref[best_answers].logsumexp(0)
assert distance(best_of_n)[-1] <= limit + 1e-9 < best_of_n_kl_bound(ns[-1])
assert abs(best_of_n_kl_bound(1000) - 5.9) < 0.05
assert best_of_n_kl_bound(4) < 1.01 * distance(best_of_n)[ns.index(4)]  # nearly exact for small n
print(f"limit for n → ∞: {limit:.3f} nats")

# %% [markdown]
# The bound is nearly exact for small $n$. It falls behind when $n$ is so large that the best answers are found almost
# every time: then drawing more changes nothing, and the KL stops at $-\log \pi_\mathrm{ref}(\text{best answers})$,
# while $\log n$ goes on. So do not plot best-of-n at its bound if you can compute its KL.
#
# **Predict.** Where will best-of-16 lie in the (KL, reward) plane?
#
# - a) just below the frontier
# - b) far below the frontier: choosing among 16 is crude
# - c) above the frontier, because it looks at real samples

# %% tags=["nbval-check-output"]
check.p5("a")  # SOLUTION

# %% tags=["folded"]
# @title 1,000 other policies: the reference, tilted in random directions
tilts = torch.linspace(0, 3, 40, dtype=torch.float64)[:, None, None]
noise = torch.randn(1, 25, N, generator=generator, dtype=torch.float64)
others = (
    (log_ref + tilts * (noise + torch.rand(1, 25, 1, generator=generator) * 3 * reward)).log_softmax(-1).reshape(-1, N)
)  # shape (1000, N): arbitrary policies


# %%
def place(log_pi: Float[Tensor, "P N"]) -> pictures.Place:
    """Where policies stand: KL, r_φ and gold, each of shape (P,)."""
    return pictures.Place(distance(log_pi), expected(log_pi, reward), expected(log_pi, gold))


pictures.reward_and_distance(*(place(policies) for policies in (others, frontier, unleashed, leashed, best_of_n)))

# %% [markdown]
# *Figure 7. Left, the frontier rises and flattens, the grey policies and both training paths lie below it, and
# best-of-n sits almost on it. Right, the same policies judged by the gold reward: the curve rises up to about 2 nats
# and then falls back to where it began; grey policies may lie above it here, since gold is not what $\pi^*$
# maximises.*
#
# **What happened?** Left: as proven, nothing is above the line. Best-of-n is nearly optimal for its KL, without any
# training; it pays at the time of use, with $n$ generations for each answer. Right: beyond about 2 nats the same
# $\pi^*$, each the *best* policy for $r_\phi$ at its distance, get *worse* for people. That is over-optimisation without any training noise.
# At its best, best-of-n pleases people even a little more than any $\pi^*$: the best policy for $r_\phi$ is not the best
# one for people. **Choosing $\beta$ means choosing where to stop.**

# %% tags=["nbval-check-output"]
check.p5.outcome()

# %% tags=["folded", "nbval-ignore-output"]
# @title Check (13), and what the figure says of best-of-n and of gold
everything = torch.cat([others, unleashed, leashed, best_of_n, log_ref[None]])  # shape (policies, N)
lines = betas[:, None] * (log_zs[:, None] + distance(everything))  # shape (150, policies), right side of (13)
assert torch.all(expected(everything, reward) <= lines + 1e-9)  # (13)
torch.testing.assert_close((betas * log_zs + betas * D), R)  # equality at π*: each line touches
log_16, kl_16 = best_of_n[ns.index(16)], distance(best_of_n[ns.index(16)])
shortfall = (betas * log_zs + betas * kl_16).min() - expected(log_16, reward)
gold_on_frontier = expected(frontier, gold)
peak = gold_on_frontier.argmax()
assert 0 < shortfall < 0.1 * expected(log_16, reward)
assert abs(gold_on_frontier[-1] - gold_on_frontier[0]) < 0.1  # back to where it began
assert gold_on_frontier[-1] < gold_on_frontier[peak] - 0.3 and 1.5 < D[peak] < 2.5
assert expected(best_of_n, gold).max() > gold_on_frontier[peak]
print(f"Checked (13): {len(everything)} policies, 150 lines each, none above.")
print(f"Best-of-16 lies {shortfall:.3f} reward units below the frontier, at {expected(log_16, reward):.2f}.")
print(f"Gold is highest at β = {betas[peak]:.2f}, {D[peak]:.1f} nats from the reference.")

# %% [markdown]
# ## 8 · Token by token
#
# A language model writes an answer one token at a time, and the log-probability of the answer is a sum:
#
# $$\log \pi(y) = \sum_{t=1}^{T} \log \pi(y_t \mid y_{\lt t}). \tag{18}$$
#
# Hence the log-ratio is a sum as well. We write $d_t$ for the log-ratio of one token, and $d$ for that of the answer:
#
# $$d_t = \log \pi(y_t \mid y_{\lt t}) - \log \pi_\mathrm{ref}(y_t \mid y_{\lt t}), \qquad
# d = \sum_t d_t = \log\frac{\pi(y)}{\pi_\mathrm{ref}(y)}, \qquad
# \mathrm{KL}(\pi \parallel \pi_\mathrm{ref}) = \mathbb{E}_\pi[d]. \tag{19}$$
#
# The expected $d_t$ is a KL too: that of the next-token distributions, averaged over the beginnings $y_{\lt t}$ that
# $\pi$ writes:
#
# $$\mathbb{E}_\pi[d_t] = \mathbb{E}_{y_{\lt t} \sim \pi}\Big[
# \mathrm{KL}\big(\pi(\cdot \mid y_{\lt t}) \parallel \pi_\mathrm{ref}(\cdot \mid y_{\lt t})\big)\Big]. \tag{20}$$

# %% tags=["nbval-ignore-output"]
prompts, prompt_mask = world.prompts(N)
mask = torch.ones(N, T, dtype=torch.bool)  # shape (N, T): all four tokens are real
with torch.no_grad():
    token_log_pi = response_log_probs(policy, prompts, prompt_mask, world.sequences, mask).double()  # shape (N, T)
    token_log_ref = response_log_probs(reference, prompts, prompt_mask, world.sequences, mask).double()  # shape (N, T)
d_t = token_log_pi - token_log_ref  # shape (N, T), nats
log_pi = token_log_pi.sum(-1)  # (18), shape (N,)
torch.testing.assert_close(log_pi.exp().sum(), torch.tensor(1.0).double(), rtol=1e-5, atol=0)  # fp32 network
torch.testing.assert_close(expected(log_pi, d_t.sum(-1)), kl_divergence(log_pi, log_ref), rtol=1e-5, atol=1e-5)  # (19)

V = len(world.vocab)
for t in range(T):  # all beginnings y_<t, shape (V^t,), and the next-token distributions after each, shape (V^t, V)
    upto = [x.view(V**t, V, -1).logsumexp(-1) for x in (log_pi, log_ref)]
    next_pi, next_ref = (x.log_softmax(-1) for x in upto)
    beginnings = upto[0].logsumexp(-1).exp()
    right_side = (beginnings * kl_divergence(next_pi, next_ref)).sum()
    torch.testing.assert_close(expected(log_pi, d_t[:, t]), right_side, rtol=1e-4, atol=1e-5)  # (20)
per_token = [f"{expected(log_pi, d_t[:, t]):.3f}" for t in range(T)]
print(
    f"Checked (18), (19), (20). KL of the answers {kl_divergence(log_pi, log_ref):.3f} nats = {' + '.join(per_token)}"
)

# %% [markdown]
# Now the trick that hands RLHF to reinforcement learning, where every step has a reward. Give every token a reward of its
# own, and the last one the score of the whole answer on top:
#
# $$r_t = -\beta\, d_t + [\,t \text{ is the last token}\,]\; r(y). \tag{21}$$
#
# Summed over the answer it is $r(y) - \beta d$. So its expected value is exactly the objective:
#
# $$\mathbb{E}_\pi\Big[\sum_t r_t\Big] = \mathbb{E}_\pi[r] - \beta\, \mathbb{E}_\pi[d] = J(\pi). \tag{22}$$
#
# So an algorithm that maximises the expected sum of rewards maximises $J$. One thing is unusual: these rewards depend on
# $\pi$ itself. Section 10 of notebook 04 shows why PPO may still treat them as fixed numbers.
#
# ### Exercise 3.4 · Rewards for tokens
# *difficulty 3/5 · importance 5/5 · 12 minutes*
#
# Write (21) for a batch. `scores` has shape `(B,)`, all others `(B, T)`. Answers have different lengths and are
# padded **on the right**; `mask` is `True` on real tokens. The score goes to the last *real* token of each row.
# Padding gets 0, whatever garbage (even `inf`) the log-probabilities have there. Never clamp the log-ratio: single
# $d_t$ may well be negative. Only values are asked for, no gradients.


# %% tags=["exercise"]
def token_rewards(
    scores: Float[Tensor, " B"],
    log_probs: Float[Tensor, "B T"],
    ref_log_probs: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    beta: float,
) -> Float[Tensor, "B T"]:
    """r_t = −β (log π − log π_ref)_t, plus the score at the last real token; 0 at padding."""
    # BEGIN SOLUTION
    rewards = torch.where(mask, -beta * (log_probs - ref_log_probs), 0.0)
    last = mask.sum(-1) - 1  # shape (B,): index of the last real token
    is_last = torch.arange(mask.shape[1]) == last[:, None]  # shape (B, T)
    return rewards + is_last * scores[:, None]
    # END SOLUTION


# %% tags=["nbval-check-output"]
check.q4(token_rewards)

# %% tags=["student-only"]
# check.q4.hint()
# check.q4.solution()

# %% tags=["nbval-check-output"]
shape_rewards = check.q4.or_ours(token_rewards)

# %% tags=["nbval-ignore-output"]
in_fp32 = (x.float() for x in (reward, token_log_pi, token_log_ref))
r_t = shape_rewards(*in_fp32, mask, beta_world)  # shape (N, T): for every sentence
J_by_tokens = expected(log_pi, r_t.sum(-1))
J_direct = rlhf_objective(log_pi.log_softmax(-1), log_ref, reward, beta_world)
torch.testing.assert_close(J_by_tokens, J_direct, rtol=1e-4, atol=1e-5)  # (22)
print(f"Checked (22): the expected sum of token rewards is {J_by_tokens:.3f}, and J is {J_direct:.3f} reward units.")


# %% tags=["nbval-ignore-output"]
sentences = ["please thank you please", "you go away go"]
chosen_two = world.index(torch.tensor([[world.vocab.index(word) for word in text.split()] for text in sentences]))
pictures.rewards_of_tokens(sentences, -beta_world * d_t[chosen_two], reward[chosen_two])

# %% [markdown]
# *Figure 8. Two sentences. Tokens that became more likely pay a negative reward, tokens that became less likely earn a
# positive one; the last token also gets the score of the sentence.*
#
# Why are the two sums nearly **equal**, though one sentence is liked and the other is not? That is (8) again. At the
# optimum $r(y) - \beta d = \beta \log Z$ for *every* answer that the reference can give: what an answer gains in score it
# pays in KL. No answer is better than another any more, and that is where training ends.

# %% tags=["nbval-check-output"]
spread = (r_t.sum(-1) - beta_world * log_z).abs()  # shape (N,): 0 everywhere at the exact optimum
exact_spread = (reward - beta_world * (log_star - log_ref) - beta_world * log_z).abs()
assert exact_spread.max() < 1e-9
assert expected(log_pi, spread) < 0.05
print("Checked: at π* every sentence has r − β d = β log Z, to 1e-9;")
print(f"the trained GPT-2 misses that by {expected(log_pi, spread):.2f} reward units on average.")

# %% [markdown]
# ## 9 · Estimating the KL from samples
#
# In a real language nobody can sum over all answers. We have samples $y \sim \pi$ and two numbers for each:
# $\log \pi(y)$ and $\log \pi_\mathrm{ref}(y)$. From (19), the obvious estimate of the KL is the average of
#
# $$k_1 = d = -\log u, \qquad
# \text{where } u = \frac{\pi_\mathrm{ref}(y)}{\pi(y)} \text{ (reference over policy!)}. \tag{23}$$
#
# It is unbiased. But single values are often **negative**, although the KL never is. John Schulman (2020) proposed two
# others:
#
# $$k_2 = \tfrac12 d^2 = \tfrac12 (\log u)^2, \qquad k_3 = u - 1 - \log u = e^{-d} - 1 + d. \tag{24}$$
#
# **Where does $k_3$ come from?** Let $\pi$ be able to give every answer that $\pi_\mathrm{ref}$ can give, as a softmax
# always is. Then the average of $u - 1$ is zero:
#
# $$\mathbb{E}_\pi[u - 1] = \sum_y \pi(y)\, \frac{\pi_\mathrm{ref}(y)}{\pi(y)} - 1 = 0. \tag{25}$$
#
# (Without the condition the sum misses the answers with $\pi(y) = 0 < \pi_\mathrm{ref}(y)$, and is less than zero: think
# of best-of-n, or of sampling only from the $k$ likeliest words, *top-k*.)
#
# So we may add it to $k_1$ without changing the average: $\mathbb{E}[k_3] = \mathbb{E}[k_1] = \mathrm{KL}$. (Adding
# something with known mean zero to reduce noise is called a *control variate*.) And by (2) $u - 1 \ge \log u$, so
# **$k_3$ is never negative**.
#
# **And $k_2$?** For small $d$, $e^{-d} = 1 - d + \frac12 d^2 - \dots$, so $k_3 \approx \frac12 d^2 = k_2$. It is
# biased, but little where the policies are close. And it is never negative.
#
# The trap: if you take $u$ upside down, policy over reference, (25) fails.
#
# ### Exercise 3.5 · Three estimators
# *difficulty 2/5 · importance 4/5 · 6 minutes*
#
# Write (23) and (24). The inputs are the two log-probabilities of each sample; return three tensors of the same shape,
# one value for each sample, not averaged. They will be used as losses too, so the gradient by `log_probs` must be right.


# %% tags=["exercise"]
def estimators(
    log_probs: Float[Tensor, "*B"], ref_log_probs: Float[Tensor, "*B"]
) -> tuple[Float[Tensor, "*B"], Float[Tensor, "*B"], Float[Tensor, "*B"]]:
    """(k1, k2, k3) for samples from π: each has the shape of the inputs."""
    # BEGIN SOLUTION
    d = log_probs - ref_log_probs
    return d, 0.5 * d**2, torch.exp(-d) - 1 + d
    # END SOLUTION


# %% tags=["nbval-check-output"]
check.q5(estimators)

# %% tags=["student-only"]
# check.q5.hint()
# check.q5.solution()

# %% tags=["nbval-check-output"]
kl_estimators = check.q5.or_ours(estimators)

# %% [markdown]
# **Predict.** Take policies from the frontier, from very close to the reference to far away. Where is $k_3$ *less*
# noisy (smaller standard deviation) than $k_1$?
#
# - a) everywhere: that is what a control variate is for
# - b) nowhere: it has an extra random term
# - c) close to the reference, yes; far away it is the noisier one

# %% tags=["nbval-check-output"]
check.p6("c")  # SOLUTION

# %%
closer = torch.stack([optimal_policy(log_ref, reward, b)[0] for b in torch.logspace(1.5, -1, 60).tolist()])  # (60, N)
exact_kl = distance(closer)  # shape (60,)
k = torch.stack(kl_estimators(closer, log_ref.expand_as(closer)))  # shape (3, 60, N): estimator, policy, sentence
mean = (closer.exp() * k).sum(-1)  # shape (3, 60), exact expectations, no sampling
std = (closer.exp() * (k - mean[..., None]) ** 2).sum(-1).sqrt()  # shape (3, 60), standard deviation of one sample

pictures.bias_and_noise(exact_kl, mean, std)

# %% [markdown]
# *Figure 9. Left, k1 and k3 lie on the line 1 at all distances while k2 starts at 1 and leaves it as the KL grows;
# right, near the reference k1 is many times noisier than k2 and k3; beyond about one nat k3 is noisier than k1, and far
# out it is the noisiest by far.*
#
# **What happened?** Close to the reference, $d$ is small and jumps around 0 with both signs, while $k_2$ and $k_3$
# are all of the size of the KL. That is where you want $k_3$. Far away there are answers that $\pi$ hardly ever gives
# and the reference often: for them $u$ is in the thousands. They are rare in the samples, and when one comes it
# shakes the average. $k_2$ is the odd one: little noise, but the wrong number, up to nearly three times too large.

# %% tags=["nbval-check-output"]
check.p6.outcome()
torch.testing.assert_close(mean[0], exact_kl)  # k1: no bias
torch.testing.assert_close(mean[2], exact_kl)  # k3: no bias
u = (log_ref - closer).exp()
torch.testing.assert_close(expected(closer[0], u[0] - 1), torch.tensor(0.0).double(), rtol=0, atol=1e-9)  # (25)
torch.testing.assert_close(k[2], u - 1 - u.log())  # (24)

# %% tags=["folded", "nbval-check-output"]
# @title Check what the figure and the text say of bias and noise, and the averages on 100,000 samples
small = torch.linspace(-0.01, 0.01, 101, dtype=torch.float64)
_, k2, k3 = kl_estimators(small, torch.zeros_like(small))
assert torch.all((k3 - k2).abs() <= 0.2 * small.abs() ** 3 + 1e-15)  # they differ by d³/6 and less
assert torch.all(k[1:] >= 0) and (k[0] < 0).any()
assert abs(mean[1, 0] / exact_kl[0] - 1) < 0.05 and abs(mean[1, -1] / exact_kl[-1] - 1) > 0.2  # k2: bias only far away
assert std[2, 0] < 0.2 * std[0, 0] and std[2, -1] > 10 * std[0, -1] and u[-1].max() > 1000
assert 2.5 < (mean[1] / exact_kl).max() < 3
assert 0.5 < exact_kl[std[2] > std[0]][0] < 2  # where k3 becomes noisier than k1, in nats
assert expected(closer[0], 1 / u[0] - 1) > 1e-5 and expected(closer[-1], 1 / u[-1] - 1) > 1  # u upside down: (25) fails
top = log_ref.topk(50).indices  # a policy that gives only 50 answers
truncated = torch.full_like(log_ref, -torch.inf).index_copy(0, top, log_ref[top].log_softmax(-1))
assert (truncated[top].exp() * ((log_ref - truncated)[top].exp() - 1)).sum() < -0.1  # (25) needs its condition

n = 100_000
y = torch.multinomial(log_star.exp(), n, replacement=True, generator=generator)  # shape (n,): indices of sentences
samples = kl_estimators(log_star[y], log_ref[y])
for values in (samples[0], samples[2]):
    error = values.mean() - distance(log_star)
    assert abs(error) < 4 * values.std() / math.sqrt(n)
print("Checked exactly: k1 and k3 have no bias, k2 has; k2 and k3 are never negative; (24), (25).")
print(f"Checked on {n:,} samples from π*: the averages of k1 and k3 are within 4 standard errors of the KL.")

# %% [markdown]
# ### An estimate as a loss
#
# "All three estimate the KL, so I can put any of them into my loss." Is that so? We will try it with samples, as in
# training. The policy starts half a nat away from the reference. Each step draws 16 answers and takes one gradient step
# on the average of $k_1$, $k_2$ or $k_3$. There is no reward: a leash that works brings the policy home.
#
# **Predict.** What does the exact KL do with $k_1$ as the loss?
#
# - a) it does not come down: the steps are pure noise
# - b) it falls as with the others, only with more noise
# - c) it becomes negative, as $k_1$ may

# %% tags=["nbval-check-output"]
check.p7("a")  # SOLUTION

# %% [markdown]
# Before we try it, the theory. We sample $y \sim \pi_\theta$, compute $k(y)$, and call `backward()`. Autograd
# differentiates $k$, but it does **not** know that the *samples* also depend on $\theta$. So what comes out on average is
# $\mathbb{E}_\pi[\nabla k]$ and not $\nabla\, \mathbb{E}_\pi[k]$. First a fact that we need three times. Probabilities sum to
# 1, therefore
#
# $$\mathbb{E}_\pi[\nabla \log \pi] = \sum_y \pi(y) \frac{\nabla \pi(y)}{\pi(y)}
# = \nabla \sum_y \pi(y) = \nabla 1 = 0. \tag{26}$$
#
# And the two gradients that we would like to compare with, from (1), the product rule and (26):
#
# $$\nabla\, \mathrm{KL}(\pi \parallel \pi_\mathrm{ref})
# = \sum_y \nabla\pi(y)\, d + \underbrace{\sum_y \pi(y) \nabla \log \pi(y)}_{0}
# = \mathbb{E}_\pi[\,d\, \nabla \log \pi\,], \tag{27}$$
#
# $$\nabla\, \mathrm{KL}(\pi_\mathrm{ref} \parallel \pi) = -\sum_y \pi_\mathrm{ref}(y) \nabla \log \pi(y)
# = -\mathbb{E}_\pi[\,u\, \nabla \log \pi\,]. \tag{28}$$
#
# (The last step needs the condition of (25) again: $\pi > 0$ wherever $\pi_\mathrm{ref} > 0$.)

# %% tags=["nbval-check-output"]
logits = torch.randn(5, generator=generator, dtype=torch.float64, requires_grad=True)  # shape (5,): θ, one per answer
ref5 = toy_ref[:5].log_softmax(-1)  # the five answers that the reference can give


def gradient(scalar: Tensor) -> Tensor:
    """The gradient with respect to the five logits, shape (5,)."""
    (result,) = torch.autograd.grad(scalar, logits)
    return result


def log_policy() -> Tensor:
    """log π_θ, shape (5,), as a function of the logits."""
    return logits.log_softmax(-1)


def forward_kl(log_ref: Tensor, log_pi: Tensor) -> Tensor:
    """KL(π_ref ‖ π), to be differentiated by its second argument, the policy."""
    return (log_ref.exp() * (log_ref - log_pi)).sum(-1)


p5 = log_policy().exp().detach()  # the sampling probabilities: autograd does not look into them
d5 = (log_policy() - ref5).detach()
grad_kl = gradient(kl_divergence(log_policy(), ref5))  # ∇ KL(π ‖ π_ref)
grad_kl_other = gradient(forward_kl(ref5, log_policy()))  # ∇ KL(π_ref ‖ π)

torch.testing.assert_close(gradient((p5 * log_policy()).sum()), torch.zeros(5).double())  # (26)
torch.testing.assert_close(grad_kl, gradient((p5 * d5 * log_policy()).sum()))  # (27)
torch.testing.assert_close(grad_kl_other, -gradient((p5 * (-d5).exp() * log_policy()).sum()))  # (28)
assert (grad_kl - grad_kl_other).norm() > 0.1 * grad_kl.norm()
print("Checked (26), (27), (28) with autograd: both sides agree, and the two KLs have different gradients.")

# %% [markdown]
# ### Exercise 3.6 · Which gradient?
# *difficulty 4/5 · importance 5/5 · 12 minutes, on paper*
#
# Differentiate $k_1 = d$, $k_2 = \frac12 d^2$ and $k_3 = e^{-d} - 1 + d$ with respect to $\theta$. Note
# $\nabla d = \nabla \log \pi$, since $\pi_\mathrm{ref}$ is frozen. Then take the average over $\pi$ and recognise
# (26), (27) or (28). For each estimator give one letter:
#
# - `"A"`: zero
# - `"B"`: the gradient of $\mathrm{KL}(\pi \parallel \pi_\mathrm{ref})$
# - `"C"`: the gradient of $\mathrm{KL}(\pi_\mathrm{ref} \parallel \pi)$

# %%
k1_gradient = "A"  # SOLUTION
k2_gradient = "B"  # SOLUTION
k3_gradient = "C"  # SOLUTION

# %% tags=["nbval-check-output"]
check.q6({"k1": k1_gradient, "k2": k2_gradient, "k3": k3_gradient})

# %% tags=["student-only"]
# check.q6.hint()
# check.q6.solution()

# %% [markdown]
# The derivation, one line each (read it after your own attempt):
#
# $$\begin{aligned}
# \mathbb{E}_\pi[\nabla k_1] &= \mathbb{E}_\pi[\nabla \log \pi] = 0,\\
# \mathbb{E}_\pi[\nabla k_2] &= \mathbb{E}_\pi[d\, \nabla \log \pi]
# = \nabla\, \mathrm{KL}(\pi \parallel \pi_\mathrm{ref}),\\
# \mathbb{E}_\pi[\nabla k_3] &= \mathbb{E}_\pi[(1 - e^{-d})\, \nabla \log \pi] = 0 - \mathbb{E}_\pi[u\, \nabla \log \pi]
# = \nabla\, \mathrm{KL}(\pi_\mathrm{ref} \parallel \pi).
# \end{aligned} \tag{29}$$
#
# So the estimator with the *wrong value* has the *right gradient*. The one with the obvious value has none. And $k_3$
# pulls along the gradient of the KL **the other way round**.

# %% tags=["nbval-check-output"]
g1, g2, g3 = (gradient((p5 * kl_estimators(log_policy(), ref5)[i]).sum()) for i in range(3))  # samples held fixed
torch.testing.assert_close(g1, torch.zeros(5).double())  # (29), k1
torch.testing.assert_close(g2, grad_kl)  # (29), k2
torch.testing.assert_close(g3, grad_kl_other)  # (29), k3
print("Checked (29): k1 as a loss has expected gradient 0, k2 that of KL(π ‖ π_ref), k3 that of KL(π_ref ‖ π).")

# %% [markdown]
# Now with samples: the error of the gradient against the number of samples, and the runs that you have predicted.

# %% tags=["folded"]
# @title Measure the error of the sampled gradients: 20 runs, 16 to 65,536 samples
SEEDS = 20
start = optimal_policy(toy_ref[:5].log_softmax(-1), toy_reward[:5], 0.7)[
    0
]  # shape (5,): a policy away from the reference


def sampled_gradient(theta: Float[Tensor, "S 5"], which: int, n: int) -> Float[Tensor, "S 5"]:
    """Gradient of the mean of k1, k2 or k3 over n samples, for S independent runs at once."""
    theta = theta.clone().requires_grad_(True)
    log_pi = theta.log_softmax(-1)
    y = torch.multinomial(log_pi.exp().detach(), n, replacement=True, generator=generator)  # shape (S, n)
    k = kl_estimators(log_pi.gather(-1, y), ref5.expand_as(log_pi).gather(-1, y))[which]  # shape (S, n)
    (result,) = torch.autograd.grad(k.mean(-1).sum(), theta)
    return result


theta = start.clone().requires_grad_(True)
(true_gradient,) = torch.autograd.grad(kl_divergence(theta.log_softmax(-1), ref5), theta)  # ∇ KL(π ‖ π_ref), shape (5,)
ns_samples = [16, 64, 256, 1024, 4096, 16384, 65536]
errors = (
    torch.stack(
        [
            torch.stack(
                [(sampled_gradient(start.repeat(SEEDS, 1), i, n) - true_gradient).norm(dim=-1) for n in ns_samples]
            )
            for i in range(3)
        ]
    )
    / true_gradient.norm()
)  # shape (3, sample sizes, SEEDS): relative error of the gradient

# %%
runs = []
for i in range(3):
    theta, kls = start.repeat(SEEDS, 1), []
    for _ in range(400):
        kls.append(kl_divergence(theta.log_softmax(-1), ref5.expand(SEEDS, 5)))
        theta = theta - 0.1 * sampled_gradient(theta, i, n=16)
    runs.append(torch.stack(kls))
runs = torch.stack(runs)  # shape (3, steps, SEEDS), exact KL in nats

pictures.estimators_as_losses(ns_samples, errors, runs)

# %% [markdown]
# *Figure 10. Left, with more samples only k2's gradient error keeps falling as 1/√n; k1's settles at 1 (no gradient at
# all) and k3's at its own constant (another gradient). Right, k2 and k3 bring the policy home, while with k1 the KL
# wanders in a wide band.*
#
# **What happened?** A relative error of 1 means: the estimate tends to *zero*. More samples do not help $k_1$, and
# they do not help $k_3$ either, since they make it a precise estimate of *something else*. Right: with $k_3$ the
# policy does come home, because both KLs have their minimum at $\pi = \pi_\mathrm{ref}$. Together with a reward,
# though, the two leashes balance at different policies (see the third question at the end).

# %% tags=["nbval-check-output"]
check.p7.outcome()

# %% tags=["folded", "nbval-check-output"]
# @title Check what the figure says: the gradient errors at 65,536 samples, and the KL after 400 steps
final = errors[:, -1].mean(-1)
theta = start.clone().requires_grad_(True)
(other_gradient,) = torch.autograd.grad(forward_kl(ref5, theta.log_softmax(-1)), theta)
k3_limit = (other_gradient - true_gradient).norm() / true_gradient.norm()
assert abs(final[0] - 1) < 0.1 and final[1] < 0.05 and abs(final[2] - k3_limit) < 0.1
assert errors[1, 0].mean() / errors[1, -1].mean() > 0.5 * (ns_samples[-1] / ns_samples[0]) ** 0.5
end = runs[:, -1].median(-1).values
assert end[0] > 0.3 * runs[0, 0].median() and end[1] < 0.05 and end[2] < 0.05
print("Checked: relative gradient errors at n = 65,536: k1 near 1, k2 near 0 (it falls as 1/√n),")
print("k3 at the distance between the two KL gradients.")
print("After 400 steps: k2 and k3 have brought the KL below 0.05 nats, k1 has not come home.")

# %% [markdown]
# ### So where does the KL go?
#
# With $d$ the log-ratio of the **whole answer**, there are two clean ways, and they are the same:
#
# 1. **$k_1$ in the reward** (section 8; InstructGPT, and PPO in this course). The score-function method (notebook 04)
#    multiplies the reward $-\beta d$ by $\nabla \log \pi$. The average, $-\beta\, \mathbb{E}_\pi[d\,\nabla\log\pi]$,
#    is the right one by (27).
# 2. **$k_2$ in the loss**: autograd makes $d\, \nabla \log \pi$ of it, the very same thing.
#
# For the number in your dashboard, $k_1$ and $k_3$ both have the KL as their mean.

# %% tags=["nbval-check-output"]
y = torch.multinomial(p5, 1000, replacement=True, generator=generator)  # shape (1000,): the same samples for both
log_y = log_policy()[y]
d_y = log_y - ref5[y]
in_the_reward = -gradient((-d_y.detach() * log_y).mean())  # k1 as a (negative) reward; minus: ascent → descent
in_the_loss = gradient(kl_estimators(log_policy()[y], ref5[y])[1].mean())  # k2 as a loss
torch.testing.assert_close(in_the_reward, in_the_loss)
print("Checked: k1 in the reward and k2 in the loss give the same gradient, sample by sample.")

# %% [markdown]
# ### One token or the whole answer?
#
# Libraries keep the log-ratio $d_t$ of each *token*, and sum $k$ over the tokens. For the **value** this is as good:
# given the beginning of the answer, $k_1$ and $k_3$ of the next token have the KL of the next-token distributions as
# their mean, and by (20) these add up to the KL. For the **gradient** it is not. Write out (27) in tokens. In
# $d\, \nabla \log \pi = \sum_s d_s \sum_t \nabla \log \pi(y_t \mid y_{\lt t})$ the terms with $s < t$ have mean zero: when
# $y_t$ is drawn, $d_s$ is already fixed, and the rest is (26) for one token. So
#
# $$\nabla\, \mathrm{KL}(\pi \parallel \pi_\mathrm{ref})
# = \mathbb{E}_\pi\Big[\sum_t \Big(\sum_{s \ge t} d_s\Big) \nabla \log \pi(y_t \mid y_{\lt t})\Big], \qquad
# \mathbb{E}_\pi\Big[\nabla \sum_t k_2(d_t)\Big]
# = \mathbb{E}_\pi\Big[\sum_t d_t\, \nabla \log \pi(y_t \mid y_{\lt t})\Big]. \tag{30}$$
#
# On the right, each token pays for its own $d_t$ only. What it does to the *later* ones, by choosing the beginning
# from which they are drawn, is left out. The same holds for $k_3$. This is the second pitfall of Tang and Munos (2025).

# %% tags=["folded", "nbval-check-output"]
# @title A table policy over 64 answers of three words, at ten distances from its reference
three_words = torch.cartesian_prod(*[torch.arange(4)] * 3)  # shape (64, 3): answers of three out of four words
number = torch.arange(64)
row_of = torch.stack([0 * number, 1 + number // 16, 5 + number // 4], 1)  # shape (64, 3): each beginning has a row
home, away = (torch.randn(21, 4, generator=torch.Generator().manual_seed(i), dtype=torch.float64) for i in (0, 1))


def by_token(table: Float[Tensor, "21 4"]) -> Float[Tensor, "64 3"]:
    """log-probability of every word of every answer, from one row of logits for each beginning."""
    return table.log_softmax(-1)[row_of, three_words]


def errors_by_token(table: Float[Tensor, "21 4"]) -> tuple[float, list[float]]:
    """The KL, and how far the expected gradients are off: k2 of the answer, k2 by tokens, k3 of the answer, by tokens."""
    table = table.requires_grad_()
    tokens, ref_tokens = by_token(table), by_token(home)
    whole, ref_whole = tokens.sum(1), ref_tokens.sum(1)  # shapes (64,)
    weights = whole.exp().detach()
    divergence, d_t = kl_divergence(whole, ref_whole), (tokens - ref_tokens).detach()

    def slope(scalar: Tensor) -> Tensor:
        return torch.autograd.grad(scalar, table, retain_graph=True)[0]

    reverse, forward = slope(divergence), slope(forward_kl(ref_whole, whole))
    of_answer, of_tokens = kl_estimators(whole, ref_whole), [k.sum(1) for k in kl_estimators(tokens, ref_tokens)]
    torch.testing.assert_close(weights @ of_tokens[0], divergence)  # the value of k1
    torch.testing.assert_close(weights @ of_tokens[2], divergence)  # the value of k3
    from_here = d_t.flip(1).cumsum(1).flip(1)  # the sum of d_s over s ≥ t
    torch.testing.assert_close(slope(weights @ (from_here * tokens).sum(1)), reverse)  # (30), left
    torch.testing.assert_close(slope(weights @ of_tokens[1]), slope(weights @ (d_t * tokens).sum(1)))  # (30), right
    torch.testing.assert_close(slope(weights @ of_tokens[0]), torch.zeros_like(table))  # k1 as a loss: still nothing
    pairs = ((of_answer[1], reverse), (of_tokens[1], reverse), (of_answer[2], forward), (of_tokens[2], forward))
    return divergence.item(), [((slope(weights @ k) - want).norm() / want.norm()).item() for k, want in pairs]


measured = [errors_by_token(home + step * away) for step in torch.logspace(-1.5, 0.3, 10).tolist()]
distances = [divergence for divergence, _ in measured]
names = ("$k_2$ of the answer", "$k_2$ token by token", "$k_3$ of the answer", "$k_3$ token by token")
off = dict(zip(names, torch.tensor([errors for _, errors in measured]).T, strict=True))  # each of shape (10,)
assert off[names[0]].max() < 1e-6 and off[names[2]].max() < 1e-6
for name in names[1::2]:
    assert torch.all(off[name].diff() > 0) and off[name][0] < 0.03 and off[name][-1] > 0.2
print("Checked: the values of k1 and k3, summed over tokens, have the KL as their mean; both sides of (30);")
print("the gradients of the whole answer's k2 and k3 are exact; those of the sums over tokens are not.")

# %%
pictures.token_by_token(distances, off)

# %% [markdown]
# *Figure 11. Relative error of the expected gradient against the distance. For k2 and k3 of the whole answer it is zero
# (their lines lie on one another). For the sums over tokens it grows with the KL.*
#
# **For your own library**, look where it takes the KL:
#
# - In the *reward*, token by token, with every token weighted by the rewards from there on (14 of notebook 04): right.
# - In the *loss*, $k_2$ or $k_3$ summed over tokens: a leash, but not the gradient of either KL. GRPO (group relative policy
#   optimization, notebook 09) has $k_3$ there (Shao et al. 2024). Close to the reference the error is small.
# - In the *loss*, $k_1$: no leash at all, whole or by tokens.

# %% [markdown]
# ## 10 · A budget of nats
#
# "How far may the policy go?" is easier to answer than "what is the right β?". A nat is a nat for every reward model; β has
# the unit of the reward. So let us turn section 7 round: a **budget** of KL is given, and the β is sought whose best
# policies spend it.
#
# With several prompts the budget is for the **mean** KL over the prompts, and there is **one** β for all of them. Nothing
# better can be had for the same nats. (13) holds for each prompt, with the same β. So it holds for the means: the mean
# reward of any policies is at most the mean of $\beta \log Z$, plus $\beta$ times their mean KL, with equality at
# $\pi^*$.
#
# How much can be spent at all? As $\beta \to 0$, $\pi^*$ goes to the best answers that the reference can give
# (section 6), and its KL to $-\log \pi_\mathrm{ref}(\text{best answers})$ (section 7). The mean of this over the prompts is
# the **limit**. With a budget of the limit or more, the leash is slack. Its price is then $\beta = 0$, and the best policies
# are the reference, cut down to the best answers.
#
# ### Exercise 3.7 · Capstone: a budget of nats
# *difficulty 4/5 · importance 4/5 · 40 minutes*
#
# Now you write a whole algorithm. `ref_log_probs` and `rewards` come as `(B, N)`, one prompt in each row, in float64, and the
# budget in nats, above 0. Use `kl_divergence` and `optimal_policy` from above.
#
# `check.capstone` runs it on 18 problems that you have not seen: 3 prompts each, rewards in units from thousandths to
# thousands, some answers out of reach, some exactly equally good. It wants a mean KL within $10^{-4}$ nats of the budget, by
# policies within $10^{-6}$ nats of $\pi^*$ at your β. That takes a second or two. You need not finish first: return a dict with the parts that
# you have, and the check tells how far they are right.


# %% tags=["exercise"]
def my_spend_budget(
    ref_log_probs: Float[Tensor, "B N"], rewards: Float[Tensor, "B N"], budget: float
) -> dict[str, float | Tensor]:
    """The policies of highest mean reward whose mean KL to the reference is `budget` nats, and their one β.

    Returns a dict with "limit" (nats), "beta", "log_probs" (B, N) and "log_z" (B,). If β = 0, leave "log_z" out.
    """
    # 1. "limit": −log π_ref(best answers), its mean over the prompts. An answer with π_ref = 0 is out of reach.
    # 2. If the budget is the limit or more: β = 0, and the reference, cut down to the best answers.
    # 3. What does a given β spend? Write it as a function of β.
    # 4. Find one β that spends too little and one that spends too much: does a large β spend much? The unit is unknown.
    # 5. Bisection: halve the interval between them until many digits of β are the same. Then the policies, and log Z.
    # BEGIN SOLUTION
    reachable = rewards.masked_fill(ref_log_probs == -torch.inf, -torch.inf)
    best = reachable == reachable.max(-1, keepdim=True).values
    of_best = ref_log_probs.masked_fill(~best, -torch.inf)
    limit = -of_best.logsumexp(-1).mean().item()
    if budget >= limit:
        return {"limit": limit, "beta": 0.0, "log_probs": of_best.log_softmax(-1)}

    def spent(beta: float) -> float:
        log_probs, _ = optimal_policy(ref_log_probs, rewards, beta)
        return kl_divergence(log_probs, ref_log_probs).mean().item()

    low = high = 1.0
    while spent(low) < budget:
        low /= 2
    while spent(high) > budget:
        high *= 2
    for _ in range(60):
        beta = math.sqrt(low * high)
        low, high = (beta, high) if spent(beta) > budget else (low, beta)
    log_probs, log_z = optimal_policy(ref_log_probs, rewards, beta)
    return {"limit": limit, "beta": beta, "log_probs": log_probs, "log_z": log_z}
    # END SOLUTION


# %% tags=["nbval-ignore-output"]
check.capstone(my_spend_budget)

# %% tags=["student-only"]
# check.capstone.hint()
# check.capstone.solution()

# %% tags=["nbval-ignore-output"]
spend_budget = check.capstone.or_ours(my_spend_budget)

two_refs, two_rewards = torch.stack([log_ref, log_ref]), torch.stack([reward, 3 * reward])  # both of shape (2, N)
together = spend_budget(two_refs, two_rewards, 1.5)["log_probs"].to(log_ref)
apart = [spend_budget(log_ref[None], r[None], 1.5)["log_probs"][0].to(log_ref) for r in two_rewards]
mean_reward = {
    "one β for both": (together.exp() * two_rewards).sum(-1).mean().item(),
    "1.5 nats each": (torch.stack(apart).exp() * two_rewards).sum(-1).mean().item(),
}
nats = distance(together).tolist()
print(f"Two prompts; what the second one earns counts three times. One β spends {nats[0]:.2f} and {nats[1]:.2f} nats.")
print("Mean reward: " + ", ".join(f"{name} {value:.3f}" for name, value in mean_reward.items()))
assert abs(sum(nats) / 2 - 1.5) < 1e-3 and nats[1] > nats[0] + 1
assert mean_reward["one β for both"] > mean_reward["1.5 nats each"] + 0.05
print("Checked: one price for all earns more than the same budget for each.")

# %% [markdown]
# With one price, nats go where they buy most: the prompt that pays three times as much gets most of them.
#
# ## 11 · An open experiment: more comparisons, a longer leash?
#
# Our reward model was fitted to 2,000 comparisons. With more of them, may the policy go further before people like it less?
# `gold_at_budgets` draws comparisons, fits the six numbers as in section 1, spends six budgets with `spend_budget`, and
# returns the gold reward of each of the six policies. One call takes about a second.
#
# **Your turn.** Turn one knob: 30, 300, 3,000 and 10,000 comparisons, five seeds each. Say first what you expect. Then look
# in the table for the budget with the highest gold reward: does it grow with the number of comparisons? How do you explain
# it? The text does not tell.

# %% tags=["folded"]
# @title gold_at_budgets(comparisons, seed) and show_table(table)
BUDGETS = (0.5, 1.0, 2.0, 3.0, 4.0, 5.0)  # nats


def gold_at_budgets(comparisons: int, seed: int, features: Float[Tensor, "N K"] = counts) -> list[float]:
    """Gold reward of the best policy for a freshly fitted reward model, at each of the BUDGETS."""
    score = features @ fitted(features, comparisons, seed)[0]
    policies = [spend_budget(log_ref[None], score[None], b)["log_probs"][0].to(log_ref) for b in BUDGETS]
    return expected(torch.stack(policies), gold).tolist()


def show_table(table: dict[int | str, list[list[float]]]) -> None:
    """Mean over seeds, and standard deviation between them, for each number of comparisons and each budget."""
    print("comparisons  " + "".join(f"{budget:8g} nats " for budget in BUDGETS))
    for setting, rows in table.items():
        mean, spread = torch.tensor(rows).mean(0), torch.tensor(rows).std(0)
        print(f"{setting:>11}  " + "".join(f"{m:+8.2f} ±{s:.2f}" for m, s in zip(mean, spread, strict=True)))


# %% tags=["nbval-ignore-output"]
table = {n: [gold_at_budgets(n, seed) for seed in range(5)] for n in (30, 300, 3000, 10_000)}  # SOLUTION
if table is not ...:
    show_table(table)

# %% [markdown] tags=["solution-only"]
# **What we measured.** With 30 comparisons the seeds differ widely; with more of them they agree, and the gold reward at
# each budget rises. But the best budget stays at 2 nats, with 300 comparisons and with 10,000, and beyond 3,000 nothing
# changes. The reward model has learned all that six numbers can say. What bends the curve down is what they *cannot* say:
# it counts words and knows no order. The last line shows it: let the model also count pairs of neighbouring words, and with
# 3,000 comparisons the gold reward still rises at 5 nats. More data lengthen the leash only while it is data that is
# missing.

# %% tags=["solution-only", "nbval-ignore-output"]
neighbours = F.one_hot(6 * world.sequences[:, :-1] + world.sequences[:, 1:], 36).sum(1).double()  # shape (N, 36)
with_order = [gold_at_budgets(3000, seed, torch.cat([counts, neighbours], dim=1)) for seed in range(3)]
show_table({"with order": with_order})
mean = {n: torch.tensor(rows).mean(0) for n, rows in table.items()}  # each of shape (6,)
spread = {n: torch.tensor(rows).std(0) for n, rows in table.items()}
assert all(BUDGETS[mean[n].argmax()] == 2 for n in (300, 3000, 10_000))
assert (
    torch.all(spread[30] > 2 * spread[3000]) and torch.all(mean[30] < mean[300]) and torch.all(mean[300] < mean[3000])
)
assert (mean[3000] - mean[10_000]).abs().max() < 0.05
assert torch.all(torch.tensor(with_order).diff(dim=1) > 0)
print("Checked: all that the answer says of the table.")

# %% [markdown]
# ## 12 · What we showed
#
# - Without a leash, the policy collapses onto the reward model's favourite, and that can be a mistake.
# - $J(\pi) = \beta \log Z - \beta\,\mathrm{KL}(\pi \parallel \pi^*)$: the best policy is
#   $\pi^* = \pi_\mathrm{ref}\, e^{r/\beta}/Z$. A GPT-2 trained on $J$ landed on it.
# - $\beta$ is a price. It is also the slope of the reward–KL frontier, above which no policy lies. Best-of-n is
#   almost on it.
# - The objective is a sum of token rewards, $-\beta d_t$ each and the score at the end.
# - A budget of nats has one price for all prompts, and bisection finds it.
# - $k_1$, $k_2$, $k_3$: value and gradient are two different questions, and so are token and answer.
#
# ### Three questions to think about
#
# 1. Somebody adds a constant to the reward model: $r' = r + c$. What changes: $\pi^*$, $Z$, $J(\pi^*)$?
# 2. Somebody doubles all rewards. Which $\beta$ gives the old policy back?
# 3. With the leash the other way round, $\mathbb{E}_\pi[r] - \beta\,\mathrm{KL}(\pi_\mathrm{ref} \parallel \pi)$,
#    what is the optimal policy? Compare how it treats an excellent answer that the reference seldom gives.

# %% [markdown] tags=["solution-only"]
# **Answers.**
#
# 1. $Z' = Z\, e^{c/\beta}$ and $J(\pi^*)$ grows by $c$; $\pi^*$ does not change, because $e^{c/\beta}$ cancels in
#    (7). So the zero of a reward model means nothing here. This holds for a different constant for each prompt too.
# 2. $2\beta$: only $r/\beta$ occurs in (7). "β = 0.1" says nothing without the scale of the reward. Notebook 02 scales
#    the reward model, so that β means the same for each.
# 3. Set the derivative of
#    $\sum_y \pi(y) r(y) + \beta \sum_y \pi_\mathrm{ref}(y) \log \pi(y) + \lambda\,(1 - \sum_y \pi(y))$ with respect to
#    $\pi(y)$ to zero: $r(y) + \beta\, \pi_\mathrm{ref}(y)/\pi(y) - \lambda = 0$, so
#
#    $$\pi(y) = \frac{\beta\, \pi_\mathrm{ref}(y)}{\lambda - r(y)}, \tag{31}$$
#
#    with $\lambda > \max_y r(y)$ chosen such that the sum is 1. Bad answers are damped only by $1/(\lambda - r)$ and
#    not by an exponential, so many of them stay. But at a small $\beta$ a rare excellent answer can take almost
#    everything, since $\lambda$ comes near its $r$.

# %% tags=["solution-only", "nbval-check-output"]
for c in (-2.0, 5.0):
    old, old_log_z = optimal_policy(toy_ref, toy_reward, beta)
    new, new_log_z = optimal_policy(toy_ref, toy_reward + c, beta)
    torch.testing.assert_close(new, old)
    torch.testing.assert_close(beta * new_log_z, beta * old_log_z + c)
torch.testing.assert_close(
    optimal_policy(toy_ref, 2 * toy_reward, 2 * beta)[0], optimal_policy(toy_ref, toy_reward, beta)[0]
)

low, high = 2.0 + 1e-9, 2.0 + 10 * beta  # λ by bisection: the sum falls as λ grows
for _ in range(100):
    lam = (low + high) / 2
    total = (beta * ref5.exp() / (lam - toy_reward[:5])).sum()
    low, high = (lam, high) if total > 1 else (low, lam)
other_optimum = (beta * ref5.exp() / (lam - toy_reward[:5])).log()  # (31)


def other_objective(log_pi: Tensor) -> Tensor:
    """E_π[r] − β KL(π_ref ‖ π)."""
    return (log_pi.exp() * toy_reward[:5]).sum(-1) - beta * kl_divergence(ref5.expand_as(log_pi), log_pi)


torch.testing.assert_close(other_optimum.exp().sum(), torch.tensor(1.0).double())
neighbours = (other_optimum + 0.01 * torch.randn(1000, 5, generator=generator, dtype=torch.float64)).log_softmax(-1)
assert torch.all(other_objective(neighbours) < other_objective(other_optimum))
ours = optimal_policy(ref5, toy_reward[:5], beta)[0]
print("answer                    leash KL(π‖π_ref)   leash KL(π_ref‖π)")
for name, a, b in zip(answers[:5], ours.exp().tolist(), other_optimum.exp().tolist(), strict=True):
    print(f"{name:24s}  {a:12.3f}  {b:18.3f}")

# %% [markdown]
# ### Asked every year
#
# **"My logged KL is negative. Is it a bug?"** A single $k_1$ may be negative: that is no bug. Its *average* over many
# answers must not be, beyond its standard error. If it is, the samples do not come from the policy that you score.
# A typical cause is sampling with top-k (only from the $k$ likeliest) or at another temperature, and scoring without it.
# We provoke it: a policy a little flatter than the reference, sampled only from its top 50 sentences.

# %% tags=["nbval-check-output"]
flat = (0.8 * log_ref).log_softmax(-1)  # shape (N,): a policy of higher entropy than the reference
k1, _, k3 = kl_estimators(flat, log_ref)
negative = flat.exp()[k1 < 0].sum()

top = flat.topk(50).indices
truncated = torch.full_like(flat, -torch.inf)
truncated[top] = flat[top]
truncated = truncated.log_softmax(-1)
print(
    f"honest sampling: {negative:.0%} of the answers have k1 < 0, and the mean of k1 is {expected(flat, k1):+.3f} nats"
)
print(f"top-50 sampling: the mean of k1 is {expected(truncated, k1):+.3f} nats")
assert 0.1 < negative < 0.9 and expected(flat, k1) > 0 > expected(truncated, k1)
print("Checked: negative single values under honest sampling, a negative mean only under truncated sampling.")

# %% [markdown]
# **"A larger β makes the policy move more, doesn't it?"** No: less. $\beta$ is what a nat *costs*. The price goes up, the
# distance goes down:

# %% tags=["nbval-ignore-output"]
previous = math.inf
for b in (0.05, 0.1, 0.2, 0.5, 1.0, 5.0):
    nats = float(distance(optimal_policy(log_ref, reward, b)[0]))
    print(f"β = {b:4g}   KL(π* ‖ π_ref) = {nats:.3f} nats")
    assert nats < previous
    previous = nats

# %% [markdown]
# **"Why the SFT model as the reference? Could I take the uniform distribution?"** You can. Then
# $\mathrm{KL}(\pi \parallel \text{uniform}) = \log N - H(\pi)$ with the entropy $H$, so the leash asks for variety
# only. It protects against collapse. It knows nothing of the grammar and knowledge of the SFT model:

# %% tags=["nbval-ignore-output"]
uniform = torch.full((N,), -math.log(N), dtype=torch.float64)
entropy = -(leashed[-1].exp() * leashed[-1]).sum()
torch.testing.assert_close(kl_divergence(leashed[-1], uniform), math.log(N) - entropy)
for name, base in (("the SFT model", log_ref), ("uniform", uniform)):
    best = optimal_policy(base, reward, beta_world)[0]
    natural = expected(best, log_ref) / T
    print(f"leash to {name:14s} r_φ {expected(best, reward):+.2f}   mean log π_ref per token {natural:.2f} nats")
print("Checked: KL to the uniform distribution is log N minus the entropy.")

# %% [markdown]
# The last column says how natural the answers look to the reference (closer to 0 is better): the uniform leash loses
# there.
#
# ### Where it goes next
#
# We know the optimum, but we found it by listing all answers. **Notebook 04** climbs $J$ from samples alone: policy
# gradients, and PPO. **Notebook 06** solves (7) for the reward,
# $r = \beta \log(\pi^*/\pi_\mathrm{ref}) + \beta \log Z$, and from this one line makes DPO, which needs no reward
# model at all.
#
# ### References
#
# - Ziegler et al. (2019), *Fine-tuning language models from human preferences*: KL penalty in the reward, adaptive β.
# - Schulman (2020), *Approximating KL divergence* (blog): $k_1$, $k_2$, $k_3$.
# - Ouyang et al. (2022), *Training language models to follow instructions with human feedback* (InstructGPT).
# - Korbak, Perez & Buckley (2022), *RL with KL penalties is better viewed as Bayesian inference*: the closed form.
# - Gao, Schulman & Hilton (2022), *Scaling laws for reward model overoptimization*.
# - Rafailov et al. (2023), *Direct preference optimization*, appendix A.1: this derivation, with prompts.
# - Beirami et al. (2024), *Theoretical guarantees on the best-of-n alignment policy*: the bound (17).
# - Shao et al. (2024), *DeepSeekMath*: GRPO, with $k_3$ in the loss.
# - Tang & Munos (2025), *On a few pitfalls in KL divergence gradient estimation for RL*.
