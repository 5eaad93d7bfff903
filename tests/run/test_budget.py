"""The budget: its counts are those of a real run, its operations those that PyTorch counts."""

import math
from collections import Counter, defaultdict
from inspect import signature
from unittest import mock

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPT2Config, GPT2LMHeadModel

from tests.runs import quick_preset, quick_run
from week6.log_probs import response_log_probs
from week6.machine.compute import inference_bytes, training_bytes
from week6.machine.memory import KEY_VALUE_CACHE
from week6.reward_model import RewardModel
from week6.run import budget
from week6.run.budget import SHAPES, T4, Shape, Work
from week6.run.evaluation import sample_batches
from week6.run.models import PRESETS
from week6.run.training import Run
from week6.tasks import load_task

GPT2 = SHAPES["gpt2"]
SMALL = Shape(3, 32, 211, 64, prompt=5, answer=7, heldout_prompts=1, answers_per_prompt=2)


def model(shape, **changes):
    config = GPT2Config(
        vocab_size=shape.vocabulary,
        n_positions=shape.positions,
        n_embd=shape.width,
        n_layer=shape.layers,
        n_head=2,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        **{"bos_token_id": 0, "eos_token_id": 0} | changes,
    )
    return GPT2LMHeadModel(config).eval()


def batch(shape, rows):
    tokens = [torch.randint(shape.vocabulary, (rows, n)) for n in (shape.prompt, shape.answer)]
    return [x for t in tokens for x in (t, torch.ones_like(t, dtype=torch.bool))]


def test_parameters_are_those_of_gpt2():
    with torch.device("meta"):
        real = model(GPT2)
    real.tie_weights()  # transformers 5.0 leaves it out on the meta device
    matrices = sum(p.numel() for p in real.parameters() if p.dim() == 2)
    assert GPT2.parameters == matrices == 124_318_464
    assert sum(p.numel() for p in real.parameters()) < 1.001 * matrices  # biases and norms
    assert (GPT2.blocks, GPT2.head) == (84_934_656, 38_597_376)


def test_operations_are_those_that_pytorch_counts():
    """Of matrix products, forward and with backward; attention's own, L / 6d of them, are left out on both sides."""
    policy, rows = model(SMALL), 4
    for part, backward in ((Work(scored=rows), False), (Work(trained=rows), True)):
        with FlopCounterMode(display=False) as counter:
            loss = response_log_probs(policy, *batch(SMALL, rows)).sum()
            if backward:
                loss.backward()
        counted = {str(op): n for op, n in counter.get_flop_counts()["Global"].items()}
        products = sum(n for op, n in counted.items() if op in ("aten.mm", "aten.addmm"))
        assert products == sum(budget.flops(part, SMALL))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        prompts, prompt_mask, responses, response_mask = batch(SMALL, rows)
        RewardModel(policy)(torch.cat([prompts, responses], 1), torch.cat([prompt_mask, response_mask], 1))
    head_of_reward = 2 * SMALL.width * rows
    assert counter.get_total_flops() - head_of_reward == pytest.approx(
        sum(budget.flops(Work(reward_scored=rows), SMALL)), rel=SMALL.row / (6 * SMALL.width) + 1e-9
    )


def test_rows_are_those_of_a_real_run(tmp_path):
    """Every stage of a small run: the rows that go through the models, with and without gradients, and the steps."""
    now, found = Counter(), defaultdict(Counter)
    forward, judge, finish, step = GPT2LMHeadModel.forward, RewardModel.forward, Run.finish, torch.optim.AdamW.step

    def watched_forward(self, *args, **options):
        rows = len(options["input_ids"])
        if not options["use_cache"]:
            now["trained" if torch.is_grad_enabled() else "scored"] += rows
        elif options[KEY_VALUE_CACHE] is None:
            now["sampled"] += rows
            now["batches"] += 1
        return forward(self, *args, **options)

    def watched_judge(self, tokens, mask):
        now["reward_trained" if torch.is_grad_enabled() else "reward_scored"] += len(tokens)
        return judge(self, tokens, mask)

    def watched_step(self, *args, **options):
        now["steps"] += 1
        return step(self, *args, **options)

    def watched_finish(self, stage, *args, **options):
        found[stage].update(now)
        now.clear()
        return finish(self, stage, *args, **options)

    with (
        mock.patch.object(GPT2LMHeadModel, "forward", watched_forward),
        mock.patch.object(RewardModel, "forward", watched_judge),
        mock.patch.object(torch.optim.AdamW, "step", watched_step),
        mock.patch.object(Run, "finish", watched_finish),
    ):
        quick_run(tmp_path / "run")
    heldout = len(load_task("assistant").heldout_prompts)
    shape = Shape(1, 16, 200, 128, prompt=12, answer=24, heldout_prompts=heldout, answers_per_prompt=2)
    expected = budget.stage_work(quick_preset(), shape)
    assert list(found) == list(expected)
    for stage, work in expected.items():
        assert found[stage] == {name: n for name, n in vars(work).items() if n}, stage


def test_large_batches_are_sampled_in_pieces():
    assert signature(sample_batches).parameters["batch_size"].default == budget.SAMPLE_BATCH == 512
    work = budget.stage_work(PRESETS["gpt2"], GPT2)
    assert work["pairs"].batches == 4 * 4 + 2 * 14  # 4 · 2,000 answers, and 2 · 7,000
    assert work["evaluation"].batches == 3 * 8 + 32  # 3 · 4,000, and 16,000


