"""The speed comparison with TRL: equal work on both sides, and the arithmetic of its table."""

import json
from multiprocessing import Pipe

import pytest

from tools import bench_dpo as bench
from tools.bench_dpo import MATCHED, OURS, Measured

KNOWN = {
    OURS: Measured([4.0, 1.0, 2.0, 3.0, 100.0], [0.69315, 0.5], 1000.4),
    MATCHED: Measured([9.0, 6.0, 7.0, 8.0, 0.0], [0.69315, 0.5], 2000.6),
}


def test_the_table_states_medians_quartiles_and_their_ratio():
    """Of 1, 2, 3, 4, 100 the median is 3, and the quartiles 2 and 4: the one slow step does not count."""
    *_, ours, theirs = bench.table(KNOWN).splitlines()
    assert ours == "| week6 | 3.000 | 2.000 – 4.000 | 1.00 | 1000 | 0.69315 → 0.50000 |"
    assert theirs == "| TRL, matched | 7.000 | 6.000 – 8.000 | 2.33 | 2001 | 0.69315 → 0.50000 |"
    assert bench.ratio(KNOWN, MATCHED) == pytest.approx(7 / 3)


@pytest.mark.parametrize(("theirs", "code"), [(1.49, 1), (1.5, 0)])
def test_too_small_a_ratio_is_said_and_fails(theirs, code, monkeypatch, capsys, tmp_path):
    def measured(names, shape, steps, warmup, threads):
        assert names == [OURS, *bench.CONTENDERS] and (steps, warmup, threads) == (2, 1, 3)
        return {name: Measured([1.0 if name == OURS else theirs] * 2, [0.7, 0.6, 0.5], 1.0) for name in names}

    monkeypatch.setattr(bench, "measure", measured)
    words = ["--steps", "2", "--warmup", "1", "--threads", "3", "--json", str(tmp_path / "bench.json")]
    assert bench.main(words) == code
    printed = capsys.readouterr()
    assert f"| {MATCHED} | {theirs:.3f} |" in printed.out
    assert ("ratio of 'TRL, matched' to week6: 1.49, expected 1.5 or more" in printed.err) == bool(code)
    assert json.loads((tmp_path / "bench.json").read_text())["ratio"] == theirs


def test_unequal_losses_are_not_timed(monkeypatch, capsys):
    good = {OURS: [0.7, 0.6], MATCHED: [0.7, 0.60009]}
    bench.check_losses(good)
    for bad in (0.60011, float("nan")):
        with pytest.raises(ValueError, match=r"from TRL, matched and 0.600000 from week6 at step 1"):
            bench.check_losses(good | {MATCHED: [0.7, bad]})

    def measured(*_):
        raise ValueError("losses: got different ones")

    monkeypatch.setattr(bench, "measure", measured)
    assert bench.main(["--steps", "2"]) == 1 and "got different ones" in capsys.readouterr().err


@pytest.mark.slow
def test_both_libraries_train_on_the_same_numbers():
    """A real comparison at the small shape: losses are equal while they fall, and every timed step took time."""
    shape = bench.SHAPES["small"]
    measured = bench.measure([OURS, MATCHED], shape, steps=4, warmup=2, threads=1)
    for row in measured.values():
        assert len(row.seconds) == 4 and min(row.seconds) > 0 and len(row.losses) == 6
        assert 100 < row.peak_memory_mb < 5000
        assert row.losses[0] - row.losses[-1] > 100 * bench.TOLERANCE[MATCHED]


def test_a_contender_that_fails_or_dies_is_named():
    near, far = Pipe()
    far.send(ValueError("width: got 3"))
    with pytest.raises(RuntimeError, match="week6: width: got 3"):
        bench.answer(near, OURS)
    far.close()
    with pytest.raises(RuntimeError, match="week6: its process has ended before its last step"):
        bench.answer(near, OURS)
