"""Loops of supervised fine-tuning, right and wrong."""

import torch
import torch.nn.functional as F


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
RECOGNISED = {
    "a token after itself": "no shift",
    "the token before": "shift to the wrong side",
    "logits": "logits",
    "probabilities": "probabilities",
    "softmax along the text": "softmax over the wrong axis",
    "prompts too": "prompts in the loss",
    "everything": "everything in the loss",
    "padding too": "padding in the loss",
    "where it is not padding": "end left out",
    "mask not shifted": "mask not shifted",
    "sum": "sum",
    "mean over all columns": "divided by the columns",
    "mean of means": "mean of means",
    "minus missing": "minus missing",
    "uphill": "uphill",
    "no step": "nothing moves",
    "no zero_grad": "gradients pile up",
    "a new optimizer each time": "a new optimizer in every step",
    "no decay": "the learning rate does not fall",
    "one batch": "always the same rows",
    "first token left out": "first token left out",
    "log of the mean": "logarithm of a mean",
    "rate rises": "the learning rate rises",
    "plain gradient descent": "plain gradient descent",
    "prompts only": "prompts alone",
    "base 2": "another unit",
    "one order for all epochs": "one order for all epochs",
    "weight decay": "weight decay",
    "trains on everything, reports the answers": "steps by another loss",
    "not shuffled": "one order for all epochs",
    "with replacement": "drawn with repeats",
    "one epoch": "another number of steps",
    "rate halved each step": "the learning rate falls too soon",
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
