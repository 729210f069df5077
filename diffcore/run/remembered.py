"""Data as a run knows it: stored with its weights, compared when they are used, and enough to sample where the data is gone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import attrs
import torch
from torch import Tensor

from diffcore.declare.errors import DataError, DiffcoreError, SpecError, did_you_mean, note
from diffcore.learning.data import Data, Source
from diffcore.learning.sources import Remembered, opened_of
from diffcore.numerics.event import Event
from diffcore.numerics.tree import State, leaves
from diffcore.run.metadata import Known

NAMED = "label"
"""The condition whose classes `Data.class_names` names."""
LOOKED_AT = 64
"""Samples, spread over the data, by which it is known again."""


def known_of(data: Data, source: Source) -> Known:
    """What a run stores of its data."""
    classes = {name: int(count) for name, count in source.classes.items()}
    names = tuple(map(str, _names(data) or getattr(source, "class_names", ())))
    size = source.size
    arrays = {name: tuple(map(int, row)) for name, row in getattr(source, "arrays", {}).items()}
    names = names if len(names) == classes.get(NAMED) else ()
    return Known(
        Event.of(source.event), classes, names, None if size is None else int(size), arrays, dict(getattr(source, "types", {}))
    )


def contents_of(source: Source, most: int = LOOKED_AT) -> tuple[str, ...]:
    """Digests of samples spread over the data, with their conditions; none where the data has no end, or where samples are
    others each time they are read."""
    if not source.size:
        return ()
    count = min(most, int(source.size))
    ids = torch.arange(count) * (int(source.size) - 1) // max(1, count - 1)
    first, again = (_digests(*source.batch(ids)) for _ in range(2))
    return first if first == again else ()


def _digests(x: State, cond: Mapping[str, Tensor]) -> tuple[str, ...]:
    rows = [*leaves(x), *(cond[name] for name in sorted(cond))]
    plain = [value.detach().cpu().contiguous() for value in rows]
    return tuple(_digest([value[i] for value in plain]) for i in range(len(plain[0])))


def _digest(tensors: Sequence[Tensor]) -> str:
    total = hashlib.blake2b(digest_size=6)
    for value in tensors:
        total.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def _names(data: Data) -> Sequence[str]:
    try:
        return data.class_names
    except DataError:
        return ()


def reopened(data: Data, known: Known, *, replaced: bool, say: Callable[[str], None]) -> Source:
    """The data of a run, where it still is what it was; else what is known of it, so that the run samples as it was trained.

    replaced: other data was asked for, whose samples and names may be others. `say` gets a line where something has changed.
    """
    try:
        source = opened_of(data, data.outline())
    except (DiffcoreError, OSError) as error:
        return _remembered(known, str(error))
    now = known_of(data, source)
    if replaced:
        now = attrs.evolve(now, names=known.names, size=known.size)
    elif known.contents and now.size == known.size and now.event == known.event:
        now = attrs.evolve(now, contents=contents_of(source, 1))
    changed = known.differences(now)
    if not changed:
        return source
    why = f"the data is not what this run was trained on: {'; '.join(changed[:5])}"
    say(f"{why}; it samples as it was trained")
    if attrs.evolve(now, size=known.size, contents=known.contents) == known:
        return source
    return _remembered(known, why)


def _remembered(known: Known, why: str) -> Remembered:
    return Remembered(known.event, known.classes, why, known.arrays, known.types)


def numbered(known: Known | None, cond: Mapping[str, Any]) -> dict[str, Any]:
    """Conditions with names of classes replaced by their numbers; where a name is the number of another class, a note says which
    is meant. Raises `SpecError` for a name that no class has.
    """
    return {name: _numbers(known, name, value) for name, value in cond.items()}


def _numbers(known: Known | None, name: str, value: Any) -> Any:
    value = value.tolist() if hasattr(value, "tolist") and not isinstance(value, Tensor) else value
    if isinstance(value, (list, tuple)):
        return [_numbers(known, name, item) for item in cast(list[Any], value)]
    number = _number(known, name, value) if isinstance(value, str) else value
    names = known.names if known is not None and name == NAMED else ()
    if type(number) is int and str(value) in names and number in range(len(names)):
        _say_which(name, names, value, number)
    return number


def _say_which(name: str, names: Sequence[str], asked: str | int, number: int) -> None:
    """A note where what was asked for is the name of one class and the number of another."""
    if names[number] == str(number):
        return
    if isinstance(asked, int):
        note(
            f"{name}: {asked} is class number {asked}, which is named '{names[number]}'; for the class that is named '{asked}' "
            f"write it as text: '\"{asked}\"' in a spec and Python, --cond {name}={asked} in the command line"
        )
    elif asked.isdecimal() and int(asked) < len(names):
        note(
            f"{name}: '{asked}' is the class of this name, number {number}; for class number {int(asked)} write its name, "
            f"'{names[int(asked)]}'"
        )


def _number(known: Known | None, name: str, text: str) -> int:
    """The number of a class by its name; digits that name no class are the number itself."""
    names = known.names if known is not None and name == NAMED else ()
    if text in names:
        return names.index(text)
    if text.isascii() and text.isdecimal() and len(text) < 19:
        return int(text)
    if not names:
        raise SpecError(f"the classes of condition '{name}' have no names: write a number; got '{text[:50]}'")
    listed = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    hint = did_you_mean(text, names).replace("?", "?;") or ";"
    raise SpecError(f"no class '{text[:50]}' of condition '{name}'{hint} there are: {listed}".replace("?; ", "? "))
