"""Questions of notebook 00, alignment: agreement of annotators, refusing right, and a loop of fine-tuning."""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from week6.checks.capstone import Capstone, Malformed, Step, Symptom, parts
from week6.checks.cases import whole
from week6.checks.engine import Misconception, Prediction, Question


def agreement(first: Bool[Tensor, " n"], second: Bool[Tensor, " n"]) -> Float[Tensor, ""]:
    """Share of the items on which two annotators agree: p_o = mean [a_i = b_i]."""
    return (first == second).float().mean()


def cohens_kappa(first: Bool[Tensor, " n"], second: Bool[Tensor, " n"]) -> Float[Tensor, ""]:
    """Agreement above chance (Cohen 1960): κ = (p_o − p_e)/(1 − p_e), p_e = p_1 p_2 + (1 − p_1)(1 − p_2).

    p_1 and p_2 are the shares of True of the two annotators. Undefined where p_e = 1.
    """
    p_o = (first == second).float().mean()
    p_1, p_2 = first.float().mean(), second.float().mean()
    p_e = p_1 * p_2 + (1 - p_1) * (1 - p_2)
    return (p_o - p_e) / (1 - p_e)


def expected_agreement(probability: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """Mean probability that two independent annotators agree: mean p_i² + (1 − p_i)²."""
    return (probability**2 + (1 - probability) ** 2).mean()


def refusal_rates(
    harmful: Bool[Tensor, " n"], refused: Bool[Tensor, " n"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Share of harmful requests refused, and share of harmless requests refused (over-refusal)."""
    return refused[harmful].float().mean(), refused[~harmful].float().mean()


def _choices(g: torch.Generator, n: int, share: float) -> Tensor:
    """Choices of one annotator, True with this probability; both choices occur, so that chance agreement is below 1."""
    chosen = torch.rand(n, generator=g) < share
    chosen[:2] = torch.tensor([True, False])
    return chosen[torch.randperm(n, generator=g)]


def _two_annotators(g: torch.Generator) -> list[tuple[Tensor, Tensor]]:
    """Some agree by chance, some more often, one never does (κ < 0)."""
    cases = [(_choices(g, n := whole(g, 6, 70), 0.8), _choices(g, n, 0.6)) for _ in range(2)]
    cases.append((_choices(g, n := whole(g, 30, 60), 0.2), _choices(g, n, 0.7)))
    first = _choices(g, n := whole(g, 20, 50), 0.4)
    cases.append((first, first ^ (torch.rand(n, generator=g) < 0.15)))
    five = torch.tensor([True, True, False, False, True])
    return [*cases, (five, torch.tensor([True, False, False, True, True])), (five, ~five)]


q1 = Question(
    title="0.1 Agreement",
    reference=agreement,
    cases=_two_annotators,
    hints=(
        "For one single pair: when do two annotators agree, and what is the indicator of (4) then?",
        "A share is a mean of ones and zeros: p_o = (number of items with a_i = b_i) / n. Agreeing on b counts as much "
        "as agreeing on a.",
        "Compare the two tensors item by item, turn True and False into 1.0 and 0.0, and take the mean.",
        "same = ...  # bool, shape (n,)\nreturn same.float().mean()",
    ),
    misconceptions=(
        Misconception(
            "only a",
            lambda a, b: (a & b).float().mean(),
            "You count only the items where both chose a. Both choosing b is agreement too: (4) asks a_i = b_i.",
        ),
        Misconception(
            "disagreement",
            lambda a, b: (a != b).float().mean(),
            "That is the share of items on which they differ: the indicator of (4) is 1 where a_i = b_i.",
        ),
        Misconception(
            "count",
            lambda a, b: (a == b).float().sum(),
            "That is a number of items. (4) divides by n, so that it does not depend on how many were judged.",
        ),
        Misconception(
            "shares",
            lambda a, b: 1 - (a.float().mean() - b.float().mean()).abs(),
            "You compare how often each chose a. Two annotators can choose a equally often and never on the same "
            "item: (4) compares item by item.",
        ),
        Misconception(
            "of those chosen",
            lambda a, b: (a & b).float().sum() / (a | b).float().sum(),
            "You left out the items where both chose b (that is the Jaccard index): the sum of (4) runs over all n.",
        ),
        Misconception(
            "only b",
            lambda a, b: (~a & ~b).float().mean(),
            "You count only the items where both chose b. Both choosing a is agreement too: (4) asks a_i = b_i.",
        ),
        Misconception(
            "at least one a",
            lambda a, b: (a | b).float().mean(),
            "You count the items where at least one chose a. To agree means to choose the same: a_i = b_i in (4).",
        ),
        Misconception(
            "all or nothing",
            lambda a, b: torch.tensor(float(torch.equal(a, b))),
            "Your result is 1 where the two lists are equal as a whole, and else 0. Did you compare the lists and not "
            "their "
            "items, or divide whole numbers with `//`? (4) compares item by item, and takes the mean.",
        ),
        Misconception(
            "percent",
            lambda a, b: 100 * (a == b).float().mean(),
            "You give percent. (4) is a share, between 0 and 1.",
        ),
        Misconception(
            "ten items",
            lambda a, b: (a == b).sum() / 10,
            "You divide by 10, the number of pairs in this notebook. (4) divides by n, the number of items that came "
            "in.",
        ),
        Misconception(
            "n minus one",
            lambda a, b: (a == b).sum() / (len(a) - 1),
            "You divide by n − 1. That is for a variance; the mean of (4) divides by n.",
        ),
        Misconception(
            "plus and minus one",
            lambda a, b: 2 * (a == b).float().mean() - 1,
            "You count an agreement as +1 and a disagreement as −1. The indicator of (4) is 1 or 0.",
        ),
        Misconception(
            "one annotator",
            lambda a, b: a.float().mean(),
            "That is how often the first annotator chose a. (4) compares the choices of both.",
        ),
        Misconception(
            "disagreements counted",
            lambda a, b: (a != b).float().sum(),
            "That is the number of items on which they differ. (4) is the share on which they agree.",
        ),
        Misconception(
            "kappa",
            lambda a, b: cohens_kappa(a, b),
            "That is Cohen's κ, which comes in exercise 0.2. Here only the observed agreement p_o is asked for.",
        ),
        Misconception(
            "correlation",
            lambda a, b: _phi(a, b),
            "That is the correlation of the two lists (the φ coefficient). (4) is the share of items on which they "
            "agree.",
        ),
    ),
)


def _kappa(first: Tensor, second: Tensor, p_1: Tensor, p_2: Tensor) -> Tensor:
    """κ with these shares of a, right or wrong ones."""
    p_e = p_1 * p_2 + (1 - p_1) * (1 - p_2)
    return ((first == second).float().mean() - p_e) / (1 - p_e)


def _parts(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """p_o and p_e of equation (5)."""
    p_1, p_2 = first.float().mean(), second.float().mean()
    return (first == second).float().mean(), p_1 * p_2 + (1 - p_1) * (1 - p_2)


def _phi(first: Tensor, second: Tensor) -> Tensor:
    return torch.corrcoef(torch.stack([first.double(), second.double()]))[0, 1]


q2 = Question(
    title="0.2 Cohen's κ",
    reference=cohens_kappa,
    cases=_two_annotators,
    hints=(
        "If two people answered without reading, in how many ways could they still say the same?",
        "κ = (p_o − p_e) / (1 − p_e): the agreement above chance, as a share of the room above chance. By chance they "
        "agree when both say a or both say b: p_e = p_1 p_2 + (1 − p_1)(1 − p_2).",
        "Four numbers in this order: p_o as in exercise 0.1; p_1 and p_2, the share of True of each annotator; p_e "
        "from these two. Then the fraction, with brackets around numerator and denominator.",
        "p_o = (first == second).float().mean()\n"
        "p_1, p_2 = first.float().mean(), second.float().mean()\n"
        "p_e = p_1 * p_2 + ...\n"
        "return (p_o - p_e) / ...",
    ),
    misconceptions=(
        Misconception(
            "no chance",
            lambda a, b: (a == b).float().mean(),
            "That is p_o, with the lucky agreements still in it: subtract p_e, equation (5).",
        ),
        Misconception(
            "coin flip",
            lambda a, b: ((a == b).float().mean() - 0.5) / 0.5,
            "You took chance to be ½ for everyone. In (5) p_e follows from how often each of the two chooses a.",
        ),
        Misconception(
            "half of chance",
            lambda a, b: (
                ((a == b).float().mean() - a.float().mean() * b.float().mean())
                / (1 - a.float().mean() * b.float().mean())
            ),
            "Your p_e knows only 'both say a'. By luck they can also both say b: the second term of p_e in (5).",
        ),
        Misconception(
            "not divided",
            lambda a, b: (
                (a == b).float().mean()
                - a.float().mean() * b.float().mean()
                - (1 - a.float().mean()) * (1 - b.float().mean())
            ),
            "You stopped at p_o − p_e. (5) divides by the room above chance, 1 − p_e, so that perfect agreement is 1.",
        ),
        Misconception(
            "one share for both",
            lambda a, b: _kappa(a, b, *[torch.cat([a, b]).float().mean()] * 2),
            "You used one pooled share for both annotators (that is Scott's π). In (5) each has a share of their own.",
        ),
        Misconception(
            "divided by chance",
            lambda a, b: (_parts(a, b)[0] - _parts(a, b)[1]) / _parts(a, b)[1],
            "You divided by p_e. The denominator of (5) is what could be won above chance: 1 − p_e.",
        ),
        Misconception(
            "divided by the observed",
            lambda a, b: (_parts(a, b)[0] - _parts(a, b)[1]) / _parts(a, b)[0],
            "You divided by p_o. The denominator of (5) is what could be won above chance: 1 − p_e.",
        ),
        Misconception(
            "divided by the disagreement",
            lambda a, b: (_parts(a, b)[0] - _parts(a, b)[1]) / (1 - _parts(a, b)[0]),
            "You divided by 1 − p_o. The denominator of (5) is the room above chance, 1 − p_e, so that perfect "
            "agreement "
            "is 1.",
        ),
        Misconception(
            "negative cut off",
            lambda a, b: cohens_kappa(a, b).clamp(min=0),
            "You cut κ off at 0. It may be negative: two people who agree less than by chance have κ < 0.",
        ),
        Misconception(
            "absolute value",
            lambda a, b: cohens_kappa(a, b).abs(),
            "You took the absolute value. κ < 0 means less agreement than by chance; the sign is part of the answer.",
        ),
        Misconception(
            "first share twice",
            lambda a, b: _kappa(a, b, a.float().mean(), a.float().mean()),
            "You used the share of the first annotator twice. p_e in (5) has p_1 of the first and p_2 of the second.",
        ),
        Misconception(
            "second share twice",
            lambda a, b: _kappa(a, b, b.float().mean(), b.float().mean()),
            "You used the share of the second annotator twice. p_e in (5) has p_1 of the first and p_2 of the second.",
        ),
        Misconception(
            "correlation",
            _phi,
            "That is the correlation of the two lists (the φ coefficient). It is 1 or 0 where κ is, and differs "
            "between: "
            "compute p_o and p_e of (5).",
        ),
        Misconception(
            "precedence",
            lambda a, b: _parts(a, b)[0] - _parts(a, b)[1] / (1 - _parts(a, b)[1]),
            "Your division takes only p_e: a / b binds more tightly than a − b. Put the numerator of (5) in brackets, "
            "(p_o − p_e) / (1 − p_e).",
        ),
        Misconception(
            "precedence, without any brackets",
            lambda a, b: _parts(a, b)[0] - _parts(a, b)[1] / 1 - _parts(a, b)[1],
            "Brackets are missing: Python reads p_o − p_e / 1 − p_e as p_o − 2 p_e. (5) is (p_o − p_e) / (1 − p_e).",
        ),
        Misconception(
            "chance of disagreeing",
            lambda a, b: (_parts(a, b)[0] - (1 - _parts(a, b)[1])) / _parts(a, b)[1],
            "Your p_e is the chance that one says a and the other b. By luck they agree when both say a, or both "
            "say b.",
        ),
        Misconception(
            "only a observed",
            lambda a, b: ((a & b).float().mean() - _parts(a, b)[1]) / (1 - _parts(a, b)[1]),
            "Your p_o counts only the items where both chose a. Both choosing b is agreement too, as in exercise 0.1.",
        ),
        Misconception(
            "chance alone",
            lambda a, b: _parts(a, b)[1],
            "That is p_e, the agreement by chance. κ compares the observed agreement with it: (p_o − p_e) / (1 − p_e).",
        ),
        Misconception(
            "mean of the shares",
            lambda a, b: (
                (_parts(a, b)[0] - (a.float().mean() + b.float().mean()) / 2)
                / (1 - (a.float().mean() + b.float().mean()) / 2)
            ),
            "Your p_e is the mean of the two shares of a. The chance that both say the same is p_1 p_2 + (1 − p_1)(1 "
            "− p_2).",
        ),
        *(
            Misconception(
                f"denominator with {epsilon:g}",
                lambda a, b, e=epsilon: (_parts(a, b)[0] - _parts(a, b)[1]) / (1 - _parts(a, b)[1] + e),
                f"You added {epsilon:g} to the denominator. You may assume p_e < 1, so nothing is needed there, and "
                "it shifts κ: two equal annotators would not have κ = 1.",
            )
            for epsilon in (1e-1, 1e-2, 1e-3)
        ),
        Misconception(
            "shares rounded down",
            lambda a, b: _kappa(a, b, a.sum() // len(a), b.sum() // len(b)),
            "Your shares p_1 and p_2 are 0 or 1: `//` rounds down to a whole number. Divide with `/`, or take the "
            "mean.",
        ),
    ),
)


q3 = Question(
    title="0.3 Expected agreement",
    reference=expected_agreement,
    cases=lambda g: [
        (torch.rand(whole(g, 4, 9), generator=g),),
        (torch.rand(whole(g, 20, 60), generator=g) ** 2,),
        (torch.tensor([0.8]),),
        (torch.tensor([0.0, 1.0, 0.5]),),
    ],
    hints=(
        "In how many ways can two people say the same about one pair of answers?",
        "They choose independently, so probabilities multiply: both say a with probability p², both say b with "
        "(1 − p)². Only one of the two can happen, so these add.",
        "For each pair square p_i, square 1 − p_i, and add. Then take the mean over the pairs: not the other way "
        "round, since the square of a mean is not the mean of the squares.",
        "both_a = probability**2\nboth_b = ...\nreturn (both_a + both_b).mean()",
    ),
    misconceptions=(
        Misconception(
            "best judge",
            lambda p: torch.maximum(p, 1 - p).mean(),
            "That is how often the best possible judge agrees with one annotator (the dashed line of figure 4). Two "
            "noisy annotators agree less: (6).",
        ),
        Misconception(
            "only a",
            lambda p: (p**2).mean(),
            "You counted only 'both say a'. They also agree when both say b, with probability (1 − p)²: (6).",
        ),
        Misconception(
            "mean first",
            lambda p: p.mean() ** 2 + (1 - p.mean()) ** 2,
            "You averaged p before squaring. Each pair has its own p_i: take (6) per pair, then the mean.",
        ),
        Misconception(
            "disagreement",
            lambda p: (2 * p * (1 - p)).mean(),
            "2p(1 − p) is the probability that they differ: one says a, the other b. (6) is one minus that.",
        ),
        Misconception(
            "one order",
            lambda p: (1 - p * (1 - p)).mean(),
            "They can differ in two ways, a then b, or b then a: the last form of (6) subtracts 2p(1 − p). (In the "
            "first form, "
            "1 − p is squared: both must say b.)",
        ),
        Misconception(
            "sum",
            lambda p: (p**2 + (1 - p) ** 2).sum(),
            "That is the expected number of agreements. Take the mean over the pairs to get a share.",
        ),
        Misconception(
            "only b",
            lambda p: ((1 - p) ** 2).mean(),
            "You counted only 'both say b'. They also agree when both say a, with probability p²: (6).",
        ),
        Misconception(
            "median",
            lambda p: (p**2 + (1 - p) ** 2).median(),
            "You took the median over the pairs. The expected agreement is the mean.",
        ),
        Misconception(
            "votes",
            lambda p: torch.ones(()),
            "Your result is 1: everybody always agrees. Did you round each p_i to a vote first, or square p + (1 − "
            "p)? Two "
            "people are drawn at random, and each says a with probability p_i.",
        ),
        Misconception(
            "half of it",
            lambda p: ((p**2 + (1 - p) ** 2) / 2).mean(),
            "You took the mean of the two ways to agree. Both lead to agreement and exclude each other: add them.",
        ),
        Misconception(
            "above chance",
            lambda p: ((2 * p - 1) ** 2).mean(),
            "(2p − 1)² is the agreement above that of two coins, stretched to [0, 1]. (6) is the agreement itself.",
        ),
        Misconception(
            "share of a",
            lambda p: p.mean(),
            "That is how often one person prefers a. (6) is about two people who say the same.",
        ),
        Misconception(
            "three people",
            lambda p: (p**3 + (1 - p) ** 3).mean(),
            "That is how often three people agree. (6) is about two: squares.",
        ),
        Misconception(
            "entropy",
            lambda p: -(torch.special.xlogy(p, p) + torch.special.xlogy(1 - p, 1 - p)).mean(),
            "That is the entropy of a vote. (6) is the probability that two votes agree: p² + (1 − p)².",
        ),
    ),
)

q4 = Question(
    title="0.4 Refusing right",
    reference=refusal_rates,
    cases=lambda g: [
        (_choices(g, n := whole(g, 20, 40), 0.3), _choices(g, n, 0.5)),
        (_choices(g, n := whole(g, 41, 60), 0.7), _choices(g, n, 0.2)),
        (torch.tensor([True, False, False, True, False]), torch.tensor([True, True, False, False, False])),
        (torch.tensor([True, False, False]), torch.tensor([False, True, True])),
    ],
    hints=(
        "Each of the two rates is a share of some requests. Of which ones, for each?",
        "A rate is counted within its own group: (harmful and refused) / harmful, and (harmless and refused) / "
        "harmless. The number of all requests occurs in neither.",
        "Keep the entries of `refused` where the request is harmful, and take their mean as numbers. Do the same where "
        "it is not harmful. Return both, in this order.",
        "on_harm = refused[harmful].float().mean()\n"
        "on_harmless = refused[...].float().mean()\n"
        "return on_harm, on_harmless",
    ),
    misconceptions=(
        Misconception(
            "share of all",
            lambda h, r: ((r & h).float().mean(), (r & ~h).float().mean()),
            "You divided both counts by all requests. Each rate is a share of its own group: of the harmful ones, and "
            "of the harmless ones.",
        ),
        Misconception(
            "swapped",
            lambda h, r: (r[~h].float().mean(), r[h].float().mean()),
            "The two are in the wrong order: first the rate on harmful requests, then the over-refusal.",
        ),
        Misconception(
            "of the refusals",
            lambda h, r: (h[r].float().mean(), (~h)[r].float().mean()),
            "You asked which refusals were harmful requests. The question is the other way round: which harmful "
            "requests were refused? (The condition stands behind the bar.)",
        ),
        Misconception(
            "one rate",
            lambda h, r: (r[h].float().mean(), 1 - r[h].float().mean()),
            "The second is not one minus the first: it is about other requests, the harmless ones.",
        ),
        Misconception(
            "helped",
            lambda h, r: (r[h].float().mean(), (~r[~h]).float().mean()),
            "Your second number is how many harmless requests were not refused. Over-refusal is the share refused.",
        ),
        Misconception(
            "complied",
            lambda h, r: ((~r[h]).float().mean(), r[~h].float().mean()),
            "Your first number is how many harmful requests were not refused. The refusal rate is one minus that.",
        ),
        Misconception(
            "counts",
            lambda h, r: ((r & h).sum().float(), (r & ~h).sum().float()),
            "Those are numbers of refusals. A rate divides each by the number of requests in its own group.",
        ),
        Misconception(
            "percent",
            lambda h, r: (100 * r[h].float().mean(), 100 * r[~h].float().mean()),
            "You give percent. The rates are shares, between 0 and 1.",
        ),
        Misconception(
            "only the first",
            lambda h, r: r[h].float().mean(),
            "You return one number. Two are asked for: the rate on harmful requests, and the rate on harmless ones.",
        ),
        Misconception(
            "only the second",
            lambda h, r: r[~h].float().mean(),
            "You return only the over-refusal. Two numbers are asked for: first the rate on harmful requests.",
        ),
        Misconception(
            "all requests, then over-refusal",
            lambda h, r: (r.float().mean(), r[~h].float().mean()),
            "Your first number is the refusal rate over all requests. It is asked for the harmful ones alone.",
        ),
        Misconception(
            "all requests, second",
            lambda h, r: (r[h].float().mean(), r.float().mean()),
            "Your second number is the refusal rate over all requests. It is asked for the harmless ones alone.",
        ),
        Misconception(
            "the same twice",
            lambda h, r: (r[h].float().mean(), r[h].float().mean()),
            "You gave the rate on harmful requests twice. The second is about the harmless ones: ~harmful.",
        ),
        Misconception(
            "harmless among the refusals",
            lambda h, r: (r[h].float().mean(), (~h)[r].float().mean()),
            "Your second number asks which refusals went to harmless requests. It is the other way round: which "
            "harmless "
            "requests were refused? Index with ~harmful.",
        ),
        Misconception(
            "accuracy",
            lambda h, r: ((h == r).float().mean(), (h != r).float().mean()),
            "Those are the shares of all requests that were handled rightly and wrongly. Keep the two groups apart: "
            "one "
            "rate for the harmful requests, one for the harmless.",
        ),
        Misconception(
            "both complied",
            lambda h, r: ((~r[h]).float().mean(), (~r[~h]).float().mean()),
            "Both numbers are shares of requests that were not refused. The rates are one minus these.",
        ),
    ),
)

p1 = Prediction(
    question="What does the SFT model do with a harmful request?",
    options=(
        "It refuses nearly always: refusing is the most frequent answer.",
        "It complies nearly always.",
        "It refuses about as often as the demonstrations do.",
    ),
    answer=2,
    meanings=(
        "That would be a model that gives the most probable answer every time. Ours draws each token with the "
        "probability that the loss (2) has taught it.",
        "That would be a model that prefers one kind of answer. The loss (2) has no preference: it weighs every "
        "demonstration alike.",
        "The loss (2) is lowest where the model gives each answer the probability that it has in the demonstrations; "
        "nothing in it says which answer is better.",
    ),
)
p2 = Prediction(
    question="80 of 100 people prefer a. How often do two random people agree?",
    options=("In 68 % of the draws.", "In 80 %.", "In 64 %."),
    answer=0,
    meanings=(
        "Both say a with probability 0.8², both say b with probability 0.2²: 0.64 + 0.04.",
        "That is how often one random person agrees with the majority; the second person is noisy, too.",
        "That is how often both say a, 0.8². They also agree when both say b.",
    ),
)


# --- the capstone: supervised fine-tuning, whole --------------------------------------------------------------------


def imitate(
    model: nn.Module,
    ids: Int[Tensor, "N L"],
    is_answer: Bool[Tensor, "N L"],
    epochs: int,
    batch_size: int,
    learning_rate: float,
) -> Iterator[dict[str, Tensor]]:
    """Fine-tune `model` in place by the loss (2); after each step yields its rows, log_probs and loss.

    Row n of `ids` is a prompt, its answer and padding; `is_answer` is True at the tokens of the answer, the end too.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    steps = epochs * math.ceil(len(ids) / batch_size)
    step = 0
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(ids)), batch_size):
            tokens, counted = ids[rows], is_answer[rows]  # shape (B, L) each
            forecast = model(input_ids=tokens).logits.log_softmax(-1)  # (B, L, V): column k forecasts token k + 1
            came, counted = tokens[:, 1:], counted[:, 1:]  # (B, L − 1): the tokens that have a forecast
            log_probs = forecast[:, :-1].gather(-1, came.unsqueeze(-1)).squeeze(-1)
            loss = -(log_probs * counted).sum() / counted.sum()
            optimizer.param_groups[0]["lr"] = learning_rate * (1 - step / steps)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            yield {"rows": rows, "log_probs": log_probs.detach(), "loss": loss.detach()}


USER, BOT, END = 6, 7, 8
"""Token ids of the small language's marks; 0 to 5 are its words. Padding is END, as in many real tokenizers."""
EPOCHS, BATCH_SIZE, LEARNING_RATE = 5, 16, 0.4
SFT_GAP = 0.01
"""Nats per token above the lowest loss. Over 20 problems the course's loop ends at 0.0032 at most; with a learning rate
that does not fall, the noise of the last batches leaves 0.024 at least."""


class _Table(nn.Module):
    """A language model that is a table: for each token the logits of the next. Its lowest loss follows from counts."""

    def __init__(self, g: torch.Generator) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(END + 1, END + 1, generator=g))

    def forward(self, input_ids: Tensor, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(logits=self.table[input_ids])


def _chats(g: torch.Generator, n: int = 640) -> tuple[Tensor, Tensor]:
    """ids and is_answer, shape (n, L): prompts of random words; answers in which each word depends on the last one."""
    follows = torch.softmax(1.5 * torch.randn(END + 1, USER, generator=g), dim=-1)
    texts = []
    for _ in range(n):
        prompt = [USER, *torch.randint(USER, (whole(g, 2, 5),), generator=g).tolist(), BOT]
        answer = [BOT]
        for _ in range(whole(g, 1, 7)):
            answer.append(int(torch.multinomial(follows[answer[-1]], 1, generator=g)))
        texts.append((prompt, [*answer[1:], END]))
    length = max(len(prompt) + len(answer) for prompt, answer in texts)
    ids = torch.tensor([p + a + [END] * (length - len(p) - len(a)) for p, a in texts])
    is_answer = torch.tensor([[len(p) <= k < len(p) + len(a) for k in range(length)] for p, a in texts])
    return ids, is_answer


def _of_tokens(table: Tensor, ids: Tensor) -> Tensor:
    """log π of each token but the first, shape (B, L − 1)."""
    return table[ids[:, :-1]].log_softmax(-1).gather(-1, ids[:, 1:].unsqueeze(-1)).squeeze(-1)


@dataclass
class Imitation:
    """What a loop of SFT did. `tables` are the weights before the first step and after each."""

    ids: Tensor
    is_answer: Tensor
    tables: list[Tensor]
    parts: list[dict[str, Tensor]] = field(default_factory=list)

    @property
    def steps(self) -> int:
        """The number of steps that were asked for."""
        return EPOCHS * len(self.ids) // BATCH_SIZE

    def given(self, name: str) -> bool:
        """Whether every step has this part."""
        return bool(self.parts) and all(name in part for part in self.parts)

    def at(self, step: int) -> Tensor:
        """The weights that the forecasts of a step are made with: one may yield after the update, or before it."""
        part, tables = self.parts[step], self.tables[step : step + 2]
        if "log_probs" not in part:
            return tables[0]
        far = [_distance(part["log_probs"], _of_tokens(table, self.ids[part["rows"]])) for table in tables]
        return tables[far.index(min(far))]

    def loss(self, table: Tensor, rows: Any = slice(None)) -> float:
        """The loss (2) of these rows."""
        counted = self.is_answer[rows][:, 1:]
        return float(-_of_tokens(table, self.ids[rows])[counted].mean())

    @property
    def lowest(self) -> float:
        """The lowest loss that any table has: with the shares of what followed each token in the answers."""
        counted = self.is_answer[:, 1:]
        followed = torch.zeros(END + 1, END + 1)  # [a, b]: how often token b came after token a, within answers
        followed.index_put_(
            (self.ids[:, :-1][counted], self.ids[:, 1:][counted]), torch.ones(int(counted.sum())), accumulate=True
        )
        shares = followed / followed.sum(1, keepdim=True).clamp(min=1)
        return float(-torch.xlogy(followed, shares).sum() / followed.sum())

    def gap(self, step: int) -> float:
        """Nats per token above the lowest loss, after so many steps."""
        return self.loss(self.tables[step]) - self.lowest

    def moved(self, step: int) -> Tensor:
        """By how much each weight that a step changed was changed."""
        change = (self.tables[step + 1] - self.tables[step]).abs()
        return change[change > 0]


def _distance(got: Tensor, want: Tensor) -> float:
    """The largest difference, infinite where the shapes differ."""
    return float((got - want).abs().max()) if got.shape == want.shape else math.inf


def _imitation(answer: Any, seed: int) -> Imitation:
    g = torch.Generator().manual_seed(seed)
    ids, is_answer = _chats(g)
    model = _Table(g)
    record = Imitation(ids, is_answer, [model.table.detach().clone()])
    found = answer(model, ids.clone(), is_answer.clone(), EPOCHS, BATCH_SIZE, LEARNING_RATE)
    if not isinstance(found, Iterator):
        raise Malformed("Your function has no `yield`: after each step, yield a dict with what the step has so far.")
    for result in itertools.islice(found, 2 * record.steps):
        part = {name: torch.as_tensor(value).detach().clone() for name, value in
                parts(result, "rows", "log_probs", "loss").items()}  # fmt: skip
        record.parts.append(part)
        record.tables.append(model.table.detach().clone())
    return record


def _batches(record: Imitation) -> str | None:
    if not record.given("rows"):
        return None
    rows, n = [part["rows"].flatten() for part in record.parts], len(record.ids)
    if len(rows) != record.steps:
        return f"{len(rows)} steps came, {record.steps} were expected: {EPOCHS} epochs of {n} rows, {BATCH_SIZE} a step"
    seen = torch.cat(rows)
    if seen.dtype == torch.bool or seen.is_floating_point() or len(seen) != EPOCHS * n:
        return f"`rows` should hold the numbers of the {BATCH_SIZE} demonstrations of a step"
    epochs = seen.view(EPOCHS, n)
    if bool((epochs.sort(dim=1).values != torch.arange(n)).any()):
        missed = n - len(set(epochs[0].tolist()))
        return f"in the first epoch {missed} of {n} demonstrations never came up: each should come once an epoch"
    if bool((epochs == epochs[0]).all()):
        return "every epoch has the same order: draw a new one each time"
    return ""


def _forecasts(record: Imitation) -> str | None:
    if not record.given("log_probs"):
        return None
    for step, part in enumerate(record.parts):
        want = _of_tokens(record.at(step), record.ids[part["rows"]])
        if part["log_probs"].shape != want.shape:
            return f"`log_probs` has shape {tuple(part['log_probs'].shape)}, expected (B, L − 1) = {tuple(want.shape)}"
        if not _distance(part["log_probs"], want) < 1e-3:  # fp32
            i, k = divmod(int((part["log_probs"] - want).abs().nan_to_num(math.inf).argmax()), want.shape[1])
            return (
                f"in step {step + 1}, row {i}, the token of column {k + 1} has log π = {want[i, k]:.3f} given those "
                f"before it, and you have {part['log_probs'][i, k]:.3f}"
            )
    return ""


def _losses(record: Imitation) -> str | None:
    if not record.given("loss"):
        return None
    for step, part in enumerate(record.parts):
        want = record.loss(record.at(step), part["rows"])
        if part["loss"].numel() != 1:
            return f"`loss` has shape {tuple(part['loss'].shape)}, expected one number"
        if not abs(float(part["loss"]) - want) < 1e-3:  # fp32
            return f"in step {step + 1} the loss (2) is {want:.4f}, and you have {float(part['loss']):.4f}"
    return ""


def _falls(record: Imitation) -> str:
    start, soon = record.gap(0), record.gap(len(record.ids) // BATCH_SIZE)
    if soon < start / 2:
        return ""
    return (
        f"before the first step the loss of all demonstrations was {start:.3f} nats above the lowest possible, after "
        f"the first epoch it was {soon:.3f}; expected is less than half"
    )


def _arrives(record: Imitation) -> str:
    gap = record.gap(-1)
    return "" if gap < SFT_GAP else f"at the end the loss is {gap:.4f} nats above the lowest one, expected < {SFT_GAP}"


def _log_probs_are(wrong: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Imitation], bool]:
    """Whether the first step's log_probs are these: a function of the table and the ids."""

    def seen(record: Imitation) -> bool:
        got, ids = record.parts[0]["log_probs"], record.ids[record.parts[0]["rows"]]
        want = wrong(record.tables[0], ids)
        return any(_distance(got, w) < 1e-3 for w in (want, want[:, 1:], want[:, :-1]))

    return seen


def _loss_is(wrong: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable[[Imitation], bool]:
    """Whether the losses of the first steps are these: a function of log_probs, of the mask and of what is real."""

    def seen(record: Imitation) -> bool:
        for step, part in enumerate(record.parts[:3]):
            mask, ids = record.is_answer[part["rows"]], record.ids[part["rows"]]
            real = mask.long().flip(-1).cummax(-1).values.flip(-1).bool()  # up to the end of the answer
            log_probs = _of_tokens(record.at(step), ids)
            if not abs(float(wrong(log_probs, mask, real)) - float(part["loss"])) < 1e-3:
                return False
        return True

    return seen


def _same(record: Imitation) -> bool:
    return all(torch.equal(part["rows"], record.parts[0]["rows"]) for part in record.parts)


def _with_the_right_loss(seen: Callable[[Imitation], bool]) -> Callable[[Imitation], bool]:
    """A symptom of the update, which a wrong loss would show as well."""
    return lambda record: _losses(record) == "" and seen(record)


def _alike(moved: Tensor) -> bool:
    """Whether most weights moved by the same amount."""
    return float((moved > 0.99 * moved.max()).float().mean()) > 0.5


def _last_of_answer(mask: Tensor) -> Tensor:
    return mask & ~mask.roll(-1, dims=1)


def _epochs(record: Imitation) -> Tensor:
    return torch.cat([part["rows"].flatten() for part in record.parts]).view(EPOCHS, -1)


def _one_factor(record: Imitation) -> bool:
    """Whether the first log_probs are the right ones times a constant."""
    got, want = record.parts[0]["log_probs"], _of_tokens(record.at(0), record.ids[record.parts[0]["rows"]])
    ratio = (got / want)[want < -0.1]
    return got.shape == want.shape and float(ratio.std()) < 1e-3 * abs(float(ratio.mean()))


def _unread_shrinks(record: Imitation) -> bool:
    """Whether the rows of the table that no answer's token is forecast from shrink by one factor."""
    unread = torch.ones(END + 1, dtype=torch.bool)
    unread[record.ids[:, :-1][record.is_answer[:, 1:]]] = False
    before, after = record.tables[0][unread], record.tables[-1][unread]
    return bool(unread.any()) and float(after.norm()) < 0.99 * float(before.norm())


Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""A loss of log_probs, of the mask and of what is real, each (B, L − 1)."""


def _as_asked(p: Tensor, mask: Tensor, real: Tensor) -> Tensor:
    return -p[mask].mean()


def _rates(
    record: Imitation, loss: Loss = _as_asked, *, plain: bool = False, piled: bool = False
) -> list[float] | None:
    """The learning rates of the first steps and of some later ones, as shares of LEARNING_RATE, if each was a step of
    Adam, or a plain one, down this loss; else None. Adam's moments follow from the gradients at the weights that were
    there; piled, each gradient is added to those before."""
    first = second = pile = torch.zeros_like(record.tables[0])
    found = []
    for step in range(record.steps):
        rows = record.parts[step]["rows"]
        table = record.tables[step].clone().requires_grad_()
        mask = record.is_answer[rows]
        real = mask.long().flip(-1).cummax(-1).values.flip(-1).bool()
        value = loss(_of_tokens(table, record.ids[rows]), mask[:, 1:], real[:, 1:])
        (g,) = torch.autograd.grad(value, table)
        pile = pile + g
        g = pile if piled else g
        first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g**2
        adam = (first / (1 - 0.9 ** (step + 1))) / ((second / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
        way, change = -(g if plain else adam), record.tables[step + 1] - record.tables[step]
        if float(change.norm()) < 1e-4 * float(way.norm()) * LEARNING_RATE:  # too small to have a direction in float32
            found.append(0.0)
            continue
        rate = float((way * change).sum() / (way * way).sum())
        if float((change - rate * way).norm()) > 0.02 * float(change.norm()):
            return None
        found.append(rate / LEARNING_RATE)
    return found


def _scheduled(seen: Callable[[list[float]], bool]) -> Callable[[Imitation], bool]:
    """A symptom of the learning rates of steps that are right in all else."""

    def of_record(record: Imitation) -> bool:
        rates = _rates(record) if _losses(record) == "" and len(record.tables) > record.steps else None
        return rates is not None and seen(rates)

    return of_record


def _follows(*losses: Loss) -> Callable[[Imitation], bool]:
    """Whether the steps go down another loss than the one that is yielded."""
    return lambda record: (
        _losses(record) == "" and _rates(record) is None and any(_rates(record, loss) is not None for loss in losses)
    )


capstone = Capstone(
    title="0.5 Capstone: supervised fine-tuning, whole",
    reference=imitate,
    run=_imitation,
    steps=(
        Step("the batches", _batches),
        Step("the log-probabilities", _forecasts),
        Step("the loss", _losses),
        Step("the update", _falls),
        Step("the optimum", _arrives),
    ),
    symptoms=(
        Symptom(
            "no shift",
            _log_probs_are(lambda table, ids: table[ids].log_softmax(-1).gather(-1, ids.unsqueeze(-1)).squeeze(-1)),
            "You ask the model how probable a token is *after itself*. Column k of the logits forecasts token k + 1: "
            "pair `logits[:, :-1]` with `ids[:, 1:]`.",
        ),
        Symptom(
            "shift to the wrong side",
            _log_probs_are(
                lambda table, ids: table[ids[:, 1:]].log_softmax(-1).gather(-1, ids[:, :-1].unsqueeze(-1)).squeeze(-1)
            ),
            "You ask how probable the token *before* is. Column k of the logits forecasts token k + 1, the one after.",
        ),
        Symptom(
            "logits",
            _log_probs_are(lambda table, ids: table[ids[:, :-1]].gather(-1, ids[:, 1:].unsqueeze(-1)).squeeze(-1)),
            "Those are logits. They become log-probabilities by `log_softmax` over the vocabulary, the last axis.",
        ),
        Symptom(
            "probabilities",
            _log_probs_are(lambda table, ids: _of_tokens(table, ids).exp()),
            "Those are probabilities, between 0 and 1. Equation (2) needs their logarithms.",
        ),
        Symptom(
            "negative log-probabilities",
            _log_probs_are(lambda table, ids: -_of_tokens(table, ids)),
            "Those are −log π. `log_probs` are the logarithms themselves, negative numbers; the minus of (2) comes "
            "with the loss.",
        ),
        Symptom(
            "softmax over the wrong axis",
            _log_probs_are(
                lambda table, ids: table[ids].log_softmax(1)[:, :-1].gather(-1, ids[:, 1:].unsqueeze(-1)).squeeze(-1)
            ),
            "Your softmax runs along the text. The probabilities of the *vocabulary* sum to 1: the last axis, −1.",
        ),
        Symptom(
            "another unit",
            lambda record: _forecasts(record) not in (None, "") and _one_factor(record),
            "Your `log_probs` are the right ones times a constant: logarithms here are natural, at temperature 1.",
        ),
        Symptom(
            "prompts in the loss",
            _loss_is(lambda p, mask, real: -p[real[:, 1:]].mean()),
            "Your loss is the mean over the tokens of prompts and answers. The mask of (2) keeps the answers only: we "
            "do not want to imitate users.",
        ),
        Symptom(
            "everything in the loss",
            _loss_is(lambda p, mask, real: -p.mean()),
            "Your loss is the mean over all columns: prompts, answers and padding. The mask of (2) keeps the answers.",
        ),
        Symptom(
            "padding in the loss",
            _loss_is(lambda p, mask, real: -p[(mask | ~real)[:, 1:]].mean()),
            "The padding after the answers is in your loss. (2) counts where `is_answer` is True, nowhere else.",
        ),
        Symptom(
            "end left out",
            _loss_is(lambda p, mask, real: -p[(mask & ~_last_of_answer(mask))[:, 1:]].mean()),
            "The end token is not in your loss: the model would never learn to stop. (2) counts it, and `is_answer` is "
            "True there.",
        ),
        Symptom(
            "mask not shifted",
            _loss_is(lambda p, mask, real: -p[mask[:, :-1]].mean()),
            "Your mask is one column off: the log-probability of token k + 1 stands in column k, so its mask is "
            "`is_answer[:, 1:]`. You leave out the first token of each answer, and count one too many at its end.",
        ),
        Symptom(
            "first token left out",
            _loss_is(lambda p, mask, real: -p[(mask & mask.roll(1, dims=1))[:, 1:]].mean()),
            "The first token of each answer is not in your loss. (2) counts it: it is forecast by the prompt's last "
            "token.",
        ),
        Symptom(
            "prompts alone",
            lambda record: (
                _loss_is(lambda p, mask, real: -p[~mask[:, 1:]].mean())(record)
                or _loss_is(lambda p, mask, real: -p[(real & ~mask)[:, 1:]].mean())(record)
            ),
            "Your loss counts where `is_answer` is False. It is turned round: (2) counts the answers.",
        ),
        Symptom(
            "logarithm of a mean",
            lambda record: (
                _loss_is(lambda p, mask, real: -p[mask[:, 1:]].exp().mean().log())(record)
                or _loss_is(lambda p, mask, real: -p[mask[:, 1:]].exp().mean())(record)
                or _loss_is(lambda p, mask, real: 1 - p[mask[:, 1:]].exp().mean())(record)
            ),
            "You average probabilities. (2) is the mean of their logarithms.",
        ),
        Symptom(
            "another divisor",
            lambda record: (
                _loss_is(lambda p, mask, real: -p[mask[:, 1:]].sum() / mask[:, 1:].sum(1).max())(record)
                or _loss_is(lambda p, mask, real: -p[mask[:, 1:]].sum() / real.sum())(record)
                or _loss_is(lambda p, mask, real: -p[mask[:, 1:]].sum() / real[:, 1:].sum())(record)
                or _loss_is(lambda p, mask, real: -p[mask[:, 1:]].sum() / mask.numel())(record)
            ),
            "Your loss has the right sum above and another number below than Σ m, the tokens that count.",
        ),
        Symptom(
            "not the logarithms",
            lambda record: (
                _loss_is(lambda p, mask, real: p[mask[:, 1:]].square().mean())(record)
                or _loss_is(lambda p, mask, real: (-p[mask[:, 1:]].mean()).exp())(record)
                or _loss_is(lambda p, mask, real: -p[mask[:, 1:]].median())(record)
                or _loss_is(lambda p, mask, real: -p[mask[:, 1:]].mean() / math.log(2))(record)
            ),
            "Your loss is another figure of the right tokens: squares, the perplexity, a median, or in bits. (2) is "
            "the mean of −log π, in nats.",
        ),
        Symptom(
            "last tokens left out",
            lambda record: any(
                _loss_is(lambda p, mask, real, k=k: -p[(mask & mask.roll(-k, dims=1))[:, 1:]].mean())(record)  # type: ignore[misc]
                for k in (1, 2, 3)
            ),
            "The last tokens of each answer are not in your loss. (2) counts every token of the answer, the end too.",
        ),
        Symptom(
            "minus missing",
            _loss_is(lambda p, mask, real: p[mask[:, 1:]].mean()),
            "The minus of (2) is missing: a step down this loss makes the demonstrations *less* probable.",
        ),
        Symptom(
            "sum",
            _loss_is(lambda p, mask, real: -p[mask[:, 1:]].sum()),
            "Your loss is a sum over the tokens. (2) divides by their number, Σ m, so that it does not depend on the "
            "batch.",
        ),
        Symptom(
            "divided by the columns",
            _loss_is(lambda p, mask, real: -(p * mask[:, 1:]).mean()),
            "You divide by the number of all columns, padding and prompts too. (2) divides by Σ m, the tokens counted.",
        ),
        Symptom(
            "divided by the rows",
            _loss_is(lambda p, mask, real: -(p * mask[:, 1:]).sum(1).mean()),
            "You divide by the number of answers. (2) divides by Σ m, the number of answer tokens.",
        ),
        Symptom(
            "mean of means",
            _loss_is(lambda p, mask, real: -((p * mask[:, 1:]).sum(1) / mask[:, 1:].sum(1)).mean()),
            "You take the mean of each answer first, and then the mean over the answers: a token of a short answer "
            "counts more. In (2) every token counts alike.",
        ),
        Symptom(
            "always the same rows",
            _same,
            "Every step has the same rows: the model sees one batch and never the other demonstrations.",
        ),
        Symptom(
            "one order for all epochs",
            lambda record: (
                _batches(record) not in (None, "")
                and len(record.parts) == record.steps
                and bool((_epochs(record) == _epochs(record)[0]).all())
                and bool((_epochs(record)[0].sort().values == torch.arange(len(record.ids))).all())
            ),
            "Every epoch has the same order. Draw a new one in each: torch.randperm inside the loop over the epochs.",
        ),
        Symptom(
            "drawn with repeats",
            lambda record: (
                _batches(record) not in (None, "")
                and len(record.parts) == record.steps
                and 0.5 < len(set(_epochs(record)[0].tolist())) / len(record.ids) < 0.75
            ),
            "In an epoch some demonstrations come several times and others never: they are drawn anew each time. "
            "Shuffle all of them, and go through.",
        ),
        Symptom(
            "another number of steps",
            lambda record: _batches(record) not in (None, "") and len(record.parts) != record.steps,
            "The number of steps is not that of `epochs` passes over all demonstrations, `batch_size` of them a step.",
        ),
        Symptom(
            "steps by another loss",
            _follows(
                lambda p, mask, real: -p.mean(),
                lambda p, mask, real: -p[real].mean(),
                lambda p, mask, real: -p[~mask].mean(),
                lambda p, mask, real: -((p * mask).sum(1) / mask.sum(1)).mean(),
                lambda p, mask, real: -(p * mask).sum(),
                lambda p, mask, real: -p[mask].exp().mean(),
            ),
            "The loss that you yield is right, and your steps go down another one: with other tokens, or averaged "
            "otherwise.",
        ),
        Symptom(
            "steps up",
            _follows(lambda p, mask, real: p[mask].mean()),
            "The loss that you yield is right, and your steps go up it. `backward()` belongs to the loss itself: an "
            "optimizer goes down.",
        ),
        Symptom(
            "plain gradient descent",
            lambda record: _losses(record) == "" and _rates(record) is None and _rates(record, plain=True) is not None,
            "Your steps are plain gradient steps. Adam is asked for: with this learning rate plain steps are too "
            "short.",
        ),
        Symptom(
            "weight decay",
            lambda record: _losses(record) == "" and _arrives(record) != "" and _unread_shrinks(record),
            "Weights shrink that no demonstration touches: something pulls all of them towards 0, such as weight "
            "decay.",
        ),
        Symptom(
            "the learning rate rises",
            _scheduled(lambda rates: rates[0] < 0.1 and rates[-1] > 0.5),
            "Your learning rate begins at 0 and rises to the end: the schedule is turned round.",
        ),
        Symptom(
            "the learning rate falls too soon",
            _scheduled(lambda rates: rates[0] > 0.5 and rates[len(rates) // 2] < 0.25),
            "In the middle of the run your learning rate has nearly gone: it falls faster than in a straight line to "
            "the last step.",
        ),
        Symptom(
            "falls within each epoch",
            _scheduled(lambda rates: max(rates[len(rates) // 2 :]) > 0.9 and min(rates[: len(rates) // 2]) < 0.2),
            "Your learning rate falls and jumps up again: the steps are counted anew in each epoch. Count over the "
            "whole run.",
        ),
        Symptom(
            "another learning rate",
            _scheduled(lambda rates: rates[0] > 1e-3 and not 0.8 < rates[0] < 1.2),
            "Your first step has another learning rate than `learning_rate`.",
        ),
        Symptom(
            "nothing moves",
            _with_the_right_loss(
                lambda record: len(record.tables) > 1 and torch.equal(record.tables[0], record.tables[-1])
            ),
            "No weight ever changes: after `loss.backward()` comes `optimizer.step()`, and the optimizer must hold "
            "`model.parameters()`.",
        ),
        Symptom(
            "gradients pile up",
            lambda record: _losses(record) == "" and _rates(record) is None and _rates(record, piled=True) is not None,
            "The gradient that is left in the weights is several times that of your loss: PyTorch adds each gradient "
            "to the ones before. Call `optimizer.zero_grad()` in every step.",
        ),
        Symptom(
            "uphill",
            _with_the_right_loss(lambda record: record.gap(-1) > record.gap(0)),
            "The loss of all demonstrations *rises* over the run: do you step up the gradient and not down, or train "
            "by something else than the loss that you yield?",
        ),
        Symptom(
            "a new optimizer in every step",
            _with_the_right_loss(lambda record: all(_alike(record.moved(step)) for step in (20, 40, 60))),
            "In each step all weights move by the same amount: Adam has no memory. Make the optimizer once, before the "
            "loop.",
        ),
        Symptom(
            "the learning rate does not fall",
            _with_the_right_loss(
                lambda record: (
                    float(torch.cat([record.moved(k) for k in range(-22, -2)]).mean())
                    > 0.3 * float(torch.cat([record.moved(k) for k in range(60, 80)]).mean())
                )
            ),
            "The last steps are about as large as those in the middle of the run, so the weights follow the noise of "
            "the last batches. Let the learning rate fall to 0 over all steps of the run.",
        ),
    ),
    shows=lambda records: (
        f"On {len(records)} problems your loss ends at most {max(r.gap(-1) for r in records):.4f} nats per token above "
        "the lowest that is possible."
    ),
    hints=(
        "In section 1 the model was asked for one token at a time. Which column of the logits holds the forecast of "
        "token k + 1, if the whole text goes in at once?",
        "A causal model forecasts every next token in one pass: column k of the logits knows tokens 0 … k, so "
        "log π of token k + 1 is the log-softmax of column k, read at that token. The loss is −Σ m log π / Σ m with "
        "the mask of token k + 1: both are one column shorter than the text.",
        "Make the optimizer. For each epoch shuffle the numbers 0 … N − 1 and cut them into batches. For each batch: "
        "logits of the whole rows; log-softmax over the vocabulary; drop the last column; gather at `ids[:, 1:]`; sum "
        "where `is_answer[:, 1:]`, divide by the number of such tokens, minus. Then set the learning rate to "
        "learning_rate · (1 − step/steps), clear the gradients, go backward, step, and yield.",
        "optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)\n"
        "steps, step = epochs * math.ceil(len(ids) / batch_size), 0\n"
        "for _ in range(epochs):\n"
        "    for rows in torch.split(torch.randperm(len(ids)), batch_size):\n"
        "        tokens, counted = ids[rows], is_answer[rows]\n"
        "        forecast = model(input_ids=tokens).logits.log_softmax(-1)\n"
        "        log_probs = forecast[...].gather(-1, tokens[...].unsqueeze(-1)).squeeze(-1)\n"
        "        loss = ...\n"
        '        optimizer.param_groups[0]["lr"] = ...\n'
        "        optimizer.zero_grad()\n"
        "        loss.backward()\n"
        "        optimizer.step()\n"
        "        step += 1\n"
        '        yield {"rows": rows, "log_probs": log_probs.detach(), "loss": loss.detach()}',
    ),
)
