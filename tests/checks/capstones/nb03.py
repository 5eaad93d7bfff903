"""Answers to the capstone of notebook 03, a budget of nats."""

import functools
import math

import torch

from week6 import kl_divergence, optimal_policy

# --- right ----------------------------------------------------------------------------------------------------------


def by_the_dual(ref_log_probs, rewards, budget):
    """The β that minimises β·budget + β log Z, a convex function whose slope is budget − KL, by golden section."""
    best = torch.where(ref_log_probs > -torch.inf, rewards, -torch.inf)
    top = best >= best.amax(-1, keepdim=True)
    shares = torch.where(top, ref_log_probs.exp(), 0.0)
    limit = -shares.sum(-1).log().mean()
    if budget >= limit:
        return {"limit": limit, "beta": 0, "log_probs": (shares / shares.sum(-1, keepdim=True)).log()}

    def slope(log_beta):
        beta = math.exp(log_beta)
        policy = (ref_log_probs + rewards / beta).log_softmax(-1)
        p = policy.exp()
        return budget - torch.where(p > 0, p * (policy - ref_log_probs), 0.0).sum(-1).mean().item()

    left, right = -1.0, 1.0
    while slope(left) > 0:
        left -= 1
    while slope(right) < 0:
        right += 1
    while right - left > 1e-13 * max(1, abs(left)):
        middle = (left + right) / 2
        if middle in (left, right):
            break
        left, right = (middle, right) if slope(middle) < 0 else (left, middle)
    beta = torch.tensor(math.exp(left), dtype=torch.float64)
    weighted = ref_log_probs + rewards / beta
    log_z = weighted.logsumexp(-1)
    return {"limit": limit, "beta": beta, "log_probs": weighted - log_z[:, None], "log_z": log_z}


def in_plain_python(ref_log_probs, rewards, budget):
    """Loops over answers, floats, and 1/β as the unknown."""
    rows = [
        [(p, r) for p, r in zip(ps, rs, strict=True)]
        for ps, rs in zip(ref_log_probs.tolist(), rewards.tolist(), strict=True)
    ]
    tops = [max(r for p, r in row if p > -math.inf) for row in rows]
    masses = [sum(math.exp(p) for p, r in row if r == top) for row, top in zip(rows, tops, strict=True)]
    out = {"limit": -sum(map(math.log, masses)) / len(rows)}
    if budget >= out["limit"]:
        policy = [
            [p - math.log(m) if r == top else -math.inf for p, r in row]
            for row, top, m in zip(rows, tops, masses, strict=True)
        ]
        return out | {"beta": 0.0, "log_probs": torch.tensor(policy)}

    def solve(inverse):
        policies, log_zs, kl = [], [], 0.0
        for row, top in zip(rows, tops, strict=True):
            log_z = inverse * top + math.log(sum(math.exp(p + inverse * (r - top)) for p, r in row if p > -math.inf))
            policies.append([p + inverse * r - log_z if p > -math.inf else p for p, r in row])
            kl += sum(math.exp(q) * (q - p) for q, (p, _) in zip(policies[-1], row, strict=True) if q > -math.inf)
            log_zs.append(log_z)
        return policies, log_zs, kl / len(rows)

    small, large = 0.0, 1e-6
    while solve(large)[2] < budget:
        small, large = large, 3 * large
    for _ in range(80):
        middle = (small + large) / 2
        small, large = (middle, large) if solve(middle)[2] < budget else (small, middle)
    policies, log_zs, _ = solve(small)
    as_tensors = {"log_probs": torch.tensor(policies), "log_z": torch.tensor(log_zs)}
    return out | {"beta": 1 / small} | as_tensors


RIGHT = {"the dual, by its slope": by_the_dual, "plain Python": in_plain_python}

# --- wrong ----------------------------------------------------------------------------------------------------------


def _solved(ref, r, beta):
    return optimal_policy(ref, r, beta)


