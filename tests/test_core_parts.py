"""The user's own parts: networks, sources, conditions and arguments that are not what the examples have."""

from __future__ import annotations

import copy
import functools
import pickle
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.data import IterableDataset, TensorDataset

import diffcore as dc
from diffcore.numerics.runtime import _kept  # pyright: ignore[reportPrivateUsage]
from diffcore.testing import Gaussian, ReferenceFlow, ReferenceVP

VP, FLOW = ReferenceVP(), ReferenceFlow()
REGISTRY = dc.Registry.load()
SOLVERS = ("euler", "ddim", "heun", "dpmpp-2m", "dpmpp-3m", "ancestral", "unipc", "rk4", "deis")
torch.manual_seed(0)
HEAD = nn.Linear(4, 4)


def start(n=3, size=4, seed=0):
    return torch.randn(n, size, generator=torch.Generator().manual_seed(seed))


def drawn(net, solver="dpmpp-2m", process=VP, x=None, cond=None, prediction="eps", **kwargs):
    field = dc.Field(dc.Denoiser(net, prediction, process), cond=cond)
    made = REGISTRY.make("solver", solver, steps=5)
    with torch.no_grad():
        return dc.sample(field, made, start() if x is None else x, **kwargs).x


# --- nothing is shared with a network for writing -------------------------------------------------------------------------


def clean(x, t):
    return HEAD(x.relu())


def in_place(x, t):
    return HEAD(x.relu_())


def through_data(x, t):
    x.data.clamp_(min=0)
    return HEAD(x)


def in_place_view(x, t):
    x[:, :2].relu_()
    return HEAD(x.relu())


def without_effect(x, t):
    return HEAD(x.clamp_(-1, 1) if t[0] < 0.9 else x.clamp_(-99, 99))


class Buffer(nn.Module):
    """Writes every output to the same memory."""

    def __init__(self, view=False):
        super().__init__()
        self.view, self.out = view, {}

    def forward(self, x, t):
        out = self.out.setdefault(tuple(x.shape), torch.empty_like(x))
        out.copy_(clean(x, t).detach())
        return out[:] if self.view else out


class Ring(nn.Module):
    """Writes its outputs to a few buffers in turn."""

    def __init__(self, count, view=False):
        super().__init__()
        self.outs, self.view = [torch.empty(3, 4) for _ in range(count)], view

    def forward(self, x, t):
        self.outs.append(self.outs.pop(0))
        out = self.outs[-1].copy_(clean(x, t).detach())
        return out[:] if self.view else out


class Clears(nn.Module):
    """Clears what it returned last when it is called again."""

    last = None

    def forward(self, x, t):
        if self.last is not None:
            self.last.zero_()
        self.last = clean(x, t).detach()
        return self.last


@pytest.mark.parametrize("net", [lambda: Ring(2), lambda: Ring(3), lambda: Ring(4, view=True), Clears])
@pytest.mark.parametrize("solver", [*SOLVERS, "dpm-solver-3", "exp-adams"])
def test_nor_does_what_it_does_to_its_earlier_outputs(net, solver):
    torch.testing.assert_close(drawn(net(), solver), drawn(clean, solver))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("net", [in_place, through_data, in_place_view, Buffer(), Buffer(view=True)])
def test_what_a_network_does_to_its_tensors_does_not_reach_the_samples(net, solver):
    x = start()
    kept = x.clone()
    torch.testing.assert_close(drawn(net, solver, x=x), drawn(clean, solver))
    assert torch.equal(x, kept)


def test_a_network_whose_first_write_has_no_effect_is_handed_copies_too():
    x = start()
    torch.testing.assert_close(drawn(without_effect, x=x), drawn(lambda x, t: HEAD(x.clamp(-1, 1) if t[0] < 0.9 else x)))
    assert torch.equal(x, start())


def test_nor_where_the_loop_is_compiled(monkeypatch):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    net, x = Buffer(), start()
    net.forward = lambda x, t: Buffer.forward(net, x.relu_(), t)
    torch.testing.assert_close(drawn(net, x=x, mode="compile"), drawn(clean), rtol=1e-4, atol=1e-5)
    assert torch.equal(x, start())


@pytest.mark.parametrize("returns", [lambda x, t: x, lambda x, t: x[:], lambda x, t: x.mul_(1.0)])
@pytest.mark.parametrize("solver", ["dpmpp-2m", "dpmpp-3m", "unipc"])
def test_a_network_may_return_its_input(returns, solver):
    """In buffers that are written to again, too, which large states have."""
    for size in (4, 2**14):
        found, wanted = (drawn(net, solver, x=start(3, size), prediction="x0") for net in (returns, lambda x, t: x.clone()))
        assert torch.equal(found, wanted)


