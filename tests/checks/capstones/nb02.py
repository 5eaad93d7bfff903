"""Reward models with their training, right and wrong."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from week6.log_probs import position_ids


def _last(mask):
    return (mask.long() * torch.arange(mask.shape[1])).argmax(-1)


def _one(column):
    """Read the vector at one column."""
    return lambda hidden, mask: hidden[torch.arange(len(hidden)), column(mask)]


def _loss(chosen, rejected):
    return -F.logsigmoid(chosen - rejected).mean()


def _model(
    *,
    read=lambda hidden, mask: hidden[torch.arange(len(hidden)), _last(mask)],
    shape=lambda scores: scores.squeeze(-1),
    start=lambda head, d: nn.init.normal_(head.weight, std=1 / math.sqrt(d + 1)),
    inputs=lambda ids, mask: {"attention_mask": mask.long(), "position_ids": position_ids(mask)},
    squash=lambda scores: scores,
    order=lambda n, epoch: torch.randperm(n),
    both=lambda pairs, n: torch.cat([pairs, pairs + n]),
    loss_of=_loss,
    trained=lambda loss, chosen, rejected: loss,
    weights=lambda model: model.parameters(),
    make=torch.optim.Adam,
    step_now=True,
    epochs_of=lambda epochs: epochs,
):
    """The course's reward model, with one part of it replaced."""

    class Answer(nn.Module):
        def __init__(self, language_model):
            super().__init__()
            self.trunk, width = language_model.base_model, language_model.config.hidden_size
            self.head = nn.Linear(width, 1)
            nn.init.zeros_(self.head.bias)
            start(self.head, width)

        def forward(self, ids, mask):
            hidden = self.trunk(input_ids=ids, **inputs(ids, mask)).last_hidden_state
            return squash(shape(self.head(read(hidden, mask))))

        def fit(self, ids, mask, epochs, batch_size, learning_rate):
            optimizer, n = make(weights(self), lr=learning_rate), len(ids) // 2
            for epoch in range(epochs_of(epochs)):
                for pairs in order(n, epoch).split(batch_size):
                    rows = both(pairs, n)
                    chosen, rejected = self(ids[rows], mask[rows]).chunk(2)
                    loss = loss_of(chosen, rejected)
                    optimizer.zero_grad()
                    trained(loss, chosen, rejected).backward()
                    if step_now:
                        optimizer.step()
                    yield {"pairs": pairs, "loss": loss.detach()}

    return Answer


class ByGather(nn.Module):
    """A weight vector and a bias of its own, the last token by gather, two forward passes, yields before the update."""

    def __init__(self, language_model):
        super().__init__()
        self.lm = language_model.base_model
        d = language_model.config.hidden_size
        self.v = nn.Parameter(torch.randn(d) * (d + 1) ** -0.5)
        self.b = nn.Parameter(torch.zeros(()))

    def forward(self, ids, mask):
        positions = (mask.long().cumsum(-1) - 1).clamp(min=0)
        h = self.lm(ids, attention_mask=mask, position_ids=positions).last_hidden_state
        last = mask.shape[1] - 1 - mask.long().flip(-1).argmax(-1)
        h = h.gather(1, last.view(-1, 1, 1).expand(-1, 1, h.shape[-1]))[:, 0]
        return h @ self.v + self.b

    def fit(self, ids, mask, epochs, batch_size, learning_rate):
        optimizer = torch.optim.AdamW(self.parameters(), lr=learning_rate, weight_decay=0.0)
        chosen, rejected = ids.tensor_split(2)
        m_w, m_l = mask.tensor_split(2)
        for _ in range(epochs):
            for pairs in torch.utils.data.DataLoader(range(len(chosen)), batch_size=batch_size, shuffle=True):
                margin = self(chosen[pairs], m_w[pairs]) - self(rejected[pairs], m_l[pairs])
                loss = F.softplus(-margin).mean()
                yield {"pairs": pairs, "loss": loss.item()}
                self.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(self.parameters(), 1.0)
                optimizer.step()


