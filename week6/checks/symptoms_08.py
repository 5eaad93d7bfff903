"""The symptoms of notebook 08's capstone: what a mistake does to texts, mask, model, answers and figures."""

import math
from collections import Counter
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from week6.checks.bench_08 import ANSWERS, THINGS, Chatbot
from week6.checks.capstone import Symptom
from week6.checks.counterfactual import alike
from week6.checks.judging import at, numbers
from week6.checks.steps_08 import EXCESS, KEPT, STEPS, answers_of, by_prompt, clustered, judged_answers, surprise, table

_at_texts, _at_tokens, _at_training, _at_answering, _at_gold = (partial(at, STEPS, step.title) for step in STEPS[:5])


def _text_of(c: Chatbot) -> str:
    """All that was rendered."""
    return " ".join(str(text) for text in c.parts.get("texts", ()))


def _mask_is(rule: Callable[[Chatbot, Tensor, Tensor], Tensor]) -> Callable[[Chatbot], bool]:
    """Whether the mask follows another rule; the rule gets the tokens and the right mask."""

    def same(c: Chatbot) -> bool:
        tokens, mask = c.bench.encoded
        got = torch.tensor(table(c, "mask"), dtype=torch.bool)
        return got.shape == mask.shape and torch.equal(got, rule(c, tokens, mask))

    return _at_tokens(same)


def _real(c: Chatbot, tokens: Tensor) -> Tensor:
    real: Tensor = tokens != c.bench.tokenizer.pad_token_id
    return real


def _last_answer(c: Chatbot, tokens: Tensor, mask: Tensor) -> Tensor:
    begun = (tokens == c.bench.assistant_id).long().cumsum(-1)
    last: Tensor = mask & (begun == begun.max(-1, keepdim=True).values)
    return last


def _mean_loss(c: Chatbot, places: slice) -> float:
    losses = numbers(c.parts, "losses", len(c.parts["losses"]))[places]
    return float(losses.mean())


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


def _first(c: Chatbot) -> Tensor:
    assert c.first_batch is not None
    return c.first_batch


def _late(mask: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(mask[:, :1]), mask[:, :-1]], 1)


def _texts(c: Chatbot) -> list[tuple[str, str]]:
    """The student's texts, each with the right one."""
    return list(zip(map(str, c.parts["texts"]), c.bench.texts, strict=True))


def _letters(text: str) -> str:
    return "".join(text.casefold().split())


def _first_loss(*rules: Callable[[Tensor, Tensor, Tensor, Chatbot], Tensor]) -> Callable[[Chatbot], bool]:
    """Whether the first loss is what one of these rules makes of the first batch: a rule gets log π of the next tokens
    (B, L − 1), log π of the tokens read without a shift (B, L), and the mask (B, L)."""

    def seen(c: Chatbot) -> bool:
        came = numbers(c.parts, "losses", len(c.parts["losses"]))[0]
        if _right_loss(c):
            return False
        return any(alike(came, rule(*c.first_log_probs, c), 1e-3) for rule in rules)

    return _at_training(seen)


def _right_loss(c: Chatbot) -> bool:
    now, _, mask = c.first_log_probs
    return alike(numbers(c.parts, "losses", len(c.parts["losses"]))[0], _over(now, mask[:, 1:]), 1e-3)


def _over(log_probs: Tensor, mask: Tensor) -> Tensor:
    return -(log_probs * mask).sum() / mask.sum()


def _also(extra: Callable[[Chatbot, Tensor], Tensor]) -> Callable[[Tensor, Tensor, Tensor, Chatbot], Tensor]:
    """Loss (1) with more tokens counted, given by a rule from the tokens."""
    return lambda now, unshifted, mask, c: _over(now, (mask | extra(c, _first(c)))[:, 1:])


def _fits(c: Chatbot, message: int) -> float:
    """How often the answers of longer conversations are right, had another message been the question."""
    found = []
    for talk, row in zip(c.bench.heldout, answers_of(c), strict=True):
        thing = next(word for word in talk[message]["content"].split() if word in THINGS)
        if len(talk) > 1:
            found += [_letters(text) == _letters(f"{c.bench.right[thing]} it !") for text in row]
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


