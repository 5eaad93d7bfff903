"""The symptoms of notebook 00's capstone: those of the batches, and then of one part after the other."""

from collections.abc import Callable

import torch
from torch import Tensor

from week6.checks.bench_00 import BATCH_SIZE, EPOCHS, Imitation, batches, distance, of_tokens
from week6.checks.capstone import Symptom
from week6.checks.symptoms_00_forecasts import OF_THE_FORECASTS
from week6.checks.symptoms_00_gradients import OF_THE_GRADIENT
from week6.checks.symptoms_00_loss import OF_THE_LOSS
from week6.checks.symptoms_00_update import OF_THE_UPDATE


def _same(record: Imitation) -> bool:
    return all(torch.equal(part["rows"], record.parts[0]["rows"]) for part in record.parts)


def _of_batches(seen: Callable[[Tensor, int], bool]) -> Callable[[Imitation], bool]:
    """A symptom of wrong batches: a function of the rows, epoch by epoch, and of the number of demonstrations."""

    def of_record(record: Imitation) -> bool:
        if batches(record) in (None, "") or len(record.parts) != record.steps:
            return False
        return seen(torch.cat([part["rows"].flatten() for part in record.parts]).view(EPOCHS, -1), len(record.ids))

    return of_record


def _covered(epoch: Tensor, n: int) -> float:
    return len(set(epoch.tolist())) / n


def _counts(epochs: Tensor, n: int) -> set[int]:
    """How often the demonstrations come."""
    return set(torch.bincount(epochs.flatten(), minlength=n).tolist())


def _of_others(record: Imitation) -> bool:
    """Whether the first log_probs are right for other demonstrations than `rows` says."""
    part = record.parts[0]
    every = of_tokens(record.tables[0], record.ids)
    got, own = part["log_probs"], every[part["rows"]]
    if got.shape != own.shape or distance(got, own) < 1e-3:
        return False
    return float((got[:, None] - every[None]).abs().amax(-1).min(1).values.max()) < 1e-3


_OF_THE_BATCHES: tuple[Symptom, ...] = (
    Symptom(
        "other demonstrations than told",
        _of_others,
        "Your `log_probs` belong to other demonstrations than `rows` says: was the data put in another order, or is "
        "something read at places within the batch? `rows` are the numbers in the data as it came.",
    ),
    Symptom(
        "batches of another size",
        lambda record: any(part["rows"].numel() != BATCH_SIZE for part in record.parts),
        "Your batches have not `batch_size` demonstrations each. A slice [a : b] holds those from a to b − 1.",
    ),
    Symptom(
        "always the same rows",
        _same,
        "Every step has the same rows: the model sees one batch and never the other demonstrations.",
    ),
    Symptom(
        "one order for all epochs",
        _of_batches(lambda epochs, n: bool((epochs == epochs[0]).all()) and _covered(epochs[0], n) == 1),
        "Every epoch has the same order. Draw a new one in each: torch.randperm inside the loop over the epochs.",
    ),
    Symptom(
        "drawn with repeats",
        _of_batches(lambda epochs, n: 0.5 < _covered(epochs[0], n) < 0.75),
        "In an epoch some demonstrations come several times and others never: they are drawn anew each time. Shuffle "
        "all of them, and go through.",
    ),
    Symptom(
        "one batch several times in a row",
        _of_batches(lambda epochs, n: _covered(epochs[0], n) < 0.5 and _counts(epochs, n) == {EPOCHS}),
        "Over the whole run each demonstration comes as often as it should, but not once in each pass: a batch comes "
        "several times in a row. The loop over the epochs is the outer one, and inside it is that over the batches.",
    ),
    Symptom(
        "demonstrations that never come",
        _of_batches(lambda epochs, n: 0 in _counts(epochs, n) and _counts(epochs[:1], n) != {0, 1}),
        "Some demonstrations never come, in all of the run: what is drawn or cut is not all of 0 … N − 1.",
    ),
    Symptom(
        "another number of steps",
        lambda record: batches(record) not in (None, "") and len(record.parts) != record.steps,
        "The number of steps is not that of `epochs` passes over all demonstrations, `batch_size` of them a step.",
    ),
)

SYMPTOMS = (*_OF_THE_BATCHES, *OF_THE_FORECASTS, *OF_THE_LOSS, *OF_THE_GRADIENT, *OF_THE_UPDATE)
