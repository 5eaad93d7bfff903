"""Where and how it is computed: device, precision, processes, and parts that fit the memory.

Nothing in the course's formulas depends on it. Weights, optimizer, heads and softmax are always fp32; only the models'
inner layers are computed in bf16 or fp16 where the device is faster at that. Under `accelerate launch` every process
holds all data, works on its share of the rows of every batch, and all join their results: the batch stays the same.
A share that is too large for the memory is worked on in parts.
"""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, Self, TypeVar
from unittest.mock import patch

import psutil
import torch
import torch.nn.functional as F
from accelerate import PartialState
from accelerate.utils import gather_object, reduce
from torch import Tensor, nn

T = TypeVar("T")
MEMORY_SHARE = 0.7
"""Share of the free memory that one part may take by the estimate of `row_bytes`."""
FIRST_SCALE = 2.0**16
"""What a loss is multiplied by in fp16 to begin with."""


@dataclass
class Compute:
    """The device, precision and processes of this program. `compute()` has the one in use."""

    device: torch.device
    dtype: torch.dtype
    """Of the models' inner layers: bfloat16, float16 or float32."""
    rank: int = 0
    """The number of this process."""
    processes: int = 1
    free_bytes: Callable[[], float] = lambda: math.inf
    """How much memory is free now."""
    most_rows: float = math.inf
    """No part has more rows."""
    most_bytes: float = math.inf
    """No part is estimated to take more, since one of twice as many did not fit."""
    scaler: torch.amp.GradScaler = field(init=False)
    """Multiplies losses in fp16, whose smallest numbers gradients would otherwise fall below."""

    def __post_init__(self) -> None:
        """Start with the usual scale."""
        self.restart_scaler({})

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def restart_scaler(self, state: dict[str, float]) -> None:
        """Scale losses as `scaler_state` says, or as at the start of a training if it says nothing."""
        scale, used = state.get("scale", FIRST_SCALE), state.get("scale_used", 0)
        self.scaler = torch.amp.GradScaler(self.device.type, scale, enabled=self.dtype == torch.float16)
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(self.scaler.state_dict() | {"_growth_tracker": int(used)})
            self.scaler.scale(torch.zeros((), device=self.device))  # it begins to exist at its first use

    def scaler_state(self) -> dict[str, float]:
        """What a checkpoint keeps of the scaler: its scale and the steps since that changed; nothing but in fp16."""
        state = self.scaler.state_dict()
        return {"scale": state["scale"], "scale_used": state["_growth_tracker"]} if state else {}

    @contextmanager
    def precision(self, model: nn.Module) -> Iterator[None]:
        """Within it `model` is computed in `dtype`, but for its language-model head.

        GPT-2's logits lie near −100, where neighbouring bf16 numbers are 0.5 nats apart: a head in bf16 would sample
        from another distribution than it scores.
        """
        if self.dtype == torch.float32:
            yield
            return
        language_model: Any = model
        head = language_model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None

        with torch.autocast(self.device.type, self.dtype):
            if head is None:
                yield
                return
            forward = head.forward

            def in_fp32(hidden: Tensor) -> Tensor:
                with torch.autocast(self.device.type, enabled=False):
                    exact: Tensor = forward(hidden.to(head.weight.dtype))
                    return exact

            with patch.object(head, "forward", in_fp32):
                yield

    def share(self, n: int) -> range:
        """Which of n rows this process works on; all processes together work on each once."""
        return range(n * self.rank // self.processes, n * (self.rank + 1) // self.processes)

    def parts(
        self,
        work: Callable[[slice], T],
        n: int,
        row_bytes: float,
        most_rows: float = math.inf,
        start: Callable[[], None] = lambda: None,
    ) -> list[T]:
        """What `work` returns for this process's share of n rows, in consecutive parts that fit the memory.

        Where a part does not fit after all, smaller ones are tried from the beginning, here and ever after; `start` is
        called before each attempt. Raises ValueError when a single row does not fit.
        """
        share = self.share(n)
        start()
        while share:
            fits = min(self.most_bytes, MEMORY_SHARE * self.free_bytes()) / row_bytes
            size = int(max(1, min(len(share), self.most_rows, most_rows, fits)))
            try:
                return [work(slice(i, min(i + size, share.stop))) for i in share[::size]]
            except RuntimeError as error:
                if not _is_out_of_memory(error):
                    raise
            # Out here the traceback no longer holds the tensors of the failed attempt.
            if size == 1:
                raise ValueError(
                    f"memory: a single row does not fit (about {row_bytes / 1e6:.0f} MB needed, "
                    f"{self.free_bytes() / 1e6:.0f} MB free), expected room for one at least; "
                    "take shorter texts or answers, a smaller model or a larger device"
                )
            self.most_bytes = size * row_bytes / 2
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            start()
        return []


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def _find() -> Compute:
    """What this process was started on."""
    wants_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("true", "1")
    state = PartialState(cpu=wants_cpu or not torch.cuda.is_available())
    device: torch.device = state.device
    if device.type != "cuda":
        # All processes are taken to share one machine.
        return Compute(
            torch.device("cpu"),
            torch.float32,
            state.process_index,
            state.num_processes,
            lambda: psutil.virtual_memory().available / state.num_processes,
        )

    def free_bytes() -> float:
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept

    # Emulated bf16 is slower than fp32.
    dtype = torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return Compute(device, dtype, state.process_index, state.num_processes, free_bytes)


_in_use: list[Compute] = []


def compute() -> Compute:
    """The device, precision and processes in use; found at the first call."""
    if not _in_use:
        _in_use.append(_find())
    return _in_use[-1]


@contextmanager
def using(**changes: Any) -> Iterator[Compute]:
    """Within it, `compute()` differs by these fields."""
    _in_use.append(replace(compute(), **changes))
    try:
        yield _in_use[-1]
    finally:
        _in_use.pop()


def every_process(work: Callable[[], T]) -> list[T]:
    """Do `work` in every process and wait for all: what each returned, by the number of the process.

    An error in one is an error in all, so that none waits for ever; the others get it as ValueError.
    """
    here = compute()
    if here.processes == 1:
        return [work()]
    outcome: tuple[T | None, str | None] = (None, None)
    own: Exception | None = None
    try:
        outcome = (work(), None)
    except Exception as error:
        own, outcome = error, (None, f"{error}")
    outcomes: list[Any] = gather_object([outcome])
    if own is not None:
        raise own
    for rank, (_, message) in enumerate(outcomes):
        if message is not None:
            raise ValueError(f"{message} (in process {rank})")
    return [result for result, _ in outcomes]


def main_process(work: Callable[[], T]) -> T:
    """Do `work` in the main process only; every process waits for it and gets what it returned, or its error."""
    first: Any = every_process(lambda: work() if compute().is_main else None)[0]
    result: T = first
    return result


class Batch(Protocol):
    """Rows of text that can be cut into parts."""

    def __len__(self) -> int: ...

    def rows(self, index: slice) -> Self:
        """The same data for some rows only."""

    @property
    def columns(self) -> tuple[int, int]:
        """How many tokens a row is wide, and how many of them a language model's head is asked about."""


R = TypeVar("R", bound=Batch)


def in_parts(
    function: Callable[[R], tuple[Tensor, ...]], data: R, model: nn.Module, batch_size: float = math.inf
) -> tuple[Tensor, ...]:
    """`function` of all rows, by all processes and in parts: the tensors that it returns, one below the other.

    What a row takes without a backward pass follows from `model`, which `function` calls, and from the data.

    `function(part)` makes tensors whose first axis is that of the part; a row must not depend on the others. Tensors
    of different widths are padded with 0 on the right. No part has more than `batch_size` rows.
    """
    here, row_bytes = compute(), inference_bytes(model, *data.columns)

    def share() -> list[tuple[Tensor, ...]]:
        parts = here.parts(lambda part: function(data.rows(part)), len(data), row_bytes, batch_size)
        return parts if here.processes == 1 else [tuple(x.cpu() for x in part) for part in parts]

    parts = [part for process in every_process(share) for part in process]
    joined = tuple(stack(tensors) for tensors in zip(*parts, strict=True))
    return joined if here.processes == 1 else tuple(x.to(here.device) for x in joined)


def stack(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors one below the other, padded with 0 on the right to the widest."""
    if tensors[0].dim() > 1:
        width = max(x.shape[1] for x in tensors)
        tensors = [F.pad(x, (0, width - x.shape[1])) for x in tensors]
    return torch.cat(list(tensors))


def sum_gradients(model: nn.Module) -> None:
    """Give every process the sum of the gradients of all."""
    if compute().processes == 1:
        return
    parameters = [p for p in model.parameters() if p.requires_grad]
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    total: Tensor = reduce(torch.cat([g.flatten() for g in gradients]), "sum")
    for p, gradient in zip(parameters, torch.split(total, [p.numel() for p in parameters]), strict=True):
        p.grad = gradient.view_as(p)


def training_bytes(model: nn.Module, columns: int, answer_columns: int) -> float:
    """Estimate of the memory that one row takes between the forward and the backward pass.

        4 bytes · (28 · columns · layers · width + 5 · answer columns · vocabulary)

    A transformer block keeps some 28 numbers per token and unit of width. Each logit is kept, with its softmax, its
    gradient and copies. Where attention keeps its L × L weights, or in bf16, it is more or less: an estimate.
    """
    return 4.0 * _numbers(model, columns, answer_columns, 28, 5)


def inference_bytes(model: nn.Module, columns: int, answer_columns: int) -> float:
    """The same without a backward pass: keys and values or hidden states of every block, and logits.

    4 bytes · (4 · columns · layers · width + 3 · answer columns · vocabulary)
    """
    return 4.0 * _numbers(model, columns, answer_columns, 4, 3)


def _numbers(model: nn.Module, columns: int, answer_columns: int, inner: int, outer: int) -> int:
    modules: list[Any] = list(model.modules()) if isinstance(model, nn.Module) else []
    config = next((module.config for module in modules if hasattr(module, "config")), None)
    if config is None:  # no language model, but something in the place of one
        return 1
    heads = [module.get_output_embeddings() for module in modules if hasattr(module, "get_output_embeddings")]
    vocabulary = config.vocab_size if any(head is not None for head in heads) else 0  # a reward model has no such head
    blocks: int = columns * config.num_hidden_layers * config.hidden_size
    logits: int = answer_columns * vocabulary
    return inner * blocks + outer * logits
