"""Policy gradients without a critic: the other answers to the same prompt are the baseline (RLOO, GRPO).

PPO learns a value function to say how good an answer is *for this prompt*. With K answers to every prompt their mean
reward says it too: no value head, no GAE, and the whole answer is one action. Rewards are (B, K): B prompts, K answers
each, one number an answer.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from week6.log_probs import masked_mean, response_log_probs
from week6.machine import validate as check
from week6.machine.bounds import Clip, Coefficient, Count, Few, Positive, Rate, Rows, Spread, Temperature
from week6.machine.compute import in_parts
from week6.machine.optim import Stats, generator_for, gradient_step, minibatch, set_learning_rate
from week6.objective import kl_estimators
from week6.sampling import sample
from week6.sequences import Rollout

Mean = Literal["answer", "token", "sum"]


@dataclass(frozen=True)
class GRPOConfig:
    """One step samples `answers` answers to each of `prompts` prompts; `epochs` × `minibatches` gradient steps on them.

    The values are those of GRPO (Shao et al. 2024), but for one update a batch. RLOO (Ahmadian et al. 2024) has
    advantages "rloo", kl "reward", mean "sum"; Dr. GRPO (Liu et al. 2025) advantages "rloo" (up to a factor), mean
    "sum", β = 0; DAPO (Yu et al. 2025) mean "token", clip_high 0.28, β = 0.
    """

    steps: Count = 60
    prompts: Rows = 32
    answers: Spread = 8
    epochs: Few = 1
    minibatches: Few = 1
    learning_rate: Rate = 1e-3
    advantages: Literal["rloo", "grpo"] = "grpo"
    mean: Mean = "answer"
    """What the loss averages over: see `group_policy_loss`."""
    clip_low: Clip = 0.2
    clip_high: Positive = 0.2
    beta: Coefficient = 0.04
    """Reward units per nat of KL to the reference."""
    kl: Literal["loss", "reward"] = "loss"
    """Where the KL stands: k3 of each token in the loss, or k1 of the whole answer taken off its reward."""
    temperature: Temperature = 1.0
    max_new_tokens: Rows = 24


@check.arguments
def rloo_advantages(rewards: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
    """REINFORCE leave-one-out: reward minus the mean of the *other* K − 1 (Kool et al. 2019; Ahmadian et al. 2024).

        Â_i = r_i − 1/(K−1) Σ_{j≠i} r_j

    The baseline does not depend on answer i, so that Σ_i Â_i ∇log π(y_i)/K is an unbiased estimate of ∇E[r].
    Raises ValueError for K < 2.
    """
    _check(rewards)
    k = rewards.shape[1]
    others = (rewards.sum(1, keepdim=True) - rewards) / (k - 1)
    return rewards - others


@check.arguments
def grpo_advantages(rewards: Float[Tensor, "B K"], eps: float = 1e-4) -> Float[Tensor, "B K"]:
    """Group-relative advantages: mean 0 and standard deviation 1 within each group (Shao et al. 2024, section 4.1.2).

        Â_i = (r_i − mean r)/(std r + ε),      std with K − 1

    Dividing by the standard deviation weights prompts by how much their answers agree: the expected gradient is not
    that of E[r]. Where all K rewards are equal, Â = 0. Raises ValueError for K < 2.
    """
    _check(rewards)
    check.count("eps", eps)
    spread = (rewards.std(1, keepdim=True) + eps).clamp_min(torch.finfo(rewards.dtype).tiny)  # 0/0 is 0 here
    return (rewards - rewards.mean(1, keepdim=True)) / spread


def _check(rewards: Tensor) -> None:
    check.has_dims("rewards", rewards, 2, "(B, K)")
    check.finite(rewards, rewards=rewards)
    if rewards.shape[1] < 2:
        raise ValueError(f"rewards: got K = {rewards.shape[1]} answers to each prompt, expected at least 2")


@check.arguments
def group_policy_loss(
    log_probs: Float[Tensor, "B T"],
    old_log_probs: Float[Tensor, "B T"],
    advantages: Float[Tensor, " B"],
    mask: Bool[Tensor, "B T"],
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    mean: Mean = "answer",
) -> tuple[Float[Tensor, ""], Stats]:
    """PPO's clipped surrogate with one advantage an answer, as a loss; of each token

        s_t = max(−Â ρ_t, −Â clip(ρ_t, 1 − ε_low, 1 + ε_high)),      ρ_t = π(y_t) / π_old(y_t)

    ε_high > ε_low ("clip-higher", Yu et al. 2025, DAPO, section 3.1) lets improbable tokens rise further. `mean` is

        answer   1/B Σ_i 1/|y_i| Σ_t s_it      GRPO: a token of a long answer counts less
        token    Σ_i Σ_t s_it / Σ_i |y_i|      DAPO, section 3.3: every token of the batch counts the same
        sum      1/B Σ_i Σ_t s_it              RLOO, Dr. GRPO (Liu et al. 2025): the gradient of log π(y), summed

    At ρ = 1 "sum" is REINFORCE's gradient with advantages Â. Stats (masked, per token): clip_fraction,
    ratio_deviation = max |ρ − 1|.
    """
    check.same_shape(log_probs=log_probs, old_log_probs=old_log_probs, mask=mask)
    check.mask_rows("mask", mask)
    if advantages.shape != log_probs.shape[:1]:
        raise ValueError(f"advantages: got shape {tuple(advantages.shape)}, expected {tuple(log_probs.shape[:1])}")
    check.positive("clip_low", clip_low)
    check.positive("clip_high", clip_high)
    real = mask.bool()
    ratio = torch.where(real, log_probs - old_log_probs, 0).exp()
    unclipped = -advantages.unsqueeze(1) * ratio
    clipped = -advantages.unsqueeze(1) * ratio.clamp(1 - clip_low, 1 + clip_high)
    surrogate = torch.maximum(unclipped, clipped)
    check.finite(surrogate, log_probs=log_probs, old_log_probs=old_log_probs, advantages=advantages)
    with torch.no_grad():
        stats = {
            "clip_fraction": masked_mean((clipped > unclipped).float(), mask).item(),
            "ratio_deviation": (ratio - 1).abs().max().item(),
        }
    return mean_over(surrogate, mask, mean), stats


@check.arguments
def mean_over(x: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], mean: Mean) -> Float[Tensor, ""]:
    """The three means of `group_policy_loss`, of any number a token."""
    check.one_of("mean", mean, ("answer", "token", "sum"))
    if mean == "token":
        return masked_mean(x, mask)
    of_answers = masked_mean(x, mask, 1)
    return (of_answers if mean == "answer" else of_answers * mask.sum(1)).mean()


@dataclass(frozen=True)
class Graded(Rollout):
    """Sampled answers with what was found about them before the first update."""

    advantages: Float[Tensor, " B"]
    ref_log_probs: Float[Tensor, "B T"]
    share: Float[Tensor, " B"]
    """What each answer counts in the mean of the loss: its tokens, or 1."""

    @property
    def weights(self) -> Float[Tensor, " B"]:
        """What each row counts in the mean of the loss."""
        return self.share


@check.arguments
def train_grpo(
    policy: nn.Module,
    reference: nn.Module,
    reward: Callable[[Rollout], Float[Tensor, " B"]],
    prompts: Int[Tensor, "N P"],
    prompt_mask: Bool[Tensor, "N P"],
    optimizer: torch.optim.Optimizer,
    config: GRPOConfig,
    seed: int,
    start: int = 0,
) -> Iterator[tuple[Stats, Rollout]]:
    """GRPO's loop; `policy` changes in place. After each step yields its metrics and its answers.

    sample K answers to each prompt → reward → advantages within the group → clipped updates. `reward` scores whole
    answers; one that did not end earns 0. The metrics describe the policy before the step's update: reward, kl (k1
    summed over an answer, nats), entropy (nats per token), length (tokens), mixed (share of groups whose rewards
    differ: the others have no gradient); then the update's own.
    """
    check.whole("start", start, 0)
    policy.eval()  # no dropout: the first ratio must be 1

    for step in range(start, config.steps):
        index = minibatch(len(prompts), config.prompts, step, seed).repeat_interleave(config.answers)
        generator = generator_for(seed, step, prompts.device)
        rollout = sample(
            policy, prompts[index], prompt_mask[index], config.max_new_tokens, config.temperature, generator
        )
        mask = rollout.response_mask
        rewards, ref_log_probs = _appraise(rollout, reference, reward, config)
        if rewards.shape != rollout.finished.shape:
            raise ValueError(
                f"reward: got shape {tuple(rewards.shape)}, expected {tuple(rollout.finished.shape)}, one an answer"
            )
        k1 = (rollout.log_probs - ref_log_probs).sum(-1)
        shaped = (rewards - config.beta * k1 if config.kl == "reward" else rewards).view(-1, config.answers)
        advantages = rloo_advantages(shaped) if config.advantages == "rloo" else grpo_advantages(shaped)
        share = (mask if config.mean == "token" else mask.any(1, keepdim=True)).sum(1).float()
        batch = Graded(**vars(rollout), advantages=advantages.flatten(), ref_log_probs=ref_log_probs, share=share)

        set_learning_rate(optimizer, config.learning_rate, step, config.steps)
        stats = grpo_update(policy, optimizer, batch, config, generator)
        groups = rewards.view(-1, config.answers)
        metrics = {
            "reward": rewards.mean().item(),
            "kl": k1.mean().item(),
            "entropy": -masked_mean(rollout.log_probs, mask).item(),
            "length": mask.sum(-1).float().mean().item(),
            "mixed": (groups.amax(1) > groups.amin(1)).float().mean().item(),
        }
        yield {"step": step, **metrics, **stats, "tokens": rollout.tokens}, rollout


def grpo_update(
    policy: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Graded,
    config: GRPOConfig,
    generator: torch.Generator | None = None,
) -> Stats:
    """`epochs` passes over one batch of answers, in `minibatches` gradient steps each; stats averaged over these.

    first_ratio_deviation = max |ρ − 1| on the first of them must be rounding error (see `week6.ppo.ppo_update`).
    """

    def loss(part: Graded) -> tuple[Tensor, Stats]:
        mask = part.response_mask
        log_probs = response_log_probs(policy, part.prompts, part.prompt_mask, part.responses, mask, config.temperature)
        value, stats = group_policy_loss(
            log_probs, part.log_probs, part.advantages, mask, config.clip_low, config.clip_high, config.mean
        )
        if config.kl == "loss":
            _, _, k3 = kl_estimators(log_probs, part.ref_log_probs)
            value = value + config.beta * mean_over(k3, mask, config.mean)
        return value, stats

    steps: list[Stats] = []
    for _ in range(config.epochs):
        order = torch.randperm(len(batch), generator=generator, device=batch.responses.device)
        for index in order.chunk(config.minibatches):
            steps.append(gradient_step(loss, batch.rows(index), policy, optimizer, maxima=("ratio_deviation",)))
    means = {name: sum(s[name] for s in steps) / len(steps) for name in ("loss", "clip_fraction", "grad_norm")}
    return {**means, "first_ratio_deviation": steps[0]["ratio_deviation"]}


@torch.no_grad()
def _appraise(
    rollout: Rollout, reference: nn.Module, reward: Callable[[Rollout], Float[Tensor, " B"]], config: GRPOConfig
) -> tuple[Float[Tensor, " B"], Float[Tensor, "B T"]]:
    """Rewards of sampled answers, 0 for one that did not end, and log π_ref of each token."""

    def of_part(part: Rollout) -> tuple[Tensor, Tensor]:
        ref_log_probs = response_log_probs(
            reference, part.prompts, part.prompt_mask, part.responses, part.response_mask, config.temperature
        )
        return torch.where(part.finished, reward(part), 0.0), ref_log_probs

    rewards, ref_log_probs = in_parts(of_part, rollout, reference)
    return rewards, ref_log_probs
