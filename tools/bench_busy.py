"""What a DPO step of preset tiny costs beside other work, for several ways to wait and numbers of threads.

    python tools/bench_busy.py --loops 2 --rounds 10

One process for each way, all alive at once; each does a few steps in turn while the others sleep, so that what else
the machine does meets all of them alike. Beside them run `--loops` processes that do nothing but count.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WAYS = {
    "2 threads, as OpenMP waits by itself": {"OMP_NUM_THREADS": "2", "GOMP_SPINCOUNT": "300000"},
    "2 threads that spin for a moment": {"OMP_NUM_THREADS": "2", "GOMP_SPINCOUNT": "10000"},
    "2 threads that sleep": {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"},
    "1 thread": {"OMP_NUM_THREADS": "1"},
}
"""libgomp, PyTorch's OpenMP on Linux, spins 300,000 times before a thread goes to sleep if nobody says otherwise."""
STEPS = 3


def work() -> None:
    """In a process of its own: some steps for each line that is read, and how long each took."""
    import torch

    from week6.dpo import DPOConfig, train_dpo
    from week6.machine.optim import make_optimizer
    from week6.run.models import PRESETS, frozen_copy, new_policy
    from week6.sequences import encode_pairs
    from week6.tasks import load_task

    preset, task = PRESETS["tiny"], load_task("assistant")
    policy = new_policy(preset, task.tokenizer, 0)
    shown = task.demonstrations[:1024]
    pairs = encode_pairs(task.tokenizer, shown["prompt"], shown["completion"], shown["completion"][::-1])
    config = DPOConfig(steps=1_000_000, batch_size=preset.dpo.batch_size, learning_rate=1e-6)
    steps = train_dpo(policy, frozen_copy(policy), make_optimizer(policy, 1e-6), pairs, config, 0)
    for _ in range(3):
        next(steps)
    print(json.dumps(torch.get_num_threads()), flush=True)
    for _ in sys.stdin:
        took = []
        for _ in range(STEPS):
            start = time.perf_counter()
            next(steps)
            took.append(time.perf_counter() - start)
        print(json.dumps(took), flush=True)


def main() -> None:
    """Print the median seconds of a step for each way, without and with other work."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--loops", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--work", action="store_true")
    options = parser.parse_args()
    if options.work:
        work()
        return
    workers = {}
    for name, changes in WAYS.items():
        base = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "KMP_", "GOMP_"))}
        words = [sys.executable, __file__, "--work"]
        environment = base | {"PYTHONPATH": str(ROOT)} | changes
        workers[name] = subprocess.Popen(words, env=environment, stdin=-1, stdout=-1, stderr=-3, text=True)
    for worker in workers.values():
        worker.stdout.readline()
    for loops in dict.fromkeys((0, options.loops)):
        busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(loops)]
        took: dict[str, list[float]] = {name: [] for name in WAYS}
        try:
            for _ in range(options.rounds):
                for name, worker in workers.items():
                    worker.stdin.write("\n")
                    worker.stdin.flush()
                    took[name] += json.loads(worker.stdout.readline())
        finally:
            for loop in busy:
                loop.kill()
        print(f"beside {loops} loops; load {' '.join(f'{x:.1f}' for x in os.getloadavg())}")
        for name, seconds in took.items():
            low, middle, high = statistics.quantiles(seconds, n=4)
            print(f"  {name:<37} {1000 * middle:8.0f} ms a step ({1000 * low:.0f} to {1000 * high:.0f})")
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()


if __name__ == "__main__":
    main()
