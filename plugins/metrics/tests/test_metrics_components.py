"""The metrics as components: who is compared with whom, floor, spread, names, shipped nets, and refusals."""

from __future__ import annotations

import hashlib
import statistics
from pathlib import Path

import attrs
import pytest
import torch
from diffcore_metrics import weights
from diffcore_metrics.class_accuracy import ClassAccuracy
from diffcore_metrics.cost import Cost
from diffcore_metrics.coverage import Coverage
from diffcore_metrics.features import extract, judge
from diffcore_metrics.frechet import Frechet, frechet_distance, moments
from diffcore_metrics.knn_kl import KNNKL
from diffcore_metrics.precision_recall import PrecisionRecall
from diffcore_metrics.sliced import SlicedWasserstein
from diffcore_metrics.two_samples import TwoSamples
from torch import Tensor

import diffcore as dc

COMPARISONS = [SlicedWasserstein(), Frechet(), PrecisionRecall(), Coverage()]
HELD_OUT = {"mnist": "mnist-5k", "fashion-mnist": "fashion-mnist"}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def evaluation(samples: Tensor, reference: Tensor, **more: object) -> dc.Evaluation:
    return dc.Evaluation(samples=samples, reference=reference, reference_name="toy", **more)  # type: ignore[arg-type]


def name_of(metric: object) -> str:
    return type(metric).__name__


@pytest.fixture
def digits() -> tuple[Tensor, Tensor]:
    """The 500 held-out digits in random order; the set itself is in order of class."""
    x, label = real("mnist-5k", "test")
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return x[order], label[order]


def real(name: str, split: str) -> tuple[Tensor, Tensor]:
    """Real images in [-1, 1] and their classes; the data sets are another distribution's, so they may be absent."""
    try:
        data = dc.Registry.load().make("data", name, split=split)
        source = data.open()
    except dc.DiffcoreError as error:
        pytest.skip(f"needs the data set {name}: {error}")
    raw, cond = source.batch(torch.arange(source.size))
    return data.value_range.to_model(raw), cond["label"]


@pytest.mark.parametrize("metric", COMPARISONS, ids=name_of)
def test_floor_is_the_value_of_held_out_real_data(metric: TwoSamples):
    reference, n = normal(200, 3), 80
    for name, got in metric.measure(evaluation(normal(n, 3, seed=1) + 0.5, reference)).items():
        assert got.floor == metric.measure(evaluation(reference[-n:], reference))[name].value
        assert (got.n, got.against) == (n, "120 of toy")


@pytest.mark.parametrize("metric", COMPARISONS, ids=name_of)
def test_spread_is_the_deviation_over_blocks(metric: TwoSamples):
    reference, samples = normal(200, 3), normal(100, 3, seed=1)
    got = metric.measure(evaluation(samples, reference))
    blocks = [metric.compare(b.double(), reference[:-100].double()) for b in samples.split(25)]
    for name, number in got.items():
        assert number.spread == pytest.approx(statistics.stdev(b[name] for b in blocks), rel=1e-9)


@pytest.mark.parametrize("metric", COMPARISONS, ids=name_of)
def test_a_worse_model_is_seen_to_be_worse(metric: TwoSamples):
    reference = normal(400, 3)
    good = metric.measure(evaluation(normal(200, 3, seed=1), reference))
    bad = metric.measure(evaluation(normal(200, 3, seed=1) * 0.3 + 2, reference))
    for name in good:
        sign = 1 if good[name].better == "lower" else -1
        assert sign * bad[name].value > sign * good[name].value
        assert abs(good[name].value - good[name].floor) < 0.3 * abs(bad[name].value - good[name].floor)


def test_n_is_cut_to_half_of_a_small_reference():
    got = SlicedWasserstein().measure(evaluation(normal(1000, 2), normal(101, 2, seed=1)))["SW2"]
    assert (got.n, got.against) == (50, "51 of toy")


@pytest.mark.parametrize(
    ("metric", "least"),
    [(SlicedWasserstein(), 8), (Frechet(), 8), (PrecisionRecall(k=3), 16), (Coverage(k=5), 24), (KNNKL(k=5), 24)],
)
def test_too_few_samples_are_refused(metric: TwoSamples, least: int):
    metric.measure(evaluation(normal(least, 2), normal(2 * least, 2, seed=1)))
    with pytest.raises(
        dc.DataError, match=f"with 4 blocks needs {least} samples and twice as many real ones; there are {least - 1}"
    ):
        metric.measure(evaluation(normal(least - 1, 2), normal(2 * least, 2, seed=1)))


def test_results_are_named_after_their_features(digits: tuple[Tensor, Tensor]):
    x, _ = digits
    ev, points = evaluation(x[:100], x[100:300]), evaluation(normal(100, 2), normal(200, 2, seed=1))
    assert list(Frechet().measure(points)) == ["FD"]
    assert list(Frechet(features="mnist").measure(ev)) == ["digit-FD"]
    assert list(Coverage(features="fashion-mnist").measure(ev)) == ["fashion-density", "fashion-coverage"]
    names = [name for metric in COMPARISONS for name in metric.measure(points)]
    assert len(set(names)) == len(names)
    assert not any("FID" in name for name in names)


def test_features_are_what_the_head_of_the_net_reads(digits: tuple[Tensor, Tensor]):
    x, _ = digits
    net, features = weights.classifier("mnist", "features"), extract(x, "mnist")
    assert features.dtype == torch.float64
    torch.testing.assert_close(net.head(features.float()), net(x), rtol=1e-4, atol=1e-4)
    assert torch.equal(extract(3 * x.sign(), "mnist"), extract(x.sign(), "mnist")), "values beyond [-1, 1] are clipped"
    assert torch.equal(extract(x, "pixels"), x.flatten(1).double())


