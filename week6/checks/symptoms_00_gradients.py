"""The symptoms of notebook 00's capstone that gradients show: which tokens a loss counts, and how much."""

from collections.abc import Callable

import torch
from torch import Tensor

from week6.checks.bench_00 import LOOKED_AT, Imitation, losses
from week6.checks.capstone import Symptom
from week6.checks.gradients_00 import EQUAL, Reading, reading, wrong_at
from week6.checks.symptoms_00_loss import KINDS, Batch, batch_of

Seen = Callable[[Reading, Batch], bool]


def _one_in_each(weights: Tensor, groups: Tensor, mask: Tensor) -> bool:
    """Whether tokens of one group, given by its number, count alike."""
    w, g = weights[mask], groups[mask]
    means = torch.zeros(int(g.max()) + 1).index_add(0, g, w) / torch.bincount(g).clamp(min=1)
    return float((w - means[g]).abs().max()) < 10 * EQUAL * float(w.abs().max())


def _alike(read: Reading, batch: Batch) -> bool:
    return _one_in_each(read.weights, torch.zeros_like(batch.ids), read.mask)


def _in_rows(read: Reading, batch: Batch) -> bool:
    rows = torch.arange(len(batch.ids)).unsqueeze(1).expand_as(batch.ids)
    return _one_in_each(read.weights, rows, read.mask)


def _in_places(read: Reading, batch: Batch) -> bool:
    """Whether weights go by the place in the answer, counted from either end, or in the text."""
    columns = torch.arange(batch.ids.shape[1]).expand_as(batch.ids)
    here = read.mask.long()
    return any(
        _one_in_each(read.weights, places, read.mask)
        for places in (columns, here.cumsum(1), here.flip(1).cumsum(1).flip(1))
    )


def _by_probability(read: Reading, batch: Batch) -> bool:
    """Whether tokens that are as probable count alike."""
    groups = (read.log_probs * 1e3).round().unique(return_inverse=True)[1]  # type: ignore[no-untyped-call]
    return _one_in_each(read.weights, groups, read.mask)


def _by_word(read: Reading, batch: Batch) -> bool:
    return _one_in_each(read.weights, batch.ids, read.mask)


def _others(read: Reading, batch: Batch, among: Callable[[Batch], Tensor]) -> bool:
    """Whether all that counts beside the answers, if something does, is among these."""
    others = read.counted & ~read.mask
    return bool(others.any()) and not bool((others & ~among(batch)).any())


def _missing(read: Reading) -> Tensor:
    return read.mask & ~read.counted


def _only(read: Reading, batch: Batch, kind: str) -> bool:
    """Whether all tokens of this kind are left out, and no other of the answers."""
    return bool(_missing(read).any()) and torch.equal(_missing(read), KINDS[kind][1](batch))


def _rows_left_out(read: Reading, batch: Batch) -> bool:
    missing = _missing(read)
    return bool(missing.any()) and torch.equal(missing, read.mask & ~read.counted.any(1, keepdim=True))


def _uneven(read: Reading, batch: Batch) -> bool:
    return torch.equal(read.counted, read.mask) and not _alike(read, batch)


