"""The symptoms of notebook 03's capstone: what a mistake does to limit, β, policy and Z."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from week6.checks.bench_03 import SPENDABLE, UNITS, Record, Trial, kl_of
from week6.checks.capstone import Symptom
from week6.checks.counterfactual import alike
from week6.checks.symptoms_03_limit import OF_THE_LIMIT, near
from week6.objective import optimal_policy


def _every(kinds: Sequence[str], holds: Callable[[Trial], bool]) -> Callable[[Record], bool]:
    return lambda record: all(holds(record[kind]) for kind in kinds)


def _factor(record: Record, factor: float) -> bool:
    """Whether all KLs, and so the limit or what is spent, are this factor too large in the answer's eyes."""
    trial = record["middle"]
    wrong_limit = trial.limit is not None and near(trial.limit, factor * trial.ours["limit"])
    wrong_spending = trial.log_probs is not None and near(factor * trial.spent, trial.budget)
    return wrong_limit or wrong_spending


def _spends_a_multiple(record: Record) -> bool:
    """Whether budgets that can be spent, two or more, are exceeded or missed by one and the same factor."""
    trials = [record[kind] for kind in SPENDABLE]
    factors = [trial.spent / trial.budget for trial in trials if trial.beta is not None and bool(trial.beta > 0)]
    return len(factors) > 1 and not near(factors[0], 1.0) and all(near(f / factors[0], 1.0) for f in factors)


def _z_is(trial: Trial, wrong: Callable[[Tensor, Tensor], Tensor]) -> bool:
    """Whether "log_z" is a wrong function of log π_ref and r/β."""
    assert trial.log_z is not None and trial.beta is not None
    x = trial.rewards / trial.beta
    if trial.log_z.shape == x.shape[:1] and torch.allclose(
        trial.log_z, (trial.ref_log_probs + x).logsumexp(-1), rtol=1e-6
    ):
        return False  # it is right
    values = wrong(trial.ref_log_probs, x)
    return trial.log_z.shape == values.shape and torch.allclose(trial.log_z, values, rtol=1e-6)


def _policy_is(trial: Trial, wrong: Callable[[Tensor, Tensor, Tensor], Tensor]) -> bool:
    """Whether the policy is a wrong function of log π_ref, r and β."""
    assert trial.log_probs is not None and trial.beta is not None
    values = wrong(trial.ref_log_probs, trial.rewards, trial.beta.reshape(-1, 1))
    return torch.allclose(trial.log_probs.exp(), values.double().exp(), atol=1e-6)


def _on_budget(record: Record, *kinds: str) -> bool:
    return all(near(record[kind].spent, record[kind].budget) for kind in kinds)


def _lost_at_the_end(trial: Trial) -> bool:
    """Whether β is the one that was asked for, and the policies are not."""
    assert trial.log_probs is not None and trial.beta is not None
    found = trial.beta.numel() == 1 and near(trial.beta.item() / trial.ours["beta"], 1.0)
    return found and not alike(trial.log_probs.exp(), trial.ours["log_probs"].exp())


def _is_at_an_end(trial: Trial) -> bool:
    """Whether β is a power of two or of ten: an end of the interval in which it was sought."""
    assert trial.beta is not None
    logarithms = (trial.beta.log2().item(), trial.beta.log10().item())
    return any(abs(x - round(x)) < 1e-4 for x in logarithms) and not near(trial.spent, trial.budget)


def _other_means(trial: Trial) -> list[float]:
    kl = trial.kl
    return [x.item() for x in (kl.max(), kl.min(), kl.median(), kl[0], kl[-1])]


def _unweighted(trial: Trial) -> list[float]:
    assert trial.log_probs is not None
    ratio = torch.where(trial.ref_log_probs > -torch.inf, trial.log_probs - trial.ref_log_probs, 0.0)
    return [ratio.mean().item(), ratio.abs().mean().item(), ratio.abs().sum(-1).mean().item()]


def _slack(record: Record) -> Tensor:
    """The probabilities that came at β = 0."""
    trial = record["unspendable"]
    assert trial.log_probs is not None and trial.beta == 0
    return trial.log_probs.exp()


def _along_rewards(trial: Trial) -> bool:
    """Whether the policy of each prompt is π_ref e^(c r)/Z, with a c other than 1/β for some of them."""
    assert trial.log_probs is not None and trial.beta is not None
    slopes = []
    for r, p, q in zip(trial.rewards, trial.log_probs, trial.ref_log_probs, strict=True):
        real = q > -torch.inf
        x, y = r[real] - r[real].mean(), (p - q)[real] - (p - q)[real].mean()
        slopes.append(float(x @ y / (x @ x)))
        if not torch.allclose(y, slopes[-1] * x, atol=1e-6) or p.exp().sum() > 1 + 1e-6:
            return False
    return not all(near(slope * trial.beta.item(), 1.0) for slope in slopes)


