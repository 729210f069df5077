"""Checks of processes: coefficients against their derivatives, kernels against Gaussians and Bayes, times of every shape."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from diffcore.numerics.affine import Posterior, convert, row
from diffcore.numerics.fields import Denoiser, Field
from diffcore.numerics.laws import GaussianLaw
from diffcore.numerics.process import AffineProcess, Process
from diffcore.numerics.solver import check_grid
from diffcore.numerics.tree import State, leaves, tree_map
from diffcore.testing.base import Subject, accepted, check, draw_of, normal, poisoned_noise, refused, same, unchanged, worst
from diffcore.testing.oracles import FiniteSet, Gaussian, golden_mixture, instant

INSIDE = 0.03 + 0.94 * (torch.arange(1, 42, dtype=torch.float64) * (5**0.5 - 1) / 2 % 1).sort().values
"""Fractions of T, evenly spread by the golden ratio: none is where schedules made of simple fractions have a kink."""
BESIDE = 0.0017
"""Where a slope is measured again, in T: at a kink there is none, and a wrong one is wrong beside it too."""


def _affine(cls: Any) -> bool:
    return "affine" in cls.provides


def _gaussian_prior(cls: Any) -> bool:
    return issubclass(cls, AffineProcess)


def _times(process: Process) -> Tensor:
    return INSIDE * process.T


def _close(got: Tensor, want: Tensor, tolerance: float, what: str) -> None:
    gap = _near(got, want).max()
    assert bool(gap <= tolerance), f"{what}: off by {float(gap):.3g} (relative to 1 + size)"


def _state(subject: Subject, n: int) -> State:
    """Data for this process: what its `probe(draw)` makes, else six normal numbers."""
    process = subject.component
    return process.probe(draw_of(n)) if hasattr(process, "probe") else draw_of(n).normal((6,), torch.float64)


def _near(got: Tensor, want: Tensor) -> Tensor:
    """|got - want| relative to 1 + |want|."""
    return (got - want).abs() / (1 + want.abs())


@check("process", applies=_affine)
def data_to_noise(subject: Subject) -> None:
    """Time runs from data to noise: sigma grows from 0 to T; at 0 x_t is the data, alpha = 1 and shift = 0 (1e-3), sigma <= .02.

    A process whose x_0 is not the data at t = 0 says why in `expected_failures`.
    """
    process = subject.component
    start, end = instant(process, 0.0), instant(process, process.T)
    alpha, sigma, last = float(start.alpha), float(start.sigma), float(end.sigma)
    assert last > sigma, (
        f"sigma is {last:.4g} at T = {process.T:g} and {sigma:.4g} at 0: time runs from 0 (data) to T (noise); replace t by T - t"
    )
    assert abs(alpha - 1) <= 1e-3, f"alpha(0) = {alpha:.6g}, must be 1: every sample comes out {alpha:.4g} times as large as data"
    assert sigma <= 0.02, f"sigma(0) = {sigma:.4g}, must be 0: the samples at t = 0 keep that much noise"
    shift = float(torch.as_tensor(start.shift).abs().max())
    assert shift <= 1e-3, f"shift(0) is {shift:.4g}, must be 0: every sample comes out moved by it"


@check("process", applies=_affine)
def derivatives(subject: Subject) -> None:
    """alpha', sigma' and shift' are the derivatives of alpha, sigma and shift (central differences, relative 1e-5).

    At 41 irregular times, each or its neighbour: a schedule may have kinks.
    """
    process, h = subject.component, 1e-6 * subject.component.T
    for name in ("alpha", "sigma", "shift"):

        def gap(t: Tensor, name: str = name) -> Tensor:
            up, down = (torch.as_tensor(getattr(process.coeffs(u), name)).double() for u in (t + h, t - h))
            return _near(torch.as_tensor(getattr(process.coeffs(t), f"d{name}")).double(), (up - down) / (2 * h))

        t = _times(process)
        found = torch.minimum(gap(t), gap(t + BESIDE * process.T)).max()
        assert float(found) <= 1e-5, f"d{name} is not the derivative of {name}: off by {float(found):.3g} (relative to 1 + size)"


@check("process", applies=_affine)
def signal_falls(subject: Subject) -> None:
    """lam = log(alpha/sigma) falls strictly with t on all of [0, T]."""
    process = subject.component
    lam = process.coeffs(torch.linspace(0, process.T, 1001, dtype=torch.float64)).lam
    rising = (~(lam[1:] < lam[:-1])).nonzero()
    assert not len(rising), f"log(alpha/sigma) does not fall at t = {float(rising[0]) / 1000 * process.T:.4g}"


@check("process", applies=_affine)
def inverse_of_lam(subject: Subject) -> None:
    """t_of_lam inverts lam, in both directions."""
    process = subject.component
    t = _times(process)
    lam = process.coeffs(t).lam
    back = process.t_of_lam(lam)
    _close(back / process.T, t / process.T, 1e-6, "t_of_lam(lam(t)) is not t")
    _close(process.coeffs(back).lam, lam, 1e-6, "lam(t_of_lam(lam)) is not lam")


@check("process", applies=_affine)
def lam_beyond_the_ends(subject: Subject) -> None:
    """t_of_lam of any lam is within [0, T]: falling, also for lam beyond both ends and where no signal is left."""
    process = subject.component
    levels = process.coeffs(torch.tensor([max(process.min_time, 1e-9 * process.T), process.T], dtype=torch.float64)).lam
    high, low = (float(v) if bool(v.isfinite()) else sign * 40.0 for v, sign in zip(levels, (1, -1), strict=True))
    lam = torch.tensor([high + 30, high + 3, high, low, low - 3, low - 30, -torch.inf], dtype=torch.float64)
    t = process.t_of_lam(lam)
    assert bool(((t >= 0) & (t <= process.T * (1 + 1e-12))).all()), (
        f"t_of_lam of lam = {[float(f'{v:.4g}') for v in lam]} is {[float(f'{v:.4g}') for v in t]}, must be within 0 and "
        f"T = {process.T:g}: clamp it"
    )
    assert bool((t[1:] >= t[:-1]).all()), f"t_of_lam rises with lam: {t.tolist()} at lam = {lam.tolist()}"


@check("process", applies=_affine)
def double_precision(subject: Subject) -> None:
    """Coefficients keep the shape and float64 of the times, and are the same for one time as for many."""
    process, t = subject.component, _times(subject.component)
    many = process.coeffs(t)
    for name in ("alpha", "sigma", "dalpha", "dsigma"):
        value = getattr(many, name)
        found = (value.dtype, tuple(value.shape))
        assert found == (torch.float64, (41,)), f"{name} is {found} for 41 float64 times"
        one = torch.stack([getattr(process.coeffs(u), name) for u in t])
        assert same(one, value, 1e-14), f"{name} of one time differs from that of many by {worst(one, value):.3g}"


@check("process", applies=_affine)
def kernel_moments(subject: Subject) -> None:
    """Noised Gaussian data has mean alpha m + shift and variance alpha^2 d^2 + sigma^2 at T, .7 T and .5 T (4.5 s.e.)."""
    process, data = subject.component, Gaussian(0.3, 0.8, shape=(2048,))
    x0 = data.sample(8)
    for fraction in (1.0, 0.7, 0.5):
        made = process.corrupt(x0, torch.full((8,), fraction * process.T, dtype=torch.float64), draw_of(8, seed=11))
        at = instant(process, fraction * process.T)
        _moments(made.xt, at.alpha * 0.3 + at.shift, at.alpha**2 * 0.64 + at.sigma**2, f"x_t at {fraction} T")
        _close(made.xt, at.alpha * x0 + at.sigma * made.eps + at.shift, 1e-9, "x_t is not alpha x_0 + sigma eps + shift")
        _moments(made.eps, torch.tensor(0.0), torch.tensor(1.0), "eps")


def _moments(x: Tensor, mean: Any, variance: Any, what: str) -> None:
    n = x.numel()
    off = float((x.mean() - mean).abs() / (variance / n) ** 0.5)
    assert off < 4.5, f"{what}: mean {float(x.mean()):.4g}, should be {float(mean):.4g} ({off:.1f} standard errors off)"
    off = float((x.var() / variance - 1).abs() / (2 / n) ** 0.5)
    assert off < 4.5, f"{what}: variance {float(x.var()):.4g}, should be {float(variance):.4g} ({off:.1f} standard errors off)"


@check("process", applies=_gaussian_prior)
def prior_moments(subject: Subject) -> None:
    """The prior is centred, with a variance between sigma_T^2 and that of unit-variance data, alpha_T^2 + sigma_T^2."""
    process = subject.component
    x, at = process.prior((2048,), draw_of(8, seed=3)), instant(process, process.T)
    low, high, n = float(at.sigma**2), float(at.alpha**2 + at.sigma**2), x.numel()
    mean, variance = float((x - at.shift).mean()), float(x.var())
    assert abs(mean) < 4.5 * (high / n) ** 0.5, f"the prior has mean {mean:.4g}, should be 0"
    slack = 4.5 * (2 / n) ** 0.5
    assert low * (1 - slack) < variance < high * (1 + slack), (
        f"the prior has variance {variance:.4g}, should be {low:.4g} to {high:.4g}"
    )


@check("process", applies=lambda cls: _affine(cls) and "reverse" in cls.provides)
def reverse_kernel(subject: Subject) -> None:
    """x_s given x_t and x_0 by Bayes' rule: precision 1/sigma_s^2 + r^2 / (sigma_t^2 - r^2 sigma_s^2), r = alpha_t/alpha_s."""
    process = subject.component
    x0, xt, z = normal(3, 5), normal(3, 5, seed=1), normal(3, 5, seed=2)
    for high, low in ((0.9, 0.85), (0.6, 0.2), (0.3, 0.29)):
        t, s = (process.coeffs(torch.tensor(f * process.T, dtype=torch.float64)) for f in (high, low))
        known = Posterior(xt, x0, "x0", t)
        mean = process.reverse(xt, t, s, known, torch.zeros_like(z))
        ratio, fresh = t.alpha / s.alpha, t.sigma**2 - (t.alpha / s.alpha) ** 2 * s.sigma**2
        precision = 1 / s.sigma**2 + ratio**2 / fresh
        want = (s.alpha * x0 / s.sigma**2 + ratio * (xt - t.shift) / fresh) / precision + s.shift
        _close(mean, want, 1e-8, f"the mean of the reverse step {high} T -> {low} T is not that of Bayes' rule")
        _close(
            process.reverse(xt, t, s, known, z) - mean, precision**-0.5 * z, 1e-8, f"the noise of the step {high} T -> {low} T"
        )
        weight = process.reverse_noise(*process.pairs(torch.tensor([high, low], dtype=torch.float64) * process.T))
        _close(weight, precision.reshape(1) ** -0.5, 1e-8, "reverse_noise is not the standard deviation of the step")


