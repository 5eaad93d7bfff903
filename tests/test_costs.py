"""What the loops cost, counted: a change that makes a step do more fails here, however fast the machine is.

Counted are calls of the model, tokens that its trunk reads, positions of which its head is asked, rows scored by the
reward model, bytes copied to grow a cache, and waits: how often a program that runs on a GPU would have to wait for it
(`.item()`, `bool(tensor)`, `.tolist()`, an index by booleans).
"""

import copy
import dataclasses
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import week6
from tests.tiny import ragged, ragged_pairs, tiny_gpt2
from week6.dpo import DPOConfig, train_dpo
from week6.group import GRPOConfig, train_grpo
from week6.machine.optim import generator_for, make_optimizer
from week6.ppo import AdaptiveKL, PolicyWithValue, PPOConfig, train_ppo
from week6.reward_model import RewardConfig, RewardModel, score, train_reward_model
from week6.sampling import sample
from week6.sequences import Demonstrations
from week6.sft import SFTConfig, train_sft

LENGTHS = [1 + i % 6 for i in range(32)]
TORCH, WEEK6 = Path(torch.__file__).parent, Path(week6.__file__).parent
WAITS = {"_local_scalar_dense", "nonzero", "equal", "masked_select"}


@dataclasses.dataclass
class Costs:
    """Of what was run within `counted`."""

    calls: int = 0
    tokens: int = 0
    asked: int = 0
    waits: int = 0
    cache_bytes: int = 0


def _asked_by_us():
    """Is the nearest caller beyond torch and this file one of ours? What transformers asks is not counted."""
    frame = sys._getframe()
    while frame.f_code.co_filename == __file__ or TORCH in Path(frame.f_code.co_filename).parents:
        frame = frame.f_back
    return WEEK6 in Path(frame.f_code.co_filename).parents


class _Watch(TorchDispatchMode):
    def __init__(self, costs):
        super().__init__()
        self.costs = costs

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        by_booleans = name == "index" and any(i is not None and i.dtype == torch.bool for i in args[1])
        self.costs.waits += (name in WAITS or by_booleans) and _asked_by_us()
        result = func(*args, **(kwargs or {}))
        if name == "cat" and result.dim() == 4:
            self.costs.cache_bytes += result.numel() * result.element_size()
        return result


@contextmanager
def counted(*models):
    """Count what these language models, or trunks, are made to do."""
    costs = Costs()

    def read(_, inputs):
        costs.calls += 1
        costs.tokens += inputs[0].numel()

    def ask(_, inputs):
        costs.asked += inputs[0].shape[:-1].numel()

    trunks = [getattr(model, "transformer", model) for model in models]
    heads = [model.lm_head for model in models if hasattr(model, "lm_head")]
    hooks = [trunk.wte.register_forward_pre_hook(read) for trunk in trunks]
    hooks += [head.register_forward_pre_hook(ask) for head in heads]
    tolist = torch.Tensor.tolist

    def watched_tolist(tensor):
        costs.waits += _asked_by_us()
        return tolist(tensor)

    with pytest.MonkeyPatch.context() as patch, _Watch(costs):
        patch.setattr(torch.Tensor, "tolist", watched_tolist)
        yield costs
    for hook in hooks:
        hook.remove()


def questions(spare=0):
    prompts, mask, *_ = ragged(LENGTHS, [1] * 32, seed=1)
    pad = torch.nn.functional.pad
    return pad(prompts, (spare, 0)), pad(mask, (spare, 0))


def policy(seed=0, eos=(1,)):
    model = tiny_gpt2(seed=seed, dtype=torch.float32, scale=0.3)
    model.config.eos_token_id = list(eos) or None
    return model


@pytest.mark.parametrize("eos", [(1,), ()])
def test_sampling(eos):
    """Prompts are read once, without blocks of common padding, then one token a row; rows that have ended leave."""
    model, new = policy(eos=eos), 10
    with counted(model) as costs:
        answers = sample(model, *questions(spare=18), new, generator=torch.Generator().manual_seed(0))
    steps, lengths = answers.responses.shape[1], answers.response_mask.sum(-1)
    assert steps == new
    assert costs.calls == steps
    read_at_once = 32 * (6 + 2)
    if eos:
        alive = [int((lengths > t).sum()) for t in range(steps)]
        most = 32 + sum(max(8, n / 0.75) for n in alive[1:])  # 8 stay, and a third more than live
        assert sum(alive) <= costs.asked <= most < 32 * steps
        assert costs.tokens == read_at_once + costs.asked - 32
    else:
        assert costs.asked == 32 * steps and costs.tokens == read_at_once + 32 * (steps - 1)
    first = 2 * model.config.n_layer * read_at_once * model.config.n_embd * 4  # of the empty cache and the prompts
    assert costs.cache_bytes <= first
    assert costs.waits <= steps + 4


