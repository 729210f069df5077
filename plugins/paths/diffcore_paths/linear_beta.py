"""The linear noise rate beta(t) and its integral, shared by VP and sub-VP."""

from __future__ import annotations

from torch import Tensor

import diffcore as dc


@dc.component
class LinearBeta(dc.AffineProcess):
    """beta(t) = beta_min + (beta_max - beta_min) t and B(t) = int_0^t beta, for t in [0, 1]."""

    beta_min: float = dc.param(default=0.1, gt=0, le=1000, doc="noise rate at t = 0", unit="1/time")
    beta_max: float = dc.param(default=20.0, gt=0, le=1000, doc="noise rate at t = 1", unit="1/time")
    t_min: float = dc.param(default=1e-3, gt=0, lt=1, doc="smallest time a network sees; 1e-5 for likelihoods")

    @property
    def min_time(self) -> float:
        """`t_min`."""
        return self.t_min

    def rate(self, t: Tensor) -> Tensor:
        """beta(t), shape of t."""
        return self.beta_min + (self.beta_max - self.beta_min) * t

    def integral(self, t: Tensor) -> Tensor:
        """B(t) = beta_min t + (beta_max - beta_min) t^2 / 2, shape of t."""
        return (self.beta_min + 0.5 * (self.beta_max - self.beta_min) * t) * t

    def time_at(self, integral: Tensor) -> Tensor:
        """The time in [0, 1] at which B(t) has this value; values beyond B(1) give 1."""
        integral = integral.clamp(max=0.5 * (self.beta_min + self.beta_max))
        # the root of the quadratic that does not cancel where B is small
        root = (self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * integral).sqrt()
        return 2 * integral / (self.beta_min + root)
