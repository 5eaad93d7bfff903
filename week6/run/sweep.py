"""Measuring a frontier: PPO and DPO at several β, best-of-n at several n, on the same models, for several seeds.

    FOLDER/config.json                  the settings; a folder belongs to one set of them for ever
    FOLDER/points/POINT.json            one finished point, written in one piece
    FOLDER/assistant-SEED/              the SFT model, pairs and reward model that the points of a seed share
    FOLDER/assistant-SEED-METHOD-BETA/  the run behind a point
    FOLDER/frontier_exact.csv, frontier_assistant.csv, overoptimisation.csv

A sweep may be killed at any moment; called again, it does the points that are missing. Seeds and worlds may be added.
"""

import dataclasses
import functools
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pandas as pd
import torch
from transformers import PreTrainedModel

from week6 import recorded
from week6.dpo import DPOConfig
from week6.exact import ExactWorld, small_world, train_exact_dpo, train_exact_ppo
from week6.machine import validate as check
from week6.machine.bounds import LEASH, SEED, Count, Few, Leash, Positive, check_fields
from week6.machine.checkpoint import RunError, write_atomic
from week6.machine.compute import main_process
from week6.machine.lock import only_writer
from week6.objective import best_of_n_kl_bound, best_of_n_policy, optimal_policy
from week6.ppo import PPOConfig
from week6.reward_model import RewardModel, score
from week6.run import pipeline
from week6.run.evaluation import Judged, best_of_n, figures, judge
from week6.run.labelling import collect_pairs
from week6.run.models import Preset
from week6.run.setting import RunConfig, Setting, check_preset, check_run, open_run
from week6.run.training import Run, choose_device, stage_seed, to_json
from week6.sequences import Pairs
from week6.tasks import Task, load_task

World = Literal["exact", "assistant"]
COLUMNS = (
    "world", "seed", "method", "beta", "n", "kl", "kl_se", "gold", "gold_se", "proxy", "proxy_se", "objective", "gap",
    "win_rate", "win_rate_se", "length", "seconds", "generations", "model_copies",
)  # fmt: skip
"""Of both frontier tables. KL in nats; in the exact world also objective = gold − β·kl (reward units) and gap (nats).

`seconds` of training and `generations` sampled for it, beyond the SFT model and the pairs; those of PPO and of
best-of-n include the reward model. `model_copies` is how many models stand in memory: while training, or, for
best-of-n, while answering.
"""
COUNTED = {name for name in COLUMNS if name.endswith("_se")} | {
    "n", "beta", "win_rate", "length", "seconds", "generations", "model_copies", "took",
}  # fmt: skip
"""Never below 0."""
ROUNDING = 1e-6
"""Nats, by which a KL may be below 0, beside five standard errors of one that is estimated."""
STEPS = ("step", "score", "gold", "kl", "entropy", "length")
"""Of a weak PPO run, what is kept of each step."""
WORLDS: tuple[World, ...] = ("exact", "assistant")


@dataclass(frozen=True)
class ExactSettings:
    """The exact world's part of a sweep: PPO on the true reward; DPO on `pairs` sampled pairs; exact best-of-n.

    "dpo_two_rounds" adds as many pairs of its own sentences and trains on all of them (`train_exact_dpo`);
    "dpo_twice_the_pairs" has as many pairs and steps as that, with all of its sentences from the reference.
    """

    betas: tuple[Leash, ...] = (0.3, 0.5, 1.0, 2.0)
    ns: tuple[Few, ...] = (2, 4, 8, 16, 64)
    curve: tuple[Leash, ...] = (0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.4, 2.0, 3.0, 5.0, 10.0)
    pairs: Count = 20_000
    ppo: PPOConfig = PPOConfig(steps=90, batch_size=256, learning_rate=3e-3, beta=1.0, value_coef=0.5, max_new_tokens=4)
    dpo: DPOConfig = DPOConfig(steps=120, batch_size=256, learning_rate=3e-3, beta=1.0)


