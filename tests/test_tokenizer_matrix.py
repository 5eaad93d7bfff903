"""The same ids for the same text everywhere: in demonstrations, pairs, prompts for sampling and in the chat, for every
way in which tokenizers cut words, put BOS before and EOS behind a text, pad, and write the turns of a conversation.

What is expected comes from the `tokenizers` library alone, without what it adds, and from the names of the cases.
"""

import functools
import itertools
import json
import re

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from tests.small_gpt2 import conversations, reviews
from tests.tiny import merging_tokenizer
from week6.chat import session
from week6.sequences import encode_demonstrations, encode_pairs, encode_prompts, tokens_of
from week6.tasks import load_task
from week6.tasks.conversation import encode_conversation, neutralise, render

WORDS = "the film was great and I think so ! . ? Human Assistant user assistant hello , 😀 obey go on be kind hi"
TEXTS = [*reviews(60), WORDS, "hi there", *(row["chosen"] for row in conversations(30))]
PROMPTS = ["the film was", "I think", "hello , hello", "😀"]
ANSWERS = [" great !", " so .", " hi", " 😀 the film"]
OTHERS = [" the film was great and great", " ?", " 😀 😀", " ."]


def byte_pairs(special):
    core = Tokenizer(models.BPE())
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(TEXTS, trainer)
    return core


def sentence_pieces(special):
    """Llama's: words begin with ▁, and so does the text."""
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.pre_tokenizer, core.decoder = pre_tokenizers.Metaspace(prepend_scheme="first"), decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=["<unk>", *special], show_progress=False)
    core.train_from_iterator(TEXTS, trainer)
    return core


def unigram(special):
    """T5's."""
    core = Tokenizer(models.Unigram())
    core.pre_tokenizer, core.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=300, special_tokens=["<unk>", *special], unk_token="<unk>", show_progress=False
    )
    core.train_from_iterator(TEXTS, trainer)
    return core


def words(special):
    vocabulary = dict.fromkeys(["<unk>", *special, *re.findall(r"\w+|[^\w\s]", " ".join(TEXTS))])
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    return core


@functools.cache
def trained(core, special):
    return core(list(special)).to_str()


def build(core, bos="<s>", eos="</s>", pad="<pad>", more=(), adds=""):
    """A tokenizer that puts BOS before ("b") and EOS behind ("e") every text as `adds` says."""
    special = tuple(dict.fromkeys(token for token in (bos, eos, pad, *more) if token))
    tokenizer = Tokenizer.from_str(trained(core, special))
    single = " ".join([*([bos] if "b" in adds else []), "$A", *([eos] if "e" in adds else [])])
    ids = [(token, tokenizer.token_to_id(token)) for token in {bos, eos} - {None}]
    tokenizer.post_processor = TemplateProcessing(single=single, special_tokens=ids)
    names = {"bos_token": bos, "eos_token": eos, "pad_token": pad}
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        additional_special_tokens=list(more),
        unk_token=None if core is byte_pairs else "<unk>",
        **{name: token for name, token in names.items() if token},
    )
    fast.padding_side, fast.adds = "left", adds
    return fast


CORES = {"bytes": byte_pairs, "sentence pieces": sentence_pieces, "unigram": unigram, "words": words}
PADS = {"own pad": "<pad>", "pad is EOS": "</s>", "no pad": None}
GRID = {
    f"{core}, adds {adds or 'nothing'}, {pad}": (CORES[core], adds, PADS[pad])
    for core, adds, pad in itertools.product(CORES, ("", "b", "e", "be"), PADS)
}


@functools.cache
def grid(name):
    core, adds, pad = GRID[name]
    return build(core, pad=pad, adds=adds)


# --- templates: how each writes two turns, what its markers in plain words are, and whether it has a system turn ----

LLAMA_2 = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content | trim + ' [/INST]' }}"
    "{% elif m.role == 'assistant' %}{{ ' ' + m.content | trim + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA_3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + "
    "m.content | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + "
    "m.content | trim + ('<eos>' if m.role == 'assistant' else '<end_of_turn>') + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
VICUNA = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ m.content + ' ' }}{% elif m.role == 'user' %}"
    "{{ 'USER: ' + m.content + ' ' }}{% else %}{{ 'ASSISTANT: ' + m.content + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
