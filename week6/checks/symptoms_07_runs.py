"""The symptoms of notebook 07's capstone in its first half: runs, figures, and their errors over prompts."""

import math
from functools import partial

import torch

from week6.checks.bench_07 import PRICES
from week6.checks.capstone import Symptom
from week6.checks.counterfactual import alike
from week6.checks.instruments_07 import (
    ERRORS,
    FIGURES,
    MEDIANS,
    RUNS,
    SPREADS,
    WITHIN,
    figure,
    first,
    in_other_cells,
    like,
    of_another_run,
    of_draws,
    other_unit,
    paid_for_distance,
    places,
    se_like,
    times,
)
from week6.checks.judging import at, plain
from week6.checks.steps_07 import STEPS, STUDENT

OF_RUNS = (
    Symptom(
        "one seed for all runs",
        lambda record: first(record, lambda f: len(f.trained) > 1 and len({seed for _, seed in f.trained}) == 1),
        "Every run was made with the same seed: is `seed` passed on to `train`? Without a spread between seeds no "
        "interval can be right.",
    ),
    Symptom(
        "one price for all runs",
        lambda record: first(record, lambda f: len(f.trained) > 1 and len({beta for beta, _ in f.trained}) == 1),
        "Every run was made with the same β: is `beta` passed on to `train`?",
    ),
    Symptom(
        "price and seed swapped",
        lambda record: first(record, lambda f: bool(f.trained) and {beta for beta, _ in f.trained} == set(f.seeds)),
        "`train` was called with the seed as the price: its arguments are train(beta, seed), in this order.",
    ),
    Symptom(
        "places in place of prices or seeds",
        lambda record: places(record, 0) or places(record, 1),
        "`train` got places, 0, 1, 2 …, where a price or a seed belongs: pass on the elements of `betas` and `seeds`.",
    ),
    Symptom(
        "not every pair",
        at(STEPS, RUNS, lambda record: first(record, lambda f: 0 < len(set(f.trained)) < len(PRICES) * len(f.seeds))),
        "Some pairs of a price and a seed were never trained. It takes a loop over the prices and, inside it, one over "
        "the seeds; `zip` would pair them off.",
    ),
    Symptom(
        "axes swapped",
        lambda record: (
            bool(record)
            and any(
                tuple(torch.as_tensor(plain(record[0].parts.get(name, 0.0))).shape)
                == (len(record[0].seeds), len(PRICES))
                for name in ("kl", "gold", "gold_se")
            )
        ),
        "Your tables have a row for each seed and a column for each β. Asked is (C, S): a row for each β.",
    ),
    Symptom(
        "KL and reward swapped",
        lambda record: first(record, lambda f: like(f, "kl", f.true("gold")) and like(f, "gold", f.true("kl"))),
        "What you call `kl` is the gold reward, and the other way round: `draw` gives (log π − log π_ref, gold).",
    ),
    Symptom(
        "sign of the KL",
        lambda record: first(record, lambda f: like(f, "kl", -f.true("kl"))),
        "Your KL is negative: log π − log π_ref of answers drawn from π has a positive mean. Is the sign turned?",
    ),
    Symptom(
        "single answers made positive",
        figure("kl", lambda k, g: k.abs().mean(), lambda k, g: k.clamp(min=0).mean(), lambda k, g: k[k > 0].mean()),
        "You average |log π − log π_ref|, or the positive log-ratios alone. Single answers may have a negative "
        "log-ratio; their mean is the KL only with its signs.",
    ),
    Symptom(
        "sums in place of means",
        lambda record: first(
            record,
            lambda f: any(
                f.table("kl").allclose(of_draws(f, figure))
                for figure in (lambda k, g: k.sum(), lambda k, g: k.sum(0).mean(), lambda k, g: k.sum(1).mean())
            ),
        ),
        "Your figures are sums over answers, over prompts or over both. Asked are means over all M · K.",
    ),
    Symptom(
        "one answer in place of all",
        lambda record: first(
            record,
            lambda f: (
                f.table("gold").allclose(of_draws(f, lambda k, g: g[:, 0].mean()))
                or f.table("gold").allclose(of_draws(f, lambda k, g: g[0].mean()))
            ),
        ),
        "You average a row or a column of what was drawn: one prompt, or one answer to each. Use all M · K.",
    ),
    Symptom(
        "the best answers only",
        lambda record: first(
            record, lambda f: f.table("gold").allclose(of_draws(f, lambda k, g: g.max(1).values.mean()))
        ),
        "You take the best answer to each prompt. That is the gold reward of best-of-K, another policy.",
    ),
    Symptom(
        "medians in place of means",
        lambda record: any(figure(name, rule)(record) for name, rule in MEDIANS),
        "Your figures are medians. The KL and the expected gold reward are means, and these distributions are skewed.",
    ),
    Symptom(
        "squared log-ratios",
        figure("kl", lambda k, g: k.square().mean() / 2, lambda k, g: k.square().mean()),
        "You average squares of the log-ratios. The KL is the mean of log π − log π_ref itself.",
    ),
    Symptom(
        "ratios in place of log-ratios",
        figure("kl", lambda k, g: k.exp().mean(), lambda k, g: k.exp().mean() - 1, lambda k, g: (-k).exp().mean()),
        "You average the ratio of the probabilities. `draw` gives its logarithm, and the KL is the mean of that.",
    ),
    Symptom(
        "spreads in place of means",
        lambda record: any(figure(name, rule)(record) for name, rule in SPREADS),
        "Your figures are standard deviations over the answers. Asked are means.",
    ),
    Symptom(
        "the leash in the reward",
        at(STEPS, FIGURES, lambda record: first(record, paid_for_distance)),
        "Your `gold` has a multiple of the KL in it. The two are kept apart here: they are the two axes of the "
        "frontier.",
    ),
    Symptom(
        "another unit",
        at(STEPS, FIGURES, lambda record: first(record, other_unit)),
        "A table of yours is the right one times a constant: is it divided by another number than that of the answers, "
        "or in another unit?",
    ),
    Symptom(
        "drawn from another run",
        at(STEPS, FIGURES, lambda record: first(record, of_another_run)),
        "Your figures are right for what you drew, but it was not drawn from the policy of that price and seed.",
    ),
    Symptom(
        "figures in other cells",
        at(STEPS, FIGURES, lambda record: first(record, in_other_cells)),
        "All numbers of your table are right, but they stand in each other's cells: the row is the price's, the column "
        "the seed's.",
    ),
    Symptom(
        "variance of the mean",
        se_like(lambda gold: gold.mean(1).var() / len(gold)),
        "Your `gold_se` is the variance of the mean. Its root is the standard error.",
    ),
    Symptom(
        "divided by M",
        se_like(lambda gold: gold.mean(1).std() / len(gold)),
        "You divide by M. The mean of M prompts has std/√M.",
    ),
    Symptom(
        "spread within a prompt",
        lambda record: any(se_like(rule)(record) for rule in WITHIN),
        "Your `gold_se` comes from the spread of the answers to one prompt. With other prompts the mean would move by "
        "the spread *between* prompts: average over a prompt's answers, then take the std over the prompts.",
    ),
    Symptom(
        "an interval for an error",
        lambda record: any(se_like(partial(times, factor))(record) for factor in (1.96, 2.0, STUDENT)),
        "Your `gold_se` is the half-width of an interval. Asked is one standard error over the prompts.",
    ),
    Symptom(
        "the error of another figure",
        lambda record: at(
            STEPS,
            ERRORS,
            lambda r: first(
                r,
                lambda f: math.isclose(
                    f.table("gold_se")[0, 0], f.drawn[0][0].mean(1).std() / math.sqrt(len(f.drawn[0][0])), rel_tol=0.01
                ),
            ),
        )(record),
        "Your `gold_se` is the error of the KL. Asked is that of the gold reward.",
    ),
    Symptom(
        "one error for all seeds",
        at(STEPS, ERRORS, lambda record: first(record, lambda f: alike(f.table("gold_se").std(1), torch.zeros(5)))),
        "The runs of a price all have the same `gold_se`: it comes from the table of means. Asked is the error of each "
        "run, from the answers that were drawn for it.",
    ),
    Symptom(
        "answers as if independent",
        se_like(lambda gold: gold.std() / math.sqrt(gold.numel())),
        "Your error over prompts treats all M · K answers as independent. Answers to one prompt are alike: average "
        "them first, then take the standard error over the M prompts (section 4).",
    ),
    Symptom(
        "no root of M",
        se_like(lambda gold: gold.mean(1).std()),
        "Your `gold_se` is the standard deviation of single prompts. The mean of M prompts has std/√M.",
    ),
    Symptom(
        "the root of K",
        se_like(lambda gold: gold.mean(1).std() / math.sqrt(gold.shape[1])),
        "You divide by √K, the number of answers to a prompt. The mean is over M prompts: √M.",
    ),
    Symptom(
        "averaged over prompts",
        se_like(lambda gold: gold.mean(0).std() / math.sqrt(gold.shape[1])),
        "You average over the prompts first, and take the error over the K answers. The other way round: `.mean(1)` "
        "is over the answers to a prompt.",
    ),
)
