"""The pipeline: what does not fit is told at once and in place; losses with parts of their own; states that are trees."""

from __future__ import annotations

import copy
from functools import cached_property
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

import diffcore as dc

SPEC: dict[str, Any] = {
    "diffcore": 1,
    "name": "small",
    "data": {"type": "two-moons"},
    "process": {"type": "flow"},
    "network": {"type": "mlp", "width": 8, "depth": 1},
    "loss": {"type": "denoising"},
    "trainer": {"type": "standard", "steps": 6, "batch": 16, "warmup": 0, "checkpoint_every": 3},
    "solver": {"type": "euler", "steps": 3},
    "sampling": {"n": 4},
}


@pytest.fixture
def registry():
    return dc.Registry.load()


def with_(**sections: Any) -> dict[str, Any]:
    return {**copy.deepcopy(SPEC), **sections}


BAD = """\
diffcore: 1
data: {type: two-moons}
process: {type: flow}
network: {type: mlp}
prediction: velocty
loss: {type: denoising}
solver: {type: flow-map}
guidance:
  - {type: cfg}
metrics: [{type: cost}, {type: class-accuracy}]
sampling:
  cond: {label: 3}
evaluation: {calls: [4]}
"""


def test_everything_that_does_not_fit_is_named_at_its_place(tmp_path, registry):
    file = tmp_path / "bad.yaml"
    file.write_text(BAD)
    with pytest.raises(dc.IncompatibleError) as caught:
        dc.assemble(file, registry=registry)
    found = {f.path: (f.line, f.column, f.message) for f in caught.value.faults}
    assert {path: place[:2] for path, place in found.items()} == {
        "prediction": (5, 13),
        "solver": (7, 9),
        "guidance.0": (9, 5),
        "metrics.1": (10, 25),
        "sampling.cond": (12, 9),
        "evaluation.calls": (13, 21),
    }
    assert "did you mean 'velocity'?" in found["prediction"][2]
    assert "name a flow_map (mean-flow" in found["solver"][2]
    assert "set data.conditional: true" in found["guidance.0"][2]


def test_a_solver_that_does_not_fit_is_told_which_do(registry):
    @dc.component
    class Curved(dc.Process):
        """Nothing but a velocity."""

        provides: ClassVar[frozenset[str]] = frozenset({"velocity"})
        predictions: ClassVar[tuple[str, ...]] = ("velocity",)

    @dc.component
    class Anything(dc.Stepper):
        """Needs a velocity only."""

        requires: ClassVar[frozenset[str]] = frozenset({"velocity"})

    registry.add(Curved, "curved")
    registry.add(Anything, "anything")
    with pytest.raises(dc.IncompatibleError, match=r"solver 'heun' needs 'flat'; process 'curved'.*these fit: anything"):
        dc.assemble(with_(process={"type": "curved"}, solver={"type": "heun"}), registry=registry)


def test_the_kinds_of_a_message_are_in_the_plural():
    with pytest.raises(dc.IncompatibleError, match="of the installed losses these fit: "):
        dc.assemble(with_(process={"type": "masked"}, loss={"type": "denoising"}))


@pytest.mark.parametrize("process", ["flow", "kinetic"])
def test_weights_and_samples_are_those_of_the_seed_whatever_the_default_dtype_is(process):
    def made() -> list[torch.Tensor]:
        pipeline = dc.assemble(with_(process={"type": process}))
        first = [value.clone() for value in pipeline.net.state_dict().values()]
        pipeline.train(say=lambda line: None)
        return [*first, *pipeline.net.state_dict().values(), pipeline.sample(3).x]

    plain = made()
    for dtype in (torch.float64, torch.bfloat16):
        torch.set_default_dtype(dtype)
        try:
            other = made()
        finally:
            torch.set_default_dtype(torch.float32)
        assert [value.dtype for value in other] == [value.dtype for value in plain]
        assert all(torch.equal(a, b) for a, b in zip(plain, other, strict=True))


