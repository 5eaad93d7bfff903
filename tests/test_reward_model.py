import copy
import math

import pytest
import torch

from tests.tiny import EOS, ragged, ragged_pairs, tiny_gpt2
from week6.machine.optim import make_optimizer, minibatch
from week6.reward_model import (
    RewardConfig,
    RewardModel,
    expected_accuracy,
    last_token_index,
    pair_accuracy,
    pair_scores,
    score,
    score_batches,
    train_reward_model,
)
from week6.sequences import Demonstrations


def reward_model(seed: int = 0, pad: int = 0) -> RewardModel:
    torch.manual_seed(seed)
    model = RewardModel(tiny_gpt2(seed=seed, pad=pad)).double()
    with torch.no_grad():
        model.head.bias.fill_(0.7)
    return model


def score_by_hand(model: RewardModel, tokens: list[int]) -> torch.Tensor:
    """The unpadded text through the trunk, and the head on its last token."""
    hidden = model.trunk(input_ids=torch.tensor([tokens])).last_hidden_state[0, -1]
    return (hidden * model.head.weight[0]).sum() + model.head.bias[0]


# --- the model ------------------------------------------------------------------------------------------------------


def test_last_real_token_wherever_the_padding_is():
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0], [1, 0, 0, 0], [0, 1, 1, 0], [1, 1, 1, 1]])
    assert last_token_index(mask).tolist() == [3, 2, 0, 2, 3]
    assert last_token_index(mask.bool()).tolist() == [3, 2, 0, 2, 3]


def test_a_policy_scores_nothing():
    answers = Demonstrations(*ragged([2], [1]))
    with pytest.raises(ValueError, match="model: got a GPT2LMHeadModel, expected a reward model, such as RewardModel"):
        score(tiny_gpt2(), answers)


def test_head_starts_with_standard_deviation_of_one_over_root_d_plus_one():
    trunk = tiny_gpt2(width=2, layers=1)
    torch.manual_seed(0)
    heads = [RewardModel(trunk).head for _ in range(1500)]
    weights = torch.stack([head.weight for head in heads]).flatten()
    expected = 1 / math.sqrt(3)
    # 4 σ of a standard deviation from 3000 normal draws; 1/√2 would be 22 % more
    assert abs(float(weights.detach().std()) / expected - 1) < 4 / math.sqrt(2 * 3000)
    assert all(head.bias.tolist() == [0.0] for head in heads)


@pytest.mark.parametrize("pad", [0, EOS])
def test_scores_are_those_of_unpadded_texts(pad):
    """Also where pad is EOS: the last real token is then an EOS followed by more of them."""
    model = reward_model(pad=pad)
    prompts, prompt_mask, responses, response_mask = ragged([3, 1, 2], [2, 4, 1], pad=pad)
    ids, mask = torch.cat([prompts, responses], 1), torch.cat([prompt_mask, response_mask], 1)
    with torch.no_grad():
        result = model(ids, mask)
        assert result.shape == (3,)
        for i in range(3):
            by_hand = score_by_hand(model, ids[i][mask[i]].tolist())
            torch.testing.assert_close(result[i].double(), by_hand, rtol=0, atol=1e-5)  # scores are fp32
        answers = Demonstrations(prompts, prompt_mask, responses, response_mask)
        torch.testing.assert_close(score(model, answers), result)
    for size in (1, 2, 100):
        scores = score_batches(model, answers, batch_size=size)
        torch.testing.assert_close(scores, result)
        assert not scores.requires_grad


def test_scores_do_not_see_padding_or_the_batch():
    model = reward_model()
    rows = [[2, 3, 1], [4, 1], [5, 6, 2, 3, 1]]
    width = 7
    left, right, middle = (torch.zeros(3, width, dtype=torch.long) for _ in range(3))
    masks = [torch.zeros(3, width, dtype=torch.long) for _ in range(3)]
    for i, row in enumerate(rows):
        for tokens, mask, first in ((left, masks[0], width - len(row)), (right, masks[1], 0), (middle, masks[2], 1)):
            tokens[i, first : first + len(row)] = torch.tensor(row)
            mask[i, first : first + len(row)] = 1
    with torch.no_grad():
        expected = torch.stack([score_by_hand(model, row) for row in rows])
        for tokens, mask in zip((left, right, middle), masks, strict=True):
            torch.testing.assert_close(model(tokens, mask).double(), expected, rtol=0, atol=1e-5)
            noise = tokens.masked_fill(mask == 0, 6)
            torch.testing.assert_close(model(noise, mask).double(), expected, rtol=0, atol=1e-5)
        shuffled = model(left[[2, 0, 1]], masks[0][[2, 0, 1]])
        torch.testing.assert_close(shuffled.double(), expected[[2, 0, 1]], rtol=0, atol=1e-5)


