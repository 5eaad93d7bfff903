"""The whole course as one run, top to bottom:

    demonstrations → SFT → pairs of its answers, labelled → reward model → PPO ┐
                                          └──────────────────────────────→ DPO ┴→ evaluation → report
                           pairs of its own, if there are some → judge ────────┘

Every stage is a function that either does its work or, when the run resumes, reads what it did.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from week6.dpo import ReferencedPairs, reference_log_probs, train_dpo
from week6.machine import validate as check
from week6.machine.checkpoint import RunError, load_checkpoint, replacing, save_checkpoint
from week6.machine.compute import compute, main_process
from week6.machine.lock import only_writer
from week6.machine.lora import Trainee, trainee_of
from week6.machine.optim import make_optimizer, minibatch
from week6.machine.paths import place
from week6.objective import best_of_n_kl_bound
from week6.pictures import plots
from week6.ppo import AdaptiveKL, PolicyWithValue, PPOConfig, train_ppo
from week6.preferences import bayes_accuracy
from week6.reward_model import (
    RewardModel,
    expected_accuracy,
    pair_agreement,
    score,
    score_batches,
    train_reward_model,
)
from week6.run.evaluation import Estimate, Judged, best_of_n, estimate, figures, judge, sample_batches
from week6.run.judge import length_baseline, score_as_ended, verdicts
from week6.run.labelling import answer_requests, collect_pairs, encode_texts, label_with
from week6.run.models import Preset, frozen_copy, initial_policy
from week6.run.own_requests import try_requests
from week6.run.pieces import Tensors, pieces
from week6.run.report import save_figure, write_report, write_samples
from week6.run.setting import STAGES, Setting, announce, open_setting
from week6.run.training import Usage, read_json, versions
from week6.sequences import Pairs, decode, encode_demonstrations, encode_prompts
from week6.sft import train_sft
from week6.tasks import Task

BATCH, PIECES = 64, 16
"""Pairs that DPO's reference reads at once, and in how many pieces it reads all, at most."""


def run(preset: Preset, folder: Path | str, seed: int = 0, resume: bool = False) -> dict[str, Any]:
    """Do, or with `resume` finish, the run of `preset` in `folder`; returns what is in its summary.json.

    Raises RunError for bad settings, a folder that belongs to something else or in which another process works,
    damaged files, a full disk, or numbers that cannot be learned from; what is on the disk is kept then.
    """
    folder = place(folder, "folder")
    with only_writer(folder):
        try:
            setting = open_setting(preset, folder, seed, resume)
        except ValueError as error:
            raise RunError(str(error)) from error
        try:
            return finish(announce(setting, STAGES, "--resume goes on"))
        except check.UnusableError as error:
            raise RunError(str(error)) from error


def finish(setting: Setting) -> dict[str, Any]:
    """Do all stages that are not finished; returns the summary. Raises UnusableError or RunError as `run` says."""
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
    judge = None
    if setting.task.judge_pairs is not None:
        start = frozen_copy(initial_policy(setting.preset, setting.task.tokenizer, setting.stage_seed("init")))
        start.to(setting.device)  # type: ignore[arg-type]  # transformers hides the signature
        own = encode_texts(setting.task, list(setting.task.judge_pairs)).to(setting.device)
        judge = Judge(fit_reward_model(setting, start, own, heldout_pairs, None, "judge"), own, heldout_pairs)
        policies |= {} if setting.preset.imitate == "nothing" else {"base": start}
    return summarize(setting, evaluate(setting, policies, reward_model, judge))


