"""Checks of flow maps: the identity at s = t for any network, and the semigroup for the exact one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from diffcore.numerics.fields import Denoiser, Field
from diffcore.numerics.flow_map import FlowMapSolver
from diffcore.numerics.process import Process
from diffcore.numerics.sampling import sample
from diffcore.numerics.tree import expand
from diffcore.testing.base import SkipError, Subject, check, normal, poisoned_noise, refused, same, unchanged, worst
from diffcore.testing.driving import average_velocity
from diffcore.testing.oracles import Gaussian, instant

DATA = Gaussian([0.4, -0.2, 0.7], 0.8)


def _arbitrary(x: Tensor, t: Tensor, s: Tensor | None = None, **cond: Any) -> Tensor:
    """Some smooth network of x and both times."""
    second = t if s is None else s
    return torch.tanh(1.3 * x.flip(-1) + expand(t, x)) + torch.sin(2 * expand(second, x) * x)


def _model(subject: Subject, process: Process, net: Any) -> Denoiser:
    return Denoiser(net, _prediction(subject, process), process)


def _prediction(subject: Subject, process: Process) -> str:
    return next(p for p in (*subject.cls.predictions, "velocity") if p in process.predictions)


def _processes(subject: Subject) -> list[Any]:
    found = subject.processes(subject.component.requires)
    usable = [
        p
        for p in found
        if not refused(lambda p=p: subject.component.map(_model(subject, p, _arbitrary), normal(2, 3), 0.5 * p.T, 0.3 * p.T))
    ]
    if not usable:
        raise SkipError("refused by every reference process")
    return usable


@check("flow_map")
def identity(subject: Subject) -> None:
    """Psi_{t->t} is the identity for every network, at a number, per sample, in float32 and float64 (1e-6, 1e-12)."""
    for process in _processes(subject):
        model, flow_map = _model(subject, process, _arbitrary), subject.component
        for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
            x, rows = normal(4, 3).to(dtype), torch.tensor([0.1, 0.4, 0.7, 0.99], dtype=torch.float64) * process.T
            for t in (0.1 * process.T, 0.6 * process.T, rows):
                at = model.point(t, x)
                y = flow_map.map(model, x, at, at)
                assert same(y, x, tolerance), f"{type(process).__name__}: Psi_{{t->t}} moves x by {worst(y, x):.3g} at t = {t}"


@check("flow_map")
def pure(subject: Subject) -> None:
    """No global randomness, x left alone, samples independent of their batch, both times matter."""
    for process in _processes(subject):
        model, flow_map, x = _model(subject, process, _arbitrary), subject.component, normal(4, 3)
        t, s = (instant(process, f * process.T).map(float) for f in (0.7, 0.2))
        with poisoned_noise(), unchanged("x", x):
            whole = flow_map.map(model, x, t, s)
        assert same(flow_map.map(model, x[1:3], t, s), whole[1:3], 1e-12), "the image of a sample depends on its batch"
        between = instant(process, 0.45 * process.T).map(float)
        assert not same(flow_map.map(model, x, t, between), whole), "the map does not depend on s"


def _exact(subject: Subject, process: Process) -> Denoiser:
    """The exact network: what the class's `exact(oracle, process)` returns, else the average velocity."""
    flow_map: Any = subject.component
    if hasattr(flow_map, "exact"):
        return _model(subject, process, flow_map.exact(DATA, process))
    model, x = _model(subject, process, average_velocity(DATA, process)), normal(3, 3)
    t, s = (instant(process, f * process.T).map(float) for f in (0.7, 0.2))
    if not same(flow_map.map(model, x, t, s), DATA.moved(x, t, s), 1e-6):
        raise SkipError(
            "not a parametrisation by the average velocity; give the exact network in a method `exact(oracle, process)`"
        )
    return model


@check("flow_map")
def semigroup(subject: Subject) -> None:
    """With the exact network: Psi_{t->s} is the Gaussian flow map, and Psi_{u->s} after Psi_{t->u} is Psi_{t->s} (1e-8)."""
    for process in _processes(subject):
        model, flow_map, x = _exact(subject, process), subject.component, normal(4, 3)
        t, u, s = (instant(process, f * process.T).map(float) for f in (0.8, 0.5, 0.1))
        direct = flow_map.map(model, x, t, s)
        assert same(direct, DATA.moved(x, t, s), 1e-8), (
            f"{type(process).__name__}: {worst(direct, DATA.moved(x, t, s)):.3g} off the exact flow"
        )
        twice = flow_map.map(model, flow_map.map(model, x, t, u), u, s)
        assert same(twice, direct, 1e-8), f"{type(process).__name__}: in two jumps it is {worst(twice, direct):.3g} off one jump"


@check("flow_map")
def as_solver(subject: Subject) -> None:
    """Through `FlowMapSolver` one step with the exact network gives the samples of many."""
    for process in _processes(subject):
        model = _exact(subject, process)
        field, x = Field(model, flow_map=subject.component), normal(4, 3)
        one, ten = (
            sample(field, FlowMapSolver(), x, grid=torch.linspace(0.9, 0.1, n + 1, dtype=torch.float64) * process.T).x
            for n in (1, 10)
        )
        assert same(one, ten, 1e-7), f"{type(process).__name__}: 1 and 10 steps differ by {worst(one, ten):.3g}"
