"""Checks of solvers against the contract: cost, times, noise, batches, and that nothing leaks between steps or runs."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import pairwise, zip_longest
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from diffcore.declare.errors import IncompatibleError, NumericsError, SpecError
from diffcore.numerics.affine import Coeffs
from diffcore.numerics.fields import Denoiser, Field
from diffcore.numerics.meter import Meter
from diffcore.numerics.process import Instant, Process
from diffcore.numerics.sampling import frames, sample
from diffcore.numerics.solver import Moved, Solver, Stepper
from diffcore.numerics.tree import leaves, tree_map
from diffcore.testing.base import (
    SkipError,
    Subject,
    check,
    copied,
    draw_of,
    normal,
    poisoned_noise,
    refused,
    same,
    unchanged,
    worst,
)
from diffcore.testing.bench import DATA, affine, grid_of, oracle_of, plans, processes, start_at, z_of
from diffcore.testing.driving import Moment, drive, exact_field
from diffcore.testing.oracles import Gaussian
from diffcore.testing.recording import times_asked
from diffcore.testing.references import ReferenceFlow


@check("solver")
def any_length(subject: Subject) -> None:
    """1, 2, 3, 5 and 10 steps from T: finite samples, one frame per node, the declared number of network calls."""
    solver = subject.component
    for process in processes(subject):
        oracle = oracle_of(process)
        for steps in (1, 2, 3, 5, 10):
            nodes = solver.nodes(process, steps)
            field = exact_field(solver, process, oracle)
            try:
                with Meter() as meter:
                    run = list(frames(field, solver, start_at(process, oracle, 2, 1.0), grid=nodes, seed=1))
            except NumericsError as error:
                raise AssertionError(f"{steps} steps on {type(process).__name__}: {error}") from None
            _judge_frames(solver, process, run, nodes, meter.calls)


def _judge_frames(solver: Solver, process: Process, run: list[Any], nodes: Tensor, calls: int) -> None:
    who = f"{len(nodes) - 1} steps on {type(process).__name__}"
    times = [float(f.t) for f in run]
    bad = [
        i
        for i, f in enumerate(run)
        if not all(bool(torch.isfinite(leaf).all()) for leaf in leaves(f.x) if leaf.is_floating_point())
    ]
    assert not bad, f"{who}: NaN or Inf after step {bad[0]}, to t = {times[bad[0]]:.4g}"
    ends = [float(nodes[0]), float(nodes[-1])]
    assert [times[0], times[-1]] == ends, f"{who}: frames run from {times[0]} to {times[-1]}, must be {ends}"
    assert all(a >= b for a, b in pairwise(times)), f"{who}: frame times rise: {times}"
    assert run[-1].calls == calls, f"{who}: the last frame says {run[-1].calls} calls, counted {calls}"
    if plans(type(solver)):
        assert times == nodes.tolist(), f"{who}: frames at {times}, the grid is {nodes.tolist()}"


@check("solver", applies=plans)
def asks(subject: Subject) -> None:
    """Every step evaluates the field at the times that `asks` of the plan says, in that order (1e-12), and at no other."""
    solver = subject.component
    for process in processes(subject):
        grid, oracle = grid_of(process), oracle_of(process)
        field, x = exact_field(solver, process, oracle), start_at(process, oracle, 3)
        moments = drive(solver, field, x, grid, partial(z_of, solver, process))
        for i, planned in enumerate(solver.plan(process, grid).asks):
            with times_asked() as seen:
                next(moments)
            off = any(not math.isclose(a, b, rel_tol=1e-12) for a, b in zip_longest(seen, planned, fillvalue=math.nan))
            assert not off, (
                f"{type(process).__name__}: step {i} evaluates the field at t = {_listed(seen)}, and `asks` of the plan says "
                f"{_listed(planned)}: give the plan asks=dc.asked(...)"
            )


def _listed(times: Sequence[float]) -> str:
    return ", ".join(f"{t:.6g}" for t in times) or "no time"


@check("solver", applies=plans)
def planned_times(subject: Subject) -> None:
    """Each step calls the network only at times that its row of the plan holds."""
    solver = subject.component
    for process in affine(subject):
        field, x = exact_field(solver, process, DATA), start_at(process, DATA, 3)
        seen: list[float] = field.base.net.seen
        for moment in drive(solver, field, x, grid_of(process), partial(z_of, solver, process)):
            planned = [float(v.t) for v in moment.row if isinstance(v, (Coeffs, Instant))]
            strange = [t for t in seen if not any(math.isclose(t, p, rel_tol=1e-9) for p in planned)]
            assert not strange, f"{type(process).__name__}: the network was called at t = {strange[0]:.6g}; planned are {planned}"
            seen.clear()


@check("solver")
def deterministic(subject: Subject) -> None:
    """The same seed gives the same samples, bit for bit."""
    solver = subject.component
    for process in processes(subject):
        oracle = oracle_of(process)
        x, grid = start_at(process, oracle, 3), grid_of(process)
        a, b = (sample(exact_field(solver, process, oracle), solver, x, grid=grid, seed=4).x for _ in range(2))
        assert same(a, b), f"{type(process).__name__}: two runs with one seed differ by {worst(a, b):.3g}"


@check("solver")
def batch_partition(subject: Subject) -> None:
    """A sample does not depend on the batch it is computed in: 64 at once, 7 at once, one alone (1e-9)."""
    solver = subject.component
    process = processes(subject)[0]
    oracle = oracle_of(process)
    field, x, grid = exact_field(solver, process, oracle), start_at(process, oracle, 64), grid_of(process)
    whole = sample(field, solver, x, grid=grid, seed=6).x
    for rows in ([17], list(range(21, 28)), [63]):
        part = sample(field, solver, _rows(x, rows), grid=grid, seed=6, ids=rows).x
        assert same(part, _rows(whole, rows), 1e-9), (
            f"samples {rows} computed alone differ by {worst(part, _rows(whole, rows)):.3g} from those in a batch of 64"
        )


def _rows(x: Any, rows: list[int]) -> Any:
    return tree_map(lambda leaf: leaf[rows], x)


@check("solver")
def interleaved(subject: Subject) -> None:
    """Two runs advanced in turn are the two runs alone: nothing is kept on the solver."""
    solver = subject.component
    process = processes(subject)[0]
    oracle = oracle_of(process)
    cases = [(start_at(process, oracle, 2), grid_of(process, 5), 1), (start_at(process, oracle, 3), grid_of(process, 8, 0.7), 2)]
    alone = [sample(exact_field(solver, process, oracle), solver, x, grid=g, seed=s).x for x, g, s in cases]
    runs = [frames(exact_field(solver, process, oracle), solver, x, grid=g, seed=s) for x, g, s in cases]
    last: list[Any] = [None, None]
    for _ in range(40):
        for i, run in enumerate(runs):
            last[i] = next(run, last[i])
    for i in range(2):
        assert same(last[i].x, alone[i]), f"interleaved with another run, run {i} changes by {worst(last[i].x, alone[i]):.3g}"


@check("solver")
def start_untouched(subject: Subject) -> None:
    """x_T is not changed in place, and reused buffers give the samples of fresh ones."""
    solver = subject.component
    for process in processes(subject):
        oracle = oracle_of(process)
        x, grid = start_at(process, oracle, 3), grid_of(process)
        with unchanged("x_T", x):
            result = sample(exact_field(solver, process, oracle), solver, x, grid=grid, seed=1).x
        if plans(type(solver)):
            *_, reused = solver.moves(exact_field(solver, process, oracle), x, grid, draw_of(3, seed=1), reuse=True)
            assert same(reused.x, result), "with reused buffers the samples differ: `row.out` is written while still read"


@check("solver", applies=plans)
def pure_steps(subject: Subject) -> None:
    """A step changes neither x, the carry nor z, and gives the same again; plan leaves the grid alone and repeats itself."""
    solver = subject.component
    for process in processes(subject):
        grid, oracle = grid_of(process), oracle_of(process)
        with unchanged("the time grid", grid):
            first, again = solver.plan(process, grid), solver.plan(process, grid)
        assert _equal_plans(first, again), "two plans of one grid differ"
        field, x = exact_field(solver, process, oracle), start_at(process, oracle, 3)
        carry = solver.init(x)
        for i, row in enumerate(first.rows(field, x)):
            z = z_of(solver, process, i, x) if first.stochastic and first.draws[i] else None
            kept = copied(carry)
            with unchanged(f"x, carry or z of step {i}", x, *_trees(carry), *_trees(z)):
                moved = solver.step(field, x, row, carry, z)
            assert isinstance(moved, Moved), f"step {i} returns a {type(moved).__name__}, must be dc.Moved(x, carry)"
            assert same(solver.step(field, x, row, kept, z).x, moved.x), f"step {i} called twice gives two results"
            x, carry = moved.x, moved.carry


def _trees(value: Any) -> list[Any]:
    return [] if value is None else [leaf for leaf in leaves(value) if isinstance(leaf, Tensor)]


def _equal_plans(a: Any, b: Any) -> bool:
    for name, x in a.flat.items():
        y = b.flat[name]
        x, y = (list(v) if isinstance(v, tuple) else [v] for v in (x, y))
        for p, q in zip(x, y, strict=True):
            if not (same(p, q) if isinstance(p, Tensor) else p == q):
                return False
    return True


@check("solver", applies=plans)
def planned_in_double(subject: Subject) -> None:
    """Every number of the plan is float64 and finite wherever a step reads it (times, weights)."""
    solver = subject.component
    for process in processes(subject):
        plan = solver.plan(process, grid_of(process))
        for name, value in plan.flat.items():
            parts = list(value) if isinstance(value, (Coeffs, Instant)) else [value]
            for part in parts:
                if isinstance(part, Tensor):
                    assert part.dtype == torch.float64, f"entry '{name}' of the plan is {part.dtype}, must be float64"
                    assert bool(torch.isfinite(part).all()), (
                        f"entry '{name}' of the plan is not finite on {type(process).__name__}"
                    )


@check("solver")
def no_global_noise(subject: Subject) -> None:
    """No draw from torch's, Python's or NumPy's global generator."""
    solver = subject.component
    process = processes(subject)[0]
    oracle = oracle_of(process)
    x = start_at(process, oracle, 2)
    with poisoned_noise():
        sample(exact_field(solver, process, oracle), solver, x, grid=grid_of(process), seed=1)


