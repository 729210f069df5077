"""Writes a new plugin distribution: a real method of a kind, or a command; declared, documented, tested. No torch, no network."""

from __future__ import annotations

import importlib.util
import keyword
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Collection
from importlib.resources import files
from pathlib import Path
from string import Template

from diffcore.declare.errors import DiffcoreError, SpecError, shorten
from diffcore.declare.hookspecs import API_VERSION, KINDS
from diffcore.declare.kinds import Kind
from diffcore.run.sections import TOP_KINDS
from diffcore.specs.registry import Registry

PREFIX = "diffcore-"
USAGE = {
    "metric": "metrics:\n  - type: {id}",
    "guidance": "guidance:\n  - type: {id}",
    "grid": "solver:\n  type: ...\n  grid:\n    type: {id}",
    "weighting": "loss:\n  type: ...\n  weighting:\n    type: {id}",
    "time_law": "loss:\n  type: ...\n  time_law:\n    type: {id}",
    "coupling": "loss:\n  type: ...\n  coupling:\n    type: {id}",
    "noise": "process:\n  type: ...\n  noise:\n    type: {id}",
}
"""Where a kind stands in a spec, if not as a section of its own name."""


def usage(kind: str, name: str) -> str:
    """The lines of a spec that use a component of this kind."""
    section = kind + ":\n  type: {id}" if kind in TOP_KINDS else "SECTION:\n  type: ...\n  " + kind + ":\n    type: {id}"
    return USAGE.get(kind, section).format(id=name)


def write_plugin(name: str, kind: Kind, folder: Path, registry: Registry) -> Path:
    """Write the distribution `diffcore-NAME` with one component `NAME` into a new folder of that name; returns the folder.

    Raises `SpecError` for a name that cannot be used, `DiffcoreError` where the folder exists or cannot be written. The
    folder appears complete or not at all.
    """
    taken = [e.full_id for e in registry.list(kind.name) if e.id == name.removeprefix(PREFIX)]
    return _write(name, taken, folder, registry, lambda short: render(short, kind))


def write_command(name: str, folder: Path, registry: Registry, known: Collection[str]) -> Path:
    """The same with one command `NAME`, which is none of those that are `known`."""
    taken = [f"diffcore {word}" for word in known if word == name.removeprefix(PREFIX)]
    return _write(name, taken, folder, registry, render_command)


def _write(name: str, taken: list[str], folder: Path, registry: Registry, text: Callable[[str], dict[str, str]]) -> Path:
    short = name.removeprefix(PREFIX)
    _check_name(name, short)
    taken = [*taken, *(p.dist for p in registry.plugins if p.dist == PREFIX + short)]
    if taken:
        raise SpecError(f"the name '{short}' is taken: {taken[0]} is installed; choose another name")
    target = folder / (PREFIX + short)
    if target.exists():
        raise DiffcoreError(f"{target} exists already; choose another name or --dir, or remove it")
    _write_aside(target, text(short))
    return target


def render(name: str, kind: Kind) -> dict[str, str]:
    """The files of the distribution of a component: path -> text."""
    values = _values(name, kind)
    module, file = values["module"], values["file"]
    return {
        **_project(values),
        "README.md": _fill("README.md.in", values),
        f"{module}/__init__.py": _fill("init.py.in", values),
        f"{module}/{file}.py": Template(_method(kind)).substitute(values),
        "tests/test_conformance.py": _fill("test_conformance.py.in", values),
    }


def render_command(name: str) -> dict[str, str]:
    """The files of the distribution of a command: path -> text."""
    values = _names(name, f"diffcore {name}")
    return {
        **_project(values),
        "README.md": _fill("command/README.md.in", values),
        f"{values['module']}/__init__.py": _fill("command/init.py.in", values),
        f"{values['module']}/{values['file']}.py": _fill("command/command.py.in", values),
        f"tests/test_{values['file']}.py": _fill("command/test_command.py.in", values),
    }


def _project(values: dict[str, str]) -> dict[str, str]:
    return {"pyproject.toml": _fill("pyproject.toml.in", values), f"{values['module']}/py.typed": ""}


def places(name: str, kind: Kind) -> list[tuple[str, str]]:
    """What an author replaces: (path in the distribution, what stands there). Nothing else speaks of the template's method."""
    values = _values(name, kind)
    module, file = values["module"], values["file"]
    declaration = _fill("init.py.in", values).splitlines()
    line = next(number for number, text in enumerate(declaration, 1) if f'"{values["summary"]}"' in text)
    return [
        (f"{module}/{file}.py", "the formulas, their docstring and their source"),
        (f"{module}/__init__.py:{line}", "the one-line summary that `diffcore list` shows"),
        ("README.md", "the last line"),
    ]


def _values(name: str, kind: Kind) -> dict[str, str]:
    hook = next((hook for hook, kinds in KINDS.items() if kind.name in kinds), "diffcore_components")
    first = _method(kind).partition("\n")[0].strip('"').rstrip(".")
    is_default = hook != "diffcore_components" and KINDS[hook][0] == kind.name
    module, _, base = kind.target.partition(":")
    return {
        **_names(name, f"The {kind.word} {name}"),
        "hook": hook,
        "summary": first[0].lower() + first[1:],
        "kind_argument": "" if is_default else f'\n        kind="{kind.name}",',
        "word": kind.word,
        "usage": usage(kind.name, name),
        "base": base,
        "base_module": module,
        "needs": "" if kind.dist == "diffcore" else f', "{kind.dist}>={kind.version}"',
    }


def _names(name: str, what: str) -> dict[str, str]:
    file = name.replace("-", "_")
    return {
        "id": name,
        "dist": PREFIX + name,
        "module": f"diffcore_{file}",
        "file": file,
        "cls": "".join(part.capitalize() for part in name.split("-")),
        "what": what,
        "needs": "",
        "api": str(API_VERSION),
    }


def _method(kind: Kind) -> str:
    """The template of a kind, and where it has none, one that only derives from its base class."""
    return kind.written() or _text("kind.py.in")


def _text(path: str) -> str:
    return files("diffcore").joinpath("template", path).read_text(encoding="utf-8")


def _fill(path: str, values: dict[str, str]) -> str:
    return Template(_text(path)).substitute(values)


def _check_name(name: str, short: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", short) or len(short) > 60:
        raise SpecError(
            f"'{shorten(name)}' cannot be the name of a plugin: lower-case letters, digits and single hyphens between them, "
            f"starting with a letter, at most 60 characters (example: my-solver)"
        )
    if keyword.iskeyword(short):
        raise SpecError(f"'{name}' is a word of Python and cannot name a module; choose another name")
    if _is_module(short.replace("-", "_")):
        raise SpecError(f"'{name}' is the name of a Python package, and a module of that name could hide it; choose another name")


def _is_module(name: str) -> bool:
    spec = importlib.util.find_spec(name)
    return name in sys.stdlib_module_names or (spec is not None and spec.origin is not None)


def _write_aside(target: Path, contents: dict[str, str]) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise DiffcoreError(f"{target.parent} cannot be written: {error.strerror}; choose another --dir") from error
    try:
        for path, text in contents.items():
            (aside / path).parent.mkdir(parents=True, exist_ok=True)
            (aside / path).write_text(text, encoding="utf-8")
        aside.chmod(0o777 & ~_umask())
        aside.rename(target)
    except OSError as error:
        raise DiffcoreError(f"{target} could not be written: {error.strerror}; nothing was left behind") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
