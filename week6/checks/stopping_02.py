"""Exercise 2.6 of notebook 02, early stopping: graded on curves of held-out losses that are made for it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from week6.checks.cases import whole
from week6.checks.engine import Misconception, Question


def stop_in_time(
    start: Float[Tensor, " d"],
    loss: Callable[[Tensor], Tensor],
    look: Callable[[Tensor], float],
    rate: float,
    every: int,
    patience: int,
    limit: int,
) -> tuple[Float[Tensor, " d"], int]:
    """The weights with the lowest held-out loss that was seen, and after how many steps of Adam they were seen."""
    v = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([v], lr=rate)
    best, best_at, lowest = start, 0, look(start)
    for step in range(1, limit + 1):
        optimizer.zero_grad()
        loss(v).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step % every == 0:
            seen = look(v.detach())
            if seen < lowest:
                best, best_at, lowest = v.detach().clone(), step, seen
            elif step - best_at == patience * every:
                break
    return best, best_at


class Bowl:
    """A training loss: ½ Σ (v − lowest)², with its lowest point there."""

    def __init__(self, lowest: Tensor) -> None:
        self.lowest = lowest

    def __call__(self, v: Tensor) -> Tensor:
        """The loss, with a gradient."""
        return 0.5 * (v - self.lowest).square().sum()

    def __repr__(self) -> str:
        return f"½ Σ (v − {self.lowest.tolist()})²"


class Curve:
    """A held-out loss that is known for each point of a path, (steps + 1, d): that of the nearest of them."""

    def __init__(self, path: Tensor, losses: Tensor) -> None:
        self.path, self.losses = path, losses

    def __call__(self, v: Tensor) -> float:
        """The loss, as a number."""
        return self.losses[int((self.path - v.detach()).square().sum(-1).argmin())].item()

    def __repr__(self) -> str:
        return f"held-out losses after 0, 1, 2, … steps: {self.losses.tolist()}"


@functools.lru_cache(64)
def _path_from(
    start: tuple[float, ...], lowest: tuple[float, ...], rate: float, steps: int, how: str = "Adam", clears: bool = True
) -> Tensor:
    """Where so many steps lead in a bowl, shape (steps + 1, d): the start, and the weights after each step."""
    v, bowl = torch.tensor(start, dtype=torch.float64, requires_grad=True), Bowl(torch.tensor(lowest).double())
    optimizer, path = getattr(torch.optim, how)([v], lr=rate), [v.detach().clone()]
    for _ in range(steps):
        if clears:
            optimizer.zero_grad()
        bowl(v).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        path.append(v.detach().clone())
    return torch.stack(path)


def _on_curves(function: Callable[..., Any]) -> Callable[..., Any]:
    """An answer seen through what a case holds in place of the two functions: the lowest point of the training loss,
    and the held-out losses after 0, 1, 2, … steps."""

    def seen(
        start: Tensor, lowest_of_loss: Tensor, held_out: Tensor, rate: float, every: int, patience: int, limit: int
    ) -> Any:
        path = _path_from(tuple(start.tolist()), tuple(lowest_of_loss.tolist()), rate, len(held_out) - 1)
        return function(start, Bowl(lowest_of_loss), Curve(path, held_out), rate, every, patience, limit)

    return seen


def _case(
    looks: list[float], tempting: float, every: int, patience: int, limit: int, g: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, float, int, int, int]:
    """Weights somewhere, and these losses at the looks. A step before each look, where nobody should look, the loss is
    `tempting`; it is high at other steps."""
    last = every * (len(looks) - 1)
    held_out = torch.full((max(limit, last) + 1,), 9.0, dtype=torch.float64)
    held_out[every - 1 :: every] = tempting
    held_out[: last + 1 : every] = torch.tensor(looks, dtype=torch.float64)
    d = whole(g, 2, 3)
    lowest = 1.0 + 2 * torch.rand(d, generator=g, dtype=torch.float64)
    return 0.1 * torch.randn(d, generator=g, dtype=torch.float64), lowest, held_out, 0.05, every, patience, limit


def _curves(g: torch.Generator) -> list[tuple[Any, ...]]:
    """Held-out losses with a peak that patience gets over and one that it does not; ties, nan, nothing gained, a limit
    in the middle of a fall; and two of chance, which tend to fall."""
    drawn = []
    for _ in range(2):
        every, patience, limit = whole(g, 1, 2), whole(g, 1, 3), whole(g, 3, 6)
        chance = 0.3 * torch.rand(limit // every + 1, generator=g, dtype=torch.float64)
        looks = 2 + chance - 0.03 * torch.arange(len(chance))
        drawn.append(_case(looks.tolist(), 0.5, every, patience, limit, g))
    return [
        _case([1.0, 0.8, 0.85, 0.7, 0.75, 0.6, 0.65, 0.62, 0.5], 0.1, 1, 2, 8, g),
        _case([1.0, 1.1, 0.6, 0.6, 0.6, 0.4], 0.5, 2, 2, 10, g),
        _case([1.0, 1.1, 0.9, 1.2, 1.15, 1.05, 1.3, 0.5], 0.9, 1, 3, 7, g),
        _case([1.0, 1.1, 0.5], 0.9, 1, 1, 2, g),
        _case([1.0, 0.7, math.nan, 0.6, math.nan, math.nan, 0.3], 0.2, 1, 2, 6, g),
        _case([1.0, 0.9, 0.8], 0.3, 3, 4, 5, g),
        _case([1.0, 0.9, 0.8], 0.95, 1, 2, 2, g),
        *drawn,
    ]


def _moment(case: tuple[Any, ...]) -> str:
    """Of what moment of the training weights and step are that come with a case, in words, or ""."""
    start, lowest, held_out, rate, every, _, limit, value = case
    if type(value) is not tuple or len(value) != 2 or getattr(value[0], "shape", None) != start.shape:
        return ""
    path, step = _path_from(tuple(start.tolist()), tuple(lowest.tolist()), rate, len(held_out) - 1), value[1]
    away = (path - value[0].detach()).abs().amax(-1)
    at = int(away.argmin())
    if not away[at] < 1e-4:
        return "Adam from `start` on this training loss, with learning rate `rate`, never passes your weights."
    if at != step:
        return f"Your weights are those of step {at}, and you say that they were seen at step {step}."
    return f"You return what was seen at step {at}, with a held-out loss of {held_out[at].item():.4g}."


def _training(
    better: Callable[[float, float, float], bool] = lambda seen, lowest, before: seen < lowest,
    patience_of: Callable[[int, int], float] = lambda patience, every: patience,
    looks_at: Callable[[int, int, int], bool] = lambda step, every, limit: step % every == 0,
    give: Callable[[Tensor, int, Tensor, int, int, float], Any] = lambda best, at, v, step, every, lowest: (best, at),
    *,
    forgives: bool = True,
    at_the_start: bool = True,
    by_look: bool = True,
    ends_at: Callable[[float], bool] = lambda seen: False,
    how: str = "Adam",
    clears: bool = True,
) -> Callable[..., Any]:
    """The loop with one part done otherwise, along the path that its steps take."""

    def fit(start: Tensor, loss: Bowl, look: Curve, rate: float, every: int, patience: int, limit: int) -> Any:
        path = _path_from(tuple(start.tolist()), tuple(loss.lowest.tolist()), rate, limit, how, clears)
        watched = look if by_look else lambda v: loss(v).item()
        best, at, step, bad = start, 0, 0, 0
        lowest = before = watched(start) if at_the_start else math.inf
        for step in range(1, limit + 1):
            if looks_at(step, every, limit):
                seen = watched(path[step])
                if better(seen, lowest, before):
                    best, at, lowest = path[step], step, seen
                    bad = 0 if forgives else bad
                else:
                    bad += 1
                    if bad >= patience_of(patience, every):
                        break
                before = seen
                if ends_at(seen):
                    break
        return give(best, at, path[step], step, every, lowest)

    return fit


q6 = Question(
    title="2.6 Stop in time",
    name="stop_early",
    reference=stop_in_time,
    cases=_curves,
    through=_on_curves,
    diagnose=lambda cases: _moment(cases[0]),
    hints=(
        "What must you remember while the training goes on, so that you can give back weights that it has left long "
        "ago?",
        "Three things: the lowest held-out loss so far, the weights that had it, and their step. They begin with the "
        "look at `start`, after 0 steps. A look with a lower loss replaces all three; the first look that is "
        "`patience` "
        "looks behind the best one ends the training.",
        "Weights: a copy of start with a gradient; Adam on them with learning rate `rate`. In a loop over the steps "
        "from 1 "
        "to limit: clear, backward, step. Where the number of the step is a multiple of every: look. If the loss is "
        "lower "
        "than the lowest, store it, a *clone* of the weights and the step; else, if patience · every steps have passed "
        "since the stored step, leave the loop. Return the stored weights and step.",
        "v = start.clone().requires_grad_()\n"
        "optimizer = torch.optim.Adam([v], lr=rate)\n"
        "best, best_at, lowest = start, 0, look(start)\n"
        "for step in range(1, limit + 1):\n"
        "    optimizer.zero_grad()\n"
        "    loss(v).backward()\n"
        "    optimizer.step()\n"
        "    if step % every == 0:\n"
        "        seen = look(v.detach())\n"
        "        if seen < lowest:\n"
        "            best, best_at, lowest = ...\n"
        "        elif ...:\n"
        "            break\n"
        "return best, best_at",
    ),
    misconceptions=(
        Misconception(
            "the last weights",
            _training(give=lambda best, at, v, step, every, lowest: (v, at)),
            "The step is right, but the weights are those of the end. Keep a copy of the best ones: `v.detach()` alone "
            "shares its memory with v, which Adam changes in place, so `.clone()` it.",
        ),
        Misconception(
            "where it ended",
            _training(give=lambda best, at, v, step, every, lowest: (v, step)),
            "You return the weights and the step at which the training ended. By then the held-out loss had not fallen "
            "for some looks: return those with the *lowest* one.",
        ),
        Misconception(
            "the step of the end",
            _training(give=lambda best, at, v, step, every, lowest: (best, step)),
            "Your weights are right, but the step is the one at which you stopped. Asked is the step after which these "
            "weights were seen.",
        ),
        Misconception(
            "the number of the look",
            _training(give=lambda best, at, v, step, every, lowest: (best, at // every)),
            "Your weights are right, but you return the number of the look. Asked is the number of steps: there are "
            "`every` steps between two looks.",
        ),
        Misconception(
            "compared with the look before",
            _training(better=lambda seen, lowest, before: seen < before),
            "You compare each look with the one before it. A loss that falls a little after it has risen is no new "
            "lowest one: compare with the lowest so far.",
        ),
        Misconception(
            "a tie",
            _training(better=lambda seen, lowest, before: seen <= lowest),
            "You take a tie for an improvement. Only a loss *below* the lowest one so far is new: `<`, not `<=`.",
        ),
        Misconception(
            "one look too many",
            _training(patience_of=lambda patience, every: patience + 1),
            "You stop one look too late: the look that is the `patience`-th in a row without a new lowest loss ends "
            "the "
            "training.",
        ),
        Misconception(
            "one look too few",
            _training(patience_of=lambda patience, every: patience - 1),
            "You stop one look too early: `patience` looks in a row must bring no new lowest loss.",
        ),
        Misconception(
            "patience in steps",
            _training(patience_of=lambda patience, every: patience / every),
            "You count your patience in steps. It is counted in looks: there is one after every `every` steps.",
        ),
        Misconception(
            "never forgives",
            _training(forgives=False),
            "You count all looks without a new lowest loss. Those in a row count: each new lowest loss begins again "
            "at 0.",
        ),
        Misconception(
            "endless patience",
            _training(patience_of=lambda patience, every: math.inf),
            "You train to the limit and then choose the best look. After `patience` looks in a row without a new "
            "lowest "
            "loss the training ends: what comes later, nobody sees.",
        ),
        Misconception(
            "no patience",
            _training(patience_of=lambda patience, every: 1),
            "You stop at the first look that is not better. Held-out losses go up and down: have patience for "
            "`patience` of them.",
        ),
        Misconception(
            "no look at the start",
            _training(at_the_start=False),
            "You do not look at `start`. If no step makes it better, the start is the best that was seen, after 0 "
            "steps.",
        ),
        Misconception(
            "the training loss",
            _training(by_look=False),
            "You watch the training loss. It falls as long as one trains: what was learned by heart shows in `look` "
            "only.",
        ),
        Misconception(
            "a look at every step",
            _training(looks_at=lambda step, every, limit: True),
            "You look after each step. Looks cost time: one after every `every` steps.",
        ),
        Misconception(
            "a look at the end",
            _training(looks_at=lambda step, every, limit: step % every == 0 or step == limit),
            "You look at the limit as well. The looks come after `every`, 2 · `every`, … steps, and where the limit "
            "lies "
            "between two of them it has none.",
        ),
        Misconception(
            "one step off",
            _training(looks_at=lambda step, every, limit: (step - 1) % every == 0),
            "You look after 1, 1 + `every`, … steps. The looks come after `every`, 2 · `every`, … of them: count the "
            "steps from 1.",
        ),
        Misconception(
            "the highest",
            _training(better=lambda seen, lowest, before: seen > lowest),
            "You keep the weights with the *highest* held-out loss. It is a loss: lower is better.",
        ),
        Misconception(
            "nan is better",
            _training(better=lambda seen, lowest, before: not seen >= lowest),
            "You take nan for a new lowest loss. No comparison with nan is true, so ask whether the loss *is* lower, "
            "not "
            "whether it is not higher.",
        ),
        Misconception(
            "nan ends it",
            _training(ends_at=math.isnan),
            "You stop at the first nan. It is a look without a new lowest loss, like others: patience decides.",
        ),
        Misconception(
            "gradients pile up",
            _training(clears=False),
            "Your gradients pile up from step to step. Clear them before each backward.",
        ),
        Misconception(
            "plain gradient descent",
            _training(how="SGD"),
            "That is plain gradient descent. Asked is Adam, whose steps do not depend on the size of the gradient.",
        ),
    ),
)
