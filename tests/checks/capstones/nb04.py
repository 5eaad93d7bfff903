"""Answers to the capstone of notebook 04, PPO in a language that can be listed."""

import functools

import torch

from tests.checks.capstones import altered_04
from week6 import masked_mean, masked_whiten, shape_rewards
from week6.ppo import gae

# --- right ----------------------------------------------------------------------------------------------------------


def two_optimizers(language, beta, iterations, generator, clip=0.2, epochs=8):
    """A list, two optimizers, an unclipped value loss, and GAE by a loop over answers."""
    actor, critic = torch.nn.Parameter(language.reference.clone()), torch.nn.Parameter(0 * language.reference[:, 0])
    steps = [torch.optim.Adam([actor], lr=0.1), torch.optim.RMSprop([critic], lr=0.05)]
    history = []
    for _ in range(iterations):
        log_pi = language.log_probs(actor).detach()
        cumulative = log_pi.sum(1).exp().cumsum(0)
        y = torch.searchsorted(cumulative, torch.rand(128, generator=generator, dtype=torch.float64) * cumulative[-1])
        d = log_pi[y] - language.log_probs(language.reference)[y]
        lengths = language.mask[y].sum(1)
        rewards, raw, returns = -beta * d, torch.zeros_like(d), torch.zeros_like(d)
        values = critic.detach()[language.rows[y]]
        for b, length in enumerate(lengths.tolist()):
            rewards[b, length - 1] += language.scores[y[b]]
            after, advantage = 0.0, 0.0
            for t in range(length - 1, -1, -1):
                advantage = rewards[b, t] + after - values[b, t] + 0.95 * advantage
                after = values[b, t]
                raw[b, t], returns[b, t] = advantage, advantage + values[b, t]
        real = language.mask[y]
        advantages = torch.zeros_like(raw)
        advantages[real] = (raw[real] - raw[real].mean()) / raw[real].std()
        for _ in range(epochs):
            rho = (language.log_probs(actor)[y][real] - log_pi[y][real]).exp()
            gain = torch.min(rho * advantages[real], rho.clip(1 - clip, 1 + clip) * advantages[real])
            for step, loss in zip(
                steps, (-gain.mean(), (critic[language.rows[y]] - returns)[real].square().mean()), strict=True
            ):
                step.zero_grad()
                loss.backward()
                step.step()
        history.append(
            {
                "answers": y,
                "rewards": rewards,
                "advantages": advantages,
                "returns": returns,
                "policy": actor.data.clone(),
                "values": critic.data.clone(),
            }
        )
    return history


def by_hand(language, beta, iterations, generator, clip=0.2, epochs=8):
    """No autograd and no optimizer: the gradients (6) of the tables, in minibatches, with a critic of running means."""
    theta, critic = language.reference.clone(), torch.zeros(len(language.reference), dtype=torch.float64)
    momentum, size = torch.zeros_like(theta), torch.zeros_like(theta)
    count = 0
    for _ in range(iterations):
        old_all = language.log_probs(theta)
        y = torch.multinomial(old_all.sum(1).exp(), 128, replacement=True, generator=generator)
        mask, rows, tokens = language.mask[y], language.rows[y], language.tokens[y]
        old = old_all[y]
        rewards = shape_rewards(language.scores[y], old, language.log_probs(language.reference)[y], mask, beta)
        raw, returns = gae(rewards, critic[rows], mask)
        advantages = masked_whiten(raw, mask)
        for _ in range(epochs):
            rho = (language.log_probs(theta)[y] - old).exp()
            held = ((advantages > 0) & (rho > 1 + clip)) | ((advantages < 0) & (rho < 1 - clip))
            weight = torch.where(mask & ~held, rho * advantages, 0.0) / mask.sum()
            one_hot = torch.nn.functional.one_hot(tokens, theta.shape[1]).double() - theta.softmax(-1)[rows]
            gradient = torch.zeros_like(theta).index_add(0, rows.flatten(), (weight[..., None] * one_hot).flatten(0, 1))
            count += 1
            momentum, size = 0.9 * momentum + 0.1 * gradient, 0.999 * size + 0.001 * gradient**2
            theta = theta + 0.1 * (momentum / (1 - 0.9**count)) / ((size / (1 - 0.999**count)).sqrt() + 1e-8)
        ones = mask.double().flatten()
        seen = torch.zeros_like(critic).index_add(0, rows.flatten(), ones)
        total = torch.zeros_like(critic).index_add(0, rows.flatten(), (returns * mask).flatten())
        critic = torch.where(seen > 0, critic + 0.5 * (total / seen.clamp_min(1) - critic), critic)
        yield {
            "answers": y,
            "rewards": rewards,
            "advantages": advantages,
            "returns": returns,
            "policy": theta,
            "values": critic,
        }