def trained(train, model, optimizer, data, config):
    with counted(getattr(model, "policy", model)) as costs:
        (step,) = train(model, optimizer, data, config, seed=1)
    assert step["step"] == 0
    return costs


ANSWERS = [1 + (5 * i) % 7 for i in range(32)]
PAIRS = ragged_pairs(LENGTHS, ANSWERS, ANSWERS[::-1], seed=3)
ONE = {"steps": 1, "batch_size": 32, "learning_rate": 1e-3}


def test_supervised_fine_tuning():
    model = policy()
    data = Demonstrations(PAIRS.prompts, PAIRS.prompt_mask, PAIRS.chosen, PAIRS.chosen_mask)
    costs = trained(train_sft, model, make_optimizer(model, 1e-3), data, SFTConfig(**ONE))
    assert (costs.calls, costs.tokens, costs.asked) == (1, 32 * (6 + 7), 32 * 7)
    assert costs.waits <= 16


def test_reward_model():
    """The head of the language model is not asked at all."""
    model = RewardModel(policy())
    with counted(model.trunk) as costs:
        list(train_reward_model(model, make_optimizer(model, 1e-3), PAIRS, RewardConfig(**ONE), seed=1))
    assert (costs.calls, costs.tokens) == (1, 64 * (6 + 7))
    assert costs.waits <= 13


def test_dpo():
    """The reference reads all pairs once, whatever the number of steps."""
    model, reference = policy(), policy(seed=1)
    config = DPOConfig(**{**ONE, "steps": 3})
    with counted(model) as own, counted(reference) as other:
        list(train_dpo(model, reference, make_optimizer(model, 1e-3), PAIRS, config, seed=1))
    assert (own.calls, own.tokens, own.asked) == (3, 3 * 64 * (6 + 7), 3 * 64 * 7)
    assert (other.calls, other.tokens, other.asked) == (1, 64 * (6 + 7), 64 * 7)
    assert other.waits <= 81


def test_ppo():
    """Beside sampling and the gradient steps, one call each of policy (values), reference and reward model."""
    model, reference = policy(), policy(seed=1)
    actor, judge = PolicyWithValue(model), RewardModel(policy(seed=2))
    config = PPOConfig(steps=1, batch_size=32, epochs=2, minibatches=2, max_new_tokens=10)
    controller, optimizer = AdaptiveKL(0.1, 1.0, 1e4), make_optimizer(actor, 1e-3)
    with counted(model) as own, counted(reference) as other, counted(judge.trunk) as scored:
        ((_, answers),) = train_ppo(
            actor, reference, lambda y: score(judge, y), *questions(), optimizer, controller, config, seed=1
        )
    with counted(again := policy()) as sampled:
        sample(again, answers.prompts, answers.prompt_mask, 10, generator=generator_for(1, 0))
    length = answers.responses.shape[1]
    assert own.calls - sampled.calls == 1 + 4
    assert own.tokens - sampled.tokens == 3 * 32 * (6 + length)
    assert own.asked - sampled.asked == 3 * 32 * length
    assert (other.calls, other.tokens, other.asked) == (1, 32 * (6 + length), 32 * length)
    assert (scored.calls, scored.tokens) == (1, 32 * (6 + length))
    assert own.waits <= sampled.waits + 144


def test_grpo():
    model, reference, judge = policy(), policy(seed=1), RewardModel(policy(seed=2))
    config = GRPOConfig(steps=1, prompts=8, answers=4, max_new_tokens=10)
    optimizer = make_optimizer(model, 1e-3)
    with counted(model) as own, counted(reference) as other, counted(judge.trunk):
        ((_, answers),) = train_grpo(
            model, reference, lambda y: score(judge, y), *questions(), optimizer, config, seed=1
        )
    length = answers.responses.shape[1]
    assert (other.calls, other.asked) == (1, 32 * length)
    assert own.calls == length + 1
    assert own.waits <= length + 41


def test_hidden_states_of_inner_layers_are_not_kept():
    """The value head reads the last alone."""
    actor = PolicyWithValue(copy.deepcopy(policy()))
    batch = sample(actor.policy, *questions(), 4)
    with pytest.MonkeyPatch.context() as patch:
        forward, asked = actor.policy.forward, []
        patch.setattr(actor.policy, "forward", lambda **options: asked.append(options) or forward(**options))
        actor(batch)
    assert not asked[0].get("output_hidden_states")
