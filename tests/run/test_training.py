"""A run's folder: who may open it, what survives a kill, what a resumed stage repeats."""

import dataclasses
import json
import math
from itertools import islice

import pytest
import torch
from torch import nn

from tests.tiny import ragged, tiny_gpt2
from week6.machine.checkpoint import RunError, load_tensors, save_checkpoint
from week6.machine.compute import compute, using
from week6.machine.optim import descend, make_optimizer
from week6.machine.validate import UnusableError
from week6.ppo import AdaptiveKL
from week6.run import training
from week6.run.training import MetricsWriter, Run, Usage, run_stage, stage_seed, to_json
from week6.sequences import Demonstrations
from week6.sft import SFTConfig, train_sft


@dataclasses.dataclass
class Inner:
    beta: float = 0.1


@dataclasses.dataclass
class Config:
    seed: int = 0
    ppo: Inner = dataclasses.field(default_factory=Inner)


def snapshot(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- opening ---------------------------------------------------------------------------------------------------------


def test_new_run_writes_its_configuration(tmp_path):
    run = Run.open(tmp_path / "a", Config(seed=3))
    assert json.loads((run.folder / "config.json").read_text()) == {"seed": 3, "ppo": {"beta": 0.1}}


def test_existing_run_needs_resume_and_is_untouched(tmp_path):
    Run.open(tmp_path / "a", Config())
    before = snapshot(tmp_path)
    with pytest.raises(RunError, match="--resume.*another name"):
        Run.open(tmp_path / "a", Config())
    assert snapshot(tmp_path) == before
    Run.open(tmp_path / "a", Config(), resume=True)


def test_other_configuration_names_every_difference(tmp_path):
    Run.open(tmp_path / "a", Config())
    before = snapshot(tmp_path)
    with pytest.raises(RunError) as error:
        Run.open(tmp_path / "a", Config(seed=1, ppo=Inner(0.2)), resume=True)
    assert "seed: 0 in the folder, 1 asked for" in str(error.value)
    assert "ppo.beta: 0.1 in the folder, 0.2 asked for" in str(error.value)
    assert snapshot(tmp_path) == before


def test_foreign_folder_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match="no config.json"):
        Run.open(tmp_path, Config(), resume=True)
    with pytest.raises(RunError, match="no config.json"):
        Run.open(tmp_path, Config())
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_resume_of_a_run_killed_before_its_first_file_starts_it(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / ".config.json.tmp").write_text('{"se')
    assert Run.open(folder, Config(), resume=True).finished == {}


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot make this folder"):
        Run.open(tmp_path / "file" / "a", Config())


def test_damaged_configuration_is_reported(tmp_path):
    Run.open(tmp_path / "a", Config())
    (tmp_path / "a" / "config.json").write_text('{"seed": 0, "pp')
    with pytest.raises(RunError, match="config.json is damaged"):
        Run.open(tmp_path / "a", Config(), resume=True)


def test_finished_stages_are_remembered(tmp_path):
    run = Run.open(tmp_path / "a", Config())
    usage = Usage()
    usage.tokens = 100
    usage.tick()
    run.finish("sft", usage, {"accuracy": 0.5})
    again = Run.open(tmp_path / "a", Config(), resume=True)
    assert again.result("sft") == {"accuracy": 0.5}
    took = again.finished["sft"]["usage"]
    assert took["tokens_per_second"] == pytest.approx(100 / took["seconds"]) and took["peak_memory_mb"] > 1


def test_json_has_no_nan():
    assert json.loads(to_json({"a": math.nan, "b": [math.inf, 1.5], "c": (True, "x", None)})) == {
        "a": None,
        "b": [None, 1.5],
        "c": [True, "x", None],
    }


def test_stage_seeds_differ():
    seeds = {stage_seed(seed, stage) for seed in range(50) for stage in ("sft", "pairs", "ppo", "dpo")}
    assert len(seeds) == 200


class Clock:
    """In the place of the module `time`; the test moves it."""

    now = 100.0

    def perf_counter(self):
        return self.now


