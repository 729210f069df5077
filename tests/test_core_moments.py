"""Moments of x_0 given x_t, conjugate gradients and derivatives along the flow, against closed forms."""

from __future__ import annotations

import math
from typing import ClassVar

import pytest
import torch

import diffcore as dc
from diffcore.testing import REFERENCES, Gaussian, Mixture, ReferenceFlow, ReferenceVP, instant
from diffcore.testing.driving import average_velocity
from diffcore.testing.oracles import LinearInverse

DOUBLE = torch.float64
VP, FLOW = ReferenceVP(), ReferenceFlow()
COV = torch.tensor([[1.0, 0.5, 0.2], [0.5, 0.8, -0.3], [0.2, -0.3, 0.6]], dtype=DOUBLE)
DATA = Gaussian([0.3, -0.2, 1.0], cov=COV)
TWO = Mixture([0.3, 0.7], [[-1.0, 0.5, 1.2], [0.8, -0.4, 0.1]], [[0.5, 0.9, 0.3], [0.7, 0.4, 0.6]])
PREDICTIONS = ("x0", "eps", "score", "v", "velocity", "edm")
TIMES = (0.1, 0.4, 0.9)


def numbers(*shape, seed=0):
    return torch.empty(shape, dtype=DOUBLE).normal_(generator=torch.Generator().manual_seed(seed))


def close(found, want, atol=1e-10):
    torch.testing.assert_close(found, want, rtol=0, atol=atol)


def left(cov, at):
    """C - alpha^2 C (alpha^2 C + sigma^2)^-1 C."""
    spread = at.alpha**2 * cov + at.sigma**2 * torch.eye(len(cov), dtype=DOUBLE)
    return cov - at.alpha**2 * cov @ torch.linalg.solve(spread, cov)


def of_mixture(x, at, label=None):
    """sum r_k (S_k + m_k m_k^T) - m m^T, (B, D, D), with m_k and S_k the moments of x_0 given x_t in component k."""
    spread = at.alpha**2 * TWO.stds**2 + at.sigma**2
    m = TWO.means + at.alpha * TWO.stds**2 / spread * (x[:, None] - at.alpha * TWO.means)
    r = TWO.responsibilities(x, at) if label is None else torch.nn.functional.one_hot(label, 2).double()
    within = torch.diag_embed(TWO.stds**2 * at.sigma**2 / spread)
    mean = torch.einsum("bk,bkd->bd", r, m)
    return torch.einsum("bk,bkde->bde", r, within + m[..., :, None] * m[..., None, :]) - mean[:, :, None] * mean[:, None, :]


@pytest.mark.parametrize("fraction", TIMES)
@pytest.mark.parametrize(
    ("process", "prediction"),
    [(p, name) for p in REFERENCES for name in PREDICTIONS if p is not REFERENCES[1] or name not in ("eps", "score")],
)
def test_covariance_of_a_correlated_gaussian(process, fraction, prediction):
    """cov(v) is C_t v, every column of it, and the posterior is that of the denoiser; also where gradients are off."""
    x, t = numbers(4, 3), fraction * process.T
    denoiser, at = DATA.denoiser(process, prediction), instant(process, t)
    with torch.no_grad():
        posterior, cov = dc.moments(denoiser, x, t)
        for column in torch.eye(3, dtype=DOUBLE):
            close(cov(column.expand(4, 3)), (left(COV, at) @ column).expand(4, 3))
    assert torch.equal(posterior.mean, denoiser(x, t).mean)
    assert (posterior.name, posterior.x is x) == (prediction, True)
    assert not cov(x).requires_grad
    assert not posterior.value.requires_grad


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("fraction", TIMES)
def test_covariance_of_a_mixture_differs_between_samples(fraction, prediction):
    x, v, at = numbers(5, 3), numbers(5, 3, seed=1), instant(VP, fraction)
    _, cov = dc.moments(TWO.denoiser(VP, prediction), x, fraction)
    close(cov(v), torch.einsum("bde,be->bd", of_mixture(x, at), v))