class RowByRow(nn.Module):
    """No padding at all: each text by itself; gradient steps by hand, as Adam takes them."""

    def __init__(self, language_model):
        super().__init__()
        self.trunk = language_model.base_model
        self.scorer = nn.Sequential(nn.Linear(language_model.config.hidden_size, 1))
        with torch.no_grad():
            self.scorer[0].weight.normal_(0, 1 / math.sqrt(language_model.config.hidden_size + 1))
            self.scorer[0].bias.fill_(0)

    def forward(self, ids, mask):
        h = self.trunk(input_ids=ids, attention_mask=mask.float(), position_ids=position_ids(mask)).last_hidden_state
        at_end = [row[torch.nonzero(keep).max()] for row, keep in zip(h, mask, strict=True)]
        return torch.cat([self.scorer(vector) for vector in at_end])

    def fit(self, ids, mask, epochs, batch_size, learning_rate):
        n, moments, step = len(ids) // 2, [[torch.zeros_like(w), torch.zeros_like(w)] for w in self.parameters()], 0
        for _ in range(epochs):
            order = torch.randperm(n).tolist()
            while order:
                pairs, order = order[:batch_size], order[batch_size:]
                scores = self(ids[pairs + [n + i for i in pairs]], mask[pairs + [n + i for i in pairs]])
                losses = [-F.logsigmoid(scores[i] - scores[len(pairs) + i]) for i in range(len(pairs))]
                loss = torch.stack(losses).mean()
                weights = [w for w in self.parameters() if w.requires_grad]
                gradients = torch.autograd.grad(loss, weights, allow_unused=True)
                step += 1
                with torch.no_grad():
                    for w, g, (m, v) in zip(weights, gradients, moments, strict=True):
                        if g is not None:
                            m.lerp_(g, 0.1)
                            v.lerp_(g * g, 0.001)
                            w -= learning_rate * m / (1 - 0.9**step) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
                yield {"pairs": torch.tensor(pairs), "loss": loss}


RIGHT = {"by gather": ByGather, "row by row": RowByRow}


MISTAKES = {
    "shape (B, 1)": _model(shape=lambda scores: scores),
    "every token": _model(read=lambda hidden, mask: hidden),
    "last column": _model(read=_one(lambda mask: torch.full((len(mask),), mask.shape[1] - 1))),
    "number of tokens": _model(read=_one(lambda mask: mask.sum(-1) - 1)),
    "token before the end": _model(read=_one(lambda mask: _last(mask) - 1)),
    "first token": _model(read=_one(lambda mask: mask.long().argmax(-1))),
    "mean of the real tokens": _model(
        read=lambda hidden, mask: (hidden * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)
    ),
    "mean of all": _model(read=lambda hidden, mask: hidden.mean(1)),
    "tanh": _model(squash=torch.tanh),
    "no mask": _model(inputs=lambda ids, mask: {}),
    "no positions": _model(inputs=lambda ids, mask: {"attention_mask": mask.long()}),
    "zero head": _model(start=lambda head, d: nn.init.zeros_(head.weight)),
    "default head": _model(start=lambda head, d: head.reset_parameters()),
    "swapped": _model(loss_of=lambda chosen, rejected: _loss(rejected, chosen)),
    "sum": _model(loss_of=lambda chosen, rejected: -F.logsigmoid(chosen - rejected).sum()),
    "each with each": _model(loss_of=lambda chosen, rejected: _loss(chosen[:, None], rejected)),
    "no logarithm": _model(loss_of=lambda chosen, rejected: -torch.sigmoid(chosen - rejected).mean()),
    "margin": _model(loss_of=lambda chosen, rejected: -(chosen - rejected).mean()),
    "no step": _model(step_now=False),
    "head only": _model(weights=lambda model: model.head.parameters()),
    "uphill": _model(trained=lambda loss, chosen, rejected: -loss),
    "one epoch": _model(epochs_of=lambda epochs: 1),
    "not shuffled": _model(order=lambda n, epoch: torch.arange(n)),
    "with replacement": _model(order=lambda n, epoch: torch.randint(n, (n,))),
    "largest of the real tokens": _model(
        read=lambda hidden, mask: hidden.masked_fill(~mask.unsqueeze(-1), -math.inf).amax(1)
    ),
    "first padding": _model(read=_one(lambda mask: (_last(mask) + 1).clamp(max=mask.shape[1] - 1))),
    "sum of the last two": _model(
        read=lambda hidden, mask: _one(_last)(hidden, mask) + _one(lambda m: _last(m) - 1)(hidden, mask)
    ),
    "sigmoid": _model(squash=torch.sigmoid),
    "positions of the columns": _model(
        inputs=lambda ids, mask: {
            "attention_mask": mask.long(),
            "position_ids": torch.arange(mask.shape[1]).expand(*mask.shape),
        }
    ),  # fmt: skip
    "start ten times as wide": _model(start=lambda head, d: nn.init.normal_(head.weight, std=10 / math.sqrt(d + 1))),
    "detached scores": _model(trained=lambda loss, chosen, rejected: loss.detach()),
    "rejected rows shuffled": _model(both=lambda pairs, n: torch.cat([pairs, n + torch.randperm(n)[: len(pairs)]])),
    "chosen twice": _model(both=lambda pairs, n: torch.cat([pairs, pairs])),
    "trains on the first half alone": _model(trained=lambda loss, chosen, rejected: -chosen.mean()),
    "trunk only": _model(weights=lambda model: model.trunk.parameters()),
    "hinge": _model(loss_of=lambda chosen, rejected: F.relu(1 - chosen + rejected).mean()),
    "squared": _model(loss_of=lambda chosen, rejected: torch.sigmoid(rejected - chosen).square().mean()),
}
RECOGNISED = {
    "shape (B, 1)": "a column too many",
    "every token": "every token",
    "last column": "last column",
    "number of tokens": "number of tokens",
    "token before the end": "one too early",
    "first token": "first token",
    "mean of the real tokens": "all real tokens",
    "mean of all": "all columns",
    "tanh": "not linear",
    "no mask": "padding seen",
    "no positions": "padding seen",
    "zero head": "a start of zero",
    "default head": "PyTorch's own start",
    "swapped": "rejected preferred",
    "sum": "sum",
    "each with each": "each with each",
    "no logarithm": "no logarithm",
    "margin": "margin itself",
    "no step": "nothing moves",
    "head only": "only the head learns",
    "uphill": "uphill",
    "largest of the real tokens": "all real tokens",
    "first padding": "one too late",
    "sum of the last two": "several tokens",
    "sigmoid": "not linear",
    "positions of the columns": "padding seen",
    "start ten times as wide": "a start too wide",
    "rejected rows shuffled": "not the loss of these pairs",
    "chosen twice": "an answer against itself",
    "trains on the first half alone": "half of the loss",
    "hinge": "another loss",
    "squared": "another loss",
    "trunk only": "only the trunk learns",
}


