"""The algebra of targets: one 2x2 solve behind every conversion, the reverse kernel, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch

import diffcore as dc
from diffcore.testing import REFERENCES, Gaussian, ReferenceFlow, ReferenceVE, ReferenceVP, golden_mixture, instant

DOUBLE = torch.float64
VP, FLOW, VE = ReferenceVP(), ReferenceFlow(), ReferenceVE()
PROCESSES = pytest.mark.parametrize("process", REFERENCES, ids=lambda p: type(p).__name__)


@dc.component
class Shifted(dc.AffineProcess):
    """x_t = (1 - t) x_0 + t eps + t^2 / 2."""

    def coeffs(self, t):
        one = torch.ones_like(t)
        return dc.Coeffs(t, 1 - t, t, -one, one, t**2 / 2, t)


def numbers(*shape, seed=0):
    return torch.empty(shape, dtype=DOUBLE).normal_(generator=torch.Generator().manual_seed(seed))


def close(a, b, tolerance=1e-10):
    assert float((torch.as_tensor(a) - torch.as_tensor(b)).abs().max()) < tolerance


def by_hand(name, c, x0, eps, sd=0.5):
    """The targets as their papers state them, not as rows."""
    norm = (c.alpha**2 * sd**2 + c.sigma**2) ** 0.5
    x = c.alpha * x0 + c.sigma * eps
    skip = c.alpha * sd**2 / norm**2
    return {
        "x0": x0,
        "eps": eps,
        "score": -(x - c.alpha * x0) / c.sigma**2,
        "v": (c.alpha * eps - c.sigma * x0) / (c.alpha**2 + c.sigma**2) ** 0.5,
        "velocity": c.dalpha * x0 + c.dsigma * eps,
        "edm": (x0 - skip * x) * norm / (c.sigma * sd),
    }[name]


@pytest.mark.item("6.03", "D1")
@PROCESSES
@pytest.mark.parametrize("name", dc.ROWS)
def test_rows_are_the_published_targets(process, name):
    """edm: F = (x_0 - c_skip x) / c_out, c_skip = alpha sd^2 / (alpha^2 sd^2 + sigma^2), c_out = sigma sd / sqrt(...)."""
    c, x0, eps = instant(process, 0.3 * process.T), numbers(4, 3), numbers(4, 3, seed=1)
    close(dc.combine(name, c, x0, eps), by_hand(name, c, x0, eps))


@pytest.mark.item("6.03")
@PROCESSES
@pytest.mark.parametrize("have", dc.ROWS)
@pytest.mark.parametrize("want", dc.ROWS)
def test_every_target_is_read_from_every_other(process, have, want):
    """At a number, per sample and per pixel: the value read from x_t and one target is the other."""
    x0, eps = numbers(3, 2), numbers(3, 2, seed=1)
    for t in (torch.tensor(0.4), torch.tensor([0.2, 0.5, 0.9]), torch.full((3, 2), 0.7)):
        c = instant(process, t * process.T)
        lifted = c.map(lambda v: dc.expand(v, x0))
        found = dc.Posterior(lifted.alpha * x0 + lifted.sigma * eps, by_hand(have, lifted, x0, eps), have, c)
        close(found.read(want), by_hand(want, lifted, x0, eps), 1e-9)


def test_reading_what_was_predicted_returns_it_untouched():
    x, value = numbers(2, 2), numbers(2, 2, seed=1)
    for name in dc.ROWS:
        assert dc.Posterior(x, value, name, instant(VP, 0.3)).read(name) is value


def test_replacing_the_mean_keeps_x():
    """After guidance the noise is that of the new mean: x_t = alpha x_0 + sigma eps still holds."""
    x, c = numbers(3, 2), instant(VP, 0.3)
    found = dc.Posterior(x, numbers(3, 2, seed=1), "eps", c).replace("x0", numbers(3, 2, seed=2))
    close(c.alpha * found.mean + c.sigma * found.eps, x)


@pytest.mark.item("4.14")
@PROCESSES
def test_half_log_snr_and_its_derivative(process):
    """lam = log(alpha/sigma), log_snr = 2 lam, lam' by central differences; g^2 = (sigma^2)' - 2 f sigma^2 = -2 sigma^2 lam'."""
    t, h = torch.linspace(0.1, 0.9, 9, dtype=DOUBLE) * process.T, 1e-6
    c, up, down = (process.coeffs(t + d) for d in (0, h, -h))
    close(c.lam, torch.log(c.alpha / c.sigma))
    close(c.log_snr, torch.log(c.alpha**2 / c.sigma**2))
    close(c.dlam, (up.lam - down.lam) / (2 * h), 1e-6)
    close(2 * c.sigma * c.dsigma - 2 * c.dalpha / c.alpha * c.sigma**2, -2 * c.sigma**2 * c.dlam)


