"""What a run is asked for is held against its bounds, its task, its data and its model before anything is written."""

import dataclasses
import math
import random
import time
from types import SimpleNamespace
from typing import Annotated, get_args, get_origin

import pytest
import torch
from datasets import Dataset
from transformers import BertConfig, BertLMHeadModel

from tests.runs import quick_flags, quick_preset, quick_settings, task_once
from tests.small_gpt2 import byte_tokenizer, reviews, small_gpt2
from week6.cli import main
from week6.machine.bounds import Bounds, check_value, fields_of
from week6.machine.checkpoint import RunError
from week6.machine.compute import using
from week6.run.models import PRESETS, new_policy
from week6.run.setting import (
    _check_predicts,
    check_model,
    check_preset,
    check_run,
    check_task,
    open_setting,
    preset_task,
    stages_of,
)
from week6.run.sweep import SweepConfig

NUMBERS = {name: hint for name, _, hint in fields_of(SweepConfig(quick_preset())) if "Bounds" in str(hint)}
"""Every number of every config, those of a sweep included, with its type."""
FLAGS = sorted(name.removeprefix("preset.") for name in NUMBERS if name.startswith("preset."))


def bounds_of(hint):
    """The bounds in the type of a field."""
    if get_origin(hint) is tuple:
        hint = get_args(hint)[0]
    (found,) = (x for x in get_args(hint) if isinstance(x, Bounds))
    return found


def outside(bounds, rng):
    """Numbers that do not belong, near the ends and far away, and some that are none."""
    step = 1 if bounds.whole else 1e-9
    near = [bounds.low if bounds.open in ("low", "both") else bounds.low - step]
    if math.isfinite(bounds.high):
        near.append(bounds.high if bounds.open in ("high", "both") else bounds.high + max(step, 1e-6 * bounds.high))
        near = [int(x) if bounds.whole else x for x in near]
    far = [bounds.low - rng.uniform(1, 1e6), -math.inf, math.inf, math.nan]
    return near + far if bounds.whole else [float(x) for x in near + far]


def inside(bounds, rng):
    high = bounds.high if math.isfinite(bounds.high) else 1e12
    if bounds.whole:
        return [bounds.low, int(high), *(rng.randint(bounds.low, int(high)) for _ in range(20))]
    ends = [x for x, side in ((bounds.low, "low"), (high, "high")) if bounds.open not in (side, "both")]
    return ends + [x for x in (rng.uniform(bounds.low, high) for _ in range(20)) if bounds.low < x < high]


def changed(preset, name, value):
    """The preset with the field "ppo.beta" or "width" changed."""
    part, _, field = name.rpartition(".")
    if part:
        return dataclasses.replace(preset, **{part: dataclasses.replace(getattr(preset, part), **{field: value})})
    return dataclasses.replace(preset, **{field: value})


def test_every_number_of_every_config_has_bounds():
    for name, value, _ in fields_of(SweepConfig(quick_preset())):
        numbers = value if isinstance(value, tuple) else [value]
        if any(isinstance(x, int | float) for x in numbers):
            assert name in NUMBERS, f"{name} may be anything"


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_outside_are_refused_and_numbers_inside_are_not(name):
    hint, rng = NUMBERS[name], random.Random(name)
    bounds, several = bounds_of(hint), get_origin(hint) is tuple
    for value in outside(bounds, rng):
        with pytest.raises(ValueError, match=f"{name}: got .*, expected a (finite|whole) number"):
            check_value(name, (value,) if several else value, hint)
    for value in inside(bounds, rng):
        check_value(name, (value,) if several else value, hint)


@pytest.mark.parametrize("name", FLAGS)
def test_a_flag_outside_ends_at_once_with_one_sentence_and_nothing_written(name, tmp_path, capsys):
    rng, bounds = random.Random(name), bounds_of(NUMBERS[f"preset.{name}"])
    value = rng.choice([x for x in outside(bounds, rng) if not bounds.whole or isinstance(x, int)])
    flag = f"--{name.replace('_', '-')}={value}"
    started = time.process_time()
    with quick_settings():
        code = main(["run", "--runs-dir", str(tmp_path / "runs"), *quick_flags(), flag])
    seconds = time.process_time() - started
    captured = capsys.readouterr()
    assert code == 2 and captured.out == "" and captured.err.count("\n") == 1 and seconds < 5
    assert f"{name}: got {value!r}, expected {bounds}" in captured.err
    assert not (tmp_path / "runs").exists()


