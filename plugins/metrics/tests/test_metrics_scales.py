"""The scale of features, and spreads over exactly the blocks asked for."""

import statistics

import numpy as np
import pytest
import torch
from diffcore_metrics import weights
from diffcore_metrics.kl import KL, log_ratios
from diffcore_metrics.mmd import gaussian_mixture_kernel
from diffcore_metrics.quantiles import quantile_costs

import diffcore as dc
from diffcore.testing import Gaussian, ReferenceVP


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_features_are_the_spatial_mean_of_the_last_layer(name):
    """Against numpy, on the activations themselves; the head reads them at the scale it was trained at."""
    net = weights.classifier(name, "features")
    x, seen = torch.rand(6, 1, 28, 28, generator=torch.Generator().manual_seed(0)) * 2 - 1, []
    handle = net.norms[-1].register_forward_hook(lambda module, given, out: seen.append(out))
    with torch.no_grad():
        features = net.features(x)
    handle.remove()
    last = seen[0].numpy().astype(np.float64)
    want = (last / (1 + np.exp(-last))).reshape(6, 128, -1).mean(-1)
    np.testing.assert_allclose(features.numpy(), want, rtol=1e-4, atol=1e-5)
    assert last.shape[2] * last.shape[3] > 1


def test_the_spread_of_a_divergence_is_that_of_the_blocks_asked_for():
    """403 samples in 4 blocks of 100: the last 3 are left over, not the fourth block; likewise 403 - 3 * 134 in 3."""
    data = dc.Registry.load().make("data", "gaussian", mean=(0.3, -0.2), cov=((0.5, 0.2), (0.2, 0.3)))
    p, q = Gaussian(data.mean, cov=data.cov), Gaussian([0.0, 0.0], cov=[[1.0, 0.0], [0.0, 0.5]])
    x = p.sample(403, dc.Draw(0, range(403), block=403))
    ev = dc.Evaluation(samples=q.sample(60), reference=x, data=data, field=q.field(ReferenceVP()))
    each = log_ratios(p.log_prob, q.log_prob, x.double())
    for blocks in (4, 3):
        size = 403 // blocks
        want = statistics.stdev(float(each[i * size : (i + 1) * size].mean()) for i in range(blocks))
        assert KL(blocks=blocks).measure(ev)["KL"].spread == pytest.approx(want, rel=1e-9)


def test_the_kernel_is_its_formula():
    """mean_h exp(-d^2 / (2 h^2)): 1 at equal points."""
    squared = torch.tensor([0.0, 1.0, 9.0], dtype=torch.float64)
    want = (torch.exp(-squared / 2) + torch.exp(-squared / 8)) / 2
    torch.testing.assert_close(gaussian_mixture_kernel([1.0, 2.0])(squared), want)


@pytest.mark.parametrize(("order", "want"), [(1, 1.5), (2, 2.5)])
def test_costs_of_either_sign_add_up(order, want):
    x, y = torch.tensor([[3.0], [0.0]]), torch.tensor([[1.0], [1.0]])
    assert quantile_costs(x, y, order).tolist() == [want]
