"""Samples as files, batch by batch: tensors, one picture, an animation, lines of text, a table, or a folder with a file for each.

A file (or folder) is written aside and takes its name when it is whole. What is written is in the range of the data.
"""

from __future__ import annotations

import csv
import io
import os
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import attrs
import torch
from torch import Tensor

from diffcore.declare.errors import SpecError
from diffcore.learning import distributed
from diffcore.numerics.draw import Draw
from diffcore.numerics.tree import State, describe, leaves, named_leaves, tree_map
from diffcore.run import checkpoint
from diffcore.run.marks import MARK
from diffcore.run.report import canvas, gallery
from diffcore.run.report.escaping import file_name
from diffcore.run.report.gallery import class_name, is_class, labels_of, span, visible
from diffcore.run.report.pictures import as_images, has_picture, most
from diffcore.run.tensorfile import TensorFile

if TYPE_CHECKING:
    from diffcore.learning.data import Range
    from diffcore.run.pipeline import Pipeline
    from diffcore.run.samples import Samples

PAGES = 200
"""Most samples of an animation."""


@attrs.frozen
class Written:
    """What was written where, and what it cost. `note` says what a reader of the file must know; else empty."""

    path: Path
    n: int
    shapes: str
    steps: int
    calls: int
    nfe: float
    seconds: float
    note: str = ""


class Sink(Protocol):
    """Takes samples batch by batch and makes a file, or a folder, of them."""

    def __init__(self, place: Path, n: int) -> None: ...

    @staticmethod
    def check(pipeline: Pipeline, raw: State) -> None:
        """Raise `SpecError` for samples of a kind that does not go into such a file."""
        ...

    def add(self, made: Samples) -> None:
        """Take a batch. Raises `SpecError` as `check` does."""
        ...

    def close(self, cost: Mapping[str, Any]) -> str:
        """Write what is not written yet; returns a note for the reader, or an empty text."""
        ...


def target(out: str | Path) -> Path:
    """The place that samples are written to. Raises `SpecError` for endings that are not known, and folders that hold files."""
    path = Path(out)
    if is_folder(out):
        if path.is_dir() and any(path.iterdir()):
            raise SpecError(f"the folder {path} holds files already; name a new one, and every sample becomes a file in it")
    elif path.suffix not in SINKS:
        raise SpecError(
            f"cannot write samples to '{path.name}': the name must end in {', '.join(SINKS)}, or in / for a folder of files"
        )
    return path


def check(pipeline: Pipeline, path: Path) -> None:
    """Raise `SpecError` where the samples of a pipeline do not go into such a file: one of zeros stands for those to come."""
    one = pipeline.process.prior(pipeline.source.event, Draw(0, [0], device=pipeline.device))
    with torch.no_grad():
        _sort(path).check(pipeline, pipeline.spec.data.decode(tree_map(torch.zeros_like, one)))


def _sort(path: Path) -> type[Sink]:
    return SINKS.get(path.suffix, Folder)


def is_folder(out: str | Path) -> bool:
    """Whether a name stands for a folder: it ends in a slash, or there is one, or it has no ending."""
    return str(out).endswith(("/", os.sep)) or not Path(out).suffix or (Path(out).is_dir() and Path(out).suffix not in SINKS)


def write(batches: Iterable[Samples], path: Path, n: int) -> Written:
    """Write n samples as they come. The first of several processes writes, the others take part in making them.

    Raises `SpecError` at the first batch where the samples do not go into such a file, `RunError` where the disk refuses;
    nothing is left behind then, and what was there before is unchanged.
    """
    if distributed.world()[0] > 0:
        return _written(path, n, _drained(batches, lambda made: None), "")
    with checkpoint.aside(path) as place:
        sink = _sort(path)(place, n)
        last = _drained(batches, sink.add)
        note = sink.close({"calls": last.calls, "nfe": last.nfe})
    return _written(path, n, last, note)


def _drained(batches: Iterable[Samples], take: Callable[[Samples], None]) -> Samples:
    """Hand over all batches; the last of them has the cost of all."""
    last = None
    for last in batches:
        take(last)
    if last is None:
        raise SpecError("there are no samples to write")
    return last


def _written(path: Path, n: int, last: Samples, note: str) -> Written:
    shapes = " and ".join(str(tuple(leaf.shape[1:])) for leaf in leaves(last.x))
    cost = (last.steps, last.calls, last.nfe, last.seconds)
    return Written(path, n, shapes, *cost, note)


