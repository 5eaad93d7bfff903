"""The reward model as an annotator: what it chooses, and what answers without an end cost."""

import dataclasses
import json
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset

from tests.runs import quick_preset
from week6.run import labelling
from week6.run.setting import open_setting
from week6.sequences import Rollout, decode, encode_prompts
from week6.tasks import load_task
from week6.tasks.hh import HHConfig

ANSWERS = (  # score and end of two answers to a prompt, and which is chosen where no end costs −1
    ((0.5, True), (0.2, True), 0),
    ((-0.5, True), (3.0, False), 0),  # the unfinished one would win by its score
    ((-2.0, True), (3.0, False), 1),
    ((1.0, False), (2.0, False), 1),  # both pay
    ((5.0, False), (-0.9, True), 1),
    ((0.1, True), (0.2, True), 1),
)


@pytest.fixture
def labelled(tmp_path, monkeypatch):
    """`label_with` where the answers are words with their score, as the reward model reads them."""
    task, preset = load_task("assistant"), quick_preset()
    preset = dataclasses.replace(
        preset,
        n_pairs=100,
        ppo=dataclasses.replace(preset.ppo, unfinished_penalty=-1.0),
        dpo=dataclasses.replace(preset.dpo, steps=3, batch_size=len(ANSWERS) // 3),
    )
    setting = open_setting(preset, tmp_path / "run")
    asked, scores = [], []

    def sample_batches(policy, prompts, mask, max_new_tokens, seed):
        assert len(prompts) == len(ANSWERS)
        column, eos = len(asked), task.tokenizer.eos_token_id
        asked.append((prompts, mask))
        ended = torch.tensor([row[column][1] for row in ANSWERS])
        words = torch.arange(10, 10 + len(ANSWERS)) + 20 * column
        responses = torch.stack([words, torch.where(ended, eos, words)], 1)
        return Rollout(prompts, mask, responses, torch.ones_like(responses).bool(), torch.zeros(len(words), 2), ended)

    def score_batches(model, answers):
        scores.append(torch.tensor([row[len(scores)][0] for row in ANSWERS]))
        return scores[-1]

    monkeypatch.setattr(labelling, "sample_batches", sample_batches)
    monkeypatch.setattr(labelling, "score_batches", score_batches)
    return setting, asked, labelling.label_with(setting, None, None)


def test_an_answer_without_its_end_pays_what_ppo_charges(labelled):
    _, _, pairs = labelled
    column = (pairs.chosen[:, 0] >= 30).long()
    assert column.tolist() == [choice for _, _, choice in ANSWERS]
    assert torch.equal(pairs.chosen[:, 0] - pairs.rejected[:, 0], 20 * (2 * column - 1))


def test_pairs_are_of_the_same_prompt_and_written_as_they_are(labelled):
    setting, asked, pairs = labelled
    rows = [json.loads(line) for line in (setting.run.folder / "answer_pairs.jsonl").read_text().splitlines()]
    tokenizer = setting.task.tokenizer
    for side in ("chosen", "rejected"):
        assert [row[side] for row in rows] == decode(tokenizer, getattr(pairs, side), getattr(pairs, f"{side}_mask"))
    prompts, _ = encode_prompts(tokenizer, [row["prompt"] for row in rows])
    assert torch.equal(prompts, asked[0][0][:, -prompts.shape[1] :]) and torch.equal(asked[0][0], asked[1][0])
    assert len(pairs) == 6  # as many as DPO will meet, and not 100


def test_what_is_labelled_is_not_labelled_again(labelled):
    setting, asked, pairs = labelled
    again = labelling.label_with(setting, None, None)
    assert len(asked) == 2 and all(
        torch.equal(x, y) for x, y in zip(*map(dict.values, map(vars, (pairs, again))), strict=True)
    )


@pytest.mark.parametrize(("answers_each", "prompts"), [(2, 12), (3, 4), (4, 2)])
def test_no_more_prompts_are_answered_than_the_pairs_need(answers_each, prompts, tmp_path, monkeypatch):
    """k answers make k (k − 1) / 2 pairs, and DPO meets 3 steps of 4 pairs."""
    quick = quick_preset()
    preset = dataclasses.replace(quick, n_pairs=100, dpo=dataclasses.replace(quick.dpo, steps=3, batch_size=4))
    setting = open_setting(preset, tmp_path / "run")
    setting = dataclasses.replace(setting, task=dataclasses.replace(setting.task, answers_per_prompt=answers_each))
    asked = []

    def sample_batches(policy, tokens, *others):
        asked.append(len(tokens))
        raise StopIteration

    monkeypatch.setattr(labelling, "sample_batches", sample_batches)
    with pytest.raises(StopIteration):
        labelling.label_with(setting, None, None)
    assert asked == [prompts]


def test_a_harmless_request_is_asked_again_until_an_answer_complies(tmp_path, monkeypatch):
    """Only those without one are; the temperature is the one that is set, and no answer is used twice."""
    setting = open_setting(quick_preset(), tmp_path / "run")
    asked = {"bread": 1, "tea": 3, "rice": 9}  # which answer complies; there are four
    rows = [{"prompt": prompt, "rejected": "no"} for prompt in asked]
    task = dataclasses.replace(setting.task, requests=Dataset.from_list(rows))
    preset = dataclasses.replace(setting.preset, hh=HHConfig(temperature=0.4))
    setting = dataclasses.replace(setting, task=task, preset=preset)
    calls = []

    def answer(policy, task, prompts, seed, temperature):
        calls.append((prompts, temperature, seed))
        return [f"{'yes' if asked[prompt] == len(calls) else 'hm'} {prompt} {len(calls)}. And" for prompt in prompts]

    monkeypatch.setattr(labelling, "answer", answer)
    monkeypatch.setattr(labelling, "complies", lambda text: text.startswith("yes"))
    run = SimpleNamespace(folder=tmp_path, whole=lambda stage: False, finish=lambda *a, **b: None)
    monkeypatch.setattr(labelling, "whole_sentences", lambda text: text.removesuffix(" And"))
    found = labelling.answer_requests(dataclasses.replace(setting, run=run))
    assert [(row["prompt"], row["chosen"]) for row in found] == [("bread", "yes bread 1."), ("tea", "yes tea 3.")]
    assert [prompts for prompts, _, _ in calls] == [
        ["bread", "tea", "rice"],
        ["tea", "rice"],
        ["tea", "rice"],
        ["rice"],
    ]
    assert {t for _, t, _ in calls} == {0.4} and len({seed for _, _, seed in calls}) == 4


def test_pairs_that_people_chose_are_learned_from_as_they_chose_them(tmp_path, monkeypatch):
    """Some of them, as many as were asked for, and behind these the harmless requests; of the held-out ones all, with
    the probability of the choice that was made."""
    preset = dataclasses.replace(quick_preset(), n_pairs=3)
    setting = open_setting(preset, tmp_path / "run")
    asked = setting.task.prompts["prompt"]
    answers = ("hello !", "bye !", "mix the flour .", "go away .", "thanks !", "maybe later .")
    rows = [{"prompt": prompt, "chosen": answers[i], "rejected": answers[i - 1]} for i, prompt in enumerate(asked[:6])]
    heldout = [row | {"probability": 0.5 + 0.1 * i} for i, row in enumerate(rows[:2])]
    request = {"prompt": asked[6], "chosen": "mix the flour .", "rejected": "go away ."}
    monkeypatch.setattr(labelling, "answer_requests", lambda setting: [request])
    task = dataclasses.replace(
        setting.task, pairs=Dataset.from_list(rows[2:]), heldout_pairs=Dataset.from_list(heldout)
    )
    setting = dataclasses.replace(setting, task=task)
    seeds = []
    object.__setattr__(setting, "stage_seed", lambda name: seeds.append(name) or 0)
    train, measured, probabilities = labelling.collect_pairs(setting, None)

    def read(pairs):
        sides = ((getattr(pairs, side), getattr(pairs, f"{side}_mask")) for side in ("chosen", "rejected"))
        return list(zip(*(decode(task.tokenizer, *side) for side in sides), strict=True))

    def said(rows):
        return [(row["chosen"], row["rejected"]) for row in rows]

    written = [json.loads(line) for line in (tmp_path / "run" / "pairs.jsonl").read_text().splitlines()]
    assert written[3:] == [request] and len(set(said(written[:3]))) == 3
    assert all(row in rows[2:] for row in written[:3])
    assert read(train) == said(written) and read(measured) == said(rows[:2])
    assert probabilities.tolist() == pytest.approx([0.5, 0.6])

    drawn = set(seeds)
    monkeypatch.setattr(labelling, "sample_batches", lambda *_: SimpleNamespace())
    with pytest.raises(TypeError):  # the answers that these seeds are for have no tokens
        labelling.label_with(setting, None, None)
    assert len(seeds) > len(drawn) and not drawn & set(seeds[len(drawn) :])  # what is answered is drawn anew
