"""Small models and batches for the tests: everything random comes from a seed."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from week6.sequences import Pairs

EOS = 1


def tiny_gpt2(
    vocab: int = 7,
    seed: int = 0,
    pad: int | None = 0,
    width: int = 16,
    layers: int = 2,
    dtype: torch.dtype = torch.float64,
    scale: float = 0.5,
    dropout: float = 0.0,
) -> GPT2LMHeadModel:
    """A GPT-2 with weights large enough that every token, position and mask matters to its output.

    Token 1 is EOS. Pass `pad=EOS` for a model whose pad token is the EOS token.
    """
    config = GPT2Config(
        vocab_size=vocab,
        n_positions=32,
        n_embd=width,
        n_layer=layers,
        n_head=2,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        bos_token_id=None,
        eos_token_id=EOS,
        pad_token_id=pad,
    )
    model = GPT2LMHeadModel(config).to(dtype).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "ln_" not in name:
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


def ragged(
    prompt_lengths: list[int], response_lengths: list[int], vocab: int = 7, seed: int = 0, pad: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Prompts padded on the left and responses on the right by loops: prompts, mask, responses, mask.

    Every response ends with EOS; the other tokens are 2 … vocab − 1.
    """
    generator = torch.Generator().manual_seed(seed)
    rows, width, length = len(prompt_lengths), max(prompt_lengths), max(response_lengths)
    prompts, responses = torch.full((rows, width), pad), torch.full((rows, length), pad)
    prompt_mask = torch.zeros(rows, width, dtype=torch.bool)
    response_mask = torch.zeros(rows, length, dtype=torch.bool)
    for i, (p, t) in enumerate(zip(prompt_lengths, response_lengths, strict=True)):
        prompts[i, width - p :] = torch.randint(2, vocab, (p,), generator=generator)
        prompt_mask[i, width - p :] = True
        responses[i, :t] = torch.randint(2, vocab, (t,), generator=generator)
        responses[i, t - 1] = EOS
        response_mask[i, :t] = True
    return prompts, prompt_mask, responses, response_mask


def ragged_pairs(
    prompt_lengths: list[int], chosen_lengths: list[int], rejected_lengths: list[int], seed: int = 0
) -> Pairs:
    """Preference pairs of random tokens with these lengths."""
    width = max(*chosen_lengths, *rejected_lengths)

    def widen(x: Tensor) -> Tensor:
        return torch.nn.functional.pad(x, (0, width - x.shape[1]))

    prompts, prompt_mask, chosen, chosen_mask = ragged(prompt_lengths, chosen_lengths, seed=seed)
    _, _, rejected, rejected_mask = ragged(prompt_lengths, rejected_lengths, seed=seed + 1)
    return Pairs(prompts, prompt_mask, widen(chosen), widen(chosen_mask), widen(rejected), widen(rejected_mask))


def log_probs_by_hand(model: GPT2LMHeadModel, prompt: list[int], response: list[int], temperature: float = 1.0):
    """log π of each response token, by the definition: one unpadded prefix after another through the model."""
    result = []
    for t, token in enumerate(response):
        logits = model(input_ids=torch.tensor([prompt + response[:t]])).logits[0, -1] / temperature
        result.append(logits[token] - torch.log(torch.exp(logits).sum()))
    return torch.stack(result)


def words_tokenizer(words: str, pad: str = "<pad>", eos: str = "<eos>", bos: str | None = None):
    """A tokenizer whose tokens are whitespace-separated words; with `bos` it puts that in front of every text."""
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys([pad, eos, *([bos] if bos else []), *words.split()]))}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token=eos))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": pad, "eos_token": eos}
    if bos:
        from tokenizers.processors import TemplateProcessing

        core.post_processor = TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, vocabulary[bos])])
        special["bos_token"] = bos
    return PreTrainedTokenizerFast(tokenizer_object=core, **special)


def merging_tokenizer():
    """Letters a–d as tokens, but "b" followed by "c" becomes one token "bc": boundaries can vanish."""
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<eos>", "a", "b", "c", "d", "bc"])}
    core = Tokenizer(models.BPE(vocabulary, merges=[("b", "c")]))
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<eos>")
