"""The bench of notebook 00's capstone: a small language whose lowest loss is known, and how each part is judged."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from week6.checks.capstone import Malformed, Step, parts
from week6.checks.cases import whole

USER, BOT, END = 6, 7, 8
"""Token ids of the small language's marks; 0 to 5 are its words. Padding is END, as in many real tokenizers."""
EPOCHS, BATCH_SIZE, LEARNING_RATE = 5, 16, 0.4
LOOKED_AT = 3
"""Of so many steps the loss is looked into."""
SFT_GAP = 0.01
"""Nats per token above the lowest loss. Over 20 problems the course's loop ends at 0.0032 at most; with a learning rate
that does not fall, the noise of the last batches leaves 0.024 at least."""


class Pass:
    """One question to the model, and what came back to it: the texts, (b, l), the gradient that reached their logits,
    (b, l, V), and what stood in the weights' `.grad` after that, None each if nothing came."""

    def __init__(self, ids: Tensor) -> None:
        self.ids = ids
        self.of_logits: Tensor | None = None
        self.of_table: Tensor | None = None

    def receive(self, gradient: Tensor) -> None:
        """Add a gradient of the logits."""
        self.of_logits = gradient.detach().clone() if self.of_logits is None else self.of_logits + gradient.detach()


class _Table(nn.Module):
    """A language model that is a table: for each token the logits of the next. Its lowest loss follows from counts.
    It keeps its passes."""

    def __init__(self, g: torch.Generator) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(END + 1, END + 1, generator=g))
        self.passes: list[Pass] = []
        self.last = Pass(torch.empty(0, 0))
        self.table.register_post_accumulate_grad_hook(self._note)  # type: ignore[no-untyped-call]

    def forward(self, input_ids: Tensor, **_: Any) -> SimpleNamespace:
        logits, asked = self.table[input_ids], Pass(input_ids.detach().clone())
        if logits.requires_grad:
            logits.register_hook(asked.receive)  # type: ignore[no-untyped-call]
            self.passes.append(asked)
            self.last = asked
        return SimpleNamespace(logits=logits)

    def _note(self, table: Tensor) -> None:
        if table.grad is not None:
            self.last.of_table = table.grad.clone()


def chats(g: torch.Generator, n: int = 640) -> tuple[Tensor, Tensor]:
    """ids and is_answer, shape (n, L): prompts of random words; answers in which each word depends on the last one."""
    follows = torch.softmax(1.5 * torch.randn(END + 1, USER, generator=g), dim=-1)
    texts = []
    for _ in range(n):
        prompt = [USER, *torch.randint(USER, (whole(g, 2, 5),), generator=g).tolist(), BOT]
        answer = [BOT]
        for _ in range(whole(g, 1, 7)):
            answer.append(int(torch.multinomial(follows[answer[-1]], 1, generator=g)))
        texts.append((prompt, [*answer[1:], END]))
    length = max(len(prompt) + len(answer) for prompt, answer in texts)
    ids = torch.tensor([p + a + [END] * (length - len(p) - len(a)) for p, a in texts])
    is_answer = torch.tensor([[len(p) <= k < len(p) + len(a) for k in range(length)] for p, a in texts])
    return ids, is_answer


def of_tokens(table: Tensor, ids: Tensor) -> Tensor:
    """log π of each token but the first, shape (B, L − 1)."""
    return table[ids[:, :-1]].log_softmax(-1).gather(-1, ids[:, 1:].unsqueeze(-1)).squeeze(-1)


@dataclass(eq=False)
class Imitation:
    """What a loop of SFT did. `tables` are the weights before the first step and after each; `passes` are those of the
    model, step by step."""

    ids: Tensor
    is_answer: Tensor
    tables: list[Tensor]
    parts: list[dict[str, Tensor]] = field(default_factory=list)
    passes: list[list[Pass]] = field(default_factory=list)

    @property
    def steps(self) -> int:
        """The number of steps that were asked for."""
        return EPOCHS * len(self.ids) // BATCH_SIZE

    def given(self, name: str) -> bool:
        """Whether every step has this part."""
        return bool(self.parts) and all(name in part for part in self.parts)

    def at(self, step: int) -> Tensor:
        """The weights that the forecasts of a step are made with: one may yield after the update, or before it."""
        part, tables = self.parts[step], self.tables[step : step + 2]
        if "log_probs" not in part:
            return tables[0]
        far = [distance(part["log_probs"], of_tokens(table, self.ids[part["rows"]])) for table in tables]
        return tables[far.index(min(far))]

    def loss(self, table: Tensor, rows: Any = slice(None)) -> float:
        """The loss (2) of these rows."""
        counted = self.is_answer[rows][:, 1:]
        return float(-of_tokens(table, self.ids[rows])[counted].mean())

    @property
    def lowest(self) -> float:
        """The lowest loss that any table has: with the shares of what followed each token in the answers."""
        counted = self.is_answer[:, 1:]
        followed = torch.zeros(END + 1, END + 1)  # [a, b]: how often token b came after token a, within answers
        followed.index_put_(
            (self.ids[:, :-1][counted], self.ids[:, 1:][counted]), torch.ones(int(counted.sum())), accumulate=True
        )
        shares = followed / followed.sum(1, keepdim=True).clamp(min=1)
        return float(-torch.xlogy(followed, shares).sum() / followed.sum())

    def gap(self, step: int) -> float:
        """Nats per token above the lowest loss, after so many steps."""
        return self.loss(self.tables[step]) - self.lowest

    def moved(self, step: int) -> Tensor:
        """By how much each weight that a step changed was changed."""
        change = (self.tables[step + 1] - self.tables[step]).abs()
        return change[change > 0]


