"""The denoiser (a network read through its process) and the field (the guided denoiser: all that a solver sees)."""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling
from torch.nn.attention import SDPBackend, sdpa_kernel

from diffcore.declare.errors import DataError, IncompatibleError
from diffcore.numerics import meter
from diffcore.numerics.affine import Coeffs
from diffcore.numerics.arguments import real, shown
from diffcore.numerics.calling import Caller, Net, in_precision
from diffcore.numerics.kept import Kept
from diffcore.numerics.process import AffineProcess, Process
from diffcore.numerics.readings import Reading, check_parts, check_reading, reading_of
from diffcore.numerics.tree import State, batch_size, leaves, tree_map

if TYPE_CHECKING:
    from diffcore.numerics.flow_map import FlowMap
    from diffcore.numerics.guidance import Guidance


class Denoiser:
    """A network (or plain function) `net(x, t, **cond)` read as a posterior of x_0 given x_t.

    reading: what the network returns, x0, eps, score, v, velocity, edm, or another name that the process reads, of the shape of
    x, or an object that has it as `sample`; a `dc.Reading` also says which time it is told, how its input is scaled and which
    part of its output counts. That of the attribute `net.reading` where a pipeline made the network.
    net: called with t of shape (B,) (or of the shape of a per-pixel time), which it must not change in place, and with x in the
    precision of its parameters; its output returns to that of the state. t has the precision of the parameters as well.
    Another time, such as an index, is never in half precision, which cannot tell 999 from 1000: the network casts it.
    null: condition name -> value that stands for "no condition", without a batch axis; default: the network's `null_cond`.
    parts: the modules of the pipeline by role, for losses with more players than the network (see `Loss.parts`).

    Raises `IncompatibleError` where the process cannot read the prediction, where none is named, and where the network was
    made to be read in another way.
    """

    def __init__(
        self,
        net: Net,
        reading: str | Reading | None = None,
        process: Process | None = None,
        *,
        null: Mapping[str, Any] | None = None,
        parts: Mapping[str, nn.Module] | None = None,
    ) -> None:
        check_parts(net, process, null, parts)
        assert process is not None
        self.reading = reading_of(net, process, reading)
        self.prediction, self.sigma_data = self.reading.prediction, self.reading.sigma_data
        check_reading(process, self.reading)
        self.net, self.process = net, process
        self.null: Mapping[str, Any] = getattr(net, "null_cond", {}) if null is None else null
        self.parts: Mapping[str, nn.Module] = parts or {}
        self.base, self._call = self, Caller(net, process, self.reading)
        self.kept = Kept(32)

    def with_net(self, net: Net) -> Denoiser:
        """Another network read in the same way: a teacher, a fake score, an average."""
        return Denoiser(net, self.reading, self.process, null=self.null, parts=self.parts)

    def __call__(self, x: State, t: Any, **cond: Any) -> Any:
        """The posterior of x_0 given x_t = x. t: `Coeffs`, a float, or a tensor that broadcasts from the left against x."""
        at = t if isinstance(t, tuple) else self.point(t, x)
        if cond and any(value is None or isinstance(value, (int, float)) for value in cond.values()):
            cond = {key: self._filled(key, value, x) for key, value in cond.items()}
        return self.process.posterior(x, self.network(x, at, **cond), at, self.reading)

    def many(self, x: State, t: Any, conds: Sequence[Mapping[str, Any]]) -> list[Any]:
        """The posteriors under several conditions, in one call of the network on a batch that many times as large."""
        at, count, size = self.point(t, x), len(conds), batch_size(x)
        merged = {key: torch.cat([self._filled(key, c.get(key), x) for c in conds]) for key in _keys(conds)}
        wide = at.map(lambda v: v if v.ndim == 0 else torch.cat([v.expand(size, *v.shape[1:])] * count))
        out = self.network(tree_map(lambda leaf: torch.cat([leaf] * count), x), wide, **merged)
        parts = [tree_map(lambda leaf, i=i: leaf[i * size : (i + 1) * size], out) for i in range(count)]
        return [self.process.posterior(x, part, at, self.reading) for part in parts]

    def _filled(self, key: str, value: Any, x: State) -> Tensor:
        """A condition as a tensor with one row per sample: the null value in every row where it is None."""
        leaf = leaves(x)[0]
        if value is None and key not in self.null:
            raise DataError(f"condition '{key}' is missing and the network has no null value for it; pass null={{'{key}': ...}}")
        tensor = torch.as_tensor(self.null[key] if value is None else value, device=leaf.device)
        return tensor.expand(leaf.shape[0], *tensor.shape) if value is None or tensor.ndim == 0 else tensor

    def network(self, x: State, at: Any, s: Any = None, **cond: Any) -> State:
        """Call the network once, with its input and its time as it reads them.

        s: the second time (a point like `at`) of networks that have one.
        """
        time = self.time(at.t, x) if at.time is None else at.time
        own = None if self._sample is None else self._sample.dtype
        if cond and own is not None:
            cond = {name: in_precision(own, v) if isinstance(v, Tensor) else v for name, v in cond.items()}
        if s is not None:
            cond["s"] = self.time(s.t, x) if s.time is None else s.time
        fed = self.reading.feed(self.process, x, at)
        fed = fed if own is None else in_precision(own, fed)
        if is_compiling():
            return self._call.traced(x, fed, time, cond)
        meter.count(x, at)
        return self._call(x, fed, time, cond, at)

    @property
    def precision(self) -> torch.dtype | None:
        """The precision of the network's parameters; None where there are none, or several."""
        return None if self._sample is None else self._sample.dtype

    @cached_property
    def _sample(self) -> Tensor | None:
        return _parameter(self.net)

    def clock(self, x: State) -> Hashable:
        """What the time input depends on beside process and times: equal for denoisers that share a plan."""
        return type(self), self.reading.time, self._time_type(leaves(x)[0].dtype)

    def _time_type(self, state: torch.dtype) -> torch.dtype:
        """That of the parameters; no less than float32 where the network is told another time than t, such as an index."""
        fine = torch.float64 if state == torch.float64 else torch.float32
        own = fine if self.precision is None else self.precision
        return fine if self.reading.time != "t" and torch.finfo(own).bits < 32 else own

    def time(self, t: Any, x: State) -> Tensor:
        """The network's time input at times t: (B,) or the shape of t, on the device of x, its own memory."""
        leaf = leaves(x)[0]
        exact = leaf.dtype == torch.float64 or self.reading.time not in ("t", "feature")
        fine = torch.as_tensor(t, dtype=torch.float64 if exact else torch.float32, device=leaf.device)
        fine = self.reading.clock(self.process, fine)
        kind = self._time_type(leaf.dtype)
        fine = fine if fine.dtype == kind else fine.to(kind)
        return fine.expand(leaf.shape[0]).contiguous() if fine.ndim == 0 else fine

    def point(self, t: Any, x: State) -> Any:
        """t as `Coeffs` (or `Instant`): computed in float64, then floats for a number and the dtype of x for a tensor."""
        if isinstance(t, tuple):
            return t
        if not leaves(x) or not all(isinstance(leaf, Tensor) and leaf.ndim for leaf in leaves(x)):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise DataError(f"the state must be a tensor (B, ...), or a tree of such; got {shown(x)}")
        t = t if isinstance(t, Tensor) else real("the time", t)
        if isinstance(t, Tensor) and t.ndim > 0:
            leaf = leaves(x)[0]
            return self.process.coeffs(t.double()).cast(leaf.dtype if leaf.is_floating_point() else torch.float32)
        return self.process.coeffs(torch.as_tensor(t, dtype=torch.float64)).map(number)


