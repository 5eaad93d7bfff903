"""Advantages without a critic, against gradients that are computed by listing every group of answers."""

import itertools

import pytest
import torch

from week6.group import grpo_advantages, rloo_advantages

REWARDS = torch.tensor([0.0, 1.0, 3.0, -1.0], dtype=torch.float64)


def expected_gradient(advantages, k, logits):
    """E[1/K Σ_i Â_i ∇log π(y_i)] over all groups of k answers, and ∇E[r]."""
    log_p = logits.log_softmax(-1)
    groups = torch.tensor(list(itertools.product(range(len(logits)), repeat=k)))
    weight = log_p.detach()[groups].sum(1).exp()
    surrogate = (weight * (advantages(REWARDS[groups]) * log_p[groups]).mean(1)).sum()
    (estimate,) = torch.autograd.grad(surrogate, logits, retain_graph=True)
    (exact,) = torch.autograd.grad((log_p.exp() * REWARDS).sum(), logits)
    return estimate, exact


@pytest.mark.parametrize("k", [2, 3, 4])
def test_leave_one_out_is_unbiased_and_the_normalised_one_is_not(k):
    logits = torch.tensor([0.5, -0.3, -1.0, 0.2], dtype=torch.float64, requires_grad=True)
    estimate, exact = expected_gradient(rloo_advantages, k, logits)
    torch.testing.assert_close(estimate, exact, rtol=1e-10, atol=1e-12)
    biased, _ = expected_gradient(grpo_advantages, k, logits)
    assert torch.cosine_similarity(biased, exact, dim=0) < 0.9999
    centred, _ = expected_gradient(lambda r: r - r.mean(1, keepdim=True), k, logits)
    torch.testing.assert_close(centred, exact * (k - 1) / k, rtol=1e-10, atol=1e-12)


def test_by_hand():
    rewards = torch.tensor([[1.0, 2.0, 6.0], [5.0, 5.0, 5.0]])
    torch.testing.assert_close(rloo_advantages(rewards), torch.tensor([[-3.0, -1.5, 4.5], [0.0, 0.0, 0.0]]))
    normalised = grpo_advantages(rewards, eps=0.0)[0]
    torch.testing.assert_close(normalised, torch.tensor([-2.0, -1.0, 3.0]) / 7**0.5)
    assert grpo_advantages(rewards)[1].tolist() == [0.0, 0.0, 0.0]
    torch.testing.assert_close(grpo_advantages(10 * rewards, eps=0.0)[0], normalised)  # the scale of the reward is lost


@pytest.mark.parametrize("advantages", [rloo_advantages, grpo_advantages])
@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        (torch.zeros(3), "rewards: got"),
        (torch.zeros(3, 1), "got K = 1 answers"),
        (torch.tensor([[0.0, float("nan")]]), "rewards"),
    ],
)
def test_bad_rewards(advantages, rewards, message):
    with pytest.raises(ValueError, match=message):
        advantages(rewards)
