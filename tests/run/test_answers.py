"""Answers to prompts and in conversations: sampled from the policy, which reads all that was said before."""

import pytest
import torch

from tests.run.test_evaluation import PROMPTS, toy_task
from tests.tiny import tiny_gpt2, words_tokenizer
from week6.run.answers import answer, converse
from week6.run.evaluation import sample_batches
from week6.sequences import decode, encode_prompts

TEMPLATE = (
    "{% for m in messages %}{{ '' if loop.first else ' ' }}{{ 'a' if m.role == 'user' else 'b' }} {{ m.content }}"
    "{% endfor %}{{ ' b' if add_generation_prompt else '' }}"
)


@pytest.fixture
def task():
    tokenizer = words_tokenizer("a b c d e")
    tokenizer.chat_template = TEMPLATE
    return toy_task(tokenizer=tokenizer)


@pytest.fixture
def policy(task):
    return tiny_gpt2(vocab=len(task.tokenizer), dtype=torch.float32)


def test_answers_are_samples_of_the_policy(policy, task):
    tokens, mask = encode_prompts(task.tokenizer, PROMPTS)
    sampled = sample_batches(policy, tokens, mask, task.max_new_tokens, seed=3)
    answers = answer(policy, task, PROMPTS, seed=3)
    assert answers == decode(task.tokenizer, sampled.responses, sampled.response_mask)
    assert answers != answer(policy, task, PROMPTS, seed=4)
    assert answer(policy, task, PROMPTS, seed=3, temperature=1e-4) == answer(policy, task, PROMPTS, 4, 1e-4) != answers


def test_each_turn_reads_all_earlier_ones(policy, task):
    """The answers are those to the prompts written out by hand, with every question and answer so far."""
    questions = [["c", "d"], ["d e", "c"], ["e", "e"]]
    first, second, third = converse(policy, task, questions, seed=5)
    assert first == answer(policy, task, ["a c b", "a d b"], seed=5)
    talks = [f"a c b {first[0]} a d e b", f"a d b {first[1]} a c b"]
    assert second == answer(policy, task, talks, seed=6)
    assert third == answer(policy, task, [f"{t} {s} a e b" for t, s in zip(talks, second, strict=True)], seed=7)


def test_turns_of_different_lengths_are_refused(policy, task):
    with pytest.raises(ValueError, match="questions: got turns of \\[1, 2\\] conversations"):
        converse(policy, task, [["c", "d"], ["c"]], seed=0)
