"""Walls around the process that runs a student's code; each is tried, and what this system does not give is said.

    own process tree   PID namespace: its end ends every process in it; else the grader hunts all descendants
    no network         network namespace: not even the loopback is up
    file system        mount namespace: all read-only; homes, /tmp and what the grader hides are empty, its own folder
                       is a small disk in memory
    limits             seconds of the processor, memory, size and number of open files, processes; no core files
    environment        emptied, no privilege can be gained

Linux gives all of it to ordinary users where user namespaces are allowed. Elsewhere the limits remain.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

with contextlib.suppress(ModuleNotFoundError):  # Windows, where nothing is graded
    import resource

CPU_SECONDS = 300
MEMORY = 3 * 2**30
"""Bytes of address space beyond what torch takes from the start."""
FILE_SIZE = 16 * 2**20
DISK = 32 * 2**20
OPEN_FILES = 64
PROCESSES = 60

WALLS = {
    "processes": "a process tree of its own",
    "network": "no network",
    "files": "a read-only file system",
}
"""What the namespaces give, by name."""

_NEWNS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = 0x00020000, 0x08000000, 0x10000000, 0x20000000, 0x40000000
_BIND, _REC, _PRIVATE, _NOSUID, _NODEV = 0x1000, 0x4000, 0x40000, 2, 4
_PDEATHSIG, _NO_NEW_PRIVS, _SUBREAPER = 1, 38, 36
_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE, _RDONLY = 442, -100, 0x8000, 1


class _Attributes(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "userns")]


@dataclass(frozen=True)
class Jail:
    """Where a student's process works (`folder`), and what it must not read (`hidden`: others' work, results)."""

    folder: Path
    hidden: tuple[Path, ...] = ()
    namespaces: bool = True


def enter(jail: Jail, descriptor: int) -> list[str]:
    """Go into the jail with one open descriptor: in a fresh process inside, return the walls that hold, by name.

    The process that calls it waits outside for the one inside, and never returns.
    """
    linux = sys.platform == "linux"
    walls: list[str] = []
    taken = _address_space()
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)
    if linux and jail.namespaces:
        walls = _namespaces(jail)
    if linux:
        _libc().prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        _libc().prctl(_SUBREAPER, 1, 0, 0, 0)
    inside = os.fork()
    if inside:
        os.close(descriptor)
        while True:
            with contextlib.suppress(ChildProcessError):
                pid, _ = os.wait()
                if pid != inside:
                    continue
            os._exit(0)
    if linux:
        _libc().prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if "processes" in walls:
            _libc().mount(b"proc", b"/proc", b"proc", _NOSUID | _NODEV, None)  # else the old one stays, read-only
        _drop_privileges()
    os.chdir(jail.folder)
    _environment(jail.folder)
    _limits(taken)
    for signal_number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signal_number, signal.SIG_DFL)
    os.closerange(3, descriptor)
    os.closerange(descriptor + 1, 4096)
    return walls


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _namespaces(jail: Jail) -> list[str]:
    """As many walls of namespaces as the system gives: all, or none."""
    libc, user, group = _libc(), os.getuid(), os.getgid()
    if libc.unshare(_NEWUSER | _NEWNS | _NEWPID | _NEWNET | _NEWIPC):
        return []
    try:  # an ordinary user inside, whatever it is outside
        for name, text in (("setgroups", "deny"), ("uid_map", f"1000 {user} 1"), ("gid_map", f"1000 {group} 1")):
            Path("/proc/self", name).write_text(text)
    except OSError:  # the namespaces are there, without the right to mount
        return ["processes", "network"]
    walls = ["processes", "network"]
    return [*walls, "files"] if _file_system(libc, jail) else walls


def _file_system(libc: ctypes.CDLL, jail: Jail) -> bool:
    """Everything read-only, what is hidden empty, the folder a disk in memory. False where the system refuses."""
    if libc.mount(b"none", b"/", None, _REC | _PRIVATE, None):
        return False
    needed = [(path, os.open(path, os.O_PATH)) for path in _outermost(_read_by_python())]
    done = True
    folder = os.path.realpath(jail.folder)
    for place in _outermost([*_private_places(), *(os.path.realpath(path) for path in jail.hidden)]):
        if not os.path.isdir(place):
            continue
        done &= not libc.mount(b"tmpfs", os.fsencode(place), b"tmpfs", _NOSUID | _NODEV, b"size=1m,mode=755")
        for path, descriptor in needed:
            if f"{path}/".startswith(f"{place}/"):
                os.makedirs(path, exist_ok=True)
                source = f"/proc/self/fd/{descriptor}".encode()
                done &= not libc.mount(source, os.fsencode(path), None, _BIND | _REC, None)
    hidden_again = [os.path.realpath(path) for path in jail.hidden]
    for place in hidden_again:  # a hidden folder within what Python reads
        if os.path.isdir(place) and any(f"{place}/".startswith(f"{path}/") for path, _ in needed):
            done &= not libc.mount(b"tmpfs", os.fsencode(place), b"tmpfs", _NOSUID | _NODEV, b"size=1m,mode=755")
    os.makedirs(folder, exist_ok=True)
    size = f"size={DISK},nr_inodes=2000,mode=700".encode()
    done &= not libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", _NOSUID | _NODEV, size)
    attributes = _Attributes(set=_RDONLY)
    done &= not libc.syscall(
        _MOUNT_SETATTR, _AT_FDCWD, b"/", _AT_RECURSIVE, ctypes.byref(attributes), ctypes.sizeof(attributes)
    )
    attributes = _Attributes(clear=_RDONLY)
    done &= not libc.syscall(
        _MOUNT_SETATTR, _AT_FDCWD, os.fsencode(folder), 0, ctypes.byref(attributes), ctypes.sizeof(attributes)
    )
    for _, descriptor in needed:
        os.close(descriptor)
    return bool(done)


def _private_places() -> list[str]:
    """Folders with other people's things, which no answer needs."""
    places = ["/tmp", "/var/tmp", "/dev/shm", "/home", "/root", "/run/user", os.path.expanduser("~")]
    return [os.path.realpath(place) for place in places if os.path.isdir(place) and os.path.realpath(place) != "/"]


