"""Right answers to the questions of notebook 10, each written in another way than the reference."""

import torch
import torch.nn.functional as F


def optimum_by_loops(log_ref, preference, beta):
    n = len(log_ref)
    wins = [sum(log_ref[b].exp() * preference[y, b] for b in range(n)) for y in range(n)]
    scores = torch.stack([log_ref[y] + wins[y] / beta for y in range(n)])
    return scores - torch.logsumexp(scores, 0)


def optimum_by_differences(log_ref, preference, beta):
    """With E[2p − 1]/2 for the win rate: a constant less, which log Z takes away."""
    advantage = ((2 * preference - 1) * log_ref.softmax(-1)).sum(dim=1) / 2
    return torch.log_softmax(log_ref + advantage / beta, dim=0)


def kto_by_sign(log_ratio, desirable, z0, beta, lambda_d, lambda_u):
    sign = desirable.to(log_ratio.dtype) * 2 - 1
    weight = lambda_u + (lambda_d - lambda_u) * desirable.to(log_ratio.dtype)
    return weight * (1 - torch.sigmoid(sign * beta * (log_ratio - z0)))


def kto_by_loop(log_ratio, desirable, z0, beta, lambda_d, lambda_u):
    losses = []
    for r, good in zip(log_ratio, desirable, strict=True):
        losses.append(lambda_d / (1 + (beta * (r - z0)).exp()) if good else lambda_u / (1 + (beta * (z0 - r)).exp()))
    return torch.stack(losses)


def simpo_by_softplus(chosen, rejected, chosen_length, rejected_length, beta, gamma):
    return F.softplus(gamma - beta * chosen / chosen_length + beta * rejected / rejected_length)


def simpo_by_cross_entropy(chosen, rejected, chosen_length, rejected_length, beta, gamma):
    scores = torch.stack([beta * chosen / chosen_length - gamma, beta * rejected / rejected_length], dim=-1)
    return torch.logsumexp(scores, -1) - scores[:, 0]


def orpo_by_log1p(chosen, rejected, lam):
    log_ratio = (chosen - rejected) - (torch.log1p(-chosen.exp()) - torch.log1p(-rejected.exp()))
    return lam * F.softplus(-log_ratio) - chosen


def orpo_by_loop(chosen, rejected, lam):
    def odds(mean):
        return mean - (1 - mean.exp()).log()

    return torch.stack([-w - lam * F.logsigmoid(odds(w) - odds(x)) for w, x in zip(chosen, rejected, strict=True)])


RIGHT = {
    "q1": [optimum_by_loops, optimum_by_differences],
    "q2": [kto_by_sign, kto_by_loop],
    "q3": [simpo_by_softplus, simpo_by_cross_entropy],
    "q4": [orpo_by_log1p, orpo_by_loop],
}
