"""The whole course as one run, top to bottom:

    demonstrations → SFT → pairs of its answers, labelled → reward model → PPO ┐
                                          └──────────────────────────────→ DPO ┴→ evaluation → report

Every stage is a function that either does its work or, when the run resumes, reads what it did.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedModel

from week6 import _validate as check
from week6 import plots
from week6.checkpoint import (
    RunError,
    load_checkpoint,
    load_tensors,
    replacing,
    save_checkpoint,
    save_tensors,
    write_atomic,
)
from week6.compute import compute, main_process
from week6.dpo import train_dpo
from week6.evaluation import Estimate, Judged, best_of_n, estimate, figures, judge, sample_batches
from week6.forecast import Watcher, forecast, opening, say
from week6.models import Model, Preset, frozen_copy, initial_policy
from week6.objective import best_of_n_kl_bound
from week6.optim import generator_for, make_optimizer, minibatch
from week6.ppo import AdaptiveKL, PolicyWithValue, PPOConfig, train_ppo
from week6.preferences import bayes_accuracy
from week6.pretrained import load_tokenizer
from week6.report import save_figure, write_report, write_samples
from week6.reward_model import (
    RewardModel,
    expected_accuracy,
    pair_agreement,
    score,
    score_batches,
    train_reward_model,
)
from week6.sequences import (
    Pairs,
    Rollout,
    decode,
    encode_demonstrations,
    encode_pairs,
    encode_prompts,
    join_pairs,
    pair_rollouts,
)
from week6.sft import train_sft
from week6.tasks import Task, load_task
from week6.training import Run, Usage, choose_device, read_json, run_stage, stage_seed, versions

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
"""Names of the answers to a prompt that annotators compare; their random numbers derive from these."""
STAGES = ("sft", "pairs", "reward_model", "answer_pairs", "ppo", "dpo", "evaluation")
POSITIVE = {
    "steps", "batch_size", "learning_rate", "beta", "target_kl", "epochs", "minibatches", "horizon", "clip",
    "temperature", "max_new_tokens", "n_pairs", "layers", "heads", "width", "positions",
    "heldout_pairs", "calibration_answers", "answers_per_prompt", "best_of", "best_of_answers", "probes",
    "probe_answers",
}  # fmt: skip
"""Settings that must be above zero."""


@dataclass(frozen=True)
class RunConfig:
    """What a run's folder belongs to."""

    seed: int
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


def run(preset: Preset, folder: Path | str, seed: int = 0, resume: bool = False) -> dict[str, Any]:
    """Do, or with `resume` finish, the run of `preset` in `folder`; returns what is in its summary.json.

    Raises RunError for bad settings, a folder that belongs to something else, damaged files, a full disk, or numbers
    that cannot be learned from; what is on the disk is kept then.
    """
    try:
        return finish(announce(open_setting(preset, Path(folder), seed, resume), STAGES, "--resume goes on"))
    except ValueError as error:
        raise RunError(str(error)) from error


def finish(setting: Setting) -> dict[str, Any]:
    """Do all stages that are not finished; returns the summary. Raises ValueError or RunError as `run` says."""
    sft = fine_tune(setting)
    pairs, heldout_pairs, probabilities = collect_pairs(setting, sft)
    reward_model = fit_reward_model(setting, sft, pairs, heldout_pairs, probabilities)
    if not setting.task.pairs_share_prompts:
        pairs = label_with(setting, sft, reward_model)
    policies = {
        "sft": sft,
        "ppo": optimize_with_ppo(setting, sft, reward_model),
        "dpo": optimize_with_dpo(setting, sft, pairs),
    }
    return summarize(setting, evaluate(setting, policies, reward_model))


def open_setting(preset: Preset, folder: Path, seed: int = 0, resume: bool = False) -> Setting:
    """Read all that a run starts from, and then make its folder, or come back to it.

    Raises ValueError or RunError for bad settings, a bad model or bad data, before anything is written.
    """
    check_preset(preset)
    task = preset_task(preset)
    policy: Any = initial_policy(preset, task.tokenizer, stage_seed(seed, "init"))
    if (room := getattr(policy.config, "max_position_embeddings", None)) is not None:
        prompts, _ = encode_prompts(task.tokenizer, [*task.prompts["prompt"], *task.heldout_prompts["prompt"]])
        if prompts.shape[1] + task.max_new_tokens > room:
            raise ValueError(
                f"max_new_tokens: got {task.max_new_tokens} and prompts of up to {prompts.shape[1]} tokens, "
                f"expected no more than the {room} positions of the model together"
            )
    run = Run.open(folder, RunConfig(seed, preset), resume)
    return Setting(run, preset, task, seed, choose_device())


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
    return load_task(
        preset.task, tokenizer, preset.data, preset.column, preset.gold, preset.ppo.max_new_tokens, preset.ratings
    )


