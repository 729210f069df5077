"""Error against calls of the network: our solvers and `auto` beside every deterministic sampler of other libraries.

    python benchmarks/accuracy.py                      # exact mixtures, and the galaxy models where their weights are
    python benchmarks/accuracy.py --run runs/fashion   # a trained run as well
    python benchmarks/accuracy.py --write              # results/accuracy.json, results/accuracy.png and the section in README.md

The error of a state is its distance to a fine solution from the same noise, rms per dimension; shown are
the median over states and the root mean square. Every sampler is taken on that of its grids where its error is least at that number of calls; pairs
`HOPELESS` times worse than their library's best are not run at more calls. On networks, which cost more, each library takes part
with the `FINALISTS` samplers that did best on the exact problems at that number of calls, on the grid that was best for them there.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import attrs
import torch
from accuracy_peers import fitting, installed
from common import HERE, publish, table
from torch import Tensor

import diffcore as dc
from diffcore.run.measuring import reference
from diffcore.run.measuring import shown as shown_as_data
from diffcore.testing.oracles import Mixture

CALLS = (5, 6, 8, 10, 15, 20, 30, 50)
FINALISTS = 10
STATES, NETWORK_STATES, SAMPLES = 64, 16, 500
QUALITY = (5, 10, 20)
"""Numbers of calls at which samples of a trained run are compared with its data."""
NOISIEST = 1000.0
"""Other libraries begin at this sigma / alpha where a process begins at pure noise."""
SETTINGS: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "euler": ({},),
    "ddim": ({},),
    "heun": ({},),
    "edm-heun": ({},),
    "dpmpp-2m": ({},),
    "dpmpp-3m": ({},),
    "dpmpp-2s": ({},),
    "dpm-solver-2": ({},),
    "dpm-solver-3": ({},),
    "deis": ({"degree": 1}, {"degree": 2}, {"degree": 3}, {"degree": 2, "variable": "rho"}),
    "unipc": tuple({"points": p, "prediction": f} for p, f in product((2, 3), ("x0", "eps"))),
    "exp-adams": tuple(
        {"points": p, "prediction": f, "corrector": c}
        for p, f, c in product((2, 3, 4), ("x0", "eps", "v", "flow"), (False, True))
    ),
    "runge-kutta": tuple(
        {"method": m, "variable": v} for m, v in product(("midpoint", "bogacki-shampine", "rk4"), ("sigma", "lam", "angle"))
    ),
    "exp-runge-kutta": ({"method": "heun"}, {"method": "third"}),
}
GRIDS: Sequence[Mapping[str, Any]] = (
    {"type": "crash"},
    {"type": "straight"},
    {"type": "uniform"},
    {"type": "uniform-lam"},
    *(
        {"type": "uniform-lam", "lam_min": low, "lam_max": high}
        for low, high in ((-4.0, 3.0), (-4.0, 4.0), (-3.0, 3.0), (-3.0, 4.0), (-2.0, 2.0), (-2.0, 3.0))
    ),
    {"type": "karras"},
    {"type": "karras", "rho": 3.0},
    {"type": "cosine"},
    {"type": "quadratic"},
    {"type": "shifted", "shift": 3.0},
)
JUMPING = ("uniform-lam", "karras", "karras 3.0")
"""Grids of ours that go to min_time and then to 0."""
PROCESSES = ((2, "vp"), (64, "flow"), (64, "vp"), (2, "edm"))
HOPELESS = 8.0
"""A pair whose error is so many times its library's best is left out at larger numbers of calls of that problem."""


