"""A model that reads one conversation, and remembers what it has read: no token goes through it twice.

The keys and values of all tokens that were read are kept. Of the next prompt, only what follows the tokens that it
shares with these is read: a turn costs what it adds, however long the conversation is.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.cache_utils import DynamicLayer

from week6.machine.compute import compute
from week6.machine.memory import read_on
from week6.sampling import check_numbers, draw, eos_ids


class Reader:
    """Reads a conversation with `model`; always the logits that the model would give without a memory, to rounding."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._read: list[int] = []
        self._cache: Any = None
        self._weights = _marks(model)

    @torch.no_grad()
    def read(self, tokens: Sequence[int], last: int = 1) -> Float[Tensor, "last V"]:
        """Logits behind each of the `last` last of `tokens`, which are the whole conversation, from its first token."""
        known = self._keep(tokens, len(tokens) - last)
        device = next(self.model.parameters()).device
        new = torch.tensor([tokens[known:]], device=device)
        with compute().precision(self.model):
            logits, self._cache = read_on(
                self.model,
                new,
                torch.ones(1, len(tokens), dtype=torch.long, device=device),
                torch.arange(known, len(tokens), device=device).unsqueeze(0),
                self._cache,
                last,
            )
        self._read = list(tokens)
        return logits[0].float()

    def _keep(self, tokens: Sequence[int], most: int) -> int:
        """Forget all that was read behind the tokens shared with `tokens`, or behind `most`; returns how many stay."""
        shared = 0
        for old, new in zip(self._read, tokens[:most], strict=False):
            if old != new:
                break
            shared += 1
        behind, weights = len(self._read) - shared, _marks(self.model)
        if weights != self._weights or (behind and not _can_forget(self._cache)):
            self._cache, shared = None, 0
        elif behind and shared:
            self._cache.crop(-behind)
        elif behind:
            self._cache = None
        self._weights = weights
        return shared


class Token(NamedTuple):
    """A token of an answer, and log π of it, in nats."""

    id: int
    log_prob: float


@torch.no_grad()
def answer(
    reader: Reader, prompt: Sequence[int], max_new_tokens: int, temperature: float, generator: torch.Generator
) -> Iterator[Token]:
    """An answer token by token, EOS included: the tokens that `sample` draws, for the same generator.

    At temperature 0 each is the likeliest one. The log-probabilities are the policy's own, those at temperature 1,
    whatever temperature the tokens are drawn at.
    """
    ends = set(eos_ids(reader.model).tolist())
    said = list(prompt)
    for _ in range(max_new_tokens):
        logits = reader.read(said)
        own = logits.log_softmax(-1)
        if temperature:
            check_numbers(own)
            only = torch.zeros(1, dtype=torch.long, device=logits.device)
            token = int(draw((logits / temperature).log_softmax(-1), 1, only, generator))
        else:
            token = int(own.argmax())
        yield Token(token, float(own[0, token]))
        if token in ends:
            return
        said.append(token)


def _can_forget(cache: Any) -> bool:
    """Whether every layer keeps the keys and values of all tokens: windows and running states cannot go back."""
    return all(type(layer) is DynamicLayer for layer in getattr(cache, "layers", [None]))


def _marks(model: nn.Module) -> tuple[tuple[int, int], ...]:
    """What changes when the weights do: keys and values of other weights would be wrong."""
    return tuple((weight.data_ptr(), weight._version) for weight in model.parameters())
