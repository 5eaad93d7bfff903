"""Right answers to the questions of notebook 06, each written in another way than the reference."""

import torch
import torch.nn.functional as F


def answer_by_cross_entropy(logits, tokens, response_mask):
    losses = F.cross_entropy(logits[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none")
    return -(losses * response_mask[:, 1:]).sum(dim=1)


def answer_by_loop(logits, tokens, response_mask):
    rows = []
    for i in range(len(tokens)):
        total = torch.zeros((), dtype=logits.dtype)
        for column in range(1, tokens.shape[1]):
            if response_mask[i, column]:
                before = logits[i, column - 1]
                total = total + before[tokens[i, column]] - torch.logsumexp(before, 0)
        rows.append(total)
    return torch.stack(rows)


def answer_by_einsum(logits, tokens, response_mask):
    one_hot = F.one_hot(tokens, logits.shape[-1]).to(logits.dtype) * response_mask.unsqueeze(-1)
    return torch.einsum("blv,blv->b", logits.log_softmax(-1)[:, :-1], one_hot[:, 1:])


def answer_by_roll(logits, tokens, response_mask):
    """Shift the targets to the left instead of cutting off a column."""
    target, kept = tokens.roll(-1, 1), response_mask.roll(-1, 1)
    kept[:, -1] = False
    picked = torch.log_softmax(logits, dim=2).gather(2, target[..., None])[..., 0]
    return picked.masked_fill(~kept, 0).sum(1)


def reward_as_logarithm_of_a_ratio(log_probs, ref_log_probs, beta):
    return beta * torch.log(torch.exp(log_probs - ref_log_probs))


def reward_multiplied_out(log_probs, ref_log_probs, beta):
    return beta * log_probs - beta * ref_log_probs


def loss_by_softplus(policy_chosen, policy_rejected, ref_chosen, ref_rejected, beta):
    policy_difference, ref_difference = policy_chosen - policy_rejected, ref_chosen - ref_rejected
    return F.softplus(-beta * (policy_difference - ref_difference))


def loss_by_cross_entropy(policy_chosen, policy_rejected, ref_chosen, ref_rejected, beta):
    rewards = beta * torch.stack([policy_chosen - ref_chosen, policy_rejected - ref_rejected], dim=-1)
    return -rewards.log_softmax(-1)[:, 0]


def loss_by_loop(policy_chosen, policy_rejected, ref_chosen, ref_rejected, beta):
    rows = zip(policy_chosen, policy_rejected, ref_chosen, ref_rejected, strict=True)
    return torch.stack([-F.logsigmoid(beta * (a - c) - beta * (b - d)) for a, b, c, d in rows])


def weight_as_one_minus(chosen_rewards, rejected_rewards):
    return 1 - torch.sigmoid(chosen_rewards - rejected_rewards)


def weight_by_autograd(chosen_rewards, rejected_rewards):
    margin = (chosen_rewards - rejected_rewards).detach().requires_grad_()
    (slope,) = torch.autograd.grad(-F.logsigmoid(margin).sum(), margin)
    return -slope


def weight_by_softmax(chosen_rewards, rejected_rewards):
    return torch.stack([chosen_rewards, rejected_rewards]).softmax(0)[1]


def variants_by_softplus(h, beta, epsilon):
    m = beta * h
    return (1 - epsilon) * F.softplus(-m) + epsilon * F.softplus(m), h.square() - h / beta + 0.25 / beta**2


def variants_by_binary_cross_entropy(h, beta, epsilon):
    target = torch.full_like(h, 1 - epsilon)
    cdpo = F.binary_cross_entropy_with_logits(beta * h, target, reduction="none")
    return cdpo, (2 * beta * h - 1) ** 2 / (4 * beta**2)


RIGHT = {
    "q1": [answer_by_cross_entropy, answer_by_loop, answer_by_einsum, answer_by_roll],
    "q2": [reward_as_logarithm_of_a_ratio, reward_multiplied_out],
    "q3": [loss_by_softplus, loss_by_cross_entropy, loss_by_loop],
    "q4": [weight_as_one_minus, weight_by_autograd, weight_by_softmax],
    "q5": [variants_by_softplus, variants_by_binary_cross_entropy],
}
