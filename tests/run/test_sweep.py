"""Measuring a frontier: every point once, killed and continued to the same numbers, damage reported in one line."""

import dataclasses
import json
import math
import multiprocessing
import shutil
import signal
import time

import pandas as pd
import pytest
import torch

from tests.runs import quick_preset, quick_settings
from week6 import cli
from week6.cli import main
from week6.exact import small_world, train_exact_dpo
from week6.machine.checkpoint import RunError
from week6.objective import best_of_n_kl_bound, optimal_policy
from week6.run import sweep
from week6.run.evaluation import Judged
from week6.run.sweep import AssistantSettings, ExactSettings, Point, SweepConfig, collect, points_of, record
from week6.run.sweep import sweep as measure

EXACT = ExactSettings(
    betas=(1.0,),
    ns=(2, 4),
    curve=(0.5, 2.0),
    pairs=64,
    ppo=dataclasses.replace(ExactSettings().ppo, steps=2, batch_size=16),
    dpo=dataclasses.replace(ExactSettings().dpo, steps=3, batch_size=16),
)
ASSISTANT = AssistantSettings(ppo_betas=(0.5,), dpo_betas=(1.0,), ns=(1, 4), answers=2, picks=1, weak_steps=3)
CONFIG = SweepConfig(quick_preset(), EXACT, ASSISTANT)
CLOCK = ["seconds"]
WEAK = f"assistant-0-weak_ppo-{CONFIG.preset.ppo.beta / ASSISTANT.weaker}"


def quiet(text):
    """Say nothing."""


def quick_sweep(folder, *arguments):
    """What a child process does: a sweep of the chatbot's world, whose folders lie in `folder`."""
    with quick_settings():
        return measure(CONFIG, folder, *arguments, say=quiet)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep") / "whole"
    said = []
    with quick_settings():
        tables = measure(CONFIG, folder, ("exact", "assistant"), (0, 3), said.append)
    return folder, tables, said


def test_every_point_is_measured_once(measured):
    folder, tables, said = measured
    assert len(list((folder / "points").iterdir())) == len(said) - 1 == 2 * (2 + 2 + 4) + 2 * (2 + 1 + 1 + 1)
    assert said[0].endswith("0 points are there, 26 to measure") and "all done" in said[-1] and "min left" in said[-2]
    exact, assistant, weak = (tables[f] for f in ("frontier_exact", "frontier_assistant", "overoptimisation"))
    assert list(exact.columns) == list(assistant.columns) == list(sweep.COLUMNS)
    dpo = ["dpo", "dpo_twice_the_pairs", "dpo_two_rounds"]
    assert sorted(exact["method"].unique()) == ["best_of_n", *dpo, "optimum", "ppo"]
    assert set(exact["seed"]) == set(assistant["seed"]) == set(weak["seed"]) == {0, 3}
    assert len(weak) == 2 * 3 and list(weak.columns[:4]) == ["seed", "beta", "step", "score"]
    for name, table in tables.items():
        pd.testing.assert_frame_equal(pd.read_csv(folder / f"{name}.csv"), table, rtol=1e-4, check_dtype=False)


def test_exact_points_are_those_of_the_world(measured):
    world, table = small_world(), measured[1]["frontier_exact"]
    reference = world.new_policy(3)
    with torch.no_grad():
        log_ref = world.log_probs(reference).double().log_softmax(-1)
    mine = table[(table["seed"] == 3)].set_index("method")
    optimum = mine.loc["optimum"].set_index("beta").loc[0.5]
    log_p, log_z = optimal_policy(log_ref, world.rewards, 0.5)
    assert optimum["gold"] == pytest.approx((log_p.exp() * world.rewards).sum().item(), abs=1e-9)
    assert optimum["objective"] == pytest.approx(0.5 * log_z.item(), abs=1e-9) and abs(optimum["gap"]) < 1e-9
    best = mine.loc["best_of_n"]
    assert best["kl"].is_monotonic_increasing and best["gold"].is_monotonic_increasing and best["beta"].isna().all()
    assert (best["kl"] <= [best_of_n_kl_bound(n) for n in (2, 4)]).all()
    for method in ("ppo", "dpo", "dpo_twice_the_pairs", "dpo_two_rounds"):
        row = mine.loc[method]
        assert row["gap"] > 0.01 and row["objective"] == pytest.approx(row["gold"] - row["beta"] * row["kl"], abs=1e-9)
    assert mine.loc["ppo", "generations"] == 2 * 16 and mine.loc["dpo_two_rounds", "generations"] == 2 * 64
    assert len({mine.loc[m, "kl"] for m in ("ppo", "dpo", "dpo_twice_the_pairs", "dpo_two_rounds")}) == 4


def test_the_control_has_twice_the_pairs_and_steps_all_from_the_reference(measured):
    """Beside two rounds of DPO it tells what more pairs do from what other pairs do."""
    world, table = small_world(), measured[1]["frontier_exact"]
    reference = world.new_policy(0)
    twice = dataclasses.replace(EXACT.dpo, beta=1.0, steps=2 * EXACT.dpo.steps)
    by_hand = world.report(train_exact_dpo(world, reference, twice, 2 * EXACT.pairs, 0), reference, 1.0)
    row = table[(table["seed"] == 0) & (table["method"] == "dpo_twice_the_pairs")].iloc[0]
    assert row["kl"] == pytest.approx(by_hand.kl, rel=1e-6) and row["generations"] == 0


