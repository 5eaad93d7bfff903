"""Precision, parts and processes change how something is computed, never what."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tests.methods import METHODS, answers_of, base, largest_difference, log_probs_of, sgd, steps_of
from tests.tiny import ragged, tiny_gpt2
from week6 import ppo
from week6.machine import compute as module
from week6.machine.compute import (
    MEMORY_SHARE,
    compute,
    every_process,
    in_parts,
    inference_bytes,
    main_process,
    training_bytes,
    using,
)
from week6.machine.optim import descend
from week6.ppo import PolicyWithValue
from week6.reward_model import RewardModel, score
from week6.sampling import sample
from week6.sequences import Demonstrations, Rollout

HALF = [torch.bfloat16, torch.float16]
ERROR = {torch.bfloat16: 2**-8, torch.float16: 2**-11}
"""Relative rounding error of one operation."""


# --- precision -------------------------------------------------------------------------------------------------------


def test_on_a_cpu_everything_is_fp32():
    here = compute()
    assert (here.device.type, here.dtype, here.rank, here.processes) == ("cpu", torch.float32, 0, 1)
    assert here.is_main and not here.scaler.is_enabled() and here.scaler_state() == {}
    assert 0 < here.free_bytes() < math.inf


@pytest.mark.parametrize("bf16, dtype", [(True, torch.bfloat16), (False, torch.float16)])
def test_a_gpu_chooses_the_precision_that_it_has(bf16, dtype, monkeypatch):
    """A T4 only emulates bf16, which is slower than fp32."""
    state = SimpleNamespace(device=torch.device("cuda", 1), process_index=1, num_processes=2)
    asked = []
    monkeypatch.setattr(module, "PartialState", lambda cpu: asked.append(cpu) or state)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16 or including_emulation)
    monkeypatch.setattr(torch.amp, "GradScaler", lambda device, *_, enabled: SimpleNamespace(is_enabled=lambda: False))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 9000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 500)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 200)
    here = module._find()
    assert here.dtype == dtype and here.device == torch.device("cuda:1") and (here.rank, here.processes) == (1, 2)
    assert not here.is_main and asked == [False]
    assert here.free_bytes() == 1300  # what torch has kept and does not use is free too


@pytest.mark.parametrize("dtype", HALF)
def test_log_probs_are_fp32_and_near_those_of_fp32(dtype):
    """Two blocks of some ten roundings each, whose errors add up as a random walk; weights of size 0.25."""
    model = base()
    expected = log_probs_of(model)
    with using(dtype=dtype):
        found = log_probs_of(model)
    assert found.dtype == torch.float32
    difference = (found - expected).abs().max().item()
    assert 0 < difference < 10 * ERROR[dtype]


@pytest.mark.parametrize("dtype", HALF)
def test_the_head_is_computed_in_fp32(dtype):
    """Logits near −100, as GPT-2 has them, have a spacing of 0.5 in bf16 and of 0.06 in fp16."""
    model = base()
    expected = log_probs_of(model)
    with torch.no_grad():  # shift all logits by −100: the softmax does not see it
        model.transformer.ln_f.bias[0] += 100.0
        model.transformer.wte.weight[:, 0] = -1.0
        expected = log_probs_of(model)
    with using(dtype=dtype):
        found = log_probs_of(model)
        rollout = sample(model, *ragged([1, 2, 3], [1] * 3)[:2], 6, generator=torch.Generator().manual_seed(0))
        again = log_probs_of(model, rollout)
    assert (found - expected).abs().max() < 10 * ERROR[dtype]
    # Sampled and scored by other shapes of the same product: only the inner layers may round differently.
    assert (rollout.log_probs - again).abs().max() < 10 * ERROR[dtype]
    assert model.lm_head(torch.zeros(1, 16)).dtype == torch.float32 and "forward" not in vars(model.lm_head)


@pytest.mark.parametrize("dtype", HALF)
def test_values_and_rewards_are_near_those_of_fp32(dtype):
    torch.manual_seed(0)
    actor, reward_model = PolicyWithValue(base()), RewardModel(base())
    nn.init.normal_(actor.value_head.weight)
    answers = answers_of()
    zeros = torch.zeros(answers.responses.shape)
    rollout = Rollout(**vars(answers), log_probs=zeros, finished=torch.ones(len(answers), dtype=torch.bool))
    expected = *actor(rollout), score(reward_model, answers)
    with using(dtype=dtype):
        found = *actor(rollout), score(reward_model, answers)
    for x, y in zip(found, expected, strict=True):
        assert x.dtype == torch.float32
        assert 0 < (x - y).abs().max() < 20 * ERROR[dtype]  # a hidden vector of length 4 times weights of length 4


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", HALF)
def test_every_method_learns_nearly_the_same(method, dtype, monkeypatch):
    """PPO without its decisions, which the least rounding can turn: which token is drawn, which ratio is clipped."""
    right, drawn = ppo.sample, []

    def draw(*arguments):
        drawn.append((right(*arguments), arguments[-1].get_state()))
        return drawn[-1][0]

    def draw_the_same(model, *arguments):
        rollout, state = drawn.pop(0)
        arguments[-1].set_state(state)
        return replace(rollout, log_probs=log_probs_of(model, rollout).detach())

    monkeypatch.setattr(ppo, "sample", draw)
    expected_rows, expected = steps_of(method, clip=9.0)
    monkeypatch.setattr(ppo, "sample", draw_the_same)
    with using(dtype=dtype):
        rows, weights = steps_of(method, clip=9.0)
    for name in {"loss", "score", "kl", "value_loss"} & rows[0].keys():
        assert rows[0][name] == pytest.approx(expected_rows[0][name], rel=5 * ERROR[dtype], abs=5 * ERROR[dtype])
    for name, x in weights.items():
        if name.startswith("tokens"):
            assert torch.equal(x, expected[name])
        else:  # a step goes 0.05 far
            assert x.dtype == torch.float32 and (x - expected[name]).abs().max() < 0.05 * 10 * ERROR[dtype], name


def test_scale_and_its_age_are_kept_and_restored():
    with using(dtype=torch.float16) as here:
        assert here.scaler_state() == {"scale": 2.0**16, "scale_used": 0}
        here.restart_scaler({"scale": 8.0, "scale_used": 1999.0, "step": 3.0})
        assert here.scaler_state() == {"scale": 8.0, "scale_used": 1999}
        model = nn.Linear(2, 1)
        descend(model.weight.sum(), model, sgd(model))
        assert here.scaler_state() == {"scale": 16.0, "scale_used": 0}  # it doubles after 2000 steps
        here.restart_scaler({})
        assert here.scaler_state() == {"scale": 2.0**16, "scale_used": 0}
    assert compute().scaler_state() == {}


# --- parts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("most_rows", [1, 3])
@pytest.mark.parametrize("method", METHODS)
def test_parts_learn_the_same(method, most_rows):
    """Ragged rows: a part's mean weighted by its rows instead of its tokens would differ in the first digit."""
    whole = steps_of(method)
    with using(most_rows=most_rows):
        assert largest_difference(whole, steps_of(method)) < 1e-6  # the order of sums in fp32


