import math
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from tests.methods import answers_of, base, log_probs_of, sgd
from week6.machine.compute import using
from week6.machine.optim import descend, generator_for, gradient_step, make_optimizer, minibatch, set_learning_rate


def linear(seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(3, 1)


def test_optimizer_has_no_weight_decay_and_skips_frozen_parameters():
    model = linear()
    model.bias.requires_grad_(False)
    optimizer = make_optimizer(model, 0.1, eps=1e-5)
    (group,) = optimizer.param_groups
    assert group["weight_decay"] == 0.0 and group["eps"] == 1e-5 and group["lr"] == 0.1
    assert [p is model.weight for p in group["params"]] == [True]


def test_first_step_is_adam_by_hand():
    """Bias-corrected, the first step is lr · g / (|g| + eps)."""
    model = linear()
    before = model.weight.detach().clone()
    gradient = torch.tensor([[0.5, -0.25, 1e-5]])
    descend((model.weight * gradient).sum(), model, make_optimizer(model, 0.01, eps=1e-5), max_norm=10.0)
    expected = before - 0.01 * gradient / (gradient.abs() + 1e-5)
    torch.testing.assert_close(model.weight.detach(), expected, rtol=0, atol=1e-6)  # fp32


def test_second_step_is_adam_by_hand():
    """Of averages m and v that decay by 0.9 and 0.98; the second gradient has another size and sign."""
    model, optimizer = linear(), None
    first, second = torch.tensor([[0.5, -0.25, 0.1]]), torch.tensor([[-1.0, 0.5, 0.4]])
    optimizer = make_optimizer(model, 0.01)
    for gradient in (first, second):
        before = model.weight.detach().clone()
        descend((model.weight * gradient).sum(), model, optimizer, max_norm=10.0)
    m = (0.9 * 0.1 * first + 0.1 * second) / (1 - 0.9**2)
    v = (0.98 * 0.02 * first**2 + 0.02 * second**2) / (1 - 0.98**2)
    torch.testing.assert_close(before - model.weight.detach(), 0.01 * m / v.sqrt(), rtol=0, atol=1e-6)  # fp32


def test_what_holds_where_nothing_is_said():
    """AdamW's own eps; gradients clipped to a norm of 1; ten steps of warm-up."""
    model, plain = linear(), torch.optim.AdamW([torch.zeros(1)])
    optimizer = make_optimizer(model, 0.1)
    assert optimizer.defaults["eps"] == plain.defaults["eps"]
    set_learning_rate(optimizer, 2.0, 0, 100)
    assert optimizer.param_groups[0]["lr"] == 2.0 / 10
    for step_down in (
        lambda model, sgd: descend(9 * sum(p.sum() for p in model.parameters()), model, sgd),
        lambda model, sgd: gradient_step(lambda x: (squares(model, x)[0], {}), Numbered(torch.arange(5)), model, sgd),
    ):
        before = torch.cat([p.detach().flatten() for p in model.parameters()])
        assert step_down(model, torch.optim.SGD(model.parameters(), lr=1.0)) != 1
        after = torch.cat([p.detach().flatten() for p in model.parameters()])
        assert (before - after).norm().item() == pytest.approx(1, rel=1e-5)  # each is steeper than that


def test_descend_reports_the_norm_before_clipping_and_clips():
    model = linear()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    before = model.weight.detach().clone()
    gradient = torch.tensor([[3.0, 0.0, 4.0]])
    assert descend((model.weight * gradient).sum(), model, optimizer, max_norm=1.0) == pytest.approx(5.0, rel=1e-5)
    torch.testing.assert_close(before - model.weight.detach(), gradient / 5, rtol=1e-4, atol=1e-6)


def test_descend_leaves_small_gradients_and_does_not_accumulate():
    model = linear()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for _ in range(2):
        before = model.weight.detach().clone()
        norm = descend(0.3 * model.weight.sum(), model, optimizer, max_norm=1.0)
        assert norm == pytest.approx(0.3 * 3**0.5, rel=1e-5)
        torch.testing.assert_close(before - model.weight.detach(), torch.full((1, 3), 0.3), rtol=0, atol=1e-6)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_changes_nothing(value):
    model = linear()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    with pytest.raises(ValueError, match="loss"):
        descend(model.weight.sum() * value, model, make_optimizer(model, 0.1))
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())


# --- a step over rows in parts ---------------------------------------------------------------------------------------

