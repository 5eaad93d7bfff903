"""The symptoms of notebook 04's capstone that gradients show: how tokens are weighed, and what becomes of it."""

from collections.abc import Callable

import torch
from torch import Tensor

from week6.checks.bench_04 import Record
from week6.checks.capstone import Symptom
from week6.checks.gradients_04 import NEAR, Felt, first_scale, first_wrong, leaves_adam_at, piles_up, steps_of, watched
from week6.checks.weighing import SAME, alike, line

Seen = Callable[[Record, Felt], bool]


def _weights(step: Felt) -> tuple[Tensor, Tensor]:
    """The weight of each drawn token in its gain, and its advantage."""
    here = step.drawn > 0
    return -step.got[here] / step.drawn[here], step.advantages[here]


def _share(step: Felt) -> Tensor:
    """What each token feels, as a share of what it should feel; nan where it should and does feel nothing."""
    size = float(step.want.abs().max())
    share = step.got / torch.where(step.want.abs() > NEAR * size, step.want, torch.inf)
    return torch.where((step.want.abs() <= NEAR * size) & (step.got.abs() <= NEAR * size), torch.nan, share)


def _padding(record: Record, step: Felt) -> bool:
    """Whether padding feels something, and all else what it should."""
    wrong = step.differs(step.scale)
    return bool(wrong.any()) and not bool((wrong & record.language.mask).any())


def _upside_down(record: Record, step: Felt) -> bool:
    """Whether tokens feel −A at first, and then less where ρ is larger."""
    steps = steps_of(record, 0)
    share = _share(steps[1]) * (2 * steps[1].log_rho).exp() if len(steps) > 1 else torch.ones(1)
    return step.along < NEAR - 1 and len(steps) > 1 and alike(share[share.abs() > NEAR])


def _of_one_sign(step: Felt) -> bool:
    """Whether only tokens with a good advantage count, or only those with a bad one, and those as they should."""
    w, a = _weights(step)
    return any(
        float(w[~side].abs().max()) < NEAR * float(w.abs().max()) and alike(w[side] / a[side])
        for side in (a > 0, a < 0)
    )


def _of(record: Record, name: str, step: Felt) -> Tensor:
    """A part of the first iteration, at the tokens drawn."""
    table = torch.zeros(step.drawn.shape, dtype=torch.float64)
    table[record.steps[0]["answers"]] = record.steps[0][name]
    return table[step.drawn > 0]


def _weighed_by(*names: str) -> Seen:
    """Whether the weights are a line in one of these parts, and none in the advantages."""

    def seen(record: Record, step: Felt) -> bool:
        w, a = _weights(step)
        return line(w, a) is None and any(
            record.has(name) and (found := line(w, _of(record, name, step))) is not None and abs(float(found[0])) > 0
            for name in names
        )

    return seen


def _plus_a_constant(record: Record, step: Felt) -> bool:
    w, a = _weights(step)
    found = line(w, a)
    return found is not None and abs(float(found[0])) > NEAR and abs(float(found[1])) > SAME * abs(float(found[0]))


def _by_answer(record: Record, step: Felt) -> bool:
    share = _share(step)
    return not alike(share) and all(alike(row) for row in share if bool((~row.isnan()).any()))


def _by_place(record: Record, step: Felt) -> bool:
    share = _share(step)
    return not alike(share) and all(alike(column) for column in share.T if bool((~column.isnan()).any()))


def _leash(record: Record, step: Felt) -> bool:
    """Whether what is felt beyond the gain goes by log π − log π_ref."""
    here = step.drawn > 0
    beyond = ((step.got - first_scale(record) * step.want) / step.drawn)[here]
    log_ratio = (record.language.log_probs(step.table) - record.language.log_probs(record.language.reference))[here]
    found = line(beyond, log_ratio)
    return float(log_ratio.norm()) > 0 and found is not None and abs(float(found[0])) > 0


def _to_the_reference(record: Record, step: Felt) -> bool:
    """Whether each token that feels something feels it times π/π_ref of before the batch."""
    log_ratio = record.language.log_probs(step.table) - record.language.log_probs(record.language.reference)
    off, felt = log_ratio - step.log_rho, _share(step).abs() > NEAR
    return bool((off[felt].abs() > SAME).any()) and alike((_share(step) / off.exp())[felt])


