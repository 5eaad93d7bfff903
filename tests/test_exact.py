import itertools
import math

import pytest
import torch

from tests.tiny import log_probs_by_hand
from week6.dpo import dpo_loss
from week6.exact import ExactWorld, expected_dpo_loss, small_world
from week6.objective import kl_divergence, optimal_policy, rlhf_objective
from week6.sampling import sample

WORDS = ["yes", "no", "so"]


def yes_minus_no(words: tuple[str, ...]) -> float:
    return words.count("yes") - 0.5 * words.count("no") + 2.0 * (words[-1] == "so")


def tiny_world() -> ExactWorld:
    return ExactWorld(WORDS, 3, yes_minus_no)


# --- the world ------------------------------------------------------------------------------------------------------


def test_all_sentences_with_their_rewards():
    world = tiny_world()
    sentences = list(itertools.product(WORDS, repeat=3))
    assert world.sequences.shape == (27, 3)
    assert [world.words(row) for row in world.sequences] == sentences
    assert world.rewards.dtype == torch.float64
    assert world.rewards.tolist() == [yes_minus_no(s) for s in sentences]
    assert world.index(world.sequences).tolist() == list(range(27))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_probabilities_of_the_gpt2_sum_to_one_and_are_those_of_the_sampler(seed):
    world = tiny_world()
    policy = world.new_policy(seed)
    with torch.no_grad():
        log_probs = world.log_probs(policy)
        assert float(log_probs.double().exp().sum()) == pytest.approx(1.0, abs=1e-5)  # fp32
        for i in (0, 5, 26):
            by_hand = log_probs_by_hand(policy, [0], world.sequences[i].tolist()).sum()
            torch.testing.assert_close(log_probs[i], by_hand, rtol=0, atol=1e-5)
    n = 8192
    rollout = sample(policy, *world.prompts(n), 3, generator=torch.Generator().manual_seed(0))
    assert rollout.finished.all() and rollout.responses.shape == (n, 3)
    counts = torch.bincount(world.index(rollout.responses), minlength=27)
    p = log_probs.double().exp()
    assert ((counts / n - p).abs() < 4.5 * (p * (1 - p) / n).sqrt()).all()  # 27 sentences: 4.5 σ
    torch.testing.assert_close(world.score(rollout).double(), world.rewards[world.index(rollout.responses)])


def test_policies_are_reproducible_have_no_dropout_and_leave_the_random_state():
    world, state = tiny_world(), torch.get_rng_state()
    a, b, c = world.new_policy(0), world.new_policy(0), world.new_policy(1)
    assert torch.equal(torch.get_rng_state(), state)
    with torch.no_grad():
        assert torch.equal(world.log_probs(a), world.log_probs(b))
        assert not torch.equal(world.log_probs(a), world.log_probs(c))
        assert torch.equal(world.log_probs(a.train()), world.log_probs(a.eval()))
    assert type(a).__name__ == "GPT2LMHeadModel" and a.config.vocab_size == 3
    assert (world.prompts(2)[0] == a.config.bos_token_id).all() and a.config.eos_token_id is None  # none ends early
    # Two layers and a last norm: 12 d² + 13 d weights a layer, and 2 d.
    width, embeddings = 32, 3 + world.length + 1
    assert sum(x.numel() for x in a.parameters()) == 2 * (12 * width**2 + 13 * width) + 2 * width + embeddings * width


