"""What the notebooks say between their cells: numbers, references, numbering, terms, times.

A sentence that states a number must have it from somewhere: a cell of its section asserts or prints it, or the sentence
cites its source. A reference must lead somewhere. A term must be in the glossary, and the glossary within reach.
"""

import importlib
import re
from dataclasses import dataclass, field

import jupytext
import nbformat
import pytest

from tools.build_notebooks import ROOT, minutes, solution_text

SOURCES = sorted((ROOT / "solutions").glob("[0-9][0-9]_*.py"))
CITATION = re.compile(r"\b(1[89]|20)\d\d\b|arXiv|doi|\]\(http|\[[^\]]*\]\([^)]*\.md")
NUMBER = re.compile(r"(?<![\w.,^{−–-])\d+(?:,\d{3})*\.\d+|(?<![\w.^{])\d+(?:\.\d+)?(?= ?(?:%|per cent|percent))")
"""A measured number: with decimals, or a percentage."""


@dataclass
class Section:
    """A notebook's cells between two headings `##`: the prose, and all that its cells say."""

    heading: str
    prose: list[str] = field(default_factory=list)
    code: str = ""
    printed: str = ""


@dataclass
class Notebook:
    name: str
    sections: list[Section]

    @property
    def number(self):
        return int(self.name[:2])

    @property
    def prose(self):
        return "\n\n".join(part for section in self.sections for part in section.prose)


def printed(outputs):
    texts = [o.get("text", "") + "".join(o.get("data", {}).get("text/plain", "")) for o in outputs]
    return " ".join(texts)


def read(source):
    """A notebook from its source, with the stored outputs of the solutions' edition in order of the code cells."""
    cells = jupytext.read(source, fmt="py:percent").cells
    stored = nbformat.read(source.with_suffix(".ipynb"), nbformat.NO_CONVERT).cells
    outputs = {}
    for cell in stored:
        if cell.cell_type == "code":
            outputs.setdefault(cell.source.strip()[:80], []).append(printed(cell.outputs))
    sections = [Section("")]
    for cell in cells:
        if cell.cell_type == "markdown":
            for part in re.split(r"(?m)^(?=## )", cell.source):
                if part.startswith("## "):
                    sections.append(Section(part.splitlines()[0]))
                sections[-1].prose.append(part)
        else:
            text = solution_text(cell.source)
            sections[-1].code += text + "\n"
            sections[-1].printed += " ".join(outputs.get(text.strip()[:80], [])) + "\n"
    return Notebook(source.stem, sections)


NOTEBOOKS = [read(source) for source in SOURCES]
BY_NUMBER = {notebook.number: notebook for notebook in NOTEBOOKS}
each = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.name)


def plain(text):
    """Prose without code, links' addresses and formulas, which say nothing by themselves."""
    text = re.sub(r"(?s)```.*?```|\$\$.*?\$\$", " ", text)
    text = re.sub(r"`[^`]*`|\$[^$]*\$", " ", text)
    return re.sub(r"\]\([^)]*\)", "]", text)


# --- numbers ---------------------------------------------------------------------------------------------------------


def claims(text):
    """The measured numbers of each sentence of a text. Headings, questions, quotations and the options of a prediction
    state nothing."""
    text = re.sub(r"(?i)(sections?|exercises?|TRL|version)\s+\d+\.\d+", " ", text.partition("### Glossary")[0])
    text = re.sub(r'(?m)^#+ .*$|^- \([a-z]\).*$|"[^"]*"|“[^”]*”|\*\*[^*]*\?\*\*', " ", text)
    for sentence in re.split(r"(?<=[.!?:;])\s+(?=[A-ZÅ*_(\[])|\n\s*\n|\n(?=[-|*#>])", plain(text)):
        if not CITATION.search(sentence) and not sentence.rstrip().endswith("?"):
            yield from ((found.group().replace(",", ""), sentence) for found in NUMBER.finditer(sentence))


def forms(number):
    """How code and outputs may write a number: a percentage also as a fraction."""
    value = float(number)
    digits = len(number.partition(".")[2])
    yield number
    yield f"{value / 100:.{digits + 2}f}".rstrip("0")
    yield f"{value / 100:.{digits + 2}f}"


