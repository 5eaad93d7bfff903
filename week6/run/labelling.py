"""Preference pairs of a run: sampled, labelled, kept in its folder.

harmless requests, refusals of them, and answers that comply           →  SFT, reward model, DPO
pairs of people, or answers of the SFT model that an annotator labels  →  reward model
the same pairs, or answers that the reward model labels                →  DPO
"""

import json
import math
from functools import partial
from itertools import combinations
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from week6.machine.checkpoint import load_tensors, save_tensors, write_atomic
from week6.machine.optim import generator_for, minibatch
from week6.reward_model import RewardModel, score_batches
from week6.run.answers import answer
from week6.run.evaluation import sample_batches
from week6.run.models import initial_policy
from week6.run.pieces import Piece, Tensors, pieces
from week6.run.setting import Setting
from week6.run.training import Usage
from week6.sequences import Pairs, Rollout, decode, encode_pairs, join_pairs, pair_rollouts
from week6.tasks import Task
from week6.tasks.requests import complies, whole_sentences

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
"""Names of the answers to a prompt that annotators compare; their random numbers derive from these."""
TRIES = 4
"""Answers to a harmless request, at most, of which one is to comply."""


def answer_requests(setting: Setting) -> list[dict[str, str]]:
    """Pairs on the harmless requests of a task, by a rule: an answer that complies is preferred to one that refuses.

    The policy that SFT starts from is asked until an answer, cut behind its last whole sentence, complies; a request
    whose answers never do is left out. [] for a task without requests.
    """
    run, task, path = setting.run, setting.task, setting.run.folder / "requests.jsonl"
    if task.requests is None:
        return []
    if not run.whole("requests"):
        usage = Usage()
        rows = [dict(row) for row in task.requests]
        start = initial_policy(setting.preset, task.tokenizer, setting.stage_seed("init"))
        start.to(setting.device)  # type: ignore[arg-type]  # transformers hides the signature
        for which in ORDINALS[:TRIES]:
            left = [row for row in rows if "chosen" not in row]
            if not left:
                break
            seed = setting.stage_seed(f"requests/{which}")
            texts = answer(start, task, [row["prompt"] for row in left], seed, setting.preset.hh.temperature)
            for row, text in zip(left, map(whole_sentences, texts), strict=True):
                row |= {"chosen": text} if complies(text) else {}
        _write_texts(path, [row for row in rows if "chosen" in row])
        usage.tick()
        run.finish("requests", usage, files=[path])
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def collect_pairs(setting: Setting, sft: PreTrainedModel) -> tuple[Pairs, Pairs, Tensor | None]:
    """Two answers to each prompt, and which of them is preferred: pairs that the task brings, chosen by people, or
    else answers of the SFT model, chosen by a simulated annotator.

    Returns training pairs, pairs on held-out prompts, and for these the probability (N,) of the choice made, None
    where people chose.
    """
    run, task, path = setting.run, setting.task, setting.run.folder / "pairs.safetensors"
    if not run.whole("pairs"):
        usage = Usage()
        seed, n_pairs = setting.stage_seed("pairs/prompts"), setting.preset.n_pairs
        probabilities: Tensor | None = None
        if task.pairs is not None and task.heldout_pairs is not None:
            n_pairs = min(n_pairs, len(task.pairs))
            texts: list[dict[str, str]] = list(task.pairs.select(minibatch(len(task.pairs), n_pairs, 0, seed).tolist()))
            texts += answer_requests(setting)
            train, heldout = encode_texts(task, texts), encode_texts(task, list(task.heldout_pairs))
            if "probability" in task.heldout_pairs.column_names:
                probabilities = torch.tensor(task.heldout_pairs["probability"])
        else:
            k = task.answers_per_prompt
            n_prompts = math.ceil(n_pairs / math.comb(k, 2))
            index = minibatch(len(task.prompts), n_prompts, 0, seed)
            each = torch.arange(len(task.heldout_prompts)).repeat_interleave(setting.preset.evaluation.heldout_pairs)
            with pieces(run, "pairs", k + 2, usage) as piece:
                train, _, texts = _label_answers(setting, sft, "prompts", index, k, piece, usage)
                heldout, probabilities, _ = _label_answers(setting, sft, "heldout_prompts", each, 2, piece, usage)
            train, texts = train.rows(slice(n_pairs)), texts[:n_pairs]
        tensors = {f"train.{name}": x for name, x in vars(train).items()}
        tensors |= {f"heldout.{name}": x for name, x in vars(heldout).items()}
        tensors |= {} if probabilities is None else {"probabilities": probabilities}
        save_tensors(path, tensors, tag=run.tag(path))
        _write_texts(run.folder / "pairs.jsonl", texts)
        usage.tick()
        run.finish("pairs", usage, files=[path, run.folder / "pairs.jsonl"])
    tensors, _ = load_tensors(path, run.tag(path))
    train, heldout = (
        Pairs(**{k.removeprefix(prefix): x for k, x in tensors.items() if k.startswith(prefix)}).to(setting.device)
        for prefix in ("train.", "heldout.")
    )
    return train, heldout, tensors.get("probabilities")


