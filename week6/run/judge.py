"""The judge that training never saw: a reward model on pairs of its own, which begins as the pretrained model does.

Its verdicts are figures only: no gradient sees them. How far they can be believed is said by how often it agrees with
people on held-out pairs, beside chance and beside a judge who looks at nothing but the length.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from week6.reward_model import score
from week6.run.evaluation import Judged, estimate, win_rate
from week6.sequences import Demonstrations, Pairs, Rollout

SURE = 1.96
"""Standard errors on either side of a mean that make an interval of 95 %."""


def score_as_ended(model: nn.Module, eos: int, answers: Rollout) -> Float[Tensor, " B"]:
    """What the judge says of each answer; where the limit cut one, EOS takes the place of its last token.

    Every answer of the judge's pairs ends with EOS, and there its score is read. In the middle of a sentence it has
    learnt nothing: what it says there says more about the place than about the answer.
    """
    responses, last = answers.responses.clone(), answers.response_mask.sum(-1) - 1
    responses[~answers.finished, last[~answers.finished]] = eos
    return score(model, Demonstrations(answers.prompts, answers.prompt_mask, responses, answers.response_mask))


def length_baseline(own: Pairs, heldout: Pairs) -> dict[str, Any]:
    """How often people agree with who looks at the length alone, ± standard error; an equal length counts half.

    Whether the longer or the shorter answer is taken for the better one is learnt from the judge's own pairs.
    """

    def longer(pairs: Pairs) -> torch.Tensor:
        difference = (pairs.chosen_mask.sum(1) - pairs.rejected_mask.sum(1)).cpu()
        return (difference > 0).float() + 0.5 * (difference == 0).float()

    prefers_longer = bool(longer(own).mean() >= 0.5)
    agreement = longer(heldout) if prefers_longer else 1 - longer(heldout)
    found = estimate(agreement.unsqueeze(1))
    return {"length": found.mean, "length_se": found.se, "prefers_longer": prefers_longer}


def verdicts(judged: Mapping[str, Judged], start: str) -> dict[str, dict[str, Any]]:
    """Of every policy the judge's mean score, and how often its answers win against those of `start` and of SFT.

    Each with its standard error and an interval of 95 %; wins are per prompt, a tie counts half.
    """
    table: dict[str, dict[str, Any]] = {}
    for name, answers in judged.items():
        assert answers.verdict is not None
        found = {"score": estimate(answers.verdict)}
        for against in dict.fromkeys((start, "sft")):
            other = judged[against].verdict
            if against != name and other is not None:
                found[f"wins_against_{against}"] = estimate(win_rate(answers.verdict, other))
        table[name] = {}
        for key, value in found.items():
            low, high = value.mean - SURE * value.se, value.mean + SURE * value.se
            table[name] |= {key: value.mean, f"{key}_se": value.se, f"{key}_low": low, f"{key}_high": high}
    return table
