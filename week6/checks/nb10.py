"""Questions of notebook 10, the variants: what does each loss want?"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from week6.checks.bench_10 import GAP as GAP
from week6.checks.bench_10 import TOLERANCE as TOLERANCE
from week6.checks.capstone_10 import capstone as capstone
from week6.checks.cases import whole
from week6.checks.engine import Misconception, Prediction, Question

# --- 10.1 · IPO's optimum -------------------------------------------------------------------------------------------


def ipo_optimum(log_ref: Float[Tensor, " N"], preference: Float[Tensor, "N N"], beta: float) -> Float[Tensor, " N"]:
    """log π of IPO's best policy: π_ref(y) e^{w(y)/β} / Z, with w(y) the share of wins against answers of π_ref."""
    wins = preference @ log_ref.exp()
    return (log_ref + wins / beta).log_softmax(-1)


def _preferences(g: torch.Generator) -> list[tuple[Tensor, Tensor, float]]:
    """Preferences from rewards, and others that no rewards could give (a circle); one pair; β large and small."""
    cases = []
    for n, beta in ((3, 0.5), (2, 0.1), (5, 2.0), (whole(g, 2, 7), 0.2)):
        log_ref = (2 * torch.randn(n, generator=g, dtype=torch.float64)).log_softmax(-1)
        reward = 2 * torch.randn(n, generator=g, dtype=torch.float64)
        cases.append((log_ref, torch.sigmoid(reward[:, None] - reward[None, :]), beta))
    circle = torch.tensor([[0.5, 0.9, 0.2], [0.1, 0.5, 0.7], [0.8, 0.3, 0.5]], dtype=torch.float64)
    log_ref = torch.randn(3, generator=g, dtype=torch.float64).log_softmax(-1)
    return [*cases, (log_ref, circle, 0.3), (log_ref, circle, 1e-4)]  # the last one: e^{w/β} alone is infinite


def _tilted(log_ref: Tensor, exponent: Tensor) -> Tensor:
    return (log_ref + exponent).log_softmax(-1)


q1 = Question(
    title="10.1 IPO's optimum",
    name="best_for_ipo",
    reference=ipo_optimum,
    cases=_preferences,
    hints=(
        "Compare (4) with the best policy π* of notebook 03. Which quantity stands where the reward stood?",
        "The win rate takes the reward's place: w(y) = Σ_b π_ref(b) p(y ≻ b). Row y of `preference` holds p(y ≻ b) for "
        "every b, and the weights are the probabilities of the reference.",
        "First the weights: the exp of log_ref. Then for each row the weighted sum over the columns. Then log_ref plus "
        "w over β. At last make it a distribution, in logarithms: log_softmax subtracts log Z.",
        "wins = preference @ ...\nreturn (log_ref + wins / beta).log_softmax(...)",
    ),
    misconceptions=(
        Misconception(
            "uniform opponents",
            lambda log_ref, p, beta: _tilted(log_ref, p.mean(-1) / beta),
            "Your win rate takes all opponents as equally likely. In (4) they are drawn from π_ref: weigh the columns "
            "by its probabilities.",
        ),
        Misconception(
            "losses for wins",
            lambda log_ref, p, beta: _tilted(log_ref, p.T @ log_ref.exp() / beta),
            "You sum over the wrong axis: how often y *loses*. Row y holds p(y ≻ b), so the sum runs over the columns.",
        ),
        Misconception(
            "log-probabilities as weights",
            lambda log_ref, p, beta: _tilted(log_ref, p @ log_ref / beta),
            "Your weights are log-probabilities. An average has probabilities as its weights: log_ref.exp().",
        ),
        Misconception(
            "beta multiplies",
            lambda log_ref, p, beta: _tilted(log_ref, beta * (p @ log_ref.exp())),
            "You multiply by β. A large β must hold the policy near the reference: w is divided by it.",
        ),
        Misconception(
            "two beta",
            lambda log_ref, p, beta: _tilted(log_ref, p @ log_ref.exp() / (2 * beta)),
            "You divide by 2β. The target of *one* pair is 1/(2β), but it is met with 2p − 1, and the 2 cancels.",
        ),
        Misconception(
            "reference forgotten",
            lambda log_ref, p, beta: _tilted(torch.zeros_like(log_ref), p @ log_ref.exp() / beta),
            "π_ref is missing in front of the exponential: h is a difference of log-*ratios*.",
        ),
        Misconception(
            "not normalised",
            lambda log_ref, p, beta: log_ref + p @ log_ref.exp() / beta,
            "Your probabilities do not sum to 1: Z is missing. log_softmax subtracts its logarithm.",
        ),
        Misconception(
            "probabilities",
            lambda log_ref, p, beta: _tilted(log_ref, p @ log_ref.exp() / beta).exp(),
            "You returned π. Its logarithm is wanted.",
        ),
        Misconception(
            "log-odds of the win rate",
            lambda log_ref, p, beta: _tilted(log_ref, torch.logit(p @ log_ref.exp()) / beta),
            "You took the log-odds of the win rate, as Bradley and Terry would. IPO takes the win rate itself.",
        ),
        Misconception(
            "mean of the log-odds",
            lambda log_ref, p, beta: _tilted(log_ref, torch.logit(p) @ log_ref.exp() / beta),
            "You averaged the log-odds of the comparisons: for Bradley–Terry preferences that is the reward, and your "
            "policy is DPO's π*. IPO's square averages the probabilities themselves.",
        ),
        Misconception(
            "2p − 1",
            lambda log_ref, p, beta: _tilted(log_ref, (2 * p - 1) @ log_ref.exp() / beta),
            "You tilt by the mean of 2p − 1: twice as much as w. In (3) 2p − 1 stands over 2β.",
        ),
    ),
)

