"""The symptoms of notebook 08's capstone in the evaluation: answers, their worth, and the figures with their errors."""

import math
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor

from week6.checks.bench_08 import ANSWERS, THINGS, Chatbot
from week6.checks.capstone import Symptom
from week6.checks.counterfactual import alike
from week6.checks.judging import at, numbers
from week6.checks.steps_08 import (
    STEPS,
    answers_of,
    at_answering,
    at_gold,
    by_prompt,
    clustered,
    judged_answers,
    letters,
    surprise,
)


def _rearranged(c: Chatbot) -> bool:
    """Whether the answers would be far better if they belonged to the conversations in another order."""
    flat = [text for row in answers_of(c) for text in row]
    m = len(c.bench.heldout)
    orders = ([i % m for i in range(len(flat))], [m - 1 - i // ANSWERS for i in range(len(flat))])
    other = [sum(c.bench.judge(i, text) for i, text in zip(order, flat, strict=True)) / len(flat) for order in orders]
    return max(other) > float(judged_answers(c).mean()) + 0.3


def _rate(rule: Callable[[Chatbot], float], i: int = 0) -> Callable[[Chatbot], bool]:
    """Whether the win rate (0) is wrong and follows another rule; or, where it is right, its error (1)."""

    def follows(c: Chatbot) -> bool:
        found = numbers(c.parts, "win_rate", 2).tolist()
        rate_is_right = math.isclose(found[0], float(by_prompt(c).mean()), rel_tol=1e-3)
        return rate_is_right == (i == 1) and math.isclose(found[i], rule(c), rel_tol=0.01)

    return at(STEPS, STEPS[5].title, follows)


def _fits(c: Chatbot, message: int) -> float:
    """How often the answers of longer conversations are right, had another message been the question."""
    found = []
    for talk, row in zip(c.bench.heldout, answers_of(c), strict=True):
        thing = next(word for word in talk[message]["content"].split() if word in THINGS)
        if len(talk) > 1:
            found += [letters(text) == letters(f"{c.bench.right[thing]} it !") for text in row]
    return sum(found) / len(found)


def _gold(c: Chatbot) -> tuple[Tensor, Tensor]:
    """The student's gold rewards and the right ones, (M, K)."""
    return numbers(c.parts, "gold", len(c.bench.heldout), ANSWERS), judged_answers(c).double()


def _raw_answers(c: Chatbot) -> list[list[str]]:
    return [[str(text) for text in row] for row in c.parts["answers"]]


def _by_those_asked(c: Chatbot) -> tuple[Tensor, Tensor]:
    """The student's rewards, and what `judge` said when it was asked, in the order of the questions."""
    said = torch.tensor([c.bench.judge(i, text) for i, text in c.judged])
    return _gold(c)[0], said.view(-1, ANSWERS)


def _is_affine(came: Tensor, right: Tensor) -> bool:
    a, b = came - came.mean(), right - right.mean()
    return bool(alike(a / a.std(), b / b.std(), 1e-3))


def _wins(c: Chatbot) -> Tensor:
    """Of each answer against each of the rival's to its conversation, (M, K, J)."""
    difference = _gold(c)[0][:, :, None] - c.bench.rival[:, None, :]
    return (difference > 0).double() + 0.5 * (difference == 0).double()


def _half_for_a_tie(difference: Tensor) -> float:
    return float(((difference > 0).double() + 0.5 * (difference == 0).double()).mean())


OF_THE_ANSWERS: tuple[Symptom, ...] = (
    Symptom(
        "the question is in the answer",
        at_answering(
            lambda c: any(
                "tell me about" in text.lower() or "how to do" in text.lower() for r in answers_of(c) for text in r
            ),
        ),
        "Your answers begin with the question: decode only what was sampled after the prompt.",
    ),
    Symptom(
        "special tokens kept",
        at_answering(
            lambda c: any(
                m in text for r in _raw_answers(c) for text in r for m in c.bench.tokenizer.all_special_tokens
            )
        ),
        "Your answers hold special tokens. They are markers for the model, no words: leave them out when you decode.",
    ),
    Symptom(
        "cut off",
        at_answering(lambda c: max(len(t.split()) for r in answers_of(c) for t in r) < 3 and bool((c.gold > 1).any())),
        "No answer of yours has three words, though your model knows longer ones: they are cut off. Up to six tokens "
        "are allowed.",
    ),
    Symptom(
        "no answers",
        at_answering(
            lambda c: sum(not text.strip() for r in answers_of(c) for text in r) > 0.5 * 4 * len(answers_of(c))
        ),
        "Most of your answers are empty: is what was sampled decoded, and does the prompt leave the answer to the "
        "model?",
    ),
    Symptom(
        "one answer for all",
        at_answering(lambda c: len({text for row in answers_of(c) for text in row}) == 1),
        "All your answers to all conversations are the same.",
    ),
    Symptom(
        "four times the same",
        at_answering(lambda c: all(len(set(row)) == 1 for row in answers_of(c))),
        "The four answers to a conversation are always the same: they are one draw copied, or the likeliest words each "
        "time. Asked are four draws at temperature 1.",
    ),
    Symptom(
        "answers in another order",
        at_answering(_rearranged),
        "Your answers belong to other conversations than you think: the K answers to a prompt stand in one row, in "
        "the order of the conversations; repeat_interleave(K) keeps them together, repeat does not.",
    ),
    Symptom(
        "another question answered",
        at_answering(lambda c: _fits(c, 0) > _fits(c, -1) + 0.1),
        "Your answers fit the first question of a conversation better than the last: give the model the whole "
        "conversation, with the last question at its end.",
    ),
    Symptom(
        "too likely",
        at_answering(lambda c: surprise(c) > 4),
        "Your answers are too likely for draws of your model: a lower temperature, or the likeliest words. Asked are "
        "draws at temperature 1.",
    ),
    Symptom(
        "no generation prompt",
        at_answering(
            lambda c: bool(
                c.gold.mean() > judged_answers(c).mean() + 0.5 and (judged_answers(c) == -1).double().mean() > 0.6
            ),
        ),
        "Your model answers well when it is asked as it was trained, and your answers are useless: does the prompt end "
        "with the assistant's marker (add_generation_prompt=True), with all earlier turns before it, padded on the "
        "left, and is it sampled at temperature 1?",
    ),
    Symptom(
        "too unlikely",
        at_answering(lambda c: surprise(c) < -4),
        "Your model hardly ever gives answers such as yours: is it sampled at temperature 1, from the prompt as it was "
        "trained, padded on the left, after the training?",
    ),
    Symptom(
        "never judged",
        at_gold(lambda c: not c.judged),
        "`judge` was never asked: the gold rewards are what `judge(i, text)` says of each answer.",
    ),
    Symptom(
        "judged as another conversation",
        at_gold(lambda c: len({i for i, _ in c.judged}) == 1),
        "judge was asked about one conversation only: its first argument is the number of the conversation.",
    ),
    Symptom(
        "judged under other numbers",
        at_gold(
            lambda c: (
                alike(*_by_those_asked(c))
                and Counter(c.judged) != Counter((i, text) for i, row in enumerate(answers_of(c)) for text in row)
            )
        ),
        "judge was asked about your answers under other numbers than those of their conversations: `judge(i, text)` "
        "is for an answer to `heldout[i]`.",
    ),
    Symptom(
        "the rewards in another order",
        at_gold(lambda c: alike(_gold(c)[0].flatten().sort().values, _gold(c)[1].flatten().sort().values)),
        "`gold` holds the right rewards in another order: its row i, column k belongs to `answers[i][k]`.",
    ),
    Symptom(
        "the rewards in another unit",
        at_gold(lambda c: _is_affine(*_gold(c))),
        "`gold` is right but for a shift or a factor: leave the rewards as `judge` gives them.",
    ),
    Symptom(
        "means in place of rewards",
        at_gold(lambda c: alike(_gold(c)[0], _gold(c)[1].mean(1, keepdim=True).expand(-1, ANSWERS))),
        "Each of your rewards is the mean of its conversation. Asked is the reward of each single answer.",
    ),
    Symptom(
        "ties lost",
        _rate(lambda c: float(by_prompt(c, tie=0.0).mean())),
        "A tie counts nothing in your win rate. It counts one half.",
    ),
    Symptom(
        "ties won",
        _rate(lambda c: float(by_prompt(c, tie=1.0).mean())),
        "A tie counts as a win in your win rate. It counts one half.",
    ),
    Symptom(
        "the rival's wins",
        _rate(lambda c: 1 - float(by_prompt(c).mean())),
        "You count how often the rival wins.",
    ),
    Symptom(
        "answers in pairs",
        _rate(
            lambda c: float(
                (torch.sign(numbers(c.parts, "gold", len(c.bench.heldout), ANSWERS) - c.bench.rival) / 2 + 0.5).mean()
            )
        ),
        "You compare the k-th answer with the rival's k-th. Compare every answer with every one of the rival's to the "
        "same conversation.",
    ),
    Symptom(
        "another comparison",
        lambda c: any(
            _rate(rule)(c)
            for rule in (
                lambda c: float(_gold(c)[0].mean() - c.bench.rival.mean()),
                lambda c: float(_gold(c)[0].mean()),
                lambda c: float((_gold(c)[0][:, :, None] - c.bench.rival[:, None, :]).mean()),
            )
        ),
        "Your first number is a mean reward or a difference of rewards. A win rate counts how often an answer has the "
        "higher reward.",
    ),
    Symptom(
        "means compared",
        lambda c: any(
            _rate(rule)(c)
            for rule in (
                lambda c: _half_for_a_tie(_gold(c)[0].mean(1) - c.bench.rival.mean(1)),
                lambda c: _half_for_a_tie(_gold(c)[0] - c.bench.rival.mean(1, keepdim=True)),
                lambda c: _half_for_a_tie(_gold(c)[0].max(1).values - c.bench.rival.max(1).values),
                lambda c: _half_for_a_tie(_gold(c)[0].mean(1, keepdim=True) - c.bench.rival),
            )
        ),
        "You compare means or the best of the answers. Compare every single answer with every single one of the "
        "rival's to the same conversation, and take the mean of the wins.",
    ),
    Symptom(
        "every conversation against every other",
        _rate(lambda c: _half_for_a_tie(_gold(c)[0].flatten()[:, None] - c.bench.rival.flatten()[None])),
        "You compare answers to different conversations. A hard question is hard for the rival too: compare within a "
        "conversation.",
    ),
    Symptom(
        "per cent",
        _rate(lambda c: 100 * float(by_prompt(c).mean())),
        "Your win rate is in per cent. Asked is a share, between 0 and 1.",
    ),
    Symptom(
        "majorities counted",
        _rate(lambda c: _half_for_a_tie(by_prompt(c).mean(1) - 0.5)),
        "You count the conversations that are won on the whole. Asked is the mean over all pairs of answers.",
    ),
    Symptom(
        "answers as if independent",
        _rate(lambda c: float(by_prompt(c).std() / math.sqrt(by_prompt(c).numel())), 1),
        "Your standard error treats all M · K answers as independent. Average over the answers to a conversation "
        "first, (4).",
    ),
    Symptom(
        "M in place of its root",
        _rate(lambda c: float(by_prompt(c).mean(1).std() / len(c.bench.heldout)), 1),
        "You divide the std by M. The mean of M conversations has std/√M, (4).",
    ),
    Symptom(
        "a variance for an error",
        lambda c: any(
            _rate(rule, 1)(c)
            for rule in (
                lambda c: float(by_prompt(c).mean(1).var() / len(c.bench.heldout)),
                lambda c: float(by_prompt(c).mean(1).var()),
            )
        ),
        "Your error is a variance. The standard error (4) is its root.",
    ),
    Symptom(
        "an interval for an error",
        lambda c: any(_rate(lambda c, f=f: f * clustered(by_prompt(c)), 1)(c) for f in (1.96, 2.0, 3.92)),  # type: ignore[misc]
        "Your second number is the half-width or the width of an interval. Asked is one standard error (4).",
    ),
    Symptom(
        "pairs as if independent",
        lambda c: any(
            _rate(rule, 1)(c)
            for rule in (
                lambda c: float(_wins(c).std() / math.sqrt(_wins(c).numel())),
                lambda c: float(_wins(c).std() / math.sqrt(len(c.bench.heldout))),
                lambda c: float(by_prompt(c).std() / math.sqrt(len(c.bench.heldout))),
            )
        ),
        "Your standard error comes from the spread of single wins, not from that of the conversations' means: average "
        "within a conversation first, (4).",
    ),
    Symptom(
        "the error of the rewards",
        lambda c: any(
            _rate(rule, 1)(c)
            for rule in (
                lambda c: float(_gold(c)[0].mean(1).std() / math.sqrt(len(c.bench.heldout))),
                lambda c: float(_gold(c)[0].std() / math.sqrt(_gold(c)[0].numel())),
            )
        ),
        "Your error is that of the mean gold reward. Asked is that of the win rate.",
    ),
    Symptom(
        "no root of M",
        _rate(lambda c: float(by_prompt(c).mean(1).std()), 1),
        "Your error is the standard deviation of single conversations. The mean of M of them has std/√M, (4).",
    ),
    Symptom(
        "as for coins",
        _rate(lambda c: math.sqrt(float(by_prompt(c).mean() * (1 - by_prompt(c).mean())) / len(c.bench.heldout)), 1),
        "√(p(1 − p)/M) is the error of M coins. The x̄ᵢ are means of several comparisons: take their own spread, (4).",
    ),
)
