"""The judge of notebook 05's capstone: a student's step of PPO on small chatbots.

Each part is compared with what follows from the student's own answers; the weights, with those after the same update.
Then the step trains the chatbot from the reference on, and held-out prompts tell how far it came.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from week6.checks.capstone import Malformed, Step, parts
from week6.checks.ppo_gradients import Pass, noted
from week6.checks.ppo_problem import EOS, ONE_STEP, RUN, Truth, at_the_start, on_held_out, ours, problem, truth, updated
from week6.log_probs import response_forward
from week6.machine.optim import generator_for, make_optimizer, minibatch
from week6.ppo import PolicyWithValue
from week6.sequences import Rollout

NAMES = ("answers", "scores", "ref_log_probs", "values", "rewards", "advantages", "returns", "whitened")
NUMBERS = 1e-3
"""How far a number may be from ours. Two ways to compute it differ by less than 1e-5, a mistake by more than 1e-2."""
WEIGHTS = 0.03
"""How far the weights may be from ours, as a share of the way that the step went."""
GAIN = 0.6
"""Share of our gain in gold reward on held-out prompts that a run must reach, at no more than twice our KL.

On 13 problems our own run with other random numbers reached 0.74 to 1.35 times the gain,
at 0.91 to 1.35 times the KL.
"""
PPOStep = Callable[..., dict[str, Any]]


@dataclass(eq=False)
class Record:
    """One step of a student, on the problem of `seed`: the parts, the actor after it, its passes, what they felt, and
    how a run with it ended."""

    seed: int
    parts: dict[str, Any]
    after: PolicyWithValue
    gradient_steps: int | None
    """Of the optimizer that was handed over; None if it was not used."""
    reference_moved: bool
    ended: tuple[float, float] | None = None
    """Gold reward on held-out prompts, and KL in nats, after a run."""
    passes: list[Pass] = field(default_factory=list)

    @property
    def answers(self) -> Rollout:
        """The student's answers; KeyError where there are none yet."""
        answers: Rollout = self.parts["answers"]
        return answers

    @cached_property
    def truth(self) -> Truth:
        """The other parts as they follow from the student's answers."""
        return truth(problem(self.seed), self.answers)

    @property
    def before(self) -> PolicyWithValue:
        """The actor before the step."""
        return problem(self.seed).moved

    @cached_property
    def ours(self) -> PolicyWithValue:
        """The actor after the right update on the student's answers."""
        return updated(problem(self.seed), self.answers, self.truth)

    def weights(self, **wrong: Any) -> Float[Tensor, " D"]:
        """All weights after the update on the student's answers, done right or with a mistake."""
        return vector(updated(problem(self.seed), self.answers, self.truth, **wrong))


def run(answer: PPOStep, seed: int) -> Record:
    """One step on the moved policy; and if that step is right, a run from the reference on."""
    p = problem(seed)
    actor = copy.deepcopy(p.moved).train()  # somebody has to switch its dropout off
    optimizer = make_optimizer(actor, ONE_STEP.learning_rate, eps=1e-5)
    reference, passes = copy.deepcopy(p.reference), noted(actor)
    some = slice(0, ONE_STEP.batch_size)
    result = answer(
        actor, optimizer, reference, p.proxy, p.prompts[some], p.prompt_mask[some], ONE_STEP, generator_for(seed, 0)
    )
    found = parts(result, *NAMES)
    y = found.get("answers")
    if y is not None and not (isinstance(y, Rollout) and len(y.responses) == ONE_STEP.batch_size):
        raise Malformed("`answers`: the Rollout that `sample` returns is expected, with an answer to each prompt.")
    steps = [int(state["step"]) for state in optimizer.state.values() if "step" in state]
    moved = not torch.equal(vector(reference), vector(p.reference))
    record = Record(seed, found, actor, max(steps) if steps else None, moved, passes=passes)
    if all(step.judge(record) == "" for step in STEPS[:-1]):
        record.ended = _run(answer, seed)
    return record


