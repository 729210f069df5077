"""What a plugin still says in the words of the template that `diffcore new plugin` wrote."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from diffcore.declare.kinds import Kind


def leftovers(cls: type[Any], kind: Kind, summary: str) -> list[str]:
    """The places that carry the template's sentences although its functions were replaced; none where nothing was changed."""
    text, module = kind.written(), sys.modules.get(cls.__module__)
    if not text or module is None:
        return []
    template = ast.parse(Template(text).safe_substitute(cls=cls.__name__))
    found = [*_texts(cls, module, summary, template), *_readme(module)]
    return found if found and _functions(template) != _functions(_source(module, template)) else []


def _texts(cls: type[Any], module: Any, summary: str, template: ast.Module) -> Iterator[str]:
    """Which of the summary and the docstrings of class and module are those of the template.

    The first line of the template names its method: others who implement it may say the same, in files of other names.
    """
    first = _first_line(template)
    wrote = [ast.get_docstring(node) for node in template.body if isinstance(node, ast.ClassDef) and node.name == cls.__name__]
    if inspect.getdoc(cls) in wrote:
        yield "the docstring of the class"
    package, _, file = cls.__module__.rpartition(".")
    if package != f"diffcore_{file}":
        return
    if summary.rstrip(".").casefold() == first:
        yield "the summary of its declaration"
    if (module.__doc__ or "").strip().rstrip(".").casefold() == first:
        yield "the docstring of the module"


def _first_line(template: ast.Module) -> str:
    return (ast.get_docstring(template) or "").partition("\n")[0].rstrip(".").casefold()


def _readme(module: Any) -> Iterator[str]:
    """README.md beside the package, where it is installed from its folder and still ends by asking for other formulas."""
    path = Path(getattr(module, "__file__", None) or "").resolve().parent.parent / "README.md"
    if not path.is_file():
        return
    last = files("diffcore").joinpath("template", "README.md.in").read_text(encoding="utf-8").strip().splitlines()[-1]
    if last in path.read_text(encoding="utf-8", errors="replace"):
        yield str(path)


def _source(module: Any, otherwise: ast.Module) -> ast.Module:
    try:
        return ast.parse(inspect.getsource(module))
    except (OSError, TypeError):
        return otherwise


def _functions(tree: ast.Module) -> set[str]:
    """The functions of a module, without their documentation."""
    found = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    for node in found:
        if ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return {ast.dump(node) for node in found}
