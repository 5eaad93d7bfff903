"""Conversations as text and as tokens: chat templates, and the mask that says which tokens the assistant has to learn.

A message is data. What a user writes is never taken for a role marker, and never controls a terminal.
"""

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from week6.machine import validate as check
from week6.machine.checkpoint import RunError
from week6.sequences import own_tokens

Messages = Sequence[Mapping[str, str]]
"""A conversation: {"role": "user" or "assistant" or "system", "content": text}, in order."""

MARKS = (
    r"<[|｜][\w▁]+[|｜]>|</?s>|<(?:bos|eos|(?:start|end)_of_turn)>|\[/?INST\]|"
    r"### ?(?:Human|User|Instruction|Assistant|Response):?|"
    r"\[\s*\{\s*['\"](?:role|content|from|value)['\"]"
)
"""With which the templates of many models, and lists of messages, begin or end a turn."""
LONGEST_MARK, SHORTEST_ANSWER = 40, 12
"""Characters; shorter answers may stand in a mark by chance."""
TAGS = re.compile(r"<[^<>]*>")
"""That may stand before an answer, as those of an empty thought do."""
MEND = "mend it, or remove it: then the form of the data stays"
LONGEST = 100_000
"""Characters that a chat template may add to a conversation."""
KINDS_REMOVED = {"Cc": " ", "Cf": "", "Cs": "", "Co": ""}
"""Unicode categories of control, format, surrogate and private characters, and what takes their place."""


@check.arguments
def clean(text: str) -> str:
    """`text` on one line, without characters that control a terminal, reorder or hide text."""
    visible = (KINDS_REMOVED.get(unicodedata.category(c), c) for c in text)
    return " ".join("".join(visible).split())


def visible(text: str) -> str:
    """`text` without characters that nobody sees, and without blanks around it."""
    if not text.isascii():
        text = "".join(c for c in text if unicodedata.category(c) != "Cf")
    return text.strip()


