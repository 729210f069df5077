"""Keyed noise: bit-equal for any partition, no two streams alike, and statistically what it says it is."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import diffcore as dc
from diffcore.numerics.draw import _permute32, mix
from diffcore.testing.base import poisoned_noise

DOUBLE = torch.float64
SPLITS = [[64], [1] * 64, [7] * 9 + [1], [33, 31]]


def parts(sizes):
    start = 0
    for size in sizes:
        yield range(start, start + size)
        start += size


@pytest.mark.parametrize("sizes", SPLITS, ids=["64", "1s", "7s", "33+31"])
@pytest.mark.parametrize("block", [1, 8, 32])
def test_noise_is_bit_equal_for_any_partition(sizes, block):
    """The draws of samples 0..63, computed in parts, are those of the whole: for own streams and for shared blocks."""
    whole = dc.Draw(5, range(64), index=3, block=block, total=64)
    split = [dc.Draw(5, ids, index=3, block=block, total=64) for ids in parts(sizes)]
    for draw in ("normal", "uniform"):
        assert torch.equal(torch.cat([getattr(d, draw)((2, 3)) for d in split]), getattr(whole, draw)((2, 3)))
    assert torch.equal(torch.cat([d.integers(10) for d in split]), whole.integers(10))
    assert torch.equal(torch.cat([d.fold(4).at(9).normal((2,)) for d in split]), whole.fold(4).at(9).normal((2,)))


@pytest.mark.parametrize("block", [1, 4, 8])
@pytest.mark.parametrize("rows", [[7, 2, 2], [2, 3, 9, 4], [9, 8], [0]], ids=str)
def test_rows_follow_their_ids_not_their_places(block, rows):
    """In any order, with gaps and repetitions, from a list, a tensor or a part of a larger draw."""
    whole = dc.Draw(1, range(10), block=block)
    for draw in (dc.Draw(1, rows, block=block), dc.Draw(1, torch.tensor(rows), block=block), whole.take(rows)):
        assert torch.equal(draw.normal((4,)), whole.normal((4,))[rows])


def test_the_same_call_gives_the_same_numbers_and_changes_nothing():
    draw = dc.Draw(1, range(3))
    first = draw.normal((2,))
    draw.at(4).normal((2,))
    draw.fold(1).uniform()
    assert torch.equal(draw.normal((2,)), first)
    longer = draw.normal((5,))
    assert longer.shape == (3, 5)


def test_the_global_generator_is_never_touched():
    with poisoned_noise():
        draw = dc.Draw(1, range(3))
        for made in (
            draw.normal((2,)),
            draw.uniform(),
            draw.integers(5),
            draw.normal_like(torch.zeros(3, 2)),
            draw.fold(1, 2).at(3),
        ):
            del made
        draw.shared_uniform()


def test_no_two_streams_share_a_seed():
    """The 32-bit seeds of 1500 samples x 100 draws are all different, within one seed and purpose."""
    draw = dc.Draw(11, range(1))
    seeds = {draw.at(i)._seed(unit, 1) for unit in range(1500) for i in range(100)}
    assert len(seeds) == 150_000
    assert all(0 <= s < 2**32 for s in list(seeds)[:1000])


@pytest.mark.parametrize("key", [0, 1, 0xDEADBEEF12345678, 2**64 - 1])
def test_the_permutation_of_32_bits_is_one(key):
    """No two of 2^20 inputs spread over the range meet; a map that lost one bit would let hundreds meet."""
    inputs = np.arange(2**20, dtype=np.uint64) * np.uint64(4093)
    outputs = _permute32(inputs, np.uint64(key))  # type: ignore[arg-type]
    assert len(np.unique(outputs)) == 2**20
    assert int(outputs[7]) == _permute32(7 * 4093, key)


def test_ids_and_draws_beyond_the_packed_bits_stay_distinct():
    """From sample 2^20 and draw 2^12 on the high bits enter the key."""
    draws = [dc.Draw(0, [i]).at(k).normal((4,)) for i in (0, 2**20, 2**21, 2**40) for k in (0, 2**12, 2**13)]
    for i, a in enumerate(draws):
        assert not any(torch.equal(a, b) for b in draws[:i])


def test_one_bit_of_a_key_changes_half_the_hash():
    """Over 64 single-bit changes of each of three keys the mean number of changed bits is 32 within 4.5 s.e."""
    changed = [
        (mix(*keys) ^ mix(*keys[:place], keys[place] ^ (1 << bit), *keys[place + 1 :])).bit_count()
        for keys in ((1, 2, 3), (0, 0, 0), (7, 1 << 40, 5))
        for place in range(3)
        for bit in range(64)
    ]
    assert abs(sum(changed) / len(changed) - 32) < 4.5 * 4 / math.sqrt(len(changed))
    assert min(changed) > 8
    assert mix(1, 2) != mix(2, 1)


def streams():
    base = dc.Draw(3, range(64))
    return {
        "seed": dc.Draw(4, range(64)),
        "index": base.at(1),
        "fold": base.fold(1),
        "fold twice": base.fold(1).fold(2),
        "fold pair": base.fold(1, 2),
        "ids": dc.Draw(3, range(64, 128)),
    }


@pytest.mark.parametrize("name", streams())
def test_other_seeds_draws_purposes_and_samples_are_uncorrelated(name):
    """Correlation of 64 x 2000 pairs within 4.5 / sqrt(n), also of their squares."""
    a, b = (d.normal((2000,), DOUBLE) for d in (dc.Draw(3, range(64)), streams()[name]))
    n = a.numel()
    assert abs(float((a * b).mean())) < 4.5 / n**0.5
    assert abs(float((a**2 * b**2).mean()) - 1) < 4.5 * 8**0.5 / n**0.5


@pytest.mark.parametrize("block", [1, 16])
def test_neighbouring_samples_and_draws_are_uncorrelated(block):
    """The mean product of rows i and i + 1, and of draws k and k + 1, over 200 x 500 numbers."""
    x = dc.Draw(3, range(200), block=block).normal((500,), DOUBLE)
    assert abs(float((x[1:] * x[:-1]).mean())) < 4.5 / (199 * 500) ** 0.5
    y = torch.stack([dc.Draw(3, [0]).at(k).normal((500,), DOUBLE)[0] for k in range(200)])
    assert abs(float((y[1:] * y[:-1]).mean())) < 4.5 / (199 * 500) ** 0.5


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("block", [1, 50])
def test_normal_numbers_are_normal(dtype, block):
    """Mean, variance and Kolmogorov-Smirnov distance of one number per sample for 20000 samples (1.95 is the 0.1% level)."""
    n = 20_000
    x = dc.Draw(9, range(n), block=block).normal((), dtype).double()
    assert abs(float(x.mean())) < 4.5 / n**0.5
    assert abs(float(x.var()) - 1) < 4.5 * (2 / n) ** 0.5
    cdf = torch.special.ndtr(x.sort().values)
    steps = torch.arange(1, n + 1, dtype=DOUBLE) / n
    assert float((cdf - steps).abs().max()) < 1.95 / n**0.5 + 1 / n


def test_uniform_numbers_and_integers_are_uniform():
    n = 20_000
    draw = dc.Draw(9, range(n))
    u = draw.uniform()
    assert u.dtype == DOUBLE
    assert 0 <= float(u.min()) <= float(u.max()) < 1
    steps = torch.arange(1, n + 1, dtype=DOUBLE) / n
    assert float((u.sort().values - steps).abs().max()) < 1.95 / n**0.5 + 1 / n
    counts = torch.bincount(draw.integers(7), minlength=7).double()
    assert len(counts) == 7
    chi2 = float(((counts - n / 7) ** 2 / (n / 7)).sum())
    assert chi2 < 6 + 4.5 * 12**0.5


def test_every_leaf_of_a_tree_has_its_own_stream():
    """Also leaves of one shape and dtype, whose numbers would be the same ones if they shared it."""
    x = {"a": torch.zeros(3, 500), "b": torch.zeros(3, 500, dtype=DOUBLE), "c": torch.zeros(3, 500)}
    z = dc.Draw(1, range(3)).normal_like(x)
    assert (z["a"].dtype, z["b"].dtype) == (torch.float32, DOUBLE)
    for one, other in (("a", "b"), ("a", "c"), ("b", "c")):
        assert abs(float((z[one] * z[other]).mean())) < 4.5 / 1500**0.5
    part = dc.Draw(1, [2]).normal_like({"a": torch.zeros(1, 500), "b": torch.zeros(1, 500, dtype=DOUBLE)})
    assert torch.equal(part["a"], z["a"][2:])


def test_integer_states_get_uniform_noise():
    u = dc.Draw(1, range(3)).uniform_like(torch.zeros(3, 4, dtype=torch.int64))
    assert u.dtype == torch.float64
    assert 0 <= float(u.min()) <= float(u.max()) < 1


def test_the_shared_number_is_the_same_on_every_rank():
    assert dc.Draw(3, range(8)).shared_uniform() == dc.Draw(3, range(8, 16)).shared_uniform()
    assert dc.Draw(3, range(8)).shared_uniform() != dc.Draw(3, range(8)).at(1).shared_uniform()
    values = torch.tensor([dc.Draw(3, [0]).at(k).shared_uniform() for k in range(2000)], dtype=DOUBLE)
    assert abs(float(values.mean()) - 0.5) < 4.5 / (12 * 2000) ** 0.5


@pytest.mark.parametrize("seed", [0, 2**31, 2**63, -1])
def test_any_integer_is_a_seed(seed):
    assert not torch.equal(dc.Draw(seed, [0]).normal((4,)), dc.Draw(seed + 1, [0]).normal((4,)))


def test_blocks_of_one_and_of_many_do_not_share_streams():
    """Unit 3 of one-row blocks is not unit 3 of eight-row blocks."""
    single = dc.Draw(1, [3]).uniform((5,))
    block = dc.Draw(1, range(24, 32), block=8).uniform((5,))
    assert not torch.equal(single[0], block[0])


@pytest.mark.parametrize(("x", "want"), [(0, 0), (1, 0x514E28B7), (0xFFFFFFFF, 0x81F16F39)])
def test_the_permutation_without_a_key_is_the_finaliser_of_murmur3(x, want):
    """fmix32 (Appleby): published as the hashes of the empty input with seed x."""
    assert _permute32(x, 0) == want


def test_the_hash_is_the_finaliser_of_splitmix64():
    """The first numbers of the published generator with seed 1234567, whose state also passes z ^ z >> 30."""
    golden, mask = 0x9E3779B97F4A7C15, 2**64 - 1
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    for i, want in enumerate(published, 1):
        z = 1234567 + i * golden & mask
        assert mix(golden ^ z ^ z >> 30) == want


def fmix32(x, low=0, high=0):
    """murmur3's finaliser, a key at its entrance and one in its middle."""
    x = (x ^ low) & 0xFFFFFFFF
    x = ((x ^ x >> 16) * 0x85EBCA6B & 0xFFFFFFFF) ^ high
    x = (x ^ x >> 13) * 0xC2B2AE35 & 0xFFFFFFFF
    return x ^ x >> 16


