"""What tells the options apart (the law of the probes), and what holds at the ends of a ladder."""

import pytest
import torch
from diffcore_energy.annealed import AnnealedLangevin
from diffcore_energy.conservativity import Conservativity
from diffcore_energy.implicit import ImplicitScoreMatching
from diffcore_energy.levels import Ladder
from diffcore_energy.ncsn import NCSN
from diffcore_energy.outliers import BLOCKS, Outliers
from diffcore_energy.sure import SURE
from diffcore_energy.trace import probe

import diffcore as dc
from diffcore.testing import ReferenceFlow, ReferenceVE, ReferenceVP

T = 0.6


@pytest.mark.parametrize("kind", ["rademacher", "gaussian"])
def test_probes_are_white(kind, draw, near):
    """E v = 0 and E[v v^T] = I, entry by entry within 4 s.e.; signs are +1 or -1."""
    v = probe(torch.zeros(4096, 3, dtype=torch.float64), kind, draw())
    near(v, 0.0)
    near((v[:, :, None] * v[:, None]).flatten(1), torch.eye(3, dtype=torch.float64).flatten())
    assert (kind == "rademacher") == bool((v.abs() == 1).all())


def test_estimated_divergence_is_unbiased_where_entries_depend_on_each_other(at, draw, near, mixture, off):
    """SURE by probes less SURE by the exact trace averages to 0 on a Jacobian with off-diagonal entries, and is not 0."""
    model, x0, d = off(mixture, (0.2, 0.4)), mixture.sample(4096, draw()), draw(seed=2)
    gap = (SURE(time_law=at(t=T))(model, x0, d) - SURE(time_law=at(t=T), divergence="exact")(model, x0, d)).detach()
    near(gap, 0.0)
    assert float(gap.std()) > 1e-2


def linear(matrix):
    """An evaluation of the field e = M x, on 64 states."""
    x, process = torch.randn(64, 3, generator=torch.Generator().manual_seed(1)), ReferenceVE()
    return dc.Evaluation(samples=x, reference=x, field=dc.Field(dc.Denoiser(lambda x, t: x @ matrix.T, "eps", process)))


def test_probes_of_the_asymmetry_are_independent():
    """One sample of a linear field: the mean square over runs of a ratio of estimates falls as 1 / probes, to the exact ratio."""
    matrix = torch.tensor([[1.0, 0.7, -0.2], [0.1, -0.5, 0.9], [0.4, 0.3, 0.8]])
    exact = float((matrix - matrix.T).square().sum() / (4 * matrix.square().sum()))
    errors = {}
    for probes in (1, 16):
        found = [Conservativity(n=4, probes=probes, seed=k).measure(linear(matrix))["asymmetry"].value for k in range(40)]
        errors[probes] = sum((v - exact) ** 2 for v in found) / 40
    assert 4 < errors[1] / errors[16] < 64


def test_the_default_grid_of_a_ladder_ends_with_its_rungs():
    """From above the last level: the levels, then 0; from below it: uniform to 0."""
    process = NCSN(levels=5)
    assert process.default_grid(5, 5.0).tolist() == [5, 4, 3, 2, 1, 0]
    assert process.default_grid(3, 2.0).tolist() == [2, 1.5, 1, 0]
    assert process.default_grid(4, 1.0).tolist() == [1, 0.75, 0.5, 0.25, 0]
    assert process.default_grid(4, 0.8).tolist() == pytest.approx([0.8, 0.6, 0.4, 0.2, 0.0])


def processes():
    """Every installed process that a ladder can be made for, with the reference processes, one of which has data at min_time."""
    registry = dc.Registry.load()
    for entry in registry.list("process"):
        process = registry.get("process", entry.full_id)
        if "affine" in process.provides:
            yield registry.make("process", entry.full_id, **process.example)
    yield from (ReferenceVP(), ReferenceVE(), ReferenceFlow())


def test_a_ladder_has_one_time_more_than_steps_on_every_process():
    """N + 1 strictly falling times from T to 0; levels within are in geometric progression."""
    found = list(processes())
    assert any(float(p.coeffs(torch.tensor(p.min_time, dtype=torch.float64)).sigma) <= 0 for p in found)
    for process in found:
        for steps in (2, 7):
            times = Ladder().nodes(process, steps, process.T)
            assert len(times) == steps + 1, process
            assert float(times[0]) == process.T
            assert float(times[-1]) == 0
            assert bool((times.diff() < 0).all()), process


def test_the_last_level_of_a_ladder_moves_as_the_levels_above_it():
    """sigma' = ratio sigma at every level, the last one too; below it sigma is linear."""
    process = NCSN(levels=5)
    at = process.coeffs(torch.tensor([2.0, 1.0, 0.5], dtype=torch.float64))
    assert at.dsigma.tolist() == pytest.approx([process.ratio * float(at.sigma[0]), process.ratio * float(at.sigma[1]), 0.01])


def test_from_pure_noise_the_way_to_the_next_level_is_a_change_of_scale():
    """keep = sigma_s / sigma_t where alpha_t = 0, alpha_s / alpha_t after it."""
    grid = torch.tensor([1.0, 0.6, 0.2], dtype=torch.float64)
    keep = AnnealedLangevin(inner=1).plan(ReferenceFlow(), grid).entries["keep"]
    assert keep.tolist() == pytest.approx([0.6, 0.8 / 0.4])


def test_exactly_as_many_entries_as_the_limit_are_differentiated(at, draw, mixture, off):
    x0 = mixture.sample(8, draw(8))
    assert ImplicitScoreMatching(time_law=at(t=T), limit=2)(off(mixture), x0, draw(8)).shape == (8,)
    with pytest.raises(dc.DataError, match="has 2, more than its limit of 1"):
        ImplicitScoreMatching(time_law=at(t=T), limit=1)(off(mixture), x0, draw(8))


def test_one_sample_per_block_is_enough_and_one_less_is_not():
    ev = linear(torch.eye(3))
    Outliers().check(dc.Evaluation(samples=ev.samples[:BLOCKS], reference=ev.reference, field=ev.field))
    with pytest.raises(dc.DataError, match="leave no blocks"):
        Outliers().check(dc.Evaluation(samples=ev.samples[: BLOCKS - 1], reference=ev.reference, field=ev.field))
