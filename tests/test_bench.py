"""The measurements beside other libraries: equal work on all sides, turns, and the arithmetic of the tables."""

import gzip
import json
from dataclasses import replace

import pytest
import torch

from tools.bench import __main__ as bench
from tools.bench import ours, parts, report, theirs, turns
from tools.bench.cases import Case, Shape, conversation_lengths, equal_rows, ragged_prompts
from tools.bench.models import random_model, rate
from tools.bench.turns import Race, Side
from week6.machine.optim import set_learning_rate

GPT2, LLAMA = Shape(2, 2, 32, 199), Shape(2, 4, 32, 199, inner=64, key_value_heads=2)
RAGGED = [[9, 4, 12], [3, 8, 1], [12, 2, 2], [5, 11, 7], [4, 4, 9], [8, 1, 3], [2, 6, 6], [7, 9, 4]]


class Heard:
    """In the place of `Turns`: what a side says, without a race."""

    def __init__(self):
        self.weights, self.facts, self.numbers, self.tokens, self.open = [], {}, [], [], False

    def ready(self, weights, **facts):
        self.weights, self.facts = list(weights), facts

    def begin(self):
        assert not self.open
        self.open = True

    def end(self):
        assert self.open
        self.open = False

    def tell(self, *numbers, tokens=0):
        assert not self.open
        self.numbers.append(numbers)
        self.tokens.append(tokens)


def heard(side, case):
    found = Heard()
    side(case, found)
    assert len(found.numbers) == case.steps
    return found


@pytest.mark.parametrize("name", ["dpo", "dpo_uncached", "reward", "sft"])
@pytest.mark.parametrize("shape", [GPT2, LLAMA])
def test_both_libraries_train_on_the_same_numbers(name, shape):
    """Rows of different lengths, in more than one batch, while the loss falls."""
    case = Case(shape, RAGGED, 4, steps=4, learning_rate=1e-3)
    mine, other = heard(getattr(ours, name), case), heard(getattr(theirs, name), case)
    assert mine.weights == other.weights
    assert other.facts["version"].startswith("TRL 1.16")
    for a, b in zip(mine.numbers, other.numbers, strict=True):
        assert abs(a[0] - b[0]) <= 1e-4
    assert max(mine.numbers)[0] - min(mine.numbers)[0] > 0.01  # 100 times what is let through
    answers = 1 if name == "sft" else 2
    tokens = sum(answers * prompt + sum(n + 1 for n in rest[:answers]) for prompt, *rest in RAGGED)
    assert sum(mine.tokens[:2]) == tokens


@pytest.mark.parametrize("ends", [0, 16])
def test_sample_and_generate_draw_the_same_tokens(ends):
    case = Case(GPT2, ragged_prompts(16, 8, 12), 16, steps=2, ends=ends)
    mine, other = heard(ours.sampling, case), heard(theirs.generate, case)
    assert mine.numbers == other.numbers and mine.numbers[0] != mine.numbers[1]
    assert (mine.tokens[0] == 16 * 12) == (ends == 0)


def test_a_rows_number_knows_token_and_place_but_no_padding():
    rows = torch.tensor([[5, 7, 0], [7, 5, 0], [5, 7, 1], [5, 8, 0]])
    numbers = ours.row_numbers(rows)
    assert len(set(numbers)) == 4
    assert ours.row_numbers(rows[:1, :2]) == numbers[:1]
    assert theirs.cut_at_end(torch.tensor([[3, 9, 4, 9], [1, 1, 1, 1]]), [9, 8]).tolist() == [
        [3, 9, 0, 0],
        [1, 1, 1, 1],
    ]


@pytest.mark.parametrize("side", [ours.ppo, ours.ppo_own_critic])
def test_both_kinds_of_ppo_begin_with_the_same_answers(side):
    case = Case(GPT2, equal_rows(4, 6, 5), 4, steps=2, ends=0, learning_rate=1e-3)
    found = heard(side, case)
    assert found.numbers[0][:2] == heard(ours.ppo, case).numbers[0]
    assert found.tokens == [4 * 11] * 2


def test_a_steps_operations_are_those_of_its_products():
    """Three times the forward pass: 24 d² and attention for a token and layer, the head at an answer's tokens."""
    case = Case(GPT2, equal_rows(2, 6, 4, 4), 2)
    rows, columns, answer, d = 4, 11, 5, 32
    forward = 2 * rows * columns * (24 * d * d + 4 * columns * d) + 2 * rows * answer * d * 199
    assert ours.operations(case) == pytest.approx(3 * forward, rel=1e-9)


def test_the_rate_is_that_of_week6():
    parameter = torch.optim.SGD([torch.zeros(1)])
    for step in range(30):
        set_learning_rate(parameter, 1.0, step, 30)
        assert rate(step, 30) == pytest.approx(parameter.param_groups[0]["lr"])