def test_frechet_on_features_is_the_distance_of_those_features(digits: tuple[Tensor, Tensor]):
    x, _ = digits
    got = Frechet(features="mnist").measure(evaluation(-x[:150], x[:300]))["digit-FD"]
    expected = frechet_distance(moments(extract(-x[:150], "mnist")), moments(extract(x[:150], "mnist")))
    assert got.value == expected
    assert got.value > 20 * got.floor


def test_features_tell_degrees_of_damage(digits: tuple[Tensor, Tensor]):
    x, _ = digits
    distances = []
    for level in (0.0, 0.25, 0.5, 1.0):
        noisy = x[:250] + level * normal(250, 1, 28, 28)
        distances.append(Frechet(features="mnist").measure(evaluation(noisy, x))["digit-FD"].value)
    assert distances == sorted(distances)
    assert distances[1] > 2 * distances[0]


@pytest.mark.parametrize(("images", "role"), sorted(weights.CARDS))
def test_shipped_nets_have_the_accuracy_of_their_card(images: str, role: str):
    card = weights.CARDS[images, role]
    x, label = real(HELD_OUT[images], "test")
    net = weights.classifier(images, role)
    with torch.no_grad():
        right = torch.cat([net(part).argmax(1) for part in x.split(500)]) == label
    assert len(right) == card.unseen
    assert abs(float(right.float().mean()) - card.accuracy) <= 2 / card.unseen, "another machine may round one image differently"


def test_nets_of_one_kind_share_nothing():
    for images in ("mnist", "fashion-mnist"):
        features, other = (weights.classifier(images, role) for role in ("features", "judge"))
        assert type(features) is not type(other)
        assert weights.CARDS[images, "features"].sha256 != weights.CARDS[images, "judge"].sha256


def test_loading_a_net_leaves_the_global_generator_alone():
    weights.classifier.cache_clear()
    before = torch.get_rng_state()
    net = weights.classifier("mnist", "judge")
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(p.requires_grad for p in net.parameters())


def test_other_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    good = weights.file_of("mnist", "judge").read_bytes()
    monkeypatch.setattr(weights, "FOLDER", tmp_path)
    weights.classifier.cache_clear()
    with pytest.raises(dc.CheckpointError, match=r"mnist-judge.safetensors are missing: reinstall diffcore-metrics"):
        weights.classifier("mnist", "judge")
    bad = good[:-1] + bytes([good[-1] ^ 1])
    weights.file_of("mnist", "judge").write_bytes(bad)
    with pytest.raises(dc.CheckpointError, match=f"SHA-256 {hashlib.sha256(bad).hexdigest()}, expected"):
        weights.classifier("mnist", "judge")


@pytest.mark.parametrize("read", [lambda x: extract(x, "mnist"), lambda x: judge(x, "mnist")], ids=["features", "judge"])
def test_other_shapes_are_refused_by_the_nets(read):
    with pytest.raises(dc.DataError, match=r"takes images of shape \(1, 28, 28\); the samples have shape \(3, 32, 32\)"):
        read(torch.zeros(2, 3, 32, 32))


def test_class_accuracy_counts_what_the_judge_reads(digits: tuple[Tensor, Tensor]):
    x, label = digits
    right = judge(x, "mnist") == label
    asked = torch.where(torch.arange(len(x)) % 4 == 0, (label + 1) % 10, label)
    got = ClassAccuracy().measure(evaluation(x, x, cond={"label": asked}, reference_cond={"label": label}))["class-accuracy"]
    assert got.floor == pytest.approx(float(right.double().mean()))
    assert got.floor == pytest.approx(weights.CARDS["mnist", "judge"].accuracy, abs=2 / 500)
    assert got.value == pytest.approx(float((judge(x, "mnist") == asked).double().mean()))
    assert 0.7 < got.value < 0.8
    blocks = [(judge(x, "mnist") == asked).double().split(125)[i].mean().item() for i in range(4)]
    assert got.spread == pytest.approx(statistics.stdev(blocks))
    assert got.better == "higher"


def test_class_accuracy_needs_a_class_for_every_sample():
    x = torch.zeros(8, 1, 28, 28)
    for cond in ({}, {"label": torch.zeros(7, dtype=torch.int64)}, {"label": torch.full((8,), 10)}):
        with pytest.raises(dc.DataError, match="one 'label' of 0 to 9 for every sample"):
            ClassAccuracy().measure(evaluation(x, x, cond=cond))
    assert ClassAccuracy.needs_classes


def test_one_sample_per_block_is_enough():
    """A block of one has a mean; one sample fewer leaves a block without."""
    x, label = torch.zeros(4, 1, 28, 28), {"label": torch.tensor([0, 9, 4, 5])}
    ClassAccuracy(blocks=4).check(evaluation(x, x, cond=label))
    with pytest.raises(dc.DataError, match="with 5 blocks needs as many samples; there are 4"):
        ClassAccuracy(blocks=5).check(evaluation(x, x, cond=label))


@pytest.mark.item("9.24")
def test_cost_is_what_the_run_counted():
    got = Cost().measure(evaluation(normal(20, 2), normal(40, 2), nfe=36.0, calls=18, seconds=5.0))
    assert {name: attrs.astuple(number)[:2] for name, number in got.items()} == {
        "nfe": (36.0, 20),
        "calls": (18.0, 20),
        "seconds": (0.25, 20),
    }


def test_precision_of_a_mixture_is_its_share():
    """A quarter of the samples is far away: precision and coverage see just that."""
    reference = normal(800, 2)
    samples = torch.cat([reference[:300], normal(100, 2, seed=1) + 1000])
    got = PrecisionRecall(blocks=2).measure(evaluation(samples, reference))
    assert got["precision"].value == 0.75
    assert got["recall"].value > 0.9
