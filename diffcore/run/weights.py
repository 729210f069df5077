"""Weights of a run: one safetensors file with the spec in its metadata, or the averaged weights in a checkpoint."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
from torch import Tensor, nn

from diffcore.declare.errors import CheckpointError, DiffcoreError
from diffcore.numerics.calibration import Table
from diffcore.numerics.process import Process
from diffcore.run.checkpoint import checkpoints, latest, load, save, step_of
from diffcore.run.metadata import Paused, Trained, structured, unstructured

Calibrations = Mapping[str, Mapping[str, Tensor]]
"""What solvers know about a model: by solver (as JSON), then by name."""
NAME = "weights.safetensors"


@attrs.frozen
class Held:
    """Weights that were read: tensors `role.key`, what is said of them, and a line where they are not those of a finished run."""

    file: Path
    tensors: Mapping[str, Tensor]
    meta: Trained
    note: str = ""


def write(path: Path, parts: Mapping[str, nn.Module], meta: Trained, calibrations: Calibrations) -> None:
    """Write the state of every module, named `role.key`, what solvers know about the model, and the metadata."""
    state = {f"{role}.{k}": v for role, module in parts.items() for k, v in module.state_dict().items()}
    save(path, {**state, **_named(calibrations)}, unstructured(attrs.evolve(meta, calibrations=tuple(calibrations))))


def write_calibrations(path: Path, calibrations: Calibrations) -> None:
    """Write what solvers know about the model beside the weights that are in a file; everything else in it stays."""
    tensors, meta = load(path)
    state = {k: v for k, v in tensors.items() if not k.startswith("calibration:")}
    save(path, {**state, **_named(calibrations)}, {**meta, "calibrations": list(calibrations)})


def _named(calibrations: Calibrations) -> dict[str, Tensor]:
    return {f"calibration:{i}.{name}": value for i, found in enumerate(calibrations.values()) for name, value in found.items()}


def calibrations_of(held: Held) -> dict[str, Mapping[str, Tensor]]:
    """What a weights file says that solvers know about the model; a calibration of nothing is none."""
    prefixes = {key: f"calibration:{i}." for i, key in enumerate(held.meta.calibrations)}
    calibrations = {
        key: {name.removeprefix(prefix): v for name, v in held.tensors.items() if name.startswith(prefix)}
        for key, prefix in prefixes.items()
    }
    return {key: Table(found) for key, found in calibrations.items() if found}


def read(path: Path, field: str = "") -> Held:
    """The weights of a run directory (of its newest whole checkpoint where training has not ended), or of a file of either sort.

    Raises `CheckpointError` where there are none, or where they are damaged.
    """
    where = f"{field}: " if field else ""
    if not path.exists():
        raise CheckpointError(
            f"{where}{path} does not exist; it must be a run directory, a weights file or a checkpoint, so train that run first"
        )
    if not path.is_dir():
        return read_file(path)
    if (path / NAME).exists():
        return _finished(path)
    found = latest(path / "checkpoints", read_checkpoint)
    if found is None:
        raise CheckpointError(f"{where}{path} holds neither {NAME} nor a checkpoint: it is not a run directory, or not yet")
    return attrs.evolve(found[0], note=_unfinished(path, *found))


def _finished(run: Path) -> Held:
    """The weights file of a run; where it is damaged, the error names the checkpoint that can be taken instead."""
    try:
        return read_file(run / NAME)
    except CheckpointError as error:
        other = next((path for path in checkpoints(run / "checkpoints") if _is_whole(path)), None)
        raise CheckpointError(f"{error}; take {other} instead" if other else str(error)) from None


def _is_whole(path: Path) -> bool:
    try:
        return bool(read_checkpoint(path))
    except CheckpointError:
        return False


def _unfinished(run: Path, held: Held, refused: Sequence[str]) -> str:
    lines = [f"refused a checkpoint: {line}" for line in refused]
    return "\n".join([*lines, f"training of {run} has not ended: its averaged weights at step {held.meta.step} are taken"])


def read_file(path: Path) -> Held:
    """The weights in a weights file, or the averaged ones in a checkpoint. Raises `CheckpointError` where it holds none."""
    tensors, raw = load(path)
    if "spec" not in raw:
        raise CheckpointError(f"{path} holds no weights of a run; take the run directory, its {NAME} or one of its checkpoints")
    if "numbers" in raw:
        return Held(path, averaged(tensors), paused(path, raw))
    return Held(path, tensors, structured(Trained, raw, str(path)))


def read_checkpoint(path: Path) -> Held:
    """The averaged weights in a checkpoint. Raises `CheckpointError` where it is none."""
    tensors, raw = load(path)
    return Held(path, averaged(tensors), paused(path, raw))


def paused(path: Path, raw: Mapping[str, Any]) -> Paused:
    """The metadata of a checkpoint. Raises `CheckpointError` where it is another file under the name of one."""
    meta = structured(Paused, raw, str(path))
    if step_of(path) not in (-1, meta.step):
        raise CheckpointError(f"{path} is the checkpoint of step {meta.step} under another name")
    return meta


def averaged(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a checkpoint as those of a weights file, `role.key`: averages where they are kept."""
    found: dict[str, dict[str, Tensor]] = {"state": {}, "parameter": {}, "ema": {}}
    for name, value in tensors.items():
        sort, _, key = name.partition("/") if name.startswith("state/") else name.partition("/")[2].partition("/")
        if sort in found:
            found[sort][key] = value
    return {**found["state"], **found["parameter"], **found["ema"]}


