"""Likelihood bounds in bits per token, beside a model without a network."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor

import diffcore as dc

from . import baselines
from .d3pm_hybrid import step_divergence
from .training import divergence

CHUNK = 100_000
"""Samples of the training set that are in memory at once."""


@dc.component
class LikelihoodBound(dc.Metric):
    """-log2 p(x_0) / L <= [KL(q(x_T | x_0) || p_T) + sum_k KL(q(x_s | x_t, x_0) || p(x_s | x_t))] / (L log 2).

    The sum runs over `steps` ancestral steps, uniform in t (all levels of a discrete chain), and is estimated without bias at
    `repeats` random steps per sample, spread evenly. It bounds the likelihood of `ancestral` with that grid, and falls towards
    the bound of continuous time. Measured without guidance on held-out data: the split 'test' where the data has been trained on
    'train' (else on the reference, and says so), with the conditions of that data.
    """

    source: ClassVar[str] = "Sohl-Dickstein et al. 2015, arXiv 1503.03585; Austin et al. 2021, arXiv 2107.03006"
    name: ClassVar[str] = "bits"
    requires: ClassVar[frozenset[str]] = frozenset({"tokens"})
    least_real: ClassVar[int] = 2

    steps: int = dc.param(
        default=512, ge=1, le=100_000, doc="ancestral steps of the bounded sampler (at most the levels of the chain)"
    )
    repeats: int = dc.param(default=16, ge=1, le=100_000, doc="steps looked at per sample")
    most: int = dc.param(default=512, ge=2, le=10_000_000, doc="held-out samples, at most")
    seed: int = dc.param(default=0, ge=0, doc="seed of the steps and the noise")
    counted: int = dc.param(
        default=100_000, ge=1, le=1_000_000_000, doc="training samples that the baseline is counted on, at most"
    )

    def measure(self, ev: dc.Evaluation) -> dict[str, dc.Measured]:
        """The bound, with the standard error of its mean as spread, and the baseline."""
        process: Any = ev.field.process if ev.field is not None else None
        if process is None or "tokens" not in process.provides:
            raise dc.DataError(f"{type(self).__name__} measures processes of tokens ('masked', 'uniform-tokens', 'd3pm')")
        assert ev.field is not None
        x0, cond, against = self._held_out(ev)
        device = ev.samples.device
        values = bound_bits(ev.field.base, x0.to(device), cond, self.steps, self.repeats, self.seed)
        name, simple = self.baseline(_training(ev, self.counted), x0.flatten(1), process.values)
        return {
            self.name: _measured(values, against),
            f"{self.name} ({name})": _measured(simple, f"{against}; {name} model, counted on the training data"),
        }

    def baseline(self, training: Iterator[Tensor], test: Tensor, values: int) -> tuple[str, Tensor]:
        """The name of a model without a network, and its bits per token of each test sample."""
        return "independent", baselines.independent(torch.cat([*training]), test, values)

    def _held_out(self, ev: dc.Evaluation) -> tuple[Tensor, Mapping[str, Tensor], str]:
        held = _other_split(ev.data)
        if held is None:
            return ev.reference[: self.most], {k: v[: self.most] for k, v in ev.reference_cond.items()}, ev.reference_name
        source = held.open()
        assert source.size is not None
        ids = torch.linspace(0, source.size - 1, min(self.most, source.size)).long()
        raw, cond = source.batch(ids)
        return held.encode(raw), cond, f"{ev.reference_name}, test split"


def _measured(values: Tensor, against: str) -> dc.Measured:
    error = float(values.std() / len(values) ** 0.5)
    return dc.Measured(value=float(values.mean()), n=len(values), spread=error, against=against, better="lower")


def _other_split(data: dc.Data | None) -> dc.Data | None:
    """The same data with split 'test', where it was trained on 'train'."""
    return attrs.evolve(data, split="test") if getattr(data, "split", "") == "train" else None


def _training(ev: dc.Evaluation, most: int) -> Iterator[Tensor]:
    """Up to `most` training samples, flat, evenly spread over the set, part by part; the reference where there is no set."""
    source = None if ev.data is None else ev.data.open()
    if source is None or source.size is None:
        yield ev.reference[:most].flatten(1)
        return
    for ids in torch.linspace(0, source.size - 1, min(most, source.size), dtype=torch.float64).long().split(CHUNK):
        yield source.batch(ids)[0].flatten(1)


@torch.no_grad()
def bound_bits(model: Any, x0: Tensor, cond: Mapping[str, Tensor], steps: int, repeats: int, seed: int) -> Tensor:
    """Estimates of the bound in bits per token, one per sample, [n]."""
    process = model.process
    grid = process.default_grid(min(steps, getattr(process, "levels", steps)), process.T).flip(0)
    total = end_divergence(process, x0, process.coeffs(grid[-1:].to(x0.device).expand(len(x0))))
    cond = {key: value.to(x0.device) for key, value in cond.items()}
    for i in range(repeats):
        draw = dc.Draw(seed, range(len(x0)), index=i, device=x0.device)
        chosen = ((i + draw.fold(1).uniform()) / repeats * (len(grid) - 1)).long()
        t, s = (grid.to(x0.device)[chosen + shift] for shift in (1, 0))
        noised = process.corrupt(x0, t, draw)
        known = model(noised.xt, process.coeffs(t), **cond)
        total = total + step_divergence(process, x0, noised, process.coeffs(s), known) * (len(grid) - 1) / repeats
    return total / math.log(2)


def end_divergence(process: Any, x0: Tensor, at: Any) -> Tensor:
    """KL(q(x_T | x_0) || p_T), the mean over tokens, [B]: what the prior costs where the chain has not forgotten x_0."""
    return divergence(process.marginal(x0, at), process.prior_probs.to(x0.device)).flatten(1).mean(1)


@dc.component
class BitsPerDim(LikelihoodBound):
    """The bound -log2 p(x_0) / L in bits per entry, against entries that are independent."""

    name: ClassVar[str] = "bits/dim"


@dc.component
class BitsPerCharacter(LikelihoodBound):
    """The bound -log2 p(x_0) / L in bits per character, against an n-gram model of the same texts."""

    name: ClassVar[str] = "bits/char"

    order: int = dc.param(default=2, ge=1, le=12, doc="n of the n-gram model beside it: tokens seen at once")
    added: float = dc.param(default=0.5, gt=0, le=1e6, doc="what is added to every count of the n-gram model")

    def baseline(self, training: Iterator[Tensor], test: Tensor, values: int) -> tuple[str, Tensor]:
        """Every token from the order - 1 before it."""
        name = "bigram" if self.order == 2 else f"{self.order}-gram"
        return name, baselines.NGram.fit(training, self.order, values, self.added).bits(test)
