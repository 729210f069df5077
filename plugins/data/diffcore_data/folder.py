"""Which files of a folder are pictures, and which sub-folders are classes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs

import diffcore as dc
from diffcore_data.pictures import formats

DEBRIS = frozenset(
    {"__macosx", "thumbs.db", "desktop.ini", "__pycache__", "lost+found", "$recycle.bin", "system volume information", "@eadir"}
)
"""What systems and programs leave in folders, beside names that begin with a point."""
SHOWN = 5


@attrs.frozen
class Survey:
    """The pictures of a folder in order of name, the class of each (none where they lie flat), and the names of the classes."""

    files: tuple[Path, ...]
    labels: tuple[int, ...]
    names: tuple[str, ...]


@attrs.define
class _Found:
    pictures: dict[tuple[str, ...], list[Path]] = attrs.field(factory=dict)
    others: Counter[str] = attrs.field(factory=Counter)
    empty: list[str] = attrs.field(factory=list)


def survey(root: Path) -> Survey:
    """What is in a folder; what is left out is counted and said in one note.

    Raises `DataError` where there are no pictures, or they do not all lie in the folder itself or all directly in sub-folders.
    """
    found = _Found()
    with dc.reading(root, "a folder"):
        _walk(root, (), found, frozenset())
    _refuse_depths(root, found)
    _say(root, found)
    folders = sorted(found.pictures)
    files = tuple(file for folder in folders for file in found.pictures[folder])
    if folders == [()]:
        return Survey(files, (), ())
    labels = tuple(i for i, folder in enumerate(folders) for _ in found.pictures[folder])
    return Survey(files, labels, tuple(printable(folder[0]) for folder in folders))


def printable(name: str) -> str:
    """A name of the file system as UTF-8."""
    return os.fsencode(name).decode(errors="replace")


def _walk(folder: Path, path: tuple[str, ...], found: _Found, above: frozenset[str]) -> None:
    """Note everything below a folder, by the path from the root; links to folders above are not followed."""
    above = above | {os.path.realpath(folder)}
    entries = sorted((e for e in os.scandir(folder) if not _is_debris(e.name)), key=lambda e: e.name)
    files = [entry for entry in entries if not entry.is_dir()]
    pictures = [Path(e.path) for e in files if _is_picture(e)]
    found.others.update(Path(e.name).suffix.lower() or e.name for e in files if not _is_picture(e))
    if pictures:
        found.pictures[path] = pictures
    inner = [e for e in entries if e.is_dir() and os.path.realpath(e.path) not in above]
    for entry in inner:
        _walk(Path(entry.path), (*path, entry.name), found, above)
    if path and not pictures and not inner:
        found.empty.append("/".join(path))


def _is_debris(name: str) -> bool:
    return name.startswith(".") or name.lower() in DEBRIS


def _is_picture(entry: os.DirEntry[str]) -> bool:
    return Path(entry.name).suffix.lower() in formats() and entry.is_file()


def _refuse_depths(root: Path, found: _Found) -> None:
    depths = {len(path) for path in found.pictures}
    if not depths:
        raise dc.DataError(
            f"{root} holds no pictures{_among(found)}; those are files of Pillow's suffixes (.png, .jpg, .webp, ...)"
        )
    if depths == {0, 1}:
        raise dc.DataError(
            f"{root} holds pictures ({_listed([f.name for f in found.pictures[()]])}) and sub-folders of pictures "
            f"({_folders(found, 1)}); put every picture into a sub-folder, or none"
        )
    if max(depths) > 1:
        raise dc.DataError(
            f"{root} holds pictures more than one level down ({_folders(found, 2)}){_beside(found)}; a class is a sub-folder "
            f"with its pictures directly in it: choose another 'path', or move them"
        )


def _beside(found: _Found) -> str:
    upper = [path for path in found.pictures if len(path) < 2]
    return f" beside {sum(len(found.pictures[path]) for path in upper)} that are not" if upper else ""


def _folders(found: _Found, least: int) -> str:
    return _listed([f"{'/'.join(p)}: {len(files)}" for p, files in found.pictures.items() if len(p) >= least])


def _listed(names: Sequence[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join([*(printable(name) for name in names[:SHOWN]), *([f"{more} more"] if more > 0 else [])])


def _among(found: _Found) -> str:
    count = sum(found.others.values())
    return f" among its {_number(count, 'file', 'files')} ({_counts(found)})" if count else ""


def _counts(found: _Found) -> str:
    return _listed([f"{count} {suffix}" for suffix, count in found.others.most_common()])


def _say(root: Path, found: _Found) -> None:
    """One note on what is left out."""
    if left := list(_left_out(found)):
        count = sum(map(len, found.pictures.values()))
        dc.note(f"{root}: {_number(count, 'picture is', 'pictures are')} read; left out: {'; '.join(left)}")


def _left_out(found: _Found) -> Iterator[str]:
    files, folders = sum(found.others.values()), len(found.empty)
    if files:
        yield f"{_number(files, 'file that is no picture', 'files that are no pictures')} ({_counts(found)})"
    if folders:
        counted = _number(
            folders, "folder without a picture, which is no class", "folders without a picture, which are no classes"
        )
        yield f"{counted} ({_listed(found.empty)})"


def _number(count: int, one: str, more: str) -> str:
    return f"{count} {one if count == 1 else more}"
