"""Measure what the README states, and write it to tests/recorded/: `python tools/record.py [SEED ...]`.

For each seed one run of preset tiny (runs/record-SEED), and PPO once more on the same reward model with a tenth of β
(runs/record-SEED-weak): there the proxy keeps rising and the gold falls. Interrupted, it goes on where it stopped.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from week6 import pipeline, plots
from week6.models import PRESETS
from week6.report import save_figure
from week6.tasks import load_task
from week6.training import Run, choose_device

ROOT = Path(__file__).resolve().parent.parent
RECORDED = ROOT / "tests" / "recorded"
WEAKER = 10
"""By how much β is divided for the over-optimisation run."""
WEAK_STEPS = 300


def strong(seed: int) -> dict[str, Any]:
    """One whole run of preset tiny."""
    folder = ROOT / "runs" / f"record-{seed}"
    return pipeline.run(PRESETS["tiny"], folder, seed, resume=folder.exists())


def weak(seed: int) -> pd.DataFrame:
    """PPO on the run's own reward model with β turned down; returns its metrics, a row a step."""
    tiny = PRESETS["tiny"]
    ppo = dataclasses.replace(tiny.ppo, beta=tiny.ppo.beta / WEAKER, steps=WEAK_STEPS)
    task, device = load_task(tiny.task), choose_device()

    def setting(name: str, preset: Any) -> pipeline.Setting:
        folder = ROOT / "runs" / name
        run = Run.open(folder, pipeline.RunConfig(seed, preset), resume=folder.exists())
        return pipeline.Setting(run, preset, task, seed, device)

    whole = setting(f"record-{seed}", tiny)
    sft = pipeline.fine_tune(whole)
    reward_model = pipeline.fit_reward_model(whole, sft, *pipeline.collect_pairs(whole, sft))
    leashless = setting(f"record-{seed}-weak", dataclasses.replace(tiny, ppo=ppo))
    pipeline.optimize_with_ppo(leashless, sft, reward_model)
    return leashless.run.metrics("ppo")


def main(seeds: list[int]) -> None:
    """Run, and write tests/recorded/tiny.json, weak-SEED.csv and imgs/tiny-frontier.png."""
    RECORDED.mkdir(parents=True, exist_ok=True)
    summaries = {}
    for seed in seeds:
        summaries[str(seed)] = strong(seed)
        rows = weak(seed)
        columns = ["step", "score", "gold", "kl", "entropy", "length"]
        rows[columns].iloc[::5].round(4).to_csv(RECORDED / f"weak-{seed}.csv", index=False)
    (RECORDED / "tiny.json").write_text(json.dumps(summaries, indent=1) + "\n")
    first = summaries[str(seeds[0])]
    save_figure(ROOT / "imgs" / "tiny-frontier.png", plots.frontier(first["policies"], first["best_gold"]))


if __name__ == "__main__":
    main([int(seed) for seed in sys.argv[1:]] or [0, 1, 2])
