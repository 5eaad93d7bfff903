"""What a policy is worth: answers to held-out prompts, judged, with standard errors.

Several answers share a prompt, so they are not independent. All figures are means over prompts of the mean over the
answers to that prompt, and all standard errors are those of independent prompts (answers clustered by prompt).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from week6.log_probs import response_log_probs
from week6.machine.bounds import Few, Rows, Spread
from week6.machine.checkpoint import as_bytes, as_texts
from week6.machine.compute import in_parts, stack
from week6.machine.optim import generator_for
from week6.sampling import sample
from week6.sequences import Rollout, decode, encode_prompts
from week6.tasks import Task

Reward = Callable[[Rollout], Float[Tensor, " B"]]
PART = 64
"""So many answers are read at once, those to prompts of a length together: a long one makes all of its part as wide."""


@dataclass(frozen=True)
class EvaluationConfig:
    """On how many sampled answers the figures of a run rest."""

    heldout_pairs: Few = 14
    """Pairs on each held-out prompt that measure the reward model's accuracy and its ceiling."""
    calibration_answers: Spread = 1000
    """SFT answers to training prompts whose reward is made mean 0, variance 1."""
    answers_per_prompt: Few = 8
    """Answers of each policy to each held-out prompt."""
    best_of: Few = 16
    """The n of best-of-n."""
    best_of_answers: Few = 2
    """How many times best-of-n is done for each held-out prompt."""
    probes: Few = 10
    """How often DPO's KL and gold reward are looked at while it trains."""
    probe_answers: Rows = 256
    """On how many answers."""


class Estimate(NamedTuple):
    """A mean, its standard error, and the number of answers and of prompts behind it."""

    mean: float
    se: float
    n: int
    prompts: int


def estimate(values: Float[Tensor, "M K"]) -> Estimate:
    """Mean of K answers to each of M prompts; rows that are NaN (a prompt to which the figure does not apply) drop out.

        mean = 1/M Σ_i x̄_i,      se = √(Σ_i (x̄_i − mean)² / (M (M − 1))),      x̄_i = 1/K Σ_k x_ik

    NaN where no row is left; the standard error is NaN for a single prompt.
    """
    means = values.double().mean(1)
    means = means[~means.isnan()]
    m = len(means)
    return Estimate(
        means.mean().item(), (means.std() / math.sqrt(m)).item() if m > 1 else math.nan, m * values.shape[1], m
    )


@dataclass(frozen=True)
class Judged:
    """K answers to each of M prompts, row by row, and what the judges say of each (all on the CPU)."""

    texts: list[list[str]]
    proxy: Float[Tensor, "M K"]
    """Learned reward of the answer, in reward units; of an unfinished one too."""
    gold: Float[Tensor, "M K"] | None
    kl: Float[Tensor, "M K"]
    """One sample of KL(π ‖ SFT) each: log π(y|x) − log π_SFT(y|x), k1 summed over the answer, in nats."""
    length: Float[Tensor, "M K"]
    """Tokens, EOS included."""
    verdict: Float[Tensor, "M K"] | None = None
    """What the judge that training never saw says, in its own reward units."""

    def tensors(self) -> dict[str, Tensor]:
        """All of it by name, but for what nobody judged; the texts as bytes."""
        numbers = {name: x for name, x in vars(self).items() if isinstance(x, Tensor)}
        return numbers | {"texts": as_bytes(self.texts)}

    @classmethod
    def of(cls, tensors: dict[str, Tensor]) -> Self:
        """What `tensors` was made of."""
        return cls(**{"gold": None} | tensors | {"texts": as_texts(tensors["texts"])})  # type: ignore[arg-type]

    def select(self, index: Tensor) -> "Judged":
        """The answers index[i, j] of prompt i."""
        texts = [[row[j] for j in picks] for row, picks in zip(self.texts, index.tolist(), strict=True)]
        gold, verdict = (None if x is None else x.gather(1, index) for x in (self.gold, self.verdict))
        proxy, kl, length = (x.gather(1, index) for x in (self.proxy, self.kl, self.length))
        return Judged(texts, proxy, gold, kl, length, verdict)


def sample_batches(
    policy: nn.Module,
    prompts: Int[Tensor, "B P"],
    prompt_mask: Bool[Tensor, "B P"],
    max_new_tokens: int,
    seed: int,
    batch_size: int = 512,
    temperature: float = 1.0,
) -> Rollout:
    """One answer to each of many prompts: `sample` batch by batch, as one Rollout."""
    parts = []
    for step, start in enumerate(range(0, len(prompts), batch_size)):
        rows = slice(start, start + batch_size)
        generator = generator_for(seed, step, prompts.device)
        parts.append(sample(policy, prompts[rows], prompt_mask[rows], max_new_tokens, temperature, generator))
    return Rollout(**{field.name: stack([getattr(part, field.name) for part in parts]) for field in fields(Rollout)})


