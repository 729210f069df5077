"""Weights of the squared error, as functions of the signal-to-noise ratio SNR = alpha^2 / sigma^2.

At fixed x_t every target determines every other, so a weight is defined in one target and read in all: an error e of x_0 is
an error (p - q alpha / sigma) e of the target p x_0 + q eps, and `weight_from_x0` divides by the square of that factor. In
particular the squared errors of eps and of x_0 differ by the factor SNR.

    constant   1                              in the target that the loss measures
    snr        SNR                            in x_0   (1 in eps)
    min-snr    min(SNR, gamma)                in x_0   (min(SNR, gamma) / SNR in eps, / (SNR + 1) in v)
    edm        SNR + 1 / sigma_data^2         in x_0   (1 in edm)
    sigmoid    SNR sigmoid(bias - log SNR)    in x_0   (sigmoid(bias - log SNR) in eps)
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

import diffcore as dc


def snr(at: dc.Coeffs) -> Tensor:
    """alpha^2 / sigma^2."""
    return (at.alpha / at.sigma) ** 2


@dc.component
class Constant(dc.Weighting):
    """1, in whatever target the loss measures. So its meaning changes with that target."""

    source: ClassVar[str] = "Ho et al. 2020, arXiv 2006.11239, equation 14"
    items: ClassVar[tuple[str, ...]] = ("6.09",)

    def __call__(self, at: dc.Coeffs, row: dc.Row) -> Tensor:
        """1, shape of at.t."""
        return torch.ones_like(at.t)


@dc.component
class SNR(dc.Weighting):
    """SNR on the squared error of x_0: the plain squared error of the noise, whatever the network predicts.

    Defined in x_0. At zero noise the weight is infinite, as the noise is undetermined there.
    """

    source: ClassVar[str] = "Ho et al. 2020, arXiv 2006.11239, equation 14; Salimans and Ho 2022, arXiv 2202.00512, section 4"
    items: ClassVar[tuple[str, ...]] = ("6.09",)

    def __call__(self, at: dc.Coeffs, row: dc.Row) -> Tensor:
        """The weight in `row`, shape of at.t."""
        return dc.weight_from_x0(snr(at), at, row)


@dc.component
class MinSNR(dc.Weighting):
    """min(SNR, gamma) on the squared error of x_0: the noise loss, its weight capped where there is little noise.

    Defined in x_0. Under a variance-preserving process it is min(SNR, gamma) / SNR on eps and min(SNR, gamma) / (SNR + 1)
    on v.
    """

    source: ClassVar[str] = "Hang et al. 2023, arXiv 2303.09556"
    items: ClassVar[tuple[str, ...]] = ("6.09",)

    gamma: float = dc.param(default=5.0, gt=0, le=1e6, doc="largest weight of the squared error of x_0")

    def __call__(self, at: dc.Coeffs, row: dc.Row) -> Tensor:
        """The weight in `row`, shape of at.t."""
        return dc.weight_from_x0(snr(at).clamp_max(self.gamma), at, row)


@dc.component
class EDM(dc.Weighting):
    """SNR + 1 / sigma_data^2 on the squared error of x_0, so that weight * c_out^2 = 1 with the preconditioning 'edm'.

    Defined in x_0, for any alpha; at alpha = 1 it is (sigma^2 + sigma_data^2) / (sigma sigma_data)^2. It equals `constant`
    in the target 'edm', and a network that returns zero has loss 1 at every time if the data has this standard deviation.
    """

    source: ClassVar[str] = "Karras et al. 2022, arXiv 2206.00364, table 1 (alpha = 1)"
    items: ClassVar[tuple[str, ...]] = ("6.09", "D2")

    sigma_data: float = dc.param(
        default=0.5, ge=1e-06, le=1e6, doc="standard deviation of the data in the network's range; the model's own"
    )

    def __call__(self, at: dc.Coeffs, row: dc.Row) -> Tensor:
        """The weight in `row`, shape of at.t."""
        return dc.weight_from_x0(snr(at) + self.sigma_data**-2, at, row)


@dc.component
class Sigmoid(dc.Weighting):
    """sigmoid(bias - log SNR) on the squared error of the noise; falls with the SNR, so it is a weighted sum of ELBOs.

    Defined in eps, relative to the time law: together with a law that is uniform in log SNR (`uniform` over `lam`) it is
    the published w(log SNR) up to a constant. A larger bias moves weight to less noise.
    """

    source: ClassVar[str] = "Kingma and Gao 2023, arXiv 2303.00848; Hoogeboom et al. 2024, arXiv 2410.19324"
    items: ClassVar[tuple[str, ...]] = ("6.09",)

    bias: float = dc.param(default=2.0, ge=-100, le=100, doc="log-SNR at which the weight is one half")

    def __call__(self, at: dc.Coeffs, row: dc.Row) -> Tensor:
        """The weight in `row`, shape of at.t."""
        ratio = snr(at)
        return dc.weight_from_x0(ratio * torch.sigmoid(self.bias - ratio.log()), at, row)
