"""Hand-written sampling loops with precomputed Python floats, the floor of every ratio.

"floor" writes the formula as it stands (`a * x + b * m`), "tight" calls as few out-of-place kernels as there are terms
(`torch.mul(x, a).add_(m, alpha=b)`), "in place" overwrites the state. A step is `step(net, x, row, past, z) -> (x, past)`:
`past` holds the outputs of earlier steps, newest first, `z` the noise, and `row` the floats of the solver's own plan, with the
times of the network calls as tensors. Noise is `torch.randn_like`, one stream for the whole batch.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

import diffcore as dc

Past = tuple[Tensor, ...]
Out = tuple[Tensor, Past]
Step = Callable[..., Out]
Noise = Callable[[int], Any]


def euler(net: Any, x: Tensor, row: Any, past: Past, z: Any) -> Out:
    """x + h v, as the formula stands."""
    return x + row.dt * net(x, row.t), past


def euler_tight(net: Any, x: Tensor, row: Any, past: Past, z: Any) -> Out:
    """x + h v, in as few out-of-place kernels as there are terms."""
    return torch.add(x, net(x, row.t), alpha=row.dt), past


def euler_in_place(net: Any, x: Tensor, row: Any, past: Past, z: Any) -> Out:
    """x + h v, overwriting the state."""
    return x.add_(net(x, row.t), alpha=row.dt), past


def blend(net: Any, x: Tensor, row: Any, past: Past, z: Any) -> Out:
    """keep x + gain m, as the formula stands."""
    return row.keep * x + row.gain * net(x, row.t), past


def blend_tight(net: Any, x: Tensor, row: Any, past: Past, z: Any) -> Out:
    """keep x + gain m, in as few out-of-place kernels as there are terms."""
    return torch.mul(x, row.keep).add_(net(x, row.t), alpha=row.gain), past


def blend_in_place(net: Any, x: Tensor, row: Any, past: Past, z: Any) -> Out:
    """keep x + gain m, overwriting the state."""
    m = net(x, row.t)
    return x.mul_(row.keep).add_(m, alpha=row.gain), past


def noisy_blend(net: Any, x: Tensor, row: Any, past: Past, z: Any) -> Out:
    """keep x + gain m + c z, without noise in a step that draws none."""
    m = net(x, row.t)
    if z is None:
        return row.keep * x + row.gain * m, past
    return row.keep * x + row.gain * m + row.noise * z, past


def heun(net: Any, x: Tensor, row: Any, past: Past, z: Any) -> Out:
    """x + h (k1 + k2) / 2, Euler's where there is no second slope, as the formula stands."""
    k1 = net(x, row.t)
    if not row.corrected:
        return x + row.first * k1, past
    return x + row.second * (k1 + net(x + row.reach * k1, row.u)), past


def heun_tight(net: Any, x: Tensor, row: Any, past: Past, z: Any) -> Out:
    """x + h (k1 + k2) / 2, Euler's where there is no second slope, in as few out-of-place kernels as there are terms."""
    k1 = net(x, row.t)
    if not row.corrected:
        return torch.add(x, k1, alpha=row.first), past
    k2 = net(torch.add(x, k1, alpha=row.reach), row.u)
    return torch.add(x, k1, alpha=row.first).add_(k2, alpha=row.second), past


def heun_in_place(net: Any, x: Tensor, row: Any, past: Past, z: Any) -> Out:
    """x + h (k1 + k2) / 2, Euler's where there is no second slope, overwriting the state."""
    k1 = net(x, row.t)
    if not row.corrected:
        return x.add_(k1, alpha=row.first), past
    k2 = net(x.add_(k1, alpha=row.reach), row.u)
    return x.add_(k1, alpha=row.first - row.reach).add_(k2, alpha=row.second), past


def rk4(net: Any, x: Tensor, row: Any, past: Past, z: Any) -> Out:
    """x + h (k1 + 2 k2 + 2 k3 + k4) / 6, the midpoint rule where there is no fourth slope."""
    k1 = net(x, row.t)
    k2 = net(x + row.half * k1, row.m)
    if not row.closed:
        return x + row.second * k2, past
    k3 = net(x + row.half * k2, row.m)
    k4 = net(x + row.reach * k3, row.u)
    return x + row.outer * (k1 + 2 * k2 + 2 * k3 + k4), past


