# %% [markdown]
# # 02 · Reward modelling: a language model with a scalar head
#
# Notebook 01 gave every answer a number of its own. A chatbot meets endlessly many answers, so the number must come
# from a function. We take a language model, which already reads, and teach it to judge.

# %% [markdown]
# ## What you will be able to do
#
# - Turn a language model into a reward model: the trunk stays, a linear head gives one number.
# - Read that number at the right token, whatever the padding.
# - Train it with the loss of notebook 01, and say how good it can become at best: the Bayes ceiling.
# - Check its calibration, centre and scale it, and say why only differences mean something.
# - Find answers that it scores high and nobody likes.
#
# **You need:** notebook 01. **Time:** 70 minutes of work; the cells run in about a minute on a laptop CPU, most of it
# in two short trainings. `week6 run` trains longer, with the same functions.

# %%
import math
from copy import deepcopy

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

from week6 import (
    RewardModel,
    bradley_terry_loss,
    decode,
    encode_demonstrations,
    encode_prompts,
    generator_for,
    make_optimizer,
    minibatch,
    pair_agreement,
    pair_rollouts,
    position_ids,
    sample,
    score,
    train_reward_model,
    train_sft,
)
from week6.checks import nb02 as check
from week6.figures import roadmap
from week6.models import PRESETS, frozen_copy, new_policy
from week6.plots import BLACK, BLUE, ORANGE, STYLE
from week6.reward_model import RewardConfig
from week6.sft import SFTConfig
from week6.tasks import load_task
from week6.tasks.assistant import best_answer, classify, read_request

plt.rcParams.update(STYLE)
torch.set_num_threads(1)  # the tensors are small: a second thread only waits
task = load_task("assistant")

# %%
_ = roadmap(2)
plt.show()

# %% [markdown]
# *Roadmap: the nine stops of the course. You are at stop 02, at the reward model.*
#
# ## 1 · A model that already reads
#
# First the SFT model of notebook 00, trained for a moment on the demonstrations. Its **trunk** (embeddings and
# transformer layers) turns each token into a vector that knows everything up to that token.

# %% tags=["nbval-ignore-output"]
demonstrations = encode_demonstrations(
    task.tokenizer, list(task.demonstrations["prompt"]), list(task.demonstrations["completion"])
)
policy = new_policy(PRESETS["tiny"], task.tokenizer, seed=0)
steps = SFTConfig(steps=700, batch_size=32, learning_rate=3e-3)
losses = [row["loss"] for row in train_sft(policy, make_optimizer(policy, 3e-3), demonstrations, steps, seed=0)]
sft = frozen_copy(policy)
print(f"SFT loss: {losses[0]:.2f} → {sum(losses[-50:]) / 50:.2f} nats per token")

# %% [markdown]
# ## 2 · One number from many tokens
#
# Write $h_1, \dots, h_L \in \mathbb{R}^d$ for the trunk's vectors of prompt and answer together. The reward model adds
# a **linear head**, a weight vector $w$ and a bias $b$, and reads it at the **last real token**, the end of the answer:
#
# $$r_\phi(x, y) = w^\top h_{\text{last}} + b. \tag{1}$$
#
# Why the last? The model is causal: token $t$ sees only what stands before it. Only the last token has seen the whole
# answer. And "last *real*" token, because a batch holds rows of different lengths:

# %%
asked = list(task.heldout_prompts["prompt"])[:3]
batch = encode_demonstrations(task.tokenizer, asked, ["go away .", best_answer(asked[1]), "maybe later ."])
input_ids = torch.cat([batch.prompts, batch.responses], dim=1)  # shape (B, L): batch, prompt and answer
mask = torch.cat([batch.prompt_mask, batch.response_mask], dim=1)  # shape (B, L), 1 for a real token
for row, keep in zip(input_ids, mask, strict=True):
    tokens = task.tokenizer.convert_ids_to_tokens(row.tolist())
    print(" ".join(token if real else "·" for token, real in zip(tokens, keep.tolist(), strict=True)))
print(
    "input_ids and mask: shape (B, L) =", tuple(mask.shape), "  · is padding: left of the prompt, right of the answer"
)

