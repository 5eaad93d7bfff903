"""One DPO step of week6 beside one of TRL's `DPOTrainer`, measured: `python tools/bench_dpo.py`.

The model has GPT-2-small's shape and random weights, the batch is 4 pairs of 64 prompt and 64 answer tokens. Both start
from the same weights and see the same token tensors in fp32, with PyTorch's attention, the same AdamW, learning rates
and clipping, and log-probabilities of the reference computed before the first step. Both libraries run their own
training loop, each in a process of its own, whose peak memory is reported; the processes take turns, one step each.
They need 14 GB together.

"matched" is the fair comparison. "as it comes" are TRL's own defaults: the reference runs in every step, activations
are computed twice to save memory, and matrices are multiplied in bf16.

Before anything is timed the losses must be equal, and they are compared again after the last step. Exit code 1 where
they are not, or where the ratio of the medians, TRL's matched over week6's, is below 1.5.
"""

import argparse
import json
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast, TrainerCallback
from transformers import logging as transformers_logging

from week6.classroom.handover import trl_trainer
from week6.dpo import DPOConfig, train_dpo
from week6.machine.optim import make_optimizer
from week6.run.models import PRESETS, frozen_copy, new_policy
from week6.run.training import Usage
from week6.sequences import encode_pairs

OURS, MATCHED, DEFAULTS = "week6", "TRL, matched", "TRL, as it comes"
CONTENDERS = {
    MATCHED: {"precompute_ref_log_probs": True},
    DEFAULTS: {"precompute_ref_log_probs": False, "gradient_checkpointing": True, "bf16": True},
}
"""What differs from week6's settings in TRL's."""
REQUIRED = 1.5
"""TRL's median over week6's, with the same settings."""
TOLERANCE = {MATCHED: 1e-4, DEFAULTS: 5e-2}
"""Largest difference of a loss from week6's, in nats. In fp32 the log-probability of an answer, hundreds of nats, is
rounded in its sixth digit; bf16 has three. The losses themselves move by much more in a run."""
SEED = 0


@dataclass(frozen=True)
class Shape:
    """The model, and a batch of `pairs` pairs of `prompt` + `answer` tokens (the end token is one of the answer's)."""

    layers: int = 12
    heads: int = 12
    width: int = 768
    vocabulary: int = 50_257
    pairs: int = 4
    prompt: int = 64
    answer: int = 64
    learning_rate: float = 2e-6
    """At which the loss falls, but not to nothing, in some ten steps."""


SHAPES = {
    "gpt2": Shape(),
    "small": Shape(layers=2, heads=2, width=32, vocabulary=199, prompt=12, answer=12, learning_rate=1e-3),
}


@dataclass(frozen=True)
class Measured:
    """What one contender took: seconds and loss of every timed step, and the peak memory of its process in MB."""

    seconds: list[float]
    losses: list[float]
    peak_memory_mb: float


# --- what is run -----------------------------------------------------------------------------------------------------


def number_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """Words are numbers, and token n is the word n; the last is the end token, and pads."""
    end = "<end>"
    core = Tokenizer(models.WordLevel({str(i): i for i in range(vocabulary - 1)} | {end: vocabulary - 1}, end))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token=end, pad_token=end)


def random_pairs(shape: Shape) -> Dataset:
    """One batch of random tokens, as the text of `number_tokenizer`."""
    rng = random.Random(SEED)

    def words(n: int) -> str:
        return " ".join(str(rng.randrange(shape.vocabulary - 1)) for _ in range(n))

    rows = [
        {
            "prompt": words(shape.prompt),
            "chosen": " " + words(shape.answer - 1),
            "rejected": " " + words(shape.answer - 1),
        }
        for _ in range(shape.pairs)
    ]
    return Dataset.from_list(rows)


def random_model(shape: Shape, tokenizer: PreTrainedTokenizerFast) -> GPT2LMHeadModel:
    """A GPT-2 of this shape; the same weights in every process."""
    preset = replace(
        PRESETS["gpt2"],
        layers=shape.layers,
        heads=shape.heads,
        width=shape.width,
        positions=shape.prompt + shape.answer,
    )
    model = new_policy(preset, tokenizer, SEED)
    assert model.config._attn_implementation == "sdpa" and model.dtype == torch.float32
    return model


