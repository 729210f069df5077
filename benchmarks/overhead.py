"""Sampler overhead per step with a denoiser that costs nothing: diffcore, other libraries, and hand-written loops.

    python benchmarks/overhead.py [--rounds N]

The denoiser returns a constant tensor. Ours includes all that `dc.sample` does: checking the grid, planning, counting
calls, checking the result. Everything is timed in one interleaved run; ratios are to the hand-written formula ("floor").
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from common import interleave, publish, summary, table
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


def parts(method: str, net: Any) -> tuple[dc.Field, dc.Solver]:
    name, prediction = METHODS[method]
    process = REGISTRY.make("process", name)
    return dc.Field(process, dc.Denoiser(net, prediction, process=process)), REGISTRY.make("solver", method, steps=STEPS)


def ours(net: Any, x: Tensor, method: str) -> Run:
    field, solver = parts(method, net)
    return lambda: dc.sample(field, solver, x).x


def contenders(method: str, net: Any, x: Tensor, peers: dict[str, dict[str, Any]]) -> dict[str, Run]:
    field, solver = parts(method, net)
    runs = {**loops(method, net, x, field.process, solver), "diffcore": ours(net, x, method)}
    torch.testing.assert_close(runs["diffcore"](), runs["floor"](), rtol=1e-4, atol=1e-4)
    return {**runs, **{name: makes[method](net, x, STEPS) for name, makes in peers.items() if method in makes}}


def set_up(method: str, x: Tensor, m: Tensor, peers: dict[str, dict[str, Any]]) -> dict[str, float]:
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

    runs = {"diffcore": ours(net, x, method), **{n: makes[method](net, x, STEPS) for n, makes in peers.items() if method in makes}}
    return {name: statistics.median(once(run) for _ in range(20)) for name, run in runs.items()}


def compiled(method: str, x: Tensor, m: Tensor) -> dict[str, Any]:
    """The graphs of a first and of a second compiled run, and the largest difference to eager mode, relative to its size."""
    field, solver = parts(method, lambda x, t: m)
    eager, graphs = dc.sample(field, solver, x).x, []
    torch._dynamo.reset()
    for _ in range(2):
        counters.clear()
        found = dc.sample(field, solver, x, mode="compile").x
        graphs.append(counters["stats"]["unique_graphs"])
    return {"graphs": graphs[0], "recompiled": graphs[1], "error": float((found - eager).abs().max() / eager.abs().max())}


def measure(method: str, shape: tuple[int, ...], rounds: int, peers: dict[str, dict[str, Any]]) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    x, m = torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)
    seconds = interleave(contenders(method, lambda x, t: m, x, peers), rounds)
    return {"per_step": summary(seconds, "floor", STEPS), "set_up_us": set_up(method, x, m, peers)}


def report(results: dict[str, Any], shape: tuple[int, ...], names: list[str]) -> str:
    def cell(name: str, found: dict[str, Any]) -> str:
        value = found["per_step"].get(name)
        return "-" if value is None else f"{value['median_us']:.1f} us, {value['ratio']:.2f}x"

    rows = [[name, *(cell(name, results[f"{method} {shape}"]) for method in METHODS)] for name in names]
    note = "not installed" if not any(row[1:] != ["-"] * len(METHODS) for row in rows) else ""
    del note
    setup = {m: results[f"{m} {shape}"]["set_up_us"] for m in METHODS}
    rows += [[f"set-up, {n}", *(f"{setup[m][n]:.0f} us" if n in setup[m] else "-" for m in METHODS)] for n in names[3:]]
    return f"State {shape}, per step (median; ratio to floor):\n\n" + table(["", *METHODS], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=float, default=1.0, help="factor on the number of rounds")
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    peers = installed()
    results = {
        f"{method} {shape}": measure(method, shape, max(3, int(count * rounds)), peers)
        for shape, count in SHAPES.items()
        for method in METHODS
    }
    names = ["floor", "tight", "in place", "diffcore", *peers]
    text = "\n\n".join(report(results, shape, names) for shape in SHAPES)
    publish("overhead", {"steps": STEPS, "results": results}, text)


if __name__ == "__main__":
    main()
