"""Both answers of a preference pair behind one prompt, so that the prompt goes through the model once.

A row is [pad pad prompt | chosen pad | rejected pad]. An answer sees the prompt and itself, never the other answer, and
its positions go on from the prompt: what is computed of it is what would be computed in a row of its own, to rounding.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from week6.log_probs import called_as_language_model, position_ids, token_log_probs, without_spare_columns
from week6.machine.compute import compute
from week6.sequences import Demonstrations, Pairs, check_batch

LEAST = 32
"""Tokens of the longest prompt from which it pays."""
KNOWN = {"gpt2", "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma3_text"}
"""Kinds of models that take a mask of who sees whom."""


@dataclass(frozen=True)
class SharedPrompt:
    """N pairs in N rows of L = P + 2T columns."""

    tokens: Int[Tensor, "N L"]
    sees: Bool[Tensor, "N 1 L L"]
    """Whether a column (third axis) sees another (last axis)."""
    positions: Int[Tensor, "N L"]
    answers: Demonstrations
    """The same pairs in 2N rows, the chosen answers first."""

    def log_probs(self, model: nn.Module) -> Float[Tensor, "2N T"]:
        """log π of each answer token, in nats, 0 at padding, as `response_log_probs` has it of `answers`."""
        (_, length), (width, t) = self.tokens.shape, self.answers.columns
        columns = torch.arange(length, device=self.tokens.device)
        last, chosen, rejected = columns[: width - t][-1:], columns[width - t : width], columns[width:]
        predicting = torch.cat([last, chosen[:-1], last, rejected[:-1]])
        with compute().precision(model), called_as_language_model(model, width):
            logits = model(
                input_ids=self.tokens,
                attention_mask=self.sees,
                position_ids=self.positions,
                logits_to_keep=predicting,
                use_cache=False,
            ).logits
        found = token_log_probs(torch.cat(logits.chunk(2, dim=1)), self.answers.responses)
        return found.masked_fill(~self.answers.response_mask.bool(), 0.0)

    def at_end(self, trunk: nn.Module) -> Float[Tensor, "2N d"]:
        """The hidden state at the last token of each answer."""
        with compute().precision(trunk), called_as_language_model(trunk, self.answers.columns[0]):
            hidden = trunk(
                input_ids=self.tokens, attention_mask=self.sees, position_ids=self.positions, use_cache=False
            ).last_hidden_state
        width, t = self.answers.columns
        n = len(self.tokens)
        ends = self.answers.response_mask.sum(-1) - 1 + (width - t)
        ends = torch.cat([ends[:n], ends[n:] + t])
        at_end: Tensor = hidden[torch.arange(n, device=hidden.device).repeat(2), ends]
        return at_end


def share_prompts(model: Any, pairs: Pairs) -> SharedPrompt | None:
    """The pairs with each prompt once; None where that does not pay, or `model` may not know such masks.

    Raises ValueError where the pairs are not laid out as `sequences` says.
    """
    both = pairs.stacked()
    if both.prompts.shape[-1] < LEAST or not _takes_masks(model, both.columns[0]):
        return None
    check_batch(both.prompts, both.prompt_mask, both.responses, both.response_mask)
    both = Demonstrations(
        *without_spare_columns(both.prompts, both.prompt_mask.bool(), both.responses, both.response_mask.bool())
    )
    n, (width, t) = len(pairs), both.columns
    p = width - t
    if p < LEAST:
        return None
    mask = torch.cat([both.prompt_mask, both.response_mask], dim=1)
    positions, real = position_ids(mask), torch.cat([mask[:n], both.response_mask[n:]], dim=1)

    part = torch.tensor([0, 1, 2], device=mask.device).repeat_interleave(torch.tensor([p, t, t], device=mask.device))
    own = (part == 0) | (part == part.unsqueeze(1))
    before = torch.ones_like(own).tril()
    itself = torch.eye(len(part), dtype=torch.bool, device=mask.device)  # padding too must see something
    return SharedPrompt(
        torch.cat([both.prompts[:n], both.responses[:n], both.responses[n:]], dim=1),
        (own & before & real[:, None, None]) | itself,
        torch.cat([positions[:n], positions[n:, p:]], dim=1),
        both,
    )


def _takes_masks(model: Any, width: int) -> bool:
    config = getattr(model, "config", None)
    window = getattr(config, "sliding_window", None)
    return (
        getattr(config, "model_type", None) in KNOWN
        and getattr(config, "_attn_implementation", None) == "sdpa"
        and (window is None or width <= window)
    )
