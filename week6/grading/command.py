"""`week6 grade`: find the notebooks, grade them side by side, write table, pages and picture."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from week6.grading import pages, table
from week6.grading.jail import Jail
from week6.grading.marking import MODULES, Mark, Marked, mark, version
from week6.grading.notebook import Submission, notebooks, read
from week6.grading.points import Points, points
from week6.grading.remote import Nursery
from week6.machine.bounds import FEW
from week6.machine.checkpoint import RunError, write_atomic
from week6.machine.lock import only_writer
from week6.machine.paths import place
from week6.pictures.of_class import class_bars

PATIENCE = 5
"""Seconds in which a process that has nothing left to do ends."""
FILES = ("class.png", "grades.json", "grades.csv", "class.csv", "class.html")
"""What is written to the folder of the results, beside a page a submission."""
_GRADER: list[Any] = []
"""In a process that grades: its nursery, its folder, and what submissions must not read."""


def grade(
    given: Sequence[Path],
    out: Path,
    workers: int | None = None,
    own_points: Path | None = None,
    say: Callable[[str], None] = print,
) -> list[Marked]:
    """Grade every notebook of files and folders, and write what came of it to the folder `out`.

    What `out` knows of a submission that has not changed, by this version of week6, is not done again. Raises RunError
    for places and points that make no sense, before anything is graded.
    """
    if sys.platform == "win32":
        raise RunError("grading needs Linux or macOS: Windows gives no process of its own to a submission (WSL does)")
    if not given:
        raise RunError("nothing to grade, expected notebooks or folders of them: week6 grade FOLDER")
    if workers is not None and workers not in FEW:
        raise RunError(f"--workers: got {workers}, expected {FEW}")
    found = notebooks([place(path, "submission") for path in given])
    out = place(out, "--out")
    worth = points(own_points, list(found))
    _writable(out)
    with only_writer(out / "grades", say):
        marked = list(_all_marked(found, out, workers or os.cpu_count() or 1, say))
        _write(marked, worth, out)
    say(table.as_text(marked, worth))
    say(f"\nclass     {out / 'class.html'}\nfeedback  {out / 'feedback'}\ntable     {out / 'grades.csv'}")
    return marked


def _writable(out: Path) -> None:
    """RunError where the results cannot be written."""
    try:
        (out / "results").mkdir(parents=True, exist_ok=True)
        (out / "feedback").mkdir(exist_ok=True)
        write_atomic(out / "results" / ".try", "x" * 4096)
        (out / "results" / ".try").unlink()
        if taken := [name for name in FILES if (out / name).is_dir()]:
            raise IsADirectoryError(errno.EISDIR, f"its {taken[0]} is a folder, where a file is to be written")
    except OSError as error:
        raise RunError(f"--out {out}: {error.strerror}; expected a folder that can be written to") from None


def _all_marked(found: dict[str, Path], out: Path, workers: int, say: Callable[[str], None]) -> Iterator[Marked]:
    """Every submission's marks, in order: those that are known, then those that are made."""
    done: dict[str, Marked] = {}
    waiting: dict[str, tuple[Submission, Path]] = {}
    for student, path in found.items():
        try:
            submission = read(path, student, MODULES)
        except RunError as error:
            done[student] = Marked(student, str(path), "", refused=str(error))
            continue
        stored = out / "results" / f"{submission.digest}-{version()}.json"
        if (known := _stored(stored)) is not None:
            done[student] = replace(known, student=student, file=str(path), notes=submission.notes)
        else:
            waiting[student] = submission, stored
    if done and waiting:
        say(f"{len(done)} of {len(found)} are done already")
    if waiting:
        say(f"grading {len(waiting)}, {min(workers, len(waiting))} at a time; a notebook takes from seconds to minutes")
    hidden = tuple({out, *(path.resolve().parent for path in found.values())})
    for student, marked in _graded(waiting, hidden, workers):
        done[student] = marked
        if not marked.refused:
            _store(waiting[student][1], marked)
        say(f"{len(done):4} of {len(found)}  {student}  {marked.refused or f'{marked.seconds:.0f} s'}")
    yield from (done[student] for student in found)


