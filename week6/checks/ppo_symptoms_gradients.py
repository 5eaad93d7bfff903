"""What a wrong update of PPO shows in its gradients: is it the policy's loss, the critic's, or what comes after?"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from week6.checks.capstone import Symptom
from week6.checks.ppo_capstone import NUMBERS, STEPS, Record, updated_wrongly
from week6.checks.ppo_problem import ONE_STEP
from week6.checks.weighing import SAME, alike, cosine, line
from week6.ppo import clipped_policy_loss, clipped_value_loss


@dataclass(frozen=True)
class Felt:
    """What log-probabilities (first) and values (second) felt in a pass, what they should, and the parts behind it."""

    got: tuple[Float[Tensor, "B T"], Float[Tensor, "B T"]]
    want: tuple[Float[Tensor, "B T"], Float[Tensor, "B T"]]
    log_rho: Float[Tensor, "B T"]
    mask: Bool[Tensor, "B T"]
    parts: dict[str, Float[Tensor, "B T"]]

    def right(self, side: int) -> bool:
        """Whether one side feels what it should."""
        return float((self.got[side] - self.want[side]).abs().max()) < SAME * float(self.want[side].abs().max())


@functools.lru_cache(maxsize=4)
def passes_of(r: Record) -> tuple[Felt, ...]:
    """The passes that brought a gradient, filled up with answers that they left out, which feel nothing; none where
    not all that goes into the update is right."""
    if any(step.judge(r) != "" for step in STEPS[:-2]):
        return ()
    found, y, t, c = list[Felt](), r.answers, r.truth, ONE_STEP
    texts = torch.cat([y.prompts, y.responses], 1)
    for came in r.passes:
        asked = torch.cat([came.answers.prompts, came.answers.responses], 1)
        if not came.felt or asked.shape[1] != texts.shape[1]:
            continue
        same = (asked[:, None] == texts[None]).all(-1)
        if not bool(same.any(1).all()):
            continue
        rows = torch.cat([same.int().argmax(1), (~same.any(0)).nonzero().flatten()])  # first those asked about
        now, v = (torch.cat([x, getattr(t, n)[rows[len(x) :]]]) for n, x in
                  (("log_probs", came.log_probs), ("values", came.values)))  # fmt: skip
        log_probs, values = now.requires_grad_(), v.requires_grad_()
        mask, old = y.response_mask[rows], t.log_probs[rows]
        policy_loss, _ = clipped_policy_loss(log_probs, old, t.whitened[rows], mask, c.clip)
        value_loss, _ = clipped_value_loss(values, t.values[rows], t.returns[rows], mask, c.clip)
        of_log_probs, of_values = torch.autograd.grad(policy_loss + c.value_coef * value_loss, (log_probs, values))
        parts = {n: getattr(t, n)[rows] for n in ("whitened", "advantages", "returns", "rewards", "values")}
        rest = torch.zeros(len(rows) - len(asked), texts.shape[1] - y.prompts.shape[1])
        got = (torch.cat([came.of_log_probs, rest]), torch.cat([came.of_values, rest]))
        found.append(Felt(got, (of_log_probs, of_values), ((log_probs - old) * mask).detach(), mask, parts))
    return tuple(found)


def _first(seen: Callable[[Felt], bool]) -> Callable[[Record], bool]:
    """A symptom of the first pass of a wrong update, where every ratio should be 1."""
    return lambda r: updated_wrongly(r) and bool(passes_of(r)) and seen(passes_of(r)[0])


def _policy(seen: Callable[[Felt], bool]) -> Callable[[Record], bool]:
    """A symptom of what log-probabilities feel in the first pass, at ratios of 1."""
    return _first(lambda f: float(f.log_rho.abs().max()) < NUMBERS and not f.right(0) and seen(f))


def _critic(seen: Callable[[Felt], bool]) -> Callable[[Record], bool]:
    """A symptom of what values feel in the first pass, where the policy's side is right."""
    return _first(lambda f: f.right(0) and not f.right(1) and seen(f))


def _weights(f: Felt) -> tuple[Tensor, Tensor]:
    """The weight of each real token in the policy's gain, and its whitened advantage."""
    return -f.got[0][f.mask], f.parts["whitened"][f.mask]


def _share(f: Felt) -> Tensor:
    """What log-probabilities feel as a share of what they should; nan at padding."""
    return torch.where(f.mask, f.got[0] / f.want[0], torch.nan)


def _of_one_sign(f: Felt) -> bool:
    w, a = _weights(f)
    return any(not bool(w[~side].any()) and alike(w[side] / a[side]) for side in (a > 0, a < 0))


def _groups_alike(groups: Tensor) -> bool:
    return all(alike(group) for group in groups if bool((~group.isnan()).any()))


def _other_part(f: Felt) -> bool:
    """Whether tokens are weighed by a line in another part."""
    w, _ = _weights(f)
    return any(line(w, f.parts[name][f.mask]) is not None for name in ("returns", "rewards", "values"))


def _plus_a_constant(f: Felt) -> bool:
    w, a = _weights(f)
    return (found := line(w, a)) is not None and abs(float(found[1])) > SAME * abs(float(found[0]))


