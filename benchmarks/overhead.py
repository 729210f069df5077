"""Sampler overhead per step with a denoiser that costs nothing: diffcore, other libraries, and hand-written loops.

    python benchmarks/overhead.py [--rounds FACTOR] [--write]

The denoiser returns a constant tensor. Ours includes all that `dc.sample` does: making the field, checking the grid,
planning, counting calls, checking the result, and noise that is a function of seed and sample. Every installed solver of the
plain loop is timed beside its formula by hand ("floor"), which it must first equal on a network of state and time, from the
same noise. A solver is timed in rounds of all its contenders; ratios are to the floor of the same round.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from common import arguments, interleave, publish, summary, table
from floors import CASES, fresh, loops
from peers import installed
from torch import Tensor
from torch._dynamo.exc import Unsupported
from torch._dynamo.utils import counters

import diffcore as dc

STEPS = 100
FEW = 20
"""Steps of a short run, where what a run costs before its first step weighs most."""
SHAPES = {(1, 3, 32, 32): 100, (16, 3, 64, 64): 12}
GOALS = {(1, 3, 32, 32): 2.0, (16, 3, 64, 64): 1.3}
METHODS = ("euler", "ddim", "heun", "dpmpp-2m")
"""Solvers that other libraries have as well."""
LEFT_OUT = {
    "adaptive": "chooses its steps",
    "torchdiffeq": "chooses its steps, in another library",
    "auto": "becomes another solver",
    "brownian": "its own loop: the noise of a path",
    "restart": "its own loop over another solver",
    "through": "its own loop over another solver",
    "paradigms": "its own loop: many steps at once",
    "exact-jumps": "its own loop, for tokens",
    "tau-leaping": "for tokens: draws of a categorical distribution, no combination of states",
    "decode": "one call of a decoder",
}
REGISTRY = dc.Registry.load()
Run = Callable[[], Tensor]
Peers = dict[str, dict[str, Any]]


@lru_cache
def component(kind: str, name: str) -> Any:
    """A component as its defaults make it."""
    return REGISTRY.make(kind, name)


def field_of(method: str, net: Any) -> dc.Field:
    """A new field of a method."""
    process, jumps = component("process", CASES[method].process), method == "flow-map"
    denoiser = dc.Denoiser(net, CASES[method].prediction, process=process)
    return dc.Field(denoiser, flow_map=component("flow_map", "mean-flow") if jumps else None)


def parts(method: str, net: Any, steps: int) -> tuple[dc.Field, dc.Solver]:
    """The field and the solver of a method."""
    return field_of(method, net), REGISTRY.make("solver", method, steps=steps, **CASES[method].fields)


@lru_cache
def solver_of(method: str, shape: tuple[int, ...], steps: int = STEPS) -> dc.Solver:
    """The solver, calibrated to the bent network where it needs that."""
    field, solver = parts(method, bent, steps)
    if not dc.calibrate_on(solver):
        return solver
    return dc.calibrated(
        solver,
        dc.calibrate(
            solver, field, torch.randn((dc.calibrate_on(solver), *shape[1:]), generator=torch.Generator().manual_seed(1))
        ),
    )


def bent(x: Tensor, t: Tensor, s: Tensor | None = None) -> Tensor:
    """A network whose output depends on the state and on every time."""
    t = t if s is None else t + 0.5 * s
    return torch.tanh(x) * (0.5 + 0.3 * t.view(-1, *[1] * (x.ndim - 1)))


def keyed(method: str, field: dc.Field, x: Tensor) -> Callable[[int], Any]:
    """The noise that ours draws in step i."""
    solver, draw = solver_of(method, tuple(x.shape)), dc.Draw(0, range(len(x)))
    return lambda i: solver.draws(field.process, x, draw.at(i + 1))


def check(method: str, x: Tensor) -> float:
    """The largest difference between ours and the loops on the bent network, relative to the largest value; it must be small."""
    field, solver = field_of(method, bent), solver_of(method, tuple(x.shape))
    ours = dc.sample(field, solver, x).x
    errors = [
        float((run() - ours).abs().max() / ours.abs().max())
        for run in loops(method, bent, x, field.process, solver, keyed(method, field, x)).values()
    ]
    if not max(errors) < 1e-4:
        raise SystemExit(f"{method}: the hand-written loop is another method (difference {max(errors):.1e})")
    return max(errors)


def libraries(method: str, net: Any, x: Tensor, peers: Peers) -> dict[str, Run]:
    """One run of each library that has the method; ours with a new field, so that nothing is left from the run before."""
    solver = solver_of(method, tuple(x.shape))
    found = {"diffcore": lambda: dc.sample(field_of(method, net), solver, x).x}
    return {**found, **{name: makes[method](net, x, STEPS) for name, makes in peers.items() if method in makes}}


def contenders(method: str, net: Any, x: Tensor, peers: Peers) -> dict[str, Run]:
    """The hand-written loops, with our noise as well where there is any, the libraries, and ours on a field that was used."""
    field, solver = field_of(method, net), solver_of(method, tuple(x.shape))
    runs = loops(method, net, x, field.process, solver)
    if CASES[method].noises:
        runs["same noise"] = loops(method, net, x, field.process, solver, keyed(method, field, x))["floor"]
    return {**runs, **libraries(method, net, x, peers), "next batch": lambda: dc.sample(field, solver, x).x}


class CalledError(Exception):
    """The network was called."""


def set_up(method: str, x: Tensor, peers: Peers) -> dict[str, float]:
    """Microseconds from the call of a run to its first network call, where it is stopped; median of 20."""

    def net(*_: Any, **__: Any) -> Tensor:
        raise CalledError

    def once(run: Run) -> float:
        start = time.process_time()
        try:
            run()
        except CalledError:
            return (time.process_time() - start) * 1e6
        raise SystemExit(f"{method}: no call of the network")

    return {n: statistics.median(once(run) for _ in range(20)) for n, run in libraries(method, net, x, peers).items()}


def halved(x: Tensor, t: Any, s: Any = None) -> Tensor:
    """What compiled runs call: a constant would be a captured tensor and the carry at once."""
    return -0.5 * x


def compiled(method: str, shape: tuple[int, ...], rounds: int) -> dict[str, Any]:
    """Graphs compiled in a first and in a second run, the difference to eager mode, and times beside two floors.

    The floors are the hand-written loop as it is, and the same with its step compiled: that shows what calling a compiled
    function costs in itself. A solver that does not compile has an `unsupported` line instead.
    """
    x, _ = data(shape)
    field, solver = field_of(method, halved), solver_of(method, shape)
    eager = dc.sample(field, solver, x).x
    torch.compiler.reset()
    graphs: list[int] = []
    try:
        for _ in range(2):
            counters.clear()
            found = dc.sample(field, solver, x, mode="compile").x
            graphs.append(counters["stats"]["unique_graphs"])
    except Unsupported as error:
        return {"unsupported": str(error).partition("Hint")[0].strip()}
    runs: dict[str, Run] = {
        "floor": loops(method, halved, x, field.process, solver)["floor"],
        "compiled floor": loops(method, halved, x, field.process, solver, compiled=True)["floor"],
        "compiled": lambda: dc.sample(field, solver, x, mode="compile").x,
    }
    error = float((found - eager).abs().max() / eager.abs().max())
    seconds = interleave(runs, rounds)
    known = {"first": graphs[0], "second": graphs[1], "error": error}
    return {**known, "eager": summary(seconds, "floor", STEPS), "compiled": summary(seconds, "compiled floor", STEPS)}


def data(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """A start state and what the denoiser returns."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


