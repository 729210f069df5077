"""Solvers of the reverse SDE for diffcore."""

from __future__ import annotations

from collections.abc import Iterator

import diffcore as dc

API_VERSION = 1


def _solver(id: str, target: str, summary: str) -> dc.Component:
    return dc.Component(id, f"diffcore_sde_solvers.{target}", summary)


@dc.hookimpl
def diffcore_solvers() -> Iterator[dc.Component]:
    """The solvers of this distribution."""
    yield _solver("brownian", "brownian:Brownian", "any SDE solver on one Brownian path per sample (Jelincic et al. 2024)")
    yield _solver("euler-maruyama-lam", "euler_maruyama_lam:EulerMaruyamaLam", "reverse SDE in log SNR (Maruyama 1955)")
    yield _solver("stochastic-heun", "stochastic_heun:StochasticHeun", "reverse SDE, weak order 2 (Platen 1999)")
    yield _solver("sra1", "sra1:SRA1", "reverse SDE, strong order 1.5 for additive noise (Roessler 2010)")
    yield _solver("seeds", "seeds:SEEDS", "exponential, noise prediction, 1 to 3 stages (Gonzalez et al. 2023)")
    yield dc.Component(
        "ode-ancestral",
        "diffcore_sde_solvers.ode_ancestral:ODEAncestral",
        "ODE solver down, fresh noise up (Crowson 2022)",
        aliases=(
            dc.Alias("A1111", "DPM2 a", "of: {type: seeds, stages: 2, eta: 0.0}"),
            dc.Alias("A1111", "DPM2 a Karras", "of: {type: seeds, stages: 2, eta: 0.0}, grid: {type: karras}"),
            dc.Alias("ComfyUI", "dpm_2_ancestral", "of: {type: seeds, stages: 2, eta: 0.0}"),
            dc.Alias("diffusers", "KDPM2AncestralDiscreteScheduler", "of: {type: seeds, stages: 2, eta: 0.0}"),
            dc.Alias("k-diffusion", "sample_dpm_2_ancestral", "of: {type: seeds, stages: 2, eta: 0.0}"),
            dc.Alias("A1111", "DPM++ 2S a", "of: {type: dpmpp-2s}"),
            dc.Alias("A1111", "DPM++ 2S a Karras", "of: {type: dpmpp-2s}, grid: {type: karras}"),
            dc.Alias("ComfyUI", "dpmpp_2s_ancestral", "of: {type: dpmpp-2s}"),
            dc.Alias("k-diffusion", "sample_dpmpp_2s_ancestral", "of: {type: dpmpp-2s}"),
        ),
    )
    yield _solver("restart", "restart:Restart", "ODE runs with repeated jumps back to noise (Xu et al. 2023)")
