"""What to learn from: prompts, demonstrations, a way to compare answers and, where one exists, a gold reward.

assistant    a small synthetic world of a chatbot; embedded, no download
sentiment    continue the beginning of a film review positively; from the hub or a local file
hh           Anthropic's helpful–harmless pairs; from the hub or a local file
sorting      put letters in order; a checker in place of a reward model (notebook 09, no run)
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from datasets import Dataset
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from week6.machine import validate as check
from week6.preferences import preference_probability, sample_preferences

if TYPE_CHECKING:
    from week6.tasks.hh import HHConfig

USES = {
    "assistant": ((), "which brings its own"),
    "sentiment": (("model", "data", "column", "gold", "ratings"), ""),
    "hh": (("model", "data"), "whose pairs are already chosen"),
}
"""Of what may be given, what each task uses, and why it uses no more."""
NEEDED = {
    "model": "one, local or of the hub",
    "data": "one, local or of the hub",
    "gold": "'vader' or a text classifier",
}
Gold = Callable[[list[str], list[str]], Float[Tensor, " N"]]


@dataclass(frozen=True)
class Task:
    """Everything a run needs to know about what is learned.

    `prompts` and `heldout_prompts` have the column prompt, `demonstrations` prompt and completion. Prompts are in the
    chat template and end where the answer begins; answers are plain text, without the end token.
    `gold(prompts, answers)` is the reward (N,) that training never sees, in reward units.
    Annotators compare `answers_per_prompt` answers to a prompt, K, each with each: K(K − 1)/2 pairs.
    `annotator_noise` τ > 0, in reward units: the larger, the more often annotators prefer the worse answer.
    `best_gold(prompts)` (N,) is the exact maximum of the gold reward over all answers, and
    `rates(prompts, answers)` gives named fractions of answers that are of the right kind.
    `pairs` and `heldout_pairs`, with the columns prompt, chosen and rejected, are there where people have already
    chosen; elsewhere pairs are sampled and labelled. The column probability, if there, is that of the choice made.
    `pairs_share_prompts` is False where they compare whole texts, not two answers to a prompt: a reward model can
    learn from them, DPO cannot.
    `requests`, with the columns prompt and rejected, are harmless requests and refusals of them: the answers of the
    policy that SFT starts from, where they comply, are demonstrations and are preferred to these.
    `judge_pairs`, with the columns of `pairs`, are for a judge that training never sees. `own_requests`, with the
    columns kind, text and prompt, are requests of the course's own that policies are held to.
    Raises ValueError for a judge that would learn from pairs which it is to judge, or which training sees.
    """

    name: str
    tokenizer: PreTrainedTokenizerFast
    prompts: Dataset
    heldout_prompts: Dataset
    demonstrations: Dataset
    max_new_tokens: int
    gold: Gold | None = None
    answers_per_prompt: int = 2
    annotator_noise: float = 1.0
    best_gold: Callable[[list[str]], Float[Tensor, " N"]] | None = None
    rates: Callable[[list[str], list[str]], dict[str, float]] | None = None
    pairs: Dataset | None = None
    heldout_pairs: Dataset | None = None
    pairs_share_prompts: bool = True
    requests: Dataset | None = None
    judge_pairs: Dataset | None = None
    own_requests: Dataset | None = None

    def __post_init__(self) -> None:
        shared = _comparisons(self.judge_pairs) & (_comparisons(self.pairs) | _comparisons(self.heldout_pairs))
        if shared:
            raise ValueError(
                f"judge: got {len(shared)} pairs that training sees too, or that it is to judge, expected others: "
                "a judge knows by heart what it was trained on"
            )

    def preference_probability(
        self, prompts: list[str], answers_a: list[str], answers_b: list[str]
    ) -> Float[Tensor, " N"]:
        """Probability that an annotator prefers a to b: Bradley–Terry in the gold reward g over the noise τ.

            p(a ≻ b | x) = σ((g(x, a) − g(x, b)) / τ)

        Raises ValueError for a task without a gold reward.
        """
        return preference_probability(self._strength(prompts, answers_a), self._strength(prompts, answers_b))

    @check.arguments
    def label(
        self, prompts: list[str], answers_a: list[str], answers_b: list[str], generator: torch.Generator | None = None
    ) -> Dataset:
        """One annotator's choice for every pair: a Dataset with the columns prompt, chosen and rejected."""
        strength_a, strength_b = self._strength(prompts, answers_a), self._strength(prompts, answers_b)
        a_wins = sample_preferences(strength_a, strength_b, generator).tolist()
        pairs = list(zip(a_wins, answers_a, answers_b, strict=True))
        return Dataset.from_dict(
            {
                "prompt": prompts,
                "chosen": [a if wins else b for wins, a, b in pairs],
                "rejected": [b if wins else a for wins, a, b in pairs],
            }
        )

    def _strength(self, prompts: list[str], answers: list[str]) -> Float[Tensor, " N"]:
        if self.gold is None:
            raise ValueError(f"gold: task {self.name!r} has none, expected a task whose annotators can be simulated")
        return self.gold(prompts, answers) / self.annotator_noise


def _comparisons(pairs: Dataset | None) -> set[tuple[str, frozenset[str]]]:
    """Which two answers to which prompts are compared, whoever was preferred."""
    if pairs is None:
        return set()
    columns = pairs[:]
    answers = zip(columns["chosen"], columns["rejected"], strict=True)
    return set(zip(columns["prompt"], map(frozenset, answers), strict=True))


def load_task(
    name: str,
    tokenizer: PreTrainedTokenizerFast | None = None,
    data: str | None = None,
    column: str | None = None,
    gold: str | None = None,
    max_new_tokens: int = 48,
    ratings: str | None = None,
    conversations: "HHConfig | None" = None,
) -> Task:
    """The task called `name`. `assistant` is whole; the others are made for a tokenizer, from data.

    Raises ValueError for a name that is not one and for what a task needs or cannot use, RunError for bad data.
    """
    from week6.tasks.assistant import assistant
    from week6.tasks.hh import hh
    from week6.tasks.sentiment import sentiment

    check.whole("max_new_tokens", max_new_tokens, 2)
    check_sources(name, tokenizer, data, column, gold, ratings)
    if tokenizer is None or data is None:
        return assistant()
    if name == "hh":
        return hh(tokenizer, data, max_new_tokens, conversations)
    return sentiment(tokenizer, data, column or "text", str(gold), max_new_tokens, ratings)


def check_sources(
    name: str, model: object, data: str | None, column: str | None, gold: str | None, ratings: str | None
) -> None:
    """Raise ValueError for a task that is none, and for what a task needs and lacks, or is given and does not use."""
    check.one_of("name", name, tuple(USES))
    given = {"model": model, "data": data, "column": column, "gold": gold, "ratings": ratings}
    uses, why = USES[name]
    for what, value in given.items():
        if value is not None and what not in uses:
            raise ValueError(f"{what}: got one for task {name!r}, {why}; choose preset gpt2")
        if value is None and what in uses and what in NEEDED:
            raise ValueError(f"{what}: got none for task {name!r}, expected {NEEDED[what]}")
