"""The capstone of notebook 08: from conversations to a chatbot that is judged, with a template that nobody has seen."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from week6.checks.bench_08 import OFF, Chatbot, measure
from week6.checks.capstone import Capstone
from week6.checks.judging import numbers, plain
from week6.checks.steps_08 import STEPS
from week6.checks.symptoms_08 import SYMPTOMS
from week6.log_probs import token_log_probs
from week6.machine.optim import descend, make_optimizer, minibatch, set_learning_rate
from week6.sampling import sample
from week6.sequences import decode, encode_prompts, right_pad
from week6.sft import sft_loss


def make_chatbot(
    tokenizer: PreTrainedTokenizerBase,
    assistant_id: int,
    model: nn.Module,
    talks: list[list[dict[str, str]]],
    heldout: list[list[dict[str, str]]],
    judge: Callable[[int, str], float],
    rival: Tensor,
) -> dict[str, Any]:
    """Train `model` in place on conversations, let it answer held-out ones, and compare it with a rival."""
    texts = [tokenizer.apply_chat_template(talk, tokenize=False) for talk in talks]
    rows = tokenizer(texts, add_special_tokens=False)["input_ids"]
    tokens, real = right_pad(rows, tokenizer.pad_token_id)
    starts, ends = (tokens == assistant_id).long(), (tokens == tokenizer.eos_token_id).long()
    mask = (starts - ends).cumsum(-1) - (starts - ends) > 0
    optimizer, losses = make_optimizer(model, 1e-2), []
    for step in range(100):
        batch = minibatch(len(tokens), 32, step, seed=0)
        logits = model(input_ids=tokens[batch], attention_mask=real[batch].long()).logits[:, :-1]
        loss = sft_loss(token_log_probs(logits, tokens[batch, 1:]), mask[batch, 1:])
        set_learning_rate(optimizer, 1e-2, step, 100)
        descend(loss, model, optimizer)
        losses.append(loss.item())
    prompts = [str(tokenizer.apply_chat_template(t, tokenize=False, add_generation_prompt=True)) for t in heldout]
    asked, asked_mask = encode_prompts(tokenizer, prompts)
    index = torch.arange(len(prompts)).repeat_interleave(4)
    said = sample(model, asked[index], asked_mask[index], 6)
    flat = decode(tokenizer, said.responses, said.response_mask)
    answers = [flat[i : i + 4] for i in range(0, len(flat), 4)]
    gold = torch.tensor([[judge(i, text) for text in row] for i, row in enumerate(answers)])
    difference = gold[:, :, None] - rival[:, None, :]
    wins = ((difference > 0).float() + 0.5 * (difference == 0).float()).mean((1, 2))
    return {
        "texts": texts,
        "tokens": tokens,
        "mask": mask,
        "losses": losses,
        "answers": answers,
        "gold": gold,
        "win_rate": (wins.mean(), wins.std() / math.sqrt(len(wins))),
    }


def _shows(records: Sequence[Chatbot]) -> str:
    """How far the models are from the teacher, and how they do against the rival."""
    excess = sum(c.after["assistant"] - c.bench.entropy for c in records) / len(records)
    rates = ", ".join("{:.0%} ± {:.0%}".format(*plain(numbers(c.parts, "win_rate", 2))) for c in records)
    return (
        f"Your models are {excess:.3f} nats per token above the least possible loss, and win {rates} against a rival "
        f"that says “{OFF}” more often."
    )


capstone = Capstone(
    title="8.4 Capstone: from conversations to a chatbot that is judged",
    reference=make_chatbot,
    run=measure,
    seeds=3,
    steps=STEPS,
    symptoms=SYMPTOMS,
    shows=_shows,
    hints=(
        "Which of the two places needs a generation prompt: the texts that are learned from, or those that are "
        "answered? And which padding does each of them need?",
        "The loss is (1): −Σ m_t log π(c_t | c_<t)/Σ m_t, where the logits at place t − 1 predict the token at place "
        "t. So logits lose their last place, tokens and mask their first. What is judged are means over conversations, "
        "(4).",
        "1. Template without generation prompt; tokenize; pad on the right. 2. Exercise 8.2. 3. A hundred times: 32 "
        "rows, logits, log-probabilities of the next tokens, loss (1), a step. 4. Template with generation prompt; "
        "encode_prompts pads on the left; repeat each prompt four times in a row; sample six tokens; decode. 5. "
        "judge(i, text) for each. 6. Every answer against every one of the rival's, a tie one half; the mean for each "
        "conversation; their mean and std/√M.",
        """def make_chatbot(tokenizer, assistant_id, model, talks, heldout, judge, rival):
    texts = [tokenizer.apply_chat_template(talk, tokenize=False) for talk in talks]
    rows = tokenizer(texts, add_special_tokens=False)["input_ids"]
    tokens, real = right_pad(rows, tokenizer.pad_token_id)
    mask = mask_of(tokens, assistant_id, tokenizer.eos_token_id)
    optimizer, losses = make_optimizer(model, 1e-2), []
    for step in range(100):
        batch = minibatch(len(tokens), 32, step, seed=0)
        logits = ...
        loss = sft_loss(token_log_probs(logits, ...), ...)
        set_learning_rate(optimizer, 1e-2, step, 100)
        descend(loss, model, optimizer)
        losses.append(loss.item())
    prompts = [...]  # in the template, each ready for a reply
    asked, asked_mask = encode_prompts(tokenizer, prompts)
    index = torch.arange(len(prompts)).repeat_interleave(4)
    said = sample(model, asked[index], asked_mask[index], 6)
    flat = decode(tokenizer, said.responses, said.response_mask)
    return {"texts": texts, "tokens": tokens, "mask": mask, "losses": losses}  # and answers, gold, win_rate""",
    ),
    time_limit=60.0,
)
