"""`week6 doctor`: each trouble is found and has a remedy, nobody is named, and it works where nothing else does."""

import os
import re
import socket
import subprocess
import sys
import threading
import time
import tomllib
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from packaging.requirements import Requirement

from week6.classroom import doctor
from week6.cli import main

ROOT = Path(__file__).resolve().parents[2]
MATTERS = ["system", "week6", "packages", "Jupyter", "device", "threads", "memory", "disk", "writing", "pictures",
           "ports", "hub", "notebooks"]  # fmt: skip
LINE = re.compile(r"(OK|NOTE|TROUBLE) +(\S+) +(\S.*)")


def told(text):
    """Mark and words of each matter."""
    return {found[2]: (found[1], found[3]) for line in text.splitlines() if (found := LINE.fullmatch(line))}


def test_all_matters_are_looked_at_and_troubles_decide_the_exit_code(capsys, monkeypatch):
    for name in ("packages", "jupyter", "threads", "memory", "disk", "writing"):  # of this machine nothing is known
        monkeypatch.setattr(doctor, name, lambda: doctor.Finding("OK", "enough"))
    assert main(["doctor", str(ROOT / "notebooks")]) == 0
    printed = capsys.readouterr().out
    assert list(told(printed)) == MATTERS and printed.endswith("all is well\n")
    assert told(printed)["notebooks"] == ("OK", doctor.anonymous(f"11 in {ROOT / 'notebooks'}, of this version"))
    monkeypatch.setattr(doctor, "memory", lambda: doctor.Finding("TROUBLE", "none", "buy some"))
    assert main(["doctor", str(ROOT)]) == 1
    printed = capsys.readouterr().out
    assert re.search(r"TROUBLE +memory +none\n +-> buy some\n", printed) and "1 trouble: do" in printed


@pytest.mark.parametrize(("name", "mark"), [("Windows", "NOTE"), ("Linux", "OK"), ("Darwin", "OK")])
def test_the_system_that_the_course_is_not_tested_on_is_noted(monkeypatch, name, mark):
    monkeypatch.setattr(doctor.platform, "system", lambda: name)
    finding = doctor.system()
    assert (
        finding.mark == mark and finding.found.startswith(f"{name} ") and ("WSL" in finding.remedy) == (mark == "NOTE")
    )
    monkeypatch.setattr(doctor, "LOWEST_PYTHON", (99, 1))
    assert doctor.system().mark == "TROUBLE" and "install Python 99.1 or newer" in doctor.system().remedy


def test_an_error_in_one_matter_hides_no_other(monkeypatch, capsys):
    def broken():
        raise RuntimeError("no such\nluck")

    monkeypatch.setattr(doctor, "pictures", broken)
    assert doctor.doctor(ROOT) is False
    found = told(capsys.readouterr().out)
    assert list(found) == MATTERS and found["pictures"] == ("TROUBLE", "RuntimeError: no such luck")


def test_neither_home_nor_user_is_told(monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: Path("/home/ada.l"))
    monkeypatch.setattr("getpass.getuser", lambda: "ada.l")
    text = "/home/ada.l/x, /home/ada.l, /home/ada.lovelace, /scratch/ada.l/runs, /tmp/ada.l2, canada.l"
    assert doctor.anonymous(text) == "~/x, ~, /home/ada.lovelace, /scratch/USER/runs, /tmp/ada.l2, canada.l"


