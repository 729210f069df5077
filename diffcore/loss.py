"""Losses, and the weightings and time laws they are made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from diffcore.affine import Coeffs, Row
from diffcore.component import Base
from diffcore.fields import Denoiser
from diffcore.noise import Draw
from diffcore.process import Process
from diffcore.tree import State


class Loss(Base):
    """An objective. Returns one value per sample; the trainer reduces.

    `requires`: capabilities of the process. `second_time`: whether the network must take a second time. `predictions`: what
    the network must predict, where the loss is tied to it.
    """

    kind: ClassVar[str] = "loss"
    requires: ClassVar[frozenset[str]] = frozenset()
    second_time: ClassVar[bool] = False
    predictions: ClassVar[tuple[str, ...]] = ()

    def __call__(self, model: Denoiser, x0: State, draw: Draw, **cond: Any) -> Tensor | Mapping[str, Tensor]:
        """Per-sample losses [B] at data x0, with all randomness from `draw`; a mapping player -> [B] where several learn."""
        raise NotImplementedError

    def parts(self, model: Denoiser, shape: tuple[int, ...], cond: Mapping[str, int]) -> Mapping[str, nn.Module]:
        """Further modules the loss needs, by role: a copy of `model.net` as teacher or average, a critic, a fake score.

        Made once, when `model.net` has its first weights. They are found again as `model.parts[role]`, are saved and resumed
        with the run, and those with trainable parameters are trained (`Trainer.players` says how).
        """
        return {}

    def after_step(self, model: Denoiser, step: int) -> None:
        """Called after training step number `step`: what follows the network without a gradient, such as an average of it."""


class Weighting(Base):
    """A weight of the squared error, as a function of the coefficients at t."""

    kind: ClassVar[str] = "weighting"

    def __call__(self, at: Coeffs, row: Row) -> Tensor:
        """The factor of the squared error measured in `row` (p, q); shape of at.t."""
        raise NotImplementedError


def weight_from_x0(weight: Any, at: Coeffs, row: Row) -> Any:
    """A weight of the squared x_0 error as the weight of the squared error in another row.

    At fixed x_t, eps = (x_t - alpha x_0) / sigma, so an error e of x_0 is an error (p - q alpha / sigma) e of the row.
    """
    p, q = row
    return weight / (p - q * at.alpha / at.sigma) ** 2


class TimeLaw(Base):
    """How training times are drawn."""

    kind: ClassVar[str] = "time_law"

    def __call__(self, process: Process, draw: Draw) -> Tensor:
        """One time per sample of `draw`, float64 [B], within [process.min_time, process.T]."""
        raise NotImplementedError
