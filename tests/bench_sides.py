"""Sides of a race that do next to nothing, for tests/test_bench.py."""

import os
import time


def diligent(case, turn):
    turn.ready([1.5], version="diligent 1")
    for step in range(case.steps):
        turn.begin()
        time.sleep(0.01)
        turn.end()
        turn.tell(0.5 + step, tokens=3)
        with open(os.environ["TOLD"], "a") as told:
            told.write(os.environ["WHO"])


def failing(case, turn):
    turn.ready([1.5])
    turn.begin()
    raise ValueError("width: got 3")


def dying(case, turn):
    turn.ready([1.5])
    turn.begin()
    os._exit(9)
