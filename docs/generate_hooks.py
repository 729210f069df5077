"""Write docs/hooks/: one page per hook, from its hookspec, the base classes of its kinds, what `diffcore new plugin` writes for
them and the components of this repository.

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
from diffcore.cli.fields import bounds_words, describe_fields
from diffcore.declare import hookspecs
from diffcore.declare.entry import Entry
from diffcore.declare.hookspecs import HOOKS, KINDS
from diffcore.declare.kinds import CORE
from diffcore.run import scaffold
from diffcore.specs.registry import Registry

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "hooks"
HIDDEN = ("kind", "source", "example", "expected_failures", "variants")
VALUES: dict[str, tuple[type, ...]] = {
    "process": (dc.Coeffs, dc.Corruption),
    "guidance": (dc.Posterior,),
    "solver": (dc.Moved, dc.Plan, dc.Span, dc.Frame, dc.Meter),
    "data": (dc.Source, dc.Range),
    "metric": (dc.Evaluation, dc.Measured),
    "trainer": (dc.Player,),
}
"""What the methods of a kind receive and return."""
DECLARED = {"diffcore_components": (dc.Kind,), "diffcore_commands": (dc.Command,)}
"""What a hook yields beside components."""
OTHERS = {"diffcore_components": "{}, and those that plugins declare", "diffcore_commands": "(subcommands of `diffcore`)"}
"""What the index says of the kinds of a hook, where they are not all."""
WORDS = {
    "process": "[Write a process](../write-a-process.md) shows one from the formula to the proof.",
    "guidance": "[Write a guidance](../write-a-guidance.md) shows one from the formula to the proof.",
    "solver": "[Write a solver](../write-a-solver.md) shows one from the formula to the proof.",
    "loss": """
        A loss takes all randomness from `draw`: times from one handle (`draw.fold(0)`), noise from another
        (`draw.fold(1)`), so that the same step of the same run is the same on any machine. `model.process.corrupt(x0, t,
        draw)` noises the data and holds every target: `.xt`, `.at`, `.eps`, `.target("velocity")`. `model(xt, at, **cond)`
        is the posterior, and `.read(name)` its value of a target. Return one number per sample, not their mean: reduction,
        sharing between processes and the optimiser are the trainer's. With several players return a mapping from their
        names to such values.""",
    "network": """
        A network is a component with `build`, which returns an ordinary `torch.nn.Module`. The core scales the input to
        about unit variance and gives it a time between about 0 and 1, so that a network needs to know nothing of the
        process. The output has the shape of `x`, or `outputs` where the process asks for another; what it means is the
        `prediction` of the spec. A condition is a tensor of class numbers (B,); the number after the last class stands for
        "no condition", and `null_cond` names it. A network that accepts the second time `s` also serves flow maps.
        Initialise with torch's own functions: the core seeds them around `build`. In `forward` draw nothing.""",
    "data": """
        A data set answers one question: which samples have these numbers? `batch(ids)` must return the same values for the
        same number whatever else is in the batch; order, epochs, shuffling and sharing between processes are the core's. A
        finite set has a `size`; an endless one has None and makes sample number i from `dc.Draw(seed, ids)`. Return raw
        values; where a field `range` declares their range, the core maps them to [-1, 1] and samples back. Conditions are
        class numbers, `classes` says how many there are of each. Where a file is absent, `open` raises `dc.DataError` with
        the one command that fetches it.""",
    "metric": """
        A metric sees samples, as much real data or more, their conditions, the cost, and (where there is one) the field
        itself. A number alone says little: give `n`, and where they can be had the `spread` over blocks of samples and the
        `floor`, which is the same metric between two sets of real data of that size. `better` lets tables mark the winner.
        Refuse samples that do not fit (too few, another shape, no classes) with `dc.DataError`. Random projections and
        subsets come from a `dc.Draw` with a seed in a field.""",
}
"""Paragraphs on how a component of a kind is written."""


def own_entries(registry: Registry) -> list[Entry]:
    """The components of the distributions of this repository, whatever else is installed."""
    names = own_names()
    return [e for e in registry.list() if e.dist in names]


def own_names() -> set[str]:
    """The distributions of this repository."""
    projects = [ROOT / "pyproject.toml", *ROOT.glob("plugins/*/pyproject.toml")]
    return {tomllib.loads(path.read_text())["project"]["name"] for path in projects}


def base_classes(kind: str) -> list[type[dc.Base]]:
    """The public base classes of a kind, the general one first."""
    found = {v for name in dc.__all__ if isinstance(v := getattr(dc, name), type) and issubclass(v, dc.Base) and v.kind == kind}
    found -= {dc.FlowMapSolver}
    return sorted(found, key=lambda cls: (len(cls.__mro__), cls.__name__))


