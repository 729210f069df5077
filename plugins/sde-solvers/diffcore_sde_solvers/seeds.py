"""SEEDS: exponential integrators of the reverse SDE in the noise prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor

import diffcore as dc
from diffcore_sde_solvers.path import Path
from diffcore_sde_solvers.span import at_lam, linear

NODES: Mapping[int, tuple[float, ...]] = {1: (), 2: (1 / 2,), 3: (1 / 3, 2 / 3)}
"""Where the stages are, as shares of the step in lam."""


@dc.component
class SEEDS(dc.Stepper):
    """With rho = sigma / alpha and e = E[eps | x], the reverse SDE of noise rate eta is d(x / alpha) = (1 + eta) e drho + noise
    of variance eta (rho_t^2 - rho_u^2). A step from t to u with e replaced by the average E of e under the weight drho is

        x_u = (alpha_u / alpha_t) x_t + (1 + eta) (sigma_u - alpha_u rho_t) E + alpha_u sum_j sqrt(eta (rho_j^2 - rho_j+1^2)) z_j,

    and the stages, at lam_t + r h, share the noises z_j of the parts they cross, so they lie on one Brownian path.

        stages = 1: E = e_t
        stages = 2: r = 1/2, E = e_1
        stages = 3: r = 1/3, 2/3, E = e_t + 2 mu(2 h / 3) (e_1 - e_t) for stage 2, E = e_t + (3/2) mu(h) (e_2 - e_t) for x_s

    with mu(z) = 1/z - 1/(e^z - 1), the mean of v on 0..1 under e^(-z v). Weak order 1, 2, 2. eta = 0 is DPM-Solver-1, -2, -3 of
    order 1, 2, 3. Noise prediction magnifies a long step: use it where h < 1. From pure noise and to clean data the step is
    the one with x* frozen and one evaluation.

    Raises `IncompatibleError` for a process that shifts its mean.
    """

    source: ClassVar[str] = "Gonzalez et al. 2023, arXiv 2305.14267, algorithms SEEDS-1, -2, -3"
    requires: ClassVar[frozenset[str]] = frozenset({"affine"})
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"stages": 3},
        {"eta": 0.0},
        {"eta": 0.0, "stages": 3},
        {"eta": 0.5},
    )

    stages: int = dc.param(default=2, ge=1, le=3, doc="evaluations a step")
    eta: float = dc.param(default=1.0, ge=0, le=10, doc="noise rate: 0 is the ODE, 1 the reverse SDE")

    @property
    def order(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Of the deterministic method, eta = 0."""
        return self.stages

    @property
    def clock(self) -> float:
        """The noise is white in (alpha / sigma)^-2."""
        return -1.0

    def plan(self, process: dc.Process, grid: Tensor) -> dc.Plan:
        """For stage j: `u<j>`, `keep<j>`, `gain<j>`, `e<j>_<i>`, `z<j>_<k>`; the same without a number for x_s."""
        t, s = dc.centred_pairs(process, grid)
        fine = ~t.pure_noise & (s.sigma > 0) & (s.t != t.t)
        h = -dc.Span.between(t, s).damping.log()
        points = [at_lam(process, t.lam + r * h, fine, t) for r in NODES[self.stages]]
        nodes, entries = [t, *points, s], dict[str, Any]()
        for j, u in enumerate(points, 1):
            share = _shares(j, self.stages, h)
            entries |= {f"u{j}": u, **self._reach(nodes[: j + 1], share, fine, f"{j}")}
        last = self._reach(nodes, _shares(self.stages, self.stages, h), fine, "")
        over, final = linear(t, s, self.eta), f"z_{self.stages - 1}"
        last["keep"], last["gain"] = torch.where(fine, last["keep"], over.keep), torch.where(fine, last["gain"], over.gain)
        last[final] = torch.where(fine, last[final], over.noise)
        total = sum((last[f"z_{k}"] ** 2 for k in range(self.stages)), torch.zeros_like(h)) ** 0.5
        inner = dc.any_of(fine)
        asks = dc.asked(t, *((u, inner) for u in points))
        return dc.Plan(t=t, **entries, **last, inner=inner, noise=total if self.eta else None, asks=asks)

    def _reach(self, nodes: Sequence[dc.Coeffs], share: Sequence[Tensor], fine: Tensor, name: str) -> dict[str, Tensor]:
        """The weights of x_t, x*_t, the later e_i and the noises in the state at the last of the nodes."""
        t, u = nodes[0], nodes[-1]
        full = (1 + self.eta) * (u.sigma - u.alpha * t.sigma / t.alpha)
        own = full * share[0] / t.sigma
        found = {f"keep{name}": u.alpha / t.alpha + own, f"gain{name}": -own * t.alpha}
        found |= {f"e{name}_{i}": full * w for i, w in enumerate(share) if i}
        parts = [((a.sigma / a.alpha) ** 2 - (b.sigma / b.alpha) ** 2).clamp_min(0.0) for a, b in pairwise(nodes)]
        found |= {f"z{name}_{k}": u.alpha * (self.eta * v) ** 0.5 for k, v in enumerate(parts)}
        return {key: torch.where(fine, v, 0.0) for key, v in found.items()}

    def draws(self, process: dc.Process, x: dc.State, draw: dc.Draw) -> dc.State:
        """One noise for each part of the step."""
        return tuple(process.noise.like(x, draw.fold(k)) for k in range(self.stages))

    def on_path(self, path: Path, lam: float, end: float) -> dc.State:
        """The noises of the parts on a Brownian path between two levels."""
        nodes = [lam, *(lam + r * (end - lam) for r in NODES[self.stages]), end]
        return tuple(path.increment(a, b)[0] for a, b in pairwise(nodes))

    def step(self, field: dc.Field, x: dc.State, row: Any, carry: Any, z: dc.State) -> dc.Moved:
        """The stages, then x_s."""
        known: dict[str, dc.State] = {}
        z = z or (None,) * self.stages
        p = field.posterior(x, row.t)
        for j in range(1, self.stages) if row.inner else ():
            known[f"_{j}"] = field.posterior(p.blend(*self._terms(row, f"{j}", j, known, z)), getattr(row, f"u{j}")).eps
        return dc.Moved(p.blend(*self._terms(row, "", self.stages, known, z), out=row.out))

    def _terms(self, row: Any, name: str, count: int, known: Mapping[str, dc.State], z: Sequence[dc.State]) -> tuple[Any, ...]:
        """The arguments of `blend` for one stage."""
        slopes = ((getattr(row, f"e{name}{key}"), e) for key, e in known.items())
        fresh = ((getattr(row, f"z{name}_{k}"), z[k]) for k in range(count))
        return getattr(row, f"keep{name}"), getattr(row, f"gain{name}"), *slopes, *fresh


def _shares(j: int, stages: int, h: Tensor) -> list[Tensor]:
    """How E of stage j (j = stages: of the step) is made of e_t, e_1, ...; they sum to 1."""
    one, zero = torch.ones_like(h), torch.zeros_like(h)
    if j == 1:
        return [one]
    if stages == 2:
        return [zero, one]
    slope = 2 * _mean(2 / 3 * h) if j == 2 else 1.5 * _mean(h)
    return [1 - slope, slope] if j == 2 else [1 - slope, zero, slope]


def _mean(z: Tensor) -> Tensor:
    """mu(z) = 1/z - 1/(e^z - 1), by its series where z is small."""
    near = z.abs() < 1e-2
    far = torch.where(near, 1.0, z)
    return torch.where(near, 0.5 - z / 12 + z**3 / 720 - z**5 / 30240, 1 / far - 1 / torch.expm1(far))