def two_points(net: Any, x: Tensor, row: Any, past: Past, z: Any) -> Out:
    """keep x + now m + before m_last, as the formula stands."""
    m = net(x, row.t)
    return row.keep * x + row.now * m + row.before * past[0], (m,)


def two_points_tight(net: Any, x: Tensor, row: Any, past: Past, z: Any) -> Out:
    """keep x + now m + before m_last, in as few out-of-place kernels as there are terms."""
    m = net(x, row.t)
    return torch.mul(x, row.keep).add_(m, alpha=row.now).add_(past[0], alpha=row.before), (m,)


def two_points_in_place(net: Any, x: Tensor, row: Any, past: Past, z: Any) -> Out:
    """keep x + now m + before m_last, overwriting the state."""
    m = net(x, row.t)
    return x.mul_(row.keep).add_(m, alpha=row.now).add_(past[0], alpha=row.before), (m,)


def adams_2(net: Any, x: Tensor, row: Any, past: Past, z: Any) -> Out:
    """keep x + gain f + w1 f_1."""
    f = net(x, row.t)
    return row.keep * x + row.gain * f + row.w1 * past[0], (f,)


def adams_3(net: Any, x: Tensor, row: Any, past: Past, z: Any) -> Out:
    """keep x + gain f + w1 f_1 + w2 f_2."""
    f = net(x, row.t)
    return row.keep * x + row.gain * f + row.w1 * past[0] + row.w2 * past[1], (f, past[0])


def noisy_adams_2(net: Any, x: Tensor, row: Any, past: Past, z: Any) -> Out:
    """keep x + gain m + w1 m_1 + c z."""
    m = net(x, row.t)
    x = row.keep * x + row.gain * m + row.w1 * past[0]
    return x if z is None else x + row.noise * z, (m,)


def noisy_adams_3(net: Any, x: Tensor, row: Any, past: Past, z: Any) -> Out:
    """keep x + gain m + w1 m_1 + w2 m_2 + c z."""
    m = net(x, row.t)
    x = row.keep * x + row.gain * m + row.w1 * past[0] + row.w2 * past[1]
    return x if z is None else x + row.noise * z, (m, past[0])


def unipc(net: Any, x: Tensor, row: Any, past: Past, z: Any) -> Out:
    """Correct with the new evaluation, then predict; the first state, and those after jumps, are not corrected."""
    m = net(x, row.t)
    if not row.own:
        x = row.back * past[0] + row.c0 * m + row.c1 * past[1] + row.c2 * past[2]
    return (row.keep + row.base) * x + row.gain * m + row.w1 * past[1], (x, m, past[1])


def dpm_solver_v3(net: Any, x: Tensor, row: Any, past: Past, z: Any) -> Out:
    """As UniPC, in f = read x - m and with the shifts that the statistics of the model add."""
    f = row.read * x - net(x, row.t)
    if not row.own:
        x = row.back * past[0] + row.c0 * f + row.c1 * past[1] + row.c2 * past[2] + row.fixed
    return row.base * x + row.now * f + row.w1 * past[1] + row.shift, (x, f, past[1])


def midpoint(net: Any, x: Tensor, row: Any, past: Past, z: Any) -> Out:
    """keep x + w f(y) with y half-way, the first-order step where there is no inside."""
    f = net(x, row.t)
    if not row.stages:
        return row.keep * x + row.gain * f, past
    return row.keep * x + row.w_u * net(row.u_keep * x + row.u_gain * f, row.u), past


def dpm_solver_3(net: Any, x: Tensor, row: Any, past: Past, z: Any) -> Out:
    """Evaluations at one and two thirds of the step."""
    f = net(x, row.t)
    if not row.stages:
        return row.keep * x + row.gain * f, past
    f_u = net(row.u_keep * x + row.u_gain * f, row.u)
    f_v = net(row.v_keep * x + row.v_gain * f + row.v_u * f_u, row.v)
    return row.keep * x + row.gain * f + row.w_v * f_v, past


