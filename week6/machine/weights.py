"""A model's weights, looked at when transformers has read them: whether they are all there, and used."""

import math
import re
from typing import Any

from transformers import PreTrainedModel

from week6.machine.checkpoint import RunError


def complete(name: str, flag: str, model: PreTrainedModel, loading: dict[str, Any]) -> PreTrainedModel:
    """`model`, if its weights are all there, of the shapes that its config says, and finite; else RunError."""
    fault = ""
    if missing := sorted(loading["missing_keys"]):
        fault = f"lack {len(missing)} tensors of a {type(model).__name__}, such as {missing[0]}"
    elif more := [key for key in sorted(loading["unexpected_keys"]) if _beyond(key, model.config)]:
        fault = f"have more layers than its config.json says: {more[0]} is one too many"
    elif more := [key for key in sorted(loading["unexpected_keys"]) if _changes(key, model)]:
        fault = f"hold {more[0]}, which would be left out of a layer that is read"
    elif mismatched := sorted(loading["mismatched_keys"]):
        tensor, found, wanted = mismatched[0]
        fault = f"do not fit its config.json: {tensor} is {tuple(found)}, expected {tuple(wanted)}"
    else:
        body = model.base_model.named_parameters()  # what a head says is looked at when it speaks
        flat = [key for key, x in body if x.ndim > 1 and min(x.shape) > 1 and (x == x.max()).all()]
        broken = [key for key, x in model.state_dict().items() if x.is_floating_point() and not x.isfinite().all()]
        embeddings: Any = model.get_input_embeddings()
        if broken:
            fault = f"hold NaN or infinite numbers in {len(broken)} tensors, such as {broken[0]}"
        elif (embeddings.weight == embeddings.weight[0]).all():
            fault = "are the same for every token"
        elif flat:
            fault = f"are one number in all of {flat[0]}"
    if fault:
        raise RunError(f"{flag} {name}: its weights {fault}; expected all that save_pretrained of the model writes")
    return model


def _beyond(key: str, config: Any) -> bool:
    """Whether a tensor is of a layer that the config does not have."""
    number = re.search(r"\.(\d+)\.", key)
    return number is not None and int(number[1]) >= getattr(config, "num_hidden_layers", math.inf)


def _changes(key: str, model: PreTrainedModel) -> bool:
    """Whether a tensor that the model has no place for lies below a layer with weights: a bias, an update of low rank.
    Others are of heads that are not asked for, or can be computed."""
    parts = key.split(".")
    layers = {
        name
        for name, layer in model.named_modules()
        if name and next(layer.parameters(recurse=False), None) is not None
    }
    return any(
        f"{start}{'.'.join(parts[:i])}" in layers
        for i in range(1, len(parts))
        for start in ("", f"{model.base_model_prefix}.")
    )
