"""Checks of training programs."""

from __future__ import annotations

import torch
from torch import nn

from diffcore.testing.base import Subject, check


@check("trainer")
def players_own_parameters(subject: Subject) -> None:
    """Each player has a name and parameters; no frozen parameter is given to a player."""
    with torch.random.fork_rng():
        part, frozen = nn.Linear(2, 2), nn.Linear(2, 2).requires_grad_(False)
    players = subject.component.players({"model": part, "teacher": frozen})
    names = [p.name for p in players]
    assert len(set(names)) == len(names) > 0, f"players must have distinct names, got {names}"
    owned = {id(p) for player in players for p in player.parameters.values()}
    assert owned, "no player has parameters"
    assert not owned & {id(p) for p in frozen.parameters()}, "a frozen parameter is trained"
