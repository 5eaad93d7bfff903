"""The hub as it is: every fault of a stand-in ends the command with exit code 2 and one sentence, in bounded time.

One child process does all the cases.
"""

import hashlib
import re
from types import SimpleNamespace

import pytest

from tests.hub import Hub, imdb, in_child
from tests.small_gpt2 import reviews, small_gpt2
from week6.machine import hub
from week6.machine.checkpoint import RunError

LONGEST = 25.0
"""Seconds that a fault may take: the client tries a broken download six times; its pauses are left out here."""
MODEL_FAULTS = {
    "config.json": ("404", "config.json does not exist or is not public (status 404)"),
    "model.safetensors": ("404", "model.safetensors does not exist or is not public (status 404)"),
    "tokenizer.json": ("500", "tokenizer.json cannot be had now (the hub answered with status 500)"),
    "api": ("500", "the repository cannot be had now (the hub answered with status 500)"),
}
DATA_FAULTS = {
    "api": ("404", "the repository does not exist or is not public (status 404)"),
    "train-00000-of-00001.parquet": ("500", "train-00000-of-00001.parquet cannot be had now"),
}
SLOW_FAULTS = {
    "stall": "did not answer in time",
    "hang": "did not answer in time",
    "cut off": "broke off in the middle",
}
BIG = {"model": "model.safetensors", "data": "train-00000-of-00001.parquet"}


def cases():
    """Kind of the repository, file, fault, expected words."""
    rows = [("model", file, *what) for file, what in MODEL_FAULTS.items()]
    rows += [("data", file, *what) for file, what in DATA_FAULTS.items()]
    rows += [(kind, BIG[kind], fault, words) for kind in BIG for fault, words in SLOW_FAULTS.items()]
    rows += [(kind, BIG[kind], "corrupt", f"{BIG[kind]} arrived damaged") for kind in BIG]
    return rows + [("model", "api", "stall", "did not answer in time")]


CASES = {f"{kind} {file} {fault}": (kind, file, fault, words) for kind, file, fault, words in cases()}


def repository(kind, name):
    """The name of the repository that has this case's fault."""
    return f"{kind}-org/{''.join(c if c.isalnum() else '-' for c in name)}"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """What every case gave, the files served, and the folder in which the runs would be."""
    base = tmp_path_factory.mktemp("hub")
    model = small_gpt2(base / "model")
    data = imdb(base / "data", reviews(40))
    (base / "reviews.txt").write_text("\n".join(reviews()))
    kinds = {"model": model, "data": data}
    names = {repository(kind, name): (kind, (file, fault)) for name, (kind, file, fault, _) in CASES.items()}
    names |= {"openai-community/gpt2": ("model", None), "stanfordnlp/imdb": ("data", None)}
    names |= {f"{kind}-org/once": (kind, (BIG[kind], "once")) for kind in BIG}
    for name, (kind, _) in names.items():
        folder = base / "served" / ("models" if kind == "model" else "datasets") / name
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.symlink_to(kinds[kind])

    def command(model="openai-community/gpt2", data="stanfordnlp/imdb"):
        return ["run", "--preset", "gpt2", "--runs-dir", str(base / "runs"), "--model", model, "--data", data]

    local = {"model": {"data": str(base / "reviews.txt")}, "data": {"model": str(model)}}
    commands = {name: command(**local[kind] | {kind: repository(kind, name)}) for name, (kind, *_) in CASES.items()}
    commands["no such"] = command(model="nobody/nothing")
    for again in ("first", "second"):
        commands[f"{again} model"] = (
            ["load", "model-org/once"] if again == "second" else command("model-org/once", **local["model"])
        )
        commands[f"{again} data"] = (
            ["read", "data-org/once"] if again == "second" else command(str(model), "data-org/once")
        )
    good = {"load": ["load", "openai-community/gpt2"], "read": ["read", "stanfordnlp/imdb"]}
    cached = {f"cached {name}": words for name, words in good.items()}
    settings = {
        "set offline": ["set", "HF_HUB_OFFLINE", True],
        "offline": command("nobody/nothing"),
        "set online": ["set", "HF_HUB_OFFLINE", False],
        "set cache": ["set", "HF_HUB_CACHE", str(base / "reviews.txt" / "hub")],  # a folder that cannot be made
        "read-only": command("nobody/nothing"),
    }
    with Hub(base / "served", {name: fault for name, (_, fault) in names.items() if fault}) as hub:
        results = in_child(hub.url, base / "home", good | cached | commands | settings)
    return results, hub.requests, base


