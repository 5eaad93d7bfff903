"""What the graders say to answers of every kind, hostile ones included, and that nothing of them leaks out."""

import itertools
import random
import re
import signal
import sys
import threading
import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from week6.checks.engine import Misconception, Prediction, Question
from week6.checks.messages import Message
from week6.checks.sandbox import call
from week6.checks.surroundings import TimeLimitReached


def pair_loss(chosen, rejected, margin=0.0):
    return -F.logsigmoid(chosen - rejected - margin).mean()


def cases(g):
    return [
        (torch.randn(5, generator=g), torch.randn(5, generator=g)),
        (torch.randn(3, generator=g), torch.randn(3, generator=g), 0.5),
        (torch.tensor([1e4, 0.0]), torch.tensor([0.0, 1e4])),
    ]


LOSS = Question(
    title="1.1 <Loss>",
    reference=pair_loss,
    cases=cases,
    hints=("First.", "Second: `F.logsigmoid`."),
    misconceptions=(
        Misconception("swapped", lambda c, r, margin=0.0: pair_loss(r, c, margin), "You swapped them."),
        Misconception("overflow", lambda c, r, m=0.0: -torch.sigmoid(c - r - m).log().mean(), "It overflows."),
        Misconception("half of the gradient", lambda c, r, m=0.0: pair_loss(c, r.detach(), m), "You hold r fixed."),
    ),
    grad_args=(0, 1),
    time_limit=1.0,
)


def not_written(chosen, rejected, margin=0.0):
    raise NotImplementedError("your code here")


def changes_input(chosen, rejected, margin=0.0):
    chosen -= rejected
    return -F.logsigmoid(chosen - margin).mean()


def loops(chosen, rejected, margin=0.0):
    while True:
        pass


def loops_and_catches(chosen, rejected, margin=0.0):
    while True:
        try:
            time.sleep(0.001)
        except:  # noqa: E722
            pass


def recurses(chosen, rejected, margin=0.0):
    return recurses(chosen, rejected, margin)


def yields(chosen, rejected, margin=0.0):
    yield pair_loss(chosen, rejected, margin)


async def waits(chosen, rejected, margin=0.0):
    return pair_loss(chosen, rejected, margin)


def crashes(chosen, rejected, margin=0.0):
    return chosen @ torch.ones(7, 7)


def spoils_backward(chosen, rejected, margin=0.0):
    y = torch.exp(chosen)
    loss = pair_loss(chosen, rejected, margin) + (y * y).sum() * 0
    y.zero_()
    return loss


class AClass:
    def __init__(self, *_):
        pass


class Hostile:
    __class__ = property(lambda self: 1 / 0)

    def _fail(self, *_):
        raise SystemExit

    __eq__ = __repr__ = __str__ = __bool__ = __len__ = __iter__ = _fail
    __hash__ = None


class HostileError(Exception):
    def __str__(self):
        raise SystemExit


class HostileTensor(torch.Tensor):
    @classmethod
    def __torch_function__(cls, *_, **__):
        raise SystemExit


def raises(error):
    def answer(*_):
        raise error

    return answer


COUNTER = itertools.count()


