"""Answers to the capstone of notebook 10: where a loss leads, and what it loses there.

`descent` is the course's way with its parts to be replaced; each mistake is one such part.
"""

import math

import torch

from week6 import kl_divergence, optimal_policy


def of_the_same_kl(log_ref, reward, nats):
    low, high = 1e-4, 1e4
    for _ in range(100):
        price = math.sqrt(low * high)
        best, _ = optimal_policy(log_ref, reward, price)
        low, high = (price, high) if kl_divergence(best, log_ref) > nats else (low, price)
    return best


def lost_reward(log_pi, log_ref, reward, star):
    return ((star.exp() - log_pi.exp()) * reward).sum().item()


def weights(log_ref, preference):
    return 2 * log_ref.exp()[:, None] * log_ref.exp()[None, :] * preference


def descent(
    pairs=weights,
    start=lambda log_ref: log_ref,
    normalise=lambda theta: theta.log_softmax(-1),
    scale=lambda gradient, pi: gradient / pi,
    first_slopes=lambda slopes: slopes,
    size=lambda slopes, pi: slopes.abs().max(),
    apart=lambda log_pi, log_ref: (log_pi - log_ref).max() - (log_pi - log_ref).min(),
    sign=1.0,
    shorten=0.5,
    lengthen=2.0,
    first_step=1.0,
    most=3000,
    rests=lambda far: not far,
    result=lambda log_pi: log_pi,
    distance=kl_divergence,
    path=lambda kls: kls,
    star=of_the_same_kl,
    lost=lost_reward,
):
    """The algorithm, with its parts to be replaced."""

    def answer(pair_loss, log_ref, reward, preference, tolerance, limit):
        pi, table = log_ref.exp(), pairs(log_ref, preference)

        def slopes_at(theta):
            theta = theta.detach().clone().requires_grad_()
            log_pi = normalise(theta)
            losses = pair_loss(log_pi[:, None], log_pi[None, :], log_ref[:, None], log_ref[None, :])
            return scale(torch.autograd.grad((table * losses).sum(), theta)[0], pi)

        theta, step = start(log_ref), first_step
        slopes, kls, far = slopes_at(theta), [0.0], False
        found = {"slopes": first_slopes(slopes)}
        for _ in range(most):
            far = bool(apart(normalise(theta), log_ref) > limit)
            if far or size(slopes, pi) <= tolerance:
                break
            there = theta - sign * step * slopes
            slopes_there = slopes_at(there)
            if shorten < 1 and (pi * slopes * slopes_there).sum() < 0:
                step *= shorten
                continue
            theta, slopes, step = there, slopes_there, lengthen * step
            kls.append(float(distance(theta.log_softmax(-1), log_ref)))
        log_pi = theta.log_softmax(-1)
        found |= {"log_pi": result(theta if result is as_logits else log_pi), "rests": rests(far), "kls": path(kls)}
        if not far:
            found["lost"] = lost(log_pi, log_ref, reward, star(log_ref, reward, kl_divergence(log_pi, log_ref).item()))
        return found

    return answer


def as_logits(theta):
    return theta + 3.0


# --- right ------------------------------------------------------------------------------------------------------------


def by_newton(pair_loss, log_ref, reward, preference, tolerance, limit):
    """Newton's steps with a ridge that grows and shrinks, and (2) read from right to left."""
    pi, n = log_ref.exp(), len(log_ref)

    def loss(theta):
        log_pi = theta - theta.logsumexp(0)
        losses = pair_loss(*(x.flatten() for y in (log_pi, log_ref) for x in (y[:, None].expand(n, n), y.expand(n, n))))
        return 2 * (torch.outer(pi, pi) * preference * losses.view(n, n)).sum()

    theta, ridge, kls = log_ref.clone(), 1.0, [0.0]
    slopes = first = torch.func.grad(loss)(theta) / pi
    while slopes.abs().max() > tolerance:
        h = theta - theta.logsumexp(0) - log_ref
        if h.max() - h.min() > limit:
            return {"slopes": first, "log_pi": h + log_ref, "rests": False, "kls": kls}
        curvature = torch.func.hessian(loss)(theta) + ridge * torch.diag(pi)
        values, vectors = torch.linalg.eigh(curvature)
        new = theta - vectors @ ((vectors.T @ (pi * slopes)) / values.abs().clamp(min=1e-12))
        if loss(new) < loss(theta) + 1e-14:
            theta, ridge = new, ridge / 4
            kls.append(kl_divergence(theta.log_softmax(0), log_ref).item())
            slopes = torch.func.grad(loss)(theta) / pi
        else:
            ridge *= 8
    log_pi = theta.log_softmax(0)
    low, high = -12.0, 12.0  # logarithms of β'
    while high - low > 1e-12:
        middle = (low + high) / 2
        star = (log_ref + reward / math.exp(middle)).log_softmax(0)
        low, high = (middle, high) if (star.exp() * (star - log_ref)).sum() > kls[-1] else (low, middle)
    lost = math.exp(middle) * (log_pi.exp() * (log_pi - star)).sum().item()
    return {"slopes": first, "log_pi": log_pi, "rests": True, "kls": kls, "lost": lost}


