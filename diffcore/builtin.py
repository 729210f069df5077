"""The components of the core itself: no formulation, only what every formulation shares."""

from __future__ import annotations

from collections.abc import Iterator

from diffcore.declare.component import Component
from diffcore.declare.hookspecs import API_VERSION, hookimpl

__all__ = ["API_VERSION"]


@hookimpl
def diffcore_processes() -> Iterator[Component]:
    """The law of noise that a process has where none is named."""
    yield Component("white", "diffcore.numerics.noise:White", "independent standard normal entries", kind="noise")
    yield Component("by-part", "diffcore.numerics.noise:ByPart", "a law for each part of a tree", kind="noise")


@hookimpl
def diffcore_solvers() -> Iterator[Component]:
    """The flow map as a solver."""
    yield Component("flow-map", "diffcore.numerics.flow_map:FlowMapSolver", "jumps by the model's flow map, one per step")


@hookimpl
def diffcore_trainers() -> Iterator[Component]:
    """The ordinary training program."""
    yield Component(
        "standard",
        "diffcore.learning.trainer:Trainer",
        "trains one network on one loss: AdamW, warm-up, moving average of the weights",
    )
