"""Writes docs/likelihoods.md and docs/likelihoods.png: five ways to one likelihood, where it is known and on real digits.

python docs/likelihoods.py          one and a half minutes on one free core; the same numbers every time
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffcore_score_sde.dequantise import dequantised, offset
from diffcore_score_sde.likelihood import log_likelihood, probes_like
from torch import Tensor, nn

import diffcore as dc
from diffcore.run.report.pictures import png
from diffcore.testing import Mixture, Oracle, instant

FOLDER = Path(__file__).parent
REGISTRY = dc.Registry.load()
PLANE = Mixture([0.3, 0.5, 0.2], [[-0.8, 0.4], [0.6, -0.2], [0.1, 0.9]], [0.25, 0.4, 0.15])
EIGHT = Mixture([0.4, 0.35, 0.25], [[0.7] * 8, [-0.7, 0.5] * 4, [0.0, -0.8] * 4], [0.3, 0.4, 0.2])
POINTS, IMAGES, LEVELS, TIMES = 256, 96, 17, 512
TRAINING, BATCH, RATE = 1000, 64, 2e-3
DIGITS: Mapping[str, Any] = {
    "diffcore": 1,
    "name": "likelihoods",
    "data": {"type": "digits-8x8", "conditional": False, "split": "train"},
    "process": {"type": "ddpm", "steps": 1000},
    "network": {"type": "mlp", "width": 256, "depth": 3},
    "prediction": "v",
    "loss": {"type": "vdm"},
    "solver": {"type": "ddpm", "steps": 50},
}


class Row(NamedTuple):
    """One way to log p: its name, evaluations of the network for one sample, and log p of each sample in nats."""

    name: str
    nfe: int
    log_p: Tensor


# --- the five ways, of any field ------------------------------------------------------------------------------------------


def by_flow(field: dc.Field, x: Tensor, steps: int, probes: int = 0) -> Tensor:
    """log p by the probability-flow ODE: exact trace, or so many Rademacher probes."""
    fixed = probes_like(x, "rademacher" if probes else "exact", probes, dc.Draw(2, range(len(x))))
    return log_likelihood(field, x, *fixed, steps=steps)[0]


def by_chain(field: dc.Field, x: Tensor, variance: str, levels: int | None = None, repeats: int = 1, **chain: Any) -> Tensor:
    """The variational bound of a chain, below log p (density) or log P (with levels), averaged over `repeats` noises."""
    metric: Any = REGISTRY.make("metric", "elbo", levels=levels, variance=variance, **chain)
    bits = torch.stack([*metric.parts(field, x.repeat(repeats, *[1] * (x.ndim - 1))).values()]).sum(0)
    return -bits.reshape(repeats, len(x)).double().mean(0) * math.log(2) * x[0].numel()


@torch.no_grad()
def by_bound(model: Any, x: Tensor, levels: int | None = None, times: int = TIMES) -> Tensor:
    """The continuous-time bound of the loss `vdm`, every sample at so many times, spread evenly."""
    many = x.repeat(times, *[1] * (x.ndim - 1))
    bits = REGISTRY.make("loss", "vdm", levels=levels)(model, many, dc.Draw(3, range(len(many)), block=len(many)))
    return -bits.reshape(times, len(x)).double().mean(0) * math.log(2) * x[0].numel()


class Velocity(nn.Module):
    """The exact velocity of a process as a network."""

    def __init__(self, data: Oracle, process: dc.Process) -> None:
        super().__init__()
        self.exact = data.net(process, "velocity")

    def forward(self, x: Tensor, t: Tensor, s: Tensor | None = None) -> Tensor:
        """v(x, t)."""
        return self.exact(x, t)


def by_cnf(data: Oracle, x: Tensor, steps: int) -> Tensor:
    """log p of a continuous normalising flow whose velocity is the exact one of flow matching, from t = 0."""
    net: Any = REGISTRY.make("network", "cnf", velocity={"type": "mlp"}, steps=steps).build(data.shape, {})
    net.velocity = Velocity(data, REGISTRY.make("process", "flow"))
    return net.log_prob(x, torch.zeros(len(x), dtype=torch.float64)).detach()


# --- where it is known ------------------------------------------------------------------------------------------------


def exact_field(data: Oracle, id: str, **fields: Any) -> dc.Field:
    """The exact field of a mixture under a process."""
    return data.field(REGISTRY.make("process", id, **fields))


def chain_rows(data: Oracle, x: Tensor, lengths: tuple[int, ...]) -> list[Row]:
    """Chains of some lengths, with both variances."""
    made = [(n, variance, exact_field(data, "ddpm", steps=n)) for n in lengths for variance in ("small", "large")]
    repeats = {"small": 1, "large": 4}
    return [Row(f"ELBO, chain of {n}, variance `{v}`", n, by_chain(f, x, v, repeats=repeats[v])) for n, v, f in made]


def mixture_rows(data: Oracle, x: Tensor) -> list[Row]:
    """Every way on exact samples of a mixture."""
    vp, flow = exact_field(data, "vp"), exact_field(data, "flow")
    model = data.denoiser(REGISTRY.make("process", "vdm"))
    return [
        Row("PF-ODE, `vp`, exact trace", 160, by_flow(vp, x, 40)),
        Row("PF-ODE, `flow`, exact trace", 160, by_flow(flow, x, 40)),
        Row("PF-ODE, `flow`, 1 Hutchinson probe", 160, by_flow(flow, x, 40, 1)),
        Row("PF-ODE, `flow`, 16 Hutchinson probes", 160, by_flow(flow, x, 40, 16)),
        *chain_rows(data, x, (100, 1000)),
        Row("VDM bound, continuous time", TIMES, by_bound(model, x)),
        Row("CNF, exact velocity, 20 steps", 80, by_cnf(data, x, 20)),
        Row("CNF, exact velocity, 80 steps", 320, by_cnf(data, x, 80)),
    ]


def mean_error(values: Tensor) -> tuple[float, float]:
    """The mean of values of independent samples, and its standard error."""
    return float(values.mean()), float(values.std()) / math.sqrt(len(values))


def rms(values: Tensor) -> float:
    """Root of the mean square."""
    return float(values.square().mean().sqrt())


def mixture_table(rows: list[Row], want: Tensor) -> str:
    """Error of the mean and of single points."""
    lines = ["| way | evaluations | mean of log p^ - log p | rms over points |", "| --- | --- | --- | --- |"]
    for row in rows:
        mean, error = mean_error(row.log_p - want)
        lines.append(f"| {row.name} | {row.nfe} | {mean:+.2g} ± {error:.1g} | {rms(row.log_p - want):.2g} |")
    return "\n".join(lines)


def numerical(data: Oracle, x: Tensor, steps: int) -> float:
    """Rms error of the ODE of `flow` against the density where the data is put: what is not due to the cut."""
    field = exact_field(data, "flow")
    return rms(by_flow(field, x, steps) - data.log_prob(x, instant(field.process, field.process.min_time)))


# --- real digits ------------------------------------------------------------------------------------------------------


def trained() -> dc.Pipeline:
    """One network, trained with the continuous-time bound on digits that are dequantised anew in every step."""
    made: Any = dc.assemble(DIGITS)
    optimizer = torch.optim.Adam(made.net.parameters(), RATE)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: min((i + 1) / 50, 0.5 + 0.5 * math.cos(math.pi * i / TRAINING)))
    batches = dc.Loader(made.source, made.spec.data.encode, BATCH, 0)
    for step in range(TRAINING):
        draw = dc.Draw(step, range(BATCH), block=BATCH)
        x = dequantised(batches(step)[0], LEVELS, draw.fold(1))
        optimizer.zero_grad()
        made.spec.loss(made.denoiser, x, draw.fold(2)).mean().backward()
        torch.nn.utils.clip_grad_norm_(made.net.parameters(), 1.0)
        optimizer.step()
        rate.step()
    made.net.eval().requires_grad_(False)
    return made


def held_out() -> Tensor:
    """Digits that no training saw, in [-1, 1]."""
    data = REGISTRY.make("data", "digits-8x8", conditional=False, split="test")
    return data.encode(data.open().batch(torch.arange(IMAGES))[0])


def dequantisation_gap(field: dc.Field, whole: Tensor, draws: int = 4) -> tuple[float, float]:
    """How much of the bits per dimension an average over `draws` points of the cell inside the logarithm saves; exact trace."""
    noises = [dequantised(whole.double(), LEVELS, dc.Draw(4 + k, range(len(whole)))).float() for k in range(draws)]
    log_p = by_flow(field, torch.cat(noises), 24).double().reshape(draws, len(whole))
    return mean_error(bits(log_p.mean(0)) - bits(log_p.logsumexp(0) - math.log(draws)))


def digit_rows(made: dc.Pipeline, whole: Tensor) -> list[Row]:
    """Every way, of one network, on whole numbers or dequantised ones. Densities are brought to probabilities of cells."""
    field, x = made.field(), dequantised(whole.double(), LEVELS, dc.Draw(4, range(len(whole)))).float()
    cell = -offset(LEVELS) * math.log(2) * x[0].numel()
    noises = [dequantised(whole.double(), LEVELS, dc.Draw(4 + k, range(len(whole)))).float() for k in range(4)]
    return [
        Row("PF-ODE, dequantised", 96, torch.stack([by_flow(field, y, 24, 1) for y in noises]).mean(0) + cell),
        Row("VDM bound, dequantised", TIMES, by_bound(made.denoiser, x) + cell),
        Row("ELBO, chain of 1000, dequantised", 1000, by_chain(field, x, "large") + cell),
        Row("ELBO, chain of 100, dequantised", 100, by_chain(field, x, "large", steps=100) + cell),
        Row("ELBO, chain of 100, bins as decoder", 100, by_chain(field, whole, "large", LEVELS, steps=100)),
        Row("VDM bound, 17 levels as decoder", TIMES, by_bound(made.denoiser, whole, LEVELS)),
        Row("ELBO, chain of 1000, bins as decoder", 1000, by_chain(field, whole, "large", LEVELS)),
    ]


def bits(log_p: Tensor) -> Tensor:
    """-log2 P / D of digits."""
    return -log_p / (64 * math.log(2))


def digit_table(rows: list[Row]) -> str:
    """Bits per dimension, and the difference from the first row image by image."""
    lines = ["| way | evaluations | bits/dim | more than the PF-ODE |", "| --- | --- | --- | --- |"]
    for row in rows:
        (mean, error), (gap, gap_error) = mean_error(bits(row.log_p)), mean_error(bits(row.log_p) - bits(rows[0].log_p))
        paired = "" if row is rows[0] else f"{gap:+.3f} ± {gap_error:.3f}"
        lines.append(f"| {row.name} | {row.nfe} | {mean:.3f} ± {error:.3f} | {paired} |")
    return "\n".join(lines)


# --- the page ---------------------------------------------------------------------------------------------------------

PAGE = """# One likelihood, five ways