@check("solver", applies=plans)
def noise_weight(subject: Subject) -> None:
    """z has an effect exactly where `row.noise` is not 0; with `additive_noise` the effect is `row.noise * z`."""
    solver = subject.component
    for process in affine(subject):
        field, x = exact_field(solver, process, DATA), start_at(process, DATA, 3)
        plan, carry = solver.plan(process, grid_of(process)), solver.init(x)
        for i, row in enumerate(plan.rows(field, x)):
            z = z_of(solver, process, i, x)
            still = solver.step(field, x, row, carry, tree_map(torch.zeros_like, z)).x
            moved, carried = solver.step(field, x, row, carry, z)[:2]
            weight = float(row.noise)
            assert weight != 0 or same(moved, still), (
                f"{type(process).__name__}: step {i} uses z, but `noise` of the plan is 0 there"
            )
            assert weight == 0 or not same(moved, still), (
                f"{type(process).__name__}: step {i} ignores z, but `noise` is {weight:.3g}"
            )
            if solver.additive_noise:
                gap = worst(moved - still, weight * z)
                assert gap < 1e-9, f"{type(process).__name__}: step {i} adds noise that is not row.noise * z (off by {gap:.3g})"
            x, carry = moved, carried


@check("solver", applies=plans)
def time_per_pixel(subject: Subject) -> None:
    """Entries whose time stands still, at .2 T or at 0 (known pixels), are not moved; the others move as under one time."""
    solver, data = subject.component, Gaussian(0.5, 0.8, shape=(4,))
    for process in affine(subject):
        x, grid = start_at(process, data, 3), grid_of(process, end=0.0)
        plain = sample(exact_field(solver, process, data), solver, x, grid=grid, seed=3).x
        for rest in (0.2, 0.0):
            each = grid[:, None, None].repeat(1, 3, 4)
            each[:, :, :2] = rest * process.T
            mixed = sample(exact_field(solver, process, data), solver, x, grid=each, seed=3).x
            moved, off = worst(mixed[:, :2], x[:, :2]), worst(mixed[:, 2:], plain[:, 2:])
            assert moved == 0, f"{type(process).__name__}: entries at rest at {rest} T moved by {moved:.3g}"
            assert off < 1e-9, f"{type(process).__name__}: moving entries differ by {off:.3g} from a single time for all"