# --- 10.2 · KTO -----------------------------------------------------------------------------------------------------


def kto_loss(
    log_ratio: Float[Tensor, " B"],
    desirable: Bool[Tensor, " B"],
    z0: float,
    beta: float,
    lambda_d: float,
    lambda_u: float,
) -> Float[Tensor, " B"]:
    """λ (1 − σ(±β(log π/π_ref − z₀))): + and λ_D for a desirable answer, − and λ_U for an undesirable one."""
    u = beta * (log_ratio - z0)
    return torch.where(desirable, lambda_d * torch.sigmoid(-u), lambda_u * torch.sigmoid(u))


def _labelled(g: torch.Generator) -> list[tuple[Tensor, Tensor, float, float, float, float]]:
    """Answers with thumbs up and down, of both kinds in each case; z₀ 0 and above it; weights equal and unequal."""
    cases = []
    for n, z0, beta, lambda_d, lambda_u in (
        (5, 0.7, 0.5, 1.0, 1.5),
        (4, 0.0, 0.1, 1.0, 1.0),
        (6, 2.5, 2.0, 1.3, 0.8),
        (1 + whole(g, 1, 6), 1.2, 0.3, 0.7, 1.1),
    ):
        desirable = torch.rand(n, generator=g) < 0.5
        desirable[:2] = torch.tensor([True, False])
        cases.append((3 * torch.randn(n, generator=g, dtype=torch.float64), desirable, z0, beta, lambda_d, lambda_u))
    return cases


def _kto(good: Tensor, bad: Tensor, desirable: Tensor) -> Tensor:
    return torch.where(desirable, good, bad)


