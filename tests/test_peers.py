"""The samples of diffusers, k-diffusion and azula from the same start, levels and noise; skipped where they are not installed.

The network is exact for a Gaussian mixture. Every name that a component declares of the first two is tried here with the
fields declared, and where two implementations differ, the test says why and measures it.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import math
import sys
import warnings
from unittest.mock import MagicMock

import attrs
import pytest
import torch
from ruamel.yaml import YAML

import diffcore as dc
from diffcore.testing import ReferenceFlow, ReferenceVE, golden_mixture

pytestmark = pytest.mark.filterwarnings("ignore")
REGISTRY = dc.Registry.load()
ORACLE = golden_mixture((3,))
STEPS = 18
UNUSED = ("torchvision", "torchvision.transforms", "skimage", "jsonmerge", "clip", "dctorch")
UNUSED += ("cleanfid", "cleanfid.inception_torchscript", "PIL", "PIL.Image")


class Wide(ReferenceVE):
    """alpha = 1, sigma = t: x / alpha and sigma / alpha of any affine process."""

    @property
    def T(self):
        return 1000.0


VE = Wide()


@functools.cache
def samplers():
    """Its samplers alone; what its package also imports is replaced by stand-ins for as long as the import lasts."""
    absent = {name: MagicMock() for name in UNUSED if name not in sys.modules}
    sys.modules.update(absent)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module("k_diffusion.sampling")
    except ImportError as error:
        return error
    finally:
        for name in absent:
            del sys.modules[name]


def k_diffusion():
    found = samplers()
    return found if not isinstance(found, ImportError) else pytest.skip(f"needs k-diffusion: {found}")


def scheduler(name, **config):
    """A scheduler of diffusers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        library = pytest.importorskip("diffusers")
        return getattr(library, name)(**config)


def names(tool, kind="solver"):
    """Name -> the solver as it is declared."""
    entries = [(e, a) for e in REGISTRY.list(kind) for a in e.aliases if a.tool == tool]
    return {a.name: a.spec(e.id) for e, a in entries}


def made(text, kind="solver"):
    return REGISTRY.make(kind, YAML(typ="safe").load(text))


def moments(x, sigma):
    """E[x_0 | x], E[eps | x] of x = x_0 + sigma eps."""
    level = torch.as_tensor(sigma, dtype=torch.float64)
    return ORACLE.moments(x.double(), VE.coeffs(level))


def start(sigma):
    return sigma * dc.Draw(5, range(8)).normal((3,), torch.float64)


def ours(solver, levels, seed=0):
    solver = made(solver) if isinstance(solver, str) else solver
    return dc.sample(ORACLE.field(VE), solver, start(float(levels[0])), grid=levels, seed=seed).x


def noise_of(step, *keys, seed=0):
    """The noise of our step number `step`, from 0."""
    draw = dc.Draw(seed, range(8)).at(step + 1)
    return (draw.fold(*keys) if keys else draw).normal_like(start(1.0))


def whole(one, two, sigma, after, r=0.5):
    """The noise of a whole step from those of its parts: one path."""
    h = math.log(sigma / after)
    late, early = -math.expm1(-2 * (1 - r) * h), -math.expm1(-2 * r * h)
    return (math.exp(-(1 - r) * h) * early**0.5 * one + late**0.5 * two) / (-math.expm1(-2 * h)) ** 0.5


def sequence(levels, *, split=False):
    """What a library draws in the course of a run, in its order."""
    for i, (a, b) in enumerate(itertools.pairwise([float(v) for v in levels])):
        if not split:
            yield noise_of(i)
        elif b > 0:
            one, two = noise_of(i, 1), noise_of(i, 2)
            yield from (one, whole(one, two, a, b))


def largest(a, b):
    return float((a.double() - b.double()).abs().max())


# --- k-diffusion


def karras(n=STEPS, low=0.05, high=30.0):
    return k_diffusion().get_sigmas_karras(n, low, high).double()


def theirs(name, levels, **options):
    """A sampler of k-diffusion on these levels, in double precision."""
    draws = sequence(levels, split=name == "sample_dpmpp_sde")
    if any(word in name for word in ("ancestral", "sde")):
        options["noise_sampler"] = lambda *_: next(draws)
    return getattr(k_diffusion(), name)(
        lambda x, s: moments(x, s[0])[0], start(float(levels[0])), levels, disable=True, **options
    )


