import pytest
import torch
from tokenizers.processors import TemplateProcessing

from tests.tiny import EOS, merging_tokenizer, ragged, ragged_pairs, words_tokenizer
from week6.sequences import (
    Demonstrations,
    Pairs,
    Rollout,
    decode,
    encode_demonstrations,
    encode_pairs,
    encode_prompts,
    join_pairs,
    left_pad,
    pair_rollouts,
    right_pad,
)


def test_padding_goes_left_or_right_and_masks_come_from_lengths():
    rows = [[5], [0, 6, 0], [0, 0]]  # 0 is the pad token, and a real token of the rows as well
    tokens, mask = left_pad(rows, pad_id=0)
    assert tokens.tolist() == [[0, 0, 5], [0, 6, 0], [0, 0, 0]]
    assert mask.tolist() == [[False, False, True], [True, True, True], [False, True, True]]
    tokens, mask = right_pad(rows, pad_id=9)
    assert tokens.tolist() == [[5, 9, 9], [0, 6, 0], [0, 0, 9]]
    assert mask.tolist() == [[True, False, False], [True, True, True], [True, True, False]]
    assert mask.dtype == torch.bool and tokens.dtype == torch.long


def test_a_row_is_as_wide_as_prompt_and_answers_and_its_answers_are_what_the_head_reads():
    pairs = ragged_pairs([2, 3], [4, 1], [5, 2])
    answers = Demonstrations(pairs.prompts, pairs.prompt_mask, pairs.chosen, pairs.chosen_mask)
    assert answers.columns == (3 + 5, 5) and pairs.columns == (2 * (3 + 5), 5 + 5)


@pytest.mark.parametrize("pad", [left_pad, right_pad])
def test_rows_may_be_tensors_of_one_axis(pad):
    rows = [[5, 6, 7], [8]]
    assert torch.equal(pad([torch.tensor(row) for row in rows], 0)[0], pad(rows, 0)[0])
    with pytest.raises(ValueError, match="rows: .*, expected at least one token id in every row"):
        pad([torch.ones(2, 2, dtype=torch.long)], 0)


@pytest.mark.parametrize("pad", [left_pad, right_pad])
@pytest.mark.parametrize("rows", [[], [[1], []]])
def test_padding_rejects_empty_rows(pad, rows):
    with pytest.raises(ValueError, match="rows"):
        pad(rows, 0)


def test_demonstrations_end_with_exactly_one_eos():
    tokenizer = words_tokenizer("hi there you")
    data = encode_demonstrations(tokenizer, ["hi ", "hi there "], ["you", "you there <eos>"])
    pad, eos, hi, there, you = range(5)
    assert data.prompts.tolist() == [[pad, hi], [hi, there]]
    assert data.prompt_mask.tolist() == [[False, True], [True, True]]
    assert data.responses.tolist() == [[you, eos, pad], [you, there, eos]]
    assert data.response_mask.tolist() == [[True, True, False], [True, True, True]]


def test_the_eos_is_real_when_pad_is_eos():
    tokenizer = words_tokenizer("hi you", pad="<eos>")
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    data = encode_demonstrations(tokenizer, ["hi ", "hi hi "], ["you", "you hi"])
    assert data.response_mask.sum(-1).tolist() == [2, 3]
    assert data.prompt_mask.sum(-1).tolist() == [1, 2]


def test_a_merged_token_at_the_boundary_belongs_to_the_answer():
    tokenizer = merging_tokenizer()
    pad, eos, a, b, c, d, bc = range(7)
    data = encode_demonstrations(tokenizer, ["ab"], ["cd"])
    assert data.prompts.tolist() == [[a]]
    assert data.responses.tolist() == [[bc, d, eos]]
    pairs = encode_pairs(tokenizer, ["ab"], ["cd"], ["d"])  # one cut for both, though only one of them merges
    assert pairs.prompts.tolist() == [[a]]
    assert pairs.chosen.tolist() == [[bc, d, eos]]
    assert pairs.rejected.tolist() == [[b, d, eos]]


