"""`week6 confirm` on the CPU with a small model: each of its checks passes, and fails where it should."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from tests.runs import quick_settings
from tests.small_gpt2 import reviews, small_gpt2
from week6.classroom import confirm as module
from week6.classroom.confirm import NO_GPU, STEPS, Limits, confirm, projected_seconds, shortened, timed_answers
from week6.cli import main
from week6.machine.checkpoint import RunError
from week6.machine.compute import compute, using
from week6.machine.validate import UnusableError
from week6.run import pipeline, training
from week6.run.models import PRESETS
from week6.run.training import Run

NAMES = ["model and data", "device", "precision", "a few steps", "finite losses", "PPO's first ratio", "peak memory",
         "whole preset", "killed, resumed"]  # fmt: skip


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A small model and reviews, as settings of the preset."""
    folder = tmp_path_factory.mktemp("sources")
    small_gpt2(folder / "model")
    (folder / "reviews.txt").write_text("\n".join(reviews()))
    return {"model": str(folder / "model"), "data": str(folder / "reviews.txt")}


@pytest.fixture
def preset(sources):
    """Preset gpt2 with these, and less to do."""
    gpt2, change = PRESETS["gpt2"], dataclasses.replace
    return change(
        gpt2,
        **sources,
        n_pairs=48,
        ppo=change(gpt2.ppo, batch_size=8, max_new_tokens=16),
        evaluation=change(gpt2.evaluation, calibration_answers=32, probe_answers=16),
    )


def lines_of(told):
    """Verdict and the rest of the line of each check, by its name."""
    rows = [(line[:4], line[6:24].strip(), line[25:]) for line in told if line[:6] in ("PASS  ", "FAIL  ", "SKIP  ")]
    assert [name for _, name, _ in rows] == NAMES
    return {name: (verdict, text) for verdict, name, text in rows}


def failed(told):
    assert not any(verdict == "SKIP" for verdict, _ in lines_of(told).values())
    return {name for name, (verdict, _) in lines_of(told).items() if verdict == "FAIL"}


@pytest.mark.slow
def test_all_passes_on_the_cpu_that_is_asked_for(sources, capsys):
    words = ["confirm", "--cpu", "--model", sources["model"], "--data", sources["data"]]
    with quick_settings(checkpoint_seconds=10):
        assert main(words) == 0
    told = capsys.readouterr().out.splitlines()
    assert failed(told) == set() and len(told) == len(NAMES)


@pytest.mark.slow
def test_memory_ratio_and_lost_moments_fail(preset, tmp_path, monkeypatch):
    right = training.load_checkpoint
    monkeypatch.setattr(training, "load_checkpoint", lambda path, module, optimizer, tag: right(path, module, tag=tag))
    limits, told = Limits(memory_gb=0.01, ratio={torch.float32: 0.0}), []
    with quick_settings(checkpoint_seconds=10):
        assert confirm(preset, tmp_path, cpu=True, limits=limits, tell=told.append) is False
    assert failed(told) == {"peak memory", "PPO's first ratio", "killed, resumed"}
    assert lines_of(told)["peak memory"][1].endswith("expected less than 0.01 GB")


@pytest.mark.slow
def test_the_loss_of_the_resumed_stage_fails_alone(preset, tmp_path):
    """No difference is below a limit of less than nothing."""
    told = []
    with quick_settings(checkpoint_seconds=10):
        assert confirm(preset, tmp_path, cpu=True, limits=Limits(loss=-1.0), tell=told.append) is False
    assert failed(told) == {"killed, resumed"}


@pytest.mark.slow
def test_time_infinite_losses_and_a_lost_checkpoint_fail(preset, tmp_path, monkeypatch):
    right = Run.metrics

    def metrics(run, stage):
        table = right(run, stage)
        return table.assign(loss=np.inf) if stage == "dpo" else table

    monkeypatch.setattr(Run, "metrics", metrics)
    monkeypatch.setattr(training, "save_checkpoint", lambda *_: None)
    told = []
    with quick_settings(checkpoint_seconds=10):
        assert confirm(preset, tmp_path, cpu=True, limits=Limits(minutes=0.01), tell=told.append) is False
    assert failed(told) == {"whole preset", "finite losses", "killed, resumed"}
    assert "dpo.loss; expected no other" in lines_of(told)["finite losses"][1]
    assert "SFT went on at step 0" in lines_of(told)["killed, resumed"][1]


