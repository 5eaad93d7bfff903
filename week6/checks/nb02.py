"""Questions of notebook 02, reward modelling: a language model with a scalar head."""

import copy
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from week6 import preferences, reward_model
from week6.checks.capstone import Capstone, Malformed, Step, Symptom, parts
from week6.checks.cases import whole
from week6.checks.engine import Misconception, Prediction, Question
from week6.checks.stopping_02 import q6 as q6
from week6.log_probs import position_ids
from week6.reward_model import last_token_index


def head_score(
    hidden: Float[Tensor, "B L d"], mask: Bool[Tensor, "B L"], weight: Float[Tensor, " d"], bias: Float[Tensor, ""]
) -> Float[Tensor, " B"]:
    """r = v · h_last + b, with v the `weight`: the linear head, read at the last real token of each row."""
    last = last_token_index(mask)
    rows = torch.arange(len(hidden))
    return hidden[rows, last] @ weight + bias


def stacked_loss(scores: Float[Tensor, " 2N"]) -> Float[Tensor, ""]:
    """−mean log σ(r_w − r_l) from one forward pass over both answers: the N chosen ones first, then the N rejected."""
    chosen, rejected = scores.chunk(2)
    return -F.logsigmoid(chosen - rejected).mean()


# --- 1 · the last real token ----------------------------------------------------------------------------------------


def _block_mask(g: torch.Generator, rows: int, width: int) -> Tensor:
    """Real tokens in one block of each row, with padding of random length on both sides."""
    ends = torch.randint(1, width + 1, (rows,), generator=g)
    starts = (torch.rand(rows, generator=g) * ends).long()
    columns = torch.arange(width)
    return (columns >= starts[:, None]) & (columns < ends[:, None])


