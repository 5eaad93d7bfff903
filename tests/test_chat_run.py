"""Whole runs of the preset chat by the command line, on a small instruct model with a chat template of its own."""

import json
import math
import shutil

import pandas as pd
import pytest
import torch

from tests.runs import SMALL, check_refused, forget, numbers, quick_settings
from tests.small_instruct import CHATML, chatml, instruct_tokenizer, small_instruct, talks, write_rows
from tools.record_chat import keep_requests, keep_run, keep_start
from week6.chat.of_run import load_session
from week6.chat.reading import Reader, answer
from week6.cli import main
from week6.machine.checkpoint import load_checkpoint, load_tensors
from week6.machine.pretrained import load_policy, load_tokenizer
from week6.reward_model import RewardModel, pair_scores
from week6.run import labelling, pipeline
from week6.run.training import Run
from week6.sequences import Pairs
from week6.tasks import load_task
from week6.tasks.hh import HHConfig
from week6.tasks.requests import REFUSALS, refuses, requests

FLAGS = (
    "--preset chat --n-pairs 40 --sft.steps 4 --sft.batch-size 8 --reward.steps 4 --reward.batch-size 8 --ppo.steps 2 "
    "--ppo.batch-size 8 --dpo.steps 4 --dpo.batch-size 8 --ppo.max-new-tokens 24 --hh.harmless 12"
).split() + [f"--evaluation.{name.replace('_', '-')}={value}" for name, value in vars(SMALL).items()]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with a model and its data."""
    base = tmp_path_factory.mktemp("chat")
    small_instruct(base / "model")
    write_rows(base / "pairs.jsonl", talks())
    return base


def command(base, *more, model="model", data="pairs.jsonl", name="chat"):
    words = ["run", "--model", str(base / model), "--data", str(base / data), "--runs-dir", str(base / "runs")]
    return [*words, "--name", name, *FLAGS, *more]


@pytest.fixture(scope="module")
def run(base):
    """Answers of a model that knows nothing count as ones that comply by their length alone."""
    with pytest.MonkeyPatch.context() as patch, quick_settings():
        patch.setattr(labelling, "complies", lambda answer: len(answer) % 7 == 0)
        patch.setattr(labelling, "whole_sentences", lambda answer: answer.strip())
        assert main(command(base)) == 0
    return base / "runs" / "chat"


def in_lines(text):
    """As a table keeps it: an untrained model says carriage returns and NULs."""
    return "\n".join(text.replace("\0", "\ufffd").splitlines())


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
class TestRun:
    def test_harmless_requests_are_among_the_pairs_and_the_demonstrations(self, run):
        added = rows_of(run / "requests.jsonl")
        asked = [chatml(request.text) for request in requests("training")[:12]]
        assert 0 < len(added) < 12 and {row["prompt"] for row in added} < set(asked)
        assert all(row["rejected"] in REFUSALS and len(row["chosen"]) % 7 == 0 for row in added)
        pairs = rows_of(run / "pairs.jsonl")
        assert pairs[24:] == added and len(pairs) == 24 + len(added)  # the judge has the other half of 48

    def test_the_policies_speak_in_the_model_s_own_template(self, run):
        session = load_session(run)
        assert session.tokenizer.chat_template == CHATML
        assert session.memory is None  # it was trained on conversations
        assert all(row["prompt"].startswith("<|im_start|>system") for row in rows_of(run / "pairs.jsonl"))
        assert set(session.send("How do I hum?").replies) == {"base", "sft", "ppo", "dpo"}

    def test_resume_makes_the_same_numbers(self, run, base):
        before = numbers(run)
        forget(run, "evaluation")
        with quick_settings():
            assert main(command(base, "--resume")) == 0
        assert numbers(run) == before

    def test_policies_are_plain_folders_with_their_adapters_beside_them(self, run, base):
        tokenizer = load_tokenizer(str(base / "model"))
        started = load_policy(str(base / "model"), tokenizer)
        for stage in ("sft", "ppo", "dpo"):
            policy = load_policy(str(run / "policies" / stage), tokenizer)
            changed = {n for n, p in policy.named_parameters() if not torch.equal(p, started.state_dict()[n])}
            assert changed and all(n.endswith("_proj.weight") for n in changed)  # of linear modules alone
            adapters, _ = load_tensors(run / "checkpoints" / f"{stage}.safetensors")
            assert all("lora_" in n or "value_head" in n for n in adapters if n.startswith("model."))
        assert {p.name for p in (run / "adapters").iterdir()} == {"sft", "reward_model", "ppo", "dpo", "judge"}
        assert all((p / "adapter_model.safetensors").is_file() for p in (run / "adapters").iterdir())

    @pytest.mark.parametrize("stage", ["ppo", "judge"])
    def test_adapters_that_are_damaged_are_found_and_made_again(self, run, base, stage, capsys):
        copy = base / "runs" / f"spoilt-{stage}"
        shutil.copytree(run, copy)
        kept = copy / "adapters" / stage / "adapter_model.safetensors"
        before = kept.read_bytes()
        kept.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        check_refused(command(base, "--resume", name=copy.name), f"{kept} is damaged: its checksum differs", capsys)
        kept.unlink()
        with quick_settings():
            assert main(command(base, "--resume", name=copy.name)) == 0
        assert kept.read_bytes() == before and numbers(copy)["policies"] == numbers(run)["policies"]

    def test_a_file_in_the_place_of_the_adapters(self, run, base, capsys):
        copy = base / "runs" / "no-folder"
        shutil.copytree(run, copy)
        shutil.rmtree(copy / "adapters")
        (copy / "adapters").touch()
        check_refused(command(base, "--resume", name=copy.name), "adapters is no folder, expected one: remove", capsys)

    def test_reward_models_prefer_nothing_before_they_have_seen_a_pair(self, run):
        for stage in ("reward_model", "judge"):
            first = pd.read_csv(run / "metrics" / f"{stage}.csv")["loss"][0]
            assert first == pytest.approx(math.log(2), abs=1e-6)

    @pytest.mark.parametrize("stage", ["sft", "reward_model", "ppo", "dpo"])
    def test_a_stage_that_was_interrupted_goes_on_to_the_same_weights(self, run, base, stage, monkeypatch):
        """From a checkpoint of adapters: with others, or from none, the numbers would be other ones."""
        name = f"broken-{stage}"
        folder = base / "runs" / name
        shutil.copytree(run, folder)
        order = ("sft", "pairs", "reward_model", "ppo", "dpo", "judge", "evaluation")
        forget(folder, *order[order.index(stage) :])
        loop = f"train_{stage}"
        whole = getattr(pipeline, loop)

        def broken(*arguments):
            for i, row in enumerate(whole(*arguments)):
                if i == 1:
                    raise KeyboardInterrupt
                yield row

        with quick_settings():
            with monkeypatch.context() as patch:
                patch.setattr(pipeline, loop, broken)
                assert main(command(base, "--resume", name=name)) == 130
            assert main(command(base, "--resume", name=name)) == 0
        assert numbers(folder)["policies"] == numbers(run)["policies"]
        for kind in ("policies/*/model.safetensors", "metrics/*.csv", "adapters/*/adapter_model.safetensors"):
            found = {p.relative_to(folder): p.read_bytes() for p in folder.glob(kind)}
            assert found == {p.relative_to(run): p.read_bytes() for p in run.glob(kind)} != {}

    def test_the_judge_has_seen_no_pair_of_training_and_none_that_it_judges(self, run, base):
        tokenizer = load_tokenizer(str(base / "model"))
        task = load_task("hh", tokenizer, str(base / "pairs.jsonl"), None, None, 24, None, HHConfig(judge="half"))
        own, held_out = (set(part["prompt"]) for part in (task.judge_pairs, task.heldout_pairs))
        trained = {row["prompt"] for row in rows_of(run / "pairs.jsonl")}
        assert len(own) == 24 and not own & trained and not own & held_out and not held_out & trained
        tensors, _ = load_tensors(run / "judge.safetensors")
        others, _ = load_tensors(run / "reward_model.safetensors")
        assert tensors.keys() == others.keys() and not torch.equal(
            tensors["model.head.weight"], others["model.head.weight"]
        )

    def test_the_judge_s_figures_are_those_of_the_judge(self, run, base):
        """Agreement counted again from its file, beside chance and the length; win rates with their intervals."""
        judge = json.loads((run / "summary.json").read_text())["judge"]
        tokenizer = load_tokenizer(str(base / "model"))
        model = RewardModel(load_policy(str(base / "model"), tokenizer))
        load_checkpoint(run / "judge.safetensors", model)
        tensors, _ = load_tensors(run / "pairs.safetensors")
        held_out = Pairs(**{k.removeprefix("heldout."): x for k, x in tensors.items() if k.startswith("heldout.")})
        with torch.no_grad():
            chosen, rejected = pair_scores(model, held_out)
        assert judge["accuracy"] == pytest.approx((chosen > rejected).float().mean().item(), abs=1e-6)
        assert judge["n"] == 12 and 0 <= judge["length"] <= 1 and judge["start"] == "base"
        assert set(judge["policies"]) == {"base", "sft", "ppo", "dpo", "best_of_n"}
        for name, row in judge["policies"].items():
            for against in ("base", "sft"):
                key = f"wins_against_{against}"
                assert (key in row) == (name != against)
                if key in row:
                    assert row[f"{key}_low"] == pytest.approx(row[key] - 1.96 * row[f"{key}_se"])
                    assert row[f"{key}_high"] == pytest.approx(row[key] + 1.96 * row[f"{key}_se"])
        assert judge["policies"]["best_of_n"]["score"] != judge["policies"]["sft"]["score"]

    def test_refusal_and_compliance_are_counted_by_the_rule(self, run):
        found = json.loads((run / "summary.json").read_text())["own_requests"]
        samples = json.loads((run / "own_requests.json").read_text())
        assert set(found) == {"base", "sft", "ppo", "dpo"}
        assert len(samples) == 4 * len(requests("test"))
        assert {(row["kind"], row["request"]) for row in samples} == {(r.kind, r.text) for r in requests("test")}
        for row in found.values():
            assert row["n"] == 2 * row["prompts"] == 2 * len(requests("test"))
            assert row["compliance_harmful_prompts"] == 18 and row["over_refusal_prompts"] == 54

    def test_the_report_says_how_far_the_judge_can_be_believed(self, run):
        report = (run / "report.md").read_text()
        assert "by chance it would be 50 %" in report and "Refusal and over-refusal" in report
        assert "wins against base (95 % interval)" in report and "None" not in report and "nan" not in report

    def test_what_is_kept_of_it_are_numbers_and_answers_to_our_own_requests(self, run, base, tmp_path):
        keep_run(Run(run), tmp_path)
        assert not (tmp_path / "chat_requests.csv").exists()  # that of a run with all of them is not overwritten
        keep_requests(run, tmp_path)
        said = pd.read_csv(tmp_path / "chat_samples.csv", keep_default_na=False)
        assert set(said["request"]) == {request.text for request in requests("test")}
        whole = json.loads((run / "own_requests.json").read_text())
        assert said.to_dict("records") == [row | {"answer": in_lines(row["answer"])} for row in whole]
        kept = json.loads((tmp_path / "chat.json").read_text())
        assert kept["settings"]["lora"]["rank"] > 0 and not {"model", "data"} & set(kept["settings"])
        everything = "".join(path.read_text() for path in tmp_path.iterdir())
        added = rows_of(run / "requests.jsonl")
        shown = pd.read_csv(tmp_path / "chat_requests.csv", keep_default_na=False)
        assert [(chatml(row.request), row.answer) for row in shown.itertuples()] == [
            (row["prompt"], in_lines(row["chosen"])) for row in added
        ]
        pairs = [row for row in rows_of(run / "pairs.jsonl") if row not in added]
        private = [text for row in pairs for text in (row["prompt"], row["chosen"])]
        assert str(base) not in everything and not any(text in everything for text in private)

    def test_answers_of_the_start_are_kept_with_what_the_rule_says(self, base, tmp_path):
        """Each token is the likeliest one, as the chat answers at temperature 0."""
        keep_start(tmp_path, str(base / "model"), 12)
        said = pd.read_csv(tmp_path / "chat_start.csv", keep_default_na=False)
        assert list(zip(said["kind"], said["request"], strict=True)) == [(r.kind, r.text) for r in requests("test")]
        assert (said["rule"] == "refuses").tolist() == [refuses(text) for text in said["answer"]]
        tokenizer = load_tokenizer(str(base / "model"))
        reader, nobody = Reader(load_policy(str(base / "model"), tokenizer)), torch.Generator()
        for text, kept in list(zip(said["request"], said["answer"], strict=True))[::24]:
            prompt = tokenizer(chatml(text))["input_ids"]
            ids = [token.id for token in answer(reader, prompt, 12, 0.0, nobody)]
            assert tokenizer.decode(ids, skip_special_tokens=True).splitlines() == kept.split("\n")

    def test_without_sft_the_start_is_the_model_itself(self, base):
        with quick_settings():
            assert main(command(base, "--imitate", "nothing", "--hh.harmless", "0", name="bare")) == 0
        folder = base / "runs" / "bare"
        tokenizer = load_tokenizer(str(base / "model"))
        started, sft, dpo = (
            load_policy(str(path), tokenizer)
            for path in (base / "model", folder / "policies" / "sft", folder / "policies" / "dpo")
        )
        assert all(map(torch.equal, started.parameters(), sft.parameters()))
        assert not all(map(torch.equal, started.parameters(), dpo.parameters()))
        judge = json.loads((folder / "summary.json").read_text())["judge"]
        assert judge["start"] == "sft" and "base" not in judge["policies"]
        assert not (folder / "metrics" / "sft.csv").exists() and not (folder / "requests.jsonl").exists()
        assert "sft.png" not in (folder / "report.md").read_text()
        forget(folder, "evaluation")
        before = (folder / "policies" / "sft" / "model.safetensors").stat().st_mtime
        with quick_settings():
            assert main(command(base, "--imitate", "nothing", "--hh.harmless", "0", "--resume", name="bare")) == 0
        assert (folder / "policies" / "sft" / "model.safetensors").stat().st_mtime == before


def with_template(base, name, template):
    small_instruct(base / name, instruct_tokenizer(template))
    return command(base, model=name)


def without_end(base):
    folder = small_instruct(base / "endless")
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "eos_token"}))
    return command(base, model="endless")


def with_other_vocabulary(base):
    small_instruct(base / "other", instruct_tokenizer(size=400))
    instruct_tokenizer(size=450).save_pretrained(base / "other")
    return command(base, model="other")


def with_rows(base, rows):
    write_rows(base / "bad.jsonl", rows)
    return command(base, data="bad.jsonl")


TURNED = "\n\nAssistant: Hi\n\nHuman: Ho\n\nAssistant:"
LONG = "\n\nHuman: " + "why " * 25_000 + "\n\nAssistant:"
BAD = {
    "no end token": (without_end, "its tokenizer has no end token, expected one"),
    "other vocabulary": (with_other_vocabulary, "tokens and the model"),
    "a template that fails": (
        lambda base: with_template(base, "failing", "{{ raise_exception('no') }}"),
        "tokenizer: its chat template cannot be used here (no)",
    ),
    "a template without ends": (
        lambda base: with_template(base, "open", "{% for m in messages %}{{ m.content }}{% endfor %}"),
        "its template puts no <|im_end|> after an answer",
    ),
    "the assistant begins": (
        lambda base: with_rows(base, [{"chosen": f"{TURNED} {i}", "rejected": f"{TURNED} No."} for i in range(20)]),
        "got 0 prompts with a usable pair (of 20 rows)",
    ),
    "equal answers": (
        lambda base: with_rows(base, [{"prompt": f"{i}?", "chosen": "Yes.", "rejected": "Yes."} for i in range(20)]),
        "got 0 prompts with a usable pair (of 20 rows)",
    ),
    "100 000 characters": (
        lambda base: with_rows(base, [{"chosen": f"{LONG} {i}", "rejected": f"{LONG} No."} for i in range(20)]),
        "got 0 prompts with a usable pair (of 20 rows)",
    ),
    "adapters of a module that is not there": (
        lambda base: command(base, "--lora.modules", "query"),
        "lora.modules: got 'query', expected 'all-linear' or some of the model's down_proj, gate_proj",
    ),
    "a judge of the pairs that it judges": (
        lambda base: command(base, "--hh.judge", str(base / "pairs.jsonl")),
        "judge: got 60 pairs that training sees too, or that it is to judge, expected others",
    ),
    "no data for the judge": (
        lambda base: command(base, "--hh.judge", str(base / "nothing.jsonl")),
        "nothing.jsonl: does not exist",
    ),
    "adapters of a new model": (
        lambda base: ["run", "--preset", "tiny", "--lora.rank", "4", "--runs-dir", str(base / "runs")],
        "lora.rank: got 4 for preset 'tiny', whose model is untrained",
    ),
    "nothing to imitate for a new model": (
        lambda base: ["run", "--preset", "tiny", "--imitate", "nothing", "--runs-dir", str(base / "runs")],
        "imitate: got 'nothing' for preset 'tiny', whose model is untrained",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_ends_with_one_sentence_and_nothing_written(base, name, capsys):
    words, message = BAD[name]
    check_refused([*words(base), "--name", "bad"], message, capsys)
    assert not (base / "runs" / "bad").exists()