def is_said_by(number, section):
    """Whether a cell of the section holds the number or prints it, rounded as the prose has it."""
    everything = f"{section.code} {section.printed}"
    if any(re.search(rf"(?<![\d.]){re.escape(form)}(?!\d)", everything) for form in forms(number)):
        return True
    digits, value = len(number.partition(".")[2]), float(number)
    for found in re.findall(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e-?\d+)?", everything):
        x = abs(float(found))
        if round(x, digits) == value or round(100 * x, digits) == value:
            return True
    return False


HYPOTHETICAL = re.compile("to think about", re.IGNORECASE)
"""Sections that suppose."""


@each
def test_numbers_in_prose_come_from_a_cell_or_a_source(notebook):
    """In the same section, or the one before it: a closing sentence may open the next."""
    missing = []
    for before, section in zip([Section(""), *notebook.sections], notebook.sections, strict=False):
        for part in () if HYPOTHETICAL.search(section.heading) else section.prose:
            part = re.split(r"(?m)^### .*to think about", part)[0]
            for number, sentence in claims(part):
                if not is_said_by(number, section) and not is_said_by(number, before):
                    missing.append(f"{section.heading}: {number} in “{' '.join(sentence.split())[:150]}”")
    assert not missing, "\n".join(missing)


def test_a_number_from_nowhere_is_seen():
    section = Section("## 1", code="assert 0.7866 < x", printed="12.34 %")
    assert is_said_by("0.79", section) and is_said_by("78.7", section) and is_said_by("12.3", section)
    assert not is_said_by("0.81", section) and not is_said_by("12.4", section)
    assert [n for n, _ in claims("It is 0.5 of all. Then 93 % of `0.2` and $0.3$ (Gao et al. 2023).")] == ["0.5"]


# --- numbering and references ----------------------------------------------------------------------------------------


def sections_of(notebook):
    return [int(n) for n in re.findall(r"(?m)^## (\d+) ·", notebook.prose)]


def equations_of(notebook):
    return [int(n) for n in re.findall(r"\\tag\{(\d+)\}", notebook.prose)]


def figures_of(notebook):
    return [int(n) for n in re.findall(r"(?m)^\*Figure (\d+)\b", notebook.prose)]


def exercises_of(notebook):
    return re.findall(r"(?m)^#+ Exercise (\d+\.\d+)", notebook.prose)


@each
def test_sections_equations_figures_and_exercises_are_numbered_in_order(notebook):
    sections = sections_of(notebook)
    assert sections == list(range(sections[0], sections[0] + len(sections))) and sections[0] in (0, 1)
    for numbers in (equations_of(notebook), figures_of(notebook)):
        assert numbers == list(range(1, len(numbers) + 1))
    exercises = exercises_of(notebook)
    assert exercises == [f"{notebook.number}.{i}" for i in range(1, len(exercises) + 1)]
    questions = importlib.import_module(f"week6.checks.nb{notebook.number:02}")
    titles = [q.title for name, q in sorted(vars(questions).items()) if re.fullmatch(r"q\d+|capstone", name)]
    assert sorted(title.split()[0] for title in titles) == sorted(exercises)


REFERENCES = {
    "section": (r"[Ss]ections?|§", sections_of),
    "equation": (r"[Ee]quations?", equations_of),
    "figure": (r"[Ff]igures?", figures_of),
}


@each
def test_references_lead_somewhere(notebook):
    wrong = []
    text = re.sub(r"(?m)^\*Figure \d+", "", plain(notebook.prose))
    for number in re.findall(r"[Nn]otebooks? (\d\d)", text):
        if int(number) not in BY_NUMBER:
            wrong.append(f"notebook {number}")
    for kind, (word, numbers_of) in REFERENCES.items():
        for found in re.finditer(rf"(?:{word})\s*\(?(\d+)\)?(?:(?:,| and| to|–)\s*\(?(\d+)\)?)?(?![\d.])", text):
            around = text[max(0, found.start() - 60) : found.end() + 40]
            other = re.search(r"[Nn]otebook (\d\d)", around)
            cited = CITATION.search(around) or re.search(r"et al|appendix|paper", around)
            targets = [notebook] + ([BY_NUMBER[int(other[1])]] if other else [])
            for n in filter(None, found.groups()):
                if not cited and not any(int(n) in numbers_of(target) for target in targets):
                    wrong.append(f"{kind} {n}: …{' '.join(around.split())}…")
    every = {exercise for other in NOTEBOOKS for exercise in exercises_of(other)}
    wrong += [f"exercise {n}" for n in re.findall(r"[Ee]xercises? (\d+\.\d+)", text) if n not in every]
    assert not wrong, "\n".join(wrong)


