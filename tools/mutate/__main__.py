"""Plant errors and see whether the tests notice: `python -m tools.mutate -n 150 --seed 2`."""

from __future__ import annotations

import argparse
import ast
import csv
import importlib
import json
import os
import random
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from tools.mutate.children import OUT_OF_TIME, Selection, finished, overlay, run_tests
from tools.mutate.edits import Edit, compiles, edits
from tools.mutate.recorder import Recorder, Test, load, save, scope

ROOT = Path(__file__).parents[2]
LAYERS = ("numerics", "learning", "run")
HEAVY = ("torch", "numpy", "scipy.stats", "pytest", "attrs", "cattrs")
NOTICED = {0: "survived", OUT_OF_TIME: "survived", 5: "untested"}  # any other exit code: caught
BUDGET = 20.0  # seconds of tests that one edit gets


def package(path: Path) -> Path:
    """The top folder of the package that a source file belongs to."""
    while (path.parent / "__init__.py").exists():
        path = path.parent
    return path


def sources(root: Path, paths: list[str]) -> list[Path]:
    """The files to edit: those named (or below a folder named), else the numerics of the core and all plugins."""
    if not paths:
        numerics = [f for layer in LAYERS for f in sorted((root / "diffcore" / layer).glob("*.py"))]
        return numerics + sorted(root.glob("plugins/*/diffcore_*/**/*.py"))
    found = [f for p in paths for f in ([root / p] if (root / p).is_file() else sorted((root / p).rglob("*.py")))]
    if not found:
        sys.exit(f"mutate: no Python file at {', '.join(paths)}; give files or folders, from {root}")
    return [f for f in found if "tests" not in f.relative_to(root).parts]


def test_files(root: Path) -> list[Path]:
    """All files of tests."""
    return sorted([*root.glob("plugins/*/tests/**/test_*.py"), *root.glob("tests/**/test_*.py")])


def recorded(root: Path, jobs: int) -> list[Test]:
    """Every test and the lines that it runs, recorded where no record is true any more."""
    folder = root / ".mutate"
    folder.mkdir(exist_ok=True)
    caches = {f: folder / (str(f.relative_to(root)).replace("/", "+") + ".json") for f in test_files(root)}
    stale = [f for f, cache in caches.items() if load(root, f, cache) is None]
    with tempfile.TemporaryDirectory() as scratch:
        work = ((f, partial(record, root, f, caches[f]), 3600.0) for f in stale)
        for i, (file, code, text) in enumerate(finished(work, Path(scratch), jobs), 1):
            print(f"recorded {i} of {len(stale)}: {file.relative_to(root)} {'' if code == 0 else text[-300:]}", flush=True)
    return [test for file, cache in caches.items() for test in load(root, file, cache) or []]


def record(root: Path, file: Path, cache: Path) -> int:
    """Record one file of tests, in this process; the exit code says whether all passed."""
    packages = {package(f) for f in sources(root, [])}
    with tempfile.TemporaryDirectory() as folder:
        for found in packages:
            overlay(Path(folder), found)
        recorder = Recorder(Path(folder), {p.name: str(p.relative_to(root)) for p in packages})
        code = run_tests(root, ["--maxfail=1000", str(file)], [recorder], Path(folder))
    save(root, file, cache, recorder.tests)
    return code


def drawn(files: list[Path], root: Path, n: int, seed: int, wanted: Callable[[Edit], bool]) -> list[Edit]:
    """n edits without repetition, in turn over distributions, their files and the kinds of edit; all of them where n is 0."""
    rng, found, used = random.Random(seed), dict[Path, list[Edit]](), Counter[str]()
    for file in files:
        found[file] = [e for e in edits(str(file.relative_to(root)), file.read_bytes()) if wanted(e)]
    if n == 0:
        return [e for f, many in found.items() for e in many if compiles(e.apply(f.read_bytes()))]
    turns: dict[str, list[Path]] = {}
    for file in rng.sample(files, len(files)):
        turns.setdefault(scope(file.relative_to(root)), []).append(file)
    chosen: list[Edit] = []
    while len(chosen) < n and any(found.values()):
        for name in list(turns):
            chosen += _next(turns[name], found, used, rng)
    return chosen[:n]


