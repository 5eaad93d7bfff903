"""What all stages of a run share: its folder, its task, its settings, checked before anything is written."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from week6.dpo import check_variant
from week6.log_probs import response_forward, token_log_probs
from week6.machine.bounds import SEED, Seed, check_fields
from week6.machine.checkpoint import RunError
from week6.machine.compute import compute
from week6.machine.lora import LoRAConfig, check_lora
from week6.machine.pretrained import check_knows, load_tokenizer
from week6.ppo import AdaptiveKL, PolicyWithValue, PPOConfig
from week6.reward_model import RewardModel, score
from week6.run.forecast import Watcher, forecast, opening, say
from week6.run.models import PRESETS, Preset, check_size, initial_policy
from week6.run.record import Depends
from week6.run.training import Run, Usage, choose_device, run_stage, stage_seed
from week6.sampling import sample
from week6.sequences import encode_demonstrations, encode_prompts
from week6.tasks import Task, check_sources, load_task
from week6.tasks.hh import HHConfig

STAGES = ("requests", "sft", "pairs", "reward_model", "answer_pairs", "ppo", "dpo", "judge", "evaluation")
"""In their order; `requests` and `judge` only where they are asked for, `answer_pairs` only where people compared whole
texts."""
PAIRED = ("pairs", "heldout_pairs")
"""What a task may bring."""
TRIED = 4
"""Texts on which a pretrained model is tried."""
SPELT = 200
"""Texts whose words a pretrained model must know."""
HOPELESS = 3.0
"""A loss so many times that of a guess is no language model's: untrained ones guess, and those trained on other texts
are a little worse."""
ANSWER_TOKEN_BYTES = 40
"""What a token of an answer takes while it waits to be judged: ids, masks, log-probabilities, and a copy."""


@dataclass(frozen=True)
class RunConfig:
    """What a run's folder belongs to."""

    seed: Seed
    preset: Preset


@dataclass(frozen=True)
class Setting:
    """What all stages share."""

    run: Run
    preset: Preset
    task: Task
    seed: int
    device: torch.device
    watcher: Watcher | None = None
    """What looks on while a stage trains, and says how long the rest will take, for instance."""

    def train(
        self,
        stage: str,
        loop: Callable[[int], Iterator[dict[str, float]]],
        total: int,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        controller: AdaptiveKL | None = None,
    ) -> Usage:
        """`run_stage`, with the watcher looking on."""
        watcher = self.watcher
        rows = loop if watcher is None else lambda start: watcher.watch(stage, loop(start), start, total)
        return run_stage(self.run, stage, rows, total, module, optimizer, controller)

    def stage_seed(self, stage: str) -> int:
        """The seed of the random numbers of one stage."""
        return stage_seed(self.seed, stage)

    def prompts(self, split: str = "prompts") -> tuple[Tensor, Tensor]:
        """Training or ("heldout_prompts") held-out prompts: tokens and mask, on the device."""
        tokens, mask = encode_prompts(self.task.tokenizer, list(getattr(self.task, split)["prompt"]))
        return tokens.to(self.device), mask.to(self.device)


def open_setting(preset: Preset, folder: Path, seed: int = 0, resume: bool = False) -> Setting:
    """Read all that a run starts from, and then make its folder, or come back to it.

    Raises ValueError or RunError for bad settings, a bad model or bad data, before anything is written.
    """
    task = check_run(preset, seed)
    run = open_run(folder, RunConfig(seed, preset), resume)
    return Setting(run, preset, task, seed, choose_device())


def open_run(folder: Path, config: RunConfig, resume: bool = False) -> Run:
    """`Run.open` for the stages of the course, each bound to the settings that it is made with."""
    return Run.open(folder, config, resume, stages_of(config.preset))


def stages_of(preset: Preset) -> dict[str, Depends]:
    """Which settings decide a stage, and which stages it starts from. The preset's name decides none."""
    start = "seed task layers heads width positions model data column gold ratings hh"
    if preset.model is not None:  # such tasks leave out texts that are longer
        start += " ppo.max_new_tokens"
    sizes = {
        "reward_model": "calibration_answers",
        "dpo": "probes probe_answers",
        "judge": "calibration_answers",
        "evaluation": "answers_per_prompt best_of best_of_answers",
    }
    settings = {
        "requests": start,
        "sft": f"{start} imitate sft lora",
        "pairs": "n_pairs evaluation.heldout_pairs",
        "reward_model": "reward lora",
        "answer_pairs": "n_pairs dpo.steps dpo.batch_size ppo.unfinished_penalty",
        "ppo": "ppo lora",
        "dpo": "dpo lora",
        "judge": f"{start} reward lora",
        "evaluation": "",
    }
    before = {
        "sft": ("requests",),
        "pairs": ("requests", "sft"),
        "reward_model": ("sft", "pairs"),
        "answer_pairs": ("sft", "reward_model"),
        "ppo": ("sft", "reward_model"),
        "dpo": ("sft", "pairs", "answer_pairs"),
        "evaluation": ("sft", "reward_model", "ppo", "dpo", "judge"),
    }

    def keys(stage: str) -> list[str]:
        names = [*settings[stage].split(), *(f"evaluation.{name}" for name in sizes.get(stage, "").split())]
        return [name if name == "seed" else f"preset.{name}" for name in names]

    idle = {"requests"} if not preset.hh.harmless else set()
    idle |= {"judge"} if preset.hh.judge is None else set()
    stages = [stage for stage in STAGES if stage not in idle]
    return {stage: Depends(keys(stage), before.get(stage, ())) for stage in stages}


