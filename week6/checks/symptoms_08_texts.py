"""The symptoms of notebook 08's capstone in what is learned from: the texts, and the mask of their tokens."""

from collections.abc import Callable

import torch
from torch import Tensor

from week6.checks.bench_08 import Chatbot
from week6.checks.capstone import Symptom
from week6.checks.steps_08 import at_texts, at_tokens, letters, table


def _text_of(c: Chatbot) -> str:
    """All that was rendered."""
    return " ".join(str(text) for text in c.parts.get("texts", ()))


def _mask_is(rule: Callable[[Chatbot, Tensor, Tensor], Tensor]) -> Callable[[Chatbot], bool]:
    """Whether the mask follows another rule; the rule gets the tokens and the right mask."""

    def same(c: Chatbot) -> bool:
        tokens, mask = c.bench.encoded
        got = torch.tensor(table(c, "mask"), dtype=torch.bool)
        return got.shape == mask.shape and torch.equal(got, rule(c, tokens, mask))

    return at_tokens(same)


def _real(c: Chatbot, tokens: Tensor) -> Tensor:
    real: Tensor = tokens != c.bench.tokenizer.pad_token_id
    return real


def _last_answer(c: Chatbot, tokens: Tensor, mask: Tensor) -> Tensor:
    begun = (tokens == c.bench.assistant_id).long().cumsum(-1)
    last: Tensor = mask & (begun == begun.max(-1, keepdim=True).values)
    return last


def _late(mask: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(mask[:, :1]), mask[:, :-1]], 1)


def _texts(c: Chatbot) -> list[tuple[str, str]]:
    """The student's texts, each with the right one."""
    return list(zip(map(str, c.parts["texts"]), c.bench.texts, strict=True))


