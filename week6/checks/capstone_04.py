"""The capstone of notebook 04: PPO, whole, in a language that can be listed."""

from collections.abc import Iterator

import torch
from torch import Tensor

from week6.checks.bench_04 import Language as Language
from week6.checks.bench_04 import measure
from week6.checks.bench_04 import random_language as random_language
from week6.checks.capstone import Capstone
from week6.checks.steps_04 import STEPS, explained, late_gap
from week6.checks.symptoms_04 import SYMPTOMS
from week6.log_probs import masked_whiten
from week6.ppo import clipped_policy_loss, clipped_value_loss, gae, shape_rewards


def train_by_ppo(
    language: Language, beta: float, iterations: int, generator: torch.Generator, clip: float = 0.2, epochs: int = 8
) -> Iterator[dict[str, Tensor]]:
    """PPO from the reference on. After each iteration of 128 answers yields a dict of what it did."""
    policy = language.reference.clone().requires_grad_()
    critic = torch.zeros(len(policy), dtype=policy.dtype, requires_grad=True)
    optimizer = torch.optim.Adam([policy, critic], lr=0.1)
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
            (policy_loss + value_loss).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        yield {
            "answers": y,
            "rewards": rewards,
            "advantages": advantages,
            "returns": returns,
            "policy": policy.detach().clone(),
            "values": critic.detach().clone(),
        }


capstone = Capstone(
    title="4.6 Capstone: PPO, whole",
    name="my_ppo",
    reference=train_by_ppo,
    run=measure,
    steps=STEPS,
    symptoms=SYMPTOMS,
    shows=lambda records: (
        "The gap to π* fell from "
        + ", ".join(f"{record.gaps[0]:.2f} to {late_gap(record):.3f}" for record in records)
        + f" nats; the critic explains at least {min(map(explained, records)):.0%} of the exact values."
    ),
    hints=(
        "Section 7 and section 8 use a batch more than once. What must be noted before the first of its steps, "
        "because no step may change it?",
        "Everything that the old policy and the old critic said is a plain number: answers, log-probabilities, "
        "rewards, advantages, targets. Only two things have gradients: the log-probabilities of the policy in the "
        "ratio, and the values of the critic in its squared error. Both are computed anew at each of the eight "
        "steps.",
        "Start: a copy of the reference's logits and a table of zeros, both in one optimizer. Each iteration, "
        "without gradient: log-probabilities of all answers, their sums, 128 draws; for the drawn ones old and "
        "reference log-probabilities, mask, and the critic's values at their rows. Then shape_rewards, gae, whiten. "
        "Then eight times: clipped_loss of the new log-probabilities, plus half the squared error of the values, "
        "zero_grad, backward, step. Last, yield copies.",
        "with torch.no_grad():\n"
        "    everything = language.log_probs(policy)\n"
        "    y = torch.multinomial(..., 128, replacement=True, generator=generator)\n"
        "    old, ref, mask = everything[y], ..., language.mask[y]\n"
        "    old_values = critic[language.rows[y]]\n"
        "rewards = shape_rewards(...)\n"
        "raw_advantages, returns = gae(...)\n"
        "advantages = whiten(raw_advantages, mask)\n"
        "for _ in range(epochs):\n"
        "    policy_loss = clipped_loss(..., old, advantages, mask, clip)\n"
        "    value_loss = ...\n"
        "    optimizer.zero_grad()\n"
        "    (policy_loss + value_loss).backward()\n"
        "    optimizer.step()",
    ),
    time_limit=25.0,
)
