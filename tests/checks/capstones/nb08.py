"""Answers to the capstone of notebook 08: from conversations to a chatbot that is judged."""

import copy
import functools

import torch
import torch.nn.functional as F

from week6.log_probs import masked_mean, token_log_probs
from week6.machine.optim import descend, make_optimizer, minibatch, set_learning_rate
from week6.sampling import sample
from week6.sequences import decode, encode_prompts, left_pad, right_pad
from week6.sft import sft_loss
from week6.tasks.conversation import encode_conversation, render


def loss_mask(tokens, assistant_id, end_id):
    starts, ends = (tokens == assistant_id).long(), (tokens == end_id).long()
    return (starts - ends).cumsum(-1) - (starts - ends) > 0


def template(tokenizer, talk, reply=False):
    return tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=reply)


def next_tokens(model, tokens, real, mask):
    logits = model(input_ids=tokens, attention_mask=real.long()).logits[:, :-1]
    return sft_loss(token_log_probs(logits, tokens[:, 1:]), mask[:, 1:])


def rate_and_error(gold, rival):
    difference = gold[:, :, None] - rival[:, None, :]
    wins = ((difference > 0).float() + 0.5 * (difference == 0).float()).mean((1, 2))
    return wins.mean(), wins.std() / len(wins) ** 0.5


def in_words(tokenizer, said):
    return decode(tokenizer, said.responses, said.response_mask)


def built(
    text=template,
    pad=right_pad,
    mask=lambda tokens, real, assistant, end: loss_mask(tokens, assistant, end),
    trained=lambda model: model,
    loss=next_tokens,
    rows=minibatch,
    steps=100,
    rate=1e-2,
    step=descend,
    question=lambda tokenizer, talk: template(tokenizer, talk, reply=True),
    encode=encode_prompts,
    index=lambda n: torch.arange(n).repeat_interleave(4),
    draw=lambda model, prompts, real: sample(model, prompts, real, 6),
    words=in_words,
    judged=lambda judge, i, text: judge(i, text),
    rated=rate_and_error,
):
    """The chatbot with one part of it made otherwise."""

    def make(tokenizer, assistant_id, model, talks, heldout, judge, rival):
        texts = [text(tokenizer, talk) for talk in talks]
        tokens, real = pad(tokenizer(texts, add_special_tokens=False)["input_ids"], tokenizer.pad_token_id)
        learned = mask(tokens, real, assistant_id, tokenizer.eos_token_id)
        model = trained(model)
        optimizer, losses = make_optimizer(model, rate), []
        for i in range(steps):
            batch = rows(len(tokens), 32, i, seed=0)
            value = loss(model, tokens[batch], real[batch], learned[batch])
            set_learning_rate(optimizer, rate, i, steps)
            step(value, model, optimizer)
            losses.append(float(value))
        prompts, prompt_mask = encode(tokenizer, [question(tokenizer, talk) for talk in heldout])
        order = index(len(prompts))
        flat = words(tokenizer, draw(model, prompts[order], prompt_mask[order]))
        answers = [flat[i : i + 4] for i in range(0, len(flat), 4)]
        gold = torch.tensor([[judged(judge, i, text) for text in row] for i, row in enumerate(answers)])
        return {
            "texts": texts, "tokens": tokens, "mask": learned, "losses": losses, "answers": answers, "gold": gold,
            "win_rate": rated(gold, rival),
        }  # fmt: skip

    return make


