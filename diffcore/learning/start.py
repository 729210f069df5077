"""Starts: where a run of sampling begins."""

from __future__ import annotations

from typing import Any

from diffcore.declare.component import Base
from diffcore.declare.kinds import kind
from diffcore.numerics.draw import Draw
from diffcore.numerics.process import Process
from diffcore.numerics.tree import State


@kind("start")
class Start(Base):
    """Where a run of sampling begins: a state x_t and its time t, from which the solver goes down to 0.

    The prior at T; a given sample noised to some t, x_t = alpha_t y + sigma_t eps; an encoding of one; the other end of a bridge.
    """

    def begin(self, process: Process, event: Any, draw: Draw, **cond: Any) -> tuple[State, float]:
        """(x_t, t), one row for each id of `draw`, with 0 < t <= T. cond: what the samples are given, one row each.

        All randomness comes from `draw`. Raises `IncompatibleError` for a process that it cannot begin with.
        """
        raise NotImplementedError