# --- terms -----------------------------------------------------------------------------------------------------------


def glossary():
    """Term → the notebook that introduces it, from the table at the end of notebook 00."""
    _, _, table = BY_NUMBER[0].prose.partition("### Glossary")
    rows = re.findall(r"(?m)^\| (\*\*.*?) \| (.+?) \| (\d\d) \|$", table)
    return {term: int(number) for terms, _, number in rows for term in re.findall(r"\*\*(.+?)\*\*", terms)}


def test_the_glossary_knows_where_each_term_comes_from():
    terms = glossary()
    assert len(terms) > 40
    for term, number in terms.items():
        if not term.startswith("$"):
            before_table = " ".join(BY_NUMBER[number].prose.partition("### Glossary")[0].split())
            assert re.search(rf"\b{re.escape(term)}", before_table, re.IGNORECASE), (
                f"{term} is not in notebook {number:02}"
            )


NO_TERMS = set(
    "CPU GPU GB MB T4 CSV JSON HTML SQL PNG PDF UTF API URL MIT ID AI US UK OK TODO XOR II III ABC ABCD IID NLL MM DR "
    "TL FSDP".split()
)
"""Abbreviations that are no term of this course."""


@each
def test_every_abbreviation_is_in_the_glossary(notebook):
    known = " ".join(glossary())
    found = set(
        re.findall(r"(?<![\w-])[a-z]?[A-Z]{2,5}(?![\w-])", plain(notebook.prose.partition("### References")[0]))
    )
    unknown = sorted(term for term in found if term not in known and term not in NO_TERMS)
    assert not unknown, unknown


@each
def test_the_glossary_is_linked_before_the_text_begins(notebook):
    cells = nbformat.read(ROOT / "notebooks" / f"{notebook.name}.ipynb", nbformat.NO_CONVERT).cells
    assert ("00_alignment.ipynb#Glossary" in cells[1].source) == (notebook.number != 0)


# --- time ------------------------------------------------------------------------------------------------------------

ESTIMATES = {0: (60, 75), 1: (150, 180), 2: (70, 90), 3: (150, 180), 4: (150, 180), 5: (110, 125), 6: (95, 110),
             7: (120, 120), 8: (100, 100)}  # fmt: skip
"""Minutes that people took who knew no reinforcement learning, from the least to the most."""


@each
def test_the_stated_time_is_that_of_the_formula_and_near_what_people_took(notebook):
    source = (ROOT / "solutions" / f"{notebook.name}.py").read_text()
    assert re.search(r"\*\*\w+:\*\* \{minutes\} \w", source.replace("\n# ", " "))
    cells = jupytext.read(ROOT / "solutions" / f"{notebook.name}.py", fmt="py:percent").cells
    taken = minutes(without_capstone(cells))
    low, high = ESTIMATES.get(notebook.number, (taken, taken))  # where it has not been measured, the formula alone
    assert 0.75 * low <= taken <= 1.3 * high


def without_capstone(cells):
    """What people had when their times were taken: all but the capstone, and what follows it in its section."""
    kept, inside = [], False
    for cell in cells:
        if cell.cell_type == "markdown":
            inside = "· Capstone" in cell.source or (inside and not cell.source.startswith("## "))
        kept += [] if inside else [cell]
    return kept


def test_the_capstone_is_left_out_of_the_time_that_people_took():
    texts = ["## 1 · Before", "## 2 · Yours\n\n### Exercise 1.9 · Capstone: all", "### An experiment", "## 3 · After"]
    cells = [nbformat.v4.new_markdown_cell(text) for text in texts]
    assert [cell.source for cell in without_capstone(cells)] == [texts[0], texts[3]]
