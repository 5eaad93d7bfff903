"""Right answers to the questions of notebook 05, each written in another way than the reference."""

import math

import torch


def mask_by_length(responses, eos_id):
    """The number of words is the place of the first EOS."""
    words = (responses != eos_id).sum(dim=1)
    return torch.arange(responses.shape[1]).expand_as(responses) <= words[:, None]


def mask_by_loop(responses, eos_id):
    mask = torch.zeros(responses.shape, dtype=torch.bool)
    for i, row in enumerate(responses.tolist()):
        for t, token in enumerate(row):
            mask[i, t] = True
            if token == eos_id:
                break
    return mask


def mask_by_shift(responses, eos_id):
    """Not EOS, or EOS right after a token that is not; the first column always."""
    words = responses != eos_id
    return torch.cat([torch.ones_like(words[:, :1]), words[:, :-1]], dim=1) | words


def rewards_by_scatter(scores, finished, log_probs, ref_log_probs, mask, beta, penalty):
    rewards = torch.where(mask, beta * (ref_log_probs - log_probs), 0)
    earned = scores.masked_fill(~finished, penalty)
    return rewards.scatter_add(1, mask.sum(1, keepdim=True) - 1, earned[:, None])


def rewards_by_loop(scores, finished, log_probs, ref_log_probs, mask, beta, penalty):
    rewards = torch.zeros_like(log_probs)
    for i in range(len(scores)):
        length = int(mask[i].sum())
        for t in range(length):
            rewards[i, t] = -beta * (log_probs[i, t] - ref_log_probs[i, t])
        rewards[i, length - 1] += scores[i] if finished[i] else penalty
    return rewards


def rewards_by_one_hot(scores, finished, log_probs, ref_log_probs, mask, beta, penalty):
    last = torch.nn.functional.one_hot(mask.sum(1) - 1, mask.shape[1])
    earned = finished * scores + ~finished * penalty
    return -beta * (log_probs - ref_log_probs) * mask + torch.einsum("b,bt->bt", earned, last.to(scores.dtype))


def update_in_one_go(log_probs, values, old_log_probs, old_values, advantages, returns, mask, clip=0.2, value_coef=0.1):
    real = mask.bool()
    a = advantages[real]
    a = (a - a.mean()) / torch.sqrt(a.var(correction=0) + 1e-8)
    rho = torch.exp(log_probs[real] - old_log_probs[real])
    surrogate = torch.minimum(a * rho, a * torch.clip(rho, 1 - clip, 1 + clip)).mean()
    held = old_values[real] + (values[real] - old_values[real]).clamp(-clip, clip)
    errors = torch.stack([(values[real] - returns[real]) ** 2, (held - returns[real]) ** 2])
    return value_coef * errors.amax(0).mean() / 2 - surrogate


def update_by_cases(log_probs, values, old_log_probs, old_values, advantages, returns, mask, clip=0.2, value_coef=0.1):
    """Where the clip acts, the loss is a constant; elsewhere it is −Â ρ."""
    n = mask.sum()
    centred = advantages - (advantages * mask).sum() / n
    a = centred / ((centred**2 * mask).sum() / n + 1e-8) ** 0.5
    rho = (log_probs - old_log_probs).exp()
    stopped = ((rho > 1 + clip) & (a > 0)) | ((rho < 1 - clip) & (a < 0))
    edge = torch.where(rho > 1, torch.full_like(rho, 1 + clip), torch.full_like(rho, 1 - clip))
    policy = -a * torch.where(stopped, edge, rho)
    near = torch.minimum(torch.maximum(values, old_values - clip), old_values + clip)
    free, held = (values - returns).square(), (near - returns).square()
    value = torch.where(held > free, held, free) / 2
    return ((policy + value_coef * value) * mask).sum() / n


def beta_by_cases(beta, kl, target, n, horizon):
    if kl > 1.2 * target:
        error = 0.2
    elif kl < 0.8 * target:
        error = -0.2
    else:
        error = (kl - target) / target
    return beta + beta * error * n / horizon


def beta_by_tensor(beta, kl, target, n, horizon):
    error = torch.clamp(torch.tensor(kl / target - 1.0, dtype=torch.float64), -0.2, 0.2).item()
    return math.fsum([beta, beta * error * n / horizon])


def beta_by_single_precision(beta, kl, target, n, horizon):
    """Stays a tensor, in float32."""
    return beta * (1 + torch.clamp(torch.tensor(kl / target - 1), -0.2, 0.2) * n / horizon)


RIGHT = {
    "q1": [mask_by_length, mask_by_loop, mask_by_shift],
    "q2": [rewards_by_scatter, rewards_by_loop, rewards_by_one_hot],
    "q3": [update_in_one_go, update_by_cases],
    "q4": [beta_by_cases, beta_by_tensor, beta_by_single_precision],
}
