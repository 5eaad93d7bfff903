"""Whole submissions, each in a real jail: right ones are right, wrong ones wrong in the notebook's words, hostile ones
gain nothing, do nothing outside and leave no process."""

import dataclasses
import json
import sys

import psutil
import pytest
import torch

from tests.grading.submissions import CHECK, HEAD, IMPORTS, RIGHT, WRONG, answered, hostile, notebook
from week6.checks import nb01, nb02, nb09, nb10
from week6.grading import marking
from week6.grading.jail import WALLS, Jail
from week6.grading.marking import MODULES, answer_name, mark, questions
from week6.grading.notebook import read
from week6.grading.remote import Nursery

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the walls are those of Linux")


@pytest.fixture(scope="module")
def nursery():
    made = Nursery()
    yield made
    made.close()


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    folder = tmp_path_factory.mktemp("outside")
    (folder / "secret").write_text("the teacher's own")
    return folder


@pytest.fixture
def graded(nursery, tmp_path, outside, monkeypatch):
    """Marks of a notebook's bytes, on these questions only."""

    def grade(content, asked=None, namespaces=True):
        (tmp_path / "work").mkdir(exist_ok=True)
        path = tmp_path / "01_someone.ipynb"
        path.write_bytes(content)
        submission = read(path, "someone", MODULES)
        monkeypatch.setattr(
            marking, "questions", lambda module: asked or {"q1": dataclasses.replace(nb01.q1, time_limit=2.0)}
        )
        found = mark(nursery, submission, Jail(tmp_path / "work", (tmp_path, outside), namespaces))
        assert list(outside.iterdir()) == [outside / "secret"]
        assert (outside / "secret").read_text() == "the teacher's own"
        assert [p for p in psutil.Process(nursery.process.pid).children() if p.status() != "zombie"] == []
        return found

    return grade


def test_every_question_has_a_name_for_its_answer():
    """The notebook's: by it an answer is found where the cell with the check was deleted. 3.6 has three answers."""
    for module in MODULES:
        (path,) = marking.Path(__file__).parents[2].glob(f"notebooks/{module[2:]}_*.ipynb")
        cells = json.loads(path.read_text())["cells"]
        source = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        for question, asked in questions(module).items():
            name = answer_name(asked)
            assert f"check.{question}({name})" in source or (module, question, name) == ("nb03", "q6", ""), (
                module,
                question,
            )


def test_right_and_wrong_answers_get_the_verdicts_of_the_notebook(graded):
    for body, answer in (
        (RIGHT, nb01.q1.reference),
        (WRONG, lambda reward_a, reward_b: torch.sigmoid(reward_b - reward_a)),
    ):
        (found,) = graded(answered(body)).marks
        message = nb01.q1.grade(answer)
        assert (found.kind, found.text, found.flags) == (message.kind, message.text, ())
        assert bool(found.misconception) == (body == WRONG)


def test_gradients_go_over_the_pipe(graded):
    head = (
        "import torch\nfrom week6.checks import nb01 as check\ndef bradley_terry_loss(chosen, rejected, margin=0.0):\n"
    )
    tail = "-torch.nn.functional.logsigmoid(chosen - rejected{} - margin).mean()"
    asked = {"q3": nb01.q3}
    (found,) = graded(notebook(head + "    return " + tail.format("")), asked).marks  # and no cell with the check
    assert (found.kind, found.text) == ("correct", "")
    (found,) = graded(notebook(head + "    return " + tail.format(".detach()")), asked).marks
    assert found.text == "the value is right, but no gradient reaches `rejected`" or "no gradient reaches" in found.text
    (found,) = graded(notebook(head + "    chosen.data.add_(1)\n    return " + tail.format("")), asked).marks
    assert found.kind == "not yet"


FAST = ("00", "01", "03", "04", "09", "10")  # the capstones that are
HANDED_MORE = [*(f"nb{number}.capstone" for number in FAST), "nb00.q6", "nb02.q6", "nb09.q6"]


@pytest.mark.parametrize("exercise", HANDED_MORE)
def test_what_is_handed_more_than_numbers_is_right_behind_the_pipe(graded, exercise):
    """It must work in another process: models that note their passes, losses, languages, lists of runs."""
    module, asking = exercise.split(".")
    asked = {asking: questions(module)[asking]}
    name = answer_name(asked[asking])
    cells = (
        f"from week6.checks import {module} as check",
        marking._solution(module, asking),
        f"check.{asking}({name})",
    )
    (found,) = graded(notebook(*cells), asked).marks
    assert (found.kind, found.believed) == ("correct", False), found.text


