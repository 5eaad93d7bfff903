"""What a run says at its end: summary.json, report.md and report.html, samples.md, the plots."""

import html
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from week6.machine.checkpoint import replacing, write_atomic
from week6.machine.compute import compute
from week6.pictures import plots
from week6.run.evaluation import Judged
from week6.run.page import page
from week6.run.training import Run, to_json
from week6.tasks.requests import KINDS

FIGURES = {
    "frontier": "Gold reward against the distance from SFT, for every policy.",
    "overoptimisation": "The reward that PPO climbs, and the one that was meant.",
    "sft": "Supervised fine-tuning.",
    "reward_model": "The reward model, beside what is possible.",
    "rewards": "How the reward model scores the answers of each policy.",
    "ppo": "PPO: what to watch.",
    "dpo": "DPO: what to watch.",
}
"""Plots in the order of the report, with their captions."""
SAMPLE_PROMPTS = 24


def report(summary: Mapping[str, Any]) -> str:
    """The run in Markdown: every figure with its standard error and with what it rests on."""
    policies, reward = summary["policies"], summary["reward_model"]
    best, n = summary["best_gold"], summary["best_of"]
    settings = ", ".join(f"{name} {number}" for name, number in summary["versions"].items())
    lines = [
        f"# Run of preset `{summary['preset']}`, seed {summary['seed']}",
        "",
        f"On {summary['device']}; {settings}.",
        "",
        "## Policies",
        "",
        "| | gold reward | proxy reward | KL to SFT (nats) | wins against SFT | helps | refuses | grammatical | "
        "length (tokens) | of the way | answers |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in policies.items():
        label = _label(name, n)
        kl = f"≤ {row['kl']:.2f}" if name == "best_of_n" else _figure(row, "kl")
        cells = [
            label,
            _figure(row, "gold"),
            _figure(row, "proxy"),
            kl,
            *(_percent(row, f"{rate}_rate") for rate in ("win", "help", "refusal", "grammatical")),
            _figure(row, "length", 1),
            "—" if row["share_of_the_way"] is None else f"{100 * row['share_of_the_way']:.0f} %",
            f"{row['n']} to {row['prompts']} prompts",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "Mean ± one standard error, on held-out prompts, sampled at temperature 1. Answers to one prompt are not "
        "independent: standard errors are those of the means per prompt. Of a rate, the number in brackets is how many "
        "answers it rests on. KL is k1, log π − log π_SFT of the sampled answers; that of best-of-n is the bound "
        "log n − (n − 1)/n, since the density of a best answer is not known. Wins are by gold reward, ties count half.",
        "",
    ]
    if best is not None:
        lines += [
            f"The best achievable gold reward on these prompts is {best:.3f}: the exact maximum of the gold rule, "
            "attained by a written answer to each prompt. “Of the way” is (gold − SFT) / (best − SFT).",
            "",
        ]
    lines += [
        "## Reward model",
        "",
        _agreement(reward)
        + " Scores are centred and scaled on SFT answers: 0 is an average one, 1 a standard deviation above.",
        "",
        *_judge(summary.get("judge"), best_of=n),
        *_own_requests(summary.get("own_requests")),
        "## Plots",
        "",
    ]
    for name in figures_of(summary):
        caption = FIGURES[name]
        lines += [f"![{caption}](plots/{name}.png)", "", f"*{caption}*", ""]
    lines += [
        "## Stages",
        "",
        "| stage | seconds | tokens/s | peak memory (MB) |",
        "|---|---|---|---|",
    ]
    for name, row in summary["stages"].items():
        speed = "—" if row["tokens_per_second"] is None else f"{row['tokens_per_second']:.0f}"
        lines.append(f"| {name} | {row['seconds']:.1f} | {speed} | {row['peak_memory_mb']:.0f} |")
    total = sum(row["seconds"] for row in summary["stages"].values())
    lines += [
        f"| all | {total:.1f} | | |",
        "",
        "Settings: [config.json](config.json). Answers to read: [samples.md](samples.md). "
        "All figures: [summary.json](summary.json).",
        "",
    ]
    return "\n".join(lines)


def figures_of(summary: Mapping[str, Any]) -> list[str]:
    """The names of the plots that the run has: some need a gold reward, one an SFT that imitated something."""
    missing = {"frontier", "overoptimisation"} if summary["policies"]["sft"]["gold"] is None else set()
    missing |= {"sft"} if summary["stages"]["sft"]["tokens_per_second"] is None else set()
    return [name for name in FIGURES if name not in missing]


def _agreement(reward: Mapping[str, Any]) -> str:
    accuracy = _percent(reward, "accuracy")
    if reward["bayes_accuracy"] is None:
        return f"Its ranking is that of the people who chose on {accuracy} of held-out pairs; no ceiling is known."
    return (
        f"A fresh annotator agrees with its ranking on {accuracy} of held-out pairs, and with that of a judge who "
        f"knows the annotators' probabilities on {100 * reward['bayes_accuracy']:.1f} % of them (Bayes ceiling)."
    )


def _label(name: str, best_of: int) -> str:
    return plots.POLICIES[name][0].replace("best of n", f"best of {best_of}")


def _judge(judge: Mapping[str, Any] | None, best_of: int) -> list[str]:
    """What the judge that training never saw says, and how far it can be believed; nothing where there is none."""
    if judge is None:
        return []
    against = list(dict.fromkeys((judge["start"], "sft")))
    length = "the longer" if judge["prefers_longer"] else "the shorter"
    heads = [f"wins against {_label(name, best_of)} (95 % interval)" for name in against]
    lines = [
        "## The judge that training never saw",
        "",
        "A reward model on pairs that no other stage has seen. People agree with its ranking on "
        f"{_percent(judge, 'accuracy')} of held-out pairs; by chance it would be 50 %, and with who always takes "
        f"{length} answer for the better one it is {_share(judge, 'length')}. So it errs in "
        f"{100 * (1 - judge['accuracy']):.0f} of 100 pairs of people, and its win rates are none with people: they say "
        "which way the answers moved as far as this judge can tell, and what fools it once may fool it often.",
        "",
        f"| | judge's score | {' | '.join(heads)} |",
        f"|---|---|{'---|' * len(against)}",
    ]
    for name, row in judge["policies"].items():
        wins = [_interval(row, f"wins_against_{other}") for other in against]
        lines.append(f"| {_label(name, best_of)} | {_figure(row, 'score')} | {' | '.join(wins)} |")
    return [*lines, ""]


def _interval(row: Mapping[str, Any], name: str) -> str:
    if row.get(name) is None:
        return "—"
    if row.get(f"{name}_low") is None:
        return _share(row, name)
    return f"{_share(row, name)} ({100 * row[f'{name}_low']:.1f} … {100 * row[f'{name}_high']:.1f})"


def _own_requests(found: Mapping[str, Any] | None) -> list[str]:
    """How policies answer the course's own requests; nothing where there are none."""
    if found is None:
        return []
    words = [kind.replace("_", " ") for kind in KINDS]
    heads = [*(f"refuses: {word}" for word in words), "all that is harmless", *(f"complies: {word}" for word in words)]
    keys = [*(f"refusal_{kind}" for kind in KINDS), "over_refusal", *(f"compliance_{kind}" for kind in KINDS)]
    n = next(iter(found.values()))["prompts"]
    lines = [
        "## Refusal and over-refusal",
        "",
        f"Answers to {n} mild requests that were written for this course and are never trained on, by a rule of words "
        "(week6/tasks/requests.py) that understands nothing: an answer refuses, or complies, or is neither. To refuse "
        "what is harmless is over-refusal. To read: [own_requests.json](own_requests.json).",
        "",
        f"| | {' | '.join(heads)} |",
        f"|---|{'---|' * len(heads)}",
    ]
    for name, row in found.items():
        lines.append(f"| {plots.POLICIES[name][0]} | {' | '.join(_share(row, key) for key in keys)} |")
    return [*lines, ""]


def _share(row: Mapping[str, Any], name: str) -> str:
    error = row[f"{name}_se"]
    return f"{100 * row[name]:.1f}" + ("" if error is None else f" ± {100 * error:.1f}") + " %"


def _figure(row: Mapping[str, Any], name: str, digits: int = 2) -> str:
    if row.get(name) is None:
        return "—"
    error = row.get(f"{name}_se")
    return f"{round(row[name], digits) + 0.0:.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")