def _masks(g: torch.Generator) -> list[tuple[Tensor]]:
    right = torch.tensor([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 0], [1, 0, 0, 0, 0, 0]])
    both = torch.tensor([[0, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    written = [(right.bool(),), (right.flip(1).bool(),), (both.bool(),), (both.flip(1).bool(),)]
    one_row = _block_mask(g, 1, whole(g, 5, 9))
    return [*written, (_block_mask(g, whole(g, 4, 7), whole(g, 8, 12)),), (one_row,)]


q1 = Question(
    title="2.1 The last real token",
    reference=reward_model.last_token_index,
    cases=_masks,
    hints=(
        "Of all columns that hold a real token, which one are you looking for?",
        "It is the largest column number t with m_t = 1. Number the columns 0 … L − 1 and multiply by the mask: "
        "padding becomes 0, and the largest number that is left is the answer.",
        "Turn the mask into whole numbers, multiply each row by 0, 1, …, L − 1, and ask for the *place* of the largest "
        "entry in each row. (The count of real tokens will not do: padding may stand on the left.)",
        "columns = torch.arange(attention_mask.shape[1])\nreturn (...).argmax(-1)",
    ),
    misconceptions=(
        Misconception(
            "length",
            lambda mask: mask.sum(-1) - 1,
            "That is the number of real tokens minus one: the right column only when nothing is padded on the left. "
            "Our prompts are padded on the left (section 2).",
        ),
        Misconception(
            "last column",
            lambda mask: torch.full((len(mask),), mask.shape[1] - 1),
            "You took the last column of every row. With padding on the right it holds padding: the score would be "
            "read from a token that is not part of the answer (section 2).",
        ),
        Misconception(
            "first real token",
            lambda mask: mask.long().argmax(-1),
            "argmax of the mask finds the first 1. That token has seen nothing of the answer: a causal model looks "
            "only backwards (section 2).",
        ),
        Misconception(
            "one too far",
            lambda mask: mask.sum(-1),
            "You returned the number of real tokens. Columns are numbered from 0, and padding on the left moves them.",
        ),
        Misconception(
            "from the right",
            lambda mask: mask.flip(-1).long().argmax(-1),
            "You counted from the right end. Turn it into a column: L − 1 minus that number.",
        ),
        Misconception(
            "from the right, one too far",
            lambda mask: mask.shape[1] - mask.flip(-1).long().argmax(-1),
            "You came out one column too far. The columns are 0 … L − 1: whoever counts from the right end subtracts "
            "from "
            "L − 1, not from L.",
        ),
        Misconception(
            "before the first pad",
            lambda mask: (mask == 0).long().argmax(-1) - 1,
            "You looked for the first padding and went one back. A row padded on the left begins with padding, and a "
            "full row has none (section 2).",
        ),
        Misconception(
            "one column for all rows",
            lambda mask: mask.nonzero()[:, 1].max().repeat(len(mask)),
            "You took the last real token of the whole batch for every row. Each row has its own: work along the last "
            "axis.",
        ),
        Misconception(
            "along the first axis",
            lambda mask: (mask.long() * torch.arange(len(mask))[:, None]).argmax(0),
            "You work along the first axis: one result for each column. One for each row is asked for: dim=-1.",
        ),
        Misconception(
            "one token early",
            lambda mask: last_token_index(mask) - 1,
            "You return the column before the last real token: one too small. Columns are numbered 0 … L − 1.",
        ),
        Misconception(
            "first padding",
            lambda mask: (mask == 0).long().argmax(-1),
            "You return the first column with padding. A row padded on the left begins with padding, and a full row "
            "has none.",
        ),
        Misconception(
            "start of the answer",
            lambda mask: mask.shape[1] - mask.sum(-1),
            "That is the number of padded columns: where the text begins, if all padding stands on the left. Its end "
            "is "
            "asked for.",
        ),
        Misconception(
            "kept dimension",
            lambda mask: last_token_index(mask).unsqueeze(-1),
            "One axis too many: shape (B, 1) is not (B,). Leave out `keepdim=True`.",
        ),
        Misconception(
            "counted from the right as a negative index",
            lambda mask: -1 - mask.flip(-1).long().argmax(-1),
            "You count from the right end, as negative columns. Columns are numbered 0 … L − 1 here: add L.",
        ),
    ),
)


# --- 2 · the head ---------------------------------------------------------------------------------------------------


def _hidden(g: torch.Generator) -> list[tuple[Tensor, ...]]:
    cases: list[tuple[Tensor, ...]] = []
    for (mask,) in _masks(g):
        hidden, weight = torch.randn(*mask.shape, 4, generator=g), torch.randn(4, generator=g)
        cases.append((hidden, mask, weight, torch.randn((), generator=g)))
    return cases


def _pooled(hidden: Tensor, mask: Tensor) -> Tensor:
    m = mask.unsqueeze(-1).float()
    return (hidden * m).sum(1) / m.sum(1)


def _at_last(hidden: Tensor, mask: Tensor) -> Tensor:
    return hidden[torch.arange(len(hidden)), last_token_index(mask)]


q2 = Question(
    title="2.2 The head",
    reference=head_score,
    cases=_hidden,
    grad_args=(0, 2, 3),
    hints=(
        "Of the L vectors of a row, how many enter its score, and which?",
        "r_i = Σ_k v_k h_{i, last, k} + b: one vector a row, at the column of exercise 2.1, then a product with v.",
        "Find the column of the last real token of each row. Index `hidden` with the row numbers 0 … B − 1 and these "
        "columns together: that picks one vector a row, shape (B, d). Multiply by the weight vector, add the bias.",
        "last = last_index(mask)\n"
        "at_end = hidden[torch.arange(len(hidden)), ...]  # (B, d)\n"
        "return at_end @ ... + bias",
    ),
    misconceptions=(
        Misconception(
            "mean of the tokens",
            lambda h, m, w, b: _pooled(h, m) @ w + b,
            "You averaged over the tokens. Early tokens have not seen the answer; (1) reads the last real one.",
        ),
        Misconception(
            "last column",
            lambda h, m, w, b: h[:, -1] @ w + b,
            "You read the last column. With padding on the right that is padding: (1) says the last real token.",
        ),
        Misconception(
            "no bias",
            lambda h, m, w, b: h[torch.arange(len(h)), last_token_index(m)] @ w + 0 * b,
            "The bias is missing. It cancels in every comparison, but (1) has it.",
        ),
        Misconception(
            "sum of the tokens",
            lambda h, m, w, b: (h * m.unsqueeze(-1)).sum(1) @ w + b,
            "You summed over all tokens: longer answers would score higher only for being long. (1) reads one token.",
        ),
        Misconception(
            "length as index",
            lambda h, m, w, b: h[torch.arange(len(h)), m.sum(-1) - 1] @ w + b,
            "You used the number of real tokens minus one as the column. Wrong where padding stands on the left "
            "(exercise 2.1).",
        ),
        Misconception(
            "first token",
            lambda h, m, w, b: h[:, 0] @ w + b,
            "You read the first column, as for BERT. In a causal model it has seen nothing of what follows: (1).",
        ),
        Misconception(
            "every row with every column",
            lambda h, m, w, b: h[:, last_token_index(m)] @ w + b,
            "hidden[:, last] takes all those columns from every row: shape (B, B). Row i has its own last column: "
            "hidden[torch.arange(B), last].",
        ),
        Misconception(
            "one token early",
            lambda h, m, w, b: h[torch.arange(len(h)), last_token_index(m) - 1] @ w + b,
            "You read the token before the last real one. The end token belongs to the answer: it is the first that "
            "has seen all of it (section 2).",
        ),
        Misconception(
            "a probability",
            lambda h, m, w, b: torch.sigmoid(h[torch.arange(len(h)), last_token_index(m)] @ w + b),
            "You put a sigmoid on the score. (1) is linear: a reward may be any number. The probability comes in (2), "
            "from the difference of two scores.",
        ),
        Misconception(
            "batch axis lost",
            lambda h, m, w, b: (_at_last(h, m) @ w[:, None]).squeeze() + b,
            "Your `squeeze()` also removes the batch axis when the batch holds one row: shape () in place of (1,). Use "
            "`.squeeze(-1)`, or multiply by `weight` without a new axis.",
        ),
        Misconception(
            "mean of all columns",
            lambda h, m, w, b: h.mean(1) @ w + b,
            "You averaged over all columns, padding included. (1) reads one token: the last real one.",
        ),
        Misconception(
            "product not summed",
            lambda h, m, w, b: _at_last(h, m) * w + b,
            "You multiplied by the weights and did not sum over d: `*` gives shape (B, d). v · h is a sum: use `@`.",
        ),
        Misconception(
            "minus the bias",
            lambda h, m, w, b: _at_last(h, m) @ w - b,
            "You subtracted the bias. (1) adds it.",
        ),
        Misconception(
            "bias twice",
            lambda h, m, w, b: _at_last(h, m) @ w + 2 * b,
            "The bias enters twice. (1) adds it once.",
        ),
        Misconception(
            "bias with the weights",
            lambda h, m, w, b: _at_last(h, m) @ (w + b),
            "You added the bias to the weights. (1) adds it to the product, once.",
        ),
        Misconception(
            "normalised",
            lambda h, m, w, b: F.normalize(_at_last(h, m), dim=-1) @ w + b,
            "You brought the hidden vector to length 1 first. (1) takes it as it is.",
        ),
        Misconception(
            "layer norm",
            lambda h, m, w, b: F.layer_norm(_at_last(h, m), h.shape[-1:]) @ w + b,
            "You normalised the hidden vector first (layer norm). The trunk has done that; (1) takes it as it is.",
        ),
        Misconception(
            "highest score",
            lambda h, m, w, b: (h @ w + b).masked_fill(~m, -torch.inf).max(1).values,
            "You took the highest score of all real tokens. (1) reads one of them: the last.",
        ),
        Misconception(
            "score of every token",
            lambda h, m, w, b: h @ w + b,
            "You return a score for every token, shape (B, L). (1) keeps one: that of the last real token.",
        ),
        Misconception(
            "sum of the scores",
            lambda h, m, w, b: ((h @ w + b) * m).sum(1),
            "You summed the scores of all tokens. (1) reads one of them: the last real one.",
        ),
        Misconception(
            "mean of the scores over all columns",
            lambda h, m, w, b: (h @ w + b).sum(1),
            "You summed over all columns, padding included. (1) reads one token: the last real one.",
        ),
        Misconception(
            "tanh",
            lambda h, m, w, b: torch.tanh(_at_last(h, m) @ w + b),
            "You put a tanh on the score. (1) is linear: a reward may be any number.",
        ),
        Misconception(
            "first real token",
            lambda h, m, w, b: h[torch.arange(len(h)), m.long().argmax(-1)] @ w + b,
            "You read the first real token. In a causal model it has seen nothing of what follows: (1) reads the last "
            "one.",
        ),
        Misconception(
            "first padding",
            lambda h, m, w, b: h[torch.arange(len(h)), (m.sum(-1)).clamp(max=m.shape[1] - 1)] @ w + b,
            "You used the number of real tokens as the column: one too far with padding on the right, and wrong with "
            "padding "
            "on the left (exercise 2.1).",
        ),
    ),
)


# --- 3 · the loss ---------------------------------------------------------------------------------------------------

q3 = Question(
    title="2.3 The loss of a batch",
    reference=stacked_loss,
    cases=lambda g: [
        (torch.randn(2 * whole(g, 3, 5), generator=g),),
        (3 * torch.randn(2, generator=g),),
        (5 * torch.randn(2 * whole(g, 10, 30), generator=g),),
        (torch.tensor([-300.0, 1.0, 200.0, 0.0]),),
    ],
    grad_args=(0,),
    hints=(
        "Which row of the batch is the other answer of pair i?",
        "Row N + i. The loss of a pair is −log σ(r_w − r_l), and (2) is the mean over the N pairs.",
        "Cut the scores into two halves, the chosen and the rejected. Take differences, chosen minus rejected; log σ "
        "of them in one step, as in exercise 1.3; then the mean, and the minus.",
        "chosen, rejected = scores.chunk(2)\nreturn -F.logsigmoid(...).mean()",
    ),
    misconceptions=(
        Misconception(
            "interleaved",
            lambda s: -F.logsigmoid(s[::2] - s[1::2]).mean(),
            "You paired neighbours. The batch holds all chosen answers first, then all rejected ones: pair i is row i "
            "with row N + i.",
        ),
        Misconception(
            "swapped",
            lambda s: -F.logsigmoid(s.chunk(2)[1] - s.chunk(2)[0]).mean(),
            "You reward the rejected answers: (2) has r_w − r_l, chosen minus rejected.",
        ),
        Misconception(
            "sum",
            lambda s: -F.logsigmoid(s.chunk(2)[0] - s.chunk(2)[1]).sum(),
            "That is the sum over the pairs: (2) is a mean, or the step size would depend on the batch size.",
        ),
        Misconception(
            "difference only",
            lambda s: -(s.chunk(2)[0] - s.chunk(2)[1]).mean(),
            "You maximise the difference itself, which has no end. −log σ in (2) is what makes a pair that is already "
            "right pull less.",
        ),
        Misconception(
            "mean first",
            lambda s: -F.logsigmoid((s.chunk(2)[0] - s.chunk(2)[1]).mean()),
            "You averaged the differences before −log σ. Then one easy pair can hide many wrong ones: (2) is the mean "
            "of the losses.",
        ),
        Misconception(
            "no logarithm",
            lambda s: -torch.sigmoid(s.chunk(2)[0] - s.chunk(2)[1]).mean(),
            "The logarithm is missing: (2) is the negative log-likelihood, −log σ, not −σ.",
        ),
        Misconception(
            "overflow",
            lambda s: torch.log(1 + torch.exp(s.chunk(2)[1] - s.chunk(2)[0])).mean(),
            "Right on paper, but exp of a few hundred is inf, and σ of minus a few hundred rounds to 0. F.logsigmoid "
            "computes "
            "log σ in one step and stays finite.",
        ),
        Misconception(
            "each answer alone",
            lambda s: -(F.logsigmoid(s.chunk(2)[0]) + F.logsigmoid(-s.chunk(2)[1])).mean() / 2,
            "You trained a classifier: chosen answers are class 1, rejected ones class 0. Nobody said that an answer "
            "is good in itself, only that it is better than the other one: (2) needs the difference of the two scores.",
        ),
        Misconception(
            "each answer alone, added up",
            lambda s: -(F.logsigmoid(s.chunk(2)[0]) + F.logsigmoid(-s.chunk(2)[1])).mean(),
            "You have one −log σ for the chosen answer and one for the rejected. The annotator only compared the two: "
            "(2) has one −log σ for each pair, of the difference of their scores.",
        ),
        Misconception(
            "every chosen against every rejected",
            lambda s: -F.logsigmoid(s.chunk(2)[0][:, None] - s.chunk(2)[1][None, :]).mean(),
            "You compare every chosen answer with every rejected one, also of other prompts. Pair i is row i with row "
            "N + i.",
        ),
        Misconception(
            "second half backwards",
            lambda s: -F.logsigmoid(s.chunk(2)[0] - s.chunk(2)[1].flip(0)).mean(),
            "You paired the rows from the outside in. Pair i is row i with row N + i, in the same order.",
        ),
        Misconception(
            "minus missing",
            lambda s: F.logsigmoid(s.chunk(2)[0] - s.chunk(2)[1]).mean(),
            "The minus is missing: this is the log-likelihood, which should grow. (2) is its negative.",
        ),
        Misconception(
            "divided by 2N",
            lambda s: -F.logsigmoid(s.chunk(2)[0] - s.chunk(2)[1]).sum() / len(s),
            "You divided by the number of answers, 2N. (2) is the mean over the N pairs.",
        ),
        Misconception(
            "one value for each pair",
            lambda s: -F.logsigmoid(s.chunk(2)[0] - s.chunk(2)[1]),
            "You return one value for each pair. (2) is their mean.",
        ),
        Misconception(
            "probability of the other result",
            lambda s: torch.sigmoid(s.chunk(2)[1] - s.chunk(2)[0]).mean(),
            "That is 1 − σ, the probability of the other result. (2) is −log σ of the difference.",
        ),
        Misconception(
            "error rate",
            lambda s: (s.chunk(2)[0] < s.chunk(2)[1]).float().mean(),
            "That is the share of pairs ranked wrongly. It has no gradient; (2) is −log σ of the difference.",
        ),
        Misconception(
            "accuracy",
            lambda s: (s.chunk(2)[0] > s.chunk(2)[1]).float().mean(),
            "That is the share of pairs ranked rightly. It has no gradient; (2) is −log σ of the difference.",
        ),
        Misconception(
            "hinge",
            lambda s: F.relu(1 - (s.chunk(2)[0] - s.chunk(2)[1])).mean(),
            "That is a hinge loss. (2) is −log σ, the logarithm of a probability.",
        ),
        Misconception(
            "log of the mean",
            lambda s: -torch.sigmoid(s.chunk(2)[0] - s.chunk(2)[1]).mean().log(),
            "You took the mean before the logarithm. (2) is the mean of the logarithms.",
        ),
        Misconception(
            "squared error",
            lambda s: torch.sigmoid(s.chunk(2)[1] - s.chunk(2)[0]).square().mean(),
            "That is a squared error, (1 − σ)². (2) is −log σ.",
        ),
        Misconception(
            "base 2",
            lambda s: -F.logsigmoid(s.chunk(2)[0] - s.chunk(2)[1]).mean() / math.log(2),
            "You used the logarithm to base 2. The unit is the nat: the natural logarithm.",
        ),
        *(
            Misconception(
                f"saved by {epsilon:g}",
                lambda s, e=epsilon: -torch.log(torch.sigmoid(s.chunk(2)[0] - s.chunk(2)[1]) + e).mean(),
                f"You save the logarithm with a small number, {epsilon:g}. Then no pair costs more than "
                f"{-math.log(epsilon):.1f} nats, and one that is very wrong has no gradient. F.logsigmoid needs no "
                f"such number.",
            )
            for epsilon in (1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-12)
        ),
        *(
            Misconception(
                f"difference cut off at {limit:g}",
                lambda s, limit=limit: -F.logsigmoid((s.chunk(2)[0] - s.chunk(2)[1]).clamp(-limit, limit)).mean(),
                f"You cut the difference off at ±{limit:g}. A pair that is more wrong than that has no gradient. "
                f"F.logsigmoid "
                "needs no such limit.",
            )
            for limit in (20.0, 30.0, 50.0, 80.0, 88.0, 100.0)
        ),
        Misconception(
            "softmax over the batch",
            lambda s: -s.log_softmax(0).chunk(2)[0].mean(),
            "You put all answers of the batch into one softmax. In (2) a chosen answer is compared with the rejected "
            "answer of its own pair only.",
        ),
    ),
)


# --- 4 · the Bayes ceiling ------------------------------------------------------------------------------------------

q4 = Question(
    title="2.4 The Bayes ceiling",
    reference=preferences.bayes_accuracy,
    cases=lambda g: [
        (torch.rand(whole(g, 5, 9), generator=g),),
        (torch.rand(whole(g, 20, 60), generator=g) ** 2,),
        (torch.tensor([0.9, 0.2, 0.5]),),
        (torch.tensor([0.0, 1.0]),),
    ],
    hints=(
        "On a pair with p = 0.2, on which answer does the best judge bet, and how often is it right?",
        "It bets on b there, and is right with probability 0.8. In general max(p_i, 1 − p_i), for each pair by itself; "
        "the ceiling is the mean.",
        "Make a second tensor, 1 − p. Take the larger of the two, entry by entry. Then the mean over the pairs: not "
        "the other way round.",
        "return torch.maximum(probability, ...).mean()",
    ),
    misconceptions=(
        Misconception(
            "always a",
            lambda p: p.mean(),
            "That is the accuracy of a judge who always bets on a. The best judge bets on b where p < ½: (3).",
        ),
        Misconception(
            "two annotators",
            lambda p: (p**2 + (1 - p) ** 2).mean(),
            "That is how often two annotators agree (notebook 00). The best judge is not noisy: it bets on the "
            "likelier side every time, (3).",
        ),
        Misconception(
            "worst judge",
            lambda p: torch.minimum(p, 1 - p).mean(),
            "That is how often the best judge is wrong. (3) has the maximum.",
        ),
        Misconception(
            "mean first",
            lambda p: torch.maximum(p.mean(), 1 - p.mean()),
            "You averaged p over the pairs first. The judge decides for each pair: the maximum stands inside the mean "
            "in (3).",
        ),
        Misconception(
            "certain labels",
            lambda p: ((p > 0.5).float() + 0.5 * (p == 0.5).float()).mean(),
            "You counted the pairs on which a is likelier. The ceiling is the probability of being right, "
            "max(p, 1 − p).",
        ),
        Misconception(
            "a coin where b is likelier",
            lambda p: p.clamp(min=0.5).mean(),
            "Where p < ½ you took ½, as if the judge tossed a coin there. It bets on b, and is right with probability "
            "1 − p: the other side of the maximum in (3).",
        ),
        Misconception(
            "sum",
            lambda p: torch.maximum(p, 1 - p).sum(),
            "That is a number of pairs. Take the mean: a share, as an accuracy is.",
        ),
        Misconception(
            "share of pairs above ½",
            lambda p: (p > 0.5).float().mean(),
            "You counted the pairs on which a is likelier than b. The ceiling is the probability of being right: "
            "max(p, 1 − p) for each pair.",
        ),
        Misconception(
            "share of pairs from ½ on",
            lambda p: (p >= 0.5).float().mean(),
            "You counted the pairs on which a is at least as likely as b. The ceiling is the probability of being "
            "right: "
            "max(p, 1 − p) for each pair.",
        ),
        Misconception(
            "half of the distance",
            lambda p: (0.5 + (p - 0.5).abs() / 2).mean(),
            "You went only half of the way from ½: max(p, 1 − p) is ½ + |p − ½|.",
        ),
        Misconception(
            "distance from ½",
            lambda p: (p - 0.5).abs().mean(),
            "That is how far p lies from ½. The accuracy is ½ more: max(p, 1 − p) = ½ + |p − ½|.",
        ),
        Misconception(
            "size of the margin",
            lambda p: (2 * p - 1).abs().mean(),
            "That is |2p − 1|, the accuracy above that of a coin, stretched to [0, 1]. (3) is the accuracy itself.",
        ),
        Misconception(
            "one value for each pair",
            lambda p: torch.maximum(p, 1 - p),
            "You return one value for each pair. (3) is their mean.",
        ),
        Misconception(
            "median",
            lambda p: torch.maximum(p, 1 - p).median(),
            "You took the median over the pairs. (3) is the mean.",
        ),
        Misconception(
            "largest of all",
            lambda p: torch.maximum(p, 1 - p).max(),
            "You took the pair on which the judge is surest. (3) is the mean over all pairs.",
        ),
        Misconception(
            "largest probability",
            lambda p: p.max(),
            "That is the largest p_i. (3) takes the larger of p_i and 1 − p_i for each pair, then the mean.",
        ),
        Misconception(
            "no noise",
            lambda p: torch.ones(()),
            "Your judge is always right. It knows p, but not what the annotator will say: it is right with probability "
            "max(p, 1 − p).",
        ),
        Misconception(
            "b only",
            lambda p: (1 - p).mean(),
            "That is the accuracy of a judge who always bets on b. The best judge bets on a where p > ½: (3).",
        ),
        Misconception(
            "product",
            lambda p: torch.maximum(p, 1 - p).prod(),
            "You multiply over the pairs: the probability of being right about all of them. (3) is the mean.",
        ),
    ),
)

p1 = Prediction(
    question="What accuracy will a reward model reach on new pairs whose annotators are noisy?",
    options=(
        "It climbs towards a ceiling below 100 % and stays under it.",
        "Close to 100 %: it learns the rule behind the noise.",
        "Close to 100 %, if only it is large enough.",
    ),
    answer=0,
    meanings=(
        "The ceiling is (3): even a judge who knows every p_i is contradicted by the annotators' noise.",
        "It may well learn the rule. But it is tested on noisy labels, and these contradict the rule now and then.",
        "(3) holds for every judge, whatever its size: no model can foresee how a coin falls.",
    ),
)
p2 = Prediction(
    question="Polite phrases are added to a good answer, one is liked, more are not. What does the score do?",
    options=(
        "It falls with each phrase too many, as the gold reward does.",
        "It stays high: nothing in the training pairs pulls it down.",
        "It rises by the same amount with each phrase.",
    ),
    answer=1,
    meanings=(
        "For that the training pairs would have to contain answers with too many phrases, which lost.",
        "Hardly any training pair holds an answer with many polite phrases, so nothing pulls their score down.",
        "That would be a model that counts phrases and adds. Ours rises with the first, and then little changes.",
    ),
)


# --- the capstone: a reward model and its training ------------------------------------------------------------------


class Judge(nn.Module):
    """r = v · h_last + b, equation (1), trained by (2)."""

    def __init__(self, language_model: Any) -> None:
        """Take over the trunk; a fresh head with weights of standard deviation 1/√(d + 1) and bias 0."""
        super().__init__()
        self.trunk = language_model.base_model
        width = language_model.config.hidden_size
        self.head = nn.Linear(width, 1)
        nn.init.normal_(self.head.weight, std=1 / math.sqrt(width + 1))
        nn.init.zeros_(self.head.bias)

    def forward(self, ids: Int[Tensor, "B L"], mask: Bool[Tensor, "B L"]) -> Float[Tensor, " B"]:
        """The score of each row, padded on either side."""
        hidden = self.trunk(
            input_ids=ids, attention_mask=mask.long(), position_ids=position_ids(mask)
        ).last_hidden_state
        last = (mask.long() * torch.arange(mask.shape[1])).argmax(-1)
        scores: Tensor = self.head(hidden[torch.arange(len(hidden)), last]).squeeze(-1)
        return scores

    def fit(
        self, ids: Int[Tensor, "2N L"], mask: Bool[Tensor, "2N L"], epochs: int, batch_size: int, learning_rate: float
    ) -> Iterator[dict[str, Tensor]]:
        """Train trunk and head on N pairs, the N chosen answers first; after each step yields its pairs and loss."""
        optimizer = torch.optim.Adam(self.parameters(), lr=learning_rate)
        n = len(ids) // 2
        for _ in range(epochs):
            for pairs in torch.split(torch.randperm(n), batch_size):
                both = torch.cat([pairs, pairs + n])
                chosen, rejected = self(ids[both], mask[both]).chunk(2)
                loss: Any = -F.logsigmoid(chosen - rejected).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                yield {"pairs": pairs, "loss": loss.detach()}


EPOCHS, BATCH_SIZE, LEARNING_RATE, PAIRS, WIDTH, WORDS = 3, 40, 3e-3, 1200, 32, 8
BELOW_CEILING = 0.03
"""How far below the Bayes ceiling a trained judge may stay."""


class _Numbers(nn.Module):
    """A trunk that knows its vectors by heart, so that one sees which of them a head reads."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = nn.Parameter(hidden)

    def forward(self, *_: Any, **__: Any) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=self.hidden, hidden_states=(self.hidden,))


def _small_model(g: torch.Generator) -> GPT2LMHeadModel:
    """A GPT-2 of one layer, which reads eight words and four marks."""
    config = GPT2Config(
        vocab_size=WORDS + 4, n_positions=64, n_embd=WIDTH, n_layer=1, n_head=2, resid_pdrop=0, embd_pdrop=0,
        attn_pdrop=0, bos_token_id=WORDS + 3, eos_token_id=WORDS + 3,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(int(torch.randint(10**6, (1,), generator=g)))
        model = GPT2LMHeadModel(config)
    model.eval()  # type: ignore[no-untyped-call]
    return model


def _texts(g: torch.Generator, n: int, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """n prompts with two answers each: ids and mask (2n, L), first answers then second ones; p(first ≻ second) (n,).

    The reward is the sum of the words' values, shape (WORDS,). Prompts are padded on the left, answers on the
    right. Padding is the end token.
    """
    ids, mask = torch.full((2 * n, 9), WORDS + 3), torch.zeros(2 * n, 9, dtype=torch.bool)
    kind, early = torch.randint(2, (2, n), generator=g).repeat(1, 2)
    lengths = torch.randint(2, 6, (2 * n,), generator=g)
    words = torch.randint(WORDS, (2 * n, 5), generator=g)
    columns = torch.arange(5)
    real = columns < lengths[:, None]
    ids[:, 1] = WORDS + kind
    ids[:, 2:7] = torch.where(real, words, ids[:, 2:7])
    mask[:, 1], mask[:, 2:7] = True, real
    mask[torch.arange(2 * n), 2 + lengths] = True  # the end token
    ids[:, 0] = torch.where(early.bool(), WORDS + 2, ids[:, 0])  # some prompts have a word more
    mask[:, 0] = early.bool()
    rewards = (value[words] * real).sum(1)
    return ids, mask, torch.sigmoid(rewards[:n] - rewards[n:])


@dataclass
class Training:
    """What a judge did. `reads[i, t]` is the size of ∂r_i/∂h_it, `spread` that of the first scores in units of
    ‖h‖/√(d + 1), `moved` the number of weights that the training changed; `scores[k]` are
    those of the chosen and the rejected answers of step k, before it and after it."""

    mask: Tensor
    shape: tuple[int, ...] | None = None
    reads: Tensor | None = None
    linear: bool = True
    padded: float = 0.0
    spread: float = 0.0
    parts: list[dict[str, Tensor]] = field(default_factory=list)
    scores: dict[int, list[tuple[Tensor, ...]]] = field(default_factory=dict)
    moved: int = 0
    accuracies: list[float] = field(default_factory=list)
    ceiling: float = 0.0
    start: Any = None
    shown: tuple[Tensor, Tensor] | None = None
    weights: list[Tensor] = field(default_factory=list)
    """All weights at the start, at the first and at the second yield."""
    still: tuple[bool, bool] = (False, False)
    """Whether training left the trunk, and the rest, as they were."""

    @property
    def first_step(self) -> Tensor:
        """The change of all weights by the first update, whether it comes before or after the first yield."""
        at_start, first, second = self.weights
        return (first if bool((first != at_start).any()) else second) - at_start

    def slope(self, loss: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """The gradient of a loss on the first step's pairs, at the start."""
        assert self.shown is not None
        judge, (ids, mask), pairs = copy.deepcopy(self.start), self.shown, self.parts[0]["pairs"].flatten()
        both = torch.cat([pairs, pairs + PAIRS])
        chosen, rejected = judge(ids[both], mask[both]).chunk(2)
        weights = list(judge.parameters())
        slopes = torch.autograd.grad(loss(chosen, rejected), weights, allow_unused=True)
        return torch.cat(
            [(torch.zeros_like(w) if g is None else g).flatten() for w, g in zip(weights, slopes, strict=True)]
        )


def _judge(answer: Any, seed: int) -> Training:
    g = torch.Generator().manual_seed(seed)
    value = torch.linspace(-1.5, 1.5, WORDS)[torch.randperm(WORDS, generator=g)]
    ids, mask, p = _texts(g, PAIRS, value)
    first = torch.bernoulli(p, generator=g).bool().repeat(2)
    swapped = torch.arange(2 * PAIRS).roll(PAIRS)
    order = torch.where(first, torch.arange(2 * PAIRS), swapped)  # the chosen ones first
    record = Training(mask[:6])
    _look_at_the_head(record, answer, ids[:6], mask[:6], g)
    if record.shape != (6,):
        return record
    model = _small_model(g)
    _look_at_the_scores(record, answer, model, ids[:6], mask[:6])
    _let_it_train(record, answer(model), model.base_model, (ids[order], mask[order]), _texts(g, 1000, value))
    return record


def _look_at_the_head(record: Training, answer: Any, ids: Tensor, mask: Tensor, g: torch.Generator) -> None:
    """Which vectors a fresh judge reads, and how."""
    hidden = torch.randn(len(ids), ids.shape[1], WIDTH, generator=g)
    trunk = _Numbers(hidden.clone())
    language_model = SimpleNamespace(base_model=trunk, transformer=trunk, config=SimpleNamespace(hidden_size=WIDTH))
    judge = answer(language_model)
    if not isinstance(judge, nn.Module):
        raise Malformed("Your class must be a `torch.nn.Module`: `class Judge(torch.nn.Module)`.")
    try:
        scores = judge(ids, mask)
    except NotImplementedError:
        return
    if not isinstance(scores, Tensor):
        raise Malformed("Your `forward` must return a tensor of scores, shape (B,).")
    record.shape = tuple(scores.shape)
    if record.shape != (len(ids),):
        return
    if scores.requires_grad:
        (slopes,) = torch.autograd.grad(scores.sum(), trunk.hidden, allow_unused=True)
        record.reads = torch.zeros(mask.shape) if slopes is None else slopes.norm(dim=-1)
        with torch.no_grad():
            trunk.hidden.mul_(3)
            tripled = judge(ids, mask)
            trunk.hidden.zero_()
            record.linear = bool(torch.allclose(tripled - judge(ids, mask), 3 * (scores - judge(ids, mask)), atol=1e-3))
    with torch.no_grad():
        trunk.hidden.copy_(hidden)
        many = torch.stack([answer(language_model)(ids, mask) for _ in range(200)])  # (200, B): fresh heads
    last = hidden[torch.arange(len(ids)), last_token_index(mask)]
    record.spread = float((many.std(0) / last.norm(dim=-1)).mean()) * math.sqrt(WIDTH + 1)


def _look_at_the_scores(record: Training, answer: Any, model: Any, ids: Tensor, mask: Tensor) -> None:
    """By how much scores move when rows are padded more, on a trunk that really reads."""
    judge = answer(model).eval()
    with torch.no_grad():
        padded = judge(F.pad(ids, (4, 2), value=WORDS + 3), F.pad(mask, (4, 2)))
        record.padded = float((padded - judge(ids, mask)).abs().max())


def _let_it_train(
    record: Training, judge: Any, trunk: nn.Module, shown: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor, Tensor]
) -> None:
    """Train it, and measure it on pairs that it has not seen: before, and after each epoch."""
    (ids, mask), (new_ids, new_mask, p) = shown, new
    record.ceiling = float(preferences.bayes_accuracy(p))

    def accuracy() -> float:
        with torch.no_grad():
            first, second = judge(new_ids, new_mask).chunk(2)
        return float(torch.where(first > second, p, torch.where(first < second, 1 - p, 0.5)).mean())

    record.accuracies.append(accuracy())
    record.start, record.shown = copy.deepcopy(judge), (ids, mask)
    record.weights.append(_vector(judge))
    start = before = copy.deepcopy(judge)  # before: as it was one step ago, for every fifth step
    steps = EPOCHS * PAIRS // BATCH_SIZE
    try:
        found = judge.fit(ids.clone(), mask.clone(), EPOCHS, BATCH_SIZE, LEARNING_RATE)
        if not isinstance(found, Iterator):
            raise Malformed("Your `fit` has no `yield`: after each step, yield a dict with what the step has so far.")
        for result in itertools.islice(found, 2 * steps):
            part = {name: torch.as_tensor(value).detach() for name, value in parts(result, "pairs", "loss").items()}
            record.parts.append(part)
            step = len(record.parts)
            if step <= 2:
                record.weights.append(_vector(judge))
            if step % 5 == 0 and step <= 30 and "pairs" in part:
                both = torch.cat([part["pairs"].flatten(), part["pairs"].flatten() + PAIRS])
                with torch.no_grad():
                    record.scores[step] = [model(ids[both], mask[both]).chunk(2) for model in (before, judge)]
            if step % 5 == 4:
                before = copy.deepcopy(judge)
            if step % (steps // EPOCHS) == 0:
                record.accuracies.append(accuracy())
    except NotImplementedError:
        return
    pairs_of_weights = zip(start.parameters(), judge.parameters(), strict=True)
    record.moved = sum(int((a != b).sum()) for a, b in pairs_of_weights)
    of_trunk = {id(w) for w in trunk.parameters()}
    same = {
        part: all(torch.equal(a, b) for a, b in zip(start.parameters(), judge.parameters(), strict=True)
                  if (id(b) in of_trunk) == part)
        for part in (True, False)
    }  # fmt: skip
    record.still = same[True], same[False]


def _vector(model: nn.Module) -> Tensor:
    return torch.cat([w.detach().flatten().clone() for w in model.parameters()])


def _reads_right(record: Training) -> str | None:
    if record.shape is None:
        return None
    n = len(record.mask)
    if record.shape != (n,):
        return f"`forward` returns shape {record.shape}, expected (B,) = ({n},): one score a row"
    if record.reads is None:
        return "no gradient flows from the scores to the trunk's vectors"
    want = F.one_hot(last_token_index(record.mask), record.mask.shape[1]).bool()
    for i, (got, expected) in enumerate(zip(record.reads > 1e-6, want, strict=True)):
        if not torch.equal(got, expected):
            read = ", ".join(map(str, got.nonzero().flatten().tolist())) or "none"
            return f"in row {i} the last real token stands in column {int(expected.long().argmax())}; you read {read}"
    return "" if record.linear else "three times the vectors do not give three times v · h: equation (1) is linear"


def _padding(record: Training) -> str:
    if record.padded < 1e-3:  # fp32
        return ""
    return f"the same texts, padded by four columns more on the left, have scores that differ by {record.padded:.3f}"


def _start(record: Training) -> str:
    if abs(record.spread - 1) < 0.25:
        return ""
    return (
        f"over 200 fresh heads the first scores spread by {record.spread:.2f} times ‖h‖/√(d + 1), expected is once: "
        "weights of standard deviation 1/√(d + 1), bias 0"
    )


def _pairs(record: Training) -> str | None:
    if not record.parts or any("pairs" not in part for part in record.parts):
        return None
    steps = EPOCHS * PAIRS // BATCH_SIZE
    seen = torch.cat([part["pairs"].flatten() for part in record.parts])
    if len(record.parts) != steps or len(seen) != EPOCHS * PAIRS:
        return (
            f"{len(record.parts)} steps came with {len(seen)} pairs in all, expected {steps} with {EPOCHS * PAIRS}, "
            f"{EPOCHS} epochs of {PAIRS}, {BATCH_SIZE} a step. `pairs` are numbers from 0 to N − 1"
        )
    epochs = seen.view(EPOCHS, PAIRS)
    if bool((epochs.sort(dim=1).values != torch.arange(PAIRS)).any()):
        return "in one epoch some pairs came twice and others not at all: each should come once an epoch"
    return "every epoch has the same order: draw a new one each time" if bool((epochs == epochs[0]).all()) else ""


def _pair_losses(record: Training) -> str | None:
    if any("loss" not in part for part in record.parts):
        return None
    for step, scores in record.scores.items():
        part, wants = record.parts[step - 1], [float(stacked_loss(torch.cat(both))) for both in scores]
        if part["loss"].numel() != 1:
            return f"`loss` has shape {tuple(part['loss'].shape)}, expected one number"
        if not min(abs(float(part["loss"]) - want) for want in wants) < 1e-3:  # fp32
            return f"in step {step} the loss (2) is {wants[0]:.4f}, and you have {float(part['loss']):.4f}"
    return ""


def _learns(record: Training) -> str:
    if record.moved and any(record.still):
        return f"training has left all weights of the {'trunk' if record.still[0] else 'head'} as they were"
    if record.accuracies[-1] > record.ceiling - BELOW_CEILING:
        return ""
    course = " → ".join(f"{a:.3f}" for a in record.accuracies)
    return (
        f"on new pairs the accuracy went {course} over the epochs; the Bayes ceiling is {record.ceiling:.3f}, and "
        f"expected is at most {BELOW_CEILING} below it"
    )


def _reads(columns: Callable[[Tensor], Tensor]) -> Callable[[Training], bool]:
    """Whether every row is read at these columns: a function of the mask, as a table of True and False."""
    return lambda record: record.reads is not None and torch.equal(record.reads > 1e-6, columns(record.mask))


def _at(column: Callable[[Tensor], Tensor]) -> Callable[[Training], bool]:
    """Whether every row is read at one column."""
    return _reads(lambda mask: F.one_hot(column(mask), mask.shape[1]).bool())


def _loss_is(wrong: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Training], bool]:
    """Whether the losses are these, and not (2)."""
    return lambda record: (
        bool(_pair_losses(record))
        and all(
            any(abs(float(wrong(*scores)) - float(record.parts[step - 1]["loss"])) < 1e-3 for scores in both)
            for step, both in record.scores.items()
        )
    )


def _right_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    return -F.logsigmoid(chosen - rejected).mean()


def _steps_along(
    loss: Callable[[Tensor, Tensor], Tensor], sign: float = -1.0, plain: bool = False
) -> Callable[[Training], bool]:
    """Whether the first step goes down (up with sign=1) this loss: by Adam, each weight by the sign of its slope;
    plain, all weights in proportion to it."""

    def seen(record: Training) -> bool:
        if _pair_losses(record) != "" or _learns(record) == "":
            return False
        step, slope = record.first_step, record.slope(loss)
        if plain:
            return float(F.cosine_similarity(step, sign * slope, dim=0)) > 0.999
        steep = slope.abs() > 1e-4 * slope.abs().max()
        return float((step.sign() == sign * slope.sign())[steep].float().mean()) > 0.97

    return seen


def _size_of_steps(record: Training) -> float:
    """The size of the first step as a share of the learning rate; Adam's first step is as large as it everywhere."""
    step = record.first_step.abs()
    return float(step[step > 0].median()) / LEARNING_RATE


capstone = Capstone(
    title="2.5 Capstone: a reward model and its training",
    reference=Judge,
    run=_judge,
    steps=(
        Step("the head reads the last real token", _reads_right),
        Step("padding does not matter", _padding),
        Step("the start of the head", _start),
        Step("the batches", _pairs),
        Step("the loss", _pair_losses),
        Step("it judges nearly as well as is possible", _learns),
    ),
    symptoms=(
        Symptom(
            "a column too many",
            lambda record: record.shape == (len(record.mask), 1),
            "A linear layer with one output gives shape (B, 1): drop the last axis, by `.squeeze(-1)`. Else "
            "differences of scores become tables.",
        ),
        Symptom(
            "every token",
            lambda record: record.shape is not None and len(record.shape) > 1 and record.shape[1] > 1,
            "You return a score for every token. (1) reads one: the last real token, which has seen the whole answer.",
        ),
        Symptom(
            "last column",
            _at(lambda mask: torch.full((len(mask),), mask.shape[1] - 1)),
            "You read the last column, `[:, -1]`. In rows with padding on the right that is padding: work from the "
            "mask, exercise 2.1.",
        ),
        Symptom(
            "number of tokens",
            _at(lambda mask: mask.sum(-1) - 1),
            "You count the real tokens and take that as the column. With padding on the left the columns are shifted: "
            "exercise 2.1.",
        ),
        Symptom(
            "one too early",
            _at(lambda mask: last_token_index(mask) - 1),
            "You read the token before the end token. Do you look for padding in the ids? There the end token is the "
            "padding. Work from the mask.",
        ),
        Symptom(
            "first token",
            _at(lambda mask: mask.long().argmax(-1)),
            "You read the first real token, which has seen nothing of the answer: the model is causal.",
        ),
        Symptom(
            "all real tokens",
            _reads(lambda mask: mask),
            "Your score depends on the vectors of all real tokens. (1) reads one: the last real token.",
        ),
        Symptom(
            "all columns",
            _reads(torch.ones_like),
            "Your score depends on the vectors of all columns, padding too. (1) reads one: the last real token.",
        ),
        Symptom(
            "one too late",
            _at(lambda mask: (last_token_index(mask) + 1).clamp(max=mask.shape[1] - 1)),
            "You read the token behind the last real one: padding, where there is some. The index of the last of n "
            "things is n − 1.",
        ),
        Symptom(
            "several tokens",
            lambda record: record.reads is not None and bool(((record.reads > 1e-6).sum(1) > 1).any()),
            "Your score depends on several vectors of a row. (1) reads one, that of the last real token.",
        ),
        Symptom(
            "another token",
            lambda record: (
                record.reads is not None
                and bool(((record.reads > 1e-6).sum(1) == 1).all())
                and not _at(last_token_index)(record)
            ),
            "You read one vector of each row, but not that of the last real token. Work from the mask, exercise 2.1.",
        ),
        Symptom(
            "not linear",
            lambda record: not record.linear,
            "Something bends your score after the head, such as a tanh or a sigmoid. (1) is linear: a reward may be "
            "any number.",
        ),
        Symptom(
            "padding seen",
            lambda record: record.padded >= 1e-3,
            "Padding on the left changes your scores. The trunk needs `attention_mask`, so that no token looks at "
            "padding, and `position_ids=position_ids(mask)`, so that padding does not shift the positions.",
        ),
        Symptom(
            "a start of zero",
            lambda record: record.linear and record.spread < 0.05,
            "Every fresh head gives the same scores: zeros, or other fixed numbers. Draw its weights at random, with "
            "standard deviation 1/√(d + 1).",
        ),
        Symptom(
            "PyTorch's own start",
            lambda record: record.linear and 0.5 < record.spread < 0.68,
            "Your head has PyTorch's own start: uniform weights, of standard deviation 1/√(3 d), and a random bias. "
            "Draw normal ones with `nn.init.normal_`, as section 2 does.",
        ),
        Symptom(
            "a start too wide",
            lambda record: record.linear and record.spread > 1.25,
            "Your first scores spread too widely: the head's weights are too large at the start, or its bias is "
            "random. Their standard deviation is 1/√(d + 1), the bias is 0.",
        ),
        Symptom(
            "a start too narrow",
            lambda record: record.linear and record.spread < 0.75,
            "Your first scores hardly differ: the head's weights are too small at the start. Their standard "
            "deviation is 1/√(d + 1).",
        ),
        Symptom(
            "minus missing",
            _loss_is(lambda chosen, rejected: F.logsigmoid(chosen - rejected).mean()),
            "The minus of (2) is missing: a step down this loss makes the labels *less* probable.",
        ),
        Symptom(
            "an answer against itself",
            _loss_is(lambda chosen, rejected: torch.tensor(math.log(2))),
            "Your loss is log 2 in every step: each answer is compared with itself. The rejected answer of pair i "
            "stands in row N + i.",
        ),
        Symptom(
            "each answer for itself",
            lambda record: any(
                _loss_is(rule)(record)
                for rule in (
                    lambda c, r: -F.logsigmoid(c).mean(),
                    lambda c, r: -F.logsigmoid(-r).mean(),
                    lambda c, r: -(F.logsigmoid(c) + F.logsigmoid(-r)).mean(),
                    lambda c, r: -(F.logsigmoid(c) + F.logsigmoid(-r)).mean() / 2,
                )
            ),
            "Your loss judges single answers. People compared *two*: only the difference of their scores is in (2).",
        ),
        Symptom(
            "another divisor",
            lambda record: any(
                _loss_is(lambda c, r, f=f: f * _right_loss(c, r))(record)  # type: ignore[misc]
                for f in (0.5, 2.0, 1 / math.log(2))
            ),
            "Your loss is (2) times a constant: it is a mean over the pairs of the step, in nats.",
        ),
        Symptom(
            "another loss",
            lambda record: any(
                _loss_is(rule)(record)
                for rule in (
                    *(lambda c, r, m=m: F.relu(m - (c - r)).mean() for m in (0.0, 0.1, 0.5, 1.0, 2.0)),
                    *(lambda c, r, m=m: -F.logsigmoid(c - r - m).mean() for m in (0.1, 0.5, 1.0)),
                    lambda c, r: torch.sigmoid(r - c).mean(),
                    lambda c, r: torch.sigmoid(r - c).square().mean(),
                    lambda c, r: (1 - (c - r)).square().mean(),
                    lambda c, r: torch.exp(r - c).mean(),
                    lambda c, r: -(c - r).mean().sigmoid().log(),
                    lambda c, r: -torch.sigmoid(c - r).mean().log(),
                )
            ),
            "Your loss is another function of the differences, such as a hinge or a square. (2) is the mean of −log "
            "σ, minus the log-likelihood of the labels: only with it do the scores mean probabilities.",
        ),
        Symptom(
            "rejected preferred",
            _loss_is(lambda chosen, rejected: -F.logsigmoid(rejected - chosen).mean()),
            "Your loss prefers the rejected answers: (2) has σ of chosen minus rejected. The first N rows are the "
            "chosen ones.",
        ),
        Symptom(
            "sum",
            _loss_is(lambda chosen, rejected: -F.logsigmoid(chosen - rejected).sum()),
            "Your loss is a sum over the pairs. (2) is a mean.",
        ),
        Symptom(
            "neighbours",
            _loss_is(
                lambda chosen, rejected: (
                    -F.logsigmoid(torch.cat([chosen, rejected])[::2] - torch.cat([chosen, rejected])[1::2]).mean()
                )
            ),
            "You compare neighbours in the batch. Pair i is row i, and its rejected answer is row N + i.",
        ),
        Symptom(
            "each with each",
            _loss_is(lambda chosen, rejected: -F.logsigmoid(chosen[:, None] - rejected[None, :]).mean()),
            "You compare every chosen answer with every rejected one, also across prompts: only answers to the same "
            "prompt were compared.",
        ),
        Symptom(
            "no logarithm",
            _loss_is(lambda chosen, rejected: -torch.sigmoid(chosen - rejected).mean()),
            "The logarithm is missing: (2) is −log σ.",
        ),
        Symptom(
            "margin itself",
            _loss_is(lambda chosen, rejected: -(chosen - rejected).mean()),
            "Your loss is the difference of the scores itself: it falls without end. (2) has −log σ around it.",
        ),
        Symptom(
            "not the loss of these pairs",
            lambda record: _pair_losses(record) not in (None, ""),
            "Your loss is not what (2) makes of the scores of the pairs that you name: take the rows `pairs` and "
            "`pairs` + N of ids and mask, in this order.",
        ),
        Symptom(
            "nothing moves",
            lambda record: record.moved == 0,
            "No weight ever changes: after `loss.backward()` comes `optimizer.step()`, on `self.parameters()`.",
        ),
        Symptom(
            "only the head learns",
            lambda record: 0 < record.moved <= 2 * WIDTH,
            "Only the head changes, the trunk stays as it is. Give the optimizer all of `self.parameters()`, and let "
            "the gradient through the trunk (no `no_grad`, no `detach`).",
        ),
        Symptom(
            "only the trunk learns",
            lambda record: record.still == (False, True),
            "Only the trunk changes, the head stays as it was drawn. Give the optimizer all of `self.parameters()`.",
        ),
        Symptom(
            "uphill",
            _steps_along(_right_loss, sign=1.0),
            "Your first step goes *up* the loss that you yield: an optimizer goes down what `backward()` was called "
            "on.",
        ),
        Symptom(
            "plain gradient descent",
            _steps_along(_right_loss, plain=True),
            "Your steps are plain gradient steps, in proportion to the slopes. Adam is asked for: with this learning "
            "rate plain steps are far too short.",
        ),
        Symptom(
            "half of the loss",
            lambda record: (
                any(
                    _steps_along(rule)(record)
                    for rule in (
                        lambda c, r: -c.mean(),
                        lambda c, r: r.mean(),
                        lambda c, r: -F.logsigmoid(c).mean(),
                        lambda c, r: -F.logsigmoid(-r).mean(),
                    )
                )
                and not _steps_along(_right_loss)(record)
            ),
            "Your first step goes by one answer of each pair alone, the chosen or the rejected one, not by the loss "
            "that you yield.",
        ),
        Symptom(
            "another learning rate",
            lambda record: _steps_along(_right_loss)(record) and abs(_size_of_steps(record) - 1) > 0.1,
            "Your first step has the right direction and another size than `learning_rate`: hand it on to Adam.",
        ),
        Symptom(
            "upside down",
            lambda record: record.accuracies[-1] < 0.45,
            "On new pairs your judge prefers the *worse* answer. Is the sign of the step, or the order of chosen and "
            "rejected, turned in what you train by?",
        ),
    ),
    shows=lambda records: (
        "On new pairs your judges have accuracies of "
        + ", ".join(f"{r.accuracies[-1]:.3f} (ceiling {r.ceiling:.3f})" for r in records)
        + "."
    ),
    hints=(
        "Which token has seen the whole answer? And which weights must learn: the head alone?",
        "r = v · h_last + b, with h from the trunk; the loss of a pair is −log σ(r_w − r_l), and its gradient goes "
        "through both scores into head *and* trunk.",
        "In `__init__` keep the trunk and make a linear layer from d to 1; draw its weights, zero its bias. In "
        "`forward` run the trunk with mask and positions, find the last column with a True, pick one vector a row, "
        "put it through the head, drop the last axis. In `fit` shuffle the numbers of the pairs and cut them into "
        "batches; score the rows `pairs` and `pairs + N` together, split in two, take the loss, clear, go backward, "
        "step, yield.",
        "self.head = torch.nn.Linear(width, 1)  # __init__, after self.trunk = ...\n"
        "torch.nn.init.normal_(self.head.weight, std=...)\n"
        "torch.nn.init.zeros_(self.head.bias)\n"
        "hidden = self.trunk(input_ids=ids, attention_mask=mask.long(), position_ids=position_ids(mask))"
        ".last_hidden_state  # forward\n"
        "last = ...\n"
        "scores = self.head(hidden[torch.arange(len(hidden)), last]).squeeze(-1)\n"
        "optimizer = torch.optim.Adam(self.parameters(), lr=learning_rate)  # fit\n"
        "for _ in range(epochs):\n"
        "    for pairs in torch.split(torch.randperm(len(ids) // 2), batch_size):\n"
        "        both = torch.cat([pairs, ...])\n"
        "        chosen, rejected = self(ids[both], mask[both]).chunk(2)\n"
        "        loss = ...\n"
        "        optimizer.zero_grad()\n"
        "        ...",
    ),
)
