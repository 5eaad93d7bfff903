"""What is kept of the finished stages of a run, in its stages.json: what each took and found, which files it made,
with which settings, and from what. So a file that is gone or damaged is noticed, and a setting may still be changed as
long as nothing was made with it.
"""

import json
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from week6.machine.checkpoint import REMEDY, RunError, tag_of

SUFFIXES = (".csv", ".html", ".json", ".jsonl", ".md", ".png", ".safetensors")
"""Of the files of a run."""
Entry = dict[str, Any]
"""Of one stage: usage, result, files (path in the run's folder: CRC-32), settings, sources (stage: CRC-32), crc32."""
PARTS = {"usage": dict, "result": dict, "files": dict, "settings": str, "sources": dict}
USAGE = {"seconds", "tokens_per_second", "peak_memory_mb"}


@dataclass(frozen=True)
class Depends:
    """What a stage is made of: settings, by their path in config.json ("preset.ppo"), and the stages before it."""

    settings: Sequence[str] = ()
    stages: Sequence[str] = ()


def crc(content: bytes | str) -> str:
    """CRC-32 as eight digits."""
    return f"{zlib.crc32(content.encode() if isinstance(content, str) else content):08x}"


def crc_of_file(path: Path) -> str:
    """CRC-32 of a file, read in pieces."""
    value = 0
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            value = zlib.crc32(piece, value)
    return f"{value:08x}"


def chosen(config: Any, depends: Depends) -> str:
    """Checksum of the settings in `config`, as JSON has it, that a stage is made with."""
    return crc(json.dumps([_leaf(config, key) for key in depends.settings], sort_keys=True))


def _leaf(config: Any, key: str) -> Any:
    for name in key.split("."):
        config = config.get(name) if isinstance(config, dict) else None
    return config


def differences(found: Any, wanted: Any, key: str = "") -> dict[str, str]:
    """ "ppo.beta": "0.1 in the folder, 0.2 asked for", for each leaf that differs."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        keys = list(wanted) + [name for name in found if name not in wanted]
        parts = (differences(found.get(name), wanted.get(name), f"{key}.{name}" if key else name) for name in keys)
        return {name: text for part in parts for name, text in part.items()}
    return {} if found == wanted else {key: f"{found!r:.80} in the folder, {wanted!r:.80} asked for"}


def check_is_of(path: Path, found: Any, wanted: Mapping[str, Any]) -> None:
    """Raise RunError unless a config.json has the parts of `wanted`: else it is that of something else."""
    if not isinstance(found, dict) or not found.keys() & wanted.keys() or not set(found) <= set(wanted):
        raise RunError(
            f"{path} is that of something else, expected {' and '.join(wanted)}: choose another name, or remove it"
        )


def check_kinds(folder: Path) -> None:
    """Raise RunError where a folder stands in the place of a file of a run, or the other way round, and for a pipe or
    a device in the place of either: reading it would never end."""
    flat = [folder / name for name in ("checkpoints", "metrics", "plots", "points")]
    nested = [folder / name for name in ("adapters", "policies")]
    for path in [*flat, *nested, *(x for part in nested if part.is_dir() for x in part.iterdir())]:
        if path.is_symlink() and not path.exists() or path.exists() and not path.is_dir():
            raise RunError(f"{path} is no folder, expected one: remove it, and --resume makes it again")
    for path in (x for part in [folder, *flat] if part.is_dir() for x in part.iterdir()):
        if path.suffix in SUFFIXES and path.exists() and not path.is_file():
            kind = "a folder" if path.is_dir() else "a pipe or a device"
            raise RunError(f"{path} is {kind}, expected a file: remove it, and --resume makes it again")


def seal(entry: Entry) -> Entry:
    """The entry with its own checksum."""
    return entry | {"crc32": crc(json.dumps(entry, sort_keys=True))}


def read_entries(path: Path) -> dict[str, Entry]:
    """The entries of a stages.json that are whole; the others count as not finished. RunError for a damaged file."""
    if not path.exists():
        return {}
    try:
        entries = json.loads(path.read_bytes())
        if not isinstance(entries, dict):
            raise ValueError("no object")
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(
            f"{path} is damaged ({error}), expected the finished stages: delete it, and --resume goes through them "
            "again, from their checkpoints; or restore a copy"
        ) from None
    whole: dict[str, Entry] = {}
    for stage, entry in entries.items():
        if isinstance(entry, dict):
            unsealed = {name: value for name, value in entry.items() if name != "crc32"}
            parts = all(isinstance(entry.get(name), kind) for name, kind in PARTS.items())
            if parts and seal(unsealed) == entry and _can_be_reported(stage, entry):
                whole[stage] = entry
    return whole


def _can_be_reported(stage: str, entry: Entry) -> bool:
    """Whether an entry has the figures that the report reads, as another version may not have written them."""
    found: dict[str, Any] = {"usage": entry["usage"]}
    if stage == "reward_model":
        found["accuracy"] = {"accuracy": entry["result"].get("accuracy", "none")}
    if stage == "evaluation":
        policies = entry["result"].get("policies")
        found |= policies if isinstance(policies, dict) and "sft" in policies else {"policies": policies}
    numbers = all(
        isinstance(row, dict) and all(x is None or isinstance(x, int | float) for x in row.values())
        for row in found.values()
    )
    return numbers and entry["usage"].keys() >= USAGE


def product(entry: Entry) -> str:
    """Checksum of the tensors and texts that a stage has made for those after it."""
    made = (".safetensors", ".jsonl")
    return crc(json.dumps({name: x for name, x in entry["files"].items() if x and name.endswith(made)}))


def check_files(folder: Path, entry: Entry) -> list[str]:
    """The files of a finished stage that are missing, by their paths in the run's folder.

    Raises RunError for one that is not as the stage left it. Checkpoints look after themselves.
    """
    missing = [name for name in entry["files"] if not (folder / name).is_file()]
    for name, expected in entry["files"].items():
        if expected and name not in missing and crc_of_file(folder / name) != expected:
            raise RunError(f"{folder / name} is damaged: its checksum differs from the one recorded; {REMEDY}")
    return missing


def files_of(folder: Path, paths: Collection[Path]) -> dict[str, str]:
    """The `files` of an entry: every path in the run's folder with its checksum, "" for a checkpoint."""
    return {
        str(path.relative_to(folder)): "" if path.parent.name == "checkpoints" else crc_of_file(path)
        for path in sorted(paths)
    }


