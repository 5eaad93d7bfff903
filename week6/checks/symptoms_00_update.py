"""The symptoms of the update in notebook 00's capstone: its steps, done again down another loss or by another rule."""

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from week6.checks.bench_00 import END, EPOCHS, LEARNING_RATE, Imitation, arrives, losses, of_tokens
from week6.checks.capstone import Symptom
from week6.checks.gradients_00 import piles_up, wrong_at

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""A loss of log_probs, of the mask and of what is real, each (B, L − 1)."""
Rule = Callable[[Tensor], Tensor]
"""From the gradient of each step, in order, to the way that the weights go at a learning rate of 1."""


def _as_asked(p: Tensor, mask: Tensor, real: Tensor) -> Tensor:
    return -p[mask].mean()


def _adam(memory: float = 0.9, piled: bool = False) -> Rule:
    """Adam (Kingma and Ba 2015); piled, each gradient is added to those before."""
    first = second = pile = torch.zeros(())
    count = 0

    def way(g: Tensor) -> Tensor:
        nonlocal first, second, pile, count
        pile = pile + g
        g = pile if piled else g
        count += 1
        first, second = memory * first + (1 - memory) * g, 0.999 * second + 0.001 * g**2
        return -(first / (1 - memory**count)) / ((second / (1 - 0.999**count)).sqrt() + 1e-8)

    return way


def _momentum() -> Rule:
    velocity = torch.zeros(())

    def way(g: Tensor) -> Tensor:
        nonlocal velocity
        velocity = 0.9 * velocity + g
        return -velocity

    return way


def _scaled(memory: float, share: float) -> Rule:
    """Gradients divided by the root of their squares so far: RMSprop (0.99, 0.01) and Adagrad (1, 1)."""
    squares = torch.zeros(())

    def way(g: Tensor) -> Tensor:
        nonlocal squares
        squares = memory * squares + share * g**2
        return -g / (squares.sqrt() + 1e-8)

    return way


@functools.lru_cache(maxsize=64)
def _path(record: Imitation, loss: Loss = _as_asked, rule: Callable[[], Rule] = _adam) -> list[float]:
    """The learning rates of the steps, as shares of LEARNING_RATE, as far as each was a step of this rule down this
    loss. The rule follows the gradients at the weights that were there."""
    direction, found = rule(), []
    for step in range(record.steps):
        rows = record.parts[step]["rows"]
        table = record.tables[step].clone().requires_grad_()
        mask = record.is_answer[rows]
        real = mask.long().flip(-1).cummax(-1).values.flip(-1).bool()
        value = loss(of_tokens(table, record.ids[rows]), mask[:, 1:], real[:, 1:])
        way = direction(torch.autograd.grad(value, table)[0])
        change = record.tables[step + 1] - record.tables[step]
        if float(change.norm()) < 1e-4 * float(way.norm()) * LEARNING_RATE:  # too small to have a direction in float32
            found.append(0.0)
            continue
        rate = float((way * change).sum() / (way * way).sum())
        if float((change - rate * way).norm()) > 0.02 * float(change.norm()):
            break
        found.append(rate / LEARNING_RATE)
    return found


def _rates(record: Imitation, loss: Loss = _as_asked, rule: Callable[[], Rule] = _adam) -> list[float] | None:
    """The learning rates of all steps, if each was a step of this rule down this loss."""
    found = _path(record, loss, rule)
    return found if len(found) == record.steps else None


def _in_the_update(seen: Callable[[Imitation], bool]) -> Callable[[Imitation], bool]:
    """A symptom of the update, which a wrong loss would show as well."""
    return lambda record: losses(record) == "" and len(record.tables) > record.steps and seen(record)


def _scheduled(seen: Callable[[list[float]], bool]) -> Callable[[Imitation], bool]:
    """A symptom of the learning rates of steps that are right in all else."""
    return _in_the_update(lambda record: (rates := _rates(record)) is not None and seen(rates))


def _goes(losses: Sequence[Loss] = (_as_asked,), rules: Sequence[Callable[[], Rule]] = (_adam,)) -> Callable[..., bool]:
    """Whether the steps are not those asked for, and go down another loss, or by another rule."""
    return _in_the_update(
        lambda record: (
            _moves(record)
            and _rates(record) is None
            and any(_rates(record, loss, rule) is not None for loss in losses for rule in rules)
        )
    )


def _moves(record: Imitation) -> bool:
    return not torch.equal(record.tables[0], record.tables[-1])


def _still(record: Imitation) -> float:
    """The share of the steps that changed nothing, of those up to the last that changed something."""
    moved = [not torch.equal(record.tables[step], record.tables[step + 1]) for step in range(record.steps)]
    last = max((step for step, has in enumerate(moved) if has), default=0)
    return 1 - sum(moved[: last + 1]) / (last + 1)


def _at_an_epoch(record: Imitation) -> bool:
    """Whether the first step that is not as asked begins an epoch."""
    return len(_path(record)) % (record.steps // EPOCHS) == 0


def _alike(moved: Tensor) -> bool:
    """Whether most weights moved by the same amount."""
    return float((moved > 0.99 * moved.max()).float().mean()) > 0.5


def _unread_shrinks(record: Imitation) -> bool:
    """Whether every weight that no answer's token is forecast from shrinks."""
    unread = torch.ones(END + 1, dtype=torch.bool)
    unread[record.ids[:, :-1][record.is_answer[:, 1:]]] = False
    before, after = record.tables[0][unread].abs(), record.tables[-1][unread].abs()
    return bool(unread.any()) and bool((after < before).all())


