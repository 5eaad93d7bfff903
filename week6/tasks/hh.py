"""Anthropic's helpful–harmless pairs: conversations with two answers, of which a person preferred one.

Bai et al. 2022, "Training a helpful and harmless assistant with RLHF". There is no gold reward, and the pairs come
with the data instead of being sampled from the SFT model. A model with a chat template of its own is trained in that;
one without it in the form of the data.

The data is red-teaming only: what is learned from it alone is to refuse. So harmless requests may be added, to which
the start's own answers are preferred to written refusals. A part of the pairs may be kept for a judge.
"""

import random
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from datasets import Dataset
from transformers import PreTrainedTokenizerFast

from week6.machine.bounds import Bounds, Rows, Temperature
from week6.machine.checkpoint import RunError
from week6.sequences import split_lengths, tokens_of
from week6.tasks import Task
from week6.tasks.conversation import break_special_tokens, check_plain, render, visible, written_turn
from week6.tasks.requests import REFUSALS, requests
from week6.tasks.sentiment import CHARACTERS_PER_TOKEN
from week6.tasks.tables import read_table

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'system' %}{{ raise_exception('this form has no system turn') }}{% endif %}"
    "{{ '\n\nHuman: ' if message.role == 'user' else '\n\nAssistant: ' }}{{ message.content | trim }}"
    "{% endfor %}"
    "{{ '\n\nAssistant:' if add_generation_prompt else '' }}"
)
"""The conversation of the data; for models without a chat template."""
COLUMNS = (("prompt", "chosen", "rejected"), ("chosen", "rejected"))
MAX_ROWS = 20_000
"""Pairs that are looked at, of larger data a random choice."""
FEWEST_PAIRS = 10
WHO = "(?i:user|human|assistant|system|chatbot|bot|ai|gpt)"
BOLD = "[*_]*"
SPEAKERS = (
    rf"{BOLD}[\[(<]?\b{WHO}[\])>]?{BOLD} ?:{BOLD}|[\[(<]{WHO}[\])>]|"
    rf"{BOLD}\b(?i:a|answer|response|output|reply){BOLD} ?:{BOLD}"
)
"""Who speaks, in other forms than that of the data."""
HALF = "half"
HELD_OUT = 500
"""Prompts whose pairs are held out, but no more than a fifth of all."""
SEED = 6
SOME = Bounds(0, 100_000, whole=True)
Talk = list[dict[str, str]]
Row = tuple[str, str, str]
"""Prompt, chosen and rejected answer."""


@dataclass(frozen=True)
class HHConfig:
    """What is taken of pairs of conversations, and what is added to them."""

    max_prompt_tokens: Rows = 256
    """Longer ones are left out."""
    harmless: Annotated[int, SOME, SOME.shown] = 0
    """Pairs of harmless requests beside those of the data: the start's own answers, preferred to written refusals."""
    temperature: Temperature = 0.3
    """Of these answers, and of those to the course's own requests: at 1 a small model rambles."""
    judge: str | None = None
    """What a judge that training never sees learns from: "half" of the training prompts, which are then kept from
    training, or other pairs, a local file or a data set of the hub."""