def number(value: Tensor) -> Any:
    """A 0-d tensor as a Python number; as it is where a gradient is to reach it (learned schedules)."""
    return value if value.requires_grad and torch.is_grad_enabled() else value.item()


@contextmanager
def second_derivatives() -> Generator[None]:
    """Gradients are on, and networks called within can be differentiated twice.

    Attention is computed as it is written, because the fused kernel of torch for the CPU has no second derivative. For losses
    and metrics that differentiate a network with respect to its input and then again.
    """
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        yield


def _parameter(net: Any) -> Tensor | None:
    """A parameter that has the one precision of all parameters of a module; None where there are none or several."""
    found = [p for p in net.parameters() if p.is_floating_point()] if isinstance(net, nn.Module) else list[Tensor]()
    return found[0] if len({p.dtype for p in found}) == 1 else None


class Guided:
    """A denoiser wrapped by a guidance; itself a denoiser.

    grad: the guidance differentiates through the network. Gradients are on within it, and what it returns is detached where
    they are off outside, so that no history grows along a run.
    """

    def __init__(self, inner: Any, guide: Callable[..., Any], grad: bool = False) -> None:
        self.inner, self.guide, self.grad = inner, guide, grad
        self.process, self.base = inner.process, getattr(inner, "base", inner)
        self.null: Mapping[str, Any] = getattr(inner, "null", {})

    def __call__(self, x: State, t: Any, **cond: Any) -> Any:
        """The guided posterior of x_0 given x_t = x."""
        if not self.grad or torch.is_grad_enabled():
            return self.guide(self.inner, x, t, **cond)
        with torch.enable_grad():
            found = self.guide(self.inner, x, t, **cond)
        return found.detach()

    def many(self, x: State, t: Any, conds: Sequence[Mapping[str, Any]]) -> list[Any]:
        """One call after the other: the wrapping guidance may need each on its own."""
        return [self(x, t, **cond) for cond in conds]