@check("process", applies=lambda cls: _affine(cls) and "reverse" in cls.provides)
def reverse_law(subject: Subject) -> None:
    """`reverse_law` is what `reverse` draws from: sample(z) is that draw, of log-density log p(z) - n log(weight) (1e-8)."""
    process = subject.component
    x0, xt, z = normal(3, 5), normal(3, 5, seed=1), normal(3, 5, seed=2)
    for high, low in ((0.9, 0.85), (0.6, 0.2), (0.3, 0.29)):
        t, s = process.pairs(torch.tensor([high, low], dtype=torch.float64) * process.T)
        at, end = t.at(0), s.at(0)
        known = Posterior(xt, x0, "x0", at)
        law, drawn = process.reverse_law(xt, at, end, known), process.reverse(xt, at, end, known, z)
        _close(law.sample(z), drawn, 1e-8, f"sample(z) of the law of the step {high} T -> {low} T is not reverse(..., z)")
        want = GaussianLaw(torch.zeros_like(z), 1.0, process).log_prob(z) - 5 * process.reverse_noise(t, s).log()
        _close(law.log_prob(drawn), want, 1e-8, "the log-density of reverse_law is not that of the noise of the step")


@check("process", applies=_affine)
def times_per_entry(subject: Subject) -> None:
    """A time per sample or per pixel gives row by row, pixel by pixel, what that time gives alone; also where B = D."""
    process, x0 = subject.component, normal(4, 4)
    rows = torch.tensor([0.2, 0.4, 0.6, 0.9], dtype=torch.float64) * process.T
    for t in (rows, rows.expand(4, 4).contiguous(), rows.reshape(4, 1).expand(4, 4).contiguous()):
        xt = process.corrupt(x0, t, draw_of(4)).xt
        each = t if t.ndim == 2 else t[:, None].expand(4, 4)
        for i in range(4):
            for j in range(4):
                alone = process.corrupt(x0, each[i, j].expand(4), draw_of(4)).xt
                assert abs(float(alone[i, j] - xt[i, j])) < 1e-12, f"a time of shape {tuple(t.shape)} is not lifted from the left"


