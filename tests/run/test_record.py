"""What is kept of finished stages: files that are gone or damaged are made again, settings are bound where used."""

import dataclasses
import json
import re
import shutil

import pytest

from tests import damage
from tests.runs import finished_run, forget, numbers, quick_flags, quick_preset, quick_settings
from week6.cli import main
from week6.machine.checkpoint import RunError
from week6.run import pipeline
from week6.run.record import product, read_entries, seal
from week6.run.setting import RunConfig, open_run, stages_of
from week6.run.training import Run

EACH = [  # one file of every kind; `make kill` tries all of them in all three ways
    ("checkpoints/sft.safetensors", "delete"),
    ("checkpoints/ppo.safetensors", "flip"),
    ("config.json", "truncate"),
    ("config.json", "delete"),
    ("metrics/reward_model.csv", "truncate"),
    ("metrics/ppo.csv", "delete"),
    ("pairs.safetensors", "delete"),
    ("pairs.jsonl", "flip"),
    ("plots/rewards.png", "delete"),
    ("policies/ppo/model.safetensors", "flip"),
    ("policies/dpo/tokenizer.json", "delete"),
    ("reward_model.safetensors", "truncate"),
    ("reward_model.safetensors", "delete"),
    ("samples.json", "flip"),
    ("stages.json", "truncate"),
    ("summary.json", "truncate"),
]


@pytest.fixture(scope="module")
def whole():
    return finished_run()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "how"), EACH)
def test_what_a_message_says_to_do_ends_with_the_same_numbers(whole, tmp_path, name, how):
    said = damage.check(whole, tmp_path / "copy", name, getattr(damage, how), seed=len(name))
    if name in ("config.json", "summary.json") or how == "delete":
        assert said == []  # it needs nobody
    else:
        assert len(said) == 1 and f"{name} is damaged" in said[0]


def test_every_file_of_a_run_is_of_a_kind_that_was_tried(whole):
    tried = {re.sub(r"\w+(?=\.\w+$)", "X", name.replace("/dpo/", "/ppo/")) for name, _ in EACH}
    made_each_time = {"report.md", "report.html", "samples.md"}
    for name in set(damage.files_of(whole)) - made_each_time:
        kind = re.sub(r"\w+(?=\.\w+$)", "X", re.sub("/(dpo|sft)/", "/ppo/", name))
        assert kind in tried or kind == "policies/ppo/X.jinja", name


def resume(folder, *more):
    with quick_settings():
        words = ["run", "--name", folder.name, "--runs-dir", str(folder.parent), "--resume", *quick_flags(), *more]
        return main(words)


def test_another_stage_in_a_stages_place_is_noticed(whole, tmp_path, capsys):
    copy = shutil.copytree(whole, tmp_path / "whole")
    shutil.copy(copy / "checkpoints" / "sft.safetensors", copy / "checkpoints" / "dpo.safetensors")
    assert resume(copy) == 2
    assert "checkpoints/dpo.safetensors is another file or made with other settings" in capsys.readouterr().err


def test_a_stage_made_anew_otherwise_takes_those_after_it_with_it(whole, tmp_path, capsys):
    """As on a machine that rounds differently: PPO must not stand on a reward model that is gone."""
    copy = shutil.copytree(whole, tmp_path / "whole")
    (copy / "reward_model.safetensors").unlink()
    (copy / "checkpoints" / "reward_model.safetensors").unlink()
    seeds = pipeline.Setting.stage_seed
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline.Setting, "stage_seed", lambda s, name: seeds(s, name) + (name == "calibration"))
        assert resume(copy) == 0
    said = capsys.readouterr().err
    for stage in ("ppo", "evaluation"):
        assert f"reward_model was made anew: stage {stage} is done again" in said
    assert "stage sft is done again" not in said and "stage dpo is done again" not in said
    capsys.readouterr()
    assert resume(copy) == 0 and "done again" not in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "[]", '{"sft": 1}', '{"sft": {"usage": {}}}', "[" * 100_000, "\x00"])
def test_entries_that_are_not_whole_count_as_unfinished(tmp_path, content):
    (tmp_path / "stages.json").write_text(content)
    if content.startswith("{"):
        assert read_entries(tmp_path / "stages.json") == {}
    else:
        with pytest.raises(RunError, match="stages.json is damaged .*: delete it, and --resume goes through them"):
            read_entries(tmp_path / "stages.json")