class Field:
    """The (guided) denoiser read through the process: everything a solver may ask.

    guidance is applied in list order, the first innermost. cond are the conditions passed to the network, each a tensor with
    one row per sample. flow_map, where given, adds the capability "flow_map" (`jump`).

    Raises `IncompatibleError` for what is no denoiser, and where a guidance needs what there is not.
    """

    def __init__(
        self,
        denoiser: Any,
        guidance: Iterable[Guidance] = (),
        *,
        cond: Mapping[str, Any] | None = None,
        flow_map: FlowMap | None = None,
    ) -> None:
        process = getattr(denoiser, "process", None)
        if process is None:
            wanted = "a denoiser, which knows its process: Field(Denoiser(net, prediction, process))"
            raise IncompatibleError(f"Field needs {wanted}; got {shown(denoiser)}")
        _check_field(guidance, cond, flow_map)
        self.process, self.guidance = process, tuple(guidance)
        self.base: Any = getattr(denoiser, "base", denoiser)
        self.cond, self.flow_map = dict(cond or {}), flow_map
        for part in self.guidance:
            missing = part.requires - self.provides
            if missing:
                raise IncompatibleError(_lacks(f"guidance {type(part).__name__}", missing, self))
            denoiser = part.denoiser(denoiser)
        self.denoiser = denoiser
        self._direct = _direct(denoiser, process)

    @property
    def provides(self) -> frozenset[str]:
        """The capabilities of the process, and "flow_map" where there is one."""
        return self.process.provides | (frozenset({"flow_map"}) if self.flow_map is not None else frozenset())

    def bound(self, cond: Mapping[str, Any]) -> Field:
        """This field under other conditions; the network is the same."""
        _check_field((), cond, None)
        other = object.__new__(Field)
        other.__dict__.update(self.__dict__)
        other.cond = dict(cond)
        return other

    def watching(self) -> Watched:
        """A view of this field that keeps the first posterior it is asked for, in `first`."""
        other = object.__new__(Watched)
        other.__dict__.update(self.__dict__)
        other._direct, other.first = "", None
        return other

    def check(self, part: Any) -> None:
        """Raise `IncompatibleError` naming both sides where `part` requires what this field does not provide."""
        missing = part.requires - self.provides
        if missing:
            raise IncompatibleError(_lacks(f"{part.kind} {type(part).__name__}", missing, self))
        if "flow_map" in part.requires and self.denoiser is not self.base:
            names = ", ".join(type(g).__name__ for g in self.guidance)
            raise IncompatibleError(
                f"{part.kind} {type(part).__name__} jumps by the flow map, which guidance ({names}) cannot change; leave the "
                f"guidance out, or train the flow map on guided targets"
            )

    def steps(self, solver: Any) -> Any:
        """The solver as the guidances wrap it, the first innermost."""
        for part in self.guidance:
            solver = part.solver(solver)
        return solver

    def posterior(self, x: State, t: Any) -> Any:
        """The guided posterior of x_0 given x_t = x."""
        found = self.denoiser(x, t, **self.cond)
        if not is_compiling():
            meter.seen(found)
        return found

    def velocity(self, x: State, t: Any) -> State:
        """dx/dt of the probability-flow ODE at (x, t)."""
        if self._direct == "velocity" and t.__class__ is Coeffs and not meter.watched():
            return self.base.network(x, t, **self.cond)
        posterior = self.posterior(x, t)
        return self.process.velocity(x, t if isinstance(t, tuple) else posterior.at, posterior)

    def reverse(self, x: State, t: Any, s: Any, z: State) -> State:
        """One ancestral step from t to s with the noise z."""
        return self.process.reverse(x, t, s, self.posterior(x, t), z)

    def retract(self, x: State, v: State) -> State:
        """x moved by the tangent vector v."""
        return self.process.retract(x, v)

    def jump(self, x: State, t: Any, s: Any) -> State:
        """x_s from x_t by the flow map."""
        if self.flow_map is None:
            raise IncompatibleError(f"a jump needs 'flow_map', and this field of {type(self.process).__name__} has none")
        return self.flow_map.map(self.base, x, t, s, **self.cond)