def announce(setting: Setting, stages: Sequence[str], again: str) -> Setting:
    """Say what the run works with; with the setting that is returned it also says, after its first steps, how long
    `stages` will take as far as they are not finished, and, by `again`, what to do after an interruption."""
    say(opening(setting.preset.name, setting.run.folder))
    left = [stage for stage in stages if stage not in setting.run.finished]
    return dataclasses.replace(setting, watcher=forecast(setting.preset, left, again))


def preset_task(preset: Preset) -> Task:
    """The task of a preset, made for the tokenizer of its model."""
    if preset.model is None:
        return load_task(preset.task, None, preset.data, preset.column, preset.gold, ratings=preset.ratings)
    tokenizer = load_tokenizer(preset.model)
    longest = preset.ppo.max_new_tokens
    return load_task(
        preset.task, tokenizer, preset.data, preset.column, preset.gold, longest, preset.ratings, preset.hh
    )


def check_run(preset: Preset, seed: int) -> Task:
    """Hold a whole preset against itself, its task, its data and its model; returns the task.

    Raises ValueError or RunError for what cannot be trained. Nothing is written.
    """
    SEED.check("seed", seed)
    check_preset(preset)
    task = preset_task(preset)
    check_task(preset, task)
    if preset.model is None:
        check_size(preset, len(task.tokenizer))
    check_model(preset, task, initial_policy(preset, task.tokenizer, stage_seed(seed, "init")))
    return task


def check_preset(preset: Preset) -> None:
    """Raise ValueError, before anything is done, that names the setting which makes no sense.

    Each field lies within the bounds of its type, and fields that belong together fit each other.
    """
    if not isinstance(preset, Preset):
        raise ValueError(f"preset: got {preset!r:.60}, expected a Preset, such as PRESETS['tiny']")
    check_fields(preset)
    check_sources(preset.task, preset.model, preset.data, preset.column, preset.gold, preset.ratings)
    ppo, dpo = preset.ppo, preset.dpo
    with _named("ppo."):
        if ppo.target_kl is not None:
            AdaptiveKL(ppo.beta, ppo.target_kl, ppo.horizon).check_horizon(ppo.batch_size)
        elif ppo.horizon != PPOConfig.horizon:
            raise ValueError(
                f"horizon: got {ppo.horizon} without target_kl, for which it is; give one, or leave it out"
            )
        if ppo.minibatches > ppo.batch_size:
            raise ValueError(
                f"minibatches: got {ppo.minibatches}, expected no more than the {ppo.batch_size} answers of a step"
            )
    if preset.task != "hh" and preset.hh != HHConfig():
        name = next(f.name for f in dataclasses.fields(HHConfig) if getattr(preset.hh, f.name) != f.default)
        raise ValueError(
            f"hh.{name}: got {getattr(preset.hh, name)!r} for task {preset.task!r}, which has no conversations; choose "
            "preset gpt2-hh or chat"
        )
    usual = PRESETS.get(preset.name)
    if preset.model is not None and usual is not None:
        for name in ("layers", "heads", "width", "positions"):
            if getattr(preset, name) != getattr(usual, name):
                raise ValueError(
                    f"{name}: got {getattr(preset, name)} for preset {preset.name!r}, whose model has a size of its "
                    "own; leave it out, or choose preset tiny"
                )
    if preset.imitate == "nothing" and preset.model is None:
        raise ValueError(f"imitate: got 'nothing' for preset {preset.name!r}, whose model is untrained; give a --model")
    idle = [f.name for f in dataclasses.fields(LoRAConfig) if getattr(preset.lora, f.name) != f.default]
    if not preset.lora.rank and idle:
        raise ValueError(
            f"lora.{idle[0]}: got {getattr(preset.lora, idle[0])!r} with lora.rank 0, which trains all weights; "
            "give a --lora.rank, or leave it out"
        )
    if preset.lora.rank and preset.model is None:
        raise ValueError(
            f"lora.rank: got {preset.lora.rank} for preset {preset.name!r}, whose model is untrained; expected 0, or "
            "give a --model"
        )
    with _named("dpo."):
        check_variant(dpo.variant, dpo.label_smoothing)


