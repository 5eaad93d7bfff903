"""The steps of notebook 04's capstone: how each part of PPO is judged."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from week6.checks.bench_04 import BETA, ITERATIONS, PRESSED, Record
from week6.checks.capstone import Step
from week6.checks.gradients_04 import steps_of
from week6.log_probs import masked_whiten
from week6.ppo import gae

LAST = slice(20, ITERATIONS)
"""The iterations whose mean gap and whose critic are judged: by then a right run has arrived."""
CLIMB = 0.7
"""Of what J can gain, what five iterations must bring: the course's PPO 0.8 and more, one step a batch at most 0.62."""
ALONG = 0.9
"""The mean cosine between what the tokens feel in the first pass over a batch and their advantages: 1 in PPO, since all
ratios are 1 there; over twenty languages at most 0.82 where the bad tokens are left out."""
TWICE, HELD = 0.7, 0.045
"""The share of tokens that an update may move, the way they should, by more than a factor of two, e^0.7: right answers
move up to 0.04 of them."""
FAR_OFF, PRESSED_HELD = 1.5, 0.23
"""The same by more than e^1.5 under pressure, PRESSED steps on a batch. In twenty languages right answers move up to
0.17 of the tokens so far, those without a clip 0.30 and more."""
EXPLAINED = 0.9
"""Explained variance of the critic's table against the exact values. In twenty languages right answers explain 0.95 and
more; a critic trained on advantages, which ends at half of the values, 0.84 at most."""
GAP = 0.2
"""Nats. The course's PPO has a mean gap of at most 0.06, other right ones up to 0.13: the noise of batches of 128. At
the start it is above 1."""


def written(record: Record) -> Callable[[int], Tensor]:
    """The log-probabilities of all answers under the policy that an iteration should sample from."""
    return lambda i: record.language.log_probs(record.before(i)).sum(1)


def deviation(record: Record, drawn: Callable[[int], Tensor]) -> float:
    """How far the sampled answers are from draws by these log-probabilities of all answers, in standard errors: by
    their log-probability and by their score, over all iterations and in each."""
    worst = 0.0
    for statistic in ("log-probability", "score"):
        zs = []
        for i, y in enumerate(record["answers"]):
            log_pi = drawn(i).log_softmax(0)
            p, x = log_pi.exp(), log_pi if statistic == "log-probability" else record.scores
            mean = p @ x
            error = (p @ (x - mean).square() / len(y)).sqrt().clamp(min=1e-6)  # 0 where all answers are alike
            zs.append(float((x[y].mean() - mean) / error))
        worst = max(worst, abs(sum(zs)) / len(zs) ** 0.5, max(map(abs, zs)) - 1)
    return worst


def _sampled(record: Record) -> str | None:
    if not record.has("answers"):
        return None
    off = deviation(record, written(record))
    return "" if off < 5 else f"the answers are {off:.0f} standard errors away from what the current policy writes"


@functools.lru_cache(maxsize=4)
def shaped(record: Record) -> str | None:
    """The rewards of the tokens, by (34)."""
    if not record.has("rewards"):
        return None
    for i, rewards in enumerate(record["rewards"]):
        if problem := differs(rewards, record.shaped(i), record.batch(i)[3], 1e-4, f"iteration {i + 1}"):
            return problem
    return ""


@functools.lru_cache(maxsize=4)
def advantages(record: Record) -> str | None:
    """Advantages and returns, as they follow from the rewards and the critic."""
    if not record.has("advantages", "returns"):
        return None
    for i, step in enumerate(record.steps):
        values = record.old_values(i)
        if values is None:
            break
        mask = record.batch(i)[3]
        raw, returns = gae(record.shaped(i), values, mask)
        where = f"iteration {i + 1}"
        for name, want in (("advantages", masked_whiten(raw, mask)), ("returns", returns)):
            if problem := differs(step[name], want, mask, 0.02, f"“{name}” of {where}"):
                return problem
    return ""


