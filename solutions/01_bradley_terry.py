# %% [markdown]
# # 01 · Bradley–Terry: from comparisons to rewards
#
# Ask a person to grade an answer from 1 to 10, and the next person will use the scale in another way. Ask which of
# two answers is better, and no scale is needed. But training needs a number. This notebook goes from "this one is
# better" to a number, and shows how far that is possible.

# %% [markdown]
# ## What you will be able to do
#
# - Derive the Bradley–Terry model from noisy rewards, and say what one unit of reward means.
# - Extend it from pairs to rankings (Plackett–Luce).
# - Write the pairwise loss that trains every reward model, so that it never overflows.
# - Fit rewards to a table of comparisons, with error bars, and check their calibration.
# - Recognise when no finite fit exists, and which preferences the model cannot express.
#
# **You need:** the softmax function, integrals, derivatives, gradient descent; for the middle of section 4 also matrices
# and their eigenvalues. **Time:** {minutes} minutes of work; the cells run in about a minute on a laptop CPU. A GPU does not
# help here: nothing is larger than a table of numbers. **In a hurry?** Section 2 and the parts of section 4 marked *can be
# left out* take about an hour, and nothing later in the course needs them.

# %% tags=["folded"]
# @title Set-up: imports
import itertools
import math

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

from week6 import fit_bradley_terry, kl_divergence, sample_preferences
from week6.checks import nb01 as check
from week6.classroom.widgets import slider
from week6.pictures import comparisons as draw
from week6.pictures.figures import roadmap

generator = torch.Generator().manual_seed(0)

# %%
_ = roadmap(1)
plt.show()

# %% [markdown]
# *Roadmap: the stops of the course. You are at stop 01, between the human preferences and the reward model.*
#
# ## 0 · One prompt, six answers
#
# All through this notebook we look at one prompt $x$ and $K = 6$ answers to it. We give each answer a **true
# reward** $r_i$. In real life nobody knows these numbers. Here we do, so that we can see how well they are found
# again.

# %% tags=["folded"]
# @title One prompt, six answers and their true rewards
prompt = "how do i bake bread ?"
answers = [
    "happy to help ! mix flour and water , let it rise , bake it .",
    "mix flour and water , bake it .",
    "bake it .",
    "i can not help with that .",
    "ask somebody else .",
    "bread bread the bake",
]
true_rewards = torch.tensor([2.0, 1.0, 0.3, -0.5, -1.0, -1.8])  # shape (K,), axis: answer

print(f"x: {prompt}     shape of true_rewards: {tuple(true_rewards.shape)}")
for i, (answer, r) in enumerate(zip(answers, true_rewards, strict=True)):
    print(f"y{i}  r = {r:+.1f}   {answer}")

# %% [markdown]
# ## 1 · From a noisy reward to a probability
#
# A person who reads an answer does not feel exactly $r$. Mood, attention and taste add noise. Call what is felt the
# **utility** $u$. For two answers $a$ and $b$:
#
# $$u_a = r_a + g_a, \qquad u_b = r_b + g_b. \tag{1}$$
#
# The noises of the two answers are independent. The person prefers the answer with the higher utility: $a \succ b$
# ("$a$ is preferred to $b$") when $u_a > u_b$. Such a model is called a **random utility model**.
#
# For the noise $g$ we take the **Gumbel** distribution. Its distribution function $F$ and its density $f = F'$ are
#
# $$F(g) = \Pr(\text{noise} \le g) = e^{-e^{-g}}, \qquad f(g) = e^{-g}\, e^{-e^{-g}}. \tag{2}$$
#
# Why this one and not the bell curve? It makes every integral below easy. We compare it with the bell curve at the
# end (under "Asked every year").


# %%
def gumbel_cdf(g: torch.Tensor) -> torch.Tensor:
    """F(g), equation (2)."""
    return torch.exp(-torch.exp(-g))


def gumbel_density(g: torch.Tensor) -> torch.Tensor:
    """f(g), equation (2)."""
    return torch.exp(-g) * torch.exp(-torch.exp(-g))


def gumbel_noise(*shape: int) -> torch.Tensor:
    """Samples, from uniform U in (0, 1): F(g) = U gives g = −log(−log U)."""
    u = torch.rand(*shape, generator=generator, dtype=torch.float64)
    return -torch.log(-torch.log(u))


g = torch.linspace(-3, 6, 50, dtype=torch.float64, requires_grad=True)
(slope,) = torch.autograd.grad(gumbel_cdf(g).sum(), g)
torch.testing.assert_close(slope, gumbel_density(g))

n = 200_000
noise = gumbel_noise(n)  # shape (n,), axis: sample
for point in (-1.0, 0.0, 2.0):
    p = float(gumbel_cdf(torch.tensor(point)))
    assert abs(float((noise <= point).double().mean()) - p) < 4 * math.sqrt(p * (1 - p) / n)
assert abs(1 / math.erfc(4 / math.sqrt(2)) - 16_000) < 500  # how rarely a normal error exceeds 4 standard errors
print("Checked: f is the derivative of F, and the sampled noise has F as its distribution (within 4 standard errors).")

# %% [markdown]
# A **standard error** is the typical error of an average over random samples. For a share $p$ out of $n$ samples it
# is $\sqrt{p(1-p)/n}$. A correct program misses by more than four of them about once in 16,000 checks (the errors of
# averages are nearly normally distributed). A wrong program misses by more, and is caught.
#
# ### The derivation, in five steps
#
# Let $\Delta = r_a - r_b$.
#
# **Step 1: say when $a$ wins.** $u_a > u_b$ means $r_a + g_a > r_b + g_b$, that is $g_b < \Delta + g_a$.
#
# **Step 2: average over the noise.** Suppose $g_a$ has the value $g$. Then $a$ wins with probability
# $F(\Delta + g)$. Every value $g$ occurs with density $f(g)$, so
#
# $$p(a \succ b \mid x) = \int_{-\infty}^{\infty} f(g)\, F(\Delta + g)\, dg .$$

# %%
delta = 1.3
grid = torch.linspace(-8, 40, 100_001, dtype=torch.float64)  # shape (G,), axis: point of the integral

integral = torch.trapezoid(gumbel_density(grid) * gumbel_cdf(delta + grid), grid)
wins_of_a = (delta + gumbel_noise(n) > gumbel_noise(n)).double().mean()

standard_error = math.sqrt(float(integral) * (1 - float(integral)) / n)
assert abs(float(wins_of_a - integral)) < 4 * standard_error
print(f"Checked: the integral of step 2 gives {integral:.4f}; a wins {wins_of_a:.4f} of {n:,} simulated comparisons.")

# %% [markdown]
# **Step 3: put $f$ and $F$ in.** Both contain $e^{-e^{-\cdots}}$. A product of exponentials adds the exponents, and
# $e^{-(\Delta + g)} = e^{-\Delta} e^{-g}$:
#
# $$f(g)\,F(\Delta + g) = e^{-g}\, e^{-e^{-g}}\, e^{-e^{-\Delta} e^{-g}} = e^{-g}\, e^{-e^{-g}(1 + e^{-\Delta})} .$$
#
# **Step 4: substitute $t = e^{-g}$.** Then $dt = -e^{-g}\,dg$. As $g$ goes from $-\infty$ to $\infty$, $t$ goes
# from $\infty$ down to $0$. The minus sign turns the direction round:
#
# $$\int_{-\infty}^{\infty} e^{-g}\, e^{-e^{-g}(1 + e^{-\Delta})}\, dg = \int_0^\infty e^{-t(1 + e^{-\Delta})}\, dt .$$

# %%
small = torch.linspace(-3, 6, 50, dtype=torch.float64)
product = gumbel_density(small) * gumbel_cdf(delta + small)
combined = torch.exp(-small) * torch.exp(-torch.exp(-small) * (1 + math.exp(-delta)))
torch.testing.assert_close(product, combined)

t = torch.linspace(0, 40, 100_001, dtype=torch.float64)
over_t = torch.trapezoid(torch.exp(-t * (1 + math.exp(-delta))), t)
torch.testing.assert_close(over_t, integral, rtol=1e-6, atol=0)  # 1e-6: the error of the trapezoid rule on this grid
print("Checked: step 3 at 50 points, and both integrals of step 4 have the same value.")

# %% [markdown]
# **Step 5: integrate.** $\int_0^\infty e^{-S t}\,dt = 1/S$, here with $S = 1 + e^{-\Delta}$. The
# result is the **logistic function** $\sigma(\Delta) = 1/(1 + e^{-\Delta})$. Multiply numerator and denominator by
# $e^{r_a}$ and you see the softmax of two rewards:
#
# $$\boxed{\; p(a \succ b \mid x) = \frac{1}{1 + e^{-(r_a - r_b)}} = \sigma(r_a - r_b)
#   = \frac{e^{r_a}}{e^{r_a} + e^{r_b}} \;} \tag{3}$$
#
# This is the **Bradley–Terry model** (1952).

# %%
torch.testing.assert_close(integral, 1 / (1 + torch.exp(torch.tensor(-delta, dtype=torch.float64))), rtol=1e-6, atol=0)

r_a, r_b = torch.tensor([2.0, 0.3, -1.8]), torch.tensor([1.0, 2.0, -1.8])  # shapes (3,), axis: pair
torch.testing.assert_close(torch.sigmoid(r_a - r_b), r_a.exp() / (r_a.exp() + r_b.exp()))
print("Checked: the integral equals σ(Δ), and σ of the difference equals the ratio of exponentials.")

# %% [markdown]
# ### Exercise 1.1 · Preference probability
# *difficulty 1/5 · importance 5/5 · 5 minutes*
#
# Write equation (3) for tensors of any shape. It must also survive rewards such as 1000: no inf, no nan.


# %% tags=["exercise"]
def preference_probability(reward_a: torch.Tensor, reward_b: torch.Tensor) -> torch.Tensor:
    """Probability that answer a is preferred to answer b.

    reward_a, reward_b: rewards, the same shape (any). Returns that shape, values in [0, 1].
    """
    # BEGIN SOLUTION
    return torch.sigmoid(reward_a - reward_b)
    # END SOLUTION


