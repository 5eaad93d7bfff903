"""A stand-in for the hub on the loopback address: what the real client asks for, with faults on demand.

It serves folders: ROOT/models/OWNER/NAME/… and ROOT/datasets/OWNER/NAME/…. The client reads its settings when it is
imported, so whatever uses it runs in a child process (`in_child`).
"""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pandas as pd

COMMIT = "0123456789abcdef0123456789abcdef01234567"
STALL = 3600.0
PATIENCE = 1
"""Seconds that the client waits for an answer here."""
CARD = """---
configs:
- config_name: plain_text
  data_files:
  - {split: train, path: plain_text/train-*}
  - {split: test, path: plain_text/test-*}
---
"""


class Hub:
    """A running server. `faults` maps a repository to the end of a file's name and what goes wrong with it:

    404        it is not there           500        the server fails         stall    it never answers
    hang       half of it, then nothing  cut off    half of it, then closed  corrupt  as many bytes, wrong ones
    once       corrupt when it is first fetched, then right

    The name "api" stands for the list of the repository's files.
    """

    def __init__(self, root, faults=None):
        self.root, self.faults, self.requests, self.fetched = Path(root), faults or {}, [], set()
        self.closing = threading.Event()
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer()

    def do_POST(self):
        self.posted = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer()

    def _answer(self, body=True):
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        self.hub.requests.append(f"{self.command} {self.path}")
        if parts[0] == "mark":  # of a test, to find its place in the requests
            return self._refuse(404, None, "")
        if parts[0] == "api":
            return self._api(parts[1], "/".join(parts[2:4]), parts[4:])
        kind = "datasets" if parts[0] == "datasets" else "models"
        parts = parts[parts[0] == "datasets" :]
        repo, (verb, _, *name) = "/".join(parts[:2]), parts[2:]
        assert verb == "resolve", self.path
        return self._file(kind, repo, "/".join(name), body)

    # --- files -------------------------------------------------------------------------------------------------------

    def _file(self, kind, repo, name, body):
        end, fault = self.hub.faults.get(repo, ("", None))
        fault = fault if name.endswith(end) else None
        path = self.hub.root / kind / repo / name
        if not path.parents[name.count("/")].is_dir():
            return self._refuse(404, "RepoNotFound", "Repository not found")
        if fault == "500":
            return self._refuse(500, None, "Internal Server Error")
        if fault == "stall":
            self.hub.closing.wait(STALL)
            return None
        if fault == "404" or not path.is_file():
            return self._refuse(404, "EntryNotFound", "Entry not found")
        data = path.read_bytes()
        etag = hashlib.sha256(data).hexdigest()
        if fault == "once" and body and repo not in self.hub.fetched:
            self.hub.fetched.add(repo)
            fault = "corrupt"
        if fault == "corrupt":
            data = bytes(byte ^ 0x5A for byte in data)
        start = 0
        if asked := self.headers.get("Range"):
            start = int(asked.removeprefix("bytes=").split("-")[0])
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(data) - start))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        if not body:
            return None
        if fault in ("cut off", "hang"):
            self.wfile.write(data[start : len(data) // 2])
            self.wfile.flush()
            if fault == "hang":
                self.hub.closing.wait(STALL)
            self.close_connection = True
            return None
        self.wfile.write(data[start:])
        return None

    # --- the interface for programs ----------------------------------------------------------------------------------

    def _api(self, kind, repo, rest):
        folder = self.hub.root / kind / repo
        if self.path.startswith("/api/whoami"):
            return self._refuse(401, None, "Unauthorized")
        end, fault = self.hub.faults.get(repo, ("", None))
        fault = fault if end == "api" else None
        if fault == "500":
            return self._refuse(500, None, "Internal Server Error")
        if fault == "stall":
            self.hub.closing.wait(STALL)
            return None
        if fault == "404" or not folder.is_dir():
            return self._refuse(404, "RepoNotFound", "Repository not found")
        names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
        verb = rest[0] if rest else "revision"
        if verb == "revision":
            return self._json(
                {"id": repo, "sha": COMMIT, "private": False, "tags": [], "siblings": [{"rfilename": n} for n in names]}
            )
        if verb == "paths-info":
            wanted = json.loads(self.posted)["paths"]
            folders = {str(parent) for name in names for parent in Path(name).parents} - {"."}
            found = [self._entry(folder, name) for name in wanted if name in names]
            return self._json(found + [{"type": "directory", "path": n, "oid": COMMIT} for n in wanted if n in folders])
        if verb == "tree":
            under = "/".join(rest[2:])
            inside = [name for name in names if not under or name.startswith(f"{under}/")]
            if not inside:
                return self._refuse(404, "EntryNotFound", "Entry not found")
            inner = sorted({str(parent) for name in inside for parent in Path(name).parents} - {"."})
            inner = [name for name in inner if name.startswith(f"{under}/" if under else "")]
            if "recursive=true" not in self.path.lower():
                depth = len(rest[2:])
                inside, inner = ([name for name in names if name.count("/") == depth] for names in (inside, inner))
            directories = [{"type": "directory", "path": name, "oid": COMMIT} for name in inner]
            return self._json(directories + [self._entry(folder, name) for name in inside])
        return self._refuse(404, "EntryNotFound", "Entry not found")

    def _entry(self, folder, name):
        data = (folder / name).read_bytes()
        return {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}

    def _json(self, value):
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _refuse(self, status, code, text):
        data = json.dumps({"error": text}).encode()
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", text)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


# --- its clients -----------------------------------------------------------------------------------------------------


def imdb(folder, texts):
    """A data set laid out like stanfordnlp/imdb, with these texts in both of its splits; returns the folder."""
    (folder / "plain_text").mkdir(parents=True)
    for split in ("train", "test"):
        table = pd.DataFrame({"text": texts, "label": [0] * len(texts)})
        table.to_parquet(folder / "plain_text" / f"{split}-00000-of-00001.parquet")
    (folder / "README.md").write_text(CARD)
    return folder


CHILD = """
import builtins, contextlib, io, json, sys, time, types, urllib.error, urllib.request
from huggingface_hub import constants, file_download
from tests.runs import quick_settings
from week6.cli import main
from week6.machine.pretrained import load_policy, load_tokenizer
from week6.tasks.tables import read_table

builtins.input = lambda *_: "y"  # whoever asks whether code may be run is told yes
file_download.time = types.SimpleNamespace(**vars(time) | {"sleep": lambda seconds: None})

def do(words):
    if words[0] == "set":
        return setattr(constants, words[1], words[2])
    if words[0] == "load":
        tokenizer = load_tokenizer(words[1])
        return [len(tokenizer), load_policy(words[1], tokenizer).num_parameters()]
    if words[0] == "encode":
        tokenizer = load_tokenizer(words[1])
        return {"pad": tokenizer.pad_token_id, "eos": tokenizer.eos_token_id} | {
            text: tokenizer(text)["input_ids"] for text in words[2:]
        }
    if words[0] == "quick":
        with quick_settings():
            return main(words[1:])
    if words[0] == "read":
        return len(read_table(words[1], [["text"]])["text"])
    return main(words)

results = {}
for name, words in json.load(sys.stdin).items():
    with contextlib.suppress(urllib.error.HTTPError):
        urllib.request.urlopen(constants.ENDPOINT + "/mark/" + name.replace(" ", "-"))
    err, out, start = io.StringIO(), io.StringIO(), time.perf_counter()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(out):
        code = do(words)
    results[name] = code, err.getvalue(), time.perf_counter() - start
print(json.dumps(results))
"""


def in_child(url, home, commands):
    """What the commands gave: name -> (result or exit code, stderr, seconds).

    set NAME VALUE      a setting of the client         load MODEL            tokens and parameters of a model
    read DATA           the number of texts in it       encode MODEL TEXT …   token ids of texts, and of pad and eos
    quick WORD …        week6 WORD … by the settings of `quick_settings`; anything else is week6's command line
    """
    settings = {
        "HF_ENDPOINT": url,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_ETAG_TIMEOUT": str(PATIENCE),
        "HF_HUB_DOWNLOAD_TIMEOUT": str(PATIENCE),
    }
    done = subprocess.run(
        [sys.executable, "-c", CHILD],
        cwd=Path(__file__).parent.parent,
        env=os.environ | settings,
        input=json.dumps(commands),
        text=True,
        capture_output=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])
