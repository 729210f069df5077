"""Which plugins are installed, and what became of each: found by metadata, imported contained, asked for their components.

pluggy defines and validates the hooks; the loading is ours, because one broken plugin must cost one line of
`diffcore plugins`, not the tool. No torch here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from itertools import islice
from traceback import format_exc
from types import ModuleType
from typing import Any

import attrs
import importlib_metadata
import pluggy

from diffcore.declare import hookspecs
from diffcore.declare.component import Component
from diffcore.declare.containing import Found, contained
from diffcore.declare.entry import Entry, Plugin
from diffcore.declare.errors import PluginError, SpecError, did_you_mean, said, shorten, shown
from diffcore.declare.hookspecs import API_VERSION, HOOKS, KINDS, VERSION
from diffcore.declare.kinds import Command, Kind

LIMIT = 20.0
"""Seconds that a plugin may take to be imported and to say what it has; `DIFFCORE_PLUGIN_SECONDS` sets another number."""
SLOW = 1.0
"""Seconds from which on a plugin is called slow."""
MANY = 10_000
"""More components than this one hook never yields."""
_DISCOVERING: ContextVar[str] = ContextVar("discovering", default="")


# --- which ----------------------------------------------------------------------------------------------------------------


def discover(group: str, disable: Iterable[str]) -> list[Plugin]:
    """Every plugin of an entry-point group, by distribution and name. Never raises for a plugin's fault."""
    if _DISCOVERING.get():
        raise PluginError(f"{_DISCOVERING.get()} loads the registry while it is asked for its components, which has no end")
    wanted, seconds = _Selection.read(disable), _seconds()
    found = sorted(_points(group), key=lambda point: (point.record.dist, point.record.name))
    return [_discover(point, wanted, seconds) for point in found]


@attrs.frozen
class _Selection:
    disabled: frozenset[str]
    only: frozenset[str] | None
    none: bool

    @classmethod
    def read(cls, disable: Iterable[str]) -> _Selection:
        env = os.environ
        only = env.get("DIFFCORE_PLUGINS")
        return cls(
            frozenset(disable) | _names(env.get("DIFFCORE_DISABLE_PLUGINS", "")),
            None if only is None else _names(only),
            env.get("DIFFCORE_NO_PLUGINS", "") not in ("", "0"),
        )

    def refuses(self, name: str, dist: str) -> str:
        """Why this plugin is disabled, or an empty string. The core's own components are always there."""
        if dist == "diffcore":
            return ""
        if self.none:
            return "DIFFCORE_NO_PLUGINS is set"
        if {name, dist} & self.disabled:
            return "disabled by name"
        if self.only is not None and not {name, dist} & self.only:
            return "not in DIFFCORE_PLUGINS"
        return ""


def misnamed(plugins: Iterable[Plugin]) -> Iterator[str]:
    """A line for every name in the environment that selects plugins and is neither an entry point nor a distribution."""
    known = {name for plugin in plugins for name in (plugin.name, plugin.dist)}
    for variable in ("DIFFCORE_DISABLE_PLUGINS", "DIFFCORE_PLUGINS"):
        for name in sorted(_names(os.environ.get(variable, "")) - known):
            near = did_you_mean(name, known) or ";"
            yield f"{variable}: no plugin or distribution '{shorten(name)}'{near} see: diffcore plugins"


def _names(text: str) -> frozenset[str]:
    return frozenset(n.strip() for n in text.split(",") if n.strip())


def _seconds() -> float:
    text = os.environ.get("DIFFCORE_PLUGIN_SECONDS", "") or str(LIMIT)
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise SpecError(f"DIFFCORE_PLUGIN_SECONDS is the time that a plugin may take, such as 60; got '{shorten(text)}'")
    return seconds


# --- metadata -------------------------------------------------------------------------------------------------------------


@attrs.frozen
class _Point:
    """An entry point, what is known of its plugin, and what its metadata ask of diffcore."""

    point: Any
    record: Plugin
    damage: str = ""
    requires: tuple[str, ...] = ()