def _run(answer: PPOStep, seed: int) -> tuple[float, float]:
    p = problem(seed)
    actor = PolicyWithValue(copy.deepcopy(p.reference).requires_grad_(True))
    optimizer = make_optimizer(actor, RUN.learning_rate, eps=1e-5)
    for step in range(RUN.steps):
        some = minibatch(len(p.prompts), RUN.batch_size, step, seed)
        generator = generator_for(seed, step)
        answer(actor, optimizer, p.reference, p.proxy, p.prompts[some], p.prompt_mask[some], RUN, generator)
    return on_held_out(seed, actor.policy)


def vector(model: torch.nn.Module) -> Float[Tensor, " D"]:
    """All weights of a model in one vector."""
    return torch.nn.utils.parameters_to_vector(model.parameters()).detach()


# --- the steps, in order ---------------------------------------------------------------------------------------------


def judge_part(record: Record, name: str, expected: Tensor, mask: Tensor | None = None) -> str | None:
    """None without this part, "" if it is right on real tokens, else where it is not."""
    if not {name, "answers"} <= record.parts.keys():
        return None
    part = record.parts[name]
    if not isinstance(part, Tensor) or part.shape != expected.shape:
        came = f"shape {tuple(part.shape)}" if isinstance(part, Tensor) else type(part).__name__
        return f"`{name}`: got {came}, expected a tensor of shape {tuple(expected.shape)}"
    off = (part.detach().float() - expected).abs().nan_to_num(torch.inf)
    if mask is not None:
        off = off.masked_fill(~mask, 0.0)
    where = tuple(int(i) for i in torch.unravel_index(off.argmax(), off.shape))
    if off[where] <= NUMBERS * (1 + float(expected[where].abs())):
        return ""
    place = f"answer {where[0] + 1}" + (f", token {where[1] + 1}" if len(where) == 2 else "")
    return f"`{name}`, {place}: got {float(part[where]):.3f}, expected {float(expected[where]):.3f}"


def surprise(record: Record) -> float:
    """How far the mean of −log π of the sampled tokens is from the policy's entropy, in standard errors."""
    y, policy = record.answers, problem(record.seed).moved.policy
    with torch.no_grad():
        logits = response_forward(policy, y.prompts, y.prompt_mask, y.responses, y.response_mask).logits
    log_p = (logits / ONE_STEP.temperature).log_softmax(-1)
    entropy = -(log_p.exp() * log_p).sum(-1)
    variance = (log_p.exp() * log_p**2).sum(-1) - entropy**2
    chosen = log_p.gather(-1, y.responses.unsqueeze(-1)).squeeze(-1)
    excess = (-chosen - entropy)[y.response_mask].sum()
    return float(excess / variance[y.response_mask].sum().sqrt())


def sampled(record: Record) -> str | None:
    """Whether the answers are samples of the actor, with the log-probabilities and the mask that they have."""
    if "answers" not in record.parts:
        return None
    y, p = record.answers, problem(record.seed)
    if not torch.equal(y.prompts, p.prompts[: ONE_STEP.batch_size]):
        return "these are not answers to the prompts that came in, one each"
    is_eos = (y.responses == EOS).long()
    if not torch.equal(y.response_mask, is_eos.cumsum(1) - is_eos == 0):
        return "the mask is not True up to and including the first EOS, and False behind it"
    cut_off = y.response_mask.sum(1)[is_eos.sum(1) == 0]
    if bool((cut_off != ONE_STEP.max_new_tokens).any()):
        return (
            f"an answer without EOS has {int(cut_off.min())} tokens, expected are config.max_new_tokens = "
            f"{ONE_STEP.max_new_tokens}"
        )
    off = float((y.log_probs - record.truth.log_probs)[y.response_mask].abs().max())
    if off > NUMBERS:
        return (
            f"some token's log-probability is {off:.2f} nats away from what the policy gives at the temperature of "
            "`config`, without dropout: the ratio at the first pass is not 1"
        )
    if abs(z := surprise(record)) > 5:
        return f"the tokens are too {'un' if z > 0 else ''}likely for samples, by {abs(z):.0f} standard errors"
    return ""


