"""The PPO of TRL 1.12.0, the last that has one, with week6's settings. Runs in an environment of its own."""

import tempfile
from copy import deepcopy
from importlib.metadata import version
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl.experimental.ppo import PPOConfig, PPOTrainer

from tools.bench.cases import SEED, Case
from tools.bench.models import number_tokenizer, random_judge, random_model, random_rows, rate
from tools.bench.turns import Turns, weight_sum


def generator_for(step: int) -> torch.Generator:
    """The random numbers of a step, as `week6.machine.optim.generator_for` has them."""
    return torch.Generator().manual_seed(SEED * 1_000_003 + step)


class ClippedAdamW(torch.optim.AdamW):
    """week6's optimizer, which clips: this PPO does not by itself."""

    def step(self, closure: Any = None) -> Any:
        """A step down the gradient of norm 1 at most."""
        torch.nn.utils.clip_grad_norm_([p for group in self.param_groups for p in group["params"]], 1.0)
        return super().step(closure)


def ppo(case: Case, turns: Turns) -> None:
    """`PPOTrainer` with a critic and a reward model of their own: four epochs on a batch in one piece, at T = 1."""

    class Watch(TrainerCallback):
        step = 0
        logs: dict[str, float] = {}

        def start(self) -> None:
            torch.manual_seed(generator_for(self.step).initial_seed())
            turns.begin()

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.start()

        def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
            self.logs = logs

        def on_step_end(self, *_: Any, **__: Any) -> None:
            turns.end()
            names = ("objective/scores", "objective/kl", "loss/policy_avg", "loss/value_avg")
            turns.tell(*(self.logs[name] for name in names))
            self.step += 1
            if self.step < case.steps:
                self.start()

    policy = random_model(case.shape, case.ends)
    judge = random_judge(case.shape).requires_grad_(False)
    critic = deepcopy(judge).requires_grad_(True)
    prompts = [row[0] for row in random_rows(case)]
    trained = [*policy.parameters(), *critic.parameters()]
    optimizer = ClippedAdamW(trained, lr=case.learning_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, case.steps))
    with tempfile.TemporaryDirectory() as folder:
        settings = PPOConfig(
            folder, total_episodes=case.batch * case.steps, per_device_train_batch_size=case.batch,
            gradient_accumulation_steps=1, num_mini_batches=1, num_ppo_epochs=4, kl_coef=0.05,
            response_length=case.lengths[0][1], temperature=1.0, num_sample_generations=0, save_strategy="no",
            eval_strategy="no", report_to="none", bf16=False, gradient_checkpointing=False, use_cpu=True,
            disable_tqdm=True,
        )  # fmt: skip
        trainer = PPOTrainer(
            args=settings, processing_class=number_tokenizer(case.shape.vocabulary), model=policy,
            ref_model=deepcopy(policy).requires_grad_(False), reward_model=judge, value_model=critic,
            train_dataset=Dataset.from_dict({"input_ids": prompts}), optimizers=(optimizer, schedule),
            callbacks=[Watch()],
        )  # fmt: skip
        orders = [torch.randperm(case.batch, generator=generator_for(step)) for step in range(case.steps)]
        trainer.dataloader = [{"input_ids": torch.tensor(prompts)[order]} for order in orders]  # not shuffled
        turns.ready([weight_sum(policy), weight_sum(judge)], version=f"TRL {version('trl')}")
        trainer.train()