def row_by_row(tokenizer, assistant_id, model, talks, heldout, judge, rival):
    """Plain PyTorch: cross-entropy with ignored labels, Adam, each answer written token by token."""
    end, rows, masks = tokenizer.eos_token_id, [], []
    texts = [template(tokenizer, talk) for talk in talks]
    for text in texts:
        ids, inside, mask = tokenizer.encode(text, add_special_tokens=False), False, []
        for token in ids:
            mask.append(inside)
            inside = token == assistant_id or (inside and token != end)
        rows.append(ids)
        masks.append(mask)
    width = max(map(len, rows))
    tokens = torch.tensor([row + [tokenizer.pad_token_id] * (width - len(row)) for row in rows])
    labels = torch.tensor([m + [False] * (width - len(m)) for m in masks])
    targets = tokens.masked_fill(~labels, -100)
    adam, losses = torch.optim.Adam(model.parameters(), lr=5e-3), []
    for _ in range(140):
        batch = torch.randint(len(tokens), (32,))
        logits = model(input_ids=tokens[batch]).logits
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), targets[batch, 1:].flatten(), ignore_index=-100)
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    answers = []
    for talk in heldout:
        start = tokenizer.encode(template(tokenizer, talk, reply=True), add_special_tokens=False, return_tensors="pt")
        answers.append([])
        for _ in range(4):
            ids = start
            for _ in range(6):
                with torch.no_grad():
                    p = model(input_ids=ids).logits[0, -1].softmax(-1)
                ids = torch.cat([ids, torch.multinomial(p, 1)[None]], 1)
                if ids[0, -1] == end:
                    break
            answers[-1].append(tokenizer.decode(ids[0, start.shape[1] :], skip_special_tokens=True))
    gold = [[judge(i, text) for text in row] for i, row in enumerate(answers)]
    shares = []
    for mine, theirs in zip(gold, rival.tolist(), strict=True):
        points = [1.0 if a > b else 0.5 if a == b else 0.0 for a in mine for b in theirs]
        shares.append(sum(points) / len(points))
    mean = sum(shares) / len(shares)
    variance = sum((x - mean) ** 2 for x in shares) / (len(shares) - 1)
    return {
        "texts": texts, "tokens": rows, "mask": masks, "losses": losses, "answers": answers, "gold": gold,
        "win_rate": (mean, (variance / len(shares)) ** 0.5),
    }  # fmt: skip


def with_the_package(tokenizer, assistant_id, model, talks, heldout, judge, rival):
    """Template, tokens and mask by `encode_conversation`; epochs over shuffled rows with SGD and momentum."""
    pairs = [encode_conversation(tokenizer, talk) for talk in talks]
    tokens, real = right_pad([c.tolist() for c, _ in pairs], tokenizer.pad_token_id)
    mask = torch.stack([F.pad(m, (0, tokens.shape[1] - len(m))) for _, m in pairs])
    sgd, losses = torch.optim.AdamW(model.parameters(), lr=8e-3, betas=(0.8, 0.99)), []
    for epoch in range(8):
        for batch in torch.randperm(len(tokens), generator=torch.Generator().manual_seed(epoch)).split(40):
            value = next_tokens(model, tokens[batch], real[batch], mask[batch])
            sgd.zero_grad()
            value.backward()
            sgd.step()
            losses.append(value.detach())
    asked, asked_mask = encode_prompts(tokenizer, [render(tokenizer, talk, reply=True) for talk in heldout])
    columns = [in_words(tokenizer, sample(model, asked, asked_mask, 6)) for _ in range(4)]
    answers = list(zip(*columns, strict=True))
    gold = torch.tensor([[judge(i, text) for text in row] for i, row in enumerate(answers)])
    return {
        "texts": [render(tokenizer, talk) for talk in talks], "tokens": tokens, "mask": mask,
        "losses": torch.stack(losses), "answers": answers, "gold": gold, "win_rate": rate_and_error(gold, rival),
    }  # fmt: skip


RIGHT = {"plain PyTorch, row by row": row_by_row, "the package's own encoding": with_the_package}


def by_hand(tokenizer, talk, reply=False):
    turns = [f"<|{m['role']}|> {m['content']}" + " <|end|>" * (m["role"] == "assistant") for m in talk]
    return " ".join(turns + ["<|assistant|>"] * reply)


def unshifted(model, tokens, real, mask):
    logits = model(input_ids=tokens, attention_mask=real.long()).logits
    return sft_loss(token_log_probs(logits, tokens), mask)


def mask_not_shifted(model, tokens, real, mask):
    logits = model(input_ids=tokens, attention_mask=real.long()).logits[:, :-1]
    return sft_loss(token_log_probs(logits, tokens[:, 1:]), mask[:, :-1])


def no_mask(model, tokens, real, mask):
    return next_tokens(model, tokens, real, real)


def last_only(tokens, real, assistant, end):
    begun = (tokens == assistant).long().cumsum(-1)
    return loss_mask(tokens, assistant, end) & (begun == begun.max(-1, keepdim=True).values)


def whole_rows(tokenizer, said):
    rows = torch.cat([said.prompts, said.responses], 1)
    return decode(tokenizer, rows, torch.cat([said.prompt_mask, said.response_mask], 1))


