"""What a spec names, opened and built, and everything that does not work or fit."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from diffcore.declare.errors import DataError, IncompatibleError, SpecError
from diffcore.declare.state import plain_defaults
from diffcore.learning import conditions
from diffcore.learning.data import Source
from diffcore.learning.sources import opened_of
from diffcore.numerics.arguments import shown
from diffcore.numerics.draw import mix
from diffcore.numerics.process import Process
from diffcore.run import foresight, sizes
from diffcore.run.fitting import Findings, place_of, problems
from diffcore.run.metadata import Known
from diffcore.run.remembered import known_of, numbered
from diffcore.run.spec import Spec
from diffcore.specs.registry import Registry


class UnfitError(IncompatibleError):
    """What does not fit, each with the path of the part in the spec."""

    def __init__(self, problems: Sequence[tuple[str, str]]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(f"{path}: {message}" for path, message in problems))


class UnopenedError(DataError):
    """Data that cannot be opened, in a spec without other faults, with its path in the spec."""

    def __init__(self, path: str, message: str) -> None:
        self.problems = ((path, message),)
        super().__init__(message)


def device_of(name: str | torch.device | None) -> torch.device:
    """The device of this name (default: CUDA where there is one). Raises `SpecError` where this machine has none such."""
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name is None else name)
    except (RuntimeError, TypeError, ValueError):
        raise SpecError(f"no device {shown(name)}; choose cpu, or cuda (cuda:1, ...) where there is a GPU") from None
    counts: dict[str, Callable[[], int]] = {
        "cpu": lambda: 1,
        "cuda": torch.cuda.device_count,
        "mps": lambda: int(torch.backends.mps.is_available()),
        "xpu": torch.xpu.device_count,
    }
    if device.type not in counts:
        raise SpecError(f"device '{name}' cannot compute; choose cpu, or cuda where there is a GPU")
    there = counts[device.type]()
    if (device.index or 0) >= there:
        raise SpecError(
            f"device '{name}' is not there: torch {torch.__version__} sees {there} {device.type} device{'s' * (there != 1)}"
        )
    return device


class Assembly:
    """The parts of a spec: `source` (the opened data), `process` and `net`, on `device`, as far as they could be had; `known`,
    what a run stores of its data; and `problems`, (path, message) of all that does not work or fit.
    """

    def __init__(
        self,
        spec: Spec,
        registry: Registry,
        device: str | torch.device | None = None,
        *,
        source: Source | None = None,
        known: Known | None = None,
        broken: frozenset[str] = frozenset(),
    ) -> None:
        """source, known: the data, opened, and what a run knows of it; else the data of the spec is opened, and must be there.

        broken: sections of the spec that are None, because they have faults of their own.
        """
        self.spec, self.registry, self.device = spec, registry, device_of(device)
        found, self.known = Findings(), known
        if "data" not in broken:
            with found.at(lambda error: place_of(spec.data, error)):
                self._open(source)
        if "process" not in broken:
            with found.at("process"), self._seeded(0x9C0):
                self.process: Any = spec.process.build()
                if isinstance(self.process, nn.Module):
                    self.process.to(self.device)
        broken |= {section for section, part in (("data", "source"), ("process", "process")) if not hasattr(self, part)}
        self._compare(found, broken, loaded=known is not None)
        self.problems = found.problems

    def _open(self, source: Source | None) -> None:
        there = opened_of(self.spec.data, self.spec.data.open() if source is None else source)
        self.known = self.known or known_of(self.spec.data, there)
        self.source: Source = there

    def _compare(self, found: Findings, broken: frozenset[str], *, loaded: bool) -> None:
        """Note what does not fit together among the parts that are there."""
        spec, classes = self.spec, None if "data" in broken else self.source.classes
        provides = None if "process" in broken else cast(Process, self.process).provides
        asked = classes == {} and "guidance" not in broken and any("cond" in guidance.needs for guidance in spec.guidance)
        found.problems += problems(spec, self.registry, provides, classes, broken, self.arrays if asked else ())
        for path, needs, check in self._checks(loaded=loaded):
            if not broken & needs:
                with found.at(path):
                    check()
        if not loaded:
            oversized = {"evaluation" for path, _ in found.problems if path.startswith("evaluation.")}
            found.problems += foresight.problems(self, broken | oversized)

    @contextmanager
    def _seeded(self, part: int) -> Generator[None]:
        """First weights are a function of the spec's seed, on every rank and whatever torch's default dtype and device are;
        torch's global generator is left as it was. A seed with a fault is 0 here, so that the rest is looked at."""
        with torch.random.fork_rng(devices=[]), plain_defaults():
            torch.manual_seed(mix(self.spec.seed or 0, part) & 0x7FFFFFFF)
            yield

    def _checks(self, *, loaded: bool) -> Iterator[tuple[str, set[str], Callable[[], Any]]]:
        """(path, the sections it is about, what raises where they do not fit)."""
        spec = self.spec
        yield "prediction", {"process", "prediction", "sigma_data"}, self._check_prediction
        yield "network", {"data", "process", "network", "prediction", "trainer"}, partial(self._network, loaded)
        yield "sampling.cond", {"data", "sampling"}, lambda: self.classes(1, numbered(self.known, spec.sampling.cond))
        yield "sampling.mode", {"sampling"}, self._check_mode
        for path in ("sampling.n", "evaluation.n"):
            yield path, {"solver", "guidance", path.partition(".")[0]}, partial(self._check_groups, path)
        yield "evaluation.calls", {"evaluation"}, self._check_budgets
        for path in sizes.COUNTS if not loaded else ():
            yield path, {"data", path.partition(".")[0]}, partial(self._check_size, path)

    def _check_prediction(self) -> None:
        self.process.check_prediction(self.spec.prediction, self.spec.sigma_data)

    def _network(self, loaded: bool) -> None:
        spec, event, classes = self.spec, self.source.event, self.source.classes
        outputs = self.process.output_event(event, spec.prediction)

        def build() -> nn.Module:
            with self._seeded(0x1217):
                return spec.network.build(event, classes, **({} if outputs == event else {"outputs": outputs}))

        copies = 1 if loaded or not spec.trainer.steps else sizes.LEARNT
        self.net = sizes.built(build, sizes.memory(self.device) // copies, "the network").to(self.device)

    def _check_size(self, path: str) -> None:
        sizes.check(path, self.spec, self.source.event, self.device)

    def _check_groups(self, path: str) -> None:
        solver = self.spec.solver
        for guidance in self.spec.guidance:
            solver = guidance.solver(solver)
        sizes.check_groups(self.spec.sampling.n if path == "sampling.n" else self.spec.evaluation.n, solver.group)

    def _check_mode(self) -> None:
        if self.spec.sampling.mode == "graph" and self.device.type != "cuda":
            raise SpecError("'graph' needs a CUDA device, and this run is on another; choose compile or eager")

    def _check_budgets(self) -> None:
        if self.spec.evaluation.calls and not self.spec.evaluation.solvers:
            raise SpecError("budgets are for evaluation.solvers, and none is named; name some or leave it out")

    @cached_property
    def arrays(self) -> Mapping[str, tuple[int, ...]]:
        """The conditions of the network that are no classes, with the shape of one row."""
        return conditions.arrays_of(self.source, self.spec.loss)

    def classes(self, n: int, cond: Mapping[str, Any]) -> dict[str, Tensor]:
        """One class per sample for every condition that is a class: as asked, else all combinations in turn."""
        classes = self.source.classes
        known = ", ".join([*classes, *self.arrays]) or "none"
        for name in cond:
            if name not in classes:
                raise SpecError(f"no condition '{name}'; {type(self.spec.data).__name__} has: {known}")
        chosen, turn = dict[str, Tensor](), 1
        without = getattr(self.spec.loss, "drops", True)  # whether "no class" was trained, which is one more
        for name, count in classes.items():
            value = torch.as_tensor(cond.get(name, torch.arange(n) // turn % count))
            turn *= 1 if name in cond else count
            if value.is_floating_point() or value.is_complex():
                raise SpecError(f"condition '{name}' is a class, an integer of 0 to {count - 1}; got {cond[name]!r}")
            value = value.to(torch.int64)
            value = value.expand(n) if value.ndim == 0 else value
            if len(value) != n or bool(((value < 0) | (value >= count + without)).any()):
                none = f"{count} for none" if without else "the loss trains none without: loss.drop is 0"
                raise SpecError(f"condition '{name}' must be one class, or {n} classes, of 0 to {count - 1} ({none})")
            chosen[name] = value
        return chosen
