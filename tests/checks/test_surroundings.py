"""A call leaves nothing behind: what answers change around them is put back, and what they print goes nowhere."""

import os
import random
import re
import sys
import threading
import time
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from IPython.core.displaypub import DisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from IPython.display import display

from tests.checks.test_engine import LOSS, pair_loss, right
from week6.checks import compare, engine, nb00
from week6.checks.engine import Question
from week6.checks.sandbox import call
from week6.checks.surroundings import TimeLimitReached


def states():
    """Everything that a call must leave as it was."""
    return {
        "folder": os.getcwd(),
        "variables": dict(os.environ),
        "path": list(sys.path),
        "filters": list(warnings.filters),
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "gradient": torch.is_grad_enabled(),
        "threads of torch": torch.get_num_threads(),
        "anomaly": torch.is_anomaly_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "numpy errors": np.geterr(),
        "recursion": sys.getrecursionlimit(),
        "functions": [
            torch.isclose, torch.sigmoid, torch.Tensor.exp, F.logsigmoid, torch.autograd.grad, np.mean, print,
            time.time, random.random, pair_loss, compare.difference, engine.difference,
            Question.grade, Question.or_ours, nb00.q1,
        ],
        "names": set(vars(engine)),
    }  # fmt: skip


def vandals():
    """Each spoils one thing; some give the right result all the same."""
    yield "folder", lambda: os.chdir("/")
    yield "variables", lambda: os.environ.update(WEEK6_STRICT="1")
    yield "path", lambda: sys.path.insert(0, "/nowhere")
    yield "filters", lambda: warnings.simplefilter("error")
    yield "dtype", lambda: torch.set_default_dtype(torch.float64)
    yield "device", lambda: torch.set_default_device("meta")
    yield "gradient", lambda: torch.set_grad_enabled(False)
    yield "threads of torch", lambda: torch.set_num_threads(3)
    yield "anomaly", lambda: torch.autograd.set_detect_anomaly(True)
    yield "deterministic", lambda: torch.use_deterministic_algorithms(True)
    yield "numpy errors", lambda: np.seterr(all="raise")
    yield "recursion", lambda: sys.setrecursionlimit(5000)
    for place, name in [
        (torch, "isclose"), (torch, "sigmoid"), (torch.Tensor, "exp"), (F, "logsigmoid"), (torch.autograd, "grad"),
        (np, "mean"), (time, "time"), (random, "random"), (compare, "difference"), (engine, "difference"),
        (Question, "grade"), (Question, "or_ours"), (nb00, "q1"),
    ]:  # fmt: skip
        yield "functions", lambda place=place, name=name: setattr(place, name, lambda *_, **__: True)
    yield "names", lambda: setattr(engine, "all", lambda _: True)


@pytest.fixture
def default_device():
    """To set a device, even the one before, leaves a mode behind that every later call of torch would go through."""
    yield
    torch.set_default_device(None)
    vars(torch._GLOBAL_DEVICE_CONTEXT).clear()  # without it torch 2.9 looks for the device of None


@pytest.mark.parametrize(("what", "spoil"), list(vandals()))
def test_what_a_call_changes_is_put_back(what, spoil, default_device):
    before = states()
    changed = []

    def answer():
        spoil()
        changed.append(states()[what] != before[what])

    outcome = call(answer, (), 5.0)
    assert outcome.error is None and changed == [True], outcome.error
    assert states() == before


@pytest.mark.parametrize("name", ["isclose", "sigmoid"])
def test_a_wrong_answer_that_replaces_what_the_grader_uses_is_rejected(name):
    def answer(*arguments):
        setattr(torch, name, lambda *_, **__: torch.tensor(True))
        compare.difference = engine.difference = lambda *_, **__: None
        return pair_loss(*arguments) + 1

    assert LOSS.grade(answer).kind == "not yet" and LOSS.grade(right)


def test_a_question_that_an_answer_rewrites_stays_what_it_was():
    def answer(*arguments):
        object.__setattr__(LOSS, "reference", answer)
        return pair_loss(*arguments) + 1

    assert LOSS.grade(answer).kind == "not yet" and LOSS.reference is pair_loss


@pytest.mark.parametrize(
    "unset", [lambda: torch.set_grad_enabled(False), lambda: torch.set_default_dtype(torch.float64)]
)
def test_what_an_earlier_cell_has_set_does_not_disturb_the_grading(unset):
    unset()
    try:
        verdict = LOSS.grade(right)
        as_before = torch.is_grad_enabled(), torch.get_default_dtype()
    finally:
        torch.set_grad_enabled(True)
        torch.set_default_dtype(torch.float32)
    assert verdict, verdict
    assert as_before != (True, torch.float32)  # the notebook's own setting is left alone


