"""Weights of a run: one safetensors file with the spec in its metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from diffcore.checkpoint import checkpoints, load, save
from diffcore.errors import CheckpointError
from diffcore.process import Process

Fits = Mapping[str, Mapping[str, Tensor]]
"""What solvers know about a model: by solver (as JSON), then by name."""


def write(path: Path, parts: Mapping[str, nn.Module], meta: Mapping[str, Any], fits: Fits) -> None:
    """Write the state of every module, named `role.key`, what solvers know about the model, and the metadata."""
    state = {f"{role}.{k}": v for role, module in parts.items() for k, v in module.state_dict().items()}
    save(path, {**state, **_named(fits)}, {**meta, "fits": list(fits)})


def write_fits(path: Path, fits: Fits) -> None:
    """Write what solvers know about the model beside the weights that are in a file; everything else in it stays."""
    tensors, meta = load(path)
    state = {k: v for k, v in tensors.items() if not k.startswith("fit:")}
    save(path, {**state, **_named(fits)}, {**meta, "fits": list(fits)})


def _named(fits: Fits) -> dict[str, Tensor]:
    return {f"fit:{i}.{name}": value for i, found in enumerate(fits.values()) for name, value in found.items()}


def fits_of(tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> dict[str, Mapping[str, Tensor]]:
    """What a weights file says that solvers know about the model."""
    prefixes = {key: f"fit:{i}." for i, key in enumerate(meta["fits"])}
    return {
        key: {name.removeprefix(prefix): v for name, v in tensors.items() if name.startswith(prefix)}
        for key, prefix in prefixes.items()
    }


def find(path: Path, field: str = "") -> Path:
    """The weights of a run directory, or the file itself. Raises `CheckpointError` where there are none."""
    where = f"{field}: " if field else ""
    if not path.exists():
        raise CheckpointError(
            f"{where}{path} does not exist; it must be a run directory or a weights file, so train that run first"
        )
    if not path.is_dir():
        return path
    target = path / "weights.safetensors"
    if not target.exists():
        unfinished = bool(checkpoints(path / "checkpoints"))
        hint = "training has not finished; run the same command again to resume it" if unfinished else "it is not a run directory"
        raise CheckpointError(f"{where}{path} holds no weights.safetensors: {hint}")
    return target


def check_process(path: Path, stored: Sequence[float], process: Process) -> None:
    """Refuse weights that were trained under other coefficients than the installed process has."""
    now = process.fingerprint()
    if len(stored) != len(now) or any(abs(a - b) > 1e-9 * max(1.0, abs(a)) for a, b in zip(stored, now, strict=True)):
        raise CheckpointError(
            f"{path}: the process {type(process).__name__} installed here has other alpha and sigma than the one these weights "
            f"were trained with (trained {[round(v, 6) for v in stored[:4]]}..., here {[round(v, 6) for v in now[:4]]}...)"
        )


def take(path: Path, tensors: Mapping[str, Tensor], parts: Mapping[str, nn.Module]) -> None:
    """Load the tensors into the modules. Raises `CheckpointError` with the first reason where they do not fit."""
    for role, module in parts.items():
        state = {k.removeprefix(f"{role}."): v for k, v in tensors.items() if k.startswith(f"{role}.")}
        try:
            module.load_state_dict(state)
        except RuntimeError as error:
            reason = str(error).partition("\n")[2].strip().splitlines()
            raise CheckpointError(
                f"the weights in {path} do not fit the {role} of this spec: {reason[0] if reason else error}"
            ) from None
        module.eval()