def right(*arguments):
    return pair_loss(*arguments)


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (right, "correct", ""),
        (lambda c, r, margin=0.0: F.softplus(r - c + margin).mean(), "correct", ""),
        (torch.no_grad, "not yet", "class"),
        (..., "not attempted", "Replace the ..."),
        (None, "not attempted", "Replace the ..."),
        (not_written, "not attempted", "raise NotImplementedError"),
        (raises(NotImplementedError()), "not attempted", "raise NotImplementedError"),
        (raises(NotImplementedError("aten::foo")), "not yet", "aten::foo"),
        (lambda *_: None, "not yet", "`return` missing"),
        (lambda *_: ..., "not yet", "the ... of the stub"),
        (crashes, "not yet", "of your cell: `return chosen @ torch.ones(7, 7)`"),
        (raises(SystemExit()), "not yet", "exit()"),
        (raises(HostileError()), "not yet", "raised HostileError"),
        (raises(GeneratorExit()), "not yet", "raised GeneratorExit"),
        (recurses, "not yet", "calls itself without an end"),
        (loops, "not yet", "did not finish within 1 seconds"),
        (loops_and_catches, "not yet", "did not finish within 1 seconds"),
        (lambda *_: time.sleep(60), "not yet", "did not finish within 1 seconds"),
        (yields, "not yet", "`return`, not `yield`"),
        (waits, "not yet", "not `async def`"),
        (AClass, "not yet", "got a class"),
        (pair_loss(torch.ones(2), torch.ones(2)), "not yet", "Expected the function itself, got a tensor"),
        (3, "not yet", "Expected the function itself, got a Python int"),
        (Hostile(), "not yet", "got a Hostile"),
        (lambda *_: Hostile(), "not yet", "got a Hostile"),
        (lambda a, b: 0, "not yet", "takes the arguments (a, b); it is called with 3: (chosen, rejected, margin)"),
        (lambda *, c: 0, "not yet", "takes the arguments (c)"),
        (lambda *a: right(*a).item(), "not yet", "the value is right, but no gradient reaches `chosen`"),
        (lambda *a: right(*a).detach().numpy(), "not yet", "no gradient reaches `chosen`"),
        (lambda *a: right(*a).detach().numpy()[()], "not yet", "no gradient reaches `chosen`"),
        (lambda c, r, m=0.0: right(r, c, m).item(), "not yet", "You swapped them."),
        (lambda c, r, m=0.0: right(r, c, m).detach().double().numpy(), "not yet", "You swapped them."),
        (lambda *a: [right(*a)], "not yet", "got a list"),
        (lambda *a: right(*a).detach().as_subclass(HostileTensor), "not yet", "got a HostileTensor"),
        (lambda *a: right(*a).double(), "correct", ""),
        (lambda *a: right(*a).bfloat16(), "not yet", "right as far as torch.bfloat16 can hold them"),
        (lambda *a: right(*a).to("meta"), "not yet", "the tensor is on meta, expected cpu"),
        (lambda *a: right(*a)[None].to_sparse(), "not yet", "expected a plain tensor of shape ()"),
        (lambda *a: right(*a)[None], "not yet", "one axis too many (the values themselves are right)"),
        (lambda *a: right(*a) * torch.nan, "not yet", "a log meet 0"),
        (lambda *a: right(*a).expand(10**7), "not yet", "shape (10000000,), expected ()"),
        (changes_input, "not yet", "changes its input `chosen` in place"),
        (spoils_backward, "not yet", "modified by an inplace operation"),
        (lambda *a: right(*a).detach(), "not yet", "no gradient reaches `chosen`"),
        (lambda c, r, m=0.0: right(c.detach(), r, m), "not yet", "no gradient reaches `chosen`"),
        (lambda c, r, m=0.0: right(2 * c - c.detach(), r, m), "not yet", "not its gradient by `chosen`"),
        (lambda *a: right(*a) + random.random(), "not yet", "random numbers"),
        (lambda *a: right(*a) + np.random.rand(), "not yet", "random numbers"),
        (lambda *a: F.dropout(right(*a)[None]).sum(), "not yet", "random numbers"),
        (lambda *a: right(*a) + next(COUNTER), "not yet", "remember something"),
        (lambda c, r, m=0.0: right(r, c, m), "not yet", "You swapped them."),
        (lambda c, r, m=0.0: -torch.log(1 / (1 + torch.exp(r + m - c))).mean(), "not yet", "It overflows."),
        (lambda c, r, m=0.0: right(c, r.detach(), m), "not yet", "You hold r fixed."),
        (lambda c, r, m=0.0: right(r, c, m).detach(), "not yet", "You swapped them."),
        (lambda c, r, m=0.0: F.softplus(r - c + m), "not yet", "their mean is asked for"),
        (lambda *a: -right(*a), "not yet", "the opposite sign"),
        (lambda *a: 2 * right(*a), "not yet", "Every value is 2 times the expected one"),
        (lambda *a: right(*a) + 1, "not yet", "the expected one plus 1"),
        (lambda *a: 1 - right(*a), "not yet", "1 minus what is asked"),
        (lambda *a: right(*a).exp(), "not yet", "the exponential of what is asked"),
        (lambda c, r, m=0.0: right(c, r), "not yet", "does not depend on `margin`"),
        (
            lambda c, r, m=0.0: right(c.max(), r.min(), m) * 1.01,
            "not yet",
            "margin = 0.5: got 0.389696, expected 1.45767",
        ),
    ],
    ids=itertools.count(),  # pytest would look into the answers for names
)
def test_verdicts(answer, kind, words):
    start = time.process_time()  # of the processor: other programs may have it for a while
    verdict = LOSS.grade(answer)
    assert (verdict.kind, words in verdict.text) == (kind, True), verdict
    assert time.process_time() - start < 5 and len(repr(verdict)) < 1500


