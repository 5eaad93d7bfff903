"""Presets, and what is done with a language model before training: make or load one, copy it, freeze the copy."""

from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

import torch
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from week6.dpo import DPOConfig
from week6.machine import smollm2
from week6.machine.bounds import Count, Few, Rows, Width
from week6.machine.compute import compute
from week6.machine.lora import LoRAConfig
from week6.machine.pretrained import load_policy
from week6.ppo import PPOConfig
from week6.reward_model import RewardConfig
from week6.run.evaluation import EvaluationConfig
from week6.sft import SFTConfig
from week6.tasks.hh import HHConfig

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class Preset:
    """Everything that decides a run, but for its seed.

    The policy is `model`, pretrained: a folder, or a name on the hub; without one, a new GPT-2 of `layers` layers,
    `heads` heads and width `width`, for at most `positions` tokens.
    `n_pairs` preference pairs are sampled from the SFT model and labelled. Where the task has pairs of its own, at
    most so many of these are taken.
    `data` is a local file or a data set of the hub with the texts in `column`, `gold` "vader" or a text classifier.
    Where people have rated the texts, in the column `ratings`, the reward model learns from their comparisons, and
    labels the pairs for DPO.
    SFT imitates the demonstrations of the task, of pairs of conversations the chosen answers, or "nothing": then the
    pretrained model itself is the SFT model. `lora` is for pretrained models, `hh` for pairs of conversations.
    """

    name: str
    task: str
    layers: Few
    heads: Few
    width: Width
    positions: Rows
    n_pairs: Count
    sft: SFTConfig
    reward: RewardConfig
    ppo: PPOConfig
    dpo: DPOConfig
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    model: str | None = None
    data: str | None = None
    column: str | None = None
    gold: str | None = None
    ratings: str | None = None
    imitate: Literal["demonstrations", "nothing"] = "demonstrations"
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    hh: HHConfig = field(default_factory=HHConfig)


PRESETS = {
    "tiny": Preset(
        name="tiny",
        task="assistant",
        layers=2,
        heads=4,
        width=64,
        positions=128,
        n_pairs=32_000,
        sft=SFTConfig(steps=3500, batch_size=32, learning_rate=7e-3),
        reward=RewardConfig(steps=600, batch_size=64, learning_rate=2.5e-3),
        ppo=PPOConfig(steps=160, batch_size=128, epochs=2, minibatches=2, learning_rate=8e-4, beta=0.1),
        dpo=DPOConfig(steps=500, batch_size=64, learning_rate=1.2e-3, beta=1.0),
    ),
}
PRESETS["lesson"] = replace(  # `tiny` for the notebooks: less of everything
    PRESETS["tiny"],
    name="lesson",
    n_pairs=10_000,
    sft=SFTConfig(steps=1600, batch_size=32, learning_rate=7e-3),
    reward=RewardConfig(steps=350, batch_size=48, learning_rate=2.5e-3),
    ppo=PPOConfig(steps=80, batch_size=96, epochs=2, minibatches=2, learning_rate=1e-3, beta=0.1),
    dpo=DPOConfig(steps=250, batch_size=64, learning_rate=1.2e-3, beta=1.0),
)

