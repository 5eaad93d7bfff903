"""The command line: `week6 run` does the whole course, `week6 report` shows what a run found, `week6 chat` talks to it,
`week6 confirm` checks a GPU and the hub, `week6 challenge` scores the policies of a class, `week6 grade` grades its
notebooks, `week6 doctor` says what is wrong with a machine.

Every setting of a preset is a flag: `week6 run --ppo.beta 0.02 --name weak-leash`. Bad input ends with one line on
stderr and exit code 2, never with a traceback. A defect of week6 itself says so and where its traceback is.
"""

import argparse
import contextlib
import dataclasses
import difflib
import functools
import io
import itertools
import json
import operator
import os
import re
import signal
import sys
import tempfile
import threading
import traceback
import webbrowser
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import torch
import transformers
import tyro

from week6.chat import terminal
from week6.chat.of_run import load_session
from week6.classroom.challenge import challenge
from week6.classroom.confirm import confirm
from week6.classroom.doctor import doctor
from week6.classroom.here import confirm_here
from week6.grading.command import grade
from week6.machine.bounds import PORT, Few, Port, Seed, bounds_of, fields_of, may_be_none
from week6.machine.checkpoint import RunError
from week6.machine.compute import compute
from week6.machine.paths import place
from week6.machine.start import end_at_once
from week6.run import pipeline
from week6.run.models import PRESETS, Preset
from week6.run.record import check_kinds
from week6.run.sweep import WORLDS, SweepConfig, World, record, sweep
from week6.tasks.conversation import clean

DEFAULT_PRESET = "tiny"
RUNS = Path("runs")
GO_ON = {
    "run": "; --resume continues from the last checkpoint",
    "frontier": "; called again, it goes on",
    "grade": "; called again, it goes on",
}
"""What a command says after an interruption."""
PATHS = ("--runs-dir", "--out", "--points", "--table", "--reference", "--here")
"""Flags that take a path."""
DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212"
"""What a text program makes of two hyphens."""
CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""What a terminal would not show but do: commands, and other directions of the text."""
MOST_NAMES = 8
"""That a message lists."""
LONGEST_NAME = 200
"""Bytes of a run's name: file systems allow 255, and temporary files have longer names."""


@dataclasses.dataclass(frozen=True)
class Report:
    """Show the report of a run, or open it as a page."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of the run, or its name in runs/."""
    open: bool = False
    """Open report.html in the browser."""


@dataclasses.dataclass(frozen=True)
class Chat:
    """Talk with the policies of a run: base, SFT, PPO and DPO side by side."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of the run, or its name in runs/."""
    web: bool = False
    """In a browser on this machine; else here."""
    port: Port = 8806
    """Of this machine, for --web."""


@dataclasses.dataclass(frozen=True)
class Confirm:
    """Check on this GPU and with the real hub, in some minutes, what a machine without them cannot: PASS or FAIL."""

    preset: str = "gpt2"
    """Settings to check."""
    model: str | None = None
    """A model folder, or a name on the hub; the preset's if not given."""
    data: str | None = None
    """A local file, or a data set of the hub; the preset's if not given."""
    cpu: bool = False
    """Try the command without a GPU."""
    here: Path | None = None
    """Without a hub: a model with random weights, and the results in this folder."""


@dataclasses.dataclass(frozen=True)
class Frontier:
    """PPO and DPO at several β and best-of-n, for several seeds: gold reward against KL. Called again, it goes on."""

    preset: str = DEFAULT_PRESET
    """Settings of the chatbot."""
    name: str | None = None
    """The folder is frontier-NAME; the preset's name if not given."""
    runs_dir: Path = RUNS
    """Folder that holds the runs."""
    worlds: tuple[World, ...] = WORLDS
    """The enumerable language, the chatbot, or both."""
    seeds: tuple[Seed, ...] = (0, 1, 2)
    """One whole set of models each."""
    record: bool = False
    """Also write the tables to week6/recorded, from where notebook 07 reads them."""


@dataclasses.dataclass(frozen=True)
class Challenge:
    """Score saved policies: gold reward on held-out prompts at a KL of at most 3 nats. Without one, show the table."""

    entries: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """Folders of policies, or safetensors files."""
    table: Path = Path("challenge.csv")
    """The file with everybody's row."""
    reference: Path | None = None
    """Folder of the SFT model that all started from; if not given, that of preset lesson, made if need be."""