def test_a_shift_per_sample_is_taken_off_and_put_back():
    """x_t = alpha x_0 + sigma eps + shift at times (B,): corrupt, every reading, and the velocity by differences in t."""
    process, x0, t, h = Shifted(), numbers(4, 3), torch.tensor([0.2, 0.4, 0.6, 0.8], dtype=DOUBLE), 1e-6
    made, up, down = (process.corrupt(x0, t + d, dc.Draw(0, range(4))) for d in (0, h, -h))
    rows = t[:, None]
    close(made.xt, (1 - rows) * x0 + rows * made.eps + rows**2 / 2)
    speed = (up.xt - down.xt) / (2 * h)
    close(made.target("velocity"), speed, 1e-7)
    for name in ("x0", "eps", "v", "velocity"):
        found = dc.Posterior(made.xt, made.target(name), name, made.at)
        close(found.mean, x0, 1e-9)
        close(found.eps, made.eps, 1e-9)
        close(found.velocity, speed, 1e-7)


def test_the_flow_of_a_shifted_process():
    """Sampling a shifted process with the exact network follows alpha m + shift + sqrt(V_s/V_t) (x - ...)."""

    @dc.component
    class Midpoint(dc.Stepper):
        """v at the middle of the step."""

        def plan(self, process, grid):
            t, s = process.pairs(grid)
            return dc.Plan(t=t, m=process.coeffs((t.t + s.t) / 2), h=s.t - t.t)

        def step(self, field, x, row, carry, z):
            half = dc.lincomb((1, x), (row.h / 2, field.velocity(x, row.t)))
            return dc.Moved(dc.lincomb((1, x), (row.h, field.velocity(half, row.m))))

    process, data, x = Shifted(), Gaussian([0.5, -1.0], 0.7), numbers(4, 2)
    out = dc.sample(data.field(process), Midpoint(), x, grid=torch.linspace(0.9, 0.1, 201, dtype=DOUBLE)).x
    close(out, data.flow(process, x, 0.9, 0.1), 1e-4)


@PROCESSES
@pytest.mark.parametrize("name", ["eps", "v", "velocity", "score", "edm"])
def test_weights_of_the_data_error_in_another_row(process, name):
    """An error e of x_0 at fixed x_t is an error (p - q alpha/sigma) e of the row: the weighted squares agree."""
    c, x, true, other = instant(process, 0.3 * process.T), numbers(4), numbers(4, seed=1), numbers(4, seed=2)
    read = [by_hand(name, c, x0, (x - c.alpha * x0) / c.sigma) for x0 in (true, other)]
    weight = dc.weight_from_x0(3.0, c, dc.row(name, c))
    close(weight * (read[0] - read[1]) ** 2, 3.0 * (true - other) ** 2, 1e-8)


@PROCESSES
def test_the_reverse_kernel_is_ddim_with_eta_one(process):
    """kept x + fresh x* + c z = alpha_s x* + sqrt(sigma_s^2 - c^2) eps* + c z with c^2 of the DDPM posterior."""
    t, s = instant(process, 0.6 * process.T), instant(process, 0.4 * process.T)
    x, x0, z = numbers(3, 2), numbers(3, 2, seed=1), numbers(3, 2, seed=2)
    eps = (x - t.alpha * x0) / t.sigma
    c2 = (s.sigma / t.sigma) ** 2 * (t.sigma**2 - (t.alpha / s.alpha) ** 2 * s.sigma**2)
    want = s.alpha * x0 + (s.sigma**2 - c2) ** 0.5 * eps + c2**0.5 * z
    close(process.reverse(x, t, s, dc.Posterior(x, x0, "x0", t), z), want)
    close(process.reverse_noise(t, s), c2**0.5)


