"""Questions of notebook 08, chatbots: talk to what you trained."""

import re
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from week6.checks.capstone_08 import capstone
from week6.checks.engine import Misconception, Prediction, Question

__all__ = ["capstone"]

Message = dict[str, str]

# --- 8.1 · the chat template ----------------------------------------------------------------------------------------


def chat_text(messages: list[Message], reply: bool) -> str:
    """The conversation as one string, as the embedded chatbot was trained to read it."""
    parts = []
    for message in messages:
        parts.append(f"<|{message['role']}|> {message['content'].strip().lower()}")
        if message["role"] == "assistant":
            parts.append("<|end|>")
    if reply:
        parts.append("<|assistant|>")
    return " ".join(parts)


def _conversations(g: torch.Generator) -> list[tuple[list[Message], bool]]:
    """By hand: one message and many, a reply after an answer, a system message; and some at random."""
    hello = {"role": "user", "content": "hello !"}
    answer = {"role": "assistant", "content": "hello , what can i do for you ?"}
    bread = {"role": "user", "content": " How do I bake BREAD ? "}
    mix = {"role": "assistant", "content": "mix the flour and bake the bread ."}
    system = {"role": "system", "content": "be brief and polite ."}
    return [
        ([hello], True),
        ([hello, answer], False),
        ([hello, answer, bread], True),
        ([hello, answer, bread, mix], False),
        ([bread], False),
        ([hello, answer], True),  # the user has said nothing since
        ([system, hello, answer, bread], True),
        *(_random_talk(g) for _ in range(5)),
    ]


def _random_talk(g: torch.Generator) -> tuple[list[Message], bool]:
    """A conversation of random length and words, with or without a system message; some words in capitals, with "
    "spaces."""
    words = "a bike bread Hello how I make Please tea thank YOU".split()

    def below(n: int) -> int:
        return int(torch.randint(n, (1,), generator=g))

    roles = ["system"] * below(2) + ["user", "assistant"] * (1 + below(3))
    talk = []
    for role in roles[: len(roles) - below(2)]:
        text = " ".join(words[below(len(words))] for _ in range(1 + below(4)))
        talk.append({"role": role, "content": " " * below(2) + text + " ." + " " * below(3)})
    return talk, below(2) == 1


Tidy = Callable[[str], str]


def _template(
    end: Callable[[str], str], separator: str = " ", marker: str = "<|{role}|>", gap: str = " "
) -> Callable[[Tidy], Callable[..., str]]:
    """A template that goes wrong: `end` gives what stands behind a turn of a role."""

    def with_contents(tidy: Tidy) -> Callable[..., str]:
        def text(messages: list[Message], reply: bool) -> str:
            turns = [f"{marker.format(role=m['role'])}{gap}{tidy(m['content'])}{end(m['role'])}" for m in messages]
            return separator.join([*turns, marker.format(role="assistant")] if reply else turns)

        return text

    return with_contents


def _of_assistant(role: str) -> str:
    return " <|end|>" if role == "assistant" else ""


_right = _template(_of_assistant)


def _whole(change: Callable[[Callable[..., str], list[Message], bool], str]) -> Callable[[Tidy], Callable[..., str]]:
    """A slip in what is rendered, or in the whole string; `change` gets the right template, the messages and reply."""
    return lambda tidy: lambda messages, reply: change(_right(tidy), messages, reply)


def _roles_by_place(messages: list[Message]) -> list[Message]:
    return [message | {"role": "assistant" if i % 2 else "user"} for i, message in enumerate(messages)]


def _two_roles(messages: list[Message]) -> list[Message]:
    return [m | {"role": "assistant" if m["role"] == "assistant" else "user"} for m in messages]


def _end_of_the_last(text: Callable[..., str], messages: list[Message], reply: bool, only_if_done: bool) -> str:
    """An end token behind the last message only, if it is the assistant's."""
    turns = [text([m], False).removesuffix(" <|end|>") for m in messages]
    done = messages[-1]["role"] == "assistant" and not (reply and only_if_done)
    return " ".join([*turns, *(["<|end|>"] if done else []), *(["<|assistant|>"] if reply else [])])