def check_preset(preset: Preset) -> None:
    """Raise ValueError, before anything is done, that names the setting which makes no sense."""
    parts = {"": preset} | {
        f"{f.name}.": getattr(preset, f.name)
        for f in dataclasses.fields(preset)
        if dataclasses.is_dataclass(getattr(preset, f.name))
    }
    for prefix, part in parts.items():
        for field in dataclasses.fields(part):
            value = getattr(part, field.name)
            if field.name in POSITIVE and value is not None:
                check.positive(prefix + field.name, value)


def fine_tune(setting: Setting) -> PreTrainedModel:
    """SFT: a policy, new or pretrained, imitates the demonstrations."""
    task, config = setting.task, setting.preset.sft
    policy = initial_policy(setting.preset, task.tokenizer, setting.stage_seed("init"))
    policy.to(setting.device)  # type: ignore[arg-type]  # transformers hides the signature
    optimizer = make_optimizer(policy, config.learning_rate)

    def loop(start: int) -> Iterator[dict[str, float]]:
        data = encode_demonstrations(
            task.tokenizer, list(task.demonstrations["prompt"]), list(task.demonstrations["completion"])
        )
        return train_sft(policy, optimizer, data.to(setting.device), config, setting.stage_seed("sft"), start)

    usage = setting.train("sft", loop, config.steps, policy, optimizer)
    _finish_policy(setting, "sft", policy, usage)
    return frozen_copy(policy)


def collect_pairs(setting: Setting, sft: PreTrainedModel) -> tuple[Pairs, Pairs, Tensor | None]:
    """Two answers to each prompt, and which of them is preferred: pairs that the task brings, chosen by people, or
    else answers of the SFT model, chosen by a simulated annotator.

    Returns training pairs, pairs on held-out prompts, and for these the probability (N,) of the choice made, None
    where people chose.
    """
    run, task, path = setting.run, setting.task, setting.run.folder / "pairs.safetensors"
    if "pairs" not in run.finished:
        usage = Usage()
        seed, n_pairs = setting.stage_seed("pairs/prompts"), setting.preset.n_pairs
        probabilities: Tensor | None = None
        if task.pairs is not None and task.heldout_pairs is not None:
            n_pairs = min(n_pairs, len(task.pairs))
            chosen = task.pairs.select(minibatch(len(task.pairs), n_pairs, 0, seed).tolist())
            train, heldout = _encode(task, chosen), _encode(task, task.heldout_pairs)
            texts: list[dict[str, str]] = list(chosen)
            if "probability" in task.heldout_pairs.column_names:
                probabilities = torch.tensor(task.heldout_pairs["probability"])
        else:
            k = task.answers_per_prompt
            n_prompts = math.ceil(n_pairs / math.comb(k, 2))
            index = minibatch(len(task.prompts), n_prompts, 0, seed)
            train, _, texts = _label_answers(setting, sft, "prompts", index, k, usage)
            train, texts = train.rows(slice(n_pairs)), texts[:n_pairs]
            index = torch.arange(len(task.heldout_prompts)).repeat_interleave(setting.preset.evaluation.heldout_pairs)
            heldout, probabilities, _ = _label_answers(setting, sft, "heldout_prompts", index, 2, usage)
        tensors = {f"train.{name}": x for name, x in vars(train).items()}
        tensors |= {f"heldout.{name}": x for name, x in vars(heldout).items()}
        save_tensors(path, tensors if probabilities is None else tensors | {"probabilities": probabilities})
        _write_texts(run.folder / "pairs.jsonl", texts)
        usage.tick()
        run.finish("pairs", usage)
    tensors, _ = load_tensors(path)
    train, heldout = (
        Pairs(**{k.removeprefix(prefix): x for k, x in tensors.items() if k.startswith(prefix)}).to(setting.device)
        for prefix in ("train.", "heldout.")
    )
    return train, heldout, tensors.get("probabilities")


def _write_texts(path: Path, rows: list[dict[str, str]]) -> None:
    write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _encode(task: Task, pairs: Dataset) -> Pairs:
    return encode_pairs(task.tokenizer, *(list(pairs[column]) for column in ("prompt", "chosen", "rejected")))


