"""The fields of a component, read from the class statement in its source: no module is imported. Where that is not sure: None.

Sure is a class statement at the top level of a module whose names are bound once, with no decorators but `@diffcore.component`
and `@diffcore.kind("name")`, of bases that are sure, with nothing in its body but fields, constants, methods and classes.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.machinery import PathFinder
from typing import Any

import attrs

_COMPONENT, _FIELD = "diffcore.declare.component.component", "diffcore.declare.component.param"
_FIELDED = "diffcore.declare.component.fielded"
_KIND = "diffcore.declare.kinds.kind"
_BODY = (ast.AnnAssign, ast.Assign, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Expr, ast.Pass)


@attrs.frozen
class Field:
    """A field: the line that declares it, and the path of the class of which it holds one or several, "" for anything else."""

    line: ast.AnnAssign
    part: str

    @property
    def required(self) -> bool:
        """Whether it has no default."""
        value = self.line.value
        return value is None or (isinstance(value, ast.Call) and not {"default", "factory"} & {k.arg for k in value.keywords})


@attrs.frozen
class Statement:
    """A class: its kind, "" for none, and its fields by name."""

    kind: str
    fields: Mapping[str, Field]


class _UnsureError(Exception):
    """What is written there may mean anything."""


@cache
def statement_of(target: str) -> Statement | None:
    """The class `module.Class` as it is written; None where only importing it could tell."""
    try:
        return _read(target)
    except Exception:  # of foreign code there is no end of what may be odd; it is looked at again once it is imported
        return None


def _read(target: str) -> Statement:
    path = _followed(target)
    module, _, name = path.rpartition(".")
    written = _bound(module)[name]
    if not isinstance(written, ast.ClassDef) or written.keywords or not all(map(_is_plain, written.body)):
        raise _UnsureError
    own_kind, made = _decorated(module, written)
    kind, fields = "", dict[str, Field]()
    for base in reversed([_read(_path(module, base)) for base in written.bases]):
        kind, fields = base.kind or kind, {**fields, **base.fields}
    own = dict(_own(module, written))
    inherited = {name: field for name, field in fields.items() if name not in own}
    return Statement(own_kind or kind, {**inherited, **own} if made else fields)


def _is_plain(line: ast.stmt) -> bool:
    """Whether a line of a class statement has no say in the fields of the class, or is one."""
    return isinstance(line, _BODY) and getattr(line, "name", "") != "__init_subclass__"


def _own(module: str, written: ast.ClassDef) -> Iterator[tuple[str, Field]]:
    """The fields of a component that its own body has."""
    for line in written.body:
        if (
            isinstance(line, ast.AnnAssign)
            and isinstance(line.target, ast.Name)
            and "ClassVar" not in ast.unparse(line.annotation)
        ):
            if isinstance(line.value, ast.Call) and _followed(_path(module, line.value.func)) != _FIELD:
                raise _UnsureError  # a field of attrs may have another name in a spec, or none
            yield line.target.id.lstrip("_"), Field(line, _part(module, line.annotation))


def _decorated(module: str, written: ast.ClassDef) -> tuple[str, bool]:
    """The kind of which the class is marked as the base, "" for none, and whether it is made a component."""
    kind, made = "", False
    for decorator in written.decorator_list:
        match decorator:
            case ast.Call(function, [ast.Constant(str(name))], []) if not kind and _followed(_path(module, function)) == _KIND:
                kind = name
            case ast.Name() | ast.Attribute() if (
                not made and not kind and _followed(_path(module, decorator)) in (_COMPONENT, _FIELDED)
            ):
                made = True
            case _:
                raise _UnsureError
    return kind, made


def _part(module: str, annotation: ast.expr) -> str:
    """The class in `Class`, `Class | None`, `tuple[Class, ...]` or `dict[str, Class]`."""
    match annotation:
        case ast.BinOp(wanted, ast.BitOr(), ast.Constant(None)):
            return _part(module, wanted)
        case ast.Subscript(ast.Name("tuple"), ast.Tuple([wanted, ast.Constant()])):
            return _part(module, wanted)
        case ast.Subscript(ast.Name("dict" | "Mapping"), ast.Tuple([_, wanted])):
            return _part(module, wanted)
        case ast.Name() | ast.Attribute():
            try:
                return _followed(_path(module, annotation))
            except _UnsureError:
                return ""
        case _:
            return ""


# --- names ----------------------------------------------------------------------------------------------------------------


def _path(module: str, node: ast.expr) -> str:
    """`module.Class` that a name or an attribute stands for, as this module imports or writes it."""
    match node:
        case ast.Attribute(value, name):
            return f"{_path(module, value)}.{name}"
        case ast.Name(name):
            bound = _bound(module).get(name)
            return bound if isinstance(bound, str) else f"{module}.{name}"
        case _:
            raise _UnsureError


def _followed(path: str) -> str:
    """The place where a class or function is written that others import from each other."""
    module, _, name = path.rpartition(".")
    bound = _bound(module).get(name)
    if bound is None:
        raise _UnsureError
    return _followed(bound) if isinstance(bound, str) else path


@cache
def _bound(module: str) -> Mapping[str, Any]:
    """What the top level of a module binds: name -> the path it is imported from, or its statement; None for anything else."""
    found: dict[str, Any] = {}
    waiting: list[ast.AST] = [ast.parse(_source(module))]
    while waiting:
        node = waiting.pop()
        for name, bound in _binds(module, node):
            found[name] = bound if name not in found else None
        if not isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            waiting += ast.iter_child_nodes(node)
    return found


def _binds(module: str, node: ast.AST) -> Iterator[tuple[str, Any]]:
    match node:
        case ast.ClassDef(name) | ast.FunctionDef(name) | ast.AsyncFunctionDef(name):
            yield name, node
        case ast.Name(name, ast.Store() | ast.Del()):
            yield name, None
        case ast.Import(names):
            yield from ((n.asname or n.name.partition(".")[0], n.name if n.asname else n.name.partition(".")[0]) for n in names)
        case ast.ImportFrom(origin, names, level):
            if any(n.name == "*" for n in names):
                raise _UnsureError
            where = ".".join(filter(None, (_above(module, level), origin)))
            yield from ((n.asname or n.name, f"{where}.{n.name}") for n in names)
        case _:
            pass


def _above(module: str, level: int) -> str:
    """What so many dots before the name of a module stand for there; nothing where there is none."""
    if not level:
        return ""
    package = module if _found(module).submodule_search_locations is not None else module.rpartition(".")[0]
    return package.rsplit(".", level - 1)[0]


def _source(module: str) -> str:
    source: str | None = _found(module).loader.get_source(module)
    if source is None:
        raise _UnsureError
    return source


def _found(module: str) -> Any:
    found = PathFinder.find_spec(module, _places(module.rpartition(".")[0]))
    if found is None:
        raise _UnsureError
    return found


def _places(package: str) -> Any:
    """Where the modules of a package are: None for those of no package."""
    if not package:
        return None
    return sys.modules[package].__path__ if package in sys.modules else _found(package).submodule_search_locations or []
