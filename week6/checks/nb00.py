"""Questions of notebook 00, alignment: agreement of annotators, refusing right, and a loop of fine-tuning."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from week6.checks.bench_00 import SFT_GAP as SFT_GAP
from week6.checks.capstone_00 import capstone as capstone
from week6.checks.cases import whole
from week6.checks.engine import Misconception, Prediction, Question
from week6.checks.sampling_00 import q6 as q6


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
