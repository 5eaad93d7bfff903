"""Checkpoints: a round trip changes nothing, damage is noticed, a full disk costs nothing that was there."""

import os

import pytest
import torch
from safetensors import safe_open
from torch import nn

from week6.machine.checkpoint import RunError, load_checkpoint, load_tensors, save_checkpoint, tag_of, write_atomic


class Tied(nn.Module):
    """Two layers that share a weight, a buffer that is saved, and one that is not."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, width, bias=False)
        self.second.weight = self.first.weight
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("scratch", torch.ones(2), persistent=False)

    def forward(self, x):
        return self.second(self.first(x).tanh()) * self.scale


def trained(seed: int, steps: int = 3):
    torch.manual_seed(seed)
    module = Tied()
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.01)
    train(module, optimizer, steps)
    return module, optimizer


def train(module, optimizer, steps):
    for step in range(steps):
        optimizer.zero_grad()
        module(torch.full((2, 3), 0.1 * step + 1)).square().sum().backward()
        optimizer.step()


def test_round_trip_restores_weights_moments_and_state(tmp_path):
    module, optimizer = trained(0)
    module.scale.fill_(2.5)
    state = {"step": 3, "beta": 0.1 + 0.2}
    save_checkpoint(tmp_path / "a.safetensors", module, optimizer, state)
    other, other_optimizer = trained(1, steps=0)
    assert load_checkpoint(tmp_path / "a.safetensors", other, other_optimizer) == state
    assert other.scale == 2.5
    # Without the moments, or with their step, the next updates would differ.
    train(module, optimizer, 2)
    train(other, other_optimizer, 2)
    for name, parameter in module.named_parameters():
        assert torch.equal(parameter, other.get_parameter(name))


def test_tied_weights_are_stored_once_and_stay_tied(tmp_path):
    module, _ = trained(0)
    save_checkpoint(tmp_path / "a.safetensors", module)
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert sorted(file.keys()) == ["model.first.bias", "model.first.weight", "model.scale"]
    other = Tied()
    load_checkpoint(tmp_path / "a.safetensors", other)
    assert other.second.weight is other.first.weight


def test_a_flipped_bit_in_any_byte_is_noticed(tmp_path):
    path, bad = tmp_path / "a.safetensors", tmp_path / "bad.safetensors"
    save_checkpoint(path, *trained(0), {"step": 3})
    tensors, state = load_tensors(path)
    content = path.read_bytes()
    unnoticed = 0
    for position in range(len(content)):
        spoiled = bytearray(content)
        spoiled[position] ^= 1 << position % 8
        bad.write_bytes(spoiled)
        try:
            found, found_state = load_tensors(bad)
        except RunError as error:
            assert "bad.safetensors is damaged" in str(error) and "--resume" in str(error)
        else:  # a bit that carries nothing, such as one of the header's padding
            unnoticed += 1
            assert found_state == state and found.keys() == tensors.keys()
            assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    assert unnoticed < 10


def test_a_damaged_checkpoint_changes_nothing(tmp_path):
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, *trained(0), {"step": 3})
    spoiled = bytearray(path.read_bytes())
    spoiled[-1] ^= 1
    path.write_bytes(spoiled)
    module, optimizer = trained(1)
    before = {name: p.clone() for name, p in module.named_parameters()}
    with pytest.raises(RunError, match="its checksum differs"):
        load_checkpoint(path, module, optimizer)
    assert all(torch.equal(p, before[name]) for name, p in module.named_parameters())


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_truncated_file_is_damaged(tmp_path, keep):
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, *trained(0))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(RunError, match="is damaged"):
        load_checkpoint(path, *trained(0))


def test_safetensors_of_another_program_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"x": torch.ones(1)}, tmp_path / "a.safetensors")
    with pytest.raises(RunError, match="expected a file of week6"):
        load_checkpoint(tmp_path / "a.safetensors", Tied())


def test_other_model_is_named(tmp_path):
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, Tied(3))
    with pytest.raises(RunError, match=r"first.weight has shape \(3, 3\), expected \(4, 4\)"):
        load_checkpoint(path, Tied(4))
    smaller = nn.ModuleDict({"first": nn.Linear(3, 3)})
    with pytest.raises(RunError, match="tensor scale is only in the file"):
        load_checkpoint(path, smaller)
    save_checkpoint(path, smaller)
    with pytest.raises(RunError, match="tensor scale is missing from the file"):
        load_checkpoint(path, Tied(3))


def test_full_disk_keeps_the_old_file_and_leaves_no_temporary(tmp_path):
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, *trained(0))
    before = path.read_bytes()
    (tmp_path / ".a.safetensors.tmp").symlink_to("/dev/full")  # every write to it fails with ENOSPC
    with pytest.raises(RunError, match=r"no disk space for .*a.safetensors: .* MB free, .* MB needed"):
        save_checkpoint(path, *trained(1))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.safetensors"]


def test_write_atomic_never_shows_a_part(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "file.txt"
    write_atomic(path, "old ✓")
    seen = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (seen.append((path.read_text(), a.read_text())), replace(a, b)))
    write_atomic(path, "new ✓")
    assert seen == [("old ✓", "new ✓")] and path.read_text() == "new ✓"


def test_other_write_errors_are_told_as_they_are_and_not_called_full_disk(tmp_path):
    (tmp_path / "target").mkdir()
    with pytest.raises(RunError, match="target is a folder, expected a file: remove it, or choose another place"):
        write_atomic(tmp_path / "target", "text")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot be written \((File exists|Not a directory)\)"):
        write_atomic(tmp_path / "file" / "x", "text")
    assert sorted(os.listdir(tmp_path)) == ["file", "target"]


def test_a_file_says_what_it_is(tmp_path):
    """Another stage's file in the place of this one has a good checksum."""
    path, module = tmp_path / "a.safetensors", Tied()
    save_checkpoint(path, module, tag="sft 12")
    assert tag_of(path) == "sft 12" and tag_of(tmp_path / "none") == ""
    load_checkpoint(path, module, tag="sft 12")
    load_checkpoint(path, module)
    with pytest.raises(RunError, match="is another file or made with other settings: 'sft 12', expected 'ppo 12'"):
        load_checkpoint(path, module, tag="ppo 12")
    path.write_bytes(path.read_bytes().replace(b"sft 12", b"ppo 12"))
    with pytest.raises(RunError, match="its checksum differs"):
        load_checkpoint(path, module, tag="ppo 12")
