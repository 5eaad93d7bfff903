"""A run that is killed at any moment ends with the numbers of one that is not: tried a hundred times.

    python -m tools.kill --kills 100 --seed 0

A small run is started by forking, killed (SIGKILL) after a random share of the processor time that a whole one takes,
resumed, killed again …, until it ends by itself; then every file is compared with that of a run that nobody killed.
So it goes on until there were as many kills; every run after that ends too, so that there are as many exact ends as
there were runs: with --ends there are at least so many. Checkpoints are written after every step, so that kills meet
them too. With --damage, every file of a run is then deleted, cut and spoilt by one bit, and what the messages say is
done to the letter (tests/damage.py).
"""

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

# A child must not inherit a lock that a thread of Arrow's allocator holds (conftest.py says more).
os.environ["JE_ARROW_MALLOC_CONF"] = "background_thread:false"
os.environ["OMP_NUM_THREADS"] = "1"  # a fork inherits no thread

import torch  # noqa: E402

from tests import damage  # noqa: E402
from tests.runs import artefacts, finished_run, numbers, quick_run  # noqa: E402


def cpu_seconds(pid: int) -> float:
    """Processor time of a child: unlike the clock, it does not depend on what else the machine does."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run_until(folder: Path, seconds: float) -> bool:
    """Go on with a run in a child that is killed after so much processor time; whether it ended by itself before."""
    sys.stdout.flush()
    pid = os.fork()
    if not pid:
        code = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            quick_run(folder, resume=True)
            code = 0
        finally:
            os._exit(code)
    while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
        if cpu_seconds(pid) >= seconds:
            os.kill(pid, 9)
            ended = os.waitpid(pid, 0)
            break
        time.sleep(0.002)
    code = os.waitstatus_to_exitcode(ended[1])
    if code not in (0, -9):
        raise SystemExit(f"FAIL  a resumed run in {folder} ended with exit code {code}")
    return code == 0


def same(folder: Path, whole: Path) -> None:
    """Raise SystemExit unless two runs found the same numbers and left the same files, and nothing temporary."""
    if numbers(folder) != numbers(whole) or artefacts(folder) != artefacts(whole) or list(folder.rglob(".*.tmp")):
        raise SystemExit(f"FAIL  {folder} differs from {whole}")


def main() -> None:
    """Kill, compare, and say how often both were done."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--ends", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--damage", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng, place = random.Random(options.seed), Path(tempfile.mkdtemp(prefix="week6-kill-"))
    whole = finished_run()
    began = time.process_time()
    quick_run(place / "timing")
    seconds = time.process_time() - began
    kills = ends = 0
    while kills < options.kills or ends < options.ends:
        folder = place / f"run-{ends}"
        while not run_until(folder, rng.uniform(0, 1.5) * seconds if kills < options.kills else float("inf")):
            kills += 1
        same(folder, whole)
        ends += 1
        shutil.rmtree(folder)
        print(f"{kills} kills, {ends} exact ends", flush=True)
    tried = 0
    for i, name in enumerate(damage.files_of(whole) if options.damage else []):
        for how in damage.DAMAGES:
            said = damage.check(whole, place / "whole", name, how, i)
            tried += 1
            print(f"{how.__name__} {name}: exact, after {len(said)} messages", flush=True)
    shutil.rmtree(place)
    print(f"PASS  {kills} kills, {ends} exact ends, {tried} damaged files")


if __name__ == "__main__":
    main()
