"""EDM: time is the noise level."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

import diffcore as dc


@dc.component
class EDM(dc.AffineProcess):
    """alpha = 1, sigma = t, t in [0, sigma_max]: dx = sqrt(2 t) dw.

    Its own grid is `t_i = (sigma_max^(1/rho) + i/(N-1) (t_min^(1/rho) - sigma_max^(1/rho)))^rho`, i < N, then t_N = 0;
    a run that starts lower replaces sigma_max by its start. A network built from a spec is given log(t)/4 as its time.

    sigma' = 1 everywhere and sigma(0) = 0 exactly. lam = -log t.

    Raises `SpecError` unless 0 < t_min < sigma_max and rho > 0.
    """

    source: ClassVar[str] = "Karras et al. 2022, arXiv 2206.00364, table 1 and eq. 5"
    items: ClassVar[tuple[str, ...]] = ("D1",)

    sigma_max: float = dc.param(default=80.0, gt=0, le=1e6, doc="largest noise level, the time T of pure noise", unit="data")
    t_min: float = dc.param(default=0.002, gt=0, le=1e6, doc="smallest noise level a network sees", unit="data")
    rho: float = dc.param(default=7.0, gt=0, le=1000, doc="exponent of the default grid; larger puts more steps at low noise")

    def __attrs_post_init__(self) -> None:
        if not self.sigma_max > self.t_min:
            raise dc.SpecError(f"'sigma_max' of EDM must be > t_min = {self.t_min}; got {self.sigma_max}")

    @property
    def T(self) -> float:
        """`sigma_max`."""
        return self.sigma_max

    @property
    def min_time(self) -> float:
        """`t_min`."""
        return self.t_min

    def coeffs(self, t: Tensor) -> dc.Coeffs:
        """alpha, sigma and their derivatives at times t of any shape, in the dtype of t."""
        one = torch.ones_like(t)
        return dc.Coeffs(t, one, t, torch.zeros_like(t), one)

    def t_of_lam(self, lam: Tensor) -> Tensor:
        """exp(-lam); float64, at most sigma_max."""
        return torch.exp(-torch.as_tensor(lam, dtype=torch.float64)).clamp(max=self.sigma_max)

    def embed_time(self, t: Tensor) -> Tensor:
        """log(t) / 4, about -1.6 to 1.1; times below `t_min` are embedded as `t_min`, so that t = 0 stays finite."""
        return t.clamp(min=self.t_min).log() / 4

    def default_grid(self, steps: int, start: float) -> Tensor:
        """The grid of Karras et al. from `start` down to `t_min`, then 0; float64 [steps + 1]."""
        grid = torch.zeros(steps + 1, dtype=torch.float64)
        ends = start ** (1 / self.rho), self.t_min ** (1 / self.rho)
        grid[:-1] = torch.linspace(*ends, steps, dtype=torch.float64) ** self.rho
        grid[0] = start  # the power of the root may miss it by a rounding
        return grid
