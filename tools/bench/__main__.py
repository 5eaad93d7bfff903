"""Measure, one after the other; what is measured already is not measured again, unless it is asked for by --again.

`python -m tools.bench dpo sampling-gpt2 --rounds 5 --threads 1`; without a name all is measured. The record is written
after each measurement. Exit code 1 where one could not be made, or its sides did not compute the same.
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from tools.bench import report
from tools.bench.parts import chosen, races
from tools.bench.turns import run
from week6.machine.checkpoint import write_atomic
from week6.run.report import save_figure


def machine() -> dict[str, Any]:
    """Processor and versions."""
    info = Path("/proc/cpuinfo")
    names = (
        [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "versions": {"Python": platform.python_version()} | {name: version(name) for name in ("torch", "transformers")},
    }


def main(words: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="tools.bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="measurements, or what their names begin with")
    parser.add_argument("--rounds", type=int, default=7, help="timed steps of each side, at least 2")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of a process")
    parser.add_argument("--out", type=Path, default=Path("build/bench.json"), help="the record")
    parser.add_argument("--again", action="store_true", help="measure anew what the record has")
    parser.add_argument("--lengths", type=Path, help="conversations (JSON lines, chosen and rejected) for dpo-ragged")
    parser.add_argument("--ppo-python", type=Path, help="the Python of an environment with TRL 1.12.0, for ppo")
    options = parser.parse_args(words)
    if options.rounds < 2 or options.threads < 1:
        parser.error("expected --rounds of at least 2 and --threads of at least 1")
    try:
        all_races = races(options.lengths, options.ppo_python)
        names = chosen(options.names, list(all_races))
    except (ValueError, OSError) as error:
        parser.error(str(error))
    record, failed = report.read(options.out), []
    for name in names:
        if name in record and not options.again:
            continue
        print(f"{name}: {all_races[name].work} …", file=sys.stderr, flush=True)
        try:
            found = run(all_races[name], options.rounds, options.threads)
        except (ValueError, RuntimeError) as error:
            failed.append(name)
            print(f"{name}: {error}", file=sys.stderr, flush=True)
            continue
        record[name] = found | {"threads": options.threads, "machine": machine()}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(options.out, json.dumps(record, indent=1) + "\n")
    for table in report.TABLES.values():
        print(table(record), end="\n\n")
    save_figure(options.out.with_suffix(".png"), lambda: report.picture(record))
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
