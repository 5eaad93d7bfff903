"""The command line: settings as flags, one line and exit code 2 for bad input, nothing on the disk lost."""

import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
import torch

from tests.runs import finished_run, forget, numbers, quick_flags, quick_preset, quick_settings
from week6 import cli
from week6.cli import choose_preset, main, parse
from week6.machine.checkpoint import RunError
from week6.run import pipeline
from week6.run.models import PRESETS
from week6.run.page import page


@pytest.fixture
def copy(tmp_path):
    """A finished run that may be spoiled."""
    return shutil.copytree(finished_run(), tmp_path / "whole")


def error_of(capsys, *words):
    """Exit code and stderr of a command; nothing may be printed as a result."""
    with quick_settings():
        code = main(words)
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if "week6: error" in line]
    assert "Traceback" not in captured.err and captured.out == "" and len(lines) == 1
    return code, lines[0]


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_run_writes_the_folder_that_its_flags_ask_for():
    config = json.loads((finished_run() / "config.json").read_text())
    assert config == json.loads(json.dumps({"seed": 0, "preset": cli.dataclasses.asdict(quick_preset())}))


def test_report_is_printed_again(capsys):
    assert main(["report", str(finished_run())]) == 0
    printed = capsys.readouterr().out
    assert (finished_run() / "report.md").read_text() in printed and str(finished_run() / "plots") in printed


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe\0" * 20, b"# Run\n\x1b]0;owned\x07", "# Run\n\x9b31m".encode(), "# Run\n\u202e".encode()],
)
def test_a_damaged_report_is_not_shown(copy, capsys, content):
    (copy / "report.md").write_bytes(content)
    code, line = error_of(capsys, "report", str(copy))
    assert code == 2 and "report.md is damaged, expected the report of a run; week6 run --resume writes it" in line


@pytest.mark.parametrize("words", [["doctor", "--notes"], ["challenge", "--entry", "x"]])
def test_what_is_no_flag_is_not_proposed(capsys, words):
    """Notebooks and entries are given without a flag's name."""
    code, line = error_of(capsys, *words)
    assert code == 2 and line.endswith(f"expected a flag that there is: week6 {words[0]} --help lists them")


def test_a_part_of_a_run_has_no_report(copy, capsys):
    code, line = error_of(capsys, "report", str(copy / "policies"))
    assert code == 2 and line.endswith(f"expected the folder of a finished run, such as {copy}")


def test_a_folder_in_the_place_of_the_report_is_named(copy, capsys):
    (copy / "report.md").unlink()
    (copy / "report.md").mkdir()
    code, line = error_of(capsys, "report", str(copy))
    assert code == 2 and "report.md is a folder, expected a file: remove it, and --resume makes it again" in line


@pytest.mark.parametrize("name", ["file", "link"])
def test_what_stands_in_the_place_of_a_run_s_folder_is_said(tmp_path, capsys, name):
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("nowhere")
    with quick_settings():
        code, line = error_of(capsys, "run", "--runs-dir", str(tmp_path), "--name", name, *quick_flags())
    assert code == 2 and f"{name}: cannot make this folder (a file or a link to nothing is there); choose" in line


@pytest.mark.parametrize("name", ["stages.json", "config.json", "metrics/ppo.csv", "report.md"])
@pytest.mark.parametrize("command", ["run", "chat"])
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(copy, capsys, name, command):
    (copy / name).unlink()
    os.mkfifo(copy / name)
    again = ["run", "--name", "whole", "--runs-dir", str(copy.parent), "--resume", *quick_flags()]
    code, line = error_of(capsys, *(again if command == "run" else ["chat", str(copy)]))
    assert code == 2 and f"{name} is a pipe or a device, expected a file: remove it, and --resume" in line


