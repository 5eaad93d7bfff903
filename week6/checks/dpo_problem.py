"""The problems of notebook 06's capstone: pairs of a small chatbot, an exact world, and DPO on both, right or wrong."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from week6.checks.ppo_problem import problem
from week6.dpo import DPOConfig
from week6.exact import ExactWorld, small_world
from week6.log_probs import response_log_probs
from week6.machine.optim import generator_for, make_optimizer, minibatch
from week6.objective import kl_divergence, optimal_policy
from week6.preferences import preference_probability
from week6.sampling import sample
from week6.sequences import Pairs, pair_rollouts

IN_THE_WORLD = DPOConfig(steps=30, batch_size=100, learning_rate=3e-3, beta=0.5)
N_PAIRS = 1500


@cache
def chatbot_pairs(seed: int) -> Pairs:
    """Two answers of the small chatbot to each prompt, labelled by what people like."""
    p = problem(seed)
    first, second = (
        sample(p.reference, p.prompts, p.prompt_mask, 8, generator=generator_for(seed, step)) for step in (1, 2)
    )
    wins = preference_probability(3 * p.gold(first), 3 * p.gold(second))
    return pair_rollouts(first, second, torch.bernoulli(wins, generator=generator_for(seed, 3)).bool())


@dataclass(frozen=True)
class World:
    """The exact world, its reference, all that is known of it, and pairs from the reference with one noisy label."""

    language: ExactWorld
    reference: nn.Module
    log_ref: Float[Tensor, "X N"]
    log_star: Float[Tensor, "X N"]
    pairs: Pairs
    chosen: tuple[Int[Tensor, " n"], Int[Tensor, " n"], Int[Tensor, " n"]]
    """Of each pair the prompt and the numbers of the two answers."""

    def conditional(self, policy: nn.Module) -> Float[Tensor, "X N"]:
        """log π(y | x) of every answer to every prompt."""
        with torch.no_grad():
            return self.language.log_probs(policy).double().view_as(self.log_ref).log_softmax(-1)

    def gap(self, log_pi: Float[Tensor, "X N"]) -> float:
        """KL(π ‖ π*) in nats, averaged over the prompts."""
        return float(kl_divergence(log_pi, self.log_star).mean())


@cache
def world(seed: int) -> World:
    """The world with the reference and the pairs of a seed."""
    language = small_world()
    prompts, answers = len(language.vocab), len(language.sequences) // len(language.vocab)
    reference = language.new_policy(seed=100 + seed).requires_grad_(False)
    with torch.no_grad():
        log_ref = language.log_probs(reference).double().view(prompts, answers).log_softmax(-1)
    rewards = language.rewards.view(prompts, answers)
    g = generator_for(seed, 4)
    x = torch.randint(prompts, (N_PAIRS,), generator=g)
    a, b = torch.multinomial(log_ref.exp()[x], 2, replacement=True, generator=g).T
    a_wins = torch.bernoulli(preference_probability(rewards[x, a], rewards[x, b]), generator=g).bool()
    chosen, rejected = torch.where(a_wins, a, b), torch.where(a_wins, b, a)
    tokens = language.sequences.view(prompts, answers, -1)
    start = torch.stack([torch.zeros_like(x), x], dim=1)
    every: Bool[Tensor, "n 3"] = torch.ones(N_PAIRS, language.length - 1, dtype=torch.bool)
    pairs = Pairs(
        start, torch.ones_like(start).bool(), tokens[x, chosen, 1:], every, tokens[x, rejected, 1:], every.clone()
    )
    log_star, _ = optimal_policy(log_ref, rewards, IN_THE_WORLD.beta)
    return World(language, reference, log_ref, log_star, pairs, (x, chosen, rejected))


def steps_of_dpo(
    policy: nn.Module,
    reference: nn.Module,
    pairs: Pairs,
    config: DPOConfig,
    seed: int,
    *,
    beta: float | None = None,
    anchor: float = 1.0,
    mean: bool = False,
    pull: tuple[float, float] = (1.0, 1.0),
    sign: float = 1.0,
    max_norm: float = 1.0,
    of_margin: Callable[[Tensor], Tensor] = lambda margin: -F.logsigmoid(margin),
    rate: float = 1.0,
    gradients_add_up: bool = False,
    steps: int | None = None,
    again: int = 1,
) -> nn.Module:
    """The policy after DPO, right or with a mistake: other β, no anchor, means for sums, gradient by one answer,
    another loss of the margin, another learning rate or number of steps, gradients that add up."""
    policy = copy.deepcopy(policy).eval().requires_grad_(True)
    optimizer = make_optimizer(policy, rate * config.learning_rate)
    for step in range(again * (config.steps if steps is None else steps)):
        batch = pairs.rows(minibatch(len(pairs), config.batch_size, step // again, seed))
        ratios = [
            _sums(policy, batch, kind, mean) - anchor * _sums(reference, batch, kind, mean).detach()
            for kind in ("chosen", "rejected")
        ]
        pulled = [share * ratio + (1 - share) * ratio.detach() for share, ratio in zip(pull, ratios, strict=True)]
        margin = (beta or config.beta) * (pulled[0] - pulled[1])
        if not gradients_add_up:
            optimizer.zero_grad()
        (sign * of_margin(margin)).mean().backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(policy.parameters(), max_norm)
        optimizer.step()
    return policy


def _sums(model: nn.Module, pairs: Pairs, kind: str, mean: bool) -> Float[Tensor, " N"]:
    mask = getattr(pairs, f"{kind}_mask")
    of_tokens = response_log_probs(model, pairs.prompts, pairs.prompt_mask, getattr(pairs, kind), mask)
    return of_tokens.sum(-1) / (mask.sum(-1) if mean else 1)


@cache
def ours(seed: int) -> float:
    """The gap in the exact world after the course's own training."""
    w = world(seed)
    return w.gap(w.conditional(steps_of_dpo(w.reference, w.reference, w.pairs, IN_THE_WORLD, seed)))
