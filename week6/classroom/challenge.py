"""The frontier challenge: the highest gold reward at a KL of at most 3 nats from the SFT model that all start from.

Everybody has the SFT model and the 10,000 pairs of preset `lesson`, and three minutes of one core. What is scored is a
saved policy, on prompts that no notebook shows. What its weights cannot tell is a matter of honour: docs/challenge.md.
"""

import csv
import io
import json
import random
import zlib
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors
import torch
from torch import Tensor, nn
from transformers import GPT2Config, PreTrainedModel, PreTrainedTokenizerBase

from week6.classroom.lesson import lesson
from week6.machine.checkpoint import RunError, write_atomic
from week6.machine.lock import only_writer
from week6.machine.paths import check_writable, place
from week6.recorded import recorded
from week6.run.evaluation import estimate, judge
from week6.run.models import PRESETS, frozen_copy, new_policy
from week6.tasks import Task, world
from week6.tasks.assistant import assistant
from week6.tasks.conversation import clean

PRESET = "lesson"
"""Its SFT model and its 10,000 pairs are what everybody starts from."""
KL_LIMIT = 3.0
"""Nats. An entry is too far away if its KL is above by more than two standard errors."""
ANSWERS = 8
"""Answers to each prompt."""
SEED = 14
"""Draws the prompts, and the answers to them."""
PHRASINGS = 4
"""Prompts of each request and of each intent of small talk."""
COLUMNS = {
    "by": str,
    "entry": str,
    "gold": float,
    "gold_se": float,
    "gold_low": float,
    "gold_high": float,
    "kl": float,
    "kl_se": float,
    "leash": str,
    "answers": int,
    "prompts": int,
    "sft": str,
}
"""What is said of an entry: whose it is, its gold reward (mean, standard error, 95 % interval; reward units), its KL
(nats), whether the leash holds, and a checksum of the SFT model that it was measured from."""

LEASHES = ("holds", "too far")
"""What is said of an entry's KL."""

ROUNDING = 1e-3
"""Nats; a table has four digits behind the point."""

TEMPLATES = (
    "can you teach me to {} ?",
    "can you show me how to {} ?",
    "can you tell me how to {} ?",
    "do you know how to {} ?",
    "help me {} .",
    "i want to know how to {} .",
    "what do i do to {} ?",
)
SMALL_TALK = ("{} , chatbot , my friend {}", "{} , my friend , chatbot {}", "chatbot , {} {}", "my friend , {} {}")

DECISIVE = (
    "model_type vocab_size n_positions n_embd n_layer n_head n_inner activation_function layer_norm_epsilon "
    "scale_attn_weights scale_attn_by_inverse_layer_idx reorder_and_upcast_attn add_cross_attention tie_word_embeddings"
).split()
"""Settings of a GPT-2 that decide what its weights compute."""
HEADS = {"head.weight", "score.weight"}
"""Of reward models: of this course and of transformers."""
LARGEST = 8
"""A file may be so many times as large as the SFT model's weights: a checkpoint holds Adam's moments, too."""


def challenge_prompts() -> list[str]:
    """The prompts of the challenge, the same at every call; none is a prompt or a held-out prompt of the task."""
    rng = random.Random(SEED)
    turns = [[template.format(request) for template in TEMPLATES] for request in (*world.HARMLESS, *world.HARMFUL)]
    turns += [
        [form.format(phrase, talk.mark) for phrase in talk.phrases for form in SMALL_TALK]
        for talk in world.SMALL_TALK.values()
    ]
    chosen = [text for phrasings in turns for text in rng.sample(phrasings, PHRASINGS)]
    return [f"<|user|> {text} <|assistant|>" for text in chosen]


