"""Whether the parts of a spec fit together: every reason why they do not, each with the path of the part it is about."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import attrs

from diffcore.declare.component import Base
from diffcore.declare.errors import DiffcoreError, RunError, listed
from diffcore.numerics.solver import Solver
from diffcore.run.spec import Spec
from diffcore.specs.registry import Registry

Problem = tuple[str, str]


class Findings:
    """Faults that are met while a spec is put together, each with the path of the part it is about."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    @contextmanager
    def at(self, path: str | Callable[[DiffcoreError], str]) -> Generator[None]:
        """Note what the user can mend of what is raised within, and go on."""
        try:
            yield
        except RunError:
            raise
        except DiffcoreError as error:
            self.problems.append((path if isinstance(path, str) else path(error), str(error)))


def place_of(data: Base, error: DiffcoreError) -> str:
    """Which field of the data an error is about: the one whose text it names, such as a path; else the data as a whole."""
    texts = {field.name: getattr(data, field.name) for field in attrs.fields(type(data))}
    named = (name for name, text in texts.items() if isinstance(text, str) and text and text in str(error))
    return ".".join(["data", *list(named)[:1]])


def problems(
    spec: Spec,
    registry: Registry,
    provides: frozenset[str] | None,
    classes: Mapping[str, int] | None,
    broken: frozenset[str] = frozenset(),
    arrays: Collection[str] = (),
) -> Iterator[Problem]:
    """(path, message) for every part of the spec that lacks what it needs from process, network, prediction or data.

    broken: sections that are None because they have faults of their own; `provides` and `classes` are None where the process and
    the data have. What depends on these is not asked. arrays: the conditions of the data that are no classes.
    """
    if provides is not None:
        provides = provides | (frozenset({"flow_map"}) if spec.flow_map or "flow_map" in broken else frozenset())
        for path, part in _consumers(spec):
            if missing := getattr(part, "requires", frozenset[str]()) - provides:
                yield path, _lacks(spec, registry, part, missing, provides)
    yield from _of_network(spec, registry, broken)
    if classes is not None and not classes:
        yield from _without_classes(spec, registry, arrays)
    if classes and not broken & {"loss", "guidance"}:
        yield from _untrained(spec, registry)
    if "guidance" not in broken:
        yield from _twice(spec, registry)


def _of_network(spec: Spec, registry: Registry, broken: frozenset[str]) -> Iterator[Problem]:
    """What loss and flow map need of the network and its prediction."""
    for section, part in (("loss", spec.loss), ("flow_map", spec.flow_map)):
        if part is None:
            continue
        name = _name(registry, part)
        if part.predictions and spec.prediction not in part.predictions and "prediction" not in broken:
            yield "prediction", f"{name} needs prediction {' or '.join(part.predictions)}, not '{spec.prediction}'"
        both = section == "flow_map" or spec.loss.second_time
        if both and "network" not in broken and not spec.network.takes_second_time:
            yield "network", f"{name} needs a network with a second time; set network.second_time: true"


def _without_classes(spec: Spec, registry: Registry, arrays: Collection[str]) -> Iterator[Problem]:
    data = _name(registry, spec.data)
    conditional = any(field.name == "conditional" for field in attrs.fields(type(spec.data)))
    hint = "set data.conditional: true, or leave it out" if conditional else "leave it out, or take data with classes"
    for i, metric in enumerate(spec.metrics or ()):
        if metric.needs_classes:
            yield f"metrics.{i}", f"{_name(registry, metric)} needs class labels, {data} has none; {hint}"
    for i, guidance in enumerate(spec.guidance or ()):
        if "cond" in guidance.needs and not arrays:
            yield f"guidance.{i}", f"{_name(registry, guidance)} guides towards a condition, {data} has none; {hint}"


