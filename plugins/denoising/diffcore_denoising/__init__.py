"""The denoising loss, the weightings of its squared error, and the laws of its training times."""

from __future__ import annotations

from collections.abc import Iterator

import diffcore as dc

API_VERSION = 1


@dc.hookimpl
def diffcore_losses() -> Iterator[dc.Component]:
    """One loss, five weightings, four time laws."""
    weightings, time_laws = "diffcore_denoising.weightings", "diffcore_denoising.time_laws"
    yield dc.Component(
        "denoising",
        "diffcore_denoising.denoising:Denoising",
        "squared error of x_0, eps, velocity or any other target (Ho et al. 2020)",
    )

    yield dc.Component(
        "constant", f"{weightings}:Constant", "weight 1 on the error of whatever target the loss measures", kind="weighting"
    )
    yield dc.Component(
        "snr", f"{weightings}:SNR", "weight SNR on x_0: the plain error of the noise (Ho et al. 2020)", kind="weighting"
    )
    yield dc.Component("min-snr", f"{weightings}:MinSNR", "weight SNR on x_0, at most gamma (Hang et al. 2023)", kind="weighting")
    yield dc.Component(
        "edm", f"{weightings}:EDM", "weight 1 / c_out^2 on x_0, that of EDM (Karras et al. 2022)", kind="weighting"
    )
    yield dc.Component(
        "sigmoid", f"{weightings}:Sigmoid", "weight sigmoid(bias - log SNR) on the noise (Kingma and Gao 2023)", kind="weighting"
    )

    yield dc.Component("uniform", f"{time_laws}:Uniform", "times uniform in t or in log(alpha / sigma)", kind="time_law")
    yield dc.Component(
        "lognormal",
        f"{time_laws}:LogNormal",
        "times whose noise-to-signal ratio is log-normal (Karras et al. 2022)",
        kind="time_law",
    )
    yield dc.Component(
        "logit-normal", f"{time_laws}:LogitNormal", "times whose logit(t / T) is normal (Esser et al. 2024)", kind="time_law"
    )
    yield dc.Component(
        "low-discrepancy",
        f"{time_laws}:LowDiscrepancy",
        "times spread evenly within a batch (Kingma et al. 2021)",
        kind="time_law",
    )