def challenge(
    entries: Sequence[Path], table: Path, reference: Path | None = None, say: Callable[[str], None] = print
) -> None:
    """Score saved policies, put a row for each into `table`, a CSV file, and say how all stand.

    `reference` is the folder of the SFT model; that of preset `lesson`, made if need be, where it is not given. A
    later score of an entry takes the place of an earlier one. Raises RunError for a table that is none, before
    anything is scored, and, when all others have their rows, for entries that are no policies over the vocabulary.
    """
    table, reference = place(table, "--table"), None if reference is None else place(reference, "--reference")
    read_table(table)
    if entries:
        check_writable(table.parent, "--table")
    elif reference is not None:
        raise RunError(f"--reference: got {reference} and no entry to measure from it, expected one; or leave it out")
    task = assistant()
    template = new_policy(PRESETS[PRESET], task.tokenizer, seed=0)
    found, refused = {}, []
    for path in entries:
        try:
            found[_name(path)] = read_entry(place(path, "entry"), template, task.tokenizer)
        except RunError as error:
            refused.append(str(error))
        except OSError as error:
            refused.append(f"{_name(path)}: {error.strerror}; expected files that can be read")
    rows = []
    if found:
        if reference is None:
            sft = deepcopy(lesson(preset=PRESETS[PRESET]).sft).cpu()
        else:
            sft = read_entry(reference, template, task.tokenizer)
        for name, policy in found.items():
            try:
                rows.append({"by": "class", "entry": name} | score(policy, sft, task))
            except RunError as error:
                refused.append(f"{name}: {error}")
    with only_writer(table, say):
        standings = add_rows(read_table(table), rows)
        if rows:
            write_atomic(table, standings.to_csv(index=False))
    say(as_text(standings))
    if refused:
        raise RunError("; ".join(refused))


def score(
    policy: PreTrainedModel,
    sft: PreTrainedModel,
    task: Task,
    prompts: Sequence[str] | None = None,
    answers: int = ANSWERS,
) -> dict[str, Any]:
    """The figures of one policy: a row of COLUMNS without its first two. The same weights have the same figures.

        KL ≈ mean of log π(y|x) − log π_SFT(y|x) over answers y of π (k1);      leash: KL − 2 se ≤ 3 nats

    Raises RunError where the policy's probabilities are no numbers.
    """
    asked = list(challenge_prompts() if prompts is None else prompts)
    try:
        judged = judge(policy, sft, lambda y: y.log_probs.sum(-1), task, asked, answers, SEED)
    except (RuntimeError, ValueError) as error:
        raise RunError(f"no answers can be sampled from it ({' '.join(str(error).split())[:100]})") from error
    assert judged.gold is not None
    if not judged.kl.isfinite().all():
        raise RunError("its log-probabilities are not finite, expected weights that a policy can compute with")
    gold, kl = estimate(judged.gold), estimate(judged.kl)
    return {
        "gold": round(gold.mean, 4),
        "gold_se": round(gold.se, 4),
        "gold_low": round(gold.mean - 1.96 * gold.se, 4),
        "gold_high": round(gold.mean + 1.96 * gold.se, 4),
        "kl": round(kl.mean, 4),
        "kl_se": round(kl.se, 4),
        "leash": LEASHES[kl.mean - 2 * kl.se > KL_LIMIT],
        "answers": gold.n,
        "prompts": gold.prompts,
        "sft": checksum(sft),
    }


def checksum(module: nn.Module) -> str:
    """CRC-32 of a model's weights."""
    crc = 0
    for parameter in module.parameters():
        crc = zlib.crc32(parameter.detach().float().cpu().contiguous().numpy().data, crc)
    return f"{crc:08x}"


# --- entries ---------------------------------------------------------------------------------------------------------


