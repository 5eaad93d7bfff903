# %% [markdown]
# # 06 · DPO: the reward model inside the language model
#
# PPO needs a reward model, fresh answers at every step, and a value function. Direct preference optimization (DPO)
# needs none of them: one loss, ordinary gradient descent, the pairs you already have. There is no trick in it. It is the
# formula of notebook 03, solved for the other unknown. This notebook derives it, and then asks what it really does.

# %% [markdown]
# ## What you will be able to do
#
# - Derive DPO's loss from the best policy $\pi^*$ in four lines, and say where $Z(x)$ goes.
# - Compute $\log \pi(y \mid x)$ and the implicit reward of an answer, and say why they are sums and not means.
# - Read DPO's gradient factor by factor, and check it against autograd.
# - Say where DPO and PPO end if both have all the data they want, and measure how far apart, in nats.
# - Judge a run whose reward of the chosen answers does not rise.
# - Write the training loop, and train the chatbot with it.
#
# **You need:** notebook 01 (Bradley–Terry) and notebook 03 ($\pi^*$, KL, $\beta$). Notebook 04 helps for the
# comparison with PPO. **Time:** {minutes} minutes of work, of which the capstone and the experiment of section 9 take a
# good part. Who is short of time can leave out section 8 with exercise 6.5, section 9, and "The same on a real model" in
# section 6: no later notebook needs them. The cells run in one to two minutes on a laptop CPU, and two to three minutes
# more if the course's small chatbot has to be trained first. Where there is a GPU, GPT-2-small on film reviews
# takes the chatbot's place; a cell says where a sentence of the text, which is about the embedded chatbot, does not hold
# for it. The exact worlds are too small to gain from a GPU.

# %% tags=["folded"]
# @title Set-up: what this notebook uses
import copy
import math
from collections.abc import Iterator
from dataclasses import replace

import matplotlib.pyplot as plt
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm import tqdm

from week6 import (
    AdaptiveKL,
    DPOConfig,
    Pairs,
    PolicyWithValue,
    PPOConfig,
    bayes_accuracy,
    decode,
    descend,
    dpo_loss,
    expected_accuracy,
    expected_dpo_loss,
    implicit_reward,
    kl_divergence,
    make_optimizer,
    minibatch,
    optimal_policy,
    pair_agreement,
    preference_probability,
    response_log_probs,
    small_world,
    train_dpo,
    train_ppo,
)
from week6.checks import dpo_capstone
from week6.checks import nb06 as check
from week6.classroom.lesson import lesson
from week6.classroom.widgets import live, slider
from week6.dpo import pair_log_probs, reference_log_probs
from week6.pictures import of_dpo, plots
from week6.pictures.figures import dpo_gradient, dpo_shortcut, roadmap
from week6.recorded import recorded, recorded_summary
from week6.run.evaluation import judge

plt.rcParams.update(plots.STYLE)
_ = torch.manual_seed(0)
torch.set_num_threads(1)  # the tensors are small: a second thread would only wait for the first
g = torch.Generator().manual_seed(0)

# %%
_ = roadmap(6)
plt.show()

# %% [markdown]
# *Roadmap: the stops of the course. You are at stop 06, on the short cut that goes from the preferences to the
# chatbot directly.*

# %%
_ = dpo_shortcut()
plt.show()

# %% [markdown]
# *Figure 1. Above, RLHF: the preferences make a reward model, and then PPO goes round a loop of sampling, scoring and
# stepping. Below, DPO: the same preferences go into one loss on the policy.*
#
# | symbol | meaning | unit |
# |---|---|---|
# | $x$; $y_w$, $y_l$ | prompt; the chosen and the rejected answer ("winner", "loser") | |
# | $\pi(y \mid x)$, $\pi_\mathrm{ref}$, $\pi^*$ | policy; reference (the SFT model, frozen); the best policy of RLHF | |
# | $r(x, y)$ | reward of an answer | reward units |
# | $\hat r(x, y)$ | **implicit reward** $\beta \log \frac{\pi(y \mid x)}{\pi_\mathrm{ref}(y \mid x)}$ | reward units |
# | $\beta$ | price of one nat of KL | reward units per nat |
# | $h$ | difference of the log-ratios of $y_w$ and $y_l$, so that $\hat r_w - \hat r_l = \beta h$ | nats |
# | $\hat r_w - \hat r_l$ | the **margin** of a pair | reward units |
# | $\varepsilon$ | in section 8: the assumed share of flipped labels | |

# %% [markdown]
# ## 1 · From the best policy back to the reward
#
# We start where notebook 03 ended: in a language that we can list. Six words, sentences of four words. This time there
# are **prompts**: the first word of a sentence is the prompt $x$, the other three words are the answer $y$. So 6
# prompts, and $6^3 = 216$ answers to each. The reference is a small GPT-2 with likes and dislikes of its own.

# %%
world = small_world()
reference = world.new_policy(seed=8)
X, N = len(world.vocab), len(world.vocab) ** 3  # prompts, answers to each


def conditional(policy: torch.nn.Module) -> Float[Tensor, "X N"]:
    """log π(y | x) of every answer to every prompt. Sentences are listed by their first word, so a view is enough."""
    return world.log_probs(policy).double().view(X, N).log_softmax(-1)


with torch.no_grad():
    log_ref = conditional(reference)  # shape (X, N): prompt, answer
reward = world.rewards.view(X, N)  # r(x, y), shape (X, N), reward units
beta = 0.5  # reward units per nat
log_star, log_z = optimal_policy(log_ref, reward, beta)  # shapes (X, N) and (X,)

torch.testing.assert_close(log_ref.exp().sum(-1), torch.ones(X).double())
print(f"log_ref: shape (X, N) = {tuple(log_ref.shape)}, each row sums to 1; log_z: shape (X,) = {tuple(log_z.shape)}")
for x in (0, 4):
    best = " ".join(world.words(world.sequences[x * N + int(reward[x].argmax())])[1:])
    print(
        f"prompt {world.vocab[x]!r:9} best answer {best!r:18} r = {reward[x].max():+.1f}   log Z(x) = {log_z[x]:+.2f}"
    )

# %% [markdown]
# In notebook 03 the reward was given and the policy unknown. With prompts, the answer was
#
# $$\pi^*(y \mid x) = \frac{\pi_\mathrm{ref}(y \mid x)\, e^{r(x,y)/\beta}}{Z(x)}, \qquad
# Z(x) = \sum_y \pi_\mathrm{ref}(y \mid x)\, e^{r(x,y)/\beta}. \tag{1}$$
#
# Now read it the other way round: **the policy is given and the reward is unknown.**
#
# **Step 1.** Take the logarithm:
#
# $$\log \pi^*(y \mid x) = \log \pi_\mathrm{ref}(y \mid x) + \frac{r(x,y)}{\beta} - \log Z(x). \tag{2}$$
#
# **Step 2.** Solve for $r$. That is all:
#
# $$r(x,y) = \beta \log \frac{\pi^*(y \mid x)}{\pi_\mathrm{ref}(y \mid x)} + \beta \log Z(x). \tag{3}$$

# %% tags=["nbval-check-output"]
Z = (log_ref.exp() * (reward / beta).exp()).sum(-1, keepdim=True)  # shape (X, 1)
torch.testing.assert_close(log_star.exp(), log_ref.exp() * (reward / beta).exp() / Z)  # (1)
torch.testing.assert_close(log_star, log_ref + reward / beta - Z.log())  # (2)
recovered = beta * (log_star - log_ref) + beta * Z.log()  # (3), shape (X, N)
torch.testing.assert_close(recovered, reward)
assert log_z.max() - log_z.min() > 0.5
print("Checked (1), (2), (3): the reward of all 6 · 216 answers comes back from the two policies and Z(x).")

# %% [markdown]
# The last term, $\beta \log Z(x)$, is a nuisance: nobody can compute it for a real language. But look at what it does
# *not* contain: $y$. For all answers to one prompt it is the same number. And notebook 01 said that preferences do not
# notice a number that is added to all rewards of a prompt. So we give the rest a name, the **implicit reward**:
#
# $$\hat r(x,y) = \beta \log \frac{\pi(y \mid x)}{\pi_\mathrm{ref}(y \mid x)}. \tag{4}$$
#
# We can write it down for **any** policy $\pi$, not only for the best one. Put it into (1) as a reward. Then
# $e^{\hat r/\beta} = \pi/\pi_\mathrm{ref}$, so the sum is $Z(x) = \sum_y \pi(y \mid x) = 1$, and
#
# $$\frac{\pi_\mathrm{ref}(y \mid x)\, e^{\hat r(x,y)/\beta}}{Z(x)} = \pi(y \mid x). \tag{5}$$
#
# In words: **every language model is the best policy for some reward**, namely its own implicit reward. To train a
# policy *is* to train a reward model.

# %% tags=["nbval-check-output"]
any_policy = torch.randn(X, N, generator=g, dtype=torch.float64).log_softmax(-1)  # shape (X, N): a random policy
its_reward = beta * (any_policy - log_ref)  # (4)
best_for_it, its_log_z = optimal_policy(log_ref, its_reward, beta)
torch.testing.assert_close(its_log_z, torch.zeros(X).double())
torch.testing.assert_close(best_for_it, any_policy)  # (5)
print("Checked (5): a random policy is optimal for its own implicit reward, and there log Z(x) = 0 for all prompts.")

# %% [markdown]
# ## 2 · log π(y | x) of a real model
#
# A language model does not list answers. It gives a probability for each next token. The answer $y$ has tokens
# $y_1, \dots, y_T$, and its probability is a product, so the logarithm is a **sum**:
#
# $$\log \pi(y \mid x) = \sum_{t=1}^{T} \log \pi(y_t \mid x, y_{\lt t}). \tag{6}$$
#
# In code there are two traps. The model gets prompt and answer in one row of tokens, and
#
# - its output in column $c$ predicts the token in column $c + 1$: **shift by one**;
# - the row holds prompt tokens and padding too. They are **not** part of $\log \pi(y \mid x)$; the end token of the
#   answer **is**.
#
# ### Exercise 6.1 · Log-probability of an answer
# *difficulty 3/5 · importance 5/5 · 12 minutes*
#
# Write (6) for a batch. `logits` has shape `(B, L, V)`: row, column, word. `tokens` and `response_mask` have shape
# `(B, L)`. The mask is `True` on the tokens of the answer (its end token included) and `False` on prompt and padding.
# Column 0 is never part of an answer. Take the log-softmax over the vocabulary yourself; very improbable tokens must
# stay finite. The sum will be trained, so its gradient must reach `logits`; the grader looks at that too.