def test_conditions_and_inference_tensors_are_not_shared_either():
    cond = {"y": start(3, 4, seed=1)}

    def greedy(x, t, y):
        return HEAD(x.add_(y.mul_(2)))

    def fair(x, t, y):
        return HEAD(x + 2 * y)

    wanted = drawn(fair, cond=cond)
    assert torch.equal(drawn(greedy, cond=cond), wanted)
    assert torch.equal(cond["y"], start(3, 4, seed=1))
    with torch.inference_mode():
        assert torch.equal(drawn(greedy, cond=cond), wanted)
        torch.testing.assert_close(drawn(in_place), drawn(clean))


def test_a_training_network_may_write_to_its_input():
    loss, x0 = REGISTRY.make("loss", "denoising"), start(8)
    values = [loss(dc.Denoiser(net, "v", FLOW), x0, dc.Draw(0, range(8))) for net in (in_place, clean)]
    torch.testing.assert_close(*values)


@pytest.mark.parametrize("call", [2, 5])
@pytest.mark.parametrize("name", ["x", "t", "y"])
def test_a_network_that_writes_in_later_calls_only_is_refused(name, call):
    calls = []

    def moody(x, t, y=None):
        calls.append(1)
        if len(calls) == call:
            {"x": x, "t": t, "y": y}[name].mul_(0.5)
        return HEAD(x)

    message = r"write `t = 1000 \* t`" if name == "t" else f"network moody changed its input '{name}' in place.*{name}.clone"
    with pytest.raises(dc.DataError, match=message):
        drawn(moody, "euler", cond={"y": start(3, 4, seed=1)} if name == "y" else None)
    assert len(calls) == call


@pytest.mark.parametrize("returns", [lambda x, t: x, lambda x, t: x[:], lambda x, t: x if t[0] < 0.5 else x.clone()])
def test_an_output_never_lies_where_the_input_does(returns):
    denoiser, x = dc.Denoiser(returns, "x0", VP), start()
    for t in (0.9, 0.6, 0.3):
        assert denoiser.network(x, denoiser.point(t, x)).untyped_storage().data_ptr() != x.untyped_storage().data_ptr()


def test_a_time_that_was_written_to_does_not_stay_in_a_plan():
    def spoils(x, t):
        if t[0] < 0.5:
            t.mul_(1000)
        return HEAD(x) * t[:, None]

    wanted = drawn(lambda x, t: HEAD(x) * t[:, None], "euler")
    with pytest.raises(dc.DataError, match=r"write `t = 1000 \* t`"):
        drawn(spoils, "euler")
    assert torch.equal(drawn(lambda x, t: HEAD(x) * t[:, None], "euler"), wanted)
    t = torch.full((3,), 0.7, dtype=torch.float64)
    with pytest.raises(dc.DataError, match=r"write `t = 1000 \* t`"):
        dc.Denoiser(lambda x, t: x * t.mul_(2)[:, None], "eps", VP)(start().double(), t)
    assert float(t[0]) == 0.7


# --- what a network returns ---------------------------------------------------------------------------------------------


class Forgets(nn.Module):
    def forward(self, x, t):
        HEAD(x)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (Forgets(), r"network Forgets returned None \(is a `return` missing\?\); it must return one tensor, 'eps' of x"),
        (lambda x, t: (x,), "returned a tuple of 1"),
        (lambda x, t: {"sample": x}, "returned a dict of 'sample'"),
        (lambda x, t: x.numpy(), "returned a ndarray"),
        (lambda x, t: 0.0, "returned a float"),
        (lambda x, t: x[:, :2], r"returned shape \(3, 2\) for a state of shape \(3, 4\)"),
        (lambda x, t: x[:1], r"returned shape \(1, 4\)"),
        (lambda x, t: x.round().long(), "returned int64; 'eps' is real numbers"),
        (lambda x, t: x + 0j, "returned complex64"),
        (lambda x, t: x > 0, "returned bool"),
        (lambda x, t, label: x, r"called as net\(x, t\), and cannot be: missing a required argument: 'label'"),
        (lambda x: x, "cannot be: too many positional arguments"),
    ],
)
def test_an_output_that_cannot_be_read_is_refused_at_the_first_call(net, message):
    with pytest.raises(dc.DataError, match=message):
        drawn(net)


def test_a_shape_that_fits_one_sample_by_chance_is_refused_for_more():
    denoiser = dc.Denoiser(lambda x, t: x[:1], "eps", VP)
    denoiser(start(1), 0.5)
    with pytest.raises(dc.DataError, match=r"returned shape \(1, 4\)"):
        denoiser(start(3), 0.5)