def _held(record: Record, step: Felt) -> tuple[Tensor, Tensor, bool]:
    """The tokens that the clip should hold and that feel something; those it should not hold that feel nothing; and
    whether all others feel what they should."""
    got, want = (x.abs() > NEAR * step.want.abs().max() for x in (step.got / first_scale(record), step.want))
    here = (step.drawn > 0) & (step.advantages.abs() > NEAR)
    free, cut = got & ~want & here, want & ~got
    return free, cut, not bool((step.differs(first_scale(record)) & got & want).any())


def _no_clip(record: Record, step: Felt) -> bool:
    free, cut, others = _held(record, step)
    return bool(free.any()) and others and not bool(cut.any())


def _other_clip(record: Record, step: Felt) -> bool:
    _, cut, others = _held(record, step)
    return bool(cut.any()) and others


def _without_rho(record: Record, step: Felt) -> bool:
    """Whether each token feels its advantage, whatever its ratio."""
    w, a = _weights(step)
    return alike(w / torch.where(a.abs() > NEAR, a, torch.nan))


_AT_ONCE: tuple[tuple[str, Seen, str], ...] = (
    (
        "padding in the policy loss",
        _padding,
        "padding feels something, too: it has no part in the mean of (27).",
    ),
    (
        "the ratio upside down",
        _upside_down,
        "good tokens are pushed down and bad ones up, and in the next pass it goes by 1/ρ: the new probability stands "
        "above, the old one below.",
    ),
    (
        "uphill and downhill",
        lambda record, step: step.along < NEAR - 1,
        "good tokens are pushed down and bad ones up: the sign is turned. An optimizer goes downhill; the loss is "
        "*minus* the gain.",
    ),
    (
        "one sign of the advantages",
        lambda record, step: _of_one_sign(step),
        "only the tokens with an advantage above 0 count, or only those below: in (27) both do, the good ones are "
        "pushed up and the bad ones down.",
    ),
    (
        "advantages left out of the gain",
        lambda record, step: alike(_weights(step)[0].abs()),
        "all tokens are pushed alike, whatever the size of their advantage. The gain (27) is ρ times the advantage.",
    ),
    (
        "a constant beside the advantages",
        _plus_a_constant,
        "each token is pushed by its advantage and by a constant, the same for all: is a term added to the loss, are "
        "the advantages in the gain not the whitened ones?",
    ),
    (
        "other weights in the gain",
        _weighed_by("returns", "rewards"),
        "tokens are pushed by their returns or rewards. The gain (27) is ρ times the *advantage*.",
    ),
    (
        "answers weighed differently",
        _by_answer,
        "the tokens of one answer count alike, and those of another answer with another weight, or not at all. The "
        "mean (27) is over all tokens of the batch.",
    ),
    (
        "places weighed differently",
        _by_place,
        "the first, second, third tokens of the answers count with different weights, or not at all. The mean (27) is "
        "over all tokens of the batch.",
    ),
    (
        "tokens that meet something else",
        lambda record, step: True,
        "tokens are not pushed by the advantages that you yield. Does each one meet its own advantage and its own old "
        "log-probability, and nothing else?",
    ),
)
"""Where the very first pass is wrong: there, all ratios are 1."""

