"""The paths of a flow: where they end, and how much their velocity changes on the way.

With u = (t - t_end) / (T - t_end) in [0, 1], t_end = max(min_time, cut T), and paths Z_u of the probability-flow ODE,

    S = int_0^1 E |(Z_1 - Z_0) - dZ/du|^2 du = int_0^1 E |dZ/du|^2 du - E |Z_1 - Z_0|^2 >= 0,

which is 0 exactly where every path is a straight line at constant speed, and then one Euler step is exact.

Source: Liu et al. 2022 (arXiv 2209.03003), section 2.2; Lai et al. 2025 (arXiv 2510.21890), chapter 5.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

import diffcore as dc


class Paths(NamedTuple):
    """Paths of n samples: the noise they start from, the samples they end in, and (n,) their squared bend S."""

    noise: Tensor
    data: Tensor
    bend: Tensor


def follow(field: dc.Field, x: Tensor, steps: int = 32, cut: float = 1e-3) -> Paths:
    """Integrate the probability-flow ODE from x at T to t_end, by `steps` (even) steps of the classical Runge-Kutta method.

    x: (n, ...). S is integrated by Simpson's rule over the same nodes. One step is four evaluations.
    """
    end = max(field.process.min_time, cut * field.process.T)  # data, but for processes whose velocity is singular there
    span = field.process.T - end
    nodes = torch.linspace(1.0, 0.0, steps + 1, dtype=torch.float64)
    h, speeds, start = -1.0 / steps, list[Tensor](), x

    def v(y: Tensor, u: float) -> Tensor:
        return span * field.velocity(y, end + span * u)

    for u in nodes[:-1].tolist():
        k1 = v(x, u)
        k2 = v(x + h / 2 * k1, u + h / 2)
        k3 = v(x + h / 2 * k2, u + h / 2)
        k4 = v(x + h * k3, max(u + h, 0.0))
        speeds.append(k1)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    bends = [((start - x - speed) ** 2).flatten(1).sum(1) for speed in [*speeds, v(x, 0.0)]]
    return Paths(start, x, (_simpson(steps).to(x)[:, None] * torch.stack(bends)).sum(0))


def _simpson(steps: int) -> Tensor:
    """Weights of Simpson's rule on [0, 1] with an even number of intervals, float64."""
    weights = torch.full((steps + 1,), 2.0, dtype=torch.float64)
    weights[1::2], weights[0], weights[-1] = 4.0, 1.0, 1.0
    return weights / (3 * steps)


def sampled(ev: dc.Evaluation, count: int, seed: int, steps: int) -> Paths:
    """Paths of up to `count` fresh noises under the conditions of the evaluated samples.

    Raises `DataError` without a field, and `IncompatibleError` for a process without a velocity in flat space.
    """
    if ev.field is None:
        raise dc.DataError("the paths of a flow are measured on its field, and this evaluation has none")
    process, n = ev.field.process, min(count, len(ev.samples))
    if not {"velocity", "flat"} <= process.provides:
        raise dc.IncompatibleError(
            f"paths need 'velocity', 'flat'; process {type(process).__name__} provides {', '.join(sorted(process.provides))}"
        )
    cond = {name: value[:n] for name, value in ev.field.cond.items()}
    device = next((value.device for value in cond.values()), _device(ev.field))
    noise = process.prior(tuple(ev.samples.shape[1:]), dc.Draw(seed, range(n), device=device))
    with torch.no_grad():
        return follow(ev.field.bound(cond), noise, steps)


def _device(field: dc.Field) -> torch.device:
    net = field.base.net
    parameters = net.parameters() if isinstance(net, torch.nn.Module) else iter(())
    return next((p.device for p in parameters), torch.device("cpu"))


def measured(values: Tensor, against: str, *, blocks: int = 8) -> dc.Measured:
    """The mean of one value per path; the spread is the deviation of the means of `blocks` blocks, / sqrt(blocks) its s.e."""
    means = [float(part.mean()) for part in values.double().tensor_split(min(blocks, len(values)))]
    spread = float(torch.tensor(means, dtype=torch.float64).std()) if len(means) > 1 else None
    return dc.Measured(value=float(values.double().mean()), n=len(values), spread=spread, against=against, better="lower")
