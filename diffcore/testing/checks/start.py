"""Checks of starts: a state of the right form, at a time of the process, from its own noise."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from diffcore.numerics.process import Process
from diffcore.numerics.tree import leaves, tree_map
from diffcore.testing.base import Subject, check, draw_of, normal, poisoned_noise, same

N = 3
IDS = range(N)


def _begun(subject: Subject, process: Process, rows: Sequence[int] = IDS) -> tuple[Any, float]:
    """What begins for some of N samples: whatever it is given is of the shape of a sample."""
    shape = tuple(getattr(subject.cls, "event_shape", None) or (4,))
    start: Any = subject.component
    names = [p.name for p in inspect.signature(start.begin).parameters.values() if p.kind == p.KEYWORD_ONLY]
    cond: dict[str, Tensor] = {name: normal(N, *shape, seed=9)[list(rows)] for name in names}
    return start.begin(process, shape, draw_of(N).take(rows), **cond)


@check("start")
def begins_in_time(subject: Subject) -> None:
    """(x_t, t): one finite row for each id, and 0 < t <= T; all randomness comes from `draw`."""
    for process in subject.processes():
        with poisoned_noise():
            x, t = _begun(subject, process)
        assert 0 < float(t) <= process.T, f"begins {type(process).__name__} at t = {float(t)}, not within (0, {process.T}]"
        assert all(len(leaf) == N for leaf in leaves(x)), f"the state has not one row for each of {N} ids"
        assert all(bool(torch.isfinite(leaf).all()) for leaf in leaves(x)), "the state is not finite"


@check("start")
def begins_by_ids(subject: Subject) -> None:
    """The row of a sample is the same whatever else is in its batch."""
    for process in subject.processes():
        whole, _ = _begun(subject, process)
        alone, _ = _begun(subject, process, [1])
        assert same(alone, tree_map(lambda leaf: leaf[1:2], whole)), "the state of a sample depends on the others of its batch"