_LATER: tuple[tuple[str, Seen, str], ...] = (
    (
        "the leash in the loss",
        _leash,
        "what tokens feel beyond the gain goes by log π − log π_ref: there is a leash in the loss, and it is in the "
        "rewards already.",
    ),
    (
        "ratio to the reference",
        _to_the_reference,
        "ρ compares with the reference: π/π_ref. It must compare with the policy that sampled the batch, so that it is "
        "1 at the first pass.",
    ),
)
_NEXT_BATCH: tuple[tuple[str, Seen, str], ...] = (
    *_LATER,
    (
        "a first ratio that is not 1",
        lambda record, step: True,
        "at the first pass over a later batch ρ is not 1, or something is added that the first batch did not have. Are "
        "the old log-probabilities those of the policy that wrote this batch?",
    ),
)
_NEXT_PASS: tuple[tuple[str, Seen, str], ...] = (
    *_LATER,
    (
        "no ratio",
        _without_rho,
        "every token feels its advantage, whatever its ratio: what stands for ρ has the gradient of log π, or is 1 at "
        "every pass, since the old log-probabilities are taken anew. ρ is exp(log π − log π_old), and π_old stays what "
        "it was when the batch was drawn.",
    ),
    (
        "a loss times a number",
        lambda record, step: step.along > 1 - NEAR,
        "all tokens are pushed in the right proportions, by another amount than in the pass before: the policy loss is "
        "multiplied by something that changes. It is added to the value loss.",
    ),
    (
        "no clip",
        _no_clip,
        "tokens whose ratio has left 1 ± ε still feel their gain, so the clip does not hold them: is ε used, on both "
        "sides, is it 0.2, and is the *worse* of the two gains taken?",
    ),
    (
        "another clip",
        _other_clip,
        "tokens feel nothing that should. The clip holds ρ between 1 − ε and 1 + ε, ε = 0.2, on both sides, and the "
        "*worse* of the gains with and without it counts: minimum(ρ A, clip(ρ) A).",
    ),
    (
        "another ratio",
        lambda record, step: not _held(record, step)[2],
        "tokens do not feel ρ A: what stands for ρ, exp(log π − log π_old), is something else, or a term is added to "
        "the loss.",
    ),
)


def _first_wrong_is(seen: Seen, *, batch: bool, first: bool) -> Callable[[Record], bool]:
    """A symptom of the first wrong pass: in the first batch or a later one, the first pass over it or a later one."""

    def of_record(record: Record) -> bool:
        found = first_wrong(record)
        if found is None or (first and (found[0] == 0) != batch) or (found[1] == 0) != first:
            return False
        return seen(record, found[2])

    return of_record


def _all_right(record: Record) -> bool:
    return watched(record) and first_wrong(record) is None and not piles_up(record)


def _passes(record: Record) -> int:
    return len(steps_of(record, 0))


OF_THE_GRADIENTS: tuple[Symptom, ...] = (
    Symptom(
        "few steps",
        lambda record: watched(record) and _passes(record) != 8 and first_wrong(record) is None,
        "The policy does not take eight steps on each batch: the way of each step is right, and their number is not. "
        "`epochs` are asked for.",
    ),
    *(
        Symptom(
            name,
            _first_wrong_is(seen, batch=True, first=True),
            f"In the first pass over the first batch, where every ratio is 1, {said}",
        )
        for name, seen, said in _AT_ONCE
    ),
    *(
        Symptom(
            name,
            _first_wrong_is(seen, batch=False, first=True),
            f"All that the first batch's tokens feel is right; later, {said}",
        )
        for name, seen, said in _NEXT_BATCH
    ),
    *(
        Symptom(
            name,
            _first_wrong_is(seen, batch=True, first=False),
            f"In the first pass over a batch, where every ratio is 1, all is right; in a later one, {said}",
        )
        for name, seen, said in _NEXT_PASS
    ),
    Symptom(
        "gradients that pile up",
        lambda record: piles_up(record) and first_wrong(record) is None,
        "Each pass brings the right gradient, and what is in the policy's `.grad` when the optimizer steps is more: "
        "PyTorch adds each gradient to the ones before. Set them to zero before each backward().",
    ),
)

OF_THE_STEPS: tuple[Symptom, ...] = (
    Symptom(
        "right on the first batch only",
        lambda record: (
            _all_right(record) and (where := leaves_adam_at(record)) is not None and where[0] > 0 and where[1] == 0
        ),
        "Each pass brings the right gradient, and on the first batch the steps are right; at the first step on a later "
        "one they are not. What is made or set anew in each iteration that belongs before the loop?",
    ),
    Symptom(
        "steps that are not Adam's",
        lambda record: _all_right(record) and leaves_adam_at(record) is not None,
        "Each pass brings the right gradient to the policy, so the mistake is in what is made of it: the steps are not "
        "those of one Adam with a learning rate of 0.1, made once for the whole run.",
    ),
)