@torch.no_grad()
def judge(
    policy: nn.Module,
    sft: nn.Module,
    reward: Reward,
    task: Task,
    prompts: list[str],
    answers_per_prompt: int,
    seed: int,
    batch_size: int = 512,
    unseen: Reward | None = None,
) -> Judged:
    """Sample answers from `policy` at temperature 1 and judge them; `unseen` is the judge that training never saw."""
    device = next(policy.parameters()).device
    tokens, mask = (x.to(device) for x in encode_prompts(task.tokenizer, prompts))
    index = torch.arange(len(prompts), device=device).repeat_interleave(answers_per_prompt)
    answers = sample_batches(policy, tokens[index], mask[index], task.max_new_tokens, seed, batch_size)

    def rewards_and_kl(batch: Rollout) -> tuple[Tensor, ...]:
        reference = response_log_probs(sft, batch.prompts, batch.prompt_mask, batch.responses, batch.response_mask)
        scores = reward(batch), (batch.log_probs - reference).sum(-1)
        return scores if unseen is None else (*scores, unseen(batch))

    order = answers.prompt_mask.sum(-1).argsort(stable=True)
    read = in_parts(rewards_and_kl, answers.rows(order), sft, min(batch_size, PART))
    proxy, kl, *verdict = (x[order.argsort()] for x in read)
    texts = decode(task.tokenizer, answers.responses, answers.response_mask)
    asked = [prompt for prompt in prompts for _ in range(answers_per_prompt)]
    shape = (len(prompts), answers_per_prompt)
    return Judged(
        texts=[texts[i : i + answers_per_prompt] for i in range(0, len(texts), answers_per_prompt)],
        proxy=proxy.cpu().reshape(shape),
        gold=None if task.gold is None else task.gold(asked, texts).reshape(shape),
        kl=kl.cpu().reshape(shape),
        length=answers.response_mask.sum(-1).float().cpu().reshape(shape),
        verdict=verdict[0].cpu().reshape(shape) if verdict else None,
    )


def best_of_n(candidates: Judged, n: int) -> Judged:
    """Of each n consecutive answers to a prompt the one with the highest proxy reward (K must be a multiple of n)."""
    m, k = candidates.proxy.shape
    if k % n:
        raise ValueError(f"n: got {n}, expected a divisor of the {k} answers to each prompt")
    offset = torch.arange(0, k, n)
    return candidates.select(candidates.proxy.reshape(m, k // n, n).argmax(-1) + offset)


def win_rate(gold: Float[Tensor, "M K"], other: Float[Tensor, "M J"]) -> Float[Tensor, "M K"]:
    """How often each answer has a higher gold reward than an answer of `other` to its prompt; a tie counts half."""
    difference = gold.unsqueeze(2) - other.unsqueeze(1)
    return ((difference > 0).float() + 0.5 * (difference == 0).float()).mean(2)


def figures(judged: Judged, sft: Judged, task: Task, prompts: list[str]) -> dict[str, Any]:
    """One entry of summary.json's "policies": every mean with its standard error under NAME_se, null where none is."""
    table: dict[str, Estimate | None] = {
        "gold": None if judged.gold is None else estimate(judged.gold),
        "proxy": estimate(judged.proxy),
        "kl": estimate(judged.kl),
        "win_rate": None,
        "help_rate": None,
        "refusal_rate": None,
        "length": estimate(judged.length),
    }
    if judged is not sft and judged.gold is not None and sft.gold is not None:
        table["win_rate"] = estimate(win_rate(judged.gold, sft.gold))
    if task.rates is not None:
        k = judged.proxy.shape[1]
        rows = [task.rates([prompt] * k, texts) for prompt, texts in zip(prompts, judged.texts, strict=True)]
        for name in rows[0]:
            table[name] = estimate(torch.tensor([[row[name]] * k for row in rows]))
    result: dict[str, Any] = {}
    for name, value in table.items():
        result[name], result[f"{name}_se"] = (None, None) if value is None else (value.mean, value.se)
        if name.endswith("_rate"):
            result[f"{name}_n"] = None if value is None else value.n
    return result | {"n": judged.proxy.numel(), "prompts": len(prompts)}
