"""`week6 doctor`: is this machine ready for the course, and if not, what is to be done?

One line a matter: OK; NOTE, which stops nobody; TROUBLE, with a line that says what to do. The output names neither the
user nor the home folder, so that it can be pasted into a forum. Nothing is fetched, and no file stays.

It must also work where nothing else does. At the top only the standard library is imported; every matter loads what it
looks at, and an error there is a finding like any other. Where a library cannot be loaded, `week6 doctor` runs this
file by itself.
"""

import getpass
import importlib
import io
import math
import os
import platform
import re
import shutil
import socket
import sys
import tempfile
import threading
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal, NamedTuple

PACKAGE = Path(__file__).resolve().parents[1]
LOWEST_PYTHON = (3, 11)
MODULES = {"markdown-it-py": "markdown_it"}
"""What is loaded of a package that has another name than its module."""
JUPYTER = ("jupyterlab", "notebook", "ipykernel", "jupyter_client", "nbformat")
"""Packages that show and run notebooks; ipykernel is the one that nothing goes without."""
MEMORY_GB = 1.5
"""Preset `tiny` has taken 1.32 GB at most, with all libraries."""
DISK_GB = 1.0
"""A run of preset `tiny` or `lesson` leaves less than 0.02 GB; logs, caches and pip want some too."""
HUB_SECONDS = 3.0
Mark = Literal["OK", "NOTE", "TROUBLE"]


class Finding(NamedTuple):
    """What was found, and for a trouble what to do."""

    mark: Mark
    found: str
    remedy: str = ""


def doctor(folder: Path | None = None, tell: Callable[[str], None] = print) -> bool:
    """Look at all matters, with the notebooks of `folder` (if not given, those here); returns whether all is well."""
    matters: dict[str, Callable[[], Finding]] = {
        "system": system,
        "week6": package,
        "packages": packages,
        "Jupyter": jupyter,
        "device": device,
        "threads": threads,
        "memory": memory,
        "disk": disk,
        "writing": writing,
        "pictures": pictures,
        "ports": ports,
        "hub": hub,
        "notebooks": lambda: notebooks(folder or Path.cwd()),
    }
    tell("week6 doctor")
    troubles = 0
    for name, look in matters.items():
        finding = _look(look)
        troubles += finding.mark == "TROUBLE"
        tell(anonymous(f"{finding.mark:<8} {name:<10} {finding.found}"))
        if finding.remedy:
            tell(anonymous(f"{'':<8} {'':<10} -> {finding.remedy}"))
    tell("all is well" if not troubles else f"{troubles} trouble{'s' * (troubles > 1)}: do what the arrows say")
    return not troubles


def _look(look: Callable[[], Finding]) -> Finding:
    try:
        return look()
    except ImportError as error:
        return Finding("NOTE", f"cannot be looked at without {error.name or error}")
    except Exception as error:  # of any library, on any machine: the matters after it are looked at all the same
        what = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        return Finding("TROUBLE", what, "search docs/troubles.md for these words, or paste this output where you ask")


def anonymous(text: str) -> str:
    """The text without the home folder, which becomes ~, and without the user's name in any other path."""
    homes = {str(path) for path in (Path.home(), Path.home().resolve())} - {"/"}
    for home in sorted(homes, key=len, reverse=True):
        text = re.sub(rf"{re.escape(home)}(?![\w.-])", "~", text)
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # a user id without a name
        return text
    return re.sub(rf"(?<=[/\\]){re.escape(user)}(?![\w.-])", "USER", text)


# --- Python and packages ---------------------------------------------------------------------------------------------


def system() -> Finding:
    """System and Python."""
    found = f"{platform.system()} {platform.release()}, {platform.machine()}; Python {platform.python_version()}"
    if sys.version_info < LOWEST_PYTHON:
        lowest = ".".join(map(str, LOWEST_PYTHON))
        return Finding("TROUBLE", found, f"install Python {lowest} or newer, and make the environment with it")
    if platform.system() == "Windows":
        return Finding("NOTE", found, "the course is tested on Linux: if something fails, try it in WSL")
    return Finding("OK", found)


def package() -> Finding:
    """The version of week6 and where it is."""
    try:
        number = version("week6")
    except PackageNotFoundError:
        return Finding("NOTE", f"not installed, taken from {PACKAGE.parent}")
    return Finding("OK", f"{number}, in {PACKAGE}")


def required() -> dict[str, str]:
    """Name and lowest version of each package that the course needs: from pyproject.toml beside week6, which a checkout
    has, or from what was installed. Empty where there is neither."""
    project = PACKAGE.parent / "pyproject.toml"
    try:
        listed = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["dependencies"]
    except (OSError, KeyError):
        try:
            listed = [line for line in requires("week6") or [] if "extra" not in line]
        except PackageNotFoundError:
            listed = []
    found = [re.match(r"([\w-]+)\s*>=\s*([\d.]+)", line) for line in listed]
    return {floor[1]: floor[2] for floor in found if floor}


def number_of(text: str) -> tuple[int, ...]:
    """The numbers that a version begins with: (2, 11, 0) of "2.11.0+cpu"."""
    found = re.match(r"\d+(\.\d+)*", text)
    return tuple(map(int, found[0].split("."))) if found else ()


