"""Arithmetic on posteriors: linear combinations whose weights sum to 1, and choices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

import diffcore as dc


def shared_row(*posteriors: dc.Posterior) -> str:
    """The name of the target that all of them hold, else "x0".

    At one x_t every target is an affine function of every other, so a combination with weights that sum to 1 may be taken in
    any of them; in the network's own row nothing is converted and no precision is lost.
    """
    names = {p.name for p in posteriors}
    return names.pop() if len(names) == 1 else "x0"


def merge(fn: Callable[..., Any], *posteriors: dc.Posterior) -> dc.Posterior:
    """The first posterior with `fn` of all their values of the shared row."""
    name = shared_row(*posteriors)
    return posteriors[0].replace(name, fn(*(p.read(name) for p in posteriors)))


def per_sample(x: torch.Tensor) -> torch.Tensor:
    """(B, everything else)."""
    return x.reshape(len(x), -1)
