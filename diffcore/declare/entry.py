"""What is known of an installed component and of an installed plugin. No torch here."""

from __future__ import annotations

from typing import Any

import attrs

from diffcore.declare.component import Alias, Base
from diffcore.declare.errors import PluginError
from diffcore.declare.kinds import Command, Kind
from diffcore.declare.loading import load


@attrs.frozen
class Entry:
    """One installed component: its declaration and the distribution that provides it."""

    id: str
    kind: str
    target: str
    summary: str
    dist: str
    version: str
    aliases: tuple[Alias, ...] = ()

    @property
    def full_id(self) -> str:
        """`dist/id`, unambiguous whatever else is installed."""
        return f"{self.dist}/{self.id}"

    def load(self) -> type[Base]:
        """Import the class, contained. Raises `PluginError` naming distribution and cause."""
        cls: Any = load(self.target, f"{self.kind} '{self.id}' of {self.dist} {self.version}")
        if not (is_component(cls) and cls.kind == self.kind):
            raise PluginError(
                f"{self.target} of {self.dist} {self.version} is declared as a {self.kind}, but is not a class made "
                f"with @diffcore.component that derives from the base class of that kind"
            )
        return cls


@attrs.frozen
class Plugin:
    """What became of one installed plugin: status is ok, disabled, incompatible or broken; cause says why not ok.

    note: what is odd about one that is ok, such as what it changed when it was imported and diffcore has put back.
    """

    name: str
    dist: str
    version: str
    module: str
    status: str
    api: int | None = None
    cause: str = ""
    trace: str = attrs.field(default="", repr=False)
    components: tuple[Entry, ...] = ()
    kinds: tuple[Kind, ...] = ()
    commands: tuple[Command, ...] = ()
    note: str = ""


def is_component(cls: Any) -> bool:
    """Whether it is a class made with `component` that has a kind."""
    return isinstance(cls, type) and issubclass(cls, Base) and cls.kind != "" and attrs.has(cls)
