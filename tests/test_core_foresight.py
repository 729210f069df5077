"""What a spec will not do is said when it is assembled, before anything is trained."""

import json
from itertools import combinations
from typing import ClassVar

import attrs
import numpy as np
import pytest
import torch
from click.testing import CliRunner

import diffcore as dc
from diffcore.cli import main
from diffcore.run.spec import EvaluationPlan, Sampling, Spec

REGISTRY = dc.Registry.load()
POINTS = {
    "data": {"type": "two-moons"},
    "process": {"type": "flow"},
    "network": {"type": "mlp", "width": 8, "depth": 1},
    "loss": {"type": "denoising"},
    "trainer": {"type": "standard", "steps": 2, "batch": 8},
    "solver": {"type": "euler", "steps": 2},
}
DIGITS = {**POINTS, "data": {"type": "digits-8x8"}, "network": {"type": "unet", "width": 8}}


@dc.component
class Kelvin(dc.Data):
    """Two channels of very different size, unbounded."""

    mean: float = dc.param(default=280.0, doc="mean of the second channel")
    std: float = dc.param(default=15.0, doc="deviation of the second channel")

    event, size, classes = (2, 3), 64, {}

    def open(self):
        return self

    def batch(self, ids):
        x = torch.randn(64, 2, 3, generator=torch.Generator().manual_seed(0))
        return x[ids] * torch.tensor([[0.5], [self.std]]) + torch.tensor([[0.0], [self.mean]]), {}


@dc.component
class Wide(Kelvin):
    """The same, of a range that is declared far too wide."""

    range: ClassVar[dc.Range] = dc.Range(lo=-1e8, hi=1e8)


@dc.component
class NoNumbers(dc.Process):
    """Noise for tokens only, as its `corrupt` says."""

    predictions = ("v",)
    provides = frozenset({"velocity", "flat"})

    def corrupt(self, x0, t, draw, eps=None):
        raise dc.DataError(f"NoNumbers needs tokens, not {x0.dtype}")


def registry():
    made = dc.Registry.load()
    made.add(Kelvin)
    made.add(Wide)
    made.add(Rows)
    made.add(NoNumbers)
    return made


def refusal(spec):
    with pytest.raises(dc.DiffcoreError) as found:
        dc.assemble(spec, registry=registry())
    return str(found.value)


@pytest.mark.parametrize(
    ("mean", "std", "said"),
    [
        (280.0, 15.0, "(channel 1)"),
        (0.0, 0.5, ""),
        (0.0, 1.5, ""),
        (0.0, 3.0, "(channel 1)"),
        (5.0, 0.5, "(channel 1)"),
        (1e8, 0.5, "(channel 1)"),
    ],
)
def test_data_of_another_size_than_sigma_data_is_said_with_the_remedy(mean, std, said):
    notes = dc.assemble({**POINTS, "data": {"type": "kelvin", "mean": mean, "std": std}}, registry=registry()).notes
    assert [said in note and "standardise" in note and "sigma_data is 0.5" in note for note in notes] == [True] * bool(said)


def test_a_sigma_data_of_that_size_says_nothing():
    data = {"type": "kelvin", "mean": 0.0, "std": 15.0}
    assert dc.assemble({**POINTS, "data": data, "sigma_data": 10.0}, registry=registry()).notes == ()


def test_a_range_that_is_far_too_wide_is_said():
    (note,) = dc.assemble({**POINTS, "data": {"type": "wide", "mean": 0.0}}, registry=registry()).notes
    assert "declare the range that the values have" in note


@dc.component
class Rows(dc.Data):
    """Whatever rows were given to the class."""

    x: ClassVar[torch.Tensor] = torch.zeros(2, 2)
    classes: ClassVar[dict[str, int]] = {}

    @property
    def event(self):
        return tuple(self.x.shape[1:])

    @property
    def size(self):
        return len(self.x)

    def open(self):
        return self

    def batch(self, ids):
        return self.x[ids], {}


def with_rows(monkeypatch, x):
    monkeypatch.setattr(Rows, "x", x)
    return {**POINTS, "data": {"type": "rows"}}


def drawn(n, *scales):
    return torch.randn(n, len(scales), generator=torch.Generator().manual_seed(0)) * torch.tensor(scales)


@pytest.mark.parametrize(
    ("scales", "said"), [((0.5, 1e-4, 0.5), True), ((0.5, 0.0, 0.5), False), ((0.5, 0.05), False), ((1e-4, 5e-4), False)]
)
def test_a_channel_that_is_lost_beside_another_is_said(monkeypatch, scales, said):
    notes = dc.assemble(with_rows(monkeypatch, drawn(300, *scales)), registry=registry()).notes
    assert ["channel 1 has standard deviation" in note and "scale each channel by itself" in note for note in notes] == (
        [True] if said else [False] * (scales[0] < 0.1)
    )