def _later(side: int) -> Callable[[Record], bool]:
    """Whether the first pass that is wrong is not the first of all, and wrong on this side."""

    def seen(r: Record) -> bool:
        wrong = [i for i, f in enumerate(passes_of(r)) if not (f.right(0) and f.right(1))]
        return updated_wrongly(r) and bool(wrong) and wrong[0] > 0 and not passes_of(r)[wrong[0]].right(side)

    return seen


def _all_right(r: Record) -> bool:
    return updated_wrongly(r) and bool(passes_of(r)) and all(f.right(0) and f.right(1) for f in passes_of(r))


_POLICY: tuple[tuple[str, Callable[[Felt], bool], str], ...] = (
    (
        "policy loss: the sign",
        lambda f: cosine(*_pair(f, 0)) < -0.999,
        "good tokens are pushed down and bad ones up. Look at the signs, the clipped loss has its minus already, and "
        "at which policy is on top in the ratio (3).",
    ),
    (
        "policy loss: another factor",
        lambda f: cosine(*_pair(f, 0)) > 0.999,
        "they are pushed in the right proportions, and by another amount: the policy loss is multiplied or divided by "
        "something. (7) divides it by n, the real tokens, and adds it as it is.",
    ),
    (
        "policy loss: padding",
        lambda f: bool(f.got[0][~f.mask].any()),
        "padding feels something, too: the loss is over the real tokens, where the mask is True.",
    ),
    (
        "policy loss: one sign of the advantages",
        _of_one_sign,
        "only the tokens with a positive advantage count, or only those with a negative one. Both do.",
    ),
    (
        "policy loss: advantages that are not whitened, or a term more",
        _plus_a_constant,
        "each is pushed by its advantage and by a constant, the same for all: the advantages in the loss are not the "
        "whitened ones, or a term is added.",
    ),
    (
        "policy loss: another part for the advantages",
        _other_part,
        "they are pushed by returns, rewards or values, or all alike. The loss takes the whitened *advantages*.",
    ),
    (
        "policy loss: answers weighed differently",
        lambda f: _groups_alike(_share(f)),
        "the tokens of one answer count alike, and those of another answer with another weight, or not at all. (7) is "
        "a mean over all real tokens.",
    ),
    (
        "policy loss: places weighed differently",
        lambda f: _groups_alike(_share(f).T),
        "tokens count by their place in the answer, some perhaps not at all. (7) is a mean over all real tokens.",
    ),
    (
        "policy loss: something else",
        lambda f: True,
        "they are not pushed by their whitened advantages. Does each token meet its own advantage, of the same rows, "
        "and nothing else?",
    ),
)
_CRITIC: tuple[tuple[str, Callable[[Felt], bool], str], ...] = (
    (
        "value loss: nothing",
        lambda f: not bool(f.got[1].any()),
        "the values feel nothing: the value loss is not in what you descend.",
    ),
    (
        "value loss: the sign",
        lambda f: cosine(*_pair(f, 1)) < -0.999,
        "the values are pushed away from the returns: the sign of the value loss is turned.",
    ),
    (
        "value loss: another factor",
        lambda f: cosine(*_pair(f, 1)) > 0.999,
        "the values are pulled the right way, and by another amount: the value loss counts `config.value_coef` times, "
        "and is a mean over the real tokens; its ½ is inside `clipped_value_loss`.",
    ),
    (
        "value loss: padding",
        lambda f: bool(f.got[1][~f.mask].any()),
        "the values at padding feel something, too: the loss is over the real tokens, where the mask is True.",
    ),
    (
        "value loss: other targets",
        lambda f: True,
        "the values are not pulled to the returns of their own tokens: it is the targets of the critic, or the old "
        "values in its clip.",
    ),
)


def _pair(f: Felt, side: int) -> tuple[Tensor, Tensor]:
    return f.got[side], f.want[side]


OF_THE_GRADIENTS: tuple[Symptom, ...] = (
    Symptom(
        "a first ratio that is not 1",
        _first(lambda f: float(f.log_rho.abs().max()) > NUMBERS),
        "In the first pass of the update the log-probabilities are not those that the answers were sampled with, so "
        "that the ratio is not 1 there: is the actor asked at `config.temperature`, without dropout, about the same "
        "answers?",
    ),
    *(
        Symptom(name, _policy(seen), f"What log-probabilities feel in the first pass shows the policy's loss: {said}")
        for name, seen, said in _POLICY
    ),
    *(
        Symptom(name, _critic(seen), f"In the first pass the policy's loss is right and the critic's is not: {said}")
        for name, seen, said in _CRITIC
    ),
    Symptom(
        "the policy's loss in later passes",
        _later(0),
        "The first pass is right; in a later one the policy's loss is not. So it is the ratio or its clip: "
        "ρ = exp(log π − log π_old), with π_old as it was when the answers were sampled, clipped at 1 ± `config.clip`.",
    ),
    Symptom(
        "the critic's loss in later passes",
        _later(1),
        "The first pass is right; in a later one the critic's loss is not. So it is its clip: the values are held "
        "within `config.clip` of the old ones, those of before the update.",
    ),
    Symptom(
        "right gradients, other steps",
        _all_right,
        "In every pass both losses are right, so it is what is made of their gradients: clear them before each "
        "backward pass, and take one step with the optimizer that came in, all of its weights and nothing else.",
    ),
)