def no_room_above(rows):
    """Makes a model run out of memory on more rows; `seen` collects the sizes of the batches that it was given."""
    seen = []

    def check(module, args, kwargs):
        seen.append(len(kwargs["input_ids"]))
        if seen[-1] > rows:
            raise torch.OutOfMemoryError(f"no room for {seen[-1]} rows")

    def prepare(model):
        (getattr(model, "trunk", model)).register_forward_pre_hook(check, with_kwargs=True)

    return prepare, seen


@pytest.mark.parametrize("method", METHODS)
def test_no_step_and_no_answer_is_lost_when_memory_runs_out(method):
    """4 rows are room for 2 pairs. What failed once is not tried again."""
    whole = steps_of(method)
    prepare, seen = no_room_above(4)
    with using(most_rows=math.inf):
        assert largest_difference(whole, steps_of(method, prepare=prepare)) < 1e-6
    failed = [i for i, rows in enumerate(seen) if rows > 4]
    if method != "one_pair":  # has room at once
        assert failed and failed[-1] <= 2 and len(seen) > 6


@pytest.mark.parametrize("method", ["sft", "dpo", "ppo"])
def test_a_row_that_never_fits_is_one_sentence(method):
    prepare, _ = no_room_above(0)
    with using(most_rows=math.inf), pytest.raises(ValueError, match="^memory: a single row does not fit .* expected"):
        steps_of(method, prepare=prepare)


