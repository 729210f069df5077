"""Sampling on a CUDA device: eager, compiled, graph replay, diffusers, and the network calls alone.

    python benchmarks/gpu.py [--rounds N] [--write]

Two networks: one that costs nothing (only overhead counts) and a small U-Net. Wall time of whole 20-step runs, the device
waited for at both ends, all in one interleaved run; ratios are to the calls of the network alone.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from common import arguments, interleave, publish, table
from overhead import METHODS, REGISTRY, parts
from peers import installed

import diffcore as dc

STEPS = 20
SHAPES = ((1, 3, 32, 32), (16, 3, 64, 64))
MODES = ("eager", "compile", "graph")


def network(kind: str, shape: tuple[int, ...]) -> Any:
    if kind == "nothing":
        m = torch.randn(shape, generator=torch.Generator().manual_seed(0)).cuda()
        return lambda x, t: m
    torch.manual_seed(0)
    unet = REGISTRY.make("network", "unet").build(shape[1:], {}).cuda().eval()
    return lambda x, t: unet(x, t.expand(len(x)).float())


def waited(run: Callable[[], Any]) -> Callable[[], Any]:
    @torch.no_grad()
    def whole() -> Any:
        torch.cuda.synchronize()
        found = run()
        torch.cuda.synchronize()
        return found

    return whole


def contenders(method: str, net: Any, x: torch.Tensor, peers: dict[str, dict[str, Any]]) -> dict[str, Callable[[], Any]]:
    field, solver = parts(method, net, STEPS)
    runs: dict[str, Callable[[], Any]] = {mode: lambda mode=mode: dc.sample(field, solver, x, mode=mode) for mode in MODES}
    expected = waited(runs["eager"])()
    for mode in MODES[1:]:
        torch.testing.assert_close(waited(runs[mode])().x, expected.x, rtol=1e-4, atol=1e-4)
    t = torch.full((len(x),), 0.5, device="cuda")
    runs = {"network alone": lambda: [net(x, t) for _ in range(expected.calls)], **runs}
    if method in peers["diffusers"]:
        runs["diffusers"] = peers["diffusers"][method](net, x, STEPS)
    return {name: waited(run) for name, run in runs.items()}


def measure(kind: str, shape: tuple[int, ...], method: str, rounds: int, peers: dict[str, dict[str, Any]]) -> dict[str, float]:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).cuda()
    seconds = interleave(contenders(method, network(kind, shape), x, peers), rounds, time.perf_counter)
    return {name: statistics.median(values) * 1e3 for name, values in seconds.items()}


def main() -> None:
    options = arguments(__doc__, 30)
    if not torch.cuda.is_available():
        print("no CUDA device")
        sys.exit(0)
    peers = installed()
    results = {
        f"{method}, {kind}, {shape}": measure(kind, shape, method, options.rounds, peers)
        for kind in ("nothing", "unet")
        for shape in SHAPES
        for method in METHODS
    }
    names = ["network alone", *MODES, "diffusers"]

    def cell(found: dict[str, float], name: str) -> str:
        return f"{found[name]:.2f} ms, {found[name] / found['network alone']:.2f}x" if name in found else "not installed"

    rows = [[label, *(cell(found, name) for name in names)] for label, found in results.items()]
    device = torch.cuda.get_device_name()
    publish(
        "gpu",
        {"device": device, "steps": STEPS, "median_ms": results},
        f"{device}:\n\n" + table(["", *names], rows),
        options.write,
    )


if __name__ == "__main__":
    main()
