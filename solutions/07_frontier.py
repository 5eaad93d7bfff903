# %% [markdown]
# # 07 · One frontier: PPO, DPO, best-of-n and the optimum
#
# "Which is better, PPO or DPO?" The question has no answer as it stands. Each of them has a leash, β, and moves along
# a *curve* as you change it. So we draw the curves into one picture: how much reward, for how many nats of distance?
# In the exact world there is one more curve in it, the optimum, and nothing may lie above it.

# %% [markdown]
# ## What you will be able to do
#
# - Compare methods fairly: reward against KL, several β each, several seeds, bars on every point.
# - Prove in two lines that no policy lies above the frontier, and read a policy's distance to the optimum off the plot.
# - Say how sure a win rate is, and why "90 % of 20 comparisons" is not much.
# - Recognise over-optimisation, fit the curves of Gao et al. (2022), and say where the gold reward turns down.
# - Say what each method costs.
# - Make a frontier from runs of your own, with intervals and an honest report.
#
# **You need:** notebooks 03 to 06. **Time:** {minutes} minutes of work; the cells run in about two minutes on a laptop CPU. The runs
# behind the plots take much longer, so their numbers are recorded, and one point is made again before your eyes. (With
# a GPU that one point comes from GPT-2-small on film reviews. It is then not compared with the tables, which belong to
# the embedded chatbot.) Section 4 can be left out without loss for the next notebook, and so can section 8.

# %% tags=["folded"]
# @title Imports
import copy
import dataclasses
import itertools
import math
from dataclasses import replace
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from IPython.display import display
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm.auto import tqdm

from week6 import best_of_n_kl_bound, optimal_policy
from week6.checks import nb07 as check
from week6.classroom.lesson import lesson
from week6.dpo import DPOConfig, train_dpo
from week6.exact import small_world, train_exact_dpo
from week6.group import GRPOConfig, train_grpo
from week6.machine.optim import generator_for, make_optimizer
from week6.objective import best_of_n_policy
from week6.pictures import comparison, plots
from week6.pictures.figures import roadmap
from week6.pictures.frontier import fit_gao, reward_at
from week6.recorded import recorded, recorded_summary
from week6.reward_model import score
from week6.run.evaluation import figures, judge, win_rate

plt.rcParams.update(plots.STYLE)
_ = torch.manual_seed(0)
torch.set_num_threads(1)  # all tensors here are small: a second thread would only wait for the first

# %%
_ = roadmap(7)
plt.show()

# %% [markdown]
# *Roadmap: the stops of the course. You are at stop 07, where everything that was trained meets in one picture.*
#
# | symbol | meaning | unit |
# |---|---|---|
# | $\pi$, $\pi_\mathrm{ref}$, $\pi^*_\beta$ | policy, reference (the SFT model), best policy at price $\beta$ | |
# | $r$; proxy, gold | reward; the reward model's, the one that was meant | reward units |
# | $k$ | a distance $\mathrm{KL}(\pi \parallel \pi_\mathrm{ref})$ | nats |
# | $d = \sqrt{k}$ | the distance of Gao et al. | √nats |
# | $n$ | how many: sentences in (5), answers to choose from in best-of-n, comparisons in (6) | |
# | $M$, $S$, $C$ | how many prompts, seeds, candidates for β | |
# | $\hat p$, $z$ | share of comparisons won; width of an interval in standard errors | |
# | $K$ | answers to one prompt (a *group*) | |
#
# ## 1 · Nothing lies above the frontier
#
# Notebook 03 found the height of the best policy: $J(\pi^*_\beta) = \beta \log Z_\beta$, with
# $Z_\beta = \sum_y \pi_\mathrm{ref}(y)\, e^{r(y)/\beta}$. So for **every** policy $\pi$ and **every** price $\beta > 0$
#
# $$\mathbb{E}_\pi[r] - \beta\, \mathrm{KL}(\pi \parallel \pi_\mathrm{ref}) \le \beta \log Z_\beta. \tag{1}$$
#
# Read it in the plane with the KL on the horizontal axis, $k = \mathrm{KL}(\pi \parallel \pi_\mathrm{ref})$, and the
# reward on the vertical one. Move the KL to the right-hand side:
#
# $$\mathbb{E}_\pi[r] \le \beta \log Z_\beta + \beta k. \tag{2}$$
#
# The right-hand side is a **straight line** with slope $\beta$. No policy lies above it. This is so for each $\beta$,
# so no policy lies above the lowest of all these lines:
#
# $$\mathbb{E}_\pi[r] \le R(k) = \inf_{\beta > 0}\, \big( \beta \log Z_\beta + \beta k \big). \tag{3}$$
#
# (An infimum and not a minimum: at $k = 0$ the lines get lower and lower as $\beta \to \infty$, towards
# $\mathbb{E}_{\pi_\mathrm{ref}}[r]$, and none of them is the lowest.) $R$ is the **frontier**. The policy $\pi^*_\beta$ touches its own line, because (1) is an equality for it. Now take
# any other policy, and look how far *below the line of slope $\beta$* it lies. By (11) of notebook 03 that is its
# distance to the optimum, times $\beta$:
#
# $$\beta \log Z_\beta + \beta k - \mathbb{E}_\pi[r] = \beta\, \mathrm{KL}(\pi \parallel \pi^*_\beta). \tag{4}$$
#
# So the plot is also a ruler. We check all of it on random policies in the exact world: six words, sentences of four,
# $N = 6^4 = 1296$ of them.

# %% tags=["nbval-check-output"]
world = small_world()
references = {seed: world.new_policy(seed) for seed in (0, 1, 2)}  # a GPT-2 with random weights each
with torch.no_grad():
    log_refs = {seed: world.log_probs(policy).double().log_softmax(-1) for seed, policy in references.items()}
log_ref, rewards = log_refs[0], world.rewards  # shapes (N,), (N,): log π_ref(y) and r(y) of every sentence y
assert log_ref.shape == rewards.shape == (1296,)

prices = torch.logspace(1, -1.3, 300, dtype=torch.float64)  # shape (300,): β from 10 down to 0.05
heights = {
    seed: prices * (ref + rewards / prices[:, None]).logsumexp(-1) for seed, ref in log_refs.items()
}  # β log Z_β


def frontier(seed: int, k: float) -> float:
    """R(k) of (3) for the reference of this seed: the lowest of the 300 lines, at KL k."""
    return float((heights[seed] + prices * k).min())


generator = torch.Generator().manual_seed(0)
lowest = math.inf
for _ in range(300):
    noise = torch.randn(len(rewards), generator=generator, dtype=torch.float64)
    lure = 4 * torch.rand(1, generator=generator, dtype=torch.float64)
    log_pi = (log_ref + lure * rewards + noise).log_softmax(-1)  # a random policy that likes reward more or less
    k = float((log_pi.exp() * (log_pi - log_ref)).sum())
    reward = float((log_pi.exp() * rewards).sum())
    assert reward <= frontier(0, k)  # (3)
    assert frontier(0, 0.0) - 0.1 < float((log_ref.exp() * rewards).sum()) < frontier(0, 0.0)  # at k = 0: the limit
    lowest = min(lowest, frontier(0, k) - reward)

    beta = float(prices[torch.randint(300, (1,), generator=generator)])
    log_star, log_z = optimal_policy(log_ref, rewards, beta)
    distance = float((log_pi.exp() * (log_pi - log_star)).sum())  # KL(π ‖ π*)
    assert math.isclose(beta * float(log_z) + beta * k - reward, beta * distance, rel_tol=1e-9)  # (4)
    k_star = float((log_star.exp() * (log_star - log_ref)).sum())
    assert math.isclose(float((log_star.exp() * rewards).sum()), frontier(0, k_star), abs_tol=1e-9)  # it touches
print("Checked (3) and (4): 300 random policies lie below the frontier, by what (4) says; each π* lies on it.")
print(f"The luckiest of the 300 is {lowest:.2f} reward units below.")

# %% [markdown]
# **Predict.** For three references (seeds 0, 1, 2) we trained real GPT-2 policies: PPO on the true reward, DPO on
# 20,000 labelled pairs of sentences, both at β = 0.3, 0.5, 1 and 2. Best-of-n is computed exactly. How do PPO and DPO
# lie, at one and the same β?
#
# - a) both on the curve and at the same place, at every β
# - b) DPO above PPO: it needs no reward model
# - c) PPO on the curve at every β; DPO with it at a large β, and short of it at a small one

# %% tags=["nbval-check-output"]
check.p1("c")  # SOLUTION

# %% tags=["nbval-check-output"]
exact = recorded("frontier_exact")  # one row a point
points = exact[exact["method"] != "optimum"]
ks = np.linspace(0, 1.05 * points["kl"].max(), 80)
curve = pd.concat(pd.DataFrame({"seed": s, "kl": ks, "gold": [frontier(s, k) for k in ks]}) for s in references)
plots.frontiers(points[points["method"].isin(["ppo", "dpo", "best_of_n"])], curve)

# %% [markdown]
# *Figure: three panels, one a seed. A rising, flattening curve is the frontier. The circles (PPO, from left to right
# β = 2, 1, 0.5, 0.3) lie on it. The diamonds (DPO, in the same order) lie on it at the two larger β; those of 0.5 and 0.3
# lie to the left of PPO's circle for the same β. The triangles (best-of-n) follow the curve a little below it.*
#
# Recorded by `week6 frontier --worlds exact` with seeds 0, 1, 2 on one CPU core; the settings stand in
# `week6/run/sweep.py`. All numbers in this world are sums over the 1296 sentences: no sampling error, no bars. How far is
# each policy from the optimum of its own β?

