"""Texts as tokens, and how a batch of them is laid out: everything about padding lives here.

Axes: B batch, P prompt length (padded on the left), T response length (padded on the right), V vocabulary.

A batch is [pad pad prompt prompt | answer answer EOS pad]. Prompts end, and responses begin, at the same column for
every row, so that response token t is always predicted by column P − 1 + t. Masks are made from lengths, never from
`ids != pad`: where the pad token is the EOS token, such a mask hides the EOS and the model never learns to stop.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from week6.machine import validate as check
from week6.machine.compute import stack


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
    prompt_mask: Bool[Tensor, "B P"]
    responses: Int[Tensor, "B T"]
    response_mask: Bool[Tensor, "B T"]

    def __len__(self) -> int:
        return len(self.responses)

    @property
    def columns(self) -> tuple[int, int]:
        """How many tokens wide a row is, and how many of them are those of the answer."""
        return self.prompts.shape[1] + self.responses.shape[1], self.responses.shape[1]

    @property
    def weights(self) -> Int[Tensor, " B"]:
        """What each row counts in a mean over answer tokens: how many it has."""
        return self.response_mask.sum(-1)

    @property
    def tokens(self) -> int:
        """How many real tokens the rows have in all."""
        return int(self.prompt_mask.sum() + self.response_mask.sum())


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

    @property
    def weights(self) -> Float[Tensor, " N"]:
        """What each row counts in a mean over pairs: 1."""
        return torch.ones(len(self))

    @property
    def tokens(self) -> int:
        """How many real tokens both answers with their prompts have in all."""
        return int(2 * self.prompt_mask.sum() + self.chosen_mask.sum() + self.rejected_mask.sum())

    def stacked(self) -> Demonstrations:
        """Both answers in one batch of 2N rows, the chosen ones first, for one forward pass."""
        return Demonstrations(
            prompts=torch.cat([self.prompts, self.prompts]),
            prompt_mask=torch.cat([self.prompt_mask, self.prompt_mask]),
            responses=torch.cat([self.chosen, self.rejected]),
            response_mask=torch.cat([self.chosen_mask, self.rejected_mask]),
        )


@check.arguments
def left_pad(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Int[Tensor, "B P"], Bool[Tensor, "B P"]]:
    """Token rows of different lengths as one tensor padded on the left, with its mask (from lengths)."""
    tokens, mask = _right_pad(rows, pad_id, -1)
    return tokens.flip(1), mask.flip(1)


@check.arguments
def right_pad(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Int[Tensor, "B T"], Bool[Tensor, "B T"]]:
    """Token rows of different lengths as one tensor padded on the right, with its mask (from lengths)."""
    return _right_pad(rows, pad_id, 1)


def _right_pad(rows: Sequence[Sequence[int]], pad_id: int, step: int) -> tuple[Tensor, Tensor]:
    try:
        if not rows or not all(len(row) for row in rows):
            raise ValueError("got no rows or an empty row")
        width = max(map(len, rows))
        tokens = torch.tensor([[*[*row][::step], *[pad_id] * (width - len(row))] for row in rows])
        if tokens.dtype != torch.long:
            raise ValueError(f"got {tokens.dtype} numbers")
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"rows: {error}, expected at least one token id in every row") from None
    mask = torch.arange(width) < torch.tensor([len(row) for row in rows]).unsqueeze(1)
    return tokens, mask


def tokens_of(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Each text as the tokens that a model meets: the same for the same text in training, sampling and chat.

    In front stands what the tokenizer puts before every text (BOS), once, even where a template has written it too;
    what it puts behind every text (EOS) is left out: a text may be a prompt, and goes on.
    """
    return [list(row.tokens) for row in _encode(tokenizer, texts)]


def own_tokens(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], added: Sequence[int]) -> slice:
    """Which of the tokens `ids` of one text `tokens_of` keeps; `added` is 1 at those that the tokenizer has added."""
    own = [i for i, extra in enumerate(added) if not extra]
    if not own:  # an empty text: all but the EOS stands in front of it
        return slice(0, next((i for i, token in enumerate(ids) if token == tokenizer.eos_token_id), len(ids)))
    front, end = own[0], own[-1] + 1
    brought = ids[front : 2 * front] == ids[:front]
    return slice(front if brought else 0, end)


