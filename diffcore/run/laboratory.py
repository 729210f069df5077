"""The conversion laboratory: every target read from every other, and where that cannot be done.

Each target is p x_0 + q eps, so at given x_t any one gives any other as `want = A x_t + B have`, with

    A = (P q - Q p) / D,   B = (alpha Q - sigma P) / D,   D = alpha q - sigma p

for the rows (p, q) of `have` and (P, Q) of `want`. D vanishes inside (0, T) for none of the six targets (for the velocity it is
-alpha sigma lam'), so every singularity is at an end, and is found from the growth of A and B towards it. The A of
`have` -> velocity is the linear part of the probability-flow ODE in that form, hence its stiffness (6.15).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from diffcore.declare.errors import IncompatibleError
from diffcore.numerics.affine import ROWS, Coeffs, convert, row
from diffcore.numerics.process import AffineProcess

TARGETS = tuple(ROWS)
NEARER, NEAR = 1e-8, 1e-6
"""Distances from an end, as fractions of T, between which growth is measured."""


class Conversion(NamedTuple):
    """want = A x_t + B have, with A and B at the times asked for, and the ends (0, T) at which one of them is infinite."""

    have: str
    want: str
    A: Tensor
    B: Tensor
    singular: tuple[float, ...]


def rows(process: AffineProcess, t: Tensor, sigma_data: float = 0.5) -> dict[tuple[str, str], Conversion]:
    """The conversion of every pair of targets at times t inside (0, T), by (have, want); A and B have the shape of t, float64.

    Raises `IncompatibleError` where the process is not affine.
    """
    if "affine" not in process.provides:
        raise IncompatibleError(f"only an affine process has targets p x_0 + q eps; {type(process).__name__} is none")
    at = process.coeffs(torch.as_tensor(t, dtype=torch.float64))
    found: dict[tuple[str, str], Conversion] = {}
    for have in TARGETS:
        for want in TARGETS:
            singular = tuple(end for end in (0.0, process.T) if _diverges(process, have, want, end, sigma_data))
            found[have, want] = Conversion(have, want, *_weights(at, have, want, sigma_data), singular)
    return found


def _weights(at: Coeffs, have: str, want: str, sigma_data: float) -> tuple[Tensor, Tensor]:
    if have == want:
        return torch.zeros_like(at.t), torch.ones_like(at.t)
    a, b = convert(at, row(have, at, sigma_data), row(want, at, sigma_data))
    return a.expand_as(at.t), b.expand_as(at.t)


def _diverges(process: AffineProcess, have: str, want: str, end: float, sigma_data: float) -> bool:
    """Whether A or B grows like a power of the distance to the end (the least in use is 1/2)."""
    near = torch.tensor([NEARER, NEAR], dtype=torch.float64) * process.T
    at = process.coeffs(near if end == 0 else end - near)
    return any(_grows(w) for w in _weights(at, have, want, sigma_data))


def _grows(weight: Tensor) -> bool:
    nearer, near = weight.abs().tolist()
    return nearer > 1e-6 and math.log(nearer / max(near, 1e-300)) > 0.2 * math.log(NEAR / NEARER)


def targets_table(process: AffineProcess, sigma_data: float = 0.5) -> str:
    """All conversions as text: A and B where signal and noise are equal, `0` and `T` at the ends where they are infinite."""
    t = process.t_of_lam(torch.zeros((), dtype=torch.float64))
    found = rows(process, t, sigma_data)
    lines = [
        f"{type(process).__name__}: want = A x_t + B have. A and B at t = {float(t):.4g}, where alpha = sigma.",
        f"0, T: infinite at t = 0, at t = T = {process.T:g}.",
        "",
        "have \\ want".ljust(13) + "".join(want.ljust(20) for want in TARGETS).rstrip(),
    ]
    lines += [have.ljust(13) + "".join(_cell(found[have, want]).ljust(20) for want in TARGETS).rstrip() for have in TARGETS]
    return "\n".join(lines)


def _cell(conversion: Conversion) -> str:
    if conversion.have == conversion.want:
        return "="
    ends = ",".join("0" if end == 0 else "T" for end in conversion.singular)
    return f"{float(conversion.A):+.3g} {float(conversion.B):+.3g} {ends}".rstrip()
