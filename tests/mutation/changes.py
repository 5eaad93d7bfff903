"""Small random changes of week6's code, to find what no test notices: `make mutants`.

`python -m tests.mutation.changes [--draw N] [--seed S]` lists all possible changes (another comparison, sign, bound,
axis, constant; an argument, a `detach`, a condition left out), draws N of them, more from longer modules, and runs for
each the tests that know its module: the quick ones of its own file first, the slow ones of that file last. It ends with
those that no test noticed. Such a change is *equivalent* (nothing that anybody relies on differs) and then stands in
survivors.txt with the reason, or it shows a test that is missing. `--story TEXT …` tries the changes whose lines hold
such a text, drawn or not. Not part of `make test`: a change takes seconds, all of them an hour.
"""

import argparse
import ast
import collections
import functools
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from tests.mutation.run import ROOT, Bug, Verdict, run_all

SURVIVORS = Path(__file__).with_name("survivors.txt")
LEFT_OUT = ("pictures/", "recorded/", "tasks/world.py", "__main__.py", "__init__.py")
"""Texts, drawings and tables."""
QUESTIONS = ("nb", "bench_", "capstone_", "dpo_capstone", "dpo_symptoms", "ppo_capstone", "ppo_problem", "ppo_symptoms")
"""What the notebooks ask, in checks: left out too. There tests/checks tries wrong answers to each, for minutes."""
OPERATORS = {
    ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.Mod: "*", ast.FloorDiv: "*", ast.Pow: "*",
    ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "==",
    ast.Is: "is not", ast.IsNot: "is", ast.In: "not in", ast.NotIn: "in",
    ast.And: "or", ast.Or: "and", ast.BitAnd: "|", ast.BitOr: "&",
}  # fmt: skip
CALLS = {
    "mean": "sum", "sum": "mean", "min": "max", "max": "min", "argmax": "argmin", "argmin": "argmax",
    "minimum": "maximum", "maximum": "minimum", "all": "any", "any": "all", "exp": "expm1", "floor": "ceil",
    "ceil": "floor",
    "cumsum": "cumprod", "zeros_like": "ones_like", "ones_like": "zeros_like", "zeros": "ones", "ones": "zeros",
    "startswith": "endswith", "chosen": "rejected", "rejected": "chosen", "eval": "train",
}  # fmt: skip
DROPPED = {
    "detach",
    "clamp",
    "clamp_min",
    "abs",
    "sqrt",
    "square",
    "float",
    "double",
    "exp",
    "log",
    "flip",
    "strip",
    "copy",
}
"""Methods whose call x.f(…) is replaced by x."""
KEPT_ARGUMENTS = {
    "strict",
    "frozen",
    "match",
    "name",
    "file",
    "indent",
    "ensure_ascii",
    "allow_nan",
    "encoding",
    "desc",
    "unit",
}


UNNOTICED = ("SURVIVED", "pytest ended with status 5")
"""No test failed, or there was none to run."""


class Change(NamedTuple):
    """The bytes from `start` to `end` of a module's source become `new`."""

    module: str
    function: str
    start: int
    end: int
    new: str
    guard: bool
    """Whether it stands in a check of arguments, which only an error message would show."""

    def of(self, source: str) -> str:
        """The changed source."""
        data = source.encode()
        return (data[: self.start] + self.new.encode() + data[self.end :]).decode()

    def story(self, source: str) -> str:
        """What survivors.txt calls it: the function and its lines before and after, for line numbers move."""
        data = source.encode()
        first, last = data.rfind(b"\n", 0, self.start) + 1, data.find(b"\n", self.end)
        after = data[first : self.start] + self.new.encode() + data[self.end : last]
        before, after = (" ".join(text.decode().split()) for text in (data[first:last], after))
        return f"{self.module} {self.function}: {before} -> {after}"


def changes(module: str, source: str) -> Iterator[Change]:
    """All changes of one module."""
    tree = ast.parse(source)
    lines = [0]
    for line in source.encode().splitlines(keepends=True):
        lines.append(lines[-1] + len(line))
    data = source.encode()

    def place(node: ast.AST) -> tuple[int, int]:
        return lines[node.lineno - 1] + node.col_offset, lines[node.end_lineno - 1] + node.end_col_offset

    def text(start: int, end: int) -> str:
        return data[start:end].decode()

    def walk(node: ast.AST, function: str, guard: bool) -> Iterator[Change]:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            function = f"{function}.{node.name}" if function else node.name
        if isinstance(node, ast.If) and len(node.body) == 1 and isinstance(node.body[0], ast.Raise) and not node.orelse:
            guard = True
        if isinstance(node, ast.Expr) and ast.unparse(node).startswith("check."):
            guard = True
        for start, end, new in alternatives(node, place, text):
            yield Change(module, function, start, end, new, guard)
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list", "type_params"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST) and not isinstance(
                    child, ast.Raise | ast.JoinedStr | ast.Import | ast.ImportFrom
                ):
                    yield from walk(child, function, guard)

    yield from walk(tree, "", False)