# %% tags=["nbval-check-output"]
check.q1(preference_probability)

# %% tags=["student-only"]
# check.q1.hint()
# check.q1.solution()

# %% tags=["nbval-check-output"]
probability = check.q1.or_ours(preference_probability)  # your function if it is right, else ours

# %% [markdown]
# ### What one unit of reward means
#
# The **odds** of $a$ are $p/(1-p)$: "3 to 1" means $p = 3/4$. From (3), $1 - p = e^{r_b}/(e^{r_a} + e^{r_b})$.
# Divide:
#
# $$\frac{p}{1-p} = \frac{e^{r_a}}{e^{r_b}} = e^{r_a - r_b}, \qquad\text{so}\qquad \log\frac{p}{1-p} = r_a - r_b .$$
#
# **One unit of reward multiplies the odds by $e \approx 2.72$.** And since only the difference counts, the same
# constant $c$ on both rewards changes nothing:
#
# $$p(a \succ b) \text{ with } r_a + c,\; r_b + c \;=\; p(a \succ b) \text{ with } r_a,\; r_b . \tag{4}$$
#
# So a reward has no zero point. We fix one by convention: the rewards of the $K$ answers sum to 0.

# %%
p = probability(r_a, r_b)
torch.testing.assert_close(p / (1 - p), torch.exp(r_a - r_b))
torch.testing.assert_close(torch.log(p / (1 - p)), r_a - r_b, rtol=1e-5, atol=1e-6)
torch.testing.assert_close(probability(r_a + 5.0, r_b + 5.0), p)
torch.testing.assert_close(probability(r_b, r_a), 1 - p)
print("Checked: odds = exp(Δ), log-odds = Δ, a shift of both rewards by 5 changes nothing, p(b ≻ a) = 1 − p(a ≻ b).")
gaps = torch.tensor([0.0, 0.5, 1.0, 2.0, 3.0, 5.0])
print("Δ     :", "  ".join(f"{v:5.1f}" for v in gaps.tolist()))
print("p     :", "  ".join(f"{v:5.3f}" for v in probability(gaps, torch.zeros(6)).tolist()))

# %% [markdown]
# ### The scale is the noise level
#
# What if people are more or less careful? Give the noise a size $s$: $u = r + s\,g$.
#
# **Predict, then look.** The noise $s$ doubles and the rewards stay. The curve of $p$ against $r_a - r_b$
#
# - (a) becomes flatter and still passes through ½ at 0,
# - (b) shifts to the right,
# - (c) becomes steeper.

# %%
check.p1("a")  # SOLUTION

# %% [markdown]
# Dividing every utility by $s$ does not change which is larger, and leaves noise of size 1 on rewards $r/s$. So
#
# $$p(a \succ b) = \sigma\!\left(\frac{r_a - r_b}{s}\right). \tag{5}$$
#
# From comparisons alone, "rewards far apart, careless people" and "rewards close together, careful people" look the
# same. Only $r/s$ can be learned. We set $s = 1$: **the annotators' noise is the unit of reward.**

# %%
s = 2.5
share = (delta + s * gumbel_noise(n) > s * gumbel_noise(n)).double().mean()
expected = float(probability(torch.tensor(delta / s), torch.tensor(0.0)))
assert abs(float(share) - expected) < 4 * math.sqrt(expected * (1 - expected) / n)
print(f"Checked: noise {s}: simulated share {share:.4f}, equation (5) says {expected:.4f} (within 4 standard errors).")


# %%
def curve_at(noise: float) -> plt.Figure:
    """The Bradley–Terry curve at this noise level, beside the one at noise 1, with the shares of 2,000 people."""
    difference, points, none = torch.linspace(-6, 6, 121), torch.linspace(-5, 5, 11), torch.zeros(2000, 11)
    curves = {s: (difference, probability(difference / s, torch.zeros(121))) for s in (1.0, noise)}
    votes = sample_preferences((points / noise).expand(2000, 11), none, torch.Generator().manual_seed(1))
    return draw.noise_curve(curves, (points, votes.float().mean(0)))


# %% tags=["nbval-ignore-output"]
slider(curve_at, "noise", [0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0], start=2.0)

# %%
curve_at(2.0)

# %% [markdown]
# *Figure 1. Probability against the difference of rewards. Both curves pass through ½ at 0, and there the solid one
# (s = 2) is half as steep as the dashed one. The dots, shares of 2,000 simulated people, lie on the solid curve.*

# %% tags=["folded"]
# @title Check: what is said about Figure 1
near, none = torch.tensor([-0.01, 0.01]), torch.zeros(2)
steep = {size: float(probability(near / size, none).diff()) / 0.02 for size in (1.0, 2.0)}
assert abs(float(probability(none, none)[0]) - 0.5) < 1e-6 and abs(steep[2.0] / steep[1.0] - 0.5) < 1e-3
points = torch.linspace(-5, 5, 11) / 2
said = sample_preferences(points.expand(2000, 11), torch.zeros(2000, 11), torch.Generator().manual_seed(1))
p = probability(points, torch.zeros(11))
assert bool(((said.float().mean(0) - p).abs() < 4 * torch.sqrt(p * (1 - p) / 2000)).all())
print("Checked: ½ at 0, half the slope there, and each dot is within 4 standard errors of the curve.")

# %% tags=["nbval-check-output"]
check.p1.outcome()

# %% [markdown]
# ## 2 · Rankings: Plackett–Luce
#
# *This section can be left out at a first reading (40 minutes).*
#
# Annotators can rank several answers at once: four to nine for InstructGPT (Ouyang and others 2022, section 3.5). The
# same noise gives the model for it.
#
# **Who comes first?** Answer $i$ wins when all others have $g_j < r_i - r_j + g_i$. Given $g_i = g$ these events
# are independent, so their probabilities multiply. Steps 2 to 5 run as before, with a sum in the exponent:
#
# $$\Pr(i \text{ first}) = \int f(g) \prod_{j \ne i} F(r_i - r_j + g)\, dg
#   = \int_0^\infty e^{-t \left(1 + \sum_{j \ne i} e^{r_j - r_i}\right)} dt
#   = \frac{e^{r_i}}{\sum_j e^{r_j}} . \tag{6}$$
#
# That is the **softmax**. You know it as the last layer of a classifier. Here it is the share of people whose
# favourite is $i$.

# %%
rewards = true_rewards[:4].double()  # four answers, so that we can look at all 24 rankings; shape (4,)
utilities = rewards + gumbel_noise(n, 4)  # shape (n, 4), axes: person, answer
winner = utilities.argmax(dim=1)  # shape (n,)
share_first = torch.bincount(winner, minlength=4) / n
softmax = torch.softmax(rewards, dim=0)

for i in range(4):
    others = [j for j in range(4) if j != i]
    all_below = torch.stack([gumbel_cdf(rewards[i] - rewards[j] + grid) for j in others]).prod(dim=0)
    first = torch.trapezoid(gumbel_density(grid) * all_below, grid)
    torch.testing.assert_close(first, softmax[i], rtol=1e-6, atol=0)
assert ((share_first - softmax).abs() < 4 * torch.sqrt(softmax * (1 - softmax) / n)).all()
print("share of people whose favourite it is:", [f"{v:.4f}" for v in share_first.tolist()])
print("softmax of the rewards               :", [f"{v:.4f}" for v in softmax.tolist()])
print("Checked: equation (6), by the integral and by simulation.")

# %% [markdown]
# **What about second place?** Take the winner away. Is the order of the rest still a softmax, or does it matter
# that they lost? Stop the integral (6) at the height $z$, where $z$ is the utility of the winner. Utility up to $z$
# means noise $g$ up to $z - r_i$, so $t = e^{-g}$ now starts at $e^{r_i - z}$ and not at 0. With
# $S = \sum_j e^{r_j - r_i}$:
#
# $$\int_{e^{r_i - z}}^\infty e^{-S t}\, dt = \frac1S\, e^{-S\, e^{r_i - z}}, \qquad
#   S\, e^{r_i - z} = e^{-z} \sum_j e^{r_j} .$$
#
# All utilities are at most $z$ with probability $\prod_j F(z - r_j) = \exp(-e^{-z} \sum_j e^{r_j})$: the same
# exponential. So
#
# $$\Pr(i \text{ first and its utility} \le z) = \underbrace{\frac{e^{r_i}}{\sum_j e^{r_j}}}_{\Pr(i \text{ first})}
#   \cdot \underbrace{\exp\!\Big(-e^{-z} \sum_j e^{r_j}\Big)}_{\Pr(\text{highest utility} \le z)} . \tag{7}$$
#
# A product: **who** is first says nothing about **how high** the first is. In the simulation:

# %%
highest = utilities.max(dim=1).values  # shape (n,)
z = 2.5
p = float(torch.exp(-math.exp(-z) * rewards.exp().sum()))
torch.testing.assert_close(gumbel_cdf(z - rewards).prod(), torch.tensor(p, dtype=torch.float64))
assert abs(float((highest <= z).double().mean()) - p) < 4 * math.sqrt(p * (1 - p) / n)
for i in range(4):
    together = float(((winner == i) & (highest <= z)).double().mean())
    p = float(softmax[i] * torch.exp(-math.exp(-z) * rewards.exp().sum()))
    assert abs(together - p) < 4 * math.sqrt(p * (1 - p) / n)
    mean = highest[winner == i].mean()
    print(f"winner y{i}: its mean utility {mean:.3f}   Pr(first and ≤ {z}): {together:.4f}, (7) says {p:.4f}")
print("Checked: equation (7) for each of the four possible winners (within 4 standard errors).")

