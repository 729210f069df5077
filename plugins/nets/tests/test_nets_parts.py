"""Parts of the networks against closed forms and torch's own modules."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from diffcore_nets.dit import DiT, positions
from diffcore_nets.embedding import Conditioning, fourier
from diffcore_nets.layers import PixelAttention, SelfAttention, group_norm
from diffcore_nets.mlp import MLP
from diffcore_nets.unet import UNet
from torch import nn
from torch.nn.functional import pad

import diffcore as dc


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def moved(net: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return net.double()


def test_fourier_features_have_the_closed_inner_product() -> None:
    """<e(t), e(u)> = sum_k cos(2 pi f_k (t - u)): a function of t - u, largest only where t = u on [-2, 2]."""
    t = torch.linspace(-2, 2, 81, dtype=torch.float64)[1:-1]
    e = fourier(t)
    frequency = 2.0 ** torch.linspace(-3, 4, 32, dtype=torch.float64)
    expected = torch.cos(2 * torch.pi * (t[:, None] - t)[..., None] * frequency).sum(-1)
    torch.testing.assert_close(e @ e.T, expected, rtol=0, atol=1e-9)
    off = expected - torch.diag_embed(torch.full((len(t),), torch.inf, dtype=torch.float64))
    assert off.max() < 32 - 0.5


def test_time_is_not_computed_in_half_precision() -> None:
    """bfloat16 cannot tell 0.5002 from 0.5012 (both are 0.5 there); the embedding must."""
    net = Conditioning(16, {}, second_time=False).bfloat16()
    x = torch.zeros(2, 1, dtype=torch.bfloat16)
    first, second = net(x, torch.tensor([0.5002, 0.5012]), None, {})
    assert first.dtype == torch.bfloat16
    assert not torch.equal(first, second)
    assert fourier(torch.tensor([0.5], dtype=torch.bfloat16)).dtype == torch.float32


def test_attention_is_torch_multihead_attention() -> None:
    ours, theirs = SelfAttention(24, head_width=8).double(), nn.MultiheadAttention(24, 3, batch_first=True).double()
    theirs.load_state_dict(
        {
            "in_proj_weight": ours.qkv.weight,
            "in_proj_bias": ours.qkv.bias,
            "out_proj.weight": ours.out.weight,
            "out_proj.bias": ours.out.bias,
        }
    )
    x = torch.randn(2, 7, 24, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x, x, x, need_weights=False)[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("channels", "head_width", "heads"), [(64, 32, 2), (48, 32, 1), (96, 32, 3), (16, 32, 1), (40, 16, 2)])
def test_heads_divide_the_channels(channels: int, head_width: int, heads: int) -> None:
    assert SelfAttention(channels, head_width).heads == heads


@pytest.mark.parametrize(("channels", "groups"), [(2, 1), (3, 1), (4, 1), (8, 2), (12, 1), (20, 1), (24, 2), (32, 8), (96, 8)])
def test_a_group_has_four_channels_or_more_or_all(channels: int, groups: int) -> None:
    assert group_norm(channels).num_groups == groups


def test_positions_know_their_distance() -> None:
    """<p(r, c), p(r', c')> = sum_k cos((r - r') w_k) + cos((c - c') w_k)."""
    rows, columns, width = 3, 5, 16
    p = positions(rows, columns, width).double()
    place = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).double()
    frequency = 10_000.0 ** (-torch.arange(4, dtype=torch.float64) / 4)
    expected = torch.cos((place[:, None] - place)[..., None] * frequency).sum((-1, -2))
    torch.testing.assert_close(p @ p.T, expected, rtol=0, atol=1e-5)


def test_dit_knows_where_a_patch_is_only_by_its_position() -> None:
    """Swapping two patches swaps the outputs exactly without the position embedding, and does not with it."""
    net = moved(DiT(width=16, depth=2, patch=2, head_width=8).build((1, 4, 4), {}))
    x, t = torch.randn(1, 1, 4, 4, dtype=torch.float64), torch.tensor([0.4], dtype=torch.float64)

    def asymmetry() -> float:
        return (net(x.roll(2, dims=3), t) - net(x, t).roll(2, dims=3)).abs().max().item()

    assert asymmetry() > 1e-2
    net.positions.zero_()
    assert asymmetry() < 1e-12


@pytest.mark.parametrize("network", [UNet(width=8, multipliers=(1, 1, 2)), DiT(width=8, depth=1, patch=8)], ids=["unet", "dit"])
def test_odd_sizes_are_zero_padded(network: dc.Network) -> None:
    """13 x 10 pixels give what 16 x 16 give whose rest is zero, cut back."""
    net, padded = (moved(network.build(shape, {})) for shape in ((1, 13, 10), (1, 16, 16)))
    padded.load_state_dict(net.state_dict())
    x, t = torch.randn(2, 1, 13, 10, dtype=torch.float64), torch.tensor([0.2, 0.7], dtype=torch.float64)
    torch.testing.assert_close(net(x, t), padded(pad(x, (0, 6, 0, 3)), t)[..., :13, :10], rtol=0, atol=1e-12)


def test_pixel_attention_knows_no_order() -> None:
    """Attention over pixels commutes with any rearrangement of them, such as the transpose of a 3 x 5 image."""
    attention = moved(PixelAttention(16, head_width=8))
    x = torch.randn(2, 16, 3, 5, dtype=torch.float64)
    assert (attention(x) - x).abs().max() > 1e-2
    torch.testing.assert_close(attention(x.mT), attention(x).mT, rtol=0, atol=1e-12)


def test_mlp_flattens() -> None:
    image, vector = (moved(MLP(width=16).build(shape, {})) for shape in ((2, 3, 3), (18,)))
    vector.load_state_dict(image.state_dict())
    x, t = torch.randn(4, 2, 3, 3, dtype=torch.float64), torch.rand(4, dtype=torch.float64)
    torch.testing.assert_close(image(x, t).flatten(1), vector(x.flatten(1), t), rtol=0, atol=0)


@pytest.mark.parametrize("network", [UNet(), DiT()], ids=["unet", "dit"])
def test_events_that_are_not_images_are_refused(network: dc.Network) -> None:
    with pytest.raises(dc.IncompatibleError, match=r"\(channels, height, width\).*\(2,\).*'mlp'"):
        network.build((2,), {})


def test_dit_width_must_split_into_four() -> None:
    with pytest.raises(dc.SpecError, match="multiple of 4"):
        DiT(width=10)


@pytest.mark.parametrize("fields", [{"multipliers": ()}, {"attention": (2,)}], ids=["no levels", "attention below the coarsest"])
def test_unet_levels_must_exist(fields: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(dc.SpecError, match="UNet needs 'multipliers'"):
        UNet(**fields)


@pytest.mark.parametrize(("sides", "inside"), [((4, 12), (4, 12)), ((5, 9), (8, 12))])
def test_pictures_are_padded_to_the_next_size_that_halves_and_no_further(sides: tuple[int, int], inside: tuple[int, int]) -> None:
    net, seen = UNet(width=8, multipliers=(1, 1, 1), attention=(), unshuffle=1).build((1, *sides), {}), []
    net.stem.register_forward_pre_hook(lambda module, args: seen.append(tuple(args[0].shape[2:])))
    assert net(torch.zeros(2, 1, *sides), torch.zeros(2)).shape == (2, 1, *sides)
    assert seen == [inside]
