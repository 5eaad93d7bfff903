"""Right answers to the questions of notebook 00, each written in another way than the reference."""

import numpy as np
import torch


def agreement_by_loop(first, second):
    same = 0
    for a, b in zip(first.tolist(), second.tolist(), strict=True):
        same += a == b
    return torch.tensor(same / len(first))


def agreement_by_xor(first, second):
    return 1 - torch.logical_xor(first, second).float().mean()


def agreement_by_einsum(a, b):
    a, b = a.float(), b.float()
    return (torch.einsum("n,n->", a, b) + torch.einsum("n,n->", 1 - a, 1 - b)) / len(a)


def agreement_in_double_precision(first, second):
    return ((first & second) | (~first & ~second)).double().mean()


def agreement_in_numpy(first, second):
    return np.mean(first.numpy() == second.numpy())


def kappa_over_all_pairs_of_items(first, second):
    observed = (first == second).double().mean()
    chance = (first[:, None] == second[None, :]).double().mean()
    return (observed - chance) / (1 - chance)


def kappa_by_table(first, second):
    table = torch.zeros(2, 2)
    for a, b in zip(first.int().tolist(), second.int().tolist(), strict=True):
        table[a, b] += 1
    table = table / table.sum()
    chance = (table.sum(0) * table.sum(1)).sum()
    return (table.diagonal().sum() - chance) / (1 - chance)


def kappa_by_disagreement(a, b):
    p, q = a.float().mean(), b.float().mean()
    return 1 - (a != b).float().mean() / (p * (1 - q) + q * (1 - p))


def expected_by_complement(probability):
    return 1 - 2 * (probability * (1 - probability)).mean()


def expected_by_loop(probability):
    total = torch.tensor(0.0)
    for p in probability:
        total = total + p * p + (1 - p) * (1 - p)
    return total / len(probability)


def rates_by_product(harmful, refused):
    h, r = harmful.float(), refused.float()
    return (h * r).sum() / h.sum(), ((1 - h) * r).sum() / (1 - h).sum()


def rates_by_loop(harmful, refused):
    rates = []
    for wanted in (True, False):
        hits = [r for h, r in zip(harmful.tolist(), refused.tolist(), strict=True) if h == wanted]
        rates.append(torch.tensor(sum(hits) / len(hits)))
    return tuple(rates)


def rates_in_double_precision(harmful, refused):
    return tuple(refused[harmful == kind].double().mean() for kind in (True, False))


def sample_by_searchsorted(forecast, prompts, numbers, temperature, end):
    """A list of columns; the search is torch's."""
    said, ended = [], torch.zeros(len(prompts), 1, dtype=torch.bool)
    for number in numbers.split(1, dim=1):
        logits = forecast(torch.cat([prompts, *said], dim=1))
        line = torch.softmax(logits / temperature, dim=-1).cumsum(-1)
        token = torch.searchsorted(line, number.to(line.dtype).contiguous(), right=True).clamp(max=line.shape[1] - 1)
        token[ended] = end
        ended |= token == end
        said.append(token)
    return torch.cat(said, dim=1)


def sample_row_by_row(forecast, prompts, numbers, temperature, end):
    """Loops over rows, rounds and tokens, with powers of probabilities in place of divided logits."""
    rows = []
    for prompt, row in zip(prompts, numbers.tolist(), strict=True):
        said = []
        for number in row:
            if end in said:
                said.append(end)
                continue
            tokens = torch.tensor([prompt.tolist() + said])
            weights = [p ** (1 / temperature) for p in forecast(tokens)[0].double().softmax(-1).tolist()]
            left, token = number * sum(weights), 0
            while left >= weights[token] and token < len(weights) - 1:
                left -= weights[token]
                token += 1
            said.append(token)
        rows.append(said)
    return torch.tensor(rows)


def sample_into_a_table(forecast, prompts, numbers, temperature, end):
    """A table that is full of ends from the start; only rows that still speak are asked."""
    width = prompts.shape[1]
    table = torch.cat([prompts, torch.full(numbers.shape, end)], dim=1)
    going = torch.ones(len(prompts), dtype=torch.bool)
    for t in range(numbers.shape[1]):
        chance = (forecast(table[:, : width + t]).double() / temperature).softmax(-1)
        line = chance.cumsum(-1)
        drawn = (line > numbers[:, t].unsqueeze(1)).long().argmax(-1)
        table[going, width + t] = drawn[going]
        going &= table[:, width + t] != end
    return table[:, width:]


RIGHT = {
    "q1": [
        agreement_by_loop,
        agreement_by_xor,
        agreement_by_einsum,
        agreement_in_double_precision,
        agreement_in_numpy,
    ],
    "q2": [kappa_by_table, kappa_by_disagreement, kappa_over_all_pairs_of_items],
    "q3": [expected_by_complement, expected_by_loop],
    "q4": [rates_by_product, rates_by_loop, rates_in_double_precision],
    "q6": [sample_by_searchsorted, sample_row_by_row, sample_into_a_table],
}