TOGETHER = [
    ("ppo.target_kl=6 ppo.horizon=1.6", "ppo.horizon: got 1.6, expected more than 1.6, a fifth of the 8 answers"),
    ("ppo.target_kl=None ppo.horizon=99", "ppo.horizon: got 99.0 without target_kl, for which it is; give one, or"),
    ("lora.alpha=8", "lora.alpha: got 8.0 with lora.rank 0, which trains all weights; give a --lora.rank, or leave it"),
    ("lora.modules=attn", "lora.modules: got 'attn' with lora.rank 0"),
    ("heads=1 width=1", "width: got 1, expected a whole number from 2 to 65536"),
    ("ppo.minibatches=9", "ppo.minibatches: got 9, expected no more than the 8 answers of a step"),
    ("dpo.variant=ipo dpo.label_smoothing=0.1", "dpo.label_smoothing: got 0.1 with variant 'ipo', which has none"),
    ("hh.harmless=20", "hh.harmless: got 20 for task 'assistant', which has no conversations; choose preset gpt2-hh"),
    ("hh.judge=half", "hh.judge: got 'half' for task 'assistant', which has no conversations"),
    ("heads=3", "width: got 16, expected a multiple of heads = 3"),
    ("layers=1000 heads=64 width=65536", "layers, width: got 1000 and 65536, a model of"),
    ("positions=30", "max_new_tokens: got 24 and prompts of up to"),
    ("ppo.max_new_tokens=120", "ppo.max_new_tokens: got 120 and prompts of up to"),
    ("n_pairs=10000000", "n_pairs: got 20000000 answers of up to 24 tokens"),
    ("evaluation.best_of=1000 evaluation.best_of_answers=1000", "evaluation.best_of, best_of_answers: got 124000000"),
]


@pytest.mark.parametrize(("settings", "message"), TOGETHER)
def test_settings_that_do_not_fit_each_other(settings, message, tmp_path, capsys):
    flags = [f"--{word.replace('_', '-')}" for word in settings.split()]
    with quick_settings(), using(free_bytes=lambda: 8e9):
        code = main(["run", "--runs-dir", str(tmp_path / "runs"), *quick_flags(), *flags])
    assert code == 2 and message in capsys.readouterr().err and not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["layers", "heads", "width", "positions"])
def test_a_pretrained_model_has_its_own_size(name):
    """A size that is given would be ignored without a word."""
    preset = PRESETS["gpt2-cpu"]
    check_preset(preset)
    with pytest.raises(ValueError, match=f"^{name}: got 6 for preset 'gpt2-cpu', whose model has a size of its own"):
        check_preset(dataclasses.replace(preset, **{name: 6}))


def test_a_section_of_another_kind_is_named():
    with pytest.raises(ValueError, match="^ppo: got DPOConfig.*, expected a PPOConfig"):
        check_preset(dataclasses.replace(quick_preset(), ppo=quick_preset().dpo))


def test_a_minibatch_may_be_one_answer():
    quick = quick_preset()
    check_preset(changed(quick, "ppo.minibatches", quick.ppo.batch_size))


@pytest.mark.parametrize("field", ["data", "column", "gold", "ratings"])
def test_the_embedded_task_brings_what_others_are_given(field):
    with pytest.raises(ValueError, match=f"^{field}: got one for task 'assistant', which brings its own"):
        preset_task(dataclasses.replace(PRESETS["tiny"], **{field: "x"}))


@pytest.mark.parametrize("seed", [-1, 10**9 + 1, 1.5, True])
def test_a_seed_out_of_range(seed, tmp_path):
    with pytest.raises(ValueError, match="seed: got .*, expected a whole number from 0 to 1000000000"):
        open_setting(quick_preset(), tmp_path / "run", seed)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_within_their_bounds(name):
    check_preset(PRESETS[name])


@pytest.mark.parametrize(("split", "message"), [("pairs", "got no pairs"), ("heldout_pairs", "got no heldout pairs")])
def test_a_task_without_pairs_is_refused(split, message):
    task = task_once("assistant")
    rows = Dataset.from_dict({"prompt": ["a"], "chosen": ["b"], "rejected": ["c"]})
    task = dataclasses.replace(task, pairs=rows, heldout_pairs=rows)
    check_task(quick_preset(), task)
    with pytest.raises(ValueError, match=f"data: {message} for task 'assistant'"):
        check_task(quick_preset(), dataclasses.replace(task, **{split: rows.select([])}))


