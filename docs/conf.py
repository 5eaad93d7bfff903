"""How Sphinx makes the web edition from what tools/build_site.py has laid out beside a copy of this file."""

import ast
import dataclasses
import inspect
import re
from typing import Any

project = "Week 6: Alignment and Chatbots"
html_title = project
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.mathjax"]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}
html_theme = "furo"
html_static_path = ["_static"]
html_copy_source = False
html_show_sphinx = False
templates_path: list[str] = []

myst_enable_extensions = ["dollarmath"]
myst_dmath_double_inline = True
myst_heading_anchors = 3
myst_all_links_external = False
nb_execution_mode = "off"  # what is stored has been run and compared
nb_ipywidgets_js: dict[str, Any] = {}  # would come from elsewhere; the notebooks store no widgets
nb_merge_streams = True
suppress_warnings = ["misc.highlighting_failure", "mystnb.unknown_mime_type"]

ACTIVE = re.compile(r"([*|\\]|_(?=\W))")
"""What reStructuredText would take for markup."""

mathjax_path = "mathjax/tex-chtml-full.js"

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "none"  # as_written has them
autodoc_preserve_defaults = True


def as_markup(app: Any, what: str, name: str, subject: Any, options: Any, lines: list[str]) -> None:
    """A docstring as reStructuredText: its indented blocks are formulas, to be shown as they are written."""
    made: list[str] = []
    for block in re.split(r"\n(?:[ \t]*\n)+", "\n".join(lines)):
        for part in re.findall(r"(?m)(?:^[ \t]+\S.*\n?)+|(?:^\S.*\n?)+", block):
            if part[0] in " \t":
                made += ["::", "", *(f"  {line}" for line in part.rstrip("\n").split("\n")), ""]
            else:
                pieces = part.rstrip("\n").split("`")  # those with an odd number are code
                shown = [piece if i % 2 else ACTIVE.sub(r"\\\1", piece) for i, piece in enumerate(pieces)]
                made += [*"``".join(shown).split("\n"), ""]
    lines[:] = made


def as_written(app: Any, what: str, name: str, subject: Any, options: Any, signature: str, returns: str) -> Any:
    """The signature of a function as its source has it: `Float[Tensor, "B T"]` says which shape is meant."""
    if what not in ("function", "method", "class"):
        return None
    function = subject.__init__ if what == "class" else subject
    try:
        tree = ast.parse(inspect.cleandoc("\n" + inspect.getsource(inspect.unwrap(function)))).body[0]
    except (OSError, TypeError, SyntaxError):
        return ("", "") if dataclasses.is_dataclass(subject) else None  # whose fields are listed below it
    if not isinstance(tree, ast.FunctionDef):
        return None
    tree.args.args = [argument for argument in tree.args.args if argument.arg not in ("self", "cls")]
    return f"({ast.unparse(tree.args)})", ast.unparse(tree.returns) if tree.returns else ""


def for_keyboards(app: Any, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """What scrolls can be reached by a keyboard, folds are called what is written on them, headings have a level."""
    if "body" in context:
        body = context["body"].replace("<pre>", '<pre tabindex="0">')
        body = body.replace('<div class="table-wrapper', '<div tabindex="0" class="table-wrapper')
        context["body"] = body.replace('<summary aria-label="Toggle hidden content">', "<summary>")
    if "furo_navigation_tree" in context:
        tree = context["furo_navigation_tree"]
        context["furo_navigation_tree"] = tree.replace('role="heading"', 'role="heading" aria-level="2"')


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("html-page-context", for_keyboards, priority=900)  # after the theme
    app.connect("autodoc-process-docstring", as_markup)
    app.connect("autodoc-process-signature", as_written)