SYMPTOMS = (
    Symptom(
        "markers of another template",
        _at_texts(
            lambda c: any(marker in _text_of(c) for marker in ("<|user|>", "<|assistant|>", "<|im_start|>", "[INST]")),
        ),
        "Your texts hold markers that this tokenizer does not know. The template travels with the tokenizer: "
        "tokenizer.apply_chat_template(talk, tokenize=False).",
    ),
    Symptom(
        "a reply is asked for in training",
        _at_texts(
            lambda c: list(c.parts.get("texts", ())) == [c.bench.text(talk, reply=True) for talk in c.bench.talks],
        ),
        "Your training texts end with a marker for one more answer: add_generation_prompt is for the held-out "
        "conversations only.",
    ),
    Symptom(
        "the last exchange only",
        _at_texts(
            lambda c: list(c.parts.get("texts", ())) == [c.bench.text(talk[-2:]) for talk in c.bench.talks],
        ),
        "You render the last question and answer only. The whole conversation belongs in the text.",
    ),
    Symptom(
        "tidied otherwise",
        _at_texts(lambda c: all(_letters(a) == _letters(b) for a, b in _texts(c))),
        "Your texts hold the right words, but not letter by letter as the template writes them: capitals or spaces "
        "differ. Take what tokenizer.apply_chat_template(talk, tokenize=False) returns, as it is.",
    ),
    Symptom(
        "something behind the texts",
        _at_texts(lambda c: all(a.startswith(b.rstrip()) for a, b in _texts(c))),
        "Your texts are the template's with something added at their ends. The template has written everything "
        "already, the last end token too.",
    ),
    Symptom(
        "texts end too early",
        _at_texts(lambda c: all(b.startswith(a.rstrip()) for a, b in _texts(c))),
        "Your texts begin as they should and end too early: every message of the conversation belongs in them, and the "
        "last end token.",
    ),
    Symptom(
        "texts begin too late",
        _at_texts(lambda c: all(b.endswith(a.lstrip()) for a, b in _texts(c))),
        "Your texts end as they should and begin too late: every message of the conversation belongs in them, from the "
        "first on.",
    ),
    Symptom(
        "special tokens lost",
        _at_texts(
            lambda c: not any(mark in _text_of(c) for mark in c.bench.tokenizer.all_special_tokens),
        ),
        "Your texts have no markers and no end tokens. They come from the tokenizer's template: "
        "tokenizer.apply_chat_template(talk, tokenize=False).",
    ),
    Symptom(
        "padded on the left",
        _at_tokens(lambda c: any(row[0] == c.bench.tokenizer.pad_token_id for row in table(c, "tokens"))),
        "Your training rows are padded on the left. That is for prompts, which an answer follows; whole conversations "
        "are padded on the right.",
    ),
    Symptom(
        "the mask one token early",
        _mask_is(lambda c, tokens, mask: torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], 1)),
        "Your mask is one token early: it counts the marker and not the end token. The shift by one belongs in the "
        "loss, once.",
    ),
    Symptom(
        "the marker counted",
        _mask_is(lambda c, tokens, mask: mask | (tokens == c.bench.assistant_id)),
        "Your mask counts the assistant's marker too. The template writes it.",
    ),
    Symptom(
        "the end token forgotten",
        _mask_is(lambda c, tokens, mask: mask & (tokens != c.bench.tokenizer.eos_token_id)),
        "The end token does not count in your mask: the model will never learn to stop.",
    ),
    Symptom(
        "everything counted",
        lambda c: (
            _mask_is(lambda c, tokens, mask: _real(c, tokens))(c)
            or _mask_is(lambda c, tokens, mask: torch.ones_like(mask))(c)
        ),
        "Your mask counts every token, the user's words too. They are read, not imitated.",
    ),
    Symptom(
        "the user counted",
        lambda c: (
            _mask_is(lambda c, tokens, mask: ~mask & _real(c, tokens))(c) or _mask_is(lambda c, tokens, mask: ~mask)(c)
        ),
        "Your mask is turned round: it counts the user's tokens, and none of the assistant's.",
    ),
    Symptom(
        "the last answer only",
        _mask_is(_last_answer),
        "Your mask counts the last answer only. Each of the assistant's turns is an answer to learn from.",
    ),
    Symptom(
        "padding counted",
        _mask_is(lambda c, tokens, mask: mask | ~_real(c, tokens)),
        "Your mask is True on the padding. It counts what the assistant has to write, and nobody writes padding.",
    ),
    Symptom(
        "the mask one token late",
        _mask_is(
            lambda c, tokens, mask: torch.cat([torch.zeros_like(mask[:, :1]), mask[:, :-1]], 1) & _real(c, tokens)
        ),
        "Your mask is one token late: it leaves out the first word of each answer and counts what follows its end. The "
        "shift by one belongs in the loss, once.",
    ),
    Symptom(
        "the first answer only",
        _mask_is(lambda c, tokens, mask: mask & ((tokens == c.bench.assistant_id).long().cumsum(-1) == 1)),
        "Your mask counts the first answer only. Each of the assistant's turns is an answer to learn from.",
    ),
    Symptom(
        "everything from the first answer on",
        _mask_is(lambda c, tokens, mask: (mask.long().cumsum(-1) > 0) & _real(c, tokens)),
        "Your mask counts everything from the first answer on, the user's next question too. An answer ends with its "
        "end token.",
    ),
    Symptom(
        "the user's marker counted",
        _mask_is(
            lambda c, tokens, mask: mask | (_late(mask & (tokens == c.bench.tokenizer.eos_token_id)) & _real(c, tokens))
        ),
        "Your mask counts the token behind each answer too, which opens the user's next turn. An answer ends with "
        "its end token.",
    ),
    Symptom(
        "markers alone",
        _mask_is(lambda c, tokens, mask: tokens == c.bench.assistant_id),
        "Your mask counts the assistant's markers alone. They say where an answer begins; what counts stands behind "
        "them.",
    ),
    Symptom(
        "end tokens alone",
        _mask_is(lambda c, tokens, mask: tokens == c.bench.tokenizer.eos_token_id),
        "Your mask counts the end tokens alone. The words of the answers count, too.",
    ),
    Symptom(
        "the first word forgotten",
        _mask_is(lambda c, tokens, mask: mask & _late(mask)),
        "Your mask leaves out the first word of each answer. It is the first token behind the marker, and it counts.",
    ),
    Symptom(
        "summed over the tokens",
        _first_loss(
            lambda now, unshifted, mask, c: _over(now, mask[:, 1:]) * mask[:, 1:].sum(),
            lambda now, unshifted, mask, c: -(now * mask[:, 1:]).sum(1).mean(),
        ),
        "Your first loss is a sum over tokens, where (1) is a mean: divide by the number of counted tokens, Σ m_t.",
    ),
    Symptom(
        "divided by all places",
        _first_loss(
            lambda now, unshifted, mask, c: -(now * mask[:, 1:]).mean(),
            lambda now, unshifted, mask, c: -(now * mask[:, 1:]).sum() / (_first(c) != c.bench.pad).sum(),
            lambda now, unshifted, mask, c: -(now * mask[:, 1:]).sum() / (_first(c) != c.bench.pad)[:, 1:].sum(),
        ),
        "Your first loss has the right sum in it and divides by all places, not by the number of counted tokens, Σ "
        "m_t: (1) is a mean over what counts.",
    ),
    Symptom(
        "log-probabilities for losses",
        _first_loss(lambda now, unshifted, mask, c: -_over(now, mask[:, 1:])),
        "Your first loss is negative: it is the mean log-probability itself. The loss is minus that.",
    ),
    Symptom(
        "padding learned",
        _first_loss(_also(lambda c, tokens: tokens == c.bench.pad), lambda now, unshifted, mask, c: -now.mean()),
        "Your first loss counts padding too. Nobody writes padding, and its many places hide what the answers cost.",
    ),
    Symptom(
        "the end left out of the loss",
        _first_loss(
            lambda now, unshifted, mask, c: _over(
                now,
                (mask & (_first(c) != c.bench.tokenizer.eos_token_id))[:, 1:],
            )
        ),
        "Your first loss leaves out the end tokens: the model will never learn to stop. The mask counts them.",
    ),
    Symptom(
        "no shift by one",
        _first_loss(lambda now, unshifted, mask, c: _over(unshifted, mask)),
        "Your first loss asks the logits at each token for that token itself. They predict the *next* one: compare "
        "logits[:, :-1] with tokens[:, 1:].",
    ),
    Symptom(
        "the mask not shifted",
        _first_loss(lambda now, unshifted, mask, c: _over(now, mask[:, :-1])),
        "Your first loss leaves out the first word of each answer and counts what opens the user's next turn: the "
        "mask was not shifted together with the tokens, mask[batch, 1:].",
    ),
    Symptom(
        "one loss a conversation",
        _first_loss(lambda now, unshifted, mask, c: -((now * mask[:, 1:]).sum(1) / mask[:, 1:].sum(1)).mean()),
        "Your first loss is a mean of the conversations' means. In (1) every counted token weighs the same.",
    ),
    Symptom(
        "probabilities for logarithms",
        _first_loss(
            lambda now, unshifted, mask, c: _over(now.exp(), mask[:, 1:]),
            lambda now, unshifted, mask, c: 1 + _over(now.exp(), mask[:, 1:]),
        ),
        "Your first loss is made of probabilities. (1) takes their logarithms.",
    ),
    Symptom(
        "the marker in the loss",
        _first_loss(_also(lambda c, tokens: tokens == c.bench.assistant_id)),
        "Your first loss counts the assistant's marker too. The template writes it.",
    ),
    Symptom(
        "the loss climbs",
        _at_training(lambda c: _mean_loss(c, slice(-10, None)) > _mean_loss(c, slice(0, 1)) + 0.5),
        "Your loss climbs from step to step: is its sign turned, or are the steps far too long?",
    ),
    Symptom(
        "a copy was trained",
        _at_training(
            lambda c: not c.changed and _mean_loss(c, slice(-10, None)) < 0.7 * _mean_loss(c, slice(0, 1)),
        ),
        "Your losses fall, but the weights of `model` are what they were: you trained a copy. Train `model` itself.",
    ),
    Symptom(
        "no step is taken",
        _at_training(lambda c: not c.changed and len(c.parts["losses"]) > 0),
        "No weight has changed: is there a step of the optimizer after each loss, and a gradient for it?",
    ),
    Symptom(
        "everything in the loss",
        _first_loss(lambda now, unshifted, mask, c: _over(now, (_first(c) != c.bench.pad)[:, 1:])),
        "Your first loss counts every token of the conversations, the user's too. They are read, not imitated: use the "
        "mask in the loss.",
    ),
    Symptom(
        "the user is imitated",
        _at_training(lambda c: c.after["user"] < KEPT * c.before["user"]),
        "The loss on the user's words falls: they are learned too. Is the mask used in the loss?",
    ),
    Symptom(
        "another loss",
        _at_training(lambda c: c.first_batch is not None and len(c.first_batch) > 7 and not _right_loss(c)),
        "Your first loss is not what (1) gives for the rows that went into the model: minus the log-probability of "
        "each counted token, read from the logits one place before it, and the mean of all of them.",
    ),
    Symptom(
        "a step or two",
        _at_training(lambda c: c.changed and len(c.parts["losses"]) < 10),
        "Your training has fewer than ten steps. A hundred are enough.",
    ),
    Symptom(
        "steps too large",
        _at_training(lambda c: _right_loss(c) and c.moved > 5 and c.after["assistant"] > c.bench.entropy + 2 * EXCESS),
        "The weights have gone many times as far as it takes, and the loss is still high: the steps are too large. A "
        "learning rate of 0.01 is enough.",
    ),
    Symptom(
        "too few rows",
        _at_training(lambda c: _mean_loss(c, slice(-10, None)) < c.after["assistant"] - 0.15 and c.after["end"] < 0.5),
        "On your batches the loss is far below that on fresh conversations: the model knows a few rows by heart. Are "
        "there other rows in every step, from all conversations?",
    ),
    Symptom(
        "too little training",
        _at_training(
            lambda c: (
                c.after["assistant"] < c.before["assistant"] - 0.05
                and abs(_mean_loss(c, slice(-1, None)) - c.after["assistant"]) < 0.6
                and c.after["assistant"] - c.bench.entropy > EXCESS
            )
        ),
        "The loss goes the right way and is not there yet: more steps (a hundred are enough), or a larger learning "
        "rate (0.01 at the peak)?",
    ),
    Symptom(
        "the end is not learned",
        _at_training(lambda c: c.after["end"] > 1),
        "The model does not learn to end its answers: its loss on the end token stays high. Does the end token count "
        "in the loss?",
    ),
    Symptom(
        "the question is in the answer",
        _at_answering(
            lambda c: any(
                "tell me about" in text.lower() or "how to do" in text.lower() for r in answers_of(c) for text in r
            ),
        ),
        "Your answers begin with the question: decode only what was sampled after the prompt.",
    ),
    Symptom(
        "special tokens kept",
        _at_answering(
            lambda c: any(
                m in text for r in _raw_answers(c) for text in r for m in c.bench.tokenizer.all_special_tokens
            )
        ),
        "Your answers hold special tokens. They are markers for the model, no words: leave them out when you decode.",
    ),
    Symptom(
        "cut off",
        _at_answering(lambda c: max(len(t.split()) for r in answers_of(c) for t in r) < 3 and bool((c.gold > 1).any())),
        "No answer of yours has three words, though your model knows longer ones: they are cut off. Up to six tokens "
        "are allowed.",
    ),
    Symptom(
        "no answers",
        _at_answering(
            lambda c: sum(not text.strip() for r in answers_of(c) for text in r) > 0.5 * 4 * len(answers_of(c))
        ),
        "Most of your answers are empty: is what was sampled decoded, and does the prompt leave the answer to the "
        "model?",
    ),
    Symptom(
        "one answer for all",
        _at_answering(lambda c: len({text for row in answers_of(c) for text in row}) == 1),
        "All your answers to all conversations are the same.",
    ),
    Symptom(
        "four times the same",
        _at_answering(lambda c: all(len(set(row)) == 1 for row in answers_of(c))),
        "The four answers to a conversation are always the same: they are one draw copied, or the likeliest words each "
        "time. Asked are four draws at temperature 1.",
    ),
    Symptom(
        "answers in another order",
        _at_answering(_rearranged),
        "Your answers belong to other conversations than you think: the K answers to a prompt stand in one row, in "
        "the order of the conversations; repeat_interleave(K) keeps them together, repeat does not.",
    ),
    Symptom(
        "another question answered",
        _at_answering(lambda c: _fits(c, 0) > _fits(c, -1) + 0.1),
        "Your answers fit the first question of a conversation better than the last: give the model the whole "
        "conversation, with the last question at its end.",
    ),
    Symptom(
        "too likely",
        _at_answering(lambda c: surprise(c) > 4),
        "Your answers are too likely for draws of your model: a lower temperature, or the likeliest words. Asked are "
        "draws at temperature 1.",
    ),
    Symptom(
        "no generation prompt",
        _at_answering(
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
        _at_answering(lambda c: surprise(c) < -4),
        "Your model hardly ever gives answers such as yours: is it sampled at temperature 1, from the prompt as it was "
        "trained, padded on the left, after the training?",
    ),
    Symptom(
        "never judged",
        _at_gold(lambda c: not c.judged),
        "`judge` was never asked: the gold rewards are what `judge(i, text)` says of each answer.",
    ),
    Symptom(
        "judged as another conversation",
        _at_gold(lambda c: len({i for i, _ in c.judged}) == 1),
        "judge was asked about one conversation only: its first argument is the number of the conversation.",
    ),
    Symptom(
        "judged under other numbers",
        _at_gold(
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
        _at_gold(lambda c: alike(_gold(c)[0].flatten().sort().values, _gold(c)[1].flatten().sort().values)),
        "`gold` holds the right rewards in another order: its row i, column k belongs to `answers[i][k]`.",
    ),
    Symptom(
        "the rewards in another unit",
        _at_gold(lambda c: _is_affine(*_gold(c))),
        "`gold` is right but for a shift or a factor: leave the rewards as `judge` gives them.",
    ),
    Symptom(
        "means in place of rewards",
        _at_gold(lambda c: alike(_gold(c)[0], _gold(c)[1].mean(1, keepdim=True).expand(-1, ANSWERS))),
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
