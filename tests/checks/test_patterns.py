"""What is said about an answer that no catalogue knows is true of it: each claim is tried where it is false as well."""

import math

import numpy as np
import pytest
import torch

from week6.checks.engine import Misconception, Question


def agreement(first, second):
    return (first == second).float().mean()


def two_lists(g):
    return [(torch.rand(n, generator=g) < 0.7, torch.rand(n, generator=g) < 0.4) for n in (20, 9, 5)]


def best_within(betas, kl, reward, budget):
    return float(betas[torch.where(kl <= budget, reward, -torch.inf).argmax()])


def runs(g):
    betas, kl = torch.tensor([0.03, 0.1, 0.3, 1.0]), torch.tensor([9.0, 4.0, 2.0, 0.5])
    return [(betas, kl, torch.rand(4, generator=g), 4.5), (betas, kl, torch.tensor([0.1, 0.4, 0.3, 0.2]), 2.5)]


def ceiling(p):
    return torch.maximum(p, 1 - p).mean()


def answers_mask(tokens, marker, end):
    begun, ended = (tokens == marker).long().cumsum(1), (tokens == end).long().cumsum(1)
    return begun > ended


def chats(_):
    return [(torch.tensor([[2, 5, 3, 6, 1], [2, 3, 7, 1, 0]]), 3, 1)]


AGREEMENT = Question("agreement", reference=agreement, cases=two_lists)
CHOICE = Question("choice", reference=best_within, cases=runs)
CEILING = Question("ceiling", reference=ceiling, cases=lambda g: [(torch.rand(n, generator=g),) for n in (6, 30)])
MASK = Question("mask", reference=answers_mask, cases=chats)


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        (AGREEMENT, lambda a, b: torch.tensor(float(torch.equal(a, b)))),
        (AGREEMENT, lambda a, b: agreement(a, b).round()),
        (CEILING, lambda p: (p > 0.5).float().mean()),
        (CEILING, lambda p: p.mean().round()),
        (CHOICE, lambda betas, kl, reward, budget: float(betas[reward[kl <= budget].argmax()])),
        (CHOICE, lambda betas, kl, reward, budget: float(betas[torch.where(kl <= budget, -reward, -9e9).argmax()])),
        (MASK, lambda tokens, marker, end: (tokens == marker).cumsum(0) > (tokens == end).cumsum(0)),
    ],
)
def test_a_result_that_is_rounded_or_picked_is_not_said_to_ignore_an_input(question, answer):
    verdict = question.grade(answer)
    assert verdict.kind == "not yet" and "does not depend" not in verdict.text, verdict


@pytest.mark.parametrize(
    ("question", "answer", "name"),
    [
        (AGREEMENT, lambda a, b: a.float().mean(), "second"),
        (CHOICE, lambda betas, kl, reward, budget: float(betas[reward.argmax()]), "kl"),
        (CHOICE, lambda betas, kl, reward, budget: float(betas[torch.where(kl <= 4.5, reward, -9).argmax()]), "budget"),
        (MASK, lambda tokens, marker, end: (tokens == marker).cumsum(1) > 0, "end"),
    ],
)
def test_an_input_that_is_ignored_is_named(question, answer, name):
    verdict = question.grade(answer)
    assert f"does not depend on `{name}`" in verdict.text, verdict


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda x, mask: (x * mask).sum(-1, keepdim=True) / mask.sum(-1, keepdim=True), "one axis too many"),
        (lambda x, mask: x * mask / mask.sum(-1, keepdim=True), "their sum over the last axis is asked for"),
        (lambda x, mask: ((x * mask).sum(-1) / mask.sum(-1)).mean(), "mean over everything; one value for each row"),
        (lambda x, mask: len(x) * (x * mask).sum(-1) / mask.sum(-1), "times the size of the first axis of `x`"),
    ],
)
def test_shapes_and_sizes_are_told_as_they_are(answer, words):
    def cases(g):
        shapes = [(2, 5), (3, 4)]
        return [
            (torch.randn(s, generator=g), (torch.arange(s[1]) < torch.tensor([[2], [3], [s[1]]])[-s[0] :]).float())
            for s in shapes
        ]

    question = Question("mean", reference=lambda x, mask: (x * mask).sum(-1) / mask.sum(-1), cases=cases)
    verdict = question.grade(answer)
    assert verdict.kind == "not yet" and words in verdict.text, verdict


def test_differences_at_padding_alone_are_called_that():
    def cases(g):
        return [(torch.randn(2, 4, generator=g), torch.tensor([[True, True, False, False], [True] * 4]))]

    question = Question("keep", reference=lambda x, mask: torch.where(mask, x, 0.0), cases=cases)
    assert "right wherever `mask` is 1" in question.grade(lambda x, mask: torch.where(mask, x, 2 * x)).text
    assert "right wherever" not in question.grade(lambda x, mask: x + 1).text


