import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from week6.objective import (
    best_of_n_kl_bound,
    best_of_n_policy,
    kl_divergence,
    kl_estimators,
    optimal_policy,
    rlhf_objective,
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def distribution(*shape: int, seed: int = 0) -> torch.Tensor:
    return normal(*shape, seed=seed).log_softmax(-1)


def entropy_free_kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


# --- KL -------------------------------------------------------------------------------------------------------------


def test_kl_by_loops_and_its_direction():
    log_p, log_q = distribution(6, seed=1), distribution(6, seed=2)
    p, q = log_p.exp().tolist(), log_q.exp().tolist()
    forward, backward = float(kl_divergence(log_p, log_q)), float(kl_divergence(log_q, log_p))
    assert forward == pytest.approx(entropy_free_kl(p, q), abs=1e-12)
    assert backward == pytest.approx(entropy_free_kl(q, p), abs=1e-12)
    assert abs(forward - backward) > 0.01  # the example tells the directions apart
    assert float(kl_divergence(log_p, log_p)) == 0.0


def test_kl_along_an_axis():
    log_p, log_q = distribution(3, 4, seed=1), distribution(3, 4, seed=2)
    rows = torch.stack([kl_divergence(log_p[i], log_q[i]) for i in range(3)])
    torch.testing.assert_close(kl_divergence(log_p, log_q), rows)
    torch.testing.assert_close(kl_divergence(log_p.T, log_q.T, dim=0), rows)


def test_kl_where_a_probability_is_zero():
    half = torch.tensor([0.5, 0.5, 0.0]).log()
    other = torch.tensor([0.25, 0.25, 0.5]).log()
    assert float(kl_divergence(half, other)) == pytest.approx(math.log(2), abs=1e-6)  # fp32
    assert float(kl_divergence(other, half)) == math.inf
    assert float(kl_divergence(half, half)) == 0.0
    log_p = half.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(kl_divergence(log_p, other), log_p)
    # d/dlog_p of Σ p (log p − log q) is p (log p − log q + 1), and 0 where p is 0: no NaN from 0 · ∞
    torch.testing.assert_close(gradient, torch.tensor([0.5, 0.5, 0.0]) * (math.log(2) + 1))


def test_kl_rejects_bad_input_by_name():
    with pytest.raises(ValueError, match="log_q.*(3,).*(2,)"):
        kl_divergence(torch.zeros(2), torch.zeros(3))
    with pytest.raises(ValueError, match="log_p"):
        kl_divergence(torch.tensor([float("nan")]), torch.zeros(1))


# --- estimators -----------------------------------------------------------------------------------------------------


@given(st.floats(-4, 4), st.floats(-4, 4))
@settings(max_examples=30)
def test_estimators_by_their_formulas(log_p, log_q):
    k1, k2, k3 = kl_estimators(torch.tensor(log_p, dtype=torch.float64), torch.tensor(log_q, dtype=torch.float64))
    d = log_p - log_q
    assert float(k1) == pytest.approx(d, abs=1e-12)
    assert float(k2) == pytest.approx(d * d / 2, abs=1e-12)
    assert float(k3) == pytest.approx(math.exp(-d) - 1 + d, rel=1e-9, abs=1e-12)
    assert k3 >= 0 and k2 >= 0


def test_k1_is_never_clamped():
    k1, _, _ = kl_estimators(torch.tensor([-3.0, 50.0]), torch.tensor([0.0, 0.0]))
    assert k1.tolist() == [-3.0, 50.0]


def test_k3_is_accurate_where_the_policies_nearly_agree():
    _, _, k3 = kl_estimators(torch.tensor([1e-3]), torch.tensor([0.0]))
    assert float(k3) == pytest.approx(5e-7, rel=0.15)  # d²/2; fp32 loses digits of expm1(−d) + d, not all of them


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_expectations_under_the_policy(seed):
    """By enumeration: E[k1] = E[k3] = KL(π ‖ π_ref), and E_old[ρ] = 1, exactly."""
    log_p, log_q = distribution(8, seed=seed), distribution(8, seed=seed + 10)
    k1, k2, k3 = kl_estimators(log_p, log_q)
    p, kl = log_p.exp(), kl_divergence(log_p, log_q)
    torch.testing.assert_close((p * k1).sum(), kl, rtol=0, atol=1e-12)
    torch.testing.assert_close((p * k3).sum(), kl, rtol=0, atol=1e-12)
    assert abs(float((p * k2).sum() - kl)) > 1e-3  # k2 is biased


def test_monte_carlo_identities():
    """E_old[ρ] = 1, E[k1] = E[k3] = KL, E[∇ log π] = 0: from samples, each within 4 σ."""
    n = 100_000
    log_p, log_q = distribution(8, seed=1), distribution(8, seed=2)
    y = torch.multinomial(log_p.exp(), n, replacement=True, generator=torch.Generator().manual_seed(0))
    k1, _, k3 = kl_estimators(log_p[y], log_q[y])
    kl = float(kl_divergence(log_p, log_q))

    def within_four_sigma(samples, expected):
        return abs(float(samples.mean()) - expected) < 4 * float(samples.std()) / math.sqrt(n)

    assert within_four_sigma(k1, kl)
    assert within_four_sigma(k3, kl)
    assert within_four_sigma((log_q[y] - log_p[y]).exp(), 1.0)
    score = torch.nn.functional.one_hot(y, 8) - log_p.exp()  # ∇ log π(y) in the logits
    for column in score.unbind(1):
        assert within_four_sigma(column, 0.0)


def test_gradients_of_the_estimators_as_losses():
    """In expectation k1 pulls nowhere, k2 along ∇KL(π ‖ π_ref), k3 along ∇KL(π_ref ‖ π)."""
    theta, log_q = normal(6, seed=1).requires_grad_(), distribution(6, seed=2)

    def gradient(f):
        return torch.autograd.grad(f(theta.log_softmax(-1)), theta)[0]

    def expected(which):  # samples do not carry gradient: π is detached, the estimator is not
        return gradient(lambda log_p: (log_p.detach().exp() * kl_estimators(log_p, log_q)[which]).sum())

    forward = gradient(lambda log_p: kl_divergence(log_p, log_q))
    backward = gradient(lambda log_p: kl_divergence(log_q, log_p))
    torch.testing.assert_close(expected(0), torch.zeros(6, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(expected(1), forward, rtol=0, atol=1e-12)
    torch.testing.assert_close(expected(2), backward, rtol=0, atol=1e-12)
    assert (forward - backward).abs().max() > 0.01


def test_estimators_reject_bad_input_by_name():
    with pytest.raises(ValueError, match="ref_log_probs"):
        kl_estimators(torch.zeros(2, 1), torch.zeros(2))


# --- the optimum ----------------------------------------------------------------------------------------------------


WORLDS = [(seed, beta) for seed in (0, 1, 2) for beta in (0.05, 0.5, 3.0)]


@pytest.mark.parametrize("seed, beta", WORLDS)
def test_optimum_in_an_enumerated_world(seed, beta):
    """Σπ* = 1, π* ∝ π_ref e^{r/β}, J(π*) = β log Z, E_ref[π*/π_ref] = 1: all to 1e-10 in float64."""
    ref, r = distribution(200, seed=seed), normal(200, seed=seed + 10)
    log_p, log_z = optimal_policy(ref, r, beta)
    weights = [math.exp(float(a) + float(b) / beta) for a, b in zip(ref, r, strict=True)]
    z = sum(weights)
    assert float(log_z) == pytest.approx(math.log(z), abs=1e-10)
    torch.testing.assert_close(
        log_p.exp(), torch.tensor([w / z for w in weights], dtype=torch.float64), rtol=1e-10, atol=1e-14
    )
    assert float(log_p.exp().sum()) == pytest.approx(1.0, abs=1e-10)
    assert float(rlhf_objective(log_p, ref, r, beta)) == pytest.approx(beta * float(log_z), abs=1e-10)
    assert float((ref.exp() * (log_p - ref).exp()).sum()) == pytest.approx(1.0, abs=1e-10)


@pytest.mark.parametrize("seed, beta", WORLDS)
def test_the_gap_of_any_policy_is_its_kl_to_the_optimum(seed, beta):
    """J(π*) − J(π) = β KL(π ‖ π*), so π* is the maximum."""
    ref, r, log_p = distribution(50, seed=seed), normal(50, seed=seed + 10), distribution(50, seed=seed + 20)
    best, log_z = optimal_policy(ref, r, beta)
    gap = beta * float(log_z) - float(rlhf_objective(log_p, ref, r, beta))
    assert gap == pytest.approx(beta * float(kl_divergence(log_p, best)), abs=1e-10)
    assert gap > 0


def test_objective_by_loops():
    log_p, ref, r = distribution(5, seed=1), distribution(5, seed=2), normal(5, seed=3)
    p, q = log_p.exp().tolist(), ref.exp().tolist()
    expected = sum(a * float(b) for a, b in zip(p, r, strict=True)) - 0.3 * entropy_free_kl(p, q)
    assert float(rlhf_objective(log_p, ref, r, 0.3)) == pytest.approx(expected, abs=1e-12)
    assert float(rlhf_objective(ref, ref, r, 0.3)) == pytest.approx(float((ref.exp() * r).sum()), abs=1e-12)


def test_objective_gradient():
    ref, r = distribution(2, 5, seed=2), normal(2, 5, seed=3)
    theta = normal(2, 5, seed=1).requires_grad_()
    assert gradcheck(lambda x: rlhf_objective(x.log_softmax(-1), ref, r, 0.3), (theta,))


def test_gradient_vanishes_at_the_optimum():
    ref, r = distribution(20, seed=2), normal(20, seed=3)
    theta = optimal_policy(ref, r, 0.4)[0].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(rlhf_objective(theta.log_softmax(-1), ref, r, 0.4), theta)
    assert gradient.abs().max() < 1e-12


def test_a_constant_reward_changes_log_z_alone():
    ref, r = distribution(3, 9, seed=1), normal(3, 9, seed=2)
    shift = torch.tensor([[2.0], [-1.0], [0.5]], dtype=torch.float64)
    (base, log_z), (moved, moved_z) = optimal_policy(ref, r, 0.5), optimal_policy(ref, r + shift, 0.5)
    torch.testing.assert_close(moved, base)
    torch.testing.assert_close(moved_z, log_z + shift.squeeze(-1) / 0.5)
    assert log_z.shape == (3,)


def test_more_beta_means_closer_to_the_reference():
    ref, r = distribution(30, seed=1), normal(30, seed=2)
    kls = [float(kl_divergence(optimal_policy(ref, r, beta)[0], ref)) for beta in (0.01, 0.1, 1.0, 10.0, 1e4)]
    assert kls == sorted(kls, reverse=True) and kls[-1] < 1e-6


def test_optimum_is_stable_for_tiny_beta_and_keeps_impossible_answers_impossible():
    ref = torch.tensor([0.5, 0.5, 0.0]).log()
    log_p, log_z = optimal_policy(ref, torch.tensor([1.0, 0.0, 9.0]), 1e-4)
    torch.testing.assert_close(log_p.exp(), torch.tensor([1.0, 0.0, 0.0]))
    assert float(log_z) == pytest.approx(1e4, rel=1e-3)


@pytest.mark.parametrize("beta", [0.0, -0.1, float("nan"), float("inf")])
def test_beta_must_be_positive(beta):
    ref, r = distribution(3), normal(3)
    with pytest.raises(ValueError, match="beta"):
        optimal_policy(ref, r, beta)
    with pytest.raises(ValueError, match="beta"):
        rlhf_objective(ref, ref, r, beta)


def test_objective_functions_reject_bad_input_by_name():
    ref, r = distribution(3), normal(3)
    nan = torch.tensor([0.0, float("nan"), 0.0], dtype=torch.float64)
    unnormalised = torch.log(torch.tensor([0.5, 0.2, 0.2], dtype=torch.float64))
    for call, name in [
        (lambda: optimal_policy(ref, normal(4), 1.0), "rewards"),
        (lambda: optimal_policy(unnormalised, r, 1.0), "ref_log_probs"),
        (lambda: optimal_policy(nan, r, 1.0), "ref_log_probs"),
        (lambda: optimal_policy(ref, nan, 1.0), "rewards"),
        (lambda: rlhf_objective(unnormalised, ref, r, 1.0), "log_probs"),
        (lambda: rlhf_objective(ref, unnormalised, r, 1.0), "ref_log_probs"),
        (lambda: rlhf_objective(ref, ref, nan, 1.0), "rewards"),
        (lambda: rlhf_objective(ref, distribution(4), r, 1.0), "ref_log_probs"),
        (lambda: best_of_n_policy(unnormalised, r, 2), "ref_log_probs"),
        (lambda: best_of_n_policy(ref, nan, 2), "rewards"),
        (lambda: best_of_n_policy(ref, normal(4), 2), "rewards"),
        (lambda: best_of_n_policy(ref, r, 0), "n"),
        (lambda: best_of_n_policy(ref, r, 1.5), "n"),
        (lambda: best_of_n_kl_bound(0), "n"),
    ]:
        with pytest.raises(ValueError, match=f"^{name}:"):
            call()


# --- best of n ------------------------------------------------------------------------------------------------------


def best_of_n_by_enumeration(p, r, n):
    """All n-tuples of draws; a tie for the best is won by each tied draw in equal shares."""
    result = [0.0] * len(p)
    for draws in itertools.product(range(len(p)), repeat=n):
        probability = math.prod(p[y] for y in draws)
        top = max(r[y] for y in draws)
        winners = [y for y in draws if r[y] == top]
        for y in winners:
            result[y] += probability / len(winners)
    return torch.tensor(result, dtype=torch.float64)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
@pytest.mark.parametrize(
    "rewards", [[0.3, -1.0, 2.0, 0.9], [1.0, 0.0, 1.0, 0.0], [5.0, 5.0, 5.0, 5.0], [0.0, 3.0, 3.0, 1.0]]
)
def test_best_of_n_against_all_tuples(rewards, n):
    """With ties: between equal rewards, each draw is as likely to be kept, so π_ref decides."""
    ref = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    log_p = best_of_n_policy(ref.log(), torch.tensor(rewards, dtype=torch.float64), n)
    torch.testing.assert_close(log_p.exp(), best_of_n_by_enumeration(ref.tolist(), rewards, n), rtol=0, atol=1e-12)


@given(st.lists(st.integers(0, 3), min_size=5, max_size=5), st.integers(1, 4), st.integers(0, 50))
@settings(max_examples=20)
def test_best_of_n_against_all_tuples_at_random(rewards, n, seed):
    ref = distribution(5, seed=seed)
    log_p = best_of_n_policy(ref, torch.tensor(rewards, dtype=torch.float64), n)
    expected = best_of_n_by_enumeration(ref.exp().tolist(), rewards, n)
    torch.testing.assert_close(log_p.exp(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 16, 1000])
def test_best_of_n_is_a_distribution_within_its_kl_bound(n):
    ref, r = distribution(4, 300, seed=1), normal(4, 300, seed=2)
    r[2] = r[2].round()  # ties
    log_p = best_of_n_policy(ref, r, n)
    torch.testing.assert_close(log_p.exp().sum(-1), torch.ones(4, dtype=torch.float64), rtol=0, atol=1e-10)
    assert (kl_divergence(log_p, ref) <= best_of_n_kl_bound(n) + 1e-10).all()


def test_kl_meets_the_bound_where_no_answer_is_likely():
    count = 20_000
    ref = torch.full((count,), -math.log(count), dtype=torch.float64)
    kl = float(kl_divergence(best_of_n_policy(ref, torch.arange(count).double(), 8), ref))
    # The bound is the limit of small probabilities; what is missing is of order n/count.
    assert best_of_n_kl_bound(8) - 2e-3 < kl <= best_of_n_kl_bound(8)


def test_kl_bound_by_its_formula():
    assert best_of_n_kl_bound(1) == 0.0
    assert best_of_n_kl_bound(2) == pytest.approx(math.log(2) - 0.5, abs=1e-15)
    assert best_of_n_kl_bound(16) == pytest.approx(math.log(16) - 15 / 16, abs=1e-15)


def test_best_of_one_is_the_reference_and_best_of_many_the_best():
    ref, r = distribution(6, seed=1), normal(6, seed=2)
    torch.testing.assert_close(best_of_n_policy(ref, r, 1), ref, rtol=0, atol=1e-10)
    assert float(best_of_n_policy(ref, r, 10_000)[r.argmax()].exp()) == pytest.approx(1.0, abs=1e-10)


def test_best_of_n_batches_rows_independently():
    ref, r = distribution(2, 3, 5, seed=1), normal(2, 3, 5, seed=2)
    together = best_of_n_policy(ref, r, 3)
    for i in range(2):
        for j in range(3):
            torch.testing.assert_close(together[i, j], best_of_n_policy(ref[i, j], r[i, j], 3))


def test_impossible_answers_stay_impossible():
    ref = torch.tensor([0.0, 0.5, 0.5, 0.0]).log()
    log_p = best_of_n_policy(ref, torch.tensor([0.0, 1.0, 2.0, 3.0]), 2)
    torch.testing.assert_close(log_p.exp(), torch.tensor([0.0, 0.25, 0.75, 0.0]))