def _sample_answers(
    setting: Setting, sft: PreTrainedModel, split: str, index: Tensor, k: int, usage: Usage
) -> tuple[list[str], list[Rollout]]:
    """The chosen prompts of `split`, and k answers to each of them."""
    tokens, mask = setting.prompts(split)
    answers = [
        sample_batches(
            sft, tokens[index], mask[index], setting.task.max_new_tokens, setting.stage_seed(f"pairs/{split}/{which}")
        )
        for which in ORDINALS[:k]
    ]
    usage.tokens += sum(int(answer.response_mask.sum()) for answer in answers)
    every = list(getattr(setting.task, split)["prompt"])
    return [every[i] for i in index.tolist()], answers


def _label_answers(
    setting: Setting, sft: PreTrainedModel, split: str, index: Tensor, k: int, usage: Usage
) -> tuple[Pairs, Tensor, list[dict[str, str]]]:
    """k answers to each of the chosen prompts of `split`, every two of them labelled by the task's annotator.

    Returns the k(k − 1)/2 pairs of each prompt as tokens, the probabilities of the choices made, and the text.
    """
    task = setting.task
    asked, answers = _sample_answers(setting, sft, split, index, k, usage)
    texts = [decode(task.tokenizer, answer.responses, answer.response_mask) for answer in answers]
    pairs, probabilities, rows = [], [], []
    for step, (i, j) in enumerate(combinations(range(k), 2)):
        a, b = texts[i], texts[j]
        labelled = task.label(asked, a, b, generator_for(setting.stage_seed(f"pairs/{split}/labels"), step))
        first_preferred = torch.tensor([text == chosen for text, chosen in zip(a, labelled["chosen"], strict=True)])
        probability = task.preference_probability(asked, a, b)
        pairs.append(pair_rollouts(answers[i], answers[j], first_preferred.to(setting.device)))
        probabilities.append(torch.where(first_preferred, probability, 1 - probability))
        rows += list(labelled)
    return join_pairs(pairs), torch.cat(probabilities), rows


def fit_reward_model(
    setting: Setting, sft: PreTrainedModel, pairs: Pairs, heldout: Pairs, probabilities: Tensor | None
) -> RewardModel:
    """Bradley–Terry on the training pairs; then SFT answers are given mean 0 and variance 1."""
    run, config, path = setting.run, setting.preset.reward, setting.run.folder / "reward_model.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(setting.stage_seed("reward_head"))
        model = RewardModel(_trainable_copy(sft)).to(setting.device)
    optimizer = make_optimizer(model, config.learning_rate)
    if "reward_model" not in run.finished:

        def loop(start: int) -> Iterator[dict[str, float]]:
            return train_reward_model(model, optimizer, pairs, config, setting.stage_seed("reward_model"), start)

        usage = setting.train("reward_model", loop, config.steps, model, optimizer)
        tokens, mask = setting.prompts()
        seed = setting.stage_seed("calibration")
        index = minibatch(len(tokens), setting.preset.evaluation.calibration_answers, 0, seed)
        answers = sample_batches(sft, tokens[index], mask[index], setting.task.max_new_tokens, seed)
        model.calibrate(score_batches(model, answers, len(answers)))
        accuracy, ceiling = _accuracy(setting, pair_agreement(model, heldout).cpu(), probabilities)
        save_checkpoint(path, model)
        usage.tick()
        run.finish(
            "reward_model",
            usage,
            {
                "accuracy": accuracy.mean,
                "accuracy_se": accuracy.se,
                "bayes_accuracy": ceiling,
                "n": len(heldout),
                "prompts": accuracy.prompts,
            },
        )
    load_checkpoint(path, model)
    return frozen_copy(model)


def _accuracy(setting: Setting, agreement: Tensor, probabilities: Tensor | None) -> tuple[Estimate, float | None]:
    """Accuracy on held-out pairs and its Bayes ceiling, known where it is known how people would choose again."""
    if probabilities is None:
        return estimate(agreement.unsqueeze(1)), None
    on_each_prompt = 1 if setting.task.pairs else setting.preset.evaluation.heldout_pairs
    expected = expected_accuracy(agreement, probabilities).reshape(-1, on_each_prompt)
    return estimate(expected), bayes_accuracy(probabilities).item()


