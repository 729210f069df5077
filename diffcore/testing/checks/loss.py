"""Checks of losses, weightings, time laws and couplings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from diffcore.numerics.affine import Coeffs, row
from diffcore.numerics.draw import Draw
from diffcore.numerics.fields import Denoiser
from diffcore.numerics.process import AffineProcess, Process
from diffcore.numerics.tree import expand
from diffcore.testing.base import (
    SkipError,
    Subject,
    accepted,
    check,
    draw_of,
    normal,
    poisoned_noise,
    refused,
    same,
    unchanged,
    worst,
)
from diffcore.testing.driving import average_velocity
from diffcore.testing.oracles import FiniteSet, Gaussian, Oracle, golden_mixture
from diffcore.testing.recording import SHARED, keys_drawn, repeated, spread

BLOCK = 32
EXACT = (0.0, 0.0, 0.0)


class Nudged(nn.Module):
    """The exact network plus theta_0 + theta_1 x + theta_2 t: exact at theta = 0, with three ways to be wrong."""

    def __init__(self, exact: Callable[..., Tensor], theta: tuple[float, ...] = EXACT, *, two_times: bool = False) -> None:
        super().__init__()
        self.exact, self.theta, self.two_times = exact, nn.Parameter(torch.tensor(theta, dtype=torch.float64)), two_times
        self.null_cond: dict[str, int] = {}

    def forward(self, x: Tensor, t: Tensor, s: Tensor | None = None, **cond: Any) -> Tensor:
        """Like x."""
        a, b, c = self.theta
        exact = self.exact(x, t, s) if self.two_times else self.exact(x, t)
        return (exact.double() + a + b * x + c * expand(t, x)).to(x.dtype)


def _model(process: Process, data: Oracle, prediction: str, theta: tuple[float, ...] = EXACT) -> Denoiser:
    return Denoiser(Nudged(data.net(process, prediction), theta), prediction, process)


def _processes(subject: Subject) -> list[Any]:
    return subject.processes(subject.component.requires)


def _values(subject: Subject, model: Denoiser, x0: Tensor, draw: Draw, **cond: Tensor) -> dict[str, Tensor]:
    out = subject.component(model, x0, draw, **cond)
    return dict(out) if isinstance(out, Mapping) else {"": out}


def _called(subject: Subject, model: Denoiser, x0: Tensor, draw: Draw, **cond: Tensor) -> None:
    """The loss, for what it draws and calls; skipped where it refuses the kit's data or network, which `per_sample` tells."""
    why = refused(lambda: _values(subject, model, x0, draw, **cond))
    if why:
        raise SkipError(f"refused: {why}")


def _predictions(subject: Subject, process: Process) -> list[str]:
    wanted = getattr(subject.cls, "predictions", ()) or ("velocity", "x0", "eps")
    return accepted(process, [p for p in wanted if p in process.predictions])


def _optimum(cls: Any) -> str | None:
    """What the loss's minimiser is: the class attribute `oracle` ("denoiser", "flow_map" or None), else the denoiser."""
    return getattr(cls, "oracle", None if cls.second_time else "denoiser")


@check("loss")
def per_sample(subject: Subject) -> None:
    """One finite value per sample (or a mapping player -> such values)."""
    for process in _processes(subject):
        for prediction in _predictions(subject, process):
            data = golden_mixture((3,))
            values = _values(subject, _model(process, data, prediction, (0.1, 0.1, 0.1)), data.sample(5), draw_of(5))
            for name, value in values.items():
                assert value.shape == (5,), (
                    f"{name or 'the loss'} has shape {tuple(value.shape)} for 5 samples; do not reduce over the batch"
                )
                assert bool(torch.isfinite(value).all()), (
                    f"{name or 'the loss'} is not finite with prediction '{prediction}' on {type(process).__name__}"
                )


@check("loss")
def reaches_the_network(subject: Subject) -> None:
    """The gradient arrives at the network's parameters, finite and not all zero."""
    process = _processes(subject)[0]
    data = golden_mixture((3,))
    model = _model(process, data, _predictions(subject, process)[0], (0.3, -0.2, 0.1))
    total = sum(v.sum() for v in _values(subject, model, data.sample(8), draw_of(8)).values())
    grad = torch.autograd.grad(total, model.net.theta, allow_unused=True)[0]  # type: ignore[arg-type]
    assert grad is not None, "the loss does not depend on the network's parameters"
    assert float(grad.abs().nan_to_num(0.0).sum()) > 0, f"the gradient of the network is {grad.tolist()}"
    assert bool(torch.isfinite(grad).all()), f"the gradient of the network is {grad.tolist()}"


