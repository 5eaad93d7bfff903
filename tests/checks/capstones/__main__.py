"""Over many seeds: how often a capstone accepts what is right, rejects what is wrong, and says which idea is wrong.

    python -m tests.checks.capstones 04 --seeds 20

Each answer is tried on each seed by itself: a right one must pass all, a mistake must fail on all and
be told its symptom on all.
"""

import argparse
import importlib
import time

import torch

FIRST = 1000
"""Other problems than those of a verdict."""


def main() -> int:
    """Print a table; 1 where an answer was misjudged, or told another symptom than it has."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebook", help="its number, such as 04")
    parser.add_argument("--seeds", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    capstone = importlib.import_module(f"week6.checks.nb{options.notebook}").capstone
    answers = importlib.import_module(f"tests.checks.capstones.nb{options.notebook}")
    messages = {symptom.message: symptom.name for symptom in capstone.symptoms}
    groups = {"right": {"reference": capstone.reference} | answers.RIGHT, "wrong": answers.MISTAKES}
    misjudged = 0
    for group, members in (groups | {"unseen": answers.UNSEEN}).items():
        rejected, recognised = 0, 0
        for name, answer in members.items():
            began = time.process_time()
            verdicts = [capstone.over(answer, [FIRST + seed]) for seed in range(options.seeds)]
            seconds = (time.process_time() - began) / options.seeds
            passed = sum(verdict.kind == "correct" for verdict in verdicts)
            told = [next((n for m, n in messages.items() if v.text.startswith(m)), "") for v in verdicts]
            misjudged += group != "unseen" and passed != (options.seeds if group == "right" else 0)
            if group == "wrong":
                misjudged += set(told) != {answers.RECOGNISED.get(name, "")}
            rejected += passed == 0
            recognised += all(told)
            symptoms = ", ".join(sorted(set(told) - {""})) or "no symptom"
            print(f"{group:6} {name:40} passed {passed:2} of {options.seeds}  {seconds:5.2f} s  {symptoms}", flush=True)
        if group != "right":
            print(
                f"{group}: {rejected} of {len(members)} rejected on every seed, {recognised} recognised on every seed"
            )
    return int(misjudged > 0)


if __name__ == "__main__":
    raise SystemExit(main())
