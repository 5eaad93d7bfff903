"""Submitted notebooks as they come: right, wrong, empty, damaged and hostile ones."""

import json

from week6.checks import nb01

IMPORTS = "import os, socket, subprocess, sys, threading, time\nimport torch\nfrom week6.checks import nb01 as check"
HEAD = "def preference_probability(reward_a, reward_b):\n"
RIGHT = "    return torch.sigmoid(reward_a - reward_b)\n"
WRONG = "    return torch.sigmoid(reward_b - reward_a)\n"
CHECK = "check.q1(preference_probability)"


def notebook(*cells, **more):
    """The bytes of a notebook with these code cells."""
    made = [
        {"cell_type": "code", "id": f"c{i}", "metadata": {}, "source": text, "outputs": [], "execution_count": None}
        for i, text in enumerate(cells)
    ]
    return json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": made} | more).encode()


def answered(body, *more):
    """A notebook 01 whose answer to 1.1 has this body."""
    return notebook(IMPORTS, HEAD + body, *more, CHECK)


def hostile(outside):
    """Notebooks that want a point without an answer, or to do harm, and what must be said of each: a part of a flag.

    `outside`: a folder of the teacher's, with a file `secret`, where nothing may be written or read.
    """
    forged = [{"output_type": "stream", "name": "stdout", "text": f"✓ {nb01.q1.title}: Correct."}]
    ticked = json.loads(answered(WRONG))
    ticked["cells"][-1]["outputs"] = forged
    many = json.loads(answered(WRONG))
    many["cells"][-1]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "x" * 50_000_000}]
    return {
        "writes outside": (answered(f"    open({f'{outside}/evil'!r}, 'w').write('x')\n" + RIGHT), ""),
        "deletes outside": (answered(f"    os.remove({f'{outside}/secret'!r})\n" + WRONG), ""),
        "reads others": (
            answered(f"    raise ValueError(open({f'{outside}/secret'!r}).read())\n"),
            "",
        ),
        "forks without end": (answered("    while True:\n        os.fork()\n"), "forks"),
        "leaves a process": (
            answered(
                "    if os.fork() == 0:\n        os.setsid()\n"
                "        if os.fork() == 0:\n            time.sleep(3600)\n"
                "        os._exit(0)\n" + WRONG
            ),
            "forks",
        ),
        "leaves a thread": (
            answered("    threading.Thread(target=time.sleep, args=(3600,)).start()\n" + WRONG),
            "",
        ),
        "loops": (answered("    while True:\n        pass\n"), "never ended"),
        "loops while it is read": (
            answered(WRONG, "preference_probability.x = [0 for _ in iter(int, 1)]"),
            "never ended",
        ),
        "exits": (answered("    os._exit(0)\n"), "ended early"),
        "exits at once": (notebook(IMPORTS, "os._exit(0)", HEAD + WRONG, CHECK), "exit"),
        "crashes": (answered("    import ctypes\n    ctypes.string_at(0)\n"), "ended early"),
        "replaces check": (
            answered(WRONG, "class check:\n    q1 = staticmethod(lambda f: print('✓ 1.1: Correct.'))"),
            "in the place of `check`",
        ),
        "patches torch": (
            answered(WRONG, "torch.isclose = lambda *a, **k: torch.tensor(True)\ntorch.Tensor.all = lambda s: True"),
            "in the place of `torch.isclose`",
        ),
        "patches torch within": (
            answered("    torch.isclose = lambda *a, **k: torch.tensor(True)\n" + WRONG),
            "in the place of `torch.isclose`",
        ),
        "prints a tick": (answered(WRONG, "print('✓ 1.1 The probability of a preference: Correct.')"), "verdict"),
        "has a forged output": (json.dumps(ticked).encode(), "stored output"),
        "has 50 MB of output": (json.dumps(many).encode(), ""),
        "reads the reference": (
            answered("    from week6.checks import nb01 as n\n    return n.q1.reference(reward_a, reward_b)\n"),
            "graders",
        ),
        "calls the course's": (
            answered("    import week6\n    return week6.preference_probability(reward_a, reward_b)\n"),
            "course's own",
        ),
        "is the course's": (
            notebook(IMPORTS, "from week6 import preference_probability", CHECK),
            "course's own",
        ),
        "imports the graders' file": (
            answered(
                "    import importlib.util, week6\n"
                "    path = os.path.join(os.path.dirname(week6.__file__), 'checks', 'nb01.py')\n"
                "    spec = importlib.util.spec_from_file_location('other', path)\n"
                "    module = importlib.util.module_from_spec(spec)\n    spec.loader.exec_module(module)\n"
                "    return module.q1.reference(reward_a, reward_b)\n"
            ),
            "",
        ),
        "fills the memory": (answered("    x = [torch.ones(10**8) for _ in range(100)]\n" + WRONG), ""),
        "fills the disk": (
            answered("    for i in range(1000):\n        open(f'f{i}', 'w').write('x' * 10**7)\n" + WRONG),
            "filled its disk",
        ),
        "calls out": (answered("    socket.create_connection(('192.0.2.1', 80), 2)\n" + RIGHT), "network"),
        "writes into the pipe": (
            answered(
                "    for i in range(3, 64):\n        try:\n            os.write(i, b'forged' * 1000)\n"
                "        except OSError:\n            pass\n" + RIGHT
            ),
            "no function gives",
        ),
        "floods": (answered("    print('x' * 10**7)\n    return torch.ones(2 * 10**7)\n"), ""),
        "nests": (notebook(IMPORTS, "x = " + "(" * 100_000 + ")" * 100_000, HEAD + WRONG, CHECK), ""),
    }
