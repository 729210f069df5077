"""What the commands of plugins are written with: the options, the arguments and the printing of those of the core. No torch.

    @command("parameters")
    @run_argument
    @json_option
    def parameters(run: str, as_json: bool) -> None:
        pipeline, folder = model_of(run)
        ...

`command` makes a click command with the option -v. `run_argument` gives `run`, `set_option` gives `overrides`, `device_option`
gives `device`, `json_option` gives `as_json`. A `diffcore.DiffcoreError` that a command raises ends it with one line and exit
code 2. `main` is the whole command line, for tests with `click.testing.CliRunner`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diffcore.cli import main
from diffcore.cli.group import command, json_option, run_argument, set_option
from diffcore.cli.output import number, print_json, print_table
from diffcore.cli.runs import device_option
from diffcore.specs.registry import Registry

if TYPE_CHECKING:
    from diffcore.run.pipeline import Pipeline

__all__ = [
    "command",
    "device_option",
    "json_option",
    "main",
    "model_of",
    "number",
    "print_json",
    "print_table",
    "run_argument",
    "set_option",
]


def model_of(
    run: str, overrides: Sequence[str] = (), device: str | None = None, registry: Registry | None = None
) -> tuple[Pipeline, Path]:
    """The pipeline of a run, a weights file, or a spec that was trained (or needs no training), and the folder of its run.

    Raises what a missing or damaged run does, and `SpecError` for a spec that is not trained yet.
    """
    from diffcore.run.opening import model_of

    return model_of(run, Registry.load() if registry is None else registry, tuple(overrides), device)
