"""What can be known of a spec before anything is trained: what its data, its noise and its metrics will not do together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from diffcore.declare.errors import DataError, DiffcoreError, IncompatibleError
from diffcore.numerics.draw import Draw
from diffcore.numerics.tree import State, batch_size, tree_map
from diffcore.run import measuring
from diffcore.run.fitting import Problem

if TYPE_CHECKING:
    from diffcore.run.assembly import Assembly

LOOKED_AT = 256
"""Samples of the data that are looked at, spread over the set."""
TOKENS = 2**22
"""Tokens that are looked at."""
FAR = 4.0
"""From this factor on, the size of the data is not what `sigma_data` says."""
UNSEEN = 50.0
"""From this factor below `sigma_data` on, what one channel does is lost beside others."""
COLOURS = (1, 3, 4)
"""Channels that pictures have."""
SIGNAL_LEFT, SIGNAL_LOUDER = 0.25, 1.0
"""Signal to noise alpha_T sigma_data / sigma_T at the start of sampling: worth a note, and no start at all."""


def problems(pipeline: Assembly, broken: frozenset[str] = frozenset()) -> Iterator[Problem]:
    """(path, message) for everything that would be refused, or be wrong, after training.

    broken: sections of the spec that are not there because they have faults of their own; what needs them is not asked.
    """
    for path, needs, check, refusal in (
        ("data", {"data", "process"}, _noised, DataError),
        ("process", {"process", "sigma_data"}, _check_end, IncompatibleError),
    ):
        try:
            if not broken & needs:
                check(pipeline)
        except refusal as error:
            yield path, str(error)
    if not broken & {"data", "process", "metrics", "evaluation", "sampling", "solver", "seed"}:
        yield from _unmeasurable(pipeline)


def notes(pipeline: Assembly) -> Iterator[str]:
    """Lines worth saying of a spec without a fault: data of another size than `sigma_data`, a start that is not pure noise."""
    yield from _axes(pipeline.source.event.shape)
    x0 = _encoded(pipeline, LOOKED_AT)
    if isinstance(x0, Tensor) and x0.is_floating_point():
        yield from _size(pipeline, x0)
    left = _signal_left(pipeline)
    if left > SIGNAL_LEFT:
        yield (
            f"process: signal is left at T = {pipeline.process.T:g} (alpha_T sigma_data / sigma_T = {left:.2g}), and samples "
            f"start from noise without it"
        )


@torch.no_grad()
def _encoded(pipeline: Assembly, most: int) -> State:
    size = pipeline.source.size
    ids = torch.arange(most) if size is None else torch.linspace(0, size - 1, min(size, most), dtype=torch.float64).long()
    return pipeline.spec.data.encode(pipeline.source.batch(ids)[0])


@torch.no_grad()
def _noised(pipeline: Assembly) -> None:
    """The process takes states of this type, and tokens as large as there are, or says why not."""
    x0 = _encoded(pipeline, 2)
    if isinstance(x0, Tensor) and not x0.is_floating_point():
        many = _encoded(pipeline, max(TOKENS // max(x0[0].numel(), 1), 2)).flatten(1)  # pyright: ignore[reportAttributeAccessIssue]
        x0 = many[[int(many.amax(1).argmax()), int(many.amin(1).argmin())]].reshape(2, *x0.shape[1:])
    x0 = tree_map(lambda leaf: leaf.to(pipeline.device), x0)
    count, process = batch_size(x0), pipeline.process
    t = torch.full((count,), process.T, dtype=torch.float64, device=pipeline.device)
    with suppress(IncompatibleError, NotImplementedError):  # a process without noised data at a time
        process.corrupt(x0, t, Draw(0, range(count), device=pipeline.device))


def _signal_left(pipeline: Assembly) -> float:
    """alpha_T sigma_data / sigma_T; 0 where the process is not of this kind."""
    process: Any = pipeline.process
    if "affine" not in process.provides:
        return 0.0
    with torch.no_grad():
        at = process.coeffs(torch.tensor(process.T, dtype=torch.float64))
        ratio = torch.as_tensor(at.alpha / at.sigma).double().abs()
    return float(ratio.max()) * pipeline.spec.sigma_data


def _check_end(pipeline: Assembly) -> None:
    left = _signal_left(pipeline)
    if left > SIGNAL_LOUDER:
        raise IncompatibleError(
            f"at T = {pipeline.process.T:g} the signal is still {left:.3g} times as large as the noise (alpha_T sigma_data / "
            f"sigma_T), but samples start from noise alone; let the schedule go further"
        )


def _size(pipeline: Assembly, x0: Tensor) -> Iterator[str]:
    sigma, flat = pipeline.spec.sigma_data, x0.double().transpose(0, 1).flatten(1)  # channel by channel
    means, stds = flat.mean(1), flat.std(1, correction=0)
    worst = int((means.abs() + stds).argmax())
    size = float((means.square() + stds.square()).sqrt().max())
    if FAR * float(stds.max()) < sigma or size > FAR * sigma:
        where = "" if len(means) == 1 else f" (channel {worst})"
        yield (
            f"data: as the network sees it, it has mean {float(means[worst]):.4g} and standard deviation {float(stds[worst]):.4g}"
            f"{where}, where sigma_data is {sigma:g}; networks learn badly far from it: {_remedy(pipeline)}"
        )

    seen = flat.amax(1) > flat.amin(1)
    least = int(stds.masked_fill(~seen, torch.inf).argmin())
    if bool(seen[least]) and UNSEEN * float(stds[least]) < sigma <= FAR * float(stds.max()):
        yield (
            f"data: as the network sees it, channel {least} has standard deviation {float(stds[least]):.4g} and channel "
            f"{int(stds.argmax())} has {float(stds.max()):.4g}, where sigma_data is {sigma:g}; what the smaller one does is "
            f"hardly learnt: scale each channel by itself"
        )


def _axes(shape: Any) -> Iterator[str]:
    """A note on pictures whose last axis is their channels."""
    if len(shape) == 3 and shape[2] in COLOURS and min(shape[:2]) > max(COLOURS):
        yield (
            f"data: samples have the shape {tuple(shape)}, which is {shape[0]} channels of {shape[1]} x {shape[2]}; pictures "
            f"have their channels first: np.moveaxis(x, -1, 1)"
        )


def _remedy(pipeline: Assembly) -> str:
    if pipeline.spec.data.value_range is not None:
        return "declare the range that the values have"
    return "standardise the data, declare its range, or set sigma_data to its deviation"


def _unmeasurable(pipeline: Assembly) -> Iterator[Problem]:
    spec = pipeline.spec
    if not spec.metrics:
        return
    try:
        ev = measuring.foreseen(pipeline)
    except DiffcoreError:  # the data itself is refused, which is said elsewhere
        return
    for i, metric in enumerate(spec.metrics):
        try:
            metric.check(ev)
        except (DataError, IncompatibleError) as error:
            yield f"metrics.{i}", str(error)