def test_seconds_by_pencil():
    """8 + 2 tokens, 1 layer, d = 1, V = 10: 2 · 12 · 10 operations in the blocks of a row, 2 · 10 · 2 in the head."""
    shape = Shape(1, 1, 10, 5, prompt=8, answer=2, heldout_prompts=1, answers_per_prompt=2)
    machine = budget.Machine("pencil", 240, 40, 10, utilisation=0.5, token_seconds=7, step_seconds=3, reserved=0)
    assert budget.seconds(Work(scored=1), shape, machine) == 2 + 2
    assert budget.seconds(Work(trained=1, steps=1), shape, machine) == 3 * (2 + 2) + 3
    assert budget.seconds(Work(reward_trained=1, steps=1), shape, machine) == 3 * 2 + 3
    # Sampling: 2 tokens wait for 7 s, and move 27 parameters of 8 bytes and a cache of 9 tokens of 4 bytes.
    assert budget.seconds(Work(sampled=1, batches=1), shape, machine) == 2 + 2 + 2 * 7 + 2 * (8 * 27 + 4 * 9) / 10
    flops = budget.stage_flops(PRESETS["gpt2"], GPT2)
    assert flops["sft"] == 600 * 32 * 3 * (2 * 84_934_656 * 56 + 2 * 38_597_376 * 48)
    assert list(flops) == ["sft", "pairs", "reward_model", "ppo", "dpo", "evaluation"]


def kept(shape):
    """Bytes that the forward pass of 4 rows keeps for the backward pass, without the weights."""
    policy = model(shape)
    weights = {p.untyped_storage().data_ptr() for p in policy.parameters()}
    tensors = []

    def keep(tensor):
        tensors.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        response_log_probs(policy, *batch(shape, 4))
    stored = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors}
    return sum(n for address, n in stored.items() if address not in weights)


def test_a_trained_model_takes_16_bytes_a_parameter():
    """Weights, gradients and the two moments of AdamW, each in four bytes; a frozen one its weights."""
    policy = model(SMALL)
    optimizer = torch.optim.AdamW(policy.parameters())
    response_log_probs(policy, *batch(SMALL, 2)).sum().backward()
    optimizer.step()
    moments = [x for state in optimizer.state.values() for x in state.values() if x.dim()]
    tensors = [x for p in policy.parameters() for x in (p, p.grad)] + moments
    per_parameter = sum(x.nbytes for x in tensors) / policy.num_parameters()
    assert per_parameter == 16
    memory = budget.stage_bytes(PRESETS["gpt2"], SMALL, T4)
    assert [memory["sft"][0], memory["pairs"][1]] == [per_parameter * SMALL.parameters, 4 * SMALL.parameters]
    assert [len(memory["ppo"]), memory["ppo"][0], memory["ppo"][1]] == [5, memory["sft"][0], 2 * memory["pairs"][1]]
    row, gpt2 = budget.training_row_bytes(SMALL), PRESETS["gpt2"]
    rows = [gpt2.sft.batch_size, gpt2.ppo.batch_size / gpt2.ppo.minibatches, 2 * gpt2.dpo.batch_size]
    assert [memory[stage][3] / row for stage in ("sft", "ppo", "dpo")] == rows


def test_a_block_keeps_28_numbers_per_token_and_unit_of_width():
    deep, shallow = (Shape(n, 96, 50, 64, 8, 48, heldout_prompts=1, answers_per_prompt=2) for n in (3, 1))
    per_row = (kept(deep) - kept(shallow)) / 4
    assert per_row == pytest.approx(
        budget.training_row_bytes(deep) - budget.training_row_bytes(shallow), rel=0.02
    )  # statistics of the norms and of attention


def test_memory_of_a_row_is_what_parts_are_sized_by():
    with torch.device("meta"):
        real = model(GPT2)
    assert budget.training_row_bytes(GPT2) == training_bytes(real, GPT2.row, GPT2.answer)
    assert budget.training_row_bytes(GPT2, head=False) == training_bytes(real, GPT2.row, 0)
    assert budget.scoring_row_bytes(GPT2) == inference_bytes(real, GPT2.row, GPT2.answer)


def test_preset_gpt2_fits_a_t4():
    """In less than 45 minutes and 12 GB, as docs/budget.md says."""
    work = budget.stage_work(PRESETS["gpt2"], GPT2)
    assert sum(budget.seconds(part, GPT2, T4) for part in work.values()) < 45 * 60
    memory = budget.stage_bytes(PRESETS["gpt2"], GPT2, T4)
    assert list(memory) == list(work) and max(map(sum, memory.values())) < 12e9
    assert GPT2.answer == PRESETS["gpt2"].ppo.max_new_tokens
    assert (GPT2.layers, GPT2.width, GPT2.positions) == (
        PRESETS["gpt2"].layers,
        PRESETS["gpt2"].width,
        PRESETS["gpt2"].positions,
    )


def test_the_command_prints_the_table_of_a_known_preset(capsys):
    assert budget.main(["gpt2"]) == 0
    printed = capsys.readouterr().out
    stages = budget.stage_work(PRESETS["gpt2"], GPT2)
    seconds = {
        line.split(" | ")[0].strip("| "): float(line.split(" | ")[-1].strip("| "))
        for line in printed.splitlines()
        if line.count("|") == 13 and "stage" not in line and "---" not in line
    }
    assert list(seconds) == [*stages, "all"]
    assert math.isclose(sum(seconds[name] for name in stages), seconds["all"], abs_tol=len(stages) / 2)
    assert f"In all {seconds['all'] / 60:.0f}" in " ".join(printed.split())
    for words in ([], ["tiny"], ["gpt2", "gpt2"]):
        assert budget.main(words) == 2 and "expected one of gpt2" in capsys.readouterr().err
