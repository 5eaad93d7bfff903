"""Put each bug of bugs.txt into a copy of week6 and see whether a test notices it.

`python -m tests.mutation.run [NAME ...]` tries all bugs, or those named; `make mutation` is the same.

PyTorch and the other libraries are imported once; every bug is then tried in a forked child, which imports the
mutated copy in place of week6 and runs the tests named for the bug. A bug is caught when a test *fails*. A copy that
cannot be imported, tests that cannot be collected, or a time-out catch nothing: they are errors in the list of bugs.

killers.json says which test caught a bug the last time. It is tried first, all others only where it does not fail;
`--record` tries all from the start, and writes killers.json anew.
"""

import argparse
import compileall
import gc
import importlib
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

os.environ["HYPOTHESIS_PROFILE"] = "verdict"  # conftest.py reads it
import conftest  # noqa: E402, F401  sets the environment that libraries read while they are imported

# isort: split
# Imported here for the children, which inherit them.
import datasets  # noqa: E402, F401
import hypothesis  # noqa: F401
import ipywidgets  # noqa: F401
import jaxtyping  # noqa: F401
import jupytext  # noqa: F401
import markdown_it  # noqa: F401
import matplotlib.pyplot  # noqa: F401
import nbclient  # noqa: F401
import pandas  # noqa: F401
import pytest
import torch
import tyro  # noqa: F401
import vaderSentiment.vaderSentiment  # noqa: F401
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast  # noqa: F401

ROOT = Path(__file__).resolve().parents[2]
BUGS = Path(__file__).with_name("bugs.txt")
KILLERS = Path(__file__).with_name("killers.json")
TIME_LIMIT = 120  # seconds of the processor for one bug, and four times as long by the clock
CANNOT_IMPORT = 90  # exit status of a child beside pytest's own 0 … 5


class Bug(NamedTuple):
    """Replace `old`, which stands in week6/`module` exactly once, by `new`: then a test of `tests` must fail."""

    module: str
    name: str
    tests: tuple[str, ...]
    story: str
    old: str
    new: str


def read_bugs(path: Path) -> list[Bug]:
    """The list of bugs; the format is explained at its head."""
    bugs = []
    for block in path.read_text().split("\n\n")[2:]:  # after the explanation and its example
        title, *lines = block.strip("\n").split("\n")
        module, name, tests, story = re.fullmatch(r"(\S+\.py) (\S+)(?: in (\S+))?: (.+)", title).groups()
        own = Path(module).with_name(f"test_{Path(module).name}")
        old, new = ("\n".join(line[2:] for line in lines if line[0] == sign) for sign in "-+")
        assert len(lines) == sum(line[0] in "-+" for line in lines), f"{name}: a line without - or +"
        bugs.append(Bug(module, name, (f"tests/{tests or own}",), story, old, new))
    assert len({bug.name for bug in bugs}) == len(bugs), "two bugs have the same name"
    return bugs


class Verdict(NamedTuple):
    """How the tests ended on one bug, and the seconds of the processor that they took."""

    bug: Bug
    outcome: str
    seconds: float
    first_failure: str

    @property
    def caught(self) -> bool:
        """Whether a test failed."""
        return self.outcome == "caught"


class FirstFailure:
    """A pytest plugin that notes which test failed, and with what."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called by pytest after each phase of each test."""
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            message = crash.message.splitlines()[0] if crash else ""
            self.path.write_text(f"{report.nodeid}\t{message}")


def mutate(source: str, bug: Bug) -> str:
    """The source with the bug in it; a bug without old text changes nothing."""
    if not bug.old:
        return source
    count = source.count(bug.old)
    if count != 1:
        raise SystemExit(
            f"{bug.name}: expected its text once in week6/{bug.module}, found it {count} times:\n{bug.old}"
        )
    return source.replace(bug.old, bug.new)


