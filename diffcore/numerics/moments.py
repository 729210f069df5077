"""Derivatives of a denoiser as linear maps: the covariance of x_0 given x_t, and the rate of a network along the flow.

One vector-Jacobian product gives the covariance of x_0 given x_t acting on a vector, one Jacobian-vector product the total
derivative of a network along a trajectory. Neither forms a matrix, both take trees, and both compile.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from diffcore.declare.errors import DataError, IncompatibleError, NumericsError, SpecError
from diffcore.numerics.affine import Coeffs, Posterior
from diffcore.numerics.arguments import whole
from diffcore.numerics.fields import Denoiser
from diffcore.numerics.tree import State, describe, leaves, lincomb, tree_map


def moments(denoiser: Any, x: State, t: Any, **cond: Any) -> tuple[Posterior, Callable[[State], State]]:
    """The posterior of x_0 given x_t = x, and `cov`: v -> Cov[x_0 | x_t] v, of the shape of x.

    Tweedie's formula of second order, for an affine process with noise of covariance C and any shift of its mean:

        Cov[x_0 | x_t] = (sigma^2 / alpha) J C,     J = d E[x_0 | x_t] / d x_t,

    which is symmetric, so that cov(v) = (sigma^2 / alpha) C J^T v is one vector-Jacobian product of the network; of one that is
    not exact, and of a guided denoiser, it is that of the mean it returns. The network is called once, `cov` as often as wanted.
    Gradients need not be on.

    denoiser: a `Denoiser`, or a guided one (`field.denoiser`); t: a number, one per sample or per entry, or `Coeffs`.
    Raises `IncompatibleError` for a process that is not affine, `NumericsError` where alpha = 0: x_t then says nothing of x_0,
    and the covariance of x_0 cannot be read from J.

    Source: Efron 2011 (J. Am. Stat. Assoc. 106); Boys et al. 2023, arXiv 2310.06721.
    """
    if "affine" not in denoiser.process.provides:
        raise IncompatibleError(f"moments needs an affine process; {type(denoiser.process).__name__} is not")
    found: list[Posterior] = []

    def mean_of(x: State) -> tuple[State, State]:
        posterior = denoiser(x, t, **cond)
        found.append(posterior)
        return posterior.mean, posterior.value

    pulled: Any = torch.func.vjp(mean_of, x, has_aux=True)
    _, back, value = pulled
    read = found[0]
    at = read.at
    if not isinstance(at.alpha, Tensor) and at.alpha == 0:
        raise NumericsError(
            f"the covariance of x_0 given x_t cannot be read at t = {at.t}, where alpha = 0 and x_t says nothing of x_0; start "
            f"the grid at an earlier time, or leave this step out"
        )
    scale = at.sigma**2 / at.alpha
    known, noise = Posterior(x, value, read.name, at, read.sigma_data, read.noise), read.noise
    return known, lambda v: lincomb((scale, noise.covariance(back(v)[0])))


def conjugate_gradient(mv: Callable[[State], State], b: State, iterations: int) -> State:
    """x with A x = b for each sample, by that many steps of conjugate gradients from 0: the shape of b.

    mv: v -> A v, of the shape of b, symmetric and positive definite within each sample; n steps solve n unknowns up to rounding.
    The number of steps is fixed and no value is looked at, so nothing waits for the device. A sample whose residual is zero
    rests, and so does one in whose direction A is not positive.

    Raises `SpecError` for fewer than one step, `DataError` where A v is not of the shape of v.

    Source: Hestenes and Stiefel 1952 (J. Res. Natl. Bur. Stand. 49, 409).
    """
    x, rest, way = tree_map(torch.zeros_like, b), b, b
    size = _inner(rest, rest)
    for _ in range(whole("iterations", iterations, 1)):
        pushed = mv(way)
        if [leaf.shape for leaf in leaves(pushed)] != [leaf.shape for leaf in leaves(way)]:
            raise DataError(f"the operator made {describe(pushed)} of {describe(way)}; it must keep the shape")
        step = _ratio(size, _inner(way, pushed))
        x, rest = lincomb((1, x), (step, way)), lincomb((1, rest), (-step, pushed))
        before, size = size, _inner(rest, rest)
        way = lincomb((1, rest), (_ratio(size, before), way))
    return x


def _inner(a: State, b: State) -> Tensor:
    """<a, b> of each sample, all leaves together."""
    return reduce(torch.add, [(p * q).reshape(len(p), -1).sum(1) for p, q in zip(leaves(a), leaves(b), strict=True)])


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    """above / below, 0 where that is not above 0."""
    return torch.where(below > 0, above / torch.where(below > 0, below, 1.0), 0.0)


def along(
    model: Denoiser, x: State, at: Any, s: Any, v: State | None, wrt: Literal["t", "s"] = "t", **cond: Any
) -> tuple[State, State]:
    """u(x_t, t, s) and its total derivative, by one forward derivative of the network; both of the shape of x.

    wrt "t": d/dt along dx/dt = v at fixed s, (d_x u) v + d_t u. wrt "s": d/ds at fixed x_t and t, where v has no part. The input
    scaling and time embedding of the denoiser are differentiated with it.

    at: the time t of x, a number, a tensor with one per sample or per entry, or `Coeffs`; s: the second time, likewise or a
    `dc.Instant`; None for a network with one time. Attention is computed as it is written, and not in half precision: its
    fused kernels have no forward derivative.

    Raises `SpecError` for another `wrt`, or a derivative in a second time that there is not.

    Source: Geng et al. 2025, arXiv 2505.13447 (average velocities); Lu and Song 2025, arXiv 2410.11081 (consistency).
    """
    if wrt not in ("t", "s") or (wrt == "s" and s is None):
        raise SpecError(f"'wrt' is 't', or 's' for a network with a second time; got {wrt!r}{' without s' * (wrt == 's')}")
    first: Any = _lasting(model, x, at)
    second: Any = None if s is None else _lasting(model, x, s)
    names, values, rates = _moving(first if wrt == "t" else second)

    def u(x: State, *entries: Tensor) -> State:
        moved = dict(zip(names, entries, strict=True))
        here = first._replace(time=None, **moved) if wrt == "t" else first
        end = second._replace(time=None, **moved) if wrt == "s" else second
        return model.network(x, here, end, **cond)

    still = tree_map(torch.zeros_like, x) if wrt == "s" else v
    with sdpa_kernel(SDPBackend.MATH), torch.autocast(leaves(x)[0].device.type, enabled=False):
        found: Any = torch.func.jvp(u, (x, *values), (still, *rates))
    return found


def _lasting(model: Denoiser, x: State, at: Any) -> Any:
    """A time as a point whose entries are tensors."""
    point = model.point(at, x)
    if isinstance(point.t, Tensor):
        return point
    leaf = leaves(x)[0]
    return model.point(torch.full((len(leaf),), float(point.t), dtype=torch.float64, device=leaf.device), x)


def _moving(at: Any) -> tuple[tuple[str, ...], tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The entries of a time that a network sees and that change with it: names, values and rates."""
    rates = {"t": torch.ones_like(at.t)}
    if isinstance(at, Coeffs):
        rates |= {"alpha": at.dalpha, "sigma": at.dsigma}
        rates |= {"shift": at.dshift} if isinstance(at.shift, Tensor) else {}
    return tuple(rates), tuple(getattr(at, name) for name in rates), tuple(rates.values())
