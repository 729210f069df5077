"""Checks of operators, likelihoods, rewards and densities: identities that hold whatever the formulas are."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diffcore.declare.errors import DiffcoreError
from diffcore.testing.base import SkipError, Subject, check, draw_of, normal, poisoned_noise, same, unchanged, worst

SHAPES: tuple[tuple[int, ...], ...] = ((6,), (1, 8, 8), (3, 16, 16), (16,))
N = 4096
"""Measurements of one sample, for the moments of a likelihood."""
CLOSE = 1e-9


def _accepted(subject: Subject, use: Callable[[Tensor], Any], n: int = 3) -> Tensor:
    """n samples of the class attribute `event_shape`, else of the first usual shape that is accepted."""
    declared, why = getattr(subject.cls, "event_shape", None), ""
    for shape in (tuple(declared),) if declared else SHAPES:
        x = 0.7 * normal(n, *shape, seed=1)
        try:
            use(x)
        except DiffcoreError as error:
            why = str(error)
            continue
        return x
    raise SkipError(f"accepts none of {SHAPES} ({why}); name one in the class attribute `event_shape`")


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1)


def _rowwise(what: str, x: Tensor, use: Callable[[Tensor], Tensor]) -> Tensor:
    """The result for x, which is finite, has a row for each, draws nothing, changes nothing, and keeps rows apart."""
    with poisoned_noise(), unchanged("x", x):
        whole = use(x)
    assert len(whole) == len(x), f"{what} of {len(x)} samples has {len(whole)} rows"
    assert same(use(x[1:2]), whole[1:2], 1e-12), f"{what} of a sample depends on the others of its batch"
    return whole


def _scores(what: str, x: Tensor, log_prob: Callable[[Tensor], Tensor]) -> None:
    """autograd's derivative along a direction against the central difference."""
    leaf, v, h = x.detach().requires_grad_(), normal(*x.shape, seed=3), 1e-4
    (slope,) = torch.autograd.grad(log_prob(leaf).sum(), leaf)
    with torch.no_grad():
        numeric = (log_prob(x + h * v) - log_prob(x - h * v)) / (2 * h)
    found = _dot(slope, v)
    assert same(found, numeric, 1e-5), f"the gradient of {what} is off by {worst(found, numeric):.2g}"


# --- operators ------------------------------------------------------------------------------------------------------------


def _operator(subject: Subject, *provides: str) -> tuple[Any, Tensor, Tensor]:
    """The operator, samples, and noise of the shape of their measurements."""
    operator: Any = subject.component
    if missing := set(provides) - set(operator.provides):
        raise SkipError(f"does not provide {', '.join(sorted(missing))}")
    x = _accepted(subject, lambda x: operator.measured(tuple(x.shape[1:])))
    return operator, x, normal(*operator(x).shape, seed=2)


@check("operator")
def measured_shape(subject: Subject) -> None:
    """A(x_0) is finite, has the shape that `measured` says, and each row is of its own sample."""
    operator, x, _ = _operator(subject)
    y, wanted = _rowwise("A(x)", x, operator), tuple(operator.measured(tuple(x.shape[1:])))
    assert tuple(y.shape[1:]) == wanted, f"A(x) has shape {tuple(y.shape[1:])}, `measured` says {wanted}"
    assert bool(y.isfinite().all()), "A(x) is not finite"
    assert y.dtype == x.dtype, f"A(x) of {x.dtype} is {y.dtype}"


@check("operator")
def adjoint(subject: Subject) -> None:
    """Of a "linear" one: A(a x + b z) = a A(x) + b A(z), and <A x, y> = <x, A^T y>."""
    operator, x, y = _operator(subject, "linear")
    z = normal(*x.shape, seed=4)
    mixed, parts = operator(2 * x - 3 * z), 2 * operator(x) - 3 * operator(z)
    assert same(mixed, parts, CLOSE), f"A is not linear: A(2x - 3z) is off by {worst(mixed, parts):.2g}"
    back = operator.adjoint(y)
    assert back.shape == x.shape, f"A^T y has shape {tuple(back.shape)}, x has {tuple(x.shape)}"
    left, right = _dot(operator(x), y), _dot(x, back)
    assert same(left, right, CLOSE), f"<A x, y> = {float(left[0]):.6g}, but <x, A^T y> = {float(right[0]):.6g}"


@check("operator")
def pinv(subject: Subject) -> None:
    """Of one with "svd": A A^+ A x = A x, A^+ A A^+ y = A^+ y, and A^+ A is symmetric, so that A^+ y is the least x_0."""
    operator, x, y = _operator(subject, "svd")
    y = operator(x) + y  # not only of the range of A

    def onto(x: Tensor) -> Tensor:
        return operator.pinv(operator(x))

    assert same(operator(onto(x)), operator(x), CLOSE), f"A A^+ A x is off by {worst(operator(onto(x)), operator(x)):.2g}"
    least = operator.pinv(y)
    assert same(onto(least), least, CLOSE), f"A^+ A A^+ y is off by {worst(onto(least), least):.2g}: A^+ y is not the least x_0"
    z = normal(*x.shape, seed=4)
    assert same(_dot(onto(x), z), _dot(x, onto(z)), CLOSE), "A^+ A is not symmetric: A^+ y is not the least x_0"