def tie_as(value):
    def rated(gold, rival):
        difference = gold[:, :, None] - rival[:, None, :]
        wins = ((difference > 0).float() + value * (difference == 0).float()).mean((1, 2))
        return wins.mean(), wins.std() / len(wins) ** 0.5

    return rated


def paired(gold, rival):
    wins = ((gold > rival).float() + 0.5 * (gold == rival).float()).mean(1)
    return wins.mean(), wins.std() / len(wins) ** 0.5


def with_error(error):
    def rated(gold, rival):
        difference = gold[:, :, None] - rival[:, None, :]
        wins = ((difference > 0).float() + 0.5 * (difference == 0).float()).mean(2)
        return wins.mean(), error(wins)

    return rated


def per_row(model, tokens, real, mask):
    """Every conversation counts the same, whatever its length; then twice what (1) is."""
    logits = model(input_ids=tokens, attention_mask=real.long()).logits[:, :-1]
    return -(token_log_probs(logits, tokens[:, 1:]) * mask[:, 1:]).sum(1).mean()


def end_left_out(model, tokens, real, mask):
    return next_tokens(model, tokens, real, mask & (tokens != model.config.eos_token_id))


def padding_learned(model, tokens, real, mask):
    return next_tokens(model, tokens, real, mask | ~real)


def greedy(model, prompts, real):
    return sample(model, prompts, real, 6, temperature=0.01)


# --- written after the symptoms and the tolerances --------------------------------------------------------------------


def half_of_the_places(model, tokens, real, mask):
    """The loss divided by the number of real tokens."""
    log_probs = token_log_probs(model(input_ids=tokens).logits[:, :-1], tokens[:, 1:])
    return -(log_probs * mask[:, 1:]).sum() / real[:, 1:].sum()


def two_tokens_ahead(model, tokens, real, mask):
    logits = model(input_ids=tokens, attention_mask=real.long()).logits[:, :-2]
    return sft_loss(token_log_probs(logits, tokens[:, 2:]), mask[:, 2:])


def not_in_logarithms(model, tokens, real, mask):
    logits = model(input_ids=tokens, attention_mask=real.long()).logits[:, :-1]
    return masked_mean(token_log_probs(logits, tokens[:, 1:]).exp(), mask[:, 1:])


