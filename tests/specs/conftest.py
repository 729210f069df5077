"""Toy components with every kind of field, shared by the tests of specs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Literal

import attrs
import pytest

import diffcore as dc


@dc.component
class Window:
    lo: float = dc.param(doc="left end")
    hi: float = dc.param(doc="right end", gt=0)


@dc.component
class Karras(dc.Grid):
    rho: float = dc.param(default=7.0, gt=0, doc="exponent")


@dc.component
class Custom(dc.Grid):
    times: tuple[float, ...] = dc.param(default=(), ge=0, doc="times")


@dc.component
class Euler(dc.Stepper):
    """The first toy."""


@dc.component
class Heun(dc.Stepper):
    """The second toy."""

    churn: float = dc.param(default=0.0, ge=0, lt=1, doc="noise", unit="of sigma")
    final: bool = dc.param(default=True, doc="whether the last step is corrected")


@dc.component
class Everything(dc.Metric):
    count: int = dc.param(doc="mandatory", ge=1)
    flag: bool = False
    rate: float = 0.5
    name: str = "x"
    maybe: float | None = dc.param(default=None, ge=0)
    mode: Literal["fast", "slow", 2] = "fast"
    order: int = dc.param(default=2, choices=(1, 2, 3))
    seeds: tuple[int, ...] = ()
    pair: tuple[float, str] = (0.0, "a")
    table: dict[str, int] = dc.param(factory=dict)
    window: Window | None = None
    windows: tuple[Window, ...] = ()
    default_window: Window = Window(lo=1.0, hi=2.0)
    grid: dc.Grid = Karras(rho=3.0)
    grids: tuple[dc.Grid, ...] = ()
    label: int | str = 0
    deep: dict[str, tuple[tuple[float, ...], ...]] = dc.param(factory=dict)


@dc.component
class Nest(dc.Guidance):
    w: float = 1.0
    inner: dc.Guidance | None = None


@dc.component
class Fragile(dc.Guidance):
    """Fails when it is made: its own mistake at w = 0, the user's below."""

    w: float = 1.0

    def __attrs_post_init__(self) -> None:
        if self.w < 0:
            raise dc.SpecError("w and nothing else must be positive")
        1 / self.w


@dc.component
class Ordered(dc.Guidance):
    """Two fields that depend on each other, refused as attrs does it."""

    lo: float = 0.0
    hi: float = attrs.field(default=1.0)
    kind_of_error: str = "ValueError"

    @hi.validator
    def _above(self, attribute: Any, value: float) -> None:
        if value <= self.lo:
            raise {"ValueError": ValueError, "TypeError": TypeError}[self.kind_of_error]("hi must be above lo", attribute, value)


@dc.component
class Square(dc.AffineProcess):
    pass


@dc.component
class Jump(dc.Process):
    pass


@dc.component
class NeedsAffine(dc.Guidance):
    process: dc.AffineProcess = dc.param(doc="an affine process")


TOYS = (Karras, Custom, Euler, Heun, Everything, Nest, Fragile, Ordered, Square, Jump, NeedsAffine)


@pytest.fixture(scope="session")
def toys() -> SimpleNamespace:
    return SimpleNamespace(**{cls.__name__: cls for cls in (Window, *TOYS)})


@pytest.fixture(scope="session")
def registry() -> dc.Registry:
    made = dc.Registry()
    for cls in TOYS:
        made.add(cls)
    return made
