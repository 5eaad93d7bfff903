"""The pages show what students wrote and nothing of it runs."""

import re

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
    assert len(set(files)) == len(names) and all(re.fullmatch(r"[\w-][\w.-]{0,80}\.html", name) for name in files)
    assert all(len(name.encode()) < 200 for name in files)