def test_times_per_sample_and_a_shifted_mean():
    class Shifted(ReferenceVP):
        def coeffs(self, t):
            return super().coeffs(t)._replace(shift=2 + t, dshift=torch.ones_like(t))

    process, t = Shifted(), torch.tensor([0.2, 0.5, 0.7], dtype=DOUBLE)
    x, v = numbers(3, 3), numbers(3, 3, seed=1)
    _, cov = dc.moments(TWO.denoiser(process, "eps"), x + (2 + t)[:, None], t)
    for i in range(3):
        want = of_mixture(x[i : i + 1], instant(VP, t[i]))[0] @ v[i]
        close(cov(v)[i], want)


def test_a_guided_denoiser_has_the_covariance_of_what_it_returns():
    """The mean w m_c + (1 - w) m has the derivative w C_c + (1 - w) C, through a batched call of both branches."""
    guidance = dc.Registry.load().make("guidance", "cfg", weight=1.7)
    label, x, v, at = torch.tensor([0, 1, 1, 0]), numbers(4, 3), numbers(4, 3, seed=1), instant(VP, 0.4)
    field = TWO.field(VP, "v", guidance=[guidance], cond={"label": label})
    with torch.no_grad():
        posterior, cov = dc.moments(field.denoiser, x, 0.4, label=label)
    close(posterior.mean, field.posterior(x, 0.4).mean)
    close(cov(v), torch.einsum("bde,be->bd", 1.7 * of_mixture(x, at, label) - 0.7 * of_mixture(x, at), v))


def test_a_tree_has_the_covariance_of_its_flat_vector():
    """Leaves that are correlated: the covariance goes from one to the other."""

    def net(x, t):
        found = DATA.mean(torch.cat([x["a"], x["b"]], 1), VP.coeffs(t.double()))
        return {"a": found[:, :1], "b": found[:, 1:]}

    x, v = numbers(4, 3), numbers(4, 3, seed=1)
    tree = {"a": x[:, :1], "b": x[:, 1:]}
    _, cov = dc.moments(dc.Denoiser(net, "x0", VP), tree, 0.4)
    found = cov({"a": v[:, :1], "b": v[:, 1:]})
    close(torch.cat([found["a"], found["b"]], 1), v @ left(COV, instant(VP, 0.4)))


def test_moments_that_cannot_be_read_are_refused():
    with pytest.raises(dc.NumericsError, match=r"at t = 1.0, where alpha = 0 .* start the grid at an earlier time"):
        dc.moments(DATA.denoiser(FLOW), numbers(2, 3), 1.0)
    with pytest.raises(dc.IncompatibleError, match="moments needs an affine process; Process is not"):
        dc.moments(type("Bare", (), {"process": dc.Process()})(), numbers(2, 3), 0.5)


# --- conjugate gradients -------------------------------------------------------------------------------------------------
def test_conjugate_gradients_solve_each_sample():
    """n steps solve n unknowns, and after k the error in the norm of A falls by ((q - 1) / (q + 1))^k, q = sqrt(cond A)."""
    root = numbers(3, 6, 6)
    matrix, b = root @ root.mT + 0.5 * torch.eye(6, dtype=DOUBLE), numbers(3, 6, seed=1)
    want = torch.linalg.solve(matrix, b)

    def mv(v):
        return torch.einsum("bde,be->bd", matrix, v)

    def size(v):
        return torch.einsum("bd,bd->b", v, mv(v)) ** 0.5

    close(dc.conjugate_gradient(mv, b, 12), want, 1e-8)
    q = torch.linalg.cond(matrix) ** 0.5
    for k in (1, 2, 4):
        error = size(dc.conjugate_gradient(mv, b, k) - want)
        assert bool((error > 1e-6).all())
        assert bool((error <= 2 * ((q - 1) / (q + 1)) ** k * size(want) * (1 + 1e-9)).all())


