"""The preconditioning of EDM for any alpha and sigma (Karras et al. 2022, appendix B.6; Lai et al. 2025, appendix D)."""

from __future__ import annotations

import pytest
import torch

import diffcore as dc
from diffcore.testing import REFERENCES

SD = 0.5
PROCESSES = pytest.mark.parametrize("process", REFERENCES, ids=lambda p: type(p).__name__)


def at(process):
    return process.coeffs(torch.linspace(0.02, 0.98, 25, dtype=torch.float64) * process.T)


@pytest.mark.item("D1")
@PROCESSES
def test_input_and_target_have_unit_variance(process):
    """c_in x_t and F = p x_0 + q eps for data of deviation sd: both 1, exactly, and they are uncorrelated."""
    c = at(process)
    p, q = dc.row("edm", c, SD)
    for variance in (
        p**2 * SD**2 + q**2,
        process.scale_input(c.alpha, c, SD) ** 2 * SD**2 + process.scale_input(c.sigma, c, SD) ** 2,
    ):
        assert float((variance - 1).abs().max()) < 1e-12
    assert float((p * c.alpha * SD**2 + q * c.sigma).abs().max()) < 1e-12


@pytest.mark.item("D1")
@PROCESSES
def test_the_skip_connection_leaves_the_least_to_the_network(process):
    """c_out^2 = Var(x_0 - c x_t) = (1 - c alpha)^2 sd^2 + c^2 sigma^2 is least where F is read with c = c_skip; F = 0 is the
    Wiener filter, c_skip x_t."""
    c = at(process)
    x = torch.ones(25, 1, dtype=torch.float64)
    skip = dc.Posterior(x, 0 * x, "edm", c, SD).mean[:, 0]  # what F = 0 says of x_0
    out = dc.Posterior(x, x, "edm", c, SD).mean[:, 0] - skip
    wiener = c.alpha * SD**2 / (c.alpha**2 * SD**2 + c.sigma**2)
    assert float((skip - wiener).abs().max()) < 1e-12

    def left(k):
        return (1 - k * c.alpha) ** 2 * SD**2 + k**2 * c.sigma**2

    assert float((out**2 - left(skip)).abs().max()) < 1e-12
    for off in (-0.05, 0.05):
        assert bool((left(skip + off) > left(skip)).all())