RIGHT = {"two optimizers, loops, a list": two_optimizers, "gradients by hand": by_hand}

# --- wrong ----------------------------------------------------------------------------------------------------------


def surrogate(rho, advantages, clip):
    return torch.minimum(rho * advantages, rho.clamp(1 - clip, 1 + clip) * advantages)


def draw(probs, generator):
    return torch.multinomial(probs, 128, replacement=True, generator=generator)


def squared(values, returns, advantages, rewards, mask):
    return 0.5 * masked_mean((values - returns) ** 2, mask)


def build(
    language,
    beta,
    iterations,
    generator,
    clip=0.2,
    epochs=8,
    *,
    sample=lambda policy, reference, generator: draw(policy, generator),
    shape=shape_rewards,
    leash_to=lambda old, ref: ref,
    advantage=lambda rewards, values, mask: gae(rewards, values, mask),
    whiten=masked_whiten,
    target=lambda raw, white, returns, values: returns,
    gain=surrogate,
    old_of=lambda old, ref, now: old,
    sign=-1.0,
    value_loss=squared,
    zero=True,
    learns=("policy", "critic"),
    rate=0.1,
    copy=lambda table: table.detach().clone(),
):
    """The course's way, with each of its parts open to a mistake."""
    policy = language.reference.clone().requires_grad_()
    critic = torch.zeros(len(policy), dtype=policy.dtype, requires_grad=True)
    optimizer = torch.optim.Adam([{"policy": policy, "critic": critic}[name] for name in learns], lr=rate)
    for _ in range(iterations):
        with torch.no_grad():
            everything, start = language.log_probs(policy), language.log_probs(language.reference)
            y = sample(everything.sum(1).exp(), start.sum(1).exp(), generator)
            old, ref, mask, values = everything[y], start[y], language.mask[y], critic[language.rows[y]]
            rewards = shape(language.scores[y], old, leash_to(old, ref), mask, beta)
            raw, returns = advantage(rewards, values, mask)
            advantages = whiten(raw, mask)
            returns = target(raw, advantages, returns, values)
        for _ in range(epochs):
            now = language.log_probs(policy)[y]
            rho = (now - old_of(old, ref, now.detach())).exp()
            loss = sign * masked_mean(gain(rho, advantages, clip), mask)
            loss = loss + value_loss(critic[language.rows[y]], returns, advantages, rewards, mask)
            if zero:
                optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        yield {
            "answers": y,
            "rewards": rewards,
            "advantages": advantages,
            "returns": returns,
            "policy": copy(policy),
            "values": critic.detach().clone(),
        }


def mistaken(**parts):
    return functools.partial(build, **parts)


def as_list(language, beta, iterations, generator):
    return list(build(language, beta, iterations, generator, copy=lambda table: table.detach()))


def score_everywhere(scores, old, ref, mask, beta):
    return (-beta * (old - ref) + scores[:, None]) * mask


def score_in_the_last_column(scores, old, ref, mask, beta):
    rewards = -beta * (old - ref) * mask
    rewards[:, -1] += scores
    return rewards


def by_row(x, mask):
    return torch.stack([masked_whiten(row[None], m[None])[0] for row, m in zip(x, mask, strict=True)])


def stored_batch(policy, reference, generator):
    return draw(reference, torch.Generator().manual_seed(0))


# --- written after the symptoms and the tolerances ------------------------------------------------------------------


def score_at_the_start(scores, old, ref, mask, beta):
    rewards = -beta * (old - ref) * mask
    rewards[:, 0] += scores
    return rewards


def score_per_token(scores, old, ref, mask, beta):
    return shape_rewards(scores / mask.sum(1), old, ref, mask, beta)


def of_scores(paid):
    return lambda scores, old, ref, mask, beta: shape_rewards(paid(scores), old, ref, mask, beta)


def of_ratio(charged):
    return lambda scores, old, ref, mask, beta: shape_rewards(scores, charged(old - ref), 0 * ref, mask, beta)


