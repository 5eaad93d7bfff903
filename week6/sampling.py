"""Sampling answers from a policy: the distribution that is scored, and no other."""

from dataclasses import dataclass, replace
from inspect import signature
from operator import itemgetter
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import GPT2LMHeadModel

from week6.log_probs import called_as_language_model, position_ids
from week6.machine import validate as check
from week6.machine.compute import compute, every_process, in_parts
from week6.sequences import Rollout, check_prompts

KEY_VALUE_CACHE = "cache" if "cache" in signature(GPT2LMHeadModel.forward).parameters else "past_key_values"
"""What the installed transformers calls the keys and values of earlier tokens: 5.24 renamed them."""


@check.arguments
@torch.no_grad()
def sample(
    model: nn.Module,
    prompts: Int[Tensor, "B P"],
    prompt_mask: Bool[Tensor, "B P"],
    max_new_tokens: int,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> Rollout:
    """Sample one answer per prompt from the policy itself: plain multinomial at `temperature`, nothing truncated.

    Stops a row at its first EOS (`model.config.eos_token_id`) and returns as soon as all rows have one, so that
    T ≤ max_new_tokens. The log-probabilities are those the tokens were drawn with. Top-k and top-p are not offered:
    they sample from another distribution than the one that is scored, and the ratio π/π_old would no longer be 1.

    The rows may be divided among processes and over parts that fit the memory; every row meets the random numbers that
    it would meet in one batch, and the generator ends where it would. Raises ValueError for NaN logits.
    """
    check.positive("temperature", temperature)
    check.whole("max_new_tokens", max_new_tokens)
    check_prompts(prompts, prompt_mask)
    if not hasattr(model, "config"):
        raise ValueError(f"model: got a {type(model).__name__}, expected a language model of transformers")
    generator = generator or _default_generator(prompts.device)
    start = generator.get_state()
    ends = [(0, start)]

    def sample_part(part: _Questions) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        generator.set_state(start)
        with compute().precision(model), called_as_language_model(model, prompts.shape[1] + max_new_tokens):
            answers = _sample(model, part, len(prompts), temperature, generator)
        ends.append((answers[0].shape[1], generator.get_state()))
        return answers

    questions = _Questions(prompts, prompt_mask, torch.arange(len(prompts), device=prompts.device), max_new_tokens)
    responses, response_mask, log_probs, finished = in_parts(sample_part, questions, model)
    _, end = max(every_process(lambda: max(ends, key=itemgetter(0))), key=itemgetter(0))
    generator.set_state(end)
    responses = responses.masked_fill(~response_mask, _pad_id(model))
    return Rollout(prompts, prompt_mask.bool(), responses, response_mask, log_probs, finished)


@dataclass(frozen=True)
class _Questions:
    """Prompts with the numbers of their rows in the whole batch."""

    prompts: Int[Tensor, "b P"]
    prompt_mask: Bool[Tensor, "b P"]
    numbers: Int[Tensor, " b"]
    max_new_tokens: int

    def rows(self, index: slice) -> "_Questions":
        return replace(
            self, prompts=self.prompts[index], prompt_mask=self.prompt_mask[index], numbers=self.numbers[index]
        )

    @property
    def columns(self) -> tuple[int, int]:
        """Of a row at the end; the head is asked about one token at a time."""
        return self.prompts.shape[1] + self.max_new_tokens, 1

    def __len__(self) -> int:
        return len(self.numbers)


def _sample(
    model: nn.Module,
    part: _Questions,
    batch: int,
    temperature: float,
    generator: torch.Generator,
) -> tuple[Int[Tensor, "b T"], Bool[Tensor, "b T"], Float[Tensor, "b T"], Bool[Tensor, " b"]]:
    """Answers to a part of a batch of prompts: tokens, mask, log-probabilities, finished."""
    eos, pad = eos_ids(model), _pad_id(model)
    tokens, mask = part.prompts, part.prompt_mask.long()
    alive = torch.ones(len(tokens), dtype=torch.bool, device=tokens.device)
    positions, cache = position_ids(mask), None
    columns: list[tuple[Tensor, Tensor, Tensor]] = []
    for _ in range(part.max_new_tokens):
        output = model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            use_cache=True,
            logits_to_keep=1,
            **{KEY_VALUE_CACHE: cache},
        )
        cache = getattr(output, KEY_VALUE_CACHE)
        log_probs = (output.logits[:, -1].float() / temperature).log_softmax(-1)
        token = draw(log_probs, batch, part.numbers, generator)
        log_prob = log_probs.gather(-1, token.unsqueeze(-1)).squeeze(-1)
        token = token.masked_fill(~alive, pad)
        columns.append((token, alive, log_prob.masked_fill(~alive, 0.0)))
        mask = torch.cat([mask, alive.long().unsqueeze(1)], dim=1)
        alive = alive & ~torch.isin(token, eos)
        if not alive.any():
            break
        tokens, positions = token.unsqueeze(1), position_ids(mask)[:, -1:]
    responses, response_mask, sampled_log_probs = (torch.stack(c, dim=1) for c in zip(*columns, strict=True))
    finished = ~alive if len(eos) else torch.ones_like(alive)
    return responses, response_mask, sampled_log_probs, finished


def draw(
    log_probs: Float[Tensor, "b V"], batch: int, numbers: Int[Tensor, " b"], generator: torch.Generator
) -> Int[Tensor, " b"]:
    """A token for each of the rows `numbers` of a batch, by their log-probabilities.

    What torch.multinomial does for one draw, with random numbers for all rows of the batch. Raises ValueError for NaN.
    """
    if log_probs.isnan().any():
        raise check.UnusableError("logits: got NaN, expected numbers; look at the model's weights")
    noise = log_probs.new_empty(batch, log_probs.shape[1]).exponential_(1, generator=generator)
    return (log_probs.exp() / noise[numbers]).argmax(-1)


def eos_ids(model: nn.Module) -> Int[Tensor, " n"]:
    """The tokens that end an answer of `model`."""
    eos: Any = model.config.eos_token_id  # type: ignore[union-attr]
    device = next(model.parameters()).device
    return torch.tensor([] if eos is None else eos if isinstance(eos, list) else [eos], dtype=torch.long, device=device)


def _pad_id(model: nn.Module) -> int:
    """What to write after a row has ended; masked everywhere, so that any token serves where there is no pad."""
    pad: Any = model.config.pad_token_id  # type: ignore[union-attr]
    return 0 if pad is None else int(pad)


def _default_generator(device: torch.device) -> torch.Generator:
    if device.type != "cuda":
        return torch.default_generator
    return torch.cuda.default_generators[torch.cuda.current_device() if device.index is None else device.index]
