"""The symptoms of notebook 03's capstone: what a mistake does to limit, β, policy and Z."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from week6.checks.bench_03 import SPENDABLE, TOLERANCE, UNITS, Record, Trial, kl_of
from week6.checks.capstone import Symptom


def _near(x: float, y: float) -> bool:
    return abs(x - y) < TOLERANCE * max(1.0, abs(y))


def _every(kinds: Sequence[str], holds: Callable[[Trial], bool]) -> Callable[[Record], bool]:
    return lambda record: all(holds(record[kind]) for kind in kinds)


def _limit_of_one(record: Record) -> bool:
    """Whether the limit is that of a single best answer, where a prompt has two."""
    trial = record["middle"]
    reachable = trial.rewards.masked_fill(trial.ref_log_probs == -torch.inf, -torch.inf)
    last = reachable.shape[-1] - 1 - reachable.flip(-1).argmax(-1, keepdim=True)
    ones = (trial.ref_log_probs.gather(-1, place) for place in (reachable.argmax(-1, keepdim=True), last))
    return trial.limit is not None and any(_near(trial.limit, -one.mean().item()) for one in ones)


def _factor(record: Record, factor: float) -> bool:
    """Whether all KLs, and so the limit or what is spent, are this factor too large in the answer's eyes."""
    trial = record["middle"]
    wrong_limit = trial.limit is not None and _near(trial.limit, factor * trial.ours["limit"])
    wrong_spending = trial.log_probs is not None and _near(factor * trial.spent, trial.budget)
    return wrong_limit or wrong_spending


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


def _is_at_an_end(trial: Trial) -> bool:
    """Whether β is a power of two or of ten: an end of the interval in which it was sought."""
    assert trial.beta is not None
    logarithms = (trial.beta.log2().item(), trial.beta.log10().item())
    return any(abs(x - round(x)) < 1e-4 for x in logarithms) and not _near(trial.spent, trial.budget)


def _limit_is(record: Record, rule: Callable[[Tensor, Tensor], Tensor]) -> bool:
    """Whether the limit is a wrong function of log π_ref and r."""
    trial = record["middle"]
    if trial.limit is None or _near(trial.limit, trial.ours["limit"]):
        return False
    return _near(trial.limit, rule(trial.ref_log_probs, trial.rewards).item())


def _of_best(ref: Tensor, r: Tensor) -> Tensor:
    """−log of the probability of the best answers that can be reached, (B,)."""
    reachable = r.masked_fill(ref == -torch.inf, -torch.inf)
    return -ref.masked_fill(reachable != reachable.amax(-1, keepdim=True), -torch.inf).logsumexp(-1)


OTHER_LIMITS = (
    lambda ref, r: torch.tensor(math.log(ref.shape[-1])),
    lambda ref, r: -(ref.exp() * ref).nan_to_num(0.0).sum(-1).mean(),
    lambda ref, r: _of_best(ref, r).max(),
    lambda ref, r: _of_best(ref, r).min(),
    lambda ref, r: _of_best(ref, r).median(),
    lambda ref, r: (-_of_best(ref, r)).exp().mean(),
    lambda ref, r: -(-_of_best(ref, r)).exp().mean().log(),
    lambda ref, r: -_of_best(ref, r).mean(),
    lambda ref, r: _of_best(ref, r)[0],
)  # fmt: skip


def _other_means(trial: Trial) -> list[float]:
    kl = trial.kl
    return [x.item() for x in (kl.max(), kl.min(), kl.median(), kl[0], kl[-1])]


def _unweighted(trial: Trial) -> list[float]:
    assert trial.log_probs is not None
    ratio = torch.where(trial.ref_log_probs > -torch.inf, trial.log_probs - trial.ref_log_probs, 0.0)
    return [ratio.mean().item(), ratio.abs().mean().item(), ratio.abs().sum(-1).mean().item()]


