"""Answers to the capstone of notebook 09: the loop of policy gradients in groups.

`loop` is the algorithm with one part done otherwise; each mistake is one such part.
"""

import math

import torch


def sampled(old, log_ref, k, g):
    return torch.multinomial(old.exp(), k, replacement=True, generator=g)


def shaped_by_kl(rewards, log_ratio, beta):
    return rewards - beta * log_ratio


def leave_one_out(r):
    return r - (r.sum(1, keepdim=True) - r) / (r.shape[1] - 1)


def clipped(advantages, log_ratio, clip):
    ratio = log_ratio.exp()
    return -torch.minimum(advantages * ratio, advantages * ratio.clamp(1 - clip, 1 + clip)).mean()


def adam(logits, rate):
    return torch.optim.Adam([logits], lr=rate)


def loop(
    start=lambda log_ref: log_ref.clone(),
    answer=sampled,
    shape=shaped_by_kl,
    advantage=leave_one_out,
    loss=clipped,
    optimizer=adam,
    moves=True,
    restart=False,
    whole=True,
    reported=lambda logits: logits.log_softmax(-1),
):
    """The algorithm, with its parts to be replaced."""

    def train(log_ref, rewards, beta, k, iterations, passes, rate, clip, generator):
        logits = start(log_ref).requires_grad_()
        steps = optimizer(logits, rate)
        for _ in range(iterations):
            if restart:
                logits = start(log_ref).requires_grad_()
                steps = optimizer(logits, rate)
            old = logits.detach().log_softmax(-1)
            answers = answer(old, log_ref, k, generator)
            shaped = shape(rewards.gather(1, answers), (old - log_ref).gather(1, answers), beta)
            advantages = advantage(shaped)
            for _ in range(passes):
                value = loss(advantages, (logits.log_softmax(-1) - old).gather(1, answers), clip)
                steps.zero_grad()
                value.backward()
                if moves:
                    steps.step()
            row = {"old": old, "answers": answers, "shaped": shaped, "advantages": advantages}
            if whole:
                row["new"] = reported(logits.detach())
            yield row

    return train


def by_loops(log_ref, rewards, beta, k, iterations, passes, rate, clip, generator):
    """Plain Python over prompts and answers, the gradient by hand, plain ascent on one pass."""
    logits = log_ref.clone()
    rows = []
    for _ in range(iterations):
        old = logits.log_softmax(-1)
        answers, shaped, advantages = [], [], []
        for x in range(len(log_ref)):
            drawn = [int(torch.multinomial(old[x].exp(), 1, generator=generator)) for _ in range(k)]
            r = [float(rewards[x, y]) - beta * float(old[x, y] - log_ref[x, y]) for y in drawn]
            a = [r[i] - (sum(r) - r[i]) / (k - 1) for i in range(k)]
            for y, gain in zip(drawn, a, strict=True):
                one_hot = torch.zeros_like(logits[x])
                one_hot[y] = 1
                logits[x] += 2.0 * gain / k * (one_hot - old[x].exp())
            answers.append(drawn)
            shaped.append(r)
            advantages.append(a)
        new = logits.log_softmax(-1)
        rows.append(
            dict(zip(("old", "answers", "shaped", "advantages", "new"),
                     (old, torch.tensor(answers), torch.tensor(shaped), torch.tensor(advantages), new), strict=True))
        )  # fmt: skip
    return rows


def with_gumbel(old, log_ref, k, g):
    """The k answers by Gumbel noise."""
    noise = -torch.log(-torch.log(torch.rand(k, *old.shape, generator=g, dtype=old.dtype)))
    return (old + noise).argmax(-1).T


RIGHT = {
    "loops, gradient by hand": by_loops,
    "SGD": loop(optimizer=lambda logits, rate: torch.optim.SGD([logits], lr=3.0)),
    "Gumbel noise": loop(answer=with_gumbel, optimizer=lambda logits, rate: torch.optim.AdamW([logits], lr=rate)),
}


def greedy(old, log_ref, k, g):
    return old.argmax(-1, keepdim=True).expand(-1, k)


def of_the_reference(old, log_ref, k, g):
    return torch.multinomial(log_ref.exp(), k, replacement=True, generator=g)


def standardised(r):
    return (r - r.mean(1, keepdim=True)) / (r.std(1, keepdim=True) + 1e-4)


