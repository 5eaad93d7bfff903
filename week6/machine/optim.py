"""One gradient step, and the order in which a training loop sees its data.

Both are functions of (seed, step) alone: a run that was interrupted continues with the same numbers and no stored
random state.
"""

import math
from collections.abc import Callable, Collection
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from week6.machine.compute import compute, every_process, sum_gradients

Stats = dict[str, float]


def make_optimizer(model: nn.Module, learning_rate: float, eps: float = 1e-8) -> torch.optim.AdamW:
    """AdamW without weight decay (fine-tuning is pulled to the reference by KL, not to zero)."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(trainable, lr=learning_rate, betas=(0.9, 0.98), eps=eps, weight_decay=0.0, fused=True)


def descend(loss: Tensor, model: nn.Module, optimizer: torch.optim.Optimizer, max_norm: float = 1.0) -> float:
    """One step down the gradient of `loss`, clipped to `max_norm`; returns the norm before clipping.

    Raises ValueError when the loss or its gradient is not finite, before any weight has changed.
    """
    one = torch.ones(1)
    _, norm, _ = descend_rows(lambda row: (loss, {}), one, one, model, optimizer, 1.0, max_norm)
    return norm


def descend_rows(
    loss: Callable[[Any], tuple[Float[Tensor, ""], Stats]],
    rows: Tensor,
    weights: Tensor,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    row_bytes: float,
    max_norm: float = 1.0,
    maxima: Collection[str] = (),
) -> tuple[float, float, Stats]:
    """One step down the gradient of the weighted mean of `loss` over all rows; returns loss, gradient norm and stats.

        L = Σ_p w_p L_p / Σ_p w_p      over parts p of the rows,  w_p = the sum of their `weights`

    `loss(rows[p])` returns L_p, the mean over what the part's rows consist of, and stats that are means over the same;
    `weights` counts this for each row: tokens, or 1 where a row counts as one. So L, its gradient and the stats do not
    depend on how the rows are divided among processes and over parts that fit the memory (`row_bytes` a row). Stats
    named in `maxima` are maxima. In fp16 a step whose gradient overflows is repeated with a smaller scale.

    Raises ValueError when the loss or its gradient is not finite, before any weight has changed.
    """
    here, total = compute(), float(weights.sum())

    def add_gradient(part: slice) -> tuple[float, float, Stats]:
        share = float(weights[part].sum()) / total
        value, stats = loss(rows[part])
        if not torch.isfinite(value):
            raise ValueError(
                f"loss: got {value.item()}, expected a finite number; look at the rewards and learning rate"
            )
        scaled = here.scaler.scale(value * share)
        scaled.backward(retain_graph=here.scaler.is_enabled())  # type: ignore[no-untyped-call]  # kept to be repeated
        return share, value.item(), stats

    while True:
        found = every_process(lambda: here.parts(add_gradient, len(rows), row_bytes, start=optimizer.zero_grad))
        sum_gradients(model)
        here.scaler.unscale_(optimizer)
        norm = float(nn.utils.clip_grad_norm_(model.parameters(), max_norm))
        if math.isfinite(norm):
            break
        scale = here.scaler.get_scale()  # 1 but in fp16
        if scale <= 1:
            raise ValueError(f"gradient: got norm {norm}, expected a finite one; look at the rewards and learning rate")
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
    return sum(share * value for share, value, _ in parts), norm, means


def set_learning_rate(optimizer: torch.optim.Optimizer, peak: float, step: int, steps: int, warmup: int = 10) -> None:
    """Linear warm-up over `warmup` steps to `peak`, under a linear decay that would reach zero after the last step."""
    rise = min(1.0, (step + 1) / max(1, warmup))
    fall = 1.0 - step / max(1, steps)
    for group in optimizer.param_groups:
        group["lr"] = peak * rise * fall


def generator_for(seed: int, step: int, device: torch.device | str = "cpu") -> torch.Generator:
    """The random numbers of one step of one run."""
    return torch.Generator(device).manual_seed(seed * 1_000_003 + step)


def minibatch(n: int, batch_size: int, step: int, seed: int) -> Int[Tensor, " batch"]:
    """Indices of step `step`: a fresh permutation of the n rows every epoch, cut into batches, across epoch ends."""
    if n < 1 or batch_size < 1:
        raise ValueError(f"n, batch_size: got {n} and {batch_size}, expected both ≥ 1")
    position = torch.arange(step * batch_size, (step + 1) * batch_size)
    epochs = position // n
    index = torch.empty_like(position)
    for epoch in sorted(set(epochs.tolist())):
        order = torch.randperm(n, generator=generator_for(seed, epoch))
        index[epochs == epoch] = order[position[epochs == epoch] % n]
    return index