@dataclasses.dataclass
class Stage:
    """A setting of which nothing but its stage SFT is asked."""

    loss: float
    watcher: object = None
    preset: str = "preset"

    @property
    def task(self):
        return SimpleNamespace(tokenizer=None)

    @property
    def run(self):
        return SimpleNamespace(metrics=lambda stage: pd.DataFrame({"loss": [9.0, self.loss]}))

    def stage_seed(self, stage):
        return stage


@pytest.mark.parametrize(("off", "loss", "passed"), [(0.049, 2.0018, 1), (0.051, 2.0, 0), (0.0, 2.0022, 0)])
def test_resumed_weights_are_held_against_the_way_that_training_went(off, loss, passed, monkeypatch, tmp_path):
    """The way from the start to the end has length 1 here; weights of length 100 would hide any difference."""
    start, whole, resumed = (torch.nn.Linear(1, 1, bias=False) for _ in range(3))
    for model, weight in ((start, 99.0), (whole, 100.0), (resumed, 100.0 + off)):
        torch.nn.init.constant_(model.weight, weight)
    killed = []

    def fine_tune(setting):
        if setting.watcher is None:
            return whole
        if setting.watcher.stop is not None:
            killed.append(setting)
            raise module.Killed
        setting.watcher.starts["sft"] = STEPS // 2 + 1
        return resumed

    monkeypatch.setattr(module, "fine_tune", fine_tune)
    monkeypatch.setattr(module, "open_setting", lambda *_, **__: Stage(loss))
    monkeypatch.setattr(module, "initial_policy", lambda preset, tokenizer, seed: {"init": start}[seed])
    told = []
    findings = module.Findings(told.append)
    module._check_resume(findings, Stage(2.0), tmp_path, Limits())
    assert findings.failed == 1 - passed and len(killed) == 1 and f"{100 * off:.2g} % of the way" in told[0]


@pytest.mark.parametrize(("stage", "column"), [("sft", "loss"), ("ppo", "value_loss"), ("dpo", "grad_norm")])
def test_one_number_of_any_loss_or_gradient_that_is_not_finite_fails(stage, column):
    def metrics(of):
        table = pd.DataFrame(
            {"loss": [1.0, 2.0], "value_loss": [1.0, 2.0], "grad_norm": [1.0, 2.0], "kl": [np.nan, 0.0]}
        )
        return table.assign(first_ratio_deviation=0.0, **({column: [1.0, np.inf]} if of == stage else {}))

    told = []
    findings = module.Findings(told.append)
    module._check_numbers(findings, SimpleNamespace(run=SimpleNamespace(metrics=metrics)), Limits())
    assert findings.failed == 1 and f"{stage}.{column}; expected no other" in told[0]


def test_a_stage_that_stops_fails_and_what_needs_it_is_left_out(preset, tmp_path, monkeypatch):
    def wild(*_):
        raise UnusableError("loss: got nan")

    monkeypatch.setattr(pipeline, "train_sft", wild)
    told = []
    with quick_settings():
        assert confirm(preset, tmp_path, cpu=True, tell=told.append) is False
    verdicts = {name: verdict for name, (verdict, _) in lines_of(told).items()}
    assert [verdicts[name] for name in NAMES] == ["PASS"] * 3 + ["FAIL"] + ["SKIP"] * 5
    assert "stage sft stopped at step" in lines_of(told)["a few steps"][1]