def label_with(setting: Setting, sft: PreTrainedModel, reward_model: RewardModel) -> Pairs:
    """Pairs for DPO where people compared whole texts: answers of the SFT model, chosen by the reward model.

    It always chooses the answer of higher reward. A person's toss of a coin between two answers that are nearly as
    good is noise, which the reward model has averaged out; tossed again, it would drown what few pairs can tell.
    The reward is that of PPO, which charges an answer that did not end: else DPO would learn to go on for ever.
    Of two that did not end, the one with the better beginning is chosen.
    """
    run, path = setting.run, setting.run.folder / "answer_pairs.safetensors"
    if "answer_pairs" not in run.finished:
        usage = Usage()
        k, dpo, n_prompts = setting.task.answers_per_prompt, setting.preset.dpo, len(setting.task.prompts)
        n_pairs = min(setting.preset.n_pairs, dpo.steps * dpo.batch_size)  # no more than DPO will meet
        index = minibatch(n_prompts, math.ceil(n_pairs / math.comb(k, 2)), 0, setting.stage_seed("answer_pairs"))
        asked, answers = _sample_answers(setting, sft, "prompts", index, k, usage)
        scores = [score_batches(reward_model, answer) for answer in answers]
        penalty = setting.preset.ppo.unfinished_penalty
        rewards = [torch.where(y.finished, r, penalty) for y, r in zip(answers, scores, strict=True)]
        said = [decode(setting.task.tokenizer, answer.responses, answer.response_mask) for answer in answers]
        pairs, rows = [], []
        for i, j in combinations(range(k), 2):
            first = torch.where(rewards[i] == rewards[j], scores[i] > scores[j], rewards[i] > rewards[j])
            pairs.append(pair_rollouts(answers[i], answers[j], first))
            for prompt, a, b, preferred in zip(asked, said[i], said[j], first.tolist(), strict=True):
                chosen, rejected = (a, b) if preferred else (b, a)
                rows.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
        save_tensors(path, vars(join_pairs(pairs).rows(slice(n_pairs))))
        _write_texts(run.folder / "answer_pairs.jsonl", rows[:n_pairs])
        usage.tick()
        run.finish("answer_pairs", usage)
    tensors, _ = load_tensors(path)
    return Pairs(**tensors).to(setting.device)


def watch_ppo(
    actor: PolicyWithValue,
    reference: nn.Module,
    reward_model: RewardModel,
    task: Task,
    optimizer: torch.optim.Optimizer,
    controller: AdaptiveKL,
    config: PPOConfig,
    seed: int,
    start: int = 0,
) -> Iterator[dict[str, float]]:
    """`train_ppo` on a task's training prompts; each row has the gold reward of the step's answers beside the others.

    The gold reward is only looked at: no gradient ever sees it. A task without one has no such column.
    """
    texts = list(task.prompts["prompt"])
    device = next(actor.parameters()).device
    tokens, mask = (x.to(device) for x in encode_prompts(task.tokenizer, texts))
    prompt_of = {tuple(row[keep].tolist()): text for row, keep, text in zip(tokens, mask, texts, strict=True)}
    steps = train_ppo(
        actor,
        reference,
        lambda answers: score(reward_model, answers),
        tokens,
        mask,
        optimizer,
        controller,
        config,
        seed,
        start,
    )
    for row, answers in steps:
        if task.gold is not None:
            pairs = zip(answers.prompts, answers.prompt_mask, strict=True)
            asked = [prompt_of[tuple(prompt[keep].tolist())] for prompt, keep in pairs]
            said = decode(task.tokenizer, answers.responses, answers.response_mask)
            row["gold"] = task.gold(asked, said).mean().item()
        yield row


def optimize_with_ppo(setting: Setting, sft: PreTrainedModel, reward_model: RewardModel) -> PreTrainedModel:
    """PPO: sample, score with the reward model, climb, held near the SFT model by β."""
    task, config = setting.task, setting.preset.ppo
    actor = PolicyWithValue(_trainable_copy(sft)).to(setting.device)
    optimizer = make_optimizer(actor, config.learning_rate, eps=1e-5)
    controller = AdaptiveKL(config.beta, config.target_kl or 1.0, config.horizon)  # no target: β stays, 1.0 is unread

    def loop(start: int) -> Iterator[dict[str, float]]:
        return watch_ppo(
            actor, sft, reward_model, task, optimizer, controller, config, setting.stage_seed("ppo"), start
        )

    usage = setting.train("ppo", loop, config.steps, actor, optimizer, controller)
    policy: PreTrainedModel = actor.policy
    _finish_policy(setting, "ppo", policy, usage)
    return frozen_copy(policy)


