"""The bench of notebook 10's capstone: losses with and without a minimum, and how each part of an answer is judged."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from week6.checks.capstone import Malformed, Step, parts
from week6.checks.judging import Missing, Wrong, judged, numbers
from week6.objective import kl_divergence, optimal_policy
from week6.preferences import preference_probability

PairLoss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""log π of the chosen and of the rejected answer, log π_ref of both → the loss of the pair, element by element."""

TOLERANCE = 1e-5
"""The steepest slope that counts as none. A line search that compares losses still gets there: rounding hides a fall of
the loss of 1e-14, and there a step makes it fall by some 1e-11."""
GAP = 1e-4
"Nats. The course's own answer ends within 2e-6 of each optimum that is known, over 40 seeds."
LIMIT = 40.0
"Nats: twice the widest optimum of a verdict. One problem has a limit of its own."


@dataclass(frozen=True)
class Trial:
    """One call: what went in, what came out, and the policies at which the loss was asked for."""

    name: str
    pair_loss: PairLoss
    log_ref: Float[Tensor, " N"]
    reward: Float[Tensor, " N"]
    preference: Float[Tensor, "N N"]
    limit: float
    rests: bool
    best: Tensor | None
    found: dict[str, Any]
    asked: list[Tensor]

    def expected(self, log_pi: Tensor) -> Tensor:
        """(1) at log π, shape (N,)."""
        pairs = 2 * self.log_ref.exp()[:, None] * self.log_ref.exp() * self.preference
        ref = self.log_ref
        return (pairs * self.pair_loss(log_pi[:, None], log_pi, ref[:, None], ref)).sum()

    def gradient(self, log_pi: Tensor) -> Tensor:
        """Of (1), by the logits."""
        theta = log_pi.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(self.expected(theta.log_softmax(-1)), theta)
        return gradient

    def slopes(self, log_pi: Tensor) -> Tensor:
        """The gradient, divided by π_ref."""
        return self.gradient(log_pi) / self.log_ref.exp()

    def part(self, name: str, *shape: int) -> Tensor:
        """A part of what came, as numbers."""
        return numbers(self.found, name, *shape)

    @property
    def end(self) -> Float[Tensor, " N"]:
        """The log π that came."""
        return self.part("log_pi", len(self.log_ref))

    @property
    def gap(self) -> float:
        """KL to the optimum, where it is known, in nats."""
        assert self.best is not None
        return (self.end.exp() * (self.end - self.best.log_softmax(-1))).sum().item()

    @functools.cached_property
    def star(self) -> tuple[Float[Tensor, " N"], float]:
        """π* with the KL of what came, and its price β'."""
        low, high, spent = 1e-4, 1e4, kl_divergence(self.end, self.log_ref).item()
        for _ in range(50):
            price = math.sqrt(low * high)
            star, _ = optimal_policy(self.log_ref, self.reward, price)
            low, high = (price, high) if kl_divergence(star, self.log_ref).item() > spent else (low, price)
        return star, price

    @property
    def lost(self) -> float:
        """The reward that the policy which came loses against it."""
        return ((self.star[0].exp() - self.end.exp()) * self.reward).sum().item()

    @property
    def kls(self) -> Tensor:
        """The KLs that came."""
        return self.part("kls", len(self.found["kls"]) if "kls" in self.found else 0)


Record = dict[str, Trial]


def spread(log_ratio: Tensor) -> float:
    """How far the largest and the smallest are apart."""
    return (log_ratio.max() - log_ratio.min()).item()


