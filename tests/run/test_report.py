"""The report's words and figures, from a summary made by hand: what is rounded how, and what is said of what is not
there. That the figures are those of a run is held by tests/test_figures_of_a_run.py."""

import json
from types import SimpleNamespace

import pytest
import torch

from week6.run import report as module
from week6.run.evaluation import Judged
from week6.run.report import figures_of, report, save_figure, write_samples

POLICY = {
    "gold": 1.234, "gold_se": 0.056, "proxy": -0.001, "proxy_se": None, "kl": 2.005, "kl_se": 0.1, "win_rate": 0.512,
    "win_rate_se": 0.0125, "help_rate": 0.25, "help_rate_se": None, "help_rate_n": 7, "refusal_rate": None,
    "grammatical_rate": 1.0, "grammatical_rate_se": 0.0, "length": 12.34, "length_se": 0.25, "share_of_the_way": 0.497,
    "n": 248, "prompts": 124,
}  # fmt: skip
START = POLICY | {"win_rate": None, "share_of_the_way": None}
SUMMARY = {
    "preset": "tiny", "seed": 3, "device": "CPU", "versions": {"torch": "2.9", "week6": "0.1"}, "best_of": 16,
    "best_gold": 2.9876, "policies": {"sft": START, "ppo": POLICY, "best_of_n": POLICY | {"kl": 1.835}},
    "reward_model": {"accuracy": 0.7512, "accuracy_se": 0.0049, "n": 900, "bayes_accuracy": 0.8067},
    "stages": {
        "sft": {"seconds": 12.34, "tokens_per_second": 1234.5, "peak_memory_mb": 345.6},
        "pairs": {"seconds": 0.5, "tokens_per_second": None, "peak_memory_mb": 100.0},
    },
}  # fmt: skip
PEOPLE = SUMMARY | {
    "best_gold": None,
    "policies": {"sft": START | {"gold": None}, "dpo": POLICY | {"gold": None}},
    "reward_model": SUMMARY["reward_model"] | {"bayes_accuracy": None},
    "stages": {"sft": SUMMARY["stages"]["sft"] | {"tokens_per_second": None}},
}


def rows(text, first):
    """The cells of the table whose head begins with these."""
    lines = text.splitlines()
    (start,) = [i for i, line in enumerate(lines) if line.startswith(f"| {first}")]
    end = next(i for i in range(start, len(lines)) if not lines[i].startswith("|"))
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in lines[start:end] if "---" not in line]


def test_every_figure_is_rounded_has_its_error_and_says_where_there_is_none():
    text = report(SUMMARY)
    head, sft, ppo, best = rows(text, "| gold reward")
    assert ppo == ["PPO", "1.23 ± 0.06", "0.00", "2.00 ± 0.10", "51.2 ± 1.2 % (248)", "25.0 % (7)", "—",
                   "100.0 ± 0.0 % (248)", "12.3 ± 0.2", "50 %", "248 to 124 prompts"]  # fmt: skip
    assert sft == ["SFT", *ppo[1:4], "—", *ppo[5:9], "—", ppo[10]] and len(head) == len(ppo)
    assert best == ["best of 16", *ppo[1:3], "≤ 1.83", *ppo[4:]]  # a bound, without an error
    assert "# Run of preset `tiny`, seed 3\n\nOn CPU; torch 2.9, week6 0.1.\n" in text
    assert "gold reward on these prompts is 2.988: the exact maximum" in text
    assert "agrees with its ranking on 75.1 ± 0.5 % (900) of held-out pairs" in text and "on 80.7 % of them" in text
    assert rows(text, "stage |")[1:] == [
        ["sft", "12.3", "1234", "346"], ["pairs", "0.5", "—", "100"], ["all", "12.8", "", ""],
    ]  # fmt: skip


def test_where_people_chose_nothing_is_said_of_a_gold_reward():
    text = report(PEOPLE)
    assert [row[1] for row in rows(text, "| gold reward")[1:]] == ["—", "—"] and "best achievable" not in text
    assert "the people who chose on 75.1 ± 0.5 % (900) of held-out pairs; no ceiling is known" in text
    assert figures_of(PEOPLE) == ["reward_model", "rewards", "ppo", "dpo"]
    assert figures_of(SUMMARY) == list(module.FIGURES)
    for name, caption in module.FIGURES.items():
        assert (f"![{caption}](plots/{name}.png)\n\n*{caption}*" in text) == (name in figures_of(PEOPLE))
    assert "The judge" not in text and "Refusal" not in text


