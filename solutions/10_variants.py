# %% [markdown]
# # 10 · The variants: what does each loss want?
#
# After DPO came other losses to put in its place: IPO, cDPO, KTO, SimPO, ORPO. Papers compare them by training models and
# asking a judge. Here we ask something simpler, and get an exact answer: **if a loss had all the data in the world and
# all the time, which policy would it end at?** In the exact world we can compute it, and see how far it is from the best
# policy that costs as much KL.

# %% [markdown]
# ## What you will be able to do
#
# - Write the loss of IPO, KTO, SimPO and ORPO in one line each.
# - Say which policy each of them is looking for, and check it by minimising the loss over a table.
# - Compare two policies fairly: at the same KL, by the reward that is lost.
# - Say which losses have no minimum when the labels are certain, and what then holds the policy.
# - Say what dividing by the length does to the probability of a long answer.
#
# **You need:** notebook 03 ($\pi^*$, KL, $\beta$) and notebook 06 (DPO, cDPO, IPO). **Time:** {minutes} minutes of work;
# the cells run in about a minute on one core. Nothing here needs a GPU or a chatbot.

# %% tags=["folded"]
# @title Set-up: what this notebook uses
import math
from collections.abc import Callable
from typing import Any

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from week6 import dpo_loss, kl_divergence, optimal_policy, preference_probability, small_world
from week6.checks import nb10 as check
from week6.pictures import of_dpo, plots, variants
from week6.pictures.figures import roadmap

plt.rcParams.update(plots.STYLE)
_ = torch.manual_seed(0)
torch.set_num_threads(1)  # the tensors are small: a second thread would only wait for the first
g = torch.Generator().manual_seed(0)

# %%
_ = roadmap(10)
plt.show()

# %% [markdown]
# *Roadmap: the stops of the course. You are at stop 10, at the other losses that could stand in DPO's place.*
#
# | symbol | meaning | unit |
# |---|---|---|
# | $\pi$, $\pi_\mathrm{ref}$, $\pi^*_\beta$ | policy; reference; the best policy of RLHF at the price $\beta$ | |
# | $a$, $b$; $y_w$, $y_l$ | two answers; the chosen and the rejected one | |
# | $r(y)$; $p(a \succ b)$ | reward of an answer; probability that people prefer $a$ to $b$ | reward units; |
# | $w(y)$ | **win rate**: how often $y$ is preferred to an answer of the reference | |
# | $h$ | difference of the log-ratios of two answers | nats |
# | $\lvert y \rvert$ | length of an answer | tokens |
# | $\varepsilon$ | share of flipped labels | |
# | $z_0$, $\lambda_D$, $\lambda_U$ | KTO: reference point; weights of desirable and undesirable answers | nats; |
# | $\gamma$; $\lambda$ | SimPO's margin; ORPO's weight | reward units; |

# %% [markdown]
# ## 1 · One question for every loss
#
# The world is that of notebook 06: the prompt is the word "help", an answer is three words, so there are
# $N = 6^3 = 216$ answers. Both answers of a pair are drawn from the reference, and people compare them by Bradley and
# Terry. The loss $\ell(y_w, y_l)$ of such a pair, averaged over everything that can happen, is a sum over all pairs:
#
# $$L(\pi) = 2 \sum_{a, b} \pi_\mathrm{ref}(a)\, \pi_\mathrm{ref}(b)\, p(a \succ b)\, \ell(a, b). \tag{1}$$
#
# (The 2: each pair can be drawn in two orders.) No data set, no noise, no network: the policy is a table of 216 logits.

# %%
world = small_world()
N, prompt = len(world.vocab) ** 3, world.vocab.index("help")
with torch.no_grad():
    log_ref = world.log_probs(world.new_policy(seed=8)).double().view(-1, N)[prompt].log_softmax(-1)  # shape (N,)
reward = world.rewards.view(-1, N)[prompt]  # shape (N,), reward units
p = preference_probability(reward[:, None], reward[None, :])  # p(a ≻ b), shape (N, N)
first, second = (i.flatten() for i in torch.meshgrid(torch.arange(N), torch.arange(N), indexing="ij"))  # (N²,) each


def expected(losses: Float[Tensor, " N2"], preference: Float[Tensor, "N N"] = p) -> Float[Tensor, ""]:
    """(1): `losses` holds ℓ(a, b) for a = answers `first`, b = answers `second`."""
    return 2 * ((log_ref[first] + log_ref[second]).exp() * preference.flatten() * losses).sum()


print(f"log_ref: shape (N,) = {tuple(log_ref.shape)}; p: shape (N, N) = {tuple(p.shape)}; pairs: {len(first):,}")
torch.testing.assert_close(expected(torch.ones(N * N).double()), torch.tensor(1.0).double())  # every pair has a label
torch.testing.assert_close(p + p.T, torch.ones(N, N).double())

# %% [markdown]
# Two tools. `minimise` finds the table with the least loss, with L-BFGS in float64, and fails unless the gradient there
# is zero. `at_same_kl` is the yardstick: the best policy that costs exactly as many nats, $\pi^*_{\beta'}$ with $\beta'$
# found by bisection.


