"""week6.run.forecast: what a run says of itself."""

import pytest
import torch

from week6.machine.compute import Compute, using
from week6.run import budget
from week6.run.forecast import STEPS, Forecast, Stopwatch, describe, duration, forecast, opening, say, seconds_left
from week6.run.models import PRESETS

COSTS = {"sft": 100.0, "pairs": 50.0, "ppo": 250.0}


class Clock:
    """A clock that the test moves."""

    now = 0.0

    def __call__(self):
        return self.now


def steps(clock, seconds, start=0, total=200):
    """A training loop whose first step is slow; what happens after a step's row is part of the step's time."""
    for step in range(start, total):
        clock.now += 1000.0 if step == start else seconds / 2
        yield {"step": step}
        clock.now += seconds / 2


@pytest.mark.parametrize("speed", [1.0, 2.0, 0.25])
def test_where_a_stage_takes_twice_its_cost_all_that_is_left_does(speed):
    """Step 20 of 100 is over; ten steps cost 10 of sft's 100, and 80 of these are left, with 50 and 250 after them."""
    assert seconds_left(COSTS, "sft", 20, 100, 10, 10 * speed) == pytest.approx(speed * (80 + 50 + 250))


def test_stages_before_the_measured_one_are_over_and_units_do_not_matter():
    assert seconds_left(COSTS, "ppo", 50, 100, 10, 25.0) == pytest.approx(125)
    other = {stage: 7 * cost for stage, cost in COSTS.items()}
    assert seconds_left(other, "ppo", 50, 100, 10, 25.0) == pytest.approx(125)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 seconds"), (44.6, "45 seconds"), (89, "89 seconds"), (90, "2 minutes"), (2100, "35 minutes"),
     (5399, "90 minutes"), (5400, "2 hours"), (36_000, "10 hours")],
)  # fmt: skip
def test_duration_in_words(seconds, words):
    assert duration(seconds) == f"about {words}"


def test_forecast_comes_once_after_ten_steps_that_do_not_count_the_first():
    clock, told, at = Clock(), [], []
    forecast = Forecast(dict(COSTS), "run it again", told.append, clock)
    for stage in ("sft", "ppo"):
        for row in forecast.watch(stage, steps(clock, 1.0), 0, 200):
            at.append((len(told), row["step"]))
    # 1 s a step where 0.5 was the cost: 189 steps of sft, and twice 50 and 250
    assert told == [f"{duration(189 + 100 + 500)} for what is left: sft, pairs, ppo; interrupted, run it again"]
    assert [step for _, step in at] == [*range(200), *range(200)]
    assert at.index((1, STEPS + 1)) == at.index((0, STEPS)) + 1


def test_forecast_of_a_stage_that_goes_on_names_only_what_is_left():
    clock, told = Clock(), []
    forecast = Forecast(dict(COSTS), "again", told.append, clock)
    list(forecast.watch("ppo", steps(clock, 2.5, start=100), 100, 200))
    assert told == [f"{duration(89 * 2.5)} for what is left: ppo; interrupted, again"]


def test_no_forecast_of_a_stage_that_is_too_short_or_not_in_the_list():
    told = []
    forecast = Forecast(dict(COSTS), "again", told.append, Clock())
    list(forecast.watch("sft", steps(Clock(), 1.0, total=STEPS), 0, STEPS))
    list(forecast.watch("other", steps(Clock(), 1.0), 0, 200))
    assert told == []


def test_a_run_is_forecast_from_the_budget_of_what_is_left_of_it():
    preset = PRESETS["gpt2"]
    found = forecast(preset, ["ppo", "evaluation", "no stage"], "again")
    work = budget.stage_work(preset, budget.SHAPES["gpt2"])
    costs = {stage: budget.seconds(work[stage], budget.SHAPES["gpt2"], budget.T4) for stage in ("ppo", "evaluation")}
    assert found.costs == costs and list(found.costs) == list(costs) and found.again == "again"
    assert forecast(PRESETS["tiny"], ["ppo"], "again") is None


def test_stopwatch_leaves_out_the_first_step_and_the_last():
    clock = Clock()
    watch = Stopwatch(clock=clock)

    def slow_end(rows):
        for row in rows:
            clock.now += 5000.0 if row["step"] == 199 else 0.0
            yield row

    list(watch.watch("sft", slow_end(steps(clock, 2.0, start=180)), 180, 200))
    assert watch.per_step == {"sft": pytest.approx(2.0)} and watch.starts == {"sft": 180}
    list(watch.watch("ppo", steps(clock, 3.0, total=3), 0, 3))
    assert watch.per_step["ppo"] == pytest.approx(3.0)  # the one step between them


def test_stopwatch_ends_a_stage_after_the_step_that_its_stop_names():
    def stop(step):
        if step == 7:
            raise InterruptedError

    seen = []
    with pytest.raises(InterruptedError):
        for row in Stopwatch(stop).watch("sft", steps(Clock(), 1.0, start=5), 5, 200):
            seen.append(row["step"])
    assert seen == [5, 6]  # seven steps are over


def test_device_memory_and_precision_are_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    assert (
        describe(Compute(torch.device("meta"), torch.float32, free_bytes=lambda: 5.94e9)) == "META, 5.9 GB free, fp32"
    )
    two = Compute(torch.device("cuda"), torch.bfloat16, processes=2, free_bytes=lambda: 14.62e9)
    assert describe(two) == "Tesla T4, 14.6 GB free, bf16, 2 processes"


def test_opening_and_who_says_it(capsys, tmp_path):
    with using(free_bytes=lambda: 2e9):
        say(opening("gpt2", tmp_path))
    with using(rank=1):
        say("from another process")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"week6: preset gpt2 on CPU, 2.0 GB free, fp32; the run is kept in {tmp_path}\n"
