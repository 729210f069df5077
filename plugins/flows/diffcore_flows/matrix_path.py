"""Conditional affine maps whose coefficients are matrices."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

import diffcore as dc

from .matrix_read import Read, lifted, mixed

Matrix = tuple[tuple[float, ...], ...]


@dc.component
class MatrixPath(dc.Process):
    """x_t = M(t) x_0 + S(t) x_1 with M = (1 - t) e^(tB), S = t e^((1 - t)C) L: data x_0 and source x_1 are turned, sheared and
    stretched on their way, t = 0 data, t = 1 the source L x_1.

    Given x_0 it is the affine map x_1 -> mu + S x_1, mu = M x_0, with velocity mu' + S' S^-1 (x - mu) = M' x_0 + S' x_1. Its
    expectation given x_t carries L x_1 to the data: learn it by 'flow-matching', or give E[x_0|x_t] (prediction x0). For
    x_0 ~ N(m, C_0) and Gaussian x_1, x_t ~ N(M m, M C_0 M^T + S S^T). B, C antisymmetric are rotations; B = C = 0, L = I is
    the process `flow`.

    Matrices are D x D and act on flattened events of D entries, one time per sample. As no pair of numbers (alpha, sigma) weighs
    data and noise, there is no level lam, no score row and no reverse kernel: there is a velocity in flat space, and what needs
    'affine' or 'reverse' is refused. S(0) = 0, so that a velocity read from x_0 stops at t_min. x_0 cannot be read from the
    velocity at times where 1 / (t (1 - t)) is an eigenvalue of B + C: nowhere, unless one is real and at least 4.

    Raises `SpecError` for matrices that are not square, of different sizes, or an L without inverse; `DataError` for events of
    another size, or times per entry.
    """

    source: ClassVar[str] = "Lai et al. 2025, arXiv 2510.21890, chapter 5; Lipman et al. 2023, arXiv 2210.02747, theorem 3"
    items: ClassVar[tuple[str, ...]] = ("5.14",)
    example: ClassVar[Mapping[str, Any]] = {"turn": ((0.0, -1.5), (1.5, 0.0))}
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {
            "source_turn": ((0.2, 1.0), (0.0, -0.3)),
            "scale": ((1.0, 0.0), (0.5, 2.0)),
            "noise": {"type": "empirical", "data": {"type": "eight-gaussians"}},
        },
    )
    provides: ClassVar[frozenset[str]] = frozenset({"velocity", "flat"})
    predictions: ClassVar[tuple[str, ...]] = ("velocity", "x0")

    turn: Matrix = dc.param(ge=-1e6, le=1e6, doc="B, the generator of the data's matrix, D rows of D numbers")
    source_turn: Matrix | None = dc.param(
        default=None, ge=-1e6, le=1e6, doc="C, the generator of the source's matrix; 0 where null"
    )
    scale: Matrix | None = dc.param(
        default=None, ge=-1e6, le=1e6, doc="L, the source's matrix at t = 1, invertible; the identity where null"
    )
    noise: dc.NoiseLaw = dc.param(factory=dc.White, doc="the law of the source x_1")
    t_min: float = dc.param(default=1e-3, gt=0, lt=1, doc="smallest time a network sees")

    def __attrs_post_init__(self) -> None:
        size = len(self.turn)
        for name, matrix in (("turn", self.turn), ("source_turn", self.source_turn), ("scale", self.scale)):
            if not size or (matrix is not None and [len(row) for row in matrix] != [size] * size):
                raise dc.SpecError(f"'{name}' of MatrixPath must be square, and as large as 'turn', which has {size} rows")
        if not abs(float(torch.linalg.det(self._matrices()[2]))) > 0:
            raise dc.SpecError("'scale' of MatrixPath has no inverse: the source would not fill the space; take another matrix")

    @property
    def min_time(self) -> float:
        """`t_min`."""
        return self.t_min

    def maps(self, t: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """M, S, M', S' at times t () or (B,), each (D, D) or (B, D, D), float64."""
        b, c, scale = self._matrices(t)
        t, eye = _column(t), torch.eye(len(b)).to(b)
        data, noise = torch.linalg.matrix_exp(t * b), torch.linalg.matrix_exp((1 - t) * c) @ scale
        return (1 - t) * data, t * noise, ((1 - t) * b - eye) @ data, (eye - t * c) @ noise

    def rates(self, t: Any) -> tuple[Tensor, Tensor, Tensor]:
        """K = t (M' - S' S^-1 M) = (t (1 - t)(B + C) - I) e^(tB), t S' S^-1 = I - t C, and t; t v = K x_0 + (I - t C) x_t."""
        b, c, _ = self._matrices(t)
        t, eye = _column(t), torch.eye(len(b)).to(b)
        return (t * (1 - t) * (b + c) - eye) @ torch.linalg.matrix_exp(t * b), eye - t * c, t.flatten()

    def probe(self, draw: dc.Draw) -> Tensor:
        """Some data of D entries, float64: for checks."""
        return draw.normal((len(self.turn),), torch.float64)

    def prior(self, event: Any, draw: dc.Draw) -> Tensor:
        """L x_1, one per id."""
        shape = dc.Event.of(event).leaf("process MatrixPath").shape
        x = self._source(torch.empty(len(draw.ids), *shape, device=draw.device), draw)
        return mixed(self._matrices(x)[2], x)

    def corrupt(self, x0: Tensor, t: Tensor, draw: dc.Draw, eps: Tensor | None = None) -> dc.Corruption:
        """M x_0 + S x_1 at times t () or (B,), x_1 = `eps` or drawn; its targets are `velocity` and `x0`."""
        x1, t = self._source(x0, draw) if eps is None else eps, torch.as_tensor(t, dtype=torch.float64, device=x0.device)
        if t.ndim > 1 and t.numel() != len(t):
            raise dc.DataError(f"MatrixPath mixes the entries of a sample and has one time for it; got times {tuple(t.shape)}")
        data, noise, ddata, dnoise = self.maps(t)
        targets = {"velocity": mixed(ddata, x0) + mixed(dnoise, x1), "x0": x0}
        return dc.Corruption(mixed(data, x0) + mixed(noise, x1), dc.Instant(t), x0, x1, targets)

    def scale_input(self, x: Tensor, at: dc.Instant, sigma_data: float) -> Tensor:
        """x over the root mean square of its entries, for data of variance sigma_data^2 and a source of variance 1."""
        data, noise, *_ = self.maps(at.t)
        size = (sigma_data**2 * data.square().sum((-2, -1)) + noise.square().sum((-2, -1))) / len(self.turn)
        return x * lifted(size**-0.5, x)

    def posterior(self, x: Tensor, out: Tensor, at: dc.Instant, reading: dc.Reading) -> Read:
        """The output as `velocity` or as `x0`."""
        return Read(self, x, out, at, reading.prediction)

    def velocity(self, x: Tensor, at: dc.Instant, posterior: Read) -> Tensor:
        """E[M' x_0 + S' x_1 | x_t]."""
        return posterior.velocity

    def fingerprint(self) -> list[float]:
        """The entries of B, C and L."""
        return [value for matrix in self._matrices() for value in matrix.flatten().tolist()]

    def _matrices(self, like: Any = None) -> tuple[Tensor, Tensor, Tensor]:
        """B, C and L, float64, where the times or the state are."""
        device, size = like.device if isinstance(like, Tensor) else None, len(self.turn)
        made = (self.turn, self.source_turn or [[0.0] * size] * size, self.scale or torch.eye(size).tolist())
        b, c, scale = (torch.tensor(rows, dtype=torch.float64, device=device) for rows in made)
        return b, c, scale

    def _source(self, like: Tensor, draw: dc.Draw) -> Tensor:
        shape = tuple(like.shape[1:])
        if math.prod(shape) != len(self.turn):
            raise dc.DataError(
                f"the matrices of MatrixPath act on {len(self.turn)} entries; the data has shape {shape}: give matrices of "
                f"{math.prod(shape)} rows"
            )
        return self.noise.like(like, draw)


def _column(t: Any) -> Tensor:
    """Times () or (B,) that broadcast against matrices, float64."""
    t = torch.as_tensor(t, dtype=torch.float64)
    return t if t.ndim == 0 else t.reshape(-1, 1, 1)
