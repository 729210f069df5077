"""Checks of laws of noise: one matrix behind draws, whitening and density, and numbers that depend on their ids alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from diffcore.numerics.draw import Draw
from diffcore.numerics.noise import ByPart
from diffcore.testing.base import SkipError, Subject, check, draw_of, normal, poisoned_noise, same, unchanged
from diffcore.testing.recording import keys_drawn, repeated

SHAPE = (3, 2, 2)
"""Where a law is for states of any shape."""
MANY = 20_000


def _shape(law: Any) -> tuple[int, ...]:
    return SHAPE if law.shape is None else law.shape


def _matrix(law: Any, act: Any) -> Tensor:
    """What a linear map of states does to the unit vectors, float64 [n, n]."""
    n = int(torch.Size(_shape(law)).numel())
    return act(torch.eye(n, dtype=torch.float64).view(n, *_shape(law))).reshape(n, n)


def _law(subject: Subject) -> Any:
    if isinstance(subject.component, ByPart):
        raise SkipError("it is the laws of its parts, which are checked on their own")
    return subject.component


def _gaussian(subject: Subject) -> Any:
    law = _law(subject)
    if not law.gaussian:
        raise SkipError("the law is not Gaussian")
    return law


@check("noise")
def covariance(subject: Subject) -> None:
    """Draws have mean 0 and the covariance of `covariance` (4.5 s.e. of 20,000), and `whiten` is its inverse (1e-6)."""
    law = _gaussian(subject)
    like = torch.zeros(MANY, *_shape(law), dtype=torch.float64)
    eps, c = law.like(like, Draw(3, range(MANY), block=MANY)).flatten(1), _matrix(law, law.covariance)
    off = float((eps.mean(0).abs() / (c.diag() / MANY).sqrt().clamp_min(1e-12)).max())
    assert off < 4.5, f"the mean of its draws is {off:.3g} standard errors from 0"
    spread = ((c.diag()[:, None] * c.diag() + c**2) / MANY).sqrt().clamp_min(1e-12)
    off = float(((eps.T @ eps / MANY - c).abs() / spread).max())
    assert off < 4.5, f"the covariance of its draws is {off:.3g} standard errors from what `covariance` says"
    gap = float((_matrix(law, law.whiten) - torch.linalg.pinv(c, hermitian=True)).abs().max())
    assert gap < 1e-6, f"`whiten` is {gap:.3g} from the inverse of `covariance`: the score would be that of another law"


@check("noise")
def density(subject: Subject) -> None:
    """log_prob is that of N(0, C) (1e-6), and its gradient is -whiten(eps)."""
    law = _gaussian(subject)
    c, eps = _matrix(law, law.covariance), normal(*(5, *_shape(law))).requires_grad_()
    try:
        found = law.log_prob(eps)
    except NotImplementedError:
        raise SkipError("the law gives no density") from None
    wanted = MultivariateNormal(torch.zeros(len(c), dtype=c.dtype), c).log_prob(eps.flatten(1))
    assert found.shape == (5,), f"log_prob has the shape {tuple(found.shape)} for 5 rows; it is one number per row"
    gap = float((found - wanted).detach().abs().max())
    assert gap < 1e-6 * max(1.0, float(wanted.detach().abs().max())), f"log_prob is {gap:.3g} from that of N(0, C)"
    (slope,) = torch.autograd.grad(found.sum(), eps)
    gap = float((slope + law.whiten(eps.detach())).abs().max())
    assert gap < 1e-6 * max(1.0, float(slope.abs().max())), f"the gradient of log_prob is {gap:.3g} from -whiten(eps)"


@check("noise")
def keyed(subject: Subject) -> None:
    """Draws are of the shape and dtype of the state, depend on ids alone, and take no global randomness."""
    law, draw = _law(subject), draw_of(8, seed=5)
    for dtype in (torch.float32, torch.float64):
        like = torch.zeros(8, *_shape(law), dtype=dtype)
        with poisoned_noise(), unchanged("the state", like):
            whole = law.like(like, draw)
        got = f"{whole.dtype} {tuple(whole.shape)}"
        assert (whole.dtype, whole.shape) == (like.dtype, like.shape), f"a draw like {dtype} {tuple(like.shape)} is {got}"
        assert same(law.like(like[2:5], draw.take([2, 3, 4])), whole[2:5]), "the noise of a sample depends on the batch"
        assert not same(law.like(like, draw.at(1)), whole), "two draws of one sample are the same numbers"


@check("noise")
def keys_of_its_own(subject: Subject) -> None:
    """A step that draws several noises, at the key itself and with 0 to 8 folded in, shares no number between them."""
    law, draw = _law(subject), draw_of(2, seed=5)
    like = torch.zeros(2, *_shape(law), dtype=torch.float64)
    with keys_drawn() as keys:
        for each in (draw, *(draw.fold(k) for k in range(9))):
            law.like(like, each)
    twice = repeated(keys)
    assert not twice, f"{twice}: fold a number of the law's own into the key, not a small one, which solvers use"
