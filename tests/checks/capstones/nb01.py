"""Fits of rewards to a table with ties, right and wrong."""

import torch

from tests.checks.capstones.altered import altered
from week6.checks.capstone_01 import fit_until


def _ways(arrows):
    return torch.linalg.matrix_power(arrows.double() + torch.eye(len(arrows)), len(arrows)) > 0


def _reach(arrows):
    return _ways(arrows).all()


def _fit(
    *,
    counts_of=lambda wins, ties: wins + ties / 2,
    finite_of=lambda counts, wins, l2: l2 > 0 or bool(_reach(counts > 0)),
    met=lambda counts, wins: counts + counts.T,
    slope=lambda counts, expected: counts - expected,
    penalty=lambda l2: l2,
    stop=lambda gradient, step, rounds, tolerance: gradient.abs().max() <= tolerance,
    start=torch.zeros,
    end=lambda rewards: rewards,
    most=3000,
):
    """The course's fit, with one part of it replaced."""

    def answer(wins, ties, l2, tolerance):
        counts = counts_of(wins, ties)
        found = {"counts": counts, "finite": finite_of(counts, wins, l2)}
        if not found["finite"]:
            return found
        compared, rewards, rounds = met(counts, wins), start(len(counts)).double(), 0
        step_size = 1 / (compared.sum(dim=1).max() / 2 + l2)
        while True:
            expected = compared * torch.sigmoid(rewards[:, None] - rewards[None, :])
            gradient = slope(counts, expected).sum(dim=1) - penalty(l2) * rewards
            if stop(gradient, step_size * gradient, rounds, tolerance) or rounds > most:
                return found | {"rewards": end(rewards), "rounds": rounds}
            rewards = rewards + step_size * gradient
            rounds += 1

    return answer


def newton(wins, ties, l2, tolerance):
    """Newton's method; Ford's rule by a walk along the arrows."""
    counts = wins + 0.5 * ties
    k = len(counts)

    def reached(table):
        seen, todo = {0}, [0]
        while todo:
            here = todo.pop()
            for other in range(k):
                if table[here, other] > 0 and other not in seen:
                    seen.add(other)
                    todo.append(other)
        return len(seen) == k

    if l2 == 0 and not (reached(counts) and reached(counts.T)):
        return {"counts": counts, "finite": False}
    n, r, rounds = counts + counts.T, torch.zeros(k, dtype=torch.float64), 0
    while True:
        p = torch.sigmoid(r.view(-1, 1) - r)
        gradient = (counts - n * p).sum(1) - l2 * r
        if max(gradient.max().item(), -gradient.min().item()) < tolerance:
            return {"counts": counts, "finite": True, "rewards": (r - r.mean()).tolist(), "rounds": rounds}
        nu = n * p * (1 - p)
        r = r + 0.9 * torch.linalg.lstsq(torch.diag(nu.sum(1) + l2) - nu + 1 / k, gradient).solution
        rounds += 1


def minorise_and_maximise(wins, ties, l2, tolerance):
    """Zermelo's rounds (15) without a penalty, in fp32; with one, gradient ascent by autograd."""
    counts = (wins + ties / 2).float()
    beats = counts.gt(0) | torch.eye(len(counts)).bool()
    for middle in range(len(counts)):  # Warshall
        beats |= beats[:, middle : middle + 1] & beats[middle]
    found = {"counts": counts, "finite": bool(beats.all()) or l2 > 0}
    if not found["finite"]:
        return found
    n, r, rounds = counts + counts.T, torch.zeros(len(counts), requires_grad=True), 0
    while True:
        objective = (counts * torch.nn.functional.logsigmoid(r[:, None] - r)).sum() - l2 / 2 * (r**2).sum()
        (gradient,) = torch.autograd.grad(objective, r)
        if torch.linalg.vector_norm(gradient, torch.inf) <= tolerance:
            return found | {"rewards": r.detach(), "rounds": torch.tensor(rounds)}
        with torch.no_grad():
            if l2 == 0:
                w = r.exp()
                r = (counts.sum(1) / (n / (w[:, None] + w)).sum(1)).log()
            else:
                r = r + gradient / (n.sum(1).max() / 2 + l2)
            r = (r - r.mean()).requires_grad_()
        rounds += 1


