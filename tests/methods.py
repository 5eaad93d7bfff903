"""Two steps of every method on a tiny model, for the tests of where and how they are computed."""

import copy

import torch
from torch import Tensor

from tests.tiny import ragged, ragged_pairs, tiny_gpt2
from week6.dpo import DPOConfig, train_dpo
from week6.log_probs import response_log_probs
from week6.ppo import AdaptiveKL, PolicyWithValue, PPOConfig, train_ppo
from week6.reward_model import RewardConfig, RewardModel, train_reward_model
from week6.sequences import Demonstrations, Rollout
from week6.sft import SFTConfig, train_sft

METHODS = ("sft", "reward_model", "dpo", "one_pair", "ppo")
STEPS, RATE = 2, 0.5
Result = tuple[list[dict[str, float]], dict[str, Tensor]]


def base(dtype: torch.dtype = torch.float32, seed: int = 1):
    return tiny_gpt2(seed=seed, scale=0.25, dtype=dtype)


def answers_of(rows: int = 6) -> Demonstrations:
    return Demonstrations(*ragged([1 + i % 3 for i in range(rows)], [1 + i % 5 for i in range(rows)]))


def log_probs_of(model, answers=None):
    batch = answers or answers_of()
    return response_log_probs(model, batch.prompts, batch.prompt_mask, batch.responses, batch.response_mask)


def sgd(model):
    """An optimizer whose steps are the gradients: Adam would hide their length and enlarge their rounding errors."""
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=RATE)


def count_threes(rollout: Rollout) -> Tensor:
    return ((rollout.responses == 3) & rollout.response_mask).sum(-1).float()


def steps_of(method: str, dtype: torch.dtype = torch.float32, prepare=lambda model: None, clip: float = 0.1) -> Result:
    """Metrics of each step, and the weights and sampled tokens at the end. `prepare` gets the model that is trained."""
    policy, tensors = base(dtype), {}
    if method == "sft":
        prepare(policy)
        model, data = policy, Demonstrations(*ragged([1, 2, 3, 2, 1, 3, 2], [1, 2, 5, 3, 4, 6, 1]))
        rows = list(train_sft(policy, sgd(policy), data, SFTConfig(STEPS, 5, RATE), seed=3))
    elif method == "reward_model":
        torch.manual_seed(0)
        model = RewardModel(policy).to(dtype)
        prepare(model)
        pairs = ragged_pairs([1, 2, 3, 2, 1, 3, 2], [1, 2, 5, 3, 4, 6, 1], [3, 2, 2, 6, 1, 1, 4])
        rows = list(train_reward_model(model, sgd(model), pairs, RewardConfig(STEPS, 5, RATE), seed=3))
    elif method in ("dpo", "one_pair"):  # fewer pairs than processes: one has nothing to do
        prepare(policy)
        model, pairs = policy, ragged_pairs([1, 2, 3, 2, 1, 3, 2], [1, 2, 5, 3, 4, 6, 1], [3, 2, 2, 6, 1, 1, 4])
        config = DPOConfig(STEPS, 5 if method == "dpo" else 1, RATE, beta=0.5)
        rows = list(train_dpo(policy, base(dtype, seed=2), sgd(policy), pairs, config, seed=3))
    else:
        model = PolicyWithValue(policy).to(dtype)
        prepare(model.policy)
        config = PPOConfig(
            STEPS, batch_size=7, epochs=2, minibatches=2, learning_rate=RATE, beta=0.3, target_kl=0.5, horizon=50,
            clip=clip, max_new_tokens=6,
        )  # fmt: skip
        prompts, mask = ragged([1, 2, 3, 2, 1, 3, 2], [1] * 7, seed=4)[:2]
        controller = AdaptiveKL(0.3, 0.5, 50)
        loop = train_ppo(
            model, base(dtype, seed=2), count_threes, prompts, mask, sgd(model), controller, config, seed=3
        )
        rows = []
        for row, rollout in loop:
            tensors[f"tokens.{row['step']}"] = rollout.responses
            rows.append(copy.copy(row))
    return rows, tensors | {name: p.detach() for name, p in model.named_parameters()}


def largest_difference(one: Result, other: Result) -> float:
    """Of all metrics and tensors, where figures above 1 count relatively. Sampled tokens must be equal."""
    (rows, tensors), (other_rows, other_tensors) = one, other
    assert tensors.keys() == other_tensors.keys() and [row.keys() for row in rows] == [row.keys() for row in other_rows]
    worst = max(
        abs(row[name] - other[name]) / max(1, abs(row[name]))
        for row, other in zip(rows, other_rows, strict=True)
        for name in row
    )
    for name, x in tensors.items():
        if name.startswith("tokens"):
            assert torch.equal(x, other_tensors[name])
        else:
            worst = max(worst, (x - other_tensors[name]).abs().max().item())
    return worst