def packages() -> Finding:
    """Every package that the course needs: installed, recent enough, and it can be loaded."""
    floors, bad, shown = required(), [], []
    for name, floor in floors.items():
        try:
            here = version(name)
        except PackageNotFoundError:
            bad.append(f"{name} is missing")
            continue
        if name in ("torch", "transformers", "numpy"):
            shown.append(f"{name} {here}")
        if number_of(here) < number_of(floor):
            bad.append(f"{name} {here} is older than {floor}")
            continue
        try:
            importlib.import_module(MODULES.get(name, name))
        except Exception as error:  # whatever a broken library raises
            bad.append(f"{name} {here} cannot be loaded ({type(error).__name__}: {' '.join(str(error).split())[:120]})")
    if bad:
        names = " ".join(f'"{line.split()[0]}>={floors[line.split()[0]]}"' for line in bad)
        again = " --force-reinstall" if any("cannot be loaded" in line for line in bad) else " --upgrade"
        return Finding("TROUBLE", "; ".join(bad), f"{sys.executable} -m pip install{again} {names}")
    if not floors:
        return Finding("NOTE", "nothing says which packages the course needs: pyproject.toml is not beside week6")
    return Finding("OK", f"{', '.join(shown)}; all {len(floors)} that the course needs are recent enough and load")


def jupyter() -> Finding:
    """What runs notebooks, and whether their kernel is this Python."""
    here = {}
    for name in JUPYTER:
        try:
            here[name] = version(name)
        except PackageNotFoundError:
            continue
    found = ", ".join(f"{name} {number}" for name, number in here.items())
    if "ipykernel" not in here:
        return Finding(
            "TROUBLE", found or "no Jupyter package", f"{sys.executable} -m pip install jupyterlab ipykernel"
        )
    from jupyter_client.kernelspec import KernelSpecManager

    kernel = KernelSpecManager().get_kernel_spec("python3").argv[0]  # ipykernel's own where no other is registered
    # A kernel that is "python" alone runs in the Python of Jupyter. Of others the folder says which one it is: the
    # program itself may be a link that leads out of the environment.
    if os.path.isabs(kernel) and Path(kernel).parent.resolve() != Path(sys.executable).parent.resolve():
        remedy = f"{sys.executable} -m ipykernel install --sys-prefix --name python3; then restart Jupyter"
        return Finding("TROUBLE", f"{found}; but the kernel python3 is another Python: {kernel}", remedy)
    if not here.keys() & {"jupyterlab", "notebook"}:
        return Finding(
            "NOTE", f"{found}; no JupyterLab here", "unless your editor shows notebooks: pip install jupyterlab"
        )
    return Finding("OK", found)


# --- the machine -----------------------------------------------------------------------------------------------------


def device() -> Finding:
    """The device that the course would use, and whether it computes."""
    import torch

    if not torch.cuda.is_available():
        seen = shutil.which("nvidia-smi") is not None
        remedy = "see pytorch.org for a build for your driver; or go on: the embedded course needs none" if seen else ""
        found = "CPU; there is an NVIDIA driver, but this PyTorch cannot use it" if seen else "CPU, no GPU"
        return Finding("NOTE" if seen else "OK", found, remedy)
    name, (free, total) = torch.cuda.get_device_name(), torch.cuda.mem_get_info()
    found = f"{name}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free, CUDA {torch.version.cuda}"
    try:
        ones = torch.ones(64, 64, device="cuda")
        works = bool(((ones @ ones) == 64).all())
    except RuntimeError as error:
        found, works = f"{found}; {' '.join(str(error).split())[:120]}", False
    remedy = "restart the session and end other programs on the GPU, or hide it: CUDA_VISIBLE_DEVICES= (empty)"
    return Finding("OK", found) if works else Finding("TROUBLE", f"{found}; it does not compute", remedy)


def cores() -> float:
    """How many cores this process may use: a container may allow less than the machine has."""
    here = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return min(here, int(quota) / int(period))
    except (OSError, ValueError):  # no Linux, an older one, or "max": no limit
        return here


