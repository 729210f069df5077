"""What the samples cost."""

from __future__ import annotations

from typing import ClassVar

import diffcore as dc


@dc.component
class Cost(dc.Metric):
    """`nfe`: evaluations of the network for one sample (guidance that evaluates it twice counts twice). `calls`: calls of the
    guided network. `seconds` = wall time / samples, on the machine and at the batch size of the run.
    """

    source: ClassVar[str] = "counted and timed by the run"
    items: ClassVar[tuple[str, ...]] = ("9.24",)

    def measure(self, ev: dc.Evaluation) -> dict[str, dc.Measured]:
        """The three numbers."""
        n = len(ev.samples)
        values = {"nfe": ev.nfe, "calls": float(ev.calls), "seconds": ev.seconds / n}
        return {name: dc.Measured(value=value, n=n, better="lower") for name, value in values.items()}
