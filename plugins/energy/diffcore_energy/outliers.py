"""What an energy network takes for data."""

from __future__ import annotations

import math
import statistics
from typing import Any, ClassVar

import torch
from torch import Tensor

import diffcore as dc
from diffcore_energy.conservativity import affine_field
from diffcore_energy.density import log_density

BLOCKS, NOISE, MIXED = 4, 1, 2


def auroc(high: Tensor, low: Tensor) -> float:
    """P(a > b) + P(a = b) / 2 for a of `high`, b of `low`: 1 where every a is above every b, .5 for equal laws."""
    gap = high[:, None] - low[None, :]
    return float(((gap > 0).double() + (gap == 0).double() / 2).mean())


@dc.component
class Outliers(dc.Metric):
    """P(log p_t(real) > log p_t(other)), the area under the curve of telling real data by its density: 1 where every real
    sample is likelier than every other, .5 where the density knows no difference. log p_t is the energy of the network at the
    noise level sigma / alpha = `level`, without its condition; all are noised to that level.

        auroc-inverted       other = -x_0
        auroc-independent    every entry from another sample: each entry's own distribution, and nothing else of the data
        auroc-other          the data set `other`, where one is given
        auroc-samples        the generated samples; below .5 where they are likelier than data, as guided ones are

    Raises `DataError` without a field, with fewer than 4 samples, for data behind a codec or an `other` of another shape,
    `IncompatibleError` for a network that is no energy, or a process that is not affine or never has that level.
    """

    source: ClassVar[str] = (
        "Hendrycks and Gimpel 2017, arXiv 1610.02136 (the measure); Du et al. 2023, arXiv 2302.11552 (energies)"
    )
    items: ClassVar[tuple[str, ...]] = ("1.05",)
    requires: ClassVar[frozenset[str]] = frozenset({"affine"})
    of_data: ClassVar[bool] = True
    least_real: ClassVar[int] = BLOCKS

    other: dc.Data | None = dc.param(default=None, doc="data that real samples are to be told from")
    level: float = dc.param(default=0.3, gt=0, le=1e6, doc="sigma / alpha at which densities are compared")
    n: int = dc.param(default=256, ge=BLOCKS, le=10_000_000, doc="samples of each kind, at most")
    batch: int = dc.param(default=128, ge=1, le=10_000_000, doc="samples at once")
    seed: int = dc.param(default=0, ge=0, doc="seed of noise and mixing")

    def check(self, ev: dc.Evaluation) -> None:
        """Also refuses fewer samples than blocks, and an `other` of another shape."""
        super().check(ev)
        if len(ev.samples) < BLOCKS:
            raise dc.DataError(f"{len(ev.samples)} samples leave no blocks for a spread; evaluate at least {BLOCKS}")
        if self.other is not None:
            _open(self.other, tuple(ev.reference.shape[1:]))

    def measure(self, ev: dc.Evaluation) -> dict[str, dc.Measured]:
        """The areas."""
        self.check(ev)
        field, count = affine_field(ev, "outliers"), min(self.n, len(ev.reference), len(ev.samples))
        real = ev.reference[:count].float()
        others = {"inverted": -real, "independent": self._independent(real), "samples": ev.samples[:count].float()}
        if self.other is not None:
            others["other"] = _first(self.other, count, tuple(real.shape[1:]))
        known = self._log_densities(field.base, real)
        return {f"auroc-{name}": _measured(known, self._log_densities(field.base, x)) for name, x in others.items()}

    def _independent(self, x: Tensor) -> Tensor:
        """Every entry permuted over the samples, each by itself."""
        keys = dc.Draw(self.seed, range(len(x))).fold(MIXED).uniform_like(x)
        return x.gather(0, keys.argsort(0))

    @torch.no_grad()
    def _log_densities(self, model: dc.Denoiser, x: Tensor) -> Tensor:
        t = model.process.t_of_lam(torch.tensor(-math.log(self.level), dtype=torch.float64))
        if not abs(float(model.process.coeffs(t).lam) + math.log(self.level)) < 1e-6:
            raise dc.IncompatibleError(
                f"{type(model.process).__name__} never has the 'level' {self.level} of outliers; change it"
            )
        weights = model.net.parameters() if isinstance(model.net, torch.nn.Module) else iter(())
        device, parts = next((p.device for p in weights), torch.device("cpu")), list[Tensor]()
        for ids in torch.arange(len(x)).split(self.batch):
            draw = dc.Draw(self.seed, ids, device=device).fold(NOISE)
            noised = model.process.corrupt(x[ids].to(device), t.to(device).expand(len(ids)), draw)
            parts.append(log_density(model, noised.xt, noised.at).cpu())
        return torch.cat(parts)


def _open(data: dc.Data, shape: tuple[int, ...]) -> Any:
    source = data.open()
    if dc.Event.of(source.event).shape != shape:
        raise dc.DataError(
            f"'other' of outliers has samples of shape {dc.Event.of(source.event)}, the data has {shape}; give one shape"
        )
    return source


def _first(data: dc.Data, count: int, shape: tuple[int, ...]) -> Tensor:
    """Samples of a data set, in the range of the network, evenly over it."""
    source = _open(data, shape)
    last = count if source.size is None else source.size
    return data.encode(source.batch(torch.linspace(0, last - 1, count).long())[0]).float()


def _measured(real: Tensor, other: Tensor) -> dc.Measured:
    blocks = [auroc(a, b) for a, b in zip(real.tensor_split(BLOCKS), other.tensor_split(BLOCKS), strict=True)]
    return dc.Measured(value=auroc(real, other), n=len(real), spread=statistics.stdev(blocks), against="real data")