MISTAKES = {
    "markers by hand": lambda tokenizer, a, model, talks, *rest: {"texts": [by_hand(tokenizer, t) for t in talks]},
    "generation prompt in training": built(text=functools.partial(template, reply=True)),
    "last exchange": built(text=lambda tokenizer, talk: template(tokenizer, talk[-2:])),
    "left padding": built(pad=left_pad),
    "mask early": built(mask=lambda t, real, a, e: torch.cat([loss_mask(t, a, e)[:, 1:], ~real[:, :1]], 1)),
    "marker in the mask": built(mask=lambda t, real, a, e: loss_mask(t, a, e) | (t == a)),
    "no end in the mask": built(mask=lambda t, real, a, e: loss_mask(t, a, e) & (t != e)),
    "all tokens in the mask": built(mask=lambda t, real, a, e: real),
    "the user's tokens": built(mask=lambda t, real, a, e: ~loss_mask(t, a, e) & real),
    "last answer in the mask": built(mask=last_only),
    "sign of the loss": built(step=lambda value, model, optimizer: descend(-value, model, optimizer)),
    "a copy": built(trained=copy.deepcopy),
    "no step": built(step=lambda value, model, optimizer: value.backward()),
    "no shift": built(loss=unshifted),
    "mask not shifted": built(loss=mask_not_shifted),
    "mask not used": built(loss=no_mask),
    "ten steps": built(steps=10),
    "small steps": built(rate=1e-4),
    "the same rows": built(rows=lambda n, size, step, seed: torch.arange(size)),
    "whole rows decoded": built(words=whole_rows),
    "repeat": built(index=lambda n: torch.arange(n).repeat(4)),
    "no generation prompt": built(question=template),
    "last question only": built(question=lambda tokenizer, talk: by_hand(tokenizer, talk[-1:], reply=True)),
    "always conversation 0": built(judged=lambda judge, i, text: judge(0, text)),
    "ties lost": built(rated=tie_as(0.0)),
    "ties won": built(rated=tie_as(1.0)),
    "losses counted": built(
        rated=lambda gold, rival: (1 - rate_and_error(gold, rival)[0], rate_and_error(gold, rival)[1])
    ),
    "in pairs": built(rated=paired),
    "independent answers": built(rated=with_error(lambda wins: wins.std() / wins.numel() ** 0.5)),
    "no root": built(rated=with_error(lambda wins: wins.mean(1).std())),
    "coins": built(rated=with_error(lambda wins: (wins.mean() * (1 - wins.mean()) / len(wins)) ** 0.5)),
    "upper case": built(text=lambda tokenizer, talk: template(tokenizer, talk).lower().replace("?", " ?")),
    "end token added": built(text=lambda tokenizer, talk: template(tokenizer, talk) + " " + tokenizer.eos_token),
    "one turn a text": built(text=lambda tokenizer, talk: template(tokenizer, talk[:2])),
    "first answer in the mask": built(
        mask=lambda t, real, a, e: loss_mask(t, a, e) & ((t == a).long().cumsum(-1) == 1)
    ),
    "mask late": built(mask=lambda t, real, a, e: torch.cat([~real[:, :1] & False, loss_mask(t, a, e)[:, :-1]], 1)),
    "padding in the mask": built(mask=lambda t, real, a, e: loss_mask(t, a, e) | ~real),
    "sum over the tokens": built(loss=per_row),
    "end left out of the loss": built(loss=end_left_out),
    "large steps": built(rate=1.0),
    "head only": built(trained=lambda model: model.requires_grad_(False).requires_grad_(True), steps=1),
    "hot": built(draw=lambda model, prompts, real: sample(model, prompts, real, 6, temperature=3.0)),
    "greedy": built(draw=greedy),
    "two tokens": built(draw=lambda model, prompts, real: sample(model, prompts, real, 2)),
    "one answer four times": built(
        index=lambda n: torch.arange(n),
        words=lambda tokenizer, said: [t for t in in_words(tokenizer, said) for _ in range(4)],
    ),
    "special tokens kept": built(words=lambda tokenizer, said: tokenizer.batch_decode(said.responses)),
    "first turn asked": built(question=lambda tokenizer, talk: template(tokenizer, talk[:1], reply=True)),
    "next conversation": built(judged=lambda judge, i, text: judge((i + 1) % 32, text)),
    "difference for win": built(
        rated=lambda gold, rival: ((gold.mean() - rival.mean()), rate_and_error(gold, rival)[1])
    ),
    "divided by M": built(rated=with_error(lambda wins: wins.mean(1).std() / len(wins))),
    "variance": built(rated=with_error(lambda wins: wins.mean(1).var() / len(wins))),
    "against the mean": built(rated=lambda gold, rival: rate_and_error(gold, rival.mean(1, keepdim=True))),
    "contents alone": built(text=lambda tokenizer, talk: " ".join(m["content"] for m in talk)),
    "assistant first": built(text=lambda tokenizer, talk: template(tokenizer, talk[::-1])),
    "one answer for each text": built(text=lambda tokenizer, talk: template(tokenizer, talk[1:])),
    "user's marker in the mask": built(
        mask=lambda t, real, a, e: loss_mask(t, a, e) | torch.cat([~real[:, :1], (t == e)[:, :-1] & real[:, 1:]], 1)
    ),
    "divided by the real tokens": built(loss=half_of_the_places),
    "two tokens ahead": built(loss=two_tokens_ahead),
    "probabilities for logarithms": built(loss=not_in_logarithms),
    "rows of the first half": built(rows=lambda n, size, step, seed: torch.arange(size) % 8),
    "three tokens": built(draw=lambda model, prompts, real: sample(model, prompts, real, 1)),
    "lukewarm": built(draw=lambda model, prompts, real: sample(model, prompts, real, 6, temperature=0.4)),
    "answers upside down": built(words=lambda tokenizer, said: in_words(tokenizer, said)[::-1]),
    "the answer's length judged": built(judged=lambda judge, i, text: float(len(text.split()))),
    "rewards from 0 to 1": built(judged=lambda judge, i, text: (judge(i, text) + 1) / 3),
    "wins and losses": built(
        rated=lambda gold, rival: (2 * rate_and_error(gold, rival)[0] - 1, rate_and_error(gold, rival)[1])
    ),
    "M − 1 in place of M": built(rated=with_error(lambda wins: wins.mean(1).std() / (len(wins) - 3) ** 0.5)),
    "spread over the answers": built(rated=with_error(lambda wins: wins.mean(0).std() / wins.shape[1] ** 0.5)),
}
RECOGNISED = {
    "markers by hand": "markers of another template",
    "generation prompt in training": "a reply is asked for in training",
    "last exchange": "the last exchange only",
    "left padding": "padded on the left",
    "mask early": "the mask one token early",
    "marker in the mask": "the marker counted",
    "no end in the mask": "the end token forgotten",
    "all tokens in the mask": "everything counted",
    "the user's tokens": "the user counted",
    "last answer in the mask": "the last answer only",
    "sign of the loss": "the loss climbs",
    "a copy": "a copy was trained",
    "no step": "no step is taken",
    "no shift": "no shift by one",
    "mask not shifted": "the mask not shifted",
    "mask not used": "the user is imitated",
    "ten steps": "too little training",
    "small steps": "too little training",
    "the same rows": "too few rows",
    "whole rows decoded": "the question is in the answer",
    "repeat": "answers in another order",
    "no generation prompt": "no generation prompt",
    "last question only": "no generation prompt",
    "always conversation 0": "judged as another conversation",
    "ties lost": "ties lost",
    "ties won": "ties won",
    "losses counted": "the rival's wins",
    "in pairs": "answers in pairs",
    "independent answers": "answers as if independent",
    "no root": "no root of M",
    "coins": "as for coins",
    "upper case": "tidied otherwise",
    "end token added": "something behind the texts",
    "one turn a text": "texts end too early",
    "first answer in the mask": "the first answer only",
    "padding in the mask": "padding counted",
    "end left out of the loss": "the end left out of the loss",
    "large steps": "steps too large",
    "head only": "a step or two",
    "hot": "no generation prompt",
    "greedy": "four times the same",
    "two tokens": "cut off",
    "one answer four times": "four times the same",
    "special tokens kept": "special tokens kept",
    "difference for win": "another comparison",
    "divided by M": "M in place of its root",
    "variance": "a variance for an error",
    "against the mean": "means compared",
    "sum over the tokens": "summed over the tokens",
    "first turn asked": "another question answered",
    "next conversation": "judged under other numbers",
    "one answer for each text": "texts begin too late",
    "user's marker in the mask": "the user's marker counted",
    "divided by the real tokens": "divided by all places",
    "two tokens ahead": "another loss",
    "probabilities for logarithms": "another loss",
    "rows of the first half": "too few rows",
    "three tokens": "cut off",
    "lukewarm": "too likely",
    "answers upside down": "no generation prompt",
    "the answer's length judged": "never judged",
    "rewards from 0 to 1": "the rewards in another unit",
}


