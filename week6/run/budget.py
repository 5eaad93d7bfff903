"""What a run costs, by counting: operations, seconds on a machine, memory. `python -m week6.run.budget gpt2` prints it.

A *row* is a prompt with its answer, padded to P + T = L tokens. N parameters of the transformer's blocks multiply each
of them, and the V × d of the language-model head only the T of the answer; a multiplication and an addition are two
operations, and a backward pass costs two forward ones (Kaplan et al. 2020, "Scaling laws for neural language models",
section 2.1):

    forward, a row      2 N L + 2 V d T           N = 12 · layers · d²
    and backward        three times that
    reward model        the same without 2 V d T

Attention's own products, 4 · layers · d · L² a row, are left out: L / (6 d) of the rest, 1.2 % for GPT-2 at L = 56.

A sampled token waits for Python and for the memory: all weights are read, and the cache of keys and values, to which it
is added in place. The figures are upper bounds in that no answer ends before T tokens.
"""

import math
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from week6.run.models import PRESETS, Preset

SAMPLE_BATCH = 512
"""Answers that `evaluation.sample_batches` samples at once."""
SCORED_ROWS = 128
"""Answers that are judged at once: more where there is more memory than is asked for here."""
POLICIES = 3
"""SFT, PPO and DPO are evaluated."""
GB = 1e9


@dataclass(frozen=True)
class Shape:
    """The model, and what is assumed of the data: tokens of a padded prompt and answer, and how many are held out."""

    layers: int
    width: int
    vocabulary: int
    positions: int
    prompt: int
    answer: int
    heldout_prompts: int
    answers_per_prompt: int
    """Of which annotators compare every two."""

    @property
    def row(self) -> int:
        """L, tokens of a row."""
        return self.prompt + self.answer

    @property
    def blocks(self) -> int:
        """N, parameters that multiply every token: 4 d² in attention and 8 d² behind it, in every layer."""
        return 12 * self.layers * self.width**2

    @property
    def head(self) -> int:
        """V d, parameters of the language-model head, which are also the embeddings of the tokens."""
        return self.vocabulary * self.width

    @property
    def parameters(self) -> int:
        """All that is stored, but for biases."""
        return self.blocks + self.head + self.positions * self.width


SHAPES = {"gpt2": Shape(12, 768, 50_257, 1024, prompt=8, answer=48, heldout_prompts=500, answers_per_prompt=4)}
"""Prompts of `sentiment` have 2 to 8 tokens, 5 on average, and are padded to the longest; answers are as long as the
preset lets them be."""


@dataclass(frozen=True)
class Machine:
    """A device, from its data sheet, and what is assumed of it."""

    name: str
    half_flops: float
    """Operations a second in half precision: the transformer's blocks."""
    single_flops: float
    """In single precision: the head, whose logits bf16 and fp16 would round."""
    bandwidth: float
    """Bytes a second."""
    utilisation: float
    """Assumed share of both peaks that is reached."""
    token_seconds: float
    """Assumed time that Python takes for one sampled token of a whole batch."""
    step_seconds: float
    """Assumed time that Python and the optimizer take for a gradient step."""
    reserved: float
    """Assumed bytes of memory that the device's libraries take."""


T4 = Machine("T4", 65e12, 8.1e12, 320e9, utilisation=0.2, token_seconds=0.03, step_seconds=0.1, reserved=0.6e9)
"""NVIDIA T4 (data sheet and product brief): 65 TFLOP/s with tensor cores, 8.1 without, 320 GB/s; Colab's has 15 GB."""


@dataclass(frozen=True)
class Work:
    """What one stage does, in rows."""

    steps: int = 0
    """Gradient steps."""
    trained: int = 0
    """Forward and backward through a language model."""
    scored: int = 0
    """Forward only: log-probabilities."""
    sampled: int = 0
    batches: int = 0
    """In so many batches: each waits for Python once a token."""
    reward_trained: int = 0
    reward_scored: int = 0
    """By the reward model, which has no language-model head."""

    @property
    def rows(self) -> int:
        """All rows, each as often as it goes through a model."""
        return self.trained + self.scored + self.sampled + self.reward_trained + self.reward_scored


