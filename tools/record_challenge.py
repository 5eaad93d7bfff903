"""Make the course's own entries of the challenge: `python -m tools.record_challenge`.

The models of preset lesson, which are trained from the very SFT model and pairs that everybody has: the SFT model, PPO
and DPO. Written to week6/recorded/challenge.csv.
"""

import pandas as pd
import torch

from week6.classroom.challenge import COLUMNS, PRESET, score
from week6.classroom.lesson import lesson
from week6.machine.checkpoint import write_atomic
from week6.recorded import FOLDER
from week6.run.models import PRESETS


def main() -> None:
    """Score and write."""
    torch.set_num_threads(1)
    preset = PRESETS[PRESET]
    course = lesson("ppo", "dpo", preset=preset)
    entries = {
        "SFT": course.sft,
        f"PPO, β = {preset.ppo.beta:g}": course.ppo,
        f"DPO, β = {preset.dpo.beta:g}": course.dpo,
    }
    rows = []
    for name, policy in entries.items():
        assert policy is not None
        rows.append({"by": "course", "entry": name} | score(policy, course.sft, course.task))
    write_atomic(FOLDER / "challenge.csv", pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(index=False))


if __name__ == "__main__":
    main()
