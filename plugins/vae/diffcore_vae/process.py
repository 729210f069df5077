"""What a variational autoencoder is to the core: a process of one jump."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

import diffcore as dc

REFUSAL = "a VAE has no noised data at a time: its latents come from its encoder (loss 'vae', data 'latent')"


class Decoded:
    """What the decoder says of x_0 given the latents: its mean, like x_0."""

    def __init__(self, mean: Tensor) -> None:
        self.mean = mean

    def detach(self) -> Decoded:
        """Without history."""
        return Decoded(self.mean.detach())


@dc.component
class OneJump(dc.Process):
    """At t = T = 1 the state is standard normal noise of the shapes of the latents, at t = 0 it is data; nothing is in between.

    latents: the shapes of z_1, ..., z_L, from the one next to the data to the top. With one the noise is z_1 itself and a tensor
    (B, *latents[0]); with several it is a tuple of them, and z_L = eps_L, z_i = mean_i(z_{i+1}) + std_i(z_{i+1}) eps_i.

    Provides "latents". Prediction: "decoder", the mean of p(x_0 | z_1). `corrupt` raises `IncompatibleError`.
    """

    source: ClassVar[str] = "Kingma and Welling 2014, arXiv 1312.6114; Lai et al. 2025, arXiv 2510.21890, sections 2.1-2.2"
    provides: ClassVar[frozenset[str]] = frozenset({"latents"})
    predictions: ClassVar[tuple[str, ...]] = ("decoder",)
    example: ClassVar[Mapping[str, Any]] = {"latents": [[6]]}
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = ({"latents": [[6], [3]]},)
    expected_failures: ClassVar[Mapping[str, str]] = {"noise_is_an_argument": REFUSAL}

    latents: tuple[tuple[int, ...], ...] = dc.param(
        le=65_536, doc="shapes of the latents, from the one next to the data to the top"
    )

    def __attrs_post_init__(self) -> None:
        check_latents(self.latents, type(self).__name__)

    def prior(self, event: Any, draw: dc.Draw) -> dc.State:
        """N(0, I) for every latent, whatever the event."""
        return noises(self.latents, draw)

    def corrupt(self, x0: dc.State, t: Tensor, draw: dc.Draw, eps: dc.State = None) -> dc.Corruption:
        """Raises `IncompatibleError`."""
        raise dc.IncompatibleError(REFUSAL)

    def posterior(self, x: dc.State, out: Tensor, at: Any, reading: dc.Reading) -> Decoded:
        """The output is the decoder's mean."""
        return Decoded(out)

    def fingerprint(self) -> list[float]:
        """The sides of the latents."""
        return [float(side) for shape in self.latents for side in (len(shape), *shape)]


def noises(latents: tuple[tuple[int, ...], ...], draw: dc.Draw) -> dc.State:
    """Standard normal noise for each latent: a tensor where there is one, else a tuple."""
    made = tuple(draw.fold(i).normal(shape) for i, shape in enumerate(latents))
    return made[0] if len(made) == 1 else made


def check_latents(latents: tuple[tuple[int, ...], ...], name: str) -> None:
    """Raise `SpecError` for no latents, or sides below 1."""
    if not latents or any(not shape or min(shape) < 1 for shape in latents):
        raise dc.SpecError(f"'latents' of {name} is a list of shapes such as [[4, 7, 7]], sides of 1 or more; got {latents}")
