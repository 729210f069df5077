"""Whether class-conditional samples show the class they were asked for."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

import diffcore as dc
from diffcore_metrics.features import check_images, judge
from diffcore_metrics.weights import CARDS, Trained


def check_labels(x: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
    """The labels of samples, (B,). Raises `DataError` unless there is one of 0 to 9 for each."""
    label = cond.get("label")
    if label is None or len(label) != len(x) or bool((label >= 10).any()):
        raise dc.DataError("ClassAccuracy needs one 'label' of 0 to 9 for every sample")
    return label


def agreement(x: Tensor, cond: Mapping[str, Tensor], kind: Trained) -> Tensor:
    """Whether the judge reads the label in each sample: (B,) of 0 and 1, float64. Raises `DataError` without labels 0 to 9."""
    label = check_labels(x, cond)
    return (judge(x.cpu(), kind) == label.cpu()).double()


@dc.component
class ClassAccuracy(dc.Metric):
    """Share of samples that an independent classifier, the judge, reads as the class they were asked for.

    The judge shares neither weights, seed nor architecture with any generative model or feature net, but it was trained on
    the same real images (`against` names them). The floor is its accuracy on real data: no model is judged above it.
    """

    source: ClassVar[str] = "Ravuri and Vinyals 2019, arXiv 1905.10887, turned round: a classifier of real data reads samples"
    needs_classes: ClassVar[bool] = True

    features: Trained = dc.param(default="mnist", doc="the images that the judge knows")
    blocks: int = dc.param(default=4, ge=2, le=10_000, doc="blocks of samples, for the spread")

    def check(self, ev: dc.Evaluation) -> None:
        """Also refuses samples without labels that the judge knows, images it never saw, and fewer samples than blocks."""
        super().check(ev)
        check_labels(ev.samples, ev.cond)
        check_images(ev.samples, self.features)
        if len(ev.samples) < self.blocks:
            raise dc.DataError(f"ClassAccuracy with {self.blocks} blocks needs as many samples; there are {len(ev.samples)}")

    def measure(self, ev: dc.Evaluation) -> dict[str, dc.Measured]:
        """`class-accuracy` in [0, 1]."""
        self.check(ev)
        hits = agreement(ev.samples, ev.cond, self.features)
        card = CARDS[self.features, "judge"]
        return {
            "class-accuracy": dc.Measured(
                value=float(hits.mean()),
                n=len(hits),
                spread=statistics.stdev(float(part.mean()) for part in hits.split(len(hits) // self.blocks)[: self.blocks]),
                floor=float(agreement(ev.reference, ev.reference_cond, self.features).mean()),
                against=f"judge of {card.trained_on}, right on {card.accuracy:.1%} of {card.unseen} unseen real images",
                better="higher",
                within=(0.0, 1.0),
            )
        }