_SLIPS: tuple[tuple[str, Callable[[Tidy], Callable[..., str]], str], ...] = (
    (
        "no end token",
        _template(lambda role: ""),
        "The end token is missing behind the assistant's answers. It is how the model knows, and learns, that an "
        "answer is "
        "over.",
    ),
    (
        "end token after every turn",
        _template(lambda role: " <|end|>"),
        "You end the user's turns with <|end|> too. In this template only the assistant's turns end so; the next "
        "marker ends "
        "the user's.",
    ),
    (
        "end token after the user only",
        _template(lambda role: " <|end|>" if role == "user" else ""),
        "Your end token stands behind the user's turns. It belongs behind the assistant's: the model has to learn to "
        "stop.",
    ),
    (
        "end token once",
        _whole(lambda text, messages, reply: _end_of_the_last(text, messages, reply, only_if_done=True)),
        "You end the conversation, but not each answer. Every assistant turn has its own <|end|>.",
    ),
    (
        "end token for the last answer",
        _whole(lambda text, messages, reply: _end_of_the_last(text, messages, reply, only_if_done=False)),
        "Only the last message gets its end token in your text. Every assistant turn has its own <|end|>.",
    ),
    (
        "end token glued on",
        _template(lambda role: _of_assistant(role).strip()),
        "A space is missing between an answer and its <|end|>.",
    ),
    (
        "never asks for a reply",
        _whole(lambda text, messages, reply: text(messages, False)),
        "With reply=True the text must end with <|assistant|>: the model writes what comes after it. Without it, the "
        "model "
        "goes on with the user's turn.",
    ),
    (
        "always asks for a reply",
        _whole(lambda text, messages, reply: text(messages, True)),
        "You add <|assistant|> at the end even with reply=False. Then a finished conversation would train the model "
        "to open "
        "one more turn.",
    ),
    (
        "reply the wrong way round",
        _whole(lambda text, messages, reply: text(messages, not reply)),
        "Your test of `reply` is the wrong way round: the marker at the end comes with reply=True.",
    ),
    (
        "asks the user",
        _whole(lambda text, messages, reply: text(messages, False) + (" <|user|>" if reply else "")),
        "You end with <|user|>: so the model would write the user's next message. The reply is the assistant's.",
    ),
    (
        "the last message only",
        _whole(lambda text, messages, reply: text(messages[-1:], reply)),
        "You render the last message only. The model has no other memory: all earlier turns must be in the text.",
    ),
    (
        "the first message only",
        _whole(lambda text, messages, reply: text(messages[:1], reply)),
        "You render the first message only: does a `return` stand inside the loop? All turns must be in the text.",
    ),
    (
        "reply ended at once",
        _whole(lambda text, messages, reply: text(messages, reply) + (" <|end|>" if reply else "")),
        "You end the reply before it has begun. <|assistant|> must be the last token: the model writes the answer, "
        "and the "
        "end token itself.",
    ),
    (
        "reply by the last role",
        _whole(lambda text, messages, reply: text(messages, messages[-1]["role"] != "assistant")),
        "You ask for a reply whenever the assistant did not speak last. Whether one is asked for is what the argument "
        "`reply` "
        "says.",
    ),
    (
        "reply to a user only",
        _whole(lambda text, messages, reply: text(messages, reply and messages[-1]["role"] == "user")),
        "You ask for a reply only where the user spoke last. With reply=True the text always ends with <|assistant|>.",
    ),
    (
        "two spaces",
        _whole(lambda text, messages, reply: text(messages, reply).replace(" <|", "  <|")),
        "There are two spaces between some parts. A tokenizer may make other tokens of that: use exactly one.",
    ),
    (
        "two spaces behind an answer",
        _whole(lambda text, messages, reply: text(messages, reply).replace("<|end|> ", "<|end|>  ")),
        "There are two spaces behind an <|end|>. Use exactly one between the turns.",
    ),
    (
        "line breaks",
        _template(_of_assistant, separator="\n"),
        "You join the turns with line breaks. Other templates do that; this chatbot has been trained on single spaces.",
    ),
    (
        "nothing between the turns",
        _template(_of_assistant, separator=""),
        "A space is missing between the turns.",
    ),
    (
        "no space behind a marker",
        _template(_of_assistant, gap=""),
        "A space is missing between a marker and the content behind it.",
    ),
    (
        "no spaces",
        _template(lambda role: _of_assistant(role).strip(), separator="", gap=""),
        "The spaces between markers and words are missing: a single space stands between all parts.",
    ),
    (
        "a space at the end",
        _whole(lambda text, messages, reply: text(messages, reply) + " "),
        "A space stands at the end of your text. A model that goes on from there reads a prompt it was not trained on.",
    ),
    (
        "a space at the end of a finished conversation",
        _whole(lambda text, messages, reply: text(messages, reply) + ("" if reply else " ")),
        "With reply=False a space stands at the end of your text: you put it behind every turn. It belongs between "
        "them.",
    ),
    (
        "a space at the beginning",
        _whole(lambda text, messages, reply: " " + text(messages, reply)),
        "A space stands at the beginning of your text: you put it before every turn. It belongs between them.",
    ),
    (
        "a line break at the end",
        _whole(lambda text, messages, reply: text(messages, reply) + "\n"),
        "A line break stands at the end of your text. Nothing may follow the last token.",
    ),
    (
        "roles by place",
        _whole(lambda text, messages, reply: text(_roles_by_place(messages), reply)),
        "You give the roles in turn, user, assistant, user … Read them off the messages: a conversation may begin "
        "with a "
        "system message.",
    ),
    (
        "two roles only",
        _whole(lambda text, messages, reply: text(_two_roles(messages), reply)),
        "You know the roles user and assistant only. A system message has a marker of its own, <|system|>.",
    ),
    (
        "system messages left out",
        _whole(lambda text, messages, reply: text([m for m in messages if m["role"] != "system"], reply)),
        "You leave out the system messages. They stand in the text like any other, behind <|system|>.",
    ),
    (
        "plain names",
        _template(_of_assistant, marker="{role}:"),
        "You write the roles as words. The markers are special tokens, <|user|> and <|assistant|>: one token each, "
        "that no "
        "message can contain.",
    ),
    (
        "ChatML",
        _template(_of_assistant, marker="<|im_start|>{role}"),
        "These are the markers of another template. A model knows the one it was trained with: <|user|>, "
        "<|assistant|>.",
    ),
    (
        "no markers",
        lambda tidy: lambda messages, reply: " ".join(tidy(m["content"]) + _of_assistant(m["role"]) for m in messages),
        "The role markers are missing: nobody could tell who said what.",
    ),
    (
        "newest first",
        _whole(lambda text, messages, reply: text(list(reversed(messages)), reply)),
        "Your turns stand in reverse order.",
    ),
)
_CONTENTS: tuple[tuple[str, Tidy, str], ...] = (
    ("contents as they are", str, "The contents are to be trimmed and in lower case: .strip().lower()."),
    ("not in lower case", str.strip, "The contents are to be in lower case, as `lower` in the printed template says."),
    ("not trimmed", str.lower, "The contents are to be trimmed, as `trim` in the printed template says: .strip()."),
)
"""How a content is written wrongly: name, what is done to it, message."""