@dataclass(frozen=True)
class AssistantSettings:
    """The chatbot's part: β of PPO (on the reward model) and of DPO, n of best-of-n, and a longer run at a weak β."""

    ppo_betas: tuple[Leash, ...] = (0.03, 0.1, 0.3, 1.0)
    dpo_betas: tuple[Leash, ...] = (0.3, 1.0, 3.0)
    ns: tuple[Few, ...] = (1, 2, 4, 16, 64)
    answers: Few = 8
    """To each held-out prompt."""
    picks: Few = 2
    """How often the best of the largest n is taken for each held-out prompt; smaller n use the same answers."""
    weaker: Positive = 10.0
    """The over-optimisation run's β is that of the preset divided by this."""
    weak_steps: Count = 300


@dataclass(frozen=True)
class SweepConfig:
    """What a sweep's folder belongs to."""

    preset: Preset
    exact: ExactSettings = ExactSettings()
    assistant: AssistantSettings = AssistantSettings()


class Point(NamedTuple):
    """One point to measure; `setting` is β, or n for best-of-n, or nothing."""

    world: World
    seed: int
    method: str
    setting: float | None = None

    @property
    def name(self) -> str:
        """Of its file."""
        return "-".join(str(part) for part in self if part is not None)

    def __str__(self) -> str:
        return " ".join(str(part) for part in self if part is not None)


def points_of(config: SweepConfig, worlds: Sequence[World], seeds: Sequence[int]) -> list[Point]:
    """All points of a sweep, in the order in which they are measured."""
    exact, assistant = config.exact, config.assistant
    settings: dict[World, list[tuple[str, Sequence[float | None]]]] = {
        "exact": [
            ("optimum", exact.curve),
            ("best_of_n", exact.ns),
            ("ppo", exact.betas),
            ("dpo", exact.betas),
            ("dpo_twice_the_pairs", exact.betas),
            ("dpo_two_rounds", exact.betas),
        ],
        "assistant": [
            ("best_of_n", assistant.ns),
            ("dpo", assistant.dpo_betas),
            ("ppo", assistant.ppo_betas),
            ("weak_ppo", (config.preset.ppo.beta / assistant.weaker,)),
        ],
    }
    return [
        Point(world, seed, method, setting)
        for world in worlds
        for seed in seeds
        for method, values in settings[world]
        for setting in values
    ]


@check.arguments
def sweep(
    config: SweepConfig,
    folder: Path,
    worlds: Sequence[World] = WORLDS,
    seeds: Sequence[int] = (0, 1, 2),
    say: Callable[[str], None] = print,
) -> dict[str, pd.DataFrame]:
    """Measure the points that `folder` lacks, and write and return the tables of all it has, by name.

    Raises RunError for a seed or world that makes no sense, a folder of another configuration or in which
    another process works, and a damaged file.
    """
    if not worlds or len(set(worlds)) != len(worlds) or not set(worlds) <= set(WORLDS):
        raise RunError(f"--worlds: got {' '.join(worlds) or 'none'}, expected some of {', '.join(WORLDS)}, each once")
    if not seeds or len(set(seeds)) != len(seeds) or not all(seed in SEED for seed in seeds):
        raise RunError(f"--seeds: got {' '.join(map(str, seeds)) or 'none'}, expected different ones, each {SEED}")
    try:
        _check(config, worlds, seeds[0])
    except ValueError as error:
        raise RunError(str(error)) from error
    with only_writer(folder):
        try:
            return _measure_all(config, folder, points_of(config, worlds, seeds), say)
        except check.UnusableError as error:
            raise RunError(str(error)) from error


def _measure_all(
    config: SweepConfig, folder: Path, todo: list[Point], say: Callable[[str], None]
) -> dict[str, pd.DataFrame]:
    """Measure what is missing of the points `todo`."""
    Run.open(folder, config, resume=True)
    main_process(lambda: [_checked(path) for path in (folder / "points").glob("*.json")])
    known = main_process(lambda: {point: _read(folder, point) for point in todo if _path(folder, point).exists()})
    todo = [point for point in todo if point not in known]
    say(f"{folder}: {len(known)} points are there, {len(todo)} to measure")
    took = {point: float(row["took"]) for point, row in known.items()}
    for i, point in enumerate(todo):
        start = time.perf_counter()
        row = _measure(config, folder, point)
        took[point] = time.perf_counter() - start
        write_atomic(_path(folder, point), to_json(row | {"took": took[point]}))
        say(f"[{i + 1}/{len(todo)}] {point}: {_in_words(row)} ({took[point]:.0f} s; {_left(todo[i + 1 :], took)})")
    return main_process(lambda: collect(folder))