X = torch.tensor([[1.0, 0.0, 2.0], [0.5, 1.0, 0.0], [0.0, 3.0, 1.0], [2.0, 2.0, 2.0], [1.0, -1.0, 0.0]])
UNITS = torch.tensor([1, 4, 2, 3, 5])
"""Of each row: its mean error counts as often."""


@dataclass
class Numbered:
    """Rows of X by their numbers."""

    numbers: torch.Tensor
    columns = (1, 0)

    def __len__(self):
        return len(self.numbers)

    def rows(self, index):
        return Numbered(self.numbers[index])

    @property
    def weights(self):
        return UNITS[self.numbers]


def squares(model, batch):
    """Mean over units of the squared output, and stats over the same."""
    out, units = model(X[batch.numbers]).squeeze(-1), UNITS[batch.numbers]
    stats = {"mean": ((out * units).sum() / units.sum()).item(), "largest": out.abs().max().item()}
    return (out.square() * units).sum() / units.sum(), stats


def step(work=squares, max_norm=1e9, rows=(3, 0, 2, 4), **changes):
    """The gradient that a step goes down, with what it returns."""
    model, batch = linear(), Numbered(torch.tensor(rows))
    before = model.weight.detach().clone()
    sgd = torch.optim.SGD(model.parameters(), lr=1.0)
    with using(**changes):
        stats = gradient_step(lambda part: work(model, part), batch, model, sgd, max_norm, maxima=("largest",))
    return before - model.weight.detach(), stats.pop("loss"), stats.pop("grad_norm"), stats


@pytest.mark.parametrize("most_rows", [1, 2, 3, 4])
def test_a_step_in_parts_is_that_of_the_whole(most_rows):
    model = linear()
    loss, stats = squares(model, Numbered(torch.tensor([3, 0, 2, 4])))
    loss.backward()
    gradient, value, norm, found = step(most_rows=most_rows)
    torch.testing.assert_close(gradient, model.weight.grad, rtol=1e-6, atol=1e-6)  # the order of sums in fp32
    assert value == pytest.approx(loss.item(), rel=1e-6)
    expected = torch.cat([p.grad.flatten() for p in model.parameters()]).norm().item()
    assert norm == pytest.approx(expected, rel=1e-6) and found == pytest.approx(stats, rel=1e-6)


def test_the_sum_is_clipped_and_not_the_parts():
    gradient, _, norm, _ = step()
    clipped, _, same, _ = step(max_norm=0.5, most_rows=1)
    assert same == pytest.approx(norm, rel=1e-6)
    torch.testing.assert_close(clipped, gradient * 0.5 / norm, rtol=1e-5, atol=1e-6)


def test_the_gradient_of_an_attempt_that_ran_out_of_memory_is_forgotten():
    """The first part of the first attempt is done when the second does not fit."""
    calls = []

    def crowded(model, batch):
        calls.append(len(batch))
        if len(calls) == 2:
            raise torch.OutOfMemoryError
        return squares(model, batch)

    expected = step()
    found = step(crowded, most_rows=2)
    assert calls == [2, 2, 1, 1, 1, 1]
    torch.testing.assert_close(found[0], expected[0], rtol=1e-6, atol=1e-6)
    assert found[1:3] == pytest.approx(expected[1:3], rel=1e-6) and found[3] == pytest.approx(expected[3], rel=1e-6)


def test_a_loss_of_a_later_part_that_is_not_finite_changes_nothing():
    def bad(batch):
        loss, stats = squares(model, batch)
        return loss * (float("nan") if 4 in batch.numbers else 1.0), stats

    model = linear()
    before = model.weight.detach().clone()
    with using(most_rows=1), pytest.raises(ValueError, match="loss: got nan"):
        gradient_step(bad, Numbered(torch.arange(5)), model, torch.optim.SGD(model.parameters(), lr=1.0))
    assert torch.equal(model.weight, before)


# --- fp16 ------------------------------------------------------------------------------------------------------------


ROUNDING = 2**-11
"""Relative rounding error of one operation in fp16."""


