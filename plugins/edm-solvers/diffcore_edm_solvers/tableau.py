"""Butcher tableaus of explicit Runge-Kutta methods.

For dy/du = f(y, u) and a step h: k_i = f(y + h sum_j a_ij k_j, u + c_i h), and y moves by h sum_i b_i k_i. Source of all but the
pairs: Hairer, Norsett and Wanner 1993, "Solving Ordinary Differential Equations I", section II.1.
"""

from __future__ import annotations

from typing import NamedTuple

Row = tuple[float, ...]


class Tableau(NamedTuple):
    """`c`: where the slopes are taken; `a`: row i weighs the slopes before i; `b`: the step; `order`: the global order.

    `error`: weights of an error estimate, b minus the weights of the embedded method, over the slopes and the one at the new
    state (which is the next step's first); empty where there is none. `embedded`: the order of the embedded method.
    """

    c: Row
    a: tuple[Row, ...]
    b: Row
    order: int
    error: Row = ()
    embedded: int = 0


EULER = Tableau((0,), ((),), (1,), 1)
MIDPOINT = Tableau((0, 1 / 2), ((), (1 / 2,)), (0, 1), 2)
HEUN = Tableau((0, 1), ((), (1,)), (1 / 2, 1 / 2), 2)
RALSTON = Tableau((0, 2 / 3), ((), (2 / 3,)), (1 / 4, 3 / 4), 2)
"""Of the second-order methods with two stages, the one with the least bound on the error (Ralston 1962)."""
KUTTA_3 = Tableau((0, 1 / 2, 1), ((), (1 / 2,), (-1, 2)), (1 / 6, 2 / 3, 1 / 6), 3)
BOGACKI_SHAMPINE = Tableau(
    (0, 1 / 2, 3 / 4), ((), (1 / 2,), (0, 3 / 4)), (2 / 9, 1 / 3, 4 / 9), 3, (-5 / 72, 1 / 12, 1 / 9, -1 / 8), 2
)
"""Bogacki and Shampine 1989, Applied Mathematics Letters 2."""
RK_4 = Tableau((0, 1 / 2, 1 / 2, 1), ((), (1 / 2,), (0, 1 / 2), (0, 0, 1)), (1 / 6, 1 / 3, 1 / 3, 1 / 6), 4)
DORMAND_PRINCE = Tableau(
    (0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1),
    (
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    ),
    (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    5,
    (71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),
    4,
)
"""Dormand and Prince 1980, Journal of Computational and Applied Mathematics 6."""

TABLEAUS = {
    "euler": EULER,
    "midpoint": MIDPOINT,
    "heun": HEUN,
    "ralston": RALSTON,
    "kutta-3": KUTTA_3,
    "bogacki-shampine": BOGACKI_SHAMPINE,
    "rk4": RK_4,
    "dormand-prince": DORMAND_PRINCE,
}
