"""DPO and the reward model against TRL 1.16: from the same text and weights, the same tokens, loss and gradients.

TRL's trainers are real ones, with their own tokenisation and collator (which pads on the right; ours pads prompts on
the left). Tolerance 1e-5 relative: both compute in fp32, in different orders; every gradient is compared against the
largest entry of its tensor, since entries near zero are differences of large terms.
"""

import copy
import warnings
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from transformers import GPT2ForSequenceClassification
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, RewardTrainer
from trl import RewardConfig as TRLRewardConfig

from tests.tiny import tiny_gpt2, words_tokenizer
from week6.checks import nb10
from week6.dpo import dpo_loss, pair_log_probs
from week6.preferences import bradley_terry_loss
from week6.reward_model import RewardModel, pair_scores
from week6.sequences import encode_pairs

with warnings.catch_warnings():  # it says that experimental things may change
    warnings.simplefilter("ignore")
    from trl.experimental.cpo import CPOTrainer
    from trl.experimental.orpo import ORPOTrainer

WORDS = "how do i bake bread please mix the flour and water no go away"
ROWS = [  # prompts and answers of different lengths; the last answer is just EOS
    {"prompt": "how do i bake bread", "chosen": " please mix the flour and water", "rejected": " go away"},
    {"prompt": "bake", "chosen": " no", "rejected": " mix water and flour and bread"},
    {"prompt": "mix the water please", "chosen": " mix the flour", "rejected": " no no no"},
    {"prompt": "go away", "chosen": " i do", "rejected": ""},
]
PAD, EOS = "<pad>", "<eos>"
TRAINER = {"report_to": "none", "bf16": False, "gradient_checkpointing": False, "use_cpu": True}


def model(seed, tokenizer):
    return tiny_gpt2(len(tokenizer), seed, pad=tokenizer.pad_token_id, dtype=torch.float32, scale=0.3)


def our_pairs(tokenizer):
    columns = Dataset.from_list(ROWS)
    return encode_pairs(tokenizer, columns["prompt"], columns["chosen"], columns["rejected"])


def collated(trainer):
    """The four pairs as TRL tokenises and pads them."""
    return trainer.data_collator(list(trainer.train_dataset))


def assert_same_tokens(pairs, batch):
    both = pairs.stacked()
    ours = torch.cat([both.prompts, both.responses], 1), torch.cat([both.prompt_mask, both.response_mask], 1)
    theirs = batch["input_ids"], batch["attention_mask"].bool()
    for tokens, mask, their_tokens, their_mask in zip(*ours, *theirs, strict=True):
        assert tokens[mask].tolist() == their_tokens[their_mask].tolist()


