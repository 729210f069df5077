"""`python -m diffcore_discrete fetch`: bring the text into the cache, once, before specs that need it run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import diffcore as dc
from diffcore_discrete import corpus


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0, or that of the error with one line on standard error."""
    parser = argparse.ArgumentParser(prog="python -m diffcore_discrete", description="the text of the data set 'shakespeare'")
    get = parser.add_subparsers(required=True).add_parser("fetch", help="fetch it into the cache")
    get.add_argument("--from", dest="archive", type=Path, metavar="FILE", help="an archive downloaded before")
    try:
        file = corpus.fetch(parser.parse_args(arguments).archive)
        print(f"shakespeare: {len(corpus.load()):,} characters in {file}")
    except dc.DiffcoreError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
