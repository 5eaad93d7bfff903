"""What the gradients of notebook 05's capstone say: what each token's log-probability and value feel, pass by pass.

The actor's answers to `actor(answers, temperature)` are noted, and what they felt in the backward pass. In the first
pass, where every ratio is 1, a log-probability feels −A/n, a value c (V − R)/n, of n tokens (7).
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from week6.sequences import Rollout


@dataclass(eq=False)
class Pass:
    """One pass over answers: log-probabilities, values, (B, T) each, and what they felt; 0 where nothing came."""

    answers: Rollout
    log_probs: Float[Tensor, "B T"]
    values: Float[Tensor, "B T"]
    of_log_probs: Float[Tensor, "B T"] = field(init=False)
    of_values: Float[Tensor, "B T"] = field(init=False)

    def __post_init__(self) -> None:
        self.of_log_probs, self.of_values = torch.zeros_like(self.log_probs), torch.zeros_like(self.values)

    @property
    def felt(self) -> bool:
        """Whether a gradient came."""
        return bool(self.of_log_probs.any() or self.of_values.any())


def noted(actor: nn.Module) -> list[Pass]:
    """The passes of an actor from now on, as they come."""
    passes = list[Pass]()

    def note(_: nn.Module, asked: tuple[Any, ...], came: tuple[Tensor, Tensor]) -> None:
        log_probs, values = came
        if not (asked and isinstance(asked[0], Rollout) and log_probs.requires_grad):
            return
        found = Pass(asked[0], log_probs.detach().clone(), values.detach().clone())
        log_probs.register_hook(found.of_log_probs.add_)  # type: ignore[no-untyped-call]
        values.register_hook(found.of_values.add_)  # type: ignore[no-untyped-call]
        passes.append(found)

    actor.register_forward_hook(note)
    return passes