def threads() -> Finding:
    """Threads of PyTorch beside the cores that there are."""
    import torch

    used, there = torch.get_num_threads(), cores()
    own = {name: os.environ[name] for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY") if name in os.environ}
    found = f"{used} on {there:g} cores" + "".join(f", {name}={value}" for name, value in own.items())
    if used > math.ceil(there):
        return Finding("TROUBLE", found, f"set OMP_NUM_THREADS={math.ceil(there)} before Python starts")
    if own.get("OMP_WAIT_POLICY", "").upper() == "ACTIVE":
        return Finding("NOTE", found, "unset OMP_WAIT_POLICY: waiting threads keep others from their work")
    return Finding("OK", found)


def memory() -> Finding:
    """Memory that is free."""
    import psutil

    there = psutil.virtual_memory()
    found = f"{there.available / 1e9:.1f} of {there.total / 1e9:.1f} GB free"
    if there.available < MEMORY_GB * 1e9:
        return Finding("TROUBLE", found, f"end other programs and notebooks: a run takes up to {MEMORY_GB} GB")
    return Finding("OK", found)


def _nearest(path: Path) -> Path:
    """The folder itself, or the nearest one above it that is there."""
    path = path.expanduser().absolute()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def places() -> dict[str, Path]:
    """The folders that the course writes to."""
    known = {"here": Path.cwd(), "temporary files": Path(tempfile.gettempdir())}
    try:
        from huggingface_hub import constants

        from week6.classroom.lesson import runs_folder
    except ImportError:
        return known
    return known | {"runs": runs_folder(), "cache of the hub": Path(constants.HF_HUB_CACHE)}


def disk() -> Finding:
    """Room where runs are kept and where temporary files go."""
    free = {name: shutil.disk_usage(_nearest(path)).free / 1e9 for name, path in places().items()}
    found = ", ".join(f"{name} {gb:.1f} GB" for name, gb in free.items())
    if min(free.values()) < DISK_GB:
        remedy = (
            f"make room: {DISK_GB:g} GB for the embedded course, 8 GB for GPT-2; or set WEEK6_RUNS, HF_HOME, TMPDIR"
        )
        return Finding("TROUBLE", f"free: {found}", remedy)
    return Finding("OK", f"free: {found}")


def writing() -> Finding:
    """Whether files can be written where the course writes them."""
    refused = []
    for name, path in places().items():
        try:
            with tempfile.TemporaryFile(dir=_nearest(path)) as file:
                file.write(b"week6")
        except OSError as error:
            refused.append(f"{name}: {path} ({error.strerror or error})")
    if refused:
        remedy = (
            "work in a folder of your own; WEEK6_RUNS names one for runs, HF_HOME for the cache, TMPDIR for the rest"
        )
        return Finding("TROUBLE", "; ".join(refused), remedy)
    return Finding("OK", "; ".join(f"{name}: {path}" for name, path in places().items()))


def pictures() -> Finding:
    """Whether Matplotlib finds its fonts, has a folder to remember them in, and draws."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties, findfont

    figure = Figure()
    FigureCanvasAgg(figure)
    figure.text(0.5, 0.5, r"$\beta$, π, →")
    figure.savefig(io.BytesIO(), format="png")
    font, cache = Path(findfont(FontProperties(family=["sans-serif"]))), Path(matplotlib.get_cachedir())
    found = f"Matplotlib {matplotlib.__version__}, {font.name}, cache {cache}"
    if tempfile.gettempdir() in (str(cache.parent), str(cache)):
        return Finding("NOTE", found, "set MPLCONFIGDIR to a folder that stays: the fonts are looked up at every start")
    return Finding("OK", found)


# --- the net ---------------------------------------------------------------------------------------------------------


def ports() -> Finding:
    """A free port of this machine, which Jupyter and its kernels need."""
    remedy = "let programs of this machine talk to each other over 127.0.0.1: a firewall or the container forbids it"
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            with socket.create_connection(server.getsockname(), timeout=2):
                return Finding("OK", f"127.0.0.1:{server.getsockname()[1]} is free and answers")
    except OSError as error:
        return Finding("TROUBLE", f"127.0.0.1: {error.strerror or error}", remedy)


def hub() -> Finding:
    """Whether the hub answers; nothing of the embedded course needs it, so that it never is a trouble."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return Finding("OK", "not asked: HF_HUB_OFFLINE is set")
    address = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    said: list[str] = []

    def ask() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=HUB_SECONDS):
                said.append("answers")
        except urllib.error.HTTPError as error:
            said.append("answers" if error.code < 429 else f"answers with status {error.code}")
        except Exception as error:  # such as an answer that is no HTTP; nothing looks after a thread once it is left
            reason = getattr(error, "reason", None) or error
            said.append(f"cannot be reached ({' '.join(str(reason).split())[:100] or type(error).__name__})")

    # To look up a name may take longer than the limit of urlopen: then the thread is left to itself.
    thread = threading.Thread(target=ask, name="week6 doctor asks the hub", daemon=True)
    thread.start()
    thread.join(HUB_SECONDS + 1)
    answer = said[0] if said else f"did not answer in {HUB_SECONDS + 1:g} seconds"
    if answer == "answers":
        return Finding("OK", f"{address} {answer}")
    return Finding("NOTE", f"{address} {answer}", "the embedded course needs no hub; for GPT-2 see docs/own-model.md")


# --- the notebooks ---------------------------------------------------------------------------------------------------


def notebooks(folder: Path) -> Finding:
    """Whether the notebooks of a folder are those that this version of week6 goes with."""
    from week6.classroom.editions import compare

    here = compare(folder)
    other = [f"{name}: {what}" for name, what in here.items() if what]
    if other:
        remedy = "take notebooks and week6 from one place and time (git pull, pip install again), and copy your answers"
        return Finding("TROUBLE", "; ".join(other), remedy)
    if not here:
        return Finding("NOTE", f"none in {folder}", "to compare yours, run week6 doctor in their folder")
    return Finding("OK", f"{len(here)} in {folder}, of this version")


if __name__ == "__main__":
    sys.exit(0 if doctor() else 1)
