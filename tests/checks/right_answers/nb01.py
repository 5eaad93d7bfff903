"""Right answers to the questions of notebook 01, each written in another way than the reference."""

import math

import numpy as np
import torch
import torch.nn.functional as F


def probability_by_softmax(reward_a, reward_b):
    return torch.stack([reward_a, reward_b]).softmax(dim=0)[0]


def probability_by_formula(a, b):
    """Two cases, so that no exponential overflows."""
    z = torch.exp(-(a - b).abs())
    return torch.where(a >= b, 1 / (1 + z), z / (1 + z))


def probability_by_logsigmoid(a, b):
    return F.logsigmoid(a - b).exp()


def ranking_by_loop(rewards):
    total = 0
    for k in range(rewards.shape[-1]):
        total = total + rewards[..., k] - torch.logsumexp(rewards[..., k:], dim=-1)
    return total


def ranking_by_mask(rewards):
    k = rewards.shape[-1]
    left = torch.triu(torch.ones(k, k, dtype=torch.bool))
    table = rewards[..., None, :].expand(*rewards.shape, k).masked_fill(~left, float("-inf"))
    return torch.einsum("...k->...", table.log_softmax(-1).diagonal(dim1=-2, dim2=-1))


def ranking_recursive(rewards):
    first = rewards.log_softmax(-1)[..., 0]
    return first if rewards.shape[-1] == 1 else first + ranking_recursive(rewards[..., 1:])


def loss_by_softplus(chosen, rejected, margin=0.0):
    return F.softplus(rejected - chosen + margin).mean()


def loss_by_loop(chosen, rejected, margin=0.0):
    margin = torch.as_tensor(margin).expand(chosen.shape)
    losses = [-F.logsigmoid(w - r - m) for w, r, m in zip(chosen, rejected, margin, strict=True)]
    return sum(losses) / len(losses)


def loss_by_cross_entropy(chosen, rejected, margin=0.0):
    logits = torch.stack([chosen - margin, rejected], dim=1)
    return F.cross_entropy(logits, torch.zeros(len(chosen), dtype=torch.long))


def gradient_by_loop(wins, rewards):
    out = []
    for i in range(len(rewards)):
        slope = 0.0
        for j in range(len(rewards)):
            if i != j:
                p = 1 / (1 + math.exp(float(rewards[j] - rewards[i])))
                slope += float(wins[i, j]) * (1 - p) - float(wins[j, i]) * p
        out.append(slope)
    return torch.tensor(out)


def gradient_by_autograd(wins, rewards):
    r = rewards.detach().clone().requires_grad_()
    log_likelihood = (wins * F.logsigmoid(r.unsqueeze(1) - r.unsqueeze(0))).sum()
    return torch.autograd.grad(log_likelihood, r)[0]


def gradient_by_einsum(wins, rewards):
    p = torch.softmax(torch.stack(torch.broadcast_tensors(rewards[:, None], rewards[None, :])), 0)[0]
    return wins.sum(1) - torch.einsum("ij,ij->i", wins + wins.t(), p)


def probability_without_gradient(a, b):
    with torch.no_grad():
        return 1 / (1 + torch.exp(b - a))


def probability_one_by_one(a, b):
    flat = [1 / (1 + math.exp(min(float(y - x), 700.0))) for x, y in zip(a.flatten(), b.flatten(), strict=True)]
    return torch.tensor(flat).view(a.shape)


def ranking_in_numpy(rewards):
    r = rewards.numpy().astype(np.float64)
    left = [np.logaddexp.reduce(r[..., k:], axis=-1) for k in range(r.shape[-1])]
    return r.sum(-1) - np.sum(left, axis=0)


def gradient_in_double_precision(wins, rewards):
    c, r = wins.double(), rewards.double()
    return (c - (c + c.T) * torch.sigmoid(r[:, None] - r)).sum(1)


def fit_by_zermelo(wins):
    weights = torch.ones(len(wins))
    for _ in range(2000):
        rate = (wins + wins.T) / (weights[:, None] + weights[None, :])
        weights = wins.sum(1) / rate.sum(1)
        weights = weights / weights.sum()
    return weights.log() - weights.log().mean()


def fit_by_newton(wins):
    r = torch.zeros(len(wins), dtype=torch.float64)
    for _ in range(30):
        p = torch.sigmoid(r[:, None] - r[None, :])
        t = (wins + wins.T).double()
        w = t * p * (1 - p)
        r = r + torch.linalg.pinv(torch.diag(w.sum(1)) - w) @ (wins - t * p).sum(1)
    return r.float()


def fit_by_lbfgs(wins):
    r = torch.zeros(len(wins), requires_grad=True)
    optimizer = torch.optim.LBFGS([r], max_iter=500, tolerance_grad=1e-6, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = -(wins * F.logsigmoid(r[:, None] - r[None, :])).sum() / wins.sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return (r - r.mean()).detach()


RIGHT = {
    "q1": [
        probability_by_softmax,
        probability_by_formula,
        probability_by_logsigmoid,
        probability_without_gradient,
        probability_one_by_one,
    ],
    "q2": [ranking_by_loop, ranking_by_mask, ranking_recursive, ranking_in_numpy],
    "q3": [loss_by_softplus, loss_by_loop, loss_by_cross_entropy],
    "q4": [gradient_by_loop, gradient_by_autograd, gradient_by_einsum, gradient_in_double_precision],
    "q5": [fit_by_zermelo, fit_by_newton, fit_by_lbfgs],
    "q6": [{"A", "E"}, {"E", "A"}],
}