What is log p(x) under a diffusion model? The probability-flow ODE gives it, a chain and a variational diffusion model
bound it, and a continuous normalising flow has it by construction. This page measures all of them where log p is known,
and then on real digits. It is written by `python docs/likelihoods.py`: every number is measured by that script, in one
and a half minutes of one core.

![Error of the ways on the mixture in the plane, and bits per dimension of digits](likelihoods.png)

## Where it is known

Data is a mixture of {components_plane} Gaussians in the plane and one of {components_eight} in eight dimensions; the
network is the exact one, E[x_0|x_t] in closed form, so what is left is the error of the way itself. {points} exact
samples x, nats; ± is the standard error of the mean over them. "Evaluations" counts calls of the network for one
sample, without the products with its Jacobian.

In the plane (entropy {entropy_plane:.3f} on these samples):

{plane}

In eight dimensions (entropy {entropy_eight:.3f} on these samples):

{eight}

**PF-ODE** (`pf-ode-likelihood`). {sentence_cut} The Hutchinson estimate is unbiased: its mean agrees, but one probe
leaves an error of {probe_one:.2g} nats in single points of the plane and {probe_one_eight:.2g} in eight dimensions, and
16 probes {probe_many:.2g} and {probe_many_eight:.2g}. **CNF** (`cnf` with the exact velocity of `flow`) starts at t = 0
and ends in a prior that is exact, so only the integrator is left; its error falls from {cnf_few:.1g} to {cnf_many:.1g}
with four times the steps.