# %% [markdown]
# **Now build the ranking from its end.** Let $y_1 \succ y_2 \succ \dots \succ y_K$.
#
# - Begin with the last answer $y_K$ alone. There is only one order, so the order says nothing about its height.
# - Put $y_k$ on top of a group whose order says nothing about its height $M$ (the utility of its best). Whether
#   $u_k > M$, and how high $u_k$ is, depends on $u_k$ and $M$ alone. So it is independent of the order below:
#   $\Pr(\text{new order}) = \Pr(y_k \text{ first in its group}) \cdot \Pr(\text{order below})$.
# - By (7), that $y_k$ is first says nothing about how high it is. So the new order says nothing about the new
#   height, and the next answer can go on top. At the end all factors are there:
#
# $$p(y_1 \succ y_2 \succ \dots \succ y_K \mid x) = \prod_{k=1}^{K} \frac{e^{r_k}}{\sum_{j \ge k} e^{r_j}}, \qquad
#   \log p = \sum_{k=1}^{K} \Big[ r_k - \log \sum_{j \ge k} e^{r_j} \Big]. \tag{8}$$
#
# This is the **Plackett–Luce model** (Luce 1959, Plackett 1975): every place is a softmax choice among those who
# are left. (InstructGPT does not train on (8). It takes all pairs out of a ranking and uses the loss of section 3 for
# each: Ouyang and others 2022, equation 1.) Your turn.

# %% [markdown]
# ### Exercise 1.2 · Log-probability of a ranking
# *difficulty 3/5 · importance 3/5 · 15 minutes*
#
# Write $\log p$ of equation (8) for a batch of rankings. The last axis lists the rewards of the ranked answers,
# **best place first**. A loop over the places is fine. Rewards such as 1000 must not overflow.


# %% tags=["exercise"]
def plackett_luce_log_prob(rewards: torch.Tensor) -> torch.Tensor:
    """Log-probability of a ranking, in nats.

    rewards: shape (..., K), rewards[..., 0] belongs to the answer in first place. Returns shape (...).
    """
    # BEGIN SOLUTION
    log_sum_of_rest = rewards.flip(-1).logcumsumexp(-1).flip(-1)  # (..., K): log Σ_{j ≥ k} exp(r_j)
    return (rewards - log_sum_of_rest).sum(-1)
    # END SOLUTION


# %% tags=["nbval-check-output"]
check.q2(plackett_luce_log_prob)

# %% tags=["student-only"]
# check.q2.hint()
# check.q2.solution()

# %% tags=["nbval-check-output"]
ranking_log_prob = check.q2.or_ours(plackett_luce_log_prob)

# %%
rankings = torch.tensor(list(itertools.permutations(range(4))))  # shape (24, 4), axes: ranking, place
p_ranking = ranking_log_prob(rewards[rankings]).exp()  # shape (24,)

code = torch.tensor([1000, 100, 10, 1])  # a ranking as one number: 0213 is y0 ≻ y2 ≻ y1 ≻ y3
observed = utilities.argsort(dim=1, descending=True) @ code  # shape (n,)
share = torch.stack([(observed == ranking).double().mean() for ranking in rankings @ code])
assert ((share - p_ranking).abs() < 4 * torch.sqrt(p_ranking * (1 - p_ranking) / n)).all()

torch.testing.assert_close(p_ranking.sum(), torch.tensor(1.0, dtype=torch.float64))
two = ranking_log_prob(rewards[:2]).exp()
torch.testing.assert_close(two, probability(rewards[0], rewards[1]), check_dtype=False, rtol=1e-6, atol=1e-6)
y2_before_y0 = torch.tensor([list(row).index(2) < list(row).index(0) for row in rankings.tolist()])
p_20 = probability(rewards[2], rewards[0])
torch.testing.assert_close(p_ranking[y2_before_y0].sum(), p_20, check_dtype=False, rtol=1e-6, atol=1e-6)
print("Checked: equation (8) against the simulated share of all 24 rankings (within 4 standard errors);")
print("         the 24 probabilities sum to 1; with K = 2 it is Bradley–Terry;")
print("         summed over all rankings with y2 before y0 it is p(y2 ≻ y0): the other answers do not matter.")

# %% [markdown]
# The last line has a name: **independence of irrelevant alternatives**. Whether you prefer $y_2$ to $y_0$ does
# not depend on what else is on the list. The model assumes this; people need not comply. Section 6 shows another
# assumption that they need not fulfil.

# %% [markdown]
# ## 3 · The pairwise loss
#
# Now the other way round: we see comparisons and want rewards. Let $y_w$ be the winner of a comparison, $y_l$ the loser, and
# $\Delta = r_w - r_l$. The model gave the observed result the probability $\sigma(\Delta)$. **Maximum likelihood**
# says: choose the rewards that make the observed results as probable as possible. Independent comparisons multiply;
# logarithms add; minus turns "maximise" into "minimise":
#
# $$\mathcal{L} = -\frac1n \sum_{\text{pairs}} \log \sigma(r_w - r_l) \quad\text{(nats per comparison)}. \tag{9}$$
#
# To minimise it we need its derivative. First write $-\log\sigma(\Delta) = \log(1 + e^{-\Delta})$. Also note
# $\sigma'(\Delta) = e^{-\Delta} / (1 + e^{-\Delta})^2 = \sigma(\Delta)\,\sigma(-\Delta)$. By the chain rule
#
# $$\frac{d}{d\Delta}\big[-\log\sigma(\Delta)\big] = \frac{-e^{-\Delta}}{1 + e^{-\Delta}} = \frac{-1}{1 + e^{\Delta}}
#   = -\sigma(-\Delta), \qquad
#   \frac{d^2}{d\Delta^2}\big[-\log\sigma(\Delta)\big] = \sigma(\Delta)\,\sigma(-\Delta) > 0 . \tag{10}$$
#
# The slope is minus **the probability that the model gave to the other result**. A surprising pair pulls with
# nearly full strength 1, a clear pair with nearly 0. The second derivative is positive: the loss is **convex** in
# $\Delta$.

# %%
d = torch.linspace(-8, 8, 81, dtype=torch.float64, requires_grad=True)  # shape (81,), axis: margin
loss = -torch.log(torch.sigmoid(d))
torch.testing.assert_close(loss, torch.log(1 + torch.exp(-d)))
(slope,) = torch.autograd.grad(loss.sum(), d, create_graph=True)
torch.testing.assert_close(slope, -torch.sigmoid(-d))
(curvature,) = torch.autograd.grad(slope.sum(), d)
torch.testing.assert_close(curvature, (torch.sigmoid(d) * torch.sigmoid(-d)).detach())
assert (curvature > 0).all()
print("Checked: both derivatives of (10) against autograd at 81 points, and the second one is positive.")

# %%
draw.loss_and_derivatives(d.detach(), loss.detach(), slope.detach(), curvature)

# %% [markdown]
# *Figure 2. The loss falls from a straight line on the left to 0 on the right. It is log 2 ≈ 0.693 at Δ = 0. Its
# slope rises from −1 to 0, and its curvature is a small hill around 0.*
#
# Remember the number **0.693**: it is the loss of a model that has no opinion on any pair.
#
# Before you write the loss, look at what happens when you type the formula as it stands:

# %%
for value in (0.0, -10.0, -80.0, -110.0):
    d_single = torch.tensor(value, requires_grad=True)
    naive = -torch.log(torch.sigmoid(d_single))
    naive.backward()
    exact = -1 / (1 + math.exp(value))
    print(f"Δ = {value:6.0f}   as it stands: {naive:7.4g}   its gradient: {d_single.grad:6.3g}   exact: {exact:.3g}")
assert math.isinf(naive) and math.isnan(d_single.grad)  # the last row

# %% [markdown]
# At $\Delta = -110$, $\sigma(\Delta)$ rounds to 0 in 32-bit numbers. The loss is infinite and its gradient is nan; one
# step along a gradient of nan makes every weight that it touches nan. PyTorch has a function that computes $\log\sigma$ in
# one step, without this problem. Find it.
#
# ### Exercise 1.3 · The pairwise loss
# *difficulty 2/5 · importance 5/5 · 10 minutes*
#
# Write equation (9) for tensors of rewards, with one addition: a **margin** $m$ by which the winner has to lead,
# $\mathcal{L} = -\operatorname{mean} \log\sigma(r_w - r_l - m)$. Llama 2 chose a larger margin the more clearly people
# preferred the winner (Touvron and others 2023, equation 2). In the rest of the course the margin is 0. The loss and its
# gradient by both rewards must be right and finite at $\Delta = \pm 10{,}000$: this function is made for training.


# %% tags=["exercise"]
def bradley_terry_loss(
    chosen: torch.Tensor, rejected: torch.Tensor, margin: torch.Tensor | float = 0.0
) -> torch.Tensor:
    """Mean negative log-likelihood of the observed preferences, in nats.

    chosen, rejected: rewards of winner and loser, shape (B,). margin: a number, or one per pair (B,). Returns a scalar.
    """
    # BEGIN SOLUTION
    return -F.logsigmoid(chosen - rejected - margin).mean()
    # END SOLUTION


# %% tags=["nbval-check-output"]
check.q3(bradley_terry_loss)

# %% tags=["student-only"]
# check.q3.hint()
# check.q3.solution()

# %% tags=["nbval-check-output"]
pairwise_loss = check.q3.or_ours(bradley_terry_loss)

# %%
torch.testing.assert_close(pairwise_loss(r_a, r_b), torch.log(1 + torch.exp(-(r_a - r_b))).mean())
torch.testing.assert_close(pairwise_loss(r_a, r_a), torch.tensor(math.log(2)))
w = torch.tensor([-1e4], requires_grad=True)
pairwise_loss(w, torch.zeros(1)).backward()
torch.testing.assert_close(w.grad, torch.tensor([-1.0]))
print(f"Checked: equation (9) on three pairs, log 2 for equal rewards, slope {w.grad.item():.0f} at Δ = −10,000.")

# %% [markdown]
# ## 4 · Fitting rewards to comparisons
#
# Comparisons of $K$ answers fit into one table. Let $c_{ij}$ count how often $y_i$ beat $y_j$: shape $(K, K)$, axes
# winner and loser, zeros on the diagonal. How often the pair was compared is $n_{ij} = c_{ij} + c_{ji}$. The
# log-likelihood of the whole table is
#
# $$\ell(r) = \sum_{i,j} c_{ij} \log\sigma(r_i - r_j) . \tag{11}$$
#
# It is the loss (9) in another form: $\ell = -n \mathcal{L}$, with $n$ the total number of comparisons. We let our simulated
# people compare every pair 60 times.


