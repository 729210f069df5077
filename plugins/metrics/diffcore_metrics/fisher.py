"""Fisher divergence: the mean squared error of a score."""

from __future__ import annotations

import math
import statistics
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

import diffcore as dc
from diffcore.testing import Oracle
from diffcore_metrics.known import oracle_of

BLOCKS, LABEL = 4, "label"


def time_of(process: dc.Process, lam: float) -> Tensor:
    """The time at which log(alpha / sigma) = lam, float64 (). Raises `DataError` where the process does not come there."""
    t = process.t_of_lam(torch.tensor(lam, dtype=torch.float64))
    t = t.clamp(min=process.min_time, max=process.T)
    found = float(process.coeffs(t).lam)
    if not abs(found - lam) < 1e-3:
        raise dc.DataError(f"{type(process).__name__} has no time with log(alpha / sigma) = {lam:g} (nearest: {found:.4g})")
    return t


@dc.component
class Fisher(dc.Metric):
    """Fisher divergence E_{p_t} |grad log p_t - s|^2 of the sampled field's score s from the exact one, at noised real data, one
    number `fisher(lam)` for each noise level lam = log(alpha / sigma).

    The exact score is that of data that declare `oracle()` (`gaussian`, `finite-set`, ...). In units of 1 / x_t^2,
    summed over entries; it does not see the constant of a density. sigma^2 times it is the error of E[eps|x_t]: what the
    losses leave above their minimum. The floor is 0. `against` gives the standard error and E |grad log p_t|^2, the divergence
    of a score that is zero.

    Raises `DataError` without a field, for data of unknown law, or a noise level that the process has not; `IncompatibleError`
    for a process that is not affine.
    """

    source: ClassVar[str] = "Hyvarinen 2005, JMLR 6; Lai et al. 2025, arXiv 2510.21890, section 1.1 and chapter 3"
    items: ClassVar[tuple[str, ...]] = ("1.03",)
    of_samples: ClassVar[bool] = False
    requires: ClassVar[frozenset[str]] = frozenset({"affine"})
    least_real: ClassVar[int] = BLOCKS

    lams: tuple[float, ...] = dc.param(
        default=(2.0, 0.0, -2.0), ge=-50, le=50, doc="noise levels log(alpha / sigma), little noise first"
    )
    n: int = dc.param(default=512, ge=BLOCKS, le=10_000_000, doc="real samples, each noised to every level")
    batch: int = dc.param(default=512, ge=1, le=10_000_000, doc="samples at once")
    seed: int = dc.param(default=0, ge=0, doc="seed of the noise")

    def check(self, ev: dc.Evaluation) -> None:
        """Also refuses data whose score is not known."""
        super().check(ev)
        oracle_of(ev, "fisher")

    def measure(self, ev: dc.Evaluation) -> dict[str, dc.Measured]:
        """One number for each noise level."""
        self.check(ev)
        if ev.field is None:
            raise dc.DataError("fisher measures a field, and the evaluation has none; evaluate a pipeline, or give `field`")
        if "affine" not in ev.field.process.provides:
            raise dc.IncompatibleError(f"fisher needs 'affine'; process {type(ev.field.process).__name__} does not provide it")
        oracle = oracle_of(ev, "fisher")
        return {f"fisher(lam={lam:g})": self._at(ev, oracle, k, lam) for k, lam in enumerate(self.lams)}

    def _at(self, ev: dc.Evaluation, oracle: Oracle, k: int, lam: float) -> dc.Measured:
        assert ev.field is not None
        t, x = time_of(ev.field.process, lam), ev.reference[: self.n]
        parts = [self._part(ev, oracle, ids, t, k) for ids in torch.arange(len(x)).split(self.batch)]
        error, size = (torch.cat(v) for v in zip(*parts, strict=True))
        blocks = [float(block.mean()) for block in error.split(len(x) // BLOCKS)[:BLOCKS]]
        return dc.Measured(
            value=float(error.mean()),
            n=len(x),
            spread=statistics.stdev(blocks),
            floor=0.0,
            against=f"exact score of {ev.reference_name}, of mean square {float(size.mean()):.4g}; "
            f"standard error {float(error.std()) / math.sqrt(len(x)):.2g}",
            better="lower",
        )

    @torch.no_grad()
    def _part(self, ev: dc.Evaluation, oracle: Oracle, ids: Tensor, t: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """|s - grad log p|^2 and |grad log p|^2 of some samples, (B,)."""
        field: Any = ev.field
        device = _device(field)
        cond = {key: ev.reference_cond[key][ids] for key in field.cond if key in ev.reference_cond}
        draw = dc.Draw(self.seed, ids, device=device).fold(k)
        noised = field.process.corrupt(ev.reference[ids].to(device).double(), t.expand(len(ids)).to(device), draw)
        found = field.bound({key: value.to(device) for key, value in cond.items()}).posterior(noised.xt, noised.at).score
        label = {LABEL: cond[LABEL]} if LABEL in cond and oracle.classes else {}
        exact = oracle.score(noised.xt.cpu(), noised.at.map(lambda v: v.cpu()), **label)
        return (found.cpu() - exact).square().flatten(1).sum(1), exact.square().flatten(1).sum(1)


def _device(field: dc.Field) -> torch.device:
    net: Any = getattr(field.base, "net", None)
    parameter = next(net.parameters(), None) if isinstance(net, nn.Module) else None
    return torch.device("cpu") if parameter is None else parameter.device
