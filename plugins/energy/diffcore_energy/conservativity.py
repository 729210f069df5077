"""Whether a learned field is the gradient of anything."""

from __future__ import annotations

import statistics
from typing import ClassVar

import torch
from torch import Tensor

import diffcore as dc
from diffcore_energy.trace import inner, probe, pulled, pushed

BLOCKS, NOISE, PROBE = 4, 1, 2


def asymmetry(value: Tensor, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """|J v - J^T v|^2 and 2 (|J v|^2 + |J^T v|^2) per sample, (B,), with J = d value / d x; the first is at most the second."""
    push, pull = pushed(value, x, v), pulled(value, x, v, graph=False)
    gap = push - pull
    return inner(gap, gap).detach(), 2 * (inner(push, push) + inner(pull, pull)).detach()


@dc.component
class Conservativity(dc.Metric):
    """E |J - J^T|^2 / (2 E (|J|^2 + |J^T|^2)) with J the Jacobian of E[eps|x_t], at noised real data: 0 for a gradient field, 1
    for a pure rotation, w^2 / (1 + w^2) for x + w R x with R a quarter turn.

    The true score is a gradient, so what is found is error of the network. Frobenius norms by Rademacher probes, E|J v|^2 =
    |J|^2; each sample at one of n times spread evenly over [max(min_time, T / 100), T].

    Raises `DataError` without a field or for data behind a codec, `IncompatibleError` for a process that is not affine.
    """

    source: ClassVar[str] = "Salimans and Ho 2021; Chao et al. 2023, arXiv 2209.12753 (asymmetry of the Jacobian)"

    requires: ClassVar[frozenset[str]] = frozenset({"affine"})
    of_data: ClassVar[bool] = True
    least_real: ClassVar[int] = BLOCKS

    n: int = dc.param(default=128, ge=4, le=10_000_000, doc="real samples, each noised to one time")
    probes: int = dc.param(default=1, ge=1, le=10_000, doc="probes per sample")
    batch: int = dc.param(default=128, ge=1, le=10_000_000, doc="samples at once")
    seed: int = dc.param(default=0, ge=0, doc="seed of noise and probes")

    def measure(self, ev: dc.Evaluation) -> dict[str, dc.Measured]:
        """`asymmetry` over the first n real samples."""
        self.check(ev)
        field, x = affine_field(ev, "conservativity"), ev.reference[: self.n]
        process = field.process
        times = torch.linspace(max(process.min_time, process.T / 100), process.T, len(x), dtype=torch.float64)
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(self.seed))  # every block has all noise levels
        parts = [self._part(field, ev, ids, times[order][ids]) for ids in torch.arange(len(x)).split(self.batch)]
        gap, size = (torch.cat(v) for v in zip(*parts, strict=True))
        return {"asymmetry": _ratio(gap, size, f"{len(x)} of {ev.reference_name}")}

    def _part(self, field: dc.Field, ev: dc.Evaluation, ids: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        net = field.base.net
        device = next((p.device for p in net.parameters()), "cpu") if isinstance(net, torch.nn.Module) else "cpu"
        cond = {key: ev.reference_cond[key][ids].to(device) for key in field.cond if key in ev.reference_cond}
        draw, x0 = dc.Draw(self.seed, ids, device=device), ev.reference[ids].to(device)
        found = field.process.corrupt(x0, t.to(device), draw.fold(NOISE))
        with dc.second_derivatives():
            x = found.xt.detach().requires_grad_()
            eps = field.bound(cond).posterior(x, found.at).eps
            all_of = [asymmetry(eps, x, probe(x, "rademacher", draw.fold(PROBE, k))) for k in range(self.probes)]
        gap, size = (torch.stack(v).mean(0).double().cpu() for v in zip(*all_of, strict=True))
        return gap, size


def affine_field(ev: dc.Evaluation, who: str) -> dc.Field:
    """The field of an evaluation, if its process is affine; for a metric called `who`."""
    if ev.field is None:
        raise dc.DataError(f"{who} measures a field, and the evaluation has none; evaluate a pipeline, or give `field`")
    if "affine" not in ev.field.process.provides:
        raise dc.IncompatibleError(f"{who} needs 'affine'; process {type(ev.field.process).__name__} does not provide it")
    return ev.field


def _ratio(gap: Tensor, size: Tensor, against: str) -> dc.Measured:
    count = len(gap) // BLOCKS
    blocks = [float(a.sum() / b.sum()) for a, b in zip(gap.split(count)[:BLOCKS], size.split(count)[:BLOCKS], strict=True)]
    return dc.Measured(value=float(gap.sum() / size.sum()), n=len(gap), spread=statistics.stdev(blocks), against=against)