@check("process", applies=_affine)
def predictions_agree(subject: Subject) -> None:
    """Every prediction the process accepts gives the same posterior mean and velocity (1e-8); conversions are inverse."""
    process, oracle = subject.component, golden_mixture((3,))
    names = accepted(process, process.predictions)
    assert names, f"{type(process).__name__} accepts none of its own predictions {process.predictions}"
    for fraction in (0.2, 0.8):
        t = fraction * process.T
        at, x = instant(process, t), normal(6, 3) * 2
        for name in names:
            known = oracle.denoiser(process, name)(x, t)
            _close(known.mean, oracle.mean(x, at), 1e-8, f"posterior mean read from '{name}' at {fraction} T")
            _close(
                process.velocity(x, known.at, known), oracle.velocity(x, at), 1e-7, f"velocity read from '{name}' at {fraction} T"
            )
            for other in names:
                a, b = convert(at, row(name, at), row(other, at))
                c, d = convert(at, row(other, at), row(name, at))
                _close(
                    torch.stack([c + d * a, d * b]), torch.tensor([0.0, 1.0]).double(), 1e-8, f"'{name}' to '{other}' and back"
                )


@check("process", applies=lambda cls: _affine(cls) and "velocity" in cls.provides)
def velocity_of_flow(subject: Subject) -> None:
    """The velocity is the time derivative of the Gaussian flow map alpha_s m + sqrt(V_s/V_t) (x - alpha_t m).

    At 5 irregular times, each or its neighbour: a schedule may have kinks.
    """
    process, data = subject.component, Gaussian([0.5, -1.0], [0.6, 1.2])
    field, x, h = data.field(process), normal(4, 2), 1e-5 * process.T

    def gap(fraction: float) -> float:
        t = fraction * process.T
        slope = (data.flow(process, x, t, t + h) - data.flow(process, x, t, t - h)) / (2 * h)
        return float(_near(field.velocity(x, t), slope).max())

    for fraction in INSIDE[4::8].tolist():
        found = min(gap(fraction), gap(fraction + BESIDE))
        assert found <= 1e-6, f"velocity at {fraction:.3f} T: off by {found:.3g} (relative to 1 + size)"


