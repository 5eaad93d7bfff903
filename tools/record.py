"""Measure what the pages in docs/ state: `python -m tools.record [SEED ...]`.

For each seed one run of preset tiny (runs/record-SEED); what it found goes to tests/recorded/tiny.json. Interrupted, it
goes on where it stopped. The last columns of docs/results.md come from `week6 frontier --record`, which measures PPO
with a tenth of β: there the proxy keeps rising and the gold falls. `--tables` measures nothing and writes the tables
anew, those of tests/recorded/bench.json (`make bench`) among them.
"""

import json
import sys
from pathlib import Path
from typing import Any

from tools.bench import report as bench
from week6.pictures import plots
from week6.recorded import recorded, recorded_summary
from week6.run import budget, pipeline
from week6.run.models import PRESETS
from week6.run.report import save_figure

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
RECORDED = ROOT / "tests" / "recorded"
BENCH = RECORDED / "bench.json"
GROWTH = ROOT / "imgs" / "bench-growth.png"


def measure(seed: int) -> dict[str, Any]:
    """One whole run of preset tiny."""
    folder = ROOT / "runs" / f"record-{seed}"
    return pipeline.run(PRESETS["tiny"], folder, seed, resume=folder.exists())


def figures_table() -> str:
    """The recorded figures as Markdown."""
    summaries = json.loads((RECORDED / "tiny.json").read_text())
    lines = [
        "| seed | policy | gold reward | of the way | KL to SFT (nats) | harmless helped | harmful refused |",
        "|---|---|---|---|---|---|---|",
    ]
    for seed, summary in summaries.items():
        for name in ("sft", "ppo", "dpo", "best_of_n"):
            row = summary["policies"][name]
            kl = f"≤ {row['kl']:.2f}" if name == "best_of_n" else f"{abs(row['kl']):.2f} ± {row['kl_se']:.2f}"
            rates = [f"{100 * row[r]:.1f} ± {100 * row[r + '_se']:.1f} %" for r in ("help_rate", "refusal_rate")]
            way = f"{100 * row['share_of_the_way']:.0f} %"
            label = plots.POLICIES[name][0].replace("of n", f"of {summary['best_of']}")
            cells = [seed, label, f"{row['gold']:.2f} ± {row['gold_se']:.2f}", way, kl, *rates]
            lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "| seed | reward model | Bayes ceiling | PPO with a tenth of β: proxy | gold |",
        "|---|---|---|---|---|",
    ]
    weak_runs = recorded("overoptimisation")
    for seed, summary in summaries.items():
        judge, weak = summary["reward_model"], weak_runs[weak_runs["seed"] == int(seed)]
        peak = weak["gold"].rolling(20).mean()
        cells = [
            seed,
            f"{100 * judge['accuracy']:.1f} ± {100 * judge['accuracy_se']:.1f} %",
            f"{100 * judge['bayes_accuracy']:.1f} %",
            f"{weak['score'].iloc[:20].mean():.2f} → {weak['score'].iloc[-20:].mean():.2f}",
            f"{weak['gold'].iloc[:20].mean():.2f} → {peak.max():.2f} (highest) → {weak['gold'].iloc[-20:].mean():.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def exact_table() -> str:
    """How far the policies of `week6 frontier` end from the optimum of the exact world, as Markdown."""
    names = {
        "ppo": "PPO on the true reward",
        "dpo": "DPO on 20 000 sampled pairs",
        "dpo_two_rounds": "the same, and then as many pairs of its own",
    }
    table, betas = recorded("frontier_exact"), (0.5, 1.0)
    lines = [f"| | {' | '.join(f'β = {beta:g}' for beta in betas)} |", "|---|---|---|"]
    for method, label in names.items():
        points = table[table["method"] == method]
        cells = [", ".join(f"{gap:.3f}" for gap in points.loc[points["beta"] == beta, "gap"]) for beta in betas]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def budget_table() -> str:
    """What preset gpt2 costs on a T4 by counting, as Markdown."""
    return budget.report(PRESETS["gpt2"], budget.SHAPES["gpt2"], budget.T4)


def real_table() -> str:
    """The recorded run on SmolLM2 as Markdown."""
    summary = recorded_summary("smollm2")
    lines = [
        "| policy | gold reward (VADER) | proxy reward | KL to SFT (nats) | length (tokens) | wins against SFT |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in summary["policies"].items():
        label = plots.POLICIES[name][0].replace("of n", f"of {summary['best_of']}")
        kl = f"≤ {row['kl']:.2f}" if name == "best_of_n" else f"{abs(row['kl']):.2f} ± {row['kl_se']:.2f}"
        figures = [f"{row[x]:.{d}f} ± {row[x + '_se']:.{d}f}" for x, d in (("gold", 3), ("proxy", 2), ("length", 1))]
        wins = "" if row["win_rate"] is None else f"{100 * row['win_rate']:.1f} ± {100 * row['win_rate_se']:.1f} %"
        lines.append(f"| {' | '.join([label, *figures[:2], kl, figures[2], wins])} |")
    judge = summary["reward_model"]
    return "\n".join(
        [
            *lines,
            "",
            f"{row['n']} answers to {row['prompts']} held-out prompts each, ± standard error. A person agrees with the "
            f"reward model's ranking on {100 * judge['accuracy']:.1f} ± {100 * judge['accuracy_se']:.1f} % of "
            f"{judge['n']} held-out pairs; the best that any judge can reach is {100 * judge['bayes_accuracy']:.1f} %.",
        ]
    )


def growth_table() -> str:
    """How long steps take as the work grows, with the picture where there is something to see."""
    record = bench.read(BENCH)
    shown = f"\n\n![Seconds of a DPO step over its operations, as the work grows](../imgs/{GROWTH.name})"
    return bench.growth(record) + shown * bench.picture(record).axes[0].has_data()


TABLES = {
    "figures": figures_table,
    "exact": exact_table,
    **{f"bench_{name}": lambda table=table: table(bench.read(BENCH)) for name, table in bench.TABLES.items()},
    "bench_growth": growth_table,
    "real": real_table,
    "budget": budget_table,
}
"""What stands between <!-- NAME --> and <!-- /NAME --> on a page of docs/."""


def between(text: str, name: str) -> tuple[str, str, str]:
    """What stands in `text` before, between and after the marks of a table."""
    before, begin, rest = text.partition(f"<!-- {name} -->\n")
    table, end, after = rest.partition(f"\n<!-- /{name} -->")
    return before + begin, table, end + after


def main(seeds: list[int]) -> None:
    """Run; write tests/recorded/tiny.json, imgs/tiny-frontier.png and the tables."""
    RECORDED.mkdir(parents=True, exist_ok=True)
    summaries = {str(seed): measure(seed) for seed in seeds}
    (RECORDED / "tiny.json").write_text(json.dumps(summaries, indent=1) + "\n")
    first = summaries[str(seeds[0])]
    save_figure(ROOT / "imgs" / "tiny-frontier.png", lambda: plots.frontier(first["policies"], first["best_gold"]))
    write_tables()


def write_tables() -> None:
    """Put the tables into the pages that have a place for them."""
    for page in DOCS.glob("*.md"):
        text = page.read_text(encoding="utf-8")
        for name, table in TABLES.items():
            if f"<!-- {name} -->" in text:
                before, _, after = between(text, name)
                text = before + table() + after
        page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:] == ["--tables"]:
        write_tables()
        if GROWTH.name in growth_table():
            save_figure(GROWTH, lambda: bench.picture(bench.read(BENCH)))
    else:
        main([int(seed) for seed in sys.argv[1:]] or [0, 1, 2])
