"""Standard streams that what is imported may use as it likes: nothing to read, and what it prints goes to standard error."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

MOST = 10_000
"""Characters that are shown of what is printed there."""
_SAVED: set[int] = set()
"""The true streams, as file descriptors, while others stand in for them."""
if hasattr(os, "register_at_fork"):  # a child that lives on would keep them open for whoever reads them
    os.register_at_fork(after_in_child=lambda: [os.close(number) for number in _SAVED])


class _Elsewhere(io.TextIOBase):
    """A stream that writes to standard error, whichever that is, and cannot be closed."""

    encoding = "utf-8"  # pyright: ignore
    errors = "replace"  # pyright: ignore

    def __init__(self, who: str) -> None:
        self.real: Any = sys.stderr
        self.who, self.left = who, MOST

    def target(self) -> Any:
        """The true standard error; None where there is none."""
        stream = self.real or sys.stderr
        return None if stream is self else stream

    def write(self, text: str, /) -> int:
        """Write there; while it stands in for others, no more than `MOST` characters."""
        stream = self.target()
        if stream is not None:
            stream.write(text if self.real is None else self._cut(text))
        return len(text)

    def _cut(self, text: str) -> str:
        shown, before = text[: self.left], self.left
        self.left -= len(shown)
        return shown if self.left or not before else f"{shown}\n... {self.who} prints more, which is left out\n"

    def flush(self) -> None:
        """Flush it."""
        if (stream := self.target()) is not None:
            stream.flush()

    def close(self) -> None:
        """Nothing: it is not theirs to close."""

    def writable(self) -> bool:
        """Always."""
        return True

    def fileno(self) -> int:
        """That of standard error."""
        return 2

    def reconfigure(self, **_: Any) -> None:
        """Nothing: it is not theirs to change."""

    @property
    def buffer(self) -> io.RawIOBase:
        """The same for bytes."""
        return _Bytes(self)


class _Bytes(io.RawIOBase):
    def __init__(self, text: _Elsewhere) -> None:
        self.text = text

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        self.text.write(bytes(data).decode("utf-8", "replace"))
        return len(data)


@contextmanager
def elsewhere(who: str) -> Generator[None]:
    """Within, nothing to read, and what is printed goes to standard error: as objects and as file descriptors."""
    names = ("stdin", "stdout", "stderr", "__stdin__", "__stdout__", "__stderr__")
    old = {name: getattr(sys, name) for name in names}
    theirs = _Elsewhere(who)
    with ExitStack() as stack:
        for stream in filter(None, (old["stdout"], old["__stdout__"], old["stderr"])):
            with suppress(Exception):
                stream.flush()
        stack.enter_context(_descriptors())
        try:
            for name in names:
                setattr(sys, name, io.StringIO() if name.endswith(("stdin", "stdin__")) else theirs)
            yield
        finally:
            theirs.real = None
            for name, stream in old.items():
                setattr(sys, name, stream)


@contextmanager
def _descriptors() -> Generator[None]:
    """0 is empty, 1 writes where 2 does, and neither 1 nor 2 is closed afterwards if it was open before."""
    kept = {number: saved for number in (0, 1, 2) if (saved := _duplicate(number)) is not None}
    _SAVED.update(kept.values())
    try:
        if 0 in kept:
            nothing = os.open(os.devnull, os.O_RDONLY)
            os.dup2(nothing, 0)
            os.close(nothing)
        if {1, 2} <= kept.keys():
            os.dup2(2, 1)
        yield
    finally:
        for number, saved in kept.items():
            os.dup2(saved, number)
            os.close(saved)
            _SAVED.discard(saved)


def _duplicate(number: int) -> int | None:
    try:
        return os.dup(number)
    except OSError:
        return None
