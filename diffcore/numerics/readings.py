"""How a network is read: what a denoiser must be told, and what a network says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import attrs
from torch import nn

from diffcore.declare.errors import IncompatibleError
from diffcore.numerics.arguments import real, shown
from diffcore.numerics.kept import hashable
from diffcore.numerics.process import Process


@attrs.frozen
class Reading:
    """How a network is read: what it predicts, the deviation of its data, and whether its input is scaled for it.

    A pipeline leaves it as the attribute `reading` of the networks it makes, so that a `Denoiser` of one needs no more.
    """

    prediction: str
    sigma_data: float = 0.5
    precondition: bool = False


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


def reading_of(net: Any, process: Process, prediction: Any, sigma_data: Any, precondition: Any) -> Reading:
    """What is asked, completed by what the network says of itself. Raises `IncompatibleError` where the two differ."""
    asked = {"prediction": prediction, "sigma_data": sigma_data, "precondition": precondition}
    asked = {name: value for name, value in asked.items() if value is not None}
    own = getattr(net, "reading", None)
    if isinstance(own, Reading):
        differ = [f"{k} = {getattr(own, k)!r}, not {v!r}" for k, v in asked.items() if getattr(own, k) != v]
        if differ:
            raise IncompatibleError(
                f"this network was made by a pipeline to be read with {', '.join(differ)}; leave that out, or take "
                f"pipeline.denoiser"
            )
        return own
    if prediction is None:
        raise IncompatibleError(
            f"Denoiser must be told what the network predicts: prediction='eps', say; "
            f"{type(process).__name__} reads {', '.join(process.predictions)}"
        )
    if not isinstance(prediction, str):
        raise IncompatibleError(f"prediction is a name, one of {', '.join(process.predictions)}; got {shown(prediction)}")
    if not isinstance(asked.get("precondition", False), bool) or not real("sigma_data", asked.get("sigma_data", 0.5)) > 0:
        raise IncompatibleError(f"precondition is True or False, and sigma_data above 0; got {precondition!r} and {sigma_data!r}")
    return Reading(**asked)


def check_prediction(process: Process, prediction: str, sigma_data: float) -> None:
    """Refuse what the process cannot read, as it does; looked at once for equal processes."""
    found = _sound_prediction if not isinstance(process, nn.Module) and hashable(process) else _sound_prediction.__wrapped__
    found(process, prediction, sigma_data)


@lru_cache(maxsize=256)
def _sound_prediction(process: Process, prediction: str, sigma_data: float) -> None:
    process.check_prediction(prediction, sigma_data)
