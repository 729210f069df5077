"""Data: where samples come from, and in which range."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from diffcore.declare.component import Base, component, param
from diffcore.declare.errors import DataError, SpecError
from diffcore.declare.kinds import kind
from diffcore.numerics.draw import Draw
from diffcore.numerics.tree import State, tree_map

TINIEST = 1e-30
"""Least width of a range, so that one over it is a float32."""
NARROWEST = 1e-6
"""Least width of a range against its ends: float32 has about eight values in it."""


@component
class Range:
    """The range of raw values. The network sees [-1, 1]: x = 2 (raw - lo) / (hi - lo) - 1."""

    lo: float = param(doc="smallest raw value")
    hi: float = param(doc="largest raw value")

    def __attrs_post_init__(self) -> None:
        """Refuse an empty range, and one in which float32 tells no values apart: all samples would be one."""
        if not self.lo < self.hi:
            raise SpecError(f"a range needs lo < hi; got {self.lo:g} and {self.hi:g}")
        if self.hi - self.lo < max(NARROWEST * max(abs(self.lo), abs(self.hi)), TINIEST):
            raise SpecError(f"a range of {self.lo:.17g} to {self.hi:.17g} has hardly a value in float32; shift or scale the data")

    def to_model(self, raw: Tensor, name: str = "data") -> Tensor:
        """Raw values to [-1, 1], float32. Raises `DataError` for values outside the range."""
        low, high = float(raw.min()), float(raw.max())
        if low != low or high != high:
            raise DataError(f"{name} holds NaN, which lies in no range; leave those samples out")
        slack = 1e-6 * (self.hi - self.lo)
        if low < self.lo - slack or high > self.hi + slack:
            raise DataError(
                f"{name} has values from {low:.6g} to {high:.6g}, outside its declared range [{self.lo:g}, {self.hi:g}]; "
                f"declare the true range (field 'range') or rescale the data"
            )
        return (raw.float() - self.lo).mul_(2 / (self.hi - self.lo)).sub_(1)

    def to_raw(self, x: Tensor) -> Tensor:
        """[-1, 1] back to raw values (unclipped)."""
        return (x + 1) * ((self.hi - self.lo) / 2) + self.lo


class Source(Protocol):
    """An opened data set: `event`, what one sample is (its shape, or a `dc.Event`), `size: int | None` (None where samples
    are generated without end), `classes: Mapping[str, int]`, the conditions that are classes with their number.

    Where `Data.open` returns a torch Dataset with a length, it is read as one: items x, (x, label) or {"x": x, name: value}.
    """

    @property
    def event(self) -> Any: ...  # noqa: D102
    @property
    def size(self) -> int | None: ...  # noqa: D102
    @property
    def classes(self) -> Mapping[str, int]: ...  # noqa: D102

    def batch(self, ids: Tensor) -> tuple[State, Mapping[str, Tensor]]:
        """Samples by global number: raw values like `event`, with a batch axis, and conditions, name -> (B,) for classes and
        (B, ...) for others.

        Raw values alone will do where there are no conditions.
        """
        ...


@kind("data")
class Data(Base):
    """A data set. `range` is the range of raw values, or None where values are unbounded and used as they are."""

    def open(self) -> Source:
        """Load it. Raises `DataError` that says in one line what to run where it is absent."""
        raise NotImplementedError

    def outline(self) -> Source:
        """As `open`, for a run that only samples: a set that is long to read may read its samples when a batch is asked for."""
        return self.open()

    @property
    def value_range(self) -> Range | Mapping[str, Range] | None:
        """The declared range: the field `range` where the component has one. Of samples that are trees: part -> its range."""
        return getattr(self, "range", None)

    def to_model(self, raw: State) -> State:
        """Raw values in [-1, 1] where a range is declared."""
        return _ranged(self.value_range, lambda declared, leaf: declared.to_model(leaf, type(self).__name__), raw)

    def to_raw(self, x: State) -> State:
        """The inverse of `to_model`, unclipped."""
        return _ranged(self.value_range, lambda declared, leaf: declared.to_raw(leaf), x)

    def encode(self, raw: State) -> State:
        """Raw values as the network sees them: in [-1, 1] where a range is declared. A codec overrides this and `decode`."""
        return self.to_model(raw)

    def decode(self, x: State) -> State:
        """What the network makes, as raw values, clipped to the declared range."""
        return _ranged(self.value_range, lambda declared, leaf: declared.to_raw(leaf.clamp(-1, 1)), x)

    @property
    def seen_through(self) -> str:
        """What stands between the values and the network beside a range, in words for messages; empty where nothing does."""
        return "a codec" if type(self).encode is not Data.encode else ""

    def parts(self) -> Mapping[str, nn.Module]:
        """Modules that `encode` and `decode` use, by role: a codec. They are not trained; they are saved with the run's weights,
        and a loaded run has them from there. The pipeline puts them on its device; states they are given may be elsewhere.
        """
        return {}

    def texts(self, raw: State) -> list[str] | None:
        """Raw samples as text, one line each, for reports; None where they are not text."""
        return None

    def oracle(self) -> Any:
        """The law of the samples in closed form: a `diffcore.testing.Oracle`, with at least `log_prob`; None where there is none.

        What metrics compare with is this law and nothing else: fields of equal names may be of another.
        """
        return None

    @property
    def has_opacity(self) -> bool:
        """Whether the fourth channel of its images is their opacity, for pictures."""
        return False

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes of the condition 'label', for pictures; empty where there are none."""
        return ()


def _ranged(declared: Any, act: Callable[[Range, Tensor], Tensor], state: State) -> State:
    """`act` on every leaf that has a declared range."""
    if declared is None or isinstance(declared, Range):
        return state if declared is None else tree_map(lambda leaf: act(declared, leaf), state)
    return {name: _ranged(declared.get(name), act, part) for name, part in state.items()}


@kind("coupling")
class Coupling(Base):
    """How data and noise are paired in training. The default of every loss is independent noise.

    `consumes`: conditions of the data that are for the coupling and not for the network (noise that the data carries).
    """

    consumes: ClassVar[tuple[str, ...]] = ()

    def pair(self, x0: State, eps: State, draw: Draw, **cond: Any) -> State:
        """The noise of each row of x0. Data and conditions stay where they are; only noise moves (or is replaced).

        eps: independent noise, one row per sample. The result must have the distribution of eps when the data is averaged
        over. Says in its documentation what it does to conditions.
        """
        raise NotImplementedError
