"""What a metric of paths costs is what its fields say."""

import pytest
import torch
from diffcore_flows.straightness import Straightness
from diffcore_flows.transport_cost import TransportCost

import diffcore as dc
from diffcore.testing import ReferenceFlow


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("metric", [TransportCost, Straightness])
def test_paths_take_pairs_of_runge_kutta_steps(metric, steps):
    """Four evaluations in each of 2 `steps` steps, and one at the end; the same paths for both metrics."""
    process, seen = ReferenceFlow(), []
    field = dc.Field(dc.Denoiser(lambda x, t: seen.append(len(x)) or -x, "velocity", process))
    x = torch.linspace(-1, 1, 8, dtype=torch.float64).reshape(4, 2)
    metric(steps=steps).measure(dc.Evaluation(samples=x, reference=x, field=field))
    assert len([n for n in seen if n == 4]) == 8 * steps + 1