def test_assistant_points_have_their_errors_and_costs(measured):
    table = measured[1]["frontier_assistant"].query("seed == 0").set_index("method")
    best = table.loc["best_of_n"].set_index("n")
    assert best.loc[1, "kl"] == 0 and best.loc[4, "kl"] == pytest.approx(best_of_n_kl_bound(4))
    assert best.loc[4, "proxy"] > best.loc[1, "proxy"] and best["kl_se"].isna().all()
    trained = table.loc[["ppo", "dpo"]]
    assert (trained[["kl_se", "gold_se", "proxy_se", "win_rate_se"]] > 0).all(axis=None)
    assert table.loc["ppo", "generations"] == 5 * 8 and table.loc["dpo", "generations"] == 0
    assert (table["seconds"] > 0).all() and table.loc["ppo", "model_copies"] == 3


def test_seconds_are_those_of_all_that_was_trained_for_a_point(measured):
    """PPO and best-of-n need the reward model, DPO does not; none is charged for SFT and the pairs."""
    folder, tables, _ = measured
    table = tables["frontier_assistant"].query("seed == 3").set_index("method")["seconds"]

    def took(run, stage):
        return json.loads((folder / run / "stages.json").read_text())[stage]["usage"]["seconds"]

    fitting = took("assistant-3", "reward_model")
    assert table["best_of_n"].tolist() == pytest.approx([fitting] * 2)
    assert table["ppo"] == pytest.approx(took("assistant-3-ppo-0.5", "ppo") + fitting)
    assert table["dpo"] == pytest.approx(took("assistant-3-dpo-1.0", "dpo"))


def test_every_point_is_judged_against_sft_on_answers_of_its_own(measured, monkeypatch):
    """Best-of-n too: else it would choose among the very answers that its wins are counted against."""
    asked = []

    def judge(policy, sft, reward, task, prompts, k, seed):
        asked.append((policy, sft, k, seed))
        numbers = torch.rand(len(prompts), k, generator=torch.Generator().manual_seed(seed))
        return Judged([["a"] * k] * len(prompts), numbers, numbers, numbers, numbers)

    caches = sweep._shared, sweep._candidates
    monkeypatch.setattr(sweep, "judge", judge)
    with quick_settings():
        try:
            for cache in caches:
                cache.cache_clear()
            for point in points_of(CONFIG, ("assistant",), (3,)):
                sweep._measure(CONFIG, measured[0], point)
            sft = sweep._shared(CONFIG.preset, ASSISTANT.answers, measured[0], 3).sft
        finally:
            for cache in caches:
                cache.cache_clear()
    policies, references, answers, seeds = zip(*asked, strict=True)
    assert all(reference is sft for reference in references) and len(set(seeds)) == len(seeds)
    assert answers == (2, 4, 2, 2) and [policy is sft for policy in policies] == [True, True, False, False]


def test_called_again_it_measures_nothing(measured):
    folder, tables, _ = measured
    said = []
    before = {path: path.read_bytes() for path in (folder / "points").iterdir()}
    again = measure(CONFIG, folder, ("exact", "assistant"), (0, 3), said.append)
    assert said == [f"{folder}: 26 points are there, 0 to measure"]
    assert {path: path.read_bytes() for path in (folder / "points").iterdir()} == before
    for name, table in tables.items():
        pd.testing.assert_frame_equal(again[name], table)


def test_killed_it_goes_on_to_the_same_numbers(measured, tmp_path):
    child = multiprocessing.get_context("spawn").Process(target=quick_sweep, args=(tmp_path, ("assistant",), (0,)))
    child.start()
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("points/assistant-0-dpo-*.json")) and time.monotonic() < deadline:
        time.sleep(0.005)
    child.kill()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    finished = {path: path.read_bytes() for path in tmp_path.glob("points/*.json")}
    assert 0 < len(finished) < 5
    tables = quick_sweep(tmp_path, ("assistant",), (0,))
    assert all(path.read_bytes() == content for path, content in finished.items())
    for name in ("frontier_assistant", "overoptimisation"):
        whole = measured[1][name].query("seed == 0").reset_index(drop=True)
        pd.testing.assert_frame_equal(
            tables[name].drop(columns=CLOCK, errors="ignore"), whole.drop(columns=CLOCK, errors="ignore")
        )


def test_metrics_cut_in_the_middle_of_a_line(measured, tmp_path):
    """The weak PPO run is trained, its point is not written yet, and the last row of its metrics is cut off."""
    folder = tmp_path / "copy"
    shutil.copytree(measured[0], folder)
    run = folder / WEAK
    (folder / "points" / f"{WEAK}.json").unlink()
    metrics = run / "metrics" / "ppo.csv"
    metrics.write_text(metrics.read_text()[:-7])
    with pytest.raises(RunError, match=r"ppo.csv is damaged: its checksum differs .*; delete it to repeat this stage"):
        quick_sweep(folder, ("assistant",), (0,))
    metrics.unlink()
    tables = quick_sweep(folder, ("assistant",), (0,))
    pd.testing.assert_frame_equal(tables["overoptimisation"], measured[1]["overoptimisation"])


