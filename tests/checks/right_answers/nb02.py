"""Right answers to the questions of notebook 02, each written in another way than the reference."""

import numpy as np
import torch
import torch.nn.functional as F


def last_by_loop(mask):
    return torch.tensor([max(i for i, real in enumerate(row) if real) for row in mask.tolist()])


def last_by_flip(attention_mask):
    return attention_mask.shape[1] - 1 - attention_mask.flip(1).long().argmax(1)


def last_by_where(mask):
    columns = torch.arange(mask.shape[1]).expand(mask.shape)
    return torch.where(mask.bool(), columns, -1).max(dim=1).values


def head_by_loop(hidden, mask, weight, bias):
    scores = []
    for h, m in zip(hidden, mask, strict=True):
        scores.append((h[m.bool()][-1] * weight).sum() + bias)
    return torch.stack(scores)


def head_by_einsum(hidden, mask, weight, bias):
    one_hot = F.one_hot(last_by_flip(mask), mask.shape[1]).to(hidden.dtype)
    return torch.einsum("bld,bl,d->b", hidden, one_hot, weight) + bias


def loss_by_halves(scores):
    n = len(scores) // 2
    return F.softplus(scores[n:] - scores[:n]).mean()


def loss_by_reshape(scores):
    return -scores.view(2, -1).log_softmax(dim=0)[0].mean()


def ceiling_by_abs(probability):
    return 0.5 + (probability - 0.5).abs().mean()


def ceiling_by_loop(probability):
    total = torch.tensor(0.0)
    for p in probability:
        total = total + (p if p > 0.5 else 1 - p)
    return total / len(probability)


def loss_in_double_precision(scores):
    n = len(scores) // 2
    return torch.stack([-F.logsigmoid(scores[i].double() - scores[n + i].double()) for i in range(n)]).mean()


def ceiling_in_numpy(probability):
    p = probability.numpy().astype(np.float64)
    return np.maximum(p, 1 - p).mean()


RIGHT = {
    "q1": [last_by_loop, last_by_flip, last_by_where],
    "q2": [head_by_loop, head_by_einsum],
    "q3": [loss_by_halves, loss_by_reshape, loss_in_double_precision],
    "q4": [ceiling_by_abs, ceiling_by_loop, ceiling_in_numpy],
}