q1 = Question(
    title="8.1 The chat template",
    reference=chat_text,
    cases=_conversations,
    hints=(
        "Read the printed string aloud, with its spaces. Which pieces come from a message, which from the template, "
        "and what stands only behind an assistant's turn?",
        "The text is a sequence of parts with exactly one space between any two: a marker and its content for each "
        "message, an end token behind each of the assistant's, and a last marker if a reply is to follow.",
        "Begin with an empty list of parts. For each message append the marker of its role, a space and its content, "
        "trimmed and in lower case; for an assistant's append the end token too. If `reply`, append the assistant's "
        "marker. Join the parts with single spaces: so none stands at either end.",
        """def chat_text(messages, reply):
    parts = []
    for message in messages:
        parts.append(...)
        if message["role"] == "assistant":
            parts.append("<|end|>")
    if reply:
        parts.append(...)
    return " ".join(parts)""",
    ),
    misconceptions=(
        *(Misconception(name, _right(tidy), message) for name, tidy, message in _CONTENTS),
        Misconception(
            "capitals",
            lambda messages, reply: chat_text(messages, reply).upper(),
            "Everything is in capitals, the markers too. Contents are in lower case, and a marker in capitals is no "
            "marker.",
        ),
        *(Misconception(name, slip(lambda text: text.strip().lower()), message) for name, slip, message in _SLIPS),
        *(
            Misconception(f"{name}; {contents}", slip(tidy), f"{message} And: {more[0].lower()}{more[1:]}")
            for name, slip, message in _SLIPS
            for contents, tidy, more in _CONTENTS
        ),
        Misconception(
            "markers in capitals",
            lambda messages, reply: re.sub(
                r"<[|][a-z]+[|]>", lambda m: m[0].upper(), chat_text(messages, reply)
            ).replace("<|END|>", "<|end|>"),
            "Your role markers are in capitals. They are tokens of their own, in lower case: <|user|>.",
        ),
        Misconception(
            "end before the answer",
            lambda messages, reply: (
                " ".join(
                    f"<|{m['role']}|> {'<|end|> ' if m['role'] == 'assistant' else ''}{m['content'].strip().lower()}"
                    for m in messages
                )
                + (" <|assistant|>" if reply else "")
            ),
            "Your end token stands in front of the answer. It ends it: it comes behind the content.",
        ),
        Misconception(
            "space behind the last marker",
            lambda messages, reply: chat_text(messages, reply) + (" " if reply else ""),
            "A space stands behind the final <|assistant|>. After the last token stands none.",
        ),
    ),
)

# --- 8.2 · the loss mask --------------------------------------------------------------------------------------------


