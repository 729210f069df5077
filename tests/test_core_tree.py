"""State arithmetic: lincomb against plain sums, aliasing, and broadcasting from the left."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import diffcore as dc
from diffcore.testing.references import ReferenceFlow

DOUBLE = torch.float64


def numbers(*shape, seed=0):
    return torch.empty(shape, dtype=DOUBLE).normal_(generator=torch.Generator().manual_seed(seed))


def close(a, b, tolerance=1e-13):
    assert float((a - b).abs().max()) < tolerance


SCALARS = st.one_of(st.sampled_from([0, 1, 0.0, 1.0, -1]), st.floats(-3, 3))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(SCALARS, st.booleans()), min_size=1, max_size=5))
def test_lincomb_is_the_plain_sum_for_numbers_and_tensors(terms):
    """Any mix of Python numbers and 0-d, per-sample and per-entry tensors, on tensors and on trees; inputs untouched."""
    shapes = ((), (3,), (3, 2))
    xs = [numbers(3, 2, seed=i) for i in range(len(terms))]
    kept = [x.clone() for x in xs]
    scalars = [torch.full(shapes[i % 3], a, dtype=DOUBLE) if tensor else a for i, (a, tensor) in enumerate(terms)]
    want = sum(float(a) * x for (a, _), x in zip(terms, xs, strict=True))
    close(dc.lincomb(*zip(scalars, xs, strict=True)), want)
    trees = [{"a": x, "b": (x[:, :1], x * 2)} for x in xs]
    out = dc.lincomb(*zip([float(a) for a, _ in terms], trees, strict=True))
    close(out["a"], want)
    close(out["b"][1], 2 * want)
    assert all(torch.equal(x, k) for x, k in zip(xs, kept, strict=True))


@pytest.mark.parametrize("scalars", list(itertools.product([1, 0.5, 0], repeat=2)), ids=str)
def test_the_result_never_aliases_an_input(scalars):
    """Also for a single term with coefficient 1, where returning x itself would be right and wrong."""
    for terms in ([(1, numbers(3))], [(1.0, numbers(3))], list(zip(scalars, [numbers(3), numbers(3, seed=1)], strict=True))):
        before = [x.clone() for _, x in terms]
        dc.lincomb(*terms).fill_(7.0)
        assert all(torch.equal(x, b) for (_, x), b in zip(terms, before, strict=True))


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("kind", [float, lambda a: torch.tensor(a, dtype=DOUBLE)], ids=["numbers", "tensors"])
def test_out_may_be_any_of_the_operands(place, kind):
    xs = [numbers(4, 3, seed=i) for i in range(3)]
    want = 0.3 * xs[0] - 2 * xs[1] + 1.5 * xs[2]
    out = dc.lincomb((kind(0.3), xs[0]), (kind(-2.0), xs[1]), (kind(1.5), xs[2]), out=xs[place])
    close(out, want)


def test_a_zero_number_skips_its_term_so_that_the_state_may_be_missing():
    x = numbers(3)
    assert torch.equal(dc.lincomb((1, x), (0.0, None)), x)
    assert torch.equal(dc.lincomb((0, None), (2, x)), 2 * x)
    assert torch.equal(dc.lincomb((0, x), (0.0, None)), torch.zeros(3, dtype=DOUBLE))


def test_a_missing_state_is_skipped_under_a_tensor_weight():
    """With rows as tensors (compiled steps) the weight of the absent noise of a deterministic run is a tensor."""
    x = numbers(3)
    assert torch.equal(dc.lincomb((torch.tensor(2.0), x), (torch.tensor(0.0), None)), 2 * x)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_times_are_matched_from_the_left(size):
    """A time per sample scales rows, never columns, also where B = D; B x N times scale the first two axes."""
    x = torch.ones(size, size, size)
    t = torch.arange(size, dtype=torch.float32)
    assert torch.equal(dc.expand(t, x) * x, t[:, None, None].expand(size, size, size))
    grid = torch.arange(size * size, dtype=torch.float32).reshape(size, size)
    assert torch.equal(dc.expand(grid, x) * x, grid[:, :, None].expand(size, size, size))
    assert torch.equal(dc.lincomb((t, x)), t[:, None, None] * x)
    assert dc.expand(0.5, x) == 0.5
    assert dc.expand(torch.tensor(0.5), x).ndim == 0


def test_trees_keep_their_structure():
    x = {"b": numbers(2, 3), "a": [numbers(2), (numbers(2, 1),)]}
    y = dc.tree_map(lambda leaf: leaf + 1, x)
    assert list(y) == ["b", "a"]
    assert torch.equal(y["a"][1][0], x["a"][1][0] + 1)
    assert [leaf.shape for leaf in dc.leaves(x)] == [leaf.shape for leaf in dc.leaves(y)]
    assert len(dc.leaves(x)) == 3
    close(dc.lincomb((2.0, x), (1, y))["b"], 3 * x["b"] + 1)


def test_lincomb_keeps_the_precision_of_the_state():
    x = numbers(3).float()
    assert dc.lincomb((0.1, x), (0.2, x)).dtype == torch.float32
    assert dc.lincomb((0.1, x.bfloat16()), (0.2, x.bfloat16())).dtype == torch.bfloat16


def test_gradients_flow_through_every_term():
    x, y = numbers(3).requires_grad_(), numbers(3, seed=1).requires_grad_()
    gradients = torch.autograd.grad(dc.lincomb((2.0, x), (torch.tensor(3.0).double(), y), (-1, x)).sum(), (x, y))
    close(gradients[0], torch.ones(3).double())
    close(gradients[1], 3 * torch.ones(3).double())


def test_a_parameter_is_a_tensor_coefficient():
    """Its value is not baked in: the gradient reaches it."""
    weight, x = torch.nn.Parameter(torch.tensor([2.0, 0.0], dtype=torch.float64)), numbers(2, 3)
    total = dc.lincomb((weight, x), (1.0, x))
    close(total.detach(), x * torch.tensor([[3.0], [1.0]], dtype=torch.float64))
    total.sum().backward()
    close(weight.grad, x.sum(1))


def test_a_sum_with_tensor_weights_keeps_inputs_and_precision():
    """The running sum is written in place only where no input and no precision is lost."""
    x, y = numbers(3, 2), numbers(3, 2, seed=1)
    kept = x.clone(), y.clone()
    weight = torch.tensor([0.3, -2.0, 0.5], dtype=torch.float64)
    close(dc.lincomb((weight, x), (weight, y), (weight, x)), weight[:, None] * (2 * x + y))
    assert torch.equal(x, kept[0])
    assert torch.equal(y, kept[1])
    single = dc.lincomb((torch.tensor(0.5), x.float()), (weight, y))
    assert single.dtype == torch.float64
    close(single, 0.5 * x.float().double() + weight[:, None] * y, 1e-12)


def test_the_order_in_which_a_dict_was_written_means_nothing():
    """States with parts in another order are the same state: leaves, noise, sums, and what a network may return."""
    ones, twos = torch.ones(2, 3), torch.full((2, 3), 2.0)
    one, other = {"b": ones, "a": {"d": twos, "c": ones}}, {"a": {"c": ones, "d": twos}, "b": ones}
    assert all(map(torch.equal, dc.leaves(one), dc.leaves(other)))
    draw = dc.Draw(3, range(2))
    first, second = draw.normal_like(one), draw.normal_like(other)
    assert torch.equal(first["a"]["d"], second["a"]["d"])
    assert torch.equal(first["b"], second["b"])
    assert not torch.equal(first["a"]["c"], first["a"]["d"])
    total = dc.lincomb((1.0, one), (3.0, second))
    torch.testing.assert_close(total["a"]["d"], twos + 3 * second["a"]["d"])
    same = draw.normal_like({"b": ones, "a": ones})
    assert not torch.equal(same["a"], same["b"]), "one tensor in two places has two noises"
    process = ReferenceFlow()
    x = process.prior({"a": (3,), "b": (3,)}, draw)
    nets = [lambda x, t: {"a": x["a"], "b": 0 * x["b"]}, lambda x, t: {"b": 0 * x["b"], "a": x["a"]}]
    found = [dc.Denoiser(net, "velocity", process)(x, 0.5).mean for net in nets]
    assert torch.equal(found[0]["a"], found[1]["a"])
    assert torch.equal(found[0]["b"], found[1]["b"])