q2 = Question(
    title="10.2 KTO's loss",
    name="thumbs_loss",
    reference=kto_loss,
    cases=_labelled,
    grad_args=(0,),
    hints=(
        "When should the loss of a desirable answer be small: where its log-ratio is above z₀, or below? And that of "
        "an undesirable one?",
        "Both kinds have the same u = β(log π/π_ref − z₀). A desirable answer pays λ_D (1 − σ(u)), an undesirable one "
        "λ_U (1 − σ(−u)). And 1 − σ(u) = σ(−u).",
        "Compute u once for the whole batch. Compute both losses for all rows. Take the first where `desirable` is "
        "True and the second elsewhere; each has its own weight λ.",
        "u = beta * (...)\nreturn torch.where(desirable, lambda_d * torch.sigmoid(-u), lambda_u * ...)",
    ),
    misconceptions=(
        Misconception(
            "signs swapped",
            lambda r, d, z, b, ld, lu: _kto(ld * torch.sigmoid(b * (r - z)), lu * torch.sigmoid(-b * (r - z)), d),
            "Your loss rewards the wrong kind: it falls when a desirable answer becomes *less* likely. 1 − σ(u) falls "
            "as u grows.",
        ),
        Misconception(
            "value instead of loss",
            lambda r, d, z, b, ld, lu: -_kto(ld * torch.sigmoid(b * (r - z)), lu * torch.sigmoid(-b * (r - z)), d),
            "That is minus the value: it has the same gradient, but (8) is λ minus the value, and never below 0.",
        ),
        Misconception(
            "value",
            lambda r, d, z, b, ld, lu: _kto(
                1 - ld * torch.sigmoid(b * (r - z)), 1 - lu * torch.sigmoid(-b * (r - z)), d
            ),
            "The weight stands before the whole bracket in (8), before the 1 as well.",
        ),
        Misconception(
            "weights swapped",
            lambda r, d, z, b, ld, lu: _kto(lu * torch.sigmoid(-b * (r - z)), ld * torch.sigmoid(b * (r - z)), d),
            "λ_D belongs to the desirable answers and λ_U to the others: yours are swapped.",
        ),
        Misconception(
            "one weight",
            lambda r, d, z, b, ld, lu: ld * _kto(torch.sigmoid(-b * (r - z)), torch.sigmoid(b * (r - z)), d),
            "Undesirable answers have a weight of their own, λ_U.",
        ),
        Misconception(
            "no weights",
            lambda r, d, z, b, ld, lu: _kto(torch.sigmoid(-b * (r - z)), torch.sigmoid(b * (r - z)), d),
            "The weights λ_D and λ_U are missing.",
        ),
        Misconception(
            "reference point forgotten",
            lambda r, d, z, b, ld, lu: _kto(ld * torch.sigmoid(-b * r), lu * torch.sigmoid(b * r), d),
            "z₀ is missing. KTO asks whether an answer has gained more than the policy has moved on the whole.",
        ),
        Misconception(
            "reference point outside beta",
            lambda r, d, z, b, ld, lu: _kto(ld * torch.sigmoid(z - b * r), lu * torch.sigmoid(b * r - z), d),
            "z₀ is in nats, like the log-ratio: β multiplies the difference of both.",
        ),
        Misconception(
            "reference point added",
            lambda r, d, z, b, ld, lu: _kto(ld * torch.sigmoid(-b * (r + z)), lu * torch.sigmoid(b * (r + z)), d),
            "z₀ is subtracted from the log-ratio, not added.",
        ),
        Misconception(
            "beta forgotten",
            lambda r, d, z, b, ld, lu: _kto(ld * torch.sigmoid(z - r), lu * torch.sigmoid(r - z), d),
            "β is missing: u = β(log-ratio − z₀).",
        ),
        Misconception(
            "logarithm of the sigmoid",
            lambda r, d, z, b, ld, lu: _kto(-ld * F.logsigmoid(b * (r - z)), -lu * F.logsigmoid(-b * (r - z)), d),
            "You took −log σ, as DPO does. KTO's loss is 1 − σ, without a logarithm: it flattens on both sides.",
        ),
        Misconception(
            "one sign for both",
            lambda r, d, z, b, ld, lu: _kto(ld * torch.sigmoid(-b * (r - z)), lu * torch.sigmoid(-b * (r - z)), d),
            "Desirable answers are right. For undesirable ones the sign inside turns: they should become less likely.",
        ),
        Misconception(
            "averaged",
            lambda r, d, z, b, ld, lu: kto_loss(r, d, z, b, ld, lu).mean(),
            "One loss for each answer is wanted, no mean yet.",
        ),
    ),
)

# --- 10.3 · where KTO leads ------------------------------------------------------------------------------------------