def build(
    ref_log_probs,
    rewards,
    budget,
    *,
    reachable=lambda ref, r: torch.where(ref > -torch.inf, r, -torch.inf),
    mass=lambda of_best: of_best.logsumexp(-1),
    average=lambda kl: kl.mean().item(),
    divergence=kl_divergence,
    solve=_solved,
    log_z_of=lambda ref, r, beta: (ref + r / beta).logsumexp(-1),
    at_zero=lambda of_best: of_best.log_softmax(-1),
    slack=True,
    bracket=None,
    halvings=60,
    middle=lambda low, high: (low * high) ** 0.5,
    too_much_means_up=True,
    result=lambda beta: beta,
):
    """The course's way, with each of its parts open to a mistake."""
    possible = reachable(ref_log_probs, rewards)
    of_best = torch.where(possible == possible.amax(-1, keepdim=True), ref_log_probs, -torch.inf)
    limit = -average(mass(of_best))
    if slack and budget >= limit:
        return {"limit": limit, "beta": 0.0, "log_probs": at_zero(of_best)}

    def spent(beta):
        return average(divergence(solve(ref_log_probs, rewards, beta)[0], ref_log_probs))

    low, high = bracket or (1.0, 1.0)
    for _ in range(0 if bracket else 30):
        low = low / 2 if spent(low) < budget else low
        high = high * 2 if spent(high) > budget else high
    beta = low
    for _ in range(halvings):
        beta = middle(low, high)
        low, high = (beta, high) if (spent(beta) > budget) == too_much_means_up else (low, beta)
    log_probs = solve(ref_log_probs, rewards, beta)[0]
    return {
        "limit": limit,
        "beta": result(beta),
        "log_probs": log_probs,
        "log_z": log_z_of(ref_log_probs, rewards, beta),
    }


def mistaken(**parts):
    return functools.partial(build, **parts)


def unguarded(log_p, log_q):
    p = log_p.exp()
    return torch.where((p > 0) & (log_q > -torch.inf), p * (log_p - log_q), 0.0).sum(-1)


def one_each(ref_log_probs, rewards, budget):
    """A β for each prompt; their mean is reported."""
    rows = [build(ref[None], r[None], budget) for ref, r in zip(ref_log_probs, rewards, strict=True)]
    whole = build(ref_log_probs, rewards, budget)
    if whole["beta"] == 0:
        return whole
    return {
        "limit": whole["limit"],
        "beta": sum(row["beta"] for row in rows) / len(rows),
        "log_probs": torch.cat([row["log_probs"] for row in rows]),
        "log_z": torch.cat([row.get("log_z", torch.zeros(1)) for row in rows]),
    }


def naive_softmax(ref, r, beta):
    weights = ref.exp() * (r / beta).exp()
    return (weights / weights.sum(-1, keepdim=True)).log(), None


# --- written after the symptoms and the tolerances ------------------------------------------------------------------


def changed(change):
    """The right result, with a change made to it at the end."""

    def answer(ref_log_probs, rewards, budget):
        return change(build(ref_log_probs, rewards, budget), ref_log_probs, rewards)

    return answer


def scaled_first(ref_log_probs, rewards, budget):
    return build(ref_log_probs, rewards / rewards.std(), budget)


def centred_first(ref_log_probs, rewards, budget):
    return build(ref_log_probs, rewards - rewards.mean(-1, keepdim=True), budget)


def stops_at_a_hundredth(ref_log_probs, rewards, budget):
    low, high = 1e-9, 1e9
    out = build(ref_log_probs, rewards, budget)
    while out["beta"] > 0:
        beta = (low * high) ** 0.5
        log_probs, log_z = optimal_policy(ref_log_probs, rewards, beta)
        kl = kl_divergence(log_probs, ref_log_probs).mean()
        if abs(kl - budget) < 0.01 * budget:
            return out | {"beta": beta, "log_probs": log_probs, "log_z": log_z}
        low, high = (beta, high) if kl > budget else (low, beta)
    return out


def hottest(result, ref_log_probs, rewards):
    if result["beta"]:
        return result
    best = torch.where(ref_log_probs > -torch.inf, rewards, -torch.inf).argmax(-1, keepdim=True)
    return result | {"log_probs": torch.full_like(rewards, -torch.inf).scatter(-1, best, 0.0)}


