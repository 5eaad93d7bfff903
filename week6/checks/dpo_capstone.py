"""The judge of notebook 06's capstone: a student's DPO training, on pairs of a small chatbot and in an exact world.

On the chatbot's pairs, whose answers have different lengths, all pairs make one batch, and after two steps the weights
must be those of the course's loop. In the exact world the optimum π* is known, and so is the gap of the trained policy.
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from week6.checks.capstone import Malformed, Step, parts
from week6.checks.dpo_problem import IN_THE_WORLD, chatbot_pairs, ours, steps_of_dpo, world
from week6.checks.dpo_problem import N_PAIRS as N_PAIRS
from week6.checks.ppo_problem import problem
from week6.dpo import DPOConfig, pair_log_probs, reference_log_probs
from week6.machine.optim import make_optimizer
from week6.preferences import bayes_accuracy, preference_probability
from week6.reward_model import expected_accuracy
from week6.sequences import Pairs

NAMES = ("loss", "margin", "accuracy", "chosen_reward", "rejected_reward")
ONE_BATCH = DPOConfig(steps=2, batch_size=48, learning_rate=3e-3, beta=0.4)
"""β is not the usual one, so that a number written into the loop where the setting belongs is seen."""
NUMBERS = 2e-3
"""How far a metric may be from ours. Two ways to compute it differ by less than 1e-4."""
WEIGHTS = 0.03
"""How far the weights may be from ours, as a share of the way that the steps went."""
SLACK = 0.6
"""How much of the way from the reference to π* that our loop goes a run may fall short of, as a share."""
Training = Callable[..., Iterator[dict[str, Any]]]


# --- a student's training ---------------------------------------------------------------------------------------------


@dataclass
class Record:
    """What a student's training did. `rows`: how many answers the reference was asked about, and how many different
    ones the policy."""

    seed: int
    metrics: list[dict[str, Any]] = field(default_factory=list)
    after: nn.Module = field(default_factory=nn.Module)
    reference_moved: bool = False
    in_the_world: list[dict[str, Any]] = field(default_factory=list)
    log_pi: Float[Tensor, "X N"] | None = None
    rows: tuple[int, int] = (0, 0)

    @property
    def before(self) -> nn.Module:
        """The policy before training, which is the reference."""
        return problem(self.seed).reference

    def weights(self, **wrong: Any) -> Float[Tensor, " D"]:
        """All weights after two steps on the chatbot's pairs, done right or with a mistake."""
        p = problem(self.seed)
        return vector(steps_of_dpo(p.reference, p.reference, chatbot_pairs(self.seed), ONE_BATCH, self.seed, **wrong))


def run(answer: Training, seed: int) -> Record:
    """Two steps on the chatbot's pairs; and if they are right, a training in the exact world."""
    p = problem(seed)
    record = Record(seed, after=copy.deepcopy(p.reference).train().requires_grad_(True))
    reference = copy.deepcopy(p.reference)
    record.metrics = _yielded(answer, record.after, reference, chatbot_pairs(seed), ONE_BATCH, seed)
    record.reference_moved = not torch.equal(vector(reference), vector(p.reference))
    if all(step.judge(record) == "" for step in STEPS[:4]):
        w = world(seed)
        policy, reference_of_world = copy.deepcopy(w.reference).requires_grad_(True), copy.deepcopy(w.reference)
        asked: list[int] = []
        seen: set[bytes] = set()
        _watch(reference_of_world, lambda rows: asked.append(len(rows)))
        _watch(policy, lambda rows: seen.update(row.numpy().tobytes() for row in rows))
        record.in_the_world = _yielded(answer, policy, reference_of_world, w.pairs, IN_THE_WORLD, seed)
        record.rows = sum(asked), len(seen)
        record.log_pi = w.conditional(policy)
    return record


def _watch(model: nn.Module, note: Callable[[Tensor], None]) -> None:
    """Call `note` with the rows of tokens of every forward pass."""
    model.register_forward_pre_hook(
        lambda _, positional, named: note(named["input_ids"] if "input_ids" in named else positional[0]),
        with_kwargs=True,
    )


def _yielded(
    answer: Training, policy: nn.Module, reference: nn.Module, pairs: Pairs, config: DPOConfig, seed: int
) -> list[dict[str, Any]]:
    """What a training yields, at most one dict more than it has steps."""
    optimizer = make_optimizer(policy, config.learning_rate)
    found: list[dict[str, Any]] = []
    result = answer(policy, reference, optimizer, pairs, config, seed)
    if result is None:
        return found
    if not isinstance(result, Iterator | list):
        raise Malformed(f"Your function gives a {type(result).__name__}; a dict after every step is expected: `yield`.")
    for row in result:
        found.append(parts(row, *NAMES))
        if len(found) > config.steps:
            break
    return found


def vector(model: nn.Module) -> Float[Tensor, " D"]:
    """All weights of a model in one vector."""
    return nn.utils.parameters_to_vector(model.parameters()).detach()


# --- the steps, in order ----------------------------------------------------------------------------------------------


def starts(record: Record) -> str | None:
    """Whether the first loss is log 2."""
    if not record.metrics or "loss" not in record.metrics[0]:
        return None
    loss = float(record.metrics[0]["loss"])
    if not abs(loss - math.log(2)) <= NUMBERS:
        return f"the first loss is {loss:.4f}; where policy and reference are equal, it is log 2 = 0.6931"
    return ""