def measure(method: str, shape: tuple[int, ...], rounds: int, peers: Peers) -> dict[str, Any]:
    """Time per step and set-up of every contender, and the difference to the loops."""
    x, m = data(shape)
    error = check(method, x)
    seconds = interleave(contenders(method, lambda x, t, s=None: m, x, peers), rounds)
    found = {"per_step": summary(seconds, "floor", STEPS), "set_up_us": set_up(method, x, peers), "difference": error}
    return {**found, "short": short(method, lambda x, t, s=None: m, x, rounds)}


def short(method: str, net: Any, x: Tensor, rounds: int) -> dict[str, Any]:
    """Time per step of a short run on a new field, beside the loop by hand."""
    solver = solver_of(method, tuple(x.shape), FEW)
    floor = loops(method, net, x, component("process", CASES[method].process), solver)["floor"]
    runs: dict[str, Run] = {"floor": floor, "diffcore": lambda: dc.sample(field_of(method, net), solver, x).x}
    return summary(interleave(runs, rounds), "floor", FEW)


def draws(shape: tuple[int, ...]) -> dict[str, float]:
    """Microseconds of the noise of a step: torch's own stream, and ours."""
    x, _ = data(shape)
    process, draw = component("process", "vp"), dc.Draw(0, range(len(x)))
    own = fresh(x, 1)
    seconds = interleave({"torch": lambda: own(0), "ours": lambda: process.noise.like(x, draw.at(1))}, 300)
    return {name: statistics.median(values) * 1e6 for name, values in seconds.items()}