def test_an_answer_elsewhere_is_told_so_whatever_device_is_the_default():
    with torch.device("cpu"):  # as after an answer that had set one
        verdict = LOSS.grade(lambda *a: right(*a).to("meta"))
    assert "the tensor is on meta, expected cpu" in verdict.text


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no alarms here")
def test_one_alarm_ends_a_loop_and_no_line_of_it_is_traced(monkeypatch):
    """Debuggers and coverage measure by that one trace function: it is taken only where an alarm was swallowed."""
    traced = []
    monkeypatch.setattr(sys, "settrace", traced.append)
    assert isinstance(call(loops, (1, 2), 0.1).error, TimeLimitReached)
    assert traced == []


def test_a_value_that_comes_after_the_alarm_is_too_late():
    def catches_once():
        try:
            loops(1, 2)
        except BaseException:
            return 1

    outcome = call(catches_once, (), 0.1)
    assert isinstance(outcome.error, TimeLimitReached) and outcome.value is None


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no alarms here")
@pytest.mark.parametrize("answer", [loops, lambda *_: 1])
def test_an_alarm_that_comes_when_the_code_has_ended_stops_nothing(monkeypatch, answer):
    """On a busy machine the alarms of every 50 ms may come while the timer is being switched off."""
    before = signal.getsignal(signal.SIGALRM), sys.gettrace()
    set_timer, ends = signal.setitimer, []

    def slowly(which, seconds, interval=0.0):
        if seconds == 0 and not ends:
            ends.append(time.perf_counter() + 0.25)
            while time.perf_counter() < ends[0]:
                pass
        return set_timer(which, seconds, interval)

    monkeypatch.setattr(signal, "setitimer", slowly)
    outcome = call(answer, (1, 2), 0.1)
    assert isinstance(outcome.error, TimeLimitReached) if answer is loops else outcome.value == 1
    assert (signal.getsignal(signal.SIGALRM), sys.gettrace()) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0) and ends


def test_every_failure_has_one_line_without_the_answers_own_repr():
    assert "\n" not in LOSS.grade(lambda *_: {"x\n": Hostile()}).text
    assert "0x" not in LOSS.grade(lambda *_: object()).text


def test_prints_are_captured_and_mentioned(capsys):
    def prints(*arguments):
        print("<b>here" + "e" * 10_000)
        return pair_loss(*arguments)

    verdict = LOSS.grade(prints)
    assert verdict and "also prints: '<b>here" in verdict.text and len(verdict.text) < 200
    assert capsys.readouterr().out == ""

    def prints_for_ever(*_):
        while True:
            print("x" * 1000)

    assert "did not finish" in LOSS.grade(prints_for_ever).text


def test_keyboard_interrupt_is_the_users_own():
    with pytest.raises(KeyboardInterrupt):
        LOSS.grade(raises(KeyboardInterrupt()))
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_nothing_of_the_process_is_changed():
    def vandal(*arguments):
        torch.manual_seed(5), np.random.seed(5), random.seed(5)
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float64)
        sys.stdout = None
        return pair_loss(*arguments)

    def states():
        return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()

    before, stdout, handler = states(), sys.stdout, signal.getsignal(signal.SIGALRM)
    for answer in (right, vandal, loops, raises(SystemExit())):
        LOSS.grade(answer)
        assert states() == before
        assert torch.is_grad_enabled() and torch.get_default_dtype() == torch.float32 and sys.stdout is stdout
        assert signal.getsignal(signal.SIGALRM) is handler and signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_an_alarm_of_the_notebook_survives():
    signal.setitimer(signal.ITIMER_REAL, 100)
    try:
        LOSS.grade(right)
        assert 90 < signal.getitimer(signal.ITIMER_REAL)[0] <= 100
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


@pytest.mark.parametrize(("answer", "kind", "words"), [(loops, "not yet", "did not finish"), (right, "correct", "")])
def test_outside_the_main_thread(answer, kind, words):
    verdicts = []
    thread = threading.Thread(target=lambda: verdicts.append(LOSS.grade(answer)))
    threads = threading.active_count()
    thread.start()
    thread.join(10)
    assert verdicts[0].kind == kind and words in verdicts[0].text
    assert threading.active_count() == threads  # the endless loop has been stopped