# %%
def simulate_wins(rewards: torch.Tensor, comparisons: int) -> torch.Tensor:
    """Table (K, K): how often i beat j, when every pair is compared so often."""
    p = probability(*torch.broadcast_tensors(rewards[:, None], rewards[None, :]))  # shape (K, K)
    won = torch.binomial(torch.full_like(p, comparisons), p, generator=generator).triu(1)
    return won + (comparisons - won).triu(1).T


def log_likelihood(wins: torch.Tensor, rewards: torch.Tensor) -> torch.Tensor:
    """ℓ(r), equation (11), in nats."""
    return (wins * F.logsigmoid(rewards[:, None] - rewards[None, :])).sum()


wins = simulate_wins(true_rewards, 60)  # shape (K, K), axes: winner, loser
print(f"shape {tuple(wins.shape)}; row i: how often y_i beat y_0 … y_5")
print("\n".join(" ".join(f"{int(c):3d}" for c in row) for row in wins))

winners, losers = wins.nonzero(as_tuple=True)
repeats = wins[winners, losers].long()
as_list = pairwise_loss(*(true_rewards[who.repeat_interleave(repeats)] for who in (winners, losers)))
torch.testing.assert_close(log_likelihood(wins, true_rewards), -wins.sum() * as_list, rtol=1e-5, atol=0)  # float32
print(f"Checked: the table gives ℓ = −n L of the {int(wins.sum())} single comparisons.")

# %% [markdown]
# ### The gradient: actual wins minus expected wins
#
# **Step 1: a comparison that $i$ won against $j$** contributes $\log\sigma(r_i - r_j)$. By (10) its slope in $r_i$
# is $\sigma(r_j - r_i)$.
#
# **Step 2: a comparison that $i$ lost to $j$** contributes $\log\sigma(r_j - r_i)$. Now $r_i$ carries a minus sign:
#
# $$\frac{\partial}{\partial r_i} \log\sigma(r_i - r_j) = \sigma(r_j - r_i), \qquad
#   \frac{\partial}{\partial r_i} \log\sigma(r_j - r_i) = -\sigma(r_i - r_j) . \tag{12}$$
#
# **Step 3: add up, and use $\sigma(r_j - r_i) = 1 - \sigma(r_i - r_j)$:**
#
# $$\frac{\partial \ell}{\partial r_i} = \sum_j \big[ c_{ij}\,\sigma(r_j - r_i) - c_{ji}\,\sigma(r_i - r_j) \big]
#   = \sum_j \big[ c_{ij} - n_{ij}\, \sigma(r_i - r_j) \big] . \tag{13}$$
#
# Read it aloud: *the wins that $i$ has, minus the wins that the rewards expect it to have.* Too few expected: raise
# $r_i$.

# %%
r_i, r_j = torch.tensor(0.7, requires_grad=True), torch.tensor(-0.4)
(won,) = torch.autograd.grad(F.logsigmoid(r_i - r_j), r_i)
(lost,) = torch.autograd.grad(F.logsigmoid(r_j - r_i), r_i)
torch.testing.assert_close(won, torch.sigmoid(r_j - r_i).detach())
torch.testing.assert_close(lost, -torch.sigmoid(r_i - r_j).detach())
torch.testing.assert_close(torch.sigmoid(r_j - r_i), 1 - torch.sigmoid(r_i - r_j))
print("Checked: both slopes of (12) against autograd, and the identity used in step 3.")

# %% [markdown]
# ### Exercise 1.4 · Gradient of the log-likelihood
# *difficulty 3/5 · importance 4/5 · 10 minutes*
#
# Write equation (13) by hand, without autograd.


# %% tags=["exercise"]
def likelihood_gradient(wins: torch.Tensor, rewards: torch.Tensor) -> torch.Tensor:
    """∂ℓ/∂r_i: actual wins minus expected wins.

    wins: shape (K, K), wins[i, j] counts i beating j. rewards: shape (K,). Returns shape (K,).
    """
    # BEGIN SOLUTION
    compared = wins + wins.T
    expected = compared * torch.sigmoid(rewards[:, None] - rewards[None, :])
    return (wins - expected).sum(dim=1)
    # END SOLUTION


# %% tags=["nbval-check-output"]
check.q4(likelihood_gradient)

# %% tags=["student-only"]
# check.q4.hint()
# check.q4.solution()

# %% tags=["nbval-check-output"]
gradient_of = check.q4.or_ours(likelihood_gradient)

# %%
r = true_rewards.clone().requires_grad_()
(by_autograd,) = torch.autograd.grad(log_likelihood(wins, r), r)
torch.testing.assert_close(gradient_of(wins, true_rewards), by_autograd, rtol=1e-4, atol=1e-3)  # float32 sums of ~300
assert abs(float(gradient_of(wins, true_rewards).sum())) < 1e-3
print("Checked: equation (13) is autograd's gradient of (11); its entries sum to 0 (what one wins, another loses).")

# %% [markdown]
# ### One hill, with a flat ridge
#
# *This part can be left out, if you believe that every uphill path leads to the same top.*
#
# Differentiate (13) once more. For a pair write $\nu_{ij} = n_{ij}\,\sigma(r_i - r_j)\,\sigma(r_j - r_i) \ge 0$. The
# second derivatives form a table $H$ of shape $(K, K)$, the **Hessian**: $H_{ij} = \nu_{ij}$ for $i \ne j$, and
# $H_{ii} = -\sum_{j} \nu_{ij}$. In a direction $v$ the curvature is
# $v^\top H v = \sum_{ij} \nu_{ij} (v_i v_j - v_i^2)$. Swap the names $i$ and $j$, and take the mean of both forms:
#
# $$v^\top H v = -\tfrac12 \sum_{i,j} \nu_{ij}\,(v_i - v_j)^2 \le 0 . \tag{14}$$
#
# The log-likelihood is **concave**: every uphill path leads to the same top. The curvature is 0 only if $v_i = v_j$
# for all compared pairs, for instance for $v = (1, \dots, 1)$: that is the shift (4) which changes nothing. We stay
# on the ridge point where the rewards sum to 0.

# %%
H = torch.autograd.functional.hessian(lambda q: log_likelihood(wins.double(), q), true_rewards.double())  # shape (K, K)
difference = true_rewards[:, None].double() - true_rewards[None, :].double()
nu = (wins + wins.T).double() * torch.sigmoid(difference) * torch.sigmoid(-difference)  # shape (K, K)
torch.testing.assert_close(H, nu - torch.diag(nu.sum(1)))

v = torch.randn(6, generator=generator, dtype=torch.float64)
torch.testing.assert_close(v @ H @ v, -0.5 * (nu * (v[:, None] - v[None, :]) ** 2).sum())
eigenvalues = torch.linalg.eigvalsh(H)
assert (H @ torch.ones(6, dtype=torch.float64)).abs().max() < 1e-9 and (eigenvalues < 1e-9).all()
assert -eigenvalues.min() <= (wins + wins.T).sum(1).max() / 2  # used in the next exercise: never steeper than n_max / 2
print("Checked: (14) against autograd's second derivatives.")
print("Curvatures:", " ".join(f"{abs(float(e)):.1f}" for e in eigenvalues), "(downhill in all directions but one)")

# %% [markdown]
# ### Exercise 1.5 · Fit the rewards
# *difficulty 4/5 · importance 4/5 · 15 minutes*
#
# Climb the hill: start at zeros and go uphill along `gradient_of` until it is 0. The result must sum to 0 and be
# right to about 0.002. Any method that finds the top is right. You may assume that there is one (section 5).
#
# How large may a step be? Let $n_i = \sum_j n_{ij}$ be the number of comparisons that answer $i$ took part in, and
# $n_{\max}$ the largest of these sums.
#
# - A product $\sigma(\Delta)\,\sigma(-\Delta)$ is at most ¼, so $\nu_{ij} \le n_{ij}/4$.
# - $(v_i - v_j)^2 \le 2 v_i^2 + 2 v_j^2$, so in (14) $-v^\top H v \le \frac14 \sum_{ij} n_{ij} (v_i^2 + v_j^2)
#   = \frac12 \sum_i n_i v_i^2$.
# - For a $v$ of length 1 the curvature is therefore at most $n_{\max}/2$.
#
# A step of one over that, $2 / n_{\max}$, times the gradient never overshoots.


# %% tags=["exercise"]
def fit_strengths(wins: torch.Tensor) -> torch.Tensor:
    """Rewards that maximise the likelihood of the table; they sum to 0.

    wins: shape (K, K), wins[i, j] counts i beating j. Returns shape (K,), in reward units.
    """
    # BEGIN SOLUTION
    step_size = 2 / (wins + wins.T).sum(dim=1).max()
    rewards = torch.zeros(len(wins))
    for _ in range(2000):
        rewards = rewards + step_size * gradient_of(wins, rewards)
    return rewards
    # END SOLUTION


# %% tags=["nbval-check-output"]
check.q5(fit_strengths)

# %% tags=["student-only"]
# check.q5.hint()
# check.q5.solution()

# %% tags=["nbval-check-output"]
fit = check.q5.or_ours(fit_strengths)

# %% [markdown]
# ### Three roads to the same top
#
# Gradient ascent is one road. **Newton's method** also uses the curvature: that is what `week6.fit_bradley_terry` does.
# The third road is nearly a hundred years old (Zermelo 1929, for chess). Write
# $\omega_i = e^{r_i}$, so that $\sigma(r_i - r_j) = \omega_i / (\omega_i + \omega_j)$. Put it into (13), set (13)
# to 0, and solve for the $\omega_i$ in front:
#
# $$\sum_j c_{ij} = \sum_j n_{ij} \frac{\omega_i}{\omega_i + \omega_j} \quad\Longrightarrow\quad
#   \omega_i \leftarrow \frac{\sum_j c_{ij}}{\sum_j n_{ij} / (\omega_i + \omega_j)} . \tag{15}$$
#
# Repeat until nothing moves. Each round climbs (Hunter 2004 explains it as an **MM** algorithm: minorise, then
# maximise).

# %%
by_ascent = fit(wins)
by_newton = fit_bradley_terry(wins)

