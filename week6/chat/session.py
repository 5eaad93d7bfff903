"""Talk with several policies side by side: what each answers, and the implicit reward of every token.

Nothing here draws anything; `week6.classroom.widgets.chat_window` and `week6 chat` show a `ChatSession`.
"""

import json
import math
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from week6.dpo import implicit_reward
from week6.log_probs import response_log_probs
from week6.machine import validate as check
from week6.machine.bounds import SEED
from week6.machine.checkpoint import RunError
from week6.machine.hub import why
from week6.machine.optim import generator_for
from week6.machine.paths import place
from week6.machine.pretrained import check_files_of, complete, open_config, open_model, open_tokenizer
from week6.run.models import PRESETS, check_size, frozen_copy, initial_policy
from week6.run.record import check_files, chosen, read_entries
from week6.run.setting import check_preset, stages_of
from week6.run.training import choose_device, read_json, stage_seed
from week6.sampling import sample
from week6.sequences import tokens_of
from week6.tasks.conversation import KINDS_REMOVED, clean, neutralise, render

MAX_CHARACTERS = 20_000
TEMPERATURES = (0.05, 5.0)
LARGEST_SEED = 10**9
ENDLESS = 1_000_000
"""Positions of a model that names no end of them."""


SOURCES = ("model", "data", "column", "gold", "ratings")


class MessageError(ValueError):
    """A message cannot be answered; says why, in words for its writer. The conversation is as it was."""


# --- the session -----------------------------------------------------------------------------------------------------


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

    def __post_init__(self) -> None:
        if not self.policies:
            raise ValueError("policies: got none, expected at least one")
        if not isinstance(self.policies, Mapping):
            raise ValueError(f"policies: got a {type(self.policies).__name__}, expected each under its name")
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
        check_settings(temperature, seed)
        text, notes = self._read(text)
        replies, cut = {}, []
        for name, policy in self.policies.items():
            prompt, left_out = self._prompt(name, policy, text)
            cut += [name] * bool(left_out)
            replies[name] = self._reply(name, policy, prompt, temperature, seed)
        if cut:
            room = _positions(self.policies[cut[0]])
            notes.append(
                f"Not seen by {', '.join(cut)}: the oldest turns, which no longer fit into the {room} positions."
            )
        turn = Turn(text, temperature, seed, tuple(notes), replies)
        self.turns.append(turn)
        return turn

    def clear(self) -> None:
        """Forget the conversation."""
        self.turns.clear()

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

    def _prompt(self, name: str, policy: PreTrainedModel, text: str) -> tuple[Tensor, int]:
        """The prompt (1, P) for the next answer of `name`, and how many turns had to be left out for want of room."""
        room = _positions(policy) - self.max_new_tokens
        first, newest = 0 if self.memory is None else max(0, len(self.turns) - self.memory), len(self.turns)

        def tokens_without(skip: int) -> list[int]:
            prompt = render(self.tokenizer, self.messages(name, text, skip), reply=True)
            (found,) = tokens_of(self.tokenizer, [prompt])  # as in training, with the tokenizer's BOS
            return found

        tokens = tokens_without(newest)
        if len(tokens) <= room:
            skip, tokens = _fewest_left_out(first, newest, tokens, tokens_without, room)
            return torch.tensor([tokens], device=policy.device), skip - first
        raise MessageError(
            f"This message has {len(tokens)} tokens; at most {room} fit: the model has {_positions(policy)} positions, "
            f"and {self.max_new_tokens} are kept for the answer."
        )

    @torch.no_grad()
    def _reply(self, name: str, policy: PreTrainedModel, prompt: Tensor, temperature: float, seed: int) -> Reply:
        mask = torch.ones_like(prompt, dtype=torch.bool)
        generator = generator_for(seed, len(self.turns), policy.device)
        answer = sample(policy, prompt, mask, self.max_new_tokens, temperature, generator)
        ids = answer.responses[0].tolist()
        finished = bool(answer.finished)
        words = [str(self.tokenizer.decode(ids[:i], skip_special_tokens=True)) for i in range(len(ids) + 1)]
        pieces = [after.removeprefix(before) for before, after in zip(words[:-1], words[1:], strict=True)]
        if finished:
            pieces[-1] = str(self.tokenizer.decode(ids[-1:]))
        ratios = rewards = None
        if name in self.betas:
            own, reference = (  # of the policies themselves, whatever temperature the answer was sampled at
                response_log_probs(model, prompt, mask, answer.responses, answer.response_mask)[0]
                for model in (policy, self.policies[self.reference])
            )
            ratios = tuple((own - reference).tolist())
            rewards = tuple(implicit_reward(own, reference, self.betas[name]).tolist())
        return Reply(clean(words[-1]), tuple(map(_visible, pieces)), ratios, rewards, finished)


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
    if not (isinstance(temperature, Real) and math.isfinite(temperature) and low <= temperature <= high):
        raise MessageError(f"The temperature is {temperature!r}; it must lie between {low} and {high}.")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= LARGEST_SEED:
        raise MessageError(f"The seed is {seed!r}; it must be a whole number from 0 to {LARGEST_SEED}.")


