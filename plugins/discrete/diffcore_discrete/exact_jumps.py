"""Exact simulation of the reverse jumps of masked tokens: one token at its own time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor

import diffcore as dc

from .categorical import chosen, pick


@dc.component
class ExactJumps(dc.Program):
    """First-hitting sampling: of n masks at t the next is revealed at s with 1 - alpha_s = (1 - alpha_t) u^(1/n), u uniform.

    Which mask is uniform over them, its value is drawn from p(x_0 | x_s) at that very moment. This is Gillespie's algorithm for
    the reversed chain, whose waiting times do not depend on the network: no discretisation error, as many network calls as the
    fullest sample has masks, whatever `steps` is. The run ends at the last time of the grid; masks whose time has not come by
    then stay. Each sample has its own times.
    """

    source: ClassVar[str] = "Zheng et al. 2025, arXiv 2409.02908; Gillespie 1977"
    requires: ClassVar[frozenset[str]] = frozenset({"tokens", "masks"})

    def frames(self, field: dc.Field, x: Tensor, grid: Tensor, draw: dc.Draw) -> Iterator[dc.Frame]:
        """A frame per event; its time is the latest of the batch."""
        process: Any = field.process
        end, t = float(grid[-1]), grid[0].to(x.device).expand(len(x))
        events = int((x == process.mask).flatten(1).sum(1).amax())
        yield dc.Frame(0, float(grid[0]), x)
        if not events:
            yield dc.Frame(1, end, x)
        for event in range(1, events + 1):
            t, x, known = self.event(field, x, t, end, draw.at(event).uniform((3,)).to(x.device))
            now = end if event == events else float(t.max())
            yield dc.Frame(event, now, x, x0=known)

    def event(self, field: dc.Field, x: Tensor, t: Tensor, end: float, u: Tensor) -> tuple[Tensor, Tensor, Any]:
        """One reveal in every sample that has a mask whose time comes before the end; (times, tokens, posterior)."""
        process: Any = field.process
        hidden = (x == process.mask).flatten(1)
        left = (1 - process.coeffs(t).alpha) * u[:, 0] ** (1 / hidden.sum(1).clamp_min(1))
        s = process.time_of_share(1 - left)
        due = (s >= end) & hidden.any(1)
        s = torch.where(due, s, end)
        known = field.posterior(x, s.clamp_min(process.min_time))
        return s, _revealed(x, known.probs, hidden, due, u), known


def _revealed(x: Tensor, probs: Tensor, hidden: Tensor, due: Tensor, u: Tensor) -> Tensor:
    """x with one mask of each due sample replaced by a draw from its probabilities."""
    place = pick(u[:, 1], hidden.double())
    value = pick(u[:, 2], probs.flatten(1, -2)[torch.arange(len(x), device=x.device), place])
    flat = x.flatten(1)
    value = torch.where(due, value, chosen(flat, place))
    return flat.scatter(1, place[:, None], value[:, None]).view_as(x)