def by_lbfgs(pair_loss, log_ref, reward, preference, tolerance, limit):
    """Ten steps of L-BFGS at a time, in coordinates where the curvature is even: θ/√π_ref."""
    pi = log_ref.exp()
    root = pi.sqrt()
    x = (log_ref * root).requires_grad_()
    expected = 2 * pi[:, None] * pi * preference

    def loss():
        log_pi = (x / root).log_softmax(-1)
        return (expected * pair_loss(log_pi.unsqueeze(1), log_pi.unsqueeze(0), log_ref[:, None], log_ref[None])).sum()

    def closure():
        x.grad = None
        value = loss()
        value.backward()
        return value

    def look():
        log_pi = (x / root).log_softmax(-1).detach()
        return log_pi, torch.autograd.grad(loss(), x)[0] / root

    log_pi, first = look()
    slopes, kls, rests = first, [0.0], True
    while slopes.abs().max() > tolerance and rests:
        torch.optim.LBFGS(
            [x], max_iter=10, tolerance_grad=1e-14, tolerance_change=0, line_search_fn="strong_wolfe"
        ).step(closure)
        log_pi, slopes = look()
        kls.append(float((log_pi.exp() * (log_pi - log_ref)).sum()))
        rests = bool((log_pi - log_ref).max() - (log_pi - log_ref).min() <= limit)
    found = {"slopes": first, "log_pi": log_pi, "rests": rests, "kls": torch.tensor(kls)}
    return found | (
        {"lost": lost_reward(log_pi, log_ref, reward, of_the_same_kl(log_ref, reward, kls[-1]))} if rests else {}
    )


def by_loops(pair_loss, log_ref, reward, preference, tolerance, limit):
    """A line search on the loss (Armijo's rule), and a loop over the first answers."""
    n, pi = len(log_ref), log_ref.softmax(0)

    def loss(theta):
        log_pi = torch.log_softmax(theta, 0)
        rows = [
            pi[a] * (pi * preference[a] * pair_loss(log_pi[a], log_pi, log_ref[a], log_ref)).sum() for a in range(n)
        ]
        return 2 * torch.stack(rows).sum()

    theta, step, kls, first = log_ref, 8.0, [], None
    while True:
        theta = theta.detach().requires_grad_()
        now = loss(theta)
        now.backward()
        gradient, log_pi = theta.grad, theta.detach().log_softmax(0)
        slopes = gradient / pi
        first = slopes if first is None else first
        kls.append(kl_divergence(log_pi, log_ref))
        h = (log_pi - log_ref).sort().values
        if h[-1] - h[0] > limit:
            return {"slopes": first, "log_pi": log_pi, "rests": torch.tensor(False), "kls": kls}
        if max(slopes.max(), -slopes.min()) < tolerance:
            break
        with torch.no_grad():
            while loss(theta - step * slopes) > now - 0.3 * step * (gradient @ slopes):
                step = 0.6 * step
            theta = theta - step * slopes
        step = 3 * step
    star = of_the_same_kl(log_ref, reward, kls[-1].item())
    return {
        "slopes": first,
        "log_pi": log_pi,
        "rests": True,
        "kls": kls,
        "lost": star.exp() @ reward - log_pi.exp() @ reward,
    }


RIGHT = {"Newton": by_newton, "L-BFGS": by_lbfgs, "loops, Armijo's rule": by_loops}

