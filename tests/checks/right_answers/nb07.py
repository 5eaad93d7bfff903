"""Right answers to the questions of notebook 07, each written in another way than the reference."""

import math
import statistics

import numpy as np
import torch


def pareto_by_loops(kl, reward):
    keep = []
    for k, r in zip(kl.tolist(), reward.tolist(), strict=True):
        beaten = any(a <= k and b >= r and (a < k or b > r) for a, b in zip(kl.tolist(), reward.tolist(), strict=True))
        keep.append(not beaten)
    return torch.tensor(keep)


def pareto_by_staircase(kl, reward):
    """Up the KL: the best of each KL, if it is higher than everything at a smaller KL."""
    keep = torch.zeros(len(kl), dtype=torch.bool)
    best = -math.inf
    for k in kl.unique():
        here = kl == k
        top = reward[here].max()
        if top > best:
            keep |= here & (reward == top)
            best = top
    return keep


def wilson_by_roots(wins, losses, ties=0, z=1.96):
    """The roots of (8)."""
    n = wins + losses + ties
    p = (wins + 0.5 * ties) / n
    low, high = sorted(np.roots([1 + z**2 / n, -(2 * p + z**2 / n), p**2]).real.tolist())
    return p, low, high


def wilson_with_pseudo_counts(wins, losses, ties=0, z=1.96):
    """z² further comparisons, half of them won, move the centre."""
    n = wins + losses + ties
    centre = (wins + ties / 2 + z * z / 2) / (n + z * z)
    p = (wins + ties / 2) / n
    half = z / (n + z * z) * math.sqrt(n * p * (1 - p) + z * z / 4)
    return p, centre - half, centre + half


def choose_by_loop(betas, kl, reward, budget):
    best, chosen = -math.inf, None
    for j in range(len(betas)):
        column = kl[:, j].tolist()
        sure = statistics.mean(column) + 2 * statistics.stdev(column) / math.sqrt(len(column))
        value = statistics.mean(reward[:, j].tolist())
        if sure <= budget and value > best:
            best, chosen = value, float(betas[j])
    return chosen


def choose_by_filter(betas, kl, reward, budget):
    inside = kl.mean(dim=0) + 2 * (kl.var(dim=0) / kl.shape[0]).sqrt() <= budget
    return betas[inside][reward.mean(dim=0)[inside].argmax()].item()


RIGHT = {
    "q1": [pareto_by_loops, pareto_by_staircase],
    "q2": [wilson_by_roots, wilson_with_pseudo_counts],
    "q3": [choose_by_loop, choose_by_filter],
}
