"""Answers to the capstone of notebook 07: a frontier with intervals, from runs of one's own."""

import math
import statistics

import numpy as np
import torch

from week6.checks.nb07 import _best_for_a_price
from week6.pictures.frontier import frontier_of

T = 4.303


def surely(kl, errors=2.0):
    return kl.mean(1) + errors * kl.std(1) / math.sqrt(kl.shape[1])


def best_within(kl, gold, budget, errors=2.0):
    return int(torch.where(surely(kl, errors) <= budget, gold.mean(1), -math.inf).argmax())


def without_each_seed(kl, gold, budget, **how):
    keep = [[i for i in range(kl.shape[1]) if i != s] for s in range(kl.shape[1])]
    return [best_within(kl[:, others], gold[:, others], budget, **how) for others in keep]


def in_the_seed_left_out(gold, columns):
    return gold[columns, range(gold.shape[1])]


def half(x):
    return T * x.std(-1) / math.sqrt(x.shape[-1])


def built(
    train=lambda train, beta, seed, seeds: train(beta, seed),
    figures=lambda kl, gold: (kl.mean(), gold.mean()),
    error=lambda gold: gold.mean(1).std() / math.sqrt(len(gold)),
    mean=lambda x: x.mean(1),
    half=half,
    kept=frontier_of,
    choose=without_each_seed,
    name=lambda betas, columns: [betas[c] for c in columns],
    report=in_the_seed_left_out,
    finish=lambda parts: parts,
):
    """The frontier with one part of it done otherwise."""

    def measure(train_one, draw, betas, seeds, budget):
        draws = [[draw(train(train_one, beta, seed, seeds)) for seed in seeds] for beta in betas]
        tables = torch.tensor([[[float(x) for x in figures(*drawn)] for drawn in row] for row in draws])
        kl, gold = tables[..., 0], tables[..., 1]
        columns = choose(kl, gold, budget)
        reported = report(gold, columns)
        return finish(
            {
                "kl": kl,
                "gold": gold,
                "gold_se": torch.tensor([[float(error(gold)) for _, gold in row] for row in draws]),
                "kl_mean": mean(kl),
                "gold_mean": mean(gold),
                "kl_half": half(kl),
                "gold_half": half(gold),
                "kept": kept(mean(kl), mean(gold)),
                "chosen": name(betas, columns),
                "report": (reported.mean(), half(reported)),
            }
        )

    return measure


def plain_python(train, draw, betas, seeds, budget):
    """Loops, lists and the statistics of the standard library."""

    def spread(values):
        return T * statistics.stdev(values) / len(values) ** 0.5

    kl, gold, gold_se = [], [], []
    for beta in betas:
        for table in (kl, gold, gold_se):
            table.append([])
        for seed in seeds:
            k, g = draw(train(beta, seed))
            rows = [statistics.mean(row) for row in g.tolist()]
            kl[-1].append(statistics.mean(x for row in k.tolist() for x in row))
            gold[-1].append(statistics.mean(rows))
            gold_se[-1].append(statistics.stdev(rows) / len(rows) ** 0.5)
    kl_mean, gold_mean = ([statistics.mean(row) for row in table] for table in (kl, gold))
    kept = []
    for k, g in zip(kl_mean, gold_mean, strict=True):
        others = zip(kl_mean, gold_mean, strict=True)
        kept.append(not any(a <= k and b >= g and (a < k or b > g) for a, b in others))
    chosen, unseen = [], []
    for s in range(len(seeds)):
        best = None
        for c in range(len(betas)):
            ks, gs = ([x for i, x in enumerate(table[c]) if i != s] for table in (kl, gold))
            allowed = statistics.mean(ks) + 2 * statistics.stdev(ks) / len(ks) ** 0.5 <= budget
            if allowed and (best is None or statistics.mean(gs) > best[0]):
                best = statistics.mean(gs), c
        chosen.append(betas[best[1]])
        unseen.append(gold[best[1]][s])
    return {
        "kl": kl, "gold": gold, "gold_se": gold_se, "kl_mean": kl_mean, "gold_mean": gold_mean,
        "kl_half": [spread(row) for row in kl], "gold_half": [spread(row) for row in gold],
        "kept": kept, "chosen": chosen, "report": [statistics.mean(unseen), spread(unseen)],
    }  # fmt: skip


