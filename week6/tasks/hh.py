"""Anthropic's helpful–harmless pairs: conversations with two answers, of which a person preferred one.

Bai et al. 2022, "Training a helpful and harmless assistant with RLHF". There is no gold reward, and the pairs come
with the data instead of being sampled from the SFT model.
"""

import random

from datasets import Dataset
from transformers import PreTrainedTokenizerFast

from week6.machine.checkpoint import RunError
from week6.tasks import Task
from week6.tasks.sentiment import CHARACTERS_PER_TOKEN
from week6.tasks.tables import read_table

ASSISTANT = "\n\nAssistant:"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
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
    Pairs are left out that are longer than 256 tokens of prompt and `max_new_tokens` of answer, whose answers are
    equal or empty, or whose conversations differ before the last answer. Raises RunError where `read_table` does, and
    for data with too few pairs.
    """
    table = read_table(data, [["prompt", "chosen", "rejected"], ["chosen", "rejected"]])
    chosen, rejected = table["chosen"], table["rejected"]
    index = random.Random(seed).sample(range(len(chosen)), min(len(chosen), MAX_ROWS))
    if "prompt" in table:
        rows = [(table["prompt"][i], chosen[i], rejected[i]) for i in index]
    else:
        rows = [row for i in index if (row := parse(chosen[i], rejected[i])) is not None]
    rows = [row for row in rows if row[0].strip() and row[1].strip() and row[2].strip() and row[1] != row[2]]
    rows = _short_enough(tokenizer, rows, max_new_tokens)
    groups: dict[str, list[tuple[str, str, str]]] = {}
    for row in rows:
        groups.setdefault(row[0], []).append(row)
    if len(groups) < FEWEST_PAIRS:
        raise RunError(
            f"--data {data}: got {len(groups)} prompts with a usable pair (of {len(chosen)} rows), expected "
            f"{FEWEST_PAIRS} or more: at most {MAX_PROMPT_TOKENS} tokens of prompt and {max_new_tokens} of answer "
            "(--ppo.max-new-tokens), two different answers, conversations that differ in the last answer alone"
        )
    prompts = list(groups)
    n_heldout = min(HELD_OUT, len(prompts) // 5)
    tokenizer.chat_template = CHAT_TEMPLATE
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

    The prompt ends with the last "\\n\\nAssistant:". None where the conversations differ before it.
    """
    end = chosen.rfind(ASSISTANT) + len(ASSISTANT)
    prompt = chosen[:end]
    if not prompt.endswith(ASSISTANT) or not rejected.startswith(prompt) or ASSISTANT in rejected[end:]:
        return None
    return prompt, chosen[end:].rstrip(), rejected[end:].rstrip()


def _short_enough(
    tokenizer: PreTrainedTokenizerFast, rows: list[tuple[str, str, str]], max_new_tokens: int
) -> list[tuple[str, str, str]]:
    limits = (MAX_PROMPT_TOKENS, max_new_tokens - 1, max_new_tokens - 1)  # an answer has its end token too
    for column, limit in enumerate(limits):
        rows = [row for row in rows if len(row[column]) <= CHARACTERS_PER_TOKEN * limit]
        lengths = [len(ids) for ids in tokenizer([row[column] for row in rows])["input_ids"]] if rows else []
        rows = [row for row, length in zip(rows, lengths, strict=True) if length <= limit]
    return rows


def _pairs(rows: list[tuple[str, str, str]]) -> Dataset:
    return Dataset.from_list([dict(zip(("prompt", "chosen", "rejected"), row, strict=True)) for row in rows])