@pytest.mark.filterwarnings("ignore:ggg")
def test_what_is_written_anywhere_goes_nowhere(capfd):
    def answer(*arguments):
        print("a" * 10**6)
        print("b" * 10**6, file=sys.stderr)
        os.write(1, b"c" * 1000)
        os.write(2, b"d" * 1000)
        os.system("echo eeee")
        sys.__stdout__.write("f" * 100)
        warnings.warn("g" * 100, stacklevel=1)
        return pair_loss(*arguments)

    verdict = LOSS.grade(answer)
    assert verdict and len(verdict.text) < 200
    assert capfd.readouterr() == ("", "")


def test_what_is_displayed_goes_nowhere():
    class Counts(DisplayPublisher):
        published = 0

        def publish(self, *_, **__):
            self.published += 1

    shell = InteractiveShell.instance()
    before, shell.display_pub = shell.display_pub, Counts()
    try:
        counts = shell.display_pub
        call(lambda: [display(i) for i in range(50)], (), 5.0)
        assert shell.display_pub is counts and counts.published == 0
        display("own")
        assert counts.published == 1
    finally:
        shell.display_pub = before
        InteractiveShell.clear_instance()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_threads_that_are_left_running_are_ended():
    def answer():
        for _ in range(3):
            threading.Thread(target=lambda: [time.sleep(0.001) for _ in range(10**6)], daemon=True).start()

    before = threading.active_count()
    call(answer, (), 5.0)
    end = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < end:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_a_fork_does_not_go_on_as_a_second_notebook():
    children = []
    outcome = call(lambda: children.append(os.fork()), (), 5.0)
    assert outcome.error is None
    _, status = os.waitpid(children[0], 0)
    assert os.waitstatus_to_exitcode(status) == 1


def test_an_endless_recursion_ends_soon_whatever_limit_is_set():
    def answer():
        sys.setrecursionlimit(10**6)
        return answer()

    start = time.process_time()
    outcome = call(answer, (), 20.0)
    assert isinstance(outcome.error, RecursionError) and time.process_time() - start < 5


class Backward(torch.autograd.Function):
    """The right loss, whose backward pass does what it is told to."""

    @staticmethod
    def forward(ctx, chosen, rejected, act):
        ctx.act = act
        return -F.logsigmoid(chosen - rejected).mean()

    @staticmethod
    def backward(ctx, _):
        ctx.act()
        return None, None, None


def loops():
    while True:
        pass


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (sys.exit, "SystemExit"),
        (loops, "did not finish"),
        (lambda: time.sleep(60), "did not finish"),
        (lambda: 1 / 0, "Zero"),
    ],
)
def test_the_backward_pass_is_run_in_the_sandbox_too(act, words, capfd):
    def with_noise():
        print("x" * 100)
        act()

    question = Question(
        "t",
        reference=lambda c, r: -F.logsigmoid(c - r).mean(),
        cases=lambda g: [(torch.randn(3, generator=g), torch.randn(3, generator=g))],
        grad_args=(0,),
        time_limit=1.0,
    )
    start = time.monotonic()
    verdict = question.grade(lambda c, r: Backward.apply(c, r, with_noise))
    assert verdict.kind == "not yet" and words in verdict.text, verdict
    assert time.monotonic() - start < 10 and capfd.readouterr().out == ""


def test_the_time_limit_holds_for_all_calls_together():
    def slow(*arguments):
        end = time.process_time() + 0.4
        while time.process_time() < end:
            pass
        return pair_loss(*arguments)

    verdict = LOSS.grade(slow)  # 1 s for all, 0.4 s each: the third call, or on a busy machine the second
    assert re.search(r"within 1 seconds, all cases together \(it was at case [23]\)", verdict.text), verdict


def test_an_answer_that_was_just_graded_is_not_graded_again():
    calls = []

    def answer(*arguments):
        calls.append(1)
        return pair_loss(*arguments)

    LOSS.grade(answer)
    graded = len(calls)
    assert LOSS.or_ours(answer) is answer and len(calls) == graded
    LOSS.grade(right)
    assert LOSS.or_ours(answer) is answer and len(calls) > graded


def test_a_time_limit_that_a_busy_machine_takes_up_is_not_the_answers():
    """A limit of 0.2 s of computing is not reached by 0.4 s in which the process hardly computes."""
    assert call(lambda: time.sleep(0.4), (), 0.2).error is None
    assert isinstance(call(lambda: time.sleep(5), (), 0.2).error, TimeLimitReached)
