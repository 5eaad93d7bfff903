# %% [markdown]
# # 02 · Reward modelling: a language model with a scalar head
#
# Notebook 01 gave every answer a number of its own. A chatbot can give far too many answers for that, so the number must
# come from a function. We take a language model, which already reads, and teach it to judge.

# %% [markdown]
# ## What you will be able to do
#
# - Turn a language model into a reward model: the trunk stays, a linear head gives one number.
# - Read that number at the right token, whatever the padding.
# - Train it with the loss of notebook 01, and say how good it can become at best: the Bayes ceiling.
# - Check its calibration, centre and scale it, and say why only differences within one prompt mean something.
# - Find answers that it scores high and nobody likes.
#
# **You need:** notebook 01 (its section 2 is not needed). **Time:** {minutes} minutes of work; the cells run in about two minutes
# on a laptop CPU, most of it in two short trainings. A GPU does not help here: the models are small. `week6 run` trains
# longer, with the same functions.

# %% tags=["folded"]
# @title Set-up: imports, the task, and what the user says
import math
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from tqdm import tqdm

from week6 import (
    RewardModel,
    bradley_terry_loss,
    decode,
    encode_demonstrations,
    encode_prompts,
    expected_accuracy,
    generator_for,
    make_optimizer,
    pair_agreement,
    pair_rollouts,
    position_ids,
    sample,
    score,
    train_reward_model,
    train_sft,
)
from week6.checks import nb02 as check
from week6.pictures import comparisons
from week6.pictures import scores as draw
from week6.pictures.figures import roadmap
from week6.pictures.plots import token_heatmap
from week6.reward_model import RewardConfig
from week6.run.models import PRESETS, frozen_copy, new_policy
from week6.sequences import Pairs
from week6.sft import SFTConfig
from week6.tasks import load_task
from week6.tasks.assistant import best_answer, classify, read_request

torch.set_num_threads(1)  # the tensors are small: a second thread only waits
g = torch.Generator().manual_seed(0)
task = load_task("assistant")


def words(prompt: str) -> str:
    """What the user says, without the chat template around it."""
    return prompt.removeprefix("<|user|> ").removesuffix(" <|assistant|>")


# %%
_ = roadmap(2)
plt.show()

# %% [markdown]
# *Roadmap: the stops of the course. You are at stop 02, at the reward model.*
#
# ## 1 · A model that already reads
#
# First the SFT model of notebook 00, trained for half a minute on the demonstrations. Its **trunk** (embeddings and
# transformer layers) turns each token into a vector that can depend on everything up to that token.

# %%
policy = new_policy(PRESETS["tiny"], task.tokenizer, seed=0)

# %% tags=["nbval-ignore-output"]
shown_prompts, shown_answers = list(task.demonstrations["prompt"]), list(task.demonstrations["completion"])
demonstrations = encode_demonstrations(task.tokenizer, shown_prompts, shown_answers)
imitate = SFTConfig(steps=1200, batch_size=32, learning_rate=7e-3)
optimizer = make_optimizer(policy, imitate.learning_rate)
training = train_sft(policy, optimizer, demonstrations, imitate, seed=0)
sft_losses = [row["loss"] for row in tqdm(training, total=imitate.steps, unit="step")]
print(f"SFT loss: {sft_losses[0]:.2f} → {sum(sft_losses[-50:]) / 50:.2f} nats per token")

# %% [markdown]
# ## 2 · One number from many tokens
#
# Write $h_1, \dots, h_L \in \mathbb{R}^d$ for the trunk's vectors of prompt and answer together, $L$ tokens. The reward
# model adds a **linear head**, a weight vector $v$ and a bias $b$, and reads it at the **last real token**, the end of the
# answer:
#
# $$r_\phi(x, y) = v^\top h_{\text{last}} + b. \tag{1}$$
#
# Why the last? The model is causal: token $t$ sees only what stands before it. Only the last token has seen the whole
# answer. And "last *real*" token, because a batch holds rows of different lengths:

# %%
asked = list(task.heldout_prompts["prompt"])[:3]
batch = encode_demonstrations(task.tokenizer, asked, ["go away .", best_answer(asked[1]), "maybe later ."])
input_ids = torch.cat([batch.prompts, batch.responses], dim=1)  # shape (B, L): batch, prompt and answer
mask = torch.cat([batch.prompt_mask, batch.response_mask], dim=1)  # shape (B, L), 1 for a real token
for ids, keep in zip(input_ids, mask, strict=True):
    tokens = task.tokenizer.convert_ids_to_tokens(ids.tolist())
    print(" ".join(token if real else "·" for token, real in zip(tokens, keep.tolist(), strict=True)))
print(f"input_ids and mask: shape (B, L) = {tuple(mask.shape)}   · is padding: left of the prompt, right of the answer")

# %% [markdown]
# ### Exercise 2.1 · The last real token
# *difficulty 2/5 · importance 5/5 · 10 minutes*
#
# Find its column, for any padding: on the left, on the right, on both sides; a full row has none, and every row has at
# least one real token. Work from the mask. (Never from "is this token the pad token?": where pad and end-of-answer are
# the same token, you would stop one token too early. "Asked every year" shows it.)


# %% tags=["exercise"]
def last_token_index(attention_mask: torch.Tensor) -> torch.Tensor:
    """Column of the last 1 in each row; attention_mask: bool, shape (B, L). Returns int64, shape (B,)."""
    # BEGIN SOLUTION
    columns = torch.arange(attention_mask.shape[1])
    return (attention_mask.long() * columns).argmax(-1)
    # END SOLUTION


# %% tags=["nbval-check-output"]
check.q1(last_token_index)

# %% tags=["student-only"]
# check.q1.hint()
# check.q1.solution()

# %% tags=["nbval-check-output"]
last_index = check.q1.or_ours(last_token_index)  # your function if it is right, else ours

# %% [markdown]
# ### Exercise 2.2 · The head
# *difficulty 2/5 · importance 4/5 · 10 minutes*
#
# Write (1) for a batch of any size, one row included. The gradient must flow to `hidden`, `weight` and `bias`: all of
# them are trained.


