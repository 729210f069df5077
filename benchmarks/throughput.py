"""Streaming 10,000 samples through a small network: `Pipeline.sample` in batches, alone and shared by two processes, beside a
plain loop.

    python benchmarks/throughput.py [--rounds N] [--write]

The plain loop draws noise with torch.randn, runs the DPM-Solver++ 2M formula with precomputed floats batch by batch, and
concatenates. Ours also keys the noise by sample, conditions by class and checks the result. Seconds are those on the wall: two
processes share the work on two cores. The growth of memory is that of the process while it samples, less the samples.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from common import arguments, publish, table
from floors import loops
from torch import Tensor

import diffcore as dc

N, BATCH, STEPS = 10_000, 250, 10
SPEC: dict[str, Any] = {
    "data": {"type": "mnist-5k"},
    "process": {"type": "vp"},
    "network": {"type": "dit", "width": 32, "depth": 2, "patch": 7},
    "prediction": "x0",
    "loss": {"type": "denoising"},
    "trainer": {"type": "standard", "steps": 0},
    "solver": {"type": "dpmpp-2m", "steps": STEPS},
    "sampling": {"n": N, "batch": BATCH},
}
WORKER = """
import sys, time, torch, diffcore as dc
from diffcore.learning import distributed
torch.set_num_threads(1)
distributed.start()
pipeline = dc.Pipeline.load(sys.argv[1], device="cpu")
pipeline.sample(int(sys.argv[2]) // 10)
distributed.barrier()
start = time.perf_counter()
x = pipeline.sample(int(sys.argv[2])).x
distributed.barrier()
if distributed.world()[0] == 0:
    print("SECONDS", time.perf_counter() - start, len(x))
distributed.stop()
"""


def peak() -> int:
    """The largest memory of this process so far, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def ours(pipeline: dc.Pipeline, n: int) -> tuple[float, int, Tensor]:
    """Seconds and growth of memory of one run."""
    before, start = peak(), time.perf_counter()
    x = pipeline.sample(n).x
    return time.perf_counter() - start, peak() - before, x


@torch.no_grad()
def plain(pipeline: dc.Pipeline, n: int) -> tuple[float, int, Tensor]:
    """The same by hand."""
    net, embed = pipeline.net.eval(), pipeline.denoiser
    label = torch.arange(BATCH) % 10

    def call(x: Tensor, t: Tensor) -> Tensor:
        return net(x, embed.time(t, x), label=label)

    run = loops("dpmpp-2m", call, torch.randn(BATCH, *pipeline.source.event.shape), pipeline.process, pipeline.spec.solver)[
        "floor"
    ]
    before, start = peak(), time.perf_counter()
    parts = [run() for _ in range(n // BATCH)]
    x = torch.cat(parts)
    return time.perf_counter() - start, peak() - before, x


def shared(folder: Path, n: int, count: int) -> float:
    """Seconds of `count` processes."""
    script = folder / "worker.py"
    script.write_text(WORKER)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}", str(script)]
    told = subprocess.run([*command, str(folder), str(n)], capture_output=True, text=True, check=True, env={**os.environ})
    return float(next(line for line in told.stdout.splitlines() if line.startswith("SECONDS")).split()[1])


def main() -> None:
    options = arguments(__doc__, 2)
    torch.set_num_threads(1)
    pipeline = dc.assemble(SPEC, device="cpu")
    ours(pipeline, 10 * BATCH)
    runs = [(ours(pipeline, N), plain(pipeline, N)) for _ in range(options.rounds)]
    size = runs[0][0][2].numel() * 4
    with tempfile.TemporaryDirectory() as folder:
        pipeline.save(folder)
        alone, two = shared(Path(folder), N, 1), shared(Path(folder), N, 2)
    own, loop = (min(run[i][0] for run in runs) for i in (0, 1))
    grown = [max(0, runs[0][i][1] - size) / 2**20 for i in (0, 1)]
    rows = [
        ["plain loop", f"{loop:.1f}", f"{N / loop:.0f}", "1.00", f"{grown[1]:.0f}"],
        ["diffcore", f"{own:.1f}", f"{N / own:.0f}", f"{own / loop:.2f}", f"{grown[0]:.0f}"],
        ["diffcore under torchrun, 1 process", f"{alone:.1f}", f"{N / alone:.0f}", f"{alone / loop:.2f}", ""],
        ["diffcore under torchrun, 2 processes", f"{two:.1f}", f"{N / two:.0f}", f"{two / loop:.2f}", ""],
    ]
    text = f"{N} samples of (1, 28, 28) in batches of {BATCH}, {STEPS} steps, a DiT of {sum(p.numel() for p in pipeline.net.parameters()):,} parameters:\n\n"
    head = ["", "seconds", "samples a second", "to the plain loop", "growth of memory beside the samples, MiB"]
    publish("throughput", {"n": N, "rows": rows}, text + table(head, rows), options.write)


if __name__ == "__main__":
    main()