@pytest.mark.parametrize("name", sorted(names("k-diffusion")))
def test_k_diffusion(name):
    """Same samples to rounding, on its own levels; they differ from DDIM's and from another number of steps' by far more."""
    levels = karras()
    got, want = ours(names("k-diffusion")[name], levels), theirs(name, levels)
    assert largest(got, want) < 1e-9
    other = ours("{type: ddim}" if name != "sample_euler" else "{type: edm-heun}", levels)
    assert largest(other, want) > 1e-4


@pytest.mark.parametrize(
    ("name", "options", "spec"),
    [
        ("sample_euler_ancestral", {"eta": 0.6}, "{type: ddim, eta: 0.6}"),
        ("sample_euler_ancestral", {}, "{type: ancestral}"),
        ("sample_dpm_2_ancestral", {"eta": 0.6}, "{type: ode-ancestral, eta: 0.6, of: {type: dpm-solver-2}}"),
        ("sample_dpmpp_2m_sde", {"eta": 0.6}, "{type: dpmpp-2m-sde, eta: 0.6, limit: 100.0}"),
        ("sample_dpmpp_2m_sde", {"solver_type": "heun"}, "{type: dpmpp-2m-sde, variant: heun, limit: 100.0}"),
        ("sample_dpmpp_3m_sde", {"eta": 0.6}, "{type: dpmpp-3m-sde, eta: 0.6, compat: true, limit: 100.0}"),
        ("sample_dpmpp_3m_sde", {"eta": 0.0}, "{type: dpmpp-3m, compat: true, limit: 100.0}"),
        ("sample_lms", {"order": 2}, "{type: deis, degree: 1, variable: rho, limit: 100.0}"),
        ("sample_heun", {}, "{type: runge-kutta, method: heun, variable: sigma}"),
    ],
)
def test_options_of_k_diffusion(name, options, spec):
    levels = karras()
    assert largest(ours(spec, levels), theirs(name, levels, **options)) < 1e-9


@pytest.mark.parametrize("method", ["euler", "heun", "midpoint"])
def test_churn_of_k_diffusion(method, monkeypatch):
    """`sample_dpm_2` takes its inner evaluation half-way in log sigma, `midpoint` here half-way in sigma: these two differ."""
    levels, options = karras(), {"s_churn": 9.0, "s_tmax": 10.0, "s_noise": 1.01}
    fields = f"s_churn: 9.0, s_max: 10.0, s_noise: 1.01, method: {method}"
    draws = sequence(levels)
    monkeypatch.setattr(torch, "randn_like", lambda x: next(draws))
    name = {"midpoint": "sample_dpm_2"}.get(method, f"sample_{method}")
    off = largest(ours(f"{{type: edm-stochastic, {fields}}}", levels), theirs(name, levels, **options))
    assert off < 1e-9 if method != "midpoint" else off > 1e-4


@pytest.mark.parametrize(
    ("name", "call", "fields"),
    [
        ("get_sigmas_karras", lambda k: k.get_sigmas_karras(12, 0.03, 80.0), "sigma_min: 0.03, sigma_max: 80.0"),
        ("get_sigmas_karras", lambda k: k.get_sigmas_karras(12, 0.03, 80.0, 3), "sigma_min: 0.03, sigma_max: 80.0, rho: 3.0"),
        (
            "get_sigmas_exponential",
            lambda k: k.get_sigmas_exponential(12, 0.03, 80.0),
            f"lam_min: {-math.log(80)}, lam_max: {-math.log(0.03)}",
        ),
    ],
)  # fmt: skip
def test_levels_of_k_diffusion(name, call, fields):
    grid = made(names("k-diffusion", "grid")[name].replace("}", f", {fields}}}"), "grid")
    want = call(k_diffusion()).double()
    got = grid.nodes(VE, 12, 80.0)
    assert largest(got / want.clamp_min(1e-9), torch.cat([torch.ones(12), torch.zeros(1)])) < 2e-6
    assert got[-1] == want[-1] == 0


