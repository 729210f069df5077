"""Checks of guidance: the same on every prediction, on any batch, in any composition; honest cost and needs."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from diffcore.errors import DiffcoreError
from diffcore.fields import Field
from diffcore.guidance import Guidance
from diffcore.process import Process
from diffcore.sampling import sample
from diffcore.solver import Plan, Solver
from diffcore.testing.base import SkipError, Subject, accepted, check, normal, poisoned_noise, refused, same, unchanged, worst
from diffcore.testing.oracles import Mixture, golden_mixture
from diffcore.tree import State, lincomb

LABELS = torch.tensor([0, 1, 2, 0, 1, 1])


class Euler(Solver):
    """x_s = x_t + (s - t) v: the plainest solver, for guidance that wraps one."""

    requires: ClassVar[frozenset[str]] = frozenset({"velocity"})

    def plan(self, process: Process, grid: Tensor) -> Plan:
        """The time and the (negative) length of each step."""
        t, s = process.pairs(grid)
        return Plan(t=t, h=s.t - t.t)

    def step(self, field: Field, x: State, row: Any, carry: Any, z: State) -> tuple[State, Any]:
        """One evaluation."""
        return lincomb((1, x), (row.h, field.velocity(x, row.t))), None


def _data(subject: Subject) -> Mixture:
    """The golden mixture over the event shape the guidance is made for (`event_shape`, default (4,))."""
    return golden_mixture(tuple(getattr(subject.cls, "event_shape", (4,))))


def _field(subject: Subject, process: Process, prediction: str = "x0", guidance: list[Any] | None = None) -> Field:
    chosen = [subject.component] if guidance is None else guidance
    return _data(subject).field(process, prediction, guidance=chosen, cond={"label": LABELS})


def _processes(subject: Subject) -> list[Any]:
    found = subject.processes(subject.component.requires)
    usable = [p for p in found if not refused(lambda p=p: _field(subject, p))]
    if not usable:
        raise SkipError(f"refused by every reference process: {refused(lambda: _field(subject, found[0]))}")
    return usable


def _x(subject: Subject) -> Tensor:
    return normal(len(LABELS), *_data(subject).shape)


@check("guidance")
def same_for_every_prediction(subject: Subject) -> None:
    """The guided mean does not depend on what the network predicts (1e-8), is finite and of the shape of x."""
    for process in _processes(subject):
        for fraction in (0.1, 0.5, 0.9):
            t, x = fraction * process.T, _x(subject)
            with torch.set_grad_enabled(_field(subject, process).needs_grad):
                means = {
                    p: _field(subject, process, p).posterior(x, t).mean.detach() for p in accepted(process, process.predictions)
                }
            first = means["x0"]
            assert first.shape == x.shape, f"the guided mean has shape {tuple(first.shape)}, x has {tuple(x.shape)}"
            assert bool(torch.isfinite(first).all()), f"the guided mean at {fraction} T is not finite"
            for name, mean in means.items():
                assert same(mean, first, 1e-8), (
                    f"{type(process).__name__} at {fraction} T: '{name}' gives a mean {worst(mean, first):.3g} off that of 'x0'"
                )


@check("guidance")
def row_by_row(subject: Subject) -> None:
    """The guided mean of a sample does not depend on the rest of its batch (1e-9)."""
    process = _processes(subject)[0]
    field, x, rows = _field(subject, process), _x(subject), [1, 4]
    with torch.set_grad_enabled(field.needs_grad):
        whole = field.posterior(x, 0.5 * process.T).mean.detach()
        part = field.bound({"label": LABELS[rows]}).posterior(x[rows], 0.5 * process.T).mean.detach()
    assert same(part, whole[rows], 1e-9), f"samples {rows} computed alone differ by {worst(part, whole[rows]):.3g}"


@check("guidance")
def leaves_inputs_alone(subject: Subject) -> None:
    """x and the conditions are not changed, no global generator is used, and the same call gives the same."""
    process = _processes(subject)[0]
    field, x = _field(subject, process), _x(subject)
    with torch.set_grad_enabled(field.needs_grad), poisoned_noise(), unchanged("x or a condition", x, LABELS):
        first = field.posterior(x, 0.5 * process.T).mean.detach()
    with torch.set_grad_enabled(field.needs_grad):
        again = field.posterior(x, 0.5 * process.T).mean.detach()
    assert same(first, again), "two calls with the same input differ"


@check("guidance")
def honest_needs(subject: Subject) -> None:
    """Guidance that does not declare needs = {"grad"} works with gradients off."""
    process = _processes(subject)[0]
    field = _field(subject, process)
    if field.needs_grad:
        raise SkipError("declares that it needs gradients")
    with torch.no_grad():
        field.posterior(_x(subject), 0.5 * process.T)


@check("guidance", applies=lambda cls: hasattr(cls, "neutral"))
def neutral(subject: Subject) -> None:
    """With the fields of `neutral` the guided mean is the plain conditional one."""
    guidance = subject.make(**subject.cls.neutral)
    for process in _processes(subject):
        x, t = _x(subject), 0.4 * process.T
        field = _field(subject, process, guidance=[guidance])
        with torch.set_grad_enabled(field.needs_grad):
            guided = field.posterior(x, t).mean.detach()
        plain = _field(subject, process, guidance=[]).posterior(x, t).mean
        assert same(guided, plain, 1e-9), (
            f"with {dict(subject.cls.neutral)} it still changes the mean by {worst(guided, plain):.3g}"
        )


@check("guidance")
def composes(subject: Subject) -> None:
    """Between identities it does the same; applied twice it still gives a finite mean."""
    process = _processes(subject)[0]
    x, t, one = _x(subject), 0.5 * process.T, subject.component
    with torch.set_grad_enabled(_field(subject, process).needs_grad):
        alone = _field(subject, process).posterior(x, t).mean.detach()
        among = _field(subject, process, guidance=[Guidance(), one, Guidance()]).posterior(x, t).mean.detach()
        twice = _field(subject, process, guidance=[one, one]).posterior(x, t).mean.detach()
    assert same(among, alone), "between two identities it gives another mean"
    assert bool(torch.isfinite(twice).all()), "applied twice it gives NaN or Inf"


@check("guidance")
def counted_cost(subject: Subject) -> None:
    """Every evaluation goes through the denoiser it was given, so that it is counted."""
    process = _processes(subject)[0]
    field = _field(subject, process)
    with torch.set_grad_enabled(field.needs_grad):
        field.posterior(_x(subject), 0.5 * process.T)
    trace, made = field.trace, len(field.base.net.seen)
    assert trace.calls == made > 0, f"{made} calls of the network, {trace.calls} counted"
    assert trace.rows >= len(LABELS), f"{trace.rows} rows counted for a batch of {len(LABELS)}"


@check("guidance")
def samples(subject: Subject) -> None:
    """A guided run is finite, the same for the same seed, and leaves its solver a solver."""
    guidance = subject.component
    for process in _processes(subject):
        solver = guidance.solver(Euler())
        assert isinstance(solver, Solver), f"`solver` returned {type(solver).__name__}, not a solver"
        x, grid = _x(subject) * process.T, torch.linspace(0.9, 0.1, 9, dtype=torch.float64) * process.T
        try:
            a, b = (sample(_field(subject, process), solver, x, grid=grid, seed=2).x for _ in range(2))
        except DiffcoreError as error:
            raise AssertionError(f"sampling on {type(process).__name__}: {type(error).__name__}: {error}") from None
        assert same(a, b), "two runs with one seed differ"
        assert not a.requires_grad, "the samples still carry a gradient graph"
