"""Wrong versions of a function, made from its source by one small change each: a sign, a constant, an axis, a mask."""

import ast
import copy
import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

OPERATORS = {
    ast.Add: [ast.Sub],
    ast.Sub: [ast.Add],
    ast.Mult: [ast.Div],
    ast.Div: [ast.Mult],
    ast.Pow: [ast.Mult],
    ast.Lt: [ast.LtE, ast.Gt],
    ast.LtE: [ast.Lt, ast.Gt],
    ast.Gt: [ast.GtE, ast.Lt],
    ast.GtE: [ast.Gt, ast.Lt],
    ast.Eq: [ast.NotEq],
    ast.NotEq: [ast.Eq],
    ast.And: [ast.Or],
    ast.Or: [ast.And],
    ast.BitAnd: [ast.BitOr],
    ast.BitOr: [ast.BitAnd],
}
NAMES = {
    "sum": "mean",
    "mean": "sum",
    "min": "max",
    "max": "min",
    "minimum": "maximum",
    "maximum": "minimum",
    "amin": "amax",
    "amax": "amin",
    "argmin": "argmax",
    "argmax": "argmin",
    "softmax": "log_softmax",
    "log_softmax": "softmax",
    "logsigmoid": "sigmoid",
    "sigmoid": "logsigmoid",
    "exp": "expm1",
    "expm1": "exp",
    "cumsum": "cumprod",
    "triu": "tril",
    "tril": "triu",
}
REMOVABLE = {
    "flip", "cumsum", "logcumsumexp", "detach", "clamp", "exp", "log", "abs", "sqrt", "square", "neg", "T", "transpose"
}  # fmt: skip
"""Methods whose call x.f(…) is replaced by x."""


@dataclass(frozen=True)
class Mutant:
    """The mutated function, and the line that was changed as it now reads."""

    function: Callable[..., Any]
    line: str


def mutants(reference: Callable[..., Any]) -> Iterator[Mutant]:
    """All mutants of a function and of the functions that it calls from its own module. Checks of arguments stay."""
    module = sys.modules[reference.__module__]
    definitions = {node.name: node for node in ast.parse(inspect.getsource(module)).body if is_function(node)}
    reachable = [definitions[reference.__name__]]
    for function in reachable:
        used = {node.id for _, node in parts(function) if isinstance(node, ast.Name)}
        reachable += [definitions[n] for n in definitions if n in used and definitions[n] not in reachable]
    tree = ast.Module(body=[copy.deepcopy(function) for function in reachable], type_ignores=[])
    for function in tree.body:
        assert isinstance(function, ast.FunctionDef)
        function.returns = None
        for argument in function.args.args:
            argument.annotation = None
    for i, (statement, node) in enumerate(parts(tree)):
        for new in alternatives(node, function_default=isinstance(statement, ast.FunctionDef)):
            changed = copy.deepcopy(tree)
            where, old = list(parts(changed))[i]
            replace(changed, old, new)
            namespace = dict(vars(module))
            exec(compile(ast.fix_missing_locations(changed), "<mutant>", "exec"), namespace)
            yield Mutant(namespace[reference.__name__], ast.unparse(where).splitlines()[0])


def is_function(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef)


def parts(node: ast.AST, statement: ast.AST | None = None) -> Iterator[tuple[ast.AST, ast.AST]]:
    """Each node with the statement that it stands in, without docstrings, annotations and checks of arguments."""
    if only_checks(node):
        return
    statement = node if isinstance(node, ast.stmt) else statement
    if statement is not None:
        yield statement, node
    for name, field in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list"):
            continue
        for child in field if isinstance(field, list) else [field]:
            if isinstance(child, ast.AST):
                yield from parts(child, statement)


def only_checks(node: ast.AST) -> bool:
    """Whether a statement is a docstring, raises an error, or calls a function that does nothing else."""
    if isinstance(node, ast.Raise | ast.Assert):
        return True
    if isinstance(node, ast.If):
        return all(map(only_checks, node.body)) and not node.orelse
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant | ast.Call)


def alternatives(node: ast.AST, function_default: bool) -> Iterator[ast.AST]:
    """What may stand in the place of a node."""
    if isinstance(node, ast.BinOp | ast.BoolOp | ast.AugAssign):
        for operator in OPERATORS.get(type(node.op), []):
            yield with_(node, op=operator())
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub | ast.Mult | ast.Div):
        yield from (node.left, node.right)
    if isinstance(node, ast.Compare):
        for operator in OPERATORS.get(type(node.ops[0]), []):
            yield with_(node, ops=[operator(), *node.ops[1:]])
    if isinstance(node, ast.UnaryOp):
        yield node.operand
    if isinstance(node, ast.IfExp):
        yield from (node.body, node.orelse)
    if isinstance(node, ast.Constant) and type(node.value) in (int, float, bool):
        yield ast.Constant(not node.value if type(node.value) is bool else node.value + 1)
        if type(node.value) is float and node.value and not function_default:
            yield ast.Constant(2 * node.value)
    if isinstance(node, ast.Return) and node.value is not None and not isinstance(node.value, ast.Tuple):
        yield ast.Return(ast.UnaryOp(ast.USub(), node.value))
    if isinstance(node, ast.keyword) and node.arg in ("dim", "axis", "dims"):
        at_zero = isinstance(node.value, ast.Constant) and node.value.value == 0
        yield ast.keyword(node.arg, ast.Constant(-1 if at_zero else 0))
    if isinstance(node, ast.Call):
        yield from calls(node)
    if isinstance(node, ast.Name) and "mask" in node.id and isinstance(node.ctx, ast.Load):
        yield ast.parse(f"({node.id} == 0).to({node.id}.dtype)", mode="eval").body


def calls(node: ast.Call) -> Iterator[ast.AST]:
    """Another function, the same without this call, and two neighbouring arguments swapped."""
    if isinstance(node.func, ast.Attribute):
        name = node.func.attr
        if name in NAMES:
            yield with_(node, func=ast.Attribute(node.func.value, NAMES[name], ast.Load()))
        if name in REMOVABLE:
            is_method = not (isinstance(node.func.value, ast.Name) and node.func.value.id in ("torch", "F", "math"))
            yield node.func.value if is_method else node.args[0]
    for i in range(len(node.args) - 1):
        one, two = node.args[i : i + 2]
        if ast.dump(one) != ast.dump(two) and not any(isinstance(a, ast.Starred | ast.Constant) for a in (one, two)):
            yield with_(node, args=[*node.args[:i], two, one, *node.args[i + 2 :]])


def with_(node: ast.AST, **fields: Any) -> ast.AST:
    new = copy.copy(node)
    for name, value in fields.items():
        setattr(new, name, value)
    return new


def replace(tree: ast.AST, old: ast.AST, new: ast.AST) -> None:
    """Put a copy of `new` in the place of `old`, which is a node of `tree`."""
    new = copy.deepcopy(new)
    for parent in ast.walk(tree):
        for name, field in ast.iter_fields(parent):
            if field is old:
                setattr(parent, name, new)
            elif isinstance(field, list):
                field[:] = [new if child is old else child for child in field]