# --- written after the symptoms and the tolerances --------------------------------------------------------------------


def same_draws(old, log_ref, k, g):
    return torch.multinomial(old.exp(), k, replacement=True, generator=torch.Generator().manual_seed(0))


def half_of_the_reference(old, log_ref, k, g):
    return torch.multinomial((old.exp() + log_ref.exp()) / 2, k, replacement=True, generator=g)


def ranks(r):
    return r.argsort(1).argsort(1) - (r.shape[1] - 1) / 2


MISTAKES = {
    "uniform start": loop(start=torch.zeros_like),
    "greedy": loop(answer=greedy),
    "answers of the reference": loop(answer=of_the_reference),
    "KL left out": loop(shape=lambda r, d, beta: r),
    "KL added": loop(shape=lambda r, d, beta: r + beta * d),
    "β left out": loop(shape=lambda r, d, beta: r - d),
    "β squared": loop(shape=lambda r, d, beta: r - beta**2 * d),
    "mean of all": loop(advantage=lambda r: r - r.mean(1, keepdim=True)),
    "standardised": loop(advantage=standardised),
    "across prompts": loop(advantage=lambda r: r - r.mean(0, keepdim=True)),
    "no baseline": loop(advantage=lambda r: r),
    "sign of the advantage": loop(advantage=lambda r: -leave_one_out(r)),
    "sign of the loss": loop(loss=lambda a, d, clip: -clipped(a, d, clip)),
    "no step": loop(moves=False),
    "starts again each time": loop(restart=True),
    "divided by K": loop(advantage=lambda r: r - (r.sum(1, keepdim=True) - r) / r.shape[1]),
    "answers at another temperature": loop(
        answer=lambda old, ref, k, g: torch.multinomial((0.5 * old).softmax(-1), k, replacement=True, generator=g)
    ),
    "uniform answers": loop(answer=lambda old, ref, k, g: torch.randint(6, (len(old), k), generator=g)),
    "k3 in place of k1": loop(shape=lambda r, d, beta: r - beta * (torch.exp(-d) - 1 + d)),
    "β divides": loop(shape=lambda r, d, beta: r - d / beta),
    "median of the group": loop(advantage=lambda r: r - r.median(1, keepdim=True).values),
    "divided by the variance": loop(
        advantage=lambda r: (r - r.mean(1, keepdim=True)) / (r.var(1, keepdim=True) + 1e-4)
    ),
    "whitened over the batch": loop(advantage=lambda r: (r - r.mean()) / r.std()),
    "a ratio without gradient": loop(loss=lambda a, d, clip: clipped(a, d.detach().requires_grad_(), clip)),
    "loss of −log π without the sign of the advantage": loop(loss=lambda a, d, clip: -(a.abs() * d).mean()),
    "learning rate of a thousandth": loop(optimizer=lambda logits, rate: torch.optim.Adam([logits], lr=rate / 1000)),
    "new is old": loop(reported=lambda logits: torch.full_like(logits, math.log(1 / 6))),
    "the same random numbers": loop(answer=same_draws),
    "half of the reference": loop(answer=half_of_the_reference),
    "sharpened answers": loop(
        answer=lambda old, ref, k, g: torch.multinomial((2 * old).softmax(-1), k, replacement=True, generator=g)
    ),
    "KL in bits": loop(shape=lambda r, d, beta: r - beta * d / math.log(2)),
    "KL cut off": loop(shape=lambda r, d, beta: r - beta * d.clamp(-0.2, 0.2)),
    "verdicts of ±1": loop(shape=lambda r, d, beta: 2 * r - 1 - beta * d),
    "KL of the whole group": loop(shape=lambda r, d, beta: r - beta * d.mean(1, keepdim=True)),
    "ranks": loop(advantage=ranks),
    "the neighbour as baseline": loop(advantage=lambda r: r - r.roll(1, 1)),
    "only what is better": loop(advantage=lambda r: leave_one_out(r).clamp(min=0)),
    "divided by the mean size": loop(
        advantage=lambda r: leave_one_out(r) / leave_one_out(r).abs().mean(1, keepdim=True).clamp(min=1e-4)
    ),
    "ratio upside down": loop(loss=lambda a, d, clip: clipped(a, -d, clip)),
    "first prompt only": loop(loss=lambda a, d, clip: clipped(a[:1], d[:1], clip)),
    "half of the learning rate": loop(optimizer=lambda logits, rate: torch.optim.Adam([logits], lr=rate / 1e4)),
}
RECOGNISED = {
    "divided by K": "the sum of the others",
    "uniform start": "uniform start",
    "greedy": "the same answer K times",
    "answers of the reference": "answers of the reference",
    "KL left out": "no KL",
    "KL added": "sign of the KL",
    "β left out": "no β",
    "mean of all": "mean of all",
    "standardised": "divided by the spread",
    "across prompts": "across prompts",
    "no baseline": "no baseline",
    "sign of the advantage": "sign of the advantage",
    "sign of the loss": "the loss upside down",
    "no step": "nothing moves",
    "starts again each time": "forgets",
    "answers at another temperature": "answers too unlikely",
    "uniform answers": "uniform answers",
    "k3 in place of k1": "another estimator",
    "β divides": "another price",
    "median of the group": "another middle",
    "divided by the variance": "scaled by the group",
    "whitened over the batch": "whitened over the batch",
    "a ratio without gradient": "nothing moves",
    "loss of −log π without the sign of the advantage": "downhill",
    "learning rate of a thousandth": "another learning rate",
    "new is old": "`new` is not what answers next",
    "the same random numbers": "the same random numbers",
    "half of the reference": "answers too unlikely",
    "sharpened answers": "answers too likely",
    "KL in bits": "another price",
    "KL cut off": "the price otherwise",
    "verdicts of ±1": "the verdict changed",
    "KL of the whole group": "the price otherwise",
    "ranks": "advantages by another rule",
    "the neighbour as baseline": "another single answer",
    "only what is better": "signs cut off",
    "divided by the mean size": "advantages by another rule",
    "ratio upside down": "downhill",
    "first prompt only": "another first update",
    "half of the learning rate": "another learning rate",
    "β squared": "another price",
}