def in_numpy(train, draw, betas, seeds, budget):
    """Seed by seed, in NumPy, with errors over prompts by bootstrap."""
    random = np.random.default_rng(0)
    k = np.zeros((len(betas), len(seeds)))
    g, e = k.copy(), k.copy()
    for s, seed in enumerate(seeds):
        for c, beta in enumerate(betas):
            kl, gold = (x.double().numpy() for x in draw(train(beta, seed)))
            again = random.integers(len(gold), size=(300, len(gold)))
            k[c, s], g[c, s], e[c, s] = kl.mean(), gold.mean(), gold.mean(1)[again].mean(1).std()
    root = np.sqrt(len(seeds))
    chosen = []
    for s in range(len(seeds)):
        ks, gs = np.delete(k, s, axis=1), np.delete(g, s, axis=1)
        inside = ks.mean(1) + 2 * ks.std(1, ddof=1) / np.sqrt(ks.shape[1]) <= budget
        chosen.append(max(np.flatnonzero(inside), key=lambda c: gs[c].mean()))
    unseen = g[chosen, np.arange(len(seeds))]
    means = torch.tensor(k.mean(1)), torch.tensor(g.mean(1))
    return {
        "kl": k, "gold": g, "gold_se": e, "kl_mean": means[0], "gold_mean": means[1],
        "kl_half": T * k.std(1, ddof=1) / root, "gold_half": T * g.std(1, ddof=1) / root,
        "kept": frontier_of(*means), "chosen": np.array(betas)[chosen],
        "report": np.array([unseen.mean(), T * unseen.std(ddof=1) / root]),
    }  # fmt: skip


def twice_as_many_answers(train, draw, betas, seeds, budget):
    """Two draws of each policy, side by side."""

    def more(policy):
        (k1, g1), (k2, g2) = draw(policy), draw(policy)
        return torch.cat([k1, k2], 1), torch.cat([g1, g2], 1)

    return built()(train, more, betas, seeds, budget)


RIGHT = {"plain Python": plain_python, "NumPy and bootstrap": in_numpy, "twice as many answers": twice_as_many_answers}


def chosen_by_itself(kl, gold, budget):
    return gold.argmax(0).tolist()


def where_it_was_chosen(gold, columns):
    keep = [[i for i in range(gold.shape[1]) if i != s] for s in range(gold.shape[1])]
    return torch.stack([gold[c, others].mean() for c, others in zip(columns, keep, strict=True)])


def by_place(kl, gold, budget):
    """The forbidden ones are filtered out before the argmax, whose place is then looked up among all, from the end."""
    keep = [[i for i in range(kl.shape[1]) if i != s] for s in range(kl.shape[1])]
    allowed = [surely(kl[:, others]) <= budget for others in keep]
    return [int(gold[:, o].mean(1).flip(0)[a.flip(0)].argmax()) for o, a in zip(keep, allowed, strict=True)]


def most_nats(kl, gold, budget):
    keep = [[i for i in range(kl.shape[1]) if i != s] for s in range(kl.shape[1])]
    return [int(torch.where(surely(kl[:, o]) <= budget, kl[:, o].mean(1), -1.0).argmax()) for o in keep]


# --- written after the symptoms and the tolerances -------------------------------------------------------------------


def others_of(s, count):
    return [i for i in range(count) if i != s]


def by_the_highest_kl(kl, gold, budget):
    """The budget is compared with the highest KL of the seeds that choose."""
    keep = [others_of(s, kl.shape[1]) for s in range(kl.shape[1])]
    inside = [kl[:, o].max(1).values <= budget for o in keep]
    return [int(torch.where(i, gold[:, o].mean(1), -math.inf).argmax()) for o, i in zip(keep, inside, strict=True)]


def by_the_lower_end(kl, gold, budget):
    """Of the rewards their lower ends are compared."""
    keep = [others_of(s, kl.shape[1]) for s in range(kl.shape[1])]
    lower = [gold[:, o].mean(1) - 2 * gold[:, o].std(1) / len(o) ** 0.5 for o in keep]
    return [
        int(torch.where(surely(kl[:, o]) <= budget, x, -math.inf).argmax()) for o, x in zip(keep, lower, strict=True)
    ]


def by_one_other_seed(kl, gold, budget):
    one = [others_of(s, kl.shape[1])[0] for s in range(kl.shape[1])]
    return [int(torch.where(kl[:, o] <= budget, gold[:, o], -math.inf).argmax()) for o in one]


def better_than_the_one_before(kl, gold):
    return torch.cat([torch.ones(1, dtype=torch.bool), gold[1:] > gold[:-1]])


def last_policy_for_all(train, draw, betas, seeds, budget):
    """All runs are made first; what is drawn comes from the policy of the last one."""
    policies = [train(beta, seed) for beta in betas for seed in seeds]
    return built(train=lambda train, beta, seed, seeds: policies[-1])(train, draw, betas, seeds, budget)


