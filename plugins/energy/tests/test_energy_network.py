"""Energy networks are gradients; the metric tells them from fields that are not."""

import pytest
import torch
from diffcore_energy.conservativity import Conservativity, _ratio
from diffcore_energy.density import log_ratio
from diffcore_energy.energy import Energy
from diffcore_energy.perceptron import Perceptron

import diffcore as dc
from diffcore.testing import ReferenceVE

TURN = torch.tensor([[0.0, -1.0], [1.0, 0.0]])


def built(shape=(3,), seed=0, **fields):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Energy(net=Perceptron(width=24), **fields).build(shape, {}).double()


def inputs(n=5, d=3):
    x = torch.linspace(-1.5, 1.5, n * d, dtype=torch.float64).sin().reshape(n, d)
    return x, torch.linspace(0.1, 0.9, n, dtype=torch.float64)


def evaluation(net, prediction="eps", shape=(2,)):
    x = torch.randn(256, *shape, generator=torch.Generator().manual_seed(1))
    process = ReferenceVE()
    field = dc.Field(dc.Denoiser(net, prediction, process))
    return dc.Evaluation(samples=x, reference=x, field=field)


@pytest.mark.parametrize("form", ["squared", "inner", "scalar"])
@pytest.mark.parametrize("gives", ["eps", "score"])
def test_the_output_is_the_slope_of_the_energy(form, gives):
    net, (x, t) = built(form=form, gives=gives), inputs()
    sign, h = 1 if gives == "eps" else -1, 1e-5
    for k in range(3):
        step = h * torch.eye(3, dtype=torch.float64)[k]
        slope = (net.energy(x + step, t) - net.energy(x - step, t)) / (2 * h)
        assert torch.allclose(sign * net(x, t)[:, k], slope, rtol=0, atol=1e-8)


@pytest.mark.parametrize("form", ["squared", "inner", "scalar"])
def test_its_jacobian_is_symmetric(form):
    net, (x, t) = built(form=form), inputs()
    for i in range(5):
        jac = torch.autograd.functional.jacobian(lambda y, i=i: net(y, t[i : i + 1])[0], x[i : i + 1])[:, 0]
        assert float((jac - jac.T).abs().max()) < 1e-12 < float(jac.abs().max())


def test_any_gradient_mode_gives_the_same():
    net, (x, t) = built(), inputs()
    want = net(x, t)
    with torch.no_grad():
        plain = net(x, t)
    with torch.inference_mode():
        inferred = net(x * 1, t * 1)
    assert torch.equal(plain, want.detach())
    assert torch.equal(inferred, want.detach())
    assert want.requires_grad
    assert not plain.requires_grad


@pytest.mark.item("1.05", "3.02")
def test_the_work_of_the_score_is_the_difference_of_energies():
    """log p(x) - log p(y) = E(y) - E(x) for a network that gives the score (3.02), 16 nodes, 1e-8."""
    net, (x, t) = built(gives="score"), inputs()
    model = dc.Denoiser(lambda y, s: net(y, torch.full((5,), 0.4, dtype=torch.float64)), "score", ReferenceVE())
    t = torch.full((5,), 0.4, dtype=torch.float64)
    found = log_ratio(model, x, x.flip(0), 0.4, nodes=16)
    assert torch.allclose(found, net.energy(x.flip(0), t) - net.energy(x, t), rtol=0, atol=1e-8)


@pytest.mark.parametrize("turn", [0.0, 0.1, 1.0])
def test_the_asymmetry_of_a_planted_rotation(turn):
    """e = x + w R x: w^2 / (1 + w^2), exactly, with any probes."""
    found = Conservativity().measure(evaluation(lambda x, t: x + turn * x @ TURN.T))["asymmetry"]
    assert found.value == pytest.approx(turn**2 / (1 + turn**2), abs=1e-6)
    assert found.n == 128


def test_the_metric_tells_an_energy_from_a_plain_network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain = Perceptron(width=24).build((2,), {})
    assert Conservativity().measure(evaluation(built((2,)).float()))["asymmetry"].value < 1e-10
    assert Conservativity().measure(evaluation(plain))["asymmetry"].value > 0.01


def test_the_spread_of_a_ratio_is_that_of_four_blocks():
    gap, size = torch.tensor([1.0, 0.0, 2.0, 3.0, 9.0]), torch.tensor([1.0, 2.0, 4.0, 1.0, 2.0])
    found = _ratio(gap, size, "")
    assert (found.value, found.n) == (1.5, 5)
    assert found.spread == pytest.approx(float(torch.tensor([1.0, 0.0, 0.5, 3.0]).std()))


def test_refusals():
    with pytest.raises(dc.IncompatibleError, match="predict eps or score"):
        Energy().build((3,), {}, (6,))
    ev = evaluation(lambda x, t: x)
    with pytest.raises(dc.DataError, match="none"):
        Conservativity().measure(dc.Evaluation(samples=ev.samples, reference=ev.reference))
    with pytest.raises(dc.DataError, match="at least 4"):
        Conservativity().measure(dc.Evaluation(samples=ev.samples, reference=ev.reference[:3], field=ev.field))
