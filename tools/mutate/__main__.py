"""Plant errors and see whether the tests notice: `python -m tools.mutate -n 150 --seed 2`."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from tools.mutate.edits import Edit, edits
from tools.mutate.trials import NO_TRIAL, OUT_OF_TIME, finished, pytest_in, trial

ROOT = Path(__file__).parents[2]
EDITED = (*(f"diffcore/{layer}/*.py" for layer in ("numerics", "learning", "run")), "plugins/*/diffcore_*/**/*.py")
OF_CORE = ("test_core", "test_book")
HEAVY = ("torch", "numpy", "scipy.stats", "pytest", "attrs", "cattrs")
NOTICED = {0: "survived", OUT_OF_TIME: "survived", 5: "untested"}  # any other exit code: caught
MISSED = {"survived", "untested"}
FAILED = re.compile(r"(?:FAILED|ERROR) (\S+::.+?)(?: - |$)")
"""How pytest names a test that failed."""


def scope(path: Path | str) -> str:
    """The distribution of a file: a plugin's folder, else the core."""
    parts = Path(path).parts
    return parts[parts.index("plugins") + 1] if "plugins" in parts else "core"


def sources(root: Path, paths: list[str], item: str | None = None) -> list[Path]:
    """The files to edit: those named (or below a folder named), else the numerics of the core and all plugins; of these, where an
    item of the book is named, those that claim it."""
    named = (f for p in paths for f in ([root / p] if (root / p).is_file() else sorted((root / p).rglob("*.py"))))
    found = [*named] if paths else [f for pattern in EDITED for f in sorted(root.glob(pattern))]
    found = [f for f in found if "tests" not in f.relative_to(root).parts and (item is None or claims(f, item))]
    return found or sys.exit(f"mutate: no Python file {f'that claims {item} ' if item else ''}at {', '.join(paths) or root}")


def claims(file: Path, item: str) -> bool:
    """Whether a component of a file names an item of the book in its `items`."""
    said = re.findall(r"^ +items\b.*?= *\(?([^()]*)", file.read_text(encoding="utf-8"), re.MULTILINE)
    return any(f'"{item}"' in numbers for numbers in said)


def drawn(files: list[Path], root: Path, n: int, seed: int, kinds: list[str] | None = None) -> list[Edit]:
    """n edits without repetition, in turn over distributions, their files and the kinds of edit; all of them where n is 0."""
    rng, used, chosen, turns = random.Random(seed), Counter[str](), list[Edit](), defaultdict[str, list[list[Edit]]](list)
    for file in rng.sample(files, len(files)) if n else files:
        path = str(file.relative_to(root))
        if many := [e for e in edits(path, file.read_bytes()) if not kinds or e.kind in kinds]:
            turns[scope(path)].append(many)
    if n == 0:
        return [e for own in turns.values() for many in own for e in many]
    while len(chosen) < n and any(turns.values()):
        for own in filter(None, turns.values()):
            many = own.pop(0)
            kind = min({e.kind for e in many}, key=lambda k: (used[k], k))
            many.remove(edit := rng.choice([e for e in many if e.kind == kind]))
            used[kind] += 1
            chosen.append(edit)
            own += [many] if many else []
    return chosen[:n]


def beside(root: Path, edit: Edit, item: str | None) -> list[str]:
    """The files of tests for an edit: those of its distribution; where an item of the book is asked for, all that name it."""
    every, home = [*root.glob("plugins/*/tests/**/test_*.py"), *root.glob("tests/**/test_*.py")], scope(edit.path)
    if item:
        own = [f for f in every if f'"{item}"' in f.read_text(encoding="utf-8")]
    else:
        own = [f for f in every if scope(f.relative_to(root)) == home and (home != "core" or f.name.startswith(OF_CORE))]
    return sorted(str(f.relative_to(root)) for f in own)


def judged() -> dict[tuple[str, str, str], str]:
    """(file, line before, line after) -> why no test can notice, kept by hand."""
    rows = (line.split("\t") for line in Path(__file__).with_name("equivalent.tsv").read_text(encoding="utf-8").splitlines())
    return {(path, before, after): reason for path, before, after, reason in rows}


