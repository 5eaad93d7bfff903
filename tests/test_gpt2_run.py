"""Whole runs of the presets gpt2 and gpt2-hh by the command line, on a small model folder and small local data."""

import json
import math
import shutil

import pandas as pd
import pytest
import torch

from tests.runs import SMALL, check_refused, quick_settings
from tests.small_gpt2 import BAD as BLAME
from tests.small_gpt2 import END, GOOD, byte_tokenizer, conversations, reviews, small_gpt2
from week6.chat.of_run import load_session
from week6.cli import main
from week6.machine.checkpoint import load_checkpoint, load_tensors
from week6.machine.pretrained import load_policy, load_tokenizer
from week6.reward_model import RewardModel, pair_scores
from week6.run.training import Run
from week6.sequences import Pairs
from week6.tasks import load_task

PAIRS = ("pairs", "answer_pairs")
FLAGS = (
    "--n-pairs 40 --sft.steps 10 --sft.batch-size 8 --reward.steps 4 --reward.batch-size 8 --ppo.steps 3 "
    "--ppo.batch-size 8 --dpo.steps 4 --dpo.batch-size 8 --ppo.max-new-tokens 16"
).split() + [f"--evaluation.{name.replace('_', '-')}={value}" for name, value in vars(SMALL).items()]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with a model and data for both tasks."""
    base = tmp_path_factory.mktemp("gpt2")
    small_gpt2(base / "model")
    (base / "reviews.txt").write_text("\n".join(reviews()))
    (base / "rated.tsv").write_text("".join(["text\tratings\n", *(f"{t}\t{opinions(t)}\n" for t in reviews(200))]))
    (base / "pairs.jsonl").write_text("\n".join(map(json.dumps, conversations())))
    return base


def opinions(text):
    """What three people think of a film: one counts the praise, one the blame, one both."""
    good, bad = (sum(text.count(word) for word in words) for words in (GOOD, BLAME))
    return f"{good},{-bad},{good - bad}"


def command(base, preset="gpt2", data="reviews.txt", model="model", *more):
    words = ["run", "--preset", preset, "--model", str(base / model), "--data", str(base / data)]
    return [*words, "--runs-dir", str(base / "runs"), *FLAGS, *more]


@pytest.fixture(scope="module")
def runs(base):
    with quick_settings():
        assert main(command(base)) == 0
        assert main(command(base, "gpt2-hh", "pairs.jsonl")) == 0
        assert main(command(base, "gpt2-cpu", "rated.tsv", "model", "--ratings", "ratings")) == 0
    return base / "runs"


@pytest.mark.slow
class TestRun:
    def test_sentiment_has_a_gold_reward_and_no_rates(self, runs):
        summary = json.loads((runs / "gpt2" / "summary.json").read_text())
        for name, policy in summary["policies"].items():
            assert -1 <= policy["gold"] <= 1 and policy["help_rate"] is None and policy["share_of_the_way"] is None
            assert (policy["win_rate"] is None) == (name == "sft")
        assert 0.5 < summary["reward_model"]["bayes_accuracy"] < 1 and summary["best_gold"] is None

    def test_six_pairs_of_four_answers_to_a_prompt(self, runs):
        """40 pairs are 7 prompts: of the answers y_0 … y_3 every two are compared once, and labels are not in order."""
        tensors, _ = load_tensors(runs / "gpt2" / "pairs.safetensors")
        rows = [json.loads(line) for line in (runs / "gpt2" / "pairs.jsonl").read_text().splitlines()]
        assert len(rows) == len(tensors["train.chosen"]) == 40
        tokenizer = load_tokenizer(str(runs / "gpt2" / "policies" / "sft"))
        by_prompt = {}
        for i, row in enumerate(rows):
            for side in ("chosen", "rejected"):
                ids = tensors[f"train.{side}"][i][tensors[f"train.{side}_mask"][i]]
                assert tokenizer.decode(ids, skip_special_tokens=True) == row[side]
            prompt = tensors["train.prompts"][i][tensors["train.prompt_mask"][i]]
            assert tokenizer.decode(prompt) == row["prompt"]
            by_prompt.setdefault(i % 7, []).append(row)
        for group in by_prompt.values():
            assert len({row["prompt"] for row in group}) == 1
            assert (
                5 <= len(group) <= 6 and len({text for row in group for text in (row["chosen"], row["rejected"])}) <= 4
            )
        assert len({frozenset((row["chosen"], row["rejected"])) for row in by_prompt[0]}) > 3

    def test_hh_takes_the_pairs_of_people_and_knows_no_ceiling(self, runs):
        folder = runs / "gpt2-hh"
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["reward_model"]["bayes_accuracy"] is None and summary["reward_model"]["n"] == 12
        assert 0 <= summary["reward_model"]["accuracy"] <= 1
        assert all(policy["gold"] is None and policy["win_rate"] is None for policy in summary["policies"].values())
        assert all(math.isfinite(policy["proxy"]) for policy in summary["policies"].values())
        given = {text for row in conversations() for text in (row["chosen"], row["rejected"])}
        rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
        assert len(rows) == 40 and all(row["prompt"] + row["chosen"] in given for row in rows)
        report = (folder / "report.md").read_text()
        assert "no ceiling is known" in report and "frontier.png" not in report and "None" not in report
        assert "gold" not in Run(folder).metrics("ppo")

    def test_ratings_of_people_fit_the_reward_model_and_it_labels_the_pairs_for_dpo(self, runs, base):
        """The pairs of DPO share their prompts; those of the reward model are whole reviews after the end token."""
        folder = runs / "gpt2-cpu"
        read = {name: [json.loads(x) for x in (folder / f"{name}.jsonl").read_text().splitlines()] for name in PAIRS}
        assert [len(rows) for rows in read.values()] == [40, 4 * 8]  # DPO meets no more
        assert {row["prompt"] for row in read["pairs"]} == {END}
        texts = {" ".join(text.split()) for text in reviews(200)}
        assert all({row["chosen"], row["rejected"]} <= texts for row in read["pairs"])
        tokenizer = load_tokenizer(str(base / "model"))
        task = load_task("sentiment", tokenizer, str(base / "rated.tsv"), None, "vader", 16, "ratings")
        assert {row["prompt"] for row in read["answer_pairs"]} <= set(task.prompts["prompt"])
        summary = json.loads((folder / "summary.json").read_text())
        assert list(summary["stages"])[2:4] == ["reward_model", "answer_pairs"]
        assert 0.5 < summary["reward_model"]["bayes_accuracy"] < 1
        assert len(pd.read_csv(folder / "metrics" / "dpo.csv")) == 4

    def test_the_reward_model_prefers_what_it_has_chosen(self, runs):
        """Every time, not by a toss of a coin, and by the reward of PPO: an answer without its end is charged for it.

        Of two answers without an end the one with the higher score is chosen; equal scores are those of equal answers.
        """
        folder = runs / "gpt2-cpu"
        tokenizer = load_tokenizer(str(folder / "policies" / "sft"))
        model = RewardModel(load_policy(str(folder / "policies" / "sft"), tokenizer))
        load_checkpoint(folder / "reward_model.safetensors", model)
        pairs = Pairs(**load_tensors(folder / "answer_pairs.safetensors")[0])
        with torch.no_grad():
            scores = torch.stack(pair_scores(model, pairs))
        tokens, mask = (
            torch.stack([pairs.chosen, pairs.rejected]),
            torch.stack([pairs.chosen_mask, pairs.rejected_mask]),
        )
        ended = ((tokens == tokenizer.eos_token_id) & mask).any(-1)
        penalty = json.loads((folder / "config.json").read_text())["preset"]["ppo"]["unfinished_penalty"]
        (chosen, rejected), (better, worse) = torch.where(ended, scores, penalty), scores
        tied = chosen == rejected
        assert (chosen >= rejected - 1e-5).all() and (better >= worse - 1e-5)[tied].all()
        assert (better > worse + 1e-3).float().mean() > 0.5

    def test_training_starts_from_the_model(self, runs, base):
        """One step of SFT changes little: from other weights the first loss would not be the folder's own."""
        tokenizer = load_tokenizer(str(base / "model"))
        started, trained = (
            load_policy(str(path), tokenizer) for path in (base / "model", runs / "gpt2" / "policies" / "sft")
        )
        moved = [(a - b).abs().max() for a, b in zip(started.parameters(), trained.parameters(), strict=True)]
        assert 0 < max(moved) < 1e-3  # ten steps of Adam at 3e-5 move no weight by more than about 3e-4

    def test_resume_repeats_the_last_stages_to_the_same_numbers(self, runs, base):
        folder = runs / "gpt2"
        before = json.loads((folder / "summary.json").read_text())["policies"]
        stages = json.loads((folder / "stages.json").read_text())
        (folder / "stages.json").write_text(
            json.dumps({k: v for k, v in stages.items() if k not in ("pairs", "evaluation")})
        )
        with quick_settings():
            assert main([*command(base), "--resume"]) == 0
        assert json.loads((folder / "summary.json").read_text())["policies"] == before

    def test_base_of_the_chat_is_the_pretrained_model(self, runs, base):
        session = load_session(runs / "gpt2")
        started = load_policy(str(base / "model"), load_tokenizer(str(base / "model")))
        assert list(session.policies) == ["base", "sft", "ppo", "dpo"]
        assert torch.equal(next(session.policies["base"].parameters()), next(started.parameters()))
        assert session.send("The film was").replies["sft"].text  # goes on with the words of the user


