"""YAML 1.2 core to a tree with positions. Data only: no tags, text keys, one document, bounded size and depth.

ruamel.yaml gives the syntax as a stream of events. The tree is built from them here: that keeps every position, finds all
duplicate keys in one go, resolves scalars by the core schema alone and never recurses on the input.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any, cast

import attrs
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from ruamel.yaml.reader import ReaderError

from diffcore.specs.faults import Faults, Mark, Source
from diffcore.specs.tree import MAX_DEPTH, MAX_SIZE, Node, join, shorten

MAX_CHARS = 128 * 1024

_WORDS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_MERGE = object()
_TOO_DEEP = re.compile(rf"(?:[\[{{]\s*){{{MAX_DEPTH + 1}}}")  # the scanner looks far ahead there, at quadratic cost

_HINTS = {
    "mapping values are not allowed": "a ':' cannot stand here: check the indentation, or put the text in quotes",
    "'\\t' that cannot start": "a tab cannot indent: use spaces",
    "that cannot start any token": "text that starts with this character must be in quotes",
    "expected <block end>": "this does not belong here: check the indentation and the quotes",
    "could not find expected ':'": "expected 'key: value'; a ':' is missing, or the indentation is wrong",
    "expected ',' or ']'": "a '[' is not closed, or a ',' is missing",
    "expected ',' or '}'": "a '{' is not closed, or a ',' is missing",
    "unexpected end of stream": "a quote is not closed",
    "expected the node content": "a value is missing, or a bracket is not closed",
}


def resolve(text: str) -> Any:
    """The value of a plain scalar in the YAML 1.2 core schema. Raises `ValueError` for a number out of range.

    >>> [resolve(t) for t in ("1e-3", "010", "on", "12:30", "2024-01-01")]
    [0.001, 10, 'on', '12:30', '2024-01-01']
    """
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        base = {"0o": 8, "0x": 16}.get(text[:2], 10)
        return int(text[2:] if base != 10 else text, base)
    if _SPECIAL.fullmatch(text):
        return float(text.replace(".", ""))
    if _FLOAT.fullmatch(text):
        value = float(text)
        if math.isinf(value):
            raise ValueError("number out of range")
        return value
    return text


def parse(text: str, name: str = "<text>") -> Node:
    """The tree of a YAML text. Raises `SpecErrors` with every duplicate key, tag and misplaced key, or the broken syntax."""
    faults = Faults()
    node = read(Source(name, text), faults)
    faults.check()
    return node


def read(source: Source, faults: Faults) -> Node:
    """The tree of a YAML text; an empty text is null. Notes what can be passed over, stops at what cannot.

    Anchors, aliases and `<<` work within the text.
    """
    if len(source.text) > MAX_CHARS:
        faults.stop(Mark(source, 1, 1), "", f"too large for a spec: more than {MAX_CHARS // 1024} KiB")
    if deep := _TOO_DEEP.search(source.text):
        faults.stop(_mark_of(source, deep.start()), "", f"nested more than {MAX_DEPTH} levels deep")
    return _Composer(source, faults).run(_events(source, faults))


def _events(source: Source, faults: Faults) -> Iterator[Any]:
    try:
        yield from YAML(typ="safe", pure=True).parse(source.text)
    except ReaderError as error:
        mark = _mark_of(source, error.position)
        faults.stop(mark, "", f"the character U+{ord(source.text[error.position]):04X} is not allowed in YAML")
    except MarkedYAMLError as error:
        at, opened = error.problem_mark or error.context_mark, error.context_mark
        problem = shorten(" ".join(str(error.problem or error.context).split()), 200)
        hint = next((hint for part, hint in _HINTS.items() if part in problem), problem)
        since = f" (it begins on line {opened.line + 1})" if opened and at and opened.line < at.line else ""
        faults.stop(Mark(source, at.line + 1, at.column + 1) if at else None, "", f"not YAML: {hint}{since}")
    except (YAMLError, ValueError, OverflowError) as error:  # ruamel lets chr() of an escape out of range through
        faults.stop(Mark(source, 1, 1), "", f"not YAML: {shorten(str(error), 200)}")


def _mark_of(source: Source, position: int) -> Mark:
    before = source.text[:position]
    return Mark(source, before.count("\n") + 1, len(before) - before.rfind("\n"))


@attrs.frozen
class _Open:
    """A list, or the keys and values of a map in turn, whose end has not come yet."""

    path: str
    mark: Mark
    anchor: str | None
    is_map: bool
    nodes: list[Node] = attrs.field(factory=list)

    @property
    def wants_key(self) -> bool:
        return self.is_map and len(self.nodes) % 2 == 0

    @property
    def next_path(self) -> str:
        if not self.is_map:
            return join(self.path, len(self.nodes))
        key = self.nodes[-1].value if not self.wants_key else None
        return join(self.path, shorten(key)) if isinstance(key, str) else self.path


class _Composer:
    def __init__(self, source: Source, faults: Faults) -> None:
        self.source, self.faults = source, faults
        self.anchors: dict[str, Node] = {}
        self.stack: list[_Open] = []
        self.root: Node | None = None
        self.count = 0

    def run(self, events: Iterator[Any]) -> Node:
        for event in events:
            mark = Mark(self.source, event.start_mark.line + 1, event.start_mark.column + 1)
            match event:
                case DocumentStartEvent():
                    self.begin(event, mark)
                case ScalarEvent():
                    self.place(self.scalar(event, mark), event.anchor)
                case AliasEvent():
                    self.place(self.alias(event, mark), None)
                case SequenceStartEvent() | MappingStartEvent():
                    self.open(event, mark)
                case SequenceEndEvent() | MappingEndEvent():
                    top = self.stack.pop()
                    self.place(self.mapping(top) if top.is_map else Node.group(top.nodes, top.mark), top.anchor)
                case _:
                    pass
        return self.root or Node(None, Mark(self.source, 1, 1))

    @property
    def path(self) -> str:
        return self.stack[-1].next_path if self.stack else ""

    def begin(self, event: Any, mark: Mark) -> None:
        if self.root is not None:
            self.faults.stop(mark, "", "a second document begins here; a spec is one document")
        if event.version not in (None, (1, 2)) or event.tags:
            self.faults.stop(mark, "", "a spec is YAML 1.2 without tags; remove the lines that start with %")

    def open(self, event: Any, mark: Mark) -> None:
        self.refuse_tag(event, mark)
        if len(self.stack) >= MAX_DEPTH:
            self.faults.stop(mark, "", f"nested more than {MAX_DEPTH} levels deep")
        self.stack.append(_Open(self.path, mark, event.anchor, isinstance(event, MappingStartEvent)))

    def place(self, node: Node, anchor: str | None) -> None:
        self.count += not (self.stack and self.stack[-1].wants_key)
        if node.size > MAX_SIZE or self.count > MAX_SIZE:
            self.faults.stop(node.mark, "", f"too large for a spec: more than {MAX_SIZE} values (aliases count in full)")
        if node.height > MAX_DEPTH:
            self.faults.stop(node.mark, "", f"nested more than {MAX_DEPTH} levels deep")
        if anchor is not None:
            self.anchors[anchor] = node
        if self.stack:
            self.stack[-1].nodes.append(node)
        else:
            self.root = node

    def scalar(self, event: Any, mark: Mark) -> Node:
        self.refuse_tag(event, mark)
        text: str = event.value
        if not event.implicit[0]:
            value = text
        elif text == "<<" and self.stack and self.stack[-1].wants_key:
            value = _MERGE
        else:
            value = self.resolved(text, mark)
        if any("\ud800" <= char <= "\udfff" for char in text):
            self.faults.stop(mark, self.path, "half of a surrogate pair is not a character; write it as \\UXXXXXXXX")
        return Node(value, mark)

    def resolved(self, text: str, mark: Mark) -> Any:
        try:
            return resolve(text)
        except ValueError:
            self.faults.add(mark, self.path, f"the number {shorten(text)} is out of range")
            return 0

    def alias(self, event: Any, mark: Mark) -> Node:
        if event.anchor not in self.anchors:
            self.faults.stop(mark, self.path, f"'*{shorten(event.anchor)}' has no anchor '&{shorten(event.anchor)}' above it")
        return self.anchors[event.anchor]

    def refuse_tag(self, event: Any, mark: Mark) -> None:
        if event.tag is not None:
            tag = shorten(event.tag.replace("tag:yaml.org,2002:", "!!"))
            self.faults.add(mark, self.path, f"the tag {tag} is not allowed: a spec is plain data; write the value without it")

    def mapping(self, top: _Open) -> Node:
        entries: dict[str, Node] = {}
        inherited: dict[str, Node] = {}
        for key, value in zip(top.nodes[::2], top.nodes[1::2], strict=True):
            if key.value is _MERGE:
                self.inherit(inherited, value, top.path)
            elif not isinstance(key.value, str):
                self.faults.add(key.mark, top.path, f"keys are text; got {key.describe()}: put it in quotes")
            elif key.value in entries:
                first = entries[key.value].key
                message = f"the key is already on line {first.line if first else '?'}; keep one"
                self.faults.add(key.mark, join(top.path, shorten(key.value)), message)
            else:
                entries[key.value] = value.under(key.mark)
        return Node.group({**inherited, **entries}, top.mark)

    def inherit(self, inherited: dict[str, Node], value: Node, path: str) -> None:
        bases = cast(list[Node], value.value) if isinstance(value.value, list) else [value]
        for base in bases:
            if isinstance(base.value, dict):
                for name, node in cast(dict[str, Node], base.value).items():
                    inherited.setdefault(name, node)
            else:
                self.faults.add(base.mark, path, f"'<<' takes a map or a list of maps; got {base.describe()}")