def check_task(preset: Preset, task: Task) -> None:
    """Raise ValueError where a task has nothing to learn from, or more answers are asked for than fit the memory."""
    for what in ("prompts", "heldout_prompts", "demonstrations", *PAIRED):
        rows = getattr(task, what)
        if rows is not None and not len(rows):
            raise ValueError(
                f"data: got no {what.replace('_', ' ')} for task {task.name!r}, expected one at least; "
                "give more texts, or ratings that differ"
            )
    sizes, k, heldout = preset.evaluation, task.answers_per_prompt, len(task.heldout_prompts)
    answers = {
        "evaluation.answers_per_prompt": heldout * sizes.answers_per_prompt,
        "evaluation.best_of, best_of_answers": heldout * sizes.best_of * sizes.best_of_answers,
    }
    if task.pairs is None:
        answers |= {
            "n_pairs": k * math.ceil(preset.n_pairs / math.comb(k, 2)),
            "evaluation.heldout_pairs": 2 * heldout * sizes.heldout_pairs,
        }
    for name, rows in answers.items():
        needed, free = rows * task.max_new_tokens * ANSWER_TOKEN_BYTES, compute().free_bytes()
        if needed > free:
            raise ValueError(
                f"{name}: got {rows} answers of up to {task.max_new_tokens} tokens ({needed / 1e9:.0f} GB), "
                f"expected what fits the {free / 1e9:.0f} GB of free memory"
            )


def check_model(preset: Preset, task: Task, policy: Any) -> None:
    """Raise ValueError or RunError where a policy cannot learn what the task and the settings ask of it: texts longer
    than its positions, a model that cannot continue or score one."""
    own = [] if task.own_requests is None else task.own_requests["prompt"]
    prompts, mask = encode_prompts(task.tokenizer, [*task.prompts["prompt"], *task.heldout_prompts["prompt"], *own])
    room = getattr(policy.config, "max_position_embeddings", None)
    if room is not None:
        for name, most in (("max_new_tokens", task.max_new_tokens), ("ppo.max_new_tokens", preset.ppo.max_new_tokens)):
            if prompts.shape[1] + most > room:
                raise ValueError(
                    f"{name}: got {most} and prompts of up to {prompts.shape[1]} tokens, "
                    f"expected no more than the {room} positions of the model together"
                )
        for name, longest in _longest(task, room).items():
            if longest > room:
                raise ValueError(
                    f"{name}: got a text of {longest} tokens, expected no more than the {room} positions of the model"
                )
    if preset.model is None:
        return
    if preset.lora.rank:
        check_lora(policy, preset.lora)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            tried = sample(policy, prompts[:2], mask[:2], 2, generator=torch.Generator().manual_seed(0))
            PolicyWithValue(policy)(tried)
            score(RewardModel(policy), tried)
    except Exception as error:  # of whatever the model's own code makes of it
        reason = " ".join(str(error).split())[:200]
        raise RunError(
            f"--model {preset.model}: cannot continue a text ({reason}), expected a causal language model; restore its "
            "config.json, or choose another"
        ) from error
    rows = task.demonstrations[:SPELT]
    check_knows(preset.model, task.tokenizer, [p + a for p, a in zip(rows["prompt"], rows["completion"], strict=True)])
    _check_predicts(preset.model, task, policy)


@torch.no_grad()
def _check_predicts(model: str, task: Task, policy: Any) -> None:
    """Raise RunError for a pretrained model that has learned nothing of texts: it predicts the same after each of them,
    or the task's own far worse than a guess among its V tokens would, which costs log V nats a token."""
    rows = task.demonstrations[:TRIED]
    texts = encode_demonstrations(task.tokenizer, rows["prompt"], rows["completion"])
    batch = (texts.prompts, texts.prompt_mask, texts.responses, texts.response_mask)
    log_p = response_forward(policy, *batch).logits.float().log_softmax(-1)
    counted = log_p[texts.response_mask.bool()]
    guess = math.log(counted.shape[1])
    loss = -token_log_probs(log_p, texts.responses)[texts.response_mask.bool()].mean().item()
    if not loss <= HOPELESS * guess:
        raise RunError(
            f"--model {model}: its loss on the data is {loss:.3g} nats a token, expected at most "
            f"{HOPELESS * guess:.0f}, {HOPELESS:g} times that of a guess; its weights are spoilt, or its tokenizer is "
            "another model's"
        )
    if (counted.amax(0) - counted.amin(0)).max() < 1e-6:
        raise RunError(
            f"--model {model}: predicts the same after every text, expected a model that has read it; its weights or "
            "config.json are spoilt"
        )


def _longest(task: Task, room: int) -> dict[str, int]:
    """Tokens of the longest text that is learned from, prompt and answer together, by where it comes from.

    Only texts of more than `room` bytes are tokenised, since others have no more tokens than that with their end.
    """
    found = {}
    for what, answers in (("demonstrations", ["completion"]), *((x, ["chosen", "rejected"]) for x in PAIRED)):
        if (rows := getattr(task, what)) is None:
            continue
        columns = rows[:]
        texts = {(p, a) for name in answers for p, a in zip(columns["prompt"], columns[name], strict=True)}
        if long := [(p, a) for p, a in texts if len((p + a).encode()) >= room]:
            both = encode_demonstrations(task.tokenizer, *zip(*long, strict=True))
            found[what] = int((both.prompt_mask.sum(1) + both.response_mask.sum(1)).max())
    return found


@contextmanager
def _named(prefix: str) -> Iterator[None]:
    """Put the config's name before that of the argument which a ValueError names."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{prefix}{error}") from None
