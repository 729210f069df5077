"""Write docs/monograph-proof.tsv: for every component that names a statement of the book, the marked test that needs it.

python docs/audit_monograph.py                  plant every claim, two at once
python docs/audit_monograph.py 1.01 3.08 kl     only these statements and components; the other lines stay
python docs/audit_monograph.py open             only claims that have no proof

One error is planted in one component at a time: every number that its own methods return (tensors, floats, plans, posteriors,
samples, what a network built by it and its methods return) is 10 % off, in whole numbers every other row is 0. A claim is proved
by the first test marked with the statement that passes without the error and with it fails an assertion of its own: one that the
error only makes crash, or that the product refuses, says nothing about the formula; there each method is planted alone. Each
test runs in a process of its own.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from inspect import getsource, isgenerator
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

sys.path.insert(0, str(ROOT))
from tools.mutate.trials import finished

OFF = 1.1
PROVED = "proved by "
CRASHED, NOTICED = 2, 3
"""Exit codes of a test that failed, and of one that failed an assertion."""
ASSERTIONS = ("assert", "AssertionError", "Failed: ")
"""How what pytest says of a failed assertion begins."""
VARIANTS = 32
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
        made = value._replace(**{k: wrong(v) for k, v in value._asdict().items() if k not in ("t", "time", "nfe", "s")})
        made.__dict__.update(value.__dict__) if hasattr(value, "__dict__") else None
        return made
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
    for name in methods(type(net)).keys() - {"forward"}:
        setattr(net, name, partial(_off, getattr(net, name)))
    return net


def _off(method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return wrong(method(*args, **kwargs))


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
        self.inner, self.event, self.size, self.classes = inner, inner.event, inner.size, inner.classes

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def batch(self, ids: Tensor) -> Any:
        """Its batch."""
        return wrong(self.inner.batch(ids))


LEFT = frozenset({"nodes_of", "retract", "init", "calibrated_as", "stand_in", "calibrated", "on_path"})


def methods(cls: type) -> dict[str, Callable[..., Any]]:
    """The methods a component has from its own distribution, by name."""
    found: dict[str, Callable[..., Any]] = {}
    for base in reversed(cls.__mro__):
        if base.__module__.partition(".")[0] not in ("diffcore", "builtins", "torch"):
            found |= {n: f for n, f in vars(base).items() if callable(f) and not isinstance(f, (type, staticmethod, classmethod))}
    hidden = {n for n in found if n.startswith("_") and n != "__call__"}
    return {n: f for n, f in found.items() if n not in hidden | LEFT}


def plant(cls: Any, only: str = "") -> None:
    """Let every method of the class, or one of them, return something wrong."""
    for name, method in methods(cls).items():
        if only not in ("", name):
            continue

        def planted(self: Any, *args: Any, method: Any = method, **kwargs: Any) -> Any:
            return wrong(method(self, *args, **kwargs))

        setattr(cls, name, functools.wraps(method)(planted))


class Audit:
    """A pytest plugin that runs marked tests in forks: once as they are, then with each claim's component planted."""

    def __init__(self, wanted: list[Claim]) -> None:
        self.wanted, self.verdicts, registry = wanted, dict[Claim, str](), Registry.load()
        self.turns: dict[pytest.Item, int] = {}
        self.classes: dict[str, Any] = {f"{e.kind} {e.id}": registry.get(e.kind, e.full_id) for e in registry.list()}

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """The whole audit, instead of the tests."""
        marked: dict[str, list[pytest.Item]] = defaultdict(list)
        turns: Counter[Any] = Counter()
        for item in session.items:
            self.turns[item] = turns[item.function]  # pyright: ignore
            turns[item.function] += 1  # pyright: ignore
            for mark in item.iter_markers("item"):
                for number in mark.args:
                    marked[number] += [item] if self.turns[item] < VARIANTS else []
        work = [(claim, partial(self._judge, claim, marked[claim.number])) for claim in self.wanted]
        for claim, _, said in finished(work, 2, 10 * LIMIT):
            crashes, _, self.verdicts[claim] = said.rstrip().partition(PROVED)
            found = self.verdicts[claim] or f"not proved; tests that it makes crash:\n{crashes}"
            print(f"{claim.number}\t{claim.component}\t{found}", flush=True)
        return True

    def _judge(self, claim: Claim, items: list[pytest.Item]) -> int:
        """Print the first test that notices the component planted and passes without: each function once before its other
        variants, those that name the class first."""
        cls, end = self.classes[claim.component], time.monotonic() + LIMIT
        for item in sorted(items, key=lambda i: (self.turns[i], cls.__name__ not in getsource(i.function))):  # pyright: ignore
            if time.monotonic() > end:
                break
            if _notices(item, cls) and _exit_code(item) == 0:
                print(PROVED + item.nodeid.partition("[")[0])
                break
        return 0


def _notices(item: pytest.Item, cls: Any) -> bool:
    """Whether a test fails an assertion with all methods planted, or, where that makes it crash, with one of them."""
    code = _exit_code(item, cls)
    return code == NOTICED or (code == CRASHED and any(_exit_code(item, cls, name) == NOTICED for name in methods(cls)))


def _exit_code(item: pytest.Item, planted: Any = None, only: str = "") -> int:
    """0 where the test passes in a process of its own, with the error in a component if one is given; negative out of time."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    signal.alarm(int(LIMIT))
    if planted is not None:
        plant(planted, only)
    log, null = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1), os.dup2(null, 2)
    reports = [r for r in runtestprotocol(item, log=False, nextitem=None) if r.failed and r.when != "teardown"]
    said = [r.longrepr.reprcrash.message for r in reports if hasattr(r.longrepr, "reprcrash")]
    noticed = any(text.startswith(ASSERTIONS) for text in said)
    if reports and not noticed:
        os.write(log, f"  {item.nodeid}: {'; '.join(said)[:300]}\n".encode())
    os._exit(NOTICED if noticed else CRASHED * bool(reports))


def files(wanted: list[Claim]) -> Iterator[str]:
    """The test files with a mark of one of the statements."""
    numbers = {claim.number for claim in wanted}
    for path in sorted([*ROOT.glob("tests/**/test_*.py"), *ROOT.glob("plugins/*/tests/**/test_*.py")]):
        text = path.read_text(encoding="utf-8")
        if "mark.item(" in text and any(f'"{n}"' in text for n in numbers):
            yield str(path.relative_to(ROOT))


def main(arguments: list[str]) -> int:
    """Audit, and write what was found; 1 where a claim is not proved."""
    every, known = claims(), proofs()
    wanted = [c for c in every if not arguments or {c.number, c.component.partition(" ")[2]} & {*arguments}]
    if arguments == ["open"]:
        wanted = [c for c in every if not known.get(c)]
    torch.set_num_threads(1)  # a fork does not have the threads of its parent
    audit = Audit(wanted)
    os.chdir(ROOT)
    quiet = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    pytest.main([*quiet, *files(wanted)], plugins=[audit])
    known = {**known, **audit.verdicts}
    PROOF.write_text("".join(f"{c.number}\t{c.component}\t{known.get(c, '')}\n" for c in every), encoding="utf-8")
    missing = [c for c in wanted if not audit.verdicts.get(c)]
    print(f"{len(wanted) - len(missing)} of {len(wanted)} claims proved")
    return int(bool(missing))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
