"""The checks of the conformance kit, one module per kind. Importing this package registers them all."""

from __future__ import annotations

from diffcore.testing.checks import (
    adapter,
    any_kind,
    calibration,
    contracts,
    data,
    flow_map,
    grid,
    guidance,
    loss,
    metric,
    network,
    noise,
    process,
    solver_accuracy,
    solver_contract,
    solver_noise,
    solver_state,
    start,
    trainer,
)

__all__ = [
    "adapter",
    "any_kind",
    "calibration",
    "contracts",
    "data",
    "flow_map",
    "grid",
    "guidance",
    "loss",
    "metric",
    "network",
    "noise",
    "process",
    "solver_accuracy",
    "solver_contract",
    "solver_noise",
    "solver_state",
    "start",
    "trainer",
]
