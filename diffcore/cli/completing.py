"""What the shell completes: ids, kinds, runs, specs, and the keys and types of `--set`. No torch, and no class of a component."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.shell_completion import BashComplete, CompletionItem, add_completion_class

if TYPE_CHECKING:
    from diffcore.declare.entry import Entry
    from diffcore.specs.registry import Registry


def _registry() -> Registry:
    from diffcore.specs.registry import Registry

    return Registry.load()


def _entries(kind: str | None = None) -> list[Entry]:
    return _registry().list(kind)


def _sections() -> dict[str, str]:
    from diffcore.run.sections import SECTION_KINDS

    return SECTION_KINDS


def _items(words: Iterable[str], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(word) for word in sorted(set(words)) if word.startswith(incomplete)]


def complete_ids(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Ids of components, `distribution/id` where a `/` was typed."""
    return _items((e.full_id if "/" in incomplete else e.id for e in _entries()), incomplete)


def complete_kinds(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Kinds of components."""
    return _items(_registry().kinds, incomplete)


def complete_targets(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Ids, and the distributions that have them."""
    return [*complete_ids(ctx, parameter, incomplete), *_items((entry.dist for entry in _entries()), incomplete)]


def complete_solvers(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The last of several ids of solvers separated by commas, or its grid after an `@`."""
    before, comma, last = incomplete.rpartition(",")
    solver, at, _ = last.partition("@")
    ids = [e.id for e in _entries("grid" if at else "solver")]
    return _items((f"{before}{comma}{solver}@{id}" if at else f"{before}{comma}{id}" for id in ids), incomplete)


def complete_runs(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Run directories in the folder that was typed, `runs/` where none was; else any file or folder."""
    folder = incomplete.rpartition("/")[0] or "runs"
    found = (str(file.parent) for name in ("spec.yaml", "weights.safetensors") for file in Path(folder).glob(f"*/{name}"))
    return _items(found, incomplete) or [CompletionItem(incomplete, type="file")]


def complete_specs(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """YAML files and the folders on the way to them; else any file."""
    folder = Path(incomplete.rpartition("/")[0] or ".")
    there = list(folder.iterdir()) if folder.is_dir() else []
    words = [str(path) for path in there if path.suffix in (".yaml", ".yml")]
    return _items(words, incomplete) or [CompletionItem(incomplete, type="file")]


def complete_overrides(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """`SECTION.type=` and `SECTION=`; after `....type=` the ids of the kind that stands there."""
    path, equals, _ = incomplete.partition("=")
    if not equals:
        return _items(_keys(), incomplete)
    kind = _kind_at(path)
    return _items((f"{path}={entry.id}" for entry in _entries(kind)), incomplete) if kind else []


def _keys() -> Iterator[str]:
    for section, kind in _sections().items():
        yield f"{section}.type=" if kind[-1:] in ("!", "?") else f"{section}.0.type=" if kind else f"{section}="


def _kind_at(path: str) -> str | None:
    """The kind of component at `....type`: that of its section, or the field's own name."""
    *above, last = path.split(".")
    names = [name for name in above if not name.isdecimal()]
    if last != "type" or not names:
        return None
    sections = {section: kind[:-1] for section, kind in _sections().items() if kind}
    kinds = {**{kind: kind for kind in _registry().kinds}, **sections, "solvers": "solver"}
    return kinds.get(names[-1])


class _Bash(BashComplete):
    """Bash takes `=` for a word of its own: what stands around it is put together, and only what follows it is answered."""

    def get_completion_args(self) -> tuple[list[str], str]:
        args, incomplete = super().get_completion_args()
        if incomplete == "=":
            incomplete, args = f"{args[-1]}=", args[:-1]
        elif len(args) > 1 and args[-1] == "=":
            incomplete, args = f"{args[-2]}={incomplete}", args[:-2]
        self.answered = incomplete.count("=")
        return args, incomplete

    def format_completion(self, item: CompletionItem) -> str:
        item.value = item.value.split("=", self.answered)[-1]
        return super().format_completion(item)


add_completion_class(_Bash)
