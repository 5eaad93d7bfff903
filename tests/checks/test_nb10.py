"""The losses of notebook 10 that the course defines in its graders: held to what their papers say of them."""

import math

import pytest
import torch

from week6.checks import nb10
from week6.preferences import preference_probability

HALF = math.log(0.5)


def test_ipo_keeps_the_reference_on_a_circle_and_prefers_the_answer_that_wins():
    circle = torch.tensor([[0.5, 0.9, 0.1], [0.1, 0.5, 0.9], [0.9, 0.1, 0.5]], dtype=torch.float64)
    even = torch.full((3,), -math.log(3), dtype=torch.float64)
    torch.testing.assert_close(nb10.ipo_optimum(even, circle, 0.1), even)
    reward = torch.tensor([0.0, 1.0], dtype=torch.float64)
    preference = preference_probability(reward[:, None], reward[None, :])
    tilted = nb10.ipo_optimum(torch.full((2,), HALF, dtype=torch.float64), preference, 0.25)
    share = torch.sigmoid(torch.tensor(1.0)).item()  # the better one wins this often against the other
    assert tilted[1] - tilted[0] == pytest.approx((share - 0.5) / 0.25)  # (4): half the opponents are itself


def test_the_least_ipo_loss_of_unequal_opponents_is_found_where_the_formula_says():
    g = torch.Generator().manual_seed(0)
    log_ref = torch.randn(5, generator=g, dtype=torch.float64).log_softmax(-1)
    reward = torch.randn(5, generator=g, dtype=torch.float64)
    preference = preference_probability(reward[:, None], reward[None, :])
    theta = nb10.ipo_optimum(log_ref, preference, 0.3).requires_grad_()
    h = (theta - log_ref)[:, None] - (theta - log_ref)[None, :]
    pairs = log_ref.exp()[:, None] * log_ref.exp()[None, :] * preference
    (gradient,) = torch.autograd.grad((pairs * (h - 1 / 0.6) ** 2).sum(), theta)
    assert gradient.abs().max() < 1e-12


def test_kto_is_half_its_weight_at_the_reference_point_and_pushes_both_ways():
    log_ratio = torch.tensor([0.7, 0.7], dtype=torch.float64, requires_grad=True)
    loss = nb10.kto_loss(log_ratio, torch.tensor([True, False]), 0.7, 0.4, 1.0, 1.5)
    torch.testing.assert_close(loss, torch.tensor([0.5, 0.75], dtype=torch.float64))
    (gradient,) = torch.autograd.grad(loss.sum(), log_ratio)
    torch.testing.assert_close(gradient, torch.tensor([-0.1, 0.15], dtype=torch.float64))  # ∓ λ β σ(0) σ(0)


def test_simpo_compares_means_and_is_log_2_at_its_margin():
    chosen, rejected = torch.tensor([-2.0, -4.0]).double(), torch.tensor([-6.0, -8.0]).double()
    lengths = torch.tensor([2.0, 4.0]).double(), torch.tensor([3.0, 4.0]).double()  # means −1, −1 and −2, −2
    at_margin = nb10.simpo_loss(chosen, rejected, *lengths, beta=1.5, gamma=1.5)
    torch.testing.assert_close(at_margin, torch.full((2,), math.log(2)).double())
    assert torch.all(nb10.simpo_loss(chosen, rejected, *lengths, beta=1.5, gamma=2.0) > at_margin)


def test_orpo_is_imitation_plus_the_odds():
    even = torch.tensor([HALF], dtype=torch.float64)  # odds of 1
    unlikely = torch.tensor([math.log(0.2)], dtype=torch.float64)  # odds of one fourth
    torch.testing.assert_close(nb10.orpo_loss(even, even, 1.0), -even + math.log(2))
    expected = -even + 0.5 * math.log(1 + 1 / 4)  # −log σ(log 4)
    torch.testing.assert_close(nb10.orpo_loss(even, unlikely, 0.5), expected)
    torch.testing.assert_close(nb10.orpo_loss(unlikely, even, 0.0), -unlikely)
