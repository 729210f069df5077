"""Checks of networks: shapes, use of every input, independence of samples, initialisation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from diffcore.declare.errors import DiffcoreError
from diffcore.testing.base import SkipError, Subject, check, normal, poisoned_noise, same, worst

SHAPES: tuple[tuple[int, ...], ...] = ((2,), (1, 8, 8), (3, 16, 16), (1, 28, 28), (16,), (8, 4))
COND = {"label": 3}


def _shape(subject: Subject) -> tuple[int, ...]:
    """The event shape of the class attribute `event_shape`, else the first usual one the network accepts."""
    declared = getattr(subject.cls, "event_shape", None)
    why = ""
    for shape in (tuple(declared),) if declared else SHAPES:
        try:
            _built(subject, shape)
        except DiffcoreError as error:
            why = str(error)
            continue
        return shape
    raise SkipError(f"accepts none of {SHAPES} ({why}); name one in the class attribute `event_shape`")


def _built(
    subject: Subject, shape: tuple[int, ...], *, perturbed: bool = False, cond: dict[str, int] | None = None, seed: int = 0
) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = subject.component.build(shape, COND if cond is None else cond).eval()
    if perturbed:
        for i, p in enumerate(net.parameters()):
            p.data.add_(0.1 * normal(*p.shape, seed=i).to(p.dtype))
    return net


def _inputs(shape: tuple[int, ...], n: int = 4) -> dict[str, Tensor]:
    t = torch.linspace(0.1, 0.9, n)
    return {"x": normal(n, *shape).float(), "t": t, "label": torch.arange(n) % 4}


def _call(subject: Subject, net: nn.Module, inputs: dict[str, Tensor], **changes: Any) -> Tensor:
    given: dict[str, Any] = {**inputs, **changes}
    if subject.component.takes_second_time:
        given.setdefault("s", given["t"] * 0.5)
    with torch.no_grad():
        return net(given.pop("x"), given.pop("t"), **given)


@check("network")
def like_x(subject: Subject) -> None:
    """The output has the shape and dtype of x and is finite, as initialised, with and without conditions."""
    shape = _shape(subject)
    for cond in (COND, {}):
        inputs = _inputs(shape)
        if not cond:
            del inputs["label"]
        out = _call(subject, _built(subject, shape, cond=cond), inputs)
        found, wanted = (out.dtype, tuple(out.shape)), (torch.float32, tuple(inputs["x"].shape))
        assert found == wanted, f"the output is {found}, x is {wanted}"
        assert bool(torch.isfinite(out).all()), "NaN or Inf in the output of the fresh network"


@check("network")
def null_condition(subject: Subject) -> None:
    """`null_cond` names the null token of every condition: the index after the last class."""
    net: Any = _built(subject, _shape(subject))
    assert dict(getattr(net, "null_cond", {})) == {"label": 3}, (
        f"null_cond is {getattr(net, 'null_cond', 'missing')}, must be {{'label': 3}}"
    )


@check("network")
def uses_every_input(subject: Subject) -> None:
    """After a random perturbation of its weights the output depends on x, t, label and (where it has one) s."""
    shape = _shape(subject)
    net, inputs = _built(subject, shape, perturbed=True), _inputs(shape)
    base = _call(subject, net, inputs)
    changes = {"x": inputs["x"] * 0.9, "t": inputs["t"] + 0.05, "label": (inputs["label"] + 1) % 4}
    if subject.component.takes_second_time:
        inputs["s"] = inputs["t"] * 0.5
        changes["s"] = inputs["t"] * 0.7
    for name, value in changes.items():
        moved = (_call(subject, net, inputs, **{name: value}) - base).abs().flatten(1).amax(1)
        assert float(moved.min()) > 1e-5, f"the output of a sample does not depend on {name}"


@check("network")
def row_by_row(subject: Subject) -> None:
    """The output of a sample does not depend on the rest of its batch (1e-4), nor on global randomness in evaluation."""
    shape = _shape(subject)
    net, inputs = _built(subject, shape, perturbed=True), _inputs(shape)
    with poisoned_noise():
        whole = _call(subject, net, inputs)
    part = _call(subject, net, {k: v[[2, 0]] for k, v in inputs.items()})
    assert same(part, whole[[2, 0]], 1e-4), f"computed with others a sample changes by {worst(part, whole[[2, 0]]):.3g}"


@check("network")
def every_parameter_learns(subject: Subject) -> None:
    """After a random perturbation every parameter gets a gradient."""
    shape = _shape(subject)
    net, inputs = _built(subject, shape, perturbed=True), _inputs(shape)
    if subject.component.takes_second_time:
        inputs["s"] = inputs["t"] * 0.5
    named = dict(net.named_parameters())
    out = (net(inputs.pop("x"), inputs.pop("t"), **inputs) * normal(4, *shape, seed=3).float()).sum()
    grads = cast("Sequence[Tensor | None]", torch.autograd.grad(out, list(named.values()), allow_unused=True))
    unused = [name for name, g in zip(named, grads, strict=True) if g is None or not bool(torch.isfinite(g).all())]
    assert not unused, f"parameters without a finite gradient: {', '.join(unused)}"


@check("network")
def state_round_trip(subject: Subject) -> None:
    """Its state_dict, loaded into a fresh build, gives the same network."""
    shape = _shape(subject)
    net, again, inputs = _built(subject, shape, perturbed=True), _built(subject, shape, seed=1), _inputs(shape)
    again.load_state_dict(net.state_dict())
    assert same(_call(subject, again, inputs), _call(subject, net, inputs)), (
        "loaded into a fresh build, the state_dict gives another network"
    )
