import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from week6.preferences import (
    bayes_accuracy,
    bradley_terry_loss,
    fit_bradley_terry,
    plackett_luce_log_prob,
    preference_probability,
    sample_preferences,
)

rewards_strategy = st.lists(st.floats(-5, 5), min_size=2, max_size=5)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- preference_probability -----------------------------------------------------------------------------------------


@given(st.floats(-20, 20), st.floats(-20, 20))
@settings(max_examples=50)
def test_probability_is_the_ratio_of_exponentials(a, b):
    p = preference_probability(torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64))
    # 1e-12: a few roundings of float64
    assert float(p) == pytest.approx(math.exp(a) / (math.exp(a) + math.exp(b)), rel=1e-12)


def test_probability_takes_numbers_and_is_safe_far_out():
    assert float(preference_probability(1.0, 0.0)) == pytest.approx(1 / (1 + math.exp(-1)), rel=1e-6)
    p = preference_probability(torch.tensor([1e4, -1e4]), torch.tensor([0.0, 0.0]))
    assert p.tolist() == [1.0, 0.0]


def test_probability_depends_on_the_difference_alone():
    a, b = normal(20, seed=1), normal(20, seed=2)
    torch.testing.assert_close(preference_probability(a + 3.0, b + 3.0), preference_probability(a, b))
    torch.testing.assert_close(preference_probability(a, b) + preference_probability(b, a), torch.ones_like(a))


def test_probability_rejects_nan_by_name():
    with pytest.raises(ValueError, match="reward_b"):
        preference_probability(torch.zeros(2), torch.tensor([0.0, float("nan")]))


# --- bradley_terry_loss ---------------------------------------------------------------------------------------------


def loss_by_hand(chosen, rejected, margins):
    total = 0.0
    for w, lose, m in zip(chosen, rejected, margins, strict=True):
        total += math.log(1 + math.exp(-(w - lose - m)))
    return total / len(chosen)


def test_loss_is_the_mean_negative_log_probability():
    w, lose = normal(7, seed=1), normal(7, seed=2)
    m = normal(7, seed=3).abs()
    assert float(bradley_terry_loss(w, lose)) == pytest.approx(loss_by_hand(w, lose, [0.0] * 7), rel=1e-12)
    assert float(bradley_terry_loss(w, lose, 0.7)) == pytest.approx(loss_by_hand(w, lose, [0.7] * 7), rel=1e-12)
    assert float(bradley_terry_loss(w, lose, m)) == pytest.approx(loss_by_hand(w, lose, m), rel=1e-12)


def test_loss_at_equality_is_log_two():
    assert float(bradley_terry_loss(torch.ones(3), torch.ones(3))) == pytest.approx(math.log(2), rel=1e-6)


def test_loss_and_gradient_are_finite_at_a_difference_of_ten_thousand():
    chosen = torch.tensor([1e4, -1e4], requires_grad=True)
    loss = bradley_terry_loss(chosen, torch.zeros(2))
    loss.backward()
    assert loss.item() == pytest.approx(5e3, rel=1e-6)  # (0 + 1e4) / 2
    assert chosen.grad.tolist() == [0.0, -0.5]


def test_loss_does_not_move_when_both_rewards_do():
    w, lose, f = normal(9, seed=1), normal(9, seed=2), normal(9, seed=3)
    torch.testing.assert_close(bradley_terry_loss(w + f, lose + f), bradley_terry_loss(w, lose))


def test_loss_is_a_mean_so_equal_micro_batches_average():
    w, lose = normal(8, seed=1), normal(8, seed=2)
    halves = (bradley_terry_loss(w[:4], lose[:4]) + bradley_terry_loss(w[4:], lose[4:])) / 2
    torch.testing.assert_close(halves, bradley_terry_loss(w, lose))


def test_loss_gradient():
    w, lose, m = (normal(4, seed=s).requires_grad_() for s in range(3))
    assert gradcheck(bradley_terry_loss, (w, lose, m))
    (gradient,) = torch.autograd.grad(bradley_terry_loss(w, lose), w)
    torch.testing.assert_close(gradient, -torch.sigmoid(lose - w).detach() / 4)


def test_loss_rejects_bad_input_by_name():
    with pytest.raises(ValueError, match="rejected.*(3,).*(2,)"):
        bradley_terry_loss(torch.zeros(2), torch.zeros(3))
    with pytest.raises(ValueError, match="rejected"):
        bradley_terry_loss(torch.zeros(2, 1), torch.zeros(2))  # would broadcast to (2, 2)
    with pytest.raises(ValueError, match="chosen"):
        bradley_terry_loss(torch.tensor([float("nan")]), torch.zeros(1))
    with pytest.raises(ValueError, match="chosen"):
        bradley_terry_loss(torch.zeros(0), torch.zeros(0))
    with pytest.raises(ValueError, match="margin"):
        bradley_terry_loss(torch.zeros(2), torch.zeros(2), torch.zeros(3))


# --- plackett_luce_log_prob -----------------------------------------------------------------------------------------