PRESETS["gpt2"] = Preset(
    name="gpt2",
    task="sentiment",
    layers=12,
    heads=12,
    width=768,
    positions=1024,
    n_pairs=12_000,
    sft=SFTConfig(steps=600, batch_size=32, learning_rate=3e-5),
    reward=RewardConfig(steps=375, batch_size=32, learning_rate=2e-5),
    ppo=PPOConfig(
        steps=150,
        batch_size=64,
        epochs=2,
        minibatches=2,
        learning_rate=2e-5,
        beta=0.05,
        unfinished_penalty=-1.0,
        max_new_tokens=48,
    ),
    dpo=DPOConfig(steps=375, batch_size=32, learning_rate=2e-5, beta=0.1),
    model="openai-community/gpt2",
    data="stanfordnlp/imdb",
    column="text",
    gold="vader",
)
PRESETS["gpt2-cpu"] = replace(  # a pretrained model without a GPU: hours, on texts of a sentence
    PRESETS["gpt2"],
    name="gpt2-cpu",
    n_pairs=1_800,
    sft=SFTConfig(steps=100, batch_size=16, learning_rate=5e-5),
    reward=RewardConfig(steps=110, batch_size=16, learning_rate=5e-5),
    ppo=replace(PRESETS["gpt2"].ppo, steps=36, batch_size=32, learning_rate=1e-4, max_new_tokens=32),
    dpo=DPOConfig(steps=220, batch_size=8, learning_rate=5e-5, beta=0.1),
    evaluation=EvaluationConfig(
        calibration_answers=200, answers_per_prompt=1, best_of=2, best_of_answers=1, probes=5, probe_answers=32
    ),
)
PRESETS["gpt2-hh"] = replace(  # conversations are longer, and the pairs are there
    PRESETS["gpt2"],
    name="gpt2-hh",
    task="hh",
    n_pairs=8_000,
    sft=SFTConfig(steps=500, batch_size=16, learning_rate=2e-5),
    reward=RewardConfig(steps=500, batch_size=16, learning_rate=1e-5),
    ppo=PPOConfig(steps=100, batch_size=32, epochs=2, minibatches=2, learning_rate=1e-5, beta=0.05, max_new_tokens=128),
    dpo=DPOConfig(steps=500, batch_size=16, learning_rate=5e-6, beta=0.1),
    data="Anthropic/hh-rlhf",
    column=None,
    gold=None,
)
PRESETS["chat"] = replace(  # an instruct model in its own chat template; about two hours on two cores
    PRESETS["gpt2-hh"],
    name="chat",
    n_pairs=1_600,
    sft=SFTConfig(steps=40, batch_size=8, learning_rate=2e-4),
    reward=RewardConfig(steps=54, batch_size=8, learning_rate=2e-4),
    ppo=replace(
        PRESETS["gpt2-hh"].ppo,
        steps=12,
        batch_size=16,
        minibatches=4,
        learning_rate=2e-4,
        unfinished_penalty=-1.0,
        max_new_tokens=64,
    ),
    dpo=DPOConfig(steps=50, batch_size=8, learning_rate=2e-4, beta=0.1),
    evaluation=EvaluationConfig(
        calibration_answers=64, answers_per_prompt=1, best_of=2, best_of_answers=1, probes=3, probe_answers=24
    ),
    model=smollm2.NAME,
    lora=LoRAConfig(rank=16),
    hh=HHConfig(max_prompt_tokens=200, harmless=24, judge="half"),
)


def initial_policy(preset: Preset, tokenizer: PreTrainedTokenizerFast, seed: int) -> PreTrainedModel:
    """What SFT starts from: the pretrained model that the preset names, else an untrained GPT-2."""
    if preset.model is None:
        return new_policy(preset, tokenizer, seed)
    return load_policy(preset.model, tokenizer)


def check_size(preset: Preset, vocabulary: int) -> None:
    """Raise ValueError for a new model that could not be trained in the free memory.

    L (12 d² + 13 d) + (V + P + 2) d weights, of L layers, width d, V tokens and P positions, with gradients and Adam's
    moments: 16 bytes each.
    """
    layers, width = preset.layers, preset.width
    weights = layers * (12 * width**2 + 13 * width) + (vocabulary + preset.positions + 2) * width
    needed, free = 16 * weights, compute().free_bytes()
    if needed > free:
        raise ValueError(
            f"layers, width: got {layers} and {width}, a model of {weights / 1e6:.0f} M weights that takes "
            f"{needed / 1e9:.1f} GB to train, expected what fits the {free / 1e9:.1f} GB of free memory"
        )


def new_policy(preset: Preset, tokenizer: PreTrainedTokenizerBase, seed: int) -> GPT2LMHeadModel:
    """An untrained GPT-2 over the tokenizer's vocabulary; the same weights for the same seed.

    No dropout, in this or any model of the course: the policy, its old self and the reference must agree exactly where
    their weights do. The global random state is left as it was.
    """
    if preset.width % preset.heads:
        raise ValueError(f"width: got {preset.width}, expected a multiple of heads = {preset.heads}")
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=preset.positions,
        n_embd=preset.width,
        n_layer=preset.layers,
        n_head=preset.heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        activation_function="gelu_pytorch_tanh",  # GPT-2's own "gelu_new", computed in one operation
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy = GPT2LMHeadModel(config)
    policy.eval()  # type: ignore[no-untyped-call]
    return policy


def frozen_copy(model: Model) -> Model:
    """A copy of `model` that nothing trains: evaluation mode, no gradients. For references and reward models."""
    return deepcopy(model).eval().requires_grad_(False)