def _read_by_python() -> list[str]:
    """Folders that imports read, wherever they lie."""
    here = str(Path(__file__).resolve().parent.parent)
    places = [sys.prefix, sys.base_prefix, here, *(path for path in sys.path if path.rstrip("/") not in ("", "/"))]
    real = {os.path.realpath(place) for place in places if os.path.isdir(place)}
    private = {*_private_places(), "/"}
    # A home folder on sys.path (a notebook's own) is not opened for the sake of the packages that it does not hold.
    return sorted(path for path in real if path not in private and not path.startswith(("/usr/", "/lib")))


def _outermost(places: Sequence[str]) -> list[str]:
    """Those that lie in none of the others."""
    unique = sorted(set(places))
    return [p for p in unique if not any(p != q and f"{p}/".startswith(f"{q}/") for q in unique)]


def _drop_privileges() -> None:
    """No capability within the namespaces, either, and none to be gained."""
    libc = _libc()
    libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0)
    for capability in range(64):
        libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP
    if os.getuid() != 0:  # outside of namespaces an administrator would lose the right to read the course
        head, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
        libc.capset(ctypes.byref(head), ctypes.byref(data))


def _environment(folder: Path) -> None:
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "PYTHONHASHSEED") if name in os.environ}
    os.environ.clear()
    home = str(folder)
    os.environ.update(
        kept
        | dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME", "MPLCONFIGDIR", "WEEK6_RUNS"), home)
        | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "MPLBACKEND": "Agg", "CUDA_VISIBLE_DEVICES": ""}
    )


def _address_space() -> int:
    """Bytes that this process has mapped: torch alone maps some gigabytes. 0 where the system does not tell."""
    with contextlib.suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    return 0


def _limits(taken: int) -> None:
    """What one process may take; `taken` is the address space that it has already."""
    wanted = {
        "RLIMIT_CPU": CPU_SECONDS,
        "RLIMIT_FSIZE": FILE_SIZE,
        "RLIMIT_NOFILE": OPEN_FILES,
        "RLIMIT_CORE": 0,
    }
    if taken:
        wanted["RLIMIT_AS"] = taken + MEMORY
    if os.getpid() == 1:  # counted within the namespace; outside, all that the user runs would count
        wanted["RLIMIT_NPROC"] = PROCESSES
    for name, value in wanted.items():
        with contextlib.suppress(ValueError, OSError):
            kind = getattr(resource, name)
            hard = resource.getrlimit(kind)[1]
            limit = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(kind, (limit, limit))