def test_lengths_of_conversations_and_nothing_else(tmp_path):
    rows = [
        (
            "\n\nHuman: What is two and two?\n\nAssistant: Four.",
            "\n\nHuman: What is two and two?\n\nAssistant: It is five!",
        ),
        ("\n\nHuman: Hi\n\nAssistant: " + "no " * 97, "\n\nHuman: Hi\n\nAssistant: Hello"),
        ("\n\nHuman: Hi\n\nAssistant: a b c", "\n\nHuman: Ho\n\nAssistant: d"),
        ("\n\nHuman: Hi\n\nAssistant: a b c", "\n\nHuman: Hi\n\nAssistant: d"),
    ]
    path = tmp_path / "talk.jsonl.gz"
    with gzip.open(path, "wt") as lines:
        lines.writelines(json.dumps(dict(zip(("chosen", "rejected"), row, strict=True))) + "\n" for row in rows)
    # Human : What is two and two ? Assistant :
    assert conversation_lengths(path, 2) == [[10, 2, 4], [5, 3, 1]]
    with pytest.raises(ValueError, match="talk.jsonl.gz: got 2 rows"):
        conversation_lengths(path, 3)


# --- turns -----------------------------------------------------------------------------------------------------------

CASE = Case(GPT2, [[1, 1]], 1)


def side(name, function, tmp_path):
    return Side(name, f"tests.bench_sides:{function}", CASE, environment={"TOLD": str(tmp_path / "told"), "WHO": name})


def test_sides_take_turns_and_the_first_changes(tmp_path):
    race = Race("sleep", [side("a", "diligent", tmp_path), side("b", "diligent", tmp_path)], warmup=1)
    found = turns.run(race, 3, 1)
    assert (tmp_path / "told").read_text() == "abbaabba"
    for row in found["sides"].values():
        assert len(row["seconds"]) == len(row["cpu"]) == 3 and row["tokens"] == [3] * 3
        assert all(0.01 <= s < 5 and c < s for s, c in zip(row["seconds"], row["cpu"], strict=True))
        assert row["version"] == "diligent 1" and 5 < row["peak_mb"] < 100 and not {"numbers", "weights"} & set(row)
    assert found["work"] == "sleep" and found["load"] >= 0


@pytest.mark.parametrize(
    ("function", "said"), [("failing", "b: ValueError: width: got 3"), ("dying", "b: its process has ended")]
)
def test_a_side_that_fails_or_dies_is_named(function, said, tmp_path):
    race = Race("sleep", [side("a", "diligent", tmp_path), side("b", function, tmp_path)])
    with pytest.raises(RuntimeError, match=said):
        turns.run(race, 3, 1)


def test_unequal_numbers_are_not_timed():
    a, b, c = (Side(name, "", CASE) for name in "abc")
    race = Race("work", [a, b, replace(c, tolerance=0.1)])
    good = {"a": [0.7, 0.6], "b": [0.7, 0.60009], "c": [0.75]}  # a side may say less
    turns.check_numbers(race, "turn 1", good)
    turns.check_numbers(race, "turn 1", good | {"b": []})
    for name, bad in (("b", 0.60011), ("b", float("nan")), ("c", 0.81)):
        with pytest.raises(ValueError, match=f"work, turn 1: got .* from {name} and 0.[67]00000 from a, expected"):
            turns.check_numbers(race, "turn 1", good | {name: [0.7, bad] if name == "b" else [bad]})
    with pytest.raises(ValueError, match="at most 0"):
        turns.check_numbers(race, "weights", good, exact=True)
    other = replace(b, case=replace(CASE, batch=2))  # other work, other numbers
    turns.check_numbers(Race("work", [a, other]), "turn 1", {"a": [1.0], "b": [2.0]})
    rows = {"a": [1.0] * 20, "b": [1.0] * 19 + [5.0]}
    turns.check_numbers(Race("work", [a, b], strays=0.05), "turn 1", rows)
    with pytest.raises(ValueError, match="got 5"):
        turns.check_numbers(Race("work", [a, b], strays=0.04), "turn 1", rows)


# --- what is recorded, and the tables --------------------------------------------------------------------------------


def row(cpu, seconds=None, **facts):
    return {"cpu": cpu, "seconds": seconds or cpu, "tokens": [60] * len(cpu), "peak_mb": 1000} | facts


