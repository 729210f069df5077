"""From whole numbers to a density and back: uniform dequantisation and its offset in bits per dimension."""

from __future__ import annotations

import math

import torch
from torch import Tensor

import diffcore as dc

SLACK = 1e-3


def spacing(levels: int) -> float:
    """The distance of neighbouring values in the network's range [-1, 1], whose ends are values: 2 / (levels - 1)."""
    return 2 / (levels - 1)


def offset(levels: int) -> float:
    """Bits per dimension to add to -log2 p(x) / D, for a density p in the network's range: -log2 of the spacing.

    P(x) = int p over a cell of volume spacing^D, so -log2 P / D = -log2 p / D + log2((levels - 1) / 2): 6.994 for 256
    levels, whose outermost values are -1 and 1. (The +7 of the literature is for cells that fill [-1, 1] exactly.)
    """
    return math.log2((levels - 1) / 2)


def dequantised(x: Tensor, levels: int, draw: dc.Draw) -> Tensor:
    """x + spacing (u - 1/2), u uniform: a point of the cell around each value of x in [-1, 1].

    E_u log p(x + ...) + D log spacing <= log P(x) (Theis et al. 2016, arXiv 1511.01844, section 3.1; Jensen).
    Raises `DataError` where x is not on `levels` values spread evenly over [-1, 1].
    """
    place = (x + 1) / spacing(levels)
    if float((place - place.round()).abs().max()) > SLACK or float(x.abs().max()) > 1 + SLACK:
        raise dc.DataError(
            f"the data is not on {levels} values spread evenly over its range; set `levels` to their number (256 for 8 bits), "
            f"or leave it out for continuous data"
        )
    return x + spacing(levels) * (draw.uniform(x.shape[1:], torch.float64).to(x) - 0.5)