def test_the_last_reverse_step_returns_the_posterior_mean_without_noise():
    x, x0, t, s = numbers(3, 2), numbers(3, 2, seed=1), instant(FLOW, 0.1), instant(FLOW, 0.0)
    close(FLOW.reverse(x, t, s, dc.Posterior(x, x0, "x0", t), numbers(3, 2)), x0, 1e-15)
    assert float(FLOW.reverse_noise(t, s)) == 0.0


def test_time_of_a_signal_to_noise_ratio_by_bisection():
    """Flow: lam = log((1 - t)/t), so t = 1 / (1 + e^lam); to the last bits at both ends."""
    lam = torch.tensor([-12.0, -3.0, 0.0, 2.0, 12.0], dtype=DOUBLE)
    close(FLOW.t_of_lam(lam), 1 / (1 + lam.exp()), 1e-15)
    assert FLOW.t_of_lam(torch.tensor(0.3)).dtype == DOUBLE


@pytest.mark.parametrize("name", ["eps", "score"])
def test_predictions_without_signal_at_the_end_are_refused(name):
    """At alpha_T = 0 eps says nothing about x_0: refused when the denoiser is made, with the predictions that work."""
    with pytest.raises(
        dc.IncompatibleError, match=rf"'{name}' cannot be used with ReferenceFlow: at t = 1.0 .* use prediction v"
    ):
        golden_mixture().denoiser(FLOW, name)
    golden_mixture().denoiser(VP, name)


def test_unknown_predictions_and_processes_are_refused():
    with pytest.raises(dc.IncompatibleError, match="prediction 'nose' does not fit ReferenceVP; it reads: x0, eps"):
        dc.Denoiser(lambda x, t: x, "nose", VP)
    with pytest.raises(dc.IncompatibleError, match="needs the process"):
        dc.Denoiser(lambda x, t: x, "eps")


def test_asking_what_cannot_be_read_names_the_time():
    c = dc.Coeffs(0.0, 1.0, 0.0, -1.0, 1.0)
    with pytest.raises(dc.NumericsError, match=r"at t = 0.*alpha = 1"):
        dc.Posterior(torch.ones(2), torch.ones(2), "x0", c).eps  # noqa: B018
    with pytest.raises(dc.NumericsError, match="'score' is singular at t = 0"):
        dc.row("score", c)


@pytest.mark.item("D1")
def test_preconditioning_gives_the_network_unit_variance_and_its_time_feature():
    """x / sqrt(alpha^2 sd^2 + sigma^2) has variance 1 for data of deviation sd; t arrives as embed_time(t)."""
    seen = {}

    def net(x, t):
        seen.update(x=x, t=t)
        return torch.zeros_like(x)

    data = Gaussian(0.0, 0.5, shape=(4000,))
    for process in REFERENCES:
        for t in (0.1 * process.T, 0.9 * process.T):
            made = process.corrupt(data.sample(4), torch.full((4,), t, dtype=DOUBLE), dc.Draw(1, range(4)))
            dc.Denoiser(net, dc.Reading("v", "feature", "unit", sigma_data=0.5), process)(made.xt, t)
            assert abs(float(seen["x"].var()) - 1) < 4.5 * (2 / 16000) ** 0.5
            close(seen["t"], torch.full((4,), t / process.T, dtype=DOUBLE), 1e-12)


def test_many_conditions_in_one_call_are_the_calls_one_by_one():
    """`many` batches the conditions, fills the null value, and counts one call of as many rows."""
    data = golden_mixture((2,))
    found, x, label = data.denoiser(VE), numbers(4, 2), torch.tensor([0, 1, 1, 0])
    with dc.Meter() as meter:
        plain, guided = found.many(x, 3.0, [{}, {"label": label}])
    assert (meter.calls, meter.rows) == (1, 8)
    close(plain.mean, data.mean(x, instant(VE, 3.0)))
    close(guided.mean, data.mean(x, instant(VE, 3.0), label))


