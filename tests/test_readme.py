"""The README states what was measured: its tables are those of the recorded runs."""

import re

import pytest

from tools.record import ROOT, TABLES, between

README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_the_recorded_ones(name):
    assert between(README, name)[1] == TABLES[name]()


def test_every_table_stands_once():
    assert sorted(re.findall(r"<!-- (\w+) -->", README)) == sorted(TABLES)


def test_commands_are_targets_of_make():
    targets = {line.split(":")[0] for line in (ROOT / "Makefile").read_text().splitlines() if ":" in line}
    named = {line.split()[1] for line in README.splitlines() if line.startswith("make ")}
    assert named and named <= targets
