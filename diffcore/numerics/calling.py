"""Calling a network that is somebody else's.

Nothing of ours is shared with it for writing, nothing that it returns is kept where it may write to it again, and what it
returns is checked. At first it is handed copies, and its first outputs are copied. That goes on with one that writes to its
input or returns it, writes to what it returned before, or returns memory of it again (one buffer, or several in turn). Of all
others only the version counters of their inputs are looked at.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor

from diffcore.declare.errors import DataError, NumericsError
from diffcore.numerics.kept import PLANS
from diffcore.numerics.process import Process
from diffcore.numerics.readings import Reading
from diffcore.numerics.tree import State, leaves, pytree, tree_map

EARLY = 6
"""Outputs of a network that are kept to be compared with the next: more than solvers look back."""
HARMLESS: WeakSet[Any] = WeakSet()
"""Modules that were seen to write to nothing of ours: another denoiser of one need not look again."""
Net = Callable[..., Any]
Cond = Mapping[str, Any]


class Caller:
    """Calls `net(x, t, **cond)` and returns its output in the precision of the state.

    careful: whether the network is handed copies and its output is copied; None before its first call.
    """

    def __init__(self, net: Net, process: Process, reading: Reading) -> None:
        self.net, self.process, self.reading, self.prediction = net, process, reading, reading.prediction
        self._whole = reading.output == ""
        self.careful: bool | None = None
        self._early: list[tuple[Tensor, int]] | None = []  # the first outputs and their versions; None once EARLY are known
        if isinstance(net, nn.Module) and net in HARMLESS:
            self.careful, self._early = False, None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "careful": self.careful or None, "_early": []}

    def __call__(self, x: State, fed: State, time: Tensor, cond: Cond, at: Any) -> State:
        """Call the network once. fed: x as the network takes it, which may be x itself; at: the time, for messages.

        Raises `DataError` for an output that cannot be read, `NumericsError` for a first one that is not finite.
        """
        if self.careful is not False:
            return self._with_copies(x, fed, time, cond, at)
        if cond or self._early is not None or fed.__class__ is not Tensor or fed.is_inference() or time.is_inference():
            return self._watched(x, fed, time, cond, at)
        mark, clock = fed._version, time._version
        out = self._run(fed, time, cond)
        if fed._version != mark or time._version != clock:
            self._refuse("t" if time._version != clock else "x")
        plain = self._whole and out.__class__ is Tensor and out.dtype == x.dtype and out.shape == x.shape and out is not fed
        return out if plain else self._read(x, out, fed)

    def traced(self, x: State, fed: State, time: Tensor, cond: Cond) -> State:
        """The call within a graph that is compiled: a copy leaves nothing there where nobody writes."""
        out = self.reading.part(self.net(_copied(fed), _copied(time), **_copied(cond)))
        return _copied(in_precision(leaves(x)[0].dtype, out))

    def _with_copies(self, x: State, fed: State, time: Tensor, cond: Cond, at: Any) -> State:
        """A call of a network that writes where it should not, or is not known yet: then it is looked at."""
        given, handed = (time, fed, cond), (_copied(time), _copied(fed), _copied(cond))
        out = self.read(x, self._run(handed[1], handed[0], handed[2]))
        if self.careful is None and ordinary((x, handed, out)):
            if not torch.equal(time, handed[0]):
                self._refuse("t")
            self._finite(x, out, at)
            self.careful = _wrote(given, handed) or bool(_places(out) & _places(handed))
            return self._compared(out)
        return _copied(out)

    def _watched(self, x: State, fed: State, time: Tensor, cond: Cond, at: Any) -> State:
        """A call of a network that did not write in its first one, with more than two tensors to look after."""
        handed = [time, *leaves(fed), *(v for tree in cond.values() for v in _tensors(tree))]
        if any(map(Tensor.is_inference, handed)):  # such tensors count no versions
            return self._with_copies(x, fed, time, cond, at)
        marks = [v._version for v in handed]
        out = self._run(fed, time, cond)
        if [v._version for v in handed] != marks:
            names = ["t", *("x" for _ in leaves(fed)), *(name for name, tree in cond.items() for _ in _tensors(tree))]
            self._refuse(next(name for name, v, mark in zip(names, handed, marks, strict=True) if v._version != mark))
        out = self._read(x, out, fed)
        return out if self._early is None else self._compared(out)

    def _compared(self, out: State) -> State:
        """A copy of an early output: whether it is memory of an earlier one, or one of these was written to since."""
        early = self._early or []
        if ordinary(out):
            before = [v for v, _ in early]
            written = any(_version(kept) != mark for kept, mark in early)
            self.careful = self.careful or written or bool(_places(before) & _places(out))
            early += [(kept, _version(kept)) for kept in map(Tensor.detach, leaves(out))]
            self._early = None if self.careful or len(early) >= EARLY * len(leaves(out)) else early
            if self._early is None and not self.careful and isinstance(self.net, nn.Module):
                HARMLESS.add(self.net)
        return _copied(out)

    def _run(self, fed: State, time: Tensor, cond: Cond) -> Any:
        """The bare call. Raises `DataError` for a signature or a precision that does not fit, in place of Python's own words."""
        try:
            return self.net(fed, time, **cond)
        except TypeError:
            self._check_signature(fed, time, cond)
            raise
        except RuntimeError as error:
            self._check_precision(error, fed, time)
            raise

    def _check_signature(self, fed: State, time: Tensor, cond: Cond) -> None:
        try:
            inspect.signature(self.net.forward if isinstance(self.net, nn.Module) else self.net).bind(fed, time, **cond)
        except TypeError as found:
            names = ", ".join(["x", "t", *cond])
            raise DataError(f"{self._who} is called as net({names}), and cannot be: {found}; give it these arguments") from found
        except ValueError:  # no signature to be read
            pass

    def _check_precision(self, error: RuntimeError, fed: State, time: Tensor) -> None:
        own = {p.dtype for p in self.net.parameters()} if isinstance(self.net, nn.Module) else set[torch.dtype]()
        kinds = {leaf.dtype for leaf in leaves(fed)} | {time.dtype}
        if "type" in str(error) and own and own != kinds:
            raise DataError(
                f"{self._who} has parameters of {_names(own)}, was given x and t of {_names(kinds)}, and mixes them: "
                f"{str(error).splitlines()[0]}; cast within its forward, such as `t.to(self.layer.weight.dtype)`"
            ) from error

    def _refuse(self, name: str) -> None:
        """What was written to is lost: the state or a condition of the caller, or the times of a plan."""
        PLANS.clear()
        if name in ("t", "s"):
            raise DataError("the network changed its time input in place; write `t = 1000 * t`, not `t *= 1000`")
        raise DataError(
            f"{self._who} changed its input '{name}' in place, which it did not do in its first call; "
            f"let it work on a copy: `{name} = {name}.clone()`"
        )

    def _read(self, x: State, out: Any, fed: State) -> State:
        """The output in the precision of the state; a copy where it is the state itself."""
        out = self.read(x, out)
        return _copied(out) if out is fed else out

    def read(self, x: State, out: Any) -> State:
        """What the network returned, in the precision of the state. Raises `DataError` for what cannot be read."""
        out = self.reading.part(out)
        if (x.__class__ is Tensor and not isinstance(out, Tensor)) or not all(isinstance(v, Tensor) for v in _values(out)):
            raise DataError(f"{self._who} returned {_described(out)}; it must return {_wanted(x)}, '{self.prediction}' of x")
        odd = next((v.dtype for v in leaves(out) if not v.is_floating_point()), None)
        if odd is not None:
            raise DataError(f"{self._who} returned {_name(odd)}; '{self.prediction}' is real numbers, such as torch.float32")
        self.process.check_output(x, out, self.prediction)
        return in_precision(leaves(x)[0].dtype, out)

    def _finite(self, x: State, out: State, at: Any) -> None:
        """Refuse a first output that has no finite sample; single ones are found, with their step, at the end of a run."""
        if not all(v.ndim for v in leaves(out)) or _finite_rows(out) or not _finite_rows(x):
            return
        times = torch.as_tensor(at.t).flatten()
        raise NumericsError(
            f"{self._who} returned NaN or Inf for every sample at its first call, at t = {float(times[0]):.6g}, where the state "
            f"is finite; look at its weights, or for a division or a logarithm at this time"
        )

    @property
    def _who(self) -> str:
        name = getattr(self.net, "__name__", None) or type(self.net).__name__
        return f"the network {name.strip('<>')}"


