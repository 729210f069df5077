"""Training that goes on where it stopped: what a checkpoint holds, and who a run directory belongs to."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import attrs
import torch
from torch import Tensor, nn

from diffcore.declare.errors import CheckpointError
from diffcore.learning import distributed
from diffcore.learning.trainer import Player
from diffcore.run import checkpoint, weights
from diffcore.run.metadata import Paused, Trained, unstructured
from diffcore.run.report.escaping import setting

Parts = Mapping[str, nn.Module]
AFTER_TRAINING = ("sampling", "solver", "guidance", "metrics", "evaluation")
"""Sections of a spec that say nothing about training."""
FREE = ("checkpoint_every", "keep", "log_every")
"""Fields of a trainer that do not change what is learnt."""
MADE = (weights.NAME, "evaluation.json", "samples", "report.html")
"""What a run directory holds where something came of its spec."""


def keep(folder: Path, players: Sequence[Player], parts: Parts, meta: Trained, newest: int) -> None:
    """Write the checkpoint of the step in `meta`, by the first process, and remove all but the `newest` ones."""
    if distributed.world()[0] == 0:
        tensors, numbers = dict[str, Tensor](_unplayed(players, parts)), dict[str, Any]()
        for player in players:
            held, counted = player.state()
            tensors.update(held)
            numbers.update(counted)
        path = folder / f"step-{meta.step:08d}.safetensors"
        checkpoint.save(path, tensors, {**unstructured(meta), "numbers": numbers})
        checkpoint.prune(folder, newest, meta.step)
    distributed.barrier()


@torch.no_grad()
def restore(folder: Path, players: Sequence[Player], parts: Parts, fixed: Parts, newest: int, say: Callable[[str], None]) -> int:
    """Take up the newest whole checkpoint of a folder, of which the `newest` stay; returns its step, 0 where there is none.

    fixed: modules that are not trained, whose state comes back as a whole. Raises `CheckpointError` where there are
    checkpoints and none is whole and of these modules.
    """
    found = checkpoint.latest(folder, partial(_read, players))
    if found is None:
        return 0
    (path, tensors, meta), refused = found
    for line in refused:
        say(f"refused a checkpoint: {line}; going on from the one before it, step {meta.step}")
    for player in players:
        player.restore(tensors, meta.numbers)
    for name, value in _unplayed(players, parts).items():
        if name not in tensors or tensors[name].shape != value.shape:
            raise CheckpointError(f"the checkpoint has no '{name.removeprefix('state/')}' of shape {tuple(value.shape)}")
        value.copy_(tensors[name])
    weights.take(path, weights.averaged(tensors), fixed)
    if distributed.world()[0] == 0:
        checkpoint.prune(folder, newest, meta.step)
    return meta.step


def _read(players: Sequence[Player], path: Path) -> tuple[Path, dict[str, Tensor], Paused]:
    """A checkpoint. Raises `CheckpointError` where it is damaged, or lacks what the players must have."""
    tensors, raw = checkpoint.load(path)
    meta = weights.paused(path, raw)
    wanted = {f"{p.name}/ema/{key}": value.shape for p in players for key, value in p.ema.items()}
    wanted |= {f"{p.name}/parameter/{key}": value.shape for p in players for key, value in p.parameters.items()}
    for name, shape in wanted.items():
        if name not in tensors or tensors[name].shape != shape:
            raise CheckpointError(f"{path} has no '{name}' of shape {tuple(shape)}")
    return path, tensors, meta


def _unplayed(players: Sequence[Player], parts: Parts) -> dict[str, Tensor]:
    """The state of the modules that no player has: buffers, teachers, averages."""
    played = {id(parameter) for player in players for parameter in player.parameters.values()}
    return {
        f"state/{role}.{key}": value
        for role, module in parts.items()
        for key, value in module.state_dict(keep_vars=True).items()
        if id(value) not in played
    }


# --- whose a run directory is -----------------------------------------------------------------------------------------


def check(run: Path, wanted: Trained) -> None:
    """Raise `CheckpointError`, naming what differs and what can be done, where a run directory is not that of this spec.

    Its newest whole checkpoint is asked, then its weights, and spec.yaml where neither can be read but something was made.
    """
    found = checkpoint.latest(run / "checkpoints", weights.read_checkpoint)
    known = _known(run)
    if found is not None:
        _refuse(run, found[0].meta, wanted, steps=_free_steps(found[0].meta, wanted))
    if known is not None:
        _refuse(run, known, wanted, steps=found is not None)
    elif found is None:
        _check_text(run, wanted)


def _known(run: Path) -> Trained | None:
    try:
        return weights.read_file(run / weights.NAME).meta
    except CheckpointError:
        return None


def _check_text(run: Path, wanted: Trained) -> None:
    """By spec.yaml alone: where it is of another spec and something was made under it."""
    if not any((run / name).exists() for name in MADE):
        return
    try:
        written = attrs.evolve(wanted, spec=(run / "spec.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    _refuse(run, written, wanted, steps=True)


def _free_steps(stored: Trained, wanted: Trained) -> bool:
    """Whether another number of steps is the same training: the rate does not depend on it, or the training ends here."""
    trainer = _section(wanted.values, "trainer")
    steps = trainer.get("steps")
    return trainer.get("final_lr", 0.0) is None or (isinstance(steps, int) and steps <= stored.step)


def _refuse(run: Path, stored: Trained, wanted: Trained, *, steps: bool) -> None:
    free = (*FREE, "steps") if steps else FREE
    before, after = (identity(meta.values, without=(*AFTER_TRAINING, "name"), free=free) for meta in (stored, wanted))
    found = differences(before, after)
    owner = "another spec" if found else "other data"
    if stored.data and wanted.data:
        found = [line for line in found if not (_is_place(line) and stored.data.has_contents(wanted.data))]
        found += stored.data.differences(wanted.data)
    if found:
        raise CheckpointError(f"{run} belongs to {owner} ({'; '.join(found[:5])}); {_ways_out(run, stored, found)}")


def _is_place(difference: str) -> bool:
    """Whether only the place is another where the data is."""
    field = difference.partition(":")[0]
    return field.startswith("data.") and field.endswith(".path")


def _ways_out(run: Path, stored: Trained, found: Sequence[str]) -> str:
    """What can be done instead, and would work."""
    ways = [f"choose another --out, where {setting('init', run)} starts from what this run has learnt"]
    if any(line.startswith(("data.type", "process", "network", "shape", "classes")) for line in found):
        ways = ["choose another --out"]
    if all(line.startswith("trainer.steps") for line in found) and any((run / "checkpoints").glob("*.safetensors")):
        ways.append(f"or end the training where it is: --set trainer.steps={stored.step}")
    return ", ".join(ways)


def _section(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = values.get(name)
    return cast(Mapping[str, Any], found) if isinstance(found, Mapping) else {}


def identity(values: Mapping[str, Any], *, without: Sequence[str], free: Sequence[str] = ()) -> dict[str, Any]:
    """The plain values of a spec without some sections and without some fields of the trainer."""
    raw = {k: v for k, v in values.items() if k not in without}
    return {**raw, "trainer": {k: v for k, v in _section(values, "trainer").items() if k not in free}}


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """`path: old -> new` for every value that differs."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [] if old == new else [f"{path}: {json.dumps(old)} -> {json.dumps(new)}"]
    before, after = cast(dict[str, Any], old), cast(dict[str, Any], new)
    below = [differences(before.get(k), after.get(k), f"{path}.{k}" if path else k) for k in sorted({*before, *after})]
    return [difference for found in below for difference in found]
