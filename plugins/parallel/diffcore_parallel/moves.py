"""What the nodes of a window are moved by: the steps of a planned solver."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import diffcore as dc


def row_cast(value: Tensor, like: Tensor) -> Tensor:
    """A planned value on the device and in the precision of a state."""
    return value.to(device=like.device, dtype=like.dtype)


def point_cast(point: Any, like: Tensor) -> Any:
    """A planned time on the device and in the precision of a state, the time itself at least in float32."""
    wide = like.new_empty(0, dtype=torch.promote_types(like.dtype, torch.float32))
    cast = {k: row_cast(v, wide if k == "t" else like) for k, v in point._asdict().items() if isinstance(v, Tensor)}
    return point._replace(**cast, time=None)


def is_point(value: Any) -> bool:
    """Whether an entry of a plan is a time with its coefficients."""
    return isinstance(value, tuple) and hasattr(value, "t") and hasattr(value, "time")


def point_at(point: Any, index: Tensor) -> Any:
    """Some of the times of a point."""
    return point._replace(**{k: v[index] for k, v in point._asdict().items() if isinstance(v, Tensor) and v.ndim})


class Steps:
    """The steps of a solver without history: step i moves x by D_i(x) = step(x, row_i, z_i) - x.

    Rows enter a step as tensors with one value per evaluation, as with a time per sample. z_i is drawn once and kept as long
    as the window needs it. `kinds`: steps whose rows hold the same Python integers can be taken in one call of the network.

    Raises `IncompatibleError` for a plan with several numbers per step in one entry, and for one that repeats steps.
    """

    extra = 0

    def __init__(self, of: dc.Stepper, process: dc.Process, grid: Tensor, x: dc.State, draw: dc.Draw) -> None:
        self.of, self.process, self.x, self.draw = of, process, x, draw
        self.plan = of.plan(process, grid)
        if self.plan.steps != len(grid) - 1:
            raise dc.IncompatibleError(f"solver {type(of).__name__} takes {self.plan.steps} steps on {len(grid) - 1} intervals")
        self.columns = self._columns(self.plan)
        fixed = [v for v in self.plan.flat.values() if isinstance(v, tuple) and not is_point(v)]
        keys = list(zip(*fixed, strict=True)) if fixed else [()] * self.plan.steps
        order = {key: n for n, key in enumerate(dict.fromkeys(keys))}
        self.kinds = torch.tensor([order[key] for key in keys])
        self.explicit = torch.ones(self.plan.steps, dtype=torch.bool)
        self.noisy = self.plan.stochastic and any(self.plan.draws)
        self.kept: dict[int, dc.State] = {}

    def _columns(self, plan: dc.Plan) -> dict[str, Any]:
        """The entries of a plan, and of the plans in it."""
        found = {k: self._columns(v) if isinstance(v, dc.Plan) else self._column(k, v) for k, v in plan.entries.items()}
        return found if plan.stochastic else {**found, "noise": 0.0}

    def _row(self, plan: dc.Plan, columns: dict[str, Any], nodes: Tensor) -> Any:
        parts = dict[str, Any]()
        for name, value in columns.items():
            inner = isinstance(value, dict)
            parts[name] = self._row(plan.entries[name], value, nodes) if inner else self._picked(value, nodes)
        return plan.row_type(**parts)

    def _column(self, name: str, value: Any) -> Any:
        like = dc.leaves(self.x)[0]
        if isinstance(value, Tensor) and value.ndim > 1:
            raise dc.IncompatibleError(f"solver {type(self.of).__name__} plans several numbers per step in '{name}'; use another")
        return row_cast(value, like) if isinstance(value, Tensor) else point_cast(value, like) if is_point(value) else value

    def values(self, field: dc.Field, x: dc.State, nodes: Tensor, rows: Tensor) -> dc.State:
        """D of every evaluation: state x of sample `rows` at the node `nodes`, all of one kind."""
        row = self._row(self.plan, self.columns, nodes)
        after = self.of.step(field, x, row, None, self._noise(nodes, rows)).x
        return dc.lincomb((1.0, after), (-1.0, x))

    def _picked(self, value: Any, nodes: Tensor) -> Any:
        if is_point(value):
            return point_at(value, nodes)
        return value[nodes] if isinstance(value, Tensor) else value[int(nodes[0])] if isinstance(value, tuple) else value

    def _noise(self, nodes: Tensor, rows: Tensor) -> dc.State:
        if not self.noisy:
            return None
        low, high = int(nodes.min()), int(nodes.max())
        window = [self._fresh(i) for i in range(low, high + 1)]
        return dc.tree_map(lambda *z: torch.stack(z)[nodes - low, rows], *window)

    def _fresh(self, i: int) -> dc.State:
        if i not in self.kept:
            z = self.of.draws(self.process, self.x, self.draw.at(i + 1))
            self.kept[i] = z if self.plan.draws[i] else dc.tree_map(torch.zeros_like, z)
        return self.kept[i]

    def release(self, low: int) -> None:
        """Forget the noise of the steps before node `low`."""
        self.kept = {i: z for i, z in self.kept.items() if i >= low}

    def increments(self, values: dc.State, nodes: Tensor) -> dc.State:
        """What carries node i to i + 1: D_i itself."""
        return values
