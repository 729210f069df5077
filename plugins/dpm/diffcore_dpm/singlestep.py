"""Singlestep solvers: one or two evaluations inside the step, at levels between lam_t and lam_s."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

import diffcore as dc
from diffcore_dpm.span import Prediction, Reading, divisible, level_at, position, span, value, weigh


class Inner(NamedTuple):
    """A step with inner evaluations: its weights of x_t and x*(x_t), the entries of its stages, and where it has them."""

    keep: Tensor
    gain: Tensor
    entries: dict[str, Any]
    fine: Tensor


def between(process: dc.Process, t: dc.Coeffs, s: dc.Coeffs, share: float, fine: Tensor, reading: Reading = "x0") -> dc.Coeffs:
    """The coefficients at a share of the way from t to s, in lam or the position of the reading; those of t where not `fine`."""
    first, last = (torch.where(fine, position(c, reading), 0.25) for c in (t, s))
    lam = level_at(first + share * (last - first), reading)
    return process.coeffs(torch.where(fine, process.t_of_lam(lam), t.t))


def midpoint(process: dc.Process, t: dc.Coeffs, s: dc.Coeffs, prediction: Reading, fine: Tensor, share: float = 0.5) -> Inner:
    """One evaluation f_u at a share r of the step: x_s takes (1 - 1/2r) f_t + (1/2r) f_u for the mean of f."""
    u, over = between(process, t, s, share, fine, prediction), span(t, s, prediction)
    to_u, ones = span(t, u, prediction), torch.ones_like(over.keep)
    w = weigh(over, [share * ones], [fine], [ones, ones / 2])
    return Inner(w.keep, w.gain, {"u": u, "u_keep": to_u.keep, "u_gain": to_u.gain, "w_u": w.tail[0]}, fine)


def thirds(process: dc.Process, t: dc.Coeffs, s: dc.Coeffs, prediction: Reading, fine: Tensor) -> Inner:
    """Evaluations f_u at 1/3 and f_v at 2/3: the way to v takes the line through f_t and f_u, the step that through f_t, f_v."""
    u, v = (between(process, t, s, share, fine, prediction) for share in (1 / 3, 2 / 3))
    to_u, to_v, over = (span(t, end, prediction) for end in (u, v, s))
    ones = torch.ones_like(over.keep)
    w_v, w = (weigh(o, [n * ones], [fine], o.moments(2)) for o, n in ((to_v, 1 / 2), (over, 2 / 3)))
    entries = {"u": u, "u_keep": to_u.keep, "u_gain": to_u.gain, "v": v, "v_keep": w_v.keep, "v_gain": w_v.gain}
    return Inner(w.keep, w.gain, {**entries, "v_u": w_v.tail[0], "w_v": w.tail[0]}, fine)


def stages(field: dc.Field, p: dc.Posterior, row: Any, reads: Reading) -> tuple[Any, dc.State]:
    """The last inner evaluation of a step and its weight: f_u of `midpoint`, f_v of `thirds`."""
    f = value(field.posterior(p.blend(row.u_keep, row.u_gain), row.u), reads)
    if row.stages == 1:
        return row.w_u, f
    y = p.blend(row.v_keep, row.v_gain, (row.v_u, f))
    return row.w_v, value(field.posterior(y, row.v), reads)


def counts(fine: Tensor, stages: int) -> tuple[int, ...]:
    """Per step, the number of inner evaluations: `stages` where any entry has them, else 0."""
    return tuple(stages * int(v) for v in fine.reshape(len(fine), -1).any(1).tolist())


def asked_within(t: dc.Coeffs, inner: Inner) -> Any:
    """When the field is evaluated: at t, and at the inner times where the step has an inside."""
    inside = dc.any_of(inner.fine)
    return dc.asked(t, *((inner.entries[name], inside) for name in ("u", "v") if name in inner.entries))


@dc.component
class Singlestep(dc.Stepper):
    """A solver without history: one evaluation at t and `inner_count` inside the step; first order where there is no inside."""

    requires: ClassVar[frozenset[str]] = frozenset({"affine"})
    both_ways: ClassVar[bool] = True
    reads: ClassVar[Prediction] = "eps"
    inner_count: ClassVar[int] = 1

    def inner(self, process: dc.Process, t: dc.Coeffs, s: dc.Coeffs, fine: Tensor) -> Inner:
        """The weights of all steps."""
        raise NotImplementedError

    def plan(self, process: dc.Process, grid: Tensor) -> dc.Plan:
        """`keep`, `gain`: the weights of x_t and x*(x_t); `u`, `v`: inner times, with their weights; `stages`: how many."""
        t, s = dc.centred_pairs(process, grid)
        w = self.inner(process, t, s, divisible(t, s))
        inside = counts(w.fine, self.inner_count)
        return dc.Plan(t=t, keep=w.keep, gain=w.gain, stages=inside, **w.entries, asks=asked_within(t, w))

    def step(self, field: dc.Field, x: dc.State, row: Any, carry: Any, z: dc.State) -> dc.Moved:
        """One step."""
        p = field.posterior(x, row.t)
        more = [stages(field, p, row, self.reads)] if row.stages else []
        return dc.Moved(p.blend(row.keep, row.gain, *more, out=row.out))
