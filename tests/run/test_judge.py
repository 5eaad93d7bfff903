"""The unseen judge's figures, by hand: the length baseline, win rates per prompt, their intervals."""

from dataclasses import replace

import pytest
import torch
from datasets import Dataset

from tests.runs import task_once
from tests.tiny import ragged, ragged_pairs, tiny_gpt2
from week6 import RewardModel, Rollout
from week6.run.evaluation import Judged, best_of_n
from week6.run.judge import length_baseline, score_as_ended, verdicts

LONGER = ragged_pairs([2, 2, 2, 2], [5, 6, 4, 2], [3, 2, 3, 4])
"""The chosen answer is the longer one in three of four."""
MIXED = ragged_pairs([2, 2, 2, 2, 2], [5, 3, 3, 4, 2], [3, 5, 3, 6, 4])
"""In one of five, and once both are as long."""
SHORTER = ragged_pairs([2, 2], [3, 2], [4, 6])


def test_the_length_baseline_learns_its_side_from_the_judge_s_own_pairs():
    """Taking the better side of the held-out pairs themselves would be a baseline that has seen them."""
    longer, shorter = length_baseline(LONGER, MIXED), length_baseline(SHORTER, MIXED)
    assert longer["prefers_longer"] and longer["length"] == pytest.approx((1 + 0.5) / 5)
    assert not shorter["prefers_longer"] and shorter["length"] == pytest.approx((3 + 0.5) / 5)
    values = torch.tensor([1, 0, 0.5, 0, 0]).double()
    assert longer["length_se"] == shorter["length_se"] == pytest.approx((values.std() / 5**0.5).item())


def test_an_answer_that_the_limit_cut_is_read_as_one_that_ended():
    """Alone, without padding: what was said before its last token, and EOS. Those that ended are read as they are."""
    torch.manual_seed(0)
    judge = RewardModel(tiny_gpt2(pad=1)).double()
    prompts, prompt_mask, responses, mask = ragged([2, 1, 3], [5, 2, 5], pad=1)
    responses[0, 4] = responses[2, 4] = 3  # at the limit of 5 these two had not ended
    finished = torch.tensor([False, True, False])
    cut = Rollout(prompts, prompt_mask, responses, mask, torch.zeros_like(mask, dtype=torch.double), finished)
    kept = responses.clone()
    with torch.no_grad():
        found = score_as_ended(judge, 1, cut)
        for i in range(3):
            said = responses[i][mask[i]].tolist()[:-1]
            row = torch.tensor([[*prompts[i][prompt_mask[i]].tolist(), *said, 1]])
            torch.testing.assert_close(found[i], judge(row, torch.ones_like(row))[0])
    assert torch.equal(cut.responses, kept)


def answers(verdict):
    shape = torch.tensor(verdict)
    texts = [["a"] * shape.shape[1] for _ in verdict]
    return Judged(texts, -shape, None, torch.zeros_like(shape), torch.ones_like(shape), shape)


def test_win_rates_are_per_prompt_against_the_start_and_against_sft():
    judged = {
        "sft": answers([[0.0, 1.0], [0.0, 0.0], [2.0, 2.0]]),
        "dpo": answers([[3.0, 0.5], [1.0, 0.0], [2.0, 0.0]]),
        "base": answers([[0.0, 0.0], [0.5, 0.5], [1.0, 3.0]]),
    }
    table = verdicts(judged, "base")
    by_hand = [(1 + 1) / 2, (1 + 0) / 2, (0.5 + 0) / 2]  # over prompts: 2.0 beats 1.0 of two, 0.0 none
    row = table["dpo"]
    assert row["wins_against_base"] == pytest.approx(sum(by_hand) / 3)
    error = torch.tensor(by_hand).double().std().item() / 3**0.5
    assert row["wins_against_base_se"] == pytest.approx(error)
    assert row["wins_against_base_low"] == pytest.approx(sum(by_hand) / 3 - 1.96 * error)
    assert row["wins_against_base_high"] == pytest.approx(sum(by_hand) / 3 + 1.96 * error)
    sft = [(1 + 0.5) / 2, (1 + 0.5) / 2, (0.5 + 0) / 2]
    assert row["wins_against_sft"] == pytest.approx(sum(sft) / 3) and row["score"] == pytest.approx(6.5 / 6)
    assert "wins_against_base" not in table["base"] and "wins_against_sft" not in table["sft"]
    assert set(verdicts({"sft": judged["sft"], "dpo": judged["dpo"]}, "sft")["sft"]) == {
        f"score{end}" for end in ("", "_se", "_low", "_high")
    }


def test_the_verdict_goes_with_the_answer_that_is_the_best_of_n():
    candidates = answers([[4.0, 1.0, 2.0, 3.0]])
    assert best_of_n(candidates, 2).verdict.tolist() == [[1.0, 2.0]]  # by the proxy, which is the opposite here


def pairs(*rows):
    return Dataset.from_list([dict(zip(("prompt", "chosen", "rejected"), row, strict=True)) for row in rows])


@pytest.mark.parametrize("seen", ["pairs", "heldout_pairs"])
@pytest.mark.parametrize("row", [("x", "a", "b"), ("x", "b", "a")])
def test_a_judge_of_pairs_that_it_was_trained_on_is_refused(seen, row):
    """Whoever was preferred; another comparison on the same prompt is no such pair."""
    others = {"pairs": pairs(("y", "a", "b")), "heldout_pairs": pairs(("z", "a", "b"))}
    task = replace(task_once("assistant"), **others)
    assert replace(task, judge_pairs=pairs(("x", "a", "b"), ("y", "a", "c"))).judge_pairs is not None
    with pytest.raises(
        ValueError, match=r"judge: got 1 pairs that training sees too, or that it is to judge, expected"
    ):
        replace(task, **{seen: pairs(row)}, judge_pairs=pairs(("x", "a", "b"), ("q", "a", "b")))