_REASONS: tuple[tuple[str, Seen, str], ...] = (
    (
        "a part past the forecasts",
        lambda read, batch: float(read.rest.max()) < 0.01 * read.size and read.beside > 0.01 * read.size,
        "A part of it reaches the weights past the forecasts, such as a penalty on the weights. (2) is made of "
        "log-probabilities alone.",
    ),
    (
        "more than the tokens that came",
        lambda read, batch: not read.of_tokens,
        "It is no weighted sum of log π of the tokens that came: it pulls at the forecasts in another way, too. Is a "
        "term added to (2), such as an entropy, a penalty, a smoothing of the targets?",
    ),
    (
        "the right tokens, upside down",
        lambda read, batch: torch.equal(read.counted, read.mask) and bool((read.weights[read.mask] < 0).all()),
        "It counts the right tokens, with the wrong sign: a step down this loss makes the demonstrations *less* "
        "probable.",
    ),
    (
        "another weight for all",
        lambda read, batch: torch.equal(read.counted, read.mask) and _alike(read, batch),
        "It counts the right tokens, all alike, and each with another weight than 1/Σ m: what it is divided by is not "
        "the number of tokens that count in this batch.",
    ),
    (
        "rows that count differently",
        lambda read, batch: _uneven(read, batch) and _in_rows(read, batch),
        "It counts the right tokens, those of one answer alike, and those of another answer with another weight. In "
        "(2) every token counts alike, whichever answer it is in.",
    ),
    (
        "weights by the probability",
        lambda read, batch: _uneven(read, batch) and _by_probability(read, batch) and not _in_places(read, batch),
        "It counts the right tokens, and how much each counts goes by how probable it is: what is averaged is another "
        "figure than −log π.",
    ),
    (
        "weights by the place",
        lambda read, batch: _uneven(read, batch) and _in_places(read, batch),
        "It counts the right tokens, and how much each counts goes by its place in the answer or in the text. In (2) "
        "every token counts alike.",
    ),
    (
        "weights by the word",
        lambda read, batch: _uneven(read, batch) and _by_word(read, batch),
        "It counts the right tokens, and how much each counts goes by which word it is. In (2) every token counts "
        "alike.",
    ),
    (
        "tokens that count differently",
        _uneven,
        "It counts the right tokens, and not alike. In (2) every token has the same weight, 1/Σ m.",
    ),
    (
        "whole answers left out",
        lambda read, batch: _rows_left_out(read, batch) and not bool((read.counted & ~read.mask).any()),
        "Some demonstrations of the batch do not count in it at all. (2) is over all of them.",
    ),
    (
        "ends left out",
        lambda read, batch: _only(read, batch, "end") and not bool((read.counted & ~read.mask).any()),
        "It leaves out the end of the answers, which `is_answer` counts as well: who never learns to end goes on.",
    ),
    (
        "first tokens left out",
        lambda read, batch: _only(read, batch, "first") and not bool((read.counted & ~read.mask).any()),
        "It leaves out the first token of the answers, which `is_answer` counts as well.",
    ),
    (
        "answers left out",
        lambda read, batch: bool(_missing(read).any()) and not bool((read.counted & ~read.mask).any()),
        "It counts only some of the tokens of the answers: the others, where `is_answer` is True as well, have no part "
        "in it.",
    ),
    (
        "answers left out, others counted",
        lambda read, batch: bool(_missing(read).any()),
        "It leaves out tokens of the answers and counts others: its mask is not that of its tokens. Log-probability "
        "and mask are of the same rows and the same columns, `[:, 1:]` of both.",
    ),
    (
        "prompts counted",
        lambda read, batch: _others(read, batch, lambda b: b.real),
        "It counts tokens of the prompts, too. (2) counts where `is_answer` is True, and nowhere else.",
    ),
    (
        "padding counted",
        lambda read, batch: _others(read, batch, lambda b: ~b.real),
        "It counts padding, too. (2) counts where `is_answer` is True, and nowhere else.",
    ),
    (
        "prompts and padding counted",
        lambda read, batch: bool((read.counted & ~read.mask).any()),
        "It counts tokens of the prompts and padding, too. (2) counts where `is_answer` is True, and nowhere else.",
    ),
)


def _of_the_first_wrong(seen: Seen, *, right: bool) -> Callable[[Imitation], bool]:
    """A symptom of the first wrong gradient, where the losses yielded are right, or where they are not."""

    def of_record(record: Imitation) -> bool:
        step, said = wrong_at(record), losses(record)
        if step is None or said is None or (said == "") != right:
            return False
        read = reading(record, step)
        return read is not None and read.size > 0 and seen(read, batch_of(record, step))

    return of_record


def _yields_another(record: Imitation) -> bool:
    known = all(reading(record, step) is not None for step in range(min(LOOKED_AT, len(record.parts))))
    return losses(record) not in ("", None) and known and wrong_at(record) is None


OF_THE_GRADIENT: tuple[Symptom, ...] = (
    Symptom(
        "another number yielded",
        _yields_another,
        "What goes backward is the loss (2), and what you yield as `loss` is another number.",
    ),
    *(
        Symptom(
            name,
            _of_the_first_wrong(seen, right=False),
            f"The gradient of your loss shows what is in it. {said}",
        )
        for name, seen, said in _REASONS
    ),
    *(
        Symptom(
            f"trained: {name}",
            _of_the_first_wrong(seen, right=True),
            f"The loss that you yield is right; what goes backward is another one, as its gradient shows. {said}",
        )
        for name, seen, said in _REASONS
    ),
)
