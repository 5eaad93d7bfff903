"""Recorded tables: readable, complete, each explained in the README beside it; an unknown name is answered with the
known ones."""

import json
from dataclasses import asdict
from importlib.resources import files

import pytest

from week6.recorded import recorded
from week6.run.models import PRESETS


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


def test_the_recorded_run_was_made_with_the_settings_of_its_preset():
    """All but the model and the data, which the command named: who asks for the preset is shown what it gives."""
    made = json.loads((files("week6.recorded") / "smollm2.json").read_text())
    preset = asdict(PRESETS[made["preset"]])
    kept = made["settings"].keys() - {"model", "data", "ratings"}
    assert {name: made["settings"][name] for name in kept} == {name: preset[name] for name in kept}
    assert len(kept) >= 13
    for stage, config in {"sft": "sft", "reward_model": "reward", "ppo": "ppo", "dpo": "dpo"}.items():
        assert list(recorded(f"smollm2_{stage}")["step"]) == list(range(preset[config]["steps"]))
