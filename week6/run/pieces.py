"""A stage that does not train, piece by piece: a bar says how far it is, and each piece is kept on the disk as soon as
it is made, so that a run that is interrupted does not make it again."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor
from tqdm.auto import tqdm

from week6.machine.checkpoint import load_tensors, save_tensors, tag_of
from week6.machine.compute import compute, main_process
from week6.run.training import Run, Usage

Tensors = dict[str, Tensor]
Piece = Callable[[str, Callable[[], Tensors]], Tensors]
"""`piece(name, make)`: what `make()` returned, now or before an interruption."""
WORTH_KEEPING = 1.0
"""Seconds: what took less is made again."""
QUIET = 5.0
"""Seconds until the bar appears."""


@contextmanager
def pieces(run: Run, stage: str, total: int, usage: Usage | None = None) -> Iterator[Piece]:
    """Gives a function that makes each of the `total` pieces of a stage, or finds it in the run's folder, as
    checkpoints/STAGE.NAME.safetensors, where `Run.finish` clears it away; on the CPU, made now or before.

    What a piece took before an interruption is added to the seconds of `usage`, if it is given. A piece that was made
    with other settings, or from what has been made anew, counts as none. RunError for one that is damaged.
    """
    seconds = 0.5 if sys.stderr.isatty() else 10.0
    with tqdm(
        total=total, desc=stage, unit="piece", mininterval=seconds, delay=QUIET, disable=not compute().is_main
    ) as bar:

        def piece(name: str, make: Callable[[], Tensors]) -> Tensors:
            path = run.piece(stage, name)
            tag = run.tag(path)
            if main_process(lambda: tag_of(path) == tag):
                found, state = load_tensors(path, tag)
                if usage is not None:
                    usage.seconds += state["seconds"]
            else:
                began = time.perf_counter()
                found = {key: x.cpu() for key, x in make().items()}
                took = time.perf_counter() - began
                if took > WORTH_KEEPING:
                    save_tensors(path, found, {"seconds": took}, tag)
            bar.update()
            return found

        yield piece
