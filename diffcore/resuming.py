"""Training that goes on where it stopped: what a checkpoint holds, and whether it is of the same spec."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from diffcore import checkpoint, distributed
from diffcore.errors import CheckpointError
from diffcore.registry import Registry
from diffcore.specs.spec import Spec
from diffcore.trainer import Player

Parts = Mapping[str, nn.Module]


def keep(folder: Path, players: Sequence[Player], parts: Parts, identity: Mapping[str, Any], step: int, newest: int) -> None:
    """Write the checkpoint of a step, by the first process, and remove all but the `newest` ones."""
    if distributed.world()[0] == 0:
        tensors, numbers = dict[str, Tensor](_unplayed(players, parts)), dict[str, Any]()
        for player in players:
            held, counted = player.state()
            tensors.update(held)
            numbers.update(counted)
        meta = {"step": step, "numbers": numbers, "identity": identity}
        checkpoint.save(folder / f"step-{step:08d}.safetensors", tensors, meta)
        checkpoint.prune(folder, newest)
    distributed.barrier()


@torch.no_grad()
def restore(
    folder: Path, players: Sequence[Player], parts: Parts, identity: Mapping[str, Any], say: Callable[[str], None]
) -> int:
    """Take up the newest whole checkpoint of a folder; returns its step, 0 where there is none.

    Raises `CheckpointError` where it is of another spec or of other modules.
    """
    found = checkpoint.latest(folder)
    if found is None:
        return 0
    tensors, meta, refused = found
    _same(folder, meta["identity"], identity)
    for line in refused:
        say(f"refused a checkpoint: {line}; going on from the one before it, step {meta['step']}")
    for player in players:
        player.restore(tensors, meta["numbers"])
    for name, value in _unplayed(players, parts).items():
        if name not in tensors or tensors[name].shape != value.shape:
            raise CheckpointError(f"the checkpoint has no '{name.removeprefix('state/')}' of shape {tuple(value.shape)}")
        value.copy_(tensors[name])
    return int(meta["step"])


def _unplayed(players: Sequence[Player], parts: Parts) -> dict[str, Tensor]:
    """The state of the modules that no player has: buffers, teachers, averages."""
    played = {id(parameter) for player in players for parameter in player.parameters.values()}
    return {
        f"state/{role}.{key}": value
        for role, module in parts.items()
        for key, value in module.state_dict(keep_vars=True).items()
        if id(value) not in played
    }


def check(folder: Path, wanted: Mapping[str, Any]) -> None:
    """Raise `CheckpointError`, naming what differs, where the folder holds checkpoints of another spec."""
    found = checkpoint.latest(folder)
    if found is not None:
        _same(folder, found[1]["identity"], wanted)


def _same(folder: Path, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    differing = differences(stored, wanted)
    if differing:
        raise CheckpointError(
            f"the checkpoints in {folder} belong to another spec ({'; '.join(differing[:5])}); choose another --out, remove "
            f"that folder, or start from its weights with 'init'"
        )


def identity(registry: Registry, spec: Spec, *, without: Sequence[str], free: Sequence[str] = ()) -> dict[str, Any]:
    """The spec as plain data, as JSON gives it back, without some sections and without some fields of the trainer."""
    from diffcore.specs import unstructure

    raw = {k: v for k, v in unstructure(registry, spec).items() if k not in without}
    raw["trainer"] = {k: v for k, v in raw["trainer"].items() if k not in free}
    return json.loads(json.dumps(raw))


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """`path: old -> new` for every value that differs."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [] if old == new else [f"{path}: {json.dumps(old)} -> {json.dumps(new)}"]
    before, after = cast(dict[str, Any], old), cast(dict[str, Any], new)
    below = [differences(before.get(k), after.get(k), f"{path}.{k}" if path else k) for k in sorted({*before, *after})]
    return [difference for found in below for difference in found]