def in_precision(dtype: torch.dtype, x: State) -> State:
    """Floating leaves in a precision; nothing is copied where they are in it already."""
    if x.__class__ is Tensor:
        return x if x.dtype == dtype or not (dtype.is_floating_point and x.is_floating_point()) else x.to(dtype)
    return tree_map(lambda leaf: leaf.to(dtype) if dtype.is_floating_point and leaf.is_floating_point() else leaf, x)


def _copied(x: Any) -> Any:
    if isinstance(x, Tensor):
        return x.clone()
    return pytree.tree_map_only(Tensor, torch.clone, x) if x else x


def _values(tree: Any) -> list[Any]:
    return [tree] if tree.__class__ is Tensor else pytree.tree_leaves(tree)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in _values(tree) if isinstance(leaf, Tensor)]


def _wrote(given: Any, handed: Any) -> bool:
    """Whether the copies of what was given were written to, as their versions or their values tell."""
    copies = _tensors(handed)
    return any(v._version for v in copies if not v.is_inference()) or not all(map(torch.equal, _tensors(given), copies))


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _places(tree: Any) -> set[int]:
    """Where the tensors of a tree lie."""
    return {v.untyped_storage().data_ptr() for v in _tensors(tree)} - {0}


def ordinary(tree: Any) -> bool:
    """Whether values can be looked at: not within a transform of functions, nor where a CUDA graph is captured."""
    found = _tensors(tree)
    capturing = found[0].is_cuda and torch.cuda.is_current_stream_capturing()
    return (
        not capturing
        and all(isinstance(v, nn.Parameter) or v.__class__ is Tensor for v in found)
        and not any(map(is_functorch_wrapped_tensor, found))
    )


def _finite_rows(x: State) -> bool:
    """Whether any sample is without NaN and +Inf; a category is ruled out by -Inf."""
    if all(math.isfinite(v.detach().sum().item()) for v in leaves(x)):  # the usual case, in one pass
        return True
    return all(bool((~(v.isnan() | (v == torch.inf)).reshape(len(v), -1).any(1)).any()) for v in leaves(x))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _names(dtypes: set[torch.dtype]) -> str:
    return " and ".join(sorted(map(_name, dtypes)))


def _described(out: Any) -> str:
    if out is None:
        return "None (is a `return` missing?)"
    if isinstance(out, Mapping):
        return f"a {type(out).__name__} of {', '.join(map(repr, list(out)[:4]))}"  # pyright: ignore[reportUnknownArgumentType]
    return f"a {type(out).__name__}" + (f" of {len(out)}" if isinstance(out, (tuple, list)) else "")  # pyright: ignore[reportUnknownArgumentType]


def _wanted(x: State) -> str:
    return "one tensor" if isinstance(x, Tensor) else "tensors in the same tree as the state"