# --- written after the symptoms and the tolerances --------------------------------------------------------------------


UNSEEN = {
    # The first three pass: the ratios of these few passes stay near 1, and the policy gets to the optimum all the same.
    "maximum of the surrogates": loop(
        loss=lambda a, d, clip: -torch.maximum(a * d.exp(), a * d.exp().clamp(1 - clip, 1 + clip)).mean()
    ),
    "clip around 0": loop(loss=lambda a, d, clip: -torch.minimum(a * d.exp(), a * d.exp().clamp(-clip, clip)).mean()),
    "KL in the loss as well": loop(loss=lambda a, d, clip: clipped(a, d, clip) + 0.5 * d.exp().mean()),
    "top three": loop(
        answer=lambda old, ref, k, g: torch.multinomial(
            torch.where(old >= old.topk(3).values[:, -1:], old.exp(), 0.0), k, replacement=True, generator=g
        )
    ),
    "answers of the first prompt": loop(
        answer=lambda old, ref, k, g: torch.multinomial(old[0].exp(), k, replacement=True, generator=g).expand(
            len(old), k
        )
    ),
    "half of β": loop(shape=lambda r, d, beta: r - beta / 2 * d),
    "KL against uniform": loop(shape=lambda r, d, beta: r - beta * (d + 1)),
    "product": loop(shape=lambda r, d, beta: r * (1 - beta * d)),
    "exponential reward": loop(shape=lambda r, d, beta: (r / beta).exp() - beta * d),
    "mean over two groups": loop(advantage=lambda r: r - r.view(len(r), 2, -1).mean(2).repeat_interleave(8, 1)),
    "mean and minus the best": loop(advantage=lambda r: r - r.topk(2, 1).values.mean(1, keepdim=True)),
    "centred, divided by the range": loop(
        advantage=lambda r: leave_one_out(r) / (r.max(1, keepdim=True).values - r.min(1, keepdim=True).values + 1e-4)
    ),
    "half of the advantage": loop(advantage=lambda r: leave_one_out(r) / 2),
    "squared ratio": loop(loss=lambda a, d, clip: clipped(a, 2 * d, clip) * 50 - 60 * d.mean()),
    "loss of the old policy": loop(loss=lambda a, d, clip: clipped(a.roll(1, 1), d, clip)),
    "entropy": loop(loss=lambda a, d, clip: clipped(a, d, clip) + 0.3 * d.mean()),
    "rate falls at once": loop(optimizer=lambda logits, rate: torch.optim.Adagrad([logits], lr=rate / 5)),
}
