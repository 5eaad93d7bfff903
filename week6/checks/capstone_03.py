"""The capstone of notebook 03: π*, Z and the one β for a budget of KL."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from week6.checks.capstone import Capstone, Malformed, Step, Symptom, parts
from week6.objective import kl_divergence, optimal_policy

TOLERANCE = 1e-4
"Nats. The course's own bisection meets every budget to 1e-10; a tenth of this is what ten halvings more would "
"bring."


def spend_budget(
    ref_log_probs: Float[Tensor, "B N"], rewards: Float[Tensor, "B N"], budget: float
) -> dict[str, float | Tensor]:
    """The policies of highest mean reward whose mean KL to the reference is `budget` nats, and their price β.

    Returns "limit" (the mean KL for β → 0), "beta", "log_probs" (B, N) and "log_z" (B,); without "log_z" where β = 0.
    """
    reachable = rewards.masked_fill(ref_log_probs == -torch.inf, -torch.inf)
    best = reachable == reachable.max(-1, keepdim=True).values
    of_best = ref_log_probs.masked_fill(~best, -torch.inf)
    limit = -of_best.logsumexp(-1).mean().item()
    if budget >= limit:
        return {"limit": limit, "beta": 0.0, "log_probs": of_best.log_softmax(-1)}

    def spent(beta: float) -> float:
        log_probs, _ = optimal_policy(ref_log_probs, rewards, beta)
        return kl_divergence(log_probs, ref_log_probs).mean().item()

    low = high = 1.0
    while spent(low) < budget:
        low /= 2
    while spent(high) > budget:
        high *= 2
    for _ in range(60):
        beta = math.sqrt(low * high)
        low, high = (beta, high) if spent(beta) > budget else (low, beta)
    log_probs, log_z = optimal_policy(ref_log_probs, rewards, beta)
    return {"limit": limit, "beta": beta, "log_probs": log_probs, "log_z": log_z}


@dataclass(frozen=True)
class Trial:
    """One call: what went in, and what came out, as far as the answer has got (`limit` … `log_z`, else None)."""

    kind: str
    ref_log_probs: Float[Tensor, "B N"]
    rewards: Float[Tensor, "B N"]
    budget: float
    limit: float | None
    beta: Tensor | None
    log_probs: Tensor | None
    log_z: Tensor | None

    @property
    def ours(self) -> dict[str, Any]:
        """What the course's own function returns."""
        return spend_budget(self.ref_log_probs, self.rewards, self.budget)

    @property
    def kl(self) -> Float[Tensor, " B"]:
        """KL(π ‖ π_ref) of the policies that were returned, a prompt each."""
        assert self.log_probs is not None
        return _kl(self.log_probs, self.ref_log_probs)

    @property
    def spent(self) -> float:
        """Its mean over the prompts, in nats."""
        return self.kl.mean().item()