@pytest.mark.parametrize("name", ["x0", "v", "velocity", "edm"])
@pytest.mark.parametrize("process", [VP, FLOW, Shifted()], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("read", ["x0", "eps"])
def test_blending_is_reading_and_combining(process, name, read):
    """keep x + gain E[read] + noise z, the conversion folded into the weights, is the sum written out."""
    c, x, out, z = instant(process, 0.4), numbers(4, 3), numbers(4, 3, seed=1), numbers(4, 3, seed=2)
    found = dc.Posterior(x, out, name, c)
    close(found.blend(0.3, 0.7, (0.2, z), name=read), 0.3 * x + 0.7 * found.read(read) + 0.2 * z)


def test_the_reverse_kernel_moves_with_the_mean_of_the_process():
    """y = x - shift follows the process without a shift, so a step of x is one of y, seen from a moving frame."""
    moving, x, z = Shifted(), numbers(4, 3), numbers(4, 3, seed=2)
    t, s = instant(moving, 0.7), instant(moving, 0.3)
    there = FLOW.reverse(x, instant(FLOW, 0.7), instant(FLOW, 0.3), dc.Posterior(x, x / 2, "x0", t), z)
    here = moving.reverse(x + 0.7**2 / 2, t, s, dc.Posterior(x, x / 2, "x0", t), z)
    close(here, there + 0.3**2 / 2)


@pytest.mark.parametrize("process", REFERENCES, ids=lambda p: type(p).__name__)
def test_bisection_finds_the_time_of_a_level(process):
    """The core's inversion against the closed form of each reference process, beyond T too."""
    inside = process.coeffs(torch.linspace(1e-3, 1.0, 50, dtype=torch.float64)[:-1] * process.T).lam
    lam = torch.cat([torch.tensor([-50.0, 30.0]).double(), inside])
    torch.testing.assert_close(dc.AffineProcess.t_of_lam(process, lam), process.t_of_lam(lam), rtol=1e-12, atol=1e-15)


def test_the_stored_form_of_a_process_is_alpha_and_sigma_at_eight_times():
    """Weights carry these numbers and are refused where they differ, so they may not change: t = T/8, ..., T, alpha first."""
    t = [i / 8 for i in range(1, 9)]
    integral = [0.1 * v + 19.9 * v**2 / 2 for v in t]
    want = [math.exp(-v / 2) for v in integral] + [math.sqrt(1 - math.exp(-v)) for v in integral]
    assert VP.fingerprint() == pytest.approx(want, rel=1e-12)
    assert VE.fingerprint()[:8] == [1.0] * 8
    assert VE.fingerprint()[8:] == pytest.approx([v * VE.T for v in t], rel=1e-12)


def affine_processes():
    """Every installed affine process, by its example."""
    registry = dc.Registry.load()
    found = [(entry, registry.get("process", entry.full_id)) for entry in registry.list("process")]
    return [registry.make("process", e.full_id, **c.example) for e, c in found if "affine" in c.provides]


@pytest.mark.parametrize("process", [*REFERENCES, *affine_processes()], ids=lambda p: type(p).__name__)
def test_the_time_of_a_level_stays_within_the_process(process):
    """0 <= t <= T and falling in lam, also for levels beyond both ends, where it is the end."""
    lam = torch.cat([torch.tensor([-1e3, -50.0]), torch.linspace(-12, 12, 49), torch.tensor([50.0, 1e3])]).double()
    with torch.no_grad():
        times = process.t_of_lam(lam)
        ends = process.coeffs(torch.tensor([0.0, process.T], dtype=DOUBLE)).lam
    assert times.dtype == DOUBLE
    assert float(times.min()) >= 0
    assert float(times.max()) <= process.T
    assert bool((times.diff() <= 0).all())
    for beyond, end in ((times[lam > ends[0]], 0.0), (times[lam < ends[1]], process.T)):
        assert bool(((beyond - end).abs() <= 1e-9 * process.T).all())