MISTAKES = {
    "samples of the reference": mistaken(sample=lambda policy, reference, g: draw(reference, g)),
    "the likeliest answer": mistaken(sample=lambda policy, reference, g: policy.argmax().repeat(128)),
    "a new generator each time": mistaken(sample=stored_batch),
    "KL rewarded": mistaken(shape=lambda s, old, ref, m, beta: shape_rewards(s, ref, old, m, beta)),
    "β left out": mistaken(shape=lambda s, old, ref, m, beta: shape_rewards(s, old, ref, m, 1e-9)),
    "leash to the present policy": mistaken(leash_to=lambda old, ref: old),
    "score at every token": mistaken(shape=score_everywhere),
    "score in the last column": mistaken(shape=score_in_the_last_column),
    "GAE without the mask": mistaken(advantage=lambda r, v, m: gae(r, v, torch.ones_like(m))),
    "λ = 1": mistaken(advantage=lambda r, v, m: gae(r, v, m, 1.0, 1.0)),
    "TD errors": mistaken(advantage=lambda r, v, m: gae(r, v, m, 1.0, 0.0)),
    "not whitened": mistaken(whiten=lambda x, mask: x),
    "whitened by row": mistaken(whiten=by_row),
    "targets from whitened advantages": mistaken(target=lambda raw, white, returns, values: white + values),
    "sign of the policy loss": mistaken(sign=1.0),
    "no clip": mistaken(gain=lambda rho, a, clip: rho * a),
    "old log-probabilities anew at each step": mistaken(old_of=lambda old, ref, now: now),
    "ratio to the reference": mistaken(old_of=lambda old, ref, now: ref),
    "maximum for minimum": mistaken(
        gain=lambda rho, a, clip: torch.maximum(rho * a, rho.clamp(1 - clip, 1 + clip) * a)
    ),
    "gradients not set to zero": mistaken(zero=False),
    "one step a batch": lambda language, beta, iterations, generator: build(
        language, beta, iterations, generator, epochs=1
    ),
    "critic not in the optimizer": mistaken(learns=("policy",)),
    "critic of the next reward": mistaken(value_loss=lambda v, ret, a, r, m: squared(v, r, a, r, m)),
    "sign of the value loss": mistaken(value_loss=lambda v, ret, a, r, m: -squared(v, ret, a, r, m)),
    "policy not in the optimizer": mistaken(learns=("critic",)),
    "no copies": as_list,
    "uniform answers": mistaken(sample=lambda policy, reference, g: draw(torch.ones_like(policy), g)),
    "the score at the first token": mistaken(shape=score_at_the_start),
    "the score divided by the length": mistaken(shape=score_per_token),
    "β twice as large": mistaken(shape=lambda s, old, ref, m, beta: shape_rewards(s, old, ref, m, 2 * beta)),
    "γ = 0.9": mistaken(advantage=lambda r, v, m: gae(r, v, m, 0.9, 0.95)),
    "reward-to-go as target": mistaken(target=lambda raw, white, returns, values: raw),
    "whitened with the sign turned": mistaken(whiten=lambda x, mask: -masked_whiten(x, mask)),
    "advantages left out of the gain": mistaken(gain=lambda rho, a, clip: surrogate(rho, torch.ones_like(a), clip)),
    "ε ten times as large": mistaken(gain=lambda rho, a, clip: surrogate(rho, a, 10 * clip)),
    "learning rate of 0.001": mistaken(rate=0.001),
    "values of the next token trained": mistaken(
        value_loss=lambda v, ret, a, r, m: squared(v.roll(1, 1), ret, a, r, m)
    ),
    "targets are advantages": mistaken(value_loss=lambda v, ret, a, r, m: squared(v, a, a, r, m)),
}
MISTAKES |= altered_04.MISTAKES | {
    "one advantage an answer": mistaken(
        whiten=lambda x, mask: masked_whiten((x * mask).sum(1, keepdim=True).expand_as(x) * mask, mask)
    ),
    "score minus the batch's mean": mistaken(shape=of_scores(lambda s: s - s.mean())),
    "score over β": mistaken(shape=lambda s, old, ref, m, beta: shape_rewards(s / beta, old, ref, m, 1.0)),
    "absolute log-ratio": mistaken(shape=of_ratio(torch.abs)),
    "half of the squared log-ratio": mistaken(shape=of_ratio(lambda d: d**2 / 2)),
    "clipped above only": mistaken(gain=lambda rho, a, clip: torch.minimum(rho * a, rho.clamp(max=1 + clip) * a)),
    "rewards so far": mistaken(advantage=lambda r, v, m: (r.cumsum(1) - v, r.cumsum(1) * m)),
}
RECOGNISED = {
    "targets are advantages": "a critic of advantages",
    "samples of the reference": "samples of the reference",
    "the likeliest answer": "no chance",
    "a new generator each time": "one batch for ever",
    "KL rewarded": "the KL rewarded",
    "β left out": "no leash",
    "leash to the present policy": "no leash",
    "score at every token": "the score at every token",
    "score in the last column": "the score in the last column",
    "GAE without the mask": "padding counted",
    "λ = 1": "λ = 1",
    "TD errors": "λ = 0",
    "not whitened": "not whitened",
    "whitened by row": "whitened answer by answer",
    "targets from whitened advantages": "whitened targets",
    "sign of the policy loss": "uphill and downhill",
    "no clip": "no clip",
    "old log-probabilities anew at each step": "no ratio",
    "ratio to the reference": "ratio to the reference",
    "maximum for minimum": "another clip",
    "gradients not set to zero": "gradients that pile up",
    "one step a batch": "few steps",
    "critic not in the optimizer": "a critic that stands still",
    "critic of the next reward": "a critic of the next reward",
    "sign of the value loss": "a critic that runs away",
    "policy not in the optimizer": "a policy that stands still",
    "no copies": "a list that was overwritten",
    "uniform answers": "uniform answers",
    "the score at the first token": "the score at the first token",
    "the score divided by the length": "a share of the score",
    "β twice as large": "another price",
    "γ = 0.9": "another γ or λ",
    "reward-to-go as target": "targets are advantages",
    "whitened with the sign turned": "advantages turned round",
    "advantages left out of the gain": "advantages left out of the gain",
    "ε ten times as large": "no clip",
    "learning rate of 0.001": "another learning rate",
    "values of the next token trained": "other rows of the critic",
}
RECOGNISED |= altered_04.RECOGNISED


