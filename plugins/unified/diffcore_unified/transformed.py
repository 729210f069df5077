"""One process on the schedule of another: equal lam is equal knowledge."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

import diffcore as dc


@dc.component
class Transformed(dc.AffineProcess):
    """The process `of` (A) on the schedule of `to` (B): x_B(t) = c(t) x_A(tau(t)), so what is known of x_0 is the same.

        lam_A(tau(t)) = lam_B(t),    c(t) = alpha_B(t) / alpha_A(tau) = sigma_B(t) / sigma_A(tau)

    For B = flow this is tau = sigma / (alpha + sigma) and c = alpha + sigma read backwards, for B = trig the polar angle
    and the radius. alpha, sigma and the times are B's; a network is given A's time and, scaled to unit size, A's state, so
    weights trained under A are read exactly. Targets that a change of c rescales (v, velocity, score) would change what the
    network must return; they are refused here and converted by `transform` and by the solver `through`.

    The law of the noise is A's: the schedule is another, the noise is not.

    T and `min_time` are B's, moved inwards where A's ends have the narrower range of lam: no network is asked where it has
    not been trained. The start of a run is then c(T) times A's.

    Raises `SpecError` where a process is not affine or shifts the mean of its states, and for a law of noise of its own.
    """

    source: ClassVar[str] = "Lai et al. 2025, arXiv 2510.21890, chapter 6; Karras et al. 2022, arXiv 2206.00364"
    items: ClassVar[tuple[str, ...]] = ("6.11", "6.12")
    predictions: ClassVar[tuple[str, ...]] = ("x0", "eps", "edm")
    example: ClassVar[Mapping[str, Any]] = {
        "of": {"type": "kinetic", "mean": 1.0, "t_min": 0.01},
        "to": {"type": "kinetic", "stds": [0.5, 2.0]},
    }

    of: dc.Process = dc.param(doc="the process a network was trained for")
    to: dc.Process = dc.param(doc="the process whose schedule is wanted")

    def __attrs_post_init__(self) -> None:
        for name, process in (("of", self.of), ("to", self.to)):
            if "affine" not in process.provides:
                raise dc.SpecError(f"'{name}' of Transformed must be an affine process; {type(process).__name__} is not")
            shift = process.coeffs(_time(process.T)).shift
            if isinstance(shift, Tensor) or shift != 0:
                raise dc.SpecError(f"'{name}' of Transformed: {type(process).__name__} shifts the mean of its states")
        if self.noise not in (dc.White(), self.of.noise):
            raise dc.SpecError(
                "'noise' of Transformed is that of its process 'of', for which the network was trained; leave it out"
            )
        object.__setattr__(self, "noise", self.of.noise)

    @property
    def T(self) -> float:
        """B's time of A's noisiest level, or B's own T."""
        return float(self.time_of(_time(self.of.T)))

    @property
    def min_time(self) -> float:
        """B's time of A's smallest level, or B's own `min_time`."""
        return float(self.time_of(_time(self.of.min_time)).clamp(min=self.to.min_time))

    def coeffs(self, t: Tensor) -> dc.Coeffs:
        """Those of B."""
        return self.to.coeffs(t)

    def t_of_lam(self, lam: Tensor) -> Tensor:
        """That of B."""
        return self.to.t_of_lam(lam)

    def default_grid(self, steps: int, start: float) -> Tensor:
        """That of B."""
        return self.to.default_grid(steps, start)

    def embed_time(self, t: Tensor) -> Tensor:
        """A's feature of tau(t)."""
        return self.of.embed_time(self.clock(t).to(t.dtype))

    def clock(self, t: Tensor) -> Tensor:
        """tau(t), A's time of the same lam; float64, at most A's T."""
        return time_at(self.of, self.to.coeffs(t.double()).lam)

    def time_of(self, tau: Tensor) -> Tensor:
        """t(tau), the inverse of `clock`; float64, at most B's T."""
        return time_at(self.to, self.of.coeffs(tau.double()).lam)

    def twin(self, at: dc.Coeffs) -> dc.Coeffs:
        """A's coefficients at the lam of B's coefficients `at`; numbers for numbers, else tensors of the same dtype."""
        if isinstance(at.alpha, Tensor):
            return _level(self.of, at.map(Tensor.double).lam).cast(at.alpha.dtype)
        learned = isinstance(self.of, nn.Module)
        return _level(self.of, _time(at.lam)).map(Tensor.item) if learned else _number_level(self.of, at.lam)

    def check_prediction(self, prediction: str, sigma_data: float) -> None:
        """Refuses also v, velocity and score, whose meaning depends on the scale of the state."""
        if prediction in self.of.predictions and prediction not in self.predictions:
            raise dc.IncompatibleError(
                f"prediction '{prediction}' is another quantity on another schedule, so Transformed reads only "
                f"{', '.join(self.predictions)}; sample a run trained for '{prediction}' with the solver 'through'"
            )
        super().check_prediction(prediction, sigma_data)


def scale(at: dc.Coeffs, twin: dc.Coeffs) -> Any:
    """c of a time under B and its twin under A: the ratio of the lengths of (alpha, sigma), which has no singular end."""
    return ((at.alpha**2 + at.sigma**2) / (twin.alpha**2 + twin.sigma**2)) ** 0.5


def time_at(process: Any, lam: Tensor) -> Tensor:
    """The time at which log(alpha / sigma) = lam, exactly 0 at +inf and at most T; float64."""
    ended = torch.isposinf(lam)
    return torch.where(ended, 0.0, process.t_of_lam(torch.where(ended, 0.0, lam)).clamp(max=process.T))


def _level(process: Any, lam: Tensor) -> dc.Coeffs:
    return process.coeffs(time_at(process, lam))


@lru_cache(maxsize=4096)
def _number_level(process: Any, lam: float) -> dc.Coeffs:
    """The same as numbers: the few levels of a grid are asked for again in every step and every run."""
    return _level(process, _time(lam)).map(Tensor.item)


def _time(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)
