"""The cases of every exercise: drawn as well as written, and as good a judge whatever is drawn."""

import re
import time
from pathlib import Path

import torch
from torch import Tensor

from tests.checks.test_catalogue import FUNCTIONS, each, right_answers
from week6.checks.grading import Grading
from week6.checks.sandbox import Budget, call_ours

SOURCES = {path.name[:2]: path.read_text() for path in (Path(__file__).parents[2] / "solutions").glob("[0-9]*.py")}


def drawn(question, seed):
    return question.cases(torch.Generator().manual_seed(seed))


class Trusted(Budget):
    """Our own functions: they need no sandbox."""

    def call(self, function, arguments, seed=0):
        return call_ours(function, arguments)


def verdict(question, answer, seed):
    return Grading(question, answer, Trusted(0.0), seed).verdict(twice=False)


def seen(question, answer):
    """An answer as it is called on the cases."""
    return question.through(answer) if question.through else answer


def spelt(value):
    return str(value.tolist()) if isinstance(value, Tensor) else repr(value)


@each(FUNCTIONS)
def test_cases_are_drawn_as_well_as_written(name, question):
    """Who knows the cases of one seed does not know those of another."""
    some = {tuple(map(spelt, case)) for case in drawn(question, 0)}
    for seed in (1, 2):
        assert any(tuple(map(spelt, case)) not in some for case in drawn(question, seed))


@each(FUNCTIONS)
def test_an_answer_that_knows_the_first_cases_by_heart_is_rejected(name, question):
    known = {}

    def learns(*arguments):
        known[tuple(map(spelt, arguments))] = question.reference(*arguments)

    for case in drawn(question, 0):
        seen(question, learns)(*case)

    def by_heart(*arguments):
        return known.get(tuple(map(spelt, arguments)))

    assert question.grade(by_heart).kind == "not yet"


@each(FUNCTIONS)
def test_the_reference_passes_whatever_is_drawn(name, question):
    for seed in range(20):
        assert verdict(question, question.reference, seed).kind == "correct", seed


@each(FUNCTIONS)
def test_differently_written_right_answers_pass_whatever_is_drawn(name, question):
    for seed in range(1, 4):
        for answer in right_answers(name):
            told = verdict(question, answer, seed)
            assert told.kind == "correct", (seed, answer, told)


@each(FUNCTIONS)
def test_misconceptions_are_recognised_whatever_is_drawn(name, question):
    """Which of two it is may not show in what is drawn; for that there are the cases of seed 0 (test_catalogue)."""
    messages = {wrong.message for wrong in question.misconceptions}
    for seed in range(1, 6):
        asked = Grading(question, question.reference, Trusted(0.0), seed)  # what is right is computed once a seed
        for wrong in question.misconceptions:
            asked.answer, asked.seen, asked.trials = wrong.answer, seen(question, wrong.answer), []
            assert asked.verdict(twice=False).text in messages, (seed, wrong.name)


@each(FUNCTIONS)
def test_a_verdict_takes_less_than_two_seconds(name, question):
    for answer in (question.reference, question.misconceptions[-1].answer):
        start = time.process_time()
        question.grade(answer)
        assert time.process_time() - start < 2


def statement(name):
    """The notebook's text of an exercise and the head of its function, up to the check."""
    number, q = name[2:4], name.split(".")[1]
    before = re.split(rf"^check\.{q}\(", SOURCES[number], flags=re.MULTILINE)[0]
    return before[before.rindex("### Exercise") :]


@each(FUNCTIONS)
def test_a_gradient_is_asked_for_where_the_text_asks_for_it(name, question):
    text = statement(name)
    if question.grad_args:
        assert re.search(r"gradient|differentiable|backward", text), (
            "the text does not say that a gradient is asked for"
        )


@each(FUNCTIONS)
def test_a_dtype_is_asked_for_where_the_text_names_it(name, question):
    """True and False, or integers, are what a result must be of: then the text says so."""
    words = {torch.bool: r"[Bb]ool|True", torch.int64: r"[Ii]nt"}
    for case in drawn(question, 0):
        value = seen(question, question.reference)(*case)
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, Tensor) and part.dtype in words:
                assert re.search(words[part.dtype], statement(name)), part.dtype


@each(FUNCTIONS)
def test_what_is_inf_or_nan_in_the_cases_is_named_in_the_text(name, question):
    """Padding that holds anything, and probabilities of zero, come as a surprise unless the text announces them.

    `kl_divergence`, the exercise before, takes care of zeros.
    """
    floats = [a for case in drawn(question, 0) for a in case if isinstance(a, Tensor) and a.is_floating_point()]
    if not all(bool(tensor.isfinite().all()) for tensor in floats):
        assert re.search(r"inf|nan|NaN|garbage|anything|zero|[= ]0|kl_divergence", statement(name))