def _next(files: list[Path], found: dict[Path, list[Edit]], used: Counter[str], rng: random.Random) -> Iterator[Edit]:
    """The next edit of a distribution: its next file that has any left, the kind that was drawn least."""
    for _ in range(len(files)):
        files.append(file := files.pop(0))
        while many := found[file]:
            kind = min({e.kind for e in many}, key=lambda k: (used[k], k))
            many.remove(edit := rng.choice([e for e in many if e.kind == kind]))
            if compiles(edit.apply(file.read_bytes())):
                used[kind] += 1
                yield edit
                return


def chosen_tests(edit: Edit, tests: list[Test], item: str | None = None) -> list[Test]:
    """Those that run the edited line first, then those that run its file: the distribution's own before others, each function
    once before its variants, the quickest before the slow, up to a budget."""
    able = [t for t in tests if edit.path in t.lines and (item is None or item in t.items)]
    seen: Counter[tuple[bool, str]] = Counter()
    ranked: list[tuple[Any, Test]] = []
    for test in sorted(able, key=lambda t: t.seconds):
        missed = edit.line not in test.lines[edit.path]
        own = scope(test.id) == scope(edit.path)
        ranked.append(((missed, not own, seen[missed, test.function], test.seconds), test))
        seen[missed, test.function] += 1
    total, taken = 0.0, list[Test]()
    for _, test in sorted(ranked, key=lambda pair: pair[0]):
        total += test.seconds
        if taken and total > BUDGET:
            break
        taken.append(test)
    return taken


def nearest(root: Path, edit: Edit) -> list[str]:
    """The test files of a distribution, those that name the edited module, and name it more often, first: without a record."""
    name = Path(edit.path).stem
    own = [f for f in test_files(root) if scope(f.relative_to(root)) == scope(edit.path)]
    if scope(edit.path) == "core":
        own = [f for f in own if f.name.startswith(("test_core", "test_book"))]
    naming = {f: len(re.findall(rf"\b{name}\b", f.read_text(encoding="utf-8"))) for f in own}
    return [str(f.relative_to(root)) for f in sorted(own, key=lambda f: (-naming[f], f.name == "test_conformance.py", f))]


def trial(root: Path, edit: Edit, files: list[str], ids: list[str], seconds: float) -> int:
    """Run tests on the edited package, in this process: pytest's exit code."""
    file = root / edit.path
    with tempfile.TemporaryDirectory() as folder:
        before = overlay(Path(folder), package(file), file, edit.apply(file.read_bytes()))
        return run_tests(root, files, [Selection(ids, seconds)], before)


def judged() -> dict[tuple[str, str, str], str]:
    """(file, line before, line after) -> why no test can notice, kept by hand."""
    with Path(__file__).with_name("equivalent.tsv").open(encoding="utf-8") as file:
        return {(row[0], row[1], row[2]): row[3] for row in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE) if row}


def work_of(root: Path, edit: Edit, tests: list[Test] | None, item: str | None) -> partial[int] | None:
    """What tries an edit; None where no test runs it. Without a record: the files of its distribution."""
    if tests is None:
        return partial(trial, root, edit, nearest(root, edit), [], 3 * BUDGET)
    ids = [t.id for t in chosen_tests(edit, tests, item)]
    files = list(dict.fromkeys(id.partition("::")[0] for id in ids))
    return partial(trial, root, edit, files, ids, 3 * BUDGET) if ids else None


def outcomes(root: Path, chosen: list[Edit], tests: list[Test] | None, jobs: int, item: str | None) -> Iterator[dict[str, Any]]:
    """What became of each edit, as they end."""
    equivalent, work = judged(), list[Any]()
    for edit in chosen:
        before, after = edit.lines((root / edit.path).read_bytes())
        result = {
            **asdict(edit),
            "before": before,
            "after": after,
            "by": "",
            "reason": equivalent.get((edit.path, before, after), ""),
        }
        job = None if result["reason"] else work_of(root, edit, tests, item)
        if job is None:
            yield {**result, "outcome": "equivalent" if result["reason"] else "untested"}
        else:
            work.append((result, job, 6 * BUDGET + 60))
    with tempfile.TemporaryDirectory() as scratch:
        for result, code, text in finished(work, Path(scratch), jobs):
            by = [line for line in text.splitlines() if line.startswith(("FAILED", "ERROR", "E  "))]
            yield {**result, "outcome": NOTICED.get(code, "caught"), "by": by[-1] if by else f"exit {code}"}