def test_no_number_of_steps_is_told_of_a_loss_that_was_asked_behind_the_pipe(graded):
    """A tolerance too large: in the notebook the rounds are counted, here they cannot be."""
    asked = {"capstone": nb10.capstone}
    early = marking._solution("nb10", "capstone").replace("> tolerance", "> 1000 * tolerance")
    cells = "from week6.checks import nb10 as check", early, f"check.capstone({answer_name(nb10.capstone)})"
    (found,) = graded(notebook(*cells), asked).marks
    assert found.kind == "not yet" and "number of steps" not in found.text and "took most steps" not in found.text


def test_a_wrong_answer_is_replaced_by_the_courses_for_those_that_build_on_it(graded):
    cells = (
        "import torch\nfrom week6.checks import nb02 as check",
        "def last_token_index(attention_mask):\n    return attention_mask.sum(1)",
        "check.q1(last_token_index)",
        "last_index = check.q1.or_ours(last_token_index)",
        "def head_score(hidden, mask, weight, bias):\n"
        "    return hidden[torch.arange(len(mask)), last_index(mask)] @ weight + bias",
        "check.q2(head_score)",
    )
    first, second = graded(notebook(*cells), {"q1": nb02.q1, "q2": nb02.q2}).marks
    assert (first.kind, second.kind, second.text) == ("not yet", "correct", "")


def test_deleted_and_broken_cells(graded):
    (found,) = graded(notebook(IMPORTS, CHECK)).marks
    assert (found.kind, found.text) == ("not attempted", "No `preference_probability` is in this notebook.")
    stub = HEAD + '    # YOUR CODE HERE\n    raise NotImplementedError("your code here")'
    assert graded(notebook(IMPORTS, stub, CHECK)).marks[0].kind == "not attempted"
    broken = graded(notebook(IMPORTS, HEAD + "    return (", CHECK))
    assert broken.marks[0].kind == "not yet" and broken.marks[0].text.startswith("Cell 2 is no Python")
    (found,) = graded(notebook(CHECK, HEAD + RIGHT, IMPORTS)).marks  # in reverse order
    assert found.kind == "correct"
    (found,) = graded(notebook(IMPORTS, "preference_probability = undefined + 1", CHECK)).marks
    assert found.kind == "not yet" and "NameError" in found.text


def test_an_algorithm_that_yields_is_graded_over_the_pipe(graded):
    asked = {"capstone": dataclasses.replace(nb09.capstone, seeds=1)}
    text = marking.pasteable(nb09.capstone.reference, "train_by_groups")
    (found,) = graded(
        notebook("from week6.checks import nb09 as check", text, "check.capstone(train_by_groups)"), asked
    ).marks
    assert (found.kind, found.believed) == ("correct", False)
    wrong = text.replace("rewards.gather", "-rewards.gather")
    assert wrong != text
    (found,) = graded(
        notebook("from week6.checks import nb09 as check", wrong, "check.capstone(train_by_groups)"), asked
    ).marks
    assert found.kind == "not yet"


# The others are graded by `make grade-trial`; those in WALLED need the walls of namespaces.
WALLED = {"deletes outside", "reads others", "writes outside", "calls out"}
CHEAP = WALLED | {
    "forks without end", "leaves a process", "loops", "exits", "patches torch within", "has a forged output",
    "reads the reference", "calls the course's", "writes into the pipe",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(CHEAP))
def test_hostile_ones_gain_nothing_and_are_contained(graded, outside, name, monkeypatch):
    monkeypatch.setattr("week6.grading.remote.LOADING", 2.0)
    if name in WALLED and graded(notebook(IMPORTS)).walls != tuple(WALLS):
        pytest.skip("this system has no namespaces for ordinary users")
    content, flag = hostile(outside)[name]
    found = graded(content)
    assert found.marks[0].kind != "correct"
    assert any(flag in said for said in found.all_flags) or not flag, found
    assert "the teacher's own" not in found.marks[0].text


def test_without_namespaces_limits_and_the_hunt_remain(graded, outside):
    for name in ("leaves a process", "forks without end", "exits"):
        found = graded(hostile(outside)[name][0], namespaces=False)
        assert found.walls == () and found.marks[0].kind == "not yet"
