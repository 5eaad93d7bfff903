"""`week6 confirm --here FOLDER`: does the course compute on this GPU what it computes elsewhere? Without a hub.

A model of GPT-2-small's shape with random weights is enough to tell: precision, memory against what `run.budget`
counts, throughput beside TRL, a training that is killed and goes on, one that goes on on the GPU. Without a GPU a small
model is tried on the CPU, which confirms nothing about a GPU, and what cannot be tried is named.
"""

import math
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from datasets import Dataset
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from week6.classroom.confirm import NO_GPU, Findings, Killed, Limits, distance
from week6.classroom.handover import trl_trainer
from week6.dpo import DPOConfig, train_dpo
from week6.log_probs import response_log_probs
from week6.machine.checkpoint import RunError, write_atomic
from week6.machine.compute import compute, using
from week6.machine.optim import make_optimizer
from week6.machine.paths import check_writable, place
from week6.ppo import AdaptiveKL, PolicyWithValue, PPOConfig, train_ppo
from week6.run import training
from week6.run.budget import Shape, training_row_bytes
from week6.run.forecast import SHORT, describe
from week6.run.training import Run, run_stage, versions
from week6.sampling import sample
from week6.sequences import Pairs, Rollout, encode_pairs
from week6.tasks.assistant import build_tokenizer

MINUTES = 8.0
"""That all of it may take."""
MORE = 1.2
"""Of the memory that is counted, as much as a step may take."""
WARM_UP = 2
"""Steps that are not timed."""
BETA = 0.1


@dataclass(frozen=True)
class Size:
    """A model, and a batch of `pairs` pairs of `prompt` + `answer` tokens, for `steps` steps."""

    layers: int = 12
    heads: int = 12
    width: int = 768
    vocabulary: int = 50_257
    pairs: int = 8
    prompt: int = 64
    answer: int = 64
    steps: int = 12


SMALL = Size(layers=2, heads=2, width=32, vocabulary=300, pairs=4, prompt=12, answer=12, steps=6)
"""What a CPU can do at once."""


def confirm_here(folder: Path | str, tell: Callable[[str], None] = print, limits: Limits | None = None) -> bool:
    """Make all checks, and write their lines to `folder`/confirm.md; whether a GPU passed them all.

    Raises RunError for a folder that cannot be written to.
    """
    folder, lines, limits, began = place(folder, "--here"), list[str](), limits or Limits(), time.perf_counter()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"--here {folder}: cannot be made ({error.strerror}), expected a folder to write to") from error
    check_writable(folder, "--here")
    if (folder / "confirm.md").is_dir():
        raise RunError(f"--here {folder}: its confirm.md is a folder, expected a file to write; choose another place")
    gpu = compute().device.type == "cuda"

    def note(line: str) -> None:
        lines.append(line)
        tell(line)

    findings = Findings(note)
    findings.check("device", gpu, describe(compute()), "CUDA")
    size = Size() if gpu else SMALL
    model = random_model(size)
    data = random_pairs(size)
    pairs = encode_pairs(build_tokenizer(), data["prompt"], data["chosen"], data["rejected"]).to(compute().device)
    _check_precision(findings, model, pairs, limits)
    _check_dpo(findings, model, pairs, size)
    _check_ppo(findings, model, pairs, size, limits)
    _check_trl(findings, model, data, size)
    with tempfile.TemporaryDirectory(dir=folder) as runs:
        here = {"dtype": compute().dtype}
        _check_resume(findings, "killed, resumed", size, Path(runs) / "killed", here, here, limits)
        if gpu:
            cpu, exact = {"device": torch.device("cpu"), "dtype": torch.float32}, {"dtype": torch.float32}
            _check_resume(findings, "from CPU to GPU", SMALL, Path(runs) / "moved", cpu, exact, limits)
        else:
            findings.skip(("from CPU to GPU",), "needs a GPU")
    minutes = (time.perf_counter() - began) / 60
    findings.check("time", minutes < MINUTES, f"{minutes:.1f} minutes", f"less than {MINUTES:g}")
    if not gpu:
        note(NO_GPU.partition(" (")[0])
    about = ", ".join(f"{name} {number}" for name, number in versions().items())
    table = "\n".join(f"    {line}" for line in lines)
    write_atomic(folder / "confirm.md", f"# {describe(compute())}\n\n{about}\n\n{table}\n")
    return gpu and not findings.failed


