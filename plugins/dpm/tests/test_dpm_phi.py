"""The phi functions and Lagrange weights against arbitrary precision and exact integrals."""

import math

import mpmath
import pytest
import torch
from diffcore_dpm.span import lagrange

from diffcore.numerics.span import moments_of_exp as moments
from diffcore.numerics.span import phi


def exact_phi(k, z):
    z = mpmath.mpf(z)
    return (mpmath.exp(z) - sum(z**j / mpmath.factorial(j) for j in range(k))) / z**k


@pytest.mark.item("9.12")
@pytest.mark.parametrize("k", range(1, 7))
def test_phi_is_accurate_from_tiny_to_large_arguments(k):
    sizes = [1e-8, 1e-5, 1e-3, 0.1, 0.5, 0.999, 1.0, 1.001, 2.0, 3.7, 8.0, 20.0, 40.0]
    z = torch.tensor([*sizes, *(-v for v in sizes)], dtype=torch.float64)
    with mpmath.workdps(80):
        want = [exact_phi(k, v) for v in z.tolist()]
        off = [abs(mpmath.mpf(a) / b - 1) for a, b in zip(phi(k, z).tolist(), want, strict=True)]
    assert float(max(off)) < 1e-12


@pytest.mark.item("9.12")
def test_phi_at_zero_is_one_over_k_factorial():
    zero = torch.zeros((), dtype=torch.float64)
    for k in range(1, 7):
        assert float(phi(k, zero)) == pytest.approx(1 / math.factorial(k), rel=1e-15)


@pytest.mark.parametrize("rate", [-9.0, -0.3, 0.0, 1e-6, 2.0, 15.0])
def test_moments_are_averages_under_an_exponential(rate):
    with mpmath.workdps(30):

        def integral(k):
            return mpmath.quad(lambda u: mpmath.exp(rate * u) * u**k, [0, 0.5, 1])

        want = [float(integral(k) / integral(0)) for k in range(6)]
    got = moments(torch.tensor([rate], dtype=torch.float64), 6)
    assert [float(v) for v in got] == pytest.approx(want, rel=1e-11)


@pytest.mark.item("9.19")
def test_lagrange_weights_integrate_every_polynomial_through_the_active_nodes():
    """sum_j w_j p(u_j) is the average of p for every p of the degree the nodes allow; an inactive node has weight 0."""
    values = (0.0, 1.0, -0.7, -1.9)
    nodes = [torch.tensor([u], dtype=torch.float64) for u in values]
    average = moments(torch.tensor([1.3], dtype=torch.float64), 4)
    for off in (None, 2, 3):
        active = [torch.tensor([j != off]) for j in range(4)]
        weights = lagrange(nodes, active, average)
        assert off is None or float(weights[off]) == 0
        for k in range(4 if off is None else 3):
            got = sum(float(w) * u**k for w, u in zip(weights, values, strict=True))
            assert got == pytest.approx(float(average[k]), rel=1e-12)


@pytest.mark.item("9.18")
def test_the_classical_adams_weights_are_the_limit_of_small_steps():
    """Equal steps and h -> 0: 3/2, -1/2; 23, -16, 5 over 12; 55, -59, 37, -9 over 24; with a node ahead 5, 8, -1 over 12."""
    flat = moments(torch.zeros(1, dtype=torch.float64), 4)

    def weights(*nodes):
        tensors = [torch.tensor([float(u)], dtype=torch.float64) for u in nodes]
        return [float(w) for w in lagrange(tensors, [torch.tensor([True])] * len(nodes), flat[: len(nodes)])]

    assert weights(0, -1) == pytest.approx([3 / 2, -1 / 2])
    assert weights(0, -1, -2) == pytest.approx([23 / 12, -16 / 12, 5 / 12])
    assert weights(0, -1, -2, -3) == pytest.approx([55 / 24, -59 / 24, 37 / 24, -9 / 24])
    assert weights(1, 0, -1) == pytest.approx([5 / 12, 8 / 12, -1 / 12])
