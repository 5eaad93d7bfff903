"""What several people thought of each text, turned into comparisons between texts.

Two texts, one rater of each: the text that its rater liked more is the chosen one. Ties are left out. That is how
people disagree in real preference data: two raters of the same two texts may rank them differently.
"""

import math
import random
from collections.abc import Iterable, Sequence

from datasets import Dataset

from week6.machine import validate as check
from week6.machine.checkpoint import RunError


@check.arguments
def parse_ratings(cells: Sequence[str], where: str) -> list[list[float]]:
    """The ratings of each text, from cells such as "2,3,-1": at least one number each.

    RunError names a row without numbers, and says where all ratings are equal: nothing can be learned from them.
    """
    check.texts(cells=cells)
    rows = []
    for i, cell in enumerate(cells):
        try:
            rows.append([float(rating) for rating in cell.split(",")])
        except ValueError:
            rows.append([])
        if not rows[-1] or not all(map(math.isfinite, rows[-1])):
            raise RunError(f"{where}: row {i + 1} is {cell!r:.60}, expected numbers with commas between them")
    if len({rating for row in rows for rating in row}) == 1:
        raise RunError(f"{where}: all ratings are {rows[0][0]:g}, expected different ones to compare")
    return rows


def preference(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Probability that a rater of the first text liked it more than a rater of the second liked that one.

        p = #{(i, j): a_i > b_j} / #{(i, j): a_i ≠ b_j}

    None where all rated both alike.
    """
    more, less = (sum(x > y for x in first for y in second) for first, second in ((a, b), (b, a)))
    return more / (more + less) if more + less else None


def comparisons(
    texts: Sequence[str],
    ratings: Sequence[Sequence[float]],
    couples: Iterable[tuple[int, int]],
    prompt: str,
    rng: random.Random,
) -> Dataset:
    """One comparison for each couple of texts: the columns prompt, chosen, rejected and probability.

    The probability is that of the choice made. All have the same `prompt`, since the texts have none of their own.
    Couples that all raters rated alike are left out.
    """
    rows = []
    for i, j in couples:
        p = preference(ratings[i], ratings[j])
        if p is not None:
            first_wins = rng.random() < p
            chosen, rejected = (i, j) if first_wins else (j, i)
            rows.append((prompt, texts[chosen], texts[rejected], p if first_wins else 1 - p))
    return Dataset.from_list(
        [dict(zip(("prompt", "chosen", "rejected", "probability"), row, strict=True)) for row in rows]
    )
