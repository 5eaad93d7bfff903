"""The builder of the notebooks, and what it has built."""

import importlib
import re
import shutil
import subprocess
import sys

import nbformat
import pytest

from tools import build_notebooks as build
from tools.build_notebooks import ROOT, solution_text, student_text

SOURCES = sorted((ROOT / "solutions").glob("[0-9][0-9]_*.py"))
STUDENT = sorted((ROOT / "notebooks").glob("*.ipynb"))
SOLVED = sorted((ROOT / "solutions").glob("*.ipynb"))
SOURCE = '''\
# %% [markdown]
# # 01 · A title

# %% tags=["exercise"]
def double(x):
    """Twice x."""
    # BEGIN SOLUTION
    y = x + x
    return y
    # END SOLUTION

# %% tags=["student-only"]
# check.q1.hint()

# %% tags=["solution-only"]
print("for teachers")

# %%
beta = 0.1  # SOLUTION
check.p1("b")  # SOLUTION

# %%
beta = 0.2  # SOLUTION
check.p1("b")  # SOLUTION
'''


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "01_title.py"
    path.write_text(SOURCE)
    return path


def test_student_edition(source):
    notebook = build.make(source, "student")
    text = "\n".join(cell.source for cell in notebook.cells)
    assert (
        'double(x):\n    """Twice x."""\n    # YOUR CODE HERE\n    raise NotImplementedError("your code here")' in text
    )
    assert "beta = ...  # YOUR ANSWER HERE\ncheck.p1(...)  # YOUR ANSWER HERE" in text
    assert "check.q1.hint()" in text
    assert not any(word in text for word in ("x + x", "SOLUTION", "for teachers", "0.1", '"b"'))