def alternatives(node, place, text) -> Iterator[tuple[int, int, str]]:
    """(start, end, new text) of every change of this very node."""
    start, end = place(node) if hasattr(node, "lineno") else (0, 0)
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        left, right = place(node.left)[1], place(node.right)[0]
        sign = "**" if isinstance(node.op, ast.Pow) else None
        between = text(left, right)
        old = sign or next((s for s in ("//", "+", "-", "*", "/", "%", "&", "|") if s in between), None)
        if old and not isinstance(node.left, ast.Constant | ast.JoinedStr) or old in ("*", "/"):
            yield left, right, between.replace(old, OPERATORS[type(node.op)], 1)
    elif isinstance(node, ast.Compare) and len(node.ops) == 1:
        left, right = place(node.left)[1], place(node.comparators[0])[0]
        between = text(left, right)
        if between.strip() and "(" not in between and ")" not in between:
            yield left, right, f" {OPERATORS[type(node.ops[0])]} "
    elif isinstance(node, ast.BoolOp):
        left, right = place(node.values[0])[1], place(node.values[1])[0]
        between = text(left, right)
        old = "and" if isinstance(node.op, ast.And) else "or"
        if between.strip() == old:
            yield left, right, between.replace(old, OPERATORS[type(node.op)])
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub | ast.Invert):
        if not (isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant)):
            yield start, end, text(*place(node.operand))
    elif isinstance(node, ast.Constant):
        if isinstance(node.value, bool):
            yield start, end, str(not node.value)
        elif isinstance(node.value, int):
            yield start, end, str(node.value + 1)
        elif isinstance(node.value, float):
            yield start, end, repr(node.value * 2 if node.value else 1.0)
    elif isinstance(node, ast.IfExp):
        yield start, end, text(*place(node.body))
        yield start, end, text(*place(node.orelse))
    elif isinstance(node, ast.Call):
        if isinstance(node.func, ast.Attribute):
            name, (_, stop) = node.func.attr, place(node.func)
            if name in CALLS:
                yield stop - len(name), stop, CALLS[name]
            if name in DROPPED:
                yield start, end, text(*place(node.func.value))
        plain = [a for a in node.args if isinstance(a, ast.Name | ast.Attribute)]
        for a, b in zip(plain, plain[1:], strict=False):
            if node.args.index(b) == node.args.index(a) + 1 and type(a) is type(b) and ast.dump(a) != ast.dump(b):
                (s, e), (s2, e2) = place(a), place(b)
                yield s, e2, text(s2, e2) + text(e, s2) + text(s, e)
        for keyword in node.keywords:
            if keyword.arg and keyword.arg not in KEPT_ARGUMENTS and (node.args or len(node.keywords) > 1):
                s, e = place(keyword)
                before = text(start, s).rstrip()
                if before.endswith(","):
                    yield start + len(before.encode()) - 1, e, ""
    elif isinstance(node, ast.Attribute) and node.attr in ("chosen", "rejected"):
        yield end - len(node.attr), end, CALLS[node.attr]
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield start, end, "pass"


