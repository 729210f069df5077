"""Everything global that training or output can feel: how each of it is read and put back. Loads no library.

What belongs to torch and numpy counts once they are imported. What a library sets for itself when it is imported, filters of
its own warnings and a few variables, is its own business and stays.
"""

from __future__ import annotations

import builtins
import gc
import locale
import operator
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

import attrs

UNKNOWN: Any = object()
"""What cannot be read."""
DRAWN = frozenset({"random numbers", "random numbers of numpy", "random numbers of torch"})
"""What an import may also change by drawing from it, which is no fault."""
OF_LIBRARIES = frozenset({"KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK", "RDBASE", "TORCHINDUCTOR_CACHE_DIR"})
"""Environment variables that libraries set for themselves."""


@attrs.frozen
class Keeper:
    """One global thing: its name, how it is read and put back, and what may stand after an import (before, after) -> value."""

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], Any]
    wanted: Callable[[Any, Any], Any] = lambda before, after: before

    def now(self) -> Any:
        """Its value, or `UNKNOWN`."""
        try:
            return self.read()
        except Exception:
            return UNKNOWN

    def restore(self, before: Any) -> str:
        """Put back what was read before; its name where anything had changed, and whether that could not be put back."""
        after = self.now()
        wanted = before if before is UNKNOWN or after is UNKNOWN else self.wanted(before, after)
        if before is UNKNOWN or (after is not UNKNOWN and _same(wanted, after)):
            return ""
        try:
            self.write(wanted)
        except Exception:
            return f"{self.name} (which cannot be put back)"
        return self.name


