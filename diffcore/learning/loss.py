"""Losses, and the weightings and time laws they are made of."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from diffcore.declare.component import Base
from diffcore.declare.errors import IncompatibleError
from diffcore.declare.kinds import kind
from diffcore.numerics.affine import Coeffs, Row
from diffcore.numerics.draw import Draw
from diffcore.numerics.event import Event
from diffcore.numerics.fields import Denoiser
from diffcore.numerics.process import Process
from diffcore.numerics.tree import State, expand, leaves


@kind("loss")
class Loss(Base):
    """An objective. Returns one value per sample; the trainer reduces.

    `requires`: capabilities of the process. `second_time`: whether the network must take a second time. `predictions`: what
    the network must predict, where the loss is tied to it.
    """

    requires: ClassVar[frozenset[str]] = frozenset()
    second_time: ClassVar[bool] = False
    predictions: ClassVar[tuple[str, ...]] = ()

    @property
    def drops(self) -> bool:
        """Whether the network also learns the field without its conditions: a field `drop` above 0, where there is one."""
        return getattr(self, "drop", 0.0) > 0

    def __call__(self, model: Denoiser, x0: State, draw: Draw, **cond: Any) -> Tensor | Mapping[str, Tensor]:
        """Per-sample losses [B] at data x0, with all randomness from `draw`; a mapping player -> [B] where several learn."""
        raise NotImplementedError

    def parts(self, model: Denoiser, event: Event, cond: Mapping[str, int]) -> Mapping[str, nn.Module]:
        """Further modules the loss needs, by role: a copy of `model.net` as teacher or average, a critic, a fake score.

        Made once, when `model.net` has its first weights. They are found again as `model.parts[role]`, are saved and resumed
        with the run, and those with trainable parameters are trained (`Trainer.players` says how).
        """
        return {}

    def after_step(self, model: Denoiser, step: int) -> None:
        """Called after training step number `step`: what follows the network without a gradient, such as an average of it."""


@kind("weighting")
class Weighting(Base):
    """A weight of the squared error, as a function of the coefficients at t."""

    def __call__(self, at: Coeffs, row: Row) -> Tensor:
        """The factor of the squared error measured in `row` (p, q); shape of at.t."""
        raise NotImplementedError


def weight_from_x0(weight: Any, at: Coeffs, row: Row) -> Any:
    """A weight of the squared x_0 error as the weight of the squared error in another row.

    At fixed x_t, eps = (x_t - alpha x_0) / sigma, so an error e of x_0 is an error (p - q alpha / sigma) e of the row.
    """
    p, q = row
    return weight / (p - q * at.alpha / at.sigma) ** 2


@kind("time_law")
class TimeLaw(Base):
    """How training times are drawn."""

    def __call__(self, process: Process, draw: Draw) -> Tensor:
        """One time per sample of `draw`, float64 [B], within [process.min_time, process.T]."""
        raise NotImplementedError


# --- what losses share ------------------------------------------------------------------------------------------------


def times_of(law: TimeLaw | None, process: Process, draw: Draw) -> Tensor:
    """One time per sample, float64 [B]: those of the law, or uniform on [min_time, T] where there is none."""
    if law is not None:
        return law(process, draw)
    return process.min_time + (process.T - process.min_time) * draw.uniform()


def dropped(cond: Mapping[str, Any], null: Mapping[str, Any], rate: float, draw: Draw) -> dict[str, Any]:
    """The conditions, in a fraction `rate` of the samples replaced by the null values where there are any, all together.

    So the same network learns the unconditional field too (Ho and Salimans 2022, arXiv 2207.12598). Raises
    `IncompatibleError` where the network has a null value for none of them, and nothing would be left out.
    """
    names = [name for name in cond if name in null]
    if rate == 0 or not cond:
        return dict(cond)
    if not names:
        first = next(iter(cond))
        raise IncompatibleError(
            f"the loss leaves conditions out with probability {rate:g} (drop), and the network has no null value for "
            f"'{first}'; give it the attribute null_cond = {{'{first}': ...}}, or set loss.drop: 0"
        )
    drop = draw.uniform() < rate
    return {**cond, **{name: _replaced(drop, cond[name], null[name]) for name in names}}


def _replaced(drop: Tensor, value: Tensor, null: Any) -> Tensor:
    null = torch.as_tensor(null, dtype=value.dtype, device=value.device)
    return torch.where(expand(drop, value), null, value)


def mean_square(found: State, target: State, weight: Any = 1.0) -> Tensor:
    """The mean over the entries of a sample of weight * (found - target)^2, [B]; the weight is a number, [B] or per entry."""
    targets = leaves(target)
    share = weight / sum(leaf.numel() // len(leaf) for leaf in targets)
    return reduce(torch.add, [_square_sum(a, b, share) for a, b in zip(leaves(found), targets, strict=True)])


def _square_sum(found: Tensor, target: Tensor, weight: Any) -> Tensor:
    square = mse_loss(found.to(target.dtype), target, reduction="none")
    if isinstance(weight, Tensor) and weight.ndim > 1:
        return (square * expand(weight, square)).flatten(1).sum(1)
    return square.flatten(1).sum(1) * weight  # the gradient of a sum is a view, that of a mean is written out