# --- written after the symptoms and the tolerances --------------------------------------------------------------------


UNSEEN = {
    "second token": _model(read=_one(lambda mask: mask.long().argmax(-1) + 1)),
    "middle of the text": _model(read=_one(lambda mask: (mask.long().argmax(-1) + _last(mask)) // 2)),
    "mean of the last two": _model(
        read=lambda hidden, mask: (_one(_last)(hidden, mask) + _one(lambda m: _last(m) - 1)(hidden, mask)) / 2
    ),
    "clipped scores": _model(squash=lambda scores: scores.clamp(-1, 1)),
    "mask inverted": _model(
        inputs=lambda ids, mask: {"attention_mask": (~mask).long(), "position_ids": torch.zeros_like(ids)}
    ),
    "positions from one": _model(
        inputs=lambda ids, mask: {"attention_mask": mask.long(), "position_ids": mask.long().cumsum(-1)}
    ),
    "weights of one": _model(start=lambda head, d: nn.init.ones_(head.weight)),
    "uniform weights": _model(start=lambda head, d: nn.init.uniform_(head.weight, -1 / d**0.5, 1 / d**0.5)),
    "a random bias": _model(
        start=lambda head, d: (nn.init.normal_(head.weight, std=(d + 1) ** -0.5), nn.init.normal_(head.bias))
    ),
    "loss of the sum": _model(loss_of=lambda chosen, rejected: -F.logsigmoid(chosen + rejected).mean()),
    "both directions": _model(loss_of=lambda chosen, rejected: _loss(chosen, rejected) + _loss(rejected, chosen)),
    "largest difference": _model(loss_of=lambda chosen, rejected: -F.logsigmoid(chosen - rejected).min()),
    "neighbouring rows": _model(both=lambda pairs, n: torch.cat([pairs, (pairs + n + 1) % (2 * n)])),
    "ascent with the right loss": _model(trained=lambda loss, chosen, rejected: 1 / loss),
    "learning rate forgotten": _model(make=lambda weights, lr: torch.optim.Adam(weights, lr=1e-6)),
}