@given(rewards_strategy)
@settings(max_examples=30)
def test_ranking_is_chosen_place_by_place(rewards):
    log_p = 0.0
    for k in range(len(rewards)):
        log_p += rewards[k] - math.log(sum(math.exp(r) for r in rewards[k:]))
    value = plackett_luce_log_prob(torch.tensor(rewards, dtype=torch.float64))
    assert float(value) == pytest.approx(log_p, rel=1e-10, abs=1e-10)


@given(rewards_strategy)
@settings(max_examples=15)
def test_probabilities_of_all_rankings_sum_to_one(rewards):
    rankings = torch.tensor(list(itertools.permutations(rewards)), dtype=torch.float64)
    assert float(plackett_luce_log_prob(rankings).exp().sum()) == pytest.approx(1.0, abs=1e-12)


def test_two_candidates_are_bradley_terry():
    pair = normal(6, 2)
    torch.testing.assert_close(
        plackett_luce_log_prob(pair).exp(), preference_probability(pair[:, 0], pair[:, 1]), rtol=1e-12, atol=0
    )


def test_marginal_of_a_pair_is_bradley_terry():
    """Independence of irrelevant alternatives: summed over the others' places, a before b has probability σ(a − b)."""
    r = normal(4)
    before = sum(
        float(plackett_luce_log_prob(r[list(p)]).exp())
        for p in itertools.permutations(range(4))
        if p.index(2) < p.index(0)
    )
    assert before == pytest.approx(float(torch.sigmoid(r[2] - r[0])), abs=1e-12)


def test_ranking_is_shift_invariant_batched_and_stable():
    r = normal(3, 5, 4)
    torch.testing.assert_close(plackett_luce_log_prob(r + 7.0), plackett_luce_log_prob(r))
    assert plackett_luce_log_prob(r).shape == (3, 5)
    torch.testing.assert_close(plackett_luce_log_prob(r)[1, 2], plackett_luce_log_prob(r[1, 2]))
    assert float(plackett_luce_log_prob(torch.tensor([-1e4, 1e4], dtype=torch.float64))) == pytest.approx(-2e4)
    assert float(plackett_luce_log_prob(torch.tensor([3.0]))) == 0.0


def test_ranking_gradient():
    assert gradcheck(plackett_luce_log_prob, (normal(2, 4).requires_grad_(),))


def test_ranking_rejects_bad_input_by_name():
    for bad in (torch.tensor(1.0), torch.zeros(2, 0), torch.tensor([1.0, float("nan")])):
        with pytest.raises(ValueError, match="rewards"):
            plackett_luce_log_prob(bad)


# --- fit_bradley_terry ----------------------------------------------------------------------------------------------


def score_equation(wins, r, l2=0.0):
    """∂/∂r_i of the log-likelihood, by loops: expected wins of i must equal its actual wins."""
    n = len(wins)
    result = []
    for i in range(n):
        slope = -l2 * float(r[i])
        for j in range(n):
            played = float(wins[i, j] + wins[j, i])
            slope += float(wins[i, j]) - played / (1 + math.exp(float(r[j] - r[i])))
        result.append(slope)
    return torch.tensor(result)


@given(st.lists(st.integers(0, 30), min_size=12, max_size=12))
@settings(max_examples=30)
def test_fit_solves_the_score_equation(counts):
    wins = torch.zeros(4, 4, dtype=torch.float64)
    wins[~torch.eye(4, dtype=torch.bool)] = torch.tensor(counts, dtype=torch.float64)
    for i in range(4):  # a cycle of wins makes the maximum finite
        wins[i, (i + 1) % 4] += 1
    r = fit_bradley_terry(wins)
    assert r.sum().abs() < 1e-9
    # The gradient of a likelihood of at most 400 comparisons: 1e-7 in r is far below any sampling error.
    assert score_equation(wins, r).abs().max() < 1e-7


def test_fit_recovers_rewards_from_their_own_probabilities():
    true = torch.tensor([2.0, -1.0, 0.5, -1.5], dtype=torch.float64)
    wins = 10 * preference_probability(true[:, None], true[None, :])
    wins.fill_diagonal_(0)
    # A likelihood is flat at its maximum: float64 resolves the place to about the root of its rounding, 1e-8.
    torch.testing.assert_close(fit_bradley_terry(wins), true, rtol=0, atol=1e-7)


def test_fit_of_two_players_is_the_log_odds():
    r = fit_bradley_terry(torch.tensor([[0, 30], [10, 0]]))
    assert float(r[0] - r[1]) == pytest.approx(math.log(3), abs=1e-6)  # fp32 result


