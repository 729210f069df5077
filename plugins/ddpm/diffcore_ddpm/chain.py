"""The chain of DDPM as an affine process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import attrs
import torch
from torch import Tensor

import diffcore as dc

from .angles import angles
from .learned import RangePosterior, base_of, is_range
from .schedules import betas, signal, without_signal_at_the_end
from .trailing import Trailing


@dc.component
class Chain(dc.AffineProcess):
    """x_i = sqrt(1 - beta_i) x_{i-1} + sqrt(beta_i) z_i, i = 1 .. N, at times t = i / N; index 0 is the data.

    alpha_i^2 = prod_{j <= i} (1 - beta_j), sigma_i^2 = 1 - alpha_i^2. beta is the variance of a step. Between indices the
    angle phi with alpha = cos phi, sigma = sin phi is a smooth rising curve through those of the chain: alpha and sigma are
    those of the chain at every index, alpha^2 + sigma^2 = 1 everywhere, and every solver may step between indices. The prior
    is N(0, I). The smallest time a network is asked for is that of index 1.

    Predictions x0, eps, score, v, velocity, edm, and each of x0, eps, v with a learned variance: `eps-range` has twice the
    channels, the second half r means the variance exp(f log beta + (1 - f) log beta~), f = (r + 1) / 2, of a reverse step.

    zero_terminal_snr moves and scales alpha so that alpha_N = 0 with alpha_1 kept. The last index is then pure noise: eps and
    score (and eps-range) are refused, and grids must begin at the last index (`trailing`, `linspace`).

    Raises `SpecError` for beta_start > beta_end.
    """

    source: ClassVar[str] = (
        "Ho et al. 2020, arXiv 2006.11239, equations 2 and 4; Nichol and Dhariwal 2021, arXiv 2102.09672, equation 15; "
        "Lin et al. 2023, arXiv 2305.08891, algorithm 1"
    )
    items: ClassVar[tuple[str, ...]] = ("2.07", "2.08", "2.09")
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"schedule": "cosine"},
        {"schedule": "sigmoid"},
        {"schedule": "sqrt"},
        {"zero_terminal_snr": True},
    )

    steps: int = dc.param(default=1000, ge=2, le=100_000, doc="length N of the chain")
    schedule: Literal["linear", "scaled-linear", "cosine", "sigmoid", "sigmoid-beta", "sqrt"] = dc.param(
        default="linear", doc="rule of beta"
    )
    beta_start: float = dc.param(default=1e-4, gt=0, lt=1, doc="first beta of linear, scaled-linear, sigmoid-beta at N = 1000")
    beta_end: float = dc.param(
        default=0.02, gt=0, lt=1, doc="last beta of these at N = 1000; a chain of N has 1000 / N times both"
    )
    zero_terminal_snr: bool = dc.param(default=False, doc="rescale alpha to 0 at the last index")

    def __attrs_post_init__(self) -> None:
        if self.beta_start > self.beta_end:
            raise dc.SpecError(f"Chain needs beta_start <= beta_end; got {self.beta_start:g} and {self.beta_end:g}")

    @property
    def min_time(self) -> float:
        """The time of index 1."""
        return 1 / self.steps

    @property
    def prior_std(self) -> float:
        """The standard deviation of the prior, 1."""
        return 1.0

    @property
    def beta(self) -> Tensor:
        """beta_1 .. beta_N of this chain, float64 [N]; 1 at the end with zero terminal SNR."""
        alpha, _ = signal(betas(self.schedule, self.steps, self.beta_start, self.beta_end))
        alpha = without_signal_at_the_end(alpha)[0] if self.zero_terminal_snr else alpha
        return 1 - (alpha[1:] / alpha[:-1]) ** 2

    def coeffs(self, t: Tensor) -> dc.Coeffs:
        """alpha, sigma and their derivatives at times t of any shape, in the dtype of t."""
        table = angles(self.schedule, self.steps, self.beta_start, self.beta_end, self.zero_terminal_snr)
        phi, left, turning = table.at(t.double() * self.steps)
        alpha, sigma, rate = torch.sin(left), torch.sin(phi), self.steps * turning
        return dc.Coeffs(t, *(v.to(t.dtype) for v in (alpha, sigma, -sigma * rate, alpha * rate)))

    def prior(self, event: Any, draw: dc.Draw) -> dc.State:
        """N(0, C): the noise itself."""
        return self.noise.like(dc.Event.of(event).like(len(draw.ids), draw.device), draw)

    def index(self, t: Tensor) -> Tensor:
        """N t - 1, between 0 and N - 1."""
        return (self.steps * t - 1).clamp(0, self.steps - 1)

    def default_grid(self, steps: int, start: float) -> Tensor:
        """Evenly spaced indices down from the start; uniform times where there are more steps than indices."""
        fits = steps <= round(start * self.steps)
        return Trailing().nodes(self, steps, start) if fits else super().default_grid(steps, start)

    def check_prediction(self, prediction: str, sigma_data: float) -> None:
        """A prediction with a learned variance is read where its first half is. Raises `IncompatibleError`."""
        super().check_prediction(base_of(prediction), sigma_data)

    def output_event(self, event: Any, prediction: str) -> dc.Event:
        """Twice the channels (the first axis) where the variance is learned."""
        if not is_range(prediction):
            return dc.Event.of(event)
        shape = dc.Event.of(event).leaf(f"prediction '{prediction}'").shape
        return dc.Event(2 * shape[0], *shape[1:])

    def check_output(self, x: dc.State, out: dc.State, prediction: str) -> None:
        """The shape of the state, with twice the channels where the variance is learned. Raises `DataError`."""
        if not is_range(prediction):
            super().check_output(x, out, prediction)
        elif (wanted := (len(x), *self.output_event(x.shape[1:], prediction).shape)) != tuple(out.shape):
            raise dc.DataError(
                f"a prediction of '{prediction}' has twice the channels: {wanted}; the network returned {tuple(out.shape)}"
            )

    def posterior(self, x: dc.State, out: dc.State, at: dc.Coeffs, reading: dc.Reading) -> dc.Posterior:
        """The output as a row of x_0 and eps, and its second half as the learned variance where there is one."""
        if not is_range(reading.prediction):
            return super().posterior(x, out, at, reading)
        value, ranged = out.chunk(2, dim=1)
        known = super().posterior(x, value, at, attrs.evolve(reading, prediction=base_of(reading.prediction)))
        return RangePosterior(known, (ranged + 1) / 2)
