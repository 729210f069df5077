"""What losses share: times, dropped conditions, and the mean square of a sample."""

from __future__ import annotations

import pytest
import torch

import diffcore as dc
from diffcore.testing import ReferenceFlow

DOUBLE = torch.float64


class Short(ReferenceFlow):
    """Times from 0.2."""

    @property
    def min_time(self):
        return 0.2


def test_times_without_a_law_are_uniform_down_to_the_smallest():
    """Mean (0.2 + 1) / 2 and variance 0.8^2 / 12 within 4.5 standard errors, all within the ends; a law is asked instead."""
    n, process = 4000, Short()
    draw = dc.Draw(1, range(n), block=1000)
    t = dc.times_of(None, process, draw)
    spread = 0.8 / 12**0.5
    assert (t.dtype, 0.2 <= float(t.min()) < 0.21, 0.99 < float(t.max()) <= 1.0) == (DOUBLE, True, True)
    assert abs(float(t.mean()) - 0.6) < 4.5 * spread / n**0.5
    assert abs(float(t.var()) / spread**2 - 1) < 4.5 * (0.8 / n) ** 0.5  # the kurtosis of a uniform law is 1.8

    @dc.component
    class Fixed(dc.TimeLaw):
        """Always 0.7."""

        def __call__(self, process, draw):
            return torch.full((len(draw.ids),), 0.7, dtype=DOUBLE)

    assert float(dc.times_of(Fixed(), process, draw).unique()) == 0.7


@pytest.mark.parametrize(
    "weight", [2.0, torch.tensor([1.0, 0.5], dtype=DOUBLE), torch.tensor([[1.0, 2.0, 0.0]] * 2, dtype=DOUBLE)]
)
def test_the_mean_square_by_hand(weight):
    """Errors (1, 2, 3) and (0, 0, 6): sums of weight times square over 3 entries, a whole tree counted as one sample."""
    target, error = torch.ones(2, 3, dtype=DOUBLE), torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 6.0]], dtype=DOUBLE)
    factor = dc.expand(weight, error) if isinstance(weight, torch.Tensor) else weight
    expected = (factor * error**2).sum(1) / 3
    assert torch.allclose(dc.mean_square(target + error, target, weight), expected)
    if not isinstance(weight, torch.Tensor) or weight.ndim == 1:
        pair = {"a": target, "b": target[:, :1]}
        found = dc.mean_square({"a": target + error, "b": target[:, :1] + 1}, pair, weight)
        assert torch.allclose(found, (expected * 3 + weight) / 4)


def test_conditions_without_a_null_value_stay():
    cond = {"label": torch.tensor([1, 2, 3]), "kept": torch.tensor([4, 5, 6])}
    found = dc.dropped(cond, {"label": 9}, 1.0, dc.Draw(0, range(3)))
    assert found["label"].tolist() == [9, 9, 9]
    assert found["kept"] is cond["kept"]
    assert dc.dropped(cond, {"label": 9}, 0.0, dc.Draw(0, range(3))) == cond


def test_null_values_may_be_arrays_and_one_there_must_be():
    cond = {"y": torch.ones(3, 2)}
    assert dc.dropped(cond, {"y": [4.0, 5.0]}, 1.0, dc.Draw(0, range(3)))["y"].tolist() == [[4.0, 5.0]] * 3
    with pytest.raises(dc.IncompatibleError, match=r"no null value for 'y'; give it the attribute null_cond"):
        dc.dropped(cond, {}, 0.1, dc.Draw(0, range(3)))


def test_a_weight_of_the_data_error_is_divided_by_the_square_of_the_slope_of_a_target():
    """At fixed x_t an error e of x_0 is -alpha e / sigma of eps, and (p - q alpha / sigma) e of p x_0 + q eps."""
    at = ReferenceFlow().coeffs(torch.tensor([0.2, 0.6], dtype=DOUBLE))
    slope = at.alpha / at.sigma
    torch.testing.assert_close(dc.weight_from_x0(3.0, at, dc.row("eps", at)), 3 / slope**2)
    torch.testing.assert_close(dc.weight_from_x0(3.0, at, (-1.0, 1.0)), 3 / (1 + slope) ** 2)
