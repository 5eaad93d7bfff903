"""Every question of every notebook: right answers pass, each typical and each generated wrong answer is rejected."""

import ast
import dataclasses
import importlib
import pkgutil
from collections import Counter

import pytest
import torch

import week6.checks
from tests.checks.equivalent_mutants import EQUIVALENT
from tests.checks.mutants import mutants
from week6.checks.asked import Asked
from week6.checks.engine import Prediction, Question
from week6.checks.sandbox import fresh

MODULES = sorted(m.name for m in pkgutil.iter_modules(week6.checks.__path__) if m.name.startswith("nb"))


def catalogue(kind):
    """Name, such as nb01.q2, and object of every question or prediction."""
    for module in MODULES:
        for name, value in vars(importlib.import_module(f"week6.checks.{module}")).items():
            if isinstance(value, kind):
                yield f"{module}.{name}", value


def each(items):
    return pytest.mark.parametrize(("name", "question"), [pytest.param(n, q, id=n) for n, q in items])


QUESTIONS = list(catalogue(Question))
FUNCTIONS = [(name, question) for name, question in QUESTIONS if question.reference is not None]
VALUES = [(name, question) for name, question in QUESTIONS if question.reference is None]


def not_attempted(*_):
    raise NotImplementedError("your code here")


def right_answers(name):
    module, question = name.split(".")
    return importlib.import_module(f"tests.checks.right_answers.{module}").RIGHT.get(question, [])


def fast_answers(name):
    """Those with which a notebook goes on at its usual pace."""
    module = importlib.import_module(f"tests.checks.right_answers.{name.split('.')[0]}")
    return [answer for answer in right_answers(name) if answer not in getattr(module, "SLOW", ())]


@each(QUESTIONS)
def test_unanswered(name, question):
    assert question.grade(...).kind == "not attempted"


@each(QUESTIONS)
def test_reference_is_correct(name, question):
    verdict = question.grade(question.value if question.reference is None else question.reference)
    assert verdict, verdict


@each(QUESTIONS)
def test_misconceptions_get_their_own_message(name, question):
    names = [wrong.name for wrong in question.misconceptions]
    messages = [wrong.message for wrong in question.misconceptions]
    assert len(names) >= 5 and len(set(names)) == len(names) and len(set(messages)) == len(messages)
    for wrong in question.misconceptions:
        verdict = question.grade(wrong.answer)
        assert (verdict.kind, verdict.text) == ("not yet", wrong.message), wrong.name


@each(QUESTIONS)
def test_hints(name, question, capsys):
    assert len(question.hints) >= 2
    question.hint(len(question.hints))
    assert question.hints[-1].split("\n")[0] in capsys.readouterr().out


@each([(name, asked) for name, asked in catalogue(Asked) if asked.reference is not None])
def test_hints_for_code_end_in_code_with_a_gap(name, question):
    *words, code = question.hints
    assert len(words) == 3 and all(words)
    assert any(isinstance(node, ast.Constant) and node.value is ... for node in ast.walk(ast.parse(code)))


@each(FUNCTIONS)
def test_stub(name, question):
    assert question.grade(not_attempted).kind == "not attempted"
    assert question.or_ours(not_attempted) is question.reference


@each(FUNCTIONS)
def test_differently_written_right_answers(name, question):
    answers = right_answers(name)
    assert len(answers) >= 2, "write at least two in tests/checks/right_answers"
    for answer in answers:
        verdict = question.grade(answer)
        assert verdict, f"{answer}: {verdict}"


