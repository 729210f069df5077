"""Write docs/monograph-proof.tsv: for every component that names a statement of the book, the marked test that needs it.

python docs/audit_monograph.py                  plant every claim (some ten minutes)
python docs/audit_monograph.py 1.01 3.08 kl     only these statements and components; the other lines stay

One error is planted in one component at a time: every number that its own methods return (tensors, floats, plans, posteriors,
samples, what a network built by it returns) is 10 % off, in whole numbers every other row is 0. A claim is proved by the first
test marked with the statement that passes without the error and fails with it. Each test runs in a process of its own.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from inspect import isgenerator
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from _pytest.runner import runtestprotocol
from generate_hooks import ROOT
from generate_monograph import PROOF, Claim, claims, proofs
from torch import Tensor, nn

import diffcore as dc
from diffcore.specs.registry import Registry

OFF = 1.1
FAILED = 3
"""Exit code of a test that failed."""
VARIANTS = 16
"""Of one test function, so many sets of parameters are tried."""
LIMIT = 120.0
"""Seconds of planted tests for one claim; a claim that needs more is not proved."""


def wrong(value: Any) -> Any:
    """What a method returned, with every number in it off."""
    if isinstance(value, Tensor):
        return value * OFF if value.is_floating_point() else _whole(value)
    if isinstance(value, float):
        return value * OFF
    if isinstance(value, (dc.Plan, nn.Module)):
        return _plan(value) if isinstance(value, dc.Plan) else _network(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return value._replace(**{k: wrong(v) for k, v in value._asdict().items() if k not in ("t", "time", "nfe", "s")})
    if isinstance(value, (tuple, list)):
        return type(value)(wrong(v) for v in value)
    if isinstance(value, dict):
        return {k: wrong(v) for k, v in value.items()}
    return map(wrong, value) if isgenerator(value) else _object(value)


def _whole(x: Tensor) -> Tensor:
    """Every other row 0."""
    if x.dtype != torch.int64 or x.ndim == 0:
        return x
    return x * (torch.arange(len(x)) % 2).reshape(-1, *[1] * (x.ndim - 1))


def _plan(plan: dc.Plan) -> dc.Plan:
    for name, entry in plan.entries.items():
        if isinstance(entry, Tensor):
            plan.entries[name] = entry * OFF
    plan.noise = plan.noise * OFF
    return plan


def _network(net: nn.Module) -> nn.Module:
    net.register_forward_hook(lambda module, args, out: wrong(out))
    return net


def _object(value: Any) -> Any:
    """Objects of the core: what is known of x_0, noised data, measured numbers; and data sources by their `batch`."""
    if isinstance(value, dc.Posterior):
        return value.replace(value.name, wrong(value.value))
    if isinstance(value, dc.Corruption):
        return attrs.evolve(value, xt=wrong(value.xt), targets={k: wrong(v) for k, v in value.targets.items()})
    if isinstance(value, dc.Measured):
        return attrs.evolve(value, value=value.value * OFF)
    if hasattr(value, "batch") and hasattr(value, "classes"):
        return _Source(value)
    if hasattr(value, "replace") and hasattr(value, "logp"):
        return value.replace(value.logp * OFF)
    return value


class _Source:
    """A data source whose samples are off."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.shape, self.size, self.classes = inner, inner.shape, inner.size, inner.classes

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def batch(self, ids: Tensor) -> Any:
        """Its batch."""
        return wrong(self.inner.batch(ids))


LEFT = frozenset({"nodes_of", "retract", "init", "embed_time", "fit_as", "stand_in", "fitted", "on_path"})


def methods(cls: type) -> dict[str, Callable[..., Any]]:
    """The methods a component has from its own distribution, by name."""
    found: dict[str, Callable[..., Any]] = {}
    for base in reversed(cls.__mro__):
        if base.__module__.partition(".")[0] not in ("diffcore", "builtins"):
            found |= {n: f for n, f in vars(base).items() if callable(f) and not isinstance(f, (type, staticmethod, classmethod))}
    hidden = {n for n in found if n.startswith("_") and n != "__call__"}
    return {n: f for n, f in found.items() if n not in hidden | LEFT}