@dc.component
class Averaged(dc.Loss):
    """Regression towards what an average of the network says, which a buffer counts."""

    decay: float = dc.param(default=0.5, doc="of the average")

    def parts(self, model, event, cond):
        return {"average": copy.deepcopy(model.net).requires_grad_(False), "counter": nn.BatchNorm1d(2, affine=False)}

    def __call__(self, model, x0, draw, **cond):
        t = 0.1 + 0.8 * draw.uniform()
        noised = model.process.corrupt(x0, t, draw.fold(1))
        there = model.with_net(model.parts["average"])(noised.xt, noised.at).mean
        here = model(noised.xt, noised.at).mean
        model.parts["counter"](here.detach())
        return ((here - there - x0) ** 2).sum(1)

    def after_step(self, model, step):
        with torch.no_grad():
            for average, weight in zip(model.parts["average"].parameters(), model.net.parameters(), strict=True):
                average.lerp_(weight, 1 - self.decay)


def test_the_parts_of_a_loss_are_trained_saved_and_resumed(tmp_path, registry):
    """Six steps at once, and three, a new process, three more: equal to the bit, averages and running buffers included."""
    registry.add(Averaged, "averaged")
    spec = with_(loss={"type": "averaged"})
    whole = dc.assemble(spec, registry=registry)
    before = copy.deepcopy(whole.parts["average"].state_dict())
    whole.train(tmp_path / "whole")
    assert any(not torch.equal(v, before[k]) for k, v in whole.parts["average"].state_dict().items())

    class StopError(Exception):
        """The process ends here."""

    def stop(report):
        if report.step == 4:
            raise StopError

    parted = dc.assemble({**spec, "trainer": {**spec["trainer"], "log_every": 1}}, registry=registry)
    with pytest.raises(StopError):
        parted.train(tmp_path / "parted", log=stop)
    again = dc.assemble(spec, registry=registry)
    again.train(tmp_path / "parted")
    for role, module in whole.parts.items():
        for key, value in module.state_dict().items():
            assert torch.equal(value, again.parts[role].state_dict()[key]), f"{role}.{key}"
    whole.save(tmp_path / "whole")
    loaded = dc.Pipeline.load(tmp_path / "whole", registry=registry)
    assert torch.equal(loaded.sample(4).x, whole.sample(4).x)
    assert int(loaded.parts["counter"].num_batches_tracked) == 6


def test_training_goes_on_for_more_steps_but_not_under_another_spec(tmp_path, registry):
    short, long = with_(), with_(trainer={**SPEC["trainer"], "steps": 9})
    dc.assemble(short, registry=registry).train(tmp_path)
    longer = dc.assemble(long, registry=registry)
    longer.train(tmp_path)
    fresh = dc.assemble(long, registry=registry)
    fresh.train()
    assert all(torch.equal(a, b) for a, b in zip(longer.net.parameters(), fresh.net.parameters(), strict=True))
    other = dc.assemble(with_(network={"type": "mlp", "width": 12, "depth": 1}), registry=registry)
    with pytest.raises(dc.CheckpointError, match=r"belongs to another spec \(network.width: 8 -> 12\)"):
        other.check_resumable(tmp_path)
    falling = dc.assemble(with_(trainer={**SPEC["trainer"], "final_lr": 1e-4}), registry=registry)
    with pytest.raises(dc.CheckpointError, match=r"trainer.final_lr: null -> 0.0001"):
        falling.train(tmp_path)


def test_overrides_cannot_contradict_the_weights(tmp_path, registry):
    file = dc.assemble(with_(), registry=registry).save(tmp_path)
    assert dc.Pipeline.load(file, registry=registry, overrides=["solver.steps=9"]).spec.solver.steps == 9
    with pytest.raises(dc.SpecError, match=r"prediction: \"velocity\" -> \"x0\"; sigma_data: 0.5 -> 3.0"):
        dc.Pipeline.load(file, registry=registry, overrides=["prediction=x0", "sigma_data=3"])
    with pytest.raises(dc.SpecError, match=r"attrs\.evolve"):
        dc.assemble(dc.assemble(with_(), registry=registry).spec, registry=registry, overrides=["solver.steps=9"])