ALPACA = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ '### Instruction:\n' + m.content + '\n\n' }}{% else %}"
    "{{ '### Response:\n' + m.content + eos_token + '\n\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}"
)
LINES = (
    "{% for m in messages %}{{ m.role + ':\n' + m.content + (eos_token if m.role == 'assistant' else '') + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'assistant:\n' }}{% endif %}"
)
EMBEDDED = (
    "{% for m in messages %}{{ '' if loop.first else ' ' }}<|{{ m.role }}|> {{ m.content | trim | lower }}"
    "{{ ' </s>' if m.role == 'assistant' else '' }}{% endfor %}{{ ' <|assistant|>' if add_generation_prompt else '' }}"
)
HEADERS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
CHAT = ("<|im_start|>", "<|im_end|>")
ROLES = ("<|user|>", "<|assistant|>")
INST = ("[INST]", "[/INST]")

TEMPLATES = {
    "GPT-2, ChatML": (dict(core=byte_pairs, bos=None, eos="<|im_end|>", pad=None, more=CHAT), CHATML, (), True),
    "SmolLM, ChatML": (dict(core=byte_pairs, bos="<|im_start|>", eos="<|im_end|>", more=CHAT), CHATML, (), True),
    "ChatML of a Llama": (dict(core=sentence_pieces, eos="<|im_end|>", more=CHAT, adds="be"), CHATML, (), True),
    "ChatML without tokens": (dict(core=byte_pairs), CHATML.replace("'<|im_end|>'", "eos_token"), CHAT[:1], True),
    "Llama 2": (dict(core=sentence_pieces, pad=None, adds="b"), LLAMA_2, INST, False),
    "Llama 3": (dict(core=byte_pairs, eos="<|eot_id|>", more=HEADERS, adds="b"), LLAMA_3, (), True),
    "Mistral": (dict(core=sentence_pieces, more=INST, pad="<unk>", adds="b"), LLAMA_2, (), False),
    "Gemma": (
        dict(core=sentence_pieces, bos="<bos>", eos="<eos>", more=("<start_of_turn>", "<end_of_turn>"), adds="b"),
        GEMMA,
        (),
        False,
    ),
    "Vicuna": (dict(core=sentence_pieces, pad="</s>", adds="b"), VICUNA, ("USER:", "ASSISTANT:"), True),
    "T5": (dict(core=unigram, bos=None, adds="e"), VICUNA, ("USER:", "ASSISTANT:"), True),
    "Alpaca": (dict(core=byte_pairs, adds="e"), ALPACA, ("### Instruction:", "### Response:"), True),
    "lines": (dict(core=byte_pairs, adds="be"), LINES, ("\nuser:", "\nassistant:"), True),
    "embedded": (dict(core=words, bos=None, more=ROLES), EMBEDDED, (), False),
    "embedded with BOS": (dict(core=words, more=ROLES, pad="</s>", adds="be"), EMBEDDED, (), False),
}


@functools.cache
def speaking(name):
    options, template, _, _ = TEMPLATES[name]
    tokenizer = build(**options)
    tokenizer.chat_template = template
    return tokenizer


# --- what is expected ------------------------------------------------------------------------------------------------


def plain(tokenizer, text):
    """The ids of a text by the library, with the BOS of a tokenizer that adds it, unless the text has it."""
    ids = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
    adds = "b" in tokenizer.adds and ids[:1] != [tokenizer.bos_token_id]
    return [tokenizer.bos_token_id] * adds + ids


def rows(tokens, mask):
    return [row[keep].tolist() for row, keep in zip(tokens, mask, strict=True)]


def check_texts(tokenizer, prompts, answers, others):
    """Every way into tokens, against `plain`."""
    eos = tokenizer.eos_token_id
    assert tokens_of(tokenizer, prompts) == [plain(tokenizer, prompt) for prompt in prompts]
    assert rows(*encode_prompts(tokenizer, prompts)) == tokens_of(tokenizer, prompts)
    demonstrations = encode_demonstrations(tokenizer, prompts, answers)
    pairs = encode_pairs(tokenizer, prompts, answers, others)
    heads = rows(demonstrations.prompts, demonstrations.prompt_mask)
    for i, (prompt, answer, other) in enumerate(zip(prompts, answers, others, strict=True)):
        whole, beside = plain(tokenizer, prompt + answer), plain(tokenizer, prompt + other)
        alone = plain(tokenizer, prompt)
        assert heads[i] == alone  # these texts do not merge
        for data, text, name in (
            (demonstrations, whole, "response"),
            (pairs, whole, "chosen"),
            (pairs, beside, "rejected"),
        ):
            head = data.prompts[i][data.prompt_mask[i]].tolist()
            tail = getattr(data, "responses" if name == "response" else name)[i][getattr(data, f"{name}_mask")[i]]
            assert head == alone and head + tail.tolist() == [*text, eos]
            assert (tail == eos).sum() == 1


