"""Peak memory of sampling, in states: how many tensors of the size of a state are alive at once, beside the network's own.

    python benchmarks/memory.py [--write]

After every operation all living tensors are counted whose storage is as large as a state. The network returns a new tensor
that depends on its input, as a real one does. The floor of a solver is its formula as it stands: the state, the output of the
network, the next state, one tensor for every earlier output or state that its carry keeps ("history"), and for a step of k > 1
evaluations k - 1 slopes and the state of a stage. The caller's start state is not counted. Goal: within one state for every
tensor of history (at least one) above the floor.
"""

from __future__ import annotations

import gc
from typing import Any

import torch
from common import arguments, publish, table
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import diffcore as dc
from diffcore.numerics.tree import leaves
from diffcore.run.fine import ode_solvers

SHAPE = (4, 3, 32, 32)
REGISTRY = dc.Registry.load()


class Alive(TorchDispatchMode):
    """The largest number of storages of at least `size` bytes that were alive after an operation."""

    def __init__(self, size: int, known: set[int]) -> None:
        super().__init__()
        self.size, self.known, self.peak = size, known, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.peak = max(self.peak, len(storages(self.size) - self.known))
        return out


def storages(size: int) -> set[int]:
    """The addresses of all storages of at least `size` bytes."""
    found = (o.untyped_storage() for o in gc.get_objects() if type(o) is Tensor and o.device.type == "cpu")
    return {s.data_ptr() for s in found if s.nbytes() >= size}


def history(solver: dc.Solver, x: Tensor) -> int:
    """Tensors that the carry of a solver keeps."""
    carry = solver.init(x)
    return sum(isinstance(leaf, Tensor) and leaf.shape == x.shape for leaf in leaves(carry)) if carry is not None else 0


def net(x: Tensor, t: Tensor, **_: Any) -> Tensor:
    """Half of the state: a new tensor."""
    return 0.5 * x


def measure(name: str, process: dc.Process) -> tuple[int, int, int]:
    """Peak, floor and history of one solver."""
    solver = REGISTRY.make("solver", name, steps=8)
    field = dc.Field(dc.Denoiser(net, "eps", process=process))
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    dc.sample(field, solver, x)  # what is kept from run to run is there now
    gc.collect()
    alive = Alive(x.numel() * 4, storages(x.numel() * 4))
    with alive:
        dc.sample(field, solver, x)
    kept, stages = history(solver, x), max(map(len, solver.plan(process, solver.nodes(process)).asks))
    return alive.peak, 3 + kept + (stages if stages > 1 else 0), kept


def main() -> None:
    options = arguments(__doc__, 1.0)
    torch.set_num_threads(1)
    process = REGISTRY.make("process", "vp")
    field = dc.Field(dc.Denoiser(net, "eps", process=process))
    rows, results = [], {}
    for solver in ode_solvers(REGISTRY, field):
        name = REGISTRY.id_of(type(solver))
        peak, floor, kept = measure(name, process)
        results[name] = {"peak": peak, "floor": floor, "history": kept}
        rows.append([name, str(peak), str(floor), str(kept), f"{peak - floor:+d}"])
    text = f"States of shape {SHAPE}, 8 steps:\n\n"
    publish("memory", results, text + table(["solver", "peak", "floor", "history", "above"], rows), options.write)


if __name__ == "__main__":
    main()
