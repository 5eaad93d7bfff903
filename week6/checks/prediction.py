"""Predictions: a multiple-choice question before a run or a plot, which nothing depends on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from week6.checks.messages import Message


@dataclass
class Prediction:
    """A multiple-choice prediction before a run or a plot. It records and echoes; nothing depends on it."""

    question: str
    options: tuple[str, ...]
    answer: int
    because: str
    choice: str = field(default="", init=False)

    def __post_init__(self) -> None:
        if self.answer not in range(len(self.options)):
            raise ValueError(f"answer: got {self.answer}, expected an index into the {len(self.options)} options")

    def __call__(self, choice: Any) -> None:
        """Record the letter of an option and echo it."""
        options = self._options()
        listed = "\n".join(f"{letter}) {option}" for letter, option in options.items())
        letter = choice.strip().casefold() if type(choice) is str else ""
        if letter in options:
            self.choice = letter
            text = f"{letter}) {options[letter]} Run the next cell and compare."
        else:
            text = f'None yet. Put a letter in place of the ..., for example ("a").\n{listed}'
        Message("prediction", self.question, text).show()

    def solution(self) -> None:
        """Show the right option and why it is right."""
        letter, option = list(self._options().items())[self.answer]
        mine = f"You predicted {self.choice}). " if self.choice else ""
        Message("solution", self.question, f"{mine}{letter}) {option} {self.because}").show()

    def _options(self) -> dict[str, str]:
        return {chr(ord("a") + i): option for i, option in enumerate(self.options)}
