"""A set of the user's own in one `.npz` or `.safetensors` file."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

import diffcore as dc
from diffcore_data import npz
from diffcore_data.labels import counted
from diffcore_data.standard import Standard
from diffcore_data.table import Table
from diffcore_data.values import check_range, integers, reals, tensor, tokens

KEYS = ("x", "label")
CONVERTED = {".npy": "np.load(path)", ".csv": "np.loadtxt(path, delimiter=',')", ".txt": "np.loadtxt(path)"}
"""Files of other kinds, and how numpy reads them."""
CHUNK = 4096
"""Samples that are turned to float64 at once where moments are measured."""


@dc.component
class ArrayFile(dc.Data):
    """Samples `x` (N, *shape) and optionally their classes `label` (N,), integers from 0 without gaps.

    With a `range` the network sees 2 (x - lo) / (hi - lo) - 1; values outside it are refused when the file is opened, with their
    minimum and maximum. With `range: null` real numbers are unbounded, and integers are *tokens*: they stay integers, for
    processes of tokens.

    Unbounded real numbers are brought to mean 0 and standard deviation 1/2, channel by channel (the first axis of a sample; each
    entry of a vector): x_model = (x - mean) / (2 std). The moments are those of the file when it was trained on; they are saved
    with the weights, so that a trained run needs no file. `standardise: false` uses the values as they are.
    """

    source: ClassVar[str] = "your own file; x_model = 2 (x - lo) / (hi - lo) - 1, or (x - mean) / (2 std)"
    example: ClassVar[Mapping[str, Any]] = {"path": "samples.npz", "range": {"lo": 0.0, "hi": 1.0}}

    path: str = dc.param(doc="an .npz or .safetensors file with 'x' and optionally 'label'")
    range: dc.Range | None = dc.param(doc="smallest and largest raw value; null: unbounded real numbers, or tokens")
    standardise: bool = dc.param(default=True, doc="bring unbounded real numbers to mean 0 and deviation 1/2")
    classes: tuple[str, ...] = dc.param(default=(), doc="names of the classes of 'label', by number")

    def __attrs_post_init__(self) -> None:
        if len(set(self.classes)) < len(self.classes):
            raise dc.SpecError(f"'classes' of array names a class twice: {', '.join(self.classes)}")

    @cached_property
    def _standard(self) -> Standard:
        return Standard()

    @property
    def _scales(self) -> bool:
        return self.range is None and self.standardise

    def open(self) -> Table:
        """The file in memory, checked."""
        tensors = read(self.path)
        discrete = self.range is None and integers(tensors["x"])
        x = tokens(tensors["x"], self.path) if discrete else reals(tensors["x"], self.path)
        if self.range is not None:
            check_range(x, self.range, self.path)
        if self.range is None and not discrete and not self._standard.measured:
            self._standard.measure(lambda: tensors["x"].split(CHUNK))
        label = counted(tensors.get("label"), len(x), self.classes, self.path)
        return Table(x, label, self.classes, tokens=discrete)

    @property
    def seen_through(self) -> str:
        """Its moments, where values are standardised."""
        return "its mean and deviation; set data.standardise: false for values that are used as they are" if self._scales else ""

    def parts(self) -> dict[str, nn.Module]:
        """The moments, where values are standardised."""
        return {"standard": self._standard} if self._scales else {}

    def encode(self, raw: Tensor) -> Tensor:
        """Raw values as the network sees them; tokens as they are."""
        return self._standard.encode(raw) if self._scales and raw.is_floating_point() else super().encode(raw)

    def decode(self, x: Tensor) -> Tensor:
        """What the network makes, as raw values."""
        return self._standard.decode(x) if self._scales and x.is_floating_point() else super().decode(x)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The field `classes`."""
        return self.classes


def read(path: str) -> Mapping[str, Tensor]:
    """The tensors 'x' and, where it is there, 'label'. Raises `DataError` for anything else."""
    file = _file(path)
    compressed = file.suffix.lower() == ".npz"
    _refuse_foreign(npz.names(file) if compressed else dc.tensor_names(file), file)
    if compressed:
        return {name: tensor(array) for name, array in npz.read(file, KEYS).items()}
    return dc.read_tensors(file, KEYS)[0]


def _file(path: str) -> Path:
    suffix = Path(path).suffix.lower()
    if suffix in CONVERTED:
        raise dc.DataError(
            f"{path}: 'array' reads *.npz and *.safetensors; write it again: np.savez('x.npz', x={CONVERTED[suffix]})"
        )
    return dc.user_file(path, (".npz", ".safetensors"))


def _refuse_foreign(found: list[str], file: Path) -> None:
    foreign = [name for name in found if name not in KEYS]
    if "x" not in found:
        raise dc.DataError(f"{file} holds {_listed(found)}; expected the samples as 'x', and optionally their classes as 'label'")
    if foreign:
        raise dc.DataError(
            f"{file} holds {_listed(foreign)} beside 'x'; 'array' reads 'x' and 'label' (classes, integers from 0) and no other "
            f"condition: write a file without it, or a data set of your own"
        )


def _listed(names: list[str], most: int = 8) -> str:
    shown = [ascii(name[:40]) for name in names[:most]]
    return ", ".join(shown + [f"{len(names) - most} more"] * (len(names) > most)) or "nothing"
