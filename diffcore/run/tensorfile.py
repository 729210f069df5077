"""A safetensors file whose rows arrive batch by batch: https://github.com/huggingface/safetensors#format."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from diffcore.declare.errors import SpecError
from diffcore.run import checkpoint

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class TensorFile:
    """n rows of named tensors. The header has room for the metadata and the digest, which are known when all rows are there."""

    def __init__(self, path: Path, like: Mapping[str, Tensor], n: int) -> None:
        """like: tensors of the shapes and types of the rows."""
        odd = [f"'{name}' {value.dtype}" for name, value in like.items() if value.dtype not in _DTYPES]
        if odd:
            raise SpecError(f"a safetensors file has no numbers of the type of {', '.join(odd)}")
        self.path, self.done = path, 0
        self.entries, self.row_bytes = dict[str, Any](), dict[str, int]()
        end = 0
        for name in sorted(like, key=lambda name: (-like[name].element_size(), name)):  # wide numbers first: all are aligned
            shape, start = (n, *like[name].shape[1:]), end
            self.row_bytes[name] = prod(shape[1:]) * like[name].element_size()
            end += n * self.row_bytes[name]
            self.entries[name] = {"dtype": _DTYPES[like[name].dtype], "shape": shape, "data_offsets": (start, end)}
        self.room = -(-len(self._header({}, "0" * 32)) // 8) * 8 + 256
        with path.open("wb") as file:
            file.truncate(8 + self.room + end)

    def append(self, rows: Mapping[str, Tensor]) -> None:
        """Write the next rows of every tensor."""
        with self.path.open("r+b") as file:
            for name, value in rows.items():
                file.seek(8 + self.room + self.entries[name]["data_offsets"][0] + self.done * self.row_bytes[name])
                file.write(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        self.done += len(next(iter(rows.values())))

    def close(self, meta: Mapping[str, Any]) -> None:
        """Write metadata and digest, those of `checkpoint.save`."""
        self._write_header(meta, "")
        self._write_header(meta, checkpoint.digest(dict(self.read(self.path)), json.dumps(meta, sort_keys=True)))

    def _header(self, meta: Mapping[str, Any], digest: str) -> bytes:
        about = {"diffcore": json.dumps(meta, sort_keys=True), "digest": digest}
        return json.dumps({"__metadata__": about, **self.entries}).encode()

    def _write_header(self, meta: Mapping[str, Any], digest: str) -> None:
        with self.path.open("r+b") as file:
            file.write(self.room.to_bytes(8, "little") + self._header(meta, digest).ljust(self.room))
            file.flush()
            os.fsync(file.fileno())

    @staticmethod
    def read(path: Path) -> Iterator[tuple[str, Tensor]]:
        """Names and tensors, which the system reads from the disk as they are used."""
        with safetensors.safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                yield name, file.get_tensor(name)
