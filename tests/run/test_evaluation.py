"""Standard errors that know about clusters, best-of-n by hand, and judged answers that agree with the models."""

import math

import pytest
import torch
from datasets import Dataset

from tests.tiny import tiny_gpt2, words_tokenizer
from week6.log_probs import response_log_probs
from week6.run.evaluation import Judged, best_of_n, estimate, figures, judge, sample_batches, win_rate
from week6.sequences import encode_prompts
from week6.tasks import Task

PROMPTS = ["a b", "c", "a c c", "b b b b", "d"]


def toy_task(**changes) -> Task:
    """Answers are words; gold is the number of a's."""
    rows = Dataset.from_dict({"prompt": PROMPTS})
    settings = {
        "name": "toy",
        "tokenizer": words_tokenizer("a b c d e"),
        "prompts": rows,
        "heldout_prompts": rows,
        "demonstrations": rows,
        "max_new_tokens": 6,
        "gold": lambda prompts, answers: torch.tensor([float(text.split().count("a")) for text in answers]),
    }
    return Task(**(settings | changes))


def test_standard_error_of_clusters_covers_the_truth():
    """500 studies of 30 prompts × 8 answers that correlate within a prompt: ± 2 s.e. must cover 0 in about 95 %.

    A standard error that took all 240 answers for independent would cover it in about half of the studies.
    """
    generator = torch.Generator().manual_seed(0)
    hits = 0
    for _ in range(500):
        values = torch.randn(30, 1, generator=generator) + 0.5 * torch.randn(30, 8, generator=generator)
        result = estimate(values)
        hits += abs(result.mean) < 2 * result.se
    assert 0.91 < hits / 500 < 0.98  # 0.945 expected for t with 29 degrees of freedom, s.d. 0.010


def test_estimate_counts_and_drops_prompts_without_the_figure():
    values = torch.tensor([[1.0, 3.0], [math.nan, math.nan], [4.0, 6.0]])
    result = estimate(values)
    assert result == pytest.approx((3.5, 1.5, 4, 2))  # means 2 and 5: s.d. 3/√2, over √2
    assert math.isnan(estimate(values[:1]).se) and math.isnan(estimate(values[1:2]).mean)


def test_win_rate_by_loops():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randint(0, 3, (4, k), generator=generator).float() for k in (3, 5))
    for i in range(4):
        for j in range(3):
            wins = [1.0 if a[i, j] > x else 0.5 if a[i, j] == x else 0.0 for x in b[i]]
            assert win_rate(a, b)[i, j].item() == pytest.approx(sum(wins) / 5)


def test_best_of_n_takes_the_highest_proxy_of_each_group():
    proxy = torch.tensor([[1.0, 5.0, 2.0, 0.0], [9.0, 3.0, 4.0, 8.0]])
    texts = [["a", "b", "c", "d"], ["e", "f", "g", "h"]]
    gold = torch.arange(8.0).reshape(2, 4)
    candidates = Judged(texts, proxy, gold, -gold, gold + 10)
    best = best_of_n(candidates, 2)
    assert best.texts == [["b", "c"], ["e", "h"]]
    assert best.gold.tolist() == [[1, 2], [4, 7]]
    assert best.kl.tolist() == [[-1, -2], [-4, -7]] and best.length.tolist() == [[11, 12], [14, 17]]
    assert best_of_n(Judged(texts, proxy, None, gold, gold), 4).gold is None
    with pytest.raises(ValueError, match="divisor of the 4"):
        best_of_n(candidates, 3)


def test_batches_of_different_length_join_into_one_rollout():
    policy, task = tiny_gpt2(), toy_task()
    prompts, mask = encode_prompts(task.tokenizer, PROMPTS * 6)
    joined = sample_batches(policy, prompts, mask, 6, seed=3, batch_size=4)
    assert len(joined) == 30 and len(set(joined.response_mask.sum(1).tolist())) > 2
    scored = response_log_probs(policy, joined.prompts, joined.prompt_mask, joined.responses, joined.response_mask)
    torch.testing.assert_close(joined.log_probs.double(), scored, atol=1e-4, rtol=0)  # sampled in fp32
    again = sample_batches(policy, prompts, mask, 6, seed=3, batch_size=4)
    assert torch.equal(joined.responses, again.responses)
    assert not torch.equal(joined.responses, sample_batches(policy, prompts, mask, 6, seed=4, batch_size=4).responses)


