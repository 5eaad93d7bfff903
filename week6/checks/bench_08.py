"""The bench of notebook 08's capstone: a small world of conversations, with a template of its own for every seed.

Users ask about one of ten things, in three forms; the teacher does the right one of ten actions, or puts the user off,
or errs, with probabilities that are known:

    p(right | thing) = 1 − q(thing) − e,    p(off | thing) = q(thing),    p(each wrong action) = e/9

So the lowest loss that a model can have on the teacher's answers is known: their entropy.
"""

import functools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from week6.checks.capstone import parts
from week6.log_probs import token_log_probs
from week6.sampling import sample
from week6.sequences import decode, encode_prompts, right_pad

Talk = list[dict[str, str]]

THINGS = "tea bread rice soup kite poem song photo shelf chess".split()
ACTIONS = "pour bake boil cut fly read sing take hang play".split()
FORMS = ("How to do {} ?", "tell me about {} .", "  {} , Please !")
OFF = "later !"
WRONG = 0.09
"""e, how often the teacher takes a wrong action."""
ANSWERS = 4
"""K, to each held-out conversation; and J, of the rival."""
LONGEST = 6
"""Tokens of an answer, its end included, at most."""
PARTS = ("texts", "tokens", "mask", "losses", "answers", "gold", "win_rate")
TEMPLATES = (
    ("<|ask|>", "<|reply|>", "<|stop|>", "{{ '\\n' if not loop.first }}", " | trim"),
    ("<|human|>", "<|bot|>", "<|over|>", "{{ ' ' if not loop.first }}", " | trim | lower"),
    ("<|q|>", "<|a|>", "<|done|>", "{{ ' / ' if not loop.first }}", " | trim | upper"),
)
"""Marker of the user, marker of the assistant, end token, what stands between messages, how contents are tidied."""


