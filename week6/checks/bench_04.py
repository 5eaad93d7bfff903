"""The bench of notebook 04's capstone: languages that can be listed, and the record of what PPO did in one of them."""

import inspect
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from week6.checks.capstone import Malformed, parts
from week6.objective import kl_divergence, optimal_policy, rlhf_objective
from week6.ppo import shape_rewards

PARTS = ("answers", "rewards", "advantages", "returns", "policy", "values")
BETA = 0.5
ITERATIONS = 30
PRESSED = 80
"""So many steps on a batch that without a clip nothing could hold the ratios."""


@dataclass(frozen=True)
class Language:
    """N answers of at most T tokens, all listed, for policies and critics that are tables with a row for each prefix.

    tokens     (N, T)  token ids; 0 at padding, which is on the right
    mask       (N, T)  True on real tokens
    rows       (N, T)  the row of the tables that belongs to the prefix before each token; 0 at padding
    scores     (N,)    the reward of each answer
    reference  (P, V)  the logits of π_ref: prefix, next token
    """

    tokens: Int[Tensor, "N T"]
    mask: Bool[Tensor, "N T"]
    rows: Int[Tensor, "N T"]
    scores: Float[Tensor, " N"]
    reference: Float[Tensor, "P V"]

    def log_probs(self, table: Float[Tensor, "P V"]) -> Float[Tensor, "N T"]:
        """log π(y_t | y_<t) of each token of each answer, for the policy with these logits; 0 at padding."""
        return table.log_softmax(-1)[self.rows, self.tokens] * self.mask


class Pass:
    """One question for log-probabilities with a gradient: the table they are of, what stood in its `.grad`, and what
    they felt in the end, (N, T); None each where there was nothing."""

    def __init__(self, table: Float[Tensor, "P V"], left: Float[Tensor, "P V"] | None) -> None:
        self.table, self.left = table, left
        self.felt: Float[Tensor, "N T"] | None = None

    def receive(self, gradient: Float[Tensor, "N T"]) -> None:
        """Add a gradient."""
        self.felt = gradient.detach().clone() if self.felt is None else self.felt + gradient.detach()


@dataclass(frozen=True)
class Watched(Language):
    """A language that notes the passes."""

    passes: list[Pass] = field(default_factory=list)

    def log_probs(self, table: Float[Tensor, "P V"]) -> Float[Tensor, "N T"]:
        """As of any language."""
        found = super().log_probs(table)
        if found.requires_grad:
            left = table.grad if table.is_leaf else None
            asked = Pass(table.detach().clone(), None if left is None else left.clone())
            found.register_hook(asked.receive)  # type: ignore[no-untyped-call]
            self.passes.append(asked)
        return found


def random_language(seed: int, length: int = 3, words: int = 3) -> Language:
    """Token 0 ends an answer; answers of `length` words have no end. Scores and reference are drawn from the seed."""
    g = torch.Generator().manual_seed(seed)
    vocabulary = range(1, words + 1)
    prefixes = [p for t in range(length) for p in itertools.product(vocabulary, repeat=t)]
    answers = [(*p, 0) for p in prefixes] + list(itertools.product(vocabulary, repeat=length))
    number = {prefix: i for i, prefix in enumerate(prefixes)}
    padded = [(*y, *[0] * (length - len(y))) for y in answers]
    rows = [[number[y[:t]] if t < len(y) else 0 for t in range(length)] for y in answers]
    lengths = torch.tensor([len(y) for y in answers])
    scores = torch.randn(len(answers), generator=g, dtype=torch.float64)
    return Language(
        tokens=torch.tensor(padded),
        mask=torch.arange(length) < lengths[:, None],
        rows=torch.tensor(rows),
        scores=(scores - scores.mean()) / scores.std(),
        reference=0.5 * torch.randn(len(prefixes), words + 1, generator=g, dtype=torch.float64),
    )


