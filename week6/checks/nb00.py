"""Questions of notebook 00, alignment: agreement of annotators, and refusing right."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

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


def _two_annotators(g: torch.Generator) -> list[tuple[Tensor, Tensor]]:
    return [
        (torch.rand(40, generator=g) < 0.8, torch.rand(40, generator=g) < 0.6),
        (torch.rand(25, generator=g) < 0.3, torch.rand(25, generator=g) < 0.5),
        (torch.tensor([True, True, False, False, True]), torch.tensor([True, False, False, True, True])),
    ]


q1 = Question(
    title="0.1 Agreement",
    reference=agreement,
    cases=_two_annotators,
    hints=(
        "`first == second` says for each item whether the two agree.",
        "A mean of True and False needs numbers: .float().mean().",
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
    ),
)

q2 = Question(
    title="0.2 Cohen's κ",
    reference=cohens_kappa,
    cases=_two_annotators,
    hints=(
        "Three numbers first: p_o from exercise 0.1, and the shares p_1 and p_2 of True.",
        "p_e has two terms: both say a, and both say b. Then (p_o − p_e) / (1 − p_e).",
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
            lambda a, b: _with_common_share(a, b),
            "You used one pooled share for both annotators (that is Scott's π). In (5) each has a share of their own.",
        ),
        Misconception(
            "divided by chance",
            lambda a, b: (
                (
                    (a == b).float().mean()
                    - a.float().mean() * b.float().mean()
                    - (1 - a.float().mean()) * (1 - b.float().mean())
                )
                / (a.float().mean() * b.float().mean() + (1 - a.float().mean()) * (1 - b.float().mean()))
            ),
            "You divided by p_e. The denominator of (5) is what could be won above chance: 1 − p_e.",
        ),
    ),
)


def _with_common_share(first: Tensor, second: Tensor) -> Tensor:
    p = torch.cat([first, second]).float().mean()
    p_e = p**2 + (1 - p) ** 2
    return ((first == second).float().mean() - p_e) / (1 - p_e)


q3 = Question(
    title="0.3 Expected agreement",
    reference=expected_agreement,
    cases=lambda g: [
        (torch.rand(6, generator=g),),
        (torch.rand(50, generator=g),),
        (torch.tensor([0.8]),),
        (torch.tensor([0.0, 1.0, 0.5]),),
    ],
    hints=(
        "Two ways to agree: both say a, or both say b. What is the probability of each?",
        "The two annotators choose independently: multiply. Then take the mean over the pairs.",
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
            "They can differ in two ways, a then b, or b then a: the last form of (6) subtracts 2p(1 − p).",
        ),
        Misconception(
            "sum",
            lambda p: (p**2 + (1 - p) ** 2).sum(),
            "That is the expected number of agreements. Take the mean over the pairs to get a share.",
        ),
    ),
)

q4 = Question(
    title="0.4 Refusing right",
    reference=refusal_rates,
    cases=lambda g: [
        (torch.rand(30, generator=g) < 0.3, torch.rand(30, generator=g) < 0.5),
        (torch.rand(50, generator=g) < 0.7, torch.rand(50, generator=g) < 0.2),
        (torch.tensor([True, False, False, True, False]), torch.tensor([True, True, False, False, False])),
    ],
    hints=(
        "refused[harmful] keeps the entries of the harmful requests only.",
        "~harmful is the mask of the harmless ones. Each rate is a mean over its own requests.",
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
            "Your second number is how many harmless requests were *not* refused. Over-refusal is the share refused.",
        ),
        Misconception(
            "complied",
            lambda h, r: ((~r[h]).float().mean(), r[~h].float().mean()),
            "Your first number is how many harmful requests were *not* refused. The refusal rate is one minus that.",
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
