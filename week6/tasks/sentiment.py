"""Continue the beginning of a film review positively: the controlled experiment of the DPO paper (2023, section 6.1).

A prompt is the first 2 to 8 tokens of a review, a demonstration how its writer went on. The gold reward is the
sentiment of prompt and answer together, in [−1, 1], by VADER or by a classifier; training sees it only through noisy
comparisons, or, where people have rated the reviews, not at all.
"""

import random
import re
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from datasets import Dataset
from jaxtyping import Float
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from week6.machine import validate as check
from week6.machine.checkpoint import RunError
from week6.machine.pretrained import (
    TOKENIZER_FILES,
    check_reads,
    check_vocabulary,
    open_config,
    open_model,
    open_tokenizer,
    read,
)
from week6.machine.weights import complete
from week6.sequences import tokens_of
from week6.tasks import Gold, Task
from week6.tasks.conversation import break_special_tokens, check_plain
from week6.tasks.ratings import comparisons, parse_ratings
from week6.tasks.tables import read_table

PROMPT_TOKENS = (2, 8)
"""Shortest and longest prompt, without the tokens that a tokenizer puts before every text."""
MAX_TEXTS = 25_000
"""Texts that are used, of larger data a random choice."""
FEWEST_TEXTS = 10
HELD_OUT_TEXTS, HELD_OUT = 1000, 500
"""Reviews that are held out, but no more than a fifth of all; and at most so many of their beginnings."""
COMPARISONS = 20_000
"""Comparisons between rated reviews that the reward model may learn from."""
CHARACTERS_PER_TOKEN = 20
"""More than tokens of running text ever have: what is beyond need not be tokenised."""
ANSWERS_PER_PROMPT = 4
ANNOTATOR_NOISE = 0.15
"""Annotators who know the gold reward agree on 87 % of the pairs of random review sentences (VADER)."""
LONGEST_JUDGED = 512
"""Tokens of a text that a classifier reads, if it has the positions."""
APART = (" that was lovely and great.", " that was awful and boring.", ": 7", "")
"""Any classifier makes something else of one of these than of the others."""
JUDGED, ALIKE = 64, 0.9
"""Texts that are judged before the run, and the share of them that may be judged alike."""
SAME = 1e-6
"""Of rounding."""
CHAT_TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"
"""In `week6 chat` the policies go on with what the user writes."""
SEED = 6


