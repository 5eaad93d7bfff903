"""Anthropic's helpful–harmless pairs: conversations with two answers, of which a person preferred one.

Bai et al. 2022, "Training a helpful and harmless assistant with RLHF". There is no gold reward, and the pairs come
with the data instead of being sampled from the SFT model.
"""

import random
import warnings

from datasets import Dataset
from transformers import PreTrainedTokenizerFast

from week6.machine.checkpoint import RunError
from week6.sequences import split_lengths, tokens_of
from week6.tasks import Task
from week6.tasks.conversation import break_special_tokens, render
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
"""The conversation of the data; for `week6 chat`."""
MAX_PROMPT_TOKENS = 256
MAX_ROWS = 20_000
"""Pairs that are looked at, of larger data a random choice."""
FEWEST_PAIRS = 10
HELD_OUT = 500
"""Prompts whose pairs are held out, but no more than a fifth of all."""
SEED = 6


def hh(tokenizer: PreTrainedTokenizerFast, data: str, max_new_tokens: int, seed: int = SEED) -> Task:
    """The task with the pairs of `data`, a local file or a data set of the hub.

    Columns are prompt, chosen and rejected, or chosen and rejected with the whole conversations in Anthropic's form.
    A prompt without that form becomes the user's message of a conversation, as `week6 chat` would ask it. Pairs are
    left out that are longer than 256 tokens of prompt and `max_new_tokens` of answer, whose answers are equal, empty
    or go on with another turn, whose conversations differ before the last answer, that have come before, or, with a
    warning that names them, whose prompt shares all its tokens with an answer. Raises RunError where `read_table`
    does, and for data with too few pairs.
    """
    table = read_table(data, [["prompt", "chosen", "rejected"], ["chosen", "rejected"]])
    table = {name: [text.replace("\r\n", "\n") for text in texts] for name, texts in table.items()}
    tokenizer.chat_template = CHAT_TEMPLATE
    table = {name: break_special_tokens(tokenizer, texts) for name, texts in table.items()}
    chosen, rejected = table["chosen"], table["rejected"]
    index = random.Random(seed).sample(range(len(chosen)), min(len(chosen), MAX_ROWS))
    if "prompt" in table:
        parsed = {i: (_asked(tokenizer, table["prompt"][i]), _said(chosen[i]), _said(rejected[i])) for i in index}
    else:
        parsed = {i: row for i in index if (row := parse(chosen[i], rejected[i])) is not None}
    found = {i: row for i, row in parsed.items() if _usable(*row)}
    short = _short_enough(tokenizer, found, max_new_tokens, data)
    rows = list(dict.fromkeys(short))
    groups: dict[str, list[tuple[str, str, str]]] = {}
    for row in rows:
        groups.setdefault(row[0], []).append(row)
    if len(groups) < FEWEST_PAIRS:
        form = f"{HUMAN} …{ASSISTANT} …".replace("\n", "\\n")
        lost = {
            f'have not the form "{form}" in both columns, alike up to the last answer': len(index) - len(parsed),
            "have no prompt, an empty answer, two equal ones, or one that goes on with another turn": (
                len(parsed) - len(found)
            ),
            f"are longer than {MAX_PROMPT_TOKENS} tokens of prompt or {max_new_tokens} of answer "
            "(--ppo.max-new-tokens)": len(found) - len(short),
            "repeat a prompt": len(short) - len(groups),
        }
        why = ", ".join(f"{n} {what}" for what, n in lost.items() if n) or "there are no more"
        raise RunError(
            f"--data {data}: got {len(groups)} prompts with a usable pair (of {len(chosen)} rows), expected "
            f"{FEWEST_PAIRS} or more: of the rows {why}"
        )
    prompts = list(groups)
    n_heldout = min(HELD_OUT, len(prompts) // 5)
    pairs = _pairs([row for prompt in prompts[n_heldout:] for row in groups[prompt]])
    return Task(
        name="hh",
        tokenizer=tokenizer,
        prompts=Dataset.from_dict({"prompt": prompts[n_heldout:]}),
        heldout_prompts=Dataset.from_dict({"prompt": prompts[:n_heldout]}),
        demonstrations=pairs.select_columns(["prompt", "chosen"]).rename_column("chosen", "completion"),
        max_new_tokens=max_new_tokens,
        pairs=pairs,
        heldout_pairs=_pairs([groups[prompt][0] for prompt in prompts[:n_heldout]]),
    )


def parse(chosen: str, rejected: str) -> tuple[str, str, str] | None:
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


def _asked(tokenizer: PreTrainedTokenizerFast, prompt: str) -> str:
    """A prompt in the form of the data: as it is, or as the message that a user would write in the chat."""
    text = prompt.rstrip()
    if not text or text.endswith(ASSISTANT):
        return text
    if text.startswith(HUMAN):
        return text + ASSISTANT
    return render(tokenizer, [{"role": "user", "content": text}], reply=True)


def _said(answer: str) -> str:
    """An answer as it stands behind "Assistant:", a space between."""
    return answer.rstrip() if answer[:1].isspace() else f" {answer.rstrip()}"


def _usable(prompt: str, chosen: str, rejected: str) -> bool:
    one_turn = not any(marker in answer for marker in (HUMAN, ASSISTANT) for answer in (chosen, rejected))
    return bool(prompt.strip() and chosen.strip() and rejected.strip()) and chosen != rejected and one_turn


def _short_enough(
    tokenizer: PreTrainedTokenizerFast, rows: dict[int, tuple[str, str, str]], max_new_tokens: int, data: str
) -> list[tuple[str, str, str]]:
    limits = (MAX_PROMPT_TOKENS, max_new_tokens - 1, max_new_tokens - 1)  # an answer has its end token too
    rows = {
        i: row
        for i, row in rows.items()
        if all(len(text) <= CHARACTERS_PER_TOKEN * limit for text, limit in zip(row, limits, strict=True))
    }
    prompts = [prompt for prompt, _, _ in rows.values()]
    lengths = split_lengths(tokenizer, *zip(*rows.values(), strict=True)) if rows else []
    short = {}
    for (i, row), prompt, (left, longest) in zip(rows.items(), tokens_of(tokenizer, prompts), lengths, strict=True):
        if left == 0:
            warnings.warn(f"--data {data}: row {i + 1} is left out: its prompt has no token of its own", stacklevel=3)
        elif len(prompt) <= MAX_PROMPT_TOKENS and longest <= max_new_tokens:
            short[i] = row
    return list(short.values())


def _pairs(rows: list[tuple[str, str, str]]) -> Dataset:
    return Dataset.from_list([dict(zip(("prompt", "chosen", "rejected"), row, strict=True)) for row in rows])