@check("solver", applies=plans)
def rows_as_tensors(subject: Subject) -> None:
    """A step with tensor rows (as under compilation) equals the eager one and never looks at a tensor's value."""
    solver = subject.component
    for process in affine(subject):
        x, grid = start_at(process, DATA, 3), grid_of(process)
        field = Field(_plain(process), flow_map=exact_field(solver, process, DATA).flow_map)
        eager = list(drive(solver, field, x, grid, partial(z_of, solver, process)))
        tensors = _without_values(solver, field, x, grid)
        assert same(tensors[-1].after, eager[-1].after, 1e-10), (
            f"tensor rows differ by {worst(tensors[-1].after, eager[-1].after):.3g}"
        )


def _plain(process: Any) -> Denoiser:
    """The exact denoiser around a function of tensors only, which records nothing."""
    return Denoiser(lambda x, t: DATA.moments(x, process.coeffs(t.double()))[0].to(x.dtype), "x0", process)


def _without_values(solver: Stepper, field: Field, x: Tensor, grid: Tensor) -> list[Moment]:
    plan, carry, run = solver.plan(field.process, grid), solver.init(x), list[Moment]()
    for i, row in enumerate(plan.rows(field, x, tensors=True)):
        fresh = z_of(solver, field.process, i, x)
        z = None if not plan.stochastic else fresh if plan.draws[i] else tree_map(torch.zeros_like, fresh)
        with _no_values():
            moved = solver.step(field, x, row, carry, z)
        run.append(Moment(row, x, carry, z, moved.x, moved.carry))
        x, carry = moved.x, moved.carry
    return run


