"""`week6 confirm --here` on the CPU: what it can check there passes, and fails where it should."""

import re
import time
from importlib.util import find_spec

import pytest
import torch

from tests.runs import quick_settings
from week6.classroom import here
from week6.classroom.confirm import NO_GPU, Limits
from week6.cli import main
from week6.machine.checkpoint import RunError

NAMES = ["device", "precision, fp32", "precision, bf16", "precision, fp16", "DPO", "DPO's memory", "sampling", "PPO",
         "DPO by TRL", "killed, resumed", "from CPU to GPU", "time"]  # fmt: skip


def verdicts(told):
    return {line[6:24].strip(): line[:4] for line in told if line[:4] in ("PASS", "FAIL", "SKIP")}


@pytest.fixture
def without_trl(monkeypatch):
    monkeypatch.setattr(here, "find_spec", lambda name: None)


def test_a_cpu_tries_what_it_can_and_confirms_nothing(tmp_path, capsys):
    began = time.perf_counter()
    with quick_settings(checkpoint_seconds=10):
        assert main(["confirm", "--here", str(tmp_path / "new" / "folder")]) == 1
    spent = time.perf_counter() - began
    told = capsys.readouterr().out.splitlines()
    found = verdicts(told)
    assert list(found) == NAMES and {n for n, v in found.items() if v == "FAIL"} == {"device"}
    without = set() if find_spec("trl") else {"DPO by TRL"}
    assert {n for n, v in found.items() if v == "SKIP"} == {"DPO's memory", "from CPU to GPU"} | without
    assert told[-1] == NO_GPU.partition(" (")[0]
    page = (tmp_path / "new" / "folder" / "confirm.md").read_text()
    assert all(line in page for line in told) and "torch" in page
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == ["confirm.md"]
    steps = [int(found) / 1000 for found in re.findall(r"(\d+) ms a step", page)]
    assert len(steps) == 3 - len(without) and 0 < min(steps) and sum(steps) < spent  # DPO, PPO and TRL's DPO
    assert re.search(r"resumed +weights 0 % of the way apart, loss 0;", page)  # a CPU repeats itself to the last bit


def test_the_random_model_is_the_same_each_time_without_dropout_and_sure_of_some_tokens():
    state = torch.get_rng_state()
    one, again = here.random_model(here.SMALL), here.random_model(here.SMALL)
    assert torch.equal(torch.get_rng_state(), state) and not any(p.requires_grad for p in one.parameters())
    tokens = torch.arange(8)[None]
    logits = again(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits
    assert torch.equal(one.train()(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits, logits)
    # A logit is a sum of `width` products of a normalised unit and a weight, four times the 0.02 of GPT-2.
    assert float(logits.std()) == pytest.approx(4 * 0.02 * here.SMALL.width**0.5, rel=0.2)


def test_each_check_can_fail(tmp_path, monkeypatch, without_trl):
    right = here.response_log_probs
    monkeypatch.setattr(here, "response_log_probs", lambda *rest: right(*rest) + 0.5)
    monkeypatch.setattr(here, "MINUTES", 0.0)
    monkeypatch.setattr(here.training, "load_checkpoint", lambda path, module, optimizer, tag: {"step": 3})
    far = {"first_ratio_deviation": 1.0, "policy_loss": 0.0, "value_loss": 0.0, "tokens": 1}
    monkeypatch.setattr(here, "train_ppo", lambda *rest: iter([(far, None)] * 3))
    told = []
    limits = Limits(ratio=dict.fromkeys((torch.float32, torch.bfloat16, torch.float16), 0.1))
    assert here.confirm_here(tmp_path, told.append, limits) is False
    failed = {name for name, verdict in verdicts(told).items() if verdict == "FAIL"}
    assert failed == {"device", *NAMES[1:4], "PPO", "killed, resumed", "time"}
    assert verdicts(told)["DPO by TRL"] == "SKIP"


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="--here .*file/x: cannot be made"):
        here.confirm_here(tmp_path / "file" / "x")


def test_a_place_that_cannot_take_the_results_is_found_before_the_checks(tmp_path, monkeypatch):
    monkeypatch.setattr(here, "random_model", None)  # it would fail
    (tmp_path / "confirm.md").mkdir()
    with pytest.raises(RunError, match="--here .*: its confirm.md is a folder, expected a file to write; choose"):
        here.confirm_here(tmp_path)
