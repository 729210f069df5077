"""The fixed rows of `docs/how-to-choose-a-solver.md`: what a user would take unmeasured, and what a search must not lose to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Spec = Mapping[str, Any]

ROWS: Sequence[tuple[str, Spec]] = (
    (
        "5, 6",
        {
            "type": "exp-adams",
            "points": 3,
            "prediction": "flow",
            "grid": {"type": "uniform-lam", "lam_min": -2.0, "lam_max": 2.0},
        },
    ),
    (
        "8, 10",
        {
            "type": "exp-adams",
            "points": 2,
            "prediction": "flow",
            "corrector": True,
            "grid": {"type": "uniform-lam", "lam_min": -2.0, "lam_max": 3.0},
        },
    ),
    ("15 and more", {"type": "exp-adams", "points": 4, "prediction": "eps", "grid": {"type": "uniform-lam"}}),
    (
        "10 and more, smooth data, where the field is exact down to t = 0",
        {"type": "exp-adams", "points": 3, "prediction": "flow", "corrector": True, "grid": {"type": "crash"}},
    ),
    ("any, data of few distinct points, or nothing known of it", {"type": "unipc", "grid": {"type": "crash"}}),
)
"""The numbers of calls a row is for, and the row. All of them take part in every search, to its end."""
