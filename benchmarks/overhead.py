"""Sampler overhead per step with a denoiser that costs nothing: diffcore, other libraries, and hand-written loops.

    python benchmarks/overhead.py [--rounds FACTOR] [--write]

The denoiser returns a constant tensor. Ours includes all that `dc.sample` does: making the field, checking the grid,
planning, counting calls, checking the result. Everything is timed in one interleaved run; ratios are to the hand-written formula ("floor").
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from common import arguments, interleave, publish, summary, table
from floors import loops
from peers import installed
from torch import Tensor
from torch._dynamo.utils import counters

import diffcore as dc

STEPS = 100
SHAPES = {(1, 3, 32, 32): 100, (16, 3, 64, 64): 20}
METHODS = {"euler": ("flow", "velocity"), "ddim": ("vp", "x0"), "heun": ("flow", "velocity"), "dpmpp-2m": ("vp", "x0")}
REGISTRY = dc.Registry.load()
Run = Callable[[], Tensor]
Peers = dict[str, dict[str, Any]]


def parts(method: str, net: Any, steps: int) -> tuple[dc.Field, dc.Solver]:
    """The field and the solver of a method."""
    name, prediction = METHODS[method]
    process = REGISTRY.make("process", name)
    return dc.Field(process, dc.Denoiser(net, prediction, process=process)), REGISTRY.make("solver", method, steps=steps)


def libraries(method: str, net: Any, x: Tensor, peers: Peers) -> dict[str, Run]:
    """One run of each library that has the method; ours with a new field, so that nothing is left from the run before."""
    field, solver = parts(method, net, STEPS)

    def ours() -> Tensor:
        fresh = dc.Field(field.process, dc.Denoiser(net, METHODS[method][1], process=field.process))
        return dc.sample(fresh, solver, x).x

    return {"diffcore": ours, **{name: makes[method](net, x, STEPS) for name, makes in peers.items() if method in makes}}


def contenders(method: str, net: Any, x: Tensor, peers: Peers) -> dict[str, Run]:
    """The hand-written loops and the libraries; ours is checked against the loop."""
    field, solver = parts(method, net, STEPS)
    runs = {**loops(method, net, x, field.process, solver), **libraries(method, net, x, peers)}
    torch.testing.assert_close(runs["diffcore"](), runs["floor"](), rtol=1e-4, atol=1e-4)
    return runs


def set_up(method: str, x: Tensor, m: Tensor, peers: Peers) -> dict[str, float]:
    """Microseconds from the call of a run to its first network call, median of 20."""
    first: list[float] = []

    def net(x: Tensor, t: Any) -> Tensor:
        first.append(time.process_time())
        return m

    def once(run: Run) -> float:
        first.clear()
        start = time.process_time()
        run()
        return (first[0] - start) * 1e6

    return {n: statistics.median(once(run) for _ in range(20)) for n, run in libraries(method, net, x, peers).items()}


def compiled(method: str, shape: tuple[int, ...]) -> dict[str, Any]:
    """Graphs compiled in a first and in a second run, and the largest difference to eager mode relative to its largest value."""
    x, _ = data(shape)
    field, solver = parts(method, lambda x, t: -0.5 * x, STEPS)  # a constant would be a captured tensor and the carry at once
    eager = dc.sample(field, solver, x).x
    torch.compiler.reset()
    graphs: list[int] = []
    for _ in range(2):
        counters.clear()
        found = dc.sample(field, solver, x, mode="compile").x
        graphs.append(counters["stats"]["unique_graphs"])
    seconds = interleave({"compile": lambda: dc.sample(field, solver, x, mode="compile").x}, 20)["compile"]
    error = float((found - eager).abs().max() / eager.abs().max())
    return {"first": graphs[0], "second": graphs[1], "error": error, "median_us": statistics.median(seconds) / STEPS * 1e6}


def data(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """A start state and what the denoiser returns."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


def measure(method: str, shape: tuple[int, ...], rounds: int, peers: Peers) -> dict[str, Any]:
    """Time per step and set-up of every contender."""
    x, m = data(shape)
    seconds = interleave(contenders(method, lambda x, t: m, x, peers), rounds)
    return {"per_step": summary(seconds, "floor", STEPS), "set_up_us": set_up(method, x, m, peers)}


def report(results: dict[str, Any], shape: tuple[int, ...], peers: Peers) -> str:
    """The table of one shape."""
    found = [results[f"{method} {shape}"] for method in METHODS]

    def row(name: str, cell: Callable[[dict[str, Any]], str], there: bool) -> list[str]:
        return [name, *(cell(one) if there else "not installed" for one in found)]

    def time_of(name: str) -> Callable[[dict[str, Any]], str]:
        return lambda one: "-" if (v := one["per_step"].get(name)) is None else f"{v['median_us']:.1f} us, {v['ratio']:.2f}x"

    def set_up_of(name: str) -> Callable[[dict[str, Any]], str]:
        return lambda one: f"{one['set_up_us'][name]:.0f} us" if name in one["set_up_us"] else "-"

    ours = ["floor", "tight", "in place", "diffcore"]
    rows = [row(name, time_of(name), True) for name in ours]
    rows += [row(name, time_of(name), bool(makes)) for name, makes in peers.items()]
    rows += [row(f"set-up, {name}", set_up_of(name), True) for name in ("diffcore", *(n for n in peers if peers[n]))]
    return f"State {shape}, per step (median, ratio to the floor):\n\n" + table(["", *METHODS], rows)


def main() -> None:
    options = arguments(__doc__, 1.0)
    torch.set_num_threads(1)
    peers = installed()
    results = {
        f"{method} {shape}": measure(method, shape, max(3, int(rounds * options.rounds)), peers)
        for shape, rounds in SHAPES.items()
        for method in METHODS
    }
    graphs = {f"{method} {shape}": compiled(method, shape) for shape in SHAPES for method in METHODS}
    rows = [[k, str(g["first"]), str(g["second"]), f"{g['error']:.1e}", f"{g['median_us']:.1f} us"] for k, g in graphs.items()]
    text = "\n\n".join(report(results, shape, peers) for shape in SHAPES)
    text += '\n\nCompiled (`mode="compile"`):\n\n'
    text += table(["", "graphs of a run", "of a second run", "difference to eager", "per step"], rows)
    publish("overhead", {"steps": STEPS, "results": results, "compiled": graphs}, text, options.write)


if __name__ == "__main__":
    main()