weights = torch.ones(6)  # ω_i = exp(r_i), shape (K,)
heights = [float(log_likelihood(wins.double(), weights.double().log()))]
for _ in range(500):
    rate = ((wins + wins.T) / (weights[:, None] + weights[None, :])).sum(dim=1)
    weights = wins.sum(dim=1) / rate
    heights.append(float(log_likelihood(wins.double(), weights.double().log())))
by_mm = weights.log() - weights.log().mean()

torch.testing.assert_close(by_ascent, by_newton, rtol=2e-3, atol=2e-3)
torch.testing.assert_close(by_mm, by_newton, rtol=1e-4, atol=1e-4)
assert all(later >= earlier - 1e-3 for earlier, later in itertools.pairwise(heights))  # float32 weights, |ℓ| ≈ 400
torch.testing.assert_close(gradient_of(wins, by_newton), torch.zeros(6), rtol=0, atol=1e-2)
print("answer      :", "  ".join(f"    y{i}" for i in range(6)))
for name, fitted in (("true", true_rewards), ("ascent", by_ascent), ("Newton", by_newton), ("MM (15)", by_mm)):
    print(f"{name:12s}:", "  ".join(f"{v:+6.2f}" for v in fitted.tolist()))
print("Checked: the three fits agree, MM never goes down, and at the top actual wins equal expected wins.")

# %% [markdown]
# ### How far off?
#
# The fitted rewards are not the true ones: 60 comparisons per pair are a sample. By how much do they miss?
#
# **Predict, then look.** We collect **four times** as many comparisons. The error of the fitted rewards
#
# - (a) stays,
# - (b) falls to a quarter,
# - (c) halves.

# %%
check.p2("c")  # SOLUTION

# %% [markdown]
# *The derivation of (16) can be left out.*
#
# - At the fit the gradient is 0. Close to it the gradient is a straight line with slope $H$:
#   $0 = \nabla\ell(\hat r) \approx \nabla\ell(r) + H\,(\hat r - r)$. Write $I = -H$. Then
#   $\hat r - r \approx I^{+}\, \nabla\ell(r)$, where $I^{+}$ is the inverse of $I$ away from the flat ridge (the
#   pseudo-inverse).
# - How much does $\nabla\ell(r)$ vary? $c_{ij}$ is a number of wins in $n_{ij}$ tosses of a coin: its variance is
#   $n_{ij}\, p\,(1-p) = \nu_{ij}$. One more win for $i$ is one less for $j$. So $\nabla\ell(r)$ has covariance
#   $\nu_{ij}$ times $-1$ off the diagonal and $\sum_j \nu_{ij}$ on it. That is $I$ itself.
#
# $$\operatorname{Cov}(\hat r) \approx I^{+}\, I\, I^{+} = I^{+}, \qquad
#   \text{standard error of } \hat r_i = \sqrt{(I^{+})_{ii}} . \tag{16}$$
#
# $I$ is called the **Fisher information**. Each entry is proportional to the number of comparisons.


# %%
def fisher_information(rewards: torch.Tensor, compared: torch.Tensor) -> torch.Tensor:
    """I = −H, shape (K, K): how sharply a table of so many comparisons pins the rewards down."""
    difference = rewards[:, None] - rewards[None, :]
    nu = compared * torch.sigmoid(difference) * torch.sigmoid(-difference)
    return torch.diag(nu.sum(1)) - nu


compared = 60 * (1 - torch.eye(6, dtype=torch.float64))
information = fisher_information(true_rewards.double(), compared)
gradients = torch.stack([gradient_of(simulate_wins(true_rewards, 60), true_rewards) for _ in range(4000)]).double()
worst = (gradients.T.cov() - information).abs().max() / information.diagonal().max()
inverse = torch.linalg.pinv(information)
torch.testing.assert_close(inverse @ information @ inverse, inverse)
assert worst < 0.1  # standard error of a variance from 4,000 samples: √(2/4000) = 2 %; 4 of them, and 36 entries
print("Checked: the covariance of the gradient over 4,000 simulated tables is I;")
print(f"         the largest difference is {100 * worst:.1f} % of the largest entry.")

# %%
standard_errors = torch.linalg.pinv(fisher_information(by_newton.double(), compared)).diagonal().sqrt()  # shape (K,)
assert ((by_newton - true_rewards).abs() < 3 * standard_errors).all()
draw.found_again(true_rewards, by_newton, standard_errors, int(wins.sum()))

# %% [markdown]
# *Figure 3. Fitted against true rewards of the six answers, with bars of two standard errors from (16). None is further
# than three standard errors from the diagonal.*

# %%
sizes = [20, 40, 80, 160, 320, 640]  # comparisons per pair
repeats = 40
errors, predicted = [], []
for size in sizes:
    fits = torch.stack([fit_bradley_terry(simulate_wins(true_rewards, size)) for _ in range(repeats)])  # (repeats, K)
    errors.append(float((fits - true_rewards).square().mean().sqrt()))
    covariance = torch.linalg.pinv(fisher_information(true_rewards.double(), size / 60 * compared))
    predicted.append(float(covariance.diagonal().mean().sqrt()))

draw.error_by_comparisons(sizes, errors, predicted)

# %% [markdown]
# *Figure 4. Error of the fitted rewards against the number of comparisons, both on logarithmic axes. The measured
# dots follow the dashed line, which falls by half for every factor of four.*

# %% tags=["folded"]
# @title Check: the error is as predicted
for size, measured, theory in zip(sizes, errors, predicted, strict=True):
    print(f"{size:4d} comparisons per pair: error {measured:.3f}, predicted {theory:.3f}")
# 200 squared errors (40 tables × 5 free rewards): the relative standard error of their root is 1/√400 = 5 %.
# 20 % is four of them.
assert all(abs(measured / theory - 1) < 0.20 for measured, theory in zip(errors[2:], predicted[2:], strict=True))
assert errors[0] > predicted[0]
log_n, log_error = torch.tensor(sizes).log(), torch.tensor(errors).log()
slope_of_line = float(((log_n - log_n.mean()) * log_error).sum() / (log_n - log_n.mean()).square().sum())
assert abs(slope_of_line + 0.5) < 0.1  # 4 standard errors of a slope through six such points (0.07), and the bend at 20
print(f"Checked: from 80 comparisons on as (16) predicts; the slope of the line is −½ (here {slope_of_line:.2f}).")

# %% [markdown]
# With 20 comparisons per pair the measured error lies a little above the line. There (16) is only an approximation: it
# replaces $\ell$ by a parabola, and with so few comparisons the top is often far from the true rewards.

# %% tags=["nbval-check-output"]
check.p2.outcome()

# %% [markdown]
# ### Calibration: do the probabilities mean what they say?
#
# A model is **calibrated** if, of all comparisons to which it gives 80 %, about 80 % turn out that way. We fit 30
# answers, then ask new people. And we look at two spoilt versions: rewards times 2, and rewards divided by 2.
#
# **Predict, then look.** All fitted rewards are **doubled**. On new comparisons
#
# - (a) nothing changes, since only differences matter,
# - (b) the order of the answers stays, and the loss gets worse,
# - (c) order and loss both get worse.

# %%
check.p3("b")  # SOLUTION

# %% tags=["folded"]
# @title Thirty answers, new people, and the observed shares in ten bins
many_rewards = 1.2 * torch.randn(30, generator=generator)
many_rewards -= many_rewards.mean()
fitted = fit_bradley_terry(simulate_wins(many_rewards, 40))
new_wins = simulate_wins(many_rewards, 40)  # the same answers, new people

first, second = torch.triu_indices(30, 30, 1)  # each of the 435 pairs once; shapes (435,)
pairs_won = new_wins[first, second]  # shape (435,): how often the first was preferred, of 40
bins = torch.linspace(0, 1, 11)


