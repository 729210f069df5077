"""What the networks of a run cost, whichever they are and however many."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Self

from torch import Tensor

from diffcore.numerics.tree import State, batch_size


class Meter:
    """Counts what networks are called within `with meter:` in this thread; a meter within another counts for both.

    calls: calls of networks; rows: samples that they were evaluated on, a batched guided evaluation once per branch. at: the time
    of the first call since it was set to None. posterior: what a field last knew of x_0, kept where `watching`. Silent in what
    is being compiled.
    """

    __slots__ = ("at", "calls", "posterior", "rows", "watching")

    def __init__(self, *, watching: bool = False) -> None:
        self.calls = self.rows = 0
        self.at: Any = None
        self.posterior: Any = None
        self.watching = watching

    @staticmethod
    def add(rows: int) -> None:
        """Count rows that other processes evaluated for this run."""
        for meter in RUNNING.meters:
            meter.rows += rows

    @staticmethod
    def forget() -> None:
        """What was last known of x_0 is not that of the samples of the run: of a part of them, or of several times."""
        seen(None)

    def __enter__(self) -> Self:
        RUNNING.meters.append(self)
        return self

    def __exit__(self, *error: object) -> None:
        RUNNING.meters.remove(self)


@contextmanager
def silent() -> Generator[None]:
    """Nothing is counted: what is run within was counted, or will be, where it is run for good."""
    kept, RUNNING.meters = RUNNING.meters, []
    try:
        yield
    finally:
        RUNNING.meters = kept


class _Running(threading.local):
    """The meters that are open in a thread, the outermost first."""

    def __init__(self) -> None:
        self.meters: list[Meter] = []


RUNNING = _Running()


def count(x: State, at: Any) -> None:
    """One call of a network on the state x at a time."""
    for meter in RUNNING.meters:
        meter.calls += 1
        meter.rows += x.shape[0] if x.__class__ is Tensor else batch_size(x)
        if meter.at is None:
            meter.at = at


def watched() -> bool:
    """Whether a meter keeps what fields know of x_0."""
    return any(meter.watching for meter in RUNNING.meters)


def seen(posterior: Any) -> None:
    """What a field knows of x_0, for the meters that keep it."""
    for meter in RUNNING.meters:
        if meter.watching:
            meter.posterior = posterior
