"""Recorded tables: readable, complete, each explained in the README beside it; an unknown name is answered with the
known ones."""

from importlib.resources import files

import pytest

from week6.recorded import recorded


def test_every_table_can_be_read_and_is_explained():
    folder = files("week6.recorded")
    names = [path.name for path in folder.iterdir() if path.name.endswith(".csv")]
    text = (folder / "README.md").read_text()
    assert "overoptimisation.csv" in names and [name for name in names if name not in text] == []
    assert all(len(recorded(name.removesuffix(".csv"))) > 0 for name in names)


def test_overoptimisation_holds_every_step_of_each_seed():
    table = recorded("overoptimisation")
    assert {"seed", "step", "score", "gold", "kl"} <= set(table)
    assert not table[["score", "gold", "kl"]].isna().to_numpy().any()
    runs = [list(run["step"]) for _, run in table.groupby("seed")]
    assert len(runs) >= 3 and all(steps == list(range(len(steps))) for steps in runs)


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="name: got 'nothing'.*'overoptimisation'"):
        recorded("nothing")
