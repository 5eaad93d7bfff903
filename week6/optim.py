"""One gradient step, and the order in which a training loop sees its data.

Both are functions of (seed, step) alone: a run that was interrupted continues with the same numbers and no stored
random state.
"""

import torch
from jaxtyping import Int
from torch import Tensor, nn


def make_optimizer(model: nn.Module, learning_rate: float, eps: float = 1e-8) -> torch.optim.AdamW:
    """AdamW without weight decay (fine-tuning is pulled to the reference by KL, not to zero)."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(trainable, lr=learning_rate, betas=(0.9, 0.98), eps=eps, weight_decay=0.0, fused=True)


def descend(loss: Tensor, model: nn.Module, optimizer: torch.optim.Optimizer, max_norm: float = 1.0) -> float:
    """One step down the gradient of `loss`, clipped to `max_norm`; returns the norm before clipping.

    Raises ValueError when the loss is not finite, before any weight has changed.
    """
    if not torch.isfinite(loss):
        raise ValueError(f"loss: got {loss.item()}, expected a finite number; look at the rewards and learning rate")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    optimizer.step()
    return float(norm)


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
