"""A chain in continuous time: a smooth, strictly rising curve through the angles of its indices."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from .schedules import betas, signal, without_signal_at_the_end


class Angles(NamedTuple):
    """Per index 0 .. N: the angle phi from the data (tan phi = sigma / alpha), what is left of pi / 2, and d phi / d index."""

    phi: Tensor
    left: Tensor
    slope: Tensor

    def at(self, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """phi, pi / 2 - phi and d phi / d index at real indices: the cubic of each step with these ends and slopes.

        Both angles are interpolated, so that neither loses digits where it is small.
        """
        table, last = torch.stack(self).to(place.device), len(self.phi) - 1  # one look-up for all three
        place = place.clamp(0, last)
        i = place.detach().floor().clamp(max=last - 1).long()
        (phi, left, slope), (phi1, left1, slope1) = table[:, i], table[:, i + 1]
        w = place - i
        back, share = 1 - w, w * w * (3 - 2 * w)
        kept, hump = 1 - share, w * back
        bent = hump * (back * slope - w * slope1)
        turning = 6 * hump * (phi1 - phi) + back * (1 - 3 * w) * slope + w * (3 * w - 2) * slope1
        return kept * phi + share * phi1 + bent, kept * left + share * left1 - bent, turning


@lru_cache(maxsize=64)
def angles(schedule: str, n: int, start: float, end: float, zero_terminal_snr: bool) -> Angles:
    """The angles of a chain. Slopes are harmonic means of the steps on both sides, so the curve rises strictly.

    Source: Fritsch and Butland 1984 (SIAM J. Sci. Stat. Comput. 5), equation 5 for equal intervals.
    """
    with torch.inference_mode(False), torch.no_grad():  # the table outlives the caller's mode
        alpha, sigma = signal(betas(schedule, n, start, end))
        if zero_terminal_snr:
            alpha, sigma = without_signal_at_the_end(alpha)
        phi, left = torch.atan2(sigma, alpha), torch.atan2(alpha, sigma)
        rise = torch.where(phi[1:] < 1, phi.diff(), -left.diff())
        inner = 2 * rise[1:] * rise[:-1] / (rise[1:] + rise[:-1])
        return Angles(phi, left, torch.cat([rise[:1], inner, rise[-1:]]))
