"""Questions of notebook 02, reward modelling: a language model with a scalar head."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from week6 import preferences, reward_model
from week6.checks.cases import whole
from week6.checks.engine import Misconception, Prediction, Question
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
        "Number the columns 0 … L − 1 and multiply by the mask: what is left of the padding?",
        "The largest column number that survives is where the last real token stands: argmax of mask · columns.",
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
        "First pick one hidden vector per row: hidden[rows, columns] with rows = 0 … B − 1 and the columns of 2.1.",
        "Then (B, d) @ (d,) gives (B,); add the bias.",
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
        "scores.chunk(2) gives the first and the second half.",
        "−F.logsigmoid(chosen − rejected), then the mean: equation (2).",
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
        "On one pair with p = 0.2 the best judge bets on b, and is right with probability 0.8.",
        "The larger of p and 1 − p for each pair, then the mean.",
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