class Watched(Field):
    """A field that keeps in `first` the first posterior it is asked for; None until then, and after a jump alone."""

    first: Any

    def posterior(self, x: State, t: Any) -> Any:
        """That of the field."""
        found = super().posterior(x, t)
        if self.first is None:
            self.first = found
        return found


def _check_field(guidance: Any, cond: Any, flow_map: Any) -> None:
    if hasattr(guidance, "guide"):
        raise IncompatibleError(f"guidance must be a list: guidance=[{type(guidance).__name__}(...)]")
    listed = isinstance(guidance, (tuple, list))
    odd = [each for each in guidance if not hasattr(each, "guide")] if listed else [guidance]  # pyright: ignore[reportUnknownVariableType]
    if odd:
        raise IncompatibleError(f"guidance is a list, such as [registry.make('guidance', 'cfg')]; got {shown(odd[0])}")
    if not isinstance(cond, Mapping | None):
        raise IncompatibleError(f"cond maps conditions to one row per sample, such as {{'label': tensor}}; got {shown(cond)}")
    if flow_map is not None and not hasattr(flow_map, "map"):
        raise IncompatibleError(f"flow_map must be a flow map, such as registry.make('flow_map', ...); got {shown(flow_map)}")


def _direct(denoiser: Any, process: Process) -> str:
    """The target that the network gives as it is: its prediction, where neither guidance nor process changes the reading."""
    plain = type(denoiser) is Denoiser and isinstance(process, AffineProcess)
    own = type(process).velocity is AffineProcess.velocity and type(process).posterior is AffineProcess.posterior
    return denoiser.prediction if plain and own else ""


def _lacks(who: str, missing: frozenset[str], field: Field) -> str:
    need = ", ".join(f"'{m}'" for m in sorted(missing))
    have = ", ".join(f"'{p}'" for p in sorted(field.provides)) or "nothing"
    return f"{who} needs {need}; process {type(field.process).__name__} provides {have}"


def _keys(conds: Sequence[Mapping[str, Any]]) -> list[str]:
    return sorted({key for cond in conds for key in cond})


def count_parameters(net: Any) -> int:
    """The number of parameters of a module; 0 for a plain function."""
    return sum(p.numel() for p in net.parameters()) if isinstance(net, nn.Module) else 0