RIGHT = {"Newton": newton, "minorise and maximise": minorise_and_maximise}
MISTAKES = {
    "ties dropped": _fit(counts_of=lambda wins, ties: wins),
    "ties as wins": _fit(counts_of=lambda wins, ties: wins + ties),
    "a quarter of the ties": _fit(counts_of=lambda wins, ties: wins + ties / 4),
    "ties for the first": _fit(counts_of=lambda wins, ties: wins + ties.triu()),
    "always finite": _fit(finite_of=lambda counts, wins, l2: True),
    "arrows whatever the penalty": _fit(finite_of=lambda counts, wins, l2: bool(_reach(counts > 0))),
    "arrows of wins": _fit(finite_of=lambda counts, wins, l2: l2 > 0 or bool(_reach(wins > 0))),
    "connected": _fit(finite_of=lambda counts, wins, l2: l2 > 0 or bool(_reach(counts + counts.T > 0))),
    "each won and lost": _fit(
        finite_of=lambda counts, wins, l2: l2 > 0 or bool((counts.sum(0) > 0).all() and (counts.sum(1) > 0).all())
    ),
    "downhill": _fit(slope=lambda counts, expected: expected - counts),
    "losers first": _fit(slope=lambda counts, expected: counts.T - expected),
    "not centred": _fit(end=lambda rewards: rewards - rewards[0]),
    "no penalty": _fit(penalty=lambda l2: 0.0),
    "twice the penalty": _fit(penalty=lambda l2: 2 * l2),
    "half the penalty": _fit(penalty=lambda l2: l2 / 2),
    "mean of the gradient": _fit(stop=lambda gradient, step, rounds, tolerance: gradient.mean().abs() <= tolerance),
    "2000 rounds": _fit(stop=lambda gradient, step, rounds, tolerance: rounds == 2000),
    "at most 200 rounds": _fit(
        stop=lambda gradient, step, rounds, tolerance: gradient.abs().max() <= tolerance or rounds == 200
    ),
    "size of the step": _fit(stop=lambda gradient, step, rounds, tolerance: step.abs().max() <= tolerance),
}
MISTAKES |= {
    "diagonal in place": altered(
        fit_until,
        (
            "reach = (counts > 0) | torch.eye(len(counts), dtype=torch.bool)",
            "counts += torch.eye(len(counts))\n    reach = counts > 0",
        ),
    ),
    "half of the ties, upper triangle": altered(fit_until, ("wins + ties / 2", "wins + ties.triu() / 2")),
    "table transposed": altered(fit_until, ("wins + ties / 2", "wins.T + ties / 2")),
    "whole halves": altered(fit_until, ("wins + ties / 2", "wins + ties // 2")),
    "two arrows at most": altered(fit_until, ("for _ in range(len(counts)):", "for _ in range(1):")),
    "any for all": _fit(finite_of=lambda counts, wins, l2: l2 > 0 or bool((counts > 0).any())),
    "from the first answer only": _fit(finite_of=lambda counts, wins, l2: l2 > 0 or bool(_ways(counts > 0)[0].all())),
    "stop when the likelihood stands": altered(
        fit_until,
        ("    rounds = 0\n", "    rounds, before = 0, -torch.inf\n"),
        (
            "        if gradient.abs().max() <= tolerance:",
            "        now = (counts * torch.nn.functional.logsigmoid(rewards[:, None] - rewards)).sum()\n"
            "        rise, before = now - l2 / 2 * (rewards**2).sum() - before, now - l2 / 2 * (rewards**2).sum()\n"
            "        if rise < tolerance:",
        ),
    ),
    "penalty as pseudo-counts": altered(
        fit_until, ("    compared = counts", "    counts = counts + l2\n    compared = counts"), ("- l2 * rewards", "")
    ),
    "strengths": altered(fit_until, ('"rewards": rewards,', '"rewards": rewards.exp(),')),
    "first entry of the gradient": altered(fit_until, ("gradient.abs().max()", "gradient[0].abs()")),
    "mean over opponents": altered(fit_until, ("(counts - expected).sum(dim=1)", "(counts - expected).mean(dim=1)")),
}
MISTAKES |= {
    "ties left out of n": _fit(met=lambda counts, wins: wins + wins.T, most=500),
    "a penalty for safety": _fit(penalty=lambda l2: l2 + 0.1),
    "n is the counts": _fit(met=lambda counts, wins: counts, most=500),
    "a tolerance of its own": _fit(stop=lambda gradient, step, rounds, tolerance: gradient.abs().max() <= 1e-4),
    "expected wins of the opponent": _fit(slope=lambda counts, expected: counts - expected.T, most=500),
    "the later answers count for less": _fit(end=lambda rewards: rewards / torch.linspace(1, 2, len(rewards))),
    "divided by half the number of answers": _fit(end=lambda rewards: rewards * 2 / len(rewards)),
    "rounded": _fit(end=lambda rewards: rewards.round(decimals=2)),
    "three times the penalty": _fit(penalty=lambda l2: 3 * l2),
}
RECOGNISED = {
    "ties left out of n": "the ties in the fit",
    "a penalty for safety": "a penalty that nobody asked for",
    "n is the counts": "another total",
    "a tolerance of its own": "the tolerance is not used",
    "expected wins of the opponent": "run away",
    "the later answers count for less": "by the number",
    "divided by half the number of answers": "more than two answers",
    "three times the penalty": "a penalty of another size",
    "diagonal in place": "the diagonal",
    "half of the ties, upper triangle": "ties on one side",
    "table transposed": "losers first",
    "whole halves": "whole halves",
    "two arrows at most": "too few arrows",
    "any for all": "always finite",
    "from the first answer only": "ways from one answer",
    "stop when the likelihood stands": "the size of a step",
    "penalty as pseudo-counts": "penalty as counts",
    "strengths": "strengths",
    "first entry of the gradient": "one entry of the gradient",
    "mean over opponents": "penalty by the number of answers",
    "ties dropped": "ties dropped",
    "ties as wins": "ties as whole wins",
    "a quarter of the ties": "a quarter",
    "ties for the first": "ties on one side",
    "always finite": "always finite",
    "arrows whatever the penalty": "penalty overlooked",
    "arrows of wins": "wins only",
    "connected": "direction overlooked",
    "each won and lost": "one answer at a time",
    "downhill": "upside down",
    "losers first": "upside down",
    "not centred": "no zero point",
    "no penalty": "no penalty",
    "twice the penalty": "twice the penalty",
    "half the penalty": "half the penalty",
    "mean of the gradient": "stopped at once",
    "2000 rounds": "a fixed number of rounds",
    "at most 200 rounds": "a largest number of rounds",
    "size of the step": "the size of a step",
}
UNSEEN = {
    "ties decide by the wins": _fit(counts_of=lambda wins, ties: wins + ties * (wins > wins.T)),
    "shares in place of counts": _fit(
        counts_of=lambda wins, ties: (wins + ties / 2) / (wins + wins.T + ties).clamp(min=1)
    ),
    "one step along the arrows": _fit(
        finite_of=lambda counts, wins, l2: l2 > 0 or bool((counts + torch.eye(len(counts)) > 0).all())
    ),
    "never finite without a penalty": _fit(finite_of=lambda counts, wins, l2: l2 > 0),
    "win rates": _fit(start=lambda k: torch.zeros(k), stop=lambda gradient, step, rounds, tolerance: rounds == 1),
    "stops at the signed maximum": _fit(stop=lambda gradient, step, rounds, tolerance: gradient.max() <= tolerance),
    "stops at the norm": _fit(stop=lambda gradient, step, rounds, tolerance: gradient.square().mean() <= tolerance),
    "tolerance squared": _fit(stop=lambda gradient, step, rounds, tolerance: gradient.abs().max() <= tolerance**0.5),
    "penalty with the wrong sign": _fit(penalty=lambda l2: -l2),
    "penalty not in the gradient but at the end": _fit(penalty=lambda l2: 0.0, end=lambda rewards: 0.9 * rewards),
    "scaled to variance 1": _fit(end=lambda rewards: (rewards - rewards.mean()) / rewards.std()),
    "starts at ones": _fit(start=torch.ones),
}
UNSEEN |= {
    "ties times the share won": altered(
        fit_until, ("wins + ties / 2", "wins + ties * wins / (wins + wins.T).clamp(min=1)")
    ),
    "ties to the earlier": altered(
        fit_until, ("wins + ties / 2", "wins + ties * (torch.arange(len(wins))[:, None] < torch.arange(len(wins)))")
    ),
    "half a tie whatever the number, only once": altered(fit_until, ("wins + ties / 2", "wins + (ties > 0).double()")),
    "finite by the counts' rank": altered(
        fit_until, ("bool(reach.all())", "bool(torch.linalg.matrix_rank(counts) == len(counts))")
    ),
    "finite if nobody won all": altered(fit_until, ("bool(reach.all())", "bool((counts.T.sum(1) > 0).all())")),
    "a table of wins for Ford, one way": altered(
        fit_until, ("bool(reach.all())", "bool(reach.triu().sum() == len(counts) * (len(counts) + 1) / 2)")
    ),
    "Elo's scale": altered(
        fit_until,
        (
            "torch.sigmoid(rewards[:, None] - rewards[None, :])",
            "1 / (1 + 10 ** ((rewards[None, :] - rewards[:, None]) / 1))",
        ),
    ),
    "l2 on the spread of rewards": altered(fit_until, ("- l2 * rewards\n", "- l2 * (rewards - rewards[0])\n")),
    "l2 by hand at the end": altered(
        fit_until,
        (" - l2 * rewards\n", "\n"),
        ('"rewards": rewards,', '"rewards": rewards / (1 + l2 / compared.sum(1).mean()),'),
    ),
    "relative gradient": altered(
        fit_until,
        ("gradient.abs().max() <= tolerance", "(gradient / counts.sum(dim=1).clamp(min=1)).abs().max() <= tolerance"),
    ),
    "two norms": altered(
        fit_until, ("gradient.abs().max() <= tolerance", "gradient.norm() / len(gradient) <= tolerance")
    ),
    "patience of ten rounds": altered(
        fit_until,
        ("    rounds = 0\n", "    rounds, last = 0, torch.inf\n"),
        (
            "        if gradient.abs().max() <= tolerance:",
            "        better, last = gradient.abs().max() < 0.999 * last, gradient.abs().max()\n"
            "        if gradient.abs().max() <= tolerance or rounds > 10 and not better:",
        ),
    ),
}
