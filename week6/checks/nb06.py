"""Questions of notebook 06, DPO: the reward model inside the language model."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from week6.checks.capstone import Capstone
from week6.checks.cases import whole
from week6.checks.dpo_capstone import STEPS, figures, run
from week6.checks.dpo_symptoms import SYMPTOMS
from week6.checks.engine import Misconception, Prediction, Question
from week6.dpo import DPOConfig, pair_log_probs, reference_log_probs
from week6.log_probs import token_log_probs
from week6.machine.optim import descend, minibatch
from week6.sequences import Pairs

# --- 6.1 · log-probability of an answer -----------------------------------------------------------------------------


def answer_log_prob(
    logits: Float[Tensor, "B L V"], tokens: Int[Tensor, "B L"], response_mask: Bool[Tensor, "B L"]
) -> Float[Tensor, " B"]:
    """log π(y|x) in nats: the sum over the answer's tokens; column c of the logits predicts the token in c + 1."""
    log_probs = logits[:, :-1].log_softmax(-1)
    of_tokens = log_probs.gather(-1, tokens[:, 1:].unsqueeze(-1)).squeeze(-1)
    return torch.where(response_mask[:, 1:], of_tokens, 0.0).sum(-1)


def _rows(g: torch.Generator) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Prompts of several lengths (padded on the left or right), answers of several lengths, garbage at padding."""
    first = torch.zeros(4, 9, dtype=torch.bool)
    for row, (start, end) in enumerate(((3, 7), (2, 9), (4, 5), (3, 6))):
        first[row, start:end] = True
    second = torch.tensor([[False, True, True, True], [False, False, True, False]])
    third = torch.tensor([[False, True, True]])

    def drawn() -> Tensor:
        """Answers of at least one token, anywhere but in column 0."""
        rows, width = whole(g, 1, 6), 2 + whole(g, 1, 6)
        start = torch.randint(1, width, (rows, 1), generator=g)
        column = torch.arange(width)
        return (column >= start) & (column < start + torch.randint(1, width, (rows, 1), generator=g))

    cases = [
        (
            2 * torch.randn(*mask.shape, vocabulary, generator=g, dtype=torch.float64),
            torch.randint(vocabulary, mask.shape, generator=g),
            mask,
        )
        for mask, vocabulary in ((first, 11), (second, 5), (third, 3), (drawn(), 1 + whole(g, 1, 6)), (drawn(), 4))
    ]
    improbable = torch.tensor([[[0.0, 1000.0, -1000.0]] * 3], dtype=torch.float64)  # its softmax is exactly 0, 1, 0
    return [*cases, (improbable, torch.tensor([[1, 0, 2]]), third)]


def _shifted(logits: Tensor, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """log-probabilities of the tokens from column 1 on, with 0 outside the answer, and the mask of these columns."""
    return torch.where(mask[:, 1:], token_log_probs(logits[:, :-1], tokens[:, 1:]), 0.0), mask[:, 1:]


def _mean_over_answer(logits: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
    of_tokens, kept = _shifted(logits, tokens, mask)
    return of_tokens.sum(-1) / kept.sum(-1)


def _without_end(logits: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
    of_tokens, kept = _shifted(logits, tokens, mask)
    is_last = kept & (kept.cumsum(-1) == kept.sum(-1, keepdim=True))
    return of_tokens.masked_fill(is_last, 0.0).sum(-1)


def _without_first(logits: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
    of_tokens, kept = _shifted(logits, tokens, mask)
    return of_tokens.masked_fill(kept & (kept.cumsum(-1) == 1), 0.0).sum(-1)


def _after_the_prompt(logits: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
    of_tokens = token_log_probs(logits[:, :-1], tokens[:, 1:])
    return torch.where(mask[:, 1:].cumsum(-1) > 0, of_tokens, 0.0).sum(-1)


q1 = Question(
    title="6.1 Log-probability of an answer",
    reference=answer_log_prob,
    cases=_rows,
    grad_args=(0,),
    hints=(
        "Which column of the logits predicts the first token of the answer? And which columns belong to no answer"
        " at all?",
        "Column c predicts the token of column c + 1, so logits[:, :-1] belong to tokens[:, 1:], and so does "
        "response_mask[:, 1:]. (6) is then a sum over the columns where the mask is True.",
        "Drop the last column of the logits, and take the log-softmax over the words. Drop the first column of "
        "the tokens, and pick each token's entry (gather). Set to 0 what is no answer, with the mask without its "
        "first column. Sum over the columns.",
        "log_probs = logits[:, :-1].log_softmax(-1)\n"
        "of_tokens = log_probs.gather(-1, ...).squeeze(-1)\n"
        "return torch.where(..., of_tokens, 0.0).sum(-1)",
    ),
    misconceptions=(
        Misconception(
            "no shift",
            lambda logits, tokens, mask: torch.where(mask, token_log_probs(logits, tokens), 0.0).sum(-1),
            "You read each token's log-probability in its own column. The output in column c predicts the token in "
            "column c + 1 (first trap): take logits[:, :-1] and tokens[:, 1:].",
        ),
        Misconception(
            "shift the wrong way",
            lambda logits, tokens, mask: torch.where(
                mask[:, :-1], token_log_probs(logits[:, 1:], tokens[:, :-1]), 0.0
            ).sum(-1),
            "Your shift goes the wrong way: you score each token with the output that comes after it. Column c "
            "predicts column c + 1, so the logits lose their last column and the tokens their first.",
        ),
        Misconception(
            "mask not shifted",
            lambda logits, tokens, mask: torch.where(
                mask[:, :-1], token_log_probs(logits[:, :-1], tokens[:, 1:]), 0.0
            ).sum(-1),
            "Logits and tokens are shifted rightly, but the mask is one column off: it belongs to the tokens, so it is "
            "response_mask[:, 1:]. Yours leaves out the first token of the answer, and counts one after its end.",
        ),
        Misconception(
            "mean",
            _mean_over_answer,
            "You averaged over the tokens. The probability of an answer is a product, so its logarithm in (6) is a "
            "sum: do not divide by the length.",
        ),
        Misconception(
            "mean over columns",
            lambda logits, tokens, mask: _shifted(logits, tokens, mask)[0].mean(-1),
            "You took the mean over all columns, padding included. (6) is a sum over the answer's tokens.",
        ),
        Misconception(
            "prompt and padding counted",
            lambda logits, tokens, mask: token_log_probs(logits[:, :-1], tokens[:, 1:]).sum(-1),
            "You added up all columns. The prompt is given and padding is nothing: only tokens where response_mask is "
            "True belong to log π(y | x) (second trap).",
        ),
        Misconception(
            "padding counted",
            _after_the_prompt,
            "The prompt is left out, but padding after the answer is counted. Use the mask, not only the place where "
            "the answer begins.",
        ),
        Misconception(
            "end token left out",
            _without_end,
            "The last token of each answer is missing. The end token is part of the answer: whether to stop is a "
            "decision of the policy too.",
        ),
        Misconception(
            "first token left out",
            _without_first,
            "The first token of each answer is missing. It is predicted by the last column of the prompt, which "
            "must not be cut off.",
        ),
        Misconception(
            "no softmax",
            lambda logits, tokens, mask: torch.where(
                mask[:, 1:], logits[:, :-1].gather(-1, tokens[:, 1:, None]).squeeze(-1), 0.0
            ).sum(-1),
            "You added up raw logits. They are not log-probabilities: take log_softmax over the vocabulary first.",
        ),
        Misconception(
            "probabilities added",
            lambda logits, tokens, mask: torch.where(
                mask[:, 1:], logits[:, :-1].softmax(-1).gather(-1, tokens[:, 1:, None]).squeeze(-1), 0.0
            ).sum(-1),
            "You added up probabilities. Probabilities of tokens are multiplied; what is added in (6) are their "
            "logarithms: log_softmax.",
        ),
        Misconception(
            "underflow",
            lambda logits, tokens, mask: torch.where(
                mask[:, 1:], logits[:, :-1].softmax(-1).log().gather(-1, tokens[:, 1:, None]).squeeze(-1), 0.0
            ).sum(-1),
            "Right on paper, but the softmax of a very improbable token is exactly 0 in the computer, and its "
            "logarithm −inf. log_softmax takes both at once and stays finite.",
        ),
        Misconception(
            "likeliest token",
            lambda logits, tokens, mask: torch.where(mask[:, 1:], logits[:, :-1].log_softmax(-1).amax(-1), 0.0).sum(-1),
            "You take the likeliest token of each place. The answer is given: pick the log-probability of *its* token, "
            "with gather.",
        ),
        Misconception(
            "probability",
            lambda logits, tokens, mask: _shifted(logits, tokens, mask)[0].sum(-1).exp(),
            "You returned π(y | x). Its logarithm is wanted: leave out the exp.",
        ),
        Misconception(
            "negative",
            lambda logits, tokens, mask: -_shifted(logits, tokens, mask)[0].sum(-1),
            "Your sign is flipped: that is the cross-entropy loss of the answer. A log-probability is never above 0.",
        ),
        Misconception(
            "softmax over the columns",
            lambda logits, tokens, mask: torch.where(
                mask[:, 1:], logits[:, :-1].log_softmax(1).gather(-1, tokens[:, 1:, None]).squeeze(-1), 0.0
            ).sum(-1),
            "Your softmax runs over the columns. At each place the *words* compete: the last axis, log_softmax(-1).",
        ),
        Misconception(
            "per token",
            lambda logits, tokens, mask: _shifted(logits, tokens, mask)[0],
            "You return one number for each token. (6) adds them up: one number a row, .sum(-1).",
        ),
        Misconception(
            "rows added",
            lambda logits, tokens, mask: _shifted(logits, tokens, mask)[0].sum(),
            "You added up the rows too. Each row is an answer of its own: sum over the last axis only.",
        ),
    ),
)

# --- 6.2 · implicit reward ------------------------------------------------------------------------------------------


def reward_inside(
    log_probs: Float[Tensor, "*B"], ref_log_probs: Float[Tensor, "*B"], beta: float
) -> Float[Tensor, "*B"]:
    """r̂ = β log(π / π_ref), in reward units."""
    return beta * (log_probs - ref_log_probs)


def _log_probs(g: torch.Generator, *shape: int) -> Tensor:
    return 3 * torch.randn(shape, generator=g, dtype=torch.float64) - 10


q2 = Question(
    title="6.2 The implicit reward",
    reference=reward_inside,
    cases=lambda g: [
        (_log_probs(g, 5), _log_probs(g, 5), 0.1),
        (_log_probs(g, 3, 4), _log_probs(g, 3, 4), 2.0),
        (_log_probs(g), _log_probs(g), 0.5),
        (_log_probs(g, n := whole(g, 1, 6)), _log_probs(g, n), 0.3),
        (_log_probs(g, 2, n) - 1000.0, _log_probs(g, 2, n) - 1000.0, 1.5),  # long answers: their exp is 0
    ],
    grad_args=(0,),
    hints=(
        "What is the logarithm of a quotient, if you have the logarithms of both numbers?",
        "log(π/π_ref) = log π − log π_ref, so (4) needs no exp, and nothing can overflow or underflow.",
        "Subtract the reference's log-probability from the policy's, times β. Each number for itself: the shape stays.",
        "return beta * (... - ...)",
    ),
    misconceptions=(
        Misconception(
            "sign",
            lambda log_p, log_ref, beta: beta * (log_ref - log_p),
            "Reference over policy: in (4) the policy is on top. An answer that became *more* likely has a reward "
            "above 0.",
        ),
        Misconception(
            "reference forgotten",
            lambda log_p, log_ref, beta: beta * log_p,
            "The reference is missing: β log π alone calls every rare answer bad. (4) asks how much *more* likely the "
            "policy makes it than π_ref does.",
        ),
        Misconception(
            "beta forgotten",
            lambda log_p, log_ref, beta: log_p - log_ref,
            "β is missing. It turns nats into reward units, see step 2: both sides of (2) are multiplied by β.",
        ),
        Misconception(
            "divided by beta",
            lambda log_p, log_ref, beta: (log_p - log_ref) / beta,
            "You divide by β. In (2) it is r that stands over β; solved for r, β multiplies the log-ratio (3).",
        ),
        Misconception(
            "ratio of logarithms",
            lambda log_p, log_ref, beta: beta * log_p / log_ref,
            "You divided the logarithms. The logarithm of a quotient is the *difference* of the logarithms.",
        ),
        Misconception(
            "ratio",
            lambda log_p, log_ref, beta: beta * (log_p - log_ref).exp(),
            "That is β π/π_ref. In (4) there is a logarithm: leave out the exp.",
        ),
        Misconception(
            "logarithm of a logarithm",
            lambda log_p, log_ref, beta: beta * (log_p / log_ref).log(),
            "The inputs are logarithms already: log(log π / log π_ref) takes the logarithm twice.",
        ),
        Misconception(
            "beta on the policy only",
            lambda log_p, log_ref, beta: beta * log_p - log_ref,
            "β multiplies the policy's part only. In (4) it stands before the whole logarithm: use brackets.",
        ),
        Misconception(
            "probabilities subtracted",
            lambda log_p, log_ref, beta: beta * (log_p.exp() - log_ref.exp()),
            "You subtract probabilities. (4) has the logarithm of their ratio: subtract the log-probabilities.",
        ),
        Misconception(
            "weighted by the probability",
            lambda log_p, log_ref, beta: beta * log_p.exp() * (log_p - log_ref),
            "You weight by π, as in a KL. The reward of *one* answer has no weight; the average over answers has.",
        ),
        Misconception(
            "underflow",
            lambda log_p, log_ref, beta: beta * (log_p.exp() / log_ref.exp()).log(),
            "Right on paper, but a long answer has a log-probability of −1000, whose exp is 0 in the computer, and 0/0 "
            "is nan. Subtract the logarithms; no exp is needed.",
        ),
        Misconception(
            "absolute value",
            lambda log_p, log_ref, beta: beta * (log_p - log_ref).abs(),
            "You dropped the sign. An answer that became *less* likely than under the reference has a reward below 0.",
        ),
        Misconception(
            "held above zero",
            lambda log_p, log_ref, beta: (beta * (log_p - log_ref)).clamp(min=0),
            "You cut off rewards below 0. An answer that became less likely than under the reference has one: keep it.",
        ),
        Misconception(
            "averaged",
            lambda log_p, log_ref, beta: beta * (log_p - log_ref).mean(),
            "You averaged. Each answer (or token) has a reward of its own: the shape stays as it is.",
        ),
        Misconception(
            "detached",
            lambda log_p, log_ref, beta: beta * (log_p - log_ref).detach(),
            "The value is right, but cut off from the policy (`.detach()`, `.item()`, `.data` or NumPy): the loss of "
            "section 3 is built on it, and its gradient must reach `log_probs`.",
        ),
        Misconception(
            "summed",
            lambda log_p, log_ref, beta: beta * (log_p - log_ref).sum(-1) if log_p.ndim else beta * (log_p - log_ref),
            "You summed over an axis. Each answer (or token) has a reward of its own: the shape stays as it is.",
        ),
        Misconception(
            "sigmoid",
            lambda p, ref, beta: torch.sigmoid(beta * (p - ref)),
            "You put a sigmoid on the reward. (4) has none: it comes with the loss, on the difference of two rewards.",
        ),
    ),
)

# --- 6.3 · the loss -------------------------------------------------------------------------------------------------


def preference_loss(
    policy_chosen: Float[Tensor, " B"],
    policy_rejected: Float[Tensor, " B"],
    ref_chosen: Float[Tensor, " B"],
    ref_rejected: Float[Tensor, " B"],
    beta: float,
) -> Float[Tensor, " B"]:
    """−log σ(r̂_w − r̂_l) of each pair, in nats: Bradley–Terry on implicit rewards."""
    h = (policy_chosen - ref_chosen) - (policy_rejected - ref_rejected)
    return -F.logsigmoid(beta * h)


def _four(g: torch.Generator) -> list[tuple[object, ...]]:
    far = torch.tensor([1e4, -1e4, 3.0], dtype=torch.float64)
    near = _log_probs(g, 3)
    return [
        (_log_probs(g, 6), _log_probs(g, 6), _log_probs(g, 6), _log_probs(g, 6), 0.1),
        (_log_probs(g, 4), _log_probs(g, 4), _log_probs(g, 4), _log_probs(g, 4), 0.7),
        (near + far, near, near - 1.0, near + 0.5, 0.1),
        (*(_log_probs(g, n) for n in [whole(g, 1, 6)] * 4), 0.05 + float(torch.rand((), generator=g))),
        (*(_log_probs(g, 1) for _ in range(4)), 1.5),
        (*(_log_probs(g, 2) - 1000.0 for _ in range(4)), 0.2),  # long answers: their exp is 0
    ]


def _h(pw: Tensor, pl: Tensor, rw: Tensor, rl: Tensor) -> Tensor:
    return (pw - rw) - (pl - rl)


q3 = Question(
    title="6.3 The DPO loss",
    reference=preference_loss,
    cases=_four,
    grad_args=(0, 1),
    hints=(
        "Which loss did notebook 01 have for a pair of rewards? And what is the reward here?",
        "The loss is −log σ(r̂_w − r̂_l): Bradley and Terry with the implicit rewards (4). Each answer has its "
        "own reference: log π(y_w) − log π_ref(y_w), and the same with y_l.",
        "The implicit reward of the chosen answers, that of the rejected ones. Their difference, through "
        "`F.logsigmoid`, with a minus. No mean.",
        "chosen_reward = r_hat(policy_chosen, ref_chosen, beta)\nrejected_reward = ...\nreturn -F.logsigmoid(...)",
    ),
    misconceptions=(
        Misconception(
            "sign",
            lambda pw, pl, rw, rl, beta: F.logsigmoid(beta * _h(pw, pl, rw, rl)),
            "The minus in front is missing: that is a log-likelihood, to be maximised. A loss is minimised.",
        ),
        Misconception(
            "reference forgotten",
            lambda pw, pl, rw, rl, beta: -F.logsigmoid(beta * (pw - pl)),
            "The reference is missing. Without it nothing holds the policy near π_ref, and a chosen answer that is "
            "rare anyway looks badly ranked.",
        ),
        Misconception(
            "reference with the wrong sign",
            lambda pw, pl, rw, rl, beta: -F.logsigmoid(beta * ((pw - pl) + (rw - rl))),
            "The reference enters with the wrong sign, or the two references are crossed. In (9) each answer has its "
            "own: log π(y_w) − log π_ref(y_w), and the same with y_l.",
        ),
        Misconception(
            "beta forgotten",
            lambda pw, pl, rw, rl, beta: -F.logsigmoid(_h(pw, pl, rw, rl)),
            "β is missing inside the sigmoid: the margin is β h, not h.",
        ),
        Misconception(
            "beta outside",
            lambda pw, pl, rw, rl, beta: -beta * F.logsigmoid(_h(pw, pl, rw, rl)),
            "β stands outside the logarithm. In (9) it is inside the sigmoid, a part of the reward; outside it would "
            "only change the learning rate.",
        ),
        Misconception(
            "beta divides",
            lambda pw, pl, rw, rl, beta: -F.logsigmoid(_h(pw, pl, rw, rl) / beta),
            "You divide by β. The implicit reward (4) is β *times* the log-ratio.",
        ),
        Misconception(
            "sigmoid without logarithm",
            lambda pw, pl, rw, rl, beta: -torch.sigmoid(beta * _h(pw, pl, rw, rl)),
            "You left out the logarithm: −σ is no likelihood. Maximum likelihood needs −log σ, see step 4.",
        ),
        Misconception(
            "overflow",
            lambda pw, pl, rw, rl, beta: torch.log(1 + torch.exp(-beta * _h(pw, pl, rw, rl))),
            "Right on paper, but for a margin of −1000 the exp overflows, or σ is exactly 0 in the computer, and the "
            "loss is inf. Use F.logsigmoid.",
        ),
        Misconception(
            "ratios taken by exp",
            lambda pw, pl, rw, rl, beta: (
                -F.logsigmoid(beta * ((pw.exp() / rw.exp()).log() - (pl.exp() / rl.exp()).log()))
            ),
            "Right on paper, but you take an exp and then a logarithm. A long answer has a log-probability of −1000: "
            "its exp is 0 in the computer, and 0/0 is nan. Subtract the log-probabilities.",
        ),
        Misconception(
            "beta on the policy only",
            lambda pw, pl, rw, rl, beta: -F.logsigmoid(beta * (pw - pl) - (rw - rl)),
            "β multiplies the policy's part only. In (9) it stands before the whole bracket, the reference included.",
        ),
        Misconception(
            "policy and reference swapped",
            lambda pw, pl, rw, rl, beta: -F.logsigmoid(beta * ((rw - pw) - (rl - pl))),
            "Your margin has the wrong sign: either policy and reference are swapped, or chosen and rejected. In (9) "
            "log π_θ comes first, and y_w before y_l.",
        ),
        Misconception(
            "margin held at 50",
            lambda pw, pl, rw, rl, beta: -F.logsigmoid((beta * _h(pw, pl, rw, rl)).clamp(-50, 50)),
            "You clamp the margin: beyond the limit the loss is wrong and its gradient 0, so the worst pairs pull no "
            "more. F.logsigmoid needs no clamp.",
        ),
        Misconception(
            "policy detached",
            lambda pw, pl, rw, rl, beta: -F.logsigmoid(beta * _h(pw.detach(), pl.detach(), rw, rl)),
            "The value is right, but no gradient reaches the policy: the loss could train nothing. Only the reference "
            "is data.",
        ),
        Misconception(
            "rejected detached",
            lambda pw, pl, rw, rl, beta: -F.logsigmoid(beta * _h(pw, pl.detach(), rw, rl)),
            "The value is right, but no gradient reaches `policy_rejected`: the rejected answer must be pushed down.",
        ),
        Misconception(
            "margin of at least one",
            lambda pw, pl, rw, rl, beta: torch.relu(1 - beta * _h(pw, pl, rw, rl)),
            "That is the hinge loss of a support vector machine. Maximum likelihood gives −log σ of the margin, (9).",
        ),
        Misconception(
            "mean",
            lambda pw, pl, rw, rl, beta: -F.logsigmoid(beta * _h(pw, pl, rw, rl)).mean(),
            "You averaged over the batch. One loss for each pair is asked for: the mean comes later.",
        ),
        Misconception(
            "each answer alone",
            lambda pw, pl, rw, rl, beta: -F.logsigmoid(beta * (pw - rw)) - F.logsigmoid(-beta * (pl - rl)),
            "You put each reward into a sigmoid of its own. That compares each answer with 0, and β log Z(x) does not "
            "cancel; (9) has one sigmoid, of the difference.",
        ),
        Misconception(
            "hinge",
            lambda pw, pl, rw, rl, beta: torch.relu(-beta * _h(pw, pl, rw, rl)),
            "Your loss is 0 as soon as the pair is ranked rightly. −log σ is smooth and goes on: at margin 0 it is "
            "still log 2.",
        ),
        Misconception(
            "loss of the reference subtracted",
            lambda pw, pl, rw, rl, beta: F.logsigmoid(beta * (rw - rl)) - F.logsigmoid(beta * (pw - pl)),
            "You subtract the reference's loss from the policy's. In (9) the reference is subtracted *inside* the "
            "sigmoid, from each log-probability.",
        ),
        Misconception(
            "chosen only",
            lambda pw, pl, rw, rl, beta: -F.logsigmoid(beta * (pw - rw)),
            "The rejected answer is missing. (9) compares two answers.",
        ),
        Misconception(
            "ratios of probabilities",
            lambda pw, pl, rw, rl, beta: -F.logsigmoid(beta * ((pw - rw).exp() - (pl - rl).exp())),
            "You use π/π_ref itself. The implicit reward (4) is β times its *logarithm*: no exp.",
        ),
        Misconception(
            "beta on the chosen answer only",
            lambda pw, pl, rw, rl, beta: -F.logsigmoid(beta * (pw - rw) - (pl - rl)),
            "β multiplies the chosen answer's log-ratio only: put brackets around the difference. In (9) it stands "
            "before the whole of h.",
        ),
        Misconception(
            "IPO",
            lambda pw, pl, rw, rl, beta: (_h(pw, pl, rw, rl) - 1 / (2 * beta)) ** 2,
            "That is IPO's square, which comes in section 8. (9) is −log σ of the margin.",
        ),
    ),
)

# --- 6.4 · the weight -----------------------------------------------------------------------------------------------


def pull(chosen_rewards: Float[Tensor, " B"], rejected_rewards: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """How hard each pair pulls, between 0 and 1: σ(r̂_l − r̂_w)."""
    return torch.sigmoid(rejected_rewards - chosen_rewards)


q4 = Question(
    title="6.4 The weight",
    reference=pull,
    cases=lambda g: [
        (2 * torch.randn(7, generator=g, dtype=torch.float64), 2 * torch.randn(7, generator=g, dtype=torch.float64)),
        (torch.tensor([1000.0, -1000.0, 0.0]), torch.tensor([-1000.0, 1000.0, 0.0])),
        (5 * torch.randn(n := whole(g, 1, 6), generator=g), 5 * torch.randn(n, generator=g)),
        (torch.randn(1, generator=g), torch.randn(1, generator=g)),
    ],
    hints=(
        "For which pair should the weight be near 1: one that is ranked rightly, or wrongly?",
        "(12): the weight is σ(r̂_l − r̂_w), one half where the rewards are equal, near 1 where the rejected "
        "answer has the larger one.",
        "Rejected reward minus chosen reward, through a sigmoid. One number a pair.",
        "return torch.sigmoid(...)",
    ),
    misconceptions=(
        Misconception(
            "wrong sign inside",
            lambda won, lost: torch.sigmoid(won - lost),
            "You computed σ(r̂_w − r̂_l): large where the pair is ranked *rightly*. By (12) the weight is σ(r̂_l − r̂_w).",
        ),
        Misconception(
            "derivative of the sigmoid",
            lambda won, lost: torch.sigmoid(won - lost) * torch.sigmoid(lost - won),
            "That is the derivative of σ. (12) needs the derivative of −log σ, which does not fade where the pair is "
            "far on the wrong side.",
        ),
        Misconception(
            "with its minus",
            lambda won, lost: -torch.sigmoid(lost - won),
            "The minus of (12) is not part of the weight: in (14) it stands in front.",
        ),
        Misconception(
            "log sigmoid",
            lambda won, lost: -F.logsigmoid(won - lost),
            "That is the loss. The weight is its (negative) derivative by the margin: a sigmoid without logarithm.",
        ),
        Misconception(
            "log of the weight",
            lambda won, lost: F.logsigmoid(lost - won),
            "You returned the logarithm of the weight: torch.sigmoid instead of F.logsigmoid.",
        ),
        Misconception(
            "difference",
            lambda won, lost: lost - won,
            "You returned the difference itself. The weight lies between 0 and 1: put it through a sigmoid.",
        ),
        Misconception(
            "half of it",
            lambda won, lost: 0.5 * torch.sigmoid(lost - won),
            "Your weight is half of the right one. β stands in front of (14), not in the weight: the rewards contain "
            "it already.",
        ),
        Misconception(
            "slope doubled",
            lambda won, lost: torch.sigmoid(2 * (lost - won)),
            "Your curve is twice as steep. σ(u) is ½ (1 + tanh(u/2)): mind the half inside. torch.sigmoid is safer.",
        ),
        Misconception(
            "two sigmoids",
            lambda won, lost: torch.sigmoid(lost) - torch.sigmoid(won),
            "You put each reward into a sigmoid of its own. Single rewards have no zero; (12) has one sigmoid, of the "
            "difference.",
        ),
        Misconception(
            "step",
            lambda won, lost: (lost > won).to(won.dtype),
            "You count wrongly ranked pairs. The weight is smooth: a pair that is ranked rightly by a little still "
            "pulls.",
        ),
        Misconception(
            "mean",
            lambda won, lost: torch.sigmoid(lost - won).mean(),
            "You averaged over the batch. One weight for each pair is asked for.",
        ),
        Misconception(
            "softmax over the batch",
            lambda won, lost: (lost - won).softmax(-1),
            "Your weights sum to 1 over the batch, so one pair changes the weight of another. In (14) each pair has "
            "its own sigmoid.",
        ),
        Misconception(
            "overflow",
            lambda won, lost: (lost - won).exp() / (1 + (lost - won).exp()),
            "Right on paper, but exp(2000)/exp(2000) is nan in the computer. torch.sigmoid takes care of it.",
        ),
    ),
)

# --- 6.5 · two variants ---------------------------------------------------------------------------------------------


def variants(h: Float[Tensor, " B"], beta: float, epsilon: float) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
    """(cDPO loss with flip rate ε, IPO loss) of each pair, from the difference h of the log-ratios in nats."""
    margin = beta * h
    cdpo = -(1 - epsilon) * F.logsigmoid(margin) - epsilon * F.logsigmoid(-margin)
    ipo = (h - 1 / (2 * beta)) ** 2
    return cdpo, ipo


def _differences(g: torch.Generator) -> list[tuple[Tensor, float, float]]:
    return [
        (4 * torch.randn(6, generator=g, dtype=torch.float64), 0.3, 0.1),
        (4 * torch.randn(4, generator=g, dtype=torch.float64), 2.0, 0.0),
        (torch.tensor([2000.0, -2000.0, 0.5], dtype=torch.float64), 0.7, 0.3),
        *(
            (
                5 * torch.randn(whole(g, 1, 6), generator=g, dtype=torch.float64),
                beta,
                0.45 * float(torch.rand((), generator=g)),
            )
            for beta in (0.15, 1.2)
        ),
    ]


q5 = Question(
    title="6.5 Two variants",
    reference=variants,
    cases=_differences,
    grad_args=(0,),
    hints=(
        "Under (18), what is the loss of a pair whose label was flipped? And where is h, and where βh, in the two"
        " equations?",
        "A flipped label turns the sign *inside*: −log σ(−m), with weight ε. The other term has weight 1 − ε. In "
        "(19) stands h itself, in nats, and its target 1/(2β).",
        "The margin m = βh. cDPO: minus (1 − ε) times logsigmoid of m, minus ε times logsigmoid of −m. IPO: h "
        "minus 1/(2β), squared. Return both, in this order.",
        "margin = beta * h\ncdpo = -(1 - epsilon) * F.logsigmoid(margin) - ...\nipo = (...) ** 2\nreturn cdpo, ipo",
    ),
    misconceptions=(
        Misconception(
            "robust DPO",
            lambda h, beta, e: (
                (-(1 - e) * F.logsigmoid(beta * h) + e * F.logsigmoid(-beta * h)) / (1 - 2 * e),
                (h - 1 / (2 * beta)) ** 2,
            ),
            "IPO is right. Your first loss is another repair, which *subtracts* the flipped labels and divides by "
            "1 − 2ε. In (18) both terms have a minus, and nothing is divided.",
        ),
        Misconception(
            "both averaged",
            lambda h, beta, e: tuple(loss.mean() for loss in variants(h, beta, e)),
            "You averaged over the batch. One number for each pair is asked for.",
        ),
        Misconception(
            "minus forgotten",
            lambda h, beta, e: (-variants(h, beta, e)[0], variants(h, beta, e)[1]),
            "IPO is right. The minus signs of (18) are missing: yours is a log-likelihood, to be maximised.",
        ),
        Misconception(
            "half a square",
            lambda h, beta, e: (variants(h, beta, e)[0], 0.5 * (h - 1 / (2 * beta)) ** 2),
            "cDPO is right. (19) has no ½ in front of the square.",
        ),
        Misconception(
            "sigmoid for its logarithm",
            lambda h, beta, e: (
                1 - ((1 - e) * F.logsigmoid(beta * h) + e * F.logsigmoid(-beta * h)),
                (h - 1 / (2 * beta)) ** 2,
            ),
            "IPO is right. Your cDPO has 1 minus the logarithms: leave out the 1.",
        ),
        Misconception(
            "h detached",
            lambda h, beta, e: (variants(h.detach(), beta, e)[0], variants(h, beta, e)[1]),
            "The values are right, but no gradient reaches `h` through cDPO: it could train nothing.",
        ),
        Misconception(
            "plain DPO",
            lambda h, beta, e: (-F.logsigmoid(beta * h), (h - 1 / (2 * beta)) ** 2),
            "IPO is right, but ε has no effect in your first loss: with probability ε the label was flipped, and then "
            "the loss is −log σ(−m). (With σ(m) in both terms, ε drops out.)",
        ),
        Misconception(
            "weights swapped",
            lambda h, beta, e: (
                -e * F.logsigmoid(beta * h) - (1 - e) * F.logsigmoid(-beta * h),
                (h - 1 / (2 * beta)) ** 2,
            ),
            "IPO is right. In your cDPO the weights are swapped: the label is *kept* with probability 1 − ε.",
        ),
        Misconception(
            "second term with the wrong sign",
            lambda h, beta, e: (
                -(1 - e) * F.logsigmoid(beta * h) + e * F.logsigmoid(-beta * h),
                (h - 1 / (2 * beta)) ** 2,
            ),
            "IPO is right. In your cDPO the flipped labels are rewarded: both terms of (18) have a minus.",
        ),
        Misconception(
            "sign outside instead of inside",
            lambda h, beta, e: (-(1 - 2 * e) * F.logsigmoid(beta * h), (h - 1 / (2 * beta)) ** 2),
            "IPO is right. In your cDPO the second term has +ε log σ(m). A flipped label turns the sign *inside*: "
            "−ε log σ(−m).",
        ),
        Misconception(
            "half of epsilon",
            lambda h, beta, e: (variants(h, beta, e / 2)[0], (h - 1 / (2 * beta)) ** 2),
            "IPO is right. Your cDPO uses ε/2, as label smoothing in classification does. In (18) ε itself is the "
            "share of flipped labels.",
        ),
        Misconception(
            "smoothed margin",
            lambda h, beta, e: (-F.logsigmoid((1 - 2 * e) * beta * h), (h - 1 / (2 * beta)) ** 2),
            "IPO is right. In cDPO you shrink the margin; (18) mixes the *losses* of the two possible labels.",
        ),
        Misconception(
            "beta forgotten in cDPO",
            lambda h, beta, e: (
                -(1 - e) * F.logsigmoid(h) - e * F.logsigmoid(-h),
                (h - 1 / (2 * beta)) ** 2,
            ),
            "IPO is right. In your cDPO β is missing: m = βh.",
        ),
        Misconception(
            "IPO in the margin",
            lambda h, beta, e: (variants(h, beta, e)[0], (beta * h - 1 / (2 * beta)) ** 2),
            "cDPO is right. In IPO the square is of h in nats, not of the margin βh.",
        ),
        Misconception(
            "IPO in reward units",
            lambda h, beta, e: (variants(h, beta, e)[0], (beta * h - 0.5) ** 2),
            "cDPO is right. Your IPO has its minimum at the right place, but (19) squares h itself, in nats²: yours "
            "is β² times as large.",
        ),
        Misconception(
            "half of beta",
            lambda h, beta, e: (variants(h, beta, e)[0], (h - beta / 2) ** 2),
            "cDPO is right. IPO's target is 1/(2β), not β/2: a large β keeps the policy *close*.",
        ),
        Misconception(
            "one over beta",
            lambda h, beta, e: (variants(h, beta, e)[0], (h - 1 / beta) ** 2),
            "cDPO is right. IPO's target is 1/(2β); yours is 1/β.",
        ),
        Misconception(
            "IPO with a plus",
            lambda h, beta, e: (variants(h, beta, e)[0], (h + 1 / (2 * beta)) ** 2),
            "cDPO is right. IPO has h *minus* its target: with a plus the rejected answer is preferred.",
        ),
        Misconception(
            "absolute distance",
            lambda h, beta, e: (variants(h, beta, e)[0], (h - 1 / (2 * beta)).abs()),
            "cDPO is right. IPO takes the square of the distance, not its absolute value.",
        ),
        Misconception(
            "order",
            lambda h, beta, e: variants(h, beta, e)[::-1],
            "Both losses are right, in the wrong order: (cDPO, IPO).",
        ),
        Misconception(
            "overflow",
            lambda h, beta, e: (
                -(1 - e) * torch.log(torch.sigmoid(beta * h)) - e * torch.log(torch.sigmoid(-beta * h)),
                (h - 1 / (2 * beta)) ** 2,
            ),
            "Right on paper, but σ(−1400) is 0 in the computer and log 0 is −inf. Use F.logsigmoid.",
        ),
        Misconception(
            "logarithm of the mixture",
            lambda h, beta, e: (
                -((1 - e) * torch.sigmoid(beta * h) + e * torch.sigmoid(-beta * h)).log(),
                (h - 1 / (2 * beta)) ** 2,
            ),
            "IPO is right. In your cDPO the two cases are mixed inside the logarithm. (18) has a logarithm for "
            "each, and mixes outside.",
        ),
    ),
)

# --- 6.6 · capstone: the training loop --------------------------------------------------------------------------------


def train_on_pairs(
    policy: nn.Module,
    reference: nn.Module,
    optimizer: torch.optim.Optimizer,
    pairs: Pairs,
    config: DPOConfig,
    seed: int,
) -> Iterator[dict[str, float]]:
    """DPO: trains `policy` in place; after each of `config.steps` steps yields its metrics, taken before its update."""
    policy.eval()  # no dropout
    ref_chosen, ref_rejected = reference_log_probs(reference, pairs)  # once, for all pairs
    for step in range(config.steps):
        rows = minibatch(len(pairs), config.batch_size, step, seed)
        chosen, rejected = pair_log_probs(policy, pairs.rows(rows))
        loss = preference_loss(chosen, rejected, ref_chosen[rows], ref_rejected[rows], config.beta).mean()
        chosen_reward = reward_inside(chosen.detach(), ref_chosen[rows], config.beta)
        rejected_reward = reward_inside(rejected.detach(), ref_rejected[rows], config.beta)
        descend(loss, policy, optimizer)
        margin = chosen_reward - rejected_reward
        yield {
            "loss": loss.item(),
            "margin": margin.mean().item(),
            "accuracy": (margin > 0).float().mean().item(),
            "chosen_reward": chosen_reward.mean().item(),
            "rejected_reward": rejected_reward.mean().item(),
        }


capstone = Capstone(
    title="6.6 Capstone: the training loop",
    reference=train_on_pairs,
    run=run,
    steps=STEPS,
    symptoms=SYMPTOMS,
    shows=figures,
    hints=(
        "Which of the four log-probabilities in (9) change while you train, and which do not?",
        "The reference never moves, so log π_ref of all pairs is computed once, before the loop, without gradient. The "
        "policy's two log-probabilities are computed anew for each minibatch, and the loss (9) is built on them.",
        "No dropout. Ask the reference about all pairs. Then `config.steps` times: the rows of this step, the policy's "
        "log-probabilities of these rows, the mean loss, one `descend`; and yield the metrics, made of the numbers "
        "that the loss was made of.",
        "policy.eval()\n"
        "ref_chosen, ref_rejected = ...\n"
        "for step in range(config.steps):\n"
        "    rows = minibatch(len(pairs), config.batch_size, step, seed)\n"
        "    chosen, rejected = pair_log_probs(policy, pairs.rows(rows))\n"
        "    loss = ...\n"
        "    margin = ...\n"
        "    descend(loss, policy, optimizer)\n"
        "    yield {'loss': loss.item(), 'margin': margin.mean().item(), ...: ...}",
    ),
)

# --- predictions ----------------------------------------------------------------------------------------------------

p1 = Prediction(
    "Eight answers of lengths 2 to 16, four good, four bad. What does training with mean log-probabilities do?",
    (
        "the four good answers get equal shares, as with sums.",
        "the good answer of 16 tokens gets most, the bad one of 16 tokens is wiped out.",
        "the short good answer gets most.",
    ),
    answer=1,
    meanings=(
        "So it would be if the length cancelled. But one mean is divided by 2 and another by 16.",
        "A mean asks for a log-ratio *per token*, so the log-ratio of the whole answer grows with its length: (11).",
        "That would punish length. A mean leaves a long answer more room to move, not less.",
    ),
)
p2 = Prediction(
    "PPO is told the reward of every answer, DPO only sees who won. Where does DPO with all pairs end?",
    (
        "farther from π* than the reference is: comparisons say nothing about sizes.",
        "at a sharper policy than π*, since it does not explore.",
        "at the same policy as PPO, up to a small distance.",
    ),
    answer=2,
    meanings=(
        "So it would be if a comparison were only an order. But how *often* one answer wins says how much better.",
        "Then its KL to the reference would be larger than that of π*. All pairs are labelled: there is nothing left "
        "to explore.",
        "The probabilities of all comparisons fix all differences of rewards, and π* needs no more than these.",
    ),
)
p3 = Prediction(
    "What will the implicit rewards of chosen and rejected answers do while DPO trains?",
    (
        "both end below 0, the rejected one far lower, and the margin grows.",
        "both rise, the chosen one faster.",
        "chosen rises above 0, rejected falls below 0, about equally far.",
    ),
    answer=0,
    meanings=(
        "Only their difference is trained. Why both go down is the subject of section 7.",
        "Half their sum is an average over answers of the SFT model: section 7 shows that it is never above 0.",
        "Then half their sum would stay at 0, and so would the distance from the SFT model: section 7, equation (16).",
    ),
)
p4 = Prediction(
    "What is the mean implicit reward of the chosen answers under the perfect policy π*, on pairs from π_ref?",
    (
        "above 0 at every β: chosen answers are better than average.",
        "below 0 at every β: probability has to come from somewhere.",
        "above 0 at a large β, below 0 at a small one.",
    ),
    answer=2,
    meanings=(
        "Better than the other one is not yet as good as what π* likes best, and at a small β only that keeps its "
        "probability.",
        "At a large β the policy hardly moves, and then the margin decides: chosen answers gain a little.",
        "By (17) it is half the margin, which is fixed, minus β KL(π_ref ‖ π*), which grows as β gets small.",
    ),
)
p5 = Prediction(
    "One pair, always the same label, 1,000 steps: where are the margins of DPO, cDPO (ε = 0.1) and IPO?",
    (
        "DPO still growing, cDPO at rest near 2.2, IPO at rest at 0.5.",
        "all three at the same value.",
        "all three still growing, at different speeds.",
    ),
    answer=0,
    meanings=(
        "−log σ has no minimum; the two others have one, at log(0.9/0.1) = 2.2 and at one half: (20).",
        "They would be if only the speed differed. But the three losses have their minimum at different places, or "
        "nowhere.",
        "So it is for DPO alone: a square, or a share of flipped labels, makes a margin that is too large cost more.",
    ),
)
