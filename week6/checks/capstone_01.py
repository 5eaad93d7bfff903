"""The capstone of notebook 01: a fit that knows when to stop."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from week6.checks.bench_01 import STEPS, measure, rounds
from week6.checks.capstone import Capstone
from week6.checks.symptoms_01 import SYMPTOMS


def fit_until(wins: Float[Tensor, "K K"], ties: Float[Tensor, "K K"], l2: float, tolerance: float) -> dict[str, Any]:
    """The maximum of (18), ties as half wins, by gradient ascent until no entry of the gradient exceeds `tolerance`.

    Returns counts (K, K) and finite, and where there is one finite best fit also its rewards (K,), and rounds.
    """
    counts = wins + ties / 2
    reach = (counts > 0) | torch.eye(len(counts), dtype=torch.bool)  # [i, j]: whether the arrows lead from i to j
    for _ in range(len(counts)):
        reach = (reach.double() @ reach.double()) > 0
    found = {"counts": counts, "finite": l2 > 0 or bool(reach.all())}
    if not found["finite"]:
        return found
    compared = counts + counts.T
    step_size = 1 / (compared.sum(dim=1).max() / 2 + l2)
    rewards = torch.zeros(len(counts), dtype=counts.dtype)
    rounds = 0
    while True:
        expected = compared * torch.sigmoid(rewards[:, None] - rewards[None, :])
        gradient = (counts - expected).sum(dim=1) - l2 * rewards
        if gradient.abs().max() <= tolerance:
            return found | {"rewards": rewards, "rounds": rounds}
        rewards = rewards + step_size * gradient
        rounds += 1


capstone = Capstone(
    title="1.7 Capstone: a fit that knows when to stop",
    reference=fit_until,
    run=measure,
    steps=STEPS,
    symptoms=SYMPTOMS,
    shows=lambda records: (
        f"Your fits are at most {max(t.gap for r in records for t in r.values() if t.finite and t.tolerance < 1):.6f} "
        "nats below the top. Two groups with a single pair between them took you up to "
        f"{max(rounds(r)[1] for r in records):,} rounds."
    ),
    hints=(
        "At the top actual wins equal expected wins. How far from that may you be, in units of `tolerance`?",
        "By (13) and (18) the slope of the objective in r_i is Σ_j [c_ij − n_ij σ(r_i − r_j)] − l2 · r_i. At the top "
        "all of them are 0, and nowhere else: so the gradient, and not the number of rounds, says when to stop.",
        "counts = wins + half of the ties. For Ford's rule start with a table that is True where i beat or tied j, and "
        "on the diagonal; multiply it by itself K times, True where the product is positive. If some entry stays False "
        "and l2 is 0, return what you have. Else start at zeros; compute the gradient; if its largest entry, without "
        "sign, is within the tolerance, return; else step by 1 / (n_max / 2 + l2) times the gradient, and repeat.",
        "counts = wins + ...\n"
        "reach = (counts > 0) | torch.eye(len(counts), dtype=torch.bool)\n"
        "for _ in range(len(counts)):\n"
        "    reach = (reach.double() @ reach.double()) > 0\n"
        'found = {"counts": counts, "finite": ...}\n'
        'if not found["finite"]:\n'
        "    return found\n"
        "compared, rewards, rounds = counts + counts.T, torch.zeros(len(counts), dtype=counts.dtype), 0\n"
        "while True:\n"
        "    expected = compared * torch.sigmoid(rewards[:, None] - rewards[None, :])\n"
        "    gradient = ...\n"
        "    if ...:\n"
        '        return found | {"rewards": rewards, "rounds": rounds}\n'
        "    rewards = rewards + gradient / (compared.sum(dim=1).max() / 2 + l2)\n"
        "    rounds += 1",
    ),
)