def kto_training(
    log_ref: Float[Tensor, " N"], wins: Float[Tensor, " N"], beta: float, rate: float, steps: int
) -> Float[Tensor, " N"]:
    """log π after so many steps of Adam on KTO's expected loss, from π_ref; z₀ = KL(π ‖ π_ref) before each step."""
    theta = log_ref.clone().requires_grad_()
    optimizer = torch.optim.Adam([theta], lr=rate)
    for _ in range(steps):
        log_pi = theta.log_softmax(-1)
        log_ratio = log_pi - log_ref
        u = beta * (log_ratio - (log_pi.exp() * log_ratio).sum().item())
        loss = (log_ref.exp() * (wins * torch.sigmoid(-u) + (1 - wins) * torch.sigmoid(u))).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return theta.detach().log_softmax(-1)


def _win_rates(g: torch.Generator) -> list[tuple[Tensor, Tensor, float, float, int]]:
    """References and win rates on both sides of one half; β large and small; one step, and several."""
    cases = []
    for n, beta, rate, steps in (
        (3, 0.5, 0.3, 1),
        (4, 0.2, 0.3, 12),
        (5, 1.5, 0.1, 25),
        (whole(g, 3, 6), 0.8, 0.5, 20),
    ):
        log_ref = torch.randn(n, generator=g, dtype=torch.float64).log_softmax(-1)
        cases.append((log_ref, torch.rand(n, generator=g, dtype=torch.float64), beta, rate, steps))
    return cases


def _trained(
    expected: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] = lambda pi_ref, w, good, bad: (
        pi_ref * (w * good + (1 - w) * bad)
    ).sum(),
    point: Callable[[Tensor, Tensor], Tensor | float] = lambda log_pi, log_ratio: (
        (log_pi.exp() * log_ratio).sum().item()
    ),
    start: Callable[[Tensor], Tensor] = torch.clone,
    clear: bool = True,
    result: Callable[[Tensor], Tensor] = lambda theta: theta.log_softmax(-1),
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
) -> Callable[..., Tensor]:
    """The training with one part done otherwise."""

    def train(log_ref: Tensor, wins: Tensor, beta: float, rate: float, steps: int) -> Tensor:
        theta = start(log_ref).requires_grad_()
        steps_of = optimizer([theta], lr=rate)
        for _ in range(steps):
            log_pi = theta.log_softmax(-1)
            u = beta * (log_pi - log_ref - point(log_pi, log_pi - log_ref))
            if clear:
                steps_of.zero_grad()
            expected(log_ref.exp(), wins, torch.sigmoid(-u), torch.sigmoid(u)).backward()  # type: ignore[no-untyped-call]
            steps_of.step()
        return result(theta.detach())

    return train