@pytest.mark.parametrize("calls", [6, 13, 14])
def test_dpm_fast_is_singlestep_solvers_one_after_the_other(calls):
    """There is no solver of that name here: it is dpm-solver-3 on its first steps, then dpm-solver-2 and ddim."""
    k, low, high = k_diffusion(), 0.05, 10.0
    want = k.sample_dpm_fast(lambda x, s: moments(x, s[0])[0], start(high), low, high, calls, disable=True)
    m = calls // 3 + 1
    levels = torch.linspace(math.log(high), math.log(low), m + 1, dtype=torch.float64).exp()
    orders = [3] * (m - 2) + [2, 1] if calls % 3 == 0 else [3] * (m - 1) + [calls % 3]
    x, kinds = start(high), {1: "ddim", 2: "dpm-solver-2", 3: "dpm-solver-3"}
    for order, pair in zip(orders, itertools.pairwise(levels.tolist()), strict=True):
        x = dc.sample(ORACLE.field(VE), REGISTRY.make("solver", kinds[order]), x, grid=pair).x
    assert largest(x, want) < 1e-5  # its levels are float32


def test_dpm_adaptive_arrives_where_adaptive_arrives():
    """Another embedded pair, one step size for the whole batch: only the solution is the same."""
    k, low, high = k_diffusion(), 0.05, 10.0
    want = k.sample_dpm_adaptive(
        lambda x, s: moments(x, s[0])[0], start(high), low, high, rtol=1e-6, atol=1e-6, disable=True
    )  # fmt: skip
    got = ours("{type: adaptive, rtol: 1.0e-9, atol: 1.0e-9}", [high, low])
    assert largest(got, want) < 2e-4


# --- A1111 and ComfyUI run the samplers of k-diffusion under other names

KDIFFUSION = {
    "Euler": "euler", "Euler a": "euler_ancestral", "Heun": "heun", "DPM2": "dpm_2", "DPM2 a": "dpm_2_ancestral", "LMS": "lms",
    "DPM++ 2S a": "dpmpp_2s_ancestral", "DPM++ SDE": "dpmpp_sde", "DPM++ 2M": "dpmpp_2m", "DPM++ 2M SDE": "dpmpp_2m_sde",
    "DPM++ 3M SDE": "dpmpp_3m_sde",
}  # fmt: skip
OTHER = {"DDIM", "ddim", "ddpm", "DPM++ 2M SDE Heun", "dpmpp_2m_sde_heun"}
SCHEDULES = {"Karras": "karras", "Exponential": "uniform-lam"}


@pytest.mark.parametrize("tool", ["A1111", "ComfyUI"])
def test_names_of_user_interfaces_are_those_of_k_diffusion(tool):
    """What carries a schedule is the solver of the name without it, on that grid."""
    declared, sampled = names(tool), names("k-diffusion")
    plain = {name for name in declared if not name.endswith(tuple(SCHEDULES))}
    assert {f"sample_{KDIFFUSION.get(name, name)}" for name in plain - OTHER} == set(sampled)
    for name in plain - OTHER:
        assert made(declared[name]) == made(sampled[f"sample_{KDIFFUSION.get(name, name)}"])
    for name in set(declared) - plain:
        base, _, schedule = name.rpartition(" ")
        grid = REGISTRY.make("grid", SCHEDULES[schedule])
        assert made(declared[name]) == attrs.evolve(made(declared[base]), grid=grid)


# --- diffusers

LEVEL = {
    "KDPM2Ancestral": lambda s, i: s.sigmas[i] if s.state_in_first_order else s.sigmas_interpol[i - 1],
    "KDPM2": lambda s, i: s.sigmas[i] if s.state_in_first_order else s.sigmas_interpol[i],
    "DPMSolverSDE": lambda s, i: s.sigmas[i] if s.state_in_first_order else s.mid_point_sigma,
}
SCALED = ("Euler", "Heun", "KDPM2", "LMS", "DPMSolverSDE")
"""Schedulers whose state is x / alpha."""
CONFIG = {
    "DDIMScheduler": {"clip_sample": False},
    "DDPMScheduler": {"clip_sample": False},
    "DPMSolverSDEScheduler": {"beta_start": 1e-4, "beta_end": 0.02},
    "HeunDiscreteScheduler": {"beta_start": 1e-4, "beta_end": 0.02},
    "KDPM2DiscreteScheduler": {"beta_start": 1e-4, "beta_end": 0.02},
    "KDPM2AncestralDiscreteScheduler": {"beta_start": 1e-4, "beta_end": 0.02},
}
VPS = sorted(n for n in names("diffusers") if not n.startswith(("EDM", "FlowMatch")))


