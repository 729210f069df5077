"""`auto` and optimised grids against every fixed choice, on exact mixtures.

`measure.py DIM PROCESS NFE...` adds cells to results/cells.json, a working file; `measure.py table` prints them and
writes results/summary.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any

import torch
from diffcore_auto.candidates import solvers, within
from diffcore_auto.installed import label
from diffcore_auto.levels import span, times_at
from diffcore_auto.standard import standard_grids
from diffcore_auto.trial import summary

import diffcore as dc
from diffcore.testing.oracles import Mixture

RESULTS = Path(__file__).parent / "results" / "cells.json"
FIT, TEST = 128, 128
GRID_SOLVERS = ({"type": "dpmpp-2m"}, {"type": "unipc", "points": 2, "prediction": "eps"})


def mixture(dim: int) -> Mixture:
    """2-D: a ring of 8 anisotropic components. Else 6 with entries of the means of size .8 and deviations .1 to .6."""
    generator = torch.Generator().manual_seed(dim)
    if dim == 2:
        angle = torch.arange(8) * torch.pi / 4
        means, stds = torch.stack([angle.cos(), angle.sin()], 1), torch.rand(8, 2, generator=generator) / 4 + 0.05
    else:
        means, stds = 0.8 * torch.randn(6, dim, generator=generator), torch.rand(6, dim, generator=generator) / 2 + 0.1
    return Mixture(torch.rand(len(means), generator=generator) + 0.5, means.double(), stds.double())


def truth(field: dc.Field, x: torch.Tensor, registry: dc.Registry) -> torch.Tensor:
    """The end of the exact flow: 1000 fourth-order steps uniform in lam up to 14, for the field is exact at all times."""
    process = field.process
    solver = registry.make("solver", "exp-adams", points=3, corrector=True, start="singlestep")
    levels = torch.linspace(span(process, process.T)[0], 14, 1001, dtype=torch.float64)
    inner = levels[process.t_of_lam(levels) < process.T * (1 - 1e-9)]
    return dc.sample(field, solver, x, grid=times_at(process, inner, process.T, 0.0)).x


def run(dim: int, name: str, budgets: list[int]) -> None:
    """Add the cells of one mixture and process to the results."""
    registry = dc.Registry.load()
    data, process = mixture(dim), registry.make("process", name)
    field = data.field(process)
    x, fresh = (process.prior(data.shape, dc.Draw(s, range(n))).double() for s, n in ((0, FIT), (1, TEST)))
    goal = truth(field, fresh, registry)

    def errors(solver: dc.Solver, nodes: Any = None) -> list[float]:
        try:
            e = (dc.sample(field, solver, fresh, grid=nodes).x - goal).norm(dim=1) / dim**0.5
        except dc.DiffcoreError:
            return [1e9, 1e9]
        return [summary(e, "median"), summary(e, "rms")]

    for nfe in budgets:
        fixed: dict[str, list[float]] = {}
        for spec, solver in solvers(field, False, []):
            for grid_name, grid in standard_grids(field):
                nodes = within(field, solver, grid, nfe)
                fixed[f"{label(spec)} on {grid_name}"] = [1e9, 1e9] if nodes is None else errors(solver, nodes)
        auto = registry.make("solver", "auto", nfe=nfe)
        found = dc.calibrate(auto, field, x)
        cell: dict[str, Any] = {
            "fixed": fixed,
            "auto": errors(dc.calibrated(auto, found)),
            "why": list(auto.why(found)),
            "grids": {},
        }
        for spec in GRID_SOLVERS if nfe in (6, 15) else ():
            for kind in ("endpoint", "equidistributed"):
                solver = registry.make("solver", {**spec, "steps": nfe, "grid": {"type": kind}})
                known = min(fixed[f"{label(spec)} on {g}"][0] for g, _ in standard_grids(field))
                cell["grids"][f"{kind}, {label(spec)}"] = [
                    known,
                    errors(dc.calibrated(solver, dc.calibrate(solver, field, x)))[0],
                ]
        cells = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps({**cells, f"{dim}-D {name} {nfe}": cell}))
        print(dim, name, nfe, "auto", cell["auto"], "best fixed here", min(fixed.values()), cell["why"][0], flush=True)


def table() -> None:
    """The summary, for the README."""
    cells = json.loads(RESULTS.read_text())
    names = set.intersection(*(set(c["fixed"]) for c in cells.values()))
    for k, kind in enumerate(("median", "rms")):
        for how, of in (("median", median), ("geometric mean", geometric_mean)):
            score = {n: of([c["fixed"][n][k] for c in cells.values()]) for n in names}
            best = min(names, key=lambda n, score=score: score[n])
            wins = sum(c["auto"][k] <= c["fixed"][best][k] for c in cells.values())
            own = of([min(v[k] for v in c["fixed"].values()) for c in cells.values()])
            print(
                f"{kind} over states, {how} over cells: auto {of([c['auto'][k] for c in cells.values()]):.3g}, best fixed choice"
            )
            print(f"  {score[best]:.3g} ({best}), auto better in {wins} of {len(cells)}; every cell's own best {own:.3g}")
    best = min(names, key=lambda n: geometric_mean(c["fixed"][n][0] for c in cells.values()))
    print(f"\n| cell | auto | {best} | best fixed of the cell |\n|---|---|---|---|")
    for name, c in sorted(cells.items(), key=lambda item: (item[0].split()[:2], int(item[0].split()[2]))):
        own = min(c["fixed"], key=lambda n, c=c: c["fixed"][n][0])
        print(f"| {name} | {c['auto'][0]:.2e} | {c['fixed'][best][0]:.2e} | {c['fixed'][own][0]:.2e} {own} |")
    measured = [c["grids"] for c in cells.values() if c["grids"]]
    for name in measured[0]:
        ratios = sorted(g[name][0] / g[name][1] for g in measured)
        print(f"{name}, {len(ratios)} cells: error of the best standard grid over that of the calibrated one: ", end="")
        print(f"median {median(ratios):.2f}, least {ratios[0]:.2f}, largest {ratios[-1]:.2f}")
    rows = {
        n: {"auto": c["auto"], "best fixed": c["fixed"][best], "grids": c["grids"], "why": c["why"][:2]} for n, c in cells.items()
    }
    (RESULTS.parent / "summary.json").write_text(json.dumps({"best fixed": best, "cells": rows}, indent=1))


if __name__ == "__main__":
    if sys.argv[1:] == ["table"]:
        table()
    else:
        run(int(sys.argv[1]), sys.argv[2], [int(n) for n in sys.argv[3:]])
