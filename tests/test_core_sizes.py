"""What is asked for is held against the memory that a machine has, or that its container may use."""

from __future__ import annotations

import os

import pytest
import torch

import diffcore as dc
from diffcore.run import sizes

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("limit", "found"), [("600\n", 600), ("6000\n", 4000), ("max\n", 4000), (None, 4000)], ids=["less", "more", "none", "absent"]
)
def test_memory_is_what_the_machine_has_and_a_container_may_use(tmp_path, monkeypatch, limit, found):
    """40 pages of 100 bytes, under a limit of its control group."""
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": 40, "SC_PAGE_SIZE": 100}.__getitem__)
    monkeypatch.setattr(sizes, "_LIMIT", tmp_path / "memory.max")
    if limit is not None:
        (tmp_path / "memory.max").write_text(limit)
    assert sizes.memory(CPU) == found


@pytest.mark.parametrize(("shape", "entries"), [((3, 4), 12), ((), 1)])
def test_samples_that_just_fit_are_taken_and_one_more_is_not(monkeypatch, shape, entries):
    each = entries * sizes.NUMBER * sizes.HELD
    monkeypatch.setattr(sizes, "memory", lambda device: 10 * each)
    sizes.require(10, dc.Event(*shape), CPU)
    with pytest.raises(dc.SpecError, match=r"11 samples of .* take at most 10$"):
        sizes.require(11, dc.Event(*shape), CPU)


@pytest.mark.parametrize("small", [0, 2**28])
def test_tensors_that_just_fit_together_are_made(monkeypatch, small):
    """24 numbers of 4 bytes are 96 bytes, whether they are small enough to be built without asking or not."""
    monkeypatch.setattr(sizes, "SMALL", small)

    def build():
        return torch.zeros(4, 2), torch.ones((16,), dtype=torch.float32)

    a, b = sizes.built(build, 96, "a toy")
    assert (float(a.sum()), float(b.sum())) == (0.0, 16.0)
    with pytest.raises(dc.SpecError, match="a toy takes more than the 95 "):
        sizes.built(build, 95, "a toy")
