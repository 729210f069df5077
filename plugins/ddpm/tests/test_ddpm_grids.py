"""The grids against the published rules, in the integers 0 .. N - 1 that networks see, and the adapter that shows them."""

import numpy as np
import pytest
import torch
from diffcore_ddpm.ancestral import DDPM
from diffcore_ddpm.chain import Chain
from diffcore_ddpm.indexed import Indexed, IndexedModule
from diffcore_ddpm.indices import Indices
from diffcore_ddpm.leading import Leading
from diffcore_ddpm.linspace import Linspace
from diffcore_ddpm.respaced import Respaced
from diffcore_ddpm.trailing import Trailing

import diffcore as dc
from diffcore.testing import REFERENCES, ReferenceVE


class Seen(torch.nn.Module):
    """Records the indices it is given; x_0 = 0."""

    def __init__(self):
        super().__init__()
        self.weight, self.indices = torch.nn.Parameter(torch.zeros(())), []

    def forward(self, x, t, s=None):
        assert t.dtype == torch.int64
        self.indices.append(int(t.unique()))
        return 0 * x


def seen(grid, n=1000, steps=25, **kwargs):
    """What a network with integer input sees in a run of `steps`."""
    net, chain = Seen(), Chain(steps=n)
    field = dc.Field(dc.Denoiser(IndexedModule(net, n), "x0", chain))
    dc.sample(field, DDPM(steps=steps, grid=grid), torch.zeros(2, 1), **kwargs)
    return net.indices