# %% tags=["exercise"]
def answer_log_prob(
    logits: Float[Tensor, "B L V"], tokens: Int[Tensor, "B L"], response_mask: Bool[Tensor, "B L"]
) -> Float[Tensor, " B"]:
    """log π(y | x) in nats, one number a row: the sum over the answer's tokens."""
    # BEGIN SOLUTION
    log_probs = logits[:, :-1].log_softmax(-1)  # column c predicts the token in column c + 1
    of_tokens = log_probs.gather(-1, tokens[:, 1:].unsqueeze(-1)).squeeze(-1)
    return torch.where(response_mask[:, 1:], of_tokens, 0.0).sum(-1)
    # END SOLUTION


# %% tags=["nbval-check-output"]
check.q1(answer_log_prob)

# %% tags=["student-only"]
# check.q1.hint()
# check.q1.solution()

# %% tags=["nbval-check-output"]
log_prob_of_answer = check.q1.or_ours(answer_log_prob)

# %% tags=["nbval-check-output"]
tokens = torch.cat([torch.zeros(X * N, 1, dtype=torch.long), world.sequences], dim=1)  # (B, L): start, prompt, answer
is_answer = torch.tensor([False, False, True, True, True]).expand(X * N, 5)
with torch.no_grad():
    logits = reference(input_ids=tokens).logits  # shape (B, L, V) = (1296, 5, 6)
by_hand = log_prob_of_answer(logits, tokens, is_answer)  # shape (B,)
torch.testing.assert_close(by_hand.double().view(X, N), log_ref, rtol=1e-4, atol=1e-4)  # (6)
print(f"logits: shape (B, L, V) = {tuple(logits.shape)}; log π(y | x): shape (B,) = {tuple(by_hand.shape)}")
print("Checked (6): the sums over tokens are the log-probabilities of section 1, for all 1296 rows.")

# %% [markdown]
# ### Exercise 6.2 · The implicit reward
# *difficulty 1/5 · importance 5/5 · 4 minutes*
#
# Write (4). You get $\log \pi$ and $\log \pi_\mathrm{ref}$, not the probabilities, so the logarithm of the ratio is
# already half done. The function must work for any shape, and for long answers, whose log-probability may be −1000.
# The gradient must reach `log_probs`: the loss below is built on it.


# %% tags=["exercise"]
def reward_inside(
    log_probs: Float[Tensor, "*B"], ref_log_probs: Float[Tensor, "*B"], beta: float
) -> Float[Tensor, "*B"]:
    """r̂ = β log(π / π_ref), in reward units."""
    # BEGIN SOLUTION
    return beta * (log_probs - ref_log_probs)
    # END SOLUTION


# %% tags=["nbval-check-output"]
check.q2(reward_inside)

# %% tags=["student-only"]
# check.q2.hint()
# check.q2.solution()

# %% tags=["nbval-check-output"]
r_hat = check.q2.or_ours(reward_inside)

# %% [markdown]
# ## 3 · The loss
#
# Notebook 01: people prefer $y_w$ to $y_l$ with probability
#
# $$p(y_w \succ y_l \mid x) = \sigma\big(r(x,y_w) - r(x,y_l)\big), \qquad \sigma(u) = \frac{1}{1 + e^{-u}}. \tag{7}$$
#
# **Step 3.** Put (3) in, for both answers. The term $\beta \log Z(x)$ comes with a plus and with a minus, and is gone:
#
# $$p(y_w \succ y_l \mid x) = \sigma\left(\beta \log \frac{\pi^*(y_w \mid x)}{\pi_\mathrm{ref}(y_w \mid x)}
# - \beta \log \frac{\pi^*(y_l \mid x)}{\pi_\mathrm{ref}(y_l \mid x)}\right). \tag{8}$$
#
# No reward, no $Z$: only two policies. This is the whole idea of DPO.

# %% tags=["nbval-check-output"]
w, lose = torch.randint(N, (2, X, 1000), generator=g)  # 1000 pairs for each prompt: numbers of the two answers
p_true = torch.sigmoid(reward.gather(1, w) - reward.gather(1, lose))  # (7), shape (X, 1000)
r_star = r_hat(log_star, log_ref, beta)  # shape (X, N)
torch.testing.assert_close(torch.sigmoid(r_star.gather(1, w) - r_star.gather(1, lose)), p_true)  # (8)
with_z = (r_star.gather(1, w) + beta * log_z[:, None]) - (r_star.gather(1, lose) + beta * log_z[:, None])
torch.testing.assert_close(torch.sigmoid(with_z), p_true)
assert (r_star - reward).abs().max() > 0.2
print(
    "Checked (8): Z(x) cancels in 6,000 pairs. The implicit rewards differ from the rewards, their differences do not."
)

# %% [markdown]
# **Step 4.** We do not know $\pi^*$. So we put a policy $\pi_\theta$ in its place, and choose $\theta$ by maximum
# likelihood: the loss is minus the log-probability of the labels that people gave, as for the reward model of notebook
# 02. Only the reward is now $\hat r$:
#
# $$L(\theta) = -\mathbb{E}\big[\log \sigma(\hat r_w - \hat r_l)\big], \qquad
# \hat r_w - \hat r_l = \beta\Big[\underbrace{\log \frac{\pi_\theta(y_w \mid x)}{\pi_\mathrm{ref}(y_w \mid x)}
# - \log \frac{\pi_\theta(y_l \mid x)}{\pi_\mathrm{ref}(y_l \mid x)}}_{h}\Big]. \tag{9}$$
#
# ### Exercise 6.3 · The DPO loss
# *difficulty 2/5 · importance 5/5 · 8 minutes*
#
# Write the loss (9) of each pair: four log-probabilities in, one loss a pair out (shape `(B,)`, no mean yet). Margins
# of $\pm 1000$ must give a finite loss and a finite gradient: use `F.logsigmoid`. The gradient flows into the policy
# only; the reference is data.


# %% tags=["exercise"]
def preference_loss(
    policy_chosen: Float[Tensor, " B"],
    policy_rejected: Float[Tensor, " B"],
    ref_chosen: Float[Tensor, " B"],
    ref_rejected: Float[Tensor, " B"],
    beta: float,
) -> Float[Tensor, " B"]:
    """−log σ(r̂_w − r̂_l) of each pair, in nats."""
    # BEGIN SOLUTION
    chosen_reward = r_hat(policy_chosen, ref_chosen, beta)
    rejected_reward = r_hat(policy_rejected, ref_rejected, beta)
    return -F.logsigmoid(chosen_reward - rejected_reward)
    # END SOLUTION


# %% tags=["nbval-check-output"]
check.q3(preference_loss)

# %% tags=["student-only"]
# check.q3.hint()
# check.q3.solution()

# %% tags=["nbval-check-output"]
loss_of_pairs = check.q3.or_ours(preference_loss)

# %% [markdown]
# Two properties that you can test in any code base. At the start, where $\pi_\theta = \pi_\mathrm{ref}$, the margin is
# 0 and the loss is $-\log \frac12 = 0.6931$. And a number $f(x)$ that is added to both rewards of a prompt changes
# nothing:
#
# $$-\log \sigma\big((\hat r_w + f(x)) - (\hat r_l + f(x))\big) = -\log \sigma(\hat r_w - \hat r_l). \tag{10}$$

# %% tags=["nbval-check-output"]
pw, pl, rw, rl = (policy.gather(1, y).flatten() for policy in (any_policy, log_ref) for y in (w, lose))  # shape (6000,)
losses = loss_of_pairs(pw, pl, rw, rl, beta)
torch.testing.assert_close(losses, dpo_loss(pw, pl, rw, rl, beta).loss)  # the course's own
torch.testing.assert_close(loss_of_pairs(rw, rl, rw, rl, beta), torch.full((6000,), math.log(2)).double())
f = 3 * torch.randn(6, 1, generator=g, dtype=torch.float64).expand(6, 1000).flatten()  # one number for each prompt
torch.testing.assert_close(loss_of_pairs(pw + f / beta, pl + f / beta, rw, rl, beta), losses)  # (10)
assert not torch.allclose(loss_of_pairs(pw + f / beta, pl, rw, rl, beta), losses, rtol=0.1)
print("Checked: loss log 2 at the reference; (10); a shift of the chosen answers alone does change the loss.")

# %% [markdown]
# ### Summed, not averaged
#
# What if we divide $\log \pi(y \mid x)$ by the length $|y|$ of the answer, so that long answers do not count more? It
# looks harmless.
#
# **Predict.** Eight answers, equally likely under the reference: lengths 2, 4, 8, 16, and for each length a good one
# ($r = +1$) and a bad one ($r = -1$). All good answers are equally good. What does training with means do?
#
# - a) the four good answers get equal shares, as with sums
# - b) the good answer of 16 tokens gets most, and the bad one of 16 tokens is wiped out
# - c) the short good answer gets most

# %% tags=["nbval-check-output"]
check.p1("b")  # SOLUTION

# %% [markdown]
# With means, the loss wants
# $\frac{\beta}{|y|} \log \frac{\pi}{\pi_\mathrm{ref}}$ to differ from $r$ by a constant $c$ only. So its optimum is
#
# $$\log \frac{\pi(y)}{\pi_\mathrm{ref}(y)} = \frac{|y|}{\beta}\,\big(r(y) + c\big), \qquad
# c \text{ such that } \textstyle\sum_y \pi(y) = 1. \tag{11}$$
#
# The reward is multiplied by the length. And $c$, the part that should cancel, does not cancel any more: it is
# multiplied by the length too. We let both ways of training run to their end.

# %%
lengths = torch.tensor([2, 4, 8, 16, 2, 4, 8, 16], dtype=torch.float64)  # shape (8,)
quality = torch.tensor([1.0] * 4 + [-1.0] * 4, dtype=torch.float64)  # r, shape (8,)
flat = torch.full((8,), -math.log(8), dtype=torch.float64)  # log π_ref


