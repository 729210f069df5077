"""D3PM: a Markov chain in discrete time, given by its transition matrices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

import diffcore as dc

from .categorical import Categorical, one_hot
from .matrices import between, products
from .schedule import Schedule, kept
from .tokens import Tokens, certain


class Level(NamedTuple):
    """A time t in [0, 1] and the number of steps of the chain until then."""

    t: Any
    time: Any = None
    level: Any = 0

    def map(self, fn: Any) -> Level:
        """Apply `fn` to every entry that is a tensor."""
        return Level(*(fn(v) if isinstance(v, Tensor) else v for v in self))

    def cast(self, dtype: torch.dtype) -> Level:
        """Times at least in float32."""
        return self.map(lambda v: v.to(torch.promote_types(dtype, torch.float32)))

    def at(self, index: Any) -> Level:
        """The levels at some of the times."""
        return self.map(lambda v: v[index])


@dc.component
class D3PM(Tokens):
    """q(x_k | x_0) = row x_0 of Q_1 ... Q_k, k = 1 to N; the time of level k is t = k / N.

    The reverse step from k to j < k, with the network's p(x_0 | x_k) in the place of x_0:

        p(x_j = y | x_k = x) = sum_a p(a | x_k) [Q_(j+1) ... Q_k]_yx [Q_1 ... Q_j]_ay / [Q_1 ... Q_k]_ax.

    absorbing: to the mask V, with alpha_k of the schedule still showing; uniform: redrawn from all values, likewise; gaussian: to
    neighbouring values, for ordered ones such as grey levels, with betas linear between two ends. Times between levels count as
    the level above. Runs eagerly only: matrices are looked up by number.

    Raises `SpecError` where the chain has not come within 0.05 (total variation) of its stationary law after N steps.
    """

    source: ClassVar[str] = "Austin et al. 2021, arXiv 2107.03006"
    items: ClassVar[tuple[str, ...]] = ("12.01", "12.05")
    provides: ClassVar[frozenset[str]] = frozenset({"tokens", "reverse", "levels"})
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = ({"matrix": "gaussian", "values": 8},)

    matrix: Literal["absorbing", "uniform", "gaussian"] = dc.param(default="uniform", doc="the family of transition matrices")
    levels: int = dc.param(default=100, ge=2, le=10_000, doc="steps N of the chain")
    schedule: Schedule = dc.param(default="cosine", doc="alpha at k / N (absorbing, uniform)")
    beta: tuple[float, float] = dc.param(default=(0.02, 1.0), gt=0, le=1e6, doc="first and last beta (gaussian)")

    def __attrs_post_init__(self) -> None:
        if self.levels * self.states**2 > 2**26:
            raise dc.SpecError(
                f"d3pm keeps a matrix of {self.states} x {self.states} for each of {self.levels} levels, more than 2^26 numbers; "
                f"take fewer values or levels, or 'masked' or 'uniform-tokens', which keep none"
            )
        left = float((products(self)[-1][: self.values] - self.prior_probs).abs().sum(-1).max() / 2)
        if left > 0.05:
            raise dc.SpecError(
                f"after {self.levels} levels d3pm is {left:.2f} (total variation) from its stationary law; raise beta or levels"
            )

    @property
    def states(self) -> int:
        """V values, and the mask of the absorbing chain."""
        return self.values + (self.matrix == "absorbing")

    @property
    def mask(self) -> int | None:
        """The state of a masked entry, where there is one."""
        return self.values if self.matrix == "absorbing" else None

    @property
    def min_time(self) -> float:
        """The first level."""
        return 1 / self.levels

    @property
    def prior_probs(self) -> Tensor:
        """The stationary law: the mask, or uniform."""
        return one_hot(torch.tensor(self.mask), self.states) if self.mask is not None else super().prior_probs

    def betas(self) -> Tensor:
        """beta_1 to beta_N, float64."""
        if self.matrix == "gaussian":
            return torch.linspace(*self.beta, self.levels, dtype=torch.float64)
        alpha = kept(self.schedule, torch.linspace(0, 1, self.levels + 1, dtype=torch.float64)).alpha
        return 1 - alpha[1:] / alpha[:-1]

    def coeffs(self, t: Tensor) -> Level:
        """The level at or above t."""
        return Level(t, None, (t * self.levels - 1e-5).ceil())

    def default_grid(self, steps: int, start: float) -> Tensor:
        """Levels spread evenly from `start` to 0. Raises `SpecError` for more steps than levels."""
        top = start * self.levels
        if steps > top + 1e-6:
            raise dc.SpecError(f"d3pm has {round(top)} levels below t = {start:g}, too few for {steps} steps")
        nodes = torch.linspace(top, 0, steps + 1, dtype=torch.float64).round() / self.levels
        nodes[0] = start
        return nodes

    def _table(self, x: Tensor, at: Level) -> Tensor:
        """Q_1 ... Q_k per entry or for all of them: [(B, 1, ...,)] K, K."""
        level = torch.as_tensor(at.level, device=x.device).round().long()
        return products(self).to(x.device)[dc.expand(level, x)]

    def marginal(self, x0: Tensor, at: Level) -> Tensor:
        """Row x_0 of the product of all steps."""
        table = self._table(x0, at)
        return table[x0] if table.ndim == 2 else _rows(table, x0)

    def kernel(self, x: Tensor, t: Level, s: Level, probs: Tensor) -> Tensor:
        """Bayes' rule, normalised."""
        likelihood = _rows(self._table(x, t).mT, x)[..., : self.values].clamp_min(1e-30)
        before = self._table(x, s)[..., : self.values, :]
        law = ((probs / likelihood)[..., None, :] @ before)[..., 0, :] * _rows(self._step(x, t, s).mT, x)
        return law / law.sum(-1, keepdim=True).clamp_min(1e-300)

    def _step(self, x: Tensor, t: Level, s: Level) -> Tensor:
        high, low = torch.broadcast_tensors(*(torch.as_tensor(v.level).round().long() for v in (t, s)))
        pairs = zip(low.flatten().tolist(), high.flatten().tolist(), strict=True)
        made = torch.stack([between(self, j, k) for j, k in pairs]).to(x.device)
        return _shaped(made, high, x)

    def posterior(self, x: Tensor, out: Tensor, at: Level, reading: dc.Reading) -> Categorical:
        """Logits; what shows is certain where there is a mask."""
        logp = out.log_softmax(-1)
        return Categorical(x, at, logp if self.mask is None else certain(logp, x, x != self.mask))


def _shaped(made: Tensor, level: Tensor, x: Tensor) -> Tensor:
    """Matrices [n, K, K] of the levels, lifted from the left against x."""
    shape = dc.expand(level, x).shape if level.ndim else ()
    return made.reshape(*shape, *made.shape[-2:])


def _rows(table: Tensor, x: Tensor) -> Tensor:
    """Row x of each matrix: (*x.shape, K)."""
    wide = table.expand(*x.shape, *table.shape[-2:])
    index = x[..., None, None].expand(*x.shape, 1, table.shape[-1])
    return wide.gather(-2, index)[..., 0, :]
