"""The hand-over to TRL: the same run gives the same curves, and the recorded ones are those of such a run."""

import inspect
import json
import subprocess
import sys

import pytest
import torch

from tests.runs import quick_preset
from week6.classroom import handover
from week6.dpo import DPOConfig
from week6.machine.optim import gradient_step
from week6.recorded import recorded
from week6.run.models import new_policy
from week6.sequences import encode_pairs
from week6.tasks.assistant import build_tokenizer
from week6.tasks.conversation import render

TOKENIZER = build_tokenizer()
ANSWERS = [
    "mix the flour and bake the bread .",
    "go away .",
    "i can not help with that .",
    "boil the water , then add the tea .",
]


def pairs(n):
    prompts = [f"<|user|> how do i {what} ? <|assistant|>" for what in ("bake bread", "make tea", "steal a car")] * n
    chosen = [" " + ANSWERS[i % 4] for i in range(len(prompts))]
    rejected = [" " + ANSWERS[(i * 3 + 1) % 4] for i in range(len(prompts))]
    return encode_pairs(TOKENIZER, prompts[:n], chosen[:n], rejected[:n])


def test_pairs_as_messages_without_those_that_never_ended():
    data = pairs(8)
    data.chosen[2][data.chosen_mask[2].sum() - 1] = 9  # the end token of one answer is gone
    table = handover.preference_dataset(TOKENIZER, data, 100)
    assert len(table) == 7
    assert table[0]["prompt"] == [{"role": "user", "content": "how do i bake bread ?"}]
    assert table[0]["chosen"] == [{"role": "assistant", "content": ANSWERS[0]}]
    assert len(handover.preference_dataset(TOKENIZER, data, 3)) == 3


def test_prompt_and_answer_together_are_what_the_chat_template_writes(monkeypatch):
    """With the space between them, on which a tokenizer that reads bytes depends."""
    seen = []

    def encoded(tokenizer, prompts, chosen, rejected):
        seen.extend(zip(prompts, chosen, rejected, strict=True))
        return encode_pairs(tokenizer, prompts, chosen, rejected)

    monkeypatch.setattr(handover, "encode_pairs", encoded)
    data = handover.preference_dataset(TOKENIZER, pairs(3), 3)
    config = DPOConfig(steps=1, batch_size=2, learning_rate=1e-3, beta=0.5)
    handover.dpo_with_week6(new_policy(quick_preset(), TOKENIZER, seed=1), TOKENIZER, data, config, seed=0)
    for row, (prompt, *answers) in zip(data, seen, strict=True):
        for name, answer in zip(("chosen", "rejected"), answers, strict=True):
            assert render(TOKENIZER, row["prompt"] + row[name]).startswith(prompt + answer)


def test_both_libraries_take_the_same_steps():
    sft = new_policy(quick_preset(), TOKENIZER, seed=1)
    data = handover.preference_dataset(TOKENIZER, pairs(24), 24)
    config = DPOConfig(steps=5, batch_size=6, learning_rate=5e-3, beta=0.5)
    ours = handover.dpo_with_week6(sft, TOKENIZER, data, config, seed=3)
    theirs = handover.dpo_with_trl(sft, TOKENIZER, data, config, seed=3)
    assert len(ours) == len(theirs) == 5
    for name in ("loss", "margin"):
        torch.testing.assert_close(torch.tensor(ours[name]), torch.tensor(theirs[name]), rtol=0, atol=2e-4)
    assert (
        ours["loss"] - ours["loss"][0]
    ).abs().max() > 0.02  # something was learned, so the agreement means something
    other = handover.dpo_with_week6(sft, TOKENIZER, data, config, seed=4)
    assert (other["loss"] - theirs["loss"]).abs().max() > 1e-3  # another order of the data is seen


def test_gradients_are_clipped_as_ours_are(tmp_path):
    """Those of the steps above are too small for it."""
    sft = new_policy(quick_preset(), TOKENIZER, seed=1)
    data = handover.preference_dataset(TOKENIZER, pairs(6), 6)
    trainer = handover.trl_trainer(sft, TOKENIZER, data, DPOConfig(steps=1, batch_size=6), str(tmp_path))
    assert trainer.args.max_grad_norm == inspect.signature(gradient_step).parameters["max_norm"].default
    assert list(tmp_path.iterdir()) == []


def test_the_recorded_curves():
    table = recorded("trl_dpo")
    ours, theirs = (table[table["by"] == by].reset_index() for by in ("week6", "TRL"))
    assert len(ours) == len(theirs) == handover.CONFIG.steps
    assert (ours["loss"] - theirs["loss"]).abs().max() < 1e-3
    assert ours["loss"][0] == pytest.approx(0.69315) and ours["loss"][-10:].mean() < 0.65


def test_without_trl_nothing_of_it_is_imported():
    code = (
        "import sys; sys.modules['trl'] = None\n"
        "from week6.classroom import handover\n"
        "import json; print(json.dumps(handover.trl_is_installed()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) is False
