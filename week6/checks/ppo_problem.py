"""A chatbot of eight words on which one step of PPO is judged: what people like, a reward model, prompts, and truth.

Everything follows from a seed. The policy of the step has moved away from its reference, so that no part of the step is
0 by chance. `truth` holds the parts of a step as they follow from the sampled answers, `updated` the policy after it,
done right or with one mistake.
"""

import copy
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from week6.log_probs import masked_whiten, response_log_probs
from week6.machine.optim import generator_for, make_optimizer, minibatch
from week6.ppo import (
    PolicyWithValue,
    PPOConfig,
    appraise,
    clipped_policy_loss,
    clipped_value_loss,
    gae,
    ppo_update,
    shape_rewards,
)
from week6.sampling import sample
from week6.sequences import Rollout

EOS, WORDS = 0, 8
"""Token 0 ends an answer and pads it, as in GPT-2; the others are words."""
ONE_STEP = PPOConfig(
    batch_size=32, epochs=4, minibatches=1, learning_rate=1e-2, beta=0.3, gamma=0.97, lam=0.9, clip=0.15,
    value_coef=0.3, unfinished_penalty=-2.0, temperature=0.7, max_new_tokens=8,
)  # fmt: skip
"""No setting is the usual one, so that a number written into the step where a setting belongs is seen."""
RUN = PPOConfig(
    steps=16, batch_size=64, epochs=2, minibatches=2, learning_rate=3e-3, beta=0.1, unfinished_penalty=-1.0,
    max_new_tokens=8,
)  # fmt: skip
Reward = Callable[[Rollout], Float[Tensor, " B"]]


@dataclass(frozen=True)
class Problem:
    """A chatbot and what people like; prompts are padded on the left."""

    reference: GPT2LMHeadModel
    moved: PolicyWithValue
    """A policy on its way, with values: the actor before the step."""
    gold: Reward
    proxy: Reward
    """The reward model: the gold reward with errors."""
    prompts: Int[Tensor, "N P"]
    prompt_mask: Bool[Tensor, "N P"]
    heldout_prompts: Int[Tensor, "N P"]
    heldout_mask: Bool[Tensor, "N P"]


@cache
def problem(seed: int) -> Problem:
    """The problem of a seed: the first drawn whose chatbot leaves a fifth to two thirds of its answers unfinished."""
    for draw in itertools.count(1000 * seed):
        p = _drawn(draw)
        y = sample(p.reference, p.prompts, p.prompt_mask, RUN.max_new_tokens, generator=generator_for(seed, 0))
        if 0.2 < 1 - float(y.finished.float().mean()) < 0.67:
            return p
    raise AssertionError("unreachable")


def _drawn(draw: int) -> Problem:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(draw)
        reference = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=WORDS,
                n_positions=16,
                n_embd=16,
                n_layer=1,
                n_head=2,
                initializer_range=0.3,
                eos_token_id=EOS,
                bos_token_id=None,
                pad_token_id=EOS,
            )  # fmt: skip
        ).eval()  # type: ignore[no-untyped-call]
        reference.requires_grad_(False)
        moved = PolicyWithValue(copy.deepcopy(reference).requires_grad_(True)).eval()
        with torch.no_grad():
            for weight in moved.parameters():
                weight.add_(0.05 * torch.randn(weight.shape))
        liked = torch.linspace(-2.0, 2.0, WORDS - 1)[torch.randperm(WORDS - 1)]
        errors = 0.3 * torch.randn(WORDS - 1)
        prompt_mask = torch.arange(4) >= 4 - torch.randint(1, 5, (96, 1))
        prompts = torch.where(prompt_mask, torch.randint(1, WORDS, (96, 4)), EOS)
    return Problem(
        reference, moved, _worth(liked), _worth(liked + errors), prompts[:48], prompt_mask[:48], prompts[48:],
        prompt_mask[48:],
    )  # fmt: skip


def _worth(of_words: Float[Tensor, " V-1"]) -> Reward:
    """The mean worth of an answer's tokens, 0 for its EOS."""
    worth = torch.cat([torch.zeros(1), of_words])
    return lambda y: torch.where(y.response_mask, worth[y.responses], 0.0).sum(1) / y.response_mask.sum(1)


@dataclass(frozen=True)
class Truth:
    """What the parts of a step are for given answers."""

    log_probs: Float[Tensor, "B T"]
    ref_log_probs: Float[Tensor, "B T"]
    values: Float[Tensor, "B T"]
    scores: Float[Tensor, " B"]
    rewards: Float[Tensor, "B T"]
    advantages: Float[Tensor, "B T"]
    returns: Float[Tensor, "B T"]
    whitened: Float[Tensor, "B T"]


