"""Networks: a component that builds an `nn.Module` with the signature all of diffcore speaks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from diffcore.declare.component import Base
from diffcore.declare.kinds import kind
from diffcore.numerics.event import Event


@kind("network")
class Network(Base):
    """`build(event, cond)` makes a module with `forward(x, t, s=None, **cond)`, of the shape of x unless `outputs` says another.

    x (B, *shape), or a tree of such; t (B,) the time feature, O(1); s (B,) the second time of flow maps, for networks that have
    one; conditions by name, e.g. label (B,) int64, where index `classes` is the null token. The module's attribute `null_cond`
    maps each condition to its null value.
    """

    @property
    def takes_second_time(self) -> bool:
        """Whether the module accepts `s`."""
        return False

    def shapes(self, event: Any, outputs: Any = None) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The shapes of the tensor that goes in and of the one that comes out, for networks of one tensor.

        Raises `IncompatibleError` where a sample or an output is a tree of several.
        """
        into = Event.of(event).leaf(f"network {type(self).__name__}")
        return into.shape, (into if outputs is None else Event.of(outputs).leaf(f"network {type(self).__name__}")).shape

    def build(self, event: Any, cond: Mapping[str, int], outputs: Any = None) -> nn.Module:
        """The module for samples of an event under conditions name -> number of classes.

        event: a `dc.Event`, or what `dc.Event.of` reads as one; networks of one tensor have `shapes` of it.
        outputs: the event that the network returns where the process reads another than that of the state (a learned variance
        has twice the channels, tokens have one logit per value). Raises `SpecError` or `IncompatibleError` on events it has no
        form for.
        """
        raise NotImplementedError
