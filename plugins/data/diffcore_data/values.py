"""What samples of a file may be: real numbers that float32 holds, in their range, or tokens."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

import diffcore as dc

LARGEST = torch.finfo(torch.float32).max
INTEGERS = {torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.int8, torch.int16, torch.int32, torch.int64}
REALS = {torch.bool, torch.float16, torch.bfloat16, torch.float32, torch.float64}


def tensor(array: np.ndarray) -> Tensor:
    """An array as torch holds it: floats of more than 64 bits become float64."""
    wide = {"f": np.float64, "c": np.complex128}.get(array.dtype.kind)
    if wide is None or array.dtype.itemsize <= np.dtype(wide).itemsize:
        return torch.from_numpy(array)
    with np.errstate(over="ignore"):
        return torch.from_numpy(array.astype(wide))


def check_shape(x: Tensor, name: str) -> None:
    """Raises `DataError` unless these are one or more samples that each have entries."""
    if x.ndim < 2 or x.numel() == 0 or x.dtype not in INTEGERS | REALS:
        hint = "; a sample needs an axis of its own: x[:, None]" if x.ndim == 1 else ""
        raise dc.DataError(
            f"{name}: 'x' is {_type(x)} of shape {tuple(x.shape)}; expected real numbers (N, ...), no axis of length 0{hint}"
        )


def _type(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def reals(x: Tensor, name: str) -> Tensor:
    """Samples (N, *shape) as bytes or float32. Raises `DataError` for NaN, infinity and numbers beyond float32."""
    check_shape(x, name)
    if x.dtype in (torch.uint8, torch.bool):
        return x.to(torch.uint8)
    held = x.float()
    low, high = torch.aminmax(held)
    if not bool((high - low).isfinite()):
        _refuse_unbounded(x, held, name)
    return held


def _refuse_unbounded(x: Tensor, held: Tensor, name: str) -> None:
    bad = ~held.isfinite()
    number = f"{int(bad.sum())} of {bad.numel()} values"
    if not bool(bad.any()):
        raise dc.DataError(f"{name}: 'x' spans more than float32 holds ({LARGEST:.2g}); scale it")
    first = int(bad.flatten().nonzero()[0])
    sample, value = first // x[0].numel(), x.flatten()[first].double()
    if bool(value.isfinite()):
        raise dc.DataError(
            f"{name}: 'x' holds {number} beyond float32 ({LARGEST:.2g}), the first {float(value):g} in sample {sample}; scale it"
        )
    raise dc.DataError(f"{name}: 'x' holds NaN or infinite values: {number}, the first in sample {sample}; leave those out")


def tokens(x: Tensor, name: str) -> Tensor:
    """Integer samples (N, *shape) from 0, of the type they have. Raises `DataError` for negative ones and beyond int64."""
    check_shape(x, name)
    held = signed(x)
    low = int(held.min())
    if low < 0:
        raise dc.DataError(
            f"{name}: 'x' is {_type(x)} with values from {low}, and integers without a range are tokens, from 0 (int64); "
            f"declare a 'range' for numbers that are measured, or save them as floats"
        )
    return held


def integers(x: Tensor) -> bool:
    """Whether these are integers."""
    return x.dtype in INTEGERS


def signed(x: Tensor) -> Tensor:
    """Integers of a type that torch computes with; unsigned ones beyond int64 become negative."""
    wide = {torch.bool: torch.uint8, torch.uint16: torch.int32, torch.uint32: torch.int64, torch.uint64: torch.int64}
    return x.to(wide.get(x.dtype, x.dtype))


def check_range(x: Tensor, declared: dc.Range, name: str) -> None:
    """Raises `DataError` for values outside the range."""
    declared.to_model(torch.stack(torch.aminmax(x)), name)
