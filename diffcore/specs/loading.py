"""A spec from a file, a text or a mapping: `extends`, then overrides, into one tree whose values know where they come from."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import attrs

from diffcore.declare.errors import did_you_mean
from diffcore.specs.faults import Faults, Mark, Source
from diffcore.specs.reader import MAX_CHARS, read
from diffcore.specs.tree import MAX_DEPTH, MAX_SIZE, Node, join, merge, shorten, tree_of

MAX_FILES = 64
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")

SpecSource = str | Path | Mapping[str, Any]


def load_tree(source: SpecSource, overrides: Sequence[str], faults: Faults, name: str = "<text>") -> Node:
    """The composed tree of a spec: a file, a text (a string of several lines, shown as `name` in faults) or a mapping."""
    files = _Files(faults)
    if isinstance(source, Mapping):
        node = files.extend(tree_of(source, faults), ".", ())
    elif isinstance(source, str) and "\n" in source:
        node = files.extend(read(Source(name, source), faults), ".", ())
    else:
        node = files.load(os.path.expanduser(source), (), None)
    written = node
    for text in sorted(overrides, key=_types_first):
        node = _override(node, text, faults)
    faults.notes += [note for text in overrides if (note := _dropped(text, written, node))]
    if node.size > MAX_SIZE or node.height > MAX_DEPTH:
        faults.stop(node.mark, "", f"the composed spec has more than {MAX_SIZE} values or {MAX_DEPTH} levels")
    return node


def origins(source: SpecSource, overrides: Sequence[str] = ()) -> dict[str, str]:
    """Where each value of a spec is written: path -> `file:line:column`, or the override. Needs no component.

    A value that is not listed is a default of its class.
    """
    faults = Faults()
    node = load_tree(source, overrides, faults)
    faults.check()
    return {path: str(leaf.mark or "<python>") for path, leaf in _leaves(node, "")}


def _leaves(node: Node, path: str) -> Iterator[tuple[str, Node]]:
    if not node.children:
        yield path, node
    for name, child in node.children.items():
        yield from _leaves(child, join(path, name))


class _Files:
    """Reads each file once; knows which are being read, so that a cycle is found."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.done: dict[str, Node] = {}

    def load(self, name: str, chain: tuple[str, ...], mark: Mark | None) -> Node:
        real = os.path.abspath(name)
        if real in chain:
            cycle = " -> ".join(os.path.basename(file) for file in (*chain[chain.index(real) :], real))
            self.faults.stop(mark, "extends", f"the files extend each other: {cycle}")
        if real not in self.done:
            if len(self.done) + len(chain) >= MAX_FILES:
                self.faults.stop(mark, "extends", f"more than {MAX_FILES} files")
            node = read(Source(name, _text(name, mark, self.faults)), self.faults)
            self.done[real] = self.extend(node, os.path.dirname(name), (*chain, real))
        return self.done[real]

    def extend(self, node: Node, folder: str, chain: tuple[str, ...]) -> Node:
        """The node on top of the files that it names under `extends`, the last of them uppermost."""
        if not isinstance(node.value, dict):
            got = "nothing" if node.value is None else node.describe()
            self.faults.stop(node.mark, "", f"a spec is a map of sections (data, process, network, ...); got {got}")
        entries = cast(dict[str, Node], node.value)
        if "extends" not in entries:
            return node
        below = Node({}, node.mark)
        for base in self._bases(entries["extends"]):
            name = os.path.expanduser(base.value)
            name = name if _ADDRESS.match(name) else os.path.normpath(os.path.join(folder, name))
            below = merge(below, self.load(name, chain, base.mark))
        own = {name: child for name, child in entries.items() if name != "extends"}
        return merge(below, Node.group(own, node.mark))

    def _bases(self, node: Node) -> list[Node]:
        bases = cast(list[Node], node.value) if isinstance(node.value, list) else [node]
        names = [base.value for base in bases]
        if not all(isinstance(name, str) and name.strip() for name in names):
            self.faults.stop(node.mark, "extends", f"expected a file or a list of files; got {node.describe()}")
        if len(set(names)) < len(names):
            self.faults.stop(node.mark, "extends", "a file is listed twice")
        return bases


