"""The symptoms of notebook 08's capstone in the learning: the loss, and the training."""

from collections.abc import Callable

from torch import Tensor

from week6.checks.bench_08 import Chatbot
from week6.checks.capstone import Symptom
from week6.checks.counterfactual import alike
from week6.checks.judging import numbers
from week6.checks.steps_08 import EXCESS, KEPT, at_training


def _mean_loss(c: Chatbot, places: slice) -> float:
    losses = numbers(c.parts, "losses", len(c.parts["losses"]))[places]
    return float(losses.mean())


def _first(c: Chatbot) -> Tensor:
    assert c.first_batch is not None
    return c.first_batch


def _first_loss(*rules: Callable[[Tensor, Tensor, Tensor, Chatbot], Tensor]) -> Callable[[Chatbot], bool]:
    """Whether the first loss is what one of these rules makes of the first batch: a rule gets log π of the next tokens
    (B, L − 1), log π of the tokens read without a shift (B, L), and the mask (B, L)."""

    def seen(c: Chatbot) -> bool:
        came = numbers(c.parts, "losses", len(c.parts["losses"]))[0]
        if _right_loss(c):
            return False
        return any(alike(came, rule(*c.first_log_probs, c), 1e-3) for rule in rules)

    return at_training(seen)


def _right_loss(c: Chatbot) -> bool:
    now, _, mask = c.first_log_probs
    return alike(numbers(c.parts, "losses", len(c.parts["losses"]))[0], _over(now, mask[:, 1:]), 1e-3)


def _over(log_probs: Tensor, mask: Tensor) -> Tensor:
    return -(log_probs * mask).sum() / mask.sum()


def _also(extra: Callable[[Chatbot, Tensor], Tensor]) -> Callable[[Tensor, Tensor, Tensor, Chatbot], Tensor]:
    """Loss (1) with more tokens counted, given by a rule from the tokens."""
    return lambda now, unshifted, mask, c: _over(now, (mask | extra(c, _first(c)))[:, 1:])


OF_THE_TRAINING: tuple[Symptom, ...] = (
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
        at_training(lambda c: _mean_loss(c, slice(-10, None)) > _mean_loss(c, slice(0, 1)) + 0.5),
        "Your loss climbs from step to step: is its sign turned, or are the steps far too long?",
    ),
    Symptom(
        "a copy was trained",
        at_training(
            lambda c: not c.changed and _mean_loss(c, slice(-10, None)) < 0.7 * _mean_loss(c, slice(0, 1)),
        ),
        "Your losses fall, but the weights of `model` are what they were: you trained a copy. Train `model` itself.",
    ),
    Symptom(
        "no step is taken",
        at_training(lambda c: not c.changed and len(c.parts["losses"]) > 0),
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
        at_training(lambda c: c.after["user"] < KEPT * c.before["user"]),
        "The loss on the user's words falls: they are learned too. Is the mask used in the loss?",
    ),
    Symptom(
        "another loss",
        at_training(lambda c: c.first_batch is not None and len(c.first_batch) > 7 and not _right_loss(c)),
        "Your first loss is not what (1) gives for the rows that went into the model: minus the log-probability of "
        "each counted token, read from the logits one place before it, and the mean of all of them.",
    ),
    Symptom(
        "a step or two",
        at_training(lambda c: c.changed and len(c.parts["losses"]) < 10),
        "Your training has fewer than ten steps. A hundred are enough.",
    ),
    Symptom(
        "steps too large",
        at_training(lambda c: _right_loss(c) and c.moved > 5 and c.after["assistant"] > c.bench.entropy + 2 * EXCESS),
        "The weights have gone many times as far as it takes, and the loss is still high: the steps are too large. A "
        "learning rate of 0.01 is enough.",
    ),
    Symptom(
        "too few rows",
        at_training(lambda c: _mean_loss(c, slice(-10, None)) < c.after["assistant"] - 0.15 and c.after["end"] < 0.5),
        "On your batches the loss is far below that on fresh conversations: the model knows a few rows by heart. Are "
        "there other rows in every step, from all conversations?",
    ),
    Symptom(
        "too little training",
        at_training(
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
        at_training(lambda c: c.after["end"] > 1),
        "The model does not learn to end its answers: its loss on the end token stays high. Does the end token count "
        "in the loss?",
    ),
)