# %% tags=["folded"]
# @title The two tools
def minimise(loss_of, start: Float[Tensor, " N"] = log_ref) -> Float[Tensor, " N"]:
    """log π of the policy with the least loss_of(log π); AssertionError where the gradient is not 0."""
    theta = start.clone().requires_grad_()
    lbfgs = torch.optim.LBFGS(
        [theta],
        max_iter=2000,
        history_size=50,
        tolerance_grad=1e-12,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        lbfgs.zero_grad()
        loss = loss_of(theta.log_softmax(-1))
        loss.backward()
        return loss

    lbfgs.step(closure)
    (gradient,) = torch.autograd.grad(loss_of(theta.log_softmax(-1)), theta)
    assert gradient.abs().max() < 1e-6, f"not at a minimum: {gradient.abs().max():.1e}"
    return theta.detach().log_softmax(-1)


def bisect(falling, target: float, low: float, high: float, steps: int = 100) -> float:
    """The x between low and high, both above 0, where the falling function reaches the target."""
    for _ in range(steps):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if falling(middle) > target else (low, middle)
    return middle


def kl_of(log_pi: Float[Tensor, " N"]) -> float:
    """KL(π ‖ π_ref), nats."""
    return kl_divergence(log_pi, log_ref).item()


def at_same_kl(log_pi: Float[Tensor, " N"]) -> tuple[Float[Tensor, " N"], float]:
    """log π* with the KL of `log_pi`, and its β'."""
    price = bisect(lambda b: kl_of(optimal_policy(log_ref, reward, b)[0]), kl_of(log_pi), 1e-3, 1e3)
    return optimal_policy(log_ref, reward, price)[0], price


def earned(log_pi: Float[Tensor, " N"]) -> float:
    """E_π[r], reward units."""
    return (log_pi.exp() * reward).sum().item()


# %% [markdown]
# Notebook 03 says what the distance means. For every policy $J(\pi^*) - J(\pi) = \beta\,\mathrm{KL}(\pi \parallel \pi^*)$,
# where $J$ is reward minus $\beta$ times KL. If both spend the same KL, it drops out, and the distance is a loss of reward:
#
# $$\mathbb{E}_{\pi^*_{\beta'}}[r] - \mathbb{E}_\pi[r] = \beta'\, \mathrm{KL}(\pi \parallel \pi^*_{\beta'})
# \qquad \text{if } \mathrm{KL}(\pi^*_{\beta'} \parallel \pi_\mathrm{ref}) = \mathrm{KL}(\pi \parallel \pi_\mathrm{ref}). \tag{2}$$
#
# First the loss that we know. DPO must come out at $\pi^*$ itself.

# %% tags=["nbval-check-output"]
beta = 0.5  # reward units per nat
log_star, _ = optimal_policy(log_ref, reward, beta)


def dpo_of_pairs(log_pi: Float[Tensor, " N"], **settings) -> Float[Tensor, " N2"]:
    """The loss of `week6.dpo_loss` for every pair."""
    return dpo_loss(log_pi[first], log_pi[second], log_ref[first], log_ref[second], beta, **settings).loss


by_dpo = minimise(lambda log_pi: expected(dpo_of_pairs(log_pi)))
torch.testing.assert_close(by_dpo, log_star, rtol=0, atol=1e-4)  # L-BFGS stops at a gradient of 1e-9 or so

some = torch.randn(N, generator=g, dtype=torch.float64).add(log_ref).log_softmax(-1)  # any policy
best, price = at_same_kl(some)
torch.testing.assert_close(
    earned(best) - earned(some), price * kl_divergence(some, best).item(), rtol=1e-6, atol=0
)  # (2)
print(f"Checked: DPO's minimum is π*, at {kl_of(by_dpo):.2f} nats and reward {earned(by_dpo):+.2f}; and (2).")

# %% [markdown]
# ## 2 · IPO: the win rate in the reward's place
#
# IPO (Azar et al. 2023) takes a square: $\ell = \big(h - \frac{1}{2\beta}\big)^2$, with
# $h = \log\frac{\pi(y_w)}{\pi_\mathrm{ref}(y_w)} - \log\frac{\pi(y_l)}{\pi_\mathrm{ref}(y_l)}$. Put two answers into (1),
# in both orders; $h$ changes its sign with the order, and $p$ becomes $1 - p$:
#
# $$p\Big(h - \frac{1}{2\beta}\Big)^2 + (1-p)\Big(h + \frac{1}{2\beta}\Big)^2
# = \Big(h - \frac{2p - 1}{2\beta}\Big)^2 + \text{const}. \tag{3}$$
#
# So IPO is least squares: find log-ratios whose differences are as near as possible to $\frac{2p-1}{2\beta}$. The best
# fit of differences is the mean over the opponents. With the win rate $w(y) = \sum_b \pi_\mathrm{ref}(b)\, p(y \succ b)$,
#
# $$\pi_\mathrm{IPO}(y) = \frac{\pi_\mathrm{ref}(y)\, e^{w(y)/\beta}}{Z}. \tag{4}$$
#
# That is $\pi^*$ again, for another reward: **not how good an answer is, but how often it wins.**
#
# ### Exercise 10.1 · IPO's optimum
# *difficulty 2/5 · importance 5/5 · 8 minutes*
#
# Write (4). You get $\log \pi_\mathrm{ref}$ of the answers and the table of preferences: row $y$, column $b$ holds
# $p(y \succ b)$. Return log-probabilities. The preferences need not come from rewards, and β may be tiny.


# %% tags=["exercise"]
def best_for_ipo(log_ref: Float[Tensor, " N"], preference: Float[Tensor, "N N"], beta: float) -> Float[Tensor, " N"]:
    """log π of the policy with the least expected IPO loss."""
    # BEGIN SOLUTION
    wins = preference @ log_ref.exp()
    return (log_ref + wins / beta).log_softmax(-1)
    # END SOLUTION


# %% tags=["nbval-check-output"]
check.q1(best_for_ipo)

# %% tags=["student-only"]
# check.q1.hint()
# check.q1.solution()

# %% tags=["nbval-check-output"]
ipo_policy = check.q1.or_ours(best_for_ipo)

# %% tags=["nbval-check-output"]
wins = p @ log_ref.exp()  # w(y), shape (N,)
for b in (0.1, 0.5):
    h = torch.linspace(-5, 5, 11, dtype=torch.float64)
    left_side = 0.7 * (h - 1 / (2 * b)) ** 2 + (1 - 0.7) * (h + 1 / (2 * b)) ** 2
    rest = left_side - (h - (2 * 0.7 - 1) / (2 * b)) ** 2  # (3): the same number for every h
    torch.testing.assert_close(rest, rest[:1].expand(11))

    def ipo_of_pairs(log_pi, b=b):
        return ((log_pi - log_ref)[first] - (log_pi - log_ref)[second] - 1 / (2 * b)) ** 2

    found = minimise(lambda log_pi, ipo=ipo_of_pairs: expected(ipo(log_pi)))
    torch.testing.assert_close(found, ipo_policy(log_ref, p, b), rtol=0, atol=1e-4)  # (4)
    torch.testing.assert_close(found, optimal_policy(log_ref, wins, b)[0], rtol=0, atol=1e-4)
    assert (found - log_ref).max() - (found - log_ref).min() < 1 / b  # w is between 0 and 1
print("Checked (3), (4): IPO's minimum is π* for the win rate. No two log-ratios differ by more than 1/β nats.")

# %% [markdown]
# A win rate lies between 0 and 1. So two log-ratios can never differ by more than $1/\beta$ nats, whatever people say:
# the leash is in the loss. The price: an answer that is preferred always and by far counts hardly more than one that is
# preferred nearly always.

# %% [markdown]
# ## 3 · cDPO: when labels are flipped
#
# cDPO (Mitchell 2023) is made for labels of which a share $\varepsilon$ is flipped:
#
# $$\ell_\mathrm{cDPO}(a, b) = (1-\varepsilon)\, \ell_\mathrm{DPO}(a, b) + \varepsilon\, \ell_\mathrm{DPO}(b, a). \tag{5}$$
#
# **Predict.** A tenth of all labels is flipped. DPO does not know that. cDPO is told the true $\varepsilon = 0.1$. Both have
# all pairs. Whose optimum is nearer to $\pi^*$, at the same $\beta$?
#
# - a) cDPO's: it knows how many labels are wrong
# - b) both are at $\pi^*$: with all pairs the flips average out
# - c) DPO's

# %% tags=["nbval-check-output"]
check.p1("c")  # SOLUTION

# %% [markdown]
# With flips, people seem to prefer $a$ with probability $\tilde p = (1-\varepsilon)\, p + \varepsilon\, (1-p)$. Now put (5)
# into (1) with *clean* labels and sort the terms by the order of the pair. The factor of $\ell_\mathrm{DPO}(a, b)$ is
# $(1-\varepsilon)\, p + \varepsilon\, (1-p)$. The same number:
#
# $$L_\mathrm{cDPO} \text{ on clean labels} \;=\; L_\mathrm{DPO} \text{ on labels with a share } \varepsilon
# \text{ flipped}. \tag{6}$$
#
# cDPO does not undo flips. **It adds them.** On flipped labels it is DPO on labels that were flipped twice over. What
# undoes them is the other sign (Chowdhury et al. 2024, "robust DPO"):
#
# $$\ell_\mathrm{robust}(a, b) = \frac{(1-\varepsilon)\, \ell_\mathrm{DPO}(a, b) - \varepsilon\, \ell_\mathrm{DPO}(b, a)}
# {1 - 2\varepsilon}. \tag{7}$$

# %% tags=["nbval-check-output"]
epsilon = 0.1
flipped = (1 - epsilon) * p + epsilon * (1 - p)


def robust_of_pairs(log_pi: Float[Tensor, " N"]) -> Float[Tensor, " N2"]:
    right, wrong = dpo_of_pairs(log_pi), dpo_of_pairs(log_pi).view(N, N).T.flatten()
    return ((1 - epsilon) * right - epsilon * wrong) / (1 - 2 * epsilon)  # (7)


torch.testing.assert_close(
    expected(dpo_of_pairs(some, label_smoothing=epsilon)), expected(dpo_of_pairs(some), flipped)
)  # (6)
torch.testing.assert_close(expected(robust_of_pairs(some), flipped), expected(dpo_of_pairs(some)))  # (7) undoes it

told = minimise(lambda log_pi: expected(dpo_of_pairs(log_pi, label_smoothing=epsilon), flipped))
untold = minimise(lambda log_pi: expected(dpo_of_pairs(log_pi), flipped))
cured = minimise(lambda log_pi: expected(robust_of_pairs(log_pi), flipped))
gaps = {}
for name, log_pi in {"DPO": untold, "cDPO, ε = 0.1": told, "robust DPO": cured}.items():
    gaps[name] = kl_divergence(log_pi, log_star).item()
    print(f"a tenth flipped, {name:14} KL {kl_of(log_pi):.2f} nats, gap to π* {gaps[name]:.2f} nats")
assert gaps["robust DPO"] < 1e-6 < 0.1 < gaps["DPO"] < gaps["cDPO, ε = 0.1"]
print("Checked (6), (7): cDPO's optimum is farther from π* than DPO's; the robust loss finds π*.")

# %% tags=["nbval-check-output"]
check.p1.outcome()

# %% [markdown]
# Is cDPO's policy a bad one? No, a timid one. At the *same KL* it is nearly the best there is: $\varepsilon$ works like a
# larger $\beta$. We know no closed form for it: smoothed preferences come from no rewards (their log-odds do not add up along
# three answers). But its gradient says what it does. Every answer's *predicted* win rate is the true one, pulled towards one
# half:
# $\sum_b \pi_\mathrm{ref}(b)\, \sigma(\hat r_a - \hat r_b) = \varepsilon + (1 - 2\varepsilon)\, w(a)$.

# %% tags=["nbval-check-output"]
cdpo = minimise(lambda log_pi: expected(dpo_of_pairs(log_pi, label_smoothing=epsilon)))
implicit = beta * (cdpo - log_ref)
predicted = torch.sigmoid(implicit[:, None] - implicit[None, :]) @ log_ref.exp()  # shape (N,)
torch.testing.assert_close(predicted, epsilon + (1 - 2 * epsilon) * wins, rtol=0, atol=1e-5)
one, two, three = reward.argmin(), (reward == 0).nonzero()[0].item(), reward.argmax()
for table, adds_up in ((p, True), (flipped, False)):
    odds = torch.logit(table)
    assert (abs(odds[three, two] + odds[two, one] - odds[three, one]) < 1e-6) == adds_up
best, price = at_same_kl(cdpo)
assert price > 1.3 * beta and kl_divergence(cdpo, best) < 0.01
print(f"cDPO at β = {beta}: it spends {kl_of(cdpo):.2f} nats, as π* does at β' = {price:.2f},")
print(f"and is {kl_divergence(cdpo, best):.4f} nats away from that policy.")

# %% [markdown]
# ## 4 · KTO: a threshold
#
# KTO (Ethayarajh et al. 2024) wants no pairs at all, only answers with thumbs up or down. With $u = \beta\big(\log
# \frac{\pi(y)}{\pi_\mathrm{ref}(y)} - z_0\big)$,
#
# $$\ell_\mathrm{KTO}(y) = \begin{cases} \lambda_D\, (1 - \sigma(u)) & \text{desirable} \\
# \lambda_U\, (1 - \sigma(-u)) & \text{undesirable,}\end{cases}
# \qquad z_0 = \mathrm{KL}(\pi \parallel \pi_\mathrm{ref}). \tag{8}$$
#
# $z_0$ is a reference point: has this answer gained more than the policy has moved on the whole? It is measured as
# training goes on, and no gradient flows through it.
#
# ### Exercise 10.2 · KTO's loss
# *difficulty 2/5 · importance 4/5 · 8 minutes*
#
# Write (8) for a batch: log-ratios (nats) and a mask that is `True` for desirable answers, both of shape `(B,)`; $z_0$, β
# and the weights are numbers. One loss an answer, and its gradient must reach the log-ratios. Do without a loop over the
# answers: what follows calls your function some thousand times.


# %% tags=["exercise"]
def thumbs_loss(
    log_ratio: Float[Tensor, " B"],
    desirable: Bool[Tensor, " B"],
    z0: float,
    beta: float,
    lambda_d: float,
    lambda_u: float,
) -> Float[Tensor, " B"]:
    """KTO's loss of each answer."""
    # BEGIN SOLUTION
    u = beta * (log_ratio - z0)
    return torch.where(desirable, lambda_d * torch.sigmoid(-u), lambda_u * torch.sigmoid(u))
    # END SOLUTION


# %% tags=["nbval-check-output"]
check.q2(thumbs_loss)

# %% tags=["student-only"]
# check.q2.hint()
# check.q2.solution()

# %% tags=["nbval-check-output"]
kto_of = check.q2.or_ours(thumbs_loss)

# %% [markdown]
# Let the thumbs come from our pairs: the chosen answer is desirable, the rejected one is not. Then $y$ is desirable with
# probability $w(y)$, its win rate. The expected loss of $y$ is a straight line in $\sigma(u)$:
#
# $$w \lambda_D (1 - \sigma(u)) + (1 - w) \lambda_U\, \sigma(u)
# = w \lambda_D - \big[\underbrace{w \lambda_D - (1-w) \lambda_U}_{c(y)}\big]\, \sigma(u). \tag{9}$$
#
# So only the **sign** of $c(y)$ decides the direction: where $c \lt 0$, the loss falls as long as $\pi(y)$ falls, down to
# zero. Where $c \gt 0$ the answers compete for probability. There the derivative by every logit must vanish, and that is
# where $\frac{c(y)\, \sigma(u)\, \sigma(-u)}{\pi(y) / \pi_\mathrm{ref}(y)}$ is the same number for all of them. For a small
# β all $\sigma(u)\,\sigma(-u)$ are near one quarter, and then
#
# $$\pi_\mathrm{KTO}(y) \approx \frac{\pi_\mathrm{ref}(y)\, \max(0, c(y))}{Z}. \tag{10}$$
#
# ### Exercise 10.3 · Where KTO leads
# *difficulty 3/5 · importance 4/5 · 15 minutes*
#
# Train a table of logits on KTO's *expected* loss: an answer is drawn from $\pi_\mathrm{ref}$, and its thumb is up with
# probability $w(y)$. Start at $\pi_\mathrm{ref}$, take `steps` steps of Adam with learning rate `rate`, and measure $z_0$
# before each of them. Both weights $\lambda$ are 1. Use `kto_of` from above.


# %% tags=["exercise"]
def train_on_thumbs(
    log_ref: Float[Tensor, " N"], wins: Float[Tensor, " N"], beta: float, rate: float, steps: int
) -> Float[Tensor, " N"]:
    """log π after the last step."""
    # BEGIN SOLUTION
    theta = log_ref.clone().requires_grad_()
    optimizer = torch.optim.Adam([theta], lr=rate)
    up = torch.ones(len(log_ref), dtype=torch.bool)
    for _ in range(steps):
        log_pi = theta.log_softmax(-1)
        log_ratio = log_pi - log_ref
        z0 = (log_pi.exp() * log_ratio).sum().item()
        of_good, of_bad = (kto_of(log_ratio, thumb, z0, beta, 1.0, 1.0) for thumb in (up, ~up))
        loss = (log_ref.exp() * (wins * of_good + (1 - wins) * of_bad)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return theta.detach().log_softmax(-1)
    # END SOLUTION


# %% tags=["nbval-check-output"]
check.q3(train_on_thumbs)

# %% tags=["student-only"]
# check.q3.hint()
# check.q3.solution()

# %%
kto_policy = check.q3.or_ours(train_on_thumbs)
kto = {b: kto_policy(log_ref, wins, b, 0.1, 3000) for b in (0.05, 0.1, 0.2, 0.4)}

# %% tags=["nbval-check-output"]
c = wins - (1 - wins)  # (9) with λ_D = λ_U = 1
u, value = torch.linspace(-4, 4, 9, dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64)
one = [kto_of(u, torch.full((9,), thumb), 0.0, 1.0, 1.3, 0.8) for thumb in (True, False)]
torch.testing.assert_close(
    value * one[0] + (1 - value) * one[1], value * 1.3 - (value * 1.3 - (1 - value) * 0.8) * torch.sigmoid(u)
)  # (9)
threshold = (log_ref + c.clamp(min=0).log()).log_softmax(-1)  # (10)
for b, log_pi in kto.items():
    u = b * (log_pi - log_ref - kl_of(log_pi))
    same = (c * torch.sigmoid(u) * torch.sigmoid(-u) / (log_pi - log_ref).exp())[c > 0]
    assert (same.max() - same.min()) / same.mean() < 0.01  # one number, to what 3,000 steps of Adam leave
    print(
        f"KTO, β = {b:4}: KL {kl_of(log_pi):.2f} nats, all answers with c < 0 together {log_pi.exp()[c < 0].sum():.0e}"
    )
    assert log_pi.exp()[c < 0].sum() < 1e-9 and abs(kl_of(log_pi) - kl_of(threshold)) < 0.05
assert kl_divergence(kto[0.05][c > 0].log_softmax(-1), threshold[c > 0].log_softmax(-1)) < 1e-5
print(f"(10) has a KL of {kl_of(threshold):.2f} nats. π* at the same four β has ", end="")
stars_at = [kl_of(optimal_policy(log_ref, reward, b)[0]) for b in kto]
print(", ".join(f"{nats:.2f}" for nats in stars_at), "nats.")
assert stars_at[0] - stars_at[-1] > 2
print(f"{int((c < 0).sum())} of {N} answers have c < 0; they had {log_ref.exp()[c < 0].sum():.0%} of the probability.")

# %% [markdown]
# Two surprises. **KTO's β is no leash:** eight times as much of it hardly changes where the policy ends, while $\pi^*$ moves
# by more than two nats. And **KTO asks only whether, not how much:** an answer that loses a little more often than it wins is
# wiped out like the worst one, here every answer below the threshold. Ethayarajh et al. (2024) name the good side of it: where people contradict each other, KTO goes with the majority. The weights move the
# threshold: $c \gt 0$ means $w \gt \lambda_U / (\lambda_D + \lambda_U)$.

# %%
nats = kl_of(kto[0.1])
ipo_beta = bisect(lambda b: kl_of(ipo_policy(log_ref, p, b)), nats, 1e-3, 1e2)
at_kl = {"IPO": ipo_policy(log_ref, p, ipo_beta), "KTO": kto[0.1]}
star_at_kl, price_at_kl = at_same_kl(kto[0.1])

variants.steps_and_slopes(
    wins, {name: log_pi - log_ref for name, log_pi in {r"$\pi^*$": star_at_kl, **at_kl}.items()}, threshold=0.5
)

# %% [markdown]
# *Figure 1. The log-ratio of each answer against its win rate, for three policies with the same KL: π\*, IPO's and KTO's.
# IPO's marks lie on a straight line, those of π\* on a curve that is steeper at both ends. KTO's marks end at the dotted
# line: every answer left of it lies far below the picture.*

# %% tags=["nbval-check-output"]
slope = (at_kl["IPO"] - log_ref)[wins.argmax()] - (at_kl["IPO"] - log_ref)[wins.argmin()]
torch.testing.assert_close(slope, (wins.max() - wins.min()) / ipo_beta)  # straight
steps = [(reward == r).nonzero()[0].item() for r in reward.unique()]  # one answer for each of the rewards there are
star_slopes = torch.diff((star_at_kl - log_ref)[steps]) / torch.diff(wins[steps])
assert min(star_slopes[0], star_slopes[-1]) > 1.1 * star_slopes.min()
assert (kto[0.1] - log_ref)[c < 0].max() < -20 < (star_at_kl - log_ref).min()
print("Checked: IPO's log-ratios are a straight line in w; KTO's fall by more than 20 nats at the threshold.")

# %% [markdown]
# ## 5 · Without a reference: SimPO and ORPO
#
# SimPO (Meng et al. 2024) leaves out the reference, divides by the length, and asks for a margin $\gamma$:
#
# $$\ell_\mathrm{SimPO} = -\log \sigma\Big(\frac{\beta}{\lvert y_w \rvert} \log \pi(y_w)
# - \frac{\beta}{\lvert y_l \rvert} \log \pi(y_l) - \gamma\Big). \tag{11}$$
#
# ### Exercise 10.4 · SimPO's loss
# *difficulty 1/5 · importance 3/5 · 5 minutes*
#
# Write (11) for a batch. You get *summed* log-probabilities and the lengths in tokens, all of shape `(B,)`. Margins of
# $\pm 1000$ must stay finite, and so must the gradient by both log-probabilities.


# %% tags=["exercise"]
def loss_by_means(
    chosen: Float[Tensor, " B"],
    rejected: Float[Tensor, " B"],
    chosen_length: Float[Tensor, " B"],
    rejected_length: Float[Tensor, " B"],
    beta: float,
    gamma: float,
) -> Float[Tensor, " B"]:
    """SimPO's loss of each pair, in nats."""
    # BEGIN SOLUTION
    return -F.logsigmoid(beta * (chosen / chosen_length - rejected / rejected_length) - gamma)
    # END SOLUTION


# %% tags=["nbval-check-output"]
check.q4(loss_by_means)

# %% tags=["student-only"]
# check.q4.hint()
# check.q4.solution()

# %% tags=["nbval-check-output"]
simpo_of = check.q4.or_ours(loss_by_means)

# %% [markdown]
# Here all answers have three tokens. So with $\gamma = 0$ (11) is DPO with $\beta/3$ and without $\log \pi_\mathrm{ref}$, and the
# argument of notebook 06 gives
#
# $$\pi_\mathrm{SimPO}(y) = \frac{e^{\lvert y \rvert\, r(y) / \beta}}{Z} \qquad
# (\gamma = 0, \text{ all lengths equal}). \tag{12}$$
#
# It is $\pi^*$ for a reference that finds all answers equally likely, good English or not. Our $\pi_\mathrm{ref}$ is gone
# from the formula. It only decides which pairs are seen. And $\gamma$? For two answers whose true log-odds are
# $\log\frac{p}{1-p}$, the loss is least at a difference $m$ of the two rewards with
#
# $$p\, \sigma(\gamma - m) = (1-p)\, \sigma(\gamma + m), \qquad e^m = \frac{(2p-1)\, e^\gamma + \sqrt{(2p-1)^2 e^{2\gamma} +
# 4p(1-p)}}{2(1-p)}. \tag{13}$$
#
# At $\gamma = 0$ that is $\frac{p}{1-p}$. A margin exaggerates every preference that is not one half.

# %% tags=["nbval-check-output"]
T = torch.full((N * N,), 3.0, dtype=torch.float64)
for b in (1.5, 3.0):
    found = minimise(lambda log_pi, b=b: expected(simpo_of(log_pi[first], log_pi[second], T, T, b, 0.0)))
    torch.testing.assert_close(found, (3 * reward / b).log_softmax(-1), rtol=0, atol=1e-3)  # (12)
for share, gamma in ((0.6, 0.0), (0.6, 1.0), (0.9, 0.5)):
    G, odd = math.exp(gamma), 2 * share - 1
    m = math.log((odd * G + math.sqrt(odd**2 * G**2 + 4 * share * (1 - share))) / (2 * (1 - share)))  # (13)
    m_ = torch.tensor([m], dtype=torch.float64, requires_grad=True)
    zero, ones = torch.zeros(1).double(), torch.ones(1).double()
    loss = share * simpo_of(m_, zero, ones, ones, 1.0, gamma) + (1 - share) * simpo_of(zero, m_, ones, ones, 1.0, gamma)
    (slope,) = torch.autograd.grad(loss.sum(), m_)
    assert slope.abs() < 1e-12
    print(f"preferred {share:.0%}: γ = {gamma}: m = {m:.2f} (log-odds {math.log(share / (1 - share)):.2f})")
print("Checked (12) for two β, and (13) for three settings: the slope is 0 there.")

# %% [markdown]
# ORPO (Hong et al. 2024) has no reference either. It keeps the loss of SFT on the chosen answer, and adds a comparison of
# **odds**. With the mean log-probability $\ell = \frac{1}{\lvert y \rvert} \log \pi(y)$ of an answer,
#
# $$\ell_\mathrm{ORPO} = -\ell_w - \lambda \log \sigma\big(o(\ell_w) - o(\ell_l)\big), \qquad
# o(\ell) = \log\frac{e^\ell}{1 - e^\ell} = \ell - \log(1 - e^\ell). \tag{14}$$
#
# ### Exercise 10.5 · ORPO's loss
# *difficulty 3/5 · importance 3/5 · 8 minutes*
#
# Write (14) for a batch of mean log-probabilities, all below 0, shape `(B,)`. A mean of −900 must give a finite loss and
# a finite gradient: do not leave the logarithms. Here too, no loop over the pairs: they will be thousands.


# %% tags=["exercise"]
def odds_loss(chosen: Float[Tensor, " B"], rejected: Float[Tensor, " B"], lam: float) -> Float[Tensor, " B"]:
    """ORPO's loss of each pair, in nats."""
    # BEGIN SOLUTION
    chosen_odds, rejected_odds = (mean - torch.log(-torch.expm1(mean)) for mean in (chosen, rejected))
    return -chosen - lam * F.logsigmoid(chosen_odds - rejected_odds)
    # END SOLUTION


# %% tags=["nbval-check-output"]
check.q5(odds_loss)

# %% tags=["student-only"]
# check.q5.hint()
# check.q5.solution()

# %% tags=["nbval-check-output"]
orpo_of = check.q5.or_ours(odds_loss)

# %% [markdown]
# The two terms want two things. Alone, the first is SFT on the chosen answers, and ends at *their* distribution. An answer
# is drawn in one of two places and then chosen with probability $w(y)$, so
#
# $$\pi_{\lambda = 0}(y) = 2\, \pi_\mathrm{ref}(y)\, w(y) \;\le\; 2\, \pi_\mathrm{ref}(y). \tag{15}$$
#
# No answer more than doubles its probability, and the KL is at most $\log 2$. The second term has no reference at all.
# So $\lambda$ mixes a very short leash with none.

# %% tags=["nbval-check-output"]


def orpo_policy(lam: float) -> Float[Tensor, " N"]:
    """The minimum of ORPO's expected loss; all answers have three tokens."""
    return minimise(lambda log_pi: expected(orpo_of(log_pi[first] / 3, log_pi[second] / 3, lam)))


imitation = orpo_policy(0.0)
torch.testing.assert_close(imitation, (2 * log_ref.exp() * wins).log(), rtol=0, atol=1e-4)  # (15)
torch.testing.assert_close((2 * log_ref.exp() * wins).sum(), torch.tensor(1.0).double())
assert kl_of(imitation) < math.log(2)
print(f"Checked (15): with λ = 0 ORPO ends at the chosen answers, {kl_of(imitation):.3f} nats away (log 2 = 0.693).")

# %% [markdown]
# ### All of them on one frontier
#
# Now the fair comparison. Left to right, every loss at several settings of its knob; the line is the best that is possible.

# %%
several = torch.logspace(math.log10(0.18), 0.6, 60, dtype=torch.float64).tolist()
stars = [optimal_policy(log_ref, reward, b)[0] for b in several]


def cdpo_of_margins(margin: Float[Tensor, " N2"]) -> Float[Tensor, " N2"]:
    """(5) for every pair, from its margin βh."""
    return -(1 - epsilon) * F.logsigmoid(margin) - epsilon * F.logsigmoid(-margin)


def cdpo_policy(b: float) -> Float[Tensor, " N"]:
    """The minimum of cDPO's expected loss at β = b and ε = 0.1."""
    of_ref = log_ref[first] - log_ref[second]
    return minimise(lambda log_pi: expected(cdpo_of_margins(b * (log_pi[first] - log_pi[second] - of_ref))))


found = {
    "cDPO, ε = 0.1": [cdpo_policy(b) for b in (0.15, 0.25, 0.4, 0.7)],
    "IPO": [ipo_policy(log_ref, p, b) for b in (0.04, 0.06, 0.1, 0.15, 0.25)],
    "KTO": list(kto.values()),
    "SimPO, γ = 0": [(3 * reward / b).log_softmax(-1) for b in (0.9, 1.2, 1.7, 2.5, 4.0)],
    "ORPO": [orpo_policy(lam) for lam in (0.3, 3.0, 30.0, 100.0, 300.0)],
}
variants.against_the_frontier(
    ([kl_of(x) for x in stars], [earned(x) for x in stars]),
    {name: ([kl_of(x) for x in policies], [earned(x) for x in policies]) for name, policies in found.items()},
)

# %% [markdown]
# *Figure 2. Reward against KL. The marks of cDPO and IPO lie on the line of π\* or a hair below it; those of SimPO and
# ORPO below it; KTO's four marks lie close together, lowest for their KL.*

# %% tags=["nbval-check-output"]
cdpo_beta = bisect(lambda b: kl_of(cdpo_policy(b)), nats, 0.3, 0.4, steps=9)
simpo_beta = bisect(lambda b: kl_of((3 * reward / b).log_softmax(-1)), nats, 0.5, 10.0)
orpo_inverse = bisect(lambda inverse: kl_of(orpo_policy(1 / inverse)), nats, 0.03, 0.05, steps=9)
at_kl |= {
    "cDPO": cdpo_policy(cdpo_beta),
    "SimPO": (3 * reward / simpo_beta).log_softmax(-1),
    "ORPO": orpo_policy(1 / orpo_inverse),
}
lost = {name: price_at_kl * kl_divergence(log_pi, star_at_kl).item() for name, log_pi in at_kl.items()}  # (2)
print(f"all at {nats:.2f} nats, where π* earns {earned(star_at_kl):+.2f} and the reference {earned(log_ref):+.2f}:")
for name in ("cDPO", "IPO", "ORPO", "SimPO", "KTO"):
    print(f"{name:6} reward {earned(at_kl[name]):+.2f}, lost {lost[name]:.3f}")
    assert abs(earned(star_at_kl) - earned(at_kl[name]) - lost[name]) < 0.005 and abs(kl_of(at_kl[name]) - nats) < 0.001
assert lost["cDPO"] < lost["IPO"] < 0.01 < 0.09 < lost["ORPO"] < lost["SimPO"] < lost["KTO"]
assert all(kl_divergence(x, at_same_kl(x)[0]) > -1e-9 for policies in found.values() for x in policies)

alike = reward == 0  # equally good answers, to which π* gives equal log-ratios
for name in ("SimPO", "ORPO"):
    moved = torch.stack([(at_kl[name] - log_ref)[alike], log_ref[alike]])
    assert torch.corrcoef(moved)[0, 1] < -0.9
top, neutral = reward.argmax(), (reward == 0).nonzero()[0].item()
apart = {
    name: (x - log_ref)[top] - (x - log_ref)[neutral] for name, x in {"π*": star_at_kl, "KTO": at_kl["KTO"]}.items()
}
assert apart["KTO"] < 1.2 < 2.5 < apart["π*"]
print(f"log-ratio of a best answer minus that of a neutral one: π* {apart['π*']:.1f} nats, KTO {apart['KTO']:.1f}.")

# %% [markdown]
# The two with a reference and pairs, cDPO and IPO, lose next to nothing. The two without a reference pay for it: their
# nats go into answers that the reference finds unlikely, also where these are no better (checked among equally good ones).
# KTO loses most: its nats go into zeros, and above the threshold it hardly tells a best answer from a neutral one. Mind what
# this does *not* say. This is one world, with people who follow Bradley and Terry, all pairs, and all the time in the world.
# With few pairs and few steps a loss may do better than its optimum.

# %% [markdown]
# ## 6 · When the labels are certain
#
# A data set has each pair once, with one label. Nobody is ever contradicted. In the limit: the better answer *always* wins,
# $p \in \{0, \tfrac12, 1\}$. Then add $t$ times the reward to the logits of any policy. Every margin between unequal answers
# grows by $\beta\, t\, (r_a - r_b)$, and
#
# $$L_\mathrm{DPO}\big(\pi\, e^{t r} / Z\big) \;\text{ falls for ever as } t \to \infty, \text{ for every } \beta. \tag{16}$$
#
# Whatever the policy, there is a better one farther out. **There is no minimum,** and $\beta$ holds nothing: it sets the
# speed, not the place. The way leads to an end where only the best answers are left.

# %% tags=["nbval-check-output"]
certain = (reward[:, None] > reward[None, :]).double() + 0.5 * (reward[:, None] == reward[None, :]).double()
for _ in range(20):
    start = (log_ref + 2 * torch.randn(N, generator=g, dtype=torch.float64)).log_softmax(-1)
    path = [
        expected(dpo_of_pairs((start + t * reward).log_softmax(-1)), certain).item() for t in (0, 1, 2, 4, 8, 16, 32)
    ]
    assert all(later < earlier for earlier, later in zip(path, path[1:], strict=False))  # (16)
ties = expected((reward[first] == reward[second]).double(), certain)
far = expected(dpo_of_pairs((log_ref + 200 * reward).log_softmax(-1)), certain)
torch.testing.assert_close(far, ties * math.log(2))  # what is left: the coin tosses between equal answers
ceiling = -log_ref[reward == reward.max()].logsumexp(0).item()
print(f"Checked (16) from 20 policies. The end: only the best answers, {ceiling:.2f} nats from the reference.")

# %% [markdown]
# So a loss either brings a policy to rest somewhere, or it drives it away for ever. Now you write what tells.
#
# ### Exercise 10.6 · Capstone: what does a loss want?
# *difficulty 4/5 · importance 4/5 · 45 minutes*
#
# **Given** is any loss of a pair, `pair_loss(won, lost, ref_won, ref_lost)`: $\log \pi$ of the chosen and of the rejected
# answer, then $\log \pi_\mathrm{ref}$ of both. It works element by element: hand it a column and a row, and it gives a table.
#
# **Wanted** is where gradient descent on (1) leads, from $\pi_\mathrm{ref}$. The policy is a table of N logits. A rare answer has
# a small gradient however wrong it is: in (1) whatever moves its logit has the factor $\pi_\mathrm{ref}(y)$. So we look at
# **slopes**: the gradient by the logit of $y$, divided by $\pi_\mathrm{ref}(y)$. The policy rests where no slope is larger than
# `tolerance`, sign aside. It has run away where two log-ratios $\log \pi/\pi_\mathrm{ref}$ are more than `limit` nats apart.
# Any method is welcome; you may step along the slopes. Mind that these losses bend differently: a step length that suits one may be far too long for another.
#
# **It is judged** on twelve losses with six to eight answers, from each of three seeds: steepest slope (up to twice the
# tolerance, for rounding), gap to the optimum below $10^{-4}$ nats where we know it, a right verdict, the path of the KL,
# and the reward that is lost by (2), to $10^{-5}$. That takes a few seconds. Return the parts that you have; the check looks
# at unfinished code, too. All numbers are float64. `bisect` may be used again; `at_same_kl` knows only the world of section 1.


# %% tags=["exercise"]
def what_it_wants(
    pair_loss: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor],
    log_ref: Float[Tensor, " N"],
    reward: Float[Tensor, " N"],
    preference: Float[Tensor, "N N"],
    tolerance: float,
    limit: float,
) -> dict[str, Any]:
    """Where gradient descent on (1) leads from π_ref, or that nothing holds it; and what reward it loses there.

    "slopes": at π_ref, shape (N,). "log_pi": at the end, shape (N,). "rests": whether it came to rest. "kls": KL to the
    reference in nats: 0 at the start, then after each step taken. "lost": if it rests, E[r] of π* with this KL minus its E[r].
    """
    # 1. The weights of all pairs in (1); a function from logits to slopes.
    # 2. From log π_ref, while a slope is too steep: a step downhill. Was it too long? How long is the next one?
    # 3. In each step: are the log-ratios too far apart? Then return what you have, "rests" False.
    # 4. After each step the KL.
    # 5. Where it rests: β' of the π* with the same KL, by bisection, and the reward that is lost.
    # BEGIN SOLUTION
    pairs = 2 * log_ref.exp()[:, None] * log_ref.exp() * preference

    def slopes_at(theta: Tensor) -> Tensor:
        theta = theta.clone().requires_grad_()
        log_pi = theta.log_softmax(-1)
        losses = pair_loss(log_pi[:, None], log_pi, log_ref[:, None], log_ref)
        (gradient,) = torch.autograd.grad((pairs * losses).sum(), theta)
        return gradient / log_ref.exp()

    log_pi, slopes, kls, step = log_ref, slopes_at(log_ref), [0.0], 1.0
    found = {"slopes": slopes, "kls": kls}
    while slopes.abs().max() > tolerance:
        log_ratio = log_pi - log_ref
        if log_ratio.max() - log_ratio.min() > limit:
            return found | {"log_pi": log_pi, "rests": False}
        there = (log_pi - step * slopes).log_softmax(-1)
        slopes_there = slopes_at(there)
        if (log_ref.exp() * slopes * slopes_there).sum() < 0:  # it rises again there: too far
            step /= 2
            continue
        log_pi, slopes, step = there, slopes_there, 2 * step
        kls.append(kl_divergence(log_pi, log_ref).item())

    low, high = 1e-4, 1e4
    for _ in range(100):
        price = math.sqrt(low * high)
        best, _ = optimal_policy(log_ref, reward, price)
        low, high = (price, high) if kl_divergence(best, log_ref).item() > kls[-1] else (low, price)
    return found | {"log_pi": log_pi, "rests": True, "lost": ((best.exp() - log_pi.exp()) * reward).sum().item()}
    # END SOLUTION


# %% tags=["nbval-ignore-output"]
check.capstone(what_it_wants)

# %% tags=["student-only"]
# check.capstone.hint()
# check.capstone.solution()

# %% tags=["nbval-ignore-output"]
ask = check.capstone.or_ours(what_it_wants)

# %% [markdown]
# Ask six losses, with certain labels, about the twelve answers that the reference likes best.

# %%
few = log_ref.topk(12).indices
few_ref, few_reward, few_certain = (
    log_ref[few].log_softmax(-1),
    reward[few],
    certain[few][:, few],
)  # (12,), (12,), (12, 12)
losses = {
    "DPO, β = 0.5": lambda w, lo, rw, rl: -F.logsigmoid(0.5 * (w - rw - lo + rl)),
    "DPO, β = 1": lambda w, lo, rw, rl: -F.logsigmoid(w - rw - lo + rl),
    "SimPO, β = 2, γ = 0": lambda w, lo, rw, rl: -F.logsigmoid(2 * (w - lo) / 3),
    "cDPO, β = 0.5, ε = 0.1": lambda w, lo, rw, rl: cdpo_of_margins(0.5 * (w - rw - lo + rl)),
    "IPO, β = 0.1": lambda w, lo, rw, rl: (w - rw - lo + rl - 5) ** 2,  # 1/(2β) = 5
    "ORPO, λ = 1": lambda w, lo, rw, rl: orpo_of(w / 3, lo / 3, 1.0),
}
led = {name: ask(loss, few_ref, few_reward, few_certain, 1e-5, 20.0) for name, loss in losses.items()}
ceiling = -few_ref[few_reward == few_reward.max()].logsumexp(0).item()
variants.kl_while_training({name: [float(kl) for kl in end["kls"]][1:] for name, end in led.items()}, ceiling)

# %% [markdown]
# *Figure 3. KL to the reference against the step of your descent, both logarithmic, when the better answer always wins. DPO and
# SimPO run towards the dotted line, the best answers alone, until the limit stops them; cDPO, IPO and ORPO come to rest below.*

# %% tags=["nbval-check-output"]
for name, end in led.items():
    runs_away = name.startswith(("DPO", "SimPO"))
    assert bool(end["rests"]) != runs_away
    assert (kl_divergence(torch.as_tensor(end["log_pi"]).double(), few_ref).item() > 0.9 * ceiling) == runs_away
by_ipo = torch.as_tensor(led["IPO, β = 0.1"]["log_pi"]).double()
torch.testing.assert_close(by_ipo, ipo_policy(few_ref, few_certain, 0.1), rtol=0, atol=1e-3)  # (4) holds here as well
by_cdpo = 0.5 * (torch.as_tensor(led["cDPO, β = 0.5, ε = 0.1"]["log_pi"]).double() - few_ref)
predicted = torch.sigmoid(by_cdpo[:, None] - by_cdpo) @ few_ref.exp()
torch.testing.assert_close(predicted, epsilon + (1 - 2 * epsilon) * (few_certain @ few_ref.exp()), rtol=0, atol=1e-3)
assert (check.GAP, check.TOLERANCE) == (1e-4, 1e-5)  # as the exercise says
print("Checked: with certain labels DPO and SimPO have no minimum; cDPO, IPO and ORPO have one, and it was found.")

# %% [markdown]
# cDPO's brake is $\varepsilon$, IPO's is the square, ORPO's is the SFT term: to imitate the chosen answers it must not
# forget any of them. KTO needs no certain labels to run off: below its threshold it sends answers to zero in any case.
#
# ## 7 · What dividing by the length does
#
# Eight answers from notebook 06, equally likely under the reference: lengths 2, 4, 8, 16, each once good ($r = +1$) and
# once bad ($r = -1$). SimPO with $\beta = 2$ and $\gamma = 0$, and all pairs.
#
# **Predict.** At SimPO's optimum, how likely is the *good* answer of 16 tokens against the *bad* one of 2 tokens?
#
# - a) the bad one of 2 tokens is about ten times as likely
# - b) the good one of 16 tokens is far likelier, as at $\pi^*$: a mean does not care for length
# - c) they are equally likely

# %% tags=["nbval-check-output"]
check.p2("a")  # SOLUTION

# %% [markdown]
# (11) compares $\frac{\beta}{\lvert y \rvert} \log \pi(y)$ with the reward. At the optimum they differ by a constant $c$, so
#
# $$\log \pi_\mathrm{SimPO}(y) = \frac{\lvert y \rvert}{\beta}\, \big(r(y) + c\big), \qquad
# c \text{ such that } \textstyle\sum_y \pi(y) = 1. \tag{17}$$
#
# A log-probability is below 0, so $r(y) + c \lt 0$ for every answer, the best one too. Then **length multiplies a negative
# number**. Each token of a good answer is likelier than each token of a bad one: that is all that a mean can ask for.
# Sixteen good tokens are still less likely than two bad ones.

# %%
lengths = torch.tensor([2, 4, 8, 16, 2, 4, 8, 16], dtype=torch.float64)  # shape (8,)
quality = torch.tensor([1.0] * 4 + [-1.0] * 4, dtype=torch.float64)  # r, shape (8,)
flat = torch.full((8,), -math.log(8), dtype=torch.float64)  # log π_ref
i, j = (k.flatten() for k in torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij"))
p_ij = preference_probability(quality[i], quality[j])  # shape (64,)

by_means = minimise(
    lambda log_pi: (p_ij * simpo_of(log_pi[i], log_pi[j], lengths[i], lengths[j], 2.0, 0.0)).mean(), flat
)
spent = kl_divergence(by_means, flat).item()
b = bisect(lambda b: kl_divergence(optimal_policy(flat, quality, b)[0], flat).item(), min(spent, 0.6), 1e-3, 1e3)
shares = {"reference": flat, r"$\pi^*$": optimal_policy(flat, quality, b)[0], "SimPO": by_means}
of_dpo.shares_of_answers(
    lengths.tolist(),
    quality.tolist(),
    {name: log_p.exp().tolist() for name, log_p in shares.items()},
    "Means without a reference: length multiplies a negative number",
)

# %% [markdown]
# *Figure 4. Eight answers under the reference, π\* (striped) and SimPO's optimum (dotted). π\* gives the four good answers equal
# shares. SimPO's shares fall steeply with the length, among the good and among the bad ones.*

# %% tags=["nbval-check-output"]
constant = -bisect(lambda k: (lengths / 2 * (quality - k)).exp().sum().item(), 1.0, 1.0, 50.0)  # c of (17)
torch.testing.assert_close(by_means, lengths / 2 * (quality + constant), rtol=1e-3, atol=1e-3)  # (17)
assert (quality + constant).max() < 0
long_good, short_bad = by_means[3].exp().item(), by_means[4].exp().item()
assert 9 < short_bad / long_good < 12
print(f"Checked (17), c = {constant:.2f}: good, 16 tokens: {long_good:.4f}; bad, 2 tokens: {short_bad:.4f}.")

# IPO with log-ratios per token, as TRL computes it
ipo_by_means = minimise(
    lambda log_pi: (
        p_ij * (((log_pi - flat) / lengths)[i] - ((log_pi - flat) / lengths)[j] - 1 / (2 * 0.5)) ** 2
    ).mean(),
    flat,
)
slopes = (ipo_by_means - flat) / lengths - p_ij.view(8, 8).mean(1) / 0.5
torch.testing.assert_close(slopes, slopes[:1].expand(8), rtol=0, atol=1e-5)
print("Checked: with log-ratios per token IPO's optimum has log π/π_ref = |y| (w/β + c).")

# %% tags=["nbval-check-output"]
check.p2.outcome()

# %% [markdown]
# Compare with notebook 06, equation (11): means *with* a reference multiply the reward by the length. Without one, every
# answer starts from zero, and the length multiplies everything. In a real language there are many more long answers than
# short ones, so a model need not become terse; but at equal quality nothing in the loss keeps the share of a long answer
# where the reference had it.
#
# Beware of names: TRL 1.16 divides IPO's log-ratios by the length, since its authors did so in their experiments (a comment
# in TRL's `dpo_trainer.py`); equation 17 of the paper, and `week6.dpo_loss`, do not. Then the optimum is another one.

# %% [markdown]
# ## 8 · An open experiment: what do flipped labels cost?
#
# Section 3 has asked this of DPO and cDPO, at one $\beta$ and with a tenth of the labels flipped. Now turn the knob, for three
# losses that all do not know of it. `what_flips_do(share, seed)` takes another reference for each seed, lets people compare
# all its pairs, flips the share, and finds the optima of DPO (β = 0.5), IPO (β = 0.1) and KTO (β = 0.1). It gives two numbers
# for each: its **KL** to the reference, and the reward that it has **lost** against $\pi^*$ at equal KL. The latter is taken at one
# nat for DPO and IPO, whose β can be chosen for that, and where it ends for KTO; the table shows it in thousandths of a reward
# unit. A call takes about a second.
#
# **Your turn.** One knob: shares of 0, 0.1, 0.2, 0.3 and 0.4, three seeds each. Say first what you expect. What do flips cost,
# distance or direction? Which of the three point in another direction than before, and where do they go as the share nears
# one half? The text does not tell, but it has all that you need for an explanation.

# %% tags=["folded"]
# @title what_flips_do(share, seed) and show_table(table)
NAMES = ("DPO", "IPO", "KTO")


def what_flips_do(share: float, seed: int) -> list[float]:
    """KL (nats) and lost reward of DPO, of IPO and of KTO: six numbers."""
    with torch.no_grad():
        ref = world.log_probs(world.new_policy(seed=seed)).double().view(-1, N)[prompt].log_softmax(-1)
    seen = (1 - share) * p + share * (1 - p)  # how often a label says that row beats column
    drawn, w = (ref[:, None] + ref[None, :]).exp() * seen, seen @ ref.exp()

    def nats(log_pi: Float[Tensor, " N"]) -> float:
        return kl_divergence(log_pi, ref).item()

    def spending(score: Float[Tensor, " N"], budget: float) -> Float[Tensor, " N"]:
        """π_ref e^{score/β} / Z with the β that spends the budget."""
        price = bisect(lambda b: nats(optimal_policy(ref, score, b)[0]), budget, 1e-4, 1e3, steps=60)
        return optimal_policy(ref, score, price)[0]

    def lost(log_pi: Float[Tensor, " N"]) -> float:
        return ((spending(reward, nats(log_pi)).exp() - log_pi.exp()) * reward).sum().item()

    def dpo_on_them(log_pi: Float[Tensor, " N"]) -> Float[Tensor, ""]:
        score = 0.5 * (log_pi - ref)
        return -(drawn * F.logsigmoid(score[:, None] - score[None, :])).sum()

    dpo, ipo, thumbs = minimise(dpo_on_them, ref), optimal_policy(ref, w, 0.1)[0], kto_policy(ref, w, 0.1, 0.1, 1500)
    at_one_nat = spending(dpo - ref, 1.0), spending(w, 1.0), thumbs
    return [x for log_pi, like in zip((dpo, ipo, thumbs), at_one_nat, strict=True) for x in (nats(log_pi), lost(like))]


def show_table(table: dict[float, list[list[float]]]) -> None:
    """Means over the seeds and half of their range: KL in nats, lost reward in thousandths of a unit."""
    print("flipped   " + "   ".join(f"{name + ': KL':13} {'lost / 1000':15}" for name in NAMES))
    for share, rows in table.items():
        cells = [(sum(c) / len(c), (max(c) - min(c)) / 2) for c in zip(*rows, strict=True)]
        numbers = [
            f"{m:.2f} ± {e:.2f}" if i % 2 == 0 else f"{1e3 * m:.1f} ± {1e3 * e:.1f}" for i, (m, e) in enumerate(cells)
        ]
        print(
            f"{share:<10}"
            + "   ".join(f"{kl:13} {loss:15}" for kl, loss in zip(numbers[::2], numbers[1::2], strict=True))
        )


# %% tags=["nbval-ignore-output"]
table = {share: [what_flips_do(share, seed) for seed in range(3)] for share in (0.0, 0.1, 0.2, 0.3, 0.4)}  # SOLUTION
if table is not ...:
    show_table(table)

# %% [markdown] tags=["solution-only"]
# **What we measured.** Flips cost distance: with more of them DPO and IPO stay nearer to the reference. They cost IPO no
# direction at all. A win rate among flipped labels is $\varepsilon + (1 - 2\varepsilon)\, w$, so by (4) IPO with flips is IPO
# without them at a larger price, $\beta / (1 - 2\varepsilon)$: a smaller β gives everything back. KTO does not notice: all $c$
# are multiplied by $1 - 2\varepsilon$, and (10) does not change. Only DPO points elsewhere. Without flips its direction is the best;
# then it loses more and more, and near one half as much as IPO. There all log-odds are small, small log-odds are a
# straight line in $p$, and to fit a straight line in $p$ is what IPO does (3). But look at the size: what DPO loses by flips is
# far below what KTO loses without any.

# %% tags=["solution-only", "nbval-ignore-output"]
results = torch.tensor(list(table.values()))  # shape (shares, seeds, 6)
kls, losses = results[..., ::2], results[..., 1::2]  # of DPO, IPO, KTO
assert (kls[..., :2].diff(dim=0) < 0).all() and (kls[..., 2] - kls[0, :, 2]).abs().max() < 0.01
assert (losses[..., 1] - losses[0, :, 1]).abs().max() < 1e-5 and (losses[..., 2] - losses[0, :, 2]).abs().max() < 1e-3
assert (losses[..., 0].diff(dim=0) > 0).all() and losses[0, :, 0].max() < 1e-5
assert (losses[-1, :, 0] > 0.85 * losses[-1, :, 1]).all() and (losses[..., 0] < losses[..., 1]).all()
assert losses[..., 2].min() > 10 * losses[..., :2].max()
for share in (0.1, 0.4):
    torch.testing.assert_close(
        ipo_policy(log_ref, (1 - share) * p + share * (1 - p), 0.1), ipo_policy(log_ref, p, 0.1 / (1 - 2 * share))
    )
print("Checked in every seed: all that the answer says of the table; and IPO's price β / (1 − 2ε).")

# %% [markdown]
# ## 9 · What we showed
#
# | loss | where it ends, with all pairs | at the same KL | certain labels |
# |---|---|---|---|
# | DPO | $\pi_\mathrm{ref}\, e^{r/\beta}$ | the best | no minimum |
# | cDPO | every win rate pulled towards one half | nearly the best | has one |
# | IPO | $\pi_\mathrm{ref}\, e^{w/\beta}$ | nearly the best | has one |
# | KTO | $\pi_\mathrm{ref}\, \max(0, c)$, for a small β | loses most here | below the threshold, to zero |
# | SimPO | $e^{\lvert y \rvert (r + c)/\beta}$: no reference | loses | no minimum |
# | ORPO | between $2\, \pi_\mathrm{ref}\, w$ and no reference | loses | has one |
#
# - Two policies are compared at the same KL. There the gap in nats times $\beta'$ is the reward that is lost.
# - cDPO adds flips instead of undoing them. It is a larger β in disguise, with a minimum.
# - KTO's β is no leash. IPO's is one that holds for every label.
# - Means over tokens are another objective, with a reference and without.
#
# ### Two questions to think about
#
# 1. People like answer $a$ better than $b$, $b$ better than $c$ and $c$ better than $a$, each with 90 to 10. All three are
#    equally likely under the reference. What do DPO, IPO and KTO (with $\lambda_D = \lambda_U$) do?
# 2. You take IPO's optimum as the new reference, draw new pairs from it, and train again. Do you end where one round with
#    half the β would have ended? And with DPO?

# %% [markdown] tags=["solution-only"]
# **Answers.**
#
# 1. All three stay where they are. Every answer wins as often as it loses, so all win rates are one half. DPO's least loss
#    is at equal rewards, IPO's reward $w$ is constant, and KTO has $c = 0$ everywhere: no force at all.
# 2. With DPO yes: $\pi_\mathrm{ref}\, e^{r/\beta}\, e^{r/\beta} = \pi_\mathrm{ref}\, e^{2r/\beta}$. With IPO no: in the second
#    round the opponents are better, so the win rates are other ones.

# %% tags=["solution-only", "nbval-check-output"]
circle = torch.tensor([[0.5, 0.9, 0.1], [0.1, 0.5, 0.9], [0.9, 0.1, 0.5]], dtype=torch.float64)
even = torch.full((3,), -math.log(3), dtype=torch.float64)
torch.testing.assert_close(ipo_policy(even, circle, 0.1), even)
flat_theta = even.clone().requires_grad_()
margins = flat_theta.log_softmax(-1)[:, None] - flat_theta.log_softmax(-1)[None, :]
(gradient,) = torch.autograd.grad((circle * -F.logsigmoid(margins)).sum(), flat_theta)
assert gradient.abs().max() < 1e-12 and (circle @ even.exp() - 0.5).abs().max() < 1e-12

torch.testing.assert_close(optimal_policy(log_star, reward, beta)[0], optimal_policy(log_ref, reward, beta / 2)[0])
once = ipo_policy(log_ref, p, 0.1)
assert kl_divergence(ipo_policy(once, p, 0.1), ipo_policy(log_ref, p, 0.05)) > 0.01
print("Checked: nothing moves on a circle; two rounds of DPO are one with half the β, two rounds of IPO are not.")

# %% [markdown]
# ### References
#
# - M. Azar et al. (2023), *A general theoretical paradigm to understand learning from human preferences*, arXiv
#   2310.12036. IPO; its theorem about win rates is our (4).
# - E. Mitchell (2023), *A note on DPO with noisy preferences and relationship to IPO*. cDPO.
# - S. R. Chowdhury, A. Kini, N. Natarajan (2024), *Provably robust DPO: aligning language models with noisy feedback*,
#   arXiv 2403.00409. Our (7).
# - K. Ethayarajh et al. (2024), *KTO: model alignment as prospect theoretic optimization*, arXiv 2402.01306.
# - Y. Meng, M. Xia, D. Chen (2024), *SimPO: simple preference optimization with a reference-free reward*, arXiv 2405.14734.
# - J. Hong, N. Lee, J. Thorne (2024), *ORPO: monolithic preference optimization without reference model*, arXiv 2403.07691.
