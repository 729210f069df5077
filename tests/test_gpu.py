"""On a CUDA device: no waiting inside the loop, graph replay equal to eager, the CPU's noise. Run with `pytest -m gpu`."""

from __future__ import annotations

import pytest
import torch

import diffcore as dc

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
REGISTRY = dc.Registry.load()
FLOW = REGISTRY.make("process", "flow")
DOUBLE = torch.float64


def replayable(entry):
    cls = REGISTRY.get("solver", entry.full_id)
    if cls.example or not issubclass(cls, dc.Stepper):
        return False
    solver = REGISTRY.make("solver", entry.full_id)
    return solver.requires <= FLOW.provides and not dc.calibrate_on(solver)


SOLVERS = [entry.full_id for entry in REGISTRY.list("solver") if replayable(entry)]


def net(x, t):
    """The velocity of N(1.5, 0.3^2) under the straight path."""
    t = t[:, None]
    variance = (1 - t) ** 2 * 0.09 + t**2
    return t * (x - (1 - t) * 1.5) / variance - ((1 - t) * 0.09 * x + t**2 * 1.5) / variance


def field():
    return dc.Field(dc.Denoiser(net, "velocity", process=FLOW))


def start(device="cuda", shift=0.0):
    return torch.linspace(-2, 2, 16, dtype=DOUBLE).reshape(8, 2).add(shift).to(device)


@pytest.fixture
def no_waiting():
    """Turns any wait for the device into an error; called once set-up is over."""
    yield lambda: torch.cuda.set_sync_debug_mode("error")
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", SOLVERS)
def test_the_loop_does_not_wait_for_the_device(name, no_waiting):
    """From the second step on: the first one comes with the plan, whose times are sent to the device."""
    solver, x = REGISTRY.make("solver", name, steps=6), start()
    with torch.no_grad():
        states = solver.states(field(), x, solver.nodes(FLOW), dc.Draw(1, range(8), device="cuda"))
        next(states)
        torch.cuda.synchronize()
        no_waiting()
        assert sum(1 for _ in states) == 5


def test_a_wait_would_be_noticed(no_waiting):
    x = start()
    no_waiting()
    with pytest.raises(RuntimeError, match="synchroniz"):
        float(x.sum())


@pytest.mark.parametrize("name", SOLVERS)
def test_graph_replay_is_eager(name):
    """The same graph serves other start states and seeds: nothing of the captured run stays in it."""
    here, solver = field(), REGISTRY.make("solver", name, steps=20)
    for shift, seed in ((0.0, 1), (1.0, 2), (0.0, 1)):
        x = start(shift=shift)
        eager, replayed = (dc.sample(here, solver, x, seed=seed, mode=mode) for mode in ("eager", "graph"))
        torch.testing.assert_close(replayed.x, eager.x, atol=1e-12, rtol=1e-12)
        assert (replayed.nfe, replayed.calls) == (eager.nfe, eager.calls)
    assert len(here.base.captured_graphs) == 1


def test_conditions_are_inputs_of_the_graph():
    denoiser = dc.Denoiser(lambda x, t, label: x - label[:, None], "velocity", process=FLOW)
    solver, x = REGISTRY.make("solver", "euler", steps=4), torch.zeros(2, 1, dtype=DOUBLE, device="cuda")
    for value in (1.0, 2.0):
        cond = {"label": torch.full((2,), value, dtype=DOUBLE, device="cuda")}
        found = dc.sample(dc.Field(denoiser, cond=cond), solver, x, mode="graph").x
        torch.testing.assert_close(found, torch.full_like(x, value * (1 - 0.75**4)))


@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_noise_is_the_noise_of_the_cpu(kind):
    draws = [dc.Draw(3, [5, 17, 2**21], index=4, device=device) for device in ("cpu", "cuda")]
    cpu, cuda = (getattr(draw, kind)((3, 8)) for draw in draws)
    assert cuda.is_cuda
    assert torch.equal(cpu, cuda.cpu())


@pytest.mark.parametrize("name", SOLVERS)
def test_samples_are_those_of_the_cpu(name):
    solver = REGISTRY.make("solver", name, steps=8)
    cpu, cuda = (dc.sample(field(), solver, start(device), seed=4).x.cpu() for device in ("cpu", "cuda"))
    torch.testing.assert_close(cuda, cpu, atol=1e-10, rtol=1e-10)
