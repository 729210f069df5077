"""The processes under test, each with its published closed form in 60 digits and its published SDE."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import mpmath
import pytest
import torch
from diffcore_paths.cosine import Cosine
from diffcore_paths.edm import EDM
from diffcore_paths.flow import Flow
from diffcore_paths.sub_vp import SubVP
from diffcore_paths.trig import Trig
from diffcore_paths.ve import VE
from diffcore_paths.vp import VP
from torch import Tensor

import diffcore as dc

mp = mpmath.mp.clone()
mp.dps = 60


class Case(NamedTuple):
    """A process, (alpha, sigma) at a time in 60 digits, and (f, g^2) of dx = f x dt + g dw at float64 times."""

    process: Any
    kernel: Callable[[Any], tuple[Any, Any]]
    sde: Callable[[Tensor], tuple[Tensor, Tensor]]

    def exact(self, times: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma at the very numbers in `times`, rounded once to float64."""
        pairs = [self.kernel(mp.mpf(t)) for t in times.flatten().tolist()]
        columns = [torch.tensor([float(p[i]) for p in pairs], dtype=torch.float64) for i in (0, 1)]
        return columns[0].reshape(times.shape), columns[1].reshape(times.shape)

    def times(self, *, low: float = -3.0, high: float = 3.0, n: int = 9) -> Tensor:
        """The times at which lam runs from high to low, both within the process."""
        low, high = (max(end, self.lam_end + 0.05) for end in (low, high))
        return self.process.t_of_lam(torch.linspace(high, low, n, dtype=torch.float64))

    @property
    def lam_end(self) -> float:
        """lam at T."""
        alpha, sigma = self.exact(torch.tensor(self.process.T, dtype=torch.float64))
        return float(alpha.log() - sigma.log())


def _beta(process: Any) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    lo, hi = process.beta_min, process.beta_max
    return lambda t: lo + (hi - lo) * t, lambda t: lo * t + (hi - lo) * t * t / 2


def vp(**fields: float) -> Case:
    rate, integral = _beta(process := VP(**fields))

    def kernel(t: Any) -> tuple[Any, Any]:
        return mp.exp(-integral(t) / 2), mp.sqrt(1 - mp.exp(-integral(t)))

    return Case(process, kernel, lambda t: (-rate(t) / 2, rate(t)))


def sub_vp(**fields: float) -> Case:
    rate, integral = _beta(process := SubVP(**fields))

    def kernel(t: Any) -> tuple[Any, Any]:
        return mp.exp(-integral(t) / 2), 1 - mp.exp(-integral(t))

    return Case(process, kernel, lambda t: (-rate(t) / 2, rate(t) * (1 - torch.exp(-2 * integral(t)))))


def ve(**fields: float) -> Case:
    process = VE(**fields)
    low, high = mp.mpf(process.sigma_min), mp.mpf(process.sigma_max)
    log_ratio = math.log(process.sigma_max / process.sigma_min)

    def sde(t: Tensor) -> tuple[Tensor, Tensor]:
        level = process.sigma_min * (process.sigma_max / process.sigma_min) ** t
        return torch.zeros_like(t), level**2 * 2 * log_ratio

    return Case(process, lambda t: (mp.mpf(1), mp.sqrt(low**2 * (high / low) ** (2 * t) - low**2)), sde)


def edm(**fields: float) -> Case:
    return Case(EDM(**fields), lambda t: (mp.mpf(1), t), lambda t: (torch.zeros_like(t), 2 * t))


def flow() -> Case:
    return Case(Flow(), lambda t: (1 - t, t), lambda t: (-1 / (1 - t), 2 * t / (1 - t)))


def trig() -> Case:
    def sde(t: Tensor) -> tuple[Tensor, Tensor]:
        tangent = math.pi / 2 * torch.tan(math.pi / 2 * t)
        return -tangent, 2 * tangent

    return Case(Trig(), lambda t: (mp.cos(mp.pi * t / 2), mp.sin(mp.pi * t / 2)), sde)


def cosine(**fields: float) -> Case:
    process = Cosine(**fields)
    first = mp.pi / 2 * mp.mpf(process.s) / (1 + mp.mpf(process.s))
    last = mp.acos(process.alpha_end * mp.cos(first))

    def kernel(t: Any) -> tuple[Any, Any]:
        alpha = mp.cos(first + (last - first) * t) / mp.cos(first)
        return alpha, mp.sqrt(1 - alpha**2)

    def sde(t: Tensor) -> tuple[Tensor, Tensor]:
        tangent = float(last - first) * torch.tan(float(first) + float(last - first) * t)
        return -tangent, 2 * tangent

    return Case(process, kernel, sde)


CASES = {
    "vp": vp(),
    "vp-gentle": vp(beta_min=0.5, beta_max=5.0),
    "vp-constant": vp(beta_min=4.0, beta_max=4.0),
    "sub-vp": sub_vp(),
    "ve": ve(),
    "ve-narrow": ve(sigma_min=0.1, sigma_max=30.0),
    "edm": edm(),
    "flow": flow(),
    "trig": trig(),
    "cosine": cosine(),
    "cosine-short": cosine(alpha_end=0.01),
}


@pytest.fixture(params=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture
def process(case: Case) -> dc.AffineProcess:
    return case.process


@pytest.fixture(scope="session")
def cases() -> dict[str, Case]:
    return CASES