q3 = Question(
    title="10.3 Where KTO leads",
    name="train_on_thumbs",
    reference=kto_training,
    cases=_win_rates,
    rtol=1e-4,
    atol=1e-5,
    hints=(
        "How often is an answer drawn, and how often is its thumb up then? With which weights do its two losses stand "
        "in the expected loss?",
        "Answer y has the loss of a desirable answer with probability w(y), that of an undesirable one with 1 − w(y), "
        "and it is drawn with π_ref(y). z₀ is the KL of the policy as it is now: a number, measured before each step.",
        "Logits that begin at log_ref and have a gradient; Adam with learning rate `rate`. In each step: log π by "
        "log_softmax, the log-ratios, z₀ as a number (.item()); the loss of all answers with thumbs up, and with "
        "thumbs down; both weighed by w and 1 − w, then by π_ref, and summed up; clear the gradient, backward, step. "
        "At last log_softmax of the logits.",
        "theta = log_ref.clone().requires_grad_()\n"
        "optimizer = torch.optim.Adam([theta], lr=rate)\n"
        "up = torch.ones(len(log_ref), dtype=torch.bool)\n"
        "for _ in range(steps):\n"
        "    log_pi = theta.log_softmax(-1)\n"
        "    log_ratio = log_pi - log_ref\n"
        "    z0 = ...\n"
        "    of_good, of_bad = (kto_of(log_ratio, thumb, z0, beta, 1.0, 1.0) for thumb in (up, ~up))\n"
        "    loss = (log_ref.exp() * ...).sum()\n"
        "    optimizer.zero_grad()\n"
        "    loss.backward()\n"
        "    optimizer.step()\n"
        "return theta.detach().log_softmax(-1)",
    ),
    misconceptions=(
        Misconception(
            "gradient through the reference point",
            _trained(point=lambda log_pi, log_ratio: (log_pi.exp() * log_ratio).sum()),
            "Your gradient flows through z₀. KTO measures it and holds it fixed in the step: make it a number.",
        ),
        Misconception(
            "reference point forgotten",
            _trained(point=lambda log_pi, log_ratio: 0.0),
            "Your z₀ is 0 in all steps: it is the KL at the start. Measure it again before each step.",
        ),
        Misconception(
            "the other KL",
            _trained(point=lambda log_pi, log_ratio: -((log_pi - log_ratio).exp() * log_ratio).sum().item()),
            "Your z₀ is KL(π_ref ‖ π). In (8) it is KL(π ‖ π_ref): the log-ratios are averaged under the policy.",
        ),
        Misconception(
            "mean log-ratio",
            _trained(point=lambda log_pi, log_ratio: log_ratio.mean().item()),
            "Your z₀ is a plain mean of the log-ratios. In a KL each of them has the weight π(y).",
        ),
        Misconception(
            "mean log-ratio under the reference",
            _trained(point=lambda log_pi, log_ratio: ((log_pi - log_ratio).exp() * log_ratio).sum().item()),
            "Your z₀ averages the log-ratios under π_ref, and is never above 0. KL(π ‖ π_ref) averages under π.",
        ),
        Misconception(
            "thumbs turned round",
            _trained(lambda pi_ref, w, good, bad: (pi_ref * (w * bad + (1 - w) * good)).sum()),
            "Answers that win are pushed down: w(y) is how often y is *desirable*.",
        ),
        Misconception(
            "thumbs up only",
            _trained(lambda pi_ref, w, good, bad: (pi_ref * w * good).sum()),
            "You leave the undesirable answers out: y is one with probability 1 − w(y).",
        ),
        Misconception(
            "equally likely answers",
            _trained(lambda pi_ref, w, good, bad: (w * good + (1 - w) * bad).mean()),
            "All answers weigh the same in your loss. They are drawn from π_ref: y has the weight π_ref(y).",
        ),
        Misconception(
            "majority",
            _trained(lambda pi_ref, w, good, bad: (pi_ref * torch.where(w > 0.5, good, bad)).sum()),
            "You give an answer the thumb of the majority. Of its thumbs the share w(y) is up, and the rest is down: "
            "both losses count.",
        ),
        Misconception(
            "uniform start",
            _trained(start=torch.zeros_like),
            "You start at the uniform policy. Training starts at π_ref: logits log π_ref.",
        ),
        Misconception(
            "gradients pile up",
            _trained(clear=False),
            "Your gradients pile up from step to step. Clear them before each backward.",
        ),
        Misconception(
            "logits returned",
            _trained(result=lambda theta: theta),
            "You return the logits. log_softmax makes log π of them.",
        ),
        Misconception(
            "probabilities",
            _trained(result=lambda theta: theta.softmax(-1)),
            "You return π. Its logarithm is wanted.",
        ),
        Misconception(
            "plain gradient descent",
            _trained(optimizer=torch.optim.SGD),
            "That is plain gradient descent. Asked is Adam, whose steps do not depend on the size of the gradient.",
        ),
    ),
)

# --- 10.4 · SimPO ---------------------------------------------------------------------------------------------------


def simpo_loss(
    chosen: Float[Tensor, " B"],
    rejected: Float[Tensor, " B"],
    chosen_length: Float[Tensor, " B"],
    rejected_length: Float[Tensor, " B"],
    beta: float,
    gamma: float,
) -> Float[Tensor, " B"]:
    """−log σ(β log π(y_w)/|y_w| − β log π(y_l)/|y_l| − γ), in nats: mean log-probabilities, and no reference."""
    return -F.logsigmoid(beta * (chosen / chosen_length - rejected / rejected_length) - gamma)