def dpmpp_sde(net: Any, x: Tensor, row: Any, past: Past, z: Any) -> Out:
    """The midpoint rule at a noised point half-way, two noises."""
    m = net(x, row.t)
    if z is None:
        return row.keep * x + row.gain * m, past
    if not row.inner:
        return row.keep * x + row.gain * m + row.second * z[1], past
    m = net(row.u_keep * x + row.u_gain * m + row.u_noise * z[0], row.u)
    return row.keep * x + row.w_u * m + row.first * z[0] + row.second * z[1], past


def seeds(net: Any, x: Tensor, row: Any, past: Past, z: Any) -> Out:
    """The midpoint rule for the noise prediction at a noised point half-way, two noises."""
    e = net(x, row.t)
    if z is None:
        return row.keep * x + row.gain * e, past
    if not row.inner:
        return row.keep * x + row.gain * e + row.z_1 * z[1], past
    e = net(row.keep1 * x + row.gain1 * e + row.z1_0 * z[0], row.u1)
    return row.keep * x + row.e_1 * e + row.z_0 * z[0] + row.z_1 * z[1], past


def edm_heun(net: Any, x: Tensor, row: Any, past: Past, z: Any) -> Out:
    """Euler's step in sigma / alpha, then the correction."""
    m = net(x, row.t)
    x = row.keep * x + row.gain * m
    if not row.corrected:
        return x, past
    return x + row.second * (net(x, row.u) - m), past


def two_stages(net: Any, x: Tensor, row: Any, past: Past, z: Any) -> Out:
    """keep x + w0 k0 + w1 k1, the step with x* frozen where there is no inside."""
    k = net(x, row.t)
    if not row.whole:
        return row.keep * x + row.gain * k, past
    return row.keep * x + row.w0 * k + row.w1 * net(row.keep1 * x + row.w10 * k, row.at1), past


def churned(net: Any, x: Tensor, row: Any, past: Past, z: Any) -> Out:
    """Up to a higher noise level, then two stages down."""
    if z is not None:
        x = row.lift * x + row.noise * z
    return two_stages(net, x, row, past, z)


def stochastic_heun(net: Any, x: Tensor, row: Any, past: Past, z: Any) -> Out:
    """Predict, then average the two values of x*, with the same noise."""
    m = net(x, row.t)
    if not row.inner:
        return noisy_blend(lambda *_: m, x, row, past, z)
    ahead = row.keep * x + row.gain * m + row.noise * z
    return row.keep * x + row.half * (m + net(ahead, row.u)) + row.noise * z, past


def sra1(net: Any, x: Tensor, row: Any, past: Past, z: Any) -> Out:
    """Roessler's stage at 3/4, then the step; two noises, of which x_s sees one."""
    m = net(x, row.t)
    if not row.inner:
        return noisy_blend(lambda *_: m, x, row, past, None if z is None else z[0])
    ahead = row.u_keep * x + row.u_gain * m + row.u_one * z[0] + row.u_two * z[1]
    return row.keep * x + row.rest * m + row.part * net(ahead, row.u) + row.noise * z[0], past


def ode_ancestral(net: Any, x: Tensor, row: Any, past: Past, z: Any) -> Out:
    """A deterministic Heun step down, then fresh noise up."""
    m = net(x, row.t)
    below = row.keep * x + row.gain * m
    if row.inner:
        below = row.keep * x + row.half * (m + net(below, row.u))
    return below if z is None else row.rise * below + row.noise * z, past


def predictor_corrector(net: Any, x: Tensor, row: Any, past: Past, z: Any) -> Out:
    """A reverse-diffusion step, then one Langevin step at the new level."""
    e = net(x, row.t)
    if z is None:
        return row.keep * x + row.gain * e, past
    x = row.keep * x + row.gain * e + row.predictor_noise * z[0]
    return x + row.pull * net(x, row.level) + row.push * z[1] if row.corrected else x, past


