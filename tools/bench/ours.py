"""week6's sides: its own training loops, a step a turn, and its sampling."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tools.bench.cases import SEED, Case
from tools.bench.models import SPECIAL, as_text, number_tokenizer, random_head, random_model, random_rows
from tools.bench.turns import Turns, weight_sum
from week6.dpo import DPOConfig, pair_log_probs, train_dpo
from week6.log_probs import response_forward, token_log_probs
from week6.machine.optim import make_optimizer
from week6.ppo import AdaptiveKL, PolicyWithValue, PPOConfig, train_ppo
from week6.reward_model import RewardConfig, RewardModel, score, train_reward_model
from week6.run.models import frozen_copy
from week6.sampling import sample
from week6.sequences import Demonstrations, Pairs, Rollout, encode_demonstrations, encode_pairs, left_pad
from week6.sft import SFTConfig, train_sft

BETA = 0.1
PPO = dict(epochs=4, minibatches=1, beta=0.05, value_coef=0.1, clip=0.2, gamma=1.0, lam=0.95, temperature=1.0)
"""TRL's defaults, but for the temperature, which is 0.7 there."""


def take_turns(loop: Iterator[dict[str, float]], case: Case, turns: Turns, *names: str) -> None:
    """A step a turn; what it says are the metrics `names`."""
    for _ in range(case.steps):
        turns.begin()
        row = next(loop)
        turns.end()
        turns.tell(*(row[name] for name in names), tokens=row["tokens"])


def pairs_of(case: Case) -> Pairs:
    """The rows as preference pairs."""
    rows = random_rows(case)
    prompts = [as_text(prompt) for prompt, *_ in rows]
    chosen, rejected = ([as_text(answers[i], after=True) for _, *answers in rows] for i in (0, 1))
    return encode_pairs(number_tokenizer(case.shape.vocabulary), prompts, chosen, rejected)


def dpo(case: Case, turns: Turns) -> None:
    """`train_dpo`, the reference's log-probabilities found before the first step."""
    count = operations(case)
    policy, *others = _dpo(case)
    loop = train_dpo(policy, *others, SEED)
    turns.ready([weight_sum(policy)], operations=count)
    take_turns(loop, case, turns, "loss")


def operations(case: Case) -> int:
    """How many floating-point operations the matrix products of a step take, forwards and backwards."""
    policy, pairs = random_model(case.shape), pairs_of(case).rows(slice(0, case.batch))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        sum(x.sum() for x in pair_log_probs(policy, pairs)).backward()
    return int(counter.get_total_flops())


def dpo_uncached(case: Case, turns: Turns) -> None:
    """Pairs that come new to every step: the reference's log-probabilities are found in the turn."""
    policy, reference, optimizer, pairs, config = _dpo(case)
    turns.ready([weight_sum(policy)])
    for step in range(case.steps):
        turns.begin()
        row = next(train_dpo(policy, reference, optimizer, pairs, config, SEED, step))
        turns.end()
        turns.tell(row["loss"], tokens=row["tokens"])


def _dpo(case: Case) -> tuple[Any, Any, Any, Pairs, DPOConfig]:
    policy = random_model(case.shape)
    config = DPOConfig(steps=case.steps, batch_size=case.batch, learning_rate=case.learning_rate, beta=BETA)
    return policy, frozen_copy(policy), make_optimizer(policy, case.learning_rate), pairs_of(case), config


def reward(case: Case, turns: Turns) -> None:
    """`train_reward_model`."""
    model = RewardModel(random_model(case.shape))
    model.head.weight.data.copy_(random_head(case.shape.width).weight)
    config = RewardConfig(steps=case.steps, batch_size=case.batch, learning_rate=case.learning_rate)
    loop = train_reward_model(model, make_optimizer(model, case.learning_rate), pairs_of(case), config, SEED)
    turns.ready([weight_sum(model)])
    take_turns(loop, case, turns, "loss")


