"""What it costs to start: `import diffcore` beside `import torch`, and `diffcore plugins` beside a bare interpreter.

    python benchmarks/startup.py [--rounds N]

Whole processes, one after the other in every round; processor seconds (user and system) of each child. The numerics are
loaded by the first use of a name such as `dc.sample`, so that is timed as well.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys

from common import publish, table

COMMANDS = {
    "python": ["-c", "pass"],
    "import torch": ["-c", "import torch"],
    "import torch; import diffcore": ["-c", "import torch; import diffcore"],
    "import torch; from diffcore import sample": ["-c", "import torch; from diffcore import sample"],
    "diffcore plugins": ["-m", "diffcore", "plugins"],
}
BASES = dict.fromkeys(COMMANDS, "python") | dict.fromkeys(
    [name for name in COMMANDS if name.startswith("import")], "import torch"
)


def child(arguments: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12, help="processes of each kind")
    rounds = parser.parse_args().rounds
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for round in range(rounds + 1):
        for name, arguments in COMMANDS.items():
            value = child(arguments)
            if round:  # the first only warms the file cache
                seconds[name].append(value)
    results = {}
    for name, values in seconds.items():
        base = seconds[BASES[name]]
        results[name] = {
            "min_s": min(values),
            "median_s": statistics.median(values),
            "over": BASES[name],
            "ratio": statistics.median(a / b for a, b in zip(values, base, strict=True)),
            "difference_s": statistics.median(a - b for a, b in zip(values, base, strict=True)),
        }
    rows = [
        [
            f"`{name}`",
            f"{r['min_s']:.2f}",
            f"{r['median_s']:.2f}",
            f"{r['difference_s']:+.2f} s, {r['ratio']:.2f}x of {r['over']}",
        ]
        for name, r in results.items()
    ]
    publish("startup", {"results": results}, table(["processor seconds", "min", "median", "over its base (median)"], rows))


if __name__ == "__main__":
    main()
