"""Checks of data sources: addressed by number, within their declared range, conditions as declared."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from diffcore.declare.errors import DataError
from diffcore.numerics.affine import Coeffs
from diffcore.numerics.event import Event
from diffcore.numerics.tree import State, batch_size, leaves, tree_map
from diffcore.testing.base import SkipError, Subject, check, normal, poisoned_noise, same


def _open(subject: Subject) -> Any:
    try:
        return subject.component.open()
    except DataError as error:
        raise SkipError(str(error)) from None


def _ids(source: Any) -> Tensor:
    last = 10**9 if source.size is None else source.size - 1
    return torch.tensor([0, last // 2, 1, last, last // 3, 0], dtype=torch.int64).clamp_max(last)


@check("data")
def addressed_by_number(subject: Subject) -> None:
    """The same numbers give the same samples, in any batch, from no global generator; other numbers give others."""
    source = _open(subject)
    ids = _ids(source)
    with poisoned_noise():
        whole, cond = source.batch(ids)
    again, _ = source.batch(ids)
    assert same(again, whole), "the same numbers gave other samples"
    part, part_cond = source.batch(ids[[3, 1]])
    assert same(part, tree_map(lambda leaf: leaf[[3, 1]], whole)), "a sample depends on the batch it is read in"
    assert all(same(part_cond[k], cond[k][[3, 1]]) for k in cond), "a condition depends on the batch it is read in"
    assert same(tree_map(lambda leaf: leaf[:1], whole), tree_map(lambda leaf: leaf[5:], whole)), (
        "number 0 gave two different samples in one batch"
    )
    varied, _ = source.batch(torch.arange(min(32, source.size or 32)))
    assert any(not same(_one(varied, i), _one(varied, 0)) for i in range(1, batch_size(varied))), "all samples are the same"


def _one(x: State, i: int) -> State:
    return tree_map(lambda leaf: leaf[i], x)


@check("data")
def as_declared(subject: Subject) -> None:
    """Shape, dtype and range as declared; one int64 condition per class list, within its number of classes."""
    data, source = subject.component, _open(subject)
    ids = torch.arange(min(256, source.size or 256))
    raw, cond = source.batch(ids)
    for leaf in leaves(raw):
        assert leaf.dtype in (torch.float32, torch.int64), f"samples are {leaf.dtype}, must be float32 (or int64 for tokens)"
        assert not leaf.is_floating_point() or bool(torch.isfinite(leaf).all()), "samples hold NaN or Inf"
    if isinstance(raw, Tensor):
        declared = Event.of(source.event)
        assert tuple(raw.shape) == (len(ids), *declared.shape), f"batch of shape {tuple(raw.shape)}, declared event {declared}"
    model = data.encode(raw)
    if data.value_range is not None:
        assert float(model.abs().max()) <= 1 + 1e-6, "outside [-1, 1] after rescaling"
    assert set(cond) == set(source.classes), f"conditions {sorted(cond)}, declared {sorted(source.classes)}"
    for name, count in source.classes.items():
        value = cond[name]
        found, wanted = (value.dtype, tuple(value.shape)), (torch.int64, (len(ids),))
        assert found == wanted, f"condition '{name}' is {found}, must be {wanted}"
        assert 0 <= int(value.min()) <= int(value.max()) < count, f"condition '{name}' leaves 0..{count - 1}"
    assert not data.class_names or len(data.class_names) == source.classes.get("label"), (
        "class_names and the classes of 'label' differ in number"
    )


@check("data")
def oracle(subject: Subject) -> None:
    """What `oracle()` declares is the law of the samples: means of x, x^2, log p and (log p)^2 agree (512 of each, 5 s.e.)."""
    law = subject.component.oracle()
    if law is None:
        raise SkipError("declares no law in closed form")
    source = _open(subject)
    n = min(512, source.size or 512)
    found, wanted = (_features(law, x.double()) for x in (source.batch(torch.arange(n))[0], law.sample(n)))
    error = ((found.var(0) + wanted.var(0)) / n) ** 0.5 + 1e-12
    off = float(((found.mean(0) - wanted.mean(0)).abs() / error).max())
    assert off < 5, f"the samples are not those of the law that `oracle()` declares: {off:.1f} standard errors off"


def _features(law: Any, x: Tensor) -> Tensor:
    """x, x^2, log p and (log p)^2 of x with noise .2, [n, 2 D + 2]: what also a set of points has."""
    blurred, flat = Coeffs(0.0, 1.0, 0.2, 0.0, 0.0), x.flatten(1)
    log = law.log_prob(x + 0.2 * normal(*x.shape, seed=5), blurred)[:, None]
    return torch.cat([flat, flat**2, log, log**2], 1)


@check("data")
def independent_openings(subject: Subject) -> None:
    """Opened twice it is the same data; reading changes nothing."""
    one = _open(subject)
    ids = _ids(one)
    first, _ = one.batch(ids)
    for leaf in leaves(first):
        leaf.zero_()
    second, _ = one.batch(ids)
    assert same(second, subject.component.open().batch(ids)[0]), "a batch written to changes the data: return copies"
