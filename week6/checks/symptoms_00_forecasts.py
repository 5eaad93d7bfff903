"""The symptoms of wrong log-probabilities in notebook 00's capstone."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from week6.checks.bench_00 import Imitation, distance, forecasts, of_tokens
from week6.checks.capstone import Symptom
from week6.checks.counterfactual import Slip, slips
from week6.checks.gradients_00 import asked_rightly


def _log_softmax(logits: Tensor, mask: Tensor) -> Tensor:
    return logits.log_softmax(-1)


def _log_probs_are(
    record: Imitation,
    *,
    read: Callable[[Tensor, Tensor], Tensor] = _log_softmax,
    shift: int = 1,
    rows: tuple[bool, bool] = (False, False),
    shown: Callable[[Tensor, Tensor], Tensor] = lambda p, mask: p,
) -> bool:
    """Whether the first step's log_probs are wrong, and these.

    read    (logits (B, L, V), mask (B, L)) -> what is read from
    shift   so many columns before a token stands the forecast that is read
    rows    whether the forecasts, the tokens, are those of the first rows of the data in place of the batch's
    shown   what is made of them in the end; the columns at the ends may be left out
    """
    got, batch = record.parts[0]["log_probs"], record.parts[0]["rows"]
    first = torch.arange(len(batch))
    asked, tokens = (record.ids[first if other else batch] for other in rows)
    mask = record.is_answer[batch]
    forecast, k = read(record.tables[0][asked], mask), len(tokens[0])
    columns = torch.arange(max(shift, 0), k + min(shift, 0))  # of the tokens
    want = forecast[:, columns - shift].gather(-1, tokens[:, columns].unsqueeze(-1)).squeeze(-1)
    want = shown(want, mask[:, columns])
    ends = (want,) if shift == 1 else (want, want[:, 1:], want[:, :-1])
    return distance(got, of_tokens(record.tables[0], record.ids[batch])) > 1e-3 > min(distance(got, w) for w in ends)


_READ = (
    Slip(
        "logits",
        (lambda logits, mask: logits,),
        "Those are logits. They become log-probabilities by `log_softmax` over the vocabulary, the last axis.",
    ),
    Slip(
        "probabilities",
        (lambda logits, mask: logits.softmax(-1),),
        "Those are probabilities, between 0 and 1. Equation (2) needs their logarithms.",
    ),
    Slip(
        "softmax over the wrong axis",
        (lambda logits, mask: logits.log_softmax(1), lambda logits, mask: logits.log_softmax(0)),
        "Your softmax runs along the text, or over the batch. The probabilities of the *vocabulary* sum to 1: the last "
        "axis, −1.",
    ),
    Slip(
        "softmax twice",
        (
            lambda logits, mask: logits.softmax(-1).log_softmax(-1),
            lambda logits, mask: logits.softmax(-1).softmax(-1).log(),
        ),
        "The softmax is taken twice: `log_softmax` takes logits, not probabilities. One of the two is enough.",
    ),
    Slip(
        "masked before the softmax",
        (
            lambda logits, mask: (logits * mask.unsqueeze(-1)).log_softmax(-1),
            lambda logits, mask: logits.masked_fill(~mask.unsqueeze(-1), 0).log_softmax(-1),
        ),
        "The logits are set to 0 before the softmax, which makes all tokens alike there. The mask comes last, in the "
        "loss.",
    ),
    Slip(
        "another temperature",
        tuple(lambda logits, mask, t=t: (logits / t).log_softmax(-1) for t in (0.5, 0.7, 0.8, 1.25, 1.5, 2.0)),
        "The logits are divided by something before the softmax. The model is trained as it is: at temperature 1.",
    ),
)
_SHIFT = (
    Slip(
        "no shift",
        (0,),
        "You ask the model how probable a token is *after itself*. Column k of the logits forecasts token k + 1: pair "
        "`logits[:, :-1]` with `ids[:, 1:]`.",
    ),
    Slip(
        "shift to the wrong side",
        (-1,),
        "You ask how probable the token *before* is. Column k of the logits forecasts token k + 1, the one after.",
    ),
    Slip(
        "shifted twice",
        (2, 3),
        "You ask how probable the token after the next is: the text is shifted twice. Column k of the logits forecasts "
        "token k + 1.",
    ),
)
_ROWS = (
    Slip(
        "other rows",
        ((True, False), (False, True), (True, True)),
        "Your forecasts or the tokens they are read at are not those of the batch: `rows` are drawn, and every table "
        "has to be taken at `rows`, not at the first ones.",
    ),
)
_SHOWN = (
    Slip(
        "negative log-probabilities",
        (lambda p, mask: -p,),
        "Those are −log π. `log_probs` are the logarithms themselves, negative numbers; the minus of (2) comes with "
        "the loss.",
    ),
    Slip(
        "masked already",
        (lambda p, mask: p * mask, lambda p, mask: p.masked_fill(~mask, -math.inf)),
        "Your `log_probs` are right at the answers, and something else stands everywhere else. Every token has its own "
        "here; the mask comes with the loss.",
    ),
    Slip(
        "a column is missing",
        (lambda p, mask: p[:, :-1], lambda p, mask: p[:, 1:]),
        "The numbers are right, and a column at one end is missing. Of L tokens all but the first have a forecast: "
        "L − 1 columns. The last column of the *logits* goes, and the first of the *tokens*: nothing else.",
    ),
    Slip(
        "one number a row",
        (lambda p, mask: p.sum(1), lambda p, mask: (p * mask).sum(1), lambda p, mask: p.mean(1)),
        "You have one number for each row. Every token has its own here; the sum comes with the loss.",
    ),
    Slip(
        "added up along the text",
        (lambda p, mask: p.cumsum(1),),
        "Your numbers are sums from the beginning of the text on. Every token has its own here.",
    ),
)


def _one_factor(record: Imitation) -> bool:
    """Whether the first log_probs are the right ones times a constant that is not 1."""
    got, want = record.parts[0]["log_probs"], of_tokens(record.at(0), record.ids[record.parts[0]["rows"]])
    ratio = (got / want)[want < -0.1]
    mean = float(ratio.mean())
    return got.shape == want.shape and abs(mean - 1) > 1e-2 and float(ratio.std()) < 1e-3 * abs(mean)


def _right_forecast(record: Imitation) -> tuple[Tensor, Tensor, Tensor]:
    """The log_probs of the first step as they came, the forecasts (B, L − 1, V), and the right log_probs."""
    rows = record.parts[0]["rows"]
    forecast = record.tables[0][record.ids[rows][:, :-1]].log_softmax(-1)
    return record.parts[0]["log_probs"], forecast, of_tokens(record.tables[0], record.ids[rows])


def _in_another_order(record: Imitation) -> bool:
    got, _, want = _right_forecast(record)
    return distance(got, want) > 1e-3 > distance(got.flatten().sort().values, want.flatten().sort().values)


def _of_other_tokens(record: Imitation) -> bool:
    """Whether every number stands in its own forecast, at some token."""
    got, forecast, want = _right_forecast(record)
    if got.shape != want.shape or distance(got, want) < 1e-3:
        return False
    return float((forecast - got.unsqueeze(-1)).abs().min(-1).values.max()) < 1e-3


def _of_other_weights(record: Imitation) -> bool:
    """Whether the forecasts are right at first, and later neither stay nor are those of the model."""
    now = [distance(part["log_probs"], of_tokens(record.at(step), record.ids[part["rows"]])) for step, part in
           enumerate(record.parts)]  # fmt: skip
    return now[0] < 1e-3 < max(now) and torch.equal(record.tables[0], record.tables[-1])


def _of_the_start(record: Imitation) -> bool:
    """Whether all forecasts are those of the first weights, though the weights move."""
    moved = not torch.equal(record.tables[0], record.tables[-1])
    return moved and all(
        distance(part["log_probs"], of_tokens(record.tables[0], record.ids[part["rows"]])) < 1e-3
        for part in record.parts
    )


def _wrong_outside_answers(record: Imitation) -> bool:
    got, _, want = _right_forecast(record)
    if got.shape != want.shape:
        return False
    counted, wrong = record.is_answer[record.parts[0]["rows"]][:, 1:], ~((got - want).abs() < 1e-3)
    return bool(wrong.any()) and not bool((wrong & counted).any())


def _right_at_first(record: Imitation) -> bool:
    got, _, want = _right_forecast(record)
    return distance(got, want) < 1e-3 and forecasts(record) not in ("", None)


OF_THE_FORECASTS: tuple[Symptom, ...] = (
    *slips(_log_probs_are, read=_READ, shift=_SHIFT, rows=_ROWS, shown=_SHOWN),
    Symptom(
        "another unit",
        _one_factor,
        "Your `log_probs` are the right ones times a constant: logarithms here are natural, at temperature 1.",
    ),
    Symptom(
        "log-probabilities in another order",
        _in_another_order,
        "Your `log_probs` are the right numbers in another order: was something flattened, transposed or put in other "
        "rows on the way? Row i, column k is token k + 1 of the i-th of `rows`.",
    ),
    Symptom(
        "log-probabilities of other tokens",
        _of_other_tokens,
        "Your numbers stand in the right forecasts, at other tokens than those of the text, such as the likeliest. The "
        "loss asks for the token that came.",
    ),
    Symptom(
        "forecasts of another model",
        _of_other_weights,
        "Your `log_probs` change from step to step, and the weights of `model` do not: you train something else, "
        "such as a copy. Train the model that came, in place.",
    ),
    Symptom(
        "forecasts of the start",
        _of_the_start,
        "All your `log_probs` are those of the untrained model. Ask it anew in each step.",
    ),
    Symptom(
        "other texts asked about",
        lambda record: forecasts(record) not in ("", None) and not asked_rightly(record, 0),
        "The model is asked about other texts than the demonstrations of `rows`: all of a row of `ids` goes in, prompt "
        "and answer, at its own columns.",
    ),
    Symptom(
        "log-probabilities right at the answers only",
        _wrong_outside_answers,
        "Your `log_probs` are right at the answers, and something else stands everywhere else. Every token has its own "
        "here; the mask comes with the loss.",
    ),
    Symptom(
        "right at first, then not",
        _right_at_first,
        "Your `log_probs` are right in the first step, and in a later one they are not those of the weights that the "
        "step before has left: what happens between the two, to the weights or to what you keep?",
    ),
    Symptom(
        "something made of the right logits",
        lambda record: (
            forecasts(record) not in ("", None)
            and any(record.passes)
            and asked_rightly(record, 0)
            and distance(record.parts[0]["log_probs"], of_tokens(record.at(0), record.ids[record.parts[0]["rows"]]))
            > 1e-3
        ),
        "The model is asked about the right texts, so the mistake is in what is made of its logits: the log-softmax "
        "over the vocabulary of column k, read at the token of column k + 1, and nothing else.",
    ),
)