def run_child(bug: Bug, scratch: Path) -> None:
    """In a forked child: import the mutated copy as week6, run its tests, exit with their status."""
    log = os.open(scratch / "log", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    signal.setitimer(signal.ITIMER_PROF, TIME_LIMIT)  # no alarm: the time limit of the graders is one
    sys.path.insert(0, str(scratch))
    try:
        package = importlib.import_module("week6")
        assert Path(package.__file__ or "").parent == scratch / "week6"
    except BaseException as problem:
        print(repr(problem), flush=True)
        os._exit(CANNOT_IMPORT)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # they take longer to load than the tests to run
    options = ["-x", "-q", "-p", "no:cacheprovider", "-W", "ignore"]
    status = pytest.main([*options, *bug.tests], plugins=[FirstFailure(scratch / "failure")])
    sys.stdout.flush()
    os._exit(int(status))


def start(bug: Bug, scratch: Path) -> int:
    """Prepare the copy and fork; returns the child's process id.

    The copy is made of links, bytecode too, which is valid for every file but the one that is written anew.
    """
    shutil.copytree(ROOT / "week6", scratch / "week6", copy_function=os.symlink)
    target = scratch / "week6" / bug.module
    source = target.read_text()
    target.unlink()
    target.write_text(mutate(source, bug))
    pid = os.fork()
    if pid == 0:
        run_child(bug, scratch)
    return pid


def judge(bug: Bug, status: int, scratch: Path, seconds: float) -> Verdict:
    """What the child's exit status says."""
    code = os.waitstatus_to_exitcode(status)
    outcome = {
        pytest.ExitCode.TESTS_FAILED: "caught",
        pytest.ExitCode.OK: "SURVIVED",
        CANNOT_IMPORT: "cannot be imported",
        -signal.SIGKILL: "timed out",
        -signal.SIGPROF: "timed out",
    }.get(code, f"pytest ended with status {code}")
    failure = scratch / "failure"
    note = failure.read_text() if failure.exists() else ""
    if outcome not in ("caught", "SURVIVED"):
        note = (scratch / "log").read_text()[-2000:]
    return Verdict(bug, outcome, seconds, note)


def run_all(bugs: list[Bug], workers: int) -> Iterator[Verdict]:
    """Try all bugs, at most `workers` at a time, and yield verdicts as they come."""
    compileall.compile_dir(ROOT / "week6", quiet=1)
    gc.collect()
    gc.freeze()  # a child, which pytest makes collect twice, then looks through what it made itself alone
    waiting, running = list(bugs), {}
    while waiting or running:
        while waiting and len(running) < workers:
            bug = waiting.pop(0)
            scratch = tempfile.TemporaryDirectory()
            running[start(bug, Path(scratch.name))] = bug, scratch, time.monotonic()
        pid, status, used = os.wait3(os.WNOHANG)
        if not pid:
            for late in [pid for pid, (*_, began) in running.items() if time.monotonic() - began > 4 * TIME_LIMIT]:
                os.kill(late, signal.SIGKILL)
            time.sleep(0.02)
            continue
        bug, scratch, _ = running.pop(pid)
        with scratch:
            yield judge(bug, status, Path(scratch.name), used.ru_utime + used.ru_stime)


def tried(bugs: list[Bug], first: dict[str, Bug], workers: int) -> Iterator[Verdict]:
    """Every bug with the tests that `first` has for it, and those that get away with all of theirs."""
    again = []
    for verdict in run_all([first[bug.name] for bug in bugs], workers):
        if verdict.caught or first[verdict.bug.name] in bugs:
            yield verdict
        else:
            again.append(next(bug for bug in bugs if bug.name == verdict.bug.name))
    yield from run_all(again, workers)


def main() -> int:
    """Run the control, then the bugs; print a table; 1 if any bug is not caught."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="only these bugs")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--record", action="store_true", help="try all tests, and write down which caught a bug")
    options = parser.parse_args()
    every = read_bugs(BUGS)
    if unknown := set(options.names) - {bug.name for bug in every}:
        parser.error(f"no such bug: {', '.join(sorted(unknown))}")
    bugs = [bug for bug in every if not options.names or bug.name in options.names]
    for bug in bugs:  # an outdated text is reported before any test is run
        mutate((ROOT / "week6" / bug.module).read_text(), bug)
    os.chdir(ROOT)
    torch.set_num_threads(1)

    killers = {} if options.record else json.loads(KILLERS.read_text())
    first = {bug.name: bug._replace(tests=(killers[bug.name],)) if bug.name in killers else bug for bug in bugs}
    files: dict[tuple[str, ...], set[str]] = {}
    for bug in bugs:
        files.setdefault(bug.tests, set()).update(first[bug.name].tests)
    controls = [
        Bug("__init__.py", f"control {file}", tuple(sorted(tests)), "no bug", "", "")
        for (file,), tests in sorted(files.items())
    ]
    print(f"Control: tests of {len(controls)} files on the unchanged package", flush=True)
    for verdict in run_all(controls, options.workers):
        if verdict.outcome != "SURVIVED":
            print(f"The unchanged package fails {verdict.bug.name}: {verdict.outcome} {verdict.first_failure}")
            return 1
    verdicts = []
    for verdict in tried(bugs, first, options.workers):
        verdicts.append(verdict)
        print(
            f"{verdict.bug.name:34} {verdict.outcome:9} {verdict.seconds:5.1f} s  {verdict.first_failure}", flush=True
        )
    if options.record:
        caught = {v.bug.name: v.first_failure.partition("\t")[0] for v in verdicts if v.caught}
        others = json.loads(KILLERS.read_text()) if options.names else {}
        KILLERS.write_text(json.dumps(dict(sorted((others | caught).items())), indent=1) + "\n")
    missed = [verdict for verdict in verdicts if not verdict.caught]
    for verdict in missed:
        print(
            f"\nNot caught: {verdict.bug.name} in week6/{verdict.bug.module} ({verdict.bug.story})",
            verdict.first_failure,
        )
    print(f"{len(verdicts) - len(missed)} of {len(verdicts)} seeded bugs caught")
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
