"""What a component declares, and not what its fields are called, decides what it is compared with."""

from __future__ import annotations

import pytest
import torch

import diffcore as dc
from diffcore.testing import Gaussian, Mixture, Oracle, ReferenceVP

R = dc.Registry.load()
T2 = torch.distributions.StudentT(2.0)


@dc.component
class StudentMixture(dc.Data):
    """sum_k weights_k t_2((x - means_k) / stds_k): heavy tails, with the fields of a mixture of normal laws."""

    means: tuple = dc.param(default=((0.0,), (2.0,)), doc="locations")
    stds: tuple = dc.param(default=(1.0, 1.0), doc="scales")
    weights: tuple = dc.param(default=(0.5, 0.5), doc="weights")


class StudentLaw(Oracle):
    """The law of `StudentMixture` with its defaults."""

    shape = (1,)

    def log_prob(self, x, at=None):
        return torch.stack([T2.log_prob(x[:, 0] - m) for m in (0.0, 2.0)]).logsumexp(0) - torch.tensor(2.0).log()


@dc.component
class Declared(StudentMixture):
    """The same, with its law."""

    def oracle(self):
        return StudentLaw()


def evaluation(data, **more):
    u = dc.Draw(3, range(2000), block=500).uniform((1,)).clamp(1e-3, 1 - 1e-3)
    x = (2 * u - 1) / (2 * u * (1 - u)).sqrt()  # the quantiles of t_2
    x = x + 2.0 * (torch.arange(2000) % 2)[:, None]
    return dc.Evaluation(samples=x[:1000].flip(0), reference=x[1000:], data=data, **more)


@pytest.mark.parametrize("metric", ["kl", "f-divergence", "fisher"])
def test_equal_names_of_fields_are_no_law(metric):
    """A mixture of Student laws is not measured against the normal mixture of its numbers."""
    field = Gaussian(0.0, 1.0, shape=(1,)).field(ReferenceVP())
    with pytest.raises(dc.DataError) as refusal:
        R.make("metric", metric).measure(evaluation(StudentMixture(), field=field))
    (line,) = str(refusal.value).splitlines()
    assert line.startswith(f"{metric} needs data of known density")
    assert "the data is StudentMixture, whose `oracle()` gives none" in line


def test_a_declared_law_is_what_is_compared_with():
    """-E log p of real samples from quantiles: with the Student law the divergence of two halves of them is small."""
    (found,) = R.make("metric", "kl").measure(evaluation(Declared())).values()
    assert abs(found.value) < 0.3
    normal = Mixture([0.5, 0.5], [[0.0], [2.0]], [1.0, 1.0])
    x = evaluation(None).samples
    assert float((StudentLaw().log_prob(x) - normal.log_prob(x)).mean()) > 0.5, "the two laws are far apart on these samples"


LAWS = [("gaussian", Gaussian), ("gaussian-mixture", Mixture)]


@pytest.mark.parametrize(("name", "law"), LAWS, ids=[name for name, _ in LAWS])
def test_the_sets_of_known_law_declare_it(name, law):
    cls = R.get("data", name)
    data = R.make("data", name, **cls.example)
    assert isinstance(data.oracle(), law)
    assert data.oracle().shape == dc.Event.of(data.open().event).shape
    assert R.make("data", "two-moons").oracle() is None
