"""What a pretrained model knows, as a data set: its own samples, finely computed."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

import diffcore as dc
from diffcore_galaxies.process import GalaxyVP
from diffcore_galaxies.score_net import GalaxyScore
from diffcore_galaxies.weights import MODELS, Name

SALT, BLOCK = 0x6A1, 32


class Generated:
    """Samples by number, made in blocks when they are first asked for. A `dc.Source`."""

    def __init__(self, spec: GalaxySamples) -> None:
        self.spec = spec
        self.event: tuple[int, ...] = MODELS[spec.model].shape
        self.size: int | None = spec.size
        self.classes: Mapping[str, int] = {}

    def batch(self, ids: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The samples (B, 1, side, side) with these numbers."""
        blocks, places = torch.unique(ids // BLOCK, return_inverse=True)
        made = torch.stack([_block(self.spec, int(block)) for block in blocks])
        return made[places, ids % BLOCK], {}


@dc.component
class GalaxySamples(dc.Data):
    """`size` samples of a pretrained model, by `steps` Runge-Kutta steps of its probability-flow ODE (4 evaluations each).

    They are what the model believes, not observations: metrics against them measure the solver, not the model. A network
    trained on them learns the model. Values are x = log(flux + 1) / 0.1, unbounded, used as they are; the flux, in the
    survey's normalisation, is exp(0.1 x) - 1. Made when first asked for, kept in memory.

    Raises `DataError` where the weights are missing or damaged.
    """

    source: ClassVar[str] = "Sampson et al. 2024, arXiv 2401.07313; Song et al. 2021, arXiv 2011.13456, eq. 13"

    model: Name = dc.param(default="hsc32", doc="which model: survey and side of its images")
    weights: str | None = dc.param(default=None, doc="weights file, or folder of them; null: the installed galaxygrad")
    size: int = dc.param(default=64, ge=1, le=10_000_000, doc="number of samples; 50 to 100 ms each at 32 x 32 on one core")
    steps: int = dc.param(default=12, ge=1, le=100_000, doc="Runge-Kutta steps, equal in log(alpha / sigma)")
    seed: int = dc.param(default=0, ge=0, doc="seed of their noise, apart from that of sampling")

    def open(self) -> Generated:
        """The set; the network is read, nothing is computed yet."""
        _denoiser(self.model, self.weights)
        return Generated(self)


@lru_cache(maxsize=8)
def _denoiser(model: Name, weights: str | None) -> dc.Denoiser:
    with torch.random.fork_rng(devices=[]):  # initial values, all overwritten
        net = GalaxyScore(model=model, weights=weights).build(MODELS[model].shape, {}).eval()
    return dc.Denoiser(net, dc.Reading("score", "feature", "unit"), process=GalaxyVP())


@lru_cache(maxsize=64)
def _block(spec: GalaxySamples, block: int) -> Tensor:
    process = GalaxyVP()
    draw = dc.Draw(spec.seed, range(block * BLOCK, (block + 1) * BLOCK), salt=SALT)
    return fine(_denoiser(spec.model, spec.weights), process, process.prior(MODELS[spec.model].shape, draw), spec.steps)


@torch.no_grad()
def fine(denoiser: dc.Denoiser, process: GalaxyVP, x: Tensor, steps: int) -> Tensor:
    """From noise x at T to data by the classical Runge-Kutta method in lam = log(alpha / sigma), then the posterior mean.

    With alpha^2 + sigma^2 = 1 the flow is dx/dlam = alpha sigma (sigma E[x_0] - alpha E[eps]), smooth up to either end.
    """
    ends = process.coeffs(torch.tensor([process.T, process.min_time], dtype=torch.float64)).lam
    h = float(ends[1] - ends[0]) / steps
    points = process.coeffs(process.t_of_lam(torch.linspace(float(ends[0]), float(ends[1]), 2 * steps + 1)))

    def slope(y: Tensor, i: int) -> Tensor:
        at = points.at(i).map(Tensor.item)
        return denoiser(y, at).read("v") * (-at.alpha * at.sigma)

    for i in range(0, 2 * steps, 2):
        k1 = slope(x, i)
        k2 = slope(x + h / 2 * k1, i + 1)
        k3 = slope(x + h / 2 * k2, i + 1)
        k4 = slope(x + h * k3, i + 2)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return denoiser(x, process.min_time).mean
