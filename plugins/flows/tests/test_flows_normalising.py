"""Normalising flows: log-determinants against autograd, inverses, densities that integrate to one, exact likelihoods."""

from __future__ import annotations

import math

import pytest
import torch
from diffcore_flows.cnf import CNF, CNFModule
from diffcore_flows.maximum_likelihood import MaximumLikelihood, log_density
from diffcore_flows.normalising import jacobian
from diffcore_flows.normalising_map import NormalisingFlowMap
from diffcore_flows.planar import PlanarFlow
from diffcore_flows.real_nvp import RealNVP
from diffcore_flows.residual import ResidualFlow, log_det_series
from torch import Tensor, nn

import diffcore as dc
from diffcore.testing import ReferenceFlow, ReferenceVE, golden_mixture

F64 = torch.float64
REGISTRY = dc.Registry.load()
MLP = REGISTRY.make("network", "mlp", width=16, depth=1)
FLOWS = {
    "real-nvp": RealNVP(layers=4, width=16),
    "planar-flow": PlanarFlow(layers=5),
    "residual-flow": ResidualFlow(layers=2, width=8, bound=0.6, tolerance=1e-12),
    "cnf": CNF(velocity=MLP, steps=24),
}
EXACT = ("real-nvp", "planar-flow", "residual-flow")
X = dc.Draw(4, range(5)).normal((3,), F64)
T = torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0], dtype=F64)
LABEL = {"label": torch.tensor([0, 1, 2, 3, 1])}


class Smooth(nn.Module):
    """A velocity without fast time features, so that fixed Runge-Kutta steps are accurate to 1e-7."""

    def __init__(self, size):
        super().__init__()
        self.into, self.out = nn.Linear(size + 2, 8), nn.Linear(8, size)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        known = torch.zeros_like(t) if label is None else label.to(t)
        return self.out(torch.tanh(self.into(torch.cat([x, t[:, None], known[:, None]], 1))))


def built(name, shape=(3,), cond=None, size=0.3):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = FLOWS[name].build(shape, {"label": 3} if cond is None else cond).double()
        if name == "cnf":
            net.velocity = Smooth(shape[0]).double()
    for i, p in enumerate(net.parameters()):
        p.data.add_(size * dc.Draw(i, [0]).normal(p.shape, F64)[0])
    return net


@pytest.mark.item("1.08", "5.01", "5.02", "5.03", "5.05")
@pytest.mark.parametrize("name", FLOWS)
def test_log_determinant_is_that_of_autograd(name):
    net = built(name)
    z, change = net.normalise(X, T, **LABEL)
    _, matrix = jacobian(lambda x: net.normalise(x, T, **LABEL)[0], X)
    tolerance = 1e-10 if name in EXACT else 1e-6  # the Runge-Kutta error of the map is not that of the divergence
    torch.testing.assert_close(change, torch.linalg.slogdet(matrix)[1], rtol=0, atol=tolerance)
    assert float((z - X).detach()[:3].abs().min(1).values.max()) > 1e-3, "a map that moves nothing would pass"


@pytest.mark.item("5.01")
@pytest.mark.parametrize("name", FLOWS)
def test_there_and_back(name):
    net, tolerance = built(name), 1e-10 if name in EXACT else 1e-6
    z, _ = net.normalise(X, T, **LABEL)
    torch.testing.assert_close(net.generate(z, T, **LABEL), X, rtol=0, atol=tolerance)
    torch.testing.assert_close(net.normalise(net.generate(X, T, **LABEL), T, **LABEL)[0], X, rtol=0, atol=tolerance)
    torch.testing.assert_close(z[4], X[4], rtol=0, atol=1e-12)  # the identity at pure noise


@pytest.mark.parametrize("name", FLOWS)
def test_the_gradient_of_a_sample_is_that_of_the_inverse_map(name):
    # x = F^{-1}(z): dx/dz = (dF/dx)^{-1}, and in a parameter by central differences
    net = built(name)
    z = X.clone().requires_grad_()
    x = net.generate(z, T, **LABEL)
    (found,) = torch.autograd.grad(x[:, 0].sum(), z, retain_graph=True)
    _, matrix = jacobian(lambda y: net.normalise(y, T, **LABEL)[0], x.detach())
    torch.testing.assert_close(found, torch.linalg.inv(matrix)[:, 0], rtol=1e-5, atol=1e-6)
    p = max(net.parameters(), key=lambda q: q.numel())
    (slope,) = torch.autograd.grad((x * X.flip(0)).sum(), p)
    step = 1e-5 * torch.sign(slope)
    values = []
    for sign in (1, -1):
        p.data.add_(sign * step)
        with torch.no_grad():
            values.append(float((net.generate(X, T, **LABEL) * X.flip(0)).sum()))
        p.data.sub_(sign * step)
    assert abs((values[0] - values[1]) / 2e-5 / float(slope.abs().sum()) - 1) < 1e-4