def test_scores_see_the_prompt_mask():
    model, ids = reward_model(), torch.tensor([[2, 3, 4, 1]])
    with torch.no_grad():
        whole, cut = model(ids, torch.tensor([[1, 1, 1, 1]])), model(ids, torch.tensor([[0, 1, 1, 1]]))
        torch.testing.assert_close(cut[0].double(), score_by_hand(model, [3, 4, 1]), rtol=0, atol=1e-5)
    assert (whole - cut).abs() > 0.01


@pytest.mark.parametrize(
    "name, ids, mask",
    [
        ("input_ids", torch.zeros(3, dtype=torch.long), torch.ones(3)),
        ("attention_mask", torch.zeros(2, 3, dtype=torch.long), torch.ones(2, 2)),
        ("attention_mask", torch.zeros(2, 2, dtype=torch.long), torch.tensor([[1, 1], [0, 0]])),
        ("attention_mask", torch.zeros(1, 2, dtype=torch.long), torch.tensor([[1, 2]])),
    ],
)
def test_forward_rejects_bad_input_by_name(name, ids, mask):
    with pytest.raises(ValueError, match=f"^{name}:"):
        reward_model()(ids, mask)


# --- calibration ----------------------------------------------------------------------------------------------------


def test_calibration_centres_and_scales_and_is_saved():
    model = reward_model()
    batch = Demonstrations(*ragged([3, 1, 2, 2, 1], [2, 4, 1, 3, 2]))
    with torch.no_grad():
        raw = score(model, batch)
        model.calibrate(raw)
        centred = score(model, batch)
        torch.testing.assert_close(centred, (raw - raw.mean()) / raw.std(correction=0), rtol=0, atol=1e-5)
        assert centred.mean().abs() < 1e-5 and float((centred**2).mean()) == pytest.approx(1.0, abs=1e-5)
        other = reward_model(seed=1)
        other.load_state_dict(copy.deepcopy(model.state_dict()))
        torch.testing.assert_close(score(other, batch), centred)


def test_calibration_twice_composes():
    model = reward_model()
    batch = Demonstrations(*ragged([3, 1, 2, 2, 1], [2, 4, 1, 3, 2]))
    with torch.no_grad():
        model.calibrate(2.0 + 3 * score(model, batch))  # of other samples
        model.calibrate(score(model, batch))
        again = score(model, batch)
    assert again.mean().abs() < 1e-5 and float(again.std(correction=0)) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(
    ("scores", "got"),
    [([1.0], "1 values without spread"), ([2.0] * 4, "4 values without spread"), ([1.0, math.nan, 2.0], "1 NaN"),
     ([1.0, 2.0, math.inf], "1 infinite")],
)  # fmt: skip
def test_calibration_needs_finite_scores_with_spread(scores, got):
    with pytest.raises(ValueError, match=f"^scores: got {got}"):
        reward_model().calibrate(torch.tensor(scores))


# --- pairs ----------------------------------------------------------------------------------------------------------


class LengthReward(torch.nn.Module):
    """Scores a text by its number of real tokens."""

    def forward(self, input_ids, attention_mask):
        return attention_mask.long().sum(-1).float()


def test_pair_scores_and_accuracy_with_ties_at_half():
    pairs = ragged_pairs([1, 3, 2, 1], [3, 2, 1, 4], [2, 2, 4, 1])  # win, tie, loss, win
    chosen, rejected = pair_scores(LengthReward(), pairs)
    assert chosen.tolist() == [4.0, 5.0, 3.0, 5.0] and rejected.tolist() == [3.0, 5.0, 6.0, 2.0]
    for size in (1, 3, 100):
        assert float(pair_accuracy(LengthReward(), pairs, batch_size=size)) == (1 + 0.5 + 0 + 1) / 4


# --- the loop -------------------------------------------------------------------------------------------------------

CONFIG = RewardConfig(steps=6, batch_size=4, learning_rate=1e-3)


