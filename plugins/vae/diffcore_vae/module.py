"""What the networks share: encoder, decoder, the maps between levels, and the density of data given latents."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

import diffcore as dc

from .gaussians import Normal, total

Shape = tuple[int, ...]
FIRST_STD = 0.3
"""First value of a learned standard deviation of the decoder, for data in [-1, 1]."""
LOG_VAR = (-20.0, 10.0)
"""Bounds of log-variances, which keep a bad step of the optimiser from ending in infinity."""


class Conditioned(nn.Module):
    """`first`, plus a vector for each condition (the last row of its table is the null token), then `rest`."""

    def __init__(self, first: nn.Module, channels: int, rest: nn.Module, cond: Mapping[str, int]) -> None:
        super().__init__()
        self.first, self.rest, self.null = first, rest, dict(cond)
        self.tables = nn.ModuleDict({name: nn.Embedding(count + 1, channels) for name, count in cond.items()})

    def forward(self, x: Tensor, cond: Mapping[str, Any]) -> Tensor:
        """Conditions are (B,) or absent."""
        h = self.first(x)
        for name, table in self.tables.items():
            label = cond.get(name)
            index = torch.full((len(x),), self.null[name], device=x.device) if label is None else label
            h = h + dc.expand(table(index), h)
        return self.rest(h)


def perceptron(inputs: int, outputs: int, width: int, depth: int, cond: Mapping[str, int]) -> Conditioned:
    """`depth` hidden layers with SiLU; affine where depth is 0."""
    if depth == 0:
        return Conditioned(nn.Linear(inputs, outputs), outputs, nn.Identity(), cond)
    hidden = [layer for _ in range(depth - 1) for layer in (nn.Linear(width, width), nn.SiLU())]
    return Conditioned(nn.Linear(inputs, width), width, nn.Sequential(nn.SiLU(), *hidden, nn.Linear(width, outputs)), cond)


class Flat(nn.Module):
    """A perceptron between events of two shapes."""

    def __init__(self, inputs: Shape, outputs: Shape, width: int, depth: int, cond: Mapping[str, int]) -> None:
        super().__init__()
        self.outputs, self.body = outputs, perceptron(math.prod(inputs), math.prod(outputs), width, depth, cond)

    def forward(self, x: Tensor, cond: Mapping[str, Any]) -> Tensor:
        """(B, *inputs) to (B, *outputs)."""
        return self.body(x.flatten(1), cond).reshape(len(x), *self.outputs)


class VAEModule(nn.Module):
    """p(x | z_1) prod_i p(z_i | z_{i+1}) N(z_L; 0, I) and q(z_1 | x) prod_i q(z_{i+1} | z_i), all diagonal.

    encoder: (B, *shape) -> mean and log-variance, (B, 2 C, ...) for z_1 of shape (C, ...); decoder: (B, C, ...) -> (B, *shape),
    the mean, or the logits of a Bernoulli decoder. Between the levels are perceptrons of `width` and `depth`.
    std: the standard deviation of a Gaussian decoder; None: one learned number.
    """

    def __init__(
        self,
        shape: Shape,
        latents: Sequence[Shape],
        cond: Mapping[str, int],
        halves: tuple[nn.Module, nn.Module],
        between: tuple[int, int],
        decoder: Literal["gaussian", "bernoulli"],
        std: float | None,
    ) -> None:
        super().__init__()
        self.shape, self.latents, self.likelihood = tuple(shape), tuple(latents), decoder
        self.null_cond, (self.encoder, self.decoder) = dict(cond), halves
        steps = list(pairwise(latents))
        self.ups = nn.ModuleList(Flat(low, (2, *high), *between, {}) for low, high in steps)
        self.downs = nn.ModuleList(Flat(high, (2, *low), *between, {}) for low, high in steps)
        log_std = torch.tensor(math.log(FIRST_STD if std is None else std))
        self.log_std = nn.Parameter(log_std) if std is None and decoder == "gaussian" else nn.Buffer(log_std)

    def posterior(self, x: Tensor, **cond: Any) -> Normal:
        """q(z_1 | x)."""
        return halved(self.encoder(x, cond), self.latents[0])

    def up(self, i: int, z: Tensor) -> Normal:
        """q(z_{i+1} | z_i), where i = 0 stands for z_1."""
        return halved(self.ups[i](z, {}), self.latents[i + 1])

    def down(self, i: int, z: Tensor) -> Normal:
        """p(z_i | z_{i+1})."""
        return halved(self.downs[i](z, {}), self.latents[i])

    def decode(self, z: Tensor, **cond: Any) -> Tensor:
        """E[x | z_1], (B, *shape)."""
        out = self.decoder(z, cond)
        return torch.tanh(out / 2) if self.likelihood == "bernoulli" else out

    def log_likelihood(self, x: Tensor, z: Tensor, **cond: Any) -> Tensor:
        """log p(x | z_1) in nats, (B,).

        Gaussian: N(x; decoder(z_1), std^2), a density on [-1, 1] units. Bernoulli: y log p + (1 - y) log(1 - p), y = (x + 1) / 2.
        """
        out = self.decoder(z, cond)
        if self.likelihood == "bernoulli":
            y = (x + 1) / 2
            return total(y * logsigmoid(out) + (1 - y) * logsigmoid(-out))
        return total(Normal(out, (2 * self.log_std).expand_as(out)).log_prob(x))

    def forward(self, x: dc.State, t: Tensor, s: Tensor | None = None, **cond: Any) -> Tensor:
        """The mean of the data made of the noises x (see process 'vae'). Raises `IncompatibleError` for any other state."""
        eps = x if isinstance(x, tuple) else (x,)
        if [tuple(e.shape[1:]) for e in eps] != list(self.latents):
            raise dc.IncompatibleError(
                f"the network decodes latents of shapes {list(self.latents)}, the state has {[tuple(e.shape[1:]) for e in eps]}; "
                f"it goes with process: {{type: vae}} of the same latents"
            )
        z = eps[-1]
        for i in reversed(range(len(eps) - 1)):
            z = self.down(i, z).sample(eps[i])
        return self.decode(z, **cond)


def halved(out: Tensor, shape: Shape) -> Normal:
    """A network's output (B, 2 C, ...) as mean and log-variance of `shape`."""
    mean, log_var = out.reshape(len(out), 2, *shape).unbind(1)
    return Normal(mean, log_var.clamp(*LOG_VAR))
