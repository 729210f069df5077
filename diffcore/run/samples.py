"""Samples, with their conditions and cost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
from torch import Tensor

from diffcore.declare.errors import counted
from diffcore.numerics.tree import State, batch_size, describe
from diffcore.run import marks
from diffcore.run.report import exports, notebook

if TYPE_CHECKING:
    from diffcore.run.pipeline import Pipeline


@attrs.frozen(repr=False)
class Samples:
    """Samples as the network makes them, with their conditions and cost. `raw()` is what they mean: in the range of the data.

    steps: those that the solver took. logw: log-weight of each sample, logp: log-probability of its steps, [n]; None where the
    solver has none. group: how many consecutive ones belong together, with weights relative to each other.
    """

    x: State
    cond: Mapping[str, Tensor]
    nfe: float
    calls: int
    seconds: float
    pipeline: Pipeline
    steps: int = 0
    logw: Tensor | None = None
    logp: Tensor | None = None
    group: int = 1

    @property
    def numbers(self) -> dict[str, State]:
        """What there is one of for each sample: x, and logw and logp where the solver has them."""
        found = {"x": self.x, "logw": self.logw, "logp": self.logp}
        return {name: value for name, value in found.items() if value is not None}

    def __len__(self) -> int:
        """How many there are."""
        return batch_size(self.x)

    def __repr__(self) -> str:
        """In one line, without their numbers."""
        under = f", conditions {', '.join(self.cond)}" if self.cond else ""
        cost = f"{counted(self.steps, 'step')}, {counted(self.calls, 'call')}, {self.seconds:.3g} s"
        return f"Samples({describe(self.x)}{under}, {cost})"

    def raw(self) -> State:
        """The samples as data: decoded, in the data's own range, clipped to it."""
        return self.pipeline.spec.data.decode(self.x)

    def save(self, path: str | Path) -> Path:
        """Write them, in the data's range, to a .safetensors, .npz, .png, .gif, .txt or .csv file, or to a folder: see
        `diffcore.run.report.exports`. Raises `SpecError` where a file is there that diffcore has not made."""
        target = exports.target(path)
        if not exports.is_folder(path):
            marks.refuse_foreign(target)
        return exports.write([self], target, len(self)).path

    def show(self) -> None:
        """Show them: in a notebook beneath the cell, else in the system's viewer of pictures, or as text."""
        notebook.show(self)

    def _repr_html_(self) -> str:
        return notebook.html(self)
