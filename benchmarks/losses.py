"""Losses and likelihoods against hand-written loops of the same mathematics on the same small network.

    python benchmarks/losses.py [--rounds FACTOR] [--write] [--only TEXT]

Networks: `mlp` (28 parameter tensors) on (256, 2), `unet` (74) on (64, 1, 28, 28), `token-transformer` (50) on (64, 64)
tokens, `energy` with its own perceptron (8) or the unet inside. Every
case compares two things. "gradient" is the loss, with its noise drawn, and its gradient in all weights. "step" is that
within a training step: ours in `Trainer.run` with the fields a newcomer gets (fused AdamW, warm-up, clipping, the check for
NaN, EMA), the other in `zero_grad, backward, step` around torch.optim.AdamW with its defaults, without EMA. By hand means
torch.rand and torch.randn, float32 throughout, closed forms or tables of the schedule, the network's input scaled as ours.

Losses that differentiate the network are set against torch.func: `vjp`, and `jvp` where the derivative itself has no gradient
(through LayerNorm, torch 2.13 gives a wrong gradient of a `jvp`). They all run on the plain attention kernel: fused ones have
neither a forward nor a second derivative. "network calls" of a likelihood are its forward and backward products alone.

Before anything is timed both are given the same noise, and the losses and their gradients are compared: same mathematics.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from common import interleave, publish, summary, table
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

import diffcore as dc
from diffcore.learning.trainer import Job

REGISTRY = dc.Registry.load()
VECTORS, IMAGES, TOKENS = (256, 2), (64, 1, 28, 28), (64, 64)
STEPS = {VECTORS: 5, IMAGES: 1, TOKENS: 1}
ROUNDS = {VECTORS: 40, IMAGES: 10, TOKENS: 10}
VALUES, CHAIN, SD2 = 27, 1000, 0.25
Noise = tuple[Any, ...]


class Case(NamedTuple):
    """A loss and its counterparts by hand: `hand(net, x0, *noise)` is a mean over the batch.

    fresh: the noise as torch draws it; given: the same noise taken from ours, for the comparison.
    """

    loss: dc.Loss
    process: str
    prediction: str
    network: dict[str, Any]
    hands: dict[str, Callable[..., Tensor]]
    fresh: Callable[[Tensor], Noise]
    given: Callable[[dc.Draw, Tensor], Noise]
    shape: tuple[int, ...]


# --- by hand ----------------------------------------------------------------------------------------------------------


def like(v: Tensor, x: Tensor) -> Tensor:
    return v.view(-1, *[1] * (x.ndim - 1))


def vp(t: Tensor) -> tuple[Tensor, Tensor]:
    b = (0.1 + 9.95 * t) * t
    return torch.exp(-0.5 * b), (-torch.expm1(-b)).sqrt()


def call(net: nn.Module, xt: Tensor, t: Tensor, alpha: Tensor, sigma: Tensor, *more: Tensor) -> Tensor:
    return net(xt * (SD2 * alpha**2 + sigma**2) ** -0.5, t, *more)


def denoise_vp(name: str, net: nn.Module, x0: Tensor, u: Tensor, eps: Tensor) -> Tensor:
    t = 1e-3 + (1 - 1e-3) * u
    alpha, sigma = (like(v, x0) for v in vp(t))
    xt = alpha * x0 + sigma * eps
    norm = (SD2 * alpha**2 + sigma**2) ** 0.5
    goal = {
        "x0": lambda: x0,
        "eps": lambda: eps,
        "score": lambda: -eps / sigma,
        "v": lambda: alpha * eps - sigma * x0,
        "edm": lambda: (sigma * x0 - alpha * SD2 * eps) / (SD2**0.5 * norm),
    }[name]()
    return ((net(xt / norm, t) - goal) ** 2).mean()


def flow(net: nn.Module, x0: Tensor, u: Tensor, eps: Tensor) -> Tensor:
    t = 1e-3 + (1 - 1e-3) * u
    s = like(t, x0)
    xt = (1 - s) * x0 + s * eps
    return ((call(net, xt, t, 1 - s, s) - (eps - x0)) ** 2).mean()


def tables(n: int = CHAIN) -> dict[str, Tensor]:
    """The arrays of a Gaussian diffusion, index 1 .. N at places 0 .. N - 1."""
    beta = torch.linspace(1e-4, 0.02, n, dtype=torch.float64)
    abar = (1 - beta).cumprod(0)
    before = torch.cat([abar.new_ones(1), abar[:-1]])
    small = beta * (1 - before) / (1 - abar)
    found = {
        "alpha": abar.sqrt(),
        "sigma": (1 - abar).sqrt(),
        "keep": (1 - beta).sqrt() * (1 - before) / (1 - abar),
        "gain": before.sqrt() * beta / (1 - abar),
        "small": torch.cat([small[1:2], small[1:]]).log(),
        "large": beta.log(),
    }
    return {k: v.float() for k, v in found.items()}


TABLES = tables()


def simple(net: nn.Module, x0: Tensor, i: Tensor, eps: Tensor) -> Tensor:
    alpha, sigma = (like(TABLES[k][i - 1], x0) for k in ("alpha", "sigma"))
    return ((call(net, alpha * x0 + sigma * eps, i / CHAIN, alpha, sigma) - eps) ** 2).mean()


def hybrid(net: nn.Module, x0: Tensor, i: Tensor, eps: Tensor) -> Tensor:
    alpha, sigma, keep, gain, small, large = (
        like(TABLES[k][i - 1], x0) for k in ("alpha", "sigma", "keep", "gain", "small", "large")
    )
    xt = alpha * x0 + sigma * eps
    found, ranged = call(net, xt, i / CHAIN, alpha, sigma).chunk(2, 1)
    share = (ranged + 1) / 2
    log_v = share * large + (1 - share) * small
    mean = keep * xt + gain * (xt - sigma * found.detach()) / alpha
    true = keep * xt + gain * x0
    kl = 0.5 * (log_v - small + torch.exp(small - log_v) + (true - mean) ** 2 * torch.exp(-log_v) - 1)
    bound = torch.where(like(i == 1, x0), decoder(x0, mean, 0.5 * log_v), kl).flatten(1).mean(1) / math.log(2)
    return ((found - eps) ** 2).mean() + CHAIN * 1e-3 * bound.mean()


def decoder(x0: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """-log of the mass of the bin of 256, exact, as the published code writes it."""
    off, rate = x0 - mean, torch.exp(-log_scale)
    plus, minus = (torch.special.ndtr(rate * (off + side / 255)) for side in (1, -1))
    inner = (plus - minus).clamp(min=1e-12).log()
    lowest, highest = plus.clamp(min=1e-12).log(), (1 - minus).clamp(min=1e-12).log()
    return -torch.where(x0 < -0.999, lowest, torch.where(x0 > 0.999, highest, inner))


def vdm(net: nn.Module, x0: Tensor, u0: float, eps: Tensor) -> Tensor:
    t = (u0 + torch.arange(len(x0)) / len(x0)) % 1
    gamma = -13.3 + 18.3 * t
    alpha, sigma = (like(torch.sigmoid(v).sqrt(), x0) for v in (-gamma, gamma))
    found = call(net, alpha * x0 + sigma * eps, t, alpha, sigma)
    diffusion = 0.5 * 18.3 * ((found - eps) ** 2).flatten(1).sum(1)
    prior = 0.5 * math.exp(-5.0) * (x0**2).flatten(1).sum(1)
    size = x0[0].numel()
    return (diffusion + prior).mean() / (size * math.log(2)) + (0.5 + 0.5 * math.log(2 * math.pi) - 13.3 / 2) / math.log(2)


def energy(net: Any, x0: Tensor, u: Tensor, eps: Tensor) -> Tensor:
    t = 1e-3 + (1 - 1e-3) * u
    alpha, sigma = (like(v, x0) for v in vp(t))
    fed = ((alpha * x0 + sigma * eps) * (SD2 * alpha**2 + sigma**2) ** -0.5).requires_grad_()
    e = 0.5 * ((fed - net.net(fed, t)) ** 2).sum()
    (slope,) = torch.autograd.grad(e, fed, create_graph=True)
    return ((slope - eps) ** 2).mean()


def masked(net: nn.Module, x0: Tensor, u: Tensor, z: Tensor) -> Tensor:
    t = 1e-4 + (1 - 1e-4) * u
    hidden = z >= (1 - t)[:, None]
    logits = net(torch.where(hidden, VALUES, x0), t)
    surprise = cross_entropy(logits.flatten(0, 1), x0.flatten(), reduction="none").view(x0.shape)
    return ((surprise * hidden).mean(1) * (1 - 1e-4) / t).mean()


def mean_flow(whole: bool, net: nn.Module, x0: Tensor, first: Tensor, second: Tensor, eps: Tensor, apart: Tensor) -> Tensor:
    a, b = (torch.sigmoid(v - 0.4).clamp(min=1e-3) for v in (first, second))
    t, low = torch.maximum(a, b), torch.minimum(a, b)
    s = t.index_copy(0, apart, low[apart])
    w = like(t, x0)
    x, v = (1 - w) * x0 + w * eps, eps - x0

    def h(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        w = like(t, x)
        return call(net, x, t, 1 - w, w, s)

    if whole:
        found, slope = torch.func.jvp(h, (x, t, s), (v, torch.ones_like(t), torch.zeros_like(s)))
        goal = v - like(t - s, x) * slope.detach()
    else:
        found = h(x, t, s)
        with torch.no_grad():
            few = tuple(a[apart] for a in (x, t, s))
            _, slope = torch.func.jvp(h, few, (v[apart], torch.ones_like(few[1]), torch.zeros_like(few[2])))
            goal = v.index_add(0, apart, like(few[1] - few[2], slope) * slope, alpha=-1)
    error = ((found - goal) ** 2).flatten(1).sum(1)
    return (error / (error.detach() + 1e-3)).mean()


def at_noise(net: nn.Module, x0: Tensor, u: Tensor, eps: Tensor) -> tuple[Callable[[Tensor], Tensor], Tensor, Tensor]:
    """The expected noise as a function of x_t, x_t, and sigma."""
    t = 1e-3 + (1 - 1e-3) * u
    alpha, sigma = (like(v, x0) for v in vp(t))
    return lambda x: call(net, x, t, alpha, sigma), alpha * x0 + sigma * eps, sigma.flatten()


def implicit(how: str, net: nn.Module, x0: Tensor, u: Tensor, eps: Tensor) -> Tensor:
    f, xt, sigma = at_noise(net, x0, u, eps)
    size = xt.shape[1]
    units = torch.eye(size)[:, None].expand(size, *xt.shape)
    e, pull = torch.func.vjp(f, xt)
    if how == "vjp":
        trace = sum(pull(unit)[0][:, k] for k, unit in enumerate(units))
    else:
        trace = torch.func.vmap(pull)(units)[0].diagonal(dim1=0, dim2=2).sum(1)
    return (((e**2).sum(1) - 2 * sigma * trace) / size).mean()


def sliced(offset: float, net: nn.Module, x0: Tensor, u: Tensor, eps: Tensor, v: Tensor) -> Tensor:
    """Sliced score matching; SURE is the same plus 1."""
    f, xt, sigma = at_noise(net, x0, u, eps)
    e, pull = torch.func.vjp(f, xt)
    product = pull(v)[0]
    square, trace = ((a * b).flatten(1).sum(1) for a, b in ((e, e), (v, product)))
    return ((square - 2 * sigma * trace) / xt[0].numel()).mean() + offset


# --- cases ------------------------------------------------------------------------------------------------------------


def uniform_noise(x0: Tensor) -> Noise:
    return torch.rand(len(x0)), torch.randn_like(x0)


def uniform_of(draw: dc.Draw, x0: Tensor) -> Noise:
    return draw.fold(1).uniform().float(), draw.fold(2).normal_like(x0)


def signs(v: Tensor) -> Tensor:
    return torch.where(v < 0, -1.0, 1.0)


def index_of(draw: dc.Draw, x0: Tensor) -> Noise:
    return 1 + (draw.fold(1).uniform() * CHAIN).long(), draw.fold(2).normal_like(x0)


def mean_flow_of(loss: Any, draw: dc.Draw, x0: Tensor) -> Noise:
    u, v = (draw.fold(k).normal(dtype=torch.float64).float() for k in (1, 2))
    return u, v, draw.fold(3).normal_like(x0), torch.tensor(loss._places(draw.fold(4)))


def cases() -> dict[str, Case]:
    """All cases by name: those without further network calls, then those with derivatives of the network."""
    make, found = partial(REGISTRY.make, "loss"), {}
    nets = {VECTORS: {"id": "mlp"}, IMAGES: {"id": "unet"}}
    indices = REGISTRY.make("time_law", "indices")
    drawn = (lambda x: (torch.randint(1, CHAIN + 1, (len(x),)), torch.randn_like(x)), index_of)

    def add(
        name: str,
        shape: tuple[int, ...],
        loss: dc.Loss,
        process: str,
        prediction: str,
        hands: Any,
        fresh: Any,
        given: Any,
        **net: Any,
    ) -> None:
        hands = hands if isinstance(hands, dict) else {"by hand": hands}
        found[f"{name}, {shape}"] = Case(loss, process, prediction, net or nets[shape], hands, fresh, given, shape)

    plain = (uniform_noise, uniform_of)
    for shape in (VECTORS, IMAGES):
        for name in ("x0", "eps", "score", "v", "edm"):
            add(f"denoising {name}", shape, make("denoising"), "vp", name, partial(denoise_vp, name), *plain)
        add("denoising velocity", shape, make("denoising"), "flow", "velocity", flow, *plain)
        add("ddpm simple", shape, make("denoising", time_law=indices), "ddpm", "eps", simple, *drawn)
        add("ddpm-hybrid", shape, make("ddpm-hybrid"), "ddpm", "eps-range", hybrid, *drawn)
        add("flow-matching", shape, make("flow-matching"), "flow", "velocity", flow, *plain)
        add(
            "vdm", shape, make("vdm"), "vdm", "eps", vdm,
            lambda x: (float(torch.rand(())), torch.randn_like(x)),
            lambda draw, x: (draw.fold(1).shared_uniform(), draw.fold(2).normal_like(x)),
        )  # fmt: skip
        inner = {"net": REGISTRY.make("network", "unet")} if shape == IMAGES else {}
        add("energy, denoising eps", shape, make("denoising"), "vp", "eps", energy, *plain, id="energy", **inner)
    add(
        "masked-elbo", TOKENS, make("masked-elbo"), "masked", "logits", masked,
        lambda x: (torch.rand(len(x)), torch.rand(x.shape)),
        lambda draw, x: (draw.fold(1).uniform().float(), draw.fold(2).uniform(x.shape[1:])),
        id="token-transformer",
    )  # fmt: skip
    for shape in (VECTORS, IMAGES):
        loss = make("mean-flow")
        add(
            "mean-flow", shape, loss, "flow", "velocity",
            {"rows apart": partial(mean_flow, False), "whole batch": partial(mean_flow, True)},
            lambda x: (torch.randn(len(x)), torch.randn(len(x)), torch.randn_like(x), torch.randperm(len(x))[: len(x) // 4]),
            partial(mean_flow_of, loss), **nets[shape], second_time=True,
        )  # fmt: skip
        probed = (
            lambda x: (*uniform_noise(x), signs(torch.randn_like(x))),
            lambda draw, x: (*uniform_of(draw, x), signs(draw.fold(3, 0).normal_like(x))),
        )
        hands = {"vjp": partial(sliced, 0.0)}
        add("sliced-score-matching", shape, make("sliced-score-matching"), "vp", "eps", hands, *probed)
        hands = {"vjp": partial(sliced, 1.0)}
        single = (probed[0], lambda draw, x: (*uniform_of(draw, x), signs(draw.fold(3).normal_like(x))))
        add("sure", shape, make("sure"), "vp", "eps", hands, *single)
    hands = {how: partial(implicit, how) for how in ("vjp", "vmap(vjp)")}
    add("implicit-score-matching", VECTORS, make("implicit-score-matching"), "vp", "eps", hands, *plain)
    hands = {"vjp": partial(sliced, 0.0)}
    add("energy, sliced", VECTORS, make("sliced-score-matching"), "vp", "eps", hands, *probed, id="energy")
    return found


def data(shape: tuple[int, ...]) -> Tensor:
    g = torch.Generator().manual_seed(0)
    if shape == TOKENS:
        return torch.randint(0, VALUES, shape, generator=g)
    x = torch.randn(shape, generator=g)
    return ((x.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1


def process_of(case: Case) -> Any:
    extra = {"values": VALUES} if case.process == "masked" else {}
    return REGISTRY.make("process", case.process, **extra).build()


def network(fields: dict[str, Any], process: Any, prediction: str, batch: tuple[int, ...]) -> nn.Module:
    """The network with weights that are nowhere zero, so that every derivative is there."""
    fields, shape = dict(fields), batch[1:]
    outputs = process.output_event(shape, prediction)
    net = REGISTRY.make("network", fields.pop("id"), **fields).build(shape, {}, outputs)
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn(p.shape, generator=g), alpha=0.02)
    return net


def ours(case: Case) -> tuple[nn.Module, Callable[..., Tensor]]:
    process = process_of(case)
    net = network(case.network, process, case.prediction, case.shape)
    return net, partial(case.loss, dc.Denoiser(net, dc.Reading(case.prediction, "feature", "unit"), process))


def compared(case: Case, x0: Tensor) -> float:
    """The largest relative difference of loss and gradient between ours and those by hand, given the same noise."""
    net, loss = ours(case)
    draw = dc.Draw(7, range(len(x0)), block=min(256, len(x0)), total=len(x0))
    weights = [p for p in net.parameters() if p.requires_grad]
    losses = [loss(x0, draw).mean(), *(hand(net, x0, *case.given(draw, x0)) for hand in case.hands.values())]
    grads = [torch.cat([g.flatten() for g in torch.autograd.grad(v, weights, materialize_grads=True)]) for v in losses]
    gaps = [abs(float((v / losses[0]).detach()) - 1) for v in losses[1:]]
    return max(*gaps, *(float((g - grads[0]).norm() / grads[0].norm()) for g in grads[1:]))


# --- runs -------------------------------------------------------------------------------------------------------------


def our_step(case: Case, x0: Tensor, steps: int) -> Callable[[], Any]:
    net, loss = ours(case)
    trainer = REGISTRY.make("trainer", "standard", steps=steps, batch=len(x0))
    job = Job(parts={"network": net}, loss=loss, batches=lambda step: (x0, {}))
    players = trainer.players(job.parts)
    return lambda: [report.numbers for report in trainer.run(job, players)]


def our_gradient(case: Case, x0: Tensor, steps: int) -> Callable[[], Any]:
    net, loss = ours(case)
    weights = list(net.parameters())

    def run() -> None:
        for step in range(steps):
            draw = dc.Draw(0, range(len(x0)), index=step, block=min(256, len(x0)), total=len(x0))
            torch.autograd.grad(loss(x0, draw).mean(), weights, allow_unused=True)

    return run


def hand_step(case: Case, hand: Callable[..., Tensor], x0: Tensor, steps: int) -> Callable[[], Any]:
    net, _ = ours(case)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)

    def run() -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            hand(net, x0, *case.fresh(x0)).backward()
            optimizer.step()

    return run


def hand_gradient(case: Case, hand: Callable[..., Tensor], x0: Tensor, steps: int) -> Callable[[], Any]:
    net, _ = ours(case)
    weights = list(net.parameters())

    def run() -> None:
        for _ in range(steps):
            torch.autograd.grad(hand(net, x0, *case.fresh(x0)), weights, allow_unused=True)

    return run


def timed(case: Case, x0: Tensor, steps: int, factor: float) -> dict[str, list[float]]:
    runs = {"ours, gradient": our_gradient(case, x0, steps), "ours, step": our_step(case, x0, steps)}
    for name, hand in case.hands.items():
        runs[f"{name}, gradient"] = hand_gradient(case, hand, x0, steps)
        runs[f"{name}, step"] = hand_step(case, hand, x0, steps)
    return interleave(runs, max(3, int(ROUNDS[case.shape] * factor)))


def trained(case: Case, factor: float) -> dict[str, Any]:
    """The ratios of one case; `base` of each is the fastest by hand."""
    x0, steps = data(case.shape), STEPS[case.shape]
    with sdpa_kernel(SDPBackend.MATH):  # fused attention has neither a forward nor a second derivative
        gap, seconds = compared(case, x0), timed(case, x0, steps, factor)
    found: dict[str, Any] = {"same": gap}
    for what in ("gradient", "step"):
        part = {name: values for name, values in seconds.items() if name.endswith(what)}
        base = min((name for name in part if not name.startswith("ours")), key=lambda name: min(part[name]))
        found[what] = {"base": base, **summary(part, base, steps)}
    return found


# --- likelihoods ------------------------------------------------------------------------------------------------------


def likelihood(process_name: str, prediction: str, shape: tuple[int, ...], steps: int, kind: str) -> dict[str, Callable[[], Any]]:
    """The metric, and its network calls alone: as many products forward and backward, in the network's precision."""
    net, field = field_on(shape, process_name, prediction)
    net.requires_grad_(False)
    metric = REGISTRY.make("metric", "pf-ode-likelihood", n=shape[0], batch=shape[0], steps=steps, divergence=kind)
    ev, x0 = dc.Evaluation(samples=data(shape), reference=data(shape), field=field), data(shape)
    probes = [torch.ones_like(x0) for _ in range(x0[0].numel() if kind == "exact" else 1)]

    def calls() -> None:
        for i in range(4 * steps):
            x = x0.detach().requires_grad_()
            v = net(x, torch.full((len(x),), i / (4 * steps)))
            for k, probe in enumerate(probes):
                torch.autograd.grad(v, x, probe, retain_graph=k + 1 < len(probes))

    return {"network calls": calls, "ours": lambda: metric.measure(ev)}