def loss_mask(tokens: Tensor, assistant_id: int, end_id: int) -> Tensor:
    """Which tokens the assistant has to learn: its words and the end token of each of its turns; shape (B, L), bool."""
    begun = (tokens == assistant_id).long().cumsum(-1)
    ended = (tokens == end_id).long().cumsum(-1)
    inside = begun > ended  # from a marker up to the word before the end token
    before = torch.zeros_like(inside[:, :1])
    return torch.cat([before, inside[:, :-1]], dim=-1)


def _token_rows(g: torch.Generator) -> list[tuple[Tensor, int, int]]:
    def conversation(turns: Sequence[tuple[int, int]], user: int, assistant: int, end: int) -> list[int]:
        row: list[int] = []
        for asked, answered in turns:
            words = torch.randint(10, 50, (asked + answered,), generator=g).tolist()
            row += [user, *words[:asked], assistant, *words[asked:], end]
        return row

    def batch(*rows: list[int]) -> Tensor:
        width = max(map(len, rows))
        return torch.tensor([row + [0] * (width - len(row)) for row in rows])

    def drawn() -> list[int]:
        turns = torch.randint(1, 5, (int(torch.randint(1, 4, (1,), generator=g)), 2), generator=g).tolist()
        return conversation([(asked, answered) for asked, answered in turns], 2, 3, 1)

    first = batch(conversation([(3, 2), (2, 4)], 2, 3, 1), conversation([(4, 1)], 2, 3, 1))
    second = batch(conversation([(1, 1), (2, 2), (1, 3)], 7, 5, 6), conversation([(2, 3), (3, 1)], 7, 5, 6))
    third = batch(conversation([(2, 3)], 2, 3, 1) + [2, 11, 3, 12])  # the last answer has not ended
    cut = conversation([(2, 4), (2, 3)], 2, 3, 1)[:-2]  # nor here, before rows that have
    fourth = batch(cut, conversation([(1, 2)], 2, 3, 1), [2, 15, 16], [2, 12, 3, 13])[:, : len(cut)]
    fourth[3] = torch.tensor([2, *range(20, 18 + len(cut)), 3])  # a row that was cut right behind the marker
    return [(first, 3, 1), (second, 5, 6), (third, 3, 1), (fourth, 3, 1)] + [
        (batch(*(drawn() for _ in range(1 + i))), 3, 1) for i in range(4)
    ]


def _inside(tokens: Tensor, assistant_id: int, end_id: int) -> Tensor:
    return (tokens == assistant_id).long().cumsum(-1) > (tokens == end_id).long().cumsum(-1)


def _never_reset(tokens: Tensor, assistant_id: int, end_id: int) -> Tensor:
    """A switch that goes through all rows as through one: an answer without an end leaves it on."""
    mask, inside = [], False
    for token in tokens.flatten().tolist():
        mask.append(inside)
        inside = token == assistant_id or (inside and token != end_id)
    return torch.tensor(mask).reshape(tokens.shape)


def _last_turn(tokens: Tensor, assistant_id: int, end_id: int, last: bool = True) -> Tensor:
    begun = (tokens == assistant_id).long().cumsum(-1)
    turn = begun.max(-1, keepdim=True).values if last else 1
    return loss_mask(tokens, assistant_id, end_id) & (begun == turn)


def _ended_answers(tokens: Tensor, assistant_id: int, end_id: int) -> Tensor:
    ends_later = (tokens == end_id).flip(-1).long().cumsum(-1).flip(-1) > 0
    return loss_mask(tokens, assistant_id, end_id) & ends_later


def _one_more(mask: Tensor, allowed: Tensor) -> Tensor:
    later = torch.cat([torch.zeros_like(mask[:, :1]), mask[:, :-1]], dim=-1)
    return mask | later & allowed


