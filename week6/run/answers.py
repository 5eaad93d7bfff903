"""Answers in words: to single prompts, and turn by turn in conversations."""

from torch import nn

from week6.run.evaluation import sample_batches
from week6.sequences import decode, encode_prompts
from week6.tasks import Task
from week6.tasks.conversation import render


def answer(policy: nn.Module, task: Task, prompts: list[str], seed: int, temperature: float = 1.0) -> list[str]:
    """One answer to each prompt."""
    device = next(policy.parameters()).device
    tokens, mask = (x.to(device) for x in encode_prompts(task.tokenizer, prompts))
    answers = sample_batches(policy, tokens, mask, task.max_new_tokens, seed, temperature=temperature)
    return decode(task.tokenizer, answers.responses, answers.response_mask)


def converse(policy: nn.Module, task: Task, questions: list[list[str]], seed: int) -> list[list[str]]:
    """The answers of n conversations, turn by turn; at each turn the policy reads all that was said before.

    questions[t][i] is what the user says at turn t of conversation i; the answers come in the same order. Raises
    ValueError for turns of different lengths.
    """
    sizes = sorted({len(turn) for turn in questions})
    if len(sizes) != 1:
        raise ValueError(f"questions: got turns of {sizes} conversations, expected the same number at every turn")
    talks: list[list[dict[str, str]]] = [[] for _ in range(sizes[0])]
    said = []
    for t, turn in enumerate(questions):
        for talk, question in zip(talks, turn, strict=True):
            talk.append({"role": "user", "content": question})
        said.append(answer(policy, task, [render(task.tokenizer, talk, reply=True) for talk in talks], seed + t))
        for talk, text in zip(talks, said[-1], strict=True):
            talk.append({"role": "assistant", "content": text})
    return said