def with_config(name, **config):
    levels = {} if name.startswith(("DD", "LMS")) else {"use_karras_sigmas": True}
    if "Ancestral" in name and name.startswith("Euler"):
        levels = {}
    return scheduler(name, **{**CONFIG.get(name, {}), **levels, **config})


def levels_of(s, steps):
    """sigma / alpha at every node of a run, without the repetitions of two-stage schedulers."""
    s.set_timesteps(steps)
    if not hasattr(s, "sigmas"):
        a = s.alphas_cumprod[s.timesteps].double()
        return torch.cat([((1 - a) / a).sqrt(), torch.zeros(1, dtype=torch.float64)])
    return torch.unique_consecutive(s.sigmas.double())


def diffusers_run(s, name, levels, steps, monkeypatch):
    """A run of a scheduler; the network's noise prediction is in double precision, the state as the scheduler keeps it."""
    draws = sequence(levels, split=name.startswith("DPMSolverSDE"))
    monkeypatch.setattr(f"{type(s).__module__}.randn_tensor", lambda *_, **__: next(draws), raising=False)
    s.set_timesteps(steps)
    if name.startswith("DPMSolverSDE"):
        s.noise_sampler = lambda *_: next(draws)
    x, scaled = start(float(levels[0])), name.startswith(SCALED)
    x = x if scaled else x / (1 + float(levels[0]) ** 2) ** 0.5
    for i, t in enumerate(s.timesteps):
        s.scale_model_input(x, t)
        kind = next((k for k in LEVEL if name.startswith(k)), None)
        found = levels if not hasattr(s, "sigmas") else s.sigmas
        sigma = float(LEVEL[kind](s, i) if kind else found[i])
        eps = moments(x if scaled else x * (1 + sigma**2) ** 0.5, sigma)[1]
        x = s.step(eps, t, x).prev_sample
    return x if scaled else x.double() * (1 + float(levels[-1]) ** 2) ** 0.5


@pytest.mark.parametrize("name", VPS)
def test_diffusers(name, monkeypatch):
    """Same samples to its single precision."""
    s = with_config(name)
    levels = levels_of(s, STEPS)
    want = diffusers_run(s, name, levels, STEPS, monkeypatch)
    assert largest(ours(names("diffusers")[name], levels), want) < 1e-5


def spaced(steps, high=100.0, low=0.05):
    """Levels of equal ratios, that end above zero."""
    return torch.logspace(math.log10(high), math.log10(low), steps + 1, dtype=torch.float64)


def stepped(s, levels, draws=None):
    """A scheduler of alpha, sigma in VP's scaling, on levels of our choice in double precision."""
    s.set_timesteps(len(levels) - 1)
    s.sigmas = levels
    x = start(float(levels[0])) / (1 + float(levels[0]) ** 2) ** 0.5
    for sigma, t in zip(levels.tolist(), s.timesteps, strict=False):
        noise = {} if draws is None else {"variance_noise": next(draws)}
        x = s.step(moments(x * (1 + sigma**2) ** 0.5, sigma)[1], t, x, **noise).prev_sample
    return x.double() * (1 + float(levels[-1]) ** 2) ** 0.5


DPM, UNIPC, DEIS = "DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "DEISMultistepScheduler"


@pytest.mark.parametrize(
    ("name", "config", "spec"),
    [
        (DPM, {"solver_type": "heun"}, "{type: exp-adams, limit: 100.0}"),
        (DPM, {"solver_order": 3}, "{type: dpmpp-3m, compat: true, limit: 100.0}"),
        (DPM, {"algorithm_type": "sde-dpmsolver++"}, "{type: dpmpp-2m-sde, limit: 100.0}"),
        (DPM, {"algorithm_type": "sde-dpmsolver++", "solver_type": "heun"}, "{type: dpmpp-2m-sde, variant: heun, limit: 100.0}"),
        (UNIPC, {}, "{type: unipc, limit: 100.0}"),
        (UNIPC, {"solver_type": "bh1"}, "{type: unipc, variant: bh1, limit: 100.0}"),
        (UNIPC, {"predict_x0": False}, "{type: unipc, prediction: eps, limit: 100.0}"),
        (UNIPC, {"solver_order": 3}, "{type: unipc, points: 3, limit: 100.0}"),
        (DEIS, {"solver_order": 3}, "{type: exp-adams, points: 3, prediction: eps, limit: 100.0}"),
    ],
)
def test_options_of_diffusers(name, config, spec):
    """Without its lower orders in the last steps, which these levels do not need."""
    s = scheduler(name, lower_order_final=False, **({} if name == DEIS else {"final_sigmas_type": "sigma_min"}), **config)
    levels = spaced(20)
    draws = sequence(levels) if "sde" in config.get("algorithm_type", "") else None
    assert largest(ours(spec, levels), stepped(s, levels, draws)) < 1e-5


