"""week6.classroom.lesson: made once, found again; who asks while another trains waits for it."""

import dataclasses
import errno
import fcntl
import multiprocessing
import os
from types import SimpleNamespace

import pytest
import torch

from tests.gpt2_cells import few_steps
from tests.runs import quick_preset
from week6.classroom import lesson as lessons
from week6.classroom.lesson import Lesson, lesson, lesson_preset, runs_folder
from week6.machine.checkpoint import RunError
from week6.machine.compute import using
from week6.run import labelling, pipeline
from week6.run.models import PRESETS
from week6.run.setting import STAGES, announce, open_setting

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["tests.runs", "week6.classroom.lesson"])


def trained(course):
    """When each stage of a lesson was finished, and the last bits of what it made."""
    return course.run.finished, [p.sum().item() for p in course.sft.parameters()]


def test_makes_what_is_asked_for_and_only_that(tmp_path):
    course = lesson(preset=quick_preset(), folder=tmp_path / "run")
    assert (course.reward_model, course.ppo, course.dpo) == (None, None, None)
    assert set(course.run.finished) == {"sft", "pairs"}
    course = lesson("ppo", "dpo", preset=quick_preset(), folder=tmp_path / "run")
    assert course.reward_model is not None and course.ppo is not None and course.dpo is not None
    assert set(course.run.finished) == {"sft", "pairs", "reward_model", "ppo", "dpo"}
    assert len(course.heldout_pairs) == len(course.probabilities)


def test_every_model_of_a_lesson_is_made_of_what_it_should_be(tmp_path, monkeypatch):
    """Whatever is trained learns from the training pairs, and PPO climbs this lesson's reward model."""
    made, setting = [], SimpleNamespace(run="run", task="task", device="cpu")

    def noted(stage, result):
        return lambda setting, *given: made.append((stage, *given)) or result

    stubs = {
        "open_setting": lambda *_, **__: setting,
        "announce": lambda setting, *_: setting,
        "fine_tune": noted("sft", "SFT"),
        "collect_pairs": noted("pairs", ("pairs", "held-out", "probabilities")),
        "fit_reward_model": noted("reward_model", "reward model"),
        "optimize_with_ppo": noted("ppo", "PPO"),
        "optimize_with_dpo": noted("dpo", "DPO"),
    }
    for name, stub in stubs.items():
        monkeypatch.setattr(lessons, name, stub)
    course = lesson("ppo", "dpo", preset=quick_preset(), folder=tmp_path)
    assert made == [
        ("sft",),
        ("pairs", "SFT"),
        ("reward_model", "SFT", "pairs", "held-out", "probabilities"),
        ("ppo", "SFT", "reward model"),
        ("dpo", "SFT", "pairs"),
    ]
    data = course.sft, course.pairs, course.heldout_pairs, course.probabilities
    assert data == ("SFT", "pairs", "held-out", "probabilities")
    assert (course.reward_model, course.ppo, course.dpo) == ("reward model", "PPO", "DPO")


def test_the_second_notebook_trains_nothing(tmp_path, monkeypatch):
    first = lesson("reward_model", preset=quick_preset(), folder=tmp_path / "run")
    for module, work in ((pipeline, "train_sft"), (pipeline, "train_reward_model"), (labelling, "_label_answers")):
        monkeypatch.setattr(module, work, lambda *_: pytest.fail("trained again"))
    assert trained(lesson("reward_model", preset=quick_preset(), folder=tmp_path / "run")) == trained(first)


