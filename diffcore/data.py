"""Data: where samples come from, in which range, and how they are ordered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from diffcore.arguments import shown, whole
from diffcore.component import Base, component, field
from diffcore.distributed import check_batch
from diffcore.errors import DataError, SpecError
from diffcore.noise import Draw, mix
from diffcore.tree import State

TINIEST = 1e-30
"""Least width of a range, so that one over it is a float32."""
NARROWEST = 1e-6
"""Least width of a range against its ends: float32 has about eight values in it."""


@component
class Range:
    """The range of raw values. The network sees [-1, 1]: x = 2 (raw - lo) / (hi - lo) - 1."""

    lo: float = field(doc="smallest raw value")
    hi: float = field(doc="largest raw value")

    def __attrs_post_init__(self) -> None:
        """Refuse an empty range, and one in which float32 tells no values apart: all samples would be one."""
        if not self.lo < self.hi:
            raise SpecError(f"a range needs lo < hi; got {self.lo:g} and {self.hi:g}")
        if self.hi - self.lo < max(NARROWEST * max(abs(self.lo), abs(self.hi)), TINIEST):
            raise SpecError(f"a range of {self.lo:.17g} to {self.hi:.17g} has hardly a value in float32; shift or scale the data")

    def to_model(self, raw: Tensor, name: str = "data") -> Tensor:
        """Raw values to [-1, 1], float32. Raises `DataError` for values outside the range."""
        low, high = float(raw.min()), float(raw.max())
        slack = 1e-6 * (self.hi - self.lo)
        if low < self.lo - slack or high > self.hi + slack or low != low or high != high:
            raise DataError(
                f"{name} has values from {low:.6g} to {high:.6g}, outside its declared range [{self.lo:g}, {self.hi:g}]; "
                f"declare the true range (field 'range') or rescale the data"
            )
        return (raw.float() - self.lo).mul_(2 / (self.hi - self.lo)).sub_(1)

    def to_raw(self, x: Tensor) -> Tensor:
        """[-1, 1] back to raw values (unclipped)."""
        return (x + 1) * ((self.hi - self.lo) / 2) + self.lo


class Source(Protocol):
    """An opened data set: `shape: tuple[int, ...]` of one sample, `size: int | None` (None where samples are generated without
    end), `classes: Mapping[str, int]`, the conditions that are classes with their number.

    Where `Data.open` returns a torch Dataset with a length, it is read as one: items x, (x, label) or {"x": x, name: value}.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def size(self) -> int | None: ...  # noqa: D102
    @property
    def classes(self) -> Mapping[str, int]: ...  # noqa: D102

    def batch(self, ids: Tensor) -> tuple[State, Mapping[str, Tensor]]:
        """Samples by global number: raw values (B, *shape), and conditions name -> (B,) for classes, (B, ...) for others.

        Raw values alone will do where there are no conditions.
        """
        ...


class Data(Base):
    """A data set. `range` is the range of raw values, or None where values are unbounded and used as they are."""

    kind: ClassVar[str] = "data"

    def open(self) -> Source:
        """Load it. Raises `DataError` that says in one line what to run where it is absent."""
        raise NotImplementedError

    def outline(self) -> Source:
        """As `open`, for a run that only samples: a set that is long to read may read its samples when a batch is asked for."""
        return self.open()

    @property
    def value_range(self) -> Range | None:
        """The declared range: the field `range` where the component has one."""
        return getattr(self, "range", None)

    def encode(self, raw: State) -> State:
        """Raw values as the network sees them: in [-1, 1] where a range is declared. A codec overrides this and `decode`."""
        declared = self.value_range
        return raw if declared is None else declared.to_model(raw, type(self).__name__)

    def decode(self, x: State) -> State:
        """What the network makes, as raw values, clipped to the declared range."""
        declared = self.value_range
        return x if declared is None else declared.to_raw(x.clamp(-1, 1))

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


class Coupling(Base):
    """How data and noise are paired in training. The default of every loss is independent noise.

    `consumes`: conditions of the data that are for the coupling and not for the network (noise that the data carries).
    """

    kind: ClassVar[str] = "coupling"
    consumes: ClassVar[tuple[str, ...]] = ()

    def pair(self, x0: State, eps: State, draw: Draw, **cond: Any) -> State:
        """The noise of each row of x0. Data and conditions stay where they are; only noise moves (or is replaced).

        eps: independent noise, one row per sample. The result must have the distribution of eps when the data is averaged
        over. Says in its documentation what it does to conditions.
        """
        raise NotImplementedError


class Loader:
    """Batches by step number: a pure function of (seed, step), so that resuming needs no state and ranks agree.

    A finite set is walked in a fresh random order each epoch, batches running across epoch ends; an infinite one is
    numbered. `rank` of `world` takes its contiguous share of every global batch.
    """

    def __init__(
        self, source: Source, encode: Callable[[State], State], batch: int, seed: int, rank: int = 0, world: int = 1
    ) -> None:
        from diffcore.sources import opened

        check_batch(whole("batch", batch, 1, 2**40), whole("world", world, 1))
        if not callable(encode):
            raise DataError(f"encode must be a function of raw samples, such as data.encode; got {shown(encode)}")
        rank = whole("rank", rank, 0, world - 1)
        self.source, self.encode, self.size, self.seed = opened(source), encode, batch, whole("seed", seed)
        share = batch // world
        self.rows = range(rank * share, (rank + 1) * share)
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)

    def ids(self, step: int) -> Tensor:
        """Global sample numbers of this rank's share of batch `step`."""
        first, last = step * self.size + self.rows.start, step * self.size + self.rows.stop
        size = self.source.size
        if size is None:
            return torch.arange(first, last)
        epochs = range(first // size, (last - 1) // size + 1)
        return torch.cat([self._order_of(e, size)[max(0, first - e * size) : last - e * size] for e in epochs])

    def _order_of(self, epoch: int, size: int) -> Tensor:
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(mix(self.seed, 0xDA7A, epoch) & 0x7FFFFFFF)
            self._epoch, self._order = epoch, torch.randperm(size, generator=generator)
        return self._order

    def __call__(self, step: int) -> tuple[State, dict[str, Tensor]]:
        """Batch `step` as the network sees it, and its conditions."""
        raw, cond = self.source.batch(self.ids(step))
        return self.encode(raw), dict(cond)
