"""Which grid and which settings each solver should have where none are named: measured on problems that tuned nothing.

    python benchmarks/advice.py             # the table of grids for every deterministic solver, and of the rows of the advice
    python benchmarks/advice.py --write     # results/advice.json and the section in README.md

Exact fields of laws that differ in kind: unequal and anisotropic modes, low rank in many dimensions, a wide spectrum, finite
singular data, a smooth ring. Processes that differ in kind: linear, cosine and discrete schedules, the straight path, time as
noise level. The error of a state is its distance to a fine solution from the same noise, rms per dimension; a cell is a
(problem, process, number of calls). A grid's *loss* in a cell is its error over that of the best grid of the same solver there.
"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from accuracy import mixture, shown, solved
from common import publish, table
from torch import Tensor

import diffcore as dc
from diffcore.testing.oracles import FiniteSet, Gaussian, Mixture, Oracle

STATES = 32
CALLS = (5, 8, 10, 20, 50)
PROCESSES: Mapping[str, Mapping[str, Any]] = {
    "vp": {"type": "vp"},
    "cosine": {"type": "cosine"},
    "flow": {"type": "flow"},
    "edm": {"type": "edm"},
    "ddpm": {"type": "ddpm"},
}
GRIDS: Sequence[Mapping[str, Any] | None] = (
    None,
    {"type": "uniform"},
    {"type": "uniform-lam"},
    {"type": "uniform-lam", "lam_min": -4.0, "lam_max": 4.0},
    {"type": "karras"},
    {"type": "crash"},
    {"type": "cosine"},
    {"type": "shifted", "shift": 3.0},
)
SOLVERS: Sequence[Mapping[str, Any]] = (
    {"type": "euler"},
    {"type": "ddim"},
    {"type": "heun"},
    {"type": "runge-kutta", "method": "midpoint", "variable": "angle"},
    {"type": "dpmpp-2m"},
    {"type": "dpmpp-3m"},
    {"type": "dpmpp-2s"},
    {"type": "dpm-solver-2"},
    {"type": "dpm-solver-3"},
    {"type": "deis"},
    {"type": "unipc"},
    {"type": "exp-adams"},
    {"type": "exp-adams", "points": 2, "prediction": "flow", "corrector": True},
    {"type": "exp-adams", "points": 3, "prediction": "flow", "corrector": True},
    {"type": "exp-adams", "points": 3, "prediction": "flow"},
    {"type": "exp-adams", "points": 4, "prediction": "eps"},
    {"type": "exp-adams", "points": 3, "prediction": "x0", "corrector": True},
)
Errors = dict[tuple[str, str, int], tuple[float, float]]
"""(problem, process, calls) -> median and root mean square over states."""


def laws() -> dict[str, Oracle]:
    """The laws of the data, each of about unit size."""
    draw = dc.Draw(7, range(8))
    corners = draw.normal((8,), torch.float64)
    wide = torch.logspace(-2, 0.3, 32, dtype=torch.float64)
    flat = torch.cat([draw.fold(1).normal((4,), torch.float64), torch.zeros(8, 60, dtype=torch.float64)], 1)
    thin = torch.cat([torch.full((8, 4), 0.3), torch.full((8, 60), 0.01)], 1)
    return {
        "ring": mixture(2),
        "unequal modes": Mixture([0.9, 0.08, 0.02], [[0.0, 0.0], [1.5, 0.0], [0.0, -2.0]], [0.5, 0.1, 0.02]),
        "anisotropic": Mixture([0.5, 0.5], [[-0.7, 0.0], [0.7, 0.4]], [[0.02, 0.6], [0.5, 0.05]]),
        "low rank": Mixture([1.0] * 8, flat, thin),
        "wide spectrum": Gaussian(0.0, wide, shape=(32,)),
        "finite": FiniteSet(corners),
    }


def problems(registry: dc.Registry) -> Iterator[tuple[str, str, dc.Field, Tensor, Tensor]]:
    """Law, process, exact field, states at T, and where they end."""
    for (law, oracle), (name, spec) in ((a, b) for a in laws().items() for b in PROCESSES.items()):
        process = registry.make("process", spec)
        field = oracle.field(process)
        x = process.prior(oracle.shape, dc.Draw(1, range(STATES))).double()
        yield law, name, field, x, solved(field, x, registry, -10.0, 14.0, 600).double()


def run(field: dc.Field, solver: dc.Solver, x: Tensor, calls: int) -> Tensor | None:
    """The result of the most steps that fit into the calls; None where not one does."""
    for steps in dict.fromkeys([calls, (calls + 2) // 2, (calls + 1) // 2, calls // 2, (calls + 2) // 3, calls // 3]):
        try:
            nodes = solver.nodes(field.process, max(steps, 1))
            if sum(map(len, solver.plan(field.process, nodes).asks)) <= calls:
                return dc.sample(field, solver, x, grid=nodes).x
        except dc.DiffcoreError:
            continue
    return None


def measured(registry: dc.Registry, solvers: Sequence[Mapping[str, Any]], calls: Sequence[int]) -> dict[str, dict[str, Errors]]:
    """Errors by solver and grid."""
    found: dict[str, dict[str, Errors]] = defaultdict(lambda: defaultdict(dict))
    for law, name, field, x, goal in problems(registry):
        for spec in solvers:
            for grid in GRIDS:
                try:
                    solver = registry.make("solver", {**spec, "grid": grid})
                except dc.DiffcoreError:
                    continue
                for n in calls:
                    end = run(field, solver, x, n)
                    if end is not None and bool(end.isfinite().all()):
                        e = (end.double() - goal).flatten(1).norm(dim=1) / goal[0].numel() ** 0.5
                        label = shown(grid) if grid else "none named"
                        found[shown(spec)][label][law, name, n] = (
                            float(e.median()) + 1e-12,
                            float(e.square().mean().sqrt()) + 1e-12,
                        )
        print(law, name, flush=True)
    return found


def mean(values: Sequence[float]) -> float:
    """Geometric mean."""
    return math.exp(sum(map(math.log, values)) / len(values)) if values else math.nan


def summary(found: Mapping[str, Mapping[str, Errors]], few: bool, measure: int) -> Iterator[list[str]]:
    """A line for every solver: geometric mean error of every grid over the cells where all of them ran."""
    labels = [shown(g) if g else "none named" for g in GRIDS]
    for solver, grids in found.items():
        cells = set.intersection(*(set(e) for e in grids.values()))
        cells = {c for c in cells if (c[2] <= 10) is few}
        errors = {g: mean([e[c][measure] for c in cells]) for g, e in grids.items()}
        best = min(errors.values())
        yield [solver, *(f"{errors[g]:.2e}{' *' if errors[g] == best else ''}" if g in errors else "-" for g in labels)]


def report(found: Mapping[str, Mapping[str, Errors]]) -> str:
    """Median and root mean square, few and many calls."""
    header = ["solver", *(shown(g) if g else "none named" for g in GRIDS)]
    parts = [
        f"Geometric mean over cells of the {name} over states, {calls} calls:\n\n" + table(header, list(summary(found, few, i)))
        for few, calls in ((True, "5, 8 and 10"), (False, "20 and 50"))
        for i, name in enumerate(("median", "root mean square"))
    ]
    return "\n\n".join(parts)


def main() -> None:
    """Measure, print, and store if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, nargs="+", default=CALLS, help="numbers of calls")
    parser.add_argument("--write", action="store_true", help="store in results/ and README.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = measured(dc.Registry.load(), SOLVERS, options.calls)
    plain = {s: {g: [[*c, *e] for c, e in errors.items()] for g, errors in grids.items()} for s, grids in found.items()}
    publish("advice", {"errors": plain}, report(found), options.write)


if __name__ == "__main__":
    main()
