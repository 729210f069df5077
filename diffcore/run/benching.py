"""How far solvers are from the exact end of the ODE at a budget of network calls, and where along a run the error arises."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

from diffcore.declare.errors import DiffcoreError, SpecError
from diffcore.numerics.calibration import stand_in
from diffcore.numerics.draw import Draw
from diffcore.numerics.fields import Field
from diffcore.numerics.sampling import frames, sample
from diffcore.numerics.solver import Frame, Solver
from diffcore.numerics.tree import State, describe
from diffcore.run import checkpoint, marks
from diffcore.run.fine import Fine, fine, is_deterministic, is_repeatable, ode_solvers, rms
from diffcore.run.fitting import label
from diffcore.run.measuring import for_calls
from diffcore.run.pipeline import Pipeline
from diffcore.run.record import place
from diffcore.run.report import ways
from diffcore.run.report.canvas import new_figure, png
from diffcore.run.report.escaping import figure_text
from diffcore.run.training import Progress

BENCH = 0xBE7C
"""Salt of the noise on which solvers are compared, which no other sampling sees."""


@attrs.frozen
class Start:
    """The states at T that every solver starts from, the field under their conditions, and where the ODE carries them."""

    field: Field
    x: State
    fine: Fine


def start(pipeline: Pipeline, n: int, seed: int) -> Start:
    """n states of the prior, conditions in turn, and their fine solution."""
    draw = Draw(seed, range(n), salt=BENCH, device=pipeline.device)
    cond = pipeline.usual_conditions(n)
    pipeline.net.eval()
    field, x = pipeline.field(cond), pipeline.process.prior(pipeline.source.event, draw)
    return Start(field, x, fine(field, x, pipeline.registry))


# --- error against calls ----------------------------------------------------------------------------------------------


def bench(
    pipeline: Pipeline,
    solvers: Sequence[Solver] = (),
    budgets: Sequence[int] = (5, 10, 20),
    *,
    n: int = 64,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The error of solvers at budgets of network calls: rms distance per dimension to a fine solution from the same noise.

    solvers: default all deterministic ones that fit. Each row has, per budget, `error` (mean over n samples), its standard
    error `se`, calls and seconds; or `refused`, why the solver is not in the table.
    """
    begun = start(pipeline, n, seed)
    chosen = list(solvers) or ode_solvers(pipeline.registry, begun.field)
    if progress:
        progress.start(len(chosen) * len(budgets), "solvers")
    rows: list[dict[str, Any]] = []
    for done, solver in enumerate(chosen):
        rows.append(_row(pipeline, begun, solver, budgets))
        if progress:
            progress.update((done + 1) * len(budgets))
    if progress:
        progress.close()
    reference = {"solver": label(pipeline.registry, begun.fine.solver), "steps": begun.fine.solver.steps}
    return {"n": n, "seed": seed, "reference": {**reference, "error": begun.fine.error}, "budgets": list(budgets), "rows": rows}


def _row(pipeline: Pipeline, begun: Start, solver: Solver, budgets: Sequence[int]) -> dict[str, Any]:
    row: dict[str, Any] = {"solver": label(pipeline.registry, solver), "cells": {}}
    try:
        begun.field.check(solver)
        if not is_repeatable(begun.field, stand_in(solver), begun.x):
            raise SpecError("it draws noise, so its samples are not where the ODE ends; compare it by metrics: diffcore evaluate")
        for budget in budgets:
            sized = for_calls(pipeline, solver, budget)
            cell = None if sized is None else _cell(begun, pipeline.ready(sized))
            if cell is not None and cell["calls"] <= budget:  # a solver that chooses its steps may need more than was counted
                row["cells"][str(budget)] = cell
    except DiffcoreError as error:
        row["refused"] = str(error)
    return row


def _cell(begun: Start, solver: Solver) -> dict[str, Any]:
    began = time.perf_counter()
    result = sample(begun.field, solver, begun.x)
    seconds = time.perf_counter() - began
    each = rms(result.x, begun.fine.x)
    error, spread = float(each.mean()), float(each.std()) / len(each) ** 0.5 if len(each) > 1 else 0.0
    return {"error": error, "se": spread, "calls": result.calls, "steps": result.steps, "seconds": seconds}


def write_bench(table: dict[str, Any], folder: Path) -> Path:
    """`bench.json` and `bench.png`, error against calls."""
    checkpoint.write_aside(folder / "bench.json", json.dumps(table, indent=1).encode())
    figure, axes = new_figure(7, 5)
    for row in table["rows"]:
        cells = list(row["cells"].values())
        errors = [c["error"] for c in cells]
        axes.plot([c["calls"] for c in cells], errors, marker="o", markersize=3, label=figure_text(row["solver"]))
    axes.axhline(table["reference"]["error"], color="0.5", linewidth=0.8, linestyle=":")
    axes.set(xscale="log", xlabel="network calls", ylabel="rms error per dimension")
    if any(cell["error"] > 0 for row in table["rows"] for cell in row["cells"].values()):
        axes.set_yscale("log")
    figure.legend(loc="outside right upper", fontsize=7)
    checkpoint.write_aside(folder / "bench.png", png(figure))
    return folder / "bench.png"