@pytest.mark.item("9.06")
@pytest.mark.parametrize(("n", "steps"), [(1000, 50), (1000, 7), (1000, 1000), (200, 30), (10, 9), (1000, 1)])
def test_the_three_grids_of_the_table(n, steps):
    """Lin et al. 2023, table 2, as NumPy expressions. The published linspace of one step is index 0; ours is the last."""
    leading = np.arange(0, steps) * (n // steps)
    trailing = np.round(np.arange(n, 0, -n / steps)) - 1
    linspace = np.linspace(0, n - 1, steps).round() if steps > 1 else [n - 1]
    assert seen(Leading(), n, steps) == list(leading[::-1])
    assert seen(Leading(offset=1), n, steps) == list(leading[::-1] + 1) if n // steps > 1 else True
    assert seen(Trailing(), n, steps) == list(trailing)
    assert seen(Linspace(), n, steps) == list(linspace)[::-1]


def test_table_of_ten_steps():
    """The rows printed in table 2 of Lin et al. 2023 for N = 1000 and K = 10, which count from 1."""
    assert [i + 1 for i in seen(Leading(), 1000, 10)][::-1] == [1, 101, 201, 301, 401, 501, 601, 701, 801, 901]
    assert [i + 1 for i in seen(Linspace(), 1000, 10)][::-1] == [1, 112, 223, 334, 445, 556, 667, 778, 889, 1000]
    assert [i + 1 for i in seen(Trailing(), 1000, 10)][::-1] == [100, 200, 300, 400, 500, 600, 700, 800, 900, 1000]


def sections(n, counts):
    """Nichol and Dhariwal: the first index of each section and every stride after it, rounded; from 0."""
    found, first = [], 0
    for j, count in enumerate(counts):
        size = n // len(counts) + (1 if j < n % len(counts) else 0)
        stride = 1 if count <= 1 else (size - 1) / (count - 1)
        found += [first + round(stride * k) for k in range(count)]
        first += size
    return found[::-1]


@pytest.mark.parametrize("counts", [(10, 15, 20), (8,), (2, 3, 2, 5), (0, 4)])
@pytest.mark.parametrize("n", [1000, 301])
def test_respaced_has_the_published_sections(n, counts):
    assert seen(Respaced(sections=counts), n, sum(counts)) == sections(n, counts)


@pytest.mark.parametrize("steps", range(1, 40))
def test_respaced_shares_any_number_of_steps(steps):
    grid = Respaced(sections=(3, 0, 1, 2))
    counts = grid.counts(steps)
    assert sum(counts) == steps
    assert counts[-1] >= 1
    assert all(abs(c - steps * share / 6) <= 1 for c, share in zip(counts, (3, 0, 1, 2), strict=True))


def test_respaced_gives_ties_to_the_noisier_section():
    assert Respaced(sections=(1, 1)).counts(3) == [1, 2]
    assert Respaced(sections=(1, 1, 1)).counts(5) == [1, 2, 2]
    assert Respaced(sections=(3, 1)).counts(1) == [0, 1]


def test_a_full_run_visits_every_index_once():
    for grid in (None, Trailing(), Leading(), Linspace(), Respaced(sections=(1,))):
        assert seen(grid, 60, 60) == list(range(59, -1, -1))


def test_an_earlier_start_uses_the_part_below():
    assert seen(Trailing(), 1000, 5, start=0.5) == [499, 399, 299, 199, 99]
    assert float(Trailing().nodes(Chain(), 5, 0.4997)[0]) == 0.4997
    with pytest.raises(dc.SpecError, match="4 indices of a chain of 1000"):
        Trailing().nodes(Chain(), 5, 0.004)


def test_grids_say_what_does_not_fit():
    chain = Chain(steps=20)
    with pytest.raises(dc.SpecError, match="20 indices"):
        Linspace().nodes(chain, 21, 1.0)
    with pytest.raises(dc.SpecError, match="offset 3 moves"):
        Leading(offset=3).nodes(chain, 10, 1.0)
    with pytest.raises(dc.SpecError, match="section 2 of 2 has 10 indices"):
        Respaced(sections=(1, 3)).nodes(chain, 16, 1.0)
    with pytest.raises(dc.SpecError, match="at least one step"):
        Respaced(sections=(0, 0))
    with pytest.raises(dc.IncompatibleError, match="set 'chain'"):
        Trailing().nodes(REFERENCES[0], 5, 1.0)
    assert float(Trailing(chain=10).nodes(ReferenceVE(), 5, 10.0)[1]) == 8.0


def test_default_grid_is_of_indices_while_there_are_enough():
    chain = Chain(steps=100)
    assert torch.equal(chain.default_grid(7, 1.0), Trailing().nodes(chain, 7, 1.0))
    assert len(chain.default_grid(250, 1.0)) == 251


def test_training_times_are_all_indices_evenly():
    """10^5 draws of a chain of 50: every index, counts within 4.5 s.e., and each exactly i / N."""
    chain = Chain(steps=50)
    t = Indices()(chain, dc.Draw(1, range(100000), block=100000))
    i = (t * 50).round()
    assert torch.equal(t, i / 50)
    counts = torch.bincount(i.long(), minlength=51)[1:].double()
    assert float((counts - 2000).abs().max()) < 4.5 * 2000**0.5
    net = Seen()
    IndexedModule(net, 50)(torch.zeros(1, 1), t.min()[None])
    IndexedModule(net, 50)(torch.zeros(1, 1), t.max()[None])
    assert net.indices == [0, 49]
    with pytest.raises(dc.IncompatibleError, match="has no indices of its own"):
        Indices()(REFERENCES[0], dc.Draw(1, range(4)))
    with pytest.raises(dc.SpecError, match="below the smallest time"):
        Indices(chain=100)(chain, dc.Draw(1, range(4)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_adapter_rounds_every_index_of_a_long_chain(dtype):
    t = (torch.arange(1, 4001, dtype=torch.float64) / 4000).to(dtype)
    assert torch.equal(IndexedModule(Seen(), 4000).index(t), torch.arange(4000))
    assert IndexedModule(Seen(), 4000).index(torch.zeros(2, dtype=dtype)).tolist() == [0, 0]


def test_the_adapter_passes_conditions_and_outputs_on():
    registry = dc.Registry.load()
    spec = Indexed(network=registry.make("network", "mlp", width=16, depth=1), steps=10)
    module = spec.build((2, 3), {"label": 4}, (4, 3))
    assert module.null_cond == {"label": 4}
    out = module(torch.zeros(5, 2, 3), torch.full((5,), 0.5), label=torch.arange(5))
    assert out.shape == (5, 4, 3)
    jump = IndexedModule(lambda x, t, s: torch.stack([t, s]), 10)
    assert jump(x=None, t=torch.tensor([0.5, 1.0]), s=torch.tensor([0.1, 0.7])).tolist() == [[4, 9], [0, 6]]


def test_leading_starts_below_pure_noise():
    """With zero terminal SNR the first index of trailing has alpha = 0, that of leading has not."""
    chain = Chain(zero_terminal_snr=True)
    for grid, exact in ((Trailing(), True), (Leading(), False)):
        first = grid.nodes(chain, 10, 1.0)[:1]
        assert (float(chain.coeffs(first).alpha) == 0) is exact