def test_files_that_are_not_weights_are_told_apart(tmp_path, registry):
    dc.assemble(with_(), registry=registry).sample(2).save(tmp_path / "samples.safetensors")
    with pytest.raises(dc.CheckpointError, match="holds no weights of a run"):
        dc.Pipeline.load(tmp_path / "samples.safetensors", registry=registry)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("foo", "no device 'foo'"),
        ("meta", "cannot compute"),
        ("cuda:99", "not there"),
        ("cpu:7", "sees 1 cpu device$"),
        ("xpu:64", "not there"),
        ("mps:3", "not there"),
    ],
)
def test_devices_that_are_not_there_are_refused(name, message, registry):
    with pytest.raises(dc.SpecError, match=message):
        dc.assemble(with_(), registry=registry, device=name)


def test_a_class_is_an_integer(registry):
    pipeline = dc.assemble(with_(data={"type": "eight-gaussians", "conditional": True}), registry=registry)
    with pytest.raises(dc.SpecError, match=r"condition 'label' is a class, an integer of 0 to 7; got 3\.7"):
        pipeline.sample(2, cond={"label": 3.7})


def test_solvers_are_measured_with_their_own_steps_where_no_budget_is_named(registry):
    """Rows are told apart by their fields, and two metrics of one name by theirs."""
    spec = with_(
        evaluation={"n": 8, "solvers": [{"type": "ddim", "steps": 2}, {"type": "ddim", "steps": 5, "eta": 1.0}]},
        metrics=[{"type": "sliced-wasserstein", "projections": 8}, {"type": "sliced-wasserstein", "projections": 16}],
    )
    rows = dc.assemble(spec, registry=registry).evaluate()
    assert [(r["label"], r["steps"], r["calls"]) for r in rows] == [("euler", 3, 3), ("ddim", 2, 2), ("ddim(eta=1)", 5, 5)]
    assert all(len([m for m in r["metrics"] if m.startswith("SW2")]) == 2 for r in rows)


def test_a_solver_named_twice_is_sampled_once(registry):
    """The main solver is often a row of the comparison too: it costs nothing there, and has the row's budget."""
    spec = with_(evaluation={"n": 8, "solvers": [{"type": "euler"}, {"type": "heun"}], "calls": [3, 6]})
    made = []
    rows = dc.assemble(spec, registry=registry).evaluate(done=lambda row, samples: made.append(samples))
    assert [(r["label"], r["steps"], r["budget"]) for r in rows] == [
        ("euler", 3, None), ("euler", 3, 3), ("euler", 6, 6), ("heun", 2, 3), ("heun", 3, 6),
    ]  # fmt: skip
    assert len({id(samples) for samples in made}) == 4
    assert made[0] is made[1]
    assert rows[0]["metrics"] == rows[1]["metrics"]


@dc.component
class Pairs(dc.Data):
    """States that are dicts: a position and a velocity."""

    event: ClassVar[Any] = {"x": (2,), "v": (3,)}
    size: ClassVar[None] = None
    classes: ClassVar[dict[str, int]] = {}

    def open(self):
        return self

    def batch(self, ids):
        draw = dc.Draw(0, ids)
        return {"x": draw.normal((2,)), "v": draw.fold(1).normal((3,))}, {}


@dc.component
class Together(dc.AffineProcess):
    """The straight path for every leaf."""

    def coeffs(self, t):
        one = torch.ones_like(t)
        return dc.Coeffs(t, 1 - t, t, -one, one)


@dc.component
class Joint(dc.Network):
    """One linear map of both leaves."""

    def build(self, event, cond, outputs=None):
        class Net(nn.Module):
            """(x, v) -> (x, v)."""

            def __init__(self):
                super().__init__()
                self.map = nn.Linear(5, 5)

            def forward(self, x, t, s=None):
                out = self.map(torch.cat([x["x"], x["v"]], 1))
                return {"x": out[:, :2], "v": out[:, 2:]}

        return Net()


