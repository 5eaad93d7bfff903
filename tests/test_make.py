"""`make course`: the embedded task on every machine, whatever the name, and with runs and environment elsewhere."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PYTHON = """#!/bin/sh
for word in "$@"; do printf '%s\\n' "$word"; done > "$TOLD"
"""


@pytest.fixture
def make(tmp_path):
    """Calls make in a copy of what it reads, with an environment whose Python writes down what it is told."""
    checkout = tmp_path / "sp ace" / "checkout"
    (checkout / "tools").mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "tools/setup_env.py"):
        shutil.copy(ROOT / name, checkout / name)
    environment = tmp_path / "environment"
    (environment / "bin").mkdir(parents=True)
    (environment / "bin" / "python").write_text(PYTHON)
    (environment / "bin" / "python").chmod(0o755)
    (environment / ".ready").touch()
    told = tmp_path / "told"

    def call(*words, **variables):
        subprocess.run(
            ["make", "-s", "-C", checkout, "course", f"VENV={environment}", *words],
            check=True,
            env=os.environ | {"TOLD": str(told)} | variables,
        )
        return told.read_text().splitlines()

    call.checkout = checkout
    return call


def test_the_course_is_the_embedded_task_and_runs_lie_in_the_checkout(make):
    assert make() == ["-m", "week6", "run", "--preset", "tiny", "--runs-dir=runs", "--name=course"]


def test_the_environment_of_the_shell_names_no_run(make):
    """WSL sets NAME to the name of the machine."""
    assert make(NAME="DESKTOP-1", RUNS="/nowhere")[-2:] == ["--runs-dir=runs", "--name=course"]


@pytest.mark.parametrize("name", ["my run", "it's", 'a "b"', "-1", "a;echo b", "Übung *"])
def test_names_and_folders_reach_the_run_as_they_are(make, tmp_path, name):
    runs = tmp_path / "my runs"
    assert make(f"NAME={name}", f"RUNS={runs}")[-2:] == [f"--runs-dir={runs}", f"--name={name}"]
    (runs / name).mkdir(parents=True)
    assert make(f"NAME={name}", f"RUNS={runs}")[-1] == f"--name={name}"
    (runs / name / "config.json").write_text(json.dumps({}))
    assert make(f"NAME={name}", f"RUNS={runs}")[-3:] == [f"--runs-dir={runs}", f"--name={name}", "--resume"]


def test_a_run_in_the_checkout_goes_on(make):
    (make.checkout / "runs" / "course").mkdir(parents=True)
    (make.checkout / "runs" / "course" / "config.json").touch()
    assert make()[-1] == "--resume"


def test_each_notebook_is_run_once_and_only_one_trains_what_several_share():
    told = subprocess.run(["make", "-n", "-C", ROOT, "nbval"], check=True, capture_output=True, text=True).stdout
    given = [word for word in told.split() if word.endswith(".ipynb")]
    assert sorted(given) == sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("*/*.ipynb"))
    asking = {p.stem for p in (ROOT / "solutions").glob("*.py") if "course = lesson(" in p.read_text()}
    assert len(asking) == 4 and [Path(p).stem in asking for p in given[:4]] == [True, False, False, False]
