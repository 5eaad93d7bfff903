"""The whole run: what it leaves, that it can be used, and that no kill changes a number."""

import dataclasses
import json
import math
import multiprocessing
import os
import random
import shutil
import signal
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.runs import (
    SMALL,
    artefacts,
    child_run,
    finished_run,
    forget,
    numbers,
    quick_preset,
    quick_run,
    quick_settings,
)
from tests.tiny import ragged_pairs, tiny_gpt2
from week6.dpo import reference_log_probs
from week6.machine.checkpoint import RunError
from week6.machine.lora import Trainee
from week6.machine.optim import minibatch
from week6.objective import best_of_n_kl_bound
from week6.reward_model import score
from week6.run import labelling, pipeline
from week6.run.evaluation import Judged, sample_batches
from week6.run.labelling import collect_pairs
from week6.run.setting import RunConfig, Setting, open_setting
from week6.run.training import Run
from week6.sequences import encode_prompts
from week6.tasks import load_task

# Children come from a server that has imported everything once: a fork of this process could inherit a held lock.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["tests.runs"])


@pytest.fixture(scope="module")
def whole():
    return finished_run()


def cpu_seconds(pid):
    """Processor time of a running process: unlike the clock, it does not depend on what else the machine does."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0  # it has just ended
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def in_child(folder, kill_after=math.inf):
    """Run in a child that is SIGKILLed after so many CPU seconds; returns whether it ended by itself before."""
    child = processes.Process(target=child_run, args=(folder,))
    child.start()
    while child.exitcode is None and cpu_seconds(child.pid) < kill_after:
        child.join(0.005)
    child.kill()  # nothing happens to one that has ended
    child.join()
    assert child.exitcode in (0, -signal.SIGKILL)
    return child.exitcode == 0


def test_summary_has_the_keys_that_others_read(whole):
    summary = json.loads((whole / "summary.json").read_text())
    assert {"preset", "seed", "device", "versions", "stages", "reward_model", "policies"} <= set(summary)
    assert list(summary["stages"]) == ["sft", "pairs", "reward_model", "ppo", "dpo", "evaluation"]
    assert {"accuracy", "bayes_accuracy"} <= set(summary["reward_model"])
    keys = {
        "gold",
        "gold_se",
        "proxy",
        "proxy_se",
        "kl",
        "kl_se",
        "win_rate",
        "help_rate",
        "refusal_rate",
        "length",
        "n",
    }
    assert set(summary["policies"]) == {"sft", "ppo", "dpo", "best_of_n"}
    prompts = len(load_task("assistant").heldout_prompts)
    for name, policy in summary["policies"].items():
        assert keys <= set(policy)
        assert all(x is None or isinstance(x, int | float) and math.isfinite(x) for x in policy.values())
        assert policy["n"] == 2 * prompts and policy["prompts"] == prompts
        assert (policy["win_rate"] is None) == (name == "sft")
    assert summary["policies"]["sft"]["kl"] == pytest.approx(0, abs=1e-5)
    assert summary["policies"]["sft"]["share_of_the_way"] == 0
    best = summary["policies"]["best_of_n"]
    assert best["kl"] == best_of_n_kl_bound(SMALL.best_of) and best["kl_se"] is None
    assert best["proxy"] > summary["policies"]["sft"]["proxy"]


def test_report_rests_every_figure_on_its_samples(whole):
    text = (whole / "report.md").read_text()
    summary = json.loads((whole / "summary.json").read_text())
    for policy in summary["policies"].values():
        assert f"{policy['gold']:.2f} ± {policy['gold_se']:.2f}" in text
        assert f"{policy['n']} to {policy['prompts']} prompts" in text
    assert "Bayes ceiling" in text and f"≤ {best_of_n_kl_bound(SMALL.best_of):.2f}" in text
    assert f"{summary['best_gold']:.3f}: the exact maximum" in text
    for line in text.splitlines():
        if line.startswith("!["):
            assert (whole / line.split("](")[1].rstrip(")")).is_file()


def test_samples_are_escaped():
    from week6.run.report import _escape

    assert _escape("<b>*x*</b> | `y`\n[z](w)") == ("&lt;b&gt;&#42;x&#42;&lt;/b&gt; &#124; &#96;y&#96; &#91;z&#93;(w)")


def test_policies_are_plain_transformers_folders(whole):
    task = load_task("assistant")
    prompts, mask = encode_prompts(task.tokenizer, list(task.heldout_prompts["prompt"])[:8])
    answers = set()
    for name in ("sft", "ppo", "dpo"):
        folder = whole / "policies" / name
        assert not list(folder.glob("*.bin")) and not list(folder.glob("*.pt"))
        model = AutoModelForCausalLM.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert tokenizer(task.heldout_prompts["prompt"][0]) == task.tokenizer(task.heldout_prompts["prompt"][0])
        answers.add(str(sample_batches(model, prompts, mask, 5, seed=0).log_probs.tolist()))
    assert len(answers) == 3  # training changed something in each


def test_reward_model_is_centred_and_scaled_on_sft_answers(whole):
    """The very answers that it was calibrated on have mean 0 and variance 1, but for rounding in fp32."""
    with quick_settings():
        setting = open_setting(quick_preset(), whole, resume=True)
        sft = pipeline.fine_tune(setting)
        model = pipeline.fit_reward_model(setting, sft, *collect_pairs(setting, sft))
        tokens, mask = setting.prompts()
        seed = setting.stage_seed("calibration")
        index = minibatch(len(tokens), SMALL.calibration_answers, 0, seed)
        scores = score(model, sample_batches(sft, tokens[index], mask[index], setting.task.max_new_tokens, seed))
    assert abs(scores.mean().item()) < 1e-4
    assert scores.std(correction=0).item() == pytest.approx(1, abs=1e-4)


def test_gold_and_kl_are_in_the_metrics(whole):
    run = Run(whole)
    assert run.metrics("ppo")["gold"].notna().all()
    assert list(run.metrics("dpo")["kl"].dropna().index) == [0, 4, 7]
    assert run.metrics("dpo")["kl"][0] != run.metrics("dpo")["kl"][7]


def test_killed_at_random_moments_ends_with_the_same_numbers(whole, tmp_path):
    folder, rng = tmp_path / "killed", random.Random(0)
    started = time.process_time()
    quick_run(tmp_path / "timing")
    seconds = time.process_time() - started
    kills = 0
    while kills < 5 and not in_child(folder, kill_after=rng.uniform(0.1, 0.4) * seconds):
        kills += 1
    assert kills >= 2
    in_child(folder)
    assert numbers(folder) == numbers(whole)
    assert artefacts(folder) == artefacts(whole)
    assert not list(folder.rglob(".*.tmp"))


class Interrupted(BaseException):
    """Stands for a kill."""


def run_until(folder, stage, monkeypatch, seed=0):
    """A run that is interrupted when `stage` has made all its files but is not yet recorded as finished."""
    finish = Run.finish

    def interrupted(self, name, *rest, **named):
        if name == stage:
            raise Interrupted
        finish(self, name, *rest, **named)

    with monkeypatch.context() as patch, quick_settings(), pytest.raises(Interrupted):
        patch.setattr(Run, "finish", interrupted)
        pipeline.run(quick_preset(), folder, seed, resume=True)


def test_interrupted_at_the_end_of_every_stage_ends_with_the_same_numbers(whole, tmp_path, monkeypatch):
    for stage in numbers(whole)["stages"]:
        run_until(tmp_path / "parts", stage, monkeypatch)
    quick_run(tmp_path / "parts", resume=True)
    assert numbers(tmp_path / "parts") == numbers(whole)
    assert artefacts(tmp_path / "parts") == artefacts(whole)


@pytest.mark.parametrize(
    ("stage", "module", "work", "before", "after"),
    [("pairs", labelling, "sample_batches", 3, 1), ("evaluation", pipeline, "judge", 2, 2)],
)
def test_what_an_interrupted_stage_has_made_is_not_made_again(
    whole, tmp_path, monkeypatch, stage, module, work, before, after
):
    folder, made, make = tmp_path / "parts", [], getattr(module, work)
    shutil.copytree(whole, folder)
    forget(folder, stage)

    def until(*args, **named):
        if len(made) == before:
            raise Interrupted
        made.append(make(*args, **named))
        return made[-1]

    with monkeypatch.context() as patch, quick_settings(), pytest.raises(Interrupted):
        patch.setattr(module, work, until)
        pipeline.run(quick_preset(), folder, resume=True)
    before = len(made) + after
    monkeypatch.setattr(module, work, until)
    quick_run(folder, resume=True)
    assert len(made) == before  # one more would have been an interruption
    assert numbers(folder) == numbers(whole) and artefacts(folder) == artefacts(whole)
    assert not list(folder.glob("checkpoints/*.*.safetensors"))


def test_the_reference_reads_each_pair_once_in_its_place(tmp_path, monkeypatch):
    """Also when it is interrupted; nine pairs in pieces of four."""
    lengths = [2, 5, 3, 4, 2, 3, 6, 2, 4]
    reference, pairs, asked = tiny_gpt2(seed=5), ragged_pairs(lengths, lengths[::-1], lengths), []
    setting = SimpleNamespace(run=Run(tmp_path), device="cpu")
    monkeypatch.setattr(pipeline, "BATCH", 2)
    monkeypatch.setattr(pipeline, "PIECES", 3)
    expected = reference_log_probs(reference, pairs)

    def ask(model, part, batch_size):
        if len(asked) == 2:
            asked.append(Interrupted)
            raise Interrupted
        asked.append(len(part))
        return reference_log_probs(model, part, batch_size)

    with quick_settings():
        monkeypatch.setattr(pipeline, "reference_log_probs", ask)
        with pytest.raises(Interrupted):
            pipeline.ask_reference(setting, reference, pairs)
        found = pipeline.ask_reference(setting, reference, pairs)
    assert asked == [4, 4, Interrupted, 1]
    torch.testing.assert_close((found.ref_chosen, found.ref_rejected), expected)


def test_another_seed_gives_other_numbers(whole, tmp_path, monkeypatch):
    run_until(tmp_path / "other", "sft", monkeypatch, seed=1)
    assert Run(tmp_path / "other").metrics("sft")["loss"].tolist() != Run(whole).metrics("sft")["loss"].tolist()


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [("ppo", "beta", 0.0), ("dpo", "beta", -1.0), ("sft", "steps", 0), ("reward", "learning_rate", math.nan)],
)
def test_senseless_settings_are_named_before_anything_is_done(tmp_path, part, name, value):
    preset = quick_preset()
    preset = dataclasses.replace(preset, **{part: dataclasses.replace(getattr(preset, part), **{name: value})})
    with pytest.raises(RunError, match=rf"{part}\.{name}: got {value}, expected a (finite|whole) number"):
        pipeline.run(preset, tmp_path / "a")
    assert not (tmp_path / "a").exists()
    with pytest.raises(RunError, match="n_pairs: got 0"):
        pipeline.run(dataclasses.replace(quick_preset(), n_pairs=0), tmp_path / "a")


def test_nan_rewards_stop_the_run_and_keep_what_was_done(whole, tmp_path, monkeypatch):
    folder = shutil.copytree(whole, tmp_path / "whole")
    forget(folder, "ppo", "dpo", "evaluation")
    monkeypatch.setattr(pipeline, "score", lambda model, answers: torch.full((len(answers),), math.nan))
    with pytest.raises(RunError, match=r"stage ppo stopped at step \d: scores: got .* NaN"):
        quick_run(folder, resume=True)
    config = RunConfig(0, quick_preset())
    assert list(Run.open(folder, config, resume=True).finished) == ["sft", "pairs", "reward_model"]
    monkeypatch.undo()
    quick_run(folder, resume=True)
    assert numbers(folder) == numbers(whole)


# --- which model, which data and which seed go where: stages that only note what they were given ----------------------


class Thing:
    """Stands for a model or for data."""

    def __init__(self, name):
        self.name = name

    def to(self, device):
        return self

    def __repr__(self):
        return self.name


@pytest.mark.parametrize("imitate", ["demonstrations", "nothing"])
@pytest.mark.parametrize("share_prompts", [True, False])
def test_every_stage_is_given_what_those_before_it_made(share_prompts, imitate, monkeypatch):
    """The judge starts from the model before SFT and learns from pairs of its own; all reward models meet the same
    held-out pairs; DPO learns from the labelled pairs where people compared whole texts, else from theirs."""
    start, sft, pairs, heldout, probabilities, own, labelled = map(
        Thing, ("start", "sft", "pairs", "heldout", "probabilities", "own", "labelled")
    )
    fitted, given = {}, {}

    def fit_reward_model(setting, start, pairs, heldout, probabilities, stage="reward_model"):
        given[stage] = (start, pairs, heldout, probabilities)
        return fitted.setdefault(stage, Thing(stage))

    def noted(stage, result):
        return lambda setting, *arguments: given.setdefault(stage, arguments) and result

    task = SimpleNamespace(pairs_share_prompts=share_prompts, judge_pairs=["a pair"], tokenizer=None)
    setting = SimpleNamespace(task=task, preset=SimpleNamespace(imitate=imitate), device="cpu", stage_seed=str)
    stubs = {
        "fine_tune": lambda setting: sft,
        "collect_pairs": noted("pairs", (pairs, heldout, probabilities)),
        "fit_reward_model": fit_reward_model,
        "label_with": noted("answer_pairs", labelled),
        "optimize_with_ppo": noted("ppo", "PPO's"),
        "optimize_with_dpo": noted("dpo", "DPO's"),
        "initial_policy": lambda preset, tokenizer, seed: {"init": start}[seed],
        "frozen_copy": lambda model: model,
        "encode_texts": lambda task, rows: {"a pair": own}[rows[0]],
        "evaluate": noted("evaluation", "figures"),
        "summarize": lambda setting, evaluation: evaluation,
    }
    for name, stub in stubs.items():
        monkeypatch.setattr(pipeline, name, stub)
    assert pipeline.finish(setting) == "figures"
    policies, reward_model, judge = given.pop("evaluation")
    base = {"base": start} if imitate == "demonstrations" else {}
    assert policies == {"sft": sft, "ppo": "PPO's", "dpo": "DPO's"} | base
    assert reward_model is fitted["reward_model"] and judge == (fitted["judge"], own, heldout)
    assert given == {
        "pairs": (sft,),
        "reward_model": (sft, pairs, heldout, probabilities),
        "judge": (start, own, heldout, None),
        "ppo": (sft, reward_model),
        "dpo": (sft, pairs if share_prompts else labelled),
    } | ({} if share_prompts else {"answer_pairs": (sft, reward_model)})


@pytest.mark.parametrize("start", ["base", "sft"])
def test_every_policy_is_judged_against_sft_by_the_reward_model_and_by_the_unseen_judge(start, monkeypatch, tmp_path):
    """Each with random numbers of its own, best-of-n too, or it would choose among the answers it is compared to."""
    reward_model, unseen = Thing("reward model"), pipeline.Judge(Thing("judge"), "own pairs", "held-out pairs")
    policies = {name: Thing(name) for name in ("sft", "ppo", "dpo", *(["base"] if start == "base" else []))}
    found, seen, seeds, compared = {}, [], [], []

    def judge(policy, sft, first, task, prompts, k, seed, unseen):
        assert sft is policies["sft"] and prompts == ["x", "y"]
        assert first("it") == (reward_model, "it") and unseen("it") == ("the judge's", "it")
        seen.append((policy.name, k))
        seeds.append(seed)
        numbers = torch.arange(2.0 * k).reshape(2, k)
        return Judged([["a"] * k] * 2, numbers, None, numbers, numbers, verdict=numbers)

    def score_as_ended(model, eos, answers):
        return ("the judge's" if (model, eos) == (unseen.model, 2) else model, answers)

    def verdicts(judged, start):
        compared.append((set(judged), start))
        return "wins"

    stubs = {
        "judge": judge,
        "score": lambda model, answers: (model, answers),
        "score_as_ended": score_as_ended,
        "verdicts": verdicts,
        "length_baseline": lambda own, heldout: {"length": (own, heldout)},
        "write_samples": lambda *_: None,
        "save_figure": lambda *_: None,
        "try_requests": lambda setting, policies, piece: dict(policies),
        "pieces": lambda run, stage, total, usage: nullcontext(lambda name, make: make()),
    }
    for name, stub in stubs.items():
        monkeypatch.setattr(pipeline, name, stub)
    run = SimpleNamespace(folder=tmp_path, whole=lambda stage: False)
    run.finish = lambda stage, usage, result, files: found.update(result, tokens=usage.tokens)
    run.result = lambda stage: {"evaluation": found, "judge": {"accuracy": 0.75}}[stage]
    nothing = dict.fromkeys(("gold", "rates", "best_gold"))
    task = SimpleNamespace(heldout_prompts={"prompt": ["x", "y"]}, own_requests="requests", **nothing)
    task.tokenizer = SimpleNamespace(eos_token_id=2)
    setting = SimpleNamespace(run=run, task=task, preset=SimpleNamespace(evaluation=SMALL), stage_seed=str)
    pipeline.evaluate(setting, policies, reward_model, unseen)
    assert dict(seen[:-1]) == dict.fromkeys(policies, 2) and seen[-1] == ("sft", 3 * 2)
    assert len(set(seeds)) == len(seeds) == len(policies) + 1
    assert compared == [({*policies, "best_of_n"}, start)] and found["own_requests"] == policies
    length = ("own pairs", "held-out pairs")
    assert found["judge"] == {"accuracy": 0.75, "length": length, "start": start, "policies": "wins"}
    assert found["tokens"] == sum(range(12)) + len(policies) * sum(range(4))  # here an answer's number is its length


class Noting(Setting):
    """A setting that notes for what a seed is asked."""

    def stage_seed(self, stage):
        self.asked.append(stage)
        return super().stage_seed(stage)


def test_the_judge_shares_no_random_number_with_the_reward_model(tmp_path, monkeypatch):
    """Not those of its adapters, of its head, of its batches, nor of the answers that give it mean 0."""
    preset = quick_preset()
    preset = dataclasses.replace(preset, reward=dataclasses.replace(preset.reward, steps=1))
    with quick_settings():
        setting = open_setting(preset, tmp_path / "run")
        pairs = ragged_pairs([2, 2], [5, 2], [3, 4])
        start = pipeline.initial_policy(preset, setting.task.tokenizer, 0)
        asked = {}
        for stage in ("reward_model", "judge"):
            noting = Noting(**vars(setting))
            object.__setattr__(noting, "asked", asked.setdefault(stage, []))
            pipeline.fit_reward_model(noting, start, pairs, pairs, None, stage)
    assert len(set(asked["judge"])) >= 4 and not set(asked["judge"]) & set(asked["reward_model"])


class Begun(Exception):
    """A stage would train now."""


class Beginning(Noting):
    """A setting with which every stage ends where its training would begin, and which notes what it would train."""

    def train(self, *training):
        self.begun.append(training)
        raise Begun


def test_every_stage_has_adapters_of_its_own_and_ppo_alone_a_controller(tmp_path, monkeypatch):
    """The controller's β goes into the checkpoint: PPO that goes on without it would start at the first β again."""
    seeds = []

    def trainee_of(model, config, seed):
        seeds.append(seed)
        return Trainee(model)

    monkeypatch.setattr(pipeline, "trainee_of", trainee_of)
    preset = quick_preset()
    with quick_settings():
        setting = Beginning(**vars(open_setting(preset, tmp_path / "run")))
        for notes in ("asked", "begun"):
            object.__setattr__(setting, notes, [])
        pairs = ragged_pairs([2, 2], [5, 2], [3, 4])
        model = pipeline.initial_policy(preset, setting.task.tokenizer, 0)
        for stage in (
            lambda: pipeline.fine_tune(setting),
            lambda: pipeline.fit_reward_model(setting, model, pairs, pairs, None),
            lambda: pipeline.fit_reward_model(setting, model, pairs, pairs, None, "judge"),
            lambda: pipeline.optimize_with_ppo(setting, model, None),
            lambda: pipeline.optimize_with_dpo(setting, model, pairs),
        ):
            with pytest.raises(Begun):
                stage()
    steps = [preset.sft.steps, preset.reward.steps, preset.reward.steps, preset.ppo.steps, preset.dpo.steps]
    assert [(stage, total) for stage, _, total, *_ in setting.begun] == list(
        zip(("sft", "reward_model", "judge", "ppo", "dpo"), steps, strict=True)
    )
    controllers = {stage: more[0] for stage, _, _, _, _, *more in setting.begun if more and more[0] is not None}
    assert list(controllers) == ["ppo"] and controllers["ppo"].beta == preset.ppo.beta
    assert len(set(seeds)) == len(seeds) == 5
