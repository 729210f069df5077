"""From a spec to a pipeline, or to every reason why there is none, each at its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from diffcore.declare.errors import SpecError
from diffcore.numerics.arguments import shown
from diffcore.run.assembly import Assembly, UnfitError, UnopenedError
from diffcore.run.pipeline import Pipeline
from diffcore.run.sections import load_spec
from diffcore.run.spec import Spec
from diffcore.specs import SpecErrors
from diffcore.specs.placing import DataFaultError, MisfitError, placed
from diffcore.specs.registry import Registry


def assemble(
    spec: str | Path | Mapping[str, Any] | Spec,
    *,
    registry: Registry | None = None,
    overrides: Sequence[str] = (),
    device: str | torch.device | None = None,
) -> Pipeline:
    """Read a spec (file, mapping or `Spec`), make its components, and check that they fit together.

    Raises `SpecError` with every fault of the spec, `IncompatibleError` with every reason why parts do not fit (both name the
    places), `DataError` where the data is not there.
    """
    _refuse_arguments(spec, registry, overrides)
    registry = registry or Registry.load()
    if isinstance(spec, Spec):
        return Pipeline(spec, registry, device)
    try:
        return Pipeline(load_spec(spec, registry, overrides), registry, device)
    except SpecErrors as found:
        if found.standing is None:
            raise
        standing, broken = found.standing
        more = Assembly(standing, registry, device, broken=broken).problems
        raise SpecErrors([*found.faults, *placed(more, spec, overrides)]) from None
    except UnfitError as found:
        raise MisfitError(placed(found.problems, spec, overrides)) from None
    except UnopenedError as found:
        raise DataFaultError(placed(found.problems, spec, overrides)) from None


def _refuse_arguments(spec: Any, registry: Any, overrides: Any) -> None:
    if not isinstance(spec, (str, Path, Mapping, Spec)):
        raise SpecError(f"a spec is a file, a mapping of sections or a Spec; got {shown(spec)}")
    if not isinstance(registry, Registry | None):
        raise SpecError(f"registry must be a Registry, such as Registry.load(); got {shown(registry)}")
    if not isinstance(overrides, (list, tuple)) or not all(isinstance(text, str) for text in overrides):  # pyright: ignore[reportUnknownVariableType]
        raise SpecError(f"overrides is a list of 'key.path=value', such as ['solver.steps=20']; got {shown(overrides)}")
    if isinstance(spec, Spec) and overrides:
        raise SpecError("overrides change a spec that is read; give a finished Spec its fields with attrs.evolve")