def claiming(file: Path, item: str) -> bool:
    """Whether a class of a file names a number of docs/monograph.md in its `items`."""
    nodes = [
        n for n in ast.walk(ast.parse(file.read_bytes())) if isinstance(n, ast.Assign | ast.AnnAssign) and n.value is not None
    ]
    named = [n for n in nodes if "items" in ast.unparse(n.targets[0] if isinstance(n, ast.Assign) else n.target)]
    return any(isinstance(c, ast.Constant) and c.value == item for n in named for c in ast.walk(n))


def table(results: list[dict[str, Any]]) -> str:
    """Caught, survived and equivalent by distribution and by kind, then every survivor."""
    parts: list[str] = []
    for head, of in (("scope", lambda r: scope(r["path"])), ("kind of edit", lambda r: r["kind"]), ("all", lambda r: "all")):
        parts += [f"| {head} | caught | not caught | equivalent |", "|---|---|---|---|"]
        counts = Counter((of(r), {"untested": "survived"}.get(r["outcome"], r["outcome"])) for r in results)
        names = sorted({name for name, _ in counts})
        parts += [f"| {n} | {counts[n, 'caught']} | {counts[n, 'survived']} | {counts[n, 'equivalent']} |" for n in names] + [""]
    for r in sorted(results, key=lambda r: (r["outcome"], r["path"], r["line"])):
        if r["outcome"] != "caught":
            parts += [
                f"{r['outcome']}: {r['path']}:{r['line']} ({r['kind']}) {r['reason']}",
                f"  {r['before']}",
                f"  {r['after']}",
            ]
    return "\n".join(parts)


def arguments(given: list[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(prog="python -m tools.mutate", description=__doc__)
    parser.add_argument("paths", nargs="*", help="files or folders to edit; the numerics of core and plugins where none is named")
    parser.add_argument("-n", type=int, default=50, help="how many edits, 0 for all (a night)")
    parser.add_argument("--seed", type=int, default=1, help="which edits")
    parser.add_argument("--kind", action="append", help="only edits of this kind, may be repeated")
    parser.add_argument("--item", help="only files that claim this number of docs/monograph.md, and only tests marked with it")
    parser.add_argument("--unrecorded", action="store_true", help="do not record which tests run which lines: try whole files")
    parser.add_argument("--again", type=Path, help="the edits of an earlier --out that were not caught")
    parser.add_argument("--out", type=Path, default=ROOT / ".mutate" / "last.json", help="the results, as JSON")
    parser.add_argument("--jobs", type=int, default=2, help="how many at once")
    return parser.parse_args(given)


def main(given: list[str], root: Path = ROOT) -> int:
    """Draw, plant, report; the exit code is 1 where an edit was not caught."""
    options = arguments(given)
    os.environ["OMP_NUM_THREADS"] = "1"
    for name in HEAVY:
        importlib.import_module(name)
    tests = None if options.unrecorded else recorded(root, options.jobs)
    files = [f for f in sources(root, options.paths) if options.item is None or claiming(f, options.item)]
    chosen = drawn(files, root, options.n, options.seed, lambda e: not options.kind or e.kind in options.kind)
    if options.again:
        names = Edit.__dataclass_fields__
        kept = [r for r in json.loads(options.again.read_text()) if r["outcome"] in {"survived", "untested"}]
        chosen = [Edit(**{k: r[k] for k in names}) for r in kept]
    results: list[dict[str, Any]] = []
    for result in outcomes(root, chosen, tests, options.jobs, options.item):
        results.append(result)
        print(f"{len(results)}/{len(chosen)} {result['outcome']} {result['path']}:{result['line']} {result['kind']}", flush=True)
        options.out.write_text(json.dumps(results, indent=1))
    print(table(results))
    return int(any(r["outcome"] in {"survived", "untested"} for r in results))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