def test_two_at_once_train_once(tmp_path):
    folder = tmp_path / "run"
    both = [processes.Process(target=lesson, kwargs={"preset": quick_preset(), "folder": folder}) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    rows = (folder / "metrics" / "sft.csv").read_text().splitlines()
    assert len(rows) == 1 + quick_preset().sft.steps  # two writers would have left more, or torn lines


def test_the_folder_follows_from_the_settings(tmp_path, monkeypatch):
    """A course that was updated must not stop at the run of the old one."""
    monkeypatch.setenv("WEEK6_RUNS", str(tmp_path))
    folders = []
    monkeypatch.setattr(lessons.Run, "open", lambda folder, *_, **__: folders.append(folder) or pytest.skip("seen"))
    preset = quick_preset()
    other = dataclasses.replace(preset, sft=dataclasses.replace(preset.sft, steps=preset.sft.steps + 1))
    for wanted in (preset, preset, other):
        with pytest.raises(pytest.skip.Exception):
            lesson(preset=wanted)
    assert folders[0] == folders[1] != folders[2]
    assert {folder.parent for folder in folders} == {tmp_path}


def test_unknown_model_or_preset_is_named(monkeypatch):
    with pytest.raises(ValueError, match="models: got 'rlhf'"):
        lesson("rlhf")
    with pytest.raises(ValueError, match="preset.ratings: got 'stars', expected None"):
        lesson("dpo", preset=dataclasses.replace(quick_preset(), ratings="stars"))
    monkeypatch.setenv("WEEK6_PRESET", "gpt9")
    with pytest.raises(ValueError, match="WEEK6_PRESET: got 'gpt9'"):
        lesson_preset()


def test_several_processes_do_not_wait_for_each_other(tmp_path):
    with using(processes=2), pytest.raises(RunError, match="lesson: got 2 processes, expected one"):
        lesson(preset=quick_preset(), folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_preset_of_the_notebooks(monkeypatch):
    monkeypatch.delenv("WEEK6_PRESET", raising=False)
    assert lesson_preset() == PRESETS["lesson"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert lesson_preset() == PRESETS["gpt2"]
    monkeypatch.setenv("WEEK6_PRESET", "tiny")
    assert lesson_preset() == PRESETS["tiny"]


def test_runs_are_kept_in_the_repository_or_on_a_mounted_drive(tmp_path, monkeypatch):
    monkeypatch.delenv("WEEK6_RUNS", raising=False)
    monkeypatch.chdir(tmp_path)  # from wherever a notebook runs
    assert (runs_folder().parent / "pyproject.toml").exists()
    monkeypatch.setattr(lessons, "DRIVE", tmp_path)
    assert runs_folder() == tmp_path / "week6"
    monkeypatch.setenv("WEEK6_RUNS", str(tmp_path / "own"))
    assert runs_folder() == tmp_path / "own"


def test_a_drive_that_cannot_be_written_is_not_used(tmp_path, monkeypatch):
    monkeypatch.delenv("WEEK6_RUNS", raising=False)
    monkeypatch.setattr(lessons, "DRIVE", tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: not (path == tmp_path and mode == os.W_OK))
    monkeypatch.chdir(tmp_path)  # from wherever a notebook runs
    assert (runs_folder().parent / "pyproject.toml").exists()


def test_a_drive_without_locks_is_no_trouble(tmp_path, monkeypatch):
    """Nor does it keep the lock of a dropped session, for which the next one would wait."""
    right = fcntl.flock

    def flock(file, operation):
        if os.readlink(f"/proc/self/fd/{file}").startswith(str(tmp_path)):
            raise OSError(errno.ENOSYS, "Function not implemented")
        return right(file, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    course = lesson(preset=quick_preset(), folder=tmp_path / "week6" / "run")
    assert set(course.run.finished) == {"sft", "pairs"}
    assert [path.name for path in (tmp_path / "week6").iterdir()] == ["run"]


def a_lesson(name):
    return Lesson(**{field.name: None for field in dataclasses.fields(Lesson)} | {"preset": SimpleNamespace(name=name)})


def test_a_claim_about_the_embedded_chatbot_must_hold_for_it(capsys):
    course = a_lesson("lesson")
    assert course.embedded and course.rounding == 1e-3
    course.claim("Checked: two.", True, torch.tensor(True))
    assert capsys.readouterr().out == "Checked: two.\n"
    with pytest.raises(AssertionError, match="Checked: two."):
        course.claim("Checked: two.", True, torch.tensor(False))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("name", "dtype"), [("gpt2", torch.float32), ("lesson", torch.float16)])
def test_a_claim_that_does_not_hold_for_another_model_is_no_error(name, dtype, capsys):
    course = a_lesson(name)
    with using(dtype=dtype):
        assert not course.embedded
        course.claim("Checked: it is so.", True)
        course.claim("Checked: it is so.", True, False)
        rounding = course.rounding
    first, second, third = capsys.readouterr().out.splitlines()
    assert first == third == "Checked: it is so." and second.startswith(f"Does not hold for preset {name!r} in fp")
    assert rounding == (1e-3 if dtype == torch.float32 else 0.1)


def test_says_what_it_works_with_and_how_long_the_rest_will_take(tmp_path, capsys):
    preset = few_steps(tmp_path)
    preset = dataclasses.replace(preset, sft=dataclasses.replace(preset.sft, steps=14))
    lesson("dpo", preset=preset, folder=tmp_path / "run")
    captured = capsys.readouterr()
    said = [line for line in captured.err.splitlines() if line.startswith("week6: ")]
    assert captured.out == "" and len(said) == 2
    assert said[0].endswith(f" GB free, fp32; the run is kept in {tmp_path / 'run'}")
    assert said[1].startswith("week6: about ")
    assert said[1].endswith(" for what is left: sft, pairs, dpo; interrupted, run the cell again: it goes on")
    again = announce(open_setting(preset, tmp_path / "run", resume=True), STAGES, "")
    assert list(again.watcher.costs) == ["reward_model", "ppo", "evaluation"]
    lesson(preset=quick_preset(), folder=tmp_path / "quick")
    assert "for what is left" not in capsys.readouterr().err  # its costs are not counted