def _slope(trial: Trial) -> float | None:
    """c, if the policy is π_ref e^(c r)/Z with a c other than 1/β; else None."""
    assert trial.log_probs is not None and trial.beta is not None
    real = trial.ref_log_probs > -torch.inf
    x = [
        torch.stack([r[m], (p - q)[m], torch.ones_like(r[m])])
        for r, p, q, m in zip(trial.rewards, trial.log_probs, trial.ref_log_probs, real, strict=True)
    ]
    centred = torch.cat([row - row.mean(1, keepdim=True) for row in x], dim=1)
    slope = float(centred[0] @ centred[1] / (centred[0] @ centred[0]))
    fits = torch.allclose(centred[1], slope * centred[0], atol=1e-6) and bool(
        (trial.log_probs.exp().sum(-1) < 1 + 1e-6).all()
    )
    return slope if fits and not _near(slope * trial.beta.item(), 1.0) else None


SYMPTOMS = (
    Symptom(
        "an answer that is out of reach",
        lambda record: record["middle"].limit == math.inf,
        "The limit is infinite: has the best answer π_ref = 0? No β lets the policy give it. Look for the best "
        "among the answers that the reference can give.",
    ),
    Symptom(
        "ties forgotten",
        _limit_of_one,
        "The limit is that of one best answer a prompt. Where two are equally good, π* goes to both: add up their "
        "probabilities before you take the logarithm.",
    ),
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
        "another limit",
        lambda record: any(_limit_is(record, rule) for rule in OTHER_LIMITS),
        "The limit is another figure than the mean KL of π* for β → 0, such as log N, an entropy, or that of one "
        "prompt. There π* is π_ref, restricted to the best answers: its KL is −log of their probability.",
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
        "no leash needed",
        lambda record: bool(record["unspendable"].beta is not None and (record["unspendable"].beta > 0).all()),
        "A budget above the limit was met with a β above 0. No β spends so much: the leash is slack, so its price "
        "is 0.",
    ),
    Symptom(
        "best answers share equally",
        lambda record: _policy_is(
            record["unspendable"],
            lambda ref, r, beta: torch.where(
                (ref > -torch.inf) & (r == r.masked_fill(ref == -torch.inf, -torch.inf).amax(-1, True)), 0.0, -torch.inf
            ).log_softmax(-1),
        ),
        "At β = 0 the best answers share equally. They share in proportion to π_ref: section 6.",
    ),
    Symptom(
        "one best answer at β = 0",
        _every(
            ("unspendable",),
            lambda trial: trial.log_probs is not None and bool(((trial.log_probs.exp() > 1e-9).sum(-1) == 1).all()),
        ),
        "At β = 0 each prompt has one answer left. Where two are equally good, π* goes to both, in proportion to "
        "π_ref.",
    ),
    Symptom(
        "log-ratios without weights",
        _every(
            ("middle",),
            lambda trial: trial.log_probs is not None and any(_near(x, trial.budget) for x in _unweighted(trial)),
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
        _every(SPENDABLE, lambda trial: any(_near(x, trial.budget) for x in _other_means(trial))),
        "The budget is met by another figure of the prompts' KLs than their mean, such as the largest.",
    ),
    Symptom(
        "the other KL",
        _every(
            ("middle",),
            lambda trial: (
                trial.log_probs is not None
                and _near(kl_of(trial.ref_log_probs, trial.log_probs).mean().item(), trial.budget)
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
        _every(("middle",), lambda trial: _slope(trial) is not None),
        "The policy is π_ref · e^(c r)/Z, and c is not 1/β: rewards were scaled on the way, or the β that is "
        "returned is not the one of the policy.",
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
        "the wrong half",
        _every(SPENDABLE, _is_at_an_end),
        "What was spent is nowhere near the budget, as if the search had kept the wrong half each time. The KL "
        "falls as β grows: where too much is spent, β must go up.",
    ),
    Symptom(
        "stopped too early",
        lambda record: (
            not all(_near(record[kind].spent, record[kind].budget) for kind in SPENDABLE)
            and all(abs(record[kind].spent - record[kind].budget) < 0.2 * record[kind].budget for kind in SPENDABLE)
        ),
        "What was spent is near the budget, but not on it: does the search stop too early? Each halving brings a "
        "factor of two, so some forty are enough from anywhere.",
    ),
    Symptom(
        "a fixed bracket",
        lambda record: (
            _near(record["middle"].spent, record["middle"].budget)
            and not all(_near(record[kind].spent, record[kind].budget) for kind in ("short", "long", *UNITS))
        ),
        "Some budgets are met, but not all. A β has the unit of the reward: no fixed interval holds it for all "
        "rewards. Widen the interval until the budget lies between what its two ends spend.",
    ),
)