@check("process", applies=_affine)
def one_point(subject: Subject) -> None:
    """For a single data point the posterior mean is that point at every time from `min_time` to T."""
    process, data = subject.component, FiniteSet([[0.4, -0.7]])
    field = data.field(process)
    for t in (max(process.min_time, 1e-3 * process.T), 0.5 * process.T, process.T):
        x = normal(5, 2)
        _close(field.posterior(x, t).mean, data.points.expand(5, 2), 1e-6, f"the only possible x_0 at t = {t:.4g}")


@check("process")
def fingerprint(subject: Subject) -> None:
    """Finite numbers, the same for an equal process; an affine one has some."""
    first, again = subject.make().fingerprint(), subject.make().fingerprint()
    assert first == again, "two equal processes have different fingerprints"
    assert all(math.isfinite(v) for v in first), f"the fingerprint is not finite: {first}"
    assert first or not _affine(subject.cls), "an affine process must have a fingerprint"


@check("process")
def time_feature(subject: Subject) -> None:
    """The network's time feature is finite, of order 1, and tells times apart."""
    process = subject.component
    t = torch.linspace(max(process.min_time, 1e-3 * process.T), process.T, 50, dtype=torch.float64)
    feature = process.embed_time(t)
    assert feature.shape == t.shape, f"embed_time turns times {tuple(t.shape)} into {tuple(feature.shape)}"
    assert bool(torch.isfinite(feature).all()), "embed_time is not finite between min_time and T"
    assert float(feature.abs().max()) <= 20, (
        f"embed_time reaches {float(feature.abs().max()):.3g}; a network expects numbers of order 1"
    )
    assert len(feature.unique()) == 50, "embed_time maps different times to one feature"


