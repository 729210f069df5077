"""A VAE of perceptrons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import nn

import diffcore as dc

from .fitting import checked_shape
from .module import Flat, VAEModule

ONE_JUMP: dict[str, str] = {
    "uses_every_input": "a jump has one time, t = T: the decoder does not read it",
    "every_parameter_learns": "sampling uses the decoder only; the encoder learns by the loss",
}


@dc.component
class MLPVAE(dc.Network):
    """Encoder and decoder are perceptrons of flattened events, with vectors added for conditions; affine where depth is 0.

    With depth 0, one latent level and a learned std it is probabilistic PCA with an affine encoder.
    """

    source: ClassVar[str] = "Kingma and Welling 2014, arXiv 1312.6114, appendix C; Tipping and Bishop 1999 (depth 0)"
    items: ClassVar[tuple[str, ...]] = ("2.03",)
    example: ClassVar[Mapping[str, Any]] = {"latents": [[4]]}
    event_shape: ClassVar[tuple[int, ...]] = (4,)
    expected_failures: ClassVar[Mapping[str, str]] = ONE_JUMP

    latents: tuple[tuple[int, ...], ...] = dc.param(le=65_536, doc="shapes of the latents, as in process 'vae'")
    width: int = dc.param(default=256, ge=1, le=65_536, doc="hidden units")
    depth: int = dc.param(default=2, ge=0, le=1000, doc="hidden layers of encoder, decoder and between levels")
    decoder: Literal["gaussian", "bernoulli"] = dc.param(default="gaussian", doc="the density of data given latents")
    std: float | None = dc.param(default=None, gt=0, le=1e6, doc="standard deviation of a Gaussian decoder; null: learned")

    def build(self, event: Any, cond: Mapping[str, int], outputs: Any = None) -> nn.Module:
        """The module for one tensor of any shape."""
        shape = checked_shape(self, self.latents, event, outputs)
        first, sizes = self.latents[0], (self.width, self.depth)
        halves = Flat(shape, (2, *first), *sizes, cond), Flat(first, shape, *sizes, cond)
        return VAEModule(shape, self.latents, cond, halves, sizes, self.decoder, self.std)
