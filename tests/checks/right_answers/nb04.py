"""Right answers to the questions of notebook 04, each written in another way than the reference."""

import torch


def to_go_by_matrix(rewards, mask, gamma=1.0):
    """G = Σ_s D[t, s] r_s with D[t, s] = γ^(s − t) for s ≥ t."""
    width = rewards.shape[1]
    distance = torch.arange(width)[None, :] - torch.arange(width)[:, None]
    discount = torch.where(distance >= 0, gamma ** distance.clamp(min=0).to(rewards.dtype), 0)
    return torch.einsum("ts,bs->bt", discount, rewards * mask) * mask


def to_go_by_rows(rewards, mask, gamma=1.0):
    rows = []
    for reward, real in zip(rewards, mask, strict=True):
        n = int(real.sum())
        g, row = 0.0, [0.0] * len(reward)
        for t in range(n - 1, -1, -1):
            g = reward[t].item() + gamma * g
            row[t] = g
        rows.append(row)
    return torch.tensor(rows, dtype=rewards.dtype)


def to_go_by_definition(rewards, mask, gamma=1.0):
    r = rewards.masked_fill(~mask, 0)
    return torch.stack([sum(gamma ** (s - t) * r[:, s] for s in range(t, r.shape[1])) for t in range(r.shape[1])], 1)


def gae_by_matrix(rewards, values, mask, gamma=1.0, lam=0.95):
    v = torch.where(mask, values, 0)
    ahead = torch.nn.functional.pad(v, (0, 1))[:, 1:]
    delta = torch.where(mask, rewards + gamma * ahead - v, 0)
    advantages = to_go_by_matrix(delta, mask, gamma * lam)
    return advantages, (advantages + v) * mask


def gae_by_rows(rewards, values, mask, gamma=1.0, lam=0.95):
    advantages, returns = torch.zeros_like(rewards), torch.zeros_like(rewards)
    for i in range(rewards.shape[0]):
        n = int(mask[i].sum())
        last = 0.0
        for t in reversed(range(n)):
            after = values[i, t + 1] if t + 1 < n else 0.0
            last = rewards[i, t] + gamma * after - values[i, t] + gamma * lam * last
            advantages[i, t] = last
            returns[i, t] = last + values[i, t]
    return [advantages, returns]


def gae_by_mixture(rewards, values, mask, gamma=1.0, lam=0.95):
    """λ-returns first: R_t = r_t + γ((1 − λ) V_{t+1} + λ R_{t+1}); the advantages follow."""
    m = mask.to(rewards.dtype)
    r, v = rewards * m, values * m
    later_v = later_r = torch.zeros_like(r[:, 0])
    columns = []
    for t in range(r.shape[1] - 1, -1, -1):
        later_r = (r[:, t] + gamma * ((1 - lam) * later_v + lam * later_r)) * m[:, t]
        later_v = v[:, t]
        columns.insert(0, later_r)
    returns = torch.stack(columns, dim=-1)
    return returns - v, returns


def loss_by_cases(log_probs, old_log_probs, advantages, mask, clip=0.2):
    """Region by region: held at the edge of the band in regions 3 and 4, free elsewhere."""
    rho = torch.exp(log_probs - old_log_probs)
    rho = torch.where((advantages > 0) & (rho > 1 + clip), 1 + clip, rho)
    rho = torch.where((advantages < 0) & (rho < 1 - clip), 1 - clip, rho)
    return -(rho * advantages)[mask].mean()


def loss_by_tokens(log_probs, old_log_probs, advantages, mask, clip=0.2):
    total, n = 0.0, 0
    for i, t in mask.nonzero().tolist():
        rho, a = (log_probs[i, t] - old_log_probs[i, t]).exp(), advantages[i, t]
        total = total + min(rho * a, rho.clip(1 - clip, 1 + clip) * a)
        n += 1
    return -total / n


def loss_by_einsum(log_probs, old_log_probs, advantages, mask, clip=0.2):
    rho = log_probs.exp() / old_log_probs.exp()
    both = torch.stack([rho, torch.minimum(torch.maximum(rho, rho.new_tensor(1 - clip)), rho.new_tensor(1 + clip))])
    worst = (-advantages * both).max(dim=0).values
    weights = mask.to(rho.dtype)
    return torch.einsum("bt,bt->", worst, weights) / weights.sum()


def whiten_by_selection(x, mask, shift_mean=True):
    real = x[mask]
    white = (real - real.mean()) / (real.var(correction=0) + 1e-8).sqrt()
    result = torch.zeros_like(x)
    result[mask] = white if shift_mean else white + real.mean()
    return result


def whiten_by_squares(x, mask, shift_mean=True):
    """Variance as mean of the square minus square of the mean, in double precision."""
    m, d = mask.double(), x.double()
    n = m.sum()
    mean = (d * m).sum() / n
    variance = ((d**2 * m).sum() / n - mean**2).clamp(min=0)
    white = (d - mean) / (variance + 1e-8) ** 0.5
    return ((white + (0.0 if shift_mean else mean)) * m).to(x.dtype)


def whiten_by_std(x, mask, shift_mean=True):
    mean = x.masked_select(mask).mean()
    std = x.masked_select(mask).std(unbiased=False)
    centred = (x - mean) / (std + 1e-8)
    return torch.where(mask, centred if shift_mean else centred + mean, 0)


RIGHT = {
    "q1": [to_go_by_matrix, to_go_by_rows, to_go_by_definition],
    "q2": [gae_by_matrix, gae_by_rows, gae_by_mixture],
    "q3": [loss_by_cases, loss_by_tokens, loss_by_einsum],
    "q4": [{4, 3}, frozenset((3, 4))],
    "q5": [whiten_by_selection, whiten_by_squares, whiten_by_std],
}