MACHINE = {"processor": "Abacus", "cores": 2, "versions": {"Python": "3", "torch": "2"}}
KNOWN = {
    "dpo": {
        "work": "a step", "load": 3.0, "threads": 1, "machine": MACHINE,
        "sides": {
            "week6": row([4.0, 1.0, 2.0, 3.0, 100.0], [8.0, 1.0, 4.0, 3.0, 100.0], operations=6e9, peak_mb=590),
            "TRL": row([8.0, 1.5, 5.0, 3.0, 300.0], version="TRL 9"),
            "matrix product": row([4.0, 1.0, 4.0, 3.0, 50.0], operations=6e9),
        },
    },
    "sampling-gpt2": {
        "work": "sampling", "load": 3.0, "threads": 1, "machine": MACHINE,
        "sides": {
            "week6": row([4.0, 5.0, 10.0]),
            "generate": row([4.0, 5.0, 10.0]),
            "products alone": row([2.0, 3.0, 4.0]),
            "a single row's products": row([1.0, 1.0, 3.0]),
        },
    },
    "growth-batch": {
        "work": "growth-batch", "load": 3.0, "threads": 1, "machine": MACHINE,
        "sides": {
            name: row([s, s], operations=n) for name, s, n in (("one", 1, 1e9), ("two", 2.2, 2e9), ("four", 5.2, 4e9))
        },
    },
    "busy": {
        "work": "a step", "load": 3.0, "threads": 1, "machine": MACHINE | {"cores": 4}, "loops": [0, 2, 0, 2],
        "sides": {"1 thread": row([9.0] * 4, [0.01, 0.02, 0.02, 0.06])},
    },
}  # fmt: skip


def cells(table):
    return [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]


def test_a_comparison_is_the_median_of_pairs_with_quartiles():
    """CPU time, pair by pair: 2, 1.5, 2.5, 1, 3; on the clock: 1, 1.5, 1.25, 1, 3. One slow round does not count."""
    expected = ["a step", "week6 / TRL 9", "3 / 5", "2.00 (1.50 – 2.50)", "2.0 ✓", "1.25", "20 / 12", "3.0"]
    assert cells(report.comparisons(KNOWN))[0] == expected
    assert cells(report.memory(KNOWN))[0] == ["a step", "week6 / TRL 9", "590 / 1000", "0.59", "0.6 ✓"]
    other = KNOWN | {"dpo": json.loads(json.dumps(KNOWN["dpo"]))}
    other["dpo"]["sides"]["TRL"] |= {"cpu": [7.9, 1.5, 5.0, 3.0, 300.0], "peak_mb": 980}
    assert cells(report.comparisons(other))[0][4] == "2.0 ✗" and cells(report.memory(other))[0][4] == "0.6 ✗"
    other["dpo"]["threads"] = 2  # their CPU times count the waiting for each other
    assert cells(report.comparisons(other))[0][2:4] == ["4 / 5", "1.25 (1.00 – 1.50)"]


def test_what_is_missed_is_said_by_how_much_and_what_is_not_there():
    less = json.loads(json.dumps(KNOWN))
    less["dpo"]["sides"]["TRL"] |= {"cpu": [7.6, 1.5, 3.8, 3.0, 300.0], "peak_mb": 980}
    assert report.missed(less).splitlines()[:2] == [
        "- a step, week6 beside TRL 9: 1.90 times as fast, 2.0 wanted",
        "- a step, week6 beside TRL 9: 0.60 of the memory, 0.6 wanted",
    ]
    *others, absent = report.missed(KNOWN).splitlines()
    assert others == [] and "`ppo`" in absent and "`busy`" not in absent and "`dpo`" not in absent
    whole = dict.fromkeys(["growth-length", "growth-size", *parts.GOALS], KNOWN["sampling-gpt2"]) | KNOWN
    everything = {
        key: result | {"sides": result["sides"] | {goal.theirs: row([99.0] * 3), goal.ours: row([1.0] * 3, peak_mb=9)}}
        for key, result in whole.items()
        for goal in parts.GOALS.get(key, [parts.Goal("generate", "week6", 1)])
    }
    everything["ppo"]["sides"] |= {parts.OWN_CRITIC: row([1.0] * 3, peak_mb=9)}
    everything["dpo-uncached"]["sides"] |= {parts.TRL: row([99.0] * 3)}
    assert report.missed(everything) == "- nothing"


def test_a_step_is_held_beside_the_products_of_its_own_round():
    """1, 1, 2, 1, 0.5 of the rate."""
    assert cells(report.limits(KNOWN)) == [["a step", "6", "2.0", "1.5", "100 %", "85 % ✓"]]


def test_sampling_is_held_beside_what_it_cannot_do_without():
    assert cells(report.floors(KNOWN)) == [["sampling", "5", "3", "50 %", "1", "25 %"]]


