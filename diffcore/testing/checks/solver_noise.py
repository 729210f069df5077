"""Checks of what a solver draws and calls: noise of the process's law, a key for each draw, every call of a network counted."""

from __future__ import annotations

from typing import Any

from diffcore.numerics.sampling import sample
from diffcore.testing.base import SkipError, Subject, check, normal
from diffcore.testing.bench import grid_of, oracle_of, processes, start_at
from diffcore.testing.driving import exact_field
from diffcore.testing.oracles import Gaussian
from diffcore.testing.recording import SHARED, keys_drawn, networks_called, repeated, spread


@check("solver")
def coloured_noise(subject: Subject) -> None:
    """All noise is that of the process: where the entries of a sample share one noise, they stay equal through a run (1e-9)."""
    solver, data = subject.component, Gaussian(0.5, 0.8, shape=(4,))
    usable = [p for p in SHARED if solver.requires - {"flow_map"} <= p.provides]
    if not usable:
        raise SkipError("requires more than an affine process provides")
    for process in usable:
        x = normal(3, 1).expand(3, 4).contiguous()
        off = spread(sample(exact_field(solver, process, data), solver, x, grid=grid_of(process), seed=3).x)
        assert off < 1e-9, (
            f"under {type(process).__name__}, whose noise is the same number in every entry, entries that begin equal end "
            f"{off:.3g} apart: take noise from `process.noise.like(x, draw)` (as `Solver.noise` does), never from the draw itself"
        )


@check("solver")
def draws_differ(subject: Subject) -> None:
    """No two draws of a run have the same key: each is from its own `draw.at(i)` or `draw.fold(k)`."""
    solver = subject.component
    process = processes(subject)[0]
    oracle = oracle_of(process)
    x, field = start_at(process, oracle, 2), exact_field(solver, process, oracle)
    with keys_drawn() as keys:
        sample(field, solver, x, grid=grid_of(process), seed=3)
    twice = repeated(keys)
    assert not twice, f"{type(process).__name__}: {twice}: the same numbers serve as two noises; give each its own `draw.fold(k)`"


@check("solver")
def counted_calls(subject: Subject) -> None:
    """The calls that a run reports are all calls of networks that it made, of any network."""
    solver = subject.component
    for process in processes(subject):
        oracle = oracle_of(process)
        field: Any = exact_field(solver, process, oracle)
        if not hasattr(field.base.net, "seen"):
            raise SkipError("the exact network of this process does not note its calls")
        x = start_at(process, oracle, 2)
        with networks_called(field.base.net) as called:
            said = sample(field, solver, x, grid=grid_of(process), seed=3).calls
        assert said == len(called) > 0, (
            f"{type(process).__name__}: {len(called)} calls of networks, {said} reported; call a network only through "
            f"`field.posterior`, `field.velocity`, `field.reverse` or `field.jump`"
        )
