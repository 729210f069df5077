"""Importing what others wrote, without the rest of the process feeling it: state is put back, no way out, a limit on the time.

    with contained("plugin my-plugin", limit=20.0) as found:
        module = importlib.import_module("my_plugin")
    print(found.changed)    # ["default dtype", "signal handlers"]

Within, standard input is empty, what is printed goes to standard error, threads that are started do not keep the process
alive, and ending the process is an error. What is raised there and is no ordinary exception comes out as `PluginError`, but for a
Ctrl-C of the user. What is left for the end of the process is contained there. A child that is forked within ends with it. The
limit holds in the main thread, where the system has timers.
"""

from __future__ import annotations

import _thread
import atexit
import importlib.abc
import importlib.util
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import Any

import attrs

from diffcore.declare.errors import PluginError, said
from diffcore.declare.state import LIBRARIES, Keeper, of_python
from diffcore.declare.streams import elsewhere

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
        with elsewhere(who), _ends(who), _clock(who, limit) as clock, _kept(found, clock), _alone():
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
    with suppress(Exception):  # a version of the library that has not all of it, or something else of its name
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
        self.finders = sys.meta_path
        self.finders.insert(0, self)

    def __exit__(self, *_: object) -> None:
        with suppress(ValueError):
            self.finders.remove(self)

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


# --- ways out -------------------------------------------------------------------------------------------------------------


@contextmanager
def _ends(who: str) -> Generator[None]:
    """Ending the process is an error within; a thread that is started there does not keep it alive."""
    places = [(owner, name) for owner, names in _WAYS_OUT for name in names if hasattr(owner, name)]
    old = [getattr(*place) for place in places]

    def refusing(owner: Any, name: str, end: Callable[..., Any]) -> Callable[..., Any]:
        def refuse(*arguments: Any, **named: Any) -> Any:
            if os.getpid() not in _WITHIN or (name == "kill" and (arguments[0] not in (*_WITHIN, 0) or not arguments[1])):
                return end(*arguments, **named)
            raise PluginError(f"it called {owner.__name__}.{name}, which ends the process")

        return refuse

    def at_end(call: Callable[..., Any], /, *arguments: Any, **named: Any) -> Any:
        atexit_register(_AtEnd(who, call) if _WITHIN else call, *arguments, **named)
        return call

    atexit_register = atexit.register
    _WITHIN.append(os.getpid())
    try:
        atexit.register = at_end
        for (owner, name), end in zip(places, old, strict=True):
            setattr(owner, name, _start_daemon(end) if name == "start" else refusing(owner, name, end))
        yield
    finally:
        _WITHIN.pop()
        atexit.register = atexit_register
        for (owner, name), end in zip(places, old, strict=True):
            setattr(owner, name, end)


_WAYS_OUT: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (os, ("_exit", "abort", "execv", "execve", "kill")),
    (signal, ("raise_signal",)),
    (_thread, ("interrupt_main",)),
    (threading.Thread, ("start",)),
)
_EXIT = os._exit
_WITHIN: list[int] = []
"""The process, once for each that is contained now, one in the other: whoever has kept a way out of then is refused it now."""


@contextmanager
def _alone() -> Generator[None]:
    """A forked child does not get beyond this, lest there are two who go on."""
    process = os.getpid()
    try:
        yield
    finally:
        if os.getpid() != process:
            _EXIT(0)


@attrs.frozen(eq=False)
class _AtEnd:
    """What somebody leaves for the end of the process: it can neither write into the output nor set the exit code."""

    who: str
    call: Callable[..., Any]

    def __call__(self, *arguments: Any, **named: Any) -> None:
        with elsewhere(self.who), _ends(self.who):
            try:
                self.call(*arguments, **named)
            except BaseException as error:
                sys.stderr.write(f"{self.who}, at the end of the process: {said(error)}\n")

    def __eq__(self, other: object) -> bool:
        """Equal to the call itself, by which `atexit.unregister` finds it."""
        return other is self or other == self.call


def _start_daemon(start: Callable[[threading.Thread], None]) -> Callable[[threading.Thread], None]:
    def start_daemon(thread: threading.Thread) -> None:
        with suppress(RuntimeError):  # it has been started before, which `start` says
            thread.daemon = True
        start(thread)

    return start_daemon


# --- time and interrupts --------------------------------------------------------------------------------------------------


def _clocked() -> float:
    """Seconds that count towards the limit: on a busy machine, waiting for a processor does not."""
    return time.monotonic() - _held_up()


def _held_up() -> float:
    """Seconds for which this thread could run and others did, where the system tells them."""
    try:
        with open("/proc/thread-self/schedstat", encoding="ascii") as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


class _TooLongError(BaseException):
    """Raised where the limit is reached; no `except Exception` stops it."""


class _Clock:
    """Says what is waited for, ends it at the limit, and knows a Ctrl-C of the user from a KeyboardInterrupt of the plugin."""

    def __init__(self, who: str, limit: float | None) -> None:
        self.who, self.limit, self.start = who, limit, _clocked()
        self.told = self.interrupted = self.stands = False
        self.previous: Any = None

    def tick(self, *_: object) -> None:
        """What the timer calls, from time to time."""
        passed = _clocked() - self.start
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
        start, before = _clocked(), self.stands
        self.stands = True
        try:
            yield
        finally:
            self.stands = before
            self.start += 0.0 if before else _clocked() - start

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
