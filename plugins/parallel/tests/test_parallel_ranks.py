"""Two processes (gloo) that share every window find the samples of one, and say so where they cannot."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffcore_parallel.paradigms import Paradigms
from diffcore_parallel.ranks import Ranks

import diffcore as dc
from diffcore.testing import ReferenceVP

SCRIPT = """
import json, sys
import torch
import torch.distributed as dist
from test_parallel_ranks import runs

dist.init_process_group("gloo")
found = runs(dist.get_rank())
with open(f"{sys.argv[1]}/{dist.get_rank()}.json", "w") as file:
    json.dump(found, file)
dist.destroy_process_group()
"""


def network():
    """A small network in float64 with fixed weights; matrix products of other batch sizes may round differently."""
    draw = dc.Draw(11, range(1))
    inner, outer = (draw.fold(k).normal((32, 32), torch.float64)[0] / 6 for k in (1, 2))

    def net(x, t):
        hidden = torch.tanh(torch.nn.functional.pad(x, (0, 26)) @ inner + t[:, None])
        return (hidden @ outer)[:, :6]

    return net


def runs(rank):
    """Samples, evaluations, calls and sweeps of three solvers, and the messages of what is refused."""
    make, process = dc.Registry.load().make, ReferenceVP()
    field = dc.Field(dc.Denoiser(network(), "v", process))
    x, found = dc.Draw(3, range(5)).normal((6,), torch.float64), {}
    for key, fields in (
        ("ddim", {"of": make("solver", "ddim")}),
        ("ancestral", {"of": make("solver", "ancestral")}),
        ("heun", {"of": make("solver", "heun")}),
        ("trapezoid", {"rule": "trapezoid"}),
    ):
        solver = Paradigms(**fields, window=7, tolerance=1e-3, share_window=True)
        result = dc.sample(field, solver, x, steps=23, seed=4, keep_frames=True)
        sweeps = result.frames[-1].own.tolist()
        found[key] = {"x": result.x.tolist(), "nfe": result.nfe, "calls": result.calls, "sweeps": sweeps}
    for key, start, ids in (("other ids", x, range(5 * rank, 5 * rank + 5)), ("other states", x + rank, None)):
        try:
            dc.sample(field, Paradigms(share_window=True), start, steps=3, ids=ids)
        except dc.SpecError as error:
            found[key] = str(error)
    try:
        dc.sample(field, Paradigms(share_window=True), x, steps=3, grad=True)
    except dc.IncompatibleError as error:
        found["gradients"] = str(error)
    return found


def test_two_processes_find_the_samples_of_one(tmp_path):
    """The same sweeps and calls, samples equal to 1e-12; every evaluation is counted, those that fill up a part included."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", script, tmp_path]
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    alone = runs(0)
    for key, one in alone.items():
        two = first[key]
        a, b = (torch.tensor(run["x"], dtype=torch.float64) for run in (one, two))
        assert float((a - b).abs().max()) < 1e-12
        assert (two["calls"], two["sweeps"]) == (one["calls"], one["sweeps"])
        assert 0 <= two["nfe"] - one["nfe"] <= two["calls"] / 5
    assert "the processes do not run the same samples" in first["other ids"]
    assert "the processes do not run the same samples" in first["other states"]
    assert "without gradients" in first["gradients"]
    assert set(first) == {*alone, "other ids", "other states", "gradients"}


@pytest.mark.parametrize("count", [1, 2, 5, 8])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_parts_are_equal_and_cover_everything_in_order(count, size):
    parts = [Ranks(rank, size).part(count) for rank in range(size)]
    assert len({len(part) for part in parts}) == 1
    assert torch.cat(parts)[:count].tolist() == list(range(count))


def test_a_group_of_one_process_shares_with_none(tmp_path):
    """As without a group: gradients are allowed."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        assert Ranks.meeting(torch.zeros(2, 3, requires_grad=True), dc.Draw(0, range(2))) == Ranks(0, 1)
    finally:
        torch.distributed.destroy_process_group()
