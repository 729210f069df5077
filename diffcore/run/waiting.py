"""How threads wait for each other on the CPU. No torch here: it must be settled before torch is imported."""

from __future__ import annotations

import os

SPIN = "GOMP_SPINCOUNT"
CHOICES = ("OMP_WAIT_POLICY", SPIN, "KMP_BLOCKTIME")
"""What says how the threads of OpenMP wait; where the user has set one of these, nothing is changed."""
COUNT = "1000"
"""Rounds, some tens of microseconds: as long as a network's next operation takes to come. The default of libgomp, milliseconds,
holds a core against whoever works beside; training on two cores under a load of 12 then took 12 times as long."""


def settle() -> None:
    """Let waiting threads give their core away soon, unless the user has chosen otherwise."""
    if not any(name in os.environ for name in CHOICES):
        os.environ[SPIN] = COUNT


def told() -> str:
    """What is set, for the lock of a run and for a reader: `GOMP_SPINCOUNT=1000`."""
    return " ".join(f"{name}={os.environ[name]}" for name in CHOICES if name in os.environ) or "default"
