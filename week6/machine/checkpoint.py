"""Files that are whole or absent, and checkpoints that are intact or reported as damaged (always safetensors)."""

import errno
import json
import math
import os
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from week6.machine.compute import compute

REMEDY = "delete it to repeat this stage with --resume, or restore a copy"
"""What to do about a damaged file of a run."""


class RunError(Exception):
    """A run cannot go on; the message says in one sentence what came, what was expected and what to do."""


@contextmanager
def explain_write(path: Path, needed: int | None = None) -> Iterator[None]:
    """Turn an error of writing `path` into a RunError. Of a full disk it says how much is needed (bytes, if known) and
    free; of any other, such as a read-only disk or a file where a folder should be, what the system says."""
    try:
        yield
    except (OSError, safetensors.SafetensorError) as error:
        number = error.errno if isinstance(error, OSError) else None
        if number == errno.EISDIR:
            raise RunError(f"{path} is a folder, expected a file: remove it, or choose another place") from error
        if number not in (errno.ENOSPC, errno.EDQUOT) and f"os error {errno.ENOSPC}" not in str(error):
            reason = getattr(error, "strerror", None) or error
            raise RunError(
                f"{path} cannot be written ({reason}): make its folder writable, or choose another place"
            ) from error
        free = shutil.disk_usage(next(folder for folder in path.parents if folder.exists())).free / 1e6
        need = "more" if needed is None else f"{needed / 1e6:.1f} MB"
        raise RunError(
            f"no disk space for {path}: {free:.1f} MB free, {need} needed; "
            "free some and continue with --resume (what was there before is intact)"
        ) from error


@contextmanager
def replacing(path: Path, needed: int | None = None) -> Iterator[Path]:
    """Make a file or folder in one piece: the block writes to the path it gets, which then takes the place of `path`.

    Raises RunError when it cannot be written; what was there is then intact and nothing temporary remains.
    """
    temporary = path.parent / f".{path.name}.tmp"
    with explain_write(path, needed):  # which measures the free space when the half-written file is gone
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_folder(temporary)
        try:
            yield temporary
            for written in filter(Path.is_file, [temporary, *temporary.rglob("*")]):
                with open(written, "rb+") as file:  # Windows flushes only what may be written to
                    os.fsync(file.fileno())
            if temporary.is_dir():
                _remove_folder(path)
            os.replace(temporary, path)
        finally:
            _remove_folder(temporary)
            temporary.unlink(missing_ok=True)


def _remove_folder(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a file in one piece: readers see the old content or the new one, never a part.

    Of several processes only the main one writes.
    """
    if not compute().is_main:
        return
    data = content.encode() if isinstance(content, str) else content
    with replacing(path, len(data)) as temporary:
        temporary.write_bytes(data)


def _checksum(tensors: dict[str, Tensor], state: str) -> str:
    """CRC-32 over state, names, types, shapes and bytes: a flipped bit anywhere changes it."""
    crc = zlib.crc32(state.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        crc = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), crc)
        crc = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, crc)
    return f"{crc:08x}"


def save_tensors(path: Path, tensors: dict[str, Tensor], state: dict[str, float] | None = None, tag: str = "") -> None:
    """Write tensors and a few numbers to one safetensors file, atomically and with a checksum.

    `tag` says what the file is, for `load_tensors` to compare. Raises RunError when the disk is full; the file that
    was there is then intact.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(state or {})
    # One entry: safetensors writes several in random order, and equal contents must give equal files.
    metadata = {"week6": json.dumps({"state": text, "tag": tag, "crc32": _checksum(tensors, text + tag)})}
    write_atomic(path, safetensors.torch.save(tensors, metadata))


def load_tensors(path: Path, tag: str = "") -> tuple[dict[str, Tensor], dict[str, float]]:
    """What save_tensors wrote. Raises RunError for a file that is damaged, of another origin, or tagged otherwise than
    `tag`, if that is given."""
    if path.is_dir():
        raise RunError(f"{path} is a folder, expected a file of week6; {REMEDY}")
    if not path.is_file():
        raise RunError(
            f"{path} does not exist, expected a file of week6; restore a copy, or make it again with --resume"
        )
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {})["week6"])
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}
        state, found = metadata["state"], metadata.get("tag", "")
        intact = metadata["crc32"] == _checksum(tensors, state + found)
        numbers = {str(name): float(value) for name, value in json.loads(state).items()}
        if not all(map(math.isfinite, numbers.values())):
            raise ValueError("a number of its state is not finite")
    except (safetensors.SafetensorError, KeyError, OSError, TypeError, AttributeError, ValueError) as error:
        raise RunError(f"{path} is damaged ({error}), expected a file of week6; {REMEDY}") from error
    if not intact:
        raise RunError(f"{path} is damaged: its checksum differs from the one written; {REMEDY}")
    if tag and found and found != tag:
        raise RunError(f"{path} is another file or made with other settings: {found!r}, expected {tag!r}; {REMEDY}")
    return tensors, numbers


