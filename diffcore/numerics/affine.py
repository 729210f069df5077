"""The algebra of affine processes: coefficients, target rows, and the one conversion between them.

With `x_t = alpha x_0 + sigma eps + shift`, every regression target is a row (p, q): `target = p x_0 + q eps`. A network's
output for a known row and x_t are two equations for (x_0, eps):

    [alpha sigma] [x_0]   [x_t - shift]
    [p     q    ] [eps] = [output     ]

so any other row (P, Q) is read as `A x_t + B output` with

    A = (P q - Q p) / D,   B = (Q alpha - P sigma) / D,   D = alpha q - sigma p.

Sources: Lai et al. 2025 (arXiv 2510.21890) chapter 6; Salimans and Ho 2022 (2202.00512) for v; Karras et al. 2022
(2206.00364) for the EDM preconditioning.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diffcore.declare.errors import NumericsError
from diffcore.numerics.noise import WHITE, NoiseLaw, White
from diffcore.numerics.tree import Scalar, State, expand, lincomb, tree_map

NO_SIGNAL = 1e-4
"""Below this ratio alpha / sigma a state counts as pure noise: dividing by alpha would only amplify its rounding."""
NEAR_DATA = 1e-6
"""The noise level at which the velocity of an entry that rests at clean data is read."""


class Coeffs(NamedTuple):
    """Coefficients of `x_t = alpha x_0 + sigma eps + shift` at time t, and their time derivatives.

    Entries are float64 tensors while a solver plans (a shift that is always 0 is the float 0.0), Python floats in an eager step,
    tensors in a compiled one.
    `time` is the network's time input, prepared by the sampling loop; None where it has not been.
    """

    t: Any
    alpha: Any
    sigma: Any
    dalpha: Any
    dsigma: Any
    shift: Any = 0.0
    dshift: Any = 0.0
    time: Any = None

    @property
    def lam(self) -> Any:
        """log(alpha / sigma), half the log signal-to-noise ratio; +inf where sigma = 0, -inf where alpha = 0."""
        return _log(self.alpha) - _log(self.sigma)

    @property
    def log_snr(self) -> Any:
        """log(alpha^2 / sigma^2) = 2 lam."""
        return 2 * self.lam

    @property
    def dlam(self) -> Any:
        """d lam / dt = alpha'/alpha - sigma'/sigma; -inf where sigma = 0 or alpha = 0."""
        return _over(self.dalpha, self.alpha) - _over(self.dsigma, self.sigma)

    @property
    def pure_noise(self) -> Any:
        """Where alpha / sigma is zero or as good as zero."""
        return self.alpha <= NO_SIGNAL * self.sigma

    def readable(self) -> Coeffs:
        """The same times, with coefficients at which a velocity is finite.

        Only an entry that rests at clean data (per-pixel time) is asked for its velocity at sigma = 0. Its weight is 0, but 0
        times infinity is not: it is read at a level near 0 instead, while the network is still told its true time.
        """
        rests = self.sigma == 0
        if not bool(rests.any()):
            return self
        return self._replace(sigma=torch.where(rests, NEAR_DATA, self.sigma), dsigma=torch.where(rests, 1.0, self.dsigma))

    def map(self, fn: Callable[[Any], Any]) -> Coeffs:
        """Apply `fn` to every entry that is a tensor."""
        return Coeffs(*[fn(v) if isinstance(v, Tensor) else v for v in self])

    def cast(self, dtype: torch.dtype) -> Coeffs:
        """Entries in the dtype of a state; time is never cast below float32."""
        return self.map(lambda v: v.to(dtype))._replace(t=at_least_float32(self.t, dtype))

    def at(self, index: Any) -> Coeffs:
        """The coefficients at some of the times: `c.at(slice(1, None))`."""
        return self.map(lambda v: v[index])


def at_least_float32(t: Any, dtype: torch.dtype) -> Any:
    """A time in the given precision, or in float32 where that is less."""
    return t.to(torch.promote_types(dtype, torch.float32)) if isinstance(t, Tensor) else t


def _log(x: Any) -> Any:
    return torch.log(x) if isinstance(x, Tensor) else math.log(x) if x > 0 else -math.inf


def _over(a: Any, b: Any) -> Any:
    return a / b if isinstance(b, Tensor) or b != 0 else math.copysign(math.inf, a)


Row = tuple[Scalar, Scalar]


def _edm_row(c: Coeffs, sigma_data: float) -> Row:
    norm = (c.alpha**2 * sigma_data**2 + c.sigma**2) ** 0.5
    return c.sigma / (sigma_data * norm), -c.alpha * sigma_data / norm


def _v_row(c: Coeffs) -> Row:
    norm = (c.alpha**2 + c.sigma**2) ** 0.5
    return -c.sigma / norm, c.alpha / norm


ROWS: dict[str, Callable[[Coeffs, float], Row]] = {
    "x0": lambda c, sigma_data: (1.0, 0.0),
    "eps": lambda c, sigma_data: (0.0, 1.0),
    "score": lambda c, sigma_data: (0.0, -1.0 / c.sigma),
    "v": lambda c, sigma_data: _v_row(c),
    "velocity": lambda c, sigma_data: (c.dalpha, c.dsigma),
    "edm": _edm_row,
}
"""Target name -> its row (p, q) at given coefficients: x0, eps, score = -eps/sigma, v = (alpha eps - sigma x_0) /
sqrt(alpha^2 + sigma^2) (Salimans and Ho, for any alpha and sigma), velocity = alpha' x_0 + sigma' eps, edm = (sigma x_0 -
alpha sd^2 eps) / (sd sqrt(alpha^2 sd^2 + sigma^2))."""


def row(name: str, c: Coeffs, sigma_data: float = 0.5) -> Row:
    """The row (p, q) of a target at the coefficients `c`."""
    try:
        return ROWS[name](c, sigma_data)
    except ZeroDivisionError:
        raise NumericsError(f"the target '{name}' is singular at t = {c.t} (alpha = {c.alpha}, sigma = {c.sigma})") from None


def convert(c: Coeffs, have: Row, want: Row) -> Row:
    """(A, B) such that `want = A x_t + B have`, for values of the two rows at the same x_t.

    Raises `NumericsError` where `have` and x_t do not determine (x_0, eps): alpha q = sigma p.
    """
    (p, q), (P, Q) = have, want
    det, a, b = c.alpha * q - c.sigma * p, P * q - Q * p, Q * c.alpha - P * c.sigma
    if not isinstance(det, Tensor) and (det == 0 or not math.isfinite(det + a + b)):
        raise NumericsError(
            f"what is asked cannot be read from the prediction at t = {c.t}, where alpha = {c.alpha:.6g}, sigma = {c.sigma:.6g}, "
            f"alpha' = {c.dalpha:.6g} and sigma' = {c.dsigma:.6g}; use another prediction, or keep the grid off this time"
        )
    return a / det, b / det


def combine(name: str, c: Coeffs, x0: State, eps: State, sigma_data: float = 0.5, noise: NoiseLaw = WHITE) -> State:
    """The target of this name from x_0 and eps: `p x_0 + q eps` (velocity of a shifted path adds dshift, the score is
    -C^-1 eps / sigma under the law of the noise)."""
    if name in ("x0", "eps"):
        return x0 if name == "x0" else eps
    p, q = row(name, c, sigma_data)
    eps = noise.whiten(eps) if name == "score" else eps
    return shifted(lincomb((p, x0), (q, eps)), c.dshift if name == "velocity" else 0.0)


class Posterior:
    """What is known of x_0 given x_t: a network output, its row, and x_t. Everything else is read from these.

    `mean` is E[x_0 | x_t]; `eps`, `velocity`, `score`, `v` the corresponding expectations. Reading the row that the network
    predicts returns its output untouched, so no precision is lost on a round trip.
    """

    __slots__ = ("at", "name", "noise", "sigma_data", "value", "x")

    def __init__(self, x: State, value: State, name: str, at: Coeffs, sigma_data: float = 0.5, noise: NoiseLaw = WHITE) -> None:
        self.x, self.value, self.name, self.at, self.sigma_data, self.noise = x, value, name, at, sigma_data, noise

    def read(self, name: str) -> State:
        """The expectation of the target called `name` (a key of `ROWS`), shape of x."""
        if name == self.name:
            return self.value
        if "score" in (name, self.name) and not isinstance(self.noise, White):
            return self._coloured(name)
        c = self.at
        a, b = convert(c, row(self.name, c, self.sigma_data), row(name, c, self.sigma_data))
        x = shifted(self.x, c.shift, -1.0)
        value = shifted(self.value, c.dshift if self.name == "velocity" else 0.0, -1.0)
        return shifted(lincomb((a, x), (b, value)), c.dshift if name == "velocity" else 0.0)

    def _coloured(self, name: str) -> State:
        """To or from the score -C^-1 E[eps] / sigma, which is no row of numbers under noise of a covariance C."""
        if name == "score":
            return lincomb((-1 / self.at.sigma, self.noise.whiten(self.read("eps"))))
        eps = lincomb((-self.at.sigma, self.noise.covariance(self.value)))
        return Posterior(self.x, eps, "eps", self.at, self.sigma_data, self.noise).read(name)

    def blend(self, keep: Scalar, gain: Scalar, *more: tuple[Scalar, State], name: str = "x0", out: State = None) -> State:
        """`keep x_t + gain E[name] + ...` with the conversion folded into the weights: one pass over memory per term."""
        c = self.at
        if (
            name == self.name
            or isinstance(c.shift, Tensor)
            or c.shift != 0
            or (self.name == "score" and not isinstance(self.noise, White))
        ):
            return lincomb((keep, self.x), (gain, self.read(name)), *more, out=out)
        a, b = convert(c, row(self.name, c, self.sigma_data), row(name, c, self.sigma_data))
        return lincomb((keep + gain * a, self.x), (gain * b, self.value), *more, out=out)

    def detach(self) -> Posterior:
        """The same values without their history."""
        x, value = (tree_map(Tensor.detach, state) for state in (self.x, self.value))
        return Posterior(x, value, self.name, self.at, self.sigma_data, self.noise)

    def replace(self, name: str, value: State) -> Posterior:
        """The same x_t with another expectation: what guidance returns."""
        return Posterior(self.x, value, name, self.at, self.sigma_data, self.noise)

    @property
    def mean(self) -> State:
        """E[x_0 | x_t]."""
        return self.read("x0")

    @property
    def eps(self) -> State:
        """E[eps | x_t]."""
        return self.read("eps")

    @property
    def velocity(self) -> State:
        """E[alpha' x_0 + sigma' eps | x_t], the velocity of the probability-flow ODE."""
        return self.read("velocity")

    @property
    def score(self) -> State:
        """grad log p_t(x_t) = -C^-1 E[eps | x_t] / sigma, C the covariance of the noise."""
        return self.read("score")


def shifted(x: State, shift: Any, sign: float = 1.0) -> State:
    """x + sign * shift; the shift is a number, a tensor that `expand` lifts, or a tree like x."""
    if isinstance(shift, (int, float)):
        return x if shift == 0 else tree_map(lambda a: a + sign * shift, x)
    if isinstance(shift, Tensor):
        return tree_map(lambda a: a + sign * expand(shift, a), x)
    return tree_map(lambda a, b: a + sign * b, x, shift)