Record = dict[str, Trial]


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL without a look at whether these are distributions."""
    p = log_p.exp()
    return (p * torch.where(p > 0, log_p - log_q, 0.0)).sum(-1)


def _problems(seed: int) -> dict[str, tuple[Tensor, Tensor, float]]:
    """Three prompts with up to 30 answers: one has a best answer that the reference never gives, one has two best."""
    g = torch.Generator().manual_seed(seed)
    n = int(torch.randint(12, 31, (), generator=g))
    logits = 1.5 * torch.randn(3, n, generator=g, dtype=torch.float64)
    rewards = torch.randn(3, n, generator=g, dtype=torch.float64)
    logits[0, 2] = -torch.inf
    rewards[0, 2] = 3 + rewards[0].max()
    rewards[1, [4, 9]] = 0.5 + rewards[1].max()
    ref = logits.log_softmax(-1)
    limit = spend_budget(ref, rewards, math.inf)["limit"]
    assert isinstance(limit, float)
    part = 0.2 + 0.3 * torch.rand((), generator=g).item()
    return {
        "unspendable": (ref, rewards, limit + 0.5),
        "middle": (ref, rewards, part * limit),
        "short": (ref, rewards, 0.01),
        "long": (ref, rewards, 0.95 * limit),
        "large unit": (ref, 1000 * rewards, part * limit),
        "small unit": (ref, rewards / 1000, part * limit),
    }


def _run(answer: Callable[..., Any], seed: int) -> Record:
    record = {}
    for kind, (ref, rewards, budget) in _problems(seed).items():
        result = parts(answer(ref.clone(), rewards.clone(), budget), "limit", "beta", "log_probs", "log_z")
        limit, beta, log_probs, log_z = (
            torch.as_tensor(result[name]).detach().double() if name in result else None
            for name in ("limit", "beta", "log_probs", "log_z")
        )
        if limit is not None and limit.numel() != 1:
            raise Malformed(
                f"“limit” has shape {tuple(limit.shape)}; one number, the mean over the prompts, is asked for."
            )
        if log_probs is not None and log_probs.shape != ref.shape:
            raise Malformed(f"“log_probs” has shape {tuple(log_probs.shape)}, expected {tuple(ref.shape)}.")
        number = None if limit is None else limit.item()
        record[kind] = Trial(kind, ref, rewards, budget, number, beta, log_probs, log_z)
    return record


# --- steps ----------------------------------------------------------------------------------------------------------


def _limit(record: Record) -> str | None:
    for trial in record.values():
        if trial.limit is None:
            return None
        if not abs(trial.limit - trial.ours["limit"]) < 1e-6:
            return f"yours is {trial.limit:.4f} nats, {trial.ours['limit']:.4f} was expected"
    return ""


def _unspendable(record: Record) -> str | None:
    trial = record["unspendable"]
    if trial.beta is None or trial.log_probs is None:
        return None
    if trial.beta.numel() != 1 or trial.beta != 0:
        return f"for a budget above the limit, β = {_shown(trial.beta)} came; 0 was expected"
    error = (trial.log_probs.exp() - trial.ours["log_probs"].exp()).abs().max().item()
    return "" if error < 1e-6 else f"at β = 0 a probability is off by {error:.3f}"


SPENDABLE = ("middle", "short", "long")
UNITS = ("large unit", "small unit")


def _at_its_beta(record: Record) -> str | None:
    for kind in SPENDABLE:
        trial = record[kind]
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
    gap = _kl(trial.log_probs, best).mean().item()
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


# --- symptoms -------------------------------------------------------------------------------------------------------


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
    values = wrong(trial.ref_log_probs, trial.rewards / trial.beta)
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
        "a β for each prompt",
        _every(("middle", "short"), lambda trial: bool(((trial.kl - trial.budget).abs() < 0.01 * trial.budget).all())),
        "Every prompt spends the whole budget, so each has a β of its own. One price for all is asked for: where "
        "nats buy more reward, more of them are spent.",
    ),
    Symptom(
        "the other KL",
        _every(
            ("middle",),
            lambda trial: (
                trial.log_probs is not None
                and _near(_kl(trial.ref_log_probs, trial.log_probs).mean().item(), trial.budget)
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
        "reference forgotten",
        _every(("middle",), lambda trial: _policy_is(trial, lambda ref, r, beta: (r / beta).log_softmax(-1))),
        "The policy is a softmax of r/β alone. In (7) each answer also has the weight π_ref(y).",
    ),
    Symptom(
        "not normalised",
        _every(("middle",), lambda trial: _policy_is(trial, lambda ref, r, beta: ref + r / beta)),
        "The policy is π_ref · e^(r/β), which does not sum to 1. Subtract log Z.",
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

capstone = Capstone(
    title="3.7 Capstone: a budget of nats",
    name="my_spend_budget",
    reference=spend_budget,
    run=_run,
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
        "with rewards whose units differ by a factor of a million."
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
