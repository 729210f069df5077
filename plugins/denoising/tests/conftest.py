"""The processes under test: the core's three references, and one whose time is the noise level and never zero."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import diffcore as dc
from diffcore.testing import ReferenceFlow, ReferenceVE, ReferenceVP


@dc.component
class Levels(dc.AffineProcess):
    """alpha = 1, sigma = t in [0.002, 80]."""

    T = 80.0
    min_time = 0.002

    def coeffs(self, t: Tensor) -> dc.Coeffs:
        return dc.Coeffs(t, torch.ones_like(t), t, torch.zeros_like(t), torch.ones_like(t))

    def t_of_lam(self, lam: Tensor) -> Tensor:
        return torch.exp(-torch.as_tensor(lam, dtype=torch.float64))


PROCESSES = {"vp": ReferenceVP(), "flow": ReferenceFlow(), "ve": ReferenceVE(), "levels": Levels()}


@pytest.fixture(params=list(PROCESSES))
def process(request: pytest.FixtureRequest) -> dc.AffineProcess:
    return PROCESSES[request.param]


@pytest.fixture(scope="session")
def processes() -> dict[str, dc.AffineProcess]:
    return PROCESSES