OTHERWISE = [
    {"kl": math.nan}, {"seed": 1}, {"beta": 2.0}, {"world": "assistant"}, {"method": "dpo"}, {"gold": "high"},
    {"took": None}, {"gold_se": -1.0}, {"win_rate": 7.0}, {"kl": -3.0}, {"steps": {"step": [1]}},
]  # fmt: skip


@pytest.mark.parametrize("change", OTHERWISE)
def test_a_point_that_is_not_what_its_name_says_is_found_before_any_is_measured(
    change, measured, tmp_path, monkeypatch
):
    shutil.copy(measured[0] / "config.json", tmp_path)
    shutil.copytree(measured[0] / "points", tmp_path / "points")
    path = tmp_path / "points" / "exact-0-ppo-1.0.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    monkeypatch.setattr(sweep, "_measure", None)  # it would fail
    with pytest.raises(
        RunError, match=r"exact-0-ppo-1.0.json is damaged \(.*\), expected a finished point of its name"
    ):
        measure(CONFIG, tmp_path, ("exact",), (1,), quiet)


@pytest.mark.parametrize("content", ["", '{"world": "exact", "se', "[]", '{"seed": 0}', "\x00\xff"])
def test_damaged_point(content, tmp_path):
    measure(CONFIG, tmp_path, ("exact",), (0,), quiet)
    path = tmp_path / "points" / "exact-0-ppo-1.0.json"
    path.write_text(content)
    with pytest.raises(
        RunError, match=r"exact-0-ppo-1.0.json is damaged \(.*\), expected a finished point of its name; del"
    ):
        measure(CONFIG, tmp_path, ("exact",), (0,), quiet)
    path.unlink()
    assert len(measure(CONFIG, tmp_path, ("exact",), (0,), quiet)["frontier_exact"]) == 8


def test_folder_of_other_settings(tmp_path):
    measure(CONFIG, tmp_path, ("exact",), (0,), quiet)
    other = dataclasses.replace(CONFIG, exact=dataclasses.replace(EXACT, pairs=65))
    with pytest.raises(RunError, match=r"exact.pairs: 64 in the folder, 65 asked for"):
        measure(other, tmp_path, ("exact",), (0,), quiet)


def test_names_of_points_are_unique():
    points = points_of(SweepConfig(quick_preset()), ("exact", "assistant"), (0, 1))
    assert len({point.name for point in points}) == len(points)
    assert str(Point("exact", 1, "ppo", 0.5)) == "exact 1 ppo 0.5"


def test_recording_rounds_and_keeps_the_rest(measured, tmp_path):
    record(measured[1], tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "frontier_assistant.csv", "frontier_exact.csv", "overoptimisation.csv",
    ]  # fmt: skip
    pd.testing.assert_frame_equal(
        pd.read_csv(tmp_path / "frontier_exact.csv"),
        collect(measured[0])["frontier_exact"],
        rtol=1e-4,
        check_dtype=False,
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--worlds", "mars"], "--worlds"),
        (["--worlds"], "--worlds"),
        (["--worlds", "exact", "exact"], "--worlds: got exact exact, expected some of exact, assistant, each once"),
        (["--seeds", "0", "0"], "--seeds: got 0 0, expected different ones, each a whole number from 0"),
        (["--seeds", "-1"], "--seeds"),
        (["--seeds", "one"], "--seeds"),
        (["--seeds", str(10**20)], "--seeds: got 100000000000000000000"),
        (["--preset", "gpt2-hh"], "--preset: got 'gpt2-hh' for world 'assistant', expected one of the embedded"),
        (["--preset", "huge"], "--preset: got 'huge'"),
        (["--name", "../up"], "--name: got"),
    ],
)
def test_bad_words_end_with_one_line(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["frontier", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("week6: error: ") and captured.err.count("\n") == 1
    assert message in captured.err and not (tmp_path / "runs").exists()


def test_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cli, "SweepConfig", lambda preset: dataclasses.replace(CONFIG, preset=preset))
    monkeypatch.setattr(sweep.recorded, "FOLDER", tmp_path / "recorded")
    words = [
        "frontier",
        "--worlds",
        "exact",
        "--seeds",
        "2",
        "--runs-dir",
        str(tmp_path),
        "--name",
        "small",
        "--record",
    ]
    assert main(words) == 0
    assert "[8/8] exact 2 dpo_two_rounds 1.0: KL" in capsys.readouterr().out
    folder = tmp_path / "frontier-small"
    assert json.loads((folder / "config.json").read_text())["exact"]["pairs"] == 64
    assert len(pd.read_csv(tmp_path / "recorded" / "frontier_exact.csv")) == 8
    (folder / "points" / "exact-2-ppo-1.0.json").write_text("{")
    assert main(words) == 2
    assert "is damaged" in capsys.readouterr().err
