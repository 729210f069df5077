"""What a check is: a function of a `Subject` that returns, raises `AssertionError`, or raises `SkipError` with its reason."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

import attrs
import torch
from torch import Tensor

from diffcore.declare.component import Base
from diffcore.declare.entry import Entry
from diffcore.declare.errors import DiffcoreError
from diffcore.numerics.calibration import Calibrated, stand_in
from diffcore.numerics.draw import Draw
from diffcore.numerics.process import Process
from diffcore.numerics.solver import Solver
from diffcore.numerics.tree import State, leaves, tree_map
from diffcore.specs.registry import Registry
from diffcore.testing.references import REFERENCES

Check = Callable[["Subject"], None]


class SkipError(Exception):
    """The check says nothing about this component, and why."""


@attrs.frozen
class Rule:
    """One registered check: for which kind ("" is every kind), its name, and the function."""

    kind: str
    name: str
    run: Check
    applies: Callable[[type[Base]], bool]


RULES: list[Rule] = []


def check(*kinds: str, applies: Callable[[Any], bool] = lambda cls: True) -> Callable[[Check], Check]:
    """Register a check for some kinds (none: every kind); its name is that of the function. `applies` looks at the class."""

    def add(run: Check) -> Check:
        RULES.extend(Rule(kind, run.__name__, run, applies) for kind in kinds or ("",))
        return run

    return add


def rules_of(cls: type[Base]) -> Iterator[Rule]:
    """The checks for a component class, the general ones first."""
    for rule in sorted(RULES, key=lambda r: r.kind != ""):
        if rule.kind in ("", cls.kind) and rule.applies(cls):
            yield rule


@attrs.define
class Subject:
    """A component under test: its entry, its class and an instance made from its defaults, its `example` and a variant of it."""

    registry: Registry
    entry: Entry
    cls: Any
    variant: Mapping[str, Any] = attrs.field(factory=dict)
    _made: Any = attrs.field(default=None, init=False)

    def make(self, **changes: Any) -> Any:
        """An instance: the fields of `example` and of the variant, the defaults for the rest, and `changes`."""
        fields: Mapping[str, Any] = {**self.cls.example, **self.variant, **changes}
        try:
            return self.registry.make(self.entry.kind, self.entry.full_id, **fields) if fields else self.cls()
        except TypeError as error:
            raise AssertionError(
                f"{self.cls.__name__} cannot be made from {fields or 'its defaults'} ({error}); "
                f"give every mandatory field a value in the class attribute `example`"
            ) from None

    @property
    def component(self) -> Any:
        """One instance, shared by the checks: components are frozen. What must be calibrated to a model has its stand-in here."""
        if self._made is None:
            made = self.make()
            bare = isinstance(made, Calibrated) and made.calibrate_on
            self._made = stand_in(made) if isinstance(made, Solver) else made.stand_in() if bare else made
        return self._made

    def processes(self, requires: frozenset[str] = frozenset()) -> list[Process]:
        """The reference processes that provide what is required, or the installed ones that do. Raises `SkipError`."""
        found = [p for p in REFERENCES if requires <= p.provides] or [p for p in self.installed() if requires <= p.provides]
        if not found:
            raise SkipError(f"no installed process provides {', '.join(sorted(requires))}")
        return list(found)

    def installed(self) -> list[Process]:
        """Every installed process that can be made from its defaults or example, with an `oracle` of its own."""
        return [process for process in self.every("process") if hasattr(process, "oracle")]

    def every(self, kind: str) -> Iterator[Any]:
        """Every installed component of a kind, made from its defaults or example; those that cannot be are left out."""
        for entry in self.registry.list(kind):
            try:
                yield Subject(self.registry, entry, self.registry.get(kind, entry.full_id)).component
            except (AssertionError, DiffcoreError):
                continue


def accepted(process: Process, names: Iterable[str]) -> list[str]:
    """The predictions among `names` that the process can read at all its times."""
    return [name for name in names if not refused(lambda name=name: process.check_prediction(name, 0.5))]


def same(a: State, b: State, tolerance: float = 0.0) -> bool:
    """Whether two states are equal (to a tolerance relative to the size of b); NaN equals NaN."""
    return all(_same_leaf(x, y, tolerance) for x, y in zip(leaves(a), leaves(b), strict=True))


def _same_leaf(a: Tensor, b: Tensor, tolerance: float) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if tolerance == 0 or not a.is_floating_point():
        return bool(torch.equal(a.nan_to_num(), b.nan_to_num()) if a.is_floating_point() else torch.equal(a, b))
    scale = max(1.0, float(b.detach().abs().max())) if b.numel() else 1.0
    return bool(((a - b).abs() <= tolerance * scale).all())


def worst(a: State, b: State) -> float:
    """The largest absolute difference, as a number for messages."""
    return max(float((x.detach().double() - y.detach().double()).abs().max()) for x, y in zip(leaves(a), leaves(b), strict=True))


def copied(x: State) -> State:
    """A detached copy of a state, None included."""
    return None if x is None else tree_map(lambda leaf: leaf.detach().clone() if isinstance(leaf, Tensor) else leaf, x)


@contextmanager
def unchanged(what: str, *states: State) -> Generator[None]:
    """Fail if a state was changed in place inside the block."""
    before = [copied(s) for s in states]
    yield
    for old, new in zip(before, states, strict=True):
        assert same(new, old), f"{what} was changed in place; write `x = x + ...`, never `x += ...`"


_FUNCTIONS = (
    "rand",
    "randn",
    "randint",
    "randperm",
    "normal",
    "rand_like",
    "randn_like",
    "randint_like",
    "bernoulli",
    "multinomial",
    "poisson",
)
_METHODS = ("normal_", "uniform_", "random_", "bernoulli_", "exponential_", "cauchy_", "log_normal_", "geometric_", "multinomial")


class GlobalNoiseError(AssertionError):
    """A draw from a global random generator."""


@contextmanager
def poisoned_noise() -> Generator[None]:
    """Fail on any use of a global random generator: torch's functions and methods, Python's `random`, NumPy's."""

    def guard(name: str, original: Any) -> Any:
        def guarded(*args: Any, **kwargs: Any) -> Any:
            if kwargs.get("generator") is None:
                raise GlobalNoiseError(f"{name} draws from torch's global generator; take noise from `z` or a `dc.Draw`")
            return original(*args, **kwargs)

        return guarded

    before = _generator_states()
    patches = [mock.patch.object(torch, n, guard(f"torch.{n}", getattr(torch, n))) for n in _FUNCTIONS]
    patches += [mock.patch.object(Tensor, n, guard(f"Tensor.{n}", getattr(Tensor, n))) for n in _METHODS]
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        for patch in patches:
            patch.stop()
    if _generator_states() != before:
        raise GlobalNoiseError("a global random generator was advanced; take noise from `z` or a `dc.Draw`")


def _generator_states() -> list[Any]:
    states: list[Any] = [torch.get_rng_state().tolist(), random.getstate()]
    if "numpy" in sys.modules:
        name, keys, *rest = sys.modules["numpy"].random.get_state()
        states.append((name, keys.tolist(), rest))
    return states


def draw_of(n: int, seed: int = 7, **kwargs: Any) -> Draw:
    """Noise for n samples."""
    return Draw(seed, range(n), **kwargs)


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Fixed standard normal numbers, float64."""
    return torch.empty(shape, dtype=torch.float64).normal_(generator=torch.Generator().manual_seed(seed))


def refused(run: Callable[[], Any]) -> str:
    """The message of the `DiffcoreError` that `run` raises, or an empty string."""
    try:
        run()
    except DiffcoreError as error:
        return str(error)
    return ""
