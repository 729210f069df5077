"""A codec: a trained encoder and decoder with the moments of its latents, which says itself how it is built."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import attrs
import safetensors.torch
import torch
from torch import Tensor, nn

import diffcore as dc

from .module import Shape, VAEModule


class Codec(nn.Module):
    """z = (E[z_1 | x] - mean) / std and back, mean and std one per channel of z_1.

    Its state holds a header (JSON as bytes: `{"network": {"type": ..., fields}, "shape": [...]}`), the moments and the weights
    `net.*`, so that a state can be loaded into an empty codec. `ready`: whether there are weights; `fitted`: whether there are
    moments.
    """

    header: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, header: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        for name in ("mean", "std"):
            self.register_buffer(name, torch.zeros(0))
        self.register_buffer("header", torch.zeros(0, dtype=torch.uint8))
        self.net: VAEModule | None = None
        if header is not None:
            self._become(torch.tensor(list(json.dumps(header, sort_keys=True).encode()), dtype=torch.uint8))

    def _become(self, header: Tensor) -> None:
        """Take the shape that a header describes."""
        told = json.loads(bytes(header.tolist()))
        network = dc.Registry.load().make("network", told["network"])
        with torch.random.fork_rng(devices=[]):
            self.net = network.build(tuple(told["shape"]), {}).to(self.header.device).eval().requires_grad_(False)
        self.mean, self.std = (self.header.new_zeros(self.latent[0], dtype=torch.float32) for _ in range(2))
        self.header = header.to(self.header.device)

    @property
    def ready(self) -> bool:
        """Whether there are weights."""
        return self.net is not None

    @property
    def fitted(self) -> bool:
        """Whether there are moments; a standard deviation is never 0 then."""
        return self.ready and bool((self.std > 0).all())

    @property
    def shape(self) -> Shape:
        """The event shape of the data."""
        return self._net.shape

    @property
    def latent(self) -> Shape:
        """The event shape of z_1."""
        return self._net.latents[0]

    @property
    def _net(self) -> VAEModule:
        if self.net is None:
            raise dc.DataError("the codec has no weights")
        return self.net

    def means(self, x: Tensor) -> Tensor:
        """E[z_1 | x] for data (B, *shape)."""
        return self._net.posterior(x).mean

    def encode(self, x: Tensor) -> Tensor:
        """Standardised latents (B, *latent)."""
        return (self.means(x) - _lifted(self.mean, self.latent)) / _lifted(self.std, self.latent)

    def decode(self, z: Tensor) -> Tensor:
        """Data (B, *shape) of standardised latents."""
        return self._net.decode(z * _lifted(self.std, self.latent) + _lifted(self.mean, self.latent))

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Any codec's state; the header in it decides how this one is built."""
        header = state_dict.get("header")
        if isinstance(header, Tensor) and header.numel() and not torch.equal(header.cpu(), self.header.cpu()):
            self._become(header)
        return super().load_state_dict(state_dict, strict, assign)

    def export(self, path: str | Path) -> None:
        """Write the layout that `codec_of` reads: tensors mean, std and net.*, and the header as metadata 'codec'."""
        tensors = {name: value.cpu().contiguous() for name, value in self.state_dict().items() if name != "header"}
        Path(path).write_bytes(safetensors.torch.save(tensors, {"codec": bytes(self.header.tolist()).decode()}))


def _lifted(moment: Tensor, shape: Shape) -> Tensor:
    return moment.reshape(-1, *[1] * (len(shape) - 1))


def codec_of(path: str | Path) -> Codec:
    """The codec of a run directory, of its weights file, or of a plain safetensors file.

    A plain file has metadata 'codec', the header as JSON; tensors `net.*`, the state of that network; and `mean` and `std`, one
    number per channel of the latents, or zeros (or neither) for moments that are still to be fitted. Raises `DataError` for
    anything else.
    """
    path = dc.user_path(path)
    if path.is_dir():
        return _of_run(path)
    tensors, told = dc.read_tensors(dc.user_file(path))
    return _of_file(path, told["codec"], tensors) if "codec" in told else _of_run(path)


def _of_file(path: Path, told: str, tensors: dict[str, Tensor]) -> Codec:
    try:
        codec = Codec(json.loads(told))
        codec.load_state_dict({**{k: v for k, v in codec.state_dict().items() if not k.startswith("net.")}, **tensors})
    except Exception as error:
        raise dc.DataError(f"codec {path} does not fit the header in its metadata: {error}") from None
    return codec


def _of_run(path: Path) -> Codec:
    try:
        pipeline = dc.Pipeline.load(path, device="cpu")
    except dc.DiffcoreError as error:
        raise dc.DataError(f"codec {path} cannot be used: {error}") from None
    net, network = cast(Any, pipeline.net), pipeline.spec.network
    if not hasattr(net, "posterior"):
        raise dc.DataError(f"{path} is no run of a VAE (process 'vae'); its network is {type(network).__name__}")
    if net.null_cond:
        raise dc.DataError(f"the VAE of {path} needs conditions {sorted(net.null_cond)}; train it with data.conditional: false")
    told = {"type": pipeline.registry.id_of(type(network)), **attrs.asdict(network)}  # type: ignore[arg-type]
    codec = Codec({"network": told, "shape": list(net.shape)})
    codec.load_state_dict({**codec.state_dict(), **{f"net.{k}": v for k, v in net.state_dict().items()}})
    return codec