**ELBO of a chain** (`elbo`). Its error in single points is mostly the noise of the chain's own path. With variance
`large` the mean is {large_100:+.3f} ± {large_100_error:.3f} at 100 steps and {large_1000:+.3f} ± {large_1000_error:.3f}
at 1000 in the plane; with `small` it is {small_100:+.1f} and {small_1000:+.1f}. In eight dimensions `large` is at
{large_100_eight:+.2f} ± {large_100_eight_error:.2f} and {large_1000_eight:+.2f} ± {large_1000_eight_error:.2f}. The
best variance of a reverse step is beta~ plus a multiple of Var[x_0|x_t], and `small` leaves the second part out; the
step to clean data, where beta~ is 0, borrows that of the step above. How much of the gap is due to which was not
measured here.

**VDM bound** (loss `vdm`, continuous time, {times} times a point). Its expectation differs from log p only by what
happens at the two ends of the schedule; measured {vdm:+.3f} ± {vdm_error:.3f} and {vdm_eight:+.3f} ±
{vdm_error_eight:.3f}: no gap is seen beyond the noise of the estimate.

## On real digits

One network (an `mlp`, {training} steps on the training digits of `digits-8x8`, dequantised anew in every step, loss
`vdm`), {images} digits that it never saw, bits per dimension of the whole numbers 0 to 16. ± is the standard error over
images; the last column compares image by image.

