"""Files that are whole or absent, and checkpoints that are intact or reported as damaged (always safetensors)."""

import errno
import json
import os
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from week6.machine.compute import compute

REMEDY = "delete it to repeat this stage with --resume, or restore a copy"
"""What to do about a damaged file of a run."""


class RunError(Exception):
    """A run cannot go on; the message says in one sentence what came, what was expected and what to do."""


@contextmanager
def explain_no_space(path: Path, needed: int | None = None) -> Iterator[None]:
    """Turn 'no space left on device' into a RunError that says how much is needed (bytes, if known) and free."""
    try:
        yield
    except (OSError, safetensors.SafetensorError) as error:
        number = error.errno if isinstance(error, OSError) else None
        if number not in (errno.ENOSPC, errno.EDQUOT) and f"os error {errno.ENOSPC}" not in str(error):
            raise
        free = shutil.disk_usage(path.parent).free / 1e6
        need = "more" if needed is None else f"{needed / 1e6:.1f} MB"
        raise RunError(
            f"no disk space for {path}: {free:.1f} MB free, {need} needed; "
            "free some and continue with --resume (what was there before is intact)"
        ) from error


@contextmanager
def replacing(path: Path, needed: int | None = None) -> Iterator[Path]:
    """Make a file or folder in one piece: the block writes to the path it gets, which then takes the place of `path`.

    Raises RunError when the disk is full; what was there is then intact and nothing temporary remains.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.tmp"
    _remove_folder(temporary)
    try:
        with explain_no_space(path, needed):
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


def save_tensors(path: Path, tensors: dict[str, Tensor], state: dict[str, float] | None = None) -> None:
    """Write tensors and a few numbers to one safetensors file, atomically and with a checksum.

    Raises RunError when the disk is full; the file that was there is then intact.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(state or {})
    # One entry: safetensors writes several in random order, and equal contents must give equal files.
    metadata = {"week6": json.dumps({"state": text, "crc32": _checksum(tensors, text)})}
    write_atomic(path, safetensors.torch.save(tensors, metadata))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, float]]:
    """What save_tensors wrote. Raises RunError for a file that is damaged or of another origin."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {})["week6"])
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}
        state = metadata["state"]
        intact = metadata["crc32"] == _checksum(tensors, state)
    except (safetensors.SafetensorError, KeyError, OSError, ValueError) as error:
        raise RunError(f"{path} is damaged ({error}), expected a file of week6; {REMEDY}") from error
    if not intact:
        raise RunError(f"{path} is damaged: its checksum differs from the one written; {REMEDY}")
    return tensors, dict(json.loads(state))


def _module_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters (tied weights once) and persistent buffers."""
    persistent = module.state_dict().keys()
    buffers = {name: buffer for name, buffer in module.named_buffers() if name in persistent}
    return {name: p.detach() for name, p in module.named_parameters()} | buffers


def save_checkpoint(
    path: Path, module: nn.Module, optimizer: torch.optim.Optimizer | None = None, state: dict[str, float] | None = None
) -> None:
    """Write weights, the optimizer's moments and the numbers in `state` (step, β, …), as save_tensors does."""
    tensors = {f"model.{name}": tensor for name, tensor in _module_tensors(module).items()}
    for index, moments in (optimizer.state_dict()["state"] if optimizer else {}).items():
        tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in moments.items()}
    save_tensors(path, tensors, state)


def load_checkpoint(path: Path, module: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> dict[str, float]:
    """Read what save_checkpoint wrote into `module` and `optimizer`; returns `state`.

    Raises RunError for a damaged file and for one of another model; module and optimizer are then unchanged.
    """
    tensors, state = load_tensors(path)
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
