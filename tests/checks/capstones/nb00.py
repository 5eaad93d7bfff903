"""Loops of supervised fine-tuning, right and wrong."""

import torch
import torch.nn.functional as F

from tests.checks.capstones.altered import altered
from week6.checks.capstone_00 import imitate


def _loop(
    *,
    order=lambda n, epoch: torch.randperm(n),
    epochs_of=lambda epochs: epochs,
    log_probs=lambda logits, ids: logits.log_softmax(-1)[:, :-1].gather(-1, ids[:, 1:].unsqueeze(-1)).squeeze(-1),
    mask=lambda ids, is_answer: is_answer[:, 1:],
    loss_of=lambda p, m: -(p * m).sum() / m.sum(),
    trained=lambda loss, p, m: loss,
    make=torch.optim.Adam,
    rate=lambda step, steps: 1 - step / steps,
    clear=True,
    step_now=True,
    fresh=False,
):
    """The course's loop, with one part of it replaced."""

    def answer(model, ids, is_answer, epochs, batch_size, learning_rate):
        optimizer = make(model.parameters(), lr=learning_rate)
        steps, step = epochs * len(ids) // batch_size, 0
        for epoch in range(epochs_of(epochs)):
            for rows in order(len(ids), epoch).split(batch_size):
                p = log_probs(model(input_ids=ids[rows]).logits, ids[rows])
                m = mask(ids[rows], is_answer[rows])
                loss = loss_of(p, m)
                if fresh:
                    optimizer = make(model.parameters(), lr=learning_rate)
                optimizer.param_groups[0]["lr"] = learning_rate * rate(step, steps)
                if clear:
                    optimizer.zero_grad()
                trained(loss, p, m).backward()
                if step_now:
                    optimizer.step()
                step += 1
                yield {"rows": rows, "log_probs": p.detach(), "loss": loss.detach()}

    return answer


def with_cross_entropy(model, ids, is_answer, epochs, batch_size, learning_rate):
    """PyTorch's loss with ignored targets, batches by a data loader, a scheduler; yields before the update."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0)
    loader = torch.utils.data.DataLoader(range(len(ids)), batch_size=batch_size, shuffle=True)
    fall = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, total_iters=epochs * len(loader))
    for _ in range(epochs):
        for rows in loader:
            logits = model(input_ids=ids[rows]).logits[:, :-1]
            target = ids[rows][:, 1:].masked_fill(~is_answer[rows][:, 1:], -100)
            loss = F.cross_entropy(logits.transpose(1, 2), target)
            all_tokens = -F.cross_entropy(logits.transpose(1, 2), ids[rows][:, 1:], reduction="none")
            yield {"rows": rows, "log_probs": all_tokens, "loss": loss}
            model.zero_grad()
            loss.backward()
            optimizer.step()
            fall.step()


def by_hand(model, ids, is_answer, epochs, batch_size, learning_rate):
    """Loops over rows and tokens, and an Adam of one's own."""
    weights = list(model.parameters())
    first, second = [torch.zeros_like(w) for w in weights], [torch.zeros_like(w) for w in weights]
    steps, step = epochs * len(ids) // batch_size, 0
    for _ in range(epochs):
        order = torch.randperm(len(ids)).tolist()
        for start in range(0, len(ids), batch_size):
            rows = order[start : start + batch_size]
            log_probs = torch.stack(
                [
                    torch.log_softmax(model(input_ids=ids[i : i + 1]).logits[0, :-1], -1)[
                        torch.arange(ids.shape[1] - 1), ids[i, 1:]
                    ]
                    for i in rows
                ]
            )
            loss = -log_probs[is_answer[rows][:, 1:]].mean()
            gradients = torch.autograd.grad(loss, weights)
            step += 1
            with torch.no_grad():
                for w, g, m, v in zip(weights, gradients, first, second, strict=True):
                    m.mul_(0.9).add_(0.1 * g)
                    v.mul_(0.999).add_(0.001 * g**2)
                    size = learning_rate * (1 - (step - 1) / steps)
                    w -= size * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
            yield {"rows": rows, "log_probs": log_probs.tolist(), "loss": loss.item()}


RIGHT = {"cross entropy": with_cross_entropy, "by hand": by_hand}


def _gather(logits, ids):
    return logits.gather(-1, ids.unsqueeze(-1)).squeeze(-1)


def _up_to_the_end(is_answer):
    """The text without padding."""
    return is_answer.long().flip(-1).cummax(-1).values.flip(-1).bool()