@pytest.mark.item("1.08", "5.01")
@pytest.mark.parametrize("name", FLOWS)
def test_the_density_of_data_integrates_to_one_through_the_pipeline_scaling(name):
    # with the input scaled by 1 / sigma_data the density is that of the data, not of the scaled data
    net = built(name, (2,), {}, 0.1)
    model = dc.Denoiser(net, dc.Reading("velocity", "feature", "unit", sigma_data=0.5), ReferenceFlow())
    side = torch.linspace(-5, 5, 101, dtype=F64)
    grid = torch.cartesian_prod(side, side)
    with torch.no_grad():
        density = log_density(model, grid, torch.zeros(len(grid), dtype=F64)).exp()
    assert abs(float(density.sum() * (side[1] - side[0]) ** 2) - 1) < 2e-3
    drawn = NormalisingFlowMap().map(model, dc.Draw(0, range(4000), block=4000).normal((2,), F64), 1.0, 0.0).detach()
    moment = (density[:, None] * grid).sum(0) * (side[1] - side[0]) ** 2
    assert float(((drawn.mean(0) - moment).abs() / (drawn.std(0) / 4000**0.5)).max()) < 4.5


@pytest.mark.item("5.01")
def test_flow_map_is_a_semigroup():
    model = dc.Denoiser(built("real-nvp", cond={}), dc.Reading("velocity", "feature", "unit", sigma_data=0.5), ReferenceFlow())
    psi = NormalisingFlowMap()
    torch.testing.assert_close(psi.map(model, X, 0.4, 0.4), X, rtol=1e-12, atol=1e-12)
    twice = psi.map(model, psi.map(model, X, 0.9, 0.4), 0.4, 0.1)
    torch.testing.assert_close(twice, psi.map(model, X, 0.9, 0.1), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(psi.map(model, psi.map(model, X, 1.0, 0.0), 0.0, 1.0), X, rtol=1e-9, atol=1e-9)


@pytest.mark.item("5.03")
@pytest.mark.parametrize("norm", [0.3, 0.6])
def test_series_converges_at_the_rate_of_the_contraction(norm):
    a = dc.Draw(3, range(3)).normal((3,), F64)
    a = norm * a / torch.linalg.matrix_norm(a, 2)
    exact, eye = torch.linalg.slogdet(a + torch.eye(3, dtype=F64))[1], torch.eye(3, dtype=F64)
    for terms in (2, 5, 12):
        parts = [log_det_series(lambda x: x @ a.T, X, e.expand(5, 3), terms)[1] for e in eye]  # tr = sum over unit probes
        assert not X.requires_grad, "the state of the caller is left alone"
        gap = float((sum(parts) - exact).abs().max())
        assert gap <= 3 * norm ** (terms + 1) / (terms + 1) / (1 - norm)
    n = 20_000
    signs = torch.where(dc.Draw(1, range(n), block=n).uniform((3,)) < 0.5, -1.0, 1.0).double()
    found = log_det_series(lambda x: x @ a.T, torch.zeros(n, 3, dtype=F64), signs, 40)[1]
    assert abs(float(found.mean() - exact)) < 4.5 * float(found.std()) / n**0.5


@pytest.mark.item("5.03")
def test_residuals_are_contractions():
    net = built("residual-flow")
    for layer in net.layers:
        _, matrix = jacobian(lambda x, k=layer: k.residual(x, net.context(T, LABEL), torch.ones(5, 1, dtype=F64)), X)
        assert float(torch.linalg.matrix_norm(matrix, 2).detach().max()) <= 0.6


def test_weights_within_the_bound_are_as_they_are():
    """r(x) of small weights is their product with silu / 1.1 between them, not that of weights brought up to the bound."""
    layer = built("residual-flow").layers[0]
    with torch.no_grad():
        for weight in layer.weights:
            weight.mul_(1e-3 / torch.linalg.matrix_norm(weight, 2))
        for bias in layer.biases:
            bias.weight.zero_()
            bias.bias.zero_()
    a, b, c = layer.weights
    hidden = torch.nn.functional.silu(X @ a.T) / 1.1 @ b.T
    want = torch.nn.functional.silu(hidden) / 1.1 @ c.T
    context = torch.zeros(5, layer.biases[0].in_features, dtype=F64)
    torch.testing.assert_close(layer.residual(X, context, torch.ones(5, 1, dtype=F64)), want, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", EXACT)
def test_a_missing_class_is_the_null_class(name):
    net = built(name)
    without, null, other = (net.normalise(X, T, **c)[0] for c in ({}, *({"label": torch.full((5,), k)} for k in (3, 0))))
    assert torch.equal(without, null)
    assert float((without - other)[0].detach().abs().max()) > 1e-3


class Velocity(nn.Module):
    """The exact probability-flow velocity of an oracle, as a module."""

    def __init__(self, oracle, process):
        super().__init__()
        self.net = oracle.net(process, "velocity")

    def forward(self, x: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        return self.net(x, t)


@pytest.mark.item("5.05")
def test_cnf_of_the_exact_velocity_has_the_density_of_the_mixture():
    # d log p(x_t) / dt = -div v along the paths of a Gaussian mixture, from t = 0.02 on, where p_1 = N(0, I) exactly
    oracle, process = golden_mixture((2,)), ReferenceFlow()
    x, t = oracle.sample(6), torch.full((6,), 0.02, dtype=F64)
    for trace, tolerance in (("exact", 1e-8), ("hutchinson", None)):
        spec = CNF(velocity=MLP, steps=200, trace=trace)
        flow = CNFModule(spec, Velocity(oracle, process), {})
        want = oracle.log_prob(x, process.coeffs(torch.tensor(0.02, dtype=F64)))
        if tolerance:
            torch.testing.assert_close(flow.log_prob(x, t), want, rtol=0, atol=tolerance)
            torch.testing.assert_close(flow.generate(flow.normalise(x, t)[0], t), x, rtol=0, atol=1e-8)
        else:
            one, n = x[:1].expand(2000, 2), 2000
            flow = CNFModule(CNF(velocity=MLP, steps=40, trace=trace), Velocity(oracle, process), {})
            found = flow.log_prob(one, t[:1].expand(n), dc.Draw(0, range(n), block=n)).detach()
            assert float(found.std()) > 1e-3
            assert abs(float(found.mean() - want[0])) < 4.5 * float(found.std()) / n**0.5 + 1e-5
    with pytest.raises(dc.DataError, match="pass draw"):
        flow.log_prob(x, t)


class Linear(nn.Module):
    """dx/dt = A x."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.tensor([[0.3, -0.5], [0.2, 0.4]], dtype=F64))

    def forward(self, x: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        return x @ self.a.T


@pytest.mark.item("5.04")
@pytest.mark.parametrize("integrator", ["rk4", "dopri5"])
def test_cnf_of_a_linear_field_is_a_gaussian(integrator):
    if integrator == "dopri5":
        pytest.importorskip("torchdiffeq")
    net = CNFModule(CNF(velocity=MLP, steps=60, integrator=integrator, tolerance=1e-11), Linear(), {})
    x, zero = X[:, :2], torch.zeros(5, dtype=F64)
    back = torch.matrix_exp(-net.velocity.a)
    want = torch.distributions.MultivariateNormal(torch.zeros(2, dtype=F64), back @ back.T)
    found = net.log_prob(x, zero)
    torch.testing.assert_close(found, want.log_prob(x), rtol=0, atol=1e-8)
    ours, exact = (torch.autograd.grad(v.sum(), net.velocity.a, retain_graph=True)[0] for v in (found, want.log_prob(x)))
    torch.testing.assert_close(ours, exact, rtol=0, atol=1e-6)


@pytest.mark.item("5.04")
def test_maximum_likelihood_of_a_linear_ode_is_that_of_its_gaussian():
    """-log N(x; 0, e^{-A} e^{-A^T}) / D, and its gradient in A."""
    net = CNF(velocity=MLP, steps=60).build((2,), {})
    net.velocity = Linear()
    x = X[:, :2]
    found = MaximumLikelihood()(dc.Denoiser(net, "velocity", ReferenceFlow()), x, dc.Draw(0, range(5)))
    back = torch.matrix_exp(-net.velocity.a)
    want = -torch.distributions.MultivariateNormal(torch.zeros(2, dtype=F64), back @ back.T).log_prob(x) / 2
    torch.testing.assert_close(found, want, rtol=0, atol=1e-8)
    ours, exact = (torch.autograd.grad(v.sum(), net.velocity.a, retain_graph=True)[0] for v in (found, want))
    torch.testing.assert_close(ours, exact, rtol=0, atol=1e-6)


@pytest.mark.item("5.01")
def test_likelihood_is_minimised_by_the_density_and_refuses_what_has_none():
    # one affine layer can be the Gaussian itself: the loss is its entropy per entry, and rises with every change
    data = torch.distributions.MultivariateNormal(torch.zeros(2, dtype=F64), torch.eye(2, dtype=F64) * math.exp(0.5))
    n = 4096
    x0 = math.exp(0.25) * dc.Draw(0, range(n), block=n).normal((2,), F64)

    class Scale(nn.Module):
        def __init__(self, log_scale: float) -> None:
            super().__init__()
            self.s = nn.Parameter(torch.tensor(log_scale, dtype=F64))

        def log_prob(self, x, t, draw=None, **cond):
            normal = torch.distributions.Normal(torch.zeros((), dtype=F64), 1.0)
            return normal.log_prob(x * self.s.exp()).sum(1) + 2 * self.s

    def loss(log_scale):
        return MaximumLikelihood()(dc.Denoiser(Scale(log_scale), "velocity", ReferenceFlow()), x0, dc.Draw(0, range(n))).detach()

    best = loss(-0.25)
    assert abs(float(best.mean()) - float(data.entropy()) / 2) < 4.5 * float(best.std()) / n**0.5
    assert all(float(loss(-0.25 + off).mean()) > float(best.mean()) for off in (-0.1, 0.1))
    with pytest.raises(dc.IncompatibleError, match="needs a normalising flow as network"):
        MaximumLikelihood()(dc.Denoiser(lambda x, t: x, "velocity", ReferenceFlow()), x0, dc.Draw(0, range(n)))
    with pytest.raises(dc.IncompatibleError, match="take process flow"):
        MaximumLikelihood()(dc.Denoiser(Scale(0.0), "velocity", ReferenceVE()), x0, dc.Draw(0, range(n)))
    with pytest.raises(dc.IncompatibleError, match="is no denoiser"):
        built("real-nvp")(X, T)
    with pytest.raises(dc.IncompatibleError, match="take cnf"):
        RealNVP().build((1,), {})


@pytest.mark.item("5.01")
def test_likelihood_at_other_times_is_that_of_the_noised_data():
    """The exact densities N(0, (1 - t)^2 d^2 + t^2): the mean over uniform t of their entropies (4.5 s.e. of 8192)."""
    n, d = 8192, 0.3

    class Marginals(nn.Module):
        def log_prob(self, x, t, draw=None, **cond):
            spread = ((1 - t) ** 2 * d**2 + t**2).sqrt()[:, None]
            return torch.distributions.Normal(torch.zeros((), dtype=F64), spread).log_prob(x).sum(1)

    @dc.component
    class Uniform(dc.TimeLaw):
        def __call__(self, process, draw):
            return draw.uniform()

    x0 = d * dc.Draw(0, range(n), block=n).normal((2,), F64)
    model = dc.Denoiser(Marginals(), "velocity", ReferenceFlow())
    found = MaximumLikelihood(time_law=Uniform())(model, x0, dc.Draw(1, range(n), block=n))
    t = (torch.arange(100_000, dtype=F64) + 0.5) / 100_000
    want = float((0.5 * torch.log(2 * math.pi * math.e * ((1 - t) ** 2 * d**2 + t**2))).mean())
    assert abs(float(found.mean()) - want) < 4.5 * float(found.std()) / n**0.5


def test_torchdiffeq_absent_is_one_line(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torchdiffeq", None)
    with pytest.raises(dc.DataError, match=r"needs torchdiffeq; run: pip install 'diffcore-flows\[adaptive\]'"):
        CNFModule(CNF(velocity=MLP, integrator="dopri5"), Linear(), {}).log_prob(X[:, :2], T)
