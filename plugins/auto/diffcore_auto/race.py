"""Successive halving: many candidates on few states, few candidates on many."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch

import diffcore as dc
from diffcore_auto.candidates import Candidate
from diffcore_auto.trial import Measure, Trial

FIRST, KEEP = 8, 4
"""States of the first round, and the share of the candidates that goes on to twice as many."""


@attrs.frozen(eq=False)
class Placed:
    """A candidate and its error on the most states it was tried on; infinite where it failed, with the cause."""

    candidate: Candidate
    error: float
    states: int
    cause: str = ""


def race(trial: Trial, entrants: Sequence[Candidate], measure: Measure, finalists: int) -> list[Placed]:
    """All candidates, best first: those that came to the last round (all states), then those of the round before, ...

    Round r tries the best 1 / KEEP of round r - 1 on twice as many states, at least `finalists` of them, and all that are
    documented: a few states must not throw out what is known to be good.
    """
    running, out, states = list(entrants), list[Placed](), min(FIRST, trial.size)
    while True:
        placed = sorted((_try(trial.rows(0, states), c, measure) for c in running), key=lambda p: p.error)
        if states == trial.size:
            return placed + out
        good = [p for p in placed if p.error < torch.inf]
        best = good[: max(finalists, -(-len(good) // KEEP))]
        kept = best + [p for p in good[len(best) :] if p.candidate.documented]
        out = [p for p in placed if p not in kept] + out
        running = [p.candidate for p in kept]
        states = trial.size if len(best) <= finalists else min(2 * states, trial.size)


def _try(trial: Trial, candidate: Candidate, measure: Measure) -> Placed:
    try:
        error = trial.error(candidate.solver, candidate.nodes, measure)
        return Placed(candidate, error, trial.size)
    except dc.NumericsError:
        return Placed(candidate, torch.inf, trial.size, "not finite")
    except Exception as error:
        return Placed(candidate, torch.inf, trial.size, f"{type(error).__name__}: {error}")
