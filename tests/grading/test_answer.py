"""A student's function as the graders see it, with replies in place of the student's process."""

import inspect

import pytest
import torch

from week6.grading.answer import Answer, _error, _mapped, _update
from week6.grading.remote import ProcessEnded


class Replies:
    """In place of the process: notes what it is asked, and says what it is told to."""

    def __init__(self, *replies):
        self.replies, self.asked = list(replies), []

    def ask(self, *what):
        self.asked.append(what)
        return self.replies.pop(0)


def answer(*replies, **about):
    return Answer(Replies(*replies), about)


def test_arguments_are_told_by_what_they_are_and_the_seed_follows_the_random_numbers():
    """The same numbers in a notebook that is run again, others in each call."""
    one, leaf = torch.ones(2), torch.ones(2, requires_grad=True)
    given = answer(*[{"value": 3}] * 3)
    torch.manual_seed(5)
    assert [given(one, 2, mean="token") for _ in range(2)] == [3, 3]
    torch.manual_seed(5)
    given(leaf, 2)
    (_, told, seed, named), (_, _, second, _), (_, of_leaf, again, _) = given.inmate.asked
    assert [kind for kind, _ in told] == ["tensor", "plain"] and [kind for kind, _ in of_leaf] == ["leaf", "plain"]
    assert torch.equal(told[0][1], one) and told[0][1] is not one and told[1][1] == 2 and named == {"mean": "token"}
    assert not of_leaf[0][1].requires_grad and seed == again != second


def test_gradients_are_asked_for_where_the_value_was_made():
    """One of two results is used: of the other there is no gradient, and none of zeros."""
    a, b = torch.ones(2, requires_grad=True), torch.ones(3, dtype=torch.float64, requires_grad=True)
    made = [torch.ones(()).requires_grad_(), torch.full((2,), 4.0).requires_grad_(), torch.full((1,), 5.0)]
    given = answer({"value": made, "call": 7}, {"value": [torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0, 5.0])]})
    first, second, third = given(a, "x", b)
    assert first.requires_grad and second.requires_grad and not third.requires_grad and third.tolist() == [5]
    (second * torch.tensor([10.0, 20.0])).sum().backward()
    kind, call, (of_first, of_second) = given.inmate.asked[1]
    assert (kind, call, of_first, of_second.tolist()) == ("vjp", 7, None, [10, 20])
    assert a.grad.tolist() == [1, 2] and b.grad.tolist() == [3, 4, 5] and b.grad.dtype == torch.float64


@pytest.mark.parametrize("found", [None, 3, [], [torch.ones(3)], [torch.ones(2)] * 2, [[1.0, 2.0]], (torch.ones(2),)])
def test_gradients_of_another_form_end_it(found):
    value = answer({"value": torch.ones(()).requires_grad_(), "call": 0}, {"value": found})(
        torch.ones(2, requires_grad=True)
    )
    with pytest.raises(ProcessEnded, match="gradients of another (form|number)"):
        value.backward()


def test_an_error_of_the_backward_pass_is_raised_here_and_no_gradient_may_be_one():
    leaf = torch.ones(2, requires_grad=True)
    reply = {"value": torch.ones(()).requires_grad_(), "call": 0}
    with pytest.raises(ZeroDivisionError, match="by zero, at line 3"):
        answer(reply, {"error": ["ZeroDivisionError", "by zero.", "line 3"]})(leaf).backward()
    answer(reply, {"value": [None]})(leaf).backward()
    assert leaf.grad is None


def test_without_a_leaf_nothing_has_a_gradient():
    value = answer({"value": {"a": (torch.ones(1).requires_grad_(), [2])}})(torch.ones(1))
    assert value == {"a": (torch.ones(1), [2])} and not value["a"][0].requires_grad


def test_what_was_changed_in_place_is_changed_here():
    tensor, items, table, number = torch.zeros(2), [1], {"a": 1}, 3
    changed = [(0, torch.ones(2)), (1, [2, 3]), (2, {"b": 2}), (3, 4)]
    answer({"value": None, "changed": changed})(tensor, items, table, number)
    assert tensor.tolist() == [1, 1] and items == [2, 3] and table == {"b": 2} and number == 3