# %% tags=["nbval-check-output"]
trained = points[points["beta"].notna()]
gaps = trained.pivot_table(index="beta", columns="method", values="gap", aggfunc=["mean", "max"])  # nats; over seeds
gaps.round(3)

# %% tags=["nbval-check-output", "folded"]
# @title Checked: nothing above the frontier, and the gap is the depth below the line
for _, point in points.iterrows():
    assert point["gold"] <= frontier(point["seed"], point["kl"]) + 1e-4  # recorded with five digits
by_line = trained["objective"] - [
    float(beta * optimal_policy(log_refs[seed], rewards, beta)[1])
    for seed, beta in zip(trained["seed"], trained["beta"], strict=True)
]
assert np.allclose(-by_line / trained["beta"], trained["gap"], atol=2e-3)  # (4): the gap is the depth below the line
worst = trained.groupby(["method", "beta"])["gap"].max()
assert (worst["ppo"] < 0.1).all() and (worst["dpo"][[1.0, 2.0]] < 0.1).all() and worst["dpo"][0.3] > 0.3
assert (worst["dpo_two_rounds"][[0.5, 1.0, 2.0]] < 0.1).all()
by_beta = trained.pivot_table(index=["seed", "beta"], columns="method", values="kl")
assert (by_beta["dpo"] < by_beta["ppo"]).unstack()[[0.3, 0.5]].all(axis=None)
assert (by_beta[["ppo", "dpo"]].unstack("seed").diff().iloc[1:] < 0).all(axis=None)  # a larger β, a smaller KL
print(f"Checked: none of {len(points)} policies lies above the frontier. At β ≥ 1, PPO and DPO end within 0.1 nats of")
print("the same optimum. At β = 0.3, DPO does not; there and at 0.5 it stays nearer to the reference than PPO.")

# %% tags=["nbval-check-output"]
check.p1.outcome()

# %% [markdown]
# **What happened?** Two things differ. PPO has the **true reward**, of any sentence that it asks for; DPO has one label for
# each pair. And PPO samples from *its own* policy, so that it asks about the sentences it is moving to. DPO's pairs come
# from the **reference**. A small β moves the optimum far away, to sentences that the reference hardly ever says, and the
# pairs hold few of these.
#
# How few? We drew $n$ sentences from $\pi_\mathrm{ref}$ and want to know something about $\pi^*$. Weight each sentence with
# $w(y) = \pi^*(y)/\pi_\mathrm{ref}(y)$: then a mean over them estimates a mean under $\pi^*$ (*importance sampling*). It is about
# as precise as a mean over
#
# $$n_\mathrm{eff} = \frac{\big(\sum_i w(y_i)\big)^2}{\sum_i w(y_i)^2} \;\approx\;
# \frac{n}{\mathbb{E}_{\pi_\mathrm{ref}}[w^2]} = \frac{n}{\mathbb{E}_{\pi^*}[w]} \tag{5}$$
#
# sentences drawn from $\pi^*$ itself: the **effective sample size** (Kong 1992). The step in the middle replaces both sums
# by their expectations, with $\mathbb{E}_{\pi_\mathrm{ref}}[w] = \sum_y \pi^*(y) = 1$. The last step is
# $\pi_\mathrm{ref}\, w^2 = \pi^* w$.

# %% tags=["nbval-check-output"]
n = 40_000  # two sentences in each of 20,000 pairs
drawn = torch.multinomial(log_ref.exp(), n, replacement=True, generator=generator)  # shape (n,): numbers of sentences
print("   β    KL(π* ‖ π_ref)   effective sample size of 40,000 sentences")
for beta in (2.0, 1.0, 0.5, 0.3):
    log_star, _ = optimal_policy(log_ref, rewards, beta)
    w = (log_star - log_ref).exp()  # shape (N,)
    effective = float(n / (log_star.exp() * w).sum())  # (5), right
    counted = float(w[drawn].sum() ** 2 / (w[drawn] ** 2).sum())  # (5), left
    assert abs(counted / effective - 1) < 0.3
    k = float((log_star.exp() * (log_star - log_ref)).sum())
    print(f"{beta:5.1f}   {k:12.2f}     {effective:10,.0f}")
print("Checked (5): the two sides agree within 30 % for the sentences drawn.")

# %% [markdown]
# So *other pairs* should help. "DPO, two rounds" tries it: after the first round we draw another 20,000 pairs from the
# policy **so far**, label them, and go on training on all of them. The reference in the loss stays $\pi_\mathrm{ref}$.
# (The name for it is *iterative* or *online* DPO.) But that is also twice as many pairs and twice as many steps. The
# control has these too, with all 40,000 pairs from $\pi_\mathrm{ref}$.

# %% tags=["nbval-check-output"]
comparison.distance_to_optimum(trained)

# %% [markdown]
# *Figure: the distance to the optimum against β, both axes logarithmic, so that a straight piece is a power of β. PPO's
# line is the lowest. From right to left it rises to about ten times its height, DPO's to more than fifty times, across the
# line at a tenth of a nat. Twice the pairs lower DPO's line on the left; two rounds lower it further.*

# %% tags=["nbval-check-output", "folded"]
# @title Checked: what twice the pairs bring, and what other pairs
means = gaps["mean"].loc[[0.3, 0.5], ["dpo", "dpo_twice_the_pairs", "dpo_two_rounds"]]
assert (means.diff(axis=1).iloc[:, 1:] < 0).all(axis=None)  # each nearer to the optimum than the one before
assert (means["dpo_two_rounds"] < 0.6 * means["dpo_twice_the_pairs"]).all()
rise = gaps["mean"].loc[0.3] / gaps["mean"].loc[2.0]  # from the right of the figure to its left
assert 8 < rise["ppo"] < 13 and rise["dpo"] > 50
share = (means["dpo"] - means["dpo_twice_the_pairs"]) / (means["dpo"] - means["dpo_two_rounds"])
print("Checked: at β = 0.3 and at 0.5 twice the pairs take DPO nearer to the optimum, and two rounds nearer still.")
print(
    f"Of the gain of two rounds, more pairs and steps alone bring {share[0.3]:.0%} at β = 0.3, {share[0.5]:.0%} at 0.5."
)

# %% [markdown]
# Both matter, then: how many pairs, and where they come from.
#
# And best-of-n? It has no β. It looks at the *rank* of the rewards and not at their size: any other rewards in the same
# order give the same policy, while $\pi^*$ would be another one. So its points lie near the curve, but not on it. Notebook 03
# put a bound on its distance, $\log n - (n-1)/n$. In the exact world we have both:

# %% tags=["nbval-check-output"]
best = exact[exact["method"] == "best_of_n"].groupby("n")[["kl", "gold"]].mean()
for count, row in best.iterrows():
    bound = best_of_n_kl_bound(int(count))
    print(f"best of {count:3.0f}: KL {row['kl']:.2f} nats, bound {bound:.2f}, mean reward {row['gold']:.2f}")
    assert row["kl"] <= bound + 1e-4
below = [frontier(p["seed"], p["kl"]) - p["gold"] for _, p in exact[exact["method"] == "best_of_n"].iterrows()]
assert 0 < min(below) and max(below) < 0.35
print(f"Best-of-n lies between {min(below):.2f} and {max(below):.2f} reward units below the frontier.")
assert (best["kl"] - [best_of_n_kl_bound(int(c)) for c in best.index] < -0.005).all()
same_order = rewards.exp()
torch.testing.assert_close(best_of_n_policy(log_ref, same_order, 8), best_of_n_policy(log_ref, rewards, 8))
assert not torch.allclose(optimal_policy(log_ref, same_order, 1.0)[0], optimal_policy(log_ref, rewards, 1.0)[0])
print(
    "Checked: the KL is below the bound (Beirami et al. 2024), and only the order of the rewards matters to best-of-n."
)

# %% [markdown]
# ## 2 · Which runs are worth keeping?
#
# Outside the exact world nobody gives us $R(k)$. We have a heap of runs, each with a KL and a reward. A run is
# **dominated** (beaten) if another one has *no more* KL and *no less* reward, and is strictly better in at least one of
# the two. The runs that no other dominates form the **Pareto frontier**. Two runs at exactly the same place do not
# dominate each other: both stay.
#
# ### Exercise 7.1 · The frontier of a heap of runs
# *difficulty 2/5 · importance 4/5 · 10 minutes*
#
# Return a boolean tensor: `True` where no other run dominates the run. Both inputs have shape `(N,)`: run.


# %% tags=["exercise"]
def pareto(kl: Float[Tensor, " N"], reward: Float[Tensor, " N"]) -> Bool[Tensor, " N"]:
    """Which of N runs no other run dominates: low KL and high reward are good."""
    # BEGIN SOLUTION
    keep = torch.ones(len(kl), dtype=torch.bool)
    for i in range(len(kl)):
        no_worse = (kl <= kl[i]) & (reward >= reward[i])
        better = (kl < kl[i]) | (reward > reward[i])
        keep[i] = not (no_worse & better).any()
    return keep
    # END SOLUTION


# %% tags=["nbval-check-output"]
check.q1(pareto)

# %% tags=["student-only"]
# check.q1.hint()
# check.q1.solution()

# %% tags=["nbval-check-output"]
frontier_of = check.q1.or_ours(pareto)

# %% [markdown]
# We try it where we know the truth: on the policies of the exact world, seed 0. And one more thing to see. (3) offers
# another test: keep a run if it is the best **for some price β**, i.e. if it has the highest $r - \beta k$. Such runs
# form the *upper convex hull*. Is that the same set?

