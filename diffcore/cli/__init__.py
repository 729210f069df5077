"""The command line. Commands are imported when they are called, so that help, listings and mistakes cost no import of torch."""

from __future__ import annotations

import click

import diffcore
from diffcore.cli.group import verbose_option
from diffcore.cli.plugged import PluggedGroup
from diffcore.cli.table import COMMANDS
from diffcore.run import waiting


@click.group(cls=PluggedGroup, package="diffcore.cli", table=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(diffcore.__version__, prog_name="diffcore")
@verbose_option
def main() -> None:
    """Diffusion models from interchangeable parts: any process, prediction, solver and guidance that fit together.

    Exit code: 0 done, 1 a run failed, 2 a mistake in what was asked.
    """
    waiting.settle()
