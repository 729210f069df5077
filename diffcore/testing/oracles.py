"""Data distributions whose noised marginals, posteriors and flow maps are known in closed form, under every affine process.

With x_t = alpha x_0 + sigma eps (+ shift), all evaluated in float64 and returned in the dtype of x:

    Gaussian N(m, C)       E[x_0|x_t] = m + alpha C (alpha^2 C + sigma^2)^-1 (x_t - alpha m)
                           Psi_{t->s}(x) = alpha_s m + (V_s V_t^-1)^(1/2) (x - alpha_t m),  V = alpha^2 C + sigma^2
    Mixture                responsibilities r_k ~ w_k N(x_t; alpha m_k, V_k), then the Gaussian formulas weighted by r_k
    FiniteSet {x^i}        weights softmax(-|x_t - alpha x^i|^2 / 2 sigma^2)
    LinearInverse          y = H x_0 + s z with a Gaussian prior: p(x_0 | y) is a Gaussian again

Source: Lai et al. 2025 (arXiv 2510.21890), chapters 4 and 6. Times may be a number, (B,), or per pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from diffcore.declare.errors import DiffcoreError
from diffcore.numerics.affine import Coeffs, combine
from diffcore.numerics.draw import Draw
from diffcore.numerics.fields import Denoiser, Field
from diffcore.numerics.process import Process
from diffcore.numerics.readings import Reading
from diffcore.numerics.tree import expand

DATA = Coeffs(0.0, 1.0, 0.0, 0.0, 0.0)
"""The coefficients of clean data: alpha = 1, sigma = 0."""


def instant(process: Process, t: Any) -> Coeffs:
    """The coefficients of a process at time t (a number or a tensor), float64."""
    return process.coeffs(torch.as_tensor(t, dtype=torch.float64))


class ExactNet:
    """The perfect network: `net(x, t, label=None)` returns the conditional expectation of the target `prediction`.

    `seen` records the times it was called with, one entry (the largest) per call.
    """

    def __init__(self, oracle: Oracle, process: Process, prediction: str = "x0", sigma_data: float = 0.5) -> None:
        self.oracle, self.process, self.prediction, self.sigma_data = oracle, process, prediction, sigma_data
        self.null_cond = {"label": oracle.classes} if oracle.classes else {}
        self.seen: list[float] = []

    def __call__(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """The target of shape x at times t, (B,) or per pixel."""
        self.seen.append(float(t.detach().max()))
        at = self.process.coeffs(t.double())
        x0, eps = self.oracle.moments(x, at, label)
        return combine(self.prediction, at, x0, eps, self.sigma_data).to(x.dtype)


class Oracle:
    """A distribution of x_0 with known E[x_0|x_t] and E[eps|x_t]. Everything else is derived.

    shape: the event shape. classes: number of values of the condition 'label' (0: unconditional).
    """

    shape: tuple[int, ...] = ()
    classes: int = 0

    def moments(self, x: Tensor, at: Coeffs, label: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(E[x_0|x_t = x], E[eps|x_t = x]), float64, shape of x."""
        raise NotImplementedError

    def log_prob(self, x: Tensor, at: Coeffs = DATA) -> Tensor:
        """log p_t(x), float64 (B,)."""
        raise NotImplementedError

    def sample(self, n: int, draw: Draw | None = None) -> Tensor:
        """n samples of x_0, float64 (n, *shape); `draw` must have n ids."""
        raise NotImplementedError

    def mean(self, x: Tensor, at: Coeffs, label: Tensor | None = None) -> Tensor:
        """E[x_0 | x_t = x]."""
        return self.moments(x, at, label)[0].to(x.dtype)

    def eps(self, x: Tensor, at: Coeffs, label: Tensor | None = None) -> Tensor:
        """E[eps | x_t = x]."""
        return self.moments(x, at, label)[1].to(x.dtype)

    def score(self, x: Tensor, at: Coeffs, label: Tensor | None = None) -> Tensor:
        """grad log p_t(x) = -E[eps|x_t] / sigma; needs sigma > 0."""
        return combine("score", at, *self.moments(x, at, label)).to(x.dtype)

    def velocity(self, x: Tensor, at: Coeffs, label: Tensor | None = None) -> Tensor:
        """alpha' E[x_0|x_t] + sigma' E[eps|x_t] (+ shift'), the right-hand side of the probability-flow ODE."""
        return combine("velocity", at, *self.moments(x, at, label)).to(x.dtype)

    def net(self, process: Process, prediction: str = "x0", sigma_data: float = 0.5) -> ExactNet:
        """The exact network for this data, process and prediction; records the times it is called with in `seen`."""
        return ExactNet(self, process, prediction, sigma_data)

    def denoiser(self, process: Process, prediction: str = "x0", sigma_data: float = 0.5) -> Denoiser:
        """The exact denoiser: an ordinary `Denoiser` around the exact network, so that its calls are counted."""
        return Denoiser(self.net(process, prediction, sigma_data), Reading(prediction, sigma_data=sigma_data), process)

    def field(self, process: Process, prediction: str = "x0", **kwargs: Any) -> Field:
        """The exact field; keyword arguments (guidance, cond, ...) go to `Field`."""
        return Field(self.denoiser(process, prediction), **kwargs)

    def flow(self, process: Process, x: Tensor, t: float, s: float, steps: int = 400) -> Tensor:
        """Psi_{t->s}(x) by the classical fourth-order Runge-Kutta method on the exact velocity, float64.

        A reference where no closed form exists; its error is checked against `Gaussian.flow` in the tests.
        """
        x, nodes = x.double(), torch.linspace(t, s, steps + 1, dtype=torch.float64)

        def v(y: Tensor, time: Tensor) -> Tensor:
            return self.velocity(y, process.coeffs(time))

        for a, b in pairwise(nodes):
            h, middle = b - a, (a + b) / 2
            k1 = v(x, a)
            k2 = v(x + h / 2 * k1, middle)
            k3 = v(x + h / 2 * k2, middle)
            x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + v(x + h * k3, b))
        return x