def read_entry(path: Path, template: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """The policy saved in a folder or in one safetensors file: a copy of `template` with these weights.

    Nothing but numbers is read, whatever else lies there: no pickle, no code. Raises RunError, in one sentence, for
    what is no policy over the vocabulary of `tokenizer` with the layers of `template`.
    """
    file = path
    if path.is_dir():
        file = path / "model.safetensors"
        _check_folder(path, file, template, tokenizer)
    if not file.is_file():
        raise _refused(path, "is no policy", "the folder that policy.save_pretrained(FOLDER) writes, or a .safetensors")
    most = LARGEST * 4 * sum(p.numel() for p in template.parameters()) + 1_000_000
    if file.stat().st_size > most:
        raise _refused(path, f"has {file.stat().st_size / 1e6:.0f} MB of weights", f"at most {most / 1e6:.0f} MB")
    try:
        with safetensors.safe_open(file, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}
    except (safetensors.SafetensorError, OSError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:100]
        raise _refused(path, f"cannot be read as safetensors ({reason})", "what safetensors wrote, whole") from error
    weights = {name.removeprefix("model."): x for name, x in tensors.items() if not name.startswith("optimizer.")}
    return _with_weights(path, template, weights, len(tokenizer))


def _check_folder(path: Path, file: Path, template: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    names = sorted(entry.name for entry in path.iterdir())
    if (path / "policies").is_dir():
        raise _refused(path, "is a run", f"one of its policies, such as {clean(str(path / 'policies' / 'dpo'))}")
    if "adapter_config.json" in names:
        raise _refused(path, "holds an adapter", "the whole policy: merge it into the SFT model before you save")
    if not file.is_file():
        pickled = [name for name in names if name.endswith((".bin", ".pt", ".pth", ".ckpt", ".pkl"))]
        found = f"holds {pickled[0]}, a pickle, which may run code when it is read" if pickled else "holds no weights"
        raise _refused(path, found, "model.safetensors, as policy.save_pretrained(FOLDER) writes it")
    config = _read_json(path, "config.json")
    if "auto_map" in config:
        raise _refused(path, "brings Python code of its own, and no code of others is ever run", "a GPT-2")
    if "SequenceClassification" in str(config.get("architectures")):
        raise _refused(path, "is a reward model, which scores answers and writes none", "a policy")
    ours, default = template.config.to_dict(), GPT2Config().to_dict()
    for key in DECISIVE:
        theirs = config.get(key, default.get(key))
        if theirs != ours.get(key):
            what = "speaks another vocabulary: " if key == "vocab_size" else ""
            raise _refused(
                path, f"{what}has {key} = {clean(repr(theirs))[:60]}", f"{ours.get(key)!r}, as the SFT model"
            )
    if "tokenizer.json" in names:
        words = _read_json(path, "tokenizer.json").get("model")
        if not isinstance(words, dict) or words.get("vocab") != tokenizer.get_vocab():
            raise _refused(path, "speaks another vocabulary: its tokenizer.json differs", "that of the SFT model")


def _read_json(path: Path, name: str) -> dict[str, Any]:
    try:
        found = json.loads((path / name).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise _refused(path, f"has no {name} that can be read", "what policy.save_pretrained writes") from error
    if not isinstance(found, dict):
        raise _refused(path, f"has a {name} that is no object", "what policy.save_pretrained writes")
    return found


@torch.no_grad()
def _with_weights(path: Path, template: PreTrainedModel, weights: dict[str, Tensor], tokens: int) -> PreTrainedModel:
    if HEADS & weights.keys():
        raise _refused(path, "is a reward model, which scores answers and writes none", "a policy")
    policy = deepcopy(template)
    targets = dict(policy.named_parameters())
    embedding = "transformer.wte.weight"
    tied = weights.pop("lm_head.weight", None)
    if tied is not None:  # of two tied tensors a file may hold either
        weights.setdefault(embedding, tied)
    if missing := sorted(targets.keys() - weights.keys()):
        raise _refused(path, f"lacks {len(missing)} tensors, such as {missing[0]}", "all of the SFT model")
    if more := sorted(weights.keys() - targets.keys()):
        found = f"has {len(more)} tensors too many, such as {clean(more[0])[:60]}"
        raise _refused(path, found, "those of the SFT model and no others")
    if weights[embedding].shape[:1] != (tokens,):
        found = f"speaks another vocabulary: its embedding is {tuple(weights[embedding].shape)}"
        raise _refused(path, found, f"{tuple(targets[embedding].shape)}, a row for each token of the SFT model")
    if tied is not None and not torch.equal(tied, weights[embedding]):
        raise _refused(path, "has an lm_head of its own", "one tied to the embedding, as in the SFT model")
    for name, target in targets.items():
        tensor = weights[name]
        if tensor.shape != target.shape:
            raise _refused(path, f"has {name} of shape {tuple(tensor.shape)}", f"{tuple(target.shape)}")
        if not tensor.is_floating_point():
            raise _refused(path, f"has {name} in {tensor.dtype}", "floating-point weights")
        target.copy_(tensor)
        if not target.isfinite().all():
            raise _refused(path, f"holds NaN or infinite numbers in {name}", "finite weights")
    return frozen_copy(policy)


def _refused(path: Path, found: str, expected: str) -> RunError:
    return RunError(f"{_name(path)} {found}; expected {expected}")


def _name(path: Path) -> str:
    """What an entry is called in the table: its path, which no spreadsheet takes for a formula."""
    name = clean(str(path)).replace("\n", " ").replace("\t", " ")
    return f"./{name}" if name[:1] in "=+-@" else name


# --- the table -------------------------------------------------------------------------------------------------------


def read_table(path: Path) -> pd.DataFrame:
    """The table in a file; where there is none, the course's own entries. RunError for a file that is no such table."""
    if not path.exists():
        return recorded("challenge").astype(COLUMNS)
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "a pipe or a device"
        raise RunError(f"--table {path}: is {kind}, expected a file; choose another one")
    try:
        try:
            text = path.read_bytes().decode()
        except UnicodeDecodeError:
            raise ValueError("it is not UTF-8; save it so, or restore it") from None
        for number, row in enumerate(csv.reader(io.StringIO(text, newline="")), 1):
            if row and len(row) != len(COLUMNS):
                raise ValueError(f"row {number} has {len(row)} fields, expected {len(COLUMNS)}")
        table = pd.read_csv(io.StringIO(text), dtype={"sft": str, "entry": str}, keep_default_na=False)
        if set(table.columns) != set(COLUMNS):
            raise ValueError(f"its columns are {', '.join(table.columns)[:60]}, expected {', '.join(COLUMNS)}")
        counts = [name for name, kind in COLUMNS.items() if kind is int]
        if len(table) and (odd := [name for name in counts if not pd.api.types.is_integer_dtype(table[name])]):
            raise ValueError(f"column {odd[0]} holds something else than whole numbers")
        table = table[list(COLUMNS)].astype(COLUMNS)
        numbers = table.select_dtypes("float")
        if len(strange := [name for name in numbers if not np.isfinite(numbers[name]).all()]):
            raise ValueError(f"a number of column {strange[0]} is missing or not finite")
        if (table[["gold_se", "kl_se"]] < 0).any(axis=None) or (table[counts] < 1).any(axis=None):
            raise ValueError("a standard error is below 0, or a number of answers or prompts below 1")
        if len(strange := sorted(set(table["leash"]) - set(LEASHES))):
            raise ValueError(f"a leash is {strange[0]!r:.40}, expected {' or '.join(map(repr, LEASHES))}")
        for figures in table.to_dict("records"):
            _check_row({str(name): x for name, x in figures.items()})
        return table
    except (OSError, ValueError) as error:
        reason = clean(str(error)).replace("\n", " ")[:250]
        raise RunError(f"--table {path}: is no table of the challenge ({reason}); choose another file") from error


def _check_row(row: dict[str, Any]) -> None:
    """Raise ValueError for names that cannot be shown, and for figures that cannot stand in one row."""
    for name in ("by", "entry"):
        if not row[name] or clean(row[name]) != row[name]:
            raise ValueError(f"a name in column {name} is {row[name]!r:.40}, expected one that can be shown")
    if not row["gold_low"] <= row["gold"] <= row["gold_high"]:
        raise ValueError(f"gold of {row['entry']} is {row['gold']:g}, outside its own interval")
    above = row["kl"] - 2 * row["kl_se"] - KL_LIMIT
    if abs(above) > ROUNDING and row["leash"] != LEASHES[above > 0]:
        raise ValueError(f"leash of {row['entry']} is {row['leash']!r}, which its kl contradicts")


def add_rows(table: pd.DataFrame, rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """The table with the rows, of each entry the last, in order: where the leash holds first, then by gold reward."""
    both = pd.concat([table, pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)], ignore_index=True)
    both = both.drop_duplicates(["by", "entry"], keep="last").assign(far=both["leash"] != "holds")
    ordered = both.sort_values(["far", "gold"], ascending=[True, False], kind="stable")
    return ordered.drop(columns="far").reset_index(drop=True)


def as_text(table: pd.DataFrame) -> str:
    """The table as it is printed: place, entry, gold reward with its 95 % interval, KL with its standard error."""
    lines = [f"{'':>3}  {'entry':<36} {'gold reward (95 %)':<24} {'KL (nats)':<14} leash"]
    for i, row in enumerate(table.to_dict("records")):
        place = f"{i + 1}." if row["leash"] == "holds" else "–"
        name = f"{row['by']}: {row['entry']}" if row["by"] != "class" else str(row["entry"])
        name = name if len(name) <= 36 else f"…{name[-35:]}"
        gold = f"{row['gold']:+.2f} ({row['gold_low']:+.2f} to {row['gold_high']:+.2f})"
        lines.append(f"{place:>3}  {name:<36} {gold:<24} {row['kl']:.2f} ± {row['kl_se']:.2f}    {row['leash']}")
    if table["sft"].nunique() > 1:
        lines.append(
            "Measured from more than one SFT model (column sft of the table): compare KL and places with care."
        )
    return "\n".join(lines)
