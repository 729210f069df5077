"""Four distributions of the plane, scaled into about [-1, 1]^2 (standard deviation about 0.5 per axis, as images have)."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

import diffcore as dc
from diffcore_data.keyed import Keyed, Modes, mode, normal, uniform


@dc.component
class TwoMoons(Modes):
    """Two interleaved half circles of radius 0.6 with normal noise: mode 0 opens downwards, mode 1 upwards.

    With u uniform on [0, 1): x = +-(0.6 cos pi u - 0.3, 0.6 sin pi u - 0.15), minus in mode 1.
    """

    source: ClassVar[str] = "as in scikit-learn's make_moons, centred and scaled by 0.6"
    noise: float = dc.param(default=0.03, ge=0, le=1e6, doc="standard deviation of the noise")

    @property
    def count(self) -> int:
        """Two moons."""
        return 2

    def block(self, draw: dc.Draw) -> tuple[Tensor, Tensor]:
        """Points and their moon."""
        angle, label = math.pi * uniform(draw), mode(draw, 2)
        arc = torch.stack([0.6 * angle.cos() - 0.3, 0.6 * angle.sin() - 0.15], 1)
        return arc * (1 - 2 * label)[:, None] + self.noise * normal(draw, 2), label


@dc.component
class SwissRoll2D(Keyed):
    """A spiral of one and a half turns with normal noise.

    With u uniform on [0, 1) and t = 1.5 pi (1 + 2u): x = t (cos t, sin t) / 4.5 pi.
    """

    source: ClassVar[str] = "scikit-learn's make_swiss_roll without its middle axis; Sohl-Dickstein et al. 2015, arXiv 1503.03585"
    noise: float = dc.param(default=0.02, ge=0, le=1e6, doc="standard deviation of the noise")

    def block(self, draw: dc.Draw) -> tuple[Tensor, Tensor]:
        """Points; there is one mode."""
        t = 1.5 * math.pi * (1 + 2 * uniform(draw))
        spiral = torch.stack([t * t.cos(), t * t.sin()], 1) / (4.5 * math.pi)
        return spiral + self.noise * normal(draw, 2), torch.zeros_like(t, dtype=torch.int64)


@dc.component
class Checkerboard(Modes):
    """Uniform on the 8 dark squares of a 4 x 4 board on [-1, 1]^2.

    Square k lies in row k // 2 (counted from below) and column 2 (k mod 2) + row mod 2.
    """

    source: ClassVar[str] = "Grathwohl et al. 2019, arXiv 1810.01367"

    @property
    def count(self) -> int:
        """Eight squares."""
        return 8

    def block(self, draw: dc.Draw) -> tuple[Tensor, Tensor]:
        """Points and their square."""
        label = mode(draw, 8)
        row = label // 2
        corner = torch.stack([2 * (label % 2) + row % 2, row], 1)
        place = torch.stack([uniform(draw.fold(0)), uniform(draw.fold(1))], 1)
        return (corner + place) / 2 - 1, label


@dc.component
class EightGaussians(Modes):
    """Eight equal normal distributions on a circle; mode k has the mean radius (cos pi k / 4, sin pi k / 4)."""

    source: ClassVar[str] = "Grathwohl et al. 2019, arXiv 1810.01367"
    radius: float = dc.param(default=0.8, gt=0, le=1e6, doc="radius of the circle")
    std: float = dc.param(default=0.06, ge=0, le=1e6, doc="standard deviation of each mode, per axis")

    @property
    def count(self) -> int:
        """Eight blobs."""
        return 8

    def block(self, draw: dc.Draw) -> tuple[Tensor, Tensor]:
        """Points and their blob."""
        label = mode(draw, 8)
        angle = label.double() * (math.pi / 4)
        mean = self.radius * torch.stack([angle.cos(), angle.sin()], 1)
        return mean + self.std * normal(draw, 2), label