def _check(config: SweepConfig, worlds: Sequence[World], seed: int) -> None:
    """Raise ValueError or RunError for settings that make no sense, before the first point is measured."""
    check_fields(config)
    check_preset(config.preset)
    words = config.exact.ppo.max_new_tokens
    if words != (length := small_world().length):
        raise ValueError(f"exact.ppo.max_new_tokens: got {words}, expected the {length} words of a sentence")
    if "assistant" in worlds:
        if config.preset.task != "assistant":
            raise RunError(
                f"--preset: got {config.preset.name!r} for world 'assistant', expected one of the embedded chatbot, "
                "such as tiny; or take --worlds exact"
            )
        check_run(config.preset, seed)
        settings = config.assistant
        LEASH.check("preset.ppo.beta / assistant.weaker", config.preset.ppo.beta / settings.weaker)
        candidates = max(settings.ns) * settings.picks
        if odd := [n for n in settings.ns if candidates % n]:
            raise ValueError(f"assistant.ns: got {odd[0]}, expected a divisor of max(ns) · picks = {candidates}")


def collect(folder: Path) -> dict[str, pd.DataFrame]:
    """The tables of all points in a sweep's folder; written beside them as CSV."""
    rows = [_checked(path) for path in sorted((folder / "points").glob("*.json"))]
    frontier = pd.DataFrame([row for row in rows if "steps" not in row], columns=list(COLUMNS))
    frontier = frontier.astype(dict.fromkeys(set(COLUMNS) - {"world", "seed", "method"}, float))
    order = frontier.assign(value=frontier["beta"].fillna(frontier["n"])).sort_values(["seed", "method", "value"])
    tables = {f"frontier_{world}": order.loc[order["world"] == world, list(COLUMNS)] for world in WORLDS}
    steps = [pd.DataFrame(row["steps"]).assign(seed=row["seed"], beta=row["beta"]) for row in rows if "steps" in row]
    if steps:
        weak = pd.concat(steps).sort_values(["seed", "step"])
        tables["overoptimisation"] = weak[["seed", "beta", *STEPS]]
    tables = {name: table.reset_index(drop=True) for name, table in tables.items() if len(table)}
    for name, table in tables.items():
        write_table(folder / f"{name}.csv", table)
    return tables


