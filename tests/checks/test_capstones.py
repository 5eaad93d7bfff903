"""Every capstone: right solutions in any style pass, seeded mistakes fail, and are told what is wrong.

`python -m tests.checks.capstones NN` tries the same answers on twenty seeds each.
"""

import contextlib
import importlib
import io

import pytest
import torch

from tests.checks.test_catalogue import MODULES
from tools.build_notebooks import ROOT
from week6.checks import bench_01, bench_03, bench_04, bench_07, capstone_07, nb09, steps_04, steps_07, steps_08
from week6.checks.capstone import Capstone

CAPSTONES = {
    module[2:]: capstone
    for module in MODULES
    if isinstance(capstone := getattr(importlib.import_module(f"week6.checks.{module}"), "capstone", None), Capstone)
}
each = pytest.mark.parametrize("number", CAPSTONES)
SHARE = {"00": 4, "01": 3, "02": 4, "03": 2, "04": 8, "05": 9, "06": 4, "07": 4, "08": 12, "10": 10}
"""Where a mistake costs much, one of so many is tried here; `make capstones` tries all of them, on twenty seeds."""


def answers(number):
    return importlib.import_module(f"tests.checks.capstones.nb{number}")


@each
def test_other_styles_pass(number):
    """That the course's own passes, test_solution sees in a kernel."""
    assert len(answers(number).RIGHT) >= 2
    for answer in answers(number).RIGHT.values():
        verdict = CAPSTONES[number].over(answer, [0])
        assert verdict.kind == "correct", verdict.text


@each
def test_mistakes_fail_and_are_told_the_symptom(number):
    capstone, known = CAPSTONES[number], answers(number)
    messages = {symptom.name: symptom.message for symptom in capstone.symptoms}
    assert len(known.MISTAKES) >= 10 and known.RECOGNISED.keys() <= known.MISTAKES.keys()
    for name, answer in list(known.MISTAKES.items())[:: SHARE.get(number, 1)]:
        verdict = capstone.over(answer, [0])
        assert verdict.kind == "not yet", name
        if name in known.RECOGNISED:
            assert verdict.text.startswith(messages[known.RECOGNISED[name]]), f"{name}: {verdict.text}"
        else:
            assert not verdict.text.startswith(tuple(messages.values())), f"{name}: {verdict.text}"


@each
def test_a_stub_is_not_attempted_and_the_course_goes_on(number):
    def stub(*arguments):
        raise NotImplementedError("your code here")

    with contextlib.redirect_stdout(io.StringIO()):
        assert CAPSTONES[number].grade(stub).kind == CAPSTONES[number].grade(...).kind == "not attempted"
        assert CAPSTONES[number].or_ours(stub) is CAPSTONES[number].reference


def test_what_an_answer_writes_into_its_language_does_not_reach_the_grader():
    def careless(language, beta, iterations, generator):
        language.reference.zero_()
        return [{}] * iterations

    record = bench_04.measure(careless, 0)
    assert torch.equal(record.language.reference, bench_04.random_language(0).reference)


def test_two_seeds_of_the_frontiers_always_allow_a_price():
    """As exercise 7.4 says: a student's `choose_beta` looks for the best of those that are allowed."""
    for f in bench_07.measure(capstone_07.measure_frontier, 0):
        for left_out in range(3):
            kl = f.table("kl")[:, [i for i in range(3) if i != left_out]]
            assert (kl.mean(1) + 2 * kl.std(1) / 2**0.5 <= f.budget).any()


def test_the_loose_table_is_the_slow_one_with_another_tolerance():
    """As exercise 1.7 says: 1 instead of 0.001."""
    loose, slow = (bench_01.measure(lambda *_: {}, 0)[name] for name in ("loose", "slow"))
    assert (loose.tolerance, slow.tolerance) == (1.0, 1e-3) and torch.equal(loose.wins, slow.wins)


@pytest.mark.parametrize(
    ("number", "asked", "value", "words"),
    [
        ("03", bench_03.TOLERANCE, 1e-4, "$10^{-4}$ nats"),
        ("04", bench_04.ITERATIONS, 30, "runs 30 iterations"),
        ("04", steps_04.ALONG, 0.9, "a cosine above 0.9"),
        ("04", steps_04.CLIMB, 0.7, "five iterations bring seven tenths"),
        ("04", steps_04.EXPLAINED, 0.9, "explains nine tenths of the variance"),
        ("04", steps_04.GAP, 0.2, "below 0.2 nats"),
        ("07", steps_07.SLACK, 0.1, "the factor of the intervals within 10 %"),
        ("08", steps_08.EXCESS, 0.1, "within 0.1 nats per token"),
        ("09", nb09.TOLERANCE, 0.02, "less than 0.02 nats"),
    ],
)
def test_the_exercise_says_what_is_asked(number, asked, value, words):
    """The other capstones' limits are asserted in a cell of their notebook."""
    (source,) = (ROOT / "solutions").glob(f"{number}_*.py")
    assert asked == value and words in " ".join(source.read_text().replace("\n#", " ").split())