class Loss:
    """A loss of a pair. A class, not a function made on the spot: it must go into the process of a submission."""

    def __init__(self, kind: str, beta: float = 1.0, epsilon: float = 0.0) -> None:
        self.kind, self.beta, self.epsilon = kind, beta, epsilon

    def __call__(self, won: Tensor, lost: Tensor, ref_won: Tensor, ref_lost: Tensor) -> Tensor:
        """Element by element. ORPO has λ = 1, and all answers have three tokens."""
        h = (won - ref_won) - (lost - ref_lost)
        right, wrong = -F.logsigmoid(self.beta * h), -F.logsigmoid(-self.beta * h)
        if self.kind == "dpo":
            return (1 - self.epsilon) * right + self.epsilon * wrong
        if self.kind == "robust":
            return ((1 - self.epsilon) * right - self.epsilon * wrong) / (1 - 2 * self.epsilon)
        if self.kind == "ipo":
            return (h - 1 / (2 * self.beta)) ** 2
        if self.kind == "simpo":
            return -F.logsigmoid(self.beta * (won - lost))
        if self.kind == "orpo":
            odds = [mean - torch.log(-torch.expm1(mean)) for mean in (won / 3, lost / 3)]
            return -won / 3 - F.logsigmoid(odds[0] - odds[1])
        return -won + 0 * lost


class Watched:
    """A loss as an answer gets it: it notes the policies that it is asked about, and ends the call at nan."""

    def __init__(self, loss: PairLoss, ran_away: str) -> None:
        self.loss, self.ran_away = loss, ran_away
        self.asked: list[Tensor] = []

    def __call__(self, won: Tensor, lost: Tensor, ref_won: Tensor, ref_lost: Tensor) -> Tensor:
        """The loss."""
        if bool(won.isnan().any()):
            raise Malformed(self.ran_away)
        self.asked.append(won.detach())
        return self.loss(won, lost, ref_won, ref_lost)


def _drawn(seed: int) -> dict[str, Trial]:
    """Problems that nobody has answered yet; `best` is log π at the minimum, where a formula says."""
    g = torch.Generator().manual_seed(seed)
    n = int(torch.randint(6, 9, (), generator=g))
    log_ref = (1.5 * torch.randn(n, generator=g, dtype=torch.float64)).log_softmax(-1)
    reward = torch.linspace(-1.5, 1.5, n, dtype=torch.float64)[torch.randperm(n, generator=g)]
    reward = reward + 0.1 * torch.rand(n, generator=g, dtype=torch.float64)
    soft = preference_probability(reward[:, None], reward[None, :])
    certain = (reward[:, None] > reward).double() + 0.5 * torch.eye(n, dtype=torch.float64)
    wins = soft @ log_ref.exp()
    losses: dict[str, tuple[PairLoss, Tensor, bool, Tensor | None]] = {
        "DPO": (Loss("dpo", 0.5), soft, True, log_ref + reward / 0.5),
        "DPO, small β": (Loss("dpo", 0.15), soft, True, log_ref + reward / 0.15),
        "IPO": (Loss("ipo", 0.2), soft, True, log_ref + wins / 0.2),
        "imitation": (Loss("imitation"), soft, True, log_ref + wins.log()),
        "SimPO": (Loss("simpo"), soft, True, reward),
        "ORPO": (Loss("orpo"), soft, True, None),
        "cDPO, certain labels": (Loss("dpo", 0.5, 0.1), certain, True, None),
        "IPO, certain labels": (Loss("ipo", 0.1), certain, True, log_ref + certain @ log_ref.exp() / 0.1),
        "DPO, certain labels": (Loss("dpo", 0.5), certain, False, None),
        "SimPO, certain labels": (Loss("simpo", 0.4), certain, False, None),
        "robust DPO, certain labels": (Loss("robust", 0.5, 0.1), certain, False, None),
    }
    drawn = {
        name: Trial(name, loss, log_ref, reward, preference, LIMIT, rests, best, {}, [])
        for name, (loss, preference, rests, best) in losses.items()
    }
    # Likely answers are good ones, so that log π is spread by far more than log π/π_ref.
    steep, good = (2 * log_ref).log_softmax(-1), reward.sort().values[log_ref.argsort().argsort()]
    preference = preference_probability(good[:, None], good[None, :])
    tilt = preference @ steep.exp() / 0.04
    limit = 1.4 * spread(tilt)
    drawn["IPO, small β"] = Trial(
        "IPO, small β", Loss("ipo", 0.04), steep, good, preference, limit, True, steep + tilt, {}, []
    )
    return drawn