@pytest.mark.parametrize("part", ["usage", "result", "files", "settings", "sources"])
def test_an_entry_of_another_form_counts_as_unfinished(whole, tmp_path, part):
    """As another version may have sealed it."""
    entries = json.loads((whole / "stages.json").read_text())
    for other in ([1], None, 3, {} if part == "result" else []):
        entry = {name: x for name, x in entries["evaluation"].items() if name != "crc32"} | {part: other}
        (tmp_path / "stages.json").write_text(json.dumps(entries | {"evaluation": seal(entry)}))
        assert "evaluation" not in read_entries(tmp_path / "stages.json")


@pytest.mark.parametrize("content", ['{"name": "an app"}', '{"model_type": "gpt2"}', "[1]", "{", '{"seed": 0, "x": 1}'])
def test_a_config_of_something_else_is_not_overwritten(tmp_path, content):
    """Such as that of a model's folder, where nothing else says that a run lives there."""
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(RunError, match="config.json is that of something else, expected seed and preset: choose"):
        open_run(tmp_path, RunConfig(0, quick_preset()), resume=True)
    assert (tmp_path / "config.json").read_text() == content and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("name", ["config.json", "stages.json", "metrics/ppo.csv", "checkpoints/dpo.safetensors",
                                  "pairs.safetensors", "plots/rewards.png", "summary.json", "samples.md"])  # fmt: skip
def test_a_folder_where_a_file_should_be_is_said_before_any_work(whole, tmp_path, name):
    copy = shutil.copytree(whole, tmp_path / "copy")
    (copy / name).unlink()
    (copy / name).mkdir()
    with pytest.raises(RunError, match=f"{copy / name} is a folder, expected a file: remove it, and --resume makes"):
        open_run(copy, RunConfig(0, quick_preset()), resume=True)


@pytest.mark.parametrize("name", ["metrics", "policies", "policies/dpo"])
@pytest.mark.parametrize("how", ["file", "link"])
def test_a_file_or_a_dead_link_where_a_folder_should_be(whole, tmp_path, name, how):
    copy = shutil.copytree(whole, tmp_path / "copy")
    shutil.rmtree(copy / name)
    (copy / name).write_text("") if how == "file" else (copy / name).symlink_to("/nowhere")
    with pytest.raises(RunError, match=f"{copy / name} is no folder, expected one: remove it"):
        open_run(copy, RunConfig(0, quick_preset()), resume=True)


@pytest.mark.parametrize(("stage", "part", "other"), [
    ("sft", "usage", {}),
    ("sft", "usage", {"seconds": "1 s", "tokens_per_second": None, "peak_memory_mb": 1.0}),
    ("reward_model", "result", {"accuracy": "high"}),
    ("reward_model", "result", {}),
    ("evaluation", "result", {"policies": [1]}),
    ("evaluation", "result", {"policies": {"ppo": {}}}),
    ("evaluation", "result", {"policies": {"sft": {"gold": "good"}}}),
])  # fmt: skip
def test_an_entry_whose_figures_no_report_can_read_counts_as_unfinished(whole, tmp_path, stage, part, other):
    entries = json.loads((whole / "stages.json").read_text())
    entry = {name: x for name, x in entries[stage].items() if name != "crc32"} | {part: other}
    (tmp_path / "stages.json").write_text(json.dumps(entries | {stage: seal(entry)}))
    assert set(read_entries(tmp_path / "stages.json")) == set(entries) - {stage}


def test_a_number_changed_in_an_entry_is_noticed(whole, tmp_path):
    entries = json.loads((whole / "stages.json").read_text())
    assert list(read_entries(whole / "stages.json")) == list(entries)
    entries["reward_model"]["result"]["accuracy"] += 0.1
    (tmp_path / "stages.json").write_text(json.dumps(entries))
    assert set(read_entries(tmp_path / "stages.json")) == set(entries) - {"reward_model"}


# --- settings --------------------------------------------------------------------------------------------------------

BINDS = {
    "seed": "sft",
    "preset.task": "sft",
    "preset.layers": "sft",
    "preset.sft.learning_rate": "sft",
    "preset.n_pairs": "pairs",
    "preset.evaluation.heldout_pairs": "pairs",
    "preset.reward.steps": "reward_model",
    "preset.evaluation.calibration_answers": "reward_model",
    "preset.ppo.lam": "ppo",
    "preset.dpo.variant": "dpo",
    "preset.evaluation.probes": "dpo",
    "preset.evaluation.best_of": "evaluation",
}


def test_every_setting_but_the_name_binds_a_stage():
    config = dataclasses.asdict(RunConfig(0, quick_preset()))

    def leaves(value, key):
        if isinstance(value, dict):
            return [leaf for name, x in value.items() for leaf in leaves(x, f"{key}.{name}" if key else name)]
        return [key]

    stages = stages_of(quick_preset())
    found = {
        leaf: [stage for stage, x in stages.items() if any(f"{leaf}.".startswith(f"{key}.") for key in x.settings)]
        for leaf in leaves(config, "")
    }
    assert [leaf for leaf, by in found.items() if not by] == ["preset.name"]
    for leaf, stage in BINDS.items():
        assert found[leaf][0] == stage, leaf


