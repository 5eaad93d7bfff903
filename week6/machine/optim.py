"""One gradient step, and the order in which a training loop sees its data.

Both are functions of (seed, step) alone: a run that was interrupted continues with the same numbers and no stored
random state.
"""

import math
from collections.abc import Callable, Collection
from typing import Protocol, Self, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from week6.machine import validate as check
from week6.machine.compute import Batch, compute, every_process, sum_gradients, training_bytes

Stats = dict[str, float]


@check.arguments
def make_optimizer(model: nn.Module, learning_rate: float, eps: float = 1e-8) -> torch.optim.AdamW:
    """AdamW without weight decay (fine-tuning is pulled to the reference by KL, not to zero)."""
    check.positive("learning_rate", learning_rate)
    check.positive("eps", eps)
    trainable = [p for p in model.parameters() if p.requires_grad]
    if not trainable:
        raise ValueError("model: got one without weights to train, expected some with requires_grad")
    return torch.optim.AdamW(trainable, lr=learning_rate, betas=(0.9, 0.98), eps=eps, weight_decay=0.0, fused=True)


class TrainingBatch(Batch, Protocol):
    """A batch to take a gradient step on."""

    @property
    def weights(self) -> Tensor:
        """(B,) what each row counts in a mean over the batch: its answer's tokens, or 1 where a row counts as one."""


B = TypeVar("B", bound=TrainingBatch)


def gradient_step(
    loss: Callable[[B], tuple[Float[Tensor, ""], Stats]],
    batch: B,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    max_norm: float = 1.0,
    maxima: Collection[str] = (),
) -> Stats:
    """One step down the gradient of `loss(batch)`, clipped to `max_norm`.

    `loss(part)` returns L_p, a mean over what the part's rows consist of (tokens, or rows), and stats that are means
    over the same. The batch is cut into parts p that fit the memory, and divided among processes:

        L = Σ_p w_p L_p / Σ_p w_p,      w_p = the sum of the `weights` of the part's rows

    so that L, its gradient and the stats do not depend on how it is cut. Stats named in `maxima` are maxima. In fp16
    a step whose gradient overflows is repeated with a smaller scale.

    Returns "loss", the stats, and "grad_norm" before clipping. Raises ValueError when the loss or its gradient is not
    finite, before any weight has changed, when the loss does not depend on a weight that can be trained, and for an
    optimizer of another model.
    """
    own = {id(p) for p in model.parameters()}
    if not any(id(p) in own for group in optimizer.param_groups for p in group["params"]):
        raise ValueError(
            "optimizer: got one of other weights, expected one of the model's: make_optimizer(model, learning_rate)"
        )
    here, row_bytes = compute(), training_bytes(model, *batch.columns)
    weights = batch.weights
    total = float(weights.sum())

    def add_gradient(part: slice) -> tuple[float, float, Stats]:
        share = float(weights[part].sum()) / total
        value, stats = loss(batch.rows(part))
        if not torch.isfinite(value):
            raise check.UnusableError(
                f"loss: got {value.item()}, expected a finite number; look at the rewards and learning rate"
            )
        if not value.requires_grad:
            raise ValueError("model: got one without a weight that can be trained, expected one that has some")
        scaled = here.scaler.scale(value * share)
        scaled.backward(retain_graph=here.scaler.is_enabled())  # type: ignore[no-untyped-call]  # kept to be repeated
        return share, value.item(), stats

    while True:
        found = every_process(lambda: here.parts(add_gradient, len(batch), row_bytes, start=optimizer.zero_grad))
        sum_gradients(model)
        here.scaler.unscale_(optimizer)
        norm = float(nn.utils.clip_grad_norm_(model.parameters(), max_norm))
        if math.isfinite(norm):
            break
        scale = here.scaler.get_scale()  # 1 but in fp16
        if scale <= 1:
            raise check.UnusableError(
                f"gradient: got norm {norm}, expected a finite one; look at the rewards and learning rate"
            )
        here.scaler.update(scale / 2)
    here.scaler.step(optimizer)
    here.scaler.update()
    parts = [part for process in found for part in process]
    means = {
        name: max(stats[name] for _, _, stats in parts)
        if name in maxima
        else sum(share * stats[name] for share, _, stats in parts)
        for name in parts[0][2]
    }
    return {"loss": sum(share * value for share, value, _ in parts), **means, "grad_norm": norm}


class _Uncut:
    """The batch of a loss that is already computed: one row, which cannot be cut."""

    columns, weights = (1, 0), torch.ones(1)

    def __len__(self) -> int:
        return 1

    def rows(self, index: slice) -> Self:
        return self


@check.arguments
def descend(
    loss: Float[Tensor, ""], model: nn.Module, optimizer: torch.optim.Optimizer, max_norm: float = 1.0
) -> float:
    """One step down the gradient of `loss`, clipped to `max_norm`; returns the norm before clipping.

    Raises ValueError when the loss or its gradient is not finite, before any weight has changed.
    """
    check.positive("max_norm", max_norm)
    if not loss.requires_grad:
        raise ValueError("loss: got a tensor without a gradient, expected one computed from the model's weights")
    return gradient_step(lambda _: (loss, {}), _Uncut(), model, optimizer, max_norm)["grad_norm"]


def set_learning_rate(optimizer: torch.optim.Optimizer, peak: float, step: int, steps: int, warmup: int = 10) -> None:
    """Linear warm-up over `warmup` steps to `peak`, under a linear decay that would reach zero after the last step."""
    rise = min(1.0, (step + 1) / max(1, warmup))
    fall = 1.0 - step / max(1, steps)
    for group in optimizer.param_groups:
        group["lr"] = peak * rise * fall


@check.arguments
def generator_for(seed: int, step: int, device: torch.device | str = "cpu") -> torch.Generator:
    """The random numbers of one step of one run."""
    try:
        return torch.Generator(device).manual_seed(seed * 1_000_003 + step)
    except (RuntimeError, TypeError, ValueError) as error:  # PyTorch's words for what it cannot be
        raise ValueError(
            f"seed, step, device: got {seed}, {step} and {device!r}, expected a seed below 10^12, a step, a device"
        ) from error


@check.arguments
def minibatch(n: int, batch_size: int, step: int, seed: int) -> Int[Tensor, " batch"]:
    """Indices of step `step`: a fresh permutation of the n rows every epoch, cut into batches, across epoch ends."""
    if n < 1 or batch_size < 1:
        raise ValueError(f"n, batch_size: got {n} and {batch_size}, expected both ≥ 1")
    check.whole("step", step, 0)
    position = torch.arange(step * batch_size, (step + 1) * batch_size)
    epochs = position // n
    index = torch.empty_like(position)
    for epoch in sorted(set(epochs.tolist())):
        order = torch.randperm(n, generator=generator_for(seed, epoch))
        index[epochs == epoch] = order[position[epochs == epoch] % n]
    return index