OF_THE_TEXTS: tuple[Symptom, ...] = (
    Symptom(
        "markers of another template",
        at_texts(
            lambda c: any(marker in _text_of(c) for marker in ("<|user|>", "<|assistant|>", "<|im_start|>", "[INST]")),
        ),
        "Your texts hold markers that this tokenizer does not know. The template travels with the tokenizer: "
        "tokenizer.apply_chat_template(talk, tokenize=False).",
    ),
    Symptom(
        "a reply is asked for in training",
        at_texts(
            lambda c: list(c.parts.get("texts", ())) == [c.bench.text(talk, reply=True) for talk in c.bench.talks],
        ),
        "Your training texts end with a marker for one more answer: add_generation_prompt is for the held-out "
        "conversations only.",
    ),
    Symptom(
        "the last exchange only",
        at_texts(
            lambda c: list(c.parts.get("texts", ())) == [c.bench.text(talk[-2:]) for talk in c.bench.talks],
        ),
        "You render the last question and answer only. The whole conversation belongs in the text.",
    ),
    Symptom(
        "tidied otherwise",
        at_texts(lambda c: all(letters(a) == letters(b) for a, b in _texts(c))),
        "Your texts hold the right words, but not letter by letter as the template writes them: capitals or spaces "
        "differ. Take what tokenizer.apply_chat_template(talk, tokenize=False) returns, as it is.",
    ),
    Symptom(
        "something behind the texts",
        at_texts(lambda c: all(a.startswith(b.rstrip()) for a, b in _texts(c))),
        "Your texts are the template's with something added at their ends. The template has written everything "
        "already, the last end token too.",
    ),
    Symptom(
        "texts end too early",
        at_texts(lambda c: all(b.startswith(a.rstrip()) for a, b in _texts(c))),
        "Your texts begin as they should and end too early: every message of the conversation belongs in them, and the "
        "last end token.",
    ),
    Symptom(
        "texts begin too late",
        at_texts(lambda c: all(b.endswith(a.lstrip()) for a, b in _texts(c))),
        "Your texts end as they should and begin too late: every message of the conversation belongs in them, from the "
        "first on.",
    ),
    Symptom(
        "special tokens lost",
        at_texts(
            lambda c: not any(mark in _text_of(c) for mark in c.bench.tokenizer.all_special_tokens),
        ),
        "Your texts have no markers and no end tokens. They come from the tokenizer's template: "
        "tokenizer.apply_chat_template(talk, tokenize=False).",
    ),
    Symptom(
        "padded on the left",
        at_tokens(lambda c: any(row[0] == c.bench.tokenizer.pad_token_id for row in table(c, "tokens"))),
        "Your training rows are padded on the left. That is for prompts, which an answer follows; whole conversations "
        "are padded on the right.",
    ),
    Symptom(
        "the mask one token early",
        _mask_is(lambda c, tokens, mask: torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], 1)),
        "Your mask is one token early: it counts the marker and not the end token. The shift by one belongs in the "
        "loss, once.",
    ),
    Symptom(
        "the marker counted",
        _mask_is(lambda c, tokens, mask: mask | (tokens == c.bench.assistant_id)),
        "Your mask counts the assistant's marker too. The template writes it.",
    ),
    Symptom(
        "the end token forgotten",
        _mask_is(lambda c, tokens, mask: mask & (tokens != c.bench.tokenizer.eos_token_id)),
        "The end token does not count in your mask: the model will never learn to stop.",
    ),
    Symptom(
        "everything counted",
        lambda c: (
            _mask_is(lambda c, tokens, mask: _real(c, tokens))(c)
            or _mask_is(lambda c, tokens, mask: torch.ones_like(mask))(c)
        ),
        "Your mask counts every token, the user's words too. They are read, not imitated.",
    ),
    Symptom(
        "the user counted",
        lambda c: (
            _mask_is(lambda c, tokens, mask: ~mask & _real(c, tokens))(c) or _mask_is(lambda c, tokens, mask: ~mask)(c)
        ),
        "Your mask is turned round: it counts the user's tokens, and none of the assistant's.",
    ),
    Symptom(
        "the last answer only",
        _mask_is(_last_answer),
        "Your mask counts the last answer only. Each of the assistant's turns is an answer to learn from.",
    ),
    Symptom(
        "padding counted",
        _mask_is(lambda c, tokens, mask: mask | ~_real(c, tokens)),
        "Your mask is True on the padding. It counts what the assistant has to write, and nobody writes padding.",
    ),
    Symptom(
        "the mask one token late",
        _mask_is(
            lambda c, tokens, mask: torch.cat([torch.zeros_like(mask[:, :1]), mask[:, :-1]], 1) & _real(c, tokens)
        ),
        "Your mask is one token late: it leaves out the first word of each answer and counts what follows its end. The "
        "shift by one belongs in the loss, once.",
    ),
    Symptom(
        "the first answer only",
        _mask_is(lambda c, tokens, mask: mask & ((tokens == c.bench.assistant_id).long().cumsum(-1) == 1)),
        "Your mask counts the first answer only. Each of the assistant's turns is an answer to learn from.",
    ),
    Symptom(
        "everything from the first answer on",
        _mask_is(lambda c, tokens, mask: (mask.long().cumsum(-1) > 0) & _real(c, tokens)),
        "Your mask counts everything from the first answer on, the user's next question too. An answer ends with its "
        "end token.",
    ),
    Symptom(
        "the user's marker counted",
        _mask_is(
            lambda c, tokens, mask: mask | (_late(mask & (tokens == c.bench.tokenizer.eos_token_id)) & _real(c, tokens))
        ),
        "Your mask counts the token behind each answer too, which opens the user's next turn. An answer ends with "
        "its end token.",
    ),
    Symptom(
        "markers alone",
        _mask_is(lambda c, tokens, mask: tokens == c.bench.assistant_id),
        "Your mask counts the assistant's markers alone. They say where an answer begins; what counts stands behind "
        "them.",
    ),
    Symptom(
        "end tokens alone",
        _mask_is(lambda c, tokens, mask: tokens == c.bench.tokenizer.eos_token_id),
        "Your mask counts the end tokens alone. The words of the answers count, too.",
    ),
    Symptom(
        "the first word forgotten",
        _mask_is(lambda c, tokens, mask: mask & _late(mask)),
        "Your mask leaves out the first word of each answer. It is the first token behind the marker, and it counts.",
    ),
)