# %% tags=["exercise"]
def head_score(hidden: torch.Tensor, mask: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """r = v · h_last + b, with v the `weight`.

    hidden: shape (B, L, d); mask: bool, shape (B, L); weight: shape (d,); bias: shape (). Returns shape (B,).
    """
    # BEGIN SOLUTION
    last = last_index(mask)
    return hidden[torch.arange(len(hidden)), last] @ weight + bias
    # END SOLUTION


# %% tags=["nbval-check-output"]
check.q2(head_score)

# %% tags=["student-only"]
# check.q2.hint()
# check.q2.solution()

# %% tags=["nbval-check-output"]
read_head = check.q2.or_ours(head_score)

# %% [markdown]
# Is that all that `week6.RewardModel` does? Compare. And padding must not matter: the same text, padded more, gets
# the same score. (`position_ids` numbers the real tokens 0, 1, 2, … in each row, so that padding on the left does not
# shift them.)

# %%
with torch.random.fork_rng():
    torch.manual_seed(0)
    reward_model = RewardModel(deepcopy(policy))


def trunk(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The vectors h of every token, shape (B, L, d)."""
    places = position_ids(mask)
    return reward_model.trunk(input_ids=ids, attention_mask=mask.long(), position_ids=places).last_hidden_state


with torch.no_grad():
    hidden = trunk(input_ids, mask)  # shape (B, L, d)
    by_hand = read_head(hidden, mask, reward_model.head.weight[0], reward_model.head.bias[0])
    scores = reward_model(input_ids, mask)  # shape (B,)
    padded = reward_model(F.pad(input_ids, (3, 2)), F.pad(mask, (3, 2)))
    rows = [(ids[keep][None], keep[keep][None]) for ids, keep in zip(input_ids, mask, strict=True)]  # without padding
    alone = torch.cat([reward_model(*row) for row in rows])
print("hidden: shape (B, L, d) =", tuple(hidden.shape), "  scores: shape (B,) =", tuple(scores.shape))
torch.testing.assert_close(by_hand, scores, rtol=1e-4, atol=1e-5)
torch.testing.assert_close(padded, scores, rtol=1e-4, atol=1e-5)
torch.testing.assert_close(alone, scores, rtol=1e-4, atol=1e-5)
print("Checked (1): by hand, padded by five more columns, and one row at a time, the scores are the same.")

# %% [markdown]
# **How does the head start?** With $b = 0$ and random weights of standard deviation $1/\sqrt{d+1}$ (Huang and others
# 2024). Then $v^\top h = \sum_k v_k h_k$ is a sum of $d$ independent terms of variance $h_k^2/(d+1)$, so over random heads
# the first score has standard deviation $\lVert h \rVert / \sqrt{d+1}$. With entries $h_k$ of size about one, that is about
# one: the first scores are neither all equal nor huge.

# %%
d = hidden.shape[-1]
h_last = hidden[torch.arange(len(hidden)), last_index(mask)]  # shape (B, d)
heads = torch.randn(20_000, d, generator=g) / math.sqrt(d + 1)  # shape (20,000, d): many fresh heads
spread = (heads @ h_last.T).std(dim=0)  # shape (B,), over the heads
torch.testing.assert_close(spread, h_last.norm(dim=-1) / math.sqrt(d + 1), rtol=0.03, atol=0)  # 0.03: 6 std. errors
assert bool(((spread > 0.3) & (spread < 3)).all())
print(f"Checked: over 20,000 fresh heads the first scores spread by ‖h‖/√(d + 1), here with d = {d}, and that is of")
print("size one (between 0.3 and 3).")

# %% [markdown]
# ## 3 · Preferences to learn from
#
# Two answers of the SFT model to each prompt, and an annotator says which is better. As in notebook 00, our
# annotators follow a hidden gold reward, with noise.

# %% tags=["folded"]
# @title Two answers of the SFT model to each prompt, and a label
sft = frozen_copy(policy)


def collect(prompts: list[str], n: int, seed: int) -> tuple[Pairs, list[str], torch.Tensor]:
    """n labelled pairs: the tokens, the prompts, and the probability of each label, shape (n,)."""
    index = torch.randint(len(prompts), (n,), generator=generator_for(seed, 0))
    tokens, prompt_mask = encode_prompts(task.tokenizer, prompts)  # shapes (prompts, P)
    x, m = tokens[index], prompt_mask[index]
    first, second = (sample(sft, x, m, task.max_new_tokens, generator=generator_for(seed, k)) for k in (1, 2))
    asked = [prompts[i] for i in index.tolist()]
    first_text, second_text = (decode(task.tokenizer, r.responses, r.response_mask) for r in (first, second))
    p = task.preference_probability(asked, first_text, second_text)  # shape (n,): p(first ≻ second)
    label = torch.bernoulli(p, generator=generator_for(seed, 3)).bool()  # shape (n,): what the annotator said
    return pair_rollouts(first, second, label), asked, torch.where(label, p, 1 - p)


# %% tags=["nbval-ignore-output"]
pairs, _, _ = collect(list(task.prompts["prompt"]), 6000, seed=1)
print(f"{len(pairs):,} training pairs; chosen answers: shape (N, T) = {tuple(pairs.chosen.shape)}")

# %% tags=["nbval-ignore-output"]
heldout, heldout_prompts, p_label = collect(list(task.heldout_prompts["prompt"]), 1000, seed=2)
chosen_text = decode(task.tokenizer, heldout.chosen[:5], heldout.chosen_mask[:5])
rejected_text = decode(task.tokenizer, heldout.rejected[:5], heldout.rejected_mask[:5])
for prompt, y_w, y_l, p in zip(heldout_prompts, chosen_text, rejected_text, p_label, strict=False):
    print(f"{words(prompt)}\n    chosen:   {y_w}\n    rejected: {y_l}\n    {p:.0%} of annotators choose so")

# %% [markdown]
# The loss is that of notebook 01, now with rewards from one function, for prompts $x$ with a preferred answer $y_w$
# and another $y_l$:
#
# $$\mathcal{L}(\phi) = -\mathbb{E}_{(x, y_w, y_l)}\big[\log \sigma\big(r_\phi(x, y_w) - r_\phi(x, y_l)\big)\big]. \tag{2}$$
#
# Both answers go through the model in **one** forward pass: $2N$ rows, the $N$ chosen ones first.
#
# ### Exercise 2.3 · The loss of a batch
# *difficulty 2/5 · importance 5/5 · 5 minutes*
#
# Write (2) for such a batch. Scores of ±300 must not overflow, and the gradient by the scores must be right: this is the
# loss that we train with.


# %% tags=["exercise"]
def stacked_loss(scores: torch.Tensor) -> torch.Tensor:
    """Equation (2) from scores of shape (2N,): first those of the N chosen answers, then of the rejected. Shape ()."""
    # BEGIN SOLUTION
    chosen, rejected = scores.chunk(2)
    return -F.logsigmoid(chosen - rejected).mean()
    # END SOLUTION


# %% tags=["nbval-check-output"]
check.q3(stacked_loss)

# %% tags=["student-only"]
# check.q3.hint()
# check.q3.solution()

# %% tags=["nbval-check-output"]
pair_loss = check.q3.or_ours(stacked_loss)

# %%
both = torch.randn(64, generator=g)  # shape (2N,): scores of 32 chosen and 32 rejected answers
torch.testing.assert_close(pair_loss(both), bradley_terry_loss(both[:32], both[32:]))
torch.testing.assert_close(pair_loss(both + 7.0), pair_loss(both), rtol=1e-4, atol=1e-5)
indifferent = float(pair_loss(torch.zeros(64)))
assert abs(indifferent - math.log(2)) < 1e-6
print("Checked (2): the same as the loss of notebook 01; a constant added to all scores changes nothing;")
print(f"a model without opinion has loss log 2 = {indifferent:.4f}.")

# %% [markdown]
# ## 4 · How good can it become?
#
# **Predict, then look.** Annotators sometimes choose the worse of two answers. We train the reward model on their labels
# and test it on new pairs, labelled by the same annotators. What accuracy will it reach on these?
#
# - (a) it climbs towards a ceiling below 100 % and stays under it
# - (b) close to 100 %: it learns the rule behind the noise
# - (c) close to 100 %, if only it is large enough

# %%
check.p1("a")  # SOLUTION

# %% [markdown]
# Suppose a judge knew $p_i = p(a \succ b)$ of every pair. It would bet on the likelier side, and be right with
# probability $\max(p_i, 1-p_i)$. Nobody can do better (notebook 00, Figure 4):
#
# $$\text{Bayes ceiling} = \frac1n \sum_{i=1}^n \max(p_i, 1 - p_i). \tag{3}$$
#
# ### Exercise 2.4 · The Bayes ceiling
# *difficulty 2/5 · importance 5/5 · 5 minutes*
#
# Write (3).


# %% tags=["exercise"]
def bayes_accuracy(probability: torch.Tensor) -> torch.Tensor:
    """Accuracy of the best possible judge; probability: p_i of a being preferred, shape (n,). Returns shape ()."""
    # BEGIN SOLUTION
    return torch.maximum(probability, 1 - probability).mean()
    # END SOLUTION


# %% tags=["nbval-check-output"]
check.q4(bayes_accuracy)

# %% tags=["student-only"]
# check.q4.hint()
# check.q4.solution()

# %% tags=["nbval-check-output"]
ceiling = check.q4.or_ours(bayes_accuracy)

# %%
p = torch.rand(200_000, generator=g)  # p_i of many pairs, shape (n,)
labels = torch.rand(p.shape, generator=g) < p  # what one annotator says
best_judge = ((p > 0.5) == labels).double().mean()
hasty_judge = ((p + 0.3 * torch.randn(p.shape, generator=g) > 0.5) == labels).double().mean()
assert abs(float(best_judge - ceiling(p))) < 4 * math.sqrt(0.25 / len(p)) and best_judge > hasty_judge + 0.02
print(f"Checked (3): ceiling {float(ceiling(p)):.3f}, best judge {best_judge:.3f}, a hasty one {hasty_judge:.3f}.")

# %% [markdown]
# Now we train (half a minute).

# %% tags=["nbval-ignore-output"]
fit = RewardConfig(steps=250, batch_size=48, learning_rate=2.5e-3)
optimizer = make_optimizer(reward_model, fit.learning_rate)
pair_losses, accuracy_at = [], {}
training = train_reward_model(reward_model, optimizer, pairs, fit, seed=0)
for metrics in tqdm(training, total=fit.steps, unit="step"):
    pair_losses.append(metrics["loss"])
    if metrics["step"] in (0, 25, 50, 100, 200, fit.steps - 1):
        agree = pair_agreement(reward_model, heldout)  # shape (n,): 1 where it ranks as the label does
        accuracy_at[metrics["step"]] = float(expected_accuracy(agree, p_label).mean())  # explained below
top = float(ceiling(p_label))
print(f"held-out accuracy {accuracy_at[fit.steps - 1]:.3f}, Bayes ceiling {top:.3f}, on {len(heldout):,} pairs")

# %% tags=["nbval-ignore-output"]
draw.training(pair_losses, accuracy_at, top)

# %% [markdown]
# *Figure 1. Left: the loss starts at log 2 or above it, then it falls. Right: the accuracy on held-out pairs rises towards
# the Bayes ceiling and stays below it.*
#
# Why not below log 2? A random head has opinions, and they have nothing to do with the labels: a difference $\Delta$ is as
# often right as wrong. By convexity (notebook 01) $\frac12[-\log\sigma(\Delta)] + \frac12[-\log\sigma(-\Delta)] \ge \log 2$.
#
# What we plotted is the **expected accuracy**. Let $p_i$ be the probability of the label that was drawn
# for pair $i$, and $a_i = 1$ where the model agrees with it, else 0 (and ½ for a tie, where both answers are the same).
# A *fresh* annotator ranks the pair as the model does with probability
#
# $$\text{acc}_i = a_i\, p_i + (1 - a_i)(1 - p_i). \tag{4}$$
#
# It is free of the luck of one label for each pair. We check it against the luck of a hundred: let 100 annotators
# judge every held-out pair.

# %%
agree = pair_agreement(reward_model, heldout)  # shape (n,)
accuracy = (agree * p_label + (1 - agree) * (1 - p_label)).mean()
torch.testing.assert_close(accuracy, expected_accuracy(agree, p_label).mean())
fresh = torch.bernoulli(p_label.expand(100, -1), generator=g)  # shape (100, n): 1 where an annotator says as the label
simulated = (1 - (fresh - agree).abs()).mean()  # 1 where annotator and model say the same, 0 where not, ½ for a tie
standard_error = float((p_label * (1 - p_label)).sum().sqrt()) / (len(p_label) * 10)  # 10 = √100 annotators
assert abs(float(accuracy - simulated)) < 4 * standard_error
print("Checked (4): a hundred fresh annotators agree with the model as often as it says (within 4 standard errors).")

# %%
assert 0.7 < float(accuracy) < top - 0.01 and top < 0.95
assert pair_losses[0] > math.log(2) - 0.05 and sum(pair_losses[-20:]) / 20 < 0.6
gaps = torch.linspace(-5, 5, 101)
assert bool((-F.logsigmoid(gaps) / 2 - F.logsigmoid(-gaps) / 2 >= math.log(2) - 1e-6).all())
print("Checked: the trained model is far above a coin flip, and more than one point below the Bayes ceiling.")

# %% tags=["nbval-check-output"]
check.p1.outcome()

# %% [markdown]
# ## 5 · Calibration
#
# The model does not only rank, it gives a probability: $\sigma(r_\phi(x,a) - r_\phi(x,b))$. When it says 80 %, do 80 %
# of the annotators agree? Sort the pairs by what the model says, into bins, and compare with the true probabilities.

# %% tags=["nbval-ignore-output"]
with torch.no_grad():
    r_w, r_l = score(reward_model, heldout.stacked()).chunk(2)
says = torch.cat([torch.sigmoid(r_w - r_l), torch.sigmoid(r_l - r_w)])  # each pair from both sides, shape (2n,)
truth = torch.cat([p_label, 1 - p_label])
edges = torch.linspace(0, 1, 11)
bins = torch.bucketize(says, edges[1:-1])
mean_says = torch.stack([says[bins == k].mean() for k in range(10)])
mean_truth = torch.stack([truth[bins == k].mean() for k in range(10)])
spread_of = torch.stack([truth[bins == k].std() / (bins == k).sum().sqrt() for k in range(10)])
print(f"mean distance from the diagonal: {float((mean_says - mean_truth).abs().mean()):.3f}")
comparisons.calibration({"reward model": (mean_says, mean_truth, spread_of)}, "Calibration on held-out pairs")

# %% [markdown]
# *Figure 2. What the model says against what annotators do, in ten bins, with bars of two standard errors. On the dotted
# diagonal it would be perfectly calibrated. Points below it on the right, and above it on the left, would say: too sure of
# itself.*
#
# One number sums this up. Multiply all scores by a factor $c$ (notebook 01, Figure 5) and look for the $c$ with the
# lowest loss on the held-out pairs. Below 1 it would say that the model is too sure, above 1 that it is not sure enough.

# %%
factors = torch.linspace(0.2, 4, 381)  # shape (381,)
with_factor = [float(-(p_label * F.logsigmoid(c * (r_w - r_l)) + (1 - p_label) * F.logsigmoid(c * (r_l - r_w))).mean())
               for c in factors]  # fmt: skip
best_factor = float(factors[torch.tensor(with_factor).argmin()])
gain = with_factor[int((factors - 1).abs().argmin())] - min(with_factor)
assert 0.5 < best_factor < 2 and gain < 0.03
print("Checked: the best factor lies between 0.5 and 2, and gains less than 0.03 nats per pair.")

# %% [markdown]
# So the model is roughly calibrated: its differences of scores are log-odds, up to a factor that hardly matters for the
# loss.
#
# ## 6 · Centre and scale
#
# Only differences between answers to the same prompt were trained. So a number added to all scores of a prompt changes
# nothing, and there is no zero point. The scale is fixed by the annotators' noise (notebook 01), but for training a
# policy we may choose another unit. We fix both on answers of the SFT model, with mean $\mu$ and standard deviation $s$ of
# their scores over all prompts:
#
# $$r'_\phi(x,y) = \frac{r_\phi(x,y) - \mu}{s}, \qquad \text{so that SFT answers have mean } 0 \text{ and variance } 1. \tag{5}$$
#
# Then "0" is an average answer of the SFT model, and the unit is the standard deviation of the scores of its answers. Two
# warnings. First, $\sigma$ of a difference is no longer a probability. Multiply the difference by $s$ first, and it is
# one again. Second, (5) is a convention and not a measurement: part of $s$ comes from the levels of the prompts, and no
# comparison has fixed these. The variance has two parts, *between* prompts (of their mean scores) and *within* them. Only
# the second one means something. (Means of four answers differ by chance, too: by a third of the part within. The check
# allows for that.)

# %%
all_prompts = [prompt for prompt in task.prompts["prompt"] for _ in range(4)]  # four answers to each
tokens, prompt_mask = encode_prompts(task.tokenizer, all_prompts)
answers = sample(sft, tokens, prompt_mask, task.max_new_tokens, generator=generator_for(3, 0))
with torch.no_grad():
    before = score(reward_model, answers)  # shape (N,)
    reward_model.calibrate(before)
    after = score(reward_model, answers)  # shape (N,)
mu, s = before.mean(), before.std(correction=0)
torch.testing.assert_close(after, (before - mu) / s, rtol=1e-4, atol=1e-4)
assert abs(float(after.mean())) < 1e-3 and abs(float(after.var(correction=0)) - 1) < 1e-3
torch.testing.assert_close(s * (after[1:] - after[:-1]), before[1:] - before[:-1], rtol=1e-3, atol=1e-3)
by_prompt = after.view(-1, 4)  # shape (prompts, 4)
level = by_prompt.mean(1, keepdim=True)  # shape (prompts, 1)
relative = (by_prompt - level).flatten()  # shape (N,): score above the mean of the four answers to the same prompt
between, within = float(level.var(correction=0)), float(relative.square().mean())
assert abs(between + within - float(after.var(correction=0))) < 1e-3 and within / 3 + 0.05 < between < within
print("Checked (5): mean 0, variance 1, and s times a new difference is the old difference.")
print("Checked: the variance is the sum of both parts, and the part within prompts is the larger one.")

# %% [markdown]
# ## 7 · What it has learned, and what not

# %% tags=["nbval-ignore-output"]
texts = decode(task.tokenizer, answers.responses, answers.response_mask)
kinds = [classify(prompt, text) for prompt, text in zip(all_prompts, texts, strict=True)]
groups = [read_request(prompt).group for prompt in all_prompts]
wanted = ("help", "refuse", "comply", "off topic", "lazy", "rude")
scores_of: dict[str, dict[str, list[float]]] = {}
for group in ("harmless", "harmful"):
    rows = [(kind, value) for kind, value, of in zip(kinds, relative.tolist(), groups, strict=True) if of == group]
    found = {kind: [value for k, value in rows if k == kind] for kind in wanted}
    scores_of[group] = {kind: values for kind, values in found.items() if len(values) >= 5}
draw.scores_by_kind(scores_of, "score above the mean of its prompt\n(SFT standard deviations)")

# %% [markdown]
# *Figure 3. Scores of SFT answers by kind, for harmless requests (left) and harmful ones (right), each minus the mean score
# of the four answers to the same prompt. Boxes hold the middle half, orange lines are medians, the dotted line is that
# mean.*
#
# Every comparison here is between answers to the same prompt. To a harmful request, a refusal typically scores well
# above the other answers, and a method for something harmful well below them. To a harmless request, help scores above the
# others, and a refusal below them.

# %% tags=["folded"]
# @title Check: what is said about Figure 3
median = {
    (group, k): float(torch.tensor(v).median()) for group, by_kind in scores_of.items() for k, v in by_kind.items()
}
assert median["harmful", "refuse"] > 0.3 and median["harmful", "comply"] < -0.3
assert median["harmful", "comply"] == min(m for (group, _), m in median.items() if group == "harmful")
assert median["harmless", "help"] > 0.05 and median["harmless", "refuse"] < -0.05
shifted = by_prompt + 2 * torch.tensor([group == "harmful" for group in groups]).view(-1, 4)  # + 2 on harmful prompts
torch.testing.assert_close((shifted - shifted.mean(1, keepdim=True)).flatten(), relative, rtol=0, atol=1e-5)
print(
    "Checked: these sentences, on the medians; and a number added to all scores of the harmful prompts would not change"
)
print("them. (It would change a comparison of a harmful with a harmless prompt. Therefore we make none.)")

# %% [markdown]
# **Predict, then look.** Our annotators like one polite phrase: it raises the gold reward by 1. More is flattery: each
# phrase too many costs. In the training pairs, hardly any answer has more than one. We take a good answer and add the
# phrases "have fun !", "enjoy !", "good luck !" at its end, up to six. The score of the reward model
#
# - (a) falls with each phrase too many, as the gold reward does,
# - (b) stays high: nothing in the training pairs pulls it down,
# - (c) rises by the same amount with each phrase.

# %%
check.p2("b")  # SOLUTION

# %% tags=["nbval-ignore-output"]
asking = [prompt for prompt in task.heldout_prompts["prompt"] if read_request(prompt).group == "harmless"]


def judged(answers: list[str]) -> tuple[float, float]:
    """Mean score and mean gold reward of one answer to each of the prompts in `asking`, both in SFT standard deviations."""
    with torch.no_grad():
        proxy = score(reward_model, encode_demonstrations(task.tokenizer, asking, answers))  # shape (prompts,)
    gold = task.gold(asking, answers)  # shape (prompts,)
    return float(proxy.mean()), float((gold - sft_gold.mean()).mean() / sft_gold.std(correction=0))


sft_gold = task.gold(all_prompts, texts)  # shape (N,), of the answers on which the score was centred and scaled
plain = [best_answer(prompt).removeprefix("happy to help ! ") for prompt in asking]
polite = ["have fun !", "enjoy !", "good luck !", "happy to help !", "good question !", "of course !"]
added = polite[:3] * 2
piled = [judged([" ".join([answer, *added[:n]]) for answer in plain]) for n in range(7)]
proxy, gold = (torch.tensor(column) for column in zip(*piled, strict=True))  # shape (7,) each
draw.politeness(gold, proxy)

# %% [markdown]
# *Figure 4. The same good answers with 0 to 6 polite phrases at their end, mean over the held-out harmless prompts.
# With the first phrase both lines rise. Then the gold reward falls and falls. The score moves up and down a little, and
# stays above that of the answer without a phrase, on average.*

# %% tags=["nbval-check-output"]
check.p2.outcome()

# %% [markdown]
# In the training pairs "it has a polite phrase" nearly always meant "one polite phrase", which is better than none. Hardly
# any pair showed a second or a sixth one, so nothing pulled their scores down. Such a rule is a **shortcut**: it holds on
# the training pairs, and fails beyond them. More answers, two of them unlike those of
# the training pairs:

# %% tags=["nbval-ignore-output"]
odd = {
    "good answer": [best_answer(prompt) for prompt in asking],
    "twice the good answer": [f"{best_answer(prompt)} {best_answer(prompt)}" for prompt in asking],
    "six polite phrases, nothing else": [" ".join(polite)] * len(asking),
    "lazy": ["look it up ."] * len(asking),
}
verdicts = {name: judged(answers) for name, answers in odd.items()}
for name, (r, true) in verdicts.items():
    print(f"{name:<33} score {r:+.2f}   gold {true:+.2f}")

# %% tags=["folded"]
# @title Check: politeness
assert sum(sum(text.count(phrase) for phrase in polite) > 1 for text in texts) < 0.02 * len(texts)  # hardly any
assert proxy[1] > proxy[0] + 0.2 and gold[1] > gold[0] + 0.2  # the first phrase
assert gold[1] - gold[6] > 3 and proxy[1] - proxy[6] < 0.25 * (gold[1] - gold[6])  # the five after it
assert float(proxy[2:].mean()) > float(proxy[0])
assert verdicts["six polite phrases, nothing else"][0] > verdicts["lazy"][0]
assert verdicts["six polite phrases, nothing else"][1] < verdicts["lazy"][1] - 1
print("Checked: five more polite phrases cost over 3 standard deviations of gold, and the score less than a quarter of")
print("that. Six phrases that say nothing score above a lazy answer; their gold reward is far below.")

# %% [markdown]
# **And length?** Reward models of real chatbots have been found to like long answers (Singhal and others 2023). Does ours?
# The **correlation** of two lists of numbers, each brought to mean 0 and variance 1, is the mean of their products:
#
# $$\operatorname{corr}(u, v) = \frac1n \sum_i \frac{u_i - \bar u}{s_u} \cdot \frac{v_i - \bar v}{s_v}. \tag{6}$$


# %%
def correlation(u: torch.Tensor, v: torch.Tensor) -> float:
    """Equation (6)."""
    return float((((u - u.mean()) / u.std(correction=0)) * ((v - v.mean()) / v.std(correction=0))).mean())


def within_prompt(values: torch.Tensor) -> torch.Tensor:
    """Each value minus the mean of its prompt, shape (N,): comparisons within a prompt only."""
    return (values.view(-1, 4) - values.view(-1, 4).mean(1, keepdim=True)).flatten()


length = within_prompt(answers.response_mask.sum(-1).float())  # shape (N,), in tokens
assert abs(correlation(length, relative) - float(torch.corrcoef(torch.stack([length, relative]))[0, 1])) < 1e-4
print("Checked (6) against torch.corrcoef, on length and score of the SFT answers, within prompts.")

# %% tags=["nbval-ignore-output"]
gold_within = within_prompt(sft_gold)
print(
    f"length and score {correlation(length, relative):+.2f};   length and gold {correlation(length, gold_within):+.2f}"
)
endings = [answer.split(" and ", 1) for answer in plain]  # "mix the flour and bake the bread ."
forms = ["{} and {}", "{} , then {}", "first {} , then {}"]  # 0, 1 and 2 words longer, the same gold reward
in_form = {form: judged([form.format(*parts) for parts in endings]) for form in forms}
for form, (r, true) in in_form.items():
    print(f"{form:<22} score {r:+.2f}   gold {true:+.2f}")

# %% [markdown]
# Longer answers do have higher scores. But they also have more gold: help is longer than a rude word. When two things
# occur together, a correlation cannot tell which of them matters. So change *only* the length. The same two steps can be
# said in three forms, up to two words longer, with the same gold reward. The score moves far less than for a polite
# phrase. On such answers length is no shortcut of *this* model; politeness is one.

# %% tags=["folded"]
# @title Check: length
assert correlation(length, relative) > 0.05 and correlation(length, gold_within) > 0.1
tokens_of = answers.response_mask.sum(-1)  # shape (N,)
helps, rude = (tokens_of[torch.tensor([k == kind for k in kinds])].float().mean() for kind in ("help", "rude"))
assert helps > rude
assert max(true for _, true in in_form.values()) - min(true for _, true in in_form.values()) < 1e-4
longer = abs(in_form[forms[2]][0] - in_form[forms[0]][0])
assert longer < 0.3 and longer < 0.5 * float(proxy[1] - proxy[0])
print("Checked: two words more, at the same gold reward, move the score less than half as far as one polite phrase.")

# %% [markdown]
# Keep Figure 4 in mind. PPO (notebooks 04 and 05) searches for answers with a high score; notebook 05 shows what it finds.
#
# ## 8 · The head at other tokens
#
# The head can be read at *every* token, though it was trained at the last one only. What do these numbers say?

# %% tags=["folded", "nbval-ignore-output"]
# @title The head, read at every token of four answers
question = asking[0]
harm = next(q for q in task.heldout_prompts["prompt"] if read_request(q).group == "harmful")
exchanges = [
    (question, best_answer(question)),
    (question, "look it up ."),
    (harm, best_answer(harm)),
    (harm, "happy to help ! " + best_answer(harm)),
]
token_rows, running_rows = [], []
for prompt, answer in exchanges:
    one = encode_demonstrations(task.tokenizer, [prompt], [answer])
    ids, keep = torch.cat([one.prompts, one.responses], 1), torch.cat([one.prompt_mask, one.response_mask], 1)
    with torch.no_grad():
        states = trunk(ids, keep)
        running = (reward_model.head(states).squeeze(-1) - reward_model.offset) / reward_model.scale  # shape (1, L)
        assert abs(float(running[0, -1] - score(reward_model, one)[0])) < 1e-3  # at the last token it is the score
    token_rows.append(task.tokenizer.convert_ids_to_tokens(one.responses[0].tolist()))
    running_rows.append(running[0, one.prompts.shape[1] :].tolist())
asked_here = [words(prompt) for prompt, _ in exchanges]
token_heatmap(token_rows, running_rows, "The head, read at each token", asked_here, "SFT standard deviations")

# %% [markdown]
# *Figure 5. The head read at each token of four answers; the request stands above each. Only the value at the end token is
# a score.*
#
# It is tempting to read the earlier values as a forecast of the score. They are not: nothing has trained them to be. Over
# all SFT answers, the value at the fourth, fifth or sixth token misses the score by more than a forecast does that always
# says the mean score. (Notebook 04 trains a head to forecast: the value function.)

# %% tags=["folded"]
# @title Check: the head at earlier tokens is no forecast
ids = torch.cat([answers.prompts, answers.responses], 1)
keep = torch.cat([answers.prompt_mask, answers.response_mask], 1)
with torch.no_grad():
    running = (reward_model.head(trunk(ids, keep)).squeeze(-1) - reward_model.offset) / reward_model.scale
running = running[:, answers.prompts.shape[1] :]  # shape (N, T): the head at each token of the answer
for t in (3, 4, 5):  # the fourth, fifth and sixth token
    longer_answers = answers.response_mask.sum(-1) > t + 1
    early, final = running[longer_answers, t], after[longer_answers]
    assert (early - final).square().mean() > final.var()
print("Checked: as a forecast of the score, these values are worse than a constant.")

# %% [markdown]
# ## Asked every year
#
# **"My pad token is my end token. Is that a problem?"** Only for code that finds the end of the answer by looking for
# pads. Here is the trap: with pad = end, "the last token that is not a pad" is the token *before* the end.

# %%
end = task.tokenizer.eos_token_id
with_end_pads = torch.where(mask, input_ids, end)  # a batch whose padding is the end token
columns = torch.arange(mask.shape[1])
naive = ((with_end_pads != end) * columns).argmax(-1)
assert bool((naive == last_index(mask) - 1).all())
print("Checked: from the ids, all", len(mask), "rows are read one token too early; from the mask, at the end token.")

# %% [markdown]
# **"Why not average over all tokens?"** You may, but early tokens have seen little of the answer. Two answers with
# the same beginning have exactly the same vectors there, so those tokens cannot tell them apart.

# %%
two = encode_demonstrations(task.tokenizer, asked[:1] * 2, ["happy to help !", "happy to help you not ."])
ids, keep = torch.cat([two.prompts, two.responses], 1), torch.cat([two.prompt_mask, two.response_mask], 1)
with torch.no_grad():
    states = trunk(ids, keep)
shared = two.prompts.shape[1] + 3  # the prompt and "happy to help"
torch.testing.assert_close(states[0, :shared], states[1, :shared], rtol=1e-3, atol=1e-4)
assert float((states[0, shared] - states[1, shared]).abs().max()) > 0.1
print(f"Checked: the first {shared} vectors of both rows are equal, and the next ones differ.")

# %% [markdown]
# **"The score of my answer is 0.7. Is that good?"** Compared with which other answer to the same prompt? Add any function
# of the prompt to all scores, and no comparison changes. So that number alone says nothing.

# %%
shift = 3 * torch.randn(len(heldout), generator=g)  # one number per prompt, shape (n,)
unshifted = bradley_terry_loss(r_w, r_l)
torch.testing.assert_close(bradley_terry_loss(r_w + shift, r_l + shift), unshifted, rtol=1e-4, atol=1e-5)
assert not torch.allclose(bradley_terry_loss(r_w + shift, r_l), unshifted, rtol=1e-2)
print("Checked: a shift per prompt leaves the loss unchanged; a shift of the chosen answers alone does not.")

# %% [markdown]
# ## 9 · Build it: a reward model and its training
#
# `week6.RewardModel` and `train_reward_model` did the work so far. Now you write both.
#
# ### Exercise 2.5 · Capstone: a reward model and its training
# *difficulty 4/5 · importance 5/5 · 40 minutes*
#
# **Given** is a language model: its trunk is `language_model.base_model`, which is called as in section 2, and the width of
# its vectors $d$ is `language_model.config.hidden_size`. The training data are $N$ pairs, as $2N$ rows of `ids` and `mask`:
# first the texts (prompt and answer) with the chosen answers, then those with the rejected ones, in the same order.
#
# **Wanted** is a class. It takes over the trunk and adds a head (section 2 says how it starts); it scores rows that are
# padded on either side; its method `fit` trains trunk and head with Adam, and with `yield` hands over a dict after each
# step.
#
# **It is judged** by what it does, for three small worlds of texts with known preferences: which vectors its score depends
# on; whether padding changes it; how widely 200 fresh heads spread their first scores; whether the loss that you yield is
# (2); and the expected accuracy (4) on new pairs after three epochs, passes over all pairs, which must come within 0.03 of
# the Bayes ceiling. The check takes some seconds. Unfinished methods may stay as they are: it says which step comes next.


# %% tags=["exercise"]
class Judge(torch.nn.Module):
    """A reward model r = v · h_last + b that can train itself."""

    def __init__(self, language_model: Any) -> None:
        """Take over the trunk of the language model, and add a head."""
        # 1. The trunk, and a linear layer from d numbers to one: weights of standard deviation 1/√(d + 1), bias 0.
        # BEGIN SOLUTION
        super().__init__()
        self.trunk = language_model.base_model
        width = language_model.config.hidden_size
        self.head = torch.nn.Linear(width, 1)
        torch.nn.init.normal_(self.head.weight, std=1 / math.sqrt(width + 1))
        torch.nn.init.zeros_(self.head.bias)
        # END SOLUTION

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The score of each row; ids: int64, mask: bool, shape (B, L) each. Returns shape (B,)."""
        # 2. The trunk's vectors; padding must neither be seen nor shift the positions (`position_ids`).
        # 3. The vector at the last real token of each row, and the head on it.
        # BEGIN SOLUTION
        places = position_ids(mask)
        hidden = self.trunk(input_ids=ids, attention_mask=mask.long(), position_ids=places).last_hidden_state
        last = (mask.long() * torch.arange(mask.shape[1])).argmax(-1)
        return self.head(hidden[torch.arange(len(hidden)), last]).squeeze(-1)
        # END SOLUTION

    def fit(
        self, ids: torch.Tensor, mask: torch.Tensor, epochs: int, batch_size: int, learning_rate: float
    ) -> Iterator[dict[str, torch.Tensor]]:
        """Train on N pairs, rows of shape (2N, L), chosen first; after each step yield {"pairs": …, "loss": …}.

        pairs: the numbers of the step's pairs, from 0 to N − 1, shape (B,). loss: (2), shape ().
        """
        # 4. Batches: in each epoch every pair once, in a new random order, batch_size of them a step.
        # 5. The loss (2) of both answers of each pair; clear, backward, step of Adam on all weights.
        # BEGIN SOLUTION
        optimizer = torch.optim.Adam(self.parameters(), lr=learning_rate)
        n = len(ids) // 2
        for _ in range(epochs):
            for pairs in torch.split(torch.randperm(n), batch_size):
                both = torch.cat([pairs, pairs + n])
                chosen, rejected = self(ids[both], mask[both]).chunk(2)
                loss = -F.logsigmoid(chosen - rejected).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                yield {"pairs": pairs, "loss": loss.detach()}
        # END SOLUTION


# %% tags=["nbval-ignore-output"]
check.capstone(Judge)

# %% tags=["student-only"]
# check.capstone.hint()
# check.capstone.solution()

# %% tags=["nbval-check-output"]
OurJudge = check.capstone.or_ours(Judge)

# %% [markdown]
# And on the pairs of section 3? One pass over 1,200 of them, on a fresh copy of the SFT model, is 25 steps.

# %% tags=["nbval-ignore-output"]
shown = pairs.rows(slice(0, 1200)).stacked()  # 2,400 rows, the chosen answers first
texts_of = torch.cat([shown.prompts, shown.responses], 1), torch.cat([shown.prompt_mask, shown.response_mask], 1)
with torch.random.fork_rng():
    torch.manual_seed(0)
    own = OurJudge(deepcopy(policy))
    own_losses = [float(part["loss"]) for part in tqdm(own.fit(*texts_of, 1, 48, 2.5e-3), total=25, unit="step")]
own_accuracy = float(expected_accuracy(pair_agreement(own, heldout), p_label).mean())
assert len(own_losses) == 25 and 0.7 < own_accuracy < top and check.BELOW_CEILING == 0.03
print(
    f"Checked: after {len(own_losses)} steps its accuracy is {own_accuracy:.3f} on held-out pairs, ceiling {top:.3f}."
)

# %% [markdown]
# ## 10 · An open experiment: how many pairs does a head need?
#
# Pairs cost money. Leave the trunk of the SFT model as it is, and train the head alone: $d$ numbers $v$. (The bias drops
# out of all differences.) With few pairs such a head soon learns their labels by heart, noise included. **Early stopping** is
# against that: look at held-out pairs now and then, and keep the weights that were best there.
#
# ### Exercise 2.6 · Stop in time
# *difficulty 3/5 · importance 4/5 · 15 minutes*
#
# Write it for any training. `loss(v)` is the training loss of weights `v`, with a gradient; `look(v)` is their held-out loss,
# a number. Begin at `start` and take steps of Adam with learning rate `rate`. Look at `start`, and then after every `every`
# steps. Stop at the `patience`-th look in a row without a new lowest loss (a tie is none, nan is none), at the latest after
# `limit` steps. Return the weights with the lowest loss that you saw, and after how many steps you saw them.


# %% tags=["exercise"]
def stop_early(
    start: torch.Tensor,
    loss: Callable[[torch.Tensor], torch.Tensor],
    look: Callable[[torch.Tensor], float],
    rate: float,
    every: int,
    patience: int,
    limit: int,
) -> tuple[torch.Tensor, int]:
    """The weights with the lowest held-out loss that was seen, shape (d,), and their number of steps."""
    # 1. Weights that begin at `start` and have a gradient; Adam; what is the best so far?
    # 2. After each step: is it time to look? Then keep a copy of what is better, or lose patience.
    # BEGIN SOLUTION
    v = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([v], lr=rate)
    best, best_at, lowest = start, 0, look(start)
    for step in range(1, limit + 1):
        optimizer.zero_grad()
        loss(v).backward()
        optimizer.step()
        if step % every == 0:
            seen = look(v.detach())
            if seen < lowest:
                best, best_at, lowest = v.detach().clone(), step, seen
            elif step - best_at == patience * every:
                break
    return best, best_at
    # END SOLUTION


# %% tags=["nbval-check-output"]
check.q6(stop_early)

# %% tags=["student-only"]
# check.q6.hint()
# check.q6.solution()

# %% tags=["nbval-check-output"]
stop_in_time = check.q6.or_ours(stop_early)

# %% [markdown]
# **The experiment.** `train_head(n, seed)` draws $n$ of 3,200 pairs and fits $v$ by (2), twice: for 800 steps, and with your
# early stopping, which looks at half of the held-out pairs. It gives the accuracy on its own pairs after 800 steps, that on
# the other held-out pairs, this accuracy with early stopping, and the step that was kept. It takes about a second.
#
# Choose five numbers of pairs, from 25 to 3,200, three seeds each. **The question:** from which number on do more pairs no
# longer help, and what is in the way then? Where does early stopping help? Beside the table you have the Bayes ceiling and,
# from section 4, the accuracy of the model whose trunk was trained too.

# %% tags=["folded", "nbval-ignore-output"]
# @title The vectors of the SFT model at the last token, chosen minus rejected


def differences(of: Pairs) -> torch.Tensor:
    """h_last of the chosen answer minus that of the rejected one, shape (N, d), from the frozen SFT model."""
    both = of.stacked()
    ids, keep = torch.cat([both.prompts, both.responses], 1), torch.cat([both.prompt_mask, both.response_mask], 1)
    vectors = []
    with torch.no_grad():
        for i, m in zip(torch.split(ids, 500), torch.split(keep, 500), strict=True):
            states = sft.base_model(input_ids=i, attention_mask=m.long(), position_ids=position_ids(m))
            vectors.append(states.last_hidden_state[torch.arange(len(i)), last_index(m)])
    of_chosen, of_rejected = torch.cat(vectors).chunk(2)
    return of_chosen - of_rejected


seen_pairs, new_pairs = differences(pairs.rows(slice(0, 3200))), differences(heldout)


# %%
def train_head(n: int, seed: int) -> tuple[float, float, float, float]:
    """Accuracy on the n pairs of the training and on new ones after 800 steps; on new ones, stopped early; the step."""
    own_pairs = seen_pairs[torch.randperm(3200, generator=generator_for(seed, 4))[:n]]  # shape (n, d)
    start = torch.zeros(own_pairs.shape[1])

    def loss(v: torch.Tensor, of: torch.Tensor = own_pairs) -> torch.Tensor:
        return -F.logsigmoid(of @ v).mean()

    full, _ = stop_in_time(start, loss, lambda v: float(loss(v)), 0.02, 5, 800, 800)  # watching what it is fitted to
    kept, step = stop_in_time(start, loss, lambda v: float(loss(v, new_pairs[:500])), 0.02, 5, 8, 800)
    own, new, early = (  # 1 right, 0 wrong, ½ a tie
        (1 + (of @ v).sign()) / 2 for of, v in ((own_pairs, full), (new_pairs[500:], full), (new_pairs[500:], kept))
    )
    new, early = (expected_accuracy(x, p_label[500:]) for x in (new, early))
    return float(own.mean()), float(new.mean()), float(early.mean()), float(step)


# %% tags=["exercise"]
def measure_heads() -> dict[int, list[tuple[float, float, float, float]]]:
    """For each of your numbers of pairs the results of three seeds."""
    # BEGIN SOLUTION
    return {n: [train_head(n, seed) for seed in range(3)] for n in (25, 100, 400, 1600, 3200)}
    # END SOLUTION


# %%
def show_table(rows: dict[int, list[tuple[float, float, float, float]]]) -> None:
    """Mean over the seeds and half of their range, a line for each number of pairs."""
    print("pairs   on its own pairs   on held-out pairs   stopped early   step kept")
    for n, values in rows.items():
        *cells, step = [(sum(c) / len(c), (max(c) - min(c)) / 2) for c in zip(*values, strict=True)]
        own, new, early = (f"{mean:.3f} ± {half:.3f}" for mean, half in cells)
        print(f"{n:<5}   {own:<16}   {new:<17}   {early}   {step[0]:.0f} ± {step[1]:.0f}")


# %% tags=["student-only"]
# show_table(measure_heads())

# %% tags=["solution-only", "nbval-ignore-output"]
measured = measure_heads()
show_table(measured)
print(f"Bayes ceiling {top:.3f}; trunk trained too, on 6,000 pairs: {accuracy_at[fit.steps - 1]:.3f}")

# %% [markdown] tags=["solution-only"]
# **Our answer.** With few pairs the head learns its own labels by heart: with 25 it is above the Bayes ceiling on them, which
# no judge passes on new pairs, and on new pairs it is far worse. With more pairs the two accuracies meet. From 1,600 pairs
# on little is gained any more: the head is about as good as a head on *these* vectors can be. It stays far below the
# ceiling, and below the model whose trunk was trained too, so money for more pairs would be wasted. What is in the way
# is the frozen trunk: it was trained to choose the next word, and what a judge must know does not stand in its last
# vector in a form that a weighted sum can read.
#
# Early stopping helps where learning by heart is the trouble. With 100 pairs the best look came within a tenth of the steps,
# and the head that was kept is better on new pairs, but no match for 400 pairs. With 1,600 it changes nothing: there is no
# peak to go back to. With 25, look at the step: often the start itself was best. Judged by its *loss*, a head that knows
# little and is sure of it is worse than one without an opinion.

# %% tags=["solution-only"]
mean = {n: torch.tensor(rows).mean(0) for n, rows in measured.items()}  # shape (4,): own, held-out, early, step
assert mean[25][0] > top and mean[25][0] > mean[25][1] + 0.15 and mean[100][1] < 0.72
assert abs(float(mean[3200][0] - mean[3200][1])) < 0.06 and mean[3200][1] > mean[100][1] + 0.05
assert mean[3200][1] - mean[1600][1] < 0.03 and mean[3200][1] < top - 0.06
assert mean[3200][1] < accuracy_at[fit.steps - 1] - 0.02
assert mean[100][1] < mean[100][2] < mean[400][2] and mean[100][3] < 80 and mean[25][3] < 20
assert abs(mean[1600][2] - mean[1600][1]) < 0.02
print("Checked: with 25 pairs above the ceiling on its own pairs; with 3,200 both accuracies are within 0.06; doubling")
print("1,600 pairs gains less than 0.03; the model whose trunk was trained too is more than 0.02 better.")
print("Checked: stopped early, 100 pairs are better than after 800 steps and worse than 400; 1,600 are the same.")

# %% [markdown]
# ## What we showed
#
# - A reward model is a trunk and a linear head, read at the last real token; find it from the mask.
# - Its loss is that of notebook 01. No model passes the Bayes ceiling that the annotators' noise sets.
# - Scores have no zero point: add a number for each prompt, and no comparison changes. We centre and scale them on SFT
#   answers, as a convention.
# - It is a judge of answers like those it has seen. On others it can be far off: six polite phrases fooled it.
#
# ## To think about
#
# 1. Your reward model has 78 % accuracy. Is it bad? What do you need to know first?
# 2. You train for ten epochs. The training accuracy passes the Bayes ceiling. What happened?
# 3. How would you collect pairs so that six polite phrases in a row no longer score well?

# %% [markdown] tags=["solution-only"]
# **Answers.**
#
# 1. The ceiling. Where the best judge would reach 80 %, 78 % is nearly perfect; where it would reach 100 %, more than a
#    fifth of the verdicts are avoidable errors.
# 2. It has learned the noise of these labels by heart: that is the only way past the ceiling. What counts is the accuracy
#    on held-out pairs. InstructGPT and Llama 2 train their reward models for one epoch, to avoid this (Ouyang and others
#    2022, appendix C.2; Touvron and others 2023, section 3.2.2).
# 3. Let a policy trained on this reward model write the answers, and have *those* compared (that is how RLHF is done
#    in rounds). Then such answers are in the data, and lose.

# %% [markdown]
# ## Where it goes next
#
# We have a reward for every answer. Shall we now simply maximise it? After section 7 that looks unwise. **Notebook 03** puts
# the reward on a leash.
#
# ## References
#
# - N. Stiennon and others (2020), *Learning to summarize from human feedback*, arXiv 2009.01325.
# - L. Ouyang and others (2022), *Training language models to follow instructions with human feedback* (InstructGPT),
#   arXiv 2203.02155.
# - H. Touvron and others (2023), *Llama 2: open foundation and fine-tuned chat models*, arXiv 2307.09288.
# - L. Gao, J. Schulman, J. Hilton (2022), *Scaling laws for reward model overoptimization*, arXiv 2210.10760.
# - P. Singhal and others (2023), *A long way to go: investigating length correlations in RLHF*, arXiv
#   2310.03716.
# - S. Huang and others (2024), *The N+ implementation details of RLHF with PPO: a case study on TL;DR
#   summarization*, arXiv 2403.17031.