def training_pairs():
    return ragged_pairs([2, 1, 3, 2, 1, 2], [3, 1, 2, 2, 4, 1], [2, 4, 1, 3, 2, 2])


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_loop_against_the_algorithm_written_out():
    pairs, trained, by_hand = training_pairs(), reward_model(seed=1), reward_model(seed=1)
    loop = train_reward_model(trained, make_optimizer(trained, 1e-3), pairs, CONFIG, seed=3)
    optimizer = make_optimizer(by_hand, 1e-3)
    for step, row in zip(range(3), loop, strict=False):
        batch = pairs.rows(minibatch(6, 4, step, 3))
        chosen, rejected = (
            by_hand(torch.cat([batch.prompts, tokens], 1), torch.cat([batch.prompt_mask, mask], 1))
            for tokens, mask in ((batch.chosen, batch.chosen_mask), (batch.rejected, batch.rejected_mask))
        )
        loss = torch.log1p(torch.exp(rejected - chosen)).mean()
        optimizer.zero_grad()
        loss.backward()
        # A shift of all rewards is free: the bias of the head is not trained by comparisons.
        assert by_hand.head.bias.grad.abs().item() < 1e-6
        norm = torch.nn.utils.clip_grad_norm_(by_hand.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = 1e-3 * (step + 1) / 10 * (1 - step / 6)
        optimizer.step()
        assert row["step"] == step
        assert row["loss"] == pytest.approx(loss.item(), abs=1e-5)
        assert row["grad_norm"] == pytest.approx(float(norm), rel=1e-4)
        assert row["accuracy"] == (chosen > rejected).float().mean().item()
        assert row["margin"] == pytest.approx((chosen - rejected).mean().item(), abs=1e-5)
    # Adam divides by |gradient|, so fp32 noise in tiny gradients moves a weight by a small part of lr = 1e-3.
    torch.testing.assert_close(weights(trained), weights(by_hand), rtol=0, atol=1e-5)


def test_loop_learns_and_resumes_to_the_same_numbers():
    pairs, whole, parts = training_pairs(), reward_model(seed=1), reward_model(seed=1)
    config = RewardConfig(steps=60, batch_size=6, learning_rate=3e-3)
    rows = list(train_reward_model(whole, make_optimizer(whole, 3e-3), pairs, config, seed=3))
    assert rows[-1]["loss"] < 0.1 < rows[0]["loss"] and rows[-1]["accuracy"] == 1.0
    assert float(pair_accuracy(whole, pairs)) == 1.0
    optimizer = make_optimizer(parts, 3e-3)
    loop = train_reward_model(parts, optimizer, pairs, config, seed=3)
    first = [next(loop) for _ in range(15)]
    second = list(train_reward_model(parts, optimizer, pairs, config, seed=3, start=15))
    assert first + second == rows and torch.equal(weights(whole), weights(parts))


def test_dropout_is_off_while_training():
    """A model that comes in training mode, with dropout, trains as if it had none."""
    rows = []
    for dropout in (0.0, 0.5):
        torch.manual_seed(0)  # the head's initial weights
        model = RewardModel(tiny_gpt2(seed=1, dropout=dropout)).double().train()
        loop = train_reward_model(model, make_optimizer(model, 1e-3), training_pairs(), CONFIG, seed=3)
        rows.append(list(loop))
    assert rows[0] == rows[1]


def test_expected_accuracy_is_that_of_many_annotators():
    agreement, probability = torch.tensor([1.0, 0.0, 0.5, 1.0]), torch.tensor([0.9, 0.3, 0.8, 0.5])
    expected = expected_accuracy(agreement, probability)
    torch.testing.assert_close(expected, torch.tensor([0.9, 0.7, 0.5, 0.5]))
    # Fresh labels: the drawn one again with probability p. The model prefers it where its agreement is 1.
    same = torch.rand(200_000, 4, generator=torch.Generator().manual_seed(0)) < probability
    right = torch.where(same, agreement, 1 - agreement).mean(0)
    assert ((right - expected).abs() < 4 * (0.25 / 200_000) ** 0.5).all()
    assert float(expected.mean()) <= float(torch.maximum(probability, 1 - probability).mean())
    with pytest.raises(ValueError, match="probability"):
        expected_accuracy(agreement, probability[:3])
    for name, shares in (("agreement", (1.5 * agreement, probability)), ("probability", (agreement, -probability))):
        with pytest.raises(ValueError, match=rf"{name}: got values outside \[0, 1\]"):
            expected_accuracy(*shares)