@check("loss")
def noise_is_an_argument(subject: Subject) -> None:
    """All randomness is in the draw: the same draw gives the same values, no global generator is used, x_0 is left alone."""
    process = _processes(subject)[0]
    data = golden_mixture((3,))
    x0, model = data.sample(6), _model(process, data, _predictions(subject, process)[0], (0.1, 0.0, 0.0))
    with poisoned_noise(), unchanged("x_0", x0):
        first = _values(subject, model, x0, draw_of(6))
    again, other = (_values(subject, model, x0, draw_of(6, seed=s)) for s in (7, 8))
    for name, value in first.items():
        assert same(again[name], value), "the same draw gave another loss"
        assert not same(other[name], value), "the loss does not depend on the draw"


@check("loss")
def batch_partition(subject: Subject) -> None:
    """The loss of a sample does not depend on the rest of its batch (1e-9)."""
    process = _processes(subject)[0]
    data = golden_mixture((3,))
    x0, rows, draw = data.sample(6), [1, 4], draw_of(6)
    model = _model(process, data, _predictions(subject, process)[0], (0.1, 0.0, 0.0))
    whole, part = _values(subject, model, x0, draw), _values(subject, model, x0[rows], draw.take(rows))
    for name, value in whole.items():
        assert same(part[name], value[rows], 1e-9), (
            f"losses of samples {rows} alone differ by {worst(part[name], value[rows]):.3g}"
        )


@check("loss")
def draws_differ(subject: Subject) -> None:
    """No two draws of one call have the same key: times, noise and dropping are each from their own `draw.fold(k)`."""
    process = _processes(subject)[0]
    data = golden_mixture((3,))
    prediction = _predictions(subject, process)[0]
    net = Nudged(data.net(process, prediction), (0.1, 0.0, 0.0))
    net.null_cond = {"label": 1}
    x0, draw, label = data.sample(4), draw_of(4), torch.zeros(4, dtype=torch.int64)
    for cond in ({}, {"label": label}):  # what is not there cannot be dropped
        with keys_drawn() as keys:
            _called(subject, Denoiser(net, prediction, process), x0, draw, **cond)
        twice = repeated(keys)
        assert not twice, f"{twice}: the same numbers serve as two draws; give each its own `draw.fold(k)`"


@check("loss")
def coloured_noise(subject: Subject) -> None:
    """All noise is that of the process: where the entries of a sample share one noise, the network sees equal entries (1e-9)."""
    loss = subject.component
    for process in [p for p in SHARED if loss.requires <= p.provides]:
        seen: list[Tensor] = []

        def net(x: Tensor, t: Tensor, s: Tensor | None = None, seen: list[Tensor] = seen, **cond: Any) -> Tensor:
            seen.append(x.detach())
            return x / 2

        model = Denoiser(net, _predictions(subject, process)[0], process)
        _called(subject, model, normal(4, 1).expand(4, 3).contiguous(), draw_of(4))
        off = max(spread(x) for x in seen)
        assert off < 1e-6, (
            f"under {type(process).__name__}, whose noise is the same number in every entry, the network sees entries {off:.3g} "
            f"apart: take noise from `process.corrupt` or `process.noise.like(x, draw)`, never from the draw itself"
        )


def _gradients(subject: Subject, model: Denoiser, data: Oracle) -> Tensor:
    """Gradients of the mean loss with respect to theta, one row per block of samples."""
    found: list[Tensor] = []
    for k in range(BLOCK):
        ids = range(64 * k, 64 * (k + 1))
        draw = Draw(5, ids, block=64)
        loss = _values(subject, model, data.sample(64, Draw(6, ids, block=64)), draw)
        total = torch.stack([v.mean() for v in loss.values()]).sum()
        found.append(torch.autograd.grad(total, model.net.theta)[0])  # type: ignore[attr-defined]
    return torch.stack(found)


def _judge(who: str, at: Tensor, away: Tensor) -> None:
    """The mean gradient at the exact network is 0 within 4.5 s.e.; at theta_0 = 0.4 it is positive by 4.5 s.e."""
    off = (at.mean(0) / (at.std(0) / BLOCK**0.5 + 1e-12)).abs().max()
    assert off < 4.5, f"{who}: the expected gradient at the exact network is {at.mean(0).tolist()}, {float(off):.1f} s.e. off 0"
    push = away[:, 0].mean() / (away[:, 0].std() / BLOCK**0.5 + 1e-12)
    assert push > 4.5, f"{who}: a network that is off by 0.4 is pushed back by only {float(push):.1f} standard errors"


@check("loss", applies=lambda cls: _optimum(cls) == "denoiser")
def minimised_by_the_oracle(subject: Subject) -> None:
    """At the exact network of a finite data set the expected gradient is 0 (4.5 s.e.); away from it, it points away."""
    data = FiniteSet([[0.9, -0.4], [-0.7, 0.3], [0.1, 0.8]])
    for process in _processes(subject)[:2]:
        for prediction in _predictions(subject, process):
            at, away = (_gradients(subject, _model(process, data, prediction, (a, 0.0, 0.0)), data) for a in (0.0, 0.4))
            _judge(f"with prediction '{prediction}' on {type(process).__name__}", at, away)


