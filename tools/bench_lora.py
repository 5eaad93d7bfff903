"""What LoRA saves in memory: DPO's steps on a model of SmolLM2-135M's shape, whole and with adapters.

`python tools/bench_lora.py [STEPS]` prints a table. The weights are random, which takes as much room; each variant runs
in a process of its own, whose peak memory is that of the system's count, less what it held before the first model.
"""

import multiprocessing
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from week6.dpo import DPOConfig, train_dpo
from week6.machine.checkpoint import save_checkpoint
from week6.machine.lora import LoRAConfig, trainee_of
from week6.machine.optim import make_optimizer
from week6.run.training import peak_memory
from week6.sequences import Pairs

SHAPE: dict[str, Any] = dict(
    vocab_size=49_152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
    num_key_value_heads=3, tie_word_embeddings=True, max_position_embeddings=8192, eos_token_id=2, pad_token_id=2,
)  # fmt: skip
"""SmolLM2-135M's."""
PAIRS, PROMPT, ANSWER, LAST_TOKEN = 2, 64, 32, 40_000
RANKS = (0, 16)


def measure(rank: int, steps: int) -> dict[str, float]:
    """Weights trained, peak memory and a checkpoint's size in MB."""
    before = psutil.Process().memory_info().rss
    torch.manual_seed(0)
    reference = LlamaForCausalLM(LlamaConfig(**SHAPE)).eval().requires_grad_(False)
    policy = trainee_of(reference, LoRAConfig(rank=rank), 0).model
    trained = sum(weight.numel() for weight in policy.parameters() if weight.requires_grad)
    optimizer = make_optimizer(policy, 1e-4)
    prompts, chosen, rejected = (torch.randint(3, LAST_TOKEN, (PAIRS, n)) for n in (PROMPT, ANSWER, ANSWER))
    masks = [torch.ones_like(x, dtype=torch.bool) for x in (prompts, chosen, rejected)]
    pairs = Pairs(prompts, masks[0], chosen, masks[1], rejected, masks[2])
    config = DPOConfig(steps=steps, batch_size=PAIRS, learning_rate=1e-4)
    for _ in train_dpo(policy, reference, optimizer, pairs, config, 0):
        pass
    peak = peak_memory() - before
    with TemporaryDirectory() as folder:
        path = Path(folder) / "dpo.safetensors"
        save_checkpoint(path, policy, optimizer, {})
        size = path.stat().st_size
    return {"trained": trained, "peak": peak / 1e6, "checkpoint": size / 1e6}


def main(steps: int) -> None:
    """Measure every rank, each in a fresh process."""
    print("| | weights trained (M) | peak memory (MB) | checkpoint (MB) |\n|---|---|---|---|", flush=True)
    for rank in RANKS:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found = pool.apply(measure, (rank, steps))
        name = f"LoRA, rank {rank}" if rank else "whole"
        print(
            f"| {name} | {found['trained'] / 1e6:.1f} | {found['peak']:.0f} | {found['checkpoint']:.0f} |", flush=True
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
