"""Guidance within limits of time, and dynamic thresholding."""

import pytest
import torch
from diffcore_guidance.cfg import CFG
from diffcore_guidance.interval import Interval
from diffcore_guidance.threshold import DynamicThreshold

import diffcore as dc
from diffcore.testing import Mixture, ReferenceVP

VP = ReferenceVP()
LABELLED = Mixture([0.3, 0.7], torch.tensor([[-1.5, 0.4], [1.0, -0.2]], dtype=torch.float64), [0.3, 0.5])
X = torch.linspace(-2, 2, 10, dtype=torch.float64).reshape(5, 2)
LABEL = torch.tensor([0, 1, 1, 0, 1])
INSIDE = Interval(guidance=CFG(weight=3.0), t_low=0.2, t_high=0.6)


def largest(x, y):
    return float((x - y).abs().max())


def plain(t):
    return LABELLED.denoiser(VP)(X, t, label=LABEL).mean


def guided(t):
    return CFG(weight=3.0).denoiser(LABELLED.denoiser(VP))(X, t, label=LABEL).mean


@pytest.mark.parametrize(("t", "active"), [(0.19, 0), (0.2, 1), (0.4, 1), (0.6, 1), (0.61, 0)])
def test_the_interval_is_closed_and_costs_one_row_outside(t, active):
    denoiser = LABELLED.denoiser(VP)
    with dc.Meter() as meter:
        got = INSIDE.denoiser(denoiser)(X, t, label=LABEL).mean
    assert meter.rows == 5 * (1 + active)
    assert torch.equal(got, guided(t) if active else plain(t))


def test_a_run_costs_two_only_for_the_steps_inside():
    @dc.component
    class Step(dc.Stepper):
        """Euler."""

        def plan(self, process, grid):
            t, s = process.pairs(grid)
            return dc.Plan(t=t, h=s.t - t.t)

        def step(self, field, x, row, carry, z):
            return dc.Moved(dc.lincomb((1, x), (row.h, field.velocity(x, row.t))))

    field = LABELLED.field(VP, guidance=[INSIDE], cond={"label": LABEL})
    result = dc.sample(field, Step(), X, grid=[0.9, 0.7, 0.5, 0.3, 0.1, 0.05])
    assert (result.calls, result.nfe) == (5, 7)


def test_times_per_sample_are_chosen_sample_by_sample():
    t = torch.tensor([0.1, 0.2, 0.4, 0.6, 0.9], dtype=torch.float64)
    got = INSIDE.denoiser(LABELLED.denoiser(VP, "eps"))(X, t, label=LABEL).mean
    inside = torch.tensor([False, True, True, True, False])[:, None]
    assert largest(got, torch.where(inside, guided(t), plain(t))) < 1e-12


def test_branches_in_different_targets_meet_in_x0():
    """The plain side holds eps, the thresholded one x0."""
    t, limited = torch.tensor([0.1, 0.2, 0.4, 0.6, 0.9], dtype=torch.float64), DynamicThreshold(limit=0.3)
    denoiser = LABELLED.denoiser(VP, "eps")
    got = Interval(guidance=limited, t_low=0.2, t_high=0.6).denoiser(denoiser)(X, t, label=LABEL).mean
    inside = torch.tensor([False, True, True, True, False])[:, None]
    assert largest(got, torch.where(inside, limited.denoiser(denoiser)(X, t, label=LABEL).mean, plain(t))) < 1e-12


def test_a_compiled_evaluation_chooses_by_a_tensor_time():
    """Coefficients as 0-d tensors: one graph for both sides of the limit, equal to eager."""

    def net(x, t, label):
        return torch.tanh(x) * (1 + t[:, None]) + 0.1 * label[:, None]

    denoiser = dc.Denoiser(net, "v", VP, null={"label": 2})
    wrapped, graphs = INSIDE.denoiser(denoiser), []

    def backend(module, _):
        graphs.append(module)
        return module.forward

    def mean(x, at, label):
        return wrapped(x, at, label=label).mean

    torch.compiler.reset()
    compiled = torch.compile(mean, fullgraph=True, backend=backend, dynamic=False)
    for t in (0.1, 0.3, 0.9):
        want, at = mean(X, t, LABEL), VP.coeffs(torch.tensor(t, dtype=torch.float64))
        assert largest(compiled(X, at, LABEL), want) < 1e-12
    assert len(graphs) == 1


