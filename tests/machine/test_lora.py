"""Adapters begin as the reference, reach what whole training reaches, and end as plain weights."""

import math
from dataclasses import replace

import pytest
import torch
from peft import PeftModel

from tests.small_instruct import small_instruct
from tests.tiny import ragged, ragged_pairs, tiny_gpt2
from week6.dpo import DPOConfig, pair_log_probs, train_dpo
from week6.log_probs import response_log_probs
from week6.machine.checkpoint import load_checkpoint, load_tensors, save_checkpoint
from week6.machine.lora import ALL, LoRAConfig, check_lora, trainee_of
from week6.machine.optim import make_optimizer
from week6.machine.pretrained import load_policy, load_tokenizer

BATCH = ragged([3, 5, 2], [4, 2, 6])
PAIRS = ragged_pairs([3, 5, 2, 4], [4, 2, 6, 3], [2, 5, 3, 3])
RANK = LoRAConfig(rank=2, alpha=4.0)


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def model(request, tmp_path_factory):
    """A frozen reference, of GPT-2's kind and of SmolLM2's with its head tied to the embeddings."""
    if request.param == "gpt2":
        return tiny_gpt2(dtype=torch.float32).requires_grad_(False)
    folder = str(small_instruct(tmp_path_factory.mktemp("model"), layers=2))
    model = load_policy(folder, load_tokenizer(folder)).requires_grad_(False)
    for weight in model.parameters():
        if weight.dim() > 1:
            weight *= 20  # from an untrained model's 0.02: with the embeddings fixed, no logit could move
    return model


def disturb(module, seed=1):
    """Give the adapters other weights than zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            if p.requires_grad:
                p += 0.3 * torch.randn(p.shape, generator=generator)


def log_probs(model):
    with torch.no_grad():
        return response_log_probs(model, *BATCH)


def test_adapters_begin_as_the_reference_on_its_own_weights(model):
    trainee = trainee_of(model, RANK, seed=0)
    assert torch.equal(log_probs(trainee.model), log_probs(model))
    own = {p.data_ptr() for p in model.parameters()}
    kept = [p for p in trainee.model.parameters() if not p.requires_grad]
    assert {p.data_ptr() for p in kept} == own  # one set of weights in memory
    trained = {name for name, p in trainee.model.named_parameters() if p.requires_grad}
    assert trained and all("lora_" in name for name in trained)
    assert all(p.numel() > 0 and (p == 0).all() for n, p in trainee.model.named_parameters() if "lora_B" in n)


def test_the_update_is_alpha_over_rank_times_b_a(model):
    """By the formula, module by module, on weights of another model."""
    trainee = trainee_of(model, RANK, seed=0)
    disturb(trainee.model)
    found = dict(trainee.model.named_parameters())
    by_hand = trainee_of(model, LoRAConfig(), seed=0).model
    with torch.no_grad():
        for name, weight in by_hand.named_parameters():
            a = found.get(name.replace(".weight", ".lora_A.default.weight"))
            if a is not None and "lora" not in name:
                b = found[name.replace(".weight", ".lora_B.default.weight")]
                update = RANK.alpha / RANK.rank * b @ a
                weight += update.mT if isinstance(model, type(tiny_gpt2())) else update  # GPT-2's W is transposed
    assert not torch.equal(log_probs(by_hand), log_probs(model))
    torch.testing.assert_close(log_probs(trainee.model), log_probs(by_hand), atol=2e-5, rtol=0)  # fp32 sums


def test_merged_it_is_a_plain_model_and_the_reference_is_as_it_was(model, tmp_path):
    before = log_probs(model)
    trainee = trainee_of(model, RANK, seed=0)
    disturb(trainee.model)
    trained = log_probs(trainee.model)
    trainee.merge(tmp_path / "adapters")
    assert torch.equal(log_probs(model), before)
    torch.testing.assert_close(log_probs(trainee.model), trained, atol=2e-5, rtol=0)
    assert {n: p.shape for n, p in trainee.model.named_parameters()} == {
        n: p.shape for n, p in model.named_parameters()
    }
    assert not {p.data_ptr() for p in trainee.model.parameters()} & {p.data_ptr() for p in model.parameters()}
    assert all(p.requires_grad for p in trainee.model.parameters())
    trainee.merge()  # once
    torch.testing.assert_close(log_probs(trainee.model), trained, atol=2e-5, rtol=0)
    reopened = PeftModel.from_pretrained(trainee_of(model, LoRAConfig(), 0).model, tmp_path / "adapters")
    torch.testing.assert_close(log_probs(reopened.base_model.model), trained, atol=2e-5, rtol=0)


def test_adapters_follow_from_the_seed_and_leave_the_global_random_state(model):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    one, again, other = (trainee_of(model, RANK, seed).model for seed in (0, 0, 1))
    assert torch.equal(torch.rand(4), expected)
    same = [[torch.equal(p, q) for p, q in zip(one.parameters(), x.parameters(), strict=True)] for x in (again, other)]
    assert all(same[0]) and not all(same[1])


def test_a_checkpoint_holds_the_adapters_alone_and_a_training_goes_on_from_it(model, tmp_path):
    trainee = trainee_of(model, RANK, seed=0)
    disturb(trainee.model)
    optimizer = make_optimizer(trainee.model, 1e-3)
    save_checkpoint(tmp_path / "c.safetensors", trainee.model, optimizer, {"step": 3})
    tensors, _ = load_tensors(tmp_path / "c.safetensors")
    assert tensors and all("lora_" in name for name in tensors)
    resumed = trainee_of(model, RANK, seed=5)
    assert load_checkpoint(tmp_path / "c.safetensors", resumed.model, make_optimizer(resumed.model, 1e-3)) == {
        "step": 3
    }
    assert torch.equal(log_probs(resumed.model), log_probs(trainee.model))


def trained_by_dpo(model, config, learning_rate, steps=60):
    """The mean DPO loss after training on four pairs, and how the log-probabilities have moved."""
    trainee = trainee_of(model, config, seed=0)
    optimizer = make_optimizer(trainee.model, learning_rate)
    dpo = DPOConfig(steps=steps, batch_size=4, learning_rate=learning_rate, beta=0.1)
    losses = [row["loss"] for row in train_dpo(trainee.model, model, optimizer, PAIRS, dpo, seed=0)]
    trainee.merge()
    with torch.no_grad():
        moved = torch.stack(pair_log_probs(trainee.model, PAIRS)) - torch.stack(pair_log_probs(model, PAIRS))
    return losses, moved


def test_with_the_identity_for_a_it_is_whole_training_step_by_step(model):
    """B is then the update of W itself, with the same gradient, and Adam walks the same way."""
    name = "c_attn" if hasattr(model, "transformer") else "q_proj"
    adapted = trainee_of(model, LoRAConfig(rank=16, alpha=16.0, modules=name), seed=0).model
    whole = trainee_of(model, LoRAConfig(), seed=0).model
    for key, weight in adapted.named_parameters():
        if "lora_A" in key:
            weight.data.copy_(torch.eye(16))
            weight.requires_grad_(False)
    for key, weight in whole.named_parameters():
        weight.requires_grad_(key.endswith(f"{name}.weight"))
    losses = []
    for policy in (adapted, whole):
        dpo = DPOConfig(steps=12, batch_size=3, learning_rate=1e-2, beta=0.1)
        steps = train_dpo(policy, model, make_optimizer(policy, 1e-2), PAIRS, dpo, seed=0)
        losses.append([row["loss"] for row in steps])
    assert min(losses[1]) < 0.65 and losses[0] == pytest.approx(losses[1], abs=1e-4)  # rounding, twelve steps long


def test_dpo_with_adapters_learns_what_whole_dpo_learns(model):
    """Of full rank an update can be any matrix: the loss falls from log 2 as far as that of all weights, and chosen and
    rejected answers move the same way. Adam's path is another one, so that the end is compared, not the way."""
    whole, moved = trained_by_dpo(model, LoRAConfig(), 1e-2)
    full = LoRAConfig(rank=16, alpha=16.0)
    adapted, adapted_moved = trained_by_dpo(model, full, 1e-2)
    assert whole[0] == pytest.approx(math.log(2), abs=1e-5) and adapted[0] == pytest.approx(math.log(2), abs=1e-5)
    assert whole[-1] < 0.2 and adapted[-1] < 0.2
    margin, adapted_margin = (chosen - rejected for chosen, rejected in (moved, adapted_moved))
    assert (margin > 0).all() and (adapted_margin > 0).all()