def test_a_state_that_is_a_tree_is_trained_and_sampled_from_a_spec(registry):
    registry.add(Pairs, "pairs")
    registry.add(Together, "together")
    registry.add(Joint, "joint")
    spec = with_(data={"type": "pairs"}, process={"type": "together"}, network={"type": "joint"})
    pipeline = dc.assemble(spec, registry=registry)
    pipeline.train()
    whole = pipeline.sample(5).x
    parted = pipeline.sample(5, batch=2).x
    assert {k: tuple(v.shape) for k, v in whole.items()} == {"x": (5, 2), "v": (5, 3)}
    assert all(torch.allclose(whole[k], parted[k]) for k in whole)


@dc.component
class Words(dc.Data):
    """Two real numbers per sample, whose signs are its letters."""

    event: ClassVar[tuple[int, ...]] = (2,)
    size: ClassVar[None] = None
    classes: ClassVar[dict[str, int]] = {}

    def open(self):
        return self

    def batch(self, ids):
        return dc.Draw(0, ids).normal((2,)), {}

    def texts(self, raw):
        return ["".join("ab"[int(v > 0)] for v in row) for row in raw.tolist()]


def test_samples_that_are_text_are_shown_as_text(tmp_path, registry):
    from diffcore.run import runs

    registry.add(Words, "words")
    folder = runs.run(with_(data={"type": "words"}), tmp_path / "run", registry=registry)
    lines = (folder / "samples" / "samples.txt").read_text().splitlines()
    assert len(lines) == 4
    assert set("".join(lines)) <= {"a", "b"}
    page = (folder / "report.html").read_text()
    assert "\n".join(lines) in page
    assert "\n".join((folder / "samples" / "reference.txt").read_text().splitlines()) in page


@dc.component
class Learned(dc.AffineProcess):
    """sigma = t, alpha = 1 - t, beside a parameter that is drawn when it is built and has no influence."""

    def build(self):
        class Module(nn.Module, dc.AffineProcess):
            """With a random parameter."""

            def __init__(self):
                super().__init__()
                self.w = nn.Parameter(torch.randn(3))

            def coeffs(self, t):
                one = torch.ones_like(t)
                return dc.Coeffs(t, 1 - t, t, -one, one)

        return Module()


@dc.component
class Critic(dc.Loss):
    """Beside the network a critic with random first weights that nobody trains."""

    def parts(self, model, event, cond):
        return {"critic": nn.Linear(2, 1)}

    def __call__(self, model, x0, draw, **cond):
        noised = model.process.corrupt(x0, 0.1 + 0.8 * draw.uniform(), draw.fold(1))
        return (model(noised.xt, noised.at).mean - x0).square().sum(1) + 0 * model.parts["critic"](x0)[:, 0]


@dc.component
class NetworkOnly(dc.Trainer):
    """Trains the network alone."""

    def players(self, parts):
        return [self.player("model", dict(parts["network"].named_parameters()))]


def test_all_first_weights_come_from_the_seed_and_the_global_generator_rests(registry):
    registry.add(Learned, "learned")
    registry.add(Critic, "critic")
    spec = with_(process={"type": "learned"}, loss={"type": "critic"})
    made = []
    for state in (1, 2):
        torch.manual_seed(state)
        before = torch.get_rng_state()
        made.append(dc.assemble(spec, registry=registry))
        assert torch.equal(torch.get_rng_state(), before)
    other = dc.assemble({**spec, "seed": 5}, registry=registry)
    for role in ("network", "process", "critic"):
        a, b, c = (torch.cat([p.detach().flatten() for p in m.parts[role].parameters()]) for m in (*made, other))
        assert torch.equal(a, b), role
        assert not torch.equal(a, c), role