class TestScale:
    """fp16 has no numbers below 6e-8 or above 65504: losses are multiplied, gradients divided."""

    def step(self, scale=None, dtype=torch.float16):
        model, data = base(), answers_of()
        with using(dtype=dtype) as here:
            if scale is not None:
                here.restart_scaler({"scale": scale})
            stats = gradient_step(lambda part: (-log_probs_of(model, part).mean(), {}), data, model, sgd(model))
            weights = torch.cat([p.detach().flatten() for p in model.parameters()])
            return weights, stats["grad_norm"], here.scaler.get_scale()

    def test_a_step_is_that_of_fp32(self):
        weights, norm, _ = self.step(dtype=torch.float32)
        found, found_norm, scale = self.step()
        assert scale == 2**16
        assert found_norm == pytest.approx(norm, rel=5 * ROUNDING)
        assert (found - weights).abs().max() < 5 * ROUNDING

    def test_a_step_that_overflows_is_repeated_with_half_the_scale_and_not_lost(self):
        """With 2^40 every gradient is infinite: GradScaler alone would drop this step and the next twenty."""
        weights, norm, _ = self.step(dtype=torch.float32)
        found, found_norm, scale = self.step(2.0**40)
        assert 1 < scale < 2**30 and math.log2(scale).is_integer()  # halved until it fitted
        assert found_norm == pytest.approx(norm, rel=5 * ROUNDING)
        assert (found - weights).abs().max() < 5 * ROUNDING

    def test_small_gradients_are_not_lost(self):
        """A loss of 1e-6 of its size: without a scale its gradients fall below the smallest fp16 number."""
        model, data = base(), answers_of()

        def gradients(dtype, scale):
            with using(dtype=dtype) as here:
                here.restart_scaler({"scale": scale})
                model.zero_grad()
                still = torch.optim.SGD(model.parameters(), lr=0.0)
                gradient_step(lambda part: (-1e-6 * log_probs_of(model, part).mean(), {}), data, model, still)
                return torch.cat([p.grad.flatten() for p in model.parameters()])

        exact = gradients(torch.float32, 1.0)
        lost = (gradients(torch.float16, 1.0) - exact).norm() / exact.norm()
        kept = (gradients(torch.float16, 2.0**16) - exact).norm() / exact.norm()
        assert kept < 5 * ROUNDING < lost

    def test_a_gradient_that_is_never_finite_is_an_error_and_changes_nothing(self):
        model = nn.Linear(2, 1)
        before = model.weight.detach().clone()
        for dtype in (torch.float32, torch.float16):
            with using(dtype=dtype), pytest.raises(ValueError, match="gradient: got norm nan"):
                # √0 has an infinite slope
                descend((model.weight - model.weight.detach()).abs().sum().sqrt(), model, sgd(model))
            assert torch.equal(model.weight, before)


# --- rates and order --------------------------------------------------------------------------------------------------


def test_learning_rate_rises_then_falls():
    optimizer = make_optimizer(linear(), 1.0)

    def rate(step):
        set_learning_rate(optimizer, 2.0, step, 100, warmup=10)
        return optimizer.param_groups[0]["lr"]

    assert rate(0) == pytest.approx(2.0 / 10)
    assert rate(4) == pytest.approx(2.0 * 5 / 10 * (1 - 4 / 100))
    assert rate(50) == pytest.approx(2.0 * 0.5)
    assert rate(99) == pytest.approx(2.0 * 0.01)
    assert rate(100) == 0


@pytest.mark.parametrize("n, batch_size", [(10, 3), (7, 7), (3, 8), (1, 2), (12, 4)])
def test_every_epoch_is_a_permutation(n, batch_size):
    stream = torch.cat([minibatch(n, batch_size, step, seed=5) for step in range(4 * n)])
    assert len(stream) == 4 * n * batch_size
    for epoch in range(len(stream) // n):
        assert sorted(stream[epoch * n : (epoch + 1) * n].tolist()) == list(range(n))


def test_batches_follow_from_seed_and_step_alone():
    state = torch.get_rng_state()
    a = [minibatch(20, 6, step, seed=1) for step in range(10)]
    b = [minibatch(20, 6, step, seed=1) for step in reversed(range(10))][::-1]
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert not torch.equal(torch.cat(a), torch.cat([minibatch(20, 6, step, seed=2) for step in range(10)]))
    first, second = torch.cat(a)[:20], torch.cat(a)[20:40]
    assert not torch.equal(first, second)  # another order in every epoch
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("n, batch_size", [(0, 1), (1, 0)])
def test_minibatch_rejects_nothing(n, batch_size):
    with pytest.raises(ValueError, match="batch_size"):
        minibatch(n, batch_size, 0, 0)


def test_generators_differ_between_steps_and_seeds():
    draws = {
        (seed, step): tuple(torch.rand(3, generator=generator_for(seed, step)).tolist())
        for seed in range(3)
        for step in range(3)
    }
    assert len(set(draws.values())) == 9
    assert draws[1, 2] == tuple(torch.rand(3, generator=generator_for(1, 2)).tolist())