# --- error along a run ------------------------------------------------------------------------------------------------

WITHIN = 16
"""Steps of the reference solver within one step of the solver that is judged."""


def steps_of(pipeline: Pipeline, solver: Solver, *, n: int = 16, seed: int = 0) -> tuple[list[dict[str, Any]], list[Any]]:
    """Per step of a deterministic solver: the error it adds (`local`: from its own state, the ODE solved finely to the next
    time) and the error so far (`total`: against the ODE from the start). Also the frames of the run.

    Raises `SpecError` for a solver that draws noise or does not step from time to time.
    """
    begun, solver = start(pipeline, n, seed), pipeline.ready(solver)
    if not is_deterministic(begun.field, solver):
        raise SpecError(f"{label(pipeline.registry, solver)} does not follow the ODE from time to time: it has no error per step")
    shown, judge = list(frames(begun.field, solver, begun.x)), begun.fine.solver
    rows: list[dict[str, Any]] = []
    exact = begun.x
    for before, after in pairwise(shown):
        grid = _between(pipeline, before.t, after.t)
        local, exact = (sample(begun.field, judge, x, grid=grid).x for x in (before.x, exact))
        errors = {"local": float(rms(after.x, local).mean()), "total": float(rms(after.x, exact).mean())}
        rows.append({"step": after.step, "from": before.t, "to": after.t, **errors})
    return rows, shown


def _between(pipeline: Pipeline, t: float, s: float) -> Tensor:
    """Times from t to s in equal steps of lam where it is finite at both ends, else of t."""
    ends = pipeline.process.coeffs(torch.tensor([t, s], dtype=torch.float64))
    lam = getattr(ends, "lam", torch.full((2,), torch.inf))
    nodes = torch.linspace(t, s, WITHIN + 1, dtype=torch.float64)
    if bool(torch.isfinite(lam).all()):
        nodes = pipeline.process.t_of_lam(torch.linspace(float(lam[0]), float(lam[1]), WITHIN + 1, dtype=torch.float64))
        nodes[0], nodes[-1] = t, s
    return nodes


def write_steps(rows: list[dict[str, Any]], shown: Sequence[Frame], out: Path) -> list[Path]:
    """Into a folder: `steps.json`, `steps.png` (error along the run), and the states on their way where they can be drawn.
    Into a .png or .gif file: the states on their way, as a picture or an animation. Returns what was written.

    Raises `SpecError` for another ending, and for states that cannot be drawn.
    """
    if out.suffix in _WAYS:
        if not ways.have_picture(shown):
            raise SpecError(f"there is no picture of states {describe(shown[0].x)}; name a folder, for the error along the run")
        checkpoint.write_aside(out, _WAYS[out.suffix](shown))
        return [out]
    made = {"steps.png": _steps_figure(rows)}
    if ways.have_picture(shown):
        made[f"{ways.name(shown)}.png"] = ways.picture(shown)
    checkpoint.write_aside(out / "steps.json", json.dumps(rows, indent=1).encode())
    for name, data in made.items():
        checkpoint.write_aside(out / name, data)
    return [out / name for name in made]


_WAYS = {".png": ways.picture, ".gif": ways.animation}


def way_place(out: str | None, default: Path) -> Path:
    """Where a trajectory goes: a folder, or a file by its ending. Raises `SpecError` where nothing can be written there."""
    name = out or "/"
    ending = "" if name.endswith("/") or Path(name).is_dir() else Path(name).suffix
    if ending and ending not in _WAYS:
        raise SpecError(f"cannot write a trajectory to '{Path(name).name}': name a .png file, a .gif file or a folder")
    target = place(out, default, folder=not ending)
    if not ending:
        marks.refuse_foreign_table(target / "steps.json", [target / "trajectory.png", target / "paths.png"])
    return target


def _steps_figure(rows: list[dict[str, Any]]) -> bytes:
    figure, axes = new_figure(6, 4)
    for name, text in (("local", "added by the step"), ("total", "so far")):
        axes.plot([row["step"] for row in rows], [row[name] for row in rows], marker="o", markersize=3, label=text)
    axes.set(xlabel="step", ylabel="rms error per dimension")
    if any(row[name] > 0 for row in rows for name in ("local", "total")):
        axes.set_yscale("log")
    figure.legend(loc="outside upper center", ncols=2, fontsize=8)
    return png(figure)
