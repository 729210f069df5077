"""Classes of samples: integers from 0, without gaps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

import diffcore as dc
from diffcore_data.values import integers, signed


def counted(label: Tensor | None, size: int, names: Sequence[str], file: str) -> Tensor | None:
    """Labels (N,) as int64, or None where there are none and none are named.

    Raises `DataError` unless there is one integer from 0 for each of the `size` samples, with no number in between left out that
    is not named.
    """
    if label is None:
        if names:
            raise dc.DataError(
                f"{file} holds no 'label', and field 'classes' names {len(names)}; leave it out, or save the labels"
            )
        return None
    if tuple(label.shape) != (size,) or not (integers(label) or label.dtype == torch.bool):
        kind = str(label.dtype).removeprefix("torch.")
        raise dc.DataError(
            f"{file}: 'label' is {kind} of shape {tuple(label.shape)}; expected {size} integers from 0, one for each sample"
        )
    held = signed(label).long()
    _check_numbers(held, names, file)
    return held


def _check_numbers(label: Tensor, names: Sequence[str], file: str) -> None:
    found = label.unique()
    low, high = int(found[0]), int(found[-1])
    if low < 0:
        raise dc.DataError(f"{file}: 'label' holds {low}; expected integers from 0")
    if names and high >= len(names):
        raise dc.DataError(f"{file}: 'label' goes to {high}, and field 'classes' names {len(names)}: 0 to {len(names) - 1}")
    if not names and len(found) <= high:
        empty = next(i for i, number in enumerate(found.tolist()) if i != number)
        raise dc.DataError(
            f"{file}: distinct numbers in 'label': {len(found)}, from {low} to {high}, and none is {empty}; a class without "
            f"samples cannot be learnt: number the classes from 0 without gaps, or name all of them with field 'classes'"
        )