def _answers(g: torch.Generator) -> list[tuple[Tensor, Tensor, Tensor, Tensor, float, float]]:
    """Pairs of different lengths; margins from −1000 to 1000; γ 0 and above it."""
    cases = []
    for n, beta, gamma in ((4, 2.0, 0.5), (3, 0.5, 0.0), (1 + whole(g, 1, 6), 10.0, 1.6)):
        lengths = torch.randint(1, 9, (2, n), generator=g).double()
        log_probs = -lengths * (0.2 + 2 * torch.rand(2, n, generator=g, dtype=torch.float64))
        cases.append((*log_probs, *lengths, beta, gamma))
    far = torch.tensor([-1.0, -2000.0], dtype=torch.float64)
    return [*cases, (far, far.flip(0), torch.tensor([1.0, 2.0]).double(), torch.tensor([2.0, 1.0]).double(), 1.0, 0.3)]


q4 = Question(
    title="10.4 SimPO's loss",
    name="loss_by_means",
    reference=simpo_loss,
    cases=_answers,
    grad_args=(0, 1),
    hints=(
        "What plays the part of the reward here? It needs no reference, and it is counted by the token.",
        "SimPO's reward of an answer is β log π(y)/|y|. The chosen one must be better by a margin γ: the argument of "
        "the sigmoid is the difference of the two rewards minus γ.",
        "Divide each sum by its own length. Subtract. Multiply by β. Subtract γ, after β. Then minus the logarithm of "
        "the sigmoid, by the function that stays finite.",
        "return -F.logsigmoid(beta * (chosen / chosen_length - ...) - ...)",
    ),
    misconceptions=(
        Misconception(
            "summed",
            lambda w, x, nw, nl, b, g: -F.logsigmoid(b * (w - x) - g),
            "You compare the sums. SimPO divides each log-probability by the length of its own answer.",
        ),
        Misconception(
            "one length for both",
            lambda w, x, nw, nl, b, g: -F.logsigmoid(b * (w - x) / nw - g),
            "You divide both by the length of the chosen answer. Each answer has its own length.",
        ),
        Misconception(
            "sum of the lengths",
            lambda w, x, nw, nl, b, g: -F.logsigmoid(b * (w - x) / (nw + nl) - g),
            "You divide the difference by both lengths together. Each log-probability is divided by its own length.",
        ),
        Misconception(
            "lengths swapped",
            lambda w, x, nw, nl, b, g: -F.logsigmoid(b * (w / nl - x / nw) - g),
            "The lengths are swapped: the chosen answer is divided by the length of the rejected one.",
        ),
        Misconception(
            "multiplied by the length",
            lambda w, x, nw, nl, b, g: -F.logsigmoid(b * (w * nw - x * nl) - g),
            "You multiply by the length. A mean divides by it.",
        ),
        Misconception(
            "margin added",
            lambda w, x, nw, nl, b, g: -F.logsigmoid(b * (w / nw - x / nl) + g),
            "γ is subtracted: the chosen answer has to win by more than γ before the loss is content.",
        ),
        Misconception(
            "margin inside beta",
            lambda w, x, nw, nl, b, g: -F.logsigmoid(b * (w / nw - x / nl - g)),
            "β multiplies your γ as well. In (11) γ stands outside, in reward units.",
        ),
        Misconception(
            "margin forgotten",
            lambda w, x, nw, nl, b, g: -F.logsigmoid(b * (w / nw - x / nl)),
            "γ is missing.",
        ),
        Misconception(
            "beta forgotten",
            lambda w, x, nw, nl, b, g: -F.logsigmoid(w / nw - x / nl - g),
            "β is missing. Here it is no leash, only a scale, but it is there.",
        ),
        Misconception(
            "chosen and rejected swapped",
            lambda w, x, nw, nl, b, g: -F.logsigmoid(b * (x / nl - w / nw) - g),
            "You prefer the rejected answer: chosen minus rejected.",
        ),
        Misconception(
            "sign",
            lambda w, x, nw, nl, b, g: F.logsigmoid(b * (w / nw - x / nl) - g),
            "The minus in front is missing: a loss is *minus* the log-probability.",
        ),
        Misconception(
            "overflow",
            lambda w, x, nw, nl, b, g: -torch.log(torch.sigmoid(b * (w / nw - x / nl) - g)),
            "Right on paper, but σ(−1000) is 0 in the computer and log 0 is −inf. Use F.logsigmoid.",
        ),
        Misconception(
            "no logarithm",
            lambda w, x, nw, nl, b, g: torch.sigmoid(g - b * (w / nw - x / nl)),
            "That is 1 − σ. SimPO, like DPO, takes −log σ.",
        ),
        Misconception(
            "mean of the lengths",
            lambda w, x, nw, nl, b, g: -F.logsigmoid(2 * b * (w - x) / (nw + nl) - g),
            "You divide by the mean of the two lengths. Each log-probability is divided by the length of its own "
            "answer.",
        ),
    ),
)

