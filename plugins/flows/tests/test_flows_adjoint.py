"""The adjoint gradient of `cnf`: that of the steps and of closed forms, at a memory that does not grow with the steps."""

from __future__ import annotations

import pytest
import torch
from diffcore_flows.cnf import CNF, CNFModule
from diffcore_flows.maximum_likelihood import MaximumLikelihood
from torch import nn

import diffcore as dc
from diffcore.testing import ReferenceFlow

pytest.importorskip("torchdiffeq")
F64 = torch.float64
MLP = dc.Registry.load().make("network", "mlp", width=8, depth=1)
X, ZERO = dc.Draw(3, range(4)).normal((2,), F64), torch.zeros(4, dtype=F64)


class Bent(nn.Module):
    """v(x, t) = tanh(x W + t c), plus a class's vector."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([[0.6, -0.8], [0.5, 0.3]], dtype=F64))
        self.c = nn.Parameter(torch.tensor([0.4, -0.7], dtype=F64))
        self.of_class = nn.Parameter(torch.tensor([[0.2, 0.1], [-0.3, 0.5]], dtype=F64))

    def forward(self, x, t, label=None):
        return torch.tanh(x @ self.w + t[:, None] * self.c) + (0 if label is None else self.of_class[label])


class Linear(nn.Module):
    """v = A x."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.tensor([[0.3, -0.5], [0.2, 0.4]], dtype=F64))

    def forward(self, x, t, **cond):
        return x @ self.a.T


def flow(net, gradient="adjoint", tolerance=1e-10, **fields):
    return CNFModule(CNF(velocity=MLP, integrator="dopri5", tolerance=tolerance, gradient=gradient, **fields), net, {})


def gradients(net, value, x):
    return [value.detach(), *torch.autograd.grad(value.sum(), [x, *net.parameters()])]


@pytest.mark.item("5.04")
@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
def test_the_adjoint_is_the_gradient_of_the_steps(trace):
    """Likelihood and its gradient in data, weights and a class's vector, at start times of their own: 1e-7 (1e-10 a step)."""
    net, t, label = Bent(), torch.tensor([0.0, 0.2, 0.5, 0.0], dtype=F64), torch.tensor([0, 1, 1, 0])
    found = []
    for gradient in ("steps", "adjoint"):
        x = X.clone().requires_grad_()
        value = flow(net, gradient, trace=trace).log_prob(x, t, dc.Draw(5, range(4)), label=label)
        found.append(gradients(net, value, x))
    for steps, adjoint in zip(*found, strict=True):
        assert float((steps - adjoint).abs().max()) < 1e-7
        assert float(steps.abs().max()) > 0.05


@pytest.mark.item("5.04")
def test_the_adjoint_of_a_linear_field_is_the_gradient_of_a_gaussian():
    """log N(x; 0, e^-A e^-A^T) and its derivative in A and x: 1e-7."""
    net, x = Linear(), X.clone().requires_grad_()
    back = torch.matrix_exp(-net.a)
    want = torch.distributions.MultivariateNormal(torch.zeros(2, dtype=F64), back @ back.T).log_prob(x)
    found = flow(net).log_prob(x, ZERO)
    for ours, exact in zip(gradients(net, found, x), gradients(net, want, x), strict=True):
        assert float((ours - exact).abs().max()) < 1e-7


def test_the_adjoint_of_the_way_back():
    """z -> x = e^-A z has the gradient of a matrix exponential, in A and in z: 1e-7."""
    net, z, side = Linear(), X.clone().requires_grad_(), torch.tensor([1.0, -2.0], dtype=F64)
    found, want = flow(net).generate(z, ZERO) @ side, z @ torch.matrix_exp(-net.a).T @ side
    for ours, exact in zip(gradients(net, found, z), gradients(net, want, z), strict=True):
        assert float((ours - exact).abs().max()) < 1e-7


class Alive:
    """Entries of tensors that autograd keeps for the backward pass, at the time of asking."""

    def __init__(self):
        self.entries = 0

    def watching(self):
        return torch.autograd.graph.saved_tensors_hooks(lambda value: Kept(self, value.detach()), lambda kept: kept.value)


class Kept:
    """A saved tensor that is counted while it lives."""

    def __init__(self, owner, value):
        self.owner, self.value = owner, value
        owner.entries += value.numel()

    def __del__(self):
        self.owner.entries -= self.value.numel()


def kept(gradient, tolerance):
    """Entries kept after the forward pass, and evaluations of the field in it."""
    net, alive, calls = Bent(), Alive(), []
    net.register_forward_hook(lambda *_: calls.append(1))
    with alive.watching():
        value = flow(net, gradient, tolerance).log_prob(X, ZERO)
        return alive.entries, len(calls), value


@pytest.mark.item("5.04")
def test_the_memory_of_the_adjoint_does_not_grow_with_the_steps():
    few, many = kept("adjoint", 1e-2), kept("adjoint", 1e-10)
    assert many[1] > 5 * few[1]
    assert many[0] == few[0]
    few, many = kept("steps", 1e-2), kept("steps", 1e-10)
    assert many[0] > 5 * few[0]


def test_it_trains_in_single_precision():
    """One step of gradient descent lowers the loss, and the gradient is that of the steps to the tolerance."""
    found, x0 = [], X.float()
    for gradient in ("steps", "adjoint"):
        net = Bent().float()
        model = dc.Denoiser(flow(net, gradient, 1e-5), "velocity", ReferenceFlow())

        def loss(model=model):
            return MaximumLikelihood()(model, x0, dc.Draw(0, range(4))).mean()

        start = loss()
        start.backward()
        found.append(net.w.grad)
        with torch.no_grad():
            for p in (net.w, net.c):
                p -= 0.1 * p.grad
            assert float(loss()) < float(start)
    assert float((found[0] - found[1]).abs().max()) < 1e-3 * float(found[0].abs().max())


def test_a_field_without_weights_and_a_wrong_pair_of_settings():
    found = CNFModule(CNF(velocity=MLP, integrator="dopri5", gradient="adjoint"), _Still(), {}).log_prob(X, ZERO)
    assert torch.allclose(found, torch.distributions.Normal(0.0, 1.0).log_prob(X).sum(1))
    with pytest.raises(dc.SpecError, match="'adjoint' of CNF needs integrator 'dopri5'"):
        CNF(velocity=MLP, gradient="adjoint")


class _Still(nn.Module):
    """Nothing moves."""

    def forward(self, x, t, **cond):
        return 0 * x
