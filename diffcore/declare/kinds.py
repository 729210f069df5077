"""Kinds of components, and commands: what a distribution declares of them, and how the base class of a kind is marked. No torch.

A kind is a base class. Its components are found by its name in listings, specs, schema, completion and messages, and any field
whose type is a component base is a choice among them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.resources import files
from typing import Any, TypeVar

import attrs

from diffcore.declare.component import Base, is_line, is_target
from diffcore.declare.declarations import is_base
from diffcore.declare.errors import PluginError, SpecError, said, shown
from diffcore.declare.loading import load

T = TypeVar("T")


def _is_name(instance: Any, attribute: attrs.Attribute[str], value: str) -> None:
    of, pattern, words = _NAMES[type(instance).__name__]
    if not (isinstance(value, str) and re.fullmatch(pattern, value)):
        raise SpecError(f"{shown(value)} cannot be the name of a {of}: lower-case letters, digits and {words}")


def _is_optional_target(instance: Any, attribute: attrs.Attribute[str], value: str) -> None:
    if value != "":
        is_target(instance, attribute, value)


def _plural(kind: Kind) -> str:
    return f"{kind.name}s"


@attrs.frozen
class Kind:
    """The declaration of a kind: `dc.Kind("operator", "my_plugin.operators:Operator", "what is measured of a sample")`.

    `name` is what `@dc.kind` marks the base class `target` with, which is imported on first use; `summary` is one line for
    listings. plural: the word for several (`name` and an s). checks: "module:NAMES", the checks that the conformance kit runs for
    its components beside those of every kind, a tuple of functions of a `diffcore.testing.Subject` that raise `AssertionError`.
    template: "package:file", what `diffcore new plugin` writes for it, with `$cls` for the name of the class; the first line is
    its summary. dist, version: the distribution that declares it, filled in when it is discovered.
    """

    name: str = attrs.field(validator=_is_name)
    target: str = attrs.field(validator=is_target)
    summary: str = attrs.field(default="", validator=is_line)
    plural: str = attrs.field(default=attrs.Factory(_plural, takes_self=True), kw_only=True, validator=_is_name)
    checks: str = attrs.field(default="", kw_only=True, validator=_is_optional_target)
    template: str = attrs.field(default="", kw_only=True, validator=_is_optional_target)
    dist: str = attrs.field(default="diffcore", kw_only=True)
    version: str = attrs.field(default="", kw_only=True)

    @property
    def word(self) -> str:
        """The kind in words: `flow map`."""
        return self.name.replace("_", " ")

    def written(self) -> str:
        """The text of its template, "" where it has none. Raises `PluginError` where that cannot be read."""
        package, _, path = self.template.partition(":")
        try:
            return files(package).joinpath(path).read_text(encoding="utf-8") if package else ""
        except (OSError, ImportError, ValueError) as error:
            raise PluginError(f"the template of {self}, {self.template}, cannot be read: {said(error)}") from error

    def __str__(self) -> str:
        """The kind in a message, with its distribution."""
        return f"the kind '{self.name}' of {' '.join(filter(None, [self.dist, self.version]))}"

    def load(self) -> type[Base]:
        """Import the base class, contained. Raises `PluginError` naming distribution and cause."""
        base = load(self.target, str(self))
        if not (isinstance(base, type) and issubclass(base, Base) and is_base(base) and base.kind == self.name):
            raise PluginError(f'{self.target}, declared as {self}, is no base class marked with @diffcore.kind("{self.name}")')
        return base


@attrs.frozen
class Command:
    """A subcommand of `diffcore`: `dc.Command("quantise", "my_plugin.commands:quantise", "Round the weights of a run.")`.

    `target` is a click command, imported when it is run or its own help is asked; `summary` is its line in `diffcore --help`.
    dist, version: the distribution that declares it, filled in when it is discovered.
    """

    name: str = attrs.field(validator=_is_name)
    target: str = attrs.field(validator=is_target)
    summary: str = attrs.field(default="", validator=is_line)
    dist: str = attrs.field(default="diffcore", kw_only=True)
    version: str = attrs.field(default="", kw_only=True)

    def load(self) -> Any:
        """Import it, contained. Raises `PluginError` naming distribution and cause."""
        return load(self.target, str(self))

    def __str__(self) -> str:
        """The command in a message, with its distribution."""
        return f"the command '{self.name}' of {self.dist} {self.version}"


_NAMES = {
    "Kind": ("kind", "(?!(kind|command)s?$)[a-z][a-z0-9_]{0,39}", "_, at most 40 (example: operator)"),
    "Command": ("command", "[a-z][a-z0-9-]{0,39}", "-, at most 40 (example: quantise)"),
}


def kind(name: str) -> Callable[[type[T]], type[T]]:
    """Mark the base class of a kind: `@dc.kind("operator")` above `class Operator(dc.Base)`, below its `@dc.component` if any.

    Sets `kind`, and makes what the class has the list of what its components may set: `dc.component` refuses further public
    class attributes in lower case. Raises `SpecError` for a bad name, a class that is no `dc.Base`, or one of another kind.
    """

    def mark(cls: type[T]) -> type[T]:
        Kind(name, f"{cls.__module__}:{cls.__qualname__}")  # checks the name
        if not (isinstance(cls, type) and issubclass(cls, Base)):
            raise SpecError(f"@dc.kind({name!r}): {shown(cls)} is no class that derives from dc.Base")
        if cls.kind:
            raise SpecError(f"@dc.kind({name!r}): {cls.__name__} is of kind '{cls.kind}' already; derive it from dc.Base")
        if "__attrs_attrs__" in vars(cls):
            raise SpecError(f"@dc.kind({name!r}) stands below @dc.component on {cls.__name__}")
        cls.kind, cls._marked = name, True  # pyright: ignore[reportAttributeAccessIssue, reportPrivateUsage]
        return cls

    return mark


_LEARNING, _NUMERICS = "diffcore.learning", "diffcore.numerics"
CORE: dict[str, Kind] = {
    one.name: attrs.evolve(one, template=f"diffcore:template/kinds/{one.name}.py.in")
    for one in (
        Kind("process", f"{_NUMERICS}.process:Process", "how data turns into noise", plural="processes"),
        Kind("noise", f"{_NUMERICS}.noise:NoiseLaw", "the law of the noise of a process", plural="noise_laws"),
        Kind("network", f"{_LEARNING}.network:Network", "builds the module that is trained"),
        Kind("loss", f"{_LEARNING}.loss:Loss", "what is minimised", plural="losses"),
        Kind("weighting", f"{_LEARNING}.loss:Weighting", "the weight of a time in a loss"),
        Kind("time_law", f"{_LEARNING}.loss:TimeLaw", "the law of training times"),
        Kind("guidance", f"{_NUMERICS}.guidance:Guidance", "wraps the denoiser, the solver or both", plural="guidance"),
        Kind("solver", f"{_NUMERICS}.solver:Solver", "carries noise to data"),
        Kind("grid", f"{_NUMERICS}.solver:Grid", "the times of the steps"),
        Kind("flow_map", f"{_NUMERICS}.flow_map:FlowMap", "reads a network as the map from time to time"),
        Kind("data", f"{_LEARNING}.data:Data", "where samples come from", plural="data"),
        Kind("coupling", f"{_LEARNING}.data:Coupling", "pairs data with noise"),
        Kind("metric", f"{_LEARNING}.metric:Metric", "measures samples, fields or likelihoods"),
        Kind("trainer", f"{_LEARNING}.trainer:Trainer", "who learns, from which loss, with which optimiser"),
        Kind("operator", f"{_LEARNING}.contracts:Operator", "what is measured of a sample, y = A(x_0)"),
        Kind("likelihood", f"{_LEARNING}.contracts:Likelihood", "the law of a measurement given the sample, p(y | x_0)"),
        Kind("reward", f"{_LEARNING}.contracts:Reward", "how good a sample is, r(x_0)"),
        Kind("density", f"{_LEARNING}.contracts:Density", "a density known up to a constant, log p(x)", plural="densities"),
        Kind("adapter", f"{_LEARNING}.adapter:Adapter", "wraps a loaded network: caches, quantisation, low-rank changes"),
        Kind("start", f"{_LEARNING}.start:Start", "where a run of sampling begins: a state and its time"),
    )
}  # fmt: skip
"""The kinds of the core, in the order of listings. A further one is a line here and `@kind` above its base class."""
