"""6.01-6.04, 6.06, 6.15, 6.17: targets, their conversions, and what is singular."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import diffcore as dc
from diffcore.run.laboratory import TARGETS, rows, targets_table
from diffcore.testing import FiniteSet, golden_mixture

REGISTRY = dc.Registry.load()
A = {name: REGISTRY.make("process", name) for name in ("vp", "ve", "sub-vp", "edm", "flow", "trig", "cosine")}
LAM = torch.linspace(-3, 3, 13, dtype=torch.float64)
POINTS = FiniteSet([[0.9, -0.4], [-0.7, 0.3], [0.1, 0.8]])


@pytest.mark.item("6.04")
@pytest.mark.parametrize("name", A)
def test_every_pair_converts_the_exact_targets(name):
    """want = A x_t + B have for the oracle's targets, all 36 pairs, and there and back is the identity (1e-10)."""
    process, data = A[name], golden_mixture((2,))
    t = process.t_of_lam(LAM)
    at, x = process.coeffs(t), torch.randn(13, 2, generator=torch.Generator().manual_seed(1)).double()
    found, (x0, eps) = rows(process, t), data.moments(x, at)
    exact = {n: p * x0 + q * eps for n in TARGETS for p, q in [[torch.as_tensor(v).expand(13)[:, None] for v in dc.row(n, at)]]}
    for (have, want), c in found.items():
        made = c.A[:, None] * x + c.B[:, None] * exact[have]
        assert float((made - exact[want]).abs().max()) < 1e-9 * (1 + float(exact[want].abs().max())), (have, want)
        back = found[want, have]
        size = 1 + float((back.B * c.A).abs().max())
        assert float((back.A + back.B * c.A).abs().max()) < 1e-10 * size
        assert float((back.B * c.B - 1).abs().max()) < 1e-10


@pytest.mark.item("6.04", "6.17")
def test_formulas_of_the_book():
    """6.04: eps = -s score, x = (x_t + s^2 score)/a, v = f x_t - g^2 score / 2, score = (a v - a' x_t)/(s (a's - a s'))."""
    for process in A.values():
        t = process.t_of_lam(LAM)
        c, found = process.coeffs(t), rows(process, t)
        a, s, da, ds = c.alpha, c.sigma, c.dalpha, c.dsigma
        f, g2, d = da / a, -2 * s**2 * (da / a - ds / s), s * (da * s - a * ds)
        want = {
            ("score", "eps"): (0 * a, -s),
            ("score", "x0"): (1 / a, s**2 / a),
            ("score", "velocity"): (f, -g2 / 2),
            ("velocity", "score"): (-da / d, a / d),
        }
        for pair, (A_, B_) in want.items():
            torch.testing.assert_close(found[pair].A, A_, rtol=1e-9, atol=1e-12)
            torch.testing.assert_close(found[pair].B, B_, rtol=1e-9, atol=1e-12)


@pytest.mark.item("6.06", "6.15")
def test_the_ode_in_four_forms():
    """6.06: the drift from x0, eps, score and velocity is one; its linear parts are s'/s, a'/a, a'/a and 0 (6.15: stiffness)."""
    for process in A.values():
        t = process.t_of_lam(LAM)
        c, found = process.coeffs(t), rows(process, t)
        for have, stiff in (("x0", c.dsigma / c.sigma), ("eps", c.dalpha / c.alpha), ("score", c.dalpha / c.alpha)):
            torch.testing.assert_close(found[have, "velocity"].A, stiff, rtol=1e-9, atol=1e-12)
        assert float(found["velocity", "velocity"].A.abs().max()) == 0