def random_model(size: Size) -> GPT2LMHeadModel:
    """A GPT-2 of this size; the same weights each time. Its logits spread over some nats, as those of a trained one."""
    tokenizer = build_tokenizer()
    config = GPT2Config(
        vocab_size=size.vocabulary, n_positions=2 * (size.prompt + size.answer), n_embd=size.width, n_layer=size.layers,
        n_head=size.heads, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GPT2LMHeadModel(config)
    model.eval().requires_grad_(False)  # type: ignore[no-untyped-call]
    model.transformer.wte.weight.mul_(4)
    model.to(compute().device)  # type: ignore[arg-type]  # transformers hides the signature
    return model


def random_pairs(size: Size) -> Dataset:
    """Texts of random words of the chatbot's tokenizer, each a token; an answer's last token is the end."""
    rng, known = random.Random(0), sorted(build_tokenizer().get_vocab())
    words = [word for word in known if word.isalpha()]

    def text(n: int) -> str:
        return " ".join(rng.choices(words, k=n))

    rows = [
        {"prompt": text(size.prompt), "chosen": f" {text(size.answer - 1)}", "rejected": f" {text(size.answer - 1)}"}
        for _ in range(size.pairs)
    ]
    return Dataset.from_list(rows)


def _check_precision(findings: Findings, model: nn.Module, pairs: Pairs, limits: Limits) -> None:
    """Answers are scored by the distribution that they were sampled from, and that is the one of fp32, to rounding."""
    prompts, mask = pairs.prompts, pairs.prompt_mask
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        name = f"precision, {SHORT[dtype]}"
        gpu = compute().device.type == "cuda"
        if dtype == torch.bfloat16 and gpu and not torch.cuda.is_bf16_supported(including_emulation=False):
            findings.skip((name,), "this GPU computes none")
            continue
        with using(dtype=dtype):
            generator = torch.Generator(prompts.device).manual_seed(0)
            said = sample(model, prompts, mask, 16, generator=generator)
            own = response_log_probs(model, prompts, mask, said.responses, said.response_mask)
        with using(dtype=torch.float32), torch.no_grad():
            exact = response_log_probs(model, prompts, mask, said.responses, said.response_mask)
        apart, off = (float((x.detach() - said.log_probs).abs().max()) for x in (own, exact))
        most = limits.ratio[dtype]
        found = f"sampled and scored log π differ by {apart:.2g} nats at most, from fp32 by {off:.2g}"
        findings.check(name, max(apart, off) <= most, found, f"at most {most:g}")


def _check_dpo(findings: Findings, model: GPT2LMHeadModel, pairs: Pairs, size: Size) -> None:
    """Time and memory of DPO's steps."""
    here = compute()
    cuda = here.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    policy = deepcopy(model).requires_grad_(True)
    config = DPOConfig(steps=size.steps, batch_size=size.pairs, learning_rate=1e-5, beta=BETA)
    seconds, rows = _timed(train_dpo(policy, model, make_optimizer(policy, 1e-5), pairs, config, 0))
    losses = [row["loss"] for row in rows]
    first = abs(losses[0] - math.log(2))
    found = f"{1000 * seconds:.0f} ms a step of {size.pairs} pairs, {rows[-1]['tokens'] / seconds:.0f} tokens/s"
    good = all(map(math.isfinite, losses)) and first < 1e-3
    findings.check("DPO", good, f"{found}; first loss {losses[0]:.5f}", "ln 2 first, finite losses")
    if not cuda:
        findings.skip(("DPO's memory",), "is counted by CUDA alone")
        return
    shape = Shape(size.layers, size.width, size.vocabulary, 0, size.prompt, size.answer, 0, 0)
    n, rows_bytes = policy.num_parameters(), 2 * size.pairs * training_row_bytes(shape)
    counted = (20 + 2 * (here.dtype != torch.float32)) * n + rows_bytes
    peak = torch.cuda.max_memory_allocated()
    findings.check(
        "DPO's memory", peak <= MORE * counted, f"{peak / 1e9:.2f} GB", f"at most {MORE:g} times {counted / 1e9:.2f} GB"
    )


def _check_ppo(findings: Findings, model: GPT2LMHeadModel, pairs: Pairs, size: Size, limits: Limits) -> None:
    """Time of sampling and of PPO's steps, and its first ratio."""
    prompts, mask = pairs.prompts.repeat(4, 1), pairs.prompt_mask.repeat(4, 1)
    counts, began = 0, time.perf_counter()
    for seed in range(3):
        if seed == 1:
            counts, began = 0, time.perf_counter()
        generator = torch.Generator(prompts.device).manual_seed(seed)
        counts += int(sample(model, prompts, mask, size.answer, generator=generator).response_mask.sum())
    rate = counts / (time.perf_counter() - began)
    findings.check("sampling", counts > 0, f"{rate:.0f} tokens/s, {len(prompts)} answers at a time", "some tokens")

    def reward(answers: Rollout) -> torch.Tensor:
        return (answers.responses % 7 == 0).float().mean(1)

    actor = PolicyWithValue(deepcopy(model).requires_grad_(True)).to(prompts.device)
    config = PPOConfig(
        steps=size.steps // 2, batch_size=len(prompts), epochs=2, minibatches=2, learning_rate=1e-5, beta=BETA,
        max_new_tokens=size.answer,
    )  # fmt: skip
    controller = AdaptiveKL(config.beta, 1.0, config.horizon)
    loop = train_ppo(actor, model, reward, prompts, mask, make_optimizer(actor, 1e-5), controller, config, 0)
    seconds, rows = _timed(row for row, _ in loop)
    ratio, most = max(row["first_ratio_deviation"] for row in rows), limits.ratio[compute().dtype]
    found = f"{1000 * seconds:.0f} ms a step of {len(prompts)} answers, {rows[-1]['tokens'] / seconds:.0f} tokens/s"
    good = ratio <= most and all(math.isfinite(row["policy_loss"] + row["value_loss"]) for row in rows)
    findings.check("PPO", good, f"{found}; max |ρ − 1| = {ratio:.2g}", f"at most {most:g} first, finite losses")


def _check_trl(findings: Findings, model: GPT2LMHeadModel, data: Dataset, size: Size) -> None:
    """The same DPO by TRL: its first loss, and its time."""
    if find_spec("trl") is None:
        findings.skip(("DPO by TRL",), "TRL is not installed: pip install 'week6[trl]'")
        return
    from transformers import TrainerCallback

    begun: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            begun.append(time.perf_counter())

    dtype = compute().dtype
    changes = {"bf16": dtype == torch.bfloat16, "fp16": dtype == torch.float16, "precompute_ref_log_probs": True}
    config = DPOConfig(steps=size.steps, batch_size=size.pairs, learning_rate=1e-5, beta=BETA)
    with tempfile.TemporaryDirectory() as folder:
        trainer = trl_trainer(model, build_tokenizer(), data, config, folder, **changes)
        trainer.add_callback(Clock())
        trainer.train()
    first = next(row["loss"] for row in trainer.state.log_history if "loss" in row)
    times = [after - before for before, after in zip(begun[WARM_UP:], begun[WARM_UP + 1 :], strict=False)]
    found = f"{1000 * statistics.median(times):.0f} ms a step; first loss {first:.4f}"
    findings.check("DPO by TRL", abs(first - math.log(2)) < 1e-2, found, "ln 2 first")


def _check_resume(
    findings: Findings,
    name: str,
    size: Size,
    folder: Path,
    first: dict[str, Any],
    then: dict[str, Any],
    limits: Limits,
) -> None:
    """A training that is killed under the settings `first` and goes on under `then`, beside one that was not killed."""
    half = size.steps // 2

    def kill(step: int) -> None:
        if step == half - 1:
            training.CHECKPOINT_SECONDS = 0.0  # after the next step there is one
        if step == half + 1:
            raise Killed

    with patch.object(training, "CHECKPOINT_SECONDS", math.inf):
        with using(**first):
            start = random_model(size)
            whole = _train(Run.open(folder / "whole", size), size, None)
            try:
                _train(Run.open(folder / "resumed", size), size, kill)
            except Killed:
                pass
        with using(**then):
            again = Run.open(folder / "resumed", size, resume=True)
            begun = again.checkpoint("dpo").exists()
            resumed = _train(again, size, None)
    weights = distance(resumed, whole) / distance(whole, start)
    losses = [Run.open(folder / run, size, resume=True).metrics("dpo")["loss"].iloc[-1] for run in ("whole", "resumed")]
    loss = abs(losses[1] - losses[0]) / abs(losses[0])
    findings.check(
        name,
        begun and weights <= limits.weights and loss <= limits.loss,
        f"weights {100 * weights:.2g} % of the way apart, loss {loss:.1g}",
        f"a checkpoint, at most {100 * limits.weights:g} % and {limits.loss:g}",
    )


def _train(run: Run, size: Size, watch: Callable[[int], None] | None) -> GPT2LMHeadModel:
    """A stage of DPO in the folder of `run`, or the rest of it; `watch` sees every step."""
    reference = random_model(size)
    policy = deepcopy(reference).requires_grad_(True)
    data = random_pairs(size)
    pairs = encode_pairs(build_tokenizer(), data["prompt"], data["chosen"], data["rejected"]).to(compute().device)
    config = DPOConfig(steps=size.steps, batch_size=size.pairs, learning_rate=1e-5, beta=BETA)
    optimizer = make_optimizer(policy, config.learning_rate)

    def loop(start: int) -> Iterator[dict[str, float]]:
        for row in train_dpo(policy, reference, optimizer, pairs, config, 0, start):
            yield row
            if watch is not None:
                watch(int(row["step"]))

    run_stage(run, "dpo", loop, size.steps, policy, optimizer)
    return policy


def _timed(loop: Iterator[dict[str, float]]) -> tuple[float, list[dict[str, float]]]:
    """The median of the seconds of a step, without the first ones, and all rows; each ends with numbers of the GPU."""
    seconds, rows, before = list[float](), list[dict[str, float]](), time.perf_counter()
    for row in loop:
        now = time.perf_counter()
        seconds.append(now - before)
        rows.append(row)
        before = now
    return statistics.median(seconds[min(WARM_UP, len(seconds) - 1) :]), rows