def test_a_text_that_brings_its_bos_gets_no_second_one():
    tokenizer = words_tokenizer("hi you", bos="<bos>")
    bos, hi, you = (tokenizer.convert_tokens_to_ids(t) for t in ("<bos>", "hi", "you"))
    assert encode_prompts(tokenizer, ["hi"])[0].tolist() == [[bos, hi]]
    assert encode_prompts(tokenizer, ["<bos> hi"])[0].tolist() == [[bos, hi]]
    data = encode_demonstrations(tokenizer, ["<bos> hi "], ["you"])
    assert data.prompts.tolist() == [[bos, hi]] and data.responses.tolist() == [[you, EOS]]


def test_what_a_tokenizer_puts_around_a_text_stands_there_once():
    """BOS in front, row by row; the EOS behind it only at the end of an answer."""
    tokenizer = words_tokenizer("hi you", bos="<bos>")
    bos, hi, you = (tokenizer.convert_tokens_to_ids(t) for t in ("<bos>", "hi", "you"))
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", bos), ("<eos>", EOS)]
    )
    assert encode_prompts(tokenizer, ["hi", "<bos> hi"])[0].tolist() == [[bos, hi], [bos, hi]]
    pairs = encode_pairs(tokenizer, ["hi "], ["you"], ["you you"])
    assert pairs.prompts.tolist() == [[bos, hi]]
    assert pairs.rejected.tolist() == [[you, you, EOS]] and pairs.chosen_mask.sum() == 2


@pytest.mark.parametrize("bos", [None, "a"])
def test_a_prompt_of_which_nothing_is_left_is_refused_with_its_row(bos):
    tokenizer = merging_tokenizer()
    if bos:
        tokenizer.bos_token = bos
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="a $A", special_tokens=[("a", tokenizer.bos_token_id)]
        )
    with pytest.raises(ValueError, match="prompts: row 2 is 'b', which has no tokens or merges with its answer"):
        encode_demonstrations(tokenizer, ["b", "b"], ["d", "c"])


def test_an_empty_answer_is_one_eos():
    data = encode_demonstrations(words_tokenizer("hi"), ["hi"], [""])
    assert data.responses.tolist() == [[EOS]] and data.response_mask.tolist() == [[True]]


def test_tokens_are_the_real_ones_of_prompts_and_answers():
    assert Demonstrations(*ragged([1, 3, 2], [4, 2, 3])).tokens == 6 + 9
    assert ragged_pairs([1, 3, 2], [4, 2, 3], [2, 3, 1]).tokens == 2 * 6 + 9 + 6


def test_pairs_share_prompt_and_width():
    tokenizer = words_tokenizer("p q a b c")
    pairs = encode_pairs(tokenizer, ["p ", "p q "], ["a", "a"], ["a b c", "c"])
    word = tokenizer.convert_tokens_to_ids
    assert pairs.prompts.tolist() == [[0, word("p")], [word("p"), word("q")]]
    assert pairs.chosen.tolist() == [[word("a"), EOS, 0, 0]] * 2
    assert pairs.rejected.tolist() == [[word("a"), word("b"), word("c"), EOS], [word("c"), EOS, 0, 0]]
    assert pairs.chosen_mask.sum(-1).tolist() == [2, 2] and pairs.rejected_mask.sum(-1).tolist() == [4, 2]
    assert len(pairs) == 2
    one = pairs.rows(torch.tensor([1]))
    assert len(one) == 1 and one.rejected.tolist() == [[word("c"), EOS, 0, 0]] and one.prompt_mask.all()


def test_stacked_pairs_put_the_chosen_first():
    pairs = ragged_pairs([1, 2], [3, 1], [2, 4])
    both = pairs.stacked()
    assert len(both) == 4
    assert torch.equal(both.responses[:2], pairs.chosen) and torch.equal(both.responses[2:], pairs.rejected)
    assert torch.equal(both.response_mask[2:], pairs.rejected_mask)
    assert torch.equal(both.prompts[2:], pairs.prompts) and torch.equal(both.prompt_mask[:2], pairs.prompt_mask)