def _points(group: str) -> Iterator[_Point]:
    seen = set[str]()
    for dist in importlib_metadata.distributions():
        try:
            points = [point for point in dist.entry_points if point.group == group]
        except Exception as error:
            yield _unreadable(dist, f"its entry_points.txt cannot be read ({said(error, 80)})")
            continue
        described = _described(dist) if points else None
        if described is not None and (described[0] == "unknown" or _canonical(described[0]) not in seen):
            seen.add(_canonical(described[0]))  # of two installations of one distribution the first on the path counts
            name, version, damage, requires = described
            for point in points:
                record = Plugin(shorten(point.name), name, version, shorten(point.value, 100), "ok")
                yield _Point(point, record, damage, requires)


def _unreadable(dist: Any, damage: str) -> _Point:
    name, version, _, _ = _described(dist)
    return _Point(None, Plugin("?", name, version, "?", "ok"), f"{damage}; reinstall it, or remove its folder in {_place(dist)}")


def _described(dist: Any) -> tuple[str, str, str, tuple[str, ...]]:
    """Name, version, damage and requirements of a distribution."""
    try:
        metadata: Any = dist.metadata
        name, version = metadata["Name"], metadata["Version"]
        requires = tuple(metadata.get_all("Requires-Dist") or ())
    except Exception:
        name, version, requires = None, None, ()
    if name and version and f"{name}{version}".isprintable() and len(f"{name}{version}") <= 200:
        return name, version, "", requires
    damage = f"the METADATA of its installation in {_place(dist)} is missing or damaged; reinstall it or remove its folder"
    return "unknown", "0", damage, ()


def _place(dist: Any) -> str:
    try:
        return shorten(str(dist.locate_file("")), 200)
    except Exception:
        return "an unknown place"


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def unmet(requires: Iterable[str], version: str) -> str:
    """What of a distribution's requirements this version of diffcore does not meet; an empty string where nothing."""
    for text in requires:
        if re.match(r"diffcore(?![\w.-])", text, re.IGNORECASE) and not _is_met(text, version):
            return " ".join(text.partition(";")[0].split())
    return ""


def _is_met(text: str, version: str) -> bool:
    plain = re.fullmatch(r"diffcore\s*>=\s*(\d+(?:\.\d+)*)", text)
    if plain and re.fullmatch(r"\d+(\.\d+)*", version):  # the usual case, without importing a library
        asked, have = ([int(part) for part in each.split(".")] for each in (plain[1], version))
        return have + [0] * (len(asked) - len(have)) >= asked
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        wanted = Requirement(text)
    except InvalidRequirement:
        return False
    applies = wanted.marker is None or wanted.marker.evaluate({"extra": ""})
    return not applies or wanted.specifier.contains(version, prereleases=True)


# --- import ---------------------------------------------------------------------------------------------------------------


def _discover(found: _Point, wanted: _Selection, seconds: float) -> Plugin:
    record = found.record
    if why := wanted.refuses(record.name, record.dist):
        return attrs.evolve(record, status="disabled", cause=why)
    if found.damage:
        return attrs.evolve(record, status="broken", cause=found.damage)
    if record.dist != "diffcore" and (asked := unmet(found.requires, VERSION)):  # its own extras name itself
        return attrs.evolve(record, status="incompatible", cause=f"it needs {shorten(asked)}, this is diffcore {VERSION}")
    token = _DISCOVERING.set(record.dist)
    try:
        with contained(f"plugin {record.dist} ({record.module})", seconds) as guard:
            done = _tried(found.point, record)
        return attrs.evolve(done, note=_note(guard)) if done.status == "ok" else done
    except Exception as error:  # of the guard: too long, or the end of the process
        return _broken(record, error)
    finally:
        _DISCOVERING.reset(token)


def _tried(point: Any, record: Plugin) -> Plugin:
    try:
        return _asked(point, record)
    except Exception as error:
        return _broken(record, error)


def _broken(record: Plugin, error: Exception) -> Plugin:
    return attrs.evolve(record, status="broken", cause=said(error), trace=format_exc())


def _note(found: Found) -> str:
    notes = [f"changed when imported, and put back: {', '.join(found.changed)}"] if found.changed else []
    notes += ["left threads running"] if found.threads else []
    notes += [f"takes {found.seconds:.1f} seconds to import"] if found.seconds > SLOW else []
    return "; ".join(notes)