def distance(got: Tensor, want: Tensor) -> float:
    """The largest difference, infinite where the shapes differ."""
    return float((got - want).abs().max()) if got.shape == want.shape else math.inf


def measure(answer: Any, seed: int) -> Imitation:
    """Let `answer` fine-tune a table on the chats of this seed."""
    g = torch.Generator().manual_seed(seed)
    ids, is_answer = chats(g)
    model = _Table(g)
    record = Imitation(ids, is_answer, [model.table.detach().clone()])
    found = answer(model, ids.clone(), is_answer.clone(), EPOCHS, BATCH_SIZE, LEARNING_RATE)
    if not isinstance(found, Iterator):
        raise Malformed("Your function has no `yield`: after each step, yield a dict with what the step has so far.")
    undone = list[Tensor]()
    for result in itertools.islice(found, 2 * record.steps):
        part = {name: torch.as_tensor(value).detach().clone() for name, value in
                parts(result, "rows", "log_probs", "loss").items()}  # fmt: skip
        if len(record.parts) < LOOKED_AT and isinstance(loss := result.get("loss"), Tensor) and loss.requires_grad:
            undone.append(loss)
        record.parts.append(part)
        record.passes.append(model.passes)
        model.passes = []
        record.tables.append(model.table.detach().clone())
    if undone and all(asked.of_logits is None for step in record.passes for asked in step):
        for loss in undone:  # what is not trained by yet has a gradient all the same
            torch.autograd.grad(loss.sum(), model.table)
    return record


def batches(record: Imitation) -> str | None:
    """Each demonstration once an epoch, in a new order."""
    if not record.given("rows"):
        return None
    rows, n = [part["rows"].flatten() for part in record.parts], len(record.ids)
    if len(rows) != record.steps:
        return f"{len(rows)} steps came, {record.steps} were expected: {EPOCHS} epochs of {n} rows, {BATCH_SIZE} a step"
    seen = torch.cat(rows)
    if seen.dtype == torch.bool or seen.is_floating_point() or len(seen) != EPOCHS * n:
        return f"`rows` should hold the numbers of the {BATCH_SIZE} demonstrations of a step"
    epochs = seen.view(EPOCHS, n)
    if bool((epochs.sort(dim=1).values != torch.arange(n)).any()):
        missed = n - len(set(epochs[0].tolist()))
        return f"in the first epoch {missed} of {n} demonstrations never came up: each should come once an epoch"
    if bool((epochs == epochs[0]).all()):
        return "every epoch has the same order: draw a new one each time"
    return ""


def forecasts(record: Imitation) -> str | None:
    """log π of each token given those before it."""
    if not record.given("log_probs"):
        return None
    for step, part in enumerate(record.parts):
        want = of_tokens(record.at(step), record.ids[part["rows"]])
        if part["log_probs"].shape != want.shape:
            return f"`log_probs` has shape {tuple(part['log_probs'].shape)}, expected (B, L − 1) = {tuple(want.shape)}"
        if not distance(part["log_probs"], want) < 1e-3:  # fp32
            i, k = divmod(int((part["log_probs"] - want).abs().nan_to_num(math.inf).argmax()), want.shape[1])
            return (
                f"in step {step + 1}, row {i}, the token of column {k + 1} has log π = {want[i, k]:.3f} given those "
                f"before it, and you have {part['log_probs'][i, k]:.3f}"
            )
    return ""


def losses(record: Imitation) -> str | None:
    """The loss (2) of each step."""
    if not record.given("loss"):
        return None
    for step, part in enumerate(record.parts):
        want = record.loss(record.at(step), part["rows"])
        if part["loss"].numel() != 1:
            return f"`loss` has shape {tuple(part['loss'].shape)}, expected one number"
        if not abs(float(part["loss"]) - want) < 1e-3:  # fp32
            return f"in step {step + 1} the loss (2) is {want:.4f}, and you have {float(part['loss']):.4f}"
    return ""


def _falls(record: Imitation) -> str:
    start, soon = record.gap(0), record.gap(len(record.ids) // BATCH_SIZE)
    if soon < start / 2:
        return ""
    return (
        f"before the first step the loss of all demonstrations was {start:.3f} nats above the lowest possible, after "
        f"the first epoch it was {soon:.3f}; expected is less than half"
    )


def arrives(record: Imitation) -> str:
    """The lowest loss, nearly."""
    gap = record.gap(-1)
    return "" if gap < SFT_GAP else f"at the end the loss is {gap:.4f} nats above the lowest one, expected < {SFT_GAP}"


STEPS = (
    Step("the batches", batches),
    Step("the log-probabilities", forecasts),
    Step("the loss", losses),
    Step("the update", _falls),
    Step("the optimum", arrives),
)