def test_the_size_of_sorted_data_is_seen(monkeypatch):
    x = torch.cat([drawn(300, 0.5, 0.5), drawn(3000, 1e5, 1e5)])
    (note,) = dc.assemble(with_rows(monkeypatch, x), registry=registry()).notes
    assert "networks learn badly far from it" in note


@pytest.mark.parametrize("place", [1, 150, 298])
@pytest.mark.parametrize("token", [4, -1])
def test_a_token_out_of_range_is_found_wherever_it_is(monkeypatch, place, token):
    x = torch.arange(300)[:, None].expand(300, 6) % 4
    spec = {
        **POINTS,
        "process": {"type": "masked", "values": 4},
        "network": {"type": "token-transformer", "width": 16, "depth": 1, "heads": 2},
        "prediction": "logits",
        "loss": {"type": "masked-elbo"},
        "solver": {"type": "ancestral", "steps": 3},
    }
    dc.assemble({**spec, "data": with_rows(monkeypatch, x)["data"]}, registry=registry())
    wrong = x.clone()
    wrong[place, 3] = token
    assert "data: " in refusal({**spec, "data": with_rows(monkeypatch, wrong)["data"]})


@pytest.mark.parametrize(("shape", "said"), [((8, 8, 3), True), ((3, 8, 8), False), ((3, 4, 4), False), ((1, 8, 3), False)])
def test_pictures_with_their_channels_last_are_said(monkeypatch, shape, said):
    x = 0.5 * torch.randn(20, *shape, generator=torch.Generator().manual_seed(0))
    notes = dc.assemble(with_rows(monkeypatch, x), registry=registry()).notes
    assert ["channels first: np.moveaxis(x, -1, 1)" in note for note in notes] == [True] * said


@pytest.mark.parametrize(("drop", "highest"), [(0.0, 9), (0.1, 10)])
def test_no_class_is_a_class_only_where_it_is_trained(drop, highest):
    spec = {**DIGITS, "loss": {"type": "denoising", "drop": drop}}
    pipeline = dc.assemble(spec)
    assert pipeline.conditions(2, {"label": highest})["label"].tolist() == [highest] * 2
    with pytest.raises(dc.SpecError, match="of 0 to 9 " + (r"\(10 for none\)" if drop else r".*: loss\.drop is 0")):
        pipeline.sample(2, cond={"label": highest + 1})
    if not drop:
        assert "loss.drop is 0" in refusal({**spec, "sampling": {"cond": {"label": 10}}})


def test_states_that_the_process_cannot_noise_are_refused_at_the_data():
    assert "data: NoNumbers needs tokens, not torch.float32" in refusal(
        {**POINTS, "process": {"type": "no-numbers"}, "prediction": "v"}
    )
    assert "data: VP adds Gaussian noise and needs floating-point data" in refusal(
        {**POINTS, "data": {"type": "binary-digits"}, "process": {"type": "vp"}}
    )


@pytest.mark.parametrize(("beta_max", "outcome"), [(0.2, "refused"), (2.0, "note"), (20.0, "sound")])
def test_a_schedule_that_does_not_end_in_noise(beta_max, outcome):
    """alpha_T = exp(-B / 2) with B = (0.1 + beta_max) / 2; the ratio is alpha sigma_data / sqrt(1 - alpha^2)."""
    alpha = np.exp(-(0.1 + beta_max) / 4)
    ratio = 0.5 * alpha / np.sqrt(1 - alpha**2)
    assert outcome == ("refused" if ratio > 1 else "note" if ratio > 0.25 else "sound")
    spec = {**POINTS, "process": {"type": "vp", "beta_max": beta_max}}
    if outcome == "refused":
        assert f"the signal is still {ratio:.3g} times as large as the noise" in refusal(spec)
    else:
        assert [f"{ratio:.2g}" in note for note in dc.assemble(spec).notes] == [True] * (outcome == "note")


@pytest.mark.parametrize(
    ("metric", "more", "said"),
    [
        ({"type": "sliced-wasserstein"}, {"n": 7}, "needs 8 samples"),
        ({"type": "knn-kl"}, {"n": 23}, "needs 24 samples"),
        ({"type": "frechet", "features": "mnist"}, {}, "takes images of shape (1, 28, 28)"),
        ({"type": "kl"}, {}, "needs data of known density"),
        ({"type": "fisher"}, {}, "needs data of known density"),
        ({"type": "bits-per-dim"}, {}, "needs 'tokens'"),
        ({"type": "vae-bound"}, {}, "needs 'latents'"),
        ({"type": "molecules"}, {}, "judged as text"),
        ({"type": "pf-ode-likelihood", "levels": 256}, {}, "has no range, so no levels"),
        ({"type": "outliers", "other": {"type": "digits-8x8"}}, {}, "'other' of outliers has samples of shape"),
    ],
)
def test_what_a_metric_needs_is_asked_for_before_training(metric, more, said):
    data = {"type": "kelvin", "mean": 0.0, "std": 0.5}
    text = refusal({**POINTS, "data": data, "metrics": [metric], "evaluation": {"n": 64, **more}})
    assert "metrics.0: " in text
    assert said in text