def _asked(point: Any, record: Plugin) -> Plugin:
    """The plugin with its components, or with why its version of the hooks is another."""
    module = point.load()
    if not isinstance(module, ModuleType):
        raise PluginError(f"its entry point '{record.module}' must name a module; it names {shown(module)}")
    api = getattr(module, "API_VERSION", None)
    if api is None:
        return attrs.evolve(record, status="incompatible", cause="states no API_VERSION")
    if type(api) is not int:
        raise PluginError(f"its API_VERSION must be a whole number such as {API_VERSION}; got {shown(api)}")
    if api != API_VERSION:
        cause = f"written for api {shorten(str(api))}, this diffcore has api {API_VERSION}"
        return attrs.evolve(record, status="incompatible", api=api, cause=cause)
    return _declared(module, attrs.evolve(record, api=api))


def _declared(module: Any, record: Plugin) -> Plugin:
    """The plugin with all that its hooks yield: components, kinds and commands."""
    manager = pluggy.PluginManager("diffcore")
    manager.add_hookspecs(hookspecs)
    _refuse_unknown_hooks(module)
    manager.register(module)
    found: dict[tuple[str, str], Entry | Kind | Command] = {}
    for hook in HOOKS:
        for item in _yielded(getattr(manager.hook, hook), hook):
            key, made = _own(item, hook, record)
            if key in found:
                raise PluginError(f"{hook} yields the {key[0]} '{key[1]}' twice")
            found[key] = made
    of = {cls: tuple(item for item in found.values() if isinstance(item, cls)) for cls in (Entry, Kind, Command)}
    return attrs.evolve(record, components=of[Entry], kinds=of[Kind], commands=of[Command])


_YIELDS: dict[str, tuple[type, ...]] = {"diffcore_components": (Component, Kind), "diffcore_commands": (Command,)}
"""Hook -> what it yields, where not components alone."""


def _yielded(caller: Any, hook: str) -> Iterator[Any]:
    types = _YIELDS.get(hook, (Component,))
    words = " or ".join(f"diffcore.{cls.__name__}(...)" for cls in types)
    for implementation in caller.get_hookimpls():
        declared = implementation.function()
        if isinstance(declared, (str, bytes, *types)) or not isinstance(declared, Iterable):
            raise PluginError(f"{hook} must yield {words}, or return a list of them; got {shown(declared)}")
        items = list(islice(declared, MANY + 1))
        if len(items) > MANY:
            raise PluginError(f"{hook} yields more than {MANY} components")
        for item in items:
            if not isinstance(item, types):
                raise PluginError(f"{hook} must yield {words}, got {shown(item)}")
            yield item


def _own(item: Any, hook: str, record: Plugin) -> tuple[tuple[str, str], Entry | Kind | Command]:
    """What one declaration is of, and what is kept of it: it with its distribution."""
    if not isinstance(item, Component):
        made = attrs.evolve(item, dist=record.dist, version=record.version)
        return (type(item).__name__.lower(), item.name), made
    kind = item.kind or KINDS[hook][0]
    if hook == "diffcore_components":
        _refuse_misplaced(item)
    elif kind not in KINDS[hook]:
        raise PluginError(
            f"{hook} cannot yield a {shorten(str(kind))} ('{item.id}'); it carries: {', '.join(KINDS[hook])}, "
            f"diffcore_components carries further kinds"
        )
    return (kind, item.id), Entry(item.id, kind, item.target, item.summary, record.dist, record.version, item.aliases)


def _refuse_misplaced(item: Component) -> None:
    """A component that `diffcore_components` yields says its kind, and one with a hook of its own has its place there."""
    if item.kind is None:
        raise PluginError(f"diffcore_components does not say of which kind '{item.id}' is: dc.Component(..., kind=...)")
    home = next((hook for hook, kinds in KINDS.items() if item.kind in kinds), "diffcore_components")
    if home != "diffcore_components":
        raise PluginError(f"diffcore_components cannot yield a {item.kind} ('{item.id}'); that is what {home} is for")


def _refuse_unknown_hooks(module: Any) -> None:
    for name, value in vars(module).items():
        marked = getattr(value, "diffcore_impl", None) is not None
        if (marked or (name.startswith("diffcore_") and callable(value))) and name not in HOOKS:
            near = did_you_mean(name, HOOKS) or ";"
            raise PluginError(f"'{shorten(name)}' is not a hook of diffcore{near} hooks: {', '.join(HOOKS)}")
        if name in HOOKS and not marked:
            raise PluginError(f"'{name}' lacks the @diffcore.hookimpl decorator")
