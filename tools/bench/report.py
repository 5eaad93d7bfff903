"""What was measured, as tables and a picture. Reads the record alone."""

import json
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from tools.bench.parts import BUSY_TIMES, GOALS, GROWTH, GROWTH_WITHIN, OURS, PRODUCT, PRODUCTS, RATE, READING, Goal
from tools.bench.turns import ratios

Record = dict[str, dict[str, Any]]


def read(path: Path) -> Record:
    """The record, empty where there is none yet."""
    found: Record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def middle(values: Sequence[float]) -> float:
    """The median."""
    return statistics.median(values)


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median and quartiles."""
    low, mid, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{mid:.{digits}f} ({low:.{digits}f} – {high:.{digits}f})"


def markdown(*rows: Sequence[str]) -> str:
    """A table; the first row is its head."""
    head, *rest = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rest))


def clock(result: dict[str, Any]) -> str:
    """Which times count. Of one thread the CPU's: waiting for a core that another program has is no work. Of more the
    clock's, since threads that wait for each other may spin."""
    return "cpu" if result["threads"] == 1 else "seconds"


def compared(record: Record) -> Iterator[tuple[dict[str, Any], Goal, dict[str, Any], dict[str, Any]]]:
    """Each comparison that there is: result, goal, our side, theirs."""
    for key, goals in GOALS.items():
        for goal in goals if key in record else ():
            sides = record[key]["sides"]
            yield record[key], goal, sides[goal.ours], sides[goal.theirs]


def comparisons(record: Record) -> str:
    """A row for each comparison with a peer: seconds a step, how many times as fast, and what is wanted."""
    head = ["work", "sides", "seconds", "ratio (quartiles)", "wanted", "ratio on the clock", "tokens a second", "load"]
    rows = []
    for result, goal, ours, theirs in compared(record):
        key = clock(result)
        found = ratios(result, goal.theirs, goal.ours, key)
        speeds = [middle([n / s for n, s in zip(ours["tokens"], side[key], strict=True)]) for side in (ours, theirs)]
        rows.append(
            [
                result["work"],
                f"{goal.ours} / {theirs.get('version', goal.theirs)}",
                f"{middle(ours[key]):.3g} / {middle(theirs[key]):.3g}",
                spread(found),
                f"{goal.ratio} {verdict(middle(found) >= goal.ratio)}",
                f"{middle(ratios(result, goal.theirs, goal.ours)):.2f}",
                " / ".join(f"{speed:.0f}" for speed in speeds),
                f"{result['load'] or '–'}",
            ]
        )
    return markdown(head, *rows)


def memory(record: Record) -> str:
    """The most memory that each side's process held."""
    head = ["work", "sides", "peak memory (MB)", "share", "at most wanted"]
    rows = [
        [
            result["work"],
            f"{goal.ours} / {theirs.get('version', goal.theirs)}",
            f"{ours['peak_mb']} / {theirs['peak_mb']}",
            f"{ours['peak_mb'] / theirs['peak_mb']:.2f}",
            f"{goal.memory} {verdict(ours['peak_mb'] <= goal.memory * theirs['peak_mb'])}",
        ]
        for result, goal, ours, theirs in compared(record)
    ]
    return markdown(head, *rows)


def verdict(reached: bool) -> str:
    """Whether what is wanted is reached."""
    return "✓" if reached else "✗"


def limits(record: Record) -> str:
    """How near a training step comes to the rate at which the machine multiplies matrices."""
    head = ["work", "operations (10⁹)", "10⁹ a second", "a matrix product", "share", "wanted"]
    rows = []
    for key in GOALS:
        if PRODUCT in (sides := record.get(key, {}).get("sides", {})):
            step, product = (
                [side["operations"] / s / 1e9 for s in side[clock(record[key])]]
                for side in (sides[OURS], sides[PRODUCT])
            )
            share = middle([a / b for a, b in zip(step, product, strict=True)])
            rows.append(
                [
                    record[key]["work"],
                    f"{sides['week6']['operations'] / 1e9:.0f}",
                    f"{middle(step):.1f}",
                    f"{middle(product):.1f}",
                    f"{100 * share:.0f} %",
                    f"{100 * RATE:.0f} % {verdict(share >= RATE)}",
                ]
            )
    return markdown(head, *rows)


def floors(record: Record) -> str:
    """What sampling takes beside the products that it cannot do without, and beside those of a single row."""
    head = ["work", "seconds", PRODUCTS, "share", READING, "share"]
    rows = []
    for key in GOALS:
        if PRODUCTS in (sides := record.get(key, {}).get("sides", {})):
            kind = clock(record[key])
            row = [record[key]["work"], f"{middle(sides[OURS][kind]):.3g}"]
            for name in (PRODUCTS, READING):
                share = middle(ratios(record[key], name, OURS, kind))
                row += [f"{middle(sides[name][kind]):.3g}", f"{100 * share:.0f} %"]
            rows.append(row)
    return markdown(head, *rows)


