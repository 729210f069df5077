"""An affine process that shows a solver only some of its capabilities, and says by name what was asked beyond them."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from diffcore.numerics.affine import Coeffs, Posterior
from diffcore.numerics.fields import Denoiser, Field
from diffcore.numerics.laws import Law
from diffcore.numerics.process import AffineProcess, Corruption, Instant, Process
from diffcore.numerics.span import Span
from diffcore.numerics.tree import State
from diffcore.testing.driving import ExactFlowMap
from diffcore.testing.oracles import Oracle, instant


class UndeclaredError(AssertionError):
    """A capability was used that is not declared."""

    def __init__(self, what: str, capability: str) -> None:
        super().__init__(f"it asks for {what}, which needs the capability '{capability}': declare it in `requires`")


class Sealed:
    """A posterior of which nothing is promised: only the process that made it can read it."""

    def __init__(self, known: Posterior) -> None:
        self._known = known

    def __getattr__(self, name: str) -> Any:
        raise UndeclaredError(f"`{name}` of a posterior", "affine")


class Limited(Process):
    """The capabilities `shown` of an affine process. Without "affine" its times carry no coefficients, its posteriors no mean."""

    def __init__(self, inner: AffineProcess, shown: frozenset[str]) -> None:
        self.inner, self.provides, self.predictions = inner, shown, inner.predictions  # pyright: ignore[reportAttributeAccessIssue]
        self.moved_by: set[str] = set()

    def _needs(self, what: str, capability: str) -> None:
        if capability not in self.provides:
            raise UndeclaredError(what, capability)

    def _full(self, at: Any) -> Coeffs:
        return at if isinstance(at, Coeffs) else instant(self.inner, at.t)

    @property
    def T(self) -> float:
        """That of the process."""
        return self.inner.T

    @property
    def min_time(self) -> float:
        """That of the process."""
        return self.inner.min_time

    def coeffs(self, t: Tensor) -> Any:
        """Coefficients where "affine" is shown, else times only."""
        return self.inner.coeffs(t) if "affine" in self.provides else Instant(t)

    def span(self, t: Any, s: Any) -> Span:
        """Needs "affine"."""
        self._needs("the weights of a step", "affine")
        return self.inner.span(t, s)

    def default_grid(self, steps: int, start: float) -> Tensor:
        """That of the process."""
        return self.inner.default_grid(steps, start)

    def corrupt(self, x0: State, t: Tensor, draw: Any, eps: State = None) -> Corruption:
        """That of the process: every process can."""
        return self.inner.corrupt(x0, t, draw, eps)

    def posterior(self, x: State, out: State, at: Any, reading: Any) -> Any:
        """As it is where "affine" is shown, else sealed."""
        known = self.inner.posterior(x, out, self._full(at), reading)
        return known if "affine" in self.provides else Sealed(known)

    def velocity(self, x: State, at: Any, posterior: Any) -> State:
        """Needs "velocity"."""
        self._needs("the velocity", "velocity")
        self.moved_by.add("velocity")
        return self.inner.velocity(x, self._full(at), getattr(posterior, "_known", posterior))

    def retract(self, x: State, v: State) -> State:
        """That of the process: every process can."""
        self.moved_by.add("retract")
        return self.inner.retract(x, v)

    def reverse(self, x: State, t: Any, s: Any, posterior: Any, z: State) -> State:
        """Needs "reverse"."""
        self._needs("the reverse kernel", "reverse")
        return self.inner.reverse(x, self._full(t), self._full(s), getattr(posterior, "_known", posterior), z)

    def reverse_law(self, x: State, t: Any, s: Any, posterior: Any) -> Law:
        """Needs "reverse"."""
        self._needs("the law of the reverse kernel", "reverse")
        return self.inner.reverse_law(x, self._full(t), self._full(s), getattr(posterior, "_known", posterior))

    def reverse_noise(self, t: Any, s: Any) -> Tensor:
        """Needs "reverse"."""
        self._needs("the noise of the reverse kernel", "reverse")
        return self.inner.reverse_noise(self._full(t), self._full(s))

    def t_of_lam(self, lam: Tensor) -> Tensor:
        """Needs "affine"."""
        self._needs("the time of a log-SNR", "affine")
        return self.inner.t_of_lam(lam)


class _InnerFlow(ExactFlowMap):
    """The oracle's flow map, of the process behind a limited one."""

    def map(self, model: Any, x: State, t: Any, s: Any, **cond: Any) -> State:
        """Psi_{t->s}(x)."""
        model.network(x, t)
        return self.oracle.flow(model.process.inner, x, t.t, s.t).to(x.dtype)


class LimitedField(Field):
    """The exact field of a limited process, with a flow map that only a solver that requires one may use."""

    def __init__(self, process: Limited, oracle: Oracle, requires: frozenset[str]) -> None:
        denoiser = Denoiser(oracle.net(process.inner, "x0"), "x0", process)
        super().__init__(denoiser, flow_map=_InnerFlow(oracle) if "flow_map" in requires else None)
        self.shown = process

    def jump(self, x: State, t: Any, s: Any) -> State:
        """Needs "flow_map"."""
        if self.flow_map is None:
            raise UndeclaredError("a jump of the flow map", "flow_map")
        return super().jump(x, t, s)


def limited(process: AffineProcess, oracle: Oracle, requires: frozenset[str]) -> LimitedField:
    """The exact field of what `requires` names, and of nothing more."""
    return LimitedField(Limited(process, requires - {"flow_map"}), oracle, requires)
