"""Checks of metrics: repeatable, and better for equal sets than for sets far apart."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from diffcore.declare.errors import DiffcoreError
from diffcore.learning.metric import Evaluation, Measured
from diffcore.numerics.draw import Draw
from diffcore.testing.base import SkipError, Subject, check, poisoned_noise, unchanged
from diffcore.testing.oracles import Gaussian
from diffcore.testing.references import ReferenceVP

SHAPES: tuple[tuple[int, ...], ...] = ((4,), (1, 8, 8), (1, 28, 28), (3, 32, 32))
N = 256


def _evaluation(shape: tuple[int, ...], shift: float) -> Evaluation:
    """Samples N(0, .3^2) clipped to [-1, 1] against a reference moved by `shift`, labels 0..3, and the exact field."""
    data = Gaussian(0.0, 0.3, shape=shape)
    samples, reference = (data.sample(N, _draw(seed)).float().clamp(-1, 1) for seed in (1, 2))
    labels = torch.arange(N) % 4
    return Evaluation(
        samples=samples if shift == 0 else (samples + shift).clamp(-1, 1),
        reference=samples.flip(0) if shift == 0 else reference,
        cond={"label": labels},
        reference_cond={"label": labels.flip(0) if shift == 0 else labels},
        nfe=8.0,
        calls=8,
        seconds=1.0,
        field=data.field(ReferenceVP()),
    )


def _draw(seed: int) -> Draw:
    return Draw(seed, range(N), block=N)


def _accepted(subject: Subject) -> tuple[tuple[int, ...], Mapping[str, Measured]]:
    declared, why = getattr(subject.cls, "event_shape", None), ""
    for shape in (tuple(declared),) if declared else SHAPES:
        try:
            return shape, subject.component.measure(_evaluation(shape, 0.0))
        except DiffcoreError as error:
            why = str(error)
    raise SkipError(why)


@check("metric")
def measured(subject: Subject) -> None:
    """Named `Measured` values, finite, with n and what they were computed against."""
    _, found = _accepted(subject)
    assert found, "nothing was measured"
    for name, value in found.items():
        assert isinstance(value, Measured), f"'{name}' is {type(value).__name__}, must be dc.Measured"
        assert math.isfinite(value.value), f"'{name}' is {value.value}"
        assert value.n > 0, f"'{name}' says n = {value.n}"


@check("metric")
def repeatable(subject: Subject) -> None:
    """The same evaluation gives the same numbers, from no global generator, and is not changed."""
    shape, found = _accepted(subject)
    ev = _evaluation(shape, 0.0)
    with poisoned_noise(), unchanged("samples or reference", ev.samples, ev.reference):
        again = subject.component.measure(ev)
    assert {k: v.value for k, v in again.items()} == {k: v.value for k, v in found.items()}, (
        "two measurements of one evaluation differ"
    )


@check("metric")
def direction(subject: Subject) -> None:
    """Where `better` is declared: equal sets are better than sets far apart. Noise has no classes that could be read."""
    if subject.component.needs_classes:
        raise SkipError("reads the classes of samples (needs_classes)")
    if not subject.component.of_samples:
        raise SkipError("judges the field, not samples (of_samples is False)")
    shape, equal = _accepted(subject)
    far = subject.component.measure(_evaluation(shape, 0.8))
    judged = [name for name, value in equal.items() if value.better and name in far]
    if not judged:
        raise SkipError("declares no direction (`better`)")
    for name in judged:
        sign = 1 if equal[name].better == "higher" else -1
        near_value, far_value = equal[name].value, far[name].value
        assert sign * (near_value - far_value) >= 0, (
            f"'{name}' ({equal[name].better} is better) is {near_value:.4g} for equal sets, {far_value:.4g} for sets far apart"
        )
    assert any(equal[n].value != far[n].value for n in judged) or any(_cost_only(n) for n in judged), (
        "no number tells equal sets from sets far apart; a metric that looks at no samples says `of_samples = False`"
    )


def _cost_only(name: str) -> bool:
    return any(word in name for word in ("nfe", "calls", "second", "cost", "time"))