class Bench:
    """One seed's teacher, template, conversations and rival."""

    n_talks, heldout_talks = 400, 32

    def __init__(self, seed: int) -> None:
        self.random = random.Random(f"chat {seed}")
        self.right = dict(zip(THINGS, self.random.sample(ACTIONS, len(ACTIONS)), strict=True))
        self.off = {thing: self.random.choice((0.02, 0.3, 0.75)) for thing in THINGS}
        self.tokenizer, self.assistant_id = _tokenizer(*self.random.choice(TEMPLATES))
        self.talks = [self.talk(self.random.randint(1, 2)) for _ in range(self.n_talks)]
        self.fresh = [self.talk(self.random.randint(1, 2)) for _ in range(150)]
        self.heldout = [self.talk(1 + i % 2)[:-1] for i in range(self.heldout_talks)]
        said = [[self.answer(_thing(talk), lazier=0.5) for _ in range(ANSWERS)] for talk in self.heldout]
        self.rival = torch.tensor([[self.judge(i, text) for text in row] for i, row in enumerate(said)])
        self.pad = int(self.tokenizer.pad_token_id)
        self.seed = seed
        self.model = self.untrained()

    def untrained(self) -> GPT2LMHeadModel:
        """The model as it is handed over."""
        return _model(self.tokenizer, self.seed)

    def answer(self, thing: str, lazier: float = 0.0) -> str:
        """What the teacher says; a lazier one puts the user off more often."""
        if self.random.random() < self.off[thing] + lazier * (1 - self.off[thing]):
            return OFF
        wrong = self.random.random() < WRONG / (1 - self.off[thing])
        return (
            f"{self.random.choice([a for a in ACTIONS if a != self.right[thing]]) if wrong else self.right[thing]} it !"
        )

    def talk(self, turns: int) -> Talk:
        """A conversation of so many questions and answers."""
        messages = []
        for _ in range(turns):
            thing = self.random.choice(THINGS)
            messages += [
                {"role": "user", "content": self.random.choice(FORMS).format(thing)},
                {"role": "assistant", "content": self.answer(thing)},
            ]
        return messages

    def judge(self, i: int, text: str) -> float:
        """Gold reward of an answer to held-out conversation i: 2 for the right action, 0.5 for `later !`, else −1."""
        said = " ".join(text.lower().split())
        return 2.0 if said == f"{self.right[_thing(self.heldout[i])]} it !" else 0.5 if said == OFF else -1.0

    def text(self, talk: Talk, reply: bool = False) -> str:
        """The conversation in the template of this seed."""
        return str(self.tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=reply))

    def rows(self, talks: list[Talk]) -> tuple[Tensor, Tensor]:
        """Tokens (N, L), padded on the right, and the loss mask."""
        ids = self.tokenizer([self.text(talk) for talk in talks], add_special_tokens=False)["input_ids"]
        tokens, _ = right_pad(ids, self.pad)
        return tokens, self.mask_of(tokens)

    def mask_of(self, tokens: Tensor) -> Tensor:
        """The loss mask (B, L) of tokens that are padded on the right."""
        starts, ends = ((tokens == i).long() for i in (self.assistant_id, self.tokenizer.eos_token_id))
        return (starts - ends).cumsum(-1) - (starts - ends) > 0

    @functools.cached_property
    def texts(self) -> list[str]:
        """The conversations as they are to be rendered."""
        return [self.text(talk) for talk in self.talks]

    @functools.cached_property
    def encoded(self) -> tuple[Tensor, Tensor]:
        """Their tokens (N, L), padded on the right, and the loss mask."""
        return self.rows(self.talks)

    @functools.cached_property
    def entropy(self) -> float:
        """The lowest loss on the answers of `fresh`, in nats per token."""
        tokens, mask = self.rows(self.fresh)
        total = 0.0
        for talk in self.fresh:
            for question, answer in zip(talk[::2], talk[1::2], strict=True):
                thing = _thing([question])
                right = answer["content"] == f"{self.right[thing]} it !"
                p = (1 - self.off[thing] - WRONG) if right else WRONG / 9
                total -= math.log(self.off[thing] if answer["content"] == OFF else p)
        return total / int(mask.sum())

    @torch.no_grad()
    def losses(self, model: GPT2LMHeadModel) -> dict[str, float]:
        """Of the fresh conversations, in nats per token: of the `assistant`'s tokens and of their `end` tokens, of the
        assistant's `marker`, of what opens a later `turn` of the user, and of the `user`'s words."""
        tokens, mask = self.rows(self.fresh)
        real = tokens != self.tokenizer.pad_token_id
        logits = model(input_ids=tokens, attention_mask=real.long()).logits[:, :-1]
        loss = -token_log_probs(logits, tokens[:, 1:])
        tokens, mask, real = tokens[:, 1:], mask[:, 1:], real[:, 1:]
        marker, end = tokens == self.assistant_id, tokens == self.tokenizer.eos_token_id
        turn = real & torch.cat([torch.zeros_like(end[:, :1]), end[:, :-1]], dim=1)
        kinds = {"assistant": mask, "end": end, "marker": marker, "turn": turn, "user": real & ~mask & ~marker & ~turn}
        return {name: float(loss[where].mean()) for name, where in kinds.items()}

    def answers_of(self, model: GPT2LMHeadModel, copies: int) -> list[str]:
        """Fresh answers of the model to the held-out conversations, `copies` to each in a row."""
        prompts, mask = encode_prompts(self.tokenizer, [self.text(talk, reply=True) for talk in self.heldout])
        index = torch.arange(len(prompts)).repeat_interleave(copies)
        said = sample(model, prompts[index], mask[index], LONGEST, generator=torch.Generator().manual_seed(0))
        return decode(self.tokenizer, said.responses, said.response_mask)

    def gold_of(self, model: GPT2LMHeadModel, copies: int = 24) -> Tensor:
        """Gold rewards of such answers, (M, copies)."""
        texts = self.answers_of(model, copies)
        return torch.tensor([self.judge(i // copies, text) for i, text in enumerate(texts)]).view(-1, copies)

    @torch.no_grad()
    def log_probs_of(self, texts: list[str]) -> Tensor:
        """log π of answers to the held-out conversations, as many in a row to each, by the trained model, (N,)."""
        copies = len(texts) // len(self.heldout)
        prompts = [self.text(talk, reply=True) for talk in self.heldout for _ in range(copies)]
        whole = [f"{prompt} {text} {self.tokenizer.eos_token}" for prompt, text in zip(prompts, texts, strict=True)]
        rows, starts = ([self.tokenizer.encode(t, add_special_tokens=False) for t in x] for x in (whole, prompts))
        cut = [row[: len(start) + LONGEST] for row, start in zip(rows, starts, strict=True)]
        tokens, real = right_pad(cut, self.pad)
        logits = self.model(input_ids=tokens, attention_mask=real.long()).logits[:, :-1]
        answer = torch.arange(tokens.shape[1]) >= torch.tensor([len(start) for start in starts])[:, None]
        return (token_log_probs(logits, tokens[:, 1:]) * (answer & real)[:, 1:]).sum(1)


def _thing(talk: Talk) -> str:
    """What the last message is about."""
    return next(word for word in talk[-1]["content"].split() if word in THINGS)


def _tokenizer(user: str, assistant: str, end: str, between: str, tidy: str) -> tuple[PreTrainedTokenizerFast, int]:
    words = {word for form in FORMS for word in form.format("tea").lower().split()} | {"it", "!", "later", "/"}
    special = ("<|pad|>", end, user, assistant, "<|unk|>")
    vocabulary = {word: i for i, word in enumerate((*special, *sorted({*words, *THINGS, *ACTIONS})))}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<|unk|>"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=core,
        pad_token="<|pad|>",
        eos_token=end,
        unk_token="<|unk|>",
        additional_special_tokens=[user, assistant],
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    marker = "{{ '" + assistant + "' if message.role == 'assistant' else '" + user + "' }}"
    tokenizer.chat_template = (
        "{% for message in messages %}" + between + marker + " {{ message.content" + tidy + " }}"
        "{{ ' " + end + "' if message.role == 'assistant' }}{% endfor %}"
        "{% if add_generation_prompt %}" + between.split("if")[0].rstrip() + " }}" + assistant + "{% endif %}"
    )
    return tokenizer, vocabulary[assistant]


def _model(tokenizer: PreTrainedTokenizerFast, seed: int) -> GPT2LMHeadModel:
    """An untrained model of one layer; with larger initial weights than GPT-2's it learns in a second."""
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=48, n_embd=32, n_layer=1, n_head=2, initializer_range=0.1,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GPT2LMHeadModel(config)
    model.eval()  # type: ignore[no-untyped-call]
    return model


@dataclass
class Chatbot:
    """One call of the student's function: what it gave, and what was measured of its model before and after."""

    bench: Bench
    parts: dict[str, Any]
    before: dict[str, float]
    after: dict[str, float]
    moved: float
    """How far the weights went, as a share of their size."""
    first_batch: Tensor | None = None
    """What went into the model in the first forward pass with a gradient: token ids (B, L)."""
    judged: list[tuple[int, str]] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        """Whether any weight has moved."""
        return self.moved != 0

    @functools.cached_property
    def gold(self) -> Tensor:
        """Gold rewards of our own answers of the trained model."""
        return self.bench.gold_of(self.bench.model)

    @functools.cached_property
    def first_log_probs(self) -> tuple[Tensor, Tensor, Tensor]:
        """The first batch as the untrained model sees it: log-probabilities of the next tokens and, unshifted, of the
        tokens themselves, (B, L − 1) and (B, L); and the loss mask (B, L)."""
        assert self.first_batch is not None
        tokens, bench = self.first_batch, self.bench
        with torch.no_grad():
            logits = bench.untrained()(input_ids=tokens, attention_mask=(tokens != bench.pad).long()).logits
        return (
            token_log_probs(logits[:, :-1], tokens[:, 1:]),
            token_log_probs(logits, tokens),
            bench.mask_of(tokens),
        )


def measure(answer: Callable[..., Any], seed: int) -> Chatbot:
    """Let `answer` make a chatbot on a fresh bench, and look at what became of the model."""
    bench = Bench(seed)
    before = bench.losses(bench.model)
    weights = [p.detach().clone() for p in bench.model.parameters()]
    judged: list[tuple[int, str]] = []

    def judge(i: int, text: str) -> float:
        judged.append((i, text))
        return bench.judge(i, text)

    batches: list[Tensor] = []

    def note(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tokens = kwargs.get("input_ids", args[0] if args else None)
        if not batches and torch.is_grad_enabled() and isinstance(tokens, Tensor):
            batches.append(tokens.detach().clone())

    bench.model.register_forward_pre_hook(note, with_kwargs=True)
    given = answer(bench.tokenizer, bench.assistant_id, bench.model, bench.talks, bench.heldout, judge, bench.rival)
    after = list(bench.model.parameters())
    moved = sum(float((a - b).detach().square().sum()) for a, b in zip(weights, after, strict=True)) ** 0.5
    moved = moved / sum(float(w.square().sum()) for w in weights) ** 0.5
    first = batches[0] if batches else None
    return Chatbot(bench, parts(given, *PARTS), before, bench.losses(bench.model), moved, first, judged)
