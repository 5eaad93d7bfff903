"""Pieces of a stage: kept when they are dear, found again by who has the same settings, cleared away at the end."""

from types import SimpleNamespace

import pytest
import torch

from week6.machine.checkpoint import RunError, as_bytes, as_texts
from week6.run import pieces as module
from week6.run.evaluation import Judged
from week6.run.pieces import pieces
from week6.run.record import Depends
from week6.run.training import Run, Usage

STAGES = {"pairs": Depends(["preset.n"]), "evaluation": Depends(["preset.k"], ["pairs"])}


@pytest.fixture(autouse=True)
def all_are_kept(monkeypatch):
    monkeypatch.setattr(module, "WORTH_KEEPING", -1.0)


def a_run(folder, **settings):
    return Run(folder, {}, STAGES, {"pairs": "n2", "evaluation": "k8"} | settings)


def made(run, name="sft", value=1.0, usage=None, stage="evaluation"):
    """A piece, and whether it was made now."""
    calls = []

    def make():
        calls.append(name)
        return {"x": torch.full((2,), value)}

    with pieces(run, stage, 2, usage or Usage()) as piece:
        return piece(name, make)["x"].tolist(), bool(calls)


def test_a_piece_is_made_once_for_each_name_and_stage(tmp_path):
    run = a_run(tmp_path)
    assert made(run) == ([1.0, 1.0], True)
    assert made(run, value=2.0) == ([1.0, 1.0], False)
    assert made(run, "ppo", 3.0) == ([3.0, 3.0], True) and made(run, stage="pairs", value=4.0) == ([4.0, 4.0], True)


def test_a_piece_is_on_the_cpu_when_it_is_made_and_when_it_is_found(tmp_path):
    """On a GPU what was found and what is made now are joined."""
    run, on_cpu = a_run(tmp_path), torch.ones(2)
    for _ in range(2):
        with pieces(run, "evaluation", 1) as piece:
            assert torch.equal(piece("sft", lambda: {"x": SimpleNamespace(cpu=lambda: on_cpu)})["x"], on_cpu)


def test_other_settings_or_sources_make_it_anew(tmp_path):
    made(a_run(tmp_path))
    assert made(a_run(tmp_path, evaluation="k9"), value=2.0) == ([2.0, 2.0], True)
    run = a_run(tmp_path)
    made(run)
    run.finish("pairs", Usage())  # what the evaluation starts from
    assert made(run, value=3.0) == ([3.0, 3.0], True)


def test_what_is_soon_made_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "WORTH_KEEPING", 60.0)
    made(a_run(tmp_path))
    assert made(a_run(tmp_path), value=2.0) == ([2.0, 2.0], True) and not (tmp_path / "checkpoints").exists()


def test_the_seconds_before_an_interruption_count(tmp_path, monkeypatch):
    run, clock = a_run(tmp_path), [10.0]

    def make():
        clock[0] += 7.5
        return {"x": torch.zeros(1)}

    monkeypatch.setattr(module.time, "perf_counter", lambda: clock[0])
    for seconds in (1.0, 8.5):  # before and after: what is made now is on the clock of the stage itself
        usage = Usage(seconds=1.0)
        with pieces(run, "evaluation", 1, usage) as piece:
            piece("sft", make)
        assert usage.seconds == seconds


def test_the_end_of_a_stage_clears_its_pieces_away_and_no_others(tmp_path):
    run = a_run(tmp_path)
    made(run), made(run, "ppo"), made(run, stage="pairs")
    (tmp_path / "checkpoints" / "evaluation.safetensors").touch()
    run.finish("evaluation", Usage())
    left = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert left == ["evaluation.safetensors", "pairs.sft.safetensors"]


def test_a_damaged_piece_is_named_or_made_anew(tmp_path):
    run = a_run(tmp_path)
    made(run)
    path = run.piece("evaluation", "sft")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(RunError, match="evaluation.sft.safetensors is damaged.*delete it"):
        made(run)
    path.write_bytes(content[: len(content) // 4])
    assert made(run, value=2.0) == ([2.0, 2.0], True)


def test_a_bar_counts_the_pieces(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "QUIET", 0.0)
    made(a_run(tmp_path))
    shown = capsys.readouterr().err
    assert "evaluation" in shown and "1/2" in shown


def test_texts_and_judged_answers_come_back_as_they_were():
    texts = [["a\u2028b\0", ""], ["ü\ud83d".encode("utf-16", "surrogatepass").decode("utf-16", "replace"), '"']]
    assert as_texts(as_bytes(texts)) == texts
    numbers = torch.rand(2, 2, generator=torch.Generator().manual_seed(0))
    for gold, verdict in ((None, numbers + 1), (numbers + 2, None)):
        judged = Judged(texts, numbers, gold, numbers + 3, numbers + 4, verdict)
        again = vars(Judged.of(judged.tensors()))
        assert again.keys() == vars(judged).keys() and again["texts"] == texts
        for name, x in vars(judged).items():
            assert x is again[name] or name == "texts" or torch.equal(x, again[name])
