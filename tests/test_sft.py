import math

import pytest
import torch
from torch.autograd import gradcheck

from tests.tiny import EOS, log_probs_by_hand, ragged, tiny_gpt2
from week6.machine.optim import make_optimizer, minibatch
from week6.sampling import sample
from week6.sequences import Demonstrations
from week6.sft import SFTConfig, sft_loss, train_sft


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def demonstrations(pad: int = 0) -> Demonstrations:
    return Demonstrations(*ragged([3, 1, 2, 4, 2], [2, 4, 1, 3, 2], pad=pad))


def test_loss_is_the_mean_over_all_answer_tokens():
    log_probs = torch.tensor([[-1.0, -2.0, -3.0], [-6.0, 99.0, float("nan")]])
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]]).bool()
    assert float(sft_loss(log_probs, mask)) == 3.0  # not the mean of the rows' means, 4


def test_loss_gradient_and_bad_input():
    x = -torch.rand(2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x.requires_grad_(True)
    assert gradcheck(lambda y: sft_loss(y, torch.tensor([[1, 1, 0], [1, 0, 0]]).bool()), (x,))
    with pytest.raises(ValueError, match="mask"):
        sft_loss(torch.zeros(2, 3), torch.ones(2, 2))
    with pytest.raises(ValueError, match="mask"):
        sft_loss(torch.zeros(2, 3), torch.zeros(2, 3))


def test_probabilities_in_the_place_of_their_logarithms_are_refused():
    """A cross-entropy is not negative; rounding and what is masked are no matter."""
    mask = torch.tensor([[True, True, False]])
    assert abs(float(sft_loss(torch.tensor([[1e-7, 1e-7, 5.0]]), mask))) < 1e-6
    with pytest.raises(ValueError, match=r"log_probs: got values up to 0.9, expected logarithms of probabilities, ≤ 0"):
        sft_loss(torch.tensor([[-0.5, 0.9, -1.0]]), mask)


def test_loop_against_the_algorithm_written_out():
    """Three steps, log-probabilities prefix by prefix; the prompt is not imitated, the EOS is."""
    data, trained, by_hand = demonstrations(), tiny_gpt2(seed=1), tiny_gpt2(seed=1)
    config = SFTConfig(steps=6, batch_size=3, learning_rate=1e-3)
    optimizer = make_optimizer(by_hand, 1e-3)
    loop = train_sft(trained, make_optimizer(trained, 1e-3), data, config, seed=3)
    for step, row in zip(range(3), loop, strict=False):
        batch = data.rows(minibatch(5, 3, step, 3))
        rows = [
            log_probs_by_hand(by_hand, prompt[p_mask].tolist(), response[r_mask].tolist())
            for prompt, p_mask, response, r_mask in zip(
                batch.prompts, batch.prompt_mask, batch.responses, batch.response_mask, strict=True
            )
        ]
        loss = -torch.cat(rows).mean()
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(by_hand.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = 1e-3 * (step + 1) / 10 * (1 - step / 6)
        optimizer.step()
        assert row["step"] == step
        assert row["loss"] == pytest.approx(loss.item(), abs=1e-9)
        assert row["grad_norm"] == pytest.approx(float(norm), rel=1e-6)
        assert row["tokens"] == int(batch.prompt_mask.sum() + batch.response_mask.sum())
    torch.testing.assert_close(weights(trained), weights(by_hand), rtol=0, atol=1e-8)


@pytest.mark.parametrize("pad", [0, EOS])
def test_a_model_taught_to_stop_stops(pad):
    """Answers "2 EOS" after prompt 4 and "3 3 3 EOS" after prompt 5; the pad token may be the EOS token."""
    prompts = torch.tensor([[4], [5]])
    responses = torch.tensor([[2, EOS, pad, pad], [3, 3, 3, EOS]])
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]]).bool()
    data = Demonstrations(prompts, torch.ones(2, 1, dtype=torch.bool), responses, mask)
    policy = tiny_gpt2(pad=pad, scale=0.2, dtype=torch.float32)
    config = SFTConfig(steps=150, batch_size=2, learning_rate=1e-2)
    rows = list(train_sft(policy, make_optimizer(policy, 1e-2), data, config, seed=0))
    assert rows[0]["loss"] > 1 and rows[-1]["loss"] < 0.02
    many = prompts.repeat(50, 1)
    rollout = sample(policy, many, torch.ones_like(many).bool(), 8, generator=torch.Generator().manual_seed(0))
    assert float(rollout.finished.float().mean()) > 0.95
    lengths = rollout.response_mask.sum(-1)
    assert lengths[::2].float().mean() == pytest.approx(2, abs=0.15)
    assert lengths[1::2].float().mean() == pytest.approx(4, abs=0.3)


def test_loop_finds_the_frequencies_of_its_data():
    """Three of four answers say "2 EOS", one says EOS: the least loss is the entropy of the data."""
    responses = torch.tensor([[2, EOS]] * 3 + [[EOS, 0]])
    mask = torch.tensor([[1, 1]] * 3 + [[1, 0]]).bool()
    data = Demonstrations(torch.full((4, 1), 4), torch.ones(4, 1, dtype=torch.bool), responses, mask)
    policy = tiny_gpt2(scale=0.2, dtype=torch.float32)
    config = SFTConfig(steps=200, batch_size=4, learning_rate=5e-3)
    rows = list(train_sft(policy, make_optimizer(policy, 5e-3), data, config, seed=0))
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert rows[-1]["loss"] == pytest.approx(entropy * 4 / 7, abs=0.01)  # per token, of which there are 7
    with torch.no_grad():
        p = log_probs_by_hand(policy, [4], [EOS]).exp()
    assert float(p) == pytest.approx(0.25, abs=0.02)


def test_loop_resumes_to_the_same_numbers():
    data, whole, parts = demonstrations(), tiny_gpt2(seed=1), tiny_gpt2(seed=1)
    config = SFTConfig(steps=6, batch_size=3, learning_rate=1e-3)
    rows = list(train_sft(whole, make_optimizer(whole, 1e-3), data, config, seed=3))
    optimizer = make_optimizer(parts, 1e-3)
    loop = train_sft(parts, optimizer, data, config, seed=3)
    first = [next(loop) for _ in range(4)]
    second = list(train_sft(parts, optimizer, data, config, seed=3, start=4))
    assert first + second == rows and torch.equal(weights(whole), weights(parts))


def test_dropout_is_off_while_training():
    """A model that comes in training mode, with dropout, trains as if it had none."""
    config, rows = SFTConfig(steps=3, batch_size=3, learning_rate=1e-3), []
    for dropout in (0.0, 0.5):
        policy = tiny_gpt2(seed=1, dropout=dropout).train()
        rows.append(list(train_sft(policy, make_optimizer(policy, 1e-3), demonstrations(), config, seed=3)))
    assert rows[0] == rows[1]
