"""Every cell of a notebook must run with every answer that its graders accept: `make accepted`.

`python -m tests.checks.accepted [NB ...]` runs the cells of the notebooks, those named or all, once for each way in
which right_answers/ answers their questions, with these answers in place of the course's own; those that it marks as
slow are left out. Not part of `make test`: all of them take half an hour.
"""

import os
import sys
import tempfile
import time
import traceback
from unittest import mock

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WEEK6_RUNS", os.path.join(tempfile.gettempdir(), "week6-accepted-runs"))

import jupytext  # noqa: E402
import matplotlib.pyplot as plt  # noqa: E402
from IPython.display import display  # noqa: E402

from tests.checks.test_capstones import CAPSTONES, answers  # noqa: E402
from tests.checks.test_catalogue import QUESTIONS, fast_answers  # noqa: E402
from tools.build_notebooks import ROOT, solution_text  # noqa: E402
from week6.checks.capstone import Capstone  # noqa: E402
from week6.checks.engine import Question  # noqa: E402

ONE_EDITION = {"student-only", "solution-only"}
"""Cells that are left out: calls for hints, and the course's own answers to what is open, about its own code."""
NAMES = {id(question): name for name, question in QUESTIONS}
LOOPS = {id(capstone): number for number, capstone in CAPSTONES.items()}


def run(source, which):
    """The notebook with the `which`-th right answer to each question and capstone; raises what a cell raises."""

    def another(asked, answer):
        loop = LOOPS.get(id(asked))
        right = fast_answers(NAMES[id(asked)]) if loop is None else list(answers(loop).RIGHT.values())
        chosen = right[which % len(right)]
        verdict = asked._judge(chosen)
        assert verdict.kind == "correct", f"{asked.title}: this answer is not accepted: {verdict.text}"
        return asked._usable(chosen, verdict)

    namespace = {"__name__": "__main__", "display": display}
    with mock.patch.object(Question, "or_ours", another), mock.patch.object(Capstone, "or_ours", another):
        for i, cell in enumerate(jupytext.read(source, fmt="py:percent").cells):
            if cell.cell_type == "code" and not ONE_EDITION & set(cell.metadata.get("tags", [])):
                exec(compile(solution_text(cell.source), f"{source.stem} cell {i}", "exec"), namespace)
    plt.close("all")


def main(numbers):
    """Run and count; 1 where a cell fails."""
    failed = 0
    os.chdir(ROOT / "solutions")
    for source in sorted((ROOT / "solutions").glob("[0-9][0-9]_*.py")):
        if numbers and source.stem[:2] not in numbers:
            continue
        ways = max(len(fast_answers(name)) for name in NAMES.values() if name.startswith(f"nb{source.stem[:2]}"))
        for which in range(ways):
            start = time.monotonic()
            try:
                with open(os.devnull, "w") as nowhere, mock.patch.object(sys, "stdout", nowhere):
                    run(source, which)
                verdict = "runs"
            except Exception:
                failed += 1
                verdict = f"FAILS\n{traceback.format_exc()}"
            print(
                f"{source.stem} answers {which + 1} of {ways}: {time.monotonic() - start:.0f} s, {verdict}", flush=True
            )
    print(f"{failed} failed")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
