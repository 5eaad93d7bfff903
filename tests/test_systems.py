"""Systems: what Windows lacks is needed by no module."""

import subprocess
import sys
import types
from pathlib import Path

import psutil
import torch

from week6.run import training

ROOT = Path(__file__).resolve().parent.parent
UNIX = ("resource", "fcntl", "termios", "tty", "pty", "grp", "pwd", "syslog", "readline", "curses")
"""Modules of Python that are missing on Windows. Hidden from week6 alone: psutil's part for Linux needs `resource`."""
IMPORT_ALL = f"""
import builtins, importlib, pkgutil
def windows(name, globals=None, locals=None, fromlist=(), level=0, real=builtins.__import__):
    if level == 0 and name.split(".")[0] in {UNIX} and (globals or {{}}).get("__name__", "").startswith("week6"):
        raise ModuleNotFoundError("no " + name + " here, asked for by " + globals["__name__"])
    return real(name, globals, locals, fromlist, level)
builtins.__import__ = windows
import week6
for module in pkgutil.walk_packages(week6.__path__, "week6."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
        print(module.name)
"""


def test_every_module_is_imported_without_what_windows_lacks():
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    modules = {p.relative_to(ROOT).with_suffix("").as_posix() for p in (ROOT / "week6").rglob("[!_]*.py")}
    assert modules <= {name.replace(".", "/") for name in done.stdout.split()}


def test_peak_memory_on_windows(monkeypatch):
    here = training.peak_memory()
    assert psutil.Process().memory_info().rss / 2 < here < psutil.virtual_memory().total
    monkeypatch.setitem(sys.modules, "resource", None)
    told = types.SimpleNamespace(memory_info=lambda: types.SimpleNamespace(rss=1, peak_wset=3_000_000_000))
    monkeypatch.setattr(psutil, "Process", lambda: told)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    usage = training.Usage()
    usage.tick()
    assert usage.peak_memory_mb == 3000