# %% tags=["nbval-check-output"]
runs = points[points["seed"] == 0].reset_index()
kl_of, reward_of = (torch.tensor(runs[name].to_numpy()) for name in ("kl", "gold"))  # shapes (N,), N runs
kept = frontier_of(kl_of, reward_of)  # shape (N,)
hull = set((reward_of - prices[:, None] * kl_of).argmax(-1).tolist())  # runs that are best for some β
assert hull < set(kept.nonzero().squeeze(-1).tolist())
print(f"{len(runs)} runs, {int(kept.sum())} not dominated, {len(hull)} best for some β")
print("Checked: a run that is best for some price is never dominated; the reverse is not true.")
comparison.staircase(kl_of, reward_of, kept, sorted(hull))

# %% [markdown]
# *Figure: the runs of seed 0 in the plane of KL and reward. The Pareto frontier is a staircase up and to the right; the
# dashed line joins the runs that are best for some price. Many runs of the staircase lie below the dashed line.*
#
# Why is it not the same set? Look at a run that is on the staircase but below the dashed line. No single run dominates
# it; yet at each price one of the two runs at the ends of its piece of the dashed line is better. The true frontier $R$
# has no such dents: as an infimum of straight lines it is concave.
#
# ## 3 · The chatbot
#
# Now the embedded chatbot, as in notebooks 05 and 06. Everything that can be shared is shared: per seed one SFT
# model, one set of labelled pairs, one reward model (for PPO and best-of-n), the same 124 held-out prompts with 8
# answers to each (128/n for best-of-n), one gold scorer that no training ever saw. Recorded by
#
# `week6 frontier --worlds assistant --seeds 0 1 2 --record`
#
# on one CPU core. Best-of-n takes the best by the **reward model**, as one would have to.
#
# **Predict.** DPO at β = 1 makes a good chatbot (notebook 06). Somebody wants an even better one, and trains it with a
# weaker leash, β = 0.3. What happens to the gold reward?
#
# - a) it falls far below that of β = 1
# - b) it grows: a smaller β moves further along the curve, as in the exact world
# - c) it stays: the pairs are the same

# %% tags=["nbval-check-output"]
check.p2("a")  # SOLUTION

# %%
chat = recorded("frontier_assistant")
plots.frontiers(chat, zoom=5)

# %% [markdown]
# *Figure: gold reward against KL. Each method is a dotted line through its settings, with bars of one standard error
# between seeds (pale: single seeds); the numbers beside the points are β or n. Left, DPO's point at β = 0.3 lies far to
# the right of all others, and far down. Right, the first five nats: all three methods rise steeply from the SFT model
# at KL 0, close together; best-of-n and PPO bend down after their highest point. For best-of-n the KL is only known to
# be at most what is drawn.*

# %% tags=["nbval-check-output"]
seeds = sorted(chat["seed"].unique())
chat["setting"] = chat["beta"].fillna(chat["n"])  # β, or n
by_setting = chat.groupby(["method", "setting"])[["kl", "gold", "proxy", "win_rate", "length"]]
mean, between = by_setting.mean(), by_setting.sem()  # over the seeds, and its standard error
comparison.with_errors(mean, between)

# %% tags=["nbval-check-output", "folded"]
# @title Checked: gains, distances, and the highest points
sft_gold = mean.loc[("best_of_n", 1.0), "gold"]  # best of one: the SFT model itself
for method in ("ppo", "dpo", "best_of_n"):
    assert mean.loc[method, "gold"].max() > sft_gold + 1
assert mean.loc["ppo", "kl"].is_monotonic_decreasing and mean.loc["dpo", "kl"].is_monotonic_decreasing
assert mean.loc[("best_of_n", 16.0), "gold"] > mean.loc[("best_of_n", 2.0), "gold"] + 0.3
print("Checked: each method gains more than one reward unit over SFT; a larger β gives a smaller KL, for PPO and DPO.")
weak_leash, usual_leash = mean.loc[("dpo", 0.3)], mean.loc[("dpo", 1.0)]
assert weak_leash["gold"] < usual_leash["gold"] - 0.5 and weak_leash["kl"] > 3 * usual_leash["kl"]
print("Checked: DPO with β = 0.3 goes more than three times as far as with β = 1, and has a lower gold reward by more")
print("than 0.5.")
after = {"best_of_n": 64.0, "ppo": 0.03}
assert all(mean.loc[(method, x), "gold"] < mean.loc[method, "gold"].max() - 0.03 for method, x in after.items())
print("Checked: the longest leash of PPO and the largest n are not the best ones.")

# %% [markdown]
# **What happened?** DPO is trained on the margins *between the two answers of its pairs*, and a small β asks for larger
# log-ratios to reach the same margin. About all other answers the pairs say nothing. In the exact world DPO stayed short of the
# optimum; here, with answers of a dozen words, it runs far past the place where its answers are best.
#
# Compare it with the SFT model (best of 1 in the table). The reward model, which DPO never used, finds its answers
# *better* than those of the SFT model; the gold reward finds them *worse*. That is **over-optimisation** (section 5), and
# without any reward model in training: Rafailov et al. (2024, *Scaling laws for reward model overoptimization in direct
# alignment algorithms*) find it for DPO, IPO and SLiC alike. Of the two DPO runs the reward model prefers the one with
# β = 1, so here a look at the proxy would have warned you.
#
# Its win rate against SFT is still about one half. If two policies win equally often and one has the lower mean, then it
# loses by more than it wins by. A win rate does not see by how much.

# %% tags=["nbval-check-output", "folded"]
# @title Checked: DPO at β = 0.3 against β = 1 and against SFT
far, near, sft = (
    chat[(chat["method"] == method) & (chat["setting"] == setting)].set_index("seed")
    for method, setting in (("dpo", 0.3), ("dpo", 1.0), ("best_of_n", 1.0))
)
assert (far["proxy"] > sft["proxy"] + 0.5).all() and (far["gold"].mean() < sft["gold"].mean() - 0.5)  # over-optimised
assert (far["proxy"] < near["proxy"]).all() and (far["length"] > near["length"]).all()
assert (far["win_rate"] - 0.5).abs().max() < 0.06 and (far["gold"] < sft["gold"]).all()
print("Checked in every seed: at β = 0.3 DPO's answers are longer than at β = 1, and the reward model likes them less.")
print("Against SFT: proxy up by more than 0.5 in every seed; gold down in every seed, by more than 0.5 on average;")
print("win rate within 0.06 of one half.")

# %% tags=["nbval-check-output"]
check.p2.outcome()

# %% [markdown]
# Which settings would you keep? The exercise of section 2 says which are dominated by another one, by the means over
# the seeds:

# %% tags=["nbval-check-output"]
kept = frontier_of(torch.tensor(mean["kl"].to_numpy()), torch.tensor(mean["gold"].to_numpy()))
print("dominated:", ", ".join(f"{method} {setting:g}" for method, setting in mean.index[~kept.numpy()]))
assert not kept[[list(mean.index).index(place) for place in (("dpo", 0.3), ("ppo", 0.03), ("best_of_n", 64.0))]].any()

# %% [markdown]
# Now a smaller difference. "Its best point is 0.2 reward units higher": is that something? Three precautions:
#
# - The seeds are the same for all methods, so compare **seed by seed**. With the differences $\delta_s$ of $S$ seeds the
#   standard error is $\mathrm{std}(\delta)/\sqrt{S}$. What the methods share in a seed (a good SFT model, easy prompts) drops
#   out of the differences. With three seeds the factor for a 95 % interval is 4.3, not 2 (Student's t with two degrees of
#   freedom).
# - If you make $m$ comparisons, one of them may look large by chance. So give each an error rate of 5 %$/m$: then the
#   chance that *any* of the $m$ intervals misses is at most 5 % (Bonferroni).
# - If you choose the best setting and report its reward on the *same* seeds, you report luck too. So for each seed we take
#   the setting that was best in the two **other** seeds.

# %% tags=["nbval-check-output"]
assert len(seeds) == 3
golds = chat.pivot_table(index="seed", columns=["method", "setting"], values="gold")  # a row a seed


