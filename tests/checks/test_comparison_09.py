"""Exercise 9.6: the reference against variances that are known, and what its cases hold."""

import math

import pytest
import torch

from week6.checks import nb09
from week6.checks.comparison_09 import difference_with_interval


def test_by_hand():
    """Two problems, two runs: pass rates 0 and 1, ½ and 1 against ½ and ½, ½ and ½."""
    first = [torch.tensor([[0.0, 0.0], [1.0, 1.0]]), torch.tensor([[1.0, 0.0], [1.0, 1.0]])]
    second = [torch.tensor([[1.0, 0.0], [0.0, 1.0]])] * 2
    d, low, high = difference_with_interval(first, second, 2.0)
    gaps, runs = (-0.25, 0.5), (0.5, 0.75)  # means of the first: ¼ and 1 of the problems, ½ and ¾ of the runs
    s = math.sqrt(((gaps[1] - gaps[0]) ** 2 / 2) / 2 + ((runs[1] - runs[0]) ** 2 / 2) / 2)
    assert d == pytest.approx(0.125) and (low, high) == pytest.approx((d - 2 * s, d + 2 * s))


def test_among_equals_the_interval_holds_zero_as_often_as_it_says():
    """Problems, seeds and answers are drawn anew in each of 300 comparisons, of many runs: so 1.96 errors are right."""
    g = torch.Generator().manual_seed(0)
    held = 0
    for _ in range(300):
        ease = 1.5 * torch.randn(30, generator=g)
        methods = []
        for _ in range(2):
            p = torch.sigmoid(ease + 0.3 * torch.randn(12, 1, generator=g))  # shape (S, M)
            methods.append(list(torch.bernoulli(p.unsqueeze(-1).expand(-1, -1, 4), generator=g)))
        _, low, high = difference_with_interval(*methods, 1.96)
        held += low <= 0 <= high
    assert 0.93 < held / 300 <= 1  # the noise of the answers counts twice: the interval is a little wide


def test_the_cases_tell_pairs_of_problems_from_heaps():
    for first, second, z in nb09.q6.cases(torch.Generator().manual_seed(1)):
        _, low, high = difference_with_interval(first, second, z)
        assert z > 1 and high - low > 0.02
        assert len({len(run) for run in (*first, *second)}) == 1 and min(len(first), len(second)) > 1
