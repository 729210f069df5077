"""A set of the user's own in one `.npz` or `.safetensors` file."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

import diffcore as dc
from diffcore_data.table import Table


@dc.component
class ArrayFile(dc.Data):
    """Samples `x` (N, *shape), of any number type, and optionally their classes `label` (N,), integers from 0.

    The network sees 2 (x - lo) / (hi - lo) - 1 for the declared range; values outside it are refused when the file is opened,
    with their minimum and maximum. With `range: null` values are unbounded and used as they are.
    """

    source: ClassVar[str] = "your own file; x_model = 2 (x - lo) / (hi - lo) - 1"
    example: ClassVar[Mapping[str, Any]] = {"path": "samples.npz", "range": {"lo": 0.0, "hi": 1.0}}

    path: str = dc.field(doc="an .npz or .safetensors file with 'x' and optionally 'label'")
    range: dc.Range | None = dc.field(doc="smallest and largest raw value; null: unbounded, used as they are")

    def open(self) -> Table:
        """The file in memory, checked."""
        tensors = read(Path(self.path))
        table = Table(samples(tensors["x"], self.path), classes(tensors, self.path))
        check_values(table.x, self.range, self.path)
        return table


def read(path: Path) -> Mapping[str, Tensor]:
    """The tensors 'x' and, where it is there, 'label'. Raises `DataError` for anything else."""
    readers = {".npz": _read_npz, ".safetensors": load_file}
    if path.suffix not in readers:
        raise dc.DataError(f"{path}: expected a file called *.npz or *.safetensors")
    if not path.is_file():
        raise dc.DataError(f"{path}: no such file (a relative path starts at the working folder, {Path.cwd()})")
    try:
        tensors = readers[path.suffix](path)
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile, SafetensorError) as error:
        raise dc.DataError(f"{path} cannot be read: {error}") from error
    if "x" not in tensors or not set(tensors) <= {"x", "label"}:
        raise dc.DataError(f"{path} holds {', '.join(map(repr, tensors)) or 'nothing'}; expected 'x' and optionally 'label'")
    return tensors


def _read_npz(path: Path) -> dict[str, Tensor]:
    with path.open("rb") as handle, np.load(handle, allow_pickle=False) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def samples(x: Tensor, name: str) -> Tensor:
    """Samples as they are held: bytes stay bytes, all else becomes float32. Raises `DataError` for a wrong shape or type."""
    if x.ndim < 2 or len(x) == 0 or x.is_complex():
        raise dc.DataError(f"{name}: 'x' is {x.dtype} of shape {tuple(x.shape)}; expected real numbers (N, ...) with N > 0")
    return x if x.dtype == torch.uint8 else x.float()


def classes(tensors: Mapping[str, Tensor], name: str) -> Tensor | None:
    """Labels as int64, or None. Raises `DataError` unless there is one integer from 0 for each sample."""
    label = tensors.get("label")
    if label is None:
        return None
    if label.shape != tensors["x"].shape[:1] or label.is_floating_point() or int(label.min()) < 0:
        raise dc.DataError(
            f"{name}: 'label' is {label.dtype} of shape {tuple(label.shape)}; expected {len(tensors['x'])} integers from 0"
        )
    return label.long()


def check_values(x: Tensor, value_range: dc.Range | None, name: str) -> None:
    """Raises `DataError` for values outside the range, or that are not finite where there is none."""
    low, high = torch.aminmax(x)
    if value_range is not None:
        value_range.to_model(torch.stack([low, high]), name)
    elif not bool((high - low).float().isfinite()):
        raise dc.DataError(f"{name}: 'x' holds NaN or infinite values")
