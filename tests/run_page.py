"""Run one page of documentation: `python run_page.py PAGE FOLDER` works in FOLDER and exits with 1 at the first thing untrue.

`--cold` at the end imports nothing beforehand, which is faster where a page needs no torch.

Files are written, commands and Python run in order, shown output is compared. A fence says more after its language:
`file=PATH` (write the block there), `fails=CODE` (the exit code to expect), `quick` (every `diffcore run` with few steps).

A command of diffcore, and Python, is a fork of this process, which has imported torch once; all else goes to the shell.
"""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```", re.M | re.S)
WARM = (
    "torch",
    "diffcore.cli.runs",
    "diffcore.run.runs",
    "diffcore.run.report.page",
    "diffcore.specs.json_schema",
    "diffcore.testing.suite",
)
QUICK = ("trainer.steps=2", "trainer.batch=4", "sampling.n=4", "evaluation.n=4", "solver.steps=2")
PIP = """#!/bin/sh
case "$1 $2" in
  "install -e") exec uv pip install --quiet --offline --no-deps --target "{site}" "./$3" ;;
  "install "*) exec uv pip install --quiet --offline --no-deps --target "{site}" "$2" ;;
  "wheel --no-deps") exec uv build --quiet --offline --wheel --out-dir "$4" "$5" ;;
esac
echo "a page uses pip in a way that the tests do not know: $*"; exit 1
"""


def option(text: str, name: str) -> str:
    found = re.search(rf"\b{name}=(\S+)", text)
    return found[1] if found else ""


def matches(shown: str, output: str) -> bool:
    """Every shown line stands in the output, in order; `...` stands for anything within a line."""
    position = 0
    for line in shown.strip().splitlines():
        pattern = ".*".join(re.escape(part) for part in line.strip().split("..."))
        found = re.compile(pattern).search(output, position)
        if not found:
            return False
        position = found.end()
    return True


def forked(work: Callable[[], object]) -> tuple[int, str]:
    """Exit code and output of `work` in a fork of this process."""
    shown = Path(".output")
    with shown.open("w+") as file:
        child = os.fork()
        if child == 0:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            os._exit(_finished(work))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code, shown.read_text()


def _finished(work: Callable[[], object]) -> int:
    importlib.invalidate_caches()
    code = 0
    try:
        work()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def diffcore(line: str) -> tuple[int, str]:
    from diffcore.cli import main

    sys.argv = shlex.split(line, comments=True)
    return forked(main)


def shell(line: str) -> tuple[int, str]:
    done = subprocess.run(line, shell=True, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def commands(body: str, quick: bool) -> tuple[int, str]:
    """The lines of a block one after the other, to the first that fails."""
    output = ""
    for line in body.strip().splitlines():
        if quick and line.startswith("diffcore run"):
            line += "".join(f" --set {change}" for change in QUICK)
        own = line.startswith("diffcore ") and not set("|<>&;") & set(line)
        code, said = diffcore(line) if own else shell(line)
        output += said
        if code:
            return code, output
    return 0, output


class Page:
    """The blocks of a page run so far: all Python, and what the last command printed."""

    def __init__(self) -> None:
        self.python, self.pending, self.output = "", False, ""

    def run(self, kind: str, options: str, body: str) -> None:
        if option(options, "file"):
            target = Path(option(options, "file"))
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(body)
        elif kind == "python":
            self.python, self.pending = self.python + body, True
        elif kind in ("sh", "text"):
            self.finish()
            self.shell(options, body) if kind == "sh" else self.compare(body)

    def finish(self) -> None:
        """Run the Python that has not run yet, after all that came before it."""
        if self.pending:
            code, self.output = forked(lambda: exec(compile(self.python, "<page>", "exec"), {"__name__": "__main__"}))
            self.pending = False
            if code:
                sys.exit(f"{self.python}\nexit {code}\n{self.output}")

    def shell(self, options: str, body: str) -> None:
        code, self.output = commands(body, "quick" in options.split())
        if code != int(option(options, "fails") or 0):
            sys.exit(f"{body}\nexit {code}\n{self.output}")

    def compare(self, body: str) -> None:
        if not matches(body, self.output):
            sys.exit(f"the page shows\n{body}\nbut this was printed\n{self.output}")


def main(page: str, folder: str, cold: str = "") -> None:
    """Run the page."""
    text = Path(page).read_text()
    os.chdir(folder)
    for name in ("bin", "site"):
        Path(name).mkdir()
    Path("bin/pip").write_text(PIP.format(site=Path("site").resolve()))
    Path("bin/pip").chmod(0o755)
    sys.path.insert(0, str(Path("site").resolve()))
    os.environ["PATH"] = os.pathsep.join([str(Path("bin").resolve()), str(Path(sys.executable).parent), os.environ["PATH"]])
    os.environ["PYTHONPATH"] = sys.path[0]
    for module in () if cold else WARM:
        importlib.import_module(module)
    Path("work").mkdir()
    os.chdir("work")
    running = Page()
    for block in BLOCK.findall(text):
        running.run(*block)
    running.finish()


if __name__ == "__main__":
    sys.path.pop(0)
    main(*sys.argv[1:])
