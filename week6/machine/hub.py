"""The hub as it is: absent, slow, broken off, wrong. Whatever it does, a run ends in bounded time with one sentence.

What is in the cache is taken from there, without asking. Otherwise the files are first looked up, each within the
client's own limit (HF_HUB_ETAG_TIMEOUT, 10 seconds), then fetched, where the client gives up after a few silences of
HF_HUB_DOWNLOAD_TIMEOUT, and compared with their checksums.
"""

import contextlib
import hashlib
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar

import datasets
from huggingface_hub import HfApi, constants, get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # documented, but not listed

from week6.machine.checkpoint import RunError

T = TypeVar("T")
Kind = Literal["model", "dataset"]
HUB = "https://huggingface.co"
PROBES = 2
"""How often a file is looked up before the hub is called unreachable."""
NEEDED = {"model": r"config\.json|tokenizer\.json|model.*\.safetensors", "dataset": r".*\.(parquet|jsonl?(\.gz)?|csv)"}
"""Files that are looked up before anything is fetched."""
MOST_FILES = 8
OWN_CODE = "brings Python code of its own, and no code of others is ever run"


def fetch(kind: Kind, name: str, flag: str, load: Callable[[], T], needs: str = "") -> T:
    """What `load()` reads from the hub, or from the cache if it is there.

    Raises RunError, in bounded time and with one sentence, when the hub or the cache does not give it: which file it
    was, why, and what to do. `flag` is the command-line flag that takes a local copy instead, `needs` the end of the
    name of a file that the repository must have.
    """
    try:
        validate_repo_id(name)
    except HFValidationError:
        raise RunError(
            f"{flag} {name!r:.90}: is no file or folder here, and no name that the hub could know; expected a path, or "
            "OWNER/NAME on the hub"
        ) from None
    with contextlib.suppress(Exception), _offline():  # not in the cache, or not whole: then it is fetched
        return load()
    what = f"{flag} {name}"
    remedy = f"try again, give a local copy ({flag} PATH), or take the embedded preset (--preset tiny)"
    if constants.HF_HUB_OFFLINE:
        raise RunError(f"{what} is not in the cache {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE is set: {remedy}")
    _check_writable(Path(constants.HF_HUB_CACHE), what)
    try:
        if not any(file.endswith(needs) for file in _look_up(kind, name)):
            raise FileNotFoundError(f"the repository has no {needs} file, and no other kind of weights is read")
        result = load()
    except Exception as error:  # of the client, of the libraries under it, of the readers of every format
        damaged = _discard_damaged(kind, name)
        file = damaged or _file_in(error)
        reason = "arrived damaged (its checksum differs)" if damaged else _reason(error)
        raise RunError(f"{what}: {file or 'the repository'} {reason}: {remedy}") from error
    if damaged := _discard_damaged(kind, name):
        raise RunError(f"{what}: {damaged} arrived damaged (its checksum differs): {remedy}")
    return result


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


def _check_writable(cache: Path, what: str) -> None:
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache):
            pass
    except OSError as error:
        raise RunError(
            f"{what}: the cache {cache} cannot be written ({error.strerror}): "
            "set HF_HOME to a folder that can, or give a local copy"
        ) from error


def _look_up(kind: Kind, name: str) -> list[str]:
    """The files of a repository; raises the client's error if it or one of the files that matter does not answer."""
    api = HfApi()
    info: Any = _again(lambda: api.repo_info(name, repo_type=kind, timeout=constants.HF_HUB_ETAG_TIMEOUT))
    files = [sibling.rfilename for sibling in info.siblings or []]
    for file in [file for file in files if re.fullmatch(NEEDED[kind], file)][:MOST_FILES]:
        url = hf_hub_url(name, file, repo_type=kind, revision=info.sha)
        try:
            _again(lambda url=url: get_hf_file_metadata(url, timeout=constants.HF_HUB_ETAG_TIMEOUT))  # type: ignore[misc]
        except Exception as error:
            error.add_note(url)
            raise
    return files


def _again(call: Callable[[], T]) -> T:
    for _ in range(PROBES - 1):
        with contextlib.suppress(Exception):
            return call()
    return call()


def _discard_damaged(kind: Kind, name: str) -> str | None:
    """Delete the cached files whose content is not what their name, its SHA-256, says; the name of one of them."""
    folder = Path(constants.HF_HUB_CACHE) / f"{kind}s--{name.replace('/', '--')}"
    damaged = None
    for link in folder.glob("snapshots/**/*"):
        blob = link.resolve()
        if blob.is_file() and re.fullmatch(r"[0-9a-f]{64}", blob.name):
            with open(blob, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest != blob.name:
                damaged = link.name
                link.unlink()
                blob.unlink()
    return damaged


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _file_in(error: BaseException) -> str | None:
    """The file that an error or one of its causes is about, from the address in it."""
    for link in _chain(error):
        text = " ".join([str(link), *getattr(link, "__notes__", ())])
        if found := re.search(r"/resolve/[^/]+/([^\s?'\"]+[^\s?'\".:])", text):
            return found[1]
    return None


def _reason(error: BaseException) -> str:
    """What went wrong, in words."""
    links = list(_chain(error))
    for link in links:
        status = getattr(getattr(link, "response", None), "status_code", None)
        if status in (401, 403, 404):
            return f"does not exist or is not public (status {status})"
        if status is not None:
            return f"cannot be had now (the hub answered with status {status})"
    names = " ".join(type(link).__name__ for link in links)
    if "UnsupportedProtocol" in names or "InvalidURL" in names or "InvalidSchema" in names or "MissingSchema" in names:
        return f"did not come: HF_ENDPOINT is {constants.ENDPOINT!r:.60}, expected an address such as {HUB}"
    if "Timeout" in names:
        return "did not come: the hub did not answer in time"
    if "Connect" in names:
        return "did not come: the hub cannot be reached"
    if "Protocol" in names or "onsistency check" in str(error):
        return "broke off in the middle"
    return unreadable(error)


def unreadable(error: BaseException) -> str:
    """What the reader of a format could not do, in words."""
    reason = why(error)
    return reason if reason == OWN_CODE else f"cannot be read ({reason})"


def why(error: BaseException) -> str:
    """Why the reader of a format gave up: of its report only the end that says it, and the part of a model it read."""
    links = list(_chain(error))
    said = [" ".join(str(link).split()) for link in links]
    if any("trust_remote_code" in text or "Dataset scripts" in text for text in said):
        return OWN_CODE
    reason = next((text for text in reversed(said) if " " in text), said[-1])
    if " " not in reason:  # a key alone, such as 'gelu_9'
        reason = f"{reason or type(error).__name__} is not known"
    parts = {note for link in links for note in getattr(link, "__notes__", ()) if "/" not in note}
    reason = ": ".join([*sorted(parts), reason])
    return reason[:180] + "…" * (len(reason) > 180)