def outcomes(root: Path, chosen: list[Edit], options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What became of each edit, as they end."""
    equivalent, work = judged(), list[tuple[dict[str, Any], Callable[[], int]]]()
    for edit in chosen:
        before, after = edit.lines((root / edit.path).read_bytes())
        result = {**asdict(edit), "before": before, "after": after, "by": ""}
        if reason := equivalent.get((edit.path, before, after)):
            yield {**result, "outcome": "equivalent", "by": reason}
        elif files := beside(root, edit, options.item):
            work.append((result, partial(trial, root, edit, files, options.item, options.seconds)))
        else:
            yield {**result, "outcome": "untested"}
    for result, code, text in finished(work, options.jobs, 3 * options.seconds + 60):
        if code == NO_TRIAL:
            sys.exit(f"mutate: no trial of {result['path']}:{result['line']}\n{text}")
        by = [line for line in text.splitlines() if line.startswith(("FAILED", "ERROR", "E  "))]
        yield {**result, "outcome": NOTICED.get(code, "caught"), "by": by[-1] if by else f"exit {code}"}


def doubt(root: Path, results: list[dict[str, Any]]) -> None:
    """What was caught by a test that fails without an edit too was not caught."""
    named = [(r, m[1]) for r in results if r["outcome"] == "caught" and (m := FAILED.match(r["by"]))]
    tests, broken, folders = sorted({test for _, test in named}), set[str](), map(str, root.glob("plugins/*"))
    for _, code, text in finished([("", partial(pytest_in, root, folders, tests))] if tests else [], 1, 36000):
        broken |= {m[1] for line in text.splitlines() if (m := FAILED.match(line))}
        _ = code in (0, 1) or sys.exit(f"mutate: the tests do not run without an edit\n{text}")
    for result, test in named:
        if test in broken:
            result |= {"outcome": "survived", "by": f"{test} fails without an edit too"}
    print(f"{len(tests)} tests caught what was caught; without an edit {len(broken)} of them fail {' '.join(sorted(broken))}")


def table(results: list[dict[str, Any]]) -> str:
    """Caught, not caught and equivalent by distribution and by kind, then every edit that was not caught."""
    parts: list[str] = []
    for head, of in (("scope", lambda r: scope(r["path"])), ("kind of edit", lambda r: r["kind"]), ("all", lambda r: "all")):
        parts += ["", f"| {head} | caught | not caught | equivalent |", "|---|---|---|---|"]
        counts = Counter((of(r), "missed" if r["outcome"] in MISSED else r["outcome"]) for r in results)
        for name in sorted({name for name, _ in counts}):
            parts.append(f"| {name} | {counts[name, 'caught']} | {counts[name, 'missed']} | {counts[name, 'equivalent']} |")
    for r in sorted(results, key=lambda r: (r["outcome"], r["path"], r["line"])):
        if r["outcome"] != "caught":
            parts += [f"{r['outcome']}: {r['path']}:{r['line']} ({r['kind']}) {r['by']}", f"  {r['before']}", f"  {r['after']}"]
    return "\n".join(parts)


def arguments(given: list[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(prog="python -m tools.mutate", description=__doc__)
    parser.add_argument("paths", nargs="*", help="files or folders to edit; the numerics of core and plugins where none is named")
    parser.add_argument("-n", type=int, default=50, help="how many edits, 0 for all (a night)")
    parser.add_argument("--seed", type=int, default=1, help="which edits")
    parser.add_argument("--kind", action="append", help="only edits of this kind, may be repeated")
    parser.add_argument("--item", help="only files that claim this number of docs/monograph.md, and only tests marked with it")
    parser.add_argument("--again", type=Path, help="the edits of an earlier --out that were not caught")
    parser.add_argument("--seconds", type=float, default=60.0, help="CPU time of tests for each edit")
    parser.add_argument("--out", type=Path, default=ROOT / ".mutate" / "last.json", help="the results, as JSON")
    parser.add_argument("--jobs", type=int, default=2, help="how many at once")
    return parser.parse_args(given)


def main(given: list[str], root: Path = ROOT) -> int:
    """Draw, plant, report; the exit code is 1 where an edit was not caught."""
    options = arguments(given)
    os.environ["OMP_NUM_THREADS"] = "1"
    for name in HEAVY:
        importlib.import_module(name)
    if options.again:
        earlier = json.loads(options.again.read_text(encoding="utf-8"))
        chosen = [Edit(**{k: r[k] for k in Edit.__dataclass_fields__}) for r in earlier if r["outcome"] in MISSED]
    else:
        chosen = drawn(sources(root, options.paths, options.item), root, options.n, options.seed, options.kind)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    results: list[dict[str, Any]] = []
    for result in outcomes(root, chosen, options):
        results.append(result)
        print(f"{len(results)}/{len(chosen)} {result['outcome']} {result['path']}:{result['line']} {result['kind']}", flush=True)
        options.out.write_text(json.dumps(results, indent=1), encoding="utf-8")
    doubt(root, results)
    options.out.write_text(json.dumps(results, indent=1), encoding="utf-8")
    print(table(results))
    return int(any(r["outcome"] in MISSED for r in results))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