def _ran_away(trial: Trial) -> str:
    if trial.rests:
        return (
            f"For {trial.name} you hand nan to the loss: your steps overshoot, farther each time. How much a loss "
            "bends differs by a factor of a thousand: try a step, and shorten it where it goes too far."
        )
    return (
        f"For {trial.name} you hand nan to the loss: the log-ratios have run away, and nothing has stopped the "
        "descent. Look in each step how far the largest and the smallest are apart."
    )


def measure(answer: Callable[..., Any], seed: int) -> Record:
    """Let `answer` say of each loss where it leads."""
    record = {}
    for name, trial in _drawn(seed).items():
        watched = Watched(trial.pair_loss, _ran_away(trial))
        inputs = (tensor.clone() for tensor in (trial.log_ref, trial.reward, trial.preference))
        result = answer(watched, *inputs, TOLERANCE, trial.limit)
        found = parts(result, "slopes", "log_pi", "rests", "kls", "lost")
        record[name] = replace(trial, found=found, asked=watched.asked)
    return record


def resting(record: Record) -> list[Trial]:
    """The trials whose loss has a minimum."""
    return [trial for trial in record.values() if trial.rests]


def _slopes(record: Record) -> None:
    for trial in record.values():
        came, want = trial.part("slopes", len(trial.log_ref)), trial.slopes(trial.log_ref)
        if not torch.allclose(came, want, rtol=1e-6, atol=1e-8):
            i = int((came - want).abs().argmax())
            raise Wrong(
                f"for {trial.name} the slope at π_ref by the logit of answer {i}, whose π_ref is "
                f"{trial.log_ref[i].exp():.4f}, is {want[i]:.6g}; yours is {came[i]:.6g}"
            )


def _place(record: Record) -> None:
    for trial in resting(record):
        end = trial.end
        if not abs(end.exp().sum().item() - 1) < 1e-6:
            raise Wrong(f"for {trial.name} the probabilities of your `log_pi` sum to {end.exp().sum():.4g}, expected 1")
        steepest = trial.slopes(end).abs().max().item()
        if not steepest <= 2 * TOLERANCE:  # rounding: a rare answer's gradient is a difference of nearly equal numbers
            raise Wrong(
                f"for {trial.name} the steepest slope where you stopped is {steepest:.2g}; the tolerance was "
                f"{TOLERANCE:.0e}"
            )
        if trial.best is not None and not trial.gap < GAP:
            raise Wrong(
                f"for {trial.name} you end {trial.gap:.2g} nats from the optimum; less than {GAP:g} was expected"
            )


def _verdicts(record: Record) -> None:
    for trial in record.values():
        if "rests" not in trial.found:
            raise Missing
        if bool(trial.found["rests"]) != trial.rests:
            has = "a minimum" if trial.rests else "no minimum"
            raise Wrong(f"{trial.name} has {has}, and your `rests` is {bool(trial.found['rests'])}")
        if not trial.rests and not spread(trial.end - trial.log_ref) > trial.limit:
            raise Wrong(
                f"for {trial.name} you stopped where the log-ratios are {spread(trial.end - trial.log_ref):.1f} nats "
                f"apart; the limit was {trial.limit:g}"
            )


def _path(record: Record) -> None:
    for trial in record.values():
        kls = trial.kls
        last = kl_divergence(trial.end.log_softmax(-1), trial.log_ref).item()
        for where, came, want in (("first", kls[:1], 0.0), ("last", kls[-1:], last)):
            if not (len(came) and abs(came.item() - want) < 1e-6 * max(1.0, want)):
                shown = f"{came.item():.6f}" if len(came) else "missing"
                raise Wrong(f"for {trial.name} the {where} of your `kls` is {shown}; {want:.6f} nats was expected")


def _lost(record: Record) -> None:
    for trial in resting(record):
        came, want = trial.part("lost").item(), trial.lost
        if not abs(came - want) < 1e-5:
            raise Wrong(f"for {trial.name} your policy has lost {want:.6f} reward units; `lost` is {came:.6f}")


STEPS = (
    Step("the slopes at the reference", judged(_slopes)),
    Step("the place of rest", judged(_place)),
    Step("does it rest at all?", judged(_verdicts)),
    Step("the path", judged(_path)),
    Step("the lost reward", judged(_lost)),
)