def _as_large_at_the_end(record: Imitation) -> bool:
    late, middle = (torch.cat([record.moved(k) for k in steps]) for steps in (range(-22, -2), range(60, 80)))
    return float(late.mean()) > 0.3 * float(middle.mean())


OF_THE_UPDATE: tuple[Symptom, ...] = (
    Symptom(
        "nothing moves",
        _in_the_update(lambda record: not _moves(record)),
        "No weight ever changes. After `loss.backward()` comes `optimizer.step()`, with nothing between that clears "
        "the gradients, and the optimizer must hold `model.parameters()`, those of the model that came.",
    ),
    Symptom(
        "few steps",
        _in_the_update(lambda record: _still(record) > 0.5),
        "In most steps no weight changes. The optimizer takes a step after each batch, inside the inner loop.",
    ),
    Symptom(
        "gradients pile up",
        _in_the_update(piles_up),
        "The gradient of each step is right, and what is in the weights' `.grad` when the optimizer steps is more: "
        "PyTorch adds each gradient to the ones before. Call `optimizer.zero_grad()` in every step.",
    ),
    Symptom(
        "plain gradient descent",
        _goes(rules=(lambda: torch.neg,)),
        "Your steps are plain gradient steps. Adam is asked for: with this learning rate plain steps are too short.",
    ),
    Symptom(
        "another optimizer",
        _goes(rules=(_momentum, lambda: _scaled(0.99, 0.01), lambda: _scaled(1.0, 1.0), lambda: _adam(0.0))),
        "Your steps are those of another optimizer than Adam: momentum, RMSprop or Adagrad. The learning rate is made "
        "for Adam.",
    ),
    Symptom(
        "a new optimizer in every step",
        _goes(rules=(lambda: lambda g: -g / (g.abs() + 1e-8),)),
        "In each step all weights move by the same amount: Adam has no memory. Make the optimizer once, before the "
        "loop.",
    ),
    Symptom(
        "weight decay",
        lambda record: losses(record) == "" and arrives(record) != "" and _unread_shrinks(record),
        "Weights shrink that no demonstration touches: something pulls all of them towards 0, such as weight decay.",
    ),
    Symptom(
        "steps up",
        _scheduled(lambda rates: rates[0] < -1e-3),
        "The gradient is right, and your steps go up it. A loss is made smaller: an optimizer goes down.",
    ),
    Symptom(
        "the learning rate rises",
        _scheduled(lambda rates: rates[0] < 0.1 and rates[-1] > 0.5),
        "Your learning rate begins at 0 and rises to the end: the schedule is turned round.",
    ),
    Symptom(
        "the learning rate grows",
        _scheduled(lambda rates: rates[0] > 0.5 and rates[len(rates) // 2] > 1.2),
        "Your learning rate grows from step to step: (1 − step/steps) has a minus.",
    ),
    Symptom(
        "the learning rate below 0",
        _scheduled(lambda rates: min(rates) < -0.01 and rates[0] > 0.5),
        "Your learning rate falls below 0, and from there on every step goes uphill: `steps` are those of the whole "
        "run, all epochs together.",
    ),
    Symptom(
        "falls within each epoch",
        _scheduled(lambda rates: max(rates[len(rates) // 2 :]) > 0.9 and min(rates[: len(rates) // 2]) < 0.2),
        "Your learning rate falls and jumps up again: the steps are counted anew in each epoch. Count over the whole "
        "run.",
    ),
    Symptom(
        "the learning rate falls too soon",
        _scheduled(lambda rates: rates[0] > 0.5 and abs(rates[len(rates) // 2]) < 0.25),
        "In the middle of the run your learning rate has nearly gone: it falls faster than in a straight line to the "
        "last step. Each one is `learning_rate` times its own factor, not the last one times a factor.",
    ),
    Symptom(
        "another learning rate",
        _scheduled(lambda rates: rates[0] > 1e-3 and not 0.8 < rates[0] < 1.2),
        "Your first step has another learning rate than `learning_rate`.",
    ),
    Symptom(
        "the learning rate does not fall to 0",
        _scheduled(lambda rates: 0.8 < rates[0] < 1.2 and rates[-1] > 0.1),
        "At the end of the run your learning rate is still large, so the weights follow the noise of the last batches. "
        "It falls in a straight line over all steps of the run, to 0 after the last one.",
    ),
    Symptom(
        "another schedule",
        _scheduled(lambda rates: max(abs(rate - (1 - k / len(rates))) for k, rate in enumerate(rates)) > 0.1),
        "Your steps are those of Adam down the right loss, with other learning rates than asked for: they fall in a "
        "straight line from `learning_rate` at the first step to 0 after the last one.",
    ),
    Symptom(
        "between the epochs",
        _in_the_update(lambda record: 0 < len(_path(record)) < record.steps and _at_an_epoch(record)),
        "In the first epoch all steps are right; at the start of the next something else happens. What is made or set "
        "there, inside the loop over the epochs, that belongs before it?",
    ),
    Symptom(
        "steps that are not Adam's",
        _in_the_update(
            lambda record: wrong_at(record) is None and not piles_up(record) and len(_path(record)) < record.steps
        ),
        "The gradient that reaches the weights is right in every step, so the mistake is in what is made of it: your "
        "steps are not those of one Adam, made once before the loop and used for all weights, with the learning rate "
        "alone changed.",
    ),
)
