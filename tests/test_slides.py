"""The decks: their length, and that whatever they show or say of a notebook stands in it. `make slides` builds them,
`make check-slides` looks whether each slide fits."""

import base64
import io
import re

import pytest
from PIL import Image

from tools.build_site import ROOT
from tools.build_slides import DIRECTIVE, MARK, SLIDES, Notebook, deck, expanded, notebook

DECKS = sorted(SLIDES.glob("[0-9][0-9].md"))
NUMBER = re.compile(r"(?<![\w.])\d+(?:[.,]\d+)*(?!\w)")


@pytest.fixture(scope="module", params=DECKS, ids=[path.stem for path in DECKS])
def both(request):
    return deck(request.param), notebook(request.param.stem)


def said(slides):
    """All that is shown or spoken, without directives."""
    return DIRECTIVE.sub("", "\n".join(f"{slide.text}\n{slide.notes}" for slide in slides))


def unknown(text, source):
    """The numbers, and the names of formulas and figures, that a notebook does not have."""
    names = {f"({name})" for name in re.findall(r"(?<!\w)\((\d+)\)", text)} - {f"({name})" for name in source.equations}
    names |= {name for name in re.findall(r"Figure (\w+)", text) if name not in source.figures}
    prose = re.sub(r"(?<!\w)\(\d+\)|[Nn]otebooks? \d\d|(?m:^# \d\d ·)|Next: \d\d", "", text)
    return names | set(NUMBER.findall(prose)) - set(NUMBER.findall(source.words))


def test_there_are_decks():
    assert {"01", "03", "06"} <= {path.stem for path in DECKS}


def test_a_deck_is_as_long_as_a_lecture(both):
    slides, _ = both
    assert 12 <= len(slides) <= 20 and 60 <= sum(slide.minutes for slide in slides) <= 90


def test_a_slide_has_one_idea_and_few_words(both):
    for slide in both[0]:
        assert len(re.findall(r"(?m)^#{1,2} ", slide.text)) == 1 and slide.text.startswith("#")
        shown = re.sub(r"(?m)^\|.*$|\$[^$]*\$", "", DIRECTIVE.sub("", slide.text))
        assert len(re.findall(r"\w+", shown)) <= 60, slide.text
        assert len(DIRECTIVE.findall(slide.text)) <= 2


def test_what_a_slide_shows_is_in_the_notebook(both):
    slides, source = both
    shown = [expanded(slide.text, source) for slide in slides]
    assert not any(DIRECTIVE.search(text) or re.search(r"(?m)^\{", text) for text in shown)
    kinds = {kind for slide in slides for kind, _ in DIRECTIVE.findall(slide.text)}
    assert kinds == {"figure", "equation", "poll"} or not source.polls


def test_what_a_slide_says_is_in_the_notebook(both):
    slides, source = both
    assert unknown(said(slides), source) == set()


def quoted(text):
    """The words of a text, however its lines are broken, without its code marks."""
    return " ".join(text.replace("`", "").split())


def test_what_a_slide_quotes_was_said(both):
    """`…` is what a model said, word for word, or a name in the code."""
    slides, source = both
    (path,) = (ROOT / "solutions").glob(f"{slides[0].text[2:4]}_*.py")
    recorded = ROOT / "week6" / "recorded" / "chat_start.csv"
    known = quoted(source.words + "".join(file.read_text(encoding="utf-8") for file in (path, recorded)))
    words = said(slides).replace("```", "`").replace(r"\|", "|")  # a table has the mark escaped
    assert [quote for quote in re.findall(r"`([^`]+)`", words) if quoted(quote) not in known] == []


def test_a_deck_answers_what_students_ask(both):
    assert sum("They ask:" in slide.notes for slide in both[0]) >= 3


def test_another_number_is_noticed():
    source = notebook("01")
    assert unknown("The integral gives 0.7858, as (3) says; Figure 4. In notebook 02", source) == set()
    text = "The integral gives 0.7859, as (91) says; Figure 12, 1,681 and 16,001."
    assert unknown(text, source) == {"0.7859", "(91)", "12", "16,001"}


def test_directives_that_a_notebook_does_not_have():
    with pytest.raises(KeyError, match="99"):
        expanded("# Title\n\n{equation 99}\n", notebook("01"))


def test_parts_of_a_picture():
    """Ten by ten pixels, the colour of each being ten times its row and its column."""
    whole = Image.new("L", (10, 10))
    whole.putdata(range(100))
    whole.save(file := io.BytesIO(), "PNG")
    source = Notebook(figures={"1": base64.b64encode(file.getvalue()).decode()})
    for parts, rows in {"0-20 70-80": [0, 10, 70], "29.9-50x0-20": [3, 13]}.items():
        shown = expanded(f"{{figure 1 {parts}}}", source).removeprefix("![Figure 1](data:image/png;base64,")
        stack = Image.open(io.BytesIO(base64.b64decode(shown.rstrip(")"))))
        assert stack.size == (2 if "x" in parts else 10, len(rows))
        assert [stack.getpixel((0, row)) for row in range(len(rows))] == rows


def test_a_mark_stays_with_its_formula():
    a, b = (rf'<span class="math inline">\({name}\)</span>' for name in "ab")
    assert MARK.sub("{\\1}", f"<p>If {a}, then {b} is</p>") == f"<p>If {{{a},}} then {b} is</p>"


def test_pictures_stand_over_their_captions():
    """Of notebook 03: Figure 5 and Figure 6 are drawn by two cells, and captioned one after the other."""
    figures = notebook("03").figures
    assert list(figures) == [str(i) for i in range(2, 12)] or list(figures) == [str(i) for i in range(1, 12)]
    assert len(set(figures.values())) == len(figures)


@pytest.mark.parametrize("number", [f"{n:02d}" for n in range(11)])
def test_every_caption_has_its_picture(number):
    """A deck can show whatever a notebook draws: as many pictures, all different, as there are captions."""
    source = notebook(number)
    captions = re.findall(r"(?m)^\*Figure ?\w*[.,:]", source.words)
    assert len(set(source.figures.values())) == len(source.figures) == len(captions) > 0


@pytest.mark.parametrize("text", ["# A\n", "# A\n\nNote: soon", "# A\n\nNote: 3 min. x\n\n---\n\n# B"])
def test_a_slide_without_its_time(tmp_path, text):
    (tmp_path / "01.md").write_text(text)
    with pytest.raises(ValueError, match=r"01.md: expected `Note: N min.`"):
        deck(tmp_path / "01.md")
