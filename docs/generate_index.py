"""Write diffcore/first_party.json: which distribution of this repository has which component or command.

python docs/generate_index.py            write it
python docs/generate_index.py --check    only say whether it is current (exit code 1 where it is not)
"""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path

from diffcore.declare.kinds import CORE
from diffcore.declare.suggesting import INDEX
from diffcore.specs.registry import Registry

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "diffcore" / INDEX


def text() -> str:
    """The index of the components that are installed and whose distribution is in this repository."""
    projects = [ROOT / "pyproject.toml", *sorted((ROOT / "plugins").glob("*/pyproject.toml"))]
    ours = {tomllib.loads(path.read_text())["project"]["name"] for path in projects}
    registry = Registry.load()
    found = {kind: {e.id: e.dist for e in registry.list(kind) if e.dist in ours} for kind in CORE}
    found["command"] = {c.name: c.dist for p in registry.plugins for c in p.commands if c.dist in ours}
    return json.dumps(found, indent=1) + "\n"


def main() -> None:
    """Write the index, or say whether it is current."""
    name, wanted = TARGET.relative_to(ROOT), text()
    current = TARGET.exists() and TARGET.read_text(encoding="utf-8") == wanted
    if "--check" in sys.argv[1:]:
        print(f"{name} is {'' if current else 'not '}current")
        sys.exit(not current)
    TARGET.write_text(wanted, encoding="utf-8")


if __name__ == "__main__":
    main()
