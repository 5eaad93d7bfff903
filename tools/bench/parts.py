"""What is measured, by name, and how good it is wanted."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tools.bench.cases import SHAPES, Case, Shape, conversation_lengths, equal_rows, ragged_prompts
from tools.bench.turns import Race, Side

OURS, PRODUCT = "week6", "matrix product"
PRODUCTS, READING = "products alone", "a single row's products"
TRL, DEFAULTS, PPO_TRL, GENERATE = "TRL", "TRL, as it comes", "TRL 1.12.0", "generate"
OWN_CRITIC = "week6, own critic"

PAIRS = equal_rows(4, 64, 63, 63)
"""4 pairs of 64 + 64 tokens: the end is one of the answer's."""
GROWING = Shape(4, 4, 256, 8192)
GROWTH = {
    "growth-batch": {f"{n} pairs": (GROWING, n, 64) for n in (2, 4, 8, 16)},
    "growth-length": {f"2 × {n} tokens": (GROWING, 4, n) for n in (32, 64, 128, 256)},
    "growth-size": {
        f"{layers} layers of {width}": (Shape(layers, width // 64, width, 8192), 4, 64)
        for layers, width in ((2, 128), (4, 256), (6, 384), (8, 512))
    },
}
"""Series of DPO steps: model, pairs, tokens of prompt and of answer."""
BUSY = {
    "as it comes": {"PYTHONUNBUFFERED": "1"},
    "2 threads, as OpenMP waits by itself": {"OMP_NUM_THREADS": "2", "GOMP_SPINCOUNT": "300000"},
    "2 threads that spin for a moment": {"OMP_NUM_THREADS": "2", "GOMP_SPINCOUNT": "10000"},
    "2 threads that sleep": {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"},
    "1 thread": {"OMP_NUM_THREADS": "1"},
}
"""libgomp, PyTorch's OpenMP on Linux, spins 300,000 times before a thread sleeps if nobody says otherwise."""


@dataclass(frozen=True)
class Goal:
    """`theirs` takes at least so many times as long as `ours`, and `ours` at most this share of its memory."""

    theirs: str
    ours: str
    ratio: float
    memory: float = 1.0


GOALS = {
    "dpo": [Goal(TRL, OURS, 2.0, 0.6)],
    "dpo-uncached": [Goal(TRL, OURS, 1.6, 0.6), Goal(DEFAULTS, OURS, 1.6, 0.6)],
    "dpo-ragged": [Goal(TRL, OURS, 2.5, 0.6)],
    "dpo-smollm2": [Goal(TRL, OURS, 2.0, 0.6)],
    "reward": [Goal(TRL, OURS, 1.3)],
    "sft": [Goal(TRL, OURS, 1.2)],
    "ppo": [Goal(PPO_TRL, OWN_CRITIC, 1.5, 0.6), Goal(PPO_TRL, OURS, 2.5, 0.6)],
    "sampling-embedded": [Goal(GENERATE, OURS, 1.8)],
    "sampling-embedded-ragged": [Goal(GENERATE, OURS, 3.0)],
    "sampling-gpt2": [Goal(GENERATE, OURS, 1.0)],
    "sampling-gpt2-ragged": [Goal(GENERATE, OURS, 1.5)],
    "sampling-smollm2": [Goal(GENERATE, OURS, 1.0)],
    "sampling-smollm2-ragged": [Goal(GENERATE, OURS, 1.5)],
}
RATE, GROWTH_WITHIN, BUSY_TIMES = 0.85, 0.15, 2.2
"""Wanted: a training step's share of the machine's rate, of a series its largest distance from the operation count,
and how many times as long a step may take beside two busy loops."""


def races(lengths: Path | None, ppo_python: Path | None) -> dict[str, Race]:
    """All measurements, but for those that want a file of conversations or another environment where there is none."""
    gpt2, smollm2, embedded = SHAPES["gpt2"], SHAPES["smollm2"], SHAPES["embedded"]
    found = {
        "dpo": _dpo("DPO step, GPT-2-small, 4 pairs of 64 + 64 tokens, reference cached", Case(gpt2, PAIRS, 4)),
        "dpo-uncached": Race(
            "the same, reference not cached",
            [
                _ours("dpo_uncached", Case(gpt2, PAIRS, 4)),
                _theirs("dpo_uncached", Case(gpt2, PAIRS, 4)),
                replace(_theirs("dpo_defaults", Case(gpt2, PAIRS, 4), DEFAULTS), tolerance=5e-2),  # bf16: three digits
            ],
        ),
        "reward": _both("reward", "reward model's step, GPT-2-small, 4 pairs of 64 + 64 tokens", Case(gpt2, PAIRS, 4)),
        "sft": _both("sft", "SFT step, GPT-2-small, 8 rows of 64 + 64 tokens", Case(gpt2, equal_rows(8, 64, 63), 8)),
        "dpo-smollm2": _dpo(
            "DPO step, SmolLM2-135M, 4 pairs of 64 + 64 tokens, reference cached", Case(smollm2, PAIRS, 4)
        ),
    }
    if lengths:
        rows = conversation_lengths(lengths, 32)
        found["dpo-ragged"] = _dpo(
            "DPO step, GPT-2-small, 4 pairs as long as conversations, reference cached", Case(gpt2, rows, 4)
        )
    if ppo_python:
        case = Case(gpt2, equal_rows(4, 64, 64), 4, ends=0)
        found["ppo"] = Race(
            "PPO iteration, GPT-2-small: 4 answers of 64 tokens to prompts of 64, 4 epochs",
            [
                _ours("ppo", case),
                Side(OWN_CRITIC, "tools.bench.ours:ppo_own_critic", case),
                # It whitens with n − 1 where week6 has n.
                Side(PPO_TRL, "tools.bench.trl_ppo:ppo", case, str(ppo_python), tolerance=5e-3),
            ],
            warmup=1,
        )
    for name, shape, rows, prompt, answer in (
        ("embedded", embedded, 128, 16, 20),
        ("gpt2", gpt2, 16, 64, 48),
        ("smollm2", smollm2, 16, 64, 48),
    ):
        title = {"embedded": "the embedded model", "gpt2": "GPT-2-small", "smollm2": "SmolLM2-135M"}[name]
        equal = Case(shape, equal_rows(rows, prompt, answer), rows, ends=0)
        # A random model draws each token about equally often: half as many are wanted on average as there may be.
        ends = round(shape.vocabulary * 1.6 / answer)
        ragged = Case(shape, ragged_prompts(rows, prompt, answer), rows, ends=ends)
        even = _sampling(f"sampling, {title}, {rows} × {answer} tokens", equal)
        alone = [_theirs("products", equal, PRODUCTS), _theirs("reading", equal, READING)]
        found[f"sampling-{name}"] = replace(even, sides=[*even.sides, *alone])
        found[f"sampling-{name}-ragged"] = _sampling(f"sampling, {title}, {rows} × up to {answer} tokens", ragged)
    for name, points in GROWTH.items():
        sides = [
            Side(label, "tools.bench.ours:dpo", Case(shape, equal_rows(pairs, n, n - 1, n - 1), pairs))
            for label, (shape, pairs, n) in points.items()
        ]
        found[name] = Race(name, sides)
    case = Case(embedded, equal_rows(1024, 12, 11, 11), 64, learning_rate=1e-6)
    found["busy"] = Race(
        "DPO step of the embedded model, 64 pairs of 12 + 12 tokens",
        [Side(way, "tools.bench.ours:dpo", case, environment=words) for way, words in BUSY.items()],
        warmup=3,
        loops=2,
    )
    return found


def chosen(names: Sequence[str], among: Sequence[str]) -> list[str]:
    """The measurements of these names, or of the parts that begin with them, in this order; all without a name.

    ValueError for a name that none has.
    """
    found: dict[str, None] = {}
    for name in names:
        keys = [key for key in among if key == name or key.startswith(f"{name}-")]
        if not keys:
            raise ValueError(f"{name}: got no measurement of that name, expected one of {', '.join(among)}")
        found |= dict.fromkeys(keys)
    return list(found if names else among)


def _ours(function: str, case: Case) -> Side:
    return Side(OURS, f"tools.bench.ours:{function}", case)


def _theirs(function: str, case: Case, name: str = TRL) -> Side:
    return Side(name, f"tools.bench.theirs:{function}", case)


def _both(function: str, work: str, case: Case) -> Race:
    return Race(work, [_ours(function, case), _theirs(function, case)])


def _dpo(work: str, case: Case) -> Race:
    race = _both("dpo", work, case)
    return Race(work, [*race.sides, _theirs("matrix_product", case, PRODUCT)])


def _sampling(work: str, case: Case) -> Race:
    """Rounding may flip a draw now and then, and the rest of its row with it."""
    return Race(work, [_ours("sampling", case), _theirs("generate", case, GENERATE)], strays=0.05)