def test_no_model_and_another_precision_fail(preset, tmp_path):
    gone, told = dataclasses.replace(preset, model=str(tmp_path / "nowhere")), []
    with using(dtype=torch.float16):
        assert confirm(gone, tmp_path, cpu=True, tell=told.append) is False
    verdicts = {name: verdict for name, (verdict, _) in lines_of(told).items()}
    assert [verdicts[name] for name in NAMES] == ["FAIL", "PASS", "FAIL"] + ["SKIP"] * 6
    assert "nowhere" in lines_of(told)["model and data"][1] and lines_of(told)["precision"][1] == "fp16; expected fp32"


@pytest.mark.parametrize(("capability", "dtype", "right"), [
    ((7, 5), torch.float16, True), ((7, 5), torch.float32, False), ((7, 5), torch.bfloat16, False),
    ((8, 0), torch.bfloat16, True), ((8, 0), torch.float16, False),
])  # fmt: skip
def test_precision_that_a_gpu_should_get(capability, dtype, right, preset, tmp_path, monkeypatch):
    compute()  # found before there seems to be a GPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    gone, told = dataclasses.replace(preset, model=str(tmp_path / "nowhere")), []
    with using(device=torch.device("cuda")) as here:
        here.dtype = dtype
        assert confirm(gone, tmp_path, tell=told.append) is False
    lines = lines_of(told)
    assert lines["device"][0] == "PASS" and lines["device"][1].startswith("Tesla T4, ")
    assert lines["precision"][0] == ("PASS" if right else "FAIL")
    told.clear()
    with using(dtype=dtype):  # CUDA is there, but not used
        assert confirm(gone, tmp_path, tell=told.append) is False
    assert lines_of(told)["device"][0] == "FAIL"


def test_without_a_gpu_it_confirms_nothing_about_one(sources, capsys):
    assert main(["confirm", "--model", sources["model"], "--data", sources["data"]]) == 1
    told = capsys.readouterr().out.splitlines()
    assert [verdict for verdict, _ in lines_of(told).values()] == ["PASS"] + ["SKIP"] * 8
    assert told[-1] == NO_GPU and "confirms nothing about a GPU" in NO_GPU


def test_a_preset_without_a_pretrained_model_is_refused(tmp_path, capsys):
    with pytest.raises(RunError, match="--preset: got 'tiny', expected one with a pretrained model"):
        confirm(PRESETS["tiny"], tmp_path)
    assert main(["confirm", "--preset", "tiny"]) == 2 and "--preset: got 'tiny'" in capsys.readouterr().err


def test_shortened_keeps_batches_and_lengths():
    full, short = PRESETS["gpt2"], shortened(PRESETS["gpt2"])
    for part in ("sft", "reward", "ppo", "dpo"):
        before, after = getattr(full, part), getattr(short, part)
        assert after == dataclasses.replace(before, steps=STEPS) and before.steps > STEPS
    assert (short.model, short.data, short.name) == (full.model, full.data, full.name)


def test_projection_by_hand():
    """Steps of 1, 2, 10 and 3 s; 1,000 answers of the short run in 100 s; 7 s for the rest."""
    full, task = PRESETS["gpt2"], SimpleNamespace(heldout_prompts=range(500), answers_per_prompt=4, pairs=None)
    short = shortened(full)
    per_step = {"sft": 1.0, "reward_model": 2.0, "ppo": 10.0, "dpo": 3.0}
    few = 500 * 4 + 2 * 500 + 500 * 5  # 500 prompts have 3,000 pairs; two answers to a held-out prompt; 3 + best of 2
    assert timed_answers(short, task) == few
    usage = {stage: {"usage": {"seconds": seconds}} for stage, seconds in (("pairs", 30.0), ("evaluation", 25.0))}
    setting = SimpleNamespace(run=SimpleNamespace(finished=usage), task=task)
    many = 2000 * 4 + 2 * 500 * 14 + 500 * (3 * 8 + 2 * 16) + 1000 + 10 * 256
    expected = 600 * 1 + 375 * 2 + 150 * 10 + 375 * 3 + 55 * many / few + 7
    assert projected_seconds(full, short, setting, per_step, STEPS * 16 + 55 + 7) == pytest.approx(expected)