def test_usage_adds_up_what_lies_between_ticks_and_keeps_the_largest_memory(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(training, "time", clock)
    assert Usage().summary() == {"seconds": 0.0, "tokens_per_second": None, "peak_memory_mb": 0.0}
    usage = Usage(seconds=5.0, peak_memory_mb=300.0)
    for now, held, seconds, peak in (
        (103.0, 0.2e9, 8.0, 300.0),
        (110.0, 0.7e9, 15.0, 700.0),
        (110.5, 0.4e9, 15.5, 700.0),
    ):
        clock.now = now
        monkeypatch.setattr(training, "peak_memory", lambda held=held: held)
        usage.tick()
        assert (usage.seconds, usage.peak_memory_mb) == (seconds, peak)
    usage.tokens = 31
    assert usage.summary() == {"seconds": 15.5, "tokens_per_second": 2.0, "peak_memory_mb": 700.0}


def test_usage_without_tokens_has_no_rate():
    assert Usage(seconds=2.0).summary()["tokens_per_second"] is None


# --- metrics ---------------------------------------------------------------------------------------------------------


def test_metrics_keep_every_digit(tmp_path):
    writer = MetricsWriter(tmp_path / "m.csv", 0)
    writer.write({"step": 0, "loss": 0.1 + 0.2, "kl": math.nan})
    writer.close()
    header, row = (tmp_path / "m.csv").read_text().splitlines()
    step, loss, kl = row.split(",")
    assert header == "step,loss,kl" and step == "0" and float(loss) == 0.1 + 0.2 and math.isnan(float(kl))


@pytest.mark.parametrize("tail", ["", "2,0.3\n", "2,0.", "2,0.3\n3,0.4\n4,"])
def test_metrics_after_the_checkpoint_are_dropped(tmp_path, tail):
    path = tmp_path / "m.csv"
    path.write_text("step,loss\n0,0.1\n1,0.2\n" + tail)
    writer = MetricsWriter(path, 2)
    writer.write({"step": 2, "loss": 9.0})
    writer.close()
    assert path.read_text() == "step,loss\n0,0.1\n1,0.2\n2,9.0\n"


def test_metrics_of_a_stage_without_checkpoint_start_anew(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text("step,loss\n0,0.1\n")
    MetricsWriter(path, 0).close()
    assert path.read_text() == ""


@pytest.mark.parametrize("content", [None, "step,loss\n0,0.1\n", "step,loss\n0,0.1\n1,0."])
def test_metrics_shorter_than_the_checkpoint_are_an_error(tmp_path, content):
    path = tmp_path / "m.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(RunError, match="expected at least the 2 of the checkpoint"):
        MetricsWriter(path, 2)
    assert not path.exists() if content is None else path.read_text() == content


def test_metrics_columns_may_not_change(tmp_path):
    writer = MetricsWriter(tmp_path / "m.csv", 0)
    writer.write({"step": 0, "loss": 1.0})
    with pytest.raises(ValueError, match="columns"):
        writer.write({"step": 1, "kl": 1.0})
    writer.close()


def test_metrics_on_a_full_disk(tmp_path):
    writer = MetricsWriter(tmp_path / "m.csv", 0)
    writer.close()
    writer._file = open("/dev/full", "wb")
    with pytest.raises(RunError, match="no disk space"):
        writer.write({"step": 0, "loss": 1.0})


# --- a stage ---------------------------------------------------------------------------------------------------------


class Interrupted(Exception):
    """Stands for a kill between two steps."""


def noisy_descent(module, optimizer, controller, start, stop_at=None, total=20):
    """A loop whose every step depends on the weights, the moments, β and the step's own random numbers."""
    for step in range(start, total):
        if step == stop_at:
            raise Interrupted
        target = torch.randn(4, generator=torch.Generator().manual_seed(step))
        loss = controller.beta * (module(torch.ones(1, 4)) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        controller.update(kl=3.0 + step % 3, n_episodes=10)
        yield {"step": step, "loss": loss.item(), "beta": controller.beta, "tokens": 4}


def new_parts():
    torch.manual_seed(0)
    module = nn.Linear(4, 4)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.05)
    return module, optimizer, AdaptiveKL(0.2, 2.0, 100)


def drive(run, stop_at=None):
    module, optimizer, controller = new_parts()
    usage = run_stage(
        run,
        "toy",
        lambda start: noisy_descent(module, optimizer, controller, start, stop_at),
        20,
        module,
        optimizer,
        controller,
    )
    return module, controller, usage


@pytest.mark.parametrize("stops", [[1], [7], [19], [3, 4, 12]])
def test_interrupted_stage_ends_with_the_same_numbers(tmp_path, monkeypatch, stops):
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    whole = Run.open(tmp_path / "whole", Config())
    module, controller, usage = drive(whole)
    parts = Run.open(tmp_path / "parts", Config())
    for stop in stops:
        with pytest.raises(Interrupted):
            drive(parts, stop)
    again, again_controller, again_usage = drive(parts)
    assert torch.equal(module.weight, again.weight) and torch.equal(module.bias, again.bias)
    assert controller.beta == again_controller.beta
    assert whole.metrics_path("toy").read_bytes() == parts.metrics_path("toy").read_bytes()
    assert usage.tokens == again_usage.tokens == 80


def test_checkpoints_are_rare_by_default(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(training, "save_checkpoint", lambda *arguments: saved.append(arguments[3]["step"]))
    drive(Run.open(tmp_path / "a", Config()))
    assert saved == [20]


def test_checkpoints_take_a_twentieth_of_the_time(tmp_path, monkeypatch):
    """A step takes a second, a checkpoint two: the first comes after ten, the others forty behind the one before."""
    clock, saved = Clock(), []
    monkeypatch.setattr(training, "time", clock)
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 10.0)
    monkeypatch.setattr(Clock, "now", 0.0)

    def save(path, module, optimizer, state, tag):
        saved.append((state["step"], state["seconds"]))
        clock.now += 2

    def loop(start):
        for step in range(100):
            clock.now += 1
            yield {"step": step}

    monkeypatch.setattr(training, "save_checkpoint", save)
    module, optimizer, _ = new_parts()
    run_stage(Run.open(tmp_path / "a", Config()), "toy", loop, 100, module, optimizer)
    assert saved == [(11, 11.0), (52, 54.0), (93, 97.0), (100, 106.0)]


def test_finished_stage_is_loaded_and_not_repeated(tmp_path):
    run = Run.open(tmp_path / "a", Config())
    module, _, usage = drive(run)
    fresh, optimizer, controller = new_parts()

    def loop(start):
        raise AssertionError("the loop of a finished stage was started")

    again = run_stage(run, "toy", loop, 20, fresh, optimizer, controller)
    assert torch.equal(fresh.weight, module.weight) and again.tokens == usage.tokens
    assert again.seconds >= usage.seconds


def test_numbers_that_cannot_be_learned_from_stop_the_stage(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    run = Run.open(tmp_path / "a", Config())
    module, optimizer, controller = new_parts()

    def loop(start):
        yield from noisy_descent(module, optimizer, controller, start, total=5)
        raise error

    error = UnusableError("rewards: got 3 NaN values, expected numbers")
    with pytest.raises(RunError, match="stage toy stopped at step 5: rewards: got 3 NaN"):
        run_stage(run, "toy", loop, 20, module, optimizer, controller)
    assert len(run.metrics("toy")) == 5
    assert run.checkpoint("toy").exists()
    error = ValueError("zip() argument 2 is shorter than argument 1")  # a defect is not told as bad input
    with pytest.raises(ValueError, match="zip"):
        run_stage(run, "toy", loop, 20, module, optimizer, controller)


@pytest.mark.parametrize("state", [{"step": -1}, {"step": 21}, {"step": 2.5}, {"seconds": 1.0}])
def test_a_checkpoint_of_a_step_that_is_none(tmp_path, state):
    run = Run.open(tmp_path / "a", Config())
    module, optimizer, controller = new_parts()
    save_checkpoint(run.checkpoint("toy"), module, optimizer, state, run.tag(run.checkpoint("toy")))
    with pytest.raises(RunError, match="toy.safetensors is damaged: it is of step .*, expected 1 to 20; delete it"):
        run_stage(run, "toy", lambda start: iter(()), 20, module, optimizer, controller)


def test_versions_and_device():
    assert set(training.versions()) == {"python", "torch", "transformers", "datasets", "safetensors"}
    assert training.choose_device().type == ("cuda" if torch.cuda.is_available() else "cpu")


# --- elsewhere -------------------------------------------------------------------------------------------------------


def scaled_descent(module, optimizer, start, stop_at=None, total=6):
    """A loop in which the loss scale halves now and then."""
    for step in range(start, total):
        if step == stop_at:
            raise Interrupted
        loss = (module(torch.ones(1, 4)) - step).square().mean()
        descend(loss, module, optimizer)
        if step % 2:
            compute().scaler.update(compute().scaler.get_scale() / 2)
        yield {"step": step, "loss": loss.item()}


def drive_scaled(run, stop_at=None):
    module, optimizer, _ = new_parts()
    with using(dtype=torch.float16) as here:
        here.restart_scaler({"scale": 4.0})  # of another stage
        run_stage(run, "toy", lambda start: scaled_descent(module, optimizer, start, stop_at), 6, module, optimizer)
        return module.weight.detach(), here.scaler_state()


def test_the_loss_scale_goes_on_where_it_was(tmp_path, monkeypatch):
    """Else every resumed stage would overflow again, and drop what it had learned of its gradients' size."""
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    whole = drive_scaled(Run.open(tmp_path / "whole", Config()))
    parts = Run.open(tmp_path / "parts", Config())
    for stop in (2, 5):
        with pytest.raises(Interrupted):
            drive_scaled(parts, stop)
    weight, state = drive_scaled(parts)
    assert torch.equal(weight, whole[0]) and state == whole[1] == {"scale": 2.0**13, "scale_used": 6}


def sft_stage(run, dtype, last=24, steps=24):
    """SFT of a small GPT-2 in one precision, up to a checkpoint after `last` of its steps."""
    policy = tiny_gpt2(scale=0.2, dtype=torch.float32)
    data = Demonstrations(*ragged([1, 2, 3, 2] * 4, [1, 5, 3, 4] * 4))
    optimizer = make_optimizer(policy, 5e-3)

    def loop(start):
        return islice(train_sft(policy, optimizer, data, SFTConfig(steps, 8, 5e-3), 3, start), last - start)

    with using(dtype=dtype):
        run_stage(run, "sft", loop, last, policy, optimizer)
    return torch.cat([p.detach().flatten() for p in policy.parameters()]), run.metrics("sft")["loss"]


@pytest.mark.parametrize("first", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("second", [torch.float32, torch.bfloat16, torch.float16])
def test_a_stage_goes_on_in_another_precision(first, second, tmp_path):
    """Half-way in one, then in the other: near the end of an uninterrupted fp32 stage, and with all its metrics.

    bf16 rounds to 3 digits. Adam's step does not depend on a gradient's length but on its sign, which rounding may
    turn where it is near 0: weights then differ by up to a step, a tenth of the way they went; losses by 0.02 nats.
    """
    weights, losses = sft_stage(Run.open(tmp_path / "whole", Config()), torch.float32)
    begin = torch.cat([p.detach().flatten() for p in tiny_gpt2(scale=0.2, dtype=torch.float32).parameters()])
    run = Run.open(tmp_path / "parts", Config())
    sft_stage(run, first, last=12)
    tensors, state = load_tensors(run.checkpoint("sft"))
    assert {x.dtype for x in tensors.values()} == {torch.float32} and state["step"] == 12
    data = run.checkpoint("sft").read_bytes()
    assert not any(name in data for name in (b"cpu", b"cuda", b"bfloat16", b"float16"))
    found, found_losses = sft_stage(run, second)
    assert len(found_losses) == len(losses) == 24
    assert (found_losses - losses).abs().max() < 0.02 and losses.iloc[-1] < losses.iloc[0] - 0.5
    assert (found - weights).norm() < 0.1 * (weights - begin).norm()
    if first == second == torch.float32:
        assert torch.equal(found, weights)
