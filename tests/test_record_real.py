"""What is kept of a run on a real model: its numbers and some answers, and neither weights nor texts nor paths."""

import json

import pandas as pd
import pytest

from tests.runs import finished_run
from tools.record_real import SAMPLES, STAGES, keep
from week6.run.training import Run


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recorded")
    keep(Run(finished_run()), folder, "real")
    return folder


def test_tables_have_every_step_with_five_digits(kept):
    for stage in STAGES:
        table, run = pd.read_csv(kept / f"real_{stage}.csv"), Run(finished_run()).metrics(stage)
        assert table["step"].tolist() == run["step"].tolist() and list(table) == list(run)
        pd.testing.assert_frame_equal(table, run, rtol=1e-4, check_dtype=False)


def test_summary_is_the_runs_without_places_on_one_machine(kept):
    kept_summary = json.loads((kept / "real.json").read_text())
    settings = kept_summary.pop("settings")
    assert kept_summary == json.loads((finished_run() / "summary.json").read_text())
    assert settings["ppo"]["steps"] == 5 and not {"model", "data"} & set(settings)


def test_first_answers_only(kept):
    """Those of every policy to the same prompts, in the words of samples.json."""
    rows = json.loads((finished_run() / "samples.json").read_text())
    table = pd.read_csv(kept / "real_samples.csv")
    pd.testing.assert_frame_equal(table, pd.DataFrame(rows[: len(table)]), rtol=1e-4)
    assert table["prompt"].nunique() == SAMPLES < len({row["prompt"] for row in rows})
    assert table["policy"].value_counts().eq(SAMPLES).all()


def test_nothing_else_is_kept(kept):
    names = {*(f"real_{stage}.csv" for stage in STAGES), "real.json", "real_samples.csv"}
    assert {path.name for path in kept.iterdir()} == names
