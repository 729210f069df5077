"""What the installed plugins offer together: whose a kind or a command is where several declare it. No torch here.

What is the core's stays the core's. Of others that two distributions declare, neither is used, and the message names both.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from diffcore.declare.entry import Plugin
from diffcore.declare.errors import did_you_mean, listed, shorten
from diffcore.declare.kinds import CORE, Command, Kind


def kinds_of(plugins: Iterable[Plugin]) -> tuple[dict[str, Kind], dict[str, str]]:
    """Name -> kind, those of the core first; and what is wrong: a line for each name, or `kind id`, that cannot be used."""
    plugins = list(plugins)
    kinds, faults = _settled("kind", [kind for plugin in plugins for kind in plugin.kinds], CORE)
    found = {**CORE, **kinds}
    homeless: dict[str, list[str]] = {}
    for entry in (e for plugin in plugins for e in plugin.components if e.kind not in {*found, *faults}):
        homeless.setdefault(entry.kind, []).append(f"'{entry.id}' of {entry.dist} {entry.version}")
    return found, {**faults, **{kind: _homeless(kind, ids, found) for kind, ids in homeless.items()}}


def _homeless(kind: str, components: list[str], kinds: Collection[str]) -> str:
    near = did_you_mean(kind, kinds) or ";"
    return (
        f"no installed distribution declares the kind '{shorten(kind)}', of which {listed(components)} is said to be{near} "
        f"install the distribution that declares it"
    )


def commands_of(plugins: Iterable[Plugin], own: Collection[str]) -> tuple[dict[str, Command], dict[str, str]]:
    """Name -> command of a plugin; and a line for each name that is one of the core (`own`) or of several distributions."""
    return _settled("command", [command for plugin in plugins for command in plugin.commands], own)


def _settled(what: str, declared: Iterable[Any], own: Collection[str]) -> tuple[dict[str, Any], dict[str, str]]:
    by_name: dict[str, list[Any]] = {}
    for item in declared:
        known = by_name.setdefault(item.name, [])
        if item not in known:  # two entry points of one distribution may name one module
            known.append(item)
    faults = {name: _fault(what, items, name in own) for name, items in by_name.items() if name in own or len(items) > 1}
    return {name: items[0] for name, items in by_name.items() if name not in faults}, faults


def _fault(what: str, items: list[Any], in_core: bool) -> str:
    owners = " and ".join(f"{item.dist} {item.version} ({item.target})" for item in items)
    if in_core:
        return f"the {what} '{items[0].name}' is diffcore's own, which is used; {owners} must name its own otherwise"
    off = items[-1].dist
    return f"the {what} '{items[0].name}' is declared by {owners}; turn one of them off: DIFFCORE_DISABLE_PLUGINS={off}"


def no_kind(kind: str, kinds: Collection[str]) -> str:
    """The message for a word that is no kind."""
    return f"no kind '{shorten(kind)}'{did_you_mean(kind, kinds) or ';'} kinds: {', '.join(kinds)}"


def is_of(cls: type[Any], kind: Kind) -> bool:
    """Whether a component class derives from the base class of a kind, by the place where that is written."""
    return any(f"{base.__module__}:{base.__qualname__}" == kind.target for base in cls.__mro__) or issubclass(cls, kind.load())