def plant(cls: Any) -> None:
    """Let every method of the class return something wrong."""
    for name, method in methods(cls).items():

        def planted(self: Any, *args: Any, method: Any = method, **kwargs: Any) -> Any:
            return wrong(method(self, *args, **kwargs))

        setattr(cls, name, functools.wraps(method)(planted))


class Audit:
    """A pytest plugin that runs marked tests in forks: once as they are, then with each claim's component planted."""

    def __init__(self, wanted: list[Claim]) -> None:
        self.wanted, self.verdicts, registry = wanted, dict[Claim, str](), Registry.load()
        self.classes: dict[str, Any] = {f"{e.kind} {e.id}": registry.get(e.kind, e.full_id) for e in registry.list()}

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """The whole audit, instead of the tests."""
        marked: dict[str, list[pytest.Item]] = defaultdict(list)
        for item in session.items:
            for mark in item.iter_markers("item"):
                for number in mark.args:
                    same = [i for i in marked[number] if i.function is item.function]  # pyright: ignore
                    marked[number] += [item] if len(same) < VARIANTS else []
        for claim in self.wanted:
            self.verdicts[claim] = self._judge(claim, marked[claim.number])
            print(f"{claim.number}\t{claim.component}\t{self.verdicts[claim] or 'not proved'}", flush=True)
        return True

    def _judge(self, claim: Claim, items: list[pytest.Item]) -> str:
        """The first test that fails with the component planted and passes without; those of its own distribution first."""
        cls, end = self.classes[claim.component], time.monotonic() + LIMIT
        home = Path(sys.modules[cls.__module__].__file__ or "").parents[1]
        for item in sorted(items, key=lambda i: home not in i.path.parents):
            if time.monotonic() > end:
                break
            if _exit_code(item, cls) == FAILED and _exit_code(item) == 0:
                return item.nodeid.partition("[")[0]
        return ""


def _exit_code(item: pytest.Item, planted: Any = None) -> int:
    """0 where the test passes in a process of its own, with the error in a component if one is given; negative out of time."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    signal.alarm(int(LIMIT))
    if planted is not None:
        plant(planted)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1), os.dup2(null, 2)
    reports = runtestprotocol(item, log=False, nextitem=None)
    os._exit(FAILED * any(r.failed for r in reports if r.when != "teardown"))


def files(wanted: list[Claim]) -> Iterator[str]:
    """The test files with a mark of one of the statements."""
    numbers = {claim.number for claim in wanted}
    for path in sorted([*ROOT.glob("tests/**/test_*.py"), *ROOT.glob("plugins/*/tests/**/test_*.py")]):
        text = path.read_text(encoding="utf-8")
        if "mark.item(" in text and any(f'"{n}"' in text for n in numbers):
            yield str(path.relative_to(ROOT))


def main(arguments: list[str]) -> int:
    """Audit, and write what was found; 1 where a claim is not proved."""
    every = claims()
    wanted = [c for c in every if not arguments or c.number in arguments or c.component.partition(" ")[2] in arguments]
    torch.set_num_threads(1)  # a fork does not have the threads of its parent
    audit = Audit(wanted)
    os.chdir(ROOT)
    quiet = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    pytest.main([*quiet, *files(wanted)], plugins=[audit])
    known = {**{c: t for c, t in proofs().items() if c in every}, **audit.verdicts}
    PROOF.write_text("".join(f"{c.number}\t{c.component}\t{known.get(c, '')}\n" for c in every), encoding="utf-8")
    missing = [c for c in wanted if not audit.verdicts.get(c)]
    print(f"{len(wanted) - len(missing)} of {len(wanted)} claims proved")
    return int(bool(missing))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
