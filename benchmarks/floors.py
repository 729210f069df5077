"""Hand-written sampling loops with precomputed Python floats, the floor of every ratio.

"floor" writes the formula as it stands (`a * x + b * m`), "tight" calls as few out-of-place kernels as there are terms
(`torch.mul(x, a).add_(m, alpha=b)`), "in place" overwrites the state. A step is `step(net, x, t, row, last) -> (x, last)`
with `last` the previous network output; `row` holds the floats of the solver's own plan.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

import diffcore as dc

Step = Callable[..., tuple[Tensor, Tensor]]


def euler(net: Any, x: Tensor, t: Tensor, row: Any, last: Tensor) -> tuple[Tensor, Tensor]:
    """x + h v, as the formula stands."""
    return x + row.dt * net(x, t), last


def euler_tight(net: Any, x: Tensor, t: Tensor, row: Any, last: Tensor) -> tuple[Tensor, Tensor]:
    """x + h v, in as few out-of-place kernels as there are terms."""
    return torch.add(x, net(x, t), alpha=row.dt), last


def euler_in_place(net: Any, x: Tensor, t: Tensor, row: Any, last: Tensor) -> tuple[Tensor, Tensor]:
    """x + h v, overwriting the state."""
    return x.add_(net(x, t), alpha=row.dt), last


def ddim(net: Any, x: Tensor, t: Tensor, row: Any, last: Tensor) -> tuple[Tensor, Tensor]:
    """keep x + gain x0, as the formula stands."""
    return row.keep * x + row.gain * net(x, t), last


def ddim_tight(net: Any, x: Tensor, t: Tensor, row: Any, last: Tensor) -> tuple[Tensor, Tensor]:
    """keep x + gain x0, in as few out-of-place kernels as there are terms."""
    return torch.mul(x, row.keep).add_(net(x, t), alpha=row.gain), last


def ddim_in_place(net: Any, x: Tensor, t: Tensor, row: Any, last: Tensor) -> tuple[Tensor, Tensor]:
    """keep x + gain x0, overwriting the state."""
    return x.mul_(row.keep).add_(net(x, t), alpha=row.gain), last


def heun(net: Any, x: Tensor, t: Tensor, row: Any, last: Tensor) -> tuple[Tensor, Tensor]:
    """x + h (k1 + k2) / 2, Euler's where there is no second slope, as the formula stands."""
    k1 = net(x, t)
    if not row.corrected:
        return x + row.first * k1, last
    return x + row.second * (k1 + net(x + row.reach * k1, t)), last


def heun_tight(net: Any, x: Tensor, t: Tensor, row: Any, last: Tensor) -> tuple[Tensor, Tensor]:
    """x + h (k1 + k2) / 2, Euler's where there is no second slope, in as few out-of-place kernels as there are terms."""
    k1 = net(x, t)
    if not row.corrected:
        return torch.add(x, k1, alpha=row.first), last
    k2 = net(torch.add(x, k1, alpha=row.reach), t)
    return torch.add(x, k1, alpha=row.first).add_(k2, alpha=row.second), last


def heun_in_place(net: Any, x: Tensor, t: Tensor, row: Any, last: Tensor) -> tuple[Tensor, Tensor]:
    """x + h (k1 + k2) / 2, Euler's where there is no second slope, overwriting the state."""
    k1 = net(x, t)
    if not row.corrected:
        return x.add_(k1, alpha=row.first), last
    x.add_(k1, alpha=row.reach)
    return x.add_(k1, alpha=row.first - row.reach).add_(net(x, t), alpha=row.second), last


def dpmpp_2m(net: Any, x: Tensor, t: Tensor, row: Any, last: Tensor) -> tuple[Tensor, Tensor]:
    """keep x + now m + before m_last, as the formula stands."""
    m = net(x, t)
    return row.keep * x + row.now * m + row.before * last, m


def dpmpp_2m_tight(net: Any, x: Tensor, t: Tensor, row: Any, last: Tensor) -> tuple[Tensor, Tensor]:
    """keep x + now m + before m_last, in as few out-of-place kernels as there are terms."""
    m = net(x, t)
    return torch.mul(x, row.keep).add_(m, alpha=row.now).add_(last, alpha=row.before), m


def dpmpp_2m_in_place(net: Any, x: Tensor, t: Tensor, row: Any, last: Tensor) -> tuple[Tensor, Tensor]:
    """keep x + now m + before m_last, overwriting the state."""
    m = net(x, t)
    return x.mul_(row.keep).add_(m, alpha=row.now).add_(last, alpha=row.before), m


STEPS: dict[str, dict[str, Step]] = {
    "euler": {"floor": euler, "tight": euler_tight, "in place": euler_in_place},
    "ddim": {"floor": ddim, "tight": ddim_tight, "in place": ddim_in_place},
    "heun": {"floor": heun, "tight": heun_tight, "in place": heun_in_place},
    "dpmpp-2m": {"floor": dpmpp_2m, "tight": dpmpp_2m_tight, "in place": dpmpp_2m_in_place},
}


def loops(method: str, net: Any, x: Tensor, process: dc.Process, solver: dc.Solver) -> dict[str, Callable[[], Tensor]]:
    """The three loops of a method, each a function of nothing that returns the last state."""
    plan = solver.plan(process, solver.nodes(process))
    names = [name for name, value in plan.entries.items() if name not in ("t", "u", "out")]
    columns = [v.tolist() if isinstance(v, Tensor) else v for v in (plan.entries[name] for name in names)]
    rows = [SimpleNamespace(**dict(zip(names, values, strict=True))) for values in zip(*columns, strict=True)]
    times = [torch.full((len(x),), t) for t in plan.entries["t"].t.tolist()]

    def make(step: Step, copy: bool) -> Callable[[], Tensor]:
        @torch.no_grad()
        def run() -> Tensor:
            state, last = x.clone() if copy else x, torch.zeros_like(x)
            for row, t in zip(rows, times, strict=True):
                state, last = step(net, state, t, row, last)
            return state

        return run

    return {name: make(step, name == "in place") for name, step in STEPS[method].items()}
