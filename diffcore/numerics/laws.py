"""The distribution of one stochastic step, and the log-probability of stored trajectories."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor

from diffcore.declare.errors import NumericsError
from diffcore.numerics.tree import Scalar, State, expand, leaves, lincomb, tree_map

if TYPE_CHECKING:
    from diffcore.numerics.process import Process


class Law(Protocol):
    """The distribution of x_s in one step: what `Process.reverse_law` and `dc.kernel` return."""

    def sample(self, z: State) -> State:
        """x_s from the elementary noise z, of the law `Process.noise`."""
        ...

    def log_prob(self, x: State) -> Tensor:
        """log density (or log probability, for tokens) of x_s = x, over all entries of a sample: [B]."""
        ...


class GaussianLaw(NamedTuple):
    """x_s = mean + std z, z the noise of the process: N(mean, std^2 C), C the identity where the noise is white.

    std: a number, or a tensor that `expand` lifts against the state.
    """

    mean: State
    std: Scalar
    process: Process

    def sample(self, z: State) -> State:
        """Mean + std z."""
        return lincomb((1, self.mean), (self.std, z))

    def noise_of(self, x: State) -> State:
        """The z that leads to x_s = x."""
        return tree_map(lambda a, b: (a - b) / expand(self.std, a), x, self.mean)

    def log_prob(self, x: State) -> Tensor:
        """log p(z) - n log std of the n entries of a sample, [B]. Raises `NumericsError` where std = 0: there is no density."""
        if not isinstance(self.std, Tensor) and self.std == 0:
            raise NumericsError("this step draws no noise: it has no density")
        scale = [expand(torch.as_tensor(self.std, dtype=leaf.dtype, device=leaf.device), leaf) for leaf in leaves(x)]
        volume = [s.log().expand_as(leaf) for s, leaf in zip(scale, leaves(x), strict=True)]
        return self.process.noise.log_prob(self.noise_of(x)) - _total(volume)


def _total(each: Sequence[Tensor]) -> Tensor:
    """Numbers of all entries of a sample, added up: [B]."""
    return reduce(torch.add, [leaf.reshape(len(leaf), -1).sum(1) for leaf in each])
