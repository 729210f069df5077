"""Paths of matrices against Gaussians in closed form, against derivatives of their own paths, and with sources of any kind."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
from diffcore_flows.empirical import Empirical
from diffcore_flows.flow_matching import FlowMatching
from diffcore_flows.matrix_path import MatrixPath
from diffcore_flows.matrix_read import mixed

import diffcore as dc
from diffcore.testing import ReferenceFlow

F64 = torch.float64
REGISTRY = dc.Registry.load()
TURN, SHEAR, SCALE = ((0.1, -1.3), (0.9, -0.2)), ((0.3, 0.8), (0.0, -0.5)), ((1.1, 0.0), (0.4, 0.7))
PATH = MatrixPath(turn=TURN, source_turn=SHEAR, scale=SCALE)  # nothing here commutes
MEAN = torch.tensor([0.5, -1.0], dtype=F64)
COV = torch.tensor([[0.8, 0.3], [0.3, 0.4]], dtype=F64)
N = 20_000
DRAW = dc.Draw(2, range(N), block=N)


def at(t):
    return torch.tensor(t, dtype=F64)


def data(n=N, seed=7):
    return MEAN + dc.Draw(seed, range(n), block=n).normal((2,), F64) @ torch.linalg.cholesky(COV).T


def spread(t):
    """V = M C M^T + S S^T, the covariance of x_t for x_0 ~ N(MEAN, COV)."""
    m, s, *_ = PATH.maps(t)
    return m @ COV @ m.mT + s @ s.mT


def exact(prediction, off=0.0):
    """The exact network by conditioning of Gaussians: Cov(target, x_t) V^-1 (x_t - M m) + E target."""

    def net(x, t):
        m, s, dm, ds = PATH.maps(t)
        a, b = (dm, ds) if prediction == "velocity" else (torch.eye(2, dtype=F64).expand_as(m), torch.zeros_like(s))
        gain = (a @ COV @ m.mT + b @ s.mT) @ torch.linalg.inv(m @ COV @ m.mT + s @ s.mT)
        return mixed(gain, x - (m @ MEAN)) + a @ MEAN + off

    return dc.Denoiser(net, prediction, PATH)


@pytest.mark.item("5.14")
@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_the_derivatives_are_those_of_the_paths(t):
    """M' and S' by automatic differentiation of M and S, 1e-12; the ends are I and 0, 0 and L."""
    slopes = torch.autograd.functional.jacobian(lambda u: PATH.maps(u)[:2], at(t))
    for mine, want in zip(PATH.maps(at(t))[2:], slopes, strict=True):
        assert float((mine - want).abs().max()) < 1e-12
    (m0, s0, *_), (m1, s1, *_) = PATH.maps(0.0), PATH.maps(1.0)
    assert torch.equal(m0, torch.eye(2, dtype=F64))
    assert torch.equal(s1, torch.tensor(SCALE, dtype=F64))
    assert not torch.stack([m1, s0]).any()


@pytest.mark.item("5.14")
def test_the_velocity_of_an_affine_map_given_the_data():
    """mu' + S' S^-1 (x - mu), written out, is M' x_0 + S' x_1 and what either prediction reads; x_0 is read back: 1e-10."""
    x0, t = data(5), torch.tensor([0.05, 0.3, 0.5, 0.8, 0.99], dtype=F64)
    made = PATH.corrupt(x0, t, dc.Draw(1, range(5)))
    m, s, dm, ds = PATH.maps(t)
    mu = mixed(m, x0)
    want = mixed(dm, x0) + mixed(ds @ torch.linalg.inv(s), made.xt - mu)
    assert float((made.target("velocity") - want).abs().max()) < 1e-10
    assert float((PATH.posterior(made.xt, x0, made.at, dc.Reading("x0")).velocity - want).abs().max()) < 1e-10
    assert float((PATH.posterior(made.xt, want, made.at, dc.Reading("velocity")).mean - x0).abs().max()) < 1e-10


def test_a_rotation_turns_the_data():
    """B = w R: M = (1 - t) [[cos, -sin], [sin, cos]](w t), and S = t I."""
    w, t = 1.7, 0.4
    m, s, *_ = MatrixPath(turn=((0.0, -w), (w, 0.0))).maps(t)
    c, d = math.cos(w * t), math.sin(w * t)
    assert torch.allclose(m, (1 - t) * torch.tensor([[c, -d], [d, c]], dtype=F64), rtol=0, atol=1e-14)
    assert torch.allclose(s, t * torch.eye(2, dtype=F64), rtol=0, atol=1e-14)


def test_zero_generators_are_the_straight_flow():
    path, flow, x0, t = (
        MatrixPath(turn=((0.0, 0.0), (0.0, 0.0))),
        ReferenceFlow(),
        data(6),
        torch.linspace(0.1, 0.9, 6, dtype=F64),
    )
    ours, theirs = (p.corrupt(x0, t, dc.Draw(3, range(6))) for p in (path, flow))
    assert torch.allclose(ours.xt, theirs.xt, rtol=0, atol=1e-14)
    assert torch.allclose(ours.target("velocity"), theirs.target("velocity"), rtol=0, atol=1e-14)
    for name in ("x0", "velocity"):
        a, b = (p.posterior(ours.xt, x0, r.at, dc.Reading(name)) for p, r in ((path, ours), (flow, theirs)))
        assert torch.allclose(a.mean, b.mean, rtol=0, atol=1e-12)
        assert torch.allclose(a.velocity, b.velocity, rtol=0, atol=1e-12)


@pytest.mark.item("5.14")
@pytest.mark.parametrize("t", [0.2, 0.6, 1.0])
def test_the_marginal_of_gaussian_data(t):
    """N(M m, M C M^T + S S^T): means and covariances of 20,000 samples (4.5 s.e.); the prior is N(0, L L^T)."""
    x = PATH.corrupt(data(), torch.full((N,), t, dtype=F64), DRAW).xt if t < 1 else PATH.prior((2,), DRAW).double()
    mean, want = PATH.maps(t)[0] @ MEAN, spread(t)
    assert bool(((x.mean(0) - mean).abs() < 4.5 * (want.diagonal() / N).sqrt()).all())
    error = ((want**2 + want.diagonal().outer(want.diagonal())) / N).sqrt()
    assert bool(((x.T.cov() - want).abs() < 4.5 * error).all())


@pytest.mark.item("5.14")
@pytest.mark.parametrize("prediction", ["velocity", "x0"])
def test_the_exact_field_carries_the_source_to_the_data(prediction):
    """Its flow is affine, x -> A (x - M_1 m) + M_s m with A V_1 A^T = V_s: second order with Heun, 1e-8 with 200 steps of RK4."""
    field, end = dc.Field(exact(prediction)), 0.1
    corners, errors = torch.cat([torch.zeros(1, 2, dtype=F64), torch.eye(2, dtype=F64)]), {}
    for solver, steps in (("heun", 20), ("heun", 40), ("rk4", 200)):
        grid = torch.linspace(1.0, end, steps + 1, dtype=F64)
        made = dc.sample(field, REGISTRY.make("solver", solver), corners, grid=grid).x
        rows = made[1:] - made[0]
        gap = max(
            float((rows.T @ spread(1.0) @ rows - spread(end)).abs().max()),
            float((made[0] - PATH.maps(end)[0] @ MEAN).abs().max()),
        )
        errors[solver, steps] = gap
    assert errors["rk4", 200] < 1e-8
    assert math.log2(errors["heun", 20] / errors["heun", 40]) > 1.8


@dc.component
class At(dc.TimeLaw):
    """One time for all samples."""

    t: float

    def __call__(self, process, draw):
        return torch.full((len(draw.ids),), self.t, dtype=F64)


@pytest.mark.item("5.06", "5.07", "5.14")
@pytest.mark.parametrize("t", [0.15, 0.5, 0.9])
def test_flow_matching_learns_the_marginal_velocity(t):
    """The loss of the exact velocity is the mean variance tr Cov(M' x_0 + S' x_1 | x_t) / D, and no other is less (4.5 s.e.)."""
    m, s, dm, ds = PATH.maps(t)
    cross = dm @ COV @ m.T + ds @ s.T
    left = dm @ COV @ dm.T + ds @ ds.T - cross @ torch.linalg.inv(spread(t)) @ cross.T
    loss, x0 = FlowMatching(time_law=At(t=t)), data()
    base = loss(exact("velocity"), x0, DRAW)
    assert abs(float(base.mean() - left.trace() / 2)) < 4.5 * float(base.std()) / N**0.5
    for off in (-0.3, 0.1):
        gap = loss(exact("velocity", off), x0, DRAW) - base
        assert abs(float(gap.mean()) - off**2) < 4.5 * float(gap.std()) / N**0.5


@pytest.mark.item("5.14")
def test_a_source_that_is_not_gaussian():
    """For one data point the ODE carries samples x_1 of any data set, stretched by L, along M x_0 + S x_1: 1e-8 at t = .05."""
    points = torch.tensor([[-1.0, 0.5], [0.3, -0.8], [2.0, 1.0]], dtype=F64)
    source = REGISTRY.make("data", "finite-set", points=tuple(map(tuple, points.tolist())))
    path, x0 = MatrixPath(turn=TURN, source_turn=SHEAR, scale=SCALE, noise=Empirical(data=source)), MEAN.expand(64, 2)
    x1 = path.noise.like(x0, dc.Draw(4, range(64)))
    assert float(torch.cdist(x1, points).min(1).values.max()) < 1e-6
    start = path.prior((2,), dc.Draw(4, range(64))).double()
    assert torch.allclose(start, x1 @ torch.tensor(SCALE, dtype=F64).T, rtol=0, atol=1e-6)
    field = dc.Field(dc.Denoiser(lambda x, t: MEAN.expand_as(x), "x0", path))
    exact_start = path.corrupt(x0, torch.ones(64, dtype=F64), dc.Draw(4, range(64)), x1).xt
    made = dc.sample(field, REGISTRY.make("solver", "rk4"), exact_start, grid=torch.linspace(1, 0.05, 301, dtype=F64)).x
    m, s, *_ = path.maps(0.05)
    assert float((made - mixed(m, x0) - mixed(s, x1)).abs().max()) < 1e-8


def test_the_network_receives_unit_size():
    """The mean square of the scaled x_t is 1 at every time, for data of variance .8^2 (4.5 s.e.)."""
    x0, t = 0.8 * dc.Draw(8, range(N), block=N).normal((2,), F64), (torch.arange(N, dtype=F64) + 0.5) / N
    made = PATH.corrupt(x0, t, DRAW)
    size = PATH.scale_input(made.xt, made.at, 0.8).square().mean(1)
    for part in size.chunk(4):
        assert abs(float(part.mean()) - 1) < 4.5 * float(part.std()) / len(part) ** 0.5


def test_images_are_flattened():
    """A permutation of four pixels in each sample, as the matrix of a swap acts on the flattened event."""
    swap = torch.eye(4, dtype=F64)[[1, 0, 3, 2]]
    path = MatrixPath(turn=tuple(map(tuple, (math.pi / 2 * (swap - torch.eye(4, dtype=F64))).tolist())))
    x0, t = dc.Draw(1, range(3)).normal((1, 2, 2), F64), torch.full((3,), 0.25, dtype=F64)
    want = 0.75 * mixed(torch.linalg.matrix_exp(0.25 * math.pi / 2 * (swap - torch.eye(4, dtype=F64))), x0)
    assert torch.allclose(path.corrupt(x0, t, dc.Draw(0, range(3)), 0 * x0).xt, want, rtol=0, atol=1e-14)
    assert path.prior((1, 2, 2), dc.Draw(0, range(3))).shape == (3, 1, 2, 2)


def test_what_its_mathematics_lacks_is_refused():
    field = dc.Field(exact("velocity"))
    for name in ("euler", "heun", "rk4"):
        field.check(REGISTRY.make("solver", name))
    for name, lacks in (("ddim", "affine"), ("dpmpp-2m", "affine"), ("ancestral", "reverse")):
        with pytest.raises(dc.IncompatibleError, match=f"'{lacks}'; process MatrixPath provides 'flat', 'velocity'"):
            field.check(REGISTRY.make("solver", name))
    with pytest.raises(dc.IncompatibleError, match="'eps' does not fit MatrixPath"):
        dc.Denoiser(lambda x, t: x, "eps", PATH)
    with pytest.raises(dc.SpecError, match="'scale' of MatrixPath must be square"):
        MatrixPath(turn=TURN, scale=((1.0,),))
    with pytest.raises(dc.SpecError, match="no inverse"):
        MatrixPath(turn=TURN, scale=((1.0, 1.0), (1.0, 1.0)))
    with pytest.raises(dc.DataError, match=r"act on 2 entries; the data has shape \(3,\)"):
        PATH.prior((3,), DRAW)
    with pytest.raises(dc.DataError, match="one time for it"):
        PATH.corrupt(data(4), torch.full((4, 2), 0.5), dc.Draw(0, range(4)))


def test_the_example_of_the_readme_learns():
    """After 200 steps its samples are at less than a third of the noise's sliced distance from the data."""
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    (spec,) = re.findall(r"```yaml\n(diffcore: 1\nname: turned-moons\n.*?)```", readme, re.S)
    short = ["trainer.steps=200", "trainer.batch=64", "evaluation.n=500", "sampling.n=16", "metrics=[{type: sliced-wasserstein}]"]
    pipeline = dc.assemble(spec, overrides=short, device="cpu")

    def distance():
        return next(iter(pipeline.evaluate()))["metrics"]["SW2"]["value"]

    before = distance()
    pipeline.train()
    assert distance() < before / 3
