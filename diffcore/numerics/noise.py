"""The law of the elementary noise of a process: one value, used by its prior, its corruption, every solver and the score."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from diffcore.declare.component import Base, component, param
from diffcore.declare.errors import DataError, SpecError
from diffcore.declare.kinds import kind
from diffcore.numerics.draw import Draw
from diffcore.numerics.tree import State, leaves

PART = 0x9A27
"""Salt of the noise of a part, which separates it from the other noises of a step."""


@kind("noise")
class NoiseLaw(Base):
    """The law of eps in x_t = alpha_t x_0 + sigma_t eps: of mean 0 and covariance C, the identity where it is white.

    A law that needs several draws folds a number of its own into the key (`draw.fold(SALT)`): small ones are those of solvers.

    A law with another C gives `like`, `whiten` and `covariance`: white noise z times any root of C, C^-1 and C. Where C has no
    inverse (noise that is equal in several entries), `whiten` is C^+, its inverse on the states that occur.

    `gaussian`: whether it is normal, so that a score and a reverse kernel follow from the posterior mean.
    """

    gaussian: ClassVar[bool] = True

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The shape of one state, where the law is for states of one shape only."""
        return None

    def like(self, x: State, draw: Draw) -> State:
        """One draw per row, of the shapes and dtypes of x."""
        raise NotImplementedError

    def whiten(self, eps: State) -> State:
        """C^-1 eps, row by row: the score of x_t is -C^-1 E[eps | x_t] / sigma_t."""
        raise NotImplementedError

    def covariance(self, v: State) -> State:
        """C v, row by row."""
        raise NotImplementedError

    def log_prob(self, eps: State) -> Tensor:
        """log density of each row, [B]."""
        raise NotImplementedError


@component
class White(NoiseLaw):
    """eps ~ N(0, I), C = I: independent entries, standard normal where they are real, and uniform on [0, 1), in float64, where
    the state has integers.

    A uniform number is what an entry of tokens is drawn from, by inversion of its distribution.
    """

    def like(self, x: State, draw: Draw) -> State:
        """Each leaf of a tree has its own stream."""
        if all(leaf.is_floating_point() for leaf in leaves(x)):
            return draw.normal_like(x)
        return draw.leafwise(x, lambda d, leaf: d.normal_like(leaf) if leaf.is_floating_point() else d.uniform_like(leaf))

    def whiten(self, eps: State) -> State:
        """Eps."""
        return eps

    def covariance(self, v: State) -> State:
        """V."""
        return v

    def log_prob(self, eps: State) -> Tensor:
        """-(|eps|^2 + n log 2 pi) / 2 of the n real entries of each row."""
        real = [leaf.flatten(1) for leaf in leaves(eps) if leaf.is_floating_point()]
        return -sum((leaf.square().sum(1) + leaf.shape[1] * math.log(2 * math.pi)) / 2 for leaf in real)  # pyright: ignore[reportReturnType]


@component
class ByPart(NoiseLaw):
    """A law for each part of a sample that is a tree, all independent: C = diag(C_1, ..., C_k). `parts` names every part.

    Raises `DataError` for a state with other parts.
    """

    example: ClassVar[Mapping[str, Any]] = {"parts": {"x": {"type": "white"}, "y": {"type": "white"}}}

    parts: Mapping[str, NoiseLaw] = param(doc="part -> its law, such as {x: {type: white}}")

    def __attrs_post_init__(self) -> None:
        """Refuse a law of no part."""
        if not self.parts:
            raise SpecError("'parts' of ByPart must name the law of each part, such as {x: {type: white}}; got none")

    def like(self, x: State, draw: Draw) -> State:
        """Each part has its own stream."""
        self._check(x)
        return {name: self.parts[name].like(x[name], draw.fold(PART, i)) for i, name in enumerate(sorted(x))}

    def whiten(self, eps: State) -> State:
        """Part by part."""
        return {name: self.parts[name].whiten(part) for name, part in eps.items()}

    def covariance(self, v: State) -> State:
        """Part by part."""
        return {name: self.parts[name].covariance(part) for name, part in v.items()}

    def log_prob(self, eps: State) -> Tensor:
        """The sum over parts."""
        return sum(self.parts[name].log_prob(part) for name, part in eps.items())  # pyright: ignore[reportReturnType]

    def _check(self, x: State) -> None:
        found = set(x) if isinstance(x, Mapping) else {"a single tensor"}
        if found != set(self.parts):
            has = ", ".join(sorted(map(str, found)))
            raise DataError(
                f"the noise has laws for the parts {', '.join(self.parts)}, and the sample has {has}; name the law of each part "
                f"in noise.parts"
            )


WHITE = White()
"""The law of every process that names no other."""
