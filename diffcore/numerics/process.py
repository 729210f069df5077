"""Processes: how data becomes noise, and what a solver may ask for on the way back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import attrs
import torch
from torch import Tensor

from diffcore.declare.component import Base, fielded, param
from diffcore.declare.errors import DataError, IncompatibleError, SpecError, did_you_mean
from diffcore.declare.kinds import kind
from diffcore.numerics.affine import Coeffs, Posterior, at_least_float32, combine, row, shifted
from diffcore.numerics.draw import Draw
from diffcore.numerics.event import Event
from diffcore.numerics.laws import GaussianLaw, Law
from diffcore.numerics.noise import WHITE, NoiseLaw, White
from diffcore.numerics.span import Span
from diffcore.numerics.tree import State, expand, leaves, lincomb, tree_map

ELSEWHERE = {"noise": "eps", "epsilon": "eps", "sample": "x0", "data": "x0", "v_prediction": "v", "flow": "velocity"}
"""Predictions by the names that they have elsewhere."""


class Instant(NamedTuple):
    """A time of a process that has no affine coefficients; the counterpart of `Coeffs`."""

    t: Any
    time: Any = None

    def map(self, fn: Any) -> Instant:
        """Apply `fn` to every entry that is a tensor."""
        return Instant(*(fn(v) if isinstance(v, Tensor) else v for v in self))

    def readable(self) -> Instant:
        """Itself: nothing is singular that this time knows of."""
        return self

    def cast(self, dtype: torch.dtype) -> Instant:
        """The time in the precision of a state, at least float32."""
        return self._replace(t=at_least_float32(self.t, dtype))

    def at(self, index: Any) -> Instant:
        """The instants at some of the times."""
        return self.map(lambda v: v[index])


class Corruption(NamedTuple):
    """Noised data: `xt` at time `at`, and what a loss may regress: by name where the process says so, else a row of x_0 and of
    eps, which is of the law `noise`."""

    xt: State
    at: Any
    x0: State
    eps: State = None
    targets: Mapping[str, State] = MappingProxyType({})
    noise: NoiseLaw = WHITE

    def target(self, name: str, sigma_data: float = 0.5) -> State:
        """The regression target of this name: one the process gave, else the row `p x_0 + q eps`."""
        if name in self.targets:
            return self.targets[name]
        return combine(name, self.at, self.x0, self.eps, sigma_data, self.noise)


@kind("process")
class Process(Base):
    """A forward process. Only `prior` and `corrupt` are mandatory; `provides` says what else it can do.

    Capabilities known to the core: "affine" (`coeffs`), "velocity" (a probability-flow velocity), "flat" (x + v is a move),
    "reverse" (an ancestral kernel). Plugins may add names. A process that owns parameters returns an `nn.Module` with these
    same methods from `build`.
    """

    provides: ClassVar[frozenset[str]] = frozenset()
    predictions: ClassVar[tuple[str, ...]] = ()
    """Names of what a network may predict under this process."""
    noise: NoiseLaw = WHITE
    """The law of its elementary noise: of the prior, the corruption and every stochastic step."""

    @property
    def T(self) -> float:
        """The time of pure noise."""
        return 1.0

    @property
    def min_time(self) -> float:
        """The smallest time at which a network is trained or evaluated (0 where nothing is singular there)."""
        return 0.0

    def build(self) -> Any:
        """The process itself, or an `nn.Module` with its methods where it has parameters."""
        return self

    def prior(self, event: Any, draw: Draw) -> State:
        """Samples at t = T, one per id of `draw`. event: what one sample is, an `Event` or what `Event.of` reads as one."""
        raise NotImplementedError

    def corrupt(self, x0: State, t: Tensor, draw: Draw, eps: State = None) -> Corruption:
        """x_t given x_0 at times t (broadcastable from the left against x_0), with the noise of `draw`, or `eps` if given."""
        raise NotImplementedError

    def coeffs(self, t: Tensor) -> Any:
        """What the solver and the network need to know at times t: `Coeffs` if affine, else `Instant`."""
        return Instant(t)

    def pairs(self, grid: Tensor) -> tuple[Any, Any]:
        """The coefficients at the start t and at the end s of every step of a time grid [N + 1, ...]."""
        c = self.coeffs(grid)
        return c.at(slice(None, -1)), c.at(slice(1, None))

    def regular(self, at: Any) -> Tensor:
        """Where a velocity can be evaluated: where there is noise, or from `min_time` on for times without coefficients."""
        return at.sigma > 0 if isinstance(at, Coeffs) else at.t >= self.min_time

    def embed_time(self, t: Tensor) -> Tensor:
        """The time feature a network built from a spec receives; about 0 to 1."""
        return t / self.T

    def index(self, t: Tensor) -> Tensor:
        """The place of a time in the table of the process, which may lie between two; for processes that are a table."""
        raise NotImplementedError

    def scale_input(self, x: State, at: Any, sigma_data: float) -> State:
        """The state as a network built from a spec receives it: of about unit size."""
        return x

    def posterior(self, x: State, out: State, at: Any, reading: Any) -> Any:
        """How a network's output is read: the only place that knows what `reading.prediction` means for this process."""
        raise NotImplementedError

    def output_event(self, event: Any, prediction: str) -> Event:
        """What a network of this prediction returns for one sample, an event."""
        return Event.of(event)

    def check_output(self, x: State, out: Any, prediction: str) -> None:
        """Refuse, at a denoiser's first call, an output that `posterior` cannot read. Raises `DataError`."""

    def velocity(self, x: State, at: Any, posterior: Any) -> State:
        """dx/dt of the probability-flow ODE (capability "velocity")."""
        raise NotImplementedError

    def reverse(self, x: State, t: Any, s: Any, posterior: Any, z: State) -> State:
        """A sample of x_s given x_t and the posterior of x_0, from the noise z (capability "reverse")."""
        raise NotImplementedError

    def reverse_law(self, x: State, t: Any, s: Any, posterior: Any) -> Law:
        """The distribution that `reverse` draws from: its `sample(z)` is `reverse(..., z)`, its `log_prob(x_s)` is [B].

        Raises `IncompatibleError` for a process that does not say.
        """
        raise IncompatibleError(
            f"{type(self).__name__} does not tell the distribution of its reverse step: give it `reverse_law`"
        )

    def reverse_noise(self, t: Any, s: Any) -> Tensor:
        """The weight of z in `reverse` for planned steps; zero where none is drawn."""
        return torch.ones_like(t.t)

    def retract(self, x: State, v: State) -> State:
        """Move x by the tangent vector v: x + v where the state space is flat."""
        return lincomb((1, x), (1, v))

    def span(self, t: Coeffs, s: Coeffs) -> Span:
        """The planned steps t -> s with E[x_0 | x_t] frozen (capability "affine").

        Override where alpha and sigma vanish together (pinned ends).
        """
        return Span.between(t, s)

    def t_of_lam(self, lam: Tensor) -> Tensor:
        """The time at which log(alpha / sigma) = lam, float64, for processes that have such a level."""
        raise NotImplementedError

    def default_grid(self, steps: int, start: float) -> Tensor:
        """The time grid used when none is named: uniform in t from `start` to 0, float64 [steps + 1]."""
        return self.times_down(steps, lambda n, end: torch.linspace(start, end, n + 1, dtype=torch.float64))

    def times_down(self, steps: int, spaced: Callable[[int, float], Tensor], end: float = 0.0) -> Tensor:
        """`spaced(steps, end)`, the N + 1 times of a rule; where that puts one between `min_time` and the end, the rule takes one
        step less and ends at `min_time`, and a last step goes from there: no network is asked below the times it is trained at.
        """
        nodes = spaced(steps, end)
        if steps == 1 or end >= self.min_time or not nodes[-2] < self.min_time * (1 - 1e-9) or nodes[0] <= self.min_time:
            return nodes
        inner = spaced(steps - 1, self.min_time)
        return torch.cat([inner, inner.new_tensor([end])])

    def fingerprint(self) -> list[float]:
        """Numbers that pin the process down, stored with weights and compared when they are loaded."""
        return []

    def check_prediction(self, prediction: str, sigma_data: float) -> None:
        """Refuse, before anything runs, a prediction that this process cannot read. Raises `IncompatibleError`."""
        if prediction not in self.predictions:
            raise IncompatibleError(
                f"prediction '{prediction}' does not fit {type(self).__name__}; it reads: {', '.join(self.predictions)}"
                + did_you_mean(ELSEWHERE.get(prediction, prediction), self.predictions)
            )


