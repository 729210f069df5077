"""The SDE of an affine process: dx = f x dt + g dw has the kernel x_t = alpha x_0 + sigma eps.

    f = alpha' / alpha,    g^2 = (sigma^2)' - 2 f sigma^2 = -2 sigma^2 lam'.

Source: Lai et al. 2025 (arXiv 2510.21890), section 4.1 (the lemma of kernels and SDEs); Song et al. 2021 (2011.13456).
"""

from __future__ import annotations

from typing import Any

import diffcore as dc


def drift(at: dc.Coeffs) -> Any:
    """f = alpha' / alpha: infinite where alpha = 0."""
    return at.dalpha / at.alpha


def diffusion_square(at: dc.Coeffs) -> Any:
    """g^2 = 2 sigma sigma' - 2 f sigma^2, not negative where the log-SNR falls."""
    return 2 * at.sigma * (at.dsigma - drift(at) * at.sigma)
