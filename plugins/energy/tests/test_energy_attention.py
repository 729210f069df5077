"""Losses that differentiate a network twice, on networks with attention: the fused kernel of the CPU cannot do that."""

from __future__ import annotations

import pytest
import torch

import diffcore as dc

REGISTRY = dc.Registry.load()
VP = REGISTRY.make("process", "vp")
NETS = {"unet": {"type": "unet", "width": 8}, "dit": {"type": "dit", "width": 16, "depth": 1}}
SHAPE = (1, 8, 8)


def built(net):
    """The network in float64, away from its zero output at the start."""
    torch.manual_seed(0)
    module = REGISTRY.make("network", net).build(SHAPE, {}).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("loss", ["sliced-score-matching", "sure", "denoising"])
def test_the_gradient_is_that_of_differences(net, loss):
    """Along one direction of all parameters, to the error of central differences; `denoising` on the gradient of an energy."""
    module = built({"type": "energy", "net": NETS[net]} if loss == "denoising" else NETS[net])
    objective, denoiser = REGISTRY.make("loss", loss), dc.Denoiser(module, "eps", VP)
    x0, parameters = torch.randn(2, *SHAPE, dtype=torch.float64), list(module.parameters())

    def value():
        return objective(denoiser, x0, dc.Draw(0, range(2))).mean()

    gradient = torch.autograd.grad(value(), parameters, allow_unused=True)
    along, step = [torch.randn_like(p) for p in parameters], 1e-6
    slope = sum(float((g * d).sum()) for g, d in zip(gradient, along, strict=True) if g is not None)

    def moved(by):
        with torch.no_grad():
            for p, d in zip(parameters, along, strict=True):
                p.add_(by * d)
        return float(value().detach())

    difference = (moved(step) - moved(-2 * step)) / (2 * step)
    assert slope == pytest.approx(difference, rel=1e-4, abs=1e-6)
    assert abs(slope) > 1e-3


@pytest.mark.parametrize("metric", ["conservativity", "fokker-planck-residual"])
def test_metrics_differentiate_attention(metric):
    field = dc.Field(dc.Denoiser(built(NETS["dit"]), "eps", process=VP))
    x = torch.randn(8, *SHAPE, dtype=torch.float64)
    (found,) = list(REGISTRY.make("metric", metric, n=8).measure(dc.Evaluation(samples=x, reference=x, field=field)).values())[:1]
    assert found.value > 0