def sft(case: Case, turns: Turns) -> None:
    """`train_sft` on the prompts with their first answers."""
    policy, rows = random_model(case.shape), random_rows(case)
    prompts, answers = [as_text(row[0]) for row in rows], [as_text(row[1], after=True) for row in rows]
    data: Demonstrations = encode_demonstrations(number_tokenizer(case.shape.vocabulary), prompts, answers)
    config = SFTConfig(steps=case.steps, batch_size=case.batch, learning_rate=case.learning_rate)
    loop = train_sft(policy, make_optimizer(policy, case.learning_rate), data, config, SEED)
    turns.ready([weight_sum(policy)])
    take_turns(loop, case, turns, "loss")


class WithCritic(PolicyWithValue):
    """A policy with a critic of its own, as TRL has it: another model, with a head without a bias."""

    def __init__(self, policy: Any, critic: Any, head: torch.nn.Linear) -> None:
        super().__init__(policy)
        self.critic, self.value_head = critic, head

    def forward(self, answers: Rollout, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """Log-probabilities by the policy, values by the critic."""
        parts = (answers.prompts, answers.prompt_mask, answers.responses, answers.response_mask)
        logits = response_forward(self.policy, *parts).logits
        tokens, mask = torch.cat(parts[::2], dim=1), torch.cat(parts[1::2], dim=1).long()
        hidden = self.critic(input_ids=tokens, attention_mask=mask, use_cache=False).last_hidden_state
        values = self.value_head(hidden[:, answers.prompts.shape[1] - 1 : -1]).squeeze(-1)
        return token_log_probs(logits / temperature, answers.responses).masked_fill(~answers.response_mask, 0.0), values


def ppo_own_critic(case: Case, turns: Turns) -> None:
    """`train_ppo` with a critic of its own."""
    policy = random_model(case.shape, case.ends)
    actor = WithCritic(policy, random_model(case.shape).base_model, random_head(case.shape.width))
    for row in _ppo(case, turns, actor):
        turns.tell(*(row[name] for name in ("score", "kl", "policy_loss", "value_loss")), tokens=row["tokens"])


def ppo(case: Case, turns: Turns) -> None:
    """`train_ppo` as it comes, with a value head on the policy's trunk. Its first answers are those of the others."""
    for row in _ppo(case, turns, PolicyWithValue(random_model(case.shape, case.ends))):
        turns.tell(*((row["score"], row["kl"]) if row["step"] == 0 else ()), tokens=row["tokens"])


def _ppo(case: Case, turns: Turns, actor: PolicyWithValue) -> Iterator[dict[str, float]]:
    judge = RewardModel(random_model(case.shape))
    judge.head.weight.data.copy_(random_head(case.shape.width).weight)
    judge, reference = frozen_copy(judge), frozen_copy(actor.policy)
    prompts, mask = left_pad([row[0] for row in random_rows(case)], case.shape.vocabulary - SPECIAL)
    answer = case.lengths[0][1]
    config = PPOConfig(
        steps=case.steps, batch_size=case.batch, learning_rate=case.learning_rate, max_new_tokens=answer, **PPO
    )
    controller = AdaptiveKL(config.beta, 1.0, config.horizon)
    optimizer = make_optimizer(actor, case.learning_rate)
    loop = train_ppo(
        actor, reference, lambda answers: score(judge, answers), prompts, mask, optimizer, controller, config, SEED
    )
    turns.ready([weight_sum(actor.policy), weight_sum(judge)])
    for _ in range(case.steps):
        turns.begin()
        row, _ = next(loop)
        turns.end()
        yield row


def sampling(case: Case, turns: Turns) -> None:
    """`sample`, with a seed for each turn. What it says: for each row a number that is made of its tokens."""
    model = random_model(case.shape, case.ends)
    prompts, mask = left_pad([row[0] for row in random_rows(case)], case.shape.vocabulary - SPECIAL)
    turns.ready([weight_sum(model)])
    for step in range(case.steps):
        torch.manual_seed(step)
        turns.begin()
        answers = sample(model, prompts, mask, case.lengths[0][1])
        turns.end()
        numbers = row_numbers(answers.responses.masked_fill(~answers.response_mask, 0))
        turns.tell(*numbers, tokens=int(answers.response_mask.sum()))


def row_numbers(tokens: Tensor) -> list[float]:
    """A whole number for each row of answers, in which token and place count; what is padded with 0 is as if cut."""
    places = torch.arange(1, tokens.shape[1] + 1)
    return [float(x) for x in ((tokens + (tokens > 0)) * places).sum(-1)]