q2 = Question(
    title="8.2 The loss mask",
    reference=loss_mask,
    cases=_token_rows,
    hints=(
        "Put your finger on each token of the printed row. Which does the template write by itself, which must the "
        "model have learned to write? What about <|assistant|>, what about <|end|>?",
        "A switch, read from left to right: the marker turns it on for the *next* token, an end token turns it off for "
        "the *next* one. So the marker itself does not count, and the end token does.",
        "Count along each row how many markers have come so far, and how many end tokens. Inside an answer the first "
        "count is larger. A token counts if that was so just *before* it: the counts without the token itself, or the "
        "mask moved one place to the right. Each row by itself.",
        """def loss_mask(tokens, assistant_id, end_id):
    starts = (tokens == assistant_id).long()
    ends = (tokens == end_id).long()
    open_after = (starts - ends).cumsum(-1)  # 1 while an answer is open, the token itself counted
    open_before = ...
    return open_before > 0""",
    ),
    misconceptions=(
        Misconception(
            "marker counted, end token not",
            _inside,
            "Your mask is one token too early: it counts the marker <|assistant|>, which the template writes, "
            "and not the "
            "end token, which the model must learn to write.",
        ),
        Misconception(
            "marker counted",
            lambda tokens, a, e: _inside(tokens, a, e) | loss_mask(tokens, a, e),
            "You count the marker <|assistant|> too. The template writes it; the model never has to.",
        ),
        Misconception(
            "end token forgotten",
            lambda tokens, a, e: loss_mask(tokens, a, e) & (tokens != e),
            "The end token does not count in your mask: the model would never learn to stop, and talk on in the user's "
            "name.",
        ),
        Misconception(
            "aligned with the logits",
            lambda tokens, a, e: torch.cat(
                [loss_mask(tokens, a, e)[:, 1:], torch.zeros_like(tokens[:, :1]).bool()], -1
            ),
            "Your mask is shifted: it marks the positions that predict the answer. Asked for is which *tokens* "
            "count; the "
            "shift comes in (1), once.",
        ),
        Misconception(
            "the user's words",
            lambda tokens, a, e: ~loss_mask(tokens, a, e),
            "Your mask is inverted: it trains the model to be the user.",
        ),
        Misconception(
            "never switched off",
            lambda tokens, a, e: (tokens == a).long().cumsum(-1) > (tokens == a).long(),
            "From the first marker on everything counts: the user's later words and the padding as well. An end token "
            "closes the turn.",
        ),
        Misconception(
            "rows run into each other",
            _never_reset,
            "Your switch is not reset between the rows: after a row whose answer has no end, the next row begins "
            "switched "
            "on. Each conversation begins with the switch off.",
        ),
        Misconception(
            "down the columns",
            lambda tokens, a, e: loss_mask(tokens.T, a, e).T,
            "You sum down the columns (dim 0), over the conversations. A conversation is a row: dim 1.",
        ),
        Misconception(
            "up to the last end token",
            lambda tokens, a, e: (tokens == e).flip(-1).long().cumsum(-1).flip(-1) > 0,
            "Everything up to the last end token counts in your mask, the user's words and the markers too.",
        ),
        Misconception(
            "all but the markers",
            lambda tokens, a, e: (tokens != 0) & (tokens != a),
            "You leave out the markers and the padding only. The user's words are not to be imitated either.",
        ),
        Misconception(
            "markers and end tokens",
            lambda tokens, a, e: (tokens == a) | (tokens == e),
            "You mark the marker and the end token. They are where the answer begins and ends; its words stand "
            "between them.",
        ),
        Misconception(
            "only the last answer",
            _last_turn,
            "Only the last answer counts in your mask. Every assistant turn is a demonstration: (1) sums over "
            "all of them.",
        ),
        Misconception(
            "only the first answer",
            lambda tokens, a, e: _last_turn(tokens, a, e, last=False),
            "Only the first answer counts in your mask. Every assistant turn is a demonstration: (1) sums over "
            "all of them.",
        ),
        Misconception(
            "only answers that have ended",
            _ended_answers,
            "Right for answers that have ended. One that is cut off has no end token, but its words count all "
            "the same.",
        ),
        Misconception(
            "one token too many",
            lambda tokens, a, e: _one_more(loss_mask(tokens, a, e), tokens != a),
            "You count one token too many behind each answer: the end token is the last that counts.",
        ),
        Misconception(
            "all real tokens",
            lambda tokens, a, e: tokens != 0,
            "Everything but the padding counts in your mask: that is pretraining. The user's words are not to "
            "be imitated.",
        ),
        Misconception(
            "everything",
            lambda tokens, a, e: torch.ones_like(tokens).bool(),
            "Everything counts in your mask, even the padding.",
        ),
        Misconception(
            "end tokens only",
            lambda tokens, a, e: tokens == e,
            "Only the end tokens count in your mask: the words of the answers are missing.",
        ),
        Misconception(
            "one row for all",
            lambda tokens, a, e: loss_mask(tokens[:1], a, e).expand_as(tokens),
            "You use the first row's mask for all rows. Each conversation has its own turns.",
        ),
    ),
)

# --- 8.3 · the evaluation table -------------------------------------------------------------------------------------

Judged = tuple[Tensor, Tensor, Tensor, Tensor]


