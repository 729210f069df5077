"""`python -m diffcore`."""

from __future__ import annotations

from diffcore.cli import main

if __name__ == "__main__":
    main(prog_name="diffcore")
