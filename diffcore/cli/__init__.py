"""The command line. Commands are imported when they are called, so that help, listings and mistakes cost no import of torch."""

from __future__ import annotations

import click

import diffcore
from diffcore.cli.group import LazyGroup, verbose_option
from diffcore.run import waiting

COMMANDS = {
    "plugins": ("catalogue:plugins", "Installed plugins: version, status, components, and why one is not loaded."),
    "list": ("catalogue:list_components", "Installed components, of one kind or of all."),
    "show": ("show:show", "One component: fields, source, what it needs and fits, an example."),
    "check": ("specs:check", "Every fault of a spec, with file, line and column."),
    "explain": ("specs:explain", "The assembled pipeline, its time grid and its cost."),
    "schema": ("specs:schema", "JSON Schema of all installed components, for editors."),
    "run": ("runs:run", "Train, sample, measure and report: the whole spec."),
    "train": ("runs:train", "Train only."),
    "sample": ("runs:sample", "Sample from a run or a weights file."),
    "evaluate": ("runs:evaluate", "Measure a run again."),
    "calibrate": ("runs:calibrate", "Calibrate the solvers of a run that need it to its model."),
    "bench": ("bench:bench", "Compare solvers on a trained model, error against network calls."),
    "trajectory": ("bench:trajectory", "Draw the states of a run on their way, and the error of every step."),
    "compare": ("runs:compare", "Put several runs side by side."),
    "new": ("new:new", "Write a new plugin that passes its conformance tests."),
    "conform": ("conform:conform", "Run the conformance kit on an installed component or distribution."),
}


@click.group(cls=LazyGroup, package="diffcore.cli", table=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(diffcore.__version__, prog_name="diffcore")
@verbose_option
def main() -> None:
    """Diffusion models from interchangeable parts: any process, prediction, solver and guidance that fit together.

    Exit code: 0 done, 1 a run failed, 2 a mistake in what was asked.
    """
    waiting.settle()