# --- 10.5 · ORPO ----------------------------------------------------------------------------------------------------


def orpo_loss(chosen: Float[Tensor, " B"], rejected: Float[Tensor, " B"], lam: float) -> Float[Tensor, " B"]:
    """−ℓ_w − λ log σ(o(ℓ_w) − o(ℓ_l)), log-odds o(ℓ) = ℓ − log(1 − e^ℓ), from *mean* log-probabilities ℓ < 0."""
    chosen_odds, rejected_odds = (mean - torch.log(-torch.expm1(mean)) for mean in (chosen, rejected))
    return -chosen - lam * F.logsigmoid(chosen_odds - rejected_odds)


def _means(g: torch.Generator) -> list[tuple[Tensor, Tensor, float]]:
    """Mean log-probabilities below 0, from nearly certain to impossible in floating point."""
    cases = [
        (*(-0.05 - 3 * torch.rand(2, n, generator=g, dtype=torch.float64)), lam)
        for n, lam in ((4, 1.0), (3, 0.1), (1 + whole(g, 1, 6), 2.5))
    ]
    far, rare = torch.tensor([[-0.01, -900.0], [-901.0, -900.0]], dtype=torch.float64)
    return [*cases, (far, far.flip(0), 0.5), (rare, rare.flip(0), 0.5)]


def _odds(mean: Tensor) -> Tensor:
    return mean - torch.log(-torch.expm1(mean))