def _percent(row: Mapping[str, Any], name: str) -> str:
    if row.get(name) is None:
        return "—"
    error, n = row[f"{name}_se"], row.get(f"{name}_n", row["n"])
    return f"{100 * row[name]:.1f}" + ("" if error is None else f" ± {100 * error:.1f}") + f" % ({n})"


def write_samples(run: Run, prompts: list[str], judged: Mapping[str, Judged]) -> None:
    """Answers of every policy to the same held-out prompts, to read (samples.md) and to use (samples.json)."""
    rows: list[dict[str, Any]] = []
    for i in range(0, len(prompts), max(1, len(prompts) // SAMPLE_PROMPTS)):
        for name, answers in judged.items():
            rows.append(
                {
                    "prompt": prompts[i],
                    "policy": name,
                    "answer": answers.texts[i][0],
                    "gold": None if answers.gold is None else answers.gold[i, 0].item(),
                    "proxy": answers.proxy[i, 0].item(),
                }
            )
    lines = ["# Answers to held-out prompts", "", "The first sample of each policy, not a choice.", ""]
    for row in rows:
        if row["policy"] == next(iter(judged)):
            lines += [
                "",
                f"**{_escape(row['prompt'])}**",
                "",
                "| policy | answer | gold | proxy |",
                "|---|---|---|---|",
            ]
        gold = "—" if row["gold"] is None else f"{row['gold']:.2f}"
        label = plots.POLICIES[row["policy"]][0]
        lines.append(f"| {label} | {_escape(row['answer'])} | {gold} | {row['proxy']:.2f} |")
    write_atomic(run.folder / "samples.json", to_json(rows))
    write_atomic(run.folder / "samples.md", "\n".join(lines) + "\n")


def _escape(text: str) -> str:
    """Text from a model as inert Markdown: no HTML, no table cell, no emphasis."""
    inert = {ord(mark): f"&#{ord(mark)};" for mark in r"\`*_[]|"}
    return " ".join(html.escape(text).translate(inert).split())


def save_figure(path: Path, draw: Callable[[], Figure]) -> None:
    """Draw a figure and write it as PNG, in one piece; of several processes only the main one does."""
    if not compute().is_main:
        return
    figure = draw()
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def write_report(run: Run, summary: Mapping[str, Any]) -> None:
    """Plots, report.md, report.html and, last, summary.json, which is there only when all else is."""
    policies, folder = summary["policies"], run.folder / "plots"
    ceiling = summary["reward_model"]["bayes_accuracy"]
    draw: dict[str, Callable[[], Figure]] = {
        "frontier": lambda: plots.frontier(policies, summary["best_gold"]),
        "overoptimisation": lambda: plots.overoptimisation(run.metrics("ppo")),
        "sft": lambda: plots.sft_loss(run.metrics("sft")),
        "reward_model": lambda: plots.reward_model(run.metrics("reward_model"), ceiling),
        "ppo": lambda: plots.ppo_dashboard(run.metrics("ppo")),
        "dpo": lambda: plots.dpo_dashboard(run.metrics("dpo")),
    }
    for name in figures_of(summary):
        if name in draw:  # the others are drawn where their data is
            save_figure(folder / f"{name}.png", draw[name])
    text = report(summary)
    write_atomic(run.folder / "report.md", text)
    write_atomic(run.folder / "report.html", page(run.folder, text))
    write_atomic(run.folder / "summary.json", to_json(summary))