def test_the_needs_of_the_guidance_inside_are_passed_on():
    @dc.component
    class Gradient(dc.Guidance):
        """Needs gradients."""

        needs = frozenset({"grad"})

    assert Interval(guidance=Gradient()).needs == {"grad"}
    assert INSIDE.needs == {"cond", "null"}


def test_what_cannot_be_limited_is_refused():
    @dc.component
    class Steering(dc.Guidance):
        """Changes the solver."""

        def solver(self, solver):
            return solver

    assert Interval(guidance=CFG(), t_low=0.3, t_high=0.3).t_high == 0.3
    with pytest.raises(dc.SpecError, match=r"t_low = 0\.7 must not exceed t_high = 0\.3"):
        Interval(guidance=CFG(), t_low=0.7, t_high=0.3)
    with pytest.raises(dc.SpecError, match="cannot limit Steering, which changes the solver"):
        Interval(guidance=Steering())


@pytest.mark.item("9.17")
def test_threshold_leaves_data_in_range_alone():
    """|x*| <= 1 everywhere: x* is bit-equal."""
    denoiser = dc.Denoiser(lambda x, t: torch.tanh(x), "x0", VP)
    assert torch.equal(DynamicThreshold().denoiser(denoiser)(X, 0.4).mean, torch.tanh(X))


@pytest.mark.item("9.17")
def test_threshold_is_the_published_rule():
    """s the quantile by linear interpolation of sorted |x*|; clip to s, divide by s."""
    value = torch.tensor([[0.5, -2.0, 4.0, 1.0, -3.0], [0.1, 0.2, -0.3, 0.9, 0.4]], dtype=torch.float64)
    denoiser = dc.Denoiser(lambda x, t: value, "x0", VP)
    got = DynamicThreshold(fraction=0.875).denoiser(denoiser)(torch.zeros_like(value), 0.4).mean
    s = 3.5  # sorted |x*|: .5 1 2 3 4; position .875 * 4 = 3.5
    want = torch.stack([value[0].clamp(-s, s) / s, value[1]])
    assert largest(got, want) < 1e-14


def test_threshold_scales_to_the_limit_of_the_data():
    denoiser = dc.Denoiser(lambda x, t: 10 * x, "x0", VP)
    got = DynamicThreshold(fraction=1.0, limit=3.0).denoiser(denoiser)(X, 0.4).mean
    reach = (10 * X).abs().amax(1, keepdim=True).clamp_min(3.0)
    assert largest(got, 30 * X / reach) < 1e-14


@pytest.mark.item("9.17")
def test_everything_else_follows_from_the_thresholded_mean():
    """x_t = alpha x* + sigma eps* still holds."""
    posterior = DynamicThreshold(fraction=0.5).denoiser(dc.Denoiser(lambda x, t: 4 * x, "eps", VP))(X, 0.4)
    c = posterior.at
    assert largest(c.alpha * posterior.mean + c.sigma * posterior.eps, X) < 1e-12
    assert float(posterior.mean.abs().max()) <= 1.0


def test_threshold_after_cfg_sees_the_guided_mean():
    field = LABELLED.field(VP, guidance=[CFG(weight=9.0), DynamicThreshold(fraction=1.0)], cond={"label": LABEL})
    strong = CFG(weight=9.0).denoiser(LABELLED.denoiser(VP))(X, 0.3, label=LABEL).mean
    s = strong.abs().amax(1, keepdim=True).clamp_min(1.0)
    with dc.Meter() as meter:
        assert largest(field.posterior(X, 0.3).mean, strong / s) < 1e-12
    assert meter.calls == 1


@pytest.mark.parametrize("guidance", [CFG(weight=2.0, rescale=0.5), INSIDE, DynamicThreshold()], ids=lambda g: type(g).__name__)
def test_trees_are_guided_leaf_by_leaf(guidance):
    def net(x, t, label):
        return dc.tree_map(lambda leaf: leaf * (1.0 + label[:, None].double()), x)

    denoiser = dc.Denoiser(net, "x0", VP, null={"label": 0})
    both = guidance.denoiser(denoiser)({"a": X, "b": 3 * X}, 0.3, label=LABEL).mean
    assert largest(both["a"], guidance.denoiser(denoiser)(X, 0.3, label=LABEL).mean) < 1e-14
    assert largest(both["b"], guidance.denoiser(denoiser)(3 * X, 0.3, label=LABEL).mean) < 1e-14
