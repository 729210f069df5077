"""Solvers and time grids for diffcore."""

from __future__ import annotations

from collections.abc import Iterator

import diffcore as dc

API_VERSION = 1


def _grid(id: str, target: str, summary: str) -> dc.Component:
    return dc.Component(id, f"diffcore_solvers.{target}", summary, kind="grid")


@dc.hookimpl
def diffcore_solvers() -> Iterator[dc.Component]:
    """The solvers and time grids of this distribution."""
    yield dc.Component(
        "euler",
        "diffcore_solvers.euler:Euler",
        "probability-flow ODE, first order (Song et al. 2021)",
        aliases=(dc.Alias("diffusers", "FlowMatchEulerDiscreteScheduler"),),
    )
    yield dc.Component(
        "heun",
        "diffcore_solvers.heun:Heun",
        "probability-flow ODE, second order in t (Heun 1900)",
        aliases=(dc.Alias("diffusers", "FlowMatchHeunDiscreteScheduler"),),
    )
    yield dc.Component("rk4", "diffcore_solvers.rk4:RK4", "probability-flow ODE, fourth order in t (Kutta 1901)")
    yield dc.Component(
        "ancestral", "diffcore_solvers.ancestral:Ancestral", "samples the process's own reverse kernel (Ho et al. 2020)"
    )
    yield dc.Component(
        "ddim",
        "diffcore_solvers.ddim:DDIM",
        "DDIM, deterministic (eta = 0) to ancestral (eta = 1) (Song et al. 2021)",
        aliases=(
            dc.Alias("A1111", "DDIM"),
            dc.Alias("ComfyUI", "ddim"),
            dc.Alias("diffusers", "DDIMScheduler"),
            dc.Alias("A1111", "Euler"),
            dc.Alias("ComfyUI", "euler"),
            dc.Alias("diffusers", "EulerDiscreteScheduler"),
            dc.Alias("diffusers", "EDMEulerScheduler"),
            dc.Alias("k-diffusion", "sample_euler"),
            dc.Alias("A1111", "Euler a", "eta: 1.0"),
            dc.Alias("ComfyUI", "euler_ancestral", "eta: 1.0"),
            dc.Alias("diffusers", "EulerAncestralDiscreteScheduler", "eta: 1.0"),
            dc.Alias("k-diffusion", "sample_euler_ancestral", "eta: 1.0"),
        ),
    )
    yield dc.Component(
        "edm-heun",
        "diffcore_solvers.edm:EDMHeun",
        "Heun in sigma / alpha, with churn (Karras et al. 2022)",
        aliases=(
            dc.Alias("A1111", "Heun"),
            dc.Alias("ComfyUI", "heun"),
            dc.Alias("diffusers", "HeunDiscreteScheduler"),
            dc.Alias("k-diffusion", "sample_heun"),
        ),
    )
    yield dc.Component(
        "euler-maruyama", "diffcore_solvers.euler_maruyama:EulerMaruyama", "reverse SDE (Anderson 1982, Song et al. 2021)"
    )
    yield dc.Component(
        "dpmpp-2m",
        "diffcore_solvers.dpmpp:DPMpp2M",
        "multistep in log(alpha / sigma), second order, one evaluation a step (Lu et al. 2022)",
        aliases=(
            dc.Alias("A1111", "DPM++ 2M"),
            dc.Alias("A1111", "DPM++ 2M Karras", "grid: {type: karras}"),
            dc.Alias("ComfyUI", "dpmpp_2m"),
            dc.Alias("diffusers", "DPMSolverMultistepScheduler"),
            dc.Alias("diffusers", "EDMDPMSolverMultistepScheduler"),
            dc.Alias("k-diffusion", "sample_dpmpp_2m"),
        ),
    )
    yield _grid("uniform", "uniform:Uniform", "time grid of equal steps in t")
    yield dc.Component(
        "uniform-lam",
        "diffcore_solvers.uniform_lam:UniformLam",
        "time grid of equal steps in log(alpha / sigma) (Lu et al. 2022)",
        kind="grid",
        aliases=(
            dc.Alias("A1111", "Exponential"),
            dc.Alias("ComfyUI", "exponential"),
            dc.Alias("k-diffusion", "get_sigmas_exponential"),
        ),
    )
    yield _grid("quadratic", "quadratic:Quadratic", "time grid of equal steps in sqrt(t) (Song et al. 2021)")
    yield dc.Component(
        "karras",
        "diffcore_solvers.karras:Karras",
        "time grid of equal steps in (sigma / alpha)^(1/rho) (Karras et al. 2022)",
        kind="grid",
        aliases=(
            dc.Alias("A1111", "Karras"),
            dc.Alias("ComfyUI", "karras"),
            dc.Alias("k-diffusion", "get_sigmas_karras"),
        ),
    )
    yield _grid("shifted", "shifted:Shifted", "another time grid, moved towards noise (Esser et al. 2024)")
