"""The Langevin step, and the step of a solver made of such steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import diffcore as dc


def langevin(x: dc.State, eps: dc.State, z: dc.State, pull: Any, push: Any) -> dc.State:
    """x + eta s + sqrt(2 eta) z with s = -eps / sigma: pull = -eta / sigma, push = sqrt(2 eta)."""
    return dc.lincomb((1.0, x), (pull, eps), (push, z))


def level_plan(level: dc.Coeffs, eta: Tensor, keep: Tensor, s: dc.Coeffs, moving: Tensor, inner: int) -> dc.Plan:
    """`inner` Langevin steps of length eta at `level`, then x <- keep x, or alpha_s E[x_0|x] where it ends at sigma_s = 0.

    level: where sigma_t = 0 (entries at rest) nothing is divided by it, and nothing moves.
    """
    live = level.sigma > 0
    sigma, eta = torch.where(live, level.sigma, 1.0), torch.where(live, eta, 0.0)
    last = (s.sigma == 0) & moving & live
    ends, rescales = (tuple(int(v) for v in on.reshape(len(on), -1).any(1).tolist()) for on in (last, keep != 1))
    return dc.Plan(
        level=level._replace(sigma=sigma),
        pull=-eta / sigma,
        push=(2 * eta) ** 0.5,
        keep=torch.where(last, 0.0, keep),
        gain=torch.where(last, s.alpha, 0.0),
        ends=ends,
        rescales=rescales,
        noise=(2 * eta) ** 0.5,
        asks=dc.asked((level, inner), (level, ends)),
    )


def level_step(field: dc.Field, x: dc.State, row: Any, zs: tuple[dc.State, ...]) -> dc.State:
    """The step of such a plan, one Langevin step per noise."""
    for z in zs:
        x = langevin(x, field.posterior(x, row.level).eps, z, row.pull, row.push)
    if row.ends:
        return field.posterior(x, row.level).blend(row.keep, row.gain)
    return dc.lincomb((row.keep, x)) if row.rescales else x