def gradients(loss, module):
    module.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def assert_same_gradients(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, gradient in ours.items():
        size = theirs[name].abs().max()
        assert size > 0, name
        torch.testing.assert_close(
            gradient / size, theirs[name] / size, rtol=0, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("pad", [PAD, EOS], ids=["own pad", "pad is eos"])
@pytest.mark.parametrize("beta", [0.1, 0.5])
def test_dpo(pad, beta, tmp_path):
    tokenizer = words_tokenizer(WORDS, pad=pad, eos=EOS)
    policy, reference = model(0, tokenizer), model(1, tokenizer)
    pairs = our_pairs(tokenizer)
    output = dpo_loss(*pair_log_probs(policy, pairs), *(x.detach() for x in pair_log_probs(reference, pairs)), beta)
    ours = gradients(output.loss.mean(), policy)

    trainer = DPOTrainer(
        model=copy.deepcopy(policy),
        ref_model=copy.deepcopy(reference),
        args=DPOConfig(str(tmp_path), beta=beta, **TRAINER),
        train_dataset=Dataset.from_list(ROWS),
        processing_class=tokenizer,
    )
    trainer.model.train()  # as in training: their metrics are filed under "train", dropout is 0
    batch = collated(trainer)
    assert_same_tokens(pairs, batch)
    loss = trainer._compute_loss(trainer.model, batch, return_outputs=False)
    torch.testing.assert_close(output.loss.mean(), loss, rtol=1e-5, atol=0)
    assert_same_gradients(ours, gradients(loss, trainer.model))
    for side in ("chosen", "rejected"):
        rewards = getattr(output, f"{side}_rewards").mean().item()
        assert rewards == pytest.approx(trainer._metrics["train"][f"rewards/{side}"][0], rel=1e-5)


def test_reward_model(tmp_path):
    # TRL's model reads the score at the rightmost id that is not pad, so that pad = eos is not comparable.
    tokenizer = words_tokenizer(WORDS, pad=PAD, eos=EOS)
    causal_lm = model(0, tokenizer)
    classifier = GPT2ForSequenceClassification(copy.deepcopy(causal_lm.config))
    classifier.config.num_labels = 1
    classifier.score = torch.nn.Linear(causal_lm.config.hidden_size, 1, bias=False)
    classifier.transformer.load_state_dict(causal_lm.transformer.state_dict())
    ours = RewardModel(causal_lm)
    with torch.no_grad():
        classifier.score.weight.copy_(ours.head.weight)
    pairs = our_pairs(tokenizer)
    chosen, rejected = pair_scores(ours, pairs)
    loss = bradley_terry_loss(chosen, rejected)
    our_gradients = gradients(loss, ours)

    trainer = RewardTrainer(
        model=classifier,
        args=TRLRewardConfig(str(tmp_path), **TRAINER),
        train_dataset=Dataset.from_list(ROWS),
        processing_class=tokenizer,
    )
    trainer.model.train()
    batch = collated(trainer)
    assert_same_tokens(pairs, batch)
    their_loss, outputs = trainer.compute_loss(trainer.model, batch, return_outputs=True)
    torch.testing.assert_close(torch.cat([chosen, rejected]), outputs.logits.squeeze(-1), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(loss, their_loss, rtol=1e-5, atol=0)
    theirs = {
        name.replace("transformer.", "trunk.").replace("score.", "head."): gradient
        for name, gradient in gradients(their_loss, trainer.model).items()
    }
    bias = our_gradients.pop("head.bias")  # theirs has none; it cancels in every comparison
    assert abs(bias.item()) < 1e-6
    for either in (our_gradients, theirs):  # so does a bias under the head: what is left of it is rounding
        assert either.pop("trunk.ln_f.bias").abs().max() < 1e-6
    assert_same_gradients(our_gradients, theirs)


# --- the variants of notebook 10 -------------------------------------------------------------------------------------


def trl_dpo(policy, reference, tokenizer, folder, **settings):
    trainer = DPOTrainer(
        model=copy.deepcopy(policy),
        ref_model=copy.deepcopy(reference),
        args=DPOConfig(str(folder), beta=0.3, **settings, **TRAINER),
        train_dataset=Dataset.from_list(ROWS),
        processing_class=tokenizer,
    )
    trainer.model.train()
    return trainer._compute_loss(trainer.model, collated(trainer), return_outputs=False)


def log_probs_and_lengths(policy, reference, tokenizer):
    """log π and log π_ref of the chosen and of the rejected answers, and the answers' lengths."""
    pairs = our_pairs(tokenizer)
    lengths = (pairs.chosen_mask.sum(-1).float(), pairs.rejected_mask.sum(-1).float())
    with torch.no_grad():
        return pair_log_probs(policy, pairs), pair_log_probs(reference, pairs), lengths


def test_ipo_of_trl_is_ours_per_token(tmp_path):
    tokenizer = words_tokenizer(WORDS, pad=PAD, eos=EOS)
    policy, reference = model(0, tokenizer), model(1, tokenizer)
    ours, refs, lengths = log_probs_and_lengths(policy, reference, tokenizer)
    theirs = trl_dpo(policy, reference, tokenizer, tmp_path, loss_type=["ipo"]).detach()
    per_token = [[x / n for x, n in zip(side, lengths, strict=True)] for side in (ours, refs)]
    torch.testing.assert_close(dpo_loss(*per_token[0], *per_token[1], 0.3, variant="ipo").loss.mean(), theirs)
    assert not torch.isclose(dpo_loss(*ours, *refs, 0.3, variant="ipo").loss.mean(), theirs, rtol=0.01)


def test_robust_dpo(tmp_path):
    tokenizer = words_tokenizer(WORDS, pad=PAD, eos=EOS)
    policy, reference = model(0, tokenizer), model(1, tokenizer)
    ours, refs, _ = log_probs_and_lengths(policy, reference, tokenizer)
    theirs = trl_dpo(policy, reference, tokenizer, tmp_path, loss_type=["robust"], label_smoothing=0.1).detach()
    right = dpo_loss(*ours, *refs, 0.3).loss
    wrong = dpo_loss(*ours[::-1], *refs[::-1], 0.3).loss
    torch.testing.assert_close(((0.9 * right - 0.1 * wrong) / 0.8).mean(), theirs, rtol=1e-5, atol=0)


def test_kto(tmp_path):
    """TRL's own z₀, from mismatched pairs, goes into ours: the losses, their weights and gradients must agree."""
    tokenizer = words_tokenizer(WORDS, pad=PAD, eos=EOS)
    policy, reference = model(0, tokenizer), model(1, tokenizer)
    rows = [
        {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
        for row in ROWS
        for side in ("chosen", "rejected")
    ]
    trainer = KTOTrainer(
        model=copy.deepcopy(policy),
        ref_model=copy.deepcopy(reference),
        args=KTOConfig(str(tmp_path), beta=0.3, desirable_weight=1.2, undesirable_weight=0.8, **TRAINER),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    trainer.model.train()
    theirs = trainer._compute_loss(trainer.model, collated(trainer), return_outputs=False)
    z0 = trainer._metrics["train"]["kl"][0]
    pairs = our_pairs(tokenizer)
    with torch.no_grad():
        refs = pair_log_probs(reference, pairs)
    log_ratio = torch.cat([x - y for x, y in zip(pair_log_probs(policy, pairs), refs, strict=True)])
    loss = nb10.kto_loss(log_ratio, torch.arange(8) < 4, z0, 0.3, 1.2, 0.8).mean()
    torch.testing.assert_close(loss, theirs, rtol=1e-5, atol=0)
    assert_same_gradients(gradients(loss, policy), gradients(theirs, trainer.model))


def test_simpo_and_orpo():
    """The functions of TRL's trainers on log-probabilities; the trainers' own are means over tokens."""
    tokenizer = words_tokenizer(WORDS, pad=PAD, eos=EOS)
    policy = model(0, tokenizer)
    (chosen, rejected), _, lengths = log_probs_and_lengths(policy, policy, tokenizer)
    means = chosen / lengths[0], rejected / lengths[1]
    cpu = SimpleNamespace(device=torch.device("cpu"))
    cpo = SimpleNamespace(alpha=0.0, beta=2.0, simpo_gamma=0.7, loss_type="simpo", label_smoothing=0.0, accelerator=cpu)
    theirs, _, _ = CPOTrainer.cpo_loss(cpo, *means)
    torch.testing.assert_close(nb10.simpo_loss(chosen, rejected, *lengths, 2.0, 0.7), theirs)
    theirs, *_ = ORPOTrainer.odds_ratio_loss(SimpleNamespace(beta=0.4, accelerator=cpu), *means)
    torch.testing.assert_close(nb10.orpo_loss(*means, 0.4), -means[0] - theirs)  # the trainer subtracts it