@check("loss", applies=lambda cls: _optimum(cls) == "flow_map")
def minimised_by_the_flow_map(subject: Subject) -> None:
    """The same at the exact average velocity (Psi_{t->s}(x) - x) / (s - t) of Gaussian data."""
    data = Gaussian([0.4, -0.2, 0.7], 0.8)
    for process in _processes(subject)[:2]:
        exact = average_velocity(data, process)
        nets = (Nudged(exact, (a, 0.0, 0.0), two_times=True) for a in (0.0, 0.4))
        at, away = (_gradients(subject, Denoiser(net, "velocity", process), data) for net in nets)
        _judge(f"on {type(process).__name__}", at, away)


@check("weighting")
def positive(subject: Subject) -> None:
    """Finite, not negative, not all zero, of the shape of the times, for the row of every prediction."""
    weighting = subject.component
    for process in subject.processes(getattr(weighting, "requires", frozenset({"affine"}))):
        at: Coeffs = process.coeffs(torch.linspace(0.05, 0.95, 19, dtype=torch.float64) * process.T)
        for name in process.predictions:
            weight = torch.as_tensor(weighting(at, row(name, at)))
            assert weight.shape in ((19,), ()), f"'{name}': shape {tuple(weight.shape)} for 19 times"
            assert bool(torch.isfinite(weight).all() & (weight >= 0).all() & (weight > 0).any()), (
                f"'{name}': weights {weight.tolist()}"
            )
            alone = torch.stack([torch.as_tensor(weighting(at.at(i), row(name, at.at(i)))) for i in range(19)])
            assert same(alone, weight.expand(19), 1e-12), f"'{name}': the weight at one time depends on the other times"


@check("time_law")
def lawful(subject: Subject) -> None:
    """Float64 times (B,) within [min_time, T], keyed by (seed, id), not all the same, from no global generator."""
    law = subject.component
    usable = [p for p in subject.processes() if not refused(lambda p=p: law(p, draw_of(4)))]
    if not usable:
        raise SkipError(f"refused by every reference process: {refused(lambda: law(subject.processes()[0], draw_of(4)))}")
    for process in usable:
        with poisoned_noise():
            t = law(process, draw_of(512))
        assert (t.dtype, tuple(t.shape)) == (torch.float64, (512,)), f"{t.dtype} {tuple(t.shape)}, must be float64 (512,)"
        assert process.min_time <= float(t.min()) <= float(t.max()) <= process.T, (
            f"times from {float(t.min()):.4g} to {float(t.max()):.4g}, outside [{process.min_time}, {process.T}]"
        )
        assert len(t.unique()) > 5, "nearly all times are equal"
        assert same(law(process, draw_of(512).take([3, 99])), t[[3, 99]], 1e-12), (
            "the time of a sample depends on the rest of its batch"
        )
        assert not same(law(process, draw_of(512, seed=8)), t), "the times do not depend on the seed"


@check("time_law")
def every_process(subject: Subject) -> None:
    """On every installed affine process: times within [min_time, T], to the last digit."""
    law = subject.component
    for process in [p for p in subject.every("process") if isinstance(p, AffineProcess)]:
        if refused(lambda p=process: law(p, draw_of(4))):
            continue
        t = law(process, draw_of(64))
        assert process.min_time <= float(t.min()) <= float(t.max()) <= process.T, (
            f"{type(process).__name__}: times from {float(t.min())!r} to {float(t.max())!r}, outside [{process.min_time!r}, "
            f"{process.T!r}]: clamp them"
        )


@check("coupling")
def keeps_marginals(subject: Subject) -> None:
    """The noise keeps its distribution (means and variances within 4.5 s.e.), inputs are left alone."""
    coupling, x0, eps = subject.component, golden_mixture((2,)).sample(512), normal(512, 2, seed=9)
    with poisoned_noise(), unchanged("x_0 or eps", x0, eps):
        paired = coupling.pair(x0, eps, draw_of(512))
    assert paired.shape == eps.shape, f"eps came back as {tuple(paired.shape)}"
    gap = (paired.mean(0) - eps.mean(0)).abs() / (eps.std(0) * (2 / 512) ** 0.5)
    assert float(gap.max()) < 4.5, f"the mean of eps moved by {float(gap.max()):.1f} standard errors"
    spread = (paired.var(0) / eps.var(0) - 1).abs().max()
    assert float(spread) < 4.5 * (4 / 512) ** 0.5, f"the variance of eps changed by a factor {1 + float(spread):.3g}"
    assert same(coupling.pair(x0, eps, draw_of(512)), paired), "the same draw gave another pairing"