class Turns:
    """A child's side of the turns: wait for one, take the time, tell the loss."""

    def __init__(self, connection: Connection) -> None:
        self.connection, self.start, self.seconds = connection, 0.0, 0.0

    def begin(self) -> None:
        """Wait, then start the clock."""
        self.connection.recv()
        self.start = time.perf_counter()

    def end(self) -> None:
        """Stop the clock."""
        self.seconds = time.perf_counter() - self.start

    def tell(self, loss: float) -> None:
        """Answer the parent."""
        self.connection.send((self.seconds, loss))


def with_week6(shape: Shape, steps: int, turns: Turns) -> None:
    """`train_dpo`, a step a turn."""
    tokenizer, data, config = number_tokenizer(shape.vocabulary), random_pairs(shape), settings(shape, steps)
    policy = random_model(shape, tokenizer)
    reference = frozen_copy(policy)
    pairs = encode_pairs(tokenizer, data["prompt"], data["chosen"], data["rejected"])
    assert pairs.prompts.shape == (shape.pairs, shape.prompt) and pairs.chosen.shape == (shape.pairs, shape.answer)
    loop = train_dpo(policy, reference, make_optimizer(policy, config.learning_rate), pairs, config, SEED)
    for _ in range(steps):
        turns.begin()
        row = next(loop)
        turns.end()
        turns.tell(row["loss"])


