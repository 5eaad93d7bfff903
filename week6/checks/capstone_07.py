"""The capstone of notebook 07: a frontier with intervals, from runs of one's own."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from week6.checks.bench_07 import PRICES, SEEDS, Frontier, measure
from week6.checks.capstone import Capstone
from week6.checks.instruments_07 import in_their_own_seeds, where_chosen
from week6.checks.steps_07 import STEPS
from week6.checks.symptoms_07_choices import OF_CHOICES
from week6.checks.symptoms_07_runs import OF_RUNS
from week6.pictures.frontier import frontier_of


def measure_frontier(
    train: Callable[[float, int], Any],
    draw: Callable[[Any], tuple[Tensor, Tensor]],
    betas: Sequence[float],
    seeds: Sequence[int],
    budget: float,
) -> dict[str, Any]:
    """A method's frontier from runs of one's own, with intervals over three seeds, and what to ship within a budget."""
    draws = [[draw(train(beta, seed)) for seed in seeds] for beta in betas]
    kl = torch.tensor([[float(kl.mean()) for kl, _ in row] for row in draws])
    gold = torch.tensor([[float(gold.mean()) for _, gold in row] for row in draws])
    by_prompt = [[gold.mean(1) for _, gold in row] for row in draws]
    gold_se = torch.tensor([[float(x.std() / math.sqrt(len(x))) for x in row] for row in by_prompt])

    def half(x: Tensor) -> Tensor:
        return 4.303 * x.std(-1) / math.sqrt(x.shape[-1])

    chosen, unseen = [], []
    for s in range(len(seeds)):
        others = [i for i in range(len(seeds)) if i != s]
        surely = kl[:, others].mean(1) + 2 * kl[:, others].std(1) / math.sqrt(len(others))
        best = int(torch.where(surely <= budget, gold[:, others].mean(1), -torch.inf).argmax())
        chosen.append(betas[best])
        unseen.append(gold[best, s])
    report = torch.stack(unseen)
    return {
        "kl": kl,
        "gold": gold,
        "gold_se": gold_se,
        "kl_mean": kl.mean(1),
        "gold_mean": gold.mean(1),
        "kl_half": half(kl),
        "gold_half": half(gold),
        "kept": frontier_of(kl.mean(1), gold.mean(1)),
        "chosen": chosen,
        "report": (report.mean(), half(report)),
    }


def _shows(records: Sequence[list[Frontier]]) -> str:
    """Coverage of the intervals, and what an honest report saves."""
    frontiers = [frontier for record in records for frontier in record]
    held, honest, lucky = [], [], []
    for f in frontiers:
        means, halves = (f.part(f"gold_{name}", len(PRICES)) for name in ("mean", "half"))
        held.append((means - f.bench.of_all_seeds).abs() <= halves)
        worth = f.bench.of_all_seeds[where_chosen(f)].mean()
        honest.append(float(f.part("report", 2)[0] - worth))
        lucky.append(float(in_their_own_seeds(f) - worth))
    held_share = torch.stack(held).float().mean()
    return (
        f"Of your {len(held) * len(PRICES)} intervals {100 * held_share:.0f} % contain the mean of {SEEDS} seeds (95 % "
        "do in the long run, if runs are normal). On average your reports are "
        f"{sum(honest) / len(honest):+.3f} off from what the chosen prices are worth by it; taken from the seeds that "
        f"chose they would be {sum(lucky) / len(lucky):+.3f} off."
    )


capstone = Capstone(
    title="7.4 Capstone: a frontier from runs of your own",
    reference=measure_frontier,
    run=measure,
    seeds=3,
    steps=STEPS,
    symptoms=OF_RUNS + OF_CHOICES,
    shows=_shows,
    hints=(
        "How many runs are there, and which two numbers does each of them leave behind? Over what may you average, and "
        "which numbers must never have seen each other?",
        "Two kinds of error. Over prompts: first the mean over a prompt's answers, then std/√M. Over seeds: "
        "mean ± 4.303 · std/√S for S = 3. And what the other two seeds choose is reported in the third.",
        "1. A loop over prices and in it over seeds: train, draw, keep both tensors. 2. The mean of each, as tables "
        "(C, S). 3. gold.mean(1), its std, over √M. 4. Means and half-widths along the seeds. 5. The function of "
        "exercise 7.1 on the means. 6. For each seed: the columns of the other two; which prices are surely within the "
        "budget; of these the highest mean gold reward. 7. The gold reward of that price in the seed left out; of the "
        "three such numbers the mean and the half-width.",
        """def measure_frontier(train, draw, betas, seeds, budget):
    draws = [[draw(train(beta, seed)) for seed in seeds] for beta in betas]
    kl = torch.tensor([[float(kl.mean()) for kl, _ in row] for row in draws])
    gold = torch.tensor([[float(gold.mean()) for _, gold in row] for row in draws])
    gold_se = ...  # of each run: the mean over the answers to a prompt, then the error over the prompts
    half = lambda x: ...  # 95 % over the last axis
    chosen, unseen = [], []
    for s in range(len(seeds)):
        others = [i for i in range(len(seeds)) if i != s]
        surely = ...  # (C,): mean KL of the others, plus two standard errors
        best = int(torch.where(surely <= budget, gold[:, others].mean(1), -torch.inf).argmax())
        chosen.append(betas[best])
        unseen.append(...)
    parts = {"kl": kl, "gold": gold, "gold_se": gold_se, "chosen": chosen}
    return parts  # and the means, the half-widths, `kept` and `report`""",
    ),
    time_limit=30.0,
)
