"""The report as a page: what report.md and samples.md say, in one file that needs no other and trusts no text."""

import base64
import shutil
from html.parser import HTMLParser

import pytest

from tests.runs import finished_run
from week6.run.page import page
from week6.run.report import _escape


class Page(HTMLParser):
    """Elements with their attributes, and the text of every table cell."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.cells, self.inside, self.text = [], [], False, ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag in ("td", "th"):
            self.cells.append("")
            self.inside = True

    def handle_endtag(self, tag):
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data):
        self.text += data
        if self.inside:
            self.cells[-1] += data

    def all(self, tag, attribute):
        return [attributes.get(attribute) for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def made():
    return Page((finished_run() / "report.html").read_text(encoding="utf-8"))


def cells_of(markdown):
    rows = [line for line in markdown.splitlines() if line.startswith("|") and not line.startswith("|---")]
    return [cell.strip() for row in rows for cell in row.strip("|").split("|")]


def test_it_says_what_the_report_says(made):
    report = (finished_run() / "report.md").read_text(encoding="utf-8")
    assert made.cells[: len(cells_of(report))] == cells_of(report) and len(cells_of(report)) > 60
    assert "The best achievable gold reward" in made.text
    assert made.all("title", "id") == [None] and "Run of preset tiny, seed 0" in made.text


def test_it_holds_the_answers_to_read(made):
    samples = (finished_run() / "samples.md").read_text(encoding="utf-8")
    assert made.cells[-len(cells_of(samples)) :] == cells_of(samples) and len(cells_of(samples)) > 300


def test_it_holds_every_picture(made):
    report = (finished_run() / "report.md").read_text(encoding="utf-8")
    names = [line.split("](")[1].rstrip(")") for line in report.splitlines() if line.startswith("![")]
    inside = [base64.b64decode(address.removeprefix("data:image/png;base64,")) for address in made.all("img", "src")]
    assert inside == [(finished_run() / name).read_bytes() for name in names] and len(names) == 7
    assert all(made.all("img", "alt"))


def test_it_needs_nothing_but_the_files_of_its_run(made):
    tags = {tag for tag, _ in made.elements}
    assert not tags & {"script", "link", "iframe", "object", "form"} and "url(" not in made.text
    ids = {attributes["id"] for _, attributes in made.elements if "id" in attributes}
    links = made.all("a", "href")
    assert {"config.json", "summary.json", "#answers"} == set(links) and "answers" in ids
    assert all((finished_run() / link).is_file() for link in links if not link.startswith("#"))


def test_it_is_made_for_every_screen(made):
    (viewport,) = [attributes for tag, attributes in made.elements if tag == "meta" and "name" in attributes]
    assert viewport["content"] == "width=device-width, initial-scale=1"
    assert "color-scheme: light dark" in made.text and "prefers-color-scheme: dark" in made.text
    tables = [i for i, (tag, _) in enumerate(made.elements) if tag == "table"]
    assert tables and all(made.elements[i - 1][1].get("class") == "wide" for i in tables)


@pytest.mark.parametrize(
    "hostile",
    [
        "<script>alert(1)</script>",
        '<img src=x onerror="alert(1)">',
        "[click](javascript:alert(1))",
        "![x](http://example.org/x.png)",
        "</details></main>",
        "| cell | cell |",
        "<http://example.org>",
        "&lt;b&gt; &amp; `code` **bold**",
    ],
)
def test_what_a_model_says_stays_text(tmp_path, hostile):
    shutil.copytree(finished_run() / "plots", tmp_path / "plots")
    table = ["| policy | answer | gold | proxy |", "|---|---|---|---|", f"| PPO | {_escape(hostile)} | — | 0.00 |"]
    (tmp_path / "samples.md").write_text("\n".join(["# Answers", "", f"**{_escape(hostile)}**", "", *table]))
    found = Page(page(tmp_path, "# Run\n\nNothing.\n"))
    assert found.cells[-4:] == ["PPO", hostile, "—", "0.00"]
    assert {tag for tag, _ in found.elements} <= {
        "html", "head", "meta", "title", "style", "body", "main", "h1", "p", "details", "summary", "strong", "div",
        "table", "thead", "tbody", "tr", "th", "td",
    }  # fmt: skip
    assert page(tmp_path, "# Run").count("</details>") == 1


def test_html_in_the_report_itself_stays_text(tmp_path):
    (tmp_path / "samples.md").write_text("# Answers\n")
    assert "<script" not in page(tmp_path, "# Run of `<script>`\n\n<script>alert(1)</script>\n")