def field_on(shape: tuple[int, ...], process: str, prediction: str) -> tuple[nn.Module, dc.Field]:
    made = REGISTRY.make("process", process)
    kind = {"id": "unet" if len(shape) > 2 else "mlp"}
    net = network(kind, made, prediction, shape)
    return net, dc.Field(dc.Denoiser(net, dc.Reading(prediction, "feature", "unit"), made))


def symmetry(shape: tuple[int, ...]) -> dict[str, Callable[[], Any]]:
    """|J v - J^T v|^2 of the expected noise, as the metric conservativity has it: two products with the Jacobian."""
    from diffcore_energy.conservativity import asymmetry

    net, field = field_on(shape, "vp", "eps")
    x0, t = data(shape), torch.full(shape[:1], 0.5, dtype=torch.float64)
    v, at = signs(torch.randn_like(x0)), field.process.coeffs(t).cast(torch.float32)
    f = at_noise(net, x0, (t.float() - 1e-3) / (1 - 1e-3), torch.zeros_like(x0))[0]

    def hand() -> Tensor:
        push, pull = torch.func.jvp(f, (x0,), (v,))[1], torch.func.vjp(f, x0)[1](v)[0]
        return ((push - pull) ** 2).flatten(1).sum(1).detach()

    def ours() -> Tensor:
        x = x0.detach().requires_grad_()
        return asymmetry(field.base(x, at).eps, x, v)[0]

    return {"by hand": hand, "ours": ours}


