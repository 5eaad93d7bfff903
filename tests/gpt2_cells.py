"""Run what notebooks do with `lesson(...)` as where there is a T4: preset gpt2, but with a small model, in fp16.

python -m tests.gpt2_cells FOLDER NOTEBOOK...
"""

import dataclasses
import functools
import os
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from tests.runs import SMALL, quick_preset
from tests.small_gpt2 import reviews, small_gpt2
from tests.test_equations import code_cells, names, needed
from tools.build_notebooks import ROOT
from week6.classroom import museum
from week6.machine.compute import using
from week6.run.models import PRESETS, Preset

FEWER_STEPS = {
    "05_ppo": ("steps=steps, target_kl=None", "steps=steps // 20, target_kl=None"),
    "06_dpo": ("replace(course.preset.dpo, steps=80,", "replace(course.preset.dpo, steps=8,"),
    "07_frontier": ("min(150, preset.steps)", "min(3, preset.steps)"),
}
"""Of the trainings in a notebook: what stands there, and what is run."""


def cells_of_the_lesson(cells: list[str]) -> list[int]:
    """The cells that use what `lesson(...)` has made, directly or not, and the earlier ones that these need."""
    first = next(i for i, cell in enumerate(cells) if "lesson(" in cell)
    made, chosen = names(cells[first])[1], [first]
    for i in range(first + 1, len(cells)):
        used, defined = names(cells[i])
        if used & made:
            chosen.append(i)
            made |= defined
    return needed(cells, chosen[-1], chosen)


def few_steps(folder: Path) -> Preset:
    """Preset gpt2 with a small model, a few reviews and a few steps."""
    small_gpt2(folder / "model")
    (folder / "reviews.txt").write_text("\n".join(reviews()))
    preset, change = PRESETS["gpt2"], dataclasses.replace
    return change(
        preset,
        n_pairs=60,
        sft=change(preset.sft, steps=10, batch_size=8),
        reward=change(preset.reward, steps=4, batch_size=8),
        ppo=change(preset.ppo, steps=3, batch_size=8, max_new_tokens=16),
        dpo=change(preset.dpo, steps=4, batch_size=8),
        evaluation=SMALL,
        model=str(folder / "model"),
        data=str(folder / "reviews.txt"),
    )


def main(folder: Path, notebooks: list[str]) -> None:
    """Execute the cells of each notebook; the first error ends it."""
    torch.set_num_threads(1)
    os.environ |= {"WEEK6_PRESET": "gpt2", "WEEK6_RUNS": str(folder / "runs")}
    PRESETS["gpt2"] = few_steps(folder)
    PRESETS["lesson"] = quick_preset()
    museum.exhibit = functools.partial(museum.exhibit, steps=2)
    for notebook in notebooks:
        source, (many, few) = (ROOT / "solutions" / f"{notebook}.py").read_text(), FEWER_STEPS[notebook]
        assert source.count(many) == 1, f"{many!r} must occur once in {notebook}"
        cells = code_cells(source.replace(many, few))
        namespace: dict = {"__name__": "notebook", "display": lambda *_: None}
        for i in cells_of_the_lesson(cells):
            exec(compile(cells[i], f"{notebook}, code cell {i}", "exec"), namespace)
            plt.close("all")


if __name__ == "__main__":
    with using(dtype=torch.float16):
        main(Path(sys.argv[1]), sys.argv[2:])
