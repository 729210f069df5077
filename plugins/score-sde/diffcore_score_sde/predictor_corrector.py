"""Predictor-corrector sampling: a step of any solver, then Langevin steps at the new noise level."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

import diffcore as dc
from diffcore_score_sde.reverse_diffusion import ReverseDiffusion

TINY = 1e-20


@dc.component
class PredictorCorrector(dc.Wrapped):
    """A step t -> s of the predictor `inner`, then `corrections` Langevin steps that leave p_s as it is, to first order in eta:

        x <- x + eta score(x, s) + sqrt(2 eta) z,    eta = 2 (snr |z| / |score|)^2,    score = -eps* / sigma_s,

    so that snr is the ratio of the two moves, |eta score| = snr |sqrt(2 eta) z|.

    size = "planned": |z|^2 = D and |score|^2 = D / sigma_s^2, their values at pure noise, so eta = 2 (snr sigma_s)^2, and p_s is
    kept to O(eta) for any D. size = "measured": the norms are those of each sample (the publication averages them over the
    batch, which would make a sample depend on its batch). The step size then depends on x and z, and p_s is kept only where
    the norms hardly vary, that is for many entries: not for points in the plane.

    The publication multiplies eta by (alpha_t / alpha_s)^2 for VP, 1 - O(1 / steps) at its 1000 steps; that is left out.
    No correction where sigma_s = 0. Evaluations a step: the predictor's + corrections.

    Raises `SpecError` for a predictor with a grid, a number of steps or a loop of its own, `IncompatibleError` where it does not
    fit the process.
    """

    source: ClassVar[str] = "Song et al. 2021, arXiv 2011.13456, algorithms 1, 4 and 5"
    items: ClassVar[tuple[str, ...]] = ("4.21", "R11")
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = ({"corrections": 2},)

    inner: dc.Stepper = dc.param(factory=ReverseDiffusion, doc="solver that goes from one noise level to the next")
    corrections: int = dc.param(default=1, ge=0, le=1000, doc="Langevin steps at each new level")
    snr: float = dc.param(default=0.16, gt=0, lt=1, doc="signal-to-noise ratio r of a correction")
    size: Literal["measured", "planned"] = dc.param(default="planned", doc="norms of pure noise, or those of each sample")

    @property
    def requires(self) -> frozenset[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What the predictor requires, and a level of noise."""
        return self.inner.requires | {"affine"}

    @property
    def both_ways(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Only towards data."""
        return False

    def plan(self, process: dc.Process, grid: Tensor) -> dc.Plan:
        """`corrected`, `level`, `live`, `pull`, `push`: where corrections happen and the weights of eps* and z."""
        t, s = process.pairs(grid)
        live = (s.sigma > 0) & (s.t != t.t) if self.corrections else torch.zeros_like(s.t, dtype=torch.bool)
        sigma, on = torch.where(live, s.sigma, 0.0), dc.any_of(live)
        push = 2 * self.snr * sigma
        return dc.Plan.over(
            self.inner,
            process,
            grid,
            corrected=on,
            level=s._replace(sigma=torch.where(live, s.sigma, 1.0)),
            live=live.double(),
            pull=-2 * self.snr**2 * sigma,
            push=push,
            noise=push,
            asks=dc.asked((s, tuple(self.corrections * n for n in on))),
        )

    def fresh(self, process: dc.Process, x: dc.State, draw: dc.Draw) -> dc.State:
        """One noise of each correction."""
        return tuple(process.noise.like(x, draw.fold(k)) for k in range(self.corrections))

    def after(
        self, field: dc.Field, moved: dc.Moved, x: dc.State, row: Any, own: Any, z: dc.State, posterior: Any
    ) -> tuple[dc.Moved, Any]:
        """The corrections."""
        for noise in z if row.corrected else ():
            eps = field.posterior(moved.x, row.level).eps
            moved = moved._replace(x=self._corrected(moved.x, eps, noise, row))
        return moved, own

    def _corrected(self, x: dc.State, eps: dc.State, z: dc.State, row: Any) -> dc.State:
        """x - 2 (snr ratio)^2 sigma eps* + 2 snr ratio sigma z, with ratio = |z| / |eps*| per sample, or 1."""
        if self.size == "planned":
            return dc.lincomb((1, x), (row.pull, eps), (row.push, z))
        square = _square(z, row.live) / _square(eps, row.live).clamp_min(TINY)
        drift, shake = (dc.tree_map(lambda leaf, w=w: leaf * dc.expand(w, leaf), v) for v, w in ((eps, square), (z, square**0.5)))
        return dc.lincomb((1, x), (row.pull, drift), (row.push, shake))


def _square(x: dc.State, live: Any) -> Tensor:
    """The squared norm of the live entries of each sample, [B]."""
    return torch.stack([((leaf * dc.expand(live, leaf)) ** 2).flatten(1).sum(1) for leaf in dc.leaves(x)]).sum(0)
