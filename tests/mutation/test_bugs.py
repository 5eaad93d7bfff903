"""The list of seeded bugs fits the code: a bug whose text has moved would be found only after all other checks."""

import ast
import json

import pytest

from tests.mutation.run import BUGS, KILLERS, ROOT, mutate, read_bugs


@pytest.mark.parametrize("bug", read_bugs(BUGS), ids=lambda bug: bug.name)
def test_its_text_stands_once_in_the_code_and_the_bug_is_python(bug):
    source = (ROOT / "week6" / bug.module).read_text()
    ast.parse(mutate(source, bug))


def test_each_bug_has_a_killer():
    """Without one the control tries all tests named for the bug, which may take longer than its time limit."""
    bugs = {bug.name for bug in read_bugs(BUGS)}
    killers = set(json.loads(KILLERS.read_text()))
    assert killers == bugs, f"record them: python -m tests.mutation.run --record {' '.join(sorted(bugs - killers))}"


def test_each_killer_is_a_test(request: pytest.FixtureRequest):
    """A killer that has another name by now stops the control; seen here for the files collected beside this one."""
    options = request.config.option
    if options.keyword or options.markexpr or any("::" in argument for argument in request.config.args):
        return  # a part of a file may be collected
    tests = {item.nodeid for item in request.session.items}
    files = {test.partition("::")[0] for test in tests}
    killers = json.loads(KILLERS.read_text())
    gone = [name for name, test in killers.items() if test.partition("::")[0] in files and test not in tests]
    assert not gone, f"record them anew: python -m tests.mutation.run --record {' '.join(gone)}"