@dataclasses.dataclass(frozen=True)
class Doctor:
    """Look whether this machine is ready for the course, and say what to do where it is not; to be pasted anywhere."""

    notebooks: Annotated[Path, tyro.conf.Positional] = Path(".")
    """Folder of the notebooks."""


@dataclasses.dataclass(frozen=True)
class Grade:
    """Grade submitted notebooks: each in a jail of its own, verdicts outside. Tables, a page a student, the class."""

    submissions: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Notebooks, or folders of them."""
    out: Path = Path("grades")
    """Folder for the results; called again, it goes on."""
    points: Path | None = None
    """A TOML file with points per exercise and late capstones, like week6/grading/points.toml."""
    workers: Few | None = None
    """Submissions at the same time; one for each core if not given."""


COMMANDS = (Report, Confirm, Frontier, Chat, Doctor, Grade, Challenge)
"""Beside `run`, whose flags are those of a preset."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 1 not confirmed or a trouble found, 2 bad input, 70 a defect
    of week6, 128 + n ended by signal n (130 is Ctrl-C)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):  # what a terminal cannot show becomes a question mark
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    # The bars of saving a model would tear up the run's own.
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    place: Path | None = None
    try:
        with _told_to_end():
            check_place(words)
            preset = choose_preset(words)
            command = parse(words, preset)
            place = _place(command, preset)
            return _do(command, preset)
    except RunError as error:
        return _complain(str(error))
    except (KeyboardInterrupt, Ended) as error:
        number, what = (signal.SIGINT, "interrupted") if isinstance(error, KeyboardInterrupt) else error.args
        print(f"week6: {what}{_how_to_go_on(words, place)}", file=sys.stderr)
        if arguments is None:  # the process may take seconds to end
            signal.signal(signal.SIGINT, end_at_once)
        return 128 + int(number)
    except BrokenPipeError:  # whoever read the output has enough
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        named = f"{error.filename}: " if error.filename else ""
        return _complain(f"{named}{error.strerror or error}; what is on the disk is kept")
    except Exception as error:
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error):
            return _complain(f"the memory is full ({error}): take a smaller model, smaller batches or shorter texts")
        what = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        print(
            f"week6: defect: {what}; this is a fault of week6, not of what was asked for. The traceback is in "
            f"{_write_traceback(place)}; what is on the disk is kept",
            file=sys.stderr,
        )
        return 70


class Ended(BaseException):
    """A signal has told this process to end: its number, and what to say."""