def stage_work(preset: Preset, shape: Shape) -> dict[str, Work]:
    """The work of every stage of `pipeline.run`, for a preset whose pairs are sampled from the SFT model."""
    sft, reward, ppo, dpo, sizes = preset.sft, preset.reward, preset.ppo, preset.dpo, preset.evaluation
    k, heldout = shape.answers_per_prompt, shape.heldout_prompts

    def batches(rows: int) -> int:
        return math.ceil(rows / SAMPLE_BATCH)

    asked = math.ceil(preset.n_pairs / math.comb(k, 2))
    heldout_pairs = heldout * sizes.heldout_pairs
    every = max(1, dpo.steps // sizes.probes)
    probes = len({*range(0, dpo.steps, every), dpo.steps - 1})
    answers, candidates = heldout * sizes.answers_per_prompt, heldout * sizes.best_of * sizes.best_of_answers
    judged = POLICIES * answers + candidates
    return {
        "sft": Work(steps=sft.steps, trained=sft.steps * sft.batch_size),
        "pairs": Work(
            sampled=k * asked + 2 * heldout_pairs,
            batches=k * batches(asked) + 2 * batches(heldout_pairs),
        ),
        "reward_model": Work(
            steps=reward.steps,
            reward_trained=2 * reward.steps * reward.batch_size,
            reward_scored=2 * heldout_pairs + sizes.calibration_answers,
            sampled=sizes.calibration_answers,
            batches=batches(sizes.calibration_answers),
        ),
        "ppo": Work(
            steps=ppo.steps * ppo.epochs * ppo.minibatches,
            trained=ppo.steps * ppo.epochs * ppo.batch_size,
            scored=2 * ppo.steps * ppo.batch_size,  # by the reference, and by the policy for its values
            sampled=ppo.steps * ppo.batch_size,
            batches=ppo.steps,
            reward_scored=ppo.steps * ppo.batch_size,
        ),
        "dpo": Work(
            steps=dpo.steps,
            trained=2 * dpo.steps * dpo.batch_size,
            scored=2 * preset.n_pairs + probes * sizes.probe_answers,
            sampled=probes * sizes.probe_answers,
            batches=probes * batches(sizes.probe_answers),
        ),
        "evaluation": Work(
            scored=judged,
            sampled=judged,
            batches=POLICIES * batches(answers) + batches(candidates),
            reward_scored=judged,
        ),
    }


def flops(work: Work, shape: Shape) -> tuple[float, float]:
    """Operations in the blocks, 2 N L a row and pass, and in the head, 2 V d T; training is three passes."""
    with_head = 3 * work.trained + work.scored + work.sampled
    without = 3 * work.reward_trained + work.reward_scored
    return 2.0 * shape.blocks * shape.row * (with_head + without), 2.0 * shape.head * shape.answer * with_head


def stage_flops(preset: Preset, shape: Shape) -> dict[str, float]:
    """Operations of every stage."""
    return {stage: sum(flops(work, shape)) for stage, work in stage_work(preset, shape).items()}


def cache_bytes(shape: Shape) -> float:
    """A row's keys and values on average: 2 · layers · d numbers of 2 bytes for each of P + T/2 tokens."""
    return 4.0 * shape.layers * shape.width * (shape.prompt + shape.answer / 2)


def sampling_bytes(work: Work, shape: Shape) -> float:
    """Bytes that sampling moves: weights, once a token of a batch, and the cache, once a token of a row.

    8 bytes a parameter at most: read in fp32, written and read in half precision. The cache is read once to attend;
    what a token adds to it is little beside that.
    """
    return shape.answer * (work.batches * 8.0 * shape.parameters + work.sampled * cache_bytes(shape))


def seconds(work: Work, shape: Shape, machine: Machine) -> float:
    """Operations at the assumed share of the peaks, then sampling's waits, then the fixed cost of gradient steps."""
    blocks, head = flops(work, shape)
    calculating = (blocks / machine.half_flops + head / machine.single_flops) / machine.utilisation
    waiting = work.batches * shape.answer * machine.token_seconds + sampling_bytes(work, shape) / machine.bandwidth
    return calculating + waiting + work.steps * machine.step_seconds


# --- memory ----------------------------------------------------------------------------------------------------------


def training_row_bytes(shape: Shape, head: bool = True) -> float:
    """What one row keeps between forward and backward: 4 (28 · layers · d · L + 5 · V · T) bytes.

    A block keeps 28 numbers per token and unit of width (GPT-2's own activation function, fp32; half precision takes
    less); each logit is there five times, with its softmax, their gradients and a copy.
    """
    return 4.0 * (28 * shape.layers * shape.width * shape.row + 5 * shape.vocabulary * shape.answer * head)


def scoring_row_bytes(shape: Shape) -> float:
    """What one row takes without a backward pass: 4 (4 · layers · d · L + 3 · V · T) bytes, with hidden states."""
    return 4.0 * (4 * shape.layers * shape.width * shape.row + 3 * shape.vocabulary * shape.answer)


def stage_bytes(preset: Preset, shape: Shape, machine: Machine) -> dict[str, list[float]]:
    """Memory at the worst moment of a stage: [trained model, frozen models, half-precision copy, rows, reserved].

    A trained model has 16 bytes a parameter: weights, gradients and two moments of Adam in fp32; a frozen one 4. The
    rows are those of a whole minibatch, and in the evaluation SCORED_ROWS of them.
    """

    def parts(trained: int, frozen: int, rows: float) -> list[float]:
        n = shape.parameters
        return [16.0 * n * trained, 4.0 * n * frozen, 2.0 * n, rows, machine.reserved]

    row, sampled = training_row_bytes(shape), min(SAMPLE_BATCH, shape.heldout_prompts * shape.answers_per_prompt)
    cache = sampled * (4.0 * shape.layers * shape.width * shape.row + 4.0 * 4 * shape.vocabulary)
    return {
        "sft": parts(1, 0, preset.sft.batch_size * row),
        "pairs": parts(0, 1, cache),
        "reward_model": parts(1, 1, 2 * preset.reward.batch_size * training_row_bytes(shape, head=False)),
        "ppo": parts(1, 2, math.ceil(preset.ppo.batch_size / preset.ppo.minibatches) * row),
        "dpo": parts(1, 3, 2 * preset.dpo.batch_size * row),
        "evaluation": parts(0, 4, max(cache, SCORED_ROWS * scoring_row_bytes(shape))),
    }


# --- to read ---------------------------------------------------------------------------------------------------------


def report(preset: Preset, shape: Shape, machine: Machine) -> str:
    """The arithmetic and its results as Markdown."""
    work = stage_work(preset, shape)
    times = {stage: seconds(part, shape, machine) for stage, part in work.items()}
    blocks, head = (sum(values) for values in zip(*(flops(part, shape) for part in work.values()), strict=True))
    fixed = sum(times.values()) - (blocks / machine.half_flops + head / machine.single_flops) / machine.utilisation
    at_half = fixed + 2 * (sum(times.values()) - fixed)
    memory = stage_bytes(preset, shape, machine)
    row_blocks, row_head = flops(Work(scored=1), shape)
    lines = [
        f"A row is {shape.prompt} + {shape.answer} = {shape.row} tokens: prompts are padded to the longest, and no "
        f"answer is taken to end before its limit. N = 12 · {shape.layers} · {shape.width}² = "
        f"{shape.blocks / 1e6:.1f} M parameters multiply each of them, and the head's V d = {shape.vocabulary:,} · "
        f"{shape.width} = {shape.head / 1e6:.1f} M the {shape.answer} of the answer. A forward pass of a row takes "
        f"2 N · {shape.row} = {row_blocks / 1e9:.2f} GFLOP in the blocks and 2 V d · {shape.answer} = "
        f"{row_head / 1e9:.2f} GFLOP in the head, training three times as much; the reward model has no such head. "
        "The blocks are computed in half precision, the head in single.",
        "",
        "| stage | gradient steps | rows trained | scored | sampled (batches) | reward model: trained | scored "
        f"| M tokens | TFLOP: blocks | head | TB moved in sampling | seconds on a {machine.name} |",
        f"|{'---|' * 12}",
    ]
    for stage, part in work.items():
        counts = [
            f"{part.steps:,}",
            f"{part.trained:,}",
            f"{part.scored:,}",
            f"{part.sampled:,} ({part.batches:,})" if part.sampled else "0",
            f"{part.reward_trained:,}",
            f"{part.reward_scored:,}",
            f"{part.rows * shape.row / 1e6:.2f}",
            *(f"{value / 1e12:.0f}" for value in flops(part, shape)),
            f"{sampling_bytes(part, shape) / 1e12:.1f}",
            f"{times[stage]:.0f}",
        ]
        lines.append(f"| {stage} | {' | '.join(counts)} |")
    tokens = sum(part.rows for part in work.values()) * shape.row / 1e6
    moved = sum(sampling_bytes(part, shape) for part in work.values()) / 1e12
    lines += [
        f"| all | | | | | | | {tokens:.2f} | {blocks / 1e12:.0f} | {head / 1e12:.0f} | {moved:.1f} "
        f"| {sum(times.values()):.0f} |",
        "",
        f"Seconds = blocks' TFLOP / ({machine.half_flops / 1e12:g} · {machine.utilisation:g}) + head's TFLOP / "
        f"({machine.single_flops / 1e12:g} · {machine.utilisation:g}) + batches · {shape.answer} · "
        f"{1e3 * machine.token_seconds:g} ms + sampling's bytes / {machine.bandwidth / GB:g} GB/s + gradient steps · "
        f"{1e3 * machine.step_seconds:g} ms. Sampling moves {shape.answer} · (batches · 8 bytes · "
        f"{shape.parameters / 1e6:.1f} M parameters + rows · {cache_bytes(shape):,.0f} bytes). "
        f"The peaks and the bandwidth are those of the data sheet; the {100 * machine.utilisation:g} % of the peaks "
        f"and the times of Python are assumed. In all {sum(times.values()) / 60:.0f} minutes; with half of these "
        f"{100 * machine.utilisation:g} %, {at_half / 60:.0f}. Downloads, tokenising, the gold reward and plots are "
        "not counted.",
        "",
        "| GB at the worst moment of | trained model | frozen models | half-precision copy | rows | libraries | all |",
        f"|{'---|' * 7}",
    ]
    for stage, sizes in memory.items():
        cells = [f"{size / GB:.1f}" for size in (*sizes, sum(sizes))]
        lines.append(f"| {stage} | {' | '.join(cells)} |")
    n = f"{shape.parameters / 1e6:.1f} M parameters"
    lines += [
        "",
        f"A trained model takes 16 bytes for each of {n} (weights, gradients, two moments of Adam), a frozen one 4. A "
        f"row in training keeps 4 · (28 · {shape.layers} · {shape.width} · {shape.row} + 5 · {shape.vocabulary:,} · "
        f"{shape.answer}) bytes = {training_row_bytes(shape) / 1e6:.0f} MB, and a whole minibatch is in memory at "
        f"once. In the evaluation a row takes {scoring_row_bytes(shape) / 1e6:.0f} MB, in parts of {SCORED_ROWS} rows.",
    ]
    return "\n".join(line if line.startswith("|") else textwrap.fill(line, 120) for line in lines)


def main(arguments: Sequence[str]) -> int:
    """Print the budget of a preset; returns the exit code."""
    if len(arguments) != 1 or arguments[0] not in SHAPES:
        print(f"expected one of {', '.join(SHAPES)}: python -m week6.run.budget gpt2", file=sys.stderr)
        return 2
    print(report(PRESETS[arguments[0]], SHAPES[arguments[0]], T4))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
