"""Interleaved timing, the facts of the machine, and tables: what all benchmarks share."""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

HERE = Path(__file__).parent
PACKAGES = ("diffcore", "torch", "diffusers", "k-diffusion", "azula", "flow_matching", "torchcfm", "torchdiffeq", "numpy")


def interleave(
    runs: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.process_time
) -> dict[str, list[float]]:
    """Seconds of every run in every round, the runs of a round one after the other.

    By default the processor time of this process: on a shared machine the clock on the wall also counts the neighbours.
    """
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, run in runs.items():
                start = clock()
                run()
                seconds[name].append(clock() - start)
    finally:
        gc.enable()
    return seconds


def summary(seconds: Mapping[str, Sequence[float]], base: str, per: float = 1.0) -> dict[str, dict[str, float]]:
    """Minimum and median in microseconds per `per`, and the ratio to `base`: median over rounds, and of the minima."""
    floor = seconds[base]
    return {
        name: {
            "min_us": min(values) / per * 1e6,
            "median_us": statistics.median(values) / per * 1e6,
            "ratio": statistics.median(a / b for a, b in zip(values, floor, strict=True)),
            "ratio_of_min": min(values) / min(floor),
        }
        for name, values in seconds.items()
    }


def machine() -> dict[str, object]:
    """Versions, date, cores, load and threads."""
    import torch

    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "python": platform.python_version(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": [round(value, 1) for value in os.getloadavg()],
        "versions": {name: _version(name) for name in PACKAGES},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows])


def arguments(doc: str | None, rounds: float) -> argparse.Namespace:
    """The command line of every benchmark."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=type(rounds), default=rounds, help=f"how long to measure (default {rounds})")
    parser.add_argument("--write", action="store_true", help="store the result in results/ and README.md")
    return parser.parse_args()


def publish(name: str, result: Mapping[str, object], text: str, write: bool) -> None:
    """Print; where asked, write results/<name>.json and replace the section of that name in README.md."""
    facts = machine()
    versions = ", ".join(f"{k} {v}" for k, v in facts["versions"].items())
    text = (
        f"{text}\n\n{facts['date']}; Python {facts['python']}; {facts['processor']}, {facts['cores']} cores, "
        f"{facts['threads']} thread(s), load {facts['load'][0]}. {versions}."
    )
    print(text, flush=True)
    if not write:
        return
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / f"{name}.json").write_text(json.dumps({**facts, **result}, indent=1) + "\n")
    readme = HERE / "README.md"
    before, begin, rest = readme.read_text().partition(f"<!-- {name} -->\n")
    _, end, after = rest.partition(f"<!-- /{name} -->")
    if begin and end:
        readme.write_text(f"{before}{begin}\n{text}\n\n{end}{after}")