def _graded(
    waiting: dict[str, tuple[Submission, Path]], hidden: tuple[Path, ...], workers: int
) -> Iterator[tuple[str, Marked]]:
    """Grade side by side. Where a process that grades dies, those it may have died of are tried again, one by one."""
    left = dict.fromkeys(waiting)
    workers = max(1, min(workers, len(waiting)))
    while left:
        suspects: list[str] = []
        try:
            for student, marked in _side_by_side({s: waiting[s][0] for s in left}, hidden, workers, suspects):
                del left[student]
                yield student, marked
        except BrokenProcessPool:
            if workers == 1 and suspects:
                student = suspects[0]
                del left[student]
                yield student, _refused(waiting[student][0], "the process that graded it died; look at it by hand")
            workers = 1


def _side_by_side(
    submissions: dict[str, Submission], hidden: tuple[Path, ...], workers: int, suspects: list[str]
) -> Iterator[tuple[str, Marked]]:
    """Grade in so many processes. `suspects` are those that are being graded now."""
    base = Path(tempfile.mkdtemp(prefix="week6-grade-"))
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _begin, (base, hidden))
    try:
        todo = iter(submissions.items())
        running: dict[Future[Marked], str] = {}
        while True:
            while len(running) < workers and (following := next(todo, None)):
                running[pool.submit(_mark, following[1])] = following[0]
            suspects[:] = running.values()
            if not running:
                return
            ready, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in ready:
                marked = future.result()
                yield running.pop(future), marked
    finally:
        processes = list((pool._processes or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes if not suspects else []:
            process.join(PATIENCE)  # with nothing left to do each ends by itself, and gives back its semaphores
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(PATIENCE)
        shutil.rmtree(base, ignore_errors=True)


def _begin(base: Path, hidden: tuple[Path, ...]) -> None:
    """A process that grades begins: with a nursery, and a folder in which nothing but the submissions' work is."""
    import torch

    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="work-", dir=base))
    _GRADER[:] = [Nursery(), folder, hidden]


def _mark(submission: Submission) -> Marked:
    """Grade one; whatever goes wrong in it is said, and the others go on."""
    nursery, folder, hidden = _GRADER
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return mark(nursery, submission, Jail(folder, hidden))
    except OSError as error:
        if error.errno == errno.ENOSPC:
            return _refused(submission, "the disk is full; free some and grade again")
        return _refused(submission, f"it could not be graded ({error}); look at it by hand")
    except Exception as error:
        what = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        return _refused(submission, f"it could not be graded ({what}); look at it by hand")
    finally:
        _emptied(folder)


def _emptied(folder: Path) -> None:
    """Where there is no disk in memory, what a submission wrote is deleted."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _refused(submission: Submission, why: str) -> Marked:
    return Marked(submission.student, str(submission.path), submission.module, refused=why)


# --- what is kept ----------------------------------------------------------------------------------------------------


def _store(path: Path, marked: Marked) -> None:
    write_atomic(path, json.dumps(asdict(marked)))


def _stored(path: Path) -> Marked | None:
    """Marks of an earlier run, or None where there are none or the file is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        marks = tuple(Mark(**(m | {"flags": tuple(m["flags"])})) for m in content["marks"])
        lists = {name: tuple(content[name]) for name in ("flags", "notes", "walls")}
        return Marked(**(content | lists | {"marks": marks}))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(marked: Sequence[Marked], worth: Points, out: Path) -> None:
    """All tables and pages."""
    exercises = table.by_exercise(marked)
    chart = b""
    if exercises:
        rows = [(e.correct, e.not_yet, e.not_attempted) for e in exercises]
        figure = class_bars([e.title for e in exercises], rows)
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png", dpi=110)
        plt.close(figure)
        chart = drawn.getvalue()
        write_atomic(out / "class.png", chart)
    write_atomic(out / "grades.json", table.as_json(marked, worth))
    write_atomic(out / "grades.csv", table.as_csv(marked, worth))
    write_atomic(out / "class.csv", table.class_csv(exercises))
    write_atomic(out / "class.html", pages.class_page(marked, exercises, worth, chart))
    for one in marked:
        write_atomic(out / "feedback" / pages.file_name(one), pages.feedback(one, worth))