class TestParts:
    def ranges(self, n, row_bytes=1.0, most_rows=math.inf, **changes):
        with using(**{"free_bytes": lambda: math.inf, **changes}) as here:
            return [(s.start, s.stop) for s in here.parts(lambda part: part, n, row_bytes, most_rows)]

    def test_everything_at_once_where_it_fits(self):
        assert self.ranges(5) == [(0, 5)]

    def test_as_many_rows_as_fit_the_free_memory(self):
        assert 0.5 < MEMORY_SHARE < 1  # most of it, with room for what the estimate leaves out
        free = 30 / MEMORY_SHARE
        assert self.ranges(7, 10.0, free_bytes=lambda: free + 1) == [(0, 3), (3, 6), (6, 7)]
        assert self.ranges(2, 1e9, free_bytes=lambda: free) == [(0, 1), (1, 2)]  # the estimate may be too high

    def test_never_more_rows_than_a_batch(self):
        assert self.ranges(5, most_rows=2) == [(0, 2), (2, 4), (4, 5)]
        assert self.ranges(5, most_rows=2, most_bytes=1.0) == [(i, i + 1) for i in range(5)]

    @pytest.mark.parametrize("n", [0, 1, 2, 3, 7, 12])
    @pytest.mark.parametrize("processes", [1, 2, 3])
    def test_all_processes_together_take_every_row_once(self, n, processes):
        shares = [self.ranges(n, most_rows=2, rank=rank, processes=processes) for rank in range(processes)]
        rows = [i for share in shares for start, stop in share for i in range(start, stop)]
        assert rows == list(range(n))
        sizes = [sum(stop - start for start, stop in share) for share in shares]
        assert max(sizes) - min(sizes) <= 1

    def test_half_is_tried_from_the_start_and_remembered(self):
        events = []

        def work(part):
            events.append((part.start, part.stop))
            if part.stop - part.start > 3:
                raise torch.OutOfMemoryError
            return part.start

        with using(free_bytes=lambda: math.inf) as here:
            assert here.parts(work, 8, 10.0, start=lambda: events.append("start")) == [0, 2, 4, 6]
            first = ["start", (0, 8), "start", (0, 4), "start", (0, 2), (2, 4), (4, 6), (6, 8)]
            assert events == first
            here.parts(work, 4, 10.0)
            assert events == [*first, (0, 2), (2, 4)]
            assert [part.stop for part in here.parts(lambda part: part, 5, 5.0)] == [4, 5]  # rows half as large

    def test_the_memory_of_a_cpu_runs_out_in_other_words(self):
        def work(part):
            if part.stop - part.start > 1:
                torch.empty(2**60)
            return 1

        with using(free_bytes=lambda: math.inf) as here:
            assert here.parts(work, 3, 1.0) == [1, 1, 1]

    def test_other_errors_are_not_taken_for_a_lack_of_memory(self):
        def work(part):
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

        with using() as here, pytest.raises(RuntimeError, match="mat1"):
            here.parts(work, 3, 1.0)


def test_in_parts_joins_rows_of_different_widths():
    answers = answers_of(5)

    def widest(part):
        longest = int(part.response_mask.sum(-1).max())
        return part.responses[:, :longest], part.prompts.sum(-1)

    whole = in_parts(widest, answers, base())
    with using(most_rows=2):
        tokens, sums = in_parts(widest, answers, base())
    assert torch.equal(tokens, whole[0] * answers.response_mask) and torch.equal(sums, whole[1])
    assert len(tokens) == 5


@pytest.mark.parametrize("layers, width, vocab, columns", [(2, 32, 50, 20), (3, 64, 50, 30), (1, 16, 4000, 20)])
def test_the_estimate_is_near_what_training_keeps(layers, width, vocab, columns):
    """Within a factor of two of the bytes that autograd saves in fp32; the gradients of the logits come on top."""
    model = tiny_gpt2(vocab=vocab, layers=layers, width=width, dtype=torch.float32)
    rows, answer = 8, columns // 2
    tokens = torch.ones(rows, columns - answer, dtype=torch.long), torch.ones(rows, answer, dtype=torch.long)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def note(x):
        storage = x.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes(), storage  # held, so that no other takes its place
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        log_probs_of(model, Demonstrations(tokens[0], tokens[0] > 0, tokens[1], tokens[1] > 0))
    measured = (sum(size for size, _ in kept.values()) + 4 * rows * answer * vocab) / rows
    estimate = training_bytes(model, columns, answer)
    assert 0.5 < estimate / measured < 3
    assert inference_bytes(model, columns, 1) < estimate / 5


# --- processes -------------------------------------------------------------------------------------------------------


def test_one_process_does_everything_itself():
    assert every_process(lambda: 7) == [7] and main_process(lambda: 8) == 8
    with pytest.raises(KeyError, match="own"):
        every_process(lambda: {}["own"])


def test_using_ends_where_it_began():
    before = compute()
    with pytest.raises(KeyError), using(dtype=torch.bfloat16) as inner:
        assert compute() is inner and inner.dtype == torch.bfloat16
        raise KeyError
    assert compute() is before and before.dtype == torch.float32
