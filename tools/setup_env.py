#!/usr/bin/env python3
"""Make a virtual environment and install packages in it: `setup_env.py FOLDER REQUIREMENT...` (pip's arguments).

Needs only a Python 3.11 or newer; Debian's, which comes without ensurepip, will do. Where there is no CUDA, a CPU build
of torch goes in first: the version among the requirements (torch==VERSION), or TORCH. Where the checkout cannot be
written to, a copy of the project is installed. May be run again at any time: it goes on where an interrupted run
stopped.
"""

from __future__ import annotations

import glob
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

TORCH = "torch==2.13.0"
ROOT = Path(__file__).resolve().parent.parent
CPU_BUILDS = "https://download.pytorch.org/whl/cpu"


def run(*command: str | Path, **options: object) -> None:
    """Show the command and run it; its failure ends this script."""
    print("+", *command, flush=True)
    subprocess.run([str(part) for part in command], check=True, **options)  # type: ignore[call-overload]


def works(*command: str | Path) -> bool:
    """Whether the command can be run and succeeds."""
    try:
        return subprocess.run([str(part) for part in command], capture_output=True).returncode == 0
    except OSError:
        return False


def create(folder: Path) -> None:
    """Create the virtual environment, with pip in it."""
    venv = [sys.executable, "-m", "venv", "--clear"]
    if works(sys.executable, "-c", "import ensurepip, venv"):
        return run(*venv, folder)
    print("This Python has no ensurepip.")
    root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    if works(*root, "apt-get", "--version"):
        run(*root, "apt-get", "update")
        run(*root, "apt-get", "install", "-y", "--no-install-recommends", "python3-venv")
        return run(*venv, folder)
    with tempfile.TemporaryDirectory() as scratch:
        run("apt-get", "download", "python3-pip-whl", cwd=scratch)
        (package,) = glob.glob(f"{scratch}/*.deb")
        run("dpkg", "-x", package, scratch)
        (wheel,) = glob.glob(f"{scratch}/usr/share/python-wheels/pip-*.whl")
        run(*venv, "--without-pip", folder)
        run(folder / "bin/python", f"{wheel}/pip", "install", "--no-index", wheel)


def drop_half_installed(site_packages: Path) -> list[str]:
    """Forget packages whose installation was interrupted: pip writes RECORD last, but takes METADATA for installed."""
    broken = [info for info in site_packages.glob("*.dist-info") if not (info / "RECORD").exists()]
    for info in broken:
        shutil.rmtree(info)
    return sorted(info.name for info in broken)


def refusal(folder: Path) -> str | None:
    """Why no environment can be made in `folder`, or None."""
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if os.access(place, os.W_OK):
        return None
    return f"{place} cannot be written to. Name a folder that can: make course VENV=FOLDER RUNS=FOLDER"


def without_editing(requirements: list[str], copy: Path) -> list[str]:
    """The requirements with `-e .` as the project itself, copied to `copy`: building it leaves files beside its own."""
    if "-e" not in requirements:
        return requirements
    files = [ROOT / "pyproject.toml", ROOT / "README.md", ROOT / "LICENSE", *(ROOT / "week6").rglob("*.*")]
    for path in files:
        if path.is_file() and path.suffix != ".pyc":
            target = copy / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    return [re.sub(r"^\.", str(copy), requirement) for requirement in requirements if requirement != "-e"]


def main(folder: Path, requirements: list[str]) -> None:
    """Create the environment where it is missing or broken, then install."""
    if sys.version_info < (3, 11):  # noqa: UP036  (make takes whatever python3 is)
        sys.exit(f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}. Try: make PYTHON=python3.12")
    if problem := refusal(folder):
        sys.exit(problem)
    python = folder / "bin/python"
    if not works(python, "-m", "pip", "--version"):
        create(folder)
    for name in drop_half_installed(Path(sysconfig.get_path("purelib", "venv", {"base": str(folder)}))):
        print(f"{name}: was installed by half, is installed again")
    pip = [python, "-m", "pip", "install", "--disable-pip-version-check"]
    if not shutil.which("nvidia-smi"):
        torch = next((requirement for requirement in requirements if requirement.startswith("torch==")), TORCH)
        # Where that index cannot be reached, pip takes what it finds elsewhere under the same version.
        run(*pip, "--retries", "0", "--extra-index-url", CPU_BUILDS, torch)
    with tempfile.TemporaryDirectory() as copy:
        run(*pip, *(requirements if os.access(ROOT, os.W_OK) else without_editing(requirements, Path(copy))))


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), sys.argv[2:])
    except (subprocess.CalledProcessError, OSError) as problem:
        sys.exit(f"{problem}\nThe set-up is not complete; run the same command again to go on.")