@contextmanager
def _no_values() -> Generator[None]:
    """Fail where Python asks a tensor for its value inside a step."""

    def refuse(self: Tensor, *args: Any) -> Any:
        raise AssertionError(
            "a step looked at the value of a tensor (if, float, item): put the choice into the plan as integers or weights"
        )

    with ExitStack() as stack:
        for name in ("__bool__", "__float__", "__int__", "item", "tolist", "nonzero"):
            stack.enter_context(mock.patch.object(Tensor, name, refuse))
        yield


class _Bare(Process):
    """Provides nothing."""


class _Moved(ReferenceFlow):
    """x_t = (1 - t) x_0 + t eps + 2 + t: a shift that follows neither alpha nor sigma, at constant speed."""

    def coeffs(self, t: Tensor) -> Coeffs:
        """Those of the straight path, and a shift."""
        return super().coeffs(t)._replace(shift=2 + t, dshift=torch.ones_like(t))


@check("solver")
def shifted(subject: Subject) -> None:
    """Under a process that moves the mean of its states the samples are the plain ones, moved; or the process is refused."""
    solver, plain, moved = subject.component, ReferenceFlow(), _Moved()
    if not solver.requires - {"flow_map"} <= plain.provides:
        raise SkipError("requires more than a plain affine process provides")
    x, grid = start_at(plain, DATA, 3), grid_of(plain)
    want = sample(exact_field(solver, plain, DATA), solver, x, grid=grid, seed=3).x
    try:
        found = sample(exact_field(solver, moved, DATA), solver, x + 2 + grid[0], grid=grid, seed=3).x
    except (IncompatibleError, SpecError):
        return
    gap = worst(found - 2 - grid[-1], want)
    assert gap < 0.05, (
        f"samples of a process whose mean is moved by `shift` are {gap:.3g} off: subtract t.shift from x_t and add s.shift to "
        f"x_s, or raise IncompatibleError in `plan`"
    )


@check("solver", applies=lambda cls: bool(cls.requires))
def refusal(subject: Subject) -> None:
    """A process without what it requires is refused, naming the solver, the process and every missing capability."""
    solver = subject.component
    bare = _Bare()
    field = Field(SimpleNamespace(process=bare))
    message = refused(lambda: sample(field, solver, normal(2, 3), grid=[1.0, 0.5]))
    missing = [name for name in (*solver.requires, type(solver).__name__, "_Bare") if name not in message]
    assert message, "a process that provides nothing was accepted"
    assert not missing, f"the refusal does not name {', '.join(missing)}: {message}"