# --- wrong ------------------------------------------------------------------------------------------------------------


def at_the_same_price(log_ref, reward, nats):
    return optimal_policy(log_ref, reward, 0.5)[0]


def the_wrong_half(log_ref, reward, nats):
    low, high = 1e-4, 1e4
    for _ in range(100):
        price = math.sqrt(low * high)
        best, _ = optimal_policy(log_ref, reward, price)
        low, high = (low, price) if kl_divergence(best, log_ref) > nats else (price, high)
    return best


MISTAKES = {
    "the rejected one first": descent(pairs=lambda ref, p: weights(ref, p.T)),
    "preferences forgotten": descent(pairs=lambda ref, p: ref.exp()[:, None] * ref.exp()),
    "without the 2": descent(pairs=lambda ref, p: weights(ref, p) / 2),
    "equally likely answers": descent(pairs=lambda ref, p: 2 * p / len(ref) ** 2),
    "a mean over the table": descent(pairs=lambda ref, p: weights(ref, p) / len(ref) ** 2),
    "no answer against itself": descent(pairs=lambda ref, p: weights(ref, p).fill_diagonal_(0.0)),
    "plain gradient": descent(scale=lambda g, pi: g, most=200),
    "multiplied by π_ref": descent(scale=lambda g, pi: g * pi, most=200),
    "sign of the slopes": descent(first_slopes=lambda s: -s),
    "uniform start": descent(start=torch.zeros_like),
    "no log_softmax": descent(normalise=lambda theta: theta, most=100),
    "uphill": descent(sign=-1.0, shorten=1.0, most=20),
    "a long fixed step": descent(shorten=1.0, lengthen=1.0, first_step=10.0, most=300),
    "the step is never shortened": descent(shorten=1.0, most=100),
    "a hundred short steps": descent(size=lambda s, pi: math.inf, shorten=1.0, lengthen=1.0, first_step=0.01, most=100),
    "at most ten steps": descent(most=10),
    "the plain gradient decides": descent(size=lambda s, pi: (pi * s).abs().max()),
    "a sum of the slopes": descent(size=lambda s, pi: (pi * s).sum().abs()),
    "mean of the squares": descent(size=lambda s, pi: (pi * s.square()).sum()),
    "probabilities": descent(result=lambda log_pi: log_pi.exp()),
    "logits": descent(result=as_logits),
    "rests always": descent(apart=lambda log_pi, ref: 0.0),
    "KL against the limit": descent(apart=lambda log_pi, ref: kl_divergence(log_pi, ref)),
    "largest log-ratio only": descent(apart=lambda log_pi, ref: (log_pi - ref).max()),
    "spread of log π": descent(apart=lambda log_pi, ref: log_pi.max() - log_pi.min()),
    "turned round": descent(rests=lambda far: far),
    "a limit on the steps decides": descent(apart=lambda log_pi, ref: 0.0, most=120, rests=lambda far: True),
    "the start is missing": descent(path=lambda kls: kls[1:]),
    "the end is missing": descent(path=lambda kls: kls[:-1]),
    "the other KL": descent(distance=lambda p, q: kl_divergence(q, p)),
    "bits": descent(distance=lambda p, q: kl_divergence(p, q) / math.log(2)),
    "lost with its sign turned": descent(lost=lambda p, q, r, star: -lost_reward(p, q, r, star)),
    "gained against the reference": descent(lost=lambda p, q, r, star: -lost_reward(p, q, r, q)),
    "against the best answer": descent(lost=lambda p, q, r, star: (r.max() - (p.exp() * r).sum()).item()),
    "nats to π*": descent(lost=lambda p, q, r, star: kl_divergence(p, star).item()),
    "at one price": descent(star=at_the_same_price),
    "the wrong half": descent(star=the_wrong_half),
    "divided by the number of answers": descent(scale=lambda g, pi: g * len(pi), most=200),
    "divided by the largest": descent(scale=lambda g, pi: g / pi.max(), most=200),
}
RECOGNISED = {
    "the rejected one first": "who wins is turned round",
    "preferences forgotten": "preferences forgotten",
    "without the 2": "the two orders",
    "equally likely answers": "pairs not from the reference",
    "a mean over the table": "a mean over the table",
    "no answer against itself": "an answer against itself left out",
    "plain gradient": "not divided by π_ref",
    "multiplied by π_ref": "multiplied by π_ref",
    "sign of the slopes": "sign of the slopes",
    "uniform start": "start at equal probabilities",
    "uphill": "uphill",
    "a long fixed step": "uphill",
    "the step is never shortened": "uphill",
    "at most ten steps": "a largest number of steps",
    "a sum of the slopes": "nothing moves",
    "a hundred short steps": "a fixed number of steps",
    "the plain gradient decides": "the plain gradient decides",
    "mean of the squares": "a mean of the slopes",
    "probabilities": "probabilities",
    "logits": "logits returned",
    "spread of log π": "spread of log π",
    "turned round": "the other way round",
    "a limit on the steps decides": "a small slope is no minimum",
    "the start is missing": "the start is missing",
    "the end is missing": "the end is missing",
    "the other KL": "another distance",
    "bits": "another distance",
    "lost with its sign turned": "lost against something else",
    "gained against the reference": "lost against something else",
    "against the best answer": "lost against something else",
    "nats to π*": "lost against something else",
    "at one price": "bisection",
    "the wrong half": "bisection",
    "divided by the number of answers": "one number for all answers",
    "divided by the largest": "one number for all answers",
}

