"""Exercise 0.6 of notebook 00, a sampler: graded on a small language and on random numbers that are given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from week6.checks.cases import whole
from week6.checks.engine import Misconception, Question


def sample_by_numbers(
    forecast: Callable[[Int[Tensor, "B L"]], Float[Tensor, "B V"]],
    prompts: Int[Tensor, "B P"],
    numbers: Float[Tensor, "B T"],
    temperature: float,
    end: int,
) -> Int[Tensor, "B T"]:
    """T tokens for each prompt, each drawn at the temperature by its random number; after the end of a row, ends."""
    tokens = prompts
    ended = torch.zeros(len(prompts), dtype=torch.bool)
    for t in range(numbers.shape[1]):
        probability = (forecast(tokens) / temperature).softmax(-1)  # shape (B, V)
        borders = probability.cumsum(-1)[:, :-1]  # shape (B, V − 1): where one piece ends and the next begins
        token = (borders <= numbers[:, t : t + 1]).sum(-1)
        token = torch.where(ended, end, token)
        ended = ended | (token == end)
        tokens = torch.cat([tokens, token.unsqueeze(1)], dim=1)
    return tokens[:, prompts.shape[1] :]


class Language:
    """A small language: the logits of the next token are those of the last one, (V, V), and half of the one before."""

    def __init__(self, table: Tensor) -> None:
        self.table = table

    def __call__(self, tokens: Tensor) -> Tensor:
        """Logits of the next token, shape (B, V), for tokens (B, L)."""
        return self.table[tokens[:, -1]] + 0.5 * self.table[tokens[:, -2:][:, 0]]

    def __repr__(self) -> str:
        return f"a language of {len(self.table)} tokens"


def _of_a_language(function: Callable[..., Any]) -> Callable[..., Any]:
    """An answer seen through what a case holds in place of the language model: the table of a small language."""

    def seen(forecast: Tensor, prompts: Tensor, numbers: Tensor, temperature: float, end: int) -> Any:
        return function(Language(forecast), prompts, numbers, temperature, end)

    return seen


def _languages(g: torch.Generator) -> list[tuple[Tensor, Tensor, Tensor, float, int]]:
    """Languages of some tokens, one of which is the end; cold, usual and hot; rows that end early, late and never."""
    cases = []
    for temperature, rows, length, end in (
        (1.0, 3, 5, 0), (0.4, 3, 5, 2), (2.5, whole(g, 4, 6), 6, 3), (0.7, 1, whole(g, 4, 7), 1), (1.3, 5, 8, 0)
    ):  # fmt: skip
        size = whole(g, 4, 6)
        table = torch.randn(size, size, generator=g, dtype=torch.float64)
        table[:, end] += 0.3
        prompts = torch.randint(size, (rows, whole(g, 2, 3)), generator=g)
        numbers = torch.rand(rows, length, generator=g, dtype=torch.float64)
        cases.append((table, prompts, numbers, temperature, end))
    return cases


def _since_when(cases: Sequence[tuple[Any, ...]]) -> str:
    """From where on the tokens are wrong, in words, of the cases in which some are."""
    if all(case[3] != 1 for case in cases):
        return "Right at temperature 1, and wrong at others: what does the temperature do to the probabilities?"
    wanted = [sample_by_numbers(Language(table), *case) for table, *case, _ in cases]
    if all(torch.equal(case[-1][:, 0], want[:, 0]) for case, want in zip(cases, wanted, strict=True)):
        return "The first token of each row is right, and a later one is not: what does its round begin with?"
    return "Already the first token of a row is not the one on whose piece its number falls."


Draw = Callable[[Tensor, Tensor, float], Tensor]


def _by_number(probability: Tensor, number: Tensor) -> Tensor:
    """The token into whose piece of the line from 0 to 1 the number falls."""
    return (probability.cumsum(-1)[:, :-1] <= number[:, None]).sum(-1)


def _sampler(
    draw: Draw = lambda logits, number, temperature: _by_number((logits / temperature).softmax(-1), number),
    *,
    context: Callable[[Tensor, Tensor], Tensor] = lambda tokens, prompts: tokens,
    number_of: Callable[[Tensor, int], Tensor] = lambda numbers, t: numbers[:, t],
    stops: Callable[[Tensor], Tensor] = lambda ended: ended,
    filler: Callable[[int], int] = lambda end: end,
    give: Callable[[Tensor, Tensor], Tensor] = lambda tokens, prompts: tokens[:, prompts.shape[1] :],
) -> Callable[..., Tensor]:
    """The sampler with one part done otherwise."""

    def sample(forecast: Language, prompts: Tensor, numbers: Tensor, temperature: float, end: int) -> Tensor:
        tokens, ended = prompts, torch.zeros(len(prompts), dtype=torch.bool)
        for t in range(numbers.shape[1]):
            token = draw(forecast(context(tokens, prompts)), number_of(numbers, t), temperature)
            token = torch.where(stops(ended), filler(end), token)
            ended = ended | (token == end)
            tokens = torch.cat([tokens, token[:, None]], dim=1)
        return give(tokens, prompts)

    return sample


def _without_renormalising(logits: Tensor, number: Tensor, temperature: float) -> Tensor:
    return _by_number(logits.softmax(-1) ** (1 / temperature), number)


def _likeliest_first(logits: Tensor, number: Tensor, temperature: float) -> Tensor:
    probability, order = (logits / temperature).softmax(-1).sort(-1, descending=True)
    return order.gather(1, _by_number(probability, number)[:, None])[:, 0]


q6 = Question(
    title="0.6 A sampler",
    name="sample_answers",
    reference=sample_by_numbers,
    cases=_languages,
    through=_of_a_language,
    diagnose=_since_when,
    hints=(
        "What does the model need to see before it can forecast the next token? And what must be remembered of a row "
        "that has ended?",
        "One round of the loop: logits of all rows, divided by the temperature, softmax, a token each, append it. The "
        "piece of token v on the line from 0 to 1 ends where the probabilities up to v sum to: count the borders "
        "between "
        "the pieces that lie at the number or below it.",
        "Begin with the prompts, and with ended = False for each row. In round t: forecast from all tokens so far; "
        "divide by the temperature; softmax; cumsum without its last column: the borders. Compare them with "
        "numbers[:, t] as a column, and sum the comparisons: that is the token. Where the row has ended, it is `end` "
        "(torch.where). A row has ended if it had, or if this token is the end. Append the tokens as a column. At last "
        "cut off the prompts.",
        "tokens = prompts\n"
        "ended = torch.zeros(len(prompts), dtype=torch.bool)\n"
        "for t in range(numbers.shape[1]):\n"
        "    probability = ...\n"
        "    borders = probability.cumsum(-1)[:, :-1]\n"
        "    token = (borders <= numbers[:, t : t + 1]).sum(-1)\n"
        "    token = torch.where(ended, ..., token)\n"
        "    ended = ...\n"
        "    tokens = torch.cat([tokens, token.unsqueeze(1)], dim=1)\n"
        "return tokens[:, prompts.shape[1] :]",
    ),
    misconceptions=(
        Misconception(
            "multiplied by the temperature",
            _sampler(lambda logits, number, temperature: _by_number((logits * temperature).softmax(-1), number)),
            "You multiply the logits by the temperature: then hot is cold. A probability to the power 1/temperature is "
            "a logit *divided* by it.",
        ),
        Misconception(
            "no temperature",
            _sampler(lambda logits, number, temperature: _by_number(logits.softmax(-1), number)),
            "The temperature changes nothing in your sampler. Divide the logits by it, before the softmax.",
        ),
        Misconception(
            "not divided by the sum",
            _sampler(_without_renormalising),
            "You raise the probabilities to the power 1/temperature, and then they no longer sum to 1. Divide them by "
            "their sum, or divide the logits before the softmax.",
        ),
        Misconception(
            "softmax twice",
            _sampler(
                lambda logits, number, temperature: _by_number((logits.softmax(-1) / temperature).softmax(-1), number)
            ),
            "You divide probabilities by the temperature and put them through a softmax once more. It is the *logits* "
            "that are divided.",
        ),
        Misconception(
            "the likeliest token",
            _sampler(lambda logits, number, temperature: logits.argmax(-1)),
            "You take the likeliest token each time, whatever the random number is. It must be drawn.",
        ),
        Misconception(
            "softmax over the rows",
            _sampler(lambda logits, number, temperature: _by_number((logits / temperature).softmax(0), number)),
            "Your softmax runs over the rows of the batch. Each row has its own forecast: dim=-1.",
        ),
        Misconception(
            "one token too early",
            _sampler(
                lambda logits, number, temperature: (_by_number((logits / temperature).softmax(-1), number) - 1).clamp(
                    min=0
                )
            ),
            "Your tokens are one too small. Tokens are numbered from 0: if no piece ends below the number, it is "
            "token 0.",
        ),
        Misconception(
            "one token too late",
            _sampler(
                lambda logits, number, temperature: (_by_number((logits / temperature).softmax(-1), number) + 1).clamp(
                    max=logits.shape[1] - 1
                )
            ),
            "Your tokens are one too large. The piece of token 0 begins at 0: count the pieces that *end* at the "
            "number "
            "or below it.",
        ),
        Misconception(
            "likeliest first",
            _sampler(_likeliest_first),
            "You lay the likeliest token first on the line. The pieces lie in the order of the token numbers.",
        ),
        Misconception(
            "from the right",
            _sampler(lambda logits, number, temperature: _by_number((logits / temperature).softmax(-1), 1 - number)),
            "You lay the pieces from the right, or take 1 minus the number. They lie from 0 on, token 0 first.",
        ),
        Misconception(
            "prompts only",
            _sampler(context=lambda tokens, prompts: prompts),
            "You ask for the forecast of the same prompts in every round. The model must see what it has said: append "
            "each token.",
        ),
        Misconception(
            "last token only",
            _sampler(context=lambda tokens, prompts: tokens[:, -1:]),
            "You show the model the last token alone. Its forecast may depend on everything before it: give it all "
            "tokens.",
        ),
        Misconception(
            "answer only",
            _sampler(
                context=lambda tokens, prompts: (
                    tokens if tokens.shape == prompts.shape else tokens[:, prompts.shape[1] :]
                )
            ),
            "After the first token you show the model the answer without its prompt. Give it all tokens.",
        ),
        Misconception(
            "one number for all tokens",
            _sampler(number_of=lambda numbers, t: numbers[:, 0]),
            "You draw all tokens of a row by the same number. Round t has its own: numbers[:, t].",
        ),
        Misconception(
            "one number for all rows",
            _sampler(number_of=lambda numbers, t: numbers[0, t].expand(len(numbers))),
            "You draw the tokens of all rows by the same number. Each row has its own.",
        ),
        Misconception(
            "goes on after the end",
            _sampler(stops=torch.zeros_like),
            "Your rows go on speaking after the end token. From then on a row holds `end` only.",
        ),
        Misconception(
            "one end for all",
            _sampler(stops=lambda ended: ended.any().expand(len(ended))),
            "As soon as one row has ended, all of yours end. Each row ends by itself.",
        ),
        Misconception(
            "padded with 0",
            _sampler(filler=lambda end: 0),
            "You fill up rows that have ended with 0, which is a token like others. Fill up with `end`.",
        ),
        Misconception(
            "with the prompts",
            _sampler(give=lambda tokens, prompts: tokens),
            "You return the prompts as well. Cut them off: T tokens a row.",
        ),
    ),
)