def test_log_probs_are_differentiable_and_scores_average_to_zero():
    """E_π[∇ log π] = ∇ Σ π = 0, by enumeration over a real GPT-2."""
    world = tiny_world()
    policy = world.new_policy(0).double()
    log_probs = world.log_probs(policy)
    (log_probs.exp().detach() * log_probs).sum().backward()
    gradient = torch.cat([p.grad.flatten() for p in policy.parameters()])
    assert gradient.abs().max() < 1e-12
    (score,) = torch.autograd.grad(world.log_probs(policy)[3], policy.transformer.wte.weight)
    assert score.abs().max() > 1e-3


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_report_by_loops(seed):
    world, beta = tiny_world(), 0.7
    policy, reference = world.new_policy(seed), world.new_policy(seed + 10)
    report = world.report(policy, reference, beta)
    with torch.no_grad():
        p, q = (world.log_probs(m).double().exp() for m in (policy, reference))
    p, q = (p / p.sum()).tolist(), (q / q.sum()).tolist()
    r = world.rewards.tolist()
    reward = sum(a * x for a, x in zip(p, r, strict=True))
    kl = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    best = beta * math.log(sum(b * math.exp(x / beta) for b, x in zip(q, r, strict=True)))
    assert report.reward == pytest.approx(reward, abs=1e-10)
    assert report.kl == pytest.approx(kl, abs=1e-10)
    assert report.objective == pytest.approx(reward - beta * kl, abs=1e-10)
    assert report.gap == pytest.approx((best - report.objective) / beta, abs=1e-10)  # (J(π*) − J(π))/β
    assert report.gap > 0


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_identities_of_the_optimum_in_the_course_s_world(seed):
    """J(π*) = β log Z, Σπ* = 1, E_ref[π*/π_ref] = 1, gap 0: to 1e-10 in float64, with a GPT-2 as reference."""
    world, beta = small_world(), 0.5
    assert len(world.sequences) == 6**4
    with torch.no_grad():
        ref = world.log_probs(world.new_policy(seed)).double().log_softmax(-1)
    best, log_z = optimal_policy(ref, world.rewards, beta)
    assert float(rlhf_objective(best, ref, world.rewards, beta)) == pytest.approx(beta * float(log_z), abs=1e-10)
    assert float(best.exp().sum()) == pytest.approx(1.0, abs=1e-10)
    assert float((ref.exp() * (best - ref).exp()).sum()) == pytest.approx(1.0, abs=1e-10)
    report = world.report(best, ref, beta)
    assert report.gap == pytest.approx(0.0, abs=1e-10)
    assert report.objective == pytest.approx(beta * float(log_z), abs=1e-10)
    assert world.report(ref, ref, beta).kl == pytest.approx(0.0, abs=1e-12)
    assert world.report(ref, ref, beta).gap > 0.1


def test_small_world_rewards_politeness():
    world = small_world()
    rewards = {" ".join(world.words(row)): float(r) for row, r in zip(world.sequences, world.rewards, strict=True)}
    assert rewards["please help thank you"] == 2.5
    assert rewards["go away go away"] == -1.5
    assert rewards["help help help help"] == -1.5
    assert max(rewards.values()) == 2.5


def test_world_rejects_bad_input_by_name():
    for arguments, name in [
        ((["a"], 2, len), "vocab"),
        ((["a", "a"], 2, len), "vocab"),
        ((["a", "b"], 0, len), "length"),
        ((list("abcdefghij"), 5, len), "vocab, length"),
        ((["a", "b"], 2, lambda words: float("nan")), "rewards"),
    ]:
        with pytest.raises(ValueError, match=f"^{name}:"):
            ExactWorld(*arguments)
    world = tiny_world()
    uniform = torch.full((27,), -math.log(27))
    with pytest.raises(ValueError, match="^beta:"):
        world.report(uniform, uniform, 0.0)
    with pytest.raises(ValueError, match="^policy:"):
        world.report(uniform[:5], uniform, 1.0)
    with pytest.raises(ValueError, match="^policy:"):
        world.report(uniform + 1, uniform, 1.0)
    with pytest.raises(ValueError, match="^reference:"):
        world.report(uniform, uniform - 1, 1.0)
    with pytest.raises(ValueError, match="^responses:"):
        world.index(torch.zeros(2, 4, dtype=torch.long))
    with pytest.raises(ValueError, match="^responses:"):
        world.index(torch.zeros(3, dtype=torch.long))


# --- preferences in the world ---------------------------------------------------------------------------------------


def test_sampled_pairs_come_from_the_reference_and_its_annotators():
    world, n = tiny_world(), 20_000
    reference = world.new_policy(0)
    pairs = world.sample_pairs(reference, n, torch.Generator().manual_seed(0))
    assert len(pairs) == n and pairs.chosen_mask.all() and pairs.rejected_mask.all()
    chosen, rejected = world.index(pairs.chosen), world.index(pairs.rejected)
    with torch.no_grad():
        p = world.log_probs(reference).double().exp()
    for i in range(27):
        draws = (float((chosen == i).sum()) + float((rejected == i).sum())) / (2 * n)
        assert abs(draws - float(p[i])) < 4.5 * math.sqrt(float(p[i] * (1 - p[i])) / (2 * n))
    difference = world.rewards[chosen] - world.rewards[rejected]
    for d in difference.abs().unique().tolist():
        if d == 0 or int((difference.abs() == d).sum()) < 200:
            continue
        higher_won, count = int((difference == d).sum()), int((difference.abs() == d).sum())
        q = 1 / (1 + math.exp(-d))
        assert abs(higher_won / count - q) < 4 * math.sqrt(q * (1 - q) / count)


