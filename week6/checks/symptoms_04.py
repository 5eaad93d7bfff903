"""The symptoms of notebook 04's capstone: what a mistake makes of PPO's instruments."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from week6.checks.bench_04 import BETA, ITERATIONS, Record
from week6.checks.capstone import Symptom
from week6.checks.counterfactual import alike
from week6.checks.replay_04 import replayed
from week6.checks.steps_04 import (
    CLIMB,
    EXPLAINED,
    GAP,
    HELD,
    PRESSED_HELD,
    advantages,
    deviation,
    differs,
    explained,
    far,
    gained,
    late_gap,
    pressed,
    shaped,
)
from week6.log_probs import masked_whiten
from week6.objective import kl_divergence
from week6.ppo import gae


def _fits(part: str, wrong: Callable[[Record, int], Tensor]) -> Callable[[Record], bool]:
    """Whether a part of the first five iterations is this wrong function of what went in."""

    def seen(record: Record) -> bool:
        if not (shaped if part == "rewards" else advantages)(record):
            return False
        for i in range(5):
            mask = record.batch(i)[3]
            if differs(record.steps[i][part], wrong(record, i), mask, 0.02, ""):
                return False
        return True

    return seen


def _advantages_by(
    gamma: float = 1.0,
    lam: float = 0.95,
    whiten: Callable[[Tensor, Tensor], Tensor] = masked_whiten,
    mask_of: Callable[[Tensor], Tensor] = lambda mask: mask,
) -> Callable[[Record, int], Tensor]:
    """The advantages with another γ, λ, whitening or mask."""

    def otherwise(record: Record, i: int) -> Tensor:
        values = record.old_values(i)
        assert values is not None
        mask = record.batch(i)[3]
        return whiten(gae(record.shaped(i), values, mask_of(mask), gamma, lam)[0], mask)

    return otherwise


def _by_row(x: Tensor, mask: Tensor) -> Tensor:
    mean = (x * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True)
    variance = ((x - mean).square() * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True)
    return (x - mean) / (variance + 1e-8).sqrt()


def _everywhere(x: Tensor, mask: Tensor) -> Tensor:
    return (x - x.mean()) / x.std()


def _whitened_returns(record: Record, i: int) -> Tensor:
    values = record.old_values(i)
    assert values is not None
    return _advantages_by()(record, i) + values


def _score_at(place: Callable[[Tensor], Tensor]) -> Callable[[Record, int], Tensor]:
    """The rewards with the score at other tokens, given by a table made from the mask."""

    def rewards(record: Record, i: int) -> Tensor:
        y, old, ref, mask = record.batch(i)
        return -BETA * (old - ref) + place(mask) * record.scores[y][:, None]

    return rewards


def _last_column(mask: Tensor) -> Tensor:
    return torch.arange(mask.shape[1]) == mask.shape[1] - 1


def _without_score(record: Record, i: int) -> Tensor:
    _, old, ref, _ = record.batch(i)
    return -BETA * (old - ref)


def _median(values: Sequence[Tensor]) -> float:
    return float(torch.cat(list(values)).median())


def _direction(record: Record, first: int, last: int) -> float:
    """The median of log ρ in the direction of the advantage: how far a typical token went the right way."""
    return _median([record.moved(i) for i in range(first, last)])


def _first_values(record: Record) -> float:
    """How much the critic went towards its targets in the first iteration, from zero: negative if away from them."""
    step, (_, _, _, mask) = record.steps[0], record.batch(0)
    return float((step["values"][record.language.rows[step["answers"]]] * step["returns"] * mask).sum())


def _same(tables: Sequence[Tensor]) -> bool:
    return all(torch.equal(table, tables[0]) for table in tables)


def _values(record: Record, i: int) -> Tensor:
    values = record.old_values(i)
    assert values is not None
    return values


def _raw(record: Record, i: int) -> Tensor:
    """The advantages of iteration i before they are whitened."""
    return gae(record.shaped(i), _values(record, i), record.batch(i)[3])[0]


def _last_real(mask: Tensor) -> Tensor:
    return torch.arange(mask.shape[1]) == mask.sum(1, keepdim=True) - 1


def _leash_at_the_end(record: Record, i: int) -> Tensor:
    y, old, ref, mask = record.batch(i)
    earned = record.scores[y] - BETA * ((old - ref) * mask).sum(1)
    return _last_real(mask) * earned[:, None]


def _price(record: Record) -> float | None:
    """Another price than β at which every token pays for its log-ratio, or None."""
    found = []
    for i in range(1, 5):
        y, old, ref, mask = record.batch(i)
        charge = (_last_real(mask) * record.scores[y][:, None] - record.steps[i]["rewards"])[mask]
        log_ratio = (old - ref)[mask]
        price = float(charge @ log_ratio / (log_ratio @ log_ratio))
        if not alike(charge, price * log_ratio, 1e-3):
            return None
        found.append(price)
    same = max(found) - min(found) < 1e-3 and abs(found[0] - BETA) > 1e-3
    return found[0] if same else None


def _uniform(record: Record) -> bool:
    """Whether all answers of the language came about equally often."""
    counts = torch.bincount(torch.cat(record["answers"]), minlength=len(record.scores)).double()
    expected = counts.sum() / len(counts)
    return float(((counts - expected).square() / expected).sum()) < 3 * len(counts)


def _of_the_update(seen: Callable[[Record], bool]) -> Callable[[Record], bool]:
    """A symptom of the update, asked only where all that goes into it is right."""
    return lambda record: (
        deviation(record, record.before) < 5 and shaped(record) == "" and advantages(record) == "" and seen(record)
    )


SYMPTOMS = (
    Symptom(
        "a list that was overwritten",
        lambda record: _same(record["policy"]) and not torch.equal(record["policy"][0], record.language.reference),
        "All iterations show one and the same policy, the last: yield copies, .detach().clone(), since the "
        "optimizer goes on writing into the tensor itself.",
    ),
    Symptom(
        "no chance",
        lambda record: all(len(y.unique()) < 3 for y in record["answers"][:3]),
        "The likeliest answer was taken each time. (4) is an expectation over what the policy writes: draw at random.",
    ),
    Symptom(
        "a policy that stands still",
        lambda record: _same(record.policies) and len(record.policies) > 1,
        "The policy has not moved at all: does the optimizer hold it, does a gradient reach it? The new "
        "log-probabilities must be computed with gradient, at each step anew.",
    ),
    Symptom(
        "one batch for ever",
        lambda record: _same(record["answers"]) and len(record["answers"][0].unique()) > 1,
        "All iterations see the same answers. Draw a fresh batch in each, and give `generator` to "
        "torch.multinomial, not a new generator with the same seed.",
    ),
    Symptom(
        "samples of the reference",
        lambda record: (
            record.has("answers", "policy")
            and deviation(record, record.before) > 5 > deviation(record, lambda i: record.language.reference)
        ),
        "All batches come from the reference. PPO is on-policy: each batch is drawn from the policy as it is by then.",
    ),
    Symptom(
        "uniform answers",
        lambda record: record.has("answers") and deviation(record, record.before) > 5 and _uniform(record),
        "All answers come equally often, whatever the policy says. Draw them with the probabilities of the policy: "
        "exp of the sum of their tokens' log-probabilities.",
    ),
    Symptom(
        "the KL rewarded",
        _fits("rewards", lambda record, i: record.shaped(i, -BETA)),
        "The tokens are paid for leaving the reference: the KL will run away. The sign of −β d_t in (34) is turned.",
    ),
    Symptom(
        "no leash",
        _fits("rewards", lambda record, i: record.shaped(i, 0.0)),
        "The rewards hold the score alone; there is no leash in them, though the policy moves. Is β missing, or is the "
        "reference the present policy instead of the one at the start?",
    ),
    Symptom(
        "the score at every token",
        _fits("rewards", _score_at(lambda mask: mask)),
        "Every token gets the score. In (34) it is paid once, with the last real token: else long answers are paid "
        "more.",
    ),
    Symptom(
        "the score in the last column",
        _fits("rewards", _score_at(_last_column)),
        "The score stands in the last column. Answers that end earlier never hear of it: it belongs to the last "
        "real token of each row.",
    ),
    Symptom(
        "no score",
        _fits("rewards", _without_score),
        "The rewards hold the leash alone. Where is the score of the answer?",
    ),
    Symptom(
        "the score at the first token",
        _fits("rewards", _score_at(lambda mask: torch.arange(mask.shape[1]) == 0)),
        "The score stands at the first token. In (34) it is paid with the last one, when the answer is complete.",
    ),
    Symptom(
        "a share of the score",
        lambda record: (
            _fits("rewards", _score_at(lambda mask: mask / mask.sum(1, keepdim=True)))(record)
            or _fits("rewards", _score_at(lambda mask: _last_real(mask) / mask.sum(1, keepdim=True)))(record)
        ),
        "The score is divided by the number of tokens, so that long answers are paid less. (34) pays it whole.",
    ),
    Symptom(
        "another price",
        lambda record: _price(record) is not None,
        "Each token pays in proportion to its log-ratio, but not at the price `beta`.",
    ),
    Symptom(
        "the leash as a sum",
        _fits("rewards", lambda record, i: _leash_at_the_end(record, i)),
        "The whole KL of an answer is charged at its last token. In (34) each token pays for its own log-ratio.",
    ),
    Symptom(
        "targets are advantages",
        _fits("returns", lambda record, i: _raw(record, i)),
        "The targets of the critic are the advantages. A value is what is still to come: advantage plus old value "
        "(24).",
    ),
    Symptom(
        "targets are rewards",
        lambda record: _fits("returns", lambda record, i: record.shaped(i))(record),
        "The targets of the critic are the rewards of the single tokens. They are returns, all that comes from there "
        "on (24).",
    ),
    Symptom(
        "whitened targets",
        _fits("returns", _whitened_returns),
        "The targets of the critic are made of whitened advantages. (24) takes them before they are whitened: a "
        "value is in reward units.",
    ),
    Symptom(
        "not whitened",
        _fits("advantages", _advantages_by(whiten=lambda x, mask: x)),
        "The advantages are right, but not whitened: (31) gives them mean 0 and variance 1.",
    ),
    Symptom(
        "whitened answer by answer",
        _fits("advantages", _advantages_by(whiten=_by_row)),
        "Each answer was whitened by itself. Then good and bad answers look alike. (31) takes mean and variance "
        "over the batch.",
    ),
    Symptom(
        "padding counted",
        lambda record: (
            _fits("advantages", _advantages_by(whiten=_everywhere))(record)
            or _fits("advantages", _advantages_by(mask_of=torch.ones_like))(record)
            or _fits("advantages", _advantages_by(mask_of=torch.ones_like, whiten=_everywhere))(record)
        ),
        "Padding enters the advantages. A critic says something at padding too, and a mean over all places counts "
        "zeros that no token has earned: give the mask to GAE and to the whitening.",
    ),
    Symptom(
        "advantages turned round",
        _fits("advantages", lambda record, i: -_advantages_by()(record, i)),
        "The advantages have the wrong sign: what turned out better than expected is negative.",
    ),
    Symptom(
        "another γ or λ",
        lambda record: any(
            _fits("advantages", _advantages_by(gamma=g, lam=lam))(record)
            for g in (1.0, 0.99, 0.95, 0.9)
            for lam in (0.99, 0.9, 0.5, 0.95)
            if (g, lam) != (1.0, 0.95)
        ),
        "The advantages are those of another γ or λ. Here γ = 1 and λ = 0.95 are asked for, the defaults of `gae`.",
    ),
    Symptom(
        "returns for advantages",
        lambda record: any(
            _fits("advantages", rule)(record)
            for rule in (
                lambda record, i: masked_whiten(record.shaped(i), record.batch(i)[3]),
                lambda record, i: masked_whiten(record.shaped(i).flip(1).cumsum(1).flip(1), record.batch(i)[3]),
                lambda record, i: masked_whiten(_raw(record, i) + _values(record, i), record.batch(i)[3]),
            )
        ),
        "The advantages are whitened rewards or returns. An advantage is how much better it went than the critic "
        "expected.",
    ),
    Symptom(
        "half whitened",
        lambda record: any(
            _fits("advantages", _advantages_by(whiten=rule))(record)
            for rule in (
                lambda x, mask: x - x[mask].mean(),
                lambda x, mask: x / x[mask].std(),
                lambda x, mask: masked_whiten(x, mask) + x[mask].mean(),
                lambda x, mask: (x - x[mask].mean()) / x[mask].var(),
            )
        ),
        "The advantages have either not mean 0 or not variance 1: (31) subtracts the mean and divides by the standard "
        "deviation.",
    ),
    Symptom(
        "λ = 1",
        _fits("advantages", _advantages_by(lam=1.0)),
        "The advantages are reward-to-go minus value: λ is 1. Here λ = 0.95 is asked for.",
    ),
    Symptom(
        "λ = 0",
        _fits("advantages", _advantages_by(lam=0.0)),
        "The advantages are TD errors: λ is 0, so all trust is in a critic that knows nothing at first. Here λ = "
        "0.95 is asked for.",
    ),
    Symptom(
        "reward-to-go as target",
        _fits("returns", lambda record, i: record.shaped(i).flip(1).cumsum(1).flip(1)),
        "The targets of the critic are rewards-to-go. (24) makes them of the same λ as the advantages: advantage "
        "plus old value.",
    ),
    *(
        Symptom(name, _of_the_update(replayed(*ways)), message)
        for name, ways, message in (
            (
                "advantages left out",
                ({"advantages": torch.ones_like}, {"advantages": lambda a: a.sign()}, {"advantages": torch.abs}),
                "The first update is what comes out if the size or the sign of the advantages is left out of the gain.",
            ),
            (
                "another learning rate",
                tuple({"rate": rate} for rate in (1e-4, 1e-3, 3e-3, 0.01, 0.02, 0.03, 0.05, 0.2, 0.3, 0.5, 1.0)),
                "The first update is the right one at another learning rate: 0.1 is asked for.",
            ),
            (
                "another ε",
                tuple({"clip": clip} for clip in (0.02, 0.05, 0.1, 0.15, 0.25, 0.3)),
                "The first update is the right one with another ε: is `clip` handed on to the loss?",
            ),
            (
                "another number of steps",
                tuple({"epochs": epochs} for epochs in (2, 3, 4, 5, 6, 7, 9, 10, 16)),
                "The first update is the right one with another number of steps on the batch: `epochs` are asked for.",
            ),
            (
                "the gain of the log-ratio",
                ({"ratio": lambda log_ratio: 1 + log_ratio},),
                "The first update is what comes out of log ρ in the place of ρ: the ratio is its exponential.",
            ),
            (
                "the ratio upside down",
                ({"ratio": lambda log_ratio: (-log_ratio).exp()},),
                "The first update is what comes out of 1/ρ: the new probability stands above, the old one below.",
            ),
            (
                "ratio of whole answers",
                ({"ratio": lambda log_ratio: log_ratio.sum(1, keepdim=True).exp().expand_as(log_ratio)},),
                "The first update is what comes out if each answer has one ratio. Here every token has its own.",
            ),
        )
    ),
    Symptom(
        "uphill and downhill",
        _of_the_update(lambda record: _direction(record, 0, 3) < -0.02),
        "Good tokens became less likely and bad ones more: the sign of the policy loss is turned. An optimizer goes "
        "downhill; the loss is minus the gain.",
    ),
    Symptom(
        "ratio to the reference",
        _of_the_update(
            lambda record: (
                max(record.kls[10:])
                < 0.4 * float(kl_divergence(record.exact(record.policies[0])[2], record.exact(record.policies[0])[0]))
                and _direction(record, 0, 1) > 0.1
                and abs(_direction(record, 10, ITERATIONS)) < 0.1
            )
        ),
        "The first update is right; then the policy is stuck near the reference. So the ratio of the first pass is "
        "no longer 1: it must compare with the policy that sampled the batch, not with the reference.",
    ),
    Symptom(
        "a critic that runs away",
        _of_the_update(lambda record: explained(record) < -1 and _first_values(record) < 0),
        "The values went away from the returns in the first update already: is the sign of the value loss turned?",
    ),
    Symptom(
        "few steps",
        _of_the_update(
            lambda record: 0 < gained(record) < CLIMB and _direction(record, 0, 3) > 0.02 and far(record) < 0.005
        ),
        "The way is right, but each batch moves the policy a little only: is it used for one step instead of eight?",
    ),
    Symptom(
        "gradients that pile up",
        _of_the_update(
            lambda record: (
                _direction(record, 5, ITERATIONS) < 0.05 and explained(record) < -1 and late_gap(record) > GAP
            )
        ),
        "The first updates go the right way, later ones any way, and policy and critic swing ever wider. Are the "
        "gradients of earlier steps still there? Set them to zero before each backward().",
    ),
    Symptom(
        "no clip",
        _of_the_update(lambda record: far(record) > HELD or pressed(record) > PRESSED_HELD),
        "The updates are too large: many tokens became more than twice as likely as under the policy that wrote "
        "them. Nothing holds the ratio: is ε used, is the *worse* gain taken, are the old log-probabilities those "
        "from before the first step?",
    ),
    Symptom(
        "a critic that stands still",
        _of_the_update(lambda record: bool(record["values"][-1].abs().max() < 1e-6) or _same(record["values"])),
        "The critic has not learned: its table is what it was. Is it in the optimizer, and the value loss in the sum?",
    ),
    Symptom(
        "a critic of the next reward",
        _of_the_update(lambda record: explained(record, later=False) > max(0.3, explained(record))),
        "The critic predicts the reward of the next token. Its target is the return, all that comes from there on "
        "(24).",
    ),
    Symptom(
        "a critic that learns the wrong thing",
        _of_the_update(lambda record: explained(record) < EXPLAINED),
        "The critic's table does not become the value: is it trained on (24), returns, at the rows of the tokens' "
        "own prefixes?",
    ),
)