# --- written after the symptoms and the tolerances --------------------------------------------------------------------


def with_the_parts(**changed):
    """Parts of the answer replaced by others, made from all of them."""
    return built(finish=lambda parts: parts | {name: make(parts) for name, make in changed.items()})


def without_replacement_of_the_seed(kl, gold, budget):
    """The seed left out is the only one that is looked at."""
    return [int(torch.where(kl[:, s] <= budget, gold[:, s], -math.inf).argmax()) for s in range(kl.shape[1])]


MISTAKES = {
    "one seed": built(train=lambda train, beta, seed, seeds: train(beta, seeds[0])),
    "price and seed swapped": built(train=lambda train, beta, seed, seeds: train(seed, beta)),
    "axes swapped": built(finish=lambda parts: parts | {n: parts[n].T for n in ("kl", "gold", "gold_se")}),
    "draw unpacked the wrong way": built(figures=lambda kl, gold: (gold.mean(), kl.mean())),
    "sign of the KL": built(figures=lambda kl, gold: (-kl.mean(), gold.mean())),
    "absolute log-ratios": built(figures=lambda kl, gold: (kl.abs().mean(), gold.mean())),
    "sum over the answers": built(figures=lambda kl, gold: (kl.sum(1).mean(), gold.sum(1).mean())),
    "first answer only": built(figures=lambda kl, gold: (kl[:, 0].mean(), gold[:, 0].mean())),
    "best answer of each prompt": built(figures=lambda kl, gold: (kl.mean(), gold.max(1).values.mean())),
    "all answers independent": built(error=lambda gold: gold.std() / gold.numel() ** 0.5),
    "no root": built(error=lambda gold: gold.mean(1).std()),
    "root of K": built(error=lambda gold: gold.mean(1).std() / gold.shape[1] ** 0.5),
    "prompts averaged first": built(error=lambda gold: gold.mean(0).std() / gold.shape[1] ** 0.5),
    "1.96": built(half=lambda x: 1.96 * x.std(-1) / x.shape[-1] ** 0.5),
    "standard deviations": built(half=lambda x: T * x.std(-1)),
    "S": built(half=lambda x: T * x.std(-1, correction=0) / x.shape[-1] ** 0.5),
    "one standard error": built(half=lambda x: x.std(-1) / x.shape[-1] ** 0.5),
    "whole width": built(half=lambda x: 2 * T * x.std(-1) / x.shape[-1] ** 0.5),
    "all kept": built(kept=lambda kl, gold: torch.ones(len(kl), dtype=torch.bool)),
    "hull": built(kept=_best_for_a_price),
    "all seeds choose": built(choose=lambda kl, gold, budget: [best_within(kl, gold, budget)] * 3),
    "each seed chooses for itself": built(choose=chosen_by_itself),
    "no margin": built(choose=lambda *tables: without_each_seed(*tables, errors=0.0)),
    "no budget": built(choose=lambda kl, gold, budget: without_each_seed(kl, gold, math.inf)),
    "reported where chosen": built(report=where_it_was_chosen),
    "reported over all seeds": built(report=lambda gold, columns: gold[columns].mean(1)),
    "the highest mean": built(report=lambda gold, columns: gold[gold.mean(1).argmax()]),
    "medians": built(figures=lambda kl, gold: (kl.median(), gold.median())),
    "only positive log-ratios": built(figures=lambda kl, gold: (kl.clamp(min=0).mean(), gold.mean())),
    "reward less the KL": built(figures=lambda kl, gold: (kl.mean(), (gold - kl).mean())),
    "squared log-ratios": built(figures=lambda kl, gold: (kl.square().mean() / 2, gold.mean())),
    "seeds by their number": built(train=lambda train, beta, seed, seeds: train(beta, seeds.index(seed))),
    "variance of the mean": built(error=lambda gold: gold.mean(1).var() / len(gold)),
    "divided by M": built(error=lambda gold: gold.mean(1).std() / len(gold)),
    "spread within a prompt": built(error=lambda gold: gold.std(1).mean() / len(gold) ** 0.5),
    "three degrees of freedom": built(half=lambda x: 3.182 * x.std(-1) / x.shape[-1] ** 0.5),
    "divided by S": built(half=lambda x: T * x.std(-1) / x.shape[-1]),
    "spread between prices": built(half=lambda x: T * x.std(0) / x.shape[-1] ** 0.5 if x.ndim == 2 else half(x)),
    "the median seed": built(mean=lambda x: x.median(1).values),
    "the dominated ones": built(kept=lambda kl, gold: ~frontier_of(kl, gold)),
    "more KL is better": built(kept=lambda kl, gold: frontier_of(-kl, gold)),
    "the highest reward only": built(kept=lambda kl, gold: gold == gold.max()),
    "most nats": built(choose=most_nats),
    "place among the allowed": built(choose=by_place),
    "one standard error in the budget": built(choose=lambda *tables: without_each_seed(*tables, errors=1.0)),
    "columns in place of prices": built(name=lambda betas, columns: columns),
    "the best unseen seed": built(report=lambda gold, columns: in_the_seed_left_out(gold, columns).max().expand(3)),
    "the last policy for all": last_policy_for_all,
    "k3 with the sign turned": built(figures=lambda kl, gold: ((kl.exp() - 1 - kl).mean(), gold.mean())),
    "errors of sums": built(error=lambda gold: gold.sum(1).std() / len(gold) ** 0.5),
    "errors over the seeds": built(
        finish=lambda parts: parts | {"gold_se": (parts["gold"].std(1, keepdim=True) / 3**0.5).expand(-1, 3)}
    ),
    "root of S − 1": built(half=lambda x: T * x.std(-1) / (x.shape[-1] - 1) ** 0.5),
    "errors over prompts as intervals": built(
        finish=lambda parts: (
            parts | {"gold_half": T * parts["gold_se"].mean(1), "kl_half": T * parts["gold_se"].mean(1)}
        )
    ),
    "one spread for all prices": built(half=lambda x: T * x.std() / 3**0.5 * torch.ones(x.shape[:-1])),
    "better than the price before": built(kept=better_than_the_one_before),
    "kept with a reward above 0": built(kept=lambda kl, gold: gold > 0),
    "the highest KL against the budget": built(choose=by_the_highest_kl),
    "the lower ends of the rewards": built(choose=by_the_lower_end),
    "chosen by one other seed": built(choose=by_one_other_seed),
    "reported in the next seed": built(report=lambda gold, columns: gold.roll(-1, 1)[columns, range(3)]),
    "interval of the chosen means": built(
        finish=lambda parts: parts | {"report": (parts["report"][0], parts["gold_half"].mean())}
    ),
    "the choice reported": built(
        finish=lambda parts: parts | {"report": (parts["gold_mean"].max(), parts["report"][1])}
    ),
    "KL of the first prompts": built(figures=lambda kl, gold: (kl[:10].mean(), gold.mean())),
    "KL summed over a prompt's answers": built(figures=lambda kl, gold: (kl.sum(1).mean(), gold.mean())),
    "gold reward of the answers above the mean": built(
        figures=lambda kl, gold: (kl.mean(), gold[gold > gold.mean()].mean())
    ),
    "every run with β and the seed's number as β": built(
        train=lambda train, beta, seed, seeds: train(beta * (seed + 1), seed)
    ),
    "root of M left as M · K": built(error=lambda gold: gold.mean(1).std() / gold.numel() ** 0.5),
    "95 % over the prompts": built(error=lambda gold: 1.96 * gold.mean(1).std() / len(gold) ** 0.5),
    "mean absolute deviation": built(error=lambda gold: (gold.mean(1) - gold.mean()).abs().mean() / len(gold) ** 0.5),
    "half of the factor": built(half=lambda x: T / 2 * x.std(-1) / x.shape[-1] ** 0.5),
    "no factor and no root": built(half=lambda x: x.std(-1)),
    "KL alone": built(kept=lambda kl, gold: kl <= kl.mean()),
    "median price kept": built(kept=lambda kl, gold: gold >= gold.median()),
    "dominated by less KL": built(kept=lambda kl, gold: frontier_of(kl, kl)),
    "the seed itself within the budget": built(choose=without_replacement_of_the_seed),
    "half of the budget": built(choose=lambda kl, gold, budget: without_each_seed(kl, gold, budget / 2)),
    "report of the KL": with_the_parts(report=lambda parts: (parts["kl"].mean(), parts["report"][1])),
    "a standard error in the report": with_the_parts(report=lambda parts: (parts["report"][0], parts["report"][1] / T)),
}
RECOGNISED = {
    "better than the price before": "one lost that nothing dominates",
    "one seed": "one seed for all runs",
    "price and seed swapped": "price and seed swapped",
    "axes swapped": "axes swapped",
    "draw unpacked the wrong way": "KL and reward swapped",
    "sign of the KL": "sign of the KL",
    "absolute log-ratios": "single answers made positive",
    "sum over the answers": "sums in place of means",
    "first answer only": "one answer in place of all",
    "best answer of each prompt": "the best answers only",
    "all answers independent": "answers as if independent",
    "no root": "no root of M",
    "root of K": "the root of K",
    "prompts averaged first": "averaged over prompts",
    "1.96": "the normal's factor",
    "standard deviations": "std in place of its error",
    "S": "S in place of S − 1",
    "one standard error": "a bare standard error",
    "whole width": "the whole width",
    "all kept": "everything kept",
    "hull": "best for some price",
    "all seeds choose": "chosen with all seeds",
    "each seed chooses for itself": "chosen by the seed itself",
    "no margin": "no margin in the budget",
    "no budget": "no budget",
    "reported where chosen": "reported where it was chosen",
    "reported over all seeds": "reported over all seeds",
    "the highest mean": "the best mean reported",
    "medians": "medians in place of means",
    "only positive log-ratios": "single answers made positive",
    "reward less the KL": "the leash in the reward",
    "squared log-ratios": "squared log-ratios",
    "seeds by their number": "places in place of prices or seeds",
    "variance of the mean": "variance of the mean",
    "divided by M": "divided by M",
    "spread within a prompt": "spread within a prompt",
    "three degrees of freedom": "other degrees of freedom",
    "divided by S": "divided by S",
    "spread between prices": "over the prices",
    "the median seed": "another figure of the seeds",
    "the dominated ones": "the dominated ones",
    "more KL is better": "axes turned round",
    "the highest reward only": "one price only",
    "most nats": "chosen by another figure",
    "place among the allowed": "place among the allowed",
    "one standard error in the budget": "another margin in the budget",
    "columns in place of prices": "places for prices",
    "the best unseen seed": "the best unseen seed",
    "the last policy for all": "drawn from another run",
    "errors of sums": "a multiple of the error",
    "errors over the seeds": "one error for all seeds",
    "root of S − 1": "divided by S",
    "kept with a reward above 0": "everything kept",
    "the highest KL against the budget": "another margin in the budget",
    "the lower ends of the rewards": "the lower ends compared",
    "chosen by one other seed": "one other seed chooses",
    "reported in the next seed": "reported in other seeds",
    "interval of the chosen means": "intervals of the table in the report",
    "the choice reported": "the best mean reported",
    "KL summed over a prompt's answers": "sums in place of means",
    "root of M left as M · K": "a multiple of the error",
    "95 % over the prompts": "an interval for an error",
    "half of the factor": "another factor",
    "no factor and no root": "another factor",
    "KL alone": "one lost that nothing dominates",
    "median price kept": "one lost that nothing dominates",
    "dominated by less KL": "everything kept",
    "the seed itself within the budget": "over the budget",
    "a standard error in the report": "another interval in the report",
}


