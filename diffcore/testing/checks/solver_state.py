"""Checks of what a solver assumes about its state and its process: a time per sample, trees, declared capabilities."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from diffcore.numerics.fields import Denoiser, Field
from diffcore.numerics.process import Instant, Process
from diffcore.numerics.sampling import sample
from diffcore.numerics.tree import State, pytree, take, tree_map
from diffcore.testing.base import SkipError, Subject, check, same, worst
from diffcore.testing.bench import DATA, affine, grid_of, oracle_of, plans, processes, start_at, z_of
from diffcore.testing.driving import drive, exact_field
from diffcore.testing.limited import limited
from diffcore.testing.oracles import Gaussian

ANY_SHAPE = Gaussian(0.5, 0.8)
"""The same law for every entry of every leaf."""


@check("solver", applies=plans)
def time_per_sample(subject: Subject) -> None:
    """Samples with a grid each, [N + 1, B], are those computed alone (1e-9), also where B is the width of the state."""
    solver, data, size = subject.component, Gaussian(0.5, 0.8, shape=(3, 4, 4)), 4
    for process in affine(subject):
        x = start_at(process, data, size)
        each = torch.stack([grid_of(process, start=0.8 - 0.1 * i) for i in range(size)], 1)
        together = sample(exact_field(solver, process, data), solver, x, grid=each, seed=3).x
        for i in range(size):
            alone = sample(exact_field(solver, process, data), solver, x[i : i + 1], grid=each[:, i], seed=3, ids=[i]).x
            assert same(together[i : i + 1], alone, 1e-9), (
                f"{type(process).__name__}: under a time grid per sample, sample {i} is {worst(together[i : i + 1], alone):.3g} "
                f"off its run alone; weights are lifted from the left only by dc.lincomb (or dc.expand), not by + and *"
            )


@check("solver", applies=plans)
def staggered(subject: Subject) -> None:
    """Columns of one grid, each moved by another number of steps, so that entries begin to move and come to rest on the way:
    every entry is what it is in the run of that grid with its own noise (1e-9), from .8 T to .05 T and from T to 0.
    """
    solver, data = subject.component, Gaussian(0.5, 0.8, shape=(len(LATE),))
    for process in affine(subject):
        for start, end in ((0.8, 0.05), (1.0, 0.0)):
            x, grid = start_at(process, data, 2, start), grid_of(process, 5, start, end)
            plain, late = (_finish(solver, process, data, x, g, z) for g, z in _columns(solver, process, grid))
            off = (late - plain).abs().amax(0)
            assert same(late, plain, 1e-9), (
                f"{type(process).__name__}, {start:g} T to {end:g} T: entries that start {list(LATE)} steps late, and rest when "
                f"they are done, are {[float(f'{v:.2g}') for v in off]} off the run of one grid for all; look at masks made from "
                f"the starts of the steps and used for their ends"
            )


LATE = (0, 1, 3)
Drawn = Callable[[int, Tensor], State]


def _columns(solver: Any, process: Process, grid: Tensor) -> Iterator[tuple[Tensor, Drawn]]:
    """The grid and its noise, and both with column j LATE[j] steps late, resting before and after."""

    def late(i: int, x: Tensor) -> State:
        each = [z_of(solver, process, min(max(i - k, 0), len(grid) - 2), x) for k in LATE]
        return tree_map(lambda *parts: torch.stack([part[:, j] for j, part in enumerate(parts)], 1), *each)

    yield grid, partial(z_of, solver, process)
    index = torch.arange(len(grid) + max(LATE))[:, None] - torch.tensor(LATE)
    yield grid[index.clamp(0, len(grid) - 1)][:, None].repeat(1, 2, 1), late


def _finish(solver: Any, process: Process, data: Gaussian, x: Tensor, grid: Tensor, noise: Drawn) -> Tensor:
    *_, moment = drive(solver, exact_field(solver, process, data), x, grid, noise)
    return moment.after


@check("solver", applies=plans)
def rows_in_order(subject: Subject) -> None:
    """Every leaf of the carry is batch first, and (groups of) rows in another order give the step in that order (1e-9)."""
    solver = subject.component
    for process in processes(subject):
        oracle = oracle_of(process)
        field, x = exact_field(solver, process, oracle), start_at(process, oracle, 3 * solver.group)
        order = torch.tensor([2, 0, 1]).repeat_interleave(solver.group) * solver.group
        order = order + torch.arange(len(order)) % solver.group
        for i, moment in enumerate(drive(solver, field, x, grid_of(process), partial(z_of, solver, process))):
            odd = [leaf for leaf in pytree.tree_leaves(moment.carried) if not _has_rows(leaf, len(order))]
            assert not odd, (
                f"{type(process).__name__}: after step {i} the carry holds {_described(odd[0])}, of which rows cannot be taken: "
                f"every leaf has the {len(order)} samples as its first axis"
            )
            x, carry, z = take((moment.x, moment.carry, moment.z), order)
            other = solver.step(field, x, moment.row, carry, z)
            pairs = zip(*map(_leaves, ((other.x, other.carry), take((moment.after, moment.carried), order))), strict=True)
            off = max(worst(a, b) for a, b in pairs)
            assert off < 1e-9, f"{type(process).__name__}: rows in another order change step {i} by {off:.3g}"


def _leaves(tree: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def _has_rows(leaf: Any, rows: int) -> bool:
    return leaf is None or (isinstance(leaf, Tensor) and leaf.ndim > 0 and leaf.shape[0] == rows)


def _described(leaf: Any) -> str:
    return f"a tensor of shape {tuple(leaf.shape)}" if isinstance(leaf, Tensor) else f"a {type(leaf).__name__}"


@check("solver", applies=plans)
def tree_state(subject: Subject) -> None:
    """A state that is a dict of two tensors moves leaf by leaf as each tensor alone (1e-9)."""
    solver = subject.component
    if "flow_map" in solver.requires:
        raise SkipError("the flow maps of the kit know tensors only")
    for process in affine(subject):
        x = {"a": start_at(process, DATA, 2), "b": start_at(process, Gaussian(0.5, 0.8, shape=(2, 2)), 2)}
        both = _last(solver, process, x)
        for name, leaf in x.items():
            alone = _last(solver, process, leaf)
            assert same(both[name], alone, 1e-9), f"{type(process).__name__}: as a leaf it is {worst(both[name], alone):.3g} off"


def _last(solver: Any, process: Process, x: State) -> State:
    """The last state of a run on the exact denoiser, which reads every leaf on its own."""

    def net(x: State, t: Tensor) -> State:
        return tree_map(lambda leaf: ANY_SHAPE.mean(leaf, process.coeffs(t.double())), x)

    field = Field(Denoiser(net, "x0", process))
    try:
        *_, moment = drive(solver, field, x, grid_of(process), partial(z_of, solver, process))
    except (TypeError, AttributeError) as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise AssertionError(
            f"a state that is a tree is not carried: {type(error).__name__}: {error} ({place.filename}:{place.lineno}, in "
            f"{place.name}); write dc.lincomb for + and *, dc.tree_map for the rest"
        ) from None
    return moment.after


@check("solver")
def only_what_it_requires(subject: Subject) -> None:
    """A run asks the process and the field for nothing that `requires` does not name."""
    solver = subject.component
    for process in affine(subject):
        field = limited(process, DATA, solver.requires)
        try:
            sample(field, solver, start_at(process, DATA, 2), grid=grid_of(process), seed=1)
        except AttributeError as error:
            if not isinstance(error.obj, Instant):
                raise
            raise AssertionError(f"it reads `{error.name}` of a time, which needs the capability 'affine': declare it") from None
        moved = field.shown.moved_by
        assert moved != {"velocity"} or solver.requires & {"affine", "flat"}, (
            "it adds a velocity to x: declare the capability 'flat', or move by `field.retract`"
        )
