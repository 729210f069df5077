"""Predictions with a learned variance: `eps-range` and its like."""

from __future__ import annotations

import diffcore as dc

SUFFIX = "-range"
BASES = ("x0", "eps", "v")


def is_range(prediction: str) -> bool:
    """Whether a prediction has a learned variance."""
    return prediction.endswith(SUFFIX) and prediction.removesuffix(SUFFIX) in BASES


def base_of(prediction: str) -> str:
    """The target of the first half of the output; the prediction itself where there is no second half."""
    return prediction.removesuffix(SUFFIX) if is_range(prediction) else prediction


class RangePosterior(dc.Posterior):
    """A posterior mean, and for the next reverse step the place of its log-variance between log beta~ (0) and log beta (1).

    `fraction` has the shape of x; guidance that replaces the mean leaves it as it is.
    """

    __slots__ = ("fraction",)

    def __init__(self, known: dc.Posterior, fraction: dc.State) -> None:
        super().__init__(known.x, known.value, known.name, known.at, known.sigma_data, known.noise)
        self.fraction = fraction

    def replace(self, name: str, value: dc.State) -> RangePosterior:
        """Another expectation with the same variance."""
        return RangePosterior(super().replace(name, value), self.fraction)

    def detach(self) -> RangePosterior:
        """The same values without their history."""
        return RangePosterior(super().detach(), self.fraction.detach())


def fraction_of(posterior: dc.Posterior) -> dc.State:
    """The learned fraction. Raises `IncompatibleError` for a prediction without one."""
    if not isinstance(posterior, RangePosterior):
        raise dc.IncompatibleError(
            f"a learned variance needs the prediction '{posterior.name if posterior.name in BASES else 'eps'}{SUFFIX}' of the "
            f"process ddpm; this network predicts '{posterior.name}' alone: train with that prediction, or take variance 'small'"
        )
    return posterior.fraction
