"""A puzzle whose answers can be checked: put the letters of the prompt in order.

    c a d b :    →    a b c d

The rule is a few lines, so that no reward model is needed and none can be fooled; but a rule may be sloppy
(`in_order`). Demonstrations come from people of whom half slip. A problem of the held-out set has letters that no
problem for training has: its answer has never been seen.
"""

import random
from collections.abc import Callable, Sequence

import torch
from datasets import Dataset
from jaxtyping import Float
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from week6.machine import validate as check
from week6.tasks import Task

LETTERS = "abcdefghijklmnop"
LENGTHS = (3, 4, 5, 6)
"""Letters of a problem, for training and held out."""
LONGER = (7, 8, 9)
"""Letters of the longer problems, which nobody demonstrates and no policy is trained on."""
N_TRAINING, N_HELDOUT, N_DEMONSTRATIONS = 1000, 64, 4000
SLIP_RATE = 0.5
MAX_NEW_TOKENS = 12
SEED = 9

Checker = Callable[[str, str], bool]


def letters_of(prompt: str) -> list[str]:
    """The letters of a problem, as they stand in its prompt. Raises ValueError for a prompt of another form."""
    *letters, mark = prompt.split() or [""]
    if mark != ":" or not letters or not set(letters) <= set(LETTERS):
        raise ValueError(f"prompt: got {prompt!r:.60}, expected letters from a to {LETTERS[-1]} and a colon")
    return letters


def is_right(prompt: str, answer: str) -> bool:
    """Whether the answer holds just the letters of the prompt, in order: the checker that says what is meant."""
    return answer.split() == sorted(letters_of(prompt))


def in_order(prompt: str, answer: str) -> bool:
    """Whether the letters of the answer are in order: a sloppy checker. It does not ask which letters they are."""
    letters = answer.split()
    return bool(letters) and letters == sorted(letters)


def verified(checker: Checker) -> Callable[[list[str], list[str]], Float[Tensor, " N"]]:
    """A checker as a reward of 0 or 1 for each prompt with its answer."""

    def reward(prompts: list[str], answers: list[str]) -> Float[Tensor, " N"]:
        return torch.tensor([float(checker(x, y)) for x, y in zip(prompts, answers, strict=True)])

    return reward


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A token for each letter and the colon."""
    tokens = ("<|pad|>", "<|end|>", "<|unk|>", ":", *LETTERS)
    core = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="<|unk|>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=core,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        unk_token="<|unk|>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def slip(letters: Sequence[str], rng: random.Random) -> list[str]:
    """What one slip makes of an answer: two neighbours swapped, a letter left out, doubled, or replaced."""
    answer, i = list(letters), rng.randrange(len(letters) - 1)
    kind = rng.choice(("swap", "leave out", "double", "replace"))
    if kind == "swap":
        answer[i], answer[i + 1] = answer[i + 1], answer[i]
    elif kind == "leave out":
        del answer[i]
    elif kind == "double":
        answer.insert(i, answer[i])
    else:
        answer[i] = rng.choice([letter for letter in LETTERS if letter not in letters])
    return answer


def sorting() -> Task:
    """The task, the same at every call; demonstrations are to training prompts, and `gold` is the right checker."""
    rng = random.Random(SEED)
    heldout, answers = _problems(rng, LENGTHS, N_HELDOUT, set())
    train, _ = _problems(rng, LENGTHS, N_TRAINING, answers)
    asked = [rng.choice(train) for _ in range(N_DEMONSTRATIONS)]
    given = [sorted(letters_of(prompt)) for prompt in asked]
    given = [slip(answer, rng) if rng.random() < SLIP_RATE else answer for answer in given]
    return Task(
        name="sorting",
        tokenizer=build_tokenizer(),
        prompts=Dataset.from_dict({"prompt": train}),
        heldout_prompts=Dataset.from_dict({"prompt": heldout}),
        # The space keeps the first letter a token of its own.
        demonstrations=Dataset.from_dict({"prompt": asked, "completion": [" " + " ".join(answer) for answer in given]}),
        max_new_tokens=MAX_NEW_TOKENS,
        gold=verified(is_right),
    )


def longer_problems(n: int = N_HELDOUT) -> list[str]:
    """n prompts with more letters than any problem for training has."""
    check.whole("n", n)
    return _problems(random.Random(SEED + 1), LONGER, n, set())[0]


def _problems(rng: random.Random, lengths: Sequence[int], n: int, taken: set[str]) -> tuple[list[str], set[str]]:
    """n different prompts, lengths in turn, whose sorted letters are none of `taken`; and their sorted letters."""
    prompts: dict[str, str] = {}
    while len(prompts) < n:
        letters = rng.sample(LETTERS, lengths[len(prompts) % len(lengths)])
        answer = "".join(sorted(letters))
        if answer not in taken:
            prompts[" ".join(letters) + " :"] = answer
    return list(prompts), set(prompts.values())


def new_policy(seed: int) -> GPT2LMHeadModel:
    """An untrained GPT-2 of two layers without position embeddings; the same weights for the same seed.

    Where a letter stands does not matter to the answer, and a model that does not know it can go on to longer problems
    (Kazemnejad et al. 2023, "The impact of positional encoding on length generalization in transformers").
    """
    tokenizer = build_tokenizer()
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=LONGER[-1] + 1 + MAX_NEW_TOKENS,
        n_embd=64,
        n_layer=2,
        n_head=4,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy = GPT2LMHeadModel(config)
    torch.nn.init.zeros_(policy.transformer.wpe.weight).requires_grad_(False)
    policy.eval()  # type: ignore[no-untyped-call]
    return policy