# --- what files hold --------------------------------------------------------------------------------------------------


def named(made: Samples) -> dict[str, Tensor]:
    """The arrays of a file of samples: `x` (leaves of a tree: `x.name`), logw and logp where there are, conditions by name."""
    beside = {name: value for name, value in made.numbers.items() if name != "x"}
    return {**{_named(name): leaf for name, leaf in named_leaves(made.raw()).items()}, **beside, **made.cond}


def _named(leaf: str) -> str:
    return f"x.{leaf}" if leaf else "x"


class Tensors:
    """A .safetensors file."""

    def __init__(self, place: Path, n: int) -> None:
        self.place, self.n, self.file = place, n, None

    @staticmethod
    def check(pipeline: Pipeline, raw: State) -> None:
        """Every state goes into it."""

    def add(self, made: Samples) -> None:
        """Write the rows where they belong."""
        arrays = named(made)
        self.file = self.file or TensorFile(self.place, arrays, self.n)
        self.file.append(arrays)

    def close(self, cost: Mapping[str, Any]) -> str:
        """Seal the file with the digest of its contents."""
        if self.file is not None:
            self.file.close(cost)
        return ""


class Arrays(Tensors):
    """A compressed .npz file, made of a file of tensors that is read as it is needed."""

    def close(self, cost: Mapping[str, Any]) -> str:
        """Pack the arrays one after the other."""
        import numpy as np

        super().close(cost)
        packed = self.place.with_suffix(f".{os.getpid()}.tmp")  # a name that is swept
        try:
            with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.comment = MARK.encode()
                for name, tensor in TensorFile.read(self.place):
                    plain = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                        np.lib.format.write_array_header_1_0(member, np.lib.format.header_data_from_array_1_0(plain.numpy()))
                        for part in plain.contiguous().view(-1).split(2**18):
                            member.write(part.numpy().data)
            packed.replace(self.place)
        finally:
            packed.unlink(missing_ok=True)
        return ""


class First:
    """What shows only the first samples: it keeps them, and says of how many they are."""

    def __init__(self, place: Path, n: int) -> None:
        self.place, self.n = place, n
        self.kept: list[Any] = []
        self.labels: list[int] = []
        self.pipeline: Any = None

    def add(self, made: Samples) -> None:
        """Keep what is shown."""
        raw = made.raw()
        self.check(made.pipeline, raw)
        raw = visible(made.pipeline, raw)
        room = self.room(raw) - sum(map(len, self.kept))
        if room > 0:
            self.pipeline = made.pipeline
            self.kept.append(raw[:room].detach().cpu())
            self.labels += labels_of(made.cond)[:room]

    @staticmethod
    def check(pipeline: Pipeline, raw: State) -> None:
        """Raise `SpecError` for samples that are not shown like this."""
        if not has_picture(raw := visible(pipeline, raw)):
            raise SpecError(f"there is no picture of samples {describe(raw)}; name a .safetensors or .npz file, or a folder")

    def room(self, raw: Tensor) -> int:
        """How many are shown at most."""
        return most(raw)

    def data(self, raw: Tensor) -> bytes:
        """The file."""
        return gallery.drawn(self.pipeline, gallery.Shown(raw, self.labels))

    def close(self, cost: Mapping[str, Any]) -> str:
        """Draw."""
        raw = torch.cat(self.kept)
        self.place.write_bytes(self.data(raw))
        return "" if len(raw) == self.n else f"the first {len(raw)} of {self.n} are shown"


class Animation(First):
    """A .gif of images, one after the other."""

    @staticmethod
    def check(pipeline: Pipeline, raw: State) -> None:
        """Raise `SpecError` for all but images."""
        if as_images(raw := visible(pipeline, raw)) is None:
            raise SpecError(f"there is no animation of samples {describe(raw)}; name a .png, .safetensors or .npz file")

    def room(self, raw: Tensor) -> int:
        """As many pages as somebody may watch."""
        return PAGES

    def data(self, raw: Tensor) -> bytes:
        """One page a sample."""
        images, within = as_images(raw), span(self.pipeline, raw)
        assert images is not None
        shown = (images.float() - within.lo) / (within.hi - within.lo)
        return canvas.animated([canvas.sheet(image[None], 1) for image in shown], 400)


