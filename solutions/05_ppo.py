# %% [markdown]
# # 05 · PPO on a language model
#
# Notebook 04 built PPO on a toy with 64 answers. Now it trains our chatbot. The algorithm fits into eight lines, and
# many things in them can be got wrong without any error: the run goes on, and the chatbot does not learn what it
# should. This notebook goes through the eight lines, breaks some of them on purpose, and shows you what to watch.

# %% [markdown]
# ## What you will be able to do
#
# - Name the four models of PPO for language models, and say what each one gives.
# - Write the parts of the training loop that are peculiar to language models, and check details of the rest with tests
#   that fail when the detail is wrong.
# - Read the dashboard: is it learning, is it drifting, is the code right?
# - Find out what a weaker leash does to a policy, in the curves and in its answers.
# - Look at five broken runs and name the bug in each.
# - Write a whole step of PPO, and train the chatbot with it.
#
# **You need:** notebooks 03 (the objective, KL per token) and 04 (GAE, the clip). **Time:** {minutes} minutes of work;
# for the capstone in section 6 plan half an hour more, as a guess. Who is short of time can leave out line 8 with exercise
# 5.4, and section 6: nothing later needs them. The cells run in two to three
# minutes on a laptop CPU, and two to three minutes more if the course's small chatbot has to be trained first. Where
# there is a GPU, the same cells train GPT-2-small on film reviews. The text and its numbers are about the embedded
# chatbot; with another model a cell says where they do not hold.
#
# Words that this notebook uses all the time:
#
# | word | meaning |
# |---|---|
# | **EOS** | the token that ends an answer ("end of sequence"); the policy chooses it like any other |
# | **proxy** | the learned reward $r_\phi$: what is trained on |
# | **gold** reward | what was really meant; here the rule by which the simulated people judge, which training never sees |
# | **critic** | the value function $V$, which judges how things stand |
# | **minibatch** | a part of a batch of answers, on which one gradient step is taken |
# | **dropout** | setting a random share of the activations to 0 in each forward pass, a habit from other trainings |

# %% tags=["folded"]
# @title Set-up: what this notebook uses
import math
import re
from collections.abc import Callable
from copy import deepcopy
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
    PolicyWithValue,
    PPOConfig,
    Rollout,
    clipped_policy_loss,
    clipped_value_loss,
    decode,
    descend,
    encode_prompts,
    gae,
    generator_for,
    kl_estimators,
    make_optimizer,
    masked_whiten,
    minibatch,
    position_ids,
    response_log_probs,
    sample,
    score,
    token_log_probs,
    train_ppo,
)
from week6.checks import nb05 as check
from week6.checks import ppo_capstone
from week6.classroom import museum
from week6.classroom.lesson import lesson
from week6.classroom.widgets import live
from week6.machine.optim import set_learning_rate
from week6.pictures import of_ppo, plots
from week6.pictures.figures import roadmap
from week6.recorded import recorded, recorded_summary
from week6.run.evaluation import judge
from week6.run.models import PRESETS
from week6.run.pipeline import watch_ppo

plt.rcParams.update(plots.STYLE)
torch.set_num_threads(1)  # the model is small: a second thread would only wait

# %%
_ = roadmap(5)
plt.show()

# %% [markdown]
# *Roadmap: the stops of the course. You are at stop 05, where the reward model teaches the chatbot.*
#
# ## 1 · Four models
#
# | model | what it gives | trained? |
# |---|---|---|
# | **policy** $\pi_\theta$ | answers, and the log-probability of each token | yes |
# | **value** $V_t$ | the reward still to be expected when token $t$ is about to be chosen | yes |
# | **reference** $\pi_\mathrm{ref}$ | log-probabilities of the SFT model: the far end of the leash | no |
# | **reward model** $r_\phi$ | one score for a whole answer (notebook 02) | no |
#
# All four start from the same SFT model. The next cell trains it, collects preferences and fits the reward model, or
# finds them in the shared run folder.

# %% tags=["nbval-ignore-output"]
course = lesson("reward_model")
task, device, reference, reward_model = course.task, course.device, course.sft, course.reward_model
assert reward_model is not None
print(f"preset {course.preset.name}, task {task.name}, on {device}; {len(task.prompts)} training prompts")

# %% [markdown]
# Policy and value share one network, the **trunk**. The value is a second head on it: one number a token, where the
# language model has one number a word. It starts at zero: "nothing is expected yet". So we hold three networks, not four.

# %%
actor = PolicyWithValue(deepcopy(reference).requires_grad_(True)).to(device)


def parameters(model: torch.nn.Module) -> int:
    """Number of parameters of a model."""
    return sum(p.numel() for p in model.parameters())


width = reference.config.hidden_size
assert parameters(actor) == parameters(reference) + width + 1
assert all(bool((p == 0).all()) for p in actor.value_head.parameters())
print(f"policy and value: those of the policy, and {width} + 1 more for the value head, which starts at zero")
print(f"trained: {sum(p.requires_grad for p in actor.parameters())} tensors of the actor, ", end="")
print(f"{sum(p.requires_grad for m in (reference, reward_model) for p in m.parameters())} of the other models")

# %% [markdown]
# ## 2 · The loop, line by line
#
# One step of PPO, in the order of the code:
#
# > **1** sample an answer to each prompt from $\pi_\theta$; note the log-probabilities: these are $\pi_\text{old}$
# > <br>**2** score each whole answer with $r_\phi$; an unfinished one earns a penalty
# > <br>**3** ask $\pi_\mathrm{ref}$ for its log-probabilities of the same tokens
# > <br>**4** shape the rewards: the leash at every token, the score at the last one
# > <br>**5** ask $V$; make advantages and returns with GAE
# > <br>**6** whiten the advantages
# > <br>**7** take a few gradient steps on the clipped losses
# > <br>**8** move $\beta$, if a target for the KL is set
#
# We take 64 prompts and go through it.

