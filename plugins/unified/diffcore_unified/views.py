"""One trained run in five views: what the choice of sampler, and of schedule, does to the samples of one network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

import diffcore as dc
from diffcore_unified.through import Through

DETERMINISTIC = ("pf-ode", "flow-matching", "trig-flow")


class Views(NamedTuple):
    """samples: view -> samples [n, ...] in the network's range, in the same order and from the same noise.

    names, distance: the deterministic views, and the root mean square difference per entry between each two, float64 [3, 3].
    It is the error of their solvers, since they solve one ODE; the two stochastic views share its marginals only.
    """

    samples: Mapping[str, dc.State]
    names: tuple[str, ...]
    distance: Tensor


def solvers(registry: dc.Registry, steps: int = 40) -> dict[str, dc.Solver]:
    """The five views as solvers of one trained run, all on levels equally spaced in lam.

    Needs the components ancestral, euler-maruyama, heun, uniform-lam, flow and trig. Raises `UnknownComponentError` where
    one of them is not installed.
    """
    grid: dict[str, Any] = {"type": "uniform-lam"}

    def on(schedule: str) -> dc.Solver:
        inner = registry.make("solver", "heun", grid=grid)
        return Through(steps=steps, to=registry.make("process", schedule), solver=inner)

    plain = {"ddpm": "ancestral", "score-sde": "euler-maruyama", "pf-ode": "heun"}
    found = {view: registry.make("solver", id, steps=steps, grid=grid) for view, id in plain.items()}
    return {**found, "flow-matching": on("flow"), "trig-flow": on("trig")}


def one_run_five_views(
    pipeline: dc.Pipeline, n: int = 16, *, steps: int = 40, seed: int = 0, cond: Mapping[str, Any] | None = None
) -> Views:
    """Sample a trained run as DDPM, reverse SDE, probability-flow ODE, flow matching and trig flow, from the same noise.

    The same n start states and, for the stochastic two, the same noise of every step. The run may be of any affine process.
    """
    made = {name: pipeline.sample(n, seed, cond, solver=s).x for name, s in solvers(pipeline.registry, steps).items()}
    distance = torch.tensor([[rms(made[a], made[b]) for b in DETERMINISTIC] for a in DETERMINISTIC], dtype=torch.float64)
    return Views(made, DETERMINISTIC, distance)


def rms(a: dc.State, b: dc.State) -> float:
    """The root mean square difference of two states per entry."""
    gaps = [(x.double() - y.double()).flatten() for x, y in zip(dc.leaves(a), dc.leaves(b), strict=True)]
    return float(torch.cat(gaps).square().mean() ** 0.5)
