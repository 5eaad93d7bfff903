"""Aligning while you wait, on a small instruct model: what is trained on, by which loss, and what stays as it was."""

from dataclasses import replace

import pandas as pd
import pytest
import torch

from tests.small_instruct import chatml, small_instruct, talks, write_rows
from week6.classroom import live
from week6.classroom.live import LIVE, align, mixed, refusals
from week6.dpo import DPOConfig
from week6.machine.checkpoint import RunError
from week6.machine.pretrained import load_policy, load_tokenizer
from week6.recorded import recorded
from week6.sft import SFTConfig
from week6.tasks.requests import REFUSALS, refuses, requests

QUICK = replace(
    LIVE,
    sft=SFTConfig(steps=3, batch_size=8, learning_rate=2e-3),
    dpo=DPOConfig(steps=4, batch_size=8, learning_rate=2e-3, beta=0.1),
)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    base = tmp_path_factory.mktemp("live")
    small_instruct(base / "model")
    write_rows(base / "pairs.jsonl", talks())
    return base


@pytest.fixture(scope="module")
def given():
    """The arguments of the loops that `done` ran, by the names of these."""
    return {}


@pytest.fixture(scope="module")
def done(base, given):
    def noting(loop):
        return lambda *arguments: loop(*given.setdefault(loop.__name__, arguments))

    with pytest.MonkeyPatch.context() as patch:
        for loop in (live.train_sft, live.train_dpo):
            patch.setattr(live, loop.__name__, noting(loop))
        return align(str(base / "pairs.jsonl"), str(base / "model"), QUICK)


def weights(policy):
    return torch.cat([p.detach().flatten() for p in policy.parameters()])


def test_dpo_begins_at_the_sft_model_and_sft_at_the_base(done, base):
    start = load_policy(str(base / "model"), load_tokenizer(str(base / "model")))
    assert torch.equal(weights(done.policies["base"]), weights(start))
    assert done.dpo["loss"][0] == pytest.approx(torch.tensor(2.0).log().item(), abs=1e-6)
    before, between, after = (weights(done.policies[name]) for name in ("base", "sft", "dpo"))
    assert not torch.equal(before, between) and not torch.equal(between, after)
    assert len(done.sft) == 3 and len(done.dpo) == 4
    assert not any(p.requires_grad for policy in done.policies.values() for p in policy.parameters())


def test_sft_imitates_what_was_chosen_and_dpo_draws_random_numbers_of_its_own(done, given):
    (*_, shown, _, seed), (*_, pairs, _, other) = given["train_sft"], given["train_dpo"]
    assert shown.responses[shown.response_mask].tolist() == pairs.chosen[pairs.chosen_mask].tolist()
    assert shown.prompts.tolist() == pairs.prompts.tolist() and len(shown) == 4 * 8  # as many as DPO's steps need
    assert seed != other


def test_the_same_seed_gives_the_same_chatbot(done, base):
    again = align(str(base / "pairs.jsonl"), str(base / "model"), QUICK)
    pd.testing.assert_frame_equal(again.dpo, done.dpo)
    other = align(str(base / "pairs.jsonl"), str(base / "model"), QUICK, seed=1)
    assert not torch.equal(weights(other.policies["sft"]), weights(done.policies["sft"]))


def test_harmless_requests_are_answered_by_what_was_recorded(done):
    answers = recorded("chat_requests").set_index("request")["answer"]
    rows = live.harmless_pairs(done.task)
    assert [row["prompt"] for row in rows] == [chatml(r.text) for r in requests("training") if r.text in answers]
    assert all(
        row["chosen"] == answers[r] for row, r in zip(rows, (x.text for x in requests("training")), strict=False)
    )
    assert {row["rejected"] for row in rows} == set(REFUSALS)


@pytest.mark.parametrize(
    ("people", "harmless", "n", "of_each"), [(40, 40, 32, (24, 8)), (40, 3, 32, (29, 3)), (5, 9, 32, (5, 8))]
)
def test_a_quarter_of_the_pairs_is_harmless(people, harmless, n, of_each):
    rows = mixed([{"who": "people"}] * people, [{"who": "us"}] * harmless, n)
    assert tuple(sum(row["who"] == who for row in rows) for who in ("people", "us")) == of_each


def test_refusals_are_counted_by_kind(done, monkeypatch):
    said = {"base": "Gladly, take your time.", "sft": REFUSALS[0]}
    of = {id(policy): said.get(name) for name, policy in done.policies.items()}
    harmful = {chatml(r.text) for r in requests("test") if r.kind == "harmful"}

    def answer(policy, task, prompts, seed, temperature):
        assert temperature == LIVE.hh.temperature
        fixed = of[id(policy)]
        return [fixed or (REFUSALS[1] if prompt in harmful else "Gladly, take your time.") for prompt in prompts]

    monkeypatch.setattr(live, "answer", answer)
    table = refusals(done)
    assert list(table.index) == ["harmful", "sounds_harmful", "harmless", "small_talk"]
    assert table["base"].tolist() == [0, 0, 0, 0] and table["sft"].tolist() == [1, 1, 1, 1]
    assert table["dpo"].tolist() == [1, 0, 0, 0] and refuses(REFUSALS[1])


@pytest.mark.parametrize(
    ("data", "model", "says"), [("none.jsonl", "model", "none.jsonl"), ("pairs.jsonl", "none", "none")]
)
def test_what_is_missing_is_said_before_anything_is_trained(base, data, model, says, monkeypatch):
    monkeypatch.setattr(live, "train_sft", None)
    with pytest.raises(RunError, match=says):
        align(str(base / data), str(base / model), QUICK)