class Gaussian(Oracle):
    """N(mean, std^2) entry by entry, or N(mean, cov) for vectors.

    mean: a number or a tensor of the event shape; std: likewise, > 0; cov: (D, D) positive definite, instead of std.
    shape: the event shape where mean is a number (default that of mean, or of std).
    """

    def __init__(self, mean: Any = 0.0, std: Any = 1.0, *, cov: Any = None, shape: tuple[int, ...] | None = None) -> None:
        mean, std = _tensor(mean), _tensor(std)
        self.basis: Tensor | None = None
        if cov is not None:
            variances, self.basis = torch.linalg.eigh(_tensor(cov))
            std = variances.sqrt()
        self.shape = tuple(shape) if shape is not None else torch.broadcast_shapes(mean.shape, std.shape)
        self.m, self.std = mean.expand(self.shape), std.expand(self.shape)

    @property
    def cov(self) -> Tensor:
        """The covariance of x_0 as a matrix over the flattened event."""
        diagonal = torch.diag(self.std.reshape(-1) ** 2)
        return diagonal if self.basis is None else self.basis @ diagonal @ self.basis.T

    def _centred(self, x: Tensor, at: Coeffs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x - alpha m - shift in the eigenbasis, alpha, sigma, and V = alpha^2 C + sigma^2."""
        a, s, shift = _lift(at, x)
        if self.basis is not None and a.ndim == x.ndim and a.shape[-1] > 1:
            raise DiffcoreError("a Gaussian oracle with a full covariance knows no per-pixel time; give std instead of cov")
        return self._rotate(x.double() - a * self.m - shift), a, s, a**2 * self.std**2 + s**2

    def _rotate(self, x: Tensor) -> Tensor:
        return x if self.basis is None else x @ self.basis

    def _back(self, x: Tensor) -> Tensor:
        return x if self.basis is None else x @ self.basis.T

    def moments(self, x: Tensor, at: Coeffs, label: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """m + alpha C V^-1 r and sigma V^-1 r, with r = x_t - alpha m."""
        r, a, s, v = self._centred(x, at)
        return self.m + self._back(a * self.std**2 / v * r), self._back(s / v * r)

    def log_prob(self, x: Tensor, at: Coeffs = DATA) -> Tensor:
        """log N(x; alpha m, alpha^2 C + sigma^2)."""
        r, _, _, v = self._centred(x, at)
        return _log_normal(r, v.expand(r.shape)).reshape(len(x), -1).sum(1)

    def sample(self, n: int, draw: Draw | None = None) -> Tensor:
        """m + C^(1/2) z."""
        z = _draw(n, draw).normal(self.shape, torch.float64)
        return self.m + self._back(self.std * z)

    def moved(self, x: Tensor, t: Coeffs, s: Coeffs) -> Tensor:
        """Psi_{t->s}(x) between two coefficients: alpha_s m + (V_s / V_t)^(1/2) (x - alpha_t m)."""
        r, _, _, v_t = self._centred(x, t)
        a, sigma, shift = _lift(s, x)
        v_s = a**2 * self.std**2 + sigma**2
        return a * self.m + shift + self._back((v_s / v_t) ** 0.5 * r)

    def flow(self, process: Process, x: Tensor, t: Any, s: Any, steps: int = 0) -> Tensor:
        """Psi_{t->s}(x) in closed form."""
        return self.moved(x, instant(process, t), instant(process, s))


class Mixture(Oracle):
    """sum_k w_k N(m_k, s_k^2), entry by entry within a component; the condition 'label' names the component.

    weights (K,), positive, normalised here; means (K, *shape); stds (K,) or (K, *shape). A label equal to K (the null class)
    is the whole mixture.
    """

    def __init__(self, weights: Any, means: Any, stds: Any) -> None:
        self.weights = _tensor(weights) / _tensor(weights).sum()
        self.log_weights = self.weights.log()
        self.means, stds = _tensor(means), _tensor(stds)
        self.classes, self.shape = len(self.means), tuple(self.means.shape[1:])
        self.stds = stds.reshape(stds.shape + (1,) * (self.means.ndim - stds.ndim)).expand(self.means.shape)

    def _parts(self, x: Tensor, at: Coeffs, label: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Per component: log(w_k N(x; ...)) (B, K), and residual, V, alpha, sigma that broadcast with (B, K, *shape)."""
        a, s, shift = (v if v.ndim == 0 else v.unsqueeze(1) for v in _lift(at, x))
        r = x.double().unsqueeze(1) - a * self.means - shift
        v = (a**2 * self.stds**2 + s**2).expand(r.shape)
        logs = _log_normal(r, v).reshape(len(x), self.classes, -1).sum(2) + self._log_weights(label)
        return logs, r, v, a, s

    def _log_weights(self, label: Tensor | None) -> Tensor:
        if label is None:
            return self.log_weights
        chosen = torch.nn.functional.one_hot(label, self.classes + 1)[:, :-1].bool()
        one = torch.where(chosen, 0.0, -torch.inf).double()
        return torch.where((label == self.classes)[:, None], self.log_weights, one)

    def moments(self, x: Tensor, at: Coeffs, label: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Responsibilities times the component's Gaussian formulas."""
        logs, r, v, a, s = self._parts(x, at, label)
        weight = _over(logs.softmax(1), r)
        return (weight * (self.means + a * self.stds**2 / v * r)).sum(1), (weight * (s / v * r)).sum(1)

    def log_prob(self, x: Tensor, at: Coeffs = DATA, label: Tensor | None = None) -> Tensor:
        """log sum_k w_k N(x; alpha m_k, V_k)."""
        return self._parts(x, at, label)[0].logsumexp(1)

    def responsibilities(self, x: Tensor, at: Coeffs = DATA) -> Tensor:
        """p(component | x_t), (B, K): the exact noise-aware classifier."""
        return self._parts(x, at, None)[0].softmax(1)

    def sample(self, n: int, draw: Draw | None = None, label: Tensor | None = None) -> Tensor:
        """A component per sample (or the given labels), then its Gaussian."""
        draw = _draw(n, draw)
        k = (
            label
            if label is not None
            else torch.searchsorted(self.weights.cumsum(0), draw.fold(1).uniform()).clamp_max(self.classes - 1)
        )
        return self.means[k] + self.stds[k] * draw.normal(self.shape, torch.float64)

    def average(self) -> tuple[Tensor, Tensor]:
        """Mean and variance of x_0, entry by entry."""
        w = self.weights.reshape(-1, *[1] * len(self.shape))
        mean = (w * self.means).sum(0)
        return mean, (w * (self.stds**2 + self.means**2)).sum(0) - mean**2

    def _tails(self, x: Tensor, at: Coeffs) -> tuple[Tensor, Tensor]:
        """P(x_t <= x) and P(x_t > x) for a one-dimensional event, each accurate where it is small."""
        a, s, shift = (v if v.ndim == 0 else v.reshape(-1, 1) for v in _lift(at, x))
        means, stds = self.means.reshape(-1), self.stds.reshape(-1)
        z = (x.double().reshape(-1, 1) - a * means - shift) / (2 * (a**2 * stds**2 + s**2)) ** 0.5
        return (self.weights * torch.erfc(-z)).sum(1) / 2, (self.weights * torch.erfc(z)).sum(1) / 2

    def flow(self, process: Process, x: Tensor, t: Any, s: Any, steps: int = 400) -> Tensor:
        """Psi_{t->s}(x): in one dimension the quantile transport F_s^-1(F_t(x)) by bisection, else the fine reference."""
        if self.means[0].numel() != 1:
            return super().flow(process, x, float(t), float(s), steps)
        at, end = instant(process, t), instant(process, s)
        below, above = self._tails(x, at)
        reach = (
            10 * float(self.means.abs().max() + self.stds.max() + 1)
            + 10 * float(torch.as_tensor(end.sigma).max())
            + float(x.abs().max())
        )
        low, high = torch.full_like(below, -reach), torch.full_like(below, reach)
        for _ in range(120):
            middle = (low + high) / 2
            under, over = self._tails(middle.reshape(x.shape), end)
            short = torch.where(below < above, under < below, over > above)
            low, high = torch.where(short, middle, low), torch.where(short, high, middle)
        return ((low + high) / 2).reshape(x.shape)


class FiniteSet(Oracle):
    """Equal weight on each of the points (n, *shape): the exact denoiser of a finite training set.

    The optimum of every denoising loss on that set (Lai et al. 2025, equation 6.1).
    """

    def __init__(self, points: Any) -> None:
        self.points = _tensor(points)
        self.shape = tuple(self.points.shape[1:])

    def _residuals(self, x: Tensor, at: Coeffs) -> tuple[Tensor, Tensor]:
        a, s, shift = (v if v.ndim == 0 else v.unsqueeze(1) for v in _lift(at, x))
        return x.double().unsqueeze(1) - a * self.points - shift, s

    def moments(self, x: Tensor, at: Coeffs, label: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Softmax averages of x^i and of (x_t - alpha x^i) / sigma; at sigma = 0 the nearest point and zero noise."""
        r, s = self._residuals(x, at)
        s = s.clamp_min(1e-150)
        half = ((r / s) ** 2).reshape(len(x), len(self.points), -1).sum(2) / 2
        weight = _over((half.min(1, keepdim=True).values - half).softmax(1), r)
        return (weight * self.points).sum(1), (weight * (r / s)).sum(1)

    def log_prob(self, x: Tensor, at: Coeffs = DATA) -> Tensor:
        """log of the average of N(x; alpha x^i, sigma^2); needs sigma > 0."""
        r, s = self._residuals(x, at)
        logs = _log_normal(r, (s**2).expand(r.shape)).reshape(len(x), len(self.points), -1).sum(2)
        return logs.logsumexp(1) - torch.tensor(float(len(self.points))).double().log()

    def sample(self, n: int, draw: Draw | None = None) -> Tensor:
        """Points, uniformly."""
        return self.points[_draw(n, draw).integers(len(self.points))]


class LinearInverse:
    """y = H x_0 + noise z, z ~ N(0, I), under a Gaussian prior of vectors: the posterior given y is a Gaussian oracle.

    prior: a `Gaussian` with event (D,); matrix H (M, D); noise > 0.
    """

    def __init__(self, prior: Gaussian, matrix: Any, noise: float) -> None:
        self.prior, self.matrix, self.noise = prior, _tensor(matrix), noise

    def observe(self, x0: Tensor, draw: Draw | None = None) -> Tensor:
        """y of shape (B, M) for x_0 (B, D)."""
        z = _draw(len(x0), draw).normal((len(self.matrix),), torch.float64)
        return x0.double() @ self.matrix.T + self.noise * z

    def posterior(self, y: Any) -> Gaussian:
        """p(x_0 | y) for one observation y (M,): precision C^-1 + H^T H / noise^2."""
        h, inverse = self.matrix, torch.linalg.inv(self.prior.cov)
        cov = torch.linalg.inv(inverse + h.T @ h / self.noise**2)
        cov = (cov + cov.T) / 2
        return Gaussian(cov @ (inverse @ self.prior.m + h.T @ _tensor(y) / self.noise**2), cov=cov)

    def log_likelihood(self, x: Tensor, at: Coeffs, y: Any) -> Tensor:
        """log p(y | x_t) = log N(y; H E[x_0|x_t], H C_t H^T + noise^2), at one time t; (B,)."""
        a, s, _ = _lift(at, x)
        v = a.reshape(()) ** 2 * self.prior.cov + s.reshape(()) ** 2 * torch.eye(len(self.prior.cov), dtype=torch.float64)
        left = self.prior.cov - a.reshape(()) ** 2 * self.prior.cov @ torch.linalg.solve(v, self.prior.cov)
        spread = self.matrix @ left @ self.matrix.T + self.noise**2 * torch.eye(len(self.matrix), dtype=torch.float64)
        mean = self.prior.moments(x, at)[0] @ self.matrix.T
        return torch.distributions.MultivariateNormal(mean, spread).log_prob(_tensor(y).expand(mean.shape))


def golden_mixture(shape: tuple[int, ...] = (1,)) -> Mixture:
    """The mixture of the order tests: weights .3 and .7, means -1.5 and 1 in every entry, deviations .3 and .5."""
    means = torch.tensor([-1.5, 1.0], dtype=torch.float64).reshape(2, *[1] * len(shape)).expand(2, *shape)
    return Mixture([0.3, 0.7], means, [0.3, 0.5])


def _tensor(value: Any) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float64)


def _lift(at: Coeffs, x: Tensor) -> Sequence[Tensor]:
    """alpha, sigma and shift in float64, lifted from the left against x."""
    return [expand(_tensor(v), x) for v in (at.alpha, at.sigma, at.shift)]


def _over(weight: Tensor, like: Tensor) -> Tensor:
    """(B, K) weights against (B, K, *shape)."""
    return weight.reshape(weight.shape + (1,) * (like.ndim - 2))


def _log_normal(r: Tensor, variance: Tensor) -> Tensor:
    return -0.5 * (r**2 / variance + (2 * torch.pi * variance).log())


def _draw(n: int, draw: Draw | None) -> Draw:
    return Draw(0, range(n)) if draw is None else draw
