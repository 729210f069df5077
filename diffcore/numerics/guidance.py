"""Guidance: a change of the denoiser, of the solver, or of both."""

from __future__ import annotations

from typing import Any, ClassVar

from diffcore.declare.component import Base
from diffcore.declare.kinds import kind
from diffcore.numerics.fields import Guided
from diffcore.numerics.solver import Solver
from diffcore.numerics.tree import State


@kind("guidance")
class Guidance(Base):
    """Override `guide` to change what is known of x_0, `solver` to change the steps. Identities by default.

    `needs` declares {"grad"} where it differentiates through the network: gradients are then on within `guide`, whatever
    they are outside; {"cond"} where it is nothing without a condition; and {"null"} where it compares with the network
    without its condition, which the loss must then have trained (`Loss.drops`). `requires` names the capabilities of the process.
    """

    requires: ClassVar[frozenset[str]] = frozenset()
    needs: ClassVar[frozenset[str]] = frozenset()

    def guide(self, denoiser: Any, x: State, t: Any, **cond: Any) -> Any:
        """The guided posterior at (x, t); `denoiser(x, t, **cond)` is the one below, `denoiser.many` evaluates several."""
        return denoiser(x, t, **cond)

    def denoiser(self, denoiser: Any) -> Any:
        """The denoiser wrapped by this guidance."""
        return denoiser if type(self).guide is Guidance.guide else Guided(denoiser, self.guide, "grad" in self.needs)

    def solver(self, solver: Solver) -> Solver:
        """The solver wrapped by this guidance."""
        return solver