class Problem:
    """A field, states x at T and where they end; `calibrated_on`: the field for `auto`; the rest is for other libraries."""

    def __init__(self, name: str, field: dc.Field, x: Tensor, goal: Tensor, exact: bool) -> None:
        self.name, self.field, self.x, self.goal, self.exact, self.calls = name, field, x, goal, exact, 0
        self.calibrated_on = field
        process: Any = field.process
        ends = process.coeffs(torch.tensor([process.min_time or 1e-4 * process.T, process.T], dtype=torch.float64))
        self.low, self.top = float(ends.sigma[0] / ends.alpha[0]), min(float(ends.sigma[1] / ends.alpha[1]), NOISIEST)
        self.low = max(self.low, 1e-2 if name.endswith("flow") else 0.0)
        self.y = x.double() / float(ends.alpha[1]) if ends.alpha[1] > 0 else x.double() * self.top
        self.levels = self._levels(process)
        self._time = lru_cache(maxsize=4096)(
            lambda rho: float(process.t_of_lam(torch.tensor(-math.log(rho), dtype=torch.float64)))
        )

    def _levels(self, process: Any) -> Tensor:
        """1000 levels, equal steps of the process's own time, or of log sigma where that time is sigma."""
        if process.T > 10:
            return torch.logspace(math.log10(self.low), math.log10(self.top), 1000, dtype=torch.float64)
        first, last = (float(process.t_of_lam(torch.tensor(-math.log(v), dtype=torch.float64))) for v in (self.low, self.top))
        c = process.coeffs(torch.linspace(first, last, 1000, dtype=torch.float64))
        return c.sigma / c.alpha

    @torch.no_grad()
    def mean(self, y: Tensor, rho: float) -> Tensor:
        """E[x_0 | x / alpha = y] at sigma / alpha = rho, and one call."""
        self.calls += 1
        t = self._time(min(rho, self.top))
        alpha = float(self.field.process.coeffs(torch.tensor(t, dtype=torch.float64)).alpha)
        return self.field.posterior((alpha * y).to(self.x.dtype), t).mean.double()

    def errors(self, x: Tensor) -> list[float]:
        """Median over states, and root of the mean square."""
        e = (x.double() - self.goal).flatten(1).norm(dim=1) / self.goal[0].numel() ** 0.5
        return [float(e.median()), float(e.square().mean().sqrt())]


def mixture(dim: int) -> Mixture:
    """2-D: a ring of 8 anisotropic components. Else 6 with entries of the means of size .8 and deviations .1 to .6."""
    draw = dc.Draw(dim, range(8 if dim == 2 else 6))
    if dim == 2:
        angle = torch.arange(8, dtype=torch.float64) * torch.pi / 4
        means = torch.stack([angle.cos(), angle.sin()], 1)
        return Mixture(draw.uniform() + 0.5, means, draw.fold(1).uniform((2,)) / 4 + 0.05)
    means = 0.8 * draw.normal((dim,), torch.float64)
    return Mixture(draw.uniform() + 0.5, means, draw.fold(1).uniform((dim,)) / 2 + 0.1)


def solved(field: dc.Field, x: Tensor, registry: dc.Registry, low: float, high: float, steps: int) -> Tensor:
    """The end of steps of fourth order, equal in lam, then a jump to t = 0."""
    process: Any = field.process
    at = process.coeffs(torch.tensor(process.T, dtype=torch.float64))
    levels = torch.linspace(max(low, float(at.lam)), high, steps + 1, dtype=torch.float64)
    inner = process.t_of_lam(levels)
    ends = (torch.tensor([v], dtype=torch.float64) for v in (process.T, 0.0))
    first, last = ends
    nodes = torch.cat([first, inner[inner < process.T * (1 - 1e-9)], last])
    solver = registry.make("solver", "exp-adams", points=3, corrector=True, start="singlestep")
    return dc.sample(field, solver, x, grid=nodes).x


def exact(dim: int, name: str, registry: dc.Registry) -> Problem:
    """A mixture, its exact field."""
    process = registry.make("process", name)
    field = mixture(dim).field(process)
    x = process.prior((dim,), dc.Draw(1, range(STATES))).double()
    problem = Problem(f"{dim}-D {name}", field, x, solved(field, x, registry, -10.0, 14.0, 1500).double(), True)
    lowest = {"t_min": 1e-6} if name == "vp" else {}  # no network sets a bound here, and the others obey none
    problem.calibrated_on = mixture(dim).field(registry.make("process", name, **lowest))
    return problem


def learned(name: str, field: dc.Field, shape: Sequence[int], registry: dc.Registry) -> Problem:
    """A network; its solution ends with the jump from the least time it was trained at."""
    process: Any = field.process
    x = process.prior(shape, dc.Draw(1, range(NETWORK_STATES)))
    high = float(process.coeffs(torch.tensor(process.min_time or 1e-3 * process.T, dtype=torch.float64)).lam)
    return Problem(name, field, x, solved(field, x, registry, -5.0, high, 150).double(), False)


def galaxies(registry: dc.Registry) -> Iterator[Problem]:
    """The published models, where their weights are."""
    for model in ("hsc32", "ztf32"):
        try:
            process = registry.make("process", "galaxy-vp")
            net = registry.make("network", "galaxy-score", model=model).build((1, 32, 32), {}).eval()
        except dc.DiffcoreError as error:
            print(f"{model}: left out ({str(error).splitlines()[0]})", file=sys.stderr)
            continue
        field = dc.Field(dc.Denoiser(net, dc.Reading("score", "feature", "unit"), process=process))
        yield learned(model, field, (1, 32, 32), registry)


