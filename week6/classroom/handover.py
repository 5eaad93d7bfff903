"""The hand-over: the same DPO run with 🤗 TRL's `DPOTrainer`, which runs under 🤗 Accelerate on one device or many.

TRL is an optional extra (`pip install "week6[trl]"`). `python -m week6.classroom.handover` records both curves in
week6/recorded/trl_dpo.csv, for those who have not installed it.
"""

import tempfile
import warnings
from copy import deepcopy
from importlib.util import find_spec
from typing import Any

import pandas as pd
import torch
from datasets import Dataset, are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from week6 import recorded
from week6.classroom.lesson import Lesson, lesson
from week6.dpo import DPOConfig, train_dpo
from week6.machine.checkpoint import write_atomic
from week6.machine.optim import make_optimizer, minibatch, set_learning_rate
from week6.sequences import Pairs, decode, encode_pairs
from week6.tasks.conversation import render

CONFIG = DPOConfig(steps=40, batch_size=32, learning_rate=7e-4, beta=1.0)
"""The run that is made with both."""
SEED = 8
TABLE = recorded.FOLDER / "trl_dpo.csv"


def trl_is_installed() -> bool:
    """Whether TRL can be imported; does not import it."""
    return find_spec("trl") is not None


def preference_dataset(tokenizer: PreTrainedTokenizerBase, pairs: Pairs, n: int) -> Dataset:
    """The first n pairs whose answers have both ended, as messages: the columns prompt, chosen and rejected.

    This is TRL's conversational format. It applies the tokenizer's chat template by itself.
    """
    ended = [
        bool((tokens[mask] == tokenizer.eos_token_id).any() and (other[other_mask] == tokenizer.eos_token_id).any())
        for tokens, mask, other, other_mask in zip(
            pairs.chosen, pairs.chosen_mask, pairs.rejected, pairs.rejected_mask, strict=True
        )
    ]
    chosen_pairs = pairs.rows(torch.tensor(ended).nonzero().flatten()[:n])
    prompts = decode(tokenizer, chosen_pairs.prompts, chosen_pairs.prompt_mask)
    answers = {
        "chosen": decode(tokenizer, chosen_pairs.chosen, chosen_pairs.chosen_mask),
        "rejected": decode(tokenizer, chosen_pairs.rejected, chosen_pairs.rejected_mask),
    }
    columns = {"prompt": [[{"role": "user", "content": text}] for text in prompts]}
    for name, texts in answers.items():
        columns[name] = [[{"role": "assistant", "content": text}] for text in texts]
    return Dataset.from_dict(columns)


def dpo_with_week6(
    sft: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, data: Dataset, config: DPOConfig, seed: int
) -> pd.DataFrame:
    """This course's DPO on messages: loss, margin and accuracy of each step."""
    prompts = [render(tokenizer, messages, reply=True) for messages in data["prompt"]]
    chosen, rejected = ([" " + messages[0]["content"] for messages in data[name]] for name in ("chosen", "rejected"))
    pairs = encode_pairs(tokenizer, prompts, chosen, rejected).to(sft.device)
    policy = deepcopy(sft).requires_grad_(True)
    optimizer = make_optimizer(policy, config.learning_rate)
    rows = list(train_dpo(policy, sft, optimizer, pairs, config, seed))
    return pd.DataFrame(rows)[["step", "loss", "margin", "accuracy"]]


def dpo_with_trl(
    sft: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, data: Dataset, config: DPOConfig, seed: int
) -> pd.DataFrame:
    """The same run by TRL: same weights, pairs, batches, loss, optimizer and learning rates."""
    order = torch.cat([minibatch(len(data), config.batch_size, step, seed) for step in range(config.steps)])
    with tempfile.TemporaryDirectory() as folder:
        trainer = trl_trainer(sft, tokenizer, data.select(order.tolist()), config, folder, seed=seed)
        trainer.train()
    rows = [row for row in trainer.state.log_history if "loss" in row]
    return pd.DataFrame(
        {
            "step": range(len(rows)),
            "loss": [row["loss"] for row in rows],
            "margin": [row["rewards/margins"] for row in rows],
            "accuracy": [row["rewards/accuracies"] for row in rows],
        }
    )


def trl_trainer(
    sft: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: Dataset,
    config: DPOConfig,
    folder: str,
    **changes: Any,
) -> Any:
    """TRL's `DPOTrainer` of a copy of `sft` with our settings, but for the `changes`; it takes the rows in their order.

    Nothing is written to `folder`.
    """
    from transformers.trainer_callback import PrinterCallback
    from trl.trainer.dpo_config import DPOConfig as TRLConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    policy, reference = deepcopy(sft).requires_grad_(True), deepcopy(sft)
    optimizer = make_optimizer(policy, config.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _share_of_the_peak(step, config.steps))
    settings: dict[str, Any] = dict(
        beta=config.beta,
        loss_type=["sigmoid"],
        max_steps=config.steps,
        per_device_train_batch_size=config.batch_size,
        train_sampling_strategy="sequential",  # the rows are in our order already
        max_grad_norm=1.0,
        max_length=None,
        bf16=False,
        gradient_checkpointing=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",  # no tracker, no log-in
        disable_tqdm=True,
        use_cpu=sft.device.type == "cpu",
    )
    trainer = DPOTrainer(
        model=policy,
        ref_model=reference,
        args=TRLConfig(folder, **settings | changes),
        train_dataset=data,
        processing_class=tokenizer,
        optimizers=(optimizer, schedule),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _share_of_the_peak(step: int, steps: int) -> float:
    """The learning rate of our loops as a share of its peak."""
    parameter = torch.optim.SGD([torch.zeros(1)])
    set_learning_rate(parameter, 1.0, step, steps)
    return float(parameter.param_groups[0]["lr"])


def both(course: Lesson) -> pd.DataFrame:
    """The curves of both, one above the other, with a column `by`."""
    data = preference_dataset(course.task.tokenizer, course.pairs, CONFIG.steps * CONFIG.batch_size)
    arguments = (course.sft, course.task.tokenizer, data, CONFIG, SEED)
    bars = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        with warnings.catch_warnings():  # TRL and transformers rename their settings now and then
            warnings.simplefilter("ignore", FutureWarning)
            tables = {"week6": dpo_with_week6(*arguments), "TRL": dpo_with_trl(*arguments)}
    finally:
        if bars:
            enable_progress_bars()
    return pd.concat([table.assign(by=name) for name, table in tables.items()], ignore_index=True)


def main() -> None:
    """Record the table."""
    write_atomic(TABLE, both(lesson()).round(5).to_csv(index=False))
    print(TABLE)


if __name__ == "__main__":
    main()
