"""The symptoms of notebook 04's capstone in the advantages."""

from collections.abc import Callable

import torch
from torch import Tensor

from week6.checks.bench_04 import Record
from week6.checks.capstone import Symptom
from week6.checks.counterfactual import Slip, slips
from week6.checks.steps_04 import advantages, differs, shaped
from week6.checks.symptoms_04_returns import (
    FIRST,
    OF_THE_RETURNS,
    gae_of,
    old_values,
    to_go,
    total,
    values_after,
    white,
)
from week6.checks.symptoms_04_rewards import last_real
from week6.log_probs import masked_whiten
from week6.ppo import gae

Form = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(rewards, values, mask), (B, T) each -> advantages before they are whitened."""


def _by_token(record: Record, i: int) -> Tensor:
    tokens = record.language.tokens[record.steps[i]["answers"]]
    return torch.zeros(tokens.shape).double() if i == 0 else record.steps[i - 1]["values"][tokens]


def _by_row(x: Tensor, mask: Tensor) -> Tensor:
    mean = (x * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True)
    variance = ((x - mean).square() * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True)
    return (x - mean) / (variance + 1e-8).sqrt()


def _by_column(x: Tensor, mask: Tensor) -> Tensor:
    return torch.stack(
        [masked_whiten(x[:, t], mask[:, t]) if mask[:, t].any() else x[:, t] for t in range(x.shape[1])], 1
    )


def _everywhere(x: Tensor, mask: Tensor) -> Tensor:
    return (x - x.mean()) / x.std()


def _advantages_are(
    record: Record,
    *,
    form: Form = gae_of,
    values: Callable[[Record, int], Tensor] = old_values,
    rewards: Callable[[Record, int], Tensor] = lambda record, i: record.shaped(i),
    whiten: Callable[[Tensor, Tensor], Tensor] = masked_whiten,
) -> bool:
    """Whether the advantages of the first iterations are these, and “advantages and returns” is not right."""
    if not advantages(record) or _none(record):
        return False
    for i in range(FIRST):
        mask = record.batch(i)[3]
        want = whiten(form(rewards(record, i), values(record, i), mask), mask)
        if differs(record.steps[i]["advantages"], want, mask, 0.01, ""):
            return False
    return not _all_right(record)


def _none(record: Record) -> bool:
    """Whether all advantages of the first batch are 0."""
    return not bool(record.steps[0]["advantages"].any())


def _all_right(record: Record) -> bool:
    """Whether the advantages are right, so that it is the returns which are not."""
    return all(
        not differs(record.steps[i]["advantages"], white(record, i), record.batch(i)[3], 0.02, "") for i in range(FIRST)
    )


def _other_critic(record: Record) -> bool:
    """Whether the values behind the advantages lie nearer to the critic after the steps than to the one before.

    returns − values are the advantages before they were whitened, σ a + μ: linear in the table of values, σ and μ,
    which a least-squares fit finds.
    """
    if not advantages(record):
        return False
    for i in range(1, FIRST):
        step, mask = record.steps[i], record.batch(i)[3]
        rows = record.language.rows[step["answers"]][mask]
        one_hot = torch.nn.functional.one_hot(rows, len(step["values"])).double()
        seen = one_hot.sum(0) > 0
        unknown = torch.cat([one_hot[:, seen], step["advantages"][mask][:, None]], 1)
        found = torch.linalg.lstsq(unknown, step["returns"][mask][:, None], driver="gelsd").solution
        if float((unknown @ found - step["returns"][mask][:, None]).abs().max()) > 1e-3:
            return False
        before, after = record.steps[i - 1]["values"][seen], step["values"][seen]
        shift = [v - v.mean() for v in (found[:-1, 0], before, after)]  # μ cannot be told from the values' mean
        if not (shift[0] - shift[2]).norm() < (shift[0] - shift[1]).norm():
            return False
    return True


def _with(gamma: float, lam: float) -> Form:
    return lambda rewards, values, mask: gae(rewards, values, mask, gamma, lam)[0]


_FORM = (
    Slip(
        "λ = 1",
        (_with(1.0, 1.0),),
        "The advantages are reward-to-go minus value: λ is 1. Here λ = 0.95 is asked for.",
    ),
    Slip(
        "λ = 0",
        (_with(1.0, 0.0),),
        "The advantages are TD errors: λ is 0, so all trust is in a critic that knows nothing at first. Here λ = 0.95 "
        "is asked for.",
    ),
    Slip(
        "another γ or λ",
        tuple(
            _with(g, lam)
            for g, lam in (
                *((1.0, lam) for lam in (0.5, 0.9, 0.95**2, 0.97, 0.99)),
                *((g, lam) for g in (0.9, 0.95, 0.99) for lam in (0.95, 1.0)),
            )
        ),
        "The advantages are those of another γ or λ. Here γ = 1 and λ = 0.95 are asked for, the defaults of `gae`.",
    ),
    Slip(
        "returns for advantages",
        (
            lambda rewards, values, mask: rewards,
            lambda rewards, values, mask: to_go(rewards),
            lambda rewards, values, mask: gae_of(rewards, values, mask) + values,
            lambda rewards, values, mask: total(rewards, mask),
        ),
        "The advantages are whitened rewards or returns. An advantage is how much better it went than the critic "
        "expected.",
    ),
    Slip(
        "one advantage an answer",
        (
            lambda rewards, values, mask: total(gae_of(rewards, values, mask), mask),
            lambda rewards, values, mask: total(gae_of(rewards, values, mask), mask) / mask.sum(1, keepdim=True),
            lambda rewards, values, mask: total(rewards, mask) - values,
            lambda rewards, values, mask: total(rewards, mask) - total(values, mask) / mask.sum(1, keepdim=True),
            lambda rewards, values, mask: gae_of(rewards, values, mask)[:, :1].expand_as(rewards),
        ),
        "The tokens of an answer share one advantage or one return. Each has its own: what comes from there on, not "
        "what was paid before.",
    ),
    Slip(
        "the past for the future",
        (
            lambda rewards, values, mask: rewards.cumsum(1) - values,
            lambda rewards, values, mask: gae_of(rewards.flip(1), values.flip(1), torch.ones_like(mask)).flip(1),
        ),
        "Your sums run from the beginning of the answer on: what was paid before a token. It can only influence what "
        "comes from there on: go backwards.",
    ),
    Slip(
        "a value after the end",
        (
            lambda rewards, values, mask: gae_of(rewards + last_real(mask) * values, values, mask),
            lambda rewards, values, mask: gae_of(rewards + last_real(mask) * values[:, :1], values, mask),
            lambda rewards, values, mask: gae_of(rewards - values + values.roll(-1, dims=1), 0 * values, mask),
        ),
        "Something is still to come after the last real token in your advantages: a value. There it is 0, since the "
        "answer is complete.",
    ),
    Slip(
        "padding counted",
        (lambda rewards, values, mask: gae_of(rewards, values, torch.ones_like(mask)),),
        "Padding enters the advantages. A critic says something at padding too, and a mean over all places counts "
        "zeros that no token has earned: give the mask to GAE and to the whitening.",
    ),
)
_VALUES = (
    Slip(
        "no values",
        (lambda record, i: 0 * old_values(record, i),),
        "There is no critic in your advantages: the values are 0. An advantage is how much better it went than the "
        "critic expected.",
    ),
    Slip(
        "the critic of after",
        (values_after,),
        "The values in your advantages are those after the steps on the batch. Note what the critic said *before* the "
        "first of them.",
    ),
    Slip(
        "values of other tokens",
        (
            _by_token,
            lambda record, i: old_values(record, i).roll(1, dims=1),
            lambda record, i: old_values(record, i).roll(-1, dims=1),
            lambda record, i: old_values(record, max(i - 1, 0))[: len(record.steps[i]["answers"])],
        ),
        "The values in your advantages are read at other places: the critic has a row for each *prefix*, "
        "`language.rows[y]`, the one before the token.",
    ),
)
_REWARDS = (
    Slip(
        "advantages without the leash",
        (lambda record, i: record.shaped(i, 0.0),),
        "Your advantages are made of the score alone. What is paid for the log-ratio belongs into them: the rewards as "
        "they are.",
    ),
    Slip(
        "advantages without the score",
        (lambda record, i: record.shaped(i) - record.shaped(i, 0.0),),
        "Your advantages are made of the leash alone. The score belongs into them: the rewards as they are.",
    ),
)
_WHITEN = (
    Slip(
        "not whitened",
        (lambda x, mask: x,),
        "The advantages are right, but not whitened: (31) gives them mean 0 and variance 1.",
    ),
    Slip(
        "whitened answer by answer",
        (_by_row, _by_column),
        "Each answer, or each column, was whitened by itself. Then good and bad answers look alike. (31) takes mean "
        "and variance over all tokens of the batch.",
    ),
    Slip(
        "zeros whitened",
        (_everywhere, lambda x, mask: _everywhere(x * mask, mask)),
        "Padding enters the whitening: a mean over all places counts zeros that no token has earned. Give it the mask.",
    ),
    Slip(
        "advantages turned round",
        (lambda x, mask: -masked_whiten(x, mask), lambda x, mask: -x),
        "The advantages have the wrong sign: what turned out better than expected is negative.",
    ),
    Slip(
        "half whitened",
        (
            lambda x, mask: x - x[mask].mean(),
            lambda x, mask: x / x[mask].std(),
            lambda x, mask: masked_whiten(x, mask) + x[mask].mean(),
            lambda x, mask: (x - x[mask].mean()) / x[mask].var(),
            lambda x, mask: x / x[mask].abs().max(),
            lambda x, mask: x / x[mask].norm(),
        ),
        "The advantages have either not mean 0 or not variance 1: (31) subtracts the mean and divides by the standard "
        "deviation.",
    ),
    Slip(
        "advantages cut off",
        (
            *(lambda x, mask, c=c: masked_whiten(x, mask).clamp(-c, c) for c in (0.5, 1.0, 2.0, 3.0)),
            lambda x, mask: masked_whiten(x, mask).clamp(min=0),
            lambda x, mask: masked_whiten(x, mask).abs(),
            lambda x, mask: masked_whiten(x, mask).sign(),
            lambda x, mask: masked_whiten(x, mask).tanh(),
        ),
        "After the whitening the advantages are cut off, or lose their sign or their size. They stay as they are: the "
        "clip of PPO is on the ratio.",
    ),
)


def _wrong_advantages(record: Record) -> set[bool]:
    """Of each iteration with wrong advantages from right rewards: whether it is the first, where the critic is 0."""
    if shaped(record) != "" or not advantages(record):
        return set()
    return {
        i == 0
        for i in range(FIRST)
        if differs(record.steps[i]["advantages"], white(record, i), record.batch(i)[3], 0.02, "")
    }


def _are_white(record: Record) -> bool:
    """Whether all advantages have mean 0 and variance 1 over the real tokens."""
    for i in range(FIRST):
        a = record.steps[i]["advantages"][record.batch(i)[3]]
        if abs(float(a.mean())) > 0.01 or abs(float(a.std()) - 1) > 0.02:
            return False
    return True


OF_THE_ADVANTAGES: tuple[Symptom, ...] = (
    Symptom(
        "no advantages",
        lambda record: bool(advantages(record)) and _none(record),
        "All advantages of the first batch are 0, where the critic still says 0 everywhere: what is taken away from "
        "the rewards is not its values.",
    ),
    *slips(_advantages_are, whiten=_WHITEN, form=_FORM, values=_VALUES, rewards=_REWARDS),
    *OF_THE_RETURNS,
    Symptom(
        "advantages anew at each step",
        _other_critic,
        "The values in your advantages are not those that the critic had before the steps on the batch. They are made "
        "once, before the first step: from then on they are plain numbers.",
    ),
    Symptom(
        "something in the values",
        lambda record: _wrong_advantages(record) == {False},
        "In the first iteration, where the critic still says 0 everywhere, your advantages are right; later they are "
        "not. So the sums are right, and the values in them are not: at each token what the critic said of the prefix "
        "before it, before the steps on the batch, and 0 after the last.",
    ),
    Symptom(
        "something in the whitening",
        lambda record: bool(_wrong_advantages(record)) and not _are_white(record),
        "Your advantages have not mean 0 and variance 1 over the real tokens of the batch (31).",
    ),
    Symptom(
        "something in the sums",
        lambda record: True in _wrong_advantages(record),
        "Your advantages are wrong in the first iteration already, where the critic says 0 everywhere, though they "
        "have mean 0 and variance 1. So it is the sums: from the last token backwards, with γ = 1 and λ = 0.95 (22).",
    ),
    Symptom(
        "something in the targets",
        lambda record: shaped(record) == "" and bool(advantages(record)) and not _wrong_advantages(record),
        "Your advantages are right and your returns are not: (24) adds to each advantage, before it is whitened, the "
        "value that was taken away in it, of the same token.",
    ),
)
