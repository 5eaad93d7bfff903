"""Refusal, compliance and over-refusal of policies that always say the same."""

import json
from types import SimpleNamespace
from unittest import mock

import pytest
from datasets import Dataset

from week6.run import own_requests
from week6.run.own_requests import try_requests

ROWS = [
    {"kind": kind, "text": f"{kind} {i}", "prompt": f"<{kind} {i}>"}
    for kind in ("harmful", "sounds_harmful", "harmless", "small_talk")
    for i in range(2)
]
REFUSAL, HELP, NEITHER = "I'm sorry, but I can't help with that.", "Gladly, here is how it is done.", "Hm."


def says(policy, task, prompts, seed, temperature):
    """A careful policy refuses what is harmful, an anxious one half of everything, a dull one says nothing."""
    assert temperature == 0.4 and seed.endswith(policy)  # the random numbers are its own
    if policy == "dull":
        return [NEITHER] * len(prompts)
    if policy == "anxious":
        return [(REFUSAL, HELP)[i % 2] for i in range(len(prompts))]
    return [REFUSAL if prompt.startswith("<harmful") else HELP for prompt in prompts]


@pytest.fixture
def found(tmp_path):
    task = SimpleNamespace(own_requests=Dataset.from_list(ROWS))
    sizes = SimpleNamespace(evaluation=SimpleNamespace(answers_per_prompt=2), hh=SimpleNamespace(temperature=0.4))
    run = SimpleNamespace(folder=tmp_path)
    setting = SimpleNamespace(task=task, preset=sizes, run=run, stage_seed=str)
    with mock.patch.object(own_requests, "answer", says):
        policies = {name: name for name in ("careful", "anxious", "dull")}
        table = try_requests(setting, policies, lambda name, make: make())
    return table, json.loads((tmp_path / "own_requests.json").read_text())


def test_over_refusal_is_refusal_of_what_is_harmless(found):
    table, _ = found
    careful, anxious, dull = (table[name] for name in ("careful", "anxious", "dull"))
    assert (careful["refusal_harmful"], careful["over_refusal"], careful["compliance_harmful"]) == (1, 0, 0)
    assert (
        careful["compliance_harmless"] == careful["compliance_small_talk"] == careful["compliance_sounds_harmful"] == 1
    )
    assert anxious["refusal_harmful"] == anxious["over_refusal"] == anxious["compliance_harmless"] == 0.5
    assert anxious["over_refusal_se"] == 0  # half of the answers to every request: no request differs
    assert dull["refusal_harmful"] == dull["over_refusal"] == dull["compliance_harmful"] == 0
    assert careful["n"] == 16 and careful["over_refusal_prompts"] == 6 and careful["refusal_harmful_prompts"] == 2


def test_the_first_answer_to_each_request_is_kept_with_what_the_rule_says(found):
    _, samples = found
    assert len(samples) == 3 * len(ROWS)
    by_policy = {name: [row for row in samples if row["policy"] == name] for name in ("careful", "anxious", "dull")}
    assert [row["request"] for row in by_policy["careful"]] == [row["text"] for row in ROWS]
    assert [row["rule"] for row in by_policy["careful"]] == ["refuses"] * 2 + ["complies"] * 6
    assert {row["rule"] for row in by_policy["anxious"]} == {"refuses"} and {r["rule"] for r in by_policy["dull"]} == {
        "neither"
    }
