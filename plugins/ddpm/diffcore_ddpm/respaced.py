"""Evenly spaced indices within sections of the chain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

import diffcore as dc

from .spacing import IndexGrid, even


@dc.component
class Respaced(IndexGrid):
    """The chain is cut into equal sections, from data to noise; each has its share of the K steps, evenly spaced within it.

    A section of n indices with k steps takes its index 1 + round(j (n - 1) / (k - 1)), j = 0 .. k - 1, or its last for k = 1.
    K = sum(sections) gives these very counts, as in the published 'timestep respacing'; any other K is shared out in
    proportion (largest remainders, ties to the noisier section; the noisiest has at least one).
    """

    source: ClassVar[str] = "Nichol and Dhariwal 2021, arXiv 2102.09672, section 4"
    example: ClassVar[Mapping[str, Any]] = {"chain": 1000, "sections": (3, 2, 1)}

    sections: tuple[int, ...] = dc.param(
        ge=0, le=100_000, doc="steps (or shares of them) of each section, the one next to the data first"
    )

    def __attrs_post_init__(self) -> None:
        if not sum(self.sections):
            raise dc.SpecError(f"Respaced needs 'sections' with at least one step; got {list(self.sections)}")

    def counts(self, steps: int) -> list[int]:
        """The steps of each section, `steps` in all."""
        exact = [steps * share / sum(self.sections) for share in self.sections]
        counts = [int(c) for c in exact]
        order = sorted(range(len(exact)), key=lambda j: (round(counts[j] - exact[j], 9), -j))
        for j in order[: steps - sum(counts)]:
            counts[j] += 1
        if counts[-1] == 0:
            counts[counts.index(max(counts))] -= 1
            counts[-1] = 1
        return counts

    def indices(self, n: int, steps: int) -> Tensor:
        """The indices of all sections, falling."""
        found: list[Tensor] = []
        sizes = [n // len(self.sections) + (j < n % len(self.sections)) for j in range(len(self.sections))]
        for j, (size, count) in enumerate(zip(sizes, self.counts(steps), strict=True)):
            if count > size:
                raise dc.SpecError(f"section {j + 1} of {len(sizes)} has {size} indices, and {count} steps; take fewer steps")
            found.append(sum(sizes[:j]) + even(size, count))
        return torch.cat(found[::-1])
