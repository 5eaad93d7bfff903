"""A model folder in the shape of GPT-2 and film reviews, small enough to be made and trained in seconds."""

import random
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

END = "<|endoftext|>"
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
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Path(folder)