def trained(record: Record) -> str | None:
    """Whether the policy's weights are those after two right steps, and the reference's as they were."""
    if not record.metrics:
        return None
    if record.reference_moved:
        return "the weights of the reference have changed"
    if torch.equal(vector(record.after), vector(record.before)):
        return "no weight of the policy has changed"
    if (distance := off(record)) > WEIGHTS:
        return (
            f"after two steps on the same pairs the weights are {distance:.0%} of the way apart from those of the "
            f"tested loop, expected is at most {WEIGHTS:.0%}"
        )
    return ""


def off(record: Record, **wrong: Any) -> float:
    """Distance of the weights from those after a training, right or wrong, as a share of the way that it goes."""
    start, after = vector(record.before), vector(record.after)
    ends = [record.weights(**wrong, max_norm=norm) for norm in (1.0, torch.inf)]
    return min(float((after - end).norm() / (end - start).norm()) for end in ends)


def _long_enough(record: Record) -> str | None:
    if len(record.metrics) != ONE_BATCH.steps:
        came = "more" if len(record.metrics) > ONE_BATCH.steps else str(len(record.metrics))
        return f"it yields {came} times, expected is once a step, config.steps = {ONE_BATCH.steps}"
    return ""


def reported(record: Record) -> str | None:
    """The metrics of the second step, which are those of the policy after the first."""
    if len(record.metrics) < 2 or not record.metrics[1].keys() >= set(NAMES):
        return None
    expected = second_metrics(record.seed)
    for name in NAMES:
        came = float(record.metrics[1][name])
        if not abs(came - expected[name]) <= NUMBERS:
            return f'"{name}" of the second step is {came:.4f}, expected is {expected[name]:.4f}'
    return ""


@cache
def second_metrics(seed: int) -> dict[str, float]:
    """The metrics of the second step on the chatbot's pairs, before its update."""
    p, pairs = problem(seed), chatbot_pairs(seed)
    policy = steps_of_dpo(p.reference, p.reference, pairs, replace(ONE_BATCH, steps=1), seed)
    with torch.no_grad():
        both = pair_log_probs(policy, pairs)
    chosen, rejected = (
        ONE_BATCH.beta * (log_pi - log_ref)
        for log_pi, log_ref in zip(both, reference_log_probs(p.reference, pairs), strict=True)
    )
    margin = chosen - rejected
    return {
        "loss": float(-F.logsigmoid(margin).mean()),
        "margin": float(margin.mean()),
        "accuracy": float((margin > 0).float().mean()),
        "chosen_reward": float(chosen.mean()),
        "rejected_reward": float(rejected.mean()),
    }


def asked_once(record: Record) -> str | None:
    """Whether the reference met each answer about once, and the policy nearly all of them."""
    if record.log_pi is None:
        return None
    asked, seen = record.rows
    if asked > 2.1 * N_PAIRS:
        return f"the reference was asked about {asked} answers; {N_PAIRS} pairs have {2 * N_PAIRS}, each asked once"
    different = len({row.tobytes() for row in _all_rows(record.seed)})
    if seen < 0.75 * different:
        return f"the policy met {seen} of the {different} different answers, expected are nearly all"
    return ""


def _all_rows(seed: int) -> Any:
    both = world(seed).pairs.stacked()
    return torch.cat([both.prompts, both.responses], dim=1).numpy()


def _near_the_optimum(record: Record) -> str | None:
    if record.log_pi is None:
        return None
    w = world(record.seed)
    start, our_gap, gap = w.gap(w.log_ref), ours(record.seed), w.gap(record.log_pi)
    if gap <= our_gap + SLACK * (start - our_gap):
        return ""
    return (
        f"the gap to π* goes from {start:.2f} to {gap:.2f} nats in {IN_THE_WORLD.steps} steps; our loop comes to "
        f"{our_gap:.2f}"
    )


def accuracies(record: Record) -> tuple[float, float]:
    """Agreement of a fresh annotator with the trained policy on the pairs' answers, and the best possible one."""
    w = world(record.seed)
    assert record.log_pi is not None
    x, a, b = w.chosen
    rewards = w.language.rewards.view_as(w.log_ref)
    likely = preference_probability(rewards[x, a], rewards[x, b])
    implicit = record.log_pi - w.log_ref
    first, second = implicit[x, a], implicit[x, b]
    agrees = (first > second).float() + 0.5 * (first == second).float()
    return float(expected_accuracy(agrees, likely).mean()), float(bayes_accuracy(likely))


def figures(records: Sequence[Record]) -> str:
    """What the trainings of a right loop reached."""
    gaps = [
        (w.gap(w.log_ref), w.gap(r.log_pi), *accuracies(r))
        for r in records
        if r.log_pi is not None and (w := world(r.seed))
    ]
    start, end, accuracy, ceiling = (sum(column) / len(gaps) for column in zip(*gaps, strict=True))
    return (
        f"In {len(gaps)} exact worlds your loop brought the gap to π* from {start:.2f} to {end:.2f} nats; a fresh "
        f"annotator agrees with the ranking in {accuracy:.1%} of the pairs, at best in {ceiling:.1%}."
    )


STEPS = (
    Step("the loss at the start", starts),
    Step("the weights after two steps", trained),
    Step("one dict a step", _long_enough),
    Step("the metrics", reported),
    Step("the reference asked once, the policy about all pairs", asked_once),
    Step("the gap to π* in the exact world", _near_the_optimum),
)


def loss_of(record: Record, step: int) -> float:
    """The loss that came with a step."""
    return float(record.metrics[step]["loss"])


def near(came: float, other: float) -> bool:
    """Whether two metrics are the same number."""
    return abs(came - other) < NUMBERS


def ends_at(record: Record, **wrong: Any) -> bool:
    """Whether the weights are those of a training with a certain mistake, and not those of the right one."""
    return bool(trained(record)) and not record.reference_moved and off(record, **wrong) < WEIGHTS
