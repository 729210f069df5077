"""Conditions that are no classes: arrays by name, one row per sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from diffcore.declare.errors import SpecError
from diffcore.numerics.arguments import shown

if TYPE_CHECKING:
    from diffcore.learning.data import Source

Shapes = Mapping[str, tuple[int, ...]]
WHOLE = ("bool", "uint8", "int8", "int16", "int32", "int64")
"""Types of conditions that are no real numbers."""


def arrays_of(source: Source, loss: Any) -> dict[str, tuple[int, ...]]:
    """The arrays among the conditions of a source, without those that are for the coupling of the loss."""
    consumed = getattr(getattr(loss, "coupling", None), "consumes", ())
    return {name: tuple(shape) for name, shape in getattr(source, "arrays", {}).items() if name not in consumed}


def rows(name: str, value: Any, shape: tuple[int, ...], n: int, kind: str = "float32") -> Tensor:
    """An array as one row per sample, one for all or one each, of the type it has in the data (`kind`).

    Raises `SpecError` for other shapes, for values that are none of this type, and for what is no array.
    """
    wanted = f"an array of shape {shape}, or {n} of them"
    try:
        tensor = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        raise SpecError(f"condition '{name}' must be {wanted}; got {shown(value)}") from None
    if tuple(tensor.shape) not in (shape, (n, *shape)):
        raise SpecError(f"condition '{name}' must be {wanted}; got shape {tuple(tensor.shape)}")
    if not bool(tensor.isfinite().all()):
        raise SpecError(f"condition '{name}' holds NaN or Inf")
    held = tensor.to(getattr(torch, kind))
    if kind in WHOLE and not torch.equal(held.to(tensor.dtype), tensor):
        raise SpecError(f"condition '{name}' is {kind} in the data; got {shown(value)}, which it cannot hold")
    return held.expand(n, *shape).contiguous()


def chosen(
    cond: Mapping[str, Any], arrays: Shapes, types: Mapping[str, str], null: Mapping[str, Any], n: int
) -> dict[str, Tensor]:
    """Every array, one row per sample; None stands for the null value. Raises `SpecError` where one is missing or untrained.

    types: of those that are no real numbers.
    """
    found = dict[str, Tensor]()
    for name, shape in arrays.items():
        if name not in cond:
            raise SpecError(
                f"condition '{name}' is missing: give cond={{'{name}': ...}}, an array of shape {shape}, or {n} of them"
            )
        if cond[name] is None and name not in null:
            raise SpecError(
                f"condition '{name}' cannot be None: the network has no null value, or the loss trained none (loss.drop is 0); "
                f"give an array of shape {shape}"
            )
        value = null[name] if cond[name] is None else cond[name]
        found[name] = rows(name, value, shape, n, types.get(name, "float32"))
    return found


def of_data(source: Source, arrays: Shapes, n: int) -> dict[str, Tensor]:
    """The conditions of n rows of the data where some are arrays (the classes with them, as they go together); else none."""
    if not arrays:
        return {}
    cond = source.batch(torch.arange(n) % (source.size or n))[1]
    return {name: cond[name] for name in (*source.classes, *arrays)}
