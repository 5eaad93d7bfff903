"""pyproject.toml is the one list of dependencies: environment.yml says the same, and hosted notebooks satisfy it."""

import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version
from rattler import MatchSpec

from tools import setup_env
from tools.floors import floors

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
    "markdown-it-py": "4.2.0",
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
    for name in ("whole-1.0", "half-2.0"):
        (tmp_path / f"{name}.dist-info").mkdir()
        (tmp_path / f"{name}.dist-info" / "METADATA").touch()
    (tmp_path / "whole-1.0.dist-info" / "RECORD").touch()
    assert setup_env.drop_half_installed(tmp_path) == ["half-2.0.dist-info"]
    assert [path.name for path in tmp_path.iterdir()] == ["whole-1.0.dist-info"]


def test_floors_are_the_lowest_versions_that_are_allowed():
    pins = {r.name: r for r in map(Requirement, floors(PROJECT))}
    tested = [Requirement(line) for line in PROJECT["optional-dependencies"]["test"]]
    (gguf,) = (r for r in map(Requirement, PROJECT["optional-dependencies"]["smol"]) if r.name == "gguf")
    allowed = {r.name: r.specifier for r in [*map(Requirement, PROJECT["dependencies"]), *tested, gguf]}
    assert set(pins) == set(allowed)
    for name, pin in pins.items():
        ((operator, version),) = ((s.operator, s.version) for s in pin.specifier)
        assert operator == "==" and allowed[name].contains(version)
        assert f">={version}" in str(allowed[name]).split(",")


@pytest.mark.parametrize("requirement", ["torch", "torch<3", "torch==2.9", "torch>=2.9,!=2.10"])
def test_a_requirement_without_a_floor_is_refused(requirement):
    with pytest.raises(ValueError, match=requirement):
        floors({"dependencies": [requirement], "optional-dependencies": {"test": []}})


def test_pythons_are_declared_from_the_lowest_that_is_allowed():
    named = [Version(c.rpartition(" ")[2]) for c in PROJECT["classifiers"] if c.startswith("Programming Language")]
    assert named == [Version(f"3.{minor}") for minor in range(11, 15)]
    assert f">={named[0]}" == PROJECT["requires-python"]


@pytest.fixture
def pip(monkeypatch, tmp_path):
    """What the set-up would have installed, in an environment that is there; no CUDA."""
    calls = []
    monkeypatch.setattr(setup_env, "run", lambda *words, **_: calls.append([str(word) for word in words[5:]]))
    monkeypatch.setattr(setup_env, "works", lambda *_: True)
    monkeypatch.setattr(setup_env.shutil, "which", lambda _: None)
    return calls


def read_only(monkeypatch, *folders):
    """`folders`, and what lies in them, cannot be written to (the super-user could, whatever the mode says)."""
    monkeypatch.setattr(setup_env.os, "access", lambda path, _: not {Path(path), *Path(path).parents} & set(folders))


def test_torch_is_installed_in_the_version_that_is_asked_for(pip, tmp_path):
    setup_env.main(tmp_path, ["-e", ".[test]", "torch==2.9", "numpy==2.0"])
    assert [call[-1] for call in pip] == ["torch==2.9", "numpy==2.0"]
    setup_env.main(tmp_path, ["-e", ".[dev]"])
    assert [call[-2:] for call in pip[2:]] == [[setup_env.CPU_BUILDS, setup_env.TORCH], ["-e", ".[dev]"]]


def test_a_checkout_that_cannot_be_written_to_is_installed_as_a_copy(pip, tmp_path, monkeypatch):
    """Building leaves files beside the project's own: pip would fail."""
    read_only(monkeypatch, ROOT)
    copies = []

    def look(*words, **_):
        project = Path(str(words[-1]).removesuffix("[dev]"))
        copies.append({p.relative_to(project).as_posix(): p.read_bytes() for p in project.rglob("*") if p.is_file()})

    monkeypatch.setattr(setup_env, "run", look)
    setup_env.main(tmp_path, ["-e", ".[dev]"])
    built = copies[-1]
    assert {"pyproject.toml", "README.md", "LICENSE", "week6/ppo.py", "week6/recorded/smollm2.json"} <= set(built)
    assert all(content == (ROOT / name).read_bytes() for name, content in built.items())
    modules = {p.relative_to(ROOT).as_posix() for p in (ROOT / "week6").rglob("*.py")}
    assert modules <= set(built)
    setup_env.main(tmp_path, ["trl==0.11.4"])


def test_an_environment_where_nothing_can_be_written_is_refused_with_a_remedy(pip, tmp_path, monkeypatch):
    read_only(monkeypatch, tmp_path)
    with pytest.raises(SystemExit, match=r"cannot be written to.*make course VENV=FOLDER RUNS=FOLDER"):
        setup_env.main(tmp_path / "not" / "there", ["-e", ".[dev]"])
    assert pip == []
