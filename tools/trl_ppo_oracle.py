#!/usr/bin/env python3
"""What the PPOTrainer of TRL 0.11.4 computes on random inputs, as JSON: `trl_ppo_oracle.py OUTPUT`.

`make oracle-ppo` runs this in an environment of its own: later versions of TRL have no PPO that can be called piece by
piece. The methods are called on a bare object that holds just the settings they read, without a model.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import torch
from trl import PPOTrainer
from trl.trainer.utils import AdaptiveKLController

SETTINGS = [(1.0, 0.95), (0.9, 0.8), (1.0, 1.0), (1.0, 0.0)]  # γ, λ
BETA = 0.2


def ragged_mask(rows: int, length: int, generator: torch.Generator) -> torch.Tensor:
    """One run of ones a row, with zeros before (the prompt) and after it (padding); the first row is all ones."""
    first = torch.randint(0, length // 3, (rows, 1), generator=generator)
    last = torch.randint(length // 2, length, (rows, 1), generator=generator)
    first[0], last[0] = 0, length - 1
    column = torch.arange(length)
    return ((first <= column) & (column <= last)).long()


def case(gamma: float, lam: float, seed: int) -> dict[str, object]:
    """Inputs and outputs of compute_rewards and compute_advantages, for six answers of up to twelve tokens."""
    generator = torch.Generator().manual_seed(seed)
    mask = ragged_mask(6, 12, generator)
    scores = torch.randn(6, generator=generator)
    log_probs, ref_log_probs = (-torch.rand(6, 12, generator=generator) * 5 for _ in range(2))
    values = torch.randn(6, 12, generator=generator)
    trainer = SimpleNamespace(
        config=SimpleNamespace(gamma=gamma, lam=lam, whiten_rewards=False, kl_penalty="kl"),
        kl_ctl=SimpleNamespace(value=BETA),
    )
    trainer._kl_penalty = lambda *args: PPOTrainer._kl_penalty(trainer, *args)
    rewards, _, _ = PPOTrainer.compute_rewards(trainer, scores, log_probs, ref_log_probs, mask)
    _, advantages, returns = PPOTrainer.compute_advantages(trainer, values, rewards, mask)
    inputs = {"mask": mask, "scores": scores, "log_probs": log_probs, "ref_log_probs": ref_log_probs, "values": values}
    outputs = {"rewards": rewards, "whitened_advantages": advantages, "returns": returns}
    tensors = {name: tensor.tolist() for name, tensor in (inputs | outputs).items()}
    return {"gamma": gamma, "lam": lam, "beta": BETA, **tensors}


def adaptive_kl() -> dict[str, object]:
    """β after each of a sequence of updates, far above, near and below the target."""
    updates = [(12.0, 256), (6.0, 256), (6.6, 64), (5.1, 512), (0.0, 256), (-1.0, 128), (40.0, 1024)]
    controller = AdaptiveKLController(BETA, 6.0, 10_000)
    betas = []
    for kl, n in updates:
        controller.update(kl, n)
        betas.append(float(controller.value))
    return {"beta": BETA, "target": 6.0, "horizon": 10_000, "updates": updates, "betas": betas}


def main(output: Path) -> None:
    """Write the JSON file."""
    result = {
        "command": "make oracle-ppo",
        "versions": {name: version(name) for name in ("trl", "transformers", "torch")},
        "cases": [case(gamma, lam, seed) for seed, (gamma, lam) in enumerate(SETTINGS)],
        "adaptive_kl": adaptive_kl(),
    }
    output.write_text(json.dumps(result) + "\n")
    print(f"{output}: {len(SETTINGS)} cases from TRL {version('trl')}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