def missed(record: Record) -> str:
    """Which ratios and shares of the memory are not what is wanted, by how much, and what is not measured yet."""
    lines = []
    for result, goal, ours, theirs in compared(record):
        who = f"{result['work']}, {goal.ours} beside {theirs.get('version', goal.theirs)}"
        ratio = middle(ratios(result, goal.theirs, goal.ours, clock(result)))
        share = ours["peak_mb"] / theirs["peak_mb"]
        lines += [f"- {who}: {ratio:.2f} times as fast, {goal.ratio} wanted"] * (ratio < goal.ratio)
        lines += [f"- {who}: {share:.2f} of the memory, {goal.memory} wanted"] * (share > goal.memory)
    absent = ", ".join(f"`{key}`" for key in (*GOALS, *GROWTH, "busy") if key not in record)
    return "\n".join([*lines, f"- not measured yet: {absent}"] if absent else lines or ["- nothing"])


def points(result: dict[str, Any]) -> dict[str, tuple[float, float, float]]:
    """Of each point of a series: operations, seconds, and how far its seconds an operation lie from the
    middle of the series', as a share."""
    found = {name: (side["operations"], middle(side[clock(result)])) for name, side in result["sides"].items()}
    usual = middle([seconds / count for count, seconds in found.values()])
    return {name: (count, seconds, seconds / count / usual - 1) for name, (count, seconds) in found.items()}


def growth(record: Record) -> str:
    """The series: operations, seconds, and seconds an operation."""
    head = ["DPO step", "operations (10⁹)", "seconds", "seconds an operation, beside the series' median"]
    rows = [
        [name, f"{count / 1e9:.1f}", f"{seconds:.3g}", f"{100 * off:+.0f} % {verdict(abs(off) <= GROWTH_WITHIN)}"]
        for key in GROWTH
        if key in record
        for name, (count, seconds, off) in points(record[key]).items()
    ]
    return markdown(head, *rows)


def busy(record: Record) -> str:
    """What a step takes beside processes that do nothing but count."""
    head = ["threads", "ms a step", "beside two busy loops", "times (quartiles)", "wanted"]
    rows = []
    result = record.get("busy", {"sides": {}})
    for name, side in result["sides"].items():
        alone, beside = (
            [s for s, n in zip(side["seconds"], result["loops"], strict=True) if bool(n) == loops]
            for loops in (False, True)
        )
        times = [b / a for a, b in zip(alone, beside, strict=False)]
        rows.append(
            [
                name,
                f"{1000 * middle(alone):.0f}",
                f"{1000 * middle(beside):.0f}",
                spread(times, 1),
                f"{BUSY_TIMES} {verdict(middle(times) <= BUSY_TIMES)}",
            ]
        )
    return markdown(head, *rows)


def where(record: Record) -> str:
    """Machine and versions, a line for each kind that the record has."""
    kinds: dict[str, list[str]] = {}
    for key, result in record.items():
        machine = result["machine"]
        threads = f"{result['threads']} thread{'s' * (result['threads'] > 1)} a process"
        versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
        place = f"{machine['cores']} cores of an {machine['processor']}"
        text = f"{place}, {threads}, fp32, {versions}"
        kinds.setdefault(text, []).append(key)
    lines = [f"{text}: {', '.join(f'`{key}`' for key in keys)}" for text, keys in kinds.items()]
    return "\n".join(f"- {line}" for line in lines)


TABLES = {
    "comparisons": comparisons,
    "memory": memory,
    "limits": limits,
    "floors": floors,
    "growth": growth,
    "busy": busy,
    "missed": missed,
    "where": where,
}


def picture(record: Record) -> Figure:
    """Seconds over operations, a line for each series, beside time that grows with the operations alone."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for key in GROWTH:
        if key in record:
            found = points(record[key]).values()
            counts = [count / 1e9 for count, _, _ in found]
            (line,) = axes.plot(counts, [s for _, s, _ in found], "o-", label=key.removeprefix("growth-"))
            usual = middle([s / count for count, s, _ in found])
            axes.plot(counts, [usual * 1e9 * count for count in counts], ":", color=line.get_color())
    axes.set(xscale="log", yscale="log", xlabel="operations of a DPO step (10⁹)", ylabel="seconds")
    if axes.has_data():
        axes.legend(title="growing")
    return figure