def trained(pipeline: dc.Pipeline, registry: dc.Registry) -> Problem:
    """The network of a run, its conditions in turn."""
    pipeline.net.eval()
    field = pipeline.field(pipeline.conditions(NETWORK_STATES, pipeline.spec.sampling.cond))
    return learned(pipeline.spec.name, field, pipeline.source.event, registry)


def quality(pipeline: dc.Pipeline, entries: Sequence[Entry], problem: Problem, calls: int) -> dict[str, Any]:
    """Metrics of samples of every library's sampler of least error, and of data: {library: {metric: {value, spread, floor}}}."""
    cond = pipeline.conditions(SAMPLES, pipeline.spec.sampling.cond)
    x = problem.field.process.prior(pipeline.source.event, dc.Draw(3, range(SAMPLES)))
    many = Problem(problem.name, pipeline.field(cond), x, x.double(), False)
    best, found = cell(problem, entries, calls, 0), dict[str, Any]()
    real, real_cond = reference(pipeline, 2 * SAMPLES)
    for library, won in best.items():
        entry = next(e for e in entries if (e.library, e.label, e.grid) == (library, won["sampler"], won["grid"]))
        samples = shown_as_data(pipeline, entry.ends(many, calls).to(x.dtype))
        ev = dc.Evaluation(samples=samples, reference=real, cond=cond, reference_cond=real_cond)
        metrics = (*pipeline.spec.metrics, pipeline.registry.make("metric", "sliced-wasserstein"))
        found[library] = {k: attrs.asdict(v) for metric in metrics for k, v in metric.measure(ev).items()}
    return found


@attrs.frozen
class Ours:
    """A solver on a grid."""

    label: str
    grid: str
    solver: dc.Solver
    levels: Any


def shown(spec: Mapping[str, Any]) -> str:
    """A spec in a table."""
    told = {True: "corrector", False: ""}
    parts = (told[v] if isinstance(v, bool) else str(v) for k, v in spec.items() if k != "type")
    return " ".join([str(spec.get("type", "")), *(p for p in parts if p)]).strip()


def pairs(registry: dc.Registry) -> Iterator[Ours]:
    """Every deterministic solver that is installed on every grid that is."""
    solvers, grids = ({e.id for e in registry.list(kind)} for kind in ("solver", "grid"))
    for name, settings in SETTINGS.items():
        for fields, grid in product(settings if name in solvers else (), GRIDS):
            if grid["type"] in grids:
                solver, levels = registry.make("solver", {"type": name, **fields}), registry.make("grid", grid)
                yield Ours(shown({"type": name, **fields}), shown(grid), solver, levels)