def _text(name: str, mark: Mark | None, faults: Faults) -> str:
    try:
        mode = os.stat(name).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # to open a pipe is to wait for who writes it
            raise OSError(0, "it is a pipe or a device; write the spec to a file")
        with open(name, "rb") as file:
            raw = file.read(4 * MAX_CHARS + 1)
    except (OSError, ValueError) as error:
        faults.stop(mark, "extends" if mark else "", f"the spec file '{shorten(name, 200)}' {_why(name, error)}")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        start = error.start
        where = Mark(Source(name), raw.count(b"\n", 0, start) + 1, start - raw.rfind(b"\n", 0, start))
        faults.stop(where, "", f"the byte 0x{raw[start]:02x} is not UTF-8; save the file as UTF-8")


def _why(name: str, error: OSError | ValueError) -> str:
    folder, base = os.path.split(name)
    if _ADDRESS.match(name):
        return "is an address; download it, and name the file"
    if isinstance(error, FileNotFoundError):
        return f"does not exist{did_you_mean(base, os.listdir(folder or '.') if os.path.isdir(folder or '.') else ())}"
    if isinstance(error, IsADirectoryError):
        inside = os.path.join(name, "spec.yaml")
        return f"is a folder; the spec of a run is in it: {inside}" if os.path.isfile(inside) else "is a folder"
    return f"cannot be read: {error.strerror if isinstance(error, OSError) else error}"


def _types_first(text: str) -> tuple[int, int]:
    """Overrides of `type` go first, outer ones before inner ones: they drop what was there, not what is set beside them."""
    path = text.partition("=")[0].split(".")
    return (0, len(path)) if path[-1] == "type" else (1, 0)


def _dropped(text: str, written: Node, now: Node) -> str:
    """What an override of `type` took with it and no other one set again; empty where that is nothing."""
    *section, last = text.partition("=")[0].strip().split(".")
    old, new = _at(written, section), _at(now, section)
    lost = [name for name, child in old.children.items() if name not in new.children and child.value is not None]
    if last != "type" or not lost:
        return ""
    fields = ", ".join(f"{name} ({old.children[name].describe()})" for name in lost)
    return f"--set {shorten(text)}: what was set for '{old.child('type')}' is dropped: {fields}; set again what is still meant"


def _at(node: Node, keys: Sequence[str]) -> Node:
    for key in keys:
        node = node.children.get(key, Node(None))
    return node


def _override(root: Node, text: str, faults: Faults) -> Node:
    """The tree with `key.path=value` set."""
    source = Source(f"--set {shorten(text)}", text, inline=True)
    mark = Mark(source, 1, 1)
    path, equals, value = text.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys) or len(keys) > MAX_DEPTH:
        faults.add(mark, "", "an override is key.path=value, such as solver.steps=20")
        return root
    new = read(Source(source.name, value, inline=True), faults)
    return _Setting(new.under(mark), mark, path.strip(), faults).put(root, keys)


@attrs.frozen
class _Setting:
    """One override on its way down the tree."""

    new: Node
    mark: Mark
    path: str
    faults: Faults

    def put(self, node: Node, keys: list[str]) -> Node:
        key, *rest = keys
        if isinstance(node.value, list):
            return self._put_in_list(node, key, rest)
        if node.value is not None and not isinstance(node.value, dict):
            self.faults.add(self.mark, self.path, f"{node.describe()} has no entry '{shorten(key)}'")
            return node
        entries = cast(dict[str, Node], node.value or {})
        if key == "type" and not rest and node.child("type") not in (None, self.new.value):
            entries = {}
        child = entries.get(key) or Node({}, self.mark, self.mark, partial=True)
        entries = {**entries, key: self.put(child, rest) if rest else self.new}
        return attrs.evolve(Node.group(entries, node.mark or self.mark), key=node.key, partial=node.partial)

    def _put_in_list(self, node: Node, key: str, rest: list[str]) -> Node:
        entries = list(cast(list[Node], node.value))
        if not re.fullmatch("[0-9]{1,9}", key) or int(key) >= len(entries):
            have = f"it has the entries 0 to {len(entries) - 1}" if entries else "it is empty"
            self.faults.add(self.mark, self.path, f"the list has no entry '{shorten(key)}': {have}")
            return node
        entries[int(key)] = self.put(entries[int(key)], rest) if rest else self.new
        return Node.group(entries, node.mark).under(node.key)
