"""What it costs to start: `import diffcore` beside `import torch`, and `diffcore plugins` beside a bare interpreter.

    python benchmarks/startup.py [--rounds N] [--write]

Whole processes, one after the other in every round; processor seconds (user and system) of each child. The numerics are
loaded by the first use of a name such as `dc.sample`, so that is timed as well.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys

from common import arguments, publish, table

COMMANDS = {
    "python": ["-c", "pass"],
    "import torch": ["-c", "import torch"],
    "import torch; import diffcore": ["-c", "import torch; import diffcore"],
    "import torch; from diffcore import sample": ["-c", "import torch; from diffcore import sample"],
    "diffcore plugins": ["-m", "diffcore", "plugins"],
}


def child(arguments: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def cell(results: dict[str, dict[str, float]], name: str, key: str) -> str:
    """Seconds, beside what the process costs without us."""
    value, torch, bare = (results[which][key] for which in (name, "import torch", "python"))
    return f"{value:.2f}, {value / torch:.2f}x of torch" if "torch;" in name else f"{value:.2f}, {value - bare:+.2f} over python"


def main() -> None:
    options = arguments(__doc__, 12)
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for round in range(options.rounds + 1):
        for name, command in COMMANDS.items():
            value = child(command)
            if round:  # the first only warms the file cache
                seconds[name].append(value)
    results = {name: {"min_s": min(values), "median_s": statistics.median(values)} for name, values in seconds.items()}
    rows = [[f"`{name}`", *(cell(results, name, key) for key in ("min_s", "median_s"))] for name in results]
    publish("startup", {"results": results}, table(["processor seconds", "minimum", "median"], rows), options.write)


if __name__ == "__main__":
    main()