def with_trl(shape: Shape, steps: int, turns: Turns, changes: dict[str, Any]) -> None:
    """`DPOTrainer.train`, a step a turn: from the batch on the device to the end of the optimizer's step."""

    class Watch(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            turns.begin()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            turns.end()

        def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
            if "loss" in logs:
                turns.tell(logs["loss"])

    tokenizer = number_tokenizer(shape.vocabulary)
    with tempfile.TemporaryDirectory() as folder:
        trainer = trl_trainer(
            random_model(shape, tokenizer), tokenizer, random_pairs(shape), settings(shape, steps), folder, **changes
        )
        trainer.add_callback(Watch())
        trainer.train()


def settings(shape: Shape, steps: int) -> DPOConfig:
    """Of both libraries."""
    return DPOConfig(steps=steps, batch_size=shape.pairs, learning_rate=shape.learning_rate, beta=0.1)


def child(name: str, shape: Shape, steps: int, threads: int, connection: Connection) -> None:
    """A whole run of one contender, and then its peak memory."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    torch.set_num_threads(threads)
    transformers_logging.set_verbosity_error()
    usage, turns = Usage(), Turns(connection)
    with open(os.devnull, "w") as quiet:
        os.dup2(quiet.fileno(), 1)  # progress bars and tables of the libraries
        os.dup2(quiet.fileno(), 2)
    try:
        if name == OURS:
            with_week6(shape, steps, turns)
        else:
            with_trl(shape, steps, turns, CONTENDERS[name])
    except Exception as error:
        return connection.send(error)
    usage.tick()
    connection.send(usage.peak_memory_mb)


# --- the comparison --------------------------------------------------------------------------------------------------


@contextmanager
def children(names: Sequence[str], shape: Shape, steps: int, threads: int) -> Iterator[dict[str, Connection]]:
    """A process for each contender, new and without anything of this one's memory."""
    context = multiprocessing.get_context("spawn")
    pipes = {name: context.Pipe() for name in names}
    processes = [
        context.Process(target=child, args=(name, shape, steps, threads, far), daemon=True)
        for name, (_, far) in pipes.items()
    ]
    for process in processes:
        process.start()
    for _, far in pipes.values():
        far.close()
    try:
        yield {name: near for name, (near, _) in pipes.items()}
    finally:
        for near, _ in pipes.values():
            near.close()  # a child that waits for its turn ends then
        for process in processes:
            process.join(10)
            process.terminate()


def measure(names: Sequence[str], shape: Shape, steps: int, warmup: int, threads: int) -> dict[str, Measured]:
    """Warm up, compare the losses, and time `steps` steps of each, one in turn. ValueError for unequal losses."""
    seconds: dict[str, list[float]] = {name: [] for name in names}
    losses: dict[str, list[float]] = {name: [] for name in names}
    with children(names, shape, warmup + steps, threads) as connections:
        for step in range(warmup + steps):
            for name, connection in connections.items():
                taken, loss = answer(connection, name, "go")
                seconds[name].append(taken)
                losses[name].append(loss)
            if step == warmup - 1:
                check_losses(losses)
        check_losses(losses)
        peaks = {name: answer(connection, name) for name, connection in connections.items()}
    return {name: Measured(seconds[name][warmup:], losses[name], peaks[name]) for name in names}


def answer(connection: Connection, name: str, *asked: str) -> Any:
    """What a child says; RuntimeError if it has failed, or was killed (three processes need 14 GB)."""
    try:
        for word in asked:
            connection.send(word)
        said = connection.recv()
    except (EOFError, OSError):
        raise RuntimeError(f"{name}: its process has ended before its last step; is there enough memory?") from None
    if isinstance(said, Exception):
        raise RuntimeError(f"{name}: {said}") from said
    return said


def check_losses(losses: dict[str, list[float]]) -> None:
    """Raise ValueError unless every loss of every contender is week6's, within its tolerance."""
    for name, values in losses.items():
        if name == OURS:
            continue
        differences = [abs(a - b) for a, b in zip(values, losses[OURS], strict=True)]
        wrong = [step for step, difference in enumerate(differences) if not difference <= TOLERANCE[name]]
        if wrong:
            step = wrong[0]
            raise ValueError(
                f"losses: got {values[step]:.6f} from {name} and {losses[OURS][step]:.6f} from week6 at step {step}, "
                f"expected a difference of at most {TOLERANCE[name]:g} nats"
            )


def ratio(measured: dict[str, Measured], name: str) -> float:
    """The median time of a step over week6's."""
    return statistics.median(measured[name].seconds) / statistics.median(measured[OURS].seconds)


def table(measured: dict[str, Measured]) -> str:
    """One row a contender: median and quartiles of the seconds, ratio to week6, peak memory, first and last loss."""
    lines = [
        "| | seconds a step: median | quartiles | ratio to week6 | peak memory (MB) | loss: first → last |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in measured.items():
        low, median, high = statistics.quantiles(row.seconds, n=4, method="inclusive")
        cells = [
            name,
            f"{median:.3f}",
            f"{low:.3f} – {high:.3f}",
            f"{ratio(measured, name):.2f}",
            f"{row.peak_memory_mb:.0f}",
            f"{row.losses[0]:.5f} → {row.losses[-1]:.5f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table; returns the exit code."""
    parser = argparse.ArgumentParser(description="One DPO step: week6 against TRL.")
    parser.add_argument("--steps", type=int, default=30, help="timed steps of each (at least 2)")
    parser.add_argument(
        "--warmup", type=int, default=5, help="steps before them, whose losses must be equal (at least 1)"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of a process")
    parser.add_argument("--shape", choices=SHAPES, default="gpt2", help="of the model and the batch")
    parser.add_argument("--json", type=Path, help="a file for all figures")
    words = parser.parse_args(arguments)
    if words.steps < 2 or words.warmup < 1 or words.threads < 1:
        parser.error("expected --steps of at least 2, --warmup and --threads of at least 1")
    shape = SHAPES[words.shape]
    try:
        measured = measure([OURS, *CONTENDERS], shape, words.steps, words.warmup, words.threads)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    found = ratio(measured, MATCHED)
    print(
        f"One DPO step, {shape.pairs} pairs × ({shape.prompt} + {shape.answer}) tokens, shape {words.shape}, fp32, "
        f"{words.threads} threads, {words.steps} steps in turn after {words.warmup} to warm up\n\n{table(measured)}\n"
    )
    if words.json:
        figures = {name: asdict(row) for name, row in measured.items()}
        head = {"shape": asdict(shape), "threads": words.threads, "warmup": words.warmup, "torch": torch.__version__}
        words.json.write_text(json.dumps(head | {"ratio": found, "measured": figures}, indent=1) + "\n")
    if found < REQUIRED:
        print(f"ratio of {MATCHED!r} to week6: {found:.2f}, expected {REQUIRED} or more", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
