"""The reward model: a language model's trunk with a linear head, fitted to preferences by the Bradley–Terry loss.

Stiennon et al. 2020, "Learning to summarize from human feedback"; Ouyang et al. 2022, InstructGPT, eq. 1.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from week6.log_probs import called_as_language_model, position_ids, without_spare_columns
from week6.machine import validate as check
from week6.machine.bounds import Count, Rate, Rows
from week6.machine.compute import compute, in_parts
from week6.machine.optim import Stats, gradient_step, minibatch, set_learning_rate
from week6.preferences import bradley_terry_loss
from week6.sequences import Demonstrations, Pairs, Rollout
from week6.shared_prompt import share_prompts


@dataclass(frozen=True)
class RewardConfig:
    """How long and how fast to fit the preferences."""

    steps: Count = 300
    batch_size: Rows = 64
    learning_rate: Rate = 3e-4


@check.arguments
def last_token_index(attention_mask: Int[Tensor, "B L"] | Bool[Tensor, "B L"]) -> Int[Tensor, " B"]:
    """Column of the last real token of each row, wherever the padding is.

    From the mask, not from `ids != pad`: where pad is EOS that would stop one token short (transformers#35352).
    """
    check.has_dims("attention_mask", attention_mask, 2, "(B, L)")
    check.mask_rows("attention_mask", attention_mask)
    columns = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    return (attention_mask.long() * columns).argmax(-1)


class RewardModel(nn.Module):
    """r_φ(x, y): the trunk of a causal language model, and a linear head read at the last real token.

    Takes over the trunk of `causal_lm`: pass a copy. The head starts with weights of standard deviation 1/√(d + 1)
    and bias 0 (Stiennon et al. 2020). Scores are in reward units, centred and scaled by `calibrate`; only differences
    were trained, so the zero point is a choice.
    """

    offset: Tensor
    scale: Tensor

    @check.arguments
    def __init__(self, causal_lm: nn.Module) -> None:
        super().__init__()
        check.language_model("causal_lm", causal_lm)
        language_model: Any = causal_lm
        self.config = language_model.config
        self.trunk = language_model.base_model
        width: int = self.config.hidden_size
        self.head = nn.Linear(width, 1)
        nn.init.normal_(self.head.weight, std=1 / math.sqrt(width + 1))
        nn.init.zeros_(self.head.bias)
        self.register_buffer("offset", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))

    @check.arguments
    def forward(
        self, input_ids: Int[Tensor, "B L"], attention_mask: Int[Tensor, "B L"] | Bool[Tensor, "B L"]
    ) -> Float[Tensor, " B"]:
        """Score of each row, padded on either side, in fp32. Raises ValueError for wrong shapes or an empty row."""
        check.has_dims("input_ids", input_ids, 2, "(B, L)")
        check.same_shape(input_ids=input_ids, attention_mask=attention_mask)
        last = last_token_index(attention_mask)
        with compute().precision(self.trunk):
            hidden = self.trunk(
                input_ids=input_ids,
                attention_mask=attention_mask.long(),
                position_ids=position_ids(attention_mask.bool()),
                use_cache=False,
            ).last_hidden_state
        return self.read(hidden[torch.arange(len(hidden), device=hidden.device), last])

    def read(self, at_end: Float[Tensor, "B d"]) -> Float[Tensor, " B"]:
        """Score of each row from the trunk's hidden state at its last token."""
        raw: Tensor = self.head(at_end.to(self.head.weight.dtype)).squeeze(-1).float()
        return (raw - self.offset) / self.scale

    @check.arguments
    @torch.no_grad()
    def calibrate(self, scores: Float[Tensor, " N"]) -> None:
        """Shift and scale so that answers which now have `scores` get mean 0 and variance 1.

        Given the scores of SFT samples, "0" is then an average answer of the SFT model and 1 its standard deviation:
        β and the penalty for unfinished answers mean the same in every run. The offset and scale are saved with the
        model.
        """
        check.has_dims("scores", scores, 1, "(N,)")
        check.finite(scores, scores=scores)
        if len(scores) < 2 or not scores.std(correction=0) > 0:
            raise check.UnusableError(
                f"scores: got {len(scores)} values without spread, expected at least two different ones"
            )
        self.offset += self.scale * scores.mean()
        self.scale *= scores.std(correction=0)


@check.arguments
def score(model: nn.Module, answers: Rollout | Demonstrations) -> Float[Tensor, " B"]:
    """r_φ of each prompt with its answer. Raises ValueError for a policy, which scores none."""
    if isinstance(getattr(model, "policy", model), PreTrainedModel):  # also beside a value head
        raise ValueError(f"model: got a {type(model).__name__}, expected a reward model, such as RewardModel(policy)")
    prompts, prompt_mask, responses, response_mask = without_spare_columns(
        answers.prompts, answers.prompt_mask, answers.responses, answers.response_mask
    )
    tokens = torch.cat([prompts, responses], dim=1)
    with called_as_language_model(model, tokens.shape[1]):
        scores: Tensor = model(tokens, torch.cat([prompt_mask, response_mask], dim=1))
    return scores


@torch.no_grad()
def score_batches(model: nn.Module, answers: Rollout | Demonstrations, batch_size: int = 256) -> Float[Tensor, " B"]:
    """`score` of many answers, batch by batch, without gradients."""
    (scores,) = in_parts(lambda part: (score(model, part),), answers, model, batch_size)
    return scores


@check.arguments
def pair_scores(model: nn.Module, pairs: Pairs) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """r_φ(x, y_w) and r_φ(x, y_l), in one forward pass."""
    check.some(pairs=pairs)
    if isinstance(model, RewardModel) and (shared := share_prompts(model.trunk, pairs)) is not None:
        scores = model.read(shared.at_end(model.trunk))
    else:
        scores = score(model, pairs.stacked())
    chosen, rejected = scores.chunk(2)
    return chosen, rejected


@check.arguments
@torch.no_grad()
def pair_agreement(model: nn.Module, pairs: Pairs, batch_size: int = 256) -> Float[Tensor, " N"]:
    """1 for each pair in which the chosen answer scores higher, 0 where the rejected one does, ½ for a tie."""

    check.some(pairs=pairs)
    check.whole("batch_size", batch_size)

    def agreement(part: Pairs) -> tuple[Tensor]:
        chosen, rejected = pair_scores(model, part)
        return ((chosen > rejected).float() + 0.5 * (chosen == rejected).float(),)

    (wins,) = in_parts(agreement, pairs, model, batch_size)
    return wins


@check.arguments
def pair_accuracy(model: nn.Module, pairs: Pairs, batch_size: int = 256) -> Float[Tensor, ""]:
    """Share of pairs in which the chosen answer scores higher; a tie counts half."""
    return pair_agreement(model, pairs, batch_size).mean()


@check.arguments
def expected_accuracy(agreement: Float[Tensor, " N"], probability: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """Probability that a fresh annotator ranks each pair as the model does: a p + (1 − a)(1 − p).

    a is `pair_agreement` with the label that was drawn, p the annotators' probability of that label. Its mean is the
    accuracy without the luck of the labels, to be held beside the Bayes ceiling, mean max(p, 1 − p).
    """
    check.same_shape(agreement=agreement, probability=probability)
    for name, share in (("agreement", agreement), ("probability", probability)):
        if not ((share >= 0) & (share <= 1)).all():
            raise ValueError(f"{name}: got values outside [0, 1], expected shares and probabilities")
    return agreement * probability + (1 - agreement) * (1 - probability)


@check.arguments
def train_reward_model(
    model: RewardModel,
    optimizer: torch.optim.Optimizer,
    pairs: Pairs,
    config: RewardConfig,
    seed: int,
    start: int = 0,
) -> Iterator[dict[str, float]]:
    """Fit `model` in place by the Bradley–Terry loss; yields the metrics of each step, taken before its update."""
    check.whole("start", start, 0)
    model.eval()  # no dropout: a score must not depend on chance

    def loss(batch: Pairs) -> tuple[Tensor, Stats]:
        chosen, rejected = pair_scores(model, batch)
        return bradley_terry_loss(chosen, rejected), {
            "accuracy": (chosen > rejected).float().mean().item(),
            "margin": (chosen - rejected).mean().item(),
        }

    for step in range(start, config.steps):
        batch = pairs.rows(minibatch(len(pairs), config.batch_size, step, seed))
        set_learning_rate(optimizer, config.learning_rate, step, config.steps)
        stats = gradient_step(loss, batch, model, optimizer)
        yield {"step": step, **stats, "tokens": batch.tokens}