def test_solution_edition(source):
    text = "\n".join(cell.source for cell in build.make(source, "solution").cells)
    assert "y = x + x" in text and 'beta = 0.1\ncheck.p1("b")' in text and "for teachers" in text
    assert not any(word in text for word in ("SOLUTION", "YOUR", "hint"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_what_a_notebook_asks_of_its_graders_is_there(path):
    """Questions, capstones and the limits that they judge by."""
    graders = importlib.import_module(f"week6.checks.nb{path.stem[:2]}")
    asked = set(re.findall(r"\bcheck\.(\w+)", path.read_text(encoding="utf-8")))
    assert asked and [name for name in sorted(asked) if not hasattr(graders, name)] == []


def test_badge_and_setup_follow_the_title(source):
    title, badge, setup, *_ = build.make(source, "student").cells
    assert title.source == "# 01 · A title"
    owner_and_name = build.REPOSITORY.removeprefix("https://github.com/")
    address = f"https://colab.research.google.com/github/{owner_and_name}/blob/main/notebooks/01_title.ipynb"
    assert f"]({address})" in badge.source and owner_and_name.count("/") == 1
    assert f"%pip install -q git+{build.REPOSITORY}" in setup.source


def test_the_time_that_a_notebook_takes_follows_from_what_is_in_it(source):
    words, equation, exercise = "word " * 700, r"$$x = y. \tag{1}$$", "### Exercise 1.1 · It"
    source.write_text(
        SOURCE + f"\n# %% [markdown]\n# {words}\n# {equation}\n#\n# {exercise}\n# Takes {{minutes}} minutes.\n"
    )
    *_, last = build.make(source, "student").cells
    assert "Takes 20 minutes." in last.source  # 10 for the words, 1.5 + 5, and 2 for five cells of code


def test_a_folded_cell_shows_its_title_only(source):
    source.write_text(SOURCE + '\n# %% tags=["folded"]\n# @title Set-up\nimport math\n')
    cell = build.make(source, "student").cells[-1]
    assert cell.metadata["jupyter"] == {"source_hidden": True} and cell.metadata["cellView"] == "form"
    source.write_text(SOURCE + '\n# %% tags=["folded"]\nimport math\n')
    with pytest.raises(ValueError, match="@title"):
        build.make(source, "student")


def test_two_builds_are_the_same_and_ids_are_unique(source):
    student, again, solved = (build.make(source, edition) for edition in ("student", "student", "solution"))
    assert build.text_of(student) == build.text_of(again)
    ids = [cell.id for cell in student.cells]
    assert len(set(ids)) == len(ids)  # two cells of this source have the same stub
    by_id = {cell.id: cell.source for cell in student.cells}
    shared = [cell for cell in solved.cells if cell.id in by_id]
    assert len(shared) == len(student.cells) - 1  # all but the one that is for students only
    assert all(student_text(cell.source) == cell.source or "def double" in by_id[cell.id] for cell in shared)


@pytest.mark.parametrize(
    ("line", "stub"),
    [
        ("x = f(1)  # SOLUTION", "x = ...  # YOUR ANSWER HERE"),
        ("    x.y[0] = 1  # SOLUTION", "    x.y[0] = ...  # YOUR ANSWER HERE"),
        ("x: float = 1.0  # SOLUTION", "x: float = ...  # YOUR ANSWER HERE"),
        ('regions = {"A", "B"}  # SOLUTION', "regions = ...  # YOUR ANSWER HERE"),
        ("x = a == b  # SOLUTION", "x = ...  # YOUR ANSWER HERE"),
        ('x = "# SOLUTION"', 'x = "# SOLUTION"'),
    ],
)
def test_one_line_answers(line, stub):
    assert student_text(line) == stub


def test_marks_leave_no_trace_in_the_solution():
    assert solution_text("a = 1  # SOLUTION\n# BEGIN SOLUTION\nb = 2\n# END SOLUTION") == "a = 1\nb = 2"


@pytest.mark.parametrize(
    "text",
    [
        "# BEGIN SOLUTION\n1",
        "1\n# END SOLUTION",
        "# BEGIN SOLUTION\n# BEGIN SOLUTION\n1\n# END SOLUTION",
        "f(  # SOLUTION",
    ],
)
def test_marks_that_do_not_fit_are_refused(text):
    with pytest.raises(ValueError, match="SOLUTION"):
        student_text(text)


def test_a_source_begins_with_its_title(tmp_path):
    (tmp_path / "01_no.py").write_text("# %%\n1 + 1\n")
    with pytest.raises(ValueError, match="title"):
        build.make(tmp_path / "01_no.py", "student")


def test_execution_is_the_same_twice_and_keeps_no_widgets(source, tmp_path):
    source.write_text(
        "# %% [markdown]\n# # T\n\n# %%\nimport os, sys\nimport ipywidgets\nimport matplotlib.pyplot as plt\n"
        "print(1)\nprint(os.environ['WEEK6_STRICT'], file=sys.stderr)\nprint(2)\n\n"
        "# %%\nplt.plot([1, 2])\nplt.show()\n\n# %%\nipywidgets.IntSlider()\n"
    )
    notebooks = [build.make(source, "solution") for _ in range(2)]
    for notebook in notebooks:
        build.execute(notebook, tmp_path)
    assert build.text_of(notebooks[0]) == build.text_of(notebooks[1])
    _, _, _, prints, plot, widget = notebooks[0].cells
    assert [output.text for output in prints.outputs] == ["1\n2\n"]
    assert [sorted(output.data) for output in plot.outputs] == [["image/png", "text/plain"]]
    assert widget.outputs == [] and "widgets" not in notebooks[0].metadata
    path = tmp_path / "01_title.ipynb"
    path.write_text(build.text_of(notebooks[0]))
    assert build.is_current(path, build.make(source, "solution"))
    source.write_text(source.read_text().replace("print(2)", "print(3)"))
    assert not build.is_current(path, build.make(source, "solution"))


def test_nbval_holds_the_answers_of_a_solved_notebook_to_be_right(tmp_path):
    """Without the hook in conftest.py a wrong printed solution would pass, or a student's stub fail."""
    shutil.copy(ROOT / "conftest.py", tmp_path)
    expected = {"solutions": "True", "notebooks": "False"}
    for folder, strict in expected.items():
        cell = f'import os\nassert (os.environ["WEEK6_STRICT"] == "1") is {strict}'
        (tmp_path / folder).mkdir()
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
        nbformat.write(notebook, tmp_path / folder / "a.ipynb")
    options = ["--nbval", "--nbval-current-env", "-q", *expected]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "2 passed" in run.stdout, run.stdout


# --- the notebooks of the course ----------------------------------------------------------------------------------


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.stem)
def test_stored_notebooks_are_up_to_date(source):
    for edition, folder in (("student", "notebooks"), ("solution", "solutions")):
        path = ROOT / folder / f"{source.stem}.ipynb"
        assert build.is_current(path, build.make(source, edition)), "run: python tools/build_notebooks.py"


def test_every_notebook_has_a_source():
    assert {*STUDENT, *SOLVED} == build.expected_files(SOURCES)


@pytest.mark.parametrize("path", STUDENT + SOLVED, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_format(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert "widgets" not in notebook.metadata, "GitHub refuses metadata.widgets without 'state'"
    assert path.stat().st_size < 2_000_000
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not any(output.output_type == "error" for output in outputs)
    assert str(ROOT) not in path.read_text(), "a path of this machine"


@pytest.mark.parametrize("path", STUDENT, ids=lambda p: p.stem)
def test_student_editions_hold_stubs_and_no_solutions(path):
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in cells)
    assert not any("SOLUTION" in cell.source for cell in cells)
    exercises = [cell for cell in cells if "exercise" in cell.metadata.get("tags", [])]
    assert exercises and all("YOUR" in cell.source for cell in exercises)


@pytest.mark.parametrize("path", SOLVED, ids=lambda p: p.stem)
def test_every_check_in_the_solutions_is_correct(path):
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code" and re.search(r"^check\.q\d+\(", cell.source, re.MULTILINE):
            shown = "".join(str(output.get("data", {}).get("text/plain", "")) for output in cell.outputs)
            assert shown.count("Correct.") == len(re.findall(r"^check\.q\d+\(", cell.source, re.MULTILINE)), cell.source


@pytest.mark.parametrize("path", SOLVED, ids=lambda p: p.stem)
def test_plots_have_captions(path):
    """The next text after a plot begins with a sentence in italics that says what the plot shows."""
    cells = nbformat.read(path, as_version=4).cells
    for i, cell in enumerate(cells):
        if any("image/png" in output.get("data", {}) for output in cell.get("outputs", [])):
            text = next((after.source for after in cells[i:] if after.cell_type == "markdown"), "")
            assert re.match(r"[*_]\w", text), cell.source


@pytest.mark.parametrize("path", SOLVED, ids=lambda p: p.stem)
def test_captions_have_plots(path):
    """Between one caption and the next the cells show a picture: a figure that was closed unseen leaves none."""
    pictures = 0
    for cell in nbformat.read(path, as_version=4).cells:
        pictures += sum("image/png" in output.get("data", {}) for output in cell.get("outputs", []))
        if cell.cell_type == "markdown" and (captions := re.findall(r"(?m)^[*_](?:Figure|Roadmap)\b", cell.source)):
            assert pictures >= len(captions), cell.source
            pictures = 0


@pytest.mark.parametrize("path", STUDENT, ids=lambda path: path.stem)
def test_colab_opens_a_notebook_on_a_t4(path):
    metadata = nbformat.read(path, nbformat.NO_CONVERT).metadata
    assert metadata["accelerator"] == "GPU" and metadata["colab"]["gpuType"] == "T4"
