"""The weights of the pretrained models: where they are on this machine, and how their files are read.

They belong to the package galaxygrad and stay in the user's install of it. The package is found, never imported.
"""

from __future__ import annotations

import hashlib
import io
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import attrs
import numpy as np

import diffcore as dc

Name = Literal["hsc32", "hsc64", "ztf32", "ztf64", "lens72", "lsst60", "roman120"]
VARIABLE = "GALAXYGRAD_WEIGHTS"
INSTALL = "pip install --no-deps galaxygrad==0.2.1"


@attrs.frozen
class Model:
    """One pretrained model: its file in the package, the side of its images, and the SHA-256 of the file in version 0.2.1."""

    file: str
    side: int
    sha256: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """(1, side, side)."""
        return 1, self.side, self.side


MODELS: dict[str, Model] = {
    "hsc32": Model("eqx_hsc_ScoreNet32.eqx", 32, "cb926562fcdfcbd33952fea8b2394074e75cb652fb7824c4c809a5f89a0a6532"),
    "hsc64": Model("eqx_hsc_ScoreNet64.eqx", 64, "4758114b1b77e4640ca7b834a976202aeb126fd7332ec07842af46d72c6b2e01"),
    "ztf32": Model("eqx_ZTF_ScoreNet32.eqx", 32, "60b29e6b9b7b4baa4ddc84132d083991c9e1e2910f55f3e9ae16e65bf0df8f47"),
    "ztf64": Model("eqx_ZTF_ScoreNet64.eqx", 64, "806cb83de98d8aff924dd13b267bcb157d72ddb819804a541134a06adb391065"),
    "lens72": Model("eqx_quasar_lens72.eqx", 72, "b1574b390d2e450521f6234ff3f3288937c53237a76189883d61342c9d293c2f"),
    "lsst60": Model("eqx_lsst_ScoreNet60.eqx", 60, "93ef40f17a6e7e87e6527c90d5c1d4f2b17c77bbedfc14b08d014c53aa2db0e0"),
    "roman120": Model("eqx_roman_Scorenet120.eqx", 120, "68a1d78410c877b7b50f466b505cb75d073f1f44e904420ed0fd9fb678201b03"),
}


def find(name: str, weights: str | None = None) -> Path:
    """The weights file of a model: of the path `weights` (a file, or a folder of them), else of the folder in the environment
    variable GALAXYGRAD_WEIGHTS, else of the installed package. Raises `DataError`, saying what to run, where there is none.
    """
    named = weights or os.environ.get(VARIABLE)
    where = "field 'weights'" if weights else f"environment variable {VARIABLE}"
    if named:
        path = dc.user_path(named)
        path = path / MODELS[name].file if path.is_dir() else path
        if path.is_file():
            return path
        raise dc.DataError(f"there is no weights file {path} ({where}); fetch it with `{INSTALL}` and leave that out")
    package = find_spec("galaxygrad")
    for folder in (package.submodule_search_locations or ()) if package else ():
        if (Path(folder) / MODELS[name].file).is_file():
            return Path(folder) / MODELS[name].file
    state = "is not installed" if package is None else f"holds no {MODELS[name].file} (other versions have other files)"
    raise dc.DataError(f"the weights of '{name}' come with the package galaxygrad, which {state}: fetch them with `{INSTALL}`")


def load(name: str, weights: str | None = None) -> list[np.ndarray]:
    """The arrays of a model, in the order of its file. Those of the installed package must have their published hash.

    Raises `DataError` where the file is missing, damaged, or of another version.
    """
    path = find(name, weights)
    content = path.read_bytes()
    if weights is None and VARIABLE not in os.environ and hashlib.sha256(content).hexdigest() != MODELS[name].sha256:
        raise dc.DataError(f"{path} is not the file of galaxygrad 0.2.1 (other SHA-256): fetch that with `{INSTALL}`")
    return read(content, str(path))


def read(content: bytes, name: str) -> list[np.ndarray]:
    """The arrays of an equinox file: `.npy` records one after another, nothing pickled. Raises `DataError` where damaged."""
    file, arrays = io.BytesIO(content), list[np.ndarray]()
    try:
        while file.tell() < len(content):
            arrays.append(dc.read_npy(file, len(content) - file.tell(), f"array {len(arrays)}"))
    except dc.DataError as error:
        raise dc.DataError(f"{name} is damaged ({error}): fetch it again with `{INSTALL}`") from None
    if not all(array.dtype.kind == "f" and bool(np.isfinite(array).all()) for array in arrays):
        raise dc.DataError(f"{name} holds values that are no finite numbers: fetch it again with `{INSTALL}`")
    return arrays