def langevin(net: Any, x: Tensor, row: Any, past: Past, z: Any) -> Out:
    """x + eta s + sqrt(2 eta) z at one level; the last step ends with the denoised state."""
    x = x + row.pull * net(x, row.level) + row.push * z
    return row.keep * x + row.gain * net(x, row.level) if row.ends else x, past


def annealed(net: Any, x: Tensor, row: Any, past: Past, z: Any) -> Out:
    """One Langevin step a level, then on to the next level."""
    x = x + row.pull * net(x, row.level) + row.push * z
    return row.keep * x + row.gain * net(x, row.level) if row.ends else row.keep * x, past


def flow_map(net: Any, x: Tensor, row: Any, past: Past, z: Any) -> Out:
    """x + (s - t) u(x, t, s)."""
    return x + row.dt * net(x, row.t, row.s), past


Weights = Callable[[dc.Plan], Mapping[str, Tensor]]


def bayes(plan: dc.Plan) -> dict[str, Tensor]:
    """The weights of x_t and x* in the reverse kernel (Ho et al. 2020, equation 7, for any affine process)."""
    t, s = plan.entries["t"], plan.entries["s"]
    r = (t.alpha * s.sigma / (s.alpha * t.sigma)) ** 2
    return {"keep": t.alpha / s.alpha * (s.sigma / t.sigma) ** 2, "gain": s.alpha * (1 - r)}


def stage_noises(plan: dc.Plan) -> dict[str, Tensor]:
    """What SRA1 makes of its plan in every step."""
    e = plan.entries
    return {"u_one": e["u_noise"] / 2, "u_two": e["u_noise"] / 12**0.5, "rest": e["gain"] - e["part"]}


def jump(plan: dc.Plan) -> dict[str, Tensor]:
    """s - t."""
    return {"dt": plan.entries["s"].t - plan.entries["t"].t}


class Case(NamedTuple):
    """How a solver is measured: its process, what the network predicts, its floor, its fields, and its weights if planned elsewhere.

    past: states that the floor keeps; noises: draws a step.
    """

    floor: Step
    process: str = "vp"
    prediction: str = "x0"
    past: int = 0
    noises: int = 0
    fields: Mapping[str, Any] = {}
    weights: Weights = lambda plan: {}


CASES: dict[str, Case] = {
    "euler": Case(euler, "flow", "velocity"),
    "ddim": Case(blend),
    "heun": Case(heun, "flow", "velocity"),
    "dpmpp-2m": Case(two_points, past=1),
    "rk4": Case(rk4, "flow", "velocity"),
    "edm-heun": Case(edm_heun),
    "runge-kutta": Case(two_stages, prediction="eps"),
    "exp-runge-kutta": Case(two_stages),
    "dpm-solver-2": Case(midpoint, prediction="eps"),
    "dpm-solver-3": Case(dpm_solver_3, prediction="eps"),
    "dpmpp-2s": Case(midpoint),
    "dpmpp-3m": Case(adams_3, past=2),
    "deis": Case(adams_3, prediction="eps", past=2),
    "exp-adams": Case(adams_2, past=1),
    "unipc": Case(unipc, past=3),
    "dpm-solver-v3": Case(dpm_solver_v3, past=3, fields={"per": "time", "calibration": 64}),
    "flow-map": Case(flow_map, "flow", "velocity", weights=jump),
    "ancestral": Case(noisy_blend, noises=1, weights=bayes),
    "ddpm": Case(noisy_blend, noises=1),
    "euler-maruyama": Case(noisy_blend, noises=1),
    "euler-maruyama-lam": Case(noisy_blend, noises=1),
    "reverse-diffusion": Case(noisy_blend, noises=1),
    "gamma-sde": Case(noisy_blend, noises=1),
    "dpmpp-2m-sde": Case(noisy_adams_2, past=1, noises=1),
    "dpmpp-3m-sde": Case(noisy_adams_3, past=2, noises=1),
    "edm-stochastic": Case(churned, prediction="eps", noises=1),
    "stochastic-heun": Case(stochastic_heun, noises=1),
    "ode-ancestral": Case(ode_ancestral, noises=1),
    "ula": Case(langevin, prediction="eps", noises=1),
    "annealed-langevin": Case(annealed, prediction="eps", noises=1, fields={"inner": 1}),
    "dpmpp-sde": Case(dpmpp_sde, noises=2),
    "seeds": Case(seeds, prediction="eps", noises=2),
    "sra1": Case(sra1, noises=2, weights=stage_noises),
    "predictor-corrector": Case(predictor_corrector, prediction="eps", noises=2),
}
"""Every installed solver of the plain loop on plain states."""