def test_resume_of_a_finished_run_changes_no_number(copy, capsys):
    before = numbers(copy)
    (copy / "report.html").write_text("<!DOC")  # as a disk leaves what was not written to its end
    with quick_settings():
        assert main(["run", "--name", "whole", "--runs-dir", str(copy.parent), "--resume", *quick_flags()]) == 0
    assert numbers(copy) == before and "# Run of preset" in capsys.readouterr().out
    assert (copy / "report.html").read_text() == page(copy, (copy / "report.md").read_text())


def test_a_run_can_be_named(copy, monkeypatch, capsys):
    monkeypatch.chdir(copy.parent)
    (copy.parent / "runs").mkdir()
    copy.rename(copy.parent / "runs" / "mine")
    assert main(["report", "mine"]) == 0 and "report   runs/mine/report.md" in capsys.readouterr().out
    Path("mine").mkdir()  # a folder of that name comes first
    assert main(["report", "mine"]) == 2 and "mine/report.md does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(("works", "said"), [(True, "opened "), (False, "no browser can be opened here; open ")])
def test_the_report_is_opened_as_a_page(works, said, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(cli.webbrowser, "open", lambda address: asked.append(address) or works)
    assert main(["report", str(finished_run()), "--open"]) == 0
    path = finished_run().resolve() / "report.html"
    assert asked == [path.as_uri()] and capsys.readouterr().out.startswith(f"{said}{path}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "--preset", "huge"], "--preset: got 'huge', expected one of 'tiny'"),
        (["run", "--preset"], "--preset"),
        (["run", "--ppo.beta", "0"], "ppo.beta: got 0.0, expected a finite number from 1e-06 to 1000"),
        (["run", "--dpo.beta", "-1"], "dpo.beta: got -1.0, expected a finite number from 1e-06 to 1000"),
        (["run", "--ppo.beta", "small"], "--ppo.beta"),
        (["run", "--ppo.bta", "1"], "--ppo.bta"),
        (["run", "--width", "10"], "width: got 10, expected a multiple of heads"),
        (["run", "--name", "../up"], "--name: got '../up', expected the plain name of a folder"),
        (["run", "--name", ".."], "--name: got '..'"),
        (["run", "--name", ""], "--name: got '', expected the plain name of a folder"),
        (["run", "--name", "a\x1b[2Jb"], "--name: got 'a\\x1b[2Jb'"),
        (["run", "--name", " a"], "--name: got ' a'"),
        (["run", "--name", "a\x00"], "--name: got 'a\\x00'"),
        (["run", "--seed", "1.5"], "--seed: got '1.5', expected a whole number from 0 to 1000000000"),
        (
            ["run", "--ppo.target-kl", "none"],
            "--ppo.target-kl: got 'none', expected a finite number from 1e-06 to 1000 or None",
        ),
        (["run", "--sft.steps", "None"], "--sft.steps: got 'None', expected a whole number from 1 to 10000000"),
        (["run", "--ppo.beta", "'1'"], "--ppo.beta: got \"'1'\", expected a finite number from 1e-06 to 1000"),
        (
            ["run", "--ppo", "beta=1"],
            "got '--ppo', expected a flag that there is: week6 run --help lists them; perhaps --",
        ),
        (
            ["run", "--steps", "4"],
            "got '--steps', expected a flag that there is: week6 run --help lists them; perhaps --",
        ),
        (["frontier", "--name", ""], "--name: got '', expected the plain name of a folder"),
        (["chat", "x", "--port", "9000"], "--port: got 9000 without --web, for which it is; add --web, or leave it"),
        (["run", "--model", "gpt2"], "model: got one for task 'assistant', which brings its own; choose preset gpt2"),
        (["run", "--runs-dir", "~no-such-user/runs"], "--runs-dir '~no-such-user/runs': Could not determine home"),
        (["run", "--runs-dir", "loop"], "--runs-dir 'loop': Too many levels of symbolic links; expected the path"),
        (["report", "a" * 5000], f"run '{'a' * 80}… (5000 characters)': File name too long; expected the path of a"),
        (["chat", "a\x00"], "run 'a\\x00': embedded null byte; expected the path of a file or folder"),
        (["frontier", "--seeds", "1.5"], "--seeds: got '1.5', expected a whole number from 0 to 1000000000"),
        (["run", "--name", "é" * 101], "--name: got 202 bytes, expected 200 at most"),
        (["run", "--seed", "-1"], "seed: got -1, expected a whole number from 0 to 1000000000"),
        (
            ["run", "–ppo.beta", "1"],
            "got '–ppo.beta', which begins with another dash, expected two hyphens: --",
        ),
        (
            ["run", "--resume", "yes"],
            "got 'yes', which no flag takes, expected --NAME VALUE for each flag, and",
        ),
        (["chat", "a", "b", "c"], "got 'b' and more, which is one too many; week6 chat --help says what"),
        (["fly"], "got 'fly', expected one of run, report, confirm, "),
        (["Run"], "got 'Run', expected one of run, report, "),
        (["--version"], "got '--version', expected one of run, "),
        ([], "confirm"),
        (["run", "--PPO.Beta", "1"], "got '--PPO.Beta', expected a flag that there is: week6 run --help lists them;"),
        (["run", "-seed", "3"], "got '-seed', expected a flag that there is: week6 run --help lists them; perhaps"),
        (["chat", "x", "--voice"], "got '--voice', expected a flag that there is: week6 chat --help lists them"),
        (["run", "--dpo.variant", "IPO"], "--dpo.variant: got 'IPO', expected one of 'sigmoid', 'ipo'"),
        (["run", "--name"], "--name: got no value, expected one behind it; one that begins with a hyphen as"),
        (["run", "--name=-x"], "--name: got '-x', expected the plain name of a folder"),
        (["chat", "x", "--port", "a"], "--port: got 'a', expected a whole number from 1024 to 65535"),
        (["grade", "x", "--workers", "all"], "--workers: got 'all', expected a whole number from 1 to 1000 or None"),
        (
            ["frontier", "--resume"],
            "got '--resume', expected a flag of week6 frontier: week6 frontier",
        ),
        (
            ["confirm", "--here", "x", "--model", "y"],
            "--here: got another flag too, expected none: it makes its own model; leave one of them out",
        ),
        (["confirm", "--here", "x", "--preset", "chat"], "--here: got another flag too, expected none"),
        (["run", "--runs-dir", ""], "--runs-dir: got '', expected a file or folder; is a variable of the shell"),
        (["run", "--runs-dir="], "--runs-dir: got '', expected a file or folder"),
        (["report", ""], "path: got '', expected a file or folder"),
        (["grade", "nowhere", ""], "path: got '', expected a file or folder"),
        (
            ["report", "nowhere"],
            "nowhere/report.md does not exist: expected the folder of a run, or the name of a run,",
        ),
        (["report", "nowhere", "--open"], "nowhere/report.html does not exist"),
    ],
)
def test_bad_words_end_with_one_line(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    code, line = error_of(capsys, *words)
    assert code == 2 and line.startswith("week6: error: ") and message in line


def test_a_folder_that_is_gone(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    os.chdir("here")
    (tmp_path / "here").rmdir()
    assert error_of(capsys, "run", *quick_flags())[1].endswith("is gone, expected one that is there: change to it")


def test_only_flags_of_the_command_are_offered(capsys):
    """The parser itself offers those of all commands."""
    assert error_of(capsys, "chat", "x", "--temperature", "1")[1].endswith("week6 chat --help lists them")
    assert error_of(capsys, "run", "--temperature", "1")[1].endswith("perhaps --hh.temperature or --ppo.temperature?")


def test_a_report_that_is_not_there_names_those_that_are(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "config.json").write_text('{"seed": 0, "preset": {}}')
    assert error_of(capsys, "report", "mien")[1].endswith("expected the folder of a run, or one of 'mine' in runs")


def test_an_empty_page_is_not_opened(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cli.webbrowser, "open", lambda address: pytest.fail("opened"))
    (tmp_path / "report.html").write_text("")
    assert (
        "report.html is damaged, expected the page of a run" in error_of(capsys, "report", str(tmp_path), "--open")[1]
    )


def test_none_is_offered_only_where_it_may_be(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert error_of(capsys, "run", "--sft.steps", "None")[1].endswith("from 1 to 10000000")
    assert error_of(capsys, "run", "--ppo.target-kl", "nil")[1].endswith("from 1e-06 to 1000 or None")


def test_environment_chooses_the_preset(monkeypatch):
    monkeypatch.delenv("WEEK6_PRESET", raising=False)
    assert choose_preset(["run"]) is PRESETS["tiny"]
    monkeypatch.setitem(PRESETS, "other", quick_preset())
    monkeypatch.setenv("WEEK6_PRESET", "other")
    assert choose_preset(["run"]) is PRESETS["other"]
    assert choose_preset(["run", "--preset=tiny"]) is PRESETS["tiny"]
    monkeypatch.setenv("WEEK6_PRESET", "none such")
    with pytest.raises(RunError, match="WEEK6_PRESET: got 'none such'"):
        choose_preset(["run"])
    monkeypatch.setenv("WEEK6_PRESET", "tiny")
    for words in (["--preset="], ["--preset", ""]):  # of a variable of the shell that is not set
        with pytest.raises(RunError, match="--preset: got '', expected one of 'tiny'"):
            choose_preset(["run", *words])


def test_a_gpu_chooses_gpt2_for_a_run(monkeypatch):
    monkeypatch.delenv("WEEK6_PRESET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_preset(["run"]) is PRESETS["gpt2"]
    assert choose_preset(["frontier"]) is PRESETS["tiny"]
    assert choose_preset(["run", "--preset", "tiny"]) is PRESETS["tiny"]
    monkeypatch.setenv("WEEK6_PRESET", "lesson")
    assert choose_preset(["run"]) is PRESETS["lesson"]


def test_model_data_and_gold_are_flags():
    command = parse(["run", "--preset", "gpt2", "--model", "m", "--data", "d.csv", "--column", "c"], PRESETS["gpt2"])
    assert (command.model, command.data, command.column, command.gold) == ("m", "d.csv", "c", "vader")


def test_flags_start_from_the_preset_and_change_only_what_they_name():
    command = parse(["run", "--ppo.beta", "0.5", "--ppo.target-kl", "None", "--dpo.variant", "ipo"], quick_preset())
    assert command.ppo == cli.dataclasses.replace(quick_preset().ppo, beta=0.5, target_kl=None)
    assert command.dpo.variant == "ipo" and command.sft == quick_preset().sft and command.width == 16


def test_existing_folder(copy, capsys):
    before = content(copy)
    code, line = error_of(capsys, "run", "--name", "whole", "--runs-dir", str(copy.parent), *quick_flags())
    assert code == 2 and "pass --resume" in line and content(copy) == before


def test_folder_of_another_configuration(copy, capsys):
    before = content(copy)
    code, line = error_of(
        capsys, "run", "--name", "whole", "--runs-dir", str(copy.parent), "--resume", *quick_flags(), "--ppo.beta", "7"
    )
    assert code == 2 and "preset.ppo.beta" in line and "7.0 asked for" in line and content(copy) == before


def test_damaged_checkpoint(copy, capsys):
    path = copy / "checkpoints" / "sft.safetensors"
    data = bytearray(path.read_bytes())
    data[-100] ^= 4
    path.write_bytes(data)
    before = content(copy)
    code, line = error_of(capsys, "run", "--name", "whole", "--runs-dir", str(copy.parent), "--resume", *quick_flags())
    assert code == 2 and f"{path} is damaged" in line and content(copy) == before


def test_full_disk_and_then_room_again(copy, capsys):
    """DPO's checkpoint cannot be written; with room again the run goes on to the same numbers."""
    expected = numbers(copy)
    forget(copy, "dpo", "evaluation")
    (copy / "checkpoints" / ".dpo.safetensors.tmp").symlink_to("/dev/full")  # every write to it fails with ENOSPC
    words = ["run", "--name", "whole", "--runs-dir", str(copy.parent), "--resume", *quick_flags()]
    code, line = error_of(capsys, *words)
    assert code == 2 and "no disk space for" in line and "MB free" in line
    assert (copy / "checkpoints" / "ppo.safetensors").exists()
    with quick_settings():
        assert main(words) == 0
    assert numbers(copy) == expected


def begin(folder):
    """What a run has written when it is interrupted early."""
    folder.mkdir()
    (folder / "config.json").write_text('{"seed": 0, "preset": {}}')


def test_a_run_that_has_not_begun_is_not_resumed(tmp_path, capsys):
    """Under a mistyped name a whole run would begin."""
    (tmp_path / "empty").mkdir()
    for name in ("whol", "empty"):
        code, line = error_of(capsys, "run", "--runs-dir", str(tmp_path), "--name", name, "--resume", *quick_flags())
        assert code == 2 and f"got {name!r}, and in {tmp_path} no such run has begun" in line
        assert line.endswith("there is none yet; give its --name, or leave out --resume to begin it")
    for i in range(9):
        begin(tmp_path / f"run-{i}")
    for name, other in (("of-a-model", '{"model_type": "gpt2"}'), ("damaged", "["), ("list", "[1]")):
        begin(tmp_path / name)
        (tmp_path / name / "config.json").write_text(other)
    code, line = error_of(capsys, "run", "--runs-dir", str(tmp_path), "--name", "whol", "--resume", *quick_flags())
    assert code == 2 and "expected one of 'run-0', " in line and "'run-7', …;" in line
    assert not (tmp_path / "whol").exists() and list((tmp_path / "empty").iterdir()) == []


def test_a_reader_who_has_enough_ends_a_command_as_it_ends_others(monkeypatch, capfd):
    """`week6 report | head -1`: without a word, by the signal's number; nothing is written to the pipe any more."""

    def full(*_):
        raise BrokenPipeError

    moved = []
    monkeypatch.setattr(cli, "_do", full)
    monkeypatch.setattr(os, "dup2", lambda *descriptors: moved.append(descriptors[1]))
    assert main(["report", "runs/x"]) == 128 + signal.SIGPIPE == 141
    assert moved == [sys.stdout.fileno()] and capfd.readouterr() == ("", "")


def test_interrupt_says_how_to_go_on(monkeypatch, capsys, tmp_path):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "run", interrupted)
    assert main(["run", "--runs-dir", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "week6: interrupted\n"  # nothing has begun
    begin(tmp_path / "tiny")
    assert main(["run", "--runs-dir", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "week6: interrupted; --resume continues from the last checkpoint\n"
    assert main(["frontier", "--runs-dir", "\0"]) == 2
    monkeypatch.setattr(cli, "sweep", interrupted)
    assert main(["frontier", "--runs-dir", str(tmp_path)]) == 130
    assert "called again, it goes on" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_says_how_to_go_on(name, monkeypatch, capsys, tmp_path):
    number = getattr(signal, name)
    before = signal.signal(number, signal.SIG_DFL)  # whoever started the tests may ignore it, as `nohup` does
    monkeypatch.setattr(pipeline, "run", lambda *arguments: os.kill(os.getpid(), number) or time.sleep(60))
    begin(tmp_path / "tiny")
    try:
        assert main(["run", "--runs-dir", str(tmp_path)]) == 128 + number
        said = f"week6: ended by {name}; --resume continues from the last checkpoint\n"
        assert capsys.readouterr().err == said and signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, before)


def test_a_signal_that_is_ignored_stays_so(monkeypatch, tmp_path):
    """As `nohup` asks for."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        monkeypatch.setattr(pipeline, "run", lambda *arguments: os.kill(os.getpid(), signal.SIGHUP))
        monkeypatch.setattr(cli, "show", lambda folder: None)
        assert main(["run", "--runs-dir", str(tmp_path)]) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("made", [True, False])
def test_a_defect_says_so_and_where_its_traceback_is(made, monkeypatch, tmp_path, capsys):
    folder = tmp_path / "tiny"
    if made:
        folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(pipeline, "run", lambda *arguments: 1 / 0)
    assert main(["run", "--runs-dir", str(tmp_path)]) == 70
    captured = capsys.readouterr()
    path = (folder if made else tmp_path) / f"defect-{os.getpid()}.txt"
    assert captured.out == "" and captured.err == (
        "week6: defect: ZeroDivisionError: division by zero; this is a fault of week6, not of what was asked for. "
        f"The traceback is in {path}; what is on the disk is kept\n"
    )
    assert path.read_text().startswith("Traceback") and "ZeroDivisionError" in path.read_text()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError(13, "Permission denied", "/x/y"), "/x/y: Permission denied; what is on the disk is kept"),
        (MemoryError("4 GB"), "the memory is full (4 GB): take a smaller model"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate"), "the memory is full"),
        (RunError("a\n  b"), "a b"),
    ],
)
def test_what_is_no_defect_is_one_sentence(error, message, monkeypatch, tmp_path, capsys):
    def fail(*arguments):
        raise error

    monkeypatch.setattr(pipeline, "run", fail)
    code, line = error_of(capsys, "run", "--runs-dir", str(tmp_path))
    assert code == 2 and message in line


def test_a_terminal_that_cannot_show_it_gets_a_question_mark(monkeypatch, capsys):
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding="iso-8859-1", write_through=True))
    assert main(["report", str(finished_run())]) == 0
    text = shown.getvalue().decode("iso-8859-1")
    assert "Policies" in text and "? 0." in text and "±" in text  # of "≤ 0.43" and "0.77 ± 0.07"


def test_a_folder_that_cannot_be_written_to(copy, capsys, monkeypatch):
    """A finished run on a read-only disk."""

    def read_only(source, target):
        raise OSError(errno.EROFS, "Read-only file system", str(target))

    monkeypatch.setattr(os, "replace", read_only)
    words = ["run", "--name", "whole", "--runs-dir", str(copy.parent), "--resume", *quick_flags()]
    code, line = error_of(capsys, *words)
    assert code == 2 and "cannot be written (Read-only file system)" in line


@pytest.mark.parametrize("name", ["plots", "metrics", "checkpoints", "policies"])
def test_a_file_where_a_folder_should_be(copy, name, capsys):
    shutil.rmtree(copy / name)
    (copy / name).write_text("")
    words = ["run", "--name", "whole", "--runs-dir", str(copy.parent), "--resume", *quick_flags()]
    code, line = error_of(capsys, *words)
    assert code == 2 and f"{copy / name} is no folder, expected one: remove it" in line


def test_help_lists_the_settings(capsys):
    with pytest.raises(SystemExit) as exit:
        main(["run", "--help"])
    printed = capsys.readouterr().out
    assert exit.value.code == 0
    for flag in ("--preset", "--name", "--runs-dir", "--seed", "--resume", "--ppo.beta", "--sft.steps", "--n-pairs"):
        assert flag in printed
    assert "--task" not in printed


def test_module_and_entry_point_are_the_command():
    root = Path(__file__).parent.parent
    assert tomllib.loads((root / "pyproject.toml").read_text())["project"]["scripts"]["week6"] == "week6.cli:main"
    done = subprocess.run(
        [sys.executable, "-m", "week6", "run", "--preset", "huge"],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == f"week6: error: --preset: got 'huge', expected one of {', '.join(map(repr, PRESETS))}\n"