def train_table(divisor: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """Minimise the expected DPO loss over a table of logits, with log-probabilities divided by `divisor`."""
    theta = flat.clone().requires_grad_()
    lbfgs = torch.optim.LBFGS([theta], max_iter=500, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        lbfgs.zero_grad()
        loss = expected_dpo_loss(theta.log_softmax(-1) / divisor, flat / divisor, quality, beta)
        loss.backward()
        return loss

    lbfgs.step(closure)
    return theta.detach().log_softmax(-1)


summed, averaged = train_table(torch.ones(8).double()), train_table(lengths)

shares = {"reference": flat, "trained with sums": summed, "trained with means": averaged}
of_dpo.shares_of_answers(
    lengths.tolist(),
    quality.tolist(),
    {name: log_p.exp().tolist() for name, log_p in shares.items()},
    "Mean log-probabilities multiply the reward by the length",
)

# %% [markdown]
# *Figure 2. Eight answers. With sums (striped) the four good answers get equal shares. With means (dotted) the share
# grows with the length among the good answers, and the bad ones vanish.*

# %% tags=["nbval-check-output"]
low, high = -5.0, 5.0  # c of (11) by bisection
for _ in range(100):
    c = (low + high) / 2
    low, high = (low, c) if (flat + lengths / beta * (quality + c)).exp().sum() > 1 else (c, high)
formula = flat + lengths / beta * (quality + c)  # (11)
torch.testing.assert_close(averaged, formula, rtol=1e-3, atol=1e-3)
torch.testing.assert_close(summed, optimal_policy(flat, quality, beta)[0], rtol=1e-4, atol=1e-4)
assert averaged[3].exp() > 2.5 * averaged[0].exp() and averaged[7] < -50
print("Checked: sums lead to π* of (1), means to (11).")
print(f"Good answers of 2 and 16 tokens: {summed[0].exp():.2f} and {summed[3].exp():.2f} with sums,")
print(f"{averaged[0].exp():.2f} and {averaged[3].exp():.2f} with means, though their rewards are equal.")

# %% tags=["nbval-check-output"]
check.p1.outcome()

# %% [markdown]
# The sums found $\pi^*$. The means found a policy that is best for another reward, one that pays by the token. (Meng et
# al. 2024 take means on purpose, and drop the reference too: another objective, with another $\beta$.)

# %% [markdown]
# ## 4 · The gradient
#
# What does one step do to the model? Write $m = \hat r_w - \hat r_l$ for the margin of one pair.
#
# **Step 1.** The derivative of the loss by the margin. Since $\frac{d}{dm} \log \sigma(m) = \sigma(-m)$,
#
# $$\frac{d}{dm}\big[-\log \sigma(m)\big] = -\sigma(-m) = -\sigma(\hat r_l - \hat r_w). \tag{12}$$
#
# **Step 2.** The gradient of the margin. The reference is frozen, so only two terms of (9) depend on $\theta$:
#
# $$\nabla m = \beta\,\big[\nabla \log \pi_\theta(y_w \mid x) - \nabla \log \pi_\theta(y_l \mid x)\big]. \tag{13}$$
#
# **Step 3.** Chain rule:
#
# $$\nabla L = -\beta\, \underbrace{\sigma(\hat r_l - \hat r_w)}_{\text{weight}}\,
# \big[\nabla \log \pi_\theta(y_w \mid x) - \nabla \log \pi_\theta(y_l \mid x)\big]. \tag{14}$$

# %%
_ = dpo_gradient()
plt.show()

# %% [markdown]
# *Figure 3. The gradient, factor by factor. Pair A is ranked wrongly and pulls hardest; pair B has margin 0,
# like every pair at the start, and pulls with one half; pair C is ranked correctly by 3 reward units and hardly pulls.*
#
# ### Exercise 6.4 · The weight
# *difficulty 1/5 · importance 4/5 · 4 minutes*
#
# Write the weight of (14) from the implicit rewards of a batch. It belongs on every dashboard: where the mean weight is
# near 0, so is the gradient (14), and training is over.


# %% tags=["exercise"]
def pull(chosen_rewards: Float[Tensor, " B"], rejected_rewards: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """How hard each pair pulls: between 0 and 1."""
    # BEGIN SOLUTION
    return torch.sigmoid(rejected_rewards - chosen_rewards)
    # END SOLUTION


# %% tags=["nbval-check-output"]
check.q4(pull)

# %% tags=["student-only"]
# check.q4.hint()
# check.q4.solution()

# %% tags=["nbval-check-output"]
weight = check.q4.or_ours(pull)

# %% [markdown]
# Now (14) against autograd, in two ways: on the four numbers of a pair, and on all weights of a real GPT-2.

# %% tags=["nbval-check-output"]
chosen_lp, rejected_lp = pw.clone().requires_grad_(), pl.clone().requires_grad_()
by_autograd = torch.autograd.grad(loss_of_pairs(chosen_lp, rejected_lp, rw, rl, beta).sum(), (chosen_lp, rejected_lp))
weights = weight(r_hat(pw, rw, beta), r_hat(pl, rl, beta))  # shape (6000,)
torch.testing.assert_close(by_autograd[0], -beta * weights)  # (12) and (13), by log π(y_w)
torch.testing.assert_close(by_autograd[1], beta * weights)  # and by log π(y_l)


def gradient_of(scalar: Tensor, model: torch.nn.Module) -> Float[Tensor, " D"]:
    """The gradient by all parameters, as one long vector."""
    parts = torch.autograd.grad(scalar, list(model.parameters()), retain_graph=True)
    return torch.cat([part.flatten() for part in parts]).double()


policy = world.new_policy(seed=3)  # some other GPT-2
log_pi = conditional(policy)
one = (0, 17), (0, 101)  # (prompt, answer) of the chosen and of the rejected one
h = (log_pi[one[0]] - log_ref[one[0]]) - (log_pi[one[1]] - log_ref[one[1]])
left_side = gradient_of(-F.logsigmoid(beta * h), policy)
difference = gradient_of(log_pi[one[0]], policy) - gradient_of(log_pi[one[1]], policy)
right_side = -beta * torch.sigmoid(-beta * h.detach()) * difference  # (14)
torch.testing.assert_close(left_side, right_side, rtol=1e-3, atol=1e-6)  # fp32 network
assert left_side.norm() > 0.01
print(f"Checked (12), (13) on 6,000 pairs, and (14) for the {len(left_side):,} parameters of a GPT-2.")

# %% [markdown]
# The weight $\sigma(-\beta h)$ depends on $\beta$ in a second way: $\beta$ stretches the axis. Move the slider.


# %% tags=["nbval-ignore-output"]
slider(of_dpo.pair_weight, "β", [0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0], start=0.1)

# %%
of_dpo.pair_weight(0.1)

# %% [markdown]
# *Figure 4. Weight and push of one pair against h, at β = 0.1: the weight falls from nearly 1 on the left to nearly 0
# on the right; half of it is left at h = 0.*
#
# With $\beta = 0.1$ a pair goes on pulling until the log-ratios differ by about 30 nats: its weight there is still 0.05.
# With $\beta = 1$ it has as little weight left at 3 nats. That is the leash, inside the loss: **a large $\beta$ makes
# the pairs content early.**

# %% tags=["nbval-check-output"]
for b in (0.05, 0.1, 1.0, 2.0):
    rest = torch.sigmoid(torch.tensor(-b * (3 / b)))
    assert abs(rest - 0.047) < 0.001
print("Checked: the weight has fallen to 0.047 at h = 3/β nats, whatever β is.")

# %% [markdown]
# ## 5 · All pairs, or a few
#
# Now we compare DPO with PPO where everything can be computed: in the small world, from the same reference, at the same
# $\beta = 0.5$. PPO is told the *true* reward of every answer. DPO gets *all* pairs of answers, with the probability (7)
# of each comparison.
#
# **Predict.** DPO only sees who won. Where does it end?
#
# - a) farther from $\pi^*$ than the reference is: comparisons say nothing about sizes
# - b) at a sharper policy than $\pi^*$, since it does not explore
# - c) at the same policy as PPO, up to a small distance

# %% tags=["nbval-check-output"]
check.p2("c")  # SOLUTION

# %% [markdown]
# Suppose we have comparisons of *every* pair of answers, as many as we like. The expected loss of two answers $a$, $b$,
# with $p$ the probability of (7) and $q = \sigma(\hat r_a - \hat r_b)$, is a cross-entropy. It splits into two parts
# (notebook 01, equation 20):
#
# $$-p \log q - (1-p) \log (1-q)
# = \underbrace{-p \log p - (1-p) \log (1-p)}_{\text{noise of the annotators}} \;+\;
# \underbrace{p \log\frac{p}{q} + (1-p) \log\frac{1-p}{1-q}}_{\mathrm{KL}(p \,\parallel\, q)\; \ge\; 0}. \tag{15}$$
#
# The first part does not depend on $\theta$. The second is zero exactly where $q = p$, that is where
# $\hat r_a - \hat r_b = r_a - r_b$ for all pairs. Then $\hat r$ and $r$ differ by a function of $x$ only, and by (1)
# the policy is $\pi^*$. So **DPO's optimum is RLHF's optimum**, at the same $\beta$.

# %% tags=["nbval-check-output"]


def full_loss(log_pi: Float[Tensor, "X N"]) -> Float[Tensor, ""]:
    """DPO's expected loss over all pairs of answers to each prompt, averaged over the prompts."""
    return torch.stack([expected_dpo_loss(log_pi[x], log_ref[x], reward[x], beta) for x in range(X)]).mean()


p = preference_probability(reward[:, :, None], reward[:, None, :])  # shape (X, N, N): answer a against answer b
noise = (torch.special.entr(p) + torch.special.entr(1 - p)).mean()
m = r_hat(any_policy, log_ref, beta)
q = torch.sigmoid(m[:, :, None] - m[:, None, :])
excess = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()
torch.testing.assert_close(full_loss(any_policy), noise + excess)  # (15)
torch.testing.assert_close(full_loss(log_star), noise)  # no excess at π*

theta = log_star.clone().requires_grad_()
(at_optimum,) = torch.autograd.grad(full_loss(theta.log_softmax(-1)), theta)
assert at_optimum.abs().max() < 1e-12 and excess > 0.1
print(f"Checked (15): loss = noise + KL. At π* only the noise, {noise:.3f} nats, is left, and the gradient is 0.")

# %% [markdown]
# That is the theory. Now three trainings of the same GPT-2:
#
# - **DPO, all pairs**: the expected loss above, no sampling error;
# - **DPO, 4,000 pairs**: both answers drawn from the reference, one noisy label each, as in real life;
# - **PPO** with the *true* reward: 252 fresh answers a step.


# %% tags=["folded"]
# @title The gap to π*, pairs as people would label them, and DPO by gradient descent
def gap(log_pi: Float[Tensor, "X N"]) -> float:
    """KL(π ‖ π*) in nats, averaged over the prompts."""
    return kl_divergence(log_pi, log_star).mean().item()


def climb(loss_of, steps: int, learning_rate: float = 3e-3) -> tuple[torch.nn.Module, list[float]]:
    """Gradient descent on loss_of(log π) from the reference: the policy, and its gap after every step."""
    policy, gaps = copy.deepcopy(reference), [gap(log_ref)]
    optimizer = make_optimizer(policy, learning_rate)
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(conditional(policy)).backward()
        optimizer.step()
        with torch.no_grad():
            gaps.append(gap(conditional(policy)))
    return policy, gaps


def draw_pairs(n: int, seed: int) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"], Int[Tensor, " n"]]:
    """n pairs as people would give them: a prompt, two answers from the reference, one noisy label."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(X, (n,), generator=generator)
    a, b = torch.multinomial(log_ref.exp()[x], 2, replacement=True, generator=generator).T
    a_wins = torch.bernoulli(preference_probability(reward[x, a], reward[x, b]), generator=generator).bool()
    return x, torch.where(a_wins, a, b), torch.where(a_wins, b, a)


def loss_on(pairs: tuple[Tensor, Tensor, Tensor], beta: float):
    """DPO's mean loss on given pairs, as a function of log π."""
    x, chosen, rejected = pairs
    return lambda log_pi: loss_of_pairs(
        log_pi[x, chosen], log_pi[x, rejected], log_ref[x, chosen], log_ref[x, rejected], beta
    ).mean()


# %% tags=["folded"]
# @title PPO in the same world, on the true reward
def run_ppo(steps: int) -> tuple[torch.nn.Module, list[float]]:
    """PPO on the true reward: the policy, and its gap after every step."""
    config = PPOConfig(
        steps=steps, batch_size=252, learning_rate=3e-3, beta=beta, value_coef=0.5, max_new_tokens=world.length - 1
    )
    prompts = torch.stack([torch.zeros(X, dtype=torch.long), torch.arange(X)], dim=1).repeat(42, 1)  # (252, 2)
    actor, gaps = PolicyWithValue(copy.deepcopy(reference)), [gap(log_ref)]
    rows = train_ppo(
        actor,
        reference,
        lambda y: world.rewards[world.index(torch.cat([y.prompts[:, 1:], y.responses], dim=1))].float(),
        prompts,
        torch.ones_like(prompts, dtype=torch.bool),
        make_optimizer(actor, config.learning_rate, eps=1e-5),
        AdaptiveKL(beta, target=1.0, horizon=10_000),  # holds β: no target_kl in the config
        config,
        seed=0,
    )
    for _ in rows:
        with torch.no_grad():
            gaps.append(gap(conditional(actor.policy)))
    return actor.policy, gaps


# %%
runs = {
    "DPO, all pairs": climb(full_loss, steps=50),
    "DPO, 4,000 pairs": climb(loss_on(draw_pairs(4000, seed=0), beta), steps=60),
    "PPO, true reward": run_ppo(steps=35),
}

reward_read_out = {}  # r̂ + β log Z(x) of every answer, equation (3)
for name in ("DPO, all pairs", "PPO, true reward"):
    with torch.no_grad():
        implicit = r_hat(conditional(runs[name][0]), log_ref, beta)
    reward_read_out[name] = (implicit + beta * log_z[:, None]).flatten()
of_dpo.gaps_and_rewards({name: gaps for name, (_, gaps) in runs.items()}, reward.flatten(), reward_read_out)

# %% [markdown]
# *Figure 5. Left, the gap to π\* on a log scale, from about one nat: DPO with all pairs and PPO end below the dotted line
# at 0.1 nats; DPO with 4,000 pairs falls at first and then rises again. Right, for each of the 1296 answers, the reward
# that can be read out of the trained policy against the true one: the points lie along the diagonal.*

# %% tags=["nbval-ignore-output"]
for name, (trained, gaps) in runs.items():
    with torch.no_grad():
        log_pi = conditional(trained)
    earned, spent = (log_pi.exp() * reward).sum(-1).mean(), kl_divergence(log_pi, log_ref).mean()
    print(f"{name:17}  gap {gaps[-1]:.3f} nats   reward {earned:+.3f}   KL to the reference {spent:.2f} nats")
    if name in reward_read_out:
        assert gaps[-1] < 0.1 < 0.5 < gaps[0]
few = torch.tensor(runs["DPO, 4,000 pairs"][1])
assert few.min() < 0.4 * few[0] and few[-1] > 1.3 * few.min() and 10 <= few.argmin() <= 45
for read_out in reward_read_out.values():
    assert torch.corrcoef(torch.stack([read_out, reward.flatten()]))[0, 1] > 0.95  # along the diagonal
assert abs(torch.sigmoid(torch.tensor(2.0)) - 0.88) < 0.001  # 88 to 12
print("Checked: DPO with all pairs and PPO both end within 0.1 nats of the same optimum.")
print(
    f"DPO with 4,000 pairs was nearest after {few.argmin()} steps, at {few.min():.2f} nats; it ends at {few[-1]:.2f}."
)

# %% tags=["nbval-check-output"]
check.p2.outcome()

# %% [markdown]
# The two roads meet. PPO never saw a comparison, DPO never saw a reward. Comparisons do say something about sizes: a
# pair that people judge 88 to 12 has a reward difference of 2. With 4,000 noisy labels DPO comes closer too, and then
# leaves again: it begins to learn the noise of these labels by heart. More steps do not help; more data does. **The
# theorem is about all pairs; your data set is a few of them.** Xu et al. (2024) see here the main difference in practice:
# PPO asks its reward model about answers that the policy writes *now*, DPO knows only the answers that somebody compared
# *then*.

# %% [markdown]
# ## 6 · DPO on the chatbot
#
# Now the real thing: the course's chatbot, its SFT model as the reference, and pairs that its annotators labelled.
#
# A word on units. Here $\beta = 1$, and a reward unit is that of Bradley and Terry: a difference of 1 means 73 to 27.
# Notebook 05 measured rewards in another unit: the reward model's score was divided by its standard deviation $s$ over
# SFT answers (notebook 02, section 6). So a $\beta$ there is $s$ times as large here, and "the same $\beta$" means
# the same in the same units.

# %% tags=["nbval-ignore-output"]
course = lesson("reward_model", "dpo")
task, sft, tokenizer = course.task, course.sft, course.task.tokenizer
config = replace(course.preset.dpo, steps=80, batch_size=40)
pairs = course.pairs.rows(slice(0, config.steps * config.batch_size)).to(course.device)  # each pair once
heldout = course.heldout_pairs.rows(slice(None, None, 2)).to(course.device)  # every second one: that is enough
probabilities = course.probabilities[::2]  # of the choice that the annotator made, shape (pairs,)
print(f"chosen: shape (N, T) = {tuple(pairs.chosen.shape)} tokens; β = {config.beta:g} reward units per nat")
for i in range(3):
    asked = tokenizer.decode(pairs.prompts[i][pairs.prompt_mask[i]])
    (won,), (lost,) = (
        decode(tokenizer, y[i : i + 1], mask[i : i + 1])
        for y, mask in ((pairs.chosen, pairs.chosen_mask), (pairs.rejected, pairs.rejected_mask))
    )
    print(f"{asked}\n   chosen:   {won}\n   rejected: {lost}")
same = [a.tolist() == b.tolist() for a, b in zip(pairs.chosen, pairs.rejected, strict=True)]
print(f"{sum(same) / len(same):.0%} of the pairs are twice the same answer: their margin is 0, whatever the policy is")
scale = float(course.reward_model.scale)
print(f"s = {scale:.2f}, so the β = 0.05 of notebook 05 is {0.05 * scale:.2f} here")
assert not course.embedded or 0.01 < sum(same) / len(same) < 0.15
assert abs(torch.sigmoid(torch.tensor(1.0)) - 0.73) < 0.005  # 73 to 27

# %% [markdown]
# A step is short: (6) for both answers, the loss (9), one gradient step. `week6.train_dpo` does it here; in exercise 6.6
# you write the loop yourself.
#
# **Predict.** The loss pushes $\log \pi(y_w)$ up and $\log \pi(y_l)$ down. In the dashboard, what will the two implicit
# rewards do?
#
# - a) both end below 0, the rejected one far lower; the margin grows
# - b) both rise, the chosen one faster
# - c) chosen rises above 0, rejected falls below 0, about equally far

# %% tags=["nbval-check-output"]
check.p3("a")  # SOLUTION

# %% tags=["folded"]
# @title Fresh answers to held-out prompts, and the KL that they estimate
questions = list(task.heldout_prompts["prompt"])


def ask(policy: torch.nn.Module, n: int, seed: int) -> tuple[list[str], list[str], Float[Tensor, " n"]]:
    """n held-out prompts, the policy's answers, and their log-ratios log π(y | x) − log π_ref(y | x) in nats."""
    prompts = [questions[i % len(questions)] for i in range(n)]
    judged = judge(policy, sft, lambda y: y.log_probs.sum(-1), task, prompts, 1, seed)  # its reward is not looked at
    return prompts, [text for (text,) in judged.texts], judged.kl.flatten()


def with_kl(rows):
    """The rows of a training loop; every 15 steps with an estimate of KL(π ‖ SFT) from 96 fresh answers."""
    for row in rows:
        if row["step"] % 15 == 0 or row["step"] == config.steps - 1:
            row["kl"] = ask(chatbot, 96, seed=int(row["step"]))[2].mean().item()
        yield row


# %% tags=["nbval-ignore-output"]
chatbot = copy.deepcopy(sft).requires_grad_(True)
training = train_dpo(chatbot, sft, make_optimizer(chatbot, config.learning_rate), pairs, config, seed=0)
metrics = live(with_kl(training), plots.dpo_dashboard)

# %% tags=["nbval-ignore-output"]
display(plots.dpo_dashboard(metrics))

# %% [markdown]
# *Figure 6. DPO's dashboard; pale: single batches. Upper row: the implicit reward of the rejected answers falls steeply
# while that of the chosen ones sinks a little below 0; the margin grows; the share of pairs with a positive margin is 0
# before the first step, when all margins are 0, then about one half, and climbs to about three quarters or more. Lower
# row: the KL to the SFT model grows to about one nat; the log-probabilities tell the same story as the implicit rewards;
# the gradient weight falls from one half to about a third or less.*

# %% tags=["nbval-ignore-output"]
chatbot.requires_grad_(False)
end = metrics.tail(15).mean()
first = metrics.iloc[0]
r_w, r_l = (
    implicit_reward(log_pi, log_sft, config.beta)  # shape (N,)
    for log_pi, log_sft in zip(reference_log_probs(chatbot, heldout), reference_log_probs(sft, heldout), strict=True)
)
agrees = (r_w > r_l).float() + 0.5 * (r_w == r_l).float()  # a tie counts half, shape (N,)
by_dpo, by_reward_model = (
    expected_accuracy(a.cpu(), probabilities).mean().item()  # notebook 02, equation (4)
    for a in (agrees, pair_agreement(course.reward_model, heldout))
)
print(f"first step: loss {first['loss']:.4f} (log 2 = {math.log(2):.4f}), margin {first['margin']:.1e}")
print(
    f"last 15 steps: chosen {end['chosen_reward']:+.2f}, rejected {end['rejected_reward']:+.2f}, margin {end['margin']:+.2f}"
)
print(
    f"a fresh annotator agrees on held-out pairs: with DPO's policy {by_dpo:.3f}, with the lesson's reward model ",
    end="",
)
print(f"{by_reward_model:.3f}, at best (the Bayes ceiling) {bayes_accuracy(probabilities):.3f}")

# %% tags=["folded"]
# @title Check of this run: does it do what the text says?
at_first = (first["loss"] - math.log(2), first["margin"], first["gradient_weight"] - 0.5)
assert max(map(abs, at_first)) < course.rounding
if course.embedded:
    assert end["loss"] < math.log(2) and end["margin"] > 1 and end["gradient_weight"] < 0.4
    assert end["rejected_reward"] < -1 and end["rejected_reward"] < end["chosen_reward"] < 0
    assert first["accuracy"] == 0 and end["accuracy"] > 0.7 and 0.4 < metrics["kl"].dropna().iloc[-1] < 3
    assert by_dpo > 0.7 and abs(by_dpo - by_reward_model) < 0.03

# %% tags=["nbval-check-output"]
check.p3.outcome()

# %% [markdown]
# The policy *is* a reward model. On *held-out* pairs its ranking is as good as that of the lesson's reward model, to within
# 3 points, and nobody gave it a head. (Both are measured by expected accuracy, equation (4) of notebook 02: identical
# answers are a tie and count half, as in the ceiling.) But what does it *say* now?

# %% tags=["nbval-ignore-output", "folded"]
# @title Answers of both to held-out prompts, and their gold reward
n = 2 * len(questions)
prompts_sft, answers_sft, _ = ask(sft, n, seed=1)
prompts_dpo, answers_dpo, log_ratio = ask(chatbot, n, seed=2)
for i in range(0, min(n, 50), 10):
    print(f"{prompts_dpo[i]}\n   SFT: {answers_sft[i]}\n   DPO: {answers_dpo[i]}")

if task.gold is not None:
    gold_sft, gold_dpo = task.gold(prompts_sft, answers_sft), task.gold(prompts_dpo, answers_dpo)
    error = (gold_sft.var() / n + gold_dpo.var() / n).sqrt().item()
    print(f"gold reward: SFT {gold_sft.mean():+.2f}, DPO {gold_dpo.mean():+.2f} (difference ± {error:.2f}, one s.e.)")
    assert not course.embedded or gold_dpo.mean() - gold_sft.mean() > 4 * error
if task.rates is not None:
    rates_sft, rates_dpo = task.rates(prompts_sft, answers_sft), task.rates(prompts_dpo, answers_dpo)
    for name, before_training in rates_sft.items():
        print(f"   {name:28} SFT {before_training:.2f}   DPO {rates_dpo[name]:.2f}")

# %% [markdown]
# The gold reward, which training never saw, is higher than before by many standard errors. So the run is healthy (not
# finished: some answers are polite and wrong). And yet the reward of the chosen answers has gone *down*.

# %% [markdown]
# ### The same on a real model
#
# This is a recorded run of the same functions on SmolLM2-135M, fine-tuned to continue film reviews (notebook 05,
# section 3, tells how it was made). People rated *sentences*, not answers to one prompt, so their comparisons cannot go
# into DPO directly: $Z(x)$ cancels only between answers to the same $x$. They went into a reward model, and it
# labelled pairs of SFT answers: the one with the higher reward is the chosen one, and an answer that does not end in
# time has the reward that PPO gives it, −1. (In a trial without that charge 82 % of the trained policy's answers did not
# end in time: `week6/recorded/README.md`.)

# %% tags=["nbval-ignore-output"]
plots.beside({"Embedded chatbot, just now": metrics, "SmolLM2-135M, recorded": recorded("smollm2_dpo")}, "dpo")

# %% [markdown]
# *Figure 6b. Above, the implicit rewards of chosen and rejected answers while DPO trains; below, the KL to the SFT model,
# measured now and then on fresh answers. Left, the run above; right, the recorded one.*

# %%
before, after = (recorded_summary("smollm2")["policies"][name] for name in ("sft", "dpo"))
columns = ["gold", "gold_se", "proxy", "kl", "length", "n"]  # gold_se: one standard error
print(pd.DataFrame({"SFT": before, "DPO": after}).T[columns].astype(float).round(2).to_string())
assert after["gold"] - before["gold"] > 5 * math.hypot(before["gold_se"], after["gold_se"])
print("Checked: on held-out prompts, DPO's gold reward (VADER) is above SFT's by more than five standard errors.")

# %% tags=["folded"]
# @title Its answers, and how far it went
samples = recorded("smollm2_samples")  # the first held-out prompts, not the best ones
for prompt, answers in list(samples.groupby("prompt", sort=False))[:4]:
    print(prompt)
    for row in answers[answers["policy"].isin(["sft", "dpo"])].itertuples():
        print(f"   {row.policy.upper()} {row.gold:+.2f}  …{' '.join(row.answer.split())}")
real = recorded("smollm2_dpo")
nats, seen = real["chosen_reward"].tail(20).mean() / 0.1, real["kl"].dropna()  # β = 0.1 in that run
assert recorded_summary("smollm2")["settings"]["dpo"]["beta"] == 0.1
assert after["length"] > 1.3 * before["length"] and seen.is_monotonic_increasing and after["kl"] > 5 and nats < -3
print(
    f"Checked: answers longer by more than 30 %; the KL rises at each look; log π(y_w) has changed by {nats:.1f} nats."
)

# %% [markdown]
# Gold went up, and yet this run went far: 9 nats and rising, longer answers, and the chosen ones less likely by several
# nats. Its labels are *certain*, since the higher reward always won: just the case of section 8, where nothing but
# stopping early holds the policy. And read the answers: VADER counts words of praise; it does not see that the
# sentences make little sense.

# %% [markdown]
# ## 7 · "The chosen reward is falling: is it broken?"
#
# The loss pushes $\log \pi_\theta(y_w)$ up, and it falls. Is that a fault? First think of a policy that made none.
#
# **Predict.** The *perfect* policy $\pi^*$ is the best there is, by definition. What is the mean implicit reward of the
# chosen answers under it, over pairs from the reference?
#
# - a) above 0 at every $\beta$: chosen answers are better than average
# - b) below 0 at every $\beta$: probability has to come from somewhere
# - c) above 0 at a large $\beta$, below 0 at a small one

# %% tags=["nbval-check-output"]
check.p4("c")  # SOLUTION

# %% [markdown]
# Where do the pairs come from? Both answers were **sampled from the reference**, and then labelled. A label decides
# which of the two is called $y_w$. It does not change which two they are. So the average over both, chosen and
# rejected together, is an average over samples of $\pi_\mathrm{ref}$:
#
# $$\tfrac12\, \mathbb{E}[\hat r_w + \hat r_l] = \mathbb{E}_{y \sim \pi_\mathrm{ref}}[\hat r(x,y)]
# = \beta\, \mathbb{E}_{\pi_\mathrm{ref}}\Big[\log \frac{\pi_\theta}{\pi_\mathrm{ref}}\Big]
# = -\beta\, \mathrm{KL}(\pi_\mathrm{ref} \parallel \pi_\theta) \;\le\; 0. \tag{16}$$
#
# It is 0 at the start, and afterwards it is **never above 0**, whatever the loss does. (It need not fall at every step:
# it rises again where the policy comes back towards the reference.) With $\hat r_w = $ (half the sum) $+$ (half the
# difference):
#
# $$\mathbb{E}[\hat r_w] = \tfrac12\, \underbrace{\mathbb{E}[\hat r_w - \hat r_l]}_{\text{margin}}
# \;-\; \beta\, \mathrm{KL}(\pi_\mathrm{ref} \parallel \pi_\theta). \tag{17}$$
#
# The chosen reward is a **difference of two numbers, which both start at 0 and both grow as the policy moves away**.
# Which one wins is a matter of $\beta$ and of the data. We check both equations exactly, for three policies of the small
# world.

# %% tags=["nbval-check-output"]


def rewards_of_pairs(log_pi: Float[Tensor, "X N"], beta: float) -> tuple[Tensor, Tensor]:
    """E[r̂_w] and E[r̂_l]: pairs from the reference, labelled by (7). Exact: sums over all pairs, each of shape ()."""
    r = r_hat(log_pi, log_ref, beta)
    both = log_ref.exp()[:, :, None] * log_ref.exp()[:, None, :] * p  # shape (X, N, N): a and b are drawn, a is chosen
    chosen, rejected = (2 * both * r[:, :, None]).sum((1, 2)), (2 * both * r[:, None, :]).sum((1, 2))
    return chosen.mean(), rejected.mean()


for log_pi in (log_ref, any_policy, log_star):
    chosen, rejected = rewards_of_pairs(log_pi, beta)
    kl_from_reference = kl_divergence(log_ref, log_pi).mean()
    torch.testing.assert_close((chosen + rejected) / 2, -beta * kl_from_reference)  # (16)
    torch.testing.assert_close(chosen, (chosen - rejected) / 2 - beta * kl_from_reference)  # (17)
    assert (chosen + rejected) / 2 < 1e-9
far, near = (-beta * kl_divergence(log_ref, optimal_policy(log_ref, reward, b)[0]).mean() for b in (0.25, 1.0))
assert far < near < 0  # a policy that goes from the optimum of β = 0.25 to that of β = 1 has half the sum rising
print("Checked (16) and (17), exactly, for the reference, a random policy, and π*. Half the sum can rise, below 0.")

# %%
betas = torch.logspace(-1, 0.7, 40, dtype=torch.float64)  # shape (40,)
table = []
for b in betas.tolist():
    best, _ = optimal_policy(log_ref, reward, b)
    chosen, rejected = rewards_of_pairs(best, b)
    table.append((chosen, rejected, -b * kl_divergence(log_ref, best).mean()))
chosen, rejected, both = torch.tensor(table, dtype=torch.float64).T  # each of shape (40,)

of_dpo.rewards_of_the_optimum(betas, chosen, rejected, both)

# %% [markdown]
# *Figure 7. The exact optimum for many values of β. Left, the chosen reward is above 0 for large β and far below 0 for
# small β; the rejected one is always lower. Right, the margin is the same for every β, while the log-likelihood of the
# chosen answers falls steeply as β gets small.*

# %% tags=["nbval-check-output"]
turn = betas[chosen < 0].max()
pairs_margin = (
    ((2 * log_ref.exp()[:, :, None] * log_ref.exp()[:, None, :] * p) * (reward[:, :, None] - reward[:, None, :]))
    .sum((1, 2))
    .mean()
)
torch.testing.assert_close(chosen - rejected, pairs_margin.expand(40))
assert chosen[0] < -0.2 and chosen[-1] > 0.1 and torch.all(rejected < chosen)
print(f"Checked: at π* the margin is {pairs_margin:.2f} reward units for every β: the margin of the true rewards.")
print(f"The chosen reward of π* changes its sign near β = {turn:.1f}. At β = {betas[0]:.1f} it is {chosen[0]:.2f}.")

# %% tags=["nbval-check-output"]
check.p4.outcome()

# %% [markdown]
# Even the perfect policy lowers the log-probability of the answers that people chose, on average, if
# $\beta$ is small: it puts its probability on the answers that it likes *best*, and that must come from somewhere.
# "Chosen" only means *better than the other one*. What to make of a run, as advice:
#
# | you see | it means |
# |---|---|
# | margin grows, chosen falls slowly | normal, by (17) |
# | margin grows, gold (or a judge) of **fresh samples** rises | healthy, whatever chosen does |
# | chosen falls by many nats, KL of fresh samples explodes, their quality falls | too far: raise $\beta$, or stop earlier |
# | margin does not grow | broken, see "asked every year" |
#
# And where did the probability go in our chatbot? To the answers that it writes now. For them the mean of $\hat r$ is
# $\mathbb{E}_{\pi_\theta}[\hat r] = \beta\, \mathrm{KL}(\pi_\theta \parallel \pi_\mathrm{ref}) \ge 0$: the same
# quantity as in (16), with the samples from the other policy.

# %% tags=["nbval-ignore-output"]
fresh = config.beta * log_ratio  # r̂ of the chatbot's own answers to held-out prompts
for name, values in (("rejected", r_l), ("chosen", r_w), ("its own fresh answers", fresh)):
    error = values.std() / len(values) ** 0.5
    print(f"implicit reward, {name:22} {values.mean():+.2f} ± {error:.2f} reward units (one s.e.)")
half = (r_w + r_l) / 2
print(
    f"(16): half the sum is {half.mean():+.2f}, so KL(SFT ‖ chatbot) is about {-half.mean() / config.beta:.2f} nats per answer."
)
course.claim(
    "Checked: rejected < chosen < 0 < its own answers; (16) and the last one by more than 4 standard errors.",
    half.mean() + 4 * half.std() / len(half) ** 0.5 < 0 < fresh.mean() - 4 * fresh.std() / len(fresh) ** 0.5,
    r_l.mean() < r_w.mean() < min(0, fresh.mean()),
)

# %% [markdown]
# ### The reward, token by token
#
# $\log \pi(y \mid x)$ is a sum over tokens, so $\hat r$ is one too. Each token has its own share,
# $\beta\, (\log \pi - \log \pi_\mathrm{ref})_t$. We take the chatbot that was trained longer (the course keeps it) and
# look at held-out pairs that the annotators found clear.


# %% tags=["folded"]
# @title The share of each token in the implicit reward of a pair's two answers
def shares_of_tokens(pairs):
    """r̂ of each token of the chosen and of the rejected answers under the longer trained chatbot, each (B, T)."""
    answers = ((pairs.chosen, pairs.chosen_mask), (pairs.rejected, pairs.rejected_mask))
    with torch.no_grad():
        return [
            implicit_reward(
                *(response_log_probs(m, pairs.prompts, pairs.prompt_mask, *answer) for m in (course.dpo, sft)),
                course.preset.dpo.beta,
            )
            for answer in answers
        ]


def rows_of_heatmap(pairs):
    """Words, their shares, and a label for each answer, the two of a pair together."""
    words, values, labels = [], [], []
    shares = shares_of_tokens(pairs)
    for i in range(len(pairs)):
        asked = tokenizer.decode(pairs.prompts[i][pairs.prompt_mask[i]], skip_special_tokens=True)
        for kind, share in zip(("chosen", "rejected"), shares, strict=True):
            mask = getattr(pairs, f"{kind}_mask")[i]
            words.append([tokenizer.decode([token]) for token in getattr(pairs, kind)[i][mask].tolist()])
            values.append(share[i][mask].tolist())
            labels.append(f"{asked}   {kind}, sum {sum(values[-1]):+.1f}".replace("-", "−"))
    return words, values, labels


# %% tags=["nbval-ignore-output"]
clear = probabilities.sub(0.5).abs().argsort(descending=True, stable=True)[::13][:3]  # three clear pairs
words, values, labels = rows_of_heatmap(heldout.rows(clear.to(course.device)))
display(plots.token_heatmap(words, values, "Implicit reward of each token", labels))

some = heldout.rows(slice(0, 200))
_, per_token = shares_of_tokens(some)
at_first, later = per_token[:, 0].abs().mean(), per_token[:, 1:][some.rejected_mask[:, 1:]].abs().mean()
print(f"200 rejected answers, mean |share|: first token {at_first:.2f}, later tokens {later:.2f} reward units")
two_largest = per_token.abs().topk(2, dim=1).values.sum(1) / per_token.abs().sum(1)  # share of the two largest tokens
print(f"two tokens of an answer carry {two_largest.mean():.0%} of all its shares, on average")
assert not course.embedded or (at_first > 2 * later and two_largest.mean() > 0.6)

# %% [markdown]
# *Figure 8. Three pairs, the chosen answer above the rejected one; under each word its share of the implicit reward in
# reward units, above the row the prompt and the sum. Two words of an answer carry most of it. Among rejected answers the
# first one has the largest share: it settles what kind of answer it will be (means over 200 of them: above the caption).*
#
# Nobody labelled tokens. That DPO's sum gives credit to single tokens is the subject of Rafailov et al. (2024). But be
# careful how you read it: only the sum over the answer was trained.

# %% [markdown]
# ## 8 · When the labels are certain, or wrong: cDPO and IPO
#
# Suppose one pair is always labelled the same way, as every pair is in a data set with one label each. Then
# $-\log \sigma(m)$ has no minimum: the margin wants to grow for ever. Two repairs, one line each.
#
# **cDPO** (Mitchell 2023) assumes that a share $\varepsilon$ of the labels is flipped, $0 \le \varepsilon \lt \frac12$:
#
# $$L_\mathrm{cDPO} = -(1-\varepsilon) \log \sigma(m) - \varepsilon \log \sigma(-m), \qquad m = \beta h. \tag{18}$$
#
# **IPO** (Azar et al. 2023) drops the logistic curve and takes the square of the distance from a target:
#
# $$L_\mathrm{IPO} = \Big(h - \frac{1}{2\beta}\Big)^2. \tag{19}$$
#
# ### Exercise 6.5 · Two variants
# *difficulty 2/5 · importance 3/5 · 8 minutes*
#
# Write (18) and (19) for a batch of $h$ (in nats, shape `(B,)`). Return the pair (cDPO loss, IPO loss), one number a
# pair each. For $\varepsilon = 0$ the first is plain DPO. Margins of $\pm 1000$ must stay finite, and the gradient of both
# must reach `h`.


# %% tags=["exercise"]
def variants(h: Float[Tensor, " B"], beta: float, epsilon: float) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
    """(cDPO loss with flip rate ε, IPO loss) of each pair."""
    # BEGIN SOLUTION
    margin = beta * h
    cdpo = -(1 - epsilon) * F.logsigmoid(margin) - epsilon * F.logsigmoid(-margin)
    ipo = (h - 1 / (2 * beta)) ** 2
    return cdpo, ipo
    # END SOLUTION


# %% tags=["nbval-check-output"]
check.q5(variants)

# %% tags=["student-only"]
# check.q5.hint()
# check.q5.solution()

# %% tags=["nbval-check-output"]
cdpo_and_ipo = check.q5.or_ours(variants)

# %% [markdown]
# **Predict.** One prompt, two answers, always the same label; a table of two logits, plain gradient descent, and
# $\beta = 0.5$. After 1,000 steps, where are the margins of DPO, cDPO with $\varepsilon = 0.1$, and IPO?
#
# - a) DPO still growing, cDPO at rest near 2.2, IPO at rest at 0.5
# - b) all three at the same value
# - c) all three still growing, at different speeds

# %% tags=["nbval-check-output"]
check.p5("a")  # SOLUTION

# %%
half_log = torch.full((2,), math.log(0.5), dtype=torch.float64)  # the reference: both answers equally likely
one_beta, flip = 0.5, 0.1
paths = {}
for name, loss_of_h in (
    ("DPO", lambda h: cdpo_and_ipo(h, one_beta, 0.0)[0]),
    ("cDPO, ε = 0.1", lambda h: cdpo_and_ipo(h, one_beta, flip)[0]),
    ("IPO", lambda h: cdpo_and_ipo(h, one_beta, 0.0)[1]),
):
    theta, path = torch.zeros(2, dtype=torch.float64, requires_grad=True), []
    for _ in range(1001):
        log_ratio_of = theta.log_softmax(-1) - half_log  # answer 0 is always chosen, answer 1 rejected
        h = log_ratio_of[:1] - log_ratio_of[1:]  # shape (1,)
        path.append(one_beta * h.item())
        (gradient,) = torch.autograd.grad(loss_of_h(h).sum(), theta)
        theta = (theta - 0.2 * gradient).detach().requires_grad_()
    paths[name] = path

of_dpo.margins_of_one_pair(paths, {r"$\log\,9$": math.log(9), "½": 0.5})

# %% [markdown]
# *Figure 9. The margin of one pair against the gradient step, on a log scale. DPO's goes on rising; that of cDPO comes
# to rest at log 9 = 2.2, that of IPO at one half.*
#
# The resting places can be computed. The derivative of (18) by $m$ is
# $-(1-\varepsilon)\,\sigma(-m) + \varepsilon\, \sigma(m) = \sigma(m) - (1-\varepsilon)$. Set to zero,
# $\sigma(m) = 1 - \varepsilon$. The square (19) is least at its target, $h = \frac{1}{2\beta}$. So
#
# $$m^*_\mathrm{cDPO} = \log\frac{1-\varepsilon}{\varepsilon}, \qquad
# m^*_\mathrm{IPO} = \beta \cdot \frac{1}{2\beta} = \tfrac12. \tag{20}$$

# %% tags=["nbval-check-output"]
for b in (0.1, 0.5, 2.0):
    for e in (0.01, 0.1, 0.4):
        h = torch.tensor([math.log((1 - e) / e) / b], dtype=torch.float64, requires_grad=True)  # (20)
        (slope,) = torch.autograd.grad(cdpo_and_ipo(h, b, e)[0].sum(), h)
        assert slope.abs().item() < 1e-12
    h = torch.tensor([1 / (2 * b)], dtype=torch.float64, requires_grad=True)  # (20)
    (slope,) = torch.autograd.grad(cdpo_and_ipo(h, b, 0.1)[1].sum(), h)
    assert slope.abs().item() < 1e-12
assert abs(paths["cDPO, ε = 0.1"][-1] - math.log(9)) < 0.02 and abs(paths["IPO"][-1] - 0.5) < 1e-3
assert paths["DPO"][-1] > 4 and paths["DPO"][-1] - paths["DPO"][-301] > 0.05
assert math.log(0.6 / 0.4) < 0.41 < math.log(0.9 / 0.1)  # ε = 0.4 allows 0.41, where 90 to 10 means 2.2
print("Checked (20): the slopes are 0 there for nine and three settings, and gradient descent goes there.")

# %% tags=["nbval-check-output"]
check.p5.outcome()

# %% [markdown]
# DPO is a maximum-likelihood fit, and pairs that are never contradicted have no finite one (notebook 01, section 5).
# There $\beta$ does not hold the policy: only early stopping does. cDPO and IPO put the brake into the loss. The price:
# with $\varepsilon$ too large, true preferences are damped as well. At $\varepsilon = 0.4$ a margin of 0.41 is the
# limit, even for a pair that people judge 90 to 10, which is a margin of 2.2.
#
# ### β, measured
#
# Does a larger $\beta$ let the policy go farther, or hold it nearer? It is easy to get this the wrong way round, so we
# measure: DPO in the small world, 4,000 noisy pairs, four values of $\beta$, the same number of steps.

# %%
several = [0.25, 0.5, 1.0, 2.0]
nats = []
for b in several:
    trained, _ = climb(loss_on(draw_pairs(4000, seed=1), b), steps=30)
    with torch.no_grad():
        nats.append(kl_divergence(conditional(trained), log_ref).mean().item())
exact = [kl_divergence(optimal_policy(log_ref, reward, b)[0], log_ref).mean().item() for b in several]

of_dpo.kl_against_beta(several, {"DPO, 4,000 pairs, 30 steps": nats, r"exact optimum $\pi^*$": exact})

# %% [markdown]
# *Figure 10. KL to the reference against β, both axes logarithmic: both lines fall from left to right.*

# %% tags=["nbval-ignore-output"]
for b, trained_kl, exact_kl in zip(several, nats, exact, strict=True):
    print(f"β = {b:4g}   KL: DPO {trained_kl:.3f}, exact {exact_kl:.3f} nats")
assert all(a > b for a, b in zip(nats, nats[1:], strict=False)) and nats[0] > 3 * nats[-1]
print("Checked: each doubling of β lowers the KL.")

# %% [markdown]
# ## 9 · Your own DPO
#
# ### Exercise 6.6 · Capstone: the training loop
# *difficulty 4/5 · importance 5/5*
#
# Write DPO's training as a generator, about 20 lines. In come a policy, the frozen reference, the policy's optimizer, the
# pairs, the settings and a seed. It trains the policy in place, and after each step it yields a dict with the metrics of
# that step, as they were *before* its update. The tools: `pair_log_probs(model, pairs)` gives (6) for the chosen and for
# the rejected answers, in one forward pass; `reference_log_probs(reference, pairs)` the same without gradient, in parts
# that fit the memory. `minibatch(n, batch_size, step, seed)` gives the row numbers of a step, `pairs.rows(rows)` these
# pairs. `descend(loss, model, optimizer)` takes one gradient step. `loss_of_pairs` and `r_hat` are yours.
#
# How it is judged: after two steps on pairs of a small chatbot the weights must be those of the tested loop, to within
# 3 % of the way that they went, and the metrics must be right. Then your loop trains in three exact worlds, with 1,500
# pairs each: the reference may be asked once about each answer, and the gap to $\pi^*$ must fall by at least 40 % of what
# it falls with our loop. A check takes a few seconds. An unfinished loop may yield the metrics that it has.


# %% tags=["exercise"]
def train_on_pairs(
    policy: torch.nn.Module,
    reference: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    pairs: Pairs,
    config: DPOConfig,
    seed: int,
) -> Iterator[dict[str, float]]:
    """DPO: trains `policy` in place, config.steps steps of config.batch_size pairs.

    Yields once a step, from before its update: "loss"; the mean "margin", "chosen_reward" and "rejected_reward", in
    reward units; "accuracy", the share of the pairs with a margin above 0.
    """
    # 1  dropout off
    # 2  the reference's log-probabilities of all pairs: once
    # 3  in each step: the rows of this step, the policy's log-probabilities of these pairs
    # 4  the mean loss, with config.beta, and the metrics from the same numbers
    # 5  a gradient step; then yield
    # BEGIN SOLUTION
    policy.eval()
    ref_chosen, ref_rejected = reference_log_probs(reference, pairs)
    for step in range(config.steps):
        rows = minibatch(len(pairs), config.batch_size, step, seed)
        chosen, rejected = pair_log_probs(policy, pairs.rows(rows))
        loss = loss_of_pairs(chosen, rejected, ref_chosen[rows], ref_rejected[rows], config.beta).mean()
        chosen_reward = r_hat(chosen.detach(), ref_chosen[rows], config.beta)
        rejected_reward = r_hat(rejected.detach(), ref_rejected[rows], config.beta)
        descend(loss, policy, optimizer)
        margin = chosen_reward - rejected_reward
        yield {
            "loss": loss.item(),
            "margin": margin.mean().item(),
            "accuracy": (margin > 0).float().mean().item(),
            "chosen_reward": chosen_reward.mean().item(),
            "rejected_reward": rejected_reward.mean().item(),
        }
    # END SOLUTION


# %% tags=["nbval-check-output"]
check.capstone(train_on_pairs)

# %% tags=["student-only"]
# check.capstone.hint()
# check.capstone.solution()

# %% tags=["nbval-ignore-output"]
your_loop = check.capstone.or_ours(train_on_pairs)

# %% [markdown]
# Now the chatbot: 40 steps of 40 pairs with your loop, from the SFT model, at a constant learning rate.

# %% tags=["nbval-ignore-output"]
settings = replace(config, steps=40)
student = copy.deepcopy(sft).requires_grad_(True)
loop = your_loop(student, sft, make_optimizer(student, config.learning_rate), pairs, settings, 0)
history = pd.DataFrame(tqdm(loop, total=settings.steps, unit="step"))
print(history.iloc[[0, 9, 19, 29, 39]].astype(float).round(3).to_string())
r_w, r_l = (
    implicit_reward(log_pi, log_sft, config.beta)
    for log_pi, log_sft in zip(reference_log_probs(student, heldout), reference_log_probs(sft, heldout), strict=True)
)
agrees = (r_w > r_l).float() + 0.5 * (r_w == r_l).float()
by_you = expected_accuracy(agrees.cpu(), probabilities).mean().item()
print(f"a fresh annotator agrees on held-out pairs: {by_you:.3f}; with section 6's policy {by_dpo:.3f}")
assert (dpo_capstone.WEIGHTS, 1 - dpo_capstone.SLACK, dpo_capstone.N_PAIRS) == (0.03, 0.4, 1500)  # as the exercise says
course.claim(
    "Checked: your loop has trained the chatbot: the first loss is log 2, and it ranks more than 0.7 of the held-out pairs.",
    abs(float(history["loss"].iloc[0]) - math.log(2)) < course.rounding,
    by_you > 0.7,
)

# %% [markdown]
# ### An open experiment: a fifth of the labels is flipped
#
# In the small world, turn over a random fifth of the labels of 4,000 pairs. cDPO has a setting for just this, $\varepsilon$
# (18). `with_flips(epsilon, seed)` trains for 30 steps with the loss (18) and gives the gap to $\pi^*$ and the KL to the
# reference, in nats; a run takes a second or two.
#
# Fill a table with $\varepsilon$ = 0, 0.1, 0.2 and 0.3, three seeds each: means, and the spread over the seeds. **Before you run
# it, write down your guess.** Then answer: which $\varepsilon$ ends nearest to $\pi^*$? Is it the true share of flips? What
# policy is the optimum of (18) with *all* pairs: does it undo the flips?

# %% tags=["folded"]
# @title One run of the experiment


def with_flips(epsilon: float, seed: int) -> dict[str, float]:
    """Gap to π* and KL to the reference (nats) after 30 steps of cDPO on 4,000 pairs, a fifth of them flipped."""
    x, chosen, rejected = draw_pairs(4000, seed=10 + seed)
    flipped = torch.rand(4000, generator=torch.Generator().manual_seed(seed)) < 0.2
    won, lost = torch.where(flipped, rejected, chosen), torch.where(flipped, chosen, rejected)

    def loss_of(log_pi: Float[Tensor, "X N"]) -> Float[Tensor, ""]:
        h = (log_pi[x, won] - log_ref[x, won]) - (log_pi[x, lost] - log_ref[x, lost])
        return cdpo_and_ipo(h, beta, epsilon)[0].mean()

    trained, gaps = climb(loss_of, steps=30)
    with torch.no_grad():
        return {"gap": gaps[-1], "KL": kl_divergence(conditional(trained), log_ref).mean().item()}


# %% tags=["exercise"]
def table_of(settings: list[float], seeds: list[int]) -> pd.DataFrame:
    """One row for each ε and seed, with the columns "ε", "seed" and those of `with_flips`."""
    # BEGIN SOLUTION
    runs = tqdm([(epsilon, seed) for epsilon in settings for seed in seeds], unit="run")
    return pd.DataFrame([{"ε": epsilon, "seed": seed, **with_flips(epsilon, seed)} for epsilon, seed in runs])
    # END SOLUTION


# %% tags=["student-only"]
# table = table_of([0.0, 0.1, 0.2, 0.3], [0, 1, 2])
# table.drop(columns="seed").groupby("ε").agg(["mean", "std"]).round(2)

# %% tags=["solution-only", "nbval-ignore-output"]
table = table_of([0.0, 0.1, 0.2, 0.3], [0, 1, 2])
print(table.drop(columns="seed").groupby("ε").agg(["mean", "std"]).round(2).to_string())
for _, run_of_seed in table.groupby("seed"):
    assert run_of_seed["gap"].is_monotonic_increasing and run_of_seed["KL"].is_monotonic_decreasing
print("Checked: with each of three seeds a larger ε ends farther from π*, and nearer to the reference.")
seen = 0.8 * 0.9 + 0.2 * 0.1  # what people judge 90 to 10 is 74 to 26 among labels of which a fifth is flipped
for epsilon, share in ((0.0, seen), (0.2, 0.6 * seen + 0.2)):  # σ of the margin where (18) is least
    h = torch.tensor([math.log(share / (1 - share)) / beta], dtype=torch.float64, requires_grad=True)
    expected = seen * cdpo_and_ipo(h, beta, epsilon)[0] + (1 - seen) * cdpo_and_ipo(-h, beta, epsilon)[0]
    (slope,) = torch.autograd.grad(expected.sum(), h)
    assert slope.abs().item() < 1e-12
    print(f"ε = {epsilon}: 90 to 10 becomes {share:.0%} to {1 - share:.0%}, a margin of {beta * h.item():.2f}")
print(f"The true margin is {math.log(9):.2f}.")

# %% [markdown] tags=["solution-only"]
# **The course's own answer.** The best $\varepsilon$ of the four is 0, and the true share of flips, 0.2, does harm. Flips
# shrink the margins that the labels show: a pair that people judge 90 to 10 is seen as 74 to 26. cDPO does not undo this.
# It *expects* flips to come on top and holds the margin back once more, to 64 to 36: its optimum lies nearer to the
# reference than that of plain DPO. It is a brake against labels that are too certain, as in section 8. (A loss that takes
# the flips back subtracts the second term instead of adding it: Chowdhury et al. 2024, *Provably robust DPO*, arXiv
# 2403.00409.)

# %% [markdown]
# ## 10 · What we showed
#
# - $r = \beta \log(\pi^*/\pi_\mathrm{ref}) + \beta \log Z(x)$: every language model is the best policy for its own
#   implicit reward. In a comparison $Z(x)$ cancels.
# - DPO's loss is Bradley–Terry on implicit rewards, from **summed** log-probabilities. With means it has another
#   optimum, one that pays by the token.
# - The gradient: push up $y_w$, push down $y_l$, hardest where the pair is ranked wrongly.
# - The trained policy ranks held-out pairs as well as the lesson's reward model does, to within 3 points.
# - With all pairs, DPO and PPO reach the same policy at the same $\beta$, to within 0.1 nats. With few pairs, data is
#   the limit.
# - A falling chosen reward is no bug: half the sum of chosen and rejected is
#   $-\beta\, \mathrm{KL}(\pi_\mathrm{ref} \parallel \pi_\theta)$, and that is never above 0. Watch the margin, and the
#   quality of fresh answers.
#
# ### Three questions to think about
#
# 1. Equation (16) needs pairs that were sampled from the reference. Your pairs were written by experts instead. What
#    can you still say about the chosen reward?
# 2. Somebody trains the reward model of notebook 02 and then says: "with DPO I save its errors". Is that right?
# 3. Your pairs are (good answer, the same answer with one wrong word). Most tokens of $y_w$ and $y_l$ agree. What does
#    (14) do on the common tokens before the wrong word, and what after it?

# %% [markdown] tags=["solution-only"]
# **Answers.**
#
# 1. Nothing, from (16): $\mathbb{E}[\hat r]$ over the experts' answers is
#    $\beta\, [\mathrm{KL}(q \parallel \pi_\mathrm{ref}) - \mathrm{KL}(q \parallel \pi_\theta)]$ with $q$ the
#    distribution of those answers. It rises when the policy comes nearer to $q$, and it may fall as well. Such answers
#    are far from the reference. Rafailov et al. (2023, section 4) advise to fine-tune on the chosen ones first, and to
#    take that model as the reference.
# 2. No. DPO fits a reward model, the implicit one, to the same pairs, with the same noise. It can be wrong on answers
#    that nobody compared, and the policy moves to such answers. Reward hacking does not need a separate reward model.
# 3. Before the wrong word both answers have the same beginning, so the two gradients are equal there and cancel
#    exactly. At the wrong word the right one is pushed up and the wrong one down. After it the words agree but the
#    beginnings differ: there the gradients do not cancel, and a shared model may well lower words that are right.

# %% tags=["solution-only", "nbval-check-output"]
x_pair, right, wrong = 2, 7 * 6 + 1, 8 * 6 + 1  # three-word answers: word numbers (1, 1, 1) and (1, 2, 1)
assert [world.sequences[x_pair * N + y].tolist() for y in (right, wrong)] == [[2, 1, 1, 1], [2, 1, 2, 1]]
model = world.new_policy(seed=3)
row = torch.tensor([[0, 2, 1, 1, 1], [0, 2, 1, 2, 1]])  # start, prompt, answer
log_p = model(input_ids=row).logits[:, :-1].log_softmax(-1).gather(-1, row[:, 1:, None]).squeeze(-1)  # shape (2, 4)
before = gradient_of(log_p[0, 1] - log_p[1, 1], model)  # the first answer word: the same in both
after = gradient_of(log_p[0, 3] - log_p[1, 3], model)  # the last one: the same word after another beginning
assert before.abs().max() < 1e-6 < 0.1 < after.norm()
print("Checked (question 3): the gradients cancel before the first difference, and not after it.")

q_experts = (5 * reward).log_softmax(-1)  # an expert's distribution, far from the reference
left_side = (q_experts.exp() * r_hat(log_star, log_ref, beta)).sum(-1)
right_side = beta * (kl_divergence(q_experts, log_ref) - kl_divergence(q_experts, log_star))
torch.testing.assert_close(left_side, right_side)
print("Checked (question 1): the implicit reward of the experts' answers is a difference of two KLs.")

# %% [markdown]
# ### Asked every year
#
# **"My loss stands at 0.6931."** That is $\log 2$: the margin is 0 for every pair. One reason: the reference is
# not a frozen *copy* but the policy itself. Then $h$ is 0 for ever. If the reference's part carries a gradient, the
# two gradients cancel and nothing moves. If it does not, the model moves, and the loss still says 0.6931.

# %% tags=["nbval-check-output"]
lp = torch.randn(2, 5, generator=g, dtype=torch.float64, requires_grad=True)  # log π of 5 chosen and 5 rejected answers
for name, ref_lp in (("with gradient", lp), ("without", lp.detach())):
    stuck = dpo_loss(lp[0], lp[1], ref_lp[0], ref_lp[1], beta).loss.mean()
    (gradient,) = torch.autograd.grad(stuck, lp)
    print(f"reference = policy, {name:13}: loss {stuck:.4f}, largest gradient {gradient.abs().max():.3f}")
    assert abs(stuck.item() - math.log(2)) < 1e-12 and (gradient.abs().max() > 0.01) == (name == "without")

# %% [markdown]
# **"My margins grow nicely. With chosen and rejected swapped they grow just as nicely. How do I notice?"** Not from the
# training curves: they are the same picture. Only a look at data, or at fresh answers, tells. In the small world:

# %% tags=["nbval-ignore-output"]
x, chosen_y, rejected_y = draw_pairs(4000, seed=2)
for name, some_pairs in (("right way round", (x, chosen_y, rejected_y)), ("swapped", (x, rejected_y, chosen_y))):
    trained, _ = climb(loss_on(some_pairs, beta), steps=20)
    with torch.no_grad():
        log_pi = conditional(trained)
        final, earned = loss_on(some_pairs, beta)(log_pi).item(), (log_pi.exp() * reward).sum(-1).mean().item()
    print(f"{name:16} loss {math.log(2):.3f} → {final:.3f}   true reward {earned:+.2f}")
    before_training = (log_ref.exp() * reward).sum(-1).mean().item()
    assert final < 0.66 and (earned > before_training) == (name == "right way round")
print(f"The reference had {before_training:+.2f}.")

# %% [markdown]
# **"DPO has no reward model. Can its policy still be hacked?"** It has one, the implicit reward, and where the data says
# nothing that is a guess. Rafailov et al. (2024, *Scaling laws for reward model overoptimization in direct alignment
# algorithms*) find the same fall of quality at a large KL as for PPO. In section 5 the 4,000 pairs and all pairs differ
# in nothing but the data, and with 4,000 the gap to $\pi^*$ ended larger.
#
# ### Where it goes next
#
# We have PPO (05), DPO, best-of-n and the exact optimum. **Notebook 07** puts all of them on one picture: gold reward
# against KL, several seeds, and what each costs. **Notebook 08** lets you talk with the result.
#
# ### References
#
# - R. Rafailov et al. (2023), *Direct preference optimization: your language model is secretly a reward model*, arXiv
#   2305.18290. Its equations 4 to 7 are our (1), (3), (8) and (9); section 4 has the gradient.
# - E. Mitchell (2023), *A note on DPO with noisy preferences and relationship to IPO*. cDPO.
# - M. Azar et al. (2023), *A general theoretical paradigm to understand learning from human preferences*, arXiv
#   2310.12036. IPO.
# - R. Rafailov et al. (2024), *From r to Q\*: your language model is secretly a Q-function*, arXiv 2404.12358. Credit
#   per token; why the chosen likelihood falls.
# - R. Rafailov et al. (2024), *Scaling laws for reward model overoptimization in direct alignment algorithms*, arXiv
#   2406.02900.
# - S. Xu et al. (2024), *Is DPO superior to PPO for LLM alignment?*, arXiv 2404.10719. Off-data answers.
# - Y. Meng, M. Xia, D. Chen (2024), *SimPO*, arXiv 2405.14734. Means on purpose, and no reference.