def test_fit_survives_extreme_counts():
    wins = torch.tensor([[0, 1e6, 0], [1, 0, 1e6], [0, 1, 0]], dtype=torch.float64)
    r = fit_bradley_terry(wins)
    torch.testing.assert_close(
        r, torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64) * math.log(1e6), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize(
    "wins",
    [
        pytest.param([[0, 5], [0, 0]], id="one never loses"),
        pytest.param([[0, 3, 0, 0], [2, 0, 0, 0], [0, 0, 0, 1], [0, 0, 4, 0]], id="two groups never meet"),
        pytest.param([[0, 3, 1, 0], [2, 0, 0, 1], [0, 0, 0, 1], [0, 0, 4, 0]], id="one group never loses to the other"),
        pytest.param([[0, 3, 0], [2, 0, 0], [0, 0, 0]], id="one never plays"),
    ],
)
def test_fit_without_finite_maximum_is_an_error_unless_penalised(wins):
    wins = torch.tensor(wins, dtype=torch.float64)
    with pytest.raises(ValueError, match="wins.*l2"):
        fit_bradley_terry(wins)
    r = fit_bradley_terry(wins, l2=0.1)
    assert torch.isfinite(r).all() and r.sum().abs() < 1e-9
    assert score_equation(wins, r, 0.1).abs().max() < 1e-7


def test_a_long_chain_of_wins_in_both_directions_is_connected():
    n = 9
    wins = torch.zeros(n, n)
    for i in range(n - 1):
        wins[i, i + 1], wins[i + 1, i] = 2, 1
    r = fit_bradley_terry(wins)
    torch.testing.assert_close(r[:-1] - r[1:], torch.full((n - 1,), math.log(2)), rtol=0, atol=1e-5)  # fp32 result


def test_l2_shrinks_towards_zero():
    wins = torch.tensor([[0.0, 9, 4], [1, 0, 7], [2, 2, 0]], dtype=torch.float64)
    sizes = [float(fit_bradley_terry(wins, l2=l2).norm()) for l2 in (0.0, 0.5, 5.0, 500.0)]
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < 0.05
    assert score_equation(wins, fit_bradley_terry(wins, l2=0.5), 0.5).abs().max() < 1e-7


def test_one_strong_player_and_a_strong_prior_meet_at_the_maximum():
    """The first step of Newton's method leads far: it must be judged by the function that is maximised."""
    wins = torch.ones(4, 4, dtype=torch.float64).fill_diagonal_(0)
    wins[0, 1:] = 100
    for table in (wins, wins.T):
        assert score_equation(table, fit_bradley_terry(table, l2=5.0), 5.0).abs().max() < 1e-7


def test_the_fit_is_not_held_up_by_rounding(monkeypatch):
    """Near the maximum of these counts a full step seems to lead down, by the last digit."""
    wins = torch.tensor([[0.0, 10, 23], [9, 0, 22], [7, 2, 0]])
    looks = []
    log_sigmoid = torch.nn.functional.logsigmoid
    monkeypatch.setattr(torch.nn.functional, "logsigmoid", lambda x: looks.append(x) or log_sigmoid(x))
    r = fit_bradley_terry(wins.double(), l2=0.5)
    assert len(looks) < 30 and score_equation(wins.double(), r, 0.5).abs().max() < 1e-7


def test_fit_rejects_bad_input_by_name():
    good = torch.tensor([[0.0, 1], [1, 0]])
    for bad in (
        torch.zeros(3),
        torch.zeros(2, 3),
        good - 1,
        good + 1,
        torch.tensor([[0.0, float("nan")], [1, 0]]),
        torch.tensor([[0.0, float("inf")], [1, 0]]),
    ):
        with pytest.raises(ValueError, match="wins"):
            fit_bradley_terry(bad)
    with pytest.raises(ValueError, match="l2"):
        fit_bradley_terry(good, l2=-1.0)


# --- annotators and the ceiling -------------------------------------------------------------------------------------


def test_annotators_prefer_with_their_probability():
    n = 40_000
    generator = torch.Generator().manual_seed(0)
    for difference in (-1.0, 0.0, 2.0):
        prefers = sample_preferences(torch.full((n,), difference), torch.zeros(n), generator)
        assert prefers.dtype == torch.bool
        p = 1 / (1 + math.exp(-difference))
        assert abs(float(prefers.float().mean()) - p) < 4 * math.sqrt(p * (1 - p) / n)  # 4 σ


def test_annotators_are_reproducible():
    a, b = normal(50, seed=1), normal(50, seed=2)
    first, second = (sample_preferences(a, b, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)


def test_bayes_ceiling_is_the_best_fixed_bet():
    p = torch.tensor([0.9, 0.2, 0.5, 1.0], dtype=torch.float64)
    assert float(bayes_accuracy(p)) == pytest.approx((0.9 + 0.8 + 0.5 + 1.0) / 4, abs=1e-12)
    best = max(
        sum(float(q) if bet else 1 - float(q) for q, bet in zip(p, bets, strict=True)) / 4
        for bets in itertools.product([True, False], repeat=4)
    )
    assert float(bayes_accuracy(p)) == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize("bad", [-0.1, 1.1, float("nan")])
def test_bayes_ceiling_takes_probabilities_only(bad):
    with pytest.raises(ValueError, match="probability"):
        bayes_accuracy(torch.tensor([0.5, bad]))
