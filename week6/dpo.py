"""Direct preference optimization: the language model is its own reward model (Rafailov et al. 2023).

From π*(y|x) = π_ref(y|x) exp(r(x,y)/β)/Z(x) follows r(x,y) = β log π*(y|x)/π_ref(y|x) + β log Z(x). In a Bradley–Terry
comparison of two answers to the same prompt Z(x) cancels, so the preferences can be fitted by π itself.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from week6.log_probs import response_log_probs
from week6.machine import validate as check
from week6.machine.bounds import SMOOTHING, Count, Leash, Rate, Rows, Smoothing
from week6.machine.compute import in_parts
from week6.machine.optim import Stats, gradient_step, minibatch, set_learning_rate
from week6.sequences import Pairs
from week6.shared_prompt import share_prompts

Variant = Literal["sigmoid", "ipo"]


@dataclass(frozen=True)
class DPOConfig:
    """The strength of the leash β (reward units per nat) and how long and how fast to train."""

    steps: Count = 300
    batch_size: Rows = 64
    learning_rate: Rate = 3e-4
    beta: Leash = 0.1
    label_smoothing: Smoothing = 0.0
    variant: Variant = "sigmoid"


class DPOOutput(NamedTuple):
    """What `dpo_loss` returns; the rewards are implicit ones, detached."""

    loss: Float[Tensor, " B"]
    chosen_rewards: Float[Tensor, " B"]
    rejected_rewards: Float[Tensor, " B"]


@check.arguments
def implicit_reward(
    log_probs: Float[Tensor, "*B"], ref_log_probs: Float[Tensor, "*B"], beta: float
) -> Float[Tensor, "*B"]:
    """r̂ = β (log π(y|x) − log π_ref(y|x)), in reward units: the reward for which π would be optimal.

    Known up to β log Z(x), which depends on the prompt alone (DPO, eq. 5). Of whole answers (summed log-probabilities)
    or per token.
    """
    check.positive("beta", beta)
    check.same_shape(log_probs=log_probs, ref_log_probs=ref_log_probs)
    reward = beta * (log_probs - ref_log_probs)
    check.finite(reward, log_probs=log_probs, ref_log_probs=ref_log_probs)
    return reward


@check.arguments
def dpo_loss(
    policy_chosen: Float[Tensor, " B"],
    policy_rejected: Float[Tensor, " B"],
    ref_chosen: Float[Tensor, " B"],
    ref_rejected: Float[Tensor, " B"],
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    variant: Variant = "sigmoid",
) -> DPOOutput:
    """DPO's loss per pair, in nats (Rafailov et al. 2023, eq. 7), from *summed* log-probabilities log π(y|x).

        h = (log π(y_w) − log π_ref(y_w)) − (log π(y_l) − log π_ref(y_l))
        "sigmoid":  −(1 − ε) log σ(βh) − ε log σ(−βh)       ε = label_smoothing; ε > 0 is cDPO (Mitchell 2023)
        "ipo":      (h − 1/(2β))²                            Azar et al. 2023, eq. 17

    ε is the assumed share of flipped labels, 0 ≤ ε < 1/2. Raises ValueError for different shapes, NaN, β ≤ 0, an ε out
    of range or an unknown variant.
    """
    check.same_shape(
        policy_chosen=policy_chosen, policy_rejected=policy_rejected, ref_chosen=ref_chosen, ref_rejected=ref_rejected
    )
    check.filled(policy_chosen=policy_chosen)
    check.finite(
        policy_chosen - ref_chosen - (policy_rejected - ref_rejected),
        policy_chosen=policy_chosen,
        policy_rejected=policy_rejected,
        ref_chosen=ref_chosen,
        ref_rejected=ref_rejected,
    )
    check_variant(variant, label_smoothing)
    chosen_rewards = implicit_reward(policy_chosen, ref_chosen, beta)
    rejected_rewards = implicit_reward(policy_rejected, ref_rejected, beta)
    margin = chosen_rewards - rejected_rewards  # βh
    if variant == "ipo":
        loss = (margin / beta - 1 / (2 * beta)) ** 2
    else:
        loss = -(1 - label_smoothing) * F.logsigmoid(margin) - label_smoothing * F.logsigmoid(-margin)
    return DPOOutput(loss, chosen_rewards.detach(), rejected_rewards.detach())


def check_variant(variant: str, label_smoothing: float) -> None:
    """Raise ValueError for an unknown variant of the loss, an ε out of range, and one with "ipo", which has none."""
    check.one_of("variant", variant, ("sigmoid", "ipo"))
    SMOOTHING.check("label_smoothing", label_smoothing)
    if variant == "ipo" and label_smoothing:
        raise ValueError(f"label_smoothing: got {label_smoothing!r} with variant 'ipo', which has none; expected 0")


@check.arguments
def dpo_gradient_weight(
    chosen_rewards: Float[Tensor, " B"], rejected_rewards: Float[Tensor, " B"]
) -> Float[Tensor, " B"]:
    """How much each pair pulls: σ(r̂_l − r̂_w), near 1 where the implicit rewards rank the pair wrongly.

    ∇L = −β σ(r̂_l − r̂_w) [∇ log π(y_w|x) − ∇ log π(y_l|x)]       (DPO, section 4)
    """
    check.same_shape(chosen_rewards=chosen_rewards, rejected_rewards=rejected_rewards)
    difference = rejected_rewards - chosen_rewards
    check.finite(difference, chosen_rewards=chosen_rewards, rejected_rewards=rejected_rewards)
    return torch.sigmoid(difference)


@check.arguments
def pair_log_probs(model: nn.Module, pairs: Pairs) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """log π(y_w|x) and log π(y_l|x): summed over the answer's tokens, both answers in one forward pass."""
    check.some(pairs=pairs)
    shared, both = share_prompts(model, pairs), pairs.stacked()
    if shared is not None:
        log_probs = shared.log_probs(model)
    else:
        log_probs = response_log_probs(model, both.prompts, both.prompt_mask, both.responses, both.response_mask)
    chosen, rejected = log_probs.sum(-1).chunk(2)
    return chosen, rejected


