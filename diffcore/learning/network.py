"""Networks: a component that builds an `nn.Module` with the signature all of diffcore speaks."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from diffcore.declare.component import Base
from diffcore.declare.kinds import kind


@kind("network")
class Network(Base):
    """`build(shape, cond)` makes a module with `forward(x, t, s=None, **cond)`, of the shape of x unless `outputs` says another.

    x (B, *shape); t (B,) the time feature, O(1); s (B,) the second time of flow maps, for networks that have one;
    conditions by name, e.g. label (B,) int64, where index `classes` is the null token. The module's attribute `null_cond`
    maps each condition to its null value.
    """

    @property
    def takes_second_time(self) -> bool:
        """Whether the module accepts `s`."""
        return False

    def build(self, shape: tuple[int, ...], cond: Mapping[str, int], outputs: tuple[int, ...] | None = None) -> nn.Module:
        """The module for events of `shape` under conditions name -> number of classes.

        outputs: the shape of an output event where the process reads another than that of the state (a learned variance has
        twice the channels, tokens have one logit per value). Raises `SpecError` or `IncompatibleError` on shapes it has no
        form for.
        """
        raise NotImplementedError
