"""The capstone of notebook 03: π*, Z and the one β for a budget of KL."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from week6.checks.bench_03 import SPENDABLE, TOLERANCE, UNITS, Record, Trial, kl_of, measure, spend_budget
from week6.checks.capstone import Capstone, Step
from week6.checks.symptoms_03 import SYMPTOMS
from week6.objective import optimal_policy


def _limit(record: Record) -> str | None:
    for trial in record.values():
        if trial.raised:
            continue
        if trial.limit is None:
            return None
        if not abs(trial.limit - trial.ours["limit"]) < 1e-6:
            return f"yours is {trial.limit:.4f} nats, {trial.ours['limit']:.4f} was expected"
    return ""


def _unspendable(record: Record) -> str | None:
    trial = record["unspendable"]
    if trial.raised:
        return f"your code raised {trial.raised}"
    if trial.beta is None or trial.log_probs is None:
        return None
    if trial.beta.numel() != 1 or trial.beta != 0:
        return f"for a budget above the limit, β = {_shown(trial.beta)} came; 0 was expected"
    error = (trial.log_probs.exp() - trial.ours["log_probs"].exp()).abs().max().item()
    return "" if error < 1e-6 else f"at β = 0 a probability is off by {error:.3f}"


def _at_its_beta(record: Record) -> str | None:
    for kind in SPENDABLE:
        trial = record[kind]
        if trial.raised:
            return f"for the budget of {trial.budget:.4f} nats your code raised {trial.raised}"
        if trial.gives_up:
            return f"β = 0 came for a budget of {trial.budget:.4f} nats, which is below the limit"
        if trial.beta is None or trial.log_probs is None or trial.log_z is None:
            return None
        if problem := _not_optimal(trial):
            return problem
    return ""


def _not_optimal(trial: Trial) -> str:
    """What is wrong with policy and Z at the β that came with them, or ""."""
    assert trial.beta is not None and trial.log_probs is not None and trial.log_z is not None
    if trial.beta.numel() != 1 or not 0 < trial.beta < math.inf:
        return f"one β for all prompts, above 0, was expected; {_shown(trial.beta)} came"
    best, log_z = optimal_policy(trial.ref_log_probs, trial.rewards, trial.beta.item())
    gap = kl_of(trial.log_probs, best).mean().item()
    total = trial.log_probs.exp().sum(-1)
    if not bool((total - 1).abs().max() < 1e-6):
        return f"the probabilities of a prompt sum to {total[0].item():.3g}; 1 was expected"
    if not gap < 1e-6:
        return f"at your β = {trial.beta.item():.4g} the gap KL(π ‖ π*) is {gap:.3g} nats; 0 was expected"
    if trial.log_z.shape != log_z.shape:
        return f"“log_z” has shape {tuple(trial.log_z.shape)}; one number a prompt, {tuple(log_z.shape)}, was expected"
    if not torch.allclose(trial.log_z, log_z, rtol=1e-6, atol=1e-6):
        return f"at your β = {trial.beta.item():.4g}, log Z is {trial.log_z[0]:.4f}; {log_z[0]:.4f} was expected"
    return ""


def _on_budget(kinds: Sequence[str]) -> Callable[[Record], str | None]:
    def judge(record: Record) -> str | None:
        for kind in kinds:
            trial = record[kind]
            if trial.raised:
                return f"for the budget of {trial.budget:.4f} nats your code raised {trial.raised}"
            if trial.log_probs is None or trial.beta is None or trial.log_z is None:
                return None
            if not abs(trial.spent - trial.budget) < TOLERANCE:
                unit = f" (rewards in a {kind})" if kind in UNITS else ""
                spent = f"{trial.spent:.4f} nats were spent{unit} at β = {_shown(trial.beta)}"
                return f"{spent}; the budget is {trial.budget:.4f}"
            if problem := _not_optimal(trial):
                return problem
        return ""

    return judge


def _shown(beta: Tensor) -> str:
    return f"{beta.item():.4g}" if beta.numel() == 1 else f"a tensor of shape {tuple(beta.shape)}"


capstone = Capstone(
    title="3.7 Capstone: a budget of nats",
    name="my_spend_budget",
    reference=spend_budget,
    run=measure,
    steps=(
        Step("the limit", _limit),
        Step("a budget above the limit", _unspendable),
        Step("π* and log Z at your β", _at_its_beta),
        Step("the budget is spent", _on_budget(SPENDABLE)),
        Step("in any unit of reward", _on_budget(UNITS)),
    ),
    symptoms=SYMPTOMS,
    shows=lambda records: (
        f"In {sum(len(record) - 1 for record in records)} problems the budget was met to "
        f"{max(abs(t.spent - t.budget) for r in records for k, t in r.items() if k != 'unspendable'):.1g} nats, "
        f"with rewards whose units differ by a factor of a million; in {len(records)} the leash was slack."
    ),
    hints=(
        "Which of your functions tells you how many nats the best policy spends at a given β? Does that number rise or "
        "fall as β grows? And what is the most that can be spent at all?",
        "The spent KL, D(β), falls as β grows, from the limit at β → 0 to zero at β → ∞ (section 7). So just one β "
        "spends the budget, and it can be enclosed: between a β that spends too much and one that spends too "
        "little. The limit is −log π_ref(best answers), on average over the prompts, where only answers with π_ref "
        "> 0 count.",
        "First the limit: set the rewards of answers out of reach to −inf, mark the best of each row, add up their "
        "π_ref. If the budget is the limit or more, return β = 0 with the reference, cut down to the best answers. "
        "Else start with low = high = 1. Halve low until it spends at least the budget, double high until it spends "
        "at most the budget. Then, 60 times, try the geometric mean of both, and put it in the place of the end on "
        "its own side. At last the policy and log Z by exercise 3.3.",
        "def spent(beta):\n"
        "    log_probs, _ = optimal_policy(ref_log_probs, rewards, beta)\n"
        "    return ...  # nats, on average over the prompts\n"
        "\n"
        "low = high = 1.0\n"
        "while spent(low) < budget:\n"
        "    low = ...\n"
        "while spent(high) > budget:\n"
        "    high = ...\n"
        "for _ in range(60):\n"
        "    beta = (low * high) ** 0.5\n"
        "    low, high = ...",
    ),
    time_limit=10.0,
)