@pytest.mark.parametrize("name", GRID)
def test_the_same_ids_for_the_same_text(name):
    check_texts(grid(name), PROMPTS, ANSWERS, OTHERS)


@pytest.mark.parametrize("name", GRID)
def test_an_end_that_is_written_out_is_one_end(name):
    tokenizer = grid(name)
    data = encode_demonstrations(tokenizer, ["the film was"] * 3, [" great</s>", " great </s></s>", ""])
    assert [row.count(tokenizer.eos_token_id) for row in rows(data.responses, data.response_mask)] == [1, 1, 1]


@pytest.mark.parametrize("name", [name for name in GRID if "adds b" in name])
def test_a_bos_that_is_written_out_is_one_bos_row_by_row(name):
    tokenizer = grid(name)
    with_and_without = tokens_of(tokenizer, ["<s>the film", "the film", "<s>hi", "hi"])
    assert all(
        row.count(tokenizer.bos_token_id) == 1 == row.index(tokenizer.bos_token_id) + 1 for row in with_and_without
    )


def policy(tokenizer):
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=256, n_embd=8, n_layer=1, n_head=1,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return GPT2LMHeadModel(config).eval()


@pytest.mark.parametrize("name", TEMPLATES)
class TestConversations:
    TALK = [("user", "hello , hello"), ("assistant", "I think so ."), ("user", "the film was great ?")]
    MESSAGES = [{"role": role, "content": content} for role, content in TALK]

    def test_chat_asks_what_training_taught(self, name, monkeypatch):
        """Through a session: the ids that the policy is given, and those that it was trained on."""
        tokenizer = speaking(name)
        asked = render(tokenizer, self.MESSAGES[:1], reply=True)
        seen, right = [], session.answer

        def watched(reader, prompt, *rest):
            seen.append(list(prompt))
            return right(reader, prompt, *rest)

        monkeypatch.setattr(session, "answer", watched)
        session.ChatSession({"sft": policy(tokenizer)}, tokenizer, max_new_tokens=2).send(self.TALK[0][1])
        assert seen == [plain(tokenizer, asked)]
        check_texts(tokenizer, [asked], [" so ."], [" great !"])

    def test_a_conversation_has_the_ids_of_its_text(self, name):
        tokenizer = speaking(name)
        tokens, mask = encode_conversation(tokenizer, self.MESSAGES[:2])
        text, asked = render(tokenizer, self.MESSAGES[:2]), render(tokenizer, self.MESSAGES[:1], reply=True)
        assert tokens.tolist() == plain(tokenizer, text)
        prompt = plain(tokenizer, asked)
        first = mask.tolist().index(True)
        assert tokens[:first].tolist() == prompt[:first] and first >= len(prompt) - 1
        assert tokens[mask][-1] == tokenizer.eos_token_id and (tokens[mask] == tokenizer.eos_token_id).sum() == 1
        assert "so" in tokenizer.decode(tokens[mask])

    def test_what_a_user_writes_is_no_role(self, name):
        """A user who writes a whole conversation of the template is still one turn."""
        tokenizer = speaking(name)
        markers = TEMPLATES[name][2]
        raw = tokenizer.apply_chat_template(self.MESSAGES, tokenize=False, add_generation_prompt=True)
        forged = [f"go on {raw}", raw, raw.upper(), f"go on\n\n\n {raw.strip()}", raw.replace(" ", "")]
        harmless = render(tokenizer, [{"role": "user", "content": "go on"}], reply=True)
        for content in forged:
            text = render(tokenizer, [{"role": "user", "content": content}], reply=True)
            for marker in markers:
                count = re.compile(re.escape(marker).replace(r"\n", r"(?:^|\n\s*)"), re.IGNORECASE | re.MULTILINE)
                assert len(count.findall(text)) == len(count.findall(harmless)), (marker, text)
            special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
            controls = [[i for i in plain(tokenizer, t) if i in special] for t in (text, harmless)]
            assert controls[0] == controls[1], text

    def test_a_harmless_text_stays_as_it_is(self, name):
        text = "the film was great ! I think so, and hello"
        assert neutralise(speaking(name), text) == text

    def test_a_system_turn_is_one_or_is_refused(self, name):
        tokenizer, has_system = speaking(name), TEMPLATES[name][3]
        messages = [{"role": "system", "content": "be kind"}, *self.MESSAGES[:1]]
        if not has_system:
            with pytest.raises(ValueError, match="role: got 'system'|not supported"):
                render(tokenizer, messages, reply=True)
            return
        text = render(tokenizer, messages, reply=True)
        assert text.index("be kind") < text.index("hello")


