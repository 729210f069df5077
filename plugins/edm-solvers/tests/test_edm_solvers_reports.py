"""What an adaptive run says of itself: the error of a step, the cost on any field and grid, and gradients at its own steps."""

import pytest
import torch
from diffcore_edm_solvers.adaptive import Adaptive
from diffcore_edm_solvers.control import Tolerance
from diffcore_edm_solvers.ode_library import TorchDiffEq
from scipy.integrate import RK23, RK45

import diffcore as dc
from diffcore.testing import ReferenceFlow, ReferenceVE, ReferenceVP, golden_mixture

VP, FLOW, VE, GOLDEN = ReferenceVP(), ReferenceFlow(), ReferenceVE(), golden_mixture()
X = torch.linspace(-1.5, 1.7, 5, dtype=torch.float64)[:, None]


def coordinate(variable, c):
    """u and S as the variables are defined: t, sigma / alpha, log(alpha / sigma), arctan(sigma / alpha)."""
    return {
        "t": (c.t, torch.ones_like(c.t)),
        "sigma": (c.sigma / c.alpha, c.alpha),
        "lam": ((c.alpha / c.sigma).log(), torch.ones_like(c.t)),
        "angle": ((c.sigma / c.alpha).atan(), (c.alpha**2 + c.sigma**2).sqrt()),
    }[variable]


def time_of(variable, process, u):
    """The time at which the variable is u."""
    if variable == "t":
        return u
    return process.t_of_lam({"sigma": lambda u: -u.log(), "lam": lambda u: u, "angle": lambda u: -u.tan().log()}[variable](u))


def slope(variable, c, y):
    """dy/du of y = x / S in the exact field, as the definitions state it."""
    x = y * coordinate(variable, c)[1]
    mean = GOLDEN.mean(x, c)
    eps = (x - c.alpha * mean) / c.sigma
    velocity = c.dalpha * mean + c.dsigma * eps
    if variable in ("t", "lam"):
        return velocity if variable == "t" else velocity / (c.dalpha / c.alpha - c.dsigma / c.sigma)
    if variable == "sigma":
        return eps
    norm = (c.alpha**2 + c.sigma**2).sqrt()
    return (c.alpha * eps - c.sigma * mean) / norm


@pytest.mark.parametrize("variable", ["t", "sigma", "lam", "angle"])
@pytest.mark.parametrize(("method", "pair"), [("bogacki-shampine", RK23), ("dormand-prince", RK45)])
@pytest.mark.parametrize("process", [VP, FLOW, VE], ids=lambda p: type(p).__name__)
def test_the_error_of_a_step_is_that_of_the_embedded_pair(process, method, pair, variable):
    """One step of the tableau of another library, in y over u: S_s H sum_i e_i k_i."""
    t, s = 0.5 * process.T, 0.1 * process.T
    at, end = (process.coeffs(torch.full((5,), v, dtype=torch.float64)) for v in (t, s))
    u, size = coordinate(variable, at)
    step = coordinate(variable, end)[0] - u
    times = [at.t]
    for share in pair.C[1:]:
        here = u + float(share) * step
        times.append(time_of(variable, process, here))
    x, y = 2 * X, 2 * X / size[:, None]
    slopes = []
    for i, time in enumerate(times):
        moved = y + step[:, None] * sum((float(a) * k for a, k in zip(pair.A[i][:i], slopes, strict=True)), torch.zeros_like(y))
        slopes.append(slope(variable, process.coeffs(time).map(lambda v: v[:, None]), moved))
    last = y + step[:, None] * sum(float(b) * k for b, k in zip(pair.B, slopes, strict=True))
    slopes.append(slope(variable, end.map(lambda v: v[:, None]), last))
    scale = coordinate(variable, end)[1][:, None]
    want = scale * step[:, None] * sum(float(e) * k for e, k in zip(pair.E, slopes, strict=True))
    walk = Adaptive(method=method, variable=variable).journey(GOLDEN.field(process), x, at.t)
    walk._begin(None, end.t)
    tried = walk._attempt(x, at, step, end.t, None)
    torch.testing.assert_close(tried.x, scale * last, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(tried.error.abs(), want.abs(), rtol=1e-6, atol=1e-11)
    assert float(want.abs().max()) > 1e-9


@pytest.mark.parametrize("solver", [Adaptive(rtol=1e-3, atol=1e-3), TorchDiffEq()], ids=lambda s: type(s).__name__)
def test_frames_count_their_own_run_only(solver):
    """On a grid of several stretches and a field that was used before: nfe is the rows that the network saw, over the samples."""
    seen = []

    def net(x, t):
        seen.append(len(x))
        return GOLDEN.mean(x, VP.coeffs(t))

    field = dc.Field(dc.Denoiser(net, "x0", VP))
    for _ in range(2):
        seen.clear()
        for frame in dc.frames(field, solver, X, grid=[0.5, 0.3, 0.2, 0.05]):
            assert frame.nfe == pytest.approx(sum(seen) / len(X))
            assert frame.calls == len(seen)


def test_step_control_has_no_history():
    """Sizes of steps are numbers: gradients of a run are those at the steps it took."""
    tolerance, x = Tolerance(rtol=0.1, atol=1.0, k=5), X.clone().requires_grad_()
    err = tolerance.norm(x**2, x, 2 * x)
    assert not err.requires_grad
    assert not tolerance.first(x, x**3).requires_grad
    assert not tolerance.second(torch.ones(5).double(), x, x**2, x**3).requires_grad


def test_a_step_without_error_grows_by_a_number():
    """Errors below 1e-4 count as that: .9 (1e4)^(.7 / k), less than the largest factor; none is infinite."""
    tolerance, err = Tolerance(rtol=0.1, atol=1.0, k=5), torch.tensor([0.0, 1e-9, 1e-4], dtype=torch.float64)
    found = tolerance.factor(err, torch.ones(3).double(), torch.ones(3, dtype=torch.bool))
    torch.testing.assert_close(found, torch.full((3,), 0.9 * 1e4 ** (0.7 / 5), dtype=torch.float64))