SINGULAR = {
    ("vp", "eps", "x0"): (),
    ("flow", "eps", "x0"): (1.0,),
    ("flow", "x0", "eps"): (0.0,),
    ("flow", "v", "score"): (0.0,),
    ("flow", "velocity", "x0"): (),
    ("flow", "velocity", "eps"): (),
    ("flow", "score", "velocity"): (1.0,),
    ("flow", "edm", "x0"): (),
    ("flow", "score", "eps"): (),
    ("vp", "eps", "velocity"): (0.0,),
    ("vp", "velocity", "eps"): (),
    ("vp", "score", "velocity"): (),
    ("edm", "x0", "velocity"): (0.0,),
    ("edm", "eps", "velocity"): (),
    ("cosine", "eps", "v"): (1.0,),
    ("trig", "v", "x0"): (),
    ("sub-vp", "eps", "velocity"): (),
}


@pytest.mark.parametrize(("key", "ends"), SINGULAR.items(), ids=lambda v: "-".join(map(str, v)) if v else "none")
def test_singular_ends_are_known(key, ends):
    """By hand: 1/alpha at T, 1/sigma at 0, sigma' at 0 where sigma grows like sqrt(t); removable 0/0 are not listed."""
    name, have, want = key
    assert rows(A[name], A[name].t_of_lam(LAM))[have, want].singular == ends


def test_the_table_reads_as_rows():
    text = targets_table(A["flow"])
    lines = text.splitlines()
    assert lines[0].startswith("Flow: want = A x_t + B have")
    assert len(lines) == 4 + len(TARGETS)
    assert all(len(line) <= 130 for line in lines)
    line = next(line for line in lines if line.startswith("eps "))
    assert "+2 -1 T" in line  # x_0 = (x_t - t eps)/(1 - t) at t = 1/2
    assert "=" in line


def test_only_affine_processes_have_targets():
    class Bare(dc.Process):
        """Provides nothing."""

    with pytest.raises(dc.IncompatibleError, match="Bare"):
        rows(Bare(), LAM)  # type: ignore[arg-type]


# --- 6.01, 6.02: the finite data set -----------------------------------------------------------------------------------


@pytest.mark.item("6.01")
def test_the_three_views_have_one_minimiser():
    """The minimisers of the KL (posterior mean), score (DSM) and velocity (CFM) losses over constants, each at fixed x_t, from
    the posterior weights: one denoiser (1e-10)."""
    process = A["vp"]
    x, t = torch.tensor([[0.2, 0.1], [-0.5, 0.6]], dtype=torch.float64), 0.3
    at = process.coeffs(torch.tensor(t, dtype=torch.float64))
    each = (x[:, None] - at.alpha * POINTS.points) / at.sigma  # the noise that leads from every point to x
    weight = torch.softmax(-each.square().sum(2) / 2, 1)[..., None]
    targets = {
        "x0": POINTS.points.expand_as(each),
        "score": -each / at.sigma,
        "velocity": at.dalpha * POINTS.points + at.dsigma * each,
    }
    for name, target in targets.items():
        least = (weight * target).sum(1)
        known = dc.Denoiser(lambda x, t, least=least: least, name, process)(x, t)
        for want in ("mean", "eps", "velocity"):
            exact = getattr(POINTS, want)(x, at)
            assert float((getattr(known, want) - exact).abs().max()) < 1e-10


@pytest.mark.item("6.02")
def test_the_exact_denoiser_of_a_finite_set_reproduces_it():
    """6.02: memorisation. Every sample of the probability-flow ODE ends on a training point, and all points are found."""
    solver = REGISTRY.make("solver", "dpmpp-2m", steps=60, grid={"type": "uniform-lam"})
    process = A["vp"]
    x = dc.sample(POINTS.field(process), solver, process.prior((2,), dc.Draw(1, range(64))).double()).x
    gaps = torch.cdist(x, POINTS.points)
    assert float(gaps.min(1).values.max()) < 1e-6
    assert set(gaps.argmin(1).tolist()) == {0, 1, 2}


def test_the_table_in_the_readme_is_current():
    page = Path(__file__).parents[1] / "plugins" / "unified" / "README.md"
    assert targets_table(A["flow"]) in page.read_text()
