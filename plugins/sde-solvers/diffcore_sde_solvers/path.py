"""One Brownian path per sample, a pure function of (seed, sample id): any increment of it, and its average, on demand.

The path lives on a clock q >= 0. The half-line is cut into cells: [0, 2^-20), then the octaves [2^k, 2^(k+1)), and every cell
is a dyadic tree. A node is a segment of length l with its increment W ~ N(0, l) and H ~ N(0, l / 12), the mean of the bridge
W(r) - (r / l) W over the segment; W and H are independent. A segment cut at the share u (v = 1 - u) falls into

    W_1 = u W + D,  W_2 = v W - D,    with D + 2 (u H_1 + v H_2) = 2 H,

D ~ N(0, u v l), H_1 ~ N(0, u l / 12), H_2 ~ N(0, v l / 12) conditioned on that sum: draw all three, then add 6 u v, u^2 and v^2
times what is missing of H. Three numbers a node, whatever the share; the last node is cut at the time asked for.

Sources: Foster et al. 2020 (SIAM J. Numer. Anal. 58) for W and H; Jelincic, Foster, Kidger 2024 (arXiv 2405.06464) for the tree.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch

import diffcore as dc

FIRST = -20
"""The first cell is [0, 2^FIRST)."""
TREE = 0xB20


class Segment(NamedTuple):
    """A stretch of the path: its length, its increment W and the integral A of B - B_start over it."""

    length: float
    w: dc.State
    area: dc.State

    def then(self, other: Segment) -> Segment:
        """This stretch followed by another."""
        area = dc.lincomb((1, self.area), (1, other.area), (other.length, self.w))
        return Segment(self.length + other.length, dc.lincomb((1, self.w), (1, other.w)), area)

    def after(self, first: Segment) -> Segment:
        """What is left of this stretch after its beginning `first`."""
        length = self.length - first.length
        area = dc.lincomb((1, self.area), (-1, first.area), (-length, first.w))
        return Segment(length, dc.lincomb((1, self.w), (-1, first.w)), area)

    @property
    def bridge(self) -> dc.State:
        """H = A / length - W / 2."""
        return dc.lincomb((1 / self.length, self.area), (-0.5, self.w))


def _segment(length: float, w: dc.State, h: dc.State) -> Segment:
    return Segment(length, w, dc.lincomb((length, h), (0.5 * length, w)))


def split(whole: Segment, u: float, fresh: tuple[dc.State, ...]) -> tuple[Segment, Segment]:
    """The two parts of a segment cut at the share u, from three standard normal states."""
    v, size = 1 - u, whole.length**0.5
    d, one, two = (c * size for c in ((u * v) ** 0.5, (u / 12) ** 0.5, (v / 12) ** 0.5))
    missing = dc.lincomb((1, whole.bridge), (-d / 2, fresh[0]), (-u * one, fresh[1]), (-v * two, fresh[2]))
    shift = dc.lincomb((d, fresh[0]), (6 * u * v, missing))
    first = dc.lincomb((u, whole.w), (1, shift)), dc.lincomb((one, fresh[1]), (u * u, missing))
    second = dc.lincomb((v, whole.w), (-1, shift)), dc.lincomb((two, fresh[2]), (v * v, missing))
    return _segment(u * whole.length, *first), _segment(v * whole.length, *second)


class Path:
    """The paths of the samples of a `Draw`, on the clock q = (alpha / sigma)^(2 power), in float64.

    like: a state of the wanted shapes and dtypes. depth: levels of the tree of a cell. The law is exact where no two times
    asked for lie in one of its 2^depth leaves; a step within a leaf is refused. noise: the law of an increment of length 1,
    that of a process; the path of correlated noise is the white one with its entries mixed.
    """

    def __init__(self, draw: dc.Draw, like: dc.State, power: float, depth: int, noise: dc.NoiseLaw = dc.WHITE) -> None:
        self.like, self.power, self.depth, self.tree, self.noise = like, power, depth, draw.fold(TREE), noise
        self._zero = dc.tree_map(lambda leaf: torch.zeros_like(leaf, dtype=torch.float64), like)
        self._kept: dict[float, tuple[int, int, Segment]] = {}

    def clock(self, lam: float) -> float:
        """q = e^(2 power lam)."""
        exponent = 2 * self.power * lam
        return math.exp(exponent) if exponent < 700 else math.inf

    def increment(self, lam: float, end: float) -> tuple[dc.State, dc.State]:
        """Two standard normal states of the stretch between two levels: W / sqrt(l) and H / sqrt(l / 12), as it is run through.

        Raises `NumericsError` where the clock stands still or is infinite, or the step is too short for the depth.
        """
        a, b = self.clock(lam), self.clock(end)
        if a == b or max(a, b) == math.inf:
            raise dc.NumericsError(f"a Brownian path has no increment between {a} and {b} on its clock (levels {lam}, {end})")
        part = self._between(min(a, b), max(a, b))
        sign = 1.0 if b > a else -1.0
        return self._cast(sign * part.length**-0.5, part.w), self._cast((12 / part.length) ** 0.5, part.bridge)

    def _cast(self, scale: float, state: dc.State) -> dc.State:
        return dc.tree_map(lambda leaf, like: (scale * leaf).to(like.dtype), state, self.like)

    def _between(self, a: float, b: float) -> Segment:
        (cell, leaf, before), (last, end, until) = self._prefix(a), self._prefix(b)
        self._kept = {a: (cell, leaf, before), b: (last, end, until)}
        if cell == last:
            if leaf == end:
                raise dc.NumericsError(f"a step from {a} to {b} on the clock is within one leaf of a tree of depth {self.depth}")
            return until.after(before)
        part = self._whole(cell).after(before)
        for middle in range(cell + 1, last):
            part = part.then(self._whole(middle))
        return part.then(until)

    def _prefix(self, q: float) -> tuple[int, int, Segment]:
        """The cell and the leaf of q, and the stretch from the start of the cell to q."""
        if q in self._kept:
            return self._kept[q]
        cell = max(math.frexp(q)[1] - FIRST, 0) if q > 0 else 0
        start, length = _cell(cell)
        return cell, *self._descend(cell, (q - start) / length)

    def _descend(self, cell: int, share: float) -> tuple[int, Segment]:
        """The leaf of a share of a cell, and the stretch from the start of the cell to there."""
        found, current, node = Segment(0.0, self._zero, self._zero), self._whole(cell), 1
        for _ in range(self.depth):
            left, right = split(current, 0.5, self._normal(cell, node))
            inside = share < 0.5
            found = found if inside else found.then(left)
            current, node, share = (left, 2 * node, 2 * share) if inside else (right, 2 * node + 1, 2 * share - 1)
        return node, found.then(split(current, share, self._normal(cell, node))[0]) if share else found

    def _whole(self, cell: int) -> Segment:
        length, (w, h, _) = _cell(cell)[1], self._normal(cell, 0)
        return _segment(length, dc.lincomb((length**0.5, w)), dc.lincomb(((length / 12) ** 0.5, h)))

    def _normal(self, cell: int, node: int) -> tuple[Any, ...]:
        """Three unit states of one node: the same for every batch and every grid."""
        return tuple(self.noise.like(self._zero, self.tree.fold(cell, k).at(node)) for k in range(3))


def _cell(cell: int) -> tuple[float, float]:
    """Start and length of a cell."""
    size = 2.0 ** (cell - 1 + FIRST)
    return (0.0, 2.0**FIRST) if cell == 0 else (size, size)