def pages(registry: Registry) -> dict[str, str]:
    """File name -> text, the index included."""
    entries = own_entries(registry)
    made = {f"{hook}.md": "\n".join(_page(hook, entries, registry)) + "\n" for hook in HOOKS}
    return {"README.md": "\n".join(_index()) + "\n", **made}


def _index() -> Iterator[str]:
    yield "# Hooks\n"
    yield "A plugin implements the hooks it needs; each yields declarations. These pages are generated"
    yield "from the code by `python docs/generate_hooks.py`.\n"
    yield "| hook | kinds |\n|---|---|"
    for hook in HOOKS:
        yield f"| [`{hook}`]({hook}.md) | {OTHERS.get(hook, '{}').format(', '.join(KINDS.get(hook, ())))} |"
    yield "\nWhat the conformance kit tests of each kind: [the checks](../checks.md)."


def _page(hook: str, entries: list[Entry], registry: Registry) -> Iterator[str]:
    yield f"# {hook}\n"
    text, example = _hook_text(hook)
    yield f"{text}\n\n```python\n{example}\n```\n"
    for cls in DECLARED.get(hook, ()):
        yield from _value(cls)
    if hook == "diffcore_commands":
        own = [c for p in registry.plugins for c in p.commands if c.dist in own_names()]
        yield from table(("command", "distribution", "what it does"), [(f"`{c.name}`", c.dist, c.summary) for c in own])
    for kind in KINDS.get(hook, ()):
        yield f"## Kind `{kind}`\n"
        if kind in WORDS:
            yield textwrap.dedent(WORDS[kind]).strip() + "\n"
        for cls in base_classes(kind):
            yield from _class(cls, registry)
        for cls in VALUES.get(kind, ()):
            yield from _value(cls)
        yield from _example(kind)
        rows = [(f"`{e.id}`", e.dist, e.summary) for e in entries if e.kind == kind]
        yield from table(("id", "distribution", "what it is"), rows)


def _hook_text(hook: str) -> tuple[str, str]:
    """The docstring of a hook: its words, and the example that ends it."""
    text, mark, example = (getattr(hookspecs, hook).__doc__ or "").partition("@dc.hookimpl\n")
    return inspect.cleandoc(text).rstrip(), mark + textwrap.dedent(example).rstrip()


def _class(cls: type[dc.Base], registry: Registry) -> Iterator[str]:
    yield f"### `diffcore.{cls.__name__}`\n"
    yield f"{inspect.getdoc(cls)}\n"
    declared = [(f"`{name}`", f"`{value}`") for name, value in _declarations(cls)]
    yield from table(("declares", "unless it says otherwise"), declared)
    if attrs.has(cls):
        yield from fields_table(registry, cls)
    yield from _methods(cls)


def _value(cls: type) -> Iterator[str]:
    """A class that the methods of components meet: its entries as they are annotated, and its methods."""
    yield f"### `diffcore.{cls.__name__}`\n"
    yield f"{inspect.getdoc(cls)}\n"
    hints = {name: hint for name, hint in vars(cls).get("__annotations__", {}).items() if not name.startswith("_")}
    if hints:
        yield ", ".join(f"`{name}: {getattr(hint, '__forward_arg__', hint)}`" for name, hint in hints.items()) + "\n"
    yield from _methods(cls)


def _methods(cls: type) -> Iterator[str]:
    for name, value in vars(cls).items():
        function = value.fget if isinstance(value, property) else value
        shown = name == "__call__" or not name.startswith("_")
        if shown and inspect.isfunction(function) and inspect.getdoc(function):
            yield _signature(name, value, function) + "\n"
            yield f"{inspect.getdoc(function)}\n"


def _example(kind: str) -> Iterator[str]:
    """A whole component: what `diffcore new plugin` writes, which the tests hold to the conformance kit."""
    name = f"my-{kind.replace('_', '-')}"
    file = name.replace("-", "_")
    yield f"A whole one, as `diffcore new plugin {name} --kind {kind}` writes it:\n"
    yield f"```python\n{scaffold.render(name, CORE[kind])[f'diffcore_{file}/{file}.py'].rstrip()}\n```\n"


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


def fields_table(registry: Registry, cls: type) -> Iterator[str]:
    """The fields of a component class."""
    rows = [_field(f) for f in describe_fields(registry, cls)]
    yield from table(("field", "type", "default", "range", "meaning"), rows)


def _field(field: dict[str, Any]) -> tuple[str, ...]:
    default = "required" if field["required"] else f"`{json.dumps(field['default'])}`"
    return (f"`{field['name']}`", field["type"], default, bounds_words(field), field["doc"])


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> Iterator[str]:
    """A Markdown table and the empty line after it; nothing where there are no rows."""
    if rows:
        cells = [" | ".join(cell.replace("|", "\\|") for cell in row) for row in (head, *rows)]
        yield f"| {cells[0]} |\n|{'---|' * len(head)}"
        yield "\n".join(f"| {row} |" for row in cells[1:]) + "\n"


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