MISTAKES = {
    "a token after itself": _loop(log_probs=lambda logits, ids: _gather(logits.log_softmax(-1), ids)[:, 1:]),
    "the token before": _loop(log_probs=lambda logits, ids: _gather(logits[:, 1:].log_softmax(-1), ids[:, :-1])),
    "logits": _loop(log_probs=lambda logits, ids: _gather(logits[:, :-1], ids[:, 1:])),
    "probabilities": _loop(log_probs=lambda logits, ids: _gather(logits[:, :-1].softmax(-1), ids[:, 1:])),
    "softmax along the text": _loop(log_probs=lambda logits, ids: _gather(logits.log_softmax(1)[:, :-1], ids[:, 1:])),
    "prompts too": _loop(mask=lambda ids, is_answer: _up_to_the_end(is_answer)[:, 1:]),
    "everything": _loop(mask=lambda ids, is_answer: torch.ones_like(is_answer)[:, 1:]),
    "padding too": _loop(mask=lambda ids, is_answer: (is_answer | ~_up_to_the_end(is_answer))[:, 1:]),
    "where it is not padding": _loop(mask=lambda ids, is_answer: (is_answer & (ids != ids[0, -1]))[:, 1:]),
    "mask not shifted": _loop(mask=lambda ids, is_answer: is_answer[:, :-1]),
    "sum": _loop(loss_of=lambda p, m: -(p * m).sum()),
    "mean over all columns": _loop(loss_of=lambda p, m: -(p * m).mean()),
    "mean of means": _loop(loss_of=lambda p, m: -((p * m).sum(1) / m.sum(1)).mean()),
    "minus missing": _loop(loss_of=lambda p, m: (p * m).sum() / m.sum()),
    "uphill": _loop(trained=lambda loss, p, m: -loss),
    "no step": _loop(step_now=False),
    "no zero_grad": _loop(clear=False),
    "a new optimizer each time": _loop(fresh=True),
    "no decay": _loop(rate=lambda step, steps: 1.0),
    "one batch": _loop(order=lambda n, epoch: torch.arange(16).repeat(n // 16)),
    "not shuffled": _loop(order=lambda n, epoch: torch.arange(n)),
    "with replacement": _loop(order=lambda n, epoch: torch.randint(n, (n,))),
    "one epoch": _loop(epochs_of=lambda epochs: 1),
    "detached": _loop(trained=lambda loss, p, m: loss.detach()),
    "first token left out": _loop(mask=lambda ids, is_answer: is_answer[:, 1:] & is_answer[:, :-1]),
    "log of the mean": _loop(loss_of=lambda p, m: -((p.exp() * m).sum() / m.sum()).log()),
    "rate rises": _loop(rate=lambda step, steps: step / steps),
    "rate halved each step": _loop(rate=lambda step, steps: 0.5**step),
    "plain gradient descent": _loop(make=torch.optim.SGD),
    "prompts only": _loop(mask=lambda ids, is_answer: ~is_answer[:, 1:]),
    "base 2": _loop(log_probs=lambda logits, ids: _gather(logits.log_softmax(-1)[:, :-1], ids[:, 1:]) / 0.6931),
    "one order for all epochs": _loop(
        order=lambda n, epoch: torch.randperm(n, generator=torch.Generator().manual_seed(7))
    ),
    "weight decay": _loop(make=lambda weights, lr: torch.optim.AdamW(weights, lr=lr, weight_decay=0.5)),
    "trains on everything, reports the answers": _loop(trained=lambda loss, p, m: -p.mean()),
    "loss of the longest answer": _loop(loss_of=lambda p, m: -(p * m).sum(1).min() / m.sum(1).max()),
}
MISTAKES |= {
    "last column cut first": altered(imitate, ("ids[rows], is_answer[rows]", "ids[rows, :-1], is_answer[rows, :-1]")),
    "mask of the first row": altered(imitate, ("counted[:, 1:]  #", "counted[:1, 1:].expand(len(rows), -1)  #")),
    "mask not permuted": altered(imitate, ("is_answer[rows]", "is_answer[: len(rows)]")),
    "targets not permuted": altered(imitate, ("tokens[:, 1:], counted", "ids[: len(rows), 1:], counted")),
    "divided twice": altered(
        imitate, ("(log_probs * counted).sum() / counted", "(log_probs * counted).mean() / counted")
    ),
    "zero_grad before step": altered(
        imitate,
        (
            "            optimizer.zero_grad()\n            loss.backward()\n",
            "            loss.backward()\n            optimizer.zero_grad()\n",
        ),
    ),
    "rate multiplied into itself": altered(imitate, ('["lr"] = learning_rate * (', '["lr"] *= (')),
    "steps of one epoch": altered(imitate, ("steps = epochs * math", "steps = math")),
    "softmax twice": altered(imitate, ("logits.log_softmax(-1)", "logits.softmax(-1).log_softmax(-1)")),
    "shifted twice": altered(
        imitate,
        ("tokens[:, 1:], counted[:, 1:]", "tokens[:, 2:], counted[:, 2:]"),
        ("forecast[:, :-1]", "forecast[:, :-2]"),
    ),
    "SGD with momentum": altered(
        imitate,
        ("Adam(model.parameters(), lr=learning_rate)", "SGD(model.parameters(), lr=learning_rate, momentum=0.9)"),
    ),
    "running mean of the losses": altered(
        imitate,
        ("    step = 0\n", "    step, total = 0, 0.0\n"),
        ("            step += 1\n", "            step += 1\n            total += loss.detach()\n"),
        ('"loss": loss.detach()', '"loss": total / step'),
    ),
    "trains a copy": altered(
        imitate, ("    optimizer = torch", "    model = __import__('copy').deepcopy(model)\n    optimizer = torch")
    ),
    "mask before the softmax": altered(
        imitate, ("logits.log_softmax(-1)", "logits.mul(counted.unsqueeze(-1)).log_softmax(-1)")
    ),
    "prompts zeroed in the input": altered(imitate, ("input_ids=tokens", "input_ids=tokens * counted")),
    "counts along the answer": altered(
        imitate,
        (
            "-(log_probs * counted).sum() / counted.sum()",
            "-(log_probs * counted.cumsum(1) * counted).sum() / counted.sum()",
        ),
    ),
    "entropy added": altered(
        imitate,
        (
            "-(log_probs * counted).sum()",
            "0.1 * (forecast.exp() * forecast)[:, :-1].sum(-1)[counted].mean() - (log_probs * counted).sum()",
        ),
    ),
    "divided by the answers of all data": altered(imitate, (".sum() / counted.sum()", ".sum() / is_answer.sum()")),
    "zero_grad once an epoch": altered(
        imitate,
        ("    for _ in range(epochs):\n", "    for _ in range(epochs):\n        optimizer.zero_grad()\n"),
        ("            optimizer.zero_grad()\n            loss", "            loss"),
    ),
    "weights held after each step": altered(
        imitate,
        (
            "            optimizer.step()\n",
            "            optimizer.step()\n            model.table.data.clamp_(-1, 1)\n",
        ),
    ),
}
RECOGNISED = {
    "prompts zeroed in the input": "other texts asked about",
    "counts along the answer": "weights by the place",
    "entropy added": "more than the tokens that came",
    "divided by the answers of all data": "another weight for all",
    "zero_grad once an epoch": "gradients pile up",
    "weights held after each step": "steps that are not Adam's",
    "last column cut first": "a column is missing",
    "mask of the first row": "mask of other rows",
    "mask not permuted": "mask of other rows",
    "targets not permuted": "other rows",
    "divided twice": "divided twice",
    "zero_grad before step": "nothing moves",
    "rate multiplied into itself": "the learning rate falls too soon",
    "steps of one epoch": "the learning rate below 0",
    "softmax twice": "softmax twice",
    "shifted twice": "shifted twice",
    "SGD with momentum": "another optimizer",
    "running mean of the losses": "the losses of other steps",
    "trains a copy": "forecasts of another model",
    "mask before the softmax": "masked before the softmax",
    "a token after itself": "no shift",
    "the token before": "shift to the wrong side",
    "logits": "logits",
    "probabilities": "probabilities",
    "softmax along the text": "softmax over the wrong axis",
    "prompts too": "+prompt +mark",
    "everything": "+prompt +mark +next +padding",
    "padding too": "+next +padding",
    "where it is not padding": "−end",
    "mask not shifted": "+next −first",
    "sum": "sum",
    "mean over all columns": "divided by the columns",
    "mean of means": "mean of means",
    "minus missing": "minus missing",
    "uphill": "trained: the right tokens, upside down",
    "no step": "nothing moves",
    "no zero_grad": "gradients pile up",
    "a new optimizer each time": "a new optimizer in every step",
    "no decay": "the learning rate does not fall to 0",
    "one batch": "always the same rows",
    "first token left out": "−first",
    "log of the mean": "logarithm of a mean",
    "rate rises": "the learning rate rises",
    "plain gradient descent": "plain gradient descent",
    "prompts only": "+prompt +mark +next +padding −first −inside −end",
    "base 2": "another unit",
    "one order for all epochs": "one order for all epochs",
    "weight decay": "weight decay",
    "trains on everything, reports the answers": "trained: prompts and padding counted",
    "not shuffled": "one order for all epochs",
    "with replacement": "drawn with repeats",
    "one epoch": "another number of steps",
    "rate halved each step": "the learning rate falls too soon",
    "loss of the longest answer": "whole answers left out",
}


# --- written after the symptoms and the tolerances --------------------------------------------------------------------


UNSEEN = {
    "last word left out": _loop(mask=lambda ids, is_answer: is_answer[:, 1:] & is_answer[:, 1:].roll(-2, dims=1)),
    "mask two columns off": _loop(mask=lambda ids, is_answer: is_answer.roll(1, dims=1)[:, 1:]),
    "softmax for log-softmax, then log": _loop(
        log_probs=lambda logits, ids: (_gather(logits[:, :-1].softmax(-1), ids[:, 1:]) + 0.1).log()
    ),
    "log-softmax over the batch": _loop(
        log_probs=lambda logits, ids: _gather(logits.log_softmax(0)[:, :-1], ids[:, 1:])
    ),
    "temperature of a half": _loop(
        log_probs=lambda logits, ids: _gather((2 * logits).log_softmax(-1)[:, :-1], ids[:, 1:])
    ),
    "a loss in bits": _loop(loss_of=lambda p, m: -(p * m).sum() / m.sum() / 0.6931),
    "squares": _loop(loss_of=lambda p, m: (p * m).square().sum() / m.sum()),
    "perplexity": _loop(loss_of=lambda p, m: (-(p * m).sum() / m.sum()).exp()),
    "median of the tokens": _loop(loss_of=lambda p, m: -p[m].median()),
    "only every second batch": _loop(
        trained=lambda loss, p, m: loss * (p.detach().sum() > p.detach().mean() * p.numel())
    ),
    "rate falls to a half": _loop(rate=lambda step, steps: 1 - step / steps / 2),
    "rate ten times as small": _loop(rate=lambda step, steps: (1 - step / steps) / 10),
    "RMSprop": _loop(make=torch.optim.RMSprop),
    "schedule by epochs of one": _loop(rate=lambda step, steps: 1 - (step % 40) / 40),
    "trains on the longest answers": _loop(trained=lambda loss, p, m: -(p * m).sum(1).min() / m.sum(1).max()),
}
UNSEEN |= {
    "counts from the first answer token of the batch on": altered(
        imitate, ("(log_probs * counted).sum() / counted.sum()", "log_probs[:, counted.any(0)].mean()")
    ),
    "row mask for token mask": altered(
        imitate,
        (
            "tokens[:, 1:], counted[:, 1:]",
            "tokens[:, 1:], counted.any(1, keepdim=True).expand(-1, tokens.shape[1] - 1)",
        ),
    ),
    "weights by position": altered(
        imitate,
        (
            "(log_probs * counted).sum() / counted.sum()",
            "(log_probs * counted * torch.linspace(0, 1, counted.shape[1])).sum() / counted.sum()",
        ),
    ),
    "absolute value of the sum": altered(
        imitate,
        (
            "-(log_probs * counted).sum() / counted.sum()",
            "((log_probs * counted).sum(1) / counted.sum(1)).square().mean().sqrt()",
        ),
    ),
    "label smoothing": altered(
        imitate,
        (
            "-(log_probs * counted).sum() / counted.sum()",
            "torch.nn.functional.cross_entropy("
            "forecast[:, :-1].transpose(1, 2), came.masked_fill(~counted, -100), label_smoothing=0.1)",
        ),
    ),
    "loss over the batch's end added": altered(
        imitate,
        (
            "            optimizer.param",
            "            loss = loss + loss.detach() * 0 - log_probs[:, -1].mean()\n            optimizer.param",
        ),
    ),
    "sigmoid for softmax": altered(
        imitate,
        (
            "model(input_ids=tokens).logits.log_softmax(-1)",
            "torch.nn.functional.logsigmoid(model(input_ids=tokens).logits)",
        ),
    ),
    "padded logits cut per batch": altered(
        imitate,
        (
            "forecast[:, :-1].gather(-1, came.unsqueeze(-1)).squeeze(-1)",
            "forecast[:, :-1].gather(-1, tokens[:, :-1].unsqueeze(-1)).squeeze(-1)",
        ),
    ),
    "only the first half of the data": altered(
        imitate, ("torch.randperm(len(ids))", "torch.randperm(len(ids) // 2).repeat(2)")
    ),
    "gradient clipped by value and SGD": altered(
        imitate,
        (
            "            loss.backward()\n",
            "            loss.backward()\n            torch.nn.utils.clip_grad_value_(model.parameters(), 0.001)\n",
        ),
        ("Adam(", "SGD("),
    ),
    "rate squared": altered(
        imitate, ("learning_rate * (1 - step / steps)", "(learning_rate * (1 - step / steps)) ** 2")
    ),
    "weights set back each epoch": altered(
        imitate,
        (
            "    for _ in range(epochs):\n",
            "    start = [w.detach().clone() for w in model.parameters()]\n"
            "    for _ in range(epochs):\n"
            "        for w, s in zip(model.parameters(), start):\n"
            "            w.data.copy_(s)\n",
        ),
    ),
}
