"""How a network is read: what it predicts, the time it is told, how its input is scaled, which part of its output counts."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from diffcore.declare.errors import DataError, IncompatibleError, did_you_mean
from diffcore.numerics.arguments import real, shown
from diffcore.numerics.kept import hashable
from diffcore.numerics.process import Process
from diffcore.numerics.tree import State, expand, tree_map

Rule = str | Callable[[Any], Any]
"""A name of `TIMES` or `INPUTS`, or a function of the coefficients at a time."""

TIMES: dict[str, Callable[[Any, Any], Any]] = {
    "index": lambda process, at: process.index(at.t),
    "index-rounded": lambda process, at: process.index(at.t).round(),
    "1000t": lambda process, at: 1000 * at.t,
    "1-t": lambda process, at: process.T - at.t,
    "c_noise": lambda process, at: -at.lam / 4,
    "sigma": lambda process, at: at.sigma / at.alpha,
    "log_snr": lambda process, at: at.log_snr,
}
"""What a network may be told of a time, by name, beside `t` itself and `feature`, `process.embed_time(t)`: the place in the table
of a process of indices, 1000 t, T - t (published with time the other way round), log(sigma / alpha) / 4 (Karras et al. 2022), the
noise level sigma / alpha, log(alpha^2 / sigma^2)."""
INPUTS = ("none", "unit")
"""How its input is scaled: as it is, or to unit variance by `process.scale_input`."""


@attrs.frozen
class Reading:
    """How a network speaks: `net(x * input, time)` returns `prediction`, in the part `output` of what it returns.

    prediction: a name the process reads. time: "t", "feature" (`process.embed_time(t)`, for networks built from a spec), a name
    of `TIMES`, or a function of the coefficients `f(at)`, shape of t. input: "none", "unit" (x / sqrt(alpha^2 sigma_data^2 +
    sigma^2)), or a function `f(at)` that returns the factor. output: "" for all of it, "-" for its negative (velocities from
    noise to data), "first-half" for the first half of its channels (a learned variance beside), a number or a name for a part of
    a tuple or of an object. Functions stand at the top level of a module, so that a reading pickles and compares by value.
    sigma_data: the deviation of the data, of "unit" and of the target "edm".

    Raises `IncompatibleError` for names that are none of these, and for functions that cannot be imported.
    """

    prediction: str
    time: Rule = "t"
    input: Rule = "none"
    output: str | int = ""
    sigma_data: float = 0.5

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.prediction, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise IncompatibleError(f"prediction is a name, such as 'eps'; got {shown(self.prediction)}")
        _check_rule("time", self.time, ("t", "feature", *TIMES))
        _check_rule("input", self.input, INPUTS)
        if not isinstance(self.output, (str, int)) or isinstance(self.output, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise IncompatibleError(f"output is '', '-', 'first-half', or the number or name of a part; got {shown(self.output)}")
        if not real("sigma_data", self.sigma_data) > 0:
            raise IncompatibleError(f"sigma_data must be above 0; got {shown(self.sigma_data)}")

    def clock(self, process: Any, t: Tensor) -> Tensor:
        """What the network is told at times t: of their shape, float64 save `t` and `feature`, which have the dtype of t."""
        if self.time == "t":
            return t
        if self.time == "feature":
            return process.embed_time(t)
        at = process.coeffs(t.double())
        return self.time(at) if callable(self.time) else TIMES[self.time](process, at)

    def feed(self, process: Any, x: State, at: Any) -> State:
        """The state as the network takes it."""
        if self.input == "none":
            return x
        if self.input == "unit":
            return process.scale_input(x, at, self.sigma_data)
        factor = self.input(at)  # pyright: ignore[reportCallIssue]
        return tree_map(lambda leaf: leaf * expand(factor, leaf), x)

    def part(self, out: Any) -> Any:
        """The part of an output that is the prediction. Raises `DataError` where there is none such."""
        if isinstance(self.output, int) or self.output not in ("", "-", "first-half"):
            return self._named(out)
        found = None if out.__class__ is Tensor else getattr(out, "sample", None)
        found = found if isinstance(found, Tensor) else out
        if self.output == "-":
            return tree_map(torch.neg, found)
        return tree_map(lambda leaf: leaf[:, : leaf.shape[1] // 2], found) if self.output else found

    def _named(self, out: Any) -> Any:
        try:
            by_key = isinstance(self.output, int) or isinstance(out, Mapping)
            return out[self.output] if by_key else getattr(out, str(self.output))
        except (LookupError, TypeError, AttributeError):
            raise DataError(f"the network returned {type(out).__name__}, which has no part {self.output!r}") from None


def _check_rule(field: str, rule: Any, names: tuple[str, ...]) -> None:
    wanted = f"{field} is one of {', '.join(names)}, or a function f(at) at the top level of a module"
    if isinstance(rule, str):
        if rule not in names:
            raise IncompatibleError(f"{wanted}; got '{rule}'{did_you_mean(rule, names)}")
    elif not callable(rule) or _imported(rule) is not rule:
        raise IncompatibleError(f"{wanted}, which pickles; got {shown(rule)}")


def _imported(rule: Any) -> Any:
    """What stands where a function says that it does."""
    return getattr(sys.modules.get(getattr(rule, "__module__", "")), getattr(rule, "__qualname__", ""), None)


def check_parts(net: Any, process: Any, null: Any, parts: Any) -> None:
    """Raise `IncompatibleError` for arguments of a denoiser that are of another kind."""
    if not callable(net) or isinstance(net, type):
        raise IncompatibleError(f"Denoiser needs a network, a module or function net(x, t, **cond); got {shown(net)}")
    if not hasattr(process, "check_prediction"):
        raise IncompatibleError(
            f"Denoiser needs the process its network was trained for, such as registry.make('process', 'vp'); got {process!r}"
        )
    if not isinstance(null, Mapping | None):
        raise IncompatibleError(
            f"null maps each condition to the value that means none, such as {{'label': 10}}; got {shown(null)}"
        )
    if not isinstance(parts, Mapping | None):
        raise IncompatibleError(f"parts maps roles to modules; got {shown(parts)}")


def reading_of(net: Any, process: Process, asked: Any) -> Reading:
    """What is asked (a bare prediction is a reading), or what the network says of itself.

    Raises `IncompatibleError` where the two differ, where there is neither, and where the process has no such time.
    """
    own = getattr(net, "reading", None)
    if isinstance(own, Reading):
        given = own if asked is None else attrs.evolve(own, prediction=asked) if isinstance(asked, str) else asked
        if given != own:
            raise IncompatibleError(
                f"this network was made by a pipeline to be read as {own}, not {shown(asked)}; leave that out, or take "
                f"pipeline.denoiser"
            )
        return own
    if asked is None:
        raise IncompatibleError(
            f"Denoiser must be told what the network predicts: 'eps', say, or dc.Reading('eps', ...); "
            f"{type(process).__name__} reads {', '.join(process.predictions)}"
        )
    if not isinstance(asked, (str, Reading)):
        names = ", ".join(process.predictions)
        raise IncompatibleError(
            f"a reading is what the network predicts, one of {names}, or a dc.Reading of it; got {shown(asked)}"
        )
    return Reading(asked) if isinstance(asked, str) else asked


def check_reading(process: Process, reading: Reading) -> None:
    """Refuse what the process cannot read, and times that it does not have; looked at once for equal processes."""
    found = _sound if not isinstance(process, nn.Module) and hashable(process) else _sound.__wrapped__
    found(process, reading)


@lru_cache(maxsize=256)
def _sound(process: Process, reading: Reading) -> None:
    process.check_prediction(reading.prediction, reading.sigma_data)
    with torch.no_grad():
        middle = torch.tensor([(process.T + process.min_time) / 2], dtype=torch.float64)
        try:
            told = reading.clock(process, middle)
            factor = reading.input(process.coeffs(middle)) if callable(reading.input) else 1.0
        except (AttributeError, NotImplementedError):
            raise IncompatibleError(
                f"time '{reading.time}' or input '{reading.input}' asks for what {type(process).__name__} does not have; "
                f"take 't', 'feature', or a function of its times"
            ) from None
    if not isinstance(told, Tensor) or told.shape != middle.shape or not math.isfinite(float(told)):
        raise IncompatibleError(
            f"the time {shown(reading.time)} of a reading must give one finite number per time; got {shown(told)}"
        )
    if not math.isfinite(float(torch.as_tensor(factor).sum())):
        raise IncompatibleError(f"the input {shown(reading.input)} of a reading must give a finite factor; got {shown(factor)}")