def test_one_named_kind_of_module_is_adapted_alone(model):
    name = "c_attn" if hasattr(model, "transformer") else "q_proj"
    trainee = trainee_of(model, replace(RANK, modules=name), seed=0)
    adapted = {n.split(".lora_")[0] for n, p in trainee.model.named_parameters() if p.requires_grad}
    assert adapted and all(n.endswith(name) for n in adapted)


@pytest.mark.parametrize("modules", ["nothing", "lm_head", "", "wte", "c_attn,nothing"])
def test_a_module_that_is_not_there_is_refused_with_those_that_are(modules):
    with pytest.raises(
        ValueError, match=r"lora.modules: got '\w*', expected 'all-linear' or some of the model's c_attn"
    ):
        trainee_of(tiny_gpt2(), replace(RANK, modules=modules), seed=0)


def test_all_and_one_more_are_no_names():
    with pytest.raises(
        ValueError, match="lora.modules: got 'all-linear,c_attn', expected 'all-linear' alone, or names"
    ):
        check_lora(tiny_gpt2(), replace(RANK, modules=f"{ALL},c_attn"))


def test_all_linear_is_all_but_the_head(model):
    trainee = trainee_of(model, RANK, seed=0)
    adapted = {n.split(".lora_")[0].rpartition(".")[2] for n, p in trainee.model.named_parameters() if p.requires_grad}
    with pytest.raises(ValueError) as refused:
        check_lora(model, replace(RANK, modules="none"))
    assert RANK.modules == ALL and adapted == set(str(refused.value).split("the model's ")[1].split(", "))


def test_a_rank_that_no_weight_can_have_is_refused(model):
    """The highest is that of the weights which are chosen."""
    one = "c_attn" if hasattr(model, "transformer") else "k_proj"
    shapes = {name.split(".")[-2]: p.shape for name, p in model.named_parameters() if p.ndim == 2 and "emb" not in name}
    for modules, highest in [(ALL, model.config.hidden_size), (one, min(shapes[one]))]:
        check_lora(model, LoRAConfig(rank=highest, modules=modules))
        with pytest.raises(ValueError, match=f"lora.rank: got {highest + 1}, expected at most {highest}, the rank of"):
            check_lora(model, LoRAConfig(rank=highest + 1, modules=modules))
