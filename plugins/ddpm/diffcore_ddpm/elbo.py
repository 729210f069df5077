"""The variational bound as a metric."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

import diffcore as dc

from .bound import Variance, prior_term, step_term, steps_of
from .indices import length
from .trailing import Trailing


@dc.component
class ELBO(dc.Metric):
    """-ELBO >= -log2 p(x_0) on real data, in bits per dimension: `elbo` = `elbo-prior` + `elbo-steps` + `elbo-decoder`.

    Every step of the chain is evaluated once for every sample, with noise keyed by `seed`; the steps are all of the process,
    or a respaced chain of `steps`. The model is the field's network without guidance, under the conditions of the data.
    `levels` even values of [-1, 1] are what data takes (256 for 8-bit images): with null the decoder is a density, and the
    number may be negative. With n samples the standard error of the mean is about `spread` / 2.

    Raises `DataError` without a field, for fewer than 4 samples, for samples that are not tensors, for data behind a codec.
    """

    source: ClassVar[str] = "Ho et al. 2020, arXiv 2006.11239, equations 5 and 13"
    items: ClassVar[tuple[str, ...]] = ("2.14",)
    example: ClassVar[Mapping[str, Any]] = {"steps": 50}
    of_samples: ClassVar[bool] = False
    requires: ClassVar[frozenset[str]] = frozenset({"affine"})
    of_data: ClassVar[bool] = True
    least_real: ClassVar[int] = 4

    variance: Variance = dc.param(default="small", doc="variance of the reverse steps")
    levels: int | None = dc.param(
        default=256, ge=2, le=65_536, doc="even values of [-1, 1] that data takes; null: the decoder is a density"
    )
    steps: int | None = dc.param(default=None, ge=2, le=100_000, doc="steps of the chain; all of the process where null")
    n: int = dc.param(default=128, ge=4, le=10_000_000, doc="samples of the data, at most")
    seed: int = dc.param(default=0, ge=0, doc="seed of the noise")

    def check(self, ev: dc.Evaluation) -> None:
        """Also refuses data that is not one tensor."""
        if not isinstance(ev.reference, Tensor):
            raise dc.DataError("ELBO needs samples of data that are one tensor each")
        super().check(ev)

    def measure(self, ev: dc.Evaluation) -> dict[str, dc.Measured]:
        """The bound and its three parts."""
        self.check(ev)
        if ev.field is None:
            raise dc.DataError("ELBO measures a field, and the evaluation has none; evaluate a pipeline, or give `field`")
        cond = {name: value[: self.n] for name, value in ev.reference_cond.items() if name in ev.field.cond}
        parts = self.parts(ev.field.bound(cond), ev.reference[: self.n].to(_device(ev.field)))
        named = {"elbo": torch.stack([*parts.values()]).sum(0), **{f"elbo-{name}": part for name, part in parts.items()}}
        return {name: self._measured(value.double(), ev.reference_name) for name, value in named.items()}

    @torch.no_grad()
    def parts(self, field: dc.Field, x0: Tensor) -> dict[str, Tensor]:
        """`prior`, `steps` and `decoder` of every sample, [B]."""
        process: Any = field.process
        grid = Trailing(chain=self.steps).nodes(process, length(process, self.steps), process.T).to(x0.device)
        draw = dc.Draw(self.seed, range(len(x0)), device=x0.device)
        cond = {name: value.to(x0.device) for name, value in field.cond.items()}
        total, term = torch.zeros_like(prior_term(process, x0)), torch.zeros(())
        for i in range(len(grid) - 1):
            total = total + term
            above, t, s = (grid[j].expand(len(x0)) for j in (i - 1, i, i + 1))  # above: read in the last step only
            noised = process.corrupt(x0, t, draw.at(i))
            known = field.base(noised.xt, noised.at, **cond)
            term = step_term(steps_of(process, above, t, s), x0, known, self.variance, self.levels)
        return {"prior": prior_term(process, x0), "steps": total, "decoder": term}

    def _measured(self, each: Tensor, name: str) -> dc.Measured:
        blocks = [float(block.mean()) for block in each.tensor_split(4)]
        against = f"{name}, {'a density' if self.levels is None else f'{self.levels} levels'}"
        return dc.Measured(
            value=float(each.mean()), n=len(each), spread=statistics.stdev(blocks), against=against, better="lower"
        )


def _device(field: dc.Field) -> torch.device:
    net = getattr(field.base, "net", None)
    return next((p.device for p in net.parameters()), torch.device("cpu")) if isinstance(net, nn.Module) else torch.device("cpu")
