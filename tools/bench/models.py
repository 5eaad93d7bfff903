"""Models of random weights, and rows of random tokens: the same in every process. Knows nothing of week6."""

import random
from collections.abc import Sequence
from copy import deepcopy

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GPT2Config,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from tools.bench.cases import SEED, Case, Shape

POSITIONS = 1024
SPECIAL = 2
"""The last two tokens of a vocabulary: padding, and the end."""


def random_model(shape: Shape, ends: int = 1, seed: int = SEED) -> PreTrainedModel:
    """A language model of this shape, in evaluation mode and fp32, as week6 makes a GPT-2: no dropout, a fast GELU."""
    special = dict(bos_token_id=None, eos_token_id=end_ids(shape, ends), pad_token_id=shape.vocabulary - SPECIAL)
    config: GPT2Config | LlamaConfig
    if shape.inner:
        config = LlamaConfig(
            vocab_size=shape.vocabulary, hidden_size=shape.width, intermediate_size=shape.inner,
            num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.key_value_heads,
            tie_word_embeddings=True, max_position_embeddings=POSITIONS, **special,
        )  # fmt: skip
    else:
        config = GPT2Config(
            vocab_size=shape.vocabulary, n_positions=POSITIONS, n_embd=shape.width, n_layer=shape.layers,
            n_head=shape.heads, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
            activation_function="gelu_pytorch_tanh", **special,
        )  # fmt: skip
    torch.manual_seed(seed)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa")
    return model.eval()


def end_ids(shape: Shape, ends: int) -> int | list[int] | None:
    """The tokens that end an answer: the last one of the vocabulary, and as many of the first as are needed."""
    return None if not ends else shape.vocabulary - 1 if ends == 1 else [shape.vocabulary - 1, *range(ends - 1)]


def random_head(width: int) -> torch.nn.Linear:
    """Of a reward model or critic, without a bias: weights of standard deviation 1/√(d + 1)."""
    torch.manual_seed(SEED + 1)
    head = torch.nn.Linear(width, 1, bias=False)
    torch.nn.init.normal_(head.weight, std=(width + 1) ** -0.5)
    return head


def random_judge(shape: Shape) -> PreTrainedModel:
    """`random_model` with `random_head` in place of its own, as transformers has reward models and TRL critics."""
    policy = random_model(shape)
    config = deepcopy(policy.config)
    config.num_labels = 1
    judge: PreTrainedModel = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    judge.base_model.load_state_dict(policy.base_model.state_dict())
    judge.score.weight.data.copy_(random_head(shape.width).weight)
    return judge.eval()


def rate(step: int, steps: int) -> float:
    """The learning rate of all sides as a share of its peak: week6's, ten steps up under a line down to zero."""
    return min(1.0, (step + 1) / 10) * (1.0 - step / steps)


def number_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """Words are numbers, and token n is the word n, but for the last two: padding and the end."""
    names = [*map(str, range(vocabulary - SPECIAL)), "<pad>", "<end>"]
    core = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, "<pad>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>", pad_token="<pad>")


def random_rows(case: Case) -> list[list[list[int]]]:
    """For each row its prompt and its answers, without their end, as tokens that end no answer."""
    rng = random.Random(SEED)
    tokens = range(max(0, case.ends - 1), case.shape.vocabulary - SPECIAL)
    return [[[rng.choice(tokens) for _ in range(n)] for n in row] for row in case.lengths]


def as_text(tokens: Sequence[int], *, after: bool = False) -> str:
    """As `number_tokenizer` reads it; an answer stands after its prompt."""
    return " " * after + " ".join(map(str, tokens))