@pytest.mark.filterwarnings("ignore:The use of `x.T`")  # a mutant that swaps a table and a vector
@each(FUNCTIONS)
def test_mutants_are_rejected(name, question):
    """One wrong sign, constant, axis or mask is never accepted, unless it changes nothing (equivalent_mutants.py)."""
    full = dataclasses.replace(question, misconceptions=(), time_limit=2.0)  # the verdict counts, not its text
    quick = dataclasses.replace(full, cases=lambda g: question.cases(g)[:1])  # most mutants fail the first case
    survivors = {
        mutant.line
        for mutant in mutants(question.reference)
        if quick.grade(mutant.function) and full.grade(mutant.function)
    }
    excused = {line for key, line in EQUIVALENT if key == name}
    assert survivors <= excused, f"accepted, though wrong: {sorted(survivors - excused)}"
    assert excused <= survivors, f"listed as equivalent, but rejected: {sorted(excused - survivors)}"


@each(FUNCTIONS)
def test_gradient_is_asked_for(name, question):
    """Wherever a question names arguments that need a gradient, the right value without it is rejected."""
    if not question.grad_args:
        return

    def detached(*arguments):
        return question.reference(*(fresh(argument) for argument in arguments))

    verdict = question.grade(detached)
    assert verdict.kind == "not yet", "grad_args of arguments that the reference has no gradient for?"


@each(FUNCTIONS)
def test_right_but_badly_behaved_answers(name, question):
    def in_place(*arguments):
        result = question.reference(*(fresh(argument) for argument in arguments))
        for argument in arguments:
            if isinstance(argument, torch.Tensor) and argument.is_floating_point():
                argument.detach().add_(1)
        return result

    def random(*arguments):
        result = question.reference(*arguments)
        return result if torch.rand(()) < 0.5 else None

    def has_tensor(value):
        return isinstance(value, torch.Tensor) and value.is_floating_point()

    cases = question.cases(torch.Generator().manual_seed(0))
    if any(has_tensor(argument) for case in cases for argument in case):
        assert "in place" in question.grade(in_place).text
    assert question.grade(lambda *_: None).kind == "not yet"
    assert question.grade(random).kind == "not yet"


@each(FUNCTIONS)
def test_cases_are_fresh_and_repeatable(name, question):
    one, two = (question.cases(torch.Generator().manual_seed(0)) for _ in range(2))
    for a, b in zip(one, two, strict=True):
        for x, y in zip(a, b, strict=True):
            if isinstance(x, torch.Tensor):
                assert torch.equal(x, y) or bool(torch.isnan(x).any())


@each(VALUES)
def test_neighbours_of_the_value_are_rejected(name, question):
    for wrong in neighbours(question.value):
        assert question.grade(wrong).kind == "not yet", wrong


def neighbours(value):
    """Values with one small change."""
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int | float):
        yield from (value + 1, -value if value else 2, 2 * value if value else 3)
    elif isinstance(value, str):
        yield from (value + "x", "")
    elif isinstance(value, set | frozenset):
        yield from (value - {item} for item in value)
        yield value | {"something else"}
    elif isinstance(value, tuple):
        for i, item in enumerate(value):
            yield from ((*value[:i], other, *value[i + 1 :]) for other in neighbours(item))
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from (value | {key: other} for other in neighbours(item))
    elif isinstance(value, torch.Tensor):
        yield from (value + 1, -value)


PREDICTIONS = list(catalogue(Prediction))


@each(PREDICTIONS)
def test_predictions(name, question, capsys):
    """Each option can be chosen, and the outcome tells what it means whichever it was, and what came."""
    assert all(question.meanings) and len(set(question.meanings)) == len(question.options) >= 2
    for i, option in enumerate(question.options):
        question(f"({chr(ord('a') + i)})")
        assert option in capsys.readouterr().out
        question.outcome()
        shown = capsys.readouterr().out
        assert all(meaning in shown for meaning in question.meanings)
        assert ("did not hold" in shown) == (i != question.answer)


def test_no_letter_is_a_good_guess():
    """The right options are spread over the letters, in the whole course: each is used, none more than half."""
    letters = Counter(question.answer for _, question in PREDICTIONS)
    most = max(len(question.options) for _, question in PREDICTIONS)
    assert set(letters) >= set(range(min(most, 3))) and max(letters.values()) <= len(PREDICTIONS) / 2, letters
