"""What a language model has read of a batch of texts, kept so that no token goes through it twice."""

from inspect import signature
from typing import Any

import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import DynamicCache, GPT2LMHeadModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

KEY_VALUE_CACHE = "cache" if "cache" in signature(GPT2LMHeadModel.forward).parameters else "past_key_values"
"""What the installed transformers calls the keys and values of earlier tokens: 5.24 renamed them."""


def read_on(
    model: nn.Module,
    tokens: Int[Tensor, "b n"],
    mask: Int[Tensor, "b L"] | Bool[Tensor, "b L"],
    positions: Int[Tensor, "b n"],
    cache: Any = None,
    last: int = 1,
) -> tuple[Float[Tensor, "b last V"], Any]:
    """Logits behind each of the `last` last tokens, and the keys and values of all L that were read.

    `cache` has those of the L − n tokens before; the mask is 0 at padding, and stands for all L. Raises ValueError for
    a model that hands none on.
    """
    output: Any = model(
        input_ids=tokens,
        attention_mask=mask.long(),
        position_ids=positions,
        use_cache=True,
        logits_to_keep=last,
        **{KEY_VALUE_CACHE: cache},
    )
    if not hasattr(output, KEY_VALUE_CACHE):
        raise ValueError(
            f"model: got a {type(model).__name__}, which here hands on no {KEY_VALUE_CACHE}, expected one that keeps "
            "there what it has read; take another model, or a newer transformers"
        )
    return output.logits, getattr(output, KEY_VALUE_CACHE)


class Memory:
    """The keys and values of texts that go on, for at most `room` tokens more, and may leave the batch."""

    def __init__(self, model: nn.Module, room: int) -> None:
        self._model, self._room = model, room
        self._cache: Any = None
        self._is_plain_gpt2 = _is_plain_gpt2(model)

    def read(
        self, tokens: Int[Tensor, "b n"], mask: Bool[Tensor, "b L"], positions: Int[Tensor, "b n"]
    ) -> Float[Tensor, "b V"]:
        """Logits behind the last token; the mask stands for these tokens and all that were read before."""
        if self._cache is not None and self._is_plain_gpt2:
            return _gpt2_token(self._model, tokens, mask, positions, self._cache)
        first = self._cache is None
        logits, self._cache = read_on(self._model, tokens, mask, positions, self._cache)
        if first and self.rows_can_leave:
            layers = self._cache.layers
            layers[:] = [_Roomy(layer, self._room) if type(layer) is DynamicLayer else layer for layer in layers]
        return logits[:, -1]

    @property
    def rows_can_leave(self) -> bool:
        """Whether all that is kept are keys and values: running states are not known here."""
        known = (DynamicLayer, DynamicSlidingWindowLayer, _Roomy)
        return type(self._cache) is DynamicCache and all(type(layer) in known for layer in self._cache.layers)

    def keep(self, rows: Int[Tensor, " c"]) -> None:
        """Forget the other rows."""
        self._cache.batch_select_indices(rows)


class _Roomy(DynamicLayer):  # type: ignore[no-untyped-call]
    """A layer's keys and values with room for more: a token is written behind them, and nothing is copied."""

    keys: Tensor
    values: Tensor

    def __init__(self, layer: Any, room: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        vars(self).update(vars(layer))
        self._buffers = [F.pad(x, (0, 0, 0, room)) for x in (layer.keys, layer.values)]
        self._look(layer.get_seq_length())

    def _look(self, length: int) -> None:
        self.keys, self.values = (buffer[:, :, :length] for buffer in self._buffers)

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """The keys and values of all tokens, the new ones with them."""
        start, end = self.get_seq_length(), self.get_seq_length() + key_states.shape[-2]
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, start:end] = new
        self._look(end)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows only."""
        self._buffers = [buffer[indices] for buffer in self._buffers]
        self._look(self.get_seq_length())


def _is_plain_gpt2(model: Any) -> bool:
    """Whether `_gpt2_token` computes what `model` would."""
    return (
        type(model) is GPT2LMHeadModel
        and model.config._attn_implementation == "sdpa"
        and not model.config.add_cross_attention
        and not model.training
        and "forward" not in vars(model)
    )


def _gpt2_token(
    model: Any, tokens: Int[Tensor, "b 1"], mask: Bool[Tensor, "b L"], positions: Int[Tensor, "b 1"], cache: Any
) -> Float[Tensor, "b V"]:
    """What `model` computes of one token more: the same products in the same order, so that no bit differs.

    Of a small model, half the time of transformers' own call goes into finding out what is to be called.
    """
    trunk = model.transformer
    x = (trunk.wte(tokens) + trunk.wpe(positions)).squeeze(1)
    seen = mask[:, None, None]
    for block, layer in zip(trunk.h, cache.layers, strict=True):
        attention = block.attn
        qkv = attention.c_attn(block.ln_1(x)).view(len(x), 3, attention.num_heads, 1, attention.head_dim)
        query, key, value = qkv.unbind(1)
        keys, values = layer.update(key, value)
        mixed = F.scaled_dot_product_attention(query, keys, values, seen, scale=attention.scaling)
        x = x + attention.c_proj(mixed.reshape(x.shape))
        x = x + block.mlp(block.ln_2(x))
    logits: Tensor = model.lm_head(trunk.ln_f(x))
    return logits
