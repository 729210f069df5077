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
class PredictorCorrector(dc.Stepper):
    """A step t -> s of `predictor`, then `corrections` Langevin steps that leave p_s as it is, to first order in eta:

        x <- x + eta score(x, s) + sqrt(2 eta) z,    eta = 2 (snr |z| / |score|)^2,    score = -eps* / sigma_s,

    so that snr is the ratio of the two moves, |eta score| = snr |sqrt(2 eta) z|.

    size = "planned": |z|^2 = D and |score|^2 = D / sigma_s^2, their values at pure noise, so eta = 2 (snr sigma_s)^2, and p_s is
    kept to O(eta) for any D. size = "measured": the norms are those of each sample (the publication averages them over the
    batch, which would make a sample depend on its batch). The step size then depends on x and z, and p_s is kept only where
    the norms hardly vary, that is for many entries: not for points in the plane.

    The publication multiplies eta by (alpha_t / alpha_s)^2 for VP, 1 - O(1 / steps) at its 1000 steps; that is left out.
    No correction where sigma_s = 0. Evaluations a step: the predictor's + corrections. The predictor's own `steps` are not used.

    Raises `SpecError` for a predictor with a grid or a loop of its own, `IncompatibleError` where it does not fit the process.
    """

    source: ClassVar[str] = "Song et al. 2021, arXiv 2011.13456, algorithms 1, 4 and 5"
    items: ClassVar[tuple[str, ...]] = ("4.21", "R11")
    requires: ClassVar[frozenset[str]] = frozenset({"affine"})
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = ({"corrections": 2},)

    predictor: dc.Stepper = dc.param(factory=ReverseDiffusion, doc="solver that goes from one noise level to the next")
    corrections: int = dc.param(default=1, ge=0, le=1000, doc="Langevin steps at each new level")
    snr: float = dc.param(default=0.16, gt=0, lt=1, doc="signal-to-noise ratio r of a correction")
    size: Literal["measured", "planned"] = dc.param(default="planned", doc="norms of pure noise, or those of each sample")

    def __attrs_post_init__(self) -> None:
        """Refuse a predictor that cannot be run step by step on this solver's grid."""
        dc.check_within(self.predictor, "predictor-corrector")

    def plan(self, process: dc.Process, grid: Tensor) -> dc.Plan:
        """The predictor's entries; `level`, `live`, `pull`, `push`: where corrections happen and the weights of eps* and z."""
        self.predictor.check_process(process)
        inner, (t, s) = self.predictor.plan(process, grid), process.pairs(grid)
        live = (s.sigma > 0) & (s.t != t.t) if self.corrections else torch.zeros_like(s.t, dtype=torch.bool)
        sigma = torch.where(live, s.sigma, 0.0)
        on = tuple(int(v) for v in live.reshape(len(live), -1).any(1).tolist())
        push = 2 * self.snr * sigma
        own = {
            "predictor_noise": inner.noise,
            "corrected": on,
            "level": s._replace(sigma=torch.where(live, s.sigma, 1.0)),
            "live": live.double(),
            "pull": -2 * self.snr**2 * sigma,
            "push": push,
        }
        entries = {key: value for key, value in inner.entries.items() if key not in ("noise", "out")}
        cost = tuple(a + self.corrections * b for a, b in zip(inner.evaluations, on, strict=True))
        return dc.Plan(**entries, **own, noise=inner.noise + push, evaluations=cost)

    def init(self, x: dc.State) -> Any:
        """The predictor's."""
        return self.predictor.init(x)

    def draws(self, process: dc.Process, x: dc.State, draw: dc.Draw) -> dc.State:
        """The predictor's noise as it would be alone, then one of each correction."""
        fresh = [self.predictor.draws(process, x, draw)]
        return (*fresh, *(process.noise.like(x, draw.fold(k + 1)) for k in range(self.corrections)))

    def step(self, field: dc.Field, x: dc.State, row: Any, carry: Any, z: dc.State) -> dc.Moved:
        """Predict, then correct."""
        fresh, *more = z or (None,)
        moved = self.predictor.step(field, x, row._replace(noise=row.predictor_noise, out=None), carry, fresh)
        for noise in more if row.corrected else ():
            eps = field.posterior(moved.x, row.level).eps
            moved = moved._replace(x=self._corrected(moved.x, eps, noise, row))
        return moved

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