# %% [markdown]
# ### Exercise 2.1 · The last real token
# *difficulty 2/5 · importance 5/5 · 10 minutes*
#
# Find its column, for any padding. Work from the mask. (Never from "is this token the pad token?": in many models pad
# and end-of-answer are the same token, and you would stop one token too early.)


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
# Write (1) for a batch.


# %% tags=["exercise"]
def head_score(hidden: torch.Tensor, mask: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """r = w · h_last + b.

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
# Is that all that `week6.RewardModel` does? The head starts with small random weights, of standard deviation
# $1/\sqrt{d+1}$, so that the first scores are of size one. And padding must not matter: the same text, padded more,
# gets the same score.

# %%
with torch.random.fork_rng():
    torch.manual_seed(0)
    reward_model = RewardModel(deepcopy(policy))
with torch.no_grad():
    hidden = reward_model.trunk(
        input_ids=input_ids, attention_mask=mask.long(), position_ids=position_ids(mask)
    ).last_hidden_state  # shape (B, L, d)
    by_hand = read_head(hidden, mask, reward_model.head.weight[0], reward_model.head.bias[0])
    scores = reward_model(input_ids, mask)  # shape (B,)
    padded = reward_model(F.pad(input_ids, (3, 2)), F.pad(mask, (3, 2)))
    alone = torch.cat(
        [
            reward_model(row[keep].unsqueeze(0), keep[keep].unsqueeze(0))
            for row, keep in zip(input_ids, mask, strict=True)
        ]
    )
print("hidden: shape (B, L, d) =", tuple(hidden.shape), "  scores: shape (B,) =", tuple(scores.shape))
torch.testing.assert_close(by_hand, scores, rtol=1e-4, atol=1e-5)
torch.testing.assert_close(padded, scores, rtol=1e-4, atol=1e-5)
torch.testing.assert_close(alone, scores, rtol=1e-4, atol=1e-5)
print("Checked (1): by hand, padded by five more columns, and one row at a time, the scores are the same.")

# %% [markdown]
# ## 3 · Preferences to learn from
#
# Two answers of the SFT model to each prompt, and an annotator says which is better. As in notebook 00, our
# annotators follow a hidden gold reward, with noise.


# %% tags=["nbval-ignore-output"]
def collect(prompts: list[str], n: int, seed: int):
    """n labelled pairs: the tokens, the prompts, the texts of both answers, and the probability of the label."""
    index = minibatch(len(prompts), n, 0, seed)
    tokens, prompt_mask = encode_prompts(task.tokenizer, prompts)
    first, second = (
        sample(sft, tokens[index], prompt_mask[index], task.max_new_tokens, generator=generator_for(seed, k))
        for k in (0, 1)
    )
    which = [prompts[i] for i in index.tolist()]
    a, b = (decode(task.tokenizer, r.responses, r.response_mask) for r in (first, second))
    p = task.preference_probability(which, a, b)  # shape (n,): p(a ≻ b)
    label = torch.bernoulli(p, generator=generator_for(seed, 2)).bool()
    return pair_rollouts(first, second, label), which, a, b, torch.where(label, p, 1 - p)


pairs, *_ = collect(list(task.prompts["prompt"]), 8000, seed=1)
heldout, which, a, b, p_label = collect(list(task.heldout_prompts["prompt"]), 2000, seed=2)
chosen_text = decode(task.tokenizer, heldout.chosen, heldout.chosen_mask)
rejected_text = decode(task.tokenizer, heldout.rejected, heldout.rejected_mask)
for i in range(4):
    print(
        f"{which[i].split('|>')[1].split('<|')[0].strip():<34} chosen: {chosen_text[i]:<56} rejected: {rejected_text[i]}"
    )

# %% [markdown]
# The loss is that of notebook 01, now with rewards from one function, for prompts $x$ with a preferred answer $y_w$
# and another $y_l$:
#
# $$L(\phi) = -\mathbb{E}_{(x, y_w, y_l)}\big[\log \sigma\big(r_\phi(x, y_w) - r_\phi(x, y_l)\big)\big]. \tag{2}$$
#
# Both answers go through the model in **one** forward pass: $2N$ rows, the $N$ chosen ones first.
#
# ### Exercise 2.3 · The loss of a batch
# *difficulty 2/5 · importance 5/5 · 5 minutes*


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
few = heldout.rows(slice(0, 32))
with torch.no_grad():
    both = score(reward_model, few.stacked())  # shape (2N,)
torch.testing.assert_close(pair_loss(both), bradley_terry_loss(both[:32], both[32:]))
torch.testing.assert_close(pair_loss(both + 7.0), pair_loss(both), rtol=1e-4, atol=1e-5)
indifferent = float(pair_loss(torch.zeros(64)))
assert abs(indifferent - math.log(2)) < 1e-6
print("Checked (2): the same as the loss of notebook 01; a constant added to all scores changes nothing;")
print(f"a model without opinion has loss log 2 = {indifferent:.4f}. (A loss stuck there has learned nothing.)")

# %% [markdown]
# ## 4 · How good can it become?
#
# Annotators contradict the better answer now and then. Suppose a judge knew $p_i = p(a \succ b)$ of every pair. It
# would bet on the likelier side, and be right with probability $\max(p_i, 1-p_i)$. Nobody can do better:
#
# $$\text{Bayes ceiling} = \frac1n \sum_{i=1}^n \max(p_i, 1 - p_i). \tag{3}$$
#
# ### Exercise 2.4 · The Bayes ceiling
# *difficulty 2/5 · importance 5/5 · 5 minutes*


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
g = torch.Generator().manual_seed(0)
p = torch.rand(200_000, generator=g)  # p_i of many pairs, shape (n,)
labels = torch.rand(p.shape, generator=g) < p  # what one annotator says
best_judge = ((p > 0.5) == labels).double().mean()
hasty_judge = ((p + 0.3 * torch.randn(p.shape, generator=g) > 0.5) == labels).double().mean()
assert abs(float(best_judge - ceiling(p))) < 4 * math.sqrt(0.25 / len(p)) and best_judge > hasty_judge + 0.02
print(
    f"Checked (3): ceiling {float(ceiling(p)):.3f}, the best judge {float(best_judge):.3f}, a hasty one {float(hasty_judge):.3f}."
)

# %% [markdown]
# **Predict, then look.** Now we train. What accuracy will the reward model reach on held-out pairs?
#
# - (a) close to 100 %: it learns the rule behind the noise
# - (b) close to the Bayes ceiling, from below
# - (c) above the Bayes ceiling, if it is large enough

# %%
check.p1("b")  # SOLUTION

# %% tags=["nbval-ignore-output"]
config = RewardConfig(steps=250, batch_size=48, learning_rate=1.5e-3)
optimizer = make_optimizer(reward_model, config.learning_rate)
rows, held_accuracy = [], {}
for row in train_reward_model(reward_model, optimizer, pairs, config, seed=0):
    rows.append(row)
    if row["step"] % 50 == 0 or row["step"] == config.steps - 1:
        agree = pair_agreement(reward_model, heldout)  # shape (n,): 1 where it ranks as the label does
        held_accuracy[row["step"]] = float((agree * p_label + (1 - agree) * (1 - p_label)).mean())
top = float(ceiling(p_label))
print(f"held-out accuracy {held_accuracy[config.steps - 1]:.3f}, Bayes ceiling {top:.3f}, on {len(heldout)} pairs")

# %% tags=["nbval-ignore-output"]
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
left.plot([row["loss"] for row in rows], color=BLUE, linewidth=0.8, label="batch of 48 pairs")
left.axhline(math.log(2), color=ORANGE, linestyle="--", label="no opinion: log 2")
left.set(title="Loss", xlabel="step", ylabel="loss (nats per pair)")
left.legend()
right.plot(list(held_accuracy), list(held_accuracy.values()), "o-", color=BLUE, label="held-out pairs")
right.axhline(top, color=BLACK, linestyle="--", label="Bayes ceiling")
right.axhline(0.5, color=ORANGE, linestyle=":", label="coin flip")
right.set(title="Accuracy", xlabel="step", ylabel="expected accuracy (share of pairs)", ylim=(0.45, 1))
right.legend(loc="lower right")
plt.show()

# %% [markdown]
# *Figure 1. Left: the loss falls from log 2. Right: the accuracy on held-out pairs rises towards the Bayes ceiling
# and stays below it.*
#
# The answer is (b). On the page stands the *expected* accuracy: the probability that a fresh annotator ranks the pair
# as the model does, $a_i p_i + (1 - a_i)(1 - p_i)$ with $a_i = 1$ where the model agrees with the label drawn. It is
# free of the luck of the labels. By (3) it cannot pass the ceiling:

# %%
agree = pair_agreement(reward_model, heldout)
expected = agree * p_label + (1 - agree) * (1 - p_label)  # shape (n,)
assert bool((expected <= torch.maximum(p_label, 1 - p_label) + 1e-6).all())
assert 0.65 < float(expected.mean()) <= top + 1e-6
print(
    "Checked: on no pair is the expected accuracy above max(p, 1 − p), and on average the model is well above a coin."
)

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
print(f"mean distance from the diagonal: {float((mean_says - mean_truth).abs().mean()):.3f}")

figure, axes = plt.subplots(figsize=(4.6, 4.2), layout="constrained")
axes.plot([0, 1], [0, 1], color=BLACK, linestyle=":", label="perfectly calibrated")
axes.plot(mean_says, mean_truth, "o-", color=BLUE, label="reward model, ten bins")
axes.set(title="Calibration on held-out pairs", xlabel="the model says: probability of a ≻ b")
axes.set(ylabel="annotators: probability of a ≻ b")
axes.legend()
plt.show()

# %% [markdown]
# *Figure 2. What the model says against what annotators do, in ten bins. On the dotted diagonal it would be perfectly
# calibrated; below it on the right it is too sure of itself.*
#
# ## 6 · Centre and scale
#
# Only differences were trained, so the zero point and, for what PPO does later, the scale are free. We fix both on
# answers of the SFT model, with mean $\mu$ and standard deviation $s$ of their scores:
#
# $$r'_\phi(x,y) = \frac{r_\phi(x,y) - \mu}{s}, \qquad \text{so that SFT answers have mean } 0 \text{ and variance } 1. \tag{4}$$
#
# Then "0" is an average answer of the SFT model, and β in notebook 03 means the same for every reward model.

# %%
everything = list(task.prompts["prompt"])
tokens, prompt_mask = encode_prompts(task.tokenizer, everything)
answers = sample(sft, tokens, prompt_mask, task.max_new_tokens, generator=generator_for(3, 0))
with torch.no_grad():
    before = score(reward_model, answers)  # shape (N,)
    reward_model.calibrate(before)
    after = score(reward_model, answers)
torch.testing.assert_close(after, (before - before.mean()) / before.std(correction=0), rtol=1e-4, atol=1e-4)
assert abs(float(after.mean())) < 1e-3 and abs(float(after.var(correction=0)) - 1) < 1e-3
assert torch.equal(before.argsort(), after.argsort()) or float((before[after.argsort()].diff() < -1e-4).sum()) == 0
print("Checked (4): mean 0, variance 1, and the order of the answers is as before.")

# %% [markdown]
# ## 7 · What it has learned, and what not

# %% tags=["nbval-ignore-output"]
texts = decode(task.tokenizer, answers.responses, answers.response_mask)
kinds = [classify(q, t) for q, t in zip(everything, texts, strict=True)]
groups = [read_request(q).group for q in everything]
figure, panels = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True, layout="constrained")
for axes, group in zip(panels, ("harmless", "harmful"), strict=True):
    shown = [
        k
        for k in ("help", "refuse", "comply", "off topic", "lazy", "rude")
        if any(k == kind and group == g_ for kind, g_ in zip(kinds, groups, strict=True))
    ]
    values = [[float(after[i]) for i in range(len(kinds)) if kinds[i] == k and groups[i] == group] for k in shown]
    axes.boxplot(values, tick_labels=shown, widths=0.6, medianprops={"color": ORANGE, "linewidth": 2})
    axes.axhline(0, color=BLACK, linestyle=":")
    axes.set(title=f"{group} requests", xlabel="kind of answer")
panels[0].set_ylabel("score (SFT standard deviations)")
plt.show()

# %% [markdown]
# *Figure 3. Scores of SFT answers by kind, for harmless requests (left) and harmful ones (right). Boxes hold the middle
# half, orange lines are medians. What is good depends on the request: a refusal is scored low on the left and high on
# the right.*
#
# **Predict, then look.** We write an answer of six polite phrases and nothing else. The training pairs hold no such
# answer. Compared with a good answer, its score is
#
# - (a) far below: the reward model knows that it says nothing,
# - (b) not to be foretold: no such answer was in the training pairs,
# - (c) exactly zero.

# %%
check.p2("b")  # SOLUTION

# %% tags=["nbval-ignore-output"]
question = next(q for q in task.heldout_prompts["prompt"] if read_request(q).group == "harmless")
tried = {
    "good answer": best_answer(question),
    "good, and three thanks more": best_answer(question) + " enjoy ! good luck ! have fun !",
    "six polite phrases": "happy to help ! of course ! good question ! enjoy ! have fun ! good luck !",
    "twice the good answer": f"{best_answer(question)} {best_answer(question)}",
    "lazy": "look it up .",
}
exam = encode_demonstrations(task.tokenizer, [question] * len(tried), list(tried.values()))
with torch.no_grad():
    proxy = score(reward_model, exam)
gold = task.gold([question] * len(tried), list(tried.values()))
print(question)
for name, r, true in zip(tried, proxy.tolist(), gold.tolist(), strict=True):
    print(f"{name:<30} score {r:+.2f}   gold {true:+.2f}")

# %% [markdown]
# The answer is (b). The loss never asked about such answers, so nothing holds their score in place. It follows from
# whatever the model latched on to: "polite words were usually in the better answer", "longer answers were usually
# better". These are **shortcuts**: true of the training pairs, not the reason. How strong is the length shortcut in
# our data? The **correlation** of two lists of numbers, each brought to mean 0 and variance 1, is the mean of their
# products:
#
# $$\rho(u, v) = \frac1n \sum_i \frac{u_i - \bar u}{s_u} \cdot \frac{v_i - \bar v}{s_v}. \tag{5}$$


# %%
def correlation(u: torch.Tensor, v: torch.Tensor) -> float:
    """Equation (5)."""
    return float((((u - u.mean()) / u.std(correction=0)) * ((v - v.mean()) / v.std(correction=0))).mean())


length = answers.response_mask.sum(-1).float()  # shape (N,)
assert abs(correlation(length, after) - float(torch.corrcoef(torch.stack([length, after]))[0, 1])) < 1e-4
assert correlation(length, after) > 0.05
print("Checked (5) against torch.corrcoef. Longer answers have higher scores here, although nobody asked for length.")

# %% [markdown]
# Keep this in mind: in notebook 05 PPO will search for answers with a high score, and find exactly these.
#
# ## 8 · Where does the score come from?
#
# The head can be read at *every* token: the score of the answer so far. Its change from token to token shows what the
# model reacts to.

# %% tags=["nbval-ignore-output"]
harm = next(q for q in task.heldout_prompts["prompt"] if read_request(q).group == "harmful")
rows = [
    (question, best_answer(question)),
    (question, "look it up ."),
    (harm, best_answer(harm)),
    (harm, "happy to help ! " + best_answer(harm)),
]
figure, axes = plt.subplots(figsize=(9.5, 3.2), layout="constrained")
width = 14
table, labels = torch.full((len(rows), width), float("nan")), []
for i, (q, answer) in enumerate(rows):
    one = encode_demonstrations(task.tokenizer, [q], [answer])
    ids, keep = torch.cat([one.prompts, one.responses], 1), torch.cat([one.prompt_mask, one.response_mask], 1)
    with torch.no_grad():
        states = reward_model.trunk(
            input_ids=ids, attention_mask=keep.long(), position_ids=position_ids(keep)
        ).last_hidden_state
        running = (reward_model.head(states).squeeze(-1) - reward_model.offset) / reward_model.scale  # shape (1, L)
    n = min(width, one.responses.shape[1])
    table[i, :n] = running[0, one.prompts.shape[1] :][:n]
    labels.append(task.tokenizer.convert_ids_to_tokens(one.responses[0].tolist())[:n])
    assert abs(float(running[0, -1] - score(reward_model, one)[0])) < 1e-3  # at the last token it is the score itself
image = axes.imshow(table, cmap="PuOr", vmin=-2.5, vmax=2.5, aspect="auto")
for i, words in enumerate(labels):
    for j, word in enumerate(words):
        axes.text(
            j, i, word, ha="center", va="center", fontsize=8, color="white" if table[i, j].abs() > 1.6 else "black"
        )
axes.set_yticks(range(len(rows)), [q.split("|>")[1].split("<|")[0].strip() for q, _ in rows])
axes.set(title="The score of the answer so far", xlabel="token of the answer")
axes.grid(False)
figure.colorbar(image, label="score (SFT standard deviations)")
plt.show()

# %% [markdown]
# *Figure 4. The head read at each token of four answers (rows; the request stands on the left). Only the value at the
# end token was trained; the ones before it show what the model expects.*
#
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
# **"Why not average over all tokens?"** You may, but early tokens have seen nothing of the answer. Two answers with
# the same beginning have exactly the same vectors there, so those tokens cannot tell them apart.

# %%
two = encode_demonstrations(task.tokenizer, [question] * 2, ["happy to help !", "happy to help you not ."])
ids, keep = torch.cat([two.prompts, two.responses], 1), torch.cat([two.prompt_mask, two.response_mask], 1)
with torch.no_grad():
    states = reward_model.trunk(
        input_ids=ids, attention_mask=keep.long(), position_ids=position_ids(keep)
    ).last_hidden_state
shared = two.prompts.shape[1] + 3  # the prompt and "happy to help"
torch.testing.assert_close(states[0, :shared], states[1, :shared], rtol=1e-3, atol=1e-4)
assert float((states[0, shared] - states[1, shared]).abs().max()) > 0.1
print(f"Checked: the first {shared} vectors of both rows are equal, and the next ones differ.")

# %% [markdown]
# **"The score of my answer is 0.7. Is that good?"** Compared with what? Add any function of the prompt, and no
# comparison changes. Only differences between answers to the *same* prompt were trained.

# %%
shift = 3 * torch.randn(len(heldout), generator=g)  # one number per prompt, shape (n,)
torch.testing.assert_close(
    bradley_terry_loss(r_w + shift, r_l + shift), bradley_terry_loss(r_w, r_l), rtol=1e-4, atol=1e-5
)
assert not torch.allclose(bradley_terry_loss(r_w + shift, r_l), bradley_terry_loss(r_w, r_l), rtol=1e-2)
print("Checked: a shift per prompt leaves the loss unchanged; a shift of the chosen answers alone does not.")

# %% [markdown]
# ## What we showed
#
# - A reward model is a trunk and a linear head, read at the last real token; find it from the mask.
# - Its loss is that of notebook 01. No model passes the Bayes ceiling that the annotators' noise sets.
# - Scores have no zero and no unit of their own: we centre and scale them on SFT answers.
# - It is a judge of answers like those it has seen. On others its score is a guess, and shortcuts decide.
#
# ## To think about
#
# 1. Your reward model has 78 % accuracy. Is it bad? What do you need to know first?
# 2. You train for ten epochs. The training accuracy passes the Bayes ceiling. What happened?
# 3. How would you collect pairs so that six polite phrases no longer score well?

# %% [markdown] tags=["solution-only"]
# **Answers.**
#
# 1. The ceiling. With annotators who agree with the best judge on 80 % it is nearly perfect; with careful ones it is
#    poor.
# 2. It has learned the noise of these labels by heart. On held-out pairs the accuracy has fallen meanwhile. One or two
#    passes are usual for reward models.
# 3. Let a policy trained on this reward model write the answers, and have *those* compared (that is how RLHF is done
#    in rounds). Then such answers are in the data, and lose.

# %% [markdown]
# ## Where it goes next
#
# We have a reward for every answer. Shall we now simply maximise it? Section 7 says what would come of that.
# **Notebook 03** puts the reward on a leash.
#
# ## References
#
# - N. Stiennon and others (2020), *Learning to summarize from human feedback*.
# - L. Ouyang and others (2022), *Training language models to follow instructions with human feedback* (InstructGPT).
# - L. Gao, J. Schulman, J. Hilton (2022), *Scaling laws for reward model overoptimization*.
# - P. Singhal and others (2023), *A long way to go: investigating length correlations in RLHF*.
# - S. Huang and others (2024), *The N+ implementation details of RLHF with PPO*.
