"""A chatbot aligned while you wait: SFT, then DPO, through adapters, on a model that is already a chatbot.

The loops are the course's own, and so is what is done with the pairs; small are the numbers: short prompts, short
answers, few steps. On harmless requests the pretrained model's own answers, recorded, are preferred to refusals, so
that not everything is refused in the end.
"""

from dataclasses import dataclass, replace

import pandas as pd
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from week6.dpo import DPOConfig, train_dpo
from week6.machine.compute import compute
from week6.machine.lora import trainee_of
from week6.machine.optim import make_optimizer
from week6.recorded import recorded
from week6.run.answers import answer
from week6.run.labelling import encode_texts
from week6.run.models import PRESETS, Preset, frozen_copy, initial_policy
from week6.run.setting import check_run
from week6.run.training import stage_seed
from week6.sequences import encode_demonstrations
from week6.sft import SFTConfig, train_sft
from week6.tasks import Task
from week6.tasks.hh import HHConfig
from week6.tasks.requests import KINDS, refuses, requests

LIVE = replace(
    PRESETS["chat"],
    sft=SFTConfig(steps=12, batch_size=8, learning_rate=2e-4),
    dpo=DPOConfig(steps=30, batch_size=8, learning_rate=2e-4, beta=0.1),
    ppo=replace(PRESETS["chat"].ppo, max_new_tokens=48),
    hh=HHConfig(max_prompt_tokens=96, harmless=len(requests("training"))),
)
"""What `align` uses of it: no reward model, no PPO, no judge; `ppo.max_new_tokens` is the longest answer."""
HARMLESS_IN = 4
"""One of so many pairs is about a harmless request."""


@dataclass(frozen=True)
class Aligned:
    """A chatbot before and after, and what training said."""

    task: Task
    policies: dict[str, PreTrainedModel]
    """base, sft and dpo, frozen."""
    sft: pd.DataFrame
    dpo: pd.DataFrame
    """A row a step, as `train_sft` and `train_dpo` yield them."""


def align(data: str, model: str | None = None, preset: Preset = LIVE, seed: int = 0) -> Aligned:
    """Align `model`, SmolLM2-135M-Instruct if none is named, with the pairs of people in `data`.

    Both are local or of the hub, as for `week6 run --preset chat`. Shows the steps as they are done. Raises ValueError
    or RunError, before anything is trained, where `week6 run` refuses too.
    """
    preset = replace(preset, data=data, model=model or preset.model)
    task = check_run(preset, seed)
    rows = mixed(list(task.pairs or []), harmless_pairs(task), preset.dpo.steps * preset.dpo.batch_size)
    base = frozen_copy(initial_policy(preset, task.tokenizer, seed))
    base.to(compute().device)  # type: ignore[arg-type]  # transformers hides the signature

    sft = trainee_of(base, preset.lora, stage_seed(seed, "sft/adapters"))
    shown = encode_demonstrations(task.tokenizer, *([row[column] for row in rows] for column in ("prompt", "chosen")))
    optimizer = make_optimizer(sft.model, preset.sft.learning_rate)
    steps = train_sft(sft.model, optimizer, shown.to(compute().device), preset.sft, stage_seed(seed, "sft"))
    learned = pd.DataFrame(tqdm(steps, "SFT", preset.sft.steps, unit="step"))
    sft.merge()

    reference = frozen_copy(sft.model)
    dpo = trainee_of(reference, preset.lora, stage_seed(seed, "dpo/adapters"))
    pairs = encode_texts(task, rows).to(compute().device)
    optimizer = make_optimizer(dpo.model, preset.dpo.learning_rate)
    steps = train_dpo(dpo.model, reference, optimizer, pairs, preset.dpo, stage_seed(seed, "dpo"))
    preferred = pd.DataFrame(tqdm(steps, "DPO", preset.dpo.steps, unit="step"))
    dpo.merge()
    policies = {"base": base, "sft": reference, "dpo": frozen_copy(dpo.model)}
    return Aligned(task, policies, learned, preferred)


def harmless_pairs(task: Task) -> list[dict[str, str]]:
    """The task's harmless requests, with a recorded answer that complies preferred to a refusal."""
    answers = recorded("chat_requests").set_index("request")["answer"]
    asked = list(zip(requests("training"), task.requests or [], strict=False))
    return [row | {"chosen": answers[request.text]} for request, row in asked if request.text in answers]


def mixed(people: list[dict[str, str]], harmless: list[dict[str, str]], n: int) -> list[dict[str, str]]:
    """n pairs, or as many as there are: one in `HARMLESS_IN` harmless, the others of people."""
    few = harmless[: n // HARMLESS_IN]
    return people[: n - len(few)] + few


def refusals(aligned: Aligned, seed: int = 0) -> pd.DataFrame:
    """Share of the course's own requests that each policy refuses, by the rule of words: a row a kind."""
    asked = requests("test")
    prompts = [row["prompt"] for row in aligned.task.own_requests or []]
    table = pd.DataFrame({"kind": [request.kind for request in asked]})
    for name, policy in tqdm(aligned.policies.items(), "asking 72 requests", unit="policy"):
        table[name] = [refuses(text) for text in answer(policy, aligned.task, prompts, seed, LIVE.hh.temperature)]
    return table.groupby("kind").mean().loc[list(KINDS)]
