"""Sampling answers from a policy: the distribution that is scored, and no other."""

from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from week6.log_probs import called_as_language_model, position_ids, spare_columns
from week6.machine import validate as check
from week6.machine.compute import compute, every_process, in_parts
from week6.machine.memory import KEY_VALUE_CACHE, Memory
from week6.sequences import Rollout, check_prompts

Answers = tuple[Int[Tensor, "b T"], Bool[Tensor, "b T"], Float[Tensor, "b T"], Bool[Tensor, " b"]]
"""Tokens, mask, log-probabilities, finished."""
FEWEST = 8
"""Rows that stay in the batch at least: libraries add up the products of very few rows in another order, and an answer
would depend, in its last digits, on when the others end."""


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
    loop = _sample_lean if isinstance(model, PreTrainedModel) else _sample  # a wrapper may hold something for each row

    def sample_part(part: _Questions) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        generator.set_state(start)
        with compute().precision(model), called_as_language_model(model, prompts.shape[1] + max_new_tokens):
            answers = loop(model, part, len(prompts), temperature, generator)
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
) -> Answers:
    """Answers to a part of a batch of prompts, as the textbook has it: every row goes on until the last has ended."""
    eos, pad = eos_ids(model), _pad_id(model)
    tokens, mask = part.prompts, part.prompt_mask.long()
    alive = torch.ones(len(tokens), dtype=torch.bool, device=tokens.device)
    positions, cache = position_ids(mask.bool()), None
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
        check_numbers(log_probs)
        token = draw(log_probs, batch, part.numbers, generator)
        log_prob = log_probs.gather(-1, token.unsqueeze(-1)).squeeze(-1)
        token = token.masked_fill(~alive, pad)
        columns.append((token, alive, log_prob.masked_fill(~alive, 0.0)))
        mask = torch.cat([mask, alive.long().unsqueeze(1)], dim=1)
        alive = alive & ~torch.isin(token, eos)
        if not alive.any():
            break
        tokens, positions = token.unsqueeze(1), position_ids(mask.bool())[:, -1:]
    responses, response_mask, sampled_log_probs = (torch.stack(c, dim=1) for c in zip(*columns, strict=True))
    finished = ~alive if len(eos) else torch.ones_like(alive)
    return responses, response_mask, sampled_log_probs, finished


def _sample_lean(
    model: nn.Module, part: _Questions, batch: int, temperature: float, generator: torch.Generator
) -> Answers:
    """The answers of `_sample`, from less work.

    Answers that have ended leave the batch whenever they are a quarter of it, common padding is not read, keys and
    values are not copied from token to token, and the device is waited for once a token.
    """
    eos = eos_ids(model)
    common = int(spare_columns(part.prompt_mask)[0])
    tokens, positions = part.prompts[:, common:], position_ids(part.prompt_mask.bool())[:, common:]
    mask = F.pad(part.prompt_mask.bool()[:, common:], (0, part.max_new_tokens), value=True)
    width = tokens.shape[1]

    order = torch.arange(len(part), device=tokens.device)  # rows of the part: those in the batch first
    responses = order.new_zeros(len(part), part.max_new_tokens)
    sampled_log_probs = torch.zeros_like(responses, dtype=torch.float)
    numbers, alive = part.numbers, torch.ones_like(order, dtype=torch.bool)
    memory = Memory(model, part.max_new_tokens)
    for t in range(part.max_new_tokens):
        logits = memory.read(tokens, mask[:, : width + t], positions)
        if not memory.rows_can_leave:
            return _sample(model, part, batch, temperature, generator)
        log_probs = (logits.float() / temperature).log_softmax(-1)
        token = draw(log_probs, batch, numbers, generator)
        here = len(token)
        responses[:here, t] = token
        sampled_log_probs[:here, t] = log_probs.gather(-1, token.unsqueeze(-1)).squeeze(-1)
        alive = alive & ~is_eos(token, eos)
        left = int(alive.sum())
        if not left:
            break
        if FEWEST < here and left <= 0.75 * here:
            first = alive.int().argsort(descending=True, stable=True)
            for rows in (order, responses, sampled_log_probs):
                rows[:here] = rows[:here][first]
            stay = first[: max(left, FEWEST)]
            memory.keep(stay)
            numbers, alive, token, mask, positions = (x[stay] for x in (numbers, alive, token, mask, positions))
        tokens, positions = token.unsqueeze(1), positions[:, -1:] + 1

    check_numbers(sampled_log_probs)
    responses, sampled_log_probs = (x[order.argsort(), : t + 1] for x in (responses, sampled_log_probs))
    ends = is_eos(responses, eos)
    response_mask = ends.cumsum(1) == ends  # nothing behind the first end
    finished = ends.any(1) if len(eos) else torch.ones_like(ends[:, 0])
    return responses, response_mask, sampled_log_probs.masked_fill(~response_mask, 0.0), finished


def check_numbers(log_probs: Float[Tensor, "b n"]) -> None:
    """Raise ValueError for a NaN."""
    if log_probs.isnan().any():
        raise check.UnusableError("logits: got NaN, expected numbers; look at the model's weights")


def draw(
    log_probs: Float[Tensor, "b V"], batch: int, numbers: Int[Tensor, " b"], generator: torch.Generator
) -> Int[Tensor, " b"]:
    """A token for each of the rows `numbers` of a batch, by their log-probabilities.

    What torch.multinomial does for one draw, with random numbers for all rows of the batch.
    """
    noise = log_probs.new_empty(batch, log_probs.shape[1]).exponential_(1, generator=generator)
    return (log_probs.exp() / noise[numbers]).argmax(-1)


def eos_ids(model: nn.Module) -> Int[Tensor, " n"]:
    """The tokens that end an answer of `model`."""
    eos: Any = model.config.eos_token_id  # type: ignore[union-attr]
    device = next(model.parameters()).device
    return torch.tensor([] if eos is None else eos if isinstance(eos, list) else [eos], dtype=torch.long, device=device)


def is_eos(tokens: Int[Tensor, "*b"], eos: Int[Tensor, " n"]) -> Bool[Tensor, "*b"]:
    """Which of the tokens end an answer; of so few, faster than torch.isin."""
    return (tokens.unsqueeze(-1) == eos).any(-1)


def _pad_id(model: nn.Module) -> int:
    """What to write after a row has ended; masked everywhere, so that any token serves where there is no pad."""
    pad: Any = model.config.pad_token_id  # type: ignore[union-attr]
    return 0 if pad is None else int(pad)


def _default_generator(device: torch.device) -> torch.Generator:
    if device.type != "cuda":
        return torch.default_generator
    return torch.cuda.default_generators[torch.cuda.current_device() if device.index is None else device.index]
