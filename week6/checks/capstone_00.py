"""The capstone of notebook 00: supervised fine-tuning, whole."""

import math
from collections.abc import Iterator

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from week6.checks.bench_00 import STEPS, measure
from week6.checks.capstone import Capstone
from week6.checks.symptoms_00 import SYMPTOMS


def imitate(
    model: nn.Module,
    ids: Int[Tensor, "N L"],
    is_answer: Bool[Tensor, "N L"],
    epochs: int,
    batch_size: int,
    learning_rate: float,
) -> Iterator[dict[str, Tensor]]:
    """Fine-tune `model` in place by the loss (2); after each step yields its rows, log_probs and loss.

    Row n of `ids` is a prompt, its answer and padding; `is_answer` is True at the tokens of the answer, the end too.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    steps = epochs * math.ceil(len(ids) / batch_size)
    step = 0
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(ids)), batch_size):
            tokens, counted = ids[rows], is_answer[rows]  # shape (B, L) each
            forecast = model(input_ids=tokens).logits.log_softmax(-1)  # (B, L, V): column k forecasts token k + 1
            came, counted = tokens[:, 1:], counted[:, 1:]  # (B, L − 1): the tokens that have a forecast
            log_probs = forecast[:, :-1].gather(-1, came.unsqueeze(-1)).squeeze(-1)
            loss = -(log_probs * counted).sum() / counted.sum()
            optimizer.param_groups[0]["lr"] = learning_rate * (1 - step / steps)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            yield {"rows": rows, "log_probs": log_probs.detach(), "loss": loss.detach()}


capstone = Capstone(
    title="0.5 Capstone: supervised fine-tuning, whole",
    reference=imitate,
    run=measure,
    steps=STEPS,
    symptoms=SYMPTOMS,
    shows=lambda records: (
        f"On {len(records)} problems your loss ends at most {max(r.gap(-1) for r in records):.4f} nats per token above "
        "the lowest that is possible."
    ),
    hints=(
        "In section 1 the model was asked for one token at a time. Which column of the logits holds the forecast of "
        "token k + 1, if the whole text goes in at once?",
        "A causal model forecasts every next token in one pass: column k of the logits knows tokens 0 … k, so "
        "log π of token k + 1 is the log-softmax of column k, read at that token. The loss is −Σ m log π / Σ m with "
        "the mask of token k + 1: both are one column shorter than the text.",
        "Make the optimizer. For each epoch shuffle the numbers 0 … N − 1 and cut them into batches. For each batch: "
        "logits of the whole rows; log-softmax over the vocabulary; drop the last column; gather at `ids[:, 1:]`; sum "
        "where `is_answer[:, 1:]`, divide by the number of such tokens, minus. Then set the learning rate to "
        "learning_rate · (1 − step/steps), clear the gradients, go backward, step, and yield.",
        "optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)\n"
        "steps, step = epochs * math.ceil(len(ids) / batch_size), 0\n"
        "for _ in range(epochs):\n"
        "    for rows in torch.split(torch.randperm(len(ids)), batch_size):\n"
        "        tokens, counted = ids[rows], is_answer[rows]\n"
        "        forecast = model(input_ids=tokens).logits.log_softmax(-1)\n"
        "        log_probs = forecast[...].gather(-1, tokens[...].unsqueeze(-1)).squeeze(-1)\n"
        "        loss = ...\n"
        '        optimizer.param_groups[0]["lr"] = ...\n'
        "        optimizer.zero_grad()\n"
        "        loss.backward()\n"
        "        optimizer.step()\n"
        "        step += 1\n"
        '        yield {"rows": rows, "log_probs": log_probs.detach(), "loss": loss.detach()}',
    ),
)
