"""Results kept for the next time: a bounded mapping, emptied by a copy and by pickling."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any


class Kept:
    """The last `most` results by key. A copy of it, pickled or deep, is empty: what it holds can be made again."""

    def __init__(self, most: int) -> None:
        self.most, self.found = most, OrderedDict[Hashable, Any]()

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """The result of this key, made where it is not there; then the oldest makes room."""
        try:
            return self.found[key]
        except KeyError:
            made = self.found[key] = make()
        while len(self.found) > self.most:
            self.found.popitem(last=False)
        return made

    def __len__(self) -> int:
        return len(self.found)

    def __reduce__(self) -> tuple[type[Kept], tuple[int]]:
        return Kept, (self.most,)

    def clear(self) -> None:
        """Forget everything."""
        self.found.clear()


PLANS = Kept(64)
"""The plans of the last runs. They depend on process, solver, times and precision, and not on the network: all fields share."""


def hashable(value: Any) -> bool:
    """Whether a component can be the key of a cache: a field that holds a dict or a list forbids it."""
    try:
        hash(value)
    except TypeError:
        return False
    return True