@torch.no_grad()
def truth(p: Problem, y: Rollout, temperature: float = ONE_STEP.temperature) -> Truth:
    """The parts of one step on answers of the moved policy."""
    c = ONE_STEP
    log_probs, values = p.moved(y, temperature)
    ref = response_log_probs(p.reference, y.prompts, y.prompt_mask, y.responses, y.response_mask, temperature)
    scores = torch.where(y.finished, p.proxy(y), c.unfinished_penalty)
    rewards = shape_rewards(scores, log_probs, ref, y.response_mask, c.beta)
    advantages, returns = gae(rewards, values, y.response_mask, c.gamma, c.lam)
    whitened = masked_whiten(advantages, y.response_mask)
    return Truth(log_probs, ref, values, scores, rewards, advantages, returns, whitened)


def updated(
    p: Problem,
    y: Rollout,
    found: Truth,
    *,
    advantages: Tensor | None = None,
    returns: Tensor | None = None,
    epochs: int = ONE_STEP.epochs,
    clip: float = ONE_STEP.clip,
    value_coef: float = ONE_STEP.value_coef,
    policy_coef: float = 1.0,
    temperature: float = ONE_STEP.temperature,
    old_follows: bool = False,
    gradients_add_up: bool = False,
    max_norm: float = 1.0,
    rate: float = 1.0,
    extra: Callable[[Tensor, Tensor], Tensor] = lambda log_probs, mask: torch.zeros(()),
    policy_loss_of: Callable[..., tuple[Tensor, object]] = clipped_policy_loss,
    value_loss_of: Callable[..., tuple[Tensor, object]] = clipped_value_loss,
) -> PolicyWithValue:
    """The moved policy after the gradient steps of one PPO step in one minibatch each."""
    actor, mask = copy.deepcopy(p.moved), y.response_mask
    optimizer = make_optimizer(actor, rate * ONE_STEP.learning_rate, eps=1e-5)
    for _ in range(epochs):
        log_probs, values = actor(y, temperature)
        old = log_probs.detach() if old_follows else found.log_probs
        targets = found.whitened if advantages is None else advantages, found.returns if returns is None else returns
        policy_loss, _ = policy_loss_of(log_probs, old, targets[0], mask, clip)
        value_loss, _ = value_loss_of(values, found.values, targets[1], mask, clip)
        if not gradients_add_up:
            optimizer.zero_grad()
        (policy_coef * policy_loss + value_coef * value_loss + extra(log_probs, mask)).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(actor.parameters(), max_norm)
        optimizer.step()
    return actor


@cache
def ours(seed: int) -> tuple[float, float]:
    """Gold reward and KL on held-out prompts after a run of the course's own, at a constant learning rate."""
    p, c = problem(seed), RUN
    actor = PolicyWithValue(copy.deepcopy(p.reference).requires_grad_(True)).eval()
    optimizer = make_optimizer(actor, c.learning_rate, eps=1e-5)
    for step in range(c.steps):
        some, generator = minibatch(len(p.prompts), c.batch_size, step, seed), generator_for(seed, step)
        y = sample(actor.policy, p.prompts[some], p.prompt_mask[some], c.max_new_tokens, c.temperature, generator)
        scores, ref_log_probs, values = appraise(y, actor, p.reference, p.proxy, c)
        rewards = shape_rewards(scores, y.log_probs, ref_log_probs, y.response_mask, c.beta)
        advantages, returns = gae(rewards, values, y.response_mask, c.gamma, c.lam)
        whitened = masked_whiten(advantages, y.response_mask)
        ppo_update(actor, optimizer, y, values, whitened, returns, c, generator)
    return on_held_out(seed, actor.policy)


@cache
def at_the_start(seed: int) -> float:
    """Gold reward of the reference on held-out prompts."""
    return on_held_out(seed, problem(seed).reference)[0]


@torch.no_grad()
def on_held_out(seed: int, policy: torch.nn.Module) -> tuple[float, float]:
    """Gold reward of a policy and its KL to the reference in nats, from 12 answers to each held-out prompt."""
    p = problem(seed)
    policy.eval()
    prompts, mask = p.heldout_prompts.repeat(12, 1), p.heldout_mask.repeat(12, 1)
    y = sample(policy, prompts, mask, RUN.max_new_tokens, generator=generator_for(seed, RUN.steps))
    ref = response_log_probs(p.reference, y.prompts, y.prompt_mask, y.responses, y.response_mask)
    return float(p.gold(y).mean()), float((y.log_probs - ref).sum(1).mean())
