"""The capstone of notebook 04: PPO, whole, in a language that can be listed."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from week6.checks.capstone import Capstone, Malformed, Step, Symptom, parts
from week6.log_probs import masked_mean, masked_whiten
from week6.objective import kl_divergence, optimal_policy, rlhf_objective
from week6.ppo import clipped_policy_loss, clipped_value_loss, gae, shape_rewards


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
    return Language(
        tokens=torch.tensor(padded),
        mask=torch.arange(length) < lengths[:, None],
        rows=torch.tensor(rows),
        scores=torch.randn(len(answers), generator=g, dtype=torch.float64),
        reference=0.5 * torch.randn(len(prefixes), words + 1, generator=g, dtype=torch.float64),
    )


def train_by_ppo(
    language: Language, beta: float, iterations: int, generator: torch.Generator, clip: float = 0.2, epochs: int = 4
) -> Iterator[dict[str, Tensor]]:
    """PPO from the reference on. After each iteration of 128 answers yields a dict of what it did."""
    policy = language.reference.clone().requires_grad_()
    critic = torch.zeros(len(policy), dtype=policy.dtype, requires_grad=True)
    optimizer = torch.optim.Adam([policy, critic], lr=0.05)
    for _ in range(iterations):
        with torch.no_grad():
            old = language.log_probs(policy)
            y = torch.multinomial(old.sum(1).exp(), 128, replacement=True, generator=generator)
            old, ref, mask = old[y], language.log_probs(language.reference)[y], language.mask[y]
            old_values = critic[language.rows[y]]
        rewards = shape_rewards(language.scores[y], old, ref, mask, beta)
        raw_advantages, returns = gae(rewards, old_values, mask)
        advantages = masked_whiten(raw_advantages, mask)
        for _ in range(epochs):
            policy_loss, _ = clipped_policy_loss(language.log_probs(policy)[y], old, advantages, mask, clip)
            value_loss, _ = clipped_value_loss(critic[language.rows[y]], old_values, returns, mask)
            optimizer.zero_grad()
            (policy_loss + value_loss).backward()
            optimizer.step()
        yield {
            "answers": y,
            "rewards": rewards,
            "advantages": advantages,
            "returns": returns,
            "policy": policy.detach().clone(),
            "values": critic.detach().clone(),
        }
