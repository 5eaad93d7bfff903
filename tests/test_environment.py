"""pyproject.toml is the one list of dependencies: environment.yml says the same, and hosted notebooks satisfy it."""

import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from rattler import MatchSpec

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIRED = {r.name: str(r.specifier) for r in map(Requirement, PROJECT["dependencies"])}
DEV = {r.name: str(r.specifier) for r in map(Requirement, PROJECT["optional-dependencies"]["dev"])}

ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text())
CONDA_SPECS = [entry for entry in ENVIRONMENT["dependencies"] if isinstance(entry, str)]
CONDA_NAME = {"torch": "pytorch", "matplotlib": "matplotlib-base", "vaderSentiment": "vadersentiment"}

# Google Colab with a GPU, 19 August 2026. A floor above one of these makes pip replace a package that the session has
# loaded. The other packages of REQUIRED are not there, and are installed.
COLAB = {
    "torch": "2.11.0",
    "transformers": "5.15.0",
    "datasets": "4.0.0",
    "accelerate": "1.14.0",
    "huggingface_hub": "1.27.0",
    "psutil": "5.9.5",
    "safetensors": "0.8.0",
    "filelock": "3.32.3",
    "tqdm": "4.67.3",
    "matplotlib": "3.10.0",
    "ipywidgets": "7.7.1",
    "pandas": "2.2.3",
    "numpy": "2.1.3",
}
COLAB_LACKS = {"vaderSentiment", "tyro", "jaxtyping"}


def conda_floors():
    """Name → version constraint, as conda's own parser reads them."""
    specs = [MatchSpec(spec, strict=True) for spec in CONDA_SPECS]
    return {spec.name.normalized: str(spec.version or "") for spec in specs}


def test_environment_yml_is_what_conda_expects():
    assert set(ENVIRONMENT) == {"name", "channels", "dependencies"}
    assert ENVIRONMENT["channels"] == ["conda-forge", "nodefaults"]
    # pip comes last and installs this very project: conda has then installed everything heavy
    assert ENVIRONMENT["dependencies"][-1] == {"pip": ["-e .[dev]"]}
    assert "pip" in CONDA_SPECS


def test_conda_and_pip_have_the_same_floors():
    conda = conda_floors()
    assert conda.pop("pip") == ""
    assert conda.pop("python") == PROJECT["requires-python"]
    expected = {CONDA_NAME.get(name, name): floor for name, floor in REQUIRED.items()}
    assert conda == expected | {"jupyterlab": DEV["jupyterlab"]}


@pytest.mark.parametrize("name", REQUIRED)
def test_required_packages_have_a_floor_and_no_ceiling(name):
    assert REQUIRED[name].startswith(">=") and "," not in REQUIRED[name]


@pytest.mark.parametrize(("name", "version"), COLAB.items())
def test_colab_keeps_its_packages(name, version):
    assert Requirement(f"{name}{REQUIRED[name]}").specifier.contains(version)


def test_every_required_package_is_on_colab_or_new_there():
    assert {*COLAB, *COLAB_LACKS} == set(REQUIRED)


def test_the_oracle_is_no_dependency_of_the_package():
    assert "trl" in DEV and "trl" not in REQUIRED


def test_an_interrupted_installation_is_forgotten(tmp_path):
    """pip writes RECORD last: without it, pip would take the half package for installed and leave it broken."""
    from tools.setup_env import drop_half_installed

    for name in ("whole-1.0", "half-2.0"):
        (tmp_path / f"{name}.dist-info").mkdir()
        (tmp_path / f"{name}.dist-info" / "METADATA").touch()
    (tmp_path / "whole-1.0.dist-info" / "RECORD").touch()
    assert drop_half_installed(tmp_path) == ["half-2.0.dist-info"]
    assert [path.name for path in tmp_path.iterdir()] == ["whole-1.0.dist-info"]