def test_singlestep_of_diffusers_takes_its_inner_point_from_the_grid():
    """Two of its steps, with equal ratios, are one of dpmpp-2s."""
    levels = spaced(24)
    want = stepped(scheduler("DPMSolverSinglestepScheduler", final_sigmas_type="sigma_min"), levels)
    assert largest(ours("{type: dpmpp-2s}", levels[::2]), want) < 1e-9


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_eta_of_ddim(eta):
    s = with_config("DDIMScheduler")
    levels, draws = levels_of(s, STEPS), None
    x, draws = start(float(levels[0])) / (1 + float(levels[0]) ** 2) ** 0.5, sequence(levels)
    for sigma, t in zip(levels.tolist(), s.timesteps, strict=False):
        more = {"eta": eta, "variance_noise": next(draws)} if eta else {}
        x = s.step(moments(x * (1 + sigma**2) ** 0.5, sigma)[1], t, x, **more).prev_sample
    assert largest(ours(f"{{type: ddim, eta: {eta}}}", levels), x) < 1e-5


@pytest.mark.parametrize("name", ["EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"])
def test_edm_of_diffusers(name):
    """It wants EDM's output of the network and scales its input."""
    s, data = scheduler(name, sigma_data=0.5), 0.5
    s.set_timesteps(STEPS)
    levels = s.sigmas.double()
    x = start(float(levels[0]))
    for sigma, t in zip(levels.tolist(), s.timesteps, strict=False):
        s.scale_model_input(x, t)
        total = sigma**2 + data**2
        out = (moments(x, sigma)[0] - data**2 / total * x) / (sigma * data / total**0.5)
        x = s.step(out, t, x).prev_sample
    assert largest(ours(names("diffusers")[name], levels), x) < 1e-5


@pytest.mark.parametrize("name", ["FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"])
def test_flow_matching_of_diffusers(name):
    s, flow, x = scheduler(name), ReferenceFlow(), start(1.0)
    s.set_timesteps(STEPS)
    levels = s.sigmas.double()
    for i, t in enumerate(s.timesteps):
        x = s.step(ORACLE.velocity(x.double(), flow.coeffs(levels[i])), t, x).prev_sample
    solver = made(names("diffusers")[name])
    grid = torch.unique_consecutive(levels)
    assert largest(dc.sample(ORACLE.field(flow), solver, start(1.0), grid=grid).x, x) < 1e-5


# --- what a peer's variant loses, on the exact field


@functools.cache
def solution():
    """The end of the levels of `spaced`, to 1e-11."""
    return ours("{type: exp-adams, points: 4, corrector: true, limit: 100.0}", spaced(2000))


def slope(run, steps=80):
    """Order between N and 2 N steps, and the error at 2 N."""
    coarse, fine = (largest(run(spaced(n)), solution()) for n in (steps, 2 * steps))
    return math.log2(coarse / fine), fine


def test_third_order_multistep_without_its_factor_two_is_of_second_order():
    """The second difference is half of the second derivative; k-diffusion and diffusers use it as the whole."""
    order, error = slope(lambda levels: ours("{type: dpmpp-3m, limit: 100.0}", levels))
    assert order > 3.0
    for run in (
        lambda levels: theirs("sample_dpmpp_3m_sde", levels, eta=0.0),
        lambda levels: stepped(scheduler(DPM, solver_order=3, final_sigmas_type="sigma_min"), levels),
    ):
        lost, other = slope(run)
        assert lost < 2.3
        assert other > 2.5 * error