# --- written after the symptoms and the tolerances --------------------------------------------------------------------


def paid_for_the_ratio(scores, old, ref, mask, beta):
    return shape_rewards(scores, old.exp() - ref.exp(), torch.zeros_like(old), mask, beta)


def score_standardised(scores, old, ref, mask, beta):
    return shape_rewards((scores - scores.mean()) / scores.std(), old, ref, mask, beta)


def leash_only_upwards(scores, old, ref, mask, beta):
    return shape_rewards(scores, torch.maximum(old, ref), ref, mask, beta)


def whole_return_everywhere(rewards, values, mask):
    whole = rewards.sum(1, keepdim=True).expand_as(rewards) * mask
    return whole - values * mask, whole


UNSEEN = {
    "sharpened samples": mistaken(sample=lambda policy, reference, g: draw(policy**2, g)),
    "half of the batch from the reference": mistaken(
        sample=lambda policy, reference, g: draw((policy + reference) / 2, g)
    ),
    "probabilities charged": mistaken(shape=paid_for_the_ratio),
    "scores standardised": mistaken(shape=score_standardised),
    "leash only upwards": mistaken(shape=leash_only_upwards),
    "whole return at every token": mistaken(advantage=whole_return_everywhere),
    "GAE of squared λ": mistaken(advantage=lambda r, v, m: gae(r, v, m, 1.0, 0.95**2)),
    "advantages cut off at 1": mistaken(whiten=lambda x, mask: masked_whiten(x, mask).clamp(-1, 1)),
    "no values in GAE": mistaken(advantage=lambda r, v, m: gae(r, torch.zeros_like(v), m)),
    "clip around zero": mistaken(gain=lambda rho, a, clip: torch.minimum(rho * a, rho.clamp(-clip, clip) * a)),
    "gain of log ρ": mistaken(gain=lambda rho, a, clip: rho.log() * a),
    "clipped ratio only": mistaken(gain=lambda rho, a, clip: rho.clamp(1 - clip, 1 + clip) * a),
    "ratio squared": mistaken(gain=lambda rho, a, clip: surrogate(rho**2, a, clip)),
    "values pulled to 0": mistaken(value_loss=lambda v, ret, a, r, m: squared(v, 0 * ret, a, r, m)),
    "half of the learning rate": mistaken(rate=0.05),
    "targets of the batch's mean": mistaken(
        value_loss=lambda v, ret, a, r, m: squared(v, ret[m].mean().expand_as(ret), a, r, m)
    ),
}
UNSEEN |= altered_04.UNSEEN
