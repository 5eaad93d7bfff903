"""Several processes share the work of every batch, and the numbers are those of one process."""

import json
import multiprocessing
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import week6
from tests.methods import METHODS, largest_difference, steps_of
from tests.runs import finished_run, quick_flags, quick_settings
from week6.cli import main
from week6.machine.checkpoint import load_tensors
from week6.machine.compute import compute, every_process, main_process
from week6.run.training import Run

LIMIT = 100.0
"""Seconds after which processes are said to wait for ever; alone on the machine they take ten."""
# Children come from a server that has imported everything once.
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["tests.runs", "tests.methods"])


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def child(rank, port, work, arguments):
    """What a launcher does: tell the process who it is."""
    os.environ |= {
        "RANK": f"{rank}", "LOCAL_RANK": f"{rank}", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    torch.set_num_threads(1)
    sys.exit(work(*arguments))


def two_processes(work, *arguments):
    """Exit codes of two processes that do the same work."""
    port, started = free_port(), time.monotonic()
    children = [context.Process(target=child, args=(rank, port, work, arguments)) for rank in range(2)]
    for process in children:
        process.start()
    try:
        for process in children:
            process.join(max(0.0, LIMIT - (time.monotonic() - started)))
        return [process.exitcode for process in children]
    finally:
        for process in children:
            process.kill()


# --- the methods -----------------------------------------------------------------------------------------------------


def do_every_method(folder):
    """Each process writes what it has, so that both can be looked at."""
    import safetensors.torch

    here = compute()
    assert (here.processes, here.device.type) == (2, "cpu")
    for method in METHODS:
        rows, tensors = steps_of(method)
        safetensors.torch.save_file(tensors, folder / f"{method}-{here.rank}.safetensors")
        (folder / f"{method}-{here.rank}.json").write_text(json.dumps(rows))


@pytest.fixture(scope="module")
def by_two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    assert two_processes(do_every_method, folder) == [0, 0]
    return folder


@pytest.mark.parametrize("method", METHODS)
def test_losses_gradients_and_samples_are_those_of_one_process(method, by_two):
    """Two steps down the gradient itself, of batches of odd size and of one row: shares differ, one may be empty."""
    import safetensors.torch

    one, (first, second) = (
        steps_of(method),
        (
            (
                json.loads((by_two / f"{method}-{rank}.json").read_text()),
                safetensors.torch.load_file(by_two / f"{method}-{rank}.safetensors"),
            )
            for rank in range(2)
        ),
    )
    assert largest_difference(one, first) < 1e-5  # the order of sums in fp32
    assert largest_difference(first, second) == 0  # else the copies of the model would drift apart


# --- files and errors ------------------------------------------------------------------------------------------------


def do_run(runs, *flags):
    with quick_settings():
        return main(["run", "--name", "two", "--runs-dir", str(runs), *quick_flags(), *flags])


def test_a_run_by_two_processes_is_the_run_by_one(tmp_path):
    assert two_processes(do_run, tmp_path) == [0, 0]
    folder, whole = tmp_path / "two", finished_run()
    assert not list(folder.rglob(".*.tmp"))
    for stage, steps in (("sft", 40), ("reward_model", 8), ("ppo", 5), ("dpo", 8)):
        lines = (folder / "metrics" / f"{stage}.csv").read_text().splitlines()
        assert [line.split(",")[0] for line in lines] == ["step", *map(str, range(steps))]
        found, expected = Run(folder).metrics(stage), Run(whole).metrics(stage)
        assert list(found) == list(expected)
        # 40 steps of Adam on rounding errors of 1e-7.
        assert ((found - expected).abs().max() < 1e-3).all(), stage
    assert (folder / "pairs.jsonl").read_bytes() == (whole / "pairs.jsonl").read_bytes()
    found, expected = (json.loads((f / "summary.json").read_text()) for f in (folder, whole))
    for policy, row in expected["policies"].items():
        for name in ("gold", "proxy", "kl", "length"):
            assert found["policies"][policy][name] == pytest.approx(row[name], abs=0.02), (policy, name)
    # What two processes left, one can go on with: it finds everything done.
    with quick_settings():
        assert main(["run", "--name", "two", "--runs-dir", str(tmp_path), "--resume", *quick_flags()]) == 0


def test_two_processes_refuse_a_folder_that_is_taken(tmp_path):
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "thesis.tex").write_text("years of work")
    assert two_processes(do_run, tmp_path) == [2, 2]
    assert [path.name for path in (tmp_path / "two").iterdir()] == ["thesis.tex"]


def do_shared_errors():
    """An error in one process is one in both, and what the main process returns reaches both."""
    rank = compute().rank
    assert main_process(lambda: rank) == 0 and every_process(lambda: rank) == [0, 1]
    for wrong in (0, 1):
        try:
            every_process(lambda wrong=wrong: {}[wrong] if rank == wrong else None)
        except KeyError:
            assert rank == wrong
        except ValueError as error:
            assert rank != wrong and f"(in process {wrong})" in str(error)
        else:
            return 1
    return 0


def test_an_error_in_one_process_is_an_error_in_all():
    assert two_processes(do_shared_errors) == [0, 0]


def do_main_writes(folder):
    from week6.machine.checkpoint import save_checkpoint, write_atomic
    from week6.run.training import MetricsWriter

    name = f"{compute().rank}"
    write_atomic(folder / f"text-{name}", name)
    save_checkpoint(folder / f"checkpoint-{name}", torch.nn.Linear(1, 1))
    metrics = MetricsWriter(folder / f"metrics-{name}", 0)
    metrics.write({"step": 0})
    metrics.close()


def test_only_the_main_process_writes(tmp_path):
    assert two_processes(do_main_writes, tmp_path) == [0, 0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-0", "metrics-0", "text-0"]
    assert load_tensors(tmp_path / "checkpoint-0")[0].keys() == {"model.weight", "model.bias"}


# --- the launcher ----------------------------------------------------------------------------------------------------

FAILING = """
import sys
from tests.runs import main, quick_flags, quick_settings
from week6.run import pipeline
from week6.machine.compute import compute

train_dpo = pipeline.train_dpo
def broken(*arguments):
    for row in train_dpo(*arguments):
        if compute().rank == 1 and row["step"] == 3:
            raise RuntimeError("the second process breaks down")
        yield row
pipeline.train_dpo = broken

with quick_settings():
    code = main(["run", "--name", "two", "--runs-dir", sys.argv[1], *sys.argv[2:], *quick_flags()])
sys.exit(code)
"""


def test_accelerate_launch_ends_all_when_one_breaks_down(tmp_path):
    """The other would wait for its gradients for half an hour. What was done is kept, and one process goes on."""
    script = tmp_path / "failing.py"
    script.write_text(FAILING)
    root = Path(week6.__file__).parents[1]
    command = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]  # the CPU if there is no GPU
    result = subprocess.run(
        [sys.executable, *command, "--main_process_port", str(free_port()), str(script), str(tmp_path / "runs")],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=2 * LIMIT, cwd=root,
        env=os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert result.returncode != 0 and "the second process breaks down" in result.stderr
    folder = tmp_path / "runs" / "two"
    assert list(json.loads((folder / "stages.json").read_text())) == ["sft", "pairs", "reward_model", "ppo"]
    with quick_settings():
        assert main(["run", "--name", "two", "--runs-dir", str(folder.parent), "--resume", *quick_flags()]) == 0
    assert len(Run(folder).metrics("dpo")) == 8