@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize(("seed", "unit", "index"), [(0, 0, 0), (7, 3, 2), (7, (1 << 20) + 5, (1 << 12) + 9)])
def test_a_stream_is_that_of_torch_from_the_published_seed(seed, unit, index, block):
    """The numbers of every seed, sample and draw are what torch's generator gives for a seed that can be worked out by hand."""
    ids = range(unit * block, unit * block + block)
    draw = dc.Draw(seed, ids, index=index, salt=11, block=block)
    for kind, made, fill in (
        (1, draw.normal((3,)), lambda out, g: out.normal_(generator=g)),
        (2, draw.uniform((3,), torch.float32), lambda out, g: out.uniform_(generator=g)),
    ):
        key = mix(seed, 11, kind, block, unit >> 20, index >> 12)
        packed = (unit % 2**20) * 2**12 + index % 2**12
        generator = torch.Generator().manual_seed(fmix32(packed, key % 2**32, key >> 32))
        assert torch.equal(made, fill(torch.empty(block, 3), generator))


def test_a_folded_purpose_is_the_hash_of_its_keys():
    draw = dc.Draw(3, [0]).fold(1, 2)
    assert draw.salt == mix(0, 1, 2)
    assert draw.fold(5).salt == mix(mix(0, 1, 2), 5)