def test_a_vandal_cannot_touch_the_cases():
    kept = cases(torch.Generator().manual_seed(0))

    def question_cases(_):
        return kept

    question = Question("t", reference=pair_loss, cases=question_cases, grad_args=(0,))
    question.grade(changes_input)
    assert torch.equal(kept[0][0], cases(torch.Generator().manual_seed(0))[0][0])
    assert question.grade(right)


def test_gradient_errors_cannot_cancel():
    """The plain sum of a softmax has gradient 0 whatever its temperature; the check weighs the results."""
    question = Question(
        "t", reference=lambda x: x.softmax(-1), cases=lambda g: [(torch.randn(4, generator=g),)], grad_args=(0,)
    )

    def half(x):
        y = x.softmax(-1)
        return y / 2 + (y / 2).detach()

    assert "not its gradient by `x`" in question.grade(half).text


def test_a_pattern_is_seen_though_one_case_overflows():
    question = Question(
        "t", reference=torch.logsumexp, cases=lambda g: [(torch.ones(3), -1), (1000 * torch.ones(3), -1)]
    )
    assert "opposite sign" in question.grade(lambda x, dim: -x.exp().sum(dim).log()).text


def test_a_gradient_that_must_not_flow():
    question = Question(
        "t", reference=lambda x, y: x.detach() * y, cases=lambda g: [(torch.ones(2), torch.ones(2))], grad_args=(0, 1)
    )
    assert "no gradient may reach `x`" in question.grade(lambda x, y: x * y).text


def test_modules_dicts_and_lists_as_arguments():
    def reference(model, batch, rows):
        return model(batch["x"]).sum() + sum(map(len, rows))

    def question_cases(g):
        model = torch.nn.Linear(3, 1)
        torch.nn.init.constant_(model.weight, 0.5)
        torch.nn.init.zeros_(model.bias)
        return [(model, {"x": torch.randn(2, 3, generator=g)}, [[1, 2], [3]])]

    question = Question("t", reference=reference, cases=question_cases, grad_args=(0,))
    assert question.grade(lambda model, batch, rows: (batch["x"] @ model.weight.T + model.bias).sum() + 3)

    def trains(model, batch, rows):
        result = reference(model, batch, rows)
        with torch.no_grad():
            model.weight += 1
        return result

    def pops(model, batch, rows):
        rows[0].pop()
        return model(batch["x"]).sum() + 3

    def fills(model, batch, rows):
        batch["x"].zero_()
        return model(batch["x"]).sum() + 3

    def no_model_gradient(model, batch, rows):
        return (batch["x"] @ model.weight.detach().T + model.bias).sum() + 3

    assert "`model` in place" in question.grade(trains).text
    assert "`rows` in place" in question.grade(pops).text
    assert "`batch` in place" in question.grade(fills).text
    assert "no gradient reaches `model`" in question.grade(no_model_gradient).text


def test_structured_results():
    def reference(x):
        return x.sum(), {"share": 0.5, "name": "a"}

    question = Question("t", reference=reference, cases=lambda g: [(torch.randn(3, generator=g),)], grad_args=(0,))
    assert question.grade(lambda x: (x.sum(), {"name": "a", "share": torch.tensor(0.5)}))
    for answer, words in [
        (lambda x: x.sum(), "got a tensor, expected a tuple of 2 values"),
        (lambda x: (x.sum(),), "1 values, expected 2"),
        (lambda x: (x.sum(), {"share": 0.5}), "the keys"),
        (lambda x: (x.sum(), {"share": 0.4, "name": "a"}), "value 2: entry 'share': got 0.4, expected 0.5"),
        (lambda x: (x.mean(), {"share": 0.5, "name": "a"}), "value 1: got"),
        (lambda x: (x.sum(), {"share": True, "name": "a"}), "got a Python bool, expected a number"),
        (lambda x: (x.sum().detach(), {"share": 0.5, "name": "a"}), "no gradient"),
    ]:
        assert words in question.grade(answer).text, question.grade(answer)


