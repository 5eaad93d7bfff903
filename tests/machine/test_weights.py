from types import SimpleNamespace

from week6.machine.weights import _beyond


def test_a_layer_too_many():
    """Layers count from 0; where the config names no number none is too many."""
    config = SimpleNamespace(num_hidden_layers=2)
    assert [_beyond(f"transformer.h.{i}.attn.bias", config) for i in (0, 1, 2, 10)] == [False, False, True, True]
    assert not _beyond("lm_head.bias", config) and not _beyond("h.9.bias", SimpleNamespace())