def _scored(record: Record) -> str | None:
    """With or without the penalty of unfinished answers: the rewards decide."""
    if "answers" not in record.parts:
        return None
    plain = judge_part(record, "scores", problem(record.seed).proxy(record.answers))
    return plain and judge_part(record, "scores", record.truth.scores)


def of_tokens(name: str) -> Callable[[Record], str | None]:
    """The judge of a part that has a number for each token."""

    def judge(record: Record) -> str | None:
        if name not in record.parts:
            return None
        return judge_part(record, name, getattr(record.truth, name), record.answers.response_mask)

    return judge


def _advantages(record: Record) -> str | None:
    first, second = of_tokens("advantages")(record), of_tokens("returns")(record)
    return first if first else second


def updated_rightly(record: Record) -> str | None:
    """Whether the weights are those after `config.epochs` passes down the clipped losses."""
    if not record.parts.keys() >= set(NAMES):
        return None
    if torch.equal(vector(problem(record.seed).moved), vector(record.after)):
        return "no weight of the actor has changed"
    if record.reference_moved:
        return "the weights of the reference have changed"
    distance = off(record)
    if not distance <= WEIGHTS:
        return (
            f"the actor's weights end {distance:.0%} of the step away from those of the tested loop on the same "
            f"answers, expected is at most {WEIGHTS:.0%}"
        )
    asked = ONE_STEP.epochs * ONE_STEP.minibatches
    if record.gradient_steps not in (None, asked):
        return f"the optimizer took {record.gradient_steps} steps, expected are epochs · minibatches = {asked}"
    return ""


def off(record: Record, **wrong: Any) -> float:
    """Distance of the weights from those after an update, right or wrong, as a share of the way that it goes.

    Gradients may be clipped, as `descend` does it, or not.
    """
    start, after = vector(problem(record.seed).moved), vector(record.after)
    ends = [record.weights(**wrong, max_norm=norm) for norm in (1.0, torch.inf)]
    return min(float((after - end).norm() / (end - start).norm()) for end in ends)


def _ran(record: Record) -> str | None:
    if record.ended is None:
        return None
    (gold, kl), (our_gold, our_kl), start = record.ended, ours(record.seed), at_the_start(record.seed)
    if gold >= start + GAIN * (our_gold - start) and kl <= 2 * our_kl:
        return ""
    return (
        f"after {RUN.steps} steps the gold reward on held-out prompts is {gold:+.2f} at {kl:.1f} nats of KL; our loop "
        f"goes from {start:+.2f} to {our_gold:+.2f} at {our_kl:.1f} nats"
    )


def figures(records: Sequence[Record]) -> str:
    """What the runs of a right step reached."""
    ends = [(at_the_start(r.seed), *r.ended) for r in records if r.ended]
    before, gold, kl = (sum(column) / len(ends) for column in zip(*ends, strict=True))
    return (
        f"On {len(ends)} small chatbots your step raised the gold reward on held-out prompts from {before:+.2f} to "
        f"{gold:+.2f} in {RUN.steps} steps, at {kl:.1f} nats of KL."
    )


STEPS = (
    Step("answers, sampled from the policy", sampled),
    Step("scores of the reward model", _scored),
    Step("log-probabilities of the reference", of_tokens("ref_log_probs")),
    Step("values", of_tokens("values")),
    Step("rewards of the tokens", of_tokens("rewards")),
    Step("advantages and returns", _advantages),
    Step("whitened advantages", of_tokens("whitened")),
    Step("the weights after the update", updated_rightly),
    Step("a run: gold reward and KL on held-out prompts", _ran),
)


def part_is(record: Record, name: str, wrong: Callable[[Truth, Rollout], Tensor]) -> bool:
    """Whether a part is what a certain mistake makes of it, and not what is right."""
    y, t = record.answers, record.truth
    if of_tokens(name)(record) == "":
        return False
    return judge_part(record, name, wrong(t, y), y.response_mask) == ""


def ends_at(record: Record, **wrong: Any) -> bool:
    """Whether the weights are those of an update with a certain mistake."""
    return updated_wrongly(record) and off(record, **wrong) < WEIGHTS


def updated_wrongly(r: Record) -> bool:
    """Whether there is an update, and not the right one."""
    return updated_rightly(r) not in (None, "")