def sentiment(
    tokenizer: PreTrainedTokenizerFast,
    data: str,
    column: str,
    gold: str,
    max_new_tokens: int,
    ratings: str | None = None,
    seed: int = SEED,
) -> Task:
    """The task with the reviews in `column` of `data`, a local file or a data set of the hub.

    `gold` is "vader" or a text classifier: a folder, or a name on the hub. Where people have rated the reviews, in the
    column `ratings`, "2,3,-1" by three of them, their comparisons are what the reward model learns from. Of equal
    texts none stands on both sides of the split, none is held out twice, and none is compared with another. Raises
    RunError where `read_table`, `check_plain`, `parse_ratings` and `classifier` do, and for data with too few texts.
    """
    table = read_table(data, [[column, ratings] if ratings else [column]], ratings)
    opinions = parse_ratings(table[ratings], f"--data {data}, column {ratings}") if ratings else []
    check_plain(tokenizer, dict(enumerate(table[column])), f"--data {data}, column {column}")
    texts = break_special_tokens(tokenizer, table[column])
    words = [_spaced(text) for text in texts]
    rng = random.Random(seed)
    index = rng.sample(range(len(texts)), min(len(texts), MAX_TEXTS))
    different: dict[str, int] = {}
    for i in index:
        different.setdefault(words[i], i)
    heldout_index = list(different.values())[: min(HELD_OUT_TEXTS, len(different) // 5)]
    held_out = {words[i] for i in heldout_index}
    train_index = [i for i in index if words[i] not in held_out]
    train, heldout = (
        split_reviews(tokenizer, [texts[i] for i in rows], max_new_tokens, rng) for rows in (train_index, heldout_index)
    )
    if len(train) + len(heldout) < FEWEST_TEXTS:
        raise RunError(
            f"--data {data}: got {len(train) + len(heldout)} texts of at least {PROMPT_TOKENS[0] + 1} tokens that "
            f"can be cut between words or characters (of {len(different)} different ones in all), expected "
            f"{FEWEST_TEXTS} or more; a text is a line of a .txt file or a row of column {column!r}"
        )
    begun = {prompt for prompt, _ in train}
    unseen = sorted({prompt for prompt, _ in heldout} - begun)
    unseen = rng.sample(unseen, min(HELD_OUT, len(unseen)))
    if not unseen:
        raise RunError(
            f"--data {data}: all texts begin alike, as {train[0][0]!r:.60}, expected different beginnings; take out "
            "what they share, or give more texts"
        )
    tokenizer.chat_template = CHAT_TEMPLATE
    task = Task(
        name="sentiment",
        tokenizer=tokenizer,
        prompts=Dataset.from_dict({"prompt": [prompt for prompt, _ in train]}),
        heldout_prompts=Dataset.from_dict({"prompt": unseen}),
        demonstrations=Dataset.from_dict(
            {"prompt": [prompt for prompt, _ in train], "completion": [completion for _, completion in train]}
        ),
        max_new_tokens=max_new_tokens,
        gold=vader if gold == "vader" else classifier(gold, PROMPT_TOKENS[1] + max_new_tokens),
        answers_per_prompt=ANSWERS_PER_PROMPT,
        annotator_noise=ANNOTATOR_NOISE,
    )
    if ratings is None:
        return _tells_apart(task, data, gold)
    longest = PROMPT_TOKENS[1] + max_new_tokens
    lengths = [len(ids) for ids in tokens_of(tokenizer, [text[: CHARACTERS_PER_TOKEN * longest] for text in texts])]
    short_train, short_heldout = (
        [i for i in rows if texts[i].strip() and lengths[i] <= longest] for rows in (train_index, heldout_index)
    )
    if min(len(short_train), len(short_heldout)) < 2:
        raise RunError(
            f"--data {data}: got no two texts of at most {longest} tokens to compare, expected many; raise "
            "--ppo.max-new-tokens, or give shorter texts"
        )
    drawn = [(i, j) for i, j in (rng.sample(short_train, 2) for _ in range(COMPARISONS))]
    couples = [(i, j) for i, j in drawn if words[i] != words[j]]
    apart = zip(short_heldout[::2], short_heldout[1::2], strict=False)  # no text in two pairs: independent
    start = str(tokenizer.eos_token)  # what stands between two texts
    pairs, heldout_pairs = (comparisons(texts, opinions, some, start, rng) for some in (couples, apart))
    if not (len(pairs) and len(heldout_pairs)):
        raise RunError(f"--data {data}, column {ratings}: got no two texts that are rated differently, expected many")
    task = replace(task, pairs=pairs, heldout_pairs=heldout_pairs, pairs_share_prompts=False)
    return _tells_apart(task, data, gold)


def _tells_apart(task: Task, data: str, gold: str) -> Task:
    """`task`. RunError where its gold reward is the same for nearly all texts: nothing could be learned or measured."""
    assert task.gold is not None
    some = task.demonstrations[:JUDGED]
    judged = task.gold(some["prompt"], some["completion"])
    usual = float(judged.mode().values)
    alike = int(((judged - usual).abs() < SAME).sum())
    if alike > ALIKE * len(judged):
        raise RunError(
            f"--data {data}: --gold {gold} judges {alike} of the first {len(judged)} texts alike ({usual:.3g}), "
            "expected texts with opinions to tell apart; choose other data or another --column or --gold"
        )
    return task


def _spaced(text: str) -> str:
    return " ".join(text.replace("<br />", " ").split())


def split_reviews(
    tokenizer: PreTrainedTokenizerFast, texts: list[str], max_new_tokens: int, rng: random.Random
) -> list[tuple[str, str]]:
    """Prompt and completion of each text that is long enough, at a random boundary between tokens.

    A completion has room for the end token within `max_new_tokens`. It goes to the end of the text; where that is too
    far, to the last end of a sentence before the limit; where there is none, to the limit: answers should learn to
    end. The tokens of prompt and completion together are those of the prompt and then those of the completion; a
    text in which they merge is left out, and a boundary within a character of several tokens moves to its beginning.
    """
    shortest, longest = PROMPT_TOKENS
    room = CHARACTERS_PER_TOKEN * (longest + max_new_tokens)
    texts = [_spaced(text[: 4 * room])[:room] for text in texts]
    texts = [text for text in texts if text]
    if not texts:
        return []
    encoding = tokenizer(texts, return_offsets_mapping=True, return_special_tokens_mask=True)
    rows = []
    for text, offsets, special in zip(texts, encoding["offset_mapping"], encoding["special_tokens_mask"], strict=True):
        ends = [end for (_, end), extra in zip(offsets, special, strict=True) if not extra]
        if len(ends) <= shortest:
            continue
        n = rng.randint(shortest, min(longest, len(ends) - 1))
        while n > shortest and ends[n - 1] == ends[n]:  # within a character of several tokens
            n -= 1
        start, limit = ends[n - 1], ends[min(len(ends), n + max_new_tokens - 1) - 1]
        sentences = [start + match.end() for match in re.finditer(r"[.!?]+(?=\s|$)", text[start:limit])]
        end = sentences[-1] if limit < len(text) and sentences else limit
        if text[start:end].strip():
            rows.append((text[:start], text[start:end]))
    if not rows:
        return []
    prompts = tokens_of(tokenizer, [prompt for prompt, _ in rows])
    wholes = tokens_of(tokenizer, [prompt + completion for prompt, completion in rows])
    return [
        row
        for row, prompt, whole in zip(rows, prompts, wholes, strict=True)
        if whole[: len(prompt)] == prompt and 0 < len(whole) - len(prompt) < max_new_tokens
    ]


@lru_cache(maxsize=1)
def _analyzer() -> Any:
    return SentimentIntensityAnalyzer()


def vader(prompts: list[str], answers: list[str]) -> Float[Tensor, " N"]:
    """The compound sentiment of each prompt with its answer, in [−1, 1] (Hutto and Gilbert 2014, VADER)."""
    texts = zip(prompts, answers, strict=True)
    return torch.tensor([_analyzer().polarity_scores(prompt + answer)["compound"] for prompt, answer in texts])


def classifier(name: str, tokens: int = 1) -> Gold:
    """P(positive) − P(negative) by a text classifier, a folder or a name on the hub, as a gold reward in [−1, 1].

    Raises RunError when it is no classifier, has no labels that begin with "pos" and "neg", or can read fewer than
    `tokens` tokens, or LONGEST_JUDGED if that is less: it would not see how a text ends.
    """

    def load(source: str) -> Any:
        config = open_config(source)
        architecture = "".join(list(config.architectures or ["model of no known kind"])[:1])
        if not architecture.endswith("ForSequenceClassification"):
            return architecture
        return open_model(AutoModelForSequenceClassification, source, config)

    try:
        opened = read(name, "--gold", load, ("config.json",), weights=True)
    except RunError as error:
        raise RunError(f"{error}; or take --gold vader") from error
    if isinstance(opened, str):
        raise RunError(
            f"--gold {name}: is a {opened}, no text classifier; expected 'vader' or a model for sequence classification"
        )
    model: Any = complete(name, "--gold", *opened)
    named = [(str(label).lower()[:3], index) for index, label in model.config.id2label.items()]
    labels = dict(named)
    if not {"pos", "neg"} <= set(labels) or len(named) > len(labels):
        raise RunError(
            f"--gold {name}: its labels are {', '.join(map(str, model.config.id2label.values()))}, expected one that "
            "begins with 'pos' and one that begins with 'neg'"
        )
    tokenizer: Any = read(name, "--gold", open_tokenizer, TOKENIZER_FILES)
    check_reads("--gold", name, tokenizer)
    check_vocabulary("--gold", name, model, tokenizer)
    model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    longest = min(LONGEST_JUDGED, getattr(model.config, "max_position_embeddings", LONGEST_JUDGED))
    if longest < min(LONGEST_JUDGED, tokens):
        raise RunError(
            f"--gold {name}: reads {longest} tokens, expected {min(LONGEST_JUDGED, tokens)}, prompt and answer "
            "together; choose another one, or a smaller --ppo.max-new-tokens"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token

    @torch.no_grad()
    def gold(prompts: list[str], answers: list[str]) -> Float[Tensor, " N"]:
        texts = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
        parts = []
        for start in range(0, len(texts), 64):
            batch = tokenizer(
                texts[start : start + 64], padding=True, truncation=True, max_length=longest, return_tensors="pt"
            )
            probabilities = model(**batch.to(model.device)).logits.float().softmax(-1)
            parts.append(probabilities[:, labels["pos"]] - probabilities[:, labels["neg"]])
        return torch.cat(parts).cpu()

    try:
        tried = gold(["A film", "A film"], [" that was good." * LONGEST_JUDGED, ""])
        check.no_nan(judgement=tried)
        alike = gold(["A film"] * len(APART), list(APART))
    except Exception as error:  # of whatever the model's own code makes of it
        reason = " ".join(str(error).split())[:200]
        raise RunError(f"--gold {name}: cannot judge a text ({reason}); expected a text classifier") from error
    if float(alike.max() - alike.min()) < SAME:
        raise RunError(
            f"--gold {name}: judges every text alike ({float(alike[0]):.3g}), expected a classifier that has learned "
            "to tell them apart; its weights are spoilt"
        )
    return gold