def fine_tune(setting: Setting) -> PreTrainedModel:
    """SFT: a policy, new or pretrained, imitates the demonstrations; or it stays as it is, if the preset says so."""
    task, config = setting.task, setting.preset.sft
    requests = answer_requests(setting)
    policy = initial_policy(setting.preset, task.tokenizer, setting.stage_seed("init"))
    policy.to(setting.device)  # type: ignore[arg-type]  # transformers hides the signature
    trainee = _trainee(setting, policy, "sft")
    policy = trainee.model
    optimizer = make_optimizer(policy, config.learning_rate)

    def loop(start: int) -> Iterator[dict[str, float]]:
        data = encode_demonstrations(
            task.tokenizer,
            [*task.demonstrations["prompt"], *(row["prompt"] for row in requests)],
            [*task.demonstrations["completion"], *(row["chosen"] for row in requests)],
        )
        return train_sft(policy, optimizer, data.to(setting.device), config, setting.stage_seed("sft"), start)

    return _train_policy(setting, "sft", loop, trainee, policy, optimizer)


def fit_reward_model(
    setting: Setting,
    start: PreTrainedModel,
    pairs: Pairs,
    heldout: Pairs,
    probabilities: Tensor | None,
    stage: str = "reward_model",
) -> RewardModel:
    """Bradley–Terry on the training pairs; then answers of the model that it starts from, SFT's but for the judge, are
    given mean 0 and variance 1."""
    run, config, path = setting.run, setting.preset.reward, setting.run.folder / f"{stage}.safetensors"
    part = "" if stage == "reward_model" else f"{stage}/"
    trainee = _trainee(setting, start, stage)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(setting.stage_seed(f"{part}reward_head"))
        model = RewardModel(trainee.model).to(setting.device)
    if setting.preset.lora.rank:  # like an adapter the head starts at nothing: noise outweighs what few pairs say
        torch.nn.init.zeros_(model.head.weight)
    optimizer = make_optimizer(model, config.learning_rate)
    if not run.whole(stage):

        def loop(first: int) -> Iterator[dict[str, float]]:
            return train_reward_model(model, optimizer, pairs, config, setting.stage_seed(stage), first)

        usage = setting.train(stage, loop, config.steps, model, optimizer)
        trainee.merge(run.folder / "adapters" / stage)
        tokens, mask = setting.prompts()
        seed = setting.stage_seed(f"{part}calibration")
        index = minibatch(len(tokens), setting.preset.evaluation.calibration_answers, 0, seed)
        answers = sample_batches(start, tokens[index], mask[index], setting.task.max_new_tokens, seed)
        model.calibrate(score_batches(model, answers, len(answers)))
        accuracy, ceiling = _accuracy(setting, pair_agreement(model, heldout).cpu(), probabilities)
        save_checkpoint(path, model, tag=run.tag(path))
        usage.tick()
        run.finish(
            stage,
            usage,
            {
                "accuracy": accuracy.mean,
                "accuracy_se": accuracy.se,
                "bayes_accuracy": ceiling,
                "n": len(heldout),
                "prompts": accuracy.prompts,
            },
            files=[path, run.metrics_path(stage), *_files_in(run.folder / "adapters" / stage)],
        )
    trainee.merge()
    load_checkpoint(path, model, tag=run.tag(path))
    return frozen_copy(model)


def _accuracy(setting: Setting, agreement: Tensor, probabilities: Tensor | None) -> tuple[Estimate, float | None]:
    """Accuracy on held-out pairs and its Bayes ceiling, known where it is known how people would choose again."""
    if probabilities is None:
        return estimate(agreement.unsqueeze(1)), None
    on_each_prompt = 1 if setting.task.pairs else setting.preset.evaluation.heldout_pairs
    expected = expected_accuracy(agreement, probabilities).reshape(-1, on_each_prompt)
    return estimate(expected), bayes_accuracy(probabilities).item()


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
    trainee = _trainee(setting, sft, "ppo")
    actor = PolicyWithValue(trainee.model).to(setting.device)
    optimizer = make_optimizer(actor, config.learning_rate, eps=1e-5)
    controller = AdaptiveKL(config.beta, config.target_kl or 1.0, config.horizon)  # no target: β stays, 1.0 is unread

    def loop(start: int) -> Iterator[dict[str, float]]:
        return watch_ppo(
            actor, sft, reward_model, task, optimizer, controller, config, setting.stage_seed("ppo"), start
        )

    return _train_policy(setting, "ppo", loop, trainee, actor, optimizer, controller)


