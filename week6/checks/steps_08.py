"""The steps of notebook 08's capstone: how each part of a chatbot is judged."""

import math
from functools import partial

import torch
from torch import Tensor

from week6.checks.bench_08 import ANSWERS, Chatbot
from week6.checks.capstone import Step
from week6.checks.judging import Missing, Wrong, at, judged, numbers, plain

EXCESS = 0.1
"""Nats per token above the teacher's entropy. After 100 steps the course's own is 0.02 to 0.05 above it; who knows only
how often each answer is given is 0.3 above."""
KEPT = 0.9
"""What share of its first loss must be left where nothing is to be learned: the user's words and the markers."""


def table(c: Chatbot, name: str) -> list[list[int]]:
    """`tokens` or `mask`, row by row."""
    if name not in c.parts:
        raise Missing
    rows = plain(c.parts[name])
    if not isinstance(rows, list) or len(rows) != len(c.bench.talks) or not all(isinstance(row, list) for row in rows):
        raise Wrong(f"`{name}` is no table with {len(c.bench.talks)} rows, one a conversation")
    return [[int(x) for x in row] for row in rows]


def _texts(c: Chatbot) -> None:
    if "texts" not in c.parts:
        raise Missing
    got, want = list(c.parts["texts"]), c.bench.texts
    if len(got) != len(want):
        raise Wrong(f"you have {len(got)} texts, expected {len(want)}, one a conversation")
    for mine, theirs in zip(got, want, strict=True):
        if mine != theirs:
            raise Wrong(f"one of your texts is {mine!r:.150}, expected {theirs!r:.150}")


def _tokens_and_mask(c: Chatbot) -> None:
    tokens, mask = c.bench.encoded
    pad = c.bench.tokenizer.pad_token_id
    lengths = (tokens != pad).sum(1).tolist()
    for got, want, n in zip(table(c, "tokens"), tokens.tolist(), lengths, strict=True):
        if got[:n] != want[:n] or any(x != pad for x in got[n:]):
            raise Wrong(f"one row of `tokens` is {got}, expected {want[:n]} and then padding, {pad}")
    names = c.bench.tokenizer.convert_ids_to_tokens
    for got, want, row, n in zip(table(c, "mask"), mask.tolist(), tokens.tolist(), lengths, strict=True):
        if list(map(bool, got[:n])) != want[:n] or any(got[n:]):
            counted, right = (" ".join(names([t for t, m in zip(row, x, strict=False) if m])) for x in (got, want))
            raise Wrong(f"in “{' '.join(names(row[:n]))}” your mask counts “{counted}”, expected “{right}”")


def _training(c: Chatbot) -> None:
    if "losses" not in c.parts:
        raise Missing
    losses = numbers(c.parts, "losses", len(c.parts["losses"])).tolist()
    if not c.changed:
        raise Wrong("the weights of `model` are what they were")
    if not losses or abs(losses[0] / c.before["assistant"] - 1) > 0.25:
        first = f"{losses[0]:.2f}" if losses else "missing"
        raise Wrong(f"your first loss is {first}, expected about {c.before['assistant']:.2f}, of the untrained model")
    excess = c.after["assistant"] - c.bench.entropy
    if not excess < EXCESS:
        raise Wrong(
            f"on fresh conversations the loss is {c.after['assistant']:.2f} nats per token, {excess:.2f} above the "
            f"least that is possible, expected less than {EXCESS} above"
        )
    for name, words in (("user", "the user's words"), ("marker", "the assistant's marker")):
        if c.after[name] < KEPT * c.before[name]:
            raise Wrong(
                f"the loss on {words} fell from {c.before[name]:.2f} to {c.after[name]:.2f}, expected no learning there"
            )
    last = sum(losses[-10:]) / len(losses[-10:])
    if abs(last - c.after["assistant"]) > 0.3:
        raise Wrong(
            f"your last losses are {last:.2f} on average; on fresh conversations the model has "
            f"{c.after['assistant']:.2f}"
        )


def answers_of(c: Chatbot) -> list[list[str]]:
    """Raises Missing or Wrong where they are no M lists of K texts."""
    if "answers" not in c.parts:
        raise Missing
    rows = [list(row) if isinstance(row, list | tuple) else [row] for row in c.parts["answers"]]
    sizes = sorted({len(row) for row in rows})
    if len(rows) != len(c.bench.heldout) or sizes != [ANSWERS]:
        raise Wrong(
            f"`answers` has {len(rows)} rows of {sizes} answers, expected {len(c.bench.heldout)} rows of {ANSWERS}"
        )
    if not all(isinstance(text, str) for row in rows for text in row):
        raise Wrong("`answers` holds other things than text")
    return rows


