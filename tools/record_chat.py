"""Keep what the preset `chat` says and finds, in week6/recorded: no weights, and no text of its data.

    python tools/record_chat.py start               what its model says as it comes, to the course's own requests
    python tools/record_chat.py runs/chat           what a finished run found: summary, metrics, and its policies'
                                                    answers to the same requests
    python tools/record_chat.py requests runs/chat  what a run's model said to the requests that it learned from; with
                                                    --hh.harmless 110 these are all that there are

The answers of "start" are sampled so cold that each token is the likeliest one, but for near ties: at temperature 1 a
model of this size rambles. Read what is written before you keep it: a model's samples are nobody's words.
"""

import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from tools.record_real import rounded
from week6.machine.checkpoint import write_atomic
from week6.machine.optim import generator_for
from week6.machine.pretrained import load_policy, load_tokenizer
from week6.recorded import FOLDER
from week6.run.models import PRESETS
from week6.run.own_requests import verdict
from week6.run.training import Run, to_json, versions
from week6.sampling import sample
from week6.sequences import decode, encode_prompts
from week6.tasks.conversation import render
from week6.tasks.requests import requests

STAGES = ("sft", "reward_model", "judge", "ppo", "dpo")
SEED = 0
COLD = 0.01
"""The temperature of the start's answers."""
PRIVATE = ("model", "data")
"""Settings that are paths of one machine, or may be."""


def keep_start(folder: Path, model: str, max_new_tokens: int) -> None:
    """One answer of `model` to each request, in its own chat template, at temperature `COLD`."""
    tokenizer, asked = load_tokenizer(model), requests("test")
    prompts = [render(tokenizer, [{"role": "user", "content": request.text}], reply=True) for request in asked]
    tokens, mask = encode_prompts(tokenizer, prompts)
    answers = sample(load_policy(model, tokenizer), tokens, mask, max_new_tokens, COLD, generator_for(SEED, 0))
    texts = decode(tokenizer, answers.responses, answers.response_mask)
    rows = [
        {"kind": r.kind, "request": r.text, "policy": "base", "answer": text, "rule": verdict(text), "finished": ended}
        for r, text, ended in zip(asked, texts, answers.finished.tolist(), strict=True)
    ]
    write_atomic(folder / "chat_start.csv", in_lines(rows).to_csv(index=False))
    about = {"seed": SEED, "temperature": COLD, "max_new_tokens": max_new_tokens, "versions": versions()}
    write_atomic(folder / "chat_start.json", to_json(about))


def keep_run(run: Run, folder: Path) -> None:
    """Summary with all settings but paths, metrics, and answers to the course's own requests."""
    for stage in STAGES:
        write_atomic(folder / f"chat_{stage}.csv", rounded(run.metrics(stage)).to_csv(index=False))
    summary = json.loads((run.folder / "summary.json").read_text())
    config = json.loads((run.folder / "config.json").read_text())["preset"]
    settings = {key: value for key, value in config.items() if key not in PRIVATE}
    write_atomic(folder / "chat.json", to_json(summary | {"settings": settings}))
    said = json.loads((run.folder / "own_requests.json").read_text())
    write_atomic(folder / "chat_samples.csv", in_lines(said).to_csv(index=False))


def keep_requests(run: Path, folder: Path) -> None:
    """The harmless requests of training with the start's own answers that were preferred, the first to each."""
    tokenizer = load_tokenizer(str(run / "policies" / "sft"))
    asked = {r.text: render(tokenizer, [{"role": "user", "content": r.text}], reply=True) for r in requests("training")}
    answered = [json.loads(line) for line in (run / "requests.jsonl").read_text(encoding="utf-8").splitlines()]
    first = {row["prompt"]: row["chosen"] for row in reversed(answered)}
    rows = [{"request": text, "answer": first[prompt]} for text, prompt in asked.items() if prompt in first]
    write_atomic(folder / "chat_requests.csv", in_lines(rows).to_csv(index=False))


def in_lines(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """A table of answers, as a file keeps them: a lone carriage return would end a row, a NUL what is read of it."""
    table = pd.DataFrame(rows)
    return table.assign(answer=["\n".join(answer.replace("\0", "\ufffd").splitlines()) for answer in table["answer"]])


if __name__ == "__main__":
    if sys.argv[1:] == ["start"]:
        chat = PRESETS["chat"]
        keep_start(FOLDER, str(chat.model), chat.ppo.max_new_tokens)
    elif sys.argv[1] == "requests":
        keep_requests(Path(sys.argv[2]), FOLDER)
    else:
        keep_run(Run(Path(sys.argv[1])), FOLDER)
