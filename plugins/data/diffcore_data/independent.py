"""The coupling that every diffusion model has by default."""

from __future__ import annotations

from typing import Any, ClassVar

import diffcore as dc


@dc.component
class Independent(dc.Coupling):
    """Data and noise are paired as they were drawn, hence independent. Conditions stay with their data."""

    source: ClassVar[str] = "Lipman et al. 2023, arXiv 2210.02747"
    items: ClassVar[tuple[str, ...]] = ("5.21",)

    def pair(self, x0: dc.State, eps: dc.State, draw: dc.Draw, **cond: Any) -> dc.State:
        """The noise unchanged."""
        return eps