def test_sampled_pairs_are_reproducible():
    world = tiny_world()
    a, b, c = (world.sample_pairs(world.new_policy(0), 50, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(a.chosen, b.chosen) and torch.equal(a.rejected, b.rejected)
    assert not torch.equal(a.chosen, c.chosen)


def test_expected_loss_by_loops():
    world = ExactWorld(["yes", "no"], 2, yes_minus_no)
    generator = torch.Generator().manual_seed(0)
    log_p, ref = (torch.randn(4, generator=generator, dtype=torch.float64).log_softmax(-1) for _ in range(2))
    total = 0.0
    for a, b in itertools.product(range(4), repeat=2):
        wins = 1 / (1 + math.exp(float(world.rewards[b] - world.rewards[a])))
        h = float((log_p[a] - ref[a]) - (log_p[b] - ref[b]))
        # either the annotators choose a, or they choose b
        total += wins * math.log(1 + math.exp(-0.3 * h)) + (1 - wins) * math.log(1 + math.exp(0.3 * h))
    assert float(expected_dpo_loss(log_p, ref, world.rewards, 0.3)) == pytest.approx(total / 16, abs=1e-12)
    with pytest.raises(ValueError, match="^rewards:"):
        expected_dpo_loss(log_p, ref, world.rewards[:3], 0.3)
    with pytest.raises(ValueError, match="^beta:"):
        expected_dpo_loss(log_p, ref, world.rewards, 0.0)


def tabular_dpo(ref, rewards, beta, **options):
    """Minimise DPO's expected loss over all pairs, in the logits of a table."""
    n = len(rewards)
    a, b = (i.flatten() for i in torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij"))
    wins = torch.sigmoid(rewards[a] - rewards[b])
    theta = ref.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [theta], lr=1, max_iter=500, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        log_p = theta.log_softmax(-1)
        loss = (wins * dpo_loss(log_p[a], log_p[b], ref[a], ref[b], beta, **options).loss).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    return theta.detach().log_softmax(-1)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("beta", [0.5, 2.0])
def test_tabular_dpo_on_exact_preferences_reaches_the_optimum_of_rlhf(seed, beta):
    """The theorem of the DPO paper: no reward model, no sampling, and yet π*. Within 1e-6 nats."""
    world = tiny_world()
    with torch.no_grad():
        ref = world.log_probs(world.new_policy(seed)).double().log_softmax(-1)
    found = tabular_dpo(ref, world.rewards, beta)
    assert world.report(found, ref, beta).gap < 1e-6
    best, _ = optimal_policy(ref, world.rewards, beta)
    assert float(kl_divergence(best, found)) < 1e-6
    assert (found.exp() - best.exp()).abs().max() < 1e-5


def test_tabular_dpo_does_not_see_a_shift_of_the_rewards():
    world = tiny_world()
    ref = torch.randn(27, generator=torch.Generator().manual_seed(0), dtype=torch.float64).log_softmax(-1)
    moved = tabular_dpo(ref, world.rewards + 5.0, 1.0)
    assert float(kl_divergence(moved, tabular_dpo(ref, world.rewards, 1.0))) < 1e-8


def test_tabular_dpo_stays_nearer_to_the_reference_for_larger_beta():
    world = tiny_world()
    ref = torch.randn(27, generator=torch.Generator().manual_seed(0), dtype=torch.float64).log_softmax(-1)
    kls = [float(kl_divergence(tabular_dpo(ref, world.rewards, beta), ref)) for beta in (0.5, 1.0, 4.0)]
    assert kls == sorted(kls, reverse=True)


def test_optimum_is_a_fixed_point_of_the_expected_loss_of_a_gpt2():
    """With π = π_ref a real GPT-2 and rewards all equal, DPO's expected loss has no gradient."""
    world = tiny_world()
    policy = world.new_policy(0).double()
    log_probs = world.log_probs(policy)
    expected_dpo_loss(log_probs, log_probs.detach(), torch.zeros(27, dtype=torch.float64), 0.5).backward()
    assert max(float(p.grad.abs().max()) for p in policy.parameters()) < 1e-12