def _only_z_is_wrong(trial: Trial) -> bool:
    """Whether the policy is π* at its β, and log Z is not that of this β."""
    assert trial.log_probs is not None and trial.beta is not None and trial.log_z is not None
    best, log_z = optimal_policy(trial.ref_log_probs, trial.rewards, trial.beta.item())
    return alike(trial.log_probs.exp(), best.exp()) and not alike(trial.log_z, log_z)


SYMPTOMS = (
    *OF_THE_LIMIT,
    Symptom(
        "sum instead of mean",
        lambda record: _factor(record, 3.0),
        "The KLs of the three prompts are added up. The budget is for their mean.",
    ),
    Symptom(
        "bits",
        lambda record: _factor(record, 1 / math.log(2)),
        "KL is measured in bits here (logarithms to base 2). A nat is 1/ln 2 bits: the budget is in nats.",
    ),
    Symptom(
        "probabilities",
        _every(("middle",), lambda trial: bool(trial.log_probs is not None and (trial.log_probs >= 0).all())),
        "“log_probs” holds probabilities. Their logarithms are asked for.",
    ),
    Symptom(
        "overflow",
        lambda record: any(
            trial.log_probs is not None and bool(trial.log_probs.isnan().any()) for trial in record.values()
        ),
        "There is a nan among the log-probabilities: e^(r/β) overflows where r/β is some hundreds. Stay with "
        "logarithms, as in exercise 3.3.",
    ),
    Symptom(
        "a multiple of the budget",
        _spends_a_multiple,
        "You spend the same multiple of every budget. What you compare with it is the mean KL times a number, or the "
        "budget is changed on the way.",
    ),
    Symptom(
        "no leash needed",
        lambda record: bool(record["unspendable"].beta is not None and (record["unspendable"].beta > 0).all()),
        "A budget above the limit was met with a β above 0. No β spends so much: the leash is slack, so its price "
        "is 0.",
    ),
    Symptom(
        "one best answer at β = 0",
        lambda record: bool((_slack(record) > 1e-9).sum(-1).eq(1).all()),
        "At β = 0 each prompt has one answer left. Where two are equally good, π* goes to both, in proportion to "
        "π_ref.",
    ),
    Symptom(
        "not normalised at β = 0",
        lambda record: not alike(_slack(record).sum(-1), torch.ones(3)),
        "At β = 0 the probabilities of a prompt do not sum to 1. The reference is cut down to the best answers, and "
        "what is left is divided by its sum.",
    ),
    Symptom(
        "more than the best at β = 0",
        lambda record: bool((_slack(record)[record["unspendable"].ours["log_probs"] == -torch.inf] > 1e-6).any()),
        "At β = 0 answers other than the best ones of their prompt keep a probability. With a slack leash only the "
        "best that the reference can give are left.",
    ),
    Symptom(
        "other shares at β = 0",
        lambda record: not alike(_slack(record), record["unspendable"].ours["log_probs"].exp()),
        "At β = 0 the best answers are right, and their shares are not. They share in proportion to π_ref: section 6.",
    ),
    Symptom(
        "log-ratios without weights",
        _every(
            ("middle",),
            lambda trial: trial.log_probs is not None and any(near(x, trial.budget) for x in _unweighted(trial)),
        ),
        "What meets the budget is a plain mean of log-ratios over the answers. In the KL each has the weight π(y).",
    ),
    Symptom(
        "a β for each prompt",
        _every(("middle", "short"), lambda trial: bool(((trial.kl - trial.budget).abs() < 0.01 * trial.budget).all())),
        "Every prompt spends the whole budget, so each has a β of its own. One price for all is asked for: where "
        "nats buy more reward, more of them are spent.",
    ),
    Symptom(
        "the budget of one prompt",
        _every(SPENDABLE, lambda trial: any(near(x, trial.budget) for x in _other_means(trial))),
        "The budget is met by another figure of the prompts' KLs than their mean, such as the largest.",
    ),
    Symptom(
        "the other KL",
        _every(
            ("middle",),
            lambda trial: (
                trial.log_probs is not None
                and near(kl_of(trial.ref_log_probs, trial.log_probs).mean().item(), trial.budget)
            ),
        ),
        "What meets the budget is KL(π_ref ‖ π). The leash is KL(π ‖ π_ref): the policy is the first argument.",
    ),
    Symptom(
        "β upside down",
        _every(
            ("short", "long"),
            lambda trial: (
                _policy_is(trial, lambda ref, r, beta: (ref + beta * r).log_softmax(-1))
                and not _policy_is(trial, lambda ref, r, beta: (ref + r / beta).log_softmax(-1))  # they agree at β = 1
            ),
        ),
        "The policy is π_ref · e^(β r). In (7) the reward is divided by β.",
    ),
    Symptom(
        "the reference tempered too",
        _every(
            ("middle",),
            lambda trial: (
                _policy_is(trial, lambda ref, r, beta: ((ref + r) / beta).log_softmax(-1))
                and not _policy_is(trial, lambda ref, r, beta: (ref + r / beta).log_softmax(-1))  # they agree at β = 1
            ),
        ),
        "The policy is a softmax of (log π_ref + r)/β. In (7) only the reward is divided by β.",
    ),
    Symptom(
        "another reward",
        _every(("middle",), _along_rewards),
        "The policy is π_ref · e^(c r)/Z, and c is not 1/β: rewards were scaled on the way, of all prompts or of each "
        "one, or the β that is returned is not the one of the policy.",
    ),
    Symptom(
        "reference forgotten",
        _every(("middle",), lambda trial: _policy_is(trial, lambda ref, r, beta: (r / beta).log_softmax(-1))),
        "The policy is a softmax of r/β alone. In (7) each answer also has the weight π_ref(y).",
    ),
    Symptom(
        "not normalised",
        _every(
            ("middle",),
            lambda trial: (
                _policy_is(trial, lambda ref, r, beta: ref + r / beta)
                and not _policy_is(trial, lambda ref, r, beta: (ref + r / beta).log_softmax(-1))
            ),
        ),
        "The policy is π_ref · e^(r/β), which does not sum to 1. Subtract log Z.",
    ),
    Symptom(
        "another policy than that of β",
        _every(SPENDABLE, _lost_at_the_end),
        "The β is right, and the policies are others than those at this β: the last lines do not do with it what the "
        "search did.",
    ),
    Symptom(
        "Z of shifted rewards",
        _every(
            ("middle",),
            lambda trial: any(
                _z_is(trial, rule)
                for rule in (
                    lambda ref, x: (ref + x).logsumexp(-1) - x.mean(-1),
                    lambda ref, x: (ref + x).logsumexp(-1) - x.amax(-1),
                    lambda ref, x: (ref + x - (ref + x).amax(-1, keepdim=True)).logsumexp(-1),
                    lambda ref, x: (ref + x).logsumexp(-1) - x.mean(),
                    lambda ref, x: (ref + x).logsumexp(-1) - x.max(),
                )
            ),
        ),
        "“log_z” is right but for a shift: it belongs to rewards from which a mean or a maximum was taken. The "
        "policy does not notice, Z does: add it back, divided by β.",
    ),
    Symptom(
        "Z in another unit",
        _every(
            ("middle",),
            lambda trial: any(
                trial.log_z is not None
                and trial.beta is not None
                and _z_is(trial, lambda ref, x, f=f: f * (ref + x).logsumexp(-1))  # type: ignore[misc]
                for f in (-1.0, float(trial.beta if trial.beta is not None else 0), 1 / math.log(2))
            ),
        ),
        "“log_z” is log Z times a constant, such as β or −1. Asked is log Σ π_ref e^(r/β), in nats.",
    ),
    Symptom(
        "one Z for all prompts",
        _every(("middle",), lambda trial: trial.log_z is not None and trial.log_z.numel() == 1),
        "There is one number “log_z” for all prompts. Each prompt has a Z of its own.",
    ),
    Symptom(
        "Z for log Z",
        _every(("middle",), lambda trial: _z_is(trial, lambda ref, x: (ref + x).logsumexp(-1).exp())),
        "“log_z” holds Z itself. Its logarithm is asked for: Z overflows where the rewards are large.",
    ),
    Symptom(
        "Z without the reference",
        _every(("middle",), lambda trial: _z_is(trial, lambda ref, x: x.logsumexp(-1))),
        "“log_z” is log Σ e^(r/β). In (7) each term has the weight π_ref(y).",
    ),
    Symptom(
        "only Z",
        _every(("middle",), _only_z_is_wrong),
        "The policies are π* at your β, and “log_z” is not their log Z. It is what normalises them, for each prompt: "
        "log Z = log π_ref + r/β − log π, the same for every answer.",
    ),
    Symptom(
        "the wrong half",
        _every(SPENDABLE, _is_at_an_end),
        "β is at an end of the interval, and what was spent is nowhere near the budget. The interval is not halved, or "
        "the wrong half is kept each time, or what you compare with the budget is not the KL. The KL falls as β grows: "
        "where too much is spent, β must go up.",
    ),
    Symptom(
        "stopped too early",
        lambda record: (
            not all(near(record[kind].spent, record[kind].budget) for kind in SPENDABLE)
            and all(abs(record[kind].spent - record[kind].budget) < 0.2 * record[kind].budget for kind in SPENDABLE)
        ),
        "What was spent is near the budget, but not on it: does the search stop too early? Each halving brings a "
        "factor of two, so some forty are enough from anywhere.",
    ),
    Symptom(
        "a fixed unit",
        lambda record: _on_budget(record, *SPENDABLE) and not _on_budget(record, *UNITS),
        "All budgets are met, but not in any unit of reward. A β has that unit: no fixed interval and no fixed width "
        "at which the halving ends suits all rewards. Widen the interval until the budget lies between what its two "
        "ends spend, and halve it a number of times, or until its ends are nearly the same as a share.",
    ),
    Symptom(
        "a fixed bracket",
        lambda record: _on_budget(record, "middle") and not _on_budget(record, "short", "long"),
        "Some budgets are met, but not all: for the others β is not between the ends of your interval, or the halving "
        "ends too soon. Widen the interval until the budget lies between what its two ends spend.",
    ),
)
