"""Events and laws of noise as values: what one sample is, and what is added to it, for tensors and trees of them."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch.distributions import MultivariateNormal

import diffcore as dc
from diffcore.testing.references import REFERENCES, Correlated, ReferenceFlow, ReferenceVP, Shared

F64 = torch.float64
TREE = dc.Event({"x": (2, 3), "bond": dc.Event(4, values=5), "deep": {"y": dc.Event(6)}})
N = 20_000
REGISTRY = dc.Registry.load()


def test_an_event_is_a_value():
    assert dc.Event.of((1, 28, 28)) == dc.Event(1, 28, 28) == dc.Event.of([1, 28, 28]) != dc.Event(28, 28)
    assert dc.Event(4, values=5) != dc.Event(4)
    assert len({dc.Event(3), dc.Event(3), dc.Event({"x": 3 * (1,)}), TREE, dc.Event(dict(reversed(TREE.parts.items())))}) == 3
    for made in (pickle.loads(pickle.dumps(TREE)), copy.copy(TREE), copy.deepcopy(TREE), eval(repr(TREE), {"Event": dc.Event})):
        assert made == TREE
    with pytest.raises(AttributeError, match="an event is a value"):
        TREE.values = 3


def test_the_leaves_of_an_event():
    assert [name for name, _ in TREE.leaves()] == ["bond", "deep.y", "x"]
    assert TREE.entries == 4 + 6 + 6
    assert str(TREE) == "bond (4,) of 5 values and deep.y (6,) and x (2, 3)"
    made = TREE.like(7)
    assert (made["bond"].dtype, made["bond"].shape) == (torch.int64, (7, 4))
    assert (made["deep"]["y"].dtype, made["deep"]["y"].shape, made["x"].shape) == (torch.float32, (7, 6), (7, 2, 3))
    assert TREE.differs(made, 7) is None


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: dc.Event(3, 0), r"a side of an event .* 1"),
        (lambda: dc.Event(2.5), "a side of an event"),
        (
            lambda: dc.Event.of("mnist"),
            r"an event is the shape of one sample, such as \(1, 28, 28\), a dc.Event, or a dict of such",
        ),
        (lambda: dc.Event.of(None), "an event is the shape of one sample"),
        (lambda: dc.Event({"x": 3}), "an event is the shape of one sample"),
        (lambda: dc.Event({"x": (3,)}, values=4), "each its own; the tree of them has none"),
        (lambda: dc.Event(3, values=0), "values"),
    ],
)
def test_what_is_no_event(made, message):
    with pytest.raises(dc.SpecError, match=message):
        made()


def test_states_that_are_not_of_an_event():
    good = TREE.like(3)
    for bad, said in (
        ({**good, "x": good["x"][:, :1]}, ("shape (3, 1, 3) of 'x' for 3 samples", "(3, 2, 3)")),
        ({**good, "bond": good["bond"][:2]}, ("shape (2, 4) of 'bond' for 3 samples", "(3, 4)")),
        ({"x": good["x"]}, ("parts 'x'", "'bond', 'deep.y', 'x'")),
        (good["x"], ("parts ''", "'bond', 'deep.y', 'x'")),
    ):
        assert TREE.differs(bad, 3) == said
    with pytest.raises(
        dc.IncompatibleError, match=r"network unet takes one tensor, and a sample here has the parts bond, deep.y, x"
    ):
        TREE.leaf("network unet")


# --- laws of noise -----------------------------------------------------------------------------------------------------


def matrix(law: dc.NoiseLaw, n: int) -> torch.Tensor:
    """C of states of n entries, by its action on the unit vectors."""
    return law.covariance(torch.eye(n, dtype=F64))


@pytest.mark.parametrize("law", [dc.White(), Shared(), Correlated()], ids=lambda law: type(law).__name__)
def test_a_law_is_one_matrix(law):
    """Draws have the covariance C (4.5 s.e.), C^+ C C^+ = C^+, and E[C^+ eps eps^T] is the projection on what occurs."""
    eps, c = law.like(torch.zeros(N, 5, dtype=F64), dc.Draw(3, range(N), block=N)), matrix(law, 5)
    found = eps.T @ eps / N
    assert float(((found - c).abs() / ((c.diag()[:, None] * c.diag() + c**2) / N).sqrt()).max()) < 4.5
    inverse = law.whiten(torch.eye(5, dtype=F64))
    torch.testing.assert_close(inverse, torch.linalg.pinv(c), rtol=1e-9, atol=1e-9)
    moment = law.whiten(eps).T @ eps / N
    projection = inverse @ c
    spread = (inverse.diag()[:, None] * c.diag() + projection**2) / N
    assert float(((moment - projection).abs() / spread.sqrt()).max()) < 4.5


@pytest.mark.parametrize("law", [dc.White(), Correlated()], ids=lambda law: type(law).__name__)
def test_the_density_of_a_law(law):
    eps = dc.Draw(1, range(4)).normal((2, 3), F64)
    normal = MultivariateNormal(torch.zeros(6, dtype=F64), matrix(law, 6))
    torch.testing.assert_close(law.log_prob(eps), normal.log_prob(eps.flatten(1)), rtol=1e-10, atol=1e-10)


def test_white_noise_of_tokens_is_uniform_and_of_trees_leaf_by_leaf():
    made = dc.WHITE.like(TREE.like(2000), dc.Draw(0, range(2000)))
    assert made["bond"].dtype == F64
    assert 0 <= float(made["bond"].min()) < float(made["bond"].max()) < 1
    assert abs(float(made["bond"].var()) * 12 - 1) < 4.5 * (0.8 / made["bond"].numel()) ** 0.5
    both = torch.cat([made["x"].flatten(1), made["deep"]["y"]], 1)
    assert float((both.T @ both / 2000 - torch.eye(12)).abs().max()) < 4.5 * (2 / 2000) ** 0.5


@pytest.mark.parametrize("process", REFERENCES, ids=lambda process: type(process).__name__)
@pytest.mark.parametrize("prediction", ["x0", "eps", "score", "v", "velocity", "edm"])
def test_the_score_under_coloured_noise_is_that_of_the_marginal(process, prediction):
    """x_t ~ N(alpha m, alpha^2 S + sigma^2 C): its score from every prediction, for C = min(i, j), to 1e-9."""
    noised = type(process)(noise=Correlated())
    if isinstance(process, ReferenceFlow) and prediction in ("eps", "score"):
        pytest.skip("says nothing of x_0 at T")
    c, m = matrix(Correlated(), 3), torch.tensor([0.3, -1.0, 2.0], dtype=F64)
    root = torch.tensor([[1.0, 0.2, 0.0], [0.0, 0.7, -0.4], [0.3, 0.0, 1.1]], dtype=F64)
    s = root @ root.T
    x = dc.Draw(2, range(6)).normal((3,), F64)
    for t in (0.3 * process.T, 0.8 * process.T):
        at = noised.coeffs(torch.tensor(t, dtype=F64)).map(float)
        whole = at.alpha**2 * s + at.sigma**2 * c
        score = -torch.linalg.solve(whole, (x - at.alpha * m).T).T
        eps = -at.sigma * score @ c
        x0 = (x - at.sigma * eps) / at.alpha
        out = dc.combine(prediction, at, x0, eps, noise=noised.noise)
        known = dc.Denoiser(lambda x, t, out=out: out, prediction, noised)(x, t)
        torch.testing.assert_close(known.score, score, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(
            known.mean, m + (at.alpha * s @ torch.linalg.solve(whole, (x - at.alpha * m).T)).T, rtol=1e-9, atol=1e-9
        )
        torch.testing.assert_close(known.blend(0.3, 0.7, name="eps"), 0.3 * x + 0.7 * eps, rtol=1e-9, atol=1e-9)


def test_training_regresses_the_score_of_the_law():
    """The regression of the score target on x_t has the slope of the exact score (4.5 s.e.)."""
    process, c, t = ReferenceFlow(noise=Correlated()), matrix(Correlated(), 3), 0.6
    x0 = dc.Draw(5, range(N), block=N).normal((3,), F64)
    made = process.corrupt(x0, torch.full((N,), t, dtype=F64), dc.Draw(6, range(N), block=N))
    slope = -torch.linalg.inv((1 - t) ** 2 * torch.eye(3, dtype=F64) + t**2 * c)
    residual = made.target("score") - made.xt @ slope
    moment, scale = residual[:, :, None] * made.xt[:, None], residual.std(0)[:, None] * made.xt.std(0)
    assert float((moment.mean(0).abs() / scale).max()) < 4.5 / N**0.5


@pytest.mark.parametrize("law", [dc.White(), Correlated()], ids=lambda law: type(law).__name__)
def test_the_prior_is_of_the_law_also_for_trees(law):
    process = ReferenceVP(noise=law)
    x = process.prior({"a": (2,), "b": (3,)}, dc.Draw(1, range(N), block=N))
    for leaf in x.values():
        c = matrix(law, leaf.shape[1])
        found = leaf.double().T @ leaf.double() / N
        assert float(((found - c).abs() / ((c.diag()[:, None] * c.diag() + c**2) / N).sqrt()).max()) < 4.5
    cross = x["a"].double().T @ x["b"].double() / N
    assert float(cross.abs().max()) < 4.5 * (6 / N) ** 0.5


def test_ancestral_sampling_under_coloured_noise_ends_with_the_data():
    """Data and noise of other covariances: 200 ancestral steps give mean and covariance of the data, to .05 and .03."""
    process = ReferenceVP(noise=Correlated())
    c, s = matrix(Correlated(), 3), torch.diag(torch.tensor([0.4, 0.6, 0.3], dtype=F64) ** 2)
    mean = torch.tensor([0.5, -1.0, 1.0], dtype=F64)

    def net(x, t):
        at = process.coeffs(t.double())
        a, b = at.alpha[:1], at.sigma[:1]
        gain = a * s @ torch.linalg.inv(a**2 * s + b**2 * c)
        return mean + (x - a * mean) @ gain.T

    field = dc.Field(dc.Denoiser(net, "x0", process))
    n = 4000
    x = process.prior((3,), dc.Draw(1, range(n), block=n)).double()
    made = dc.sample(field, REGISTRY.make("solver", "ancestral", steps=200), x).x
    assert float((made.mean(0) - mean).abs().max()) < 0.05
    assert float((torch.cov(made.T) - s).abs().max()) < 0.03


def test_laws_are_in_specs_and_messages():
    made = REGISTRY.make("process", "vp", noise={"type": "white"})
    assert made == REGISTRY.make("process", "vp")
    assert made.noise == dc.WHITE
    with pytest.raises(dc.SpecError, match="no noise 'whit'"):
        REGISTRY.make("process", "vp", noise={"type": "whit"})
    with pytest.raises(dc.SpecError, match="'noise' of Transformed is that of its process 'of'"):
        REGISTRY.make("process", "transformed", of={"type": "vp"}, to={"type": "flow"}, noise=Correlated())


def test_a_law_for_each_part():
    """Part by part the covariances of the parts, none between them; other parts are refused; a spec says it."""
    law = dc.ByPart(parts={"b": Correlated(), "a": dc.White()})
    assert law == dc.ByPart(parts=dc.Frozen({"a": dc.White(), "b": Correlated()}))
    assert hash(law) == hash(pickle.loads(pickle.dumps(law)))
    x = law.like({"a": torch.zeros(N, 2), "b": torch.zeros(N, 3)}, dc.Draw(1, range(N), block=N))
    flat = torch.cat([x["a"], x["b"]], 1).double()
    wanted = torch.block_diag(torch.eye(2, dtype=F64), matrix(Correlated(), 3))
    spread = ((wanted.diag()[:, None] * wanted.diag() + wanted**2) / N).sqrt()
    assert float(((flat.T @ flat / N - wanted).abs() / spread).max()) < 4.5
    normal = MultivariateNormal(torch.zeros(5, dtype=F64), wanted)
    double = {name: part[:4].double() for name, part in x.items()}
    torch.testing.assert_close(law.log_prob(double), normal.log_prob(flat[:4]), rtol=1e-9, atol=1e-9)
    back = law.whiten(law.covariance(double))
    torch.testing.assert_close(back, double, rtol=1e-9, atol=1e-9)
    for state in ({"a": x["a"]}, x["a"], {**x, "c": x["a"]}):
        with pytest.raises(dc.DataError, match="the noise has laws for the parts a, b, and the sample has"):
            law.like(state, dc.Draw(1, range(N)))
    with pytest.raises(dc.SpecError, match="must name the law of each part"):
        dc.ByPart(parts={})
    made = REGISTRY.make(
        "process", "vp", noise={"type": "by-part", "parts": {"x": {"type": "white"}, "e": {"type": "symmetric"}}}
    )
    assert type(made.noise.parts["e"]).__name__ == "Symmetric"


def test_maps_and_lists_in_fields_are_fixed():
    frozen = dc.Frozen({"b": 1, "a": (2,)})
    assert (list(frozen), frozen["b"], len(frozen), repr(frozen)) == (["a", "b"], 1, 2, "{'a': (2,), 'b': 1}")
    assert hash(frozen) == hash(dc.Frozen([("a", (2,)), ("b", 1)]))
    assert frozen == {"a": (2,), "b": 1}
    with pytest.raises(TypeError):
        frozen["a"] = 3
