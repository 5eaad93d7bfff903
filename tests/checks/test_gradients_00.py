"""The weights of the tokens in a loss, as its gradient shows them, are those it was made with."""

import pytest
import torch

from week6.checks.bench_00 import measure
from week6.checks.gradients_00 import piles_up, reading, wrong_at


def _steps(loss_of, *, clears=True, asks=lambda ids, rows: ids[rows], split=False):
    """An answer of three steps that goes down this loss of log_probs and mask, in one pass or in a pass a row."""

    def answer(model, ids, is_answer, epochs, batch_size, learning_rate):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for rows in torch.arange(3 * batch_size).split(batch_size):
            asked = asks(ids, rows)
            pieces = asked.split(1) if split else [asked]
            forecast = torch.cat([model(input_ids=piece).logits for piece in pieces]).log_softmax(-1)
            p = forecast[:, :-1].gather(-1, ids[rows][:, 1:, None]).squeeze(-1)
            if clears:
                optimizer.zero_grad()
            loss = loss_of(p, is_answer[rows][:, 1:])
            loss.backward()
            optimizer.step()
            yield {"rows": rows, "log_probs": p, "loss": loss.detach()}

    return measure(answer, 0)


def _two(p, mask):
    return -p[mask].mean()


@pytest.mark.parametrize("split", [False, True])
def test_any_weights_are_read_from_the_gradient(split):
    w = torch.randn(16, 40, generator=torch.Generator().manual_seed(1))
    record = _steps(lambda p, mask: -(p * w[:, : p.shape[1]]).sum(), split=split)
    read = reading(record, 1)
    assert read.of_tokens and not read.right and torch.allclose(read.weights, w[:, : read.weights.shape[1]], atol=1e-4)
    assert wrong_at(record) == 0


def test_the_right_loss_is_right_at_every_step_and_what_is_added_is_seen():
    record = _steps(_two)
    assert wrong_at(record) is None and not piles_up(record) and all(reading(record, k).right for k in range(3))
    assert not reading(_steps(lambda p, mask: _two(p, mask) - 0.1 * p[~mask].mean()), 0).right
    assert piles_up(_steps(_two, clears=False))


def test_a_loss_that_is_not_trained_by_yet_is_read_as_well():
    def unfinished(model, ids, is_answer, epochs, batch_size, learning_rate):
        p = model(input_ids=ids[:16]).logits.log_softmax(-1)[:, :-1].gather(-1, ids[:16, 1:, None]).squeeze(-1)
        yield {"rows": torch.arange(16), "log_probs": p, "loss": _two(p, is_answer[:16, 1:])}

    assert reading(measure(unfinished, 0), 0).right


def test_other_texts_are_not_read():
    assert reading(_steps(_two, asks=lambda ids, rows: ids[rows].flip(1)), 0) is None