def beside_peers(results: dict[str, Any], shape: tuple[int, ...], peers: Peers) -> str:
    """The table of one shape for the solvers that others have."""
    found = [results[f"{method} {shape}"] for method in METHODS]

    def row(name: str, cell: Callable[[dict[str, Any]], str], there: bool) -> list[str]:
        return [name, *(cell(one) if there else "not installed" for one in found)]

    def time_of(name: str) -> Callable[[dict[str, Any]], str]:
        return lambda one: "-" if (v := one["per_step"].get(name)) is None else f"{v['median_us']:.1f} us, {v['ratio']:.2f}x"

    def set_up_of(name: str) -> Callable[[dict[str, Any]], str]:
        return lambda one: f"{one['set_up_us'][name]:.0f} us" if name in one["set_up_us"] else "-"

    ours = ["floor", "tight", "in place", "diffcore", "next batch"]
    rows = [row(name, time_of(name), True) for name in ours]
    rows += [row(name, time_of(name), bool(makes)) for name, makes in peers.items()]
    rows += [row(f"set-up, {name}", set_up_of(name), True) for name in ("diffcore", *(n for n in peers if peers[n]))]
    return f"State {shape}, per step (median, ratio to the floor):\n\n" + table(["", *METHODS], rows)


def cell(times: dict[str, float], goal: float) -> str:
    """Time and ratio; marked where it misses the goal."""
    return f"{times['median_us']:.1f} us, {times['ratio']:.2f}x" + ("" if times["ratio"] <= goal else " (!)")


def eager_table(results: dict[str, Any], shape: tuple[int, ...], solvers: list[str]) -> str:
    """Every solver in eager mode at one shape."""
    rows: list[list[str]] = []
    for method in solvers:
        one = results[f"{method} {shape}"]
        times, goal = one["per_step"], GOALS[shape]
        same = f"{times['diffcore']['median_us'] / times['same noise']['median_us']:.2f}x" if "same noise" in times else ""
        brief = one["short"]["diffcore"]
        found = [cell(times["diffcore"], goal), cell(times["next batch"], goal), same, f"{brief['ratio']:.2f}x"]
        rows.append([method, f"{times['floor']['median_us']:.1f} us", *found, f"{one['set_up_us']['diffcore']:.0f} us"])
    header = ["solver", "floor", "diffcore", "next batch", "over the same noise", f"{FEW} steps, new field", "set-up"]
    return f"State {shape}, eager, per step; goal {GOALS[shape]:g}x:\n\n" + table(header, rows)


def compiled_table(graphs: dict[str, Any], shape: tuple[int, ...], solvers: list[str]) -> str:
    """Every solver in compiled mode at one shape."""
    rows: list[list[str]] = []
    for method in solvers:
        one = graphs[f"{method} {shape}"]
        if "unsupported" in one:
            rows.append([method, "", "", "does not compile", "", "", ""])
            continue
        eager, by_hand, ours = one["eager"]["floor"], one["compiled"]["compiled floor"], one["compiled"]["compiled"]
        found = [f"{eager['median_us']:.1f} us", f"{by_hand['median_us']:.1f} us", cell(ours, GOALS[shape])]
        to_eager = f"{one['eager']['compiled']['ratio']:.2f}x"
        rows.append([method, *found, to_eager, f"{one['first']}, {one['second']}", f"{one['error']:.0e}"])
    header = ["solver", "floor, eager", "floor, compiled", "diffcore, to the compiled floor", "to the eager floor"]
    return f"State {shape}, compiled, per step; goal {GOALS[shape]:g}x:\n\n" + table(
        [*header, "graphs of a run, of a second", "difference to eager"], rows
    )


def left_out(solvers: list[str]) -> str:
    """The installed solvers that are not measured, with the reason."""
    others = [entry.id for entry in REGISTRY.list("solver") if entry.id not in solvers]
    return "Left out: " + "; ".join(f"{name} ({LEFT_OUT.get(name, 'no loop by hand yet')})" for name in others) + "."


def noise_line(found: dict[str, Any]) -> str:
    """What the noise of a step costs."""
    each = [f"{v['torch']:.1f} us by `torch.randn_like`, {v['ours']:.1f} us by ours, at {shape}" for shape, v in found.items()]
    return "Noise of a step: " + "; ".join(each) + "."


def main() -> None:
    options = arguments(__doc__, 1.0)
    torch.set_num_threads(1)
    peers = installed()
    names = {entry.id for entry in REGISTRY.list("solver")}
    solvers = [method for method in CASES if method in names]
    rounds = {shape: max(3, int(count * options.rounds)) for shape, count in SHAPES.items()}
    cases = [(method, shape) for shape in SHAPES for method in solvers]
    results = {f"{m} {shape}": measure(m, shape, rounds[shape], peers) for m, shape in cases}
    graphs = {f"{m} {shape}": compiled(m, shape, max(3, rounds[shape] // 4)) for m, shape in cases}
    noise = {str(shape): draws(shape) for shape in SHAPES}
    tables = [beside_peers(results, shape, peers) for shape in SHAPES]
    tables += [eager_table(results, shape, solvers) for shape in SHAPES]
    tables += [compiled_table(graphs, shape, solvers) for shape in SHAPES]
    text = "\n\n".join([*tables, noise_line(noise), left_out(solvers)])
    publish("overhead", {"steps": STEPS, "results": results, "compiled": graphs, "noise_us": noise}, text, options.write)


if __name__ == "__main__":
    main()