def label_with(setting: Setting, sft: PreTrainedModel, reward_model: RewardModel) -> Pairs:
    """Pairs for DPO where people compared whole texts: answers of the SFT model, chosen by the reward model.

    It always chooses the answer of higher reward. A person's toss of a coin between two answers that are nearly as
    good is noise, which the reward model has averaged out; tossed again, it would drown what few pairs can tell.
    The reward is that of PPO, which charges an answer that did not end: else DPO would learn to go on for ever.
    Of two that did not end, the one with the better beginning is chosen.
    """
    run, path = setting.run, setting.run.folder / "answer_pairs.safetensors"
    if not run.whole("answer_pairs"):
        usage = Usage()
        k, dpo, n_prompts = setting.task.answers_per_prompt, setting.preset.dpo, len(setting.task.prompts)
        n_pairs = min(setting.preset.n_pairs, dpo.steps * dpo.batch_size)  # no more than DPO will meet
        index = minibatch(n_prompts, math.ceil(n_pairs / math.comb(k, 2)), 0, setting.stage_seed("answer_pairs"))
        with pieces(run, "answer_pairs", k, usage) as piece:
            asked, answers = _sample_answers(setting, sft, "prompts", index, k, piece, usage)
        scores = [score_batches(reward_model, answer) for answer in answers]
        penalty = setting.preset.ppo.unfinished_penalty
        rewards = [torch.where(y.finished, r, penalty) for y, r in zip(answers, scores, strict=True)]
        said = [decode(setting.task.tokenizer, answer.responses, answer.response_mask) for answer in answers]
        pairs, rows = [], []
        for i, j in combinations(range(k), 2):
            first = torch.where(rewards[i] == rewards[j], scores[i] > scores[j], rewards[i] > rewards[j])
            pairs.append(pair_rollouts(answers[i], answers[j], first))
            for prompt, a, b, preferred in zip(asked, said[i], said[j], first.tolist(), strict=True):
                chosen, rejected = (a, b) if preferred else (b, a)
                rows.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
        save_tensors(path, vars(join_pairs(pairs).rows(slice(n_pairs))), tag=run.tag(path))
        _write_texts(run.folder / "answer_pairs.jsonl", rows[:n_pairs])
        usage.tick()
        run.finish("answer_pairs", usage, files=[path, run.folder / "answer_pairs.jsonl"])
    tensors, _ = load_tensors(path, run.tag(path))
    return Pairs(**tensors).to(setting.device)


def _write_texts(path: Path, rows: list[dict[str, str]]) -> None:
    write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def encode_texts(task: Task, pairs: list[dict[str, str]]) -> Pairs:
    """Pairs with the columns prompt, chosen and rejected as tokens."""
    return encode_pairs(
        task.tokenizer, *([row[column] for row in pairs] for column in ("prompt", "chosen", "rejected"))
    )


def _sample_answers(
    setting: Setting, sft: PreTrainedModel, split: str, index: Tensor, k: int, piece: Piece, usage: Usage
) -> tuple[list[str], list[Rollout]]:
    """The chosen prompts of `split`, and k answers to each of them; the first answers are one piece, and so on."""
    tokens, mask = setting.prompts(split)

    def answer_all(which: str) -> Tensors:
        seed = setting.stage_seed(f"pairs/{split}/{which}")
        return vars(sample_batches(sft, tokens[index], mask[index], setting.task.max_new_tokens, seed))

    kept = [piece(f"{split}-{which}", partial(answer_all, which)) for which in ORDINALS[:k]]
    answers = [Rollout(**{name: x.to(setting.device) for name, x in tensors.items()}) for tensors in kept]
    usage.tokens += sum(int(answer.response_mask.sum()) for answer in answers)
    every = list(getattr(setting.task, split)["prompt"])
    return [every[i] for i in index.tolist()], answers


def _label_answers(
    setting: Setting, sft: PreTrainedModel, split: str, index: Tensor, k: int, piece: Piece, usage: Usage
) -> tuple[Pairs, Tensor, list[dict[str, str]]]:
    """k answers to each of the chosen prompts of `split`, every two of them labelled by the task's annotator.

    Returns the k(k − 1)/2 pairs of each prompt as tokens, the probabilities of the choices made, and the text.
    """
    task = setting.task
    asked, answers = _sample_answers(setting, sft, split, index, k, piece, usage)
    texts = [decode(task.tokenizer, answer.responses, answer.response_mask) for answer in answers]
    pairs, probabilities, rows = [], [], []
    for step, (i, j) in enumerate(combinations(range(k), 2)):
        a, b = texts[i], texts[j]
        labelled = task.label(asked, a, b, generator_for(setting.stage_seed(f"pairs/{split}/labels"), step))
        first_preferred = torch.tensor([text == chosen for text, chosen in zip(a, labelled["chosen"], strict=True)])
        probability = task.preference_probability(asked, a, b)
        pairs.append(pair_rollouts(answers[i], answers[j], first_preferred.to(setting.device)))
        probabilities.append(torch.where(first_preferred, probability, 1 - probability))
        rows += list(labelled)
    return join_pairs(pairs), torch.cat(probabilities), rows