def evaluation_table(gold: Tensor, sft_gold: Tensor, harmful: Tensor, refused: Tensor) -> Tensor:
    """Win rate against SFT, refusals of harmful and of harmless requests, with standard errors; shape (3, 2)."""
    ours, theirs = gold[:, :, None], sft_gold[:, None, :]
    wins = (ours > theirs).float() + 0.5 * (ours == theirs).float()
    by_prompt = (wins.mean((1, 2)), refused[harmful].float().mean(1), refused[~harmful].float().mean(1))
    return torch.stack([torch.stack([x.mean(), x.std() / len(x) ** 0.5]) for x in by_prompt])


def _judged(g: torch.Generator) -> list[Judged]:
    cases = []
    drawn = (torch.randint(low, low + 8, (3,), generator=g).tolist() for low in (8, 2))
    for m, k, j in ((9, 4, 3), (14, 2, 5), *((12 + a, b, c) for a, b, c in drawn)):
        gold, sft_gold = (torch.randint(-3, 4, (m, n), generator=g).float() for n in (k, j))
        gold[: m // 2] += 1.0
        harmful = torch.rand(m, generator=g) < 0.4
        harmful[:4] = torch.tensor([True, True, False, False])
        rate = torch.where(harmful, 0.8, 0.25)[:, None] * torch.rand(m, 1, generator=g).sqrt()
        cases.append((gold, sft_gold, harmful, torch.rand(m, k, generator=g) < rate))
    return cases


def _table(
    wins: Callable[[Tensor, Tensor], Tensor] | None = None,
    error: Callable[[Tensor], Tensor] | None = None,
    refusals: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
) -> Callable[..., Tensor]:
    """The table with one thing done otherwise: wins and refusals give values (M, K), `error` takes such values."""

    def right_wins(ours: Tensor, theirs: Tensor) -> Tensor:
        return (ours > theirs).float() + 0.5 * (ours == theirs).float()

    def table(gold: Tensor, sft_gold: Tensor, harmful: Tensor, refused: Tensor) -> Tensor:
        won = (wins or right_wins)(gold[:, :, None], sft_gold[:, None, :]).mean(2)
        yes, no = refusals(harmful, refused) if refusals else (refused[harmful].float(), refused[~harmful].float())
        spread = error or (lambda x: x.mean(1).std() / len(x) ** 0.5)
        return torch.stack([torch.stack([x.mean(), spread(x)]) for x in (won, yes, no)])

    return table


def _paired(gold: Tensor, sft_gold: Tensor, harmful: Tensor, refused: Tensor) -> Tensor:
    k = min(gold.shape[1], sft_gold.shape[1])
    ours, theirs = gold[:, :k], sft_gold[:, :k]
    wins = ((ours > theirs).float() + 0.5 * (ours == theirs).float()).mean(1)
    table = evaluation_table(gold, sft_gold, harmful, refused)
    return torch.cat([torch.stack([wins.mean(), wins.std() / len(wins) ** 0.5])[None], table[1:]])


def _all_prompts(gold: Tensor, sft_gold: Tensor, harmful: Tensor, refused: Tensor) -> Tensor:
    counted = torch.stack([torch.tensor(float(len(gold))), harmful.sum(), (~harmful).sum()])
    scale = torch.stack([torch.ones(3), (counted / len(gold)).sqrt()], dim=1)
    return evaluation_table(gold, sft_gold, harmful, refused) * scale


def _with_row(row: int, by_prompt: Tensor, gold: Tensor, sft_gold: Tensor, harmful: Tensor, refused: Tensor) -> Tensor:
    """The right table with one row made of other values of the prompts."""
    table = evaluation_table(gold, sft_gold, harmful, refused)
    table[row] = torch.stack([by_prompt.mean(), by_prompt.std() / len(by_prompt) ** 0.5])
    return table


def _harmful_among_refusals(gold: Tensor, sft_gold: Tensor, harmful: Tensor, refused: Tensor) -> Tensor:
    table = evaluation_table(gold, sft_gold, harmful, refused)
    table[1, 0] = refused[harmful].float().sum() / refused.float().sum()
    return table


q3 = Question(
    title="8.3 The evaluation table",
    reference=evaluation_table,
    cases=_judged,
    hints=(
        "How many independent numbers has each of the three rows: one an answer, one a comparison, or one a prompt?",
        "For each figure first x̄_i, the mean of what belongs to prompt i; then the mean of these and (4), std/√M, "
        "with the number of prompts that this figure is about. A tie is half a win.",
        "Compare all answers with all SFT answers of the same prompt: a tensor (M, K, J), its mean over K and J is x̄ "
        "of the win rate. Refusals: the mean over K, once for the harmful prompts and once for the others. For each of "
        "the three x̄: mean and standard error. Stack to (3, 2).",
        """def evaluation_table(gold, sft_gold, harmful, refused):
    difference = gold[:, :, None] - sft_gold[:, None, :]  # (M, K, J)
    wins = ...
    refusals = refused.float().mean(1)
    rows = []
    for x in (wins.mean((1, 2)), refusals[harmful], ...):
        rows.append(torch.stack([x.mean(), ...]))
    return torch.stack(rows)""",
    ),
    misconceptions=(
        Misconception(
            "ties lost",
            _table(wins=lambda a, b: (a > b).float()),
            "A tie counts 0 in your win rate. It counts one half: else a policy would lose against itself.",
        ),
        Misconception(
            "ties won",
            _table(wins=lambda a, b: (a >= b).float()),
            "A tie counts 1 in your win rate. It counts one half: else a policy would win against itself.",
        ),
        Misconception(
            "losses counted",
            _table(wins=lambda a, b: (a < b).float() + 0.5 * (a == b).float()),
            "You count how often the SFT model wins.",
        ),
        Misconception(
            "difference for win",
            _table(wins=lambda a, b: a - b),
            "Your first row is the mean difference in reward. A win rate counts who wins, not by how much.",
        ),
        Misconception(
            "one comparison a prompt",
            lambda gold, sft_gold, harmful, refused: evaluation_table(
                gold.mean(1, keepdim=True), sft_gold.mean(1, keepdim=True), harmful, refused
            ),
            "You compare the mean rewards, once a prompt. A win rate compares answer with answer: all K · J pairs.",
        ),
        Misconception(
            "against the mean of SFT",
            lambda gold, sft_gold, harmful, refused: evaluation_table(
                gold, sft_gold.mean(1, keepdim=True), harmful, refused
            ),
            "You compare with the *mean* of the SFT answers. A win rate compares answer with answer: all K · J pairs.",
        ),
        Misconception(
            "above the mean of SFT",
            lambda gold, sft_gold, harmful, refused: _with_row(
                0, (gold > sft_gold.mean(1, keepdim=True)).float().mean(1), gold, sft_gold, harmful, refused
            ),
            "You count answers that are above the mean of the SFT answers. A win rate compares answer with answer, "
            "and a tie "
            "counts one half.",
        ),
        Misconception(
            "against all prompts",
            lambda gold, sft_gold, harmful, refused: evaluation_table(
                gold, sft_gold.flatten().expand(len(gold), -1), harmful, refused
            ),
            "You compare with the SFT answers to *all* prompts. Some prompts are easy: compare with those to the same "
            "prompt.",
        ),
        Misconception(
            "answers in pairs",
            _paired,
            "You compare the k-th answer with the k-th. They are independent samples: every answer against "
            "every one of "
            "the SFT model uses all that you have.",
        ),
        Misconception(
            "as for coins",
            _table(error=lambda x: (x.mean() * (1 - x.mean()) / len(x)).sqrt()),
            "√(p(1 − p)/M) is the error of M coins. With several answers a prompt the x̄ᵢ are no coins: take their own "
            "spread, (4).",
        ),
        Misconception(
            "all prompts in the root",
            _all_prompts,
            "You divide by the root of all M prompts. For a rate of harmful requests only the harmful prompts count, "
            "also in the root.",
        ),
        Misconception(
            "answers as if independent",
            _table(error=lambda x: x.flatten().std() / x.numel() ** 0.5),
            "Your standard error treats all M·K answers as independent. Answers to one prompt are alike: average them "
            "first, then take (4) over the M prompts.",
        ),
        Misconception(
            "the root of K",
            lambda gold, sft_gold, harmful, refused: _table(error=lambda x: x.mean(1).std() / gold.shape[1] ** 0.5)(
                gold, sft_gold, harmful, refused
            ),
            "You divide by √K, the number of answers to a prompt. What is averaged in (4) are the M prompts: √M.",
        ),
        Misconception(
            "too many answers in the root",
            _table(error=lambda x: x.mean(1).std() / x.numel() ** 0.5),
            "You divide by √(M·K). What is averaged in (4) are the M prompts: √M.",
        ),
        Misconception(
            "standard deviation",
            _table(error=lambda x: x.mean(1).std()),
            "Your second column is the standard deviation of single prompts. The error of their mean is smaller "
            "by √M, (4).",
        ),
        Misconception(
            "variance",
            _table(error=lambda x: x.mean(1).var() / len(x)),
            "Your second column is the variance of the mean. The standard error is its square root.",
        ),
        Misconception(
            "divided by M",
            _table(error=lambda x: x.mean(1).std() / len(x)),
            "You divide the standard deviation by M. By (4) it is √M.",
        ),
        Misconception(
            "biased",
            _table(error=lambda x: x.mean(1).std(unbiased=False) / len(x) ** 0.5),
            "Your deviation divides by M where (4) has M − 1 (torch.std does so by itself).",
        ),
        Misconception(
            "refusals of all requests",
            _table(refusals=lambda h, r: ((r & h[:, None]).float(), (r & ~h[:, None]).float())),
            "You divide the refusals by all requests. Each rate is a fraction of its own kind: of the harmful, of the "
            "harmless ones.",
        ),
        Misconception(
            "harmless over all prompts",
            lambda gold, sft_gold, harmful, refused: _with_row(
                2, refused.float().mean(1), gold, sft_gold, harmful, refused
            ),
            "Your third row takes all prompts. It is the share of the *harmless* requests that are refused.",
        ),
        Misconception(
            "harmful over all prompts",
            lambda gold, sft_gold, harmful, refused: _with_row(
                1, refused.float().mean(1), gold, sft_gold, harmful, refused
            ),
            "Your second row takes all prompts. It is the share of the *harmful* requests that are refused.",
        ),
        Misconception(
            "any refusal",
            _table(refusals=lambda h, r: (r[h].any(1, keepdim=True).float(), r[~h].any(1, keepdim=True).float())),
            "A prompt counts as refused in your table as soon as one of its answers is a refusal. Average over its "
            "answers.",
        ),
        Misconception(
            "all refusals",
            _table(refusals=lambda h, r: (r[h].all(1, keepdim=True).float(), r[~h].all(1, keepdim=True).float())),
            "A prompt counts as refused in your table only if all of its answers are refusals. Average over its "
            "answers.",
        ),
        Misconception(
            "harmful among the refusals",
            _harmful_among_refusals,
            "Your second row is the share of *refusals that hit harmful requests*. Asked is the share of *harmful "
            "requests that "
            "are refused*.",
        ),
        Misconception(
            "kinds swapped",
            _table(refusals=lambda h, r: (r[~h].float(), r[h].float())),
            "Rows two and three are swapped: harmful first, then harmless.",
        ),
        Misconception(
            "help for refusal",
            _table(refusals=lambda h, r: (r[h].float(), (~r[~h]).float())),
            "Your third row counts harmless requests that are *not* refused. Asked for are those that are.",
        ),
        Misconception(
            "per cent",
            lambda *judged: 100 * evaluation_table(*judged),
            "You give per cent. Asked for are fractions between 0 and 1.",
        ),
        Misconception(
            "columns swapped",
            lambda *judged: evaluation_table(*judged).flip(1),
            "Your columns are swapped: the mean first, then its standard error.",
        ),
        Misconception(
            "row and column swapped",
            lambda *judged: evaluation_table(*judged).T,
            "Your table is transposed: three rows, one for each figure; two columns, mean and standard error.",
        ),
    ),
)

# --- predictions ----------------------------------------------------------------------------------------------------

p1 = Prediction(
    "Without the marker <|assistant|> at the end, what becomes of the answers?",
    (
        "nothing: the question is still there.",
        "they get much worse; often the model says nothing at all.",
        "they become rude.",
    ),
    answer=1,
    meanings=(
        "It would have meant that the model looks for a question anywhere. It only learned what follows on the marker.",
        "In all training texts the answer follows on the marker; without it the user's turn goes on, or ends.",
        "It would have meant that the template carries the politeness. What was learned from the pairs stands in the "
        "weights.",
    ),
)
p2 = Prediction(
    "Three questions in a row: how good are the answers to the second one?",
    ("as good as to the first.", "a little worse.", "useless."),
    answer=2,
    meanings=(
        "It would have meant that the model finds the last question wherever it stands. That has to be learned.",
        "It would have meant that one of the two novelties hardly matters: the text before, or the positions.",
        "In training every text had one question, at the first positions, with nothing before it.",
    ),
)
p3 = Prediction(
    "Which policy refuses the largest share of harmless requests?",
    ("SFT, which imitates the raw bot.", "PPO, which learned to refuse what is harmful.", "DPO, for the same reason."),
    answer=0,
    meanings=(
        "The raw bot refuses here and there, and SFT copies it. PPO and DPO learned from preferences on both kinds of "
        "request.",
        "It would have meant that refusing spreads from harmful to harmless requests. It does where no pair speaks "
        "against it.",
        "It would have meant that the pairs punish too little the refusal of harmless requests. Here they do punish "
        "it.",
    ),
)
p4 = Prediction(
    "What takes the most memory when all weights of a 7B model are trained with AdamW in mixed precision?",
    ("the weights that compute.", "the optimizer's numbers.", "the reference model of DPO."),
    answer=1,
    meanings=(
        "They take two of the sixteen bytes.",
        "Twelve of the sixteen bytes a parameter: the 32-bit weights and two moments, (5).",
        "It is frozen: two bytes a parameter, without gradient and moments.",
    ),
)