def test_sampled_answers_become_pairs_token_for_token():
    prompts, prompt_mask, first, first_mask = ragged([1, 2], [2, 1], seed=0)
    _, _, second, second_mask = ragged([1, 2], [3, 4], seed=1)
    a, b = (
        Rollout(prompts, prompt_mask, r, m, torch.zeros(r.shape), torch.ones(2, dtype=torch.bool))
        for r, m in ((first, first_mask), (second, second_mask))
    )
    pairs = pair_rollouts(a, b, torch.tensor([True, False]))
    assert pairs.chosen.shape == pairs.rejected.shape == (2, 4)
    assert torch.equal(pairs.chosen[0][pairs.chosen_mask[0]], first[0][first_mask[0]])
    assert torch.equal(pairs.rejected[0][pairs.rejected_mask[0]], second[0][second_mask[0]])
    assert torch.equal(pairs.chosen[1][pairs.chosen_mask[1]], second[1][second_mask[1]])
    assert torch.equal(pairs.rejected[1][pairs.rejected_mask[1]], first[1][first_mask[1]])
    with pytest.raises(ValueError, match="first_preferred: got values other than 0 and 1"):
        pair_rollouts(a, b, torch.tensor([0.7, 0.2]))  # probabilities say nothing of which was preferred
    with pytest.raises(ValueError, match="second"):
        pair_rollouts(a, b.rows(torch.tensor([1, 0])), torch.tensor([True, False]))


def test_decoding_gives_the_words_back():
    tokenizer = words_tokenizer("hi you there", pad="<eos>")
    answers = ["you", "there you hi"]
    data = encode_demonstrations(tokenizer, ["hi ", "hi "], answers)
    assert decode(tokenizer, data.responses, data.response_mask) == answers


def test_a_tokenizer_without_eos_is_an_error():
    tokenizer = words_tokenizer("hi")
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="tokenizer"):
        encode_demonstrations(tokenizer, ["hi"], ["hi"])
    tokenizer.pad_token = None
    with pytest.raises(ValueError, match="tokenizer"):
        encode_prompts(tokenizer, ["hi"])


def test_rows_of_tensors_move_to_another_device_together():
    moved = ragged_pairs([1, 2], [3, 1], [2, 4]).to("meta")
    assert {field.device.type for field in vars(moved).values()} == {"meta"}


def test_pairs_are_cut_where_both_answers_can_be():
    """ "ab" + "d" keeps the prompt's tokens, "ab" + "c" merges its last one: both answers must start after "a"."""
    data = encode_pairs(merging_tokenizer(), ["ab", "ab"], ["d", "c"], ["c", "d"])
    assert data.prompts.tolist() == [[2], [2]] and data.prompt_mask.all()
    long, short = [3, 5, 1], [6, 1, 0]  # b d <eos>, and bc <eos> <pad>
    assert data.chosen.tolist() == [long, short] and data.rejected.tolist() == [short, long]
    assert data.chosen_mask.sum(-1).tolist() == [3, 2] and data.rejected_mask.sum(-1).tolist() == [2, 3]


def test_joined_pairs_keep_their_rows_and_pad_the_shorter_answers():
    prompts, prompt_mask, chosen, chosen_mask = ragged([2, 3], [2, 4])
    _, _, rejected, rejected_mask = ragged([2, 3], [4, 1], seed=1)
    wide = Pairs(prompts, prompt_mask, chosen, chosen_mask, rejected, rejected_mask)
    short = Pairs(prompts, prompt_mask, chosen[:, :3], chosen_mask[:, :3], rejected[:, :3], rejected_mask[:, :3])
    joined = join_pairs([short, wide])
    assert len(joined) == 4 and torch.equal(joined.prompts, torch.cat([prompts, prompts]))
    for name in ("chosen", "rejected", "chosen_mask", "rejected_mask"):
        assert torch.equal(getattr(joined.rows(slice(2, 4)), name), getattr(wide, name))
        assert torch.equal(getattr(joined.rows(slice(0, 2)), name)[:, :3], getattr(short, name))
    assert not joined.chosen_mask[:2, 3:].any() and not joined.rejected_mask[:2, 3:].any()  # padding is no token