def test_conjugate_gradients_rest_where_nothing_is_left():
    """A zero row stays exactly zero and spoils neither values nor gradients; the others are those of a batch of one."""
    scale = torch.tensor([[1.0, 2.0, 4.0]], dtype=DOUBLE, requires_grad=True)
    b = torch.stack([torch.zeros(3), torch.tensor([1.0, -2.0, 3.0])]).double()
    found = dc.conjugate_gradient(lambda v: scale * v, b, 50)
    close(found, b / scale)
    assert bool((found[0] == 0).all())
    (slope,) = torch.autograd.grad(dc.conjugate_gradient(lambda v: scale * v, b, 3).sum(), scale)
    close(slope, (-b / scale**2).sum(0, keepdim=True), 1e-8)
    assert torch.equal(dc.conjugate_gradient(lambda v: 0 * v, b, 5), torch.zeros(2, 3, dtype=DOUBLE))


def test_conjugate_gradients_take_trees():
    """The unknowns of both leaves together: two apart would take the wrong step."""
    matrix, b = COV + torch.eye(3), numbers(2, 3)

    def mv(v):
        flat = torch.cat([v["a"], v["b"].reshape(-1, 1)], 1) @ matrix
        return {"a": flat[:, :2], "b": flat[:, 2]}

    found = dc.conjugate_gradient(mv, {"a": b[:, :2], "b": b[:, 2]}, 4)
    close(torch.cat([found["a"], found["b"][:, None]], 1), torch.linalg.solve(matrix, b.T).T)


def test_what_conjugate_gradients_cannot_take_is_refused():
    b = numbers(2, 3)
    with pytest.raises(dc.SpecError, match="iterations must be an integer of at least 1; got 0"):
        dc.conjugate_gradient(lambda v: v, b, 0)
    with pytest.raises(dc.DataError, match=r"made \(2, 1\) float64 of \(2, 3\) float64; it must keep the shape"):
        dc.conjugate_gradient(lambda v: v[:, :1], b, 2)


@dc.component
class Given(dc.Guidance):
    """E[x_0 | x_t, y] = m + C_t A^T (A C_t A^T + r^2)^-1 (y - A m): exact for a Gaussian, with C_t by `moments`."""

    matrix: tuple[tuple[float, ...], ...] = dc.param(doc="A")
    noise: float = dc.param(default=0.3, doc="r")
    requires: ClassVar[frozenset[str]] = frozenset({"affine"})

    def guide(self, denoiser, x, t, y, **cond):
        a = torch.tensor(self.matrix, dtype=x.dtype)
        posterior, cov = dc.moments(denoiser, x, t, **cond)
        off = y - posterior.mean @ a.T
        solved = dc.conjugate_gradient(lambda u: cov(u @ a) @ a.T + self.noise**2 * u, off, len(a))
        return posterior.replace("x0", posterior.mean + cov(solved @ a))


MATRIX = ((1.0, 0.5, 0.0, -0.3), (0.0, 1.0, -0.7, 0.2))


def conditioned(steps, mode="eager"):
    """Errors of mean and covariance of the samples given y, from the exact p_T: Heun is an affine map, read off its columns."""
    root = numbers(4, 4, seed=3)
    prior = Gaussian(numbers(4, seed=4), cov=root @ root.T / 4 + 0.2 * torch.eye(4, dtype=DOUBLE))
    y = numbers(1, 2, seed=5)
    exact = LinearInverse(prior, MATRIX, 0.3).posterior(y[0])
    denoiser = dc.Denoiser(lambda x, t: prior.mean(x, VP.coeffs(t.double())), "x0", VP)
    field = dc.Field(denoiser, [Given(matrix=MATRIX)], cond={"y": y.expand(5, 2)})
    start, grid = torch.cat([torch.zeros(1, 4), torch.eye(4)]).double(), torch.linspace(1, 0, steps + 1, dtype=DOUBLE)
    found = dc.sample(field, dc.Registry.load().make("solver", "heun"), start, grid=grid, mode=mode).x
    rest, matrix = found[0], found[1:] - found[0]
    at = instant(VP, 1.0)
    spread = at.alpha**2 * exact.cov + at.sigma**2 * torch.eye(4, dtype=DOUBLE)
    mean, cov = rest + at.alpha * exact.m @ matrix, matrix.T @ spread @ matrix
    return float((mean - exact.m).abs().max()), float((cov - exact.cov).abs().max())