class Lines:
    """A .txt file of samples that are text, one line each."""

    def __init__(self, place: Path, n: int) -> None:
        self.place = place

    @staticmethod
    def check(pipeline: Pipeline, raw: State) -> None:
        """Raise `SpecError` for all but text."""
        if pipeline.spec.data.texts(raw) is None:
            raise SpecError("these samples are no text; name a .safetensors or .npz file, or a folder")

    def add(self, made: Samples) -> None:
        """Append the lines."""
        raw = made.raw()
        self.check(made.pipeline, raw)
        texts = made.pipeline.spec.data.texts(raw) or []
        with self.place.open("ab") as file:
            file.writelines(f"{text}\n".encode() for text in texts)

    def close(self, cost: Mapping[str, Any]) -> str:
        """Nothing is left to write."""
        return ""


class Table:
    """A .csv file of points and tables (N, D), a column for each entry and condition."""

    def __init__(self, place: Path, n: int) -> None:
        self.place = place

    @staticmethod
    def check(pipeline: Pipeline, raw: State) -> None:
        """Raise `SpecError` for all but points and tables."""
        if not (isinstance(raw, Tensor) and raw.ndim == 2):
            raise SpecError(f"samples {describe(raw)} are no table; name a .safetensors or .npz file, or a folder")

    def add(self, made: Samples) -> None:
        """Append the rows."""
        raw = made.raw()
        self.check(made.pipeline, raw)
        assert isinstance(raw, Tensor)
        begins = not self.place.exists()
        with self.place.open("a", newline="", encoding="utf-8") as file:
            out = csv.writer(file)
            if begins:
                out.writerow([*(f"x{i}" for i in range(raw.shape[1])), *made.cond])
            under = (value.tolist() for value in made.cond.values())
            out.writerows([*row, *classes] for row, *classes in zip(raw.tolist(), *under, strict=True))

    def close(self, cost: Mapping[str, Any]) -> str:
        """Nothing is left to write."""
        return ""


class Folder:
    """A file for every sample, by its number and class: .png of images, .txt of text, else .npy (.npz of trees)."""

    def __init__(self, place: Path, n: int) -> None:
        self.place, self.digits, self.done = place, max(5, len(str(n - 1))), 0
        place.mkdir(parents=True)
        self.within: Range | None = None

    @staticmethod
    def check(pipeline: Pipeline, raw: State) -> None:
        """Every state goes into it."""

    def add(self, made: Samples) -> None:
        """Write the files of a batch."""
        raw, texts = made.raw(), made.pipeline.spec.data.texts(made.raw())
        names = [self._name(made, i) for i in range(len(made))]
        self.done += len(names)
        if texts is not None:
            self._each(names, ".txt", [f"{text}\n".encode() for text in texts])
        elif isinstance(raw, Tensor) and raw.ndim == 4 and (raw.shape[1] in (1, 3) or made.pipeline.spec.data.has_opacity):
            self.within = self.within or span(made.pipeline, raw)
            shown = (raw.detach().cpu().float() - self.within.lo) / (self.within.hi - self.within.lo)
            self._each(names, ".png", (canvas.png_image(image) for image in shown))
        else:
            self._each(names, ".npy" if isinstance(raw, Tensor) else ".npz", (_array(raw, i) for i in range(len(names))))

    def _name(self, made: Samples, i: int) -> str:
        under = [class_name(made.pipeline, key, int(value[i])) for key, value in made.cond.items() if is_class(value)]
        return file_name("-".join([f"{self.done + i:0{self.digits}d}", *under]))

    def _each(self, names: Sequence[str], ending: str, contents: Iterable[bytes]) -> None:
        for name, content in zip(names, contents, strict=True):
            (self.place / f"{name}{ending}").write_bytes(content)

    def close(self, cost: Mapping[str, Any]) -> str:
        """Nothing is left to write."""
        return ""


def _array(raw: State, i: int) -> bytes:
    """One sample as the bytes of a .npy file, of a tree as those of an .npz file."""
    import numpy as np

    buffer = io.BytesIO()
    arrays = {_named(name): leaf[i].detach().cpu().numpy() for name, leaf in named_leaves(raw).items()}
    np.save(buffer, arrays["x"]) if isinstance(raw, Tensor) else np.savez(buffer, **arrays)  # pyright: ignore[reportArgumentType]
    return buffer.getvalue()


SINKS: dict[str, type[Sink]] = {
    ".safetensors": Tensors,
    ".npz": Arrays,
    ".png": First,
    ".gif": Animation,
    ".txt": Lines,
    ".csv": Table,
}
"""What writes a file, by its ending."""