def judged_answers(c: Chatbot) -> Tensor:
    """Their gold rewards, (M, K)."""
    return torch.tensor([[c.bench.judge(i, text) for text in row] for i, row in enumerate(answers_of(c))])


def surprise(c: Chatbot) -> float:
    """How far the mean log-probability of the answers is from that of fresh ones of the model, in standard errors."""
    bench, mine = c.bench, [text for row in answers_of(c) for text in row]
    own, fresh = (bench.log_probs_of(texts) for texts in (mine, bench.answers_of(bench.model, 4 * ANSWERS)))
    return float((own.mean() - fresh.mean()) / (own.var() / len(own) + fresh.var() / len(fresh)).sqrt())


def _fresh_answers(c: Chatbot) -> None:
    rows, gold = answers_of(c), judged_answers(c)
    marks = [str(mark) for mark in c.bench.tokenizer.all_special_tokens]
    if marked := [text for row in rows for text in row if any(mark in text for mark in marks)]:
        raise Wrong(f"an answer is {marked[0]!r:.100}, expected the words alone, without special tokens")
    error = float((c.gold.var(1).mean() / gold.numel()).sqrt())
    if not abs(gold.mean() - c.gold.mean()) < 5 * error + 0.02:
        raise Wrong(
            f"your answers have a mean gold reward of {gold.mean():.2f}; fresh ones of your model have "
            f"{c.gold.mean():.2f} ± {error:.2f}, such as {rows[0][0]!r:.60} to "
            f"{c.bench.heldout[0][-1]['content']!r:.60}"
        )
    if all(len(set(row)) == 1 for row in rows) and (c.gold.var(1) > 0).float().mean() > 0.5:
        raise Wrong(f"the {ANSWERS} answers to a conversation are all the same, where your model would vary")
    if abs(z := surprise(c)) > 5:
        raise Wrong(
            f"your answers are {'more' if z > 0 else 'less'} probable than draws of your model at temperature 1, by "
            f"{abs(z):.0f} standard errors"
        )


def _gold(c: Chatbot) -> None:
    got, want = numbers(c.parts, "gold", len(c.bench.heldout), ANSWERS), judged_answers(c).double()
    if not torch.allclose(got, want):
        i, k = divmod(int((got - want).abs().argmax()), ANSWERS)
        raise Wrong(
            f"`gold` of answer {k} to conversation {i} is {got[i, k]:g}, expected judge({i}, answer) = {want[i, k]:g}"
        )


def by_prompt(c: Chatbot, tie: float = 0.5) -> Tensor:
    """How often each answer wins against an answer of the rival to its conversation, (M, K)."""
    difference = numbers(c.parts, "gold", len(c.bench.heldout), ANSWERS)[:, :, None] - c.bench.rival[:, None, :]
    wins: Tensor = ((difference > 0).double() + tie * (difference == 0).double()).mean(2)
    return wins


def _win_rate(c: Chatbot) -> None:
    (rate, error), wins = numbers(c.parts, "win_rate", 2).tolist(), by_prompt(c)
    if abs(rate - wins.mean()) > 1e-3:
        raise Wrong(f"your win rate is {rate:.3f}; by your gold rewards it is {wins.mean():.3f}")
    want = clustered(wins)
    if abs(error - want) > 0.02 * want:
        raise Wrong(f"your standard error is {error:.4f}, expected about {want:.4f}")


def clustered(wins: Tensor) -> float:
    """The standard error (4) of wins (M, K)."""
    return float(wins.mean(1).std() / math.sqrt(len(wins)))


STEPS = (
    Step("the texts", judged(_texts)),
    Step("tokens and mask", judged(_tokens_and_mask)),
    Step("training", judged(_training)),
    Step("fresh answers", judged(_fresh_answers)),
    Step("gold rewards", judged(_gold)),
    Step("the win rate and its error", judged(_win_rate)),
)
at_texts, at_tokens, at_training, at_answering, at_gold = (partial(at, STEPS, step.title) for step in STEPS[:5])
"""What a symptom looks for, asked only where this step is the first that is not right."""


def letters(text: str) -> str:
    """A text without its spaces, in small letters."""
    return "".join(text.casefold().split())