@torch.no_grad()
def reference_log_probs(
    reference: nn.Module, pairs: Pairs, batch_size: int = 64
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """`pair_log_probs` of the frozen reference for all pairs: computed once, used in every epoch."""
    chosen, rejected = in_parts(lambda part: pair_log_probs(reference, part), pairs, reference, batch_size)
    return chosen, rejected


@dataclass(frozen=True)
class ReferencedPairs(Pairs):
    """Preference pairs with log π_ref(y_w|x) and log π_ref(y_l|x)."""

    ref_chosen: Float[Tensor, " N"]
    ref_rejected: Float[Tensor, " N"]


@check.arguments
def train_dpo(
    policy: nn.Module,
    reference: nn.Module,
    optimizer: torch.optim.Optimizer,
    pairs: Pairs,
    config: DPOConfig,
    seed: int,
    start: int = 0,
) -> Iterator[dict[str, float]]:
    """Fine-tune `policy` in place on preference pairs; yields the metrics of each step, taken before its update.

    The reference reads them before the first step; `ReferencedPairs` say already what it says.
    """
    check.whole("start", start, 0)
    check.some(pairs=pairs)
    policy.eval()  # no dropout: policy and reference must agree where they have the same weights
    if isinstance(pairs, ReferencedPairs):
        data = pairs
    else:
        ref_chosen, ref_rejected = reference_log_probs(reference, pairs)
        data = ReferencedPairs(**vars(pairs), ref_chosen=ref_chosen, ref_rejected=ref_rejected)

    def loss(batch: ReferencedPairs) -> tuple[Tensor, Stats]:
        chosen, rejected = pair_log_probs(policy, batch)
        output = dpo_loss(
            chosen,
            rejected,
            batch.ref_chosen,
            batch.ref_rejected,
            config.beta,
            config.label_smoothing,
            config.variant,
        )
        return output.loss.mean(), dpo_metrics(chosen, rejected, output)

    for step in range(start, config.steps):
        batch = data.rows(minibatch(len(pairs), config.batch_size, step, seed))
        set_learning_rate(optimizer, config.learning_rate, step, config.steps)
        stats = gradient_step(loss, batch, policy, optimizer)
        yield {"step": step, **stats, "tokens": batch.tokens}


def dpo_metrics(chosen: Float[Tensor, " B"], rejected: Float[Tensor, " B"], output: DPOOutput) -> Stats:
    """Means over the pairs of a step: implicit rewards, their margin and accuracy, log π of both answers, the weight.

    `chosen` and `rejected` are the policy's log-probabilities, in nats. A tie of the rewards counts as wrong.
    """
    _, chosen_rewards, rejected_rewards = output
    return {
        "chosen_reward": chosen_rewards.mean().item(),
        "rejected_reward": rejected_rewards.mean().item(),
        "margin": (chosen_rewards - rejected_rewards).mean().item(),
        "accuracy": (chosen_rewards > rejected_rewards).float().mean().item(),
        "chosen_log_prob": chosen.mean().item(),
        "rejected_log_prob": rejected.mean().item(),
        "gradient_weight": dpo_gradient_weight(chosen_rewards, rejected_rewards).mean().item(),
    }
