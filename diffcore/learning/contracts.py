"""What several families speak of beside processes and networks: operators, likelihoods, rewards and densities. Bases only."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from diffcore.declare.component import Base
from diffcore.declare.kinds import kind
from diffcore.numerics.draw import Draw
from diffcore.numerics.tree import State


@kind("operator")
class Operator(Base):
    """What is measured of a sample: y = A(x_0), before the noise of the measurement. Rows are samples: x_0 [B, *event].

    Declares what it provides beyond `__call__`:

    - "linear": A is a matrix, and `adjoint` applies its transpose: <A x, y> = <x, A^T y>.
    - "svd": its singular values are known, and `pinv` applies the pseudo-inverse A^+, with A A^+ A = A.
    - "gram": `gram_solve` solves (r I + v A A^T) u = c, which a Gaussian posterior needs: for x_0 ~ N(m, v I) and
      y ~ N(A x_0, r I) its mean is m + v A^T u with c = y - A m.
    """

    provides: ClassVar[frozenset[str]] = frozenset()

    def measured(self, event: Any) -> Any:
        """The event of y for samples of an event. Raises `IncompatibleError` for what it cannot measure."""
        raise NotImplementedError

    def __call__(self, x0: State) -> State:
        """y = A(x_0), row by row and differentiable."""
        raise NotImplementedError

    def adjoint(self, y: State) -> State:
        """A^T y, of the shape of x_0. Of operators that provide "linear"."""
        raise NotImplementedError

    def pinv(self, y: State) -> State:
        """A^+ y, the least x_0 of those with the least |A x_0 - y|. Of operators that provide "svd"."""
        raise NotImplementedError

    def gram_solve(self, r: Tensor | float, v: Tensor | float, c: State) -> State:
        """u with (r I + v A A^T) u = c, of the shape of y; r > 0 and v >= 0 are numbers, or tensors that broadcast with c.

        Of operators that provide "gram".
        """
        raise NotImplementedError


@kind("likelihood")
class Likelihood(Base):
    """The law of a measurement given the sample, p(y | x_0): what is measured, and with which noise."""

    def log_prob(self, x0: State, y: State) -> Tensor:
        """log p(y | x_0) with its constant [B], summed over the entries of y, differentiable in both."""
        raise NotImplementedError

    def sample(self, x0: State, draw: Draw) -> State:
        """One y ~ p(y | x_0) per row. All randomness comes from `draw`."""
        raise NotImplementedError


@kind("reward")
class Reward(Base):
    """How good samples are: r(x_0), or r(x_0, cond); larger is better.

    Sampling can be tilted towards p(x_0) exp(r(x_0)). needs: "grad" where it is differentiable and to be differentiated.
    """

    needs: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, x0: State, **cond: Any) -> Tensor:
        """r of every row [B]; a row's reward depends on no other row."""
        raise NotImplementedError


@kind("density")
class Density(Base):
    """A law that is known by its density up to a constant, log p(x) = -E(x) + const, and not by samples: an energy, a fitness.

    provides: "grad" where log p is differentiable, so that grad log p is its score; "normalised" where the constant is known.
    """

    provides: ClassVar[frozenset[str]] = frozenset({"grad"})

    @property
    def event(self) -> Any:
        """What one x is."""
        raise NotImplementedError

    def log_prob(self, x: State) -> Tensor:
        """log p(x) up to a constant, of every row [B]; -inf outside of the support."""
        raise NotImplementedError