def check_process(path: Path, stored: Sequence[float], process: Process) -> None:
    """Refuse weights that were trained under other coefficients than the installed process has."""
    now = process.fingerprint()
    same = len(stored) == len(now) and all(abs(a - b) <= 1e-9 * max(1.0, abs(a)) for a, b in zip(stored, now, strict=True))
    if not same:
        raise CheckpointError(
            f"{path}: the process {type(process).__name__} installed here has other alpha and sigma than the one these weights "
            f"were trained with (trained {[round(v, 6) for v in stored[:4]]}..., here {[round(v, 6) for v in now[:4]]}...)"
        )


def take(path: Path, tensors: Mapping[str, Tensor], parts: Mapping[str, nn.Module]) -> None:
    """Load the tensors into the modules. Raises `CheckpointError` with the first reason where they do not fit."""
    tensors = {**_tied(tensors, parts), **tensors}
    for role, module in parts.items():
        state = {k.removeprefix(f"{role}."): v for k, v in tensors.items() if k.startswith(f"{role}.")}
        try:
            module.load_state_dict(state)
        except (RuntimeError, ValueError, TypeError, LookupError, DiffcoreError) as error:
            raise CheckpointError(f"the weights in {path} do not fit the {role} of this spec: {_reason(error)}") from None
        module.eval()


def _reason(error: Exception) -> str:
    """The first reason why a module does not take a state, in our words where it is the shape of a tensor."""
    lines = str(error).partition("\n")[2].strip().splitlines() or [str(error)]
    sizes = re.fullmatch(r"size mismatch for (\S+): .*torch\.Size\((.*)\) from.*torch\.Size\((.*)\)\.", lines[0])
    if sizes is None:
        return lines[0]
    name, there, here = sizes.groups()
    return f"{name} has shape {there} there, {here} here; set the network to the size of those weights"


def _tied(tensors: Mapping[str, Tensor], parts: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """One parameter under several names: a checkpoint has it under the first."""
    states = {f"{role}.{k}": v for role, module in parts.items() for k, v in module.state_dict(keep_vars=True).items()}
    known = {id(value): tensors[name] for name, value in states.items() if name in tensors}
    return {name: known[id(value)] for name, value in states.items() if id(value) in known}