# --- written after the symptoms and the tolerances --------------------------------------------------------------------


def two_losses(model, tokens, real, mask):
    return next_tokens(model, tokens, real, mask) + next_tokens(model, tokens, real, real)


UNSEEN = {
    # It passes: what is learned about padding beside the answers does them no harm.
    "padding learned": built(loss=padding_learned),
    "one turn in place of the talk": built(text=lambda tokenizer, talk: template(tokenizer, talk[:1])),
    "newline behind the texts": built(text=lambda tokenizer, talk: template(tokenizer, talk) + "\n"),
    "the user's turns in the mask as well": built(mask=lambda t, real, a, e: real & (t != a)),
    "no last token": built(mask=lambda t, real, a, e: loss_mask(t, a, e) & loss_mask(t, a, e).roll(-1, 1)),
    "two losses": built(loss=two_losses),
    "divided by the batch": built(loss=lambda m, t, real, mask: next_tokens(m, t, real, mask) * mask[:, 1:].sum() / 32),
    "twenty steps": built(steps=20),
    "four rows": built(rows=lambda n, size, step, seed: torch.arange(4)),
    "three words": built(draw=lambda model, prompts, real: sample(model, prompts, real, 3)),
    "at temperature 2": built(draw=lambda model, prompts, real: sample(model, prompts, real, 6, temperature=2.0)),
    "judged against the answer before": built(judged=lambda judge, i, text: judge(max(i - 1, 0), text)),
    "squared rewards": built(judged=lambda judge, i, text: judge(i, text) ** 2),
    "best of four": built(rated=lambda gold, rival: rate_and_error(gold.max(1, keepdim=True).values, rival)),
    "rate against one of the rival's": built(rated=lambda gold, rival: rate_and_error(gold, rival[:, :1])),
    "two errors": built(rated=lambda gold, rival: (rate_and_error(gold, rival)[0], 2 * rate_and_error(gold, rival)[1])),
}
