"""Supervised fine-tuning: imitate demonstrations, token by token."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from week6.log_probs import masked_mean, response_log_probs
from week6.machine import validate as check
from week6.machine.bounds import Count, Rate, Rows
from week6.machine.optim import Stats, gradient_step, minibatch, set_learning_rate
from week6.sequences import Demonstrations


@dataclass(frozen=True)
class SFTConfig:
    """How long and how fast to imitate."""

    steps: Count = 1000
    batch_size: Rows = 64
    learning_rate: Rate = 1e-3


@check.arguments
def sft_loss(log_probs: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, ""]:
    """Mean cross-entropy of the answer tokens, EOS included, prompt excluded, in nats per token.

    L = −Σ_{i,t} m_{it} log π(y_{it} | x_i, y_{i,<t}) / Σ_{i,t} m_{it} ≥ 0

    Raises ValueError for different shapes, an empty mask, and counted log-probabilities that are NaN, infinite or
    above 0.
    """
    check.same_shape(log_probs=log_probs, mask=mask)
    counted = torch.where(mask.bool(), log_probs, 0)
    check.of_tokens(log_probs=counted)
    return -masked_mean(log_probs, mask)


@check.arguments
def train_sft(
    policy: nn.Module,
    optimizer: torch.optim.Optimizer,
    demonstrations: Demonstrations,
    config: SFTConfig,
    seed: int,
    start: int = 0,
) -> Iterator[dict[str, float]]:
    """Fine-tune `policy` in place on demonstrations; after each step yields step, loss, grad_norm and tokens."""
    check.whole("start", start, 0)
    policy.eval()  # no dropout anywhere in this course; gradients flow all the same

    def loss(batch: Demonstrations) -> tuple[Tensor, Stats]:
        log_probs = response_log_probs(policy, batch.prompts, batch.prompt_mask, batch.responses, batch.response_mask)
        return sft_loss(log_probs, batch.response_mask), {}

    for step in range(start, config.steps):
        batch = demonstrations.rows(minibatch(len(demonstrations), config.batch_size, step, seed))
        set_learning_rate(optimizer, config.learning_rate, step, config.steps)
        stats = gradient_step(loss, batch, policy, optimizer)
        yield {"step": step, **stats, "tokens": batch.tokens}
