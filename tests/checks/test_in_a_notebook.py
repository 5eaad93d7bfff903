"""The graders where they are used: in a kernel, whose main thread runs an event loop, with answers defined in cells."""

import nbformat
import pytest
from nbclient import NotebookClient

CELLS = [
    """
import torch
from week6.checks.engine import Question
q1 = Question("1.1", reference=lambda x: 2 * x, cases=lambda g: [(torch.ones(2),)], hints=("h",), time_limit=0.5)
before = torch.get_rng_state()
""",
    """
def double(x):
    # YOUR CODE HERE
    raise NotImplementedError("your code here")
q1(double)
q1.or_ours(double)(torch.ones(1))
""",
    """
def double(x):
    y = x + x
    return y @ torch.ones(5, 5)
q1(double)
""",
    """
def double(x):
    while True:
        x = x + 0
q1(double)
""",
    """
def double(x):
    print("$x$ <b>")
    exit()
q1(double)
""",
    "q1(input)",
    "q1(lambda x: x + x)",
    "torch.equal(before, torch.get_rng_state())",
]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    cells = [nbformat.v4.new_code_cell(source.strip()) for source in CELLS]
    notebook = nbformat.v4.new_notebook(cells=cells)
    folder = tmp_path_factory.mktemp("notebook")
    client = NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    client.execute()
    return [cell.outputs for cell in notebook.cells]


def shown(output):
    return output.data["text/plain"]


def test_stub_and_ours(outputs):
    verdict, note, result = outputs[1]
    assert shown(verdict).startswith("○ 1.1: Not attempted.") and "course's version" in shown(note)
    assert shown(result) == "tensor([2.])"


def test_error_names_the_line_of_the_cell(outputs):
    assert "at line 3 of your cell: `return y @ torch.ones(5, 5)`" in shown(outputs[2][0])


def test_endless_loop_ends(outputs):
    assert "did not finish within 0.5 seconds" in shown(outputs[3][0])


def test_exit_does_not_end_the_kernel(outputs):
    assert "Not yet" in shown(outputs[4][0])


def test_a_function_that_asks_for_input(outputs):
    assert "Not yet" in shown(outputs[5][0])


def test_right_answer_has_html_and_text(outputs):
    (output,) = outputs[6]
    assert shown(output) == "✓ 1.1: Correct." and "✓ 1.1: Correct." in output.data["text/html"]


def test_random_state_is_untouched(outputs):
    assert shown(outputs[7][0]) == "True"
