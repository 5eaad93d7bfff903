"""A reference with a few places of its text replaced: how a seeded mistake is made."""

import __future__

import inspect
import sys
from collections.abc import Callable
from typing import Any


def altered(function: Callable[..., Any], *changes: tuple[str, str], **names: Any) -> Callable[..., Any]:
    """The function with each (old, new) replaced in its source, run among the names of its module and `names`.

    Raises ValueError where an old text does not stand exactly once in the source.
    """
    source = inspect.getsource(function)
    for old, new in changes:
        if source.count(old) != 1:
            raise ValueError(f"{old!r} stands {source.count(old)} times in {function.__name__}, expected once")
        source = source.replace(old, new)
    namespace = vars(sys.modules[function.__module__]) | names
    code = compile(source, f"<{function.__name__}, altered>", "exec", __future__.annotations.compiler_flag)
    exec(code, namespace)
    changed: Callable[..., Any] = namespace[function.__name__]
    return changed
