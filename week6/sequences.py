"""Tokens, masks, positions, log-probabilities, sampling: everything about shapes lives here.

Axes: B batch, P prompt length (padded on the left), T response length (padded on the right), V vocabulary.

A batch is [pad pad prompt prompt | answer answer EOS pad]. Prompts end, and responses begin, at the same column for
every row, so that response token t is always predicted by column P − 1 + t. Masks are made from lengths, never from
`ids != pad`: where the pad token is the EOS token, such a mask hides the EOS and the model never learns to stop.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from inspect import signature
from operator import itemgetter
from typing import Any, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import GPT2LMHeadModel, PreTrainedTokenizerBase

from week6 import _validate as check
from week6.compute import compute, every_process, in_parts, inference_bytes, stack

KEY_VALUE_CACHE = "cache" if "cache" in signature(GPT2LMHeadModel.forward).parameters else "past_key_values"
"""What the installed transformers calls the keys and values of earlier tokens: 5.24 renamed them."""


class _Rows:
    """A dataclass of tensors whose first axis is the batch."""

    def _map(self, change: Any) -> Self:
        return type(self)(**{f.name: change(getattr(self, f.name)) for f in fields(self)})  # type: ignore[arg-type]

    def rows(self, index: Int[Tensor, " b"] | slice) -> Self:
        """The same data for the chosen rows only."""
        return self._map(lambda tensor: tensor[index])

    def to(self, device: torch.device | str) -> Self:
        """The same data on another device."""
        return self._map(lambda tensor: tensor.to(device))


class _Answers(_Rows):
    """Rows with one prompt and one answer each."""

    prompts: Int[Tensor, "B P"]
    responses: Int[Tensor, "B T"]

    def __len__(self) -> int:
        return len(self.responses)

    @property
    def columns(self) -> tuple[int, int]:
        """How many tokens wide a row is, and how many of them are those of the answer."""
        return self.prompts.shape[1] + self.responses.shape[1], self.responses.shape[1]


@dataclass(frozen=True)
class Rollout(_Answers):
    """Answers sampled from a policy. The first EOS is part of the response: trained, scored and rewarded."""

    prompts: Int[Tensor, "B P"]
    prompt_mask: Bool[Tensor, "B P"]
    responses: Int[Tensor, "B T"]
    response_mask: Bool[Tensor, "B T"]
    log_probs: Float[Tensor, "B T"]
    """Of each sampled token under the policy that sampled it, in nats; 0 at padding."""
    finished: Bool[Tensor, " B"]
    """Whether the answer ended with EOS within the limit (always, for a model that has no EOS)."""


@dataclass(frozen=True)
class Demonstrations(_Answers):
    """Prompts with the answers to imitate."""

    prompts: Int[Tensor, "N P"]
    prompt_mask: Bool[Tensor, "N P"]
    responses: Int[Tensor, "N T"]
    response_mask: Bool[Tensor, "N T"]


@dataclass(frozen=True)
class Pairs(_Rows):
    """Preference pairs: for each prompt the chosen answer y_w and the rejected answer y_l."""

    prompts: Int[Tensor, "N P"]
    prompt_mask: Bool[Tensor, "N P"]
    chosen: Int[Tensor, "N T"]
    chosen_mask: Bool[Tensor, "N T"]
    rejected: Int[Tensor, "N T"]
    rejected_mask: Bool[Tensor, "N T"]

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def columns(self) -> tuple[int, int]:
        """How many tokens wide both answers with their prompts are, and how many are those of the answers."""
        answers = self.chosen.shape[1] + self.rejected.shape[1]
        return 2 * self.prompts.shape[1] + answers, answers

    def stacked(self) -> Demonstrations:
        """Both answers in one batch of 2N rows, the chosen ones first, for one forward pass."""
        return Demonstrations(
            prompts=torch.cat([self.prompts, self.prompts]),
            prompt_mask=torch.cat([self.prompt_mask, self.prompt_mask]),
            responses=torch.cat([self.chosen, self.rejected]),
            response_mask=torch.cat([self.chosen_mask, self.rejected_mask]),
        )


def position_ids(attention_mask: Int[Tensor, "B L"] | Bool[Tensor, "B L"]) -> Int[Tensor, "B L"]:
    """Position of each token among the real tokens of its row: cumsum(mask) − mask.

    GPT-2 adds an embedding per position; without this, left padding would shift the positions of the prompt.
    """
    check.has_dims("attention_mask", attention_mask, 2, "(B, L)")
    mask = attention_mask.long()
    return mask.cumsum(-1) - mask


def token_log_probs(logits: Float[Tensor, "B T V"], tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """log π(token_t) from the logits that predict it, in nats; the softmax is taken in fp32 (or fp64).

    `logits[:, t]` must already be those that predict `tokens[:, t]` (shifted by one against the input).
    """
    check.has_dims("logits", logits, 3, "(B, T, V)")
    if logits.shape[:2] != tokens.shape:
        raise ValueError(f"tokens: got shape {tuple(tokens.shape)}, expected {tuple(logits.shape[:2])} as logits have")
    # A bfloat16 softmax over a vocabulary of 50k errs by hundredths of a nat per token.
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return logits.log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


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
    _check_batch(prompts, prompt_mask, responses, response_mask)
    mask = torch.cat([prompt_mask, response_mask], dim=1).long()
    columns = torch.arange(prompts.shape[1] - 1, mask.shape[1] - 1, device=mask.device)
    with compute().precision(model):
        return model(
            input_ids=torch.cat([prompts, responses], dim=1),
            attention_mask=mask,
            position_ids=position_ids(mask),
            logits_to_keep=columns,
            use_cache=False,
            **options,
        )


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
    logits = response_forward(model, prompts, prompt_mask, responses, response_mask).logits
    return token_log_probs(logits / temperature, responses).masked_fill(~response_mask.bool(), 0.0)


def masked_mean(
    x: Float[Tensor, "*S"], mask: Bool[Tensor, "*S"] | Float[Tensor, "*S"], dim: int | None = None
) -> Float[Tensor, "*R"]:
    """Mean of x where the mask is 1: Σ x·m / Σ m, over everything or along `dim`.

    Raises ValueError where there is nothing to average.
    """
    check.same_shape(x=x, mask=mask)
    x = torch.where(mask.bool(), x, 0)  # not x * mask: that would let a NaN at padding through
    total, count = (x.sum(), mask.sum()) if dim is None else (x.sum(dim), mask.sum(dim))
    if (count == 0).any():
        raise ValueError("mask: got no 1 to average over, expected at least one (in every row)")
    return total / count


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
    check.positive("max_new_tokens", max_new_tokens)
    _check_prompts(prompts, prompt_mask)
    generator = generator or _default_generator(prompts.device)
    start = generator.get_state()
    ends = [(0, start)]

    def sample_part(part: _Questions) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        generator.set_state(start)
        with compute().precision(model):
            answers = _sample(model, part, len(prompts), max_new_tokens, temperature, generator)
        ends.append((answers[0].shape[1], generator.get_state()))
        return answers

    questions = _Questions(prompts, prompt_mask, torch.arange(len(prompts), device=prompts.device))
    row_bytes = inference_bytes(model, prompts.shape[1] + max_new_tokens, 1)
    responses, response_mask, log_probs, finished = in_parts(sample_part, questions, row_bytes)
    _, end = max(every_process(lambda: max(ends, key=itemgetter(0))), key=itemgetter(0))
    generator.set_state(end)
    responses = responses.masked_fill(~response_mask, _pad_id(model))
    return Rollout(prompts, prompt_mask.bool(), responses, response_mask, log_probs, finished)


@dataclass(frozen=True)
class _Questions(_Rows):
    """Prompts with the numbers of their rows in the whole batch."""

    prompts: Int[Tensor, "b P"]
    prompt_mask: Bool[Tensor, "b P"]
    numbers: Int[Tensor, " b"]

    def __len__(self) -> int:
        return len(self.numbers)


def _sample(
    model: nn.Module,
    part: _Questions,
    batch: int,
    max_new_tokens: int,
    temperature: float,
    generator: torch.Generator,
) -> tuple[Int[Tensor, "b T"], Bool[Tensor, "b T"], Float[Tensor, "b T"], Bool[Tensor, " b"]]:
    """Answers to a part of a batch of prompts: tokens, mask, log-probabilities, finished."""
    eos, pad = _eos_ids(model), _pad_id(model)
    tokens, mask = part.prompts, part.prompt_mask.long()
    alive = torch.ones(len(tokens), dtype=torch.bool, device=tokens.device)
    positions, cache = position_ids(mask), None
    columns: list[tuple[Tensor, Tensor, Tensor]] = []
    for _ in range(max_new_tokens):
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
        if log_probs.isnan().any():
            raise ValueError("logits: got NaN, expected numbers; look at the model's weights")
        # What torch.multinomial does for one draw, with random numbers for all rows of the batch.
        noise = log_probs.new_empty(batch, log_probs.shape[1]).exponential_(1, generator=generator)
        token = (log_probs.exp() / noise[part.numbers]).argmax(-1, keepdim=True)
        log_prob = log_probs.gather(-1, token).squeeze(-1)
        token = token.squeeze(-1).masked_fill(~alive, pad)
        columns.append((token, alive, log_prob.masked_fill(~alive, 0.0)))
        mask = torch.cat([mask, alive.long().unsqueeze(1)], dim=1)
        alive = alive & ~torch.isin(token, eos)
        if not alive.any():
            break
        tokens, positions = token.unsqueeze(1), position_ids(mask)[:, -1:]
    responses, response_mask, sampled_log_probs = (torch.stack(c, dim=1) for c in zip(*columns, strict=True))
    finished = ~alive if len(eos) else torch.ones_like(alive)
    return responses, response_mask, sampled_log_probs, finished


def left_pad(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Int[Tensor, "B P"], Bool[Tensor, "B P"]]:
    """Token rows of different lengths as one tensor padded on the left, with its mask (from lengths)."""
    tokens, mask = right_pad([row[::-1] for row in rows], pad_id)
    return tokens.flip(1), mask.flip(1)


def right_pad(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Int[Tensor, "B T"], Bool[Tensor, "B T"]]:
    """Token rows of different lengths as one tensor padded on the right, with its mask (from lengths)."""
    if not rows or not all(rows):
        raise ValueError("rows: got no rows or an empty row, expected at least one token in every row")
    width = max(map(len, rows))
    tokens = torch.tensor([[*row, *[pad_id] * (width - len(row))] for row in rows])
    mask = torch.arange(width) < torch.tensor([len(row) for row in rows]).unsqueeze(1)
    return tokens, mask


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]
) -> tuple[Int[Tensor, "B P"], Bool[Tensor, "B P"]]:
    """Prompts as left-padded tokens and their mask, ready for `sample`."""
    return left_pad(_tokens(tokenizer, prompts), _tokenizer_pad_id(tokenizer))


def encode_demonstrations(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], answers: Sequence[str]
) -> Demonstrations:
    """Prompts and answers as tokens; each answer ends with exactly one EOS.

    Prompt and answer are tokenised together, as the model will meet them, and split where the prompt's own tokens
    end; a token that merges the end of the prompt with the start of the answer belongs to the answer.
    """
    alone, whole = _tokens(tokenizer, prompts), _tokens_with_eos(tokenizer, prompts, answers)
    cuts = [_common_prefix(a, w) for a, w in zip(alone, whole, strict=True)]
    pad = _tokenizer_pad_id(tokenizer)
    return Demonstrations(
        *left_pad([w[:c] for w, c in zip(whole, cuts, strict=True)], pad),
        *right_pad([w[c:] for w, c in zip(whole, cuts, strict=True)], pad),
    )


def encode_pairs(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], chosen: Sequence[str], rejected: Sequence[str]
) -> Pairs:
    """Preference pairs as tokens, split as in `encode_demonstrations` at a cut that both answers share."""
    alone = _tokens(tokenizer, prompts)
    win, lose = _tokens_with_eos(tokenizer, prompts, chosen), _tokens_with_eos(tokenizer, prompts, rejected)
    cuts = [min(_common_prefix(a, w), _common_prefix(a, r)) for a, w, r in zip(alone, win, lose, strict=True)]
    pad = _tokenizer_pad_id(tokenizer)
    width = max(len(row) - c for row, c in zip([*win, *lose], [*cuts, *cuts], strict=True))
    return Pairs(
        *left_pad([w[:c] for w, c in zip(win, cuts, strict=True)], pad),
        *_widen(*right_pad([w[c:] for w, c in zip(win, cuts, strict=True)], pad), width, pad),
        *_widen(*right_pad([r[c:] for r, c in zip(lose, cuts, strict=True)], pad), width, pad),
    )


def pair_rollouts(first: Rollout, second: Rollout, first_preferred: Bool[Tensor, " B"]) -> Pairs:
    """Two sampled answers to each prompt as preference pairs, from the very tokens that were sampled.

    Going through text would end an unfinished answer with an EOS that the policy never gave.
    """
    check.same_shape(first_prompts=first.prompts, second_prompts=second.prompts)
    if not torch.equal(first.prompts, second.prompts):
        raise ValueError("second: got other prompts than first, expected answers to the same prompts in the same order")
    width = max(first.responses.shape[1], second.responses.shape[1])
    a, a_mask = _widen(first.responses, first.response_mask, width, 0)
    b, b_mask = _widen(second.responses, second.response_mask, width, 0)
    swap = ~first_preferred.bool().unsqueeze(1)
    return Pairs(
        first.prompts,
        first.prompt_mask,
        chosen=torch.where(swap, b, a),
        chosen_mask=torch.where(swap, b_mask, a_mask),
        rejected=torch.where(swap, a, b),
        rejected_mask=torch.where(swap, a_mask, b_mask),
    )


def join_pairs(parts: Sequence[Pairs]) -> Pairs:
    """The rows of all parts, one below the other; answers are padded to the longest. Prompts must be equally wide."""
    return Pairs(**{field.name: stack([getattr(part, field.name) for part in parts]) for field in fields(Pairs)})


def decode(
    tokenizer: PreTrainedTokenizerBase, responses: Int[Tensor, "B T"], response_mask: Bool[Tensor, "B T"]
) -> list[str]:
    """Answers as text, without padding and special tokens."""
    rows = [row[keep.bool()] for row, keep in zip(responses, response_mask, strict=True)]
    texts: list[str] = tokenizer.batch_decode(rows, skip_special_tokens=True)
    return texts


def _check_prompts(prompts: Tensor, prompt_mask: Tensor) -> None:
    check.has_dims("prompts", prompts, 2, "(B, P)")
    check.same_shape(prompts=prompts, prompt_mask=prompt_mask)
    check.mask_rows("prompt_mask", prompt_mask)
    if (prompt_mask[:, :-1].bool() & ~prompt_mask[:, 1:].bool()).any():
        raise ValueError("prompt_mask: got padding after a token, expected prompts padded on the left")


def _check_batch(prompts: Tensor, prompt_mask: Tensor, responses: Tensor, response_mask: Tensor) -> None:
    _check_prompts(prompts, prompt_mask)
    check.has_dims("responses", responses, 2, "(B, T)")
    check.same_shape(responses=responses, response_mask=response_mask)
    if len(prompts) != len(responses):
        raise ValueError(f"responses: got {len(responses)} rows, expected {len(prompts)}, one for each prompt")
    check.mask_rows("response_mask", response_mask)
    if (response_mask[:, 1:].bool() & ~response_mask[:, :-1].bool()).any():
        raise ValueError("response_mask: got a token after padding, expected responses padded on the right")


def _eos_ids(model: nn.Module) -> Int[Tensor, " n"]:
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


def _tokenizer_pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    pad: Any = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    if pad is None:
        raise ValueError("tokenizer: got one without pad and EOS token, expected an EOS token at least")
    return int(pad)


def _tokens(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    # A text from a chat template brings its own BOS; the tokenizer must not add a second.
    brings_bos = bool(texts) and bool(tokenizer.bos_token) and texts[0].startswith(str(tokenizer.bos_token))
    rows: list[list[int]] = tokenizer(list(texts), add_special_tokens=not brings_bos)["input_ids"]
    return rows


def _tokens_with_eos(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], answers: Sequence[str]
) -> list[list[int]]:
    eos = tokenizer.eos_token_id
    if eos is None:
        raise ValueError("tokenizer: got one without EOS token, expected one: answers must be able to end")
    rows = _tokens(tokenizer, [p + a for p, a in zip(prompts, answers, strict=True)])
    return [row if row[-1] == eos else [*row, int(eos)] for row in rows]


def _common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _widen(tokens: Tensor, mask: Tensor, width: int, pad_id: int) -> tuple[Tensor, Tensor]:
    extra = (0, width - tokens.shape[1])
    return nn.functional.pad(tokens, extra, value=pad_id), nn.functional.pad(mask, extra, value=False)