def _same(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except Exception:  # of what was put there
        return False


def of_python() -> Iterator[Keeper]:
    """What belongs to the interpreter, the process and the standard library."""
    for name, owner, names in _ATTRIBUTES:
        yield _attributes(name, owner, names)
    yield Keeper("warnings filters", lambda: list(warnings.filters), _put_filters, _wanted_filters)
    yield Keeper("environment variables", lambda: dict(os.environ), _put_environment, _wanted_environment)
    yield Keeper("sys.path", lambda: list(sys.path), lambda old: operator.setitem(sys.path, slice(None), old))
    yield Keeper("import system", lambda: (list(sys.meta_path), list(sys.path_hooks)), _put_finders, _wanted_finders)
    yield Keeper("sys.argv", lambda: list(sys.argv), lambda old: operator.setitem(sys.argv, slice(None), old))
    yield Keeper("modules", lambda: dict(sys.modules), sys.modules.update, lambda before, after: after | before)
    yield Keeper("functions of other modules", _functions, _put_functions, _wanted_functions)
    yield Keeper("builtins", lambda: dict(vars(builtins)), builtins.__dict__.update, lambda before, after: after | before)
    yield Keeper("working directory", os.getcwd, os.chdir)
    yield Keeper("umask", _umask, os.umask)
    yield Keeper("locale", lambda: locale.setlocale(locale.LC_ALL), lambda old: locale.setlocale(locale.LC_ALL, old))
    yield Keeper("signal handlers", _handlers, _put_handlers)
    if hasattr(signal, "pthread_sigmask"):
        yield Keeper("blocked signals", lambda: signal.pthread_sigmask(signal.SIG_BLOCK, ()), _block)
        yield Keeper("timers", lambda: [any(signal.getitimer(timer)) for timer in _TIMERS], _stop_timers)
    yield Keeper("recursion limit", sys.getrecursionlimit, sys.setrecursionlimit)
    yield Keeper("switch interval", sys.getswitchinterval, sys.setswitchinterval)
    yield Keeper("limit on digits", sys.get_int_max_str_digits, sys.set_int_max_str_digits)
    yield Keeper("trace function", sys.gettrace, sys.settrace)
    yield Keeper("profile function", sys.getprofile, sys.setprofile)
    yield Keeper("garbage collection", lambda: (gc.isenabled(), gc.get_threshold(), gc.get_debug(), [*gc.callbacks]), _put_gc)
    yield Keeper("random numbers", random.getstate, random.setstate)


_ABSENT: Any = object()
_ATTRIBUTES: tuple[tuple[str, Any, tuple[str, ...]], ...] = (
    ("lists of sys", sys, ("path", "meta_path", "path_hooks", "path_importer_cache", "modules", "argv")),
    ("environment variables", os, ("environ",)),
    ("standard streams", sys, ("stdin", "stdout", "stderr", "__stdin__", "__stdout__", "__stderr__")),
    ("hooks of sys", sys, ("excepthook", "displayhook", "unraisablehook", "breakpointhook", "exit", "tracebacklimit")),
    ("hook of threads", threading, ("excepthook",)),
    ("writing of bytecode", sys, ("dont_write_bytecode",)),
    ("display of warnings", warnings, ("showwarning", "formatwarning")),
)


def _attributes(name: str, owner: Any, names: tuple[str, ...]) -> Keeper:
    def put(values: list[Any]) -> None:
        for attribute, value in zip(names, values, strict=True):
            if value is not _ABSENT:
                setattr(owner, attribute, value)
            elif hasattr(owner, attribute):
                delattr(owner, attribute)

    return Keeper(name, lambda: [getattr(owner, attribute, _ABSENT) for attribute in names], put)


def _wanted_filters(before: list[Any], after: list[Any]) -> list[Any]:
    """New filters stay where they can meet only the warnings of the library that set them."""
    return [item for item in after if item not in before and _is_narrow(*item)] + before


def _is_narrow(action: str, message: Any, category: type, module: Any, line: int) -> bool:
    return action != "error" and bool(message or module or category.__module__ != "builtins")


def _put_filters(wanted: list[Any]) -> None:
    warnings.filters[:] = wanted  # pyright: ignore
    with warnings.catch_warnings():  # tells the module that they have changed
        pass


def _wanted_environment(before: dict[str, str], after: dict[str, str]) -> dict[str, str]:
    return before | {name: value for name, value in after.items() if name in OF_LIBRARIES}


def _put_environment(wanted: dict[str, str]) -> None:
    for name in os.environ.keys() - wanted.keys():
        del os.environ[name]
    os.environ.update(wanted)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _wanted_finders(before: tuple[list[Any], ...], after: tuple[list[Any], ...]) -> tuple[list[Any], ...]:
    """New finders stay, since what they have imported may need them; none may be missing."""
    whole = [[item for item in new if item in old or _finds(item)] for old, new in zip(before, after, strict=True)]
    pairs = zip(before, whole, strict=True)
    return tuple(new if all(item in new for item in old) else [*old, *(i for i in new if i not in old)] for old, new in pairs)


def _finds(finder: Any) -> bool:
    """Whether a new finder, or hook of a path, says of what is not there that it is not, and does not stand in the way."""
    try:
        finder.find_spec("no_such_module_of_diffcore", None) if hasattr(finder, "find_spec") else finder("")
    except ImportError:
        return True
    except Exception:
        return False
    return True


def _put_finders(wanted: tuple[list[Any], list[Any]]) -> None:
    sys.meta_path[:], sys.path_hooks[:] = wanted
    sys.path_importer_cache.clear()


_STANDS_ON = (
    *("attr", "attrs", "click", "diffcore", "importlib_metadata", "pluggy"),
    *("json", "logging", "os", "pathlib", "re", "shutil", "tempfile", "time", "traceback", "warnings"),
)
"""The packages by which commands read, write and load."""


def _functions() -> dict[str, dict[str, Any]]:
    return {name: dict(vars(module)) for name, module in sys.modules.items() if name.partition(".")[0] in _STANDS_ON}


def _wanted_functions(before: dict[str, dict[str, Any]], after: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What is new stays, and so do values; a function or class that was there is what it was."""
    old = {name: {key: value for key, value in names.items() if callable(value)} for name, names in before.items()}
    return after | {name: after.get(name, {}) | functions for name, functions in old.items()}


def _put_functions(wanted: dict[str, dict[str, Any]]) -> None:
    for name, functions in wanted.items():
        vars(sys.modules[name]).update(functions)


_SIGNALS = [
    getattr(signal, f"SIG{name}", None) for name in ("INT", "TERM", "HUP", "QUIT", "ALRM", "CHLD", "PIPE", "USR1", "USR2")
]


def _handlers() -> dict[Any, Any]:
    return {number: signal.getsignal(number) for number in _SIGNALS if number is not None}


def _put_handlers(before: dict[Any, Any]) -> None:
    for number, handler in before.items():
        if handler is not None and signal.getsignal(number) is not handler:
            signal.signal(number, handler)


def _put_gc(before: tuple[bool, tuple[int, int, int], int, list[Any]]) -> None:
    gc.set_threshold(*before[1])
    gc.set_debug(before[2])
    gc.callbacks[:] = before[3]
    (gc.enable if before[0] else gc.disable)()


def _block(before: set[int]) -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


_TIMERS = [getattr(signal, name) for name in ("ITIMER_VIRTUAL", "ITIMER_PROF") if hasattr(signal, name)]
"""ITIMER_REAL is that of the limit."""


def _stop_timers(before: list[bool]) -> None:
    for timer, ran in zip(_TIMERS, before, strict=True):
        if not ran:
            signal.setitimer(timer, 0)


def of_logging() -> Iterator[Keeper]:
    """Where messages go and which."""
    logging: Any = sys.modules["logging"]

    def put(handlers: list[Any]) -> None:
        logging.root.handlers[:] = handlers

    yield Keeper("handlers of the root logger", lambda: list(logging.root.handlers), put)
    yield _attributes("level of the root logger", logging.root, ("level", "disabled"))
    yield _attributes("logging", logging.root.manager, ("disable", "loggerClass", "logRecordFactory"))


@contextmanager
def plain_defaults() -> Generator[None]:
    """torch's own default dtype and device (float32, CPU), whatever somebody has set."""
    import torch

    dtype = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float32)
        with torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(dtype)


def of_numpy() -> Iterator[Keeper]:
    """What belongs to numpy: how it treats overflow and the like."""
    numpy: Any = sys.modules["numpy"]
    yield Keeper("error handling of numpy", numpy.geterr, lambda old: numpy.seterr(**old))


def of_numpy_random() -> Iterator[Keeper]:
    """The global random state of numpy."""
    numpy: Any = sys.modules["numpy"]

    def read() -> tuple[Any, ...]:
        name, keys, *rest = numpy.random.get_state()
        return name, keys.tobytes(), *rest

    def put(old: tuple[Any, ...]) -> None:
        numpy.random.set_state((old[0], numpy.frombuffer(old[1], numpy.uint32), *old[2:]))

    yield Keeper("random numbers of numpy", read, put)


def of_torch() -> Iterator[Keeper]:
    """What belongs to torch: dtype, device, threads, gradients, determinism, precision, backends, random numbers."""
    torch: Any = sys.modules["torch"]
    cpu = torch.device("cpu")
    yield Keeper("default dtype", torch.get_default_dtype, torch.set_default_dtype)
    yield Keeper("default device", torch.get_default_device, lambda old: torch.set_default_device(None if old == cpu else old))
    yield Keeper("threads of torch", torch.get_num_threads, torch.set_num_threads)
    yield Keeper("interop threads of torch", torch.get_num_interop_threads, torch.set_num_interop_threads)
    yield Keeper("grad mode", torch.is_grad_enabled, torch.set_grad_enabled)
    yield Keeper("deterministic algorithms", torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode)
    yield Keeper("precision of float32 products", torch.get_float32_matmul_precision, torch.set_float32_matmul_precision)
    yield Keeper(
        "anomaly detection",
        lambda: (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
        lambda old: torch.autograd.set_detect_anomaly(*old),
    )
    yield Keeper("repetition of warnings", torch.is_warn_always_enabled, torch.set_warn_always)
    yield Keeper("denormal numbers", _flushes_denormal, torch.set_flush_denormal)
    for device in ("cpu", "cuda"):
        yield Keeper(
            f"autocast on {device}",
            lambda d=device: torch.is_autocast_enabled(d),
            lambda old, d=device: torch.set_autocast_enabled(d, old),
        )
    yield from _of_backends(torch)
    yield Keeper("random numbers of torch", lambda: torch.get_rng_state().numpy().tobytes(), _put_torch_state)


def _put_torch_state(old: bytes) -> None:
    torch: Any = sys.modules["torch"]
    torch.set_rng_state(torch.frombuffer(bytearray(old), dtype=torch.uint8))


def _flushes_denormal() -> bool:
    torch: Any = sys.modules["torch"]
    return bool((torch.full((1,), 1e-310, dtype=torch.float64, device="cpu") * 1.0 == 0).item())


def _of_backends(torch: Any) -> Iterator[Keeper]:
    backends = torch.backends
    yield _attributes("cudnn", backends.cudnn, ("enabled", "benchmark", "deterministic", "allow_tf32"))
    names = ("allow_tf32", "allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction")
    yield _attributes("CUDA products", backends.cuda.matmul, names)
    yield _attributes("mkldnn", backends.mkldnn, ("enabled", "deterministic"))
    yield _attributes("memory filled by torch", torch.utils.deterministic, ("fill_uninitialized_memory",))
    for kernel in ("flash", "mem_efficient", "math", "cudnn"):
        read, write = (getattr(backends.cuda, name) for name in (f"{kernel}_sdp_enabled", f"enable_{kernel}_sdp"))
        yield Keeper(f"{kernel} attention", read, write)


LIBRARIES: dict[str, Callable[[], Iterator[Keeper]]] = {
    "logging": of_logging,
    "torch": of_torch,
    "numpy": of_numpy,
    "numpy.random": of_numpy_random,
}
"""Library -> its keepers, once it is imported."""
