"""Compiled sampling: one graph per kind of step, none the second time, equal to eager."""

from __future__ import annotations

import functools
import shutil
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

import diffcore as dc

KINDS_OF_STEP = {"euler": 1, "rk4": 2, "ddim": 1, "ancestral": 1, "dpmpp-2m": 1, "euler-maruyama": 1, "heun": 2, "edm-heun": 2}
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def registry():
    return dc.Registry.load()


def net(x, t):
    """The velocity of N(1.5, 0.3^2) under the straight path."""
    t = t[:, None]
    variance = (1 - t) ** 2 * 0.09 + t**2
    return t * (x - (1 - t) * 1.5) / variance - ((1 - t) * 0.09 * x + t**2 * 1.5) / variance


def run_twice(registry, name, backend=None, **fields):
    torch.compiler.reset()
    counters.clear()
    process = registry.make("process", "flow")
    denoiser = dc.Denoiser(net, "velocity", process=process)
    solver = registry.make("solver", name, steps=7, **fields)
    x = torch.linspace(-2, 2, 16, dtype=torch.float64).reshape(8, 2)
    for start in (x, x + 1):
        eager = dc.sample(dc.Field(denoiser), solver, start, seed=1)
        fast = dc.sample(dc.Field(denoiser), solver, start, seed=1, mode="compile")
        torch.testing.assert_close(fast.x, eager.x, atol=1e-12, rtol=1e-12)
        assert (fast.nfe, fast.calls) == (eager.nfe, eager.calls)
        yield counters["stats"]["unique_graphs"]


@pytest.mark.parametrize("name", KINDS_OF_STEP)
def test_one_graph_serves_all_steps_of_a_kind(name, registry, monkeypatch):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    first, second = run_twice(registry, name, **({"eta": 0.5} if name == "ddim" else {}))
    assert first <= KINDS_OF_STEP[name]
    assert second == first


@pytest.mark.skipif(shutil.which("c++") is None, reason="the default backend needs a C++ compiler")
def test_the_default_backend(registry):
    assert len(list(run_twice(registry, "dpmpp-2m"))) == 2


def test_conditions_are_arguments_of_the_graph(registry, monkeypatch):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    torch.compiler.reset()
    counters.clear()
    process = registry.make("process", "flow")
    denoiser = dc.Denoiser(lambda x, t, label: x - label[:, None], "velocity", process=process)
    solver = registry.make("solver", "euler", steps=4, grid={"type": "uniform"})
    x = torch.zeros(2, 1, dtype=torch.float64)
    for value in (1.0, 2.0):
        cond = {"label": torch.full((2,), value, dtype=torch.float64)}
        found = dc.sample(dc.Field(denoiser, cond=cond), solver, x, mode="compile").x
        torch.testing.assert_close(found, torch.full_like(x, value * (1 - 0.75**4)))
    assert counters["stats"]["unique_graphs"] == 1


def test_a_graph_replay_without_cuda_is_refused(registry):
    process = registry.make("process", "flow")
    field = dc.Field(dc.Denoiser(net, "velocity", process=process))
    with pytest.raises(dc.IncompatibleError, match="needs the state on a CUDA device; use mode 'compile'"):
        dc.sample(field, registry.make("solver", "euler"), torch.zeros(1, 2), mode="graph")


def test_any_number_of_kinds_of_step_are_compiled_in_one_process(registry, monkeypatch):
    """The compiler gives up on a function after some recompilations; each kind of step is a function of its own."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    torch.compiler.reset()
    process, x = registry.make("process", "flow"), torch.zeros(2, 1, dtype=torch.float64)
    field = dc.Field(dc.Denoiser(net, "velocity", process=process))
    with torch._dynamo.config.patch(recompile_limit=2):
        for eta in (0.1, 0.2, 0.3, 0.4, 0.5):
            dc.sample(field, registry.make("solver", "ddim", steps=3, eta=eta), x, mode="compile")


def test_the_cost_of_a_compiled_run_is_that_of_its_graph(registry, monkeypatch):
    """Within an interval or not is computed, not branched on: the plain and the guided field are evaluated at every step."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    torch.compiler.reset()
    process = registry.make("process", "flow")
    denoiser = dc.Denoiser(lambda x, t, label: x * 0.1, "velocity", process=process, null={"label": 9})
    guidance = registry.make("guidance", {"type": "interval", "guidance": {"type": "cfg"}, "t_low": 0.2, "t_high": 0.5})
    field = dc.Field(denoiser, [guidance], cond={"label": torch.tensor([1, 2])})
    solver = registry.make("solver", "euler", steps=10, grid={"type": "uniform"})
    x = torch.ones(2, 1, dtype=torch.float64)
    eager, fast = (dc.sample(field, solver, x, mode=mode) for mode in ("eager", "compile"))
    torch.testing.assert_close(fast.x, eager.x)
    assert (eager.nfe, fast.nfe) == (10 + 4, 30)  # eager: times 0.5, 0.4, 0.3, 0.2 of the grid are inside


def test_a_run_that_draws_no_noise_at_all(registry, monkeypatch):
    """One ancestral step to clean data: the plan is stochastic, its only weight is 0."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    torch.compiler.reset()
    process, x = registry.make("process", "flow"), torch.ones(2, 1, dtype=torch.float64)
    field = dc.Field(dc.Denoiser(net, "velocity", process=process))
    solver = registry.make("solver", "ancestral", steps=1)
    eager, fast = (dc.sample(field, solver, x, mode=mode).x for mode in ("eager", "compile"))
    torch.testing.assert_close(fast, eager)


def test_a_component_that_cannot_be_a_key_is_named(registry):
    @dc.component
    class Tabled(dc.Stepper):
        """Has a table."""

        table: Any = dc.param(default=None, doc="not used")

    process = registry.make("process", "flow")
    field = dc.Field(dc.Denoiser(net, "velocity", process=process))
    with pytest.raises(dc.IncompatibleError, match=r"a field of Tabled has no hash .* run it in eager mode"):
        dc.sample(field, Tabled(table={"a"}), torch.zeros(1, 1), mode="compile")