# %% tags=["nbval-ignore-output"]
asked = list(task.prompts["prompt"])[:: max(1, len(task.prompts) // 64)][:64]
prompts, prompt_mask = (x.to(device) for x in encode_prompts(task.tokenizer, asked))  # both (B, P): batch, token


def words(prompt: str) -> str:
    """A prompt without the marks of the chat template."""
    return re.sub(r"<\|.*?\|>", "", prompt).strip()


rollout = sample(actor.policy, prompts, prompt_mask, task.max_new_tokens, generator=generator_for(0, 0, device))
texts = decode(task.tokenizer, rollout.responses, rollout.response_mask)
print("prompts   (B, P) =", tuple(rollout.prompts.shape), "  padded on the left")
print("responses (B, T) =", tuple(rollout.responses.shape), "  padded on the right; mask and log_probs too")
for prompt, text in list(zip(asked, texts, strict=True))[::16]:
    print(f"   {words(prompt)[:40]:40s} → {text[:60]}")

# %% [markdown]
# ### Line 1, detail one: the temperature
#
# One may sample at a **temperature** $\mathcal{T}$ (a script T; the plain $T$ is the number of tokens). With $z_t$ the
# logits that predict token $t$, one number for each word of the vocabulary, the token is drawn from
#
# $$\pi_\theta(\cdot \mid x, y_{<t}) = \mathrm{softmax}(z_t / \mathcal{T}). \tag{1}$$
#
# A lower temperature sharpens it. The rule is: **the distribution that you score is the one that you sampled from.**
# The same $\mathcal{T}$ must stand in sampling, in the policy's log-probabilities, and in the reference's.
#
# The logits that predict answer token $t$ stand one place before it: with $P$ prompt columns, at column $P - 1 + t$.

# %%
temperature = 0.7
cool = sample(actor.policy, prompts, prompt_mask, task.max_new_tokens, temperature, generator_for(0, 1, device))
ids = torch.cat([cool.prompts, cool.responses], dim=1)  # (B, P + T)
real = torch.cat([cool.prompt_mask, cool.response_mask], dim=1)  # (B, P + T)
P = cool.prompts.shape[1]
with torch.no_grad():
    output = actor.policy(input_ids=ids, attention_mask=real.long(), position_ids=position_ids(real))
z = output.logits[:, P - 1 : -1]  # (B, T, V): the logits that predict the answer's tokens


def apart(log_probs: Tensor, others: Tensor, mask: Tensor) -> float:
    """Largest difference of two tensors of log-probabilities (B, T), on real tokens, in nats."""
    return float((log_probs - others)[mask].abs().max())


scored = token_log_probs(z / temperature, cool.responses)  # (1), then log and pick the sampled token: (B, T)
at_one = token_log_probs(z, cool.responses)
assert apart(scored, cool.log_probs, cool.response_mask) < course.rounding
print("Checked (1): log-probabilities by hand, at the temperature of sampling, are those noted while sampling.")
too_warm = apart(at_one, cool.log_probs, cool.response_mask)
course.claim("Scored at temperature 1 instead, some token is off by more than 0.3 nats.", too_warm > 0.3)

# %% [markdown]
# ### Line 1, detail two: positions under left padding
#
# GPT-2 adds an embedding to each token that says *where* it stands. Prompts of different lengths are padded on the
# left. The padding must not count, so the position of token $t$ is the number of *real* tokens before it. With
# $m_s = 1$ for a real token and $0$ for padding,
#
# $$\mathrm{position}_t = \sum_{s < t} m_s. \tag{2}$$
#
# Libraries do this for you when they generate; a forward pass, as in scoring, may not. We hand `position_ids` over
# ourselves. We pad one batch six columns more, with and without. (`museum.positions()` swaps in the wrong version for a moment.)

# %%
counted = torch.tensor([[sum(row[:t]) for t in range(len(row))] for row in real.long().tolist()], device=device)
assert torch.equal(position_ids(real)[real], counted[real])  # (2)

arguments = rollout.prompts, rollout.prompt_mask, rollout.responses, rollout.response_mask
wider = F.pad(rollout.prompts, (6, 0)), F.pad(rollout.prompt_mask, (6, 0)), *arguments[2:]
with torch.no_grad():
    right, right_wider = (response_log_probs(reference, *batch) for batch in (arguments, wider))
    with museum.positions():
        wrong_wider = response_log_probs(reference, *wider)
assert apart(right_wider, right, rollout.response_mask) < course.rounding
print("Checked (2), and that six columns of padding change no log-probability.")
misplaced = apart(wrong_wider, right, rollout.response_mask)
course.claim(
    "Without position_ids some token is off by more than 0.3 nats: another model has scored it.", misplaced > 0.3
)

# %% [markdown]
# ### Line 1, detail three: where an answer ends
#
# An answer ends with the EOS token. The EOS is a token like the others: the policy *chose* it, so it must be trained
# and rewarded. Some models have no pad token of their own, and use the EOS to pad. Then this line of code
#
# ```python
# mask = responses != tokenizer.pad_token_id      # wrong where pad = EOS
# ```
#
# hides the EOS together with the padding.
#
# ### Exercise 5.1 · The mask of an answer
# *difficulty 2/5 · importance 5/5 · 8 minutes*
#
# The rows of `responses`, shape (B, T), end with an EOS and are padded with more of the same. A row that ran into the
# length limit has no EOS at all. Return the mask, a bool tensor: True on the answer, up to and including its first EOS.


# %% tags=["exercise"]
def answer_mask(responses: Int[Tensor, "B T"], eos_id: int) -> Bool[Tensor, "B T"]:
    """True on the tokens of each answer, its first EOS included; False on what stands after it."""
    # BEGIN SOLUTION
    is_eos = (responses == eos_id).long()
    eos_before = is_eos.cumsum(1) - is_eos
    return eos_before == 0
    # END SOLUTION


# %% tags=["nbval-check-output"]
check.q1(answer_mask)

# %% tags=["student-only"]
# check.q1.hint()
# check.q1.solution()

# %% tags=["nbval-check-output"]
mask_of_answer = check.q1.or_ours(answer_mask)

# %%
eos = reference.config.eos_token_id
padded_with_eos = torch.where(rollout.response_mask, rollout.responses, eos)  # as if pad = EOS, (B, T)
assert torch.equal(mask_of_answer(padded_with_eos, eos), rollout.response_mask)
hidden = rollout.response_mask & (padded_with_eos == eos)  # what `ids != pad` would lose, (B, T)
assert torch.equal(hidden.sum(1) > 0, rollout.finished) and int(hidden.sum(1).max()) == 1
print("Checked: your mask is the sampler's. The wrong line loses one token of every finished answer: its EOS.")

# %% [markdown]
# ### Line 1, detail four: dropout off
#
# PPO compares the policy with itself. The ratio of notebook 04,
#
# $$\rho_t = \frac{\pi_\theta(y_t \mid x, y_{<t})}{\pi_\text{old}(y_t \mid x, y_{<t})} = 1
# \quad \text{on the first pass, before any weight has moved.} \tag{3}$$
#
# Dropout draws a new random mask at each forward pass, so the model would disagree with itself. Hence dropout is off
# everywhere: `model.eval()` switches it off, in PyTorch. The largest $|\rho_t - 1|$ on the first pass is an instrument worth having on every dashboard: temperature,
# positions, dropout, whatever makes scorer and sampler differ moves it away from 0.

# %%
with torch.no_grad():
    log_probs, values = actor(rollout)  # both (B, T)
    noisy = deepcopy(actor)
    with museum.dropout(), torch.random.fork_rng():
        torch.manual_seed(0)
        noisy.eval()  # in the museum this leaves dropout on
        noisy_log_probs, _ = noisy(rollout)
mask = rollout.response_mask
assert float((log_probs - rollout.log_probs).exp().sub(1)[mask].abs().max()) < course.rounding  # (3)
with_dropout = float((noisy_log_probs - rollout.log_probs).exp().sub(1)[mask].abs().max())
assert bool((values[mask] == 0).all())
course.claim(
    "Checked (3): without dropout the ratio is 1 up to rounding; with dropout of 0.1 it is off by more than 0.3.",
    with_dropout > 0.3,
)
print("And the value head says 0 everywhere: it has not learned yet.")

# %% [markdown]
# ### Lines 2 to 4: from a score to rewards
#
# **Line 2.** The reward model reads the whole answer and gives one score. But what if the answer never ended, because
# it ran into the length limit? The reward model has never judged half an answer. So such an answer **earns** a fixed
# penalty instead, a number well below 0:
#
# $$R(y) = \begin{cases} r_\phi(x, y) & \text{if } y \text{ ends with an EOS} \\ \text{penalty} & \text{else.}
# \end{cases} \tag{4}$$
#
# **Line 3.** The reference scores the same tokens. **Line 4** puts both together (notebook 03, section 8):
#
# $$r_t = -\beta \big(\log \pi_\theta(y_t \mid x, y_{<t}) - \log \pi_\mathrm{ref}(y_t \mid x, y_{<t})\big)
# + \begin{cases} R(y) & t \text{ is the last real token} \\ 0 & \text{else.}\end{cases} \tag{5}$$
#
# ### Exercise 5.2 · Reward shaping
# *difficulty 3/5 · importance 5/5 · 12 minutes*
#
# Write (4) and (5) for a batch. `finished` has shape (B,) and is True where the answer ended. At padding the reward is
# zero. (It is exercise 3.4 with one thing more: what an unfinished answer earns.)


# %% tags=["exercise"]
def token_rewards(
    scores: Float[Tensor, " B"],
    finished: Bool[Tensor, " B"],
    log_probs: Float[Tensor, "B T"],
    ref_log_probs: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    beta: float,
    penalty: float,
) -> Float[Tensor, "B T"]:
    """Reward of each token, equation (5), with what each answer earned, equation (4), at its last real token."""
    # BEGIN SOLUTION
    earned = torch.where(finished, scores, penalty)
    rewards = torch.where(mask, -beta * (log_probs - ref_log_probs), 0)
    rows, last = torch.arange(len(scores), device=scores.device), mask.sum(1) - 1
    rewards[rows, last] = rewards[rows, last] + earned
    return rewards
    # END SOLUTION


# %% tags=["nbval-check-output"]
check.q2(token_rewards)

# %% tags=["student-only"]
# check.q2.hint()
# check.q2.solution()

# %% tags=["nbval-check-output"]
shape = check.q2.or_ours(token_rewards)

# %% [markdown]
# Was that the right way to cut up the objective? Add the rewards of an answer. With $k_1 = \log \pi_\theta(y \mid x) -
# \log \pi_\mathrm{ref}(y \mid x)$, the one-sample KL of notebook 03,
#
# $$\sum_t r_t = R(y) - \beta\, k_1, \tag{6}$$
#
# whose mean over answers is the objective $J$. At the start policy and reference are equal and $k_1 = 0$, so we check
# it with a policy that has moved: our actor, with a little noise on its weights.

# %% tags=["folded"]
# @title A policy that has moved, its answers, their scores and the reference's log-probabilities
moved = deepcopy(reference)
noise = torch.Generator().manual_seed(0)
with torch.no_grad():
    for weight in moved.parameters():
        weight += 0.1 * weight.std(correction=0) * torch.randn(weight.shape, generator=noise).to(device)
    limit = 10 if task.name == "assistant" else task.max_new_tokens
    short = sample(moved, prompts, prompt_mask, limit, generator=generator_for(0, 2, device))  # some do not finish
    scores = score(reward_model, short)  # line 2, shape (B,)
    ref_log_probs = response_log_probs(  # line 3, shape (B, T)
        reference, short.prompts, short.prompt_mask, short.responses, short.response_mask
    )

# %%
beta, penalty = 0.05, course.preset.ppo.unfinished_penalty
rewards = shape(scores, short.finished, short.log_probs, ref_log_probs, short.response_mask, beta, penalty)

k1 = short.log_probs.sum(1) - ref_log_probs.sum(1)  # shape (B,); both are 0 at padding
earned = torch.tensor([s if done else penalty for s, done in zip(scores, short.finished, strict=True)]).to(k1)  # (4)
torch.testing.assert_close(rewards.sum(1), earned - beta * k1, rtol=1e-4, atol=1e-4)  # (6)

late = torch.cat([torch.zeros_like(rewards[:, :1]), rewards[:, :-1]], dim=1)  # every reward one slot too late
lost = rewards.sum(1) - (late * short.response_mask).sum(1)
last = rewards.gather(1, short.response_mask.sum(1, keepdim=True) - 1).squeeze(1)
torch.testing.assert_close(lost, last, rtol=1e-4, atol=1e-4)
both_kinds = 0 < int(short.finished.sum()) < len(short)
course.claim("Checked (4) and (6) on 64 answers, finished and unfinished.", both_kinds)
print("Checked: one slot late, exactly the reward of the last token, with the whole score in it, falls on padding.")

# %% [markdown]
# We shall see in section 5 what a score that comes one slot late looks like.
#
# ### Lines 5 and 6: advantages
#
# GAE is notebook 04's. At the start $V = 0$ everywhere. Whitening brings the advantages to mean 0 and variance 1, over
# the **real** tokens. Padding must not count: otherwise the result depends on the longest answer in the batch.

# %%
values = torch.zeros_like(rewards)  # line 5: the value head before training
advantages, returns = gae(rewards, values, short.response_mask, gamma=1.0, lam=0.95)  # both (B, T)
white = masked_whiten(advantages, short.response_mask)  # line 6


def wider_by_ten(x: Tensor) -> Tensor:
    """The same with ten more columns of padding."""
    return F.pad(x, (0, 10))


assert abs(float(white[short.response_mask].mean())) < 1e-4
assert abs(float(white[short.response_mask].var(correction=0)) - 1) < 1e-3
again = masked_whiten(wider_by_ten(advantages), wider_by_ten(short.response_mask))
torch.testing.assert_close(again, wider_by_ten(white))
everywhere = torch.ones_like(short.response_mask)
careless = masked_whiten(advantages, everywhere)
careless_again = masked_whiten(wider_by_ten(advantages), F.pad(everywhere, (0, 10), value=True))[:, :-10]
print("Checked: mean 0 and variance 1 over real tokens, and ten more columns of padding change nothing.")
course.claim(
    "Whitened over padding as well, the same advantages change by more than 5 %.",
    not torch.allclose(careless_again, careless, rtol=0.05),
)

# %% [markdown]
# ### Line 7: the update
#
# Each gradient step goes down one loss, that of the policy plus that of the value function. With $n$ real tokens, the
# whitened advantages $\hat A_t$, the returns $R_t$ of GAE and $c_V$ = `value_coef`,
#
# $$L(\theta) = \frac1n \sum_t \max\big(-\hat A_t \rho_t,\; -\hat A_t\, \mathrm{clip}(\rho_t, 1 - \varepsilon,
# 1 + \varepsilon)\big) + c_V \cdot \frac1{2n} \sum_t \max\big((V_t - R_t)^2,\; (V^\text{clip}_t - R_t)^2\big), \tag{7}$$
#
# where $V^\text{clip}_t$ is $V_t$, held within $\pm\varepsilon$ of its old value. ($R_t$ with an index is the return at
# token $t$; $R(y)$ is what the answer earned.)
#
# ### Exercise 5.3 · One PPO update
# *difficulty 2/5 · importance 5/5 · 10 minutes*
#
# Write (7), with the whitening of line 6. The pieces from notebook 04 are there to be used: `masked_whiten(x, mask)`,
# `clipped_policy_loss(log_probs, old_log_probs, advantages, mask, clip)` and `clipped_value_loss(values, old_values,
# returns, mask, clip)`. The last two return a pair: the loss, and a dictionary of instruments. The ½ of (7) is inside
# `clipped_value_loss`. The gradients by `log_probs` and `values` are compared, too.


# %% tags=["exercise"]
def update_loss(
    log_probs: Float[Tensor, "B T"],
    values: Float[Tensor, "B T"],
    old_log_probs: Float[Tensor, "B T"],
    old_values: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B T"],
    returns: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    clip: float = 0.2,
    value_coef: float = 0.1,
) -> Float[Tensor, ""]:
    """The loss of one gradient step, equation (7). The advantages come as GAE made them: whiten them here."""
    # BEGIN SOLUTION
    policy_loss, _ = clipped_policy_loss(log_probs, old_log_probs, masked_whiten(advantages, mask), mask, clip)
    value_loss, _ = clipped_value_loss(values, old_values, returns, mask, clip)
    return policy_loss + value_coef * value_loss
    # END SOLUTION


# %% tags=["nbval-check-output"]
check.q3(update_loss)

# %% tags=["student-only"]
# check.q3.hint()
# check.q3.solution()

# %% tags=["nbval-check-output"]
loss_of_update = check.q3.or_ours(update_loss)

# %% [markdown]
# The gradient is all that training sees. On the first pass it is a simple one. At $\rho = 1$ nothing is clipped, and $\partial \rho_t / \partial \log \pi_\theta(y_t) = \rho_t = 1$. So
#
# $$\frac{\partial L}{\partial \log \pi_\theta(y_t)} = -\frac{\hat A_t}{n},
# \qquad \frac{\partial L}{\partial V_t} = c_V\, \frac{V_t - R_t}{n}. \tag{8}$$
#
# The first is REINFORCE with advantages. The second is linear regression.

# %%
new = short.log_probs.clone().requires_grad_()
new_values = values.clone().requires_grad_()
loss = loss_of_update(new, new_values, short.log_probs, values, advantages, returns, short.response_mask, 0.2, 0.1)
by_log_prob, by_value = torch.autograd.grad(loss, (new, new_values))
n = int(short.response_mask.sum())
torch.testing.assert_close(by_log_prob, -white / n, rtol=1e-3, atol=1e-6)  # (8), left
torch.testing.assert_close(by_value, 0.1 * (values - returns) / n, rtol=1e-3, atol=1e-6)  # (8), right
print("Checked (8): on the first pass your loss has the gradient of REINFORCE, and that of a regression.")

# %% [markdown]
# These are the lines of one step. At the end of this notebook, in exercise 5.6, you put them together. Until then the
# course's own loop, `week6.train_ppo`, does it.
#
# ### Line 8: who sets β?
#
# $\beta$ is a price. Often one would rather set the *distance*: "stay within 6 nats". The **adaptive controller** of
# Ziegler et al. (2019) raises the price while the policy is too far away, and lowers it while it is too near. After a
# batch of $n$ answers with a mean KL of $\mathrm{KL}$ nats,
#
# $$\beta \leftarrow \beta \left(1 + \mathrm{clip}\Big(\frac{\mathrm{KL}}{\text{target}} - 1,\; -0.2,\; 0.2\Big) \cdot
# \frac{n}{\text{horizon}}\right). \tag{9}$$
#
# The error is relative and held within 20 %, so that one odd batch cannot do much. The horizon is the number of
# answers over which a whole correction is made.
#
# ### Exercise 5.4 · The adaptive controller
# *difficulty 1/5 · importance 3/5 · 6 minutes*
#
# Write (9).


# %% tags=["exercise"]
def next_beta(beta: float, kl: float, target: float, n: int, horizon: float) -> float:
    """The new β after n answers with mean KL `kl`, in nats; equation (9)."""
    # BEGIN SOLUTION
    error = min(max(kl / target - 1, -0.2), 0.2)
    return beta * (1 + error * n / horizon)
    # END SOLUTION


# %% tags=["nbval-check-output"]
check.q4(next_beta)

# %% tags=["student-only"]
# check.q4.hint()
# check.q4.solution()

# %% tags=["nbval-check-output"]
new_beta = check.q4.or_ours(next_beta)

# %% [markdown]
# By hand: $\beta = 0.2$, KL 12, target 6, $n = 256$, horizon 10,000. The error is $12/6 - 1 = 1$, clipped to 0.2. So
# $\beta$ becomes $0.2 \cdot (1 + 0.2 \cdot 0.0256) = 0.201024$. A small step! If the KL stays far too high, $\beta$ has
# doubled after $j$ batches, where $(1 + 0.2\, n/\text{horizon})^j = 2$, that is
#
# $$j = \frac{\log 2}{\log(1 + 0.2\, n / \text{horizon})}. \tag{10}$$

# %%
example = float(new_beta(0.2, 12.0, 6.0, 256, 10_000))
assert abs(example - 0.201024) < 1e-7  # (9), by hand; as exact as float32 is
controller = AdaptiveKL(beta=0.2, target=6.0, horizon=10_000)
assert abs(controller.update(12.0, 256) - example) < 1e-7  # and the course's own controller
j = math.log(2) / math.log(1 + 0.2 * 256 / 10_000)  # (10)
price, batches = 0.2, 0
while price < 0.4:
    price, batches = float(new_beta(price, 12.0, 6.0, 256, 10_000)), batches + 1
assert batches == math.ceil(j)
print(f"Checked (9): {example:.6f}. Checked (10): β has doubled after {batches} batches of 256 answers.")

# %% [markdown]
# How does it behave? Take a toy policy whose KL is inverse to the price, $\mathrm{KL} = 0.6/\beta$: at twice the price it
# goes half as far. The target is 6 nats, so the right price is 0.1. We start at a price five times too high, and at one five
# times too low.

# %%
prices = {"start at β = 0.5": [0.5], "start at β = 0.02": [0.02]}
for path in prices.values():
    for _ in range(1500):
        path.append(float(new_beta(path[-1], 0.6 / path[-1], 6.0, 64, 10_000)))
    off = [abs(math.log(b / 0.1)) for b in path]
    assert (
        abs(path[-1] - 0.1) < 0.005 and 1_100 < sum(x > 0.1 for x in off) < 1_400
    )  # within a tenth of the right price
of_ppo.controller(prices, {name: [0.6 / b for b in path] for name, path in prices.items()}, right_price=0.1, target=6.0)

# %% [markdown]
# *Figure: left, both prices approach the dotted 0.1 on straight lines (the axis is logarithmic), and stay there; right,
# the distances approach the target of 6 nats, one from below and one from above.*
#
# It finds the price, but slowly: from a factor of five it takes more than 1,100 batches to come within a tenth of it. Our
# runs below are far shorter. A controller with this horizon would hardly move in them, so we keep $\beta$ fixed.
#
# ## 3 · Training the chatbot
#
# Forty steps of 64 answers, $\beta = 0.05$. The learning rate follows a **schedule**: it rises for 10 steps to twice the
# rate of a long run (warm-up), while over the whole run it falls on a straight line that reaches 0 after the last step.
# The gold reward is only *looked at*: no gradient ever sees it. (In real life you do not have it at all.)
#
# A word on units: the reward model's score is divided by its standard deviation $s$ over SFT answers (notebook 02,
# section 6). One of our reward units is $s$ units of Bradley and Terry (notebook 01), so in their units our $\beta$ is $s$
# times as large.
#
# **Predict.** What will the gold reward and the KL do?
#
# - a) gold stays, since PPO never sees it
# - b) gold rises, and so does the KL, as fast at the end as at the start
# - c) gold rises, and the KL rises at first and then stays at a few nats

# %% tags=["nbval-check-output"]
check.p1("c")  # SOLUTION

# %% tags=["nbval-ignore-output"]
preset = course.preset.ppo
config = replace(preset, batch_size=min(64, preset.batch_size), learning_rate=2 * preset.learning_rate)


def training(beta: float, steps: int):
    """A new actor, and its training: an iterator that takes a step of PPO and gives its row of metrics."""
    actor = PolicyWithValue(deepcopy(reference).requires_grad_(True)).to(device)
    optimizer = make_optimizer(actor, config.learning_rate, eps=1e-5)
    controller = AdaptiveKL(beta, target=1.0, horizon=config.horizon)  # moves β only if config.target_kl is set
    settings = replace(config, beta=beta, steps=steps, target_kl=None)
    return actor, watch_ppo(actor, reference, reward_model, task, optimizer, controller, settings, seed=0)


s = float(reward_model.scale)
print(f"s = {s:.2f}: β = 0.05 is {0.05 * s:.2f} in the units of notebook 01")
actor, rows = training(beta=0.05, steps=40)
metrics = live(rows, plots.ppo_dashboard)

# %% tags=["nbval-ignore-output"]
plots.ppo_dashboard(metrics)


# %% tags=["folded"]
# @title Check of this run: does it do what the text below the figure says?
def start_and_end(column: str, n: int = 10) -> tuple[float, float]:
    """Mean of the first three steps, and of the last n."""
    return float(metrics[column].head(3).mean()), float(metrics[column].tail(n).mean())


score_start, score_end = start_and_end("score")
gold_start, gold_end = start_and_end("gold") if task.gold is not None else (0.0, 0.0)
course.claim(
    "Checked: ratio 1 at every first pass; KL 0 at step 0; the score starts near 0 and rises by more than 0.5;\n"
    "the gold reward rises by more than 0.5; the KL of the last ten steps is no longer growing fast.",
    metrics["first_ratio_deviation"].max() < course.rounding,  # else sampler and scorer disagree
    abs(metrics["kl"][0]) < course.rounding,  # at step 0 the policy is the reference
    abs(score_start) < 0.5 < score_end - score_start,
    0.3 < start_and_end("kl")[1] < 1.6 * metrics["kl"][20:30].mean(),  # it has moved, and it has settled
    gold_end > gold_start + 0.5,
)
course.claim(
    "Checked: half of the gain in gold comes in the first 15 steps; the entropy falls, the answers get longer, at most a\n"
    "tenth of the tokens is outside the clip range; the explained variance starts near 0 and ends above 0.1.",
    task.gold is not None and metrics["gold"][10:15].mean() > (gold_start + gold_end) / 2,
    start_and_end("entropy")[1] < start_and_end("entropy")[0],
    start_and_end("length")[1] > start_and_end("length")[0],
    metrics["clip_fraction"].max() < 0.1,
    abs(start_and_end("explained_variance")[0]) < 0.1 < start_and_end("explained_variance")[1],
)

# %% [markdown]
# *Figure: the dashboard of 40 steps. Proxy and gold reward rise steeply for 15 steps and then slowly. The KL climbs to
# a few nats and stays there. The entropy falls. The ratio at the first pass stays far below the dotted line.*

# %% tags=["nbval-check-output"]
check.p1.outcome()

# %% [markdown]
# Let us read it panel by panel, as you should with every run. The **explained variance** of the critic is
# $1 - \mathrm{Var}(R_t - V_t) / \mathrm{Var}(R_t)$ over the real tokens: 1 if $V$ knows every return, 0 if it knows no
# more than their mean, below 0 if it does harm.
#
# | panel | question | here |
# |---|---|---|
# | ratio at the first pass | *is the code right?* | rounding error: sampler and scorer agree |
# | reward | *does it learn?* | yes. The proxy starts near 0: the reward model was centred on SFT answers |
# | distance from SFT | *does it drift?* | a few nats, and no longer growing. But the learning rate ends at 0, so a flat end proves little |
# | entropy | *does it still explore?* | it falls, since the policy gets surer |
# | clip fraction | *are the steps too big?* | a few per cent of the tokens at most |
# | explained variance | *does the critic learn?* | it starts at 0, a useless baseline, and rises |
# | length | *is length the trick?* | the answers got longer. Look at them! |
#
# So: what does it say now? Here are SFT answers and PPO answers, to held-out prompts.

# %% tags=["nbval-ignore-output"]
heldout = list(task.heldout_prompts["prompt"])


def judged(policy: torch.nn.Module, k: int = 2):
    """k answers to each held-out prompt, judged by both rewards."""
    return judge(policy, reference, lambda answers: score(reward_model, answers), task, heldout, k, seed=0)


after_sft, after_ppo = judged(reference), judged(actor.policy)
for i in range(0, len(heldout), max(1, len(heldout) // 8)):
    print(words(heldout[i])[:60])
    for name, answers in (("SFT", after_sft), ("PPO", after_ppo)):
        print(f"   {name} {float(answers.proxy[i, 0]):+.2f}   {answers.texts[i][0][:90]}")


# %% tags=["folded"]
# @title How a line of the table below is printed
def report(name: str, answers) -> None:
    """One line of means over the held-out prompts."""
    line = (
        f"{name:20s} proxy {float(answers.proxy.mean()):+.2f}   KL {round(float(answers.kl.mean()), 2) + 0.0:5.2f} nats"
    )
    if answers.gold is not None:
        line += f"   gold {float(answers.gold.mean()):+.2f}"
    if task.rates is not None:
        k = answers.proxy.shape[1]
        rates = task.rates([p for p in heldout for _ in range(k)], [t for row in answers.texts for t in row])
        line += "".join(f"   {rate.replace('_', ' ')} {value:.0%}" for rate, value in rates.items())
    print(line)


# %% tags=["nbval-ignore-output"]
report("SFT", after_sft)
report("PPO", after_ppo)
course.claim(
    "Checked: on prompts it was not trained on, proxy and gold are higher by more than 0.4 and 0.5.",
    after_ppo.proxy.mean() > after_sft.proxy.mean() + 0.4,
    task.gold is not None and after_ppo.gold.mean() > after_sft.gold.mean() + 0.5,
)

# %% [markdown]
# Where did the policy spend its nats? Equation (5) says it token by token. This is one answer with the log-ratio and
# the reward of each token. (A bar above 0 is a token that the policy says *more* readily than the SFT model did.)

# %% tags=["folded"]
# @title Fresh answers, their log-ratios and the rewards of their tokens
with torch.no_grad():
    spoken = sample(actor.policy, prompts, prompt_mask, task.max_new_tokens, generator=generator_for(0, 3, device))
    spoken_ref = response_log_probs(
        reference, spoken.prompts, spoken.prompt_mask, spoken.responses, spoken.response_mask
    )
    spoken_scores = score(reward_model, spoken)
log_ratio = spoken.log_probs - spoken_ref  # (B, T), nats
spoken_rewards = shape(
    spoken_scores, spoken.finished, spoken.log_probs, spoken_ref, spoken.response_mask, 0.05, penalty
)

# %% tags=["nbval-ignore-output"]
pick = int((log_ratio.sum(1) * spoken.finished).argsort()[len(spoken) * 3 // 4])  # a larger KL than three in four
count = int(spoken.response_mask[pick].sum())
said = [task.tokenizer.decode([token]).strip() for token in spoken.responses[pick, :count].tolist()]
of_ppo.rewards_of_tokens(
    said, log_ratio[pick, :count].tolist(), spoken_rewards[pick, :count].tolist(), words(asked[pick])
)

# %% [markdown]
# *Figure: above, the log-ratio of each token: most are near 0, and a few carry the KL. Below, the rewards: small charges
# on the way, and the score at the last token, the EOS.*

# %% tags=["nbval-ignore-output"]
sizes = log_ratio.abs().sort(dim=1, descending=True).values  # padding is 0
two = float((sizes[:, :2].sum(1) / sizes.sum(1)).mean())
near_zero = float((log_ratio.abs() < 0.1)[spoken.response_mask].float().mean())
print(f"64 answers: {near_zero:.0%} of the tokens are within 0.1 nats of 0; two tokens an answer carry {two:.0%}")
course.claim("Checked: more than half of the tokens cost next to nothing.", near_zero > 0.5, two > 0.5)

# %% [markdown]
# Most tokens cost nothing, and two of them carry most of an answer's log-ratio: they are where the policy now *decides*
# otherwise, and what follows is as it was. (Read the answer, too: a decision may be wrong.)

# %% [markdown]
# ### The same on a real model
#
# The chatbot's world is small, and its people are simulated. Here is a run of the same functions on a real language
# model and on the opinions of people. It is recorded: the whole run took 1.7 hours on a CPU.
#
# - **Policy**: SmolLM2-135M-Instruct (Ben Allal et al. 2025), a model of GPT-2-small's size, fine-tuned to continue film
#   reviews. A prompt is the first 2 to 8 tokens of a review.
# - **Reward model**: fitted to *people*. Each of 9,641 sentences from reviews was rated by 15 to 29 persons (Hutto and
#   Gilbert 2014). Two sentences, one rater of each: the one whose rater liked it more is the chosen one.
# - **Gold reward**: VADER, a word list with rules, from −1 (bad) to +1 (good). Training never sees it.
#
# These people disagree: not even a judge who knows all ratings can always guess which of two persons likes theirs more.

# %%
real = recorded_summary("smollm2")  # on which machine, with which settings: week6/recorded/README.md
judge_of_people = real["reward_model"]
print(f"reward model: agrees with a person on {judge_of_people['accuracy']:.1%} of the held-out pairs", end=" ")
print(f"(± {judge_of_people['accuracy_se']:.1%});")
print(f"the best possible judge on {judge_of_people['bayes_accuracy']:.1%}")
assert abs(sum(stage["seconds"] for stage in real["stages"].values()) / 3600 - 1.7) < 0.1  # hours

# %% tags=["nbval-ignore-output"]
plots.beside({"Embedded chatbot, just now": metrics, "SmolLM2-135M, recorded": recorded("smollm2_ppo")}, "ppo")

# %% [markdown]
# *Figure: above, proxy and gold reward of each batch while PPO trains; below, the KL. Left, the run above; right, the
# recorded one. The gold rewards are different rules, so compare shapes and not heights. The proxy in these curves
# is what the answers earn by (4), with the penalty for unfinished ones; the table below has the reward model's score.*

# %%
before, after = (real["policies"][name] for name in ("sft", "ppo"))
columns = ["gold", "gold_se", "proxy", "kl", "length", "n"]  # gold_se: one standard error
print(pd.DataFrame({"SFT": before, "PPO": after}).T[columns].astype(float).round(2).to_string())
assert after["gold"] - before["gold"] > 5 * math.hypot(before["gold_se"], after["gold_se"])
print("Checked: on held-out prompts, PPO's gold reward is above SFT's by more than five standard errors.")

# %%
samples = recorded("smollm2_samples")  # the first held-out prompts, not the best ones
for prompt, answers in samples.groupby("prompt", sort=False):
    print(prompt)
    for row in answers[answers["policy"].isin(["sft", "ppo"])].itertuples():
        print(f"   {row.policy.upper()} {row.gold:+.2f}  …{' '.join(row.answer.split())}")
praise = re.compile("entertaining|captivating|enchanting|fascinating|compelling|gifted|amusing|delightful|charming")
found = samples["answer"].str.contains(praise).groupby(samples["policy"]).mean()
print(f"answers with one of nine words of praise: SFT {found['sft']:.0%}, PPO {found['ppo']:.0%}")
assert found["ppo"] > 0.5 > found["sft"] + 0.3 and after["length"] < before["length"]

# %% [markdown]
# The gold reward rose, but read the answers: the policy has found a template of praise ("… is a captivating and
# fascinating film"), and uses it for most films. VADER counts words of praise, so it cannot see that. A judge that is a rule
# can be pleased by a rule.

# %% [markdown]
# ## 4 · A weaker leash
#
# The reward model was fitted to answers of the SFT model. What if the policy goes farther away? We divide $\beta$ by ten
# and give it 100 steps instead of 40; all else is as before, the schedule of the learning rate too (stretched to 100
# steps).
#
# **Predict.** Compared with section 3, what will the two rewards do on held-out prompts?
#
# - a) proxy higher, gold lower
# - b) both higher
# - c) both lower

# %% tags=["nbval-check-output"]
check.p2("a")  # SOLUTION

# %% tags=["nbval-ignore-output"]
hacker, rows = training(beta=0.005, steps=100)
hacked = live(rows, plots.ppo_dashboard)

# %% tags=["nbval-ignore-output"]
of_ppo.rewards_beside_kl({"β = 0.05, 40 steps": metrics, "β = 0.005, 100 steps": hacked})

# %% tags=["nbval-ignore-output"]
after_hack = judged(hacker.policy)
for name, answers in (("SFT", after_sft), ("PPO, β = 0.05", after_ppo), ("PPO, β = 0.005", after_hack)):
    report(name, answers)

# %% tags=["folded"]
# @title Check of this run: does it do what the text below says?
if task.gold is not None:
    peak, at_the_end = hacked["gold"].rolling(3).mean().max(), hacked["gold"].tail(10).mean()
course.claim(
    "Checked: while the weak leash trains, gold rises by more than 0.5 and ends more than 0.5 below its peak.",
    task.gold is not None and peak > hacked["gold"].head(3).mean() + 0.5,
    task.gold is not None and at_the_end < peak - 0.5,
)
course.claim(
    "Checked: on held-out prompts, the policy of the weak leash has the higher proxy, a gold reward lower by more than\n"
    "0.8, and more than twice the KL, compared with that of the strong leash.",
    after_hack.proxy.mean() > after_ppo.proxy.mean(),
    task.gold is not None and after_hack.gold.mean() < after_ppo.gold.mean() - 0.8,
    after_hack.kl.mean() > 2 * after_ppo.kl.mean(),
)

# %% [markdown]
# *Figure: left, with β = 0.05, proxy and gold rise and stay, at a KL of a few nats. Right, with β = 0.005, the proxy ends
# higher, but the gold reward turns down early while the KL goes on rising.*

# %% tags=["nbval-check-output"]
check.p2.outcome()

# %% [markdown]
# This is **over-optimisation**, or reward hacking: the policy has learned to please the *reward model*. The proxy alone
# does not show it; it is better than before, even on prompts that the policy was not trained on. The KL shows it without
# any gold. Now look at what the proxy likes and people would not:

# %% tags=["nbval-ignore-output", "folded"]
# @title Answers whose proxy is good and whose gold reward is bad
if after_hack.gold is not None:
    fooled = {
        (prompt, text): (float(proxy), float(gold))
        for prompt, *columns in zip(heldout, after_hack.texts, after_hack.proxy, after_hack.gold, strict=True)
        for text, proxy, gold in zip(*columns, strict=True)
        if proxy > 0.5  # above the average SFT answer by half a standard deviation
    }
    for (prompt, text), (proxy, gold) in sorted(fooled.items(), key=lambda item: item[1][1])[:8]:
        print(f"proxy {proxy:+.2f}   gold {gold:+.2f}   {words(prompt)[:32]:32s} → {text[:70]}")

# %% [markdown]
# Which rule of the gold reward do they break? The embedded task can say: its gold reward is a sum of five parts.

# %% tags=["nbval-ignore-output", "folded"]
# @title The five parts of the gold reward, for each policy
if task.name == "assistant":
    from week6.tasks.assistant import gold_parts

    table = {}  # mean of each part of the gold reward over the held-out prompts, for each policy
    for name, answers in (("SFT", after_sft), ("PPO, β = 0.05", after_ppo), ("PPO, β = 0.005", after_hack)):
        rows = [vars(gold_parts(p, t)) for p, row in zip(heldout, answers.texts, strict=True) for t in row]
        table[name] = pd.DataFrame(rows).mean()
    print((pd.DataFrame(table).T.round(2) + 0.0).to_string())
    good, bad = table["PPO, β = 0.05"], table["PPO, β = 0.005"]
    assert not course.embedded or bad["grammar"] < table["SFT"]["grammar"] - 0.25  # worse than before PPO
    assert not course.embedded or (bad["fit"] < good["fit"] - 0.2 and bad["grammar"] < good["grammar"])
    assert not course.embedded or table["SFT"]["grammar"] > -0.15  # of −1 for an answer with a broken sentence
else:
    print("This cell and the text below it are about the embedded chatbot: the gold reward here is of one piece.")

# %% [markdown]
# Compare the last two rows. Fit fell: the answer is no longer the right one. And grammar fell below that of the SFT
# model: broken sentences, glued together from pieces that the reward model likes. Nobody paid for bad grammar. But SFT
# answers are nearly all grammatical (see the first row), so the pairs seldom compared a grammatical answer with a broken
# one, and the reward model had little from which to learn that it matters. The stronger leash kept more of the grammar:
# the KL guards what the reward does not know.
#
# Does this happen only in a short run with a high learning rate? Here are recorded ones, of the course's long
# preset, with a tenth of its $\beta$: more steps, more answers a step, and a reward model of its own for each seed. And
# which of our two changes is to blame, the leash or the steps? Both let the policy go farther. Recorded runs with the
# same number of steps tell what the leash alone does.

# %%
weak = recorded("overoptimisation")  # a tenth of the preset's β, several seeds; see week6/recorded/README.md
of_ppo.proxy_and_gold_by_distance(weak)

# %%
for _, run in weak.sort_values("kl").groupby("seed"):
    near, far = run.head(10), run.tail(10)  # the ten batches nearest to the SFT model, the ten farthest
    assert far["score"].mean() > near["score"].mean() + 0.5
    assert far["gold"].mean() < run["gold"].rolling(10).mean().max() - 0.5
assert weak["seed"].nunique() == 3
print("Checked for all three seeds: in the ten batches farthest from the SFT model the proxy is more than 0.5 higher")
print("than in the ten nearest, and the gold reward is more than 0.5 lower than at its best.")
frontier = recorded("frontier_assistant").query("method == 'ppo'").set_index(["seed", "beta"])[["proxy", "gold"]]
change = frontier.xs(0.03, level="beta") - frontier.xs(0.1, level="beta")  # the same number of steps
assert len(change) == 3 and (change["proxy"] > 0).all() and (change["gold"] < 0).all()
print(
    "Checked: at the same number of steps, β = 0.03 in place of 0.1 raises the held-out proxy and lowers gold, 3 of 3."
)

# %% [markdown]
# *Figure: left, the proxy rises with the distance from the SFT model; right, the gold reward rises up to a distance of
# about 2 √nats (4 nats) and then falls. One line a seed.*
#
# Gao, Schulman and Hilton (2022) measured this over many model sizes and found smooth laws for it. Notebook 07 fits
# them. What one can do, as advice: a larger $\beta$, an early stop by a held-out judge, a better reward model, or new
# preferences on the *policy's* answers.

# %% [markdown]
# ## 5 · The failure museum
#
# PPO with a bug need not crash: none of the six runs below does. You learn to recognise such bugs by their curves.
# Each run takes 18 steps of 40 answers from the SFT model, with the same seed. One function of the loop is swapped for
# a wrong one, and that is all (`week6/classroom/museum.py`).
#
# One for practice. In the first exhibit the score is paid **one slot after the EOS**, as in section 2.
#
# **Predict.** What does the dashboard show?
#
# - a) the score rises, but more slowly
# - b) the score stays near its start, and the KL near 0
# - c) the ratio at the first pass is not 1

# %% tags=["nbval-check-output"]
check.p3("b")  # SOLUTION

# %% tags=["nbval-ignore-output"]
# Other models would need longer runs to show the same: the museum always shows the embedded chatbot.
exhibited = course if course.preset.name == "lesson" else lesson("reward_model", preset=PRESETS["lesson"])
healthy = museum.exhibit(None, exhibited)
late = museum.exhibit("late", exhibited)
plots.exhibits(healthy, {"late": late}, "The score is paid one slot late")

# %%
exhibited.claim(
    "Checked: with the score one slot late, score and KL stay low, and the ratio is 1 as it should be.",
    museum.BUGS["late"].seen(late, healthy) and not museum.BUGS["late"].seen(healthy, healthy),
    late["first_ratio_deviation"].max() < exhibited.rounding,
)

# %% [markdown]
# *Figure: one row of five instruments. Grey, the healthy run: score, KL and length rise. Blue, the run with the bug: the
# score stays near its start and the KL near 0; the ratio is as small as in the healthy run.*

# %% tags=["nbval-check-output"]
check.p3.outcome()

# %% [markdown]
# No crash, no strange ratio, and no learning. The only reward that is left is the leash, and the SFT model is its optimum.
#
# Now five runs without a label. Each has **one** of these bugs:
#
# | name | what is wrong |
# |---|---|
# | `"dropout"` | dropout of 0.1 stays on in the policy, while it samples and while it is scored |
# | `"eos"` | pad = EOS, and the mask of an answer is `ids != pad` |
# | `"positions"` | the scoring pass gets no `position_ids`, though the prompts are padded on the left |
# | `"sign"` | policy and reference are swapped in the KL term of (5) |
# | `"truncated"` | top-2 sampling: only the two likeliest tokens can be drawn, but the log-probabilities are full |

# %% tags=["nbval-ignore-output"]
runs = {letter: museum.exhibit(bug, exhibited) for letter, bug in museum.EXHIBITS.items()}
plots.exhibits(healthy, runs, "Five runs, one bug each")

# %% [markdown]
# *Figure: five rows, A to E, with five instruments each: score, KL, entropy, length, and the ratio at the first pass on
# a logarithmic axis, where an exact 0 is drawn at the lower edge, at $10^{-8}$. Grey is the healthy run in every row, blue
# the run with the bug.*
#
# ### Exercise 5.5 · Which bug is it?
# *difficulty 4/5 · importance 5/5 · 15 minutes*
#
# Give each letter its name: a dict such as `{"A": "eos", "B": …}` with the five letters. Work as a doctor does: which
# instruments are wrong **at step 0**, when nothing has been learned yet? Which are wrong only later? What would each bug
# do to the *sampling*, to the *scoring*, to the *reward*?

# %% tags=["exercise"]
diagnosis = {"A": "positions", "B": "sign", "C": "truncated", "D": "dropout", "E": "eos"}  # SOLUTION

# %% tags=["nbval-check-output"]
check.q5(diagnosis)

# %% tags=["student-only"]
# check.q5.hint()
# check.q5.solution()

# %% tags=["nbval-ignore-output"]
if check.q5.grade(diagnosis):  # the reasons, once the diagnosis is right
    for letter, bug in diagnosis.items():
        print(f"{letter} · {bug:10s} {museum.BUGS[bug.strip().casefold()].symptom}")
else:
    print("When your diagnosis is right, this cell gives the reasons.")

# %% [markdown] tags=["solution-only"]
# **The diagnosis.**
#
# - **A, positions.** The ratio is far from 1, yet at step 0 score, entropy and length are those of the healthy run. So
#   the answers are right and the *scoring* is wrong. The KL at step 0 is not 0 either.
# - **B, sign.** Perfect at the start, ratio 1. Then the KL explodes and the score falls: the *reward* is wrong.
# - **C, truncated.** At step 0 the entropy is much too low and the score too high, for a policy that still *is* the SFT
#   model. The ratio is 1, since the scoring is consistent: the *sampling* is wrong. Its gains are not real; they are
#   those of another sampler.
# - **D, dropout.** The ratio is far from 1, and at step 0 the KL is already nats and the entropy too high: the sampling
#   is disturbed as well.
# - **E, eos.** Exactly one token is missing in every answer at step 0. The ratio is 1. Later the answers stay
#   shorter and the score falls behind: nothing teaches the policy when to stop.

# %% tags=["solution-only"]
for letter, bug in museum.EXHIBITS.items():
    seen = [name for name, entry in museum.BUGS.items() if entry.seen(runs[letter], healthy)]
    only_this = seen == [bug] and not museum.BUGS[bug].seen(healthy, healthy)
    exhibited.claim(f"{letter} shows the symptom of {bug}, and of no other bug.", only_this)
short_ones, long_ones = runs["E"].tail(5).mean(), healthy.tail(5).mean()
exhibited.claim(
    "Checked: each run shows the symptom of its own bug and of no other; the healthy run shows none.",
    short_ones["length"] < long_ones["length"] - 1.2 and short_ones["score"] < long_ones["score"] - 0.1,
)

# %% [markdown]
# As advice, a checklist for an RLHF program, yours or someone else's, **before** you train:
#
# 1. Run one step with learning rate 0. The ratio must be 1, the KL 0, and the mean score that of the SFT model.
# 2. Sample at another temperature, with prompts of mixed lengths, and do it again.
# 3. Look at the mask of one finished and of one unfinished answer. Is the EOS in it?
# 4. Look at the rewards of one answer, token by token. Is the score at the EOS?

# %% [markdown]
# ## 6 · Your own PPO
#
# ### Exercise 5.6 · Capstone: one step of PPO
# *difficulty 5/5 · importance 5/5*
#
# Write lines 1 to 7 as one function, about 25 lines. It gets the actor with its optimizer, the frozen reference, a
# function `reward` that gives the reward model's score of each answer of a `Rollout`, a batch of prompts, the settings
# and a generator. It trains the actor in place, and returns what it made on the way in a dict with the names that the
# docstring lists. All tools are known from sections 1 and 2: `sample`, `response_log_probs`, which takes the temperature as
# its last argument (left out, it is 1), `gae`, `masked_whiten`, the two clipped losses, your own `shape` and
# `loss_of_update` (which whitens by itself; twice does no harm), and `actor(answers, temperature)`, which gives the
# log-probabilities and the values. `descend(loss, model, optimizer)` takes one gradient step: gradients to zero, backward,
# clip their norm at 1, step. `answers.rows(rows)` are some rows of a batch; any random order will do for the minibatches.
#
# How it is judged: on small chatbots of eight words. Each part must follow from the parts before it; after one step the
# weights must be those of the tested loop, to within 3 % of the way that the step went. Then your step trains the chatbot
# for 16 steps, and on held-out prompts it must reach at least 60 % of our loop's gain in gold reward, at no more than
# twice its KL. A check takes a few seconds. Return the parts that you have, and you can check each line before you write
# the next one.


# %% tags=["exercise"]
def ppo_step(
    actor: PolicyWithValue,
    optimizer: torch.optim.Optimizer,
    reference: torch.nn.Module,
    reward: Callable[[Rollout], Float[Tensor, " B"]],
    prompts: Int[Tensor, "B P"],
    prompt_mask: Bool[Tensor, "B P"],
    config: PPOConfig,
    generator: torch.Generator,
) -> dict[str, Rollout | Tensor]:
    """One step of PPO, lines 1 to 7: trains `actor` in place.

    Returns "answers", a Rollout; "scores", (B,); and "ref_log_probs", "values", "rewards", "advantages", "returns",
    "whitened", each (B, T).
    """
    # 0  dropout off
    # 1  sample: config.max_new_tokens, config.temperature, generator
    # 2  score the answers; 3  ask the reference; 5a  ask the actor for values: all three without gradient
    # 4  shape the rewards: config.beta, config.unfinished_penalty
    # 5b GAE: config.gamma, config.lam
    # 6  whiten
    # 7  config.epochs passes over the answers, in random order, each in config.minibatches steps of `descend`:
    #    config.clip, config.value_coef
    # BEGIN SOLUTION
    actor.eval()
    answers = sample(actor.policy, prompts, prompt_mask, config.max_new_tokens, config.temperature, generator)
    mask = answers.response_mask
    with torch.no_grad():
        scores = reward(answers)
        ref_log_probs = response_log_probs(
            reference, answers.prompts, answers.prompt_mask, answers.responses, mask, config.temperature
        )
        _, values = actor(answers, config.temperature)
    rewards = shape(
        scores, answers.finished, answers.log_probs, ref_log_probs, mask, config.beta, config.unfinished_penalty
    )
    advantages, returns = gae(rewards, values, mask, config.gamma, config.lam)
    whitened = masked_whiten(advantages, mask)
    for _ in range(config.epochs):
        order = torch.randperm(len(answers), generator=generator, device=mask.device)
        for rows in order.chunk(config.minibatches):
            part = answers.rows(rows)
            log_probs, new_values = actor(part, config.temperature)
            policy_loss, _ = clipped_policy_loss(log_probs, part.log_probs, whitened[rows], mask[rows], config.clip)
            value_loss, _ = clipped_value_loss(new_values, values[rows], returns[rows], mask[rows], config.clip)
            descend(policy_loss + config.value_coef * value_loss, actor, optimizer)
    before = {"answers": answers, "scores": scores, "ref_log_probs": ref_log_probs, "values": values}
    return before | {"rewards": rewards, "advantages": advantages, "returns": returns, "whitened": whitened}
    # END SOLUTION


# %% tags=["nbval-check-output"]
check.capstone(ppo_step)

# %% tags=["student-only"]
# check.capstone.hint()
# check.capstone.solution()

# %% tags=["nbval-ignore-output"]
step_of_ppo = check.capstone.or_ours(ppo_step)

# %% [markdown]
# Now the chatbot itself: 20 steps with your function, from the SFT model, at the settings and the schedule of section 3.

# %% tags=["folded"]
# @title Prompts as tokens, the reward model as a function, and training with your step
assert (ppo_capstone.WEIGHTS, ppo_capstone.GAIN, ppo_capstone.RUN.steps) == (0.03, 0.6, 16)  # as the exercise says
all_prompts, all_masks = (x.to(device) for x in encode_prompts(task.tokenizer, list(task.prompts["prompt"])))


def scored_by_model(answers: Rollout) -> Float[Tensor, " B"]:
    """The reward model's score of each answer."""
    return score(reward_model, answers)


def trained_by_you(settings: PPOConfig, seed: int) -> PolicyWithValue:
    """A new actor after `settings.steps` of your steps, with the schedule of section 3."""
    actor = PolicyWithValue(deepcopy(reference).requires_grad_(True)).to(device)
    optimizer = make_optimizer(actor, settings.learning_rate, eps=1e-5)
    for step in tqdm(range(settings.steps), unit="step"):
        set_learning_rate(optimizer, settings.learning_rate, step, settings.steps)
        rows = minibatch(len(all_prompts), settings.batch_size, step, seed)
        generator = generator_for(seed, step, device)
        step_of_ppo(
            actor, optimizer, reference, scored_by_model, all_prompts[rows], all_masks[rows], settings, generator
        )
    return actor


# %% tags=["nbval-ignore-output"]
after_yours = judged(trained_by_you(replace(config, beta=0.05, steps=20), seed=0).policy)
report("SFT", after_sft)
report("your PPO, 20 steps", after_yours)
course.claim(
    "Checked: your step has trained the chatbot: on held-out prompts the gold reward is higher by more than 0.5.",
    task.gold is not None and after_yours.gold.mean() > after_sft.gold.mean() + 0.5,
)

# %% [markdown]
# ### An open experiment: how far back does credit go?
#
# GAE has a setting that we have not touched: $\lambda$ = 0.95 (notebook 04, section 6). How much does it matter here?
# `short_run(lam, seed)` trains the chatbot for 12 steps of 64 answers with the course's loop, and gives the gold reward and
# the KL on held-out prompts, and the explained variance of the last four steps. One run takes a few seconds.
#
# Fill a table with $\lambda$ = 0, 0.5, 0.95 and 1, three seeds each: means, and the spread over the seeds. **Before you run
# it, write down your guess.** Then answer: which $\lambda$ learn fastest? What does a token get at $\lambda = 0$, with a
# critic that has learned nothing yet? And would you expect the same after 1,000 steps?

# %% tags=["folded"]
# @title One run of the experiment


def short_run(lam: float, seed: int) -> dict[str, float]:
    """Gold reward and KL (nats) on held-out prompts after 12 steps, and the explained variance of the last four."""
    settings = replace(config, beta=0.05, steps=12, lam=lam, target_kl=None)
    actor = PolicyWithValue(deepcopy(reference).requires_grad_(True)).to(device)
    optimizer = make_optimizer(actor, settings.learning_rate, eps=1e-5)
    controller = AdaptiveKL(0.05, target=1.0, horizon=settings.horizon)
    rows = train_ppo(actor, reference, scored_by_model, all_prompts, all_masks, optimizer, controller, settings, seed)
    explained = [row["explained_variance"] for row, _ in rows]
    answers = judged(actor.policy, k=1)
    judge_of_answers = answers.proxy if answers.gold is None else answers.gold
    return {
        "gold": float(judge_of_answers.mean()),
        "kl": float(answers.kl.mean()),
        "explained variance": sum(explained[-4:]) / 4,
    }


# %% tags=["exercise"]
def table_of(settings: list[float], seeds: list[int]) -> pd.DataFrame:
    """One row for each λ and seed, with the columns "λ", "seed" and those of `short_run`."""
    # BEGIN SOLUTION
    runs = tqdm([(lam, seed) for lam in settings for seed in seeds], unit="run")
    return pd.DataFrame([{"λ": lam, "seed": seed, **short_run(lam, seed)} for lam, seed in runs])
    # END SOLUTION


# %% tags=["student-only"]
# table = table_of([0.0, 0.5, 0.95, 1.0], [0, 1, 2])
# table.drop(columns="seed").groupby("λ").agg(["mean", "std"]).round(2)

# %% tags=["solution-only", "nbval-ignore-output"]
table = table_of([0.0, 0.5, 0.95, 1.0], [0, 1, 2])
print(table.drop(columns="seed").groupby("λ").agg(["mean", "std"]).round(2).to_string())
gold_of = table.groupby("λ")["gold"].agg(["min", "max"])
course.claim(
    "Checked: with λ of 0.95 or 1 every run ends with more gold reward than any run with λ of 0 or 0.5, by more than 0.3;\n"
    "the means at 0.95 and 1 differ by less than one standard deviation over the seeds; their critics explain less than\n0.1 of the variance.",
    gold_of["min"][[0.95, 1.0]].min() > gold_of["max"][[0.0, 0.5]].max() + 0.3,
    abs(table.groupby("λ")["gold"].mean()[[0.95, 1.0]].diff().iloc[-1]) < table.groupby("λ")["gold"].std()[1.0],
    table[table["λ"] >= 0.95]["explained variance"].max() < 0.1,
)

# %% [markdown] tags=["solution-only"]
# **The course's own answer.** $\lambda$ near 1 learns fastest by far, and 0.95 and 1 differ by less than their seeds do.
# With $\lambda = 0$ a token gets $\delta_t = r_t + \gamma V_{t+1} - V_t$. The score is in $r_t$ of the *last* token
# only, so at the start, where $V = 0$, no other token hears of it: the EOS is praised for an answer that the words before
# it have earned. First the critic must learn, token by token backwards, what an answer is worth, and that takes longer
# than 12 steps. A $\lambda$ near 1 needs no critic to hand the score back. After many steps the critic is better, and the
# difference should shrink: this is a guess that you can test, we have not measured it.

# %% [markdown]
# ## 7 · What we showed
#
# - PPO for language models has four models on three networks, and eight lines.
# - The distribution that is scored must be the one that was sampled: temperature, positions, dropout and the mask are
#   all cases of this one rule. The ratio at the first pass and the numbers at step 0 watch over it.
# - The reward of a token is its share of the KL, and at the EOS the score; their sum is the objective.
# - 40 steps of PPO raised the gold reward, at a price of a few nats. With a tenth of β and 100 steps the proxy rose
#   further, and the gold reward fell: over-optimisation.
# - Five bugs, five signatures.
#
# ### Three questions to think about
#
# 1. You sample at temperature 0.7 and use 0.7 in the policy's and the reference's log-probabilities. Which model is
#    held near which? Is the chatbot that you deploy at temperature 1 near the SFT model?
# 2. The penalty for unfinished answers is −3. What would happen with a penalty of 0?
# 3. In the first steps of section 3 the value function explained next to nothing of the returns, and yet the reward
#    rose. How can PPO learn without a critic?

# %% [markdown] tags=["solution-only"]
# **Answers.**
#
# 1. The sharpened policy is held near the sharpened reference. Both have their logits divided by the same number, so the
#    policies at temperature 1 are near, too, but the KL you saw is not theirs. Measure again at the temperature at which
#    you deploy.
# 2. Scores are centred, so 0 is an average SFT answer. For a hard prompt, where the policy expects less than 0, never
#    ending would be the better choice. The penalty should lie below the scores of the answers that you want.
# 3. A baseline lowers the variance and does not change the mean of the gradient (notebook 04, section 3). Whitening
#    subtracts the mean of the batch, and that is a baseline already. GRPO and RLOO, in notebook 09, drop the value function
#    for good.

# %% [markdown]
# ### Asked every year
#
# **"My KL is negative. Is that a bug?"** A little, in the first steps: no. The KL on the dashboard is the mean of $k_1$
# over a batch, an unbiased estimate that scatters around the KL, and the KL starts at 0. *Persistently* negative: yes.
# The KL is never negative (notebook 03, section 3), so then the tokens were not sampled from the policy that is scored.

# %% tags=["folded"]
# @title k1 and k3 of 512 answers of a policy near the reference
with torch.no_grad():
    early = sample(moved, prompts.repeat(8, 1), prompt_mask.repeat(8, 1), task.max_new_tokens,
                   generator=generator_for(0, 4, device))  # fmt: skip
    parts = [early.rows(rows) for rows in torch.arange(len(early)).split(64)]  # the logits of all would be gigabytes
    early_ref = torch.cat(
        [response_log_probs(reference, y.prompts, y.prompt_mask, y.responses, y.response_mask) for y in parts]
    )
k1, _, k3 = kl_estimators(early.log_probs.sum(1), early_ref.sum(1))  # both (512,), one number an answer
assert bool((k1 < 0).any()) and bool((k3 >= 0).all())
assert float(k1.mean()) > -4 * float(k1.std()) / len(k1) ** 0.5
print("Checked: some answers of a policy near the reference have a negative k1, and none has a negative k3.")
print("Checked: the mean of k1 over 512 answers is not below 0 by more than 4 standard errors.")

# %% [markdown]
# **"Four models do not fit on my GPU. What can I drop?"** Count what is stored: a trained network needs its weights,
# their gradients and Adam's two averages; a frozen one only its weights. Sharing the trunk saves a whole trained
# network. If only small adapters are trained (LoRA), the reference is the policy with the adapters switched off, and
# costs nothing.

# %%
trunk, head = parameters(reference), width + 1
separate = 4 * (trunk + trunk + head) + trunk + parameters(reward_model)  # own critic: two trained networks
shared = 4 * (trunk + head) + trunk + parameters(reward_model)  # as here
without_reference = shared - trunk  # the reference is the policy without its adapters
assert separate - shared == 4 * trunk
for name, number in (("critic of its own", separate), ("shared trunk, as here", shared)):
    print(f"{name:24s} {number / trunk:5.1f} times the SFT model")
print(f"{'and no reference (LoRA)':24s} {without_reference / trunk:5.1f} times, and less: most of it is not trained")

# %% [markdown]
# **"Can I sample with top-p for nicer answers?"** Not while training: exhibit C is such a run (with top-2). The policy is
# then judged by answers that it gives only with the truncation. Sample plainly in training, and truncate when you deploy,
# if you must.

# %% [markdown]
# ### Where next
#
# All this machinery (sampling, a reward model, a critic, a leash) climbs towards the policy $\pi^*$ of notebook 03. But
# we *know* $\pi^*$ in closed form. Can one train it directly on the preferences? Notebook 06 does, and one loss is left.
#
# ### References
#
# - D. Ziegler et al. (2019), *Fine-tuning language models from human preferences*, arXiv 1909.08593. The loop, KL per
#   token, the adaptive controller (section 2.2).
# - N. Stiennon et al. (2020), *Learning to summarize from human feedback*, arXiv 2009.01325. Over-optimisation seen.
# - L. Ouyang et al. (2022), *Training language models to follow instructions with human feedback*, arXiv 2203.02155.
# - L. Ben Allal et al. (2025), *SmolLM2: when Smol goes big*, arXiv 2502.02737. The model of the recorded run.
# - C. Hutto, E. Gilbert (2014), *VADER: a parsimonious rule-based model for sentiment analysis of social media text*,
#   ICWSM. The ratings of the recorded run, and its gold reward.
# - L. Gao, J. Schulman, J. Hilton (2022), *Scaling laws for reward model overoptimization*, arXiv 2210.10760.
# - S. Huang et al. (2023), *The N implementation details of RLHF with PPO*, and (2024) *The N+ implementation details of
#   RLHF with PPO: a case study on TL;DR summarization*, arXiv 2403.17031. Most details of section 2.
