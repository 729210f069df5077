"""One explicit Runge-Kutta step, whatever its weights: a state per stage, and a slope read from the posterior at each."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

import diffcore as dc
from diffcore_edm_solvers.variable import Variable, between, divisible, position, refuse


class Weights(NamedTuple):
    """keep x_t + sum_j slopes_j k_j."""

    keep: Tensor
    slopes: list[Tensor]


@dc.component
class Staged(dc.Stepper):
    """Stage i > 1 is y_i = keep_i x_t + sum_j w_ij k_j, the step the same with weights of its own; k_i is read from y_i.

    Where a step has no inside (see `divisible`) it freezes x* instead: one evaluation, exact where x* is constant.
    """

    requires: ClassVar[frozenset[str]] = frozenset({"affine"})
    both_ways: ClassVar[bool] = True

    def shares(self) -> tuple[float, ...]:
        """c_1 = 0, c_2, ...: where in the step the slopes are read."""
        raise NotImplementedError

    def spaced(self) -> Variable:
        """The variable that the shares divide."""
        raise NotImplementedError

    def reads(self) -> str:
        """What k is."""
        raise NotImplementedError

    def weights(self, nodes: list[dc.Coeffs], end: dc.Coeffs, step: Tensor, stage: int) -> Weights:
        """Of the state at `end`: stage `stage` (0 is x_t) of a step of this length; after the last, the step."""
        raise NotImplementedError

    def plan(self, process: dc.Process, grid: Tensor) -> dc.Plan:
        """The rows of all steps."""
        t, s = process.pairs(grid)
        return self.rows(process, t, s)

    def rows(self, process: dc.Process, t: dc.Coeffs, s: dc.Coeffs, **more: Any) -> dc.Plan:
        """`at<i>`, `keep<i>`, `w<i><j>`: stage i; `keep`, `gain`, `w<j>`: the weights of x_t, x* and k_j; `whole`: has stages."""
        refuse(process, t, rising_from_data=bool(((t.sigma == 0) & (s.t != t.t)).any()))
        shares = self.shares()
        fine = divisible(self.spaced(), t, s, closed=shares[-1] == 1)
        *nodes, end = [between(process, self.spaced(), t, s, c, fine).readable() for c in (*shares, 1)]
        step = torch.where(fine, position(self.spaced(), s) - position(self.spaced(), t), 0.0)
        entries: dict[str, Any] = {}
        for i in range(1, len(shares)):
            w = self.weights(nodes, nodes[i], step, i)
            entries |= {f"at{i}": nodes[i], f"keep{i}": torch.where(fine, w.keep, 1.0), **_named(f"w{i}", w, fine)}
        w, (keep, gain) = self.weights(nodes, end, step, len(shares)), process.span(t, s)[2:4]
        entries |= {"keep": torch.where(fine, w.keep, keep), "gain": torch.where(fine, 0.0, gain), **_named("w", w, fine)}
        whole = dc.any_of(fine)
        asks = dc.asked(t, *((u, whole) for u in nodes[1:]))
        return dc.Plan(t=t.readable(), whole=whole, **entries, **more, asks=asks)

    def step(self, field: dc.Field, x: dc.State, row: Any, carry: Any, z: dc.State) -> dc.Moved:
        """All stages, then the step."""
        p, name = field.posterior(x, row.t), self.reads()
        if not row.whole:
            return dc.Moved(p.blend(row.keep, row.gain, out=row.out))
        slopes = [p.read(name)]
        for i in range(1, len(self.shares())):
            more = [(getattr(row, f"w{i}{j}"), k) for j, k in enumerate(slopes)]
            y = dc.lincomb((getattr(row, f"keep{i}"), x), *more)
            slopes.append(field.posterior(y, getattr(row, f"at{i}")).read(name))
        last = [(getattr(row, f"w{j}"), k) for j, k in enumerate(slopes)]
        return dc.Moved(p.blend(row.keep, row.gain, *last, out=row.out))


def _named(prefix: str, w: Weights, fine: Tensor) -> dict[str, Tensor]:
    return {f"{prefix}{j}": torch.where(fine, v, 0.0) for j, v in enumerate(w.slopes)}