def test_a_linear_inverse_problem_is_solved_to_the_order_of_the_solver():
    """Both errors fall by 4 with half the step, to less than 1e-3 of moments of about 1."""
    coarse, middle, fine = (conditioned(steps) for steps in (32, 64, 128))
    for a, b, c in zip(coarse, middle, fine, strict=True):
        assert math.log2(a / b) > 1.85
        assert math.log2(b / c) > 1.9
        assert c < 1e-3


@pytest.mark.filterwarnings("ignore")
def test_moments_and_conjugate_gradients_compile(monkeypatch):
    """One graph of guidance and all, equal to eager."""
    compiled = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **options: compiled(f, backend="eager", **options))
    torch.compiler.reset()
    assert conditioned(6, "compile") == pytest.approx(conditioned(6), abs=1e-12)


# --- derivatives along the flow ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("process", [VP, FLOW], ids=["vp", "flow"])
def test_the_average_velocity_obeys_its_identity(process):
    """(t - s) du/dt = v - u along dx/dt = v, for the exact average velocity; and (s - t) du/ds = v(x_s, s) - u at fixed x_t."""
    data = Gaussian([0.5, -0.3, 0.1], [0.4, 0.8, 1.3])
    model = dc.Denoiser(average_velocity(data, process), "velocity", process)
    x, t, s = numbers(4, 3), torch.linspace(0.5, 0.9, 4, dtype=DOUBLE), torch.linspace(0.3, 0.1, 4, dtype=DOUBLE)
    v = data.velocity(x, process.coeffs(t))
    u, du = dc.along(model, x, t, s, v)
    assert torch.equal(u, model.network(x, process.coeffs(t), process.coeffs(s)))
    close((t - s)[:, None] * du, v - u, 1e-9)
    there = data.velocity(data.flow(process, x, t, s), process.coeffs(s))
    again, ds = dc.along(model, x, t, dc.Instant(s), None, wrt="s")
    close((s - t)[:, None] * ds, there - u, 1e-9)
    assert torch.equal(again, u)


@pytest.mark.parametrize("at", [0.6, torch.tensor(0.6, dtype=DOUBLE), torch.full((4,), 0.6, dtype=DOUBLE)], ids=str)
def test_a_consistency_function_does_not_change_along_the_flow(at):
    """One time, through input scaling and time embedding: f(x_t, t) = x_0, so df/dt = 0; with another v it is J (v' - v)."""
    data = Gaussian([0.5, -0.3, 0.1], [0.4, 0.8, 1.3])
    ratio = instant(VP, 0.6)

    def net(x, t):
        here = VP.coeffs(t)
        scaled = x * dc.expand((here.alpha**2 * 0.25 + here.sigma**2) ** 0.5, x)
        return data.moved(scaled, here, instant(VP, 0.0))

    model, x = dc.Denoiser(net, dc.Reading("x0", "feature", "unit"), VP), numbers(4, 3)
    v, other = data.velocity(x, ratio), numbers(4, 3, seed=2)
    close(dc.along(model, x, at, None, v)[1], torch.zeros(4, 3, dtype=DOUBLE), 1e-9)
    jacobian = data.std / (ratio.alpha**2 * data.std**2 + ratio.sigma**2) ** 0.5
    close(dc.along(model, x, at, None, other)[1], jacobian * (other - v), 1e-9)


def test_a_derivative_that_there_is_not_is_refused():
    model, x = DATA.denoiser(VP), numbers(2, 3)
    with pytest.raises(dc.SpecError, match=r"'wrt' is 't', or 's' .* got 's' without s"):
        dc.along(model, x, 0.5, None, x, wrt="s")
    with pytest.raises(dc.SpecError, match="got 'x'"):
        dc.along(model, x, 0.5, 0.1, x, wrt="x")  # pyright: ignore[reportArgumentType]