def sentence(results, name):
    """The line that the command printed; it must be the only one of its kind, and not late."""
    code, text, seconds = results[name]
    assert code == 2 and "Traceback" not in text and seconds < LONGEST
    (line,) = [line for line in text.splitlines() if line.startswith("week6: error: ")]
    return line


@pytest.mark.parametrize("address", ["not a url", "ftp://hub.example", "hub.example", "http://"])
def test_an_address_that_is_none_is_said(monkeypatch, tmp_path, address):
    """Nothing is asked then, and nothing has broken off."""

    def load():
        raise FileNotFoundError("not in the cache")

    monkeypatch.setattr(hub.constants, "ENDPOINT", address)
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    words = f"did not come: HF_ENDPOINT is {address!r}, expected an address such as https://huggingface.co: try again"
    with pytest.raises(RunError, match=re.escape(words)):
        hub.fetch("model", "nobody/none", "--model", load)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("ConnectError", "did not come: the hub cannot be reached"),
        ("ConnectTimeout", "did not come: the hub did not answer in time"),
        ("RemoteProtocolError", "broke off in the middle"),
        ("SafetensorError", "why"),
    ],
)
def test_what_went_wrong_is_told_by_the_kind_of_the_cause(kind, words):
    error = OSError("no such file")
    error.__cause__ = type(kind, (Exception,), {})("why")
    assert (hub._reason(error) == words) if words != "why" else ("no such file" in hub._reason(error))


@pytest.mark.parametrize("status", range(400, 406))
def test_a_status_is_told_and_what_it_means_for_a_name(status):
    """401 where a password is asked for, 403 where it was not enough, 404 where nothing is: else it may come later."""
    error = OSError("no such file")
    error.__cause__ = type("HTTPError", (Exception,), {"response": SimpleNamespace(status_code=status)})("no")
    words = "does not exist or is not public" if status in (401, 403, 404) else "cannot be had now"
    assert hub._reason(error).startswith(words) and f"status {status})" in hub._reason(error)


def test_an_error_that_hides_where_it_came_from_is_told_by_itself():
    """`raise … from None`: of the hidden one neither status nor words are said."""

    def raised(hide):
        try:
            try:
                raise type("ConnectError", (Exception,), {})("why")
            except Exception as error:
                raise ValueError("no such thing") from (None if hide else error)
        except ValueError as error:
            return error

    assert hub._reason(raised(True)) == "cannot be read (no such thing)"
    assert hub._reason(raised(False)) == "did not come: the hub cannot be reached"
    during = raised(True)
    during.__suppress_context__ = False
    assert hub._reason(during) == "did not come: the hub cannot be reached"


@pytest.mark.parametrize("size", [10, 180, 181, 500])
def test_why_is_cut_where_it_is_long_and_says_so(size):
    text = "a b" + "c" * (size - 3)
    assert hub.why(ValueError(text)) == (text if size <= 180 else text[:180] + "…")


def test_why_prefers_words_to_a_key_and_says_that_a_key_is_not_known():
    outer = KeyError("outer")
    outer.__cause__ = ValueError("no such activation")
    assert hub.why(outer) == "no such activation" and hub.why(KeyError("gelu_9")) == "'gelu_9' is not known"
    assert hub.why(ValueError()) == "ValueError is not known"
    for text in ("needs trust_remote_code=True", "Dataset scripts are no longer supported"):
        assert hub.unreadable(ValueError(text)) == hub.OWN_CODE


def test_each_file_that_matters_is_looked_up_twice_at_most_and_in_bounded_time(monkeypatch):
    """Of a repository of many files only the first of those that are read, at the commit that was listed."""
    asked, limit = [], 10
    monkeypatch.setattr(hub.constants, "HF_HUB_ETAG_TIMEOUT", limit)  # the client's own

    def answer(url, timeout):
        asked.append((url, timeout))
        raise OSError("silence")

    files = [f"part-{i}.parquet" for i in range(20)]
    listing = SimpleNamespace(siblings=[SimpleNamespace(rfilename=file) for file in ["README.md", *files]], sha="abc")
    listed = []
    api = SimpleNamespace(repo_info=lambda name, **options: listed.append((name, options)) or listing)
    monkeypatch.setattr(hub, "HfApi", lambda: api)
    monkeypatch.setattr(hub, "get_hf_file_metadata", answer)
    with pytest.raises(OSError, match="silence") as error:
        hub._look_up("dataset", "some/one")
    assert listed == [("some/one", {"repo_type": "dataset", "timeout": limit})]
    assert asked == [(asked[0][0], limit)] * 2 and error.value.__notes__ == [asked[0][0]]
    assert hub._file_in(error.value) == "part-0.parquet" and "/datasets/some/one/resolve/abc/" in asked[0][0]
    monkeypatch.setattr(hub, "get_hf_file_metadata", lambda url, timeout: asked.append(url))
    asked.clear()
    assert hub._look_up("dataset", "some/one") == ["README.md", *files]
    assert [url.rpartition("/")[2] for url in asked] == files[: hub.MOST_FILES]
    assert 2 * (1 + len(asked)) * limit <= 180  # seconds, if the list and each file are silent
    listing.siblings = None
    assert hub._look_up("dataset", "some/one") == []


