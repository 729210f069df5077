"""The spec inside weights, read where they are used: parts that are gone are named, and do no harm where nothing needs them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, cast

import attrs

from diffcore.declare.component import Base, component
from diffcore.declare.errors import SpecError, UnknownComponentError
from diffcore.learning.loss import Loss
from diffcore.run.metadata import Part
from diffcore.run.resuming import AFTER_TRAINING, differences, identity
from diffcore.run.sections import load_spec
from diffcore.run.spec import Spec
from diffcore.run.weights import Held
from diffcore.specs.registry import Registry

IDLE = ("metrics", "evaluation", "trainer", "loss")
"""Sections that no sample depends on."""
REPLACEABLE = (*AFTER_TRAINING, "data", "flow_map", "name")
"""Sections that may be others than in training."""
_OTHERS = {"guidance": "leave it out: --set guidance=[]", "data": "name other data of its shape: --set data={type: ...}"}


@component
class Gone(Loss):
    """Stands for a loss whose plugin is not installed; nothing is trained with it."""


def parts_of(registry: Registry, spec: Spec) -> dict[str, Part]:
    """Every component of a spec by its path, with the distribution that it comes from."""
    return {path: _part(registry, made) for path, made in _components(spec, "")}


def _components(value: Any, path: str) -> list[tuple[str, Base]]:
    if isinstance(value, (tuple, list)):
        inner = [(str(i), item) for i, item in enumerate(cast(list[Any], value))]
    elif isinstance(value, Mapping):
        inner = list(cast(Mapping[str, Any], value).items())
    elif attrs.has(type(value)):
        inner = [(field.alias or field.name, getattr(value, field.name)) for field in attrs.fields(type(value)) if field.init]
    else:
        return []
    own = [(path, value)] if isinstance(value, Base) and value.kind else []
    return own + [found for name, item in inner for found in _components(item, f"{path}.{name}" if path else name)]


def _part(registry: Registry, made: Base) -> Part:
    entry = registry.entry_of(type(made))
    return Part(entry.kind, registry.id_of(type(made)), entry.dist, entry.version)


def spec_of(held: Held, registry: Registry, overrides: Sequence[str]) -> tuple[Spec, dict[str, str]]:
    """The spec of weights with overrides, and by section why a part of it that no sample depends on was left out.

    Raises `UnknownComponentError` naming the distribution of every other part that is not installed and that no override
    replaces, `SpecError` for overrides of what the weights were trained with.
    """
    values, missing = _present(held, registry, overrides)
    spec = load_spec(values, registry, overrides)
    inert = [text for text in overrides if _key(text).partition(".")[0] in REPLACEABLE]
    if len(inert) < len(overrides):
        before, after = (_identity(registry, each) for each in (load_spec(values, registry, inert), spec))
        if changed := differences(before, after):
            raise SpecError(f"--set cannot change what {held.file} was trained with: {'; '.join(changed)}; train again for that")
    return spec, missing


def _identity(registry: Registry, spec: Spec) -> dict[str, Any]:
    from diffcore.specs import unstructure

    left = {name: None for name in ("loss",) if isinstance(spec.loss, Gone)}
    return identity(unstructure(registry, attrs.evolve(spec, **left)), without=REPLACEABLE)


def _present(held: Held, registry: Registry, overrides: Sequence[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """The values of the spec without the parts that are gone and idle, and why they are, by section."""
    values, gone = copy.deepcopy(held.meta.values), dict[str, str]()
    for path, part in held.meta.parts.items():
        if any(f"{path}.".startswith(f"{key}.") for key in map(_replaced, overrides)):
            continue
        if why := _absence(registry, part):
            gone[path] = f"{part}{why}"
        elif _is_ambiguous(registry, part):
            _at(values, path)["type"] = f"{part.dist}/{part.id}"
    needed = {path: why for path, why in gone.items() if path.partition(".")[0] not in IDLE}
    if needed:
        raise UnknownComponentError(_remedies(held, needed))
    for path in reversed(gone):
        _leave_out(values, path)
    return values, {path.partition(".")[0]: why for path, why in gone.items()}


def _key(override: str) -> str:
    return override.partition("=")[0].strip()


def _replaced(override: str) -> str:
    """The path of the component that an override replaces as a whole; `?` where it changes a field."""
    path, _, value = override.partition("=")
    path = path.strip()
    if path.endswith(".type"):
        return path.removesuffix(".type")
    return path if value.strip()[:1] in ("{", "[") or value.strip() == "null" else "?"


def _absence(registry: Registry, part: Part) -> str:
    """Why a part is not to be had: `, which is not installed`; empty where it is."""
    named = [entry for entry in registry.list(part.kind) if part.id in (entry.id, entry.full_id)]
    if any(part.dist in (entry.dist, "local") for entry in named):
        return ""
    if part.dist == "local":
        return ", a class of a Python session: give a registry that has it to Pipeline.load"
    plugin = next((p for p in registry.plugins if p.dist == part.dist), None)
    if plugin is None:
        return f", which is not installed: pip install {part.dist}=={part.version}"
    return f", which is {plugin.status}: {plugin.cause}" if plugin.status != "ok" else f", which {plugin.version} lacks"


def _is_ambiguous(registry: Registry, part: Part) -> bool:
    try:
        return not registry.find(part.kind, part.id)
    except UnknownComponentError:
        return True


def _remedies(held: Held, needed: Mapping[str, str]) -> str:
    lines = [f"{path}: {why}{_other(path)}" for path, why in needed.items()]
    return f"{held.file} was made with parts that are not here: {'; '.join(lines)}"


def _other(path: str) -> str:
    """What to do without the part."""
    section = path.partition(".")[0]
    if section == "solver":
        return f", or take another: --set '{path}={{type: euler, steps: 20}}'" if path == "solver" else f"; or set {path}=null"
    return f", or {_OTHERS[section]}" if section in _OTHERS else ""


def _leave_out(values: dict[str, Any], path: str) -> None:
    """Remove an idle part: an entry of its list, or its section."""
    section = path.partition(".")[0]
    if section == "loss":
        values["loss"] = Gone()
    elif section == "trainer":
        values.pop("trainer", None)
    else:
        keys = path.split(".")[: 2 if section == "metrics" else 3]
        entries = _at(values, ".".join(keys[:-1]))
        if isinstance(entries, list) and int(keys[-1]) < len(entries):
            del entries[int(keys[-1])]


def _at(values: Any, path: str) -> Any:
    for key in path.split("."):
        values = values[int(key)] if isinstance(values, list) else values[key]
    return values
