"""The README states what was measured: its tables are those of the recorded runs."""

from tools.record import (
    BEGIN,
    BEGIN_BUDGET,
    BEGIN_EXACT,
    END,
    END_BUDGET,
    END_EXACT,
    ROOT,
    budget_table,
    exact_table,
    readme_table,
)

README = (ROOT / "README.md").read_text()


def test_tables_are_the_recorded_ones():
    assert README.partition(BEGIN)[2].partition(END)[0].strip() == readme_table()
    assert README.partition(BEGIN_EXACT)[2].partition(END_EXACT)[0].strip() == exact_table()
    assert README.partition(BEGIN_BUDGET)[2].partition(END_BUDGET)[0].strip() == budget_table()


def test_commands_are_targets_of_make():
    targets = {line.split(":")[0] for line in (ROOT / "Makefile").read_text().splitlines() if ":" in line}
    named = {line.split()[1] for line in README.splitlines() if line.startswith("make ")}
    assert named and named <= targets