@pytest.mark.parametrize(
    ("value", "right_answers", "wrong_answers"),
    [
        (0.25, [0.25, torch.tensor(0.25), 1 / 4], {0.3: "is too large", -1: "is too small", "x": "expected a number"}),
        (3, [3, 3.0, torch.tensor(3)], {4: "too large", True: "expected a number", float("nan"): "nan"}),
        ({"a", "b"}, [{"b", "A "}, frozenset("ab")], {frozenset("a"): "1 is missing", "ab": "expected a set"}),
        ("k2", ["K2", " k2 "], {"k1": "it is not 'k1'", 2: "expected a string"}),
        (("a", 1.0), [("a", 1), ["a", 1.0]], {("b", 1.0): "value 1: it is not 'b'", ("a",): "1 values, expected 2"}),
        (True, [True, torch.tensor(True)], {False: "it is not False", 1: "expected a Python bool"}),
    ],
)
def test_answers_that_are_values(value, right_answers, wrong_answers):
    question = Question("t", value=value, misconceptions=(Misconception("m", 0.5, "You forgot to square."),))
    for answer in right_answers:
        assert question.grade(answer), answer
    for answer, words in wrong_answers.items():
        verdict = question.grade(answer)
        assert verdict.kind == "not yet" and words.casefold() in verdict.text.casefold(), verdict
        assert repr(value) not in verdict.text  # the verdict does not give the answer away
    assert question.grade(Hostile()).kind == "not yet"
    assert question.grade({...}).kind == question.grade(("a", ...)).kind == "not attempted"


def test_misconceptions_about_values():
    question = Question("t", value=0.25, misconceptions=(Misconception("m", 0.5, "You forgot to square."),))
    assert question.grade(0.5).text == "You forgot to square."


def test_strict_mode(monkeypatch, capsys):
    LOSS(lambda *_: None)
    monkeypatch.setenv("WEEK6_STRICT", "1")
    LOSS(right)
    LOSS.or_ours(not_written)
    with pytest.raises(AssertionError, match="return"):
        LOSS(lambda *_: None)
    assert "Correct" in capsys.readouterr().out


def test_or_ours(capsys):
    assert LOSS.or_ours(right) is right
    assert capsys.readouterr().out == ""
    assert LOSS.or_ours(not_written) is pair_loss
    assert "Until yours is correct" in capsys.readouterr().out
    assert Question("t", value=0.5).or_ours(...) == 0.5


def test_an_accepted_answer_of_another_type_is_handed_on_in_ours():
    """A float64 tensor, NumPy, a list: right, but the cells that follow count on the reference's types."""

    def cases(g):
        return [(torch.randn(3, generator=g), 0.5), (torch.randn(2, 2, generator=g).double(), 2.0)]

    question = Question("t", reference=lambda x, scale: (scale * x, float(scale)), cases=cases)
    for answer in (
        lambda x, scale: (scale * x.double(), torch.tensor(scale)),
        lambda x, scale: [(scale * x).numpy(), np.float32(scale)],
        lambda x, scale: ((scale * x).tolist(), int(scale) if scale == 2 else scale),
    ):
        ours = question.or_ours(answer)
        value, number = ours(x=torch.ones(2), scale=2.0)
        assert torch.equal(value, torch.tensor([2.0, 2.0])) and value.dtype == torch.float32
        assert type(number) is float and type(ours(torch.ones(2).double(), 2.0)) is tuple
        assert ours(torch.ones(2).double(), 2.0)[0].dtype == torch.float64

    x = torch.ones(2, requires_grad=True)
    question.or_ours(lambda x, scale: (scale * x.double(), scale))(x, 3.0)[0].sum().backward()
    assert torch.equal(x.grad, torch.tensor([3.0, 3.0]))


def test_a_set_typed_as_a_list_or_in_small_letters_is_handed_on_as_ours():
    assert Question("t", value={"A", "E"}).or_ours(["a", "E"]) == {"A", "E"}


def test_hints_and_solution(capsys):
    LOSS.hint()
    assert "1 of 2. First. (1 left: .hint() shows the next.)" in capsys.readouterr().out
    for step in ((), (2,), ()):
        LOSS.hint(*step)
        assert "2 of 2. Second: `F.logsigmoid`. (The last one; .solution() shows ours.)" in capsys.readouterr().out
    for n in (0, 3, -1, "a"):
        LOSS.hint(n)
        assert "There are 2 hints" in capsys.readouterr().out
    LOSS.solution()
    assert "return -F.logsigmoid(chosen - rejected - margin).mean()" in capsys.readouterr().out
    Question("t", value={"b", "a"}).solution()
    assert "{'a', 'b'}" in capsys.readouterr().out