def split_lengths(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], *answers: Sequence[str]
) -> list[tuple[int, int]]:
    """How many tokens of each prompt stay when any of its answers follows, and how many the longest answer has.

    The answer's EOS counts. Byte pairs may merge the end of a prompt with the start of an answer: where no token of
    the prompt's own is left, the first number is 0.
    """
    return [
        (cut, max(len(_ended(whole[cut:], tokenizer.eos_token_id)) for whole in wholes))
        for cut, *wholes in _split(tokenizer, prompts, *answers)
    ]


@check.arguments
def encode_prompts(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]
) -> tuple[Int[Tensor, "B P"], Bool[Tensor, "B P"]]:
    """Prompts as left-padded tokens and their mask, ready for `sample`."""
    check.texts(prompts=prompts)
    rows = tokens_of(tokenizer, prompts)
    for i, row in enumerate(rows):
        if not row:
            raise ValueError(f"prompts: row {i + 1} is {prompts[i]!r:.60}, which has no tokens, expected one or more")
    return left_pad(rows, _tokenizer_pad_id(tokenizer))


@check.arguments
def encode_demonstrations(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], answers: Sequence[str]
) -> Demonstrations:
    """Prompts and answers as tokens; each answer ends with exactly one EOS.

    Prompt and answer are tokenised together, as the model will meet them, and split where the prompt's own tokens
    end; a token that merges the end of the prompt with the start of the answer belongs to the answer. Raises
    ValueError, with its row, for a prompt of which nothing is left then.
    """
    check.texts(prompts=prompts, answers=answers)
    heads, tails = _heads_and_answers(tokenizer, prompts, answers)
    pad = _tokenizer_pad_id(tokenizer)
    return Demonstrations(*left_pad(heads, pad), *right_pad(tails, pad))


@check.arguments
def encode_pairs(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], chosen: Sequence[str], rejected: Sequence[str]
) -> Pairs:
    """Preference pairs as tokens, split as in `encode_demonstrations` at a cut that both answers share."""
    check.texts(prompts=prompts, chosen=chosen, rejected=rejected)
    heads, win, lose = _heads_and_answers(tokenizer, prompts, chosen, rejected)
    pad = _tokenizer_pad_id(tokenizer)
    width = max(map(len, [*win, *lose]))
    return Pairs(
        *left_pad(heads, pad),
        *_widen(*right_pad(win, pad), width, pad),
        *_widen(*right_pad(lose, pad), width, pad),
    )


@check.arguments
def pair_rollouts(first: Rollout, second: Rollout, first_preferred: Bool[Tensor, " B"]) -> Pairs:
    """Two sampled answers to each prompt as preference pairs, from the very tokens that were sampled.

    Going through text would end an unfinished answer with an EOS that the policy never gave.
    """
    if first.prompts.shape != second.prompts.shape:
        raise ValueError(
            f"second: got prompts of shape {tuple(second.prompts.shape)}, expected {tuple(first.prompts.shape)} as "
            "first has"
        )
    if not torch.equal(first.prompts, second.prompts):
        raise ValueError("second: got other prompts than first, expected answers to the same prompts in the same order")
    if first_preferred.shape != first.finished.shape:
        raise ValueError(
            f"first_preferred: got shape {tuple(first_preferred.shape)}, expected {tuple(first.finished.shape)}"
        )
    check.zeros_and_ones("first_preferred", first_preferred)
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


@check.arguments
def decode(
    tokenizer: PreTrainedTokenizerBase, responses: Int[Tensor, "B T"], response_mask: Bool[Tensor, "B T"]
) -> list[str]:
    """Answers as text, without padding and special tokens."""
    check.same_shape(responses=responses, response_mask=response_mask)
    rows = [row[keep.bool()] for row, keep in zip(responses, response_mask, strict=True)]
    try:
        texts: list[str] = tokenizer.batch_decode(rows, skip_special_tokens=True)
    except (OverflowError, TypeError) as error:
        raise ValueError(f"responses: got what is no token id ({error}), expected ids ≥ 0") from None
    return texts