def record(tables: dict[str, pd.DataFrame], folder: Path | None = None) -> None:
    """Write the tables to where the notebooks read them, or to another folder."""
    for name, table in tables.items():
        write_table((folder or recorded.FOLDER) / f"{name}.csv", table)


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as CSV with five significant digits, in one piece."""
    write_atomic(path, table.to_csv(index=False, float_format="%.5g"))


# --- one point -------------------------------------------------------------------------------------------------------


def _measure(config: SweepConfig, folder: Path, point: Point) -> dict[str, Any]:
    """One row of a table, or for a weak PPO run its steps."""
    row = dict.fromkeys(COLUMNS) | {"world": point.world, "seed": point.seed, "method": point.method}
    row["n" if point.method == "best_of_n" else "beta"] = point.setting
    found = _exact_point(config.exact, point) if point.world == "exact" else _assistant_point(config, folder, point)
    return row | found


def _exact_point(config: ExactSettings, point: Point) -> dict[str, Any]:
    world = small_world()
    reference = world.new_policy(point.seed)
    start = time.perf_counter()
    policy, generations, copies = _exact_policy(config, world, reference, point)
    seconds = time.perf_counter() - start
    best_of = point.method == "best_of_n"
    report = world.report(policy, reference, 1.0 if best_of else float(point.setting or 0))  # its KL needs no β
    optimality = {} if best_of else {"objective": report.objective, "gap": report.gap}
    return {
        "kl": report.kl, "kl_se": 0.0, "gold": report.reward, "gold_se": 0.0, **optimality,
        "seconds": seconds, "generations": generations, "model_copies": copies,
    }  # fmt: skip


def _exact_policy(config: ExactSettings, world: ExactWorld, reference: Any, point: Point) -> tuple[Any, int, int]:
    """The policy of a point (a model or log-probabilities), the sentences sampled for it, the models in memory."""
    setting = float(point.setting or 0)
    if point.method == "ppo":
        ppo = dataclasses.replace(config.ppo, beta=setting)
        return train_exact_ppo(world, reference, ppo, point.seed), ppo.steps * ppo.batch_size, 2
    if point.method.startswith("dpo"):
        rounds, times = 1 + (point.method == "dpo_two_rounds"), 1 + (point.method == "dpo_twice_the_pairs")
        dpo = dataclasses.replace(config.dpo, beta=setting, steps=times * config.dpo.steps)
        policy = train_exact_dpo(world, reference, dpo, times * config.pairs, point.seed, rounds)
        return policy, 2 * config.pairs * (rounds - 1), 2
    with torch.no_grad():
        log_ref = world.log_probs(reference).double().log_softmax(-1)
    if point.method == "best_of_n":
        return best_of_n_policy(log_ref, world.rewards, int(setting)), 0, 1
    return optimal_policy(log_ref, world.rewards, setting)[0], 0, 1


class _Shared(NamedTuple):
    """What the points of one seed share. `answers` are the SFT model's to the held-out prompts."""

    setting: Setting
    sft: PreTrainedModel
    pairs: Pairs
    reward_model: RewardModel
    prompts: list[str]
    answers: Judged


@functools.lru_cache(maxsize=1)
def _shared(preset: Preset, answers: int, folder: Path, seed: int) -> _Shared:
    """Train the SFT model, label pairs and fit the reward model of one seed, or read what was made before."""
    run = open_run(folder / f"assistant-{seed}", RunConfig(seed, preset), resume=True)
    setting = Setting(run, preset, load_task(preset.task), seed, choose_device())
    sft = pipeline.fine_tune(setting)
    pairs, heldout, probabilities = collect_pairs(setting, sft)
    reward_model = pipeline.fit_reward_model(setting, sft, pairs, heldout, probabilities)
    prompts = list(setting.task.heldout_prompts["prompt"])
    judged = _judge(sft, sft, reward_model, setting.task, prompts, answers, setting.stage_seed("frontier/sft"))
    return _Shared(setting, sft, pairs, reward_model, prompts, judged)


@functools.lru_cache(maxsize=1)
def _candidates(preset: Preset, answers: int, folder: Path, seed: int, k: int) -> Judged:
    """k answers of the SFT model to each held-out prompt, to take the best of n from."""
    shared = _shared(preset, answers, folder, seed)
    seed = shared.setting.stage_seed("frontier/best_of_n")
    return _judge(shared.sft, shared.sft, shared.reward_model, shared.setting.task, shared.prompts, k, seed)


def _judge(
    policy: Any, sft: Any, reward_model: RewardModel, task: Task, prompts: list[str], k: int, seed: int
) -> Judged:
    return judge(policy, sft, lambda answers: score(reward_model, answers), task, prompts, k, seed)


