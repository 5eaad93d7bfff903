"""Proximal policy optimization of a language model (Schulman et al. 2017; Ziegler et al. 2019; Ouyang et al. 2022).

An answer is an episode, a token is an action. The return of a token is the score of the whole answer minus β times
the log-ratios to the reference from that token on, so that the expected return is the RLHF objective.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from week6.log_probs import (
    masked_mean,
    masked_whiten,
    response_forward,
    response_log_probs,
    token_log_probs,
    without_spare_columns,
)
from week6.machine import validate as check
from week6.machine.bounds import (
    FRACTION,
    LEASH,
    Clip,
    Coefficient,
    Count,
    Few,
    Fraction,
    Leash,
    Positive,
    Rate,
    Rows,
    Score,
    Temperature,
)
from week6.machine.compute import in_parts
from week6.machine.optim import Stats, generator_for, gradient_step, minibatch, set_learning_rate
from week6.objective import kl_estimators
from week6.reward_model import last_token_index
from week6.sampling import sample
from week6.sequences import Rollout

AVERAGED = ("policy_loss", "value_loss", "grad_norm", "clip_fraction", "approx_kl", "value_clip_fraction")
"""The stats of a gradient step whose means over an update are reported."""


@dataclass(frozen=True)
class PPOConfig:
    """One PPO step samples `batch_size` answers and takes `epochs` × `minibatches` gradient steps on them."""

    steps: Count = 200
    batch_size: Rows = 128
    epochs: Few = 2
    minibatches: Few = 2
    learning_rate: Rate = 3e-4
    beta: Leash = 0.1
    """Reward units per nat of KL to the reference."""
    target_kl: Annotated[float | None, LEASH, LEASH.shown] = None
    """Nats per answer at which the adaptive controller holds the KL; None keeps β fixed."""
    horizon: Positive = 10_000
    """Answers in which the controller can move β by a fifth; more than a fifth of `batch_size`."""
    gamma: Fraction = 1.0
    lam: Fraction = 0.95
    clip: Clip = 0.2
    value_coef: Coefficient = 0.1
    unfinished_penalty: Score = -3.0
    """Score of an answer that did not end within the limit, in place of its reward."""
    temperature: Temperature = 1.0
    max_new_tokens: Rows = 24


@check.arguments
def shape_rewards(
    scores: Float[Tensor, " B"],
    log_probs: Float[Tensor, "B T"],
    ref_log_probs: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    beta: float,
) -> Float[Tensor, "B T"]:
    """Reward of each token: its share of the KL penalty, and at the last real token (the EOS) the answer's score.

        r_t = −β (log π(y_t) − log π_ref(y_t)) + [t is last] · score

    Summed over t it is score − β·k1, one sample of the RLHF objective. The log-ratio is never clamped: that would
    bias the KL. Raises ValueError for wrong shapes, an empty row, NaN or β ≤ 0.
    """
    check.positive("beta", beta)
    check.has_dims("log_probs", log_probs, 2, "(B, T)")
    check.same_shape(log_probs=log_probs, ref_log_probs=ref_log_probs, mask=mask)
    if scores.shape != log_probs.shape[:1]:
        raise ValueError(f"scores: got shape {tuple(scores.shape)}, expected {tuple(log_probs.shape[:1])}, one a row")
    check.mask_rows("mask", mask)
    real = mask.bool()
    log_probs, ref_log_probs = log_probs.masked_fill(~real, 0.0), ref_log_probs.masked_fill(~real, 0.0)
    rewards = -beta * (log_probs - ref_log_probs)
    rewards = rewards.scatter_add(1, last_token_index(mask).unsqueeze(1), scores.to(rewards.dtype).unsqueeze(1))
    check.finite(rewards, scores=scores, log_probs=log_probs, ref_log_probs=ref_log_probs)
    return rewards


@check.arguments
def gae(
    rewards: Float[Tensor, "B T"],
    values: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    gamma: float = 1.0,
    lam: float = 0.95,
) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"]]:
    """Generalized advantage estimation (Schulman et al. 2016, eq. 16), in reward units.

        δ_t = r_t + γ V_{t+1} − V_t,      Â_t = δ_t + γλ Â_{t+1},      returns_t = Â_t + V_t

    The value after the last real token is 0. λ = 1 gives reward-to-go minus V, λ = 0 the TD error. Both results are 0
    at padding. Returns are made here, before any whitening of the advantages.
    """
    check.has_dims("rewards", rewards, 2, "(B, T)")
    check.same_shape(rewards=rewards, values=values, mask=mask)
    check.mask_rows("mask", mask)
    FRACTION.check("gamma", gamma)
    FRACTION.check("lam", lam)
    real = mask.bool()
    rewards, values = torch.where(real, rewards, 0), torch.where(real, values, 0)
    check.finite(rewards + values, rewards=rewards, values=values)
    advantage = next_value = torch.zeros_like(rewards[:, 0])
    backwards = []
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantage = torch.where(real[:, t], delta + gamma * lam * advantage, 0)
        next_value = values[:, t]
        backwards.append(advantage)
    advantages = torch.stack(backwards[::-1], dim=1)
    return advantages, advantages + values


@check.arguments
def clipped_policy_loss(
    log_probs: Float[Tensor, "B T"],
    old_log_probs: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    clip: float = 0.2,
) -> tuple[Float[Tensor, ""], Stats]:
    """PPO's clipped surrogate (Schulman et al. 2017, eq. 7), as a loss: the masked mean over tokens of

        max(−Â ρ, −Â clip(ρ, 1 − ε, 1 + ε)),      ρ = π(y_t) / π_old(y_t)

    Its gradient is zero exactly where ρ > 1 + ε with Â > 0, and where ρ < 1 − ε with Â < 0: a step that already went
    far in the right direction goes no further. At ρ = 1 it is REINFORCE's gradient with advantages Â.
    Stats (masked): clip_fraction, approx_kl (k3 of π_old to π, nats per token), ratio_deviation = max |ρ − 1|.
    """
    check.same_shape(log_probs=log_probs, old_log_probs=old_log_probs, advantages=advantages, mask=mask)
    check.mask_rows("mask", mask)
    check.positive("clip", clip)
    real = mask.bool()
    log_probs, old_log_probs, advantages = (torch.where(real, x, 0) for x in (log_probs, old_log_probs, advantages))
    log_ratio = log_probs - old_log_probs
    ratio = log_ratio.exp()
    unclipped, clipped = -advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip)
    surrogate = torch.maximum(unclipped, clipped)
    check.finite(surrogate + log_ratio, log_probs=log_probs, old_log_probs=old_log_probs, advantages=advantages)
    loss = masked_mean(surrogate, mask)
    with torch.no_grad():
        _, _, k3 = kl_estimators(old_log_probs, log_probs)
        stats = {
            "clip_fraction": masked_mean((clipped > unclipped).float(), mask).item(),
            "approx_kl": masked_mean(k3, mask).item(),
            "ratio_deviation": (ratio - 1).abs().max().item(),
        }
    return loss, stats


@check.arguments
def clipped_value_loss(
    values: Float[Tensor, "B T"],
    old_values: Float[Tensor, "B T"],
    returns: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    clip: float = 0.2,
) -> tuple[Float[Tensor, ""], Stats]:
    """Squared error of the value function, with the new value held near the old one: the masked mean over tokens of

        ½ max((V − R)², (clip(V, V_old − ε, V_old + ε) − R)²)

    The maximum is the pessimistic choice, as in the policy loss. Stats (masked): value_clip_fraction.
    """
    check.same_shape(values=values, old_values=old_values, returns=returns, mask=mask)
    check.mask_rows("mask", mask)
    check.positive("clip", clip)
    real = mask.bool()
    values, old_values, returns = (torch.where(real, x, 0) for x in (values, old_values, returns))
    near_old = torch.clamp(values, old_values - clip, old_values + clip)
    free, held = (values - returns) ** 2, (near_old - returns) ** 2
    worse = torch.maximum(free, held)
    check.finite(worse, values=values, old_values=old_values, returns=returns)
    loss = 0.5 * masked_mean(worse, mask)
    return loss, {"value_clip_fraction": masked_mean((held > free).float(), mask).item()}


@dataclass
class AdaptiveKL:
    """Controller that moves β until the KL per answer is at `target` nats (Ziegler et al. 2019, section 2.2)."""

    beta: float
    target: float
    horizon: float

    def __post_init__(self) -> None:
        """Raise ValueError unless all three are positive."""
        for name in ("beta", "target", "horizon"):
            check.positive(name, getattr(self, name))

    def check_horizon(self, n_episodes: int) -> None:
        """Raise ValueError where β could become 0 or negative in one update: for n ≥ 5 · horizon."""
        if 0.2 * n_episodes >= self.horizon:
            raise ValueError(
                f"horizon: got {self.horizon!r}, expected more than {n_episodes / 5:g}, a fifth of the {n_episodes} "
                "answers of a step: else β could fall to 0 at once"
            )

    def update(self, kl: float, n_episodes: int) -> float:
        """β ← β (1 + clip(KL/target − 1, −0.2, 0.2) · n/horizon), after n answers with this mean KL; returns β."""
        check.whole("n_episodes", n_episodes)
        self.check_horizon(n_episodes)
        if not (isinstance(kl, float | int) and math.isfinite(kl)):
            raise ValueError(f"kl: got {kl!r}, expected a finite number of nats per answer")
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        self.beta *= 1 + error * n_episodes / self.horizon
        return self.beta


class PolicyWithValue(nn.Module):
    """A policy and a value function on one trunk: V_t is read where token t is predicted, before it is known.

    A separate critic would cost a second model. The value head starts at zero: V = 0, an honest "don't know".
    """

    @check.arguments
    def __init__(self, causal_lm: nn.Module) -> None:
        super().__init__()
        check.language_model("causal_lm", causal_lm)
        language_model: Any = causal_lm
        self.policy = language_model
        width: int = language_model.config.hidden_size
        self.value_head = nn.Linear(width, 1)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)

    @check.arguments
    def forward(self, answers: Rollout, temperature: float = 1.0) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"]]:
        """Log-probabilities of the sampled tokens, in nats, and values, in reward units."""
        *_, tokens, mask = batch = without_spare_columns(
            answers.prompts, answers.prompt_mask, answers.responses, answers.response_mask
        )
        read: list[Tensor] = []  # where the head reads: the last hidden states of the columns that predict
        head = self.policy.get_output_embeddings()
        with head.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0])):
            logits = response_forward(self.policy, *batch).logits
        log_probs = token_log_probs(logits / temperature, tokens).masked_fill(~mask, 0.0)
        values = self.value_head(read[0].to(self.value_head.weight.dtype)).squeeze(-1).float()
        behind = (0, answers.responses.shape[1] - tokens.shape[1])
        return F.pad(log_probs, behind), F.pad(values, behind)


@dataclass(frozen=True)
class Experience(Rollout):
    """Sampled answers with what was found about them before the first update."""

    values: Float[Tensor, "B T"]
    advantages: Float[Tensor, "B T"]
    returns: Float[Tensor, "B T"]


@check.arguments
def ppo_update(
    actor: PolicyWithValue,
    optimizer: torch.optim.Optimizer,
    rollout: Rollout,
    old_values: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B T"],
    returns: Float[Tensor, "B T"],
    config: PPOConfig,
    generator: torch.Generator | None = None,
) -> Stats:
    """`epochs` passes over one batch of answers, each in `minibatches` gradient steps on policy and value loss.

    Returns stats averaged over the gradient steps, but for first_ratio_deviation = max |ρ − 1| on the first of them,
    before any weight changed: it must be rounding error. If it is not, answers were sampled from another distribution
    than the one that is scored.
    """
    check.some(rollout=rollout)
    check.same_shape(log_probs=rollout.log_probs, old_values=old_values, advantages=advantages, returns=returns)
    experience = Experience(**vars(rollout), values=old_values, advantages=advantages, returns=returns)

    def loss(batch: Experience) -> tuple[Tensor, Stats]:
        mask = batch.response_mask
        log_probs, values = actor(batch, config.temperature)
        policy_loss, policy_stats = clipped_policy_loss(log_probs, batch.log_probs, batch.advantages, mask, config.clip)
        value_loss, value_stats = clipped_value_loss(values, batch.values, batch.returns, mask, config.clip)
        losses = {"policy_loss": policy_loss.item(), "value_loss": value_loss.item()}
        return policy_loss + config.value_coef * value_loss, {**losses, **policy_stats, **value_stats}

    steps: list[Stats] = []
    for _ in range(config.epochs):
        order = torch.randperm(len(rollout), generator=generator, device=rollout.responses.device)
        for index in order.chunk(config.minibatches):
            batch = experience.rows(index)
            steps.append(gradient_step(loss, batch, actor, optimizer, maxima=("ratio_deviation",)))
    means = {name: sum(step[name] for step in steps) / len(steps) for name in AVERAGED}
    return {**means, "first_ratio_deviation": steps[0]["ratio_deviation"]}


@check.arguments
def train_ppo(
    actor: PolicyWithValue,
    reference: nn.Module,
    reward: Callable[[Rollout], Float[Tensor, " B"]],
    prompts: Int[Tensor, "N P"],
    prompt_mask: Bool[Tensor, "N P"],
    optimizer: torch.optim.Optimizer,
    controller: AdaptiveKL,
    config: PPOConfig,
    seed: int,
    start: int = 0,
) -> Iterator[tuple[Stats, Rollout]]:
    """PPO's loop; `actor` and `controller.beta` change in place. After each step yields its metrics and its answers.

    sample → score → shape the rewards → advantages → clipped updates → move β (if `config.target_kl` is set).
    `reward` scores whole answers. The metrics describe the policy before the step's update (`ppo_metrics`), and the
    update itself (`ppo_update`).
    """
    check.whole("start", start, 0)
    if reference in (actor, actor.policy):
        raise ValueError("reference: got the policy that is trained, expected a frozen copy: its KL would always be 0")
    actor.eval()  # no dropout: the first ratio must be 1

    for step in range(start, config.steps):
        index = minibatch(len(prompts), config.batch_size, step, seed)
        generator = generator_for(seed, step, prompts.device)
        rollout = sample(
            actor.policy, prompts[index], prompt_mask[index], config.max_new_tokens, config.temperature, generator
        )
        mask, beta = rollout.response_mask, controller.beta
        scores, ref_log_probs, values = appraise(rollout, actor, reference, reward, config)
        rewards = shape_rewards(scores, rollout.log_probs, ref_log_probs, mask, beta)
        advantages, returns = gae(rewards, values, mask, config.gamma, config.lam)
        metrics = ppo_metrics(rollout, scores, ref_log_probs, advantages, returns, beta)

        set_learning_rate(optimizer, config.learning_rate, step, config.steps)
        whitened = masked_whiten(advantages, mask)
        stats = ppo_update(actor, optimizer, rollout, values, whitened, returns, config, generator)
        if config.target_kl is not None:
            controller.update(metrics["kl"], len(rollout))
        yield {"step": step, **metrics, **stats, "tokens": rollout.tokens}, rollout


@torch.no_grad()
def appraise(
    rollout: Rollout,
    actor: PolicyWithValue,
    reference: nn.Module,
    reward: Callable[[Rollout], Float[Tensor, " B"]],
    config: PPOConfig,
) -> tuple[Float[Tensor, " B"], Float[Tensor, "B T"], Float[Tensor, "B T"]]:
    """What sampled answers are worth before an update: scores, log π_ref of each token, values.

    An answer that did not end scores `config.unfinished_penalty` in place of its reward.
    """

    def of_part(part: Rollout) -> tuple[Tensor, Tensor, Tensor]:
        ref_log_probs = response_log_probs(
            reference, part.prompts, part.prompt_mask, part.responses, part.response_mask, config.temperature
        )
        _, values = actor(part, config.temperature)
        return torch.where(part.finished, reward(part), config.unfinished_penalty), ref_log_probs, values

    scores, ref_log_probs, values = in_parts(of_part, rollout, actor)
    return scores, ref_log_probs, values


def ppo_metrics(
    rollout: Rollout,
    scores: Float[Tensor, " B"],
    ref_log_probs: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B T"],
    returns: Float[Tensor, "B T"],
    beta: float,
) -> Stats:
    """Means over the answers of a step, before its update.

    score, kl (k1 summed over an answer, nats), objective = score − β·kl, entropy (nats per token, estimated by −log π
    of the sampled tokens), length (tokens), finished (share), and the share of the returns' variance that the values
    explain: 1 − Var[Â]/Var[returns], before whitening.
    """
    mask = rollout.response_mask
    k1, _, _ = kl_estimators(rollout.log_probs, ref_log_probs)
    score, kl = scores.mean().item(), k1.sum(-1).mean().item()
    unexplained = masked_mean((advantages - masked_mean(advantages, mask)) ** 2, mask)
    variance = masked_mean((returns - masked_mean(returns, mask)) ** 2, mask)
    return {
        "score": score,
        "kl": kl,
        "objective": score - beta * kl,
        "beta": beta,
        "entropy": -masked_mean(rollout.log_probs, mask).item(),
        "length": mask.sum(-1).float().mean().item(),
        "finished": rollout.finished.float().mean().item(),
        "explained_variance": 1 - (unexplained / variance.clamp_min(1e-8)).item(),
    }
