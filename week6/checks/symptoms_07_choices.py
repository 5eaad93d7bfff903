"""The symptoms of notebook 07's capstone in its second half: intervals, what is kept, what is chosen, the report."""

import math
from functools import partial

import torch
from torch import Tensor

from week6.checks.bench_07 import PRICES, Frontier
from week6.checks.capstone import Symptom
from week6.checks.counterfactual import alike
from week6.checks.instruments_07 import (
    CHOSEN,
    ERRORS,
    INTERVALS,
    KEPT,
    OTHER_FIGURES,
    REPORT,
    among_the_allowed,
    best,
    by_one,
    chooses,
    error_ratios,
    every,
    first,
    half_like,
    hull,
    in_places,
    in_their_own_seeds,
    is_multiple,
    keeps,
    mean_like,
    over_the_prices,
    report_half,
    reports,
    seeds_moved,
    signed,
    too_far,
    where_chosen,
    width,
    without,
)
from week6.checks.judging import at
from week6.checks.steps_07 import STEPS, STUDENT, unseen
from week6.pictures.frontier import frontier_of


def _by_means(f: Frontier) -> Tensor:
    return frontier_of(f.part("kl_mean", len(PRICES)), f.part("gold_mean", len(PRICES)))


OF_CHOICES = (
    Symptom(
        "over the prices",
        at(STEPS, INTERVALS, over_the_prices),
        "A mean or a half-width of yours has a number for each seed: it runs over the prices. Take it over the seeds, "
        "the last axis.",
    ),
    Symptom(
        "another figure of the seeds",
        lambda record: any(
            mean_like(rule)(record)
            for rule in (
                lambda x: x.median(1).values,
                lambda x: x.max(1).values,
                lambda x: x.min(1).values,
                lambda x: x.sum(1),
                lambda x: x[:, 0],
                lambda x: x[:, -1],
            )
        ),
        "In place of the mean over the seeds there stands another figure of them: their median, an extreme, their "
        "sum or one of them.",
    ),
    Symptom(
        "other degrees of freedom",
        lambda record: any(width(factor)(record) for factor in (3.182, 2.776, 2.92, 12.706, 2.353, 9.925)),
        "Your factor is Student's for another number of seeds or for another share than 95 %. Three seeds have two "
        "degrees of freedom: 4.303 (section 3).",
    ),
    Symptom(
        "divided by S",
        lambda record: width(STUDENT / math.sqrt(3))(record) or width(STUDENT * math.sqrt(3 / 2))(record),
        "Your half-width divides by another number than √S: the mean of S seeds has an error of std/√S.",
    ),
    Symptom(
        "variance over the seeds",
        lambda record: any(
            half_like(rule)(record)
            for rule in (
                lambda x: STUDENT * x.var(1) / math.sqrt(3),
                lambda x: STUDENT * x.var(1) / 3,
                lambda x: x.var(1),
            )
        ),
        "Your half-widths hold the variance over the seeds. The error of a mean is made of its root, the std.",
    ),
    Symptom(
        "range over the seeds",
        lambda record: any(
            half_like(rule)(record)
            for rule in (
                lambda x: (x.max(1).values - x.min(1).values) / 2,
                lambda x: x.max(1).values - x.min(1).values,
            )
        ),
        "Your half-widths come from the highest and the lowest seed. Asked are 4.303 standard errors.",
    ),
    Symptom(
        "a multiple of the error",
        at(
            STEPS,
            ERRORS,
            lambda record: first(record, lambda f: bool(error_ratios(f).std() < 1e-3 * error_ratios(f).mean())),
        ),
        "Your `gold_se` is the right one times a constant, the same for all runs: the std of the prompts' means is "
        "in it, and it is divided by another number than √M.",
    ),
    Symptom(
        "the normal's factor",
        lambda record: width(1.96)(record) or width(2.0)(record),
        "Your intervals are 1.96 or 2 standard errors wide. With three seeds the factor for 95 % is 4.303 (section 3).",
    ),
    Symptom(
        "a bare standard error",
        width(1.0),
        "Your intervals are one standard error wide. For 95 % with three seeds it is 4.303 of them (section 3).",
    ),
    Symptom(
        "std in place of its error",
        width(STUDENT * math.sqrt(3)),
        "Your half-width is 4.303 standard deviations of single seeds. The mean of S seeds has std/√S.",
    ),
    Symptom(
        "S in place of S − 1",
        width(STUDENT * math.sqrt(2 / 3)),
        "Your std over the seeds divides by S. From a sample it is S − 1 (`.std()` does so), which matters with three "
        "seeds.",
    ),
    Symptom(
        "the whole width",
        width(2 * STUDENT),
        "You return the whole width of the interval. Asked is half of it: mean ± half.",
    ),
    Symptom(
        "another factor",
        at(STEPS, INTERVALS, partial(first, holds=is_multiple)),
        "Your half-widths are std/√S times a constant, and the constant is not 4.303: another factor, or another "
        "divisor.",
    ),
    Symptom(
        "everything kept",
        keeps(lambda kl, gold: torch.ones_like(kl, dtype=torch.bool)),
        "You keep every price. The smallest ones here go too far: another one has less KL and more gold reward.",
    ),
    Symptom(
        "the dominated ones",
        keeps(lambda kl, gold: ~frontier_of(kl, gold)),
        "You keep the prices that another one dominates, and drop the others: turn it round.",
    ),
    Symptom(
        "axes turned round",
        lambda record: any(keeps(partial(signed, a, b))(record) for a, b in ((-1, 1), (1, -1), (-1, -1))),
        "In your comparison one axis is turned round. Less KL is better, and more gold reward is.",
    ),
    Symptom(
        "one price only",
        lambda record: (
            keeps(lambda kl, gold: gold == gold.max())(record) or keeps(lambda kl, gold: kl == kl.min())(record)
        ),
        "You keep a single price: the one with the most gold reward or the least KL. Every one stays that no other "
        "beats on both axes at once.",
    ),
    Symptom(
        "best for some price",
        keeps(hull),
        "You keep the prices that lie on the convex hull (dashed in section 2). Asked are all that no single one "
        "dominates.",
    ),
    Symptom(
        "a dominated one kept",
        at(
            STEPS,
            KEPT,
            partial(first, holds=lambda f: bool((f.part("kept", len(PRICES)).bool() & ~_by_means(f)).any())),
        ),
        "You keep a price that another one dominates, with no more KL and no less gold reward: compare each with every "
        "other one, on both axes at once.",
    ),
    Symptom(
        "one lost that nothing dominates",
        at(
            STEPS,
            KEPT,
            partial(first, holds=lambda f: bool((_by_means(f) & ~f.part("kept", len(PRICES)).bool()).any())),
        ),
        "You drop a price that no other one dominates. A low reward is no reason if the KL is low, too: only one "
        "that is at least as good on both axes, and better on one, drives it out.",
    ),
    Symptom(
        "chosen with all seeds",
        chooses(lambda f: [PRICES[f.choice(range(len(f.seeds)))]] * len(f.seeds)),
        "You choose on all seeds at once: the same β three times. For each seed the others choose.",
    ),
    Symptom(
        "chosen by the seed itself",
        chooses(lambda f: [PRICES[int(f.table("gold")[:, s].argmax())] for s in range(len(f.seeds))]),
        "Each seed chooses for itself in your answer. It must be left out: the two others choose.",
    ),
    Symptom(
        "no margin in the budget",
        chooses(lambda f: f.choices(errors=0.0)),
        "You compare the mean KL alone with the budget. Add two standard errors over the seeds that choose (exercise "
        "7.3).",
    ),
    Symptom(
        "another margin in the budget",
        lambda record: any(
            chooses(lambda f, e=e: f.choices(errors=e))(record)  # type: ignore[misc]
            for e in (1.0, 1.96, STUDENT, -2.0, 8**0.5)
        ),
        "You allow for another number of standard errors than two in the budget, over the two seeds that choose "
        "(exercise 7.3).",
    ),
    Symptom(
        "places for prices",
        at(STEPS, CHOSEN, partial(every, holds=lambda f: f.part("chosen", len(f.seeds)).tolist() == in_places(f))),
        "Your `chosen` holds the places of the prices in `betas`. Asked are the prices.",
    ),
    Symptom(
        "place among the allowed",
        lambda record: (
            chooses(lambda f: without(f, partial(among_the_allowed, f)))(record)
            or chooses(lambda f: without(f, partial(among_the_allowed, f, flip=True)))(record)
        ),
        "You look for the best among the allowed prices, and take its place there for its place among all. Leave the "
        "forbidden ones in, at −∞.",
    ),
    Symptom(
        "chosen by another figure",
        lambda record: any(
            chooses(lambda f, value=value: best(f, value))(record)  # type: ignore[misc]
            for value in OTHER_FIGURES
        ),
        "Within the budget you do not take the highest gold reward, but the most or the least of another figure.",
    ),
    Symptom(
        "the lower ends compared",
        chooses(lambda f: best(f, lambda k, g: g.mean(1) - 2 * g.std(1) / math.sqrt(2))),
        "You compare lower ends of the gold rewards. The margin belongs to the budget; of what is allowed the "
        "highest mean is taken (exercise 7.3).",
    ),
    Symptom(
        "one other seed chooses",
        lambda record: any(chooses(lambda f, k=k: by_one(f, k))(record) for k in (0, 1)),  # type: ignore[misc]
        "A single seed chooses for each one left out. It is the two others that choose, by their means.",
    ),
    Symptom(
        "no budget",
        chooses(lambda f: f.choices(budget=math.inf)),
        "Your choice never asks whether the KL is within the budget (exercise 7.3).",
    ),
    Symptom(
        "over the budget",
        at(STEPS, CHOSEN, lambda record: any(first([f], too_far) for f in record)),
        "You choose a price whose KL, by the seeds that choose, is not surely within the budget: their mean and two "
        "standard errors (exercise 7.3).",
    ),
    Symptom(
        "reported where it was chosen",
        reports(in_their_own_seeds),
        "You report the gold reward in the very seeds that chose: that is luck too. Report it in the seed left out.",
    ),
    Symptom(
        "reported in other seeds",
        lambda record: any(reports(lambda f, k=k: torch.tensor(seeds_moved(f)[k]))(record) for k in (0, 1)),  # type: ignore[misc]
        "Each of the prices that were chosen is reported in a seed that took part in its choice: it is the seed left "
        "out that counts.",
    ),
    Symptom(
        "reported over all seeds",
        reports(lambda f: f.table("gold")[where_chosen(f)].mean()),
        "You report the mean over all seeds, those included that chose. Only the seed left out counts.",
    ),
    Symptom(
        "the best unseen seed",
        lambda record: reports(lambda f: unseen(f).max())(record) or reports(lambda f: unseen(f).median())(record),
        "You report another figure of the unseen seeds than their mean.",
    ),
    Symptom(
        "intervals of the table in the report",
        at(
            STEPS,
            REPORT,
            partial(
                every,
                holds=lambda f: any(
                    alike(f.part("report", 2)[1], x, 1e-3)
                    for x in (
                        f.part("gold_half", len(PRICES)).mean(),
                        f.part("gold_half", len(PRICES))[where_chosen(f)].mean(),
                    )
                ),
            ),
        ),
        "The interval that you report is made of the half-widths of the table. It is that of three new numbers: the "
        "gold rewards in the unseen seeds.",
    ),
    Symptom(
        "another interval in the report",
        lambda record: any(
            report_half(rule)(record)
            for rule in (
                lambda x: x.std(),
                lambda x: x.std() / math.sqrt(3),
                lambda x: STUDENT * x.std(),
                lambda x: 1.96 * x.std() / math.sqrt(3),
                lambda x: 2 * x.std() / math.sqrt(3),
                lambda x: 2 * STUDENT * x.std() / math.sqrt(3),
                lambda x: STUDENT * x.std(correction=0) / math.sqrt(3),
                lambda x: STUDENT * x.std() / 3,
            )
        ),
        "The mean that you report is right, and its interval is made by another rule: 4.303 · std/√S of the three "
        "numbers from the unseen seeds.",
    ),
    Symptom(
        "the best mean reported",
        reports(lambda f: f.table("gold").mean(1).max()),
        "You report the highest mean of the table. It was chosen for being high: report seeds that did not choose.",
    ),
)