def refuse_shift(process: Process, at: Coeffs) -> None:
    """Raise `IncompatibleError` for a process that moves the mean of its states, which formulas in alpha and sigma leave out."""
    if isinstance(at.shift, Tensor) or at.shift != 0:
        raise IncompatibleError(
            f"{type(process).__name__} shifts the mean of its states, which these formulas leave out; "
            "use a solver of its velocity: euler, heun or rk4"
        )


def centred_pairs(process: Process, grid: Tensor) -> tuple[Coeffs, Coeffs]:
    """`process.pairs`: the coefficients at the start and at the end of every step. Raises as `refuse_shift`."""
    t, s = process.pairs(grid)
    refuse_shift(process, t)
    return t, s


def _is_gaussian(process: Any, attribute: attrs.Attribute[Any], law: Any) -> None:
    if not law.gaussian:
        raise SpecError(
            f"'noise' of {type(process).__name__} must be Gaussian, as its score and its reverse steps are; "
            f"{type(law).__name__} is not: take a process of velocities alone, such as source"
        )


@fielded
class AffineProcess(Process):
    """x_t = alpha_t x_0 + sigma_t eps, eps ~ N(0, C), t in [0, T]. A subclass gives `coeffs`; the rest follows.

    lam = log(alpha/sigma) must fall strictly with t. SDE form (monograph 4.14): f = alpha'/alpha,
    g^2 = (sigma^2)' - 2 f sigma^2 = -2 sigma^2 lam'.
    """

    provides: ClassVar[frozenset[str]] = frozenset({"affine", "velocity", "flat", "reverse"})
    predictions: ClassVar[tuple[str, ...]] = ("x0", "eps", "score", "v", "velocity", "edm")

    noise: NoiseLaw = param(factory=White, validator=_is_gaussian, doc="law of the noise, of covariance C")

    def coeffs(self, t: Tensor) -> Coeffs:
        """alpha, sigma and their derivatives at times t, in the dtype of t (plan in float64)."""
        raise NotImplementedError

    def prior(self, event: Any, draw: Draw) -> State:
        """shift_T + sigma_T noise: N(shift_T, sigma_T^2 C)."""
        at = self.coeffs(torch.tensor(self.T, dtype=torch.float64))
        like = Event.of(event).like(len(draw.ids), draw.device)
        return shifted(lincomb((at.sigma.item(), self.noise.like(like, draw))), at.shift)

    def corrupt(self, x0: State, t: Tensor, draw: Draw, eps: State = None) -> Corruption:
        """alpha_t x_0 + sigma_t eps. Coefficients are computed in float64 and cast once to the dtype of x_0.

        Raises `DataError` for integer data.
        """
        leaf = leaves(x0)[0]
        if not leaf.is_floating_point():
            raise DataError(
                f"{type(self).__name__} adds Gaussian noise and needs floating-point data, not {leaf.dtype}: integers without a "
                f"range are tokens; declare the range of measured ones (data.range), or take a process of tokens"
            )
        at = self.coeffs(torch.as_tensor(t, dtype=torch.float64, device=leaf.device)).cast(leaf.dtype)
        eps = self.noise.like(x0, draw) if eps is None else eps
        xt = shifted(lincomb((at.alpha, x0), (at.sigma, eps)), at.shift)
        return Corruption(xt, at, x0, eps, noise=self.noise)

    def scale_input(self, x: State, at: Coeffs, sigma_data: float) -> State:
        """x / sqrt(alpha^2 sigma_data^2 + sigma^2): of unit variance for data of variance sigma_data^2."""
        scale = (at.alpha**2 * sigma_data**2 + at.sigma**2) ** -0.5
        if not isinstance(scale, Tensor) and scale == 1:
            return x
        return tree_map(lambda leaf: leaf * expand(scale, leaf), shifted(x, at.shift, -1.0))

    def posterior(self, x: State, out: State, at: Coeffs, reading: Any) -> Posterior:
        """The output as the row `reading.prediction` of `ROWS`."""
        return Posterior(x, out, reading.prediction, at, reading.sigma_data, self.noise)

    def check_output(self, x: State, out: State, prediction: str) -> None:
        """A row of x_0 and eps has the shape of x."""
        shapes = [[tuple(leaf.shape) for leaf in leaves(state)] for state in (x, out)]
        if shapes[0] != shapes[1]:
            raise DataError(
                f"the network returned shape {_shape(shapes[1])} for a state of shape {_shape(shapes[0])}; "
                f"a prediction of '{prediction}' has the shape of the state"
            )

    def velocity(self, x: State, at: Coeffs, posterior: Posterior) -> State:
        """alpha' E[x_0|x_t] + sigma' E[eps|x_t]."""
        return posterior.velocity

    def reverse(self, x: State, t: Coeffs, s: Coeffs, posterior: Posterior, z: State) -> State:
        """N(x_s; mean, var) of Bayes' rule with x_0 replaced by its posterior mean (monograph 4.16).

        With r = (alpha_t sigma_s / (alpha_s sigma_t))^2: mean = (alpha_t/alpha_s)(sigma_s/sigma_t)^2 (x_t - shift_t)
        + alpha_s (1 - r) x_0 + shift_s, var = sigma_s^2 (1 - r).
        """
        fresh = _one_minus_r(t, s)
        centred = shifted(x, t.shift, -1.0)
        moved = lincomb((_kept(t, s), centred), (s.alpha * fresh, posterior.mean), (s.sigma * fresh**0.5, z))
        return shifted(moved, s.shift)

    def reverse_law(self, x: State, t: Coeffs, s: Coeffs, posterior: Posterior) -> GaussianLaw:
        """N of the mean and the deviation of `reverse`."""
        return GaussianLaw(self.reverse(x, t, s, posterior, None), self.reverse_noise(t, s), self)

    def reverse_noise(self, t: Coeffs, s: Coeffs) -> Tensor:
        """sigma_s sqrt(1 - r)."""
        return s.sigma * _one_minus_r(t, s) ** 0.5

    def t_of_lam(self, lam: Tensor) -> Tensor:
        """The time at which log(alpha/sigma) = lam, float64, by bisection to the last bit; override with a closed form."""
        lam = torch.as_tensor(lam, dtype=torch.float64)
        low, high = torch.zeros_like(lam), torch.full_like(lam, self.T)
        for _ in range(1100):
            middle = (low + high) / 2
            if bool(((middle == low) | (middle == high)).all()):
                break
            above = self.coeffs(middle).lam > lam
            low, high = torch.where(above, middle, low), torch.where(above, high, middle)
        return (low + high) / 2

    def default_grid(self, steps: int, start: float) -> Tensor:
        """sin(phi) = sin(u)^2, phi = arctan(sigma / alpha), u equally spaced from `start` to 0: float64 [steps + 1].

        Small steps at clean data and at pure noise (Rouard and Hadjeres 2021, arXiv 2106.07431). Of the grids compared on laws
        of six kinds it has the least error, or nearly, with every kind of solver (benchmarks/README.md); equal steps in t, at few
        calls, have 2 to 30 times its error. Coefficients of more than one entry have no one angle: equal steps in t.
        """
        ends = self.coeffs(torch.tensor([start, 0.0], dtype=torch.float64))
        if ends.alpha.ndim > 1:
            return super().default_grid(steps, start)
        return self.times_down(steps, lambda n, end: self._small_at_both_ends(n, start, end))

    @torch.no_grad()
    def _small_at_both_ends(self, steps: int, start: float, end: float) -> Tensor:
        ends = self.coeffs(torch.tensor([start, end], dtype=torch.float64))
        high, low = torch.atan2(ends.sigma, ends.alpha).sin().sqrt().asin().tolist()
        phi = (torch.linspace(high, low, steps + 1, dtype=torch.float64)[1:-1].sin() ** 2).asin()
        inner = self.t_of_lam(-phi.tan().log())
        return torch.cat([inner.new_tensor([start]), inner, inner.new_tensor([end])])

    def fingerprint(self) -> list[float]:
        """alpha and sigma at 8 times spread evenly over (0, T]."""
        c = self.coeffs(torch.linspace(self.T / 8, self.T, 8, dtype=torch.float64))
        return [*c.alpha.tolist(), *c.sigma.tolist()]

    def check_prediction(self, prediction: str, sigma_data: float) -> None:
        """Also refuses a prediction that leaves x_0 undetermined at t = T (zero terminal SNR with eps or score)."""
        super().check_prediction(prediction, sigma_data)
        c = Coeffs(*(v.item() if isinstance(v, Tensor) else v for v in self.coeffs(torch.tensor(self.T, dtype=torch.float64))))
        if c.sigma == 0:
            raise IncompatibleError(
                f"{type(self).__name__} has sigma = 0 at T = {self.T}: time runs from 0 (data) to T (noise); replace t by T - t"
            )
        p, q = row(prediction, c, sigma_data)
        det, size = abs(c.alpha * q - c.sigma * p), (c.alpha**2 + c.sigma**2) ** 0.5 * (p**2 + q**2) ** 0.5
        if not det > 1e-8 * size:
            raise IncompatibleError(
                f"prediction '{prediction}' cannot be used with {type(self).__name__}: at t = {self.T} alpha = {c.alpha:.3g}, "
                f"the signal is gone, and '{prediction}' says nothing about x_0; use prediction v, velocity or x0"
            )


def _shape(shapes: list[tuple[int, ...]]) -> str:
    return str(shapes[0] if len(shapes) == 1 else shapes)


def _kept(t: Coeffs, s: Coeffs) -> Any:
    """The weight of x_t in the reverse kernel; 1 where time stands still, whatever the ends of the schedule do there."""
    kept = (s.sigma / t.sigma) ** 2 * t.alpha / s.alpha
    return _resting(t, s, 1.0, kept)


def _one_minus_r(t: Coeffs, s: Coeffs) -> Any:
    """The share of the reverse kernel that is new; 0 where time stands still."""
    r = (t.alpha * s.sigma / (s.alpha * t.sigma)) ** 2
    return _resting(t, s, 0.0, (1 - r).clamp_min(0.0) if isinstance(r, Tensor) else max(1 - r, 0.0))


def _resting(t: Coeffs, s: Coeffs, rest: float, moving: Any) -> Any:
    """`rest` where time stands still; a time may be a number where the coefficients are tensors, of a schedule that is learnt."""
    if isinstance(t.t, Tensor):
        return torch.where(t.t == s.t, rest, moving)
    return rest if t.t == s.t else moving