@contextlib.contextmanager
def _told_to_end() -> Iterator[None]:
    """Within it SIGTERM and SIGHUP end what is done as Ctrl-C does, unless they are ignored (`nohup`)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: Any) -> None:
        raise Ended(number, f"ended by {signal.Signals(number).name}")

    if signal.getsignal(signal.SIGINT) is end_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    caught = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    for number in caught:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in caught:
            signal.signal(number, signal.SIG_DFL)


def _complain(message: str) -> int:
    print(f"week6: error: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _how_to_go_on(words: Sequence[str], place: Path | None) -> str:
    """What a command that has ended early says of going on; of a run that has not begun, nothing."""
    command = words[0] if words else ""
    begun = command != "run" or (place is not None and _holds_something(place))
    return GO_ON.get(command, "") if begun else ""


def _write_traceback(place: Path | None) -> Path:
    """Write the traceback of the current exception to the folder `place` if it is there, else to a temporary one."""
    temporary = Path(tempfile.gettempdir())
    for folder in (place if place and place.is_dir() else temporary, temporary):
        path = folder / f"defect-{os.getpid()}.txt"
        with contextlib.suppress(OSError):
            path.write_text(traceback.format_exc(), encoding="utf-8", errors="backslashreplace")
            break
    return path


def _place(command: Any, preset: Preset) -> Path | None:
    """The folder that a command works in."""
    if isinstance(command, Report | Chat):
        folder, named = place(command.run, "run"), RUNS / command.run
        return named if named.is_dir() and not folder.is_dir() else folder
    if isinstance(command, Confirm | Challenge | Doctor | Grade):
        return None
    folder = run_folder(command.runs_dir, preset.name if command.name is None else command.name)
    return folder.with_name(f"frontier-{folder.name}") if isinstance(command, Frontier) else folder


def _do(command: Any, preset: Preset) -> int:
    """Do what a command says; returns the exit code."""
    if isinstance(command, Challenge):
        challenge(command.entries, command.table, command.reference)
        return 0
    if isinstance(command, Doctor):
        return int(not doctor(place(command.notebooks, "notebooks").absolute()))
    if isinstance(command, Grade):
        grade(command.submissions, command.out, command.workers, command.points)
        return 0
    folder = _place(command, preset)
    if isinstance(command, Confirm) and command.here is not None:
        if command != Confirm(here=command.here):
            raise RunError("--here: got another flag too, expected none: it makes its own model; leave one of them out")
        return int(not confirm_here(command.here))
    if isinstance(command, Confirm):
        own = {name: x for name in ("model", "data") if (x := getattr(command, name)) is not None}
        with tempfile.TemporaryDirectory() as runs:
            return int(not confirm(dataclasses.replace(preset, **own), Path(runs), command.cpu))
    assert folder is not None
    if isinstance(command, Report):
        open_page(folder) if command.open else show(folder)
    elif isinstance(command, Chat):
        chat(folder, command)
    elif isinstance(command, Frontier):
        say = print if compute().is_main else _say_nothing
        tables = sweep(SweepConfig(preset), folder, command.worlds, command.seeds, say)
        if command.record:
            record(tables)
    else:
        if command.resume:
            check_begun(folder)
        settings = {f.name: getattr(command, f.name) for f in _settings(preset)}
        pipeline.run(dataclasses.replace(preset, **settings), folder, command.seed, command.resume)
        if compute().is_main:
            show(folder)
    return 0


def chat(folder: Path, command: Chat) -> None:
    """Talk with the policies of a run, here or in a browser."""
    if not command.web:
        if command.port != Chat.port:
            raise RunError(f"--port: got {command.port} without --web, for which it is; add --web, or leave it out")
        terminal.converse(load_session(folder), terminal.stdin_reader(), terminal.show)
        return
    try:
        from week6.chat import web
    except ImportError as error:
        raise RunError(
            f"--web: needs the library tornado, which Jupyter brings ({error}): pip install tornado"
        ) from error
    try:
        PORT.check("--port", command.port)
    except ValueError as error:
        raise RunError(str(error)) from None
    web.serve(load_session(folder), command.port)


def _say_nothing(line: str) -> None:
    """What processes other than the main one do with a line."""


def check_place(words: Sequence[str]) -> None:
    """Raise RunError where there is no folder to work in, and for an empty word in the place of one: the shell makes
    it of a variable that is not set, and as a path it would mean this folder."""
    try:
        os.getcwd()
    except FileNotFoundError:
        raise RunError("the folder that this was called in is gone, expected one that is there: change to it") from None
    for before, word in itertools.pairwise(words):
        flag = word[:-1] if word.endswith("=") else "" if word else before
        if flag in PATHS or (not word and not before.startswith("-")):
            name = flag if flag in PATHS else "path"
            raise RunError(f"{name}: got '', expected a file or folder; is a variable of the shell not set?")


def choose_preset(words: Sequence[str]) -> Preset:
    """The preset of --preset, else of the environment variable WEEK6_PRESET, else `gpt2` for `confirm` and for a run on
    CUDA, `tiny`."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--preset", nargs="?")
    given = parser.parse_known_args(words)[0].preset
    big = words[:1] == ["confirm"] or (words[:1] == ["run"] and torch.cuda.is_available())
    default = "gpt2" if big else DEFAULT_PRESET
    name = (os.environ.get("WEEK6_PRESET") or default) if given is None else given
    if name not in PRESETS:
        source = "WEEK6_PRESET" if given is None else "--preset"
        raise RunError(f"{source}: got {name!r}, expected one of {', '.join(map(repr, PRESETS))}")
    return PRESETS[name]


