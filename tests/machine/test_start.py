"""What is settled before PyTorch is loaded."""

import ast
import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

import week6
from week6.machine import start

PATH = Path(start.__file__)


def fresh(code, name, **environment):
    """A new process that is called `name`, loads the module alone and then runs `code`."""
    first = (
        "import importlib.util, os, signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell ignores it in what it runs beside
        f"sys.argv[0] = {name!r}\n"
        f"spec = importlib.util.spec_from_file_location('start', {str(PATH)!r})\n"
        "spec.loader.exec_module(importlib.util.module_from_spec(spec))\n"
    )
    clean = {key: value for key, value in os.environ.items() if not key.startswith("OMP_")}
    return subprocess.run(
        [sys.executable, "-c", first + code], capture_output=True, text=True, timeout=60, env=clean | environment
    )


def test_it_comes_before_all_else_and_needs_no_library():
    first = next(
        x for x in ast.parse(Path(week6.__file__).read_text()).body if isinstance(x, ast.Import | ast.ImportFrom)
    )
    assert (first.module, first.names[0].name) == ("week6.machine", "start")
    imported = [x for x in ast.walk(ast.parse(PATH.read_text())) if isinstance(x, ast.Import | ast.ImportFrom)]
    names = {name.name for x in imported if isinstance(x, ast.Import) for name in x.names}
    assert names | {x.module for x in imported if isinstance(x, ast.ImportFrom)} <= sys.stdlib_module_names


@pytest.mark.parametrize("name", ["-m", "/usr/bin/week6", "week6.exe"])
def test_ctrl_c_while_a_command_loads(name):
    done = fresh("os.kill(os.getpid(), signal.SIGINT); time.sleep(30)", name)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "week6: interrupted\n")


def test_an_environment_variable_that_a_library_cannot_read_is_named():
    done = fresh("int(os.environ['HF_HUB_ETAG_TIMEOUT'])", "week6", HF_HUB_ETAG_TIMEOUT="soon")
    assert done.returncode == 2 and done.stderr == (
        "week6: error: the libraries cannot be loaded (ValueError: invalid literal for int() with base 10: 'soon'): "
        "the environment variable HF_HUB_ETAG_TIMEOUT has that value; set another one, or unset it\n"
    )
    other = fresh("int('late')", "week6", HF_HUB_ETAG_TIMEOUT="soon")
    assert f"{start.DOCTOR} says which package it is" in other.stderr and start.DOCTOR.is_file()
    assert other.returncode == 2


@pytest.mark.parametrize(("words", "well", "code"), [("doctor", 1, 0), ("doctor --x", 0, 1), ("run doctor", 1, 2)])
def test_the_doctor_looks_where_nothing_can_be_loaded(tmp_path, words, well, code):
    """In place of the whole doctor: what it prints is to be seen, and its verdict is the exit code."""
    (tmp_path / "doctor.py").write_text(f"def doctor():\n    print('looked', end='')\n    return {well}\n")
    asked = f"sys.argv[1:] = {words.split()}\nsys.excepthook.__globals__['DOCTOR'] = {str(tmp_path / 'doctor.py')!r}\n"
    done = fresh(f"{asked}raise ImportError('torch')", "week6")
    assert (done.returncode, done.stdout) == (code, "looked" if code < 2 else "")


def test_ctrl_c_elsewhere_is_left_alone():
    done = fresh("print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)", "ipykernel_launcher.py")
    assert done.stdout == "True\n"


def test_waiting_threads_sleep_unless_told_otherwise():
    assert fresh("print(os.environ['OMP_WAIT_POLICY'])", "x").stdout == "PASSIVE\n"
    assert fresh("print(os.environ['OMP_WAIT_POLICY'])", "x", OMP_WAIT_POLICY="ACTIVE").stdout == "ACTIVE\n"


def test_garbage_is_looked_for_seldom_until_the_libraries_are_loaded():
    """The module alone leaves the first number high; importing week6, which this process did, puts back what was."""
    asked = "import gc; print(gc.get_threshold())"
    plain = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True)
    first, *others = ast.literal_eval(plain.stdout)
    assert fresh(asked, "x").stdout == f"{(start.WHILE_LOADING, *others)}\n"
    assert start.WHILE_LOADING > 20 * first and gc.get_threshold() == (first, *others)
    assert gc.get_freeze_count() > 100_000
    gc.unfreeze()
    start.loaded()
    assert gc.get_freeze_count() > 100_000 and gc.get_threshold() == (first, *others)
