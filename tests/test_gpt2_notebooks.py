"""Notebooks 05 to 07 with preset gpt2, whose task has other prompts, no rates, and rewards within [−1, 1]."""

import subprocess
import sys

import pytest

from tests.gpt2_cells import cells_of_the_lesson
from tests.test_equations import code_cells
from tools.build_notebooks import ROOT

NOTEBOOKS = ("05_ppo", "06_dpo", "07_frontier")
CELLS = """\
# %%
import torch

# %%
x = 1

# %%
course = lesson("ppo")

# %%
y = torch.zeros(x)

# %%
unrelated = 1

# %%
z = course.sft, y

# %%
print(z)
"""


def test_chosen_are_the_cells_that_use_the_lesson_and_what_they_need():
    assert cells_of_the_lesson(code_cells(CELLS)) == [0, 1, 2, 3, 5, 6]


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_not_only_the_first_cell_is_chosen(notebook):
    cells = code_cells((ROOT / "solutions" / f"{notebook}.py").read_text())
    chosen = cells_of_the_lesson(cells)
    users = [i for i, cell in enumerate(cells) if "course." in cell]
    assert len(users) >= 2 and set(users) <= set(chosen) and len(chosen) > len(users)


@pytest.mark.slow
def test_cells_run_on_reviews_in_fp16(tmp_path):
    command = [sys.executable, "-m", "tests.gpt2_cells", str(tmp_path), *NOTEBOOKS]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=600)
    assert run.returncode == 0, run.stderr[-3000:]
    assert "preset gpt2, task sentiment" in run.stdout
    assert run.stderr.count("week6: preset gpt2 on CPU, ") == len(NOTEBOOKS) and " GB free, fp16; " in run.stderr
    assert "Does not hold for preset 'gpt2' in fp16" in run.stdout  # four steps do not make a better model
    stages = sorted(path.parent.name.split("-")[1] for path in tmp_path.glob("runs/lesson-*/stages.json"))
    assert stages == ["gpt2", "tiny"]  # the museum shows the embedded chatbot
