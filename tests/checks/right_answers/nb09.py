"""Right answers to the questions of notebook 09, each written in another way than the reference."""

import math

import numpy as np
import torch


def pass_by_products(correct, n, k):
    """The product of Chen et al. 2021, one answer after the other."""
    result = torch.ones(len(correct), dtype=torch.float64)
    for i in range(k):
        result = result * ((n - correct - i).clamp(min=0) / (n - i))
    return 1 - result


def pass_by_gamma(correct, n, k):
    shares = []
    for c in map(int, correct):
        if n - c < k:
            shares.append(1.0)
        else:
            logs = [math.lgamma(n - c + 1), -math.lgamma(n - c - k + 1), -math.lgamma(n + 1), math.lgamma(n - k + 1)]
            shares.append(1 - math.exp(sum(logs)))
    return torch.tensor(shares)


def leave_one_out_by_loop(rewards):
    columns = []
    for k in range(rewards.shape[1]):
        others = torch.cat([rewards[:, :k], rewards[:, k + 1 :]], dim=1)
        columns.append(rewards[:, k] - others.mean(dim=1))
    return torch.stack(columns, dim=1)


def leave_one_out_by_einsum(rewards):
    k = rewards.shape[1]
    weights = torch.eye(k) * k / (k - 1) - torch.ones(k, k) / (k - 1)
    return torch.einsum("bj,jk->bk", rewards, weights)


def leave_one_out_as_a_constant(rewards):
    """An advantage is data: no gradient goes through it, in double precision."""
    k = rewards.shape[1]
    fixed = rewards.detach().double()
    return fixed - (fixed.sum(1, keepdim=True) - fixed) / (k - 1)


def loss_by_loops(log_probs, old_log_probs, advantages, mask, clip_low, clip_high):
    total, count = torch.zeros((), dtype=log_probs.dtype), 0
    for i in range(len(advantages)):
        for t in range(log_probs.shape[1]):
            if mask[i, t]:
                ratio = torch.exp(log_probs[i, t] - old_log_probs[i, t])
                held = torch.clamp(ratio, 1 - clip_low, 1 + clip_high)
                total = total - torch.minimum(ratio * advantages[i], held * advantages[i])
                count += 1
    return total / count


def loss_of_the_chosen(log_probs, old_log_probs, advantages, mask, clip_low, clip_high):
    """Only real tokens from the start; the clip as a choice by the sign of the advantage."""
    a = advantages[:, None].expand_as(log_probs)[mask]
    ratio = torch.exp((log_probs - old_log_probs)[mask])
    held = torch.where(a > 0, ratio.clamp(max=1 + clip_high), ratio.clamp(min=1 - clip_low))
    return -(a * held).mean()


def best_by_logits(p, beta):
    q = torch.sigmoid(torch.log(p) - torch.log1p(-p) + 1 / beta)
    kl = torch.distributions.kl_divergence(torch.distributions.Bernoulli(q), torch.distributions.Bernoulli(p))
    return q, kl


def best_through_z(p, beta):
    """KL = E[r]/β − log Z."""
    z = 1 - p + p * math.exp(1 / beta)
    q = p * math.exp(1 / beta) / z
    return q, q / beta - torch.log(z)


def compare_by_loops(first, second, z):
    """Plain Python: lists of rates, sums of squares."""

    def mean(numbers):
        return sum(numbers) / len(numbers)

    def squared_error(numbers):
        middle = mean(numbers)
        return sum((x - middle) ** 2 for x in numbers) / (len(numbers) - 1) / len(numbers)

    def rates(runs):
        return [[mean(answers) for answers in run.tolist()] for run in runs]

    a, b = rates(first), rates(second)
    gaps = []
    for m in range(len(a[0])):
        gaps.append(mean([run[m] for run in a]) - mean([run[m] for run in b]))
    s = math.sqrt(
        squared_error(gaps) + squared_error([mean(run) for run in a]) + squared_error([mean(run) for run in b])
    )
    return mean(gaps), mean(gaps) - z * s, mean(gaps) + z * s


def compare_in_numpy(first, second, z):
    a, b = (np.array([run.numpy().mean(axis=1) for run in runs]) for runs in (first, second))
    d = a.mean(axis=0) - b.mean(axis=0)
    variance = d.var(ddof=1) / d.size + sum(x.mean(axis=1).var(ddof=1) / len(x) for x in (a, b))
    return d.mean(), d.mean() - z * np.sqrt(variance), d.mean() + z * np.sqrt(variance)


def compare_by_standard_errors(first, second, z):
    """Three standard errors, and the length of the vector that they make; tensors all the way."""
    success = [torch.stack([run.double().mean(-1) for run in runs]) for runs in (first, second)]
    gap = success[0].mean(0).sub(success[1].mean(0))
    errors = [gap.std() / len(gap) ** 0.5] + [x.mean(1).std() / len(x) ** 0.5 for x in success]
    return tuple(gap.mean() + k * z * torch.stack(errors).norm() for k in (0, -1, 1))


RIGHT = {
    "q1": [pass_by_products, pass_by_gamma],
    "q2": [leave_one_out_by_loop, leave_one_out_by_einsum, leave_one_out_as_a_constant],
    "q3": [loss_by_loops, loss_of_the_chosen],
    "q4": [best_by_logits, best_through_z],
    "q6": [compare_by_loops, compare_in_numpy, compare_by_standard_errors],
}
