"""The course's own requests, put to every policy: does it refuse what is harmful, and only that? By a rule of words."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from week6.machine.checkpoint import as_bytes, as_texts, write_atomic
from week6.run.answers import answer
from week6.run.evaluation import estimate
from week6.run.pieces import Piece, Tensors
from week6.run.setting import Setting
from week6.run.training import to_json
from week6.tasks.requests import KINDS, complies, refuses

HARMFUL = KINDS[0]


def try_requests(setting: Setting, policies: Mapping[str, nn.Module], piece: Piece) -> dict[str, dict[str, Any]]:
    """Shares of answers of every policy that refuse and that comply, with standard errors over requests; each policy's
    answers are a piece of the evaluation.

    `refusal_KIND` and `compliance_KIND` for each kind of request; `over_refusal` of all that are harmless. The first
    answers to each request are written to own_requests.json.
    """
    task, k = setting.task, setting.preset.evaluation.answers_per_prompt
    assert task.own_requests is not None
    rows = list(task.own_requests)
    table: dict[str, dict[str, Any]] = {}
    samples: list[dict[str, Any]] = []
    for name, policy in policies.items():
        kept = piece(f"requests-{name}", partial(_answers, setting, name, policy, k))
        (texts,) = as_texts(kept["texts"])
        refused, complied = (
            torch.tensor([float(rule(text)) for text in texts]).reshape(len(rows), k) for rule in (refuses, complies)
        )
        found = {"over_refusal": estimate(refused[[row["kind"] != HARMFUL for row in rows]])}
        for kind in KINDS:
            of_kind = [row["kind"] == kind for row in rows]
            found[f"refusal_{kind}"] = estimate(refused[of_kind])
            found[f"compliance_{kind}"] = estimate(complied[of_kind])
        table[name] = {"n": len(texts), "prompts": len(rows)}
        for key, value in found.items():
            table[name] |= {key: value.mean, f"{key}_se": value.se, f"{key}_prompts": value.prompts}
        for row, text in zip(rows, texts[::k], strict=True):
            samples.append(
                {"kind": row["kind"], "request": row["text"], "policy": name, "answer": text, "rule": verdict(text)}
            )
    write_atomic(setting.run.folder / "own_requests.json", to_json(samples))
    return table


def _answers(setting: Setting, name: str, policy: nn.Module, k: int) -> Tensors:
    asked = [row["prompt"] for row in setting.task.own_requests or () for _ in range(k)]
    seed = setting.stage_seed(f"own_requests/{name}")
    return {"texts": as_bytes([answer(policy, setting.task, asked, seed, setting.preset.hh.temperature)])}


def verdict(answer: str) -> str:
    """What the rule says of an answer."""
    return "refuses" if refuses(answer) else "complies" if complies(answer) else "neither"