@pytest.mark.parametrize(("start", "against"), [("base", ["base", "SFT"]), ("sft", ["SFT"])])
@pytest.mark.parametrize(("longer", "words"), [(True, "the longer"), (False, "the shorter")])
def test_the_judge_s_figures_and_how_far_they_can_be_believed(start, against, longer, words):
    row = {"score": 0.5, "score_se": 0.05}
    won = {f"wins_against_{start}": 0.625, f"wins_against_{start}_se": 0.0126}
    sure = {f"wins_against_{start}_low": 0.6003, f"wins_against_{start}_high": 0.6497}
    judge = {
        "start": start, "accuracy": 0.656, "accuracy_se": 0.021, "n": 512, "length": 0.55, "length_se": None,
        "prefers_longer": longer, "policies": {"sft": row, "dpo": row | won | sure, "ppo": row | won},
    }  # fmt: skip
    text = report(PEOPLE | {"judge": judge})
    assert f"ranking on 65.6 ± 2.1 % (512) of held-out pairs; by chance it would be 50 %, and with who always takes {words} answer for the better one it is 55.0 %. So it errs in 34 of 100" in text  # fmt: skip  # noqa: E501
    head, sft, dpo, ppo = rows(text, "| judge's score")
    assert head == ["", "judge's score", *(f"wins against {name} (95 % interval)" for name in against)]
    assert sft == ["SFT", "0.50 ± 0.05", *["—"] * len(against)]
    assert dpo == ["DPO", "0.50 ± 0.05", "62.5 ± 1.3 % (60.0 … 65.0)", "—"][: len(head)]
    assert ppo[2] == "62.5 ± 1.3 %"


def test_the_course_s_own_requests():
    kinds = ("harmful", "sounds_harmful", "harmless", "small_talk")
    keys = [*(f"refusal_{kind}" for kind in kinds), "over_refusal", *(f"compliance_{kind}" for kind in kinds)]
    row = {key: i / 10 for i, key in enumerate(keys)} | {f"{key}_se": 0.03 for key in keys} | {"prompts": 72}
    text = report(PEOPLE | {"own_requests": {"base": row, "sft": row | {"over_refusal_se": None}}})
    assert "Answers to 72 mild requests" in text
    head, base, sft = rows(text, "| refuses: harmful")
    assert head[2] == "refuses: sounds harmful" and head[5:7] == ["all that is harmless", "complies: harmful"]
    assert base == ["base", *(f"{10 * i}.0 ± 3.0 %" for i in range(9))] and sft == [
        "SFT",
        *base[1:5],
        "40.0 %",
        *base[6:],
    ]


@pytest.mark.parametrize(("prompts", "shown"), [(5, 5), (24, 24), (47, 47), (48, 24), (250, 25)])
def test_answers_to_some_two_dozen_prompts_evenly_spread(prompts, shown, tmp_path):
    texts = [[f"answer {i}", "second"] for i in range(prompts)]
    proxy, zeros = torch.arange(2.0 * prompts).reshape(prompts, 2), torch.zeros(prompts, 2)
    people = Judged(texts, proxy, None, zeros, zeros)
    ruled = Judged(texts, proxy, torch.arange(prompts).double().unsqueeze(1) / 8, zeros, zeros)
    write_samples(SimpleNamespace(folder=tmp_path), [f"<p> {i}" for i in range(prompts)], {"sft": people, "ppo": ruled})
    found = json.loads((tmp_path / "samples.json").read_text())
    step = 1 if shown == prompts else prompts // 24
    assert [row["prompt"] for row in found if row["policy"] == "sft"] == [f"<p> {i}" for i in range(0, prompts, step)]
    assert len(found) == 2 * shown
    for first, second in zip(found[::2], found[1::2], strict=True):
        i = int(first["prompt"].split()[-1])
        assert (first["answer"], first["gold"], first["proxy"]) == (f"answer {i}", None, 2.0 * i)
        assert (second["policy"], second["gold"]) == ("ppo", i / 8)
    text = (tmp_path / "samples.md").read_text()
    assert text.count("**&lt;p&gt;") == text.count("| policy | answer |") == shown
    assert text.count("| proxy |\n|---|---|---|---|\n| SFT |") == shown  # both policies in one table
    assert (
        f"| PPO | answer {step} | {step / 8:.2f} | {2 * step:.2f} |" in text and f"| SFT | answer {step} | — |" in text
    )


def test_a_plot_is_drawn_by_the_main_process_alone(tmp_path, monkeypatch):
    drawn = []
    figure = SimpleNamespace(savefig=lambda path, **how: drawn.append(how) or path.write_bytes(b"x"))
    save_figure(tmp_path / "a.png", lambda: figure)
    monkeypatch.setattr(module, "compute", lambda: SimpleNamespace(is_main=False))
    save_figure(tmp_path / "b.png", lambda: figure)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"] and drawn == [{"format": "png", "dpi": 120}]
