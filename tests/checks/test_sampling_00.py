"""Exercise 0.6: the reference draws what it should, as often as it should."""

import math

import torch

from week6.checks import nb00
from week6.checks.sampling_00 import Language, sample_by_numbers


def always(*probabilities):
    """A model that forecasts the same, whatever came before."""
    logits = torch.tensor(probabilities).log()
    return lambda tokens: logits.expand(len(tokens), -1)


def test_by_hand():
    numbers = torch.tensor([[0.1, 0.45, 0.95, 0.05], [0.3, 0.2, 0.85, 0.6]])  # pieces: 0 to 0.2, to 0.5, to 0.9, to 1
    said = sample_by_numbers(always(0.2, 0.3, 0.4, 0.1), torch.zeros(2, 1).long(), numbers, 1.0, 3)
    assert said.tolist() == [[0, 1, 3, 3], [1, 1, 2, 2]]
    cold = sample_by_numbers(always(0.2, 0.3, 0.4, 0.1), torch.zeros(2, 1).long(), numbers, 0.01, 3)
    assert cold.tolist() == [[2, 2, 2, 2], [2, 2, 2, 2]]


def test_how_often_a_token_is_drawn():
    """At temperature ½ the probabilities 0.8 and 0.2 become 16/17 and 1/17, at 2 they become 2/3 and 1/3."""
    numbers = torch.rand(20_000, 1, generator=torch.Generator().manual_seed(0))
    for temperature, share in ((0.5, 16 / 17), (2.0, 2 / 3)):
        said = sample_by_numbers(always(0.8, 0.2), torch.zeros(20_000, 1).long(), numbers, temperature, 9)
        assert abs(float((said == 0).double().mean()) - share) < 4 * math.sqrt(0.25 / 20_000)


def test_the_language_looks_at_two_tokens():
    language = Language(torch.tensor([[0.0, 1.0], [2.0, 4.0]]))
    assert language(torch.tensor([[1, 0, 1]])).tolist() == [[2.0, 4.5]]
    assert language(torch.tensor([[1]])).tolist() == [[3.0, 6.0]]


def test_the_cases_hold_rows_that_end_and_rows_that_do_not():
    asked = [case for seed in range(5) for case in nb00.q6.cases(torch.Generator().manual_seed(seed))]
    found = [sample_by_numbers(Language(case[0]), *case[1:]) == case[-1] for case in asked]
    assert all(any(bool(ends[:, k].any()) for ends in found) for k in range(4))
    assert any(bool((~ends.any(1)).any()) for ends in found)


def test_words_for_what_is_in_no_catalogue():
    def told(change):
        return nb00.q6.grade(lambda *arguments: change(sample_by_numbers(*arguments), arguments)).text

    def cold(said, arguments):
        return sample_by_numbers(*arguments[:3], arguments[3] ** 2, arguments[4])

    assert told(cold).startswith("Right at temperature 1, and wrong at others")
    assert told(lambda said, _: torch.cat([said[:, :1], 1 + said[:, 1:]], 1)).startswith("The first token of each row")
    assert told(lambda said, _: said + 1).startswith("Already the first token")
