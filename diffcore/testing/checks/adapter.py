"""Checks of adapters: what comes out is a network of the same form, and what went in is as it was."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from diffcore.declare.errors import DiffcoreError
from diffcore.testing.base import SkipError, Subject, check, normal, poisoned_noise, same

EVENT = (5,)


class _Net(nn.Module):
    """A small network that uses all that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.labels = nn.Linear(6, 16), nn.Linear(16, 5), nn.Embedding(4, 16)
        for i, parameter in enumerate(self.parameters()):
            parameter.data = 0.3 * normal(*parameter.shape, seed=i)

    def forward(self, x: Tensor, t: Tensor, s: Tensor | None = None, label: Tensor | None = None) -> Tensor:
        hidden = self.first(torch.cat([x, t[:, None]], 1))
        return self.second(torch.tanh(hidden if label is None else hidden + self.labels(label)))


def _wrapped(subject: Subject) -> tuple[nn.Module, nn.Module, list[dict[str, Any]]]:
    """A network, what the adapter makes of it, and inputs of several calls."""
    net = _Net()
    try:
        made = subject.component.wrap(net, EVENT)
    except DiffcoreError as error:
        raise SkipError(f"does not wrap a network of linear layers: {error}") from None
    label = torch.arange(4)
    calls = [{"x": normal(4, *EVENT, seed=i), "t": torch.full((4,), t).double(), "label": label} for i, t in ((1, 0.9), (2, 0.5))]
    return net, made, calls


@check("adapter")
def a_network_again(subject: Subject) -> None:
    """The result takes x, t and conditions like the network, and gives its shape and dtype, of each sample alone."""
    net, made, (inputs, _) = _wrapped(subject)
    assert isinstance(made, nn.Module), f"wrap must return a torch.nn.Module, got {type(made).__name__}"
    with torch.no_grad(), poisoned_noise():
        wanted, found = net(**inputs), made(**inputs)
    said = f"{found.dtype} {tuple(found.shape)}, where the network gives {wanted.dtype} {tuple(wanted.shape)}"
    assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype), f"the output is {said}"
    assert bool(found.isfinite().all()), "the output is not finite"


@check("adapter")
def leaves_the_network(subject: Subject) -> None:
    """The network that was given computes what it did before it was wrapped, and before the result ran."""
    before = _Net()
    net, made, calls = _wrapped(subject)
    with torch.no_grad():
        for inputs in calls:
            made(**inputs)
        changed = [not same(net(**inputs), before(**inputs)) for inputs in calls]
    assert not any(changed), "the network itself was changed; wrap a copy, or put a module around it"


@check("adapter")
def fresh_is_new(subject: Subject) -> None:
    """After `fresh()`, where there is one, the same calls give the same outputs as at first."""
    _, made, calls = _wrapped(subject)
    fresh: Any = getattr(made, "fresh", None)
    if fresh is None:
        raise SkipError("keeps nothing from call to call (it has no `fresh`)")
    with torch.no_grad():
        first = [made(**inputs).clone() for inputs in calls]
        fresh()
        again = [made(**inputs) for inputs in calls]
    assert all(map(same, again, first)), "after fresh() the same calls give other outputs: something is kept"
