"""The capstone of notebook 10: what does a loss want?"""

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from week6.checks.bench_10 import STEPS, measure
from week6.checks.capstone import Capstone
from week6.checks.symptoms_10 import SYMPTOMS
from week6.objective import kl_divergence, optimal_policy


def what_it_wants(
    pair_loss: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor],
    log_ref: Float[Tensor, " N"],
    reward: Float[Tensor, " N"],
    preference: Float[Tensor, "N N"],
    tolerance: float,
    limit: float,
) -> dict[str, Any]:
    """Where gradient descent on (1) leads from π_ref, or that nothing holds it; and what reward it loses there.

    Returns "slopes" at π_ref (N,), "log_pi" at the end (N,), "rests", "kls" (nats) and, where it rests, "lost".
    """
    pairs = 2 * log_ref.exp()[:, None] * log_ref.exp() * preference

    def slopes_at(theta: Tensor) -> Tensor:
        theta = theta.clone().requires_grad_()
        log_pi = theta.log_softmax(-1)
        losses = pair_loss(log_pi[:, None], log_pi, log_ref[:, None], log_ref)
        (gradient,) = torch.autograd.grad((pairs * losses).sum(), theta)
        return gradient / log_ref.exp()

    log_pi, slopes, kls, step = log_ref, slopes_at(log_ref), [0.0], 1.0
    found: dict[str, Any] = {"slopes": slopes, "kls": kls}
    while slopes.abs().max() > tolerance:
        log_ratio = log_pi - log_ref
        if log_ratio.max() - log_ratio.min() > limit:
            return found | {"log_pi": log_pi, "rests": False}
        there = (log_pi - step * slopes).log_softmax(-1)
        slopes_there = slopes_at(there)
        if (log_ref.exp() * slopes * slopes_there).sum() < 0:  # it rises again there: too far
            step /= 2
            continue
        log_pi, slopes, step = there, slopes_there, 2 * step
        kls.append(kl_divergence(log_pi, log_ref).item())

    low, high = 1e-4, 1e4
    for _ in range(100):
        price = math.sqrt(low * high)
        best, _ = optimal_policy(log_ref, reward, price)
        low, high = (price, high) if kl_divergence(best, log_ref).item() > kls[-1] else (low, price)
    return found | {"log_pi": log_pi, "rests": True, "lost": ((best.exp() - log_pi.exp()) * reward).sum().item()}


capstone = Capstone(
    title="10.6 Capstone: what does a loss want?",
    reference=what_it_wants,
    run=measure,
    steps=STEPS,
    symptoms=SYMPTOMS,
    shows=lambda records: (
        f"{sum(trial.rests for r in records for trial in r.values())} losses came to rest, "
        f"{max(trial.gap for r in records for trial in r.values() if trial.best is not None):.1g} "
        "nats at most from the optima that are known; the others have no minimum, and you said so."
    ),
    hints=(
        "When has a policy come to rest, and how do you notice that it never will? Of which numbers does (1) give you "
        "the derivative, and how large is it for an answer that the reference hardly ever gives?",
        "Each term of (1) that moves the logit of y has the factor π_ref(y). Divided by it, all slopes are of one "
        "size, and one step length serves all answers. But how long it may be depends on the loss: double it after "
        "each step that went well, halve it where the slopes along the step have turned round. A slope near 0 is no "
        "proof of a minimum: on the way to infinity it shrinks as well.",
        "First the table of weights, 2 π_ref(a) π_ref(b) p(a ≻ b), and a function that takes logits, makes log π of "
        "them, calls pair_loss on a column and a row, sums up with the weights, and returns autograd's gradient over "
        "π_ref. Start at log π_ref. While the steepest slope exceeds the tolerance: return if the log-ratios are more "
        "than the limit apart; try a step against the slopes; if Σ π_ref · slope here · slope there is negative, halve "
        "the step and try again; else move, double it, and note the KL. At last find by bisection the β' at which π* "
        "has your KL, and subtract the rewards.",
        "pairs = 2 * log_ref.exp()[:, None] * log_ref.exp() * preference\n"
        "\n"
        "def slopes_at(theta):\n"
        "    theta = theta.clone().requires_grad_()\n"
        "    log_pi = theta.log_softmax(-1)\n"
        "    losses = pair_loss(log_pi[:, None], log_pi, log_ref[:, None], log_ref)\n"
        "    (gradient,) = torch.autograd.grad((pairs * losses).sum(), theta)\n"
        "    return ...\n"
        "\n"
        "log_pi, slopes, kls, step = log_ref, slopes_at(log_ref), [0.0], 1.0\n"
        'found = {"slopes": slopes, "kls": kls}\n'
        "while slopes.abs().max() > tolerance:\n"
        "    log_ratio = log_pi - log_ref\n"
        "    if ...:\n"
        '        return found | {"log_pi": log_pi, "rests": False}\n'
        "    there = (log_pi - step * slopes).log_softmax(-1)\n"
        "    slopes_there = slopes_at(there)\n"
        "    if (log_ref.exp() * slopes * slopes_there).sum() < 0:\n"
        "        step = ...\n"
        "        continue\n"
        "    log_pi, slopes, step = there, slopes_there, ...\n"
        "    kls.append(kl_divergence(log_pi, log_ref).item())\n"
        "low, high = 1e-4, 1e4\n"
        "for _ in range(100):\n"
        "    price = math.sqrt(low * high)\n"
        "    best, _ = optimal_policy(log_ref, reward, price)\n"
        "    low, high = ...",
    ),
    time_limit=20.0,
)