def hh(
    tokenizer: PreTrainedTokenizerFast, data: str, max_new_tokens: int, config: HHConfig | None = None, seed: int = SEED
) -> Task:
    """The task with the pairs of `data`, a local file or a data set of the hub.

    Columns are prompt, chosen and rejected, or chosen and rejected with the whole conversations in Anthropic's form.
    A prompt without that form becomes the user's message of a conversation, as `week6 chat` would ask it. Pairs are
    left out that are longer than `config.max_prompt_tokens` of prompt and `max_new_tokens` of answer, whose answers are
    equal, empty or go on with another turn, whose conversations differ before the last answer, that have come before,
    or, with a warning that names them, whose prompt shares all its tokens with an answer. Where the tokenizer has a
    chat template, all is written in that, and conversations are left out too that do not go from the user to the
    assistant in turn, or have an empty message. Raises RunError where `read_table` and `check_plain` do, and for data
    with too few pairs, ValueError for a template that cannot be used.
    """
    config = config or HHConfig()
    if not tokenizer.chat_template:
        tokenizer.chat_template = CHAT_TEMPLATE
    table = read_table(data, COLUMNS)
    groups = _by_prompt(tokenizer, table, f"--data {data}", max_new_tokens, config.max_prompt_tokens, seed)
    prompts = list(groups)
    n_heldout = min(HELD_OUT, len(prompts) // 5)
    n_judge = (len(prompts) - n_heldout) // 2 if config.judge == HALF else 0
    for_judge, training = prompts[n_heldout : n_heldout + n_judge], prompts[n_heldout + n_judge :]
    pairs, judge_pairs = ([row for prompt in part for row in groups[prompt]] for part in (training, for_judge))
    if config.judge is not None and config.judge != HALF:
        judge_pairs = _others(tokenizer, groups, config, max_new_tokens, seed)
    added = _harmless(tokenizer, config.harmless)
    asked = dict.fromkeys([*training, *(prompt for prompt, _ in added)])
    own = [(r.kind, r.text, _written(tokenizer, [_asks(r.text)], REFUSALS[0])[0]) for r in requests("test")]
    return Task(
        name="hh",
        tokenizer=tokenizer,
        prompts=Dataset.from_dict({"prompt": list(asked)}),
        heldout_prompts=Dataset.from_dict({"prompt": prompts[:n_heldout]}),
        demonstrations=_rows([row[:2] for row in pairs], "prompt", "completion"),
        max_new_tokens=max_new_tokens,
        pairs=_pairs(pairs),
        heldout_pairs=_pairs([groups[prompt][0] for prompt in prompts[:n_heldout]]),
        requests=_rows(added, "prompt", "rejected") if added else None,
        judge_pairs=_pairs(judge_pairs) if judge_pairs else None,
        own_requests=_rows(own, "kind", "text", "prompt"),
    )


def parse(chosen: str, rejected: str) -> Row | None:
    """Prompt, chosen and rejected answer of two conversations "\\n\\nHuman: … \\n\\nAssistant: …" of one or more turns.

    The prompt ends with the last "\\n\\nAssistant:". None where the conversations differ before it, or begin otherwise.
    """
    end = chosen.rfind(ASSISTANT) + len(ASSISTANT)
    prompt = chosen[:end]
    if not (prompt.lstrip().startswith(HUMAN.strip()) and prompt.endswith(ASSISTANT)):
        return None
    if not rejected.startswith(prompt) or ASSISTANT in rejected[end:]:
        return None
    return prompt, chosen[end:].rstrip(), rejected[end:].rstrip()


def messages_of(prompt: str) -> Talk | None:
    """The messages of "\\n\\nHuman: … \\n\\nAssistant:", or of a prompt without that form, which is one of the user's.

    None for a conversation that does not go from the user to the assistant in turn, or has an empty message.
    """
    if prompt.endswith(ASSISTANT) and prompt.lstrip().startswith(HUMAN.strip()):
        prompt = f"\n\n{prompt.lstrip()}"
    elif not prompt.startswith(HUMAN) and not prompt.endswith(ASSISTANT):
        return [_asks(prompt.strip())] if prompt.strip() else None
    start, *turns = re.split(r"\n\n(Human|Assistant):", prompt.rstrip())
    if len(turns) % 4 == 2:  # a question whose answer is to come
        turns += ["Assistant", ""]
    roles, contents = turns[::2], [content.strip() for content in turns[1::2]]
    in_turn = len(roles) % 2 == 0 and roles == ["Human", "Assistant"] * (len(roles) // 2)
    if start.strip() or not in_turn or contents[-1] or not all(contents[:-1]):
        return None
    names = {"Human": "user", "Assistant": "assistant"}
    return [{"role": names[r], "content": c} for r, c in zip(roles[:-1], contents[:-1], strict=True)]


def _others(
    tokenizer: PreTrainedTokenizerFast, groups: dict[str, list[Row]], config: HHConfig, longest: int, seed: int
) -> list[Row]:
    """The pairs of a judge's own data, without those on prompts that stand in `groups` with other answers."""
    data = str(config.judge)
    try:
        table = read_table(data, COLUMNS, flag="--hh.judge")
    except RunError as error:
        raise RunError(f"{error}; or take --hh.judge {HALF}") from error
    found = _by_prompt(tokenizer, table, f"--hh.judge {data}", longest, config.max_prompt_tokens, seed)
    same = {(row[0], frozenset(row[1:])) for rows in groups.values() for row in rows}
    rows = [row for part in found.values() for row in part]
    return [
        row for row in rows if row[0] not in groups or (row[0], frozenset(row[1:])) in same
    ]  # Task refuses the latter


def _by_prompt(
    tokenizer: PreTrainedTokenizerFast,
    table: dict[str, list[str]],
    source: str,
    longest: int,
    longest_prompt: int,
    seed: int,
) -> dict[str, list[Row]]:
    """The usable pairs of a table by their prompts, in random order."""
    table = {name: [text.replace("\r\n", "\n") for text in texts] for name, texts in table.items()}
    chosen, rejected = table["chosen"], table["rejected"]
    index = random.Random(seed).sample(range(len(chosen)), min(len(chosen), MAX_ROWS))
    for name, texts in table.items():
        own_form = {i for i in index if texts[i].startswith(HUMAN) or ASSISTANT in texts[i]}
        plain = {i: "" if i in own_form else texts[i] for i in index}
        check_plain(tokenizer, plain, f"{source}, column {name}", SPEAKERS)
    table = {name: break_special_tokens(tokenizer, texts) for name, texts in table.items()}
    chosen, rejected = table["chosen"], table["rejected"]
    if "prompt" in table:
        parsed = {i: (table["prompt"][i].rstrip(), chosen[i].rstrip(), rejected[i].rstrip()) for i in index}
    else:
        parsed = {i: row for i in index if (row := parse(chosen[i], rejected[i])) is not None}
    usable = {i: row for i, row in parsed.items() if _usable(*row)}
    limits = (longest_prompt, longest - 1, longest - 1)  # an answer has its end token too
    brief = {
        i: row
        for i, row in usable.items()
        if all(len(text) <= CHARACTERS_PER_TOKEN * limit for text, limit in zip(row, limits, strict=True))
    }
    found = {i: written for i, row in brief.items() if (written := _in_form(tokenizer, *row)) is not None}
    short = _short_enough(tokenizer, found, longest, longest_prompt, source)
    groups: dict[str, list[Row]] = {}
    for row in dict.fromkeys(short):
        groups.setdefault(row[0], []).append(row)
    if len(groups) < FEWEST_PAIRS:
        form = f"{HUMAN} …{ASSISTANT} …".replace("\n", "\\n")
        lost = {
            f'have not the form "{form}" in both columns, alike up to the last answer': len(index) - len(parsed),
            "have no prompt, an empty answer, two equal ones, or one that goes on with another turn": (
                len(parsed) - len(usable)
            ),
            "have an empty turn, or do not go from Human to Assistant in turn": len(brief) - len(found),
            f"are longer than {longest_prompt} tokens of prompt (--hh.max-prompt-tokens) or {longest} of answer "
            "(--ppo.max-new-tokens)": len(usable) - len(brief) + len(found) - len(short),
            "repeat a prompt": len(short) - len(groups),
        }
        why = ", ".join(f"{n} {what}" for what, n in lost.items() if n) or "none is left out; give more"
        raise RunError(
            f"{source}: got {len(groups)} prompts with a usable pair (of {len(chosen)} rows), expected "
            f"{FEWEST_PAIRS} or more: of the rows {why}"
        )
    return groups


def _in_form(tokenizer: PreTrainedTokenizerFast, prompt: str, chosen: str, rejected: str) -> Row | None:
    """Prompt and answers as the tokenizer's template writes them; None where a template of its own has no form for
    them."""
    if tokenizer.chat_template == CHAT_TEMPLATE:
        return _asked(tokenizer, prompt), _said(chosen), _said(rejected)
    messages = messages_of(prompt)
    if messages is None:
        return None
    (asked, win), (_, lose) = (_written(tokenizer, messages, answer) for answer in (chosen, rejected))
    return asked, win, lose


def _written(tokenizer: PreTrainedTokenizerFast, messages: Talk, answer: str) -> tuple[str, str]:
    """The prompt of these messages and an answer to them."""
    if tokenizer.chat_template == CHAT_TEMPLATE:
        return render(tokenizer, messages, reply=True), _said(answer)
    return written_turn(tokenizer, [*messages, {"role": "assistant", "content": answer.strip()}])


def _asked(tokenizer: PreTrainedTokenizerFast, prompt: str) -> str:
    """A prompt in the form of the data: as it is, or as the message that a user would write in the chat."""
    if prompt.endswith(ASSISTANT):
        return prompt
    if prompt.startswith(HUMAN):
        return prompt + ASSISTANT
    return render(tokenizer, [_asks(prompt)], reply=True)


def _asks(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def _said(answer: str) -> str:
    """An answer as it stands behind "Assistant:", a space between."""
    return answer.rstrip() if answer[:1].isspace() else f" {answer.rstrip()}"


def _usable(prompt: str, chosen: str, rejected: str) -> bool:
    one_turn = not any(marker in answer for marker in (HUMAN, ASSISTANT) for answer in (chosen, rejected))
    asked, win, lose = map(visible, (prompt, chosen, rejected))
    return bool(asked and win and lose) and win != lose and one_turn


def _short_enough(
    tokenizer: PreTrainedTokenizerFast, rows: dict[int, Row], longest: int, longest_prompt: int, source: str
) -> list[Row]:
    prompts = [prompt for prompt, _, _ in rows.values()]
    lengths = split_lengths(tokenizer, *zip(*rows.values(), strict=True)) if rows else []
    short = {}
    for (i, row), prompt, (left, answer) in zip(rows.items(), tokens_of(tokenizer, prompts), lengths, strict=True):
        if left == 0:
            warnings.warn(f"{source}: row {i + 1} is left out: its prompt has no token of its own", stacklevel=4)
        elif len(prompt) <= longest_prompt and answer <= longest:
            short[i] = row
    return list(short.values())


def _harmless(tokenizer: PreTrainedTokenizerFast, n: int) -> list[tuple[str, str]]:
    """The prompts of n harmless requests, each in turn, and a refusal of each: another one when it comes again."""
    asked = requests("training")
    every = len(asked)
    talks: list[Talk] = [[_asks(request.text)] for request in asked]
    return [_written(tokenizer, talks[i % every], REFUSALS[(i + i // every) % len(REFUSALS)]) for i in range(n)]


def _pairs(rows: Sequence[Row]) -> Dataset:
    return _rows(rows, "prompt", "chosen", "rejected")


def _rows(rows: Sequence[Sequence[str]], *columns: str) -> Dataset:
    return Dataset.from_list([dict(zip(columns, row, strict=True)) for row in rows])