def test_what_is_printed_there_is_printed_and_errors_are_raised(capsys):
    with pytest.raises(ValueError, match="no, at line 2"):
        answer({"printed": "seen", "error": ["ValueError", "no", "line 2"]})()
    assert capsys.readouterr().out == "seen"


def test_an_iterator_goes_on_until_it_is_done():
    given = answer({"iterator": 4}, {"value": torch.ones(1).requires_grad_()}, {"value": 2}, {"done": True, "value": 9})
    first, second = given()
    assert given.inmate.asked[1:] == [("next", 4)] * 3 and second == 2 and not first.requires_grad


def test_models_and_optimizers_are_as_they_are_there():
    """Weights that fit, gradients that fit or none; the steps of an optimizer, which learning rates follow from."""
    model = torch.nn.Linear(2, 1)
    model.weight.grad, model.bias.grad = torch.full((1, 2), 7.0), torch.full((1,), 7.0)
    bias = model.bias.detach().clone()
    weights = {"weight": torch.tensor([[1.0, 2.0]]), "bias": torch.ones(3), "other": torch.ones(1)}
    gradients = {"weight": torch.tensor([[3.0, 4.0]]).double(), "bias": torch.ones(2)}
    optimizer = torch.optim.Adam(model.parameters())
    states = [("0", weights, gradients), ("1", {}, {"0": 5}), ("2", weights, gradients)]
    _update({"0": model, "1": optimizer}, states)
    assert model.weight.tolist() == [[1, 2]] and torch.equal(model.bias, bias)
    assert model.weight.grad.tolist() == [[3, 4]] and model.weight.grad.dtype == torch.float32
    assert model.bias.grad is None and optimizer.state["0"]["step"] == 5
    _update({"0": model}, [("0", {}, {})])
    assert model.weight.grad is None and model.weight.tolist() == [[1, 2]]


def test_the_signature_is_that_of_the_students_function():
    positional, named = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    given = answer(parameters=[("a", positional, False), ("b", named, True)])
    assert str(inspect.signature(given)) == "(a, *, b=None)"
    answer(parameters=[("a", 99, False)])  # what no function has is left out
    texts = {answer(text=text).__code__.co_consts for text in ("x", "y", "x")}
    assert len(texts) == 2  # of which fresh cases are drawn


@pytest.mark.parametrize(
    ("told", "kind", "text"),
    [
        (("ValueError", "no.\nmore", ""), "ValueError", "no"),
        (("ValueError", "no.", "line 3"), "ValueError", "no, at line 3"),
        (("KeyError", "'a'", ""), "KeyError", "'a'"),
        (("HostileError", "x", ""), "HostileError", "x"),
        (("a b-c", "x", ""), "abc", "x"),
        (("-", "x", ""), "Error", "x"),
        (("print", "x", ""), "print", "x"),  # a name of Python, but of no error
        (("SystemExit", "x", ""), "SystemExit", "x"),
        (("UnicodeDecodeError", "x", ""), "UnicodeDecodeError", "x"),
        (("NotImplementedError", "", "line 3"), "NotImplementedError", ""),
        (("NotImplementedError", "aten", ""), "NotImplementedError", "aten"),
        (("E" * 99, "t" * 999, ""), "E" * 60, "t" * 400),
    ],
)
def test_errors_are_like_the_students(told, kind, text):
    error = _error(*told)
    assert (type(error).__name__, str(error)) == (kind, text) and isinstance(error, Exception)


def test_structure_stays_and_tensors_are_changed_in_their_order():
    seen = []
    value = {"a": [torch.tensor(1), (torch.tensor(2), 5)], "b": torch.tensor(3)}
    assert _mapped(value, lambda t: seen.append(int(t)) or 10 * int(t)) == {"a": [10, (20, 5)], "b": 30}
    assert seen == [1, 2, 3]
