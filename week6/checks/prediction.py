"""Predictions: a multiple-choice question before a run or a plot, judged after it. Nothing depends on it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from week6.checks.messages import Message


@dataclass
class Prediction:
    """A multiple-choice prediction before a run or a plot: recorded before it, and compared with it afterwards.

    question, options  what is asked, and the answers to choose from, lettered a, b, c, …
    answer             index of the option that holds
    meanings           for each option what it would have meant; for the one that holds, why it does
    """

    question: str
    options: tuple[str, ...]
    answer: int
    meanings: tuple[str, ...]
    choice: str = field(default="", init=False)

    def __post_init__(self) -> None:
        if self.answer not in range(len(self.options)):
            raise ValueError(f"answer: got {self.answer}, expected an index into the {len(self.options)} options")
        if len(self.meanings) != len(self.options):
            raise ValueError(
                f"meanings: got {len(self.meanings)}, expected one for each of the {len(self.options)} options"
            )

    def __call__(self, choice: Any) -> None:
        """Record the letter of an option, written as "b", "B", "b)", "(b)" or "b.", and echo it."""
        options = self._options()
        written = re.fullmatch(r"\(?([a-z])[).:]*", choice.strip().casefold()) if type(choice) is str else None
        self.choice = written[1] if written and written[1] in options else ""
        if self.choice:
            text = f"{self.choice}) {options[self.choice]}\nNoted: compare it with what comes."
        else:
            listed = "\n".join(f"{letter}) {option}" for letter, option in options.items())
            text = f'None yet. Put a letter in place of the ..., for example ("a").\n{listed}'
        Message("prediction", self.question, text).show()

    def outcome(self) -> None:
        """After the plot: say whether the prediction held and why, and for each other option what it would have meant.

        The student's own option comes first, then the one that holds.
        """
        held = self._letter(self.answer)
        if not self.choice:
            head = f"You chose none this time, so here is what came: {self._told(held)}"
        elif self.choice == held:
            head = f"It held. {self._told(held)}"
        else:
            head = f"It did not hold. {self._told(self.choice)}\nWhat came: {self._told(held)}"
        others = [letter for letter in self._options() if letter not in (held, self.choice)]
        Message("prediction", self.question, "\n".join([head, *map(self._told, others)])).show()

    def solution(self) -> None:
        """Show the right option and why it is right."""
        mine = f"You predicted {self.choice}). " if self.choice else ""
        Message("solution", self.question, f"{mine}{self._told(self._letter(self.answer))}").show()

    def _told(self, letter: str) -> str:
        """An option, with what it means (or would have meant)."""
        index = list(self._options()).index(letter)
        return f"{letter}) {self.options[index]} {self.meanings[index]}"

    def _letter(self, index: int) -> str:
        return chr(ord("a") + index)

    def _options(self) -> dict[str, str]:
        return {self._letter(i): option for i, option in enumerate(self.options)}