# --- written after the symptoms and the tolerances --------------------------------------------------------------------


def few_halvings(log_ref, reward, nats):
    low, high = 1e-4, 1e4
    for _ in range(12):
        price = math.sqrt(low * high)
        best, _ = optimal_policy(log_ref, reward, price)
        low, high = (price, high) if kl_divergence(best, log_ref) > nats else (low, price)
    return best


def of_the_other_kl(log_ref, reward, nats):
    low, high = 1e-4, 1e4
    for _ in range(80):
        price = math.sqrt(low * high)
        best, _ = optimal_policy(log_ref, reward, price)
        low, high = (price, high) if (log_ref.exp() * (log_ref - best)).sum() > nats else (low, price)
    return best


UNSEEN = {
    "weights of the chosen answer only": descent(pairs=lambda ref, p: 2 * ref.exp()[:, None] * p / len(ref)),
    "preference against 1 − p": descent(pairs=lambda ref, p: weights(ref, 1 - p)),
    "only pairs that are mostly won": descent(pairs=lambda ref, p: weights(ref, p) * (p >= 0.5)),
    "p minus one half": descent(pairs=lambda ref, p: weights(ref, p - 0.5), most=200),
    "weights not squared": descent(pairs=lambda ref, p: (ref[:, None] + ref).exp().sqrt() * p),
    "starts at π* of β = 1": descent(start=lambda ref: ref + torch.linspace(-1, 1, len(ref)).double()),
    "step of 1 for all": descent(shorten=1.0, lengthen=1.0, first_step=1.0, most=2000),
    "shortens once too little, gives up": descent(shorten=0.9, lengthen=1.0, first_step=1.0, most=60),
    "two norms": descent(size=lambda s, pi: s.norm() / 30),
    "the gentlest slope": descent(size=lambda s, pi: s.abs().min()),
    "root of the tolerance": descent(size=lambda s, pi: s.abs().max() ** 2),
    # These two may pass: they stop later, and what they return is beyond the limit all the same.
    "limit in standard deviations": descent(apart=lambda p, q: (p - q).std()),
    "limit on the logits' mean": descent(apart=lambda p, q: (p - q).mean().abs()),
    "half of the limit": descent(apart=lambda p, q: 2.5 * ((p - q).max() - (p - q).min())),
    "KL of the first answer": descent(distance=lambda p, q: (p - q)[0]),
    "KL squared": descent(distance=lambda p, q: kl_divergence(p, q) ** 2),
    "path without the steps": descent(path=lambda kls: [kls[0], kls[len(kls) // 2]]),
    "lost per nat": descent(lost=lambda p, q, r, star: lost_reward(p, q, r, star) / kl_divergence(p, q).item()),
    "twelve halvings": descent(star=few_halvings),
    "by the other KL": descent(star=of_the_other_kl),
    "lost in absolute rewards": descent(lost=lambda p, q, r, star: ((star.exp() - p.exp()) * r).abs().sum().item()),
}