def no_tokenizer(base):
    shutil.copytree(base / "model", base / "bare", dirs_exist_ok=True)
    (base / "bare" / "tokenizer.json").unlink(missing_ok=True)
    return command(base, model="bare")


def too_many_tokens(base):
    small_gpt2(base / "small", vocabulary=300, tokenizer=byte_tokenizer())
    return command(base, model="small")


def written(base, name, content):
    (base / name).write_bytes(content)
    return command(base, data=name)


def rated(*cells):
    """Reviews with these ratings, in turn."""
    rows = [f'"{text.replace(chr(34), "")}","{cells[i % len(cells)]}"\n' for i, text in enumerate(reviews(40))]
    return ("text,r\n" + "".join(rows)).encode()


BAD = {
    "folder without tokenizer": (no_tokenizer, "the folder has no tokenizer.json"),
    "vocabulary that does not fit": (too_many_tokens, "has 400 tokens and the model 300 embeddings"),
    "no folder": (lambda base: command(base, model="none"), "is no folder"),
    "empty file": (lambda base: written(base, "empty.txt", b""), "got 0 texts"),
    "one line": (lambda base: written(base, "one.txt", b"a b c d e f"), "got 1 texts"),
    "wrong columns": (lambda base: written(base, "c.csv", b"a,b\n1,2\n"), "got the columns 'a', 'b', expected 'text'"),
    "ratings that are none": (
        lambda base: [*written(base, "r.csv", rated("1,2", "good")), "--ratings", "r"],
        "column r: row 2 is 'good', expected numbers with commas between them",
    ),
    "no ratings": (
        lambda base: [*written(base, "r.csv", rated("1,2", "1,3")), "--ratings", "stars"],
        "got the columns 'text', 'r', expected 'text', 'stars'",
    ),
    "ratings for pairs": (
        lambda base: [*command(base, "gpt2-hh", "pairs.jsonl"), "--ratings", "r"],
        "ratings: got one for task 'hh'",
    ),
    "not UTF-8": (lambda base: written(base, "l.txt", b"caf\xe9\n" * 50), "is not UTF-8"),
    "no classifier": (lambda base: [*command(base), "--gold", str(base / "model")], "no text classifier"),
    "too long answers": (
        lambda base: [*command(base), "--ppo.max-new-tokens", "90"],
        "max_new_tokens: got 90 and prompts of up to 8 tokens, expected no more than the 96 positions",
    ),
    "no model": (lambda base: [*command(base), "--model", "None"], "model: got none for task 'sentiment'"),
    "a model for the embedded task": (
        lambda base: ["run", "--preset", "tiny", "--model", str(base / "model"), "--runs-dir", str(base / "runs")],
        "model: got one for task 'assistant'",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_ends_with_one_sentence_and_nothing_written(base, name, capsys):
    words, message = BAD[name]
    check_refused([*words(base), "--name", "bad"], message, capsys)
    assert not (base / "runs" / "bad").exists()


def test_a_review_of_100_000_tokens_does_not_matter(base):
    text = "\n".join([*reviews(), "the film was great and " * 25_000])
    (base / "long.txt").write_text(text)
    tokenizer = load_tokenizer(str(base / "model"))
    task = load_task("sentiment", tokenizer, str(base / "long.txt"), None, "vader", 16)
    assert max(map(len, task.demonstrations["completion"])) < 200