def fokker_planck(shape: tuple[int, ...]) -> dict[str, Callable[[], Any]]:
    """d_t s + grad(div v + <v, s>), with one probe for the divergence: a Hessian-vector product."""
    from diffcore_score_sde.fokker_planck import residual

    net, field = field_on(shape, "vp", "eps")
    x0, t = data(shape), torch.linspace(0.1, 0.9, shape[0], dtype=torch.float64)
    v = signs(torch.randn_like(x0))

    def score(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = (like(v, x) for v in vp(t))
        return -call(net, x, t, alpha, sigma) / sigma

    def hand() -> Tensor:
        u, beta = t.float(), like(0.1 + 19.9 * t.float(), x0)

        def flux(x: Tensor) -> Tensor:
            s = score(x, u)
            velocity, pull = torch.func.vjp(lambda x: -0.5 * beta * (x + score(x, u)), x)
            return (pull(v)[0] * v + velocity * s).sum()

        slope = torch.func.jvp(lambda t: score(x0, t), (u,), (torch.ones_like(u),))[1]
        return (slope + torch.func.grad(flux)(x0)).detach()

    return {"by hand": hand, "ours": lambda: residual(field, x0, t, v[None], 1.0).detach()}


MEASURES: dict[str, tuple[Callable[[], dict[str, Callable[[], Any]]], int]] = {
    "pf-ode-likelihood, rademacher, flow velocity, (128, 2), 20 steps": (
        partial(likelihood, "flow", "velocity", (128, 2), 20, "rademacher"), 20,
    ),
    "pf-ode-likelihood, rademacher, vp eps, (128, 2), 20 steps": (partial(likelihood, "vp", "eps", (128, 2), 20, "rademacher"), 20),
    "pf-ode-likelihood, exact, vp eps, (128, 2), 20 steps": (partial(likelihood, "vp", "eps", (128, 2), 20, "exact"), 15),
    "pf-ode-likelihood, rademacher, flow velocity, (64, 1, 28, 28), 3 steps": (
        partial(likelihood, "flow", "velocity", IMAGES, 3, "rademacher"), 5,
    ),
    "pf-ode-likelihood, rademacher, vp eps, (64, 1, 28, 28), 3 steps": (partial(likelihood, "vp", "eps", IMAGES, 3, "rademacher"), 5),
    "conservativity, vp eps, (256, 2)": (partial(symmetry, VECTORS), 40),
    "conservativity, vp eps, (64, 1, 28, 28)": (partial(symmetry, IMAGES), 8),
    "fokker-planck-residual, vp eps, (256, 2)": (partial(fokker_planck, VECTORS), 40),
}  # fmt: skip


def measured(make: Callable[[], dict[str, Callable[[], Any]]], rounds: int) -> dict[str, dict[str, float]]:
    with sdpa_kernel(SDPBackend.MATH):
        runs = make()
        base = next(iter(runs))
        if base == "by hand":
            hand, found = runs["by hand"](), runs["ours"]()
            assert float((hand - found).norm() / found.norm()) < 1e-2, "not the same mathematics"
        return summary(interleave(runs, max(3, rounds)), base)


def cell(found: dict[str, float]) -> str:
    return f"{found['ratio']:.2f}x ({found['ratio_of_min']:.2f}x)"


def row(name: str, found: dict[str, Any]) -> list[str]:
    said = [f"{found[w][found[w]['base']]['min_us'] / 1000:.2f} ms, {cell(found[w]['ours, ' + w])}" for w in ("gradient", "step")]
    others = [
        f"{k.rsplit(', ', 1)[0]} {cell(v)}"
        for k, v in found["gradient"].items()
        if k not in ("base", "ours, gradient", found["gradient"]["base"])
    ]
    base = found["gradient"]["base"].rsplit(", ", 1)[0]
    return [name, *said, "; ".join([base, *others]), f"{found['same']:.0e}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=float, default=1.0, help="how long to measure (default 1)")
    parser.add_argument("--write", action="store_true", help="store the result in results/ and README.md")
    parser.add_argument("--only", default="", help="only the cases with this in their name")
    options = parser.parse_args()
    torch.set_num_threads(1)
    losses: dict[str, Any] = {}
    for name, case in cases().items():
        if options.only in name:
            losses[name] = trained(case, options.rounds)
            print(" | ".join(row(name, losses[name])), flush=True)
    measures: dict[str, Any] = {}
    for name, (make, rounds) in MEASURES.items():
        if options.only in name:
            measures[name] = measured(make, int(rounds * options.rounds))
            print(name, cell(measures[name]["ours"]), flush=True)
    first = table(
        ["loss", "gradient: by hand, ours", "step: by hand, ours", "by hand", "difference"],
        [row(k, v) for k, v in losses.items()],
    )
    rows = []
    for name, found in measures.items():
        base = next(iter(found))
        rows.append([name, base, f"{found[base]['min_us'] / 1000:.2f} ms", cell(found["ours"])])
    second = table(["measure", "against", "minimum", "ours"], rows)
    publish("losses", {"losses": losses, "measures": measures}, f"{first}\n\n{second}", options.write)


if __name__ == "__main__":
    main()
