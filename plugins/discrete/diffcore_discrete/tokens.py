"""What all processes of tokens share: states are int64, and a kernel is a table of probabilities."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

import diffcore as dc

from .categorical import NEVER, Categorical, Entries, one_hot, pick
from .chain import Chain


@dc.component
class Tokens(dc.Process):
    """Entries that change independently given x_0, each with `values` values and at most one more state, the mask.

    States are int64 (B, *shape). A subclass gives `marginal` (q(x_t | x_0)), `kernel` (p(x_s | x_t, x_0) averaged over a
    posterior of x_0) and `prior_probs`; sampling, corruption and bounds follow.
    """

    provides: ClassVar[frozenset[str]] = frozenset({"tokens", "reverse"})
    predictions: ClassVar[tuple[str, ...]] = ("logits",)

    values: int = dc.param(default=3, ge=2, le=1_000_000, doc="number of values V of an entry: tokens are 0 to V - 1")

    @property
    def states(self) -> int:
        """Values and, where there is one, the mask."""
        return self.values

    @property
    def prior_probs(self) -> Tensor:
        """The law of an entry at t = T, float64 [states]."""
        return torch.full((self.states,), 1 / self.states, dtype=torch.float64)

    def marginal(self, x0: Tensor, at: Any) -> Tensor:
        """q(x_t | x_0) of each entry, float64 (*x0.shape, states)."""
        raise NotImplementedError

    def kernel(self, x: Tensor, t: Any, s: Any, probs: Tensor) -> Tensor:
        """sum_a p(a) q(x_s | x_t, x_0 = a) of each entry, float64 (*x.shape, states), for a posterior probs (*x.shape, V)."""
        raise NotImplementedError

    def transition(self, at: Any) -> Tensor:
        """q(x_t | x_0) as matrices [..., V, states], one per time; a row for each value of x_0."""
        count = len(at.t) if isinstance(at.t, Tensor) and at.t.ndim else 1
        return self.marginal(torch.arange(self.values).expand(count, -1), at)

    def prior(self, event: Any, draw: dc.Draw) -> Tensor:
        """Independent entries of the law `prior_probs`."""
        z = draw.uniform(entries_of(self, event))
        return pick(z, self.prior_probs.to(z.device).expand(*z.shape, -1))

    def corrupt(self, x0: Tensor, t: Tensor, draw: dc.Draw, eps: Tensor | None = None) -> dc.Corruption:
        """A draw from q(x_t | x_0); eps are uniform numbers of the shape of x_0. Raises `DataError` for values out of range."""
        self.check_tokens(x0)
        at = self.coeffs(torch.as_tensor(t, dtype=torch.float64, device=x0.device))
        z: Tensor = self.noise.like(x0, draw) if eps is None else eps
        xt = pick(z, self.marginal(x0, at))
        return dc.Corruption(xt, at, x0, z, targets={"logits": x0})

    def check_tokens(self, x0: Tensor) -> None:
        """Raise `DataError` unless these are integers of 0 to V - 1."""
        if x0.is_floating_point():
            raise dc.DataError(
                f"{type(self).__name__} needs tokens (int64), not {x0.dtype}; an affine process takes real numbers"
            )
        low, high = (int(v) for v in x0.aminmax())
        if low < 0 or high >= self.values:
            raise dc.DataError(
                f"tokens from {low} to {high}, but {type(self).__name__} has values 0 to {self.values - 1}; set process.values"
            )

    def output_event(self, event: Any, prediction: str) -> dc.Event:
        """One number per value of each entry."""
        return dc.Event(*entries_of(self, event), self.values)

    def check_output(self, x: Tensor, out: Any, prediction: str) -> None:
        """Refuse what is not one number per value."""
        if tuple(out.shape) != (*x.shape, self.values):
            raise dc.DataError(
                f"the network returned shape {tuple(out.shape)} for tokens {tuple(x.shape)} of {self.values} values; "
                f"'{prediction}' needs {(*x.shape, self.values)}"
            )

    def reverse(self, x: Tensor, t: Any, s: Any, posterior: Categorical, z: Tensor) -> Tensor:
        """A draw of x_s from `kernel`, by inversion of the uniform numbers z."""
        return self.reverse_law(x, t, s, posterior).sample(z)

    def reverse_law(self, x: Tensor, t: Any, s: Any, posterior: Categorical) -> Entries:
        """Independent entries, each of the law `kernel`."""
        return Entries(self.kernel(x, t, s, posterior.probs))

    def fingerprint(self) -> list[float]:
        """V, and q(x_t = 0 | x_0 = 0) at 8 times spread over (0, T]."""
        at = self.coeffs(torch.linspace(self.T / 8, self.T, 8, dtype=torch.float64))
        return [float(self.values), *self.transition(at)[:, 0, 0].tolist()]

    def probe(self, draw: dc.Draw) -> Tensor:
        """Tokens for the conformance kit."""
        return draw.integers(self.values, (6,))

    def oracle(self) -> Chain:
        """A law of two dependent entries whose posterior is known exactly."""
        joint = torch.outer(*torch.linspace(1, 2, 2 * self.values, dtype=torch.float64).chunk(2))
        return Chain(joint + 4 * torch.eye(self.values, dtype=torch.float64))


def entries_of(process: Tokens, event: Any) -> tuple[int, ...]:
    """The shape of a sample of tokens. Raises `IncompatibleError` for an event of several leaves, or of other values."""
    leaf, name = dc.Event.of(event).leaf(f"process {type(process).__name__}"), type(process).__name__
    if leaf.values not in (None, process.values):
        raise dc.IncompatibleError(
            f"the data has tokens of {leaf.values} values, and {name} has {process.values}; set process.values: {leaf.values}"
        )
    return leaf.shape


def certain(logp: Tensor, x: Tensor, known: Tensor) -> Tensor:
    """Log-probabilities where entries that are known are their value for sure."""
    sure = torch.where(one_hot(x.clamp_max(logp.shape[-1] - 1), logp.shape[-1]) > 0, 0.0, NEVER)
    return torch.where(known[..., None], sure.to(logp.dtype), logp)


def log_share(at: Any) -> Any:
    """log(alpha / (1 - alpha)) of a point, kept finite at both ends."""
    alpha = at.alpha
    if isinstance(alpha, Tensor):
        return torch.logit(alpha.double().clamp(1e-12, 1 - 1e-12))
    alpha = min(max(alpha, 1e-12), 1 - 1e-12)
    return math.log(alpha / (1 - alpha))