def test_repeated_real_points_are_refused_before_training():
    data = {"type": "finite-set", "points": [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [1.0, 1.0]]}
    text = refusal({**POINTS, "data": data, "metrics": [{"type": "mmd"}, {"type": "knn-kl"}], "evaluation": {"n": 64}})
    assert "metrics.0: half of all pairs of real samples coincide" in text
    assert "metrics.1: a real point is there" in text


def test_every_fault_comes_at_once():
    text = refusal({**POINTS, "process": {"type": "vp", "beta_max": 0.2}, "metrics": [{"type": "bits-per-dim"}, {"type": "kl"}]})
    assert [path in text for path in ("process: ", "metrics.0: ", "metrics.1: ")] == [True] * 3


def _without_drop(entry):
    cls = REGISTRY.get("loss", entry.full_id)
    return not (hasattr(cls, "drop") or cls.second_time or cls.predictions) and cls.requires <= {"affine", "reverse"}


@pytest.mark.parametrize("loss", [{"type": "denoising", "drop": 0.0}, {}], ids=["turned-off", "never"])
def test_guidance_away_from_what_was_never_trained(loss):
    loss = loss or {"type": next(e.id for e in REGISTRY.list("loss") if _without_drop(e))}
    spec = {**DIGITS, "process": {"type": "vp"}, "loss": loss}
    for guidance in ({"type": "cfg"}, {"type": "interval", "guidance": {"type": "cfg"}}):
        assert "needs a network also trained without its condition" in refusal({**spec, "guidance": [guidance]})
    dc.assemble({**spec, "guidance": [{"type": "cfg", "weight": 1.0}]})


def test_the_same_guidance_twice():
    twice = {**DIGITS, "guidance": [{"type": "cfg"}, {"type": "cfg", "weight": 3.0}]}
    assert "guidance.1: guidance 'cfg' is there twice" in refusal(twice)
    parts = [{"type": "interval", "guidance": {"type": "cfg"}, "t_low": low, "t_high": low + 0.4} for low in (0.0, 0.5)]
    dc.assemble({**DIGITS, "guidance": parts})


FIELDS = {"": Spec, "sampling.": Sampling, "evaluation.": EvaluationPlan, "trainer.": REGISTRY.get("trainer", "standard")}
PATHS = [f"{section}{field.alias}" for section, cls in FIELDS.items() for field in attrs.fields(cls) if field.init]


@pytest.mark.parametrize("example", ["two-moons", "flows-two-moons", "score-sde-digits"])
@pytest.mark.parametrize("value", ["{a: 1}", "[.nan]"])
def test_a_fault_in_any_field_is_said_and_nothing_else_goes_wrong(example, value):
    for path in PATHS:
        with pytest.raises(dc.SpecError, match=path.partition(".")[0]):
            dc.assemble(f"examples/{example}.yaml", registry=REGISTRY, overrides=[f"{path}={value}"])


@pytest.mark.parametrize("value", ["-1", "0", "abc", ".inf", "null", "[1]"])
def test_a_faulty_sigma_data_or_seed_is_a_fault_of_its_own(value):
    for path in ("sigma_data", "seed", "evaluation.seed"):
        if value != "0" or path == "sigma_data":
            with pytest.raises(dc.SpecError, match=rf"{path}: ") as found:
                dc.assemble("examples/two-moons.yaml", registry=REGISTRY, overrides=[f"{path}={value}"])
            assert len(str(found.value).splitlines()) == 1


def test_two_faults_are_both_said():
    sections = [path for path in PATHS if "." not in path]
    for pair in combinations(sections, 2):
        with pytest.raises(dc.SpecError) as found:
            dc.assemble("examples/two-moons.yaml", registry=REGISTRY, overrides=[f"{path}={{a: 1}}" for path in pair])
        assert all(f"{path}" in str(found.value) for path in pair)


def test_notes_are_printed_by_check_and_train(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spec = {"diffcore": 1, **POINTS, "process": {"type": "vp", "beta_max": 2.0}}
    (tmp_path / "a.yaml").write_text(json.dumps(spec))
    for command in (["check", "a.yaml"], ["explain", "a.yaml"], ["train", "a.yaml", "--out", "r"]):
        found = CliRunner().invoke(main, command)
        assert found.exit_code == 0, found.output
        assert "note: process: signal is left at T = 1" in found.stderr
    (tmp_path / "runs").write_text("a file")
    assert "note: name: runs" in CliRunner().invoke(main, ["check", "a.yaml"]).stderr
    (tmp_path / "runs").unlink()
    told = json.loads(CliRunner().invoke(main, ["check", "a.yaml", "--json"]).stdout)
    assert told["ok"]
    assert len(told["notes"]) == 1
