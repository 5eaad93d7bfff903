"""What a process in jail may take and know; that its walls hold is tried by hostile submissions in test_marking.py."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from week6.grading import jail

FREE = -1
"""In the place of RLIM_INFINITY."""


def limits(monkeypatch, taken=10, pid=1, hard=FREE):
    """What `_limits` sets, by name."""
    found = {}
    names = ("RLIMIT_CPU", "RLIMIT_FSIZE", "RLIMIT_NOFILE", "RLIMIT_CORE", "RLIMIT_AS", "RLIMIT_NPROC")
    resource = SimpleNamespace(
        RLIM_INFINITY=FREE, getrlimit=lambda kind: (5, hard), setrlimit=found.__setitem__, **{x: x for x in names}
    )
    monkeypatch.setattr(jail, "resource", resource, raising=False)
    monkeypatch.setattr(os, "getpid", lambda: pid)
    jail._limits(taken)
    assert all(soft == top for soft, top in found.values())
    return {name.removeprefix("RLIMIT_"): soft for name, (soft, _) in found.items()}


def test_limits(monkeypatch):
    usual = {"CPU": 300, "FSIZE": 16 * 2**20, "NOFILE": 64, "CORE": 0}
    assert limits(monkeypatch) == usual | {"AS": 10 + 3 * 2**30, "NPROC": 60}
    assert limits(monkeypatch, pid=7) == usual | {"AS": 10 + 3 * 2**30}  # all that the user runs would count
    assert limits(monkeypatch, taken=0) == usual | {"NPROC": 60}  # where the system does not tell what is taken
    assert set(limits(monkeypatch, hard=50).values()) == {50, 0}  # what was forbidden before stays so


def test_a_limit_that_the_system_does_not_know_hinders_no_other(monkeypatch):
    def refuse(kind, values):
        if kind == "RLIMIT_CPU":
            raise ValueError("not here")
        found.append(kind)

    found = []
    limits(monkeypatch)
    monkeypatch.setattr(jail.resource, "setrlimit", refuse)
    jail._limits(10)
    assert found == ["RLIMIT_FSIZE", "RLIMIT_NOFILE", "RLIMIT_CORE", "RLIMIT_AS", "RLIMIT_NPROC"]


@pytest.mark.parametrize("user", [1000, 0])
def test_every_capability_is_dropped_and_none_can_be_gained(monkeypatch, user):
    """An administrator outside of namespaces keeps those that are held, to read the course."""
    asked, emptied = [], []
    libc = SimpleNamespace(
        prctl=lambda *words: asked.append(words),
        capset=lambda head, data: emptied.append((bytes(head._obj), bytes(data._obj))),
    )
    monkeypatch.setattr(jail, "_libc", lambda: libc)
    monkeypatch.setattr(os, "getuid", lambda: user)
    jail._drop_privileges()
    assert asked == [(38, 1, 0, 0, 0), *((24, capability, 0, 0, 0) for capability in range(64))]  # linux/prctl.h
    version_3 = (0x20080522).to_bytes(4, sys.byteorder)  # linux/capability.h
    assert emptied == ([(version_3 + bytes(4), bytes(24))] if user else [])


def test_nothing_of_the_environment_is_kept_but_what_programs_need(monkeypatch, tmp_path):
    here = {"PATH": "/bin", "LANG": "C", "HF_TOKEN": "secret", "HOME": "/home/ada", "PYTHONPATH": "/x"}
    monkeypatch.setattr(os, "environ", here)
    jail._environment(tmp_path)
    places = dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME", "MPLCONFIGDIR", "WEEK6_RUNS"), str(tmp_path))
    fixed = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "MPLBACKEND": "Agg", "CUDA_VISIBLE_DEVICES": ""}
    assert here == {"PATH": "/bin", "LANG": "C"} | places | fixed


def test_of_folders_within_each_other_the_outer_one_is_taken():
    places = ["/a/b", "/a", "/ab", "/c/d", "/c/d", "/c/de"]
    assert jail._outermost(places) == ["/a", "/ab", "/c/d", "/c/de"]


def test_what_imports_read_stays_open_and_a_home_does_not(monkeypatch, tmp_path):
    for name in ("home", "home/packages", "code"):
        (tmp_path / name).mkdir()
    home = str(tmp_path / "home")
    monkeypatch.setattr(os.path, "expanduser", lambda path: home)
    monkeypatch.setattr(
        jail.sys, "path", [home, f"{home}/packages", str(tmp_path / "code"), "", "/", "/usr/lib", "/no"]
    )
    found = jail._read_by_python()
    assert {f"{home}/packages", str(tmp_path / "code"), str(Path(jail.__file__).resolve().parents[1])} <= set(found)
    assert not {home, "/", "/no", "/usr/lib"} & set(found) and home in jail._private_places()


@pytest.mark.parametrize(
    ("names", "numbers"),
    [
        ("_NEWNS _NEWIPC _NEWUSER _NEWPID _NEWNET", (1 << 17, 1 << 27, 1 << 28, 1 << 29, 1 << 30)),  # linux/sched.h
        ("_NOSUID _NODEV _BIND _REC _PRIVATE", (2, 4, 1 << 12, 1 << 14, 1 << 18)),  # linux/mount.h
        ("_PDEATHSIG _SUBREAPER _NO_NEW_PRIVS", (1, 36, 38)),  # linux/prctl.h
        ("_RDONLY _MOUNT_SETATTR _AT_FDCWD _AT_RECURSIVE", (1, 442, -100, 1 << 15)),  # linux/mount.h, fcntl.h
    ],
)
def test_numbers_are_those_of_linux_headers(names, numbers):
    assert tuple(getattr(jail, name) for name in names.split()) == numbers
