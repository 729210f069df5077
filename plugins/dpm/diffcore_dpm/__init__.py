"""Exponential integrators for diffcore."""

from __future__ import annotations

from collections.abc import Iterator

import diffcore as dc

API_VERSION = 1


@dc.hookimpl
def diffcore_solvers() -> Iterator[dc.Component]:
    """The solvers of this distribution."""
    yield dc.Component(
        "dpm-solver-2",
        "diffcore_dpm.dpm_solver_2:DPMSolver2",
        "singlestep, noise prediction (Lu et al. 2022)",
        aliases=(
            dc.Alias("A1111", "DPM2"),
            dc.Alias("A1111", "DPM2 Karras", "grid: {type: karras}"),
            dc.Alias("ComfyUI", "dpm_2"),
            dc.Alias("diffusers", "KDPM2DiscreteScheduler"),
            dc.Alias("k-diffusion", "sample_dpm_2"),
        ),
    )
    yield dc.Component("dpm-solver-3", "diffcore_dpm.dpm_solver_3:DPMSolver3", "singlestep, third order (Lu et al. 2022)")
    yield dc.Component("dpmpp-2s", "diffcore_dpm.dpmpp_2s:DPMpp2S", "singlestep, data prediction (Lu et al. 2022)")
    yield dc.Component("dpmpp-3m", "diffcore_dpm.dpmpp_3m:DPMpp3M", "third-order multistep, data prediction (Lu et al. 2022)")
    yield dc.Component(
        "dpmpp-2m-sde",
        "diffcore_dpm.dpmpp_2m_sde:DPMpp2MSDE",
        "multistep on the reverse SDE (Lu et al. 2022)",
        aliases=(
            dc.Alias("A1111", "DPM++ 2M SDE", "limit: 100.0"),
            dc.Alias("A1111", "DPM++ 2M SDE Karras", "limit: 100.0, grid: {type: karras}"),
            dc.Alias("A1111", "DPM++ 2M SDE Exponential", "limit: 100.0, grid: {type: uniform-lam}"),
            dc.Alias("ComfyUI", "dpmpp_2m_sde", "limit: 100.0"),
            dc.Alias("k-diffusion", "sample_dpmpp_2m_sde", "limit: 100.0"),
            dc.Alias("A1111", "DPM++ 2M SDE Heun", "variant: heun, limit: 100.0"),
            dc.Alias("A1111", "DPM++ 2M SDE Heun Karras", "variant: heun, limit: 100.0, grid: {type: karras}"),
            dc.Alias("A1111", "DPM++ 2M SDE Heun Exponential", "variant: heun, limit: 100.0, grid: {type: uniform-lam}"),
            dc.Alias("ComfyUI", "dpmpp_2m_sde_heun", "variant: heun, limit: 100.0"),
        ),
    )
    yield dc.Component(
        "dpmpp-3m-sde",
        "diffcore_dpm.dpmpp_3m_sde:DPMpp3MSDE",
        "three-step on the reverse SDE (Crowson 2023)",
        aliases=(
            dc.Alias("A1111", "DPM++ 3M SDE", "compat: true, limit: 100.0"),
            dc.Alias("A1111", "DPM++ 3M SDE Karras", "compat: true, limit: 100.0, grid: {type: karras}"),
            dc.Alias("A1111", "DPM++ 3M SDE Exponential", "compat: true, limit: 100.0, grid: {type: uniform-lam}"),
            dc.Alias("ComfyUI", "dpmpp_3m_sde", "compat: true, limit: 100.0"),
            dc.Alias("k-diffusion", "sample_dpmpp_3m_sde", "compat: true, limit: 100.0"),
        ),
    )
    yield dc.Component(
        "dpmpp-sde",
        "diffcore_dpm.dpmpp_sde:DPMppSDE",
        "midpoint rule on the reverse SDE (Crowson 2022)",
        aliases=(
            dc.Alias("A1111", "DPM++ SDE"),
            dc.Alias("A1111", "DPM++ SDE Karras", "grid: {type: karras}"),
            dc.Alias("ComfyUI", "dpmpp_sde"),
            dc.Alias("diffusers", "DPMSolverSDEScheduler"),
            dc.Alias("k-diffusion", "sample_dpmpp_sde"),
        ),
    )
    yield dc.Component(
        "unipc",
        "diffcore_dpm.unipc:UniPC",
        "multistep with a free corrector (Zhao et al. 2023)",
        aliases=(dc.Alias("diffusers", "UniPCMultistepScheduler", "limit: 100.0"),),
    )
    yield dc.Component("dpm-solver-v3", "diffcore_dpm.dpm_solver_v3:DPMSolverV3", "calibrated to the model (Zheng et al. 2023)")
    yield dc.Component(
        "deis",
        "diffcore_dpm.deis:DEIS",
        "multistep, polynomial in t or sigma/alpha (Zhang and Chen 2023)",
        aliases=(
            dc.Alias("A1111", "LMS", "degree: 3, variable: rho, limit: 100.0"),
            dc.Alias("A1111", "LMS Karras", "degree: 3, variable: rho, limit: 100.0, grid: {type: karras}"),
            dc.Alias("azula", "zABSampler", "degree: 1, variable: rho, limit: 100.0"),
            dc.Alias("ComfyUI", "lms", "degree: 3, variable: rho, limit: 100.0"),
            dc.Alias("diffusers", "LMSDiscreteScheduler", "degree: 3, variable: rho, limit: 100.0"),
            dc.Alias("k-diffusion", "sample_lms", "degree: 3, variable: rho, limit: 100.0"),
        ),
    )
    yield dc.Component(
        "exp-adams",
        "diffcore_dpm.exp_adams:ExpAdams",
        "Adams of x0, eps, v or flow, of any order, with corrector (Norsett 1969)",
        aliases=(
            dc.Alias("azula", "vABSampler", "prediction: flow, limit: 100.0, grid: {type: straight}"),
            dc.Alias("azula", "xEABSampler", "limit: 100.0"),
            dc.Alias("azula", "zEABSampler", "prediction: eps, limit: 100.0"),
            dc.Alias("diffusers", "DEISMultistepScheduler", "prediction: eps, limit: 100.0"),
        ),
    )
