"""Talk with several policies side by side: what each answers, and the implicit reward of every token.

Nothing here draws anything; `week6.classroom.widgets.chat_window` and `week6 chat` show a `ChatSession`.
"""

import json
import math
import unicodedata
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from numbers import Real

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from week6.chat.reading import Reader, Token, answer
from week6.dpo import implicit_reward
from week6.machine import validate as check
from week6.machine.optim import generator_for
from week6.sampling import eos_ids
from week6.sequences import tokens_of
from week6.tasks.conversation import KINDS_REMOVED, clean, neutralise, render

MAX_CHARACTERS = 20_000
TEMPERATURES = (0.05, 5.0)
"""Of these at which tokens are drawn; at 0 the likeliest is taken."""
LARGEST_SEED = 10**9
ENDLESS = 1_000_000
"""Positions of a model that names no end of them."""
STRANGE = 2.0
"""Nats a token by which an answer surprises the reference more than its own answers do, on average, from which on an
implicit reward means nothing."""
UNFINISHED = "\ufffd"
"""What a tokenizer writes for bytes that are no whole character yet."""


class MessageError(ValueError):
    """A message cannot be answered; says why, in words for its writer. The conversation is as it was."""


@dataclass(frozen=True)
class Reply:
    """One policy's answer, token by token."""

    text: str
    pieces: tuple[str, ...]
    """What each token adds to the text; the end token last, as the tokenizer writes it, if the answer has ended."""
    log_ratios: tuple[float, ...] | None
    """log π(y_t) − log π_SFT(y_t) of each token, in nats."""
    rewards: tuple[float, ...] | None
    """The implicit reward of each token, β times that, in reward units; None for a policy that has no β."""
    finished: bool
    surprise: float | None = None
    """−log π_SFT(y_t) − H_t, mean over tokens: by how many nats they surprise the reference more than its own would;
    H_t is the entropy of what it expects there. None for a policy that has no β."""

    @property
    def strange(self) -> bool:
        """Whether the reference would hardly give such an answer. None like it was among those that implicit rewards
        were fitted to: two small probabilities are compared, and their ratio, however large, means nothing."""
        return self.surprise is not None and self.surprise > STRANGE


@dataclass(frozen=True)
class Said:
    """A piece of what is said while answers are being made."""

    policy: str | None
    """Who says it; None for what the session has to say about the message."""
    text: str
    reply: Reply | None = None
    """The whole answer, where it has come to its end."""


@dataclass(frozen=True)
class Turn:
    """What the user wrote, what the session has to say about it, and every policy's reply."""

    user: str
    temperature: float
    seed: int
    notes: tuple[str, ...]
    replies: Mapping[str, Reply]