def test_the_cache_is_asked_first_and_without_the_hub():
    offline = []
    before = hub.constants.HF_HUB_OFFLINE, hub.datasets.config.HF_HUB_OFFLINE

    def load():
        offline.append((hub.constants.HF_HUB_OFFLINE, hub.datasets.config.HF_HUB_OFFLINE))
        return 7

    assert hub.fetch("model", "some/one", "--model", load) == 7 and offline == [(True, True)]
    assert (hub.constants.HF_HUB_OFFLINE, hub.datasets.config.HF_HUB_OFFLINE) == before


def test_a_cached_file_that_is_not_what_its_name_says_is_deleted(tmp_path, monkeypatch):
    """The name of a large file is its SHA-256; that of a small one is something else, and says nothing."""
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "datasets--some--one"
    (folder / "blobs").mkdir(parents=True)
    (folder / "snapshots" / "abc").mkdir(parents=True)
    names = {"good": hashlib.sha256(b"good").hexdigest(), "bad": "0" * 64, "small": "1" * 40}
    for name, blob in names.items():
        (folder / "blobs" / blob).write_bytes(b"good")
        (folder / "snapshots" / "abc" / name).symlink_to(folder / "blobs" / blob)
    assert hub._discard_damaged("dataset", "some/one") == "bad"
    assert {path.name for path in folder.glob("snapshots/*/*")} == {"good", "small"}
    assert {path.name for path in folder.glob("blobs/*")} == {names["good"], names["small"]}
    assert hub._discard_damaged("dataset", "some/one") is None and hub._discard_damaged("model", "some/one") is None


@pytest.mark.slow
class TestHub:
    def test_model_and_data_come_through_the_real_client(self, served):
        results, requests, _ = served
        assert results["load"][0][0] == 400 and results["read"][0] == 40
        fetched = [request for request in requests if request.startswith("GET /openai-community/gpt2/resolve/")]
        assert any(request.endswith("/model.safetensors") for request in fetched)
        assert any("/datasets/stanfordnlp/imdb/resolve/" in request and "parquet" in request for request in requests)

    def test_what_is_cached_needs_no_hub(self, served):
        results, requests, _ = served
        for name in ("load", "read"):
            assert results[f"cached {name}"][0] == results[name][0]
        start, end = (
            requests.index(f"GET /mark/{name}") for name in ("cached-load", next(iter(CASES)).replace(" ", "-"))
        )
        assert [request for request in requests[start:end] if "/mark/" not in request] == []

    @pytest.mark.parametrize("name", CASES)
    def test_fault_is_one_sentence_with_file_reason_and_remedy(self, served, name):
        results, _, _ = served
        kind, _, _, words = CASES[name]
        line = sentence(results, name)
        assert repository(kind, name) in line and words in line
        assert f"--{kind} PATH" in line and "--preset tiny" in line

    def test_unknown_name(self, served):
        assert "--model nobody/nothing: the repository does not exist" in sentence(served[0], "no such")

    @pytest.mark.parametrize("kind", BIG)
    def test_damaged_file_is_fetched_anew(self, served, kind):
        """A bad file left in the cache would spoil every later try."""
        assert f"{BIG[kind]} arrived damaged" in sentence(served[0], f"first {kind}")
        assert served[0][f"second {kind}"][0] == {"model": served[0]["load"][0], "data": 40}[kind]

    def test_cache_that_cannot_be_written(self, served):
        line = sentence(served[0], "read-only")
        assert "reviews.txt/hub cannot be written" in line and "HF_HOME" in line

    def test_offline_without_a_copy(self, served):
        line = sentence(served[0], "offline")
        assert "is not in the cache" in line and "HF_HUB_OFFLINE is set" in line and "--model PATH" in line

    def test_no_fault_leaves_a_run(self, served):
        assert not (served[2] / "runs").exists()
