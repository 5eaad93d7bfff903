"""What stands in the place of the graders says nothing, and tells of whoever asks it for more."""

from importlib.util import module_from_spec

import pytest

from week6.grading.silent import NoGraders, Silent


class Host:
    """Has the course's answer to q1."""

    def __init__(self):
        self.odd = []

    def ours(self, question):
        return {"q1": "ours"}.get(question)


def test_a_check_says_nothing_and_who_asks_for_its_answers_is_told_of():
    host = Host()
    check = Silent(host)
    assert check.q1(1, x=2) is None and check.capstone.steps.hint() is None and host.odd == []
    for name in ("reference", "misconceptions", "value"):
        getattr(check.q1, name)()
    assert host.odd == [f"asks the graders for `{name}`" for name in ("reference", "misconceptions", "value")]
    with pytest.raises(AttributeError):
        check.__wrapped__  # noqa: B018  it is no function, nor anything else that Python asks for
    with pytest.raises(AttributeError):
        getattr(check, "__x")


def test_where_an_answer_was_wrong_the_course_s_own_goes_on():
    """That of the question itself, whatever is asked of it before."""
    check = Silent(Host())
    assert check.q1.or_ours("mine") == check.q1.again.or_ours("mine") == "ours"
    assert check.q2.or_ours("mine") == check.capstone.or_ours("mine") == check.q1x.or_ours("mine") == "mine"
    assert check.q2.q1.or_ours("mine") == "ours"


def test_every_module_of_the_graders_is_silent_and_no_other():
    host = Host()
    graders = NoGraders(host)
    assert graders.find_spec("week6.ppo") is graders.find_spec("torch") is None
    assert graders.find_spec("week6.checks").submodule_search_locations is not None  # a package, with modules in it
    module = module_from_spec(graders.find_spec("week6.checks.nb03"))
    graders.exec_module(module)
    assert module.__name__ == "week6.checks.nb03"
    assert module.q1(0) is None and module.q1.or_ours("mine") == "ours"
    module.q1.reference()
    assert host.odd == ["asks the graders for `reference`"]
