"""Pairs that come with the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

import diffcore as dc


@dc.component
class Paired(dc.Coupling):
    """The noise of each sample is the condition `key` that the data carries: eps_i = cond[key]_i.

    Used by losses that do not hand this condition on to the network (`consumes` names it), such as 'flow-matching'. All other
    conditions stay where they are. The marginal of the noise is that of the stored one: the data has to see to it that it is
    the process's prior.

    Raises `DataError` where the data has no such condition, or one of another shape than the noise.
    """

    source: ClassVar[str] = "Liu et al. 2022, arXiv 2209.03003, section 2.1"
    items: ClassVar[tuple[str, ...]] = ("5.16",)
    expected_failures: ClassVar[Mapping[str, str]] = {"keeps_marginals": "the data carries the noise, and the check carries none"}

    key: str = dc.param(default="noise", doc="name of the condition that holds the noise")

    @property
    def consumes(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The condition that is not for the network."""
        return (self.key,)

    def pair(self, x0: dc.State, eps: dc.State, draw: dc.Draw, **cond: Any) -> Tensor:
        """cond[key], of the shape, dtype and device of the independent noise eps (B, ...)."""
        if self.key not in cond:
            known = ", ".join(cond) or "none"
            raise dc.DataError(f"coupling 'paired' needs the condition '{self.key}'; the data has: {known}; use data 'reflow'")
        noise = torch.as_tensor(cond[self.key])
        if noise.shape != eps.shape:
            raise dc.DataError(f"the condition '{self.key}' has shape {tuple(noise.shape)}, the noise {tuple(eps.shape)}")
        return noise.to(eps)
