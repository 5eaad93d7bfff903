"""GPT-2's own vocabulary, in both forms that the hub has, through the real client: known tokens, cuts, and a run."""

import hashlib
import json
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.hub import COMMIT, Hub, imdb, in_child
from tests.small_gpt2 import VOCABULARY, reviews, true_gpt2, vocabulary_file
from tests.test_gpt2_run import FLAGS
from week6.machine.pretrained import load_policy, load_tokenizer
from week6.sequences import encode_demonstrations
from week6.tasks.sentiment import split_reviews

FORMS = {"vocab.json": "true-org/pairs", "tokenizer.json": "true-org/whole"}
KNOWN = {
    "Hello world": [15496, 995],  # transformers, documentation of GPT2Tokenizer
    " Hello world": [18435, 995],
    "hello world": [31373, 995],  # tiktoken 0.7, tests/test_encoding.py and test_simple_public.py, from here on
    "hello <|endoftext|>": [31373, 220, 50256],
    "0": [15],
    "000": [830],
    "000000000": [10535, 830],
    "00000000000000000": [8269, 10535, 830],
}
END = 50256


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """What the commands gave, what was asked for, and the folder with the cache and the run."""
    base = tmp_path_factory.mktemp("vocabulary")
    for form, name in FORMS.items():
        true_gpt2(base / "served" / "models" / name, form)
    (base / "served" / "models" / "openai-community").mkdir()
    (base / "served" / "models" / "openai-community" / "gpt2").symlink_to(
        base / "served" / "models" / "true-org" / "pairs"
    )
    bare = true_gpt2(base / "served" / "models" / "true-org" / "bare", "vocab.json")
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        (bare / name).unlink()
    imdb(base / "served" / "datasets" / "stanfordnlp" / "imdb", reviews())
    run = ["quick", "run", "--preset", "gpt2", "--runs-dir", str(base / "runs"), "--name", "true", *FLAGS]
    commands = {f"encode {form}": ["encode", name, *KNOWN] for form, name in FORMS.items()}
    commands |= {f"load {form}": ["load", name] for form, name in FORMS.items()}
    with Hub(base / "served") as hub:
        results = in_child(
            hub.url, base / "home", commands | {"run": run, "bare": [*run[1:], "--model", "true-org/bare"]}
        )
    return results, hub.requests, base


def cached(base, form):
    """The folder into which the client put what it fetched."""
    owner, name = FORMS[form].split("/")
    return base / "home" / "hub" / f"models--{owner}--{name}" / "snapshots" / COMMIT


@pytest.mark.parametrize("name", VOCABULARY)
def test_the_files_are_openais(name):
    assert hashlib.sha256(vocabulary_file(name).read_bytes()).hexdigest() == VOCABULARY[name][1]


@pytest.mark.slow
class TestVocabulary:
    @pytest.mark.parametrize("form", FORMS)
    def test_known_tokens_of_known_texts(self, served, form):
        results, requests, _ = served
        assert results[f"encode {form}"][0] == KNOWN | {"pad": END, "eos": END}
        revisions = (COMMIT, "main")  # transformers asks for the one or the other, by its version
        assert {f"GET /{FORMS[form]}/resolve/{revision}/{form}" for revision in revisions} & set(requests)
        tokens, parameters = results[f"load {form}"][0]
        assert tokens == 50_257 and parameters > 50_257 * 16

    @pytest.mark.parametrize("form", FORMS)
    def test_the_model_ends_where_the_tokenizer_does(self, served, form):
        folder = str(cached(served[2], form))
        tokenizer = load_tokenizer(folder)
        config = load_policy(folder, tokenizer).config
        assert config.eos_token_id == config.pad_token_id == END and config.vocab_size == len(tokenizer)

    @pytest.mark.parametrize("form", FORMS)
    def test_a_cut_review_has_the_tokens_of_the_whole(self, served, form):
        """Prompt and answer are the review's own tokens, and one end token; of one cut inside a word they are not."""
        tokenizer = load_tokenizer(str(cached(served[2], form)))
        whole = tokenizer("It was unbelievably good")["input_ids"]
        assert tokenizer("It was unbel")["input_ids"] + tokenizer("ievably good")["input_ids"] != whole
        pieces = [
            "film",
            "isn't",
            "“so-called”",
            "1999",
            "...",
            "café",
            "😀",
            "!!",
            "\n",
            "<br />",
            "a",
            "unbelievably",
            "é",
        ]

        @given(
            st.lists(st.lists(st.sampled_from(pieces), min_size=1, max_size=30), min_size=1, max_size=4), st.integers()
        )
        def check(texts, seed):
            texts = [" ".join(text) for text in texts]
            rows = split_reviews(tokenizer, texts, 12, random.Random(seed))
            for prompt, completion in rows:
                data = encode_demonstrations(tokenizer, [prompt], [completion])
                (asked,), (said,) = data.prompts.tolist(), data.responses.tolist()
                assert asked + said == [*tokenizer(prompt + completion)["input_ids"], END]
                assert asked == tokenizer(prompt)["input_ids"]
                assert 2 <= len(asked) <= 8 + 3  # a character of four bytes, up to four tokens, is never cut
                assert tokenizer.decode(said[:-1]) == completion and len(said) <= 12

        check()
        assert len(split_reviews(tokenizer, reviews(), 48, random.Random(0))) == len(reviews())

    def test_a_model_without_a_tokenizer_is_said_to_have_none(self, served):
        """The client makes one of the model's config then, without a single word in it."""
        code, errors, _ = served[0]["bare"]
        assert code == 2 and "--model true-org/bare: has no tokenizer, expected tokenizer.json or vocab.json" in errors

    def test_preset_gpt2_runs_from_the_hub_with_it(self, served):
        results, _, base = served
        code, errors, _ = results["run"]
        assert code == 0, errors
        folder = base / "runs" / "true"
        policies = json.loads((folder / "summary.json").read_text())["policies"]
        assert all(-1 <= row["gold"] <= 1 and math.isfinite(row["kl"]) for row in policies.values())
        tokenizer = load_tokenizer(str(folder / "policies" / "dpo"))
        assert {text: tokenizer(text)["input_ids"] for text in KNOWN} == KNOWN
        assert load_policy(str(folder / "policies" / "dpo"), tokenizer).config.vocab_size == 50_257