def test_the_smallest_failing_case_is_shown_with_the_row_of_the_element_that_differs():
    def cases(g):
        return [(torch.randn(4, 9, generator=g),), (torch.randn(3, 8, generator=g),), (torch.full((2, 2), 1e6),)]

    question = Question("double", reference=lambda x: 2 * x, cases=cases)

    def forgets_the_last(x):
        return torch.cat([2 * x[:, :-1], x[:, -1:]], dim=1)

    x = cases(torch.Generator().manual_seed(0))[1][0]
    text = question.grade(forgets_the_last).text
    assert f"Case 2 of 3, with x[0] = […, {x[0, 2]:.4g}" in text and f"{x[0, 7]:.4g}]" in text, text
    assert f"at index [0, 7] of a result of shape (3, 8): got {x[0, 7]:.6g}, expected {2 * x[0, 7]:.6g}" in text


def three(x):
    return x, x**2 / 2, x.exp() - 1


THREE = Question("three", reference=three, cases=lambda g: [(torch.randn(n, generator=g),) for n in (4, 3)])


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda x: (x, x.exp() - 1, x**2 / 2), "The values are right, but in another order."),
        (
            lambda x: (x, -(x**2) / 2, x.exp() - 1),
            "value 1 and value 3 are right. Of the other: every value has the opp",
        ),
        (lambda x: (x, x**3, x.exp() - 1), "Of your 3 values, value 1 and value 3 are right. Case 2 of 2"),
        (lambda x: (x, x**3, x), "Of your 3 values, value 1 is right."),
        (lambda x: (-x, -(x**2) / 2, 1 - x.exp()), "Every value has the opposite sign"),
    ],
)
def test_of_several_values_those_that_are_right_are_named(answer, words):
    verdict = THREE.grade(answer)
    assert verdict.text.startswith(words) or words in verdict.text, verdict
    assert ("Every value" in verdict.text) == words.startswith("Every value")


def log_ratio(x):
    return (x[0].exp() / x[1].exp()).log()


def test_an_answer_that_is_right_but_for_the_computers_numbers_is_called_that():
    def cases(g):
        return [(3 * torch.randn(2, n, generator=g),) for n in (3, 4)] + [(torch.tensor([[1.0, -900], [2, -901]]),)]

    question = Question("ratio", reference=lambda x: x[0] - x[1], cases=cases)
    verdict = question.grade(log_ratio)
    assert verdict.text.startswith("Right wherever it is a number, but for some inputs it is nan or inf"), verdict
    assert "Case 3 of 3" in verdict.text and verdict.text.count("nan or inf") == 1
    wrong = question.grade(lambda x: torch.where(x[0] > 0, log_ratio(x), torch.nan))  # nan in place of half of them
    assert "Right wherever" not in wrong.text and "is something divided by 0?" in wrong.text, wrong
    row = torch.tensor([[1.0, 2, 3, 4, -900], [2, 3, 5, 7, -901]])
    alone = Question("row", reference=lambda x: x[0] - x[1], cases=lambda _: [(row,)])
    assert "Right wherever" in alone.grade(log_ratio).text
    assert "Right wherever" not in alone.grade(lambda x: log_ratio(x) + (torch.arange(5) == 0)).text


def test_a_logarithm_that_is_cut_off_is_called_that():
    def cases(_):
        return [(torch.tensor([0.5, 0.25]),), (torch.tensor([0.0, 1.0, 0.5]),)]

    question = Question("log", reference=torch.log, cases=cases)
    for answer in (lambda p: (p + 1e-12).log(), lambda p: p.log().clamp(min=-20)):
        assert question.grade(answer).text.startswith("Right except where the result is infinite"), question.grade(
            answer
        )
    assert "infinite" not in question.grade(lambda p: (p + 1e-12).log() + p).text


def test_a_catalogued_mistake_is_seen_though_the_answer_also_overflows_or_fails():
    def cases(g):
        return [(torch.randn(2, n, generator=g),) for n in (3, 4)] + [(torch.tensor([[1.0, -900], [2, -901]]),)]

    swapped = Misconception("swapped", lambda x: x[1] - x[0], "You swapped them.")
    question = Question("ratio", reference=lambda x: x[0] - x[1], cases=cases, misconceptions=(swapped,))
    text = question.grade(lambda x: log_ratio(x.flip(0))).text
    assert text.startswith("You swapped them. Besides: Case 3 of 3, with") and "got [1, nan]" in text, text

    def fails(x):
        return x[1] - x[0] if x.shape[1] > 2 else x[2]

    text = question.grade(fails).text
    assert text.startswith("You swapped them. Besides: Case 3 of 3, with") and "raised IndexError" in text, text
    assert "swapped" not in question.grade(log_ratio).text  # right on paper


