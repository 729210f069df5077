"""What cannot be allocated is refused before it is asked for: numbers are counted first and compared with the memory there is."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from diffcore.declare.errors import SpecError
from diffcore.learning.files import amount
from diffcore.numerics.event import Event
from diffcore.run.spec import Spec

T = TypeVar("T")

NUMBER = 4
"""Bytes of a float32."""
AT_ONCE = 4
"""States of a batch that exist together at least: data, noise, the noised state, what the network answers."""
HELD = 2
"""Copies of all samples that exist together at least: as the network makes them, and in the range of the data."""
LEARNT = 5
"""Numbers that training keeps for each parameter: itself, its gradient, AdamW's two averages, and the running average."""
COUNTS = ("trainer.batch", "sampling.batch", "evaluation.batch", "sampling.n", "evaluation.n")
"""Numbers of samples in a spec: those at once on the device, and those that are kept."""
FACTORIES = (torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn)
"""What makes the parameters of modules, from a size."""
SMALL = 2**28
"""Bytes that are taken without asking."""
_IN_PLACE = re.compile(r"[a-z].*[a-z]_")
_LIMIT = Path("/sys/fs/cgroup/memory.max")


def memory(device: torch.device) -> int:
    """The bytes of memory that a device has in all (of a container, what it may use)."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    try:
        whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        limit = _LIMIT.read_text() if _LIMIT.exists() else ""
    except (AttributeError, ValueError, OSError):  # a system that does not say: nothing is refused for its size
        return 2**63
    return min(whole, int(limit)) if limit.strip().isdecimal() else whole


def check_groups(n: int, group: int) -> None:
    """Raise `SpecError` where n samples are not whole groups, saying how many would be."""
    if n % group:
        near = " or ".join(str(m) for m in (n - n % group, n - n % group + group) if m)
        raise SpecError(f"{n} samples, and {group} of this solver belong together: take whole groups, such as {near}")


def check(path: str, spec: Spec, event: Event, device: torch.device) -> None:
    """Raise `SpecError` where the number at a path of `COUNTS` asks for more than there is."""
    section, _, name = path.partition(".")
    count: int = getattr(getattr(spec, section), name)
    if name == "batch":
        require(count, event, device, AT_ONCE)
    else:
        require(count, event, torch.device("cpu"), HELD)


def require(count: int, event: Event, device: torch.device, copies: int = HELD) -> None:
    """Raise `SpecError` where so many samples do not fit into the memory of a device."""
    each, there = max(1, event.entries) * NUMBER * copies, memory(device)
    if count * each > there:
        raise SpecError(
            f"{count} samples of {event} take at least {amount(count * each)}, and {device} has {amount(there)}; "
            f"take at most {there // each}"
        )


def built(build: Callable[[], T], most: int, what: str) -> T:
    """What `build` makes, where its tensors take at most `most` bytes together. Raises `SpecError` where they take more.

    What is small is simply built. What is large is built once for its size alone, in memory that is asked for and never filled.
    """
    try:
        with _Counted(min(most, SMALL)):
            return build()
    except _TooLargeError:
        pass
    try:
        with _Counted(most, fill=False), suppress(ArithmeticError, RuntimeError, ValueError):  # of numbers that nobody wrote
            build()
    except _TooLargeError:
        raise SpecError(f"{what} takes more than the {amount(most)} that this machine has for it; make it smaller") from None
    return build()


class _TooLargeError(Exception):
    pass


class _Counted(TorchFunctionMode):
    """Counts what factories are asked for, and stops before they take more than `left` bytes together."""

    def __init__(self, left: int, *, fill: bool = True) -> None:
        super().__init__()
        self.left, self.fill = left, fill

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in FACTORIES:
            asked = kwargs.get("size", args[0] if len(args) == 1 and not isinstance(args[0], int) else args)
            self.left -= math.prod(asked) * (kwargs.get("dtype") or torch.get_default_dtype()).itemsize
            if self.left < 0:
                raise _TooLargeError
        filled = next(iter((*args, *kwargs.values())), None)
        if not self.fill and _IN_PLACE.fullmatch(func.__name__) and isinstance(filled, Tensor):
            return filled
        return func(*args, **kwargs)
