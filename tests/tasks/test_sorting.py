"""Letters in order: the checkers against a rule written otherwise, the splits, the demonstrations, the policy."""

import random
from collections import Counter

import pytest
import torch

from week6 import encode_demonstrations, sample
from week6.sequences import decode, encode_prompts
from week6.tasks import sorting as puzzle

TASK = puzzle.sorting()
TRAIN, HELDOUT = list(TASK.prompts["prompt"]), list(TASK.heldout_prompts["prompt"])
DEMONSTRATIONS = list(zip(TASK.demonstrations["prompt"], TASK.demonstrations["completion"], strict=True))
LONGER = puzzle.longer_problems()


@pytest.mark.parametrize(
    ("answer", "right", "in_order"),
    [
        ("a c d", True, True),
        (" a c d ", True, True),
        ("a d c", False, False),
        ("a c", False, True),
        ("a c c d", False, True),
        ("a b d", False, True),
        ("b", False, True),
        ("", False, False),
        (": a c d", False, True),
    ],
)
def test_the_two_checkers(answer, right, in_order):
    assert puzzle.is_right("c a d :", answer) == right
    assert puzzle.in_order("c a d :", answer) == in_order


def test_the_checker_accepts_one_order_of_the_letters_and_no_other():
    rng = random.Random(0)
    for prompt in rng.sample(TRAIN, 50) + LONGER:
        letters = puzzle.letters_of(prompt)
        right = [x for x in puzzle.LETTERS if x in letters]
        assert puzzle.is_right(prompt, " ".join(right))
        shuffled = rng.sample(right, len(right))
        assert puzzle.is_right(prompt, " ".join(shuffled)) == (shuffled == right)


@pytest.mark.parametrize("prompt", ["a b", ": a", "", ":", "a z :", "ab :"])
def test_other_prompts_are_refused(prompt):
    with pytest.raises(ValueError, match="^prompt: got"):
        puzzle.letters_of(prompt)


def test_what_is_no_letter_is_the_unknown_token():
    tokenizer = TASK.tokenizer
    ids = tokenizer("b Q : 7")["input_ids"]
    assert [tokenizer.decode([i]) for i in ids] == ["b", "<|unk|>", ":", "<|unk|>"]
    assert tokenizer("c a", padding="max_length", max_length=3)["input_ids"][0] == tokenizer.pad_token_id
    assert tokenizer.decode(tokenizer("a : <|end|> b")["input_ids"], skip_special_tokens=True) == "a : b"


def test_reward_is_zero_or_one():
    reward = puzzle.verified(puzzle.is_right)(["b a :", "b a :", "c b :"], ["a b", "b a", "b c"])
    assert reward.tolist() == [1.0, 0.0, 1.0] and reward.dtype == torch.float32
    assert TASK.gold(["b a :"], ["a b"]).tolist() == [1.0]


def test_splits_share_no_problem_and_no_answer():
    def answers(prompts):
        return {frozenset(puzzle.letters_of(prompt)) for prompt in prompts}

    assert len(set(TRAIN)) == puzzle.N_TRAINING and len(set(HELDOUT)) == puzzle.N_HELDOUT
    assert not answers(TRAIN) & answers(HELDOUT)
    assert {prompt for prompt, _ in DEMONSTRATIONS} <= set(TRAIN)
    for prompts, lengths in ((TRAIN, puzzle.LENGTHS), (HELDOUT, puzzle.LENGTHS), (LONGER, puzzle.LONGER)):
        counts = Counter(len(set(puzzle.letters_of(prompt))) for prompt in prompts)
        assert set(counts) == set(lengths) and max(counts.values()) - min(counts.values()) <= 1
    assert min(puzzle.LONGER) > max(puzzle.LENGTHS) and len(set(LONGER)) == len(LONGER)
    assert puzzle.longer_problems(5) == LONGER[:5]


