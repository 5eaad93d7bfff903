"""The failure museum: PPO with one thing wrong, and what its dashboard shows then.

Bugs of this kind have been reported of published programs: dropout (huggingface/trl, issue 4), positions
(CarperAI/trlx, issue 508), eos (huggingface/trl, pull request 6357), truncated (huggingface/trl, issue 235), late
(huggingface/trl, pull request 5338); for sign we cite no report. Each is put into the tested loop from outside: one
function is swapped for a wrong one while a short run lasts. `train_ppo` itself has no switch for any of them.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import pandas as pd
import torch
from torch import Tensor, nn

from week6 import log_probs, ppo, sampling
from week6.classroom.lesson import Lesson
from week6.machine import validate as check
from week6.machine.optim import make_optimizer
from week6.ppo import AdaptiveKL, PolicyWithValue
from week6.run.pipeline import watch_ppo
from week6.sequences import Rollout

DROPOUT = 0.1
"""Share of the activations that the bug "dropout" sets to zero."""
TOP_K = 2
"""How many of the likeliest tokens the bug "truncated" samples from."""
STEPS, BATCH_SIZE = 18, 40
"""A run in the museum: long enough for every symptom, a few seconds on a laptop."""

Switch = Callable[[], AbstractContextManager[None]]


@contextmanager
def dropout() -> Iterator[None]:
    """The policy stays in training mode, with dropout: sampling and scoring meet different random masks."""

    def stay_noisy(actor: PolicyWithValue) -> PolicyWithValue:
        for module in actor.modules():
            if isinstance(module, nn.Dropout):
                module.p = DROPOUT
        return actor.train()

    with patch.object(PolicyWithValue, "eval", stay_noisy):
        yield


@contextmanager
def positions() -> Iterator[None]:
    """The scoring forward passes no position_ids: padding on the left shifts the position of every token."""
    right = log_probs.response_forward

    def count_padding_too(attention_mask: Tensor) -> Tensor:
        return torch.arange(attention_mask.shape[1], device=attention_mask.device).expand_as(attention_mask)

    def wrong(*arguments: Any, **options: Any) -> Any:
        with patch.object(log_probs, "position_ids", count_padding_too):
            return right(*arguments, **options)

    with patch.object(log_probs, "response_forward", wrong), patch.object(ppo, "response_forward", wrong):
        yield


@contextmanager
def eos() -> Iterator[None]:
    """pad = EOS, and the mask of an answer is `ids != pad`: its EOS is hidden from everyone."""
    right = sampling.sample

    def wrong(model: nn.Module, *arguments: Any) -> Rollout:
        answers = right(model, *arguments)
        mask = answers.response_mask & (answers.responses != model.config.eos_token_id)  # type: ignore[union-attr]
        mask[:, 0] = True  # a row must keep a token
        return replace(answers, response_mask=mask, log_probs=answers.log_probs.masked_fill(~mask, 0.0))

    with patch.object(ppo, "sample", wrong):
        yield


class _TopK(nn.Module):
    """A language model that gives every token but the k likeliest the probability 0."""

    def __init__(self, model: nn.Module, k: int) -> None:
        super().__init__()
        self.model, self.config, self.k = model, model.config, k

    def forward(self, **inputs: Any) -> Any:
        output = self.model(**inputs)
        smallest = output.logits.topk(self.k).values[..., -1:]
        output.logits = output.logits.masked_fill(output.logits < smallest, -torch.inf)
        return output


@contextmanager
def truncated() -> Iterator[None]:
    """Top-2 sampling, while everything else believes the tokens came from the full distribution."""
    right = sampling.sample

    def wrong(model: nn.Module, *arguments: Any) -> Rollout:
        answers = right(_TopK(model, TOP_K), *arguments)
        with torch.no_grad():
            full = log_probs.response_log_probs(
                model, answers.prompts, answers.prompt_mask, answers.responses, answers.response_mask
            )
        return replace(answers, log_probs=full)

    with patch.object(ppo, "sample", wrong):
        yield


@contextmanager
def sign() -> Iterator[None]:
    """Policy and reference are swapped in the KL term: distance is rewarded."""
    right = ppo.shape_rewards

    def wrong(scores: Tensor, log_probs: Tensor, ref_log_probs: Tensor, mask: Tensor, beta: float) -> Tensor:
        return right(scores, ref_log_probs, log_probs, mask, beta)

    with patch.object(ppo, "shape_rewards", wrong):
        yield


@contextmanager
def late() -> Iterator[None]:
    """The score stands one slot after the EOS, where no token is."""
    right = ppo.shape_rewards

    def wrong(scores: Tensor, *others: Any) -> Tensor:
        leash = right(torch.zeros_like(scores), *others)
        score_at_eos = right(scores, *others) - leash
        return leash + score_at_eos.roll(1, dims=1)

    with patch.object(ppo, "shape_rewards", wrong):
        yield


@dataclass(frozen=True)
class Bug:
    """`switch` is on while the run lasts. `seen(run, healthy)` says whether the run shows the symptom, and no other's;
    `healthy` is the run of the same seed without a bug."""

    switch: Switch
    symptom: str
    seen: Callable[[pd.DataFrame, pd.DataFrame], bool]


def _ratio_is_wrong(run: pd.DataFrame) -> bool:
    return bool(run["first_ratio_deviation"].min() > 1e-2)


def _starts_well(run: pd.DataFrame, healthy: pd.DataFrame) -> bool:
    return bool(abs(run["entropy"][0] - healthy["entropy"][0]) < 1e-3)


def _end(run: pd.DataFrame, column: str) -> float:
    return float(run[column].tail(5).mean())


BUGS = {
    "dropout": Bug(
        dropout,
        "the ratio at the first pass is far from 1, and at step 0 the KL is already nats and the entropy too high",
        lambda run, healthy: _ratio_is_wrong(run) and bool(run["entropy"][0] > 1.2 * healthy["entropy"][0]),
    ),
    "positions": Bug(
        positions,
        "the ratio at the first pass is far from 1, though score, entropy and length start as they should",
        lambda run, healthy: _ratio_is_wrong(run) and _starts_well(run, healthy),
    ),
    "eos": Bug(
        eos,
        "answers start one token too short, and soon nothing governs when they end",
        lambda run, healthy: bool(0.9 < healthy["length"][0] - run["length"][0] < 1.001),
    ),
    "truncated": Bug(
        truncated,
        "at step 0 the entropy is too low and the score too high for the SFT model, though the ratio is 1",
        lambda run, healthy: not _ratio_is_wrong(run) and bool(run["entropy"][0] < 0.8 * healthy["entropy"][0]),
    ),
    "sign": Bug(
        sign,
        "starts well, then the KL runs away",
        lambda run, healthy: (
            not _ratio_is_wrong(run) and _starts_well(run, healthy) and _end(run, "kl") > 2 * _end(healthy, "kl")
        ),
    ),
    "late": Bug(
        late,
        "the score does not rise, and the KL stays near 0: the policy is never told its score",
        lambda run, healthy: (
            _end(run, "score") < 0.5 * _end(healthy, "score") and abs(_end(run, "kl")) < 0.4 * _end(healthy, "kl")
        ),
    ),
}
"""What can be wrong, with its symptom on the embedded task."""
EXHIBITS = {"A": "positions", "B": "sign", "C": "truncated", "D": "dropout", "E": "eos"}
"""The bugs behind the letters of the matching exercise of notebook 05. Guess before you look."""


def exhibit(bug: str | None, course: Lesson, steps: int = STEPS, seed: int = 1) -> pd.DataFrame:
    """Metrics of a short PPO run from the SFT model with `bug` (a name in BUGS) in it, or with none for None.

    The same seed gives all runs the same prompts and, while they agree, the same answers. Small batches and a
    learning rate twice the preset's show in seconds what else takes minutes. Raises ValueError for another name, or a
    lesson without a reward model.
    """
    if bug is not None:
        check.one_of("bug", bug, tuple(BUGS))
    if course.reward_model is None:
        raise ValueError("course: got one without reward model, expected lesson('reward_model')")
    preset = course.preset.ppo
    config = replace(preset, steps=steps, batch_size=BATCH_SIZE, learning_rate=2 * preset.learning_rate)
    controller = AdaptiveKL(config.beta, config.target_kl or 1.0, config.horizon)
    with ExitStack() as switched_on, torch.random.fork_rng():
        torch.manual_seed(seed)  # dropout draws from the global state
        actor = PolicyWithValue(deepcopy(course.sft).requires_grad_(True)).to(course.device)
        optimizer = make_optimizer(actor, config.learning_rate, eps=1e-5)
        if bug is not None:
            switched_on.enter_context(BUGS[bug].switch())
        rows = watch_ppo(actor, course.sft, course.reward_model, course.task, optimizer, controller, config, seed)
        return pd.DataFrame(list(rows))