def test_a_bound_that_acts_only_with_another_one_is_not_said_to_be_ignored():
    def cases(g):
        return [(0.5 + torch.rand(6, generator=g), 0.2, 0.3) for _ in range(3)]

    def clipped(x, low, high):
        return torch.maximum(x, x.clamp(low, high))

    question = Question("clip", reference=lambda x, low, high: clipped(x, 1 - low, 1 + high), cases=cases)
    assert "depend" not in question.grade(clipped).text
    assert "does not depend on `low`" in question.grade(lambda x, low, high: clipped(x, 0.1, 1 + high)).text


def test_the_right_values_of_small_cases_are_not_told_where_larger_ones_are_wrong():
    def cases(g):
        return [(torch.randn(n, 3, generator=g),) for n in (2, 1, 4)]

    question = Question("rows", reference=lambda x: x.cumsum(1).amax(1), cases=cases)
    assert "the values themselves are right" not in question.grade(lambda x: x.cumsum(1).amax()).text
    assert "the values themselves are right" in question.grade(lambda x: x.cumsum(1).amax(1, keepdim=True)).text
    mean = Question("mean", reference=torch.mean, cases=lambda g: [(torch.randn(n, generator=g),) for n in (5, 1, 3)])
    assert "one value for each element; their mean is asked for" in mean.grade(lambda x: x.clone()).text


def test_a_question_may_say_what_a_wrong_value_says_about_itself():
    def diagnose(failing):
        (x, value), *others = failing
        assert len(x) == 1 and len(others) == 1
        return f"Your rest is {float(value**2 - x):.2g}, not 0." if value.shape == x.shape else ""

    question = Question(
        "root",
        reference=torch.sqrt,
        cases=lambda g: [(4 + torch.rand(n, generator=g),) for n in (3, 1)],
        diagnose=diagnose,
        misconceptions=(Misconception("half", lambda x: x / 2, "You halved."),),
    )
    assert question.grade(lambda x: x / 3 + 1).text.startswith("Your rest is ")
    assert question.grade(lambda x: x / 2).text == "You halved."
    assert "rest" not in question.grade(lambda x: x[:0]).text  # of a shape that is wrong nothing is asked
    whole = Question(
        "whole", reference=lambda x: x > 0, cases=lambda g: [(torch.randn(3, generator=g),)], diagnose=lambda _: "Odd."
    )
    assert "Odd." not in whole.grade(lambda x: (x > 0).int()).text and "Odd." in whole.grade(lambda x: x < 0).text


@pytest.mark.filterwarnings("ignore:Converting a tensor")
@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda x: torch.tensor(math.exp(x)), "there are the functions of torch"),
        (lambda x: x.exp() if x > 0 else x.exp(), "ask for one True or False"),
        (lambda x: (x > 0).mean() * x, "True and False have no mean"),
        (lambda x: 0.5 * (x.exp(), x), "is a tuple or list, several values in one"),
        (lambda x: x.exp() + (x, x), "is a tuple or list, several values in one"),
        (lambda x: torch.from_numpy(np.exp(x.numpy())), "NumPy knows no gradients"),
        (lambda x: x.exp() + torch.ones(len(x) + 1), "Two shapes do not fit together"),
        (lambda x: torch.tensor([x, x]), "`torch.stack` for a list of tensors"),
        (lambda x: x[x], "whole numbers or True and False"),
    ],
)
def test_what_an_error_of_torch_means_is_said_first(answer, words):
    def cases(g):
        return [(torch.randn(n, generator=g),) for n in (3, 4)]

    question = Question("exp", reference=torch.exp, cases=cases, grad_args=(0,))
    text = question.grade(answer).text
    assert words in text.split("With all inputs your code raised")[0] and "Error" in text, text


def test_an_error_on_one_case_alone_shows_its_inputs():
    question = Question("exp", reference=torch.exp, cases=lambda g: [(torch.ones(1),), (torch.ones(2),)])
    text = question.grade(lambda x: torch.tensor([math.exp(x)])).text
    assert (
        "there are the functions of torch" in text and "Case 2 of 2, with argument 1 = [1, 1]: your code raised" in text
    ), text


def test_a_form_that_is_wrong_everywhere_is_told_without_the_inputs():
    verdict = THREE.grade(lambda x: x)
    assert verdict.text == "With all inputs: got a tensor, expected a tuple of 3 values.", verdict
    assert "Case 1 of 2" in THREE.grade(lambda x: three(x) if len(x) == 3 else x).text


def test_values_in_another_order_are_seen_though_one_case_overflows():
    def cases(g):
        return [(torch.rand(n, generator=g),) for n in (3, 4)] + [(torch.tensor([1.0, 900]),)]

    question = Question("two", reference=lambda x: (x, x.logsumexp(0)), cases=cases)
    text = question.grade(lambda x: (x.exp().sum().log(), x)).text
    assert text.startswith("The values are right, but in another order. Case 1 of 3") and "Besides: Case 3" in text, (
        text
    )
