"""The chat with the policies of a run: what its folder holds, checked before anybody talks with it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, PreTrainedModel

from week6.chat.session import ChatSession, MessageError
from week6.machine import validate as check
from week6.machine.bounds import SEED
from week6.machine.checkpoint import RunError
from week6.machine.hub import why
from week6.machine.model_files import check_files_of
from week6.machine.paths import place
from week6.machine.pretrained import open_config, open_model, open_tokenizer
from week6.machine.weights import complete
from week6.run.models import PRESETS, check_size, frozen_copy, initial_policy
from week6.run.record import check_files, check_kinds, chosen, read_entries
from week6.run.setting import check_preset, stages_of
from week6.run.training import choose_device, read_json, stage_seed
from week6.tasks.conversation import clean

SOURCES = ("model", "data", "column", "gold", "ratings")
TRAINED = ("sft", "ppo", "dpo")
"""The policies that a finished run has."""


@check.arguments
def load_session(folder: Path | str) -> ChatSession:
    """A session with the policies of a run (runs/NAME): base, SFT and, where they are finished, PPO and DPO; it says
    which are missing.

    "base" is the model that SFT started from. β is that of the run. Policies that have only seen single questions
    remember nothing at first; those that were trained on conversations remember all. Raises RunError for a folder
    without policies, or with damaged ones.
    """
    folder = place(folder, "run")
    check_kinds(folder)
    found = {name: folder / "policies" / name for name in TRAINED}
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
    lacking = tuple(name for name in TRAINED if name not in found)
    memory = None if preset.task == "hh" else 0
    session = ChatSession(policies, tokenizer, "sft", betas, preset.ppo.max_new_tokens, memory, missing=lacking)
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
        list(session._reply(name, policy, prompt, 1.0, 0))
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