def ours(problem: Problem, pair: Ours, calls: int) -> Tensor | None:
    """The result of the most steps that fit into the calls."""
    field = problem.field
    for steps in dict.fromkeys([calls, (calls + 2) // 2, (calls + 1) // 2, calls // 2, (calls + 2) // 3, calls // 3]):
        try:
            nodes = pair.levels.nodes(field.process, max(steps, 1), field.process.T)
            if sum(map(len, pair.solver.plan(field.process, nodes).asks)) <= calls:
                return dc.sample(field, pair.solver, problem.x, grid=nodes).x
        except dc.DiffcoreError:
            return None
    return None


def auto(problem: Problem, registry: dc.Registry, calls: int) -> tuple[list[float], str]:
    """Errors of `auto`, calibrated on other states, and what it chose."""
    x = problem.field.process.prior(problem.x.shape[1:], dc.Draw(2, range(len(problem.x))))
    solver = registry.make("solver", "auto", nfe=calls, effort=1, calibration=len(x))
    found = dc.calibrate(solver, problem.calibrated_on, x.to(problem.x.dtype))
    return problem.errors(dc.sample(problem.field, dc.calibrated(solver, found), problem.x).x), solver.why(found)[0]


@attrs.define(eq=False)
class Entry:
    """One of the pairs of a library: its errors by problem and calls, and the steps that fit into a number of calls."""

    library: str
    label: str
    grid: str
    run: Any
    errors: dict[tuple[str, int], list[float]] = attrs.field(factory=dict)
    steps: dict[int, int | None] = attrs.field(factory=dict)

    def measure(self, problem: Problem, calls: int) -> None:
        """Run once."""
        x = self.ends(problem, calls)
        if x is not None and bool(x.isfinite().all()):
            self.errors[problem.name, calls] = problem.errors(x)

    def ends(self, problem: Problem, calls: int) -> Any:
        """Where the states of a problem end; None where no number of steps fits into the calls."""
        if self.library == "diffcore":
            return ours(problem, self.run, calls)
        if calls in self.steps and self.steps[calls] is None:
            return None
        found = fitting(problem, self.run, calls, self.steps.get(calls))
        self.steps.setdefault(calls, found[1] if found else None)
        return found[0] if found else None

    def rank(self, problems: Sequence[Problem], calls: int) -> float:
        """Mean logarithm of the errors on some problems."""
        logs = [math.log(self.errors.get((p.name, calls), [1e3])[0]) for p in problems]
        return sum(logs) / len(logs)


def finalists(entries: Sequence[Entry], problems: Sequence[Problem], calls: int) -> Iterator[Entry]:
    """The best few samplers of every library on the exact problems, each on its best grid there.

    Half of ours end with a jump from min_time, where a network's training ends, as nearly all of the others do.
    """
    best = dict[tuple[str, str, bool], Entry]()
    for entry in sorted(entries, key=lambda e: e.rank(problems, calls)):
        best.setdefault((entry.library, entry.label, entry.grid in JUMPING), entry)
    for library in dict.fromkeys(e.library for e in entries):
        ways = (False, True) if library == "diffcore" else (False,)
        for jumps in ways:
            yield from [e for (name, _, way), e in best.items() if name == library and way is jumps][: FINALISTS // len(ways)]


def hopeless(entries: Sequence[Entry], problem: Problem, calls: int) -> list[Entry]:
    """Those far behind their library's best, or without a result."""
    best = cell(problem, entries, calls, 0)
    known = [(e, e.errors.get((problem.name, calls), [math.inf])[0]) for e in entries]
    behind = [e for e, error in known if calls >= 8 and e.library in best and error > HOPELESS * best[e.library]["error"]]
    return [e for e in behind if (e.library, e.grid in JUMPING) != ("diffcore", True)]


def cell(problem: Problem, entries: Sequence[Entry], calls: int, measure: int) -> dict[str, Any]:
    """The best of every library at one number of calls."""
    found: dict[str, Any] = {}
    for entry in entries:
        errors = entry.errors.get((problem.name, calls))
        if errors and errors[measure] < found.get(entry.library, {"error": math.inf})["error"]:
            found[entry.library] = {"error": errors[measure], "sampler": entry.label, "grid": entry.grid}
    return found


def measured(options: argparse.Namespace, registry: dc.Registry) -> Iterator[dict[str, Any]]:
    """What is known after each problem: {problem: {calls: {"median": cell, "rms": cell, "auto": ...}}}."""
    entries = [Entry("diffcore", p.label, p.grid, p) for p in pairs(registry)]
    entries += [Entry(*found) for found in installed()]
    has_auto = "auto" in {e.id for e in registry.list("solver")}
    done, results = list[Problem](), dict[str, Any]()
    problems = [exact(*p, registry) for p in PROCESSES[: options.problems]]
    problems += [*galaxies(registry)] if options.networks else []
    pipeline = dc.Pipeline.load(options.run) if options.run else None
    problems += [trained(pipeline, registry)] if pipeline else []
    for problem in problems:
        began = time.process_time()
        rows, dropped = results.setdefault(problem.name, dict[str, Any]()), list[Entry]()
        for calls in options.calls:
            for entry in entries if problem.exact else list(finalists(entries, done, calls)):
                if entry not in dropped:
                    entry.measure(problem, calls)
            dropped += hopeless(entries, problem, calls) if problem.exact else []
            rows[str(calls)] = {name: cell(problem, entries, calls, i) for i, name in enumerate(("median", "rms"))}
            if has_auto and (problem.exact or calls in options.auto):
                errors, chosen = auto(problem, registry, calls)
                rows[str(calls)]["auto"] = {"median": errors[0], "rms": errors[1], "chosen": chosen}
            if pipeline and problem.name == pipeline.spec.name and calls in QUALITY:
                rows[str(calls)]["quality"] = quality(pipeline, entries, problem, calls)
        if problem.exact:
            done.append(problem)
        print(f"{problem.name}: {time.process_time() - began:.0f} s", file=sys.stderr, flush=True)
        yield results


def rows_of(rows: Mapping[str, Any], measure: str) -> Iterator[list[str]]:
    """Calls; best of ours, auto, best of every other library, and its error over the better of ours and auto."""
    for calls, row in rows.items():
        cells = row[measure]
        mine = cells["diffcore"]
        found = row.get("auto", {}).get(measure)
        others = {k: v for k, v in cells.items() if k != "diffcore"}
        first = [calls, f"{mine['error']:.2e} {mine['sampler']}, {mine['grid']}", f"{found:.2e}" if found is not None else "-"]
        if not others:
            yield [*first, "-", "-", "-"]
            continue
        library, best = min(others.items(), key=lambda item: item[1]["error"])
        told = f"{best['error']:.2e} {library} {best['sampler']}, {best['grid']}"
        yield [*first, told, *(f"{best['error'] / v:.2f}" if v else "-" for v in (mine["error"], found))]


def report(results: Mapping[str, Any]) -> str:
    """The tables."""
    header = ["calls", "best of diffcore", "auto", "best of the others", "others / diffcore", "others / auto"]
    parts = list[str]()
    for name, rows in results.items():
        for measure in ("median", "rms"):
            parts.append(f"**{name}**, {measure} over states:\n\n" + table(header, list(rows_of(rows, measure))))
        if any("quality" in row for row in rows.values()):
            parts.append(f"**{name}**, {SAMPLES} samples of each sampler of least median error:\n\n" + _judged(rows))
    return "\n\n".join(parts)


def _judged(rows: Mapping[str, Any]) -> str:
    """Calls, library, and every metric with its spread over blocks of samples and its floor."""
    known = [(calls, library, found) for calls, row in rows.items() for library, found in row.get("quality", {}).items()]
    names = list(known[0][2])
    floors = [f"{name} (floor {known[0][2][name]['floor'] or 0:.3g})" for name in names]
    told = lambda m: f"{m['value']:.3g} +- {m['spread']:.1g}" if m["spread"] else f"{m['value']:.3g}"  # noqa: E731
    return table(["calls", "library", *floors], [[calls, library, *(told(f[n]) for n in names)] for calls, library, f in known])


def picture(results: Mapping[str, Any], path: Path) -> None:
    """Median error against calls, one panel a problem; written aside, then renamed."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    across = min(len(results), 4)
    size = (3.4 * across, 3.4 * -(-len(results) // across))
    figure, axes = plt.subplots(-(-len(results) // across), across, figsize=size, squeeze=False, layout="constrained")
    for ax in axes.flat[len(results) :]:
        ax.remove()
    for ax, (name, rows) in zip(axes.flat, results.items(), strict=False):
        calls = [int(c) for c in rows]
        for library in dict.fromkeys(k for row in rows.values() for k in row["median"]):
            line = [row["median"].get(library, {"error": math.nan})["error"] for row in rows.values()]
            ax.loglog(calls, line, "-o" if library == "diffcore" else "-", label=library, markersize=3)
        ax.loglog(calls, [row.get("auto", {}).get("median", math.nan) for row in rows.values()], "k--x", label="diffcore auto")
        ax.set(title=name, xlabel="calls of the network", xticks=calls, xticklabels=[str(c) for c in calls])
        ax.minorticks_off()
    axes[0][0].set_ylabel("error per dimension, median over states")
    axes[0][0].legend(fontsize=7)
    aside = path.with_suffix(".part.png")
    figure.savefig(aside, dpi=110)
    os.replace(aside, path)


def main() -> None:
    """Measure, print, and store where asked: after each problem, so that what was measured is kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", help="a folder of a trained run")
    parser.add_argument("--calls", type=int, nargs="+", default=CALLS, help="numbers of calls of the network")
    parser.add_argument("--problems", type=int, default=len(PROCESSES), help="how many of the exact problems")
    parser.add_argument(
        "--auto", type=int, nargs="*", default=QUALITY, help="numbers of calls at which `auto` is calibrated to networks"
    )
    parser.add_argument("--no-networks", dest="networks", action="store_false", help="exact problems only")
    parser.add_argument("--write", action="store_true", help="store the result in results/ and README.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for results in measured(options, dc.Registry.load()):
        if options.write:
            (HERE / "results").mkdir(exist_ok=True)
            picture(results, HERE / "results" / "accuracy.png")
        publish("accuracy", {"problems": results}, report(results), options.write)


if __name__ == "__main__":
    main()
