"""Progress of long work: a bar on a terminal, a line every few seconds in a log. No torch."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO


class Progress:
    """`start(total, label)`, `update(step, loss=0.12)` after every step, `close()`; then it may be started again.

    On a terminal a tqdm bar with rate, numbers and time left; elsewhere one plain line every `every` seconds, and one at the
    end. `step` counts what is done (steps, samples); `done` is where a resumed run begins, so that its rate is true.
    `between` is called after every step.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        every: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
        between: Callable[[], None] = lambda: None,
    ) -> None:
        self._stream, self._every, self._clock, self._between = stream, every, clock, between
        self._bar: Any = None

    def start(self, total: int, label: str, done: int = 0) -> None:
        """Begin work of `total` steps called `label`, of which `done` are done."""
        self.close()
        stream = self._stream or sys.stderr
        terminal = stream.isatty()
        self._bar = _Bar(stream, total, label, done) if terminal else _Log(stream, total, label, done, self._every, self._clock)

    def update(self, step: int, **numbers: float) -> None:
        """`step` of them are done; `numbers` are shown beside that."""
        if self._bar is not None:
            self._bar.update(step, numbers)
        self._between()

    def close(self) -> None:
        """End the display; harmless where nothing was started."""
        if self._bar is not None:
            self._bar.close()
        self._bar = None


class _Bar:
    def __init__(self, stream: TextIO, total: int, label: str, done: int) -> None:
        from tqdm import tqdm

        columns, rows = shutil.get_terminal_size()  # never 0, as tqdm's own look at some terminals is
        ascii_only = "utf" not in (getattr(stream, "encoding", None) or "").lower()
        self.tqdm = tqdm(total=total, desc=label, initial=done, file=stream, ncols=columns - 1, nrows=rows, ascii=ascii_only)

    def update(self, step: int, numbers: dict[str, float]) -> None:
        self.tqdm.set_postfix_str(_show(numbers), refresh=False)
        self.tqdm.update(step - self.tqdm.n)

    def close(self) -> None:
        self.tqdm.close()


class _Log:
    def __init__(self, stream: TextIO, total: int, label: str, done: int, every: float, clock: Callable[[], float]) -> None:
        self.stream, self.total, self.label, self.every, self.clock = stream, total, label, every, clock
        self.first, self.step, self.numbers, self.said = done, done, dict[str, float](), done
        self.began = self.spoke = clock()

    def update(self, step: int, numbers: dict[str, float]) -> None:
        self.step, self.numbers = step, numbers
        if self.clock() - self.spoke >= self.every:
            self._say()

    def close(self) -> None:
        if self.said != self.step:
            self._say()

    def _say(self) -> None:
        self.spoke, self.said = self.clock(), self.step
        rate = (self.step - self.first) / max(self.spoke - self.began, 1e-9)
        parts = [f"{self.label} {self.step}/{self.total}", f"{rate:.3g}/s", _show(self.numbers)]
        if 0 < self.step < self.total and rate > 0:
            parts.append(f"{_clock((self.total - self.step) / rate)} left")
        print(", ".join(p for p in parts if p), file=self.stream, flush=True)


def _show(numbers: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