@check("process")
def default_grid(subject: Subject) -> None:
    """The default grid is strictly falling within [0, T], from the start asked for, with steps + 1 float64 nodes."""
    process = subject.component
    for steps in (1, 2, 20):
        for start in (process.T, 0.6 * process.T):
            grid = process.default_grid(steps, start)
            found = (grid.dtype, len(check_grid(grid, process)))
            assert found == (torch.float64, steps + 1), f"{found} nodes for {steps} steps, must be float64 and {steps + 1}"
            assert abs(float(grid[0]) - start) <= 1e-9 * process.T, f"the grid starts at {float(grid[0])}, not at {start}"


@check("process")
def noise_is_an_argument(subject: Subject) -> None:
    """corrupt, prior and noise take no global randomness, leave their inputs alone, and do not depend on the batch."""
    process, x0, draw = subject.component, _state(subject, 6), draw_of(6)
    t = torch.linspace(0.2, 0.9, 6, dtype=torch.float64) * process.T
    with poisoned_noise(), unchanged("x_0 or t", x0, t):
        whole = process.corrupt(x0, t, draw)
    rows = [1, 4]
    part = process.corrupt(tree_map(lambda leaf: leaf[rows], x0), t[rows], draw.take(rows))
    assert same(part.xt, tree_map(lambda leaf: leaf[rows], whole.xt), 1e-12), "x_t of a sample depends on the rest of its batch"
    assert same(process.corrupt(x0, t, draw).xt, whole.xt), "the same draw gave other noise"


@check("process")
def prior_is_keyed(subject: Subject) -> None:
    """The prior of sample i depends on (seed, i) only, and on no global generator."""
    process, x0, draw = subject.component, _state(subject, 6), draw_of(6)
    shape: Any = tuple(x0.shape[1:]) if isinstance(x0, Tensor) else tree_map(lambda leaf: tuple(leaf.shape[1:]), x0)
    with poisoned_noise():
        whole = process.prior(shape, draw)
    assert same(process.prior(shape, draw.take([4])), tree_map(lambda leaf: leaf[4:5], whole)), "the prior depends on the batch"
    assert len(leaves(whole)[0]) == 6, "the prior must have one row per id of the draw"
    other = process.prior(shape, draw_of(6, seed=8))
    assert not same(other, whole), "the prior does not depend on the seed"


@check("process", applies=_affine)
def refuses_unknown_prediction(subject: Subject) -> None:
    """A prediction it does not read is refused by name, before anything runs."""
    process = subject.component
    message = refused(lambda: Field(Denoiser(lambda x, t: x, "no-such-prediction", process)))
    assert message, "a prediction called 'no-such-prediction' was accepted"
    for name in ("no-such-prediction", type(process).__name__):
        assert name in message, f"the refusal does not name {name}: {message}"
