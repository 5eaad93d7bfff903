import pytest
import torch
from torch import nn

from week6.optim import descend, generator_for, make_optimizer, minibatch, set_learning_rate


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
