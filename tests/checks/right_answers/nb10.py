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


def thumbs_by_hand(log_ref, wins, beta, rate, steps):
    """The gradient of -c σ(u) by hand, with z₀ held fixed, and Adam's moments written out."""
    pi_ref, theta = log_ref.exp(), log_ref.clone()
    first, second = torch.zeros_like(theta), torch.zeros_like(theta)
    for t in range(1, steps + 1):
        pi = theta.softmax(-1)
        h = pi.log() - log_ref
        s = torch.sigmoid(beta * (h - (pi * h).sum()))
        by_log_pi = -pi_ref * (2 * wins - 1) * beta * s * (1 - s)
        gradient = by_log_pi - pi * by_log_pi.sum()
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        theta = theta - rate * (first / (1 - 0.9**t)) / ((second / (1 - 0.999**t)).sqrt() + 1e-8)
    return theta - theta.logsumexp(0)


def thumbs_with_detach(log_ref, wins, beta, rate, steps):
    logits = torch.nn.Parameter(log_ref.detach().clone())
    adam = torch.optim.Adam([logits], rate)
    for _ in range(steps):
        log_pi = torch.log_softmax(logits, 0)
        with torch.no_grad():
            z0 = F.kl_div(log_ref, log_pi, log_target=True, reduction="sum")
        u = beta * (log_pi - log_ref - z0)
        loss = sum(p * (w * (1 - g) + (1 - w) * g) for p, w, g in zip(log_ref.exp(), wins, u.sigmoid(), strict=True))
        adam.zero_grad()
        loss.backward()
        adam.step()
    return torch.log_softmax(logits.data, 0)


RIGHT = {
    "q1": [optimum_by_loops, optimum_by_differences],
    "q2": [kto_by_sign, kto_by_loop],
    "q3": [thumbs_by_hand, thumbs_with_detach],
    "q4": [simpo_by_softplus, simpo_by_cross_entropy],
    "q5": [orpo_by_log1p, orpo_by_loop],
}
SLOW = {kto_by_loop, orpo_by_loop}
"""Right, but with a loop that the text forbids: the cells after it would take an hour."""
