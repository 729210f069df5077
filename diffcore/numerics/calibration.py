"""Calibration: what a solver or its time grid must find out about a trained model before it runs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from diffcore.numerics.fields import Field
from diffcore.numerics.solver import Solver, evolve
from diffcore.numerics.tree import State


class Table(Mapping[str, Tensor]):
    """Tensors by name, on the CPU, that a component may hold in a field: equal, and of one hash, where names, types, shapes and
    numbers are. So a calibrated component has plans that can be kept, and can be pickled.
    """

    def __init__(self, found: Mapping[str, Tensor]) -> None:
        if isinstance(found, Table):
            self._found, self.digest = found._found, found.digest
            return
        self._found = {name: value.detach().cpu().clone() for name, value in sorted(found.items())}
        seen = hashlib.sha256()
        for name, value in self._found.items():
            seen.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
            seen.update(value.flatten().view(torch.uint8).numpy().tobytes())
        self.digest = seen.hexdigest()

    def __getitem__(self, name: str) -> Tensor:
        return self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Table) and other.digest == self.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        """Names and shapes, without the numbers."""
        return f"Table({', '.join(f'{name} {tuple(value.shape)}' for name, value in self.items())})"

    def __reduce__(self) -> tuple[type[Table], tuple[dict[str, Tensor]]]:
        return Table, (self._found,)


class Calibrated:
    """A mixin for solvers and grids that must know a trained model before they run: `class Mine(dc.Calibrated, dc.Stepper)`.

    Before it is calibrated, `plan` (of a grid: `nodes`) raises `SpecError` and says `diffcore calibrate RUN`. A pipeline
    calibrates what it samples with, under the guidance of the spec, and saves what was found with the weights; without one,
    `dc.calibrated(solver, dc.calibrate(solver, field, x))` runs.
    """

    __slots__ = ()

    @property
    def calibrate_on(self) -> int:
        """On how many states at T it is calibrated; 0 where these fields need no calibration."""
        raise NotImplementedError

    def calibrate(self, field: Field, x: State, solver: Solver) -> Mapping[str, Tensor]:
        """What it must know of the model, as tensors by name, found from states x at T.

        solver: what takes the steps, with stand-ins for what is not calibrated: this solver itself, or that of this grid.
        """
        raise NotImplementedError

    def calibrated(self, found: Mapping[str, Tensor]) -> Any:
        """The solver or grid that runs, with what `calibrate` found; a field that keeps it holds a `Table`."""
        raise NotImplementedError

    def stand_in(self) -> Any:
        """One of the same cost that needs no calibration, for counting calls and before there is a model."""
        raise NotImplementedError

    def calibrated_as(self) -> Any:
        """The one whose calibration serves this one: fields on which it does not depend are at a fixed value."""
        return self

    def why(self, found: Mapping[str, Tensor]) -> Sequence[str]:
        """What was found and what follows from it, in lines for a reader. Default: the entry `times`."""
        times = found.get("times")
        return [] if times is None else ["times: " + ", ".join(f"{t:.4g}" for t in times.tolist())]


def parts(solver: Solver) -> list[Calibrated]:
    """The solver and its grid, as far as they need a calibration."""
    return [part for part in (solver, solver.grid) if isinstance(part, Calibrated) and part.calibrate_on]


def calibrate_on(solver: Solver) -> int:
    """On how many states at T a solver, or its grid, is calibrated before it can run; 0 where it needs no calibration."""
    return max((part.calibrate_on for part in parts(solver)), default=0)


def calibrate(solver: Solver, field: Field, x: State) -> dict[str, Tensor]:
    """What a solver and its grid must know of a model, from states x at T, [calibrate_on, ...], as tensors by name."""
    ready = stand_in(solver)
    return {name: value for part in parts(solver) for name, value in part.calibrate(field, x, ready).items()}


def calibrated(solver: Solver, found: Mapping[str, Tensor]) -> Solver:
    """The solver that runs, with what `calibrate` found; one that needs no calibration is itself."""
    for part in reversed(parts(solver)):
        solver = evolve(solver, grid=part.calibrated(found)) if part is solver.grid else solver.calibrated(found)  # pyright: ignore
    return solver


def stand_in(solver: Solver) -> Solver:
    """A solver of the same cost that needs no calibration, and neither does its grid."""
    for part in reversed(parts(solver)):
        solver = evolve(solver, grid=part.stand_in()) if part is solver.grid else solver.stand_in()  # pyright: ignore
    return solver


def calibrated_as(solver: Solver) -> Solver:
    """The solver whose calibration serves this one."""
    return solver.calibrated_as() if isinstance(solver, Calibrated) else solver


def why(solver: Solver, found: Mapping[str, Tensor]) -> list[str]:
    """What was found for a solver and its grid, in lines for a reader."""
    return [line for part in reversed(parts(solver)) for line in part.why(found)]
