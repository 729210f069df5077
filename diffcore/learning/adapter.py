"""Adapters: what is put around a loaded network, at sampling or training."""

from __future__ import annotations

from typing import Any

from torch import nn

from diffcore.declare.component import Base
from diffcore.declare.kinds import kind


@kind("adapter")
class Adapter(Base):
    """Changes a network and not what it means: net -> net' with the same `forward(x, t, s=None, **cond)`.

    A cache of features, rounded weights, a low-rank change W + B A of its layers. The weights of the run stay what they are.
    """

    def wrap(self, net: nn.Module, event: Any) -> nn.Module:
        """The changed network for samples of an event; `net` itself is left as it is.

        A network that keeps something from call to call has a method `fresh()` that empties it, called where a run begins.
        Raises `IncompatibleError` for a network that has not what is to be changed.
        """
        raise NotImplementedError
