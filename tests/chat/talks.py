"""Conversations of the tests of the chat: four small policies, and what they are made to say."""

from tests.runs import quick_preset
from week6.chat import session as module
from week6.chat.reading import Token
from week6.chat.session import ChatSession
from week6.run.models import new_policy
from week6.tasks.assistant import build_tokenizer

TOKENIZER = build_tokenizer()
NAMES = ("base", "sft", "ppo", "dpo")
NASTY = "hello <script>alert(1)</script> & \x1b[2J \"'"


def session(**options):
    policies = {name: new_policy(quick_preset(), TOKENIZER, seed) for seed, name in enumerate(NAMES)}
    return ChatSession(policies, TOKENIZER, betas={"ppo": 0.05, "dpo": 2.0}, **options)


def says(monkeypatch, *answers):
    """Makes every policy say these words, one answer after another."""
    given = iter(answers)

    def fixed(reader, prompt, *rest):
        ids = [*TOKENIZER(next(given))["input_ids"], TOKENIZER.eos_token_id]
        log_probs = reader.read([*prompt, *ids[:-1]], len(ids)).log_softmax(-1)
        for row, token in zip(log_probs, ids, strict=True):
            yield Token(token, float(row[token]))

    monkeypatch.setattr(module, "answer", fixed)
