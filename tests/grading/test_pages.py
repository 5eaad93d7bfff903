"""The pages show what students wrote and nothing of it runs."""

import base64
import dataclasses
import re

import pytest

from tests.grading.test_table import CLASS, WORTH, WRONG
from week6.grading import pages, table
from week6.grading.marking import Mark, Marked

EVIL = "<script>alert(1)</script>&\"'"


def test_all_that_students_wrote_is_escaped():
    mark = Mark("q1", "1.1 One", "not yet", f"your code raised E: {EVIL} at `{EVIL}`", EVIL, (EVIL,))
    bad = Marked(EVIL, EVIL, "nb01", (mark,), (EVIL,), (EVIL,))
    refused = Marked(EVIL, EVIL, "", refused=EVIL)
    texts = [pages.feedback(bad, WORTH), pages.feedback(refused, WORTH)]
    texts.append(pages.class_page([bad, refused], table.by_exercise([bad]), WORTH, b"png"))
    for text in texts:
        assert "<script" not in text and "&lt;script&gt;" in text
        assert "default-src 'none'" in text and not re.findall(r"(?:src|href)=\"https?:", text)


def test_a_students_page_says_each_verdict_and_nothing_that_is_the_teachers():
    text = pages.feedback(CLASS[1], WORTH)
    assert "7 of 9 points" in text and text.count("<tr><td>") == 7 and "cell 1 is odd" not in text
    assert '<b class="not-yet">✗ not yet</b>' in text and "1 of 1" in text and "0 of 1" in text


@pytest.mark.parametrize(
    ("student", "kind", "told"), [("ada", "correct", 1), ("ada", "not yet", 0), ("ben", "correct", 0)]
)
def test_a_late_capstone_is_said_to_count_less(student, kind, told):
    worth = dataclasses.replace(WORTH, share=0.25, late=("ada",))
    mark = Mark("capstone", "The capstone", kind)
    text = pages.feedback(Marked(student, "x", "nb01", (mark,)), worth)
    assert text.count("<p>The capstone came late and counts 25%.</p>") == told
    assert f"<b>{0.75 if told else 3 * (kind == 'correct'):g} of 9 points</b>" in text and "Notebook 01: " in text
    other = Marked("ada", "x", "nb01", (Mark("q1", "1.1", "correct"),))
    assert "came late" not in pages.feedback(other, worth) and "About the file" not in text
    noted = pages.feedback(Marked("ada", "x", "nb01", (mark,), notes=("one", "a < b")), worth)
    assert "<p>About the file:</p><ul><li>one</li><li>a &lt; b</li></ul>" in noted


def test_what_most_have_wrong_comes_first_with_its_three_commonest_ideas():
    ideas = tuple((f"idea {i}", f"because {i}", 9 - i) for i in range(4))
    few, fewer, many = (
        table.Exercise("nb01", f"q{i}", f"1.{i}", right, wrong, 1, ideas)
        for i, right, wrong in [(1, 4, 5), (2, 1, 8), (3, 9, 0)]
    )
    text = pages.class_page(CLASS, [few, fewer, many], WORTH, b"png")
    repeat = text[text.index("What to repeat") : text.index("<h2>Exercises")]
    three = "".join(f"<br>{9 - i} × idea {i}: because {i}" for i in range(3))
    assert repeat.endswith(
        f"<ul><li><b>1.2</b>: 1 of 10 have it right, 1 did not try.{three}</li>"
        f"<li><b>1.1</b>: 4 of 10 have it right, 1 did not try.{three}</li></ul>"
    )
    numbers = ["<td>1.1</td>", *(f'<td class="n">{x}</td>' for x in ("40%", 4, 5, 1))]
    assert "".join(numbers) + "<td>idea 0 (9), idea 1 (8), idea 2 (7)</td>" in text
    assert "<p>Nothing: most who tried have it right.</p>" in pages.class_page(CLASS, [many], WORTH, b"png")
    assert '<td class="n">9 of 9</td><td></td>' in text and '<td class="n">7 of 9</td><td>cell 1 is odd</td>' in text
    assert '<td class="n">not graded</td><td>dan.ipynb: no notebook</td>' in text
    assert f'src="data:image/png;base64,{base64.b64encode(b"png").decode()}"' in text


def test_what_stands_in_backticks_is_code():
    assert pages._text("use `a < b`, not ``") == '<p class="text">use <code>a &lt; b</code>, not ``</p>'
    assert pages._text("") == ""


def test_the_page_of_the_class():
    text = pages.class_page(CLASS, table.by_exercise(CLASS), WORTH, b"png")
    assert "3 submissions graded, 1 refused" in text and "cell 1 is odd" in text
    repeat = text[text.index("What to repeat") : text.index("<h2>Exercises")]
    assert "1 of 3 have it right" in repeat and f"2 × {WRONG.name}" in repeat and "1.2" not in repeat
    links = re.findall(r'href="feedback/([^"]+)"', text)
    assert links == [pages.file_name(m) for m in CLASS] and len(set(links)) == 4


def test_names_of_pages_are_plain_and_differ():
    names = ["a/b", "a_b", "../../etc/passwd", "é" * 300, "", "CON\n"]
    files = [pages.file_name(Marked(name, "f", "nb01")) for name in names]
    assert pages.file_name(Marked("a" * 70, "f", "nb01")).startswith("a" * 60 + "-")
    assert all(re.fullmatch(r".*-[0-9a-f]{8}\.html", name) for name in files)
    assert len(set(files)) == len(names) and all(re.fullmatch(r"[\w-][\w.-]{0,80}\.html", name) for name in files)
    assert all(len(name.encode()) < 200 for name in files)
