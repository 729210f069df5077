"""Every deterministic sampler of other libraries on a problem of `accuracy.py`, on every grid that the library offers.

A peer is called with (problem, calls): it makes as many steps as that many calls of the network allow and returns x_0. What the
network is asked is exact: E[x_0 | x / alpha] at the level sigma / alpha the library is at, in double precision.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import MagicMock

import torch
from peers import UNUSED
from torch import Tensor

Run = Callable[[Any, int], Tensor]
"""(problem, steps) -> x_0. `problem` has `mean(y, rho)`, `y`, `top`, `low` and `levels` (1000 rising levels)."""


def fitting(problem: Any, run: Run, calls: int, steps: int | None = None) -> tuple[Tensor, int] | None:
    """The result of the most steps that cost at most `calls` calls of the network, and their number; `steps` if it is known."""
    for n in (steps,) if steps else dict.fromkeys([calls, calls - 1, (calls + 1) // 2, calls // 2, calls // 3, calls // 4, 1]):
        problem.calls = 0
        try:
            found = run(problem, n) if n > 0 else None
        except Exception:  # a sampler that cannot make so many steps, or none with these levels
            continue
        if found is not None and problem.calls <= calls and found.isfinite().all():
            return found, n
    return None


def diffusers() -> Iterator[tuple[str, str, Run]]:
    """Schedulers in several settings x their ways to place the levels."""
    import diffusers as library

    library.utils.logging.set_verbosity_error()

    order = [{"solver_order": 2}, {"solver_order": 3}]
    karras, exponential = {"use_karras_sigmas": True}, {"use_exponential_sigmas": True}
    beta, lu = {"use_beta_sigmas": True}, {"use_lu_lambdas": True}
    spacing = [{"timestep_spacing": s} for s in ("linspace", "leading", "trailing")]
    lowest = {"final_sigmas_type": "sigma_min"}  # these two settings end in NaN at sigma = 0
    levels = [*spacing, karras, exponential, beta]
    table: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {
        "DDIMScheduler": ([{"clip_sample": False}], spacing),
        "PNDMScheduler": ([{"skip_prk_steps": True, "set_alpha_to_one": True}], spacing),
        "IPNDMScheduler": ([{}], [{}]),
        "EulerDiscreteScheduler": ([{}], levels),
        "HeunDiscreteScheduler": ([{}], levels),
        "KDPM2DiscreteScheduler": ([{}], levels),
        "LMSDiscreteScheduler": ([{}], levels),
        "DPMSolverMultistepScheduler": ([*order, {"solver_type": "heun"}], [*levels, lu]),
        "DPMSolverSinglestepScheduler": (order, [{}, karras, exponential, beta]),
        "UniPCMultistepScheduler": ([*order, {"solver_type": "bh1", **lowest}, {"predict_x0": False, **lowest}], levels),
        "DEISMultistepScheduler": (order, levels),
        "SASolverScheduler": ([{"tau_func": _still, "predictor_order": p, "corrector_order": p} for p in (2, 3)], levels),
    }
    for name, (settings, grids) in table.items():
        for setting in settings:
            for grid in grids:
                label = f"{name.removesuffix('Scheduler')} {_shown(setting)}".strip()
                yield label, _shown(grid) or "its own", _scheduler(library, name, {**setting, **grid})


def _still(t: Any) -> float:
    return 0.0


def _shown(config: dict[str, Any]) -> str:
    hidden = ("clip_sample", "final_sigmas_type", "set_alpha_to_one", "tau_func", "corrector_order")
    told = {"predict_x0": "eps"}
    parts = [k.removeprefix("use_") if v is True else told.get(k, str(v)) for k, v in config.items() if k not in hidden]
    return " ".join(parts)


SCALED = ("Euler", "Heun", "KDPM2", "LMS")
"""Schedulers whose state is x / alpha; that of the others is x of the VP process."""


def _scheduler(library: Any, name: str, config: dict[str, Any]) -> Run:
    def run(problem: Any, steps: int) -> Tensor:
        kept = 1 / (1 + problem.levels**2)
        betas = 1 - kept / torch.cat([torch.ones(1), kept[:-1]])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            own = {} if name.startswith("IPNDM") else {"trained_betas": betas.tolist()}
            s = getattr(library, name)(**own, **config)
            s.set_timesteps(steps)
        scaled = name.startswith(SCALED)
        first = float(s.sigmas[0]) if scaled else problem.top
        x = problem.y * (first / problem.top) / (1 if scaled else (1 + problem.top**2) ** 0.5)
        for i, t in enumerate(s.timesteps):
            s.scale_model_input(x, t)
            rho = _level(s, name, i, t, problem.top)
            y = x.double() * (1 if scaled else (1 + rho**2) ** 0.5)
            eps = (y - problem.mean(y, rho)) / rho
            x = s.step(_output(name, eps, y, rho), t, x).prev_sample
        return x

    return run


def _level(s: Any, name: str, i: int, t: Any, top: float) -> float:
    """sigma / alpha of the next call of the network."""
    if name.startswith("IPNDM"):
        return min(float(s.betas[i] / s.alphas[i].clamp_min(1e-9)), top)
    if not hasattr(s, "sigmas"):
        a = float(s.alphas_cumprod[int(t)])
        return ((1 - a) / a) ** 0.5
    if name.startswith("KDPM2") and not s.state_in_first_order:
        return float(s.sigmas_interpol[i])
    return float(s.sigmas[i])


def _output(name: str, eps: Tensor, y: Tensor, rho: float) -> Tensor:
    """What the scheduler reads: eps, or v for the one that knows nothing else."""
    if not name.startswith("IPNDM"):
        return eps
    alpha = 1 / (1 + rho**2) ** 0.5
    return alpha * eps - rho * alpha * (y - rho * eps)


def k_diffusion() -> Iterator[tuple[str, str, Run]]:
    """Samplers without noise x ways to place the levels."""
    for name in UNUSED:
        sys.modules.setdefault(name, MagicMock())
    from k_diffusion import sampling as k

    names: dict[str, dict[str, Any]] = {"euler": {}, "heun": {}, "dpm_2": {}, "lms": {}, "dpmpp_2m": {}}
    quiet = {"eta": 0.0}
    names |= {"dpmpp_2s_ancestral": quiet, "dpmpp_3m_sde": quiet}  # dpmpp_sde without noise is the first of these
    names |= {"dpmpp_2m_sde": {**quiet, "solver_type": "heun"}}
    grids: dict[str, Callable[[int, float, float], Tensor]] = {
        "karras": k.get_sigmas_karras,
        "exponential": k.get_sigmas_exponential,
        "polyexponential 1.5": lambda n, low, high: k.get_sigmas_polyexponential(n, low, high, 1.5),
        "vp": lambda n, low, high: k.get_sigmas_vp(n),
    }

    def sampler(name: str, options: dict[str, Any], grid: Callable[[int, float, float], Tensor]) -> Run:
        more = {"noise_sampler": lambda *_: 0.0} if "eta" in options else {}

        def run(problem: Any, steps: int) -> Tensor:
            sigmas = grid(steps, problem.low, problem.top).double()
            x = problem.y * (sigmas[0] / problem.top)
            model = lambda y, s: problem.mean(y, float(s[0]))  # noqa: E731
            return getattr(k, f"sample_{name}")(model, x, sigmas, disable=True, **options, **more)

        return run

    for name, options in names.items():
        for grid, make in grids.items():
            yield name, grid, sampler(name, options, make)

    def fast(problem: Any, steps: int) -> Tensor:
        model = lambda y, s: problem.mean(y, float(s[0]))  # noqa: E731
        return k.sample_dpm_fast(model, problem.y, problem.low, problem.top, steps, disable=True)

    yield "dpm_fast", "its own", fast


def azula() -> Iterator[tuple[str, str, Run]]:
    """Samplers on equal steps of the time of each of its schedules."""
    from azula import noise, sample
    from azula.denoise import Denoiser, DiracPosterior

    class Exact(Denoiser):
        def __init__(self, problem: Any, schedule: Any) -> None:
            super().__init__()
            self.problem, self.schedule = problem, schedule

        def forward(self, x_t: Tensor, t: Tensor, **kwargs: Any) -> Any:
            alpha, sigma = (float(v) for v in self.schedule(t.double()))
            return DiracPosterior(self.problem.mean(x_t / alpha, min(sigma / alpha, self.problem.top)))

    schedules: dict[str, Callable[[float], Any]] = {
        "VP": lambda top: noise.VPSchedule(alpha_min=1 / (1 + top**2) ** 0.5),
        "cosine": lambda top: noise.CosineSchedule(alpha_min=1 / (1 + top**2) ** 0.5),
        "rectified": lambda top: noise.RectifiedSchedule(alpha_min=1 / top),
        "VE": lambda top: noise.VESchedule(sigma_max=top),
        "VE from .01": lambda top: noise.VESchedule(sigma_min=0.01, sigma_max=top),
    }
    names: list[tuple[str, dict[str, Any]]] = [("DDIM", {}), ("Euler", {}), ("Heun", {})]
    names += [(name, {"order": p}) for name in ("zAB", "vAB", "zEAB", "xEAB", "REAB") for p in (2, 3)]

    def sampler(name: str, options: dict[str, Any], schedule: Callable[[float], Any]) -> Run:
        def run(problem: Any, steps: int) -> Tensor:
            made = Exact(problem, schedule(problem.top))
            alpha = made.schedule(torch.ones((), dtype=torch.float64))[0]
            kind = getattr(sample, f"{name}Sampler")
            return kind(made, steps=steps, silent=True, dtype=torch.float64, **options)(problem.y * alpha)

        return run

    for name, options in names:
        for grid, schedule in schedules.items():
            yield f"{name} {_shown(options)}".strip(), grid, sampler(name, options, schedule)


def flow_matching() -> Iterator[tuple[str, str, Run]]:
    """Methods of its ODE solver, on equal steps of the time of the straight path."""
    from flow_matching.solver import ODESolver

    def sampler(method: str) -> Run:
        def run(problem: Any, steps: int) -> Tensor:
            start = problem.top / (1 + problem.top)

            def velocity(x: Tensor, t: Tensor) -> Tensor:
                sigma = min(max(1 - float(t), 1e-4), start)
                y = x / (1 - sigma)
                mean = problem.mean(y, sigma / (1 - sigma))
                return mean - (x - (1 - sigma) * mean) / sigma

            grid = torch.linspace(1 - start, 1.0, steps + 1, dtype=torch.float64)
            return ODESolver(velocity_model=velocity).sample(problem.y * (1 - start), None, method=method, time_grid=grid)

        return run

    for method in ("euler", "midpoint", "heun2", "heun3", "rk4", "explicit_adams"):
        yield method, "uniform", sampler(method)


def installed() -> Iterator[tuple[str, str, str, Run]]:
    """Library, sampler, grid and run of every library that can be imported."""
    for library in (diffusers, k_diffusion, azula, flow_matching):
        try:
            yield from ((library.__name__.replace("_", "-"), *found) for found in list(library()))
        except ImportError as error:
            print(f"{library.__name__}: not installed ({error})", file=sys.stderr)
