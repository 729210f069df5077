"""Guidance for diffcore."""

from __future__ import annotations

from collections.abc import Iterator

import diffcore as dc

API_VERSION = 1


@dc.hookimpl
def diffcore_guidance() -> Iterator[dc.Component]:
    """The guidance of this distribution."""
    yield dc.Component("cfg", "diffcore_guidance.cfg:CFG", "classifier-free guidance (Ho and Salimans 2022)")
    yield dc.Component(
        "interval",
        "diffcore_guidance.interval:Interval",
        "another guidance, switched on between two times only (Kynkaanniemi et al. 2024)",
    )
    yield dc.Component(
        "dynamic-threshold",
        "diffcore_guidance.threshold:DynamicThreshold",
        "keeps the predicted x_0 in the range of the data (Saharia et al. 2022)",
    )