@check("operator")
def gram_solve(subject: Subject) -> None:
    """Of one with "linear" and "gram": u = gram_solve(r, v, c) has r u + v A A^T u = c, for numbers and for one of each row."""
    operator, x, c = _operator(subject, "linear", "gram")
    each = torch.linspace(0.5, 2, len(x), dtype=c.dtype).view(-1, *[1] * (c.ndim - 1))
    for r, v in ((0.3, 2.0), (1.5, 0.0), (each, 3 - each)):
        u = operator.gram_solve(r, v, c)
        found = r * u + v * operator(operator.adjoint(u))
        assert same(found, c, 1e-6), f"(r I + v A A^T) u is off from c by {worst(found, c):.2g} (r = {r}, v = {v})"


# --- likelihoods ----------------------------------------------------------------------------------------------------------


def _measurement(subject: Subject, n: int = 3) -> tuple[Any, Tensor, Tensor]:
    """The likelihood, n samples, and a measurement of each."""
    likelihood: Any = subject.component
    x = _accepted(subject, lambda x: likelihood.sample(x, draw_of(len(x))), n)
    return likelihood, x, likelihood.sample(x, draw_of(n))


@check("likelihood")
def measures(subject: Subject) -> None:
    """A measurement depends on its sample and its own noise alone; log p(y | x_0) is one number of every row."""
    likelihood, x, y = _measurement(subject)
    with poisoned_noise(), unchanged("x_0 or y", x, y):
        value = likelihood.log_prob(x, y)
    assert tuple(value.shape) == (len(x),), f"log_prob has shape {tuple(value.shape)}, must be ({len(x)},)"
    assert same(likelihood.sample(x[1:2], draw_of(3).take([1])), y[1:2]), "a measurement depends on the others of its batch"
    assert same(likelihood.log_prob(x[1:2], y[1:2]), value[1:2], 1e-12), "log_prob of a row depends on the others of its batch"


@check("likelihood")
def sample_and_log_prob(subject: Subject) -> None:
    """With s = v . grad log p(y | x_0) along directions v of x_0, and y as `sample` draws it: E[s] = 0 and E[s^2] = -E[ds/dv]."""
    likelihood, x, _ = _measurement(subject, 1)
    many, v = x.repeat(N, *[1] * (x.ndim - 1)), normal(1, *x.shape[1:], seed=3)
    y = likelihood.sample(many, draw_of(N))
    score, curvature = _derivatives(lambda at: likelihood.log_prob(at, y), many, v.expand_as(many))
    for name, values in (("E[s]", score), ("E[s^2] + E[ds/dv]", score.square() + curvature)):
        mean, error = float(values.mean()), float(values.std()) / math.sqrt(N)
        assert abs(mean) <= 5 * error + CLOSE, (
            f"{name} = {mean:.3g} +- {error:.1g} is not 0: `sample` does not draw from the law of `log_prob`"
        )


def _derivatives(log_prob: Callable[[Tensor], Tensor], x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """The first and second derivative of log p along v, per row [B]."""
    leaf = x.detach().requires_grad_()
    (slope,) = torch.autograd.grad(log_prob(leaf).sum(), leaf, create_graph=True)
    score = _dot(slope, v)
    if not score.requires_grad:  # linear in x
        return score.detach(), torch.zeros_like(score)
    (second,) = torch.autograd.grad(score.sum(), leaf)
    return score.detach(), _dot(second, v)


# --- rewards and densities ------------------------------------------------------------------------------------------------


@check("reward")
def of_rows(subject: Subject) -> None:
    """One finite number of every row, which depends on that row alone; no noise, nothing changed in place."""
    reward, x = _reward(subject)
    value = _rowwise("r(x_0)", x, reward)
    assert tuple(value.shape) == (len(x),), f"r(x_0) has shape {tuple(value.shape)}, must be ({len(x)},)"
    assert bool(value.isfinite().all()), "r(x_0) is not finite"


@check("reward")
def reward_gradient(subject: Subject) -> None:
    """Of one that says it needs "grad": the gradient by autograd is that of its values."""
    reward, x = _reward(subject)
    if "grad" not in reward.needs:
        raise SkipError("is not to be differentiated ('grad' is not in needs)")
    _scores("r", x, reward)


def _reward(subject: Subject) -> tuple[Any, Tensor]:
    reward: Any = subject.component
    asked = [p.name for p in inspect.signature(reward).parameters.values() if p.kind == p.KEYWORD_ONLY and p.default is p.empty]
    if asked:
        raise SkipError(f"is given {', '.join(asked)}, which the kit does not know how to make")
    return reward, _accepted(subject, reward)


@check("density")
def log_density(subject: Subject) -> None:
    """log p(x) is one number below infinity of every row of the shape `event`, which depends on that row alone."""
    density, x = _density(subject)
    value = _rowwise("log p(x)", x, density.log_prob)
    assert tuple(value.shape) == (len(x),), f"log p(x) has shape {tuple(value.shape)}, must be ({len(x)},)"
    assert not bool((value.isnan() | (value == math.inf)).any()), "log p(x) is NaN or infinite; outside of the support it is -inf"


@check("density")
def density_gradient(subject: Subject) -> None:
    """Of one that provides "grad": the gradient by autograd is that of its values."""
    density, x = _density(subject)
    if "grad" not in density.provides:
        raise SkipError("does not provide grad")
    _scores("log p", x[density.log_prob(x).isfinite()], density.log_prob)


def _density(subject: Subject) -> tuple[Any, Tensor]:
    density: Any = subject.component
    return density, 0.7 * normal(5, *density.event, seed=1)
