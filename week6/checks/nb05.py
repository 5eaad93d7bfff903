"""Questions of notebook 05, PPO on a language model."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from week6.checks.capstone import Capstone
from week6.checks.cases import ragged_mask, whole
from week6.checks.engine import Misconception, Prediction, Question
from week6.checks.ppo_capstone import STEPS, figures, run
from week6.checks.ppo_symptoms import SYMPTOMS
from week6.log_probs import masked_mean, masked_whiten, response_log_probs
from week6.machine.optim import descend
from week6.ppo import PolicyWithValue, PPOConfig, clipped_policy_loss, clipped_value_loss, gae
from week6.sampling import sample
from week6.sequences import Rollout


def answer_mask(responses: Int[Tensor, "B T"], eos_id: int) -> Bool[Tensor, "B T"]:
    """True on the tokens of each answer, its first EOS included; False on what stands after it.

    A token belongs to the answer if no EOS stands before it. An answer without an EOS is True throughout.
    """
    is_eos = (responses == eos_id).long()
    eos_before = is_eos.cumsum(1) - is_eos
    return eos_before == 0


def token_rewards(
    scores: Float[Tensor, " B"],
    finished: Bool[Tensor, " B"],
    log_probs: Float[Tensor, "B T"],
    ref_log_probs: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    beta: float,
    penalty: float,
) -> Float[Tensor, "B T"]:
    """Reward of each token, 0 at padding: its share of the KL penalty; at the last real token what the answer earned.

    r_t = −β (log π(y_t) − log π_ref(y_t)) + [t is last] · R(y),    R(y) = score if the answer is finished, else penalty
    """
    earned = torch.where(finished, scores, penalty)
    rewards = torch.where(mask, -beta * (log_probs - ref_log_probs), 0)
    rows, last = torch.arange(len(scores), device=scores.device), mask.sum(1) - 1
    rewards[rows, last] = rewards[rows, last] + earned
    return rewards


def update_loss(
    log_probs: Float[Tensor, "B T"],
    values: Float[Tensor, "B T"],
    old_log_probs: Float[Tensor, "B T"],
    old_values: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B T"],
    returns: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    clip: float = 0.2,
    value_coef: float = 0.1,
) -> Float[Tensor, ""]:
    """What one gradient step of PPO descends: the clipped policy loss on whitened advantages, plus c_V · value loss."""
    policy_loss, _ = clipped_policy_loss(log_probs, old_log_probs, masked_whiten(advantages, mask), mask, clip)
    value_loss, _ = clipped_value_loss(values, old_values, returns, mask, clip)
    return policy_loss + value_coef * value_loss


def next_beta(beta: float, kl: float, target: float, n: int, horizon: float) -> float:
    """The price of KL after n answers whose mean KL was `kl`: β (1 + clip(KL/target − 1, −0.2, 0.2) · n/horizon)."""
    error = min(max(kl / target - 1, -0.2), 0.2)
    return beta * (1 + error * n / horizon)


def ppo_step(
    actor: PolicyWithValue,
    optimizer: torch.optim.Optimizer,
    reference: nn.Module,
    reward: Callable[[Rollout], Float[Tensor, " B"]],
    prompts: Int[Tensor, "B P"],
    prompt_mask: Bool[Tensor, "B P"],
    config: PPOConfig,
    generator: torch.Generator,
) -> dict[str, Rollout | Tensor]:
    """One step of PPO on a batch of prompts, lines 1 to 7: trains `actor` in place and returns the parts by name."""
    actor.eval()  # no dropout
    answers = sample(actor.policy, prompts, prompt_mask, config.max_new_tokens, config.temperature, generator)
    mask = answers.response_mask
    with torch.no_grad():
        scores = reward(answers)
        ref_log_probs = response_log_probs(
            reference, answers.prompts, answers.prompt_mask, answers.responses, mask, config.temperature
        )
        _, values = actor(answers, config.temperature)
    rewards = token_rewards(
        scores, answers.finished, answers.log_probs, ref_log_probs, mask, config.beta, config.unfinished_penalty
    )
    advantages, returns = gae(rewards, values, mask, config.gamma, config.lam)
    whitened = masked_whiten(advantages, mask)
    for _ in range(config.epochs):
        order = torch.randperm(len(answers), generator=generator, device=mask.device)
        for rows in order.chunk(config.minibatches):
            part = answers.rows(rows)
            log_probs, new_values = actor(part, config.temperature)
            policy_loss, _ = clipped_policy_loss(log_probs, part.log_probs, whitened[rows], mask[rows], config.clip)
            value_loss, _ = clipped_value_loss(new_values, values[rows], returns[rows], mask[rows], config.clip)
            descend(policy_loss + config.value_coef * value_loss, actor, optimizer)
    before = {"answers": answers, "scores": scores, "ref_log_probs": ref_log_probs, "values": values}
    return before | {"rewards": rewards, "advantages": advantages, "returns": returns, "whitened": whitened}


# --- 5.1 · the mask of an answer ------------------------------------------------------------------------------------


def _answers(g: torch.Generator) -> list[tuple[object, ...]]:
    def batch(rows: int, width: int, eos_id: int, never: int = -1) -> tuple[Tensor, int]:
        """Row `never` has no EOS; the row before it, or the one before the last, ends with its last token."""
        words = torch.randint(0, 20, (rows, width), generator=g)
        words = torch.where(words == eos_id, eos_id + 1, words)
        ends = torch.randint(0, width, (rows,), generator=g)
        if rows > 1:
            ends[never - 1] = width - 1
        ends[never] = width
        return torch.where(torch.arange(width) < ends.unsqueeze(1), words, eos_id), eos_id

    drawn = [batch(whole(g, 1, 6), whole(g, 1, 8), eos_id=whole(g, 0, 19)) for _ in range(3)]
    return [batch(4, 6, 1, never=0), batch(6, 9, 0), batch(3, 1, 7), batch(5, 4, 19), batch(1, 3, 2), *drawn]


def _all_before_the_eos(responses: Tensor, eos_id: int) -> Tensor:
    return (responses == eos_id).cumsum(1) == 0


def _up_to_argmax(responses: Tensor, eos_id: int) -> Tensor:
    return torch.arange(responses.shape[1]) <= (responses == eos_id).int().argmax(1, keepdim=True)


def _one_more(responses: Tensor, eos_id: int) -> Tensor:
    return torch.arange(responses.shape[1]) <= (responses != eos_id).sum(1, keepdim=True) + 1


def _last_column_too(responses: Tensor, eos_id: int) -> Tensor:
    mask = answer_mask(responses, eos_id)
    mask[:, -1] = True
    return mask


def _first_row_for_all(responses: Tensor, eos_id: int) -> Tensor:
    return answer_mask(responses[:1], eos_id).expand(responses.shape)


def _one_less(responses: Tensor, eos_id: int) -> Tensor:
    return torch.arange(responses.shape[1]) < (responses != eos_id).sum(1, keepdim=True) - 1


q1 = Question(
    title="5.1 The mask of an answer",
    reference=answer_mask,
    cases=_answers,
    hints=(
        "For which tokens of a row has an EOS already been said *before* they are chosen? And for the first EOS "
        "itself?",
        "A token belongs to the answer if no EOS stands strictly before it: the number of EOS in columns s < t is"
        " 0. For the first EOS that number is still 0.",
        "Mark the EOS of each row. A running sum along the row counts them up to and including each column. Take "
        "away the column's own mark, so that the column itself does not count. True where the result is 0.",
        "is_eos = (responses == eos_id).long()\neos_before = is_eos.cumsum(1) - ...\nreturn eos_before == ...",
    ),
    misconceptions=(
        Misconception(
            "ids != pad",
            _all_before_the_eos,
            "Your mask hides the EOS itself. The model chose that token: it must be trained and rewarded like the "
            "others, or nothing teaches the model when to stop.",
        ),
        Misconception(
            "unfinished answers lost",
            _up_to_argmax,
            "An answer that never ends keeps only its first token: `argmax` of a row without any EOS is 0. Such a row "
            "must be True throughout.",
        ),
        Misconception(
            "one slot too many",
            _one_more,
            "Your answers are one token too long: the padding behind the EOS counts as if it were said. The EOS is the "
            "last token.",
        ),
        Misconception(
            "the last word lost too",
            _one_less,
            "Your mask ends before the last word. Words and the first EOS belong to the answer.",
        ),
        Misconception(
            "padding counted",
            lambda responses, eos_id: torch.ones_like(responses, dtype=torch.bool),
            "You keep everything, the padding too. After the first EOS nothing was sampled.",
        ),
        Misconception(
            "inverted",
            lambda responses, eos_id: ~answer_mask(responses, eos_id),
            "Your mask is upside down: it is True on the padding. True means that the token belongs to the answer.",
        ),
        Misconception(
            "only the EOS",
            lambda responses, eos_id: (responses == eos_id).cumsum(1) * (responses == eos_id) == 1,
            "You mark the EOS alone. The mask is True on all tokens of the answer, up to and including it.",
        ),
        Misconception(
            "last column forced",
            _last_column_too,
            "You keep the last column of every row. Where an answer ended earlier, that column is padding: it belongs "
            "to the answer only if no EOS stands before it.",
        ),
        Misconception(
            "one row for all",
            _first_row_for_all,
            "You use the mask of the first row for all rows. Each answer has a length of its own: look for the EOS "
            "along axis 1, row by row.",
        ),
        Misconception(
            "columns, not rows",
            lambda responses, eos_id: (responses == eos_id).cumsum(0) - (responses == eos_id).long() == 0,
            "You count along axis 0, over different answers. Time runs along axis 1.",
        ),
    ),
)

# --- 5.2 · reward shaping -------------------------------------------------------------------------------------------


def _batches(g: torch.Generator) -> list[tuple[object, ...]]:
    def batch(
        rows: int, width: int, beta: float, penalty: float, dtype: torch.dtype = torch.float32
    ) -> tuple[object, ...]:
        mask = ragged_mask(g, rows, width)
        log_probs, ref_log_probs = (-2 * torch.rand(rows, width, generator=g, dtype=dtype) for _ in range(2))
        finished = torch.rand(rows, generator=g) < 0.5
        finished[0], finished[1:2] = False, True
        return torch.randn(rows, generator=g, dtype=dtype), finished, log_probs, ref_log_probs, mask, beta, penalty

    return [
        batch(4, 6, 0.1, -3.0),
        batch(3, 5, 0.5, -1.0),
        batch(6, 3, 0.05, 0.5, torch.float64),
        batch(2, 4, 2.0, -2.0),
        *(batch(whole(g, 1, 6), whole(g, 1, 8), 0.1 + float(torch.rand((), generator=g)), -float(i)) for i in (1, 2)),
        batch(1, 3, 0.3, -2.5),
    ]


Numbers = Tensor
"""One tensor, where a lambda would otherwise hide what it returns."""


def _at_last(mask: Tensor, earned: Tensor) -> Numbers:
    last = torch.arange(mask.shape[1]) == mask.sum(1, keepdim=True) - 1
    return torch.where(last, earned.unsqueeze(1), 0)


def _leash(p: Tensor, ref: Tensor, m: Tensor, beta: float) -> Numbers:
    return torch.where(m, -beta * (p - ref), 0)


def _in_last_column(s: Tensor, f: Tensor, p: Tensor, ref: Tensor, m: Tensor, beta: float, penalty: float) -> Numbers:
    end = torch.zeros_like(p)
    end[:, -1] = torch.where(f, s, penalty)
    return _leash(p, ref, m, beta) + end


def _one_late(s: Tensor, f: Tensor, p: Tensor, ref: Tensor, m: Tensor, beta: float, penalty: float) -> Numbers:
    end = _at_last(m, torch.where(f, s, penalty))
    return _leash(p, ref, m, beta) + torch.cat([0 * end[:, :1], end[:, :-1]], dim=1)


def _late_but_inside(s: Tensor, f: Tensor, p: Tensor, ref: Tensor, m: Tensor, beta: float, penalty: float) -> Numbers:
    after = torch.arange(m.shape[1]) == m.sum(1, keepdim=True).clamp(max=m.shape[1] - 1)
    return _leash(p, ref, m, beta) + torch.where(after, torch.where(f, s, penalty).unsqueeze(1), 0)


def _score_only_at_the_end(
    s: Tensor, f: Tensor, p: Tensor, ref: Tensor, m: Tensor, beta: float, penalty: float
) -> Numbers:
    last = torch.arange(m.shape[1]) == m.sum(1, keepdim=True) - 1
    return torch.where(last, torch.where(f, s, penalty).unsqueeze(1), _leash(p, ref, m, beta))


def _to_every_row(s: Tensor, f: Tensor, p: Tensor, ref: Tensor, m: Tensor, beta: float, penalty: float) -> Numbers:
    rewards = _leash(p, ref, m, beta)
    rewards[:, m.sum(1) - 1] += torch.where(f, s, penalty)
    return rewards


def _penalty_at_every_token(
    s: Tensor, f: Tensor, p: Tensor, ref: Tensor, m: Tensor, beta: float, penalty: float
) -> Numbers:
    charges = torch.where(m & ~f.unsqueeze(1), penalty, 0)
    return _leash(p, ref, m, beta) + _at_last(m, torch.where(f, s, 0.0)) + charges


def _kl_at_the_end(s: Tensor, f: Tensor, p: Tensor, ref: Tensor, m: Tensor, beta: float, penalty: float) -> Numbers:
    return _at_last(m, torch.where(f, s, penalty) + _leash(p, ref, m, beta).sum(1))


def _kl_per_answer(s: Tensor, f: Tensor, p: Tensor, ref: Tensor, m: Tensor, beta: float, penalty: float) -> Numbers:
    leash = _leash(p, ref, m, beta)
    return _at_last(m, torch.where(f, s, penalty)) + torch.where(m, leash.sum(1, keepdim=True), 0)


q2 = Question(
    title="5.2 Reward shaping",
    reference=token_rewards,
    cases=_batches,
    hints=(
        "Equation (5) has two parts. At how many tokens of a row does each of them stand?",
        "The leash, −β (log π − log π_ref), stands at every real token; what the answer earned, R(y) of (4), is "
        "*added* at one: the last real token, which has another column in each row.",
        "What each answer earned: its score where it is finished, else the penalty. The leash at the real tokens,"
        " 0 elsewhere. The column of the last real token: the number of real tokens minus 1. Add each answer's "
        "earnings in its own row and column.",
        "earned = torch.where(finished, ..., ...)\n"
        "rewards = torch.where(mask, ..., 0)\n"
        "rows, last = torch.arange(len(scores), device=scores.device), mask.sum(1) - 1\n"
        "rewards[rows, last] = rewards[rows, last] + earned\n"
        "return rewards",
    ),
    misconceptions=(
        Misconception(
            "score in the last column",
            _in_last_column,
            "You put the score into the last column of the batch. In a shorter answer that is padding, where nobody "
            "learns. By (5) it belongs to the row's own last real token.",
        ),
        Misconception(
            "one slot late",
            _one_late,
            "Your score stands one slot after the last real token. There is no token there, so GAE drops it. The last "
            "real token has index mask.sum(1) − 1.",
        ),
        Misconception(
            "penalty added",
            lambda s, f, p, ref, m, beta, penalty: (
                _leash(p, ref, m, beta) + _at_last(m, s + torch.where(f, 0.0, penalty).to(s))
            ),
            "An unfinished answer gets score + penalty from you. In (4) the penalty *replaces* the score: the reward "
            "model has never judged half an answer.",
        ),
        Misconception(
            "no penalty",
            lambda s, f, p, ref, m, beta, penalty: _leash(p, ref, m, beta) + _at_last(m, s),
            "Unfinished answers keep their score in your result. By (4) they earn the penalty instead.",
        ),
        Misconception(
            "nothing for unfinished answers",
            lambda s, f, p, ref, m, beta, penalty: _leash(p, ref, m, beta) + _at_last(m, s * f),
            "Unfinished answers earn 0 from you. That is an average score: never ending would be quite a good answer. "
            "By (4) they earn the penalty.",
        ),
        Misconception(
            "finished and unfinished swapped",
            lambda s, f, p, ref, m, beta, penalty: token_rewards(s, ~f, p, ref, m, beta, penalty),
            "You give the penalty to the answers that did end. In (4) the score is for finished ones.",
        ),
        Misconception(
            "distance is paid",
            lambda s, f, p, ref, m, beta, penalty: token_rewards(s, f, ref, p, m, beta, penalty),
            "Your leash has the wrong sign: it pays for distance from the reference. In (5) it is −β (log π − log "
            "π_ref).",
        ),
        Misconception(
            "β forgotten",
            lambda s, f, p, ref, m, beta, penalty: token_rewards(s, f, p, ref, m, 1.0, penalty),
            "β has no effect in your function. In (5) it multiplies the log-ratio: reward units per nat.",
        ),
        Misconception(
            "β on the score too",
            lambda s, f, p, ref, m, beta, penalty: beta * token_rewards(s, f, p, ref, m, 1.0, penalty),
            "You multiply the score by β too. β is the price of KL; the score is in reward units already.",
        ),
        Misconception(
            "padding has a reward",
            lambda s, f, p, ref, m, beta, penalty: -beta * (p - ref) + _at_last(m, torch.where(f, s, penalty)),
            "Padding has a reward in your result. The log-ratios there belong to no token: set them to 0 with the "
            "mask.",
        ),
        Misconception(
            "score at every token",
            lambda s, f, p, ref, m, beta, penalty: (
                _leash(p, ref, m, beta) + torch.where(m, torch.where(f, s, penalty).unsqueeze(1), 0)
            ),
            "You pay the score at every token: a long answer is paid many times. In (5) it comes once, at the last "
            "one.",
        ),
        Misconception(
            "KL only at the end",
            _kl_at_the_end,
            "You pay the whole KL at the last token. The sum (6) is right, but each token must carry its own share, so "
            "that it is blamed for what it did itself.",
        ),
        Misconception(
            "the answer's KL at every token",
            _kl_per_answer,
            "You charge every token with the KL of the whole answer: then the sum over the tokens counts it T times, "
            "against (6). Each token pays its own log-ratio.",
        ),
        Misconception(
            "no leash",
            lambda s, f, p, ref, m, beta, penalty: _at_last(m, torch.where(f, s, penalty)),
            "The leash is missing: you pay only the score. Notebook 03, section 2, shows where that ends.",
        ),
        Misconception(
            "one slot late, inside the batch",
            _late_but_inside,
            "Your score stands one slot after the last real token, and only the longest answer has it in the right "
            "place. The last real token has index mask.sum(1) − 1.",
        ),
        Misconception(
            "the last token's leash lost",
            _score_only_at_the_end,
            "You put the score in place of the last token's reward, so its share of the KL is lost. In (5) the score "
            "is *added* to it.",
        ),
        Misconception(
            "each score to every row",
            _to_every_row,
            "`rewards[:, last]` takes the last columns of *all* answers in every row. Pair each row with its own "
            "column: rewards[torch.arange(B), last].",
        ),
        Misconception(
            "penalty with the wrong sign",
            lambda s, f, p, ref, m, beta, penalty: token_rewards(s, f, p, ref, m, beta, -penalty),
            "You subtract the penalty. It comes with its sign (for example −3): by (4) an unfinished answer earns it "
            "as it is.",
        ),
        Misconception(
            "penalty at every token",
            _penalty_at_every_token,
            "An unfinished answer pays the penalty at each of its tokens. By (5) what an answer earns stands once, at "
            "its last real token.",
        ),
        Misconception(
            "score shared out by length",
            lambda s, f, p, ref, m, beta, penalty: (
                _leash(p, ref, m, beta) + _at_last(m, torch.where(f, s, penalty) / m.sum(1))
            ),
            "You divide the score by the length of the answer: long answers would be paid less. In (5) it is not "
            "divided.",
        ),
        Misconception(
            "only increases are charged",
            lambda s, f, p, ref, m, beta, penalty: (
                torch.where(m, -beta * (p - ref).clamp(min=0), 0) + _at_last(m, torch.where(f, s, penalty))
            ),
            "You drop the log-ratios below 0. A token that became less likely earns a little back: only so is the sum "
            "in (6) the KL of the answer.",
        ),
        Misconception(
            "absolute log-ratio",
            lambda s, f, p, ref, m, beta, penalty: (
                torch.where(m, -beta * (p - ref).abs(), 0) + _at_last(m, torch.where(f, s, penalty))
            ),
            "You charge the absolute value of the log-ratio. Its sign counts: only so is the sum in (6) the KL of the "
            "answer.",
        ),
        Misconception(
            "score at the first token",
            lambda s, f, p, ref, m, beta, penalty: torch.cat(
                [
                    _leash(p, ref, m, beta)[:, :1] + torch.where(f, s, penalty).unsqueeze(1),
                    _leash(p, ref, m, beta)[:, 1:],
                ],
                dim=1,
            ),
            "You pay the score at the first token. The answer has not been given then; by (5) it is paid at its end.",
        ),
        Misconception(
            "no leash on unfinished answers",
            lambda s, f, p, ref, m, beta, penalty: (
                _leash(p, ref, m & f.unsqueeze(1), beta) + _at_last(m, torch.where(f, s, penalty))
            ),
            "Unfinished answers pay no KL in your result. In (4) only the score is replaced; the leash of (5) is for "
            "every token of every answer.",
        ),
        Misconception(
            "penalty as a limit",
            lambda s, f, p, ref, m, beta, penalty: (
                _leash(p, ref, m, beta) + _at_last(m, torch.where(f, s, s.clamp(max=penalty)))
            ),
            "An unfinished answer keeps its score where that is below the penalty. In (4) it earns the penalty, "
            "whatever its score.",
        ),
    ),
)

# --- 5.3 · one update -----------------------------------------------------------------------------------------------


def _updates(g: torch.Generator) -> list[tuple[object, ...]]:
    def batch(rows: int, width: int, *settings: float, dtype: torch.dtype = torch.float32) -> tuple[object, ...]:
        def normal(spread: float, centre: float = 0.0) -> Tensor:
            return centre + spread * torch.randn(rows, width, generator=g, dtype=dtype)

        old_log_probs, old_values = -normal(1.0).abs(), normal(0.5)
        log_probs, values = old_log_probs + normal(0.4), old_values + normal(0.4)
        mask = ragged_mask(g, rows, width)
        return log_probs, values, old_log_probs, old_values, normal(2.0, 0.7), normal(1.0), mask, *settings

    return [
        batch(4, 5),
        batch(3, 6, 0.1, 1.0),
        batch(5, 3, 0.3, 0.5, dtype=torch.float64),
        batch(6, 4, 0.2, 2.0),
        *(batch(whole(g, 2, 7), whole(g, 2, 9), 0.15, 0.7) for _ in range(2)),  # one token has no variance
    ]


def _update(
    p: Tensor,
    v: Tensor,
    old_p: Tensor,
    old_v: Tensor,
    a: Tensor,
    r: Tensor,
    m: Tensor,
    clip: float = 0.2,
    coef: float = 0.1,
    *,
    white: Tensor | None = None,
    flip_value: float = 1.0,
) -> Tensor:
    """The update with parts exposed, so that each can be got wrong."""
    white = masked_whiten(a, m) if white is None else white
    policy_loss, _ = clipped_policy_loss(p, old_p, white, m, clip)
    value_loss, _ = clipped_value_loss(v, old_v, r, m, clip)
    return policy_loss + flip_value * coef * value_loss


def _unclipped_policy(
    p: Tensor,
    v: Tensor,
    old_p: Tensor,
    old_v: Tensor,
    a: Tensor,
    r: Tensor,
    m: Tensor,
    clip: float = 0.2,
    coef: float = 0.1,
) -> Tensor:
    policy_loss, _ = clipped_policy_loss(p, old_p, masked_whiten(a, m), m, 1e6)
    value_loss, _ = clipped_value_loss(v, old_v, r, m, clip)
    return policy_loss + coef * value_loss


def _optimistic(
    p: Tensor,
    v: Tensor,
    old_p: Tensor,
    old_v: Tensor,
    a: Tensor,
    r: Tensor,
    m: Tensor,
    clip: float = 0.2,
    coef: float = 0.1,
) -> Tensor:
    ratio, white = (p - old_p).exp(), masked_whiten(a, m)
    policy_loss = masked_mean(torch.minimum(-white * ratio, -white * ratio.clamp(1 - clip, 1 + clip)), m)
    value_loss, _ = clipped_value_loss(v, old_v, r, m, clip)
    return policy_loss + coef * value_loss


def _unclipped_value(
    p: Tensor,
    v: Tensor,
    old_p: Tensor,
    old_v: Tensor,
    a: Tensor,
    r: Tensor,
    m: Tensor,
    clip: float = 0.2,
    coef: float = 0.1,
) -> Tensor:
    policy_loss, _ = clipped_policy_loss(p, old_p, masked_whiten(a, m), m, clip)
    return policy_loss + coef * 0.5 * masked_mean((v - r) ** 2, m)


def _row_means(
    p: Tensor,
    v: Tensor,
    old_p: Tensor,
    old_v: Tensor,
    a: Tensor,
    r: Tensor,
    m: Tensor,
    clip: float = 0.2,
    coef: float = 0.1,
) -> Tensor:
    ratio, white = (p - old_p).exp(), masked_whiten(a, m)
    policy = torch.maximum(-white * ratio, -white * ratio.clamp(1 - clip, 1 + clip))
    near = torch.clamp(v, old_v - clip, old_v + clip)
    value = 0.5 * torch.maximum((v - r) ** 2, (near - r) ** 2)
    return masked_mean(policy + coef * value, m, dim=1).mean()


def _white_by_row(a: Tensor, m: Tensor) -> Tensor:
    return torch.stack([masked_whiten(row, mask) for row, mask in zip(a, m, strict=True)])


def _over_padding(
    p: Tensor,
    v: Tensor,
    old_p: Tensor,
    old_v: Tensor,
    a: Tensor,
    r: Tensor,
    m: Tensor,
    clip: float = 0.2,
    coef: float = 0.1,
) -> Tensor:
    return _update(p, v, old_p, old_v, a, r, torch.ones_like(m), clip, coef, white=masked_whiten(a, m))


q3 = Question(
    title="5.3 One PPO update",
    reference=update_loss,
    cases=_updates,
    grad_args=(0, 1),
    hints=(
        "Which parts of (7) have you already as functions, and what is left to do with their results?",
        "L = policy loss + c_V · value loss. Only the advantages are whitened, over the real tokens; the returns "
        "stay in reward units, since V must predict them.",
        "Whiten the advantages with the mask. The clipped policy loss of these. The clipped value loss of the "
        "returns as they are. Keep the first result of each, drop the instruments. Add them, the second one times"
        " `value_coef`.",
        "policy_loss, _ = clipped_policy_loss(log_probs, old_log_probs, ..., mask, clip)\n"
        "value_loss, _ = clipped_value_loss(values, old_values, ..., mask, clip)\n"
        "return ...",
    ),
    misconceptions=(
        Misconception(
            "not whitened",
            lambda p, v, op, ov, a, r, m, clip=0.2, coef=0.1: _update(p, v, op, ov, a, r, m, clip, coef, white=a),
            "The advantages go in as they are. Step 6 of the loop whitens them: mean 0, variance 1 over the real "
            "tokens.",
        ),
        Misconception(
            "whitened over padding",
            lambda p, v, op, ov, a, r, m, clip=0.2, coef=0.1: _update(
                p, v, op, ov, a, r, m, clip, coef, white=masked_whiten(a, torch.ones_like(m))
            ),
            "Mean and variance of your advantages include the padding. Whiten with the mask.",
        ),
        Misconception(
            "only scaled",
            lambda p, v, op, ov, a, r, m, clip=0.2, coef=0.1: _update(
                p, v, op, ov, a, r, m, clip, coef, white=masked_whiten(a, m, shift_mean=False)
            ),
            "You scale the advantages but leave their mean. Rewards are scaled only; advantages are shifted to "
            "mean 0 too.",
        ),
        Misconception(
            "only shifted",
            lambda p, v, op, ov, a, r, m, clip=0.2, coef=0.1: _update(
                p, v, op, ov, a, r, m, clip, coef, white=a - masked_mean(a, m)
            ),
            "You shift the advantages to mean 0 but leave their scale. Whitening divides by their standard "
            "deviation too.",
        ),
        Misconception(
            "returns whitened too",
            lambda p, v, op, ov, a, r, m, clip=0.2, coef=0.1: _update(
                p, v, op, ov, a, masked_whiten(r, m), m, clip, coef, white=masked_whiten(a, m)
            ),
            "You whitened the returns as well. The value function must predict them in reward units: leave them as "
            "they are.",
        ),
        Misconception(
            "whitened by hand, over padding",
            lambda p, v, op, ov, a, r, m, clip=0.2, coef=0.1: _update(
                p, v, op, ov, a, r, m, clip, coef, white=(a - a.mean()) / a.std()
            ),
            "Your mean and deviation include the padding. Whiten over the real tokens: masked_whiten(x, mask).",
        ),
        Misconception(
            "each answer whitened by itself",
            lambda p, v, op, ov, a, r, m, clip=0.2, coef=0.1: _update(
                p, v, op, ov, a, r, m, clip, coef, white=_white_by_row(a, m)
            ),
            "You whiten each answer by itself: then a good answer has the same mean advantage as a bad one, zero. "
            "Whiten over all real tokens of the batch.",
        ),
        Misconception(
            "half of the value loss",
            lambda p, v, op, ov, a, r, m, clip=0.2, coef=0.1: _update(
                p, v, op, ov, a, r, m, clip, coef, flip_value=0.5
            ),
            "Your value loss is halved twice: `clipped_value_loss` contains the ½ of (7) already.",
        ),
        Misconception(
            "value loss doubled",
            lambda p, v, op, ov, a, r, m, clip=0.2, coef=0.1: _update(
                p, v, op, ov, a, r, m, clip, coef, flip_value=2.0
            ),
            "Your value loss is twice that of (7): the ½ belongs to it.",
        ),
        Misconception(
            "policy loss subtracted",
            lambda p, v, op, ov, a, r, m, clip=0.2, coef=0.1: (
                2 * _update(p, v, op, ov, 0 * a, r, m, clip, coef, white=0 * a)
                - _update(p, v, op, ov, a, r, m, clip, coef)
            ),
            "You subtract the policy loss. `clipped_policy_loss` is a loss already, with the minus of (7): add it.",
        ),
        Misconception(
            "clip not handed on",
            lambda p, v, op, ov, a, r, m, clip=0.2, coef=0.1: _update(p, v, op, ov, a, r, m, 0.2, coef),
            "Your losses clip at 0.2, whatever `clip` is: hand it on to both of them.",
        ),
        Misconception(
            "old values and returns swapped",
            lambda p, v, op, ov, a, r, m, clip=0.2, coef=0.1: _update(p, v, op, r, a, ov, m, clip, coef),
            "Old values and returns are swapped in the value loss: the value function must come near the *returns*.",
        ),
        Misconception(
            "value loss subtracted",
            lambda p, v, op, ov, a, r, m, clip=0.2, coef=0.1: _update(
                p, v, op, ov, a, r, m, clip, coef, flip_value=-1.0
            ),
            "You subtract the value loss: gradient descent would make the value function worse. The PPO paper writes a "
            "minus because it *maximises*; (7) is minimised.",
        ),
        Misconception(
            "coefficient forgotten",
            lambda p, v, op, ov, a, r, m, clip=0.2, coef=0.1: _update(p, v, op, ov, a, r, m, clip, 1.0),
            "value_coef has no effect in your function. In (7) it multiplies the value loss, so that the shared trunk "
            "serves the policy first.",
        ),
        Misconception(
            "coefficient on the policy loss",
            lambda p, v, op, ov, a, r, m, clip=0.2, coef=0.1: (
                coef * _update(p, v, op, ov, a, r, m, clip, 0.0) + _update(p, v, op, ov, 0 * a, r, m, clip, 1.0)
            ),
            "value_coef multiplies your policy loss. In (7) it belongs to the value loss.",
        ),
        Misconception(
            "no value loss",
            lambda p, v, op, ov, a, r, m, clip=0.2, coef=0.1: _update(p, v, op, ov, a, r, m, clip, 0.0) + 0 * v.sum(),
            "The value loss is missing. Without it the value head stays at 0 for ever, and GAE has no baseline.",
        ),
        Misconception(
            "no policy loss",
            lambda p, v, op, ov, a, r, m, clip=0.2, coef=0.1: (
                _update(p, v, op, ov, 0 * a, r, m, clip, coef) + 0 * p.sum()
            ),
            "The policy loss is missing: only the value function would learn.",
        ),
        Misconception(
            "ratio upside down",
            lambda p, v, op, ov, a, r, m, clip=0.2, coef=0.1: _update(op, v, p, ov, a, r, m, clip, coef),
            "Old and new log-probabilities are swapped: your ratio is π_old/π. In (7) ρ = π/π_old.",
        ),
        Misconception(
            "advantages upside down",
            lambda p, v, op, ov, a, r, m, clip=0.2, coef=0.1: _update(p, v, op, ov, -a, r, m, clip, coef),
            "The sign of your policy term is wrong: it makes good tokens less likely. Descent needs −Â ρ.",
        ),
        Misconception("policy not clipped", _unclipped_policy, "Your ratio is not clipped: see (7), the ± ε."),
        Misconception(
            "optimistic clip",
            _optimistic,
            "You take the smaller of the two losses. PPO is pessimistic: as a loss it is the larger one, see (7).",
        ),
        Misconception(
            "value not clipped",
            _unclipped_value,
            "Your value loss is a plain squared error. (7) uses `clipped_value_loss`, which holds V near its old "
            "value.",
        ),
        Misconception(
            "mean of row means",
            _row_means,
            "You average each answer first, and then the answers: a token in a short answer counts more. (7) averages "
            "over all real tokens at once.",
        ),
        Misconception(
            "padding in the losses",
            _over_padding,
            "The losses run over the padding too. Pass the mask to both of them.",
        ),
        Misconception(
            "clip of the policy alone",
            lambda p, v, op, ov, a, r, m, clip=0.2, coef=0.1: (
                clipped_policy_loss(p, op, masked_whiten(a, m), m, clip)[0] + coef * clipped_value_loss(v, ov, r, m)[0]
            ),
            "Your value loss clips at 0.2, whatever `clip` is: hand it on to both of them.",
        ),
        Misconception(
            "two losses",
            lambda p, v, op, ov, a, r, m, clip=0.2, coef=0.1: (
                clipped_policy_loss(p, op, masked_whiten(a, m), m, clip)[0],
                coef * clipped_value_loss(v, ov, r, m, clip)[0],
            ),
            "You return the two losses. Add them up: one step goes down one number.",
        ),
    ),
)

# --- 5.4 · the adaptive controller ----------------------------------------------------------------------------------


def _controls(g: torch.Generator) -> list[tuple[object, ...]]:
    def rand() -> float:
        return float(torch.rand((), generator=g))

    def near(target: float) -> float:
        return target * (0.85 + 0.3 * rand())

    return [
        (0.2, 6.9, 6.0, 256, 10_000.0),
        (0.2, 12.0, 6.0, 256, 10_000.0),
        (0.1, near(4.0), 4.0, 64, 2_000.0),
        (0.05, 0.3, 3.0, 128, 1_000.0),
        (0.3, near(5.0), 5.0, 32, 500.0),
        (0.1, -0.2, 2.0, 64, 1_000.0),
        (0.1, 40.0, 2.0, 64, 1_000.0),
        *(
            (0.02 + rand(), near(1.0 + 5 * rand()), 1.0 + 5 * rand(), 16 + int(200 * rand()), 500.0 + 5_000 * rand())
            for _ in range(4)
        ),
    ]


def _clip(x: float, low: float = -0.2, high: float = 0.2) -> float:
    return min(max(x, low), high)


q4 = Question(
    title="5.4 The adaptive controller",
    reference=next_beta,
    cases=_controls,
    hints=(
        "What must the new β be if the KL is exactly on target? And twice too large?",
        "The error is relative, KL/target − 1: 0 on target, 1 at twice the target. It is held within ±0.2, and "
        "n/horizon of it is a *factor* on β: β (1 + error · n/horizon).",
        "KL over target, minus 1. Not below −0.2, not above 0.2. Times n over horizon. 1 plus that, times the old β.",
        "error = min(max(..., -0.2), 0.2)\nreturn beta * (1 + ...)",
    ),
    misconceptions=(
        Misconception(
            "not clipped",
            lambda b, k, t, n, h: b * (1 + (k / t - 1) * n / h),
            "Your error is not held within ±0.2. One batch with a wild KL would move β too far; see (9).",
        ),
        Misconception(
            "minus one forgotten",
            lambda b, k, t, n, h: b * (1 + _clip(k / t) * n / h),
            "You clip KL/target itself. The error is KL/target − 1: on target it is 0, and β stays.",
        ),
        Misconception(
            "wrong direction",
            lambda b, k, t, n, h: b * (1 - _clip(k / t - 1) * n / h),
            "Your β moves the wrong way. If the KL is too high, a nat must cost more: β rises.",
        ),
        Misconception(
            "target over KL",
            lambda b, k, t, n, h: b * (1 + _clip(t / k - 1) * n / h),
            "You have target/KL. In (9) the error is KL/target − 1: positive where the policy is too far away.",
        ),
        Misconception(
            "difference, not ratio",
            lambda b, k, t, n, h: b * (1 + _clip(k - t) * n / h),
            "Your error is KL − target, in nats. In (9) it is relative, KL/target − 1, so that ±0.2 means 20 per cent.",
        ),
        Misconception(
            "whole correction at once",
            lambda b, k, t, n, h: b * (1 + _clip(k / t - 1)),
            "n/horizon is missing: you make the whole correction after every batch. β would swing.",
        ),
        Misconception(
            "horizon over n",
            lambda b, k, t, n, h: b * (1 + _clip(k / t - 1) * h / n),
            "n and horizon are swapped. A small batch knows little, so it may move β only a little: n/horizon.",
        ),
        Misconception(
            "one answer a batch",
            lambda b, k, t, n, h: b * (1 + _clip(k / t - 1) / h),
            "n is missing. In (9) a batch of n answers makes n/horizon of the correction.",
        ),
        Misconception(
            "added, not multiplied",
            lambda b, k, t, n, h: b + _clip(k / t - 1) * n / h,
            "You add the correction to β. In (9) it is a factor: a large β moves by more, and β never becomes "
            "negative.",
        ),
        Misconception(
            "only the correction",
            lambda b, k, t, n, h: b * _clip(k / t - 1) * n / h,
            "You return the change of β. Add β itself: the factor in (9) is 1 + …",
        ),
        Misconception(
            "clipped after scaling",
            lambda b, k, t, n, h: b * (1 + _clip((k / t - 1) * n / h)),
            "You clip after the factor n/horizon. In (9) the error is clipped first: otherwise the limit is hardly "
            "ever "
            "reached.",
        ),
        Misconception(
            "only the factor",
            lambda b, k, t, n, h: 1 + _clip(k / t - 1) * n / h,
            "You return the factor. The new β is the old β times this factor.",
        ),
        Misconception(
            "one counted twice",
            lambda b, k, t, n, h: b * (1 + _clip(k / t, 0.8, 1.2) * n / h),
            "You hold KL/target between 0.8 and 1.2, but leave the 1 in it: on target β would still rise. The error "
            "is KL/target − 1.",
        ),
        Misconception(
            "bracket around the target",
            lambda b, k, t, n, h: b * (1 + _clip(k / (t - 1)) * n / h) if t != 1 else b,
            "Your bracket is misplaced: KL/(target − 1). The error is (KL/target) − 1.",
        ),
        Misconception(
            "n/horizon outside the bracket",
            lambda b, k, t, n, h: b * (1 + _clip(k / t - 1)) * n / h,
            "n/horizon stands outside the bracket, so β shrinks to a small part of itself: it belongs to the error.",
        ),
        Misconception(
            "half the limit",
            lambda b, k, t, n, h: b * (1 + _clip(k / t - 1, -0.1, 0.1) * n / h),
            "Your error is held within ±0.1; (9) has ±0.2.",
        ),
        Misconception(
            "clipped on one side",
            lambda b, k, t, n, h: b * (1 + min(k / t - 1, 0.2) * n / h),
            "Your error is held from above only. A KL far below the target is limited too: −0.2 at least.",
        ),
        Misconception(
            "exponential",
            lambda b, k, t, n, h: b * math.exp(_clip(k / t - 1) * n / h),
            "Your factor is an exponential. It is nearly the same for small corrections, but (9) is 1 + error · n/"
            "horizon.",
        ),
    ),
)

# --- 5.5 · the failure museum ---------------------------------------------------------------------------------------


def _labels(a: str, b: str, c: str, d: str, e: str) -> dict[str, str]:
    return {"A": a, "B": b, "C": c, "D": d, "E": e}


_P, _S, _T, _D, _E = "positions", "sign", "truncated", "dropout", "eos"
q5 = Question(
    title="5.5 The failure museum",
    name="diagnosis",
    value=_labels(_P, _S, _T, _D, _E),
    hints=(
        "Start with the instrument that must be rounding error: the ratio at the first pass. Two exhibits fail it. In "
        "one of these, the *answers* at step 0 are those of the healthy run, so only the scoring is wrong.",
        "Three exhibits have a ratio of 1. Look at step 0, where the policy still is the SFT model: which one samples "
        "something else than the SFT model (entropy, score)? Which one counts fewer tokens? The third starts "
        "perfectly.",
    ),
    misconceptions=(
        Misconception(
            "the order of the table",
            _labels(_D, _E, _P, _S, _T),
            "You gave the names in the order of the table. The letters were dealt otherwise: read each row's curves.",
        ),
        Misconception(
            "late for eos",
            _labels(_P, _S, _T, _D, "late"),
            "A to D are right. `late` was the exhibit for practice and is not among the five. In E the answers have "
            "one token too few at step 0: which one?",
        ),
        Misconception(
            "turned round",
            {bug: letter for letter, bug in _labels(_P, _S, _T, _D, _E).items()},
            'Your dict goes from bugs to letters. It must go from letters to bugs: {"A": …, "B": …}.',
        ),
        Misconception(
            "A and D swapped",
            _labels(_D, _S, _T, _P, _E),
            "B, C and E are right. A and D both break the ratio. But dropout disturbs the *sampling* too: entropy and "
            "KL are wrong from step 0. Missing positions disturb only the scoring, so the answers start healthy.",
        ),
        Misconception(
            "A and B swapped",
            _labels(_S, _P, _T, _D, _E),
            "C, D and E are right. A wrong sign is a wrong *reward*: policy and scorer agree, the ratio is 1. Which of "
            "A and B has a ratio far from 1?",
        ),
        Misconception(
            "A and C swapped",
            _labels(_T, _S, _P, _D, _E),
            "B, D and E are right. Compare the entropy at step 0 in A and C. Cutting off unlikely tokens lowers it; "
            "positions that only the scorer lacks leave it as it was.",
        ),
        Misconception(
            "A and E swapped",
            _labels(_E, _S, _T, _D, _P),
            "B, C and D are right. A hidden EOS changes which tokens count, not their probabilities: the ratio "
            "stays 1. "
            "Which of A and E has a wrong ratio?",
        ),
        Misconception(
            "B and C swapped",
            _labels(_P, _T, _S, _D, _E),
            "A, D and E are right. At step 0 a wrong sign has had no effect yet. Which of B and C is wrong at step 0 "
            "already?",
        ),
        Misconception(
            "B and D swapped",
            _labels(_P, _D, _T, _S, _E),
            "A, C and E are right. Both B and D have a high KL. In one of them it is there at step 0, before anything "
            "was learned: that is noise. In the other it grows: that is learned.",
        ),
        Misconception(
            "B and E swapped",
            _labels(_P, _E, _T, _D, _S),
            "A, C and D are right. A policy that is paid for distance runs away: look at the KL of B and E. And which "
            "of them counts one token less at step 0?",
        ),
        Misconception(
            "C and D swapped",
            _labels(_P, _S, _D, _T, _E),
            "A, B and E are right. Dropout adds noise: the entropy is too *high*. Cutting off unlikely tokens makes it "
            "too *low*.",
        ),
        Misconception(
            "C and E swapped",
            _labels(_P, _S, _E, _D, _T),
            "A, B and D are right. Look at the length at step 0. Hiding the EOS takes exactly one token from every "
            "answer; sampling from the top changes what is said.",
        ),
        Misconception(
            "D and E swapped",
            _labels(_P, _S, _T, _E, _D),
            "A, B and C are right. Dropout breaks the ratio at the first pass; a hidden EOS does not. Which of D and E "
            "has a ratio far from 1?",
        ),
    ),
)

# --- 5.6 · capstone: one step of PPO --------------------------------------------------------------------------------

capstone = Capstone(
    title="5.6 Capstone: one step of PPO",
    reference=ppo_step,
    run=run,
    steps=STEPS,
    symptoms=SYMPTOMS,
    shows=figures,
    hints=(
        "Which quantities must be *noted* before any weight moves, and which must be computed anew in every pass of "
        "line 7?",
        "Everything but the actor's new log-probabilities and values is data. So lines 2, 3 and 5 stand under "
        "`torch.no_grad()`, and in the ratio (3) π_old is what `sample` noted, in all passes.",
        "No dropout. Sample. Score, ask the reference, ask the actor for values, all at `config.temperature`. Shape "
        "the rewards, (4) and (5); GAE; whiten. Then `config.epochs` times: a random order of the rows, cut into "
        "`config.minibatches` parts; for each part the actor's new log-probabilities and values, the two clipped "
        "losses, one `descend`. Return what you have under the names that the docstring gives.",
        "actor.eval()\n"
        "answers = sample(actor.policy, prompts, prompt_mask, config.max_new_tokens, config.temperature, generator)\n"
        "mask = answers.response_mask\n"
        "with torch.no_grad():\n"
        "    scores, ref_log_probs = reward(answers), ...\n"
        "    _, values = actor(answers, config.temperature)\n"
        "rewards = ...\n"
        "advantages, returns = gae(rewards, values, mask, config.gamma, config.lam)\n"
        "whitened = ...\n"
        "for _ in range(config.epochs):\n"
        "    for rows in torch.randperm(len(answers), generator=generator).chunk(config.minibatches):\n"
        "        part = answers.rows(rows)\n"
        "        log_probs, new_values = actor(part, config.temperature)\n"
        "        loss = ...\n"
        "        descend(loss, actor, optimizer)",
    ),
)

# --- predictions ----------------------------------------------------------------------------------------------------

p1 = Prediction(
    "While PPO trains with β = 0.05, what will the gold reward and the KL do?",
    (
        "gold stays, since PPO never sees it.",
        "gold rises, and so does the KL, as fast at the end as at the start.",
        "gold rises, and the KL rises at first and then stays at a few nats.",
    ),
    answer=2,
    meanings=(
        "Then the reward model would have learned nothing of what people want.",
        "So it may go without a price on KL: section 4.",
        "The reward model learned from people's choices, so near the SFT model its score and the gold reward rise "
        "together. And a nat costs β, so far out a further nat brings less than it costs; besides, the learning rate "
        "falls to 0.",
    ),
)
p2 = Prediction(
    "A tenth of β, and 100 steps instead of 40: what will proxy and gold do on held-out prompts?",
    ("proxy higher, gold lower.", "both higher.", "both lower."),
    answer=0,
    meanings=(
        "The policy reaches answers that the reward model has never seen compared. Its score there is a guess, and PPO "
        "looks for the guesses that are too high.",
        "So it would be if the reward model were right everywhere.",
        "Then the policy would have learned its training prompts by heart, or training would have gone astray.",
    ),
)
p3 = Prediction(
    "The score is paid one slot after the EOS. What does the dashboard show?",
    (
        "the score rises, but more slowly.",
        "the score stays near its start, and the KL near 0.",
        "the ratio at the first pass is not 1.",
    ),
    answer=1,
    meanings=(
        "Then some of the score would still reach the policy. After the EOS there is no token, so none does.",
        "After the EOS there is no token, so GAE drops the score. What is left to learn from is the leash alone, and "
        "its optimum is the SFT model itself.",
        "The ratio is about probabilities, and these are as they should be: a wrong *reward* never shows there.",
    ),
)