# --- written after the symptoms and the tolerances --------------------------------------------------------------------


def first_that_fits(kl, gold, budget):
    """The first price within the budget, whatever its reward."""
    keep = [others_of(s, kl.shape[1]) for s in range(kl.shape[1])]
    return [int((surely(kl[:, o]) <= budget).int().argmax()) for o in keep]


UNSEEN = {
    "KL without the smallest": built(figures=lambda kl, gold: (kl.flatten().sort().values[10:].mean(), gold.mean())),
    "KL in bits": built(figures=lambda kl, gold: (kl.mean() / math.log(2), gold.mean())),
    "gold less half of the KL": built(figures=lambda kl, gold: (kl.mean(), gold.mean() - 0.5 * kl.mean())),
    "sum over prompts": built(figures=lambda kl, gold: (kl.mean(1).sum(), gold.mean())),
    "only the first seed": built(train=lambda train, beta, seed, seeds: train(beta, seeds[-1])),
    "variance over the prompts": built(error=lambda gold: gold.mean(1).var()),
    "errors of the spread of all": built(error=lambda gold: gold.std()),
    "three standard errors": built(half=lambda x: 3 * x.std(-1) / x.shape[-1] ** 0.5),
    "range": built(half=lambda x: (x.max(-1).values - x.min(-1).values) / 2),
    "two best kept": built(kept=lambda kl, gold: gold >= gold.topk(2).values[-1]),
    "strictly rising": built(kept=lambda kl, gold: (gold[:, None] >= gold).all(1) | (kl[:, None] <= kl).all(1)),
    "the first that fits": built(choose=first_that_fits),
    "five standard errors": built(choose=lambda *tables: without_each_seed(*tables, errors=5.0)),
    "the median of the unseen": with_the_parts(report=lambda parts: (parts["gold"].median(), parts["report"][1])),
    "the whole interval reported": with_the_parts(report=lambda parts: (parts["report"][0], 2 * parts["report"][1])),
}
