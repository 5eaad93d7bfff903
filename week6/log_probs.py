"""Log-probabilities of answers, and means over what a mask leaves.

Axes: B batch, P prompt length, T response length, V vocabulary; L = P + T. `sequences` says how a batch is laid out.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from week6.machine import validate as check
from week6.machine.compute import compute
from week6.sequences import check_batch

BLOCK = 16
"""Columns of padding are left out by so many at a time: what attention adds up keeps its order then, and the numbers
of a batch do not depend on how it was padded."""


@check.arguments
def position_ids(attention_mask: Int[Tensor, "B L"] | Bool[Tensor, "B L"]) -> Int[Tensor, "B L"]:
    """Position of each token among the real tokens of its row: cumsum(mask) − mask.

    GPT-2 adds an embedding per position; without this, left padding would shift the positions of the prompt.
    """
    check.has_dims("attention_mask", attention_mask, 2, "(B, L)")
    check.zeros_and_ones("attention_mask", attention_mask)
    mask = attention_mask.long()
    return mask.cumsum(-1) - mask


@check.arguments
def token_log_probs(logits: Float[Tensor, "B T V"], tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """log π(token_t) from the logits that predict it, in nats; the softmax is taken in fp32 (or fp64).

    `logits[:, t]` must already be those that predict `tokens[:, t]` (shifted by one against the input).
    """
    check.has_dims("logits", logits, 3, "(B, T, V)")
    if logits.shape[:2] != tokens.shape:
        raise ValueError(f"tokens: got shape {tuple(tokens.shape)}, expected {tuple(logits.shape[:2])} as logits have")
    # A bfloat16 softmax over a vocabulary of 50k errs by hundredths of a nat per token.
    logits = logits if logits.dtype == torch.float64 else logits.float()
    try:
        found = logits.log_softmax(-1).gather(-1, tokens.long().unsqueeze(-1)).squeeze(-1)
    except (RuntimeError, IndexError) as error:
        raise ValueError(f"tokens: got an id outside 0 … {logits.shape[-1] - 1}, the columns of logits") from error
    check.no_nan(logits=found)
    return found


@contextlib.contextmanager
def called_as_language_model(model: nn.Module, length: int) -> Iterator[None]:
    """Raise ValueError in place of the IndexError of a model that is given other token ids or too many tokens, and of
    the TypeError of one that takes no tokens."""
    try:
        yield
    except TypeError as error:
        if ".forward() " not in str(error):
            raise
        raise ValueError(
            f"model or policy: got a {type(model).__name__}, expected one that is called as those of transformers "
            f"are ({error})"
        ) from error
    except IndexError as error:  # of an embedding
        raise ValueError(
            f"prompts, responses: got a token id that the model does not have, or {length} tokens where it has fewer "
            "positions"
        ) from error


def spare_columns(mask: Int[Tensor, "B L"] | Bool[Tensor, "B L"]) -> Int[Tensor, "2"]:
    """How many columns, in blocks, hold nothing but padding: on the left, and on the right."""
    used = mask.bool().any(0).int()
    return torch.stack([used.argmax(), used.flip(0).argmax()]) // BLOCK * BLOCK


def without_spare_columns(
    prompts: Int[Tensor, "B P"],
    prompt_mask: Bool[Tensor, "B P"],
    responses: Int[Tensor, "B T"],
    response_mask: Bool[Tensor, "B T"],
) -> tuple[Int[Tensor, "B p"], Bool[Tensor, "B p"], Int[Tensor, "B t"], Bool[Tensor, "B t"]]:
    """The batch without what its longest prompt and its longest answer leave of the width of all data."""
    if min(prompt_mask.numel(), response_mask.numel()) == 0 or not prompt_mask.ndim == response_mask.ndim == 2:
        return prompts, prompt_mask, responses, response_mask  # `check_batch` says what is wrong
    first, behind = torch.stack([spare_columns(prompt_mask)[0], spare_columns(response_mask)[1]]).tolist()
    last = response_mask.shape[1] - behind
    return prompts[:, first:], prompt_mask[:, first:], responses[:, :last], response_mask[:, :last]


def response_forward(
    model: nn.Module,
    prompts: Int[Tensor, "B P"],
    prompt_mask: Bool[Tensor, "B P"],
    responses: Int[Tensor, "B T"],
    response_mask: Bool[Tensor, "B T"],
    **options: Any,
) -> Any:
    """The model's output with `.logits` (B, T, V): those that predict the response tokens, and no others.

    Response token t stands in column P + t and is predicted by column P − 1 + t. The language-model head, which for
    GPT-2 costs as much as four layers, is not evaluated on the prompt.
    """
    check_batch(prompts, prompt_mask, responses, response_mask)
    mask = torch.cat([prompt_mask, response_mask], dim=1).long()
    columns = torch.arange(prompts.shape[1] - 1, mask.shape[1] - 1, device=mask.device)
    with compute().precision(model), called_as_language_model(model, mask.shape[1]):
        return model(
            input_ids=torch.cat([prompts, responses], dim=1),
            attention_mask=mask,
            position_ids=position_ids(mask.bool()),
            logits_to_keep=columns,
            use_cache=False,
            **options,
        )


@check.arguments
def response_log_probs(
    model: nn.Module,
    prompts: Int[Tensor, "B P"],
    prompt_mask: Bool[Tensor, "B P"],
    responses: Int[Tensor, "B T"],
    response_mask: Bool[Tensor, "B T"],
    temperature: float = 1.0,
) -> Float[Tensor, "B T"]:
    """log π(y_t | x, y_<t) of each response token, in nats, 0 at padding; summed over T it is log π(y | x).

    The logits are divided by `temperature`, which must be the one the responses were sampled at. Raises ValueError
    for wrong shapes, a temperature ≤ 0, or a row without any prompt or response token.
    """
    check.positive("temperature", temperature)
    *_, tokens, mask = batch = without_spare_columns(prompts, prompt_mask, responses, response_mask)
    logits = response_forward(model, *batch).logits
    log_probs = token_log_probs(logits / temperature, tokens).masked_fill(~mask.bool(), 0.0)
    return F.pad(log_probs, (0, responses.shape[1] - tokens.shape[1]))


@check.arguments
def masked_mean(
    x: Float[Tensor, "*S"], mask: Bool[Tensor, "*S"] | Float[Tensor, "*S"], dim: int | None = None
) -> Float[Tensor, "*R"]:
    """Mean of x where the mask is 1: Σ x·m / Σ m, over everything or along `dim`.

    Raises ValueError where there is nothing to average, for other weights than 0 and 1, and for NaN or infinities in x
    where the mask is 1.
    """
    check.same_shape(x=x, mask=mask)
    if dim is not None:
        check.axis("dim", dim, x)
    check.zeros_and_ones("mask", mask)
    x = torch.where(mask.bool(), x, 0)  # not x * mask: that would let a NaN at padding through
    total, count = (x.sum(), mask.sum()) if dim is None else (x.sum(dim), mask.sum(dim))
    mean = total / count
    check.average(mean, x=x, mask=count)
    return mean


@check.arguments
def masked_whiten(
    x: Float[Tensor, "*S"], mask: Bool[Tensor, "*S"] | Float[Tensor, "*S"], shift_mean: bool = True
) -> Float[Tensor, "*S"]:
    """Scale x to variance 1 over the masked entries, and shift it to mean 0 if `shift_mean`; 0 elsewhere.

        (x − mean) / √(var + 1e-8),  plus the mean again where shift_mean is False

    Mean and (biased) variance are those of the masked entries. PPO shifts advantages; rewards are only scaled, since
    a shift would change which answers are worth giving (Huang et al. 2023, "N implementation details of RLHF").
    """
    mean = masked_mean(x, mask)
    variance = masked_mean((x - mean) ** 2, mask)
    white = (x - mean) * torch.rsqrt(variance + 1e-8)
    return torch.where(mask.bool(), white if shift_mean else white + mean, 0)