def optimize_with_dpo(setting: Setting, sft: PreTrainedModel, pairs: Pairs) -> PreTrainedModel:
    """DPO: the same pairs, without a reward model and without sampling; samples are only taken to measure the KL."""
    task, config = setting.task, setting.preset.dpo
    policy = _trainable_copy(sft)
    optimizer = make_optimizer(policy, config.learning_rate)
    prompts = list(task.prompts["prompt"])
    sizes = setting.preset.evaluation
    every = max(1, config.steps // sizes.probes)

    def loop(start: int) -> Iterator[dict[str, float]]:
        for row in train_dpo(policy, sft, optimizer, pairs, config, setting.stage_seed("dpo"), start):
            step = int(row["step"])
            row["kl"] = row["gold"] = math.nan
            if step % every == 0 or step == config.steps - 1:
                seed = setting.stage_seed(f"dpo/probe/{step}")
                asked = [prompts[i] for i in minibatch(len(prompts), sizes.probe_answers, 0, seed).tolist()]
                probe = judge(policy, sft, lambda answers: answers.log_probs.sum(-1), task, asked, 1, seed)
                row["kl"] = probe.kl.mean().item()
                row["gold"] = math.nan if probe.gold is None else probe.gold.mean().item()
            yield row

    usage = setting.train("dpo", loop, config.steps, policy, optimizer)
    _finish_policy(setting, "dpo", policy, usage)
    return frozen_copy(policy)


def evaluate(setting: Setting, policies: dict[str, PreTrainedModel], reward_model: RewardModel) -> dict[str, Any]:
    """Answers of every policy, and the best of n of the SFT model's, to held-out prompts, judged.

    Best-of-n is chosen by the reward model. Its KL is the bound log n − (n − 1)/n, since the density of the best
    answer cannot be computed.
    """
    run, task, sizes = setting.run, setting.task, setting.preset.evaluation
    if "evaluation" not in run.finished:
        usage = Usage()
        prompts = list(task.heldout_prompts["prompt"])

        def answers(name: str, stage: str, k: int) -> Judged:
            seed = setting.stage_seed(f"evaluation/{stage}")
            return judge(
                policies[name], policies["sft"], lambda batch: score(reward_model, batch), task, prompts, k, seed
            )

        judged = {name: answers(name, name, sizes.answers_per_prompt) for name in policies}
        candidates = answers("sft", "best_of_n", sizes.best_of * sizes.best_of_answers)
        judged["best_of_n"] = best_of_n(candidates, sizes.best_of)
        table = {name: figures(j, judged["sft"], task, prompts) for name, j in judged.items()}
        table["best_of_n"] |= {"kl": best_of_n_kl_bound(sizes.best_of), "kl_se": None}
        best = None if task.best_gold is None else task.best_gold(prompts).mean().item()
        start = table["sft"]["gold"]
        for row in table.values():
            row["share_of_the_way"] = None if best is None else (row["gold"] - start) / (best - start)
        usage.tokens = int(candidates.length.sum() + sum(judged[name].length.sum() for name in policies))
        write_samples(run, prompts, judged)
        proxies = {plots.POLICIES[name][0]: j.proxy.flatten().tolist() for name, j in judged.items()}
        save_figure(run.folder / "plots" / "rewards.png", plots.reward_histograms(proxies, "Proxy reward by policy"))
        usage.tick()
        run.finish("evaluation", usage, {"policies": table, "best_gold": best, "best_of": sizes.best_of})
    return run.result("evaluation")


def summarize(setting: Setting, evaluation: dict[str, Any]) -> dict[str, Any]:
    """Write plots, report.md and summary.json; returns the summary."""
    run = setting.run
    summary = {
        "preset": setting.preset.name,
        "seed": setting.seed,
        "device": str(setting.device),
        "versions": versions(),
        "stages": {stage: run.finished[stage]["usage"] for stage in STAGES if stage in run.finished},
        "reward_model": run.result("reward_model"),
        **evaluation,
    }
    main_process(lambda: write_report(run, summary))
    return dict(read_json(run.folder / "summary.json"))


def _finish_policy(setting: Setting, stage: str, policy: PreTrainedModel, usage: Usage) -> None:
    """Save a trained policy with its tokenizer as a plain transformers folder, and record the stage as finished."""
    if stage in setting.run.finished:
        return
    if compute().is_main:
        with replacing(setting.run.folder / "policies" / stage) as temporary:
            policy.save_pretrained(temporary)
            setting.task.tokenizer.save_pretrained(temporary)
    usage.tick()
    setting.run.finish(stage, usage)


def _trainable_copy(model: Model) -> Model:
    return deepcopy(model).requires_grad_(True)
