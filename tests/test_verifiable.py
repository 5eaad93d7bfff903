"""Pass rates: against all subsets, and against the optimum of an enumerated world."""

import itertools
import math

import pytest
import torch

from week6 import kl_divergence, optimal_policy
from week6.verifiable import best_success, coin_kl, pass_at_k


@pytest.mark.parametrize("n", [1, 4, 6])
def test_pass_at_k_is_the_share_of_all_subsets(n):
    for k in range(1, n + 1):
        for c in range(n + 1):
            answers = [True] * c + [False] * (n - c)
            subsets = list(itertools.combinations(answers, k))
            share = sum(map(any, subsets)) / len(subsets)
            assert pass_at_k(torch.tensor([c]), n, k).item() == pytest.approx(share, abs=1e-12)


def test_pass_at_k_is_unbiased_and_the_plain_share_is_not():
    n, k, p = 6, 3, 0.3
    counts = torch.arange(n + 1)
    chance = torch.tensor([math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)], dtype=torch.float64)
    truth = 1 - (1 - p) ** k
    assert (chance * pass_at_k(counts, n, k)).sum().item() == pytest.approx(truth, abs=1e-12)
    assert (chance * (1 - (1 - counts / n) ** k)).sum().item() < truth - 0.03


def test_pass_at_one_is_the_share_and_large_numbers_stay_finite():
    assert pass_at_k(torch.tensor([3, 0, 8]), 8, 1).tolist() == [0.375, 0.0, 1.0]
    value = pass_at_k(torch.tensor([1, 2]), 10_000, 5_000)
    assert value.tolist() == pytest.approx([0.5, 1 - 5000 * 4999 / (10_000 * 9_999)], abs=1e-9)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [((5, 2), "correct"), ((3, 4), "k"), ((4, 0), "k"), ((0, 1), "n")],
)
def test_pass_at_k_rejects_bad_input_by_name(arguments, name):
    with pytest.raises(ValueError, match=f"^{name}"):
        pass_at_k(torch.tensor([6, -1] if name == "correct" else [0]), *arguments)


@pytest.mark.parametrize("beta", [0.1, 0.5, 2.0])
def test_the_best_success_is_that_of_the_optimum(beta):
    log_ref = torch.randn(6, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64).log_softmax(-1)
    reward = (torch.rand(6, 40, generator=torch.Generator().manual_seed(1)) < 0.3).double()
    log_star, _ = optimal_policy(log_ref, reward, beta)
    p, kl = best_success((log_ref.exp() * reward).sum(-1), beta)
    torch.testing.assert_close(p, (log_star.exp() * reward).sum(-1))
    torch.testing.assert_close(kl, kl_divergence(log_star, log_ref))


def test_certain_prompts_stay_where_they_are():
    p, kl = best_success(torch.tensor([0.0, 1.0, 0.5]), 0.01)
    assert p.tolist() == pytest.approx([0.0, 1.0, 1.0]) and kl.tolist() == pytest.approx([0.0, 0.0, math.log(2)])
    assert coin_kl(torch.tensor([0.5]), torch.tensor([0.0])).item() == math.inf
    assert coin_kl(torch.tensor([0.3, 0.9]), torch.tensor([0.3, 0.9])).abs().max() < 1e-12


@pytest.mark.parametrize(("p", "beta", "name"), [(1.5, 1.0, "p"), (-0.1, 1.0, "p"), (0.5, 0.0, "beta")])
def test_best_success_rejects_bad_input_by_name(p, beta, name):
    with pytest.raises(ValueError, match=f"^{name}:"):
        best_success(torch.tensor([p]), beta)
