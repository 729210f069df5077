"""Ctrl-C, and the signals that end a process: between two steps, never inside one, so that the state after a step is saved."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any


class Stopped(KeyboardInterrupt):
    """A signal asked to stop; `number` is its number."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


class Interrupt:
    """While entered, the first signal waits for the next `check()`; the second one is not waited for.

    `forced` tells that a second one came, so that the state may be in the middle of a step. Outside the main thread signals
    are left as they are, and so is a signal that is ignored. Of several processes of one run each ends at once when it is told
    to, for none can finish a step alone.
    """

    def __init__(self) -> None:
        self.asked, self.forced = 0, False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            caught = [number for number in _signals() if signal.getsignal(number) not in (signal.SIG_IGN, None)]
            self._before = {number: signal.signal(number, self._ask) for number in caught}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        if kind is None:
            self.check()

    def check(self) -> None:
        """Raise `Stopped`, a `KeyboardInterrupt`, if a signal came."""
        if self.asked:
            number, self.asked = self.asked, 0
            raise Stopped(number)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            self.forced = True
            raise Stopped(number)
        self.asked = number
        again = "Ctrl-C again" if number == signal.SIGINT else "a second signal"
        print(f"\nstopping after this step; {again} stops at once", file=sys.stderr)


def _signals() -> list[int]:
    """Ctrl-C, and what a scheduler or a closed terminal sends."""
    alone = os.environ.get("WORLD_SIZE", "1") == "1"
    return [signal.SIGINT, *(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if alone and hasattr(signal, name))]
