"""A trained denoiser under another process, exactly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

import diffcore as dc
from diffcore_unified.transformed import Transformed, scale

INVARIANT = frozenset({"x0", "eps", "edm"})
"""Targets that a change of schedule leaves as they are: at equal lam, under any scale of the state."""


class Moved:
    """The denoiser `inner`, trained or guided under A = `process.of`, as a denoiser under `process`.

    At time t of B it asks `inner` for x / c(t) at A's tau(t). The answer is the posterior of the same x_0. What `inner`
    gives stays in its own target, whose row (p, q) is converted from A's coefficients to B's (6.11: the velocity becomes
    (c'/c) x + c tau' v_A), so no other singularity enters than those of the target itself.
    """

    def __init__(self, inner: Any, process: Transformed) -> None:
        self.inner, self.process, self.base = inner, process, self
        self.null: Mapping[str, Any] = inner.null

    def __call__(self, x: dc.State, t: Any, **cond: Any) -> dc.Posterior:
        """The posterior of x_0 given x_t = x. t: `Coeffs`, a number, or a tensor that broadcasts from the left against x."""
        at, twin, lowered = self._lowered(x, t)
        return _reread(self.inner(lowered, twin, **cond), x, at)

    def many(self, x: dc.State, t: Any, conds: Sequence[Mapping[str, Any]]) -> list[dc.Posterior]:
        """The posteriors under several conditions, as `inner` computes them together."""
        at, twin, lowered = self._lowered(x, t)
        return [_reread(known, x, at) for known in self.inner.many(lowered, twin, conds)]

    def _lowered(self, x: dc.State, t: Any) -> tuple[dc.Coeffs, dc.Coeffs, dc.State]:
        at = t if isinstance(t, dc.Coeffs) else point(self.process, t, x)
        twin = self.process.twin(at)
        return at, twin, dc.lincomb((1 / scale(at, twin), x))


def point(process: Transformed, t: Any, x: dc.State) -> dc.Coeffs:
    """The coefficients at t: numbers for a number, else tensors in the precision of x."""
    if isinstance(t, Tensor) and t.ndim > 0:
        return process.coeffs(t.double()).cast(dc.leaves(x)[0].dtype)
    return process.coeffs(torch.as_tensor(t, dtype=torch.float64)).map(Tensor.item)


def _reread(known: dc.Posterior, x: dc.State, at: dc.Coeffs) -> dc.Posterior:
    """What is known under A, in the same target under B."""
    name, sigma_data = known.name, known.sigma_data
    if name in INVARIANT:
        return dc.Posterior(x, known.value, name, at, sigma_data)
    a, b = dc.convert(known.at, dc.row(name, known.at, sigma_data), dc.row(name, at, sigma_data))
    return dc.Posterior(x, dc.lincomb((a, known.x), (b, known.value)), name, at, sigma_data)


def transform(denoiser: Any, process: dc.Process) -> Moved:
    """The denoiser, trained under its own process, as one under another: `field = dc.Field(d)` samples with it.

    denoiser: a `Denoiser`, or one wrapped by guidance, with any prediction. The process of the result is `process`, its
    ends moved to the noise levels the denoiser knows (see `Transformed`). Exact: every expectation is that of `denoiser`.

    Raises `SpecError` where one of the two processes is not affine.
    """
    return Moved(denoiser, Transformed(of=denoiser.process, to=process))