def reliability(rewards: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean predicted probability, observed share and its standard error in ten bins of the prediction; shapes (10,)."""
    p = probability(rewards[first], rewards[second])
    bin_of = torch.bucketize(p, bins[1:-1])
    n_bin = torch.bincount(bin_of, minlength=10)
    mean_p = torch.bincount(bin_of, weights=p, minlength=10) / n_bin
    observed = torch.bincount(bin_of, weights=pairs_won / 40, minlength=10) / n_bin
    return mean_p, observed, torch.sqrt(observed * (1 - observed) / (40 * n_bin))


def loss_on_new(rewards: torch.Tensor) -> float:
    """The loss (9) on the new comparisons, in nats."""
    return float(-log_likelihood(new_wins, rewards) / new_wins.sum())


# %%
scaled = {f"fitted rewards × {c:g}: loss {loss_on_new(c * fitted):.3f}": c * fitted for c in (1.0, 2.0, 0.5)}
draw.calibration({name: reliability(rewards) for name, rewards in scaled.items()}, "Calibration on new comparisons")

# %% [markdown]
# *Figure 5. Observed share against predicted probability in ten bins. The fitted rewards lie on the diagonal.
# Doubled rewards are too sure: too flat, below the diagonal on the right. Halved rewards are not sure enough: too
# steep.*

# %% tags=["folded"]
# @title Check: calibration, loss and order of the three versions
mean_p, observed, error = reliability(fitted)
assert ((observed - mean_p).abs() < 4 * error + 0.01).all()  # 0.01: the fit itself comes from a sample
for scale, side in ((2.0, -1), (0.5, 1)):  # too sure: nearer to ½ than predicted; not sure enough: further from it
    predicted_p, seen, _ = reliability(scale * fitted)
    away = (predicted_p - 0.5).abs() > 0.1
    assert (side * ((seen - predicted_p) * (predicted_p - 0.5).sign())[away] > 0).all()
assert loss_on_new(fitted) < loss_on_new(2 * fitted) and loss_on_new(fitted) < loss_on_new(0.5 * fitted)
orders = [(c * (fitted[first] - fitted[second]) > 0) == (pairs_won > 20) for c in (1, 2, 0.5)]  # shape (435,) each
assert torch.equal(orders[0], orders[1]) and torch.equal(orders[0], orders[2])
print("Checked: the fit is calibrated in every bin; both spoilt versions have a higher loss;")
print(f"         all three order {100 * float(orders[0].float().mean()):.0f} % of the pairs as the majority did.")

# %% [markdown]
# All three versions rank the answers in the same way, so their accuracy is the same. Only the loss sees that two of
# them have the wrong scale. **Accuracy is about order, loss is about order and scale.** Keep this for notebook 02.

# %% tags=["nbval-check-output"]
check.p3.outcome()

# %% [markdown]
# ## 5 · When there is no best fit
#
# Suppose $y_0$ beat $y_1$ in all of 12 comparisons.
#
# **Predict, then look.** What does gradient ascent do with the gap $r_0 - r_1$?
#
# - (a) It stops where $p$ equals $12/12$.
# - (b) It grows at a constant rate.
# - (c) It grows for ever, more and more slowly.

# %%
check.p4("c")  # SOLUTION

# %% [markdown]
# The log-likelihood is $\ell = 12 \log\sigma(r_0 - r_1)$: the larger the gap, the higher. Let us climb it.


# %%
def climb(wins: torch.Tensor, l2: float, steps: int = 10_000, step_size: float = 0.05) -> torch.Tensor:
    """Gap r_0 − r_1 along gradient ascent on ℓ(r) − (l2 / 2) Σ r_i², shape (steps,)."""
    rewards, gaps = torch.zeros(2, dtype=torch.float64), []
    for _ in range(steps):
        rewards = rewards + step_size * (gradient_of(wins, rewards) - l2 * rewards)
        gaps.append(float(rewards[0] - rewards[1]))
    return torch.tensor(gaps)


unbeaten = torch.tensor([[0.0, 12.0], [0.0, 0.0]], dtype=torch.float64)
free, penalised = climb(unbeaten, 0.0), climb(unbeaten, 0.5)

draw.gap_by_steps({"no penalty: never arrives": free, "with the penalty l2 = 0.5": penalised})

# %% [markdown]
# *Figure 6. The gap against the step, with a logarithmic axis for the steps. Without penalty it rises along a
# straight line with no end; with a penalty on large rewards, equation (18) below, it levels off at about 2.8.*
#
# The slope of $\ell$ in the gap is $12\,\sigma(-\Delta) \approx 12\, e^{-\Delta}$, so each step
# is smaller than the one before. Both rewards move, each by the step size $\eta$ times this slope: $\Delta$ grows
# by $24\,\eta\,e^{-\Delta}$ a step. Then $e^{\Delta}$ grows by about
# $e^{\Delta} \cdot 24\,\eta\,e^{-\Delta} = 24\,\eta$ a step, so after $k$ steps
#
# $$\Delta \approx \log(24\,\eta\,k) . \tag{17}$$
#
# Twice the steps add $\log 2$. The gap that you read off depends on when you stop. **That number is not a property of
# the answers.**

# %%
for k in (1_000, 5_000, 10_000):
    assert abs(float(free[k - 1]) - math.log(24 * 0.05 * k)) < 0.02
assert abs(float(free[9_999] - free[4_999]) - math.log(2)) < 1e-3
added = float(free[9_999] - free[4_999])
print(f"Checked (17) at 1,000, 5,000 and 10,000 steps; the last 5,000 added {added:.4f}, log 2 is {math.log(2):.4f}.")
try:
    fit_bradley_terry(unbeaten)
    raise AssertionError("expected an error: this table has no finite fit")
except ValueError as error:
    print("week6.fit_bradley_terry refuses:", error)
assert abs(float(penalised[-1]) - 2.8) < 0.05

# %% tags=["nbval-check-output"]
check.p4.outcome()

# %% [markdown]
# ### The rule: every group must lose once
#
# Draw an arrow from winner to loser for every win. **Ford (1957): there is one finite best fit (up to a common
# shift) exactly when you can travel along the arrows from every answer to every other.**
#
# - *Why necessary.* Suppose a group $G$ never lost to the others. Add $c > 0$ to all rewards in $G$. Comparisons
#   inside $G$, or outside, do not change. Those across were all won by $G$, and become more probable. So $\ell$
#   keeps rising with $c$ and never reaches a top. Or, if the groups never met, it stays the same, and any gap fits
#   equally well.
# - *Why sufficient.* Let the rewards run apart. Then somewhere between an upper and a lower group a gap opens. Some
#   arrow leads from the lower group up: a win against the gap. Its $\log\sigma(-\text{gap})$ falls to $-\infty$. So
#   $\ell$ falls in every direction but the common shift, and a concave hill that falls on all sides has a top.
#
# Look at three cases with three answers: raise a group by $c$ and watch $\ell$.

# %% tags=["folded"]
# @title Raise a group of answers in three tables
together, never_lost, never_met = torch.zeros(3, 3, 3)  # three tables of shape (3, 3)
together[[0, 1, 1, 2], [1, 0, 2, 1]] = torch.tensor([4.0, 1.0, 3.0, 2.0])  # wins in both directions between neighbours
never_lost[[0, 1, 0], [1, 0, 2]] = torch.tensor([4.0, 1.0, 3.0])  # y_0 beat y_2, and y_2 beat nobody
never_met[[0, 1], [1, 0]] = torch.tensor([4.0, 1.0])  # y_2 was never compared
raised = torch.tensor([1.0, 1.0, 0.0])  # the group {y_0, y_1}
for name, table in (("together", together), ("never lost", never_lost), ("never met", never_met)):
    levels = [float(log_likelihood(table, c * raised)) for c in (0.0, 5.0, 10.0, 20.0)]
    print(f"{name:<10} {{y0, y1}} raised by 0, 5, 10, 20: ℓ =", "  ".join(f"{level:7.2f}" for level in levels))
    if name == "together":
        assert levels[1] > levels[2] > levels[3]
    elif name == "never lost":
        assert levels[0] < levels[1] < levels[2] <= levels[3]
    else:
        assert max(levels) - min(levels) < 1e-5
print("Checked: ℓ falls where a win leads back up, rises on where the group never lost, and stays where none met it.")

# %% [markdown]
# ### Exercise 1.6 · Which tables have one finite best fit?
# *difficulty 3/5 · importance 3/5 · 10 minutes*
#
# Here are five tables. Draw the arrows on paper. Give the set of names of all tables that have one finite best
# fit (up to a common shift), for instance `{"B", "C"}`.

# %%
tables = check.TABLES  # tables["A"][i, j] counts i beating j
for name, table in tables.items():
    arrows = [f"{i}→{j} (×{int(table[i, j])})" for i, j in table.nonzero().tolist()]
    print(f"{name}: {len(table)} answers, wins:", "  ".join(arrows))

# %% tags=["exercise"]
finite = {"A", "E"}  # SOLUTION

# %% tags=["nbval-check-output"]
check.q6(finite)

# %% tags=["student-only"]
# check.q6.hint()
# check.q6.solution()


# %% tags=["folded"]
# @title Check: the package fits these tables, and no others
def has_finite_fit(wins: torch.Tensor) -> bool:
    """Whether the package finds one finite best fit (it checks Ford's condition)."""
    try:
        fit_bradley_terry(wins)
    except ValueError:
        return False
    return True


finite_tables = check.q6.or_ours(finite)
assert {name for name, table in tables.items() if has_finite_fit(table)} == finite_tables
print("Checked: week6.fit_bradley_terry fits exactly the tables named in the answer, and refuses the others.")

# %% [markdown]
# ### What regularisation does
#
# A penalty on large rewards gives every table a finite fit, since $\ell \le 0$ and the penalty grows without end:
#
# $$\text{maximise}\quad \ell(r) - \frac{\tau}{2} \sum_i r_i^2 . \tag{18}$$
#
# (In code $\tau$ is called `l2`.) It is more than a trick. If rewards are normally distributed with mean 0 and variance
# $1/\tau$ *before* we see any comparison, then (18) is, up to a constant, the logarithm of the probability of the rewards
# *after* we saw the table (Bayes' rule). The penalty is a belief: "a reward of 10 is improbable".

# %%
l2 = 0.5
two_candidates = torch.randn(2, 2, generator=generator, dtype=torch.float64)
prior = torch.distributions.Normal(0.0, l2**-0.5)
objective = [log_likelihood(unbeaten, r) - l2 / 2 * r.square().sum() for r in two_candidates]
posterior = [log_likelihood(unbeaten, r) + prior.log_prob(r).sum() for r in two_candidates]
torch.testing.assert_close(objective[0] - objective[1], posterior[0] - posterior[1])

top = fit_bradley_terry(unbeaten, l2=l2)
assert (gradient_of(unbeaten, top) - l2 * top).abs().max() < 1e-5
torch.testing.assert_close(top[0] - top[1], penalised[-1].double(), rtol=1e-5, atol=0)
print("Checked: (18) and the log of the posterior differ by a constant;")
print(f"         the penalised gradient is 0 at a gap of {top[0] - top[1]:.3f}, where Figure 6 levels off.")

# %% [markdown]
# **Predict, then look.** Only two comparisons per pair. The fitted rewards are closest to the true ones with
#
# - (a) a moderate penalty,
# - (b) the weakest penalty, which changes the data least,
# - (c) the strongest penalty, which is safest.

# %%
check.p5("a")  # SOLUTION

# %%
penalties = [0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0]
few = [simulate_wins(true_rewards, 2) for _ in range(60)]  # two comparisons per pair: 30 in all
error_of = [
    float(torch.stack([fit_bradley_terry(table, l2=l2) - true_rewards for table in few]).square().mean().sqrt())
    for l2 in penalties
]
best = penalties[error_of.index(min(error_of))]
assert 0.5 < best * float(true_rewards.var()) < 2  # near the belief that is true here
assert error_of[0] > 1.2 * min(error_of) and error_of[-1] > 1.2 * min(error_of)
print(f"Checked: the error is at least 20 % larger at both ends than at the best penalty, l2 = {best}.")
draw.error_by_penalty(penalties, error_of, expected=1 / float(true_rewards.var()))

# %% [markdown]
# *Figure 7. Error against the strength of the penalty (logarithmic). A valley: too weak leaves wild rewards, too
# strong presses all rewards to zero. The lowest of the points is within a factor of two of one over the variance of the
# true rewards (dotted line), the belief in (18) that is true here.*

# %% tags=["nbval-check-output"]
check.p5.outcome()

# %% [markdown]
# ## 6 · What Bradley–Terry cannot say
#
# Give everything one number, and preferences cannot run in a circle. By (3) the log-odds are differences, and
# around a circle differences cancel:
#
# $$\log\frac{p_{ab}}{1-p_{ab}} + \log\frac{p_{bc}}{1-p_{bc}} + \log\frac{p_{ca}}{1-p_{ca}}
#   = (r_a - r_b) + (r_b - r_c) + (r_c - r_a) = 0 . \tag{19}$$
#
# A group of people can run in a circle. Three annotators, three answers, and each annotator has a clear order:

# %%
orders = {"Ann (likes detail)": "ABC", "Ben (likes brevity)": "BCA", "Cem (likes warmth)": "CAB"}
votes = {a + b: sum(order.index(a) < order.index(b) for order in orders.values()) for a, b in ("AB", "BC", "CA")}
for name, order in orders.items():
    print(f"{name}: {' ≻ '.join(order)}")
print("votes:", ", ".join(f"{pair[0]} over {pair[1]}: {count} of 3" for pair, count in votes.items()))
assert all(count == 2 for count in votes.values())

three = torch.randn(3, generator=generator, dtype=torch.float64)
p_around = probability(three, three.roll(-1))  # p(a ≻ b), p(b ≻ c), p(c ≻ a); shape (3,)
assert abs(float(torch.log(p_around / (1 - p_around)).sum())) < 1e-9
circle = torch.full((3,), 2 / 3, dtype=torch.float64)
assert float(torch.log(circle / (1 - circle)).sum()) > 2.0
print("Checked: around any circle Bradley–Terry's log-odds sum to 0; for these votes they sum to 3 log 2 ≈ 2.08.")

# %% [markdown]
# Each person is consistent, the majority is not: **Condorcet's paradox** (1785). What does the fit make of it?
#
# **Predict, then look.** $A$ beats $B$, $B$ beats $C$, $C$ beats $A$, each in 80 of 100 comparisons. The fitted
# rewards are
#
# - (a) $A$ highest, $C$ lowest,
# - (b) all equal,
# - (c) not finite.

# %%
check.p6("b")  # SOLUTION

# %%
cyclic = torch.tensor([[0.0, 80, 20], [20, 0, 80], [80, 20, 0]], dtype=torch.float64)
flat = fit_bradley_terry(cyclic)
model_loss = float(-log_likelihood(cyclic, flat) / cyclic.sum())
print("fitted rewards:", " ".join(f"{abs(v):.3f}" for v in flat.tolist()), f"   loss {model_loss:.4f} nats")
assert flat.abs().max() < 1e-9 and abs(model_loss - math.log(2)) < 1e-9
print("Checked: all rewards are 0 and the loss is log 2: the model has no opinion, although the people have one.")

# %% [markdown]
# Each answer has 100 wins in 200 comparisons, as many as equal rewards expect, so (13) is 0 at once. How much is lost?
# Let people prefer $a$ with probability $p$ and the model say $q$. Split the loss, by adding and subtracting
# $p\log p + (1-p)\log(1-p)$:
#
# $$\underbrace{-p\log q - (1-p)\log(1-q)}_{\text{loss of the model}} =
#   \underbrace{-p\log p - (1-p)\log(1-p)}_{\text{entropy: noise of people}}
#   + \underbrace{\mathrm{KL}(p \,\|\, q)}_{\text{error of the model}} . \tag{20}$$
#
# Only the KL part is the model's fault. It is never negative, so no model gets below the entropy.
# ($\mathrm{KL}(p\|q) = p\log\frac pq + (1-p)\log\frac{1-p}{1-q}$, zero when $q = p$; notebook 03 is about it.)

# %%
people = torch.tensor([0.8, 0.2], dtype=torch.float64)  # shape (2,): a preferred, b preferred
model = torch.tensor([0.5, 0.5], dtype=torch.float64)
entropy = float(-(people * people.log()).sum())
divergence = float(kl_divergence(people.log(), model.log()))
assert abs(divergence - (0.8 * math.log(0.8 / 0.5) + 0.2 * math.log(0.2 / 0.5))) < 1e-12
assert abs(model_loss - (entropy + divergence)) < 1e-9
print(f"Checked (20): loss {model_loss:.4f} = entropy {entropy:.4f} + KL {divergence:.4f} nats.")

better_worse = torch.linspace(-2, 2, 41, dtype=torch.float64)
others = [
    float(-log_likelihood(cyclic, torch.tensor([a, b, -a - b], dtype=torch.float64)) / cyclic.sum())
    for a in better_worse
    for b in better_worse
]
assert min(others) >= model_loss - 1e-9
print(f"Checked: none of {len(others):,} other choices of three rewards has a lower loss.")

# %%
draw.circle(["A ≻ B", "B ≻ C", "C ≻ A"], [0.8] * 3, probability(flat, flat.roll(-1)))

# %% [markdown]
# *Figure 8. For each pair of the circle, people prefer the first answer with 0.8. The best Bradley–Terry fit says
# 0.5 for all three.*

# %% tags=["nbval-check-output"]
check.p6.outcome()

# %% [markdown]
# A reward model trained on the comparisons of many people averages them in the same way, and does not show that people
# disagree. Advice: when the loss of a reward model stays above what you hoped for, ask whether it is noise (entropy), too
# little training, or taste that no single number can express.

# %% [markdown]
# ## Asked every year
#
# **"Why Gumbel noise and not the bell curve?"** Thurstone (1927) took the bell curve. Then
# $p = \Phi(\Delta / (\text{a constant}))$, with $\Phi$ the normal distribution function. With the best constant,
# about 1.70, the two curves are never further apart than one percentage point. You would need thousands of
# comparisons of a single pair to tell them apart.

# %%
d = torch.linspace(-10, 10, 2001, dtype=torch.float64)
gap = (torch.sigmoid(d) - torch.special.ndtr(d / 1.702)).abs().max()
assert gap < 0.01
others = [float((torch.sigmoid(d) - torch.special.ndtr(d / (1.702 + e))).abs().max()) for e in (-0.01, 0.01)]
assert gap < min(others)  # no better constant near by
comparisons_needed = 0.25 / float(gap) ** 2
assert comparisons_needed > 2000
print(
    f"Checked: largest gap {gap:.4f}; a standard error as small needs {comparisons_needed:,.0f} comparisons of one pair."
)

# %% [markdown]
# **"Chess uses Elo points, and so did Chatbot Arena. Are they rewards?"** Yes, in other units. Elo says
# $p = 1/(1 + 10^{-(R_a - R_b)/400})$. Compare with (3): $R = \frac{400}{\ln 10}\, r + \text{const}$. One unit of
# reward is 174 Elo points.

# %%
elo = 400 / math.log(10) * true_rewards.double() + 1000  # shape (K,)
expected_score = 1 / (1 + 10 ** (-(elo[:, None] - elo[None, :]) / 400))  # shape (K, K)
torch.testing.assert_close(expected_score, torch.sigmoid(difference))  # shape (K, K): r_i − r_j
print(f"Checked: Elo's expected score is (3) for all 36 pairs. One reward unit = {400 / math.log(10):.1f} points.")

# %% [markdown]
# **"May I compare the reward of an answer to one prompt with the reward of an answer to another?"** No. Every
# comparison is between answers to the *same* prompt. Add any number $f(x)$ to all rewards of a prompt, another for
# each prompt, and the loss does not notice. Only differences *within* a prompt were learned.

# %%
chosen, rejected, f = torch.randn(3, 50, generator=generator) * torch.tensor([[1.0], [1.0], [10.0]])  # 50 prompts each
unshifted = pairwise_loss(chosen, rejected)
torch.testing.assert_close(pairwise_loss(chosen + f, rejected + f), unshifted, rtol=1e-5, atol=1e-6)
assert not torch.allclose(pairwise_loss(chosen + f, rejected), unshifted, rtol=1e-2)
print("Checked: a shift of its own for each of 50 prompts leaves the loss unchanged; of one answer alone it does not.")

# %% [markdown]
# ## 7 · Build it: a fit that knows when to stop
#
# In exercise 1.5 you climbed for a fixed number of rounds. How many are enough? That depends on the table. And real tables
# have ties, and groups that never met. Now build a fit that copes with all of it.
#
# ### Exercise 1.7 · Capstone: a fit that knows when to stop
# *difficulty 4/5 · importance 4/5 · 40 minutes*
#
# **Given** are `wins` as before; `ties`, where `ties[i, j] = ties[j, i]` counts the comparisons of $i$ and $j$ that ended
# in a tie; the penalty `l2` of (18); and a `tolerance`.
#
# **Wanted** are the rewards at the top of (18), where a tie counts as half a win for each of the two. Any method is
# welcome: gradient ascent (a step of $1 / (n_{\max}/2 + \tau)$ does not overshoot, $\tau = 0$ included; $n_{\max}$ is now
# from the counts with ties), Newton's method, or (15) where there is no penalty. Stop when no entry of the gradient of (18)
# is larger than `tolerance`, sign aside. Where no finite best fit exists, say so and do not search for it. Half a win is an
# arrow for Ford's rule, too.
#
# **It is judged** by what it finds on two dozen tables for each of three seeds. Among them: two groups with a single
# pair between them, which makes the way up long; a group that never lost, with and without a penalty; a group that is
# held by a tie only. Your rewards must be less than 0.01 nats below the top, your gradient within the tolerance, and a
# looser tolerance (1 instead of 0.001) must take fewer rounds. The check takes a few seconds (up to a minute on a slow
# machine). It looks at unfinished code, too: return the parts that you have.


# %% tags=["exercise"]
def fit_until(wins: torch.Tensor, ties: torch.Tensor, l2: float, tolerance: float) -> dict:
    """The maximum of (18), ties as half wins: {"counts": …, "finite": …, "rewards": …, "rounds": …}.

    wins, ties: float64, shape (K, K). counts: wins with half of the ties, shape (K, K). finite: whether there is one
    finite best fit (if not: no rewards, no rounds). rewards: shape (K,), they sum to 0. rounds: the number of updates.
    """
    # 1. counts: each tie is half a win for i and half a win for j.
    # 2. finite: with a penalty always; without one by Ford's rule, along the arrows of the counts.
    # 3. rewards: start at zeros and climb; the gradient of (18) is (13) with one term more.
    # 4. Stop as soon as the largest entry of the gradient, without its sign, is at most the tolerance; count the updates.
    # BEGIN SOLUTION
    counts = wins + ties / 2
    reach = (counts > 0) | torch.eye(len(counts), dtype=torch.bool)  # [i, j]: whether the arrows lead from i to j
    for _ in range(len(counts)):
        reach = (reach.double() @ reach.double()) > 0
    found = {"counts": counts, "finite": l2 > 0 or bool(reach.all())}
    if not found["finite"]:
        return found
    compared = counts + counts.T
    step_size = 1 / (compared.sum(dim=1).max() / 2 + l2)
    rewards = torch.zeros(len(counts), dtype=counts.dtype)
    rounds = 0
    while True:
        expected = compared * torch.sigmoid(rewards[:, None] - rewards[None, :])
        gradient = (counts - expected).sum(dim=1) - l2 * rewards
        if gradient.abs().max() <= tolerance:
            return found | {"rewards": rewards, "rounds": rounds}
        rewards = rewards + step_size * gradient
        rounds += 1
    # END SOLUTION


# %% tags=["nbval-ignore-output"]
check.capstone(fit_until)

# %% tags=["student-only"]
# check.capstone.hint()
# check.capstone.solution()

# %% tags=["nbval-check-output"]
own_fit = check.capstone.or_ours(fit_until)

# %%
no_ties = torch.zeros(6, 6, dtype=torch.float64)
mine = own_fit(wins.double(), no_ties, 0.0, 1e-3)
torch.testing.assert_close(torch.as_tensor(mine["rewards"]).double(), by_newton.double(), rtol=0, atol=2e-3)
assert check.TOP_GAP == 0.01 and not own_fit(unbeaten, torch.zeros(2, 2, dtype=torch.float64), 0.0, 1e-3)["finite"]
print("Checked: the table of section 4 gets the rewards of Newton's method, and y0 of section 5 gets none.")

# %% [markdown]
# ## 8 · An open experiment: how careful should annotators be?
#
# You know the scale of true rewards from elsewhere, and you can choose your annotators: careful ones, whose noise $s$ in (5)
# is small, or careless ones. Each of the 15 pairs is compared ten times. From the table you fit $r/s$, with the penalty (18)
# that belongs to the true spread of the rewards, and multiply by $s$: then all fits have the same unit, and you can ask how
# far they are from the true rewards.
#
# `ask_annotators(noise, seed)` does that twenty times and gives two numbers: the error of the rewards (root mean square)
# and the share of the pairs in the right order. Choose six values of the noise from 0.1 to 10, three seeds each. **The
# question:** which annotators would you hire, to find the order, and to find the distances? Why not the same?


# %%
def ask_annotators(noise: float, seed: int) -> tuple[float, float]:
    """(error of the rewards, share of the pairs in the right order), means of twenty tables."""
    g = torch.Generator().manual_seed(seed)
    p = torch.sigmoid((true_rewards[:, None] - true_rewards[None, :]) / noise)  # shape (K, K)
    errors, shares = [], []
    for _ in range(20):
        won = torch.binomial(torch.full_like(p, 10), p, generator=g).triu(1)  # ten comparisons a pair
        table = won + (10 - won).triu(1).T
        fitted = noise * fit_bradley_terry(table, l2=noise**2 / float(true_rewards.var()))
        errors.append(float((fitted - true_rewards).square().mean().sqrt()))
        pairs = torch.triu_indices(6, 6, 1)  # the true rewards fall from y0 to y5
        shares.append(float((fitted[pairs[0]] > fitted[pairs[1]]).float().mean()))
    return sum(errors) / 20, sum(shares) / 20


# %% tags=["exercise"]
def measure_annotators() -> dict[float, list[tuple[float, float]]]:
    """For each of your values of the noise the results of three seeds."""
    # BEGIN SOLUTION
    return {noise: [ask_annotators(noise, seed) for seed in range(3)] for noise in (0.1, 0.2, 0.5, 1.0, 2.0, 10.0)}
    # END SOLUTION


# %%
def show_table(rows: dict[float, list[tuple[float, float]]]) -> None:
    """Mean over the seeds and half of their range, a line for each noise."""
    print("noise   error of the rewards   pairs in the right order")
    for noise, values in rows.items():
        error, share = (f"{sum(c) / len(c):.2f} ± {(max(c) - min(c)) / 2:.2f}" for c in zip(*values, strict=True))
        print(f"{noise:<5}   {error:<20}   {share}")


# %% tags=["student-only"]
# show_table(measure_annotators())

# %% tags=["solution-only"]
measured = measure_annotators()
show_table(measured)

# %% [markdown] tags=["solution-only"]
# **Our answer.** For the order: the most careful ones, who put all pairs in the right order. For the distances: neither the
# most careful nor the most careless, but those whose noise is a fraction of the distances to be measured. An annotator who
# never errs says ten times out of ten that $y_0$ is better than $y_1$, and ten of ten again for $y_0$ against $y_5$: the two tables
# look alike, and only the penalty decides how far apart the rewards are. It is the *errors* that measure: how often
# people err tells how close two answers are. With much noise the errors tell it too, but too vaguely for ten comparisons.
# (Electronics uses the same effect, dither: a little noise before a coarse measurement; Schuchman 1964.)

# %% tags=["solution-only"]
mean = {noise: torch.tensor(rows).mean(0) for noise, rows in measured.items()}  # shape (2,): error, share in order
assert mean[0.1][1] > 0.99 and all(later[1] <= mean[0.1][1] for later in mean.values())
assert mean[0.2][0] < 0.6 * mean[0.1][0] and mean[0.2][0] < 0.6 * mean[2.0][0] and mean[10.0][0] > mean[2.0][0]
certain = torch.sigmoid((true_rewards[0] - true_rewards[[1, 5]]) / 0.1)  # y0 against y1, and against y5
assert bool((certain**10 > 0.99).all())
print("Checked: noise of 0.1 has the best order, and an error at least two thirds larger than noise of 0.2.")
print("Checked: at 0.1, y0 wins ten of ten against y1, and against y5, in 99 % of the tables.")

# %% [markdown]
# ## What we showed
#
# - Noisy utilities with Gumbel noise give $p(a \succ b) = \sigma(r_a - r_b)$. One unit of reward multiplies the
#   odds by $e$. There is no zero point, and the unit is the annotators' noise.
# - The same noise gives rankings: a softmax choice among those who are left.
# - The loss is $-\log\sigma(r_w - r_l)$. Its slope is minus the probability of the other result. It is convex.
# - At the best fit, actual wins equal expected wins. The error falls as $1/\sqrt n$, and we know its size before we
#   measure it.
# - A group that never loses has no finite reward. A penalty, which is a belief about rewards, gives it one.
# - Circles cannot be expressed. The loss then stays above the entropy by exactly a KL divergence.
# - A gradient near 0 says that a fit has arrived; a number of rounds, or a small step, does not.
#
# ## To think about
#
# 1. Your annotators are replaced by more careful ones, with half the noise. You fit again. What happens to the
#    rewards, and what to their order?
# 2. You can pay for 100 more comparisons. The best and the worst answer, or two answers that are close: which pair
#    teaches you more? When is the other choice better?
# 3. Exercise 1.7 counts a tie as half a win for each. What does the loss (9) of a tied pair become, and where is it
#    lowest? What would you lose by asking annotators never to say "tie"?

# %% [markdown] tags=["solution-only"]
# **Answers.**
#
# 1. By (5) only $r/s$ can be learned. Half the noise doubles all fitted rewards. The order stays. (So never compare
#    the size of rewards between two data sets.)
# 2. One comparison adds $\sigma(\Delta)\sigma(-\Delta)$ to the information (16): most at $\Delta = 0$, almost
#    nothing for a pair with a clear winner. So take the close pair. But if two groups of answers are linked only by
#    few comparisons, or all won by one side, comparisons *across* the groups are worth more: without them the gap
#    between the groups is not known at all.
# 3. $\mathcal{L} = -\frac12\log\sigma(\Delta) - \frac12\log\sigma(-\Delta)$, lowest at $\Delta = 0$: a tie pulls the two
#    rewards together. Without ties the undecided must toss a coin. Half a win for each is what the coin gives on average,
#    so the fit is the same on average, with more noise. (Rao and Kupper 1967 and Davidson 1970 extend the model: a tie
#    gets a probability of its own.)

# %% [markdown]
# ## Where it goes next
#
# Six answers to one prompt have six numbers. A chatbot has endlessly many prompts and answers. **Notebook 02**
# replaces the table of rewards $r_i$ by a function $r_\phi(x, y)$: a language model with one output number, trained
# with the very loss you wrote here.
#
# ## References
#
# - E. Zermelo (1929), *Die Berechnung der Turnier-Ergebnisse als ein Maximumproblem der
#   Wahrscheinlichkeitsrechnung*.
# - L. L. Thurstone (1927), *A law of comparative judgment*.
# - N. de Condorcet (1785), *Essai sur l'application de l'analyse à la probabilité des décisions rendues à la pluralité
#   des voix*.
# - R. A. Bradley, M. E. Terry (1952), *Rank analysis of incomplete block designs: I. The method of paired
#   comparisons*.
# - L. Schuchman (1964), *Dither signals and their effect on quantization noise*.
# - L. R. Ford Jr. (1957), *Solution of a ranking problem from binary comparisons*.
# - P. V. Rao, L. L. Kupper (1967), *Ties in paired-comparison experiments: a generalization of the Bradley–Terry model*;
#   R. R. Davidson (1970), *On extending the Bradley–Terry model to accommodate ties in paired comparison experiments*.
# - R. D. Luce (1959), *Individual choice behavior*; R. L. Plackett (1975), *The analysis of permutations*.
# - D. R. Hunter (2004), *MM algorithms for generalized Bradley–Terry models*.
# - L. Ouyang and others (2022), *Training language models to follow instructions with human feedback*
#   (InstructGPT), arXiv 2203.02155.
# - H. Touvron and others (2023), *Llama 2: open foundation and fine-tuned chat models*, arXiv 2307.09288.
