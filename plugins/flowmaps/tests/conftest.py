"""Networks that are exact flow maps in closed form, on Gaussian data and on single points."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import diffcore as dc
from diffcore.testing import REFERENCES, Gaussian, Oracle


@dc.component
class EarlyStop(dc.AffineProcess):
    """A reference process on the times from 0.02 T to 0.98 T, where no coefficient is singular."""

    inner: dc.Process = dc.param(factory=lambda: REFERENCES[1])

    @property
    def T(self) -> float:
        return 0.98 * self.inner.T

    @property
    def min_time(self) -> float:
        return 0.02 * self.inner.T

    def coeffs(self, t: Tensor) -> dc.Coeffs:
        return self.inner.coeffs(t)


class ExactMap:
    """h(x, t, s) = (Psi_{t->s}(x) - x) / (s - t) of data with a closed-form flow; the velocity at s = t.

    With `raw` it undoes the input scaling and time embedding of a preconditioned denoiser, as a network would learn to.
    """

    def __init__(self, oracle: Oracle, process: dc.Process, raw: float | None = None, **null: int) -> None:
        self.oracle, self.process, self.raw, self.null_cond = oracle, process, raw, null

    def __call__(self, x: Tensor, t: Tensor, s: Tensor | None = None, label: Tensor | None = None) -> Tensor:
        s = t if s is None else s
        if self.raw is not None:
            t, s = t * self.process.T, s * self.process.T
            at = self.process.coeffs(t)
            x = x * dc.expand((at.alpha**2 * self.raw**2 + at.sigma**2) ** 0.5, x)
        moved = self.moved(x, t, s, label)
        gap = dc.expand(s - t, x)
        return torch.where(gap == 0, self.velocity(x, t, label), (moved - x) / torch.where(gap == 0, 1.0, gap))

    def moved(self, x, t, s, label):
        return self.oracle.flow(self.process, x, t, s)

    def velocity(self, x, t, label):
        return self.oracle.velocity(x, self.process.coeffs(t))


class Points(ExactMap):
    """All data of class k at one point m_k: x_s = alpha_s m + (sigma_s / sigma_t) (x - alpha_t m); null: any point."""

    def __init__(self, process: dc.Process, points: Tensor, raw: float | None = None) -> None:
        super().__init__(Gaussian(), process, raw, label=len(points) - 1)
        self.points = points

    def moved(self, x, t, s, label):
        m, at, end = self.points[label], self.process.coeffs(t), self.process.coeffs(s)
        kept = dc.expand(end.sigma / at.sigma, x)
        return dc.expand(end.alpha, x) * m + kept * (x - dc.expand(at.alpha, x) * m)

    def velocity(self, x, t, label):
        m, at = self.points[label], self.process.coeffs(t)
        eps = (x - dc.expand(at.alpha, x) * m) / dc.expand(at.sigma, x)
        return dc.expand(at.dalpha, x) * m + dc.expand(at.dsigma, x) * eps


@pytest.fixture(params=REFERENCES, ids=["vp", "flow", "ve"])
def process(request: pytest.FixtureRequest) -> dc.AffineProcess:
    return EarlyStop(inner=request.param)


@pytest.fixture(scope="session")
def early_stop():
    return EarlyStop


@pytest.fixture(scope="session")
def exact():
    return ExactMap


@pytest.fixture(scope="session")
def points():
    return Points


@pytest.fixture
def gauss():
    return Gaussian(torch.tensor([0.5, -0.3, 0.0]), torch.tensor([0.4, 0.8, 1.3]))