def _assistant_point(config: SweepConfig, folder: Path, point: Point) -> dict[str, Any]:
    preset, settings = config.preset, config.assistant
    shared = _shared(preset, settings.answers, folder, point.seed)
    fitting = shared.setting.run.finished["reward_model"]["usage"]["seconds"]
    if point.method == "best_of_n":
        n = int(point.setting or 0)
        k = max(settings.ns) * settings.picks
        judged = best_of_n(_candidates(preset, settings.answers, folder, point.seed, k), n)
        bound: dict[str, Any] = {"kl": best_of_n_kl_bound(n), "kl_se": None}
        return _judged_row(judged, shared) | bound | {"seconds": fitting, "generations": 0, "model_copies": 2}
    weak = point.method == "weak_ppo"
    method = "ppo" if weak else point.method
    change = {"beta": point.setting} | ({"steps": settings.weak_steps} if weak else {})
    preset = dataclasses.replace(preset, **{method: dataclasses.replace(getattr(preset, method), **change)})
    run = open_run(folder / point.name, RunConfig(point.seed, preset), resume=True)
    setting = dataclasses.replace(shared.setting, run=run, preset=preset)
    if method == "ppo":
        policy = pipeline.optimize_with_ppo(setting, shared.sft, shared.reward_model)
    else:
        policy = pipeline.optimize_with_dpo(setting, shared.sft, shared.pairs)
    if weak:
        table = run.metrics("ppo")[["step", "score", "gold", "kl", "entropy", "length"]]
        return {"steps": {str(name): column.tolist() for name, column in table.items()}}
    seed = stage_seed(point.seed, f"frontier/{method}/{point.setting}")
    judged = _judge(policy, shared.sft, shared.reward_model, setting.task, shared.prompts, settings.answers, seed)
    seconds = run.finished[method]["usage"]["seconds"]
    if method == "ppo":
        cost = {
            "seconds": seconds + fitting,
            "generations": preset.ppo.steps * preset.ppo.batch_size,
            "model_copies": 3,
        }
    else:
        cost = {"seconds": seconds, "generations": 0, "model_copies": 2}
    return _judged_row(judged, shared) | cost


def _judged_row(judged: Judged, shared: _Shared) -> dict[str, Any]:
    found = figures(judged, shared.answers, shared.setting.task, shared.prompts)
    return {name: found[name] for name in COLUMNS if name in found and name != "n"}


# --- files and words -------------------------------------------------------------------------------------------------


def _path(folder: Path, point: Point) -> Path:
    return folder / "points" / f"{point.name}.json"


def _read(folder: Path, point: Point) -> dict[str, Any]:
    return _checked(_path(folder, point))


def _checked(path: Path) -> dict[str, Any]:
    """The content of a point's file. RunError if it is damaged, or not of the point that it is named for."""
    try:
        row = json.loads(path.read_bytes())
        numbers = {} if "steps" in row else {name: x for name in COLUMNS[3:] if (x := row[name]) is not None}
        numbers |= {"took": row["took"]}
        strange = [name for name, x in numbers.items() if not _is_number(x) or (x < 0 and name in COUNTED)]
        if numbers.get("win_rate", 0) > 1:
            strange.append("win_rate")
        if "steps" in row and len({len([float(x) for x in row["steps"][name]]) for name in STEPS}) != 1:
            strange = ["steps"]
        point = Point(row["world"], row["seed"], row["method"], row["n" if row["method"] == "best_of_n" else "beta"])
        fault = f"its {strange[0]} is {row[strange[0]]!r:.40}" if strange else ""
        if point.name != path.stem:
            fault = f"it is of {point}"
        elif not strange and "kl" in numbers and row["kl"] < -5 * (row["kl_se"] or 0) - ROUNDING:
            fault = f"its KL is {row['kl']:g}"
    except KeyError as error:
        fault = f"it has no {error}"
    except (OSError, ValueError, TypeError) as error:
        fault = str(error)
    if fault:
        raise RunError(
            f"{path} is damaged ({fault}), expected a finished point of its name; delete it, and the point is measured "
            "again"
        )
    return dict(row)


def _is_number(x: Any) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x)


def _in_words(row: dict[str, Any]) -> str:
    if "steps" in row:
        last = {name: column[-1] for name, column in row["steps"].items()}
        return f"{len(row['steps']['step'])} steps, at the end proxy {last['score']:.2f}, gold {last['gold']:.2f}"
    gap = "" if row["gap"] is None else f", {row['gap']:.3f} nats from the optimum"
    return f"KL {row['kl']:.2f}, gold {row['gold']:.2f}{gap}"


def _left(todo: Sequence[Point], took: dict[Point, float]) -> str:
    """How long the points in `todo` will take, judged by those of the same world and method, else by all."""
    everything = sum(took.values()) / len(took)

    def guess(point: Point) -> float:
        same = [seconds for done, seconds in took.items() if (done.world, done.method) == (point.world, point.method)]
        return sum(same) / len(same) if same else everything

    return f"about {math.ceil(sum(map(guess, todo)) / 60)} min left" if todo else "all done"
