"""Right answers to the questions of notebook 08, each written in another way than the reference."""

import numpy as np
import torch

from week6.tasks.assistant import build_tokenizer


def template_by_the_tokenizer(messages, reply):
    return build_tokenizer().apply_chat_template(messages, tokenize=False, add_generation_prompt=reply)


def template_by_concatenation(messages, reply):
    text = ""
    for message in messages:
        text += " <|" + message["role"] + "|> " + message["content"].strip().lower()
        text += " <|end|>" if message["role"] == "assistant" else ""
    return (text + (" <|assistant|>" if reply else "")).strip()


def mask_by_a_switch(tokens, assistant_id, end_id):
    mask = torch.zeros(tokens.shape, dtype=torch.bool)
    for i, row in enumerate(tokens.tolist()):
        learning = False
        for t, token in enumerate(row):
            mask[i, t] = learning
            if token == assistant_id:
                learning = True
            elif token == end_id:
                learning = False
    return mask


def mask_by_exclusive_sums(tokens, assistant_id, end_id):
    starts, ends = (tokens == assistant_id).int(), (tokens == end_id).int()
    return (torch.cumsum(starts, 1) - starts) > (torch.cumsum(ends, 1) - ends)


def mask_by_difference(tokens, assistant_id, end_id):
    change = (tokens == assistant_id).int() - (tokens == end_id).int()
    return torch.nn.functional.pad(change, (1, -1)).cumsum(-1).bool()


def table_by_loops(gold, sft_gold, harmful, refused):
    wins, yes, no = [], [], []
    for i in range(len(gold)):
        points = [1.0 if a > b else 0.5 if a == b else 0.0 for a in gold[i].tolist() for b in sft_gold[i].tolist()]
        wins.append(sum(points) / len(points))
        share = sum(refused[i].tolist()) / refused.shape[1]
        (yes if harmful[i] else no).append(share)
    table = []
    for values in (wins, yes, no):
        mean = sum(values) / len(values)
        squares = sum((x - mean) ** 2 for x in values)
        table.append([mean, (squares / (len(values) * (len(values) - 1))) ** 0.5])
    return torch.tensor(table)


def table_by_sign(gold, sft_gold, harmful, refused):
    wins = (1 + torch.sign(gold.unsqueeze(2) - sft_gold.unsqueeze(1))) / 2
    rates = refused.float().mean(-1)
    rows = [wins.flatten(1).mean(1), rates[harmful], rates[~harmful]]
    return torch.tensor([[float(r.mean()), float(r.var().div(r.numel()).sqrt())] for r in rows])


def table_by_numpy(gold, sft_gold, harmful, refused):
    """In double precision."""
    a, b, rate, bad = gold.numpy(), sft_gold.numpy(), refused.numpy().mean(1), harmful.numpy()
    wins = (0.5 + 0.5 * np.sign(a[:, :, None] - b[:, None, :])).mean((1, 2))
    return torch.tensor([[x.mean(), x.std(ddof=1) / np.sqrt(len(x))] for x in (wins, rate[bad], rate[~bad])])


RIGHT = {
    "q1": [template_by_the_tokenizer, template_by_concatenation],
    "q2": [mask_by_a_switch, mask_by_exclusive_sums, mask_by_difference],
    "q3": [table_by_loops, table_by_sign, table_by_numpy],
}