def test_products_alone_are_of_all_rows_and_matrices():
    """12 d² for each layer of a GPT-2, and its head; each counted twice, for a product and a sum."""
    case = Case(GPT2, equal_rows(16, 8, 12), 16, steps=2, ends=0)
    matrices = 2 * 12 * 32**2 + 199 * 32
    for side, rows in ((theirs.products, 16), (theirs.reading, 1)):
        assert heard(side, case).facts["operations"] == 2 * rows * 12 * matrices


def test_growth_is_told_beside_the_middle_of_its_series():
    assert [line[0::3] for line in cells(report.growth(KNOWN))] == [
        ["one", "-9 % ✓"],
        ["two", "+0 % ✓"],
        ["four", "+18 % ✗"],
    ]
    figure = report.picture(KNOWN)
    assert [list(line.get_xdata()) for line in figure.axes[0].lines] == [[1.0, 2.0, 4.0]] * 2
    assert list(figure.axes[0].lines[1].get_ydata()) == pytest.approx([1.1, 2.2, 4.4])


def test_a_busy_round_is_held_beside_the_quiet_one_before():
    assert cells(report.busy(KNOWN)) == [["1 thread", "15", "40", "2.5 (2.2 – 2.8)", "2.2 ✗"]]


def test_machines_are_told_apart():
    assert report.where(KNOWN).splitlines() == [
        "- 2 cores of an Abacus, 1 thread a process, fp32, Python 3, torch 2: `dpo`, `sampling-gpt2`, `growth-batch`",
        "- 4 cores of an Abacus, 1 thread a process, fp32, Python 3, torch 2: `busy`",
    ]


def test_every_goal_is_of_sides_that_are_there(tmp_path):
    path = tmp_path / "talk.jsonl"
    talk = {"chosen": "\n\nHuman: Hi\n\nAssistant: a", "rejected": "\n\nHuman: Hi\n\nAssistant: b"}
    path.write_text((json.dumps(talk) + "\n") * 32)
    races = parts.races(path, tmp_path / "python")
    assert set(parts.GOALS) | set(parts.GROWTH) | {"busy"} == set(races)
    for key, goals in parts.GOALS.items():
        names = [side.name for side in races[key].sides]
        assert len(set(names)) == len(names) and {x for goal in goals for x in (goal.theirs, goal.ours)} <= set(names)
    without = parts.races(None, None)
    assert set(races) - set(without) == {"dpo-ragged", "ppo"}


def test_half_of_the_tokens_are_wanted_where_answers_end(tmp_path):
    """(1 − (1 − p)ᵀ)/p tokens, drawn evenly with p of them ends; p T = 1.6."""
    for name in ("embedded", "gpt2", "smollm2"):
        case = parts.races(None, None)[f"sampling-{name}-ragged"].sides[0].case
        share, longest = case.ends / case.shape.vocabulary, case.lengths[0][1]
        assert (1 - (1 - share) ** longest) / share == pytest.approx(longest / 2, rel=0.05)
        assert (
            len(random_model(replace(case.shape, layers=1, heads=1, width=8, inner=0), case.ends).config.eos_token_id)
            == case.ends
        )


def test_names_and_what_they_begin_with():
    among = ["dpo", "dpo-ragged", "sampling-gpt2", "sampling-gpt2-ragged"]
    assert parts.chosen([], among) == among
    assert parts.chosen(["dpo"], among) == ["dpo", "dpo-ragged"]
    assert parts.chosen(["sampling-gpt2", "sampling", "dpo-ragged"], among) == [*among[2:], "dpo-ragged"]
    with pytest.raises(ValueError, match="dp: got no measurement"):
        parts.chosen(["dp"], among)


def test_what_is_recorded_is_not_measured_again(tmp_path, monkeypatch, capsys):
    out, asked = tmp_path / "deep" / "bench.json", []

    def run(race, rounds, threads):
        asked.append((race.work, rounds, threads))
        if race.work == "bad":
            raise ValueError("bad, turn 0: got 1")
        return {"work": race.work, "load": 1.0, "sides": {}}

    monkeypatch.setattr(bench, "run", run)
    monkeypatch.setattr(bench, "races", lambda lengths, ppo: {name: Race(name, []) for name in ("one", "bad", "two")})
    words = ["--out", str(out), "--rounds", "2", "--threads", "3"]
    assert bench.main(words) == 1
    assert asked == [("one", 2, 3), ("bad", 2, 3), ("two", 2, 3)] and "bad, turn 0: got 1" in capsys.readouterr().err
    assert bench.main([*words, "one", "two"]) == 0 and len(asked) == 3
    assert bench.main([*words, "one", "--again"]) == 0 and len(asked) == 4
    record = report.read(out)
    assert list(record) == ["one", "two"] and record["two"]["threads"] == 3
    assert set(record["two"]["machine"]) == set(MACHINE)
    with pytest.raises(SystemExit):
        bench.main([*words, "three"])
