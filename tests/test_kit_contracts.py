"""The checks of operators, likelihoods, rewards, densities, adapters and starts: each against one planted error."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn

import diffcore as dc
from diffcore.declare.hookspecs import KINDS
from diffcore.testing.base import RULES
from diffcore.testing.suite import cases


def outcomes(*classes: type, check: str = "") -> list[Any]:
    """What the kit says of the last class, in a registry that has the others too."""
    registry = dc.Registry()
    for cls in classes:
        registry.add(cls)
    found = cases(registry, registry.id_of(classes[-1]))
    return [case.run() for case in found if case.rule and check in ("", case.rule.name)]


# --- operators -----------------------------------------------------------------------------------------------------------
@dc.component
class Shear(dc.Operator):
    """y = A x_0 with A = W[: d / 2], W = a I + b 11^T + c (shift): full row rank, not symmetric, not orthogonal."""

    provides = frozenset({"linear", "svd", "gram"})
    scale: float = dc.param(default=1.3, gt=0, doc="a")

    def matrix(self, d):
        eye = torch.eye(d, dtype=torch.float64)
        return (self.scale * eye + 0.1 + 0.6 * eye.roll(1, 1))[: d // 2]

    def measured(self, event):
        if len(event) != 1:
            raise dc.IncompatibleError("vectors only")
        return (event[0] // 2,)

    def __call__(self, x0):
        return x0 @ self.matrix(x0.shape[1]).T

    def adjoint(self, y):
        return y @ self.matrix(2 * y.shape[1])

    def pinv(self, y):
        return y @ torch.linalg.pinv(self.matrix(2 * y.shape[1])).T

    def gram_solve(self, r, v, c):
        values, vectors = torch.linalg.eigh(self.matrix(2 * c.shape[1]) @ self.matrix(2 * c.shape[1]).T)
        return (c @ vectors / (r + v * values)) @ vectors.T


@dc.component
class WrongMeasured(Shear):
    """Says d = all entries are measured."""

    def measured(self, event):
        super().measured(event)
        return event


@dc.component
class MixesRows(Shear):
    """Subtracts the mean of the batch = rows meet."""

    def __call__(self, x0):
        return super().__call__(x0 - x0.mean(0))


@dc.component
class Affine(Shear):
    """y = A x_0 + 1e-6: said to be linear."""

    def __call__(self, x0):
        return super().__call__(x0) + 1e-6


@dc.component
class ForwardAsAdjoint(Shear):
    """A^T with the shift to the wrong side."""

    def adjoint(self, y):
        d = 2 * y.shape[1]
        return y @ self.matrix(d).roll(1, 1)


@dc.component
class AdjointAsPinv(Shear):
    """A^+ = A^T / a^2, as if the rows were orthogonal."""

    def pinv(self, y):
        return self.adjoint(y) / self.scale**2


@dc.component
class NotTheLeast(Shear):
    """A right inverse with A A^+ = I that is not the least: the weighted one, D A^T (A D A^T)^-1."""

    def pinv(self, y):
        a = self.matrix(2 * y.shape[1])
        weighted = a * torch.linspace(1, 2, a.shape[1], dtype=torch.float64)
        return y @ torch.linalg.solve(a @ weighted.T, weighted)


@dc.component
class GramForgetsV(Shear):
    """(r I + A A^T) u = c: v = 1 whatever v is."""

    def gram_solve(self, r, v, c):
        return super().gram_solve(r, torch.ones_like(torch.as_tensor(v)), c)


# --- likelihoods ---------------------------------------------------------------------------------------------------------
@dc.component
class Blurred(dc.Likelihood):
    """y = tanh(x_0) + sigma n: log p(y | x_0) = -|y - tanh(x_0)|^2 / (2 sigma^2) - d log(sqrt(2 pi) sigma)."""

    sigma: float = dc.param(default=0.4, gt=0, doc="of the noise")

    def log_prob(self, x0, y):
        squares = ((y - x0.tanh()) / self.sigma).square().flatten(1)
        return -(squares / 2 + math.log(math.sqrt(2 * math.pi) * self.sigma)).sum(1)

    def sample(self, x0, draw):
        return x0.tanh() + self.sigma * draw.normal_like(x0)


@dc.component
class Counts(dc.Likelihood):
    """y ~ Bernoulli(q) with q = 1 / (1 + exp(-x_0)), of every entry: log p = y log q + (1 - y) log(1 - q)."""

    def log_prob(self, x0, y):
        return -nn.functional.binary_cross_entropy_with_logits(x0, y, reduction="none").flatten(1).sum(1)

    def sample(self, x0, draw):
        return (draw.uniform_like(x0) < x0.sigmoid()).to(x0.dtype)


@dc.component
class SumsTheBatch(Blurred):
    """log p = the sum over all rows."""

    def log_prob(self, x0, y):
        return super().log_prob(x0, y).sum()


@dc.component
class NoiseTooLarge(Blurred):
    """Draws y with 1.1 sigma."""

    def sample(self, x0, draw):
        return x0.tanh() + 1.1 * self.sigma * draw.normal_like(x0)


@dc.component
class MeanMoved(Blurred):
    """Draws y around tanh(x_0) + sigma / 4."""

    def sample(self, x0, draw):
        return super().sample(x0, draw) + self.sigma / 4


@dc.component
class SharedNoise(Blurred):
    """One noise = for all rows."""

    def sample(self, x0, draw):
        return x0.tanh() + self.sigma * draw.normal_like(x0).mean(0)


# --- rewards and densities -----------------------------------------------------------------------------------------------
@dc.component
class Bump(dc.Reward):
    """r(x_0) = sum sin(x_0)."""

    needs = frozenset({"grad"})

    def __call__(self, x0, **cond):
        return x0.sin().flatten(1).sum(1)


@dc.component
class Ranked(Bump):
    """r = sum sin(x_0) - its mean over the batch."""

    def __call__(self, x0, **cond):
        found = super().__call__(x0)
        return found - found.mean()


@dc.component
class Detached(Bump):
    """The gradient of half of r = lost."""

    def __call__(self, x0, **cond):
        return super().__call__(x0) / 2 + super().__call__(x0.detach()) / 2


@dc.component
class Ring(dc.Density):
    """log p(x) = -(|x|^2 - 1)^2."""

    @property
    def event(self):
        return (3,)

    def log_prob(self, x):
        return -(x.square().sum(1) - 1).square()


@dc.component
class OneForAll(Ring):
    """log p of the mean of rows = one for all."""

    def log_prob(self, x):
        return super().log_prob(x.mean(0, keepdim=True)).expand(len(x))


@dc.component
class StoppedRadius(Ring):
    """log p with the gradient = of one factor only."""

    def log_prob(self, x):
        radius = x.square().sum(1) - 1
        return -radius * radius.detach()


# --- adapters and starts -------------------------------------------------------------------------------------------------
class Around(nn.Module):
    def __init__(self, net, spoil=""):
        super().__init__()
        self.net, self.spoil, self.kept = net, spoil, None

    def forward(self, x, t, s=None, **cond):
        out = self.net(x, t, s, **cond)
        out = 0.5 * out if self.kept is None else 0.5 * out + 0.5 * self.kept
        self.kept = out
        return out.float() if self.spoil == "dtype" else out

    def fresh(self):
        self.kept = self.kept if self.spoil == "stale" else None


@dc.component
class Averaged(dc.Adapter):
    """out_i <- (out_i + out_(i-1)) / 2."""

    spoil: str = dc.param(default="", doc="what is wrong")

    def wrap(self, net, event):
        return Around(net, self.spoil)


@dc.component
class OtherType(Averaged):
    """The output = in float32."""

    spoil: str = dc.param(default="dtype", doc="what is wrong")


@dc.component
class Stale(Averaged):
    """fresh() = does nothing."""

    spoil: str = dc.param(default="stale", doc="what is wrong")


@dc.component
class InPlace(dc.Adapter):
    """W <- W / 2, of the network itself."""

    def wrap(self, net, event):
        with torch.no_grad():
            next(net.parameters()).mul_(0.5)
        return copy.deepcopy(net)


@dc.component
class Prior(dc.Start):
    """x_T ~ the prior, t = T."""

    factor: float = dc.param(default=1.0, doc="of T")

    def begin(self, process, event, draw, **cond):
        return process.prior(event, draw), self.factor * process.T


@dc.component
class TooLate(Prior):
    """t = 1.1 T."""

    factor: float = dc.param(default=1.1, doc="of T")


@dc.component
class Centred(Prior):
    """x_T ~ the prior, minus its mean over the batch = rows meet."""

    def begin(self, process, event, draw, **cond):
        x, t = super().begin(process, event, draw)
        return x - x.mean(0), t


SOUND: dict[type, type] = {Shear: dc.Operator, Blurred: dc.Likelihood, Counts: dc.Likelihood, Bump: dc.Reward, Ring: dc.Density,
                           Averaged: dc.Adapter, Prior: dc.Start}  # fmt: skip
PLANTED = [
    (WrongMeasured, "measured_shape", "`measured` says (6,)"),
    (MixesRows, "measured_shape", "depends on the others of its batch"),
    (Affine, "adjoint", "A is not linear"),
    (ForwardAsAdjoint, "adjoint", "<A x, y> ="),
    (AdjointAsPinv, "pinv", "A A^+ A x is off by"),
    (NotTheLeast, "pinv", "A^+ y is not the least x_0"),
    (GramForgetsV, "gram_solve", "is off from c by"),
    (SumsTheBatch, "measures", "must be (3,)"),
    (SharedNoise, "measures", "depends on the others of its batch"),
    (NoiseTooLarge, "sample_and_log_prob", "E[s^2] + E[ds/dv]"),
    (MeanMoved, "sample_and_log_prob", "E[s] ="),
    (Ranked, "of_rows", "depends on the others of its batch"),
    (Detached, "reward_gradient", "the gradient of r is off by"),
    (OneForAll, "log_density", "depends on the others of its batch"),
    (StoppedRadius, "density_gradient", "the gradient of log p is off by"),
    (OtherType, "a_network_again", "the output is torch.float32"),
    (InPlace, "leaves_the_network", "the network itself was changed"),
    (Stale, "fresh_is_new", "something is kept"),
    (TooLate, "begins_in_time", "not within (0, 1.0]"),
    (Centred, "begins_by_ids", "depends on the others of its batch"),
]


@pytest.mark.parametrize(("broken", "check", "message"), PLANTED, ids=[f"{c.__name__}-{n}" for c, n, _ in PLANTED])
def test_a_planted_error_fails_its_check(broken, check, message):
    (outcome,) = outcomes(broken, check=check)
    assert outcome.status == "failed"
    assert message in outcome.message


@pytest.mark.parametrize("sound", SOUND, ids=lambda cls: cls.__name__)
def test_the_sound_version_passes_everything(sound):
    assert [o.line() for o in outcomes(sound) if o.status == "failed"] == []


def test_every_check_of_these_kinds_has_failed_once():
    seen = {(cls.kind, check) for cls, check, _ in PLANTED}
    assert {(rule.kind, rule.name) for rule in RULES if rule.kind in KINDS["diffcore_components"]} == seen


def test_what_an_operator_does_not_provide_is_not_asked_of_it():
    @dc.component
    class Clipped(dc.Operator):
        """y = min(max(x_0, -1), 1)."""

        def measured(self, event):
            return event

        def __call__(self, x0):
            return x0.clamp(-1, 1)

    found = {o.check: o.status for o in outcomes(Clipped)}
    assert [found[name] for name in ("measured_shape", "adjoint", "pinv", "gram_solve")] == ["passed", *["skipped"] * 3]


def test_a_reward_that_is_given_a_condition_is_left_to_its_author():
    @dc.component
    class Caption(dc.Reward):
        """r = -|x_0 - y|^2."""

        def __call__(self, x0, *, y, **cond):
            return -(x0 - y).square().flatten(1).sum(1)

    said = {o.message for o in outcomes(Caption) if o.status == "skipped"}
    assert said == {"is given y, which the kit does not know how to make"}


def test_the_prior_mean_is_reached_by_gram_solve():
    """What the docstring says of a Gaussian posterior, m + v A^T u, against the formula with a dense inverse."""
    operator, r, v = Shear(), 0.3, 1.7
    a, generator = operator.matrix(6), torch.Generator().manual_seed(0)
    m, y = (torch.empty(4, d, dtype=torch.float64).normal_(generator=generator) for d in (6, 3))
    found = m + v * operator.adjoint(operator.gram_solve(r, v, y - operator(m)))
    eye = torch.eye(6, dtype=torch.float64)
    exact = torch.linalg.solve(eye / v + a.T @ a / r, (m / v + y @ a / r).T).T
    torch.testing.assert_close(found, exact, rtol=1e-12, atol=1e-12)