@dataclass
class ChatSession:
    """A conversation with several policies at once. Each remembers its own answers, not those of the others.

    policies        by name, in the order to show them
    reference       the policy that implicit rewards are measured against: π_ref, the SFT model
    betas           β of the policies that were trained from the reference, in reward units per nat
    max_new_tokens  longest answer
    memory          how many earlier turns a policy sees; None for all. A policy that was only trained on single
                    questions is lost as soon as it sees more than one
    """

    policies: Mapping[str, PreTrainedModel]
    tokenizer: PreTrainedTokenizerBase
    reference: str = "sft"
    betas: Mapping[str, float] = field(default_factory=dict)
    max_new_tokens: int = 24
    memory: int | None = None
    turns: list[Turn] = field(default_factory=list)
    missing: tuple[str, ...] = ()
    """Policies that the run does not have yet."""
    _readers: dict[tuple[str, str], Reader] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Who reads: whose conversation, with which model."""

    def __post_init__(self) -> None:
        if not self.policies:
            raise ValueError("policies: got none, expected at least one")
        if not isinstance(self.policies, Mapping):
            raise ValueError(f"policies: got a {type(self.policies).__name__}, expected each under its name")
        if not isinstance(self.tokenizer, PreTrainedTokenizerBase):
            raise ValueError(f"tokenizer: got {self.tokenizer!r:.60}, expected that of the policies")
        if not isinstance(self.betas, Mapping):
            raise ValueError(f"betas: got a {type(self.betas).__name__}, expected each under the name of its policy")
        check.whole("max_new_tokens", self.max_new_tokens)
        if self.memory is not None:
            check.whole("memory", self.memory, 0)
        for name, beta in self.betas.items():
            check.positive("betas", beta)
            if name not in self.policies or self.reference not in self.policies:
                raise ValueError(f"betas: got one for {name!r}, expected a policy beside the reference")

    def send(self, text: str, temperature: float = 1.0, seed: int = 0) -> Turn:
        """Every policy's answer to `text`; the same message, history, temperature and seed give the same answers.

        Raises MessageError, and leaves the conversation as it was, for a message that is empty or too long and for a
        temperature or seed out of range.
        """
        for _ in self.stream(text, temperature, seed):
            pass
        return self.turns[-1]

    def stream(self, text: str, temperature: float = 1.0, seed: int = 0) -> Iterator[Said]:
        """`send`, piece by piece, one policy after the other; the conversation has the new turn when all is said.

        Raises MessageError at once. Whoever stops listening before the end leaves the conversation as it was.
        """
        check_settings(temperature, seed)
        text, notes = self._read(text)
        prompts, cut = {}, []
        for name, policy in self.policies.items():
            prompts[name], left_out = self._prompt(name, policy, text)
            cut += [name] * bool(left_out)
        if cut:
            room = _positions(self.policies[cut[0]])
            notes.append(
                f"Not seen by {', '.join(cut)}: the oldest turns, which no longer fit into the {room} positions."
            )
        return self._answer(Turn(text, temperature, seed, tuple(notes), {}), prompts)

    def clear(self) -> None:
        """Forget the conversation."""
        self.turns.clear()
        self._readers.clear()

    def export(self) -> str:
        """The conversation as JSON."""
        turns = [
            {
                "user": turn.user,
                "temperature": turn.temperature,
                "seed": turn.seed,
                "notes": list(turn.notes),
                "replies": {
                    name: {
                        "text": reply.text,
                        "finished": reply.finished,
                        "tokens": list(reply.pieces),
                        "implicit_rewards": None if reply.rewards is None else [round(r, 6) for r in reply.rewards],
                        "strange": reply.strange,
                    }
                    for name, reply in turn.replies.items()
                },
            }
            for turn in self.turns
        ]
        head = {"reference": self.reference, "betas": dict(self.betas), "memory": self.memory}
        return json.dumps(head | {"turns": turns}, indent=2, ensure_ascii=False)

    def messages(self, name: str, text: str | None = None, skip: int = 0) -> list[dict[str, str]]:
        """The conversation as policy `name` knows it, without its first `skip` turns, then `text` as a new message."""
        found = []
        for turn in self.turns[skip:]:
            found += [
                {"role": "user", "content": turn.user},
                {"role": "assistant", "content": turn.replies[name].text},
            ]
        return found if text is None else [*found, {"role": "user", "content": text}]

    def _read(self, text: str) -> tuple[str, list[str]]:
        """The message as the policies get it, and notes for its writer."""
        if not isinstance(text, str):
            raise MessageError(f"This message is {text!r:.60}; it must be text.")
        if len(text) > MAX_CHARACTERS:
            raise MessageError(f"This message has {len(text)} characters; at most {MAX_CHARACTERS} can be read.")
        kept, notes = clean(text), []
        if not kept:
            raise MessageError("This message is empty: write something first.")
        if any(unicodedata.category(c) in KINDS_REMOVED and c not in "\n\r\t" for c in text):
            notes.append("Control characters were removed from your message.")
        if neutralise(self.tokenizer, kept) != unicodedata.normalize("NFKC", kept):
            notes.append("Special tokens in your message are read as plain text: nobody can speak for the assistant.")
        if unknown := self._unknown_words(kept):
            shown = ", ".join(f"“{word[:30]}”" for word in unknown[:5]) + (" …" if len(unknown) > 5 else "")
            notes.append(
                f"The models do not know {shown}: they read {self.tokenizer.unk_token} there. "
                "What they answer to that says nothing."
            )
        return kept, notes

    def _unknown_words(self, text: str) -> list[str]:
        unknown = self.tokenizer.unk_token_id
        if unknown is None or unknown == self.tokenizer.eos_token_id:
            return []
        plain = neutralise(self.tokenizer, text)
        encoded = self.tokenizer(plain, add_special_tokens=False, return_offsets_mapping=True)
        words = [
            plain[a:b]
            for token, (a, b) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
            if token == unknown
        ]
        return list(dict.fromkeys(words))

    def _prompt(self, name: str, policy: PreTrainedModel, text: str) -> tuple[list[int], int]:
        """The prompt for the next answer of `name`, and how many turns had to be left out for want of room."""
        room = _positions(policy) - self.max_new_tokens
        first, newest = 0 if self.memory is None else max(0, len(self.turns) - self.memory), len(self.turns)

        def tokens_without(skip: int) -> list[int]:
            prompt = render(self.tokenizer, self.messages(name, text, skip), reply=True)
            (found,) = tokens_of(self.tokenizer, [prompt])  # as in training, with the tokenizer's BOS
            return found

        tokens = tokens_without(newest)
        if len(tokens) <= room:
            skip, tokens = _fewest_left_out(first, newest, tokens, tokens_without, room)
            return tokens, skip - first
        raise MessageError(
            f"This message has {len(tokens)} tokens; at most {room} fit: the model has {_positions(policy)} positions, "
            f"and {self.max_new_tokens} are kept for the answer."
        )

    def _answer(self, turn: Turn, prompts: Mapping[str, list[int]]) -> Iterator[Said]:
        replies = {}
        for note in turn.notes:
            yield Said(None, note)
        for name, prompt in prompts.items():
            replies[name] = yield from self._reply(name, self.policies[name], prompt, turn.temperature, turn.seed)
            yield Said(name, "", replies[name])
        self.turns.append(replace(turn, replies=replies))

    def _reply(
        self, name: str, policy: PreTrainedModel, prompt: list[int], temperature: float, seed: int
    ) -> Generator[Said, None, Reply]:
        generator = generator_for(seed, len(self.turns), policy.device)
        tokens = answer(self._reader(name, name), prompt, self.max_new_tokens, temperature, generator)
        ends, said, pieces, shown = set(eos_ids(policy).tolist()), list[Token](), list[str](), ""
        for token in tokens:
            said.append(token)
            text = str(self.tokenizer.decode([token.id for token in said], skip_special_tokens=True))
            if token.id not in ends and len(said) < self.max_new_tokens:
                text = text.rstrip(UNFINISHED)
            pieces.append(_visible(text[len(shown) :]))
            shown = max(shown, text, key=len)
            yield Said(name, pieces[-1])
        ids = [token.id for token in said]
        finished = not ends or ids[-1] in ends
        if finished and ends:
            pieces[-1] = _visible(str(self.tokenizer.decode(ids[-1:])))
        text = clean(str(self.tokenizer.decode(ids, skip_special_tokens=True)))
        if name not in self.betas:
            return Reply(text, tuple(pieces), None, None, finished)
        own = torch.tensor([token.log_prob for token in said])
        reference, surprise = self._appraise(name, prompt, ids)
        rewards = implicit_reward(own, reference, self.betas[name])
        ratios = tuple((own - reference).tolist())
        return Reply(text, tuple(pieces), ratios, tuple(rewards.tolist()), finished, surprise)

    def _appraise(self, name: str, prompt: list[int], ids: list[int]) -> tuple[Tensor, float]:
        """log π_ref of each token of an answer, at temperature 1, and by how much they surprise the reference."""
        logits = self._reader(name, self.reference).read([*prompt, *ids[:-1]], len(ids)).cpu()
        every = logits.log_softmax(-1)
        found = every.gather(-1, torch.tensor(ids).unsqueeze(-1)).squeeze(-1)
        entropy = -(every.exp() * every).sum(-1)
        return found, float((-found - entropy).mean())

    def _reader(self, name: str, model: str) -> Reader:
        """Reads the conversation with `name`, with the policy `model`."""
        policy, known = self.policies[model], self._readers.get((name, model))
        if known is None or known.model is not policy:
            known = self._readers[name, model] = Reader(policy)
        return known


def _fewest_left_out(
    first: int, newest: int, tokens: list[int], tokens_without: Callable[[int], list[int]], room: int
) -> tuple[int, list[int]]:
    """The smallest number of turns to leave out, from `first` to `newest`, with which a prompt fits, and that prompt.

    `tokens` is the one without all `newest` turns, which fits. Steps back from there double, and then halve again: as
    many prompts are made as it takes to double the turns that fit, however long the conversation is.
    """
    fits, too_many, step = newest, first - 1, 1
    while fits - too_many > 1:
        skip = max(fits - step, (fits + too_many) // 2 if too_many >= first else first)
        longer = tokens_without(skip)
        if len(longer) <= room:
            fits, tokens, step = skip, longer, 2 * step
        else:
            too_many = skip
    return fits, tokens


def check_settings(temperature: float, seed: int) -> None:
    """Raise MessageError for a temperature or a seed that cannot be sampled with."""
    low, high = TEMPERATURES
    number = isinstance(temperature, Real) and math.isfinite(temperature)
    if not (number and (temperature == 0 or low <= temperature <= high)):
        raise MessageError(
            f"The temperature is {temperature!r}; it must lie between {low} and {high}, or be 0 for the likeliest "
            "tokens."
        )
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= LARGEST_SEED:
        raise MessageError(f"The seed is {seed!r}; it must be a whole number from 0 to {LARGEST_SEED}.")


def _visible(piece: str) -> str:
    """A token's text without control characters; the space that joins it to the word before it stays."""
    return (" " if piece[:1].isspace() else "") + clean(piece)


def _positions(policy: PreTrainedModel) -> int:
    return int(getattr(policy.config, "max_position_embeddings", ENDLESS))