@pytest.mark.parametrize(("name", "config"), [(UNIPC, {}), ("SASolverScheduler", {"predictor_order": 3, "corrector_order": 4})])
def test_lower_order_final_costs_an_order(name, config):
    """Its last step is of first order at any number of steps, although the levels end where nothing asks for it."""
    config = {"solver_order": 3} if name == UNIPC else {**config, "tau_func": lambda t: 0.0}
    ends = {"final_sigmas_type": "sigma_min"} if name == UNIPC else {}
    lost, other = slope(lambda levels: stepped(scheduler(name, **ends, **config), levels))
    order, error = slope(lambda levels: ours("{type: unipc, points: 3, limit: 100.0}", levels))
    assert order > 2.8
    assert lost < 2.1
    assert other > 5 * error


def test_few_steps_of_diffusers_end_with_a_first_order_step():
    """Below 15 steps DEIS ends with DDIM, also where its levels end above zero."""
    levels = spaced(10)
    want = stepped(scheduler(DEIS), levels)
    solver = made(names("diffusers")[DEIS])
    before = list(dc.frames(ORACLE.field(VE), solver, start(100.0), grid=levels))[-2].x
    assert largest(dc.sample(ORACLE.field(VE), made("ddim"), before, grid=levels[-2:]).x, want) < 1e-6
    assert largest(ours(names("diffusers")[DEIS], levels), want) > 1e-3


def test_unipc_of_diffusers_cannot_reach_clean_data_without_its_lower_order():
    """Order 2 ends in NaN, order 3 in a singular matrix."""
    s = with_config(UNIPC, lower_order_final=False)
    assert not stepped(s, levels_of(s, STEPS)).isfinite().any()
    s = with_config(UNIPC, lower_order_final=False, solver_order=3)
    with pytest.raises(RuntimeError, match="singular"):
        stepped(s, levels_of(s, STEPS))
    assert ours(names("diffusers")[UNIPC], levels_of(with_config(UNIPC), STEPS)).isfinite().all()


@pytest.mark.parametrize("name", [DPM, "EulerDiscreteScheduler"])
def test_double_precision_is_cast_away(name, monkeypatch):
    """The state goes through float32 in every step, so that a run in float64 is no better than one in float32."""
    s = with_config(name)
    levels = levels_of(s, STEPS)
    want = stepped(s, levels) if name == DPM else diffusers_run(s, name, levels, STEPS, monkeypatch)
    assert 1e-8 < largest(ours(names("diffusers")[name], levels), want) < 1e-5


@pytest.mark.parametrize("config", [{"solver_type": "bh1"}, {"predict_x0": False}])
def test_some_settings_of_unipc_of_diffusers_end_in_nan(config):
    """At its default end, sigma = 0: infinity times the difference 0. The same method here arrives."""
    s = with_config(UNIPC, **config)
    levels = levels_of(s, STEPS)
    assert not stepped(s, levels).isfinite().any()
    spec = {"type": "unipc", "limit": 100.0, **({"prediction": "eps"} if "predict_x0" in config else {"variant": "bh1"})}
    assert largest(ours(REGISTRY.make("solver", spec), levels), ours("{type: exp-adams, points: 3}", levels)) < 0.2


AZULA = {"xEAB": "x0", "zEAB": "eps", "vAB": "flow"}


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("name", [*AZULA, "zAB"])
def test_adams_bashforth_of_azula(name, order):
    """Its four families on equal times of its straight path; vAB is Adams in the velocity and the time of that path."""
    pytest.importorskip("azula")
    from azula import noise, sample
    from azula.denoise import Denoiser, DiracPosterior

    schedule = noise.RectifiedSchedule(alpha_min=1e-2, sigma_min=1e-2)

    class Exact(Denoiser):
        def __init__(self):
            super().__init__()
            self.schedule = schedule

        def forward(self, x, t, **kwargs):
            alpha, sigma = schedule(t.double())
            return DiracPosterior(moments(x / alpha, sigma / alpha)[0])

    alpha, sigma = schedule(torch.linspace(1, 0, STEPS + 1, dtype=torch.float64))
    x, levels = start(float(sigma[0] / alpha[0])), sigma / alpha
    sampler = getattr(sample, f"{name}Sampler")(Exact(), steps=STEPS, silent=True, dtype=torch.float64, order=order)
    spec = f"{{type: exp-adams, points: {order}, prediction: {AZULA.get(name)}, limit: 100.0}}"
    if name == "zAB":
        spec = f"{{type: deis, degree: {order - 1}, variable: rho, limit: 100.0}}"
    assert largest(sampler(alpha[0] * x) / alpha[-1], ours(spec, levels)) < 1e-9