def optimize_with_dpo(setting: Setting, sft: PreTrainedModel, pairs: Pairs) -> PreTrainedModel:
    """DPO: the same pairs, without a reward model and without sampling; samples are only taken to measure the KL."""
    task, config = setting.task, setting.preset.dpo
    trainee = _trainee(setting, sft, "dpo")
    policy = trainee.model
    optimizer = make_optimizer(policy, config.learning_rate)
    prompts = list(task.prompts["prompt"])
    sizes = setting.preset.evaluation
    every = max(1, config.steps // sizes.probes)

    def loop(start: int) -> Iterator[dict[str, float]]:
        data = ask_reference(setting, sft, pairs)
        for row in train_dpo(policy, sft, optimizer, data, config, setting.stage_seed("dpo"), start):
            step = int(row["step"])
            row["kl"] = row["gold"] = math.nan
            if step % every == 0 or step == config.steps - 1:
                seed = setting.stage_seed(f"dpo/probe/{step}")
                asked = [prompts[i] for i in minibatch(len(prompts), sizes.probe_answers, 0, seed).tolist()]
                probe = judge(policy, sft, lambda answers: answers.log_probs.sum(-1), task, asked, 1, seed)
                row["kl"] = probe.kl.mean().item()
                row["gold"] = math.nan if probe.gold is None else probe.gold.mean().item()
            yield row

    return _train_policy(setting, "dpo", loop, trainee, policy, optimizer)


def ask_reference(setting: Setting, sft: PreTrainedModel, pairs: Pairs) -> ReferencedPairs:
    """The pairs with what DPO's reference says of them, piece by piece: minutes go by on a CPU."""
    rows = BATCH * math.ceil(len(pairs) / BATCH / PIECES)
    parts = [pairs.rows(slice(first, first + rows)) for first in range(0, len(pairs), rows)]
    with pieces(setting.run, "dpo", len(parts)) as piece:

        def ask(part: Pairs) -> Tensors:
            chosen, rejected = reference_log_probs(sft, part, BATCH)
            return {"ref_chosen": chosen, "ref_rejected": rejected}

        found = [piece(f"reference-{i}", partial(ask, part)) for i, part in enumerate(parts)]
    joined = {name: torch.cat([tensors[name] for tensors in found]).to(setting.device) for name in found[0]}
    return ReferencedPairs(**vars(pairs), **joined)


class Judge(NamedTuple):
    """The judge that training never saw, the pairs that it has learned from, and those on which it meets people."""

    model: RewardModel
    pairs: Pairs
    heldout: Pairs


def evaluate(
    setting: Setting, policies: dict[str, PreTrainedModel], reward_model: RewardModel, unseen: Judge | None = None
) -> dict[str, Any]:
    """Answers of every policy, and the best of n of the SFT model's, to held-out prompts, judged, and to the task's own
    requests.

    Best-of-n is chosen by the reward model. Its KL is the bound log n − (n − 1)/n, since the density of the best
    answer cannot be computed.
    """
    run, task, sizes = setting.run, setting.task, setting.preset.evaluation
    if not run.whole("evaluation"):
        usage = Usage()
        prompts = list(task.heldout_prompts["prompt"])

        def answers(name: str, stage: str, k: int) -> Tensors:
            seed = setting.stage_seed(f"evaluation/{stage}")
            eos = task.tokenizer.eos_token_id
            second = None if unseen is None else partial(score_as_ended, unseen.model, eos)
            first = partial(score, reward_model)
            return judge(policies[name], policies["sft"], first, task, prompts, k, seed, unseen=second).tensors()

        asked = {} if task.own_requests is None else policies
        with pieces(run, "evaluation", len(policies) + 1 + len(asked), usage) as piece:
            k, n = sizes.answers_per_prompt, sizes.best_of * sizes.best_of_answers
            judged = {name: Judged.of(piece(name, partial(answers, name, name, k))) for name in policies}
            candidates = Judged.of(piece("best_of_n", partial(answers, "sft", "best_of_n", n)))
            own_requests = try_requests(setting, asked, piece) if asked else None
        judged["best_of_n"] = best_of_n(candidates, sizes.best_of)
        table = {name: figures(j, judged["sft"], task, prompts) for name, j in judged.items()}
        table["best_of_n"] |= {"kl": best_of_n_kl_bound(sizes.best_of), "kl_se": None}
        best = None if task.best_gold is None else task.best_gold(prompts).mean().item()
        sft_gold = table["sft"]["gold"]
        for row in table.values():
            row["share_of_the_way"] = None if best is None else (row["gold"] - sft_gold) / (best - sft_gold)
        usage.tokens = int(candidates.length.sum() + sum(judged[name].length.sum() for name in policies))
        write_samples(run, prompts, judged)
        proxies = {plots.POLICIES[name][0]: j.proxy.flatten().tolist() for name, j in judged.items()}
        plot = run.folder / "plots" / "rewards.png"
        save_figure(plot, lambda: plots.reward_histograms(proxies, "Proxy reward by policy"))
        found = {"policies": table, "best_gold": best, "best_of": sizes.best_of}
        files = [plot, run.folder / "samples.json", run.folder / "samples.md"]
        if unseen is not None:
            start = "base" if "base" in policies else "sft"
            agreement = run.result("judge") | length_baseline(unseen.pairs, unseen.heldout)
            found["judge"] = agreement | {"start": start, "policies": verdicts(judged, start)}
        if own_requests is not None:
            found["own_requests"] = own_requests
            files.append(run.folder / "own_requests.json")
        usage.tick()
        run.finish("evaluation", usage, found, files)
    return run.result("evaluation")


def summarize(setting: Setting, evaluation: dict[str, Any]) -> dict[str, Any]:
    """Write plots, report.md, report.html and summary.json; returns the summary."""
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


def _train_policy(
    setting: Setting,
    stage: str,
    loop: Callable[[int], Iterator[dict[str, float]]],
    trainee: Trainee,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    controller: AdaptiveKL | None = None,
) -> PreTrainedModel:
    """Train `module`, of which the trainee's model is a part or all, or read what was trained; returns a frozen copy of
    that model.

    The trained policy is saved with its tokenizer as a plain transformers folder, its adapters, if it has some, beside
    that, and the stage recorded as finished.
    """
    run, whole = setting.run, setting.run.whole(stage)
    trains = stage != "sft" or setting.preset.imitate != "nothing"
    usage = Usage()
    if trains:
        usage = setting.train(stage, loop, getattr(setting.preset, stage).steps, module, optimizer, controller)
    trainee.merge(None if whole or not trains else run.folder / "adapters" / stage)
    policy = trainee.model
    if not whole:
        folder = run.folder / "policies" / stage
        if compute().is_main:
            with replacing(folder) as temporary:
                policy.save_pretrained(temporary)
                setting.task.tokenizer.save_pretrained(temporary)
        usage.tick()
        made = _files_in(folder) + _files_in(run.folder / "adapters" / stage)
        made += [run.checkpoint(stage), run.metrics_path(stage)] if trains else []
        run.finish(stage, usage, files=made)
    return frozen_copy(policy)


def _files_in(folder: Path) -> list[Path]:
    """All files of a folder, if it is there."""
    return [path for path in folder.rglob("*") if path.is_file()]


def _trainee(setting: Setting, model: PreTrainedModel, stage: str) -> Trainee:
    """A copy of `model` to train, whole or by adapters as the preset says."""
    return trainee_of(model, setting.preset.lora, setting.stage_seed(f"{stage}/lora"))
