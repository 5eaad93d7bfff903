"""Right answers to the questions of notebook 03, each written in another way than the reference."""

import math

import torch
import torch.nn.functional as F


def kl_by_library(log_p, log_q):
    return F.kl_div(log_q, log_p.exp(), reduction="none").sum(-1)


def kl_as_cross_entropy(log_p, log_q):
    p = log_p.exp()
    return torch.special.xlogy(p, p).sum(-1) - torch.einsum("...n,...n->...", p, log_q)


def kl_by_loop(log_p, log_q):
    total = torch.zeros_like(log_q[..., 0])
    for i in range(log_p.shape[-1]):
        a, b = log_p[..., i], log_q[..., i]
        total = total + (a.exp() * (a - b)).nan_to_num(0.0, posinf=torch.inf)
    return total


def kl_without_a_gradient_to_the_reference(log_p, log_q):
    p = log_p.exp()
    return torch.where(p > 0, p * (log_p - log_q.detach()), 0.0).sum(-1)


def kl_by_score_function(log_p, log_q):
    """The gradient of equation (27): the weights carry it, and the log-ratio is held fixed."""
    d = torch.where(torch.isinf(log_p), 0.0, (log_p - log_q).detach())
    return (log_p.exp() * d).sum(-1)


def objective_below_its_maximum(log_probs, ref_log_probs, rewards, beta):
    """Equation (9): β log Z − β KL(π ‖ π*)."""
    weighted = ref_log_probs + rewards / beta
    gap = torch.where(torch.isinf(log_probs), 0.0, log_probs.exp() * (log_probs - weighted.log_softmax(-1))).sum(-1)
    return beta * weighted.logsumexp(-1) - beta * gap


def objective_of_fixed_numbers(log_probs, ref_log_probs, rewards, beta):
    """Only the policy is trained: no gradient to the reference and the rewards."""
    return objective_as_one_sum(log_probs, ref_log_probs.detach(), rewards.detach(), beta)


def objective_as_one_sum(log_probs, ref_log_probs, rewards, beta):
    """Equation (5)."""
    inside = rewards - beta * (log_probs - ref_log_probs)
    return torch.where(torch.isinf(log_probs), 0.0, log_probs.exp() * inside).sum(-1)


def objective_by_einsum(log_probs, ref_log_probs, rewards, beta):
    pi = log_probs.exp()
    entropy = -torch.special.xlogy(pi, pi).sum(dim=-1)
    return torch.einsum("...n,...n->...", pi, rewards + beta * ref_log_probs) + beta * entropy


def objective_by_loop(log_probs, ref_log_probs, rewards, beta):
    total = 0
    for y in range(rewards.shape[-1]):
        log_pi, log_ref, r = log_probs[..., y], ref_log_probs[..., y], rewards[..., y]
        total = total + torch.nan_to_num(log_pi.exp() * (r - beta * (log_pi - log_ref)), nan=0.0)
    return total


def optimum_by_log_softmax(ref_log_probs, rewards, beta):
    tilted = rewards / beta + ref_log_probs
    return tilted.log_softmax(dim=-1), torch.logsumexp(tilted, -1)


def optimum_shifted(ref_log_probs, rewards, beta):
    """Subtract the largest exponent by hand, then (7) as it stands."""
    exponent = rewards / beta
    top = (exponent + ref_log_probs).max(dim=-1, keepdim=True).values
    weights = torch.exp(exponent + ref_log_probs - top)
    log_z = (weights.sum(-1, keepdim=True).log() + top).squeeze(-1)
    return ref_log_probs + exponent - log_z[..., None], log_z


def optimum_row_by_row(ref_log_probs, rewards, beta):
    if rewards.ndim > 1:
        pieces = [optimum_row_by_row(a, b, beta) for a, b in zip(ref_log_probs, rewards, strict=True)]
        return torch.stack([p[0] for p in pieces]), torch.stack([p[1] for p in pieces])
    log_z = torch.tensor(-math.inf, dtype=rewards.dtype)
    for a, b in zip(ref_log_probs, rewards, strict=True):
        log_z = torch.logaddexp(log_z, a + b / beta)
    return ref_log_probs + rewards / beta - log_z, log_z


def token_rewards_by_loop(scores, log_probs, ref_log_probs, mask, beta):
    rows = []
    for i in range(len(scores)):
        n = int(mask[i].sum())
        row = [beta * (ref_log_probs[i, t] - log_probs[i, t]) for t in range(n)]
        row[-1] = row[-1] + scores[i]
        rows.append(torch.stack(row + [torch.zeros(())] * (mask.shape[1] - n)))
    return torch.stack(rows)


def token_rewards_by_scatter(scores, log_probs, ref_log_probs, mask, beta):
    rewards = (-beta * (log_probs - ref_log_probs)).masked_fill(~mask, 0)
    last = mask.long().sum(1, keepdim=True) - 1
    return rewards.scatter_add(1, last, scores.unsqueeze(1))


def token_rewards_by_index(scores, log_probs, ref_log_probs, mask, beta):
    rewards = torch.zeros(mask.shape)
    rewards[mask] = beta * (ref_log_probs[mask] - log_probs[mask])
    rows = torch.arange(len(scores))
    rewards[rows, mask.sum(-1) - 1] += scores
    return rewards


def estimators_from_ratio(log_probs, ref_log_probs):
    log_u = ref_log_probs - log_probs
    return -log_u, 0.5 * log_u.pow(2), log_u.exp() - 1 - log_u


def estimators_with_expm1(log_probs, ref_log_probs):
    d = log_probs - ref_log_probs
    return (d, d * d / 2, torch.expm1(-d) + d)


RIGHT = {
    "q1": [
        kl_by_library,
        kl_as_cross_entropy,
        kl_by_loop,
        kl_without_a_gradient_to_the_reference,
        kl_by_score_function,
    ],
    "q2": [
        objective_as_one_sum,
        objective_by_einsum,
        objective_by_loop,
        objective_below_its_maximum,
        objective_of_fixed_numbers,
    ],
    "q3": [optimum_by_log_softmax, optimum_shifted, optimum_row_by_row],
    "q4": [token_rewards_by_loop, token_rewards_by_scatter, token_rewards_by_index],
    "q5": [estimators_from_ratio, estimators_with_expm1],
    "q6": [{"k3": "C", "k2": "B", "k1": "A"}, {"k1": "a", "k2": " b", "k3": "c "}],
}