def break_special_tokens(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[str]:
    """`texts` with every special token that is spelt out in them broken by a space: "<|end|>" becomes "< |end|>".

    A text of a file is data. Without this a tokenizer would read an end token in the middle of an answer. Upper and
    lower case count alike, since a template may change the case.
    """
    special = sorted(_special_tokens(tokenizer), key=len, reverse=True)
    patterns = [(token.lower(), re.compile(re.escape(token), re.IGNORECASE)) for token in special]
    broken = []
    for text in texts:
        lower = text.lower()
        for token, pattern in patterns:
            if token in lower:
                text = pattern.sub(_apart, text)
        broken.append(text)
    return broken


def check_plain(tokenizer: PreTrainedTokenizerBase, texts: Mapping[int, str], column: str, more: str = "") -> None:
    """Raise RunError where more than half of a `column` of texts, by their rows, begin or end with a special token or
    with another mark of a chat template, or with what the pattern `more` describes: they are no plain text, and would
    stand in two templates. Some that quote one do no harm."""
    marks = "|".join([*map(re.escape, sorted(_special_tokens(tokenizer))), MARKS, *filter(None, [more])])
    begins, ends = re.compile(f"(?:{marks})"), re.compile(f"(?:{marks})$")
    found = {i: begins.match(x.lstrip()) or ends.search(x.rstrip()[-LONGEST_MARK:]) for i, x in texts.items()}
    marked = {i: mark[0] for i, mark in found.items() if mark}
    if 2 * len(marked) > len(texts):
        i = min(marked)
        raise RunError(
            f"{column}: row {i + 1} begins or ends with {marked[i]!r}, as most do, expected plain text: the template "
            "writes what stands around it; take out such marks"
        )


def neutralise(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """`text` with special tokens broken, and the role markers that the tokenizer's template writes in plain words.

    A message is data. Without this a user could write "<|end|> <|assistant|> …", or, where the template says
    "Assistant:" on a line of its own, just that, and put words into the model's mouth. A marker in words is joined to
    the line before it, any other one is broken by a space.
    """
    # NFKC first: a look-alike that lower() turns into a plain letter would come back as a special token.
    (text,) = break_special_tokens(tokenizer, [unicodedata.normalize("NFKC", text)])
    for pattern, instead in _role_markers(tokenizer, str(tokenizer.chat_template or "")):
        text = pattern.sub(instead, text)
    return text


def render(tokenizer: PreTrainedTokenizerBase, messages: Messages, reply: bool = False) -> str:
    """The conversation in the tokenizer's chat template; with `reply` it ends where the assistant's answer begins.

    Contents are neutralised. Raises ValueError for a tokenizer without template, for a message without a known role
    or text, and for a system turn where the template has none.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError("tokenizer: got one without chat template, expected one with `tokenizer.chat_template` set")
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise ValueError(f"messages: got {messages!r:.60}, expected a list of one or more with role and content")
    for i, message in enumerate(messages):
        role, content = (message.get(key) if isinstance(message, Mapping) else None for key in ("role", "content"))
        if role not in ("system", "user", "assistant"):
            raise ValueError(f"role: got {role!r}, expected 'system', 'user' or 'assistant'")
        if not isinstance(content, str):
            raise ValueError(f"content: got {content!r:.60} in message {i}, expected text")
    conversation = [{"role": m["role"], "content": neutralise(tokenizer, m["content"])} for m in messages]
    text = _fill_in(tokenizer, conversation, reply)
    if any(message["role"] == "system" for message in messages):
        _check_system_turn(tokenizer, conversation, text)
    return text


def written_turn(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> tuple[str, str]:
    """The last message, an answer, and the prompt before it, as the template writes both; without the end token.

    Raises ValueError for a template that begins an answer otherwise than it asks for one, that leaves messages out,
    that puts no end token behind an answer or goes on behind it, and where `render` does.
    """
    before, after = render(tokenizer, messages[:-1], reply=True), render(tokenizer, messages)
    if not after.startswith(before):
        asked = render(tokenizer, messages[:-1])
        if before.startswith(asked) and after.startswith(asked):
            mark = before[len(asked) :].strip()
            raise ValueError(
                f"tokenizer: its template asks for an answer with {mark[-LONGEST_MARK:]!r} but does not begin one so, "
                f"expected the same before both; {MEND}"
            )
        raise _rewriting(len(messages) - 1)
    words = [neutralise(tokenizer, message["content"]).strip().lower() for message in messages]
    place, lower = 0, after.lower()
    for i, text in enumerate(words):
        start = lower.find(text, place if i < len(words) - 1 else max(place, len(before)))
        if start < 0:
            raise ValueError(f"tokenizer: its template leaves message {i} out, expected all of a conversation; {MEND}")
        place = start + len(text)
    mark = str(tokenizer.eos_token)
    end = after.rfind(mark, place)
    if end < 0:
        raise ValueError(
            f"tokenizer: its template puts no {mark} after an answer, expected one to learn; set eos_token in "
            "tokenizer_config.json to what ends a turn"
        )
    answer = after[len(before) : end]
    if mark in answer or (len(text) > SHORTEST_ANSWER and answer.lower().count(text) > 1):
        raise ValueError(
            f"tokenizer: its template goes on with more than an answer before the last {mark}, expected one; {MEND}"
        )
    behind = answer.lower().rpartition(text)[2]
    for token in _special_tokens(tokenizer):
        behind = behind.replace(token.lower(), "")
    if behind.strip():
        raise ValueError(
            f"tokenizer: its template writes {behind.strip()[:LONGEST_MARK]!r} behind an answer, expected its end "
            f"token alone: the policy would learn to write it; {MEND}"
        )
    header = after[len(before) : start].strip()
    if TAGS.sub("", header).strip() or (header and before == render(tokenizer, messages[:-1])):
        raise ValueError(
            f"tokenizer: its template writes {header[:LONGEST_MARK]!r} before an answer but not where one is asked "
            f"for, expected it there too (add_generation_prompt); {MEND}"
        )
    return before, answer


def _rewriting(i: int) -> ValueError:
    return ValueError(
        f"tokenizer: its template writes message {i} otherwise when others stand before or behind it, expected each "
        f"turn as it is; {MEND}"
    )


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
    text = render(tokenizer, messages)
    if not any(message["role"] == "assistant" for message in messages) or messages[0]["role"] == "assistant":
        raise ValueError("messages: expected at least one assistant turn, and something to answer before it")
    spans = []
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before, answer = written_turn(tokenizer, messages[: i + 1])
        if not text.startswith(before + answer + str(end_token)):
            raise _rewriting(i)
        spans.append((len(before), len(before + answer) + len(end_token)))
    encoded = tokenizer(text, return_offsets_mapping=True, return_special_tokens_mask=True)
    keep = own_tokens(tokenizer, encoded["input_ids"], encoded["special_tokens_mask"])
    mask = [any(a < end and start < b for start, end in spans) for a, b in encoded["offset_mapping"][keep]]
    return Conversation(torch.tensor(encoded["input_ids"][keep]), torch.tensor(mask))


def _fill_in(tokenizer: PreTrainedTokenizerBase, messages: Messages, reply: bool) -> str:
    """The template's text, made in transformers' sandbox: a template is a program."""
    try:
        turns = [dict(message) for message in messages]
        text = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=reply))
        if len(text) > LONGEST + sum(len(turn["content"]) for turn in turns):
            raise ValueError(f"it writes {len(text)} characters")
        return text
    except Exception as error:  # of whatever the program does
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"tokenizer: its chat template cannot be used here ({reason[:150]}), expected one that writes a "
            f"conversation; {MEND}"
        ) from error


def _check_system_turn(tokenizer: PreTrainedTokenizerBase, conversation: Messages, text: str) -> None:
    """Raise ValueError where the template leaves a system turn out, or marks it with words that are no tokens."""
    system = [message["content"] for message in conversation if message["role"] == "system"]
    if not all(content.strip().lower() in text.lower() for content in system):
        raise ValueError(
            "role: got 'system', which the tokenizer's template leaves out; expected 'user' or 'assistant'"
        )
    unknown = tokenizer.unk_token_id
    if unknown is not None and unknown != tokenizer.eos_token_id:
        turns = [{"role": role, "content": ""} for role in ("system", "user")]
        marked, unmarked = (tokenizer(_fill_in(tokenizer, part, False))["input_ids"] for part in (turns, turns[1:]))
        if marked.count(unknown) > unmarked.count(unknown):
            raise ValueError(
                "role: got 'system', which the template marks with words that are no tokens; expected 'user' or "
                "'assistant'"
            )


def _apart(found: re.Match[str]) -> str:
    return f"{found[0][0]} {found[0][1:]}"


@lru_cache(maxsize=16)
def _role_markers(
    tokenizer: PreTrainedTokenizerBase, template: str
) -> tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...]:
    """What stands between two messages in the template and is made of plain characters, and what to put instead.

    "\\n\\nAssistant: " and " [/INST] " are such; what hangs on a special token is none without it.
    """
    if not template:
        return ()
    first, second = "qxjone", "qxjtwo"  # survive any change of case, and stand in no template
    turns = [{"role": "user", "content": first}, {"role": "assistant", "content": second}] * 2
    try:
        texts = [_fill_in(tokenizer, turns, False), _fill_in(tokenizer, turns[:3], True)]
    except ValueError:  # its fault is said where it is used
        return ()
    special = "|".join(map(re.escape, sorted(_special_tokens(tokenizer), key=len, reverse=True)))
    between = [part for text in texts for part in re.split(f"{first}|{second}", text, flags=re.IGNORECASE)[1:]]
    lines = [(number, line) for part in between for number, line in enumerate(part.split("\n"))]
    starts_line = any(part.endswith("\n") for part in between)  # then a message may begin with a marker
    found: dict[str, tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]] = {}
    for number, line in lines:
        pieces = re.split(special, line) if special else [line]
        for piece in filter(None, map(str.strip, pieces)):
            marker = re.escape(piece)
            if not piece[0].isalnum():
                found[piece] = re.compile(marker, re.IGNORECASE), _apart
            elif piece.isalnum() and len(pieces) > 1:  # the name of a role beside its special token
                continue
            elif number == 0 and piece not in found:
                alone = r"\b" if piece.isalnum() else ""  # "User", but not in "superuser"
                found[piece] = re.compile(alone + marker + alone, re.IGNORECASE), _apart
            elif number > 0:
                found[piece] = re.compile(rf"\s*\n\s*(?={marker})", re.IGNORECASE), " "
                if starts_line:
                    found[f"^{piece}"] = re.compile(rf"^{marker}", re.IGNORECASE), _apart
    return tuple(found.values())


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return {token for token in added | set(tokenizer.all_special_tokens) if len(token) > 1}