def test_answers_are_drawn_at_the_temperature_and_anew_in_every_batch():
    policy, task = tiny_gpt2(), toy_task()
    prompts, mask = encode_prompts(task.tokenizer, ["a b"] * 8)
    cold, other = (sample_batches(policy, prompts, mask, 6, seed, temperature=1e-3).responses for seed in (0, 1))
    assert torch.equal(cold, other) and (cold == cold[0]).all()  # the likeliest, whatever is drawn
    warm = sample_batches(policy, prompts, mask, 6, seed=0, batch_size=4).responses
    assert not torch.equal(warm[:4], warm[4:])


def test_judge_keeps_answers_with_their_prompts():
    policy, sft, task = tiny_gpt2(seed=0), tiny_gpt2(seed=1), toy_task()
    judged = judge(
        policy, sft, lambda r: r.prompt_mask.sum(1).float(), task, PROMPTS, answers_per_prompt=3, seed=0, batch_size=4
    )
    assert judged.proxy.tolist() == [[float(len(prompt.split()))] * 3 for prompt in PROMPTS]
    assert judged.gold.tolist() == [[text.split().count("a") for text in row] for row in judged.texts]
    assert judged.kl.shape == judged.length.shape == (5, 3)


def test_a_long_prompt_makes_few_answers_wide():
    widths = []

    def reward(part):
        widths.append((int(part.prompt_mask.any(0).sum()), len(part)))
        return part.prompt_mask.sum(1).float()

    prompts = ["a b c d", *["a", "b"] * 63, "a b c"]
    judged = judge(tiny_gpt2(), tiny_gpt2(), reward, toy_task(max_new_tokens=1), prompts, 1, seed=0)
    assert widths == [(1, 64), (4, 64)]
    assert judged.proxy.flatten().tolist() == [4.0, *[1.0] * 126, 3.0]


def test_judged_kl_is_the_divergence_from_the_sft_policy():
    """Of one-token answers the KL is a sum over the vocabulary; the mean of k1 must be within 4 standard errors."""
    policy, sft, task = tiny_gpt2(seed=0), tiny_gpt2(seed=1), toy_task(max_new_tokens=1)
    judged = judge(policy, sft, lambda r: r.log_probs.sum(1), task, ["a b c"], 4000, seed=0)
    tokens = task.tokenizer("a b c", return_tensors="pt")["input_ids"]
    log_p, log_q = (model(input_ids=tokens).logits[0, -1].log_softmax(-1) for model in (policy, sft))
    exact = (log_p.exp() * (log_p - log_q)).sum().item()
    error = judged.kl.std().item() / math.sqrt(4000)
    assert abs(judged.kl.mean().item() - exact) < 4 * error < 0.5 * exact  # the last: KL(SFT ‖ π) would be told apart


def test_figures_name_every_mean_with_its_error():
    task = toy_task(rates=lambda prompts, answers: {"help_rate": 1.0 if prompts[0] != "c" else math.nan})
    shape = (5, 2)
    texts = [["a", "b"]] * 5
    sft = Judged(texts, torch.zeros(shape), torch.zeros(shape), torch.zeros(shape), torch.ones(shape))
    better = Judged(texts, torch.ones(shape), torch.ones(shape), torch.ones(shape), torch.full(shape, 3.0))
    row = figures(better, sft, task, PROMPTS)
    assert (row["gold"], row["proxy"], row["kl"], row["length"]) == (1, 1, 1, 3)
    assert row["win_rate"] == 1 and row["win_rate_n"] == 10
    assert row["help_rate"] == 1 and row["help_rate_n"] == 8 and row["refusal_rate"] is None
    assert row["n"] == 10 and row["prompts"] == 5 and row["gold_se"] == 0
    assert figures(sft, sft, task, PROMPTS)["win_rate"] is None


def test_a_task_without_gold_has_no_gold_figures():
    task = toy_task(gold=None)
    judged = judge(tiny_gpt2(), tiny_gpt2(), lambda r: r.log_probs.sum(1), task, PROMPTS, 2, seed=0)
    row = figures(judged, judged, task, PROMPTS)
    assert row["gold"] is None and row["gold_se"] is None and row["kl"] == pytest.approx(0, abs=1e-4)
