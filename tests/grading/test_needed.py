"""Of a notebook only that is run which an answer needs; what looks odd is told without running it."""

import ast

import pytest

from week6.grading.needed import odd, source


def needed(names, *cells):
    return [ast.unparse(statement.node) for statement in source(cells).needed(set(names.split()))]


def test_an_answer_brings_its_imports_and_helpers_and_nothing_else():
    cells = (
        "import torch, os\nimport math as m\nfrom week6 import train_ppo",
        "policy = train_ppo()\nloss = 1",
        "scale = 2.0\nscale *= 3",
        "def helper(x):\n    loss = x * scale\n    return loss",
        "def answer(x):\n    return [helper(policy) for policy in x]",
        "while True: pass",
        "os._exit(0)\ntorch.isclose = None",
    )
    assert needed("answer", *cells) == [
        "scale = 2.0", "scale *= 3", "def helper(x):\n    loss = x * scale\n    return loss",
        "def answer(x):\n    return [helper(policy) for policy in x]",
    ]  # fmt: skip


def test_order_does_not_matter_and_every_definition_of_a_name_counts():
    assert needed("f", "def f(): return g()", "def g(): return 1", "def g(): return 2") == [
        "def f():\n    return g()", "def g():\n    return 1", "def g():\n    return 2",
    ]  # fmt: skip


def test_what_changes_a_needed_object_in_place_is_run():
    assert needed("f", "t = {}", "t['a'] = 1", "t.update(b=2)", "print(t)", "def f(): return t") == [
        "t = {}", "t['a'] = 1", "t.update(b=2)", "def f():\n    return t",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text",
    ["def f(x=k): pass", "@k\ndef f(): pass", "def f(x: k): pass", "class f(k): pass", "f = k + 1", "for f in k: pass"],
)
def test_defaults_decorators_annotations_and_bases_are_needed(text):
    assert needed("f", "k = 1", text)[0] == "k = 1"


def test_lines_for_ipython_are_left_out_and_broken_cells_are_told():
    found = source(("%matplotlib inline\n!ls\nx = 1", "%%bash\nrm -r ~", "def f(:", "y = 2"))
    assert [ast.unparse(s.node) for s in found.statements if not isinstance(s.node, ast.Pass)] == ["x = 1", "y = 2"]
    assert list(found.broken) == [2] and "line 1" in found.broken[2]
    assert list(source(("(" * 5000 + ")" * 5000, "x = 1")).broken) == [0]


def test_what_is_handed_to_the_last_check_is_the_answer():
    found = source(("check.q1(a)", "if True:\n    check.q1(b)", "check.q2(c)\ncheck.q1.hint()", "other.q1(d)"))
    assert found.asked_as("check", "q1").id == "b" and found.asked_as("check", "capstone") is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("check = print", "in the place of `check`"),
        ("def check(): pass", "in the place of `check`"),
        ("check.q1 = print", "in the place of `check.q1`"),
        ("torch.isclose = print", "in the place of `torch.isclose`"),
        ("def f():\n    torch.nn.functional.softmax = 0", "`torch.nn.functional.softmax`"),
        ("setattr(torch, 'isclose', 0)", "setattr"),
        ("os._exit(0)", "ends or forks"),
        ("while True: x = 1", "without an end"),
        ("subprocess.run('ls')", "starts programs"),
        ("import week6.checks.nb01 as c", "imports from the graders"),
        ("from week6.checks.nb01 import q1", "imports from the graders"),
        ("f = check.q1.reference", "the course's own answers"),
        ("print('✓ 1.1 Something: Correct.')", "a verdict of its own"),
        ("open('/x/week6/checks/nb01.py')", "graders' files"),
    ],
)
def test_what_looks_odd_is_told(text, words):
    (said,) = odd(source((text,)), "check")
    assert words in said and said.startswith("cell 1 ")


@pytest.mark.parametrize(
    "text",
    [
        "from week6.checks import nb01 as check",
        "from week6.checks import ppo_capstone",
        "loss = check.q1.or_ours(f)",
        "torch.backends.cudnn.deterministic = True",
        "plt.rcParams['font.size'] = 9",
        "model.head = torch.nn.Linear(2, 1)",
        "while True:\n    break",
        "x = 'Correct.'",
    ],
)
def test_what_honest_people_write_is_not(text):
    assert odd(source((text,)), "check") == []
