"""Write docs/hooks/: one page per hook, from its hookspec, the base classes of its kinds and the components of this repository.

python docs/generate_hooks.py            write the pages
python docs/generate_hooks.py --check    only say which are not current (exit code 1)
"""

from __future__ import annotations

import inspect
import json
import sys
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

import diffcore as dc
from diffcore import hookspecs
from diffcore.cli.fields import bounds_words, describe_fields
from diffcore.hookspecs import KINDS
from diffcore.registry import Entry, Registry

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "hooks"
HIDDEN = ("kind", "source", "example", "expected_failures")


def own_entries(registry: Registry) -> list[Entry]:
    """The components of the distributions of this repository, whatever else is installed."""
    projects = [ROOT / "pyproject.toml", *ROOT.glob("plugins/*/pyproject.toml")]
    names = {tomllib.loads(path.read_text())["project"]["name"] for path in projects}
    return [e for e in registry.list() if e.dist in names]


def base_classes(kind: str) -> list[type[dc.Base]]:
    """The public base classes of a kind, the general one first."""
    found = {v for name in dc.__all__ if isinstance(v := getattr(dc, name), type) and issubclass(v, dc.Base) and v.kind == kind}
    found -= {dc.FlowMapSolver}
    return sorted(found, key=lambda cls: len(cls.__mro__))


def pages(registry: Registry) -> dict[str, str]:
    """File name -> text, the index included."""
    entries = own_entries(registry)
    made = {f"{hook}.md": "\n".join(_page(hook, entries, registry)) + "\n" for hook in KINDS}
    return {"README.md": "\n".join(_index()) + "\n", **made}


def _index() -> Iterator[str]:
    yield "# Hooks\n"
    yield "A plugin implements the hooks it needs; each yields `diffcore.Component` declarations. These pages are generated"
    yield "from the code by `python docs/generate_hooks.py`.\n"
    yield "| hook | kinds |\n|---|---|"
    for hook, kinds in KINDS.items():
        yield f"| [`{hook}`]({hook}.md) | {', '.join(kinds)} |"


def _page(hook: str, entries: list[Entry], registry: Registry) -> Iterator[str]:
    yield f"# {hook}\n"
    text, example = _hook_text(hook)
    yield f"{text}\n\n```python\n{example}\n```\n"
    for kind in KINDS[hook]:
        yield f"## Kind `{kind}`\n"
        for cls in base_classes(kind):
            yield from _class(cls, registry)
        rows = [(f"`{e.id}`", e.dist, e.summary) for e in entries if e.kind == kind]
        yield from _table(("id", "distribution", "what it is"), rows)


def _hook_text(hook: str) -> tuple[str, str]:
    """The docstring of a hook: its words, and the example that ends it."""
    text, mark, example = (getattr(hookspecs, hook).__doc__ or "").partition("@dc.hookimpl\n")
    return inspect.cleandoc(text).rstrip(), mark + textwrap.dedent(example).rstrip()


def _class(cls: type[dc.Base], registry: Registry) -> Iterator[str]:
    yield f"### `diffcore.{cls.__name__}`\n"
    yield f"{inspect.getdoc(cls)}\n"
    declared = [(f"`{name}`", f"`{value}`") for name, value in _declarations(cls)]
    yield from _table(("declares", "unless it says otherwise"), declared)
    if attrs.has(cls):
        fields = describe_fields(registry, cls)
        yield from _table(("field", "type", "default", "range", "meaning"), [_field(f) for f in fields])
    for name, value in vars(cls).items():
        function = value.fget if isinstance(value, property) else value
        if not name.startswith("_") and inspect.isfunction(function):
            yield _signature(name, value, function) + "\n"
            yield f"{inspect.getdoc(function)}\n"


def _declarations(cls: type[dc.Base]) -> Iterator[tuple[str, str]]:
    for name, hint in vars(cls).get("__annotations__", {}).items():
        if "ClassVar" in str(hint) and name not in HIDDEN:
            value = vars(cls)[name]
            yield name, f"{{{', '.join(map(repr, sorted(value)))}}}" if isinstance(value, frozenset) else repr(value)


def _signature(name: str, value: Any, function: Any) -> str:
    signature = str(inspect.signature(function)).replace("'", "")
    if isinstance(value, property):
        return f"**`{name}`** (property): `{signature.rpartition('-> ')[2]}`"
    return f"**`{name}{signature}`**"


def _field(field: dict[str, Any]) -> tuple[str, ...]:
    default = "required" if field["required"] else f"`{json.dumps(field['default'])}`"
    return (f"`{field['name']}`", field["type"], default, bounds_words(field), field["doc"])


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> Iterator[str]:
    if rows:
        yield f"| {' | '.join(head)} |\n|{'---|' * len(head)}"
        yield "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def stale(wanted: dict[str, str]) -> list[str]:
    """The pages whose file differs, is missing, or should not be there."""
    there = {path.name: path.read_text() for path in FOLDER.glob("*.md")}
    return sorted(name for name in wanted.keys() | there.keys() if wanted.get(name) != there.get(name))


def main(arguments: list[str]) -> int:
    """Write or check the pages; the exit code."""
    wanted = pages(Registry.load())
    changed = stale(wanted)
    if "--check" in arguments:
        print("\n".join(f"docs/hooks/{name} is not current" for name in changed) or "docs/hooks is current")
        return 1 if changed else 0
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in changed:
        if name in wanted:
            (FOLDER / name).write_text(wanted[name])
        else:
            (FOLDER / name).unlink()
    print(f"{len(changed)} of {len(wanted)} pages written")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
