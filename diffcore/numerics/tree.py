"""States are tensors or trees of tensors. All arithmetic on them, and all broadcasting of times, goes through here."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

State = Any
"""A tensor, or a tree (dict, list, tuple, named tuple) of tensors; batch first."""
Scalar = Any
"""A coefficient: a Python float (eager), or a tensor of shape (), (B,), or anything `expand` can lift."""


def tree_map(fn: Callable[..., Any], tree: State, *rest: State) -> State:
    """Apply `fn` to corresponding leaves; a bare tensor is a tree of one leaf."""
    if isinstance(tree, Tensor):
        return fn(tree, *rest)
    return pytree.tree_map(fn, tree, *rest)


def leaves(tree: State) -> list[Tensor]:
    """The tensors of a state, those of a dict in the order of their names: a network may return its parts in any order."""
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, dict):
        return [leaf for name in sorted(tree) for leaf in leaves(tree[name])]
    if isinstance(tree, (tuple, list)):
        return [leaf for part in tree for leaf in leaves(part)]
    return pytree.tree_leaves(tree)


def numbered(fn: Callable[[int, Tensor], Any], tree: State) -> State:
    """`fn(i, leaf)` in the place of leaf number i of `leaves`."""
    number = count()

    def walk(part: Any) -> Any:
        if isinstance(part, dict):
            made = {name: walk(part[name]) for name in sorted(part)}
            return {name: made[name] for name in part}
        if isinstance(part, (tuple, list)):
            parts = [walk(each) for each in part]
            return type(part)(*parts) if hasattr(part, "_fields") else type(part)(parts)
        return fn(next(number), part)

    return walk(tree)


def named_leaves(tree: State) -> dict[str, Tensor]:
    """The tensors of a state by name: "" of a bare tensor, else the keys and numbers that lead to it, `a.b` within trees."""
    if isinstance(tree, Tensor):
        return {"": tree}
    return {".".join(map(_key, path)): leaf for path, leaf in pytree.tree_flatten_with_path(tree)[0]}


def _key(step: Any) -> str:
    return str(getattr(step, "key", getattr(step, "idx", getattr(step, "name", step))))


def batch_size(tree: State) -> int:
    """The length of the first axis of the first leaf."""
    return leaves(tree)[0].shape[0]


def take(tree: Any, rows: Tensor) -> Any:
    """Rows of every tensor of a tree, a carry or a condition, such as those [n] that a resampling keeps; None stays None."""
    return tree_map(lambda leaf: leaf[rows] if isinstance(leaf, Tensor) else leaf, tree)


def describe(tree: State) -> str:
    """A state in a few words, `(64, 2) float32`, leaf by leaf."""
    found = [f"{tuple(leaf.shape)} {str(leaf.dtype).removeprefix('torch.')}" for leaf in leaves(tree)]
    return " and ".join(found)


def expand(t: Scalar, like: Tensor) -> Scalar:
    """Lift a time or coefficient so that it broadcasts against a state leaf.

    Floats and 0-d tensors stay; (B,) becomes (B, 1, ..., 1); (B, N) becomes (B, N, 1, ..., 1); a tensor with as many axes
    as `like` (per-pixel time) stays. Axes are always matched from the left, so that B == D cannot be confused.
    """
    if not isinstance(t, Tensor) or t.ndim == 0 or t.ndim >= like.ndim:
        return t
    return t.view(*t.shape, *(1,) * (like.ndim - t.ndim))


def lincomb(*terms: tuple[Scalar, State], out: State | None = None) -> State:
    """`a x + b y + ...` with as few passes over memory as there are terms, leaf by leaf.

    A term whose coefficient is the Python number 0 is skipped (its state may be None). Coefficients: Python floats, or
    tensors that `expand` lifts. The result never aliases an input, unless `out` is given: a state to write to, which may be
    one of the inputs (see `Plan` on `row.out`).
    """
    total = first = None
    scale: Scalar = 1
    for a, x in terms if out is None else ():
        if isinstance(a, Tensor) or (x.__class__ is not Tensor and a != 0):
            total = first = None
            break
        if a == 0:
            continue
        if total is not None:
            total.add_(x, alpha=a)
        elif first is None:
            first, scale = x, a
        else:
            total = torch.add(first, x, alpha=a) if scale == 1 else torch.mul(first, scale).add_(x, alpha=a)
    return total if total is not None else _general(terms, out)


def _general(terms: tuple[tuple[Scalar, State], ...], out: State | None) -> State:
    """`lincomb` of anything: trees, tensor coefficients, a given output."""
    kept = [term for term in terms if term[1] is not None and (isinstance(term[0], Tensor) or term[0] != 0)]
    if not kept:
        return tree_map(torch.zeros_like, next(x for _, x in terms if x is not None))
    if kept[0][1].__class__ is Tensor:
        return _combine(kept, out)
    scalars, states = zip(*kept, strict=True)
    if out is None:
        return tree_map(lambda *xs: _combine(list(zip(scalars, xs, strict=True)), None), *states)
    return tree_map(lambda o, *xs: _combine(list(zip(scalars, xs, strict=True)), o), out, *states)


def _combine(terms: list[tuple[Scalar, Tensor]], out: Tensor | None) -> Tensor:
    """One leaf. In-place additions go to a fresh buffer (or `out`), never to an operand that is still to be read."""
    if out is not None:
        terms.sort(key=lambda term: term[1] is not out)
        if len(terms) > 1 and terms[1][1] is out:
            return out.copy_(_combine(terms, None))
    a, x = terms[0]
    if len(terms) == 1:
        return torch.mul(x, expand(a, x), out=out) if out is not None else x * expand(a, x)
    b, y = terms[1]
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        total = _add_product(x * expand(a, x), y, b) if isinstance(b, Tensor) else torch.add(x * expand(a, x), y, alpha=b)
    elif a == 1:
        total = torch.add(x, y, alpha=b) if out is None else torch.add(x, y, alpha=b, out=out)
    else:
        total = (torch.mul(x, a) if out is None else torch.mul(x, a, out=out)).add_(y, alpha=b)
    for c, z in terms[2:]:
        total = _add_product(total, z, c) if isinstance(c, Tensor) else total.add_(z, alpha=c)
    return total


def _add_product(total: Tensor, x: Tensor, a: Tensor) -> Tensor:
    """total + a x; written into total, which is nobody else's, where that keeps its precision: no memory is asked for."""
    same = x.dtype == total.dtype and (a.ndim == 0 or a.dtype == total.dtype)
    return total.addcmul_(x, expand(a, x)) if same else torch.addcmul(total, x, expand(a, x))