def sources_of(stages: Sequence[str], finished: Mapping[str, Entry]) -> dict[str, str]:
    """The `sources` of an entry: the stages that it was made from, and what these had made."""
    return {stage: product(finished[stage]) for stage in stages if stage in finished}


# --- settings --------------------------------------------------------------------------------------------------------


def checkpoint_of(folder: Path, stage: str) -> Path:
    """The checkpoint of a stage in a run's folder."""
    return folder / "checkpoints" / f"{stage}.safetensors"


def check_settings(folder: Path, stages: Mapping[str, Depends], finished: Mapping[str, Entry], wanted: Any) -> Any:
    """What the config.json of a folder holds, None if it cannot be read.

    Raises RunError where a stage is finished or has begun with other settings than those in `wanted`. What a stage was
    made with is known from its entry, or from the tag of its checkpoint ("PLACE SETTINGS SOURCES"). Raises it too where
    nothing is made yet and config.json is no run's: it would be overwritten.
    """
    path = folder / "config.json"
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        found = None
    made = {stage: entry["settings"] for stage, entry in finished.items() if stage in stages}
    for stage, depends in stages.items():
        begun_with = checkpoint_of(folder, stage)
        if stage not in made and begun_with.exists():
            made[stage] = (tag_of(begun_with).split(" ") + [""])[1] or chosen(found, depends)
    if not made and path.exists():  # then nothing but this file says what the folder is
        check_is_of(path, found, wanted)
    bound = [stage for stage, settings in made.items() if settings != chosen(wanted, stages[stage])]
    if bound:
        keys = [f"{key}." for stage in bound for key in stages[stage].settings]
        lines = differences(found, wanted).items()
        deciding = {key: text for key, text in lines if any(f"{key}.".startswith(prefix) for prefix in keys)}
        begun = checkpoint_of(folder, bound[0]) if bound[0] not in finished else None
        raise other_configuration(folder, deciding, bound, begun)
    return found


def other_configuration(
    folder: Path, lines: Mapping[str, str], bound: Sequence[str] = (), begun: Path | None = None
) -> RunError:
    """The error for a folder with other settings: `lines` say which, `bound` are the stages made with them; `begun` is
    the checkpoint of the first of these if it is not finished."""
    listed = "; ".join(f"{key}: {text}" for key, text in lines.items()) or "as its stages say"
    by = f", which stage {' and '.join(bound)} was made with" if bound else ""
    again = f", delete {begun} to begin that stage again" if begun else ""
    return RunError(
        f"{folder} belongs to another configuration ({listed}{by}): "
        f"resume with the same settings{again}, or choose another name"
    )
