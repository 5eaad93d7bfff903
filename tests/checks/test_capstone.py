"""The engine of the capstones, on a small one: gradient descent to the lowest point of a parabola."""

import time

import pytest
import torch

from week6.checks.capstone import Capstone, Step, Symptom, parts


def descend(slope, start):
    """Where 20 steps lead, and the first slope."""
    place = start
    for _ in range(20):
        place = place - 0.4 * slope(place)
    return {"first": slope(start), "place": place}


def _run(answer, seed):
    lowest, start = torch.randn(2, generator=torch.Generator().manual_seed(seed)).tolist()
    return {"lowest": lowest, "start": start} | parts(answer(lambda x: x - lowest, start), "first", "place")


def _first(record):
    if "first" not in record:
        return None
    want = record["start"] - record["lowest"]
    return "" if abs(record["first"] - want) < 1e-6 else f"{record['first']:.2f} came, {want:.2f} was expected"


def _place(record):
    if "place" not in record:
        return None
    gap = abs(record["place"] - record["lowest"])
    return "" if gap < 1e-3 else f"the gap is {gap:.2f}; at most 0.001 was expected"


LOWEST = Capstone(
    title="Lowest",
    reference=descend,
    run=_run,
    steps=(Step("the slope", _first), Step("the lowest point", _place)),
    symptoms=(
        Symptom("broken", lambda record: record["no such instrument"] > 0, "Never."),
        Symptom("uphill", lambda r: abs(r["place"] - r["lowest"]) > 2 * abs(r["start"] - r["lowest"]), "Uphill?"),
    ),
    shows=lambda records: f"{len(records)} problems solved.",
    hints=("Where?", "Down.", "Step, repeat.", "place = place - ..."),
    time_limit=1.0,
)


def right(slope, start):
    return {"first": slope(start), "place": start - slope(start)}


def uphill(slope, start):
    return {"first": slope(start), "place": start + 9 * slope(start)}


def lazy(slope, start):
    return {"first": slope(start), "place": start}


def begun(slope, start):
    return {"first": slope(start), "place": ...}


def test_a_right_answer_in_another_style_passes_and_is_told_what_it_achieved():
    assert LOWEST.over(right, range(20)).kind == "correct"
    assert "3 problems solved." in repr(LOWEST.grade(descend))


def test_an_unfinished_answer_is_told_what_is_right_and_what_comes_next():
    assert LOWEST.grade(begun).text == "Right so far: step 1 of 2. Next comes step 2: the lowest point."
    assert LOWEST.grade(lambda slope, start: None).text == "Next comes step 1: the slope."


def test_a_failing_step_is_told_with_its_figures_and_the_symptom_before_them():
    assert LOWEST.grade(uphill).text.startswith(
        "Uphill? Right so far: step 1 of 2. Step 2 of 2, the lowest point: the gap is "
    )
    assert LOWEST.grade(lazy).text.startswith("Right so far: step 1 of 2. Step 2 of 2, the lowest point: the gap is ")


def test_one_failure_among_the_problems_is_a_failure():
    def lucky(slope, start):
        return right(slope, start) if start > 0 else lazy(slope, start)

    starts = [_run(right, seed)["start"] > 0 for seed in range(3)]
    assert any(starts) and not all(starts) and LOWEST.grade(lucky).kind == "not yet"


def endless(slope, start):
    while True:
        pass


def divergent(slope, start):
    place = torch.ones(2)
    while place[0] > 0:
        place = 2 * place


def growing(slope, start):
    place = torch.ones(2)
    while True:
        place = (place + 1).clamp(max=4000)


def circling(slope, start):
    place = torch.ones(2)
    while True:
        place = -place


def test_numbers_that_run_away_in_a_loop_without_an_end_are_told():
    assert "`place` held nan or infinity: they run away." in LOWEST.grade(divergent).text
    assert "`place` held numbers up to 4e+03: they run away." in LOWEST.grade(growing).text
    assert "run away" not in LOWEST.grade(circling).text


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (lambda slope, start: 1 / 0, "Your code raised ZeroDivisionError"),
        (lambda slope: {}, "Your code raised TypeError"),
        (lambda slope, start: 3.0, "Your function returns a Python float; a dict with first, place is expected."),
        (lambda slope, start: {"frist": 1}, "Your function returns the parts frist; expected are first, place."),
        (lambda slope, start: {"first": "word"}, "it could not be judged: TypeError"),
        (endless, "did not finish within 1 seconds"),
        (3, "Expected the function itself"),
    ],
)
def test_what_is_no_answer_is_told_so(answer, text):
    verdict = LOWEST.grade(answer)
    assert verdict.kind == "not yet" and text in verdict.text, verdict


def test_the_time_limit_holds_for_all_problems_together():
    def slow(slope, start):
        end = time.process_time() + 0.6
        while time.process_time() < end:
            pass
        return right(slope, start)

    assert "it was at problem 2 of 3" in LOWEST.grade(slow).text


def test_what_is_correct_is_handed_on_and_what_is_not_is_replaced():
    assert LOWEST.or_ours(right) is right and LOWEST.or_ours(uphill) is descend


def test_hints_are_a_staircase(capsys):
    said = []
    for _ in range(5):
        LOWEST.hint()
        said.append(capsys.readouterr().out)
    assert "1 of 4, a nudge. Where? (3 left" in said[0] and "2 of 4, the idea. Down. (2 left" in said[1]
    assert "4 of 4, code with a gap." in said[3] and "place = place - ..." in said[3] and said[4] == said[3]


def test_a_capstone_needs_a_reference_and_steps():
    with pytest.raises(ValueError, match="give reference, run and steps"):
        Capstone(title="t", reference=descend, run=_run)