def _visible(piece: str) -> str:
    """A token's text without control characters; the space that joins it to the word before it stays."""
    return (" " if piece[:1].isspace() else "") + clean(piece)


def _positions(policy: PreTrainedModel) -> int:
    return int(getattr(policy.config, "max_position_embeddings", ENDLESS))


# --- from a run ------------------------------------------------------------------------------------------------------


@check.arguments
def load_session(folder: Path | str, memory: int | None = 0) -> ChatSession:
    """A session with the policies of a run (runs/NAME): base, SFT and, where they are finished, PPO and DPO.

    "base" is the model that SFT started from. β is that of the run. The policies of a run have only seen single
    questions, so by default they remember nothing. Raises RunError for a folder without policies, or with damaged
    ones.
    """
    folder = place(folder, "run")
    found = {name: folder / "policies" / name for name in ("sft", "ppo", "dpo")}
    found = {name: path for name, path in found.items() if path.is_dir()}
    if "sft" not in found:
        raise RunError(
            f"{folder} holds no policies/sft: expected the folder of a run, such as runs/tiny; "
            "make one with week6 run, or finish it with week6 run --resume"
        )
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    try:
        asked, seed = config["preset"], config["seed"]
        SEED.check("seed", seed)
        given = {name: asked[name] for name in ("layers", "heads", "width", "positions", *SOURCES)}
        ppo, dpo = ({"beta": asked[name]["beta"]} for name in ("ppo", "dpo"))
        ppo["max_new_tokens"] = asked["ppo"]["max_new_tokens"]
        preset = PRESETS[asked["name"]]
        preset = replace(preset, **given, ppo=replace(preset.ppo, **ppo), dpo=replace(preset.dpo, **dpo))
        check_preset(preset)
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"{folder / 'config.json'} is missing or of another version ({error}), expected that of a run: "
            "delete it, and week6 run --resume with the same settings writes it anew"
        ) from error
    entries = {name: entry for name, entry in read_entries(folder / "stages.json").items() if name in found}
    for name, entry in entries.items():
        if entry["settings"] != chosen(config, stages_of(preset)[name]):
            raise RunError(
                f"{folder / 'config.json'} has other settings than stage {name} was made with: delete it, and "
                "week6 run --resume with the same settings writes it anew"
            )
        if missing := check_files(folder, entry):
            raise RunError(f"{folder / missing[0]} is missing: finish the run with week6 run --resume")
    betas = {name: float(getattr(preset, name).beta) for name in found if name != "sft"}
    device = choose_device()
    tokenizer = _load(open_tokenizer, found["sft"])
    policies = {name: _load(_open_policy, path) for name, path in found.items()}
    check_size(preset, len(tokenizer))
    policies = {"base": initial_policy(preset, tokenizer, stage_seed(seed, "init"))} | policies
    policies = {name: frozen_copy(policy).to(device) for name, policy in policies.items()}
    session = ChatSession(policies, tokenizer, "sft", betas, preset.ppo.max_new_tokens, memory)
    for name, policy in policies.items():
        _try(replace(session, max_new_tokens=1), name, policy, found.get(name, found["sft"]))
    return session


def _try(session: ChatSession, name: str, policy: PreTrainedModel, path: Path) -> None:
    """Raise RunError for a policy that cannot answer: another architecture, another vocabulary, a damaged template."""
    embeddings: Any = policy.get_input_embeddings()
    known = int(embeddings.num_embeddings)
    try:
        if type(policy) is not type(session.policies[session.reference]):
            raise ValueError(f"a {type(policy).__name__}, and SFT's is none")
        if len(session.tokenizer) > known:
            raise ValueError(f"{len(session.tokenizer)} tokens for {known} embeddings")
        prompt, _ = session._prompt(name, policy, "hello")
        session._reply(name, policy, prompt, 1.0, 0)
    except MessageError:
        return  # its answers leave no room for any message, which it will say to each
    except Exception as error:  # of whatever was put there
        raise _damaged(path, error) from error


def _open_policy(path: Path) -> PreTrainedModel:
    return complete(str(path), "policy", *open_model(AutoModelForCausalLM, path, open_config(path)))


def _load(kind: Callable[[Path], Any], path: Path) -> Any:
    try:
        check_files_of(path)
        return kind(path)
    except Exception as error:  # of the readers of every file in it
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> RunError:
    return RunError(
        f"{path} is damaged ({clean(why(error))}), expected a policy of this run: delete it, and week6 run "
        "--resume makes it again, or restore a copy"
    )
