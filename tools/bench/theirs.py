"""The other sides: the trainers of TRL 1.16 with week6's settings, transformers' `generate`, a matrix product."""

import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainerCallback

from tools.bench.cases import SEED, Case
from tools.bench.models import SPECIAL, as_text, number_tokenizer, random_judge, random_model, random_rows, rate
from tools.bench.ours import BETA, row_numbers
from tools.bench.turns import Turns, weight_sum
from week6.classroom.handover import trl_trainer
from week6.dpo import DPOConfig
from week6.machine.optim import make_optimizer, minibatch
from week6.sequences import left_pad

CHECKPOINTED = {"gradient_checkpointing": True, "bf16": True}
"""TRL's own defaults where `trl_trainer` differs: activations are computed twice, matrices multiplied in bf16."""


def take_turns(trainer: Any, turns: Turns) -> None:
    """`train`, a step a turn: from the batch on the device to the end of the optimizer's step."""

    class Watch(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            turns.begin()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            turns.end()

        def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
            if "loss" in logs:
                turns.tell(logs["loss"])

    trainer.add_callback(Watch())
    turns.ready([weight_sum(trainer.model)], version=f"TRL {version('trl')}")
    trainer.train()


def rows_of(case: Case, *names: str) -> Dataset:
    """The rows as texts in the order in which week6 meets them; `names` are those of prompt and answers."""
    order = torch.cat([minibatch(len(case.lengths), case.batch, step, SEED) for step in range(case.steps)])
    rows = random_rows(case)
    texts = [[as_text(tokens, after=i > 0) for i, tokens in enumerate(rows[n])] for n in order]
    return Dataset.from_list([dict(zip(names, row, strict=False)) for row in texts])


def dpo(case: Case, turns: Turns) -> None:
    """`DPOTrainer`, the reference's log-probabilities found before the first step."""
    _dpo(case, turns, precompute_ref_log_probs=True)


def dpo_uncached(case: Case, turns: Turns) -> None:
    """`DPOTrainer` with the reference in every step, as it comes."""
    _dpo(case, turns, precompute_ref_log_probs=False)


def dpo_defaults(case: Case, turns: Turns) -> None:
    """`DPOTrainer` with its own settings."""
    _dpo(case, turns, precompute_ref_log_probs=False, **CHECKPOINTED)


def _dpo(case: Case, turns: Turns, **changes: Any) -> None:
    config = DPOConfig(steps=case.steps, batch_size=case.batch, learning_rate=case.learning_rate, beta=BETA)
    data, tokenizer = rows_of(case, "prompt", "chosen", "rejected"), number_tokenizer(case.shape.vocabulary)
    with tempfile.TemporaryDirectory() as folder:
        take_turns(trl_trainer(random_model(case.shape), tokenizer, data, config, folder, **changes), turns)


def reward(case: Case, turns: Turns) -> None:
    """`RewardTrainer`."""
    from trl.trainer.reward_config import RewardConfig
    from trl.trainer.reward_trainer import RewardTrainer

    _train(
        case,
        turns,
        RewardTrainer,
        RewardConfig,
        random_judge(case.shape),
        rows_of(case, "prompt", "chosen", "rejected"),
    )


def sft(case: Case, turns: Turns) -> None:
    """`SFTTrainer` on the prompts with their first answers; the loss is the answers'."""
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    _train(case, turns, SFTTrainer, SFTConfig, random_model(case.shape), rows_of(case, "prompt", "completion"))


def _train(case: Case, turns: Turns, trainer: Any, config: Any, model: Any, data: Dataset) -> None:
    optimizer = make_optimizer(model, case.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, case.steps))
    with tempfile.TemporaryDirectory() as folder:
        settings = config(
            folder, max_steps=case.steps, per_device_train_batch_size=case.batch, max_length=None, max_grad_norm=1.0,
            train_sampling_strategy="sequential", logging_steps=1, save_strategy="no", report_to="none",
            bf16=False, gradient_checkpointing=False, use_cpu=True, disable_tqdm=True,
        )  # fmt: skip
        tokenizer = number_tokenizer(case.shape.vocabulary)
        take_turns(
            trainer(
                model=model, args=settings, train_dataset=data, processing_class=tokenizer,
                optimizers=(optimizer, schedule),
            ),
            turns,
        )  # fmt: skip


def generate(case: Case, turns: Turns) -> None:
    """`generate` from the policy itself: the same random numbers make the same tokens as in `sample`."""
    model = random_model(case.shape, case.ends)
    prompts, mask = left_pad([row[0] for row in random_rows(case)], case.shape.vocabulary - SPECIAL)
    turns.ready([weight_sum(model)], version=f"generate of transformers {version('transformers')}")
    for step in range(case.steps):
        torch.manual_seed(step)
        turns.begin()
        found = model.generate(
            input_ids=prompts, attention_mask=mask.long(), do_sample=True, top_k=0, top_p=1.0, temperature=1.0,
            max_new_tokens=case.lengths[0][1],
        )[:, prompts.shape[1] :]  # fmt: skip
        turns.end()
        turns.tell(*row_numbers(cut_at_end(found, model.config.eos_token_id)))


def cut_at_end(tokens: torch.Tensor, ends: int | Sequence[int] | None) -> torch.Tensor:
    """Answers with 0 behind their first end."""
    ended = torch.isin(tokens, torch.tensor([] if ends is None else ends))
    return tokens.masked_fill((ended.long().cumsum(-1) - ended.long()) > 0, 0)


def matrix_product(case: Case, turns: Turns) -> None:
    """How fast this machine multiplies matrices in fp32: a block's widest product at the rows of a step, many times."""
    rows = case.batch * 2 * round(sum(map(sum, case.lengths)) / len(case.lengths) / 2)
    a, b = torch.randn(rows, case.shape.width), torch.randn(case.shape.width, 4 * case.shape.width)
    times = max(1, round(1e11 / (2 * a.numel() * b.shape[1])))
    turns.ready([], operations=2 * a.numel() * b.shape[1] * times)
    for _ in range(case.steps):
        turns.begin()
        for _ in range(times):
            a @ b
        turns.end()
        turns.tell()


def products(case: Case, turns: Turns) -> None:
    """What no sampling with these weights can do without: every row multiplied with every matrix, for each token."""
    _products(case, turns, case.batch)


def reading(case: Case, turns: Turns) -> None:
    """The same for a single row, where nearly all of the time goes into reading the weights."""
    _products(case, turns, 1)


def _products(case: Case, turns: Turns, rows: int) -> None:
    named = random_model(case.shape, case.ends).named_parameters()
    matrices = [weight.detach() for name, weight in named if weight.dim() == 2 and "wpe" not in name]
    inputs = [torch.randn(rows, weight.shape[1]) for weight in matrices]
    times = case.lengths[0][1]
    turns.ready([], operations=2 * rows * times * sum(weight.numel() for weight in matrices))
    for _ in range(case.steps):
        turns.begin()
        for _ in range(times):
            for row, weight in zip(inputs, matrices, strict=True):
                row @ weight.T
        turns.end()
        turns.tell()
