"""Proof for components: closed-form oracles, and the conformance kit that checks a plugin from its declarations.

    from diffcore.testing import conformance

    test_conformance = conformance("my-distribution")

What a component class may tell the kit, as class attributes:

    example            fields it is made with, where its defaults do not suffice
    variants           further sets of fields to check as well: ({"eta": 1.0},)
    expected_failures  check -> why it cannot hold; a check that holds after all is then a failure
    event_shape        guidance, networks, metrics: the shape of one sample, where not every shape will do
    neutral            guidance: fields for which it changes nothing, None where there are none; weight = 1 where there is a
                       field `weight` and nothing is said
    weak_order         stochastic solvers: the order of mean and variance that `marginals` must find (1 where none is declared)
    oracle             losses: what minimises them: "denoiser" (the default), "flow_map", or None

and as methods: `probe(draw)` of a process makes data for states other than vectors, `oracle()` of a process that is not affine
returns exact data for its solvers (`sample(n, draw)`, `field(process, ...)`), `oracle()` of a data set declares its law in closed
form, which metrics compare with, `exact(oracle, process)` of a flow map returns its
exact network.

A plugin that declares a kind names its checks there (`dc.Kind(..., checks="my_plugin.checks:CHECKS")`): functions of a `Subject`,
whose `make()` and `component` are instances of the class under test. They raise `AssertionError`, or `SkipError` with its reason;
the name of a function is that of its check.

`equals_published(solver, program, process)` asserts that a solver is the program its paper published, step by step to 1e-6.

The names are loaded on first use: pytest imports this package at start-up, without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffcore.testing.base import SkipError, Subject
    from diffcore.testing.oracles import (
        ExactNet,
        FiniteSet,
        Gaussian,
        LinearInverse,
        Mixture,
        Oracle,
        golden_mixture,
        instant,
    )
    from diffcore.testing.published import equals_published
    from diffcore.testing.references import REFERENCES, ReferenceFlow, ReferenceVE, ReferenceVP
    from diffcore.testing.suite import Outcome, Report, conformance, run_checks

_LAZY = {
    "base": ("SkipError", "Subject"),
    "oracles": ("ExactNet", "FiniteSet", "Gaussian", "LinearInverse", "Mixture", "Oracle", "golden_mixture", "instant"),
    "published": ("equals_published",),
    "references": ("REFERENCES", "ReferenceFlow", "ReferenceVE", "ReferenceVP"),
    "suite": ("Outcome", "Report", "conformance", "run_checks"),
}
_WHERE = {name: module for module, names in _LAZY.items() for name in names}

__all__ = [
    "REFERENCES",
    "ExactNet",
    "FiniteSet",
    "Gaussian",
    "LinearInverse",
    "Mixture",
    "Oracle",
    "Outcome",
    "ReferenceFlow",
    "ReferenceVE",
    "ReferenceVP",
    "Report",
    "SkipError",
    "Subject",
    "conformance",
    "equals_published",
    "golden_mixture",
    "instant",
    "run_checks",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'diffcore.testing' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"diffcore.testing.{_WHERE[name]}"), name)
    globals()[name] = value
    return value