def draw(every: list[Change], n: int, seed: int) -> list[Change]:
    """n changes, at least three a module and otherwise by its number of changes; at most a sixth of them in guards."""
    rng = random.Random(seed)
    by_module: dict[str, list[Change]] = {}
    for change in rng.sample(every, len(every)):
        by_module.setdefault(change.module, []).append(change)
    first = [change for part in by_module.values() for change in part[:3]]
    rest = [change for change in rng.sample(every, len(every)) if change not in set(first)]
    chosen, guards, lines = [], 0, set()
    for change in first + rest:
        line = (change.module, change.function, change.start // 60)
        if line in lines or (change.guard and guards >= n // 6):
            continue
        lines.add(line)
        guards += change.guard
        chosen.append(change)
        if len(chosen) == n:
            break
    return rng.sample(chosen, len(chosen))  # in no order of modules: a run that is ended early is a smaller draw


@functools.cache
def imported(file: Path) -> set[str]:
    """The modules, and the names in modules, that a file of tests imports; "week6" where it takes the whole course."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)} - {"week6"}
    return found


def tests_of(module: str) -> tuple[str, ...]:
    """The files of tests that know a module: its own, then those of its room, then others; else all of its room."""
    path = Path(module)
    package = path.name == "__init__.py"
    name = ".".join(("week6", *(path.parent if package else path.with_suffix("")).parts))
    room = ROOT / "tests" / path.parent
    found = [own] if (own := room / f"test_{path.parent.name if package else path.stem}.py").exists() else []
    every = sorted(ROOT.glob("tests/**/test_*.py"), key=lambda file: (file.parent != room, file))
    names = {name, "week6"} if path.parent == Path() else {name}
    found += [file for file in every if names & imported(file)]
    if path.parts[0] == "run":
        found.insert(1, ROOT / "tests/test_figures_of_a_run.py")
    if path.parts[0] == "checks":
        found[1:1] = [ROOT / "tests/checks/test_engine.py", ROOT / "tests/checks/test_catalogue.py"]
    if not found:  # a module that only its own room knows, or that runs in a process of its own
        found = sorted(room.glob("test_*.py"))
    return tuple(dict.fromkeys(str(file.relative_to(ROOT)) for file in found))


@functools.cache
def passes_unchanged(test: str) -> bool:
    """Whether a test that caught a change passes without one: else it says nothing of the change."""
    (verdict,) = run_all([Bug("__init__.py", f"control {test}", (test,), "no bug", "", "")], 1)
    return verdict.outcome == "SURVIVED"


def verdicts(bugs: list[Bug], workers: int) -> Iterator[Verdict]:
    """How the tests ended on each: its module's own file, then the others that know it, then the own slow ones."""
    own, others = slice(1), slice(1, None)
    for i in range(0, len(bugs), 8):
        missed = bugs[i : i + 8]
        for files, marks in ((own, "not slow"), (others, "not slow"), (own, "slow")):
            os.environ["PYTEST_ADDOPTS"] = f"-m '{marks}'"
            tried = {bug.name: bug for bug in missed if bug.tests[files]}
            for verdict in run_all([bug._replace(tests=bug.tests[files]) for bug in tried.values()], workers):
                if verdict.outcome not in UNNOTICED:
                    missed.remove(tried[verdict.bug.name])
                    sound = not verdict.caught or passes_unchanged(verdict.first_failure.partition("\t")[0])
                    yield verdict if sound else verdict._replace(outcome="fails unchanged")
        for bug in missed:
            yield Verdict(bug, "SURVIVED", 0.0, "")


def explained() -> dict[str, str]:
    """The changes that are known to be equivalent, with the reason."""
    if not SURVIVORS.exists():
        return {}
    lines = [line for line in SURVIVORS.read_text().splitlines() if line.strip() and not line.startswith("#")]
    return dict(line.rsplit("  # ", 1) for line in lines)


def main() -> int:
    """Draw, run, and list what survived; 1 where a survivor has no reason."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draw", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--story", nargs="+", metavar="TEXT", help="these changes, by a part of what they are listed as"
    )
    options = parser.parse_args()
    os.chdir(ROOT)
    torch.set_num_threads(1)
    every, sources = [], {}
    for path in sorted((ROOT / "week6").rglob("*.py")):
        module = str(path.relative_to(ROOT / "week6"))
        question = path.parent.name == "checks" and path.name.startswith(QUESTIONS)
        if module == "tasks/__init__.py" or not (question or module.startswith(LEFT_OUT) or path.name == "__init__.py"):
            sources[module] = path.read_text()
            every += list(changes(module, sources[module]))
    if options.story:
        chosen = [c for c in every if any(text in c.story(sources[c.module]) for text in options.story)]
    else:
        chosen = draw(every, options.draw, options.seed)
    print(f"{len(every)} changes are possible, {len(chosen)} are tried", flush=True)
    bugs = []
    for i, change in enumerate(chosen):
        source, tests = sources[change.module], tests_of(change.module)
        bugs.append(Bug(change.module, str(i), tests, change.story(source), source, change.of(source)))
    reasons, ends = explained(), collections.Counter()
    survived = []
    for verdict in verdicts(bugs, options.workers):
        story, outcome = verdict.bug.story, verdict.outcome
        if outcome == "SURVIVED" and story in reasons:
            outcome = "equivalent"
        elif outcome == "SURVIVED":
            survived.append(story)
        ends[outcome] += 1
        print(f"{outcome:18} {verdict.seconds:5.1f} s  {story}", flush=True)
    share = 100 * ends["caught"] / max(1, ends["caught"] + len(survived))
    print(f"{dict(ends)}; of those that are not equivalent {share:.1f} % caught. Survived:", *survived, sep="\n")
    return bool(survived)


if __name__ == "__main__":
    sys.exit(main())
