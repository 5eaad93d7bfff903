"""An instruct model in the shape of SmolLM2, with a chat template of its own, and mild conversations to train it on."""

import json
import random
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tests.small_gpt2 import byte_tokenizer
from week6.tasks.requests import requests

START, END = "<|im_start|>", "<|im_end|>"
SYSTEM = "You are kind."
CHATML = (
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}"
    "{{ '<|im_start|>system\nYou are kind.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""Like SmolLM2's: it writes a system turn of its own where there is none."""
ASKS = ("bake bread", "plant tulips", "fold a hat", "wash a cup", "draw a cat", "cook rice", "hum a tune", "tie a bow")
GOOD = ("Gladly. First take your time.", "Yes. Begin with a plan.", "Sure. It is easy.")
BAD = ("No. Go away.", "What a silly wish.", "Ask somebody else.")


def chatml(*turns, reply=True):
    """A conversation as `CHATML` writes it, by hand: what the user and the assistant say in turn."""
    roles = ("user", "assistant")
    text = f"{START}system\n{SYSTEM}{END}\n"
    text += "".join(f"{START}{roles[i % 2]}\n{turn}{END}\n" for i, turn in enumerate(turns))
    return text + f"{START}assistant\n" * reply


def talks(n=60, seed=0):
    """Pairs in the form of Anthropic's data: every third has two turns."""
    rng = random.Random(seed)
    rows = []
    for i in range(n):
        before = f"\n\nHuman: May I ask, {i}?\n\nAssistant: Of course." if i % 3 == 0 else ""
        prompt = f"{before}\n\nHuman: How do I {rng.choice(ASKS)} in {i} ways?\n\nAssistant:"
        rows.append({"chosen": f"{prompt} {rng.choice(GOOD)}", "rejected": f"{prompt} {rng.choice(BAD)}"})
    return rows


def write_rows(path, rows):
    """Write a data file of JSON lines; returns its path."""
    Path(path).write_text("\n".join(map(json.dumps, rows)))
    return Path(path)


def instruct_tokenizer(template=CHATML, size=500):
    """Byte pairs with the end of a turn as end token, and no pad token."""
    texts = [text for row in talks() for text in row.values()] + [r.text for r in requests("test")]
    tokenizer = byte_tokenizer(texts, size, end="<|endoftext|>")
    tokenizer.add_special_tokens({"additional_special_tokens": [START, END]})
    plain = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, bos_token=START, eos_token=END, unk_token="<|endoftext|>"
    )
    plain.chat_template = template
    return plain


def small_instruct(folder, tokenizer=None, width=16, layers=1, positions=512, seed=0):
    """Write a Llama of SmolLM2's kind with its tokenizer, as save_pretrained leaves them; returns the folder."""
    tokenizer = tokenizer or instruct_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=positions,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Path(folder)