def parse(words: Sequence[str], preset: Preset) -> Any:
    """The command in `words`, with the settings of `preset` as defaults. RunError for words that make no sense."""
    own: list[tuple[str, Any, Any]] = [
        ("preset", _flag(str, f"Settings to start from: {', '.join(PRESETS)}."), preset.name),
        ("name", _flag(str | None, "Name of the run; the preset's if not given."), None),
        ("runs_dir", _flag(Path, "Folder that holds the runs."), RUNS),
        ("seed", _flag(Seed, "Decides every random number."), 0),
        ("resume", _flag(bool, "Continue the run of this name."), False),
    ]
    settings = [(f.name, f.type, getattr(preset, f.name)) for f in _settings(preset)]
    run: Any = dataclasses.make_dataclass("Run", own + settings, frozen=True)
    run.__doc__ = "SFT, preferences, reward model, PPO, DPO, evaluation and report, in one run."
    kinds = {"run": run} | {kind.__name__.lower(): kind for kind in COMMANDS}
    if words and words[0] not in (*kinds, "-h", "--help"):
        raise RunError(f"got {words[0]!r}, expected one of {', '.join(kinds)} first; full help: week6 --help")
    commands: Any = functools.reduce(
        operator.or_,
        (Annotated[kind, tyro.conf.subcommand(name, description=kind.__doc__)] for name, kind in kinds.items()),
    )
    complaints = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaints):
            return tyro.cli(
                commands,
                prog="week6",
                args=list(words),
                config=(tyro.conf.FlagCreatePairsOff,),
            )
    except SystemExit as exit:
        if exit.code == 0:  # --help
            raise
        kind = kinds.get(words[0], run) if words else run
        raise RunError(_in_short(_one_line(complaints.getvalue()), words, kind, preset)) from None


def _flag(kind: Any, text: str) -> Any:
    """A type that carries its help text."""
    return Annotated[kind, tyro.conf.arg(help=text)]


def _settings(preset: Preset) -> list["dataclasses.Field[Any]"]:
    """The fields of a preset that may be changed; its name and task say which preset it is."""
    return [f for f in dataclasses.fields(preset) if f.name not in ("name", "task")]


def _one_line(box: str) -> str:
    """The text of an error box, without the box and its title; where stdout is not UTF-8 it is drawn in ASCII."""
    _, *lines = (line.strip("│ ") for line in box.splitlines())
    return " ".join(line for line in lines if line.strip("╰─╯-"))


def _in_short(complaint: str, words: Sequence[str], command: Any, preset: Preset) -> str:
    """The parser's complaint in the words of the other errors: what came, what was expected, and for a flag that there
    is none the names of those like it, without their help."""
    hints = {name: hint for name, _, hint in fields_of(preset) if name != "task"} if command.__name__ == "Run" else {}
    hints |= get_type_hints(command, include_extras=True)
    if found := re.match(r"(?:Error parsing|Unable to parse) (--[\w.-]+): (.*?) Argument helptext:", complaint):
        flag, what = found.groups()
        hint = hints.get(flag[2:].replace("-", "_"))
        bounds = bounds_of(hint)
        came = re.findall(r"'([^']*)'", what.replace("('None',)", ""))
        if bounds and came:
            whole = next((word for word in words if word.strip("'\"") == came[-1]), came[-1])
            return f"{flag}: got {whole!r}, expected {bounds[0]}{' or None' * may_be_none(hint)}"
    if found := re.match(r"invalid choice (.*) for argument '(--[\w.-]+)'. Expected one of \((.*?),?\)", complaint):
        return f"{found[2]}: got {found[1]}, expected one of {found[3]}"
    if re.match(r"Missing value for argument 'run'", complaint):
        return "got a flag in place of the folder of a run, expected it alone: week6 report FOLDER, week6 chat FOLDER"
    if found := re.match(r"Missing value for argument '\W*(--[\w.-]+)", complaint):  # tyro 1.0.0 quotes it twice
        return f"{found[1]}: got no value, expected one behind it; one that begins with a hyphen as {found[1]}=-VALUE"
    what, _, like = complaint.partition(" Perhaps you meant: ")
    there = {"--" + name.replace("_", "-") for name in hints}  # the parser also names flags of other commands
    meant = [flag for flag in dict.fromkeys(re.findall(r"--[\w.-]+", like)) if flag in there][:3]
    if found := re.match(r"Unrecognized options: (.*?)(?: For full helptext|$)", what):
        flags = {name: hint for name, hint in hints.items() if tyro.conf.Positional not in get_args(hint)}
        own = ["--" + name.replace("_", "-") for name, hint in flags.items() if not dataclasses.is_dataclass(hint)]
        return _stray(found[1], words, own, meant)
    if found := re.match(r"Unrecognized or misplaced options: (\S+).* \(applied to week6 (\w+)\)", what):
        return f"got {found[1]!r}, expected a flag of week6 {found[2]}: week6 {found[2]} --help lists them"
    what = what.replace(" Arguments are applied to the directly preceding subcommand, so ordering can matter.", "")
    return f"{what}; perhaps {' or '.join(meant)}? Full help: week6 --help" if meant else what