def check_prompts(prompts: Tensor, prompt_mask: Tensor) -> None:
    """Raise ValueError unless the prompts are a batch padded on the left, none of them empty."""
    check.has_dims("prompts", prompts, 2, "(B, P)")
    check.some(prompts=prompts)
    check.same_shape(prompts=prompts, prompt_mask=prompt_mask)
    check.mask_rows("prompt_mask", prompt_mask)
    if (prompt_mask[:, :-1].bool() & ~prompt_mask[:, 1:].bool()).any():
        raise ValueError("prompt_mask: got padding after a token, expected prompts padded on the left")


def check_batch(prompts: Tensor, prompt_mask: Tensor, responses: Tensor, response_mask: Tensor) -> None:
    """Raise ValueError unless this is a batch of prompts with answers, laid out as this module says."""
    check_prompts(prompts, prompt_mask)
    check.has_dims("responses", responses, 2, "(B, T)")
    check.same_shape(responses=responses, response_mask=response_mask)
    if len(prompts) != len(responses):
        raise ValueError(f"responses: got {len(responses)} rows, expected {len(prompts)}, one for each prompt")
    check.mask_rows("response_mask", response_mask)
    if (response_mask[:, 1:].bool() & ~response_mask[:, :-1].bool()).any():
        raise ValueError("response_mask: got a token after padding, expected responses padded on the right")


def _tokenizer_pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    pad: Any = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    if pad is None:
        raise ValueError("tokenizer: got one without pad and EOS token, expected an EOS token at least")
    return int(pad)


class _Row(NamedTuple):
    """The tokens of a text, of which the first `added` stand before every text."""

    tokens: Sequence[int]
    added: int


def _encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[_Row]:
    if not texts:
        return []
    encoding: Any = tokenizer(list(texts), return_special_tokens_mask=True)
    rows = []
    for ids, added in zip(encoding["input_ids"], encoding["special_tokens_mask"], strict=True):
        keep = own_tokens(tokenizer, ids, added)
        rows.append(_Row(ids[keep], sum(added[keep])))
    return rows


def _split(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], *answers: Sequence[str]
) -> list[tuple[int, *tuple[Sequence[int], ...]]]:
    """For each prompt how many of its tokens stay before all of its answers, and the tokens of prompt and answer."""
    alone = _encode(tokenizer, prompts)
    wholes = [_encode(tokenizer, [p + a for p, a in zip(prompts, texts, strict=True)]) for texts in answers]
    rows = []
    for prompt, *whole in zip(alone, *wholes, strict=True):
        cut = min(_common_prefix(prompt.tokens, row.tokens) for row in whole)
        eaten = cut <= prompt.added < len(prompt.tokens)  # BOS alone is not the prompt
        rows.append((0 if eaten else cut, *(row.tokens for row in whole)))
    return rows


def _heads_and_answers(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], *answers: Sequence[str]
) -> list[list[Sequence[int]]]:
    """The tokens of the prompts, and of each list of answers, every answer with one EOS at its end."""
    eos = tokenizer.eos_token_id
    if eos is None:
        raise ValueError("tokenizer: got one without EOS token, expected one: answers must be able to end")
    parts: list[list[Sequence[int]]] = [[] for _ in range(1 + len(answers))]
    for i, (cut, *wholes) in enumerate(_split(tokenizer, prompts, *answers)):
        if cut == 0:
            raise ValueError(
                f"prompts: row {i + 1} is {prompts[i]!r:.60}, which has no tokens or merges with its answer, expected "
                "at least one token of its own; end it with a space, a line break or a role marker"
            )
        for part, tokens in zip(parts, [wholes[0][:cut], *(_ended(whole[cut:], eos) for whole in wholes)], strict=True):
            part.append(tokens)
    return parts


def _ended(answer: Sequence[int], eos: int) -> Sequence[int]:
    end = len(answer)
    while end and answer[end - 1] == eos:
        end -= 1
    return [*answer[:end], eos]


def _common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _widen(tokens: Tensor, mask: Tensor, width: int, pad_id: int) -> tuple[Tensor, Tensor]:
    extra = (0, width - tokens.shape[1])
    return nn.functional.pad(tokens, extra, value=pad_id), nn.functional.pad(mask, extra, value=False)