def test_trainable_weights_of_no_player_are_resumed(tmp_path, registry):
    registry.add(Critic, "critic")
    registry.add(NetworkOnly, "network-only")
    spec = with_(loss={"type": "critic"}, trainer={**SPEC["trainer"], "type": "network-only"})
    first = dc.assemble(spec, registry=registry)
    first.train(tmp_path)
    again = dc.assemble(spec, registry=registry)
    with torch.no_grad():
        again.parts["critic"].weight.zero_()
    again.train(tmp_path)
    assert torch.equal(again.parts["critic"].weight, first.parts["critic"].weight)


@dc.component
class Doubled(dc.Data):
    """Points that the network sees through a module of the data: a codec with one number."""

    base: dc.Data = dc.param(doc="the points")
    number: float = dc.param(default=2.0, doc="what the module is made with")

    @cached_property
    def module(self):
        module = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.constant_(module.weight, self.number)
        return module

    def open(self):
        return self.base.open()

    def parts(self):
        return {"codec": self.module}

    def encode(self, raw):
        return self.base.encode(raw) * self.module.weight

    def decode(self, x):
        return self.base.decode(x / self.module.weight)


def test_modules_of_the_data_are_saved_and_not_trained(registry, tmp_path):
    """A loaded run decodes by the codec it was trained with, whatever the data would make today."""
    registry.add(Doubled)
    spec = with_(data={"type": "doubled", "base": {"type": "two-moons"}, "number": 3.0})
    pipeline = dc.assemble(spec, registry=registry)
    pipeline.train(tmp_path)
    assert float(pipeline.codec["codec"].weight) == 3.0
    with torch.no_grad():
        pipeline.codec["codec"].weight.fill_(5.0)
    pipeline.save(tmp_path)
    made = pipeline.sample(3)
    loaded = dc.Pipeline.load(tmp_path, registry=registry)
    assert float(loaded.spec.data.module.weight.detach()) == 5.0
    assert torch.equal(loaded.sample(3).raw(), made.raw())
    torch.testing.assert_close(made.raw() * 5, made.x)


def test_a_trained_run_samples_without_its_data(tmp_path, registry, monkeypatch):
    """Shape and classes are saved with the weights; what compares with data says how to get it."""
    spec = with_(metrics=[{"type": "sliced-wasserstein"}], evaluation={"n": 8})
    pipeline = dc.assemble(spec, registry=registry)
    pipeline.save(tmp_path)
    want = pipeline.sample(4, 0).x

    def absent(self):
        raise dc.DataError("two-moons is not here: fetch it")

    monkeypatch.setattr(type(pipeline.spec.data), "open", absent)
    loaded = dc.Pipeline.load(tmp_path, registry=registry)
    assert torch.equal(loaded.sample(4, 0).x, want)
    assert loaded.source.classes == pipeline.source.classes
    monkeypatch.setattr(dc.Pipeline, "sample", lambda *args, **more: pytest.fail("sampled before the data was asked for"))
    with pytest.raises(dc.DataError, match="fetch it"):
        loaded.evaluate()
    with pytest.raises(dc.DataError, match="fetch it"):
        dc.assemble(spec, registry=registry)


@dc.component
class TwoLabels(dc.Data):
    """Points with two conditions, of 2 and 4 classes."""

    def open(self):
        return self

    event: ClassVar[tuple[int, ...]] = (2,)
    size: ClassVar[int | None] = None
    classes: ClassVar[dict[str, int]] = {"colour": 2, "form": 4}

    def batch(self, ids):
        return torch.zeros(len(ids), 2), {"colour": ids % 2, "form": ids % 4}


def test_all_combinations_of_several_conditions_come_in_turn(registry):
    pipeline = dc.assemble(with_(), registry=registry)
    pipeline.source = TwoLabels()
    cond = pipeline.conditions(8, {})
    assert len(set(zip(cond["colour"].tolist(), cond["form"].tolist(), strict=True))) == 8
    fixed = pipeline.conditions(4, {"colour": 1})
    assert fixed["colour"].tolist() == [1] * 4
    assert sorted(fixed["form"].tolist()) == [0, 1, 2, 3]