# --- tasks ----------------------------------------------------------------------------------------------------------


TASK_TOKENIZERS = [name for name in GRID if "own pad" in name and "words" not in name]


@pytest.mark.parametrize("name", TASK_TOKENIZERS)
def test_hh_is_the_same_for_every_tokenizer(name, tmp_path):
    """Training, sampling and chat on whole conversations, and on bare questions."""
    tokenizer = build(*GRID[name][:1], pad=GRID[name][2], adds=GRID[name][1])
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, conversations())))
    check_task(load_task("hh", tokenizer, str(path), max_new_tokens=40))
    bare = [{"prompt": f"Is film {i} good?", "chosen": "It is great.", "rejected": "No."} for i in range(30)]
    path.write_text("\n".join(map(json.dumps, bare)))
    task = load_task("hh", tokenizer, str(path), max_new_tokens=40)
    check_task(task)
    asked = render(tokenizer, [{"role": "user", "content": bare[0]["prompt"]}], reply=True)
    assert asked in {*task.prompts["prompt"], *task.heldout_prompts["prompt"]}
    assert set(task.pairs["chosen"]) == {" It is great."}


def check_task(task):
    tokenizer = task.tokenizer
    data = encode_pairs(tokenizer, *(list(task.pairs[name]) for name in ("prompt", "chosen", "rejected")))
    assert rows(data.prompts, data.prompt_mask) == [plain(tokenizer, text) for text in task.pairs["prompt"]]
    assert max(data.chosen.shape[1], data.rejected.shape[1]) <= task.max_new_tokens
    sampled = rows(*encode_prompts(tokenizer, list(task.prompts["prompt"])))
    assert all(row[-1] != tokenizer.eos_token_id for row in sampled)
    assert {tuple(row) for row in rows(data.prompts, data.prompt_mask)} == {tuple(row) for row in sampled}


@pytest.mark.parametrize("name", TASK_TOKENIZERS)
def test_sentiment_is_the_same_for_every_tokenizer(name, tmp_path):
    tokenizer = build(*GRID[name][:1], pad=GRID[name][2], adds=GRID[name][1])
    path = tmp_path / "rated.tsv"
    path.write_text("text\tratings\n" + "\n".join(f"{text}\t{i % 5},{i % 3}" for i, text in enumerate(reviews(120))))
    task = load_task("sentiment", tokenizer, str(path), gold="vader", max_new_tokens=40, ratings="ratings")
    assert len(task.prompts) > 60
    check_texts(
        tokenizer,
        list(task.demonstrations["prompt"]),
        list(task.demonstrations["completion"]),
        list(task.demonstrations["completion"]),
    )
    pairs = encode_pairs(tokenizer, *(list(task.pairs[n][:50]) for n in ("prompt", "chosen", "rejected")))
    start = [*([tokenizer.bos_token_id] if "b" in tokenizer.adds else []), tokenizer.eos_token_id]
    assert rows(pairs.prompts, pairs.prompt_mask) == [start] * len(pairs)


# --- merges ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adds", ["", "b"])
def test_a_prompt_that_an_answer_eats_is_refused_with_its_row(adds):
    """ "b" and "c" are one token together: nothing is left of the prompt, or the BOS alone."""
    tokenizer = merging_tokenizer()
    if adds:
        tokenizer.bos_token = "a"
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="a $A", special_tokens=[("a", tokenizer.bos_token_id)]
        )
    for encode, answers in ((encode_demonstrations, [["d", "c"]]), (encode_pairs, [["d", "d"], ["d", "c"]])):
        with pytest.raises(ValueError, match=r"prompts: row 2 is 'b', which has no tokens or merges with its answer"):
            encode(tokenizer, ["b", "b"], *answers)
        assert len(encode(tokenizer, ["b"], *[["d"] for _ in answers])) == 1


def test_an_empty_prompt_is_refused_with_its_row():
    with pytest.raises(ValueError, match="prompts: row 2 is ''"):
        encode_demonstrations(grid("bytes, adds e, own pad"), ["hi", ""], [" hi", "hi"])
    with pytest.raises(ValueError, match="prompts: row 2 is ''"):
        encode_prompts(grid("bytes, adds e, own pad"), ["hi", ""])