def without_packages(*words):
    """A command in a Python that has no package at all; week6 itself lies in the folder."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-S", *words], cwd=ROOT, capture_output=True, text=True, env=environment)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("words", [("-m", "week6", "doctor"), ("week6/classroom/doctor.py",)])
def test_it_works_where_no_package_is_installed(words):
    code, out, err = without_packages(*words)
    found = told(out)
    assert (code, err) == (1, "") and list(found) == MATTERS
    assert found["packages"][0] == "TROUBLE" and "torch is missing" in found["packages"][1]
    assert '-m pip install --upgrade "torch>=' in out and found["device"] == (
        "NOTE",
        "cannot be looked at without torch",
    )


def test_another_command_says_where_to_look():
    code, out, err = without_packages("-m", "week6", "report", "x")
    assert (code, out) == (2, "") and len(err.splitlines()) == 1
    assert "ModuleNotFoundError: No module named 'torch'" in err and str(Path("classroom", "doctor.py")) in err


def test_the_floors_are_those_of_the_project(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "PACKAGE", ROOT / "week6")
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert doctor.required() == {r.name: str(r.specifier).removeprefix(">=") for r in map(Requirement, listed)}
    monkeypatch.setattr(doctor, "PACKAGE", tmp_path / "week6")  # installed without its checkout
    monkeypatch.setattr(doctor, "requires", lambda name: ["torch>=2.9", 'pytest>=9; extra == "test"'])
    assert doctor.required() == {"torch": "2.9"}


def test_packages_that_are_old_missing_or_broken(monkeypatch):
    monkeypatch.setattr(doctor, "required", lambda: {"torch": "2.9", "numpy": "9.0", "no-such": "1.0", "json": "1.0"})
    here = {"torch": "2.10.0+cpu", "numpy": "8.11", "json": "3"}

    def version(name):
        if name not in here:
            raise doctor.PackageNotFoundError(name)
        return here[name]

    def load(name):
        if name == "json":
            raise OSError("libjson.so: cannot open shared object file")

    monkeypatch.setattr(doctor, "version", version)
    monkeypatch.setattr(doctor.importlib, "import_module", load)
    finding = doctor.packages()
    assert finding.mark == "TROUBLE" and finding.found == (
        "numpy 8.11 is older than 9.0; no-such is missing; "
        "json 3 cannot be loaded (OSError: libjson.so: cannot open shared object file)"
    )
    assert finding.remedy.endswith('-m pip install --force-reinstall "numpy>=9.0" "no-such>=1.0" "json>=1.0"')
    monkeypatch.setattr(doctor, "required", lambda: {"torch": "2.9"})
    assert doctor.packages().mark == "OK"  # 2.10 is not older than 2.9


def test_a_kernel_of_another_python(monkeypatch):
    from jupyter_client import kernelspec

    def kernel(program):
        monkeypatch.setattr(
            kernelspec.KernelSpecManager, "get_kernel_spec", lambda self, name: SimpleNamespace(argv=[program])
        )
        return doctor.jupyter().mark

    assert kernel("/opt/other/bin/python") == "TROUBLE" and "ipykernel install" in doctor.jupyter().remedy
    assert kernel("python") != "TROUBLE" != kernel(sys.executable)


def test_no_kernel_at_all(monkeypatch):
    def missing(name):
        raise doctor.PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "version", missing)
    finding = doctor.jupyter()
    assert finding.mark == "TROUBLE" and "pip install jupyterlab ipykernel" in finding.remedy
    assert finding.found == "no Jupyter package"
    monkeypatch.setattr(doctor, "version", lambda name: "4.5" if name == "jupyterlab" else missing(name))
    assert (doctor.jupyter().mark, doctor.jupyter().found) == ("TROUBLE", "jupyterlab 4.5")


@pytest.mark.parametrize(("used", "there", "mark"), [(2, 2.0, "OK"), (2, 1.5, "OK"), (64, 4.0, "TROUBLE")])
def test_more_threads_than_cores(monkeypatch, used, there, mark):
    monkeypatch.setattr(torch, "get_num_threads", lambda: used)
    monkeypatch.setattr(doctor, "cores", lambda: there)
    finding = doctor.threads()
    assert finding.mark == mark and ("OMP_NUM_THREADS=4 before" in finding.remedy) == (mark == "TROUBLE")


def test_threads_that_wait_by_spinning(monkeypatch):
    monkeypatch.setattr(doctor, "cores", lambda: 1000.0)
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert doctor.threads().mark == "NOTE"


@pytest.mark.parametrize(("free", "mark"), [(1.4e9, "TROUBLE"), (1.6e9, "OK")])
def test_memory(monkeypatch, free, mark):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=free, total=8e9))
    assert doctor.memory().mark == mark


def test_a_gigabyte_is_enough_for_the_embedded_course(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=1.1e9))
    assert doctor.disk().mark == "OK"


def test_disk_and_places(monkeypatch, tmp_path):
    monkeypatch.setenv("WEEK6_RUNS", str(tmp_path / "not" / "yet"))
    assert doctor.places()["runs"] == tmp_path / "not" / "yet" and doctor.writing().mark == "OK"
    assert list(tmp_path.iterdir()) == []  # nothing is left, and no folder is made
    monkeypatch.setattr(
        doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=0.9e9 if path == tmp_path else 9e9)
    )
    finding = doctor.disk()
    assert finding.mark == "TROUBLE" and "runs 0.9 GB" in finding.found and "WEEK6_RUNS" in finding.remedy


def test_a_folder_that_cannot_be_written_to(monkeypatch, tmp_path):
    def temporary_file(dir):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", temporary_file)
    monkeypatch.setenv("WEEK6_RUNS", str(tmp_path))
    finding = doctor.writing()
    assert finding.mark == "TROUBLE" and f"runs: {tmp_path} (Permission denied)" in finding.found


def test_fonts_that_are_looked_up_at_every_start(monkeypatch, tmp_path):
    monkeypatch.setattr("matplotlib.get_cachedir", lambda: str(tmp_path / "matplotlib-x"))
    assert doctor.pictures().mark == "OK"
    monkeypatch.setattr(doctor.tempfile, "tempdir", str(tmp_path))
    assert doctor.pictures().mark == "NOTE"


def test_no_port(monkeypatch):
    def forbidden(*arguments, **more):
        raise PermissionError(1, "Operation not permitted")

    assert doctor.ports().mark == "OK"
    monkeypatch.setattr(socket, "create_server", forbidden)
    assert doctor.ports() == ("TROUBLE", "127.0.0.1: Operation not permitted", doctor.ports().remedy)


class Answer(BaseHTTPRequestHandler):
    """A hub that answers with the status that its address ends with."""

    def log_message(self, *words):
        pass

    def do_HEAD(self):
        self.send_response(int(self.path[1:]))
        self.end_headers()


@pytest.fixture
def online(monkeypatch):
    """The address of a hub of this machine's own, that may be asked."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    server = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_hub_is_never_a_trouble(monkeypatch, online):
    with socket.create_server(("127.0.0.1", 0)) as nobody:  # listens there afterwards
        closed = f"http://127.0.0.1:{nobody.getsockname()[1]}"
    for address, mark, words in [
        (f"{online}/200", "OK", "/200 answers"),
        (f"{online}/403", "OK", "/403 answers"),
        (f"{online}/503", "NOTE", "answers with status 503"),
        (closed, "NOTE", "cannot be reached"),
        ("nonsense", "NOTE", "cannot be reached"),
    ]:
        monkeypatch.setenv("HF_ENDPOINT", address)
        finding = doctor.hub()
        assert finding.mark == mark and words in finding.found