{digits}

{order}

{decoders}
"""

CUT = """The exact trace errs by {vp:.1g} (`vp`) and {flow:.1g} (`flow`) in single points of the plane. That is not the
integrator: data is put at t = .001, and against the density *there* the error of `flow` is {there:.1g} in the plane and
{there_eight:.1g} in eight dimensions. The mean over points is within {cut_mean:.0e} of the exact one all the same."""

ORDER = """**{verdict}** {told} The probability-flow ODE evaluates the likelihood of the model itself. What is dequantised
is still a bound of the probability of whole numbers: E_u log p(x + u) <= log E_u p(x + u) for u uniform in the cell. Averaging
four draws inside the logarithm saves {saved:.3f} ± {saved_error:.3f} bits per dimension ({few} images, exact trace), so
in expectation at least that much is lost by the bound. The VDM bound is the ELBO of a chain with infinitely many steps;
for the exact score it would be equal to the likelihood, for a learned one it also pays for the error of the score
({vdm:+.3f} ± {vdm_error:.3f}). A chain of 1000 steps pays for its steps on top ({thousand:+.3f} ±
{thousand_error:.3f}), one of 100 steps more ({hundred:+.3f} ± {hundred_error:.3f}). The ODE and the bound belong to two
models, one without and one with noise, that coincide only for the exact score: theory does not order them, only
measurements do."""

DECODERS = """**A decoder of whole numbers is no free lunch.** With the bins of `levels: 17` as decoder, the chain of 100 steps
scores {bins_100:.3f}, {better:.3f} ± {better_error:.3f} bits/dim below the same chain on dequantised data. But the chain of
1000 steps gets *worse* with more steps: {bins_1000:.3f}. Its last noise level is sigma = {sigma:.2f}, far inside a cell
of {cell:.3f}: a network that has seen dequantised data cannot know that values lie on 17 levels, so the chain spends
bits on places within the cell which the decoder throws away. A uniform place in the cell known to within sigma costs
log2(cell / (sigma sqrt(2 pi e))) = {waste:.2f} bits; measured against the same chain on dequantised data: {wasted:.2f}.
Data, training and decoder have to agree on whether values are whole numbers."""


def main() -> None:
    """Measure, draw, write."""
    torch.set_num_threads(1)
    known = {}
    for name, data in (("plane", PLANE), ("eight", EIGHT)):
        x = data.sample(POINTS, dc.Draw(1, range(POINTS), block=POINTS))
        known[name] = (data, x, data.log_prob(x), mixture_rows(data, x))
    made, whole = trained(), held_out()
    digits, gap = digit_rows(made, whole), dequantisation_gap(made.field(), whole[:16])
    draw(*known["plane"], digits)
    (FOLDER / "likelihoods.md").write_text(page(known, digits, gap, made.process))


def page(known: Mapping[str, Any], digits: list[Row], gap: tuple[float, float], process: Any) -> str:
    """The text with its numbers."""
    (plane, x, want, rows), (eight, y, goal, others) = known["plane"], known["eight"]
    err, far = [r.log_p - want for r in rows], [r.log_p - goal for r in others]
    b = [bits(r.log_p) for r in digits]
    ordered = all(float(b[i].mean()) <= float(b[i + 1].mean()) for i in range(3))
    verdict = (
        "The order is the expected one: likelihood below continuous bound below long chain below short chain."
        if ordered
        else "The order is not the expected one (likelihood, continuous bound, long chain, short chain)."
    )
    first, error = mean_error(b[1] - b[0])
    told = "The first two are told apart." if abs(first) > 2 * error else "The first two are not told apart by these images."
    cell, sigma = 2 / (LEVELS - 1), float(instant(process, process.min_time).sigma)
    order = ORDER.format(
        verdict=verdict,
        told=told,
        saved=gap[0],
        saved_error=gap[1],
        few=16,
        **pair("vdm", b[1] - b[0]),
        **pair("thousand", b[2] - b[0]),
        **pair("hundred", b[3] - b[0]),
    )
    decoders = DECODERS.format(
        bins_100=float(b[4].mean()),
        bins_1000=float(b[6].mean()),
        sigma=sigma,
        cell=cell,
        **pair("better", b[3] - b[4]),
        waste=math.log2(cell / (sigma * math.sqrt(2 * math.pi * math.e))),
        wasted=float((b[6] - b[2]).mean()),
    )
    cut = CUT.format(
        vp=rms(err[0]),
        flow=rms(err[1]),
        there=numerical(plane, x, 40),
        there_eight=numerical(eight, y, 40),
        cut_mean=max(abs(float(e.mean())) for e in err[:2]),
    )
    text = PAGE.format(
        components_plane=plane.classes,
        components_eight=eight.classes,
        points=POINTS,
        times=TIMES,
        training=TRAINING,
        images=IMAGES,
        entropy_plane=-float(want.mean()),
        entropy_eight=-float(goal.mean()),
        plane=mixture_table(rows, want),
        eight=mixture_table(others, goal),
        sentence_cut=cut,
        probe_one=rms(err[2]),
        probe_one_eight=rms(far[2]),
        probe_many=rms(err[3]),
        probe_many_eight=rms(far[3]),
        cnf_few=rms(err[9]),
        cnf_many=rms(err[10]),
        small_100=float(err[4].mean()),
        small_1000=float(err[6].mean()),
        **pair("large_100", err[5]),
        **pair("large_1000", err[7]),
        **pair("large_100_eight", far[5]),
        **pair("large_1000_eight", far[7]),
        **pair("vdm", err[8]),
        vdm_eight=float(far[8].mean()),
        vdm_error_eight=mean_error(far[8])[1],
        digits=digit_table(digits),
        order=order,
        decoders=decoders,
    )
    return (
        "\n\n".join(part if part[0] in "|#!" else textwrap.fill(part, 128, break_on_hyphens=False) for part in text.split("\n\n"))
        + "\n"
    )


def pair(name: str, values: Tensor) -> dict[str, float]:
    """A mean and its standard error under two names."""
    mean, error = mean_error(values)
    return {name: mean, f"{name}_error": error}


def draw(data: Oracle, x: Tensor, want: Tensor, rows: list[Row], digits: list[Row]) -> None:
    """Left: error over evaluations on the mixture. Right: bits per dimension of digits."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.25, 1])
    chains = [*chain_rows(data, x, (25, 50, 200, 400)), *(row for row in rows if "ELBO" in row.name)]
    for variance, colour in (("small", "#b45309"), ("large", "#dc2626")):
        mine = sorted((row for row in chains if f"`{variance}`" in row.name), key=lambda row: row.nfe)
        gaps = [(row.nfe, *mean_error(want - row.log_p)) for row in mine]
        seen = [list(column) for column in zip(*(gap for gap in gaps if gap[1] > gap[2]), strict=True)]
        left.errorbar(*seen, fmt="o-", ms=3, color=colour, label=f"ELBO, `{variance}`: mean gap, where it is seen")
    steps = (5, 10, 20, 40, 80)
    calls, flow, cnf = (
        [4 * n for n in steps],
        [numerical(data, x, n) for n in steps],
        [rms(by_cnf(data, x, n) - want) for n in steps],
    )
    left.plot(calls, flow, "s-", ms=3, color="#2563eb", label="PF-ODE at the cut: rms")
    left.plot(calls, cnf, "^-", ms=3, color="#059669", label="CNF: rms")
    left.set_xscale("log")
    left.set_yscale("log")
    left.set_xlabel("evaluations of the network")
    left.set_ylabel("nats")
    left.set_title("error of log p, exact network, mixture in the plane", fontsize=9)
    left.legend(fontsize=7)
    stats = [mean_error(bits(row.log_p)) for row in digits]
    right.errorbar([m for m, _ in stats], range(len(stats)), xerr=[e for _, e in stats], fmt="o", color="#1e3a8a", ms=4)
    right.set_yticks(range(len(stats)), [row.name for row in digits], fontsize=7)
    right.invert_yaxis()
    right.set_xlabel("bits/dim")
    right.set_title("unseen digits, one learned network", fontsize=9)
    (FOLDER / "likelihoods.png").write_bytes(png(figure))


if __name__ == "__main__":
    main()