def test_a_question_is_about_a_function_or_a_value():
    for wrong in ({}, {"reference": pair_loss}, {"reference": pair_loss, "cases": cases, "value": 1}, {"cases": cases}):
        with pytest.raises(ValueError, match="either a reference with cases, or a value"):
            Question("t", **wrong)


@pytest.mark.parametrize("message", [LOSS.grade(crashes), Message("solution", "<t>", "a & `b`", "<pre>\n$x$")])
def test_html_and_text_say_the_same(message):
    html = message._repr_html_()
    assert "<Loss>" not in html and "<pre>\n$x$" not in html
    plain = re.sub(r"<[^>]+>", "", html.replace("<pre>", "\n"))
    for entity, character in {"&lt;": "<", "&gt;": ">", "&#x27;": "'", "&quot;": '"', "&amp;": "&"}.items():
        plain = plain.replace(entity, character)
    assert plain == repr(message).replace("`", "")


def test_a_word_between_stars_is_emphasised_and_no_product_is():
    html = Message("hint", "t", "the *same* one, *all of it*; `a *b* c`, 2 * a * b, x*y*z, π* and π*")._repr_html_()
    assert "the <em>same</em> one, <em>all of it</em>; <code>a *b* c</code>, 2 * a * b, x*y*z, π* and π*" in html


MEANINGS = ("It would fly.", "Gravity.", "It would float.")


def shown_by(capsys, action, *arguments):
    action(*arguments)
    return capsys.readouterr().out


def a_prediction():
    return Prediction("Which way?", ("Up.", "Down.", "Nowhere."), answer=1, meanings=MEANINGS)


def test_a_prediction_that_is_none(capsys):
    prediction = a_prediction()
    for unanswered in (..., "d", 7, "", "ab", "()", "b or a", Hostile()):
        prediction("a")
        capsys.readouterr()
        shown = shown_by(capsys, prediction, unanswered)
        assert "None yet" in shown and "a) Up." in shown and "b) Down." in shown and prediction.choice == ""


@pytest.mark.parametrize("written", ["b", "B", " B ", "b)", "(b)", "b.", "(B).", "b:"])
def test_a_letter_is_understood_as_it_is_printed(written, capsys):
    prediction = a_prediction()
    assert "b) Down." in shown_by(capsys, prediction, written) and prediction.choice == "b"


@pytest.mark.parametrize(
    ("choice", "in_this_order"),
    [
        ("b", ["It held. b) Down. Gravity.", "a) Up. It would fly.", "c) Nowhere. It would float."]),
        ("c", ["did not hold. c) Nowhere. It would float.", "What came: b) Down. Gravity.", "a) Up. It would fly."]),
        (..., ["You chose none", "b) Down. Gravity.", "a) Up. It would fly.", "c) Nowhere. It would float."]),
    ],
)
def test_the_outcome_of_a_prediction(choice, in_this_order, capsys):
    prediction = a_prediction()
    prediction(choice)
    capsys.readouterr()
    shown = shown_by(capsys, prediction.outcome)
    places = [shown.index(text) for text in in_this_order]
    assert places == sorted(places) and shown.count("Gravity.") == 1


def test_the_solution_of_a_prediction(capsys):
    prediction = a_prediction()
    prediction("a")
    assert "You predicted a). b) Down. Gravity." in shown_by(capsys, prediction.solution)


def test_a_prediction_fits_its_options():
    with pytest.raises(ValueError, match="index into the 2 options"):
        Prediction("?", ("a", "b"), answer=2, meanings=("x", "y"))
    with pytest.raises(ValueError, match="one for each of the 3 options"):
        Prediction("?", ("a", "b", "c"), answer=2, meanings=("x", "y"))


@pytest.mark.parametrize("changed", ["<|user|> HI", "<|user|> hi ", " <|user|> hi", "<|user|>  hi"])
def test_a_string_that_a_function_returns_is_compared_exactly(changed):
    question = Question("t", reference=lambda x: "<|user|> " + x, cases=lambda g: [("hi",)])
    assert question.grade(lambda x: f"<|user|> {x}")
    assert question.grade(lambda x: changed).kind == "not yet"