q5 = Question(
    title="10.5 ORPO's loss",
    name="odds_loss",
    reference=orpo_loss,
    cases=_means,
    grad_args=(0, 1),
    hints=(
        "Two terms. Which one would be there if nobody had rejected anything?",
        "The first is the loss of SFT on the chosen answer, −ℓ_w. The second is −log σ of a difference, as in DPO, but "
        "of log-odds: log (P/(1 − P)) with P = e^ℓ, so ℓ − log(1 − e^ℓ).",
        "Write the log-odds of a mean ℓ; torch.expm1(ℓ) is e^ℓ − 1, exact near 0. Do it for both answers. Subtract. "
        "Take F.logsigmoid, times λ. Subtract it, and ℓ_w, from 0.",
        "def odds(mean):\n    return mean - torch.log(...)\n\nreturn -chosen - lam * F.logsigmoid(odds(chosen) - ...)",
    ),
    misconceptions=(
        Misconception(
            "no SFT term",
            lambda w, x, lam: -lam * F.logsigmoid(_odds(w) - _odds(x)),
            "The first term is missing: ORPO keeps the loss of SFT on the chosen answer, −ℓ_w.",
        ),
        Misconception(
            "SFT on both",
            lambda w, x, lam: -w - x - lam * F.logsigmoid(_odds(w) - _odds(x)),
            "Only the chosen answer is imitated: −ℓ_w, without ℓ_l.",
        ),
        Misconception(
            "SFT sign",
            lambda w, x, lam: w - lam * F.logsigmoid(_odds(w) - _odds(x)),
            "Your first term makes the chosen answer *less* likely: its sign is minus.",
        ),
        Misconception(
            "odds ratio sign",
            lambda w, x, lam: -w + lam * F.logsigmoid(_odds(w) - _odds(x)),
            "Your second term rewards a rejected answer that is more likely: it is −λ log σ.",
        ),
        Misconception(
            "chosen and rejected swapped",
            lambda w, x, lam: -w - lam * F.logsigmoid(_odds(x) - _odds(w)),
            "The difference of the log-odds is turned round: chosen minus rejected.",
        ),
        Misconception(
            "log-probabilities for log-odds",
            lambda w, x, lam: -w - lam * F.logsigmoid(w - x),
            "You compare log-probabilities. The odds are P/(1 − P): the logarithm of 1 − P is missing.",
        ),
        Misconception(
            "odds turned over",
            lambda w, x, lam: (
                -w - lam * F.logsigmoid((w + torch.log(-torch.expm1(w))) - (x + torch.log(-torch.expm1(x))))
            ),
            "You multiply by 1 − P. The odds divide by it: log P *minus* log(1 − P).",
        ),
        Misconception(
            "odds without their logarithm",
            lambda w, x, lam: -w - lam * F.logsigmoid(_odds(w).exp() - _odds(x).exp()),
            "You compare the odds. The sigmoid takes the difference of their logarithms.",
        ),
        Misconception(
            "lambda forgotten",
            lambda w, x, lam: -w - F.logsigmoid(_odds(w) - _odds(x)),
            "λ is missing: it weighs the second term against the first.",
        ),
        Misconception(
            "lambda on both",
            lambda w, x, lam: lam * (-w - F.logsigmoid(_odds(w) - _odds(x))),
            "λ weighs the second term only.",
        ),
        Misconception(
            "lambda inside",
            lambda w, x, lam: -w - F.logsigmoid(lam * (_odds(w) - _odds(x))),
            "λ stands before the logarithm of the sigmoid, not in it: it is no β.",
        ),
        Misconception(
            "underflow",
            lambda w, x, lam: -w - lam * torch.log(torch.sigmoid(_odds(w) - _odds(x))),
            "Right on paper, but σ(−1000) is 0 in the computer, and log 0 is −inf. Use F.logsigmoid.",
        ),
        Misconception(
            "odds of probabilities",
            lambda w, x, lam: (
                -w - lam * F.logsigmoid((w.exp() / (1 - w.exp())).log() - (x.exp() / (1 - x.exp())).log())
            ),
            "Right on paper, but e^−900 is 0 in the computer, and log 0 is −inf. Keep the logarithm that you have: "
            "ℓ − log(1 − e^ℓ).",
        ),
        Misconception(
            "the rejected answer pushed down too",
            lambda w, x, lam: -w + x - lam * F.logsigmoid(_odds(w) - _odds(x)),
            "You add ℓ_l to the SFT loss, to push the rejected answer down. In (14) only the second term does that.",
        ),
        Misconception(
            "sigmoid without its logarithm",
            lambda w, x, lam: -w - lam * torch.sigmoid(_odds(w) - _odds(x)),
            "The logarithm is missing in your second term: −λ log σ.",
        ),
        Misconception(
            "1 + P in the odds",
            lambda w, x, lam: -w - lam * F.logsigmoid((w - torch.log1p(w.exp())) - (x - torch.log1p(x.exp()))),
            "You divide by 1 + P. The odds are P/(1 − P), so it is log(1 − e^ℓ).",
        ),
    ),
)

# --- predictions ----------------------------------------------------------------------------------------------------

p1 = Prediction(
    "A tenth of the labels is flipped. DPO does not know, cDPO is told ε = 0.1. Whose optimum is nearer to π*?",
    (
        "cDPO's: it knows how many labels are wrong.",
        "both are at π*: with all pairs the flips average out.",
        "DPO's: cDPO ends farther away than DPO, which knows nothing.",
    ),
    answer=2,
    meanings=(
        "It uses what it knows to trust the labels *less*. That damps the rewards once more and undoes no flip.",
        "Flips do not average out: they pull every probability towards one half, and DPO fits what it is shown.",
        "In expectation cDPO is DPO on labels that are flipped once more: (6). Twice is worse than once.",
    ),
)
p2 = Prediction(
    "Lengths 2 to 16, good answers and bad ones. At SimPO's optimum, the long good answer against the short bad one?",
    (
        "the short bad one is about ten times as likely.",
        "the long good one is far likelier, as at π*: a mean does not care for length.",
        "equally likely: what length takes, quality gives back.",
    ),
    answer=0,
    meanings=(
        "Every token of the good one is likelier. But it has sixteen of them, and their probabilities are multiplied.",
        "The *mean* does not care. But what is sampled is a whole answer: its log-probability is mean times length.",
        "Nothing balances them: β and the two lengths decide, and with other lengths the answer would be another.",
    ),
)