def to_an_absolute_width(ref_log_probs, rewards, budget):
    out = build(ref_log_probs, rewards, budget)
    if not out["beta"]:
        return out
    low, high = 1e-9, 1e4
    while high - low > 1e-6:
        beta = (low + high) / 2
        log_probs, log_z = optimal_policy(ref_log_probs, rewards, beta)
        kl = kl_divergence(log_probs, ref_log_probs).mean()
        low, high = (beta, high) if kl > budget else (low, beta)
    return out | {"beta": beta, "log_probs": log_probs, "log_z": log_z}


MISTAKES = {
    "twice the budget": lambda ref, r, budget: build(ref, r, 2 * budget),
    "an absolute width": to_an_absolute_width,
    "the limit at a small β": changed(
        lambda out, ref, r: out | {"limit": kl_divergence(optimal_policy(ref, r, 0.05)[0], ref).mean().item()}
    ),
    "the reference where the leash is slack": changed(
        lambda out, ref, r: out if out["beta"] else out | {"log_probs": ref}
    ),
    "the softmax over the prompts": changed(
        lambda out, ref, r: out | {"log_probs": out["log_probs"].log_softmax(0)} if out["beta"] else out
    ),
    "log Z added up over the prompts": changed(
        lambda out, ref, r: out | {"log_z": out["log_z"].sum().expand(len(r))} if out["beta"] else out
    ),
    "the best answer is out of reach": mistaken(reachable=lambda ref, r: r, slack=False),
    "one best answer only": mistaken(mass=lambda of_best: of_best.amax(-1)),
    "KLs added up": mistaken(average=lambda kl: kl.sum().item()),
    "bits": mistaken(average=lambda kl: kl.mean().item() / math.log(2)),
    "a slack leash at a tiny price": mistaken(slack=False),
    "best answers share equally": mistaken(
        at_zero=lambda of_best: torch.where(of_best > -torch.inf, 0.0, -torch.inf).log_softmax(-1)
    ),
    "a β for each prompt": one_each,
    "KL(π_ref ‖ π)": mistaken(divergence=lambda log_p, log_q: unguarded(log_q, log_p)),
    "β times the reward": mistaken(
        solve=lambda ref, r, beta: ((ref + beta * r).log_softmax(-1), None),
        too_much_means_up=False,
        bracket=(1e-4, 1e4),
    ),
    "the reference left out": mistaken(
        solve=lambda ref, r, beta: ((r / beta).log_softmax(-1), None), divergence=unguarded
    ),
    "no Z": mistaken(
        solve=lambda ref, r, beta: (ref + r / beta, None), divergence=lambda p, q: kl_divergence(p.log_softmax(-1), q)
    ),
    "Z for log Z": mistaken(log_z_of=lambda ref, r, beta: (ref + r / beta).exp().sum(-1)),
    "Z without the reference": mistaken(log_z_of=lambda ref, r, beta: (r / beta).logsumexp(-1)),
    "the wrong half": mistaken(too_much_means_up=False),
    "eight halvings": mistaken(halvings=8),
    "β from 0.01 to 100": mistaken(bracket=(0.01, 100.0)),
    "exp overflows": mistaken(solve=naive_softmax, divergence=unguarded),
    "rewards divided by their standard deviation": scaled_first,
    "rewards centred": centred_first,
    "satisfied within one per cent": stops_at_a_hundredth,
    "a single best answer at β = 0": changed(hottest),
    "probabilities instead of logarithms": changed(lambda out, ref, r: out | {"log_probs": out["log_probs"].exp()}),
    "mean of log Z over the prompts": changed(
        lambda out, ref, r: out | ({"log_z": out["log_z"].mean()} if out["beta"] else {})
    ),
    "β in nats per reward": changed(lambda out, ref, r: out | {"beta": 1 / out["beta"] if out["beta"] else 0.0}),
    "the largest KL of a prompt": mistaken(average=lambda kl: kl.max().item()),
    "the limit is log N": changed(lambda out, ref, r: out | {"limit": math.log(ref.shape[-1])}),
    "log-ratios averaged without weights": mistaken(
        divergence=lambda p, q: torch.where(q > -torch.inf, p - q, 0.0).mean(-1)
    ),
    "the reference tempered too": mistaken(solve=lambda ref, r, beta: (((ref + r) / beta).log_softmax(-1), None)),
    "thirty halvings of the arithmetic mean": mistaken(
        bracket=(1e-6, 1e6), halvings=30, middle=lambda low, high: (low + high) / 2
    ),
}
RECOGNISED = {
    "twice the budget": "a multiple of the budget",
    "an absolute width": "a fixed unit",
    "the limit at a small β": "a limit in a unit",
    "the reference where the leash is slack": "more than the best at β = 0",
    "the softmax over the prompts": "another policy than that of β",
    "log Z added up over the prompts": "only Z",
    "the best answer is out of reach": "an answer that is out of reach",
    "one best answer only": "ties forgotten",
    "KLs added up": "sum instead of mean",
    "bits": "bits",
    "a slack leash at a tiny price": "no leash needed",
    "best answers share equally": "other shares at β = 0",
    "a β for each prompt": "a β for each prompt",
    "KL(π_ref ‖ π)": "the other KL",
    "β times the reward": "β upside down",
    "the reference left out": "reference forgotten",
    "no Z": "not normalised",
    "Z for log Z": "Z for log Z",
    "Z without the reference": "Z without the reference",
    "the wrong half": "the wrong half",
    "eight halvings": "stopped too early",
    "β from 0.01 to 100": "a fixed unit",
    "exp overflows": "overflow",
    "rewards divided by their standard deviation": "another reward",
    "rewards centred": "Z of shifted rewards",
    "satisfied within one per cent": "stopped too early",
    "a single best answer at β = 0": "one best answer at β = 0",
    "probabilities instead of logarithms": "probabilities",
    "mean of log Z over the prompts": "one Z for all prompts",
    "β in nats per reward": "β upside down",
    "the largest KL of a prompt": "another limit",
    "the limit is log N": "another limit",
    "log-ratios averaged without weights": "the wrong half",
    "the reference tempered too": "the reference tempered too",
    "thirty halvings of the arithmetic mean": "stopped too early",
}


