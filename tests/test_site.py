"""The web edition, as it is laid out for Sphinx: every page is listed, every link leads somewhere, nothing comes from
elsewhere, solutions are folded. `make site` builds it, `make check-site` looks at it in a browser."""

import json
import posixpath
import re
import tomllib

import pytest
import yaml
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from tools.build_site import LINK, MODULES, REPOSITORY, ROOT, lay_out, link, pages, unsplit


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site") / "source"
    lay_out(folder)
    return folder


@pytest.fixture(scope="module")
def texts(source):
    """Address in the folder → Markdown."""
    found = {path.relative_to(source).as_posix(): path.read_text(encoding="utf-8") for path in source.rglob("*.md")}
    for path in source.rglob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        prose = ("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        found[path.relative_to(source).as_posix()] = "\n\n".join(prose)
    return found


def test_every_page_is_listed_once(texts):
    trees = re.findall(r"(?s)```\{toctree\}\n.*?\n\n(.*?)\n```", texts["index.md"])
    listed = "\n".join(trees).split("\n")
    assert sorted(["index", *listed]) == sorted(pages())
    assert {f"notebooks/{path.stem}" for path in (ROOT / "notebooks").glob("*.ipynb")} <= set(listed)
    assert {f"docs/{path.stem}" for path in (ROOT / "docs").glob("*.md")} <= set(listed)
    assert {"api/dpo", "api/ppo", "api/exact"} <= set(listed) and "api/cli" not in listed


def test_links_lead_to_pages_or_to_the_repository(source, texts):
    inside = 0
    for address, text in texts.items():
        for found in LINK.finditer(re.sub(r"(?s)```.*?```|`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]*\$", "", text)):
            target = found[1]
            if re.match(r"https?:", target):
                path = target.removeprefix(f"{REPOSITORY}/blob/main/")
                assert path == target or (ROOT / path).exists(), (address, target)
            elif target:
                inside += 1
                assert (source / posixpath.normpath(posixpath.join(posixpath.dirname(address), target))).exists(), (
                    target
                )
    assert inside > 50


def test_links_to_headings_are_as_myst_has_them(texts):
    wanted = {(address, found) for address, text in texts.items() for found in re.findall(r"\]\((\S*#[^)\s]+)\)", text)}
    for address, target in wanted:
        path, anchor = target.split("#")
        if not re.match(r"https?:", target):
            page = posixpath.normpath(posixpath.join(posixpath.dirname(address), path)) if path else address
            headings = re.findall(r"(?m)^#{1,3} (.*)$", texts[page])
            assert anchor in {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}, (
                target
            )
    assert wanted


def test_no_picture_comes_from_elsewhere(texts):
    for address, text in texts.items():
        shown = re.sub(r"(?s)```.*?```|`[^`]*`", "", text)  # code asks for nothing
        assert not re.search(r"!\[[^\]]*\]\(http|<(img|script|link|iframe)\b", shown), address


def test_what_a_student_would_write_is_folded(source):
    for path in sorted(source.glob("notebooks/*.ipynb")):
        cells = {cell["id"]: cell for cell in json.loads(path.read_text())["cells"]}
        student = json.loads((ROOT / "notebooks" / path.name).read_text())["cells"]
        stubs = [cell["id"] for cell in student if "YOUR CODE HERE" in "".join(cell["source"]) and cell["id"] in cells]
        answers = [
            cell["id"] for cell in student if "YOUR ANSWER HERE" in "".join(cell["source"]) and cell["id"] in cells
        ]
        assert len(stubs) >= 3
        for name in [*stubs, *answers]:
            assert "hide-input" in cells[name]["metadata"]["tags"]
            assert cells[name]["metadata"]["mystnb"]["code_prompt_show"] == "Show the solution"


def test_every_notebook_has_links_to_colab_and_to_its_source(texts):
    for address, text in texts.items():
        if address.endswith(".ipynb"):
            name = posixpath.basename(address).removesuffix(".ipynb")
            assert f"[Source]({REPOSITORY}/blob/main/solutions/{name}.py)" in text
            assert re.search(rf"\[Open in Colab\]\(https://colab\S+/notebooks/{name}\.ipynb\)", text)


@pytest.mark.parametrize(
    ("target", "anchor", "origin", "address", "expected"),
    [
        ("notebooks/06_dpo.ipynb", "", "README.md", "index", "notebooks/06_dpo.ipynb"),
        ("docs/README.md", "", "README.md", "index", "docs/README.md"),
        ("../README.md", "", "docs/README.md", "docs/README", "../index.md"),
        ("../week6/dpo.py", "", "docs/rooms.md", "docs/rooms", "../api/dpo.md"),
        (
            "../week6/chat/session.py",
            "",
            "docs/rooms.md",
            "docs/rooms",
            f"{REPOSITORY}/blob/main/week6/chat/session.py",
        ),
        ("00_alignment.ipynb", "#Glossary", "notebooks/01_x.ipynb", "notebooks/01_x", "00_alignment.ipynb#glossary"),
        ("https://a.org/x", "#Y", "README.md", "index", "https://a.org/x#Y"),
        ("", "#Glossary", "notebooks/01_x.ipynb", "notebooks/01_x", "#glossary"),
    ],
)
def test_where_a_link_leads(target, anchor, origin, address, expected):
    assert link(target, anchor, origin, address) == expected


def test_the_configuration_loads_and_runs_no_notebook():
    settings = {}
    exec((ROOT / "docs" / "conf.py").read_text(encoding="utf-8"), settings)
    assert settings["nb_execution_mode"] == "off" and settings["mathjax_path"].startswith("mathjax/")


def test_docstrings_become_markup_with_their_formulas_as_written():
    settings = {}
    exec((ROOT / "docs" / "conf.py").read_text(encoding="utf-8"), settings)
    lines = ["Of *every* pair, `a|b`.", "", "    h = π(y_w|x)", "      − 1", "", "Raises x_."]
    settings["as_markup"](None, "function", "f", None, None, lines)
    assert "\n".join(lines) == (
        "Of \\*every\\* pair, ``a|b``.\n\n::\n\n      h = π(y_w|x)\n        − 1\n\nRaises x\\_.\n"
    )


def test_a_numbered_formula_of_several_rows_is_left_whole():
    assert unsplit(r"a \\ b $$x \\[4pt] y \tag{1}$$ c \\ d") == r"a \\ b $$x \cr  y \tag{1}$$ c \\ d"


def test_the_workflow_publishes_what_make_builds():
    steps = yaml.safe_load((ROOT / ".github" / "workflows" / "site.yml").read_text())["jobs"]["publish"]["steps"]
    assert {"run": "make site"} in steps
    assert [step["with"]["path"] for step in steps if "artifact" in step.get("uses", "")] == ["build/site/html"]
    assert "tools/build_site.py build/site" in (ROOT / "Makefile").read_text()


def test_the_notebooks_are_run_as_make_runs_them():
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "notebooks.yml").read_text())["jobs"]
    assert {"run": "make nbval"} in jobs["nbval"]["steps"]
    assert re.search(r"(?m)^nbval:", (ROOT / "Makefile").read_text())


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "workflows").glob("*.yml")), ids=lambda path: path.stem)
def test_what_a_workflow_calls_is_there(path):
    """Its targets of make, and a Python that the package allows."""
    jobs = yaml.safe_load(path.read_text())["jobs"]
    steps = [step for job in jobs.values() for step in job["steps"]]
    called = [words for step in steps for words in re.findall(r"make (\S+)", step.get("run", ""))]
    targets = re.findall(r"(?m)^([\w-]+):", (ROOT / "Makefile").read_text())
    assert called and set(called) <= set(targets)
    (python,) = [step["with"]["python-version"] for step in steps if "setup-python" in step.get("uses", "")]
    allowed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert Version(python) in SpecifierSet(allowed)


def test_only_the_course_itself_has_pages_of_its_code():
    assert {"dpo", "ppo", "objective", "preferences", "exact"} <= set(MODULES) and "__init__" not in MODULES
