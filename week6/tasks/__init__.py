"""What to learn from: prompts, demonstrations, a way to compare answers and, where one exists, a gold reward.

assistant    a small synthetic world of a chatbot; embedded, no download
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from datasets import Dataset
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from week6.preferences import preference_probability, sample_preferences

Gold = Callable[[list[str], list[str]], Float[Tensor, " N"]]


@dataclass(frozen=True)
class Task:
    """Everything a run needs to know about what is learned.

    `prompts` and `heldout_prompts` have the column prompt, `demonstrations` prompt and completion. Prompts are in the
    chat template and end where the answer begins; answers are plain text, without the end token.
    `gold(prompts, answers)` is the reward (N,) that training never sees, in reward units.
    `annotator_noise` τ > 0, in reward units: the larger, the more often annotators prefer the worse answer.
    `best_gold(prompts)` (N,) is the exact maximum of the gold reward over all answers, and
    `rates(prompts, answers)` gives named fractions of answers that are of the right kind.
    """

    name: str
    tokenizer: PreTrainedTokenizerFast
    prompts: Dataset
    heldout_prompts: Dataset
    demonstrations: Dataset
    max_new_tokens: int
    gold: Gold | None = None
    annotator_noise: float = 1.0
    best_gold: Callable[[list[str]], Float[Tensor, " N"]] | None = None
    rates: Callable[[list[str], list[str]], dict[str, float]] | None = None

    def preference_probability(
        self, prompts: list[str], answers_a: list[str], answers_b: list[str]
    ) -> Float[Tensor, " N"]:
        """Probability that an annotator prefers a to b: Bradley–Terry in the gold reward g over the noise τ.

            p(a ≻ b | x) = σ((g(x, a) − g(x, b)) / τ)

        Raises ValueError for a task without a gold reward.
        """
        return preference_probability(self._strength(prompts, answers_a), self._strength(prompts, answers_b))

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


def load_task(name: str) -> Task:
    """The task called `name`. Raises ValueError for a name that is not one."""
    from week6.tasks.assistant import assistant

    loaders = {"assistant": assistant}
    if name not in loaders:
        raise ValueError(f"name: got {name!r}, expected one of {', '.join(map(repr, loaders))}")
    return loaders[name]()