def test_half_of_the_demonstrations_hold_one_slip():
    wrong = [(p, a) for p, a in DEMONSTRATIONS if not puzzle.is_right(p, a)]
    assert abs(len(wrong) / len(DEMONSTRATIONS) - puzzle.SLIP_RATE) < 0.03  # three standard errors are 0.024
    for prompt, answer in wrong:
        assert abs(len(answer.split()) - len(puzzle.letters_of(prompt))) <= 1


def test_a_slip_is_never_right_and_each_kind_occurs():
    rng = random.Random(1)
    kinds = Counter()
    for _ in range(400):
        answer = puzzle.slip("abde", rng)
        assert answer != list("abde")
        kinds[len(answer), len(set(answer))] += 1
        assert not set(answer) & set("c") or len(answer) == 4
    assert set(kinds) == {(4, 4), (3, 3), (5, 4)}  # swapped or replaced, left out, doubled
    assert any(set(puzzle.slip("abde", rng)) - set("abde") for _ in range(40))


def test_the_task_is_the_same_at_every_call():
    again = puzzle.sorting()
    assert list(again.prompts["prompt"]) == TRAIN and list(again.heldout_prompts["prompt"]) == HELDOUT
    assert list(again.demonstrations["completion"]) == [answer for _, answer in DEMONSTRATIONS]


def test_each_letter_is_a_token_in_prompt_and_answer():
    prompts, answers = zip(*DEMONSTRATIONS[:50], strict=True)
    rows = encode_demonstrations(TASK.tokenizer, list(prompts), list(answers))
    assert rows.prompt_mask.sum(1).tolist() == [len(prompt.split()) for prompt in prompts]
    assert rows.response_mask.sum(1).tolist() == [len(answer.split()) + 1 for answer in answers]
    assert not (rows.responses == TASK.tokenizer.unk_token_id).any()
    assert [text.split() for text in decode(TASK.tokenizer, rows.responses, rows.response_mask)] == [
        answer.split() for answer in answers
    ]
    assert max(map(len, (answer.split() for answer in answers))) < TASK.max_new_tokens
    assert max(puzzle.LONGER) + 1 <= TASK.max_new_tokens


def test_the_policy_does_not_know_where_a_letter_stands():
    """The same letters in another order: the same first token's distribution, since attention sees a set of letters.

    One layer sees a set; the second sees what the first made of each prefix. So only the positions must not be read:
    shifting all positions changes nothing.
    """
    policy = puzzle.new_policy(0)
    tokens, mask = encode_prompts(TASK.tokenizer, ["c a d :"])
    with torch.no_grad():
        here = policy(input_ids=tokens, attention_mask=mask.long(), position_ids=torch.arange(4)[None]).logits
        there = policy(input_ids=tokens, attention_mask=mask.long(), position_ids=torch.arange(4)[None] + 9).logits
        policy.train()  # no dropout
        again = policy(input_ids=tokens, attention_mask=mask.long(), position_ids=torch.arange(4)[None]).logits
    assert torch.equal(here, there) and torch.equal(here, again)
    assert policy.num_parameters() < 150_000  # so small that it is trained in minutes
    assert not policy.transformer.wpe.weight.requires_grad and not policy.transformer.wpe.weight.any()
    before = torch.get_rng_state()
    same, other = puzzle.new_policy(0), puzzle.new_policy(1)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(policy.lm_head.weight, same.lm_head.weight)
    assert not torch.equal(policy.lm_head.weight, other.lm_head.weight)


def test_the_policy_has_room_for_the_longest_problem():
    longest = " ".join(puzzle.LETTERS[: max(puzzle.LONGER)]) + " :"
    policy = puzzle.new_policy(0)
    policy.config.eos_token_id = None  # never ends
    answers = sample(policy, *encode_prompts(TASK.tokenizer, [longest]), puzzle.MAX_NEW_TOKENS)
    assert answers.responses.shape == (1, puzzle.MAX_NEW_TOKENS)