def difference(a: np.ndarray, b: np.ndarray, comparisons: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean of a − b over three seeds (axis 0), and the half-width of its interval: 95 % for all comparisons at once."""
    delta, p = a - b, 1 - 0.025 / comparisons
    t = (2 * p - 1) / math.sqrt(2 * p * (1 - p))  # p-quantile of Student's t with two degrees of freedom
    return delta.mean(0), t * delta.std(0, ddof=1) / math.sqrt(len(delta))


def best_elsewhere(method: str) -> np.ndarray:
    """For each seed the gold reward of the setting that is best in the two others; shape (S,)."""
    of = golds[method]
    return np.array([of.loc[seed, of.drop(seed).mean().idxmax()] for seed in seeds])


tops = {method: best_elsewhere(method) for method in ("ppo", "dpo", "best_of_n")}
for one, other in itertools.combinations(tops, 2):
    delta, half = difference(tops[one], tops[other], comparisons=3)
    print(f"{one} − {other}: gold {delta:+.3f} ± {half:.3f}", "← larger than its interval" * bool(abs(delta) > half))
student = difference(np.array([1.0, 2.0, 3.0]), np.zeros(3), comparisons=1)[1] * math.sqrt(3)
assert abs(student - 4.303) < 1e-3  # the table value of Student's t

# %% [markdown]
# That compares the *peaks* of three curves, and the peaks have different KLs. The fair question is: what do I get **for the
# same number of nats**? We read each curve between two neighbouring settings, on straight lines over √KL, since a
# frontier rises like √KL at first (checked on that of the exact world). All three are known between 0.65 nats (DPO's β = 3) and 1.35 nats (DPO's β = 1): there
# are three budgets, so nine comparisons. (DPO's next setting, β = 0.3, lies so far away that a line to it would mean
# nothing.) For best-of-n we know only an upper bound on the KL, which can only put it too low.

# %% tags=["nbval-check-output"]
budgets = np.array([0.65, 1.0, 1.35])  # nats; where all three are known in every seed
read = {
    method: np.array([reward_at(run["kl"], run["gold"], budgets) for _, run in rows.groupby("seed")])
    for method, rows in chat.groupby("method")
}  # shape (S, budgets) each
for method, values in read.items():
    cells = [f"{m:.2f} ± {e:.2f}" for m, e in zip(values.mean(0), values.std(0, ddof=1) / math.sqrt(3), strict=True)]
    print(f"{method:12s}", *cells, sep="   ")
for one, other in itertools.combinations(read, 2):
    delta, half = difference(read[one], read[other], comparisons=9)  # shape (budgets,) each
    cells = [f"{d:+.2f} ± {h:.2f}" for d, h in zip(delta, half, strict=True)]
    print(f"{one} − {other}:", *cells, sep="   ")
    assert (abs(delta) < half).all() and (abs(delta) < 0.25).all()
reach = chat[(chat["method"] == "dpo") & (chat["beta"] > 0.3)].groupby("beta")["kl"]
assert reach.max()[3.0] < budgets[0] and budgets[-1] < reach.min()[1.0]
gain = [frontier(0, k) - float((log_ref.exp() * rewards).sum()) for k in (0.01, 0.04)]
assert 1.9 < gain[1] / gain[0] < 2.1  # four times the nats, twice the gain
print("Checked: no difference is larger than its interval, and none reaches 0.25 reward units.")

# %% [markdown]
# This table, and not a slogan, is our answer to "which is better": at equal KL these three seeds show no difference. The
# methods differ in how they fail when the leash is long (above) and in what they cost (section 7). It holds for *this*
# chatbot, these pairs, these settings. In the literature you find both: Rafailov et al. (2023) draw DPO's
# frontier above that of their PPO; Xu et al. (2024) tune PPO with care and get it above DPO. With enough seeds you can
# find out for your own task.
#
# ### One point, live
#
# Do not believe a recorded table: make a point again. We take the SFT model and the pairs of the notebooks' shared
# run (it trains them if they are not there yet) and run DPO at β = 1. It is shorter than in the table and has fewer
# pairs, so that it takes seconds.

# %% tags=["nbval-ignore-output", "folded"]
# @title Train DPO at β = 1 again, and judge it
course = lesson("reward_model")
preset = course.preset.dpo
config = dataclasses.replace(preset, steps=min(150, preset.steps), learning_rate=preset.learning_rate * 5 / 3)
policy = copy.deepcopy(course.sft).requires_grad_(True)
optimizer = make_optimizer(policy, config.learning_rate)
for _ in tqdm(train_dpo(policy, course.sft, optimizer, course.pairs, config, seed=7), total=config.steps, desc="DPO"):
    pass
heldout = list(course.task.heldout_prompts["prompt"])
judge_it = partial(judge, sft=course.sft, reward=partial(score, course.reward_model), task=course.task, prompts=heldout)
of_sft, of_dpo = (judge_it(p, answers_per_prompt=8, seed=s) for s, p in enumerate((course.sft, policy)))
live, base = (figures(judged, of_sft, course.task, heldout) for judged in (of_dpo, of_sft))
print(f"live, β = {config.beta:g}:  KL {live['kl']:.2f} ± {live['kl_se']:.2f} nats", end="")
print(f",  gold {base['gold']:.2f} → {live['gold']:.2f} (± {live['gold_se']:.2f})")

# %% [markdown]
# Does it belong to the table? Two things make it differ: the models of another seed (the spread between the seeds of
# the table) and the finite number of prompts (its own standard error). Variances add. So we allow three times
# $\sqrt{\mathrm{std}_\mathrm{seeds}^2 + \mathrm{se}^2}$.

# %% tags=["nbval-check-output", "folded"]
# @title Checked: the live point belongs to the table
if course.preset.name == "lesson":
    rows = chat[(chat["method"] == "dpo") & (chat["beta"] == config.beta)].set_index("seed")
    gain = rows["gold"] - chat[chat["n"] == 1].set_index("seed")["gold"]
    error = math.hypot(live["gold_se"], base["gold_se"])
    for value, se, table in ((live["kl"], live["kl_se"], rows["kl"]), (live["gold"] - base["gold"], error, gain)):
        assert abs(value - table.mean()) < 3 * math.hypot(table.std(), se)
    print("Checked: the live point's KL and its gain in gold reward over SFT lie within the spread of the table.")
else:
    print(
        f"The table is one of the embedded chatbot, so that a point of preset {course.preset.name!r} is not held to it."
    )

# %% [markdown]
# ### A real model
#
# The same picture for SmolLM2-135M, continuing film reviews, with a reward model fitted to people (notebook 05,
# section 3). One seed, one β each, 500 held-out prompts. It stands beside the same four policies of the embedded
# chatbot; best-of-n is best of **2** in both.

# %%
one_seed = chat[chat["seed"] == 0].set_index(["method", "setting"]).astype(object)
one_seed = one_seed.where(one_seed.notna(), None)  # the KL of best-of-n is a bound, without an error
places = {"sft": ("best_of_n", 1), "best_of_n": ("best_of_n", 2), "ppo": ("ppo", 0.1), "dpo": ("dpo", 1)}
shown = {name: one_seed.loc[place] for name, place in places.items()}
smollm2 = recorded_summary("smollm2")["policies"]
plots.frontier_beside({"Embedded chatbot (best of 2)": shown, "SmolLM2-135M (best of 2)": smollm2})

# %% [markdown]
# *Figure: gold reward against KL to the SFT model, with bars of one standard error over prompts; left the embedded
# chatbot, right SmolLM2. Best of 2 stands at its upper bound of the KL, 0.19 nats. On the left PPO and DPO lie at KLs of 1.8
# and 1.4; on the right they stand above each other at 9.1.*

# %% tags=["folded"]
# @title Checked: both against SFT, and against each other
for name in ("ppo", "dpo"):
    gain = smollm2[name]["gold"] - smollm2["sft"]["gold"]
    se = math.hypot(smollm2[name]["gold_se"], smollm2["sft"]["gold_se"])
    print(f"{name.upper()} on SmolLM2: gold {gain:+.2f} ± {se:.2f} against SFT, at {smollm2[name]['kl']:.1f} nats")
    assert gain > 5 * se
dpo, ppo = (smollm2[name] for name in ("dpo", "ppo"))
more, se = dpo["gold"] - ppo["gold"], math.hypot(dpo["gold_se"], ppo["gold_se"])
assert abs(dpo["kl"] - ppo["kl"]) < 0.1 and more > 2 * se and dpo["length"] > 1.9 * ppo["length"]
print("Checked: both are above SFT by more than five standard errors.")
print(f"DPO − PPO: gold {more:+.3f} ± {se:.3f}; tokens an answer: {dpo['length']:.0f} and {ppo['length']:.0f}.")

# %% [markdown]
# Here PPO and DPO happen to have the same KL, so they can be compared: DPO's gold reward is higher by a little more than two
# standard errors, and its answers are twice as long. Do not make a rule of it. This is one seed of each, and the standard
# error tells how sure the number is for *these two models*, not for the two methods. To learn whether the length has
# brought it, compare answers of equal length.
#
# ## 4 · How sure is a win rate?
#
# Papers report "wins against SFT". Someone sees two answers and says which is better; a tie counts half. With $n$
# comparisons the share is
#
# $$\hat p = \frac{\text{wins} + \tfrac12\, \text{ties}}{n}, \qquad n = \text{wins} + \text{losses} + \text{ties}.
# \tag{6}$$
#
# If the true share is $p$ and the comparisons are independent, $\hat p$ has the standard error $\sqrt{p(1-p)/n}$ (with
# ties a little less: a share $t$ of ties takes $t/4$ off $p(1-p)$). The usual interval, the **Wald interval**, puts $\hat p$ in place of the unknown $p$:
# $\hat p \pm 1.96 \sqrt{\hat p(1-\hat p)/n}$.
#
# **Predict.** The true win rate is 0.9. We make 20 comparisons, compute the Wald interval, and repeat this many times. How
# often does the "95 %" interval contain the true value? (This probability is its **coverage**.)
#
# - a) in about 95 % of the repetitions
# - b) clearly less often
# - c) clearly more often: it is cautious

# %% tags=["nbval-check-output"]
check.p3("b")  # SOLUTION

# %% [markdown]
# Look at its two ends. At $\hat p = 1$ the width is **zero**: 20 wins of 20, "100 % ± 0 %". That cannot be right.
#
# Wilson (1927) leaves the unknown $p$ where it belongs. He asks: from **which** $p$ would our $\hat p$ be at most $z$
# standard errors away? At the two ends of the interval it is exactly $z$:
#
# $$(\hat p - p)^2 = z^2\, \frac{p\,(1-p)}{n}. \tag{7}$$
#
# This is a quadratic equation in $p$. Sort it by powers of $p$:
#
# $$\Big(1 + \frac{z^2}{n}\Big)\, p^2 - \Big(2 \hat p + \frac{z^2}{n}\Big)\, p + \hat p^2 = 0, \tag{8}$$
#
# and solve:
#
# $$p = \frac{1}{1 + z^2/n} \left( \hat p + \frac{z^2}{2n} \pm z \sqrt{\frac{\hat p (1 - \hat p)}{n} + \frac{z^2}{4n^2}}
# \right). \tag{9}$$
#
# ### Exercise 7.2 · A win rate with its interval
# *difficulty 2/5 · importance 5/5 · 10 minutes*
#
# Return $\hat p$ of (6) and the two ends of (9), lower end first.


# %% tags=["exercise"]
def win_rate_with_interval(wins: float, losses: float, ties: float = 0, z: float = 1.96) -> tuple[float, float, float]:
    """(p̂, low, high): share won, a tie counting half, with Wilson's interval of z standard errors."""
    # BEGIN SOLUTION
    n = wins + losses + ties
    p = (wins + 0.5 * ties) / n
    root = math.sqrt(p * (1 - p) / n + (z / (2 * n)) ** 2)
    low, high = ((p + z**2 / (2 * n) + sign * z * root) / (1 + z**2 / n) for sign in (-1, 1))
    return p, low, high
    # END SOLUTION


# %% tags=["nbval-check-output"]
check.q2(win_rate_with_interval)

# %% tags=["student-only"]
# check.q2.hint()
# check.q2.solution()

# %% tags=["nbval-check-output"]
win_rate_interval = check.q2.or_ours(win_rate_with_interval)

# %% tags=["nbval-check-output"]
for wins, losses, ties in ((14, 6, 0), (20, 0, 0), (700, 250, 50), (1, 0, 0)):
    p, low, high = win_rate_interval(wins, losses, ties, 1.96)
    n = wins + losses + ties
    assert math.isclose(
        (wins + ties / 4) / n - p**2, p * (1 - p) - ties / (4 * n), abs_tol=1e-12
    )  # variance of ½, 0, 1
    for end in (low, high):
        assert math.isclose((p - end) ** 2, 1.96**2 * end * (1 - end) / n, abs_tol=1e-12)  # (7)
        assert abs((1 + 1.96**2 / n) * end**2 - (2 * p + 1.96**2 / n) * end + p**2) < 1e-12  # (8)
    print(
        f"{wins:4d} wins, {losses:3d} losses, {ties:2d} ties:  {100 * p:5.1f} %, from {100 * low:.1f} to {100 * high:.1f} %"
    )
print("Checked: both ends solve (7) and (8).")

# %% tags=["nbval-check-output"]
sizes = (10, 20, 50, 100, 400)
coverage = {"Wilson": [], "Wald": []}
for n in sizes:
    outcomes = torch.arange(n + 1, dtype=torch.float64)  # shape (n + 1,): 0 … n wins
    chance = torch.distributions.Binomial(n, torch.tensor(0.9, dtype=torch.float64)).log_prob(outcomes).exp()
    share = outcomes / n
    half = 1.96 * (share * (1 - share) / n).sqrt()
    coverage["Wald"].append(float(chance[(share - 0.9).abs() <= half].sum()))
    held = [low <= 0.9 <= high for _, low, high in (win_rate_interval(w, n - w, 0, 1.96) for w in range(n + 1))]
    coverage["Wilson"].append(float(chance[torch.tensor(held)].sum()))

display(comparison.coverage(pd.DataFrame(coverage, index=sizes)))
assert coverage["Wald"][1] < 0.9 and min(coverage["Wilson"]) > 0.92 and min(coverage["Wald"][3:]) > 0.93
assert 0.115 < 0.9**20 < 0.125
print(
    f"Checked, exactly (no simulation): at n = 20 the Wald interval contains the true value in {coverage['Wald'][1]:.0%}"
)
print(f"of all cases, Wilson's in {coverage['Wilson'][1]:.0%}; Wilson's never in less than 92 % here.")

# %% [markdown]
# *Figure: the solid line (Wilson) stays near the promised level at all sizes; the dashed line (Wald) starts far below it
# and joins it only from about a hundred comparisons on.*

# %% tags=["nbval-check-output"]
check.p3.outcome()

# %% [markdown]
# **What happened?** With $p = 0.9$, 20 wins of 20 come up in $0.9^{20} = 12$ % of the repetitions, and then the Wald
# interval is the single point 1.
#
# One more trap. (9) is for **independent** comparisons. Eight answers to one prompt are not independent: an easy prompt
# is easy eight times. So this course averages over the answers to a prompt first, and takes the standard error over
# *prompts*. Does it matter? We compute both for the live model.

# %% tags=["nbval-ignore-output"]
won = win_rate(of_dpo.gold, of_sft.gold)  # shape (M, K): M prompts, K answers; each against 8 answers of SFT
naive = float(won.std() / math.sqrt(won.numel()))
clustered = float(won.mean(1).std() / math.sqrt(len(won)))
print(f"win rate {won.mean():.3f}; standard error as if independent {naive:.4f}, over prompts {clustered:.4f}")
assert course.preset.name != "lesson" or clustered > 1.2 * naive

# %% [markdown]
# ## 5 · Proxy and gold
#
# PPO climbs the reward *model*. Lower the price to a tenth of the preset's, train longer, and look at both rewards as the
# policy moves away: the **proxy** it is trained on, and the **gold** reward it never sees.
#
# **Predict.** Three seeds of PPO with a tenth of the price. As the KL grows, what does the gold reward do?
#
# - a) it rises, reaches a peak, and falls, while the proxy goes on rising
# - b) it rises with the proxy, only more slowly
# - c) it falls from the start

# %% tags=["nbval-check-output"]
check.p4("a")  # SOLUTION

# %% [markdown]
# Gao, Schulman & Hilton (2022) did this for many sizes of reward models. They found that with
# $d = \sqrt{\mathrm{KL}(\pi \parallel \pi_\mathrm{ref})}$ two simple forms describe the gold reward, counted from where it starts:
#
# $$R_\mathrm{bon}(d) = d\,(\alpha - \beta d), \qquad R_\mathrm{RL}(d) = d\,(\alpha - \beta \log d). \tag{10}$$
#
# Here $\alpha$ and $\beta$ are just two fitted numbers; this $\beta$ is **not** the price of KL. We write $\alpha_G$,
# $\beta_G$ from now on. Where is the peak? Differentiate:
#
# $$R'_\mathrm{bon} = \alpha_G - 2\beta_G d = 0 \;\Rightarrow\; d^* = \frac{\alpha_G}{2 \beta_G}, \qquad
# R'_\mathrm{RL} = \alpha_G - \beta_G \log d - \beta_G = 0 \;\Rightarrow\; d^* = e^{\alpha_G/\beta_G - 1}. \tag{11}$$
#
# Both forms are *linear* in $\alpha_G$ and $\beta_G$. So fitting them is plain least squares: no search, no start
# values. We fit a third number too, the reward at the start.

# %% tags=["nbval-check-output"]
d = torch.linspace(0.05, 5, 40, dtype=torch.float64)
alpha_g, beta_g = torch.tensor(1.3, dtype=torch.float64), torch.tensor(0.8, dtype=torch.float64)
for form, curve_of, top in (
    ("best_of_n", lambda d: d * (alpha_g - beta_g * d), alpha_g / (2 * beta_g)),
    ("rl", lambda d: d * (alpha_g - beta_g * d.log()), (alpha_g / beta_g - 1).exp()),
):
    at_top = top.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(curve_of(at_top), at_top)
    assert abs(slope) < 1e-12 and curve_of(top) > curve_of(top * 0.99) and curve_of(top) > curve_of(top * 1.01)  # (11)
    fit = fit_gao(d, 0.5 + curve_of(d), form)  # data made by (10), from a start of 0.5
    assert np.allclose([fit.start, fit.alpha, fit.beta], [0.5, 1.3, 0.8]) and math.isclose(fit.peak, float(top))
    print(f"{form:9s}: the fit finds α = {fit.alpha:.2f}, β = {fit.beta:.2f} again, peak at d = {fit.peak:.2f}")
print("Checked: (11) by autograd, and the fit on data made by (10).")

# %%
weak = recorded("overoptimisation")  # one row for each step of each seed
plots.gao_fits(weak)

# %% [markdown]
# *Figure: each dot and each cross is a batch of one of three PPO runs, the lines are the fitted forms. The proxy (dots)
# rises and flattens. The gold reward (crosses) rises at first, has its peak inside the vertical band, and falls. The two
# rewards have units of their own: compare the shapes, not the heights.*

# %% tags=["nbval-check-output"]
weak["d"] = weak["kl"].clip(lower=0).pow(0.5)
rows = []
for _, run in weak.sort_values("step").groupby("seed"):
    fit = fit_gao(run["d"], run["gold"], "rl")
    proxy, gold = (run[name].rolling(10).mean() for name in ("score", "gold"))
    start = run["gold"].iloc[:3].mean()
    rows.append([fit.peak, fit.peak**2, fit.r_squared, start, gold.max(), gold.iloc[-1]])
    assert start + 0.5 < gold.max() and gold.iloc[-1] < gold.max() - 0.2  # it rises and falls,
    assert proxy.iloc[-1] > proxy[gold.idxmax()]  # while the proxy goes on rising
    assert 0 < fit.peak < run["d"].max() and fit.r_squared > 0.5
columns = ["peak of gold at d", "KL there", "R² of the fit", "gold at the start", "highest", "at the end"]
by_seed = pd.DataFrame(rows, columns=columns).rename_axis("seed")
display(by_seed.round(2))
peaks = by_seed["peak of gold at d"]
print(
    f"Peak of the gold reward at d = {peaks.mean():.2f} ± {peaks.sem():.2f} (standard error over {len(peaks)} seeds)."
)
print("Checked in every seed: the gold reward rises by more than 0.5, and ends more than 0.2 below its peak,")
print("while the proxy still rises.")

# %% [markdown]
# **What happened?** Near the start both rewards rise: what the reward model prefers is better indeed. It learnt from the
# SFT model's answers, and far from them PPO finds answers that it takes for good and that are not. This is *Goodhart's law*
# with a curve: "when a measure becomes a target, it ceases to be a good measure" (Strathern 1997). The peak is another one in
# each seed, and each seed has its own SFT model, pairs and reward model. So do not take over a number such as "stop at $d = 1.7$": look at
# something that PPO does not train on.

# %% tags=["nbval-check-output"]
check.p4.outcome()

# %% [markdown]
# **Best-of-n** climbs the same reward model, but it does not go far: its KL is at most $\log n - (n-1)/n$. Is there a peak
# all the same? We fit the first form of (10).

# %% tags=["nbval-check-output"]
bon = chat[chat["method"] == "best_of_n"]
fit = fit_gao(bon["kl"].pow(0.5), bon["gold"], "best_of_n")
by_n = bon.groupby("n")[["proxy", "gold"]].mean()
display(by_n.round(2))
print(
    f"R = d(α − βd): α = {fit.alpha:.2f}, β = {fit.beta:.2f}, R² = {fit.r_squared:.3f}; peak at {fit.peak**2:.1f} nats"
)
assert by_n["proxy"].is_monotonic_increasing and by_n["gold"].idxmax() == 16 and fit.r_squared > 0.98
assert best_of_n_kl_bound(16) < fit.peak**2 < best_of_n_kl_bound(64) < 0.5 * weak["kl"].max()

# %% [markdown]
# There is: the fit puts it between best of 16 and best of 64, and the table agrees. The proxy rises from one to the other,
# the gold reward falls. Whoever can pay for 64 answers to a question should look at the gold reward before doing it.
#
# ## 6 · Choosing β
#
# You have a table: several β, several seeds, the KL and the reward of each run. You have a **budget**: no more than so
# many nats, since further away nobody has checked what the model says. Which β do you ship?
#
# ### Exercise 7.3 · Choose β
# *difficulty 3/5 · importance 4/5 · 12 minutes*
#
# - Average over the $S$ seeds first. A KL of $S$ seeds has the standard error $\mathrm{std}/\sqrt{S}$ (std with
#   $S - 1$).
# - A β is **allowed** if mean KL **plus two standard errors** is at most the budget. (At least one β is.)
# - Of the allowed ones, return the β with the highest mean reward, as a float.
#
# `kl` and `reward` have shape `(S, C)`: seed, candidate β. `betas` has shape `(C,)`.


# %% tags=["exercise"]
def choose(betas: Float[Tensor, " C"], kl: Float[Tensor, "S C"], reward: Float[Tensor, "S C"], budget: float) -> float:
    """The β with the highest mean reward among those whose KL is surely within the budget (nats)."""
    # BEGIN SOLUTION
    standard_error = kl.std(0) / math.sqrt(kl.shape[0])
    allowed = kl.mean(0) + 2 * standard_error <= budget
    means = reward.mean(0)
    return max((float(m), float(b)) for m, b, ok in zip(means, betas, allowed, strict=True) if ok)[1]
    # END SOLUTION


# %% tags=["nbval-check-output"]
check.q3(choose)

# %% tags=["student-only"]
# check.q3.hint()
# check.q3.solution()

# %% tags=["nbval-check-output"]
choose_beta = check.q3.or_ours(choose)

# %% tags=["nbval-check-output"]
for method in ("ppo", "dpo"):
    wide = chat[chat["method"] == method].pivot_table(index="seed", columns="beta", values=["kl", "gold"])
    betas = torch.tensor(wide["kl"].columns.to_numpy())
    kl_table, gold_table = (torch.tensor(wide[name].to_numpy()) for name in ("kl", "gold"))  # shapes (S, C)
    surely = (kl_table.mean(0) + 2 * kl_table.std(0) / math.sqrt(len(kl_table))).sort().values  # shape (C,)
    for budget in (float(surely[0]) + 0.01, float(surely[-1]) + 0.01):
        print(f"{method}: within {budget:5.2f} nats ship β = {choose_beta(betas, kl_table, gold_table, budget):g}")

# %% [markdown]
# With real users there is no gold reward in the table. Then the last column comes from fresh human comparisons, and
# each of them costs money: that is what the intervals of section 4 are for. It must **not** be the proxy:

# %% tags=["nbval-check-output"]
of_ppo = mean.loc["ppo"]
print(
    f"PPO without a budget: the gold reward takes β = {of_ppo['gold'].idxmax():g}, the proxy β = {of_ppo['proxy'].idxmax():g}"
)
assert of_ppo["proxy"].idxmax() == of_ppo.index.min()
print("Checked: chosen by the proxy, PPO gets the longest leash in the table.")

# %% [markdown]
# ## 7 · What does each cost?

# %%
cost = chat[chat["n"] != 1].groupby("method")[["model_copies", "generations", "seconds"]].median()
cost.rename(columns={"generations": "answers sampled for training", "seconds": "seconds, one core"}).round()

# %% [markdown]
# SFT and the labelled pairs are needed by all three and are not counted. The times of PPO and of best-of-n contain the
# training of the reward model. (Times are those of the recording; other work on the same machine makes them longer.)
#
# - **DPO** needs policy and reference. The reference's log-probabilities can be computed once and stored; then it is
#   one model. No sampling at all.
# - **PPO** needs policy (with its value head), reference and reward model at once, and samples new answers in every
#   step. With a critic that is a model of its own, as in InstructGPT (Ouyang et al. 2022), it is four.
# - **Best-of-n** trains nothing but the reward model, and pays at every reply: $n$ answers and $n$ scores.
#
# Do not carry the **seconds** over to large models. Without the reward model PPO takes less time here than DPO, with a
# model of 125 thousand weights. Of large models the authors of OpenRLHF report that generating the answers takes 80 % of
# the time of RLHF (Hu et al. 2024), and DPO generates none.
# Models in memory and sampled answers are what you can carry over.
#
# So best-of-n is what you try first to see what your reward model is worth. And you train when there will be many
# replies. From how many replies on is PPO cheaper in *sampled answers*?

# %% tags=["nbval-check-output"]
seconds, sampled = cost["seconds"], float(cost["generations"]["ppo"])
assert seconds["ppo"] - seconds["best_of_n"] < seconds["dpo"] and cost["generations"]["dpo"] == 0 < sampled
for n in (4, 16, 64):
    replies = sampled / (n - 1)  # PPO samples 1 answer a reply, best-of-n samples n
    assert math.isclose(sampled + replies, n * replies)
    print(f"against best of {n:2d}: after {replies:7,.0f} replies")

# %% [markdown]
# ## 8 · PPO without a critic: RLOO and GRPO
#
# PPO's value head answers one question: how good are answers to this prompt *usually*? There is a cheaper way to know:
# sample $K$ answers to the **same** prompt, a *group*, and let them be each other's baseline. No value head, no GAE.
# **RLOO** subtracts from each reward the mean of the *others* (Ahmadian et al. 2024), and takes the KL off the reward,
# as PPO does. **GRPO** subtracts the mean of all, divides by their standard deviation, and puts an estimate of the KL
# into the loss (Shao et al. 2024). Notebook 09 derives both, and you write them there. Here are their points on the
# frontier, in the exact world at β = 0.5, with groups of 8.

# %% tags=["nbval-ignore-output"]
BETA = 0.5
grpo = GRPOConfig(steps=40, prompts=24, answers=8, learning_rate=4e-3, beta=BETA, max_new_tokens=world.length)
paths = {}
for name, config in {"RLOO": replace(grpo, advantages="rloo", kl="reward", mean="sum"), "GRPO": grpo}.items():
    policy = copy.deepcopy(references[0])
    optimizer = make_optimizer(policy, config.learning_rate, eps=1e-5)
    paths[name] = [world.report(policy, references[0], BETA)]
    loop = train_grpo(policy, references[0], world.score, *world.prompts(24), optimizer, config, seed=0)
    for step, _ in tqdm(enumerate(loop), total=config.steps, desc=name):
        if step % 4 == 3:
            paths[name].append(world.report(policy, references[0], BETA))
ends = {name: path[-1] for name, path in paths.items()}
pd.DataFrame(ends.values(), index=ends).round(3)  # gap = KL(π ‖ π*) in nats

# %%
star = world.report(optimal_policy(log_ref, rewards, BETA)[0], log_ref, BETA)
curve = [(k, frontier(0, k)) for k in np.linspace(0, 2.5, 100)]
points_of = {name: [(p.kl, p.reward) for p in path] for name, path in paths.items()}
comparison.paths_to_optimum(curve, points_of, (star.kl, star.reward), "Two runs without a critic")

# %% [markdown]
# *Figure: both paths start at the reference on the left and climb. RLOO's ends beside the star, on the frontier; GRPO's
# ends elsewhere, below it.*

# %% tags=["nbval-check-output", "folded"]
# @title Checked: where the two runs end
start = paths["RLOO"][0]
assert all(end.reward > start.reward + 0.8 for end in ends.values())
assert ends["RLOO"].gap < 0.12 and ends["GRPO"].gap > 2 * ends["RLOO"].gap
depth = {name: frontier(0, end.kl) - end.reward for name, end in ends.items()}
assert depth["RLOO"] < 0.06 < depth["GRPO"]
print(
    "Checked: both gain more than 0.8 reward units. RLOO ends within 0.12 nats of the optimum, GRPO more than twice as"
)
print("far from it.")

# %% [markdown]
# Do not expect the β of one method to mean the same in another. That is why the comparisons of section 3 are drawn
# against the **KL that was reached**, and not against β.

# %% [markdown]
# ## 9 · A frontier from runs of your own
#
# So far you have read tables that others recorded. Now you write what makes them: the runs, their errors, the choice, and a
# report that does not flatter you.
#
# ### Exercise 7.4 · Capstone: a frontier from runs of your own
# *difficulty 4/5 · importance 5/5 · 40 minutes*
#
# A method comes in as two functions. `train(beta, seed)` makes one run and returns its policy, whatever that is.
# `draw(policy)` returns fresh answers of a policy, $K$ to each of $M$ prompts: two tensors `(M, K)`, the log-ratios
# $\log \pi - \log \pi_\mathrm{ref}$ and the gold rewards. You have a list of $C$ prices, a list of three seeds and a budget in
# nats. A dict of tensors, lists or numbers goes out:
#
# | part | shape | what it is |
# |---|---|---|
# | `kl`, `gold` | `(C, S)` | KL and gold reward of each run, means over all answers |
# | `gold_se` | `(C, S)` | standard error of `gold` over prompts (section 4) |
# | `kl_mean`, `gold_mean` | `(C,)` | means over the seeds |
# | `kl_half`, `gold_half` | `(C,)` | half-widths of their intervals: 4.303 standard errors over the seeds (section 3) |
# | `kept` | `(C,)` | which prices no other one dominates, by the means (exercise 7.1) |
# | `chosen` | `(S,)` | for each seed the price that the *other two* choose by exercise 7.3, with $S = 2$ |
# | `report` | two numbers | of each seed the gold reward at the price that the other two chose; over the three: mean, half-width as above |
#
# `frontier_of` and `choose_beta` may be used; mind that `choose_beta` wants the seeds first. One price at least is allowed.
# Return the parts that you have and leave out the others: the steps are judged one by one. They are judged on benches
# of the course, where the KL and the gold reward of every run are known: your figures must lie within their sampling
# error of the truth, `gold_se` within 25 %, the factor of the intervals within 10 %, and the rest must follow from your
# own tables. In the end the check says how many of your intervals contain the mean of many other seeds, and how far
# your reports are above what the chosen prices are worth by it. It takes a few seconds.


# %% tags=["exercise"]
def measure_frontier(train, draw, betas, seeds, budget) -> dict:
    """A method's frontier from runs of one's own, with intervals over three seeds, and what to ship within a budget."""
    # 1. One run for each price and seed; keep what is drawn of each.
    # 2. KL and gold reward of each run.
    # 3. The standard error of its gold reward over prompts.
    # 4. Means over the seeds, and the half-widths of their 95 % intervals.
    # 5. Which prices no other one dominates.
    # 6. For each seed: the price that the two others choose, with a mean KL surely within the budget.
    # 7. The gold reward of the chosen prices in the seeds that did not choose them.
    # BEGIN SOLUTION
    draws = [[draw(train(beta, seed)) for seed in seeds] for beta in betas]
    kl = torch.tensor([[float(kl.mean()) for kl, _ in row] for row in draws])  # shape (C, S), like all tables
    gold = torch.tensor([[float(gold.mean()) for _, gold in row] for row in draws])
    by_prompt = [[gold.mean(1) for _, gold in row] for row in draws]  # shape (M,) each
    gold_se = torch.tensor([[float(x.std() / math.sqrt(len(x))) for x in row] for row in by_prompt])

    def half(x: Float[Tensor, "*C S"]) -> Float[Tensor, "*C"]:
        """Half-width of the 95 % interval of a mean over three seeds."""
        return 4.303 * x.std(-1) / math.sqrt(x.shape[-1])

    chosen, unseen = [], []
    for s in range(len(seeds)):
        others = [i for i in range(len(seeds)) if i != s]
        surely = kl[:, others].mean(1) + 2 * kl[:, others].std(1) / math.sqrt(len(others))
        best = int(torch.where(surely <= budget, gold[:, others].mean(1), -torch.inf).argmax())
        chosen.append(betas[best])
        unseen.append(gold[best, s])
    report = torch.stack(unseen)
    return {
        "kl": kl,
        "gold": gold,
        "gold_se": gold_se,
        "kl_mean": kl.mean(1),
        "gold_mean": gold.mean(1),
        "kl_half": half(kl),
        "gold_half": half(gold),
        "kept": frontier_of(kl.mean(1), gold.mean(1)),
        "chosen": chosen,
        "report": (report.mean(), half(report)),
    }
    # END SOLUTION


# %% tags=["nbval-check-output"]
check.capstone(measure_frontier)

# %% tags=["student-only"]
# check.capstone.hint()
# check.capstone.solution()

# %% tags=["nbval-check-output"]
frontier_from = check.capstone.or_ours(measure_frontier)

# %% [markdown]
# Your runs: DPO in the exact world, 60 short steps on 1,000 pairs of sentences, at three prices with three seeds each. Nine
# runs of about two seconds. There is one prompt in this world; each of the 2,000 sentences drawn counts as a prompt with one
# answer.


# %% tags=["folded"]
# @title Nine runs of DPO on so many pairs, measured by your function
def dpo_runs(n_pairs: int) -> dict:
    """`frontier_from` on DPO runs in the exact world. `exact` (C, S, 3): the KL and the gold reward of each run as they
    are, and the share of its pairs that it ranks as they are labelled."""
    exact = {}

    def train(beta: float, seed: int) -> Float[Tensor, " N"]:
        config = DPOConfig(steps=60, batch_size=96, learning_rate=4e-3, beta=beta)
        policy = train_exact_dpo(world, references[0], config, n_pairs, seed)
        with torch.no_grad():
            log_pi = world.log_probs(policy).double().log_softmax(-1)
        report, pairs = (
            world.report(log_pi, log_ref, beta),
            world.sample_pairs(references[0], n_pairs, generator_for(seed, 0)),
        )
        better, worse = ((log_pi - log_ref)[world.index(of)] for of in (pairs.chosen, pairs.rejected))
        exact[beta, seed] = report.kl, report.reward, float((better > worse).double().mean())
        bar.update()
        return log_pi

    def draw(log_pi: Float[Tensor, " N"]) -> tuple[Float[Tensor, "M 1"], Float[Tensor, "M 1"]]:
        y = torch.multinomial(log_pi.exp(), 2000, replacement=True, generator=generator).unsqueeze(1)
        return (log_pi - log_ref)[y], rewards[y]

    with tqdm(total=9, desc=f"DPO, {n_pairs} pairs") as bar:
        found = frontier_from(train, draw, OWN_PRICES, [0, 1, 2], 1.0)
    return found | {"exact": torch.tensor([[exact[beta, seed] for seed in (0, 1, 2)] for beta in OWN_PRICES])}


OWN_PRICES = [2.0, 1.0, 0.5]

# %% tags=["nbval-ignore-output"]
own = {1000: dpo_runs(1000)}
curve = [(k, frontier(0, k)) for k in np.linspace(0, 2.5, 100)]
comparison.own_frontiers({"DPO, 1000 pairs": own[1000]}, OWN_PRICES, curve)

# %% [markdown]
# *Figure: three settings of DPO, each with the 95 % intervals of its KL and of its gold reward over three seeds, below the
# frontier. The intervals are wide: three runs say little about a fourth.*

# %% tags=["nbval-check-output", "folded"]
# @title Checked: your estimates against the exact values, and the frontier
for found in own.values():
    kl, gold, _ = found["exact"].unbind(-1)  # shapes (C, S)
    assert (torch.as_tensor(found["gold"]) - gold).abs().max() < 6 * torch.as_tensor(found["gold_se"]).max()
    assert all(g < frontier(0, k) for k, g in zip(kl.flatten().tolist(), gold.flatten().tolist(), strict=True))
print(
    "Checked: your gold rewards are within six standard errors of the exact ones, and every run lies below the frontier."
)

# %% [markdown]
# ### Open experiment: fewer pairs
#
# Pairs cost money. Somebody proposes to buy fewer of them and to change nothing else: "With less to learn from, DPO will stay
# closer to the reference. So the leash is safe." You have `dpo_runs`, which measures one setting in about twenty seconds. The
# knob is the number of pairs. Fill this table for 200, 1,000 and 5,000 pairs:
#
# | pairs | KL at β = 2, 1, 0.5 | depth below the frontier at β = 2, 1, 0.5 | chosen within one nat |
# |---|---|---|---|
# | 200 | | | |
# | 1000 | | | |
# | 5000 | | | |
#
# Is the proposal right? What happens to the KL at one β, what to the reward at about the same KL, and why?


# %% tags=["exercise"]
def fill_table() -> pd.DataFrame:
    """A row for each number of pairs. Depth is frontier(0, kl) - gold of a run; mean and spread over the seeds."""
    # BEGIN SOLUTION
    table = []
    for n_pairs in (200, 1000, 5000):
        if n_pairs not in own:
            own[n_pairs] = dpo_runs(n_pairs)
        kl, gold, _ = own[n_pairs]["exact"].unbind(-1)  # shape (C, S) each
        depth = torch.tensor([[frontier(0, k) for k in row] for row in kl.tolist()]) - gold
        row = [f"{m:.2f} ± {e:.2f}" for x in (kl, depth) for m, e in zip(x.mean(1), x.std(1), strict=True)]
        table.append([n_pairs, *row, ", ".join(f"{beta:g}" for beta in own[n_pairs]["chosen"])])
    names = [f"{name}, β = {beta:g}" for name in ("KL", "depth") for beta in OWN_PRICES]
    return pd.DataFrame(table, columns=["pairs", *names, "chosen"]).set_index("pairs")
    # END SOLUTION


# %% tags=["student-only"]
# fill_table()

# %% tags=["solution-only", "nbval-ignore-output"]
fill_table()

# %% tags=["solution-only", "nbval-ignore-output"]
comparison.own_frontiers({f"{n} pairs": found for n, found in sorted(own.items())}, OWN_PRICES, curve)

# %% [markdown] tags=["solution-only"]
# *Figure: the three frontiers. That of 200 pairs lies lowest, and its points lie furthest to the right.*
#
# **Our answer** (in the table: mean ± standard deviation over three seeds). The proposal is wrong twice. With 200 pairs the
# same β lets the policy go *further*. In 60 steps it sees each pair about thirty times and ranks 95 % of them as they are
# labelled, more than the true reward does: annotators contradict it now and then. And it goes in a worse direction: at about the
# same KL its reward lies further below the frontier. So fewer pairs ask for a larger β, or for fewer steps. From 1,000 to
# 5,000 pairs little changes here.

# %% tags=["solution-only", "nbval-check-output", "folded"]
# @title Checked: what fewer pairs do
few, some, many = (own[n]["exact"] for n in (200, 1000, 5000))  # shape (C, S, 3) each: KL, gold reward, share of labels
assert 25 < 60 * 96 / 200 < 35  # how often each pair is seen
drawn = world.sample_pairs(references[0], 5000, generator)
better, worse = (rewards[world.index(of)] for of in (drawn.chosen, drawn.rejected))
assert abs(few[..., 2].mean() - 0.95) < 0.03 and (better > worse).double().mean() < 0.8  # the latter by the true reward
assert (few[..., 0] > some[..., 0].max(1, keepdim=True).values).all()  # further at each β, in every seed


def depth_of(run: Float[Tensor, "3"]) -> float:
    """How far below the frontier a run lies."""
    return frontier(0, float(run[0])) - float(run[1])


near = some[2], few[0]  # β = 0.5 with 1,000 pairs, β = 2 with 200: about the same KL
assert abs(near[0][:, 0].mean() - near[1][:, 0].mean()) < 0.4 and near[1][:, 0].mean() < near[0][:, 0].mean()
assert min(map(depth_of, near[1])) > max(map(depth_of, near[0]))
assert (some[..., 0].mean(1) - many[..., 0].mean(1)).abs().max() < 0.3
print("Checked in every seed: at each β, 200 pairs take DPO further than 1,000 do; and at β = 2 with 200 pairs it lies")
print("further below the frontier than at β = 0.5 with 1,000 pairs, at a smaller mean KL.")

# %% [markdown]
# ## 10 · What we showed
#
# - A method is a curve. At one KL you may compare; at one β you may not.
# - Nothing lies above $R(k) = \inf_\beta (\beta \log Z_\beta + \beta k)$, and the depth below a policy's line is β
#   times its distance to the optimum.
# - In the exact world PPO and DPO meet at the same optimum where the pairs speak about it. Where they do not, more pairs
#   bring DPO closer, and pairs from the policy so far bring it closer still.
# - Choose on some seeds, report on others: so your own frontier says what a new run will give.
# - A win rate without $n$ says little. A difference counts only beside the spread between seeds, and among many
#   comparisons only if it is larger than the largest that chance makes.
# - The proxy went on rising. The gold reward had a peak, and fell: for PPO, for best-of-n, and for DPO without any proxy.
# - RLOO and GRPO need no critic. At the same β, RLOO ended near the optimum and GRPO at another place (notebook 09 says
#   why).
#
# ### Three questions to think about
#
# 1. Somebody shows a policy *above* your analytic frontier. Name two honest mistakes that could have produced it.
# 2. The reward is multiplied by 10, β too. What happens to the optimal policy? And if only the reward is multiplied?
# 3. You try 10 values of β, evaluate each on 50 comparisons, and report the win rate of the best. Is that number too
#    high, too low, or right on average?

# %% [markdown] tags=["solution-only"]
# **Answers.**
#
# 1. Its KL is too small: measured with truncated sampling (notebook 03), with too few samples, or with the bound of
#    another reference. Or its reward is too large: on the prompts it was chosen on, on the proxy, or by luck (see 3).
# 2. Nothing: only $r/\beta$ matters. If only the reward is multiplied, the optimum is that of a tenth of the price: a
#    longer leash.
# 3. Too high. You chose the highest of ten noisy numbers. The cell below says by how much. Choose on one set of
#    prompts, report on another.

# %% tags=["solution-only", "nbval-check-output"]
torch.testing.assert_close(optimal_policy(log_ref, 10 * rewards, 5.0)[0], optimal_policy(log_ref, rewards, 0.5)[0])
torch.testing.assert_close(optimal_policy(log_ref, 10 * rewards, 0.5)[0], optimal_policy(log_ref, rewards, 0.05)[0])
wins = torch.distributions.Binomial(50, torch.tensor(0.7)).sample((20_000, 10)) / 50  # ten settings, all of them at 0.7
print(f"true win rate 0.70 for all ten; the best of ten reports {wins.max(1).values.mean():.2f} on average")
assert 0.77 < wins.max(1).values.mean() < 0.83

# %% [markdown]
# ### Asked every year
#
# **"Best-of-n needs no training and lies near the frontier. Why train at all?"** Because it is paid at every reply
# (section 7), and because it does not go far: the KL is at most $\log n - (n-1)/n$. To get as far as $\pi^*$ at β = 0.3 in our exact
# world, how many answers would each reply need?

# %% tags=["nbval-check-output"]
log_star, _ = optimal_policy(log_ref, rewards, 0.3)
target = float((log_star.exp() * (log_star - log_ref)).sum())
needed = next(n for n in itertools.count(1) if best_of_n_kl_bound(n) >= target)
print(f"KL {target:.2f} nats: at least {needed} answers for each reply")
assert best_of_n_kl_bound(needed) >= target > best_of_n_kl_bound(needed - 1) and needed > 50

# %% [markdown]
# **"My PPO run has a KL of 12 and my DPO run a KL of 2, and PPO has the higher reward. So PPO wins?"** You do not know
# yet: the frontier (3) rises with the KL, so a longer leash alone may explain it. Draw both against KL, or give both the same budget. In the exact world
# we can say what the longer leash alone is worth:

# %% tags=["nbval-check-output"]
short, long = frontier(0, 0.5), frontier(0, 2.0)
print(f"the best policy within 0.5 nats has reward {short:.2f}, the best within 2 nats {long:.2f}")
assert long > short + 0.5

# %% [markdown]
# **"Do I need several seeds if I fix the seed?"** Yes: a fixed seed makes a run repeatable, not typical. Here is the same
# command with another seed, for a leash that holds and for one that does not:

# %% tags=["nbval-check-output"]
for beta in (1.0, 0.3):
    rows = chat[(chat["method"] == "dpo") & (chat["beta"] == beta)].set_index("seed")
    cells = ", ".join(f"seed {seed}: KL {rows['kl'][seed]:.1f}, gold {rows['gold'][seed]:.2f}" for seed in seeds)
    print(f"DPO, β = {beta:g}:  {cells}")
spread = {beta: chat[(chat["method"] == "dpo") & (chat["beta"] == beta)]["gold"].std() for beta in (1.0, 0.3)}
assert spread[0.3] > 5 * spread[1.0]
print("Checked: with β = 0.3 the seeds differ more than five times as much as with β = 1.")

# %% [markdown]
# ### The challenge
#
# Now you. Everybody starts from the lesson's SFT model and its 10,000 pairs (`lesson("sft")` gives both, as in section 3:
# `course.sft` and `course.pairs`), and trains by any method, for three minutes of one core at most. Who gets the highest
# gold reward at a KL of at most 3 nats, on prompts that no notebook shows? Save your policy with
# `policy.save_pretrained("ada")`; `week6 challenge ada` in a terminal gives it a row in the table. The rules, and what is a
# matter of honour, stand in [docs/challenge.md](../docs/challenge.md). The course's own entries, with standard errors:

# %% tags=["nbval-check-output"]
entries = recorded("challenge")
print(entries[["entry", "gold", "gold_se", "kl", "kl_se"]].round(2).to_string(index=False))
assert (entries["kl"] <= 3).all() and entries["gold"].max() < 3  # 3 is the highest gold reward that an answer can earn

# %% [markdown]
# ### Where next
#
# Notebook 08: a chat window with all of them side by side, and the way from here to a model with seven billion
# parameters. Notebook 09: what changes when a rule can say which answer is right.
#
# ### References
#
# - Kong (1992), *A note on importance sampling using standardized weights*.
# - Wilson (1927), *Probable inference, the law of succession, and statistical inference*.
# - Strathern (1997), *"Improving ratings": audit in the British university system*: the wording of Goodhart's law.
# - Gao, Schulman & Hilton (2022), *Scaling laws for reward model overoptimization*.
# - Ouyang et al. (2022), *Training language models to follow instructions with human feedback*.
# - Rafailov et al. (2023), *Direct preference optimization*.
# - Rafailov et al. (2024), *Scaling laws for reward model overoptimization in direct alignment algorithms*.
# - Hu et al. (2024), *OpenRLHF: an easy-to-use, scalable and high-performance RLHF framework*.
# - Ahmadian et al. (2024), *Back to basics: revisiting REINFORCE style optimization for learning from human feedback in LLMs*.
# - Shao et al. (2024), *DeepSeekMath* (GRPO).
# - Xu et al. (2024), *Is DPO superior to PPO for LLM alignment? A comprehensive study*.
# - Beirami et al. (2024), *Theoretical guarantees on the best-of-n alignment policy*.
