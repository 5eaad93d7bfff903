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
from pathlib import Path

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
from week6.machine.checkpoint import RunError
from week6.machine.optim import minibatch
from week6.objective import best_of_n_kl_bound
from week6.reward_model import score
from week6.run import pipeline
from week6.run.evaluation import sample_batches
from week6.run.labelling import collect_pairs
from week6.run.setting import RunConfig, open_setting
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
