"""Per-pixel time: an entry may rest anywhere, also at clean data, while the others run as if it were not there."""

import pytest
import torch
from diffcore_sde_solvers.euler_maruyama_lam import EulerMaruyamaLam
from diffcore_sde_solvers.ode_ancestral import ODEAncestral
from diffcore_sde_solvers.seeds import SEEDS
from diffcore_sde_solvers.sra1 import SRA1
from diffcore_sde_solvers.stochastic_heun import StochasticHeun

import diffcore as dc
from diffcore.testing import ReferenceFlow, ReferenceVE, ReferenceVP

SOLVERS = [SEEDS(stages=n) for n in (1, 2, 3)] + [SRA1(), StochasticHeun(), EulerMaruyamaLam(), ODEAncestral()]
IMAGE = torch.linspace(-1.5, 1.5, 24, dtype=torch.float64).reshape(2, 3, 2, 2)
FALLING = torch.tensor([0.8, 0.5, 0.3, 0.1, 0.0], dtype=torch.float64)


@pytest.mark.parametrize("process", [ReferenceVP(), ReferenceFlow(), ReferenceVE()], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("prediction", ["v", "x0"])  # at sigma = 0 a network of x0 says nothing about eps
@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_pixels_at_rest_do_not_move_nor_disturb(solver, process, prediction):

    def net(x, t):
        assert bool(x.isfinite().all())  # also where a pixel rests: a network looks at all of them
        return 0.5 * torch.tanh(x)

    field = dc.Field(dc.Denoiser(net, prediction, process))
    whole = dc.sample(field, solver, IMAGE, grid=FALLING * process.T, seed=4).x
    still = torch.zeros(2, 2, dtype=torch.bool)
    still[0, 1] = True
    for rest in (0.0, 0.4):
        values = FALLING[:, None, None].expand(-1, 2, 2).clone()
        values[:, 0, 1] = rest
        got = dc.sample(field, solver, IMAGE, grid=process.T * values[:, None, None].expand(-1, 2, 1, -1, -1), seed=4).x
        assert torch.equal(got[..., still], IMAGE[..., still])
        assert float((got - whole)[..., ~still].abs().max()) < 1e-11
