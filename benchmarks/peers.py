"""The nearest sampler of other libraries to each of ours, as their documentation says to use it; all optional.

A contender is made from (net, x, steps) and is then called once per run. What it does before its first network call is
its set-up, which users pay as well. A library that is not installed, or fails to import, has no contenders.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any
from unittest.mock import MagicMock

import torch
from torch import Tensor

Net = Callable[..., Tensor]
Make = Callable[[Net, Tensor, int], Callable[[], Any]]
UNUSED = ("torchvision", "torchvision.transforms", "skimage", "jsonmerge", "clip", "dctorch")
UNUSED += ("cleanfid", "cleanfid.inception_torchscript")
"""Imported by k-diffusion's package, not used by its samplers: stand-ins, so that an absent one does not matter."""


def diffusers() -> dict[str, Make]:
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler
    from diffusers import FlowMatchHeunDiscreteScheduler as FlowMatchHeun

    def contender(scheduler: Any) -> Make:
        def make(net: Net, x: Tensor, steps: int) -> Callable[[], Tensor]:
            @torch.no_grad()
            def run() -> Tensor:
                scheduler.set_timesteps(steps)
                state = x
                for t in scheduler.timesteps:
                    state = scheduler.step(net(state, t), t, state).prev_sample
                return state

            return run

        return make

    return {
        "euler": contender(FlowMatchEulerDiscreteScheduler()),
        "ddim": contender(DDIMScheduler(prediction_type="sample", clip_sample=False)),
        "heun": contender(FlowMatchHeun()),
        "dpmpp-2m": contender(DPMSolverMultistepScheduler(prediction_type="sample")),
    }


def k_diffusion() -> dict[str, Make]:
    for name in UNUSED:
        sys.modules.setdefault(name, MagicMock())
    from k_diffusion import sampling

    def contender(sampler: Any) -> Make:
        def make(net: Net, x: Tensor, steps: int) -> Callable[[], Tensor]:
            return lambda: sampler(net, x, sampling.get_sigmas_karras(steps, 0.03, 80.0), disable=True)

        return make

    return {
        "euler": contender(sampling.sample_euler),
        "ddim": contender(sampling.sample_euler),  # with alpha = 1 Euler in sigma is DDIM
        "heun": contender(sampling.sample_heun),
        "dpmpp-2m": contender(sampling.sample_dpmpp_2m),
    }


def azula() -> dict[str, Make]:
    from azula import sample
    from azula.denoise import Denoiser, DiracPosterior
    from azula.noise import RectifiedSchedule, VPSchedule

    class Constant(Denoiser):
        def __init__(self, net: Net, schedule: Any) -> None:
            super().__init__()
            self.net, self.schedule = net, schedule

        def forward(self, x_t: Tensor, t: Tensor, **kwargs: Any) -> Any:
            return DiracPosterior(self.net(x_t, t))

    def contender(sampler: Any, schedule: Any, **options: Any) -> Make:
        def make(net: Net, x: Tensor, steps: int) -> Callable[[], Tensor]:
            denoiser = Constant(net, schedule)
            return lambda: sampler(denoiser, steps=steps, silent=True, **options)(x)

        return make

    return {
        "euler": contender(sample.EulerSampler, RectifiedSchedule()),
        "ddim": contender(sample.DDIMSampler, VPSchedule()),
        "heun": contender(sample.HeunSampler, RectifiedSchedule()),
        "dpmpp-2m": contender(sample.xEABSampler, VPSchedule(), order=2),
    }


def flow_matching() -> dict[str, Make]:
    from flow_matching.solver import ODESolver

    def contender(method: str) -> Make:
        def make(net: Net, x: Tensor, steps: int) -> Callable[[], Tensor]:
            solver = ODESolver(velocity_model=lambda x, t: net(x, t))
            return lambda: solver.sample(x, None, method=method, time_grid=torch.linspace(0.0, 1.0, steps + 1))

        return make

    return {"euler": contender("euler"), "heun": contender("heun2")}


def installed() -> dict[str, dict[str, Make]]:
    """Contenders by library and method; empty where a library cannot be imported."""
    found: dict[str, dict[str, Make]] = {}
    for library in (diffusers, k_diffusion, azula, flow_matching):
        try:
            found[library.__name__] = library()
        except Exception as error:  # whatever breaks in another library is its own matter
            print(f"{library.__name__}: not installed ({type(error).__name__}: {error})", file=sys.stderr)
            found[library.__name__] = {}
    return found