def test_a_hub_that_takes_its_time_is_waited_for(monkeypatch, online):
    """A second longer than the client waits for an answer: until then it may still say what was wrong."""
    monkeypatch.setattr(doctor, "HUB_SECONDS", 0.9)
    monkeypatch.setattr(doctor.urllib.request, "urlopen", lambda *words, **more: time.sleep(0.1) or nullcontext())
    assert doctor.hub().mark == "OK"


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_hub_that_does_not_answer_is_waited_for_briefly(monkeypatch, online):
    """The thread that asks is left to itself. When it ends, whatever it has met, nobody hears of it."""
    released = threading.Event()
    monkeypatch.setattr(doctor, "HUB_SECONDS", -0.8)
    monkeypatch.setattr(doctor.urllib.request, "urlopen", lambda *words, **more: released.wait(20))
    began = time.monotonic()
    assert doctor.hub().mark == "NOTE" and "did not answer" in doctor.hub().found and time.monotonic() - began < 5
    released.set()
    for thread in threading.enumerate():
        if thread.name == "week6 doctor asks the hub":
            thread.join(5)
            assert not thread.is_alive()


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("address", ["http://127.0.0.1:{port}", "http://127.0.0.1:{port}/a b"])
def test_a_hub_that_speaks_no_http_is_a_note(monkeypatch, online, address):
    """http.client's errors are neither OSError nor ValueError."""

    def greet(server):
        with server.accept()[0] as connection:
            connection.sendall(b"220 mail.example\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setenv("HF_ENDPOINT", address.format(port=port))
        greeting = threading.Thread(target=greet, args=(server,))
        greeting.start()
        found = doctor.hub()
        socket.create_connection(("127.0.0.1", port)).close()  # so that it ends where nothing was asked
        greeting.join()
    assert found.mark == "NOTE" and "cannot be reached" in found.found


def test_a_hub_that_must_not_be_asked(monkeypatch, online):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(doctor.urllib.request, "urlopen", lambda *words, **more: pytest.fail("asked"))
    assert doctor.hub() == ("OK", "not asked: HF_HUB_OFFLINE is set", "")