def with_setting(key, value):
    """The configuration of the quick run with one other setting."""
    config = RunConfig(0, quick_preset())
    *parts, name = key.split(".")
    if not parts:
        return dataclasses.replace(config, **{name: value})
    inner = getattr(config.preset, parts[1]) if len(parts) == 2 else config.preset
    inner = dataclasses.replace(inner, **{name: value})
    preset = dataclasses.replace(config.preset, **{parts[1]: inner}) if len(parts) == 2 else inner
    return RunConfig(0, preset)


@pytest.mark.parametrize("key", [key for key in BINDS if key not in ("preset.task", "preset.dpo.variant")])
def test_a_setting_may_change_until_a_stage_is_made_with_it(whole, tmp_path, key):
    copy = shutil.copytree(whole, tmp_path / "copy")
    config, stage = with_setting(key, 5), BINDS[key]
    before = damage.files_of(copy), (copy / "config.json").read_bytes()
    with pytest.raises(RunError, match=rf"{key}: .* in the folder, 5 asked for.*, which stage {stage}.* made with"):
        open_run(copy, config, resume=True)
    assert (damage.files_of(copy), (copy / "config.json").read_bytes()) == before
    order = list(stages_of(quick_preset()))
    forget(copy, *order[order.index(stage) :])
    assert set(open_run(copy, config, resume=True).finished) <= set(order[: order.index(stage)])
    assert json.loads((copy / "config.json").read_text()) == json.loads(json.dumps(dataclasses.asdict(config)))


def test_a_stage_that_has_begun_is_bound_until_its_checkpoint_is_deleted(whole, tmp_path):
    copy, config = shutil.copytree(whole, tmp_path / "copy"), with_setting("preset.ppo.lam", 0.5)
    forget(copy, "dpo", "evaluation")
    entries = json.loads((copy / "stages.json").read_text())
    del entries["ppo"]
    (copy / "stages.json").write_text(json.dumps(entries))
    with pytest.raises(RunError, match=r"ppo.lam: .*, delete (\S+ppo.safetensors) to begin that stage again") as error:
        open_run(copy, config, resume=True)
    (copy / "config.json").unlink()
    with pytest.raises(RunError, match="as its stages say, which stage ppo was made with"):
        open_run(copy, config, resume=True)
    (copy / "checkpoints" / "ppo.safetensors").unlink()
    assert str(copy / "checkpoints" / "ppo.safetensors") in str(error.value)
    assert list(open_run(copy, config, resume=True).finished) == ["sft", "pairs", "reward_model"]


def test_a_run_that_a_bad_setting_stopped_goes_on_with_a_better_one(whole, tmp_path, capsys):
    """A learning rate that tears PPO apart: what was done before it is kept."""
    copy = shutil.copytree(whole, tmp_path / "whole")
    forget(copy, "ppo", "dpo", "evaluation")
    with pytest.MonkeyPatch.context() as patch, quick_settings():
        patch.setattr(pipeline, "score", lambda model, answers: answers.log_probs.sum(-1) * float("nan"))
        with pytest.raises(RunError, match="stage ppo stopped at step 0"):
            pipeline.run(with_setting("preset.ppo.learning_rate", 0.5).preset, copy, resume=True)
    checkpoint = (copy / "checkpoints" / "sft.safetensors").read_bytes()
    assert resume(copy) == 0
    assert numbers(copy) == numbers(whole) and (copy / "checkpoints" / "sft.safetensors").read_bytes() == checkpoint


def test_the_configuration_is_what_the_stages_say(whole, tmp_path):
    """A config.json with another number in it is mended, not believed."""
    copy = shutil.copytree(whole, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    config["preset"]["ppo"]["beta"] = 0.7
    (copy / "config.json").write_text(json.dumps(config))
    run = open_run(copy, RunConfig(0, quick_preset()), resume=True)
    assert isinstance(run, Run) and (copy / "config.json").read_bytes() == (whole / "config.json").read_bytes()


def test_what_a_stage_hands_on_is_its_tensors():
    """Not its table of metrics, which nobody reads, nor a checkpoint, which has no checksum."""
    files = {"metrics/sft.csv": "1", "checkpoints/sft.safetensors": "", "policies/sft/model.safetensors": "2"}
    same = files | {"metrics/sft.csv": "3"}
    other = files | {"policies/sft/model.safetensors": "3"}
    assert product({"files": files}) == product({"files": same}) != product({"files": other})
