"""Questions of notebook 08, chatbots: talk to what you trained."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from week6.checks.engine import Misconception, Prediction, Question

Message = dict[str, str]

# --- 8.1 · the chat template ----------------------------------------------------------------------------------------


def chat_text(messages: list[Message], reply: bool) -> str:
    """The conversation as one string, as the embedded chatbot was trained to read it."""
    parts = []
    for message in messages:
        parts.append(f"<|{message['role']}|> {message['content']}")
        if message["role"] == "assistant":
            parts.append("<|end|>")
    if reply:
        parts.append("<|assistant|>")
    return " ".join(parts)


def _conversations(_: torch.Generator) -> list[tuple[list[Message], bool]]:
    hello = {"role": "user", "content": "hello !"}
    answer = {"role": "assistant", "content": "hello , what can i do for you ?"}
    bread = {"role": "user", "content": "how do i bake bread ?"}
    mix = {"role": "assistant", "content": "mix the flour and bake the bread ."}
    return [
        ([hello], True),
        ([hello, answer], False),
        ([hello, answer, bread], True),
        ([hello, answer, bread, mix], False),
        ([bread], False),
    ]


def _template(end: Callable[[str], str], separator: str = " ", marker: str = "<|{role}|>") -> Callable[..., str]:
    """A template that goes wrong: `end` gives what stands behind a turn of a role."""

    def text(messages: list[Message], reply: bool) -> str:
        turns = [f"{marker.format(role=m['role'])} {m['content']}{end(m['role'])}" for m in messages]
        return separator.join([*turns, marker.format(role="assistant")] if reply else turns)

    return text


def _of_assistant(role: str) -> str:
    return " <|end|>" if role == "assistant" else ""


def _right(messages: list[Message], reply: bool) -> str:
    return _template(_of_assistant)(messages, reply)


q1 = Question(
    title="8.1 The chat template",
    reference=chat_text,
    cases=_conversations,
    hints=(
        "Go through the messages. Each one gives its marker, a space, its content; an assistant's turn gives the end "
        "token too. Join everything with single spaces.",
        "Collect the parts in a list: f\"<|{m['role']}|> {m['content']}\", and \"<|end|>\" if the role is "
        "assistant; at the "
        'end "<|assistant|>" if reply is True. Return " ".join(parts).',
    ),
    misconceptions=(
        Misconception(
            "no end token",
            _template(lambda role: ""),
            "The end token is missing behind the assistant's answers. It is how the model knows, and learns, that an "
            "answer is over.",
        ),
        Misconception(
            "end token after every turn",
            _template(lambda role: " <|end|>"),
            "You end the user's turns with <|end|> too. In this template only the assistant's turns end so; the next "
            "marker ends the user's.",
        ),
        Misconception(
            "end token after the user only",
            _template(lambda role: " <|end|>" if role == "user" else ""),
            "Your end token stands behind the user's turns. It belongs behind the assistant's: the model has to learn "
            "to stop.",
        ),
        Misconception(
            "end token once",
            lambda messages, reply: (
                _template(lambda role: "")(messages, reply) + ("" if reply else _of_assistant(messages[-1]["role"]))
            ),
            "You end the conversation, but not each answer. Every assistant turn has its own <|end|>.",
        ),
        Misconception(
            "never asks for a reply",
            lambda messages, reply: _right(messages, False),
            "With reply=True the text must end with <|assistant|>: the model writes what comes after it. Without it, "
            "the model goes on with the user's turn.",
        ),
        Misconception(
            "always asks for a reply",
            lambda messages, reply: _right(messages, True),
            "You add <|assistant|> at the end even with reply=False. Then a finished conversation would train "
            "the model "
            "to open one more turn.",
        ),
        Misconception(
            "reply the wrong way round",
            lambda messages, reply: _right(messages, not reply),
            "Your test of `reply` is the wrong way round: the marker at the end comes with reply=True.",
        ),
        Misconception(
            "asks the user",
            lambda messages, reply: _right(messages, False) + (" <|user|>" if reply else ""),
            "You end with <|user|>: so the model would write the user's next message. The reply is the assistant's.",
        ),
        Misconception(
            "reply after the last user turn only",
            lambda messages, reply: _right(messages[-1:], reply),
            "You render the last message only. The model has no other memory: all earlier turns must be in the text.",
        ),
        Misconception(
            "reply ended at once",
            lambda messages, reply: _right(messages, reply) + ("  <|end|>" if reply else ""),
            "You end the reply before it has begun. <|assistant|> must be the last token: the model writes the answer, "
            "and the end token itself.",
        ),
        Misconception(
            "reply by the last role",
            lambda messages, reply: _right(messages, messages[-1]["role"] == "user"),
            "You ask for a reply whenever the user spoke last. Whether one is asked for is what the argument "
            "`reply` says.",
        ),
        Misconception(
            "two spaces",
            lambda messages, reply: (
                " ".join(f"<|{m['role']}|> {m['content']} {_of_assistant(m['role']).lstrip()}" for m in messages)
                + (" <|assistant|>" if reply else "")
            ).replace("<|end|>", "<|end|> "),
            "There are two spaces between some parts. A tokenizer may make other tokens of that: use exactly one.",
        ),
        Misconception(
            "line breaks",
            _template(_of_assistant, separator="\n"),
            "You join the turns with line breaks. Other templates do that; this chatbot has been trained on single "
            "spaces.",
        ),
        Misconception(
            "nothing between the turns",
            _template(_of_assistant, separator=""),
            "A space is missing between the turns.",
        ),
        Misconception(
            "plain names",
            _template(_of_assistant, marker="{role}:"),
            "You write the roles as words. The markers are special tokens, <|user|> and <|assistant|>: one token each, "
            "that no message can contain.",
        ),
        Misconception(
            "no markers",
            lambda messages, reply: " ".join(m["content"] + _of_assistant(m["role"]) for m in messages),
            "The role markers are missing: nobody could tell who said what.",
        ),
        Misconception(
            "newest first",
            lambda messages, reply: _right(list(reversed(messages)), reply),
            "Your turns stand in reverse order.",
        ),
    ),
)

# --- 8.2 · the loss mask --------------------------------------------------------------------------------------------


def loss_mask(tokens: Tensor, assistant_id: int, end_id: int) -> Tensor:
    """Which tokens the assistant has to learn: its words and the end token of each of its turns; shape (B, L), bool."""
    begun = (tokens == assistant_id).long().cumsum(-1)
    ended = (tokens == end_id).long().cumsum(-1)
    inside = begun > ended  # from a marker up to the word before the end token
    before = torch.zeros_like(inside[:, :1])
    return torch.cat([before, inside[:, :-1]], dim=-1)


def _token_rows(g: torch.Generator) -> list[tuple[Tensor, int, int]]:
    def conversation(turns: Sequence[tuple[int, int]], user: int, assistant: int, end: int) -> list[int]:
        row: list[int] = []
        for asked, answered in turns:
            words = torch.randint(10, 50, (asked + answered,), generator=g).tolist()
            row += [user, *words[:asked], assistant, *words[asked:], end]
        return row

    def batch(*rows: list[int]) -> Tensor:
        width = max(map(len, rows))
        return torch.tensor([row + [0] * (width - len(row)) for row in rows])

    first = batch(conversation([(3, 2), (2, 4)], 2, 3, 1), conversation([(4, 1)], 2, 3, 1))
    second = batch(conversation([(1, 1), (2, 2), (1, 3)], 7, 5, 6), conversation([(2, 3), (3, 1)], 7, 5, 6))
    third = batch(conversation([(2, 3)], 2, 3, 1) + [2, 11, 3, 12])  # the last answer has not ended
    return [(first, 3, 1), (second, 5, 6), (third, 3, 1)]


def _inside(tokens: Tensor, assistant_id: int, end_id: int) -> Tensor:
    return (tokens == assistant_id).long().cumsum(-1) > (tokens == end_id).long().cumsum(-1)


def _last_turn(tokens: Tensor, assistant_id: int, end_id: int, last: bool = True) -> Tensor:
    begun = (tokens == assistant_id).long().cumsum(-1)
    turn = begun.max(-1, keepdim=True).values if last else 1
    return loss_mask(tokens, assistant_id, end_id) & (begun == turn)


def _ended_answers(tokens: Tensor, assistant_id: int, end_id: int) -> Tensor:
    ends_later = (tokens == end_id).flip(-1).long().cumsum(-1).flip(-1) > 0
    return loss_mask(tokens, assistant_id, end_id) & ends_later


def _one_more(mask: Tensor, allowed: Tensor) -> Tensor:
    later = torch.cat([torch.zeros_like(mask[:, :1]), mask[:, :-1]], dim=-1)
    return mask | later & allowed


q2 = Question(
    title="8.2 The loss mask",
    reference=loss_mask,
    cases=_token_rows,
    hints=(
        "Read a row from left to right with a switch: an <|assistant|> marker turns it on for the next token, "
        "an end token "
        "turns it off for the next one. The mask is the switch.",
        "Without loops: after token t we are inside an answer if more markers than end tokens have been seen, "
        "(tokens == assistant_id).cumsum(-1) > (tokens == end_id).cumsum(-1). Shift this by one to the right.",
    ),
    misconceptions=(
        Misconception(
            "marker counted, end token not",
            _inside,
            "Your mask is one token too early: it counts the marker <|assistant|>, which the template writes, "
            "and not the "
            "end token, which the model must learn to write.",
        ),
        Misconception(
            "marker counted",
            lambda tokens, a, e: _inside(tokens, a, e) | loss_mask(tokens, a, e),
            "You count the marker <|assistant|> too. The template writes it; the model never has to.",
        ),
        Misconception(
            "end token forgotten",
            lambda tokens, a, e: loss_mask(tokens, a, e) & (tokens != e),
            "The end token does not count in your mask: the model would never learn to stop, and talk on in the user's "
            "name.",
        ),
        Misconception(
            "aligned with the logits",
            lambda tokens, a, e: torch.cat(
                [loss_mask(tokens, a, e)[:, 1:], torch.zeros_like(tokens[:, :1]).bool()], -1
            ),
            "Your mask is shifted: it marks the positions that predict the answer. Asked for is which *tokens* "
            "count; the "
            "shift comes in (1), once.",
        ),
        Misconception(
            "the user's words",
            lambda tokens, a, e: ~loss_mask(tokens, a, e),
            "Your mask is inverted: it trains the model to be the user.",
        ),
        Misconception(
            "never switched off",
            lambda tokens, a, e: (tokens == a).long().cumsum(-1) > (tokens == a).long(),
            "From the first marker on everything counts: the user's later words and the padding as well. An end token "
            "closes the turn.",
        ),
        Misconception(
            "only the last answer",
            _last_turn,
            "Only the last answer counts in your mask. Every assistant turn is a demonstration: (1) sums over "
            "all of them.",
        ),
        Misconception(
            "only the first answer",
            lambda tokens, a, e: _last_turn(tokens, a, e, last=False),
            "Only the first answer counts in your mask. Every assistant turn is a demonstration: (1) sums over "
            "all of them.",
        ),
        Misconception(
            "only answers that have ended",
            _ended_answers,
            "Right for answers that have ended. One that is cut off has no end token, but its words count all "
            "the same.",
        ),
        Misconception(
            "one token too many",
            lambda tokens, a, e: _one_more(loss_mask(tokens, a, e), tokens != a),
            "You count one token too many behind each answer: the end token is the last that counts.",
        ),
        Misconception(
            "all real tokens",
            lambda tokens, a, e: tokens != 0,
            "Everything but the padding counts in your mask: that is pretraining. The user's words are not to "
            "be imitated.",
        ),
        Misconception(
            "everything",
            lambda tokens, a, e: torch.ones_like(tokens).bool(),
            "Everything counts in your mask, even the padding.",
        ),
        Misconception(
            "end tokens only",
            lambda tokens, a, e: tokens == e,
            "Only the end tokens count in your mask: the words of the answers are missing.",
        ),
        Misconception(
            "one row for all",
            lambda tokens, a, e: loss_mask(tokens[:1], a, e).expand_as(tokens),
            "You use the first row's mask for all rows. Each conversation has its own turns.",
        ),
    ),
)

# --- 8.3 · the evaluation table -------------------------------------------------------------------------------------

Judged = tuple[Tensor, Tensor, Tensor, Tensor]


def evaluation_table(gold: Tensor, sft_gold: Tensor, harmful: Tensor, refused: Tensor) -> Tensor:
    """Win rate against SFT, refusals of harmful and of harmless requests, with standard errors; shape (3, 2)."""
    ours, theirs = gold[:, :, None], sft_gold[:, None, :]
    wins = (ours > theirs).float() + 0.5 * (ours == theirs).float()
    by_prompt = (wins.mean((1, 2)), refused[harmful].float().mean(1), refused[~harmful].float().mean(1))
    return torch.stack([torch.stack([x.mean(), x.std() / len(x) ** 0.5]) for x in by_prompt])


def _judged(g: torch.Generator) -> list[Judged]:
    cases = []
    for m, k, j in ((9, 4, 3), (14, 2, 5)):
        gold, sft_gold = (torch.randint(-3, 4, (m, n), generator=g).float() for n in (k, j))
        gold[: m // 2] += 1.0
        harmful = torch.rand(m, generator=g) < 0.4
        harmful[:4] = torch.tensor([True, True, False, False])
        rate = torch.where(harmful, 0.8, 0.25)[:, None] * torch.rand(m, 1, generator=g).sqrt()
        cases.append((gold, sft_gold, harmful, torch.rand(m, k, generator=g) < rate))
    return cases


def _table(
    wins: Callable[[Tensor, Tensor], Tensor] | None = None,
    error: Callable[[Tensor], Tensor] | None = None,
    refusals: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
) -> Callable[..., Tensor]:
    """The table with one thing done otherwise: wins and refusals give values (M, K), `error` takes such values."""

    def right_wins(ours: Tensor, theirs: Tensor) -> Tensor:
        return (ours > theirs).float() + 0.5 * (ours == theirs).float()

    def table(gold: Tensor, sft_gold: Tensor, harmful: Tensor, refused: Tensor) -> Tensor:
        won = (wins or right_wins)(gold[:, :, None], sft_gold[:, None, :]).mean(2)
        yes, no = refusals(harmful, refused) if refusals else (refused[harmful].float(), refused[~harmful].float())
        spread = error or (lambda x: x.mean(1).std() / len(x) ** 0.5)
        return torch.stack([torch.stack([x.mean(), spread(x)]) for x in (won, yes, no)])

    return table


def _paired(gold: Tensor, sft_gold: Tensor, harmful: Tensor, refused: Tensor) -> Tensor:
    k = min(gold.shape[1], sft_gold.shape[1])
    ours, theirs = gold[:, :k], sft_gold[:, :k]
    wins = ((ours > theirs).float() + 0.5 * (ours == theirs).float()).mean(1)
    table = evaluation_table(gold, sft_gold, harmful, refused)
    return torch.cat([torch.stack([wins.mean(), wins.std() / len(wins) ** 0.5])[None], table[1:]])


def _all_prompts(gold: Tensor, sft_gold: Tensor, harmful: Tensor, refused: Tensor) -> Tensor:
    counted = torch.stack([torch.tensor(float(len(gold))), harmful.sum(), (~harmful).sum()])
    scale = torch.stack([torch.ones(3), (counted / len(gold)).sqrt()], dim=1)
    return evaluation_table(gold, sft_gold, harmful, refused) * scale


q3 = Question(
    title="8.3 The evaluation table",
    reference=evaluation_table,
    cases=_judged,
    hints=(
        "First one number a prompt (average over its answers), then mean and standard error over prompts. For the wins "
        "compare every answer with every answer of the SFT model: gold[:, :, None] and sft_gold[:, None, :].",
        "wins = (a > b).float() + 0.5 * (a == b).float(), then wins.mean((1, 2)); refused[harmful].float().mean(1) and "
        "refused[~harmful].float().mean(1). For each x of these: x.mean() and x.std() / len(x) ** 0.5.",
    ),
    misconceptions=(
        Misconception(
            "ties lost",
            _table(wins=lambda a, b: (a > b).float()),
            "A tie counts 0 in your win rate. It counts one half: else a policy would lose against itself.",
        ),
        Misconception(
            "ties won",
            _table(wins=lambda a, b: (a >= b).float()),
            "A tie counts 1 in your win rate. It counts one half: else a policy would win against itself.",
        ),
        Misconception(
            "losses counted",
            _table(wins=lambda a, b: (a < b).float() + 0.5 * (a == b).float()),
            "You count how often the SFT model wins.",
        ),
        Misconception(
            "difference for win",
            _table(wins=lambda a, b: a - b),
            "Your first row is the mean difference in reward. A win rate counts who wins, not by how much.",
        ),
        Misconception(
            "one comparison a prompt",
            lambda gold, sft_gold, harmful, refused: evaluation_table(
                gold.mean(1, keepdim=True), sft_gold.mean(1, keepdim=True), harmful, refused
            ),
            "You compare the mean rewards, once a prompt. A win rate compares answer with answer: all K · J pairs.",
        ),
        Misconception(
            "answers in pairs",
            _paired,
            "You compare the k-th answer with the k-th. They are independent samples: every answer against "
            "every one of "
            "the SFT model uses all that you have.",
        ),
        Misconception(
            "as for coins",
            _table(error=lambda x: (x.mean() * (1 - x.mean()) / len(x)).sqrt()),
            "√(p(1 − p)/M) is the error of M coins. With several answers a prompt the x̄ᵢ are no coins: take their own "
            "spread, (4).",
        ),
        Misconception(
            "all prompts in the root",
            _all_prompts,
            "You divide by the root of all M prompts. For a rate of harmful requests only the harmful prompts count, "
            "also in the root.",
        ),
        Misconception(
            "answers as if independent",
            _table(error=lambda x: x.flatten().std() / x.numel() ** 0.5),
            "Your standard error treats all M·K answers as independent. Answers to one prompt are alike: average them "
            "first, then take (4) over the M prompts.",
        ),
        Misconception(
            "too many answers in the root",
            _table(error=lambda x: x.mean(1).std() / x.numel() ** 0.5),
            "You divide by √(M·K). What is averaged in (4) are the M prompts: √M.",
        ),
        Misconception(
            "standard deviation",
            _table(error=lambda x: x.mean(1).std()),
            "Your second column is the standard deviation of single prompts. The error of their mean is smaller "
            "by √M, (4).",
        ),
        Misconception(
            "variance",
            _table(error=lambda x: x.mean(1).var() / len(x)),
            "Your second column is the variance of the mean. The standard error is its square root.",
        ),
        Misconception(
            "divided by M",
            _table(error=lambda x: x.mean(1).std() / len(x)),
            "You divide the standard deviation by M. By (4) it is √M.",
        ),
        Misconception(
            "biased",
            _table(error=lambda x: x.mean(1).std(unbiased=False) / len(x) ** 0.5),
            "Your deviation divides by M where (4) has M − 1 (torch.std does so by itself).",
        ),
        Misconception(
            "refusals of all requests",
            _table(refusals=lambda h, r: ((r & h[:, None]).float(), (r & ~h[:, None]).float())),
            "You divide the refusals by all requests. Each rate is a fraction of its own kind: of the harmful, of the "
            "harmless ones.",
        ),
        Misconception(
            "kinds swapped",
            _table(refusals=lambda h, r: (r[~h].float(), r[h].float())),
            "Rows two and three are swapped: harmful first, then harmless.",
        ),
        Misconception(
            "help for refusal",
            _table(refusals=lambda h, r: (r[h].float(), (~r[~h]).float())),
            "Your third row counts harmless requests that are *not* refused. Asked for are those that are.",
        ),
        Misconception(
            "per cent",
            lambda *judged: 100 * evaluation_table(*judged),
            "You give per cent. Asked for are fractions between 0 and 1.",
        ),
        Misconception(
            "row and column swapped",
            lambda *judged: evaluation_table(*judged).T,
            "Your table is transposed: three rows, one for each figure; two columns, mean and standard error.",
        ),
    ),
)

# --- predictions ----------------------------------------------------------------------------------------------------

p1 = Prediction(
    "Without the marker <|assistant|> at the end, what becomes of the answers?",
    (
        "nothing: the question is still there.",
        "they get much worse; often the model says nothing at all.",
        "they become rude.",
    ),
    1,
    "The marker is what the answer follows on in all training texts; without it the model goes on with the "
    "user's turn.",
)
p2 = Prediction(
    "The same question as the second message of a conversation: how good are the answers?",
    ("as good as before.", "a little worse.", "useless."),
    2,
    "In training every text had one question, at the first positions.",
)
p3 = Prediction(
    "Which policy refuses the largest share of harmless requests?",
    ("SFT, which imitates the raw bot.", "PPO, which learned to refuse what is harmful.", "DPO, for the same reason."),
    0,
    "PPO and DPO learned from preferences on both kinds of request; the raw bot refuses here and there.",
)
p4 = Prediction(
    "What takes the most memory when all weights of a 7B model are trained with AdamW in mixed precision?",
    ("the weights that compute.", "the optimizer's numbers.", "the reference model of DPO."),
    1,
    "Twelve of the sixteen bytes a parameter: the 32-bit weights and two moments.",
)