def _untrained(spec: Spec, registry: Registry) -> Iterator[Problem]:
    """Guidance that compares with the field without a condition, where the loss trains none."""
    if spec.loss.drops:
        return
    loss = _name(registry, spec.loss)
    can = any(field.name == "drop" for field in attrs.fields(type(spec.loss)))
    why = f"{loss} has drop: 0; set loss.drop: 0.1" if can else f"{loss} never drops it; take a loss with a field 'drop'"
    for i, guidance in enumerate(spec.guidance):
        if "null" in guidance.needs:
            yield (
                f"guidance.{i}",
                f"{_name(registry, guidance)} needs a network also trained without its condition; {why}",
            )


def _twice(spec: Spec, registry: Registry) -> Iterator[Problem]:
    """Guidance towards the condition, of one kind and not limited in time, that guides what it has guided already."""
    towards = [registry.id_of(type(g)) if "null" in g.needs and not hasattr(g, "guidance") else "" for g in spec.guidance]
    for i, id in enumerate(towards):
        if id and id in towards[:i]:
            yield f"guidance.{i}", f"guidance '{id}' is there twice, and would guide what is guided already; leave one out"


def _consumers(spec: Spec) -> Iterator[tuple[str, Base]]:
    """Everything that may require capabilities, by path."""
    compared = spec.evaluation.solvers if spec.evaluation else ()
    solvers: dict[str, Solver | None] = {"solver": spec.solver, **{f"evaluation.solvers.{i}": s for i, s in enumerate(compared)}}
    grids = {f"{path}.grid": solver.grid for path, solver in solvers.items() if solver is not None}
    guidance = {f"guidance.{i}": part for i, part in enumerate(spec.guidance or ())}
    metrics = {f"metrics.{i}": part for i, part in enumerate(spec.metrics or ())}
    consumers = {**solvers, **grids, "loss": spec.loss, "flow_map": spec.flow_map, **guidance, **metrics}
    yield from ((path, part) for path, part in consumers.items() if part is not None)


def _lacks(spec: Spec, registry: Registry, part: Base, missing: frozenset[str], provides: frozenset[str]) -> str:
    have = ", ".join(f"'{p}'" for p in sorted(provides)) or "nothing"
    need = ", ".join(f"'{m}'" for m in sorted(missing))
    text = f"{_name(registry, part)} needs {need}; {_name(registry, spec.process)} provides {have}"
    if missing == frozenset({"flow_map"}):
        known = ", ".join(entry.id for entry in registry.list("flow_map")) or "none is installed"
        return f"{text}; name a flow_map ({known})"
    fit = listed(
        _fitting(registry, part.kind, provides), more=f"diffcore show {registry.id_of(type(spec.process))} --kind process"
    )
    return f"{text}; of the installed {registry.kinds[part.kind].plural.replace('_', ' ')} these fit: {fit}"


def _fitting(registry: Registry, kind: str, provides: frozenset[str]) -> Iterator[str]:
    for entry in registry.list(kind):
        try:
            requires = getattr(registry.get(kind, entry.full_id), "requires", frozenset[str]())
        except DiffcoreError:
            continue
        if isinstance(requires, frozenset) and requires <= provides:
            yield entry.id


def _name(registry: Registry, part: Any) -> str:
    try:
        return f"{part.kind} '{registry.id_of(type(part))}'"
    except DiffcoreError:
        return f"{part.kind} {type(part).__name__}"


def label(registry: Registry, part: Base) -> str:
    """A component in a table: its id, and the fields that are not at their defaults (`ddim(eta=1.0)`)."""
    shown = [
        f"{field.name}={_short(registry, value)}"
        for field in attrs.fields(type(part))
        if field.name != "steps" and (value := getattr(part, field.name)) != _default(field, part)
    ]
    return registry.id_of(type(part)) + (f"({', '.join(shown)})" if shown else "")


def _default(field: Any, part: Base) -> Any:
    made = field.default
    if isinstance(made, attrs.Factory):  # pyright: ignore[reportArgumentType]
        return made.factory(part) if made.takes_self else made.factory()
    return made


def _short(registry: Registry, value: Any) -> str:
    return label(registry, value) if isinstance(value, Base) else f"{value:g}" if isinstance(value, float) else str(value)