VARIANTS: dict[str, dict[str, Step]] = {
    "euler": {"tight": euler_tight, "in place": euler_in_place},
    "ddim": {"tight": blend_tight, "in place": blend_in_place},
    "heun": {"tight": heun_tight, "in place": heun_in_place},
    "dpmpp-2m": {"tight": two_points_tight, "in place": two_points_in_place},
}
"""The same formulas with fewer kernels, for some."""


def columns(plan: dc.Plan, case: Case) -> dict[str, Any]:
    """The weights of a plan, one value per step, for a network of the case's prediction; without the times."""
    entries = {**plan.entries, **case.weights(plan)}
    found = {name: value for name, value in entries.items() if name != "out" and not hasattr(value, "alpha")}
    if "own" in found:
        found["own"] = tuple(int(v) for v in found["own"].tolist())
    return in_eps(found, entries.get("t", entries.get("level"))) if case.prediction == "eps" else found


def in_eps(found: dict[str, Any], t: dc.Coeffs) -> dict[str, Any]:
    """Plans weigh x_t and x* = (x_t - sigma e) / alpha; here x_t and e."""
    for keep in [name for name in found if "keep" in name]:
        gain = keep.replace("keep", "gain")
        if gain in found:
            found[keep] = found[keep] + found[gain] / t.alpha
            found[gain] = -found[gain] * t.sigma / t.alpha
    return found


def rows_of(plan: dc.Plan, case: Case, size: int, tensors: bool = False) -> list[Any]:
    """The rows of a plan: floats (0-d tensors if `tensors`), Python integers, and the times of the network calls, [size]."""

    def cast(value: Any) -> list[Any]:
        if not isinstance(value, Tensor):
            return list(value)
        return list(value.float().unbind(0)) if tensors else value.tolist()

    found = {name: cast(value) for name, value in columns(plan, case).items()}
    times = {name: value.t for name, value in plan.entries.items() if hasattr(value, "alpha")}
    found |= {name: [torch.full((size,), t) for t in value.tolist()] for name, value in times.items()}
    return list(map(namedtuple("row", found), *found.values()))


def fresh(x: Tensor, noises: int) -> Noise:
    """The noise of every step from torch's own stream: a tensor, or as many as a step draws."""
    if noises == 1:
        return lambda i: torch.randn_like(x)
    return lambda i: tuple(torch.randn_like(x) for _ in range(noises))


def loops(
    method: str,
    net: Any,
    x: Tensor,
    process: dc.Process,
    solver: dc.Solver,
    noise: Noise | None = None,
    *,
    compiled: bool = False,
) -> dict[str, Callable[[], Tensor]]:
    """The loops of a method, each a function of nothing that returns the last state.

    noise: that of step i, default fresh. compiled: the floor alone, its step compiled, with tensors for floats.
    """
    case, plan = CASES[method], solver.plan(process, solver.nodes(process))
    rows = rows_of(plan, case, len(x), compiled)
    draws = plan.draws
    noise = fresh(x, case.noises) if noise is None else noise

    def make(step: Step, copy: bool = False) -> Callable[[], Tensor]:
        @torch.no_grad()
        def run() -> Tensor:
            state, past = x.clone() if copy else x, (torch.zeros_like(x),) * case.past
            for i, row in enumerate(rows):
                state, past = step(net, state, row, past, noise(i) if draws[i] else None)
            return state

        return run

    if compiled:
        return {"floor": make(torch.compile(case.floor, fullgraph=True, dynamic=False))}
    steps = {"floor": case.floor, **VARIANTS.get(method, {})}
    return {name: make(step, name == "in place") for name, step in steps.items()}
