"""Conversations as text and as tokens: chat templates, and the mask that says which tokens the assistant has to learn.

A message is data. What a user writes is never taken for a role marker, and never controls a terminal.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

Messages = Sequence[Mapping[str, str]]
"""A conversation: {"role": "user" or "assistant" or "system", "content": text}, in order."""

KINDS_REMOVED = {"Cc": " ", "Cf": "", "Cs": "", "Co": ""}
"""Unicode categories of control, format, surrogate and private characters, and what takes their place."""


def clean(text: str) -> str:
    """`text` on one line, without characters that control a terminal, reorder or hide text."""
    visible = (KINDS_REMOVED.get(unicodedata.category(c), c) for c in text)
    return " ".join("".join(visible).split())


def neutralise(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """`text` with every special token that is spelt out in it broken by a space: "<|end|>" becomes "< |end|>".

    A message is data. Without this a user could write "<|end|> <|assistant|> …" and put words into the model's mouth.
    Upper and lower case count alike, since a template may change the case.
    """
    # NFKC first: a look-alike that lower() turns into a plain letter would come back as a special token.
    text = unicodedata.normalize("NFKC", text)
    for token in sorted(_special_tokens(tokenizer), key=len, reverse=True):
        text = re.sub(re.escape(token), lambda found: f"{found[0][0]} {found[0][1:]}", text, flags=re.IGNORECASE)
    return text


def render(tokenizer: PreTrainedTokenizerBase, messages: Messages, reply: bool = False) -> str:
    """The conversation in the tokenizer's chat template; with `reply` it ends where the assistant's answer begins.

    Contents are neutralised. Raises ValueError for a tokenizer without template and for an unknown role.
    """
    if not tokenizer.chat_template:
        raise ValueError("tokenizer: got one without chat template, expected one with `tokenizer.chat_template` set")
    for message in messages:
        if message["role"] not in ("system", "user", "assistant"):
            raise ValueError(f"role: got {message['role']!r}, expected 'system', 'user' or 'assistant'")
    conversation = [{"role": m["role"], "content": neutralise(tokenizer, m["content"])} for m in messages]
    return _fill_in(tokenizer, conversation, reply)


class Conversation(NamedTuple):
    """Tokens of a conversation, and which of them the loss counts."""

    tokens: Int[Tensor, " L"]
    mask: Bool[Tensor, " L"]


def encode_conversation(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> Conversation:
    """The whole conversation as tokens, with the mask of what the assistant has to learn.

    The mask is 1 on the words of every assistant turn and on the end token behind them, 0 on the user's words and on
    all that the template writes by itself (role markers, a system prompt, the line break after an end token). A token
    that merges the end of a marker with the start of an answer belongs to the answer.

    The boundaries come from the template: turn i begins where the messages before it, rendered for a reply, end.
    Raises ValueError when the tokenizer has no end token or no character offsets, when there is no assistant turn, or
    for a template that writes earlier turns differently once later ones follow.
    """
    end_token = tokenizer.eos_token
    if not end_token or not tokenizer.is_fast:
        raise ValueError("tokenizer: got one without EOS token or offsets, expected a fast one with an EOS token")
    if not any(message["role"] == "assistant" for message in messages) or messages[0]["role"] == "assistant":
        raise ValueError("messages: expected at least one assistant turn, and something to answer before it")
    text = render(tokenizer, messages)
    spans = []
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before, after = render(tokenizer, messages[:i], reply=True), render(tokenizer, messages[: i + 1])
        if not (after.startswith(before) and text.startswith(after)):
            raise ValueError(
                f"tokenizer: its template writes message {i} differently when others follow; "
                "encode each turn with encode_demonstrations"
            )
        end = after.rfind(str(end_token), len(before))
        if end < 0:
            raise ValueError(f"tokenizer: its template puts no {end_token} after an answer, expected one to learn")
        spans.append((len(before), end + len(end_token)))
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    mask = [any(a < end and start < b for start, end in spans) for a, b in encoded["offset_mapping"]]
    return Conversation(torch.tensor(encoded["input_ids"]), torch.tensor(mask))


def _fill_in(tokenizer: PreTrainedTokenizerBase, messages: Messages, reply: bool) -> str:
    """The template's text, made in transformers' sandbox: a template is a program."""
    try:
        turns = [dict(message) for message in messages]
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=reply))
    except Exception as error:  # of whatever the program does
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"tokenizer: its chat template cannot be used here ({reason[:150]})") from error


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return {token for token in added | set(tokenizer.all_special_tokens) if len(token) > 1}
