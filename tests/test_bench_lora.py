"""What `tools/bench_lora.py` measures: the weights that are trained, and the files that a checkpoint is."""

from tools import bench_lora

SMALL = dict(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
             num_key_value_heads=1)  # fmt: skip


def test_whole_and_with_adapters(monkeypatch):
    monkeypatch.setattr(bench_lora, "SHAPE", bench_lora.SHAPE | SMALL)
    monkeypatch.setattr(bench_lora, "LAST_TOKEN", 64)
    whole, adapters = (bench_lora.measure(rank, 2) for rank in (0, 4))
    a_layer = 2 * 32 * 32 + 2 * 16 * 32 + 3 * 32 * 64  # q and o, k and v of half the width, three of the MLP
    assert whole["trained"] == 64 * 32 + 2 * (a_layer + 2 * 32) + 32  # tied embeddings; two norms a layer, one behind
    sides = 2 * (32 + 32) + 2 * (32 + 16) + 3 * (32 + 64)
    assert adapters["trained"] == 2 * 4 * sides
    for found in (whole, adapters):  # weights and two moments, and the tensors' names
        assert 0 < 1e6 * found["checkpoint"] - 12 * found["trained"] < 40_000
