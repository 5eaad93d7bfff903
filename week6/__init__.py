"""Week 6: Alignment and Chatbots. The tested implementations behind the notebooks.

The course, in reading order: preferences (01), reward_model (02), objective (03), ppo (04, 05), dpo (06), sft (00, 08),
group and verifiable (09); exact is the enumerable world in which they are held to the optimum. They stand on sequences
(texts as padded tokens), log_probs and sampling.

Its rooms: machine (where and how it is computed, files, the gradient step), tasks (prompts, answers, gold rewards),
pictures (drawings of numbers), run (a run from top to bottom), chat, classroom (what the notebooks use beside the
course), checks (the graders), recorded (tables of long runs). Imports point down only; the contract "rooms" in
pyproject.toml holds them to it.
"""

from week6.machine import start as start  # settles, before PyTorch is loaded, what must be settled then

# isort: split
from week6.dpo import DPOConfig, DPOOutput, dpo_gradient_weight, dpo_loss, implicit_reward, pair_log_probs, train_dpo
from week6.exact import ExactReport, ExactWorld, expected_dpo_loss, small_world
from week6.log_probs import masked_mean, masked_whiten, position_ids, response_log_probs, token_log_probs
from week6.machine.optim import descend, generator_for, make_optimizer, minibatch
from week6.objective import (
    best_of_n_kl_bound,
    best_of_n_policy,
    kl_divergence,
    kl_estimators,
    optimal_policy,
    rlhf_objective,
)
from week6.ppo import (
    AdaptiveKL,
    PolicyWithValue,
    PPOConfig,
    clipped_policy_loss,
    clipped_value_loss,
    gae,
    ppo_update,
    shape_rewards,
    train_ppo,
)
from week6.preferences import (
    bayes_accuracy,
    bradley_terry_loss,
    fit_bradley_terry,
    plackett_luce_log_prob,
    preference_probability,
    sample_preferences,
)
from week6.reward_model import (
    RewardConfig,
    RewardModel,
    expected_accuracy,
    last_token_index,
    pair_accuracy,
    pair_agreement,
    pair_scores,
    score,
    train_reward_model,
)
from week6.sampling import sample
from week6.sequences import (
    Demonstrations,
    Pairs,
    Rollout,
    decode,
    encode_demonstrations,
    encode_pairs,
    encode_prompts,
    left_pad,
    pair_rollouts,
    right_pad,
)
from week6.sft import SFTConfig, sft_loss, train_sft

__all__ = [
    "AdaptiveKL",
    "DPOConfig",
    "DPOOutput",
    "Demonstrations",
    "ExactReport",
    "ExactWorld",
    "PPOConfig",
    "Pairs",
    "PolicyWithValue",
    "RewardConfig",
    "RewardModel",
    "Rollout",
    "SFTConfig",
    "bayes_accuracy",
    "best_of_n_kl_bound",
    "best_of_n_policy",
    "bradley_terry_loss",
    "clipped_policy_loss",
    "clipped_value_loss",
    "decode",
    "descend",
    "dpo_gradient_weight",
    "dpo_loss",
    "encode_demonstrations",
    "encode_pairs",
    "encode_prompts",
    "expected_accuracy",
    "expected_dpo_loss",
    "fit_bradley_terry",
    "gae",
    "generator_for",
    "implicit_reward",
    "kl_divergence",
    "kl_estimators",
    "last_token_index",
    "left_pad",
    "make_optimizer",
    "masked_mean",
    "masked_whiten",
    "minibatch",
    "optimal_policy",
    "pair_accuracy",
    "pair_agreement",
    "pair_log_probs",
    "pair_rollouts",
    "pair_scores",
    "plackett_luce_log_prob",
    "position_ids",
    "ppo_update",
    "preference_probability",
    "response_log_probs",
    "right_pad",
    "rlhf_objective",
    "sample",
    "sample_preferences",
    "score",
    "sft_loss",
    "shape_rewards",
    "small_world",
    "token_log_probs",
    "train_dpo",
    "train_ppo",
    "train_reward_model",
    "train_sft",
]

start.loaded()