def test_nan_is_blamed_on_the_network_with_its_time():
    with pytest.raises(dc.NumericsError, match=r"lambda returned NaN or Inf for every sample at its first call, at t = 1"):
        drawn(lambda x, t: x / 0)
    with pytest.raises(dc.NumericsError, match=r"after step 2 .*; the network returned it, in one of its first 2 calls"):
        drawn(lambda x, t: torch.where(t[:, None] < 0.7, torch.nan, x), "euler")
    with pytest.raises(dc.NumericsError, match="the start state holds NaN"):
        drawn(clean, x=torch.full((3, 4), torch.nan))


def test_an_object_with_the_output_as_its_sample_is_read():
    assert torch.equal(drawn(lambda x, t: SimpleNamespace(sample=clean(x, t))), drawn(clean))


# --- precision ------------------------------------------------------------------------------------------------------------


class Embeds(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.embed, self.body = nn.Linear(1, 4), nn.Linear(4, 4)

    def forward(self, x, t):
        return self.body(x + self.embed(t[:, None]))


@pytest.mark.parametrize("net", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("state", [torch.float32, torch.float64, torch.bfloat16])
def test_x_and_t_have_the_precision_of_the_network(net, state):
    exact = drawn(Embeds().double(), x=start().double())
    found = drawn(Embeds().to(net), x=start().to(state))
    assert found.dtype == state
    half = torch.bfloat16 in (net, state) or net == torch.float16
    assert float((found - exact).abs().max() / exact.abs().max()) < (0.1 if half else 1e-5)


def test_several_precisions_are_a_clear_line():
    net = Embeds()
    net.embed.bfloat16()
    with pytest.raises(dc.DataError, match=r"Embeds has parameters of bfloat16 and float32, was given x and t of float32"):
        drawn(net)


# --- how a network is read ------------------------------------------------------------------------------------------------


def test_a_prediction_must_be_named():
    with pytest.raises(dc.IncompatibleError, match=r"must be told what the network predicts.*reads x0, eps, score"):
        dc.Denoiser(clean, process=VP)


def test_every_network_of_a_run_is_counted():
    """A teacher read as the network is, and one read in another way."""
    denoiser = dc.Denoiser(clean, "eps", VP)
    with dc.Meter() as meter:
        denoiser(start(), 0.5)
        with dc.Meter() as inner:
            denoiser.with_net(lambda x, t: x)(start(), 0.5)
        dc.Denoiser(clean, "x0", VP)(start(), 0.5)
    denoiser(start(), 0.5)
    assert (meter.calls, meter.rows, inner.calls) == (3, 9, 1)


def test_the_calls_of_autoguidance_are_all_counted():
    class Auto(dc.Guidance):
        def denoiser(self, denoiser):
            bad = dc.Denoiser(lambda x, t: 0 * x, "eps", VP)

            def guide(inner, x, t, **cond):
                a, b = inner(x, t, **cond), bad(x, t, **cond)
                return a.replace("x0", dc.lincomb((2, a.mean), (-1, b.mean)))

            return dc.Guided(denoiser, guide)

    field = dc.Field(dc.Denoiser(clean, "eps", VP), [Auto()])
    for keep in (False, True):
        result = dc.sample(field, REGISTRY.make("solver", "euler", steps=5), start(), keep_frames=keep)
        assert (result.calls, result.nfe) == (10, 10.0)
    assert [frame.calls for frame in result.frames] == [0, 2, 4, 6, 8, 10]


def moons(**more):
    return {
        "data": {"type": "two-moons"},
        "process": {"type": "flow"},
        "network": {"type": "mlp", "width": 8, "depth": 1},
        "loss": {"type": "denoising"},
        "trainer": {"type": "standard", "steps": 2, "batch": 8},
        "solver": {"type": "heun", "steps": 3},
        **more,
    }


def test_a_network_of_a_pipeline_is_read_as_it_was_made():
    """Its input is scaled, its time embedded, and its prediction known."""
    pipeline = dc.assemble(moons(prediction="v", sigma_data=0.7, process={"type": "vp"}))
    x = start(3, 2)
    wanted = pipeline.denoiser(x, 0.4).mean
    for net in (pipeline.net, copy.deepcopy(pipeline.net)):
        assert torch.equal(dc.Denoiser(net, process=pipeline.process)(x, 0.4).mean, wanted)
    assert torch.equal(dc.Denoiser(pipeline.net, "v", pipeline.process)(x, 0.4).mean, wanted)
    for wrong in ("eps", dc.Reading("v"), dc.Reading("v", "feature", "unit", sigma_data=0.5)):
        with pytest.raises(dc.IncompatibleError, match="made by a pipeline to be read as Reading"):
            dc.Denoiser(pipeline.net, wrong, pipeline.process)


def shake(net):
    """Weights that are not those of the start, which may be zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))


def test_sampling_in_another_precision():
    """float64 is the run of the network in float64; bfloat16 is that of the network alone, on a float32 state."""
    made = {dtype: dc.assemble(moons(sampling={"dtype": dtype})) for dtype in ("float32", "float64", "bfloat16")}
    for pipeline in made.values():
        shake(pipeline.net)
    found = {dtype: pipeline.sample(6).x for dtype, pipeline in made.items()}
    assert {dtype: x.dtype for dtype, x in found.items()} == {
        "float32": torch.float32,
        "float64": torch.float64,
        "bfloat16": torch.float32,
    }
    pipeline = made["float32"]
    pipeline.net.double()
    noise = pipeline.process.prior((2,), dc.Draw(0, range(6), salt=0x5A3)).double()
    truth = dc.sample(pipeline.field(), pipeline.spec.solver, noise).x
    torch.testing.assert_close(found["float64"], truth, rtol=1e-13, atol=1e-13)
    errors = {dtype: float((x - truth).abs().max()) for dtype, x in found.items()}
    assert 1e-9 < errors["float32"] < 1e-5 < errors["bfloat16"] < 0.2
    assert next(made["float64"].net.parameters()).dtype == torch.float32
    before = made["float64"].sample(6).x
    with torch.no_grad():
        next(made["float64"].net.parameters()).mul_(2)
    assert not torch.equal(made["float64"].sample(6).x, before)


# --- plans are shared, everything pickles ------------------------------------------------------------------------------------


def test_fields_of_the_same_process_share_plans_and_those_of_others_do_not():
    seen = []

    def net(x, t):
        seen.append((t.data_ptr(), float(t[0]), t.dtype))
        return HEAD(x)

    runs = []
    for denoiser in (
        dc.Denoiser(net, "v", VP),
        dc.Denoiser(net, "eps", VP),
        dc.Denoiser(net, dc.Reading("v", "feature", "unit"), VP),
    ):
        seen.clear()
        dc.sample(dc.Field(denoiser), REGISTRY.make("solver", "euler", steps=7), start(5))
        runs.append(list(seen)[1:])
    assert runs[0] == runs[1] != runs[2]
    drawn(lambda x, t: (seen.append(float(t[0])), HEAD(x))[1], "euler", FLOW, prediction="v")
    assert seen[-5:] == pytest.approx(FLOW.default_grid(5, 1.0)[:-1].tolist())


def test_a_grid_that_a_user_changes_is_his_own():
    field, solver = DATA.field(VP), REGISTRY.make("solver", "euler", steps=4)
    first = dc.sample(field, solver, start(3, 2))
    first.grid.zero_()
    assert torch.equal(dc.sample(field, solver, start(3, 2)).x, first.x)


DATA = Gaussian([0.5, -0.2], 0.8)


def test_everything_pickles_and_copies_at_any_time():
    pipeline = dc.assemble(moons(solver={"type": "dpmpp-2m", "steps": 3}))
    plan = pipeline.spec.solver.plan(pipeline.process, torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64))
    shake(pipeline.net)
    for change in (lambda: None, pipeline.train):
        change()
        samples = pipeline.sample(4)
        field = pipeline.field()
        _kept(field).get("a key", lambda: lambda: "a graph")
        result = dc.sample(field, pipeline.spec.solver, start(3, 2), keep_frames=True)
        things = [pipeline, samples, field, pipeline.denoiser, result, plan, plan.rows(field, start(3, 2))]
        for again in (*map(copy.deepcopy, things[:2]), *(pickle.loads(pickle.dumps(thing)) for thing in things[:2])):
            twin = getattr(again, "pipeline", again)
            assert torch.equal(twin.sample(4).x, samples.x)
        for thing in things[2:]:
            assert type(pickle.loads(pickle.dumps(copy.deepcopy(thing)))) is type(thing)


# --- sources ----------------------------------------------------------------------------------------------------------------


class Own:
    """A source of pairs; whatever is given replaces what is sound."""

    def __init__(self, batch=None, **changes):
        self.event, self.size, self.classes = (2,), 32, {}
        self.y = start(32, 3)
        self.give = batch or (lambda ids: (self.y[ids, :2], {"y": self.y[ids]}))
        self.__dict__.update(changes)

    def batch(self, ids):
        return self.give(ids)


class Conditional(nn.Module):
    def __init__(self, null=True):
        super().__init__()
        self.body = nn.Linear(6, 2)
        self.null_cond = {"y": torch.zeros(3)} if null else {}

    def forward(self, x, t, y):
        return self.body(torch.cat([x, t[:, None], y], 1))


def own_registry(source, net=Conditional):
    registry = dc.Registry.load()

    @registry.add
    @dc.component
    class OwnData(dc.Data):
        """Whatever was given."""

        def open(self):
            return source() if callable(source) else source

    @registry.add
    @dc.component
    class OwnNet(dc.Network):
        """Whatever was given."""

        def build(self, event, cond, outputs=None):
            torch.manual_seed(0)
            return net()

    return registry


def own(source, net=Conditional, **more):
    return dc.assemble(moons(data={"type": "own-data"}, network={"type": "own-net"}, **more), registry=own_registry(source, net))


class Stream(IterableDataset):
    def __iter__(self):
        yield torch.zeros(2)


class LongStream(Stream):
    def __len__(self):
        return 32


class Short(torch.utils.data.Dataset):
    def __len__(self):
        return 20

    def __getitem__(self, i):
        if i > 8:
            raise IndexError("no more")
        return torch.zeros(2), 0


def labelled(label):
    return lambda ids: (torch.zeros(len(ids), 2), {"label": label(ids)})


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "opens no source: None has no 'event'; a source has 'event'.*a torch Dataset"),
        (Stream(), "a Stream has no 'event'"),
        ({"x": torch.zeros(3, 2)}, "has no 'event'"),
        (TensorDataset(torch.zeros(0, 2)), "empty data set"),
        (TensorDataset(torch.zeros(4, 2), torch.zeros(4), torch.zeros(4)), r"item 0 of .* is a tuple of Tensor, Tensor, Tensor"),
        ([SimpleNamespace(x=1)], "is a SimpleNamespace; an item is a tensor x"),
        ([1.5, 2.5], r"item 0 of .* is one number; a sample needs an axis of its own: x\[None\]"),
        ([(torch.zeros(2), "cat")], "is a tuple of Tensor, str; .*number labels that are words"),
        (
            [(torch.zeros(2), i % 2 * 7) for i in range(8)],
            "numbers in 'label' of .*: 2, from 0 to 7, and none is 1; .*without gaps",
        ),
        ([(torch.zeros(2), i % 3 + 1) for i in range(8)], "numbers in 'label' of .*: 3, from 1 to 3, and none is 0; "),
        ([(torch.zeros(2), -1)], "from -1 to -1, and none is 0; "),
        ([(torch.zeros(2), 0), torch.zeros(2)], "item 1 of .* has no 'label' that is one integer, and item 0 has"),
        (Short(), "item 9 of the 20 of .* cannot be read: IndexError: no more"),
        (LongStream(), "a LongStream has no 'event'"),
        (Own(size=1000), "has no sample of every number .*IndexError.*its size is 1000"),
        (Own(size=0), "its size is 0"),
        (Own(event=2), "its event is 2"),
        (Own(classes={"label": 0}), "its classes are"),
        (Own(lambda ids: None), "returned None; expected"),
        (Own(lambda ids: (torch.zeros(len(ids), 2), torch.zeros(len(ids)))), "returned a tuple of Tensor, Tensor"),
        (Own(lambda ids: torch.zeros(len(ids), 2).numpy()), "returned a ndarray"),
        (Own(lambda ids: torch.zeros(len(ids), 3)), r"gave samples of shape \(\d+, 3\) for \d+ samples; expected \(\d+, 2\)"),
        (Own(lambda ids: torch.zeros(1, 2)), r"shape \(1, 2\) for \d+ ids; expected one row per id"),
        (Own(lambda ids: torch.full((len(ids), 2), torch.nan)), "NaN or Inf"),
        (Own(lambda ids: (torch.zeros(len(ids), 2), {"y": torch.full((len(ids), 1), torch.inf)})), "gave y with NaN or Inf"),
        (Own(lambda ids: torch.zeros(len(ids), 2) + 0j), "complex64"),
        (Own(classes={"label": 3}, batch=lambda ids: torch.zeros(len(ids), 2)), r"'label' as None for \d+ ids"),
        (Own(classes={"label": 3}, batch=labelled(lambda ids: ids)), "classes . to .. of 'label'; expected 0 to 2"),
        (Own(classes={"label": 3}, batch=labelled(lambda ids: ids % 3 + 1)), "classes . to 3 of 'label'; expected 0 to 2"),
        (Own(classes={"label": 3}, batch=labelled(lambda ids: ids / 9)), "'label' as torch.float32"),
        (Own(classes={"label": 3}, batch=labelled(lambda ids: ids[:2] * 0)), r"as shape \(2,\) for \d+ ids"),
    ],
)
def test_a_source_that_is_none_is_one_line(source, message):
    with pytest.raises((dc.DataError, dc.IncompatibleError), match=message):
        own(source, lambda: Labelled(3)).train()


class Labelled(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.body, self.table, self.null_cond = nn.Linear(2, 2), nn.Embedding(classes + 1, 2), {"label": classes}

    def forward(self, x, t, label=None):
        return self.body(x) + (0 if label is None else self.table(label))


class Items(torch.utils.data.Dataset):
    """x as float64, labels as they are."""

    def __init__(self, wrap, classes=None):
        self.wrap = wrap
        if classes:
            self.classes = classes

    def __len__(self):
        return 12

    def __getitem__(self, i):
        return self.wrap(torch.full((2,), float(i), dtype=torch.float64), i % 4)


@pytest.mark.parametrize(
    ("data", "classes"),
    [
        (Items(lambda x, i: x), {}),
        (Items(lambda x, i: (x,)), {}),
        (Items(lambda x, i: (x, i)), {"label": 4}),
        (Items(lambda x, i: (x, torch.tensor(i)), ["a", "b", "c", "d", "e"]), {"label": 5}),
        (Items(lambda x, i: {"x": x.numpy(), "label": i}), {"label": 4}),
        (TensorDataset(torch.arange(12.0)[:, None].expand(12, 2)), {}),
    ],
)
def test_a_torch_data_set_is_taken_as_it_is(data, classes):
    pipeline = own(data, lambda: Labelled(classes.get("label", 1)))
    assert (pipeline.source.event, pipeline.source.size, pipeline.source.classes) == (dc.Event(2), 12, classes)
    x, cond = pipeline.source.batch(torch.tensor([5, 2]))
    assert torch.equal(x, torch.tensor([[5.0, 5.0], [2.0, 2.0]]))
    assert {k: v.tolist() for k, v in cond.items()} == {k: [1, 2] for k in classes}
    pipeline.train()
    assert pipeline.sample(3).x.shape == (3, 2)
    loader = dc.Loader(data, lambda raw: raw, 6, 0)
    assert sorted(torch.cat([loader(0)[0], loader(1)[0]])[:, 0].tolist()) == [float(i) for i in range(12)]


def test_the_attribute_classes_of_a_data_set_names_them(tmp_path):
    data = Items(lambda x, i: (x, i), ["cat", "dog", "cow", "hen"])
    pipeline = own(data, lambda: Labelled(4))
    assert pipeline.sample(2, cond={"label": "cow"}).cond["label"].tolist() == [2, 2]
    again = dc.Pipeline.load(pipeline.save(tmp_path), registry=own_registry(gone, lambda: Labelled(4)))
    assert again.sample(2, cond={"label": "cow"}).cond["label"].tolist() == [2, 2]


# --- conditions that are no classes -------------------------------------------------------------------------------------------


def test_a_vector_condition_goes_all_the_way(tmp_path):
    pipeline = own(Own, metrics=[{"type": "sliced-wasserstein"}], evaluation={"n": 40})
    pipeline.train()
    y = start(4, 3, seed=2)
    found = pipeline.sample(4, cond={"y": y})
    assert torch.equal(found.cond["y"], y)
    field = pipeline.field({"y": y})
    noise = pipeline.process.prior((2,), dc.Draw(0, range(4), salt=0x5A3))
    assert torch.equal(found.x, dc.sample(field, pipeline.spec.solver, noise).x)
    assert torch.equal(pipeline.sample(4, cond={"y": y[0]}).x[:1], found.x[:1])
    assert torch.equal(pipeline.sample(4, cond={"y": None}).cond["y"], torch.zeros(4, 3))
    assert len(pipeline.evaluate()) == 1
    again = dc.Pipeline.load(pipeline.save(tmp_path), registry=own_registry(gone))
    assert torch.equal(again.sample(4, cond={"y": y}).x, found.x)


def gone():
    raise dc.DataError("the data is not here")


def test_a_guidance_takes_any_condition_with_a_null_value():
    pipeline = own(Own, guidance=[{"type": "cfg", "weight": 1.0}])
    plain = own(Own)
    y = {"y": start(4, 3)}
    torch.testing.assert_close(pipeline.sample(4, cond=y).x, plain.sample(4, cond=y).x)


class Typed(nn.Module):
    """Notes the type of its condition."""

    def __init__(self):
        super().__init__()
        self.body, self.null_cond, self.seen = nn.Linear(2, 2), {}, set[torch.dtype]()

    def forward(self, x, t, y):
        self.seen.add(y.dtype)
        return self.body(x)


@pytest.mark.parametrize(
    ("values", "sound", "wrong"),
    [
        (torch.arange(32) % 5, (2, 2.0, torch.tensor(2, dtype=torch.uint8)), 2.5),
        (torch.arange(32) % 2 == 0, (True, 1, 0.0), 0.5),
        (torch.arange(32, dtype=torch.float32), (2, 2.5, True), "two"),
    ],
)
def test_a_condition_has_the_type_that_it_had_in_training(values, sound, wrong, tmp_path):
    source = Own(lambda ids: (torch.zeros(len(ids), 2), {"y": values[ids]}))
    pipeline = own(source, Typed, loss={"type": "denoising", "drop": 0.0})
    pipeline.train()
    again = dc.Pipeline.load(pipeline.save(tmp_path), registry=own_registry(gone, Typed))
    for each in (pipeline, again):
        for value in sound:
            each.sample(2, cond={"y": value})
        assert each.net.seen == {values.dtype}
        with pytest.raises(dc.SpecError, match=r"condition 'y' (is|must be)"):
            each.sample(2, cond={"y": wrong})


@pytest.mark.parametrize(
    ("cond", "message"),
    [
        ({}, r"condition 'y' is missing: give cond=\{'y': \.\.\.\}, an array of shape \(3,\), or 4 of them"),
        ({"y": torch.ones(4)}, r"must be an array of shape \(3,\), or 4 of them; got shape \(4,\)"),
        ({"y": torch.ones(5, 3)}, r"got shape \(5, 3\)"),
        ({"y": "cat"}, "got 'cat'"),
        ({"y": torch.full((3,), torch.nan)}, "NaN"),
        ({"z": torch.ones(3)}, "no condition 'z'; OwnData has: y"),
        ([1], "cond maps conditions to values"),
    ],
)
def test_a_condition_that_is_missing_or_wrong_is_one_line(cond, message):
    with pytest.raises(dc.SpecError, match=message):
        own(Own).sample(4, cond=cond)


@pytest.mark.parametrize("null", [True, False])
def test_a_null_value_that_was_never_trained_cannot_be_asked_for(null):
    pipeline = own(Own, lambda: Conditional(null=null), loss={"type": "denoising", "drop": 0.0})
    with pytest.raises(dc.SpecError, match=r"condition 'y' cannot be None: .*loss\.drop is 0.*an array of shape \(3,\)"):
        pipeline.sample(2, cond={"y": None})


def test_conditions_cannot_be_left_out_in_training_without_a_null_value():
    pipeline = own(Own, lambda: Conditional(null=False))
    with pytest.raises(dc.IncompatibleError, match=r"leaves conditions out .* no null value for 'y'.*loss\.drop: 0"):
        pipeline.train()
    own(Own, lambda: Conditional(null=False), loss={"type": "denoising", "drop": 0.0}).train()


# --- arguments ----------------------------------------------------------------------------------------------------------------

NO_INTEGER = (1.5, float("nan"), "7", True, [], {}, object(), torch.tensor(2.5), torch.ones(2), int, (i for i in ()))
NO_COUNT = (0, -1, *NO_INTEGER)
NO_MAP = (1, 1.5, "label", [1], object(), torch.ones(2))
NO_PART = (0, 1.5, "heun", [1], object(), {"a": 1}, torch.ones(2), int)


def field_of(net=clean):
    return dc.Field(dc.Denoiser(net, "eps", VP))


WRONG = [
    (dc.sample, ("steps",), NO_COUNT),
    (dc.sample, ("seed",), (None, *NO_INTEGER)),
    (dc.sample, ("ids",), (0, 1.5, "abc", {"a": 1}, [1, 2], [1, 2, "c"], [0.5, 1, 2], torch.tensor(2.5), torch.ones(3))),
    (
        dc.sample,
        ("grid",),
        ("karras", 1.0, [], [1.0], [1.0, "a"], {"a": 1}, object(), [1.0, float("nan")], [2.0, 0.0]),
    ),
    (dc.sample, ("start",), (0, -1, 1.5, float("nan"), "T", [1.0], object())),
    (dc.sample, ("solver",), (None, *NO_PART)),
    (dc.sample, ("field",), (None, *NO_PART)),
    (dc.sample, ("x",), (None, 1, "x", [], {}, object(), torch.tensor(1.0), torch.zeros(0, 4), torch.ones(3, 4) + 0j)),
    (dc.sample, ("grad",), (1, "yes", [], object())),
    (dc.sample, ("mode",), (None, 1, "fast", [])),
    (dc.Denoiser, ("net",), (None, 1, "net", [clean], nn.Linear, torch.ones(2))),
    (dc.Denoiser, ("reading",), (1, [], object(), "noise", torch.ones(2))),
    (dc.Denoiser, ("process",), (None, *NO_PART)),
    (dc.Reading, ("prediction",), (None, 1, [], object())),
    (dc.Reading, ("time",), (None, 1, "sigmas", [], object(), lambda at: at.t)),
    (dc.Reading, ("input",), (None, 1, "edm", [], object())),
    (dc.Reading, ("output",), (None, 1.5, True, [], object())),
    (dc.Reading, ("sigma_data",), (0, -1, float("nan"), float("inf"), "1", [], object())),
    (dc.Denoiser, ("null", "parts"), NO_MAP),
    (dc.Field, ("guidance",), (None, *NO_PART, [None], ["cfg"])),
    (dc.Field, ("cond",), NO_MAP),
    (dc.Field, ("flow_map",), NO_PART),
    (dc.Draw, ("seed",), (None, *NO_INTEGER)),
    (dc.Draw, ("ids",), (None, 1, 1.5, "ab", [], [1.5], {"a": 1}, torch.ones(2))),
    (dc.Draw, ("index", "block"), (-1, *NO_INTEGER)),
    (dc.Draw, ("device",), (None, "gpu", 1.5, [])),
    (dc.Loader, ("source",), (None, 0, 1.5, "heun", object(), {"a": 1}, int, torch.tensor(1.0))),
    (dc.Loader, ("encode",), (None, 1, "x")),
    (dc.Loader, ("batch", "world"), NO_COUNT),
    (dc.Loader, ("rank",), (-1, 1, *NO_INTEGER)),
    (dc.Pipeline.sample, ("n", "batch"), NO_COUNT),
    (dc.Pipeline.sample, ("seed",), NO_INTEGER),
    (dc.Pipeline.sample, ("cond",), NO_MAP),
    (dc.Pipeline.sample, ("solver",), NO_PART),
    (dc.assemble, ("registry",), NO_PART),
    (dc.assemble, ("overrides",), (None, 1, "solver.steps=3", [1], {"a": 1})),
    (dc.assemble, ("device",), ("gpu", 1.5, [], object())),
    (dc.assemble, ("spec",), (None, 1, [], object(), torch.ones(2))),
    (dc.flow_map_of, ("steps",), NO_COUNT),
]


def sound(call):
    """Arguments with which the call works."""
    return {
        dc.sample: lambda: {"field": field_of(), "solver": REGISTRY.make("solver", "heun", steps=2), "x": start()},
        dc.Denoiser: lambda: {"net": clean, "reading": "eps", "process": VP},
        dc.Reading: lambda: {"prediction": "eps"},
        dc.Field: lambda: {"denoiser": dc.Denoiser(clean, "eps", VP)},
        dc.Draw: lambda: {"seed": 0, "ids": [0, 1]},
        dc.Loader: lambda: {"source": TensorDataset(start(8)), "encode": lambda x: x, "batch": 4, "seed": 0},
        dc.Pipeline.sample: lambda: {"self": dc.assemble(moons()), "n": 2},
        dc.assemble: lambda: {"spec": moons()},
        dc.flow_map_of: lambda: {"field": field_of(), "solver": REGISTRY.make("solver", "heun", steps=2)},
    }[call]()


@pytest.mark.parametrize(("call", "names", "values"), WRONG, ids=lambda v: getattr(v, "__qualname__", None) or str(v)[:24])
def test_wrong_arguments_are_one_clear_line(call, names, values):
    arguments = sound(call)
    call(**arguments)
    for name in names:
        for value in values:
            with pytest.raises(dc.DiffcoreError) as found:
                call(**{**arguments, name: value})
            assert len(str(found.value).splitlines()) == 1, (name, value)
            assert len(str(found.value)) < 400, (name, value)


def test_a_number_that_python_cannot_write_is_refused_all_the_same():
    for name in ("steps", "start"):
        with pytest.raises(dc.SpecError, match="got an integer of 16610 bits"):
            dc.sample(**sound(dc.sample), **{name: 10**5000})


def test_integers_of_other_libraries_are_integers():
    numpy = pytest.importorskip("numpy")
    wanted = drawn(clean, "ancestral", seed=3, steps=2, ids=[4, 5, 6])
    assert torch.equal(drawn(clean, "ancestral", seed=numpy.int64(3), steps=torch.tensor(2), ids=numpy.arange(4, 7)), wanted)


def test_a_module_that_was_seen_to_be_harmless_is_not_looked_at_again():
    """By another denoiser of it; one that returns its own buffer is copied in every denoiser."""

    class Fresh(nn.Module):
        def forward(self, x, t):
            self.last = 0.5 * x
            return self.last

    class Buffered(Fresh):
        def forward(self, x, t):
            self.last = x.mul(0.5) if not hasattr(self, "last") else torch.mul(x, 0.5, out=self.last)
            return self.last

    for net, shared in ((Fresh(), True), (Buffered(), False)):
        for i in range(3):
            denoiser = dc.Denoiser(net, "eps", VP)
            found = [denoiser(start(), 0.5).value for _ in range(10)]
            assert (found[-1] is net.last) is shared
            assert torch.equal(found[0], 0.5 * start()), i