def differs(came: Tensor, want: Tensor, mask: Tensor, tolerance: float, where: str) -> str:
    """Where two tables differ at a real token first, or ""."""
    wrong = ((came - want).abs() > tolerance * want.abs().clamp_min(1)) & mask | ~came.isfinite() & mask
    if not wrong.any():
        return ""
    b, t = wrong.nonzero()[0].tolist()
    return f"{where}: answer {b + 1}, token {t + 1} has {came[b, t]:.3f}; {want[b, t]:.3f} was expected"


def gained(record: Record) -> float:
    """The share of what J can gain that five iterations have brought."""
    objectives = record.objectives
    return (objectives[5] - objectives[0]) / (BETA * record.gaps[0])


@functools.lru_cache(maxsize=4)
def aligned(record: Record) -> float:
    """How far the first steps on the batches go the way of the advantages; 1 where that is not known."""
    first = [steps_of(record, i)[:1] for i in range(ITERATIONS)]
    return sum(step.along for (step,) in first) / ITERATIONS if all(first) else 1.0


def _climbs(record: Record) -> str | None:
    if not record.has("policy"):
        return None
    share, along = gained(record), aligned(record)
    if along < ALONG:
        return f"the first steps on the batches go {along:.2f} the way of the advantages (cosine); {ALONG} was expected"
    return "" if share > CLIMB else f"five iterations brought {share:.0%} of what J can gain; {CLIMB:.0%} was expected"


def far(record: Record) -> float:
    """The share of tokens that an update has moved by more than a factor of two, up if good and down if bad."""
    moved = torch.cat([record.moved(i) for i in range(2, ITERATIONS)])
    return float((moved > TWICE).double().mean())


def pressed(record: Record) -> float:
    """The share of tokens that went far off when many steps were taken on one batch; 0 where that was not tried."""
    if record.pressed is None or len(record.pressed.steps) < 2:
        return 0.0
    moved = torch.cat([record.pressed.moved(i) for i in range(2)])
    return float((moved > FAR_OFF).double().mean())


def _is_held(record: Record) -> str | None:
    share, under_pressure = far(record), pressed(record)
    if share >= HELD:
        moved = f"{share:.1%} of the tokens moved by more than a factor of two in one iteration"
        return f"{moved}; {HELD:.1%} was expected at most"
    if under_pressure >= PRESSED_HELD:
        moved = (
            f"with epochs={PRESSED}, {under_pressure:.0%} of the tokens moved by more than a factor of 4.5 on one batch"
        )
        return f"{moved}; {PRESSED_HELD:.0%} was expected at most"
    return ""


def _critic(record: Record) -> str | None:
    if not record.has("values"):
        return None
    share = explained(record)
    return "" if share > EXPLAINED else f"the critic explains {max(share, 0.0):.0%} of the variance of the exact values"


def explained(record: Record, *, later: bool = True) -> float:
    """Explained variance of the critic over the last iterations."""
    shares = [record.explained(i, later=later) for i in range(LAST.start, LAST.stop)]
    return sum(shares) / len(shares)


def late_gap(record: Record) -> float:
    """The mean gap to π* over the last iterations, in nats."""
    gaps = record.gaps[1:][LAST]
    return sum(gaps) / len(gaps)


def _arrives(record: Record) -> str | None:
    gap = late_gap(record)
    if gap < GAP:
        return ""
    path = f"{record.gaps[0]:.2f} nats at the start and is {gap:.2f} over the last ten iterations"
    return f"the gap to π* was {path}; at most {GAP} was expected"


STEPS = (
    Step("sampling from the current policy", _sampled),
    Step("rewards of the tokens", shaped),
    Step("advantages and returns", advantages),
    Step("the policy climbs", _climbs),
    Step("the clip holds it", _is_held),
    Step("the critic learns", _critic),
    Step("the gap to π*", _arrives),
)