# --- written after the symptoms and the tolerances --------------------------------------------------------------------


UNSEEN = {
    "the limit of the first prompt": changed(
        lambda out, ref, r: out | {"limit": -float(ref[0].gather(-1, r[0].argmax(-1, keepdim=True)))}
    ),
    "the limit with its sign turned": changed(lambda out, ref, r: out | {"limit": -out["limit"]}),
    "a hundredth of the rewards": lambda ref, r, budget: build(ref, r / 100, budget),
    "ranks for rewards": lambda ref, r, budget: build(ref, r.argsort(-1).argsort(-1).double(), budget),
    "half of the budget": lambda ref, r, budget: build(ref, r, budget / 2),
    "the reference sharpened": lambda ref, r, budget: build((2 * ref).log_softmax(-1), r, budget),
    "log Z without β": changed(lambda out, ref, r: out | {"log_z": (ref + r).logsumexp(-1)}),
    "log Z of the uniform reference": changed(
        lambda out, ref, r: (
            out | ({"log_z": (r / out["beta"]).logsumexp(-1) - math.log(r.shape[-1])} if out["beta"] else {})
        )
    ),
    "policy not centred": changed(lambda out, ref, r: out | {"log_probs": out["log_probs"] + 0.1}),
    "greedy policy": changed(
        lambda out, ref, r: (
            out | {"log_probs": torch.full_like(r, -torch.inf).scatter(-1, (ref + r).argmax(-1, keepdim=True), 0.0)}
        )
    ),
    "log β returned": changed(lambda out, ref, r: out | {"beta": math.log(out["beta"]) if out["beta"] else 0.0}),
    "mixture of reference and policy": changed(
        lambda out, ref, r: out | {"log_probs": torch.logaddexp(ref, out["log_probs"]) - math.log(2)}
    ),
    "entropy for KL": mistaken(divergence=lambda p, q: (p.exp() * torch.where(p > -torch.inf, p, 0.0)).sum(-1) + 3),
}