def _stray(said: str, words: Sequence[str], flags: Sequence[str], meant: Sequence[str]) -> str:
    """What to say of words that no flag has taken, by a command that has these flags; some may have been `meant`."""
    first, _, rest = said.partition(", ")
    first = next((word for word in words if word == first), first)
    if first[:1] in DASHES and first:
        return f"got {first!r}, which begins with another dash, expected two hyphens: --{first.lstrip(DASHES + '-')}"
    if first[:1] == "-":
        like = meant or difflib.get_close_matches("--" + first.lstrip("-").replace("_", "-").lower(), flags, 1)
        perhaps = f"; perhaps {' or '.join(like)}?" if like else ""
        return f"got {first!r}, expected a flag that there is: week6 {words[0]} --help lists them{perhaps}"
    more = " and more" * bool(rest)
    if words[0] != "run":
        return f"got {first!r}{more}, which is one too many; week6 {words[0]} --help says what is expected"
    return (
        f"got {first!r}{more}, which no flag takes, expected --NAME VALUE for each flag, and nothing behind one that "
        "needs no value, such as --resume; full help: week6 --help"
    )


def run_folder(runs_dir: Path, name: str) -> Path:
    """The folder of the run called `name`. RunError for a name that is not one of a folder in `runs_dir`."""
    if not name or Path(name).name != name or name.startswith((".", "-")) or clean(name) != name or "\\" in name:
        raise RunError(f"--name: got {name!r}, expected the plain name of a folder")
    runs_dir = place(runs_dir, "--runs-dir")
    if len(name.encode()) > LONGEST_NAME:
        raise RunError(f"--name: got {len(name.encode())} bytes, expected {LONGEST_NAME} at most")
    return runs_dir / name


def check_begun(folder: Path) -> None:
    """Raise RunError where there is no run to resume: most likely its name is mistyped. It says which there are."""
    if folder.exists() and (not folder.is_dir() or _holds_something(folder)):  # what it is, is seen when it is opened
        return
    raise RunError(
        f"--resume: got {folder.name!r}, and in {folder.parent} no such run has begun, expected "
        f"{_runs_in(folder.parent)}; give its --name, or leave out --resume to begin it"
    )


def _runs_in(runs_dir: Path) -> str:
    """The runs of a folder, as something that was expected."""
    there = sorted(path.parent.name for path in runs_dir.glob("*/config.json") if _is_of_run(path))
    named = ", ".join(map(repr, map(clean, there[:MOST_NAMES]))) + ", …" * (len(there) > MOST_NAMES)
    return f"one of {named}" if there else "the name of a run, and there is none yet"


def _is_of_run(config: Path) -> bool:
    try:
        return {"seed", "preset"} <= json.loads(config.read_bytes()).keys() if config.is_file() else False
    except (OSError, ValueError, AttributeError, RecursionError):
        return False


def _holds_something(folder: Path) -> bool:
    return folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir())


def show(folder: Path) -> None:
    """Print a run's report and where it is."""
    path = _report_in(folder, "report.md")
    text = path.read_text(encoding="utf-8", errors="replace")
    if not text.startswith("# ") or CONTROLS.search(text):
        raise RunError(f"{path} is damaged, expected the report of a run; week6 run --resume writes it anew")
    print(text)
    print(f"report   {path}\npage     {path.with_suffix('.html')}\nplots    {folder / 'plots'}")
    print(f"samples  {folder / 'samples.md'}")


def open_page(folder: Path) -> None:
    """Open a run's report in the browser; where there is none, say where it is."""
    path = _report_in(folder, "report.html").resolve()
    if not path.read_bytes().lower().startswith(b"<!doctype html"):
        raise RunError(f"{path} is damaged, expected the page of a run; week6 run --resume writes it anew")
    opened = webbrowser.open(path.as_uri())
    print(f"opened {path}" if opened else f"no browser can be opened here; open {path} in one")


def _report_in(folder: Path, name: str) -> Path:
    path = folder / name
    if not folder.is_dir():
        raise RunError(f"{path} does not exist: expected the folder of a run, or {_runs_in(RUNS)} in {RUNS}")
    if not path.is_file():
        check_kinds(folder)
        remedy = "; finish it with week6 run --resume"
        if _is_of_run(folder.parent / "config.json"):
            remedy = f", such as {folder.parent}"
        raise RunError(f"{path} does not exist: expected the folder of a finished run{remedy}")
    return path