def as_bytes(texts: list[list[str]]) -> UInt8[Tensor, " n"]:
    """Rows of strings as a tensor, JSON in UTF-8."""
    return torch.tensor(list(json.dumps(texts).encode()), dtype=torch.uint8)


def as_texts(content: UInt8[Tensor, " n"]) -> list[list[str]]:
    """What `as_bytes` was given."""
    return list(json.loads(bytes(content.tolist())))


def tag_of(path: Path) -> str:
    """The tag of a file that save_tensors wrote; "" where none can be read."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return str(json.loads((file.metadata() or {})["week6"])["tag"])
    except (safetensors.SafetensorError, KeyError, OSError, TypeError, ValueError):
        return ""


def _module_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters (tied weights once; where some are trained and others not, those that are) and persistent buffers."""
    persistent = module.state_dict().keys()
    buffers = {name: buffer for name, buffer in module.named_buffers() if name in persistent}
    parameters = dict(module.named_parameters())
    trained = {name: p for name, p in parameters.items() if p.requires_grad}
    return {name: p.detach() for name, p in (trained or parameters).items()} | buffers


def save_checkpoint(
    path: Path,
    module: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    state: dict[str, float] | None = None,
    tag: str = "",
) -> None:
    """Write weights, the optimizer's moments and the numbers in `state` (step, β, …), as save_tensors does."""
    tensors = {f"model.{name}": tensor for name, tensor in _module_tensors(module).items()}
    for index, moments in (optimizer.state_dict()["state"] if optimizer else {}).items():
        tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in moments.items()}
    save_tensors(path, tensors, state, tag)


def load_checkpoint(
    path: Path, module: nn.Module, optimizer: torch.optim.Optimizer | None = None, tag: str = ""
) -> dict[str, float]:
    """Read what save_checkpoint wrote into `module` and `optimizer`; returns `state`.

    Raises RunError where `load_tensors` does and for a file of another model; module and optimizer are then unchanged.
    """
    tensors, state = load_tensors(path, tag)
    targets = _module_tensors(module)
    weights = {name.removeprefix("model."): x for name, x in tensors.items() if name.startswith("model.")}
    for name in sorted(weights.keys() ^ targets.keys()):
        where = "only in the file" if name in weights else "missing from the file"
        raise RunError(f"{path} belongs to another model: tensor {name} is {where}; {REMEDY}")
    for name, target in targets.items():
        if weights[name].shape != target.shape:
            raise RunError(
                f"{path} belongs to another model: {name} has shape {tuple(weights[name].shape)}, "
                f"expected {tuple(target.shape)}; {REMEDY}"
            )
    for name, target in targets.items():
        target.copy_(weights[name])
    if optimizer is not None:
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".")
                moments.setdefault(int(index), {})[key] = tensor
        optimizer.load_state_dict(optimizer.state_dict() | {"state": moments})
    return state