@pytest.fixture
def own(tmp_path):
    """A preset with a small model of one's own, and texts; the model's folder."""
    small_gpt2(tmp_path / "model")
    (tmp_path / "texts.txt").write_text("\n".join(reviews()))
    preset = dataclasses.replace(
        PRESETS["gpt2-cpu"], model=str(tmp_path / "model"), data=str(tmp_path / "texts.txt"), n_pairs=40
    )
    return preset, tmp_path / "model"


def test_a_model_that_cannot_continue_a_text(own):
    """A model that reads both ways has no causal mask to cache."""
    preset, folder = own
    n = len(byte_tokenizer())
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertLMHeadModel(BertConfig(vocab_size=n, **shape)).save_pretrained(folder)
    with pytest.raises(RunError, match=rf"--model {folder}: .+expected a causal language model"):
        check_run(preset, 0)


class Sure(torch.nn.Module):
    """Expects the padding token everywhere: every other one costs `nats`."""

    def __init__(self, nats, words):
        super().__init__()
        self.nats, self.words = nats, words

    def forward(self, input_ids, logits_to_keep, **_):
        logits = torch.zeros(len(input_ids), len(logits_to_keep), self.words)
        logits[..., 0] = self.nats
        return SimpleNamespace(logits=logits)


@pytest.mark.parametrize(("times", "message"), [(2.9, "predicts the same after every"), (3.1, "its loss on the data")])
def test_a_loss_of_three_times_a_guess_is_hopeless(times, message):
    task = task_once("assistant")
    guess = math.log(len(task.tokenizer))
    with pytest.raises(RunError, match=f"--model m: {message}") as error:
        _check_predicts("m", task, Sure(times * guess, len(task.tokenizer)))
    said = f"is {times * guess:.3g} nats a token, expected at most {3 * guess:.0f}, 3 times that of a guess"
    assert (said in str(error.value)) == (times > 3)


def test_the_longest_text_must_fit_the_positions(own):
    preset, _ = own
    task, policy = task_once("assistant"), small_positions(40)
    with pytest.raises(ValueError, match="demonstrations: got a text of 41 tokens, expected no more than the 40 posi"):
        check_model(quick_preset(), with_demonstration(task, 40 - 3), policy)
    check_model(quick_preset(), with_demonstration(task, 40 - 4), policy)


def small_positions(positions):
    return new_policy(dataclasses.replace(quick_preset(), positions=positions), task_once("assistant").tokenizer, 0)


def with_demonstration(task, words):
    """The task with one demonstration of so many words, and its three of a prompt, and prompts of three tokens."""
    prompt = "<|user|> hello <|assistant|>"
    few = Dataset.from_dict({"prompt": [prompt]})
    shown = Dataset.from_dict({"prompt": [prompt], "completion": [" ".join(["hello"] * words)]})
    return dataclasses.replace(task, prompts=few, heldout_prompts=few, demonstrations=shown)


def test_the_check_of_annotated_fields_is_no_empty_one():
    assert len(FLAGS) > 30 and all(get_origin(NUMBERS[name]) in (Annotated, tuple) for name in NUMBERS)


def test_a_stage_is_made_of_all_that_it_reads():
    """Of preset chat, which has them all: what is left out here is believed when what it was made of was made anew."""
    stages = stages_of(PRESETS["chat"])
    assert {name: set(depends.stages) for name, depends in stages.items()} == {
        "requests": set(),
        "sft": {"requests"},
        "pairs": {"requests", "sft"},
        "reward_model": {"sft", "pairs"},
        "answer_pairs": {"sft", "reward_model"},
        "ppo": {"sft", "reward_model"},
        "dpo": {"sft", "pairs", "answer_pairs"},
        "judge": set(),
        "evaluation": {"sft", "reward_model", "ppo", "dpo", "judge"},
    }
    labels = {f"preset.{name}" for name in ("n_pairs", "dpo.steps", "dpo.batch_size", "ppo.unfinished_penalty")}
    assert set(stages["answer_pairs"].settings) == labels  # of DPO's steps and batches: no more pairs than it will meet
    trained = {"sft": "sft", "reward_model": "reward", "ppo": "ppo", "dpo": "dpo", "judge": "reward"}
    assert all({f"preset.{own}", "preset.lora"} <= set(stages[name].settings) for name, own in trained.items())
