"""Advantages without a critic: the other answers to the same prompt are the baseline.

PPO learns a value function to say how good an answer is *for this prompt*. With K answers to every prompt their mean
reward says it too: no value head, no GAE. Rewards are (B, K): B prompts, K answers each, one number an answer.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from week6.machine import validate as check


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
