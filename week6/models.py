"""Presets, and the three things done with a language model before training: make one, copy it, freeze the copy."""

from copy import deepcopy
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerBase

from week6.dpo import DPOConfig
from week6.ppo import PPOConfig
from week6.reward_model import RewardConfig
from week6.sft import SFTConfig

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class Preset:
    """Everything that decides a run, but for its seed.

    The policy is a GPT-2 of `layers` layers, `heads` heads and width `width`, for at most `positions` tokens.
    `n_pairs` preference pairs are sampled from the SFT model and labelled.
    """

    name: str
    task: str
    layers: int
    heads: int
    width: int
    positions: int
    n_pairs: int
    sft: SFTConfig
    reward: RewardConfig
    ppo: PPOConfig
    dpo: DPOConfig


PRESETS = {
    "tiny": Preset(
        name="tiny",
        task="assistant",
        layers=3,
        heads=4,
        width=64,
        positions=128,
        n_pairs=32_000,
        sft=SFTConfig(steps=3000, batch_size=32, learning_rate=3e-3),
        reward=RewardConfig(steps=500, batch_size=64, learning_rate=1.5e-3),
        ppo=PPOConfig(steps=150, batch_size=128, epochs=2, minibatches=2, learning_rate=5e-4, beta=0.05),
        dpo=DPOConfig(steps=500, batch_size=64, learning_rate=7e-4, beta=1.0),
    ),
}


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