class Record:
    """What an answer yielded, iteration by iteration, and what we measure of it."""

    def __init__(self, language: Language) -> None:
        self.language = language
        self.steps: list[dict[str, Tensor]] = []
        self.passes: list[list[Pass]] = []
        """Of each iteration; empty where an answer does not yield as it goes."""
        self.pressed: Record | None = None
        """Two iterations of many steps on each batch, where the answer takes their number."""

    def add(self, yielded: dict[str, Any]) -> None:
        """Take in what came from one iteration. Raises Malformed for parts of another shape."""
        step = {name: torch.as_tensor(value).detach().clone() for name, value in yielded.items()}
        p, v = self.language.reference.shape
        y = step.get("answers")
        if y is not None and (y.ndim != 1 or y.is_floating_point() or not 0 <= y.min() <= y.max() < len(self.scores)):
            raise Malformed("“answers” are the numbers of the sampled answers: whole numbers, shape (128,).")
        batch = None if y is None else (len(y), self.language.tokens.shape[1])
        expected = {"policy": (p, v), "values": (p,), "rewards": batch, "advantages": batch, "returns": batch}
        for name, shape in expected.items():
            if name in step and shape is not None and step[name].shape != shape:
                raise Malformed(f"“{name}” has shape {tuple(step[name].shape)}, expected {shape}.")
        self.steps.append({name: value if name == "answers" else value.double() for name, value in step.items()})

    def __getitem__(self, name: str) -> list[Tensor]:
        """A part of all iterations. Raises KeyError where one of them lacks it."""
        return [step[name] for step in self.steps]

    def has(self, *names: str) -> bool:
        """Whether every iteration has these parts."""
        return bool(self.steps) and all(name in step for step in self.steps for name in names)

    @property
    def scores(self) -> Float[Tensor, " N"]:
        """The reward of each answer."""
        return self.language.scores

    @property
    def policies(self) -> list[Float[Tensor, "P V"]]:
        """The policy before the first iteration and after each one, as far as they came."""
        return [self.language.reference, *(step["policy"] for step in self.steps if "policy" in step)]

    def before(self, i: int) -> Float[Tensor, "P V"]:
        """The policy that iteration i should have sampled from."""
        return self.policies[min(i, len(self.policies) - 1)]

    def batch(self, i: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Answers of iteration i, with log π_old, log π_ref and the mask of their tokens."""
        y = self.steps[i]["answers"]
        old, ref = (self.language.log_probs(table)[y] for table in (self.before(i), self.language.reference))
        return y, old, ref, self.language.mask[y]

    def old_values(self, i: int) -> Float[Tensor, "B T"] | None:
        """What the critic said before iteration i, or None where it is not known."""
        y = self.steps[i]["answers"]
        if i == 0:
            return torch.zeros(len(y), self.language.tokens.shape[1], dtype=torch.float64)
        return self.steps[i - 1]["values"][self.language.rows[y]] if "values" in self.steps[i - 1] else None

    def shaped(self, i: int, beta: float = BETA) -> Float[Tensor, "B T"]:
        """The rewards (34) of the tokens of iteration i."""
        y, old, ref, mask = self.batch(i)
        is_last = torch.arange(mask.shape[1]) == mask.sum(1, keepdim=True) - 1
        return -beta * (old - ref) * mask + is_last * self.scores[y][:, None]

    def exact(self, table: Float[Tensor, "P V"]) -> tuple[Tensor, Tensor, Tensor]:
        """log π(y) of all answers, log π_ref(y), and log π*(y)."""
        log_pi, log_ref = (self.language.log_probs(t).sum(1) for t in (table, self.language.reference))
        return log_pi, log_ref, optimal_policy(log_ref, self.scores, BETA)[0]

    @property
    def gaps(self) -> list[float]:
        """KL(π ‖ π*) before the first iteration and after each one, in nats."""
        exact = [self.exact(table) for table in self.policies]
        return [float(kl_divergence(log_pi, best)) for log_pi, _, best in exact]

    @property
    def kls(self) -> list[float]:
        """KL(π ‖ π_ref) at the same times."""
        exact = [self.exact(table) for table in self.policies]
        return [float(kl_divergence(log_pi, log_ref)) for log_pi, log_ref, _ in exact]

    @property
    def objectives(self) -> list[float]:
        """J at the same times."""
        exact = [self.exact(table) for table in self.policies]
        return [float(rlhf_objective(log_pi, log_ref, self.scores, BETA)) for log_pi, log_ref, _ in exact]

    def moved(self, i: int) -> Float[Tensor, " M"]:
        """log ρ of each real token of batch i after its update, times the sign of its advantage: up if good."""
        y, old, _, mask = self.batch(i)
        new = self.language.log_probs(self.policies[i + 1])[y]
        return ((new - old) * self.steps[i]["advantages"].sign())[mask]

    def explained(self, i: int, *, later: bool = True) -> float:
        """Share of the variance of the exact values that the critic explains after iteration i; with later=False, of
        the next reward alone."""
        language, policy = self.language, self.policies[i + 1]
        log_pi, log_ref = (language.log_probs(table) for table in (policy, language.reference))
        paid = shape_rewards(self.scores, log_pi, log_ref, language.mask, BETA)
        weight = log_pi.sum(1).exp()[:, None] * language.mask

        def by_prefix(x: Float[Tensor, "N T"]) -> Float[Tensor, " P"]:
            return torch.zeros(len(policy), dtype=x.dtype).index_add(0, language.rows.flatten(), x.flatten())

        visits = by_prefix(weight)
        exact = by_prefix(weight * (paid.flip(1).cumsum(1).flip(1) if later else paid)) / visits
        visits = visits / visits.sum()
        error = self.steps[i]["values"] - exact
        spread = visits @ (exact - visits @ exact).square()
        return float(1 - visits @ (error - visits @ error).square() / spread)


def measure(answer: Callable[..., Any], seed: int) -> Record:
    """Let `answer` train in the language of this seed; and once it trains a policy, under pressure as well."""
    language = random_language(seed)  # ours; an answer gets its own, and may write into it
    own = Watched(**vars(random_language(seed)))
    result = answer(own, BETA, ITERATIONS, torch.Generator().manual_seed(seed))
    if isinstance(result, dict | Tensor):
        raise Malformed("One result came; a dict is to be yielded after each iteration.")
    record = _taken_in(language, own, result, ITERATIONS)
    if 0 < len(record.steps) < ITERATIONS:
        raise Malformed(
            f"Your function yields {len(record.steps)} times; once an iteration, {ITERATIONS}, is expected."
        )
    if record.has("answers", "advantages", "policy") and "epochs" in inspect.signature(answer).parameters:
        generator, own = torch.Generator().manual_seed(seed), Watched(**vars(random_language(seed)))
        record.pressed = _taken_in(language, own, answer(own, BETA, 2, generator, epochs=PRESSED), 2)
    return record


def _taken_in(language: Language, own: Watched, result: Any, iterations: int) -> Record:
    """The record of what an answer yields in a language of its own."""
    record = Record(language)
    for _, yielded in zip(range(iterations), () if result is None else result, strict=False):
        record.add(parts(yielded, *PARTS))
        if isinstance(result, Iterator):
            record.passes.append(own.passes.copy())
            own.passes.clear()
    return record
