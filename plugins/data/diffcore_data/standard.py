"""Values brought to the scale that processes expect, by their own mean and standard deviation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

import diffcore as dc

DEVIATION = 0.5
"""Standard deviation of what the network sees: the default `sigma_data`, that of images in [-1, 1]."""
STILL = 1e-6
"""Least deviation of a channel, as a part of its mean: one that never moves is not divided by 0."""
TINY = 1e-30
MANY = 16
"""Values of a channel from which on one of them should not make most of its variance."""
ROUNDED = 1e-12
"""A deviation of float64 that is smaller, as a part of the mean, is rounding."""

Parts = Callable[[], Iterable[Tensor]]


class Standard(nn.Module):
    """x = DEVIATION (raw - mean) / std and back, mean and std one per channel (first axis) of a sample.

    The moments are buffers, so that they are saved with the weights of a run. Before they are measured or loaded they are empty.
    """

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("mean", "std"):
            self.register_buffer(name, torch.zeros(0))

    @property
    def measured(self) -> bool:
        """Whether there are moments."""
        return self.mean.numel() > 0

    def measure(self, parts: Parts) -> None:
        """Take the moments of samples (B, *shape), which `parts` gives twice in pieces.

        Raises `DataError` beyond float32, and where float32 tells values of float64 hardly apart.
        """
        mean = _average(parts, lambda x: x)
        std = _average(parts, lambda x: (x - mean).square()).sqrt()
        if next(iter(parts())).dtype == torch.float64:
            _refuse_alike(mean, std)
        _note_outlier(parts, mean, std)
        if not bool((std < torch.finfo(torch.float32).max / 4).all()):
            raise dc.DataError(
                f"values with a standard deviation of {float(std.max()):.3g} are too large for float32; scale them"
            )
        self.mean, self.std = mean.float(), torch.maximum(std, STILL * mean.abs()).clamp_min(TINY).float()

    def encode(self, raw: Tensor) -> Tensor:
        """Raw values as the network sees them."""
        mean, std = self._moments(raw)
        return (raw - mean) * (DEVIATION / std)

    def decode(self, x: Tensor) -> Tensor:
        """What the network makes as raw values."""
        mean, std = self._moments(x)
        return x * (std / DEVIATION) + mean

    def _moments(self, like: Tensor) -> tuple[Tensor, Tensor]:
        if not self.measured:
            raise dc.DataError("the mean and deviation of this data are not known yet: open it, or load the weights of a run")
        return self.mean.to(like), self.std.to(like)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """The moments of another run, of whatever shape."""
        for name in ("mean", "std"):
            if name in state_dict:
                setattr(self, name, getattr(self, name).new_zeros(state_dict[name].shape))
        return super().load_state_dict(state_dict, strict, assign)


def _refuse_alike(mean: Tensor, std: Tensor) -> None:
    alike = (std > ROUNDED * mean.abs()) & (std < STILL * mean.abs())
    if bool(alike.any()):
        channel = int(alike.flatten().nonzero()[0])
        raise dc.DataError(
            f"values with mean {float(mean.flatten()[channel]):.10g} and standard deviation {float(std.flatten()[channel]):.3g} "
            f"(channel {channel}) have hardly a value in float32; shift or scale them"
        )


def _note_outlier(parts: Parts, mean: Tensor, std: Tensor) -> None:
    """Say where one value makes most of the variance of a channel, so that all others are seen as one."""
    count, far = 0, torch.zeros_like(std)
    for x in parts():
        count += x.numel() // x.shape[1]
        far = torch.maximum(far, (x.double() - mean).abs().amax([0, *range(2, x.ndim)], keepdim=True)[0])
    found = (count > MANY) & (far.square() > 0.5 * count * std.square())
    if bool(found.any()):
        channel = int(found.flatten().nonzero()[0])
        dc.note(
            f"one value of channel {channel} lies {float(far.flatten()[channel]):.3g} from its mean and makes most of its "
            f"standard deviation, {float(std.flatten()[channel]):.3g}; leave it out if it is no data: the others are scaled by it"
        )


def _average(parts: Parts, f: Callable[[Tensor], Tensor]) -> Tensor:
    """Mean of f over samples and all axes but the first of a sample, float64, shaped to broadcast against a sample."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    for x in parts():
        value = f(x.double())
        total = total + value.sum([0, *range(2, value.ndim)], keepdim=True)[0]
        count += value.numel() // value.shape[1]
    return total / count
