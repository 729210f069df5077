"""Every number of every installed component: finite, within bounds on both sides, in specs and in Python."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, get_args

import attrs
import pytest

import diffcore as dc
from diffcore.declare.component import LIMITS
from diffcore.learning.data import Range
from diffcore.run.sections import load_spec
from diffcore.run.spec import EvaluationPlan, Sampling, Spec
from diffcore.specs.fieldtypes import field_types, init_fields

REGISTRY = dc.Registry.load()
CLASSES = [Spec, Sampling, EvaluationPlan, Range, *(REGISTRY.get(e.kind, e.full_id) for e in REGISTRY.list())]
HOSTILE = (math.nan, math.inf, -math.inf, 1e308, -1e308, 10**30, -(10**30))


def numbers(wanted: Any) -> Iterator[type]:
    """The kinds of numbers inside an annotation."""
    if wanted in (int, float):
        yield wanted
    for inner in get_args(wanted):
        yield from numbers(inner)


FIELDS = [
    pytest.param(cls, attribute, kind, id=f"{cls.__name__}.{name}")
    for cls in CLASSES
    for name, attribute in init_fields(cls).items()
    for kind in sorted(set(numbers(field_types(cls)[name])), key=str)
]


def test_the_walk_meets_every_kind_of_component():
    assert len(FIELDS) > 350
    assert {cls.kind for cls in CLASSES if issubclass(cls, dc.Base)} == {entry.kind for entry in REGISTRY.list()}


@pytest.mark.parametrize(("cls", "attribute", "kind"), FIELDS)
def test_a_number_is_finite_and_bounded_on_both_sides(cls: type, attribute: attrs.Attribute, kind: type):
    bounds = attribute.metadata
    for value in HOSTILE:
        if kind is int and isinstance(value, float):
            continue
        if math.isinf(bounds.get("le", 0)) and value == value and bounds.get("ge", 0) <= value <= bounds["le"]:
            continue  # a field that says so takes infinity
        for given in (value, (value,), ((1.0, value),), {"a": value}):  # a list or a map of numbers is as strict as one number
            with pytest.raises(dc.SpecError, match=f"'{attribute.name}' of .* must be"):
                attribute.validator(object.__new__(cls), attribute, given)


def test_every_integer_but_a_seed_says_how_large_it_may_be():
    """64 bits are no bound of a width, a batch or a number of steps: nothing of that size can be allocated."""
    free = [
        f"{cls.__name__}.{attribute.name}"
        for cls, attribute, kind in (p.values for p in FIELDS)
        if kind is int and attribute.name != "seed" and not {"le", "lt", "choices"} & attribute.metadata.keys()
    ]
    assert free == []


SOUND = """\
diffcore: 1
data: {type: two-moons}
process: {type: vp}
network: {type: mlp, width: 16, depth: 1}
loss: {type: denoising, weighting: {type: min-snr}, time_law: {type: lognormal}}
guidance: [{type: cfg}]
solver: {type: edm-heun, grid: {type: karras}}
"""


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("trainer.lr", ".inf", "must be a finite number; got inf"),
        ("trainer.lr", "1e300", "must be <= 100; got 1e+300"),
        ("trainer.lr", "1e-300", "must be >= 1e-30; got 1e-300"),
        ("trainer.weight_decay", "-.inf", "must be a finite number; got -inf"),
        ("trainer.betas", "[0.9, .inf]", "must be a finite number; got inf"),
        ("trainer.batch", "1000000000", "must be <= 10000000; got 1000000000"),
        ("process.beta_max", ".inf", "must be a finite number; got inf"),
        ("guidance.0.weight", "-1e9", "must be >= -1000; got -1000000000.0"),
        ("loss.time_law.mean", ".inf", "must be a finite number; got inf"),
        ("loss.weighting.gamma", ".nan", "expected a number; got nan"),
        ("solver.steps", "1000000000", "must be <= 100000; got 1000000000"),
        ("solver.grid.sigma_max", ".inf", "must be a finite number; got inf"),
        ("network.width", "1000000000", "must be <= 65536; got 1000000000"),
        ("network.depth", "100000", "must be <= 1000; got 100000"),
        ("sampling.n", "10000000000", "must be <= 100000000; got 10000000000"),
        ("sampling.cond", "{label: -1}", "must be >= 0; got -1"),
        ("evaluation.calls", "[5, 99999999999999999999]", "must be <= 1000000; got 99999999999999999999"),
        ("sigma_data", "1e-300", "must be >= 1e-06; got 1e-300"),
        ("seed", "9223372036854775808", "must be <= 9223372036854775807; got 9223372036854775808"),
    ],
)
def test_a_spec_says_which_number_is_wrong(path: str, value: str, message: str):
    with pytest.raises(dc.SpecError) as caught:
        load_spec(SOUND, REGISTRY, [f"{path}={value}"])
    [fault] = caught.value.faults
    assert (fault.path, fault.message) == (path, message)


def test_a_field_takes_infinity_where_its_bound_says_so():
    @dc.component
    class Open(dc.Guidance):
        most: float = dc.param(default=1.0, gt=0, le=math.inf)

    assert Open(most=math.inf).most == math.inf
    with pytest.raises(dc.SpecError, match="'most' of Open must be a finite number; got nan"):
        Open(most=math.nan)


def test_a_default_without_a_declaration_and_a_validator_of_its_own_are_checked_too():
    @dc.component
    class Plain(dc.Guidance):
        w: float = 1.0
        pair: tuple[tuple[float, ...], ...] = ()
        even: int = attrs.field(default=2)

        @even.validator  # pyright: ignore[reportUntypedFunctionDecorator, reportAttributeAccessIssue]
        def _even(self, attribute: attrs.Attribute, value: int) -> None:
            if value % 2:
                raise ValueError(f"'even' of Plain is odd: {value}")

    for wrong in ({"w": math.inf}, {"pair": ((1.0,), (0.0, math.nan))}, {"even": 3}, {"even": LIMITS[int][1] + 1}):
        with pytest.raises(ValueError, match=f"'{next(iter(wrong))}' of Plain"):
            Plain(**wrong)
    assert Plain(w=-3.0, pair=((1.0,),), even=4).w == -3.0
