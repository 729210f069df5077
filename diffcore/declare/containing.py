"""Importing what others wrote, without the rest of the process feeling it: state is put back, no way out, a limit on the time.

    with contained("plugin my-plugin", limit=20.0) as found:
        module = importlib.import_module("my_plugin")
    print(found.changed)    # ["default dtype", "signal handlers"]

Within, standard input is empty, what is printed goes to standard error, threads that are started do not keep the process
alive, and ending the process is an error. What is raised there and is no ordinary exception comes out as `PluginError`, but for a
Ctrl-C of the user. The limit holds in the main thread, where the system has timers.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import attrs

from diffcore.declare.errors import PluginError, said
from diffcore.declare.state import LIBRARIES, Keeper, of_python

PATIENCE = 3.0, 15.0
"""Seconds after which is said what the process is waiting for: with a limit, and without one, where torch may be imported."""


@attrs.define
class Found:
    """What importing did: the names of what it changed, the number of threads it left running, and its seconds."""

    changed: list[str] = attrs.field(factory=list[str])
    threads: int = 0
    seconds: float = 0.0


@contextmanager
def contained(who: str, limit: float | None = None) -> Generator[Found]:
    """Contain what runs within. Raises `PluginError` where it takes longer than `limit` seconds, or tries to end the process."""
    found, start = Found(), time.monotonic()
    try:
        with _streams(), _ends(), _clock(who, limit) as clock, _kept(found, clock):
            try:
                yield found
            except BaseException as error:
                if clock.interrupted:
                    raise KeyboardInterrupt from None
                if isinstance(error, (Exception, _TooLongError)):
                    raise
                raise PluginError(said(error)) from error
            finally:
                clock.limit = None  # what is put back now is not theirs
        if clock.interrupted:  # and what runs within has swallowed it
            raise KeyboardInterrupt
    finally:
        found.seconds = time.monotonic() - start


# --- state ----------------------------------------------------------------------------------------------------------------


@contextmanager
def _kept(found: Found, clock: _Clock) -> Generator[None]:
    """Put back everything global, and note the names of what had changed."""
    before = [(keeper, keeper.now()) for keeper in of_python()]
    arrival = _Arrival(clock, lambda library: _read(library, before))
    running = set(threading.enumerate())
    try:
        with arrival:
            yield
    finally:
        found.changed += filter(None, (keeper.restore(value) for keeper, value in before))
        started = set(threading.enumerate()) - running
        found.threads = len(started)
        _let_go(started)


def _read(library: str, before: list[tuple[Keeper, Any]]) -> None:
    with suppress(AttributeError):  # a version of the library that has not all of it
        before.extend((keeper, keeper.now()) for keeper in LIBRARIES[library]())


def _let_go(started: set[threading.Thread]) -> None:
    """Those of a pool are waited for at the end of the process, daemons or not, unless the pool forgets them."""
    queues = getattr(sys.modules.get("concurrent.futures.thread"), "_threads_queues", {})
    for thread in started:
        queues.pop(thread, None)


class _Arrival(importlib.abc.MetaPathFinder):
    """Tells which libraries are there, and of the others the moment they have been imported."""

    def __init__(self, clock: _Clock, tell: Callable[[str], None]) -> None:
        self.clock, self.tell = clock, tell
        self.awaited = {name for name in LIBRARIES if name not in sys.modules}
        for name in LIBRARIES.keys() - self.awaited:
            tell(name)

    def __enter__(self) -> None:
        sys.meta_path.insert(0, self)

    def __exit__(self, *_: object) -> None:
        with suppress(ValueError):
            sys.meta_path.remove(self)

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        """The spec that the other finders give, with a loader that tells when it is done."""
        if fullname not in self.awaited:
            return None
        self.awaited.discard(fullname)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Telling(spec.loader, self.clock, self.tell)
        return spec


class _Telling(importlib.abc.Loader):
    """A loader that steps aside before the module runs, and tells afterwards. The clock stands still in between: half a torch
    in a process is worse than a late one."""

    def __init__(self, loader: Any, clock: _Clock, tell: Callable[[str], None]) -> None:
        self.loader, self.clock, self.tell = loader, clock, tell

    def create_module(self, spec: Any) -> Any:
        return self.loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        module.__spec__.loader = module.__loader__ = self.loader
        with self.clock.stopped():
            self.loader.exec_module(module)
        self.tell(module.__name__)


# --- streams --------------------------------------------------------------------------------------------------------------


class _Elsewhere(io.TextIOBase):
    """A stream that writes to standard error, whichever that is, and cannot be closed."""

    encoding = "utf-8"  # pyright: ignore
    errors = "replace"  # pyright: ignore

    def __init__(self) -> None:
        self.real: Any = sys.stderr

    def target(self) -> Any:
        """The true standard error; None where there is none."""
        stream = self.real or sys.stderr
        return None if stream is self else stream

    def write(self, text: str, /) -> int:
        """Write there."""
        stream = self.target()
        return len(text) if stream is None else stream.write(text)

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
def _streams() -> Generator[None]:
    """Nothing to read, and what is printed goes to standard error: as objects and as file descriptors."""
    names = ("stdin", "stdout", "stderr", "__stdin__", "__stdout__", "__stderr__")
    old = {name: getattr(sys, name) for name in names}
    elsewhere = _Elsewhere()
    with ExitStack() as stack:
        for stream in filter(None, (old["stdout"], old["__stdout__"], old["stderr"])):
            with suppress(Exception):
                stream.flush()
        stack.enter_context(_descriptors())
        try:
            for name in names:
                setattr(sys, name, io.StringIO() if name.endswith(("stdin", "stdin__")) else elsewhere)
            yield
        finally:
            elsewhere.real = None
            for name, stream in old.items():
                setattr(sys, name, stream)


@contextmanager
def _descriptors() -> Generator[None]:
    """0 is empty, 1 writes where 2 does, and neither 1 nor 2 is closed afterwards if it was open before."""
    kept = {number: saved for number in (0, 1, 2) if (saved := _duplicate(number)) is not None}
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


def _duplicate(number: int) -> int | None:
    try:
        return os.dup(number)
    except OSError:
        return None


# --- ways out -------------------------------------------------------------------------------------------------------------


@contextmanager
def _ends() -> Generator[None]:
    """Ending the process is an error within; a thread that is started there does not keep it alive."""
    places = [(owner, name) for owner, names in _WAYS_OUT for name in names if hasattr(owner, name)]
    old, within = [getattr(*place) for place in places], [os.getpid()]

    def refusing(owner: Any, name: str, end: Callable[..., Any]) -> Callable[..., Any]:
        def refuse(*arguments: Any, **named: Any) -> Any:
            if os.getpid() not in within or (name == "kill" and (arguments[0] not in (*within, 0) or not arguments[1])):
                return end(*arguments, **named)
            raise PluginError(f"it called {owner.__name__}.{name}, which ends the process")

        return refuse

    try:
        for (owner, name), end in zip(places, old, strict=True):
            setattr(owner, name, _start_daemon(end) if name == "start" else refusing(owner, name, end))
        yield
    finally:
        within.clear()
        for (owner, name), end in zip(places, old, strict=True):
            setattr(owner, name, end)


_WAYS_OUT: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (os, ("_exit", "abort", "execv", "execve", "kill")),
    (signal, ("raise_signal",)),
    (threading.Thread, ("start",)),
)


def _start_daemon(start: Callable[[threading.Thread], None]) -> Callable[[threading.Thread], None]:
    def start_daemon(thread: threading.Thread) -> None:
        with suppress(RuntimeError):  # it has been started before, which `start` says
            thread.daemon = True
        start(thread)

    return start_daemon


# --- time and interrupts --------------------------------------------------------------------------------------------------


class _TooLongError(BaseException):
    """Raised where the limit is reached; no `except Exception` stops it."""


class _Clock:
    """Says what is waited for, ends it at the limit, and knows a Ctrl-C of the user from a KeyboardInterrupt of the plugin."""

    def __init__(self, who: str, limit: float | None) -> None:
        self.who, self.limit, self.start = who, limit, time.monotonic()
        self.told = self.interrupted = self.stands = False
        self.previous: Any = None

    def tick(self, *_: object) -> None:
        """What the timer calls, from time to time."""
        passed = time.monotonic() - self.start
        if self.stands:
            return
        if not self.told:
            self.told = True
            with suppress(OSError):
                os.write(2, f"waiting for {self.who}, which is being imported ...\n".encode())
        if self.limit is not None and passed >= self.limit:
            raise _TooLongError

    @contextmanager
    def stopped(self) -> Generator[None]:
        """What happens within does not count."""
        start, before = time.monotonic(), self.stands
        self.stands = True
        try:
            yield
        finally:
            self.stands = before
            self.start += 0.0 if before else time.monotonic() - start

    def interrupt(self, *arguments: Any) -> Any:
        """What Ctrl-C calls."""
        self.interrupted = True
        return self.previous(*arguments)


@contextmanager
def _clock(who: str, limit: float | None) -> Generator[_Clock]:
    clock = _Clock(who, limit)
    if threading.current_thread() is not threading.main_thread():
        yield clock
        return
    clock.previous = signal.getsignal(signal.SIGINT)
    try:
        if callable(clock.previous):
            signal.signal(signal.SIGINT, clock.interrupt)
        with _ticking(clock.tick, min(PATIENCE[0], limit) if limit else PATIENCE[1]):
            yield clock
    except _TooLongError:
        raise PluginError(
            f"it was not imported within {limit:g} seconds; if it only is slow, set DIFFCORE_PLUGIN_SECONDS to more"
        ) from None
    finally:
        if callable(clock.previous):
            signal.signal(signal.SIGINT, clock.previous)


@contextmanager
def _ticking(tick: Callable[..., None], seconds: float) -> Generator[None]:
    """Call `tick` again and again, first after so many seconds, where the system has timers."""
    if not hasattr(signal, "setitimer"):
        yield
        return
    handler = signal.signal(signal.SIGALRM, tick)
    timer = signal.setitimer(signal.ITIMER_REAL, seconds, 0.2)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, handler)
